use super::*;
use crate::samples::{at, ip, refused};

fn seed(verdict: Verdict) -> Seed {
    Seed { verdict, since: Some(at(5)), cause: (verdict == Verdict::Unhealthy).then(refused) }
}

fn verdict(seeds: &Seeds, name: Option<&str>, port: u16) -> Option<Verdict> {
    seeds.get(name, port, ip("10.0.0.1")).map(|seed| seed.verdict)
}

#[test]
fn a_renamed_port_is_found_by_its_number() {
    let mut seeds = Seeds::default();
    assert!(seeds.is_empty());
    seeds.insert(Some("web"), 80, ip("10.0.0.1"), seed(Verdict::Unhealthy));
    assert_eq!(verdict(&seeds, Some("web"), 80), Some(Verdict::Unhealthy));
    assert_eq!(verdict(&seeds, Some("http"), 80), Some(Verdict::Unhealthy));
    assert_eq!(verdict(&seeds, None, 80), Some(Verdict::Unhealthy));
    assert_eq!(verdict(&seeds, Some("web"), 81), None);
    assert_eq!(seeds.get(Some("web"), 80, ip("10.0.0.2")), None);
}

#[test]
fn ports_with_one_target_port_are_told_apart_by_name_and_healthy_wins_otherwise() {
    let mut seeds = Seeds::default();
    seeds.insert(Some("a"), 80, ip("10.0.0.1"), seed(Verdict::Unhealthy));
    seeds.insert(Some("b"), 80, ip("10.0.0.1"), seed(Verdict::Healthy));
    seeds.insert(Some("b"), 80, ip("10.0.0.1"), seed(Verdict::Unhealthy));
    assert_eq!(verdict(&seeds, Some("a"), 80), Some(Verdict::Unhealthy));
    assert_eq!(verdict(&seeds, Some("b"), 80), Some(Verdict::Healthy));
    assert_eq!(verdict(&seeds, Some("new"), 80), Some(Verdict::Healthy));
}

#[test]
fn an_empty_name_is_none() {
    let mut seeds = Seeds::default();
    seeds.insert(Some(""), 80, ip("10.0.0.1"), seed(Verdict::Healthy));
    seeds.insert(None, 80, ip("10.0.0.1"), seed(Verdict::Unhealthy));
    assert_eq!(verdict(&seeds, None, 80), Some(Verdict::Healthy));
}

#[test]
fn replaced_seeds_are_found_where_they_were() {
    let mut seeds = Seeds::default();
    seeds.insert(Some("web"), 80, ip("10.0.0.1"), seed(Verdict::Healthy));
    seeds.replace(Some("web"), 80, ip("10.0.0.1"), seed(Verdict::Unhealthy));
    assert_eq!(verdict(&seeds, Some("web"), 80), Some(Verdict::Unhealthy));
    seeds.replace(Some("http"), 80, ip("10.0.0.1"), seed(Verdict::Unhealthy));
    assert_eq!(verdict(&seeds, Some("http"), 80), Some(Verdict::Unhealthy));
}

#[test]
fn others_are_asked_only_where_nothing_is_known() {
    let mut seeds = Seeds::default();
    seeds.insert(Some("a"), 80, ip("10.0.0.1"), seed(Verdict::Unhealthy));
    let mut others = Seeds::default();
    others.insert(Some("a"), 80, ip("10.0.0.1"), seed(Verdict::Healthy));
    others.insert(Some("b"), 81, ip("10.0.0.1"), seed(Verdict::Healthy));
    seeds.fall_back_on(others);
    assert_eq!(verdict(&seeds, Some("a"), 80), Some(Verdict::Unhealthy));
    assert_eq!(verdict(&seeds, Some("b"), 81), Some(Verdict::Healthy));
}

#[test]
fn what_names_stood_for_adds_up_and_former_knowledge_wins() {
    let mut seeds = Seeds::default();
    seeds.resolve("db.example.org", &[ip("10.0.0.2")]);
    seeds.resolve("db.example.org", &[ip("10.0.0.1"), ip("10.0.0.2")]);
    assert!(seeds.is_empty(), "an address alone is no verdict");
    let mut newer = Seeds::default();
    newer.resolve("web.example.org", &[ip("10.0.0.9")]);
    newer.fall_back_on(seeds);
    assert_eq!(newer.addresses("db.example.org"), [ip("10.0.0.1"), ip("10.0.0.2")]);
    assert_eq!(newer.addresses("web.example.org"), [ip("10.0.0.9")]);
    assert!(newer.addresses("other.example.org").is_empty());
}
