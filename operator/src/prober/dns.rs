//! Names to addresses.
//!
//! The operator resolves the hosts of its targets itself and keeps each answer for as long as its TTL
//! says, within bounds. Nothing is cached here: who asks keeps the answer.

use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use cep_core::outcome::{Cause, Reason};
use hickory_resolver::config::{
    ConnectionConfig, NameServerConfig, ProtocolConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError, NoRecords};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{Name, RecordType};
use hickory_resolver::{TokioResolver, system_conf};
use tokio::time::timeout;

/// An answer is kept at least this long, whatever its TTL: a TTL of 0 is no reason to ask before
/// every probe.
pub const SHORTEST: Duration = Duration::from_secs(5);
/// And at most this long: a host that moves must not be looked for in its old place all day.
pub const LONGEST: Duration = Duration::from_secs(300);
/// After an answer that lacks a family because the name server failed on it.
const INCOMPLETE: Duration = Duration::from_secs(30);

/// For one try with all name servers.
const TRY: Duration = Duration::from_millis(1500);
/// For a whole resolution.
const OVERALL: Duration = Duration::from_secs(4);

/// Asks the name servers. Cheap to clone.
#[derive(Clone)]
pub struct Resolver(TokioResolver);

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolver").finish_non_exhaustive()
    }
}

/// The addresses of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// At least one, canonical, sorted, each once.
    pub addresses: Vec<IpAddr>,
    /// When to ask again.
    pub valid_for: Duration,
    /// The family on which the name servers failed while they answered for the other one. What was
    /// known of it may still be right.
    pub unanswered: Option<Family>,
}

/// IPv4 or IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// A records.
    V4,
    /// AAAA records.
    V6,
}

/// Why there is no resolver.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The system's configuration cannot be read.
    #[error("cannot read the DNS configuration in /etc/resolv.conf")]
    System(#[source] NetError),
    /// There is no usable configuration.
    #[error("cannot set up DNS")]
    Setup(#[source] NetError),
}

/// Why a family has no records.
enum Missing {
    /// There is no such name.
    Name,
    /// The name has none of this type.
    Records,
    /// The name servers could not say.
    Failed(Cause),
}

impl Resolver {
    /// With the given name servers; with those of the system, and its hosts file, if there are none.
    ///
    /// # Errors
    /// The system's configuration cannot be read.
    pub fn new(nameservers: &[SocketAddr]) -> Result<Self, SetupError> {
        let (config, mut options) = if nameservers.is_empty() {
            system_conf::read_system_conf().map_err(SetupError::System)?
        } else {
            let servers = nameservers.iter().map(|address| name_server(*address)).collect();
            let mut options = ResolverOpts::default();
            options.use_hosts_file = ResolveHosts::Never;
            (ResolverConfig::from_name_servers(servers), options)
        };
        options.cache_size = 0;
        options.timeout = TRY;
        options.attempts = 1;
        options.preserve_intermediates = true;
        TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
            .with_options(options)
            .build()
            .map(Self)
            .map_err(SetupError::Setup)
    }

    /// All addresses of a name, which is taken as fully qualified: no search list is tried.
    ///
    /// If one family fails and the other does not, the answer is the other one.
    ///
    /// # Errors
    /// [`Reason::NotResolved`], and whether it is the name or the name servers.
    pub async fn resolve(&self, name: &str) -> Result<Answer, Cause> {
        let mut fqdn = Name::from_ascii(name).map_err(|_| not_resolved("the host is not a DNS name"))?;
        fqdn.set_fqdn(true);
        let (v4, v6) =
            tokio::join!(self.records(&fqdn, RecordType::A), self.records(&fqdn, RecordType::AAAA));
        let unanswered = match (&v4, &v6) {
            (Err(Missing::Failed(_)), Ok(_)) => Some(Family::V4),
            (Ok(_), Err(Missing::Failed(_))) => Some(Family::V6),
            _ => None,
        };
        let (mut addresses, ttl) = match (v4, v6) {
            (Ok((mut v4, a)), Ok((v6, b))) => {
                v4.extend(v6);
                (v4, a.min(b))
            }
            (Ok(records), Err(_)) | (Err(_), Ok(records)) => records,
            (Err(Missing::Name), _) | (_, Err(Missing::Name)) => {
                return Err(not_resolved("the name does not exist (NXDOMAIN)"));
            }
            (Err(Missing::Failed(cause)), _) | (_, Err(Missing::Failed(cause))) => return Err(cause),
            (Err(Missing::Records), Err(Missing::Records)) => {
                return Err(not_resolved("the name has no addresses (no A or AAAA record)"));
            }
        };
        addresses.sort_unstable();
        addresses.dedup();
        let longest = if unanswered.is_some() { INCOMPLETE } else { LONGEST };
        Ok(Answer { addresses, valid_for: ttl.clamp(SHORTEST, longest), unanswered })
    }

    async fn records(&self, name: &Name, kind: RecordType) -> Result<(Vec<IpAddr>, Duration), Missing> {
        match timeout(OVERALL, self.0.lookup(name.clone(), kind)).await {
            Ok(Ok(lookup)) => addresses(&lookup).ok_or(Missing::Records),
            Ok(Err(error)) => Err(missing(&error)),
            Err(_) => Err(missing(&NetError::Timeout)),
        }
    }
}

fn name_server(address: SocketAddr) -> NameServerConfig {
    let connection = |protocol| {
        let mut connection = ConnectionConfig::new(protocol);
        connection.port = address.port();
        connection
    };
    let connections = vec![connection(ProtocolConfig::Udp), connection(ProtocolConfig::Tcp)];
    NameServerConfig::new(address.ip(), true, connections)
}

/// The addresses, and the shortest TTL of all records that led to them; `None` if there are none.
fn addresses(lookup: &Lookup) -> Option<(Vec<IpAddr>, Duration)> {
    let records = lookup.answers();
    let addresses: Vec<_> =
        records.iter().filter_map(|record| record.data.ip_addr()).map(|ip| ip.to_canonical()).collect();
    let ttl = records.iter().map(|record| record.ttl).min()?;
    (!addresses.is_empty()).then(|| (addresses, Duration::from_secs(ttl.into())))
}

fn missing(error: &NetError) -> Missing {
    Missing::Failed(match error {
        NetError::Dns(DnsError::NoRecordsFound(NoRecords { response_code, .. })) => {
            return match response_code {
                ResponseCode::NXDomain => Missing::Name,
                _ => Missing::Records,
            };
        }
        NetError::Dns(DnsError::ResponseCode(ResponseCode::ServFail)) => {
            not_resolved("the name server failed (SERVFAIL)")
        }
        NetError::Dns(DnsError::ResponseCode(ResponseCode::Refused)) => {
            not_resolved("the name server refused to answer (REFUSED)")
        }
        NetError::Dns(DnsError::ResponseCode(code)) => {
            not_resolved(format!("the name server failed ({})", code.to_str()))
        }
        NetError::Timeout => not_resolved("no name server answered in time"),
        NetError::Io(_) | NetError::NoConnections => not_resolved("no name server can be reached"),
        _ => not_resolved("the name server's answer makes no sense"),
    })
}

fn not_resolved(message: impl Into<Cow<'static, str>>) -> Cause {
    Cause::new(Reason::NotResolved, message)
}

#[cfg(test)]
mod tests;
