//! Random sequences of everything that happens while containers are restarted on request, through the real decision code of
//! the daemon and of the manager: kubelets that start late, crash or never get ready, runtimes that fail or answer late,
//! writes that conflict or whose answer is lost, watches that lag, clocks that differ by a minute, users who delete what is
//! under way, and processes that are killed between any two effects. At every effect the laws of `recreate_model/laws.rs`
//! hold, and once the faults stop, every request ends or says what it waits for.
//!
//! A failure names its seed and is cut down to the steps that matter. `RECREATE_SEED=… cargo test --test recreate_model`
//! runs one sequence again with everything told; `RECREATE_SEQUENCES=100000` looks further.

#![allow(unreachable_pub, reason = "parts of one target")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail the test")]

#[path = "recreate_model/cluster.rs"]
mod cluster;
#[path = "recreate_model/laws.rs"]
mod laws;
#[path = "recreate_model/mutants.rs"]
mod mutants;
#[path = "recreate_model/node.rs"]
mod node;
#[path = "recreate_model/world.rs"]
mod world;

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;

use outrigger::controllers::recreate::decide::decide;
use outrigger::recreate::{Step, Underway, choose, step};

use laws::{Broken, Law};
use world::{At, Decider, Script, run};

const SEQUENCES: u64 = 5_000;
const STEPS: usize = 48;

/// The code under test.
const OUTRIGGER: Decider = Decider {
    choose: |requests, pod_uid, underway| choose(requests.iter().copied(), pod_uid, underway),
    step: outrigger,
    manage: decide,
};

/// Its daemon's next step.
fn outrigger(at: &At<'_>, underway: &mut Underway) -> Step {
    step(at.request, at.pod, at.instances, underway, at.now)
}

fn script(seed: u64) -> Script {
    Script { seed, steps: STEPS, ..Script::default() }
}

/// The first failure of so many sequences; of one law, if it is named.
fn search(sequences: u64, decider: Decider, law: Option<Law>) -> Option<(Script, Broken)> {
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
                    if let Err((broken, _)) = run(&script(seed), decider)
                        && law.is_none_or(|law| law == broken.law)
                    {
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
fn cut(mut script: Script, law: Law, decider: Decider) -> Script {
    let breaks = |script: &Script| run(script, decider).is_err_and(|(broken, _)| broken.law == law);
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
fn story(script: &Script, decider: Decider) -> String {
    match run(&Script { traced: true, ..script.clone() }, decider) {
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
fn whatever_happens_the_laws_hold_and_every_request_ends() {
    if let Some(seed) = variable("RECREATE_SEED") {
        let Err((broken, _)) = run(&script(seed), OUTRIGGER) else { return };
        panic!("{}", story(&cut(script(seed), broken.law, OUTRIGGER), OUTRIGGER));
    }
    if let Some((script, broken)) = search(variable("RECREATE_SEQUENCES").unwrap_or(SEQUENCES), OUTRIGGER, None) {
        panic!("{}", story(&cut(script, broken.law, OUTRIGGER), OUTRIGGER));
    }
}
