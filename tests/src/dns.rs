//! An authoritative DNS server with a table that a test can change.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use hickory_proto::op::{Message, MessageType, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA};
use hickory_proto::rr::{RData, Record, RecordType};
use tokio::task::JoinHandle;

use crate::netns::Netns;

/// What is known of a name. A name that is not in the table does not exist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// These addresses; a question for a family without any gets an empty answer.
    Addresses {
        /// IPv4 and IPv6.
        addresses: Vec<IpAddr>,
        /// Seconds.
        ttl: u32,
    },
    /// SERVFAIL.
    ServFail,
    /// REFUSED.
    Refused,
    /// NXDOMAIN.
    NxDomain,
    /// No answer at all.
    Silent,
}

#[derive(Default)]
struct State {
    table: Mutex<HashMap<String, Entry>>,
    queries: AtomicU64,
    by_name: Mutex<HashMap<String, u64>>,
}

/// A running DNS server on UDP. Answers are not truncated, so keep them below what clients take, 1232 bytes.
pub struct Dns {
    address: SocketAddr,
    state: Arc<State>,
    task: JoinHandle<()>,
}

impl Dns {
    /// Starts it with an empty table.
    ///
    /// # Errors
    /// If the address cannot be bound.
    pub async fn start(netns: &Netns, address: SocketAddr) -> Result<Self> {
        let socket = netns.bind_udp(address).await.with_context(|| format!("cannot bind {address}"))?;
        let address = socket.local_addr()?;
        let state = Arc::new(State::default());
        let known = Arc::clone(&state);
        let task = tokio::spawn(async move {
            let mut buffer = vec![0; 65536];
            loop {
                // An error is the echo of a client that has gone.
                let Ok((n, peer)) = socket.recv_from(&mut buffer).await else { continue };
                let Ok(query) = Message::from_vec(&buffer[..n]) else { continue };
                let Some(answer) = known.answer(&query) else { continue };
                if let Ok(bytes) = answer.to_vec() {
                    let _ = socket.send_to(&bytes, peer).await;
                }
            }
        });
        Ok(Self { address, state, task })
    }

    /// Its address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Gives a name these addresses.
    ///
    /// # Panics
    /// If one is no IP address.
    pub fn set(&self, name: &str, addresses: &[&str], ttl: u32) {
        let parse = |address: &&str| address.parse().expect("an IP address");
        let addresses = addresses.iter().map(parse).collect();
        self.set_entry(name, Entry::Addresses { addresses, ttl });
    }

    /// Gives a name any entry.
    pub fn set_entry(&self, name: &str, entry: Entry) {
        self.state.table.lock().unwrap_or_else(PoisonError::into_inner).insert(key(name), entry);
    }

    /// Takes a name out of the table.
    pub fn remove(&self, name: &str) {
        self.state.table.lock().unwrap_or_else(PoisonError::into_inner).remove(&key(name));
    }

    /// How many questions have come.
    pub fn queries(&self) -> u64 {
        self.state.queries.load(Ordering::Relaxed)
    }

    /// How many questions have come for a name, of all types.
    pub fn queries_for(&self, name: &str) -> u64 {
        let counts = self.state.by_name.lock().unwrap_or_else(PoisonError::into_inner);
        counts.get(&key(name)).copied().unwrap_or(0)
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Lower case, without the last dot.
fn key(name: &str) -> String {
    name.trim_end_matches('.').to_ascii_lowercase()
}

impl State {
    fn answer(&self, query: &Message) -> Option<Message> {
        let question = query.queries.first()?;
        let name = key(&question.name().to_ascii());
        self.queries.fetch_add(1, Ordering::Relaxed);
        *self.by_name.lock().unwrap_or_else(PoisonError::into_inner).entry(name.clone()).or_default() += 1;
        let entry = self.table.lock().unwrap_or_else(PoisonError::into_inner).get(&name).cloned();

        let mut answer = Message::response(query.metadata.id, query.metadata.op_code);
        answer.metadata.message_type = MessageType::Response;
        answer.metadata.authoritative = true;
        answer.metadata.recursion_desired = query.metadata.recursion_desired;
        answer.add_query(question.clone());
        match entry.unwrap_or(Entry::NxDomain) {
            Entry::Silent => return None,
            Entry::NxDomain => answer.metadata.response_code = ResponseCode::NXDomain,
            Entry::ServFail => answer.metadata.response_code = ResponseCode::ServFail,
            Entry::Refused => answer.metadata.response_code = ResponseCode::Refused,
            Entry::Addresses { addresses, ttl } => {
                for address in addresses {
                    let data = match (question.query_type(), address) {
                        (RecordType::A, IpAddr::V4(address)) => RData::A(A(address)),
                        (RecordType::AAAA, IpAddr::V6(address)) => RData::AAAA(AAAA(address)),
                        _ => continue,
                    };
                    answer.add_answer(Record::from_rdata(question.name().clone(), ttl, data));
                }
            }
        }
        Some(answer)
    }
}
