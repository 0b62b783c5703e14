//! sparsity.npz, sparsity.json and sparsity.png.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::provenance::{ExampleSource, Versions};
use crate::saved::{Array, Files, Saved, Staged};
use crate::{Result, plot};

/// File of the numbers.
pub const NUMBERS: &str = "sparsity.npz";
/// File that says what the numbers are of.
pub const INFO: &str = "sparsity.json";
/// File of the picture.
pub const PICTURE: &str = "sparsity.png";

const FILES: Files = Files { kind: "sparsity", numbers: NUMBERS, info: INFO, arrays: &["zeros", "dead", "unit_zeros"] };

/// The sparsity of a network's ReLUs.
#[derive(Clone, Debug, PartialEq)]
pub struct Sparsity {
    /// What was looked at.
    pub info: SparsityInfo,
    /// Of each layer, the fraction of its values that are zero.
    pub zeros: Vec<f64>,
    /// Of each layer, how many of its units are dead: zero at every position of every example.
    pub dead: Vec<f64>,
    /// Of each unit, layer after layer, the fraction of examples and positions at which it is zero.
    pub unit_zeros: Vec<f64>,
}

impl Sparsity {
    /// What it comes to, in words.
    pub fn summary(&self) -> String {
        let largest = self.zeros.iter().zip(&self.info.layers).max_by(|a, b| a.0.total_cmp(b.0));
        let largest = largest.map_or_else(String::new, |(zeros, layer)| {
            format!("; most zeros in {layer}: {:.1}% of its values", 100.0 * zeros)
        });
        let (dead, units) = (self.dead.iter().sum::<f64>(), self.info.units.iter().sum::<usize>());
        let (layers, examples) = (self.info.layers.len(), self.info.examples);
        format!("{layers} ReLUs over {examples} images{largest}; {dead} of {units} units are dead")
    }
}

/// What was looked at: sparsity.json.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SparsityInfo {
    /// Name of the run.
    pub model: String,
    /// Names of the ReLUs, the first first.
    pub layers: Vec<String>,
    /// Stage of each (0 stem, 1 to 3).
    pub stages: Vec<usize>,
    /// Units of each, which says how `unit_zeros` is cut.
    pub units: Vec<usize>,
    /// Test images, the first of the data in order.
    pub examples: usize,
    /// Where they came from.
    pub data: ExampleSource,
    /// What computed this.
    pub versions: Versions,
}

/// sparsity.npz holds float64 `zeros` \[L\], `dead` \[L\] and `unit_zeros` \[sum of `units`\].
impl Saved for Sparsity {
    const SEALED: &'static [&'static str] = &[FILES.numbers, FILES.info];
    const PICTURES: &'static [&'static str] = &[PICTURE];

    fn stage(&self, dir: &Path) -> Result<Staged> {
        let arrays: [Array<'_>; 3] = [
            ("zeros", &[self.zeros.len()], &self.zeros),
            ("dead", &[self.dead.len()], &self.dead),
            ("unit_zeros", &[self.unit_zeros.len()], &self.unit_zeros),
        ];
        FILES.stage(dir, &self.info, &arrays)
    }

    fn load(dir: &Path) -> Result<Self> {
        let (info, mut numbers) = FILES.open::<SparsityInfo>(dir)?;
        let layers = info.layers.len();
        let result = Self {
            zeros: numbers.array("zeros", &[layers])?,
            dead: numbers.array("dead", &[layers])?,
            unit_zeros: numbers.array("unit_zeros", &[info.units.iter().sum()])?,
            info,
        };
        numbers.check()?;
        Ok(result)
    }

    fn is_in(dir: &Path) -> bool {
        FILES.are_in::<SparsityInfo>(dir)
    }

    fn draw(&self, dir: &Path) -> Result<()> {
        plot::sparsity(self, &dir.join(PICTURE))
    }
}
