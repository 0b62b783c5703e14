//! `gramscope bench`: how fast kernels, comparisons and training are here.

use gramscope_nn::{Family, Processor, ResNetConfig};
use regex::Regex;
use serde_json::json;

use crate::arguments::{BenchArguments, BenchCommand};
use crate::bench::ceilings::Ceilings;
use crate::bench::{Rows, cka, probe, train};
use crate::console::Console;
use crate::device;
use crate::words::told;

/// Measures what the arguments name.
pub(crate) fn run(command: &BenchCommand, console: &Console) -> anyhow::Result<()> {
    match command {
        BenchCommand::Kernels { only, arguments } => kernels(only.as_ref(), arguments, console),
        BenchCommand::Cka { family, depth, width, batch_size, numerics, arguments } => {
            let processor = device::processor_of(arguments.device, *numerics, console)?;
            let mut rows = Rows::new(console, arguments.file.as_deref())?;
            cka::run(&network(*family, *depth, *width), batch_size.get(), &processor, &mut rows)
        }
        BenchCommand::Train { family, depth, width, all, batch_size, numerics, jobs, arguments } => {
            let processor = device::processor_of(arguments.device, *numerics, console)?;
            let mut rows = Rows::new(console, arguments.file.as_deref())?;
            let ceilings = match &processor {
                Processor::Cpu => Ceilings::measure()?,
                Processor::Gpu { device, arithmetic } => Ceilings::of_gpu(device, *arithmetic)?,
            };
            if processor.gpu().is_none() {
                device::note_jobs_on_cpu(*jobs, console);
            }
            let (networks, mut failed) = (networks(*family, *depth, *width, *all), 0);
            let count = networks.len();
            for config in networks {
                let name = format!("ResNet-{} x{}", config.depth, config.width);
                let subject = train::Subject { config, batch_size: batch_size.get(), jobs: jobs.get() };
                match train::run(&subject, &processor, ceilings, &mut rows) {
                    Err(error) if count == 1 => return Err(error),
                    // What is too large for the memory there is must not hide the others.
                    Err(error) => {
                        failed += 1;
                        let fields = json!({ "network": name, "reason": told(&error) });
                        console.note("failed", &format!("{name}: {}", told(&error)), fields);
                    }
                    Ok(()) => {}
                }
            }
            if failed > 0 {
                anyhow::bail!("{failed} of {count} networks could not be measured");
            }
            Ok(())
        }
        BenchCommand::Probe { depth, width, batch_size, arguments } => {
            let processor = device::processor_of(arguments.device, device::PLAIN, console)?;
            let mut rows = Rows::new(console, arguments.file.as_deref())?;
            probe::run(*depth, *width, batch_size.get(), &processor, &mut rows)
        }
    }
}

/// The networks to train: the one that is named, all of them, or a few small ones; of ImageNet's family, ResNet-50 unless
/// another is named.
fn networks(family: Family, depth: Option<usize>, width: Option<f64>, all: bool) -> Vec<ResNetConfig> {
    let sizes = match (family, depth, width) {
        _ if all => [14, 20, 38, 110].into_iter().flat_map(|d| [1.0, 2.0, 4.0, 10.0].map(|w| (d, w))).collect(),
        (Family::Cifar, None, None) => vec![(14, 1.0), (20, 1.0), (14, 2.0)],
        (_, depth, width) => return vec![network(family, depth, width)],
    };
    sizes.into_iter().map(|(depth, width)| network(family, Some(depth), Some(width))).collect()
}

/// The network that is named: ResNet-20, or ResNet-50 of ImageNet's family, at width 1 where it is not.
fn network(family: Family, depth: Option<usize>, width: Option<f64>) -> ResNetConfig {
    let (base, usual) = match family {
        Family::Cifar => (ResNetConfig::default(), 20),
        Family::ImageNet => (ResNetConfig { family, image_side: 224, classes: 1000, ..ResNetConfig::default() }, 50),
    };
    ResNetConfig { depth: depth.unwrap_or(usual), width: width.unwrap_or(1.0), ..base }
}

#[cfg(feature = "cuda")]
fn kernels(only: Option<&Regex>, arguments: &BenchArguments, console: &Console) -> anyhow::Result<()> {
    let Some(gpu) = device::gpu(arguments.device, console)? else {
        anyhow::bail!("bench kernels measures a GPU's kernels, and there is none to use");
    };
    crate::bench::kernels::run(&gpu, only, &mut Rows::new(console, arguments.file.as_deref())?)
}

#[cfg(not(feature = "cuda"))]
fn kernels(_: Option<&Regex>, _: &BenchArguments, _: &Console) -> anyhow::Result<()> {
    anyhow::bail!("bench kernels measures a GPU's kernels, and {}", gramscope_cuda::Error::NotBuilt)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Depths and widths.
    fn sizes(networks: &[ResNetConfig]) -> Vec<(usize, f64)> {
        networks.iter().map(|config| (config.depth, config.width)).collect()
    }

    #[test]
    fn the_networks_are_those_that_the_help_names() {
        let cifar = |depth, width, all| networks(Family::Cifar, depth, width, all);
        assert_eq!(sizes(&cifar(None, None, false)), [(14, 1.0), (20, 1.0), (14, 2.0)]);
        assert_eq!(sizes(&cifar(Some(38), None, false)), [(38, 1.0)]);
        assert_eq!(sizes(&cifar(None, Some(4.0), false)), [(20, 4.0)]);
        assert_eq!(sizes(&cifar(Some(8), Some(0.1), false)), [(8, 0.1)]);
        let all = cifar(None, None, true);
        let expected = [14, 20, 38, 110].map(|depth| [1.0, 2.0, 4.0, 10.0].map(|width| (depth, width)));
        assert_eq!(sizes(&all), expected.concat());
        let imagenet = |depth, width| networks(Family::ImageNet, depth, width, false);
        assert_eq!(sizes(&imagenet(None, None)), [(50, 1.0)]);
        assert_eq!(sizes(&imagenet(None, Some(0.25))), [(50, 0.25)]);
        assert_eq!(sizes(&imagenet(Some(101), None)), [(101, 1.0)]);
        let imagenet = imagenet(Some(101), None);
        assert!(imagenet.iter().all(|config| (config.image_side, config.classes) == (224, 1000)));
        assert!(all.iter().all(|config| config.family == Family::Cifar && config.image_side == 32));
        for config in all.iter().chain(&imagenet) {
            config.validate().unwrap();
        }
    }
}
