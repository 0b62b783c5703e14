//! A network's layers compared with each other over one batch, next to the network's own forward pass.

use std::sync::Arc;
use std::time::Instant;

use candle_core::{Device, Tensor};
use gramscope_cka::{Activation, Comparison, Gram, Options, Values};
use gramscope_nn::{ResNet, ResNetConfig};
use serde_json::json;

use super::{Rows, median};

/// Batches that do not count, and batches whose median does.
const WARM_UP: usize = 1;
const BATCHES: usize = 5;
/// Examples a batch.
const EXAMPLES: usize = 256;

/// Measures all layers of one network, exact and fast, on `gpu` or on the CPU; the forward pass runs on the CPU.
///
/// # Errors
/// A network that does not exist; what a comparison may say; a file that cannot be written.
pub(crate) fn run(
    depth: usize,
    width: f64,
    gpu: Option<&Arc<gramscope_cuda::Device>>,
    rows: &mut Rows<'_>,
) -> anyhow::Result<()> {
    let config = ResNetConfig { depth, width, ..ResNetConfig::default() };
    let network = ResNet::new(&config, 0, &Device::Cpu)?;
    let images = Tensor::rand(0_f32, 1.0, (EXAMPLES, 32, 32, 3), &Device::Cpu)?;
    let layers = network.layers().len();
    let bytes: usize = network.layers().iter().map(|layer| EXAMPLES * layer.shape.iter().product::<usize>() * 4).sum();
    let device = device_name(gpu);
    let (_, forward_ms) = timed(|| Ok(network.forward(&images)?))?;
    for gram in [Gram::Exact, Gram::Fast] {
        let options = Options { gram, ..Options::default() };
        let mut comparison = Comparison::on(gpu.cloned(), &[layers], &[(0, 0)], options)?;
        let (waited, ms) = timed(|| {
            let mut own = 0.0;
            comparison.begin_batch(EXAMPLES)?;
            network.forward_observed::<anyhow::Error>(&images, &mut |layer, output| {
                let values: Vec<f32> = output.values()?.flatten_all()?.to_vec1()?;
                let start = Instant::now();
                comparison.observe(0, layer, Activation::new(Values::F32(&values), EXAMPLES)?)?;
                own += start.elapsed().as_secs_f64() * 1e3;
                Ok(())
            })?;
            let start = Instant::now();
            comparison.end_batch()?;
            Ok(own + start.elapsed().as_secs_f64() * 1e3)
        })?;
        drop(comparison.finish()?);
        let own_ms = median(waited);
        let fields = json!({
            "bench": "cka", "kernel": "cka", "variant": gram.to_string(), "shape": [layers, EXAMPLES],
            "depth": depth, "width": width, "us": own_ms * 1e3, "bytes": bytes, "batch_ms": ms,
            "forward_ms": forward_ms, "over_forward": own_ms / forward_ms, "device": device,
        });
        let text = format!(
            "ResNet-{depth} x{width}, {layers} layers, {gram}, batches of {EXAMPLES}: {own_ms:.1} ms of CKA, {forward_ms:.1} \
             ms of forward pass, {:.2} of it",
            own_ms / forward_ms
        );
        rows.row(&text, &fields)?;
    }
    Ok(())
}

pub(super) fn device_name(gpu: Option<&Arc<gramscope_cuda::Device>>) -> String {
    #[cfg(feature = "cuda")]
    if let Some(gpu) = gpu {
        return gpu.properties().name.clone();
    }
    let _ = gpu;
    "cpu".to_owned()
}

/// What `work` returned each time it counted, and the median of its milliseconds.
fn timed<T>(mut work: impl FnMut() -> anyhow::Result<T>) -> anyhow::Result<(Vec<T>, f64)> {
    let (mut results, mut times) = (Vec::new(), Vec::new());
    for round in 0..WARM_UP + BATCHES {
        let start = Instant::now();
        let result = work()?;
        if round >= WARM_UP {
            times.push(start.elapsed().as_secs_f64() * 1e3);
            results.push(result);
        }
    }
    Ok((results, median(times)))
}
