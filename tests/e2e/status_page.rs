//! What the admin server of the real operator tells kubelet, Prometheus and people.

use std::collections::BTreeMap;
use std::str::FromStr;

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;
use testbed::{Cluster, Server, eventually, process};

use crate::stage::{ADMIN_PORT, SOON, Seat, Stage};

const CEP: &str = r#"
apiVersion: sealyun.com/v1beta1
kind: ClusterEndpoint
metadata: {name: web}
spec:
  hosts: [172.18.191.11, 172.18.191.12]
  periodSeconds: 2
  ports: [{name: web, port: 80, targetPort: 8080, failureThreshold: 1, tcpSocket: {enable: true}}]
"#;

/// All families of the operator, by their type.
const FAMILIES: [(&str, &[&str]); 4] = [
    ("info", &["endpoints_operator_build"]),
    (
        "counter",
        &[
            "endpoints_operator_probes",
            "endpoints_operator_probe_failures",
            "endpoints_operator_transitions",
            "endpoints_operator_evictions_held",
            "endpoints_operator_dns_lookups",
            "endpoints_operator_reconciles",
            "endpoints_operator_reconcile_errors",
            "endpoints_operator_api_writes",
            "endpoints_operator_lease_transitions",
            "endpoints_operator_repairs",
            "endpoints_operator_events_dropped",
            "endpoints_operator_log_lines_dropped",
            "process_cpu_seconds",
        ],
    ),
    (
        "gauge",
        &[
            "endpoints_operator_targets",
            "endpoints_operator_probes_in_flight",
            "endpoints_operator_blind",
            "endpoints_operator_leader",
            "process_virtual_memory_bytes",
            "process_resident_memory_bytes",
            "process_threads",
            "process_start_time_seconds",
            "process_open_fds",
            "process_max_fds",
        ],
    ),
    (
        "histogram",
        &[
            "endpoints_operator_probe_duration_seconds",
            "endpoints_operator_schedule_lag_seconds",
            "endpoints_operator_reconcile_duration_seconds",
            "endpoints_operator_write_delay_seconds",
        ],
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn the_admin_server_tells_what_the_operator_does() -> Result<()> {
    let stage = Stage::on(Cluster::builder().proxy(false).start().await?).await?;
    let host = stage.cluster.host("172.18.191.11")?;
    let _dead = stage.cluster.host("172.18.191.12")?;
    let _server = Server::tcp(host.netns(), host.socket(8080)).await?;
    let operator = stage.operator(&[]).await?;
    eventually(SOON, "it is ready", async || {
        let answer = operator.get("/readyz").await?;
        ensure!(answer == (200, "ok\n".to_owned()), "{answer:?}");
        Ok(())
    })
    .await?;
    let answer = operator.get("/livez").await?;
    ensure!(answer == (200, "ok\n".to_owned()), "{answer:?}");
    stage.cluster.apply(CEP).await?;
    stage.phase("web", "UnHealthy").await?;
    stage.until_ready("web", &["172.18.191.11:8080"]).await?;

    overview(&operator).await?;
    metrics(&operator).await?;
    page(&operator).await
}

fn time(value: &Value) -> Result<Timestamp> {
    let text = value.as_str().with_context(|| format!("no time: {value}"))?;
    Timestamp::from_str(text).with_context(|| text.to_owned())
}

async fn overview(operator: &Seat) -> Result<()> {
    eventually(SOON, "both hosts are shown with their next probe", async || {
        let (head, text) = raw(operator, "/api/v1/overview?namespace=default&name=web").await?;
        ensure!(
            head.starts_with("http/1.1 200") && head.contains("content-type: application/json"),
            "{head}"
        );
        let overview: Value = serde_json::from_str(&text)?;
        ensure!(overview["leader"] == true && overview["blind"] == false, "{overview}");
        ensure!(overview["targets"] == 2, "{overview}");
        let now = time(&overview["now"])?;
        ensure!(time(&overview["started"])? < now, "{overview}");
        let endpoints = overview["ceps"][0]["endpoints"].as_array().context("no endpoints")?;
        ensure!(endpoints.len() == 2, "{overview}");
        for endpoint in endpoints {
            let next = time(&endpoint["nextProbe"])?;
            let left = next.duration_since(now).as_secs_f64();
            ensure!(left > 0.0 && left <= 2.0, "the next probe is {left} s ahead: {endpoint}");
            ensure!(time(&endpoint["last"]["at"])? <= now && time(&endpoint["since"])? <= now, "{endpoint}");
            ensure!(endpoint["check"] == "tcp" && endpoint["periodSeconds"] == 2, "{endpoint}");
        }
        let [good, bad] = [&endpoints[0], &endpoints[1]];
        ensure!(good["host"] == "172.18.191.11" && good["verdict"] == "Healthy", "{good}");
        ensure!(good["served"] == true && good["last"]["outcome"] == "success", "{good}");
        ensure!(bad["verdict"] == "Unhealthy" && bad["served"] == false, "{bad}");
        ensure!(bad["reason"].is_string() && bad["last"]["outcome"] == "failure", "{bad}");
        Ok(())
    })
    .await?;
    let (_, text) = raw(operator, "/api/v1/overview?namespace=elsewhere").await?;
    ensure!(serde_json::from_str::<Value>(&text)?["ceps"] == serde_json::json!([]), "{text}");
    let (head, text) = raw(operator, "/api/v1/overview").await?;
    ensure!(head.starts_with("http/1.1 200") && text.contains("172.18.191.12"), "{head} {text}");
    let (head, _) = raw(operator, "/api/v1/overview?nmae=web").await?;
    ensure!(head.starts_with("http/1.1 400"), "a misspelt filter must not show everything: {head}");
    ensure!(operator.get("/nothing").await?.0 == 404, "nothing is there");
    Ok(())
}

/// A family of OpenMetrics text.
#[derive(Debug, Default)]
struct Family {
    kind: String,
    help: String,
    unit: String,
    /// Name with suffix, labels, value.
    samples: Vec<(String, String, f64)>,
}

/// Reads OpenMetrics text as its specification has it: what is said of a family comes before its samples,
/// no family comes twice, no series comes twice, and the text ends with `# EOF`.
fn parse(text: &str) -> Result<BTreeMap<String, Family>> {
    let body = text.strip_suffix("# EOF\n").context("it does not end with # EOF")?;
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    let mut current = String::new();
    for line in body.lines() {
        if let Some(rest) = line.strip_prefix("# ") {
            let mut words = rest.splitn(3, ' ');
            let (what, name, value) = (
                words.next().unwrap_or_default(),
                words.next().unwrap_or_default(),
                words.next().unwrap_or_default(),
            );
            if name != current {
                ensure!(!families.contains_key(name), "{name} comes twice");
                current = name.to_owned();
            }
            let family = families.entry(name.to_owned()).or_default();
            ensure!(family.samples.is_empty() && !value.is_empty(), "{line}");
            let field = match what {
                "TYPE" => &mut family.kind,
                "HELP" => &mut family.help,
                "UNIT" => &mut family.unit,
                _ => bail!("what is {line:?}"),
            };
            ensure!(field.is_empty(), "twice: {line}");
            value.clone_into(field);
            continue;
        }
        let (series, value) = line.rsplit_once(' ').with_context(|| line.to_owned())?;
        let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
        let labels = labels.strip_suffix('}').with_context(|| line.to_owned())?;
        let family = families.get_mut(&current).with_context(|| format!("{line} belongs to nothing"))?;
        let suffix = name.strip_prefix(&current).with_context(|| format!("{line} is not of {current}"))?;
        let fits = match family.kind.as_str() {
            "counter" => suffix == "_total",
            "gauge" => suffix.is_empty(),
            "info" => suffix == "_info",
            "histogram" => ["_bucket", "_sum", "_count"].contains(&suffix),
            other => bail!("{current} is a {other}"),
        };
        ensure!(fits, "{line} in a {}", family.kind);
        let value: f64 = value.parse().with_context(|| line.to_owned())?;
        ensure!(value >= 0.0 || family.kind == "gauge", "{line}");
        let known = family.samples.iter().any(|(n, l, _)| n == name && l == labels);
        ensure!(!known, "twice: {line}");
        family.samples.push((name.to_owned(), labels.to_owned(), value));
    }
    Ok(families)
}

async fn metrics(operator: &Seat) -> Result<()> {
    let (status, text) = operator.get("/metrics").await?;
    ensure!(status == 200, "{status} {text}");
    let families = parse(&text)?;
    for (kind, names) in FAMILIES {
        for name in names {
            let family = families.get(*name).with_context(|| format!("{name} is missing in\n{text}"))?;
            ensure!(family.kind == kind, "{name} is a {}", family.kind);
        }
    }
    let known: usize = FAMILIES.iter().map(|(_, names)| names.len()).sum();
    ensure!(families.len() == known, "{} families, not {known}: {:?}", families.len(), families.keys());
    for (name, family) in &families {
        ensure!(family.help.ends_with('.') && family.help.len() > 5, "{name}: {:?}", family.help);
        for unit in ["seconds", "bytes"] {
            let named = name.ends_with(&format!("_{unit}"));
            ensure!((family.unit == unit) == named, "{name} has unit {:?}", family.unit);
        }
        ensure!(family.samples.len() < 400, "{name} has {} series", family.samples.len());
        ensure!(!family.samples.iter().any(|(_, labels, _)| labels.contains("172.18.")), "{family:?}");
        if family.kind == "histogram" {
            histogram(name, family)?;
        }
    }
    figures(operator).await
}

async fn figures(operator: &Seat) -> Result<()> {
    let expected: [(&str, &str, std::ops::RangeInclusive<f64>); 9] = [
        ("endpoints_operator_leader", "", 1.0..=1.0),
        ("endpoints_operator_targets", "verdict=\"Healthy\"", 1.0..=1.0),
        ("endpoints_operator_targets", "verdict=\"Unhealthy\"", 1.0..=1.0),
        ("endpoints_operator_targets", "verdict=\"Unknown\"", 0.0..=0.0),
        ("endpoints_operator_probes_total", "outcome=\"success\"", 1.0..=f64::MAX),
        ("endpoints_operator_probe_failures_total", "reason=\"ConnectionRefused\"", 1.0..=f64::MAX),
        ("endpoints_operator_reconciles_total", "result=\"success\"", 1.0..=f64::MAX),
        ("endpoints_operator_api_writes_total", "object=\"endpointslice\"", 1.0..=f64::MAX),
        ("process_open_fds", "", 3.0..=1000.0),
    ];
    for (name, labels, range) in expected {
        // Some are counted once a second.
        eventually(SOON, &format!("{name}{{{labels}}} is in {range:?}"), async || {
            let value = operator.metric(name, labels).await?;
            ensure!(range.contains(&value), "{value}");
            Ok(())
        })
        .await?;
    }
    Ok(())
}

/// Buckets rise to the count, one series of labels at a time.
fn histogram(name: &str, family: &Family) -> Result<()> {
    let mut last: Option<(f64, f64)> = None;
    for (sample, labels, value) in &family.samples {
        let Some(le) = labels.split("le=\"").nth(1).filter(|_| sample.ends_with("_bucket")) else { continue };
        let le: f64 = le.split('"').next().unwrap_or_default().parse()?;
        if let Some((bound, count)) = last {
            ensure!(le > bound && *value >= count, "{name}: {family:?}");
        }
        last = (le != f64::INFINITY).then_some((le, *value));
    }
    ensure!(last.is_none(), "{name} has no last bucket: {family:?}");
    Ok(())
}

/// The answer to a GET as it comes, headers and all.
async fn raw(operator: &Seat, path: &str) -> Result<(String, String)> {
    let mut command = operator.host.netns().command("curl");
    let url = format!("http://{}{path}", operator.host.socket(ADMIN_PORT));
    command.args(["--silent", "--show-error", "--include", "--max-time", "5", &url]);
    let answer = process::output(command, None).await?;
    let (head, body) = answer.split_once("\r\n\r\n").with_context(|| answer.clone())?;
    Ok((head.to_ascii_lowercase(), body.to_owned()))
}

async fn page(operator: &Seat) -> Result<()> {
    let (head, html) = raw(operator, "/").await?;
    ensure!(head.starts_with("http/1.1 200") && head.contains("content-type: text/html"), "{head}");
    let policy = head.lines().find_map(|line| line.strip_prefix("content-security-policy: "));
    let policy = policy.with_context(|| head.clone())?;
    for part in ["default-src 'none'", "script-src 'self'", "connect-src 'self'", "frame-ancestors 'none'"] {
        ensure!(policy.contains(part), "{policy}");
    }
    ensure!(!policy.contains("unsafe") && head.contains("x-content-type-options: nosniff"), "{head}");
    ensure!(html.contains("<title>endpoints-operator</title>"), "{html}");
    // The policy would silently keep these from working.
    for forbidden in ["style=", "<style", "onclick", "onload", "<script>", "http://", "https://"] {
        ensure!(!html.contains(forbidden), "{forbidden} in {html}");
    }
    for (file, kind) in [
        ("status_page.css", "text/css"),
        ("status_page.js", "text/javascript"),
        ("favicon.svg", "image/svg+xml"),
    ] {
        ensure!(html.contains(&format!("\"{file}\"")), "{file} is not in {html}");
        let (head, body) = raw(operator, &format!("/{file}")).await?;
        ensure!(
            head.starts_with("http/1.1 200") && head.contains(&format!("content-type: {kind}")),
            "{head}"
        );
        ensure!(head.contains("content-security-policy: ") && body.len() > 100, "{head}");
    }
    let (head, _) = raw(operator, "/metrics").await?;
    ensure!(head.contains("content-type: application/openmetrics-text; version=1.0.0"), "{head}");
    Ok(())
}
