//! cosine.npz, cosine.json and cosine.png.

use std::collections::HashSet;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::provenance::{ExampleSource, Versions};
use crate::saved::{Array, Files, Saved, Staged};
use crate::{Result, plot};

/// File of the numbers.
pub const NUMBERS: &str = "cosine.npz";
/// File that says what the numbers are of.
pub const INFO: &str = "cosine.json";
/// File of the picture.
pub const PICTURE: &str = "cosine.png";

const FILES: Files = Files { kind: "cosine similarities", numbers: NUMBERS, info: INFO, arrays: &["cosine", "count"] };

/// The cosine similarities of a model's layers.
#[derive(Clone, Debug)]
pub struct CosineResult {
    /// What was compared.
    pub info: CosineInfo,
    /// Mean over examples of the cosine between two layers, [L, L]; NaN where `count` is 0.
    pub cosine: Vec<f64>,
    /// The examples that it is the mean of, those which neither of the two layers turns into zeros, [L, L]; 0 for layers of
    /// different shapes.
    pub count: Vec<f64>,
}

impl CosineResult {
    /// The layers that some of the examples are zeros in, but not all.
    pub fn partly_undefined(&self) -> impl Iterator<Item = &str> {
        let info = &self.info;
        let own = self.count.iter().step_by(info.layers.len() + 1);
        let partly = |count: f64| count > 0.0 && count < info.examples as f64;
        info.layers.iter().zip(own).filter(move |&(_, &count)| partly(count)).map(|(layer, _)| layer.as_str())
    }

    /// What it comes to, in words.
    pub fn summary(&self) -> String {
        let info = &self.info;
        let layers = &info.layers;
        let shapes = match info.shapes.iter().collect::<HashSet<_>>().len() {
            1 => "1 shape".to_owned(),
            count => format!("{count} shapes"),
        };
        let what = format!("{} layers of {shapes} over {} examples", layers.len(), info.examples);
        let pairs = (0..layers.len()).flat_map(|x| (0..x).map(move |y| (self.cosine[x * layers.len() + y], x, y)));
        let pairs: Vec<_> = pairs.filter(|(cosine, ..)| !cosine.is_nan()).collect();
        let extremes =
            pairs.iter().max_by(|a, b| a.0.total_cmp(&b.0)).zip(pairs.iter().min_by(|a, b| a.0.total_cmp(&b.0)));
        let Some((most, least)) = extremes else {
            return format!("{what}; no two of one shape that are not all zeros");
        };
        let mean = pairs.iter().map(|(cosine, ..)| cosine).sum::<f64>() / pairs.len() as f64;
        let named = |&(cosine, x, y): &(f64, usize, usize)| format!("{cosine:.3} ({} and {})", layers[y], layers[x]);
        format!(
            "{what}; two layers of one shape have a cosine of {mean:.3} on average, at most {}, at least {}",
            named(most),
            named(least)
        )
    }
}

/// What was compared: cosine.json.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CosineInfo {
    /// Name of the model.
    pub model: String,
    /// Names of the layers, first layer first.
    pub layers: Vec<String>,
    /// Stage of each layer (0 stem, 1 to 3, 4 head); empty where that is not known.
    pub stages: Vec<usize>,
    /// Shape of each layer for one example, channels last; its number of features alone for stored activations.
    pub shapes: Vec<Vec<usize>>,
    /// Examples, the first of the data in order.
    pub examples: usize,
    /// Layers that are zero for every example: NaN everywhere.
    pub undefined: Vec<String>,
    /// Where the examples came from.
    pub data: ExampleSource,
    /// What computed this.
    pub versions: Versions,
}

/// cosine.npz holds float64 `cosine` and `count` \[L, L\].
impl Saved for CosineResult {
    const SEALED: &'static [&'static str] = &[FILES.numbers, FILES.info];
    const PICTURES: &'static [&'static str] = &[PICTURE];

    fn stage(&self, dir: &Path) -> Result<Staged> {
        let shape = [self.info.layers.len(); 2];
        let arrays: [Array<'_>; 2] = [("cosine", &shape, &self.cosine), ("count", &shape, &self.count)];
        FILES.stage(dir, &self.info, &arrays)
    }

    fn load(dir: &Path) -> Result<Self> {
        let (info, mut numbers) = FILES.open::<CosineInfo>(dir)?;
        let shape = [info.layers.len(); 2];
        let (cosine, count) = (numbers.array("cosine", &shape)?, numbers.array("count", &shape)?);
        numbers.check()?;
        Ok(Self { info, cosine, count })
    }

    fn is_in(dir: &Path) -> bool {
        FILES.are_in::<CosineInfo>(dir)
    }

    fn draw(&self, dir: &Path) -> Result<()> {
        plot::cosines(self, &dir.join(PICTURE))
    }
}
