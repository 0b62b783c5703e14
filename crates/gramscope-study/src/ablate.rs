//! Ablation of residual blocks: the test accuracy that is left when blocks are deleted (Nguyen, Raghu and Kornblith 2021,
//! figure 5; Veit, Wilber and Belongie 2016).
//!
//! Of a deleted block the residual branch contributes nothing. Its shortcut stays, and so does the ReLU after the addition:
//! y = relu(shortcut(x)). The first block of a stage, whose shortcut is a projection, can therefore be deleted like
//! any other. Nothing is trained anew, and batch norm keeps its running statistics.
//!
//! All choices of deleted blocks share one pass over the test images: up to the first block in which two of them differ
//! they are computed once ([`gramscope_nn::ResNet::forward_without`]). With m blocks in each of three stages, every ending
//! costs about 1 + m forward passes in place of 1 + 3m.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use gramscope_nn::ops::loss;
use gramscope_nn::{Processor, ResNetConfig};
use gramscope_train::data::DataConfig;
use gramscope_train::{Run, batches, evaluate};
use serde::{Deserialize, Serialize};

use crate::compare::{BatchNeeds, Limit, MemoryLimits, Model, Pass, Progress, TestImages};
use crate::provenance::{ExampleSource, Versions};
use crate::saved::{ListFiles, Saved, Staged};
use crate::{Error, HOST, Result, Setting, plot};

/// File of the accuracies: a list with an entry for every stage and number of blocks.
pub const ABLATIONS: &str = "ablate.json";
/// File that says what the accuracies are of.
pub const INFO: &str = "ablate-about.json";
/// File of the picture.
pub const PICTURE: &str = "ablate.png";

const FILES: ListFiles = ListFiles { kind: "deleted blocks", rows: ABLATIONS, info: INFO };

/// What is deleted besides the ends of the stages, and on what data.
#[derive(Clone, Debug, Default)]
pub struct AblateOptions {
    /// Blocks that are each deleted alone, such as `stage2.block3`.
    pub blocks: Vec<String>,
    /// Delete every block alone.
    pub each: bool,
    /// How many test images, the first in order, class-balanced; all of them unless told otherwise.
    pub examples: Option<usize>,
    /// Feed this data's test images instead of those of the data that the run was trained on.
    pub data: Option<DataConfig>,
    /// The memory that may be taken.
    pub memory: MemoryLimits,
}

/// What deleted blocks cost a network.
#[derive(Clone, Debug, PartialEq)]
pub struct AblateResult {
    /// What was done to which network, and the blocks that were deleted alone.
    pub info: AblateInfo,
    /// Stage by stage, with 0, 1, ... blocks deleted from its end.
    pub stages: Vec<AblatedStage>,
}

/// Accuracy with blocks deleted from the end of a stage: an entry of ablate.json.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AblatedStage {
    /// The stage, 1 to 3.
    pub stage: usize,
    /// How many of its blocks are deleted, from its last.
    pub deleted: usize,
    /// Share of the test images that are right.
    pub accuracy: f64,
}

/// What was done to which network: ablate-about.json.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AblateInfo {
    /// Name of the model.
    pub model: String,
    /// Blocks that were deleted alone, in the order of the network.
    pub alone: Vec<AblatedBlock>,
    /// Test images.
    pub examples: usize,
    /// Where they came from.
    pub data: ExampleSource,
    /// What computed this.
    pub versions: Versions,
}

/// Accuracy with one block deleted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AblatedBlock {
    /// Name of the block.
    pub block: String,
    /// Share of the test images that are right.
    pub accuracy: f64,
}

impl AblateResult {
    /// Accuracy of the whole network.
    pub fn baseline(&self) -> Option<f64> {
        self.stages.iter().find(|entry| entry.deleted == 0).map(|entry| entry.accuracy)
    }

    /// The entries of each stage, one stage after the other: none of them is empty.
    pub fn by_stage(&self) -> impl Iterator<Item = &[AblatedStage]> {
        self.stages.chunk_by(|a, b| a.stage == b.stage)
    }
}

/// Deletes blocks of `run` from the end of each stage, and those that `options` name alone; `processor` says where.
///
/// # Errors
/// [`Error::Incomparable`] for a run without residual connections, for a block that it does not have, for more images than
/// there are or of other classes; memory that is too little for one image; [`Error::Interrupted`] once `stop` is set; and what the
/// run or its data may say.
pub fn ablate(
    run: &Run,
    options: &AblateOptions,
    processor: &Processor,
    stop: &AtomicBool,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<AblateResult> {
    check_shortcuts(run)?;
    let limit = options.examples.map_or(Limit::None, Limit::Exactly);
    let data = TestImages::of_runs(std::slice::from_ref(run), options.data.as_ref(), limit)?;
    let model = Model::open_one(run, None, &data, processor)?;
    check_classes(&model, &data)?;
    let network = model.network.config();
    let (name, names) = (run.name(), network.block_names());
    let (ends, singles) = (endings(network), alone(options, &name, &names)?);
    let deleted = |chosen: std::ops::Range<usize>| (0..names.len()).map(move |block| chosen.contains(&block)).collect();
    let choices = ends.iter().map(|ending| ending.blocks.clone()).chain(singles.iter().map(|&b| b..b + 1));

    let found = accuracies(&model, &data, &choices.map(deleted).collect::<Vec<_>>(), options.memory, stop, progress)?;

    let (of_ends, of_singles) = found.split_at(ends.len());
    let stage = |(ending, &accuracy): (&Ending, &f64)| AblatedStage {
        stage: ending.stage,
        deleted: ending.blocks.len(),
        accuracy,
    };
    let block = |(&block, &accuracy): (&usize, &f64)| AblatedBlock { block: names[block].clone(), accuracy };
    let info = AblateInfo {
        model: name,
        alone: singles.iter().zip(of_singles).map(block).collect(),
        examples: data.len(),
        data: data.example_source(),
        versions: Versions::on(model.processor()),
    };
    Ok(AblateResult { stages: ends.iter().zip(of_ends).map(stage).collect(), info })
}

/// Fails for a network of which nothing can be deleted, having no shortcuts to stand in for its blocks.
fn check_shortcuts(run: &Run) -> Result<()> {
    if run.config().train.residual {
        return Ok(());
    }
    Err(Error::incomparable(format!(
        "{}: this network was trained without residual connections: without its convolutions nothing would be left of a block, so \
         none can be deleted",
        run.dir().display()
    )))
}

/// Fails where images have other classes than the network: how many are right would say nothing.
fn check_classes(model: &Model, data: &TestImages) -> Result<()> {
    let (name, classes, found) = (&model.info.name, model.network.config().classes, data.classes().len());
    if classes == found {
        return Ok(());
    }
    let problem = format!("{name} tells {classes} classes apart and the images have {found}; choose other data");
    Err(Error::incomparable(problem).mended_by(&[Setting::Data]))
}

/// Accuracy of `model` on `data` without the blocks that each of `choices` marks.
fn accuracies(
    model: &Model,
    data: &TestImages,
    choices: &[Vec<bool>],
    memory: MemoryLimits,
    stop: &AtomicBool,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Vec<f64>> {
    let logits = choices.len() * model.network.config().classes * size_of::<f32>();
    let bytes = |images| Ok(model.host_ablation_bytes(images, choices)? + (images * logits) as u64);
    let needs = BatchNeeds::of_images("the activations of an image", model, data, &bytes)?;
    let device_bytes = |images| model.device_ablation_bytes(images, choices);
    let pass = Pass::new(model, data, &needs, &device_bytes, memory, evaluate::BATCH)?;
    let mut correct = vec![0.0; choices.len()];
    pass.each_batch(stop, progress, &mut |images, indices| {
        let labels = batches::labels(data.split().labels(), indices, &HOST)?;
        for (correct, logits) in correct.iter_mut().zip(model.forward_without(images, choices)?) {
            *correct += f64::from(loss::forward(&logits, &labels)?.1.to_scalar::<f32>()?);
        }
        Ok(())
    })?;
    Ok(correct.into_iter().map(|correct| correct / data.len() as f64).collect())
}

/// The last blocks of a stage, counted through the network.
struct Ending {
    stage: usize,
    blocks: std::ops::Range<usize>,
}

/// None, the last, the last two, ... of each stage.
fn endings(network: &ResNetConfig) -> Vec<Ending> {
    let mut end = 0;
    let of_stage = |stage: usize| {
        let blocks = network.blocks_in(stage);
        end += blocks;
        let end = end;
        (0..=blocks).map(move |deleted| Ending { stage, blocks: end - deleted..end })
    };
    (1..=network.family.stages()).flat_map(of_stage).collect()
}

/// The blocks that are deleted alone, ascending.
fn alone(options: &AblateOptions, model: &str, names: &[String]) -> Result<Vec<usize>> {
    if let Some(unknown) = options.blocks.iter().find(|block| !names.contains(block)) {
        let (first, last) = (&names[0], &names[names.len() - 1]);
        let count = names.len();
        let problem = format!("{model} has no block {unknown}; its {count} blocks are {first} to {last}");
        return Err(Error::incomparable(problem).mended_by(&[Setting::Block]));
    }
    Ok((0..names.len()).filter(|&block| options.each || options.blocks.contains(&names[block])).collect())
}

impl Saved for AblateResult {
    const SEALED: &'static [&'static str] = &[FILES.rows, FILES.info];
    const PICTURES: &'static [&'static str] = &[PICTURE];

    fn stage(&self, dir: &Path) -> Result<Staged> {
        FILES.stage(dir, &self.info, &self.stages)
    }

    fn load(dir: &Path) -> Result<Self> {
        let (info, stages) = FILES.load(dir)?;
        Ok(Self { info, stages })
    }

    fn is_in(dir: &Path) -> bool {
        FILES.are_in::<AblateInfo, AblatedStage>(dir)
    }

    fn draw(&self, dir: &Path) -> Result<()> {
        plot::ablations(self, &dir.join(PICTURE))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used)]

    use std::fs;

    use gramscope_nn::Family;

    use super::*;

    /// A made result with two blocks a stage.
    pub(crate) fn made(model: &str) -> AblateResult {
        let accuracies = [[0.75, 0.7, 0.125], [0.75, 0.5, 0.25], [0.75, 0.75, 0.6]];
        let entries = accuracies.iter().enumerate().flat_map(|(stage, accuracies)| {
            let entry = move |(deleted, &accuracy)| AblatedStage { stage: stage + 1, deleted, accuracy };
            accuracies.iter().enumerate().map(entry)
        });
        let alone = vec![AblatedBlock { block: "stage2.block1".to_owned(), accuracy: 0.4 }];
        let data = ExampleSource::Images { name: "builtin".to_owned(), dir: None };
        let info = AblateInfo { model: model.to_owned(), alone, examples: 40, data, versions: Versions::current() };
        AblateResult { info, stages: entries.collect() }
    }

    #[test]
    fn every_ending_of_every_stage_is_there_once() {
        let found = |network: ResNetConfig| -> Vec<_> {
            endings(&network).into_iter().map(|ending| (ending.stage, ending.blocks)).collect()
        };
        let expected =
            [(1, 2..2), (1, 1..2), (1, 0..2), (2, 4..4), (2, 3..4), (2, 2..4), (3, 6..6), (3, 5..6), (3, 4..6)];
        assert_eq!(found(ResNetConfig { depth: 14, ..ResNetConfig::default() }), expected);
        let bottlenecks = found(ResNetConfig { family: Family::ImageNet, depth: 35, ..ResNetConfig::default() });
        assert_eq!(bottlenecks.len(), 4 + 5 + 2 + 4);
        assert_eq!(bottlenecks[9..13], [(3, 8..8), (3, 7..8), (4, 11..11), (4, 10..11)]);
    }

    #[test]
    fn what_is_saved_is_loaded_and_damage_is_found() {
        let dir = tempfile::tempdir().unwrap();
        made("older").write(dir.path()).unwrap();
        made("run").write(dir.path()).unwrap();
        assert_eq!(AblateResult::load(dir.path()).unwrap(), made("run"));
        for (name, from, to) in [(ABLATIONS, "0.125", "0.225"), (INFO, "0.4", "0.5")] {
            let text = fs::read_to_string(dir.path().join(name)).unwrap();
            fs::write(dir.path().join(name), text.replace(from, to)).unwrap();
            assert!(AblateResult::load(dir.path()).unwrap_err().to_string().contains("checksum"), "{name}");
            fs::write(dir.path().join(name), text).unwrap();
        }
        fs::write(dir.path().join(ABLATIONS), "{}").unwrap();
        assert!(AblateResult::load(dir.path()).unwrap_err().to_string().contains("not the list of deleted blocks"));
    }
}
