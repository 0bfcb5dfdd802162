//! Planners that are wrong on purpose: a law that none of them is caught by would be no law.

use std::sync::Arc;

use outrigger::api::IntOrString;
use outrigger::api::names;
use outrigger::api::sidecarset::SidecarSet;
use outrigger::rollout::pod::Pod;
use rstest::rstest;
use serde_json::{Value, json};

use crate::hollow::name;
use crate::laws::{Law, STATE, Wanted, entry, image, is_ready, pair, upgradable};
use crate::world::{Act, Look, Planned};
use crate::{outrigger, search};

/// So many sequences find each of them.
const SEQUENCES: u64 = 2_000;

fn with_set(look: &Look<'_>, change: impl FnOnce(&mut SidecarSet)) -> Planned {
    let mut set = look.set.clone();
    change(&mut set);
    outrigger(&Look { set: &set, ..*look })
}

/// Plans with other copies of the pods than there are.
fn with_pods(look: &Look<'_>, change: impl Fn(&mut Value)) -> Planned {
    let pods: Vec<Value> = look
        .raw
        .iter()
        .map(|pod| {
            let mut pod = (*pod).clone();
            change(&mut pod);
            pod
        })
        .collect();
    let read: Vec<Arc<Pod>> = pods.iter().map(|pod| Arc::new(Pod::read(pod).unwrap())).collect();
    outrigger(&Look { pods: &read, ..*look })
}

/// Plans right and then changes each patch to a pod.
fn with_patches(look: &Look<'_>, change: impl Fn(&mut Value, &Wanted, &Value)) -> Planned {
    let mut plan = outrigger(look);
    let wanted = wanted(look);
    for act in plan.acts.iter_mut().filter(|act| !act.status) {
        change(&mut act.patch, &wanted, look.raw[act.pod]);
    }
    plan
}

/// Plans right and then writes more.
fn with_more(look: &Look<'_>, more: impl Fn(&Wanted, &Value) -> Option<Value>) -> Planned {
    add(outrigger(look), look, more)
}

/// Writes more to pods that are left alone.
fn add(mut plan: Planned, look: &Look<'_>, more: impl Fn(&Wanted, &Value) -> Option<Value>) -> Planned {
    let wanted = wanted(look);
    for (pod, raw) in look.raw.iter().enumerate().filter(|(_, raw)| wanted.matches(raw)) {
        if let Some(mut patch) = more(&wanted, raw).filter(|_| plan.acts.iter().all(|act| act.pod != pod)) {
            for key in ["uid", "resourceVersion"] {
                patch["metadata"][key] = raw["metadata"][key].clone();
            }
            plan.acts.push(Act { pod, status: patch.get("status").is_some(), patch });
        }
    }
    plan
}

fn wanted(look: &Look<'_>) -> Wanted {
    Wanted::read(&json!(look.set))
}

fn is_up_to_date(wanted: &Wanted, pod: &Value) -> bool {
    wanted.standing(pod).updated && wanted.has_images(pod) && wanted.is_emptied(pod)
}

// === mutants ===

fn keeps_none(look: &Look<'_>) -> Planned {
    with_set(look, |set| set.spec.update_strategy.partition = None)
}

fn knows_no_budget(look: &Look<'_>) -> Planned {
    with_set(look, |set| set.spec.update_strategy.max_unavailable = Some(IntOrString::String("100%".to_owned())))
}

fn takes_what_is_in_flight_for_complete(look: &Look<'_>) -> Planned {
    let mut plan = with_pods(look, |pod| {
        pod["metadata"]["annotations"].as_object_mut().unwrap().remove(STATE);
    });
    plan.counts = outrigger(look).counts;
    plan
}

fn does_not_see_that_it_is_paused(look: &Look<'_>) -> Planned {
    with_set(look, |set| set.spec.update_strategy.paused = false)
}

fn does_not_see_the_selector(look: &Look<'_>) -> Planned {
    with_set(look, |set| set.spec.update_strategy.selector = None)
}

fn does_not_see_other_fields(look: &Look<'_>) -> Planned {
    let hash = wanted(look).without_image;
    with_pods(look, |pod| {
        let set = look.set.metadata.name.as_str();
        let text = pod["metadata"]["annotations"][names::HASH_WITHOUT_IMAGE].as_str().unwrap();
        let mut map: Value = serde_json::from_str(text).unwrap();
        map[set]["hash"] = hash.clone().into();
        pod["metadata"]["annotations"][names::HASH_WITHOUT_IMAGE] = map.to_string().into();
    })
}

fn resets_at_once(look: &Look<'_>) -> Planned {
    with_more(look, |wanted, pod| {
        let sidecar = wanted.sidecars.iter().find(|sidecar| sidecar.empty.is_some())?;
        let other = pair(pod, &sidecar.name).1;
        let is_in_upgrade = image(pod, &other)? != sidecar.empty.as_ref()?;
        is_in_upgrade.then(|| json!({"spec": {"containers": [{"name": other, "image": sidecar.empty}]}}))
    })
}

/// As the reference does (W-5): the old image is wanted again, so the old container is the working one again, which was
/// told long ago to hand over.
fn takes_back_what_has_taken_over(look: &Look<'_>) -> Planned {
    let back = |wanted: &Wanted, pod: &Value| {
        let sidecar = wanted.sidecars.iter().find(|sidecar| sidecar.empty.is_some())?;
        let (new, old) = pair(pod, &sidecar.name);
        let is_back = image(pod, &old)? == &sidecar.image && image(pod, &new)? != &sidecar.image && is_ready(pod);
        is_back.then(|| {
            let text = pod["metadata"]["annotations"][names::WORKING_CONTAINER].as_str().unwrap_or("{}");
            let mut working: Value = serde_json::from_str(text).unwrap();
            working[&sidecar.name] = old.into();
            json!({
                "metadata": {"annotations": {names::WORKING_CONTAINER: working.to_string()}},
                "spec": {"containers": [{"name": new, "image": sidecar.empty}]},
            })
        })
    };
    let mut plan = outrigger(look);
    let wanted = wanted(look);
    plan.acts.retain(|act| back(&wanted, look.raw[act.pod]).is_none());
    add(plan, look, back)
}

fn never_resets(look: &Look<'_>) -> Planned {
    let mut plan = outrigger(look);
    plan.acts.retain(|act| act.status || entry(&act.patch, names::HASH, &look.set.metadata.name)["hash"].is_string());
    plan
}

fn leaves_a_mark(look: &Look<'_>) -> Planned {
    with_patches(look, |patch, _, _| patch["metadata"]["annotations"]["example.io/mark"] = "here".into())
}

fn forgets_the_records_of_others(look: &Look<'_>) -> Planned {
    with_patches(look, |patch, wanted, _| {
        let own = entry(patch, names::HASH, &wanted.name);
        if own.is_object() {
            patch["metadata"]["annotations"][names::HASH] = json!({&wanted.name: own}).to_string().into();
        }
    })
}

fn writes_what_is_there(look: &Look<'_>) -> Planned {
    with_more(look, |wanted, pod| {
        let first = wanted.sidecars.iter().find(|sidecar| sidecar.empty.is_none() && !sidecar.native)?;
        // One that is not ready uses no budget, which would be noticed before.
        let patch = || json!({"spec": {"containers": [{"name": first.name, "image": image(pod, &first.name)}]}});
        (!is_ready(pod)).then(patch)
    })
}

fn writes_again(look: &Look<'_>) -> Planned {
    with_more(look, |wanted, pod| {
        (is_up_to_date(wanted, pod) && !is_ready(pod)).then(|| {
            let mut map: Value =
                serde_json::from_str(pod["metadata"]["annotations"][STATE].as_str().unwrap_or("{}")).unwrap();
            map[&wanted.name] = json!({"revision": look.now.to_string()});
            json!({"metadata": {"annotations": {STATE: map.to_string()}}})
        })
    })
}

fn writes_only_the_record(look: &Look<'_>) -> Planned {
    with_patches(look, |patch, _, _| {
        patch.as_object_mut().unwrap().remove("spec");
    })
}

fn writes_whatever_has_come(look: &Look<'_>) -> Planned {
    with_patches(look, |patch, _, _| {
        patch["metadata"].as_object_mut().unwrap().remove("resourceVersion");
    })
}

fn changes_other_fields_too(look: &Look<'_>) -> Planned {
    with_patches(look, |patch, _, _| {
        if let Some(first) = patch["spec"]["containers"].as_array_mut().and_then(|all| all.first_mut()) {
            first["command"] = json!(["true"]);
        }
    })
}

fn forgets_one(look: &Look<'_>) -> Planned {
    let mut plan = outrigger(look);
    plan.acts.retain(|act| name(look.raw[act.pod]) != "p1");
    plan
}

fn cannot_make_up_its_mind(look: &Look<'_>) -> Planned {
    let mut plan = outrigger(look);
    plan.acts.retain(|act| !act.status);
    add(plan, look, |wanted, pod| {
        let mut words = upgradable(pod);
        words[&wanted.name] = (words[&wanted.name] != true).into();
        let condition = json!({"type": "SidecarSetUpgradable", "status": "True", "message": words.to_string()});
        Some(json!({"status": {"conditions": [condition]}}))
    })
}

fn counts_one_too_many(look: &Look<'_>) -> Planned {
    let mut plan = outrigger(look);
    plan.counts[1] += 1;
    plan
}

#[rstest]
#[case::keeps_none(keeps_none, Law::Partition)]
#[case::knows_no_budget(knows_no_budget, Law::Budget)]
#[case::takes_what_is_in_flight_for_complete(takes_what_is_in_flight_for_complete, Law::Budget)]
#[case::does_not_see_that_it_is_paused(does_not_see_that_it_is_paused, Law::Held)]
#[case::does_not_see_the_selector(does_not_see_the_selector, Law::Held)]
#[case::does_not_see_other_fields(does_not_see_other_fields, Law::Upgradable)]
#[case::resets_at_once(resets_at_once, Law::LastReady)]
#[case::takes_back_what_has_taken_over(takes_back_what_has_taken_over, Law::LastServing)]
#[case::never_resets(never_resets, Law::Converges)]
#[case::leaves_a_mark(leaves_a_mark, Law::Foreign)]
#[case::forgets_the_records_of_others(forgets_the_records_of_others, Law::Foreign)]
#[case::writes_what_is_there(writes_what_is_there, Law::Useless)]
#[case::writes_again(writes_again, Law::UpToDate)]
#[case::writes_only_the_record(writes_only_the_record, Law::Recorded)]
#[case::writes_whatever_has_come(writes_whatever_has_come, Law::Guarded)]
#[case::changes_other_fields_too(changes_other_fields_too, Law::Accepted)]
#[case::forgets_one(forgets_one, Law::Converges)]
#[case::cannot_make_up_its_mind(cannot_make_up_its_mind, Law::Quiet)]
#[case::counts_one_too_many(counts_one_too_many, Law::Status)]
fn a_planner_that_is_wrong_is_caught_by_the_law(#[case] wrong: fn(&Look<'_>) -> Planned, #[case] law: Law) {
    let (_, broken) = search(SEQUENCES, &wrong).unwrap_or_else(|| panic!("nobody has noticed; {law:?} should have"));
    assert_eq!(broken.law, law, "{broken}");
}
