//! What the benchmarks feed to the webhook: SidecarSets, and reviews of pods as an API server sends them.

#![allow(unreachable_pub, reason = "shared by benchmarks, each a crate of its own")]

use serde_json::{Value, json};

/// `count` plain SidecarSets; the n-th selects pods labelled `app=bench-n`, and each of the first three also selects
/// `tier=bench`.
pub fn sidecarsets(count: usize) -> Vec<Value> {
    (0..count)
        .map(|n| {
            let selector = if n < 3 {
                json!({"matchLabels": {"tier": "bench"}})
            } else {
                json!({"matchLabels": {"app": format!("bench-{n}")}})
            };
            json!({
                "apiVersion": "apps.kruise.io/v1beta1",
                "kind": "SidecarSet",
                "metadata": {"name": format!("bench-{n:03}")},
                "spec": {
                    "selector": selector,
                    "containers": [container(n)],
                    "volumes": [{"name": format!("spool-{n}"), "emptyDir": {}}],
                },
            })
        })
        .collect()
}

/// A sidecar as they are in real clusters; the second shares volumes and takes envs, the others are alike for all pods.
fn container(n: usize) -> Value {
    let mut container = json!({
        "name": format!("sidecar-{n}"),
        "image": format!("registry.example/platform/sidecar-{n}:1.27.3"),
        "args": ["proxy", "--config", "/etc/sidecar/config.yaml", "--log-level=warning"],
        "ports": [{"name": format!("http-{n}"), "containerPort": 15000 + n}],
        "env": [
            {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            {"name": "POD_NAMESPACE", "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}}},
            {"name": "CLUSTER", "value": "bench"},
        ],
        "resources": {"limits": {"cpu": "1", "memory": "512Mi"}, "requests": {"cpu": "100m", "memory": "128Mi"}},
        "readinessProbe": {"httpGet": {"path": "/healthz/ready", "port": 15000 + n}, "periodSeconds": 5},
        "securityContext": {"runAsUser": 1337, "capabilities": {"drop": ["ALL"]}},
        "volumeMounts": [{"name": format!("spool-{n}"), "mountPath": format!("/var/spool/sidecar-{n}")}],
    });
    if n == 1 {
        container["shareVolumePolicy"] = json!({"type": "enabled"});
        container["transferEnv"] = json!([{"sourceContainerName": "web", "envNames": ["REGION", "ZONE"]}]);
    }
    container
}

/// A review of about 8 KB: a pod with two containers, labelled so that three sets select it, or none.
pub fn review(selected: bool) -> Value {
    let tier = if selected { "bench" } else { "other" };
    json!({
        "kind": "AdmissionReview",
        "apiVersion": "admission.k8s.io/v1",
        "request": {
            "uid": "705ab4f5-6393-11e8-b7cc-42010a800002",
            "kind": {"group": "", "version": "v1", "kind": "Pod"},
            "resource": {"group": "", "version": "v1", "resource": "pods"},
            "requestKind": {"group": "", "version": "v1", "kind": "Pod"},
            "requestResource": {"group": "", "version": "v1", "resource": "pods"},
            "namespace": "shop",
            "operation": "CREATE",
            "userInfo": {
                "username": "system:serviceaccount:kube-system:replicaset-controller",
                "uid": "7d3b7b2f-39a0-4c5f-9a7e-0f9a1c7d5e11",
                "groups": ["system:serviceaccounts", "system:serviceaccounts:kube-system", "system:authenticated"],
            },
            "object": pod(tier),
            "oldObject": null,
            "dryRun": false,
            "options": {"kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1"},
        },
    })
}

fn pod(tier: &str) -> Value {
    let manager = json!({
        "manager": "kube-controller-manager", "operation": "Update", "apiVersion": "v1",
        "time": "2026-03-04T05:06:07Z", "fieldsType": "FieldsV1",
        "fieldsV1": {"f:metadata": {"f:generateName": {}, "f:labels": {".": {}, "f:app": {}, "f:tier": {}, "f:pod-template-hash": {}},
            "f:ownerReferences": {".": {}, "k:{\"uid\":\"c9c9e8bd-3d8c-4c9a-8a39-1a3f2b4c5d6e\"}": {}}},
            "f:spec": {"f:containers": {"k:{\"name\":\"web\"}": {".": {}, "f:env": {".": {}}, "f:image": {}, "f:name": {}, "f:ports": {".": {}}}},
            "f:dnsPolicy": {}, "f:restartPolicy": {}, "f:schedulerName": {}, "f:terminationGracePeriodSeconds": {}}},
    });
    json!({
        "kind": "Pod",
        "apiVersion": "v1",
        "metadata": {
            "generateName": "web-6d4cf56db6-",
            "creationTimestamp": null,
            "labels": {
                "app": "web", "tier": tier, "pod-template-hash": "6d4cf56db6", "team": "storefront",
                "app.kubernetes.io/part-of": "shop", "app.kubernetes.io/version": "7.4.1",
            },
            "annotations": {"prometheus.io/scrape": "true", "prometheus.io/port": "9102", "example.com/owner": "storefront@example.com"},
            "ownerReferences": [{
                "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-6d4cf56db6",
                "uid": "c9c9e8bd-3d8c-4c9a-8a39-1a3f2b4c5d6e", "controller": true, "blockOwnerDeletion": true,
            }],
            "managedFields": [manager],
        },
        "spec": {
            "volumes": [
                {"name": "data", "emptyDir": {}},
                {"name": "config", "configMap": {"name": "web-config", "defaultMode": 420}},
                {"name": "kube-api-access-x7k2p", "projected": {"defaultMode": 420, "sources": [
                    {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
                    {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
                    {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}},
                ]}},
            ],
            "containers": [app("web", 27), app("cache", 15)],
            "restartPolicy": "Always",
            "terminationGracePeriodSeconds": 30,
            "dnsPolicy": "ClusterFirst",
            "serviceAccountName": "web",
            "serviceAccount": "web",
            "securityContext": {},
            "schedulerName": "default-scheduler",
            "tolerations": [
                {"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300},
                {"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300},
            ],
            "priority": 0,
            "enableServiceLinks": true,
            "preemptionPolicy": "PreemptLowerPriority",
        },
        "status": {},
    })
}

fn app(name: &str, envs: usize) -> Value {
    let mut env: Vec<Value> = (0..envs)
        .map(|n| json!({"name": format!("{}_SETTING_{n:02}", name.to_uppercase()), "value": format!("value number {n} of {name}")}))
        .collect();
    env.push(json!({"name": "REGION", "value": "north"}));
    env.push(json!({"name": "POD_IP", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "status.podIP"}}}));
    json!({
        "name": name,
        "image": format!("registry.example/shop/{name}@sha256:{}", "ab".repeat(32)),
        "command": ["/bin/sh", "-c", format!("exec /usr/local/bin/{name} --config /etc/{name}/config.yaml")],
        "ports": [{"name": "http", "containerPort": 8080, "protocol": "TCP"}, {"name": "metrics", "containerPort": 9102, "protocol": "TCP"}],
        "env": env,
        "resources": {"limits": {"cpu": "2", "memory": "2Gi"}, "requests": {"cpu": "500m", "memory": "1Gi"}},
        "volumeMounts": [
            {"name": "data", "mountPath": "/data"},
            {"name": "config", "mountPath": format!("/etc/{name}"), "readOnly": true},
            {"name": "kube-api-access-x7k2p", "readOnly": true, "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"},
        ],
        "livenessProbe": {"httpGet": {"path": "/livez", "port": "http", "scheme": "HTTP"}, "initialDelaySeconds": 10, "timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3},
        "readinessProbe": {"httpGet": {"path": "/readyz", "port": "http", "scheme": "HTTP"}, "timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3},
        "terminationMessagePath": "/dev/termination-log",
        "terminationMessagePolicy": "File",
        "imagePullPolicy": "IfNotPresent",
    })
}
