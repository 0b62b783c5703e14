#![allow(clippy::unwrap_used)]

use std::fs;

use super::*;
use crate::Saved;

/// A made result of 3 layers and 4 examples: the second is not well defined, the third constant.
pub(crate) fn made(model: &str) -> PcsResult {
    let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
    let nan = f64::NAN;
    PcsResult {
        info: PcsInfo {
            model: model.to_owned(),
            layers: names(&["a.one", "a.two", "b \"quoted\""]),
            stages: vec![0, 0, 1],
            examples: 4,
            batch_statistics: false,
            estimator: "unbiased".to_owned(),
            ill_defined: names(&["a.two"]),
            undefined: names(&["b \"quoted\""]),
            undefined_cka: names(&["b \"quoted\""]),
            undefined_cka_without_first: names(&["a.two", "b \"quoted\""]),
            data: ExampleSource::Images { name: "builtin".to_owned(), dir: None },
            versions: Versions::current(),
        },
        similarity: ComponentSimilarity {
            layers: 3,
            examples: 4,
            variance_explained: vec![0.75, 0.5, nan],
            second_over_first: vec![1e-17, 0.995, nan],
            cosine_sq: vec![1.0, 0.25, nan, 0.25, 1.0, nan, nan, nan, nan],
            cka: vec![1.0, 0.5, nan, 0.5, 1.0, nan, nan, nan, nan],
            cka_without_first: vec![1.0, nan, nan, nan, nan, nan, nan, nan, nan],
            first_pc: vec![0.5, -0.5, 0.5, -0.5, 1.0, 0.0, 0.0, -0.1, nan, nan, nan, nan],
            undefined: vec![2],
            undefined_cka: vec![2],
            undefined_without_first: vec![1, 2],
        },
    }
}

fn bits(found: &ComponentSimilarity) -> Vec<u64> {
    let arrays = [
        &found.variance_explained,
        &found.second_over_first,
        &found.cosine_sq,
        &found.cka,
        &found.cka_without_first,
        &found.first_pc,
    ];
    arrays.into_iter().flatten().map(|value| value.to_bits()).collect()
}

#[test]
fn what_is_saved_is_loaded_bit_for_bit_and_damage_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("deep");
    let result = made("run");
    made("older").write(&dir).unwrap();
    result.write(&dir).unwrap();
    let loaded = PcsResult::load(&dir).unwrap();
    assert_eq!(loaded.info, result.info);
    assert_eq!(bits(&loaded.similarity), bits(&result.similarity));
    assert_eq!((loaded.similarity.undefined, loaded.similarity.undefined_without_first), (vec![2], vec![1, 2]));
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 3);

    let path = dir.join(INFO);
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("unbiased", "biased")).unwrap();
    assert!(PcsResult::load(&dir).unwrap_err().to_string().contains("checksum"));
    fs::write(&path, "{}").unwrap();
    assert!(PcsResult::load(&dir).unwrap_err().to_string().contains("not the description of principal components"));
}

#[test]
fn what_is_not_ours_is_left_alone() {
    let root = tempfile::tempdir().unwrap();
    for name in ["config.toml", INFO, NUMBERS, PICTURE] {
        let dir = root.path().join(name);
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join(name), "irreplaceable").unwrap();
        assert!(made("run").write(&dir).unwrap_err().to_string().contains("another place"));
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 1);
    }
}
