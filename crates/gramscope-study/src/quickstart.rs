//! The newcomer's first run: a small family on the built-in data, trained, compared, reported, and put into words.

use std::path::{Path, PathBuf};
use std::slice;
use std::sync::atomic::AtomicBool;

use gramscope_nn::Processor;
use gramscope_train::settings::ConfigError;
use gramscope_train::sweep::{Plan, SweepEvent};

use crate::compare::{CompareOptions, Progress, RunOptions, compare_runs};
use crate::family::{self, members};
use crate::{Error, Result, Setting, Unfinished, pair, plot, report};

/// How large the quickstart is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scale {
    /// Training images of the family.
    pub train_images: usize,
    /// Test images.
    pub test_images: usize,
    /// Epochs that the family is trained for.
    pub epochs: usize,
}

impl Default for Scale {
    /// Minutes on two cores.
    fn default() -> Self {
        Self { train_images: 2560, test_images: 512, epochs: 6 }
    }
}

/// The deep network trains on this fraction of the family's images, few enough for block structure to appear ...
const DEEP_FRACTION: f64 = 0.05;
/// ... but at least so many, which make a minibatch in equal parts of ten classes ...
const DEEP_LEAST: f64 = 40.0;
/// ... for so many times the epochs.
const DEEP_EPOCHS: usize = 5;
/// File of the sheet with every network's map.
const MAPS: &str = "maps.png";
/// Passes over the test images when comparing.
const PASSES: usize = 2;

/// What happens while the quickstart goes on.
#[derive(Debug)]
pub enum QuickstartEvent<'a> {
    /// Networks are being trained.
    Training(SweepEvent<'a>),
    /// Networks are being compared.
    Comparing(Progress<'a>),
}

/// What the quickstart leaves.
#[derive(Debug)]
pub struct Quickstart {
    /// The page.
    pub report: PathBuf,
    /// Every network's layers against each other, on one sheet.
    pub maps: PathBuf,
    /// What was found, a sentence each.
    pub findings: Vec<String>,
}

/// Trains the family (2 depths x 2 widths x 2 seeds, and two seeds of a far deeper network on a few of the images) in
/// DIR/runs, compares all layers of all networks in DIR/cka, and writes DIR/maps.png and DIR/report.html. What an earlier
/// call finished is not trained again.
///
/// # Errors
/// What training, comparing and writing may say, that `stop` was set among it; a DIR with runs of another scale.
pub fn quickstart(
    dir: &Path,
    scale: Scale,
    processor: &Processor,
    stop: &AtomicBool,
    progress: &mut (dyn FnMut(QuickstartEvent<'_>) + Send),
) -> Result<Quickstart> {
    let results_dir = dir.join("cka");
    let options = CompareOptions { batch_size: 256.min(scale.test_images), ..CompareOptions::default() };
    let least = options.cka.estimator.minimum_examples();
    if options.batch_size < least {
        let problem = format!("{} test images: layers are compared over at least {least}", scale.test_images);
        return Err(Error::incomparable(problem).mended_by(&[Setting::TestImages]));
    }
    let plan = networks(scale).map_err(gramscope_train::Error::from)?;
    let names = || plan.runs().iter().map(|(name, _)| name.as_str());
    let pairs: Vec<_> = names().enumerate().flat_map(|(place, x)| names().skip(place).map(move |y| (x, y))).collect();
    pair::check_all(&results_dir, pairs.into_iter())?;
    let training = &mut |event: SweepEvent<'_>| progress(QuickstartEvent::Training(event));
    let trained = family::train(&plan, &dir.join("runs"), slice::from_ref(processor), stop, training)?;

    let run_options = RunOptions { passes: PASSES, ..RunOptions::default() };
    let unfinished = Unfinished::within(&results_dir);
    let options = CompareOptions { unfinished: Some(unfinished.clone()), ..options };
    let results = compare_runs(&trained, &options, &run_options, processor, stop, &mut |compared| {
        progress(QuickstartEvent::Comparing(compared));
    })?;
    pair::write_all(&results_dir, &results)?;
    unfinished.remove();
    let maps = dir.join(MAPS);
    plot::family_maps(&trained, &results, &maps)?;
    Ok(Quickstart { report: report::write(dir)?, maps, findings: report::findings(&members(&trained)?, &results) })
}

/// The family and the deep network.
fn networks(scale: Scale) -> Result<Plan, ConfigError> {
    Plan::joined([Plan::parse(&family_plan(scale))?, Plan::parse(&deep_plan(scale))?])
}

fn family_plan(scale: Scale) -> String {
    let Scale { epochs, .. } = scale;
    format!("{}epochs = {epochs}\n[family]\ndepth = [8, 14]\nwidth = [0.5, 1]\nseed = [0, 1]\n", shared(scale))
}

fn deep_plan(scale: Scale) -> String {
    let epochs = scale.epochs * DEEP_EPOCHS;
    let fraction = DEEP_FRACTION.max(DEEP_LEAST / scale.train_images as f64).min(1.0);
    format!(
        "{}epochs = {epochs}\nfraction = {fraction:?}\n[family]\ndepth = [38]\nwidth = [0.5]\nseed = [0, 1]\n",
        shared(scale)
    )
}

/// The tables both plans begin with. Few images leave time for few steps: small batches and a larger learning rate than the
/// paper's make them count.
fn shared(scale: Scale) -> String {
    let Scale { train_images, test_images, .. } = scale;
    format!(
        "[data]\nname = \"builtin\"\ntrain_images = {train_images}\ntest_images = {test_images}\n\
         [train]\nbatch_size = 32\nlearning_rate = 0.02\n"
    )
}
