use cep_core::api::v1beta1::{ClusterEndpoint, ClusterEndpointStatus, Condition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use super::handover::{Dependent, New, OLD_FINALIZERS, Observed, Old, Step, imagine, next};
use super::*;

fn migrated(text: &str) -> (String, Vec<String>) {
    let document = documents::parse("x.yaml", text).unwrap().remove(0);
    let migrated = translate(&document.value).unwrap();
    let manifest = documents::manifest(&migrated.cep).unwrap();
    (documents::to_yaml(&[manifest]).unwrap(), migrated.warnings)
}

/// Warnings but those that this build gives on probes it cannot run yet.
fn lasting(warnings: Vec<String>) -> Vec<String> {
    warnings.into_iter().filter(|warning| !warning.contains("module host")).collect()
}

#[test]
fn later_shape() {
    let (yaml, warnings) = migrated(
        r#"
apiVersion: sealos.io/v1beta1
kind: ClusterEndpoint
metadata:
  name: dmz
  namespace: edge
  uid: 0d9f
  finalizers: [sealos.io/cluster-endpoints.finalizers]
  labels: {team: net}
  annotations: {kubectl.kubernetes.io/last-applied-configuration: '{}', note: keep}
spec:
  clusterIP: None
  periodSeconds: 5
  ports:
  - name: https
    hosts: [10.0.112.255, 10.0.112.251]
    port: 6443
    protocol: TCP
    targetPort: 6443
    timeoutSeconds: 0
    successThreshold: 0
    failureThreshold: 0
    tcpSocket: {enable: true}
    httpGet: {path: healthz, scheme: Https}
  - name: dns
    hosts: [10.0.112.253]
    port: 53
    protocol: UDP
    targetPort: 5353
    timeoutSeconds: 2
    failureThreshold: 5
    udpSocket: {enable: true, data: [112, 105, 110, 103]}
  - name: rpc
    hosts: [10.0.112.254]
    port: 7000
    protocol: ""
    targetPort: 7000
    grpc: {enable: true, service: shop.Cart}
    tcpSocket: {enable: false}
status:
  phase: Healthy
  conditions: []
"#,
    );
    assert_eq!(
        yaml,
        "\
apiVersion: sealyun.com/v1beta1
kind: ClusterEndpoint
metadata:
  name: dmz
  namespace: edge
  labels:
    team: net
  annotations:
    note: keep
spec:
  clusterIP: None
  periodSeconds: 5
  ports:
  - name: https
    port: 6443
    targetPort: 6443
    protocol: TCP
    hosts:
    - \"10.0.112.255\"
    - \"10.0.112.251\"
    httpGet:
      path: /healthz
      scheme: HTTPS
  - name: dns
    port: 53
    targetPort: 5353
    protocol: UDP
    hosts:
    - \"10.0.112.253\"
    timeoutSeconds: 2
    failureThreshold: 5
    udpSocket:
      enable: true
      data:
      - 112
      - 105
      - 110
      - 103
  - name: rpc
    port: 7000
    targetPort: 7000
    protocol: TCP
    hosts:
    - \"10.0.112.254\"
    grpc:
      enable: true
      service: shop.Cart
"
    );
    assert_eq!(
        lasting(warnings),
        ["spec.ports[0].tcpSocket is left out: a port has one probe, and httpGet is kept"]
    );
}

#[test]
fn early_shape() {
    let (yaml, warnings) = migrated(
        r#"
apiVersion: sealyun.com/v1beta1
kind: ClusterEndpoint
metadata: {name: dmz-kube}
spec:
  clusterIP: 10.96.0.100
  periodSeconds: 10
  timeoutSeconds: 3
  hosts: [10.0.112.255, 10.0.112.251]
  ports:
  - {name: https, port: 6443, protocol: TCP, targetPort: 6443, tcpSocket: {enable: true}}
  - {name: udp-data, port: 1234, protocol: UDP, targetPort: 1234, udpSocket: {enable: true, data: testdata}}
"#,
    );
    assert_eq!(
        yaml,
        "\
apiVersion: sealyun.com/v1beta1
kind: ClusterEndpoint
metadata:
  name: dmz-kube
spec:
  clusterIP: \"10.96.0.100\"
  hosts:
  - \"10.0.112.255\"
  - \"10.0.112.251\"
  periodSeconds: 10
  ports:
  - name: https
    port: 6443
    targetPort: 6443
    protocol: TCP
    timeoutSeconds: 3
    tcpSocket:
      enable: true
  - name: udp-data
    port: 1234
    targetPort: 1234
    protocol: UDP
    timeoutSeconds: 3
    udpSocket:
      enable: true
      text: testdata
"
    );
    assert_eq!(lasting(warnings), [] as [String; 0]);
}

#[test]
fn what_cannot_be_kept_is_named() {
    let (yaml, warnings) = migrated(
        r#"
apiVersion: sealos.io/v1beta1
kind: ClusterEndpoint
metadata: {name: x}
spec:
  sessionAffinity: ClientIP
  ports:
  - name: a
    hosts: [127.0.0.1]
    port: 80
    targetPort: 0
    timeoutSeconds: 60
    httpGet: {scheme: gopher, port: 8080}
  - name: b
    hosts: [10.0.0.1]
    port: 81
    targetPort: 81
    udpSocket: {enable: true, data: hello}
"#,
    );
    assert!(!yaml.contains("udpSocket"), "{yaml}");
    let expected = [
        "spec.periodSeconds was not set, with which",
        "spec.ports[0].timeoutSeconds was 60, longer than periodSeconds; it is 10 now",
        "spec.ports[0].httpGet.scheme \"GOPHER\" is left out; HTTP is used",
        "spec.ports[1].udpSocket is left out, for it needs protocol: UDP",
        "spec.ports[0].httpGet.port has no counterpart",
        "spec.sessionAffinity has no counterpart in sealyun.com/v1beta1; left out",
        "spec.ports[0].hosts[0]: 127.0.0.1 is a loopback address",
        "spec.ports[0].hosts: lists no host",
    ];
    assert_eq!(warnings.len(), expected.len(), "{warnings:#?}");
    for (warning, expected) in warnings.iter().zip(expected) {
        assert!(warning.starts_with(expected), "{warning} / {expected}");
    }
}

#[test]
fn our_own_objects_pass_through() {
    let text = "\
apiVersion: sealyun.com/v1beta1
kind: ClusterEndpoint
metadata:
  name: x
spec:
  hosts:
  - \"10.0.0.1\"
  periodSeconds: 10
  retryPeriodSeconds: 1
  panicThreshold: 50
  ports:
  - port: 443
    protocol: TCP
    httpGet:
      host: shop.example.org
      path: /
      scheme: HTTPS
    tls:
      serverName: shop.example.org
";
    let (yaml, warnings) = migrated(text);
    assert_eq!(yaml, text);
    assert_eq!(warnings, [] as [String; 0]);
}

fn owner(api_version: &str, kind: &str) -> OwnerReference {
    OwnerReference {
        api_version: api_version.to_owned(),
        kind: kind.to_owned(),
        name: "db".to_owned(),
        uid: format!("{api_version}-uid"),
        ..OwnerReference::default()
    }
}

fn dependent(kind: &'static str, owners: Vec<OwnerReference>) -> Dependent {
    Dependent { kind, name: "db".to_owned(), resource_version: "7".to_owned(), owners }
}

fn at_the_start() -> Observed {
    let old = owner("sealos.io/v1beta1", "ClusterEndpoint");
    Observed {
        old: Some(Old {
            uid: old.uid.clone(),
            resource_version: "5".to_owned(),
            finalizers: vec![OLD_FINALIZERS[0].to_owned(), "backup.example.org/hold".to_owned()],
            deleting: false,
        }),
        new: None,
        dependents: vec![
            dependent("Service", vec![owner("sealyun.com/v1beta1", "ClusterEndpoint"), old.clone()]),
            dependent("Endpoints", vec![old]),
            dependent("EndpointSlice", vec![owner("v1", "Endpoints")]),
        ],
        quiet: false,
    }
}

#[test]
fn the_service_never_stands_without_owner() {
    let mut observed = at_the_start();
    let mut steps = Vec::new();
    loop {
        let step = next(&observed);
        // The rules that matter, at every point at which the run may be interrupted.
        if matches!(step, Step::Release { .. }) {
            assert_eq!(observed.new, Some(New::default()), "released before it was adopted");
        }
        if matches!(step, Step::Remove { .. }) {
            assert!(!observed.is_referred_to(), "removed while something refers to it");
            assert!(observed.quiet, "removed while the original operator may run");
        }
        steps.push(step.to_string());
        if step.is_last() {
            break;
        }
        imagine(&mut observed, &step);
    }
    assert_eq!(
        steps,
        [
            "create the new ClusterEndpoint",
            "wait until the operator has adopted the Service (it is not created yet)",
            "take the reference to the old object off Service db",
            "take the reference to the old object off Endpoints db",
            "watch for a period whether the original operator still runs",
            "strip the original operator's finalizers",
            "remove the old object (propagation policy Orphan)",
            "migrated, nothing left to do",
        ]
    );
    let owners = &observed.dependents[0].owners;
    assert_eq!(owners, &[owner("sealyun.com/v1beta1", "ClusterEndpoint")]);
}

#[test]
fn finalizers_of_others_stay() {
    let mut observed = at_the_start();
    observed.new = Some(New::default());
    observed.dependents.clear();
    assert_eq!(next(&observed), Step::Settle);
    observed.quiet = true;
    let Step::StripFinalizers { keep, resource_version } = next(&observed) else { panic!() };
    assert_eq!((keep, resource_version.as_str()), (vec!["backup.example.org/hold".to_owned()], "5"));
    observed.old.as_mut().unwrap().finalizers = vec!["backup.example.org/hold".to_owned()];
    observed.old.as_mut().unwrap().deleting = true;
    assert_eq!(
        next(&observed).to_string(),
        "wait until the old object is gone (finalizers: backup.example.org/hold)"
    );
}

#[test]
fn references_to_an_object_that_is_gone_are_mended() {
    let mut observed = at_the_start();
    observed.old = None;
    observed.new = Some(New { missing: vec!["anything".to_owned()] });
    assert!(matches!(next(&observed), Step::Release { kind: "Service", .. }));
    observed.dependents.clear();
    assert_eq!(next(&observed), Step::Finished);
    assert_eq!(next(&Observed::default()), Step::NothingThere);
}

#[test]
fn deletion_in_the_foreground_is_met_at_once() {
    let mut observed = at_the_start();
    let old = observed.old.as_mut().unwrap();
    old.deleting = true;
    assert_eq!(next(&observed), Step::Create, "in the background its finalizer still holds it");
    observed.old.as_mut().unwrap().finalizers.push("foregroundDeletion".to_owned());
    assert!(matches!(next(&observed), Step::Release { kind: "Service", .. }));
}

#[test]
fn adoption_is_believed_when_the_status_is_current() {
    let cep = |observed, service: (&str, &str), endpoint: (&str, &str)| {
        let condition = |type_: &str, (status, reason): (&str, &str)| Condition {
            type_: type_.to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some("why".to_owned()),
            ..Condition::default()
        };
        let mut cep = ClusterEndpoint::new("db", Default::default());
        cep.metadata.generation = Some(2);
        cep.status = Some(ClusterEndpointStatus {
            observed_generation: observed,
            conditions: Some(vec![
                condition("SyncServiceReady", service),
                condition("SyncEndpointReady", endpoint),
            ]),
            ..ClusterEndpointStatus::default()
        });
        New::of(&cep).missing
    };
    let good = ("True", "x");
    assert_eq!(cep(Some(2), good, good), [] as [String; 0]);
    assert_eq!(cep(Some(1), good, good), ["the operator has not worked off the new object"]);
    assert_eq!(cep(None, good, good), ["the operator has not worked off the new object"]);
    assert_eq!(
        cep(Some(2), ("False", "ServiceHasSelector"), good),
        ["SyncServiceReady is False: ServiceHasSelector: why"]
    );
    assert_eq!(cep(Some(2), good, ("False", "EndpointSyncPortError")), [] as [String; 0]);
    assert_eq!(
        cep(Some(2), good, ("False", "EndpointSyncError")),
        ["SyncEndpointReady is False: EndpointSyncError: why"]
    );
}
