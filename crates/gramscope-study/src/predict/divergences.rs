//! How alike the predictions of two networks are, in float64 and from log-probabilities, so that nothing is lost where a
//! probability underflows. Natural logarithms.

/// A network's predictions of n images and c classes.
#[derive(Clone, Debug)]
pub struct Distributions {
    classes: usize,
    /// ln p, row-major \[n, c\].
    logarithms: Vec<f64>,
    /// The root of p, as those.
    roots: Vec<f64>,
    /// The most probable class of each image: of equal ones the first.
    decisions: Vec<u32>,
}

impl Distributions {
    /// The log-softmax of `logits`, row-major \[n, classes\]: x - max - ln sum exp(x - max). A logit of minus infinity is a
    /// probability of 0.
    ///
    /// # Errors
    /// The first row that is no distribution: with NaN, with infinity, or with minus infinity alone.
    pub fn new(logits: &[f32], classes: usize) -> Result<Self, usize> {
        let mut logarithms = Vec::with_capacity(logits.len());
        let mut decisions = Vec::with_capacity(logits.len() / classes);
        for (image, row) in logits.chunks_exact(classes).enumerate() {
            let greatest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            if !greatest.is_finite() || row.iter().any(|logit| logit.is_nan()) {
                return Err(image);
            }
            let below = |logit: f32| f64::from(logit) - f64::from(greatest);
            let normaliser = row.iter().map(|&logit| below(logit).exp()).sum::<f64>().ln();
            logarithms.extend(row.iter().map(|&logit| below(logit) - normaliser));
            decisions.push(row.iter().position(|&logit| logit == greatest).unwrap_or(0) as u32);
        }
        let roots = logarithms.iter().map(|logarithm| (logarithm / 2.0).exp()).collect();
        Ok(Self { classes, logarithms, roots, decisions })
    }

    /// The most probable class of each image.
    pub fn decisions(&self) -> &[u32] {
        &self.decisions
    }

    /// An image's logarithms and roots at a time.
    fn rows(&self) -> impl Iterator<Item = (&[f64], &[f64])> {
        self.logarithms.chunks_exact(self.classes).zip(self.roots.chunks_exact(self.classes))
    }
}

/// How alike the predictions of two networks are, summed over images. p is the first one's distribution of an image, q the
/// second's.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Likeness {
    /// 1 where both say the same class: a mean of 1 is full agreement.
    pub agreement: f64,
    /// KL(p, q) = sum p ln(p / q), of the first from the second: infinite where q rules out what p does not.
    pub kl: f64,
    /// KL(q, p), the other way round.
    pub kl_back: f64,
    /// sqrt(1/2 sum (sqrt p - sqrt q)^2), from 0 to 1: of the differences themselves, not from 1 - sum sqrt(p q), which
    /// cancels for nearly equal distributions.
    pub hellinger: f64,
    /// The entropy of what both say on average, m = (p + q) / 2: - sum m ln m. Of a network and itself its own entropy; what it
    /// has more than the mean of both own ones is their Jensen-Shannon divergence.
    pub entropy: f64,
}

impl Likeness {
    /// Of two networks' predictions of the same images and classes.
    pub fn of(first: &Distributions, second: &Distributions) -> Self {
        debug_assert_eq!((first.classes, first.decisions.len()), (second.classes, second.decisions.len()));
        let same = first.decisions.iter().zip(&second.decisions).filter(|(p, q)| p == q).count();
        let mut sums = Self { agreement: same as f64, ..Self::default() };
        for ((log_p, root_p), (log_q, root_q)) in first.rows().zip(second.rows()) {
            let mut squares = 0.0;
            for class in 0..first.classes {
                let (p, q) = (root_p[class] * root_p[class], root_q[class] * root_q[class]);
                let ratio = log_p[class] - log_q[class];
                // 0 ln 0 = 0, even where the other is 0, too, and the ratio NaN.
                sums.kl += if p > 0.0 { p * ratio } else { 0.0 };
                sums.kl_back -= if q > 0.0 { q * ratio } else { 0.0 };
                squares += (root_p[class] - root_q[class]).powi(2);
                let both = (p + q) / 2.0;
                sums.entropy -= if both > 0.0 { both * both.ln() } else { 0.0 };
            }
            sums.hellinger += (squares / 2.0).sqrt();
        }
        sums
    }

    /// Adds the sums over other images.
    pub fn add(&mut self, other: Self) {
        self.agreement += other.agreement;
        self.kl += other.kl;
        self.kl_back += other.kl_back;
        self.hellinger += other.hellinger;
        self.entropy += other.entropy;
    }
}
