//! The parsers of everything that may come from strangers, each as a function of bytes: what they make of them does not
//! matter, as long as they return. Also the ordinary tests' (tests/hostile.rs), which run them over the corpus.
//!
//! Each returns the bytes of output that its input declares and its parser has checked: those it may take beside its own.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::sync::OnceLock;

use candle_core::Device;
use flate2::Compression;
use flate2::write::GzEncoder;
use gramscope_study::Saved;
use gramscope_study::activations::{ActivationFile, Rows};
use gramscope_study::blocks::WithinMap;
use gramscope_study::pair::PairResult;
use gramscope_study::studies::StudyPlan;
use gramscope_train::data::fetch::{self, Archive};
use gramscope_train::data::{self, DataConfig, DataName};
use gramscope_train::sweep::Plan;
use gramscope_train::{Run, RunConfig};
use md5::{Digest, Md5};
use tempfile::TempDir;

/// What parts the files that one input stands for.
const SEPARATOR: &[u8] = b"\n--8<--\n";

/// A folder that is used again by every input; deleted by whoever deletes temporary files, if the process is killed.
fn folder() -> &'static Path {
    static FOLDER: OnceLock<TempDir> = OnceLock::new();
    FOLDER.get_or_init(|| TempDir::new().expect("there is a place for temporary files")).path()
}

/// Replaces the file `name` below the folder.
fn put(name: &str, bytes: &[u8]) {
    let path = folder().join(name);
    fs::create_dir_all(path.parent().unwrap_or(folder())).expect("the folder can be written to");
    fs::write(path, bytes).expect("the folder can be written to");
}

/// The two files that `bytes` stand for.
fn halves(bytes: &[u8]) -> (&[u8], &[u8]) {
    match bytes.windows(SEPARATOR.len()).position(|window| window == SEPARATOR) {
        Some(at) => (&bytes[..at], &bytes[at + SEPARATOR.len()..]),
        None => (bytes, &[]),
    }
}

/// A safetensors file of activations: every layer's first example is read.
pub fn activations(bytes: &[u8]) -> u64 {
    put("activations", bytes);
    if let Ok(file) = ActivationFile::open(&folder().join("activations"), None) {
        let mut rows = Rows::default();
        for layer in 0..file.layers().len().min(8) {
            if file.examples() > 0 {
                let _ = file.read(layer, &[0], &mut rows);
            }
        }
    }
    0
}

/// A checkpoint of a run whose settings are those of the corpus.
pub fn checkpoint(bytes: &[u8]) -> u64 {
    let dir = folder().join("run");
    put("run/config.toml", include_bytes!("../corpus/config/tiny.toml"));
    put("run/checkpoints/latest.safetensors", bytes);
    let _ = Run::open(&dir).and_then(|run| run.network(&Device::Cpu));
    0
}

/// cka.json and cka.npz.
pub fn result(bytes: &[u8]) -> u64 {
    let (info, numbers) = halves(bytes);
    put("result/cka.json", info);
    put("result/cka.npz", numbers);
    let _ = PairResult::load(&folder().join("result"));
    0
}

/// A map of another tool: json and npz.
pub fn map(bytes: &[u8]) -> u64 {
    let (info, numbers) = halves(bytes);
    put("map/cka.json", info);
    put("map/cka.npz", numbers);
    let _ = WithinMap::read(&folder().join("map"));
    0
}

/// CIFAR's binary files: every file of records is this one, and so are the names of the classes.
pub fn cifar(bytes: &[u8]) -> u64 {
    let (records, names) = halves(bytes);
    for batch in 1..=5 {
        put(&format!("cifar/data_batch_{batch}.bin"), records);
    }
    put("cifar/test_batch.bin", records);
    put("cifar/batches.meta.txt", names);
    let dir = Some(folder().join("cifar"));
    let _ = data::load(&DataConfig { name: DataName::Cifar10, dir, ..DataConfig::default() });
    0
}

/// A picture in a folder of images, under the name of either format.
pub fn images(bytes: &[u8]) -> u64 {
    for path in ["images/train/a/one.png", "images/test/a/one.jpg"] {
        put(path, bytes);
    }
    let dir = Some(folder().join("images"));
    let _ = data::load(&DataConfig { name: DataName::Folder, dir, image_side: Some(8), ..DataConfig::default() });
    // A picture may take 512 MiB, twice while it is turned or converted, on every thread.
    4 << 30
}

/// A plan of a sweep, and of a study.
pub fn plan(bytes: &[u8]) -> u64 {
    put("study.toml", bytes);
    let _ = StudyPlan::named(&folder().join("study.toml").to_string_lossy());
    let runs = Plan::parse(&String::from_utf8_lossy(bytes)).map_or(0, |plan| plan.runs().len());
    // The settings of a run, and the few texts that they may hold.
    1024 * runs as u64
}

/// A run's config.toml.
pub fn config(bytes: &[u8]) -> u64 {
    let _ = RunConfig::parse(&String::from_utf8_lossy(bytes));
    0
}

/// A run's metrics.jsonl.
pub fn metrics(bytes: &[u8]) -> u64 {
    put("metrics/config.toml", include_bytes!("../corpus/config/tiny.toml"));
    put("metrics/metrics.jsonl", bytes);
    let _ = Run::open(&folder().join("metrics")).and_then(|run| run.metrics());
    0
}

/// A tar archive, or with a leading `z` what claims to be a compressed one, as `data fetch` finds it downloaded.
pub fn archive(bytes: &[u8]) -> u64 {
    let packed = match bytes.strip_prefix(b"z") {
        Some(packed) => packed.to_vec(),
        None => {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::none());
            encoder.write_all(bytes).and_then(|()| encoder.finish()).expect("memory takes everything")
        }
    };
    let md5: String = Md5::digest(&packed).iter().map(|byte| format!("{byte:02x}")).collect();
    let archive = Archive {
        file: "archive.tar.gz",
        md5: &md5,
        bytes: packed.len() as u64,
        folder: "folder",
        unpacked_bytes: 1 << 20,
    };
    put("cache/archive.tar.gz.part", &packed);
    let cache = folder().join("cache");
    // Everything is there: no server is asked, and this is none.
    let _ = fetch::fetch(&archive, &cache, "http://127.0.0.1:1", &mut |_, _| ());
    let _ = fs::remove_dir_all(cache.join(archive.folder));
    let outside: Vec<_> =
        fs::read_dir(&cache).map(|entries| entries.flatten().map(|e| e.file_name()).collect()).unwrap_or_default();
    let known = |name: &std::ffi::OsString| name == "archive.tar.gz.part";
    assert!(outside.iter().all(known), "{outside:?} lie beside the archive's folder");
    0
}
