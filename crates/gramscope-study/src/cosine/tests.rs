#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::fs;

use gramscope_reference::Matrix;
use gramscope_reference::cosine::mean_cosine;
use gramscope_train::batches::images;
use gramscope_train::data;

use super::*;
use crate::testing::{small_data, tiny, trained};
use crate::{Error, HOST, Saved};

/// A made result of three layers: two of one shape, which have one example less in common, and one alone.
pub(crate) fn made(model: &str) -> CosineResult {
    let nan = f64::NAN;
    CosineResult {
        info: CosineInfo {
            model: model.to_owned(),
            layers: ["stem.relu", "stage1.block1.add", "pool"].map(str::to_owned).to_vec(),
            stages: vec![0, 1, 4],
            shapes: vec![vec![4, 4, 2], vec![4, 4, 2], vec![2]],
            examples: 8,
            undefined: Vec::new(),
            data: ExampleSource::Images { name: "builtin".to_owned(), dir: None },
            versions: Versions::current(),
        },
        cosine: vec![1.0, -0.25, nan, -0.25, 1.0, nan, nan, nan, 1.0],
        count: vec![7.0, 7.0, 0.0, 7.0, 8.0, 0.0, 0.0, 0.0, 8.0],
    }
}

fn bits(values: &[f64]) -> Vec<u64> {
    values.iter().map(|value| value.to_bits()).collect()
}

#[test]
fn what_is_saved_is_loaded_and_damage_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("deep");
    let result = made("run");
    made("older").write(&dir).unwrap();
    result.write(&dir).unwrap();
    let loaded = CosineResult::load(&dir).unwrap();
    assert_eq!(loaded.info, result.info);
    assert_eq!((bits(&loaded.cosine), &loaded.count), (bits(&result.cosine), &result.count));
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 3);
    let text = fs::read_to_string(dir.join(INFO)).unwrap();
    fs::write(dir.join(INFO), text.replace("\"examples\": 8", "\"examples\": 9")).unwrap();
    assert!(CosineResult::load(&dir).unwrap_err().to_string().contains("checksum"));
    for name in ["config.toml", INFO, NUMBERS, PICTURE] {
        let other = dir.join(name.replace('.', "-"));
        fs::create_dir(&other).unwrap();
        fs::write(other.join(name), "irreplaceable").unwrap();
        assert!(result.write(&other).unwrap_err().to_string().contains("another place"));
        assert_eq!(fs::read_dir(&other).unwrap().count(), 1);
    }
}

#[test]
fn cosines_in_words() {
    let mut result = made("run");
    assert_eq!(result.partly_undefined().collect::<Vec<_>>(), ["stem.relu"]);
    let summary = result.summary();
    assert!(summary.starts_with("3 layers of 2 shapes over 8 examples; two layers"), "{summary}");
    assert!(summary.contains("-0.250 on average, at most -0.250 (stem.relu and stage1.block1.add)"), "{summary}");
    result.cosine.fill(f64::NAN);
    assert!(result.summary().ends_with("no two of one shape that are not all zeros"), "{}", result.summary());
}

/// A small run against the definition on its own activations; a limit that leaves room for few images, or for one, changes no
/// bit, and one that leaves room for none says what would do.
#[test]
fn cosines_of_a_run_are_those_of_its_activations_within_any_memory() {
    let dir = tempfile::tempdir().unwrap();
    let run = trained(&dir.path().join("run"), tiny(0), small_data(150));
    let within = |host: Option<u64>, steps: &mut Vec<(usize, usize)>| {
        let memory = MemoryLimits { host, device: None };
        let options = CosineOptions { memory, ..CosineOptions::default() };
        cosine_of_run(&run, &options, &Processor::Cpu, &mut |step| steps.push((step.done, step.total)))
    };
    let mut steps = Vec::new();
    let result = within(None, &mut steps).unwrap();
    let layers = result.info.layers.len();
    assert_eq!((layers, result.info.examples), (28, 150));
    // Batches of 64, 64 and 22 images.
    assert_eq!(steps, (1..=3 * layers).map(|done| (done, 3 * layers)).collect::<Vec<_>>());

    let Err(Error::Memory { needed, .. }) = within(Some(1), &mut steps) else { panic!("one byte will do") };
    for (more, batches) in [(0, 150..=150), (64 << 10, 4..=149)] {
        let mut steps = Vec::new();
        let found = within(Some(needed + more), &mut steps).unwrap();
        assert!(batches.contains(&(steps.len() / layers)), "{more} bytes more: {} steps", steps.len());
        assert_eq!(bits(&found.cosine), bits(&result.cosine), "{more} bytes more");
    }

    let dataset = data::load(&run.config().data).unwrap();
    let network = run.network(&HOST).unwrap();
    let names: Vec<String> = network.layers().iter().map(|layer| layer.name.clone()).collect();
    let all: Vec<usize> = (0..dataset.test.len()).collect();
    let images = images(&dataset.test, &all, 9, &HOST).unwrap();
    let mut outputs: HashMap<String, Matrix> = HashMap::new();
    network
        .forward_observed::<candle_core::Error>(&images, &mut |layer, output| {
            let values: Vec<f64> =
                output.values()?.flatten_all()?.to_vec1::<f32>()?.into_iter().map(f64::from).collect();
            outputs.insert(names[layer].clone(), Matrix::new(150, values.len() / 150, values));
            Ok(())
        })
        .unwrap();
    for x in 0..layers {
        for y in 0..layers {
            let at = x * layers + y;
            let (one, other) = (&result.info.layers[x], &result.info.layers[y]);
            let same_shape = result.info.shapes[x] == result.info.shapes[y];
            let (mean, count) = if same_shape { mean_cosine(&outputs[one], &outputs[other]) } else { (f64::NAN, 0) };
            // Of other images in one batch a network computes the same up to the rounding of float32.
            let close =
                if mean.is_nan() { result.cosine[at].is_nan() } else { (result.cosine[at] - mean).abs() <= 1e-6 };
            assert!(close && result.count[at] == count as f64, "{one} and {other}: {} and {mean}", result.cosine[at]);
        }
    }
}
