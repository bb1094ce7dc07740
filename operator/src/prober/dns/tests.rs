use std::sync::Arc;
use std::time::Instant;

use hickory_resolver::proto::op::Message;
use hickory_resolver::proto::rr::rdata::CNAME;
use hickory_resolver::proto::rr::{RData, Record};
use tokio::net::UdpSocket;

use super::*;

/// What the name server says to a question.
enum Says {
    /// Records with a TTL, all under the name that was asked for but those behind an alias.
    Records(Vec<Record>),
    Code(ResponseCode),
    Nothing,
}

async fn server(script: impl Fn(&Name, RecordType) -> Says + Send + 'static) -> Resolver {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 4096];
        while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
            let mut message = Message::from_vec(&buffer[..length]).unwrap().into_response();
            message.metadata.recursion_available = true;
            let query = message.queries[0].clone();
            assert!(query.name().is_fqdn());
            match script(query.name(), query.query_type()) {
                Says::Nothing => continue,
                Says::Code(code) => message.metadata.response_code = code,
                Says::Records(records) => {
                    message.add_answers(records);
                }
            }
            socket.send_to(&message.to_vec().unwrap(), from).await.unwrap();
        }
    });
    Resolver::new(&[address]).unwrap()
}

fn record(name: &Name, ttl: u32, address: &str) -> Record {
    Record::from_rdata(name.clone(), ttl, RData::from(address.parse::<IpAddr>().unwrap()))
}

fn addresses_of(answer: &Answer) -> Vec<String> {
    answer.addresses.iter().map(ToString::to_string).collect()
}

#[tokio::test]
async fn both_families_sorted_and_each_once() {
    let resolver = server(|name, kind| {
        assert_eq!(name.to_string(), "db.example.org.");
        Says::Records(match kind {
            RecordType::A => {
                vec![record(name, 60, "10.0.0.2"), record(name, 40, "10.0.0.1"), record(name, 60, "10.0.0.2")]
            }
            _ => vec![record(name, 50, "2001:db8::1"), record(name, 50, "::ffff:10.0.0.1")],
        })
    })
    .await;
    for name in ["db.example.org", "db.example.org."] {
        let answer = resolver.resolve(name).await.unwrap();
        assert_eq!(addresses_of(&answer), ["10.0.0.1", "10.0.0.2", "2001:db8::1"]);
        assert_eq!((answer.valid_for, answer.unanswered), (Duration::from_secs(40), None));
    }
}

#[tokio::test]
async fn names_are_taken_as_they_are() {
    for name in ["db", "_under.score"] {
        let resolver = server(move |asked, _| {
            assert_eq!(asked.to_string(), format!("{name}."));
            Says::Records(vec![record(asked, 60, "10.0.0.1")])
        })
        .await;
        assert_eq!(addresses_of(&resolver.resolve(name).await.unwrap()), ["10.0.0.1"]);
    }
}

#[tokio::test]
async fn times_to_live_are_kept_within_bounds() {
    for (ttl, expected) in [(0, SHORTEST), (4, SHORTEST), (6, Duration::from_secs(6)), (86_400, LONGEST)] {
        let resolver = server(move |name, kind| match kind {
            RecordType::A => Says::Records(vec![record(name, ttl, "10.0.0.1")]),
            _ => Says::Records(vec![]),
        })
        .await;
        assert_eq!(resolver.resolve("db.example.org").await.unwrap().valid_for, expected);
    }
}

#[tokio::test]
async fn the_ttl_of_an_alias_counts() {
    let resolver = server(|name, kind| {
        let real = Name::from_ascii("real.example.org.").unwrap();
        let alias = Record::from_rdata(name.clone(), 20, RData::CNAME(CNAME(real.clone())));
        match kind {
            RecordType::A => Says::Records(vec![alias, record(&real, 200, "10.0.0.1")]),
            _ => Says::Records(vec![alias]),
        }
    })
    .await;
    let answer = resolver.resolve("db.example.org").await.unwrap();
    assert_eq!(addresses_of(&answer), ["10.0.0.1"]);
    assert_eq!(answer.valid_for, Duration::from_secs(20));
}

#[tokio::test]
async fn nothing_is_cached() {
    let asked = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counter = asked.clone();
    let resolver = server(move |name, _| {
        counter.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Says::Records(vec![record(name, 300, "10.0.0.1")])
    })
    .await;
    for _ in 0..3 {
        resolver.resolve("db.example.org").await.unwrap();
    }
    assert_eq!(asked.load(std::sync::atomic::Ordering::Relaxed), 6);
}

#[tokio::test]
async fn negative_answers_are_told_apart() {
    type Script = fn(RecordType) -> Says;
    for (script, message) in [
        ((|_| Says::Code(ResponseCode::NXDomain)) as Script, "the name does not exist (NXDOMAIN)"),
        (|_| Says::Records(vec![]), "the name has no addresses (no A or AAAA record)"),
        (|_| Says::Code(ResponseCode::ServFail), "the name server failed (SERVFAIL)"),
        (|_| Says::Code(ResponseCode::Refused), "the name server refused to answer (REFUSED)"),
        (
            |kind| match kind {
                RecordType::A => Says::Records(vec![]),
                _ => Says::Code(ResponseCode::ServFail),
            },
            "the name server failed (SERVFAIL)",
        ),
        (
            |kind| match kind {
                RecordType::A => Says::Code(ResponseCode::ServFail),
                _ => Says::Code(ResponseCode::NXDomain),
            },
            "the name does not exist (NXDOMAIN)",
        ),
    ] {
        let resolver = server(move |_, kind| script(kind)).await;
        let cause = resolver.resolve("db.example.org").await.unwrap_err();
        assert_eq!((cause.reason, &*cause.message), (Reason::NotResolved, message));
    }
    let cause = server(|_, _| Says::Nothing).await.resolve("a..b").await.unwrap_err();
    assert_eq!(&*cause.message, "the host is not a DNS name");
}

#[tokio::test]
async fn one_family_is_enough() {
    for (broken, family, address) in
        [(RecordType::AAAA, Family::V6, "10.0.0.1"), (RecordType::A, Family::V4, "2001:db8::1")]
    {
        let resolver = server(move |name, kind| match kind {
            kind if kind == broken => Says::Code(ResponseCode::ServFail),
            _ => Says::Records(vec![record(name, 200, address)]),
        })
        .await;
        let answer = resolver.resolve("db.example.org").await.unwrap();
        assert_eq!(addresses_of(&answer), [address]);
        assert_eq!((answer.valid_for, answer.unanswered), (INCOMPLETE, Some(family)));
    }
}

#[tokio::test]
async fn a_silent_server_ends_in_a_timeout() {
    let resolver = server(|name, kind| match kind {
        RecordType::A if name.to_string() == "half.example.org." => {
            Says::Records(vec![record(name, 60, "10.0.0.1")])
        }
        _ => Says::Nothing,
    })
    .await;
    let started = Instant::now();
    let (none, half) = tokio::join!(resolver.resolve("db.example.org"), resolver.resolve("half.example.org"));
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    assert_eq!(&*none.unwrap_err().message, "no name server answered in time");
    assert_eq!(half.unwrap().unanswered, Some(Family::V6));
}

#[tokio::test]
async fn a_second_server_helps_out() {
    let good = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let bad = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let addresses = [bad.local_addr().unwrap(), good.local_addr().unwrap()];
    tokio::spawn(async move {
        let mut buffer = [0; 4096];
        while let Ok((length, from)) = good.recv_from(&mut buffer).await {
            let mut message = Message::from_vec(&buffer[..length]).unwrap().into_response();
            let name = message.queries[0].name().clone();
            message.add_answer(record(&name, 60, "10.0.0.1"));
            good.send_to(&message.to_vec().unwrap(), from).await.unwrap();
        }
    });
    let answer = Resolver::new(&addresses).unwrap().resolve("db.example.org").await.unwrap();
    assert_eq!(addresses_of(&answer), ["10.0.0.1"]);
    drop(bad);
}
