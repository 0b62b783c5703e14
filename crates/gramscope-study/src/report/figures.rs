//! Results that the page shows as the pictures that lie beside them, a section a kind.

use std::fs;
use std::path::{Path, PathBuf};

use super::{of_ablations, of_probes};
use crate::pcs::PcsInfo;
use crate::{Error, Result, ablate, cosine, dominant, epochs, mean, pcs, predict, probe, sparsity, studies};

/// The sections, in their order on the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Study,
    Mean,
    Components,
    Dominant,
    Cosines,
    Epochs,
    Predictions,
    Sparsity,
    Probes,
    Ablations,
}

impl Kind {
    pub(super) const ALL: [Self; 10] = [
        Self::Study,
        Self::Mean,
        Self::Components,
        Self::Dominant,
        Self::Cosines,
        Self::Epochs,
        Self::Predictions,
        Self::Sparsity,
        Self::Probes,
        Self::Ablations,
    ];

    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Study => "Studies",
            Self::Mean => "Means over networks",
            Self::Components => "First principal components",
            Self::Dominant => "Dominant images",
            Self::Cosines => "Cosine similarity",
            Self::Epochs => "Over training",
            Self::Predictions => "Predictions",
            Self::Sparsity => "Sparsity",
            Self::Probes => "Linear probes",
            Self::Ablations => "Deleted blocks",
        }
    }

    /// What there is to see.
    pub(super) fn text(self) -> &'static str {
        match self {
            Self::Study => "A figure of the paper each, at the scale that stands in it; below it, what was found here.",
            Self::Mean => {
                "Mean CKA of the same layers over several networks or pairs of networks, and its variance, entry by entry."
            }
            Self::Components => {
                "Of each network: CKA between its layers, the fraction of the variance that each layer's first principal \
                 component explains, the squared cosine between first components, and CKA without them."
            }
            Self::Dominant => {
                "Of each network: the test images with the largest projections, of either sign, on the first principal component of a \
                 layer."
            }
            Self::Cosines => {
                "Of each network: the cosine between its layers of one shape, coordinate by coordinate and not centred, from -1 \
                 in black to 1; grey: layers of different shapes. Residual connections hand coordinates on."
            }
            Self::Epochs => {
                "Of each network, from epoch to epoch: how like each layer is to itself at the end, what its first principal \
                 component explains, and whole maps of some epochs against the end."
            }
            Self::Predictions => {
                "Networks that differ in their seed alone are a group. How alike their predictions are; accuracy on single \
                 images, of one group against another and, to show what is chance, of two halves of one; accuracy by class."
            }
            Self::Sparsity => {
                "Of each network: how much of every ReLU's output is zero, and how many of its units are zero for every image."
            }
            Self::Probes => {
                "How well the classes can be read off each layer of a frozen network by a linear classifier, right before and \
                 right after each residual connection; blue lines part the stages."
            }
            Self::Ablations => {
                "Test accuracy when the last blocks of one stage are deleted: their shortcuts stay, and nothing is trained anew."
            }
        }
    }

    /// The file that makes a directory one of such a result.
    fn mark(self) -> &'static str {
        match self {
            Self::Study => studies::INFO,
            Self::Mean => mean::MEAN,
            Self::Components => pcs::INFO,
            Self::Dominant => dominant::INFO,
            Self::Cosines => cosine::INFO,
            Self::Epochs => epochs::INFO,
            Self::Predictions => predict::INFO,
            Self::Sparsity => sparsity::INFO,
            Self::Probes => probe::INFO,
            Self::Ablations => ablate::INFO,
        }
    }

    /// The figures of the result in `dir`: one, or several where it has several pictures.
    fn figures(self, dir: &Path) -> Result<Vec<Figure>> {
        let one = match self {
            Self::Study => study(dir),
            Self::Mean => return means(dir),
            Self::Components => components(dir),
            Self::Dominant => dominant(dir),
            Self::Cosines => cosines(dir),
            Self::Epochs => over_training(dir),
            Self::Predictions => return predictions(dir),
            Self::Sparsity => sparse(dir),
            Self::Probes => probes(dir),
            Self::Ablations => ablations(dir),
        };
        one.map(|figure| vec![figure])
    }
}

/// A picture with what is said of it.
#[derive(Debug)]
pub(super) struct Figure {
    pub(super) kind: Kind,
    /// What it is of.
    pub(super) title: String,
    /// What can be said of it in words.
    pub(super) summary: String,
    /// Its directory.
    pub(super) place: PathBuf,
    /// A PNG file.
    pub(super) picture: Vec<u8>,
}

/// The figures of the results in `dir`; what cannot be read is left out, with a warning.
pub(super) fn of_directory(dir: &Path) -> Vec<Figure> {
    let mut figures = Vec::new();
    for kind in Kind::ALL.into_iter().filter(|kind| dir.join(kind.mark()).is_file()) {
        match kind.figures(dir) {
            Ok(found) => figures.extend(found),
            Err(reason) => tracing::warn!("left out of the report: {reason}"),
        }
    }
    figures
}

fn figure(kind: Kind, (title, summary): (String, String), dir: &Path, picture: &str) -> Result<Figure> {
    let path = dir.join(picture);
    let picture = fs::read(&path).map_err(Error::io("read", &path))?;
    if !picture.starts_with(b"\x89PNG\r\n\x1a\n") {
        return Err(Error::file(&path, "not a PNG file"));
    }
    Ok(Figure { kind, title, summary, place: dir.to_owned(), picture })
}

fn study(dir: &Path) -> Result<Figure> {
    let info = studies::load(dir)?;
    let reported = info.reported.map_or_else(String::new, |reported| format!("The paper reports: {reported} Here: "));
    figure(Kind::Study, (info.title, reported + &info.findings.join(" ")), dir, studies::FIGURE)
}

/// Mean and variance.
fn means(dir: &Path) -> Result<Vec<Figure>> {
    let info = mean::load(dir)?.info;
    let first = &info.maps[0];
    let title = match (info.maps.len(), first.model_x == first.model_y) {
        (count, true) => format!("{} and {} more", first.model_x, count - 1),
        (count, false) => format!("{} x {} and {} more", first.model_x, first.model_y, count - 1),
    };
    let of = format!("of {} maps of {} x {} layers", info.maps.len(), info.layers_x.len(), info.layers_y.len());
    let pictures = [(mean::PICTURE, "mean"), (mean::VARIANCE_PICTURE, "variance")];
    pictures
        .map(|(picture, what)| figure(Kind::Mean, (title.clone(), format!("{what} {of}")), dir, picture))
        .into_iter()
        .collect()
}

fn dominant(dir: &Path) -> Result<Figure> {
    let (info, _) = dominant::load(dir)?;
    let summary = format!(
        "{} of {} images; the first component of {} explains {:.1}% of its variance",
        info.dominant.len(),
        info.examples,
        info.layer,
        100.0 * info.variance_explained
    );
    figure(Kind::Dominant, (info.model, summary), dir, dominant::PICTURE)
}

fn components(dir: &Path) -> Result<Figure> {
    let result = pcs::load(dir)?;
    let summary = components_summary(&result.info, &result.similarity.variance_explained);
    figure(Kind::Components, (result.info.model, summary), dir, pcs::PICTURE)
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

fn cosines(dir: &Path) -> Result<Figure> {
    let result = cosine::load(dir)?;
    let summary = result.summary();
    figure(Kind::Cosines, (result.info.model, summary), dir, cosine::PICTURE)
}

fn over_training(dir: &Path) -> Result<Figure> {
    let result = epochs::load(dir)?;
    let info = &result.info;
    let layers = info.layers.len();
    let first = &result.layers_with_themselves()[..layers];
    let defined = first.iter().filter(|value| !value.is_nan());
    let (sum, count) = defined.fold((0.0, 0), |(sum, count), value| (sum + value, count + 1));
    let summary = format!(
        "{} epochs; after epoch {} the mean CKA of a layer with itself at the end is {:.3}",
        info.epochs.len(),
        info.epochs[0],
        sum / f64::from(count)
    );
    figure(Kind::Epochs, (info.model.clone(), summary), dir, epochs::PICTURE)
}

fn probes(dir: &Path) -> Result<Figure> {
    let result = probe::load(dir)?;
    let summary = of_probes(&result);
    figure(Kind::Probes, (result.info.model, summary), dir, probe::PICTURE)
}

fn ablations(dir: &Path) -> Result<Figure> {
    let result = ablate::load(dir)?;
    let summary = of_ablations(&result);
    figure(Kind::Ablations, (result.info.model, summary), dir, ablate::PICTURE)
}

fn sparse(dir: &Path) -> Result<Figure> {
    let result = sparsity::load(dir)?;
    let summary = result.summary();
    figure(Kind::Sparsity, (result.info.model, summary), dir, sparsity::PICTURE)
}

/// How alike predictions are, and accuracy image by image and class by class, where there is something to compare.
fn predictions(dir: &Path) -> Result<Vec<Figure>> {
    let result = predict::load(dir)?;
    let info = &result.info;
    let sentences = predict::sentences(&result).join(" ");
    let size = format!("{} runs in {} groups, {} test images", info.runs.len(), info.groups.len(), info.images);
    let pictures = [
        (predict::MAPS_PICTURE, "How alike they are", sentences),
        (predict::EXAMPLES_PICTURE, "Image by image", size.clone()),
        (predict::CLASSES_PICTURE, "Class by class", size),
    ];
    let drawn = pictures.into_iter().filter(|(picture, ..)| dir.join(picture).is_file());
    drawn.map(|(picture, title, text)| figure(Kind::Predictions, (title.to_owned(), text), dir, picture)).collect()
}
