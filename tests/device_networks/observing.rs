//! Evaluation beside the pass in which every layer is looked at.

use std::collections::HashMap;
use std::sync::Arc;

use candle_core::{Device as Host, Tensor};
use gramscope_cuda::Device;
use gramscope_cuda::plan::Arithmetic;
use gramscope_nn::device::{DeviceNetwork, Images, StoredImages};
use gramscope_nn::{Error, Family, Output, ResNet, ResNetConfig};

use crate::support::driver::{driver, on_fake_driver};

const IMAGES: usize = 5;

/// Every kind of block: with identities and projections, without shortcuts, with two branches, bottlenecks.
fn configs() -> Vec<ResNetConfig> {
    let cifar = ResNetConfig { depth: 14, width: 0.25, image_side: 9, ..ResNetConfig::default() };
    vec![
        cifar.clone(),
        ResNetConfig { residual: false, ..cifar.clone() },
        ResNetConfig { shake_shake: true, ..cifar.clone() },
        ResNetConfig { family: Family::ImageNet, depth: 35, width: 0.0625, ..cifar },
    ]
}

/// Parameters and running statistics that are none of a network's first ones: a batch norm of those does next to nothing, and any
/// other would do in its place.
fn network(config: &ResNetConfig) -> ResNet {
    let network = ResNet::new(config, 3, &Host::Cpu).unwrap();
    let state = network.state().into_iter().enumerate().map(|(number, (name, tensor))| {
        let values: Vec<f32> = tensor.flatten_all().unwrap().to_vec1().unwrap();
        let changed = values.iter().enumerate().map(|(place, value)| {
            let number = ((number * 31 + place * 97) % 251) as f32 / 251.0;
            match tensor.rank() {
                1 => value + 0.5 * number,
                _ => *value,
            }
        });
        (name, Tensor::from_vec(changed.collect::<Vec<_>>(), tensor.shape(), &Host::Cpu).unwrap())
    });
    network.load_state(&state.collect::<HashMap<_, _>>()).unwrap();
    network
}

fn largest(values: impl Iterator<Item = f32>) -> f32 {
    // NaN must stay.
    values.fold(0.0, |largest, value| if value.abs() > largest || value.is_nan() { value.abs() } else { largest })
}

/// The last layer of a pass in which every layer is looked at is what evaluation gives, to the last bit: what is stored to be looked
/// at is none of what the rest is computed from. And every layer is what the CPU has: sums of up to 4,608 terms are off by the root of as
/// many roundings, 4e-6, and the root of 35 layers makes six times that of it.
#[test]
fn observed_layers_are_those_of_evaluation_and_of_the_cpu() {
    if on_fake_driver(&driver(), "observing::observed_layers_are_those_of_evaluation_and_of_the_cpu").is_some() {
        return;
    }
    let device = Arc::new(Device::open(0).unwrap());
    for config in configs() {
        let side = config.image_side;
        let pixels: Vec<u8> = (0..IMAGES * side * side * 3).map(|place| (place * 97 % 251) as u8).collect();
        let network = network(&config);
        let values: Vec<f32> = pixels.iter().map(|&pixel| f32::from(pixel) / 255.0).collect();
        let images = Tensor::from_vec(values, (IMAGES, side, side, 3), &Host::Cpu).unwrap();
        let mut expected: Vec<Vec<f32>> = Vec::new();
        let observe = &mut |_, output: &mut Output| {
            expected.push(output.values()?.flatten_all()?.to_vec1()?);
            Ok::<(), Error>(())
        };
        network.forward_observed(&images, observe).unwrap();

        let stored = StoredImages::new(&device, &pixels, &[0; IMAGES], side).unwrap();
        let order: Vec<u32> = (0..IMAGES as u32).collect();
        let batch = || Images::Stored { images: &stored, order: &order };
        for arithmetic in [Arithmetic::Float32, Arithmetic::Bf16] {
            let mut on_device = DeviceNetwork::new(&network, device.clone(), arithmetic).unwrap();
            let mut layers: Vec<Vec<f32>> = Vec::new();
            let take = &mut |_, values: &[f32]| {
                layers.push(values.to_vec());
                Ok::<(), Error>(())
            };
            on_device.forward_copied(batch(), &|_| true, take).unwrap();
            // The same values, whether layers wait for each other or not.
            let mut together = DeviceNetwork::new(&network, device.clone(), arithmetic).unwrap();
            together.hand_out_together();
            assert!(on_device.observation_bytes(IMAGES) <= together.observation_bytes(IMAGES));
            let mut alone = layers.iter();
            let compare = &mut |_, values: &[f32]| {
                assert!(alone.next().unwrap() == values, "{arithmetic:?}, {config:?}");
                Ok::<(), Error>(())
            };
            together.forward_copied(batch(), &|_| true, compare).unwrap();
            assert!(alone.next().is_none());
            let evaluated = on_device.forward(batch()).unwrap();
            let bits = |logits: &[f32]| logits.iter().map(|logit| logit.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(layers.last().unwrap()), bits(&evaluated), "{arithmetic:?}, {config:?}");
            if arithmetic == Arithmetic::Float32 {
                assert_eq!(layers.len(), expected.len());
                for ((layer, found), expected) in network.layers().iter().zip(&layers).zip(&expected) {
                    let scale = largest(expected.iter().copied());
                    let off = largest(found.iter().zip(expected).map(|(found, expected)| found - expected)) / scale;
                    assert!(off <= 2.5e-5, "{}, {config:?}: off by {off:e}", layer.name);
                }
            }
        }
    }
}
