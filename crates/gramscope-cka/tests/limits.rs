//! What does not fit into memory gives the same bits as what does: panels in rounds, activations read some features at a time.
#![allow(clippy::unwrap_used)]

mod support;

use std::io;
use std::ops::Range;

use gramscope_cka::{
    Activation, Comparison, Components, Error, Estimator, Format, Gram, Kernel, Memory, Options, ReadFeatures,
    Similarity, Values,
};
use support::{Layer, normals};

/// Two models, of `layers` and of 3 layers, over batches of 8 and of 5 examples; one layer of each is dead in one batch.
fn models(layers: usize) -> [[Vec<Layer>; 2]; 2] {
    let model = |seed: u64, layers: usize, n: usize| -> Vec<Layer> {
        let layer = |index: usize| {
            let seed = seed + 31 * index as u64 + n as u64;
            if index == 2 && n == 5 { Layer::from_fn(n, 3, |_, _| 1.5) } else { Layer::normal(seed, n, 1 + index % 7) }
        };
        (0..layers).map(layer).collect()
    };
    [8, 5].map(|n| [model(1, layers, n), model(1000, 3, n)])
}

fn observe_all(comparison: &mut Comparison, batch: &[Vec<Layer>]) -> usize {
    let mut rounds = 1;
    loop {
        for (model, layers) in batch.iter().enumerate() {
            for layer in comparison.wanted(model) {
                let Layer { values, .. } = &layers[layer];
                let n = layers[layer].examples();
                comparison.observe(model, layer, Activation::new(Values::F32(values), n).unwrap()).unwrap();
            }
        }
        if !comparison.next_round().unwrap() {
            return rounds;
        }
        rounds += 1;
    }
}

/// Memory for so many bytes of panels.
fn panels(bytes: u64) -> Memory {
    Memory { panels: bytes, ..Memory::default() }
}

/// The similarities where panels may take `rows` rows of the first batch, and the rounds that it took.
fn compare(layers: usize, options: Options, pairs: &[(usize, usize)], rows: u64) -> (Vec<Similarity>, usize) {
    let row = if options.estimator == Estimator::Unbiased { 4 * 28 } else { 4 * 36 };
    let mut comparison = Comparison::new(&[layers, 3], pairs, options).unwrap();
    comparison.limit_memory(panels(rows.saturating_mul(row)));
    let mut rounds = 0;
    for batch in models(layers) {
        comparison.begin_batch(batch[0][0].examples()).unwrap();
        rounds = rounds.max(observe_all(&mut comparison, &batch));
        comparison.end_batch().unwrap();
    }
    (comparison.finish().unwrap(), rounds)
}

fn bits(similarities: &[Similarity]) -> Vec<u64> {
    let numbers = |s: &Similarity| [&s.cka, &s.hsic_xy, &s.hsic_xx, &s.hsic_yy].map(|numbers| numbers.clone()).concat();
    similarities.iter().flat_map(numbers).map(f64::to_bits).collect()
}

#[test]
fn panels_in_rounds_give_the_same_bits() {
    let pairs = [(0, 0), (1, 0), (0, 1), (1, 1)];
    for layers in [3, 17, 37] {
        for (estimator, kernel) in
            [(Estimator::Unbiased, Kernel::Linear), (Estimator::Biased, Kernel::Rbf { bandwidth: 0.5 })]
        {
            let options = Options { estimator, kernel, gram: Gram::Exact, ..Options::default() };
            let (whole, rounds) = compare(layers, options, &pairs, 1000);
            assert_eq!(rounds, 1);
            assert!(whole[0].cka.iter().any(|value| value.is_finite()));
            let mut seen = Vec::new();
            for rows in [2, 3, 5, 9, 32, 36, 37, 39, layers as u64 + 2] {
                let (parts, rounds) = compare(layers, options, &pairs, rows);
                assert_eq!(bits(&parts), bits(&whole), "{layers} layers, {estimator}, {rows} rows");
                seen.push(rounds);
            }
            let total = layers + 3;
            assert!(seen[0] == total && seen[1] > 1 && (total < 40 || seen.contains(&3)), "rounds: {seen:?}");
        }
    }
}

#[test]
fn rounds_are_to_be_kept() {
    let [batch, _] = models(5);
    let mut comparison = Comparison::new(&[5, 3], &[(0, 1)], Options::default()).unwrap();
    comparison.limit_memory(panels(Comparison::panel_bytes(&[1], 8)));
    let error = comparison.begin_batch(8).unwrap_err();
    assert!(matches!(error, Error::PanelLimit { needed: 224, limit: 144 }), "{error:?}");
    comparison.limit_memory(panels(4 * Comparison::panel_bytes(&[1], 8)));
    comparison.begin_batch(8).unwrap();
    let view = |model: usize, layer: usize| Activation::new(Values::F32(&batch[model][layer].values), 8).unwrap();
    assert_eq!(comparison.observe(0, 1, view(0, 1)).unwrap_err(), Error::OutOfTurn { model: 0, layer: 1 });
    comparison.observe(0, 0, view(0, 0)).unwrap();
    assert_eq!(
        comparison.observe(0, 0, view(0, 0)).unwrap_err(),
        Error::ObservedTwice { model: 0, layer: 0, batch: 0 }
    );
    assert!(matches!(comparison.next_round().unwrap_err(), Error::NotObserved { model: 0, .. }));
    // Model 0 is compared with model 1 alone: its later layers need not pass by.
    assert!(comparison.wanted(0).end < 5 && comparison.wanted(1) == (0..3));
    for layer in 1..comparison.wanted(0).end {
        comparison.observe(0, layer, view(0, layer)).unwrap();
    }
    for layer in 0..3 {
        comparison.observe(1, layer, view(1, layer)).unwrap();
    }
    assert_eq!(comparison.end_batch().unwrap_err(), Error::MoreRounds { batch: 0 });
}

#[test]
fn components_in_rounds_give_the_same_bits() {
    let n = 12;
    let layers: Vec<Layer> = (0..35).map(|index| Layer::normal(index as u64, n, 1 + index % 9)).collect();
    let analyse = |rows: u64| {
        let mut components = Components::new(layers.len(), n, Estimator::Unbiased).unwrap();
        components.limit_memory(panels(rows * 2 * (n * (n - 1) / 2 * 4) as u64)).unwrap();
        loop {
            for layer in components.wanted() {
                let view = Activation::new(Values::F32(&layers[layer].values), n).unwrap();
                components.observe(layer, view).unwrap();
            }
            if !components.next_round().unwrap() {
                break;
            }
        }
        let found = components.finish().unwrap();
        [found.cka, found.cka_without_first, found.cosine_sq, found.first_pc].concat().into_iter().map(f64::to_bits)
    };
    let whole: Vec<u64> = analyse(100).collect();
    for rows in [2, 4, 7, 33, 34] {
        assert!(analyse(rows).eq(whole.iter().copied()), "{rows} rows");
    }
}

/// Values in memory that are handed out as if they were not.
#[derive(Debug)]
struct Elsewhere<'a> {
    bytes: &'a [u8],
    n: usize,
    broken: bool,
}

impl ReadFeatures for Elsewhere<'_> {
    fn read(&self, features: Range<usize>, rows: &mut [u8]) -> io::Result<()> {
        if self.broken {
            return Err(io::Error::other("the disk is gone"));
        }
        let size = rows.len() / self.n / features.len();
        for (row, whole) in
            rows.chunks_exact_mut(features.len() * size).zip(self.bytes.chunks_exact(self.bytes.len() / self.n))
        {
            row.copy_from_slice(&whole[features.start * size..features.end * size]);
        }
        Ok(())
    }
}

#[test]
fn activations_that_are_read_some_features_at_a_time_give_the_same_bits() {
    // 70,001 features of 256 examples are more than one reading for every group.
    for (n, features) in [(4, 1), (7, 511), (33, 513), (33, 5000), (256, 70_001)] {
        // Rows of very different sizes, so that kappa asks for float64 as well.
        let values: Vec<f64> = normals(n as u64, n * features);
        let values: Vec<f64> =
            values.into_iter().enumerate().map(|(at, v)| if at < features { 1e6 * v } else { v }).collect();
        let single: Vec<f32> = values.iter().map(|&value| value as f32).collect();
        let half: Vec<_> = values.iter().map(|&value| half::f16::from_f64(value / 1e3)).collect();
        let brain: Vec<_> = values.iter().map(|&value| half::bf16::from_f64(value)).collect();
        let formats = [
            (Values::F32(&single), Format::F32, bytemuck::cast_slice::<_, u8>(&single)),
            (Values::F16(&half), Format::F16, bytemuck::cast_slice(&half)),
            (Values::Bf16(&brain), Format::Bf16, bytemuck::cast_slice(&brain)),
            (Values::F64(&values), Format::F64, bytemuck::cast_slice(&values)),
        ];
        let model = vec![formats.len(); 2];
        let mut comparison = Comparison::new(&model, &[(0, 0), (1, 1)], Options::default()).unwrap();
        comparison.begin_batch(n).unwrap();
        for (layer, (values, format, bytes)) in formats.into_iter().enumerate() {
            let source = Elsewhere { bytes, n, broken: false };
            comparison.observe(0, layer, Activation::new(values, n).unwrap()).unwrap();
            comparison.observe(1, layer, Activation::stored(n, features, format, &source).unwrap()).unwrap();
        }
        comparison.end_batch().unwrap();
        let found = comparison.finish().unwrap();
        assert!(found[0].cka.iter().all(|value| value.is_finite()));
        assert_eq!(bits(&found[..1]), bits(&found[1..]), "n = {n}, {features} features");
    }
}

#[test]
fn an_activation_that_cannot_be_read_is_named() {
    let source = Elsewhere { bytes: &[], n: 4, broken: true };
    let mut comparison = Comparison::new(&[2], &[(0, 0)], Options::default()).unwrap();
    comparison.begin_batch(4).unwrap();
    let view = Activation::stored(4, 3, Format::F64, &source).unwrap();
    let error = comparison.observe(0, 1, view).unwrap_err();
    assert!(matches!(error, Error::Unread { model: 0, layer: 1, batch: 0, .. }), "{error:?}");
    assert!(error.to_string().contains("the disk is gone"), "{error}");
}
