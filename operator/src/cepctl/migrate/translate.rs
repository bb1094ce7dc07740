//! From an object of the original operator to one of ours.
//!
//! The original's shapes, in the order of its releases: one list of hosts and `timeoutSeconds` in the
//! spec; `udpSocket` with `data` as text; `grpc`; hosts per port and `data` as a list of bytes. Its
//! group was `sealyun.com`, from 0.2.0 on `sealos.io`. Zero stood for "the default" everywhere.

use cep_core::address_policy::AddressPolicy;
use cep_core::api::v1beta1::{API_VERSION, ClusterEndpoint, ClusterEndpointSpec};
use cep_core::check::{self, Materials, Problem};
use kube::Resource;
use serde_json::{Map, Value};
use thiserror::Error;

/// An object of ours, and what could not be kept.
#[derive(Clone, Debug)]
pub(super) struct Migrated {
    pub(super) cep: ClusterEndpoint,
    pub(super) warnings: Vec<String>,
}

/// Why an object cannot be translated at all.
#[derive(Debug, Error)]
pub(super) enum Refusal {
    #[error("has no metadata.name")]
    NoName,
    #[error("has no spec")]
    NoSpec,
    #[error("does not look like a ClusterEndpoint of any version; correct it by hand")]
    Malformed(#[source] serde_json::Error),
}

/// Translates.
///
/// # Errors
/// The object is broken beyond what the original operator could have worked with.
pub(super) fn translate(old: &Value) -> Result<Migrated, Refusal> {
    let name = old["metadata"]["name"].as_str().ok_or(Refusal::NoName)?;
    let mut spec = old["spec"].as_object().cloned().ok_or(Refusal::NoSpec)?;
    let mut warnings = Vec::new();
    rewrite(&mut spec, &mut warnings);
    let spec = Value::Object(spec);
    let typed: ClusterEndpointSpec = serde_json::from_value(spec.clone()).map_err(Refusal::Malformed)?;
    unknown(&spec, &serde_json::to_value(&typed).map_err(Refusal::Malformed)?, "spec", &mut warnings);
    // References are looked up by the operator, and where they lead is no matter of translation.
    let problems = check::parse("", &typed, &Materials::new(), &AddressPolicy::default()).err();
    for problem in problems.into_iter().flatten() {
        if problem.problem != Problem::ReferenceNotReady {
            warnings.push(format!("spec.{problem}"));
        }
    }
    let mut cep = ClusterEndpoint::new(name, typed);
    let meta = cep.meta_mut();
    meta.namespace = old["metadata"]["namespace"].as_str().map(str::to_owned);
    meta.labels = strings(&old["metadata"]["labels"]);
    meta.annotations = strings(&old["metadata"]["annotations"]);
    Ok(Migrated { cep, warnings })
}

/// Labels or annotations, without what kubectl keeps there for itself.
fn strings(value: &Value) -> Option<std::collections::BTreeMap<String, String>> {
    let pairs = value.as_object()?.iter();
    let kept: std::collections::BTreeMap<_, _> = pairs
        .filter(|(key, _)| *key != "kubectl.kubernetes.io/last-applied-configuration")
        .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
        .collect();
    (!kept.is_empty()).then_some(kept)
}

fn rewrite(spec: &mut Map<String, Value>, warnings: &mut Vec<String>) {
    if spec.get("periodSeconds").is_none_or(is_zero) {
        spec.remove("periodSeconds");
        warnings.push(
            "spec.periodSeconds was not set, with which the original probed once and never again; it is 10 \
             now"
            .to_owned(),
        );
    }
    let period = spec.get("periodSeconds").and_then(Value::as_i64).unwrap_or(10);
    // The very first releases had one timeout for all ports.
    let timeout = spec.remove("timeoutSeconds").filter(|timeout| !is_zero(timeout));
    drop_empty(spec, &["hosts", "clusterIP"]);
    for (i, port) in spec.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten().enumerate() {
        let Some(port) = port.as_object_mut() else { continue };
        rewrite_port(port, &format!("spec.ports[{i}]"), timeout.as_ref(), period, warnings);
    }
}

fn rewrite_port(
    port: &mut Map<String, Value>,
    field: &str,
    timeout: Option<&Value>,
    period: i64,
    warnings: &mut Vec<String>,
) {
    for zeroable in ["timeoutSeconds", "successThreshold", "failureThreshold", "targetPort"] {
        if port.get(zeroable).is_some_and(is_zero) {
            port.remove(zeroable);
        }
    }
    drop_empty(port, &["name", "protocol", "hosts"]);
    if let (Some(timeout), None) = (timeout, port.get("timeoutSeconds")) {
        port.insert("timeoutSeconds".to_owned(), timeout.clone());
    }
    if let Some(timeout) = port.get("timeoutSeconds").and_then(Value::as_i64).filter(|t| *t > period) {
        warnings.push(format!(
            "{field}.timeoutSeconds was {timeout}, longer than periodSeconds; it is {period} now"
        ));
        port.insert("timeoutSeconds".to_owned(), period.into());
    }
    for probe in ["tcpSocket", "udpSocket", "grpc"] {
        if port.get(probe).is_some_and(|probe| probe.is_null() || probe["enable"] == false) {
            port.remove(probe);
        }
    }
    one_probe(port, field, warnings);
    if let Some(get) = port.get_mut("httpGet").and_then(Value::as_object_mut) {
        rewrite_http_get(get, &format!("{field}.httpGet"), warnings);
    }
    if let Some(udp) = port.get_mut("udpSocket").and_then(Value::as_object_mut) {
        drop_empty(udp, &["data"]);
        if let Some(Value::String(text)) = udp.get("data").cloned() {
            udp.remove("data");
            udp.insert("text".to_owned(), text.into());
        }
        if port.get("protocol").is_none_or(|protocol| protocol != "UDP") {
            port.remove("udpSocket");
            warnings.push(format!(
                "{field}.udpSocket is left out, for it needs protocol: UDP; the port is not probed now"
            ));
        }
    }
}

/// The original took any number of probes and ran the first of them, in this order.
fn one_probe(port: &mut Map<String, Value>, field: &str, warnings: &mut Vec<String>) {
    let set: Vec<&str> = ["httpGet", "tcpSocket", "udpSocket", "grpc"]
        .into_iter()
        .filter(|probe| port.get(*probe).is_some_and(|probe| !probe.is_null()))
        .collect();
    for superfluous in set.iter().skip(1) {
        port.remove(*superfluous);
        warnings
            .push(format!("{field}.{superfluous} is left out: a port has one probe, and {} is kept", set[0]));
    }
}

fn rewrite_http_get(get: &mut Map<String, Value>, field: &str, warnings: &mut Vec<String>) {
    drop_empty(get, &["path", "scheme", "httpHeaders", "host"]);
    if let Some(path) = get.get("path").and_then(Value::as_str).filter(|path| !path.starts_with('/')) {
        let path = format!("/{path}");
        get.insert("path".to_owned(), path.into());
    }
    if let Some(scheme) = get.get("scheme").and_then(Value::as_str) {
        let scheme = scheme.to_ascii_uppercase();
        if scheme == "HTTP" || scheme == "HTTPS" {
            get.insert("scheme".to_owned(), scheme.into());
        } else {
            warnings.push(format!("{field}.scheme {scheme:?} is left out; HTTP is used"));
            get.remove("scheme");
        }
    }
}

fn is_zero(value: &Value) -> bool {
    value.is_null() || value == 0
}

fn drop_empty(fields: &mut Map<String, Value>, names: &[&str]) {
    for name in names {
        let empty =
            |value: &Value| value.is_null() || value == "" || value.as_array().is_some_and(Vec::is_empty);
        if fields.get(*name).is_some_and(empty) {
            fields.remove(*name);
        }
    }
}

/// Names the members of `before` that did not make it into `after`.
fn unknown(before: &Value, after: &Value, field: &str, warnings: &mut Vec<String>) {
    match (before, after) {
        (Value::Object(before), Value::Object(after)) => {
            for (name, value) in before.iter().filter(|(_, value)| !value.is_null()) {
                let field = format!("{field}.{name}");
                match after.get(name) {
                    Some(after) => unknown(value, after, &field, warnings),
                    None => warnings.push(format!("{field} has no counterpart in {API_VERSION}; left out")),
                }
            }
        }
        (Value::Array(before), Value::Array(after)) => {
            for (i, (before, after)) in before.iter().zip(after).enumerate() {
                unknown(before, after, &format!("{field}[{i}]"), warnings);
            }
        }
        _ => {}
    }
}
