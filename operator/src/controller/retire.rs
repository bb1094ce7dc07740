//! A cep that is being deleted.

use std::time::{Duration, Instant};

use cep_core::api::v1beta1::ClusterEndpoint;
use cep_core::plan::{FINALIZER, HandBack, Identity, Write, hand_back};
use kube::runtime::controller::Action;

use super::apply::{apply, has_orphaned_finalizer, set_finalizer};
use super::context::Context;
use super::dereference;
use super::error::Error;
use super::memory::Memory;

/// How long the mirroring controller may take before a hand-back goes on without it.
const MIRROR_PATIENCE: Duration = Duration::from_secs(20);
/// How often to look for it.
const MIRROR_POLL: Duration = Duration::from_millis(100);

/// Hands an adopted Service back, and lets the cep go. A Service that was created for the cep is
/// garbage-collected with it.
pub(super) async fn retire(
    context: &Context,
    identity: &Identity,
    cep: &ClusterEndpoint,
    memory: &mut Memory,
) -> Result<Action, Error> {
    if !context.leads() {
        return Ok(Action::await_change());
    }
    let ours = cep.metadata.finalizers.iter().flatten().any(|f| f == FINALIZER);
    if !ours {
        if has_orphaned_finalizer(cep) {
            set_finalizer(context, cep, false)
                .await
                .map_err(|source| Error::Apply { object: "clusterendpoint", source })?;
        }
        return Ok(Action::await_change());
    }
    let mut observed = context.observe(identity, memory);
    dereference::unlabelled_endpoints(context, &mut observed, identity, memory).await?;
    let patient = memory.retiring_since.is_none_or(|since| since.elapsed() < MIRROR_PATIENCE);
    let next = match memory.namespace_terminating {
        true => HandBack::Write(vec![Write::RemoveFinalizer]),
        false => hand_back(identity, &observed, patient),
    };
    let HandBack::Write(writes) = next else {
        memory.retiring_since.get_or_insert_with(Instant::now);
        return Ok(Action::requeue(MIRROR_POLL));
    };
    match apply(context, identity, cep, memory, writes, None).await {
        Ok(()) => Ok(Action::requeue(MIRROR_POLL)),
        Err(error) if error.api().is_namespace_terminating() => {
            memory.namespace_terminating = true;
            Ok(Action::requeue(Duration::ZERO))
        }
        Err(error) => Err(error),
    }
}
