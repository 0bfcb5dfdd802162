//! The real binary: what it prints, how it exits, and what standalone mode does when files change under it.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail the test")]

mod support;

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use rstest::rstest;
use serde_json::{Value, json};
use tempfile::TempDir;

/// No step of a test may take longer.
const PATIENCE: Duration = Duration::from_secs(10);

fn outrigger(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_outrigger"));
    command.args(arguments).env_remove("POD_NAMESPACE").env_remove("RUST_LOG").stdin(Stdio::null());
    command
}

struct Ran {
    code: i32,
    out: String,
    err: String,
}

impl Ran {
    fn of(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Self { code: output.status.code().unwrap(), out: text(output.stdout), err: text(output.stderr) }
    }
}

fn run(arguments: &[&str]) -> Ran {
    Ran::of(outrigger(arguments).output().unwrap())
}

fn run_with_input(arguments: &[&str], input: &str) -> Ran {
    let mut command = outrigger(arguments);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    Ran::of(child.wait_with_output().unwrap())
}

/// A directory of these files.
fn directory(files: &[(&str, &str)]) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    for (name, text) in files {
        std::fs::write(directory.path().join(name), text).unwrap();
    }
    directory
}

fn manifests(below: &str) -> String {
    format!("{}/manifests/{below}", env!("CARGO_MANIFEST_DIR"))
}

/// A set that puts `image` before the containers of pods labelled app=web; `more` are lines of its spec.
fn set(name: &str, image: &str, more: &str) -> String {
    format!(
        "apiVersion: apps.kruise.io/v1beta1\nkind: SidecarSet\nmetadata: {{name: {name}}}\nspec:\n  selector: {{matchLabels: \
         {{app: web}}}}\n  containers:\n  - {{name: {name}, image: {image}}}\n{more}"
    )
}

fn canary(name: &str, base: &str) -> String {
    let annotations = format!("{{apps.kruise.io/sidecarset-canary: \"true\", apps.kruise.io/sidecarset-base: {base}}}");
    set(name, "registry.example/proxy:4", "  updateStrategy: {type: NotUpdate}\n")
        .replace(&format!("{{name: {name}}}\nspec"), &format!("{{name: {name}, annotations: {annotations}}}\nspec"))
}

const POD: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: web-0, labels: {app: web}}\nspec:\n  containers:\n  - {name: app, image: registry.example/web:7}\n";

// === validate ===

fn validate(directory: &Path) -> Ran {
    run(&["validate", directory.to_str().unwrap()])
}

/// Every error is one line `file: object: field: reason`.
fn errors(ran: &Ran) -> Vec<[String; 4]> {
    let parse = |line: &str| {
        let parts: Vec<String> = line.splitn(4, ": ").map(str::to_owned).collect();
        parts.try_into().unwrap_or_else(|parts| panic!("{line:?} has {parts:?}"))
    };
    ran.out.lines().map(parse).collect()
}

#[test]
fn the_samples_are_in_order() {
    let ran = run(&["validate", &manifests("samples")]);
    assert_eq!((ran.code, ran.out.as_str(), ran.err.as_str()), (0, "", ""));
}

#[test]
fn an_empty_directory_is_in_order_and_a_missing_one_is_not() {
    assert_eq!(validate(directory(&[]).path()).code, 0);
    let ran = run(&["validate", "/nowhere/at/all"]);
    assert_eq!(ran.code, 1);
    assert!(ran.out.starts_with("/nowhere/at/all: ") && ran.out.lines().count() == 1, "{}", ran.out);
}

#[test]
fn every_error_is_a_line_with_file_object_field_and_reason() {
    let bad = "apiVersion: apps.kruise.io/v1beta1\nkind: SidecarSet\nmetadata: {name: bad}\nspec:\n  containers:\n  \
               - {name: UPPER, image: x, podInjectPolicy: Between}\n";
    let typed = "apiVersion: apps.kruise.io/v1beta1\nkind: SidecarSet\nmetadata: {name: typed}\nspec: {containers: [{name: 7}]}\n";
    let dir = directory(&[("a.yaml", &set("good", "x:1", "")), ("b.yaml", bad), ("c.yml", typed)]);
    let ran = validate(dir.path());
    assert_eq!(ran.code, 1);
    let errors = errors(&ran);
    let file = |name: &str| dir.path().join(name).display().to_string();
    for (name, object, field) in [
        ("b.yaml", "SidecarSet bad", "spec.selector"),
        ("b.yaml", "SidecarSet bad", "spec.containers[0].name"),
        ("b.yaml", "SidecarSet bad", "spec.containers[0].podInjectPolicy"),
        ("c.yml", "SidecarSet typed", "spec.containers[0].name"),
    ] {
        let found = errors.iter().find(|error| error[0] == file(name) && error[1] == object && error[2] == field);
        assert!(found.is_some_and(|error| !error[3].is_empty()), "{name} {object} {field} in {}", ran.out);
    }
    assert!(errors.iter().all(|error| error[0] != file("a.yaml")), "{}", ran.out);
}

#[test]
fn sets_are_judged_in_the_order_of_files_and_documents() {
    let base = set("proxy", "registry.example/proxy:3", "");
    let canary = canary("proxy-canary", "proxy");
    assert_eq!(validate(directory(&[("1.yaml", &base), ("2.yaml", &canary)]).path()).code, 0);
    assert_eq!(validate(directory(&[("1.yaml", &format!("{base}---\n{canary}"))]).path()).code, 0);
    for dir in [
        directory(&[("1.yaml", &canary), ("2.yaml", &base)]),
        directory(&[("1.yaml", &format!("{canary}---\n{base}"))]),
    ] {
        let ran = validate(dir.path());
        assert_eq!(ran.code, 1, "SSV-5: there is no base yet");
        assert!(errors(&ran).iter().all(|error| error[1] == "SidecarSet proxy-canary"), "{}", ran.out);
    }
}

#[test]
fn a_second_set_of_a_name_is_judged_as_an_update_ssu_1() {
    let first = set("proxy", "registry.example/proxy:3", "");
    let other_image = set("proxy", "registry.example/proxy:4", "");
    assert_eq!(validate(directory(&[("1.yaml", &first), ("2.yaml", &other_image)]).path()).code, 0);
    let with_another = set("proxy", "registry.example/proxy:4", "  - {name: second, image: x:1}\n");
    assert_eq!(validate(directory(&[("1.yaml", &with_another)]).path()).code, 0);
    let ran = validate(directory(&[("1.yaml", &first), ("2.yaml", &with_another)]).path());
    assert_eq!(ran.code, 1);
    let errors = errors(&ran);
    assert_eq!((errors.len(), errors[0][2].as_str()), (1, "spec.containers[1].name"), "{}", ran.out);
    assert!(errors[0][0].ends_with("2.yaml"));
}

#[test]
fn a_new_file_is_judged_against_those_before_it() {
    let (first, clash) = (set("proxy", "x:1", ""), set("other", "x:1", "").replace("- {name: other", "- {name: proxy"));
    let clash = serde_json::to_string(&serde_saphyr::from_str::<Value>(&clash).unwrap()).unwrap();
    let ran = validate(directory(&[("a.yaml", &first), ("new.json", &clash)]).path());
    assert_eq!(ran.code, 1, "SSC-2");
    let errors = errors(&ran);
    assert!(errors.iter().all(|error| error[0].ends_with("new.json") && error[1] == "SidecarSet other"), "{}", ran.out);
    assert_eq!(validate(directory(&[("new.json", &clash)]).path()).code, 0);
}

const WHITE_LIST: &str = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: kruise-configuration, namespace: kruise-system}\ndata:\n  \
                          SidecarSet_PatchPodMetadata_WhiteList: '{\"rules\": [{\"allowedAnnotationKeyExprs\": [\"^a/\"]}]}'\n";

#[test]
fn a_white_list_in_a_later_file_counts_ssv_30() {
    let patch = |key: &str| set("proxy", "x:1", &format!("  patchPodMetadata: [{{annotations: {{{key}: x}}}}]\n"));
    assert_eq!(validate(directory(&[("1.yaml", &patch("a/b")), ("2.yaml", WHITE_LIST)]).path()).code, 0);
    for dir in [
        directory(&[("1.yaml", &patch("a/b"))]),
        directory(&[("1.yaml", &patch("c/b")), ("2.yaml", WHITE_LIST)]),
        directory(&[("1.yaml", &patch("a/b")), ("2.yaml", &WHITE_LIST.replace("kruise-system", "default"))]),
    ] {
        let ran = validate(dir.path());
        assert_eq!(ran.code, 1);
        assert!(errors(&ran).iter().all(|error| error[2].starts_with("spec.patchPodMetadata")), "{}", ran.out);
    }
}

#[test]
fn the_operators_namespace_can_be_told() {
    let patching = set("proxy", "x:1", "  patchPodMetadata: [{annotations: {a/b: x}}]\n");
    let dir = directory(&[("1.yaml", &patching), ("2.yaml", &WHITE_LIST.replace("kruise-system", "ops"))]);
    let path = dir.path().to_str().unwrap();
    assert_eq!(run(&["validate", path]).code, 1);
    assert_eq!(run(&["validate", path, "--operator-namespace", "ops"]).code, 0);
    let by_env = outrigger(&["validate", path]).env("POD_NAMESPACE", "ops").output().unwrap();
    assert_eq!(Ran::of(by_env).code, 0);
}

/// A few lines that would unfold to a billion.
fn laughs() -> String {
    let mut text = "a0: &a0 [ha, ha]\n".to_owned();
    for level in 1..10 {
        let before = format!("*a{}, ", level - 1).repeat(10);
        writeln!(text, "a{level}: &a{level} [{before}]").unwrap();
    }
    text
}

#[rstest]
#[case::yaml("a.yaml", "spec: [1,\nb: }\n")]
#[case::json("a.json", "{\"kind\": ")]
#[case::tabs("a.yaml", "spec:\n\t- x: 1\n")]
#[case::not_utf_8("a.yaml", "\u{0}")]
#[case::a_list_at_the_top("a.yaml", "- kind: SidecarSet\n")]
#[case::a_text("a.yaml", "hello\n")]
#[case::misspelt_kind("a.yaml", "apiVersion: apps.kruise.io/v1beta1\nkind: Sidecarset\nmetadata: {name: x}\n")]
#[case::unserved_version("a.yaml", "apiVersion: apps.kruise.io/v2\nkind: SidecarSet\nmetadata: {name: x}\n")]
#[case::nested_deeply("a.json", &"[".repeat(100_000))]
#[case::laughs("a.yaml", &laughs())]
#[case::nested_yaml("a.yaml", &"[".repeat(100_000))]
fn a_file_that_makes_no_sense_is_one_line_and_the_others_are_read(#[case] name: &str, #[case] text: &str) {
    let dir = directory(&[(name, text), ("z.yaml", &set("UPPER", "x:1", ""))]);
    let ran = validate(dir.path());
    assert_eq!(ran.code, 1);
    let broken: Vec<&str> = ran.out.lines().filter(|line| line.contains(&format!("/{name}"))).collect();
    assert_eq!(broken.len(), 1, "{}", ran.out);
    assert!(ran.out.contains("/z.yaml: "), "the other file is judged too: {}", ran.out);
}

#[test]
fn kinds_of_no_use_are_warned_of_and_ignored() {
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: web}\n";
    let dir = directory(&[("a.yaml", &format!("{service}---\n{}", set("proxy", "x:1", ""))), ("notes.txt", "{")]);
    std::fs::write(dir.path().join(".hidden.yaml"), "{").unwrap();
    let ran = validate(dir.path());
    assert_eq!((ran.code, ran.out.as_str()), (0, ""));
    let warnings: Vec<&str> = ran.err.lines().collect();
    assert_eq!(warnings.len(), 1, "{}", ran.err);
    assert!(warnings[0].starts_with("warning: ") && warnings[0].contains("Service web"), "{}", ran.err);
}

#[rstest]
#[case::list("v1", "List")]
#[case::typed_list("apps.kruise.io/v1beta1", "SidecarSetList")]
fn the_items_of_a_list_are_judged_one_by_one(#[case] version: &str, #[case] kind: &str) {
    let item = |name: &str| serde_saphyr::from_str::<Value>(&set(name, "x:1", "")).unwrap();
    let list = |names: [&str; 2]| json!({"apiVersion": version, "kind": kind, "items": names.map(item)}).to_string();
    assert_eq!(validate(directory(&[("a.json", &list(["one", "two"]))]).path()).code, 0);
    let ran = validate(directory(&[("a.json", &list(["one", "T_wo"]))]).path());
    assert_eq!(ran.code, 1);
    assert!(errors(&ran).iter().all(|error| error[1] == "SidecarSet T_wo"), "{}", ran.out);
}

#[test]
fn a_reader_that_went_away_is_no_crash() {
    let dir = directory(&[("a.yaml", &set("UPPER", "x:1", ""))]);
    let mut child = outrigger(&["validate", dir.path().to_str().unwrap()])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let ran = Ran::of(child.wait_with_output().unwrap());
    assert!(!ran.err.contains("panicked"), "{}", ran.err);
}

// === inject ===

/// Injects `pod` with the sets of `directory`; `arguments` come on top.
fn inject(directory: &Path, pod: &str, arguments: &[&str]) -> Ran {
    let mut all = vec!["inject", "-f", "-", "--sidecarsets", directory.to_str().unwrap()];
    all.extend(arguments);
    run_with_input(&all, pod)
}

fn one_proxy() -> TempDir {
    directory(&[("proxy.yaml", &set("proxy", "registry.example/proxy:3", ""))])
}

fn container_names(pod: &Value) -> Vec<&str> {
    pod["spec"]["containers"].as_array().unwrap().iter().map(|container| container["name"].as_str().unwrap()).collect()
}

#[test]
fn yaml_json_and_patch_say_the_same() {
    let dir = one_proxy();
    let before: Value = serde_saphyr::from_str(POD).unwrap();
    let yaml = inject(dir.path(), POD, &[]);
    let json = inject(dir.path(), POD, &["-o", "json"]);
    let patch = inject(dir.path(), POD, &["-o", "patch"]);
    assert_eq!((yaml.code, json.code, patch.code), (0, 0, 0), "{}", yaml.err);
    let without_time = |mut pod: Value| {
        for key in ["kruise.io/sidecarset-hash", "kruise.io/sidecarset-hash-without-image"] {
            let mut record: Value =
                serde_json::from_str(pod["metadata"]["annotations"][key].as_str().unwrap()).unwrap();
            record["proxy"]["updateTimestamp"] = Value::Null;
            pod["metadata"]["annotations"][key] = record;
        }
        pod
    };
    let yaml = without_time(serde_saphyr::from_str(&yaml.out).unwrap());
    let json = without_time(serde_json::from_str(&json.out).unwrap());
    let mut patched = before;
    json_patch::patch(&mut patched, &serde_json::from_str::<json_patch::Patch>(&patch.out).unwrap()).unwrap();
    assert_eq!(container_names(&yaml), ["proxy", "app"]);
    assert_eq!((&yaml, &json), (&json, &without_time(patched)));
}

#[test]
fn a_pod_that_nothing_concerns_comes_out_as_it_went_in() {
    let pod = POD.replace("app: web", "app: other");
    let ran = inject(one_proxy().path(), &pod, &["-o", "json"]);
    let before: Value = serde_saphyr::from_str(&pod).unwrap();
    assert_eq!((ran.code, serde_json::from_str::<Value>(&ran.out).unwrap()), (0, before));
    assert_eq!(inject(one_proxy().path(), &pod, &["-o", "patch"]).out.trim(), "[]");
}

#[test]
fn several_documents_and_files_come_out_in_their_order() {
    let dir = one_proxy();
    let pods = directory(&[("a.yaml", &format!("{POD}---\n{}", POD.replace("web-0", "web-1"))), ("b.yaml", POD)]);
    let file = |name: &str| pods.path().join(name).display().to_string();
    let ran =
        run(&["inject", "-f", &file("a.yaml"), "-f", &file("b.yaml"), "--sidecarsets", dir.path().to_str().unwrap()]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    let out: Vec<Value> = serde_saphyr::from_multiple(&ran.out).unwrap();
    let names: Vec<&str> = out.iter().map(|pod| pod["metadata"]["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["web-0", "web-1", "web-0"]);
    assert!(out.iter().all(|pod| container_names(pod) == ["proxy", "app"]));
}

#[test]
fn json_on_standard_input_is_taken() {
    let pod: Value = serde_saphyr::from_str(POD).unwrap();
    let ran = inject(one_proxy().path(), &format!("\n  {pod}\n{pod}"), &["-o", "json"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    let pods = serde_json::Deserializer::from_str(&ran.out).into_iter::<Value>();
    assert_eq!(pods.filter(|pod| container_names(pod.as_ref().unwrap()) == ["proxy", "app"]).count(), 2);
}

#[rstest]
#[case::deployment("apps/v1", "Deployment", false)]
#[case::stateful_set("apps/v1", "StatefulSet", false)]
#[case::daemon_set("apps/v1", "DaemonSet", false)]
#[case::replica_set("apps/v1", "ReplicaSet", false)]
#[case::job("batch/v1", "Job", false)]
#[case::cron_job("batch/v1", "CronJob", true)]
#[case::clone_set("apps.kruise.io/v1beta1", "CloneSet", false)]
fn the_pod_of_a_workload_is_injected(#[case] version: &str, #[case] kind: &str, #[case] is_deeper: bool) {
    let pod: Value = serde_saphyr::from_str(POD).unwrap();
    let template = json!({"metadata": {"labels": {"app": "web"}}, "spec": pod["spec"]});
    let spec = json!({"template": template});
    let spec = if is_deeper { json!({"schedule": "0 * * * *", "jobTemplate": {"spec": spec}}) } else { spec };
    let workload = json!({"apiVersion": version, "kind": kind, "metadata": {"name": "web"}, "spec": spec});
    let ran = inject(one_proxy().path(), &workload.to_string(), &["-o", "json"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    let out: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!((&out["kind"], &out["metadata"]["generateName"]), (&json!("Pod"), &json!("web-")));
    assert_eq!(container_names(&out), ["proxy", "app"]);
    let gated = out["spec"]["readinessGates"][0]["conditionType"] == "KruisePodReady";
    assert_eq!(gated, version.starts_with("apps.kruise.io"), "RG-1");
}

#[test]
fn a_pod_is_judged_in_the_namespace_it_names_or_that_is_told() {
    let only = "  namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: shop}}\n";
    let dir = directory(&[
        ("a.yaml", &set("proxy", "x:1", only)),
        ("n.yaml", "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n"),
    ]);
    let injected = |pod: &str, arguments: &[&str]| inject(dir.path(), pod, arguments).out.contains("IS_INJECTED");
    assert!(!injected(POD, &[]), "MATCH-7");
    assert!(injected(POD, &["-n", "shop"]));
    let named = POD.replace("name: web-0", "name: web-0, namespace: shop");
    assert!(injected(&named, &[]) && injected(&named, &["-n", "bank"]), "POD-1: its own namespace counts");
}

const GREEDY: &str = "    resourcesPolicy: {targetContainersMode: sum, targetContainersNameRegex: ^nobody$, resourcesExpr: {limits: {cpu: cpu}}}\n";

#[rstest]
#[case::yaml("yaml")]
#[case::json("json")]
#[case::patch("patch")]
#[case::explain("explain")]
fn a_refused_pod_is_told_and_the_others_come_out(#[case] output: &str) {
    let greedy =
        set("greedy", "x:1", "").replace("- {name: greedy, image: x:1}", "- name: greedy\n    image: x:1") + GREEDY;
    let dir =
        directory(&[("a.yaml", &greedy.replace("app: web", "app: greedy")), ("b.yaml", &set("proxy", "x:1", ""))]);
    let pods = format!("{}---\n{POD}", POD.replace("app: web", "app: greedy").replace("web-0", "bad"));
    let ran = inject(dir.path(), &pods, &["-o", output]);
    assert_eq!(ran.code, 1);
    let told = if output == "explain" { &ran.out } else { &ran.err };
    assert!(told.contains("Pod bad") && told.to_lowercase().contains("refused") && told.contains("^nobody$"), "{told}");
    assert!(ran.out.contains("proxy"), "the other pod comes out: {}", ran.out);
}

#[test]
fn without_a_pod_there_is_nothing_to_do() {
    for input in ["", "---\n", "apiVersion: v1\nkind: Service\nmetadata: {name: web}\n"] {
        let ran = inject(one_proxy().path(), input, &[]);
        assert_eq!((ran.code, ran.out.as_str()), (1, ""), "{input:?}");
        assert!(ran.err.contains("no pod"), "{}", ran.err);
    }
    let mixed = inject(one_proxy().path(), &format!("apiVersion: v1\nkind: Service\n---\n{POD}"), &[]);
    assert_eq!(mixed.code, 0, "{}", mixed.err);
    assert!(mixed.err.contains("skipped"));
}

#[test]
fn bad_sets_and_bad_pods_are_told_and_fail() {
    let bad = directory(&[("a.yaml", &set("UPPER", "x:1", ""))]);
    let ran = inject(bad.path(), POD, &[]);
    assert_eq!((ran.code, ran.out.as_str()), (1, ""));
    assert!(ran.err.contains("SidecarSet UPPER: "), "{}", ran.err);
    let labels = "apiVersion: v1\nkind: Pod\nmetadata: {name: x, labels: [1]}\n";
    let containers = "apiVersion: v1\nkind: Pod\nmetadata: {name: x, labels: {app: web}}\nspec: {containers: 7}\n";
    for pod in ["a: [", labels, containers] {
        let ran = inject(one_proxy().path(), pod, &[]);
        assert_eq!((ran.code, ran.out.as_str()), (1, ""), "{pod}");
        assert!(!ran.err.is_empty() && !ran.err.contains("panicked"), "{}", ran.err);
    }
    let missing = run(&["inject", "-f", "/nowhere.yaml", "--sidecarsets", bad.path().to_str().unwrap()]);
    assert_eq!(missing.code, 1);
}

#[test]
fn members_of_the_future_stay_with_their_container_rsp_6() {
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "fromTheFuture": 1,
        "metadata": {"name": "web-0", "labels": {"app": "web"}, "fromTheFuture": 2},
        "spec": {
            "fromTheFuture": {"a": [1, null]},
            "containers": [{"name": "app", "fromTheFuture": {"whose": "app"}}, {"name": "b", "fromTheFuture": {"whose": "b"}}],
        },
    });
    let dir = directory(&[(
        "a.yaml",
        &set("proxy", "x:1", "    podInjectPolicy: BeforeAppContainer\n")
            .replace("- {name: proxy, image: x:1}", "- name: proxy\n    image: x:1\n    itsOwnFuture: true"),
    )]);
    let ran = inject(dir.path(), &pod.to_string(), &["-o", "json"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    let out: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(container_names(&out), ["proxy", "app", "b"]);
    assert_eq!(out["spec"]["containers"][1], pod["spec"]["containers"][0]);
    assert_eq!(out["spec"]["containers"][2], pod["spec"]["containers"][1]);
    assert_eq!((&out["spec"]["fromTheFuture"], &out["fromTheFuture"]), (&pod["spec"]["fromTheFuture"], &json!(1)));
    assert_eq!(out["metadata"]["fromTheFuture"], 2);
    assert_eq!(out["spec"]["containers"][0]["itsOwnFuture"], true);
    assert_eq!(out["spec"]["containers"][0]["fromTheFuture"], Value::Null);
}

// === explain ===

#[test]
fn the_sample_pod_answers_why_each_set_does_not_apply() {
    let explain = |arguments: &[&str]| {
        let (pod, sets) = (manifests("pods/web.yaml"), manifests("samples"));
        let mut all = vec!["inject", "-f", &pod, "--sidecarsets", &sets, "-o", "explain"];
        all.extend(arguments);
        let ran = run(&all);
        assert_eq!((ran.code, ran.err.as_str()), (0, ""));
        ran.out
    };
    let verdict = |text: &str, set: &str| -> String {
        let line =
            text.lines().find_map(|line| line.trim().strip_prefix("SidecarSet ")?.strip_prefix(&format!("{set} ")));
        line.unwrap_or_else(|| panic!("{set} has no verdict in {text}")).trim().to_owned()
    };
    let text = explain(&[]);
    for (set, words) in [
        ("proxy", vec!["applies"]),
        ("logs", vec!["applies"]),
        ("metrics-canary", vec!["applies"]),
        ("metrics", vec!["does not apply", "canary", "metrics-canary"]),
        ("mesh", vec!["does not apply", "labels", "spec.selector", "mesh"]),
        ("secrets", vec!["does not apply", "spec.selector", "agent"]),
        ("profiler", vec!["does not apply", "paused"]),
        ("tracing", vec!["does not apply", "spec.namespaceSelector", "shop"]),
    ] {
        let verdict = verdict(&text, set);
        assert!(words.iter().all(|word| verdict.contains(word)), "{set}: {verdict}");
    }
    assert!(text.starts_with("Pod web-0 in namespace default\n"), "{text}");
    for part in
        ["env REGION of shipper: transferEnv, from container app", "mount /data of shipper: shared by container app"]
    {
        assert!(text.contains(part), "{part} in {text}");
    }
    assert_eq!(verdict(&explain(&["-n", "shop"]), "tracing"), "applies");
    let unknown = explain(&["-n", "elsewhere"]);
    assert!(unknown.contains("nothing is known") && verdict(&unknown, "tracing").contains("not known"), "{unknown}");
}

// === manager --standalone ===

/// A running manager. Its standard output and log are read as lines.
struct Manager {
    child: Child,
    out: Receiver<String>,
    log: Receiver<String>,
    certs: PathBuf,
    _home: TempDir,
}

fn lines(stream: impl std::io::Read + Send + 'static) -> Receiver<String> {
    let (send, lines) = channel();
    std::thread::spawn(move || {
        BufReader::new(stream).lines().map_while(Result::ok).try_for_each(|line| send.send(line))
    });
    lines
}

/// Waits for a line that `is_it`.
fn line(lines: &Receiver<String>, what: &str, is_it: impl Fn(&str) -> bool) -> String {
    let end = Instant::now() + PATIENCE;
    let mut seen = Vec::new();
    loop {
        match lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
            Ok(line) if is_it(&line) => return line,
            Ok(line) => seen.push(line),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                panic!("no line with {what}; there were {seen:#?}")
            }
        }
    }
}

impl Manager {
    fn start(manifests: &Path, example: Option<&Path>) -> Self {
        let home = tempfile::tempdir().unwrap();
        let certs = home.path().join("made").join("certs");
        let mut command = outrigger(&["manager", "--port", "0"]);
        command.arg("--standalone").arg(manifests).arg("--cert-dir").arg(&certs);
        if let Some(example) = example {
            command.arg("--example").arg(example);
        }
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (out, log) = (lines(child.stdout.take().unwrap()), lines(child.stderr.take().unwrap()));
        Self { child, out, log, certs, _home: home }
    }

    /// Where it listens, as it prints it.
    fn address(&self) -> String {
        let line = line(&self.out, "listening on", |line| line.starts_with("listening on https://"));
        line.split(' ').nth(2).unwrap().to_owned()
    }

    /// What the server answers to a pod labelled app=web.
    fn admit(&self, address: &str) -> Value {
        let pod: Value = serde_saphyr::from_str(POD).unwrap();
        let request = json!({"uid": "u", "operation": "CREATE", "namespace": "shop", "object": pod});
        let review = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request});
        let mut curl = Command::new("curl");
        curl.args([
            "-sS",
            "--max-time",
            "5",
            "-H",
            "content-type: application/json",
            "--data-binary",
            "@-",
            "--cacert",
        ]);
        let mut curl = curl
            .arg(self.certs.join("ca.crt"))
            .arg(format!("{address}/mutate-pod"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("curl is installed");
        curl.stdin.take().unwrap().write_all(review.to_string().as_bytes()).unwrap();
        let answer: Value = serde_json::from_slice(&curl.wait_with_output().unwrap().stdout).expect("an answer");
        support::review::apply(&pod, &answer["response"])
    }

    fn terminate(mut self) -> (i32, Vec<String>) {
        let killed = Command::new("kill").arg("-TERM").arg(self.child.id().to_string()).status().unwrap();
        assert!(killed.success());
        let end = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < end, "SIGTERM does not end it");
            pause();
        };
        (status.code().expect("an exit, not a signal"), self.log.iter().collect())
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[expect(clippy::disallowed_methods, reason = "between two looks at another process")]
fn pause() {
    std::thread::sleep(Duration::from_millis(10));
}

#[test]
fn the_curl_that_is_printed_works_as_it_is_printed() {
    let manager = Manager::start(Path::new(&manifests("samples")), Some(Path::new(&manifests("reviews/web.json"))));
    manager.address();
    let curl = |which: &str| line(&manager.out, which, |line| line.trim_start().starts_with("curl"));
    for (command, is_clear) in [(curl("the first curl"), false), (curl("the second curl"), true)] {
        let ran = Ran::of(Command::new("sh").args(["-c", &command]).output().unwrap());
        assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{command}");
        let out: Value = serde_json::from_str(&ran.out).unwrap();
        if is_clear {
            let paths = out.as_array().unwrap().iter().map(|operation| operation["path"].as_str().unwrap());
            assert!(paths.into_iter().any(|path| path.starts_with("/spec/containers")), "{out}");
        } else {
            assert_eq!(
                (&out["response"]["allowed"], &out["response"]["patchType"]),
                (&json!(true), &json!("JSONPatch"))
            );
        }
    }
}

#[test]
fn certificates_are_made_when_missing_and_keys_are_for_the_owner_only() {
    let dir = one_proxy();
    let manager = Manager::start(dir.path(), None);
    let address = manager.address();
    for name in ["ca.key", "tls.key"] {
        let mode = std::fs::metadata(manager.certs.join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    assert_eq!(container_names(&manager.admit(&address)), ["proxy", "app"]);
    // Those that are there are kept.
    let before = std::fs::read(manager.certs.join("tls.crt")).unwrap();
    let mut second = outrigger(&["manager", "--port", "0"]);
    second.arg("--standalone").arg(dir.path()).arg("--cert-dir").arg(&manager.certs);
    let mut second = second.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let out = lines(second.stdout.take().unwrap());
    line(&out, "listening on", |line| line.starts_with("listening on"));
    second.kill().unwrap();
    second.wait().unwrap();
    assert_eq!(std::fs::read(manager.certs.join("tls.crt")).unwrap(), before);
}

#[test]
fn a_bad_manifest_at_the_start_is_told_with_all_others_and_nothing_is_served() {
    let dir = directory(&[("a.yaml", &set("UPPER", "x:1", "")), ("b.yaml", "a: ["), ("c.yaml", &canary("c", "none"))]);
    let mut manager = Manager::start(dir.path(), None);
    let status = manager.child.wait().unwrap();
    let told: Vec<String> = manager.log.iter().collect();
    assert_eq!(status.code(), Some(1));
    for file in ["/a.yaml: ", "/b.yaml: ", "/c.yaml: "] {
        assert!(told.iter().any(|line| line.contains(file)), "{file} in {told:#?}");
    }
    assert_eq!(manager.out.iter().count(), 0, "nothing was announced");
    assert!(!manager.certs.exists(), "nothing was made");
}

#[test]
fn a_port_that_is_taken_is_an_error_at_the_start() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let (dir, certs) = (one_proxy(), tempfile::tempdir().unwrap());
    let mut command = outrigger(&["manager", "--port", &port, "--standalone"]);
    let ran = Ran::of(command.arg(dir.path()).arg("--cert-dir").arg(certs.path()).output().unwrap());
    assert_eq!((ran.code, ran.out.as_str()), (1, ""));
    assert!(ran.err.contains(&format!("127.0.0.1:{port}")), "{}", ran.err);
}

#[test]
fn a_changed_manifest_is_taken_within_a_second() {
    let dir = one_proxy();
    let manager = Manager::start(dir.path(), None);
    let address = manager.address();
    let image = |pod: &Value| pod["spec"]["containers"][0]["image"].as_str().unwrap().to_owned();
    assert_eq!(image(&manager.admit(&address)), "registry.example/proxy:3");
    let by_writing = |text: &str| std::fs::write(dir.path().join("proxy.yaml"), text).unwrap();
    let by_renaming = |text: &str| {
        std::fs::write(dir.path().join(".next"), text).unwrap();
        std::fs::rename(dir.path().join(".next"), dir.path().join("proxy.yaml")).unwrap();
    };
    let ways: [&dyn Fn(&str); 2] = [&by_writing, &by_renaming];
    for (turn, change) in ways.iter().enumerate() {
        let wanted = format!("registry.example/proxy:{}", turn + 4);
        change(&set("proxy", &wanted, ""));
        let changed = Instant::now();
        while image(&manager.admit(&address)) != wanted {
            assert!(changed.elapsed() < Duration::from_secs(1), "not taken after {:?}", changed.elapsed());
            pause();
        }
    }
    // A set that is gone injects nothing any more, and a file beside it may be new.
    std::fs::remove_file(dir.path().join("proxy.yaml")).unwrap();
    std::fs::write(
        dir.path().join("new.json"),
        serde_saphyr::from_str::<Value>(&set("other", "x:1", "")).unwrap().to_string(),
    )
    .unwrap();
    let changed = Instant::now();
    while container_names(&manager.admit(&address)) != ["other", "app"] {
        assert!(changed.elapsed() < Duration::from_secs(1), "not taken after {:?}", changed.elapsed());
        pause();
    }
}

#[test]
fn a_mounted_config_map_that_changes_is_taken() {
    let dir = tempfile::tempdir().unwrap();
    let mount = |name: &str, text: &str| {
        std::fs::create_dir(dir.path().join(name)).unwrap();
        std::fs::write(dir.path().join(name).join("proxy.yaml"), text).unwrap();
        std::os::unix::fs::symlink(name, dir.path().join("..next")).unwrap();
        std::fs::rename(dir.path().join("..next"), dir.path().join("..data")).unwrap();
    };
    mount("..1", &set("proxy", "registry.example/proxy:3", ""));
    std::os::unix::fs::symlink("..data/proxy.yaml", dir.path().join("proxy.yaml")).unwrap();
    let manager = Manager::start(dir.path(), None);
    let address = manager.address();
    assert_eq!(container_names(&manager.admit(&address)), ["proxy", "app"]);
    mount("..2", &set("other", "registry.example/other:3", ""));
    line(&manager.log, "that the change was taken", |line| line.contains("were taken"));
    assert_eq!(container_names(&manager.admit(&address)), ["other", "app"]);
}

#[test]
fn a_bad_change_keeps_the_last_good_state_and_is_logged() {
    let dir = one_proxy();
    let manager = Manager::start(dir.path(), None);
    let address = manager.address();
    for bad in ["a: [", &set("UPPER", "x:1", "")] {
        std::fs::write(dir.path().join("z.yaml"), bad).unwrap();
        line(&manager.log, "the file that is not in order", |line| line.contains("z.yaml") && line.contains("ERROR"));
        line(&manager.log, "that the last good state stays", |line| line.contains("last good state stays"));
        assert_eq!(container_names(&manager.admit(&address)), ["proxy", "app"]);
    }
    std::fs::write(dir.path().join("z.yaml"), set("other", "x:1", "")).unwrap();
    line(&manager.log, "that the repaired state was taken", |line| line.contains("were taken"));
    assert_eq!(container_names(&manager.admit(&address)), ["other", "proxy", "app"], "MATCH-8");
}

#[test]
fn sigterm_ends_it_in_order() {
    let dir = one_proxy();
    let manager = Manager::start(dir.path(), None);
    let address = manager.address();
    manager.admit(&address);
    let began = Instant::now();
    let (code, log) = manager.terminate();
    assert_eq!(code, 0);
    assert!(began.elapsed() < Duration::from_secs(5));
    assert!(
        log.iter().any(|line| line.contains("SIGTERM")) && log.iter().any(|line| line.contains("stopped")),
        "{log:#?}"
    );
    assert!(log.iter().all(|line| !line.contains("ERROR")), "{log:#?}");
}

// === the command line itself ===

#[test]
fn help_and_version_are_told_and_mistakes_are_not_run() {
    let help = run(&["--help"]);
    assert_eq!(help.code, 0);
    for command in ["manager", "validate", "inject"] {
        assert!(help.out.contains(command));
        assert_eq!(run(&[command, "--help"]).code, 0);
    }
    assert!(run(&["--version"]).out.contains(env!("CARGO_PKG_VERSION")));
    for mistake in [
        &["nothing"][..],
        &["validate"],
        &["inject", "-f", "-"],
        &["inject", "-f", "-", "--sidecarsets", "x", "-o", "xml"],
    ] {
        assert_eq!(run(mistake).code, 2, "{mistake:?}");
    }
}

#[test]
fn jobs_that_pull_images_are_judged_too() {
    let job = |name: &str, spec: &str| {
        format!(
            "apiVersion: apps.kruise.io/v1beta1\nkind: ImagePullJob\nmetadata: {{name: {name}}}\nspec: {spec}\n---\n"
        )
    };
    let list =
        "apiVersion: apps.kruise.io/v1alpha1\nkind: ImageListPullJob\nmetadata: {name: c}\nspec: {images: [a, a]}\n";
    let text = job("a", "{image: nginx, parallelism: 10%}")
        + &job("b", "{image: Nginx, pullPolicy: {timeoutSeconds: 0}}")
        + list;
    let files = directory(&[("jobs.yaml", &text), ("odd.yaml", "apiVersion: apps.kruise.io/v1\nkind: ImagePullJob\n")]);
    let ran = validate(files.path());
    assert_eq!(ran.code, 1);
    let lines: Vec<&str> = ran.out.lines().collect();
    assert_eq!(lines.len(), 3, "{}", ran.out);
    assert!(lines[0].contains("jobs.yaml: ImagePullJob b: spec.image: \"Nginx\" is not an image"), "{}", ran.out);
    assert!(
        lines[1].contains("jobs.yaml: ImageListPullJob c: spec.images[1]: \"a\" is spec.images[0] already"),
        "{}",
        ran.out
    );
    assert!(lines[2].contains("apiVersion \"apps.kruise.io/v1\" is not served"), "{}", ran.out);
    assert!(ran.err.contains("ImagePullJob b: spec.pullPolicy.timeoutSeconds: 0 leaves no time"), "{}", ran.err);
}

// === pull ===

#[rstest]
#[case::no_image(&["pull"], "IMAGE")]
#[case::no_reference(&["pull", "Nginx"], "it is no image; write REGISTRY/REPOSITORY:TAG")]
#[case::no_node_at_a_time(&["pull", "a:1", "--parallelism", "0"], "with 0 nodes at a time, none ever pulls")]
#[case::too_large_a_share(&["pull", "a:1", "--parallelism", "101%"], "must be a whole percentage from 1% to 100%")]
#[case::no_term(&["pull", "a:1", "--node-selector", "zone in (a)"], "is no term such as disk=ssd")]
#[case::nodes_by_both(&["pull", "a:1", "--node-selector", "a=b", "--nodes", "n"], "cannot be used with")]
#[case::an_image_of_a_job_that_is_there(&["pull", "a:1", "--resume", "x"], "cannot be used with")]
#[case::a_time_that_nobody_waits(&["pull", "a:1", "--detach", "--timeout", "5"], "cannot be used with")]
#[case::no_time(&["pull", "a:1", "--attempt-timeout", "0"], "--attempt-timeout")]
fn wrong_usage_of_pull_is_told_before_anything_is_done(#[case] arguments: &[&str], #[case] told: &str) {
    let ran = run(arguments);
    assert_eq!(ran.code, 2, "{}", ran.err);
    assert!(ran.err.contains(told), "{}", ran.err);
}

#[test]
fn a_pull_without_a_cluster_fails_and_prints_no_json() {
    let ran = run(&["pull", "a:1", "-o", "json", "--kubeconfig", "/nowhere/at/all"]);
    assert_eq!((ran.code, ran.out.as_str()), (1, ""));
    assert!(ran.err.starts_with("error: ") && ran.err.contains("/nowhere/at/all"), "{}", ran.err);
}
