//! Real photographs, where the repository's surroundings have them: CIFAR-10 as JPEG files in class folders.
#![allow(clippy::unwrap_used, missing_docs)]

use std::path::Path;
use std::process::Command;

use gramscope_train::data::{self, DataConfig, DataName};

/// A hundred photographs, ten a class, unpacked from the archive beside the repository; none where there is no archive or
/// nothing to unpack it with.
fn photographs() -> Option<tempfile::TempDir> {
    let archive = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/cifar10-jpeg.tar.xz");
    if !archive.is_file() {
        println!("skipped: {} is not there", archive.display());
        return None;
    }
    let dir = tempfile::tempdir().unwrap();
    let unpacked = Command::new("tar")
        .arg("-xJf")
        .arg(&archive)
        .arg("-C")
        .arg(dir.path())
        .args(["--wildcards", "train/*/000?.jpg", "test/*/000?.jpg"])
        .status();
    if !unpacked.is_ok_and(|status| status.success()) {
        println!("skipped: no tar and xz that could unpack {}", archive.display());
        return None;
    }
    Some(dir)
}

#[test]
fn a_folder_of_photographs_is_read_pixel_by_pixel() {
    let Some(dir) = photographs() else { return };
    let config = DataConfig::resolve_argument(dir.path().to_str().unwrap()).unwrap();
    assert_eq!(config.name, DataName::Folder);
    let dataset = data::load(&config).unwrap();
    let classes = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"];
    assert_eq!(dataset.classes, classes);
    assert_eq!(dataset.summary().train, [10; 10]);
    assert_eq!(dataset.summary().test, [10; 10]);
    for (index, label) in [(0, 0), (9, 0), (34, 3), (99, 9)] {
        assert_eq!(dataset.test.label(index), label);
        let path = dir.path().join("test").join(classes[label as usize]).join(format!("{:04}.jpg", index % 10));
        let decoded = image::open(&path).unwrap().into_rgb8();
        assert_eq!(dataset.test.image(index), decoded.as_raw().as_slice(), "{}", path.display());
    }
}
