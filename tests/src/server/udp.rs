//! A scripted UDP server.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use tokio::task::JoinHandle;

use crate::netns::Netns;

/// What it does with a datagram.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Sends it back.
    Echo,
    /// Sends this.
    Fixed(Vec<u8>),
    /// Nothing.
    Silent,
}

struct State {
    answer: Mutex<Answer>,
    received: AtomicU64,
    last: Mutex<Vec<u8>>,
}

/// A running UDP server. When it is dropped its port is closed, and the kernel answers with "port
/// unreachable".
pub struct UdpServer {
    address: SocketAddr,
    state: Arc<State>,
    task: JoinHandle<()>,
}

impl UdpServer {
    /// Starts it.
    ///
    /// # Errors
    /// If the address cannot be bound.
    pub async fn start(netns: &Netns, address: SocketAddr, answer: Answer) -> Result<Self> {
        let socket = netns.bind_udp(address).await.with_context(|| format!("cannot bind {address}"))?;
        let address = socket.local_addr()?;
        let state = Arc::new(State {
            answer: Mutex::new(answer),
            received: AtomicU64::new(0),
            last: Mutex::default(),
        });
        let seen = Arc::clone(&state);
        let task = tokio::spawn(async move {
            let mut buffer = vec![0; 65536];
            loop {
                // An error is the echo of a client that has gone.
                let Ok((n, peer)) = socket.recv_from(&mut buffer).await else { continue };
                seen.received.fetch_add(1, Ordering::Relaxed);
                *seen.last.lock().unwrap_or_else(PoisonError::into_inner) = buffer[..n].to_vec();
                let answer = seen.answer.lock().unwrap_or_else(PoisonError::into_inner).clone();
                let bytes = match &answer {
                    Answer::Echo => &buffer[..n],
                    Answer::Fixed(bytes) => bytes,
                    Answer::Silent => continue,
                };
                let _ = socket.send_to(bytes, peer).await;
            }
        });
        Ok(Self { address, state, task })
    }

    /// Its address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it does from now on.
    pub fn set(&self, answer: Answer) {
        *self.state.answer.lock().unwrap_or_else(PoisonError::into_inner) = answer;
    }

    /// How many datagrams have come.
    pub fn received(&self) -> u64 {
        self.state.received.load(Ordering::Relaxed)
    }

    /// The latest datagram.
    pub fn last(&self) -> Vec<u8> {
        self.state.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for UdpServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}
