#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::fs;

use gramscope_train::batches::images;
use gramscope_train::data;

use super::*;
use crate::provenance::ExampleSource;
use crate::testing::{small_data, tiny, trained};
use crate::{HOST, Saved};

/// A made result of three ReLUs, the second with a dead unit.
pub(crate) fn made(model: &str) -> Sparsity {
    Sparsity {
        info: SparsityInfo {
            model: model.to_owned(),
            layers: ["stem.relu", "stage1.block1.relu1", "stage1.block1.relu2"].map(str::to_owned).to_vec(),
            stages: vec![0, 1, 1],
            units: vec![2, 2, 1],
            examples: 8,
            data: ExampleSource::Images { name: "builtin".to_owned(), dir: None },
            versions: Versions::current(),
        },
        zeros: vec![0.375, 0.75, 0.0],
        dead: vec![0.0, 1.0, 0.0],
        unit_zeros: vec![0.25, 0.5, 0.5, 1.0, 0.0],
    }
}

#[test]
fn what_is_saved_is_loaded_and_damage_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("deep");
    made("older").write(&dir).unwrap();
    made("run").write(&dir).unwrap();
    assert_eq!(Sparsity::load(&dir).unwrap(), made("run"));
    assert!(dir.join(PICTURE).is_file());
    let text = fs::read_to_string(dir.join(INFO)).unwrap();
    fs::write(dir.join(INFO), text.replace("\"examples\": 8", "\"examples\": 9")).unwrap();
    assert!(Sparsity::load(&dir).unwrap_err().to_string().contains("checksum"));
    let other = dir.join("other");
    fs::create_dir(&other).unwrap();
    fs::write(other.join(NUMBERS), "irreplaceable").unwrap();
    assert!(made("run").write(&other).unwrap_err().to_string().contains("another place"));
    assert_eq!(fs::read_to_string(other.join(NUMBERS)).unwrap(), "irreplaceable");
}

#[test]
fn what_is_not_finite_is_placed() {
    let mut units = Units::new(2);
    let view = |values: &'static [f32]| Activation::new(Values::F32(values), 2).unwrap();
    units.count(0, 0, view(&[0.0, 1.0, -0.0, 2.0, 0.0, 3.0, 0.0, 0.0])).unwrap();
    assert_eq!((units.zeros.as_slice(), units.seen, units.dead()), (&[4, 1][..], 4, 1));
    let error = units.count(3, 5, view(&[0.0, 1.0, 0.0, 2.0, 0.0, f32::NAN, 0.0, 0.0])).unwrap_err();
    assert!(matches!(error, gramscope_cka::Error::NonFinite { layer: 3, batch: 5, example: 1, .. }), "{error}");
}

/// A small run over images that fill more than one batch, against counting in all its ReLUs' outputs at once.
#[test]
fn zeros_of_a_run_are_counted() {
    let dir = tempfile::tempdir().unwrap();
    let run = trained(&dir.path().join("run"), tiny(0), small_data(270));
    let mut steps = Vec::new();
    let found = sparsity(&run, &SparsityOptions::default(), &Processor::Cpu, &mut |step| {
        steps.push((step.done, step.total));
    })
    .unwrap();
    assert_eq!(steps, (1..=14).map(|done| (done, 14)).collect::<Vec<_>>());

    let dataset = data::load(&run.config().data).unwrap();
    let network = run.network(&HOST).unwrap();
    let names: Vec<String> = network.layers().iter().map(|layer| layer.name.clone()).collect();
    let all: Vec<usize> = (0..dataset.test.len()).collect();
    let mut outputs: HashMap<String, Vec<Vec<f32>>> = HashMap::new();
    for indices in all.chunks(BATCH) {
        let images = images(&dataset.test, indices, 9, &HOST).unwrap();
        network
            .forward_observed::<candle_core::Error>(&images, &mut |layer, output| {
                let output = output.values()?;
                if names[layer].contains("relu") {
                    let channels = output.dim(candle_core::D::Minus1)?;
                    let rows = output.reshape(((), channels))?.to_vec2::<f32>()?;
                    outputs.entry(names[layer].clone()).or_default().extend(rows);
                }
                Ok(())
            })
            .unwrap();
    }
    assert_eq!((found.info.layers.len(), found.info.examples), (7, 270));
    assert_eq!((found.info.layers[0].as_str(), &found.info.stages[..2]), ("stem.relu", &[0, 1][..]));
    let mut units = found.unit_zeros.iter();
    for (layer, name) in found.info.layers.iter().enumerate() {
        let rows = &outputs[name];
        let count = rows[0].len();
        assert_eq!(found.info.units[layer], count, "{name}");
        let zeros = |unit: usize| rows.iter().filter(|row| row[unit] == 0.0).count() as f64 / rows.len() as f64;
        let expected: Vec<f64> = (0..count).map(zeros).collect();
        assert_eq!(units.by_ref().take(count).copied().collect::<Vec<_>>(), expected, "{name}");
        let mean = expected.iter().sum::<f64>() / count as f64;
        assert!((found.zeros[layer] - mean).abs() <= 1e-12, "{name}: {}, expected {mean}", found.zeros[layer]);
        let dead = expected.iter().filter(|&&zeros| zeros == 1.0).count() as f64;
        assert_eq!(found.dead[layer], dead, "{name}");
    }
    assert!(found.zeros.iter().any(|&zeros| zeros > 0.0));
    let few = SparsityOptions { examples: Some(271), ..SparsityOptions::default() };
    let error = sparsity(&run, &few, &Processor::Cpu, &mut |_| ()).unwrap_err().to_string();
    assert!(error.contains("271 examples") && error.contains("270"), "{error}");
}
