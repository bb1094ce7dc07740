//! Redirects: followed on the same host, judged by their own status elsewhere.
//!
//! "The same host" is the address being probed under any of its names: the Host header's, the name
//! under which it is listed, or the address itself. Its other ports and the other scheme are fine.
//! A redirect to another host (a sign-in page, say) is that host's business: as in the kubelet it is
//! the last answer, and a failure only if its status is not an expected one. So is a redirect from
//! verified TLS to plain HTTP, for anyone on the way could answer there.

use std::net::SocketAddr;

use cep_core::check::{Redirects, Scheme, TlsCheck};
use cep_core::outcome::{Outcome, Reason};
use url::{Host, Position, Url};

use crate::prober::phases::Phases;

use super::{Answer, Prepared, is_same_address, request};

/// How often.
const MOST: usize = 10;

/// TLS for a check that asked for plain HTTP and is redirected: as for HTTPS without `tls`.
pub(super) static UNVERIFIED: TlsCheck =
    TlsCheck { server_name: None, verify: false, ca: None, client: None };

impl Prepared {
    /// Whether the answer is a redirect that may be followed. Without a location it is an answer like
    /// any other, which real servers give.
    pub(super) fn leads_on(&self, answer: &Answer) -> bool {
        self.check.redirects == Redirects::Follow
            && matches!(answer.status, 301 | 302 | 303 | 307 | 308)
            && answer.location.is_some()
    }

    pub(super) async fn follow(&self, mut answer: Answer, phases: &Phases) -> Outcome {
        let base = request::origin(self.check.scheme, &self.authority) + &self.check.path;
        let Ok(mut url) = Url::parse(&base) else {
            return failed("the Host header cannot be part of a URL, so no redirect can be followed");
        };
        let first = url.clone();
        for _ in 0..MOST {
            let Ok(next) = url.join(answer.location.as_deref().unwrap_or_default()) else {
                return failed("the location of the redirect is not a URL");
            };
            let scheme = match next.scheme() {
                "http" => Scheme::Http,
                "https" => Scheme::Https,
                _ => return self.elsewhere(&answer, "a URL that is neither HTTP nor HTTPS"),
            };
            if !self.is_same_host(&next, &first) {
                // No DNS name is longer, and the message must not be as long as the server likes.
                let host = next.host_str().filter(|host| host.len() <= 253).unwrap_or("unnamed");
                return self.elsewhere(&answer, &format!("another host ({host})"));
            }
            if scheme == Scheme::Http && self.check.tls.as_ref().is_some_and(|tls| tls.verify) {
                return self.elsewhere(&answer, "plain HTTP, away from verified TLS");
            }
            let port = next.port().unwrap_or(scheme.default_port());
            let authority = &next[Position::BeforeHost..Position::AfterPort];
            let path = &next[Position::BeforePath..Position::AfterQuery];
            let request = request::bytes(&self.check, authority, path);
            let to = SocketAddr::new(self.address.ip(), port);
            answer = match self.exchange(scheme, to, &request, phases).await {
                Ok(answer) if self.leads_on(&answer) => answer,
                Ok(answer) => return self.judge(&answer),
                Err(outcome) => return outcome,
            };
            url = next;
        }
        failed("more than 10 redirects")
    }

    fn is_same_host(&self, next: &Url, first: &Url) -> bool {
        let Some(host) = next.host() else { return false };
        let listed = matches!((&host, &self.name), (Host::Domain(a), Some(b)) if a.eq_ignore_ascii_case(b));
        listed || first.host().as_ref() == Some(&host) || is_same_address(&host, self.address.ip())
    }

    /// The redirect is not followed: its own status decides.
    fn elsewhere(&self, answer: &Answer, to: &str) -> Outcome {
        if self.check.statuses.contains(answer.status) {
            return Outcome::Success;
        }
        let message = format!("status {} leads to {to}, which is not followed", answer.status);
        Outcome::failure(Reason::RedirectFailed, message)
    }
}

fn failed(message: &'static str) -> Outcome {
    Outcome::failure(Reason::RedirectFailed, message)
}
