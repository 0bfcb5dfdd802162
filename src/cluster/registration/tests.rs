//! What is registered, by flags; what is found to differ; what is taken out.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rstest::rstest;
use serde_json::{Value, json};

use super::hooks::{
    CONVERTED, CaBundle, Endpoint, FailurePolicy, HookKind, Moment, Owner, POD_HOOK, Target, Wanted, body, clearing,
    drift, live_bundles, live_expression,
};
use super::scope::Terms;
use super::*;

const MUTATING: Target = Target::Hooks(HookKind::Mutating);
const VALIDATING: Target = Target::Hooks(HookKind::Validating);

fn wanted() -> Wanted {
    Wanted {
        endpoint: Endpoint::Service {
            namespace: "kruise-system".to_owned(),
            name: "kruise-webhook-service".to_owned(),
            conversion: "outrigger-conversion-service".to_owned(),
        },
        namespace: "kruise-system".to_owned(),
        pod_failure_policy: FailurePolicy::Fail,
    }
}

fn by_host(host: &str) -> Wanted {
    Wanted { endpoint: Endpoint::Host { host: host.to_owned(), port: 9876 }, ..wanted() }
}

fn moment(live: Option<&Value>) -> Moment<'_> {
    Moment { live, ca: CaBundle::Pem("pem"), owner: None, terms: None }
}

/// The API server's answer: the body with what it adds.
fn stored(target: Target, wanted: &Wanted) -> Value {
    let mut live = body(target, wanted, moment(None)).unwrap();
    live["metadata"]["uid"] = json!("u");
    live["metadata"]["resourceVersion"] = json!("7");
    for entry in live["webhooks"].as_array_mut().unwrap() {
        entry["matchPolicy"] = json!("Equivalent");
        entry["objectSelector"] = json!({});
    }
    live
}

fn crd(conversion: &Value) -> Value {
    json!({
        "metadata": { "name": CONVERTED[1], "uid": "u", "resourceVersion": "7" },
        "spec": { "group": "apps.kruise.io", "conversion": conversion },
    })
}

fn pod_entry(body: &Value) -> &Value {
    body["webhooks"].as_array().unwrap().iter().find(|entry| entry["name"] == POD_HOOK).unwrap()
}

/// Applies a JSON patch as the API server does, but for the version.
fn patched(live: &Value, patch: Vec<Value>) -> Value {
    let mut live = live.clone();
    json_patch::patch(&mut live, &serde_json::from_value::<json_patch::Patch>(Value::Array(patch)).unwrap()).unwrap();
    live
}

#[test]
fn wh_2_the_pod_hook_is_called_for_new_pods_and_waits_three_seconds() {
    let body = body(MUTATING, &wanted(), moment(None)).unwrap();
    let entry = pod_entry(&body);
    assert_eq!(
        entry["rules"],
        json!([{ "apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"], "scope": "*" }])
    );
    assert_eq!(entry["timeoutSeconds"], 3);
    assert_eq!(entry["failurePolicy"], "Fail");
    assert_eq!(entry["sideEffects"], "None");
    assert_eq!(entry["reinvocationPolicy"], "Never");
    let service =
        json!({ "namespace": "kruise-system", "name": "kruise-webhook-service", "path": "/mutate-pod", "port": 443 });
    assert_eq!(entry["clientConfig"], json!({ "service": service, "caBundle": STANDARD.encode("pem") }));
}

#[test]
fn wh_4_and_more_namespaces_that_are_never_sent() {
    let wanted = Wanted { namespace: "ops".to_owned(), ..wanted() };
    let body = body(MUTATING, &wanted, moment(None)).unwrap();
    assert_eq!(
        pod_entry(&body)["namespaceSelector"]["matchExpressions"],
        json!([
            { "key": "control-plane", "operator": "DoesNotExist" },
            { "key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": ["kube-system", "ops"] },
        ])
    );
    let others = body["webhooks"].as_array().unwrap().iter().filter(|entry| entry["name"] != POD_HOOK);
    assert!(others.clone().count() > 0);
    assert!(others.into_iter().all(|entry| entry["namespaceSelector"].is_null() && entry["timeoutSeconds"] == 10));
}

#[rstest]
#[case::fail(FailurePolicy::Fail, "Fail")]
#[case::ignore(FailurePolicy::Ignore, "Ignore")]
fn the_failure_policy_of_pods_is_a_choice_that_of_our_kinds_is_not(#[case] policy: FailurePolicy, #[case] text: &str) {
    let wanted = Wanted { pod_failure_policy: policy, ..wanted() };
    let body = body(MUTATING, &wanted, moment(None)).unwrap();
    for entry in body["webhooks"].as_array().unwrap() {
        let want = if entry["name"] == POD_HOOK { text } else { "Fail" };
        assert_eq!(entry["failurePolicy"], want, "{}", entry["name"]);
    }
}

#[rstest]
#[case::name("hooks.test", "https://hooks.test:9876/mutate-pod")]
#[case::ipv4("127.0.0.1", "https://127.0.0.1:9876/mutate-pod")]
#[case::ipv6("::1", "https://[::1]:9876/mutate-pod")]
fn wh_9_out_of_the_cluster_a_url_is_called(#[case] host: &str, #[case] url: &str) {
    let body = body(MUTATING, &by_host(host), moment(None)).unwrap();
    let config = &pod_entry(&body)["clientConfig"];
    assert_eq!(config["url"], url);
    assert!(config["service"].is_null());
}

#[test]
fn the_configurations_go_with_their_namespace_and_crds_do_not() {
    let owner = Owner { name: "kruise-system".to_owned(), uid: "n".to_owned() };
    let webhook = crd(&json!({ "strategy": "Webhook" }));
    for target in Target::all() {
        let live = matches!(target, Target::Crd(_)).then_some(&webhook);
        let body = body(target, &wanted(), Moment { owner: Some(&owner), ..moment(live) }).unwrap();
        let owners = &body["metadata"]["ownerReferences"];
        match target {
            Target::Hooks(_) => assert_eq!(
                *owners,
                json!([{ "apiVersion": "v1", "kind": "Namespace", "name": "kruise-system", "uid": "n" }])
            ),
            Target::Crd(_) => assert!(owners.is_null()),
        }
    }
}

#[test]
fn an_object_that_is_there_is_written_only_as_it_was_seen() {
    let live = stored(VALIDATING, &wanted());
    let body = body(VALIDATING, &wanted(), moment(Some(&live))).unwrap();
    assert_eq!(body["metadata"]["uid"], "u");
    assert_eq!(body["metadata"]["resourceVersion"], "7");
}

#[rstest]
#[case::by_a_webhook(json!({ "strategy": "Webhook" }), true)]
#[case::none(json!({ "strategy": "None" }), false)]
#[case::nothing(json!(null), false)]
fn wh_9_4_a_crd_is_touched_only_when_a_webhook_converts_it(#[case] conversion: Value, #[case] touched: bool) {
    let live = crd(&conversion);
    let body = body(Target::Crd(1), &wanted(), moment(Some(&live)));
    assert_eq!(body.is_some(), touched);
    if let Some(body) = body {
        let webhook = &body["spec"]["conversion"]["webhook"];
        assert_eq!(webhook["clientConfig"]["service"]["path"], "/convert");
        assert_eq!(webhook["conversionReviewVersions"], json!(["v1", "v1beta1"]));
        assert!(body["spec"]["conversion"]["strategy"].is_null());
    }
    assert_eq!(live_bundles(Target::Crd(1), &live).len(), usize::from(touched));
}

#[test]
fn what_others_keep_is_no_drift() {
    let mut live = stored(MUTATING, &wanted());
    live["metadata"]["labels"] = json!({ "theirs": "yes" });
    live["webhooks"][0]["objectSelector"] = json!({ "matchLabels": { "inject": "yes" } });
    let condition = json!({ "name": "theirs", "expression": "true" });
    live["webhooks"][0]["matchConditions"].as_array_mut().unwrap().push(condition);
    let theirs = json!({ "name": "other.test", "clientConfig": { "url": "https://other.test/" } });
    live["webhooks"].as_array_mut().unwrap().insert(0, theirs);
    let body = body(MUTATING, &wanted(), moment(Some(&live))).unwrap();
    assert_eq!(drift(&live, &body), None);
    assert!(clearing(MUTATING, &wanted(), &live, &body).is_empty());
}

#[rstest]
#[case::bundle("/webhooks/0/clientConfig/caBundle", json!("AA=="), ".webhooks[mpod.kb.io].clientConfig.caBundle")]
#[case::policy("/webhooks/0/failurePolicy", json!("Ignore"), ".webhooks[mpod.kb.io].failurePolicy")]
#[case::rules("/webhooks/0/rules", json!([]), ".webhooks[mpod.kb.io].rules")]
#[case::selector("/webhooks/0/namespaceSelector", json!({}), ".webhooks[mpod.kb.io].namespaceSelector.matchExpressions")]
#[case::condition("/webhooks/0/matchConditions/0/expression", json!("false"), ".webhooks[mpod.kb.io].matchConditions[no-mirror-pods].expression")]
#[case::entry("/webhooks/1/name", json!("renamed"), ".webhooks[msidecarset.kb.io]")]
#[case::all_entries("/webhooks", json!(null), ".webhooks[mpod.kb.io]")]
fn drift_is_seen_and_named(#[case] at: &str, #[case] value: Value, #[case] path: &str) {
    let mut live = stored(MUTATING, &wanted());
    *live.pointer_mut(at).unwrap() = value;
    let body = body(MUTATING, &wanted(), moment(Some(&live))).unwrap();
    let found = drift(&live, &body).unwrap();
    assert!(found.starts_with(path), "{found}");
}

#[test]
fn wh_9_3_entries_that_call_us_and_that_nobody_serves_are_taken_out() {
    let mut live = stored(MUTATING, &wanted());
    let ours = json!({ "namespace": "kruise-system", "name": "kruise-webhook-service", "path": "/mutate-clone-set" });
    let theirs = json!({ "namespace": "elsewhere", "name": "kruise-webhook-service", "path": "/mutate-clone-set" });
    let entries = live["webhooks"].as_array_mut().unwrap();
    entries.insert(0, json!({ "name": "mcloneset.kb.io", "clientConfig": { "service": ours } }));
    entries.insert(2, json!({ "name": "vpod.kb.io", "clientConfig": { "service": ours } }));
    entries.push(json!({ "name": "other.test", "clientConfig": { "service": theirs } }));
    let body = body(MUTATING, &wanted(), moment(Some(&live))).unwrap();
    let patch = clearing(MUTATING, &wanted(), &live, &body);
    assert_eq!(patch[0], json!({ "op": "replace", "path": "/metadata/resourceVersion", "value": "7" }));
    let after = patched(&live, patch);
    let names = after["webhooks"].as_array().unwrap().iter().map(|entry| entry["name"].as_str().unwrap());
    assert_eq!(
        names.collect::<Vec<_>>(),
        [
            "mpod.kb.io",
            "msidecarset.kb.io",
            "mcontainerrecreaterequest.kb.io",
            "mimagepulljob-v1beta1.kb.io",
            "mimagelistpulljob-v1beta1.kb.io",
            "mnodeimage.kb.io",
            "other.test",
        ]
    );
}

#[rstest]
#[case::in_to_out(wanted(), by_host("hooks.test"))]
#[case::out_to_in(by_host("hooks.test"), wanted())]
fn a_move_out_of_or_into_the_cluster_leaves_one_address(#[case] before: Wanted, #[case] after: Wanted) {
    let live = stored(MUTATING, &before);
    let body = body(MUTATING, &after, moment(Some(&live))).unwrap();
    let after_patch = patched(&live, clearing(MUTATING, &after, &live, &body));
    assert_eq!(drift(&after_patch, &body), None);
    assert!(clearing(MUTATING, &after, &after_patch, &body).is_empty());

    let conversion = json!({ "strategy": "Webhook", "webhook": { "clientConfig": { "service": { "name": "x" } } } });
    let live = crd(&conversion);
    let body = hooks::body(Target::Crd(1), &by_host("hooks.test"), moment(Some(&live))).unwrap();
    let patch = clearing(Target::Crd(1), &by_host("hooks.test"), &live, &body);
    assert_eq!(drift(&patched(&live, patch), &body).filter(|path| !path.contains("Versions")), None);
}

#[test]
fn selected_pods_are_a_condition_and_every_pod_is_none() {
    let terms = Terms::from(["(a)".to_owned()]);
    let narrow = body(MUTATING, &wanted(), Moment { terms: Some(&terms), ..moment(None) }).unwrap();
    let text = live_expression(&narrow).unwrap();
    assert!(scope::parse(text).contains("(a)"));
    assert_eq!(pod_entry(&narrow)["matchConditions"].as_array().unwrap().len(), 2);

    let wide = body(MUTATING, &wanted(), moment(Some(&narrow))).unwrap();
    let patch = clearing(MUTATING, &wanted(), &narrow, &wide);
    let after = patched(&json!({ "metadata": { "resourceVersion": "7" }, "webhooks": narrow["webhooks"] }), patch);
    assert_eq!(live_expression(&after), None);
    assert_eq!(pod_entry(&after)["matchConditions"], pod_entry(&wide)["matchConditions"]);
}

#[test]
fn a_bundle_that_another_writes_is_kept_as_it_is() {
    let live = stored(MUTATING, &wanted());
    let body = body(MUTATING, &wanted(), Moment { ca: CaBundle::Keep, ..moment(Some(&live)) }).unwrap();
    assert_eq!(drift(&live, &body), None);
    let mut bare = live.clone();
    bare["webhooks"][0]["clientConfig"].as_object_mut().unwrap().remove("caBundle");
    let body = hooks::body(MUTATING, &wanted(), Moment { ca: CaBundle::Keep, ..moment(Some(&bare)) }).unwrap();
    assert!(pod_entry(&body)["clientConfig"]["caBundle"].is_null());
    assert_eq!(drift(&bare, &body), None);
}

#[test]
fn live_bundles_are_those_of_our_entries() {
    let mut live = stored(MUTATING, &wanted());
    let theirs = json!({ "name": "other.test", "clientConfig": { "caBundle": "AAAA" } });
    live["webhooks"].as_array_mut().unwrap().push(theirs);
    live["webhooks"][1]["clientConfig"]["caBundle"] = json!("not base64!");
    let bundles = live_bundles(MUTATING, &live);
    assert_eq!(bundles[..3], [b"pem".to_vec(), Vec::new(), b"pem".to_vec()]);
    assert_eq!(bundles.len(), 6, "ours, and not theirs");
}

#[test]
fn a_deleted_configuration_is_made_again_only_after_a_while() {
    let mut state = State::default();
    let now = || Instant::now();
    assert!(state.wait(MUTATING, now()).is_zero());
    state.hear(Place::Target(MUTATING), None);
    assert!(state.wait(MUTATING, now()).is_zero(), "at the start it is made at once");
    state.hear(Place::Target(MUTATING), Some(json!({})));
    state.hear(Place::Target(MUTATING), None);
    let wait = state.wait(MUTATING, now());
    assert!(wait > ANEW / 2 && wait <= ANEW, "{wait:?}");
    state.hear(Place::Target(MUTATING), Some(json!({})));
    assert!(state.wait(MUTATING, now()).is_zero());
}

#[test]
fn writes_of_one_object_become_rarer_when_somebody_else_keeps_changing_it() {
    let mut state = State::default();
    let start = Instant::now();
    let pauses = [0, 1, 2, 3, 4, 5, 6].map(|second| {
        let now = start + Duration::from_secs(second);
        state.wrote(MUTATING, now);
        state.wait(MUTATING, now).as_millis()
    });
    assert_eq!(pauses, [200, 400, 800, 1600, 3200, 5000, 5000]);
    state.wrote(MUTATING, start + Duration::from_mins(1));
    assert_eq!(state.writes[&MUTATING].1, PAUSE[0]);
}
