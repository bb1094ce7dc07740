//! Medians, and quantiles of histograms.

/// The middle one; of an even number the mean of the two in the middle.
pub(crate) fn median(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}

/// The smallest and the largest.
pub(crate) fn range(samples: &[f64]) -> (f64, f64) {
    samples.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), &s| (low.min(s), high.max(s)))
}

/// The sample that a share `q` of them does not exceed.
pub(crate) fn quantile(samples: &[f64], q: f64) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (q * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied().unwrap_or(f64::NAN)
}

/// A cumulative histogram: upper bounds with the number of observations up to each.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Histogram(pub(crate) Vec<(f64, f64)>);

impl Histogram {
    /// What was observed since `earlier`.
    pub(crate) fn since(&self, earlier: &Self) -> Self {
        let before =
            |bound: f64| earlier.0.iter().find(|(b, _)| *b == bound).map_or(0.0, |(_, count)| *count);
        Self(self.0.iter().map(|&(bound, count)| (bound, count - before(bound))).collect())
    }

    /// How many observations.
    pub(crate) fn count(&self) -> f64 {
        self.0.last().map_or(0.0, |(_, count)| *count)
    }

    /// The quantile, evenly interpolated within its bucket as `histogram_quantile` of Prometheus does; of
    /// what lies above the last bound it says that bound. The error is at most the width of a bucket.
    pub(crate) fn quantile(&self, q: f64) -> f64 {
        let rank = q * self.count();
        let mut below = (0.0, 0.0);
        for &(bound, count) in &self.0 {
            if count >= rank && count > below.1 {
                if bound.is_infinite() {
                    return below.0;
                }
                return below.0 + (bound - below.0) * (rank - below.1) / (count - below.1);
            }
            below = (bound, count);
        }
        f64::NAN
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_quantiles() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!((quantile(&[1.0, 2.0, 3.0, 4.0], 0.5), quantile(&[1.0, 2.0], 1.0)), (2.0, 2.0));
        assert_eq!(range(&[2.0, 1.0, 3.0]), (1.0, 3.0));
    }

    #[test]
    fn histograms_are_interpolated_within_the_bucket() {
        let earlier = Histogram(vec![(1.0, 5.0), (2.0, 5.0), (f64::INFINITY, 5.0)]);
        let now = Histogram(vec![(1.0, 55.0), (2.0, 95.0), (f64::INFINITY, 105.0)]);
        let grown = now.since(&earlier);
        assert_eq!(grown.count(), 100.0);
        assert_eq!((grown.quantile(0.5), grown.quantile(0.7), grown.quantile(0.99)), (1.0, 1.5, 2.0));
    }
}
