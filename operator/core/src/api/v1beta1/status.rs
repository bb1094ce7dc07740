//! What the operator reports.

use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What the operator found and did. Written by the operator alone, and only when something changed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClusterEndpointStatus {
    /// metadata.generation of the spec that this status is about. Smaller than metadata.generation:
    /// the last change of the spec has not been worked off yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// Summary in a word. Healthy: every host that is probed is healthy. UnHealthy: at least one is
    /// not, or the spec cannot be applied; the conditions say which. Pending: not all hosts have been
    /// judged yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,

    /// Endpoints that are served, of all, for example 5/6. An endpoint is an address and a port: two
    /// hosts behind three ports make 6, and a DNS name counts as often as it has addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready: Option<String>,

    /// The same in detail, one a type: Initialized (the spec was read), SyncServiceReady (the Service
    /// is as the spec wants it), SyncEndpointReady (so are its EndpointSlices), ProbesReady (every
    /// probe can be run), and Ready, which sums up the others and the health of the hosts. Use
    /// kubectl wait --for=condition=Ready cep/NAME.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(max = 16),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"])
    )]
    pub conditions: Option<Vec<Condition>>,

    /// The endpoints with their verdicts, those that are not healthy first, at most 64. When there
    /// are more, ready still counts all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "atomic"))]
    pub endpoints: Option<Vec<EndpointStatus>>,
}

/// Summary of a ClusterEndpoint in a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = super::schema::without_description)]
pub enum Phase {
    /// Not every target has been judged yet.
    Pending,
    /// Every probed target is healthy.
    Healthy,
    /// A target is not healthy, or the spec cannot be applied. The spelling is part of the API.
    UnHealthy,
}

impl Phase {
    /// The name as it stands in `status.phase`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Healthy => "Healthy",
            Self::UnHealthy => "UnHealthy",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One aspect of the state of a ClusterEndpoint.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// Which aspect: Initialized, SyncServiceReady, SyncEndpointReady, ProbesReady or Ready.
    #[serde(rename = "type")]
    #[schemars(length(max = 316))]
    pub type_: String,

    /// True, False, or Unknown.
    #[schemars(extend("enum" = ["True", "False", "Unknown"]))]
    pub status: String,

    /// Why, in one CamelCase word that programs can rely on, for example ServiceHasSelector.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub reason: Option<String>,

    /// Why, and what to do about it, in a sentence for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32768))]
    pub message: Option<String>,

    /// metadata.generation of the spec that this condition is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// When anything in this condition was last changed. The operator does not touch it while nothing
    /// changes, so an old time here is not a sign of a dead operator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_heartbeat_time: Option<Time>,

    /// When status last became another one (True to False, say).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_transition_time: Option<Time>,
}

/// What is known of one endpoint: an address behind a port.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EndpointStatus {
    /// Port of the Service (not of the host).
    pub port: i32,

    /// The host as the spec lists it.
    pub host: String,

    /// IP address that was probed: of a DNS name, one of the addresses it resolves to. Absent while
    /// the name has not been resolved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,

    /// Healthy, Unhealthy, or Unknown (not judged yet).
    pub verdict: String,

    /// Since when the verdict is what it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Time>,

    /// What the last probe that disagreed with Healthy found, in one CamelCase word, for example
    /// ConnectionRefused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,

    /// The same in a sentence for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}
