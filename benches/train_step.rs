//! The time of a training step: forward, backward and SGD, on random images that lie ready, batch 128, float32, CPU.
//!
//! `cargo bench --bench train_step -- 20x1 14x2` prints a JSON line for each DEPTHxWIDTH; train_pytorch.py compares.

use std::time::Instant;

use anyhow::Context;
use candle_core::{Device, Tensor};
use gramscope_nn::random::{Philox, Stream};
use gramscope_nn::{ResNet, ResNetConfig, Sgd, SgdConfig};
use serde_json::json;

// As in the binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const BATCH: usize = 128;
const WARM_UP: usize = 2;
const STEPS: usize = 8;
const RECIPE: SgdConfig = SgdConfig { learning_rate: 0.01, momentum: 0.9, weight_decay: 1e-4 };

fn main() -> anyhow::Result<()> {
    // Cargo adds --bench.
    let named: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let named = if named.is_empty() { vec!["14x1".to_owned(), "20x1".to_owned(), "14x2".to_owned()] } else { named };
    for name in named {
        let (depth, width) = name.split_once('x').with_context(|| format!("{name} is not DEPTHxWIDTH"))?;
        let config =
            ResNetConfig { depth: depth.parse()?, width: width.parse()?, residual: true, classes: 10, image_side: 32 };
        let seconds = median(time_steps(&config)?);
        let row = json!({
            "device": "cpu", "depth": config.depth, "width": config.width, "precision": "f32",
            "ms_per_step": 1e3 * seconds, "images_per_second": BATCH as f64 / seconds,
        });
        println!("{row}");
    }
    Ok(())
}

/// Seconds of each step after the first few.
fn time_steps(config: &ResNetConfig) -> anyhow::Result<Vec<f64>> {
    let network = ResNet::new(config, 0, &Device::Cpu)?;
    let mut sgd = Sgd::for_network(&network, RECIPE)?;
    let (images, labels) = batch(config)?;
    let mut seconds = Vec::new();
    for _ in 0..WARM_UP + STEPS {
        let start = Instant::now();
        let gradients = network.loss_and_gradients(&images, &labels)?;
        candle_nn::Optimizer::step(&mut sgd, &gradients.grads)?;
        gradients.loss.to_scalar::<f32>()?;
        seconds.push(start.elapsed().as_secs_f64());
    }
    Ok(seconds.split_off(WARM_UP))
}

fn batch(config: &ResNetConfig) -> anyhow::Result<(Tensor, Tensor)> {
    let mut numbers = Philox::new(0, Stream::Drawing).sequence(0);
    let shape = [BATCH, config.image_side, config.image_side, 3];
    let images: Vec<f32> = (0..shape.iter().product()).map(|_| numbers.uniform() as f32).collect();
    let labels: Vec<u32> = (0..BATCH).map(|image| (image % config.classes) as u32).collect();
    Ok((Tensor::from_vec(images, &shape, &Device::Cpu)?, Tensor::from_vec(labels, BATCH, &Device::Cpu)?))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
