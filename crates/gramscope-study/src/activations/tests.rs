#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

use gramscope_cka::Values;
use half::{bf16, f16};
use regex::Regex;
use serde_json::{Value, json};

use super::*;

/// Writes a safetensors file by hand: header (padded), then data.
pub(crate) fn write_raw(path: &Path, header: &str, data: &[u8]) {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes.extend_from_slice(data);
    fs::write(path, bytes).unwrap();
}

/// A float32 tensor: name, shape, values.
pub(crate) type Layer<'a> = (&'a str, Vec<usize>, Vec<f32>);

/// Writes float32 layers one after the other, with this metadata.
pub(crate) fn write_layers(path: &Path, layers: &[Layer<'_>], metadata: Option<Value>) {
    let mut header = serde_json::Map::new();
    let mut data: Vec<u8> = Vec::new();
    for (name, shape, values) in layers {
        let start = data.len();
        data.extend_from_slice(bytemuck::cast_slice(values));
        let entry = json!({ "dtype": "F32", "shape": shape, "data_offsets": [start, data.len()] });
        header.insert((*name).to_owned(), entry);
    }
    if let Some(metadata) = metadata {
        header.insert("__metadata__".to_owned(), metadata);
    }
    write_raw(path, &Value::Object(header).to_string(), &data);
}

fn names(file: &ActivationFile) -> Vec<&str> {
    file.layers().iter().map(|layer| layer.name.as_str()).collect()
}

struct Folder {
    dir: tempfile::TempDir,
}

impl Folder {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("made.safetensors")
    }

    /// Expects an error that names the file and every one of `parts`.
    fn refuses(&self, parts: &[&str]) {
        let message = ActivationFile::open(&self.path(), None).map(drop).unwrap_err().to_string();
        for part in parts.iter().chain(&["made.safetensors"]) {
            assert!(message.contains(part), "{part:?} is missing from: {message}");
        }
    }

    /// Expects the same of a file with this header and so many bytes of data.
    fn refuses_header(&self, header: &Value, data: usize, parts: &[&str]) {
        write_raw(&self.path(), &header.to_string(), &vec![0; data]);
        self.refuses(parts);
    }
}

fn f32_tensor(shape: &[u64], start: u64, end: u64) -> Value {
    json!({ "dtype": "F32", "shape": shape, "data_offsets": [start, end] })
}

#[test]
fn lengths_that_lie_are_refused_before_anything_is_allocated() {
    let folder = Folder::new();
    for (bytes, parts) in [
        (vec![], vec!["0 bytes"]),
        (vec![1, 2, 3], vec!["3 bytes"]),
        (u64::MAX.to_le_bytes().to_vec(), vec!["claims a header of 18446744073709551615 bytes", "0 follow"]),
        ((1u64 << 40).to_le_bytes().to_vec(), vec!["claims"]),
        ([&3u64.to_le_bytes()[..], b"{}"].concat(), vec!["header of 3 bytes", "2 follow"]),
        ([&2u64.to_le_bytes()[..], b"{}"].concat(), vec!["no tensor"]),
        ([&0u64.to_le_bytes()[..], b"{}"].concat(), vec!["header is wrong"]),
        ([&4u64.to_le_bytes()[..], b"\xff\xfe{}"].concat(), vec!["header is wrong"]),
        ([&4u64.to_le_bytes()[..], b"[{}]"].concat(), vec!["header is wrong", "a member for each tensor"]),
    ] {
        fs::write(folder.path(), bytes).unwrap();
        folder.refuses(&parts);
    }
}

#[test]
fn a_header_beyond_the_formats_limit_is_refused_unread() {
    let folder = Folder::new();
    let file = fs::File::create(folder.path()).unwrap();
    file.set_len(1 << 34).unwrap(); // sparse
    std::os::unix::fs::FileExt::write_all_at(&file, &(1u64 << 33).to_le_bytes(), 0).unwrap();
    folder.refuses(&["8589934592 bytes", "100000000 at most"]);
}

#[test]
fn tensors_must_have_the_size_of_their_shape_and_fill_the_file() {
    let folder = Folder::new();
    let good = f32_tensor(&[4, 2], 0, 32);
    for (header, data, parts) in [
        (json!({ "a": f32_tensor(&[4, 2], 0, 28) }), 28, vec!["\"a\"", "needs 32 bytes", "from 0 to 28"]),
        (json!({ "a": f32_tensor(&[4, 2], 32, 0) }), 32, vec!["\"a\"", "from 32 to 0"]),
        (json!({ "a": f32_tensor(&[1 << 32, 1 << 32], 0, 32) }), 32, vec!["\"a\"", "no file can hold"]),
        (json!({ "a": f32_tensor(&[0, 1 << 40, 1 << 40], 0, 0) }), 0, vec!["\"a\"", "no file can hold"]),
        (json!({ "a": f32_tensor(&[1 << 56], 0, 1 << 58) }), 32, vec!["truncated", "\"a\"", "32 bytes"]),
        (json!({ "a": good, "b": f32_tensor(&[4, 2], 16, 48) }), 48, vec!["\"b\"", "overlaps"]),
        (json!({ "a": good, "b": f32_tensor(&[4, 2], 0, 32) }), 32, vec!["\"b\"", "overlaps"]),
        (json!({ "a": good, "b": f32_tensor(&[4, 2], 40, 72) }), 72, vec!["\"b\"", "gap", "40", "32"]),
        (json!({ "a": f32_tensor(&[4, 2], 8, 40) }), 40, vec!["\"a\"", "gap"]),
        (json!({ "a": good }), 31, vec!["truncated", "\"a\"", "31"]),
        (json!({ "a": good }), 33, vec!["32 bytes", "33"]),
        (json!({ "a": { "dtype": "F32", "shape": [-4], "data_offsets": [0, 16] } }), 16, vec!["\"a\""]),
        (json!({ "a": { "dtype": "F31", "shape": [4], "data_offsets": [0, 16] } }), 16, vec!["\"a\"", "F31"]),
        (json!({ "a": { "dtype": "F32", "shape": [4] } }), 16, vec!["\"a\"", "data_offsets"]),
        (json!({ "a": 7 }), 16, vec!["\"a\""]),
        (json!({ "__metadata__": { "layers": ["a"] }, "a": good }), 32, vec!["header is wrong"]),
    ] {
        folder.refuses_header(&header, data, &parts);
    }
}

#[test]
fn a_name_may_be_there_once() {
    let folder = Folder::new();
    let tensor = f32_tensor(&[4, 2], 0, 32);
    write_raw(&folder.path(), &format!("{{\"a\":{tensor},\"a\":{tensor}}}"), &[0; 32]);
    folder.refuses(&["\"a\"", "twice"]);
}

#[test]
fn tensors_that_are_no_activations_are_named() {
    let folder = Folder::new();
    let labels = json!({ "dtype": "I64", "shape": [4], "data_offsets": [0, 32] });
    for (header, data, parts) in [
        (json!({ "labels": labels }), 32, vec!["\"labels\"", "I64", "F16, BF16, F32 or F64"]),
        (json!({ "one": f32_tensor(&[], 0, 4) }), 4, vec!["\"one\"", "first dimension"]),
        (json!({ "empty": f32_tensor(&[4, 0], 0, 0) }), 0, vec!["\"empty\"", "no features"]),
        (
            json!({ "a": f32_tensor(&[4, 2], 0, 32), "b": f32_tensor(&[2, 4], 32, 64) }),
            64,
            vec!["\"a\"", "4 examples", "\"b\"", "2"],
        ),
    ] {
        folder.refuses_header(&header, data, &parts);
    }
    // Whatever --layers leaves out need not be an activation.
    let header = json!({ "labels": labels, "a": f32_tensor(&[4, 2], 32, 64) });
    write_raw(&folder.path(), &header.to_string(), &[0; 64]);
    let file = ActivationFile::open(&folder.path(), Some(&Regex::new("^a$").unwrap())).unwrap();
    assert_eq!((names(&file), file.examples(), file.layers()[0].features), (vec!["a"], 4, 2));
    let error = ActivationFile::open(&folder.path(), Some(&Regex::new("conv").unwrap())).unwrap_err().to_string();
    assert!(error.contains("matches \"conv\""), "{error}");
}

#[test]
fn layers_come_in_the_order_of_the_list_or_else_of_the_data() {
    let folder = Folder::new();
    let layers = ["z", "a", "m"].map(|name| (name, vec![2, 1], vec![1.0, 2.0]));
    let open = |list: Option<&str>| {
        write_layers(&folder.path(), &layers, list.map(|list| json!({ "layers": list, "other": "x" })));
        ActivationFile::open(&folder.path(), None)
    };
    assert_eq!(names(&open(None).unwrap()), ["z", "a", "m"]);
    assert_eq!(names(&open(Some(r#"["m", "z", "a"]"#)).unwrap()), ["m", "z", "a"]);
    for (list, part) in [
        (r#"["m", "z"]"#, "leaves out the tensor \"a\""),
        (r#"["m", "z", "a", "b"]"#, "lists \"b\""),
        (r#"["m", "z", "a", "a"]"#, "\"a\" twice"),
        ("m,z,a", "not a JSON list"),
        (r#"{"m": 1}"#, "not a JSON list"),
    ] {
        let error = open(Some(list)).unwrap_err().to_string();
        assert!(error.contains(part) && error.contains("layers"), "{error}");
    }
}

#[test]
fn what_cannot_be_opened_is_named() {
    let folder = Folder::new();
    folder.refuses(&["open"]);
    fs::create_dir(folder.path()).unwrap();
    folder.refuses(&["not a file"]);
}

#[test]
fn all_four_types_are_read_bit_for_bit_from_any_row() {
    const VALUES: [f32; 6] = [0.0, -1.5, 3.140625, 1e-3, -65504.0, 7.0];
    let halves = VALUES.map(f16::from_f32);
    let brains = VALUES.map(bf16::from_f32);
    let doubles = VALUES.map(|value| f64::from(value) / 3.0);
    let mut header = serde_json::Map::new();
    let mut data: Vec<u8> = Vec::new();
    // The first layer takes 6 bytes, so that the doubles and singles after it are not aligned.
    for (name, dtype, bytes) in [
        ("half", "F16", bytemuck::cast_slice(&halves[..3])),
        ("brain", "BF16", bytemuck::cast_slice(&brains)),
        ("double", "F64", bytemuck::cast_slice(&doubles)),
        ("single", "F32", bytemuck::cast_slice(&VALUES)),
    ] {
        let bytes: &[u8] = bytes;
        let features = if name == "half" { 1 } else { 2 };
        let start = data.len();
        data.extend_from_slice(bytes);
        let entry = json!({ "dtype": dtype, "shape": [3, features], "data_offsets": [start, data.len()] });
        header.insert(name.to_owned(), entry);
    }
    let folder = Folder::new();
    write_raw(&folder.path(), &Value::Object(header).to_string(), &data);
    let file = ActivationFile::open(&folder.path(), None).unwrap();
    let mut rows = Rows::default();
    for examples in [&[0, 1, 2][..], &[1, 2], &[2], &[0], &[2, 0, 1], &[2, 1, 0], &[0, 2]] {
        for (index, layer) in file.layers().iter().enumerate() {
            let activation = file.read(index, examples, &mut rows).unwrap();
            assert_eq!((activation.examples(), activation.features()), (examples.len(), layer.features));
            let places = examples.iter().flat_map(|row| row * layer.features..(row + 1) * layer.features);
            let places: Vec<usize> = places.collect();
            match activation.values() {
                Some(Values::F16(values)) => assert_eq!(values, at(&halves, &places)),
                Some(Values::Bf16(values)) => assert_eq!(values, at(&brains, &places)),
                Some(Values::F32(values)) => assert_eq!(values, at(&VALUES, &places)),
                Some(Values::F64(values)) => assert_eq!(values, at(&doubles, &places)),
                None => panic!("not in memory"),
            }
        }
    }
}

/// The values at these places.
fn at<T: Copy>(values: &[T], places: &[usize]) -> Vec<T> {
    places.iter().map(|&place| values[place]).collect()
}

#[test]
fn a_file_that_shrinks_is_an_error() {
    let folder = Folder::new();
    write_layers(&folder.path(), &[("a", vec![4, 2], vec![0.0; 8])], None);
    let file = ActivationFile::open(&folder.path(), None).unwrap();
    fs::OpenOptions::new().write(true).open(folder.path()).unwrap().set_len(40).unwrap();
    let error = file.read(0, &[0, 1, 2, 3], &mut Rows::default()).map(drop).unwrap_err().to_string();
    assert!(error.contains("read") && error.contains("made.safetensors"), "{error}");
}

#[test]
fn what_is_written_in_pieces_is_read_whole() {
    let folder = Folder::new();
    let layers = [("z".to_owned(), vec![2, 1, 2]), ("a \"β\"".to_owned(), vec![1])];
    let value = |layer: usize, index: usize| (100 * layer + index) as f32 + 0.5;
    let mut writer = ActivationWriter::create(&folder.path(), &layers, 5, &[("layout", "NHWC".to_owned())]).unwrap();
    assert!(!folder.path().exists(), "the file is there before it is whole");
    for batch in [0..2, 2..5] {
        for (layer, features) in [(1, 1), (0, 4)] {
            let values: Vec<f32> =
                (batch.start * features..batch.end * features).map(|index| value(layer, index)).collect();
            writer.append(layer, &values).unwrap();
        }
    }
    writer.finish().unwrap();

    let file = ActivationFile::open(&folder.path(), None).unwrap();
    assert_eq!((names(&file), file.examples()), (vec!["z", "a \"β\""], 5));
    let mut rows = Rows::default();
    for (layer, features) in [(0, 4), (1, 1)] {
        let expected: Vec<f32> = (0..5 * features).map(|index| value(layer, index)).collect();
        let activation = file.read(layer, &[0, 1, 2, 3, 4], &mut rows).unwrap();
        let Some(Values::F32(values)) = activation.values() else { panic!("not float32") };
        assert_eq!(values, expected);
    }
    // The format's own library agrees.
    let bytes = fs::read(folder.path()).unwrap();
    let library = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(library.tensor("z").unwrap().shape(), [5, 2, 1, 2]);
    let (_, metadata) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    assert_eq!(metadata.metadata().as_ref().unwrap()["layout"], "NHWC");
}

#[test]
fn an_unfinished_file_never_appears() {
    let folder = Folder::new();
    let layers = [("a".to_owned(), vec![2])];
    let mut writer = ActivationWriter::create(&folder.path(), &layers, 3, &[]).unwrap();
    writer.append(0, &[1.0; 4]).unwrap();
    let error = writer.finish().unwrap_err().to_string();
    assert!(error.contains("not all examples"), "{error}");
    assert_eq!(fs::read_dir(folder.dir.path()).unwrap().count(), 0);
    let huge = [("a".to_owned(), vec![usize::MAX / 2])];
    assert!(ActivationWriter::create(&folder.path(), &huge, 3, &[]).unwrap_err().to_string().contains("layer a"));
}
