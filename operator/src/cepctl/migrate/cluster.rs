//! Carrying a handover out: observe, decide, act, until nothing is left to do.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use cep_core::api::v1beta1::ClusterEndpoint;
use k8s_openapi::api::core::v1::{Endpoints, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions, PropagationPolicy};
use kube::core::{ApiResource, DynamicObject};
use kube::{Api, ResourceExt};
use serde_json::json;

use super::super::cli::OldGroup;
use super::super::cluster::{Cluster, api_error};
use super::super::output;
use super::handover::{Dependent, New, Observed, Old, Step, imagine, next};

const PAUSE: Duration = Duration::from_millis(300);
/// So often may the same reference come back before it is clear that somebody puts it there.
const PATIENCE: u32 = 5;

/// Access to old objects of a group.
pub(super) fn old_objects(cluster: &Cluster, group: OldGroup, all_namespaces: bool) -> Api<DynamicObject> {
    let resource = ApiResource {
        group: group.as_str().to_owned(),
        version: "v1beta1".to_owned(),
        api_version: format!("{}/v1beta1", group.as_str()),
        kind: "ClusterEndpoint".to_owned(),
        plural: "clusterendpoints".to_owned(),
    };
    if all_namespaces {
        Api::all_with(cluster.client.clone(), &resource)
    } else {
        Api::namespaced_with(cluster.client.clone(), &cluster.namespace, &resource)
    }
}

/// One object on its way.
pub(super) struct Handover<'a> {
    pub(super) cluster: &'a Cluster,
    pub(super) name: &'a str,
    /// The object to create; absent when the old one is gone already.
    pub(super) wanted: Option<ClusterEndpoint>,
    pub(super) timeout: Duration,
    /// How long the original operator must keep still to count as scaled down.
    pub(super) quiet: Duration,
}

/// Signs of life of the original operator.
#[derive(Default)]
struct Watched {
    status: Option<serde_json::Value>,
    quiet_since: Option<Instant>,
}

impl Watched {
    /// Takes an observation in; says whether the status has changed.
    fn look(&mut self, observed: &Observed, status: Option<serde_json::Value>) -> bool {
        let changed = self.status.is_some() && status.is_some() && self.status != status;
        self.status = status.or(self.status.take());
        if changed || observed.is_referred_to() {
            self.quiet_since = None;
        } else {
            self.quiet_since.get_or_insert_with(Instant::now);
        }
        changed
    }

    fn quiet_for(&self) -> Duration {
        self.quiet_since.map(|since| since.elapsed()).unwrap_or_default()
    }
}

impl Handover<'_> {
    /// Says what would be done; the API server checks the new object.
    pub(super) async fn rehearse(&self) -> anyhow::Result<()> {
        let (mut observed, _) = self.observe().await?;
        let mut step = next(&observed);
        if step.is_last() {
            self.say(&step.to_string(), true);
        }
        while !step.is_last() {
            if step == Step::Create {
                self.create(true).await?;
            }
            self.say(&format!("would {step}"), false);
            imagine(&mut observed, &step);
            step = next(&observed);
        }
        Ok(())
    }

    /// Does it.
    pub(super) async fn carry_out(&self) -> anyhow::Result<()> {
        let deadline = Instant::now() + self.timeout;
        let mut last_said = String::new();
        let mut watched = Watched::default();
        let mut warned = false;
        let mut releases = 0;
        loop {
            let (mut observed, status) = self.observe().await?;
            if watched.look(&observed, status) && !warned {
                warned = true;
                output::warn(&format!(
                    "{}: the status of the old object has changed: the original operator seems to run \
                     still. Scale it down",
                    self.label()
                ));
            }
            observed.quiet = watched.quiet_for() >= self.quiet;
            let step = next(&observed);
            let said = step.to_string();
            if said != last_said {
                self.say(&said, step.is_last());
                last_said = said;
            }
            if step.is_last() {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!(
                    "{}: time is up, and this is still to do: {step}. The Service works as before. {} Then run \
                     the same command again",
                    self.label(),
                    advice(&step)
                );
            }
            if matches!(step, Step::Release { .. }) {
                releases += 1;
                if releases > PATIENCE + observed.dependents.len() as u32 {
                    bail!(
                        "{}: the reference to the old object comes back when it is taken off: the original \
                         operator still runs. Scale its Deployment to 0, then run the same command again. The \
                         Service works as before",
                        self.label()
                    );
                }
            }
            if step.is_wait() {
                tokio::time::sleep(PAUSE).await;
            } else {
                self.perform(&step).await.with_context(|| format!("{}: could not {step}", self.label()))?;
            }
        }
    }

    fn label(&self) -> String {
        format!("{}/{}", self.cluster.namespace, self.name)
    }

    fn say(&self, text: &str, last: bool) {
        let mark = if last { "✔" } else { "…" };
        output::say(&format!("{mark} {}: {text}", self.label()));
    }

    async fn observe(&self) -> anyhow::Result<(Observed, Option<serde_json::Value>)> {
        let label = self.label();
        let failed = |error| api_error(error, &label);
        let old = match old_objects(self.cluster, OldGroup::Sealos, false).get_opt(self.name).await {
            // Somebody has removed the old CRD, and all its objects with it.
            Err(kube::Error::Api(status)) if status.is_not_found() => None,
            other => other.map_err(failed)?,
        };
        let new = self.cluster.namespaced::<ClusterEndpoint>().get_opt(self.name).await.map_err(failed)?;
        let mut dependents = Vec::new();
        let service = self.cluster.namespaced::<Service>().get_metadata_opt(self.name).await;
        dependents.extend(service.map_err(failed)?.map(|object| Dependent::of("Service", &object.metadata)));
        let endpoints = self.cluster.namespaced::<Endpoints>().get_metadata_opt(self.name).await;
        dependents
            .extend(endpoints.map_err(failed)?.map(|object| Dependent::of("Endpoints", &object.metadata)));
        let of_service = ListParams::default().labels(&format!("kubernetes.io/service-name={}", self.name));
        let slices = self.cluster.namespaced::<EndpointSlice>().list_metadata(&of_service).await;
        dependents.extend(
            slices
                .map_err(failed)?
                .items
                .iter()
                .map(|object| Dependent::of("EndpointSlice", &object.metadata)),
        );
        let status = old.as_ref().map(|old| old.data["status"].clone());
        let observed = Observed {
            old: old.map(|old| Old::of(&old.metadata)),
            new: new.as_ref().map(New::of),
            dependents,
            quiet: false,
        };
        Ok((observed, status))
    }

    async fn create(&self, dry_run: bool) -> anyhow::Result<()> {
        let Some(wanted) = &self.wanted else {
            bail!("the old object appeared only now; run the same command again");
        };
        let mut object = wanted.clone();
        object.metadata.namespace = Some(self.cluster.namespace.clone());
        let what = format!("new ClusterEndpoint {}", self.label());
        let parameters = PostParams { dry_run, field_manager: Some("cepctl".to_owned()) };
        match self.cluster.namespaced::<ClusterEndpoint>().create(&parameters, &object).await {
            Ok(_) => Ok(()),
            // Somebody else was faster; the next observation shows it.
            Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(()),
            Err(error) => Err(api_error(error, &what)),
        }
    }

    async fn perform(&self, step: &Step) -> anyhow::Result<()> {
        let result = match step {
            Step::Create => return self.create(false).await,
            Step::Release { kind, name, resource_version, keep } => {
                let patch =
                    json!({"metadata": {"resourceVersion": resource_version, "ownerReferences": keep}});
                self.release(kind, name, &patch).await
            }
            Step::StripFinalizers { resource_version, keep } => {
                let patch = json!({"metadata": {"resourceVersion": resource_version, "finalizers": keep}});
                let old = old_objects(self.cluster, OldGroup::Sealos, false);
                old.patch_metadata(self.name, &PatchParams::default(), &Patch::Merge(&patch)).await.map(drop)
            }
            Step::Remove { uid } => {
                let preconditions = Preconditions { uid: Some(uid.clone()), resource_version: None };
                let parameters = DeleteParams {
                    propagation_policy: Some(PropagationPolicy::Orphan),
                    preconditions: Some(preconditions),
                    ..DeleteParams::default()
                };
                let old = old_objects(self.cluster, OldGroup::Sealos, false);
                old.delete(self.name, &parameters).await.map(drop)
            }
            _ => Ok(()),
        };
        match result {
            // Changed or gone meanwhile: look again.
            Err(kube::Error::Api(status)) if status.is_conflict() || status.is_not_found() => {
                tokio::time::sleep(PAUSE).await;
                Ok(())
            }
            other => other.map_err(|error| api_error(error, &self.label())),
        }
    }

    async fn release(&self, kind: &str, name: &str, patch: &serde_json::Value) -> Result<(), kube::Error> {
        let parameters = PatchParams::default();
        let patch = Patch::Merge(patch);
        match kind {
            "Service" => {
                self.cluster.namespaced::<Service>().patch_metadata(name, &parameters, &patch).await.map(drop)
            }
            "Endpoints" => self
                .cluster
                .namespaced::<Endpoints>()
                .patch_metadata(name, &parameters, &patch)
                .await
                .map(drop),
            _ => self
                .cluster
                .namespaced::<EndpointSlice>()
                .patch_metadata(name, &parameters, &patch)
                .await
                .map(drop),
        }
    }
}

fn advice(step: &Step) -> &'static str {
    match step {
        Step::AwaitAdoption(_) => {
            "See that endpoints-operator runs, and what cepctl explain says about the new object."
        }
        Step::AwaitRemoval(_) => "See whose finalizers hold the old object.",
        Step::Settle => {
            "Scale the original operator down, and give a --timeout of more than the old object's period."
        }
        _ => "See whether others write to the same objects.",
    }
}

/// Replaces the spec of an object of our own group that was stored by the original operator.
///
/// Returns whether there was anything to change.
pub(super) async fn rewrite(
    cluster: &Cluster,
    stored: &DynamicObject,
    wanted: &ClusterEndpoint,
    dry_run: bool,
) -> anyhow::Result<bool> {
    let spec = serde_json::to_value(&wanted.spec)?;
    let typed: Option<cep_core::api::v1beta1::ClusterEndpointSpec> =
        serde_json::from_value(stored.data["spec"].clone()).ok();
    if typed.as_ref() == Some(&wanted.spec) {
        return Ok(false);
    }
    let mut object = stored.clone();
    object.data["spec"] = spec;
    let parameters = PostParams { dry_run, field_manager: Some("cepctl".to_owned()) };
    old_objects(cluster, OldGroup::Sealyun, false)
        .replace(&stored.name_any(), &parameters, &object)
        .await
        .map_err(|error| api_error(error, &format!("{}/{}", cluster.namespace, stored.name_any())))?;
    Ok(true)
}
