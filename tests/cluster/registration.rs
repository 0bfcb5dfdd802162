//! Certificates and registration: the operator's namespace is the test's own, and the API server calls this process.

#![allow(clippy::print_stdout, reason = "a test says what it has measured")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use jiff::SignedDuration;
use k8s_openapi::api::admissionregistration::v1::{MutatingWebhookConfiguration, ValidatingWebhookConfiguration};
use k8s_openapi::api::core::v1::{Namespace as KubeNamespace, Pod, Secret};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use outrigger::admission::server::{Limits, Server};
use outrigger::admission::{MUTATE_POD, Route, Webhook, certs, review, router};
use outrigger::api::names;
use outrigger::api::sidecarset::SidecarSet;
use outrigger::cluster::authority::plan::Request;
use outrigger::cluster::authority::{Authority, Settings as Certificates, request};
use outrigger::cluster::registration::hooks::{Endpoint, FailurePolicy, POD_HOOK, Wanted};
use outrigger::cluster::registration::{Cover, Registration, Scope, Settings};
use outrigger::cluster::trust::Bundle;
use outrigger::cluster::uninstall::{self, Line, Outcome};
use outrigger::store::Objects;
use outrigger::telemetry::Metrics;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::harness::{Cluster, Namespace, PATIENCE, Test, alone, eventually, until};

pub fn tests() -> Vec<Test> {
    alone![
        two_replicas_that_start_at_once_make_one_ca,
        no_pod_is_refused_while_the_ca_is_rotated_twice_and_the_secret_deleted,
        drift_is_repaired_within_seconds_and_what_others_keep_stays,
        wh_9_3_entries_of_the_reference_that_nobody_serves_are_taken_out,
        a_configuration_deleted_by_accident_comes_back,
        a_deleted_namespace_takes_the_webhooks_along,
        a_restart_deregisters_nothing,
        uninstall_lets_pods_be_created_again_and_objects_be_read,
        only_selected_pods_are_sent_and_a_sidecarset_waits_for_its_pods_to_be,
    ]
}

/// One replica: its loops, and a server when it has the port.
struct Replica {
    tasks: JoinSet<()>,
    shutdown: CancellationToken,
    registered: watch::Receiver<bool>,
    cover: Cover,
}

const SETTLE: SignedDuration = SignedDuration::from_secs(2);

fn wanted(ns: &Namespace, port: u16) -> Wanted {
    Wanted {
        endpoint: Endpoint::Host { host: "127.0.0.1".to_owned(), port },
        namespace: ns.name().to_owned(),
        pod_failure_policy: FailurePolicy::Fail,
    }
}

impl Replica {
    /// The loops alone.
    fn start(ns: &Namespace, port: u16, scope: Scope) -> Result<(Self, Arc<certs::Resolver>)> {
        let (published, heard) = watch::channel(None);
        let certificates = Certificates { settle: SETTLE, ..Certificates::new(ns.name(), Some("127.0.0.1")) };
        let authority = Authority::new(ns.client(), certificates, heard)?;
        let resolver = authority.resolver();
        let (sets, known) = watch::channel(Some(Arc::default()));
        let settings = Settings { wanted: wanted(ns, port), scope };
        let registration = Registration::new(ns.client(), settings, authority.trusted(), published, known);
        let (registered, cover) = (registration.registered(), registration.cover());
        let shutdown = CancellationToken::new();
        let mut tasks = JoinSet::new();
        let token = shutdown.clone();
        tasks.spawn(async move {
            authority.run(token).await.unwrap();
        });
        let token = shutdown.clone();
        tasks.spawn(async move {
            registration.run(token).await;
            drop(sets);
        });
        Ok((Self { tasks, shutdown, registered, cover }, resolver))
    }

    /// With a server that injects nothing.
    async fn serving(ns: &Namespace, port: u16, scope: Scope) -> Result<(Self, u16)> {
        // The port must be known before the loops start, and the resolver comes from them.
        let probe = std::net::TcpListener::bind(("127.0.0.1", port))?;
        let port = probe.local_addr()?.port();
        drop(probe);
        let (mut replica, resolver) = Self::start(ns, port, scope)?;
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let tls = Arc::new(certs::server_config(resolver));
        let bound = Server::bind(address, tls, Limits::default()).await?;
        let snapshot = Objects::new(ns.name()).snapshot()?;
        let shutdown = replica.shutdown.clone();
        let webhook = Webhook {
            routes: vec![Route::of_reviews(MUTATE_POD, move |body| {
                review::answer(body, &snapshot, &outrigger::app::ambient())
            })],
            limits: Limits::default(),
            metrics: Arc::new(Metrics::new(bound.counts(), || None)),
            shutdown: shutdown.clone(),
        };
        replica.tasks.spawn(async move {
            bound.serve(router(webhook), shutdown, Duration::from_secs(5)).await;
        });
        Ok((replica, port))
    }

    async fn registered(&mut self) -> Result<()> {
        tokio::time::timeout(PATIENCE, self.registered.wait_for(|registered| *registered))
            .await
            .context("nothing was registered in time")?
            .map(|_| ())
            .context("the registration ended")
    }

    async fn stop(mut self) {
        self.shutdown.cancel();
        while self.tasks.join_next().await.is_some() {}
    }
}

fn mutating(client: Client) -> Api<MutatingWebhookConfiguration> {
    Api::all(client)
}

fn pod(name: &str, labels: &Value) -> Pod {
    serde_json::from_value(json!({
        "metadata": { "name": name, "labels": labels },
        "spec": { "containers": [{ "name": "main", "image": "main:1" }] },
    }))
    .unwrap()
}

/// As kubectl would, but nothing is stored.
async fn admitted(pods: &Namespace, pod: &Pod) -> kube::Result<Pod> {
    let params = PostParams { dry_run: true, ..PostParams::default() };
    pods.api::<Pod>().create(&params, pod).await
}

async fn entry(client: Client, name: &str) -> Result<Value> {
    let live = serde_json::to_value(mutating(client).get(names::MUTATING_CONFIGURATION).await?)?;
    let entries = live["webhooks"].as_array().context("there are no webhooks")?;
    entries.iter().find(|entry| entry["name"] == name).cloned().context("there is no such entry")
}

/// Cluster-scoped objects that another test may have left.
async fn clean(client: &Client) -> Result<()> {
    let all = DeleteParams::default();
    let _ = mutating(client.clone()).delete(names::MUTATING_CONFIGURATION, &all).await;
    let validating: Api<ValidatingWebhookConfiguration> = Api::all(client.clone());
    let _ = validating.delete(names::VALIDATING_CONFIGURATION, &all).await;
    Ok(())
}

/// A namespace for pods whose ServiceAccount is there.
async fn for_pods(cluster: &Cluster) -> Result<Namespace> {
    let pods = Namespace::create(cluster, "pods").await?;
    let probe = pod("probe", &json!({}));
    until("pods can be created", PATIENCE, async || Ok(admitted(&pods, &probe).await.is_ok())).await?;
    Ok(pods)
}

async fn two_replicas_that_start_at_once_make_one_ca(_: &Cluster, ns: &Namespace) -> Result<()> {
    clean(&ns.client()).await?;
    let replicas = (0..4).map(|_| Replica::start(ns, 9, Scope::All)).collect::<Result<Vec<_>>>()?;
    let mut leaves = Vec::new();
    for (mut replica, resolver) in replicas {
        replica.registered().await?;
        leaves.push(resolver.current().context("nothing is served")?.cert[0].clone());
        replica.stop().await;
    }
    leaves.dedup();
    ensure!(leaves.len() == 1, "{} leaves", leaves.len());
    let secret = ns.api::<Secret>().get(names::CERTS_SECRET).await?;
    let data = secret.data.context("no data")?;
    ensure!(Bundle::from_pem(&data["ca-cert.pem"].0).certs().len() == 1 && !data.contains_key("retired-ca-certs.pem"));
    clean(&ns.client()).await
}

async fn no_pod_is_refused_while_the_ca_is_rotated_twice_and_the_secret_deleted(
    cluster: &Cluster,
    ns: &Namespace,
) -> Result<()> {
    clean(&ns.client()).await?;
    let pods = for_pods(cluster).await?;
    let (mut replica, port) = Replica::serving(ns, 0, Scope::All).await?;
    replica.registered().await?;
    let (mut second, _) = Replica::start(ns, port, Scope::All)?;
    second.registered().await?;

    let secrets: Api<Secret> = ns.api();
    let ca = async || -> Result<Vec<u8>> {
        let secret = secrets.get_opt(names::CERTS_SECRET).await?;
        Ok(secret.and_then(|secret| Some(secret.data?.get("ca-cert.pem")?.0.clone())).unwrap_or_default())
    };
    let client = ns.client();
    let rotate = async {
        for round in ["first", "second", "deleted"] {
            let before = ca().await?;
            if round == "deleted" {
                secrets.delete(names::CERTS_SECRET, &DeleteParams::default()).await?;
            } else {
                request(client.clone(), ns.name(), names::CERTS_SECRET, Request::Ca).await?;
            }
            until("there is another CA", PATIENCE, async || {
                let now = ca().await?;
                Ok(!now.is_empty() && now != before)
            })
            .await?;
            // Until the leaf is exchanged too, and a while longer.
            tokio::time::sleep(Duration::from_secs(4)).await;
        }
        anyhow::Ok(())
    };
    let mut rotate = std::pin::pin!(rotate);
    let (mut created, mut refused) = (0, Vec::new());
    loop {
        let name = format!("pod-{created}");
        let sent = pod(&name, &json!({}));
        tokio::select! {
            biased;
            rotated = &mut rotate => {
                rotated?;
                break;
            }
            answer = admitted(&pods, &sent) => match answer {
                Ok(_) => created += 1,
                Err(error) => refused.push(error.to_string()),
            }
        }
    }
    println!("{created} pods created, {} refused, while the CA was rotated three times", refused.len());
    ensure!(refused.is_empty(), "{refused:?}");
    ensure!(created > 100, "only {created} pods");
    let bundle = entry(ns.client(), POD_HOOK).await?["clientConfig"]["caBundle"].clone();
    let bundle: k8s_openapi::ByteString = serde_json::from_value(bundle)?;
    ensure!(Bundle::from_pem(&bundle.0).certs().len() == 4, "four CAs are trusted");
    replica.stop().await;
    second.stop().await;
    clean(&ns.client()).await?;
    pods.delete().await
}

async fn drift_is_repaired_within_seconds_and_what_others_keep_stays(_: &Cluster, ns: &Namespace) -> Result<()> {
    clean(&ns.client()).await?;
    let (mut replica, _) = Replica::start(ns, 9, Scope::All)?;
    replica.registered().await?;
    let api = mutating(ns.client());
    let theirs = json!({ "metadata": { "labels": { "theirs": "yes" } } });
    api.patch(names::MUTATING_CONFIGURATION, &PatchParams::default(), &Patch::Merge(theirs)).await?;
    let before = entry(ns.client(), POD_HOOK).await?;
    let place = {
        let live = serde_json::to_value(api.get(names::MUTATING_CONFIGURATION).await?)?;
        live["webhooks"].as_array().unwrap().iter().position(|entry| entry["name"] == POD_HOOK).unwrap()
    };
    let drifts = [
        json!([{ "op": "replace", "path": format!("/webhooks/{place}/failurePolicy"), "value": "Ignore" }]),
        json!([{ "op": "remove", "path": format!("/webhooks/{place}/clientConfig/caBundle") }]),
        json!([{ "op": "replace", "path": format!("/webhooks/{place}/timeoutSeconds"), "value": 30 }]),
        json!([{ "op": "remove", "path": format!("/webhooks/{place}") }]),
        json!([{ "op": "replace", "path": "/webhooks", "value": [] }]),
    ];
    for drift in drifts {
        let patch: Patch<()> = Patch::Json(serde_json::from_value(drift.clone())?);
        api.patch(names::MUTATING_CONFIGURATION, &PatchParams::default(), &patch).await?;
        let started = Instant::now();
        let what = format!("{drift} is repaired");
        until(&what, Duration::from_secs(10), async || {
            Ok(entry(ns.client(), POD_HOOK).await.is_ok_and(|now| now == before))
        })
        .await?;
        println!("repaired in {:?}: {drift}", started.elapsed());
    }
    let narrower = json!([{
        "op": "replace",
        "path": format!("/webhooks/{place}/objectSelector"),
        "value": { "matchLabels": { "inject": "yes" } },
    }]);
    let patch: Patch<()> = Patch::Json(serde_json::from_value(narrower)?);
    api.patch(names::MUTATING_CONFIGURATION, &PatchParams::default(), &patch).await?;
    let upset = json!([{ "op": "replace", "path": format!("/webhooks/{place}/failurePolicy"), "value": "Ignore" }]);
    let patch: Patch<()> = Patch::Json(serde_json::from_value(upset)?);
    api.patch(names::MUTATING_CONFIGURATION, &PatchParams::default(), &patch).await?;
    let after = eventually("the policy is repaired", Duration::from_secs(10), async || {
        let now = entry(ns.client(), POD_HOOK).await?;
        Ok((now["failurePolicy"] == "Fail").then_some(now))
    })
    .await?;
    ensure!(after["objectSelector"]["matchLabels"]["inject"] == "yes", "the user's selector stays");
    let live = api.get(names::MUTATING_CONFIGURATION).await?;
    ensure!(live.metadata.labels.is_some_and(|labels| labels.contains_key("theirs")));
    replica.stop().await;
    clean(&ns.client()).await
}

async fn wh_9_3_entries_of_the_reference_that_nobody_serves_are_taken_out(_: &Cluster, ns: &Namespace) -> Result<()> {
    clean(&ns.client()).await?;
    let api = mutating(ns.client());
    let config = |path: &str| json!({ "url": format!("https://127.0.0.1:9{path}") });
    let hook = |name: &str, path: &str| {
        json!({
            "name": name, "clientConfig": config(path), "sideEffects": "None", "admissionReviewVersions": ["v1"],
            "rules": [{ "apiGroups": ["apps.kruise.io"], "apiVersions": ["*"], "operations": ["CREATE"], "resources": ["clonesets"] }],
        })
    };
    let mut elsewhere = hook("other.test.io", "/");
    elsewhere["clientConfig"] = json!({ "url": "https://other.test/" });
    let by_service = json!({ "service": { "namespace": ns.name(), "name": names::SERVICE, "path": "/mutate-pod" } });
    let mut pods = hook(POD_HOOK, "/");
    pods["clientConfig"] = by_service;
    let made = json!({
        "metadata": { "name": names::MUTATING_CONFIGURATION },
        "webhooks": [hook("mcloneset.kb.io", "/mutate-clone-set"), elsewhere, pods, hook("vpod.kb.io", "/validate-pod")],
    });
    api.create(&PostParams::default(), &serde_json::from_value(made)?).await?;
    let (mut replica, _) = Replica::start(ns, 9, Scope::All)?;
    replica.registered().await?;
    let live = api.get(names::MUTATING_CONFIGURATION).await?;
    let mut left = live.webhooks.unwrap().into_iter().map(|entry| entry.name).collect::<Vec<_>>();
    left.sort();
    let expected = [
        "mcontainerrecreaterequest.kb.io",
        "mimagelistpulljob-v1beta1.kb.io",
        "mimagepulljob-v1beta1.kb.io",
        "mnodeimage.kb.io",
        "mpod.kb.io",
        "msidecarset.kb.io",
        "other.test.io",
    ];
    assert_eq!(left, expected);
    let entry = entry(ns.client(), POD_HOOK).await?;
    assert_eq!(entry["clientConfig"]["url"], "https://127.0.0.1:9/mutate-pod");
    assert_eq!(entry["clientConfig"]["service"], Value::Null);
    replica.stop().await;
    clean(&ns.client()).await
}

async fn a_configuration_deleted_by_accident_comes_back(_: &Cluster, ns: &Namespace) -> Result<()> {
    clean(&ns.client()).await?;
    let (mut replica, _) = Replica::start(ns, 9, Scope::All)?;
    replica.registered().await?;
    let api = mutating(ns.client());
    let before = Instant::now();
    api.delete(names::MUTATING_CONFIGURATION, &DeleteParams::default()).await?;
    until("it is there again", PATIENCE, async || Ok(api.get_opt(names::MUTATING_CONFIGURATION).await?.is_some()))
        .await?;
    ensure!(before.elapsed() > Duration::from_secs(8), "whoever deletes everything has time to go on");
    replica.stop().await;
    clean(&ns.client()).await
}

async fn a_deleted_namespace_takes_the_webhooks_along(cluster: &Cluster, ns: &Namespace) -> Result<()> {
    clean(&ns.client()).await?;
    let namespaces: Api<KubeNamespace> = Api::all(ns.client());
    let api = mutating(ns.client());
    for alive in [true, false] {
        let own = Namespace::create(cluster, "operator").await?;
        let (mut replica, _) = Replica::start(&own, 9, Scope::All)?;
        replica.registered().await?;
        let replica = if alive {
            Some(replica)
        } else {
            // Killed: only the garbage collector is left.
            drop(replica);
            None
        };
        namespaces.delete(own.name(), &DeleteParams::default()).await?;
        let what = format!("nothing is registered, manager alive: {alive}");
        until(&what, Duration::from_mins(1), async || {
            Ok(api.get_opt(names::MUTATING_CONFIGURATION).await?.is_none()
                && namespaces.get_opt(own.name()).await?.is_none())
        })
        .await?;
        if let Some(replica) = replica {
            tokio::time::sleep(Duration::from_secs(12)).await;
            ensure!(api.get_opt(names::MUTATING_CONFIGURATION).await?.is_none(), "it was made again");
            replica.stop().await;
        }
    }
    Ok(())
}

async fn a_restart_deregisters_nothing(_: &Cluster, ns: &Namespace) -> Result<()> {
    clean(&ns.client()).await?;
    let (mut replica, _) = Replica::start(ns, 9, Scope::All)?;
    replica.registered().await?;
    let before = mutating(ns.client()).get(names::MUTATING_CONFIGURATION).await?;
    replica.stop().await;
    let (mut replica, _) = Replica::start(ns, 9, Scope::All)?;
    replica.registered().await?;
    let after = mutating(ns.client()).get(names::MUTATING_CONFIGURATION).await?;
    assert_eq!(before.webhooks, after.webhooks);
    assert_eq!(before.metadata.resource_version, after.metadata.resource_version, "and writes nothing");
    replica.stop().await;
    clean(&ns.client()).await
}

async fn uninstall_lets_pods_be_created_again_and_objects_be_read(cluster: &Cluster, ns: &Namespace) -> Result<()> {
    clean(&ns.client()).await?;
    let pods = for_pods(cluster).await?;
    let crds: Api<CustomResourceDefinition> = Api::all(ns.client());
    let name = "sidecarsets.apps.kruise.io";
    let theirs = crds.get_opt(name).await?.is_some();
    if !theirs {
        crds.create(&PostParams::default(), &crd()?).await?;
    }
    let (mut replica, _) = Replica::start(ns, 9, Scope::All)?;
    replica.registered().await?;
    let bundle = || async {
        let crd = serde_json::to_value(crds.get(name).await?)?;
        anyhow::Ok(crd["spec"]["conversion"]["webhook"]["clientConfig"].clone())
    };
    until("the CRD is registered", PATIENCE, async || Ok(bundle().await?["caBundle"].is_string())).await?;
    assert_eq!(bundle().await?["url"], "https://127.0.0.1:9/convert");
    replica.stop().await;

    let sent = pod("one", &json!({}));
    until("pods are refused without a manager", PATIENCE, async || Ok(admitted(&pods, &sent).await.is_err())).await?;
    let settings = |dry_run| uninstall::Settings {
        namespace: ns.name().to_owned(),
        deployment: "kruise-controller-manager".to_owned(),
        dry_run,
    };
    let dry = uninstall::uninstall(&ns.client(), &settings(true), |_| ()).await;
    ensure!(dry.iter().all(Line::is_right), "{dry:?}");
    ensure!(admitted(&pods, &sent).await.is_err(), "a dry run changed something");

    let lines = uninstall::uninstall(&ns.client(), &settings(false), |_| ()).await;
    ensure!(lines.iter().all(Line::is_right), "{lines:?}");
    assert_eq!(lines[0].outcome, Outcome::Done("removed"));
    until("pods are created again", Duration::from_secs(5), async || Ok(admitted(&pods, &sent).await.is_ok())).await?;
    let conversion = serde_json::to_value(crds.get(name).await?.spec.conversion)?;
    assert_eq!(conversion["strategy"], "None");

    let again = uninstall::uninstall(&ns.client(), &settings(false), |_| ()).await;
    ensure!(again.iter().all(|line| matches!(line.outcome, Outcome::Already(_))), "{again:?}");
    if !theirs {
        crds.delete(name, &DeleteParams::default()).await?;
    }
    pods.delete().await
}

/// Just enough of a CRD to be converted.
fn crd() -> Result<CustomResourceDefinition> {
    let version = |name: &str, storage: bool| {
        json!({
            "name": name, "served": true, "storage": storage,
            "schema": { "openAPIV3Schema": { "type": "object", "x-kubernetes-preserve-unknown-fields": true } },
        })
    };
    Ok(serde_json::from_value(json!({
        "metadata": { "name": "sidecarsets.apps.kruise.io" },
        "spec": {
            "group": "apps.kruise.io",
            "scope": "Cluster",
            "names": { "plural": "sidecarsets", "singular": "sidecarset", "kind": "SidecarSet", "listKind": "SidecarSetList" },
            "versions": [version("v1alpha1", false), version("v1beta1", true)],
            "conversion": {
                "strategy": "Webhook",
                "webhook": {
                    "clientConfig": { "service": { "namespace": "kruise-system", "name": names::SERVICE, "path": "/convert" } },
                    "conversionReviewVersions": ["v1"],
                },
            },
        },
    }))?)
}

async fn only_selected_pods_are_sent_and_a_sidecarset_waits_for_its_pods_to_be(
    cluster: &Cluster,
    ns: &Namespace,
) -> Result<()> {
    clean(&ns.client()).await?;
    let pods = for_pods(cluster).await?;
    // Nobody listens: a pod that is sent is refused.
    let (mut replica, _) = Replica::start(ns, 9, Scope::Selected)?;
    replica.registered().await?;
    // The first condition still sends every pod; the narrow one comes after two minutes, or by hand here.
    let narrow = async |client: Client| -> Result<()> {
        let entry = entry(client.clone(), POD_HOOK).await?;
        let conditions = entry["matchConditions"].as_array().context("no conditions")?;
        let place = conditions.iter().position(|it| it["name"] == "selected-pods").context("no condition")?;
        let text = conditions[place]["expression"].as_str().context("no text")?;
        let text = text.lines().filter(|line| *line != "true" && *line != "true ||").collect::<Vec<_>>().join("\n");
        let text = text.trim_end_matches(" ||").to_owned();
        let live = serde_json::to_value(mutating(client.clone()).get(names::MUTATING_CONFIGURATION).await?)?;
        let hook = live["webhooks"].as_array().unwrap().iter().position(|it| it["name"] == POD_HOOK).unwrap();
        let at = format!("/webhooks/{hook}/matchConditions/{place}/expression");
        let patch: Patch<()> =
            Patch::Json(serde_json::from_value(json!([{ "op": "replace", "path": at, "value": text }]))?);
        mutating(client).patch(names::MUTATING_CONFIGURATION, &PatchParams::default(), &patch).await?;
        Ok(())
    };
    narrow(ns.client()).await?;
    let other = pod("other", &json!({ "app": "other" }));
    until("pods that nothing selects are not sent", PATIENCE, async || Ok(admitted(&pods, &other).await.is_ok()))
        .await?;
    let bare = pod("bare", &json!(null));
    admitted(&pods, &bare).await.context("a pod without labels")?;
    let web = pod("web", &json!({ "app": "web" }));
    admitted(&pods, &web).await.context("no SidecarSet selects it yet")?;

    let mut first = pod("first", &json!({}));
    first.metadata.annotations = Some([(names::LAUNCH_PRIORITY.to_owned(), "Ordered".to_owned())].into());
    ensure!(admitted(&pods, &first).await.is_err(), "launch priority by annotation is sent");
    let mut by_env = serde_json::to_value(pod("by-env", &json!({})))?;
    by_env["spec"]["containers"][0]["env"] = json!([{ "name": names::PRIORITY_ENV, "value": "1" }]);
    ensure!(admitted(&pods, &serde_json::from_value(by_env)?).await.is_err(), "launch priority by env is sent");

    let set: SidecarSet = serde_json::from_value(json!({
        "metadata": { "name": "web" },
        "spec": { "selector": { "matchLabels": { "app": "web" } } },
    }))?;
    let started = Instant::now();
    replica.cover.cover(&set).await?;
    println!("covered in {:?}", started.elapsed());
    ensure!(admitted(&pods, &web).await.is_err(), "a pod of the SidecarSet is sent once it is covered");
    admitted(&pods, &other).await.context("the others are still not sent")?;
    let started = Instant::now();
    replica.cover.cover(&set).await?;
    ensure!(started.elapsed() < Duration::from_millis(500), "what is covered is covered at once");
    replica.stop().await;
    clean(&ns.client()).await?;
    pods.delete().await
}
