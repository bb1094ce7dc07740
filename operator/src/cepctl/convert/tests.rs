use super::super::cli::ProbeKind;
use super::translate::Refusal;
use super::*;

const CHOICES: Choices = Choices { probe: ProbeKind::Tcp, period_seconds: 10, keep_cluster_ip: false };

fn converted(text: &str, choices: Choices) -> Result<(String, Vec<String>), Refusal> {
    let sources = from_documents(&documents::parse("x.yaml", text).unwrap(), None).unwrap();
    let converted = translate(&sources[0], &choices)?;
    let manifest = documents::manifest(&converted.cep).unwrap();
    Ok((documents::to_yaml(&[manifest]).unwrap(), converted.notes))
}

const WORDPRESS: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: wordpress, namespace: shop, labels: {team: web}}
spec:
  clusterIP: 10.96.7.7
  ports:
  - {name: https, port: 38082, targetPort: 443}
  - {name: metrics, port: 9100}
  - {name: dns, port: 53, protocol: UDP}
---
apiVersion: v1
kind: Endpoints
metadata: {name: wordpress, namespace: shop}
subsets:
- addresses: [{ip: 172.18.191.215}]
  notReadyAddresses: [{ip: 172.18.191.216}]
  ports: [{name: https, port: 443}, {name: metrics, port: 9101}, {name: dns, port: 53, protocol: UDP}]
"#;

#[test]
fn endpoints() {
    let (yaml, notes) = converted(WORDPRESS, CHOICES).unwrap();
    assert_eq!(
        yaml,
        "\
apiVersion: sealyun.com/v1beta1
kind: ClusterEndpoint
metadata:
  name: wordpress
  namespace: shop
spec:
  hosts:
  - \"172.18.191.215\"
  - \"172.18.191.216\"
  periodSeconds: 10
  ports:
  - name: https
    port: 38082
    targetPort: 443
    protocol: TCP
    tcpSocket:
      enable: true
  - name: metrics
    port: 9100
    targetPort: 9101
    protocol: TCP
    tcpSocket:
      enable: true
  - name: dns
    port: 53
    targetPort: 53
    protocol: UDP
"
    );
    assert_eq!(notes.len(), 1);
    assert!(notes[0].starts_with("port dns is UDP and got no probe"), "{notes:?}");
}

#[test]
fn http_probes_and_the_cluster_ip_on_demand() {
    let choices = Choices { probe: ProbeKind::Http, period_seconds: 30, keep_cluster_ip: true };
    let (yaml, _) = converted(WORDPRESS, choices).unwrap();
    assert!(yaml.contains("  clusterIP: \"10.96.7.7\"\n"), "{yaml}");
    assert!(yaml.contains("  periodSeconds: 30\n"), "{yaml}");
    assert!(yaml.contains("    httpGet:\n      path: /\n      scheme: HTTPS\n"), "{yaml}");
    assert!(yaml.contains("    httpGet:\n      path: /\n      scheme: HTTP\n"), "{yaml}");
}

#[test]
fn host_that_is_missing_on_one_port_and_headless() {
    let text = r#"
kind: List
apiVersion: v1
items:
- apiVersion: v1
  kind: Service
  metadata: {name: db}
  spec: {clusterIP: None, ports: [{name: sql, port: 5432}, {name: admin, port: 80, targetPort: 8080}]}
- apiVersion: discovery.k8s.io/v1
  kind: EndpointSlice
  metadata: {name: db-1, labels: {kubernetes.io/service-name: db}}
  addressType: IPv4
  endpoints: [{addresses: [10.0.0.1]}, {addresses: [10.0.0.2], conditions: {ready: false}}]
  ports: [{name: sql, port: 5432}]
- apiVersion: discovery.k8s.io/v1
  kind: EndpointSlice
  metadata: {name: db-2, labels: {kubernetes.io/service-name: db}}
  addressType: IPv6
  endpoints: [{addresses: ["fd00::1"]}]
  ports: [{name: sql, port: 5432}, {name: admin, port: 8080}]
"#;
    let (yaml, notes) = converted(text, Choices { probe: ProbeKind::None, ..CHOICES }).unwrap();
    assert_eq!(
        yaml,
        "\
apiVersion: sealyun.com/v1beta1
kind: ClusterEndpoint
metadata:
  name: db
spec:
  clusterIP: None
  periodSeconds: 10
  ports:
  - name: sql
    port: 5432
    targetPort: 5432
    protocol: TCP
    hosts:
    - \"10.0.0.1\"
    - \"10.0.0.2\"
    - fd00::1
  - name: admin
    port: 80
    targetPort: 8080
    protocol: TCP
    hosts:
    - fd00::1
"
    );
    assert_eq!(notes, [] as [String; 0]);
}

/// One Service with a single port and endpoints as given.
fn service(spec: &str, more: &str) -> String {
    format!("kind: Service\napiVersion: v1\nmetadata: {{name: db}}\nspec: {spec}\n{more}")
}

const ENDPOINTS: &str = "\
---
kind: Endpoints
apiVersion: v1
metadata: {name: db}
subsets:
- {addresses: [{ip: 10.0.0.1}], ports: [{port: 5432}]}
";

const SLICE: &str = "\
---
kind: EndpointSlice
apiVersion: discovery.k8s.io/v1
metadata: {name: db-x, labels: {kubernetes.io/service-name: db, endpointslice.kubernetes.io/managed-by: BY}}
addressType: IPv4
endpoints: [{addresses: [10.0.0.9]}]
ports: [{name: '', port: 5432}]
";

#[test]
fn mirrored_slices_repeat_the_endpoints_and_others_add_to_them() {
    let hosts = |endpoints: &str, by: &str| {
        let text = service("{ports: [{port: 1}]}", &format!("{endpoints}{}", SLICE.replace("BY", by)));
        let (yaml, _) = converted(&text, CHOICES).unwrap();
        ["10.0.0.1", "10.0.0.9"].map(|host| yaml.contains(host))
    };
    assert_eq!(hosts(ENDPOINTS, "endpointslicemirroring-controller.k8s.io"), [true, false]);
    assert_eq!(hosts(ENDPOINTS, "me"), [true, true]);
    assert_eq!(hosts("", "endpointslicemirroring-controller.k8s.io"), [false, true]);
    let unmirrored = ENDPOINTS
        .replace("{name: db}", "{name: db, labels: {endpointslice.kubernetes.io/skip-mirror: 'true'}}");
    assert_eq!(hosts(&unmirrored, "me"), [false, true]);
}

#[test]
fn single_port_with_another_name() {
    let text = service("{ports: [{name: sql, port: 1}]}", ENDPOINTS);
    let (yaml, notes) = converted(&text, CHOICES).unwrap();
    assert!(yaml.contains("  - name: sql\n    port: 1\n    targetPort: 5432\n"), "{yaml}");
    assert!(notes[0].starts_with("port sql has another name in the endpoints"), "{notes:?}");
}

#[test]
fn local_traffic_policy_is_pointed_out() {
    let text = service("{internalTrafficPolicy: Local, ports: [{port: 1}]}", ENDPOINTS);
    let (_, notes) = converted(&text, CHOICES).unwrap();
    assert!(notes[0].starts_with("internalTrafficPolicy is Local"), "{notes:?}");
}

#[test]
fn refusals() {
    let refusal = |text: &str| converted(text, CHOICES).unwrap_err();
    assert_eq!(
        refusal(&service("{selector: {app: db}, ports: [{port: 1}]}", ENDPOINTS)),
        Refusal::Selector("app=db".to_owned())
    );
    let external = refusal(&service("{type: ExternalName, externalName: db.example.org}", ""));
    assert!(external.to_string().contains("hosts: [db.example.org]"), "{external}");
    assert_eq!(refusal(&service("{}", ENDPOINTS)), Refusal::NoPorts);
    assert_eq!(refusal(&service("{ports: [{port: 1}]}", "")), Refusal::NoEndpoints);
    assert_eq!(
        refusal(&service("{ports: [{port: 1}]}", &SLICE.replace("BY", "endpoints-operator.sealyun.com"))),
        Refusal::AlreadyOurs("db".to_owned())
    );
    assert_eq!(
        refusal(&service("{ports: [{name: a, port: 1}, {name: b, port: 2}]}", ENDPOINTS)),
        Refusal::PortWithoutAddresses("a".to_owned())
    );
    let two = format!("{ENDPOINTS}- {{addresses: [{{ip: 10.0.0.2}}], ports: [{{port: 5433}}]}}\n");
    assert_eq!(
        refusal(&service("{ports: [{port: 1}]}", &two)),
        Refusal::ManyTargetPorts { port: "1".to_owned(), numbers: "5432, 5433".to_owned() }
    );
}
