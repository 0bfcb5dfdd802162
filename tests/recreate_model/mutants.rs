//! Deciders that are wrong on purpose: a law that none of them is caught by would be no law.

use std::time::Duration;

use jiff::SignedDuration;
use outrigger::api::recreate::{RecreateState, RecreateStrategy};
use outrigger::controllers::recreate::decide::{Blocked, Input, Step as Manage, decide};
use outrigger::recreate::{Choice, Instance, Pod, Request, State, Step, Underway, choose, queued};
use rstest::rstest;
use serde_json::{Value, json};

use crate::laws::Law;
use crate::world::{At, Decider};
use crate::{OUTRIGGER, outrigger, search};

/// So many sequences find each of them.
const SEQUENCES: u64 = 4_000;

impl At<'_> {
    /// Decides upon another request than there is.
    fn with(&self, underway: &mut Underway, change: impl FnOnce(&mut Request)) -> Step {
        let mut request = self.request.clone();
        change(&mut request);
        outrigger(&At { request: &request, ..*self }, underway)
    }

    fn with_strategy(&self, underway: &mut Underway, change: impl FnOnce(&mut RecreateStrategy)) -> Step {
        self.with(underway, |request| {
            if let Some(strategy) = &mut request.spec.strategy {
                change(strategy);
            }
        })
    }

    /// Decides upon another pod than there is.
    fn with_pod(&self, underway: &mut Underway, change: impl FnOnce(&mut Pod)) -> Step {
        let mut pod = self.pod.cloned().unwrap_or_default();
        change(&mut pod);
        outrigger(&At { pod: self.pod.map(|_| &pod), ..*self }, underway)
    }

    /// Whether the instance that was to be stopped still runs.
    fn is_intended_there(&self) -> bool {
        let mut conditions = self.request.status.conditions.iter();
        let condition = conditions.find(|condition| condition.r#type == "ContainerStopping");
        let intent: Value = condition.and_then(|it| serde_json::from_str(&it.message).ok()).unwrap_or_default();
        let is_it =
            |it: &&Instance| it.id.as_str() == intent["containerID"] && it.restart_count == intent["restartCount"];
        self.instances.iter().find(is_it).is_some_and(|it| it.state == State::Running)
    }

    fn states(&self) -> &[RecreateState] {
        &self.request.status.container_recreate_states
    }
}

/// What is under way is nobody else's business, so it is asked of its words.
fn says(underway: &Underway, word: &str) -> bool {
    format!("{underway:?}").contains(word)
}

fn forget_intent(request: &mut Request) {
    request.status.conditions.retain(|condition| condition.r#type != "ContainerStopping");
}

// === the wrong step ===

fn acts_unannounced(at: &At<'_>, underway: &mut Underway) -> Step {
    let mut after = underway.clone();
    if let Step::Write(patch) = outrigger(at, &mut after)
        && patch.to_string().contains("ContainerStopping")
    {
        *underway = after;
        return at.with(underway, |request| {
            let mut status = json!(request.status);
            json_patch::merge(&mut status, &patch["status"]);
            request.status = serde_json::from_value(status).unwrap();
        });
    }
    outrigger(at, underway)
}

/// As the reference does (WEAK-2).
fn runs_the_hook_again_after_a_kill(at: &At<'_>, underway: &mut Underway) -> Step {
    if says(underway, "stop: None") && at.is_intended_there() {
        return at.with(underway, forget_intent);
    }
    outrigger(at, underway)
}

/// As the reference does (WEAK-2).
fn stops_the_new_one_after_a_kill(at: &At<'_>, underway: &mut Underway) -> Step {
    if says(underway, "stop: None") && !at.is_intended_there() {
        return at.with(underway, forget_intent);
    }
    outrigger(at, underway)
}

fn forgets_that_it_is_killed(at: &At<'_>, underway: &mut Underway) -> Step {
    let is_there = at.is_intended_there();
    at.with(underway, |request| {
        if !is_there {
            forget_intent(request);
        }
        request.status.container_recreate_states.iter_mut().for_each(|state| state.is_killed = false);
    })
}

fn turns_what_is_completed_back(at: &At<'_>, underway: &mut Underway) -> Step {
    match outrigger(at, underway) {
        Step::Write(mut patch) if patch["status"]["phase"] == "Completed" && at.request.has_ended() => {
            patch["status"]["phase"] = "Recreating".into();
            Step::Write(patch)
        }
        step => step,
    }
}

fn stops_all_at_once(at: &At<'_>, underway: &mut Underway) -> Step {
    at.with_strategy(underway, |strategy| strategy.ordered_recreate = false)
}

fn begins_at_the_end(at: &At<'_>, underway: &mut Underway) -> Step {
    at.with(underway, |request| request.spec.containers.reverse())
}

fn does_not_drain(at: &At<'_>, underway: &mut Underway) -> Step {
    at.with_strategy(underway, |strategy| strategy.unready_grace_period_seconds = None)
}

/// As the reference does (WEAK-8).
fn drains_by_the_clock_of_the_manager(at: &At<'_>, underway: &mut Underway) -> Step {
    let since = at.request.status.conditions.iter().find(|condition| condition.r#type == "PreRecreateGrace");
    let since = since.and_then(|condition| condition.last_transition_time.as_ref()).map(|time| time.0);
    let period = at.request.spec.strategy.as_ref().and_then(|strategy| strategy.unready_grace_period_seconds);
    match since.zip(period) {
        Some((since, period)) if since + SignedDuration::from_secs(period) < at.now => does_not_drain(at, underway),
        _ => outrigger(at, underway),
    }
}

fn heeds_no_end_of_the_pod(at: &At<'_>, underway: &mut Underway) -> Step {
    at.with_pod(underway, |pod| pod.is_going_away = false)
}

fn does_not_wait_for_what_runs(at: &At<'_>, underway: &mut Underway) -> Step {
    underway.hook_over(at.now);
    outrigger(at, underway)
}

fn stops_what_is_stopped(at: &At<'_>, underway: &mut Underway) -> Step {
    let is_stopped = says(underway, "stage: Stopped");
    let newest = at.request.spec.containers.first();
    let newest = newest.and_then(|named| at.instances.iter().find(|it| it.name == named.name));
    if let Some(newest) = newest.filter(|newest| is_stopped && newest.state == State::Running) {
        let grace = Duration::from_secs(2);
        return Step::Stop { container: newest.name.clone(), id: newest.id.clone(), grace };
    }
    outrigger(at, underway)
}

fn stops_another(at: &At<'_>, underway: &mut Underway) -> Step {
    match outrigger(at, underway) {
        Step::Stop { container, id, grace } => {
            let other = at.instances.iter().find(|it| it.name != container).map_or(id, |it| it.id.clone());
            Step::Stop { container, id: other, grace }
        }
        step => step,
    }
}

fn forces_everything(at: &At<'_>, underway: &mut Underway) -> Step {
    at.with_strategy(underway, |strategy| strategy.force_recreate = true)
}

fn forces_nothing(at: &At<'_>, underway: &mut Underway) -> Step {
    at.with_strategy(underway, |strategy| strategy.force_recreate = false)
}

fn gives_all_the_grace_again(at: &At<'_>, underway: &mut Underway) -> Step {
    match outrigger(at, underway) {
        Step::Stop { container, id, .. } => {
            let grace = at.request.spec.strategy.as_ref().and_then(|it| it.termination_grace_period_seconds);
            let grace = Duration::from_secs(grace.unwrap_or(30).max(2).unsigned_abs());
            Step::Stop { container, id, grace }
        }
        step => step,
    }
}

fn takes_what_runs_for_ready(at: &At<'_>, underway: &mut Underway) -> Step {
    at.with_pod(underway, |pod| {
        pod.containers.iter_mut().filter_map(|it| it.status.as_mut()).for_each(|status| status.is_ready = true);
    })
}

fn does_not_wait_until_it_has_run(at: &At<'_>, underway: &mut Underway) -> Step {
    at.with_strategy(underway, |strategy| strategy.min_started_seconds = 0)
}

/// As the reference does (WEAK-3).
fn fails_at_the_first_error(at: &At<'_>, underway: &mut Underway) -> Step {
    let fails = says(underway, "NotStopped { attempt: 1");
    match outrigger(at, underway) {
        Step::Rest { wake: Some(_) } if fails => {
            let mut states = at.states().to_vec();
            for state in states.iter_mut().filter(|state| state.phase == "Pending").take(1) {
                (state.phase, state.message) = ("Failed".to_owned(), "kill container error".to_owned());
            }
            Step::Write(at.request.status_patch(json!({"containerRecreateStates": states})))
        }
        step => step,
    }
}

fn forgets_to_wake(at: &At<'_>, underway: &mut Underway) -> Step {
    match outrigger(at, underway) {
        Step::Rest { .. } => Step::Rest { wake: None },
        step => step,
    }
}

fn says_nothing(at: &At<'_>, underway: &mut Underway) -> Step {
    at.with_pod(underway, |pod| {
        pod.containers.iter_mut().filter_map(|it| it.status.as_mut()).for_each(|status| status.waiting.clear());
    })
}

fn writes_what_is_there(at: &At<'_>, underway: &mut Underway) -> Step {
    match outrigger(at, underway) {
        Step::Rest { .. } if at.request.is_live() && !underway.is_busy() => {
            Step::Write(at.request.status_patch(json!({"containerRecreateStates": at.states()})))
        }
        step => step,
    }
}

fn writes_whatever_has_come(at: &At<'_>, underway: &mut Underway) -> Step {
    match outrigger(at, underway) {
        Step::Write(mut patch) => {
            patch["metadata"].as_object_mut().unwrap().remove("resourceVersion");
            Step::Write(patch)
        }
        step => step,
    }
}

fn invents_a_phase(at: &At<'_>, underway: &mut Underway) -> Step {
    match outrigger(at, underway) {
        Step::Write(mut patch) if patch["status"]["phase"] == "Recreating" => {
            patch["status"]["phase"] = "Draining".into();
            Step::Write(patch)
        }
        step => step,
    }
}

fn settles_anew(at: &At<'_>, underway: &mut Underway) -> Step {
    match outrigger(at, underway) {
        Step::Write(mut patch) => {
            let states = patch["status"].get_mut("containerRecreateStates").and_then(Value::as_array_mut);
            let before = at.states().iter().map(|state| state.phase == "Succeeded");
            for (state, _) in states.into_iter().flatten().zip(before).filter(|(_, is_settled)| *is_settled) {
                state["phase"] = "Recreating".into();
            }
            Step::Write(patch)
        }
        step => step,
    }
}

fn never_comes_to_rest(at: &At<'_>, underway: &mut Underway) -> Step {
    match outrigger(at, underway) {
        Step::Rest { .. } if at.request.is_live() && !underway.is_busy() => {
            let mut states = at.states().to_vec();
            let Some(last) = states.last_mut().filter(|last| last.phase == "Recreating") else {
                return Step::Rest { wake: None };
            };
            let word = if last.message == "tick" { "tock" } else { "tick" };
            word.clone_into(&mut last.message);
            Step::Write(at.request.status_patch(json!({"containerRecreateStates": states})))
        }
        step => step,
    }
}

fn does_nothing_once_it_is_begun(at: &At<'_>, underway: &mut Underway) -> Step {
    if at.request.status.phase == "Recreating" { Step::Rest { wake: None } } else { outrigger(at, underway) }
}

#[rstest]
#[case::acts_unannounced(acts_unannounced, Law::Intent)]
#[case::runs_the_hook_again_after_a_kill(runs_the_hook_again_after_a_kill, Law::Hook)]
#[case::stops_the_new_one_after_a_kill(stops_the_new_one_after_a_kill, Law::Once)]
#[case::forgets_that_it_is_killed(forgets_that_it_is_killed, Law::Again)]
#[case::turns_what_is_completed_back(turns_what_is_completed_back, Law::Ended)]
#[case::stops_all_at_once(stops_all_at_once, Law::Order)]
#[case::begins_at_the_end(begins_at_the_end, Law::Order)]
#[case::does_not_drain(does_not_drain, Law::Drain)]
#[case::drains_by_the_clock_of_the_manager(drains_by_the_clock_of_the_manager, Law::Drain)]
#[case::heeds_no_end_of_the_pod(heeds_no_end_of_the_pod, Law::Pod)]
#[case::does_not_wait_for_what_runs(does_not_wait_for_what_runs, Law::OneAtATime)]
#[case::stops_what_is_stopped(stops_what_is_stopped, Law::Again)]
#[case::stops_another(stops_another, Law::Named)]
#[case::forces_everything(forces_everything, Law::Spared)]
#[case::forces_nothing(forces_nothing, Law::Succeeded)]
#[case::gives_all_the_grace_again(gives_all_the_grace_again, Law::Grace)]
#[case::takes_what_runs_for_ready(takes_what_runs_for_ready, Law::Succeeded)]
#[case::does_not_wait_until_it_has_run(does_not_wait_until_it_has_run, Law::Succeeded)]
#[case::fails_at_the_first_error(fails_at_the_first_error, Law::Failed)]
#[case::forgets_to_wake(forgets_to_wake, Law::Wakes)]
#[case::says_nothing(says_nothing, Law::Told)]
#[case::writes_what_is_there(writes_what_is_there, Law::Useless)]
#[case::writes_whatever_has_come(writes_whatever_has_come, Law::Guarded)]
#[case::invents_a_phase(invents_a_phase, Law::Accepted)]
#[case::settles_anew(settles_anew, Law::Settled)]
#[case::never_comes_to_rest(never_comes_to_rest, Law::Quiet)]
#[case::does_nothing_once_it_is_begun(does_nothing_once_it_is_begun, Law::Ends)]
fn a_daemon_that_is_wrong_is_caught_by_the_law(#[case] step: fn(&At<'_>, &mut Underway) -> Step, #[case] law: Law) {
    caught(Decider { step, ..OUTRIGGER }, law);
}

/// Another law may see to it first, in other sequences.
fn caught(wrong: Decider, law: Law) {
    let found = search(SEQUENCES, wrong, Some(law));
    assert!(found.is_some(), "nobody has noticed; {law:?} should have");
}

// === the wrong choice ===

type Choose = for<'a> fn(&[&'a Request], Option<&str>, &Underway) -> Choice<'a>;

fn takes_the_last_one<'a>(requests: &[&'a Request], pod_uid: Option<&str>, underway: &Underway) -> Choice<'a> {
    let last = requests.iter().rev().find(|it| it.is_live() && pod_uid.is_none_or(|uid| it.pod_uid == uid));
    Choice { chosen: last.copied(), ..choose(requests.iter().copied(), pod_uid, underway) }
}

/// As the reference does (WEAK-1).
fn leaves_those_that_wait<'a>(requests: &[&'a Request], pod_uid: Option<&str>, underway: &Underway) -> Choice<'a> {
    let mut choice = choose(requests.iter().copied(), pod_uid, underway);
    choice.chosen = choice.chosen.filter(|chosen| chosen.status.phase != "Pending");
    choice
}

#[rstest]
#[case::takes_the_last_one(takes_the_last_one, Law::Turn)]
#[case::leaves_those_that_wait(leaves_those_that_wait, Law::Ends)]
fn one_who_chooses_wrong_is_caught_by_the_law(#[case] choose: Choose, #[case] law: Law) {
    caught(Decider { choose, ..OUTRIGGER }, law);
}

// === the wrong manager ===

fn never_releases(input: &Input<'_>) -> Manage {
    decide(&Input { is_released: true, ..input.clone() })
}

fn says_that_it_drains_and_does_not(input: &Input<'_>) -> Manage {
    decide(&Input { blocked: Blocked::Done, ..input.clone() })
}

fn completes_again(input: &Input<'_>) -> Manage {
    match decide(input) {
        Manage::Finish(_) if input.request.has_ended() => {
            let mut patch = queued(input.request);
            patch["status"] = json!({"message": "once more"});
            Manage::Snapshot(patch)
        }
        step => step,
    }
}

#[rstest]
#[case::never_releases(never_releases, Law::Released)]
#[case::says_that_it_drains_and_does_not(says_that_it_drains_and_does_not, Law::Drain)]
#[case::completes_again(completes_again, Law::Ended)]
fn a_manager_that_is_wrong_is_caught_by_the_law(#[case] manage: fn(&Input<'_>) -> Manage, #[case] law: Law) {
    caught(Decider { manage, ..OUTRIGGER }, law);
}
