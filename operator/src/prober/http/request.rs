//! The bytes of a request.

use std::net::IpAddr;

use cep_core::check::{HttpCheck, Scheme};
use cep_core::target::Target;

/// What the probe says of itself, unless the check's own headers do. An empty value in the check
/// leaves the header out, as in the kubelet.
const DEFAULTS: [(&str, &str); 3] = [
    ("User-Agent", concat!("endpoints-operator/", env!("CARGO_PKG_VERSION"))),
    ("Accept", "*/*"),
    ("Connection", "close"),
];

/// The value of the Host header: the check's own Host header, its `host`, or the host as it is listed,
/// the port added unless it is the scheme's own (RFC 9110, sections 4.2.3 and 7.2).
pub(super) fn authority(target: &Target, check: &HttpCheck) -> String {
    let own = check.headers.iter().find(|(name, value)| is_host(name) && !value.is_empty());
    if let Some(host) = own.map(|(_, value)| value).or(check.host.as_ref()) {
        return host.clone();
    }
    let host = match (&target.name, target.address.ip()) {
        (Some(name), _) => name.to_string(),
        (None, IpAddr::V4(v4)) => v4.to_string(),
        (None, IpAddr::V6(v6)) => format!("[{v6}]"),
    };
    match target.address.port() {
        port if port == check.scheme.default_port() => host,
        port => format!("{host}:{port}"),
    }
}

/// The request for one path.
pub(super) fn bytes(check: &HttpCheck, authority: &str, path: &str) -> Box<[u8]> {
    let mut request = format!("GET {path} HTTP/1.1\r\nHost: {authority}\r\n");
    let mut header = |name: &str, value: &str| {
        request.extend([name, ": ", value, "\r\n"]);
    };
    for (name, value) in DEFAULTS {
        if !check.headers.iter().any(|(own, _)| own.eq_ignore_ascii_case(name)) {
            header(name, value);
        }
    }
    for (name, value) in &check.headers {
        let removes = value.is_empty() && DEFAULTS.iter().any(|(other, _)| name.eq_ignore_ascii_case(other));
        if !is_host(name) && !removes {
            header(name, value);
        }
    }
    request.push_str("\r\n");
    request.into_bytes().into()
}

/// The host part of a Host header, as a name to ask for with TLS.
pub(super) fn without_port(host: &str) -> &str {
    if let Some((v6, _)) = host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        return v6;
    }
    match host.split_once(':') {
        // More than one colon: an IPv6 address without brackets.
        Some((name, port)) if !port.contains(':') => name,
        _ => host,
    }
}

fn is_host(name: &str) -> bool {
    name.eq_ignore_ascii_case("host")
}

/// The prefix of an absolute URL.
pub(super) fn origin(scheme: Scheme, authority: &str) -> String {
    match scheme {
        Scheme::Http => format!("http://{authority}"),
        Scheme::Https => format!("https://{authority}"),
    }
}
