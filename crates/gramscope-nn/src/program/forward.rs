//! The forward steps of a network, with what is on the way kept where layers are looked at.

use std::collections::HashMap;

use super::waiting::{HandOut, Place, Waiting};
use super::{IMAGES, NamedConvolution, NamedNorm, Program, Seen, Step, Tapped, Value, ValueId};
use crate::topology::{BlockPlan, ConvolutionPlan, IMAGE_CHANNELS, ShortcutPlan, StemPlan, Topology};

/// Puts the forward steps together.
pub(super) struct Builder {
    pub(super) program: Program,
    /// Whether every layer is to be seen.
    pub(super) observed: bool,
    /// Layers that are not handed out yet.
    pub(super) waiting: Waiting,
    /// The numbers of convolutions and batch norms, by name.
    convolutions: HashMap<String, usize>,
    norms: HashMap<String, usize>,
}

impl Builder {
    /// Of a network whose layers are handed out as `observed` says, if they are.
    pub(super) fn new(topology: &Topology, image_side: usize, observed: Option<HandOut>) -> Self {
        let program = Program {
            steps: Vec::new(),
            values: vec![Value { side: image_side, channels: IMAGE_CHANNELS }],
            convolutions: Vec::new(),
            norms: Vec::new(),
            penalty: None,
            features: topology.features(),
            classes: topology.classes,
        };
        Self::on(program, observed)
    }

    /// Goes on with `program`.
    pub(super) fn on(program: Program, observed: Option<HandOut>) -> Self {
        let convolutions = program.convolutions.iter().map(|convolution| convolution.name.clone()).zip(0..).collect();
        let norms = program.norms.iter().map(|norm| norm.name.clone()).zip(0..).collect();
        let waiting = Waiting::new(observed.unwrap_or(HandOut::OneByOne));
        Self { program, observed: observed.is_some(), waiting, convolutions, norms }
    }

    pub(super) fn network(mut self, topology: &Topology) -> Self {
        let mut x = self.stem(&topology.stem);
        for (number, block) in topology.blocks.iter().enumerate() {
            x = self.block(number, block, x);
            if self.program.penalty.is_some() {
                self.step(Step::Gram { block: number, x });
            }
        }
        if self.program.penalty.is_some() {
            self.step(Step::FirstComponents);
        }
        self.step(Step::AveragePool { x });
        self.tap(Tapped::Pooled);
        self.step(Step::Logits);
        self.tap(Tapped::Logits);
        let rest = self.waiting.hand_out_all();
        self.hand_out_taps(rest);
        self
    }

    /// The input of the first block.
    pub(super) fn stem(&mut self, stem: &StemPlan) -> ValueId {
        let (x, norm) = self.unit(["stem.conv", "stem.bn"].map(str::to_owned), stem.convolution, IMAGES, stem.side);
        let x = self.normalise(norm, x, true);
        let Some(side) = stem.pooled_side else { return x };
        let y = self.value(side, stem.convolution.to);
        self.step(Step::MaxPool { x, y });
        self.tap(Tapped::Value(y));
        y
    }

    /// The result of the block of number `number`, from 0.
    pub(super) fn block(&mut self, number: usize, plan: &BlockPlan, input: ValueId) -> ValueId {
        match plan.branches {
            1 => self.single_branch(plan, input),
            _ => self.two_branches(number, plan, input),
        }
    }

    fn single_branch(&mut self, plan: &BlockPlan, input: ValueId) -> ValueId {
        let (x, norm) = self.convolve_branch(plan, 0, input);
        // Layers are counted in the order in which they are there one by one: the branches, the shortcut, the addition.
        let layer = self.waiting.count();
        let addend = self.shortcut(plan, input);
        self.normalise_and_add(layer, norm, x, addend, true)
    }

    fn two_branches(&mut self, block: usize, plan: &BlockPlan, input: ValueId) -> ValueId {
        let branches = [0, 1].map(|branch| {
            let (x, norm) = self.convolve_branch(plan, branch, input);
            self.normalise(norm, x, false)
        });
        let layer = self.waiting.count();
        let Some(addend) = self.shortcut(plan, input) else {
            unreachable!("no network of two branches is without shortcuts")
        };
        let (y, seen) = self.results_like(branches[0], true, true);
        self.step(Step::Mix { block, branches, addend, y, seen });
        self.tap_results(layer, seen, y);
        y
    }

    /// The result of a branch's last convolution, and the number of the batch norm that follows it, which it has before what follows
    /// the block's branches is numbered: in every form of a network it is the same.
    fn convolve_branch(&mut self, plan: &BlockPlan, branch: usize, input: ValueId) -> (ValueId, usize) {
        let prefix = plan.branch_prefix(branch);
        let (mut x, mut norm) = (input, 0);
        let all = plan.convolutions.len();
        for (number, (convolution, &side)) in (1..).zip(plan.convolutions.iter().zip(&plan.sides)) {
            let names = [format!("{prefix}.conv{number}"), format!("{prefix}.bn{number}")];
            (x, norm) = self.unit(names, *convolution, x, side);
            if number < all {
                x = self.normalise(norm, x, true);
            }
        }
        (x, norm)
    }

    /// What is added to the branch's result.
    pub(super) fn shortcut(&mut self, plan: &BlockPlan, input: ValueId) -> Option<ValueId> {
        match plan.shortcut {
            ShortcutPlan::None => None,
            ShortcutPlan::Identity => Some(input),
            ShortcutPlan::Projection { convolution, normalised } => {
                let name = format!("{}.shortcut", plan.prefix());
                let side = plan.sides.last().copied().unwrap_or(0);
                if !normalised {
                    return Some(self.convolution(name, convolution, input, side).0);
                }
                let names = [name.clone(), format!("{name}_bn")];
                let (projected, norm) = self.unit(names, convolution, input, side);
                Some(self.normalise(norm, projected, false))
            }
        }
    }

    /// The result of a convolution, and the number of the batch norm that takes it; their names are given.
    fn unit(&mut self, [name, norm]: [String; 2], plan: ConvolutionPlan, x: ValueId, side: usize) -> (ValueId, usize) {
        let (y, convolution) = self.convolution(name, plan, x, side);
        let Program { norms, .. } = &mut self.program;
        let number = *self.norms.entry(norm).or_insert_with_key(|name| {
            norms.push(NamedNorm { name: name.clone(), convolution, channels: plan.to });
            norms.len() - 1
        });
        (y, number)
    }

    /// The result of a convolution, and its number.
    fn convolution(&mut self, name: String, plan: ConvolutionPlan, x: ValueId, side: usize) -> (ValueId, usize) {
        let y = self.value(side, plan.to);
        let Program { convolutions, values, .. } = &mut self.program;
        let convolution = *self.convolutions.entry(name).or_insert_with_key(|name| {
            convolutions.push(NamedConvolution { name: name.clone(), plan, side: values[x].side });
            convolutions.len() - 1
        });
        self.step(Step::Convolution { convolution, x, y });
        self.tap(Tapped::Value(y));
        (y, convolution)
    }

    /// A batch norm and, if `relu`, a ReLU.
    fn normalise(&mut self, norm: usize, x: ValueId, relu: bool) -> ValueId {
        let layer = self.waiting.count();
        self.normalise_and_add(layer, norm, x, None, relu)
    }

    /// The batch norm that is `layer`, and what follows it.
    fn normalise_and_add(
        &mut self,
        layer: Place,
        norm: usize,
        x: ValueId,
        addend: Option<ValueId>,
        relu: bool,
    ) -> ValueId {
        let (y, seen) = self.results_like(x, addend.is_some(), relu);
        self.step(Step::Normalise { norm, x, addend, relu, y, seen });
        self.tap_results(layer, seen, y);
        y
    }

    /// The result of a step, of the shape of `x`, and what is on the way to it, where that is seen.
    fn results_like(&mut self, x: ValueId, adds: bool, relu: bool) -> (ValueId, Seen) {
        let Value { side, channels } = self.program.values[x];
        let mut seen = |is_another: bool| (self.observed && is_another).then(|| self.value(side, channels));
        let seen = Seen { alone: seen(adds || relu), sum: seen(adds && relu) };
        (self.value(side, channels), seen)
    }

    fn value(&mut self, side: usize, channels: usize) -> ValueId {
        self.program.values.push(Value { side, channels });
        self.program.values.len() - 1
    }

    pub(super) fn step(&mut self, step: Step) {
        self.program.steps.push(step);
    }

    /// The next layer is `of`, which is there.
    fn tap(&mut self, of: Tapped) {
        let layer = self.waiting.count();
        self.note(layer, of);
        self.hand_out();
    }

    /// What is on the way to the result `y` of a step, and that, are `layer` and the next ones.
    fn tap_results(&mut self, layer: Place, seen: Seen, y: ValueId) {
        let first = seen.alone.unwrap_or(y);
        self.note(layer, Tapped::Value(first));
        for value in [seen.sum, Some(y)].into_iter().flatten().filter(|&value| value != first) {
            let layer = self.waiting.count();
            self.note(layer, Tapped::Value(value));
        }
        self.hand_out();
    }

    fn note(&mut self, layer: Place, of: Tapped) {
        let values = match of {
            Tapped::Value(value) => self.program.values[value].length(),
            Tapped::Pooled => self.program.features,
            Tapped::Logits => self.program.classes,
        };
        self.waiting.note(layer, of, values);
    }

    /// Hands out layers that wait, as often as there are enough.
    fn hand_out(&mut self) {
        loop {
            let taps = self.waiting.hand_out_enough();
            if taps.is_empty() {
                return;
            }
            self.hand_out_taps(taps);
        }
    }

    fn hand_out_taps(&mut self, taps: Vec<Step>) {
        if self.observed {
            self.program.steps.extend(taps);
        }
    }
}
