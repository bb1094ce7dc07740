//! Whatever a spec says: it is refused with a field, or what comes out is sound. Nothing panics.

use std::net::IpAddr;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::*;
use super::with;
use crate::address_policy::AddressPolicy;
use crate::api::v1beta1::ClusterEndpointSpec;
use crate::api::v1beta1::schema::crd;
use crate::samples::parsed;

/// What every later step relies on.
fn assert_sound(definition: &Definition) {
    let Definition { cadence, panic_threshold, ports, .. } = definition;
    assert!(cadence.retry <= cadence.period && cadence.retry >= Duration::from_secs(1), "{cadence:?}");
    assert!(cadence.period <= Duration::from_secs(3600));
    assert!(*panic_threshold <= 100);
    assert!((1..=100).contains(&ports.len()));
    let mut names: Vec<_> = ports.iter().map(|port| &port.name).collect();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), ports.len(), "names are unique, and there are all of them: {names:?}");
    assert!(ports.len() == 1 || ports.iter().all(|port| port.name.is_some()));
    let mut places: Vec<_> = ports.iter().map(|port| (port.port, port.protocol)).collect();
    places.sort();
    places.dedup();
    assert_eq!(places.len(), ports.len());
    for port in ports {
        assert!(port.port > 0 && port.target_port > 0);
        assert!(!port.hosts.is_empty());
        let mut hosts = port.hosts.clone();
        hosts.sort();
        hosts.dedup();
        assert_eq!(hosts.len(), port.hosts.len(), "each host once");
        for host in &port.hosts {
            match host {
                Host::Address(address) => {
                    assert_eq!(*address, address.to_canonical());
                    assert_eq!(AddressPolicy::default().permit(*address), Ok(()));
                }
                Host::Name(name) => {
                    assert!(!name.is_empty() && !name.ends_with('.') && name.parse::<IpAddr>().is_err());
                    assert_eq!(name.to_ascii_lowercase(), **name);
                }
            }
        }
        assert!(port.timeout >= Duration::from_secs(1) && port.timeout <= cadence.period);
        assert!((1..=100).contains(&port.thresholds.success) && (1..=100).contains(&port.thresholds.failure));
        if let Some(Check::Http(http)) = &port.check {
            assert!(http.path.starts_with('/') && http.path.bytes().all(|b| b.is_ascii_graphic()));
            assert!(!http.statuses.contains(99) && !http.statuses.contains(600));
            assert!((100..600).any(|status| http.statuses.contains(status)));
            assert_eq!(http.tls.is_some(), http.scheme == Scheme::Https);
            assert!(http.headers.iter().all(|(n, v)| !n.is_empty() && !v.contains(['\r', '\n'])));
        }
    }
}

/// Any JSON, with the names of fields more often than others.
fn any_json(names: Vec<String>) -> impl Strategy<Value = Value> {
    let scalar = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        prop_oneof![any::<i32>(), 0i32..70_000, 0i32..12].prop_map(Value::from),
        prop_oneof![".{0,12}", "[a-z]{1,8}", "10\\.0\\.0\\.[0-9]{1,3}", "[0-9a-f:]{2,20}"]
            .prop_map(Value::from),
        prop::sample::select(vec![
            "TCP",
            "UDP",
            "HTTPS",
            "http",
            "None",
            "200-399",
            "/",
            "-----BEGIN CERTIFICATE-----"
        ])
        .prop_map(Value::from),
    ];
    scalar.prop_recursive(5, 48, 6, move |inner| {
        let name = prop::sample::select(names.clone());
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::vec((name, inner), 0..6)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

/// The names of all fields of the API, out of its schema.
fn field_names() -> Vec<String> {
    fn walk(value: &Value, names: &mut Vec<String>) {
        let Value::Object(members) = value else { return };
        if let Some(Value::Object(properties)) = members.get("properties") {
            names.extend(properties.keys().cloned());
            properties.values().for_each(|property| walk(property, names));
        }
        members.get("items").into_iter().for_each(|items| walk(items, names));
    }
    let mut names = Vec::new();
    walk(&json!(crd())["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"], &mut names);
    names
}

/// A value for a schema: of its type, and within its bounds most of the time.
fn like(schema: &Value) -> BoxedStrategy<Value> {
    let odd = any_json(vec!["a".to_owned()]).boxed();
    let fitting = match schema["type"].as_str() {
        Some("object") => match &schema["properties"] {
            Value::Object(properties) => {
                let required = schema["required"].as_array().cloned().unwrap_or_default();
                let members: Vec<BoxedStrategy<Option<(String, Value)>>> = properties
                    .iter()
                    .map(|(name, property)| {
                        let odds = if required.contains(&json!(name)) { 0.99 } else { 0.2 };
                        let name = name.clone();
                        prop::option::weighted(odds, like(property).prop_map(move |v| (name.clone(), v))).boxed()
                    })
                    .collect();
                members.prop_map(|m| Value::Object(m.into_iter().flatten().collect())).boxed()
            }
            _ => any_json(vec!["a".to_owned()]).prop_map(|v| json!({ "a": v })).boxed(),
        },
        Some("array") => prop::collection::vec(like(&schema["items"]), 0..4).prop_map(Value::from).boxed(),
        Some("integer") => {
            let bound = |name: &str, or: i64| schema[name].as_f64().map_or(or, |b| b as i64);
            let (low, high) = (bound("minimum", 0), bound("maximum", 100));
            prop_oneof![30 => low + 1..=high.min(low + 20), 1 => low - 1..=high + 1, 1 => any::<i32>().prop_map(i64::from)]
                .prop_map(Value::from)
                .boxed()
        }
        Some("boolean") => any::<bool>().prop_map(Value::from).boxed(),
        _ => match &schema["enum"] {
            Value::Array(words) => prop::sample::select(words.clone()).boxed(),
            _ => match schema["pattern"].as_str().and_then(matching) {
                Some(text) => prop_oneof![40 => text.prop_map(Value::from), 1 => ".{0,20}".prop_map(Value::from)].boxed(),
                None => prop_oneof![8 => "10\\.0\\.0\\.[1-9]", 8 => "[a-z]{1,5}\\.example", 8 => "fd00::[1-9]", 1 => ".{0,20}"]
                    .prop_map(Value::from)
                    .boxed(),
            },
        },
    };
    prop_oneof![300 => fitting, 1 => odd].boxed()
}

/// Texts that a pattern of the schema allows.
fn matching(pattern: &str) -> Option<impl Strategy<Value = String> + use<>> {
    let inner = pattern.strip_prefix('^')?.strip_suffix('$')?;
    prop::string::string_regex(inner).ok()
}

fn spec_schema() -> Value {
    json!(crd())["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"].clone()
}

/// Whatever `parse` says, it must make sense; says whether the spec is accepted.
fn examine(spec: &ClusterEndpointSpec, names: &[String]) -> bool {
    match parsed(spec) {
        Ok(definition) => {
            assert_sound(&definition);
            true
        }
        Err(errors) => {
            assert!(!errors.is_empty());
            for error in errors {
                let top = error.field.split(['.', '[']).next().unwrap_or_default().to_owned();
                assert!(names.contains(&top), "{} is no field", error.field);
                assert!(!error.message.is_empty());
            }
            false
        }
    }
}

#[test]
fn specs_within_the_schema_are_understood_or_refused_with_a_field() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let strategy = like(&spec_schema());
    let names = field_names();
    let (mut read, mut sound) = (0, 0);
    for _ in 0..2_000 {
        let value = strategy.new_tree(&mut runner).unwrap().current();
        let Ok(spec) = serde_json::from_value::<ClusterEndpointSpec>(value) else { continue };
        read += 1;
        sound += usize::from(examine(&spec, &names));
    }
    assert!(read > 300 && sound > 20, "the generator has become useless: {read} read, {sound} sound");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_json_makes_the_parser_panic(value in any_json(field_names())) {
        let mut spec = json!({"hosts": ["10.0.0.1"], "ports": [{"port": 80}]});
        if let (Value::Object(spec), Value::Object(members)) = (&mut spec, value) {
            spec.extend(members);
        }
        if let Ok(spec) = serde_json::from_value::<ClusterEndpointSpec>(spec) {
            examine(&spec, &field_names());
        }
    }

    /// What the CRD lets through as a host, the parser understands: an address, or the same name.
    #[test]
    fn hosts_that_the_crd_accepts_are_understood(text in matching(host_pattern()).unwrap()) {
        prop_assume!(text.len() <= 253);
        let policy = AddressPolicy { allow: vec!["0.0.0.0/0".parse().unwrap()], deny: vec![] };
        let spec = with("hosts", json!([text]));
        let definition = parse("shop", &spec, &Materials::new(), &policy).map_err(|e| TestCaseError::fail(format!("{text}: {e:?}")))?;
        let host = definition.ports[0].hosts[0].to_string();
        prop_assert_eq!(host, text.trim_end_matches('.').to_ascii_lowercase());
    }

    /// Whatever the text, it is refused or has one canonical form, which means itself.
    #[test]
    fn the_form_of_a_host_is_canonical(text in prop_oneof![".{0,20}", "[0-9.]{1,15}", "[0-9a-fA-F:.]{2,30}", "[a-zA-Z0-9_.-]{1,30}"]) {
        let first = |text: &str| parsed(&with("hosts", json!([text]))).ok().map(|d| d.ports[0].hosts[0].clone());
        if let Some(host) = first(&text) {
            prop_assert_eq!(first(&host.to_string()), Some(host));
        }
    }
}

fn host_pattern() -> &'static str {
    use std::sync::OnceLock;
    static PATTERN: OnceLock<String> = OnceLock::new();
    PATTERN.get_or_init(|| {
        let forms = spec_schema()["properties"]["hosts"]["items"]["anyOf"].clone();
        forms.as_array().unwrap().iter().find_map(|f| f["pattern"].as_str()).unwrap().to_owned()
    })
}
