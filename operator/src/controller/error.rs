//! What can go wrong in a reconcile, by step.

use std::time::Duration;

use strum::{IntoStaticStr, VariantNames};

/// One variant a step; the variant's name is the label of `reconcile_errors_total`.
#[derive(Debug, thiserror::Error, IntoStaticStr, VariantNames)]
#[strum(serialize_all = "snake_case")]
pub enum Error {
    /// The API server did not let us read something.
    #[error("could not read {what}")]
    Dereference {
        /// Kind and name.
        what: String,
        /// The API server's answer.
        #[source]
        source: ApiError,
    },
    /// A write failed.
    #[error("could not write the {object}")]
    Apply {
        /// Its kind.
        object: &'static str,
        /// The API server's answer.
        #[source]
        source: ApiError,
    },
    /// The status could not be written.
    #[error("could not write the status")]
    Status(#[source] ApiError),
}

/// An answer of the API server, or none.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// It answered with an error, or could not be reached.
    #[error("{}", text(.0))]
    Kube(kube::Error),
    /// It did not answer in time.
    #[error("the API server did not answer within {} s", .0.as_secs())]
    Timeout(Duration),
    /// Nothing was sent, because somebody else may write by now.
    #[error("this process does not lead any more")]
    NotLeading,
}

fn text(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}

/// How long a single request may take. Without a bound, a request into a cut network hangs for minutes.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Runs one request within the bound.
pub(super) async fn request<T>(request: impl Future<Output = kube::Result<T>>) -> Result<T, ApiError> {
    match tokio::time::timeout(REQUEST_TIMEOUT, request).await {
        Ok(answer) => answer.map_err(ApiError::Kube),
        Err(_) => Err(ApiError::Timeout(REQUEST_TIMEOUT)),
    }
}

impl ApiError {
    fn code(&self) -> u16 {
        match self {
            ApiError::Kube(kube::Error::Api(status)) => status.code,
            _ => 0,
        }
    }

    /// Somebody else was faster: they changed or deleted the object, or lead by now. The watches tell.
    pub(super) fn is_lost_race(&self) -> bool {
        matches!(self.code(), 404 | 409) || matches!(self, ApiError::NotLeading)
    }

    pub(super) fn is_not_found(&self) -> bool {
        self.code() == 404
    }

    pub(super) fn is_forbidden(&self) -> bool {
        self.code() == 403 && !self.is_namespace_terminating()
    }

    /// The API server refuses what was sent, and will refuse it again.
    pub(super) fn is_invalid(&self) -> bool {
        matches!(self.code(), 400 | 422)
    }

    /// The API server is out of reach or busy: the same request may well succeed later.
    pub(super) fn is_passing(&self) -> bool {
        match self {
            ApiError::Kube(kube::Error::Api(status)) => status.code == 429 || status.code >= 500,
            ApiError::Kube(_) | ApiError::Timeout(_) | ApiError::NotLeading => true,
        }
    }

    /// Nothing can be created in a namespace that is going away, and nothing needs to be.
    pub(super) fn is_namespace_terminating(&self) -> bool {
        match self {
            ApiError::Kube(kube::Error::Api(status)) if status.code == 403 => {
                let causes = status.details.iter().flat_map(|details| &details.causes);
                causes.into_iter().any(|cause| cause.reason == "NamespaceTerminating")
                    || status.message.contains("because it is being terminated")
            }
            _ => false,
        }
    }

    /// What a server that is busy asks for (429 with Retry-After).
    fn retry_after(&self) -> Option<Duration> {
        match self {
            ApiError::Kube(kube::Error::Api(status)) => {
                let seconds = status.details.as_ref()?.retry_after_seconds;
                (seconds > 0).then(|| Duration::from_secs(u64::from(seconds)))
            }
            _ => None,
        }
    }
}

impl Error {
    /// The metric label.
    pub fn step(&self) -> &'static str {
        self.into()
    }

    pub(super) fn api(&self) -> &ApiError {
        match self {
            Error::Dereference { source, .. } | Error::Apply { source, .. } | Error::Status(source) => source,
        }
    }

    /// When to try again after `failures` in a row: soon, after a lost race at once, at most five seconds
    /// later, unless the API server asks for more patience.
    pub(super) fn retry_in(&self, failures: u32) -> Duration {
        if let Some(asked) = self.api().retry_after() {
            return asked.min(Duration::from_secs(30));
        }
        if self.api().is_lost_race() && failures < 5 {
            return Duration::from_millis(20);
        }
        if self.api().is_invalid() || self.api().is_forbidden() {
            return Duration::from_secs(5);
        }
        (Duration::from_millis(100) * 2u32.saturating_pow(failures.min(8))).min(Duration::from_secs(2))
    }
}
