//! The heatmap of cosine similarities, which are from -1 to 1.

use std::path::Path;

use super::heatmap::{Picture, range};
use crate::cosine::CosineResult;
use crate::provenance::ExampleSource;
use crate::{Error, Result};

/// Draws `result` as a PNG at `path`, replacing what is there: as [`super::heatmap`] draws CKA, but on a scale from -1 in
/// black to 1 in pale yellow. Pairs of layers of different shapes are grey.
///
/// # Errors
/// [`Error::File`] where the array of `result` does not fit its layer names or there is no layer, [`Error::Io`] where the file
/// cannot be written.
pub fn cosines(result: &CosineResult, path: &Path) -> Result<()> {
    let info = &result.info;
    let (layers, values) = (info.layers.len(), result.cosine.len());
    if layers == 0 || values != layers * layers {
        return Err(Error::file(path, format!("a map of {layers} layers cannot be drawn from {values} values")));
    }
    let noun = match &info.data {
        ExampleSource::Images { name, .. } => format!("{name} test images"),
        ExampleSource::Activations { .. } => "stored examples".to_owned(),
    };
    let picture = Picture {
        heading: info.model.clone(),
        lines: [format!("Cosine of layers of one shape, mean over {} {noun}", info.examples), range(&result.cosine)],
        models: [&info.model; 2],
        layers: [&info.layers; 2],
        stages: [&info.stages; 2],
        values: &result.cosine,
        scale: -1.0..1.0,
        blocks: &[],
    };
    picture.save(path)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::HashSet;

    use super::*;
    use crate::cosine::tests::made;
    use crate::plot::colour;

    #[test]
    fn every_value_has_its_colour_on_a_scale_from_minus_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cosine.png");
        let result = made("model");
        cosines(&result, &path).unwrap();
        let picture = image::open(&path).unwrap().to_rgb8();
        let colours: HashSet<[u8; 3]> = picture.pixels().map(|pixel| pixel.0).collect();
        for value in &result.cosine {
            assert!(colours.contains(&colour::similarity((value + 1.0) / 2.0)), "no cell of {value}");
        }
        let bytes = std::fs::read(&path).unwrap();
        let opposite = CosineResult { cosine: result.cosine.iter().map(|value| -value).collect(), ..result };
        cosines(&opposite, &path).unwrap();
        assert_ne!(bytes, std::fs::read(&path).unwrap());
    }

    #[test]
    fn what_cannot_be_drawn_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cosine.png");
        let mut result = made("model");
        result.cosine.pop();
        assert!(cosines(&result, &path).unwrap_err().to_string().contains("3 layers"));
        assert!(!path.exists());
    }
}
