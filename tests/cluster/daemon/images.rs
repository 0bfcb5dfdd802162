//! The daemon pulls what the NodeImage of its node asks for. The runtime is ours; the API server and its rights are real.

use k8s_openapi::api::core::v1::Secret;

use super::*;

pub fn tests() -> Vec<Test> {
    run::alone![
        images_are_pulled_and_reported_img_35,
        what_is_there_is_pulled_again_only_when_the_policy_says_always_img_47,
        a_secret_is_used_that_is_for_the_image_and_a_rotated_one_at_once_img_54,
        a_wrong_secret_is_told_at_once_weak_30,
        a_pull_that_hangs_is_tried_again_and_given_up_img_41,
        a_deadline_counts_from_when_the_image_was_asked_for_weak_45,
        a_pull_that_nobody_wants_is_ended_silently_img_43,
        a_daemon_that_is_killed_in_mid_pull_goes_on_img_34,
        pulls_are_bounded_and_who_waits_between_attempts_holds_no_slot_weak_30,
        progress_is_told_on_the_way_weak_28,
        nothing_is_pulled_into_the_reserve_of_the_image_file_system,
        a_verdict_of_the_controller_stays_img_31,
        a_dry_run_pulls_nothing,
        two_hundred_images_take_few_writes,
    ]
}

impl Host<'_> {
    fn images(&self) -> Api<DynamicObject> {
        node_images(&self.cluster.client())
    }

    /// The NodeImage of this node, with these images.
    async fn wants(&self, images: &Value) -> Result<()> {
        if images.as_object().is_none_or(serde_json::Map::is_empty) {
            // To apply nothing leaves null, which the schema forbids.
            let nothing = json!({"spec": {"images": null}});
            self.images().patch(&self.name, &PatchParams::default(), &Patch::Merge(&nothing)).await?;
            return Ok(());
        }
        let object = json!({
            "apiVersion": "apps.kruise.io/v1beta1", "kind": "NodeImage",
            "metadata": {"name": self.name}, "spec": {"images": images},
        });
        self.images().patch(&self.name, &PatchParams::apply("test").force(), &Patch::Apply(&object)).await?;
        Ok(())
    }

    async fn reported(&self) -> Result<Value> {
        Ok(self.images().get(&self.name).await?.data["status"].clone())
    }

    /// What is said of one tag.
    async fn said(&self, image: &str, tag: &str) -> Result<Value> {
        let status = self.reported().await?;
        let tags = status["imageStatuses"][image]["tags"].as_array().cloned().unwrap_or_default();
        Ok(tags.into_iter().find(|entry| entry["tag"] == tag).unwrap_or_default())
    }

    /// What is said of one tag when it is in this phase.
    async fn in_phase(&self, image: &str, tag: &str, phase: &str) -> Result<Value> {
        eventually(&format!("{image}:{tag} is {phase}"), PATIENCE, async || {
            let entry = self.said(image, tag).await?;
            if entry["phase"] == phase { Ok(Some(entry)) } else { bail!("{entry}") }
        })
        .await
    }

    /// How the next pulls of an image go.
    fn pulls(&self, image: &str, behaviours: impl IntoIterator<Item = Behaviour>) {
        self.runtime().world().pulls.insert(image.to_owned(), behaviours.into_iter().collect());
    }

    async fn secret(&self, name: &str, password: &str) -> Result<()> {
        let config = json!({"auths": {"https://reg.example/v2/": {"username": "me", "password": password}}});
        let object = json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": CONFIG},
            "type": "kubernetes.io/dockerconfigjson", "stringData": {".dockerconfigjson": config.to_string()},
        });
        let api: Api<Secret> = Api::namespaced(self.cluster.client(), CONFIG);
        api.patch(name, &PatchParams::apply("test").force(), &Patch::Apply(&object)).await?;
        Ok(())
    }

    /// Pulls an image with a secret, for whoever wants to see which rights that takes.
    pub(super) async fn pull_with_a_secret(&self) -> Result<()> {
        let name = format!("cred-{}", self.name);
        self.secret(&name, "p").await?;
        let image = json!({"tags": [tag("1", 0, &json!({}))], "pullSecrets": [{"namespace": CONFIG, "name": name}]});
        self.wants(&json!({"reg.example/app": image})).await?;
        self.in_phase("reg.example/app", "1", "Succeeded").await.map(drop)
    }

    async fn events(&self, namespace: &str) -> Result<Vec<Event>> {
        let api: Api<Event> = Api::namespaced(self.cluster.client(), namespace);
        let all = api.list(&ListParams::default()).await?;
        Ok(all.into_iter().filter(|event| event.reporting_instance.as_deref() == Some(&*self.name)).collect())
    }
}

/// Where pull secrets are.
const CONFIG: &str = "kruise-daemon-config";

pub(super) fn node_images(client: &Client) -> Api<DynamicObject> {
    let kind = ApiResource {
        group: "apps.kruise.io".into(),
        version: "v1beta1".into(),
        api_version: "apps.kruise.io/v1beta1".into(),
        kind: "NodeImage".into(),
        plural: "nodeimages".into(),
    };
    Api::all_with(client.clone(), &kind)
}

fn tag(tag: &str, version: u32, change: &Value) -> Value {
    let mut tag = json!({
        "tag": tag, "version": version, "createdAt": now(), "imagePullPolicy": "IfNotPresent",
        "pullPolicy": {"timeoutSeconds": 600, "backoffLimit": 3, "ttlSecondsAfterFinished": 600},
    });
    json_patch::merge(&mut tag, change);
    tag
}

fn now() -> String {
    let seconds = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
    jiff::Timestamp::from_second(seconds.try_into().unwrap()).unwrap().to_string()
}

async fn images_are_pulled_and_reported_img_35(cluster: &Cluster, ns: &Namespace) -> Result<()> {
    on_a_node(cluster, ns, async |host| {
        let daemon = host.daemon(&[]).await?;
        let digest = format!("sha256:{}", "ab".repeat(32));
        host.runtime().world().unknown.insert("reg.example/none:1".to_owned());
        let owner = json!([{
            "apiVersion": "apps.kruise.io/v1beta1", "kind": "ImagePullJob",
            "namespace": ns.name(), "name": "warm", "uid": "0e9c",
        }]);
        let sandbox = json!({"labels": {"team": "shop"}, "annotations": {"a": "b"}});
        host.wants(&json!({
            "nginx": {"tags": [tag("1", 0, &json!({})), tag(&digest, 0, &json!({}))], "sandboxConfig": sandbox},
            "reg.example/none": {"tags": [tag("1", 2, &json!({"ownerReferences": owner}))]},
        }))
        .await?;
        let there = host.in_phase("nginx", "1", "Succeeded").await?;
        ensure!(there["progress"] == 100 && !there["completionTime"].is_null(), "{there}");
        ensure!(there["imageID"].as_str().is_some_and(|id| id.starts_with("nginx@sha256:")), "{there}");
        let there = host.in_phase("nginx", &digest, "Succeeded").await?;
        ensure!(there["imageID"].as_str().is_some_and(|id| id.starts_with("nginx@sha256:")), "WEAK-27: {there}");
        let lost = host.in_phase("reg.example/none", "1", "Failed").await?;
        let told = lost["message"].as_str().unwrap_or_default();
        ensure!(
            told.starts_with("reg.example/none:1: the registry does not have it (not found); check its name"),
            "{told}"
        );
        ensure!(told.ends_with("attempt 1 of 4 failed, not tried again, it would fail the same way"), "{told}");
        ensure!(lost["version"] == 2, "{lost}");
        let status = host.reported().await?;
        let counts = ["desired", "succeeded", "failed", "pulling", "waiting"].map(|member| status[member].clone());
        ensure!(counts == [3, 2, 1, 0, 0].map(|count| json!(count)), "{status}");
        ensure!(status["firstSyncStatus"]["status"] == "Failed", "WEAK-31: {status}");

        let mut log = host.logged("pull");
        log.sort();
        let expected =
            ["pull nginx:1".to_owned(), format!("pull nginx@{digest}"), "pull reg.example/none:1".to_owned()];
        ensure!(log == expected, "{log:?}");
        let told_by = "apps.kruise.io/pulling-image-by";
        let of_nginx = host.runtime().world().sandboxes.iter().filter(|sandbox| !sandbox.labels.is_empty()).count();
        ensure!(of_nginx == 2, "IMG-51");
        ensure!(
            host.runtime().world().sandboxes.iter().all(|sandbox| sandbox.annotations[told_by] == "kruise-daemon"),
            "IMG-51"
        );

        until("the events are there", PATIENCE, async || {
            let about = |event: &Event| event.regarding.clone().and_then(|about| about.kind).unwrap_or_default();
            let mut seen: Vec<(String, String)> = Vec::new();
            for event in host.events("default").await?.into_iter().chain(host.events(ns.name()).await?) {
                ensure!(event.reporting_controller.as_deref() == Some("kruise-daemon-imagepuller"), "{event:?}");
                seen.push((about(&event), event.reason.unwrap_or_default()));
            }
            seen.sort();
            let pair = |kind: &str, reason: &str| (kind.to_owned(), reason.to_owned());
            let expected = vec![
                pair("ImagePullJob", "PullImageFailed"),
                pair("NodeImage", "PullImageFailed"),
                pair("NodeImage", "PullImageSucceed"),
                pair("NodeImage", "PullImageSucceed"),
            ];
            if seen == expected { Ok(true) } else { bail!("{seen:?}") }
        })
        .await?;
        let (_, metrics) = get(daemon.port, "/metrics").await?;
        for line in ["outrigger_image_pulls_total{result=\"pulled\"} 2", "outrigger_image_tags{phase=\"failed\"} 1"] {
            ensure!(metrics.contains(line), "{metrics}");
        }

        host.wants(&json!({"nginx": {"tags": [tag("1", 0, &json!({}))]}})).await?;
        until("what is not asked for is forgotten", PATIENCE, async || {
            let status = host.reported().await?;
            Ok(status["desired"] == 1 && status["imageStatuses"].as_object().is_some_and(|images| images.len() == 1))
        })
        .await
    })
    .await
}

async fn what_is_there_is_pulled_again_only_when_the_policy_says_always_img_47(
    cluster: &Cluster,
    ns: &Namespace,
) -> Result<()> {
    on_a_node(cluster, ns, async |host| {
        host.runtime().world().pulled("nginx:1");
        let _daemon = host.daemon(&[]).await?;
        host.wants(&json!({"nginx": {"tags": [tag("1", 0, &json!({}))]}})).await?;
        let there = host.in_phase("nginx", "1", "Succeeded").await?;
        ensure!(there["progress"] == 100 && !there["startTime"].is_null(), "{there}");
        ensure!(host.logged("pull").is_empty(), "it was there: {:?}", host.logged("pull"));
        host.wants(&json!({"nginx": {"tags": [tag("1", 1, &json!({"imagePullPolicy": "Always"}))]}})).await?;
        until("it is pulled", PATIENCE, async || {
            Ok(host.said("nginx", "1").await?["version"] == 1 && host.logged("pull") == ["pull nginx:1"])
        })
        .await
    })
    .await
}

async fn a_secret_is_used_that_is_for_the_image_and_a_rotated_one_at_once_img_54(
    cluster: &Cluster,
    ns: &Namespace,
) -> Result<()> {
    on_a_node(cluster, ns, async |host| {
        let _daemon = host.daemon(&[]).await?;
        let name = format!("cred-{}", host.name);
        host.secret(&name, "first").await?;
        let login = |password: &str| ("me".to_owned(), password.to_owned());
        host.runtime().world().logins.insert("reg.example/app:1".to_owned(), login("first"));
        let wants = |version| {
            let always = json!({"imagePullPolicy": "Always"});
            json!({
                "reg.example/app": {
                    "tags": [tag("1", version, &always)],
                    "pullSecrets": [{"namespace": CONFIG, "name": "not-there"}, {"namespace": CONFIG, "name": name}],
                },
                "nginx": {"tags": [tag("1", 0, &json!({}))], "pullSecrets": [{"namespace": CONFIG, "name": name}]},
            })
        };
        host.wants(&wants(0)).await?;
        host.in_phase("reg.example/app", "1", "Succeeded").await?;
        host.in_phase("nginx", "1", "Succeeded").await?;
        ensure!(host.logged("pull reg") == ["pull reg.example/app:1 me"], "{:?}", host.logged(""));
        ensure!(host.logged("pull nginx") == ["pull nginx:1"], "another image is nobody's login's business");

        // The daemon may still know the old one: it asks again before it gives up.
        host.secret(&name, "second").await?;
        host.runtime().world().logins.insert("reg.example/app:1".to_owned(), login("second"));
        host.wants(&wants(1)).await?;
        until("the new password is used", PATIENCE, async || {
            let entry = host.said("reg.example/app", "1").await?;
            if entry["version"] == 1 && entry["phase"] == "Succeeded" { Ok(true) } else { bail!("{entry}") }
        })
        .await
    })
    .await
}

async fn a_wrong_secret_is_told_at_once_weak_30(cluster: &Cluster, ns: &Namespace) -> Result<()> {
    on_a_node(cluster, ns, async |host| {
        let daemon = host.daemon(&[]).await?;
        let name = format!("cred-{}", host.name);
        host.secret(&name, "hunter2").await?;
        host.runtime().world().logins.insert("reg.example/app:1".to_owned(), ("me".to_owned(), "other".to_owned()));
        host.runtime().world().logins.insert("reg.example/app:2".to_owned(), ("me".to_owned(), "other".to_owned()));
        host.wants(&json!({"reg.example/app": {
            "tags": [tag("1", 0, &json!({}))], "pullSecrets": [{"namespace": CONFIG, "name": name}],
        }}))
        .await?;
        let lost = host.in_phase("reg.example/app", "1", "Failed").await?;
        let told = lost["message"].as_str().unwrap_or_default();
        ensure!(told.contains("the registry refuses access") && told.contains("check the job's pullSecrets"), "{told}");
        ensure!(
            host.logged("pull") == ["pull reg.example/app:1 me"],
            "no anonymous retry (IMG-55): {:?}",
            host.logged("")
        );
        host.wants(&json!({"reg.example/app": {
            "tags": [tag("2", 0, &json!({}))], "pullSecrets": [{"namespace": CONFIG, "name": "not-there"}],
        }}))
        .await?;
        let lost = host.in_phase("reg.example/app", "2", "Failed").await?;
        let told = lost["message"].as_str().unwrap_or_default();
        ensure!(told.contains("Secret kruise-daemon-config/not-there was left out"), "{told}");
        ensure!(!daemon.process.tail().contains("hunter2"), "no password is logged");
        Ok(())
    })
    .await
}

async fn a_pull_that_hangs_is_tried_again_and_given_up_img_41(cluster: &Cluster, ns: &Namespace) -> Result<()> {
    on_a_node(cluster, ns, async |host| {
        let _daemon = host.daemon(&[]).await?;
        let busy = "unexpected status from HEAD request: 429 Too Many Requests".to_owned();
        host.pulls("nginx:1", [Behaviour::Hangs, Behaviour::Fails(Duration::ZERO, tonic::Code::Unknown, busy)]);
        host.pulls("nginx:2", [Behaviour::Hangs, Behaviour::Hangs]);
        let limits = json!({"pullPolicy": {"timeoutSeconds": 1, "backoffLimit": 1}});
        let limits_of_two = json!({"pullPolicy": {"timeoutSeconds": 1, "backoffLimit": 2}});
        host.wants(&json!({"nginx": {"tags": [tag("1", 0, &limits_of_two), tag("2", 0, &limits)]}})).await?;
        let there = host.in_phase("nginx", "1", "Succeeded").await?;
        ensure!(there["message"].is_null(), "what went wrong before is forgotten: {there}");
        let lost = host.in_phase("nginx", "2", "Failed").await?;
        let told = lost["message"].as_str().unwrap_or_default();
        ensure!(
            told.contains("took too long (no end within 1 s)") && told.ends_with("attempt 2 of 2 failed"),
            "{told}"
        );
        ensure!(
            (host.logged("pull nginx:1").len(), host.logged("pull nginx:2").len()) == (3, 2),
            "{:?}",
            host.logged("")
        );
        ensure!(host.runtime().world().cancelled.len() == 3, "each call that hung was ended");
        Ok(())
    })
    .await
}

async fn a_deadline_counts_from_when_the_image_was_asked_for_weak_45(cluster: &Cluster, ns: &Namespace) -> Result<()> {
    on_a_node(cluster, ns, async |host| {
        host.pulls("nginx:1", [Behaviour::Hangs]);
        let old = json!({"createdAt": "2026-01-02T03:04:05Z", "pullPolicy": {"activeDeadlineSeconds": 60}});
        let limit = json!({"pullPolicy": {"activeDeadlineSeconds": 2}});
        host.wants(&json!({"nginx": {"tags": [tag("1", 0, &limit), tag("2", 0, &old)]}})).await?;
        let _daemon = host.daemon(&["--max-workers-for-pull-image", "1"]).await?;
        for number in ["1", "2"] {
            let lost = host.in_phase("nginx", number, "Failed").await?;
            let told = lost["message"].as_str().unwrap_or_default();
            ensure!(told.starts_with("pulling exceeds the activeDeadlineSeconds"), "{told}");
        }
        ensure!(host.logged("pull nginx:2").is_empty(), "its time was over before");
        ensure!(host.runtime().world().cancelled == ["pull nginx:1"], "the runtime was told");
        Ok(())
    })
    .await
}

async fn a_pull_that_nobody_wants_is_ended_silently_img_43(cluster: &Cluster, ns: &Namespace) -> Result<()> {
    on_a_node(cluster, ns, async |host| {
        let _daemon = host.daemon(&[]).await?;
        host.pulls("nginx:1", [Behaviour::Hangs, Behaviour::Hangs]);
        let wants = |version| json!({"nginx": {"tags": [tag("1", version, &json!({}))]}});
        host.wants(&wants(0)).await?;
        host.in_phase("nginx", "1", "Pulling").await?;
        until("the runtime is asked", PATIENCE, async || Ok(host.logged("pull").len() == 1)).await?;
        host.wants(&wants(1)).await?;
        until("another version begins anew (IMG-33)", PATIENCE, async || {
            Ok(host.logged("pull").len() == 2 && host.runtime().world().cancelled.len() == 1)
        })
        .await?;
        host.wants(&json!({})).await?;
        until("it is ended and forgotten", PATIENCE, async || {
            let status = host.reported().await?;
            Ok(host.runtime().world().cancelled.len() == 2
                && status["desired"] == 0
                && status["imageStatuses"].is_null())
        })
        .await?;
        ensure!(host.events("default").await?.is_empty(), "no event");
        host.pulls("nginx:1", [Behaviour::Hangs]);
        host.wants(&wants(2)).await?;
        until("it is pulled", PATIENCE, async || Ok(host.logged("pull").len() == 3)).await?;
        host.images().delete(&host.name, &DeleteParams::default()).await?;
        until("it is ended", PATIENCE, async || Ok(host.runtime().world().cancelled.len() == 3)).await
    })
    .await
}

async fn a_daemon_that_is_killed_in_mid_pull_goes_on_img_34(cluster: &Cluster, ns: &Namespace) -> Result<()> {
    on_a_node(cluster, ns, async |host| {
        let daemon = host.daemon(&[]).await?;
        host.pulls("nginx:1", [Behaviour::Hangs]);
        host.pulls("nginx:2", [Behaviour::Hangs]);
        let tags = [tag("1", 0, &json!({})), tag("2", 0, &json!({})), tag("3", 0, &json!({}))];
        host.wants(&json!({"nginx": {"tags": tags}})).await?;
        host.in_phase("nginx", "3", "Succeeded").await?;
        host.in_phase("nginx", "1", "Pulling").await?;
        until("both are pulled", PATIENCE, async || Ok(host.logged("pull").len() == 3)).await?;
        daemon.process.kill();
        daemon.process.ended(PATIENCE).await?;
        until("the runtime notices", PATIENCE, async || Ok(host.runtime().world().cancelled.len() == 2)).await?;
        // Somebody else has pulled it meanwhile.
        host.runtime().world().pulled("nginx:2");
        let _daemon = host.daemon(&[]).await?;
        for number in ["1", "2", "3"] {
            host.in_phase("nginx", number, "Succeeded").await?;
        }
        let count = |number: u32| host.logged(&format!("pull nginx:{number}")).len();
        ensure!([count(1), count(2), count(3)] == [2, 1, 1], "what is there is not pulled: {:?}", host.logged(""));
        Ok(())
    })
    .await
}

async fn pulls_are_bounded_and_who_waits_between_attempts_holds_no_slot_weak_30(
    cluster: &Cluster,
    ns: &Namespace,
) -> Result<()> {
    on_a_node(cluster, ns, async |host| {
        let broken = || Behaviour::Fails(Duration::ZERO, tonic::Code::Unknown, "unexpected EOF".to_owned());
        host.pulls("nginx:1", [Behaviour::Hangs]);
        host.pulls("nginx:2", std::iter::repeat_n(broken(), 30));
        host.pulls("nginx:3", [Behaviour::Hangs]);
        host.runtime().world().pulled("nginx:4");
        let _daemon = host.daemon(&["--max-workers-for-pull-image=2"]).await?;
        let patient = json!({"pullPolicy": {"backoffLimit": 30}});
        let mut tags = vec![tag("1", 0, &json!({})), tag("2", 0, &patient)];
        host.wants(&json!({"nginx": {"tags": tags}})).await?;
        let told = eventually("it tells why it waits", PATIENCE, async || {
            let entry = host.said("nginx", "2").await?;
            Ok(entry["message"].as_str().filter(|told| told.contains("tried again")).map(str::to_owned))
        })
        .await?;
        ensure!(told.contains("of 31 failed") && told.contains("unexpected EOF"), "{told}");
        tags.extend([tag("3", 0, &json!({})), tag("4", 0, &json!({}))]);
        host.wants(&json!({"nginx": {"tags": tags}})).await?;
        host.in_phase("nginx", "4", "Succeeded").await.context("what is there needs no slot")?;
        until("both slots are taken", PATIENCE, async || {
            Ok(host.logged("pull nginx:1").len() == 1 && host.logged("pull nginx:3").len() == 1)
        })
        .await?;
        until("it is told", PATIENCE, async || {
            let status = host.reported().await?;
            Ok(status["pulling"] == 3 && status["waiting"] == 0)
        })
        .await?;
        let calls = host.logged("pull nginx:2").len();
        sleep(Duration::from_secs(3)).await;
        ensure!(host.logged("pull nginx:2").len() == calls, "no more than two at a time");
        Ok(())
    })
    .await
}

async fn progress_is_told_on_the_way_weak_28(cluster: &Cluster, ns: &Namespace) -> Result<()> {
    on_a_node(cluster, ns, async |host| {
        let _daemon = host.daemon(&[]).await?;
        // 200 MiB within the time that a fast registry takes.
        let layers = vec![20 << 20, 120 << 20, 60 << 20];
        host.pulls("nginx:1", [Behaviour::Brings(Duration::from_secs(4), layers.clone())]);
        host.pulls("nginx:2", [Behaviour::Brings(Duration::from_secs(4), layers)]);
        host.wants(&json!({"nginx": {"tags": [tag("1", 0, &json!({})), tag("2", 0, &json!({}))]}})).await?;
        let mut seen: [Vec<i64>; 2] = [Vec::new(), Vec::new()];
        until("it is there", PATIENCE, async || {
            let mut done = 0;
            for (seen, number) in seen.iter_mut().zip(["1", "2"]) {
                let entry = host.said("nginx", number).await?;
                let percent = entry["progress"].as_i64().unwrap_or_default();
                if seen.last() != Some(&percent) {
                    seen.push(percent);
                }
                done += i32::from(entry["phase"] == "Succeeded");
            }
            Ok(done == 2)
        })
        .await?;
        println!("progress of two images of 200 MiB: {seen:?}");
        for seen in seen {
            ensure!(seen.is_sorted() && seen.len() >= 5 && seen.last() == Some(&100), "{seen:?}");
        }
        Ok(())
    })
    .await
}

async fn nothing_is_pulled_into_the_reserve_of_the_image_file_system(cluster: &Cluster, ns: &Namespace) -> Result<()> {
    on_a_node(cluster, ns, async |host| {
        "/".clone_into(&mut host.runtime().world().mountpoint);
        let limits = json!({"pullPolicy": {"backoffLimit": 0}});
        let wants = |version| json!({"nginx": {"tags": [tag("1", version, &limits)]}});
        host.wants(&wants(0)).await?;
        let daemon = host.daemon(&["--image-fs-reserve=100%"]).await?;
        let lost = host.in_phase("nginx", "1", "Failed").await?;
        let told = lost["message"].as_str().unwrap_or_default();
        for part in ["nginx:1: the image file system has not enough room", "bytes are free", "--image-fs-reserve"] {
            ensure!(told.contains(part), "{told}");
        }
        ensure!(host.logged("pull").is_empty(), "nothing was pulled");
        daemon.process.kill();
        daemon.process.ended(PATIENCE).await?;

        // There is room to begin with, and not for what the manifest says.
        host.runtime().world().mountpoint.clear();
        let _daemon = host.daemon(&["--image-fs-reserve=1", "--image-fs-path=/"]).await?;
        host.pulls("nginx:1", [Behaviour::Brings(Duration::from_mins(1), vec![1 << 50])]);
        host.wants(&wants(1)).await?;
        until("it is ended", PATIENCE, async || Ok(host.runtime().world().cancelled == ["pull nginx:1"])).await?;
        let lost = host.in_phase("nginx", "1", "Failed").await?;
        let told = lost["message"].as_str().unwrap_or_default();
        ensure!(told.contains("at least 2251799813685") && told.contains("bytes are needed"), "{told}");

        // And the next pull works.
        host.wants(&wants(2)).await?;
        host.in_phase("nginx", "1", "Succeeded").await?;
        Ok(())
    })
    .await
}

async fn a_verdict_of_the_controller_stays_img_31(cluster: &Cluster, ns: &Namespace) -> Result<()> {
    on_a_node(cluster, ns, async |host| {
        host.pulls("nginx:1", [Behaviour::Hangs]);
        host.wants(&json!({"nginx": {"tags": [tag("1", 0, &json!({}))]}})).await?;
        let _daemon = host.daemon(&[]).await?;
        host.in_phase("nginx", "1", "Pulling").await?;
        until("the runtime is asked", PATIENCE, async || Ok(host.logged("pull").len() == 1)).await?;
        let verdict = json!({
            "tag": "1", "version": 0, "phase": "Failed", "completionTime": now(),
            "message": "node has not responded for a long time",
        });
        let patch = json!({"status": {"imageStatuses": {"nginx": {"tags": [verdict]}}}});
        host.images().patch_status(&host.name, &PatchParams::default(), &Patch::Merge(&patch)).await?;
        until("the pull is ended, and the counters follow", PATIENCE, async || {
            let status = host.reported().await?;
            Ok(host.runtime().world().cancelled.len() == 1 && status["failed"] == 1 && status["pulling"] == 0)
        })
        .await?;
        ensure!(host.said("nginx", "1").await?["message"] == verdict["message"], "it is not written over");
        Ok(())
    })
    .await
}

async fn a_dry_run_pulls_nothing(cluster: &Cluster, ns: &Namespace) -> Result<()> {
    on_a_node(cluster, ns, async |host| {
        host.wants(&json!({"nginx": {"tags": [tag("1", 0, &json!({}))]}})).await?;
        let daemon = host.daemon(&["--dry-run"]).await?;
        until("it tells", PATIENCE, async || Ok(daemon.process.tail().contains("a dry run: it would be pulled")))
            .await?;
        ensure!(host.reported().await?.is_null() && host.logged("").is_empty(), "nothing is done");
        Ok(())
    })
    .await
}

async fn two_hundred_images_take_few_writes(cluster: &Cluster, ns: &Namespace) -> Result<()> {
    on_a_node(cluster, ns, async |host| {
        let daemon = host.daemon(&["--max-workers-for-pull-image=2"]).await?;
        let images: serde_json::Map<String, Value> = (0..200)
            .map(|number| (format!("reg.example/app-{number}"), json!({"tags": [tag("1", 0, &json!({}))]})))
            .collect();
        host.wants(&Value::Object(images)).await?;
        until("all are there", PATIENCE, async || {
            let status = host.reported().await?;
            if status["succeeded"] == 200 { Ok(true) } else { bail!("{}", status["succeeded"]) }
        })
        .await?;
        let (_, metrics) = get(daemon.port, "/metrics").await?;
        let count = |line: &str| -> Option<u64> {
            metrics.lines().find_map(|there| there.strip_prefix(line)).and_then(|count| count.trim().parse().ok())
        };
        let writes = count("outrigger_image_status_writes_total{result=\"done\"}").context("writes")?;
        let object = serde_json::to_value(host.images().get(&host.name).await?)?;
        let size = |pointer: &str| object.pointer(pointer).map_or(0, |part| part.to_string().len());
        let owners: Vec<(String, usize)> = object["metadata"]["managedFields"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|fields| (fields["manager"].to_string(), fields.to_string().len()))
            .collect();
        println!("200 images: {writes} writes; bytes: spec {}, status {}, {owners:?}", size("/spec"), size("/status"));
        ensure!(writes <= 100, "{writes} writes");
        Ok(())
    })
    .await
}
