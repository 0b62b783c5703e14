//! The backward steps of a network, which follow from the forward ones, last first.

use std::collections::HashMap;

use super::{Added, IMAGES, Program, Step, ValueId};
use crate::topology::ConvolutionPlan;

impl Program {
    /// Itself, with what gives the loss and every gradient behind it.
    pub(super) fn with_backward(mut self) -> Self {
        let forward = self.steps.clone();
        self.steps.push(Step::Loss);
        let mut gradients = Gradients { program: &mut self, of: HashMap::new(), put_off: HashMap::new() };
        forward.iter().rev().for_each(|step| gradients.add_backward(step));
        assert!(gradients.put_off.is_empty(), "a gradient was put off for a convolution that does not come");
        self
    }
}

/// Puts the backward steps together.
struct Gradients<'a> {
    program: &'a mut Program,
    /// The gradients there are, by what they are the gradients of.
    of: HashMap<ValueId, ValueId>,
    /// Convolutions that do not reach every pixel of what they read, by that, and the gradients of their results: they add to what
    /// another convolution gives, a quarter of it, which is less to write, and less to keep, than a whole that is mostly zeros.
    put_off: HashMap<ValueId, (usize, ValueId)>,
}

impl Gradients<'_> {
    /// The steps that give the gradients of what `step` reads from those of what it gives.
    fn add_backward(&mut self, step: &Step) {
        match *step {
            Step::Logits => self.program.steps.push(Step::LogitsBackward),
            Step::AveragePool { x } => {
                let dx = self.fresh(x);
                self.program.steps.push(Step::AveragePoolBackward { dx });
            }
            Step::MaxPool { x, y } => {
                let (dy, dx) = (self.of[&y], self.fresh(x));
                self.program.steps.push(Step::MaxPoolBackward { x, y, dy, dx });
            }
            Step::Gram { block, x } => {
                let dx = self.of[&x];
                self.program.steps.push(Step::GramBackward { block, x, dx });
            }
            // What follows from the Gram matrices is in the backward step of each.
            Step::FirstComponents => {}
            Step::Normalise { norm, x, addend, relu, y, .. } => {
                let dy = self.of[&y];
                // The last to read it, and so the first to say what its gradient is.
                let added = addend.map(|addend| Added { y, daddend: self.fresh(addend) });
                let dx = self.fresh(x);
                self.program.steps.push(Step::NormaliseBackward { norm, x, dy, dx, added, relu });
            }
            Step::Convolution { convolution, x, y } => {
                let dy = self.of[&y];
                self.program.steps.push(Step::WeightGradient { convolution, x, dy });
                if x != IMAGES {
                    self.input_gradient(convolution, x, dy);
                }
            }
            Step::Mix { block, branches: [a, b], addend, y, .. } => {
                let dmixed = self.of[&y];
                let (dother, daddend) = (self.fresh(b), self.fresh(addend));
                self.of.insert(a, dmixed);
                self.program.steps.push(Step::MixBackward { block, y, dmixed, dother, daddend });
            }
            _ => unreachable!("no other step is in the forward part of a training program"),
        }
    }

    /// The gradient of `x` is, or has added to it, what that of the convolution's result, `dy`, gives.
    fn input_gradient(&mut self, convolution: usize, x: ValueId, dy: ValueId) {
        let ConvolutionPlan { kernel, stride, .. } = self.program.convolutions[convolution].plan;
        let adds = self.of.contains_key(&x);
        if !adds && stride > kernel {
            let before = self.put_off.insert(x, (convolution, dy));
            assert!(before.is_none(), "no convolution would reach every pixel of value {x}");
            return;
        }
        let dx = if adds { self.of[&x] } else { self.fresh(x) };
        self.program.steps.push(Step::InputGradient { convolution, dy, dx, adds });
        if let Some((convolution, dy)) = self.put_off.remove(&x) {
            self.program.steps.push(Step::InputGradient { convolution, dy, dx, adds: true });
        }
    }

    /// The gradient of `value`, which nothing has been written to yet.
    fn fresh(&mut self, value: ValueId) -> ValueId {
        self.program.values.push(self.program.values[value]);
        let gradient = self.program.values.len() - 1;
        let before = self.of.insert(value, gradient);
        assert!(before.is_none(), "value {value} has a gradient already, which would be lost");
        gradient
    }
}
