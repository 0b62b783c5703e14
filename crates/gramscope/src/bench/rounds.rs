//! Kinds of batches that take turns: a round is a batch of each, so that what else the machine does meets them all.

use std::time::{Duration, Instant};

use cpu_time::ProcessTime;

use super::median;

/// Rounds that do not count (on a GPU, memory is taken in the first, and the second captures what can be), and rounds whose median
/// does.
const WARM_UP: usize = 2;
const ROUNDS: usize = 9;
/// Batches of each kind.
pub(super) const BATCHES: usize = WARM_UP + ROUNDS;

/// Runs a batch, from its images to whatever is done with it, and waits for a GPU that does it.
pub(super) type Batch = Box<dyn FnMut() -> anyhow::Result<()>>;

/// Milliseconds of a batch, or how many times those of another.
#[derive(Clone, Copy, Debug)]
pub(super) struct Time {
    pub(super) wall: f64,
    /// Of all threads together.
    pub(super) cpu: f64,
}

/// Medians over the rounds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Taken {
    /// What a batch takes.
    pub(super) ms: Time,
    /// How many times what the first kind's takes in the same round,
    pub(super) over_first: Time,
    /// and how much more.
    pub(super) beyond_first: Time,
}

/// Measures batches of every kind, [`BATCHES`] of each.
///
/// # Errors
/// Those of the batches; a clock that cannot be read.
pub(super) fn in_turn(mut batches: Vec<Batch>) -> anyhow::Result<Vec<Taken>> {
    let mut times = vec![Vec::with_capacity(ROUNDS); batches.len()];
    for round in 0..BATCHES {
        for (batch, times) in batches.iter_mut().zip(&mut times) {
            let time = time(batch)?;
            if round >= WARM_UP {
                times.push(time);
            }
        }
    }
    let Some(first) = times.first() else { return Ok(Vec::new()) };
    Ok(times.iter().map(|times| Taken::of(times, first)).collect())
}

fn time(batch: &mut Batch) -> anyhow::Result<Time> {
    let (wall, cpu) = (Instant::now(), ProcessTime::try_now()?);
    batch()?;
    let milliseconds = |time: Duration| time.as_secs_f64() * 1e3;
    Ok(Time { wall: milliseconds(wall.elapsed()), cpu: milliseconds(cpu.try_elapsed()?) })
}

impl Taken {
    fn of(times: &[Time], first: &[Time]) -> Self {
        let medians = |of: &dyn Fn(f64, f64) -> f64| Time {
            wall: median(times.iter().zip(first).map(|(own, first)| of(own.wall, first.wall)).collect()),
            cpu: median(times.iter().zip(first).map(|(own, first)| of(own.cpu, first.cpu)).collect()),
        };
        Self {
            ms: medians(&|own, _| own),
            over_first: medians(&|own, first| own / first),
            beyond_first: medians(&|own, first| own - first),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ratios and differences are those of a round: where the third round is slow for both kinds, neither shows it.
    #[test]
    fn rounds_are_compared_within_themselves() {
        let times = |walls: [f64; 3]| walls.map(|wall| Time { wall, cpu: 2.0 * wall });
        let taken = Taken::of(&times([3.0, 6.0, 30.0]), &times([1.0, 2.0, 10.0]));
        assert_eq!((taken.ms.wall, taken.over_first.wall, taken.beyond_first.wall), (6.0, 3.0, 4.0));
        assert_eq!((taken.ms.cpu, taken.over_first.cpu, taken.beyond_first.cpu), (12.0, 3.0, 8.0));
    }
}
