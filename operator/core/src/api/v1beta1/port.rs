//! A port of the Service with its probe.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::schema;
use super::{Grpc, HttpGet, ModuleProbe, TcpSocket, Tls, UdpSocket};

/// One port of the Service: where it leads and how the hosts behind it are probed.
///
/// At most one of tcpSocket, httpGet, udpSocket, grpc and probe may be set. With none of them the hosts
/// of this port are never probed and always served.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = schema::port_rules()))]
pub struct ServicePort {
    /// Name of this port in the Service, for example https: lower-case letters, digits and -, at most
    /// 63 characters, unique in the ClusterEndpoint. Required when there is more than one port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = schema::DNS_LABEL))]
    pub name: Option<String>,

    /// Port of the Service, the one that clients in the cluster connect to. 1 to 65535.
    #[schemars(range(min = 1, max = 65535))]
    pub port: i32,

    /// Port of the hosts, the one that is probed and that traffic is sent to. 1 to 65535; default:
    /// the same as port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub target_port: Option<i32>,

    /// Transport protocol of this port in the Service: TCP (the default), UDP or SCTP. It does not
    /// choose the probe: a UDP port may well be probed by a tcpSocket or httpGet on the same port
    /// number. SCTP has no probe of its own.
    #[serde(default)]
    pub protocol: Protocol,

    /// Hosts of this port alone, in place of spec.hosts (not in addition to it). Same form and limits
    /// as spec.hosts. Absent or empty: spec.hosts is used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::hosts")]
    pub hosts: Option<Vec<String>>,

    /// Seconds that a whole probe may take, from opening the connection to the last byte that is
    /// needed; looking up DNS names is not counted. Default 1, from 1 up to periodSeconds. A probe
    /// that is not done by then has failed.
    #[serde(default = "default_timeout_seconds")]
    #[schemars(range(min = 1, max = 3600))]
    pub timeout_seconds: i32,

    /// How many successes in a row, one a period, an unhealthy host needs before it is served again.
    /// Default 1, from 1 to 100. One failure in between starts the count anew. The very first outcome
    /// of a host decides at once, whatever the thresholds. An outcome that says nothing about the
    /// host (a probe module that cannot be loaded, say) neither counts nor starts the count anew.
    #[serde(default = "default_success_threshold")]
    #[schemars(range(min = 1, max = 100))]
    pub success_threshold: i32,

    /// How many failures in a row, one a period, take a healthy host out of the Service. Default 3,
    /// from 1 to 100. One success in between starts the count anew. With periodSeconds 10 and the
    /// default of 3 a host that dies is out 20 to 30 seconds later (plus timeoutSeconds when it does
    /// not even refuse connections); retryPeriodSeconds makes that faster without probing healthy
    /// hosts more often.
    #[serde(default = "default_failure_threshold")]
    #[schemars(range(min = 1, max = 100))]
    pub failure_threshold: i32,

    /// Probe by opening a TCP connection to targetPort: healthy when the host accepts it. Nothing is
    /// sent, and the connection is closed at once. Example: tcpSocket: {enable: true}.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp_socket: Option<TcpSocket>,

    /// Probe by an HTTP or HTTPS GET request to targetPort: healthy when the status (and, if asked
    /// for, the body) of the answer is an expected one. Example: httpGet: {path: /healthz}. With
    /// scheme HTTPS the certificate is not verified unless tls is set on this port, as the kubelet
    /// does it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http_get: Option<HttpGet>,

    /// Probe by sending one UDP datagram to targetPort: healthy when any datagram comes back within
    /// timeoutSeconds. Needs protocol: UDP. Example: udpSocket: {text: ping}. A short form of probe:
    /// {module: udp}, which can also check the reply.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub udp_socket: Option<UdpSocket>,

    /// Probe by the gRPC health checking protocol (grpc.health.v1.Health/Check) on targetPort:
    /// healthy when the answer is SERVING. In plain text unless tls is set on this port. Example:
    /// grpc: {service: shop.Cart}. A short form of probe: {module: grpc}.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grpc: Option<Grpc>,

    /// Probe by a WebAssembly module: one that comes with the operator (module), or any other out of
    /// an OCI registry (image). Example: probe: {module: redis, config: {role: master}}.
    ///
    /// When the module cannot be loaded, is misconfigured or crashes, that says nothing about the
    /// host: its verdict stays what it was, and condition ProbesReady says what to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probe: Option<ModuleProbe>,

    /// TLS of the probe. Allowed with httpGet of scheme HTTPS, grpc, and probe. It only concerns
    /// probing: the traffic of clients is never touched. Example: tls: {serverName: db.example.org,
    /// caFrom: {configMapKeyRef: {name: db-ca, key: ca.crt}}}.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
}

impl Default for ServicePort {
    fn default() -> Self {
        Self {
            name: None,
            port: 0,
            target_port: None,
            protocol: Protocol::default(),
            hosts: None,
            timeout_seconds: default_timeout_seconds(),
            success_threshold: default_success_threshold(),
            failure_threshold: default_failure_threshold(),
            tcp_socket: None,
            http_get: None,
            udp_socket: None,
            grpc: None,
            probe: None,
            tls: None,
        }
    }
}

fn default_timeout_seconds() -> i32 {
    1
}

fn default_success_threshold() -> i32 {
    1
}

fn default_failure_threshold() -> i32 {
    3
}

/// Transport protocol of a port.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    /// TCP
    #[default]
    Tcp,
    /// UDP
    Udp,
    /// SCTP
    Sctp,
}

impl Protocol {
    /// The name that Kubernetes uses: `TCP`, `UDP` or `SCTP`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
