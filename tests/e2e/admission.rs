//! What the API server refuses by the CRD, each with the field named, and what it accepts.

use anyhow::{Result, bail, ensure};
use kube::api::{DynamicObject, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use crate::stage::{Stage, WORDPRESS};

/// A spec that is refused, and texts that the answer contains: the field first.
type Refused = (&'static str, Value, &'static [&'static str]);

/// A spec of one host and one port, with this in place of or beside the fields of the port.
fn port(fields: Value) -> Value {
    let mut port = json!({ "name": "web", "port": 80 });
    merge(&mut port, fields);
    json!({ "hosts": ["10.0.0.5"], "ports": [port] })
}

/// The same, with this in place of or beside the fields of the spec.
fn spec(fields: Value) -> Value {
    let mut spec = port(json!({}));
    merge(&mut spec, fields);
    spec
}

fn merge(into: &mut Value, fields: Value) {
    if let (Some(into), Value::Object(fields)) = (into.as_object_mut(), fields) {
        into.extend(fields);
    }
}

fn http(fields: Value) -> Value {
    port(json!({ "httpGet": fields }))
}

fn tls(fields: Value) -> Value {
    port(json!({ "httpGet": { "scheme": "HTTPS" }, "tls": fields }))
}

fn probe(fields: Value) -> Value {
    port(json!({ "probe": fields }))
}

/// Two ports, each with these fields besides.
fn two(first: Value, second: Value) -> Value {
    let mut ports = [json!({ "name": "a", "port": 80 }), json!({ "name": "b", "port": 81 })];
    merge(&mut ports[0], first);
    merge(&mut ports[1], second);
    json!({ "hosts": ["10.0.0.5"], "ports": ports })
}

fn addresses(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("10.{}.{}.{}", n >> 16, (n >> 8) & 255, n & 255)).collect()
}

fn of_hosts() -> Vec<Refused> {
    let wrong = |host: &str| spec(json!({ "hosts": ["10.0.0.5", host] }));
    let form: &[&str] = &["spec.hosts[1]", "an IPv4 address, an IPv6 address or a DNS name"];
    let lists = |n: usize| {
        let port = |i| json!({ "name": format!("p{i}"), "port": 80 + i, "hosts": addresses(n) });
        json!({ "ports": [port(0), port(1), port(2)] })
    };
    vec![
        ("no hosts", json!({ "ports": [{ "port": 80 }] }), &["spec.hosts", "at least one host"]),
        ("an empty list", spec(json!({ "hosts": [] })), &["spec.hosts", "at least one host"]),
        (
            "one port without",
            json!({ "ports": [{ "name": "a", "port": 1, "hosts": ["10.0.0.5"] }, { "name": "b", "port": 2 }] }),
            &["spec.hosts", "every port needs at least one host"],
        ),
        ("more than 4096", spec(json!({ "hosts": addresses(4097) })), &["spec.hosts", "4096"]),
        (
            "more than 4096 of a port",
            port(json!({ "hosts": addresses(4097) })),
            &["spec.ports[0].hosts", "4096"],
        ),
        ("more than 10000 in all", lists(3400), &["spec.hosts", "10000", "split the ClusterEndpoint"]),
        ("a URL", wrong("http://db.example.org"), form),
        ("a port", wrong("10.0.0.5:80"), form),
        ("no such octet", wrong("10.0.0.256"), form),
        ("a leading zero", wrong("010.0.0.1"), form),
        ("three octets", wrong("10.0.1"), form),
        ("a space", wrong("db example"), form),
        ("brackets", wrong("[fd00::5]"), form),
        ("a zone", wrong("fe80::1%eth0"), form),
        ("a range", wrong("10.0.0.0/24"), form),
        ("two dots", wrong("db..example.org"), form),
        ("a hyphen first", wrong("-db.example.org"), form),
        ("a wildcard", wrong("*.example.org"), form),
        ("nothing", wrong(""), &["spec.hosts[1]"]),
        ("too long", wrong(&"a.".repeat(127)), &["spec.hosts[1]", "253"]),
        ("a label too long", wrong(&format!("{}.org", "a".repeat(64))), form),
        ("of a port", port(json!({ "hosts": ["10.0.0.256"] })), &["spec.ports[0].hosts[0]"]),
    ]
}

fn of_ports() -> Vec<Refused> {
    let many: Vec<Value> = (1..=101).map(|n| json!({ "name": format!("p{n}"), "port": n })).collect();
    let duplicate = json!([{ "name": "a", "port": 80 }, { "name": "b", "port": 80 }]);
    vec![
        ("no ports", json!({ "hosts": ["10.0.0.5"] }), &["spec.ports", "Required"]),
        ("an empty list of ports", spec(json!({ "ports": [] })), &["spec.ports", "at least 1"]),
        ("101 ports", spec(json!({ "ports": many })), &["spec.ports", "100"]),
        ("a port twice", spec(json!({ "ports": duplicate })), &["spec.ports[1]", "Duplicate", "80"]),
        ("a name twice", two(json!({}), json!({ "name": "a" })), &["spec.ports", "name", "unique"]),
        (
            "no name",
            json!({ "hosts": ["10.0.0.5"], "ports": [{ "name": "a", "port": 80 }, { "port": 81 }] }),
            &["spec.ports", "name", "required"],
        ),
        ("a name in capitals", port(json!({ "name": "Web" })), &["spec.ports[0].name"]),
        ("a long name", port(json!({ "name": "a".repeat(64) })), &["spec.ports[0].name", "63"]),
        ("an empty name", port(json!({ "name": "" })), &["spec.ports[0].name"]),
        ("no port", spec(json!({ "ports": [{ "name": "web" }] })), &["spec.ports[0].port", "Required"]),
        ("port 0", port(json!({ "port": 0 })), &["spec.ports[0].port", "1"]),
        ("port 65536", port(json!({ "port": 65536 })), &["spec.ports[0].port", "65535"]),
        ("targetPort 0", port(json!({ "targetPort": 0 })), &["spec.ports[0].targetPort"]),
        ("targetPort 65536", port(json!({ "targetPort": 65536 })), &["spec.ports[0].targetPort"]),
        (
            "a named targetPort",
            port(json!({ "targetPort": "http" })),
            &["spec.ports[0].targetPort", "integer"],
        ),
        ("no such protocol", port(json!({ "protocol": "HTTP" })), &["spec.ports[0].protocol", "SCTP"]),
        (
            "two probes",
            port(json!({ "tcpSocket": {}, "httpGet": {} })),
            &["spec.ports[0]", "at most one of tcpSocket, httpGet, udpSocket, grpc and probe"],
        ),
        (
            "two other probes",
            port(json!({ "grpc": {}, "probe": { "module": "redis" } })),
            &["spec.ports[0]", "at most one of tcpSocket, httpGet, udpSocket, grpc and probe"],
        ),
    ]
}

fn of_times() -> Vec<Refused> {
    vec![
        ("period 0", spec(json!({ "periodSeconds": 0 })), &["spec.periodSeconds", "1"]),
        ("period 3601", spec(json!({ "periodSeconds": 3601 })), &["spec.periodSeconds", "3600"]),
        ("retry 0", spec(json!({ "retryPeriodSeconds": 0 })), &["spec.retryPeriodSeconds"]),
        (
            "retry above the period",
            spec(json!({ "periodSeconds": 5, "retryPeriodSeconds": 6 })),
            &["spec.retryPeriodSeconds", "must not exceed periodSeconds"],
        ),
        ("retry above the default", spec(json!({ "retryPeriodSeconds": 11 })), &["spec.retryPeriodSeconds"]),
        ("timeout 0", port(json!({ "timeoutSeconds": 0 })), &["spec.ports[0].timeoutSeconds"]),
        (
            "timeout above the period",
            port(json!({ "timeoutSeconds": 11 })),
            &["spec.ports", "timeoutSeconds", "must not exceed spec.periodSeconds"],
        ),
        ("success 0", port(json!({ "successThreshold": 0 })), &["spec.ports[0].successThreshold"]),
        ("success 101", port(json!({ "successThreshold": 101 })), &["spec.ports[0].successThreshold", "100"]),
        ("failure 0", port(json!({ "failureThreshold": 0 })), &["spec.ports[0].failureThreshold"]),
        ("failure 101", port(json!({ "failureThreshold": 101 })), &["spec.ports[0].failureThreshold", "100"]),
        ("panic -1", spec(json!({ "panicThreshold": -1 })), &["spec.panicThreshold"]),
        ("panic 101", spec(json!({ "panicThreshold": 101 })), &["spec.panicThreshold", "100"]),
    ]
}

fn of_http() -> Vec<Refused> {
    let header = |name: &str, value: &str| http(json!({ "httpHeaders": [{ "name": name, "value": value }] }));
    let statuses = |list: Value| http(json!({ "expectedStatuses": list }));
    vec![
        ("a relative path", http(json!({ "path": "healthz" })), &["spec.ports[0].httpGet.path"]),
        ("a path with a space", http(json!({ "path": "/a b" })), &["spec.ports[0].httpGet.path"]),
        ("a path with a line break", http(json!({ "path": "/a\r\nX: y" })), &["spec.ports[0].httpGet.path"]),
        ("no such scheme", http(json!({ "scheme": "ftp" })), &["spec.ports[0].httpGet.scheme", "HTTPS"]),
        ("a URL as host", http(json!({ "host": "http://a/" })), &["spec.ports[0].httpGet.host"]),
        ("a header with a space", header("X Y", "1"), &["spec.ports[0].httpGet.httpHeaders[0].name"]),
        ("a header without name", header("", "1"), &["spec.ports[0].httpGet.httpHeaders[0].name"]),
        ("a header with a break", header("X", "1\r\nY: 2"), &["spec.ports[0].httpGet.httpHeaders[0].value"]),
        ("no statuses", statuses(json!([])), &["spec.ports[0].httpGet.expectedStatuses"]),
        ("status 600", statuses(json!(["600"])), &["spec.ports[0].httpGet.expectedStatuses[0]"]),
        ("a class", statuses(json!(["200", "2xx"])), &["spec.ports[0].httpGet.expectedStatuses[1]"]),
        (
            "a range backwards",
            statuses(json!(["399-200"])),
            &["spec.ports[0].httpGet.expectedStatuses", "must not be above the last"],
        ),
        (
            "a long body",
            http(json!({ "expectedBody": "x".repeat(1025) })),
            &["spec.ports[0].httpGet.expectedBody", "1024"],
        ),
        (
            "tls on HTTP",
            port(json!({ "httpGet": {}, "tls": {} })),
            &["spec.ports[0].tls", "needs httpGet with scheme: HTTPS, grpc or probe"],
        ),
        ("tls on tcpSocket", port(json!({ "tcpSocket": {}, "tls": {} })), &["spec.ports[0].tls"]),
        ("tls alone", port(json!({ "tls": {} })), &["spec.ports[0].tls"]),
        (
            "a CA that is not used",
            tls(
                json!({ "insecureSkipVerify": true, "caFrom": { "secretKeyRef": { "name": "a", "key": "b" } } }),
            ),
            &["spec.ports[0].tls", "caFrom and insecureSkipVerify: true exclude each other"],
        ),
        (
            "no source of a CA",
            tls(json!({ "caFrom": {} })),
            &["spec.ports[0].tls.caFrom", "exactly one of secretKeyRef and configMapKeyRef"],
        ),
        (
            "two sources of a CA",
            tls(json!({ "caFrom": {
                "secretKeyRef": { "name": "a", "key": "b" }, "configMapKeyRef": { "name": "a", "key": "b" },
            } })),
            &["spec.ports[0].tls.caFrom", "exactly one of secretKeyRef and configMapKeyRef"],
        ),
        (
            "a CA without key",
            tls(json!({ "caFrom": { "secretKeyRef": { "name": "a" } } })),
            &["spec.ports[0].tls.caFrom.secretKeyRef.key", "Required"],
        ),
        (
            "a client certificate without name",
            tls(json!({ "clientCertFrom": {} })),
            &["spec.ports[0].tls.clientCertFrom.secretRef", "Required"],
        ),
        ("a server name with a port", tls(json!({ "serverName": "a:1" })), &["spec.ports[0].tls.serverName"]),
    ]
}

fn of_modules() -> Vec<Refused> {
    const SOURCE: &[&str] = &["spec.ports[0].probe", "exactly one of module and image must be set"];
    const IMAGE: &[&str] = &["spec.ports[0].probe.image", "OCI reference"];
    let image = |image: &str| probe(json!({ "image": image }));
    let config = |from: Value| probe(json!({ "module": "redis", "configFrom": from }));
    let limits = |limits: Value| probe(json!({ "module": "redis", "limits": limits }));
    let udp = |fields: Value| port(json!({ "protocol": "UDP", "udpSocket": fields }));
    let key = json!({ "secretKeyRef": { "name": "a", "key": "b" } });
    vec![
        ("neither module nor image", probe(json!({})), SOURCE),
        ("both", probe(json!({ "module": "redis", "image": "ghcr.io/acme/ldap:1" })), SOURCE),
        ("no name of a module", probe(json!({ "module": "Redis_2" })), &["spec.ports[0].probe.module"]),
        ("an image with a scheme", image("https://ghcr.io/acme/ldap:1"), IMAGE),
        ("an image without registry", image("ldap:1"), IMAGE),
        ("an image in capitals", image("ghcr.io/Acme/ldap:1"), IMAGE),
        ("a short digest", image("ghcr.io/acme/ldap@sha256:abc"), IMAGE),
        ("a space in an image", image("ghcr.io/acme/ldap :1"), IMAGE),
        (
            "a policy without image",
            probe(json!({ "module": "redis", "pullPolicy": "Always" })),
            &["spec.ports[0].probe.pullPolicy", "needs image"],
        ),
        (
            "no such policy",
            probe(json!({ "image": "ghcr.io/acme/ldap:1", "pullPolicy": "Sometimes" })),
            &["spec.ports[0].probe.pullPolicy", "IfNotPresent"],
        ),
        (
            "secrets without image",
            probe(json!({ "module": "redis", "pullSecrets": [{ "name": "ghcr" }] })),
            &["spec.ports[0].probe.pullSecrets", "needs image"],
        ),
        (
            "config that is no object",
            probe(json!({ "module": "redis", "config": "role=master" })),
            &["spec.ports[0].probe.config", "object"],
        ),
        (
            "config from nowhere",
            config(json!([{ "name": "password", "valueFrom": {} }])),
            &["spec.ports[0].probe.configFrom[0].valueFrom", "exactly one of"],
        ),
        (
            "a member twice",
            config(json!([{ "name": "p", "valueFrom": key }, { "name": "p", "valueFrom": key }])),
            &["spec.ports[0].probe.configFrom[1]", "Duplicate"],
        ),
        ("memory in words", limits(json!({ "memory": "64MB" })), &["spec.ports[0].probe.limits.memory"]),
        ("time without unit", limits(json!({ "cpu": "200" })), &["spec.ports[0].probe.limits.cpu"]),
        (
            "udpSocket on TCP",
            port(json!({ "udpSocket": {} })),
            &["spec.ports[0].protocol", "udpSocket needs protocol: UDP"],
        ),
        (
            "data and text",
            udp(json!({ "data": [1], "text": "ping" })),
            &["spec.ports[0].udpSocket", "data and text exclude each other"],
        ),
        ("data that is no byte", udp(json!({ "data": [256] })), &["spec.ports[0].udpSocket.data[0]", "255"]),
        (
            "data without end",
            udp(json!({ "data": vec![0; 1025] })),
            &["spec.ports[0].udpSocket.data", "1024"],
        ),
    ]
}

fn of_cluster_ip() -> Vec<Refused> {
    let ip = |ip: &str| spec(json!({ "clusterIP": ip }));
    vec![
        ("no address", ip("web"), &["spec.clusterIP", "empty, None or an IP address"]),
        ("none in small letters", ip("none"), &["spec.clusterIP", "empty, None or an IP address"]),
        ("a range", ip("10.96.0.0/16"), &["spec.clusterIP", "empty, None or an IP address"]),
    ]
}

fn accepted() -> Vec<(&'static str, Value)> {
    let ports: Vec<Value> = (1..=100).map(|n| json!({ "name": format!("p{n}"), "port": n })).collect();
    let hosts = json!([
        "10.0.0.5",
        "fd00::5",
        "FD00:0:0::6",
        "::ffff:10.0.0.7",
        "db.example.org",
        "DB2.Example.org.",
        "db",
        "_sip._tcp.example.org",
        "xn--bcher-kva.example",
        "1st.example.org",
    ]);
    let lists = |n: usize| {
        let port = |i| json!({ "name": format!("p{i}"), "port": 80 + i, "hosts": addresses(n) });
        json!({ "ports": [port(0), port(1), port(2)] })
    };
    vec![
        ("smallest", json!({ "hosts": ["10.0.0.5"], "ports": [{ "port": 80 }] })),
        ("nulls", spec(json!({ "retryPeriodSeconds": null, "ports": [{ "port": 80, "hosts": null }] }))),
        ("every-kind-of-host", spec(json!({ "hosts": hosts }))),
        ("many-hosts", spec(json!({ "hosts": addresses(4096) }))),
        ("many-hosts-in-all", lists(3333)),
        ("many-ports", spec(json!({ "ports": ports }))),
        ("tcp-and-udp", two(json!({}), json!({ "port": 80, "protocol": "UDP" }))),
        ("bounds", spec(json!({ "periodSeconds": 3600, "retryPeriodSeconds": 1, "panicThreshold": 100 }))),
        ("headless", spec(json!({ "clusterIP": "None" }))),
        ("fixed", spec(json!({ "clusterIP": "10.96.7.7" }))),
        ("fixed-ipv6", spec(json!({ "clusterIP": "fd00:10:96::77" }))),
        ("sctp", port(json!({ "protocol": "SCTP" }))),
        ("udp-by-http", port(json!({ "protocol": "UDP", "httpGet": {} }))),
        ("udp-data", port(json!({ "protocol": "UDP", "udpSocket": { "data": [112, -1, 255] } }))),
        ("udp-text", port(json!({ "protocol": "UDP", "udpSocket": { "enable": true, "text": "ping" } }))),
        ("grpc", port(json!({ "grpc": { "service": "shop.Cart" }, "tls": { "serverName": "shop" } }))),
        (
            "module",
            probe(json!({ "module": "redis", "config": { "role": "master", "any": [1, { "b": null }] } })),
        ),
        (
            "image",
            probe(json!({
                "image": format!("localhost:5000/acme/ldap-probe:1.2@sha256:{}", "0123456789abcdef".repeat(4)),
                "pullPolicy": "IfNotPresent", "pullSecrets": [{ "name": "ghcr" }],
                "configFrom": [
                    { "name": "password", "valueFrom": { "secretKeyRef": { "name": "auth", "key": "password" } } },
                    { "name": "base", "valueFrom": { "configMapKeyRef": { "name": "auth", "key": "base" } } },
                ],
                "limits": { "memory": "64Mi", "cpu": "200ms" },
            })),
        ),
        (
            "https",
            port(json!({
                "httpGet": {
                    "path": "/healthz?full=1", "scheme": "https", "host": "shop.example.org:8443",
                    "httpHeaders": [{ "name": "X-Probe", "value": "a\tb ü" }, { "name": "X-Probe", "value": "" }],
                    "expectedStatuses": ["200", "401-403"], "expectedBody": "ok", "followRedirects": true,
                },
                "tls": {
                    "serverName": "10.0.0.5",
                    "caFrom": { "configMapKeyRef": { "name": "ca", "key": "ca.crt" } },
                    "clientCertFrom": { "secretRef": { "name": "client" } },
                },
            })),
        ),
        ("no-verification", tls(json!({ "insecureSkipVerify": true, "serverName": "" }))),
    ]
}

fn object(name: &str, spec: Value) -> Result<DynamicObject> {
    Ok(serde_json::from_value(json!({
        "apiVersion": "sealyun.com/v1beta1", "kind": "ClusterEndpoint",
        "metadata": { "name": name }, "spec": spec,
    }))?)
}

/// Tries to create it; the API server's message if it refuses.
async fn refusal(stage: &Stage, name: &str, spec: Value) -> Result<Option<String>> {
    match stage.ceps().create(&PostParams::default(), &object(name, spec)?).await {
        Ok(_) => Ok(None),
        // 422; a patch of etcd's limits or a bug of ours would be another code.
        Err(kube::Error::Api(status)) if status.code == 422 => Ok(Some(status.message)),
        Err(error) => Err(error.into()),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_work_is_refused_with_its_field() -> Result<()> {
    let stage = Stage::new().await?;
    let tables = [of_hosts(), of_ports(), of_times(), of_http(), of_modules(), of_cluster_ip()];
    let mut wrong = Vec::new();
    for (what, spec, expected) in tables.into_iter().flatten() {
        match refusal(&stage, "refused", spec).await? {
            None => {
                wrong.push(format!("{what}: accepted"));
                stage.ceps().delete("refused", &Default::default()).await?;
            }
            Some(message) => {
                let missing: Vec<_> = expected.iter().filter(|text| !message.contains(**text)).collect();
                if !missing.is_empty() {
                    wrong.push(format!("{what}: no {missing:?} in {message}"));
                }
            }
        }
    }
    let long = "a".repeat(64);
    for name in ["1web", "web.example", "-web", "web-", long.as_str()] {
        // The API server itself refuses names that no object can have, with the same field.
        match refusal(&stage, name, port(json!({}))).await? {
            Some(message) if message.contains("metadata.name") => {}
            other => wrong.push(format!("name {name}: {other:?}")),
        }
    }
    ensure!(wrong.is_empty(), "{} of the table are wrong:\n{}", wrong.len(), wrong.join("\n"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_work_is_accepted_and_its_cluster_ip_stays() -> Result<()> {
    let stage = Stage::new().await?;
    stage.cluster.apply(WORDPRESS).await?;
    let mut wrong = Vec::new();
    for (name, spec) in accepted() {
        if let Some(message) = refusal(&stage, name, spec).await? {
            wrong.push(format!("{name}: {message}"));
        }
    }
    ensure!(wrong.is_empty(), "refused:\n{}", wrong.join("\n"));

    for (name, to) in [("smallest", "None"), ("smallest", "10.96.7.8"), ("headless", ""), ("fixed", "")] {
        let patch = Patch::Merge(json!({ "spec": { "clusterIP": to } }));
        match stage.ceps().patch(name, &PatchParams::default(), &patch).await {
            Err(kube::Error::Api(status)) => {
                let message = status.message;
                ensure!(message.contains("spec.clusterIP") && message.contains("immutable"), "{message}");
            }
            other => bail!("clusterIP of {name} became {to:?}: {other:?}"),
        }
    }
    // Taking the field away is a change as well: its default comes back.
    let patch = Patch::Merge(json!({ "spec": { "clusterIP": null } }));
    let refused = stage.ceps().patch("fixed", &PatchParams::default(), &patch).await;
    ensure!(
        matches!(&refused, Err(kube::Error::Api(status)) if status.message.contains("spec.clusterIP")),
        "{refused:?}"
    );
    let patch = Patch::Merge(json!({ "spec": { "periodSeconds": 5 } }));
    stage.ceps().patch("fixed", &PatchParams::default(), &patch).await?;

    // Whoever reads the API documentation finds every field.
    let explained = stage.cluster.kubectl(&["explain", "cep.spec.ports.httpGet.expectedStatuses"]).await?;
    ensure!(explained.contains("200-399"), "{explained}");
    Ok(())
}
