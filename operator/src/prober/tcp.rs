//! The TCP probe: can a connection be opened?

use std::net::SocketAddr;

use cep_core::outcome::Outcome;

use super::connect::connect;
use super::phases::Phases;

/// Probes one address. It has no time limit of its own: the caller's covers the whole probe.
///
/// On the wire this is SYN, SYN/ACK, RST: the handshake is never completed, so the server's `accept`
/// does not return, no worker of it wakes up and nothing is logged. HAProxy checks in the same way.
pub(super) async fn probe(address: SocketAddr, phases: &Phases) -> Outcome {
    match connect(address, phases).await {
        Ok(_stream) => Outcome::Success,
        Err(outcome) => outcome,
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::net::{Ipv6Addr, TcpListener};
    use std::time::Duration;

    use cep_core::outcome::Reason;

    use super::*;

    #[tokio::test]
    async fn success_without_waking_the_server() {
        for listener in
            [TcpListener::bind("127.0.0.1:0").unwrap(), TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).unwrap()]
        {
            listener.set_nonblocking(true).unwrap();
            let address = listener.local_addr().unwrap();
            for _ in 0..500 {
                assert_eq!(probe(address, &Phases::start()).await, Outcome::Success);
            }
            // An accept that was late would still be queued.
            tokio::time::sleep(Duration::from_millis(50)).await;
            let accepted = listener.accept();
            assert!(
                matches!(&accepted, Err(error) if error.kind() == ErrorKind::WouldBlock),
                "the server saw a connection: {accepted:?}"
            );
        }
    }

    #[tokio::test]
    async fn a_closed_port_refuses() {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = socket.local_addr().unwrap();
        assert_eq!(
            probe(address, &Phases::start()).await,
            Outcome::failure(Reason::ConnectionRefused, "connection refused")
        );
    }

    #[tokio::test]
    async fn a_full_backlog_is_silence() {
        // Linux queues one connection more than the backlog; each of these stays queued.
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
        socket.listen(0).unwrap();
        let address = socket.local_addr().unwrap().as_socket().unwrap();
        let mut held = Vec::new();
        while let Ok(Ok(stream)) =
            tokio::time::timeout(Duration::from_millis(100), tokio::net::TcpStream::connect(address)).await
        {
            held.push(stream);
            assert!(held.len() < 64, "the backlog does not fill");
        }
        let waited = tokio::time::timeout(Duration::from_millis(200), probe(address, &Phases::start())).await;
        assert!(waited.is_err(), "{waited:?}");
    }
}
