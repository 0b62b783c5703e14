//! A program, how long its values are wanted, and how much memory they take.

use std::borrow::Borrow;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use crate::ops::lanes::LANES;
use crate::program::{IMAGES, NamedConvolution, Program, Step, Value, ValueId};
use crate::topology::ConvolutionPlan;

/// A program, ready to be carried out.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) program: Program,
    /// Of each value, the place of the last step that uses it.
    last_uses: Vec<usize>,
    /// Of each shape, the places of the steps that make values of it, ascending.
    made: HashMap<Value, Vec<usize>>,
    /// The places of the steps that give logits, ascending.
    logits: Vec<usize>,
}

impl Plan {
    pub(crate) fn new(program: Program) -> Self {
        let (mut made, mut known) = (HashMap::<Value, Vec<usize>>::new(), HashSet::from([IMAGES]));
        for (place, step) in program.steps.iter().enumerate() {
            for value in step.values().filter(|&value| known.insert(value)) {
                made.entry(program.values[value]).or_default().push(place);
            }
        }
        let logits = (0..program.steps.len()).filter(|&place| matches!(program.steps[place], Step::Logits)).collect();
        Self { last_uses: program.last_uses(), made, logits, program }
    }

    /// Whether no step behind this place uses the value.
    pub(super) fn is_done(&self, value: ValueId, place: usize) -> bool {
        self.last_uses[value] <= place
    }

    /// Whether a step behind this place makes a value of that shape, and before the next logits: what only another choice of deleted
    /// blocks has a use for need not lie there until then.
    pub(super) fn makes_soon(&self, shape: Value, place: usize) -> bool {
        let next = |places: &[usize]| places.get(places.partition_point(|&other| other <= place)).copied();
        let made = self.made.get(&shape).and_then(|places| next(places));
        made.is_some_and(|made| next(&self.logits).is_none_or(|logits| made <= logits))
    }

    /// The most bytes that carrying it out without a backward pass takes for so many images, themselves included.
    pub(crate) fn bytes(&self, images: usize) -> u64 {
        let Program { convolutions, features, classes, .. } = &self.program;
        // A thread keeps its copy of an image, whichever convolutions it takes part in.
        let padded = convolutions.iter().map(padded_length).max().unwrap_or(0) * rayon::current_num_threads();
        let linear = features * classes.next_multiple_of(LANES);
        let packed = convolutions.iter().map(packed_length).max().unwrap_or(0).max(linear);
        let image = self.numbers() + features + classes;
        let all = (image as u64).saturating_mul(images as u64).saturating_add((padded + packed) as u64);
        all.saturating_mul(size_of::<f32>() as u64)
    }

    /// The most numbers an image that lie in memory at once, if no value takes over another's memory within a step.
    pub(crate) fn numbers(&self) -> usize {
        let mut spare: HashMap<Value, usize> = HashMap::new();
        let mut known = HashSet::from([IMAGES]);
        let shapes = &self.program.values;
        let mut held = shapes[IMAGES].length();
        let mut most = held;
        for (place, step) in self.program.steps.iter().enumerate() {
            for value in step.values().filter(|&value| known.insert(value)) {
                match spare.get_mut(&shapes[value]) {
                    Some(count) if *count > 0 => *count -= 1,
                    _ => held += shapes[value].length(),
                }
            }
            most = most.max(held);
            let used: HashSet<ValueId> = step.values().collect();
            for &value in used.iter().filter(|&&value| self.is_done(value, place)) {
                *spare.entry(shapes[value]).or_default() += 1;
            }
            for shape in used.into_iter().map(|value| shapes[value]).filter(|&shape| !self.makes_soon(shape, place)) {
                held -= spare.remove(&shape).unwrap_or(0) * shape.length();
            }
        }
        most
    }
}

/// The plan that was last asked for, for whoever asks for the same again.
#[derive(Debug)]
pub(crate) struct LastPlan<K>(Mutex<Option<(K, Arc<Plan>)>>);

impl<K> LastPlan<K> {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(None))
    }

    /// The plan of `program`, which depends on `key` alone.
    pub(crate) fn get<Q>(&self, key: &Q, program: impl FnOnce() -> Program) -> Arc<Plan>
    where
        K: Borrow<Q>,
        Q: ?Sized + PartialEq + ToOwned<Owned = K>,
    {
        // A thread that panicked here left a whole plan, or none.
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match last.as_ref().filter(|(known, _)| known.borrow() == key) {
            Some((_, plan)) => plan.clone(),
            None => last.insert((key.to_owned(), Arc::new(Plan::new(program())))).1.clone(),
        }
    }
}

/// Numbers of an image with zeros around it, as a thread convolves it.
fn padded_length(NamedConvolution { plan, side, .. }: &NamedConvolution) -> usize {
    let padded = side + 2 * (plan.kernel / 2);
    padded * padded * plan.from
}

/// Numbers of a convolution's weights as they are multiplied.
fn packed_length(NamedConvolution { plan, .. }: &NamedConvolution) -> usize {
    let ConvolutionPlan { kernel, from, to, .. } = *plan;
    kernel * kernel * from * to.next_multiple_of(LANES)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::ResNetConfig;

    #[test]
    fn the_last_plan_is_kept_and_no_other() {
        let config = ResNetConfig { depth: 8, image_side: 6, classes: 3, ..ResNetConfig::default() };
        let (last, made) = (LastPlan::<Vec<bool>>::new(), Cell::new(0));
        let get = |key: &[bool]| {
            last.get(key, || {
                made.set(made.get() + 1);
                config.program(if key[0] { Program::training } else { Program::evaluation })
            })
        };
        let first = get(&[true]);
        assert!(Arc::ptr_eq(&first, &get(&[true])));
        let second = get(&[false]);
        assert_ne!(first.program.steps, second.program.steps);
        assert!(Arc::ptr_eq(&second, &get(&[false])));
        assert_eq!((get(&[true]).program.steps.len(), made.get()), (first.program.steps.len(), 3));
    }

    /// Of a ResNet-8 on images of 6 pixels a side, of which the last stage has 2, its first convolution 32 channels in, 64 out.
    #[test]
    fn what_convolutions_work_in_by_hand() {
        let config = ResNetConfig { depth: 8, image_side: 6, classes: 3, ..ResNetConfig::default() };
        let plan = Plan::new(config.program(Program::evaluation));
        let of = |name: &str| {
            let found = plan.program.convolutions.iter().find(|convolution| convolution.name == name);
            found.map(|convolution| [padded_length(convolution), packed_length(convolution)])
        };
        assert_eq!(of("stem.conv"), Some([8 * 8 * 3, 9 * 3 * 16]));
        assert_eq!(of("stage3.block1.conv2"), Some([4 * 4 * 64, 9 * 64 * 64]));
        assert_eq!(of("stage3.block1.shortcut"), Some([3 * 3 * 32, 32 * 64]));
        // The largest copy of an image is of the first stage, 16 channels of 8 x 8 with what is around them; weights of the last.
        let fixed = 8 * 8 * 16 * rayon::current_num_threads() + 9 * 64 * 64;
        assert_eq!(plan.bytes(0), 4 * fixed as u64);
        assert_eq!(plan.bytes(5) - plan.bytes(0), 4 * 5 * (plan.numbers() + 64 + 3) as u64);
        assert_eq!(plan.bytes(usize::MAX), u64::MAX);
    }
}
