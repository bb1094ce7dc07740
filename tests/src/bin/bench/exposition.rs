//! What the operator's /metrics say.

use crate::statistics::Histogram;

/// The text of `/metrics`.
#[derive(Clone, Debug)]
pub(crate) struct Exposition(pub(crate) String);

impl Exposition {
    /// The sum of all series of this name whose labels contain `labels`.
    pub(crate) fn sum(&self, name: &str, labels: &str) -> f64 {
        self.series(name).filter(|(of, _)| of.contains(labels)).map(|(_, value)| value).sum()
    }

    /// The histogram of this name; it has no labels of its own.
    pub(crate) fn histogram(&self, name: &str) -> Histogram {
        let bucket = format!("{name}_bucket");
        let bound = |labels: &str| {
            let text = labels.split("le=\"").nth(1)?.split('"').next()?;
            if text == "+Inf" { Some(f64::INFINITY) } else { text.parse().ok() }
        };
        Histogram(self.series(&bucket).filter_map(|(labels, count)| Some((bound(labels)?, count))).collect())
    }

    /// Labels and values of all series of a name.
    fn series<'a>(&'a self, name: &'a str) -> impl Iterator<Item = (&'a str, f64)> {
        self.0.lines().filter_map(move |line| {
            let (series, value) = line.strip_prefix(name)?.rsplit_once(' ')?;
            let whole = series.is_empty() || series.starts_with('{');
            Some((series, value.parse().ok()?)).filter(|_| whole)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_and_histograms() {
        let text = Exposition(
            "# TYPE a counter\na_total{kind=\"tcp\",outcome=\"success\"} 3\na_total{kind=\"tcp\",outcome=\"failure\"} 1\n\
             a_total_more 9\nlag_bucket{le=\"0.5\"} 1\nlag_bucket{le=\"+Inf\"} 2\nlead 1\n"
                .to_owned(),
        );
        assert_eq!(
            (text.sum("a_total", ""), text.sum("a_total", "success"), text.sum("lead", "")),
            (4.0, 3.0, 1.0)
        );
        assert_eq!(text.histogram("lag"), Histogram(vec![(0.5, 1.0), (f64::INFINITY, 2.0)]));
    }
}
