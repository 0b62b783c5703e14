//! The real library, where a CUDA toolkit has it: it needs no GPU to say what it makes of a graph, only the description of one.
//! What it cannot do without one is run a plan, and make plans of engines that are compiled when they are needed.
#![allow(clippy::unwrap_used)]

use std::ffi::c_int;

use super::descriptor::{Attribute, Descriptor, Kind, OfDescriptors, Value};
use super::engines::{Plan, Target, candidates, config};
use super::graph::Graph;
use super::library::Library;
use super::{ALIGNMENT, MOST_WORKSPACE, Problem};
use crate::choices::Choice;
use crate::plan::convolution::Product;
use crate::plan::{Arithmetic, Convolution};

pub(super) const ENGINEHEUR_DEVICEPROP: Attribute<OfDescriptors> = Attribute::new(204);
pub(super) const EXECUTION_PLAN_DEVICEPROP: Attribute<OfDescriptors> = Attribute::new(407);
pub(super) const ENGINE_DEVICEPROP: Attribute<OfDescriptors> = Attribute::new(1307);
const DEVICEPROP_JSON_REPRESENTATION: Attribute<Byte> = Attribute::new(2702);

/// A character.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct Byte(u8);

impl Value for Byte {
    const TYPE: c_int = 24;
    const EMPTY: Self = Self(0);
}

/// An H100, as cuDNN describes it.
const H100: &str = r#"{"deviceVer": 900, "driverVer": 13000, "maxGridSize": [2147483647, 65535, 65535],
    "maxBlockSize": [1024, 1024, 64], "regsPerBlock": 65536, "multiProcessorCount": 132, "warpSize": 32,
    "maxSharedMemoryPerBlock": 49152, "maxSharedMemoryPerBlockOptin": 232448, "reservedSharedMemoryPerBlock": 1024,
    "maxRegistersPerSM": 65536, "maxCtasPerSM": 32, "maxThreadsPerBlock": 1024, "maxThreadsPerSM": 2048, "pciDeviceId": 0,
    "isTccDriver": 0, "supportCoopLaunch": 1, "smClockRateKHz": 1980000, "memClockRateKHz": 2619000, "l2CacheSize": 52428800,
    "deviceName": "NVIDIA H100 80GB HBM3", "totalGlobalMem": 85000000000, "cudaDeviceId": 0, "version": 1,
    "cudnn_version": 92101, "deviceId": 0}"#;

/// The library of the toolkit that the environment names, if it has one.
fn library() -> Option<&'static Library> {
    let home = std::env::var_os("CUDA_HOME")?;
    let path = std::path::Path::new(&home).join("lib64/libcudnn.so.9");
    // SAFETY: loading cuDNN runs its initialisers. From now on the loader knows it by its name.
    std::mem::forget(unsafe { libloading::Library::new(path) }.ok()?);
    Library::get().ok()
}

/// Of every product, in float32 and bfloat16: the graph is one that cuDNN takes, the engines that are wanted become plans, and a
/// choice that was written down becomes the plan that it was.
#[test]
fn cudnn_takes_our_graphs() {
    let Some(library) = library() else {
        println!("skipped: CUDA_HOME names no toolkit with cuDNN");
        return;
    };
    let bytes: Vec<Byte> = H100.bytes().map(Byte).collect();
    let properties = Descriptor::new(library, Kind::DeviceProperties).unwrap();
    let properties = properties.with(DEVICEPROP_JSON_REPRESENTATION, &bytes).unwrap().finalised().unwrap();
    let target = Target::Properties(properties);
    let shapes =
        [[128, 32, 16, 16, 3, 1, 1], [128, 32, 3, 16, 3, 1, 1], [64, 33, 13, 27, 3, 2, 1], [8, 56, 64, 256, 1, 2, 0]];
    let mut plans = [0; 3];
    for [images, side, from, to, kernel, stride, padding] in shapes {
        let convolution = Convolution { images, height: side, width: side, from, to, kernel, stride, padding };
        for arithmetic in [Arithmetic::Float32, Arithmetic::Tf32, Arithmetic::Bf16] {
            let products = [
                Product::Forward,
                Product::InputGradient { adds: false },
                Product::InputGradient { adds: true },
                Product::WeightGradient,
            ];
            for product in products {
                let problem = Problem { product, convolution, arithmetic, alignment: ALIGNMENT };
                let graph = Graph::new(library, &target, &problem).unwrap();
                let found = candidates(library, &target, &graph, arithmetic).unwrap();
                // Engines that take float32 biases or give float32 gradients beside bfloat16 are compiled when they are needed, and a
                // driver is part of that. Others are there.
                let compiled = arithmetic == Arithmetic::Bf16 && !matches!(product, Product::InputGradient { .. });
                assert!(found.iter().any(|candidate| !candidate.is_compiled) != compiled, "{}", problem.describe());
                let mut here = 0;
                for candidate in found {
                    let Ok(plan) = Plan::new(library, &target, candidate.config) else { continue };
                    let choice: Choice = candidate.choice.to_string().parse().unwrap();
                    assert_eq!(choice, candidate.choice);
                    let Choice::Engine { index, knobs } = choice else { continue };
                    let again = config(library, &target, &graph, index, &knobs).unwrap();
                    let again = Plan::new(library, &target, again).unwrap();
                    assert_eq!(plan.workspace, again.workspace, "{}: {}", problem.describe(), candidate.choice);
                    here += usize::from(plan.workspace <= MOST_WORKSPACE);
                }
                println!("{}: {here} plans", problem.describe());
                plans[arithmetic as usize] += here;
                assert!(here > 0 || compiled, "{}: no plan", problem.describe());
            }
        }
    }
    assert!(plans[1] > plans[0] && plans[2] > 0, "{plans:?}");
}
