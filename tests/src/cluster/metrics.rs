//! How many writes the API server has counted.

use std::collections::BTreeMap;
use std::fmt;

/// A verb on a resource, as the API server counts it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Write {
    /// `POST`, `PUT`, `PATCH`, `APPLY`, `DELETE` or `DELETECOLLECTION`.
    pub verb: String,
    /// Such as `endpointslices`.
    pub resource: String,
    /// Such as `status`; often empty.
    pub subresource: String,
}

/// Mutating requests since the API server started, by verb and resource, whatever their outcome.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WriteCounts(pub BTreeMap<Write, u64>);

const VERBS: [&str; 6] = ["POST", "PUT", "PATCH", "APPLY", "DELETE", "DELETECOLLECTION"];

impl WriteCounts {
    /// Reads them from the text of `/metrics`.
    pub fn parse(metrics: &str) -> Self {
        let mut counts = BTreeMap::new();
        for line in metrics.lines() {
            let Some((labels, value)) =
                line.strip_prefix("apiserver_request_total{").and_then(|rest| rest.rsplit_once("} "))
            else {
                continue;
            };
            let label = |name: &str| {
                labels
                    .split(',')
                    .find_map(|label| label.strip_prefix(name)?.strip_prefix("=\"")?.strip_suffix('"'))
                    .unwrap_or_default()
                    .to_owned()
            };
            let write =
                Write { verb: label("verb"), resource: label("resource"), subresource: label("subresource") };
            let Ok(value) = value.trim().parse::<f64>() else { continue };
            if VERBS.contains(&write.verb.as_str()) {
                *counts.entry(write).or_default() += value as u64;
            }
        }
        Self(counts)
    }

    /// What was counted after `earlier`; nothing that did not change. An API server that was restarted in
    /// between has begun anew at zero.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let changed = self.0.iter().filter_map(|(write, &now)| {
            let before = earlier.0.get(write).copied().unwrap_or(0);
            (now > before).then(|| (write.clone(), now - before))
        });
        Self(changed.collect())
    }

    /// The writes of one resource, its subresources included.
    pub fn of(&self, resource: &str) -> u64 {
        self.0.iter().filter(|(write, _)| write.resource == resource).map(|(_, &count)| count).sum()
    }

    /// All writes.
    pub fn total(&self) -> u64 {
        self.0.values().sum()
    }
}

impl fmt::Display for WriteCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("no writes");
        }
        for (n, (write, count)) in self.0.iter().enumerate() {
            let separator = if n == 0 { "" } else { ", " };
            write!(f, "{separator}{count} {} {}", write.verb, write.resource)?;
            if !write.subresource.is_empty() {
                write!(f, "/{}", write.subresource)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::WriteCounts;

    #[test]
    fn counts_mutating_requests_only_and_adds_up_codes() {
        let before = WriteCounts::default();
        let now = WriteCounts::parse(
            r#"# TYPE apiserver_request_total counter
apiserver_request_total{code="200",component="apiserver",dry_run="",group="discovery.k8s.io",resource="endpointslices",scope="resource",subresource="",verb="APPLY",version="v1"} 2
apiserver_request_total{code="409",component="apiserver",dry_run="",group="discovery.k8s.io",resource="endpointslices",scope="resource",subresource="",verb="APPLY",version="v1"} 1
apiserver_request_total{code="200",component="apiserver",dry_run="",group="",resource="nodes",scope="resource",subresource="status",verb="PATCH",version="v1"} 1
apiserver_request_total{code="200",component="apiserver",dry_run="",group="",resource="services",scope="cluster",subresource="",verb="LIST",version="v1"} 9"#,
        );
        assert_eq!(now.since(&before).to_string(), "3 APPLY endpointslices, 1 PATCH nodes/status");
        assert_eq!((now.of("endpointslices"), now.total()), (3, 4));
        assert_eq!(now.since(&now).to_string(), "no writes");
    }
}
