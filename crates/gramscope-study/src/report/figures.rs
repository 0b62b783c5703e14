//! Results that the page shows as the pictures that lie beside them, a section a kind.

use std::path::{Path, PathBuf};

use super::{of_ablations, of_probes};
use crate::ablate::{self, AblateResult};
use crate::cosine::{self, CosineResult};
use crate::dominant::{self, Dominant};
use crate::epochs::{self, EpochsResult};
use crate::mean::{self, Mean};
use crate::pcs::{self, PcsInfo, PcsResult};
use crate::predict::{self, PredictResult};
use crate::probe::{self, ProbeResult};
use crate::sparsity::{self, Sparsity};
use crate::studies::{self, StudyInfo};
use crate::{Error, Result, Saved};
use gramscope_train::reading;

/// The sections, in their order on the page.
pub(super) const SECTIONS: [Section; 10] = [
    Section::of::<StudyInfo>(),
    Section::of::<Mean>(),
    Section::of::<PcsResult>(),
    Section::of::<Dominant>(),
    Section::of::<CosineResult>(),
    Section::of::<EpochsResult>(),
    Section::of::<PredictResult>(),
    Section::of::<Sparsity>(),
    Section::of::<ProbeResult>(),
    Section::of::<AblateResult>(),
];

/// A kind of result on the page.
pub(super) struct Section {
    pub(super) title: &'static str,
    /// What there is to see.
    pub(super) text: &'static str,
    captions: fn(&Path) -> Result<Vec<Caption>>,
}

/// A kind of result that has a section.
pub(super) trait Shown: Saved {
    const TITLE: &'static str;
    /// What there is to see.
    const TEXT: &'static str;

    /// What is said of the pictures that it has, in their order on the page.
    fn captions(&self) -> Vec<Caption>;
}

/// What is said of a picture.
pub(super) struct Caption {
    /// Its file.
    picture: &'static str,
    /// What it is of.
    title: String,
    /// What can be said of it in words.
    summary: String,
    /// What it was made to find out: it is shown at its full width, and these below it.
    findings: Vec<String>,
}

impl Caption {
    fn new(picture: &'static str, title: String, summary: String) -> Self {
        Self { picture, title, summary, findings: Vec::new() }
    }
}

/// A picture with what is said of it.
#[derive(Debug)]
pub(super) struct Figure {
    /// Which of [`SECTIONS`] it is in.
    pub(super) section: usize,
    /// What it is of.
    pub(super) title: String,
    /// What can be said of it in words.
    pub(super) summary: String,
    /// What it was made to find out.
    pub(super) findings: Vec<String>,
    /// Its directory.
    pub(super) place: PathBuf,
    /// A PNG file.
    pub(super) picture: Vec<u8>,
}

impl Section {
    const fn of<R: Shown>() -> Self {
        Self { title: R::TITLE, text: R::TEXT, captions: captions::<R> }
    }
}

/// The figures of the results in `dir`; what cannot be read is left out, with a warning.
pub(super) fn of_directory(dir: &Path) -> Vec<Figure> {
    let mut figures = Vec::new();
    for (index, section) in SECTIONS.iter().enumerate() {
        let captions = warned((section.captions)(dir)).unwrap_or_default();
        figures.extend(captions.into_iter().filter_map(|caption| warned(figure(index, caption, dir))));
    }
    figures
}

/// What was read; nothing, with a warning, where that failed.
pub(super) fn warned<T>(read: Result<T>) -> Option<T> {
    read.map_err(|reason| tracing::warn!("left out of the report: {reason}")).ok()
}

/// Those of the result of this kind in `dir`, if there is one.
fn captions<R: Shown>(dir: &Path) -> Result<Vec<Caption>> {
    // Without its description a file of numbers may be anybody's.
    let is_described = R::SEALED.last().is_some_and(|name| dir.join(name).is_file());
    if is_described { Ok(R::load(dir)?.captions()) } else { Ok(Vec::new()) }
}

fn figure(section: usize, caption: Caption, dir: &Path) -> Result<Figure> {
    let path = dir.join(caption.picture);
    let picture = reading::read(&path).map_err(Error::io("read", &path))?;
    if !picture.starts_with(b"\x89PNG\r\n\x1a\n") {
        return Err(Error::file(&path, "not a PNG file"));
    }
    let Caption { title, summary, findings, .. } = caption;
    Ok(Figure { section, title, summary, findings, place: dir.to_owned(), picture })
}

impl Shown for StudyInfo {
    const TITLE: &'static str = "Studies";
    const TEXT: &'static str =
        "A figure of the paper each, at the scale that stands in it; below it, what was found here.";

    fn captions(&self) -> Vec<Caption> {
        let reported = self.reported.as_ref();
        let summary = reported.map_or_else(String::new, |reported| format!("The paper reports: {reported} Here:"));
        let findings = self.findings.clone();
        vec![Caption { findings, ..Caption::new(studies::FIGURE, self.title.clone(), summary) }]
    }
}

impl Shown for Mean {
    const TITLE: &'static str = "Means over networks";
    const TEXT: &'static str =
        "Mean CKA of the same layers over several networks or pairs of networks, and its variance, entry by entry.";

    fn captions(&self) -> Vec<Caption> {
        let info = &self.info;
        let first = &info.maps[0];
        let title = match (info.maps.len(), first.model_x == first.model_y) {
            (count, true) => format!("{} and {} more", first.model_x, count - 1),
            (count, false) => format!("{} x {} and {} more", first.model_x, first.model_y, count - 1),
        };
        let of = format!("of {} maps of {} x {} layers", info.maps.len(), info.layers_x.len(), info.layers_y.len());
        let pictures = [(mean::PICTURE, "mean"), (mean::VARIANCE_PICTURE, "variance")];
        let caption = |(picture, what)| Caption::new(picture, title.clone(), format!("{what} {of}"));
        pictures.into_iter().map(caption).collect()
    }
}

impl Shown for PcsResult {
    const TITLE: &'static str = "First principal components";
    const TEXT: &'static str = "Of each network: CKA between its layers, the fraction of the variance that each layer's first principal \
         component explains, the squared cosine between first components, and CKA without them.";

    fn captions(&self) -> Vec<Caption> {
        let summary = components_summary(&self.info, &self.similarity.variance_explained);
        vec![Caption::new(pcs::PICTURE, self.info.model.clone(), summary)]
    }
}

fn components_summary(info: &PcsInfo, fractions: &[f64]) -> String {
    let fractions = fractions.iter().zip(&info.layers).filter(|(fraction, _)| !fraction.is_nan());
    let largest = fractions.max_by(|a, b| a.0.total_cmp(b.0)).map_or_else(
        || "every layer is constant".to_owned(),
        |(fraction, layer)| {
            format!("the first component explains most in {layer}: {:.1}% of its variance", 100.0 * fraction)
        },
    );
    let unclear = match info.ill_defined.len() {
        0 => String::new(),
        1 => "; that of 1 layer is not well defined".to_owned(),
        count => format!("; those of {count} layers are not well defined"),
    };
    format!("{} layers over {} examples; {largest}{unclear}", info.layers.len(), info.examples)
}

impl Shown for Dominant {
    const TITLE: &'static str = "Dominant images";
    const TEXT: &'static str = "Of each network: the test images with the largest projections, of either sign, on the first principal \
         component of a layer.";

    fn captions(&self) -> Vec<Caption> {
        let info = &self.info;
        let summary = format!(
            "{} of {} images; the first component of {} explains {:.1}% of its variance",
            info.dominant.len(),
            info.examples,
            info.layer,
            100.0 * info.variance_explained
        );
        vec![Caption::new(dominant::PICTURE, info.model.clone(), summary)]
    }
}

impl Shown for CosineResult {
    const TITLE: &'static str = "Cosine similarity";
    const TEXT: &'static str = "Of each network: the cosine between its layers of one shape, coordinate by coordinate and not centred, \
         from -1 in black to 1; grey: layers of different shapes. Residual connections hand coordinates on.";

    fn captions(&self) -> Vec<Caption> {
        vec![Caption::new(cosine::PICTURE, self.info.model.clone(), self.summary())]
    }
}

impl Shown for EpochsResult {
    const TITLE: &'static str = "Over training";
    const TEXT: &'static str = "Of each network, from epoch to epoch: how like each layer is to itself at the end, what its first \
         principal component explains, and whole maps of some epochs against the end.";

    fn captions(&self) -> Vec<Caption> {
        let info = &self.info;
        let first = &self.layers_with_themselves()[..info.layers.len()];
        let defined = first.iter().filter(|value| !value.is_nan());
        let (sum, count) = defined.fold((0.0, 0), |(sum, count), value| (sum + value, count + 1));
        let summary = format!(
            "{} epochs; after epoch {} the mean CKA of a layer with itself at the end is {:.3}",
            info.epochs.len(),
            info.epochs[0],
            sum / f64::from(count)
        );
        vec![Caption::new(epochs::PICTURE, info.model.clone(), summary)]
    }
}

/// How alike predictions are, and accuracy image by image and class by class, where there is something to compare.
impl Shown for PredictResult {
    const TITLE: &'static str = "Predictions";
    const TEXT: &'static str = "Networks that differ in their seed alone are a group. How alike their predictions are; accuracy on \
         single images, of one group against another and, to show what is chance, of two halves of one; accuracy by class.";

    fn captions(&self) -> Vec<Caption> {
        let info = &self.info;
        let size = format!("{} runs in {} groups, {} test images", info.runs.len(), info.groups.len(), info.images);
        let caption = |picture, title: &str, summary: String| Caption::new(picture, title.to_owned(), summary);
        let mut captions =
            vec![caption(predict::MAPS_PICTURE, "How alike they are", predict::sentences(self).join(" "))];
        if info.between.is_some() || info.halves.is_some() {
            captions.push(caption(predict::EXAMPLES_PICTURE, "Image by image", size.clone()));
        }
        if info.between.is_some() {
            captions.push(caption(predict::CLASSES_PICTURE, "Class by class", size));
        }
        captions
    }
}

impl Shown for Sparsity {
    const TITLE: &'static str = "Sparsity";
    const TEXT: &'static str =
        "Of each network: how much of every ReLU's output is zero, and how many of its units are zero for every image.";

    fn captions(&self) -> Vec<Caption> {
        vec![Caption::new(sparsity::PICTURE, self.info.model.clone(), self.summary())]
    }
}

impl Shown for ProbeResult {
    const TITLE: &'static str = "Linear probes";
    const TEXT: &'static str = "How well the classes can be read off each layer of a frozen network by a linear classifier, right before \
         and right after each residual connection; blue lines part the stages.";

    fn captions(&self) -> Vec<Caption> {
        vec![Caption::new(probe::PICTURE, self.info.model.clone(), of_probes(self))]
    }
}

impl Shown for AblateResult {
    const TITLE: &'static str = "Deleted blocks";
    const TEXT: &'static str = "Test accuracy when the last blocks of one stage are deleted: their shortcuts stay, and nothing is \
         trained anew.";

    fn captions(&self) -> Vec<Caption> {
        vec![Caption::new(ablate::PICTURE, self.info.model.clone(), of_ablations(self))]
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::fs;

    use super::*;
    use crate::{pcs, predict};

    /// Of one figure without its picture, and of numbers without their description, the others know nothing.
    #[test]
    fn what_cannot_be_shown_costs_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        predict::tests::made("one").write(dir.path()).unwrap();
        pcs::tests::made("one").write(dir.path()).unwrap();
        let titles = || of_directory(dir.path()).into_iter().map(|figure| figure.title).collect::<Vec<_>>();
        assert_eq!(titles(), ["one", "How alike they are", "Image by image", "Class by class"]);
        fs::remove_file(dir.path().join(predict::MAPS_PICTURE)).unwrap();
        fs::write(dir.path().join(predict::CLASSES_PICTURE), "no picture").unwrap();
        assert_eq!(titles(), ["one", "Image by image"]);
        fs::remove_file(dir.path().join(pcs::INFO)).unwrap();
        assert_eq!(titles(), ["Image by image"]);
    }
}
