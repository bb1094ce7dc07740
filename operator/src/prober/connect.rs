//! The socket of a built-in probe, and what its errors say about the host.
//!
//! Every probe has a connection of its own, so the socket is set up so that it leaves nothing behind:
//! `SO_LINGER` 0 makes closing it a reset, hence no `TIME_WAIT` and no local port held for a minute.
//! `TCP_QUICKACK` off holds back the last packet of the handshake: an HTTP request carries it along,
//! and a bare TCP probe resets the connection before it is ever sent.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::time::Duration;

use cep_core::outcome::{Outcome, Reason};
use socket2::SockRef;
use tokio::net::{TcpSocket, TcpStream};

use super::phases::Phases;

/// Opens the connection of one probe.
///
/// # Errors
/// What the error means for the target, see [`judge`].
pub(super) async fn connect(address: SocketAddr, phases: &Phases) -> Result<TcpStream, Outcome> {
    let connected = match open(address) {
        Ok(socket) => socket.connect(address).await,
        Err(error) => Err(error),
    };
    let stream = connected.map_err(|error| judge(&error))?;
    phases.connected();
    Ok(stream)
}

fn open(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    let options = SockRef::from(&socket);
    options.set_tcp_quickack(false)?;
    options.set_linger(Some(Duration::ZERO))?;
    Ok(socket)
}

/// What an I/O error says: about the target (`Failure`), or about this machine only (`Unknown`).
///
/// A connection that a policy of this machine forbids (EPERM and EACCES: a seccomp or BPF filter, a
/// `prohibit` route) never reached the network, so it says nothing about the host. Neither does an
/// error that is not in the list: better a host too many than one too few.
pub(super) fn judge(error: &io::Error) -> Outcome {
    if let Some(exhausted) = error.raw_os_error().and_then(exhausted) {
        return Outcome::unknown(Reason::ResourceExhausted, exhausted);
    }
    match error.kind() {
        ErrorKind::ConnectionRefused => Outcome::failure(Reason::ConnectionRefused, "connection refused"),
        ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted | ErrorKind::BrokenPipe => {
            Outcome::failure(Reason::ConnectionReset, "connection reset")
        }
        ErrorKind::TimedOut => Outcome::failure(Reason::Timeout, "no answer to the connection attempt"),
        ErrorKind::HostUnreachable => Outcome::failure(Reason::HostUnreachable, "host unreachable"),
        ErrorKind::NetworkUnreachable | ErrorKind::NetworkDown => {
            Outcome::failure(Reason::NetworkUnreachable, "network unreachable")
        }
        ErrorKind::PermissionDenied => Outcome::unknown(
            Reason::Misconfigured,
            "a security policy or route of the operator's own machine forbids the connection",
        ),
        _ => match error.raw_os_error() {
            Some(libc::EHOSTDOWN) => Outcome::failure(Reason::HostUnreachable, "host down"),
            // An ICMP "protocol unreachable" from the host or from a router before it.
            Some(libc::ENOPROTOOPT | libc::EPROTO) => {
                Outcome::failure(Reason::HostUnreachable, "the host does not accept TCP")
            }
            Some(libc::EAFNOSUPPORT) => Outcome::unknown(
                Reason::Misconfigured,
                "the operator's own machine does not support this address family",
            ),
            Some(libc::EINVAL) => {
                Outcome::unknown(Reason::Misconfigured, "the operator's own machine cannot connect there")
            }
            _ => Outcome::unknown(Reason::Undetermined, format!("unexpected error: {}", error.kind())),
        },
    }
}

fn exhausted(code: i32) -> Option<&'static str> {
    match code {
        libc::EMFILE | libc::ENFILE => Some("the operator has no file descriptor left"),
        libc::ENOBUFS | libc::ENOMEM => Some("the operator's machine has no memory left for sockets"),
        libc::EADDRNOTAVAIL | libc::EADDRINUSE => {
            Some("the operator's machine has no local address or port left for this destination")
        }
        libc::EAGAIN => Some("the operator's machine has no room for another connection"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_the_host_are_failures_those_of_this_machine_are_not() {
        let label = |code| judge(&io::Error::from_raw_os_error(code));
        for (code, reason) in [
            (libc::ECONNREFUSED, Reason::ConnectionRefused),
            (libc::ECONNRESET, Reason::ConnectionReset),
            (libc::ECONNABORTED, Reason::ConnectionReset),
            (libc::EPIPE, Reason::ConnectionReset),
            (libc::ETIMEDOUT, Reason::Timeout),
            (libc::EHOSTUNREACH, Reason::HostUnreachable),
            (libc::EHOSTDOWN, Reason::HostUnreachable),
            (libc::ENETUNREACH, Reason::NetworkUnreachable),
            (libc::ENETDOWN, Reason::NetworkUnreachable),
        ] {
            let outcome = label(code);
            assert!(matches!(&outcome, Outcome::Failure(cause) if cause.reason == reason), "{outcome:?}");
        }
        for (code, reason) in [
            (libc::EMFILE, Reason::ResourceExhausted),
            (libc::ENFILE, Reason::ResourceExhausted),
            (libc::ENOBUFS, Reason::ResourceExhausted),
            (libc::ENOMEM, Reason::ResourceExhausted),
            (libc::EADDRNOTAVAIL, Reason::ResourceExhausted),
            (libc::EACCES, Reason::Misconfigured),
            (libc::EPERM, Reason::Misconfigured),
            (libc::EAFNOSUPPORT, Reason::Misconfigured),
            (libc::EXDEV, Reason::Undetermined),
        ] {
            let outcome = label(code);
            assert!(matches!(&outcome, Outcome::Unknown(cause) if cause.reason == reason), "{outcome:?}");
        }
    }
}
