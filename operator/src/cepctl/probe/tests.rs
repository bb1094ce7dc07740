use std::net::IpAddr;
use std::time::Duration;

use cep_core::address_policy::AddressPolicy;
use cep_core::outcome::{Cause, Outcome, Reason};
use cep_core::target::Target;
use clap::FromArgMatches;

use super::super::cli::{self, Cli, Command};
use super::*;

/// Port 1 refuses, others answer; db.example.org has two addresses.
struct MadeUp;

impl Probe for MadeUp {
    async fn resolve(&self, name: &str) -> Result<Vec<IpAddr>, Cause> {
        match name {
            "db.example.org" => Ok(vec!["10.0.0.7".parse().unwrap(), "127.0.0.1".parse().unwrap()]),
            _ => Err(Cause::new(Reason::NotResolved, "the name does not exist (NXDOMAIN)")),
        }
    }

    async fn once(&self, target: &Target) -> Probed {
        let outcome = match target.address.port() {
            1 => Outcome::failure(Reason::ConnectionRefused, "connection refused"),
            _ => Outcome::Success,
        };
        let took = Duration::from_millis(12);
        Probed { outcome, took, connect: Some(Duration::from_millis(2)), tls: None, first_byte: None }
    }
}

fn arguments(line: &str) -> (Arguments, Global) {
    let line = format!("cepctl probe {line}");
    let matches = cli::command(None).try_get_matches_from(line.split(' ')).unwrap();
    let Cli { command: Command::Probe(arguments), global } = Cli::from_arg_matches(&matches).unwrap() else {
        panic!("not probe")
    };
    (arguments, global)
}

fn probed(yaml: &str, line: &str) -> (String, bool) {
    let (arguments, global) = arguments(line);
    let documents = documents::parse("x.yaml", yaml).unwrap();
    let cep: ClusterEndpoint = documents[0].parse().unwrap();
    let policy = AddressPolicy { allow: arguments.allow.clone(), deny: arguments.deny.clone() };
    let filter = Filter { hosts: &arguments.hosts, ports: &arguments.ports };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        let given = Default::default();
        let sources =
            materials::Sources { documents: &documents, given: &given, cluster: None, global: &global };
        let materials = materials::gather(&cep.spec, "shop", &sources).await;
        let attempts = match attempts::of(&cep, "shop", &materials, &policy) {
            Ok(attempts) => attempts.into_iter().filter(|attempt| filter.admits(attempt)).collect(),
            Err(error) => return (error.to_string(), false),
        };
        let endpoints = probe_all(&MadeUp, attempts, &policy, &arguments).await;
        let report = Report { namespace: "shop".to_owned(), name: "x".to_owned(), endpoints };
        let well = report.all_well();
        (report::table(&[report], output::Palette::plain()), well)
    })
}

const CEP: &str = "\
apiVersion: sealyun.com/v1beta1
kind: ClusterEndpoint
metadata: {name: x}
spec:
  hosts: [10.0.0.1, db.example.org]
  ports:
  - {name: web, port: 80, tcpSocket: {enable: true}}
  - {name: refused, port: 81, targetPort: 1, hosts: [10.0.0.1], httpGet: {path: /}}
  - {name: gone, port: 82, hosts: [gone.example.org], tcpSocket: {}}
  - {name: free, port: 83, hosts: [10.0.0.1]}
";

#[test]
fn everything_at_once() {
    let (table, well) = probed(CEP, "-f x");
    assert!(!well);
    // How long the made-up resolver took is not to be foreseen.
    let table: String = table.lines().map(|line| without_dns(line) + "\n").collect();
    assert_eq!(
        table,
        "\
PORT     HOST              ADDRESS       CHECK  OUTCOME     CONNECT  TIME  REASON             MESSAGE
web      10.0.0.1          10.0.0.1:80   tcp    success     2.00ms   12ms
web      db.example.org    10.0.0.7:80   tcp    success     2.00ms   12ms
web      db.example.org    127.0.0.1:80  tcp    failure                    AddressDenied      127.0.0.1 is a loopback address; --allow-target-cidr can allow it
refused  10.0.0.1          10.0.0.1:1    http   failure     2.00ms   12ms  ConnectionRefused  connection refused
gone     gone.example.org                tcp    unknown                    NotResolved        the name does not exist (NXDOMAIN)
free     10.0.0.1                        none   not probed
2 of 5 endpoints answered as their checks expect
"
    );
}

/// Cuts the DNS column out, which begins where its title does.
fn without_dns(line: &str) -> String {
    const FROM: usize = 60;
    const TO: usize = 68;
    match line.len() {
        0..=FROM => line.to_owned(),
        _ if line.contains(" of ") => line.to_owned(),
        len => format!("{}{}", &line[..FROM], &line[TO.min(len)..]).trim_end().to_owned(),
    }
}

#[test]
fn filters() {
    let (table, well) =
        probed(CEP, "-f x --port 80 --host DB.example.org. --first-address --repeat 3 --interval 1ms");
    assert!(well, "{table}");
    assert!(table.contains("success 3/3"), "{table}");
    assert!(table.contains("12ms (max 12ms)"), "{table}");
    assert!(table.ends_with("1 of 1 endpoints answered as their checks expect\n"), "{table}");
}

#[test]
fn loopback_on_demand() {
    let cep = CEP.replace("10.0.0.1,", "127.0.0.1,");
    let (complaint, _) = probed(&cep, "-f x");
    assert!(complaint.contains("spec.hosts[0]: 127.0.0.1 is a loopback address"), "{complaint}");
    assert!(!complaint.contains("operator's"), "{complaint}");
    let (table, _) = probed(&cep, "-f x --port web --allow-target-cidr 127.0.0.0/8");
    assert!(table.ends_with("3 of 3 endpoints answered as their checks expect\n"), "{table}");
}

const WITH_CA: &str = "\
apiVersion: sealyun.com/v1beta1
kind: ClusterEndpoint
metadata: {name: x, namespace: shop}
spec:
  hosts: [10.0.0.1]
  ports:
  - name: web
    port: 443
    httpGet: {scheme: HTTPS}
    tls: {caFrom: {secretKeyRef: {name: ca, key: ca.crt}}}
  - {name: plain, port: 80, tcpSocket: {enable: true}}
---
apiVersion: v1
kind: Secret
metadata: {name: ca}
stringData: {ca.crt: '-----BEGIN CERTIFICATE-----'}
";

#[test]
fn references_are_found_among_the_documents() {
    let (table, well) = probed(WITH_CA, "-f x");
    assert!(well, "{table}");
}

#[test]
fn a_missing_reference_hinders_its_own_port_only() {
    let (table, well) = probed(&WITH_CA.replace("stringData: {ca.crt", "stringData: {tls.crt"), "-f x");
    assert!(!well);
    assert!(
        table.contains(
            "Misconfigured  ports[0].tls.caFrom: Secret ca, key ca.crt: it has no such key; give it with \
             --material secret/ca/ca.crt=FILE"
        ),
        "{table}"
    );
    assert!(table.contains("1 of 2 endpoints"), "{table}");
}
