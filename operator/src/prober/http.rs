//! The HTTP probe: one GET request on a connection of its own.
//!
//! What can be known beforehand is made once per target ([`Prepared`]): the bytes of the request and
//! the TLS configuration. A probe is then connect, one write and, as a rule, one read; it is over as
//! soon as the verdict is certain, and what the server still has to say is cut off.

use std::fmt;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use cep_core::check::{HttpCheck, Redirects, Scheme};
use cep_core::outcome::{Cause, Outcome, Reason};
use cep_core::target::Target;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::connect::{self, connect};
use super::http1::{BodySearch, HeadReader};
use super::phases::Phases;
use super::tls::{Contexts, Session};

mod redirect;
mod request;

/// A check, ready to be carried out against one target again and again.
pub struct Prepared {
    check: Arc<HttpCheck>,
    address: SocketAddr,
    /// Under which the target was listed.
    name: Option<Arc<str>>,
    /// The value of the Host header.
    authority: Box<str>,
    request: Box<[u8]>,
    /// For HTTPS, and for a redirect that leads to it.
    session: Option<Session>,
}

/// The request is left out: its headers may hold credentials.
impl fmt::Debug for Prepared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Prepared").field("address", &self.address).finish_non_exhaustive()
    }
}

/// What the server answered, as far as it was looked at.
struct Answer {
    status: u16,
    location: Option<String>,
    /// Whether the expected text was found; `None` if it was not looked for.
    found: Option<bool>,
}

impl Prepared {
    /// Does what need not be done for every probe. It reads the public root certificates the first
    /// time that a check needs them, else it does no I/O.
    ///
    /// # Errors
    /// [`Reason::Misconfigured`] and the field of the TLS configuration that cannot be used.
    pub fn new(target: &Target, check: &Arc<HttpCheck>, tls: &Contexts) -> Result<Self, Cause> {
        let authority = request::authority(target, check);
        let request = request::bytes(check, &authority, &check.path);
        let name = target.name.clone();
        let session = match (check.scheme, check.redirects) {
            (Scheme::Http, Redirects::Judge) => None,
            _ => {
                let address = target.address.ip().to_string();
                let host = check.host.as_deref().map(request::without_port);
                let host = host.or(name.as_deref()).unwrap_or(&address);
                Some(tls.session(check.tls.as_ref().unwrap_or(&redirect::UNVERIFIED), host)?)
            }
        };
        let check = check.clone();
        Ok(Self { check, address: target.address, name, authority: authority.into(), request, session })
    }

    /// One probe. It has no time limit of its own: the caller's covers the whole probe.
    pub(super) async fn probe(&self, phases: &Phases) -> Outcome {
        match self.exchange(self.check.scheme, self.address, &self.request, phases).await {
            // Boxed because it is rare, and would make the future of every other probe larger.
            Ok(answer) if self.leads_on(&answer) => Box::pin(self.follow(answer, phases)).await,
            Ok(answer) => self.judge(&answer),
            Err(outcome) => outcome,
        }
    }

    fn judge(&self, answer: &Answer) -> Outcome {
        let check = &self.check;
        if !check.statuses.contains(answer.status) {
            let message = format!("status {}, expected {}", answer.status, check.statuses);
            return Outcome::failure(Reason::UnexpectedStatus, message);
        }
        if check.body.is_some() && answer.found != Some(true) {
            return Outcome::failure(
                Reason::UnexpectedBody,
                "expectedBody is not in the first 10 KiB of the body",
            );
        }
        Outcome::Success
    }

    async fn exchange(
        &self,
        scheme: Scheme,
        to: SocketAddr,
        request: &[u8],
        phases: &Phases,
    ) -> Result<Answer, Outcome> {
        let stream = connect(to, phases).await?;
        match (scheme, &self.session) {
            (Scheme::Http, _) => self.converse(stream, request, phases, connect::judge).await,
            (Scheme::Https, Some(session)) => {
                let exchange = async {
                    let stream = session.handshake(stream).await?;
                    phases.secured();
                    self.converse(stream, request, phases, |error| session.judge(error)).await
                };
                Box::pin(exchange).await
            }
            (Scheme::Https, None) => {
                Err(Outcome::unknown(Reason::Misconfigured, "the check has no TLS configuration"))
            }
        }
    }

    async fn converse<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        mut stream: S,
        request: &[u8],
        phases: &Phases,
        judge: impl Fn(&io::Error) -> Outcome,
    ) -> Result<Answer, Outcome> {
        // A server may answer without reading the request to its end, so what it says counts first.
        let sent = match stream.write_all(request).await {
            Ok(()) => stream.flush().await,
            failed => failed,
        };
        let mut reader = HeadReader::default();
        let head = loop {
            if read(&mut stream, reader.buffer()).await.map_err(|error| judge(&error))? == 0 {
                return Err(match sent {
                    Ok(()) => Outcome::Failure(reader.closed()),
                    Err(error) => judge(&error),
                });
            }
            phases.answered();
            if let Some(head) = reader.advance().map_err(Outcome::Failure)? {
                break head;
            }
        };
        let mut answer = Answer { status: head.status, location: head.location, found: None };
        let Some(expected) = &self.check.body else { return Ok(answer) };
        if self.leads_on(&answer) || !self.check.statuses.contains(answer.status) {
            return Ok(answer);
        }
        let mut search = BodySearch::new(expected, head.framing);
        let mut piece = reader.into_rest();
        answer.found = loop {
            if let Some(found) = search.advance(&piece).map_err(Outcome::Failure)? {
                break Some(found);
            }
            piece.clear();
            piece.reserve(4096);
            if read(&mut stream, &mut piece).await.map_err(|error| judge(&error))? == 0 {
                break Some(search.closed().map_err(Outcome::Failure)?);
            }
        };
        Ok(answer)
    }
}

/// Reads some bytes; 0 is the end. Many servers close without the close_notify of TLS, and what was
/// read until then is complete or not by HTTP's own rules.
async fn read<S: AsyncRead + Unpin>(stream: &mut S, buffer: &mut Vec<u8>) -> io::Result<usize> {
    match stream.read_buf(buffer).await {
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(0),
        read => read,
    }
}

fn is_same_address(host: &url::Host<&str>, address: IpAddr) -> bool {
    match host {
        url::Host::Ipv4(v4) => IpAddr::V4(*v4) == address,
        url::Host::Ipv6(v6) => v6.to_canonical() == address,
        url::Host::Domain(_) => false,
    }
}

#[cfg(test)]
pub(super) mod tests;
