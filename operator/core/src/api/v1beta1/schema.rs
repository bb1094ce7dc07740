//! The CustomResourceDefinition, and what the API server refuses by it.
//!
//! Bounds stand beside the fields, rules between fields here. They are written within the cost budget
//! that the API server sets for CEL: sizes are bounded everywhere, and hosts are checked by pattern
//! and format, for any expression over each of 4096 hosts of 100 ports is over it.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps,
};
use kube::CustomResourceExt as _;
use kube::core::{Reason, Rule};
use schemars::{Schema, SchemaGenerator, json_schema};
use serde_json::{Value, json};

use super::ClusterEndpoint;

/// Most hosts in one list.
pub const MAX_HOSTS: usize = 4096;
/// Most hosts in all lists of one object together: what etcd stores in one object sets the bound.
pub const MAX_HOSTS_TOTAL: usize = 10_000;

/// A DNS label (RFC 1123), as the ports of a Service are named.
pub(super) const DNS_LABEL: &str = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$";
/// An IPv4 address without leading zeros, or a DNS name whose last label is no number.
const IPV4_OR_DNS_NAME: &str = concat!(
    r"^((25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])(\.(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])){3}",
    r"|([a-zA-Z0-9_]([-a-zA-Z0-9_]{0,61}[a-zA-Z0-9_])?\.)*[a-zA-Z]([-a-zA-Z0-9]{0,61}[a-zA-Z0-9])?\.?)$",
);
/// Matches nothing. It stands first among the forms of a host, for the API server shows the pattern of
/// the first one: this says more than the pattern of [`IPV4_OR_DNS_NAME`] would.
const HOST_IN_WORDS: &str = "an IPv4 address, an IPv6 address or a DNS name, without scheme and port$^";
pub(super) const HTTP_PATH: &str = r"^/[!-~]*$";
pub(super) const HTTP_HOST: &str = r"^[-a-zA-Z0-9._:\[\]]*$";
/// A token of RFC 9110, section 5.6.2.
pub(super) const HTTP_HEADER_NAME: &str = r"^[-!#$%&'*+.^_`|~0-9A-Za-z]+$";
/// RFC 9110, section 5.5: a tab is the only control character that a value may have.
pub(super) const HTTP_HEADER_VALUE: &str = r"^[^\x00-\x08\x0a-\x1f\x7f]*$";
pub(super) const HTTP_STATUSES: &str = r"^[1-5][0-9]{2}(-[1-5][0-9]{2})?$";
/// `registry/name[:tag][@digest]`, as the OCI distribution specification has it.
const OCI_REFERENCE: &str = concat!(
    r"^[a-zA-Z0-9]([-a-zA-Z0-9._]*[a-zA-Z0-9])?(:[0-9]+)?(/[a-z0-9]+([._-]+[a-z0-9]+)*)+",
    r"(:[A-Za-z0-9_][-A-Za-z0-9_.]{0,127})?(@sha256:[0-9a-f]{64})?$",
);
pub(super) const MEMORY: &str = r"^[1-9][0-9]*(Ki|Mi|Gi)?$";
pub(super) const CPU_TIME: &str = r"^[1-9][0-9]*(ms|s)$";

/// The CustomResourceDefinition of [`ClusterEndpoint`], as it is to be installed.
pub fn crd() -> CustomResourceDefinition {
    let mut crd = ClusterEndpoint::crd();
    for version in &mut crd.spec.versions {
        if let Some(schema) = version.schema.as_mut().and_then(|s| s.open_api_v3_schema.as_mut()) {
            *schema = finish(schema);
        }
    }
    crd
}

/// What the derives cannot say: the rules of the root, and text that reads well in a terminal.
fn finish(derived: &JSONSchemaProps) -> JSONSchemaProps {
    let mut schema = json!(derived);
    schema["x-kubernetes-validations"] = json!(root_rules());
    tidy(&mut schema);
    serde_json::from_value(schema).expect("a schema stays a schema when titles and line breaks go")
}

/// Walks a schema: unwraps the lines of descriptions and drops titles, which repeat Rust names.
fn tidy(schema: &mut Value) {
    let Value::Object(schema) = schema else { return };
    schema.remove("title");
    if let Some(Value::String(text)) = schema.get_mut("description") {
        *text = unwrap_lines(text);
    }
    if let Some(Value::Object(properties)) = schema.get_mut("properties") {
        properties.values_mut().for_each(tidy);
    }
    if let Some(items) = schema.get_mut("items") {
        tidy(items);
    }
}

/// Lines are joined, paragraphs stay apart.
fn unwrap_lines(text: &str) -> String {
    let paragraphs: Vec<String> = text
        .split("\n\n")
        .map(|paragraph| paragraph.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    paragraphs.join("\n\n")
}

/// Rules of the whole object.
///
/// The name is checked on create only: a plain rule at the root is evaluated on every write of status
/// and finalizers too, and would make an older object with such a name impossible to delete.
fn root_rules() -> Vec<Rule> {
    vec![
        Rule::new(
            "oldSelf.hasValue() || self.metadata.name.size() <= 63 && \
             self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
        )
        .optional_old_self(true)
        .message(
            "metadata.name must be usable as the name of a Service: at most 63 characters, lower-case letters, \
             digits and -, beginning with a letter and not ending with -",
        ),
    ]
}

pub(super) fn spec_rules() -> Vec<Rule> {
    vec![
        Rule::new(
            "self.ports.all(p, (has(p.hosts) && p.hosts.size() > 0) || (has(self.hosts) && self.hosts.size() > 0))",
        )
        .message("every port needs at least one host: set spec.hosts, or hosts of each port")
        .field_path(".hosts")
        .reason(Reason::FieldValueRequired),
        Rule::new(format!(
            "(has(self.hosts) ? self.hosts.size() : 0) + \
             self.ports.map(p, has(p.hosts) ? p.hosts.size() : 0).sum() <= {MAX_HOSTS_TOTAL}"
        ))
        .message(format!(
            "spec.hosts and hosts of all ports together must not be more than {MAX_HOSTS_TOTAL}: split the \
             ClusterEndpoint"
        ).as_str())
        .field_path(".hosts"),
        Rule::new("self.ports.size() <= 1 || self.ports.all(p, has(p.name))")
            .message("name of each port is required when there is more than one port")
            .field_path(".ports")
            .reason(Reason::FieldValueRequired),
        Rule::new(
            "self.ports.all(p, !has(p.name) || self.ports.exists_one(q, has(q.name) && q.name == p.name))",
        )
        .message("name of each port must be unique")
        .field_path(".ports"),
        Rule::new("self.ports.all(p, p.timeoutSeconds <= self.periodSeconds)")
            .message("timeoutSeconds of each port must not exceed spec.periodSeconds")
            .field_path(".ports"),
        Rule::new("!has(self.retryPeriodSeconds) || self.retryPeriodSeconds <= self.periodSeconds")
            .message("retryPeriodSeconds must not exceed periodSeconds")
            .field_path(".retryPeriodSeconds"),
    ]
}

pub(super) fn cluster_ip_rules() -> Vec<Rule> {
    vec![
        Rule::new("self == '' || self == 'None' || isIP(self)")
            .message("clusterIP must be empty, None or an IP address"),
        Rule::new("self == oldSelf")
            .message("clusterIP is immutable: delete the ClusterEndpoint and create it anew"),
    ]
}

pub(super) fn port_rules() -> Vec<Rule> {
    vec![
        Rule::new(
            "[has(self.tcpSocket), has(self.httpGet), has(self.udpSocket), has(self.grpc), has(self.probe)]\
             .filter(x, x).size() <= 1",
        )
        .message("at most one of tcpSocket, httpGet, udpSocket, grpc and probe may be set"),
        Rule::new("!has(self.udpSocket) || self.protocol == 'UDP'")
            .message("udpSocket needs protocol: UDP")
            .field_path(".protocol"),
        Rule::new(
            "!has(self.tls) || has(self.grpc) || has(self.probe) || \
             (has(self.httpGet) && self.httpGet.scheme in ['HTTPS', 'https'])",
        )
        .message("tls needs httpGet with scheme: HTTPS, grpc or probe on the same port")
        .field_path(".tls"),
    ]
}

pub(super) fn expected_statuses_rules() -> Vec<Rule> {
    vec![
        Rule::new("self.all(s, s.size() != 7 || s.substring(0, 3) <= s.substring(4, 7))")
            .message("the first status of a range must not be above the last"),
    ]
}

pub(super) fn udp_socket_rules() -> Vec<Rule> {
    vec![Rule::new("!has(self.data) || !has(self.text)").message("data and text exclude each other")]
}

pub(super) fn module_probe_rules() -> Vec<Rule> {
    vec![
        Rule::new("has(self.module) != has(self.image)")
            .message("exactly one of module and image must be set"),
        Rule::new(format!("!has(self.image) || self.image.matches('{OCI_REFERENCE}')"))
            .message(
                "image must be an OCI reference with the registry, without a scheme, such as \
                 ghcr.io/acme/ldap-probe:1.2 or ghcr.io/acme/ldap-probe@sha256:<64 hexadecimal digits>",
            )
            .field_path(".image"),
        Rule::new("has(self.image) || !has(self.pullPolicy)")
            .message("pullPolicy needs image")
            .field_path(".pullPolicy"),
        Rule::new("has(self.image) || !has(self.pullSecrets) || self.pullSecrets.size() == 0")
            .message("pullSecrets needs image")
            .field_path(".pullSecrets"),
    ]
}

pub(super) fn value_from_rules() -> Vec<Rule> {
    vec![
        Rule::new("has(self.secretKeyRef) != has(self.configMapKeyRef)")
            .message("exactly one of secretKeyRef and configMapKeyRef must be set"),
    ]
}

pub(super) fn tls_rules() -> Vec<Rule> {
    vec![
        Rule::new("!has(self.caFrom) || !has(self.insecureSkipVerify) || !self.insecureSkipVerify")
            .message("caFrom and insecureSkipVerify: true exclude each other"),
    ]
}

/// A list of hosts. `atomic` and not `set`: a set triples the stored size by its managed fields.
pub(super) fn hosts(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": MAX_HOSTS,
        "items": {
            "type": "string",
            "minLength": 1,
            "maxLength": 253,
            "anyOf": host_forms(),
        },
        "x-kubernetes-list-type": "atomic",
        "nullable": true,
    })
}

/// A DNS name or an IP address, or nothing.
pub(super) fn server_name(_: &mut SchemaGenerator) -> Schema {
    let mut forms = host_forms();
    forms.push(json!({"pattern": "^$"}));
    json_schema!({
        "type": "string",
        "maxLength": 253,
        "anyOf": forms,
        "nullable": true,
    })
}

/// What a host may be. The `allOf` around the first form counts as one more check that it passes: the
/// API server reports the form with the most of them, the first one if there are several.
fn host_forms() -> Vec<Value> {
    vec![
        json!({"allOf": [{"pattern": HOST_IN_WORDS}]}),
        json!({"pattern": IPV4_OR_DNS_NAME}),
        json!({"format": "ipv6"}),
    ]
}

/// Lets the description of a field stand that would give way to the one of its (optional enum) type.
pub(super) fn without_description(schema: &mut Schema) {
    schema.remove("description");
}

/// An object of which nothing is known here.
pub(super) fn any_object(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "x-kubernetes-preserve-unknown-fields": true,
        "nullable": true,
    })
}
