//! `outrigger explain` against the API server, with the user's own rights.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::{Namespace as KubeNamespace, Pod, ServiceAccount};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use kube::{Resource, ResourceExt as _};
use serde_json::{Value, json};

use crate::harness::{Cluster, Namespace, PATIENCE, Test, eventually, run, until};

/// The webhook that is registered here and never answers.
const CONFIGURATION: &str = "kruise-mutating-webhook-configuration";

pub fn tests() -> Vec<Test> {
    run::alone![
        each_reason_is_named_for_people_and_programs,
        the_pods_of_a_set_are_counted_by_reason,
        a_user_without_rights_is_told_which_are_missing,
        a_plugin_of_kubectl_says_so,
    ]
}

// === what tests of missed pods need, too ===

/// Makes the API server know SidecarSets.
pub async fn install(cluster: &Cluster) -> Result<()> {
    let manifest = format!("{}/manifests/crds/apps.kruise.io_sidecarsets.yaml", env!("CARGO_MANIFEST_DIR"));
    let mut crd: Value = match std::fs::read_to_string(manifest) {
        Ok(text) => serde_saphyr::from_str(&text)?,
        Err(_) => permissive(),
    };
    // Nobody serves conversion here.
    crd["spec"]["conversion"] = json!({"strategy": "None"});
    let api: Api<CustomResourceDefinition> = Api::all(cluster.client());
    let name = "sidecarsets.apps.kruise.io";
    api.patch(name, &PatchParams::apply("test").force(), &Patch::Apply(&crd)).await.context("the CRD")?;
    until("SidecarSets are served", PATIENCE, async || {
        Ok(sidecarsets(cluster).list(&kube::api::ListParams::default()).await.is_ok())
    })
    .await
}

fn permissive() -> Value {
    let schema = json!({"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}});
    let version = json!({
        "name": "v1beta1", "served": true, "storage": true, "schema": schema, "subresources": {"status": {}},
    });
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "sidecarsets.apps.kruise.io"},
        "spec": {
            "group": "apps.kruise.io",
            "names": {"kind": "SidecarSet", "listKind": "SidecarSetList", "plural": "sidecarsets", "singular": "sidecarset"},
            "scope": "Cluster",
            "versions": [version],
        },
    })
}

pub fn sidecarsets(cluster: &Cluster) -> Api<DynamicObject> {
    let kind = ApiResource {
        group: "apps.kruise.io".into(),
        version: "v1beta1".into(),
        api_version: "apps.kruise.io/v1beta1".into(),
        kind: "SidecarSet".into(),
        plural: "sidecarsets".into(),
    };
    Api::all_with(cluster.client(), &kind)
}

/// Creates a SidecarSet for the pods of this namespace that are labelled `app=web`; `change` is merged into its spec.
pub async fn create_set(cluster: &Cluster, ns: &Namespace, name: &str, change: &Value) -> Result<DynamicObject> {
    let mut spec = json!({
        "selector": {"matchLabels": {"app": "web", "test": ns.name()}},
        "containers": [{"name": "proxy", "image": "envoy:1"}],
        "updateStrategy": {"type": "NotUpdate"},
        "injectionStrategy": {},
    });
    json_patch::merge(&mut spec, change);
    let name = format!("{}-{name}", ns.name());
    let set = json!({
        "apiVersion": "apps.kruise.io/v1beta1", "kind": "SidecarSet", "metadata": {"name": name}, "spec": spec,
    });
    Ok(sidecarsets(cluster).create(&PostParams::default(), &serde_json::from_value(set)?).await?)
}

pub async fn create_pod(ns: &Namespace, name: &str, change: &Value) -> Result<Pod> {
    ns.create_json(pod(ns, name, change)).await
}

fn pod(ns: &Namespace, name: &str, change: &Value) -> Value {
    let mut pod = json!({
        "metadata": {"name": name, "labels": {"app": "web", "test": ns.name()}},
        "spec": {"containers": [{"name": "app", "image": "app:1"}]},
    });
    json_patch::merge(&mut pod, change);
    pod
}

/// Waits until the API server's clock is `after` the creation of an object.
pub async fn aged(ns: &Namespace, object: &impl Resource, after: SignedDuration) -> Result<()> {
    let created = object.meta().creation_timestamp.as_ref().context("no creation time")?.0;
    let params = PostParams { dry_run: true, ..PostParams::default() };
    let probe: Pod = serde_json::from_value(pod(ns, "probe", &json!({})))?;
    until("time has passed", PATIENCE, async || {
        let now: Timestamp = ns.api::<Pod>().create(&params, &probe).await?.creation_timestamp().context("no time")?.0;
        Ok(now > created + after)
    })
    .await
}

/// Registers a webhook that is away, so that pods are let in without it.
pub async fn register_absent(cluster: &Cluster) -> Result<()> {
    let configuration = json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": CONFIGURATION},
        "webhooks": [{
            "name": "mpod.kb.io", "admissionReviewVersions": ["v1"], "sideEffects": "None", "failurePolicy": "Ignore",
            "timeoutSeconds": 1, "clientConfig": {"url": "https://127.0.0.1:1/mutate-pod"},
            "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"], "operations": ["CREATE"]}],
            "namespaceSelector": {"matchExpressions": [{"key": "control-plane", "operator": "DoesNotExist"}]},
        }],
    });
    let api: Api<MutatingWebhookConfiguration> = Api::all(cluster.client());
    api.patch(CONFIGURATION, &PatchParams::apply("test").force(), &Patch::Apply(&configuration)).await?;
    Ok(())
}

pub async fn deregister(cluster: &Cluster) -> Result<()> {
    let api: Api<MutatingWebhookConfiguration> = Api::all(cluster.client());
    match api.delete(CONFIGURATION, &DeleteParams::default()).await {
        Err(kube::Error::Api(status)) if status.code == 404 => {}
        deleted => drop(deleted?),
    }
    Ok(())
}

/// Leaves nothing of the cluster's behind that would meet other tests.
pub async fn clean_up(cluster: &Cluster, ns: &Namespace) -> Result<()> {
    deregister(cluster).await?;
    for set in sidecarsets(cluster).list(&kube::api::ListParams::default()).await?.items {
        if set.name_any().starts_with(ns.name()) {
            sidecarsets(cluster).delete(&set.name_any(), &DeleteParams::default()).await?;
        }
    }
    Ok(())
}

/// Runs the program; its exit code, and all that it said.
pub async fn outrigger_says(kubeconfig: PathBuf, args: &[&str]) -> Result<(i32, String)> {
    let said = outrigger(binary(), kubeconfig, args).await?;
    Ok((said.code, said.out + &said.err))
}

/// What a run printed.
struct Said {
    code: i32,
    out: String,
    err: String,
}

impl Said {
    fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.out).with_context(|| format!("{}{}", self.out, self.err))
    }
}

async fn outrigger(program: PathBuf, kubeconfig: PathBuf, args: &[&str]) -> Result<Said> {
    let mut command = std::process::Command::new(program);
    command.args(args).env_remove("KUBECONFIG").env_remove("POD_NAMESPACE").arg("--kubeconfig").arg(kubeconfig);
    let output = tokio::task::spawn_blocking(move || command.output()).await??;
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    Ok(Said { code: output.status.code().unwrap_or(-1), out: text(&output.stdout), err: text(&output.stderr) })
}

fn binary() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_outrigger"))
}

async fn explain(cluster: &Cluster, args: &[&str]) -> Result<Said> {
    let args: Vec<&str> = ["explain"].iter().chain(args).copied().collect();
    outrigger(binary(), cluster.kubeconfig(), &args).await
}

// === tests ===

async fn each_reason_is_named_for_people_and_programs(cluster: &Cluster, ns: &Namespace) -> Result<()> {
    install(cluster).await?;
    let tested = reasons(cluster, ns).await;
    clean_up(cluster, ns).await?;
    tested
}

async fn reasons(cluster: &Cluster, ns: &Namespace) -> Result<()> {
    register_absent(cluster).await?;
    let old = create_pod(ns, "old", &json!({})).await?;
    aged(ns, &old, SignedDuration::from_secs(1)).await?;
    let mesh = create_set(cluster, ns, "mesh", &json!({})).await?;
    create_set(cluster, ns, "api", &json!({"selector": {"matchLabels": {"app": "api"}}})).await?;
    create_set(cluster, ns, "prod", &json!({"namespaceSelector": {"matchLabels": {"stage": "prod"}}})).await?;
    create_set(cluster, ns, "paused", &json!({"injectionStrategy": {"paused": true}})).await?;
    aged(ns, &mesh, SignedDuration::from_secs(6)).await?;
    create_pod(ns, "web", &json!({})).await?;

    let said = explain(cluster, &["pod", "web", "-n", ns.name(), "-o", "json"]).await?;
    assert_eq!(said.code, 3, "{}{}", said.out, said.err);
    let report = said.json()?;
    for (set, reason, term) in [
        ("mesh", "WebhookIgnored", "failurePolicy Ignore"),
        ("api", "NotSelected", "app=api"),
        ("prod", "NamespaceNotSelected", "stage=prod"),
        ("paused", "InjectionPaused", "spec.injectionStrategy.paused"),
    ] {
        let line = line(&report, &format!("{}-{set}", ns.name()))?;
        assert_eq!(line["reason"], reason, "{line}");
        ensure!(line["message"].as_str().unwrap_or_default().contains(term), "{line}");
    }
    assert_eq!(report["standing"], "Missed");
    assert_eq!(report["webhook"], json!({"known": true, "hooks": [{"name": "mpod.kb.io", "failurePolicy": "Ignore"}]}));

    let said = explain(cluster, &["pod", "old", "-n", ns.name()]).await?;
    assert_eq!(said.code, 4, "{}{}", said.out, said.err);
    ensure!(said.out.contains("before the"), "{}", said.out);
    ensure!(said.out.lines().all(|line| line.len() <= 80 || line.starts_with("  SidecarSet ")), "{}", said.out);

    // The same pod, were its namespace excluded.
    let namespaces: Api<KubeNamespace> = Api::all(cluster.client());
    let label = json!({"metadata": {"labels": {"control-plane": "x"}}});
    namespaces.patch(ns.name(), &PatchParams::default(), &Patch::Merge(&label)).await?;
    let said = explain(cluster, &["pod", "web", "-n", ns.name(), "-o", "json"]).await?;
    assert_eq!(said.code, 0, "{}{}", said.out, said.err);
    let report = said.json()?;
    let line = line(&report, &format!("{}-mesh", ns.name()))?;
    assert_eq!(line["reason"], "NamespaceExcluded");
    ensure!(line["message"].as_str().unwrap_or_default().contains("control-plane does not exist"), "{line}");

    let said = explain(cluster, &["pod", "absent", "-n", ns.name()]).await?;
    assert_eq!(said.code, 1);
    ensure!(said.err.contains("pods \"absent\" not found"), "{}", said.err);
    Ok(())
}

fn line<'a>(report: &'a Value, set: &str) -> Result<&'a Value> {
    let mut lines = report["sidecarSets"].as_array().context("no sidecarSets")?.iter();
    lines.find(|line| line["name"] == set).with_context(|| format!("{set} is not in {report}"))
}

async fn the_pods_of_a_set_are_counted_by_reason(cluster: &Cluster, ns: &Namespace) -> Result<()> {
    install(cluster).await?;
    let tested = counts(cluster, ns).await;
    clean_up(cluster, ns).await?;
    tested
}

async fn counts(cluster: &Cluster, ns: &Namespace) -> Result<()> {
    let old = create_pod(ns, "old", &json!({})).await?;
    aged(ns, &old, SignedDuration::from_secs(1)).await?;
    let mesh = create_set(cluster, ns, "mesh", &json!({})).await?;
    let name = mesh.name_any();
    aged(ns, &mesh, SignedDuration::from_secs(6)).await?;
    create_pod(ns, "missed", &json!({})).await?;
    let record = json!({&name: {"hash": "another", "sidecarSetName": &name}}).to_string();
    create_pod(ns, "carries", &json!({"metadata": {"annotations": {"kruise.io/sidecarset-hash": record}}})).await?;
    create_pod(ns, "other", &json!({"metadata": {"labels": {"app": "api"}}})).await?;

    let said = explain(cluster, &["sidecarset", &name, "-o", "json"]).await?;
    assert_eq!(said.code, 3, "{}{}", said.out, said.err);
    let report = said.json()?;
    assert_eq!(report["pods"], json!({"matched": 3, "injected": 1, "outdated": 1, "lacking": 1, "missed": 1}));
    assert_eq!((&report["healthy"], &report["reasons"][0]["reason"]), (&json!(false), &json!("WebhookNotRegistered")));
    assert_eq!(report["reasons"][0]["pods"], json!([format!("{}/missed", ns.name())]));
    ensure!(report["problems"][0].as_str().unwrap_or_default().contains("no webhook for pods is registered"));

    let said = explain(cluster, &["sidecarset", &name, "-n", "default"]).await?;
    assert_eq!(said.code, 0, "{}{}", said.out, said.err);
    ensure!(said.out.contains("pods: 0 matched by label"), "{}", said.out);
    let said = explain(cluster, &["sidecarset", "absent"]).await?;
    assert_eq!((said.code, said.err.trim()), (1, "error: there is no SidecarSet absent; see kubectl get sidecarsets"));
    Ok(())
}

async fn a_user_without_rights_is_told_which_are_missing(cluster: &Cluster, ns: &Namespace) -> Result<()> {
    install(cluster).await?;
    let tested = rights(cluster, ns).await;
    clean_up(cluster, ns).await?;
    tested
}

async fn rights(cluster: &Cluster, ns: &Namespace) -> Result<()> {
    create_pod(ns, "web", &json!({})).await?;
    create_set(cluster, ns, "api", &json!({"selector": {"matchLabels": {"app": "api"}}})).await?;
    ns.create_json::<ServiceAccount>(json!({"metadata": {"name": "user"}})).await?;
    let kubeconfig = cluster.kubeconfig_of(ns.name(), "user").await?;
    let explain = async || {
        outrigger(binary(), kubeconfig.clone(), &["explain", "pod", "web", "-n", ns.name(), "-o", "json"]).await
    };
    let said = explain().await?;
    assert_eq!(said.code, 1, "{}", said.out);
    ensure!(said.err.contains("you may not get pods: "), "{}", said.err);

    let mut rules = vec![json!({"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]})];
    grant(cluster, ns, &rules).await?;
    let said = eventually("the right is known", PATIENCE, async || {
        let said = explain().await?;
        Ok((!said.err.contains("get pods")).then_some(said))
    })
    .await?;
    assert_eq!(said.code, 1, "{}", said.out);
    ensure!(said.err.contains("you may not list sidecarsets.apps.kruise.io"), "{}", said.err);

    rules.push(json!({"apiGroups": ["apps.kruise.io"], "resources": ["sidecarsets"], "verbs": ["list"]}));
    grant(cluster, ns, &rules).await?;
    let said = eventually("the right is known", PATIENCE, async || {
        let said = explain().await?;
        Ok((!said.err.contains("list sidecarsets")).then_some(said))
    })
    .await?;
    // What else may not be read is told, and is not needed to see that no label fits.
    assert_eq!(said.code, 0, "{}{}", said.out, said.err);
    let report = said.json()?;
    assert_eq!(report["webhook"]["known"], false);
    let notes = report["notes"].to_string();
    for missing in ["get namespaces", "get mutatingwebhookconfigurations.admissionregistration.k8s.io"] {
        ensure!(notes.contains(missing), "{notes}");
    }

    create_set(cluster, ns, "prod", &json!({"namespaceSelector": {"matchLabels": {"stage": "prod"}}})).await?;
    let said = explain().await?;
    assert_eq!(said.code, 1, "what decides may not be read: {}{}", said.out, said.err);
    Ok(())
}

async fn grant(cluster: &Cluster, ns: &Namespace, rules: &[Value]) -> Result<()> {
    let name = ns.name();
    let params = PatchParams::apply("test").force();
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": name}, "rules": rules,
    });
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name},
        "subjects": [{"kind": "ServiceAccount", "name": "user", "namespace": name}],
    });
    Api::<ClusterRole>::all(cluster.client()).patch(name, &params, &Patch::Apply(&role)).await?;
    Api::<ClusterRoleBinding>::all(cluster.client()).patch(name, &params, &Patch::Apply(&binding)).await?;
    Ok(())
}

async fn a_plugin_of_kubectl_says_so(cluster: &Cluster, ns: &Namespace) -> Result<()> {
    install(cluster).await?;
    create_pod(ns, "web", &json!({})).await?;
    let dir = tempfile::tempdir()?;
    let plugin = dir.path().join("kubectl-outrigger");
    std::os::unix::fs::symlink(binary(), &plugin)?;
    let said = outrigger(plugin.clone(), cluster.kubeconfig(), &["explain", "pod", "web", "-n", ns.name()]).await?;
    ensure!(said.out.starts_with("Pod web in namespace "), "{}{}", said.out, said.err);
    let said = outrigger(plugin, cluster.kubeconfig(), &["explain", "--help"]).await?;
    ensure!(said.out.contains("Usage: kubectl outrigger explain"), "{}", said.out);
    Ok(())
}
