//! PODV, and what else a container of a SidecarSet must be.

use super::*;

/// As [`refuses`], with members below `place`.
#[track_caller]
fn refuses_below(place: &str, change: Value, expected: &[&str]) {
    let paths: Vec<_> = expected.iter().map(|path| format!("{place}.{path}")).collect();
    refuses(change, &paths.iter().map(String::as_str).collect::<Vec<_>>());
}

#[track_caller]
fn refuses_container(change: Value, expected: &[&str]) {
    refuses_below("spec.containers[0]", container(change), expected);
}

fn mount(change: Value) -> Value {
    json!({"volumeMounts": [merged(json!({"name": "data", "mountPath": "/data"}), change)]})
}

fn device(change: Value) -> Value {
    json!({"volumeDevices": [merged(json!({"name": "data", "devicePath": "/dev/a"}), change)]})
}

fn claim() -> Value {
    json!({"persistentVolumeClaim": {"claimName": "c"}})
}

// === the lists ===

#[rstest]
#[case::ssv_25_no_containers(spec(json!({"containers": []})), &["spec"])]
#[case::podv_2_name_twice(
    spec(json!({"containers": [plain(json!({})), plain(json!({}))]})),
    &["spec.containers[1].name"],
)]
#[case::podv_2_name_in_both_lists(init(json!({"name": "proxy"})), &["spec.initContainers[0].name"])]
#[case::podv_2_no_name(container(json!({"name": ""})), &["spec.containers[0].name"])]
#[case::podv_2_no_label(container(json!({"name": "a.b"})), &["spec.containers[0].name"])]
#[case::ssv_37_name_of_a_hot_upgrade(
    spec(json!({"containers": [plain(hot(json!({}))), plain(json!({"name": "proxy-2"}))]})),
    &["spec.containers[1].name"],
)]
#[case::ssv_37_name_of_a_native_hot_upgrade(
    merged(native(hot(json!({"name": "x"}))), container(json!({"name": "x-1"}))),
    &["spec.initContainers[0].name"],
)]
#[case::podv_6_host_port_twice(
    spec(json!({"containers": [
        plain(json!({"ports": [{"containerPort": 1, "hostPort": 80}]})),
        plain(json!({"name": "b", "ports": [{"containerPort": 2, "hostPort": 80}]})),
    ]})),
    &["spec.containers[1].ports[0].hostPort"],
)]
fn wrong_list(#[case] change: Value, #[case] expected: &[&str]) {
    refuses(change, expected);
}

#[rstest]
#[case::podv_2_an_init_container_called_test(
    merged(init(json!({"name": "test"})), spec(json!({"containers": null})))
)]
#[case::podv_6_host_ports_of_init_containers_one_by_one(spec(json!({"initContainers": [
    {"name": "a", "image": "a:1", "ports": [{"containerPort": 1, "hostPort": 80}]},
    {"name": "b", "image": "b:1", "ports": [{"containerPort": 1, "hostPort": 80}]},
]})))]
#[case::podv_6_one_host_port_for_two_protocols(container(json!({"ports": [
    {"containerPort": 1, "hostPort": 53},
    {"containerPort": 1, "hostPort": 53, "protocol": "UDP"},
]})))]
#[case::hot_1_a_plain_init_container_has_one_name(
    merged(init(json!({"name": "a"})), container(json!({"name": "a-1"})))
)]
fn right_list(#[case] change: Value) {
    accepts(change);
}

// === one container ===

#[rstest]
#[case::podv_3_no_image(json!({"image": ""}), &["image"])]
#[case::podv_3_blank_image(json!({"image": "envoy:1 "}), &["image"])]
#[case::podv_3_pull_policy(json!({"imagePullPolicy": "Often"}), &["imagePullPolicy"])]
#[case::podv_3_message_policy(json!({"terminationMessagePolicy": "Log"}), &["terminationMessagePolicy"])]
#[case::podv_4_restart_policy(json!({"restartPolicy": "Always"}), &["restartPolicy"])]
#[case::ssv_26_inject_policy(json!({"podInjectPolicy": "First"}), &["podInjectPolicy"])]
#[case::ssv_26_share_policy(json!({"shareVolumePolicy": {"type": "on"}}), &["shareVolumePolicy.type"])]
#[case::ssv_37_no_empty_image(
    json!({"upgradeStrategy": {"upgradeType": "HotUpgrade"}}),
    &["upgradeStrategy.hotUpgradeEmptyImage"],
)]
#[case::ssv_37_long_name(hot(json!({"name": "a".repeat(62)})), &["name"])]
#[case::podv_4_resize(
    json!({"resizePolicy": [
        {"resourceName": "cpu", "restartPolicy": "NotRequired"},
        {"resourceName": "cpu", "restartPolicy": "Never"},
        {"resourceName": "disk", "restartPolicy": "NotRequired"},
    ]}),
    &["resizePolicy[1].resourceName", "resizePolicy[1].restartPolicy", "resizePolicy[2].resourceName"],
)]
fn wrong_container(#[case] change: Value, #[case] expected: &[&str]) {
    refuses_container(change, expected);
}

#[rstest]
#[case::podv_4_restart_policy(init(json!({"restartPolicy": "Never"})), &["restartPolicy"])]
#[case::podv_4_probes(
    init(json!({"lifecycle": {}, "startupProbe": {"exec": {"command": ["a"]}}})),
    &["lifecycle", "startupProbe"],
)]
#[case::podv_4_resize(
    native(json!({"resizePolicy": [{"resourceName": "cpu", "restartPolicy": "NotRequired"}]})),
    &["resizePolicy"],
)]
#[case::podv_5_probes_of_native_sidecars(native(json!({"livenessProbe": {}})), &["livenessProbe"])]
#[case::ssv_28_computed_resources(
    init(json!({"resourcesPolicy": {"targetContainersMode": "sum", "resourcesExpr": {"limits": {"cpu": "cpu"}}}})),
    &["resourcesPolicy"],
)]
#[case::ssv_37_native_sidecar_without_empty_image(
    native(json!({"upgradeStrategy": {"upgradeType": "HotUpgrade"}})),
    &["upgradeStrategy.hotUpgradeEmptyImage"],
)]
fn wrong_init_container(#[case] change: Value, #[case] expected: &[&str]) {
    refuses_below("spec.initContainers[0]", change, expected);
}

#[rstest]
#[case::ssv_26_inject_policy_of_an_init_container(
    init(json!({"podInjectPolicy": "First"})),
    &["spec.initContainers[0].podInjectPolicy"],
)]
#[case::ssv_26_upgrade_type(
    container(json!({"upgradeStrategy": {"upgradeType": "Warm"}})),
    &["spec.containers[0].upgradeStrategy.upgradeType"],
)]
#[case::ssv_26_device_policy(
    container(json!({"shareVolumeDevicePolicy": {"type": "on"}})),
    &["spec.containers[0].shareVolumeDevicePolicy.type"],
)]
#[case::hot_1_plain_init_container(
    init(json!({"upgradeStrategy": {"upgradeType": "HotUpgrade"}})),
    &["spec.initContainers[0].upgradeStrategy.upgradeType"],
)]
#[case::ssv_27_path_of_an_init_container(
    init(json!({"transferEnv": [{"envName": "A", "sourceContainerNameFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]})),
    &["spec.initContainers[0].transferEnv[0].sourceContainerNameFrom.fieldRef.fieldPath"],
)]
#[case::te_1_transfer_of_nothing(
    container(json!({"transferEnv": [{}]})),
    &["spec.containers[0].transferEnv[0]", "spec.containers[0].transferEnv[0]"],
)]
#[case::ssv_40_no_expression(
    container(json!({"resourcesPolicy": {"targetContainersMode": "sum", "resourcesExpr": {"limits": {}}}})),
    &["spec.containers[0].resourcesPolicy.resourcesExpr"],
)]
fn odd_container(#[case] change: Value, #[case] expected: &[&str]) {
    warns(change, expected);
}

// === ports, envs ===

#[rstest]
#[case::podv_6_no_number(json!({}), &["ports[0].containerPort"])]
#[case::podv_6_number_too_large(json!({"containerPort": 65536}), &["ports[0].containerPort"])]
#[case::podv_6_host_port(json!({"containerPort": 1, "hostPort": -1}), &["ports[0].hostPort"])]
#[case::podv_6_protocol(json!({"containerPort": 1, "protocol": "tcp"}), &["ports[0].protocol"])]
#[case::podv_6_name(json!({"containerPort": 1, "name": "a--b"}), &["ports[0].name"])]
fn wrong_port(#[case] port: Value, #[case] expected: &[&str]) {
    refuses_container(json!({"ports": [port]}), expected);
}

#[test]
fn podv_6_port_names_are_unique_in_a_container() {
    let ports = json!([{"containerPort": 1, "name": "http"}, {"containerPort": 2, "name": "http"}]);
    refuses_container(json!({"ports": ports}), &["ports[1].name"]);
}

#[rstest]
#[case::podv_7_no_name(json!({"name": ""}), &["name"])]
#[case::podv_7_name(json!({"name": "1A"}), &["name"])]
#[case::podv_7_no_source(json!({"valueFrom": {}}), &["valueFrom"])]
#[case::podv_7_value_beside_a_source(
    json!({"value": "x", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}),
    &["valueFrom"],
)]
#[case::podv_7_two_sources(
    json!({"valueFrom": {"configMapKeyRef": {"name": "a", "key": "b"}, "secretKeyRef": {"name": "a", "key": "b"}}}),
    &["valueFrom"],
)]
#[case::podv_7_path(json!({"valueFrom": {"fieldRef": {"fieldPath": "spec.x"}}}), &["valueFrom.fieldRef.fieldPath"])]
#[case::podv_7_path_of_all_labels(
    json!({"valueFrom": {"fieldRef": {"fieldPath": "metadata.labels"}}}),
    &["valueFrom.fieldRef.fieldPath"],
)]
#[case::podv_7_path_key(
    json!({"valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['-']"}}}),
    &["valueFrom.fieldRef.fieldPath"],
)]
#[case::podv_7_api_version(
    json!({"valueFrom": {"fieldRef": {"apiVersion": "v2", "fieldPath": "metadata.name"}}}),
    &["valueFrom.fieldRef.apiVersion"],
)]
#[case::podv_7_resource(
    json!({"valueFrom": {"resourceFieldRef": {"resource": "cpu"}}}),
    &["valueFrom.resourceFieldRef.resource"],
)]
#[case::podv_7_key(
    json!({"valueFrom": {"secretKeyRef": {"name": "", "key": "a/b"}}}),
    &["valueFrom.secretKeyRef.name", "valueFrom.secretKeyRef.key"],
)]
fn wrong_env(#[case] env: Value, #[case] expected: &[&str]) {
    let env = merged(json!({"name": "A"}), env);
    refuses_below("spec.containers[0].env[0]", container(json!({"env": [env]})), expected);
}

#[rstest]
#[case::label(json!({"fieldRef": {"fieldPath": "metadata.labels['a.b/c']"}}))]
#[case::annotation_in_any_case(json!({"fieldRef": {"fieldPath": "metadata.annotations['A.b/C']"}}))]
#[case::host_ips(json!({"fieldRef": {"fieldPath": "status.hostIPs"}}))]
#[case::node_by_its_first_name(json!({"fieldRef": {"fieldPath": "spec.host"}}))]
#[case::huge_pages(json!({"resourceFieldRef": {"resource": "limits.hugepages-2Mi"}}))]
#[case::source_of_the_future(json!({"fileKeyRef": {"path": "a"}}))]
fn right_env(#[case] from: Value) {
    accepts(container(json!({"env": [{"name": "A", "valueFrom": from}]})));
}

#[rstest]
#[case::no_source(json!({}), &["envFrom[0]"])]
#[case::two_sources(json!({"secretRef": {"name": "a"}, "configMapRef": {"name": "a"}}), &["envFrom[0]"])]
#[case::no_name(json!({"secretRef": {}}), &["envFrom[0].secretRef.name"])]
#[case::prefix(json!({"prefix": "1", "secretRef": {"name": "a"}}), &["envFrom[0].prefix"])]
fn wrong_env_from(#[case] source: Value, #[case] expected: &[&str]) {
    refuses_container(json!({"envFrom": [source]}), expected);
}

#[rstest]
#[case::ssd_8_no_field(json!({}), &["fieldRef"])]
#[case::ssv_27_api_version(
    json!({"fieldRef": {"apiVersion": "v2", "fieldPath": "metadata.labels['a']"}}),
    &["fieldRef.apiVersion"],
)]
#[case::ssv_27_no_path(json!({"fieldRef": {}}), &["fieldRef.fieldPath"])]
#[case::ssv_27_name_of_the_pod(json!({"fieldRef": {"fieldPath": "metadata.name"}}), &["fieldRef.fieldPath"])]
#[case::ssv_27_key(json!({"fieldRef": {"fieldPath": "metadata.labels['a b']"}}), &["fieldRef.fieldPath"])]
#[case::ssv_27_label(json!({"fieldRef": {"fieldPath": "metadata.labels['a']"}}), &[])]
#[case::ssv_27_annotation_in_any_case(json!({"fieldRef": {"fieldPath": "metadata.annotations['X.y/A']"}}), &[])]
fn transfer_env(#[case] from: Value, #[case] expected: &[&str]) {
    let change = container(json!({"transferEnv": [{"envName": "A", "sourceContainerNameFrom": from}]}));
    refuses_below("spec.containers[0].transferEnv[0].sourceContainerNameFrom", change, expected);
}

#[test]
fn ssd_8_counts_for_init_containers_too() {
    let change = json!({"transferEnv": [{"envName": "A", "sourceContainerNameFrom": {}}]});
    refuses(init(change), &["spec.initContainers[0].transferEnv[0].sourceContainerNameFrom.fieldRef"]);
}

// === volumes, mounts, devices ===

#[rstest]
#[case::podv_9_volume_of_nobody(json!({}), mount(json!({"name": "other"})), &["volumeMounts[0].name"])]
#[case::podv_9_no_path(json!({}), mount(json!({"mountPath": ""})), &["volumeMounts[0].mountPath"])]
#[case::podv_9_path_twice(
    json!({}),
    json!({"volumeMounts": [{"name": "data", "mountPath": "/a"}, {"name": "data", "mountPath": "/a"}]}),
    &["volumeMounts[1].mountPath"],
)]
#[case::podv_9_sub_path_from_the_root(json!({}), mount(json!({"subPath": "/a"})), &["volumeMounts[0].subPath"])]
#[case::podv_9_sub_path_upwards(json!({}), mount(json!({"subPathExpr": "../a"})), &["volumeMounts[0].subPathExpr"])]
#[case::podv_9_two_sub_paths(
    json!({}),
    mount(json!({"subPath": "a", "subPathExpr": "b"})),
    &["volumeMounts[0].subPathExpr"],
)]
#[case::podv_9_propagation(json!({}), mount(json!({"mountPropagation": "Both"})), &["volumeMounts[0].mountPropagation"])]
#[case::podv_9_bidirectional(
    json!({}),
    mount(json!({"mountPropagation": "Bidirectional"})),
    &["volumeMounts[0].mountPropagation"],
)]
#[case::podv_9_recursive_read_only(
    json!({}),
    mount(json!({"recursiveReadOnly": "Enabled", "mountPropagation": "HostToContainer"})),
    &["volumeMounts[0].recursiveReadOnly", "volumeMounts[0].recursiveReadOnly"],
)]
#[case::podv_9_device_of_a_directory(json!({}), device(json!({})), &["volumeDevices[0].name"])]
#[case::podv_9_device_path_upwards(claim(), device(json!({"devicePath": "/dev/.."})), &["volumeDevices[0].devicePath"])]
#[case::podv_9_device_volume_twice(
    claim(),
    json!({"volumeDevices": [{"name": "data", "devicePath": "/a"}, {"name": "data", "devicePath": "/b"}]}),
    &["volumeDevices[1].name"],
)]
#[case::podv_9_device_that_is_mounted(
    claim(),
    merged(device(json!({})), mount(json!({}))),
    &["volumeDevices[0].name"],
)]
fn wrong_mount(#[case] volume: Value, #[case] change: Value, #[case] expected: &[&str]) {
    refuses_below("spec.containers[0]", with_volume(volume, change), expected);
}

#[test]
fn podv_9_a_mount_and_a_device_need_two_paths() {
    let volumes = json!([{"name": "a", "persistentVolumeClaim": {"claimName": "a"}}, {"name": "b"}]);
    let mount = json!([{"name": "b", "mountPath": "/x"}]);
    let change = plain(json!({"volumeDevices": [{"name": "a", "devicePath": "/x"}], "volumeMounts": mount}));
    refuses(
        spec(json!({"volumes": volumes, "containers": [change]})),
        &["spec.containers[0].volumeMounts[0].mountPath"],
    );
}

#[rstest]
#[case::twice_at_two_paths(
    json!({}),
    json!({"volumeMounts": [{"name": "data", "mountPath": "/a"}, {"name": "data", "mountPath": "/b"}]})
)]
#[case::bidirectional_when_privileged(
    json!({}),
    merged(mount(json!({"mountPropagation": "Bidirectional"})), json!({"securityContext": {"privileged": true}}))
)]
#[case::device(claim(), device(json!({})))]
#[case::device_of_an_ephemeral_volume(json!({"ephemeral": {}}), device(json!({})))]
#[case::device_of_a_volume_of_the_future(json!({"hologram": {}}), device(json!({})))]
fn right_mount(#[case] volume: Value, #[case] change: Value) {
    accepts(with_volume(volume, change));
}

#[rstest]
#[case::podv_8_no_name(json!([{"name": ""}]), &["spec.volumes[0].name"])]
#[case::podv_8_name(json!([{"name": "a.b"}]), &["spec.volumes[0].name"])]
#[case::podv_8_name_twice(json!([{"name": "a"}, {"name": "a"}]), &["spec.volumes[1].name"])]
#[case::podv_8_two_sources(json!([{"name": "a", "emptyDir": {}, "nfs": {}}]), &["spec.volumes[0]"])]
#[case::podv_8_host_path(
    json!([{"name": "a", "hostPath": {"path": "/a/../b", "type": "Pipe"}}]),
    &["spec.volumes[0].hostPath.path", "spec.volumes[0].hostPath.type"],
)]
#[case::podv_8_secret(
    json!([{"name": "a", "secret": {"defaultMode": 512, "items": [{"key": "", "path": "..a"}]}}]),
    &[
        "spec.volumes[0].secret.secretName",
        "spec.volumes[0].secret.defaultMode",
        "spec.volumes[0].secret.items[0].key",
        "spec.volumes[0].secret.items[0].path",
    ],
)]
#[case::podv_8_config_map(json!([{"name": "a", "configMap": {}}]), &["spec.volumes[0].configMap.name"])]
#[case::podv_8_claim(
    json!([{"name": "a", "persistentVolumeClaim": {}}]),
    &["spec.volumes[0].persistentVolumeClaim.claimName"],
)]
#[case::podv_8_image_without_pull_policy(
    json!([{"name": "a", "image": {"reference": "a:1"}}]),
    &["spec.volumes[0].image.pullPolicy"],
)]
#[case::podv_8_downward_file(
    json!([{"name": "a", "downwardAPI": {"items": [
        {"path": "a"},
        {"path": "b", "fieldRef": {"fieldPath": "spec.nodeName"}},
        {"path": "c", "resourceFieldRef": {"resource": "limits.cpu"}},
    ]}}]),
    &[
        "spec.volumes[0].downwardAPI.items[0]",
        "spec.volumes[0].downwardAPI.items[1].fieldRef.fieldPath",
        "spec.volumes[0].downwardAPI.items[2].resourceFieldRef.containerName",
    ],
)]
#[case::podv_8_projected(
    json!([{"name": "a", "projected": {"sources": [
        {"secret": {"items": [{"key": "k", "path": "p"}]}, "serviceAccountToken": {"path": "t", "expirationSeconds": 1}},
        {"configMap": {"name": "c", "items": [{"key": "k", "path": "p"}]}},
    ]}}]),
    &[
        "spec.volumes[0].projected.sources[0].secret.name",
        "spec.volumes[0].projected.sources[0].serviceAccountToken.expirationSeconds",
        "spec.volumes[0].projected.sources[0]",
        "spec.volumes[0].projected.sources[1].configMap.items[0].path",
    ],
)]
fn wrong_volume(#[case] volumes: Value, #[case] expected: &[&str]) {
    refuses(spec(json!({"volumes": volumes})), expected);
}

#[rstest]
#[case::no_source_is_a_directory(json!({}))]
#[case::source_of_the_future(json!({"hologram": {}}))]
#[case::driver(json!({"csi": {"driver": "d"}}))]
#[case::all_labels(json!({"downwardAPI": {"items": [{"path": "a", "fieldRef": {"fieldPath": "metadata.labels"}}]}}))]
#[case::token(json!({"projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}))]
#[case::projection_of_the_future(json!({"projected": {"sources": [{"podCertificate": {"keyType": "ED25519"}}]}}))]
fn right_volume(#[case] volume: Value) {
    accepts(spec(json!({"volumes": [merged(json!({"name": "a"}), volume)]})));
}

// === probes ===

#[rstest]
#[case::podv_5_no_handler(json!({"livenessProbe": {}}), &["livenessProbe"])]
#[case::podv_5_two_handlers(
    json!({"livenessProbe": {"exec": {"command": ["a"]}, "tcpSocket": {"port": 1}}}),
    &["livenessProbe"],
)]
#[case::podv_5_no_command(json!({"livenessProbe": {"exec": {}}}), &["livenessProbe.exec.command"])]
#[case::podv_5_negative(
    json!({"readinessProbe": {"tcpSocket": {"port": 1}, "periodSeconds": -1}}),
    &["readinessProbe.periodSeconds"],
)]
#[case::podv_5_threshold(
    json!({"livenessProbe": {"tcpSocket": {"port": 1}, "successThreshold": 2}}),
    &["livenessProbe.successThreshold"],
)]
#[case::podv_5_grace(
    json!({"readinessProbe": {"tcpSocket": {"port": 1}, "terminationGracePeriodSeconds": 1}}),
    &["readinessProbe.terminationGracePeriodSeconds"],
)]
#[case::podv_5_no_grace(
    json!({"startupProbe": {"tcpSocket": {"port": 1}, "terminationGracePeriodSeconds": 0}}),
    &["startupProbe.terminationGracePeriodSeconds"],
)]
#[case::podv_5_http(
    json!({"livenessProbe": {"httpGet": {"port": 0, "scheme": "http", "httpHeaders": [{"name": "a b", "value": ""}]}}}),
    &["livenessProbe.httpGet.port", "livenessProbe.httpGet.scheme", "livenessProbe.httpGet.httpHeaders[0].name"],
)]
#[case::podv_5_port_name(json!({"livenessProbe": {"tcpSocket": {"port": "80"}}}), &["livenessProbe.tcpSocket.port"])]
#[case::podv_5_grpc_port(json!({"livenessProbe": {"grpc": {"port": 0}}}), &["livenessProbe.grpc.port"])]
#[case::podv_5_long_sleep(
    json!({"lifecycle": {"preStop": {"sleep": {"seconds": 31}}}}),
    &["lifecycle.preStop.sleep.seconds"],
)]
#[case::podv_5_no_sleep(
    json!({"lifecycle": {"preStop": {"sleep": {"seconds": 0}}}}),
    &["lifecycle.preStop.sleep.seconds"],
)]
#[case::podv_5_empty_hook(json!({"lifecycle": {"postStart": {}}}), &["lifecycle.postStart"])]
fn wrong_probe(#[case] change: Value, #[case] expected: &[&str]) {
    refuses_container(change, expected);
}

#[rstest]
#[case::defaults_are_filled_in(json!({"startupProbe": {"httpGet": {"port": "http"}}}))]
#[case::readiness_after_several(json!({"readinessProbe": {"grpc": {"port": 1}, "successThreshold": 3}}))]
#[case::handler_of_the_future(json!({"livenessProbe": {"telepathy": {}}}))]
#[case::hook_of_the_future(json!({"lifecycle": {"stopSignal": "SIGUSR1", "preStop": {"telepathy": {}}}}))]
fn right_probe(#[case] change: Value) {
    accepts(container(change));
}

// === resources, security ===

#[rstest]
#[case::podv_10_request_above_limit(
    json!({"limits": {"cpu": "1"}, "requests": {"cpu": "1001m"}}),
    &["resources.requests[cpu]"],
)]
#[case::podv_10_negative(json!({"limits": {"cpu": "-1"}}), &["resources.limits[cpu]"])]
#[case::podv_10_name(json!({"limits": {"disk": "1"}}), &["resources.limits[disk]"])]
#[case::podv_10_name_syntax(json!({"requests": {"a/b/c": "1"}}), &["resources.requests[a/b/c]", "resources.requests[a/b/c]"])]
#[case::podv_10_part_of_a_device(json!({"limits": {"x.y/gpu": "500m"}}), &["resources.limits[x.y/gpu]"])]
#[case::podv_10_device_without_limit(json!({"requests": {"x.y/gpu": "1"}}), &["resources.requests[x.y/gpu]"])]
#[case::podv_10_shared_huge_pages(
    json!({"limits": {"hugepages-2Mi": "4Mi"}, "requests": {"hugepages-2Mi": "2Mi"}}),
    &["resources.requests[hugepages-2Mi]"],
)]
#[case::podv_10_claims(json!({"claims": [{"name": "a"}]}), &["resources.claims[0].name"])]
fn wrong_resources(#[case] resources: Value, #[case] expected: &[&str]) {
    refuses_container(json!({"resources": resources}), expected);
}

#[rstest]
#[case::same_value_in_other_words(json!({"limits": {"memory": "1Gi"}, "requests": {"memory": "1024Mi"}}))]
#[case::request_alone(json!({"requests": {"cpu": "1", "ephemeral-storage": "1"}}))]
#[case::device(json!({"limits": {"x.y/gpu": "1"}, "requests": {"x.y/gpu": "1000m"}}))]
#[case::device_with_limit_alone(json!({"limits": {"x.y/gpu": "1"}}))]
fn right_resources(#[case] resources: Value) {
    accepts(container(json!({"resources": resources})));
}

#[rstest]
#[case::ssv_40_given_resources(
    json!({"resources": {"requests": {"cpu": "1"}}, "resourcesPolicy": {"targetContainersNameRegex": "("}}),
    &["resourcesPolicy"],
)]
#[case::ssv_40_regex(
    json!({"resourcesPolicy": {"targetContainersNameRegex": "(", "resourcesExpr": {"limits": {"cpu": "cpu"}}}}),
    &["resourcesPolicy.targetContainersNameRegex"],
)]
#[case::ssv_40_no_expressions(json!({"resourcesPolicy": {}}), &["resourcesPolicy.resourcesExpr"])]
#[case::ssv_41_syntax(
    json!({"resourcesPolicy": {"resourcesExpr": {"limits": {"cpu": "cpu +"}, "requests": {"memory": "(2"}}}}),
    &["resourcesPolicy.resourcesExpr.limits.cpu", "resourcesPolicy.resourcesExpr.requests.memory"],
)]
#[case::expr_6_misspelt_number(
    json!({"resourcesPolicy": {"resourcesExpr": {"limits": {"cpu": "max(cpu, 50mi)"}}}}),
    &["resourcesPolicy.resourcesExpr.limits.cpu"],
)]
#[case::expr_13_variable_of_the_other_field(
    json!({"resourcesPolicy": {"resourcesExpr": {"limits": {"cpu": "memory"}}}}),
    &["resourcesPolicy.resourcesExpr.limits.cpu"],
)]
#[case::expr_13_types(
    json!({"resourcesPolicy": {"resourcesExpr": {"limits": {"cpu": "cpu * cpu"}, "requests": {"cpu": "1 / cpu"}}}}),
    &["resourcesPolicy.resourcesExpr.limits.cpu", "resourcesPolicy.resourcesExpr.requests.cpu"],
)]
fn wrong_resources_policy(#[case] change: Value, #[case] expected: &[&str]) {
    refuses_container(change, expected);
}

#[rstest]
#[case::expr_13_the_sign_is_not_judged("memory - 2Gi")]
#[case::expr_12_in_capitals("MEMORY * 2")]
fn right_expression(#[case] text: &str) {
    accepts(container(json!({"resourcesPolicy": {"resourcesExpr": {"limits": {"memory": text}}}})));
}

#[rstest]
#[case::podv_10_ids(json!({"runAsUser": -1, "runAsGroup": 2_147_483_648_i64}), &["runAsUser", "runAsGroup"])]
#[case::podv_10_proc_mount(json!({"procMount": "Masked"}), &["procMount"])]
#[case::podv_10_privileged_without_escalation(
    json!({"privileged": true, "allowPrivilegeEscalation": false}),
    &["allowPrivilegeEscalation"],
)]
#[case::podv_10_seccomp(
    json!({"seccompProfile": {"type": "Localhost"}, "appArmorProfile": {"type": "Unconfined", "localhostProfile": "a"}}),
    &["seccompProfile.localhostProfile", "appArmorProfile.localhostProfile"],
)]
#[case::podv_10_seccomp_path(
    json!({"seccompProfile": {"type": "Localhost", "localhostProfile": "/a"}}),
    &["seccompProfile.localhostProfile"],
)]
fn wrong_security_context(#[case] context: Value, #[case] expected: &[&str]) {
    refuses_below("spec.containers[0].securityContext", container(json!({"securityContext": context})), expected);
}

#[test]
fn podv_10_privileged_is_allowed() {
    accepts(container(json!({"securityContext": {"privileged": true, "capabilities": {"add": ["SYS_ADMIN"]}}})));
}
