//! The blocks of a map as they lie on disk: blocks.json and blocks.png.

use std::path::{Path, PathBuf};

use gramscope_train::digest::hexadecimal;
use gramscope_train::reading;
use md5::{Digest, Md5};
use serde::{Deserialize, Serialize};

use super::{Blocks, Origin, WithinMap, find};
use crate::provenance::Versions;
use crate::saved::{InfoFile, Saved, Staged};
use crate::{Error, Result, plot};

/// File of the blocks.
pub const BLOCKS: &str = "blocks.json";
/// File of the heatmap with the blocks outlined.
pub const BLOCKS_PICTURE: &str = "blocks.png";

const FILE: InfoFile = InfoFile { kind: "the blocks of a CKA map", info: BLOCKS };

/// The blocks of a map, and what they were computed from and how: blocks.json.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BlocksInfo {
    /// What was found.
    #[serde(flatten)]
    pub found: Blocks,
    /// In what.
    pub source: Source,
    /// By which thresholds.
    pub parameters: Parameters,
    /// What computed this.
    pub versions: Versions,
}

/// The map that the blocks are those of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// Name of the model.
    pub model: String,
    /// The file with the numbers, as it was named.
    pub file: PathBuf,
    /// MD5 of that file.
    pub md5: String,
    /// Its layers.
    pub layers: usize,
    /// Names of those without a value, which were left out.
    pub undefined: Vec<String>,
}

impl Source {
    /// Whether it is the map whose numbers lie in `file`.
    pub(crate) fn is(&self, file: &Path) -> bool {
        reading::read(file).is_ok_and(|bytes| hexadecimal(Md5::new_with_prefix(bytes)) == self.md5)
    }
}

/// The thresholds of the definition, by the names that the module's documentation has for them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "each is the constant of its name")]
pub struct Parameters {
    pub skip_reach: usize,
    pub skip_drop: f64,
    pub least_layers: usize,
    pub least_share: f64,
    pub nearly_equal: f64,
    pub all_equal: f64,
    pub least_contrast: f64,
    pub least_margin: f64,
}

impl Parameters {
    /// Of this build.
    pub fn current() -> Self {
        Self {
            skip_reach: super::SKIP_REACH,
            skip_drop: super::SKIP_DROP,
            least_layers: super::LEAST_LAYERS,
            least_share: super::LEAST_SHARE,
            nearly_equal: super::NEARLY_EQUAL,
            all_equal: super::ALL_EQUAL,
            least_contrast: super::LEAST_CONTRAST,
            least_margin: super::LEAST_MARGIN,
        }
    }
}

/// Finds the blocks of a map that was read from `origin`.
///
/// # Errors
/// [`Error::Io`] where its file can no longer be read.
pub fn measure(map: &WithinMap, origin: &Origin) -> Result<BlocksInfo> {
    let bytes = reading::read(&origin.numbers).map_err(Error::io("read", &origin.numbers))?;
    let defined = map.defined();
    let undefined = (0..map.layers().len()).filter(|layer| defined.binary_search(layer).is_err());
    Ok(BlocksInfo {
        found: find(map),
        source: Source {
            model: origin.model.clone(),
            file: origin.numbers.clone(),
            md5: hexadecimal(Md5::new_with_prefix(bytes)),
            layers: map.layers().len(),
            undefined: undefined.map(|layer| map.layers()[layer].clone()).collect(),
        },
        parameters: Parameters::current(),
        versions: Versions::current(),
    })
}

/// Writes blocks.json and the picture of `map` into `dir`; an earlier result there is replaced.
///
/// # Errors
/// Those of [`Saved::write`].
pub fn write(dir: &Path, map: &WithinMap, info: &BlocksInfo) -> Result<()> {
    BlocksInfo::check(dir)?;
    let staged = info.stage(dir)?;
    BlocksInfo::remove_pictures(dir);
    staged.publish()?;
    plot::warn_about(plot::blocks(map, &info.source.model, &info.found, &dir.join(BLOCKS_PICTURE)));
    Ok(())
}

/// The picture shows the map as well: [`write()`] draws it.
impl Saved for BlocksInfo {
    const SEALED: &'static [&'static str] = &[FILE.info];
    const PICTURES: &'static [&'static str] = &[BLOCKS_PICTURE];

    fn stage(&self, dir: &Path) -> Result<Staged> {
        FILE.stage(dir, self)
    }

    fn load(dir: &Path) -> Result<Self> {
        FILE.load(dir)
    }

    fn shows(&self) -> bool {
        false
    }
}
