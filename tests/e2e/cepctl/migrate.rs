//! `cepctl migrate`: objects of the original operator are handed over under a client that connects all the
//! time, and nothing that belonged to them is taken by garbage collection.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::core::v1::{ConfigMap, Endpoints, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::ResourceExt;
use kube::api::{Api, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use serde_json::{Value, json};
use testbed::{Host, Process, Server, eventually};

use super::{Files, Ran, as_admin, cepctl, command, run};
use crate::client::Client;
use crate::stage::{SOON, Stage};

const OLD_CRD: &str = include_str!("sealos_crd.yaml");
const OLD_FINALIZER: &str = "sealos.io/cluster-endpoints.finalizers";
const HOSTS: [&str; 2] = ["172.18.191.11", "172.18.191.12"];
/// The garbage collector looks for new kinds every 30 s.
const COLLECTOR: Duration = Duration::from_secs(90);
/// kube-proxy writes its rules at most once in this time.
const PROXY_PACE: Duration = Duration::from_secs(1);

/// A cluster on which the original operator has been at work.
struct Town {
    stage: Stage,
    _servers: Vec<(Host, Server)>,
    visitor: Host,
}

impl Town {
    async fn new() -> Result<Self> {
        let stage = Stage::new().await?;
        stage.cluster.apply(OLD_CRD).await?;
        let established = "--for=condition=Established";
        stage
            .cluster
            .kubectl(&["wait", established, "crd/clusterendpoints.sealos.io", "--timeout=20s"])
            .await?;
        let mut servers = Vec::new();
        for address in HOSTS {
            let host = stage.cluster.host(address)?;
            let server = Server::tcp(host.netns(), host.socket(8080)).await?;
            servers.push((host, server));
        }
        let visitor = stage.cluster.host("172.18.191.50")?;
        Ok(Self { stage, _servers: servers, visitor })
    }

    fn olds(&self) -> Api<DynamicObject> {
        let kind = GroupVersionKind::gvk("sealos.io", "v1beta1", "ClusterEndpoint");
        Api::default_namespaced_with(self.stage.cluster.client(), &ApiResource::from_gvk(&kind))
    }

    fn maps(&self) -> Api<ConfigMap> {
        Api::default_namespaced(self.stage.cluster.client())
    }

    /// Makes an old object, and what the original operator made of it: a Service and Endpoints without
    /// labels, owned, and a subset for each host.
    async fn original(&self, name: &str) -> Result<OwnerReference> {
        let old = serde_json::from_value(json!({
            "apiVersion": "sealos.io/v1beta1",
            "kind": "ClusterEndpoint",
            "metadata": {"name": name, "finalizers": [OLD_FINALIZER], "labels": {"team": "edge"}},
            "spec": {
                "periodSeconds": 1,
                "ports": [{
                    "name": "web", "hosts": HOSTS, "port": 80, "targetPort": 8080, "protocol": "TCP",
                    "timeoutSeconds": 1, "successThreshold": 1, "failureThreshold": 3,
                    "tcpSocket": {"enable": true},
                }],
            },
        }))?;
        let old = self.olds().create(&PostParams::default(), &old).await?;
        self.beat(name).await?;
        let owner = owner(&old)?;
        let mut service: Service = serde_json::from_value(json!({
            "metadata": {"name": name},
            "spec": {"ports": [{"name": "web", "port": 80, "targetPort": 8080, "protocol": "TCP"}]},
        }))?;
        service.metadata.owner_references = Some(vec![owner.clone()]);
        self.stage.services().create(&PostParams::default(), &service).await?;
        let port = json!([{"name": "web", "port": 8080, "protocol": "TCP"}]);
        let subsets: Vec<Value> =
            HOSTS.iter().map(|host| json!({"addresses": [{"ip": host}], "ports": port})).collect();
        let mut endpoints: Endpoints =
            serde_json::from_value(json!({"metadata": {"name": name}, "subsets": subsets}))?;
        endpoints.metadata.owner_references = Some(vec![owner.clone()]);
        self.stage.endpoints().create(&PostParams::default(), &endpoints).await?;
        Ok(owner)
    }

    /// What the original operator writes once a period.
    async fn beat(&self, name: &str) -> Result<()> {
        let now = k8s_openapi::jiff::Timestamp::now().to_string();
        let condition = json!({
            "type": "Ready", "status": "True", "reason": "Ready", "message": "ClusterEndpoint is available now",
            "lastHeartbeatTime": now, "lastTransitionTime": now,
        });
        let patch = json!({"status": {"phase": "Healthy", "conditions": [condition]}});
        self.olds().patch_status(name, &PatchParams::default(), &Patch::Merge(&patch)).await?;
        Ok(())
    }

    async fn client(&self, service: &str) -> Result<Client> {
        Client::start(&self.visitor, self.stage.cluster_ip(service, 80).await?).await
    }

    /// The state of everything of this name, as revisions.
    async fn revisions(&self, name: &str) -> Result<Vec<String>> {
        let revision = |what: &str, meta: &ObjectMeta| {
            let (name, revision) = (meta.name.as_deref().unwrap_or(""), &meta.resource_version);
            format!("{what} {name} {}", revision.as_deref().unwrap_or(""))
        };
        let mut revisions = Vec::new();
        for (what, meta) in [
            ("old", self.olds().get_opt(name).await?.map(|object| object.metadata)),
            ("new", self.stage.ceps().get_opt(name).await?.map(|object| object.metadata)),
            ("service", self.stage.services().get_opt(name).await?.map(|object| object.metadata)),
            ("endpoints", self.stage.endpoints().get_opt(name).await?.map(|object| object.metadata)),
        ] {
            revisions.extend(meta.map(|meta| revision(what, &meta)));
        }
        for slice in self.slices(name).await? {
            revisions.push(revision("slice", &slice));
        }
        Ok(revisions)
    }

    async fn slices(&self, service: &str) -> Result<Vec<ObjectMeta>> {
        let of_service = ListParams::default().labels(&format!("kubernetes.io/service-name={service}"));
        let slices = self.stage.slices().list(&of_service).await?;
        Ok(slices.items.into_iter().map(|slice| slice.metadata).collect())
    }

    /// Who writes the slices of a Service; waits until it is nobody else.
    async fn until_managed_by(&self, service: &str, manager: &str) -> Result<()> {
        eventually(SOON, &format!("all slices of {service} are of {manager}"), async || {
            let slices = self.slices(service).await?;
            let theirs = |slice: &ObjectMeta| {
                let labels = slice.labels.clone().unwrap_or_default();
                labels.get("endpointslice.kubernetes.io/managed-by").map(String::as_str) == Some(manager)
            };
            ensure!(!slices.is_empty() && slices.iter().all(theirs), "{slices:?}");
            Ok(())
        })
        .await
    }

    /// Waits until the garbage collector has removed an object that refers to this owner, who is gone: it
    /// has then dealt with everything else that did.
    async fn collected(&self, owner: &OwnerReference) -> Result<()> {
        let mut marker = ConfigMap::default();
        marker.metadata.name = Some(format!("marker-{}", owner.name));
        marker.metadata.owner_references =
            Some(vec![OwnerReference { controller: None, block_owner_deletion: None, ..owner.clone() }]);
        let marker = self.maps().create(&PostParams::default(), &marker).await?.name_any();
        eventually(COLLECTOR, &format!("{marker} is collected"), async || {
            ensure!(self.maps().get_opt(&marker).await?.is_none(), "it is there");
            Ok(())
        })
        .await
    }

    /// A migration that can be killed; its output is the log.
    fn start(&self, name: &str, further: &[&str], files: &Files) -> Result<Process> {
        let command = as_admin(&self.stage.cluster, &[&["migrate", name, "--apply"], further].concat())?;
        let log = files.path().join(format!("{name}-{}.log", std::fs::read_dir(files.path())?.count()));
        Process::start("cepctl", command, &log)
    }

    async fn migrate(&self, name: &str, further: &[&str]) -> Result<Ran> {
        cepctl(&self.stage.cluster, &[&["migrate", name], further].concat()).await
    }
}

/// A controller's reference, as controller-runtime writes it.
fn owner(object: &DynamicObject) -> Result<OwnerReference> {
    Ok(OwnerReference {
        api_version: "sealos.io/v1beta1".to_owned(),
        kind: "ClusterEndpoint".to_owned(),
        name: object.name_any(),
        uid: object.uid().context("no uid")?,
        controller: Some(true),
        block_owner_deletion: Some(true),
    })
}

/// Waits until a running `cepctl` says this.
async fn says(process: &Process, text: &str) -> Result<()> {
    eventually(SOON, &format!("cepctl says {text:?}"), async || {
        ensure!(process.log().contains(text), "{}", process.log());
        Ok(())
    })
    .await
}

/// What is left when all is done: only the new object owns anything, and the Service is the same.
async fn handed_over(town: &Town, before: &Service) -> Result<()> {
    let name = before.name_any();
    let stage = &town.stage;
    stage.phase(&name, "Healthy").await?;
    ensure!(town.olds().get_opt(&name).await?.is_none(), "the old object is there");
    town.until_managed_by(&name, "endpoints-operator.sealyun.com").await?;
    stage.until_ready(&name, &["172.18.191.11:8080", "172.18.191.12:8080"]).await?;
    let cep = stage.ceps().get(&name).await?;
    ensure!(cep.labels().get("team").is_some_and(|team| team == "edge"), "{cep:?}");
    let service = stage.services().get(&name).await?;
    let ip = |service: &Service| service.spec.as_ref().and_then(|spec| spec.cluster_ip.clone());
    ensure!(service.uid() == before.uid() && ip(&service) == ip(before), "{before:?} became {service:?}");
    let endpoints = stage.endpoints().get(&name).await?;
    for meta in [&service.metadata, &endpoints.metadata] {
        let owners = meta.owner_references.clone().unwrap_or_default();
        let uids: Vec<_> = owners.iter().map(|owner| owner.uid.clone()).collect();
        ensure!(uids == [cep.uid().context("no uid")?], "{owners:?}");
        ensure!(meta.deletion_timestamp.is_none(), "{meta:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_object_is_handed_over_without_a_lost_connection() -> Result<()> {
    let town = Town::new().await?;
    let owner = town.original("legacy").await?;
    town.until_managed_by("legacy", "endpointslicemirroring-controller.k8s.io").await?;
    let _operator = town.stage.operator(&[]).await?;
    let client = town.client("legacy").await?;
    let before = town.stage.services().get("legacy").await?;

    println!("looking writes nothing");
    let revisions = town.revisions("legacy").await?;
    let shown = town.migrate("legacy", &[]).await?.expect(0)?;
    ensure!(shown.stdout.starts_with("apiVersion: sealyun.com/v1beta1\n"), "{shown:?}");
    let rehearsed = town.migrate("legacy", &["--apply", "--dry-run"]).await?.expect(0)?;
    println!("{}", rehearsed.stderr);
    let mut last = 0;
    for step in [
        "would create the new ClusterEndpoint",
        "would wait until the operator has adopted the Service",
        "would take the reference to the old object off Service legacy",
        "would take the reference to the old object off Endpoints legacy",
        "would watch for a period",
        "would strip the original operator's finalizers",
        "would remove the old object (propagation policy Orphan)",
    ] {
        let at = rehearsed.stderr.find(step).with_context(|| format!("no {step:?} in {rehearsed:?}"))?;
        ensure!(at >= last, "{step:?} comes too early: {rehearsed:?}");
        last = at;
    }
    ensure!(rehearsed.stdout.is_empty(), "{rehearsed:?}");
    let after = town.revisions("legacy").await?;
    ensure!(after == revisions, "{revisions:?} became {after:?}");

    println!("the whole way");
    let begun = Instant::now();
    let done = town.migrate("legacy", &["--apply"]).await?.expect(0)?;
    println!("{}in {:.1?}", done.stderr, begun.elapsed());
    ensure!(done.stderr.ends_with("✔ default/legacy: migrated, nothing left to do\n"), "{done:?}");
    handed_over(&town, &before).await?;
    town.collected(&owner).await?;
    handed_over(&town, &before).await?;
    client.unharmed(2 * PROXY_PACE).await?;

    let again = town.migrate("legacy", &["--apply"]).await?.expect(0)?;
    ensure!(again.stderr == "✔ default/legacy: migrated, nothing left to do\n", "{again:?}");
    let missing = town.migrate("legacy", &[]).await?.expect(1)?;
    ensure!(missing.stderr.contains("there is no ClusterEndpoint legacy of sealos.io"), "{missing:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_migration_is_finished_by_the_next_run() -> Result<()> {
    let (town, files) = (Town::new().await?, Files::new()?);
    let owner = town.original("legacy").await?;
    let client = town.client("legacy").await?;
    let before = town.stage.services().get("legacy").await?;

    println!("killed while no operator has adopted the Service");
    let first = town.start("legacy", &[], &files)?;
    says(&first, "wait until the operator has adopted the Service").await?;
    first.kill();
    ensure!(town.stage.ceps().get_opt("legacy").await?.is_some(), "the new object is not there");
    let service = town.stage.services().get("legacy").await?;
    ensure!(service.metadata.owner_references == Some(vec![owner.clone()]), "{service:?}");
    let impatient = town.migrate("legacy", &["--apply", "--timeout", "1s"]).await?.expect(1)?;
    ensure!(impatient.stderr.contains("time is up"), "{impatient:?}");
    ensure!(impatient.stderr.contains("See that endpoints-operator runs"), "{impatient:?}");

    println!("while the original operator still writes the status");
    let _operator = town.stage.operator(&[]).await?;
    let beating = async {
        loop {
            town.beat("legacy").await?;
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        #[allow(unreachable_code, reason = "names the type of the loop's errors")]
        Ok::<(), anyhow::Error>(())
    };
    let kept = tokio::select! {
        ran = town.migrate("legacy", &["--apply", "--timeout", "10s"]) => ran?.expect(1)?,
        stopped = beating => bail!("the status cannot be written: {stopped:?}"),
    };
    println!("{}", kept.stderr);
    for text in
        ["the original operator seems to run still. Scale it down", "time is up", "give a --timeout of more"]
    {
        ensure!(kept.stderr.contains(text), "{text:?}: {kept:?}");
    }
    let old = town.olds().get("legacy").await?;
    ensure!(old.finalizers() == [OLD_FINALIZER] && old.metadata.deletion_timestamp.is_none(), "{old:?}");

    println!("killed while it watches whether the original operator is gone");
    let second = town.start("legacy", &[], &files)?;
    says(&second, "watch for a period").await?;
    second.kill();
    ensure!(town.olds().get_opt("legacy").await?.is_some(), "removed too early: {}", second.log());

    println!("killed while the old object is being removed");
    let third = town.start("legacy", &[], &files)?;
    says(&third, "remove the old object").await?;
    third.kill();

    let last = town.migrate("legacy", &["--apply"]).await?.expect(0)?;
    println!("{}", last.stderr);
    ensure!(last.stderr.ends_with("migrated, nothing left to do\n"), "{last:?}");
    handed_over(&town, &before).await?;
    town.collected(&owner).await?;
    handed_over(&town, &before).await?;
    client.unharmed(2 * PROXY_PACE).await
}

const OLD_FILES: &str = r#"
apiVersion: sealyun.com/v1beta1
kind: ClusterEndpoint
metadata: {name: early}
spec:
  hosts: [172.18.191.11]
  periodSeconds: 10
  timeoutSeconds: 2
  ports:
  - {name: udp, port: 53, protocol: UDP, targetPort: 53, udpSocket: {enable: true, data: ping}}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: beside}
---
apiVersion: sealos.io/v1beta1
kind: ClusterEndpoint
metadata: {name: later, finalizers: [sealos.io/cluster-endpoints.finalizers]}
spec:
  periodSeconds: 5
  ports:
  - {name: udp, hosts: [172.18.191.12], port: 53, protocol: UDP, targetPort: 53, udpSocket: {enable: true, data: [112, 105]}}
  - {name: web, hosts: [172.18.191.12], port: 80, targetPort: 8080, httpGet: {path: healthz, scheme: Http}, tcpSocket: {enable: true}}
status: {phase: Healthy}
"#;

const NEW_FILES: &str = r#"apiVersion: sealyun.com/v1beta1
kind: ClusterEndpoint
metadata:
  name: early
spec:
  hosts:
  - "172.18.191.11"
  periodSeconds: 10
  ports:
  - name: udp
    port: 53
    targetPort: 53
    protocol: UDP
    timeoutSeconds: 2
    udpSocket:
      enable: true
      text: ping
---
apiVersion: sealyun.com/v1beta1
kind: ClusterEndpoint
metadata:
  name: later
spec:
  periodSeconds: 5
  ports:
  - name: udp
    port: 53
    targetPort: 53
    protocol: UDP
    hosts:
    - "172.18.191.12"
    udpSocket:
      enable: true
      data:
      - 112
      - 105
  - name: web
    port: 80
    targetPort: 8080
    protocol: TCP
    hosts:
    - "172.18.191.12"
    httpGet:
      path: /healthz
      scheme: HTTP
"#;

#[tokio::test(flavor = "multi_thread")]
async fn old_files_become_new_ones_that_the_api_server_takes() -> Result<()> {
    let stage = Stage::on(testbed::Cluster::builder().proxy(false).start().await?).await?;
    let files = Files::new()?;
    let old = files.write("old.yaml", OLD_FILES)?;
    // No cluster is asked.
    let ran = run(command(stage.cluster.netns(), &["migrate", "-f", &old])?).await?.expect(0)?;
    ensure!(ran.stdout == NEW_FILES, "{ran:?}");
    for warning in [
        "ConfigMap is no ClusterEndpoint; left out",
        "later: spec.ports[1].tcpSocket is left out: a port has one probe, and httpGet is kept",
    ] {
        ensure!(ran.stderr.contains(warning), "{ran:?}");
    }
    stage.cluster.apply(&ran.stdout).await?;
    let stored = stage.ceps().get("early").await?;
    ensure!(stored.data["spec"]["ports"][0]["udpSocket"]["text"] == "ping", "{stored:?}");

    let both =
        run(command(stage.cluster.netns(), &["migrate", "-f", &old, "-o", "json"])?).await?.expect(0)?;
    let list = both.json()?;
    ensure!(list["kind"] == "List" && list["items"][0]["metadata"]["name"] == "early", "{list}");
    stage.cluster.apply(&both.stdout).await?;
    let stored = stage.ceps().get("later").await?;
    ensure!(stored.metadata.generation == Some(1), "the JSON says something else: {stored:?}");

    let none = files.write("none.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: beside}\n")?;
    let ran = run(command(stage.cluster.netns(), &["migrate", "-f", &none])?).await?.expect(1)?;
    ensure!(ran.stderr.contains("use cepctl convert"), "{ran:?}");
    // The old kind is not installed here.
    let ran = cepctl(&stage.cluster, &["migrate", "--all"]).await?.expect(1)?;
    ensure!(ran.stderr.contains("its CRD is not installed"), "{ran:?}");
    Ok(())
}
