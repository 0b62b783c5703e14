//! What is written is read; what was damaged is found, named and passed over.
#![allow(clippy::unwrap_used)]

use std::fs;

use super::*;

fn tensors(seed: f32) -> Vec<(String, Tensor)> {
    let tensor = |scale: f32| Tensor::new(&[[seed * scale, -0.0, f32::MIN_POSITIVE]], &Device::Cpu).unwrap();
    vec![("stem.conv.weight".to_owned(), tensor(1.0)), ("logits.bias".to_owned(), tensor(3.0))]
}

fn position(epochs: usize, steps: usize) -> Position {
    Position { epochs, partial: Partial { steps, loss_sum: 0.1 + 0.2, correct: 7.0, seconds: 1.0 / 3.0 } }
}

fn write(path: &Path, position: Position) {
    save(path, position, "data", &tensors(0.7), &tensors(-1.3)[..1]).unwrap();
}

#[test]
fn what_is_saved_is_loaded_bit_for_bit() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("checkpoint.safetensors");
    write(&path, position(3, 5));
    let checkpoint = load(&path).unwrap();
    assert_eq!((checkpoint.position, checkpoint.data.as_str()), (position(3, 5), "data"));
    let bits = |tensor: &Tensor| -> Vec<u32> {
        tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap().iter().map(|value| value.to_bits()).collect()
    };
    let (state, velocities) = (checkpoint.state(), checkpoint.velocities());
    let check = |part: &Part<'_>, name: &str, tensor: &Tensor| {
        assert!(part.shapes().contains(&(name, tensor.dims())), "{name}: {:?}", part.shapes());
        assert_eq!(bits(&part.tensor(name).unwrap()), bits(tensor));
    };
    tensors(0.7).iter().for_each(|(name, tensor)| check(&state, name, tensor));
    check(&velocities, "stem.conv.weight", &tensors(-1.3)[0].1);
    assert_eq!((state.shapes().len(), velocities.shapes().len()), (2, 1));
    let bytes = fs::read(&path).unwrap();
    write(&path, position(3, 5));
    assert_eq!(fs::read(&path).unwrap(), bytes, "the same checkpoint makes other bytes");
}

/// A seal says that a file is as it was written, not by whom.
#[test]
fn what_holds_other_numbers_is_passed_over() {
    let dir = tempfile::tempdir().unwrap();
    let paths: Vec<PathBuf> = ["latest", "previous"].map(|name| dir.path().join(name)).into();
    let about = Description { format: FORMAT, position: position(4, 0), data: "data".to_owned() };
    sealed::write(&paths[0], KIND, &about, &[("logits.bias", Dtype::BOOL, vec![3], &[0, 1, 0])]).unwrap();
    let message = load(&paths[0]).unwrap_err().to_string();
    assert!(message.contains("logits.bias holds no float32 numbers"), "{message}");
    write(&paths[1], position(3, 0));
    assert_eq!(newest(&paths).unwrap().unwrap().path(), paths[1]);
}

#[test]
fn the_newest_good_one_is_taken() {
    let dir = tempfile::tempdir().unwrap();
    let paths: Vec<PathBuf> = ["interrupted", "latest", "previous"].map(|name| dir.path().join(name)).into();
    assert!(newest(&paths).unwrap().is_none());
    write(&paths[1], position(4, 0));
    write(&paths[2], position(3, 0));
    let newest_name = || newest(&paths).map(|found| found.unwrap().path().file_name().unwrap().to_owned());
    assert_eq!(newest_name().unwrap(), "latest");
    write(&paths[0], position(4, 2));
    assert_eq!(newest_name().unwrap(), "interrupted");
    for (path, next) in [(0, Some("latest")), (1, Some("previous")), (2, None)] {
        let bytes = fs::read(&paths[path]).unwrap();
        fs::write(&paths[path], &bytes[..bytes.len() - 1]).unwrap();
        match next {
            Some(next) => assert_eq!(newest_name().unwrap(), next),
            None => assert!(newest_name().unwrap_err().to_string().contains("interrupted")),
        }
    }
}
