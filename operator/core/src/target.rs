//! What is probed: equal targets are probed once, whoever lists them.

use std::hash::{Hash, Hasher};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use crate::check::{Cadence, Check, Host, Port};

/// One thing that is probed.
///
/// The cadence and the timeout belong to it: what one `ClusterEndpoint` asks for must not make
/// another's verdicts come sooner or its slow answers count as failures. Thresholds do not; they are
/// applied to the shared outcomes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// Where to connect.
    pub address: SocketAddr,
    /// The DNS name under which it was listed, for checks that send it (Host header, SNI).
    pub name: Option<Arc<str>>,
    /// How to probe.
    pub check: Check,
    /// For the whole probe.
    pub timeout: Duration,
    /// How often.
    pub cadence: Cadence,
}

impl Target {
    /// The target of one address of one host of a port; `None` if the port is not probed.
    pub fn new(port: &Port, host: &Host, address: IpAddr, cadence: Cadence) -> Option<Self> {
        let check = port.check.clone()?;
        let name = match (&check, host) {
            (Check::Tcp, _) | (_, Host::Address(_)) => None,
            (_, Host::Name(name)) => Some(name.clone()),
        };
        let address = SocketAddr::new(address, port.target_port);
        Some(Self { address, name, check, timeout: port.timeout, cadence })
    }

    /// A number that spreads targets over their period, the same in every run of the operator.
    pub fn seed(&self) -> u64 {
        let mut hasher = Fnv(0xcbf2_9ce4_8422_2325);
        self.hash(&mut hasher);
        hasher.finish()
    }
}

/// FNV-1a with a finalizer: a hash that is stable from run to run, as std's is not promised to be.
struct Fnv(u64);

impl Hasher for Fnv {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    fn finish(&self) -> u64 {
        // FNV's high bits move little for inputs that differ at the end only; splitmix64 mends that.
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests;
