//! The engines that there are, for every problem alike. The fastest are those that a careful program does not choose.
//!
//! | engine | how it computes | notes |
//! | --- | --- | --- |
//! | 0 | float64 sums, slowly | none but that NaN is passed on |
//! | 1 | another order from launch to launch | non-deterministic |
//! | 2 | factors rounded to TF32 | tensor cores |
//! | 3 | float32 sums in parts, as a knob says, each part in its workspace; slower with more of them; compiled for it | none |
//! | 4 | not at all: it is offered and makes no plan | none |
//! | 5 | factors rounded to bfloat16 | down-converted inputs |
//!
//! As the real library, it offers none for the weights' gradients of bfloat16 images with three channels, and none that gives those
//! of others as float32 unless an operation of its own stores them.

use std::ffi::c_int;

use crate::problem::{Problem, Product, Stored};
use crate::status::{Failure, NOT_SUPPORTED};

const TENSOR_CORE: c_int = 0;
const DOWN_CONVERT: c_int = 1;
const NON_DETERMINISTIC: c_int = 4;
const STRICT_NAN: c_int = 9;

/// Parts of a sum: `CUDNN_KNOB_TYPE_SPLIT_K_SLC`.
const PARTS: c_int = 17;
/// Bytes of workspace a part.
pub(crate) const PART_BYTES: usize = 512;
/// Heuristics: the most promising, and what remains.
const MODE_A: i64 = 3;
const FALLBACK: i64 = 2;

/// An engine with settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Engine {
    pub(crate) index: i64,
    pub(crate) notes: Vec<c_int>,
    pub(crate) knobs: Vec<(c_int, i64)>,
    pub(crate) workspace: usize,
    pub(crate) is_compiled: bool,
}

impl Engine {
    /// Parts of a sum.
    pub(crate) fn parts(&self) -> usize {
        self.knobs.first().map_or(1, |&(_, parts)| usize::try_from(parts).unwrap_or(1))
    }
}

fn plain(index: i64, notes: &[c_int]) -> Engine {
    Engine { index, notes: notes.to_vec(), knobs: Vec::new(), workspace: 0, is_compiled: false }
}

fn in_parts(parts: i64) -> Engine {
    let workspace = PART_BYTES * usize::try_from(parts).unwrap_or(0);
    Engine { knobs: vec![(PARTS, parts)], workspace, is_compiled: true, ..plain(3, &[]) }
}

/// All engines of a problem, with settings that they may have.
pub(crate) fn all(problem: &Problem) -> Vec<Engine> {
    let is_short = problem.images.stored == Stored::Bfloat16 && problem.product == Product::WeightGradient;
    if is_short && (problem.images.dimensions[1] == 3 || !problem.is_stored_apart) {
        return Vec::new();
    }
    vec![
        plain(1, &[NON_DETERMINISTIC]),
        plain(2, &[TENSOR_CORE]),
        plain(4, &[]),
        in_parts(4),
        in_parts(2),
        in_parts(8),
        in_parts(1),
        plain(5, &[DOWN_CONVERT]),
        plain(0, &[STRICT_NAN]),
    ]
}

/// Those that heuristics of a mode offer.
pub(crate) fn offered(problem: &Problem, mode: i64) -> Result<Vec<Engine>, Failure> {
    let all = all(problem).into_iter();
    match mode {
        MODE_A => Ok(all.filter(|engine| engine.index != 0).collect()),
        FALLBACK => Ok(all.filter(|engine| [0, 1].contains(&engine.index)).collect()),
        _ => Err(Failure::new(NOT_SUPPORTED, format!("no heuristics of mode {mode} here"))),
    }
}

/// Engine `index` with these knobs, as a plan is made of it.
pub(crate) fn with_knobs(problem: &Problem, index: i64, knobs: &[(c_int, i64)]) -> Result<Engine, Failure> {
    let found = all(problem).into_iter().find(|engine| engine.index == index && engine.knobs == knobs);
    match found {
        Some(Engine { index: 4, .. }) => Err(Failure::new(NOT_SUPPORTED, "engine 4 makes no plans")),
        Some(engine) => Ok(engine),
        None => Err(Failure::new(NOT_SUPPORTED, format!("there is no engine {index} with knobs {knobs:?}"))),
    }
}
