//! The oracle against itself: two ways to the same number, and matrices whose answer is known.

use gramscope_reference::cka::{self, Estimator, Kernel};
use gramscope_reference::{Matrix, components, gram, hsic};

/// Numbers without an apparent pattern, in (-1, 1).
fn made(seed: usize, rows: usize, cols: usize) -> Matrix {
    Matrix::from_fn(rows, cols, |i, j| (((i * 131 + j * 71 + seed * 37) as f64 * 12.9898).sin() * 43758.5453).fract())
}

fn assert_close(found: f64, expected: f64, scale: f64) {
    assert!((found - expected).abs() <= 1e-12 * scale, "{found}, expected {expected}");
}

#[test]
fn the_stable_form_of_unbiased_hsic_is_its_definition() {
    for n in [4, 5, 32, 33] {
        let (k, l) = (gram::linear(&made(1, n, 7)), gram::linear(&made(2, n, 3)));
        for (a, b) in [(&k, &k), (&k, &l), (&l, &k)] {
            let scale = (a.inner(a) * b.inner(b)).sqrt() / (n * (n - 3)) as f64;
            assert_close(hsic::unbiased(a, b), hsic::unbiased_by_definition(a, b), scale);
        }
    }
}

#[test]
fn the_shift_changes_no_hsic() {
    for n in [4, 5, 33] {
        let (x, y) = (made(3, n, 5), made(4, n, 6));
        let plain = |x: &Matrix| Matrix::from_fn(n, n, |i, j| x.row(i).iter().zip(x.row(j)).map(|(a, b)| a * b).sum());
        for hsic in [hsic::unbiased, hsic::biased] {
            let scale = (plain(&x).inner(&plain(&x)) * plain(&y).inner(&plain(&y))).sqrt();
            assert_close(hsic(&gram::linear(&x), &gram::linear(&y)), hsic(&plain(&x), &plain(&y)), scale);
        }
    }
}

#[test]
fn the_shift_is_what_lies_between_the_extremes() {
    for outlier in [9.0, 1e8, 1e30] {
        let x = Matrix::new(5, 1, vec![1.0, outlier, 2.0, 3.0, 4.0]);
        assert_eq!(gram::shift(&x).column(0).collect::<Vec<_>>(), [-2.0, outlier - 3.0, -1.0, 0.0, 1.0]);
    }
}

#[test]
fn centred_matrices_have_rows_that_sum_to_zero() {
    let k = gram::linear(&made(5, 9, 4));
    for centred in [hsic::u_centre(&k), hsic::double_centre(&k)] {
        for i in 0..9 {
            assert_close(centred.row(i).iter().sum(), 0.0, k.inner(&k).sqrt());
        }
    }
}

#[test]
fn all_pairs_at_once_are_all_pairs() {
    let layers = |seed: usize| -> Vec<Vec<Matrix>> {
        (0..3).map(|layer| (0..2).map(|batch| made(seed + 10 * layer + batch, 6, 2 + layer)).collect()).collect()
    };
    let (x, y) = (layers(100), layers(200));
    for kernel in [Kernel::Linear, Kernel::Rbf(0.5)] {
        for estimator in [Estimator::Unbiased, Estimator::Biased] {
            let all = cka::matrix(&x, &y[..2], kernel, estimator);
            for (i, j) in (0..3).flat_map(|i| (0..2).map(move |j| (i, j))) {
                assert_close(all.get(i, j), cka::minibatch(&x[i], &y[j], kernel, estimator), 1.0);
            }
        }
    }
}

#[test]
fn a_kernel_without_a_bandwidth_is_not_a_number() {
    // Three of four rows coincide: of 16 squared distances 10 are zero, and so is their median.
    let x = Matrix::new(4, 1, vec![1.0, 1.0, 1.0, 2.0]);
    assert!(gram::rbf(&x, 0.5).data.iter().any(|value| value.is_nan()));
    assert!(
        cka::minibatch(std::slice::from_ref(&x), std::slice::from_ref(&x), Kernel::Rbf(0.5), Estimator::Biased)
            .is_nan()
    );
}

/// Q diag(values) Q^T with Q the product of two reflections, and Q's first column.
fn with_eigenvalues(values: &[f64]) -> (Matrix, Vec<f64>) {
    let n = values.len();
    let reflect = |q: &Matrix, v: &Matrix| {
        let squared = v.inner(v);
        let along = |j: usize| (0..n).map(|i| v.get(i, 0) * q.get(i, j)).sum::<f64>();
        let along: Vec<f64> = (0..n).map(along).collect();
        q.map(|i, j, value| value - 2.0 * v.get(i, 0) * along[j] / squared)
    };
    let identity = Matrix::from_fn(n, n, |i, j| f64::from(u8::from(i == j)));
    let q = reflect(&reflect(&identity, &made(6, n, 1)), &made(7, n, 1));
    let entry = |i: usize, j: usize| (0..n).map(|m| q.get(i, m) * values[m] * q.get(j, m)).sum();
    (Matrix::from_fn(n, n, entry), q.column(0).collect())
}

#[test]
fn the_first_component_of_a_matrix_with_known_eigenvalues() {
    for values in [vec![5.0, 3.0, 1.0, 0.5], vec![1.0, 0.999, 0.2, 0.1, 0.0, 0.0, 0.0], vec![1e8, 1.0, 1e-8, 0.0, 0.0]]
    {
        let (k, vector) = with_eigenvalues(&values);
        let first = components::first(&k);
        assert_close(first.eigenvalue, values[0], values[0]);
        assert_close(first.second_eigenvalue, values[1], values[0]);
        assert_close(first.fraction, values[0] / values.iter().sum::<f64>(), 1.0);
        // An eigenvector is known to the rounding of the matrix over the gap to the next eigenvalue.
        let gap = (values[0] - values[1]) / values[0];
        let cosine: f64 = first.vector.iter().zip(&vector).map(|(a, b)| a * b).sum();
        assert_close(cosine.abs(), 1.0, 1.0 / gap);
        assert_close(components::square_cosine(&first, &first), 1.0, 1.0);
        let rest = components::first(&components::without_first(&k));
        assert_close(rest.eigenvalue, values[1], values[0] / gap);
    }
}

#[test]
fn the_first_component_of_points_on_a_line() {
    let x = Matrix::from_fn(6, 3, |i, j| 10.0 + i as f64 * [2.0, -1.0, 0.5][j]);
    let first = components::first(&components::centred_gram(&x));
    assert_close(first.fraction, 1.0, 1.0);
    assert_close(first.second_eigenvalue, 0.0, first.eigenvalue);
    // Coordinates -2.5 .. 2.5 times the line's speed.
    assert_close(first.eigenvalue, 17.5 * 5.25, first.eigenvalue);
}

/// A central difference of step h is off by h^2 and by the rounding of the penalty over h, 1e-9 together.
#[test]
fn the_penaltys_gradient_is_its_derivative() {
    const STEP: f64 = 1e-5;
    for (n, p) in [(2, 1), (3, 4), (6, 3)] {
        let x = made(8, n, p);
        for threshold in [0.0, 0.3] {
            let gradient = components::penalty_gradient(&x, 2.0, threshold);
            for place in 0..n * p {
                let moved = |by: f64| x.map(|i, j, value| if i * p + j == place { value + by } else { value });
                let at = |by: f64| components::penalty(&moved(by), 2.0, threshold);
                let expected = (at(STEP) - at(-STEP)) / (2.0 * STEP);
                let found = gradient.data[place];
                assert!((found - expected).abs() <= 1e-8, "{n} x {p}, {place}: {found}, expected {expected}");
            }
        }
    }
    let constant = Matrix::from_fn(4, 3, |_, j| j as f64);
    for x in [constant, made(9, 1, 3)] {
        assert_eq!(components::penalty(&x, 2.0, 0.0), 0.0);
        assert!(components::penalty_gradient(&x, 2.0, 0.0).data.iter().all(|&value| value == 0.0));
    }
    let independent = made(10, 5, 9);
    assert!(components::penalty(&independent, 2.0, 0.9) == 0.0);
    assert!(components::penalty_gradient(&independent, 2.0, 0.9).data.iter().all(|&value| value == 0.0));
}
