//! Gram matrices of a layer, and of several in one launch.

use gramscope_cuda::ceilings::Products;
use gramscope_cuda::plan;

use super::operands::{Layers, Sums};
use super::{EXAMPLES, triangle};
use crate::bench::Rows;
use crate::bench::kernels::{KernelBench, Subject, Times, WHAT, time, time_naive};

/// Variants of the products on tensor cores; whether they are `fused`, and `exact`; and how many products of halves are issued for one.
const GRAMS: [(&str, bool, bool, f64); 4] = [
    ("fused exact", true, true, 3.0),
    ("fused fast", true, false, 1.0),
    ("tiled exact", false, true, 4.0),
    ("tiled fast", false, false, 1.0),
];

impl KernelBench<'_> {
    /// The Gram kernels of one type at one number of features.
    pub(super) fn gram(&self, rows: &mut Rows<'_>, name: &str, element: usize, features: usize) -> anyhow::Result<()> {
        let shape = [EXAMPLES, features];
        let products = self.wanted("gram", &GRAMS.map(|(variant, ..)| variant), name, &shape);
        let [wants_shift, wants_double] = ["shift", "double"].map(|variant| self.wants("gram", variant, name, &shape));
        if !wants_shift && !wants_double && products.is_empty() {
            return Ok(());
        }
        let mut layer = Layers::new(self.device, name, element, [1, features])?;
        let read = (EXAMPLES * features * element) as f64;
        let subject = Subject {
            kernel: "gram",
            variant: "shift",
            stored: name,
            shape: &shape,
            bytes: read,
            partial_bytes: 0.0,
            flops: 0.0,
            products: None,
        };
        // The other kernels take the shifts of the columns.
        let us = time(self.device, &mut |round| layer.shift(round))?;
        if wants_shift {
            let subject = Subject { bytes: read + 8.0 * features as f64, ..subject };
            self.write(rows, &subject, Times { us, ..Times::default() })?;
        }
        if !wants_double && products.is_empty() {
            return Ok(());
        }
        let all = 2.0 * (EXAMPLES * EXAMPLES * features) as f64;
        let mut k = self.device.zeros::<f64>(WHAT, EXAMPLES * EXAMPLES)?;
        let naive_us = time_naive(self.device, all, &mut |round| layer.naive(&mut k, round))?;
        if wants_double {
            self.gram_double(rows, &mut layer, &subject, naive_us)?;
        }
        self.gram_products(rows, &mut layer, &subject, &products, naive_us)
    }

    /// The float64 products of `subject`'s layer.
    fn gram_double(
        &self,
        rows: &mut Rows<'_>,
        layer: &mut Layers<'_>,
        subject: &Subject<'_>,
        naive_us: Option<f64>,
    ) -> anyhow::Result<()> {
        let (features, plan) = (subject.shape[1], self.device.plan());
        let mut partials = self.device.zeros::<f64>(WHAT, plan::gram_double(EXAMPLES, features, plan).partials)?;
        let us = time(self.device, &mut |round| layer.double(&mut partials, round))?;
        let subject = Subject {
            variant: "double",
            partial_bytes: (partials.len() * size_of::<f64>()) as f64,
            flops: 2.0 * triangle(EXAMPLES, plan::DOUBLE_TILE) * features as f64,
            ..*subject
        };
        self.write(rows, &subject, Times { us, naive_us, ..Times::default() })
    }

    /// Those of the `variants` on tensor cores, beside cuBLAS.
    fn gram_products(
        &self,
        rows: &mut Rows<'_>,
        layer: &mut Layers<'_>,
        subject: &Subject<'_>,
        variants: &[&str],
        naive_us: Option<f64>,
    ) -> anyhow::Result<()> {
        if variants.is_empty() {
            return Ok(());
        }
        let features = subject.shape[1];
        let shape = [EXAMPLES, features];
        let [exact_us, fast_us] = [false, true].map(|tf32| self.cublas_us(|round| layer.one(round), shape, tf32));
        let (exact_us, fast_us) = (exact_us?, fast_us?);
        for (variant, fused, exact, terms) in GRAMS.into_iter().filter(|(variant, ..)| variants.contains(variant)) {
            let Some(mut sums) = Sums::new(self.device, [1, features], fused)? else { continue };
            let us = time(self.device, &mut |round| layer.products(&mut sums, exact, round))?;
            let subject = Subject {
                variant,
                partial_bytes: sums.bytes(),
                flops: terms * 2.0 * triangle(EXAMPLES, plan::STRIP) * features as f64,
                products: Some(Products::Bf16),
                ..*subject
            };
            let cublas_us = if exact { exact_us } else { fast_us };
            self.write(rows, &subject, Times { us, naive_us, cublas_us, ..Times::default() })?;
        }
        Ok(())
    }

    /// The products of several layers in one launch.
    pub(super) fn gram_together(&self, rows: &mut Rows<'_>, shape: [usize; 3]) -> anyhow::Result<()> {
        let [layers, n, features] = shape;
        let fused = || GRAMS.into_iter().filter(|(_, fused, ..)| *fused);
        let wanted = self.wanted("gram", &fused().map(|(variant, ..)| variant).collect::<Vec<_>>(), "f32", &shape);
        if wanted.is_empty() {
            return Ok(());
        }
        let mut together = Layers::new(self.device, "f32", 4, [layers, features])?;
        let Some(mut sums) = Sums::new(self.device, [layers, features], true)? else { return Ok(()) };
        for (variant, _, exact, terms) in fused().filter(|(variant, ..)| wanted.contains(variant)) {
            let us = time(self.device, &mut |round| together.products(&mut sums, exact, round))?;
            let subject = Subject {
                kernel: "gram",
                variant,
                stored: "f32",
                shape: &shape,
                bytes: (layers * n * features * 4) as f64,
                partial_bytes: sums.bytes(),
                flops: terms * 2.0 * triangle(n, plan::STRIP) * (layers * features) as f64,
                products: Some(Products::Bf16),
            };
            self.write(rows, &subject, Times { us, ..Times::default() })?;
        }
        Ok(())
    }
}
