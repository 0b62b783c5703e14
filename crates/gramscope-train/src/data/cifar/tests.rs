#![allow(clippy::unwrap_used)]

use tempfile::TempDir;

use super::super::{DataName, load as load_any};
use super::*;

/// Formats like the official ones with few records: two training files of 3 and 2, a test file of 4.
const TRAIN: &[File] = &[File { name: "one.bin", records: 3 }, File { name: "two.bin", records: 2 }];
const TEST: File = File { name: "test.bin", records: 4 };
const ONE_LABEL: Format = Format { train: TRAIN, test: TEST, ..CIFAR10 };
const TWO_LABELS: Format = Format { train: TRAIN, test: TEST, ..CIFAR100 };

/// The byte at (`row`, `column`, `channel`) of record `record`: different for all neighbours.
fn byte(record: usize, row: usize, column: usize, channel: usize) -> u8 {
    ((record * 31 + row * 7 + column * 3 + channel * 101) % 251) as u8
}

/// A record in the official layout: label bytes, then three planes.
fn record(labels: &[u8], number: usize) -> Vec<u8> {
    let mut bytes = labels.to_vec();
    for channel in 0..3 {
        for row in 0..SIDE {
            bytes.extend((0..SIDE).map(|column| byte(number, row, column, channel)));
        }
    }
    bytes
}

/// Writes all files of a format with labels from `labels_of(record)`, records numbered through all files.
fn write(dir: &Path, format: &Format, labels_of: impl Fn(usize) -> Vec<u8>) {
    fs::create_dir_all(dir).unwrap();
    let mut number = 0;
    for file in format.files() {
        let mut content = Vec::new();
        for _ in 0..file.records {
            content.extend(record(&labels_of(number), number));
            number += 1;
        }
        fs::write(dir.join(file.name), content).unwrap();
    }
}

fn config(dir: &TempDir) -> DataConfig {
    DataConfig { name: DataName::Cifar10, dir: Some(dir.path().to_path_buf()), ..DataConfig::default() }
}

fn assert_images(split: &Split, first_record: usize) {
    for index in 0..split.len() {
        for (at, &found) in split.image(index).iter().enumerate() {
            let expected = byte(first_record + index, at / 3 / SIDE, at / 3 % SIDE, at % 3);
            assert_eq!(found, expected, "image {index}, byte {at}");
        }
    }
}

#[test]
fn cifar10_comes_back_as_it_was_written() {
    let dir = TempDir::new().unwrap();
    write(dir.path(), &ONE_LABEL, |number| vec![number as u8]);
    let dataset = load(&ONE_LABEL, &config(&dir)).unwrap();
    assert_eq!(dataset.train.labels(), [0, 1, 2, 3, 4]);
    assert_eq!(dataset.test.labels(), [5, 6, 7, 8]);
    assert_images(&dataset.train, 0);
    assert_images(&dataset.test, 5);
    assert_eq!((dataset.classes.len(), dataset.classes[9].as_str()), (10, "truck"));
}

#[test]
fn the_fine_labels_of_cifar100_are_the_classes() {
    let dir = TempDir::new().unwrap();
    write(&dir.path().join(TWO_LABELS.folder), &TWO_LABELS, |number| vec![19 - number as u8, 90 + number as u8]);
    let dataset = load(&TWO_LABELS, &config(&dir)).unwrap();
    assert_eq!(dataset.train.labels(), [90, 91, 92, 93, 94]);
    assert_images(&dataset.train, 0);
    assert_images(&dataset.test, 5);
    assert_eq!((dataset.classes.len(), dataset.classes[99].as_str()), (100, "worm"));
}

#[test]
fn a_limit_takes_a_class_balanced_prefix() {
    let dir = TempDir::new().unwrap();
    write(dir.path(), &ONE_LABEL, |number| vec![[7, 7, 7, 2, 2, 1, 1, 1, 3][number]]);
    let limits = DataConfig { train_images: Some(3), test_images: Some(2), ..config(&dir) };
    let dataset = load(&ONE_LABEL, &limits).unwrap();
    assert_eq!(dataset.train.labels(), [7, 2, 2]);
    assert_eq!(dataset.test.labels(), [1, 3]);
    let error = load(&ONE_LABEL, &DataConfig { train_images: Some(6), ..config(&dir) }).unwrap_err();
    assert!(matches!(error, DataError::TooFewImages { asked: 6, found: 5, .. }), "{error}");
}

#[test]
fn a_file_of_the_wrong_length_is_named_with_both_lengths() {
    for (change, found) in [(-1_i64, 6145_u64), (1, 6147), (-6146, 0), (-3073, 3073)] {
        let dir = TempDir::new().unwrap();
        write(dir.path(), &ONE_LABEL, |_| vec![0]);
        let file = fs::OpenOptions::new().write(true).open(dir.path().join("two.bin")).unwrap();
        file.set_len(6146_u64.checked_add_signed(change).unwrap()).unwrap();
        let message = load(&ONE_LABEL, &config(&dir)).unwrap_err().to_string();
        for part in ["two.bin", &format!("has {found} bytes"), "but 6146", "2 records of 3073 bytes", "fetch"] {
            assert!(message.contains(part), "{part} is missing from: {message}");
        }
    }
}

#[test]
fn a_label_that_is_no_class_is_named_with_its_record() {
    let dir = TempDir::new().unwrap();
    write(dir.path(), &ONE_LABEL, |number| vec![if number == 4 { 10 } else { 9 }]);
    let message = load(&ONE_LABEL, &config(&dir)).unwrap_err().to_string();
    assert!(message.contains("two.bin: record 1 has the label 10, but labels run from 0 to 9"), "{message}");

    for (labels, expected) in [([20, 0], "coarse label 20"), ([19, 100], "fine label 100")] {
        let dir = TempDir::new().unwrap();
        write(dir.path(), &TWO_LABELS, |_| labels.to_vec());
        let message = load(&TWO_LABELS, &config(&dir)).unwrap_err().to_string();
        assert!(message.contains("one.bin: record 0") && message.contains(expected), "{message}");
    }
}

#[test]
fn class_names_are_read_where_they_are() {
    let dir = TempDir::new().unwrap();
    write(dir.path(), &ONE_LABEL, |_| vec![0]);
    // The official file ends with an empty line.
    let names: Vec<String> = (0..10).map(|class| format!("class {class}")).collect();
    fs::write(dir.path().join("batches.meta.txt"), names.join("\n") + "\n\n").unwrap();
    assert_eq!(load(&ONE_LABEL, &config(&dir)).unwrap().classes, names);

    fs::write(dir.path().join("batches.meta.txt"), "cat\ndog\n").unwrap();
    let message = load(&ONE_LABEL, &config(&dir)).unwrap_err().to_string();
    assert!(message.contains("batches.meta.txt names 2 classes, but there are 10"), "{message}");
    fs::write(dir.path().join("batches.meta.txt"), b"\xff\xfe").unwrap();
    load(&ONE_LABEL, &config(&dir)).unwrap_err();
}

#[test]
fn what_is_missing_is_named() {
    let dir = TempDir::new().unwrap();
    write(dir.path(), &ONE_LABEL, |_| vec![0]);
    fs::remove_file(dir.path().join("two.bin")).unwrap();
    let message = load(&ONE_LABEL, &config(&dir)).unwrap_err().to_string();
    assert!(message.contains("two.bin is missing"), "{message}");

    let message = load(&ONE_LABEL, &config(&TempDir::new().unwrap())).unwrap_err().to_string();
    assert!(message.contains("one.bin, two.bin, test.bin"), "{message}");
}

/// The official sizes, with files of zeros, which take no room on disk.
#[test]
fn the_official_sizes_are_accepted() {
    for (format, name, train_bytes, test_bytes) in
        [(CIFAR10, DataName::Cifar10, 30_730_000, 30_730_000), (CIFAR100, DataName::Cifar100, 153_700_000, 30_740_000)]
    {
        let dir = TempDir::new().unwrap();
        for (file, bytes) in format.train.iter().map(|file| (file, train_bytes)).chain([(&format.test, test_bytes)]) {
            fs::File::create(dir.path().join(file.name)).unwrap().set_len(bytes).unwrap();
        }
        let argument = DataConfig::resolve_argument(dir.path().to_str().unwrap()).unwrap();
        assert_eq!(argument.name, name);
        let dataset = load_any(&DataConfig { train_images: Some(1), test_images: Some(1), ..argument }).unwrap();
        assert_eq!((dataset.train.len(), dataset.test.len()), (1, 1));
    }
}

#[test]
fn the_official_names_are_those_of_as_many_classes() {
    for format in [CIFAR10, CIFAR100] {
        assert_eq!(format.names.len(), format.classes());
        assert!(format.names.is_sorted(), "both are in alphabetical order");
    }
}
