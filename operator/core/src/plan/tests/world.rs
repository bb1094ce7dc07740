//! The API server as far as a plan sees it: writes change what is observed, and what it would refuse
//! fails the test.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::Service;
use serde_json::{Value, json};

use super::super::*;
use crate::check::Definition;
use crate::endpoints::slices;
use crate::fail_open::serve;
use crate::snapshot::{CepKey, Snapshot};

pub(super) struct World {
    pub(super) identity: Identity,
    pub(super) observed: Observed,
    pub(super) finalizers: Vec<String>,
    pub(super) write_endpoints: bool,
    version: u64,
}

impl World {
    pub(super) fn new() -> Self {
        Self::with_labels(&[])
    }

    pub(super) fn with_labels(labels: &[(&str, &str)]) -> Self {
        let labels: BTreeMap<_, _> = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Self {
            identity: Identity {
                key: CepKey::new("shop", "db"),
                uid: "8a6f".to_owned(),
                labels: copied_labels(Some(&labels)),
            },
            observed: Observed::default(),
            finalizers: Vec::new(),
            write_endpoints: true,
            version: 100,
        }
    }

    pub(super) fn claim(&self, definition: &Definition) -> Result<Claim, Refusal> {
        claim(&self.identity, &self.finalizers, definition, &self.observed)
    }

    /// What would be written now.
    #[track_caller]
    pub(super) fn plan(&self, snapshot: &Snapshot) -> Vec<Write> {
        let claim = self.claim(&snapshot.definition).expect("the Service is not refused");
        let slices = slices(&self.identity.key.name, snapshot, &serve(snapshot));
        let desired = Desired {
            identity: &self.identity,
            definition: &snapshot.definition,
            slices: &slices,
            write_endpoints: self.write_endpoints,
        };
        plan(claim, &desired, &self.observed)
    }

    /// Plans, carries it out, and looks whether that was all.
    #[track_caller]
    pub(super) fn reconcile(&mut self, snapshot: &Snapshot) -> Vec<Write> {
        let writes = self.plan(snapshot);
        self.carry_out(&writes);
        self.mirror();
        assert_eq!(self.plan(snapshot), [], "a plan leaves nothing to do");
        writes
    }

    #[track_caller]
    pub(super) fn apply(&mut self, write: &Write) {
        self.version += 1;
        let version = Some(self.version.to_string());
        match write {
            Write::AddFinalizer => self.finalizers.push(FINALIZER.to_owned()),
            Write::RemoveFinalizer => self.finalizers.retain(|f| f != FINALIZER),
            Write::CreateService(service) => {
                assert!(self.observed.service.is_none(), "the Service exists");
                let mut service = service.clone();
                service.metadata.resource_version = version;
                let spec = service.spec.as_mut().unwrap();
                spec.cluster_ip.get_or_insert_with(|| "10.96.0.7".to_owned());
                spec.ip_families.get_or_insert_with(|| match spec.ip_family_policy.as_deref() {
                    Some("PreferDualStack") => vec!["IPv4".to_owned(), "IPv6".to_owned()],
                    _ => vec!["IPv4".to_owned()],
                });
                self.observed.service = Some(service);
                self.observed.remembered = None;
            }
            Write::PatchService(patch) => {
                let mut service = json!(self.observed.service.as_ref().expect("the Service is there"));
                let guard = &patch["metadata"]["resourceVersion"];
                assert_eq!(guard, &service["metadata"]["resourceVersion"], "guarded");
                merge_patch(&mut service, patch);
                let mut service: Service = serde_json::from_value(service).unwrap();
                service.metadata.resource_version = version;
                self.observed.service = Some(service);
            }
            Write::CreateSlice(slice) => {
                let name = slice.metadata.name.clone().unwrap();
                assert!(self.names().insert(name.clone()), "slice {name} exists");
                let mut slice = slice.clone();
                slice.metadata.resource_version = version;
                self.observed.slices.push(slice);
            }
            Write::ReplaceSlice(slice) => {
                let is_it = |s: &&mut EndpointSlice| s.metadata.name == slice.metadata.name;
                let stored = self.observed.slices.iter_mut().find(is_it).expect("the slice is there");
                assert_eq!(stored.metadata.resource_version, slice.metadata.resource_version, "guarded");
                assert_eq!(stored.address_type, slice.address_type, "immutable");
                let of = |s: &EndpointSlice| s.metadata.labels.clone().unwrap()[SERVICE_NAME_LABEL].clone();
                assert_eq!(of(stored), of(slice), "kube-proxy would keep the old endpoints");
                *stored = slice.clone();
                stored.metadata.resource_version = version;
                let foreign =
                    |s: &EndpointSlice| s.metadata.labels.clone().unwrap()[MANAGED_BY_LABEL] != MANAGED_BY;
                for left in self.observed.slices.extract_if(.., |s| foreign(s)) {
                    let managed_by = left.metadata.labels.unwrap().remove(MANAGED_BY_LABEL);
                    self.observed
                        .foreign
                        .push(ForeignSlice { name: left.metadata.name.unwrap(), managed_by });
                }
            }
            Write::DeleteSlice(name) => {
                assert!(self.names().contains(name), "slice {name} is there");
                self.observed.slices.retain(|s| s.metadata.name.as_ref() != Some(name));
                self.observed.foreign.retain(|s| s.name != *name);
            }
            Write::CreateEndpoints(endpoints) => {
                assert!(self.observed.endpoints.is_none(), "the Endpoints exist");
                let mut endpoints = endpoints.clone();
                endpoints.metadata.resource_version = version;
                self.observed.endpoints = Some(endpoints);
            }
            Write::ReplaceEndpoints(endpoints) => {
                let stored = self.observed.endpoints.as_mut().expect("the Endpoints are there");
                assert_eq!(stored.metadata.resource_version, endpoints.metadata.resource_version, "guarded");
                *stored = endpoints.clone();
                stored.metadata.resource_version = version;
            }
            Write::DeleteEndpoints => {
                assert!(self.observed.endpoints.take().is_some(), "the Endpoints are there");
            }
        }
    }

    fn names(&self) -> BTreeSet<String> {
        let own = self.observed.slices.iter().filter_map(|s| s.metadata.name.clone());
        own.chain(self.observed.foreign.iter().map(|s| s.name.clone())).collect()
    }

    /// What the mirroring controller does once it has come round.
    pub(super) fn mirror(&mut self) {
        self.observed.foreign.retain(|s| s.managed_by.as_deref() != Some(MIRRORING));
        let Some(endpoints) = &self.observed.endpoints else { return };
        if endpoints.metadata.labels.as_ref().is_some_and(|l| l.contains_key(SKIP_MIRROR_LABEL)) {
            return;
        }
        for n in 0..endpoints.subsets.iter().flatten().count() {
            let managed_by = Some(MIRRORING.to_owned());
            self.observed.foreign.push(ForeignSlice { name: format!("db-mirrored-{n}"), managed_by });
        }
    }

    /// The ports of the Service for which slices exist, ours or mirrored ones.
    pub(super) fn covered_ports(&self) -> BTreeSet<i32> {
        let mirrored = self.observed.foreign.iter().any(|f| f.managed_by.as_deref() == Some(MIRRORING));
        let own: Vec<Slice> = self.observed.slices.iter().filter_map(Slice::read).collect();
        let spec = self.observed.service.as_ref().and_then(|s| s.spec.clone()).unwrap_or_default();
        let ports = spec.ports.into_iter().flatten();
        let covered = ports.filter(|p| {
            mirrored || own.iter().any(|slice| slice.port.name == p.name.clone().unwrap_or_default())
        });
        covered.map(|p| p.port).collect()
    }

    /// Carries out a plan, and sees that no port which has slices before and after is without on the way.
    #[track_caller]
    pub(super) fn carry_out(&mut self, writes: &[Write]) {
        let before = self.covered_ports();
        let mut lost: BTreeMap<i32, String> = BTreeMap::new();
        for write in writes {
            self.apply(write);
            let covered = self.covered_ports();
            // A slice that is made anew under its own name cannot be there all the time.
            if !matches!(write, Write::DeleteSlice(name) if recreated(writes, name)) {
                let gone = before
                    .difference(&covered)
                    .map(|port| (*port, format!("{:?}", brief(std::slice::from_ref(write)))));
                lost.extend(gone);
            }
        }
        let after = self.covered_ports();
        lost.retain(|port, _| after.contains(port));
        assert!(lost.is_empty(), "ports without slices, after which write: {lost:?} of {:#?}", brief(writes));
    }
}

fn recreated(writes: &[Write], name: &str) -> bool {
    writes
        .iter()
        .any(|w| matches!(w, Write::CreateSlice(slice) if slice.metadata.name.as_deref() == Some(name)))
}

/// RFC 7386.
fn merge_patch(target: &mut Value, patch: &Value) {
    let Value::Object(members) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (name, value) in members {
        match value {
            Value::Null => {
                target.as_object_mut().unwrap().remove(name);
            }
            _ => merge_patch(&mut target[name.as_str()], value),
        }
    }
}

/// A plan as a reviewer wants to see it.
pub(super) fn shown(writes: &[Write]) -> Value {
    let show = |write: &Write| match write {
        Write::AddFinalizer => json!("add finalizer"),
        Write::RemoveFinalizer => json!("remove finalizer"),
        Write::CreateService(service) => json!({ "create service": service }),
        Write::PatchService(patch) => json!({ "patch service": patch }),
        Write::CreateSlice(slice) => json!({ "create slice": slice }),
        Write::ReplaceSlice(slice) => json!({ "replace slice": slice }),
        Write::DeleteSlice(name) => json!({ "delete slice": name }),
        Write::CreateEndpoints(endpoints) => json!({ "create endpoints": endpoints }),
        Write::ReplaceEndpoints(endpoints) => json!({ "replace endpoints": endpoints }),
        Write::DeleteEndpoints => json!("delete endpoints"),
    };
    writes.iter().map(show).collect()
}

/// The same in a word a write.
pub(super) fn brief(writes: &[Write]) -> Vec<String> {
    let name = |slice: &EndpointSlice| slice.metadata.name.clone().unwrap_or_default();
    let brief = |write: &Write| match write {
        Write::AddFinalizer => "add finalizer".to_owned(),
        Write::RemoveFinalizer => "remove finalizer".to_owned(),
        Write::CreateService(_) => "create service".to_owned(),
        Write::PatchService(_) => "patch service".to_owned(),
        Write::CreateSlice(slice) => format!("create {}", name(slice)),
        Write::ReplaceSlice(slice) => format!("replace {}", name(slice)),
        Write::DeleteSlice(name) => format!("delete {name}"),
        Write::CreateEndpoints(_) => "create endpoints".to_owned(),
        Write::ReplaceEndpoints(_) => "replace endpoints".to_owned(),
        Write::DeleteEndpoints => "delete endpoints".to_owned(),
    };
    writes.iter().map(brief).collect()
}

pub(super) fn yaml<T: serde::de::DeserializeOwned>(text: &str) -> T {
    serde_saphyr::from_str(text).expect("the sample is of its type")
}

/// A Service as an administrator made it by hand, with a node port and labels of its own.
pub(super) const HAND_MADE_SERVICE: &str = "
metadata:
  {name: db, namespace: shop, resourceVersion: '7', labels: {team: a, tier: gold}, annotations: {note: keep}}
spec:
  type: NodePort
  clusterIP: 10.96.1.1
  clusterIPs: [10.96.1.1]
  ipFamilies: [IPv4]
  ipFamilyPolicy: SingleStack
  ports:
  - {name: sql, port: 3306, protocol: TCP, targetPort: 3306, nodePort: 30306}
  - {name: stale, port: 9999, protocol: TCP, targetPort: 9999, nodePort: 30999}
";

/// The Endpoints beside it.
pub(super) const HAND_MADE_ENDPOINTS: &str = "
metadata: {name: db, namespace: shop, resourceVersion: '8', labels: {team: a}}
subsets:
- addresses: [{ip: 10.0.0.1}]
  ports: [{name: sql, port: 3306, protocol: TCP}]
";

/// The world in which both exist, mirrored.
pub(super) fn hand_made() -> World {
    let mut world = World::with_labels(&[("team", "b")]);
    world.observed.service = Some(yaml(HAND_MADE_SERVICE));
    world.observed.endpoints = Some(yaml(HAND_MADE_ENDPOINTS));
    world.mirror();
    world
}
