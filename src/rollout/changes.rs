//! Which fields of a set changed beside images, for people who ask why a pod must be recreated (NUP-1).

use std::collections::BTreeSet;

use serde_json::Value;

use crate::api::container::SidecarContainer;
use crate::api::sidecarset::SidecarSetSpec;

/// Paths of all that differs, such as `spec.containers[agent].env`, in the order of the newer spec.
pub(super) fn paths(old: &SidecarSetSpec, new: &SidecarSetSpec) -> Vec<String> {
    fn list(containers: Option<&Vec<SidecarContainer>>) -> &[SidecarContainer] {
        containers.map_or(&[], Vec::as_slice)
    }
    let mut paths = Vec::new();
    compare("containers", list(old.containers.as_ref()), list(new.containers.as_ref()), &mut paths);
    let (old, new) = (list(old.init_containers.as_ref()), list(new.init_containers.as_ref()));
    // HASH-2: plain init containers count only beside a native sidecar.
    if old.iter().chain(new).any(SidecarContainer::is_native_sidecar) {
        compare("initContainers", old, new, &mut paths);
    }
    paths
}

fn compare(list: &str, old: &[SidecarContainer], new: &[SidecarContainer], paths: &mut Vec<String>) {
    let find = |list: &[SidecarContainer], name: &str| list.iter().position(|container| container.name == name);
    for container in new {
        let name = &container.name;
        let Some(before) = find(old, name).map(|index| &old[index]) else {
            paths.push(format!("spec.{list}[{name}]"));
            continue;
        };
        let [before, after] = [before, container].map(|container| serde_json::to_value(container).unwrap_or_default());
        differences(&before, &after, &format!("spec.{list}[{name}]"), paths);
    }
    for container in old.iter().filter(|container| find(new, &container.name).is_none()) {
        paths.push(format!("spec.{list}[{}]", container.name));
    }
    let order = |list: &[SidecarContainer]| list.iter().map(|container| container.name.clone()).collect::<Vec<_>>();
    let (mut a, mut b) = (order(old), order(new));
    let moved = a != b;
    a.sort_unstable();
    b.sort_unstable();
    if moved && a == b {
        paths.push(format!("spec.{list}"));
    }
}

/// The members of a container that differ; those of its upgrade strategy one by one, as one of them is an image.
fn differences(before: &Value, after: &Value, at: &str, paths: &mut Vec<String>) {
    let (Value::Object(before), Value::Object(after)) = (before, after) else { return };
    let keys: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    for key in keys {
        let (old, new) = (before.get(key), after.get(key));
        if key == "image" || old == new {
            continue;
        }
        match (old, new) {
            (Some(old), Some(new)) if key == "upgradeStrategy" => differences(old, new, &format!("{at}.{key}"), paths),
            _ => paths.push(format!("{at}.{key}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    fn spec(containers: Value) -> SidecarSetSpec {
        serde_json::from_value(containers).unwrap()
    }

    #[rstest]
    #[case::an_env(
        json!({"containers": [{"name": "agent", "image": "a:1"}]}),
        json!({"containers": [{"name": "agent", "image": "a:2", "env": [{"name": "A"}], "tty": true}]}),
        &["spec.containers[agent].env", "spec.containers[agent].tty"]
    )]
    #[case::the_empty_image(
        json!({"containers": [{"name": "p", "upgradeStrategy": {"upgradeType": "HotUpgrade", "hotUpgradeEmptyImage": "e:1"}}]}),
        json!({"containers": [{"name": "p", "upgradeStrategy": {"upgradeType": "HotUpgrade", "hotUpgradeEmptyImage": "e:2"}}]}),
        &["spec.containers[p].upgradeStrategy.hotUpgradeEmptyImage"]
    )]
    #[case::a_container_more_and_one_less(
        json!({"containers": [{"name": "a"}]}), json!({"containers": [{"name": "b"}]}),
        &["spec.containers[b]", "spec.containers[a]"]
    )]
    #[case::another_order(
        json!({"containers": [{"name": "a"}, {"name": "b"}]}), json!({"containers": [{"name": "b"}, {"name": "a"}]}),
        &["spec.containers"]
    )]
    #[case::plain_init_containers_do_not_count(
        json!({"initContainers": [{"name": "a"}]}), json!({"initContainers": [{"name": "a", "tty": true}]}), &[]
    )]
    #[case::beside_a_native_sidecar_they_do(
        json!({"initContainers": [{"name": "a"}, {"name": "n", "restartPolicy": "Always"}]}),
        json!({"initContainers": [{"name": "a", "tty": true}, {"name": "n", "restartPolicy": "Always"}]}),
        &["spec.initContainers[a].tty"]
    )]
    fn what_changed_is_named_by_its_path_nup_1(#[case] old: Value, #[case] new: Value, #[case] expected: &[&str]) {
        assert_eq!(paths(&spec(old), &spec(new)), expected);
    }
}
