//! What the prober knows of one `ClusterEndpoint`, at one moment.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use jiff::Timestamp;

use crate::check::{Definition, Host};
use crate::health::Verdict;
use crate::outcome::Cause;

/// Namespace and name of a `ClusterEndpoint`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CepKey {
    /// Namespace.
    pub namespace: Arc<str>,
    /// Name.
    pub name: Arc<str>,
}

impl CepKey {
    /// From its two parts.
    pub fn new(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl std::fmt::Display for CepKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Immutable; published by the prober on every change worth acting on.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// What was probed.
    pub definition: Arc<Definition>,
    /// One entry per port × host × address, in the order of the spec; a host that does not resolve
    /// has one entry without address.
    pub endpoints: Vec<Endpoint>,
    /// Whether the operator doubts its own eyes.
    pub blind: bool,
}

impl Snapshot {
    /// Whether the first lookup of a name is still under way: what would be written now (which
    /// addresses, which families) would be wrong in a moment.
    pub fn is_looking_up(&self) -> bool {
        self.endpoints.iter().any(|endpoint| endpoint.address.is_none() && endpoint.obstacle.is_none())
    }

    /// The endpoints of DNS names that have no address.
    pub fn unresolved(&self) -> impl Iterator<Item = &Endpoint> {
        self.endpoints.iter().filter(|endpoint| endpoint.address.is_none())
    }
}

/// One address of one host, on one port.
#[derive(Clone, Debug, PartialEq)]
pub struct Endpoint {
    /// Index into [`Definition::ports`].
    pub port: usize,
    /// As the spec lists it.
    pub host: Host,
    /// `None` while a DNS name has no answer.
    pub address: Option<IpAddr>,
    /// Of a port that is not probed: always [`Verdict::Healthy`].
    pub verdict: Verdict,
    /// Since when.
    pub since: Timestamp,
    /// Why it is unhealthy, by the probe that decided it.
    pub cause: Option<Cause>,
    /// Why probes learn nothing, once that lasts.
    pub obstacle: Option<Cause>,
}

impl Endpoint {
    /// Whether this endpoint's port is probed at all.
    pub fn is_probed(&self, definition: &Definition) -> bool {
        definition.ports[self.port].check.is_some()
    }
}

/// A verdict found in the world rather than by probing: in the slices of an earlier run, or in
/// Endpoints that somebody made by hand.
#[derive(Clone, Debug, PartialEq)]
pub struct Seed {
    /// Healthy or Unhealthy.
    pub verdict: Verdict,
    /// Since when, if a status says so.
    pub since: Option<Timestamp>,
    /// Why it is unhealthy, if a status says so.
    pub cause: Option<Cause>,
}

/// What was told of an endpoint earlier, by this operator or by another replica.
#[derive(Clone, Debug, PartialEq)]
pub struct Told {
    /// Of the Service.
    pub port: u16,
    /// As the spec lists it.
    pub host: String,
    /// `None` while a DNS name has no answer.
    pub address: Option<IpAddr>,
    /// The verdict that it is about.
    pub verdict: Verdict,
    /// Since when it is in force, in whole seconds.
    pub since: Timestamp,
    /// Why it is unhealthy.
    pub cause: Option<Cause>,
}

impl Told {
    /// Whether it was told of this place.
    pub fn is_of(&self, port: u16, host: &Host, address: Option<IpAddr>) -> bool {
        self.port == port && self.address == address && *self.host == *host.to_string()
    }
}

/// Seeds by place. A restart, a handover and an adoption start from these, so that none of them
/// changes a verdict by itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Seeds {
    by_name: HashMap<(Option<String>, u16, IpAddr), Seed>,
    by_number: HashMap<(u16, IpAddr), Seed>,
    /// What DNS names stood for.
    addresses: HashMap<String, BTreeSet<IpAddr>>,
}

impl Seeds {
    /// Adds what was found for a port (its name in the Service, its number on the host) and address.
    /// When two places disagree, Healthy wins: nobody is taken out without a probe.
    pub fn insert(&mut self, port_name: Option<&str>, target_port: u16, address: IpAddr, seed: Seed) {
        let name = port_name.filter(|name| !name.is_empty()).map(str::to_owned);
        keep_healthier(self.by_name.entry((name, target_port, address)), &seed);
        keep_healthier(self.by_number.entry((target_port, address)), &seed);
    }

    /// What was found for this endpoint; a port that has another name now is found by its number.
    pub fn get(&self, port_name: Option<&str>, target_port: u16, address: IpAddr) -> Option<&Seed> {
        self.by_name
            .get(&(port_name.map(str::to_owned), target_port, address))
            .or_else(|| self.by_number.get(&(target_port, address)))
    }

    /// Replaces what was found, where [`Seeds::get`] finds it.
    pub fn replace(&mut self, port_name: Option<&str>, target_port: u16, address: IpAddr, seed: Seed) {
        let name = (port_name.map(str::to_owned), target_port, address);
        match self.by_name.get_mut(&name) {
            Some(found) => *found = seed,
            None => {
                self.by_number.insert((target_port, address), seed);
            }
        }
    }

    /// Adds addresses that a DNS name stood for.
    pub fn resolve(&mut self, name: &str, addresses: &[IpAddr]) {
        self.addresses.entry(name.to_owned()).or_default().extend(addresses);
    }

    /// What a DNS name stood for, in order; nothing if it is not known.
    pub fn addresses(&self, name: &str) -> Vec<IpAddr> {
        self.addresses.get(name).into_iter().flatten().copied().collect()
    }

    /// Adds what others found, where these say nothing.
    pub fn fall_back_on(&mut self, others: Seeds) {
        for (name, addresses) in others.addresses {
            self.addresses.entry(name).or_insert(addresses);
        }
        for (place, seed) in others.by_name {
            self.by_name.entry(place).or_insert(seed);
        }
        for (place, seed) in others.by_number {
            self.by_number.entry(place).or_insert(seed);
        }
    }

    /// Whether nothing was found.
    pub fn is_empty(&self) -> bool {
        self.by_number.is_empty()
    }
}

fn keep_healthier<K>(entry: std::collections::hash_map::Entry<'_, K, Seed>, seed: &Seed) {
    use std::collections::hash_map::Entry;
    match entry {
        Entry::Vacant(vacant) => {
            vacant.insert(seed.clone());
        }
        Entry::Occupied(mut found) => {
            if found.get().verdict != Verdict::Healthy {
                found.insert(seed.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests;
