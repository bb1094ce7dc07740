//! A host outside the cluster: a network namespace on the cluster's bridge.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use anyhow::{Result, ensure};

use crate::netns::Netns;

/// The bridge's own IPv4 address, through which hosts reach ClusterIPs; its network is a /24.
pub(super) const GATEWAY: Ipv4Addr = Ipv4Addr::new(172, 18, 191, 1);
/// The bridge's own IPv6 address; its network is a /64.
pub(super) const GATEWAY6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x172, 0x18, 0x191, 0, 0, 0, 1);

/// A host. Clones are the same host; it is gone when the last one is dropped.
#[derive(Debug, Clone)]
pub struct Host(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    netns: Netns,
    cluster: Netns,
    /// The end of its cable that is plugged into the bridge.
    plug: String,
    ipv4: Ipv4Addr,
    ipv6: Option<Ipv6Addr>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        // A socket that is still open keeps the namespace alive, but its address must be free.
        let _ = self.cluster.ip(&format!("link del {}", self.plug));
    }
}

impl Host {
    pub(super) fn create(cluster: &Netns, number: u32, ipv4: Ipv4Addr, with_ipv6: bool) -> Result<Self> {
        let [a, b, c, last] = ipv4.octets();
        ensure!(
            [a, b, c] == [172, 18, 191] && (2..=253).contains(&last),
            "a host's address is 172.18.191.2 to .253, not {ipv4}"
        );
        let netns = Netns::create()?;
        let plug = format!("v{number}");
        let ipv6 = with_ipv6.then(|| ipv6_of(last));
        let host = Self(Arc::new(Inner { netns, cluster: cluster.clone(), plug, ipv4, ipv6 }));
        let (netns, plug) = (&host.0.netns, &host.0.plug);
        cluster.ip(&format!("link add {plug} type veth peer name eth0 netns {}", netns.name()))?;
        cluster.ip(&format!("link set {plug} master br0 up"))?;
        netns.ip(&format!("addr add {ipv4}/24 dev eth0"))?;
        if let Some(ipv6) = ipv6 {
            // Without duplicate address detection it can be bound to at once.
            netns.ip(&format!("addr add {ipv6}/64 dev eth0 nodad"))?;
        }
        netns.ip("link set eth0 up")?;
        netns.ip(&format!("route add default via {GATEWAY}"))?;
        if ipv6.is_some() {
            netns.ip(&format!("-6 route add default via {GATEWAY6}"))?;
        }
        Ok(host)
    }

    /// Its namespace.
    pub fn netns(&self) -> &Netns {
        &self.0.netns
    }

    /// Its IPv4 address.
    pub fn ip(&self) -> IpAddr {
        self.0.ipv4.into()
    }

    /// Its IPv6 address: 172.18.191.215 also has fd00:172:18:191::215.
    ///
    /// # Panics
    /// In a cluster that was built without IPv6.
    pub fn ipv6(&self) -> IpAddr {
        self.0.ipv6.expect("the cluster was built with ipv6(true)").into()
    }

    /// A port of its IPv4 address.
    pub fn socket(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.ip(), port)
    }

    /// A port of its IPv6 address.
    ///
    /// # Panics
    /// As [`Host::ipv6`].
    pub fn socket6(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.ipv6(), port)
    }

    /// Gives it one more address of the bridge's network.
    ///
    /// # Errors
    /// If it has the address already.
    pub fn add_address(&self, address: IpAddr) -> Result<()> {
        match address {
            IpAddr::V4(address) => self.netns().ip(&format!("addr add {address}/24 dev eth0")),
            IpAddr::V6(address) => self.netns().ip(&format!("addr add {address}/64 dev eth0 nodad")),
        }
    }

    /// Takes an address away again.
    ///
    /// # Errors
    /// If it does not have it.
    pub fn remove_address(&self, address: IpAddr) -> Result<()> {
        let length = if address.is_ipv4() { 24 } else { 64 };
        self.netns().ip(&format!("addr del {address}/{length} dev eth0"))
    }

    /// Pulls its cable: connections time out; up to a minute later, when the neighbours have forgotten its
    /// address, they fail as unreachable after three seconds.
    ///
    /// # Errors
    /// If `ip` fails.
    pub fn cut(&self) -> Result<()> {
        self.0.cluster.ip(&format!("link set {} down", self.0.plug))
    }

    /// Drops every packet silently, as a firewall or a host that has hung does.
    ///
    /// # Errors
    /// If `nft` fails.
    pub fn drop_packets(&self) -> Result<()> {
        self.fault("drop", "drop")
    }

    /// Refuses every packet: TCP with a reset, all else with an ICMP error.
    ///
    /// # Errors
    /// If `nft` fails.
    pub fn refuse(&self) -> Result<()> {
        self.fault("meta l4proto tcp reject with tcp reset; iifname eth0 reject", "accept")
    }

    /// Undoes [`Host::cut`], [`Host::drop_packets`] and [`Host::refuse`].
    ///
    /// # Errors
    /// If `ip` or `nft` fails.
    pub fn restore(&self) -> Result<()> {
        self.netns().nft("add table inet fault\ndelete table inet fault\n")?;
        self.0.cluster.ip(&format!("link set {} up", self.0.plug))
    }

    /// Neighbour discovery is let through, so that IPv6 fails as IPv4 does, whose ARP nftables' inet family
    /// does not see.
    fn fault(&self, input: &str, output: &str) -> Result<()> {
        self.netns().nft(&format!(
            "add table inet fault
delete table inet fault
table inet fault {{
  chain in {{
    type filter hook input priority 0; policy accept;
    icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert }} accept
    iifname eth0 {input}
  }}
  chain out {{
    type filter hook output priority 0; policy accept;
    icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert }} accept
    oifname eth0 {output}
  }}
}}
"
        ))
    }
}

/// fd00:172:18:191::N, with the decimal digits of the IPv4 address's last part.
fn ipv6_of(last: u8) -> Ipv6Addr {
    let digits = u16::from_str_radix(&last.to_string(), 16).unwrap_or_default();
    let mut segments = GATEWAY6.segments();
    segments[7] = digits;
    segments.into()
}

#[cfg(test)]
mod tests {
    #[test]
    fn ipv6_reads_like_ipv4() {
        assert_eq!(super::ipv6_of(215).to_string(), "fd00:172:18:191::215");
    }
}
