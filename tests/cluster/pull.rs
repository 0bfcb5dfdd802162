//! `outrigger pull` against the API server; the manager's and the daemons' part is played by the test.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use kube::Api;
use kube::api::{
    ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams, PostParams,
};
use outrigger::api::names;
use outrigger::cluster::uninstall::{self, Line, Outcome};
use outrigger::crds;
use serde_json::{Value, json};

use crate::harness::{Cluster, Namespace, PATIENCE, Process, Test, alone, eventually, until};

const STARTED: &str = "2026-03-04T05:06:07Z";
const ENDED: &str = "2026-03-04T05:06:09Z";

pub fn tests() -> Vec<Test> {
    // Jobs are looked at by whichever manager runs.
    alone![
        a_pull_is_followed_by_bytes_and_its_failures_are_a_table,
        several_images_are_a_list_and_one_json_object_tells_of_them,
        an_interrupted_pull_goes_on_and_is_followed_again,
        who_may_not_see_nodes_sees_counts,
        no_job_is_held_back_after_uninstall,
    ]
}

/// The definitions, without a webhook for conversion: nobody serves it here.
async fn install(cluster: &Cluster) -> Result<()> {
    let definitions = crds::all(names::DEFAULT_NAMESPACE);
    for definition in definitions.iter().filter(|definition| definition.name.contains("image")) {
        let file = cluster.dir().join(definition.file_name());
        std::fs::write(&file, definition.to_yaml()?)?;
        let file = file.display().to_string();
        cluster.kubectl_says(&["apply", "--server-side", "--force-conflicts", "-f", &file]).await?;
    }
    until("all kinds are served", PATIENCE, async || {
        for kind in ["ImagePullJob", "ImageListPullJob", "NodeImage"] {
            if Api::<DynamicObject>::all_with(cluster.client(), &resource(kind))
                .list(&ListParams::default())
                .await
                .is_err()
            {
                return Ok(false);
            }
        }
        Ok(true)
    })
    .await
}

fn resource(kind: &str) -> ApiResource {
    ApiResource::from_gvk(&GroupVersionKind::gvk(names::GROUP, "v1beta1", kind))
}

/// A pull that runs, and what the test plays for it.
struct Pull<'c> {
    cluster: &'c Cluster,
    ns: &'c Namespace,
    process: Process,
}

impl<'c> Pull<'c> {
    fn start(cluster: &'c Cluster, ns: &'c Namespace, kubeconfig: PathBuf, args: &[&str]) -> Result<Self> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_outrigger"));
        command.arg("pull").args(args).args(["-n", ns.name()]).arg("--kubeconfig").arg(kubeconfig);
        let process = cluster.spawn(&format!("pull-{}", fastrand::u32(..)), &command)?;
        Ok(Self { cluster, ns, process })
    }

    fn api(&self, kind: &str) -> Api<DynamicObject> {
        Api::namespaced_with(self.cluster.client(), self.ns.name(), &resource(kind))
    }

    fn nodes(&self) -> Api<DynamicObject> {
        Api::all_with(self.cluster.client(), &resource("NodeImage"))
    }

    fn said(&self) -> Result<String> {
        Ok(std::fs::read_to_string(self.process.log())?)
    }

    async fn says(&self, words: &str) -> Result<()> {
        let what = format!("it says {words:?}");
        let said = until(&what, PATIENCE, async || Ok(self.said()?.contains(words)));
        said.await.map_err(|error| self.process.explain(error))
    }

    async fn ends(&self, code: i32) -> Result<String> {
        let status = self.process.ended(PATIENCE).await?;
        let said = self.said()?;
        ensure!(status.code() == Some(code), "it ended with {status}:\n{said}");
        Ok(said)
    }

    /// The only job of this kind.
    async fn job(&self, kind: &str) -> Result<DynamicObject> {
        let api = self.api(kind);
        let made = eventually("the job is made", PATIENCE, async || {
            Ok(api.list(&ListParams::default()).await?.items.into_iter().next())
        });
        made.await.map_err(|error| self.process.explain(error))
    }

    async fn status(&self, kind: &str, name: &str, status: Value) -> Result<()> {
        let patch = Patch::Merge(json!({"status": status}));
        self.api(kind).patch_status(name, &PatchParams::default(), &patch).await?;
        Ok(())
    }

    /// Asks a node of the test for `nginx:1`.
    async fn ask(&self, node: &str, job: &DynamicObject) -> Result<String> {
        let name = format!("{}-{node}", self.ns.name());
        let uid = job.metadata.uid.as_deref().context("no uid")?;
        let tag = json!({"tag": "1", "version": 1, "createdAt": STARTED, "ownerReferences": [{"kind": "ImagePullJob", "uid": uid}]});
        let object = json!({
            "apiVersion": names::V1BETA1, "kind": "NodeImage", "metadata": {"name": name},
            "spec": {"images": {"nginx": {"tags": [tag]}}},
        });
        self.nodes().create(&PostParams::default(), &serde_json::from_value(object)?).await?;
        Ok(name)
    }

    async fn answer(&self, node: &str, answer: &Value) -> Result<()> {
        let mut answer = answer.clone();
        answer["tag"] = "1".into();
        answer["version"] = 1.into();
        let patch = Patch::Merge(json!({"status": {"desired": 1, "imageStatuses": {"nginx": {"tags": [answer]}}}}));
        self.nodes().patch_status(node, &PatchParams::default(), &patch).await?;
        Ok(())
    }

    async fn forget(&self, nodes: &[String]) -> Result<()> {
        for node in nodes {
            self.nodes().delete(node, &DeleteParams::default()).await?;
        }
        Ok(())
    }
}

async fn a_pull_is_followed_by_bytes_and_its_failures_are_a_table(cluster: &Cluster, ns: &Namespace) -> Result<()> {
    install(cluster).await?;
    let args = ["docker.io/library/nginx:1", "--parallelism", "50%", "--secret", "reg", "--node-selector", "disk=ssd"];
    let pull = Pull::start(cluster, ns, cluster.kubeconfig(), &args)?;
    let job = pull.job("ImagePullJob").await?;
    let spec = json!({
        "image": "docker.io/library/nginx:1", "parallelism": "50%", "pullSecrets": ["reg"],
        "imagePullPolicy": "IfNotPresent", "pullPolicy": {"timeoutSeconds": 600},
        "selector": {"matchLabels": {"disk": "ssd"}},
        "completionPolicy": {"type": "Always", "ttlSecondsAfterFinished": 600},
    });
    assert_eq!(job.data["spec"], spec);
    let name = job.metadata.name.clone().context("no name")?;
    pull.status("ImagePullJob", &name, json!({"startTime": STARTED, "desired": 2, "active": 2})).await?;
    let nodes = [pull.ask("a", &job).await?, pull.ask("b", &job).await?];
    pull.says("0 of 2 nodes have it, 2 asked").await?;
    pull.answer(&nodes[0], &json!({"phase": "Pulling", "progress": 40, "startTime": STARTED})).await?;
    pull.says(" 20 %  0 of 2 nodes have it, 1 pulling, 1 asked").await?;
    pull.answer(&nodes[0], &json!({"phase": "Succeeded", "progress": 100, "completionTime": ENDED})).await?;
    let why = "the registry does not have it: not found";
    pull.answer(&nodes[1], &json!({"phase": "Failed", "completionTime": ENDED, "message": why})).await?;
    let ended = json!({"completionTime": ENDED, "active": 0, "succeeded": 1, "failed": 1, "failedNodes": [nodes[1]]});
    pull.status("ImagePullJob", &name, ended).await?;
    let said = pull.ends(1).await?;
    let row = format!("{}  docker.io/library/nginx:1  {why}", nodes[1]);
    ensure!(said.contains("100 %  1 of 2 nodes have it, 1 failed") && said.contains(&row), "{said}");
    pull.forget(&nodes).await
}

async fn several_images_are_a_list_and_one_json_object_tells_of_them(cluster: &Cluster, ns: &Namespace) -> Result<()> {
    install(cluster).await?;
    let pull =
        Pull::start(cluster, ns, cluster.kubeconfig(), &["a:1", "b:1", "a:1", "-o", "json", "--keep", "--always"])?;
    let list = pull.job("ImageListPullJob").await?;
    let spec = &list.data["spec"];
    assert_eq!((&spec["images"], &spec["imagePullPolicy"]), (&json!(["a:1", "b:1"]), &json!("Always")));
    assert_eq!(spec["completionPolicy"], json!({"type": "Always"}));
    let (name, uid) = (list.metadata.name.clone().context("no name")?, list.metadata.uid.clone());
    for image in ["a:1", "b:1"] {
        let owner = json!([{
            "apiVersion": names::V1BETA1, "kind": "ImageListPullJob", "name": name, "uid": uid, "controller": true,
        }]);
        let child = format!("{name}-{}", &image[..1]);
        let object = json!({
            "apiVersion": names::V1BETA1, "kind": "ImagePullJob", "metadata": {"name": child, "ownerReferences": owner},
            "spec": {"image": image, "completionPolicy": {"type": "Always"}},
        });
        pull.api("ImagePullJob").create(&PostParams::default(), &serde_json::from_value(object)?).await?;
        let status = json!({"startTime": STARTED, "completionTime": ENDED, "desired": 3, "succeeded": 3});
        pull.status("ImagePullJob", &child, status).await?;
    }
    pull.status(
        "ImageListPullJob",
        &name,
        json!({"desired": 2, "completed": 2, "succeeded": 2, "completionTime": ENDED}),
    )
    .await?;
    let said = pull.ends(0).await?;
    let told: Value = serde_json::from_str(&said).with_context(|| said.clone())?;
    let facts = json!([told["kind"], told["name"], told["namespace"], told["state"], told["failures"]]);
    assert_eq!(facts, json!(["ImageListPullJob", name, ns.name(), "Complete", []]));
    assert_eq!((&told["progress"]["desired"], &told["progress"]["succeeded"]), (&json!(6), &json!(6)));
    let image =
        json!({"image": "a:1", "job": format!("{name}-a"), "desired": 3, "succeeded": 3, "failed": 0, "active": 0});
    assert_eq!(told["images"][0], image);
    Ok(())
}

async fn an_interrupted_pull_goes_on_and_is_followed_again(cluster: &Cluster, ns: &Namespace) -> Result<()> {
    install(cluster).await?;
    let pull = Pull::start(cluster, ns, cluster.kubeconfig(), &["nginx:1"])?;
    let job = pull.job("ImagePullJob").await?;
    let name = job.metadata.name.clone().context("no name")?;
    pull.status("ImagePullJob", &name, json!({"startTime": STARTED, "desired": 1, "active": 1})).await?;
    pull.says("0 of 1 nodes have it").await?;
    pull.process.signal("INT")?;
    let said = pull.ends(3).await?;
    let way =
        format!("the job goes on. To follow it: outrigger pull --resume {name} -n {}; to stop it: kubectl", ns.name());
    ensure!(said.contains(&way), "{said}");

    let late = Pull::start(cluster, ns, cluster.kubeconfig(), &["--resume", &name, "--timeout", "1"])?;
    ensure!(late.ends(3).await?.contains("--timeout is over; the job goes on"), "{}", late.said()?);
    let again = Pull::start(cluster, ns, cluster.kubeconfig(), &["--resume", &name])?;
    again.says("0 of 1 nodes have it").await?;
    let ended = json!({"completionTime": ENDED, "active": 0, "succeeded": 1});
    again.status("ImagePullJob", &name, ended).await?;
    ensure!(again.ends(0).await?.contains("100 %  1 of 1 nodes have it"), "{}", again.said()?);

    let detached = Pull::start(cluster, ns, cluster.kubeconfig(), &["b:1", "--detach"])?;
    ensure!(detached.ends(0).await?.contains("outrigger pull --resume pull-"), "{}", detached.said()?);
    let deleted = Pull::start(cluster, ns, cluster.kubeconfig(), &["c:1"])?;
    let job = eventually("the job is made", PATIENCE, async || {
        let jobs = deleted.api("ImagePullJob").list(&ListParams::default()).await?.items;
        Ok(jobs.into_iter().find(|job| job.data["spec"]["image"] == "c:1"))
    })
    .await?;
    deleted.api("ImagePullJob").delete(&job.metadata.name.unwrap_or_default(), &DeleteParams::default()).await?;
    ensure!(deleted.ends(1).await?.contains("was deleted before it had ended"), "{}", deleted.said()?);
    let unknown = Pull::start(cluster, ns, cluster.kubeconfig(), &["--resume", "nothing"])?;
    ensure!(
        unknown.ends(1).await?.contains("has no ImagePullJob and no ImageListPullJob nothing"),
        "{}",
        unknown.said()?
    );
    Ok(())
}

async fn who_may_not_see_nodes_sees_counts(cluster: &Cluster, ns: &Namespace) -> Result<()> {
    install(cluster).await?;
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "puller"},
        "rules": [{
            "apiGroups": [names::GROUP], "resources": ["imagepulljobs"], "verbs": ["create", "list", "watch"],
        }],
    });
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "puller"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "puller"},
        "subjects": [{"kind": "ServiceAccount", "name": "puller", "namespace": ns.name()}],
    });
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "puller"}});
    ns.create_json::<k8s_openapi::api::core::v1::ServiceAccount>(account).await?;
    ns.create_json::<k8s_openapi::api::rbac::v1::Role>(role).await?;
    ns.create_json::<k8s_openapi::api::rbac::v1::RoleBinding>(binding).await?;
    let kubeconfig = cluster.kubeconfig_of(ns.name(), "puller").await?;
    let own = cluster.client_of(ns.name(), "puller").await?;
    let own: Api<DynamicObject> = Api::namespaced_with(own, ns.name(), &resource("ImagePullJob"));
    until("the rights are known", PATIENCE, async || Ok(own.list(&ListParams::default()).await.is_ok())).await?;
    let pull = Pull::start(cluster, ns, kubeconfig, &["nginx:1"])?;
    let job = pull.job("ImagePullJob").await?;
    let name = job.metadata.name.clone().context("no name")?;
    let node = pull.ask("a", &job).await?;
    pull.answer(&node, &json!({"phase": "Failed", "message": "not seen"})).await?;
    pull.status("ImagePullJob", &name, json!({"startTime": STARTED, "desired": 3, "active": 1, "succeeded": 1}))
        .await?;
    pull.says("1 of 3 nodes have it, 1 pulling").await?;
    let why = "job has completed";
    let ended = json!({
        "completionTime": ENDED, "active": 0, "succeeded": 2, "failed": 1, "failedNodes": ["worker-b"], "message": why,
    });
    pull.status("ImagePullJob", &name, ended).await?;
    let said = pull.ends(1).await?;
    ensure!(said.contains(&format!("worker-b  nginx:1  {why}")), "{said}");
    pull.forget(&[node]).await
}

async fn no_job_is_held_back_after_uninstall(cluster: &Cluster, ns: &Namespace) -> Result<()> {
    install(cluster).await?;
    let api: Api<DynamicObject> = Api::namespaced_with(cluster.client(), ns.name(), &resource("ImagePullJob"));
    for (name, finalizers) in
        [("ours", json!(["test.io/theirs", names::DELETION_PROTECTION])), ("theirs", json!(["test.io/theirs"]))]
    {
        let object = json!({
            "apiVersion": names::V1BETA1, "kind": "ImagePullJob", "metadata": {"name": name, "finalizers": finalizers},
            "spec": {"image": "a:1", "completionPolicy": {"type": "Always"}},
        });
        api.create(&PostParams::default(), &serde_json::from_value(object)?).await?;
    }
    let settings = |dry_run| uninstall::Settings {
        namespace: ns.name().to_owned(),
        deployment: "outrigger-manager".to_owned(),
        dry_run,
    };
    let outcome = async |dry_run| -> Result<Outcome> {
        let lines = uninstall::uninstall(&cluster.client(), &settings(dry_run), |_| ()).await;
        ensure!(lines.iter().all(Line::is_right), "{lines:?}");
        let line = lines.into_iter().find(|line| line.what == "imagepulljobs").context("nothing about jobs")?;
        Ok(line.outcome)
    };
    let finalizers =
        async |name: &str| -> Result<Vec<String>> { Ok(api.get(name).await?.metadata.finalizers.unwrap_or_default()) };
    assert_eq!(outcome(true).await?, Outcome::Done("released"));
    assert_eq!(finalizers("ours").await?.len(), 2, "a dry run changes nothing");
    assert_eq!(outcome(false).await?, Outcome::Done("released"));
    for name in ["ours", "theirs"] {
        assert_eq!(finalizers(name).await?, ["test.io/theirs"], "{name}");
        let patch = Patch::Merge(json!({"metadata": {"finalizers": null}}));
        api.patch(name, &PatchParams::default(), &patch).await?;
    }
    assert_eq!(outcome(false).await?, Outcome::Already("held back by nothing"));
    Ok(())
}
