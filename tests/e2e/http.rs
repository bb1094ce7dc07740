//! HTTP and HTTPS probes against servers that answer well, badly, or not at all.
//!
//! Every case is a port of one ClusterEndpoint with a server of its own behind it.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use testbed::pki::Authority;
use testbed::wait::always;
use testbed::{Behaviour, Host, Response, Server, Tls, eventually};

use crate::stage::{SOON, Stage};

/// Where all the servers are.
const HOST: &str = "172.18.191.20";

/// What a probe must find out: `None` for success, else the reason and a part of the message.
type Expected = Option<(&'static str, &'static str)>;

struct Case {
    name: &'static str,
    behaviour: Behaviour,
    server_tls: Option<Tls>,
    /// Fields of the port.
    port: Value,
    expected: Expected,
}

fn http(name: &'static str, behaviour: Behaviour, get: Value, expected: Expected) -> Case {
    Case { name, behaviour, server_tls: None, port: json!({ "httpGet": get }), expected }
}

fn https(name: &'static str, server: &Tls, tls: Value, expected: Expected) -> Case {
    let port = json!({ "httpGet": { "scheme": "HTTPS" }, "tls": tls });
    let behaviour = Behaviour::Http(Response::ok("secure"));
    Case { name, behaviour, server_tls: Some(server.clone()), port, expected }
}

fn answer(status: u16) -> Behaviour {
    Behaviour::Http(Response::status(status))
}

fn body(text: impl Into<Vec<u8>>) -> Behaviour {
    Behaviour::Http(Response::ok(text))
}

fn location(to: &str) -> Behaviour {
    Behaviour::Http(Response::status(302).header("Location", to))
}

/// The port of a case, the same for Service and host.
fn number(index: usize) -> u16 {
    8001 + u16::try_from(index).unwrap()
}

/// Starts a server for each case and applies a cep with a port for each.
async fn serve(
    stage: &Stage,
    host: &Host,
    name: &str,
    cases: &[Case],
) -> Result<BTreeMap<&'static str, Server>> {
    let (mut servers, mut ports) = (BTreeMap::new(), Vec::new());
    for (index, case) in cases.iter().enumerate() {
        let number = number(index);
        let tls = case.server_tls.clone();
        let server =
            Server::start_new(host.netns(), host.socket(number), case.behaviour.clone(), tls).await?;
        servers.insert(case.name, server);
        let mut port = json!({ "name": case.name, "port": number, "failureThreshold": 1 });
        port.as_object_mut().unwrap().extend(case.port.as_object().unwrap().clone());
        ports.push(port);
    }
    stage.cluster.apply(&cep(name, 1, json!(ports))).await?;
    Ok(servers)
}

fn cep(name: &str, period: u32, ports: Value) -> String {
    json!({
        "apiVersion": "sealyun.com/v1beta1", "kind": "ClusterEndpoint", "metadata": { "name": name },
        "spec": { "hosts": [HOST], "periodSeconds": period, "ports": ports },
    })
    .to_string()
}

/// Waits until the status says of every case what it should.
async fn judged(stage: &Stage, cep: &str, cases: &[Case]) -> Result<()> {
    eventually(SOON, "every probe says what it should", async || {
        let status = stage.status(cep).await?;
        let endpoints = status["endpoints"].as_array().cloned().unwrap_or_default();
        let mut wrong = Vec::new();
        for (index, case) in cases.iter().enumerate() {
            let found = endpoints.iter().find(|e| e["port"] == number(index));
            let found = found.with_context(|| format!("nothing of {}: {status}", case.name))?;
            let text = |field: &str| found[field].as_str().unwrap_or_default().to_owned();
            let right = match case.expected {
                None => text("verdict") == "Healthy",
                Some((reason, message)) => {
                    text("verdict") == "Unhealthy"
                        && text("reason") == reason
                        && text("message").contains(message)
                }
            };
            if !right {
                wrong.push(format!("{}: {found}", case.name));
            }
        }
        ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
        Ok(())
    })
    .await
}

fn plain_cases() -> Vec<Case> {
    let with = |text: &str| json!({ "expectedBody": text });
    let only = |statuses: &[&str]| json!({ "expectedStatuses": statuses });
    let follow = json!({ "followRedirects": true });
    let missing = Some(("UnexpectedBody", "expectedBody is not in the first 10 KiB"));
    let late = [vec![b' '; 11 * 1024], b"needle".to_vec()].concat();
    let early = [vec![b' '; 9 * 1024], b"needle".to_vec()].concat();
    let identified = json!({
        "path": "/healthz?full=1", "host": "shop.example.org:8443",
        "httpHeaders": [{ "name": "X-Probe", "value": "one" }, { "name": "X-Other", "value": "two words" }],
    });
    let second = Duration::from_secs(1);
    let timeout = Some(("ResponseTimeout", "the connection was accepted, but no answer came within 1 s"));
    let begun = Some(("ResponseTimeout", "the answer began, but was not complete within 1 s"));
    vec![
        http("ok", answer(200), json!({}), None),
        http("least", answer(399), json!({}), None),
        http(
            "client-error",
            answer(400),
            json!({}),
            Some(("UnexpectedStatus", "status 400, expected 200-399")),
        ),
        http("server-error", answer(503), json!({}), Some(("UnexpectedStatus", "status 503"))),
        http("single-status", answer(401), only(&["200", "401"]), None),
        http("range", answer(503), only(&["200", "500-599"]), None),
        http(
            "not-in-range",
            answer(499),
            only(&["200", "500-599"]),
            Some(("UnexpectedStatus", "200, 500-599")),
        ),
        http("body", body("all is well"), with("is well"), None),
        http("other-body", body("all is Well"), with("is well"), missing),
        http("early-in-body", body(early), with("needle"), None),
        http("late-in-body", body(late), with("needle"), missing),
        http("no-body", answer(204), with("needle"), missing),
        http("identified", answer(200), identified, None),
        http("anonymous", answer(200), json!({}), None),
        http("redirect", location("/elsewhere"), json!({}), None),
        http("redirect-refused", location("/"), only(&["200"]), Some(("UnexpectedStatus", "status 302"))),
        http("landing", body("landed"), json!({}), None),
        http("sick-landing", answer(500), json!({}), Some(("UnexpectedStatus", "status 500"))),
        // The ports of the two before.
        http(
            "followed",
            location(&format!("http://{HOST}:8017/x")),
            json!({ "followRedirects": true, "expectedBody": "landed" }),
            None,
        ),
        http(
            "followed-to-a-sick-one",
            location(&format!("http://{HOST}:8018/")),
            follow.clone(),
            Some(("UnexpectedStatus", "status 500")),
        ),
        http(
            "followed-for-ever",
            location("/"),
            follow.clone(),
            Some(("RedirectFailed", "more than 10 redirects")),
        ),
        http("followed-elsewhere", location("http://sso.example.org/"), follow, None),
        http(
            "elsewhere-is-not-enough",
            location("http://sso.example.org/"),
            json!({ "followRedirects": true, "expectedStatuses": ["200"] }),
            Some(("RedirectFailed", "another host (sso.example.org)")),
        ),
        http("accepts-only", Behaviour::Hold, json!({}), timeout),
        http("never-answers", Behaviour::Silent, json!({}), timeout),
        http("too-late", Behaviour::Delayed(2 * second, Response::ok("")), json!({}), timeout),
        http("in-time", Behaviour::Delayed(second / 5, Response::ok("")), json!({}), None),
        http("a-byte-at-a-time", Behaviour::Slow(second / 10, Response::ok("")), json!({}), begun),
        http("endless", Behaviour::Endless, json!({}), None),
        http("endless-without", Behaviour::Endless, with("needle"), missing),
        http("resets", Behaviour::Reset, json!({}), Some(("ConnectionReset", "connection reset"))),
        http("closes", Behaviour::Close, json!({}), Some(("ConnectionReset", "closed"))),
        http(
            "no-http",
            Behaviour::Raw(b"SSH-2.0-OpenSSH_9.2\r\n".to_vec()),
            json!({}),
            Some(("ProtocolError", "")),
        ),
        http(
            "half-a-head",
            Behaviour::Raw(b"HTTP/1.1 200 OK\r\nServ".to_vec()),
            json!({}),
            Some(("ConnectionReset", "")),
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_judged_by_status_and_body_within_its_time() -> Result<()> {
    let stage = Stage::new().await?;
    let host = stage.cluster.host(HOST)?;
    let operator = stage.operator(&[]).await?;
    let cases = plain_cases();
    let servers = serve(&stage, &host, "answers", &cases).await?;
    judged(&stage, "answers", &cases).await?;
    stage.phase("answers", "UnHealthy").await?;

    let request = |name: &str| servers[name].last_request().with_context(|| format!("{name} was not asked"));
    let identified = request("identified")?;
    ensure!(identified.line() == "GET /healthz?full=1 HTTP/1.1", "{identified:?}");
    ensure!(identified.header("Host") == Some("shop.example.org:8443"), "{identified:?}");
    ensure!(identified.header("X-Probe") == Some("one"), "{identified:?}");
    ensure!(identified.header("X-Other") == Some("two words"), "{identified:?}");
    ensure!(identified.peer.ip() == operator.host.ip(), "{identified:?}");
    let anonymous = request("anonymous")?;
    ensure!(anonymous.header("Host") == Some(&format!("{HOST}:8014")), "{anonymous:?}");
    let agent = anonymous.header("User-Agent").unwrap_or_default();
    ensure!(agent.starts_with("endpoints-operator/"), "{anonymous:?}");
    // A redirect that is not followed is asked for once a period, and nothing else is.
    ensure!(request("redirect")?.line() == "GET / HTTP/1.1", "{:?}", request("redirect"));
    ensure!(request("landing")?.line().starts_with("GET /"), "{:?}", request("landing"));

    // Whatever a server does, no connection to it is left behind, and the same cause is the same text:
    // several probes later the status has not been written again.
    let version = async || {
        let stored = stage.ceps().get("answers").await?;
        stored.metadata.resource_version.context("no version")
    };
    let settled = version().await?;
    let asked = servers["endless"].requests();
    eventually(SOON, "three more probes", async || {
        ensure!(servers["endless"].requests() >= asked + 3, "{}", servers["endless"].requests());
        Ok(())
    })
    .await?;
    ensure!(version().await? == settled, "the status was written although nothing has changed");
    eventually(SOON, "the endless one is rid of its connections", async || {
        let open = servers["endless"].open_connections();
        ensure!(open == 0, "{open} connections are open");
        Ok(())
    })
    .await
}

fn secret(name: &str, type_: &str, data: &[(&str, &str)]) -> Result<Secret> {
    let data: BTreeMap<_, _> = data.iter().copied().collect();
    Ok(serde_json::from_value(json!({ "metadata": { "name": name }, "type": type_, "stringData": data }))?)
}

fn config_map(name: &str, data: &[(&str, &str)]) -> Result<ConfigMap> {
    let data: BTreeMap<_, _> = data.iter().copied().collect();
    Ok(serde_json::from_value(json!({ "metadata": { "name": name }, "data": data }))?)
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_is_verified_as_the_port_says() -> Result<()> {
    let stage = Stage::new().await?;
    let host = stage.cluster.host(HOST)?;
    let _operator = stage.operator(&[]).await?;
    let (ours, others) = (Authority::new("ours")?, Authority::new("others")?);
    let good = Tls::new(&ours.server(&["db.example.org", HOST])?)?;
    let expired = Tls::new(&ours.expired_server(&["db.example.org", HOST])?)?;
    let mutual = Tls::mutual(&ours.server(&[HOST])?, &ours)?;
    let maps: Api<ConfigMap> = Api::default_namespaced(stage.cluster.client());
    let secrets: Api<Secret> = Api::default_namespaced(stage.cluster.client());
    let post = PostParams::default();
    maps.create(
        &post,
        &config_map("ca", &[("ca.crt", ours.certificate()), ("other.crt", others.certificate())])?,
    )
    .await?;
    secrets.create(&post, &secret("ca", "Opaque", &[("ca.crt", ours.certificate())])?).await?;
    for (name, authority) in [("client", &ours), ("stranger", &others)] {
        let identity = authority.client("prober", &[])?;
        let data = [("tls.crt", identity.certificate.as_str()), ("tls.key", identity.key.as_str())];
        secrets.create(&post, &secret(name, "kubernetes.io/tls", &data)?).await?;
    }

    let map = json!({ "configMapKeyRef": { "name": "ca", "key": "ca.crt" } });
    let other = json!({ "configMapKeyRef": { "name": "ca", "key": "other.crt" } });
    let in_secret = json!({ "secretKeyRef": { "name": "ca", "key": "ca.crt" } });
    let client = |name: &str| json!({ "caFrom": map, "clientCertFrom": { "secretRef": { "name": name } } });
    let unverified = |name, server: &Tls| Case {
        port: json!({ "httpGet": { "scheme": "https" } }),
        ..https(name, server, Value::Null, None)
    };
    // What web servers say to a TLS handshake on a plain port.
    let complaint = Behaviour::Greet(b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec());
    let tls_server = Case {
        port: json!({ "httpGet": { "scheme": "HTTP" } }),
        ..https("tls-server", &good, Value::Null, Some(("ProtocolError", "set scheme to HTTPS")))
    };
    let cases = [
        unverified("unverified", &good),
        unverified("unverified-expired", &expired),
        https("by-config-map", &good, json!({ "caFrom": map }), None),
        https("by-secret", &good, json!({ "caFrom": in_secret, "serverName": "db.example.org" }), None),
        https(
            "wrong-name",
            &good,
            json!({ "caFrom": map, "serverName": "web.example.org" }),
            Some(("TlsFailed", "other names than web.example.org")),
        ),
        https(
            "wrong-authority",
            &good,
            json!({ "caFrom": other }),
            Some(("TlsFailed", "certificate issuer unknown")),
        ),
        https("public-authorities", &good, json!({}), Some(("TlsFailed", "certificate issuer unknown"))),
        https("expired", &expired, json!({ "caFrom": map }), Some(("TlsFailed", "certificate expired"))),
        https(
            "skipped",
            &expired,
            json!({ "insecureSkipVerify": true, "serverName": "web.example.org" }),
            None,
        ),
        https("client-shown", &mutual, client("client"), None),
        https(
            "client-missing",
            &mutual,
            json!({ "caFrom": map }),
            Some(("TlsFailed", "set tls.clientCertFrom")),
        ),
        https(
            "client-unknown",
            &mutual,
            client("stranger"),
            Some(("TlsFailed", "refused the client certificate")),
        ),
        http(
            "plain-server",
            complaint,
            json!({ "scheme": "HTTPS" }),
            Some(("TlsFailed", "set scheme to HTTP")),
        ),
        tls_server,
    ];
    let servers = serve(&stage, &host, "tls", &cases).await?;
    judged(&stage, "tls", &cases).await?;
    ensure!(servers["wrong-name"].requests() == 0, "a request went to a server of another name");
    ensure!(servers["by-secret"].requests() > 0 && servers["client-shown"].requests() > 0, "no requests");
    Ok(())
}

/// The spec's field `tls` that takes its authorities from a ConfigMap.
fn by_config_map() -> Value {
    json!({ "caFrom": { "configMapKeyRef": { "name": "ca", "key": "ca.crt" } } })
}

/// One HTTPS port.
fn secure(name: &str, port: u16, tls: Value) -> Value {
    let probe = json!({ "scheme": "HTTPS" });
    json!([{ "name": name, "port": port, "failureThreshold": 100, "httpGet": probe, "tls": tls }])
}

/// An HTTPS server on the host.
async fn secured(host: &Host, port: u16, tls: Tls) -> Result<Server> {
    Server::https(host.netns(), host.socket(port), tls, Response::ok("secure")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_spec_refers_to_may_be_missing_and_come() -> Result<()> {
    let stage = Stage::new().await?;
    let host = stage.cluster.host(HOST)?;
    let _operator = stage.operator(&[]).await?;
    let authority = Authority::new("ours")?;
    let _web = secured(&host, 8001, Tls::new(&authority.server(&[HOST])?)?).await?;
    let mutual = secured(&host, 8002, Tls::mutual(&authority.server(&[HOST])?, &authority)?).await?;
    let maps: Api<ConfigMap> = Api::default_namespaced(stage.cluster.client());
    let secrets: Api<Secret> = Api::default_namespaced(stage.cluster.client());

    // One cep loses what it had, the other never was complete.
    let unverified = secure("web", 8001, json!({ "insecureSkipVerify": true }));
    stage.cluster.apply(&cep("web", 1, unverified)).await?;
    stage.phase("web", "Healthy").await?;
    stage.cluster.apply(&cep("web", 1, secure("web", 8001, by_config_map()))).await?;
    let client =
        json!({ "insecureSkipVerify": true, "clientCertFrom": { "secretRef": { "name": "client" } } });
    stage.cluster.apply(&cep("mutual", 1, secure("mutual", 8002, client))).await?;
    let refused = async |cep: &str, texts: &[&str]| {
        let message = stage.condition(cep, "ProbesReady", "False", "ReferenceNotReady").await?;
        ensure!(texts.iter().all(|text| message.contains(text)), "{message}");
        stage.phase(cep, "UnHealthy").await
    };
    refused("web", &["spec.ports[0].tls.caFrom", "no ConfigMap ca in namespace default; create it"]).await?;
    stage.until_ready("web", &["172.18.191.20:8001"]).await?;
    refused(
        "mutual",
        &["spec.ports[0].tls.clientCertFrom", "no Secret client in namespace default; create it"],
    )
    .await?;
    ensure!(stage.services().get_opt("mutual").await?.is_none(), "a Service for a spec that was never good");

    // They come, one of them incomplete at first. What is missing is looked for every ten seconds.
    let identity = authority.client("prober", &[])?;
    let data = [("tls.crt", identity.certificate.as_str()), ("tls.key", identity.key.as_str())];
    secrets.create(&PostParams::default(), &secret("client", "kubernetes.io/tls", &data)?).await?;
    maps.create(&PostParams::default(), &config_map("ca", &[("tls.crt", authority.certificate())])?).await?;
    eventually(SOON, "the missing key is told", async || {
        let status = stage.status("web").await?;
        let told = "ConfigMap ca has no key ca.crt; add it";
        ensure!(status["conditions"].to_string().contains(told), "{status}");
        Ok(())
    })
    .await?;
    stage.until_ready("web", &["172.18.191.20:8001"]).await?;
    let patch = Patch::Merge(json!({ "data": { "ca.crt": authority.certificate() } }));
    maps.patch("ca", &PatchParams::default(), &patch).await?;
    for cep in ["web", "mutual"] {
        stage.phase(cep, "Healthy").await?;
        stage.condition(cep, "ProbesReady", "True", "ProbesReady").await?;
    }
    stage.until_ready("mutual", &["172.18.191.20:8002"]).await?;
    ensure!(mutual.requests() > 0, "the server of client certificates was never asked");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_authority_is_believed_without_dropping_the_host() -> Result<()> {
    let stage = Stage::new().await?;
    let host = stage.cluster.host(HOST)?;
    let _operator = stage.operator(&[]).await?;
    let (old, new) = (Authority::new("old")?, Authority::new("new")?);
    let mut web = secured(&host, 8001, Tls::new(&old.server(&[HOST])?)?).await?;
    let maps: Api<ConfigMap> = Api::default_namespaced(stage.cluster.client());
    maps.create(&PostParams::default(), &config_map("ca", &[("ca.crt", old.certificate())])?).await?;
    stage.cluster.apply(&cep("web", 1, secure("web", 8001, by_config_map()))).await?;
    stage.phase("web", "Healthy").await?;

    // In the ConfigMap beside the old one, then on the server. It is read again within a minute; the probes
    // that fail until then are fewer than the threshold, and reading it again changes no verdict.
    let both = format!("{}{}", old.certificate(), new.certificate());
    let patch = Patch::Merge(json!({ "data": { "ca.crt": both } }));
    maps.patch("ca", &PatchParams::default(), &patch).await?;
    web.stop().await;
    web = secured(&host, 8001, Tls::new(&new.server(&[HOST])?)?).await?;
    let minute = Duration::from_secs(60);
    let believed = eventually(minute + SOON, "the new authority is believed", async || {
        ensure!(web.requests() >= 2, "{} handshakes failed", web.handshake_failures());
        Ok(())
    });
    let served = always(3 * minute, "the host is served", async || {
        let ready = stage.ready("web").await?;
        ensure!(ready == ["172.18.191.20:8001"], "{ready:?}");
        Ok(())
    });
    tokio::select! {
        believed = believed => believed?,
        served = served => served?,
    }
    stage.phase("web", "Healthy").await
}
