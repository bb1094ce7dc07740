//! Since when and why a verdict holds, when somebody has told it before.

use std::sync::Arc;

use cep_core::snapshot::{CepKey, Snapshot, Told};

use super::owner::Owner;

impl Owner {
    /// Takes over what has been told of verdicts that are in force here too. Nobody is told of that.
    pub(super) fn settle(&mut self, key: &CepKey, told: &[Told]) -> Option<Arc<Snapshot>> {
        let group = *self.groups.get(key)?;
        let cep = self.ceps.get_mut(&group)?;
        for member in &mut cep.members {
            let port = &cep.definition.ports[member.place.port];
            let is_of = |told: &&Told| told.is_of(port.port, &member.place.host, member.place.address);
            let Some(told) = told.iter().find(is_of) else { continue };
            member.since = told.since;
            let entry = member.target.and_then(|id| self.targets.get_mut(id as usize)?.as_mut());
            let judgement =
                entry.and_then(|e| e.judgements.iter_mut().find(|j| j.thresholds == port.thresholds));
            if let Some(judgement) = judgement {
                judgement.health.settle(told);
            }
        }
        self.rebuild(group);
        self.ceps.get(&group).map(|cep| cep.snapshot.clone())
    }
}
