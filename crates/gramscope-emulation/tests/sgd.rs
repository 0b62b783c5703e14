//! SGD: to the last bit what gramscope-nn does on the CPU, one parameter after the other.
#![allow(clippy::unwrap_used)]

mod support;

use candle_core::{Device, Tensor};
use gramscope_cuda::plan::training as plan;
use gramscope_cuda::shapes::SgdShape;
use gramscope_emulation::{Buffer, Launch};
use gramscope_nn::ops::sgd::{Step, step};
use support::inputs::Random;

fn normal(length: usize, seed: u64) -> Vec<f32> {
    let mut random = Random::new(seed);
    (0..length).map(|_| random.normal() as f32).collect()
}

/// The CPU's weights and velocities.
fn on_the_cpu(w: &[f32], v: &[f32], g: &[f32], settings: Step) -> (Vec<f32>, Vec<f32>) {
    if w.is_empty() {
        return (Vec::new(), Vec::new());
    }
    let tensor = |values: &[f32]| Tensor::from_vec(values.to_vec(), values.len(), &Device::Cpu).unwrap();
    let (w, v) = (tensor(w), tensor(v));
    step(&w, &tensor(g), &v, settings).unwrap();
    (w.to_vec1().unwrap(), v.to_vec1().unwrap())
}

#[test]
fn two_steps_are_the_cpus() {
    let settings = Step { rate: 0.013, momentum: 0.9, decay: 1e-4 };
    for (length, decaying) in [(1, 0), (1, 1), (5, 3), (1021, 514), (4099, 4099)] {
        for shift in [0, 1] {
            let (mut w, mut v) = (Buffer::misaligned(&normal(length, 1), shift), Buffer::new(&normal(length, 2)));
            for seed in 3..5 {
                let g = normal(length, seed);
                let half = |decay, range: std::ops::Range<usize>| {
                    let (w, v) = (&w.values()[range.clone()], &v.values()[range.clone()]);
                    on_the_cpu(w, v, &g[range], Step { decay, ..settings })
                };
                let (first, second) = (half(settings.decay, 0..decaying), half(0.0, decaying..length));
                let expected = ([first.0, second.0].concat(), [first.1, second.1].concat());

                let shape = SgdShape {
                    length: length as i64,
                    decaying: decaying as i64,
                    momentum: settings.momentum as f32,
                    twice_decay: 2.0 * settings.decay as f32,
                };
                let (gradients, rate) = (Buffer::new(&g), Buffer::new(&[settings.rate as f32]));
                let launch = Launch::new("gs_sgd_step").geometry(plan::runs(length, size_of::<f32>())).seed(seed);
                launch.output(&mut w).output(&mut v).input(&gradients).input(&rate).value(shape).run().unwrap();
                assert_eq!(
                    (w.values(), v.values()),
                    (&expected.0[..], &expected.1[..]),
                    "{length}, {decaying}, {shift}"
                );
            }
        }
    }
}
