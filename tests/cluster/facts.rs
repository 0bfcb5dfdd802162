//! What the other tests rely on.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace as KubeNamespace, Pod, ServiceAccount};
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::Api;
use kube::api::ListParams;
use serde_json::json;

use crate::harness::{Cluster, Credentials, Namespace, PATIENCE, Parts, Stop, Test, alone, eventually, tests, until};

pub fn tests() -> Vec<Test> {
    let mut tests = tests![
        the_api_server_is_the_pinned_version,
        kubectl_reads_the_kubeconfig,
        each_test_has_a_namespace_of_its_own,
        a_deployments_pods_are_made_by_the_controller_manager,
        a_service_account_is_refused_what_rbac_does_not_grant,
        what_a_service_account_asked_for_is_in_the_audit_log,
        impersonation_has_no_more_rights_than_its_user,
        a_failed_test_leaves_its_objects_behind_without_secrets,
    ];
    tests.extend(alone![the_api_server_restarts_with_its_data, the_whole_control_plane_restarts_with_its_data]);
    tests
}

async fn the_api_server_is_the_pinned_version(cluster: &Cluster, _: &Namespace) -> Result<()> {
    let version = cluster.client().apiserver_version().await?;
    assert_eq!((version.major.as_str(), version.minor.as_str()), ("1", "34"));
    Ok(())
}

async fn kubectl_reads_the_kubeconfig(cluster: &Cluster, ns: &Namespace) -> Result<()> {
    let said = cluster.kubectl_says(&["get", "namespace", ns.name(), "-o", "name"]).await?;
    assert_eq!(said.trim(), format!("namespace/{}", ns.name()));
    Ok(())
}

async fn each_test_has_a_namespace_of_its_own(cluster: &Cluster, ns: &Namespace) -> Result<()> {
    let other = Namespace::create(cluster, "each-test").await?;
    assert_ne!(other.name(), ns.name());
    other.delete().await?;
    let namespaces: Api<KubeNamespace> = Api::all(cluster.client());
    until("the deleted namespace is gone", PATIENCE, async || Ok(namespaces.get_opt(other.name()).await?.is_none()))
        .await
}

async fn a_deployments_pods_are_made_by_the_controller_manager(_: &Cluster, ns: &Namespace) -> Result<()> {
    ns.create_json::<Deployment>(json!({
        "metadata": {"name": "web"},
        "spec": {
            "replicas": 3,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "main", "image": "main:1"}]},
            },
        },
    }))
    .await?;
    let pods: Api<Pod> = ns.api();
    let made = eventually("there are three pods", PATIENCE, async || {
        let pods = pods.list(&ListParams::default().labels("app=web")).await?.items;
        Ok((pods.len() == 3).then_some(pods))
    })
    .await?;
    let bound = made.iter().any(|pod| pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some()));
    ensure!(!bound, "there is no node");
    Ok(())
}

async fn a_service_account_is_refused_what_rbac_does_not_grant(cluster: &Cluster, ns: &Namespace) -> Result<()> {
    let name = "reader";
    ns.create_json::<ServiceAccount>(json!({"metadata": {"name": name}})).await?;
    ns.create_json::<Role>(json!({
        "metadata": {"name": name},
        "rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["list"]}],
    }))
    .await?;
    ns.create_json::<RoleBinding>(json!({
        "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name},
        "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": ns.name()}],
    }))
    .await?;
    let client = cluster.client_of(ns.name(), name).await?;
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), ns.name());
    eventually("the rule is known", PATIENCE, async || Ok(Some(maps.list(&ListParams::default()).await?))).await?;
    let pods: Api<Pod> = Api::namespaced(client, ns.name());
    assert_eq!(refusal(pods.list(&ListParams::default()).await), Some(403));
    let kubeconfig = cluster.kubeconfig_of(ns.name(), name).await?;
    ensure!(kubeconfig.is_file());
    let forged = cluster.client_with(&Credentials::Token("a.b.c".into())).await?;
    let maps: Api<ConfigMap> = Api::namespaced(forged, ns.name());
    assert_eq!(refusal(maps.list(&ListParams::default()).await), Some(401));
    Ok(())
}

async fn what_a_service_account_asked_for_is_in_the_audit_log(cluster: &Cluster, ns: &Namespace) -> Result<()> {
    let pods: Api<Pod> = Api::namespaced(cluster.client_of(ns.name(), "default").await?, ns.name());
    assert_eq!(refusal(pods.get("absent").await), Some(403));
    let user = format!("system:serviceaccount:{}:default", ns.name());
    let event = eventually("the request is in the log", PATIENCE, async || {
        Ok(cluster.audit()?.into_iter().find(|event| event["user"]["username"] == user))
    })
    .await?;
    assert_eq!(
        (&event["verb"], &event["objectRef"]["resource"], &event["responseStatus"]["code"]),
        (&json!("get"), &json!("pods"), &json!(403))
    );
    Ok(())
}

async fn impersonation_has_no_more_rights_than_its_user(cluster: &Cluster, ns: &Namespace) -> Result<()> {
    let nobody: Api<Pod> = Api::namespaced(cluster.client_as("jane", &["developers"]).await?, ns.name());
    assert_eq!(refusal(nobody.list(&ListParams::default()).await), Some(403));
    let admin: Api<Pod> = Api::namespaced(cluster.client_as("jane", &["system:masters"]).await?, ns.name());
    admin.list(&ListParams::default()).await?;
    Ok(())
}

async fn a_failed_test_leaves_its_objects_behind_without_secrets(_: &Cluster, ns: &Namespace) -> Result<()> {
    use k8s_openapi::api::core::v1::Secret;
    ns.create_json::<ConfigMap>(json!({"metadata": {"name": "seen"}, "data": {"a": "in the clear"}})).await?;
    ns.create_json::<Secret>(json!({"metadata": {"name": "hidden"}, "data": {"a": "aGlkZGVu"}})).await?;
    let dir = tempfile::tempdir()?;
    let dump = ns.dump(dir.path()).await?;
    let read = |file: &str| std::fs::read_to_string(dump.join(file)).with_context(|| file.to_owned());
    ensure!(read("configmaps.json")?.contains("in the clear"));
    let secrets = read("secrets.json")?;
    ensure!(secrets.contains("hidden") && !secrets.contains("aGlkZGVu"));
    Ok(())
}

async fn the_api_server_restarts_with_its_data(cluster: &Cluster, ns: &Namespace) -> Result<()> {
    let maps: Api<ConfigMap> = ns.api();
    for (name, how) in [("gracefully", Stop::Gracefully), ("kill", Stop::Kill)] {
        ns.create_json::<ConfigMap>(json!({"metadata": {"name": name}})).await?;
        let before = cluster.server();
        cluster.stop_api_server(how).await?;
        ensure!(maps.get(name).await.is_err(), "a stopped API server answers");
        cluster.start_api_server().await?;
        assert_eq!(cluster.server(), before);
        maps.get(name).await.with_context(|| format!("after {how:?}"))?;
    }
    Ok(())
}

async fn the_whole_control_plane_restarts_with_its_data(_: &Cluster, _: &Namespace) -> Result<()> {
    let cluster = Cluster::start(Parts::ApiServer).await?;
    let ns = Namespace::create(&cluster, "kept").await?;
    ns.create_json::<Pod>(json!({
        "metadata": {"name": "a"},
        "spec": {"containers": [{"name": "main", "image": "main:1"}]},
    }))
    .await
    .context("without controllers a pod needs no ServiceAccount")?;
    cluster.stop_all(Stop::Kill).await?;
    assert_eq!(cluster.processes().await, []);
    cluster.start_all().await?;
    ns.api::<Pod>().get("a").await?;
    let dir = cluster.dir().to_owned();
    drop(cluster);
    until("its directory is gone", Duration::from_secs(5), async || Ok(!dir.exists())).await
}

/// The status with which the API server refused.
fn refusal<T>(answer: kube::Result<T>) -> Option<u16> {
    match answer {
        Err(kube::Error::Api(status)) => Some(status.code),
        _ => None,
    }
}
