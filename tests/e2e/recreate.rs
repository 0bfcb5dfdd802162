//! ContainerRecreateRequests on a kubelet and containerd: exactly the containers that were asked for are restarted, once.

#![allow(clippy::print_stdout, reason = "a test says what it has measured")]

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::api::{DeleteParams, DynamicObject, ListParams, PostParams};
use kube::core::ApiResource;
use kube::{Api, ResourceExt as _};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::daemon::installed;
use crate::facts::is_ready;
use crate::harness::{Cluster, Namespace, Test, eventually, tests, until};
use crate::pods::{self, PATIENCE, both, clock, condition, instances, seconds, sh, status};
use crate::rollout::{only_restarted, ran, untouched};

const UNREADY: &str = "KruisePodReady";

pub fn tests() -> Vec<Test> {
    tests![
        one_container_is_restarted_and_nothing_else_crr,
        two_containers_are_stopped_one_after_the_other_crr_47,
        an_ordered_request_waits_for_post_start_and_min_started_crr_47,
        a_long_exec_hook_runs_once_before_the_stop_crr_54,
        a_hook_that_outlives_the_grace_period_holds_up_nothing_crr_54,
        an_http_hook_without_a_host_asks_the_pod_weak_4,
        a_sleep_hook_is_slept_weak_5,
        a_deadline_ends_the_request_and_the_stop_goes_on_crr_61,
        a_pod_is_drained_and_ready_again_afterwards_crr_33,
        a_drain_of_a_pod_without_the_gate_waits_as_long_weak_11,
        requests_at_once_for_one_instance_restart_it_once_unless_forced_crr_48,
        an_image_that_is_gone_is_told_and_the_deadline_ends_it_weak_9,
        a_crash_loop_is_told_and_the_deadline_ends_it_weak_9,
        a_finished_request_goes_when_its_time_is_over_crr_60,
        a_request_that_names_nothing_of_the_pod_is_refused_crr_4,
        a_pod_that_is_deleted_meanwhile_ends_its_requests_crr_13,
        a_native_sidecar_is_restarted_weak_10,
        both_versions_are_written_and_read_crr_70_crr_71,
    ]
}

// === asking ===

/// The requests of a namespace, in a version.
pub fn requests(ns: &Namespace, version: &str) -> Api<DynamicObject> {
    let kind = ApiResource {
        group: "apps.kruise.io".into(),
        version: version.into(),
        api_version: format!("apps.kruise.io/{version}"),
        kind: "ContainerRecreateRequest".into(),
        plural: "containerrecreaterequests".into(),
    };
    Api::namespaced_with(ns.client(), ns.name(), &kind)
}

/// A request to restart containers of the pod `web`; `change` is merged into its spec.
pub fn request(name: &str, containers: &[&str], change: &Value) -> Result<DynamicObject> {
    let containers: Vec<Value> = containers.iter().map(|name| json!({"name": name})).collect();
    let mut spec = json!({"podName": "web", "containers": containers});
    json_patch::merge(&mut spec, change);
    Ok(serde_json::from_value(json!({
        "apiVersion": "apps.kruise.io/v1beta1", "kind": "ContainerRecreateRequest", "metadata": {"name": name}, "spec": spec,
    }))?)
}

/// Creates it.
pub async fn ask(ns: &Namespace, name: &str, containers: &[&str], change: &Value) -> Result<()> {
    requests(ns, "v1beta1").create(&PostParams::default(), &request(name, containers, change)?).await?;
    Ok(())
}

/// The request once it has ended and everybody has let go of it.
pub async fn ended(ns: &Namespace, name: &str) -> Result<Value> {
    let api = requests(ns, "v1beta1");
    eventually(&format!("request {name} ends"), PATIENCE, async || {
        let request = api.get(name).await?;
        let is_over = request.data["status"]["phase"] == "Completed"
            && request.labels().get("crr.apps.kruise.io/active").is_none()
            && request.finalizers().is_empty();
        if !is_over {
            anyhow::bail!("it stands at {}", request.data["status"]);
        }
        Ok(Some(request.data["status"].clone()))
    })
    .await
}

/// That all containers of it were restarted and there is nothing to say about that.
pub fn succeeded(status: &Value, containers: &[&str]) -> Result<()> {
    let wanted: Vec<Value> =
        containers.iter().map(|name| json!({"name": name, "phase": "Succeeded", "isKilled": true})).collect();
    ensure!(status["containerRecreateStates"] == json!(wanted), "{status:#}");
    ensure!(status["message"].is_null() && status["completionTime"].is_string(), "{status:#}");
    ensure!(status["conditions"].as_array().is_none_or(|all| all.iter().all(|it| it["type"] != "ContainerStopping")));
    Ok(())
}

/// Asks and waits until all is done.
async fn done(ns: &Namespace, name: &str, containers: &[&str], change: &Value) -> Result<Value> {
    let asked = Instant::now();
    ask(ns, name, containers, change).await?;
    let status = ended(ns, name).await?;
    succeeded(&status, containers)?;
    println!("{name}: {containers:?} after {:.2} s", asked.elapsed().as_secs_f64());
    Ok(status)
}

fn app(change: &Value) -> Value {
    let mut app = json!({"name": "app", "image": "app:1", "volumeMounts": [{"name": "data", "mountPath": "/data"}]});
    json_patch::merge(&mut app, change);
    app
}

fn sidecar() -> Value {
    json!({"name": "sidecar", "image": "sidecar:1"})
}

/// The pod `web` with `app` and a sidecar, ready.
async fn run(ns: &Namespace, app: Value) -> Result<Pod> {
    pods::run(ns, "web", json!([app, sidecar()]), &json!({})).await
}

async fn get(ns: &Namespace) -> Result<Pod> {
    Ok(ns.api::<Pod>().get("web").await?)
}

/// Reasons and texts of what was reported about the pod by daemons.
async fn events(ns: &Namespace) -> Result<Vec<(String, String)>> {
    let events = ns.api::<Event>().list(&ListParams::default()).await?.items;
    let ours = events.into_iter().filter(|event| event.reporting_component.as_deref() == Some("kruise-daemon-crr"));
    Ok(ours.map(|event| (event.reason.unwrap_or_default(), event.message.unwrap_or_default())).collect())
}

// === what is restarted, in which order ===

async fn one_container_is_restarted_and_nothing_else_crr(cluster: &Cluster, ns: &Namespace) -> Result<()> {
    installed(cluster).await?;
    let before = run(ns, app(&json!({}))).await?;
    done(ns, "restart", &["app"], &json!({})).await?;
    only_restarted(&before, &get(ns).await?, "app", "app:1")?;
    let told = events(ns).await?;
    ensure!(told.len() == 1 && told[0].0 == "Killing" && told[0].1.contains("restart"), "{told:?}");
    let printed = cluster.kubectl_says(&["get", "-n", ns.name(), "containerrecreaterequests", "restart"]).await?;
    println!("{printed}");
    ensure!(printed.contains("Completed"), "{printed}");
    Ok(())
}

/// How long `app` takes after its start until it is ready.
const POST_START: f64 = 4.0;

fn slow_to_start() -> Value {
    app(&json!({"lifecycle": {"postStart": {"exec": {"command": ["sleep", "4"]}}}}))
}

async fn two_containers_are_stopped_one_after_the_other_crr_47(cluster: &Cluster, ns: &Namespace) -> Result<()> {
    installed(cluster).await?;
    let before = run(ns, slow_to_start()).await?;
    done(ns, "restart", &["app", "sidecar"], &json!({})).await?;
    let after = get(ns).await?;
    for container in ["app", "sidecar"] {
        let (then, now) = (status(&before, container)?, status(&after, container)?);
        ensure!(now.restart_count == 1 && now.container_id != then.container_id, "{now:#?}");
    }
    let all = instances(cluster, &after).await?;
    let ([old_app, new_app], [old_sidecar, _]) = (both(&all, "app")?, both(&all, "sidecar")?);
    let waited = seconds(old_app.finished, old_sidecar.finished);
    println!("the second was stopped {waited:.2} s after the first");
    ensure!(waited > 0.0, "the second was stopped before the first: {all:#?}");
    ensure!(seconds(new_app.started, old_sidecar.finished) < POST_START, "the second waited for the first: {all:#?}");
    Ok(())
}

async fn an_ordered_request_waits_for_post_start_and_min_started_crr_47(
    cluster: &Cluster,
    ns: &Namespace,
) -> Result<()> {
    const MIN_STARTED: f64 = 6.0;
    installed(cluster).await?;
    run(ns, slow_to_start()).await?;
    done(ns, "ordered", &["app", "sidecar"], &json!({"strategy": {"orderedRecreate": true}})).await?;
    let all = instances(cluster, &get(ns).await?).await?;
    let ([_, new_app], [old_sidecar, _]) = (both(&all, "app")?, both(&all, "sidecar")?);
    let waited = seconds(new_app.started, old_sidecar.finished);
    println!("the second was stopped {waited:.2} s after the start of the first, which takes {POST_START} s");
    ensure!(waited >= POST_START, "the second did not wait: {all:#?}");

    let strategy = json!({"strategy": {"orderedRecreate": true, "minStartedSeconds": 6}});
    let status = done(ns, "min-started", &["sidecar", "app"], &strategy).await?;
    let pod = get(ns).await?;
    let all = instances(cluster, &pod).await?;
    let ([_, new_sidecar], [old_app, new_app]) = (both(&all, "sidecar")?, both(&all, "app")?);
    let waited = seconds(new_sidecar.started, old_app.finished);
    println!("the second was stopped {waited:.2} s after the start of the first, which was to run {MIN_STARTED} s");
    ensure!(waited >= MIN_STARTED, "the second did not wait: {all:#?}");
    let end: jiff::Timestamp = status["completionTime"].as_str().context("no time")?.parse()?;
    let end = i64::try_from(end.as_nanosecond())? + 1_000_000_000;
    ensure!(seconds(new_app.started, end) >= MIN_STARTED, "it ended too early: {status:#}");
    for name in ["app", "sidecar"] {
        ensure!(pods::status(&pod, name)?.restart_count == 2, "{pod:#?}");
    }
    Ok(())
}

// === hooks ===

/// Restarts `app`, which has this hook; how long after the request the old one ended, and its last words.
async fn hooked(cluster: &Cluster, ns: &Namespace, change: &Value, spec: &Value) -> Result<(f64, String)> {
    let before = run(ns, app(change)).await?;
    let asked = clock();
    done(ns, "restart", &["app"], spec).await?;
    let after = get(ns).await?;
    only_restarted(&before, &after, "app", "app:1")?;
    let all = instances(cluster, &after).await?;
    let [old, _] = both(&all, "app")?;
    let took = seconds(asked, old.finished);
    println!("it ended {took:.2} s after it was asked for");
    Ok((took, cluster.kubectl_says(&["logs", "-n", ns.name(), "web", "-c", "app", "--previous"]).await?))
}

async fn a_long_exec_hook_runs_once_before_the_stop_crr_54(cluster: &Cluster, ns: &Namespace) -> Result<()> {
    installed(cluster).await?;
    let hook = json!({"exec": {"command": ["sh", "-c", "echo begun >>/data/hook; sleep 8; echo ended >>/data/hook"]}});
    let grace = json!({"strategy": {"terminationGracePeriodSeconds": 20}});
    let (took, _) = hooked(cluster, ns, &json!({"lifecycle": {"preStop": hook}}), &grace).await?;
    ensure!((8.0..12.0).contains(&took), "it ended {took} s after the request, with a hook of 8 s");
    let ran = sh(cluster, ns, "web", "app", "cat /data/hook").await?;
    ensure!(ran == "begun\nended\n", "the hook did: {ran:?}");
    Ok(())
}

async fn a_hook_that_outlives_the_grace_period_holds_up_nothing_crr_54(
    cluster: &Cluster,
    ns: &Namespace,
) -> Result<()> {
    installed(cluster).await?;
    let hook = json!({"exec": {"command": ["sh", "-c", "echo begun >>/data/hook; sleep 60; echo ended >>/data/hook"]}});
    let grace = json!({"strategy": {"terminationGracePeriodSeconds": 3}});
    let (took, _) = hooked(cluster, ns, &json!({"lifecycle": {"preStop": hook}}), &grace).await?;
    ensure!((3.0..8.0).contains(&took), "it ended {took} s after the request, with a grace of 3 s");
    ensure!(sh(cluster, ns, "web", "app", "cat /data/hook").await? == "begun\n");
    let told = events(ns).await?;
    ensure!(told.iter().any(|(reason, text)| reason == "FailedPreStopHook" && text.contains("3 s")), "{told:?}");
    Ok(())
}

async fn an_http_hook_without_a_host_asks_the_pod_weak_4(cluster: &Cluster, ns: &Namespace) -> Result<()> {
    installed(cluster).await?;
    let serves =
        "trap 'exit 0' TERM; mkdir -p /tmp/www/drain; echo ok >/tmp/www/index.html; echo ok >/tmp/www/drain/index.html
        httpd -f -vv -p 8080 -h /tmp/www & wait $!";
    let change = json!({
        "command": ["sh", "-c", serves], "ports": [{"name": "admin", "containerPort": 8080}],
        "readinessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1},
        "lifecycle": {"preStop": {"httpGet": {"path": "/drain/", "port": "admin"}}},
    });
    let (_, said) = hooked(cluster, ns, &change, &json!({})).await?;
    let asked = said.lines().filter(|line| line.contains("/drain")).count();
    println!("{said}");
    ensure!(asked == 1, "it was asked {asked} times: {said}");
    let told = events(ns).await?;
    ensure!(told.iter().all(|(reason, _)| reason == "Killing"), "{told:?}");
    Ok(())
}

async fn a_sleep_hook_is_slept_weak_5(cluster: &Cluster, ns: &Namespace) -> Result<()> {
    installed(cluster).await?;
    let change = json!({"lifecycle": {"preStop": {"sleep": {"seconds": 4}}}});
    let (took, _) = hooked(cluster, ns, &change, &json!({})).await?;
    ensure!((4.0..8.0).contains(&took), "it ended {took} s after the request, with a pause of 4 s");
    let told = events(ns).await?;
    ensure!(told.len() == 1 && told[0].0 == "Killing", "{told:?}");
    Ok(())
}

// === deadline, drain, force ===

async fn a_deadline_ends_the_request_and_the_stop_goes_on_crr_61(cluster: &Cluster, ns: &Namespace) -> Result<()> {
    installed(cluster).await?;
    let before = run(ns, app(&json!({"image": "stubborn:1"}))).await?;
    let slow = json!({"activeDeadlineSeconds": 4, "strategy": {"terminationGracePeriodSeconds": 12}});
    let asked = Instant::now();
    ask(ns, "late", &["app", "sidecar"], &slow).await?;
    let told = ended(ns, "late").await?;
    println!("after {:.1} s: {}", asked.elapsed().as_secs_f64(), told["message"]);
    ensure!(asked.elapsed() < Duration::from_secs(9), "it ended after {:?}", asked.elapsed());
    let message = told["message"].as_str().unwrap_or_default();
    ensure!(message.starts_with("recreating has exceeded the activeDeadlineSeconds"), "{told:#}");
    ensure!(message.contains("app") && message.contains("sidecar"), "it does not say who was late: {message}");
    let again = eventually("the stop that had begun comes to its end", PATIENCE, async || {
        let pod = get(ns).await?;
        Ok((status(&pod, "app")?.restart_count == 1 && is_ready(&pod)).then_some(pod))
    })
    .await?;
    only_restarted(&before, &again, "app", "stubborn:1")?;
    let noted = eventually("its result is noted", PATIENCE, async || {
        let status = requests(ns, "v1beta1").get("late").await?.data["status"].clone();
        Ok((status["containerRecreateStates"][0]["isKilled"] == true).then_some(status))
    })
    .await?;
    let states = json!([
        {"name": "app", "phase": "Recreating", "isKilled": true}, {"name": "sidecar", "phase": "Pending"},
    ]);
    ensure!(noted["containerRecreateStates"] == states && noted["phase"] == "Completed", "{noted:#}");
    ensure!(noted["message"] == told["message"] && noted["completionTime"] == told["completionTime"], "{noted:#}");
    Ok(())
}

async fn a_pod_is_drained_and_ready_again_afterwards_crr_33(cluster: &Cluster, ns: &Namespace) -> Result<()> {
    installed(cluster).await?;
    let gate = json!({"spec": {"readinessGates": [{"conditionType": UNREADY}]}});
    let before = pods::run(ns, "web", json!([app(&json!({})), sidecar()]), &gate).await?;
    ensure!(condition(&before, UNREADY).is_some_and(|(status, _)| status == "True"), "the gate was not opened");
    let asked = clock();
    ask(ns, "drain", &["app"], &json!({"strategy": {"unreadyGracePeriodSeconds": 5}})).await?;
    let drained =
        eventually("the pod is not ready", PATIENCE, async || Ok(Some(get(ns).await?).filter(|pod| !is_ready(pod))))
            .await?;
    println!("not ready after {:.2} s", seconds(asked, clock()));
    let (is_open, message) = condition(&drained, UNREADY).context("no condition")?;
    let writer = json!([{"userAgent": "ContainerRecreateRequest", "key": format!("{}/drain", ns.name())}]);
    ensure!(is_open == "False" && serde_json::from_str::<Value>(&message)? == writer, "{is_open} {message}");
    ensure!(ran(&drained) == ran(&before), "a container was stopped before the pod was drained");
    let held = requests(ns, "v1beta1").get("drain").await?;
    ensure!(held.finalizers() == ["crr.apps.kruise.io/unready-acquired"], "{:?}", held.finalizers());

    // Not ready at any time before the request has ended.
    let api = requests(ns, "v1beta1");
    until("it ends", PATIENCE, async || {
        let pod = get(ns).await?;
        let is_over = api.get("drain").await?.data["status"]["phase"] == "Completed";
        ensure!(is_over || !is_ready(&pod), "the pod is ready while its containers are restarted");
        Ok(is_over)
    })
    .await?;
    succeeded(&ended(ns, "drain").await?, &["app"])?;
    let after = pods::ready(ns, "web").await?;
    println!("ready again {:.2} s after it was asked for", seconds(asked, clock()));
    ensure!(condition(&after, UNREADY) == Some(("True".into(), "[]".into())), "{:?}", condition(&after, UNREADY));
    only_restarted(&before, &after, "app", "app:1")?;
    let all = instances(cluster, &after).await?;
    let took = seconds(asked, both(&all, "app")?[0].finished);
    ensure!((5.0..10.0).contains(&took), "it was stopped after {took} s, and a drain of 5 s was asked for");
    Ok(())
}

async fn a_drain_of_a_pod_without_the_gate_waits_as_long_weak_11(cluster: &Cluster, ns: &Namespace) -> Result<()> {
    installed(cluster).await?;
    let before = run(ns, app(&json!({}))).await?;
    let asked = clock();
    let status = done(ns, "drain", &["app"], &json!({"strategy": {"unreadyGracePeriodSeconds": 3}})).await?;
    let message = status["conditions"][0]["message"].as_str().unwrap_or_default();
    ensure!(message.contains("no readiness gate"), "{status:#}");
    let after = get(ns).await?;
    only_restarted(&before, &after, "app", "app:1")?;
    let all = instances(cluster, &after).await?;
    let took = seconds(asked, both(&all, "app")?[0].finished);
    ensure!((3.0..8.0).contains(&took), "it was stopped after {took} s");
    Ok(())
}

async fn requests_at_once_for_one_instance_restart_it_once_unless_forced_crr_48(
    cluster: &Cluster,
    ns: &Namespace,
) -> Result<()> {
    installed(cluster).await?;
    let before = run(ns, app(&json!({}))).await?;
    for (names, change, restarts) in
        [(["a", "b", "c"], json!({}), 1), (["d", "e", "f"], json!({"strategy": {"forceRecreate": true}}), 4)]
    {
        for name in names {
            ask(ns, name, &["app"], &change).await?;
        }
        for name in names {
            succeeded(&ended(ns, name).await?, &["app"]).context(name)?;
        }
        let after = get(ns).await?;
        ensure!(status(&after, "app")?.restart_count == restarts, "{:#?}", status(&after, "app")?);
        ensure!(status(&after, "sidecar")? == status(&before, "sidecar")?, "the other one was touched");
    }
    Ok(())
}

// === what does not go well ===

/// Asks with a deadline of 15 s; what the request says as long as it waits for a container, and at its end.
async fn in_vain(ns: &Namespace, reasons: &[&str]) -> Result<Value> {
    // A kubelet tells of a start that failed when it looks at the pod again, which is 10 s to 15 s later.
    ask(ns, "restart", &["app"], &json!({"activeDeadlineSeconds": 35})).await?;
    let api = requests(ns, "v1beta1");
    let is_told = |text: &str| reasons.iter().any(|reason| text.contains(reason));
    until("it is told why it takes so long", PATIENCE, async || {
        let request = api.get("restart").await?;
        let state = &request.data["status"]["containerRecreateStates"][0];
        Ok(state["phase"] == "Recreating" && is_told(state["message"].as_str().unwrap_or_default()))
    })
    .await?;
    let status = ended(ns, "restart").await?;
    println!("{}: {}", status["message"], status["containerRecreateStates"]);
    let message = status["message"].as_str().unwrap_or_default();
    ensure!(message.starts_with("recreating has exceeded the activeDeadlineSeconds"), "{status:#}");
    ensure!(is_told(message), "it does not say why: {message}");
    ensure!(status["containerRecreateStates"][0]["phase"] == "Recreating", "{status:#}");
    Ok(status)
}

async fn an_image_that_is_gone_is_told_and_the_deadline_ends_it_weak_9(
    cluster: &Cluster,
    ns: &Namespace,
) -> Result<()> {
    installed(cluster).await?;
    let image = "vanishing:1";
    let source = format!("docker://{}/library/app:1", cluster.registry().await?);
    cluster.push(&source, image).await?;
    let before = run(ns, app(&json!({"image": image, "imagePullPolicy": "Always"}))).await?;
    cluster.unpush(image).await?;
    in_vain(ns, &["ErrImagePull", "ImagePullBackOff"]).await?;

    // Mended, the kubelet starts it, and nobody stops it again.
    cluster.push(&source, image).await?;
    let after =
        eventually("it runs again", Duration::from_mins(2), async || Ok(Some(get(ns).await?).filter(is_ready))).await?;
    ensure!(status(&after, "app")?.restart_count == status(&before, "app")?.restart_count + 1);
    ensure!(status(&after, "sidecar")? == status(&before, "sidecar")?);
    Ok(())
}

async fn a_crash_loop_is_told_and_the_deadline_ends_it_weak_9(cluster: &Cluster, ns: &Namespace) -> Result<()> {
    installed(cluster).await?;
    let command = ["sh", "-c", "[ ! -e /data/broken ] || exit 1; exec /bin/run"];
    let before = run(ns, app(&json!({"command": command}))).await?;
    sh(cluster, ns, "web", "app", "touch /data/broken").await?;
    in_vain(ns, &["CrashLoopBackOff", "exit code 1"]).await?;
    ensure!(status(&get(ns).await?, "sidecar")? == status(&before, "sidecar")?);
    let told = events(ns).await?;
    ensure!(told.len() == 1, "it was stopped more than once: {told:?}");
    Ok(())
}

async fn a_finished_request_goes_when_its_time_is_over_crr_60(cluster: &Cluster, ns: &Namespace) -> Result<()> {
    installed(cluster).await?;
    run(ns, app(&json!({}))).await?;
    done(ns, "restart", &["app"], &json!({"ttlSecondsAfterFinished": 4})).await?;
    let over = Instant::now();
    let api = requests(ns, "v1beta1");
    until("it is gone", PATIENCE, async || Ok(api.get_opt("restart").await?.is_none())).await?;
    println!("it was gone {:.1} s after its end", over.elapsed().as_secs_f64());
    // The time of its end is told in whole seconds.
    let kept = over.elapsed().as_secs_f64();
    ensure!((2.0..8.0).contains(&kept), "it was kept {kept} s");
    ensure!(status(&get(ns).await?, "app")?.restart_count == 1);
    Ok(())
}

async fn a_request_that_names_nothing_of_the_pod_is_refused_crr_4(cluster: &Cluster, ns: &Namespace) -> Result<()> {
    installed(cluster).await?;
    let before = run(ns, app(&json!({}))).await?;
    for (name, containers, change, why) in [
        ("container", &["nobody"][..], json!({}), "nobody"),
        ("pod", &["app"], json!({"podName": "nowhere"}), "nowhere"),
        ("none", &[], json!({}), "spec.containers"),
        ("twice", &["app", "app"], json!({}), "app"),
        ("deadline", &["app"], json!({"activeDeadlineSeconds": 2}), "activeDeadlineSeconds"),
    ] {
        let refused = ask(ns, name, containers, &change).await.err();
        let refused = format!("{:#}", refused.with_context(|| format!("{name} was let in"))?);
        println!("{refused}");
        ensure!(refused.contains(why), "{name}: {refused}");
    }
    untouched(&before, &get(ns).await?)
}

async fn a_pod_that_is_deleted_meanwhile_ends_its_requests_crr_13(cluster: &Cluster, ns: &Namespace) -> Result<()> {
    installed(cluster).await?;
    let gate = json!({"spec": {"readinessGates": [{"conditionType": UNREADY}]}});
    pods::run(ns, "web", json!([app(&json!({"image": "stubborn:1"})), sidecar()]), &gate).await?;
    let slow = json!({"strategy": {"terminationGracePeriodSeconds": 20, "unreadyGracePeriodSeconds": 1}});
    ask(ns, "first", &["app"], &slow).await?;
    ask(ns, "second", &["sidecar"], &json!({})).await?;
    until("the first is being carried out", PATIENCE, async || Ok(!events(ns).await?.is_empty())).await?;
    ns.api::<Pod>().delete("web", &DeleteParams::default().grace_period(1)).await?;
    for name in ["first", "second"] {
        let status = ended(ns, name).await?;
        println!("{name}: {}", status["message"]);
        ensure!(status["message"].as_str().is_some_and(|text| text.starts_with("pod has gone")), "{status:#}");
    }
    // One of the same name is not touched by them.
    until("it is gone", PATIENCE, async || Ok(ns.api::<Pod>().get_opt("web").await?.is_none())).await?;
    let next = run(ns, app(&json!({}))).await?;
    done(ns, "third", &["sidecar"], &json!({})).await?;
    only_restarted(&next, &get(ns).await?, "sidecar", "sidecar:1")
}

async fn a_native_sidecar_is_restarted_weak_10(cluster: &Cluster, ns: &Namespace) -> Result<()> {
    installed(cluster).await?;
    let native = json!({"name": "agent", "image": "sidecar:2", "restartPolicy": "Always"});
    let init = json!({"spec": {"initContainers": [native]}});
    let before = pods::run(ns, "web", json!([app(&json!({})), sidecar()]), &init).await?;
    done(ns, "restart", &["agent"], &json!({})).await?;
    only_restarted(&before, &get(ns).await?, "agent", "sidecar:2")
}

async fn both_versions_are_written_and_read_crr_70_crr_71(cluster: &Cluster, ns: &Namespace) -> Result<()> {
    installed(cluster).await?;
    let gate = json!({"spec": {"readinessGates": [{"conditionType": UNREADY}]}});
    pods::run(ns, "web", json!([app(&json!({})), sidecar()]), &gate).await?;
    let drain = json!({"strategy": {"unreadyGracePeriodSeconds": 1}});
    for (written, restarts) in [("v1alpha1", 1), ("v1beta1", 2)] {
        let mut object = request(&format!("in-{written}"), &["app"], &drain)?;
        object.types.as_mut().context("no type")?.api_version = format!("apps.kruise.io/{written}");
        requests(ns, written).create(&PostParams::default(), &object).await?;
        let status = ended(ns, &object.name_any()).await?;
        succeeded(&status, &["app"])?;
        let pod = get(ns).await?;
        let now = pods::status(&pod, "app")?;
        ensure!(now.restart_count == restarts, "{now:#?}");
        let snapshot = json!([{
            "name": "app", "ready": true, "restartCount": restarts, "containerID": now.container_id,
        }]);
        ensure!(status["containerStatusSnapshot"] == snapshot, "{status:#}");
        ensure!(status["conditions"][0]["type"] == "PreRecreateGrace", "{status:#}");
        let new = requests(ns, "v1beta1").get(&object.name_any()).await?;
        ensure!(new.annotations().is_empty(), "{:?}", new.annotations());

        let old = requests(ns, "v1alpha1").get(&object.name_any()).await?;
        let annotation = |name: &str| old.annotations().get(&format!("crr.apps.kruise.io/{name}")).cloned();
        let noted = annotation("sync-container-statuses").context("no statuses in v1alpha1")?;
        ensure!(serde_json::from_str::<Value>(&noted)? == snapshot, "{noted}");
        let since = annotation("unready-acquired").context("no time in v1alpha1")?;
        ensure!(json!(since) == status["conditions"][0]["lastTransitionTime"], "{since}");
        let (phase, recreated) = (&old.data["status"]["phase"], &old.data["status"]["containerRecreateStates"]);
        ensure!(phase == "Completed" && *recreated == status["containerRecreateStates"], "{:#}", old.data);
        ensure!(old.data["spec"]["containers"] == new.data["spec"]["containers"], "{:#}", old.data);
    }
    Ok(())
}
