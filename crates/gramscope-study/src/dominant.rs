//! The examples that dominate a layer: those with the largest projection, of either sign, on its first principal component.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use gramscope_cka::{Comparison, Estimator, FirstComponent};
use gramscope_nn::Processor;
use gramscope_train::Run;
use gramscope_train::data::DataConfig;
use serde::{Deserialize, Serialize};

use crate::compare::{Feed, Limit, MemoryLimits, Model, Progress, TestImages, check_memory, forward_bytes, in_layer};
use crate::pair::DroppedDominant;
use crate::pcs::{EXAMPLES, components};
use crate::provenance::{ExampleSource, Versions};
use crate::saved::{Files, Saved, Staged};
use crate::{Error, Fewer, Result, Setting, plot};

/// File of the projections: a float64 array `projections` of \[n\], of every example on the component, in units of the activation.
/// Which sign is which means nothing.
pub const NUMBERS: &str = "dominant.npz";
/// File that names the examples.
pub const INFO: &str = "dominant.json";
/// File of their images.
pub const PICTURE: &str = "dominant.png";

const FILES: Files = Files { kind: "dominant examples", numbers: NUMBERS, info: INFO, arrays: &["projections"] };

/// Examples that are shown unless told otherwise.
const TOP: usize = 32;

/// Whose examples, and how many of them.
#[derive(Clone, Debug, Default)]
pub struct DominantOptions {
    /// How many test images are looked at, the first in order, class-balanced; 1,024, or all where there are fewer, unless
    /// told otherwise.
    pub examples: Option<usize>,
    /// The layer; unless told otherwise, that whose first component explains the largest fraction of the variance.
    pub layer: Option<String>,
    /// How many of them are shown; 32, or all where there are fewer, unless told otherwise.
    pub top: Option<usize>,
    /// Look at this data's test images instead of those of the data that the run was trained on.
    pub data: Option<DataConfig>,
    /// The memory that may be taken.
    pub memory: MemoryLimits,
}

/// The examples that dominate a layer, and their images.
#[derive(Clone, Debug)]
pub struct Dominant {
    /// Which they are.
    pub info: DominantInfo,
    /// Of every example that was looked at, on the layer's first component, in units of the activation.
    pub projections: Vec<f64>,
    /// Their images, [side, side, 3] bytes each, in the order of `info.dominant`; none of one that was read: they are in its picture.
    pub images: Vec<Vec<u8>>,
}

/// The examples that dominate a layer: dominant.json.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DominantInfo {
    /// Name of the run.
    pub model: String,
    /// Name of the layer.
    pub layer: String,
    /// Test images that were looked at, the first of the data in order.
    pub examples: usize,
    /// Fraction of the layer's variance that its first component explains.
    pub variance_explained: f64,
    /// l_2 / l_1: near 1, the component is not well defined, and neither are its examples.
    pub second_over_first: f64,
    /// The examples, largest absolute projection first.
    pub dominant: Vec<DominantExample>,
    /// Where the images came from.
    pub data: ExampleSource,
    /// What computed this.
    pub versions: Versions,
}

/// One of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DominantExample {
    /// Its place among the test images that were looked at, from 0: its column in `first_pc` of pcs.npz.
    pub index: usize,
    /// Its file, relative to the directory of the data, where an image is a file of its own. As text: where its name is not
    /// Unicode, what is not is replaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// Its label.
    pub label: u32,
    /// Its label's name.
    pub class: String,
    /// Its projection on the component, in units of the activation. Which sign is which means nothing.
    pub projection: f64,
    /// Its share of the sum of all squared projections.
    pub share: f64,
}

/// A layer's first component, and the examples in the order of their absolute projections on it.
pub(crate) struct Ranking {
    pub(crate) layer: String,
    pub(crate) component: FirstComponent,
    /// Largest first; of equal ones the first example.
    pub(crate) order: Vec<usize>,
}

impl Ranking {
    /// For the layer of this name, or else the one whose first component explains most (the first of equals), within
    /// `memory`.
    pub(crate) fn of(
        model: &Model,
        layer: Option<&str>,
        data: &TestImages,
        memory: MemoryLimits,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<Self> {
        let names = &model.info.layers;
        let what = format!("the first components of {} examples", data.len());
        let [workspace, _] = Comparison::workspace_bytes(data.len());
        let network = model.bytes() + forward_bytes(std::slice::from_ref(model), data.len(), false);
        check_memory(what, workspace + data.bytes() + network, memory.host, &[Fewer::Examples])?;
        let feed = Feed::new(data, std::slice::from_ref(model), memory.device)?;
        feed.most_at_once(&model.info.name, data.len()..=data.len(), &|images| Ok(model.device_bytes(images)))?;
        let images = feed.batch(&(0..data.len()).collect::<Vec<_>>())?;
        let chosen = layer.map(|name| position(name, &model.info.name, names)).transpose()?;
        // What is defined for the biased estimator is all that one component needs.
        let mut components = components(None, &model.info, data.len(), Estimator::Biased)?;
        let mut best: Option<(usize, FirstComponent)> = None;
        let (mut done, total) = (0, names.len());
        model.each_layer(&images, 0..total, &mut |layer, view| {
            if chosen.is_none_or(|chosen| chosen == layer)
                && let Some(found) = view.and_then(|view| components.first(layer, view)).map_err(in_layer(
                    &model.info.name,
                    &names[layer],
                    0,
                ))?
                && best.as_ref().is_none_or(|(_, best)| found.variance_explained > best.variance_explained)
            {
                best = Some((layer, found));
            }
            done += 1;
            progress(Progress { done, total, batch: 1, batches: 1, subject: &model.info.name });
            Ok(())
        })?;
        let Some((layer, component)) = best else {
            let (model, layer) = (&model.info.name, layer.unwrap_or("every layer"));
            return Err(Error::incomparable(format!(
                "{model}: {layer} is constant over these images, so none of them dominates it"
            )));
        };
        let mut order: Vec<usize> = (0..data.len()).collect();
        order.sort_by(|&a, &b| component.vector[b].abs().total_cmp(&component.vector[a].abs()));
        Ok(Self { layer: names[layer].clone(), component, order })
    }
}

impl DroppedDominant {
    /// The `fraction` of the images, rounded to a whole number and at least one, that dominate `layer` of each of `runs` (or the
    /// layer whose first component explains most), together, found within `memory`.
    ///
    /// # Errors
    /// [`Error::Incomparable`] for a fraction that is not between 0 and 1, for a run without this layer, or for one all of whose
    /// layers are constant; [`Error::Interrupted`] once `stop` is set.
    pub(crate) fn of_runs(
        runs: &[Run],
        (fraction, layer): (f64, Option<&str>),
        data: &TestImages,
        (processor, memory): (&Processor, MemoryLimits),
        stop: &AtomicBool,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<Self> {
        if !(fraction > 0.0 && fraction < 1.0) {
            let problem =
                format!("a fraction of {fraction} of the images cannot be left out: give one between 0 and 1");
            return Err(Error::incomparable(problem).mended_by(&[Setting::DropDominant]));
        }
        let count = ((fraction * data.len() as f64).round() as usize).max(1);
        let (mut layers, mut examples) = (Vec::new(), Vec::new());
        // Of all layers, whichever are compared: what dominates a network does not depend on that.
        for model in Model::open_all(runs, None, data, processor)? {
            if stop.load(Ordering::Relaxed) {
                return Err(Error::Interrupted);
            }
            let ranking = Ranking::of(&model, layer, data, memory, progress)?;
            layers.push(format!("{}: {}", model.info.name, ranking.layer));
            examples.extend_from_slice(&ranking.order[..count.min(data.len())]);
        }
        examples.sort_unstable();
        examples.dedup();
        Ok(Self { fraction, layers, examples })
    }
}

fn position(layer: &str, model: &str, names: &[String]) -> Result<usize> {
    names.iter().position(|name| name == layer).ok_or_else(|| {
        let (first, last) = (&names[0], &names[names.len() - 1]);
        let middle = &names[names.len() / 2];
        Error::incomparable(format!(
            "{model} has no layer {layer}; its {} layers are {first}, ..., {middle}, ..., {last}",
            names.len()
        ))
    })
}

/// The test images that dominate a layer of `run`.
///
/// # Errors
/// [`Error::Incomparable`] for a layer that the run does not have or that is constant, or for more images than there are;
/// [`Error::NonFinite`] for NaN or infinity in an activation; and what the run or its data may say.
pub fn dominant(
    run: &Run,
    options: &DominantOptions,
    processor: &Processor,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Dominant> {
    let limit = options.examples.map_or(Limit::AtMost(EXAMPLES), Limit::Exactly);
    let data = TestImages::of_runs(std::slice::from_ref(run), options.data.as_ref(), limit)?;
    let found = data.len();
    let top = options.top.unwrap_or(TOP.min(found));
    if !(1..=found).contains(&top) {
        let problem = format!("{top} dominant images of the {found} that are looked at: ask for 1 to {found}");
        return Err(Error::incomparable(problem).mended_by(&[Setting::Top]));
    }
    let model = Model::open_one(run, None, &data, processor)?;
    let (layer, memory) = (options.layer.as_deref(), options.memory);
    let Ranking { layer, component, order } = Ranking::of(&model, layer, &data, memory, progress)?;
    let deviation = component.eigenvalue.sqrt();
    let projections: Vec<f64> = component.vector.iter().map(|coordinate| deviation * coordinate).collect();
    let example = |&index: &usize| {
        let label = data.split().label(index);
        DominantExample {
            index,
            file: data.split().file(index).map(|path| path.display().to_string()),
            label,
            class: data.classes()[label as usize].clone(),
            projection: projections[index],
            share: component.vector[index].powi(2),
        }
    };
    let chosen = &order[..top];
    let info = DominantInfo {
        model: model.info.name.clone(),
        layer,
        examples: data.len(),
        variance_explained: component.variance_explained,
        second_over_first: component.second_over_first,
        dominant: chosen.iter().map(example).collect(),
        data: data.example_source(),
        versions: Versions::on(model.processor()),
    };
    Ok(Dominant { info, projections, images: chosen.iter().map(|&index| data.split().image(index).to_vec()).collect() })
}

/// dominant.npz holds float64 `projections` \[n\].
impl Saved for Dominant {
    const SEALED: &'static [&'static str] = &[FILES.numbers, FILES.info];
    const PICTURES: &'static [&'static str] = &[PICTURE];

    fn stage(&self, dir: &Path) -> Result<Staged> {
        FILES.stage(dir, &self.info, &[("projections", &[self.projections.len()], &self.projections)])
    }

    fn load(dir: &Path) -> Result<Self> {
        let (info, mut numbers) = FILES.open::<DominantInfo>(dir)?;
        let projections = numbers.array("projections", &[info.examples])?;
        numbers.check()?;
        Ok(Self { info, projections, images: Vec::new() })
    }

    fn is_in(dir: &Path) -> bool {
        FILES.are_in::<DominantInfo>(dir)
    }

    fn shows(&self) -> bool {
        !self.images.is_empty()
    }

    fn draw(&self, dir: &Path) -> Result<()> {
        if self.shows() { plot::dominant_sheet(self, &dir.join(PICTURE)) } else { Ok(()) }
    }
}
