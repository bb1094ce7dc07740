//! Which addresses may be probed and served.
//!
//! A `ClusterEndpoint` can be written by anyone who may write one in a namespace, and the operator
//! connects to what it names. Addresses that mean "this machine" or "this link" are therefore
//! refused: loopback, link-local (cloud metadata services live there), unspecified, multicast and
//! broadcast. The API server refuses most of them in EndpointSlices as well.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

/// The operator's rule for target addresses. Deny wins over allow, allow over the built-in list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AddressPolicy {
    /// Ranges that are allowed although the built-in list refuses them (`--allow-target-cidr`).
    pub allow: Vec<IpNet>,
    /// Ranges that are refused whatever else is said (`--deny-target-cidr`, the API server's address).
    pub deny: Vec<IpNet>,
}

/// Why an address is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// In a range of `--deny-target-cidr`, or the API server's own address.
    ByOperator,
    /// 127.0.0.0/8 or ::1.
    Loopback,
    /// 169.254.0.0/16 or fe80::/10.
    LinkLocal,
    /// 0.0.0.0/8 or ::.
    Unspecified,
    /// 224.0.0.0/4 or ff00::/8.
    Multicast,
    /// 255.255.255.255 and 240.0.0.0/4.
    Broadcast,
}

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Denied::ByOperator => {
                "is the API server's own or in a range that the operator's --deny-target-cidr refuses"
            }
            Denied::Loopback => "is a loopback address",
            Denied::LinkLocal => "is a link-local address",
            Denied::Unspecified => "is an unspecified address",
            Denied::Multicast => "is a multicast address",
            Denied::Broadcast => "is a broadcast or reserved address",
        })
    }
}

impl AddressPolicy {
    /// Checks one address; IPv4-mapped IPv6 addresses are judged as the IPv4 address they stand for.
    ///
    /// # Errors
    /// The rule that refuses the address.
    pub fn permit(&self, address: IpAddr) -> Result<(), Denied> {
        let address = address.to_canonical();
        let embedded = match address {
            IpAddr::V6(v6) => embedded_v4(v6).map(IpAddr::V4),
            IpAddr::V4(_) => None,
        };
        let denied = |address: IpAddr| self.deny.iter().any(|net| net.contains(&address));
        if denied(address) || embedded.is_some_and(denied) {
            return Err(Denied::ByOperator);
        }
        if let Some(v4) = embedded {
            // The way leads to the IPv4 address, so that one must be allowed.
            return self.permit(v4);
        }
        if self.allow.iter().any(|net| net.contains(&address)) {
            return Ok(());
        }
        match built_in(address) {
            Some(denied) => Err(denied),
            None => Ok(()),
        }
    }
}

fn built_in(address: IpAddr) -> Option<Denied> {
    match address {
        IpAddr::V4(v4) => {
            let first = v4.octets()[0];
            match () {
                () if first == 0 => Some(Denied::Unspecified),
                () if v4.is_loopback() => Some(Denied::Loopback),
                () if v4.is_link_local() => Some(Denied::LinkLocal),
                () if v4.is_multicast() => Some(Denied::Multicast),
                () if first >= 240 => Some(Denied::Broadcast),
                () => None,
            }
        }
        IpAddr::V6(v6) => match () {
            () if v6.is_unspecified() => Some(Denied::Unspecified),
            () if v6.is_loopback() => Some(Denied::Loopback),
            () if v6.is_unicast_link_local() => Some(Denied::LinkLocal),
            () if v6.is_multicast() => Some(Denied::Multicast),
            () => None,
        },
    }
}

/// The IPv4 address that an IPv6 address leads to: IPv4-compatible (::a.b.c.d), NAT64 (64:ff9b::/96 and
/// 64:ff9b:1::/48, RFC 6052 and RFC 8215), 6to4 (2002::/16, RFC 3056).
fn embedded_v4(v6: std::net::Ipv6Addr) -> Option<std::net::Ipv4Addr> {
    let s = v6.segments();
    let v4 = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        Some(std::net::Ipv4Addr::new(a, b, c, d))
    };
    match s {
        // :: and ::1 are no IPv4 addresses.
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => None,
        [0, 0, 0, 0, 0, 0, high, low]
        | [0x64, 0xff9b, 0, 0, 0, 0, high, low]
        | [0x64, 0xff9b, 1, _, _, _, high, low]
        | [0x2002, high, low, ..] => v4(high, low),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn denied(policy: &AddressPolicy, address: &str) -> Option<Denied> {
        policy.permit(address.parse().unwrap()).err()
    }

    #[test]
    fn built_in_list() {
        let policy = AddressPolicy::default();
        for (address, expected) in [
            ("10.1.2.3", None),
            ("172.18.191.215", None),
            ("8.8.8.8", None),
            ("2001:db8::1", None),
            ("fd00::1", None),
            ("64:ff9b::8.8.8.8", None),
            ("127.0.0.1", Some(Denied::Loopback)),
            ("127.255.0.1", Some(Denied::Loopback)),
            ("169.254.169.254", Some(Denied::LinkLocal)),
            ("0.0.0.0", Some(Denied::Unspecified)),
            ("0.1.2.3", Some(Denied::Unspecified)),
            ("224.0.0.1", Some(Denied::Multicast)),
            ("255.255.255.255", Some(Denied::Broadcast)),
            ("240.0.0.1", Some(Denied::Broadcast)),
            ("::", Some(Denied::Unspecified)),
            ("::1", Some(Denied::Loopback)),
            ("fe80::1", Some(Denied::LinkLocal)),
            ("ff02::1", Some(Denied::Multicast)),
            ("::ffff:127.0.0.1", Some(Denied::Loopback)),
            ("::ffff:169.254.169.254", Some(Denied::LinkLocal)),
            ("64:ff9b::169.254.169.254", Some(Denied::LinkLocal)),
            ("::127.0.0.1", Some(Denied::Loopback)),
        ] {
            assert_eq!(denied(&policy, address), expected, "{address}");
        }
    }

    #[test]
    fn flags_change_it_and_deny_wins() {
        let policy = AddressPolicy {
            allow: vec!["127.0.0.0/8".parse().unwrap()],
            deny: vec!["127.0.0.2/32".parse().unwrap(), "10.0.0.0/8".parse().unwrap()],
        };
        assert_eq!(denied(&policy, "127.0.0.1"), None);
        assert_eq!(denied(&policy, "127.0.0.2"), Some(Denied::ByOperator));
        assert_eq!(denied(&policy, "10.9.9.9"), Some(Denied::ByOperator));
        assert_eq!(denied(&policy, "::ffff:10.9.9.9"), Some(Denied::ByOperator));
        assert_eq!(denied(&policy, "::1"), Some(Denied::Loopback));
    }

    #[test]
    fn ways_that_lead_to_an_ipv4_address_are_judged_by_it() {
        let policy =
            AddressPolicy { allow: vec!["::/0".parse().unwrap()], deny: vec!["10.0.0.0/8".parse().unwrap()] };
        for address in ["64:ff9b::10.0.0.1", "64:ff9b:1::10.0.0.1", "2002:a00:1::1", "::10.0.0.1"] {
            assert_eq!(denied(&policy, address), Some(Denied::ByOperator), "{address}");
        }
        assert_eq!(denied(&policy, "64:ff9b::169.254.169.254"), Some(Denied::LinkLocal));
        assert_eq!(denied(&policy, "2002:7f00:1::"), Some(Denied::Loopback));
        assert_eq!(denied(&policy, "2002:808:808::1"), None);
    }
}
