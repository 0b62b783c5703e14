//! The GPU: its two ceilings, its kernels, and the whole way from activations to CKA, against float64 and the CPU.

use std::sync::Arc;

use gramscope_cka::{Comparison, Estimator, Gram, Kernel, Options};
use gramscope_cuda::{Device, Values, ceilings, plan};

use super::cka::{self, Case, HOST, Place};
use super::inputs::Layer;
use super::{Finding, Report, convolutions, kernels, networks, probes, training_kernels};

/// How far CKA on the GPU may be from CKA on the CPU: both are within 1e-6 of the truth.
const APART: f64 = 2.0 * cka::EXACT;
/// How often a comparison is repeated to see whether its bits change.
const REPEATS: usize = 20;

/// Checks everything the device computes.
pub(super) fn check(report: &mut Report<'_>, device: &Arc<Device>) {
    if report.only.is_none() {
        report.heading("GPU: ceilings");
        measure_ceilings(report, device);
    }
    report.heading("GPU: kernels");
    kernels::check(report, device);
    report.heading("GPU: training's kernels");
    training_kernels::check(report, device);
    report.heading("GPU: convolutions");
    convolutions::check(report, device);
    report.heading("GPU: linear probes");
    probes::check(report, device);
    report.heading("GPU: networks");
    networks::check(report, device);
    report.heading("GPU: comparisons");
    let begin = |layers: usize, options: Options| Comparison::on(Some(device.clone()), &[layers], &[(0, 0)], options);
    let place = Place { begin: &begin, observe: &cka::one_by_one };
    cka::check(report, "CKA", &place, cka::cases());
    cka::check(report, "CKA", &place, cka::cases_of_gpu());
    let observe =
        |comparison: &mut Comparison, layers: &[Layer], examples| together(device, comparison, layers, examples);
    let all = cka::cases().into_iter().chain(cka::cases_of_gpu());
    // Others are taken one by one however they are handed over.
    let taken_together = all.filter(|case| case.options.kernel == Kernel::Linear && case.examples <= plan::FUSED_ROWS);
    let place_of_all = Place { begin: &begin, observe: &observe };
    cka::check(report, "CKA of layers together", &place_of_all, taken_together.collect());
    for case in cka::cases().into_iter().filter(|case| case.options.gram == Gram::Exact) {
        report.check(&format!("the same on CPU and GPU, {}", case.name), || apart(&case, &place));
    }
    let linear = |case: &Case| case.options.kernel == Kernel::Linear && case.options.estimator == Estimator::Unbiased;
    for case in cka::cases().into_iter().filter(|case| case.examples == 256 && linear(case)) {
        report.check(&format!("the same bits {REPEATS} times, {}", case.name), || repeated(&case, &place));
    }
}

fn measure_ceilings(report: &Report<'_>, device: &Device) {
    let rate = |name: &str, measured: Result<Option<f64>, gramscope_cuda::Error>, unit: &str| {
        let text = match measured {
            Ok(Some(rate)) => format!("{:.1} {unit}", rate / 1e12),
            Ok(None) => "not measured: libcublas is not on the library path".to_owned(),
            Err(error) => format!("not measured: {error}"),
        };
        report.fact(name, &text);
    };
    rate("copy", ceilings::copy_bandwidth(device).map(Some), "TB/s, read and written");
    rate("bf16", ceilings::matrix_rate(device, ceilings::Products::Bf16), "TFLOP/s through cuBLAS");
    rate("TF32", ceilings::matrix_rate(device, ceilings::Products::Tf32), "TFLOP/s through cuBLAS");
    rate("float32", ceilings::matrix_rate(device, ceilings::Products::Float32), "TFLOP/s through cuBLAS");
}

/// Hands over all layers at once, on the device, as a network there does.
fn together(device: &Device, comparison: &mut Comparison, layers: &[Layer], examples: usize) -> anyhow::Result<()> {
    let upload = |layer: &Layer| device.upload("a check", &layer.values);
    let uploaded = layers.iter().map(upload).collect::<Result<Vec<_>, _>>()?;
    let values: Vec<_> = uploaded.iter().map(|values| Values::F32(values.as_view())).collect();
    let together: Vec<_> = values.iter().enumerate().map(|(layer, values)| (Some(layer), values)).collect();
    Ok(comparison.observe_on_device(0, &together, examples)?)
}

/// How far apart CPU and GPU are.
fn apart(case: &Case, place: &Place<'_>) -> anyhow::Result<Finding> {
    let (host, device) = (cka::similarity(case, &HOST)?, cka::similarity(case, place)?);
    let mut finding = Finding::new(APART);
    finding.compare_all(device.cka, &host.cka, 1.0);
    Ok(finding)
}

/// Whether a comparison gives the same bits again and again.
fn repeated(case: &Case, place: &Place<'_>) -> anyhow::Result<Finding> {
    let bits = || -> anyhow::Result<Vec<u64>> {
        let similarity = cka::similarity(case, place)?;
        Ok(similarity.cka.iter().chain(&similarity.hsic_xy).map(|value| value.to_bits()).collect())
    };
    let first = bits()?;
    let mut finding = Finding::new(0.0);
    for _ in 1..REPEATS {
        let differing = bits()?.iter().zip(&first).filter(|(again, first)| again != first).count();
        finding.compare(differing as f64, 0.0);
    }
    Ok(finding)
}
