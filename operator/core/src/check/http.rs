//! A validated `httpGet`.

use crate::api::v1beta1::HttpGet;

use super::TlsCheck;
use super::parse::Errors;

/// An HTTP check. What depends on the host (Host header, SNI) is filled in per target.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HttpCheck {
    /// Plain or TLS.
    pub scheme: Scheme,
    /// Path and query, beginning with `/`.
    pub path: String,
    /// The Host header; `None`: the host as the spec lists it, with the port if it is not the scheme's own.
    pub host: Option<String>,
    /// Further headers, in order; names may repeat.
    pub headers: Vec<(String, String)>,
    /// What counts as success.
    pub statuses: Statuses,
    /// A text that the first 10 KiB of the body must contain.
    pub body: Option<String>,
    /// What to do with a redirect.
    pub redirects: Redirects,
    /// For [`Scheme::Https`].
    pub tls: Option<TlsCheck>,
}

/// `http` or `https`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// In the clear.
    Http,
    /// Over TLS.
    Https,
}

impl Scheme {
    /// The port that a Host header leaves out.
    pub fn default_port(self) -> u16 {
        match self {
            Scheme::Http => 80,
            Scheme::Https => 443,
        }
    }
}

/// What to do with a redirect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Redirects {
    /// Judge the redirect's own status.
    Judge,
    /// Follow up to ten, to the same host only: elsewhere is another target's business.
    Follow,
}

/// Inclusive ranges of status codes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Statuses(Vec<(u16, u16)>);

impl Statuses {
    /// Whether the status is an expected one.
    pub fn contains(&self, status: u16) -> bool {
        self.0.iter().any(|(low, high)| (*low..=*high).contains(&status))
    }
}

impl std::fmt::Display for Statuses {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (i, (low, high)) in self.0.iter().enumerate() {
            let comma = if i == 0 { "" } else { ", " };
            if low == high {
                write!(f, "{comma}{low}")?;
            } else {
                write!(f, "{comma}{low}-{high}")?;
            }
        }
        Ok(())
    }
}

/// The most that is read of a body.
pub const BODY_LIMIT: usize = 10 * 1024;

pub(super) fn check(get: &HttpGet, tls: Option<TlsCheck>, field: &str, errors: &mut Errors) -> HttpCheck {
    let scheme = match get.scheme.as_str() {
        "" | "HTTP" | "http" => Scheme::Http,
        "HTTPS" | "https" => Scheme::Https,
        other => {
            errors.invalid(format!("{field}.scheme"), format!("{other:?} is neither HTTP nor HTTPS"));
            Scheme::Http
        }
    };
    let path = if get.path.is_empty() { "/".to_owned() } else { get.path.clone() };
    if !path.starts_with('/') || path.bytes().any(|b| !b.is_ascii_graphic()) {
        errors.invalid(
            format!("{field}.path"),
            "must begin with / and hold printable ASCII without spaces; percent-encode the rest",
        );
    }
    let host = get.host.clone().filter(|host| !host.is_empty());
    if host.as_ref().is_some_and(|host| host.bytes().any(|b| !b.is_ascii_graphic() || b == b'/')) {
        errors.invalid(format!("{field}.host"), "must be a host name, with a port if need be");
    }
    let mut headers = Vec::new();
    for (i, header) in get.http_headers.iter().flatten().enumerate() {
        let field = format!("{field}.httpHeaders[{i}]");
        if header.name.is_empty() || !header.name.bytes().all(is_token) {
            errors.invalid(format!("{field}.name"), format!("{:?} is not a header name", header.name));
        }
        if header.value.bytes().any(|b| (b < 0x20 && b != b'\t') || b == 0x7f) {
            errors.invalid(format!("{field}.value"), "must not contain control characters");
        }
        headers.push((header.name.clone(), header.value.clone()));
    }
    if get.expected_body.as_ref().is_some_and(|body| body.len() > BODY_LIMIT) {
        errors.invalid(
            format!("{field}.expectedBody"),
            "is longer than the 10 KiB of a body that are looked at",
        );
    }
    HttpCheck {
        scheme,
        path,
        host,
        headers,
        statuses: statuses(&get.expected_statuses, field, errors),
        body: get.expected_body.clone().filter(|body| !body.is_empty()),
        redirects: if get.follow_redirects { Redirects::Follow } else { Redirects::Judge },
        tls: match scheme {
            Scheme::Http => None,
            // As the kubelet does: a probe asks whether the server answers, not who signed it.
            Scheme::Https => {
                let unverified = TlsCheck { server_name: None, verify: false, ca: None, client: None };
                Some(tls.unwrap_or(unverified))
            }
        },
    }
}

/// RFC 9110, section 5.6.2.
fn is_token(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b)
}

fn statuses(texts: &[String], field: &str, errors: &mut Errors) -> Statuses {
    let mut ranges = Vec::new();
    for (i, text) in texts.iter().enumerate() {
        let (low, high) = text.split_once('-').unwrap_or((text, text));
        let digits = |text: &str| text.len() == 3 && text.bytes().all(|b| b.is_ascii_digit());
        let code =
            |text: &str| text.parse::<u16>().ok().filter(|code| digits(text) && (100..600).contains(code));
        match (code(low), code(high)) {
            (Some(low), Some(high)) if low <= high => ranges.push((low, high)),
            _ => errors.invalid(
                format!("{field}.expectedStatuses[{i}]"),
                format!("{text:?} is not a status like \"204\" or a range like \"200-399\""),
            ),
        }
    }
    if texts.is_empty() {
        ranges.push((200, 399));
    }
    Statuses(ranges)
}
