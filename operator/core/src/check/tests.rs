mod fuzz;

use serde_json::{Value, json};

use super::*;
use crate::address_policy::AddressPolicy;
use crate::api::v1beta1::ClusterEndpointSpec;
use crate::api::v1beta1::schema::MAX_HOSTS_TOTAL;
use crate::samples::{parsed, spec};

/// The smallest spec with one member of its only port replaced.
fn with_port(member: &str, value: Value) -> ClusterEndpointSpec {
    let mut spec = json!({"hosts": ["10.0.0.1"], "ports": [{"name": "web", "port": 80}]});
    spec["ports"][0][member] = value;
    serde_json::from_value(spec).unwrap()
}

/// The smallest spec with one of its own members replaced.
fn with(member: &str, value: Value) -> ClusterEndpointSpec {
    let mut spec = json!({"hosts": ["10.0.0.1"], "ports": [{"name": "web", "port": 80}]});
    spec[member] = value;
    serde_json::from_value(spec).unwrap()
}

fn complaints(spec: &ClusterEndpointSpec) -> Vec<String> {
    parsed(spec).err().unwrap_or_default().iter().map(ToString::to_string).collect()
}

#[track_caller]
fn complains(spec: &ClusterEndpointSpec, start: &str, word: &str) {
    let complaints = complaints(spec);
    assert!(
        complaints.iter().any(|c| c.starts_with(&format!("{start}: ")) && c.contains(word)),
        "nothing about {start} and {word:?} in {complaints:#?}"
    );
}

#[test]
fn what_is_wrong_with_the_spec_is_told_with_its_field() {
    for (member, value, field, word) in [
        ("periodSeconds", json!(0), "periodSeconds", "1 to 3600"),
        ("periodSeconds", json!(3601), "periodSeconds", "not 3601"),
        ("retryPeriodSeconds", json!(0), "retryPeriodSeconds", "1 to 3600"),
        ("retryPeriodSeconds", json!(11), "retryPeriodSeconds", "periodSeconds"),
        ("panicThreshold", json!(-1), "panicThreshold", "0 to 100"),
        ("panicThreshold", json!(101), "panicThreshold", "0 to 100"),
        ("ports", json!([]), "ports", "1 to 100"),
        ("clusterIP", json!("none"), "clusterIP", "\"none\""),
        ("clusterIP", json!("10.0.0.256"), "clusterIP", "IP address"),
        ("hosts", json!(["10.0.0.1", "10.0.0.300"]), "hosts[1]", "10.0.0.300"),
        ("hosts", json!([]), "ports[0].hosts", "spec.hosts"),
        ("hosts", json!(vec!["10.0.0.1"; 4097]), "hosts", "4096"),
    ] {
        complains(&with(member, value), field, word);
    }
}

#[test]
fn what_is_wrong_with_a_port_is_told_with_its_field() {
    for (member, value, field, word) in [
        ("name", json!("Web"), "ports[0].name", "lower-case"),
        ("name", json!("-web"), "ports[0].name", "DNS label"),
        ("name", json!("w".repeat(64)), "ports[0].name", "63"),
        ("port", json!(0), "ports[0].port", "1 to 65535"),
        ("port", json!(65536), "ports[0].port", "not 65536"),
        ("targetPort", json!(-1), "ports[0].targetPort", "not -1"),
        ("hosts", json!(["http://a"]), "ports[0].hosts[0]", "http://a"),
        ("timeoutSeconds", json!(0), "ports[0].timeoutSeconds", "1 to 3600"),
        ("timeoutSeconds", json!(11), "ports[0].timeoutSeconds", "spec.periodSeconds"),
        ("successThreshold", json!(0), "ports[0].successThreshold", "1 to 100"),
        ("failureThreshold", json!(101), "ports[0].failureThreshold", "not 101"),
        ("httpGet", json!({"path": "healthz"}), "ports[0].httpGet.path", "begin with /"),
        ("httpGet", json!({"path": "/a b"}), "ports[0].httpGet.path", "percent-encode"),
        ("httpGet", json!({"path": "/\r\nX: y"}), "ports[0].httpGet.path", "printable"),
        ("httpGet", json!({"scheme": "ftp"}), "ports[0].httpGet.scheme", "\"ftp\""),
        ("httpGet", json!({"host": "a/b"}), "ports[0].httpGet.host", "host name"),
        ("httpGet", json!({"host": "a\r\nX: y"}), "ports[0].httpGet.host", "host name"),
        ("httpGet", json!({"expectedStatuses": ["99"]}), "ports[0].httpGet.expectedStatuses[0]", "\"99\""),
        (
            "httpGet",
            json!({"expectedStatuses": ["399-200"]}),
            "ports[0].httpGet.expectedStatuses[0]",
            "range",
        ),
        (
            "httpGet",
            json!({"expectedStatuses": ["200", "+20"]}),
            "ports[0].httpGet.expectedStatuses[1]",
            "+20",
        ),
        ("httpGet", json!({"expectedStatuses": ["0200"]}), "ports[0].httpGet.expectedStatuses[0]", "0200"),
        (
            "httpGet",
            json!({"expectedBody": "x".repeat(BODY_LIMIT + 1)}),
            "ports[0].httpGet.expectedBody",
            "10 KiB",
        ),
        (
            "httpGet",
            json!({"httpHeaders": [{"name": "X Y", "value": ""}]}),
            "ports[0].httpGet.httpHeaders[0].name",
            "X Y",
        ),
        (
            "httpGet",
            json!({"httpHeaders": [{"name": "X", "value": "a\r\nB: c"}]}),
            "ports[0].httpGet.httpHeaders[0].value",
            "control",
        ),
        ("udpSocket", json!({}), "ports[0].udpSocket", "protocol: UDP"),
        ("udpSocket", json!({"data": [1], "text": "a"}), "ports[0].udpSocket.data", "exclude"),
        ("udpSocket", json!({"data": [256]}), "ports[0].udpSocket.data", "256"),
        ("probe", json!({}), "ports[0].probe", "neither module nor image"),
        ("probe", json!({"module": "redis", "image": "r.io/a/b"}), "ports[0].probe", "both module and image"),
        (
            "probe",
            json!({"module": "redis", "pullPolicy": "Never"}),
            "ports[0].probe.pullPolicy",
            "needs image",
        ),
        (
            "probe",
            json!({"module": "redis", "pullSecrets": [{"name": "a"}]}),
            "ports[0].probe.pullSecrets",
            "needs image",
        ),
        (
            "probe",
            json!({"module": "redis", "configFrom": [{"name": "a", "valueFrom": {}}]}),
            "ports[0].probe.configFrom[0].valueFrom",
            "exactly one",
        ),
        ("tls", json!({}), "ports[0].tls", "needs httpGet with scheme: HTTPS"),
    ] {
        complains(&with_port(member, value), field, word);
    }
}

#[test]
fn ports_need_names_of_their_own_once_there_are_two() {
    let spec = spec("{hosts: [10.0.0.1], ports: [{port: 80}, {port: 80, name: a}, {port: 81, name: a}]}");
    complains(&spec, "ports[0].name", "required");
    complains(&spec, "ports[1].port", "80/TCP is taken by ports[0]");
    complains(&spec, "ports[2].name", "used twice");
    let dns =
        self::spec("{hosts: [10.0.0.1], ports: [{name: a, port: 53}, {name: b, port: 53, protocol: UDP}]}");
    assert_eq!(complaints(&dns), [] as [&str; 0]);
}

#[test]
fn two_probes_on_a_port_are_named() {
    let spec = spec("{hosts: [10.0.0.1], ports: [{port: 80, tcpSocket: {}, grpc: {enable: false}}]}");
    complains(&spec, "ports[0]", "tcpSocket and grpc are set");
}

#[test]
fn all_errors_are_told_at_once() {
    let spec = spec("{periodSeconds: 0, hosts: [1.2.3], ports: [{port: 0, httpGet: {path: x, scheme: y}}]}");
    let fields: Vec<String> = parsed(&spec).unwrap_err().into_iter().map(|e| e.field).collect();
    let all = [
        "periodSeconds",
        "hosts[0]",
        "ports[0].port",
        "ports[0].hosts",
        "ports[0].httpGet.scheme",
        "ports[0].httpGet.path",
    ];
    assert_eq!(fields, all);
}

#[test]
fn all_lists_together_are_bounded() {
    let list =
        |n: usize| -> Vec<String> { (0..n).map(|i| format!("10.0.{}.{}", i / 256, i % 256)).collect() };
    let of = |last: usize| -> ClusterEndpointSpec {
        let ports = json!([
            {"name": "a", "port": 1, "hosts": list(4096)},
            {"name": "b", "port": 2, "hosts": list(last)},
        ]);
        serde_json::from_value(json!({"hosts": list(4096), "ports": ports})).unwrap()
    };
    assert_eq!(complaints(&of(MAX_HOSTS_TOTAL - 2 * 4096)), [] as [&str; 0]);
    complains(&of(MAX_HOSTS_TOTAL - 2 * 4096 + 1), "hosts", "10001 hosts");
}

#[test]
fn module_probes_are_refused_as_not_built_unless_disabled() {
    for (member, value) in [
        ("udpSocket", json!({})),
        ("grpc", json!({})),
        ("probe", json!({"module": "redis", "config": {"a": 1}})),
    ] {
        let mut spec = with_port(member, value);
        spec.ports[0].protocol = Protocol::Udp;
        let errors = parsed(&spec).unwrap_err();
        assert_eq!(errors.len(), 1, "{errors:?}");
        assert_eq!(errors[0].problem, Problem::ProbeKindNotBuilt);
        assert_eq!(errors[0].field, format!("ports[0].{member}"));
    }
    for member in ["tcpSocket", "grpc"] {
        let definition = parsed(&with_port(member, json!({"enable": false}))).unwrap();
        assert_eq!(definition.ports[0].check, None);
    }
}

#[test]
fn hosts_are_brought_to_one_form() {
    let host = |text: &str| parsed(&with("hosts", json!([text]))).ok().map(|d| d.ports[0].hosts[0].clone());
    let address = |text: &str| Some(Host::Address(text.parse().unwrap()));
    let name = |text: &str| Some(Host::Name(text.into()));
    for (text, expected) in [
        ("10.0.0.5", address("10.0.0.5")),
        ("::ffff:1.2.3.4", address("1.2.3.4")),
        ("FD00:0:0::0005", address("fd00::5")),
        ("DB.Example.ORG", name("db.example.org")),
        ("db.example.org.", name("db.example.org")),
        ("_sip.example.org", name("_sip.example.org")),
        ("localhost", name("localhost")),
        ("xn--bcher-kva.example", name("xn--bcher-kva.example")),
        ("1.2.3.256", None),
        ("1.2.3", None),
        ("1.2.3.4.", None),
        ("0177.0.0.1", None),
        ("0x7f.0.0.1", None),
        ("0x7f000001", None),
        ("2130706433", None),
        ("1.2.3.4:80", None),
        ("[fd00::5]", None),
        ("fe80::1%eth0", None),
        ("fd00::/64", None),
        ("", None),
        (".", None),
        ("a..b", None),
        ("-a.example", None),
        ("a-.example", None),
        ("a.example..", None),
        ("a b", None),
        ("bücher.example", None),
        ("http://a.example", None),
        ("a.example/x", None),
    ] {
        assert_eq!(host(text), expected, "{text:?}");
    }
    assert_eq!(host(&format!("{}.a", "a".repeat(64))), None, "a label of 64");
    assert_eq!(host(&"a.".repeat(126)), name(&"a.".repeat(126)[..251]));
    assert_eq!(host(&"a.".repeat(128)), None, "256 characters");
}

#[test]
fn hosts_that_mean_the_same_count_once() {
    let spec = with("hosts", json!(["a.example", "A.example.", "10.0.0.1", "::ffff:10.0.0.1", "10.0.0.1"]));
    let hosts: Vec<String> = parsed(&spec).unwrap().ports[0].hosts.iter().map(ToString::to_string).collect();
    assert_eq!(hosts, ["a.example", "10.0.0.1"]);
}

#[test]
fn refused_addresses_name_the_rule_and_the_option() {
    let refused = with("hosts", json!(["10.0.0.1", "::ffff:127.0.0.1", "169.254.169.254"]));
    complains(&refused, "hosts[1]", "loopback");
    complains(&refused, "hosts[2]", "link-local");
    complains(&refused, "hosts[2]", "--allow-target-cidr");
    let policy = AddressPolicy { allow: vec!["127.0.0.0/8".parse().unwrap()], deny: vec![] };
    assert!(parse("shop", &with("hosts", json!(["127.0.0.1"])), &Materials::new(), &policy).is_ok());
}

#[test]
fn hosts_of_a_port_stand_in_for_those_of_the_spec() {
    let definition = parsed(&spec(
        "{hosts: [10.0.0.1], ports: [{name: a, port: 1}, {name: b, port: 2, hosts: [10.0.0.2]}, {name: c, port: 3, hosts: []}]}",
    ))
    .unwrap();
    let first = |port: usize| definition.ports[port].hosts[0].to_string();
    assert_eq!((first(0), first(1), first(2)), ("10.0.0.1".into(), "10.0.0.2".into(), "10.0.0.1".into()));
}

#[test]
fn an_http_check_has_defaults_and_all_that_was_asked_for() {
    let http = |value: Value| match parsed(&with_port("httpGet", value)).unwrap().ports[0].check.clone() {
        Some(Check::Http(http)) => http,
        other => panic!("{other:?}"),
    };
    let plain =
        http(json!({"path": "", "scheme": "", "host": "", "expectedStatuses": [], "expectedBody": ""}));
    assert_eq!((plain.scheme, plain.path.as_str(), &plain.host), (Scheme::Http, "/", &None));
    assert_eq!((plain.statuses.to_string(), &plain.body, &plain.tls), ("200-399".to_owned(), &None, &None));
    assert_eq!(plain, http(json!({})));

    let full = http(json!({
        "scheme": "https", "path": "/a?b=%20", "host": "shop.example:8443", "followRedirects": true,
        "httpHeaders": [{"name": "X", "value": "1"}, {"name": "X", "value": "2"}],
        "expectedStatuses": ["204", "500-599"], "expectedBody": "ok",
    }));
    assert_eq!(full.redirects, Redirects::Follow);
    assert_eq!(full.headers, [("X".to_owned(), "1".to_owned()), ("X".to_owned(), "2".to_owned())]);
    assert_eq!(full.statuses.to_string(), "204, 500-599");
    let expected: Vec<u16> =
        [200, 204, 205, 499, 500, 599].into_iter().filter(|s| full.statuses.contains(*s)).collect();
    assert_eq!(expected, [204, 500, 599]);
    // As the kubelet does.
    assert_eq!(full.tls, Some(TlsCheck { server_name: None, verify: false, ca: None, client: None }));
}

fn https(tls: Value) -> ClusterEndpointSpec {
    let mut spec = with_port("httpGet", json!({"scheme": "HTTPS"}));
    spec.ports[0].tls = serde_json::from_value(tls).unwrap();
    spec
}

#[test]
fn tls_is_refused_where_it_cannot_work() {
    let ca = json!({"configMapKeyRef": {"name": "ca", "key": "ca.crt"}});
    complains(
        &https(json!({"caFrom": ca, "insecureSkipVerify": true})),
        "ports[0].tls.insecureSkipVerify",
        "caFrom",
    );
    complains(&https(json!({"caFrom": {}})), "ports[0].tls.caFrom", "exactly one");
    complains(&https(json!({"serverName": "a b"})), "ports[0].tls.serverName", "DNS name");
    let mut plain = https(json!({}));
    plain.ports[0].http_get.as_mut().unwrap().scheme = "HTTP".into();
    complains(&plain, "ports[0].tls", "scheme: HTTPS");
    let mut tcp = with_port("tcpSocket", json!({}));
    tcp.ports[0].tls = Some(Default::default());
    complains(&tcp, "ports[0].tls", "scheme: HTTPS");
    assert_eq!(complaints(&https(json!({"serverName": "10.0.0.9"}))), [] as [&str; 0]);
}

#[test]
fn missing_values_say_what_to_create_or_grant() {
    let spec = https(json!({
        "caFrom": {"configMapKeyRef": {"name": "ca", "key": "ca.crt"}},
        "clientCertFrom": {"secretRef": {"name": "client"}},
    }));
    let wanted = references(&spec);
    let fields: Vec<&str> = wanted.iter().map(|w| w.field.as_str()).collect();
    assert_eq!(fields, ["ports[0].tls.caFrom", "ports[0].tls.clientCertFrom", "ports[0].tls.clientCertFrom"]);
    for (absent, words) in [
        (Absent::Object, ["no ConfigMap ca in namespace shop", "no Secret client in namespace shop"]),
        (Absent::Key, ["ConfigMap ca has no key ca.crt", "Secret client has no key tls.key"]),
        (Absent::NotText, ["key ca.crt of ConfigMap ca is not text", "key tls.crt of Secret client"]),
        (Absent::Forbidden, ["rbac.configMaps", "rbac.secrets"]),
        (
            Absent::Unavailable("timed out".into()),
            ["try again: timed out", "Secret client could not be read"],
        ),
    ] {
        let materials = wanted.iter().map(|w| (w.reference.clone(), Err(absent.clone()))).collect();
        let errors = parse("shop", &spec, &materials, &AddressPolicy::default()).unwrap_err();
        assert!(errors.iter().all(|e| e.problem == Problem::ReferenceNotReady), "{errors:?}");
        let text: Vec<String> = errors.iter().map(ToString::to_string).collect();
        for word in words {
            assert!(text.iter().any(|t| t.contains(word)), "{word:?} not in {text:?}");
        }
    }
    let unread = parsed(&spec).unwrap_err();
    assert_eq!(unread.len(), 3, "{unread:?}");
}

#[test]
fn secrets_are_in_no_debug_output() {
    const PEM: &str = "-----BEGIN CERTIFICATE-----\nhunter2\n-----END CERTIFICATE-----";
    let spec = https(json!({
        "caFrom": {"secretKeyRef": {"name": "ca", "key": "ca.crt"}},
        "clientCertFrom": {"secretRef": {"name": "client"}},
    }));
    let materials: Materials =
        references(&spec).into_iter().map(|w| (w.reference, Ok(Text::new(PEM)))).collect();
    let definition = parse("shop", &spec, &materials, &AddressPolicy::default()).unwrap();
    let port = &definition.ports[0];
    let Host::Address(address) = port.hosts[0] else { panic!("an address") };
    let target = crate::target::Target::new(port, &port.hosts[0], address, definition.cadence).unwrap();
    let shown = format!("{materials:?} {definition:?} {target:?} {:#?}", port.check);
    assert!(!shown.contains("hunter2"), "{shown}");
    let Some(Check::Http(http)) = &port.check else { panic!("an HTTP check") };
    assert_eq!(http.tls.as_ref().unwrap().ca.as_ref().unwrap().reveal(), PEM);

    let module = ModuleCheck { artifact: Artifact::Shipped("redis".into()), config: Text::new("hunter2") };
    assert!(!format!("{module:?}").contains("hunter2"));

    let materials = references(&spec).into_iter().map(|w| (w.reference, Ok(Text::new("hunter2")))).collect();
    let errors = parse("shop", &spec, &materials, &AddressPolicy::default()).unwrap_err();
    assert!(
        errors.iter().any(|e| e.field == "ports[0].tls.caFrom" && e.message.contains("PEM")),
        "{errors:?}"
    );
    assert!(!format!("{errors:?}").contains("hunter2"));
}
