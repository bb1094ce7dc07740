//! `definition → members`: every port × host × address, with the target that is probed for it.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use cep_core::check::{Definition, Host};
use cep_core::target::Target;

/// A place in a cep: one address of one host on one port.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Place {
    pub(super) port: usize,
    pub(super) host: Host,
    pub(super) address: Option<IpAddr>,
    pub(super) target: Option<Target>,
}

/// Places of one cep beyond which a name gives one address only: `check::parse` bounds hosts, not answers.
const MANY: usize = 20_000;

/// Expands a definition; `resolve` gives what is known of a name.
pub(super) fn expand(definition: &Definition, resolve: impl Fn(&Arc<str>) -> Vec<IpAddr>) -> Vec<Place> {
    let mut places = Vec::new();
    for (index, port) in definition.ports.iter().enumerate() {
        for host in &port.hosts {
            let mut addresses = match host {
                Host::Address(address) => vec![*address],
                Host::Name(name) => resolve(name),
            };
            if places.len() >= MANY {
                addresses.truncate(1);
            }
            if addresses.is_empty() {
                places.push(Place { port: index, host: host.clone(), address: None, target: None });
            }
            places.extend(addresses.into_iter().map(|address| Place {
                port: index,
                host: host.clone(),
                address: Some(address),
                target: Target::new(port, host, address, definition.cadence),
            }));
        }
    }
    places
}

/// The names that a definition needs resolved, each once.
pub(super) fn names(definition: &Definition) -> BTreeSet<Arc<str>> {
    let hosts = definition.ports.iter().flat_map(|port| &port.hosts);
    hosts
        .filter_map(|host| match host {
            Host::Name(name) => Some(name.clone()),
            Host::Address(_) => None,
        })
        .collect()
}
