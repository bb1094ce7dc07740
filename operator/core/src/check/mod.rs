//! From a spec that may say anything to a definition that can be carried out.
//!
//! [`parse`] checks everything once, whatever admission let through (objects outlive schemas); what
//! it returns needs no further checking by later steps.

mod http;
mod module;
mod parse;
mod references;
#[cfg(test)]
mod tests;

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

pub use http::{BODY_LIMIT, HttpCheck, Redirects, Scheme, Statuses};
pub use parse::{FieldError, Problem, parse};
pub use references::{Absent, Material, Materials, Reference, Wanted, references};

use crate::api::v1beta1::Protocol;
use crate::health::Thresholds;

/// A `ClusterEndpoint` that makes sense.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Definition {
    /// What `clusterIP` asks for.
    pub cluster_ip: ClusterIp,
    /// How often to probe.
    pub cadence: Cadence,
    /// Percentage of healthy hosts of a port below which all its hosts are served; 0 = never.
    pub panic_threshold: u32,
    /// At least one.
    pub ports: Vec<Port>,
}

/// The `clusterIP` of the Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClusterIp {
    /// The API server chooses.
    Allocated,
    /// `None`: a headless Service.
    Headless,
    /// This one.
    Fixed(IpAddr),
}

/// How often a target is probed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cadence {
    /// The period of a target whose outcomes agree with its verdict.
    pub period: Duration,
    /// The period while they do not; at most `period`.
    pub retry: Duration,
}

/// One port of the Service and the hosts behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Unique; absent only when there is one port.
    pub name: Option<String>,
    /// Of the Service.
    pub port: u16,
    /// Of the hosts.
    pub target_port: u16,
    /// As on a Service.
    pub protocol: Protocol,
    /// At least one, each once, in the order of the spec.
    pub hosts: Vec<Host>,
    /// `None`: never probed, always served.
    pub check: Option<Check>,
    /// For a whole probe.
    pub timeout: Duration,
    /// How many consecutive outcomes change a verdict.
    pub thresholds: Thresholds,
}

impl Port {
    /// The name by which people know the port: its name, or its number.
    pub fn label(&self) -> String {
        self.name.clone().unwrap_or_else(|| self.port.to_string())
    }
}

/// What the spec lists: an address in canonical form, or a DNS name in lower case without final dot.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Host {
    /// A literal address.
    Address(IpAddr),
    /// A name to be resolved.
    Name(Arc<str>),
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Host::Address(address) => address.fmt(f),
            Host::Name(name) => f.write_str(name),
        }
    }
}

/// A validated probe definition. Equal checks probe in the same way.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Check {
    /// Open a connection, close it.
    Tcp,
    /// A GET request.
    Http(Arc<HttpCheck>),
    /// A WebAssembly module. [`parse`] refuses these until the module host is part of the operator.
    Module(Arc<ModuleCheck>),
}

impl Check {
    /// The metric label: `tcp`, `http`, `https` or the module's name.
    pub fn kind(&self) -> &'static str {
        match self {
            Check::Tcp => "tcp",
            Check::Http(http) if http.scheme == Scheme::Https => "https",
            Check::Http(_) => "http",
            Check::Module(_) => "module",
        }
    }
}

/// A check that a module carries out: from `probe`, `udpSocket` or `grpc`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ModuleCheck {
    /// Where the module comes from.
    pub artifact: Artifact,
    /// Its configuration as JSON text, secrets merged in.
    pub config: Text,
}

/// Where a module comes from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Artifact {
    /// Shipped with the operator.
    Shipped(String),
    /// An OCI reference.
    Image(String),
}

/// TLS of a probe.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TlsCheck {
    /// The name to ask for (SNI) and to verify; `None`: the host as the spec lists it.
    pub server_name: Option<String>,
    /// Whether the server's certificate is verified.
    pub verify: bool,
    /// PEM certificates to trust instead of the public ones.
    pub ca: Option<Text>,
    /// PEM certificate chain and key to present.
    pub client: Option<ClientCertificate>,
}

/// A client certificate with its key, both PEM.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ClientCertificate {
    /// `tls.crt`.
    pub chain: Text,
    /// `tls.key`.
    pub key: Text,
}

/// Text that may be secret: it has no `Display`, and its `Debug` tells the length only.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Text(Arc<str>);

impl Text {
    /// Wraps a text.
    pub fn new(text: impl Into<Arc<str>>) -> Self {
        Self(text.into())
    }

    /// The text itself, for the one who needs it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Text({} bytes)", self.0.len())
    }
}
