//! The network as a whole: its evaluation, its training step, its state.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor};
use gramscope_nn::ops::batch_norm;
use gramscope_nn::{Error, Family, Output, ResNet, ResNetConfig};
use support::{assert_close, bits, labels, on_threads, uniform, wide};

fn config(depth: usize, width: f64, residual: bool, image_side: usize) -> ResNetConfig {
    ResNetConfig { depth, width, residual, classes: 3, image_side, ..ResNetConfig::default() }
}

fn network(config: &ResNetConfig, seed: u64) -> ResNet {
    ResNet::new(config, seed, &Device::Cpu).unwrap()
}

fn images(count: usize, side: usize) -> Tensor {
    uniform(5, &[count, side, side, 3])
}

/// Odd and even sides down to a single pixel, channel counts that are and are not multiples of 16, both families.
fn configs() -> Vec<ResNetConfig> {
    vec![
        config(8, 1.0, true, 8),
        config(14, 0.3, true, 7),
        config(8, 0.15, false, 5),
        config(8, 1.1, true, 1),
        config(14, 0.1, false, 2),
        ResNetConfig { shake_shake: true, ..config(8, 0.3, true, 5) },
        ResNetConfig { family: Family::ImageNet, ..config(35, 0.1, true, 33) },
    ]
}

/// Evaluation is only a test once the running statistics are not those of the start.
fn trained(config: &ResNetConfig) -> ResNet {
    let network = network(config, 3);
    let side = config.image_side;
    for _ in 0..3 {
        network.loss_and_gradients(&images(5, side), &labels(5, 3)).unwrap();
    }
    network
}

#[test]
fn observed_evaluation_is_the_plain_one() {
    for config in configs() {
        let network = trained(&config);
        let images = images(3, config.image_side);
        let mut seen = Vec::new();
        let logits = network
            .forward_observed::<Error>(&images, &mut |index, output| {
                let activation = output.values()?;
                seen.push((index, activation.dims()[1..].to_vec(), activation.dims()[0], activation.is_contiguous()));
                Ok(())
            })
            .unwrap();
        assert_eq!(bits(&logits), bits(&network.forward(&images).unwrap()), "{config:?}");
        assert_eq!(logits.dims(), [3, 3]);
        let expected: Vec<_> =
            network.layers().iter().enumerate().map(|(index, l)| (index, l.shape.clone(), 3, true)).collect();
        assert_eq!(seen, expected, "{config:?}");
    }
}

/// Every layer's output by its name, as `take` takes it.
fn outputs(network: &ResNet, take: impl Fn(&mut Output) -> candle_core::Result<Tensor>) -> HashMap<String, Tensor> {
    let mut outputs = HashMap::new();
    network
        .forward_observed::<Error>(&images(2, network.config().image_side), &mut |index, output| {
            outputs.insert(network.layers()[index].name.clone(), take(output)?);
            Ok(())
        })
        .unwrap();
    outputs
}

/// Whether an observer has a ReLU applied or leaves it to those who read makes no difference to anything behind it.
#[test]
fn a_relu_is_applied_by_whoever_reads() {
    for config in configs() {
        let network = trained(&config);
        let applied = outputs(&network, |output| output.values()?.copy());
        let left = outputs(&network, |output| match output.as_stored() {
            (values, false) => values.copy(),
            (values, true) => values.relu(),
        });
        assert_eq!(applied.len(), network.layers().len());
        for (name, values) in &applied {
            assert_eq!(bits(values), bits(&left[name]), "{config:?}: {name}");
        }
    }
}

/// Layers follow from those before them: what is handed out is what the names say.
#[test]
fn observed_layers_are_what_their_names_say() {
    let plain = config(8, 0.2, true, 6);
    for config in [plain.clone(), ResNetConfig { shake_shake: true, ..plain }] {
        let network = trained(&config);
        let outputs = outputs(&network, |output| output.values()?.copy());
        let get = |name: &str| &outputs[name];
        let equal = |name: &str, expected: &Tensor| assert_eq!(bits(get(name)), bits(expected), "{config:?}: {name}");
        let branches: &[&str] = if config.shake_shake { &["branch1.", "branch2."] } else { &[""] };
        for (block, addend) in
            [("stage1.block1", "stem.relu"), ("stage2.block1", "shortcut"), ("stage3.block1", "shortcut")]
        {
            let layer = |name: &str| get(&format!("{block}.{name}"));
            for branch in branches {
                equal(&format!("{block}.{branch}relu1"), &layer(&format!("{branch}bn1")).relu().unwrap());
            }
            if config.shake_shake {
                let [a, b] = ["branch1.bn2", "branch2.bn2"].map(|name| (layer(name) * 0.5).unwrap());
                equal(&format!("{block}.mix"), &(a + b).unwrap());
            }
            let addend = if addend == "shortcut" { layer(addend) } else { get(addend) };
            equal(&format!("{block}.add"), &(layer(config.branch_end()) + addend).unwrap());
            equal(&format!("{block}.relu2"), &layer("add").relu().unwrap());
        }
        equal("stem.relu", &get("stem.bn").relu().unwrap());
        let pooled = get("stage3.block1.relu2").mean((1, 2)).unwrap();
        // A mean of 4 values, in another order.
        assert_close("pool", &wide(get("pool")), &wide(&pooled), 1e-6 * max_abs(&pooled));
    }
}

/// A layer's memory is used again as soon as nothing needs it: deeper networks of the same width have the same memory.
#[test]
fn memory_does_not_grow_with_depth() {
    let memory = |depth: usize, shake_shake: bool| {
        let network = network(&ResNetConfig { shake_shake, ..config(depth, 0.2, true, 6) }, 0);
        let mut seen = Vec::new();
        network
            .forward_observed::<Error>(&images(2, 6), &mut |_, output| {
                let id = output.as_stored().0.id();
                if !seen.contains(&id) {
                    seen.push(id);
                }
                Ok(())
            })
            .unwrap();
        seen.len()
    };
    for shake_shake in [false, true] {
        assert_eq!(memory(14, shake_shake), memory(32, shake_shake));
    }
}

fn max_abs(tensor: &Tensor) -> f64 {
    wide(tensor).into_iter().fold(0.0, |largest, value| largest.max(value.abs()))
}

/// The first error of an observer ends the evaluation and comes back as it is.
#[test]
fn an_observers_error_comes_back() {
    #[derive(Debug)]
    enum Stop {
        Here(usize),
        Network(Error),
    }
    impl From<Error> for Stop {
        fn from(error: Error) -> Self {
            Stop::Network(error)
        }
    }
    let network = network(&config(8, 0.1, true, 4), 0);
    let stop = |index: usize| if index == 4 { Err(Stop::Here(index)) } else { Ok(()) };
    let error = network.forward_observed(&images(2, 4), &mut |index, _| stop(index)).unwrap_err();
    assert!(matches!(error, Stop::Here(4)));
    let error = network.forward_observed(&images(2, 5), &mut |_, _| Ok(())).unwrap_err();
    assert!(matches!(error, Stop::Network(Error::Shape { .. })));
}

/// A training step's bits: the loss, every gradient, every running statistic, and the logits afterwards.
fn step_bits(config: &ResNetConfig, count: usize) -> Vec<Vec<u32>> {
    let network = network(config, 11);
    let images = images(count, config.image_side);
    let gradients = network.loss_and_gradients(&images, &labels(count, 3)).unwrap();
    let mut all = vec![bits(&gradients.loss), bits(&gradients.correct)];
    all.extend(network.parameters().iter().map(|parameter| bits(gradients.grads.get(&parameter.var).unwrap())));
    all.extend(network.state().iter().map(|(_, tensor)| bits(tensor)));
    all.push(bits(&network.forward(&images).unwrap()));
    all
}

/// The same bits for one, two and three threads, and twice; with more images than groups of images, and fewer.
#[test]
fn the_same_bits_for_any_number_of_threads() {
    let shaken = ResNetConfig { shake_shake: true, ..config(8, 0.3, true, 9) };
    let bottlenecks = ResNetConfig { family: Family::ImageNet, ..config(35, 0.1, true, 40) };
    for (config, count) in
        [(config(8, 1.0, true, 9), 37), (config(8, 0.3, false, 32), 5), (shaken, 19), (bottlenecks, 3)]
    {
        let one = on_threads(1, || step_bits(&config, count));
        for threads in [1, 2, 3] {
            assert!(one == on_threads(threads, || step_bits(&config, count)), "{threads} threads, {config:?}");
        }
    }
}

/// A step does not depend on what the steps before it left in the memory it uses again.
#[test]
fn the_same_bits_in_used_memory() {
    for config in configs() {
        let network = network(&config, 11);
        let side = config.image_side;
        let gradients = |seed: u64, count: usize| {
            let images = uniform(seed, &[count, side, side, 3]);
            let gradients = network.loss_and_gradients(&images, &labels(count, 3)).unwrap();
            let mut all = vec![bits(&gradients.loss)];
            all.extend(network.parameters().iter().map(|parameter| bits(gradients.grads.get(&parameter.var).unwrap())));
            all
        };
        let first = gradients(1, 4);
        gradients(2, 4);
        assert!(first == gradients(1, 4), "{config:?}");
        gradients(2, 6);
        assert!(first == gradients(1, 4), "after another batch size, {config:?}");
        network.forward(&images(4, side)).unwrap();
        assert!(first == gradients(1, 4), "after an evaluation, {config:?}");
    }
}

/// running = 0.99 running + 0.01 batch, the variance times m / (m - 1), after two steps from mean 0 and variance 1.
/// Each step rounds the f32 value once, and the batch's statistics are rounded once: 4 roundings of values up to 3.
#[test]
fn running_statistics_follow_the_formula() {
    let config = config(8, 0.2, true, 5);
    let network = network(&config, 1);
    let images = images(3, 5);
    let convolved = {
        let state: HashMap<String, Tensor> = network.state().into_iter().collect();
        let geometry = gramscope_nn::ops::convolution::Geometry { stride: 1, padding: 1 };
        let (weight, bias) = (&state["stem.conv.weight"], &state["stem.conv.bias"]);
        gramscope_nn::ops::convolution::forward(&images, weight, bias, geometry).unwrap()
    };
    let channels = config.channels(1);
    let values = wide(&convolved);
    let m = values.len() / channels;
    let channel = |c: usize| values.iter().skip(c).step_by(channels);
    let means: Vec<f64> = (0..channels).map(|c| channel(c).sum::<f64>() / m as f64).collect();
    let variances: Vec<f64> =
        (0..channels).map(|c| channel(c).map(|x| (x - means[c]).powi(2)).sum::<f64>() / (m - 1) as f64).collect();
    for _ in 0..2 {
        network.loss_and_gradients(&images, &labels(3, 3)).unwrap();
    }
    let state: HashMap<String, Tensor> = network.state().into_iter().collect();
    let twice = |start: f64, batch: f64| 0.99 * (0.99 * start + 0.01 * batch) + 0.01 * batch;
    let expected: Vec<f64> = means.iter().map(|mean| twice(0.0, *mean)).collect();
    assert_close("mean", &wide(&state["stem.bn.running_mean"]), &expected, 12.0 * support::ROUNDING);
    let expected: Vec<f64> = variances.iter().map(|variance| twice(1.0, *variance)).collect();
    assert_close("variance", &wide(&state["stem.bn.running_var"]), &expected, 12.0 * support::ROUNDING);
}

#[test]
fn initial_weights_are_he_normal() {
    let config = ResNetConfig { depth: 14, width: 1.0, classes: 10, image_side: 32, ..ResNetConfig::default() };
    let network = network(&config, 9);
    assert_eq!(network.parameters().iter().map(|p| p.var.elem_count()).sum::<usize>(), config.parameter_count());
    for parameter in network.parameters() {
        let values = wide(&parameter.var);
        if !parameter.decays {
            let expected = if parameter.name.contains(".bn") && parameter.name.ends_with("weight") { 1.0 } else { 0.0 };
            assert!(values.iter().all(|value| *value == expected), "{}", parameter.name);
            continue;
        }
        let fan_in: usize = parameter.var.dims()[1..].iter().product();
        let (count, variance) = (values.len() as f64, 2.0 / fan_in as f64);
        let mean = values.iter().sum::<f64>() / count;
        let spread = values.iter().map(|value| value * value).sum::<f64>() / count;
        // Five standard errors; those of the square are below variance * sqrt(2 / count).
        assert!(mean.abs() < 5.0 * (variance / count).sqrt(), "{}: mean {mean}", parameter.name);
        assert!((spread - variance).abs() < 5.0 * variance * (2.0 / count).sqrt(), "{}: {spread}", parameter.name);
        let cut = 2.0 * variance.sqrt() / 0.879_625_661_034_239_8;
        assert!(values.iter().all(|value| value.abs() <= cut * (1.0 + 1e-6)), "{}", parameter.name);
    }
}

/// The same seed gives the same weights, another seed others; and the first layers do not depend on what follows.
#[test]
fn initial_weights_depend_on_seed_and_place() {
    let first = |depth: usize, seed: u64| bits(&network(&config(depth, 0.5, true, 8), seed).parameters()[0].var);
    assert_eq!(first(8, 1), first(8, 1));
    assert_eq!(first(8, 1), first(20, 1));
    assert_ne!(first(8, 1), first(8, 2));
    let network = network(&config(14, 0.5, true, 8), 1);
    let find = |name: &str| bits(&network.parameters().iter().find(|p| p.name == name).unwrap().var);
    assert_ne!(find("stage1.block1.conv1.weight"), find("stage1.block2.conv1.weight"));
}

#[test]
fn state_round_trip() {
    for config in [config(8, 0.3, true, 6), config(8, 0.3, false, 6)] {
        let (from, to) = (trained(&config), network(&config, 77));
        let images = images(2, 6);
        assert_ne!(bits(&from.forward(&images).unwrap()), bits(&to.forward(&images).unwrap()));
        to.load_state(&from.state().into_iter().collect::<HashMap<_, _>>()).unwrap();
        assert_eq!(bits(&from.forward(&images).unwrap()), bits(&to.forward(&images).unwrap()));
        // Copied, not shared: training the one leaves the other.
        let before: Vec<_> = to.state().iter().map(|(_, tensor)| bits(tensor)).collect();
        from.loss_and_gradients(&images, &labels(2, 3)).unwrap();
        assert_eq!(before, to.state().iter().map(|(_, tensor)| bits(tensor)).collect::<Vec<_>>());
    }
}

#[test]
fn state_names() {
    let network = network(&config(8, 0.1, true, 4), 0);
    let names: Vec<String> = network.state().into_iter().map(|(name, _)| name).collect();
    let conv = |prefix: &str| vec![format!("{prefix}.weight"), format!("{prefix}.bias")];
    let norm = |prefix: &str| {
        let mut names = conv(prefix);
        names.extend(["running_mean", "running_var"].map(|name| format!("{prefix}.{name}")));
        names
    };
    let mut expected = [conv("stem.conv"), norm("stem.bn")].concat();
    for stage in 1..=3 {
        let block = format!("stage{stage}.block1");
        for (conv_name, norm_name) in [("conv1", "bn1"), ("conv2", "bn2")] {
            expected.extend(conv(&format!("{block}.{conv_name}")));
            expected.extend(norm(&format!("{block}.{norm_name}")));
        }
        if stage > 1 {
            expected.extend(conv(&format!("{block}.shortcut")));
        }
    }
    expected.extend(conv("logits"));
    assert_eq!(names, expected);
    let decaying: Vec<&str> = network.parameters().iter().filter(|p| p.decays).map(|p| p.name.as_str()).collect();
    assert!(decaying.iter().all(|name| name.ends_with("weight") && !name.contains(".bn")), "{decaying:?}");
    assert_eq!(decaying.len(), 1 + 6 + 2 + 1);
}

#[test]
fn a_state_that_does_not_fit_is_refused_whole() {
    let network = network(&config(8, 0.1, true, 4), 0);
    let good: HashMap<String, Tensor> = trained(&config(8, 0.1, true, 4)).state().into_iter().collect();
    let before: Vec<_> = network.state().iter().map(|(_, tensor)| bits(tensor)).collect();
    let refused = |state: &HashMap<String, Tensor>| {
        let error = network.load_state(state).unwrap_err();
        assert_eq!(before, network.state().iter().map(|(_, tensor)| bits(tensor)).collect::<Vec<_>>());
        error
    };

    let mut missing = good.clone();
    missing.remove("stage2.block1.bn1.running_var");
    let error = refused(&missing);
    assert!(matches!(&error, Error::MissingState { name } if name == "stage2.block1.bn1.running_var"), "{error}");

    let mut surplus = good.clone();
    surplus.insert("stage9.weight".to_owned(), good["logits.bias"].clone());
    let error = refused(&surplus);
    assert!(matches!(&error, Error::SurplusState { names } if names == &["stage9.weight"]), "{error}");

    // As many names as there should be, one of them wrong.
    surplus.remove("logits.bias");
    assert!(matches!(refused(&surplus), Error::MissingState { name } if name == "logits.bias"));

    let mut misshapen = good.clone();
    misshapen.insert("logits.bias".to_owned(), Tensor::zeros(4, DType::F32, &Device::Cpu).unwrap());
    let error = refused(&misshapen);
    assert!(
        matches!(&error, Error::StateShape { name, expected, got } if name == "logits.bias" && expected == &[3] && got == &[4]),
        "{error}"
    );
}

#[test]
fn wrong_batches_are_errors() {
    let network = network(&config(8, 0.1, true, 4), 0);
    for shape in [&[2, 5, 4, 3][..], &[2, 4, 5, 3], &[2, 4, 4, 1], &[2, 48], &[0, 4, 4, 3]] {
        let images = Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
        assert!(matches!(network.forward(&images), Err(Error::Shape { .. })), "{shape:?}");
        assert!(matches!(network.loss_and_gradients(&images, &labels(2, 3)), Err(Error::Shape { .. })), "{shape:?}");
    }
    let message =
        |images: &Tensor, labels: &Tensor| network.loss_and_gradients(images, labels).unwrap_err().to_string();
    let double = images(2, 4).to_dtype(DType::F64).unwrap();
    assert!(message(&double, &labels(2, 3)).contains("F64"));
    assert!(message(&images(2, 4), &labels(3, 3)).contains("labels"));
    assert!(message(&images(2, 4), &labels(2, 3).to_dtype(DType::I64).unwrap()).contains("labels"));
    let wrong = Tensor::new(&[0u32, 3], &Device::Cpu).unwrap();
    assert!(message(&images(2, 4), &wrong).contains("label of image 1 is 3"), "{}", message(&images(2, 4), &wrong));
}

/// One image whose third stage has one pixel has no variance there; two images have.
#[test]
fn a_single_value_a_channel_is_an_error() {
    let network = network(&config(8, 0.1, true, 4), 0);
    let error = network.loss_and_gradients(&images(1, 4), &labels(1, 3)).unwrap_err();
    assert!(matches!(&error, Error::SingleValue { layer } if layer == "stage3.block1.bn1"), "{error}");
    network.loss_and_gradients(&images(2, 4), &labels(2, 3)).unwrap();
    network.forward(&images(1, 4)).unwrap();
    let one = Tensor::zeros(2, DType::F32, &Device::Cpu).unwrap();
    let statistics = Tensor::zeros((2, 2), DType::F32, &Device::Cpu).unwrap();
    assert!(batch_norm::track(&one, &one.copy().unwrap(), &statistics, 1).is_err());
}

/// The whole network's gradients against central differences of its loss, at some values of every parameter, as one
/// vector.
///
/// The loss is rounded to 2^-24 of about 1, which a step h turns into 2^-24 / h = 1e-4 a value, 1e-3 for the 200 values
/// of a gradient of norm 2. What remains is that a step may carry activations across the kink of a ReLU, an error that
/// shrinks with h; 4e-3 has been seen. A missing or wrong term of the backward pass changes the gradient as a whole.
#[test]
fn gradients_of_the_loss() {
    const STEP: f32 = 1.0 / 2048.0;
    for residual in [true, false] {
        let config = config(8, 0.15, residual, 5);
        let network = network(&config, 21);
        let (images, labels) = (images(4, 5), labels(4, 3));
        let gradients = network.loss_and_gradients(&images, &labels).unwrap();
        let (mut error, mut norm) = (0.0, 0.0);
        for parameter in network.parameters() {
            let gradient = wide(gradients.grads.get(&parameter.var).unwrap());
            let start = support::values(&parameter.var);
            let set = |values: &[f32]| {
                let values = Tensor::from_slice(values, parameter.var.shape(), &Device::Cpu).unwrap();
                parameter.var.set(&values).unwrap();
            };
            for i in (0..start.len()).step_by(start.len().div_ceil(5)) {
                let loss_at = |value: f32| {
                    let mut moved = start.clone();
                    moved[i] = value;
                    set(&moved);
                    wide(&network.loss_and_gradients(&images, &labels).unwrap().loss)[0]
                };
                let (above, below) = (start[i] + STEP, start[i] - STEP);
                let expected = (loss_at(above) - loss_at(below)) / (f64::from(above) - f64::from(below));
                error += (expected - gradient[i]).powi(2);
                norm += expected.powi(2);
            }
            set(&start);
        }
        assert!((error / norm).sqrt() < 0.01, "residual {residual}: {} of {}", error.sqrt(), norm.sqrt());
    }
}

/// Evaluation with batch statistics computes what a training step computes: the same loss, up to the order of float32 sums.
#[test]
fn batch_statistics_are_those_of_training() {
    let config = ResNetConfig { depth: 8, width: 0.3, classes: 3, image_side: 9, ..ResNetConfig::default() };
    let network = ResNet::new(&config, 4, &Device::Cpu).unwrap();
    let images = Tensor::rand(0f32, 1f32, (6, 9, 9, 3), &Device::Cpu).unwrap();
    let labels = Tensor::from_vec(vec![0u32, 1, 2, 0, 1, 2], 6, &Device::Cpu).unwrap();
    let trained = network.loss_and_gradients(&images, &labels).unwrap();
    let running = network.forward(&images).unwrap();
    let network = network.with_batch_statistics();
    let logits = network.forward(&images).unwrap();
    let mut layers = 0;
    let observed = network
        .forward_observed::<candle_core::Error>(&images, &mut |_, _| {
            layers += 1;
            Ok(())
        })
        .unwrap();
    assert_eq!(layers, network.layers().len());
    let values = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    assert_eq!(values(&logits), values(&observed));
    assert_ne!(values(&logits), values(&running));
    let loss = |logits: &Tensor| {
        let rows = logits.to_vec2::<f32>().unwrap();
        let of_row = |(row, label): (&Vec<f32>, u32)| {
            let sum: f64 = row.iter().map(|&logit| f64::from(logit).exp()).sum();
            sum.ln() - f64::from(row[label as usize])
        };
        rows.iter().zip([0, 1, 2, 0, 1, 2]).map(of_row).sum::<f64>() / 6.0
    };
    // Fused and unfused batch norm do the same float32 operations; the loss itself is one of a few roundings of 1.
    let difference = (loss(&logits) - f64::from(trained.loss.to_scalar::<f32>().unwrap())).abs();
    assert!(difference <= 1e-5, "{difference}");
}
