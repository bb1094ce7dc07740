//! Kubernetes objects in files: YAML or JSON, several documents, Lists; and back into YAML.

use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use cep_core::api::v1beta1::ClusterEndpoint;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde::ser::SerializeMap;
use serde_json::Value;

/// An object and where it was found, for messages.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Document {
    pub(super) origin: String,
    pub(super) value: Value,
}

impl Document {
    pub(super) fn kind(&self) -> &str {
        self.value["kind"].as_str().unwrap_or_default()
    }

    /// The API group, empty for the core one.
    pub(super) fn group(&self) -> &str {
        let api_version = self.value["apiVersion"].as_str().unwrap_or_default();
        api_version.split_once('/').map_or("", |(group, _)| group)
    }

    /// Whether this is an object of that group and kind.
    pub(super) fn is(&self, group: &str, kind: &str) -> bool {
        self.group() == group && self.kind() == kind
    }

    /// The object as its type.
    ///
    /// # Errors
    /// Names the origin and what does not fit.
    pub(super) fn parse<T: DeserializeOwned>(&self) -> anyhow::Result<T> {
        serde_json::from_value(self.value.clone())
            .with_context(|| format!("{}: not a well-formed {}", self.origin, self.kind()))
    }
}

/// All objects of some files, Lists taken apart.
///
/// # Errors
/// A file that cannot be read or is neither YAML nor JSON; something in it that is no object.
pub(super) fn read(paths: &[PathBuf]) -> anyhow::Result<Vec<Document>> {
    let mut documents = Vec::new();
    for path in paths {
        let (origin, text) = if path == Path::new("-") {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).context("standard input cannot be read")?;
            ("standard input".to_owned(), text)
        } else {
            let text = std::fs::read_to_string(path)
                .with_context(|| format!("{} cannot be read", path.display()))?;
            (path.display().to_string(), text)
        };
        documents.extend(parse(&origin, &text)?);
    }
    if documents.is_empty() {
        bail!("there is no object in what was given with -f");
    }
    Ok(documents)
}

/// All objects of a text, Lists taken apart.
///
/// # Errors
/// As [`read`].
pub(super) fn parse(origin: &str, text: &str) -> anyhow::Result<Vec<Document>> {
    let mut documents = Vec::new();
    let values = values(text).with_context(|| format!("{origin} is neither YAML nor JSON"))?;
    let several = values.len() > 1;
    for (i, value) in values.into_iter().enumerate() {
        let origin = if several { format!("{origin}, document {}", i + 1) } else { origin.to_owned() };
        flatten(origin, value, &mut documents)?;
    }
    Ok(documents)
}

fn values(text: &str) -> anyhow::Result<Vec<Value>> {
    if text.trim_start().starts_with('{') {
        let stream = serde_json::Deserializer::from_str(text).into_iter();
        if let Ok(values) = stream.collect::<Result<Vec<Value>, _>>() {
            return Ok(values);
        }
    }
    // The file is the user's own: a List of a whole cluster may well have a million nodes.
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_documents: usize::MAX,
            max_events: usize::MAX,
            max_nodes: usize::MAX,
        },
        with_snippet: false,
    };
    Ok(serde_saphyr::from_multiple_with_options(text, options)?)
}

fn flatten(origin: String, mut value: Value, documents: &mut Vec<Document>) -> anyhow::Result<()> {
    if value.is_null() {
        return Ok(());
    }
    let Some(kind) = value["kind"].as_str().map(str::to_owned) else {
        bail!("{origin} is not a Kubernetes object: it has no kind");
    };
    let Some(items) = kind.strip_suffix("List").and_then(|_| value.get_mut("items")).map(Value::take) else {
        documents.push(Document { origin, value });
        return Ok(());
    };
    for (i, mut item) in items.as_array().cloned().unwrap_or_default().into_iter().enumerate() {
        // In a typed list (ServiceList) only the list says what its items are.
        let item_kind = kind.trim_end_matches("List");
        if !item_kind.is_empty()
            && let Some(fields) = item.as_object_mut()
        {
            fields.entry("kind").or_insert_with(|| item_kind.into());
            fields.entry("apiVersion").or_insert_with(|| value["apiVersion"].clone());
        }
        flatten(format!("{origin}, item {}", i + 1), item, documents)?;
    }
    Ok(())
}

/// A ClusterEndpoint as one would write it: without status, nulls, and what is the default anyway.
///
/// # Errors
/// Does not happen: a ClusterEndpoint is always JSON.
pub(super) fn manifest(cep: &ClusterEndpoint) -> anyhow::Result<Value> {
    let mut value = serde_json::to_value(cep)?;
    if let Some(fields) = value.as_object_mut() {
        fields.remove("status");
    }
    let spec = &mut value["spec"];
    without(spec, &[("clusterIP", "".into()), ("panicThreshold", 0.into())]);
    for port in spec["ports"].as_array_mut().into_iter().flatten() {
        without(
            port,
            &[("timeoutSeconds", 1.into()), ("successThreshold", 1.into()), ("failureThreshold", 3.into())],
        );
        if let Some(get) = port.get_mut("httpGet") {
            without(get, &[("expectedStatuses", vec!["200-399"].into()), ("followRedirects", false.into())]);
        }
    }
    Ok(value)
}

fn without(value: &mut Value, defaults: &[(&str, Value)]) {
    if let Some(fields) = value.as_object_mut() {
        fields
            .retain(|name, value| !defaults.iter().any(|(field, default)| field == name && default == value));
    }
}

/// YAML documents.
///
/// # Errors
/// Does not happen for JSON values.
pub(super) fn to_yaml(values: &[Value]) -> anyhow::Result<String> {
    let ordered: Vec<Ordered<'_>> = values.iter().map(Ordered).collect();
    let options = serde_saphyr::ser_options! { prefer_block_scalars: false };
    Ok(serde_saphyr::to_string_multiple_with_options(&ordered, options)?)
}

/// A value whose members come in the order in which people write them (JSON objects are sorted by
/// name otherwise), without those that are null.
pub(super) struct Ordered<'a>(pub(super) &'a Value);

const ORDER: [&str; 32] = [
    "apiVersion",
    "kind",
    "type",
    "metadata",
    "name",
    "namespace",
    "labels",
    "annotations",
    "spec",
    "clusterIP",
    "port",
    "targetPort",
    "protocol",
    "hosts",
    "host",
    "address",
    "periodSeconds",
    "retryPeriodSeconds",
    "panicThreshold",
    "enable",
    "path",
    "scheme",
    "module",
    "image",
    "timeoutSeconds",
    "successThreshold",
    "failureThreshold",
    "tcpSocket",
    "httpGet",
    "udpSocket",
    "grpc",
    "probe",
];

impl Serialize for Ordered<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Value::Array(items) => serializer.collect_seq(items.iter().map(Ordered)),
            Value::Object(fields) => {
                let rank = |name: &str| {
                    // The long lists come last; what has no place of its own comes before them.
                    match name {
                        "ports" | "conditions" | "endpoints" | "items" | "runs" => ORDER.len() + 1,
                        _ => ORDER.iter().position(|known| *known == name).unwrap_or(ORDER.len()),
                    }
                };
                let mut members: Vec<_> = fields.iter().filter(|(_, value)| !value.is_null()).collect();
                members.sort_by_key(|(name, _)| rank(name));
                let mut map = serializer.serialize_map(Some(members.len()))?;
                for (name, value) in members {
                    map.serialize_entry(name, &Ordered(value))?;
                }
                map.end()
            }
            scalar => scalar.serialize(serializer),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(text: &str) -> Vec<(String, String)> {
        let documents = parse("x.yaml", text).unwrap();
        documents.iter().map(|d| (d.kind().to_owned(), d.origin.clone())).collect()
    }

    #[test]
    fn several_documents_and_lists() {
        let text = "\
# nothing here
---
kind: Service
apiVersion: v1
---
kind: List
apiVersion: v1
items:
- {kind: Endpoints, apiVersion: v1}
---
kind: EndpointSliceList
apiVersion: discovery.k8s.io/v1
items:
- metadata: {name: a}
";
        let documents = parse("x.yaml", text).unwrap();
        assert_eq!(documents[1].kind(), "Endpoints");
        assert!(documents[2].is("discovery.k8s.io", "EndpointSlice"), "{:?}", documents[2]);
        assert_eq!(documents.len(), 3);
    }

    #[test]
    fn json() {
        let one = "{\n\t\"kind\": \"Service\",\n\t\"apiVersion\": \"v1\"}";
        assert_eq!(kinds(one), [("Service".to_owned(), "x.yaml".to_owned())]);
        assert_eq!(kinds(&format!("{one}\n{one}")).len(), 2);
    }

    #[test]
    fn complaints_name_the_place() {
        let error = |text| format!("{:#}", parse("x.yaml", text).unwrap_err());
        assert!(error("a: [").starts_with("x.yaml is neither YAML nor JSON: "));
        assert_eq!(
            error("kind: A\n---\nb: 1\n"),
            "x.yaml, document 2 is not a Kubernetes object: it has no kind"
        );
    }

    #[test]
    fn yaml_reads_back_as_what_it_was() {
        let value = serde_json::json!({
            "spec": {"hosts": ["10.0.0.1", "fd00::5", "1e3", "0x10", "no", "null", "~", "", " x", "1_000", "0o7", "12:30:45"],
                "clusterIP": "None", "ports": [{"port": 80, "name": "80"}], "empty": [], "none": {}},
            "kind": "X", "apiVersion": "v1", "text": "two\nlines: # no comment\n", "long": "word ".repeat(40),
        });
        let yaml = to_yaml(&[value.clone(), value.clone()]).unwrap();
        let back: Vec<Value> = parse("x", &yaml).unwrap().into_iter().map(|d| d.value).collect();
        assert_eq!(back, [value.clone(), value], "{yaml}");
        assert!(yaml.starts_with("apiVersion: v1\nkind: X\nspec:\n  clusterIP: None\n  hosts:\n"), "{yaml}");
    }
}
