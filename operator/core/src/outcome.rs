//! What one probe found out.

use std::borrow::Cow;
use std::fmt;

use strum::{EnumString, IntoStaticStr};

/// The result of one probe of one target.
///
/// Only [`Outcome::Failure`] ever counts against a host. [`Outcome::Unknown`] says that the probe
/// itself could not be carried out (too late, not resolved, misconfigured): it changes no verdict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The target answered as its check expects.
    Success,
    /// The target did not answer, or not as its check expects.
    Failure(Cause),
    /// Nothing was learnt about the target.
    Unknown(Cause),
}

impl Outcome {
    /// A failure with a fixed text.
    pub fn failure(reason: Reason, message: impl Into<Cow<'static, str>>) -> Self {
        Outcome::Failure(Cause::new(reason, message))
    }

    /// An unknown outcome with a fixed text.
    pub fn unknown(reason: Reason, message: impl Into<Cow<'static, str>>) -> Self {
        Outcome::Unknown(Cause::new(reason, message))
    }

    /// The metric label: `success`, `failure` or `unknown`.
    pub fn label(&self) -> &'static str {
        match self {
            Outcome::Success => "success",
            Outcome::Failure(_) => "failure",
            Outcome::Unknown(_) => "unknown",
        }
    }

    /// Why it is not a success.
    pub fn cause(&self) -> Option<&Cause> {
        match self {
            Outcome::Success => None,
            Outcome::Failure(cause) | Outcome::Unknown(cause) => Some(cause),
        }
    }
}

/// Why a probe did not succeed: a reason for machines and one sentence for people.
///
/// Equal causes have equal texts: a message holds no ephemeral port, no body and no secret, so that
/// comparing two of them says whether anything changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// CamelCase word, from a closed set.
    pub reason: Reason,
    /// One sentence without a final stop.
    pub message: Cow<'static, str>,
}

impl Cause {
    /// A cause from its two parts.
    pub fn new(reason: Reason, message: impl Into<Cow<'static, str>>) -> Self {
        Self { reason, message: message.into() }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.reason.as_str(), self.message)
    }
}

/// The closed set of reasons; each is a metric label and a `reason` in status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, IntoStaticStr, EnumString)]
pub enum Reason {
    /// Nothing listens on the port: the host answered with a reset.
    ConnectionRefused,
    /// The peer reset or closed the connection in the middle of the exchange.
    ConnectionReset,
    /// Silence: no answer to the connection attempt within `timeoutSeconds`.
    Timeout,
    /// The host accepts connections, but the answer did not come, or not completely, within
    /// `timeoutSeconds`.
    ResponseTimeout,
    /// A router or the host's own network stack says that the host cannot be reached.
    HostUnreachable,
    /// There is no route to the network of the host.
    NetworkUnreachable,
    /// The TLS handshake failed, or the certificate is not acceptable.
    TlsFailed,
    /// The HTTP status is not among `expectedStatuses`.
    UnexpectedStatus,
    /// The response body does not contain `expectedBody`.
    UnexpectedBody,
    /// The peer does not speak the protocol of the check.
    ProtocolError,
    /// A redirect could not be followed.
    RedirectFailed,
    /// The target says of itself that it is not serving.
    NotServing,
    /// The target policy of the operator forbids this address.
    AddressDenied,
    /// The DNS name has no usable answer.
    NotResolved,
    /// The operator was late by more than a period and cannot judge.
    SchedulerLate,
    /// File descriptors, memory or another resource of the operator ran out.
    ResourceExhausted,
    /// Many unrelated hosts fall silent together: the operator itself may be cut off.
    OperatorBlind,
    /// More hosts fail at once than may be taken out within one period.
    EvictionsCapped,
    /// The probe cannot work as it is configured.
    Misconfigured,
    /// The probe could not decide.
    Undetermined,
    /// Anything else.
    Other,
}

impl Reason {
    /// The word as it stands in status and metrics.
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    /// Parses the word from a status that was written earlier; unknown words become [`Reason::Other`].
    pub fn from_word(word: &str) -> Self {
        word.parse().unwrap_or(Reason::Other)
    }

    /// Whether *nothing came back* from the network. Silence of many hosts at once casts doubt on the
    /// operator's own network; a refusal or a wrong status proves that packets travel both ways.
    pub fn is_silence(self) -> bool {
        matches!(self, Reason::Timeout | Reason::HostUnreachable | Reason::NetworkUnreachable)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
