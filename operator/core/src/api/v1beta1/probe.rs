//! How a host is probed.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::schema;

/// A TCP connection as the probe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TcpSocket {
    /// Whether to probe. Default true. With false the hosts of this port are never probed and always
    /// served, as if tcpSocket were absent.
    #[serde(default = "yes")]
    pub enable: bool,
}

impl Default for TcpSocket {
    fn default() -> Self {
        Self { enable: true }
    }
}

/// An HTTP or HTTPS GET request as the probe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HttpGet {
    /// Path to ask for, with the query string if there is one, for example /healthz?full=1. Begins
    /// with /, at most 2048 characters of plain ASCII without spaces (percent-encode the rest).
    /// Default /.
    #[serde(default = "default_path")]
    #[schemars(length(max = 2048), regex(pattern = schema::HTTP_PATH))]
    pub path: String,

    /// HTTP (the default) or HTTPS, in upper or lower case. With HTTPS the certificate of the host is
    /// not verified unless tls is set on this port.
    #[serde(default = "default_scheme")]
    #[schemars(extend("enum" = ["HTTP", "HTTPS", "http", "https"]))]
    pub scheme: String,

    /// What to send in the Host header, for example shop.example.org or shop.example.org:8080, and,
    /// with HTTPS, as the server name unless tls.serverName is set. It does not change where the
    /// request goes: that is always the host being probed. At most 253 characters. Absent or empty:
    /// the host as it is listed in hosts, with the port unless it is the usual one of the scheme.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253), regex(pattern = schema::HTTP_HOST))]
    pub host: Option<String>,

    /// Headers to send besides, at most 64, for example [{name: Authorization, value: Basic ...}]. A
    /// name may come more than once. They are readable for everyone who may read the ClusterEndpoint:
    /// no place for secrets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "atomic"))]
    pub http_headers: Option<Vec<HttpHeader>>,

    /// Statuses that mean healthy: single ones and ranges with both ends included, 1 to 32 of them,
    /// for example ["200", "401", "500-599"]. Default ["200-399"].
    #[serde(default = "default_expected_statuses")]
    #[schemars(
        length(min = 1, max = 32),
        inner(length(max = 7), regex(pattern = schema::HTTP_STATUSES)),
        extend(
            "x-kubernetes-list-type" = "atomic",
            "x-kubernetes-validations" = schema::expected_statuses_rules()
        )
    )]
    pub expected_statuses: Vec<String>,

    /// Text that the body must contain, as it stands (no pattern, upper and lower case differ), at
    /// most 1024 characters. Only the first 10 KiB of the body are looked at. Absent or empty: the
    /// body is not looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub expected_body: Option<String>,

    /// Whether to follow redirects. Default false: a redirect is judged by its own status, and counts
    /// as healthy unless expectedStatuses says otherwise. With true, redirects to the same host are
    /// followed, at most 10 of them; one that leads elsewhere is judged by its own status.
    #[serde(default)]
    pub follow_redirects: bool,
}

impl Default for HttpGet {
    fn default() -> Self {
        Self {
            path: default_path(),
            scheme: default_scheme(),
            host: None,
            http_headers: None,
            expected_statuses: default_expected_statuses(),
            expected_body: None,
            follow_redirects: false,
        }
    }
}

/// A header of an HTTP request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HttpHeader {
    /// Name of the header, for example X-Probe, at most 256 characters.
    #[schemars(length(max = 256), regex(pattern = schema::HTTP_HEADER_NAME))]
    pub name: String,

    /// Value of the header, at most 4096 characters, no line breaks or other control characters.
    #[schemars(length(max = 4096), regex(pattern = schema::HTTP_HEADER_VALUE))]
    pub value: String,
}

/// A UDP datagram as the probe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = schema::udp_socket_rules()))]
pub struct UdpSocket {
    /// Whether to probe. Default true. With false the hosts of this port are never probed and always
    /// served, as if udpSocket were absent.
    #[serde(default = "yes")]
    pub enable: bool,

    /// The datagram to send, byte by byte, at most 1024 of them; each from 0 to 255, or from -128 to
    /// -1 for those who count bytes with a sign. For example [112, 105, 110, 103] for ping. Excludes
    /// text. With neither data nor text an empty datagram is sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(max = 1024),
        inner(range(min = -128, max = 255)),
        extend("x-kubernetes-list-type" = "atomic")
    )]
    pub data: Option<Vec<i32>>,

    /// The datagram to send as text (UTF-8), at most 1024 characters, for example ping. Excludes
    /// data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub text: Option<String>,
}

impl Default for UdpSocket {
    fn default() -> Self {
        Self { enable: true, data: None, text: None }
    }
}

/// A request of the gRPC health checking protocol as the probe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Grpc {
    /// Whether to probe. Default true. With false the hosts of this port are never probed and always
    /// served, as if grpc were absent.
    #[serde(default = "yes")]
    pub enable: bool,

    /// Name of the service to ask about, for example shop.Cart, at most 1024 characters. Absent or
    /// empty: the server as a whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub service: Option<String>,
}

impl Default for Grpc {
    fn default() -> Self {
        Self { enable: true, service: None }
    }
}

/// A WebAssembly module as the probe.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = schema::module_probe_rules()))]
pub struct ModuleProbe {
    /// Name of a module that comes with the operator: udp, grpc, mysql or redis. Exactly one of
    /// module and image must be set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = schema::DNS_LABEL))]
    pub module: Option<String>,

    /// OCI reference of a module, for example ghcr.io/acme/ldap-probe:1.2, with the registry and, if
    /// you want to pin it, a digest (@sha256:...). Without a tag and digest, latest is meant. At most
    /// 1024 characters. Exactly one of module and image must be set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub image: Option<String>,

    /// When to ask the registry for image again: Always (time and again while it is in use),
    /// IfNotPresent (once), or Never (only if the operator has it already). Default: Always for tag
    /// latest or no tag, else IfNotPresent, as for Pods. While the registry does not answer, the
    /// module that was loaded last is used. Needs image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pull_policy: Option<PullPolicy>,

    /// Secrets of type kubernetes.io/dockerconfigjson in the namespace of the ClusterEndpoint with the
    /// credentials for the registry of image, at most 8, tried in turn. Example: [{name: ghcr}]. Needs
    /// image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(max = 8),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"])
    )]
    pub pull_secrets: Option<Vec<LocalObjectReference>>,

    /// Configuration of the module: any object that the module's own JSON Schema allows, for example
    /// {role: master}. A configuration that does not fit is reported in condition ProbesReady, and
    /// counts against no host. It is readable for everyone who may read the ClusterEndpoint: use
    /// configFrom for secrets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::any_object")]
    pub config: Option<Map<String, Value>>,

    /// Further members of config whose values, as text, come out of Secrets and ConfigMaps in the
    /// namespace of the ClusterEndpoint; at most 32, each name once. They win over members of config
    /// with the same name. Example: [{name: password, valueFrom: {secretKeyRef: {name: redis-auth,
    /// key: password}}}].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(max = 32),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"])
    )]
    pub config_from: Option<Vec<ConfigFrom>>,

    /// What one run of the module may use. Defaults and upper bounds are set on the operator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<Limits>,
}

/// When a module is pulled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = schema::without_description)]
pub enum PullPolicy {
    /// Resolve the tag again from time to time.
    Always,
    /// Pull once.
    IfNotPresent,
    /// Use what is in the cache, never pull.
    Never,
}

/// An object in the same namespace, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LocalObjectReference {
    /// Name of the object, in the namespace of the ClusterEndpoint.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// A member of a module's configuration that is kept elsewhere.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConfigFrom {
    /// Name of the member of config to set, for example password. At most 253 characters.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,

    /// Where its value comes from.
    pub value_from: ValueFrom,
}

/// Where a value comes from: exactly one of secretKeyRef and configMapKeyRef.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = schema::value_from_rules()))]
pub struct ValueFrom {
    /// A key of a Secret in the namespace of the ClusterEndpoint. The operator may only read Secrets
    /// when it was installed with leave to do so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_key_ref: Option<KeyRef>,

    /// A key of a ConfigMap in the namespace of the ClusterEndpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map_key_ref: Option<KeyRef>,
}

/// A key of a Secret or ConfigMap.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KeyRef {
    /// Name of the object, in the namespace of the ClusterEndpoint.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,

    /// Key in its data.
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}

/// What one run of a module may use.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Limits {
    /// Memory, as a number of bytes with or without Ki, Mi or Gi, for example 64Mi. A module that
    /// wants more is stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 20), regex(pattern = schema::MEMORY))]
    pub memory: Option<String>,

    /// Computing time of one probe, in ms or s, for example 200ms. Waiting for the network does not
    /// count. A module that computes longer is stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 20), regex(pattern = schema::CPU_TIME))]
    pub cpu: Option<String>,
}

/// TLS of a probe.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = schema::tls_rules()))]
pub struct Tls {
    /// Name to ask for (SNI) and to find in the certificate: a DNS name or an IP address. Absent or
    /// empty: the host as it is listed in hosts (for httpGet: its host, if that is set).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::server_name")]
    pub server_name: Option<String>,

    /// Accept any certificate. Default false. Never sensible where the probe sends a password. Not
    /// together with caFrom.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub insecure_skip_verify: Option<bool>,

    /// Certificates in PEM of the authorities to trust, in place of those that the operator's image
    /// brings along. Example: {configMapKeyRef: {name: db-ca, key: ca.crt}}.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_from: Option<ValueFrom>,

    /// Certificate to show to the host, where it asks for one. Example: {secretRef: {name:
    /// db-client}}.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_cert_from: Option<ClientCertFrom>,
}

/// Where a client certificate comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClientCertFrom {
    /// A Secret of type kubernetes.io/tls (keys tls.crt and tls.key) in the namespace of the
    /// ClusterEndpoint.
    pub secret_ref: LocalObjectReference,
}

fn yes() -> bool {
    true
}

fn default_path() -> String {
    "/".to_owned()
}

fn default_scheme() -> String {
    "HTTP".to_owned()
}

fn default_expected_statuses() -> Vec<String> {
    vec!["200-399".to_owned()]
}
