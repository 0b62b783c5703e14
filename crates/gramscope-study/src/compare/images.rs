//! The test images that networks are compared on.

use std::path::PathBuf;

use gramscope_nn::ResNet;
use gramscope_nn::random::{Philox, Stream};
use gramscope_train::Run;
use gramscope_train::data::{self, DataConfig, DataError, Dataset, Split};
use gramscope_train::digest::hexadecimal;
use md5::{Digest, Md5};

use crate::provenance::{DataInfo, ExampleSource};
use crate::{Error, Result, Setting};

/// How many test images are wanted: the first so many, class-balanced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Limit {
    /// All there are.
    None,
    /// So many, or all where there are fewer.
    AtMost(usize),
    /// So many; an error, which names the flag `--examples`, where there are fewer.
    Exactly(usize),
}

/// Bytes that a counter of the random numbers stands for.
const COUNTER_BYTES: usize = 16;

/// Test images in memory.
pub(crate) struct TestImages {
    dataset: Dataset,
    dir: Option<PathBuf>,
    /// Whether noise has taken the place of the pixels.
    noise: bool,
}

impl TestImages {
    /// The test images of the data that `config` describes.
    pub(crate) fn load(config: &DataConfig, limit: Limit) -> Result<Self> {
        // Of the training images nothing is needed, but no data set is without.
        let config = DataConfig { train_images: Some(1), ..config.resolved()? };
        let dataset = match limit {
            Limit::None => data::load(&config)?,
            Limit::AtMost(wanted) => match first(wanted, &config)? {
                Ok(dataset) => dataset,
                Err(_) => data::load(&config)?,
            },
            Limit::Exactly(0) => {
                return Err(
                    Error::incomparable("0 examples: ask for at least 1 test image").mended_by(&[Setting::Examples])
                );
            }
            Limit::Exactly(wanted) => first(wanted, &config)?.map_err(|found| {
                let problem = format!("{wanted} examples: there are {found} test images; ask for 1 to {found}");
                Error::incomparable(problem).mended_by(&[Setting::Examples])
            })?,
        };
        Ok(Self { dataset, dir: config.dir, noise: false })
    }

    /// The test images that all `runs` were evaluated on, or else those of `other`, in the size of the first run's.
    ///
    /// # Errors
    /// [`Error::Incomparable`] for runs of different data without `other`.
    pub(crate) fn of_runs(runs: &[Run], other: Option<&DataConfig>, limit: Limit) -> Result<Self> {
        let first = match (other, runs.first()) {
            (Some(config), Some(run)) => return Self::load(&config.at_side(run.config().data.side()), limit),
            (None, Some(run)) => run,
            (_, None) => {
                return Err(Error::incomparable("there is no run to compare; name at least one"));
            }
        };
        let config = test_part(&first.config().data, limit)?;
        for run in &runs[1..] {
            if test_part(&run.config().data, limit)? != config {
                let problem = format!(
                    "{} and {} were evaluated on different test images; choose data for both",
                    first.dir().display(),
                    run.dir().display()
                );
                return Err(Error::incomparable(problem).mended_by(&[Setting::Data]));
            }
        }
        // Of a smaller and a larger part of the same images, the smaller decides how many there are.
        let parts = runs.iter().map(|run| run.config().data.test_images);
        let smallest = parts.flatten().min();
        Self::load(&DataConfig { test_images: smallest, ..config }, limit)
    }

    /// As many images of the same size of uniformly random bytes, which depend on the seed and the image's place alone.
    pub(crate) fn into_noise(mut self, seed: u64) -> Result<Self> {
        let (test, generator) = (&self.dataset.test, Philox::new(seed, Stream::Noise));
        let bytes = self.side() * self.side() * 3;
        let mut pixels = Vec::with_capacity(self.len() * bytes);
        for image in 0..self.len() {
            let words =
                (0..bytes.div_ceil(COUNTER_BYTES) as u64).map(|at| generator.words(0, ((image as u64) << 32) | at));
            let noise = words.flatten().flat_map(u32::to_le_bytes);
            pixels.extend(noise.take(bytes));
        }
        self.dataset.test = Split::new(pixels, test.labels().to_vec(), test.image_side())?;
        self.noise = true;
        Ok(self)
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.dataset.test.len()
    }

    /// The images.
    pub(crate) fn split(&self) -> &Split {
        &self.dataset.test
    }

    /// The bytes that they take.
    pub(crate) fn bytes(&self) -> u64 {
        self.split().pixels().len() as u64
    }

    /// Height and width of every image, in pixels.
    pub(crate) fn side(&self) -> usize {
        self.dataset.image_side
    }

    /// A digest of those of these `places`, in this order, and of their size.
    pub(crate) fn digest(&self, places: &[usize]) -> String {
        let mut digest = Md5::new_with_prefix(self.side().to_string());
        places.iter().for_each(|&place| digest.update(self.split().image(place)));
        hexadecimal(digest)
    }

    /// Their classes' names.
    pub(crate) fn classes(&self) -> &[String] {
        &self.dataset.classes
    }

    /// Name of the data set, and where it lies, for one of the user's.
    pub(crate) fn source(&self) -> (String, Option<PathBuf>) {
        (self.dataset.name.clone(), self.dir.clone())
    }

    /// What the result of one network says of them.
    pub(crate) fn example_source(&self) -> ExampleSource {
        let (name, dir) = self.source();
        ExampleSource::Images { name, dir }
    }

    /// What a comparison says of them.
    pub(crate) fn info(&self, passes: usize, seed: u64) -> DataInfo {
        let (name, dir) = self.source();
        DataInfo::Images { name, dir, examples: self.len(), passes, seed, noise: self.noise }
    }

    /// Fails unless `network`, that of the run `name`, takes images of this size.
    pub(crate) fn check_side(&self, name: &str, network: &ResNet) -> Result<()> {
        check_side(&self.dataset, name, network)
    }
}

/// Fails unless `network`, that of the run `name`, takes images of the size of those of `dataset`.
pub(crate) fn check_side(dataset: &Dataset, name: &str, network: &ResNet) -> Result<()> {
    let (side, found) = (network.config().image_side, dataset.image_side);
    if side == found {
        return Ok(());
    }
    let problem = format!(
        "{name} takes images of {side} x {side} pixels and those of {} have {found} x {found}; choose other data",
        dataset.name
    );
    Err(Error::incomparable(problem).mended_by(&[Setting::Data]))
}

/// The data with its first `wanted` test images, or else the number of those there are.
fn first(wanted: usize, config: &DataConfig) -> Result<std::result::Result<Dataset, usize>> {
    // The built-in data could draw more than the run was evaluated on.
    let most = config.test_images.unwrap_or(usize::MAX);
    if wanted > most {
        return Ok(Err(most));
    }
    match data::load(&DataConfig { test_images: Some(wanted), ..config.clone() }) {
        Ok(dataset) => Ok(Ok(dataset)),
        Err(DataError::TooFewImages { found, .. }) => Ok(Err(found)),
        Err(other) => Err(other.into()),
    }
}

/// What of a configuration decides which test images there are; with a limit, their number does not.
fn test_part(config: &DataConfig, limit: Limit) -> Result<DataConfig> {
    let config = DataConfig { train_images: None, ..config.resolved()? };
    Ok(if limit == Limit::None { config } else { DataConfig { test_images: None, ..config } })
}
