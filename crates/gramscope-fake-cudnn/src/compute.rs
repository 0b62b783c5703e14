//! Plans at work: products in plain loops.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::sleep;
use std::time::Duration;

use half::bf16;

use crate::descriptor::{Closed, kind};
use crate::engines::{Engine, PART_BYTES};
use crate::problem::{Problem, Product, Stored, Tensor};
use crate::status::{BAD_PARAM, DESCRIPTOR_TYPE, Failure, MISALIGNED, NULL_POINTER};

/// How much slower engines are than those that are not to be chosen: engine 0, and a part of engine 3.
const SLOW: Duration = Duration::from_micros(900);
const PART: Duration = Duration::from_micros(150);

/// A plan and where its tensors are.
pub(crate) struct Work {
    problem: Arc<Problem>,
    engine: Engine,
    /// Of images, weights, results and biases.
    addresses: [usize; 4],
    workspace: usize,
}

impl PartialEq for Work {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.problem, &other.problem)
            && (&self.engine, self.addresses, self.workspace) == (&other.engine, other.addresses, other.workspace)
    }
}

impl Work {
    /// What executing a plan with a pack means.
    pub(crate) fn new(plan: &Closed, pack: &Closed) -> Result<Self, Failure> {
        let (problem, engine) = plan.plan()?;
        if pack.kind != kind::VARIANT_PACK {
            return Err(Failure::new(DESCRIPTOR_TYPE, "no variant pack"));
        }
        let (numbers, given) = (pack.numbers(1000), pack.numbers(1001));
        let mut addresses = [0; 4];
        for (tensor, place) in problem.tensors().zip(&mut addresses) {
            let found = numbers.iter().position(|number| *number == tensor.number);
            let missing = || Failure::new(BAD_PARAM, format!("the pack has no tensor {}", tensor.number));
            *place = given[found.ok_or_else(missing)?].cast_unsigned() as usize;
            if *place == 0 {
                return Err(Failure::new(NULL_POINTER, format!("tensor {}", tensor.number)));
            }
            if !place.is_multiple_of(tensor.alignment) {
                return Err(Failure::new(MISALIGNED, format!("tensor {} at {place:#x}", tensor.number)));
            }
        }
        if numbers.len() != problem.tensors().count() {
            return Err(Failure::new(BAD_PARAM, "the pack has tensors that the graph has not"));
        }
        let workspace = pack.number(1003).cast_unsigned() as usize;
        if workspace == 0 && engine.workspace > 0 {
            return Err(Failure::new(NULL_POINTER, "the workspace"));
        }
        Ok(Self { problem: problem.clone(), engine: engine.clone(), addresses, workspace })
    }

    /// Writes to the trace which engine is enqueued.
    pub(crate) fn note(&self) {
        let Engine { index, .. } = self.engine;
        crate::note(&format!("{:?} {index}", self.problem.product));
    }

    /// Computes it.
    pub(crate) fn run(&self) {
        match self.engine.index {
            0 => sleep(SLOW),
            3 => self.use_workspace(),
            _ => {}
        }
        match self.problem.product {
            Product::Forward => self.forward(),
            Product::InputGradient => self.input_gradient(),
            Product::WeightGradient => self.weight_gradient(),
        }
    }

    /// Every byte of the workspace is written: what is there is lost, and what is beside it is noticed.
    fn use_workspace(&self) {
        sleep(PART * u32::try_from(self.engine.parts()).unwrap_or(1));
        // SAFETY: the caller has given so many bytes, which are the plan's.
        unsafe { std::ptr::write_bytes(self.workspace as *mut u8, 0xA7, PART_BYTES * self.engine.parts()) };
    }

    fn forward(&self) {
        let Problem { results, biases, .. } = &*self.problem;
        let [images, channels, rows, columns] = results.dimensions;
        for place in places([images, rows, columns, channels]) {
            let [n, i, j, o] = place;
            let mut sum = self.sum();
            self.for_window(i, j, |u, v, row, column| {
                for c in 0..self.problem.images.dimensions[1] {
                    sum.add(self.x([n, c, row, column]), self.w([o, c, u, v]));
                }
            });
            let bias = biases.as_ref().map_or(0.0, |biases| load(biases, self.addresses[3], [0, o, 0, 0]));
            store(results, self.addresses[2], [n, o, i, j], sum.total() as f32 + bias);
        }
    }

    fn input_gradient(&self) {
        let Problem { images, weights, results, stride, padding, adds, .. } = &*self.problem;
        let [count, channels, height, width] = images.dimensions;
        let ([outputs, _, down, across], [_, _, rows, columns]) = (weights.dimensions, results.dimensions);
        // The window that reaches a pixel with its position `tap`, if it has a place.
        let window = |pixel: usize, tap: usize, axis: usize, side: usize| {
            let offset = (pixel + padding[axis]).checked_sub(tap)?;
            let place = offset / stride[axis];
            (offset.is_multiple_of(stride[axis]) && place < side).then_some(place)
        };
        for [n, h, w, c] in places([count, height, width, channels]) {
            let mut sum = self.sum();
            for u in 0..down {
                for v in 0..across {
                    let (Some(i), Some(j)) = (window(h, u, 0, rows), window(w, v, 1, columns)) else { continue };
                    for o in 0..outputs {
                        sum.add(self.y([n, o, i, j]), self.w([o, c, u, v]));
                    }
                }
            }
            let place = [n, c, h, w];
            let before = if *adds { load(images, self.addresses[0], place) } else { 0.0 };
            store(images, self.addresses[0], place, sum.total() as f32 + before);
        }
    }

    fn weight_gradient(&self) {
        let Problem { weights, results, .. } = &*self.problem;
        let ([outputs, channels, down, across], [images, _, rows, columns]) = (weights.dimensions, results.dimensions);
        for [o, u, v, c] in places([outputs, down, across, channels]) {
            let mut sum = self.sum();
            for [n, i, j, _] in places([images, rows, columns, 1]) {
                let pixel = (self.pixel(i, u, 0), self.pixel(j, v, 1));
                let (Some(row), Some(column)) = pixel else { continue };
                sum.add(self.x([n, c, row, column]), self.y([n, o, i, j]));
            }
            store(weights, self.addresses[1], [o, c, u, v], sum.total() as f32);
        }
    }

    /// The pixel of a window's position, if it is within the image.
    fn pixel(&self, window: usize, tap: usize, axis: usize) -> Option<usize> {
        let Problem { images, stride, padding, .. } = &*self.problem;
        let pixel = (window * stride[axis] + tap).checked_sub(padding[axis])?;
        (pixel < images.dimensions[2 + axis]).then_some(pixel)
    }

    /// Calls `each` with the positions in a window whose pixels are there, and these.
    fn for_window(&self, i: usize, j: usize, mut each: impl FnMut(usize, usize, usize, usize)) {
        let [_, _, down, across] = self.problem.weights.dimensions;
        for u in 0..down {
            for v in 0..across {
                if let (Some(row), Some(column)) = (self.pixel(i, u, 0), self.pixel(j, v, 1)) {
                    each(u, v, row, column);
                }
            }
        }
    }

    fn x(&self, place: [usize; 4]) -> f32 {
        self.factor(load(&self.problem.images, self.addresses[0], place))
    }

    fn w(&self, place: [usize; 4]) -> f32 {
        self.factor(load(&self.problem.weights, self.addresses[1], place))
    }

    fn y(&self, place: [usize; 4]) -> f32 {
        self.factor(load(&self.problem.results, self.addresses[2], place))
    }

    /// A factor as the engine takes it.
    fn factor(&self, value: f32) -> f32 {
        match self.engine.index {
            // 11 significant bits, to nearest.
            2 if value.is_finite() => f32::from_bits(value.to_bits().wrapping_add(0x1000) & !0x1FFF),
            5 => bf16::from_f32(value).to_f32(),
            _ => value,
        }
    }

    /// An empty sum, as the engine makes it.
    fn sum(&self) -> Sum {
        static LAUNCHES: AtomicU64 = AtomicU64::new(0);
        match self.engine.index {
            0 => Sum::Double(0.0),
            1 => Sum::Single { parts: vec![0.0; 1 + (LAUNCHES.fetch_add(1, Ordering::Relaxed) % 3) as usize], next: 0 },
            _ => Sum::Single { parts: vec![0.0; self.engine.parts()], next: 0 },
        }
    }
}

/// A sum of products.
enum Sum {
    Double(f64),
    /// The terms go to the parts in turn.
    Single {
        parts: Vec<f32>,
        next: usize,
    },
}

impl Sum {
    fn add(&mut self, a: f32, b: f32) {
        match self {
            Self::Double(sum) => *sum += f64::from(a) * f64::from(b),
            Self::Single { parts, next } => {
                parts[*next] = a.mul_add(b, parts[*next]);
                *next = (*next + 1) % parts.len();
            }
        }
    }

    fn total(&self) -> f64 {
        match self {
            Self::Double(sum) => *sum,
            Self::Single { parts, .. } => parts.iter().sum::<f32>().into(),
        }
    }
}

/// All places of an array of these dimensions.
fn places([a, b, c, d]: [usize; 4]) -> impl Iterator<Item = [usize; 4]> {
    (0..a * b * c * d).map(move |index| [index / d / c / b, index / d / c % b, index / d % c, index % d])
}

fn offset(tensor: &Tensor, place: [usize; 4]) -> usize {
    place.iter().zip(tensor.strides).map(|(place, stride)| place * stride).sum::<usize>() * tensor.value_bytes()
}

fn load(tensor: &Tensor, address: usize, place: [usize; 4]) -> f32 {
    let at = address + offset(tensor, place);
    // SAFETY: the caller of cudnnBackendExecute has given memory for the whole tensor, aligned to its values or more.
    unsafe {
        match tensor.stored {
            Stored::Float => (at as *const f32).read(),
            Stored::Bfloat16 => bf16::from_bits((at as *const u16).read()).to_f32(),
        }
    }
}

fn store(tensor: &Tensor, address: usize, place: [usize; 4], value: f32) {
    let at = address + offset(tensor, place);
    // SAFETY: as in `load`, and it may be written.
    unsafe {
        match tensor.stored {
            Stored::Float => (at as *mut f32).write(value),
            Stored::Bfloat16 => (at as *mut u16).write(bf16::from_f32(value).to_bits()),
        }
    }
}
