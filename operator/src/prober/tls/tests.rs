use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use cep_core::check::HttpCheck;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    date_time_ymd,
};
use rustls::server::{ClientHello, ResolvesServerCert, ServerConfig, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls::{HandshakeKind, SupportedProtocolVersion};
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::super::http::Prepared;
use super::super::http::tests::{check, probe, read_request, target};
use super::*;
use crate::prober::phases::Phases;

const NAME: &str = "db.example.org";

/// An authority and what it issued.
///
/// Each has a name of its own; one that took over another's name would fail by its signature only.
struct Pki {
    ca: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate and its key.
struct Issued {
    pem: String,
    key: KeyPair,
}

impl Pki {
    fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let mut params = CertificateParams::new([]).unwrap();
        let name = format!("Authority {}", COUNT.fetch_add(1, Ordering::Relaxed));
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self { ca: CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap() }
    }

    fn issue(&self, names: &[&str], adjust: impl FnOnce(&mut CertificateParams)) -> Issued {
        let mut params =
            CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap();
        adjust(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.ca).unwrap();
        Issued { pem: certificate.pem(), key }
    }

    fn pem(&self) -> String {
        self.ca.pem()
    }
}

impl Issued {
    fn chain(&self) -> Vec<CertificateDer<'static>> {
        vec![CertificateDer::from_pem_slice(self.pem.as_bytes()).unwrap()]
    }

    fn private(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from_pem_slice(self.key.serialize_pem().as_bytes()).unwrap()
    }

    fn client(&self) -> ClientCertificate {
        ClientCertificate { chain: Text::new(&*self.pem), key: Text::new(self.key.serialize_pem()) }
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn server_config(issued: &Issued) -> ServerConfig {
    versioned(issued, &[&TLS12, &TLS13], None)
}

fn versioned(
    issued: &Issued,
    versions: &[&'static SupportedProtocolVersion],
    clients: Option<&Pki>,
) -> ServerConfig {
    let builder = ServerConfig::builder_with_provider(provider()).with_protocol_versions(versions).unwrap();
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(pki) => {
            let mut roots = RootCertStore::empty();
            roots.add(CertificateDer::from_pem_slice(pki.pem().as_bytes()).unwrap()).unwrap();
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider()).build().unwrap();
            builder.with_client_cert_verifier(verifier)
        }
    };
    builder.with_single_cert(issued.chain(), issued.private()).unwrap()
}

struct Server {
    address: SocketAddr,
    /// Handshakes that resumed an earlier session.
    resumed: Arc<AtomicUsize>,
}

/// Answers every request with the same bytes, and closes without close_notify.
async fn serve(config: ServerConfig, answer: impl Into<String>) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let answer: Arc<str> = answer.into().into();
    let resumed = Arc::new(AtomicUsize::new(0));
    let counter = resumed.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, answer, counter) = (acceptor.clone(), answer.clone(), counter.clone());
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                if stream.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed) {
                    counter.fetch_add(1, Ordering::Relaxed);
                }
                read_request(&mut stream).await;
                let _ = stream.write_all(answer.as_bytes()).await;
                let _ = stream.flush().await;
            });
        }
    });
    Server { address, resumed }
}

const OK: &str = "HTTP/1.1 200 OK\r\n\r\nready";

fn verified(ca: &str) -> TlsCheck {
    TlsCheck { server_name: None, verify: true, ca: Some(Text::new(ca)), client: None }
}

fn https(tls: Option<TlsCheck>) -> HttpCheck {
    let mut check = check(json!({"scheme": "HTTPS", "expectedBody": "ready"}));
    if tls.is_some() {
        check.tls = tls;
    }
    check
}

fn tls_failure(message: &'static str) -> Outcome {
    Outcome::failure(Reason::TlsFailed, message)
}

#[tokio::test]
async fn without_tls_nothing_about_the_certificate_matters() {
    let expired =
        Pki::new().issue(&["other.example.org"], |params| params.not_after = date_time_ymd(2001, 1, 1));
    for version in [&TLS12, &TLS13] {
        let server = serve(versioned(&expired, &[version], None), OK).await;
        assert_eq!(probe(server.address, Some(NAME), https(None)).await, Outcome::Success);
        assert_eq!(probe(server.address, None, https(None)).await, Outcome::Success);
    }
}

#[tokio::test]
async fn a_certificate_is_verified() {
    let pki = Pki::new();
    let good = pki.issue(&[NAME, "127.0.0.1"], |_| {});
    for version in [&TLS12, &TLS13] {
        let server = serve(versioned(&good, &[version], None), OK).await;
        let ask = |name, tls| probe(server.address, name, https(Some(tls)));
        assert_eq!(ask(Some(NAME), verified(&pki.pem())).await, Outcome::Success);
        assert_eq!(ask(None, verified(&pki.pem())).await, Outcome::Success, "by address");
        assert_eq!(
            ask(Some("shop.example.org"), verified(&pki.pem())).await,
            tls_failure("certificate is for other names than shop.example.org")
        );
        let named = TlsCheck { server_name: Some(NAME.into()), ..verified(&pki.pem()) };
        assert_eq!(ask(Some("shop.example.org"), named).await, Outcome::Success);
        assert_eq!(
            ask(Some(NAME), verified(&Pki::new().pem())).await,
            tls_failure("certificate issuer unknown")
        );
        // No private authority is among the public ones.
        let public = TlsCheck { ca: None, ..verified("") };
        assert_eq!(ask(Some(NAME), public).await, tls_failure("certificate issuer unknown"));
    }
}

#[tokio::test]
async fn the_host_of_the_check_is_the_name_to_verify() {
    let pki = Pki::new();
    let server = serve(server_config(&pki.issue(&[NAME], |_| {})), OK).await;
    let mut check = https(Some(verified(&pki.pem())));
    check.host = Some(format!("{NAME}:8443"));
    assert_eq!(probe(server.address, Some("shop.example.org"), check).await, Outcome::Success);
}

#[tokio::test]
async fn dates_and_purpose() {
    let pki = Pki::new();
    type Adjust = fn(&mut CertificateParams);
    for (adjust, message) in [
        ((|params| params.not_after = date_time_ymd(2001, 1, 1)) as Adjust, "certificate expired"),
        (|params| params.not_before = date_time_ymd(2999, 1, 1), "certificate is not valid yet"),
        (
            |params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth],
            "certificate is not for a server",
        ),
    ] {
        let server = serve(server_config(&pki.issue(&[NAME], adjust)), OK).await;
        let outcome = probe(server.address, Some(NAME), https(Some(verified(&pki.pem())))).await;
        assert_eq!(outcome, tls_failure(message));
    }
}

#[tokio::test]
async fn a_listed_certificate_is_trusted_even_if_it_is_marked_as_an_authority() {
    let self_signed = |adjust: fn(&mut CertificateParams)| {
        let mut params = CertificateParams::new([NAME.to_owned()]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        adjust(&mut params);
        let key = KeyPair::generate().unwrap();
        Issued { pem: params.self_signed(&key).unwrap().pem(), key }
    };
    let listed = self_signed(|_| {});
    let server = serve(server_config(&listed), OK).await;
    let ask = |name, ca: &str| probe(server.address, Some(name), https(Some(verified(ca))));
    assert_eq!(ask(NAME, &listed.pem).await, Outcome::Success);
    assert_eq!(
        ask("shop.example.org", &listed.pem).await,
        tls_failure("certificate is for other names than shop.example.org")
    );
    let other = self_signed(|_| {});
    assert!(
        matches!(ask(NAME, &other.pem).await, Outcome::Failure(cause) if cause.reason == Reason::TlsFailed)
    );

    let expired = self_signed(|params| params.not_after = date_time_ymd(2001, 1, 1));
    let server = serve(server_config(&expired), OK).await;
    let outcome = probe(server.address, Some(NAME), https(Some(verified(&expired.pem)))).await;
    assert_eq!(outcome, tls_failure("certificate expired"));
}

/// A server that presents a certificate without having its key.
#[derive(Debug)]
struct Impostor(Arc<CertifiedKey>);

impl ResolvesServerCert for Impostor {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }
}

#[tokio::test]
async fn a_server_without_the_key_fails_even_unverified() {
    let pki = Pki::new();
    let key = pki.issue(&[NAME], |_| {}).private();
    let key = rustls::crypto::ring::sign::any_supported_type(&key).unwrap();
    let certified = Arc::new(CertifiedKey::new(pki.issue(&[NAME], |_| {}).chain(), key));
    for version in [&TLS12, &TLS13] {
        let config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[version])
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(Impostor(certified.clone())));
        let server = serve(config, OK).await;
        let outcome = probe(server.address, Some(NAME), https(None)).await;
        assert_eq!(outcome, tls_failure("bad signature on the certificate or the handshake"));
    }
}

#[tokio::test]
async fn client_certificates() {
    let (pki, clients) = (Pki::new(), Pki::new());
    let issued = pki.issue(&[NAME], |_| {});
    let client = |pki: &Pki| TlsCheck {
        client: Some(pki.issue(&["probe"], |_| {}).client()),
        verify: false,
        ca: None,
        server_name: None,
    };
    let server = serve(versioned(&issued, &[&TLS13], Some(&clients)), OK).await;
    assert_eq!(probe(server.address, None, https(Some(client(&clients)))).await, Outcome::Success);
    for _ in 0..20 {
        assert_eq!(
            probe(server.address, None, https(None)).await,
            tls_failure("the server requires a client certificate; set tls.clientCertFrom")
        );
        let stranger = probe(server.address, None, https(Some(client(&pki)))).await;
        assert_eq!(stranger, tls_failure("the server refused the client certificate (UnknownCA)"));
    }
    let server = serve(versioned(&issued, &[&TLS12], Some(&clients)), OK).await;
    assert_eq!(probe(server.address, None, https(Some(client(&clients)))).await, Outcome::Success);
    let without = probe(server.address, None, https(None)).await;
    assert_eq!(without.cause().unwrap().reason, Reason::TlsFailed);
}

#[tokio::test]
async fn every_handshake_is_a_full_one() {
    let server = serve(server_config(&Pki::new().issue(&[NAME], |_| {})), OK).await;
    let check = Arc::new(https(None));
    let prepared = Prepared::new(&target(server.address, None, &check), &check, &Contexts::new()).unwrap();
    for _ in 0..3 {
        assert_eq!(prepared.probe(&Phases::start()).await, Outcome::Success);
    }
    assert_eq!(server.resumed.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_server_without_tls() {
    let answering = |answer: &'static str| async move {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let _ = tokio::io::AsyncReadExt::read(&mut stream, &mut [0; 4096]).await;
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        address
    };
    let plain = answering("HTTP/1.1 400 Bad Request\r\n\r\n").await;
    assert_eq!(
        probe(plain, None, https(None)).await,
        tls_failure("the answer is not TLS; for plain HTTP set scheme to HTTP")
    );
    let closing = answering("").await;
    assert_eq!(
        probe(closing, None, https(None)).await,
        Outcome::failure(
            Reason::ConnectionReset,
            "the server closed the connection during the TLS handshake"
        )
    );
}

#[tokio::test]
async fn a_tls_server_asked_in_plain_text() {
    let server = serve(server_config(&Pki::new().issue(&[NAME], |_| {})), OK).await;
    assert_eq!(
        probe(server.address, None, check(json!({}))).await,
        Outcome::failure(Reason::ProtocolError, "the server speaks TLS; set scheme to HTTPS")
    );
}

#[tokio::test]
async fn a_handshake_that_hangs_is_left_to_the_callers_timeout() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let check = Arc::new(https(None));
    let prepared = Prepared::new(&target(address, None, &check), &check, &Contexts::new()).unwrap();
    assert!(timeout(Duration::from_millis(100), prepared.probe(&Phases::start())).await.is_err());
}

#[tokio::test]
async fn redirects_between_the_schemes() {
    let plain = |to: String| async move {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                read_request(&mut stream).await;
                let answer = format!("HTTP/1.1 301 Moved\r\nLocation: {to}\r\n\r\n");
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        address
    };
    let pki = Pki::new();
    let issued = pki.issue(&[NAME], |_| {});
    let secure = serve(server_config(&issued), OK).await;
    let to_secure = plain(format!("https://{NAME}:{}/", secure.address.port())).await;
    let follow = json!({"followRedirects": true, "expectedStatuses": ["200"]});
    assert_eq!(probe(to_secure, Some(NAME), check(follow.clone())).await, Outcome::Success);

    let back = format!("HTTP/1.1 302 Found\r\nLocation: http://{NAME}:{}/\r\n\r\n", to_secure.port());
    let downgrading = serve(server_config(&issued), back).await;
    let mut check = check(json!({"scheme": "HTTPS", "followRedirects": true, "expectedStatuses": ["200"]}));
    assert_eq!(probe(downgrading.address, Some(NAME), check.clone()).await, Outcome::Success);
    check.tls = Some(verified(&pki.pem()));
    assert_eq!(
        probe(downgrading.address, Some(NAME), check).await,
        Outcome::failure(
            Reason::RedirectFailed,
            "status 302 leads to plain HTTP, away from verified TLS, which is not followed"
        )
    );
}

#[test]
fn material_that_cannot_be_used_names_its_field() {
    let pki = Pki::new();
    let (one, two) = (pki.issue(&["a"], |_| {}), pki.issue(&["b"], |_| {}));
    let with_client = |chain: &str, key: &str| TlsCheck {
        client: Some(ClientCertificate { chain: Text::new(chain), key: Text::new(key) }),
        ..verified(&pki.pem())
    };
    let key = one.key.serialize_pem();
    for (tls, message) in [
        (verified(""), "tls.caFrom: holds no PEM certificate"),
        (
            verified("-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n"),
            "tls.caFrom: is not well-formed PEM",
        ),
        (
            verified("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
            "tls.caFrom: holds no certificate that can be used",
        ),
        (with_client("", &key), "tls.clientCertFrom: tls.crt: holds no PEM certificate"),
        (
            with_client(&one.pem, ""),
            "tls.clientCertFrom: tls.key holds no PEM key that is not encrypted (PKCS#8, PKCS#1 or SEC 1)",
        ),
        (
            with_client(&two.pem, &key),
            "tls.clientCertFrom: tls.key is not the key of the first certificate in tls.crt",
        ),
        (
            TlsCheck { server_name: Some("not a name".into()), ..verified(&pki.pem()) },
            "tls.serverName: \"not a name\" is neither a DNS name nor an IP address",
        ),
    ] {
        let cause = Contexts::new().session(&tls, NAME).unwrap_err();
        assert_eq!((cause.reason, &*cause.message), (Reason::Misconfigured, message));
    }
}

#[test]
fn names_that_only_dns_allows() {
    for name in ["my_db.example.org", "_db", "db", "10.0.0.1", "2001:db8::1"] {
        assert!(Contexts::new().session(&verified(&Pki::new().pem()), name).is_ok(), "{name}");
    }
}

#[test]
fn equal_checks_share_a_configuration_while_it_is_used() {
    let contexts = Contexts::new();
    let pki = Pki::new();
    let session = |tls: &TlsCheck| contexts.session(tls, NAME).unwrap();
    let one = session(&verified(&pki.pem()));
    let named = TlsCheck { server_name: Some("other".into()), ..verified(&pki.pem()) };
    assert!(Arc::ptr_eq(&one.config, &session(&named).config));
    assert!(!Arc::ptr_eq(&one.config, &session(&TlsCheck { verify: false, ..named }).config));
    for _ in 0..200 {
        let client = pki.issue(&["probe"], |_| {}).client();
        session(&TlsCheck { client: Some(client), ..verified(&pki.pem()) });
    }
    let kept = contexts.0.configs.lock().unwrap().by_material.len();
    assert!(kept <= 65, "{kept}");
    assert!(Arc::ptr_eq(&one.config, &session(&verified(&pki.pem())).config));
}
