#![allow(clippy::unwrap_used)]

use std::collections::{HashMap, HashSet};

use candle_core::Device;
use gramscope_cuda::plan::LAYERS_TOGETHER;

use super::*;
use crate::{Family, Layer, ResNet, ResNetConfig};

/// Every kind of network.
fn configs() -> Vec<ResNetConfig> {
    let cifar = ResNetConfig { depth: 14, width: 0.5, image_side: 9, classes: 3, ..ResNetConfig::default() };
    vec![
        cifar.clone(),
        ResNetConfig { residual: false, ..cifar.clone() },
        ResNetConfig { shake_shake: true, ..cifar.clone() },
        ResNetConfig { family: Family::ImageNet, depth: 35, image_side: 33, width: 0.25, ..cifar.clone() },
        ResNetConfig { family: Family::ImageNet, depth: 35, image_side: 32, shake_shake: true, ..cifar.clone() },
        ResNetConfig { family: Family::ImageNet, depth: 35, image_side: 32, residual: false, ..cifar },
    ]
}

/// What a step reads, and what it writes.
fn accesses(step: &Step) -> (Vec<ValueId>, Vec<ValueId>) {
    match *step {
        Step::Convolution { x, y, .. } | Step::MaxPool { x, y } => (vec![x], vec![y]),
        Step::Normalise { x, addend, y, seen: Seen { alone, sum }, .. } => {
            ([Some(x), addend].into_iter().flatten().collect(), [Some(y), alone, sum].into_iter().flatten().collect())
        }
        Step::Relu { x } => (vec![x], vec![x]),
        Step::Mix { branches: [a, b], addend, y, seen: Seen { alone, sum }, .. } => {
            (vec![a, b, addend], [Some(y), alone, sum].into_iter().flatten().collect())
        }
        Step::MixBackward { y, dmixed, dother, daddend, .. } => (vec![y, dmixed], vec![dmixed, dother, daddend]),
        Step::AveragePool { x } | Step::Gram { x, .. } | Step::Tap { of: Tapped::Value(x), .. } => (vec![x], vec![]),
        Step::GramBackward { x, dx, .. } => (vec![x, dx], vec![dx]),
        Step::AveragePoolBackward { dx } => (vec![], vec![dx]),
        Step::MaxPoolBackward { x, y, dy, dx } => (vec![x, y, dy], vec![dx]),
        Step::NormaliseBackward { x, dy, dx, added: None, .. } => (vec![x, dy], vec![dx]),
        Step::NormaliseBackward { x, dy, dx, added: Some(Added { y, daddend }), .. } => {
            (vec![x, dy, y], vec![dx, daddend])
        }
        Step::WeightGradient { x, dy, .. } => (vec![x, dy], vec![]),
        Step::InputGradient { dy, dx, adds: false, .. } => (vec![dy], vec![dx]),
        Step::InputGradient { dy, dx, adds: true, .. } => (vec![dy, dx], vec![dx]),
        Step::FirstComponents | Step::Logits | Step::Loss | Step::LogitsBackward | Step::Tap { .. } => (vec![], vec![]),
    }
}

/// Runs the program with nothing but the names of values: whoever reads a value must find it where it was written, whole.
fn check_memory(program: &Program) {
    let slots = program.slots();
    let mut held: Vec<Option<ValueId>> = vec![None; slots.lengths.len()];
    held[slots.of[IMAGES]] = Some(IMAGES);
    for step in &program.steps {
        let (reads, writes) = accesses(step);
        let touched: Vec<ValueId> = step.values().collect();
        assert!(reads.iter().chain(&writes).all(|value| touched.contains(value)), "{step:?}");
        for &value in &reads {
            assert_eq!(held[slots.of[value]], Some(value), "{step:?} reads what is not there");
        }
        for &value in &writes {
            held[slots.of[value]] = Some(value);
            assert!(slots.lengths[slots.of[value]] >= program.values[value].length());
        }
        for value in touched {
            assert_eq!(held[slots.of[value]], Some(value), "{step:?} has overwritten one of its own");
        }
    }
}

#[test]
fn nothing_is_read_that_is_not_there() {
    for config in configs() {
        let (topology, side) = (config.topology(), config.image_side);
        for program in [Program::evaluation, Program::training, penalised] {
            check_memory(&program(&topology, side));
        }
        for how in [HandOut::OneByOne, HandOut::Together] {
            check_memory(&Program::observation(&topology, side, how));
        }
    }
}

#[test]
fn taps_are_the_layers_in_their_order() {
    for config in configs() {
        let together = Program::observation(&config.topology(), config.image_side, HandOut::Together);
        let program = Program::observation(&config.topology(), config.image_side, HandOut::OneByOne);
        assert!(groups(&program).iter().all(|group| group.len() == 1));
        let computed = |program: &Program| {
            let steps = program.steps.iter().filter(|step| !matches!(step, Step::Tap { .. }));
            steps.copied().collect::<Vec<_>>()
        };
        assert_eq!(computed(&program), computed(&together));
        assert!(program.slots().length(1) <= together.slots().length(1));
        let layers = config.layers();
        let taps: Vec<(usize, Vec<usize>)> = program
            .steps
            .iter()
            .filter_map(|step| match *step {
                Step::Tap { layer, of: Tapped::Value(value), .. } => {
                    let Value { side, channels } = program.values[value];
                    Some((layer, vec![side, side, channels]))
                }
                Step::Tap { layer, of: Tapped::Pooled, .. } => Some((layer, vec![program.features])),
                Step::Tap { layer, of: Tapped::Logits, .. } => Some((layer, vec![program.classes])),
                _ => None,
            })
            .collect();
        let expected: Vec<_> = layers.iter().enumerate().map(|(place, layer)| (place, layer.shape.clone())).collect();
        assert_eq!(taps, expected);
    }
}

/// The sizes of the layers that are handed out together, group by group. Each was written once, before its tap: that it still lies
/// there is for [`check_memory`].
fn groups(program: &Program) -> Vec<Vec<usize>> {
    let (mut groups, mut written) = (Vec::new(), HashMap::new());
    for steps in program.steps.chunk_by(Step::goes_with) {
        let size = |step: &Step| match *step {
            Step::Tap { of: Tapped::Value(value), .. } => {
                assert!(written.contains_key(&value), "value {value} is not there yet");
                Some(program.values[value].length())
            }
            Step::Tap { of: Tapped::Pooled, .. } => Some(program.features),
            Step::Tap { of: Tapped::Logits, .. } => Some(program.classes),
            _ => None,
        };
        groups.push(steps.iter().filter_map(size).collect::<Vec<usize>>());
        for value in steps.iter().flat_map(|step| accesses(step).1) {
            *written.entry(value).or_insert(0) += 1;
        }
    }
    assert!(written.values().all(|&times| times == 1), "a value is written over");
    groups.retain(|group| !group.is_empty());
    groups
}

/// So many layers that a GPU has enough to do with them, and no more than its memory is to hold or a launch takes.
#[test]
fn layers_are_handed_out_together() {
    const VALUES: usize = 1 << 19;
    let deep = ResNetConfig { depth: 110, ..ResNetConfig::default() };
    let wide = ResNetConfig { depth: 38, width: 10.0, ..ResNetConfig::default() };
    let program = |config: &ResNetConfig, how| Program::observation(&config.topology(), config.image_side, how);
    let groups = |config: &ResNetConfig| groups(&program(config, HandOut::Together));
    // Of three layers that a batch norm gives here two are more than go together.
    let large = ResNetConfig { depth: 8, width: 8.0, image_side: 64, ..ResNetConfig::default() };
    for config in configs().iter().chain([&deep, &wide, &large]) {
        let groups = groups(config);
        let sum = |group: &[usize]| group.iter().sum::<usize>();
        for group in &groups {
            let fits = group.len() <= LAYERS_TOGETHER && sum(group) <= VALUES;
            assert!(fits || group.len() == 1, "{config:?}: {group:?}");
        }
        for (group, next) in groups.iter().zip(&groups[1..]) {
            assert!(group.len() == LAYERS_TOGETHER || sum(group) + next[0] > VALUES, "{config:?}: {group:?}");
        }
    }
    assert!(groups(&deep).len() <= 8, "{} groups", groups(&deep).len());
    let numbers = |how| program(&deep, how).slots().length(1);
    assert!(4 * numbers(HandOut::OneByOne) < numbers(HandOut::Together), "waiting takes no memory");
}

/// Parameters and statistics are named by the layers, and lie in their order, on which initial weights depend; a kernel's size is not
/// the layer's to say.
#[test]
fn names_and_shapes_are_the_networks() {
    for config in configs() {
        let network = ResNet::new(&config, 0, &Device::Cpu).unwrap();
        let program = config.program(Program::evaluation);
        let mut expected: Vec<(String, usize)> = Vec::new();
        for Layer { name, shape, .. } in config.layers() {
            let last = name.rsplit('.').next().unwrap();
            let parts: &[&str] = match last.trim_end_matches(char::is_numeric) {
                "conv" | "shortcut" | "logits" => &["weight", "bias"],
                "bn" | "shortcut_bn" => &["weight", "bias", "running_mean", "running_var"],
                _ => &[],
            };
            expected.extend(parts.iter().map(|part| (format!("{name}.{part}"), shape[shape.len() - 1])));
        }
        let state = network.state();
        let found: Vec<_> = state.iter().map(|(name, tensor)| (name.clone(), tensor.dims()[0])).collect();
        assert_eq!(found, expected, "{config:?}");
        let parameters: usize = network.parameters().iter().map(|parameter| parameter.var.elem_count()).sum();
        assert_eq!(parameters, config.parameter_count(), "{config:?}");
        for step in &program.steps {
            if let Step::Convolution { convolution, x, y } = *step {
                let NamedConvolution { name, plan, side } = &program.convolutions[convolution];
                let (_, weight) = state.iter().find(|(tensor, _)| *tensor == format!("{name}.weight")).unwrap();
                assert_eq!(weight.dims(), [plan.to, plan.kernel, plan.kernel, program.values[x].channels]);
                assert_eq!((program.values[x].side, program.values[x].channels), (*side, plan.from));
                assert_eq!((program.values[y].side, program.values[y].channels), (side.div_ceil(plan.stride), plan.to));
            }
        }
    }
}

/// Parameters and statistics are found by the numbers of convolutions and batch norms, on a device in one place for all forms.
#[test]
fn every_form_of_a_network_numbers_its_layers_alike() {
    let names = |program: &Program| -> [Vec<String>; 2] {
        let convolutions = program.convolutions.iter().map(|convolution| convolution.name.clone());
        [convolutions.collect(), program.norms.iter().map(|norm| norm.name.clone()).collect()]
    };
    for config in configs() {
        let (topology, side) = (config.topology(), config.image_side);
        let expected = names(&Program::evaluation(&topology, side));
        for program in [observation, Program::training, penalised] {
            assert_eq!(names(&program(&topology, side)), expected);
        }
        if config.residual {
            assert_eq!(names(&Program::ablation(&topology, side, &variants(topology.blocks.len()))), expected);
        }
    }
}

#[test]
fn training_gives_every_gradient_once() {
    for config in configs() {
        let program = Program::training(&config.topology(), config.image_side);
        let (mut convolutions, mut inputs, mut norms, mut heads) = (HashSet::new(), HashSet::new(), HashSet::new(), 0);
        for step in &program.steps {
            match *step {
                Step::WeightGradient { convolution, .. } => assert!(convolutions.insert(convolution)),
                Step::InputGradient { convolution, .. } => assert!(inputs.insert(convolution)),
                Step::NormaliseBackward { norm, .. } => assert!(norms.insert(norm)),
                Step::LogitsBackward => heads += 1,
                _ => {}
            }
        }
        assert_eq!((convolutions.len(), norms.len()), (program.convolutions.len(), program.norms.len()));
        // The images have none, and are what the first convolution alone reads.
        assert_eq!((inputs.len(), inputs.contains(&0)), (program.convolutions.len() - 1, false));
        assert_eq!(heads, 1);
        assert!(program.steps.iter().filter(|step| matches!(step, Step::Loss)).count() == 1);
    }
}

/// A projection of stride 2 reaches a quarter of what it reads: another convolution has written all of that gradient before.
#[test]
fn what_leaves_gaps_adds_to_a_gradient_that_is_there() {
    let (mut adding, mut projections) = (0, 0);
    for config in configs() {
        let program = Program::training(&config.topology(), config.image_side);
        let has_gaps = |convolution: usize| {
            let ConvolutionPlan { kernel, stride, .. } = program.convolutions[convolution].plan;
            stride > kernel
        };
        for step in &program.steps {
            match *step {
                Step::Convolution { convolution, .. } if has_gaps(convolution) => projections += 1,
                Step::InputGradient { convolution, adds, .. } if has_gaps(convolution) => {
                    assert!(adds, "{config:?}: {}", program.convolutions[convolution].name);
                    adding += 1;
                }
                _ => {}
            }
        }
    }
    assert_eq!(adding, projections);
    assert!(adding > 0);
}

fn observation(topology: &Topology, image_side: usize) -> Program {
    Program::observation(topology, image_side, HandOut::Together)
}

fn penalised(topology: &Topology, image_side: usize) -> Program {
    Program::penalised(topology, image_side, FirstComponentPenalty { weight: 1.0, threshold: 0.2 })
}

/// Every block's output is penalised: its first component is found when all are there, and its gradient is added when
/// that of the output is whole and before anything reads it.
#[test]
fn every_blocks_output_is_penalised_once() {
    for config in configs() {
        let (topology, side) = (config.topology(), config.image_side);
        let (plain, program) = (Program::training(&topology, side), penalised(&topology, side));
        let grams = program.steps.iter().filter_map(|step| match *step {
            Step::Gram { block, x } => Some((block, x)),
            _ => None,
        });
        let grams: Vec<(usize, ValueId)> = grams.collect();
        assert_eq!(grams.iter().map(|gram| gram.0).collect::<Vec<_>>(), (0..topology.blocks.len()).collect::<Vec<_>>());
        let place = |wanted: Step| program.steps.iter().position(|&step| step == wanted).unwrap();
        let found = place(Step::FirstComponents);
        for (block, output) in grams {
            assert!(place(Step::Gram { block, x: output }) < found);
            let made = |step: &&Step| match **step {
                Step::Normalise { y, relu: true, .. } | Step::Mix { y, .. } => y == output,
                _ => false,
            };
            assert_eq!(program.steps.iter().filter(made).count(), 1, "block {block}");
            let backward = program.steps.iter().enumerate().filter_map(|(place, step)| match *step {
                Step::GramBackward { block: other, x, dx } if other == block => Some((place, x, dx)),
                _ => None,
            });
            let [(place, x, dx)] = backward.collect::<Vec<_>>()[..] else { panic!("block {block}") };
            assert!(place > found && x == output);
            let (before, behind) = (&program.steps[..place], &program.steps[place + 1..]);
            assert!(before.iter().all(|step| !accesses(step).0.contains(&dx) || accesses(step).1.contains(&dx)));
            assert!(behind.iter().any(|step| accesses(step).0.contains(&dx)));
            // What was added stays: whoever writes there later has begun another value, or, of a mixture, takes the whole apart.
            let takes_apart = |step: &Step| matches!(*step, Step::MixBackward { dmixed, .. } if dmixed == dx);
            assert!(behind.iter().all(|step| !accesses(step).1.contains(&dx) || takes_apart(step)));
        }
        let is_penalty =
            |step: &&Step| matches!(step, Step::Gram { .. } | Step::FirstComponents | Step::GramBackward { .. });
        let rest: Vec<Step> = program.steps.iter().filter(|step| !is_penalty(step)).copied().collect();
        assert_eq!(rest, plain.steps);
    }
}

/// A value that no step of the backward pass wants is let go at once: evaluation needs three values of the largest size (a
/// block's input, which is its shortcut, and what a convolution reads and writes) and the images, whatever the depth.
#[test]
fn memory_of_an_evaluation_does_not_grow_with_depth() {
    let at_depth = |depth: usize| {
        let config = ResNetConfig { depth, ..ResNetConfig::default() };
        Program::evaluation(&config.topology(), config.image_side).slots().length(1)
    };
    assert_eq!(at_depth(110), at_depth(20));
    assert!(at_depth(20) <= 3 * 32 * 32 * 16 + 32 * 32 * 3, "{}", at_depth(20));
}

/// Training keeps two values a batch norm, its input and what follows it, and beside them few: no gradient is kept longer
/// than it is wanted.
#[test]
fn memory_of_training_is_what_has_to_be_kept() {
    let config = ResNetConfig { depth: 56, ..ResNetConfig::default() };
    let program = Program::training(&config.topology(), config.image_side);
    let of = |step: &Step| match *step {
        Step::Normalise { x, y, .. } => program.values[x].length() + program.values[y].length(),
        _ => 0,
    };
    let kept: usize = program.steps.iter().map(of).sum();
    let found = program.slots().length(1);
    assert!(found <= kept + 4 * 32 * 32 * 16 + 32 * 32 * 3, "{found} numbers an image, {kept} are kept");
}

/// The names of layers say what is kept: what batch norms, additions and mixtures give is made again from what is, and what comes
/// last, without an addition before it, nothing asks for.
#[test]
fn what_training_keeps_is_what_the_layers_are() {
    for config in configs() {
        let program = config.program(Program::training);
        let layers = config.layers();
        let length = |layer: &Layer| layer.shape.iter().product::<usize>();
        let kept = |name: &str| {
            let last = name.rsplit('.').next().unwrap_or(name);
            let projection = last == "shortcut" && config.family == Family::ImageNet;
            let ends = !config.residual && name == layers[layers.len() - 3].name;
            (last.starts_with("conv") || last.starts_with("relu") || name == "stem.pool" || projection) && !ends
        };
        let expected: usize = layers.iter().filter(|layer| kept(&layer.name)).map(length).sum();
        assert_eq!(program.kept_in_training(), expected, "{config:?}");
        assert_eq!(Some(program.largest_output()), layers.iter().map(length).max(), "{config:?}");
    }
}

/// Every ending of every stage, and each block alone.
fn variants(blocks: usize) -> Vec<Vec<bool>> {
    let some = |chosen: &dyn Fn(usize) -> bool| (0..blocks).map(chosen).collect::<Vec<bool>>();
    let endings = (0..=blocks).map(|first| some(&|block| block >= first));
    endings.chain((0..blocks).map(|only| some(&|block| block == only))).collect()
}

#[test]
fn ablation_gives_every_variant_once_from_what_is_there() {
    for config in configs().into_iter().filter(|config| config.residual) {
        let (topology, side) = (config.topology(), config.image_side);
        let (whole, variants) = (Program::evaluation(&topology, side), variants(topology.blocks.len()));
        let program = Program::ablation(&topology, side, &variants);
        check_memory(&program);
        let mut given: Vec<usize> = program
            .steps
            .iter()
            .filter_map(|step| match step {
                Step::Tap { layer, of: Tapped::Logits, .. } => Some(*layer),
                _ => None,
            })
            .collect();
        given.sort_unstable();
        assert_eq!(given, (0..variants.len()).collect::<Vec<_>>());
        // What is common is computed once: the stem, and the first block kept and deleted.
        let runs = |convolution: usize| {
            let is =
                |step: &&Step| matches!(step, Step::Convolution { convolution: found, .. } if *found == convolution);
            program.steps.iter().filter(is).count()
        };
        assert_eq!((runs(0), runs(1)), (1, 1));
        let nothing = Program::ablation(&topology, side, &[vec![false; topology.blocks.len()]]);
        let steps = |program: &Program| {
            let tap = |step: &&Step| !matches!(step, Step::Tap { .. });
            program.steps.iter().filter(tap).copied().collect::<Vec<_>>()
        };
        assert_eq!(steps(&nothing), steps(&whole));
    }
}

/// The numbers of the blocks whose branches are mixed, and of those that are mixed backwards.
fn mixed_blocks(program: &Program) -> [Vec<usize>; 2] {
    let mut blocks = [Vec::new(), Vec::new()];
    for step in &program.steps {
        match *step {
            Step::Mix { block, .. } => blocks[0].push(block),
            Step::MixBackward { block, .. } => blocks[1].push(block),
            _ => {}
        }
    }
    blocks
}

/// Shares are drawn by a block's number, of all a network's blocks from 0.
#[test]
fn every_block_of_two_branches_mixes_them_under_its_number() {
    for config in configs() {
        let (topology, side) = (config.topology(), config.image_side);
        let blocks: Vec<usize> = if config.shake_shake { (0..topology.blocks.len()).collect() } else { vec![] };
        for program in [Program::evaluation, observation] {
            assert_eq!(mixed_blocks(&program(&topology, side)), [blocks.clone(), vec![]]);
        }
        let backwards = blocks.iter().rev().copied().collect();
        assert_eq!(mixed_blocks(&Program::training(&topology, side)), [blocks, backwards]);
    }
}
