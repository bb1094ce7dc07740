//! `sealyun.com/v1beta1`, kind `ClusterEndpoint`.
//!
//! The doc comments of the fields are what `kubectl explain cep` prints: they are written for people
//! who write a ClusterEndpoint, not for those who read this code. Bounds stand beside the fields,
//! rules between fields in [`schema`].

mod port;
mod probe;
pub mod schema;
mod status;

#[cfg(test)]
mod tests;

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::port::{Protocol, ServicePort};
pub use self::probe::{
    ClientCertFrom, ConfigFrom, Grpc, HttpGet, HttpHeader, KeyRef, Limits, LocalObjectReference, ModuleProbe,
    PullPolicy, TcpSocket, Tls, UdpSocket, ValueFrom,
};
pub use self::status::{ClusterEndpointStatus, Condition, EndpointStatus, Phase};

/// API group.
pub const GROUP: &str = "sealyun.com";
/// API version within [`GROUP`].
pub const VERSION: &str = "v1beta1";
/// `apiVersion` of the objects.
pub const API_VERSION: &str = "sealyun.com/v1beta1";
/// Kind of the objects.
pub const KIND: &str = "ClusterEndpoint";

/// Condition: the spec was read and the object is looked after.
pub const INITIALIZED: &str = "Initialized";
/// Condition: the Service is as the spec wants it.
pub const SYNC_SERVICE_READY: &str = "SyncServiceReady";
/// Condition: the EndpointSlices (and Endpoints) are as spec and verdicts want them.
pub const SYNC_ENDPOINT_READY: &str = "SyncEndpointReady";
/// Condition: every probe can be run: module there, config valid, Secrets found.
pub const PROBES_READY: &str = "ProbesReady";
/// Condition: the summary of all others and of the verdicts.
pub const READY: &str = "Ready";

/// What the Service of this ClusterEndpoint looks like, which hosts stand behind it and how they are
/// probed. Required: ports, and hosts for each of them, either here or in the port.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "sealyun.com",
    version = "v1beta1",
    kind = "ClusterEndpoint",
    plural = "clusterendpoints",
    singular = "clusterendpoint",
    shortname = "cep",
    namespaced,
    status = "ClusterEndpointStatus",
    derive = "PartialEq",
    derive = "Default",
    doc = "A ClusterEndpoint gives hosts outside the cluster (databases, brokers, appliances) a Service with \
           health checks. The operator keeps a Service of the same name and its EndpointSlices, probes every \
           host, and takes a host out of the Service while its probe fails. Traffic goes straight to the \
           hosts: there is no proxy in between.",
    printcolumn = r#"{"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}"#,
    printcolumn = r#"{"name": "Status", "type": "string", "jsonPath": ".status.phase",
        "description": "Healthy, UnHealthy, or Pending while not every host has been judged"}"#,
    printcolumn = r#"{"name": "Ready", "type": "string", "jsonPath": ".status.ready", "priority": 1,
        "description": "endpoints that are served, of all"}"#,
    printcolumn = r#"{"name": "Reason", "type": "string", "priority": 1,
        "jsonPath": ".status.conditions[?(@.type=='Ready')].reason",
        "description": "why the ClusterEndpoint is, or is not, ready"}"#
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = schema::spec_rules()))]
pub struct ClusterEndpointSpec {
    /// Hosts behind every port that has no hosts of its own: IPv4 addresses, IPv6 addresses or DNS
    /// names, mixed as you like, for example [10.0.0.5, "fd00::5", db.example.org]. At most 4096 a
    /// list, and 10000 in all lists of one ClusterEndpoint together. A DNS name is resolved by the
    /// operator, again and again within its TTL, and each of its addresses is probed and served on
    /// its own. A host that is listed twice counts once.
    ///
    /// Loopback, link-local, multicast, broadcast and unspecified addresses are refused by the operator
    /// unless its option --allow-target-cidr covers them: the conditions say so, and the Service stays
    /// as it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::hosts")]
    pub hosts: Option<Vec<String>>,

    /// Cluster IP of the Service: empty (the default) to be given one, None for a headless Service
    /// whose DNS name resolves to the healthy hosts themselves, or a fixed IP address out of the
    /// Service range of the cluster. Cannot be changed later, as on a Service: delete the
    /// ClusterEndpoint and create it anew.
    #[serde(default, rename = "clusterIP")]
    #[schemars(length(max = 45), extend("x-kubernetes-validations" = schema::cluster_ip_rules()))]
    pub cluster_ip: String,

    /// Seconds from the start of one probe of a host to the start of the next. Default 10, from 1 to
    /// 3600. The beat is fixed: a slow probe does not delay the next one, and a probe that still
    /// runs at its next turn is not started twice. Hosts are spread over the period, so that they are
    /// not all probed at once.
    #[serde(default = "default_period_seconds")]
    #[schemars(range(min = 1, max = 3600))]
    pub period_seconds: i32,

    /// Seconds between probes of a host while its verdict is in doubt, that is while the last outcome
    /// disagrees with the verdict (a healthy host has just failed, an unhealthy one has just
    /// answered). From 1 up to periodSeconds; default: periodSeconds. With periodSeconds 10,
    /// retryPeriodSeconds 1 and failureThreshold 3 a dead host is out 2 seconds after its first
    /// failed probe, not 20.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 3600))]
    pub retry_period_seconds: Option<i32>,

    /// Percentage of healthy hosts, 0 to 100, below which the probes are no longer believed: when
    /// fewer of a port's hosts than this are healthy, all its hosts are served, healthy or not, for a
    /// sick host is better than none. Default 0: off, a port whose hosts all fail has no endpoints.
    /// With 50 and four hosts, traffic moves away from the first two that fail; when the third fails,
    /// all four are served again. 100 means as soon as one host fails.
    #[serde(default)]
    #[schemars(range(min = 0, max = 100))]
    pub panic_threshold: i32,

    /// Ports of the Service, 1 to 100, each with its own probe. No two may have the same port and
    /// protocol, and with more than one port each needs a name of its own.
    #[schemars(
        length(min = 1, max = 100),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["port", "protocol"])
    )]
    pub ports: Vec<ServicePort>,
}

impl Default for ClusterEndpointSpec {
    fn default() -> Self {
        Self {
            hosts: None,
            cluster_ip: String::new(),
            period_seconds: default_period_seconds(),
            retry_period_seconds: None,
            panic_threshold: 0,
            ports: Vec::new(),
        }
    }
}

fn default_period_seconds() -> i32 {
    10
}
