//! The emulation notices what it is there to notice, and lets correct kernels pass.
#![allow(clippy::unwrap_used)]

use gramscope_emulation::{Buffer, Error, Launch};

const COUNT: usize = 256;
/// Orders of threads that each kernel is tried in.
const SEEDS: u64 = 20;

fn run(entry: &str, seed: u64, rounds: usize) -> Result<Vec<f32>, Error> {
    let values: Vec<f32> = (0..COUNT).map(|i| i as f32).collect();
    let (input, mut output) = (Buffer::new(&values), Buffer::poisoned(rounds * COUNT));
    Launch::new(entry).blocks([1, 1, 1], 256, COUNT * 4).seed(seed).output(&mut output).input(&input).run()?;
    Ok(output.values().to_vec())
}

fn reversed() -> Vec<f32> {
    (0..COUNT).rev().map(|i| i as f32).collect()
}

/// In how many of the orders the kernel's result is `expected`.
fn right(entry: &str, expected: &[f32]) -> u64 {
    (0..SEEDS).filter(|&seed| run(entry, seed, expected.len() / COUNT).unwrap() == expected).count() as u64
}

fn swapped() -> Vec<f32> {
    (0..COUNT).map(|i| (i ^ 1) as f32).collect()
}

#[test]
fn correct_kernels_are_right_in_every_order() {
    assert_eq!(right("gs_faulty_correct", &reversed()), SEEDS);
    assert_eq!(right("gs_faulty_correct_copy", &reversed()), SEEDS);
    assert_eq!(right("gs_faulty_correct_warp_barrier", &swapped()), SEEDS);
}

#[test]
fn a_missing_barrier_shows() {
    assert_eq!(right("gs_faulty_no_barrier", &reversed()), 0);
}

#[test]
fn a_missing_barrier_before_memory_is_used_again_shows() {
    let second: Vec<f32> = reversed().iter().map(|value| value + 1.0).collect();
    assert!(right("gs_faulty_no_second_barrier", &[reversed(), second].concat()) <= SEEDS / 4);
}

#[test]
fn a_missing_warp_barrier_shows() {
    assert_eq!(right("gs_faulty_no_warp_barrier", &swapped()), 0);
}

#[test]
fn a_missing_wait_for_copies_shows() {
    assert_eq!(right("gs_faulty_no_wait", &reversed()), 0);
    assert_eq!(right("gs_faulty_short_wait", &reversed()), 0);
    assert!(run("gs_faulty_no_wait", 0, 1).unwrap().iter().all(|value| value.is_nan()));
}

#[test]
fn shared_memory_that_nothing_wrote_is_nan() {
    let output = run("gs_faulty_unwritten", 3, 1).unwrap();
    assert!(output[COUNT - 1 - 77].is_nan());
    assert_eq!(output.iter().filter(|value| value.is_nan()).count(), 1);
}

#[test]
fn what_cannot_end_well_is_an_error() {
    let message = |entry| run(entry, 1, 1).unwrap_err().to_string();
    assert!(message("gs_faulty_beyond_shared").contains("beyond the shared memory"));
    assert!(message("gs_faulty_divergent_barrier").contains("255 threads wait at a barrier"));
    assert!(message("gs_faulty_divergent_warp").contains("248 for other lanes"));
    assert!(message("gs_faulty_of_another_name").contains("no such entry"));
}

#[test]
fn wrong_arguments_are_refused() {
    let mut output = Buffer::<f32>::poisoned(COUNT);
    let error = Launch::new("gs_faulty_correct").output(&mut output).run().unwrap_err();
    assert!(error.to_string().contains("1 arguments instead of 2"));
    let error = Launch::new("gs_faulty_correct").output(&mut output).value(1.0f32).run().unwrap_err();
    assert!(error.to_string().contains("4 bytes instead of 8"));
}

#[test]
fn writes_next_to_a_buffer_are_an_error() {
    let (input, mut output) = (Buffer::new(&[0.0f32; COUNT]), Buffer::<f32>::poisoned(COUNT - 1));
    let launch = Launch::new("gs_faulty_correct").blocks([1, 1, 1], 256, COUNT * 4);
    let error = launch.output(&mut output).input(&input).run().unwrap_err();
    assert!(error.to_string().contains("next to buffer 0"));
}

#[test]
fn the_last_block_sees_what_all_have_written() {
    for seed in 0..SEEDS {
        let (mut sum, mut parts) = (Buffer::<f32>::poisoned(1), Buffer::<f32>::poisoned(7));
        let mut arrivals = Buffer::new(&[0u32]);
        let launch = Launch::new("gs_faulty_correct_last_block").blocks([7, 1, 1], 64, 16).seed(seed);
        launch.output(&mut sum).output(&mut parts).output(&mut arrivals).run().unwrap();
        assert_eq!((sum.values()[0], arrivals.values()[0]), (28.0, 0));
    }
}
