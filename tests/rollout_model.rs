//! Random sequences of everything that happens to a rollout, through the real decision code: changes, rollbacks, crashes,
//! images that cannot be pulled, pods made again, a manager that is killed between any two writes, conflicts, and a watch
//! that lags. After every step the laws of `rollout_model/laws.rs` hold, and once the faults stop, everything comes to rest.
//!
//! A failure names its seed and is cut down to the steps that matter. `ROLLOUT_SEED=… cargo test --test rollout_model`
//! runs one sequence again with everything told; `ROLLOUT_SEQUENCES=100000` looks further.

#![allow(unreachable_pub, reason = "parts of one target")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail the test")]

#[path = "support/hollow.rs"]
mod hollow;
#[path = "rollout_model/laws.rs"]
mod laws;
#[path = "rollout_model/mutants.rs"]
mod mutants;
#[path = "rollout_model/world.rs"]
mod world;

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;

use outrigger::gates::Gates;
use outrigger::rollout::{Input, Subresource, plan};

use laws::{Broken, Law};
use world::{Act, Look, Planned, Planner, Script, run};

const SEQUENCES: u64 = 10_000;
const STEPS: usize = 24;

/// The code under test.
fn outrigger(look: &Look<'_>) -> Planned {
    let held = |pod: &outrigger::rollout::pod::Pod| (look.held)(&pod.name);
    let plan = plan(&Input {
        set: look.set,
        resource_version: look.version,
        generation: look.generation,
        revision: look.revision,
        collision_count: 0,
        pods: look.pods,
        held: &held,
        now: look.now,
        gates: Gates::default(),
        // Nothing hangs on how much is put into words at a time.
        at_most: if look.generation % 4 == 3 { 1 } else { usize::MAX },
        revisions: &[],
    });
    let status = &plan.status;
    Planned {
        verdicts: if look.traced {
            plan.verdicts.iter().map(|(pod, verdict)| (*pod, verdict.to_string())).collect()
        } else {
            Vec::new()
        },
        counts: [status.matched_pods, status.updated_pods, status.ready_pods, status.updated_ready_pods],
        acts: plan
            .writes
            .into_iter()
            .map(|write| Act { pod: write.pod, status: write.subresource == Subresource::Status, patch: write.patch })
            .collect(),
    }
}

fn script(seed: u64) -> Script {
    Script { seed, steps: STEPS, ..Script::default() }
}

/// The first failure of so many sequences.
fn search(sequences: u64, planner: &Planner) -> Option<(Script, Broken)> {
    let (next, failed) = (AtomicU64::new(0), AtomicBool::new(false));
    let found = Mutex::new(None::<(Script, Broken)>);
    let workers = thread::available_parallelism().map_or(2, usize::from);
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while !failed.load(Relaxed) {
                    let seed = next.fetch_add(1, Relaxed);
                    if seed >= sequences {
                        return;
                    }
                    if let Err((broken, _)) = run(&script(seed), planner) {
                        failed.store(true, Relaxed);
                        found.lock().unwrap().get_or_insert((script(seed), broken));
                    }
                }
            });
        }
    });
    found.into_inner().unwrap()
}

/// Leaves out what is not needed to break the same law.
fn cut(mut script: Script, law: Law, planner: &Planner) -> Script {
    let breaks = |script: &Script| run(script, planner).is_err_and(|(broken, _)| broken.law == law);
    for steps in 0..script.steps {
        let shorter = Script { steps, ..script.clone() };
        if breaks(&shorter) {
            script = shorter;
            break;
        }
    }
    for step in 0..script.steps {
        let mut less = script.clone();
        less.skip.insert(step);
        if breaks(&less) {
            script = less;
        }
    }
    script
}

/// What happened, for a person.
fn story(script: &Script, planner: &Planner) -> String {
    match run(&Script { traced: true, ..script.clone() }, planner) {
        Ok(()) => format!("seed {}: all laws held", script.seed),
        Err((broken, trace)) => {
            let steps = script.steps - script.skip.len();
            format!("seed {}, {steps} of {STEPS} steps:\n{}\nBROKEN {broken}", script.seed, trace.join("\n"))
        }
    }
}

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn whatever_happens_the_laws_hold_and_everything_comes_to_rest() {
    if let Some(seed) = variable("ROLLOUT_SEED") {
        let Err((broken, _)) = run(&script(seed), &outrigger) else { return };
        panic!("{}", story(&cut(script(seed), broken.law, &outrigger), &outrigger));
    }
    if let Some((script, broken)) = search(variable("ROLLOUT_SEQUENCES").unwrap_or(SEQUENCES), &outrigger) {
        panic!("{}", story(&cut(script, broken.law, &outrigger), &outrigger));
    }
}
