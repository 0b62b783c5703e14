//! pcs.npz, pcs.json and pcs.png.

use std::path::Path;

use gramscope_cka::ComponentSimilarity;
use serde::{Deserialize, Serialize};

use crate::provenance::{ExampleSource, Versions};
use crate::saved::{Array, Files, Saved, Staged, positions};
use crate::{Result, plot};

/// File of the numbers.
pub const NUMBERS: &str = "pcs.npz";
/// File that says what the numbers are of.
pub const INFO: &str = "pcs.json";
/// File of the picture.
pub const PICTURE: &str = "pcs.png";

const FILES: Files = Files {
    kind: "principal components",
    numbers: NUMBERS,
    info: INFO,
    arrays: &["variance_explained", "second_over_first", "cosine_sq", "cka", "cka_without_first", "first_pc"],
};

/// The first principal components of a model's layers.
#[derive(Clone, Debug)]
pub struct PcsResult {
    /// What was analysed, and how.
    pub info: PcsInfo,
    /// The numbers.
    pub similarity: ComponentSimilarity,
}

/// What was analysed, and how: pcs.json.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PcsInfo {
    /// Name of the model.
    pub model: String,
    /// Names of the layers, first layer first.
    pub layers: Vec<String>,
    /// Stage of each layer (0 stem, 1 to 3, 4 head); empty where that is not known.
    #[serde(default)]
    pub stages: Vec<usize>,
    /// Examples, the first of the data in order.
    pub examples: usize,
    /// `unbiased` or `biased`.
    pub estimator: String,
    /// Layers whose second eigenvalue is more than 0.99 times the first: their first component is not well defined.
    pub ill_defined: Vec<String>,
    /// Layers that are constant: NaN everywhere.
    pub undefined: Vec<String>,
    /// Layers whose `cka` is NaN: constant or, for the unbiased estimator, alive in one example only.
    pub undefined_cka: Vec<String>,
    /// Layers whose `cka_without_first` is NaN: nothing is left of them without their first component.
    pub undefined_cka_without_first: Vec<String>,
    /// Whether the network's batch norms took the statistics of the examples instead of the running ones.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub batch_statistics: bool,
    /// Where the examples came from.
    pub data: ExampleSource,
    /// What computed this.
    pub versions: Versions,
}

/// pcs.npz holds float64 `variance_explained` \[L\], `second_over_first` \[L\], `cosine_sq` \[L, L\], `cka` \[L, L\],
/// `cka_without_first` \[L, L\] and `first_pc` \[L, n\].
impl Saved for PcsResult {
    const SEALED: &'static [&'static str] = &[FILES.numbers, FILES.info];
    const PICTURES: &'static [&'static str] = &[PICTURE];

    fn stage(&self, dir: &Path) -> Result<Staged> {
        let found = &self.similarity;
        let (layers, n) = (found.layers, found.examples);
        let arrays: [Array<'_>; 6] = [
            ("variance_explained", &[layers], &found.variance_explained),
            ("second_over_first", &[layers], &found.second_over_first),
            ("cosine_sq", &[layers, layers], &found.cosine_sq),
            ("cka", &[layers, layers], &found.cka),
            ("cka_without_first", &[layers, layers], &found.cka_without_first),
            ("first_pc", &[layers, n], &found.first_pc),
        ];
        FILES.stage(dir, &self.info, &arrays)
    }

    fn load(dir: &Path) -> Result<Self> {
        let (info, mut numbers) = FILES.open::<PcsInfo>(dir)?;
        let (layers, examples) = (info.layers.len(), info.examples);
        let similarity = ComponentSimilarity {
            layers,
            examples,
            variance_explained: numbers.array("variance_explained", &[layers])?,
            second_over_first: numbers.array("second_over_first", &[layers])?,
            cosine_sq: numbers.array("cosine_sq", &[layers, layers])?,
            cka: numbers.array("cka", &[layers, layers])?,
            cka_without_first: numbers.array("cka_without_first", &[layers, layers])?,
            first_pc: numbers.array("first_pc", &[layers, examples])?,
            undefined: positions(&info.layers, &info.undefined),
            undefined_cka: positions(&info.layers, &info.undefined_cka),
            undefined_without_first: positions(&info.layers, &info.undefined_cka_without_first),
        };
        numbers.check()?;
        Ok(Self { info, similarity })
    }

    fn is_in(dir: &Path) -> bool {
        FILES.are_in::<PcsInfo>(dir)
    }

    fn draw(&self, dir: &Path) -> Result<()> {
        plot::principal_components(self, &dir.join(PICTURE))
    }
}
