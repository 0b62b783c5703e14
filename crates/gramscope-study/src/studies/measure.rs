//! What is measured of a study's networks, each result where its command would put it; one that is there is read instead.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use gramscope_nn::Processor;
use gramscope_train::Run;

use super::plan::Measures;
use super::{Scale, StudyEvent};
use crate::ablate::{self, AblateOptions, AblateResult};
use crate::blocks::{self, BlocksInfo, WithinMap};
use crate::compare::{CompareOptions, MemoryLimits, Pairs, Progress, RunOptions, compare_runs};
use crate::epochs::{self, EpochsResult};
use crate::mean;
use crate::pair::{self, PairResult};
use crate::pcs::{self, PcsOptions, PcsResult};
use crate::predict::{self, PredictResult};
use crate::probe::{self, ProbeOptions, ProbeResult};
use crate::provenance::DataInfo;
use crate::sparsity::{self, Sparsity, SparsityOptions};
use crate::{Error, Result, Saved, Unfinished, plot};

/// Examples a minibatch of CKA, or all there are.
const BATCH: usize = 256;

/// Maps between networks that are shown one by one.
const MOST_MAPS: usize = 12;

/// Everything that was measured.
#[derive(Debug, Default)]
pub(super) struct Measured {
    /// Of all pairs.
    pub(super) maps: Vec<PairResult>,
    /// Of the networks, in their order.
    pub(super) networks: Vec<Network>,
    pub(super) predictions: Option<PredictResult>,
    /// Pictures of networks together.
    pub(super) pictures: Vec<PathBuf>,
}

/// What was measured of one network.
#[derive(Debug, Default)]
pub(super) struct Network {
    pub(super) blocks: Option<BlocksInfo>,
    pub(super) components: Option<PcsResult>,
    pub(super) probes: Option<ProbeResult>,
    pub(super) ablations: Option<AblateResult>,
    pub(super) sparsity: Option<Sparsity>,
    pub(super) epochs: Option<EpochsResult>,
    /// Pictures of it alone.
    pub(super) pictures: Vec<PathBuf>,
}

/// A measurement of networks: of which, how large, and where its results lie.
pub(super) struct Experiment<'a> {
    pub(super) runs: &'a [Run],
    pub(super) scale: Scale,
    /// Over the test images, for CKA.
    pub(super) passes: usize,
    /// That may be taken.
    pub(super) memory: MemoryLimits,
    /// Below which the results lie.
    pub(super) dir: &'a Path,
    pub(super) processor: &'a Processor,
    pub(super) stop: &'a AtomicBool,
    pub(super) progress: &'a mut dyn FnMut(StudyEvent<'_>),
}

impl Experiment<'_> {
    /// Measures `what` of the runs.
    pub(super) fn measure(mut self, what: &Measures) -> Result<Measured> {
        let mut measured = Measured::default();
        if let Some(pairs) = &what.cka {
            measured.maps = self.compare(pairs)?;
        }
        for run in self.runs {
            measured.networks.push(self.network(what, run)?);
        }
        let alone = measured.networks.iter().any(|network| !network.pictures.is_empty());
        match &what.cka {
            Some(pairs) if pairs.are_within() && !alone => measured.pictures.push(self.sheet(&measured.maps)?),
            // What there is no picture of beside.
            Some(pairs) if !pairs.are_within() && !what.mean => {
                measured.pictures.extend(measured.maps.iter().take(MOST_MAPS).map(|map| self.picture_of(map)));
            }
            _ => {}
        }
        if what.mean {
            measured.pictures.extend(self.means(&measured.maps)?);
        }
        if what.predict {
            let dir = self.dir.join("predict");
            let names: BTreeSet<String> = self.runs.iter().map(Run::name).collect();
            let fits = |found: &PredictResult| found.info.runs.iter().cloned().collect::<BTreeSet<_>>() == names;
            measured.predictions = Some(once(&dir, fits, |dir| self.predictions(dir))?);
            let pictures = [predict::EXAMPLES_PICTURE, predict::CLASSES_PICTURE, predict::MAPS_PICTURE];
            measured
                .pictures
                .extend(pictures.map(|picture| dir.join(picture)).into_iter().filter(|path| path.is_file()));
        }
        Ok(measured)
    }

    /// Compares the pairs of runs, all in one pass, unless every one of them lies there.
    fn compare(&mut self, pairs: &Pairs) -> Result<Vec<PairResult>> {
        let name = |run: usize| self.runs[run].name();
        let directories: Vec<PathBuf> =
            pairs.among(self.runs)?.into_iter().map(|(x, y)| self.place(&name(x), &name(y))).collect();
        let options = self.options();
        let fits = |map: &PairResult| is_fed(&map.info.data, self.passes) && map.info.batch_size == options.batch_size;
        if let Some(found) = directories.iter().map(|dir| whole(dir).filter(fits)).collect() {
            Unfinished::within(&self.maps()).clear();
            return Ok(found);
        }
        let unfinished = Unfinished::within(&self.maps());
        let options = CompareOptions { unfinished: Some(unfinished.clone()), ..options };
        let run_options = RunOptions { pairs: pairs.clone(), passes: self.passes, ..RunOptions::default() };
        let maps = compare_runs(self.runs, &options, &run_options, self.processor, self.stop, &mut |progress| {
            (self.progress)(StudyEvent::Measuring { what: "comparing", progress });
        })?;
        for (map, directory) in maps.iter().zip(&directories) {
            map.write(directory)?;
        }
        unfinished.remove();
        Ok(maps)
    }

    /// Minibatches of the usual size, or of all test images where there are fewer.
    fn options(&self) -> CompareOptions {
        let images = self.runs.iter().filter_map(|run| run.config().data.test_images).min().unwrap_or(BATCH);
        CompareOptions { batch_size: BATCH.min(images), memory: self.memory, ..CompareOptions::default() }
    }

    fn maps(&self) -> PathBuf {
        self.dir.join("cka")
    }

    fn place(&self, x: &str, y: &str) -> PathBuf {
        self.maps().join(format!("{x}__{y}"))
    }

    fn picture_of(&self, map: &PairResult) -> PathBuf {
        self.place(&map.info.model_x, &map.info.model_y).join(pair::PICTURE)
    }

    fn network(&mut self, what: &Measures, run: &Run) -> Result<Network> {
        let name = run.name();
        let mut network = Network::default();
        let map = self.place(&name, &name);
        if what.blocks {
            let numbers = map.join(pair::NUMBERS);
            let fits = |found: &BlocksInfo| found.source.is(&numbers);
            network.blocks = Some(once(&map, fits, find_blocks)?);
        }
        // Curves stand beside the map whose block they cross; the other pictures hold maps of their own.
        if what.blocks && (what.probe.is_some() || what.ablate) {
            network.pictures.push(map.join(blocks::BLOCKS_PICTURE));
        }
        if what.pcs {
            let dir = self.dir.join("pcs").join(&name);
            network.components = Some(once(&dir, |_| true, |dir| self.components(run, dir))?);
            network.pictures.push(dir.join(pcs::PICTURE));
        }
        if let Some(how) = &what.probe {
            let dir = self.dir.join("probe").join(&name);
            let epochs = self.scale.share_of(how.epochs);
            let fits = |found: &ProbeResult| (found.info.epochs, found.info.pool) == (epochs, how.pool);
            network.probes = Some(once(&dir, fits, |dir| self.probes(run, epochs, how.pool, dir))?);
            network.pictures.push(dir.join(probe::PICTURE));
        }
        if what.ablate {
            let dir = self.dir.join("ablate").join(&name);
            network.ablations = Some(once(&dir, |_| true, |dir| self.ablations(run, dir))?);
            network.pictures.push(dir.join(ablate::PICTURE));
        }
        if what.sparsity {
            let dir = self.dir.join("sparsity").join(&name);
            network.sparsity = Some(once(&dir, |_| true, |dir| self.sparsity(run, dir))?);
            network.pictures.push(dir.join(sparsity::PICTURE));
        }
        if what.epochs {
            let dir = self.dir.join("epochs").join(&name);
            let passes = self.passes;
            let fits = |found: &EpochsResult| is_fed(&found.info.data, passes);
            network.epochs = Some(once(&dir, fits, |dir| self.epochs(run, dir))?);
            network.pictures.push(dir.join(epochs::PICTURE));
        }
        Ok(network)
    }

    fn components(&mut self, run: &Run, dir: &Path) -> Result<PcsResult> {
        self.check_stop()?;
        let (processor, options) = (self.processor, PcsOptions { memory: self.memory, ..PcsOptions::default() });
        let result = pcs::pcs_of_run(run, &options, processor, &mut self.shows("decomposing"))?;
        result.write(dir)?;
        Ok(result)
    }

    fn probes(&mut self, run: &Run, epochs: usize, pool: bool, dir: &Path) -> Result<ProbeResult> {
        let unfinished = Unfinished::within(dir);
        let options = ProbeOptions {
            epochs,
            pool,
            memory: self.memory,
            unfinished: Some(unfinished.clone()),
            ..ProbeOptions::default()
        };
        let (processor, stop) = (self.processor, self.stop);
        let result = probe::probe(run, &options, processor, stop, &mut self.shows("probing"))?;
        result.write(dir)?;
        unfinished.remove();
        Ok(result)
    }

    fn ablations(&mut self, run: &Run, dir: &Path) -> Result<AblateResult> {
        let options = AblateOptions { each: true, memory: self.memory, ..AblateOptions::default() };
        let (processor, stop) = (self.processor, self.stop);
        let result = ablate::ablate(run, &options, processor, stop, &mut self.shows("deleting"))?;
        result.write(dir)?;
        Ok(result)
    }

    fn sparsity(&mut self, run: &Run, dir: &Path) -> Result<Sparsity> {
        self.check_stop()?;
        let options = SparsityOptions { memory: self.memory, ..SparsityOptions::default() };
        let processor = self.processor;
        let result = sparsity::sparsity(run, &options, processor, &mut self.shows("counting"))?;
        result.write(dir)?;
        Ok(result)
    }

    fn predictions(&mut self, dir: &Path) -> Result<PredictResult> {
        self.check_stop()?;
        let runs = self.runs;
        let mut show = self.shows("comparing");
        let result = predict::predict(runs, None, &mut |done, total| {
            show(Progress { done, total, batch: done, batches: total, subject: "predictions of all networks" });
        })?;
        result.write(dir)?;
        Ok(result)
    }

    fn epochs(&mut self, run: &Run, dir: &Path) -> Result<EpochsResult> {
        let unfinished = Unfinished::within(dir);
        let options = CompareOptions { unfinished: Some(unfinished.clone()), ..self.options() };
        let run_options = RunOptions { passes: self.passes, ..RunOptions::default() };
        let (processor, stop) = (self.processor, self.stop);
        let result = epochs::over_epochs(run, &options, &run_options, processor, stop, &mut self.shows("comparing"))?;
        result.write(dir)?;
        unfinished.remove();
        Ok(result)
    }

    /// Every network's map on one sheet.
    fn sheet(&self, maps: &[PairResult]) -> Result<PathBuf> {
        let path = self.dir.join("maps.png");
        plot::warn_about(plot::family_maps(self.runs, maps, &path));
        Ok(path)
    }

    /// Means over networks and their variances; of two different networks alone, their map.
    fn means(&self, maps: &[PairResult]) -> Result<Vec<PathBuf>> {
        let place = |map: &PairResult| self.place(&map.info.model_x, &map.info.model_y);
        let directories: Vec<PathBuf> = maps.iter().map(place).collect();
        let mut pictures = Vec::new();
        for (name, maps) in mean::groups(self.runs, maps, &directories)? {
            match maps.as_slice() {
                [(map, _)] if map.info.model_x == map.info.model_y => {}
                [(map, _)] => pictures.push(self.picture_of(map)),
                maps => {
                    let dir = self.dir.join(mean::PAIRS).join(name);
                    mean::of_maps(maps)?.write(&dir)?;
                    pictures.extend([mean::PICTURE, mean::VARIANCE_PICTURE].map(|picture| dir.join(picture)));
                }
            }
        }
        Ok(pictures)
    }

    /// For what reports its progress.
    fn shows(&mut self, what: &'static str) -> impl FnMut(Progress<'_>) {
        move |progress| (self.progress)(StudyEvent::Measuring { what, progress })
    }

    fn check_stop(&self) -> Result<()> {
        if self.stop.load(Ordering::Relaxed) { Err(Error::Interrupted) } else { Ok(()) }
    }
}

/// The result that lies in `dir`, where it `fits` what is asked for, or else the one that `make` makes there.
fn once<R: Saved>(dir: &Path, fits: impl FnOnce(&R) -> bool, make: impl FnOnce(&Path) -> Result<R>) -> Result<R> {
    let Some(found) = whole(dir).filter(fits) else { return make(dir) };
    Unfinished::within(dir).clear();
    Ok(found)
}

/// Whether `data` are test images in so many passes.
fn is_fed(data: &DataInfo, wanted: usize) -> bool {
    matches!(data, DataInfo::Images { passes, .. } if *passes == wanted)
}

/// The result that lies in `dir`. Pictures are drawn after the numbers they show are written, so that one without its picture was
/// broken off.
fn whole<R: Saved>(dir: &Path) -> Option<R> {
    dir.join(R::PICTURES[0]).is_file().then(|| R::load(dir).ok()).flatten()
}

fn find_blocks(dir: &Path) -> Result<BlocksInfo> {
    let (map, origin) = WithinMap::read(dir)?;
    let info = blocks::measure(&map, &origin)?;
    blocks::write(dir, &map, &info)?;
    Ok(info)
}
