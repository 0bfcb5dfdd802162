//! Random lives of a cluster.

use proptest::prelude::*;
use serde_json::json;

use super::world::World;

/// One thing that happens; the number chooses which, and to whom.
fn happen(world: &mut World, choice: u16, made: &mut usize) {
    let (what, whom) = (choice % 23, usize::from(choice / 23));
    let nodes: Vec<String> = world.server.keys().cloned().collect();
    let jobs: Vec<String> = world.jobs.keys().cloned().collect();
    let node = (!nodes.is_empty()).then(|| nodes[whom % nodes.len()].clone());
    match what {
        0..=3 => world.deliver_node(),
        4 | 5 => world.deliver_job(),
        6..=8 => world.plan(1 + whom % 4),
        9..=11 => world.land(whom),
        12..=14 => {
            let phases = ["Waiting", "Pulling", "Succeeded", "Succeeded", "Failed"];
            if let Some(node) = node {
                let tags: Vec<String> = world.tags(&node).map(|(image, _)| image).collect();
                if tags.is_empty() {
                    return;
                }
                let chosen = tags[whom / 7 % tags.len()].clone();
                world.report(&node, |image, _| (image == chosen).then(|| phases[whom / 3 % phases.len()]));
            }
        }
        15 => _ = world.tell(),
        16 => {
            *made += 1;
            // Few images, so that jobs meet; long names, so that they do not all fit.
            let image = format!("{}/x{}:{}", "long/".repeat(40).trim_end_matches('/'), whom % 9, whom / 9 % 2);
            let parallelism = [json!(1), json!(2), json!(3), json!("100%"), json!(0)][whom / 5 % 5].clone();
            let selector = if whom % 4 == 0 { json!({"names": ["n1", "n2"]}) } else { json!({}) };
            let policy = match whom % 3 {
                0 => json!({"type": "Always", "activeDeadlineSeconds": 900}),
                _ => json!({"type": "Always", "ttlSecondsAfterFinished": 60}),
            };
            let pull = if whom % 5 == 0 { "Always" } else { "IfNotPresent" };
            world.add_job(
                &format!("j{made}"),
                json!({"image": image, "parallelism": parallelism, "selector": selector, "completionPolicy": policy,
                    "imagePullPolicy": pull}),
            );
        }
        17 if !jobs.is_empty() => world.remove_job(&jobs[whom % jobs.len()]),
        18 => {
            world.now += super::seconds(1 + i64::try_from(whom).unwrap() % 40);
        }
        19 if whom % 5 == 0 => world.restart(),
        19 if whom % 5 == 1 => {
            world.land_unheard();
            world.restart();
        }
        20 if !jobs.is_empty() => {
            // Never fewer than before: who pulls already goes on.
            world.change_job(&jobs[whom % jobs.len()], json!({"spec": {"parallelism": 5}}));
        }
        21 if !world.server.contains_key("n5") => world.add_node("n5", json!({})),
        22 if whom % 3 == 0 => world.remove_node("n5"),
        _ => {}
    }
}

/// From here on nothing disturbs: daemons pull, time goes by, and all that can end has ended.
fn calm_down(world: &mut World) {
    world.refuses.clear();
    for name in world.jobs.keys().cloned().collect::<Vec<_>>() {
        if world.jobs[&name]["spec"]["parallelism"] == 0 {
            world.change_job(&name, json!({"spec": {"parallelism": 2}}));
        }
    }
    for _ in 0..200 {
        world.settle();
        world.report_all("Succeeded");
        world.pass(5);
        let is_over = |job: &serde_json::Value| job["status"]["completionTime"].is_string();
        if world.jobs.values().all(is_over) {
            break;
        }
    }
    for (name, job) in &world.jobs {
        assert!(job["status"]["completionTime"].is_string(), "{name} does not end: {job:#}");
    }
    world.pass(100_000);
    for (name, node) in &world.server {
        let images = node["spec"]["images"].as_object().map_or(0, serde_json::Map::len);
        assert_eq!(images, 0, "{name} keeps {node:#}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, max_shrink_iters: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_job_ever_pulls_on_more_nodes_than_it_may_no_object_grows_too_large_and_all_ends(
        choices in prop::collection::vec(any::<u16>(), 50..500),
        refuses in any::<bool>(),
    ) {
        let mut world = World::default();
        for node in ["n1", "n2", "n3", "n4"] {
            world.add_node(node, json!({}));
        }
        if refuses {
            world.refuses.insert("n2".to_owned(), "x3".to_owned());
        }
        world.start();
        let mut made = 0;
        for choice in choices {
            happen(&mut world, choice, &mut made);
            prop_assert!(world.excesses.is_empty(), "{:?}", world.excesses);
        }
        calm_down(&mut world);
        prop_assert!(world.excesses.is_empty(), "{:?}", world.excesses);
    }
}
