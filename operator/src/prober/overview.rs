//! What the prober tells about itself.

use cep_core::check::Host;
use cep_core::fail_open::{Serving, serve};
use cep_core::health::Verdict;
use cep_core::overview::{CepOverview, EndpointOverview, LastProbe};

use super::Wanted;
use super::owner::{Cep, Member, Owner};

impl Owner {
    /// The wanted ceps, sorted by namespace and name.
    pub(super) fn overview(&self, wanted: &Wanted) -> Vec<CepOverview> {
        let admits = |part: &Option<String>, text: &str| part.as_deref().is_none_or(|wanted| wanted == text);
        let groups = self.sorted_groups();
        groups
            .iter()
            .filter(|(key, _)| admits(&wanted.namespace, &key.namespace) && admits(&wanted.name, &key.name))
            .filter_map(|(_, group)| self.ceps.get(group))
            .map(|cep| self.of_cep(cep))
            .collect()
    }

    fn of_cep(&self, cep: &Cep) -> CepOverview {
        let serving = serve(cep.snapshot());
        let endpoints = cep.snapshot().endpoints.iter().zip(&cep.members).zip(serving);
        CepOverview {
            namespace: cep.key.namespace.to_string(),
            name: cep.key.name.to_string(),
            endpoints: endpoints
                .map(|((endpoint, member), serving)| self.of_member(cep, endpoint, member, serving))
                .collect(),
        }
    }

    fn of_member(
        &self,
        cep: &Cep,
        endpoint: &cep_core::snapshot::Endpoint,
        member: &Member,
        serving: Serving,
    ) -> EndpointOverview {
        let port = &cep.definition.ports[endpoint.port];
        let cause = match endpoint.verdict {
            Verdict::Unhealthy => endpoint.cause.as_ref(),
            _ => endpoint.obstacle.as_ref(),
        };
        let entry = member.target.and_then(|id| self.targets.get(id as usize)?.as_ref());
        let judgement = self.judgement(&cep.definition, member);
        let due = member.target.and_then(|id| self.schedule.due_of(id));
        EndpointOverview {
            port: port.label(),
            port_number: port.port,
            target_port: port.target_port,
            host: match &endpoint.host {
                Host::Address(address) => address.to_string(),
                Host::Name(name) => name.to_string(),
            },
            address: endpoint.address.map(|address| address.to_string()),
            check: port.check.as_ref().map_or("none", |check| check.kind()).to_owned(),
            verdict: endpoint.verdict.to_string(),
            served: serving == Serving::Ready,
            since: endpoint.since,
            reason: cause.map(|cause| cause.reason.to_string()),
            message: cause.map(|cause| cause.message.to_string()),
            last: entry.and_then(|entry| entry.last.as_ref()).map(|last| LastProbe {
                at: last.at,
                outcome: last.outcome.label().to_owned(),
                reason: last.outcome.cause().map(|cause| cause.reason.to_string()),
                message: last.outcome.cause().map(|cause| cause.message.to_string()),
                duration_ms: last.took.as_secs_f64() * 1e3,
            }),
            against: judgement.map_or(0, |j| j.health.against()),
            threshold: match endpoint.verdict {
                Verdict::Healthy => port.thresholds.failure,
                Verdict::Unhealthy => port.thresholds.success,
                Verdict::Unknown => 1,
            },
            next_probe: due.map(|due| self.timestamp_at(due)),
            period_seconds: cep.definition.cadence.period.as_secs(),
        }
    }
}
