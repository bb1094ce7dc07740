//! Whose Service it is.

use super::super::*;
use super::world::{World, brief, hand_made, yaml};
use crate::samples::{definition, endpoint, snapshot};

const WEB: &str = "{hosts: [10.0.0.1], ports: [{name: web, port: 80, tcpSocket: {}}]}";

fn headed(cluster_ip: &str) -> std::sync::Arc<Definition> {
    definition(&format!("{{clusterIP: {cluster_ip:?}, hosts: [10.0.0.1], ports: [{{port: 80}}]}}"))
}

fn with_service(spec: &str) -> World {
    let mut world = World::new();
    world.observed.service = Some(yaml(&format!(
        "{{metadata: {{name: db, namespace: shop, resourceVersion: '7'}}, spec: {spec}}}"
    )));
    world
}

#[test]
fn what_is_not_ours_is_refused_with_what_to_do() {
    let mut foreign = with_service("{clusterIP: 10.96.0.9}");
    let managed_by = Some("linkerd.io".to_owned());
    foreign.observed.foreign.push(ForeignSlice { name: "x".to_owned(), managed_by });
    let mut owned = with_service("{clusterIP: 10.96.0.9}");
    owned.observed.service.as_mut().unwrap().metadata.owner_references = Some(vec![yaml(
        "{apiVersion: serving.knative.dev/v1, kind: Route, name: front, uid: '1', controller: true}",
    )]);
    for (world, definition, reason, words) in [
        (with_service("{selector: {app: x}}"), headed(""), "ServiceHasSelector", "spec.selector"),
        (
            with_service("{type: ExternalName, externalName: db.example.org}"),
            headed(""),
            "ServiceIsExternalName",
            "db.example.org",
        ),
        (with_service("{clusterIP: None}"), headed(""), "ClusterIPMismatch", "clusterIP None"),
        (with_service("{clusterIP: 10.96.0.9}"), headed("None"), "ClusterIPMismatch", "asks for None"),
        (with_service("{clusterIP: 10.96.0.9}"), headed("10.96.0.1"), "ClusterIPMismatch", "10.96.0.1"),
        (foreign, headed(""), "ForeignEndpointSlices", "linkerd.io"),
        (owned, headed(""), "ServiceHasOwner", "Route front"),
    ] {
        let refusal = world.claim(&definition).unwrap_err();
        assert_eq!(refusal.reason, reason, "{}", refusal.message);
        assert!(refusal.message.contains("db") && refusal.message.contains(words), "{}", refusal.message);
    }
}

#[test]
fn what_is_free_or_ours_is_claimed() {
    assert_eq!(World::new().claim(&headed("")), Ok(Claim::Create { finalizer: false }));
    assert_eq!(hand_made().claim(&headed("")), Ok(Claim::Adopt { finalizer: false }));
    assert!(with_service("{clusterIP: fd00:0::9}").claim(&headed("fd00::9")).is_ok());
    let mut world = World::new();
    world.reconcile(&snapshot(&definition(WEB), "H"));
    assert_eq!(world.claim(&definition(WEB)), Ok(Claim::Own { finalizer: false }));
    // A slice of a controller on a Service that is ours already is told by nobody, and taken from nobody.
    let managed_by = Some("linkerd.io".to_owned());
    world.observed.foreign.push(ForeignSlice { name: "x".to_owned(), managed_by });
    assert_eq!(brief(&world.plan(&snapshot(&definition(WEB), "H"))), [] as [&str; 0]);
}

#[test]
fn a_service_of_the_original_operator_was_created_for_the_cep() {
    for api_version in ["sealyun.com/v1beta1", "sealos.io/v1beta1"] {
        let mut world = hand_made();
        let owner = format!(
            "{{apiVersion: {api_version}, kind: ClusterEndpoint, name: db, uid: former, controller: true,
               blockOwnerDeletion: true}}"
        );
        for meta in [
            &mut world.observed.service.as_mut().unwrap().metadata,
            &mut world.observed.endpoints.as_mut().unwrap().metadata,
        ] {
            meta.owner_references = Some(vec![yaml(&owner)]);
        }
        let db = definition("{hosts: [10.0.0.1], ports: [{name: sql, port: 3306}]}");
        assert_eq!(world.claim(&db), Ok(Claim::Own { finalizer: false }));
        world.reconcile(&snapshot(&db, "H"));
        let owners = world.observed.service.as_ref().unwrap().metadata.owner_references.clone().unwrap();
        assert_eq!(owners.len(), 1, "{owners:?}");
        assert_eq!((owners[0].uid.as_str(), owners[0].api_version.as_str()), ("8a6f", "sealyun.com/v1beta1"));
    }
    // The same kind of another name, or another kind of the same name, is somebody else.
    for (kind, name) in [("ClusterEndpoint", "other"), ("Endpoint", "db")] {
        let mut world = hand_made();
        let owner = format!(
            "{{apiVersion: sealyun.com/v1beta1, kind: {kind}, name: {name}, uid: u, controller: true}}"
        );
        world.observed.service.as_mut().unwrap().metadata.owner_references = Some(vec![yaml(&owner)]);
        assert_eq!(world.claim(&headed("")).unwrap_err().reason, "ServiceHasOwner");
    }
}

#[test]
fn an_adopted_service_keeps_what_is_its_own_through_a_rename() {
    let mut world = hand_made();
    for name in ["sql", "mysql"] {
        let db = definition(&format!("{{hosts: [10.0.0.1], ports: [{{name: {name}, port: 3306}}]}}"));
        world.reconcile(&snapshot(&db, "H"));
        let service = world.observed.service.clone().unwrap();
        let spec = service.spec.unwrap();
        assert_eq!(
            (spec.type_.as_deref(), spec.cluster_ip.as_deref()),
            (Some("NodePort"), Some("10.96.1.1"))
        );
        let ports = spec.ports.unwrap();
        assert_eq!(ports.len(), 1, "the stale port is gone");
        assert_eq!((ports[0].name.as_deref(), ports[0].node_port), (Some(name), Some(30306)));
        assert_eq!(service.metadata.labels.unwrap()["tier"], "gold");
        assert_eq!(service.metadata.annotations.unwrap()["note"], "keep");
        assert_eq!(service.metadata.owner_references, None, "garbage collection must not take it");
    }
}

#[test]
fn a_service_that_was_deleted_comes_back_as_it_was_without_being_adopted() {
    let mut world = hand_made();
    let db = definition("{hosts: [10.0.0.1], ports: [{name: sql, port: 3306}]}");
    world.reconcile(&snapshot(&db, "H"));
    world.observed.remembered = world.observed.service.take();
    world.observed.endpoints = None;
    world.observed.slices.clear();
    let writes = world.reconcile(&snapshot(&db, "H"));
    assert_eq!(
        brief(&writes),
        ["remove finalizer", "create service", "create db.sql-ipv4-0", "create endpoints"]
    );
    let spec = world.observed.service.as_ref().unwrap().spec.clone().unwrap();
    assert_eq!((spec.type_.as_deref(), spec.cluster_ip.as_deref()), (Some("NodePort"), Some("10.96.1.1")));
    assert_eq!(spec.ports.unwrap()[0].node_port, Some(30306));
    assert_eq!(world.claim(&db), Ok(Claim::Own { finalizer: false }));
}

/// The message of a refusal says "delete the Service yourself": what comes then is a new one.
#[test]
fn a_refused_service_that_was_deleted_does_not_come_back() {
    for former in [
        "{type: ExternalName, externalName: db.example.org}",
        "{clusterIP: None}",
        "{clusterIP: 10.96.0.9, selector: {app: x}, type: LoadBalancer}",
    ] {
        let mut world = with_service(former);
        assert!(world.claim(&headed("")).is_err());
        world.observed.remembered = world.observed.service.take();
        world.reconcile(&snapshot(&headed(""), "H"));
        let spec = world.observed.service.as_ref().unwrap().spec.clone().unwrap();
        assert_eq!(spec.type_.as_deref(), Some("ClusterIP"), "{former}");
        assert_eq!(spec.cluster_ip.as_deref(), Some("10.96.0.7"), "{former}: the next free address");
        assert_eq!((spec.external_name, spec.selector), (None, None), "{former}");
    }
}

#[test]
fn a_new_service_asks_for_the_families_of_its_hosts() {
    for (hosts, policy) in [
        ("[10.0.0.1]", None),
        ("[10.0.0.1, fd00::1]", Some("PreferDualStack")),
        ("[fd00::1]", Some("PreferDualStack")),
    ] {
        let state = snapshot(&definition(&format!("{{hosts: {hosts}, ports: [{{port: 80}}]}}")), "H");
        let Write::CreateService(service) = &World::new().plan(&state)[0] else { panic!("first of all") };
        assert_eq!(service.spec.as_ref().unwrap().ip_family_policy.as_deref(), policy, "{hosts}");
    }
    let fixed = snapshot(&headed("10.96.0.50"), "H");
    let Write::CreateService(service) = &World::new().plan(&fixed)[0] else { panic!("first of all") };
    assert_eq!(service.spec.as_ref().unwrap().cluster_ip.as_deref(), Some("10.96.0.50"));
}

#[test]
fn a_service_is_adopted_when_every_name_has_an_address() {
    let named =
        definition("{hosts: [10.0.0.1, db.example.org], ports: [{name: a, port: 80}, {name: b, port: 81}]}");
    let mut state = snapshot(&named, "H");
    let adopt = Claim::Adopt { finalizer: false };
    assert_eq!(hosts_are_known(adopt, &state), Ok(()));
    for port in [0, 1] {
        let host = &named.ports[port].hosts[1];
        state.endpoints.push(endpoint(port, host, None, crate::health::Verdict::Unknown));
    }
    let refusal = hosts_are_known(adopt, &state).unwrap_err();
    assert_eq!(refusal.reason, "HostsNotResolved");
    assert_eq!(refusal.message.matches("db.example.org").count(), 1, "{}", refusal.message);
    // One that is ours goes on: its hosts are kept by the slices that exist.
    for claim in [
        Claim::Create { finalizer: false },
        Claim::Own { finalizer: false },
        Claim::Adopt { finalizer: true },
    ] {
        assert_eq!(hosts_are_known(claim, &state), Ok(()));
    }
    assert!(state.is_looking_up(), "nobody has said yet that it does not resolve");
    for endpoint in &mut state.endpoints {
        endpoint.obstacle = Some(crate::samples::refused());
    }
    assert!(!state.is_looking_up());
}
