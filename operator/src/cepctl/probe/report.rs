//! What the probes found out, for people and for programs.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use cep_core::outcome::{Cause, Outcome};
use serde_json::{Value, json};

use super::super::output::{self, Cell, Palette, Table, Tone};
use super::Probed;
use super::attempts::Attempt;

/// One ClusterEndpoint.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) endpoints: Vec<Endpoint>,
}

/// One address of one host on one port.
#[derive(Debug)]
pub(super) struct Endpoint {
    port: String,
    port_number: u16,
    target_port: u16,
    host: String,
    address: Option<IpAddr>,
    check: String,
    /// How long its name took to resolve.
    pub(super) dns: Option<Duration>,
    /// What is known without probing.
    foregone: Option<Outcome>,
    pub(super) runs: Vec<Probed>,
}

impl Endpoint {
    pub(super) fn new(attempt: &Attempt, address: Option<IpAddr>, foregone: Option<Outcome>) -> Self {
        Self {
            port: attempt.port.clone(),
            port_number: attempt.port_number,
            target_port: attempt.target_port,
            host: attempt.host.clone(),
            address,
            check: attempt.check.clone(),
            dns: None,
            foregone,
            runs: Vec::new(),
        }
    }

    fn outcomes(&self) -> impl Iterator<Item = &Outcome> {
        self.foregone.iter().chain(self.runs.iter().map(|run| &run.outcome))
    }

    fn successes(&self) -> usize {
        self.outcomes().filter(|outcome| **outcome == Outcome::Success).count()
    }

    fn is_probed(&self) -> bool {
        self.outcomes().next().is_some()
    }

    /// Of a port without probe there is nothing bad to say.
    fn is_well(&self) -> bool {
        self.successes() == self.outcomes().count()
    }

    /// The last outcome that was no success, or the last one.
    fn telling(&self) -> Option<&Outcome> {
        let mut outcomes: Vec<&Outcome> = self.outcomes().collect();
        outcomes.sort_by_key(|outcome| **outcome != Outcome::Success);
        outcomes.last().copied()
    }

    fn cause(&self) -> Option<&Cause> {
        self.telling().and_then(Outcome::cause)
    }

    fn verdict(&self) -> Cell {
        let word = match self.telling() {
            None => return Cell::new(Tone::Quiet, "not probed"),
            Some(outcome) => outcome.label(),
        };
        let tone = match self.telling() {
            Some(Outcome::Success) => Tone::Good,
            Some(Outcome::Failure(_)) => Tone::Bad,
            _ => Tone::Doubtful,
        };
        match self.runs.len() {
            0 | 1 => Cell::new(tone, word),
            _ => Cell::new(tone, format!("{word} {}/{}", self.successes(), self.runs.len())),
        }
    }

    /// The average of a phase over all runs that have it.
    fn average(&self, phase: impl Fn(&Probed) -> Option<Duration>) -> Option<Duration> {
        let times: Vec<Duration> = self.runs.iter().filter_map(phase).collect();
        let count = u32::try_from(times.len()).ok().filter(|count| *count > 0)?;
        Some(times.iter().sum::<Duration>() / count)
    }

    fn time(&self) -> String {
        let average = self.average(|run| Some(run.took));
        let longest = self.runs.iter().map(|run| run.took).max();
        match (average, longest) {
            (Some(average), Some(longest)) if self.runs.len() > 1 => {
                format!("{} (max {})", output::took(average), output::took(longest))
            }
            (Some(average), _) => output::took(average),
            _ => String::new(),
        }
    }
}

impl Report {
    /// Whether all that was probed answered as expected.
    pub(super) fn all_well(&self) -> bool {
        self.endpoints.iter().all(Endpoint::is_well)
    }
}

/// For people.
pub(super) fn table(reports: &[Report], palette: Palette) -> String {
    let mut text = String::new();
    for report in reports {
        if reports.len() > 1 {
            text.push_str(&palette.paint(Tone::Strong, &format!("{}/{}\n", report.namespace, report.name)));
        }
        let mut table = Table::new([
            "PORT",
            "HOST",
            "ADDRESS",
            "CHECK",
            "OUTCOME",
            "DNS",
            "CONNECT",
            "TLS",
            "FIRST BYTE",
            "TIME",
            "REASON",
            "MESSAGE",
        ]);
        let time = |time: Option<Duration>| Cell::from(time.map(output::took).unwrap_or_default());
        for endpoint in &report.endpoints {
            let cause = endpoint.cause();
            let address = endpoint.address.map(|address| SocketAddr::new(address, endpoint.target_port));
            table.row(vec![
                endpoint.port.as_str().into(),
                endpoint.host.as_str().into(),
                address.map(|address| address.to_string()).unwrap_or_default().into(),
                endpoint.check.as_str().into(),
                endpoint.verdict(),
                time(endpoint.dns),
                time(endpoint.average(|run| run.connect)),
                time(endpoint.average(|run| run.tls)),
                time(endpoint.average(|run| run.first_byte)),
                endpoint.time().into(),
                cause.map(|cause| cause.reason.to_string()).unwrap_or_default().into(),
                cause.map(|cause| cause.message.to_string()).unwrap_or_default().into(),
            ]);
        }
        text.push_str(&table.render(palette));
    }
    let probed = || reports.iter().flat_map(|report| &report.endpoints).filter(|e| e.is_probed());
    let well = probed().filter(|endpoint| endpoint.is_well()).count();
    let all = probed().count();
    let tone = if well == all { Tone::Good } else { Tone::Bad };
    text.push_str(
        &palette.paint(tone, &format!("{well} of {all} endpoints answered as their checks expect")),
    );
    text.push('\n');
    text
}

/// For programs.
pub(super) fn json(reports: &[Report]) -> Value {
    let ms = |time: Duration| (time.as_secs_f64() * 1e6).round() / 1e3;
    let outcome = |outcome: &Outcome| {
        json!({
            "outcome": outcome.label(),
            "reason": outcome.cause().map(|cause| cause.reason.as_str()),
            "message": outcome.cause().map(|cause| cause.message.to_string()),
        })
    };
    let run = |run: &Probed| {
        let mut value = outcome(&run.outcome);
        value["durationMs"] = ms(run.took).into();
        for (name, time) in [("connectMs", run.connect), ("tlsMs", run.tls), ("firstByteMs", run.first_byte)]
        {
            if let Some(time) = time {
                value[name] = ms(time).into();
            }
        }
        value
    };
    let endpoint = |endpoint: &Endpoint| {
        let mut value = endpoint.telling().map_or_else(|| json!({"outcome": null}), outcome);
        value["port"] = endpoint.port.as_str().into();
        value["portNumber"] = endpoint.port_number.into();
        value["targetPort"] = endpoint.target_port.into();
        value["host"] = endpoint.host.as_str().into();
        value["address"] = endpoint.address.map(|address| address.to_string()).into();
        value["check"] = endpoint.check.as_str().into();
        value["dnsMs"] = endpoint.dns.map(ms).into();
        value["runs"] = endpoint.runs.iter().map(run).collect();
        value
    };
    let items = reports.iter().map(|report| {
        let endpoints: Vec<Value> = report.endpoints.iter().map(endpoint).collect();
        json!({"namespace": report.namespace, "name": report.name, "endpoints": endpoints})
    });
    json!({"items": items.collect::<Vec<_>>()})
}
