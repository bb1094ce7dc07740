//! TLS of the built-in probes.
//!
//! Every probe makes a full handshake: sessions are never resumed, since a resumed one would go on
//! succeeding after the certificate expired or its key was lost.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::io::{self, ErrorKind};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use cep_core::check::{ClientCertificate, Text, TlsCheck};
use cep_core::outcome::{Cause, Outcome, Reason};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{AlertDescription, CertificateError, ClientConfig, InconsistentKeys, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::connect;
use verify::{AnyCertificate, ListedCertificates};

mod verify;

/// Makes the TLS configuration of checks, one for all that ask for the same.
///
/// A configuration lives as long as a [`Session`] that uses it.
#[derive(Clone)]
pub struct Contexts(Arc<Shared>);

struct Shared {
    provider: Arc<CryptoProvider>,
    public_roots: OnceLock<Arc<RootCertStore>>,
    configs: Mutex<Configs>,
}

#[derive(Default)]
struct Configs {
    by_material: HashMap<Material, Weak<ClientConfig>>,
    /// The number of entries at which to look for those that nobody uses any more.
    sweep_at: usize,
}

/// All of a [`TlsCheck`] but the server name, which is not part of a configuration.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Material {
    verify: bool,
    ca: Option<Text>,
    client: Option<ClientCertificate>,
}

/// How to speak TLS to one target.
#[derive(Clone)]
pub struct Session {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl fmt::Debug for Contexts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Contexts").finish_non_exhaustive()
    }
}

/// The configuration is left out: it holds a private key.
impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Default for Contexts {
    fn default() -> Self {
        Self::new()
    }
}

impl Contexts {
    /// With nothing in it.
    pub fn new() -> Self {
        Self(Arc::new(Shared {
            // Given explicitly: no process-wide default decides what a probe does.
            provider: Arc::new(rustls::crypto::ring::default_provider()),
            public_roots: OnceLock::new(),
            configs: Mutex::default(),
        }))
    }

    /// The session of a check; `host` is the name or address to ask for when the check has none.
    ///
    /// # Errors
    /// [`Reason::Misconfigured`] and the field that cannot be used.
    pub fn session(&self, check: &TlsCheck, host: &str) -> Result<Session, Cause> {
        let (field, name) = match &check.server_name {
            Some(name) => ("tls.serverName", name.as_str()),
            None => ("the host", host),
        };
        let name = ServerName::try_from(name.to_owned()).map_err(|_| {
            misconfigured(format!("{field}: {name:?} is neither a DNS name nor an IP address"))
        })?;
        Ok(Session { config: self.config(check)?, name })
    }

    fn config(&self, check: &TlsCheck) -> Result<Arc<ClientConfig>, Cause> {
        let material = Material {
            verify: check.verify,
            // Without verification nobody looks at it.
            ca: check.ca.clone().filter(|_| check.verify),
            client: check.client.clone(),
        };
        let mut configs = self.0.configs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(config) = configs.by_material.get(&material).and_then(Weak::upgrade) {
            return Ok(config);
        }
        let config = Arc::new(self.0.build(&material)?);
        if configs.by_material.len() >= configs.sweep_at {
            configs.by_material.retain(|_, config| config.strong_count() > 0);
            configs.sweep_at = 64.max(configs.by_material.len() * 2);
        }
        configs.by_material.insert(material, Arc::downgrade(&config));
        Ok(config)
    }
}

impl Shared {
    fn build(&self, material: &Material) -> Result<ClientConfig, Cause> {
        let builder = ClientConfig::builder_with_provider(self.provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| misconfigured(format!("TLS cannot be set up: {error}")))?
            .dangerous();
        let builder = if material.verify {
            builder.with_custom_certificate_verifier(Arc::new(self.verifier(material.ca.as_ref())?))
        } else {
            let algorithms = self.provider.signature_verification_algorithms;
            builder.with_custom_certificate_verifier(Arc::new(AnyCertificate { algorithms }))
        };
        let mut config = match &material.client {
            None => builder.with_no_client_auth(),
            Some(client) => {
                let (chain, key) = client_certificate(client)?;
                builder.with_client_auth_cert(chain, key).map_err(|error| {
                    misconfigured(match error {
                        rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
                            "tls.clientCertFrom: tls.key is not the key of the first certificate in tls.crt"
                                .into()
                        }
                        other => format!("tls.clientCertFrom: cannot be used: {other}"),
                    })
                })?
            }
        };
        config.resumption = Resumption::disabled();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(config)
    }

    fn verifier(&self, ca: Option<&Text>) -> Result<ListedCertificates, Cause> {
        let (roots, listed) = match ca {
            Some(ca) => {
                let listed = certificates(ca, "tls.caFrom")?;
                let mut roots = RootCertStore::empty();
                let (usable, _) = roots.add_parsable_certificates(listed.iter().cloned());
                if usable == 0 {
                    return Err(misconfigured("tls.caFrom: holds no certificate that can be used"));
                }
                (Arc::new(roots), listed)
            }
            None => (self.public_roots.get_or_init(public_roots).clone(), Vec::new()),
        };
        WebPkiServerVerifier::builder_with_provider(roots, self.provider.clone())
            .build()
            .map(|by_issuer| ListedCertificates { by_issuer, listed })
            .map_err(|error| misconfigured(format!("tls.caFrom: cannot be used: {error}")))
    }
}

/// The roots that this machine trusts, or Mozilla's if it has none, as in an image without them.
fn public_roots() -> Arc<RootCertStore> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    Arc::new(roots)
}

fn certificates(pem: &Text, field: &str) -> Result<Vec<CertificateDer<'static>>, Cause> {
    let certificates = CertificateDer::pem_slice_iter(pem.reveal().as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| misconfigured(format!("{field}: is not well-formed PEM")))?;
    if certificates.is_empty() {
        return Err(misconfigured(format!("{field}: holds no PEM certificate")));
    }
    Ok(certificates)
}

type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn client_certificate(client: &ClientCertificate) -> Result<Identity, Cause> {
    let chain = certificates(&client.chain, "tls.clientCertFrom: tls.crt")?;
    let key = PrivateKeyDer::from_pem_slice(client.key.reveal().as_bytes()).map_err(|_| {
        misconfigured(
            "tls.clientCertFrom: tls.key holds no PEM key that is not encrypted (PKCS#8, PKCS#1 or SEC 1)",
        )
    })?;
    Ok((chain, key))
}

fn misconfigured(message: impl Into<Cow<'static, str>>) -> Cause {
    Cause::new(Reason::Misconfigured, message)
}

impl Session {
    pub(super) async fn handshake(&self, stream: TcpStream) -> Result<TlsStream<TcpStream>, Outcome> {
        let connector = TlsConnector::from(self.config.clone());
        match connector.connect(self.name.clone(), stream).await {
            Ok(stream) => Ok(stream),
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => Err(Outcome::failure(
                Reason::ConnectionReset,
                "the server closed the connection during the TLS handshake",
            )),
            Err(error) => Err(self.judge(&error)),
        }
    }

    /// What an error of the handshake or of the stream says. With TLS 1.3 the server's complaint
    /// about the client's certificate comes with the first read.
    pub(super) fn judge(&self, error: &io::Error) -> Outcome {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(error) => Outcome::Failure(Cause::new(Reason::TlsFailed, self.complaint(error))),
            None => connect::judge(error),
        }
    }

    fn complaint(&self, error: &rustls::Error) -> Cow<'static, str> {
        use rustls::Error;
        match error {
            Error::InvalidCertificate(error) => self.about_certificate(error),
            Error::AlertReceived(alert) => self.about_alert(*alert),
            Error::InvalidMessage(_) => "the answer is not TLS; for plain HTTP set scheme to HTTP".into(),
            Error::PeerIncompatible(_) => {
                "the server and the operator have no TLS version or cipher in common".into()
            }
            Error::NoCertificatesPresented => "the server presents no certificate".into(),
            other => format!("TLS failed: {other}").into(),
        }
    }

    fn about_certificate(&self, error: &CertificateError) -> Cow<'static, str> {
        use CertificateError as E;
        match error {
            E::Expired | E::ExpiredContext { .. } => "certificate expired".into(),
            E::NotValidYet | E::NotValidYetContext { .. } => "certificate is not valid yet".into(),
            E::NotValidForName | E::NotValidForNameContext { .. } => {
                format!("certificate is for other names than {}", self.name.to_str()).into()
            }
            E::UnknownIssuer => "certificate issuer unknown".into(),
            E::Revoked => "certificate revoked".into(),
            E::BadSignature => "bad signature on the certificate or the handshake".into(),
            E::InvalidPurpose | E::InvalidPurposeContext { .. } => "certificate is not for a server".into(),
            other => format!("certificate not acceptable: {other}").into(),
        }
    }

    fn about_alert(&self, alert: AlertDescription) -> Cow<'static, str> {
        use AlertDescription as A;
        match alert {
            A::CertificateRequired => {
                "the server requires a client certificate; set tls.clientCertFrom".into()
            }
            A::BadCertificate
            | A::UnsupportedCertificate
            | A::CertificateRevoked
            | A::CertificateExpired
            | A::CertificateUnknown
            | A::UnknownCA
            | A::AccessDenied => format!("the server refused the client certificate ({alert:?})").into(),
            A::UnrecognisedName => format!("the server does not know the name {}", self.name.to_str()).into(),
            A::ProtocolVersion => "the server and the operator have no TLS version in common".into(),
            A::NoApplicationProtocol => "the server does not offer HTTP/1.1 over TLS".into(),
            other => format!("the server refused the TLS handshake ({other:?})").into(),
        }
    }
}

#[cfg(test)]
mod tests;
