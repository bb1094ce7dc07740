//! An explanation for people.

use jiff::Timestamp;

use super::super::cli::Explain;
use super::super::output::{Cell, Palette, Table, Tone, ago, chain, span};
use super::findings::{ConditionExplained, Endpoint, Explanation};
use super::live::Live;

pub(super) fn text(explanation: &Explanation, now: Timestamp, palette: Palette) -> String {
    let tone = match explanation.phase.as_str() {
        "Healthy" => Tone::Good,
        "UnHealthy" => Tone::Bad,
        _ => Tone::Doubtful,
    };
    let mut text = palette
        .paint(Tone::Strong, &format!("ClusterEndpoint {}/{}", explanation.namespace, explanation.name));
    text.push_str(": ");
    text.push_str(&palette.paint(tone, &explanation.phase));
    if !explanation.ready.is_empty() {
        text.push_str(&format!(", {} endpoints served", explanation.ready));
    }
    text.push('\n');
    for note in &explanation.notes {
        text.push_str(&format!("  {}\n", palette.paint(Tone::Doubtful, note)));
    }
    if !explanation.endpoints.is_empty() {
        text.push('\n');
        text.push_str(&endpoints(&explanation.endpoints, now).render(palette));
    }
    let bad: Vec<&ConditionExplained> = explanation.conditions.iter().filter(|c| !c.is_good()).collect();
    if !bad.is_empty() {
        text.push('\n');
    }
    for condition in bad {
        text.push_str(&of_condition(condition, now, palette));
    }
    text
}

fn endpoints(endpoints: &[Endpoint], now: Timestamp) -> Table {
    let mut table =
        Table::new(["PORT", "HOST", "ADDRESS", "CHECK", "STATE", "SINCE", "LAST PROBE", "NEXT PROBE", "WHY"]);
    for endpoint in endpoints {
        // Of a literal address the host says it all.
        let address = endpoint.address.as_deref().filter(|address| *address != endpoint.host);
        table.row(vec![
            endpoint.port.as_str().into(),
            endpoint.host.as_str().into(),
            address.unwrap_or_default().into(),
            endpoint.check.as_deref().unwrap_or_default().into(),
            state(endpoint),
            endpoint.since.map(|since| ago(now, since)).unwrap_or_default().into(),
            last(endpoint, now).into(),
            endpoint.next_probe.map(|at| due(now, at)).unwrap_or_default().into(),
            why(endpoint).into(),
        ]);
    }
    table
}

fn state(endpoint: &Endpoint) -> Cell {
    match (endpoint.served, endpoint.verdict.as_str()) {
        (Some(true), "Healthy") => Cell::new(Tone::Good, "in"),
        (Some(true), _) => Cell::new(Tone::Doubtful, "in (unhealthy)"),
        (Some(false), "Unhealthy") => Cell::new(Tone::Bad, "out"),
        (Some(false), "Healthy") => Cell::new(Tone::Doubtful, "out (healthy)"),
        (Some(false), _) => Cell::new(Tone::Doubtful, "out (not judged)"),
        (None, "Unknown") => Cell::new(Tone::Doubtful, "not listed (not judged)"),
        (None, _) => Cell::new(Tone::Doubtful, "not listed"),
    }
}

fn last(endpoint: &Endpoint, now: Timestamp) -> String {
    match (endpoint.last_probe, &endpoint.last_outcome) {
        (Some(at), Some(outcome)) => format!("{outcome} {} ago", ago(now, at)),
        _ => String::new(),
    }
}

fn due(now: Timestamp, at: Timestamp) -> String {
    match at.as_second() - now.as_second() {
        seconds if seconds > 0 => format!("in {}", span(seconds)),
        _ => "now".to_owned(),
    }
}

fn why(endpoint: &Endpoint) -> String {
    let mut parts = Vec::new();
    match (&endpoint.reason, &endpoint.message) {
        (Some(reason), Some(message)) if !message.is_empty() => parts.push(format!("{reason}: {message}")),
        (Some(reason), _) => parts.push(reason.clone()),
        _ => {}
    }
    if let Some((against, threshold)) = endpoint.against {
        let (what, then) = match endpoint.verdict.as_str() {
            "Healthy" => ("failures", "out"),
            "Unhealthy" => ("successes", "in"),
            _ => ("outcomes", "judged"),
        };
        parts.push(format!("{against} of {threshold} {what} in a row until it is {then}"));
    }
    parts.extend(endpoint.advice.clone());
    parts.join("; ")
}

fn of_condition(condition: &ConditionExplained, now: Timestamp, palette: Palette) -> String {
    let tone = match condition.status.as_str() {
        "True" => Tone::Good,
        "False" => Tone::Bad,
        _ => Tone::Doubtful,
    };
    let since = condition.since.map(|since| format!(" for {}", ago(now, since))).unwrap_or_default();
    let mut text = format!(
        "{} is {}{since}: {}\n",
        palette.paint(Tone::Strong, &condition.type_),
        palette.paint(tone, &condition.status),
        condition.reason
    );
    if !condition.message.is_empty() {
        text.push_str(&format!("  {}\n", condition.message));
    }
    if let Some(advice) = &condition.advice {
        text.push_str(&format!("  → {advice}\n"));
    }
    text
}

/// The last line: whom the times come from.
pub(super) fn operator(live: &Live, palette: Palette) -> String {
    let overview = &live.overview;
    let mut text = format!(
        "Operator {} {}, up for {}, probes {} targets",
        overview.identity,
        overview.version,
        ago(overview.now, overview.started),
        overview.targets
    );
    if !overview.leader {
        text.push_str("; it is not the leader: what it knows is right, but it is not the one that writes");
    }
    if live.ahead.as_secs() != 0 {
        text.push_str(&format!(
            "; its clock is {} off, which is allowed for",
            span(live.ahead.abs().as_secs())
        ));
    }
    let mut text = palette.paint(Tone::Quiet, &text) + "\n";
    if overview.blind {
        let blind = "The operator is blind: so many unrelated hosts fell silent at once that it doubts its own \
                     network. It takes nobody out for silence until most of them answer again. See the \
                     network of its node: routes, NetworkPolicies, firewall.";
        text.push_str(&palette.paint(Tone::Bad, blind));
        text.push('\n');
    }
    text
}

/// The last line when the operator could not be asked.
pub(super) fn no_operator(error: &anyhow::Error, arguments: &Explain, palette: Palette) -> String {
    let namespace = &arguments.operator_namespace;
    let text = format!(
        "Last and next probes are not shown, for the operator could not be asked: {}.\nTo see them, get \
         leave to \"get\" pods/proxy in namespace {namespace}, or go there yourself:\n  kubectl -n {namespace} \
         port-forward deployment/endpoints-operator 8080 &\n  and give --admin-url http://127.0.0.1:8080",
        chain(error.as_ref())
    );
    palette.paint(Tone::Quiet, &text) + "\n"
}
