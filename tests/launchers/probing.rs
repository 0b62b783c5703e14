//! Launchers of linear probes.

use gramscope_cuda::plan;
use gramscope_cuda::{Error, ProbeBatch, ProbeOutcome, ProbeStep};

use crate::making::Dimension::Size;
use crate::making::{Dimension, Family, Making, family};

const PROBE: &[Dimension] = &[Size(3), Size(8), Size(5)];

pub(crate) const FAMILIES: &[Family] = &[
    Family { runs: &[1, 2], ..family("probe_products", PROBE, |m| probe_products(m, false)) },
    Family { runs: &[1, 2], ..family("probe_products_naive", PROBE, |m| probe_products(m, true)) },
    family("probe_outcome", &[Size(3), Size(8), Size(5), Size(2)], probe_outcome),
    Family { runs: &[0, 1, 2], ..family("probe_update", PROBE, |m| probe_update(m, false)) },
    Family { runs: &[0, 1, 2], ..family("probe_update_naive", PROBE, |m| probe_update(m, true)) },
];

fn probe_products(m: &Making<'_>, naive: bool) -> Result<(), Error> {
    let [n, p, k] = m.right();
    let splits = if naive { 1 } else { plan::probe::probe(n, p, k).splits };
    let (mut partials, x) = (make!(m, splits * n * k), make!(m, n * p));
    let (weights, record, [examples, features, classes]) = (make!(m, (p + 1) * k), make!(m, 1), m.told());
    let batch = ProbeBatch::<f32> { x: x.view(), examples, features, classes };
    let (partials, weights, record) = (&mut partials.view_mut(), &weights.view(), &record.view());
    match naive {
        true => m.launcher().probe_products_naive(partials, &batch, weights, record).map(drop),
        false => m.launcher().probe_products(partials, &batch, weights, record).map(drop),
    }
}

fn probe_outcome(m: &Making<'_>) -> Result<(), Error> {
    let [n, p, k, splits] = m.right();
    let lengths = plan::probe::probe(n, p, k);
    let (mut dlogits, mut logits, mut totals) = (make!(m, n * lengths.row), make!(m, n * k), make!(m, lengths.totals));
    let (mut arrivals, mut record, partials) = (make!(m, 1), make!(m, 1), make!(m, splits * n * k));
    let (x, weights, labels) = (make!(m, n * p), make!(m, (p + 1) * k), make!(m, n));
    let [examples, features, classes, splits] = m.told();
    let batch = ProbeBatch::<f32> { x: x.view(), examples, features, classes };
    let mut outcome = ProbeOutcome {
        dlogits: Some(dlogits.view_mut()),
        logits: logits.view_mut(),
        totals: totals.view_mut(),
        arrivals: arrivals.view_mut(),
    };
    let (record, partials, weights) = (&mut record.view_mut(), &partials.view(), &weights.view());
    m.launcher().probe_outcome(&mut outcome, record, partials, splits, &batch, weights, &labels.view())
}

fn probe_update(m: &Making<'_>, naive: bool) -> Result<(), Error> {
    let [n, p, k] = m.right();
    let row = plan::probe::probe(n, p, k).row;
    let (mut weights, x, dlogits) = (make!(m, (p + 1) * k), make!(m, n * p), make!(m, n * row));
    let (mut velocities, record, [examples, features, classes]) = (make!(m, (p + 1) * k), make!(m, 1), m.told());
    let batch = ProbeBatch::<f32> { x: x.view(), examples, features, classes };
    let (weights, velocities) = (&mut weights.view_mut(), &mut velocities.view_mut());
    let (dlogits, record, step) = (&dlogits.view(), &record.view(), ProbeStep { learning_rate: 0.1, momentum: 0.9 });
    match naive {
        true => m.launcher().probe_update_naive(weights, velocities, &batch, dlogits, record, step),
        false => m.launcher().probe_update(weights, velocities, &batch, dlogits, record, step),
    }
}
