//! Every label, annotation, env, gate and object name that Outrigger writes or reads (API-60 … API-66).

/// Group of all kinds served here.
pub const GROUP: &str = "apps.kruise.io";
/// `apiVersion` of the hub and storage version (CONV-1).
pub const V1BETA1: &str = "apps.kruise.io/v1beta1";
/// `apiVersion` of the older version.
pub const V1ALPHA1: &str = "apps.kruise.io/v1alpha1";

/// Hash over a SidecarSet's containers; on a pod, the record of what was injected (HASH-1, ANN-1).
pub const HASH: &str = "kruise.io/sidecarset-hash";
/// The same without images (HASH-4, ANN-4).
pub const HASH_WITHOUT_IMAGE: &str = "kruise.io/sidecarset-hash-without-image";
/// Names of the SidecarSets that a pod carries (ANN-2).
pub const INJECTED_LIST: &str = "kruise.io/sidecarset-injected-list";
/// Hot-upgrade entry → the container of its pair that works (HOT-5).
pub const WORKING_CONTAINER: &str = "kruise.io/sidecarset-working-hotupgrade-container";
/// What each SidecarSet last changed in place in a pod (CTL-23).
pub const INPLACE_UPDATE_STATE: &str = "kruise.io/sidecarset-inplace-update-state";
/// Pod condition: whether its sidecars can be updated in place (NUP-4).
pub const UPGRADABLE: &str = "SidecarSetUpgradable";
/// Prefix of the per-container version annotation (HOT-3).
pub const VERSION_PREFIX: &str = "version.sidecarset.kruise.io/";
/// Prefix of the per-container alternate version annotation (HOT-3).
pub const VERSION_ALT_PREFIX: &str = "versionalt.sidecarset.kruise.io/";

/// `"true"` makes a SidecarSet a canary of [`CANARY_BASE`] (CAN-1).
pub const CANARY: &str = "apps.kruise.io/sidecarset-canary";
/// The SidecarSet that a canary stands in for (CAN-1).
pub const CANARY_BASE: &str = "apps.kruise.io/sidecarset-base";
/// Custom version: a label of v1alpha1 SidecarSets and of revisions (CONV-SS-4, API-61).
pub const CUSTOM_VERSION: &str = "apps.kruise.io/sidecarset-custom-version";
/// Label of a revision: the SidecarSet it belongs to (API-61).
pub const REVISION_OF: &str = "kruise.io/sidecarset-name";
/// Label of a revision: the hash in the first name that was tried for it (REV-3).
pub const REVISION_HASH: &str = "controller.kubernetes.io/hash";

/// Pod annotation that asks for containers in order (PRI-3).
pub const LAUNCH_PRIORITY: &str = "apps.kruise.io/container-launch-priority";
/// The one value of [`LAUNCH_PRIORITY`] that means something.
pub const LAUNCH_PRIORITY_ORDERED: &str = "Ordered";
/// Container env with the user's priority (PRI-4).
pub const PRIORITY_ENV: &str = "KRUISE_CONTAINER_PRIORITY";
/// Container env that holds the kubelet back until its group's turn (PRI-6).
pub const BARRIER_ENV: &str = "KRUISE_CONTAINER_BARRIER";
/// The ConfigMap that holds a pod's containers back is called like the pod, and this (LP-1).
pub const BARRIER_SUFFIX: &str = "-barrier";
/// Pod annotation: `"true"` once all of its containers may start (LP-6).
pub const LAUNCH_COMPLETED: &str = "apps.kruise.io/container-launch-priority-completed";
/// Pod annotation: the priority that was let go last, for which the kubelet was told to look again. Ours alone.
pub const LAUNCH_RELEASED: &str = "outrigger/launch-released";

/// Marks an injected container (ENV-2).
pub const IS_INJECTED: &str = "IS_INJECTED";
/// Version of a hot-upgrade container, through the downward API (HOT-4).
pub const VERSION_ENV: &str = "SIDECARSET_VERSION";
/// Version of its twin (HOT-4).
pub const VERSION_ALT_ENV: &str = "SIDECARSET_VERSION_ALT";

/// Readiness gate of pods that an apps.kruise.io workload owns (RG-1).
pub const POD_READY_GATE: &str = "KruisePodReady";
/// Label of a namespace with its own name, put there by the API server.
pub const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";

/// CRR annotation, v1alpha1: the containers of the pod as last seen, as JSON (CONV-CRR-2).
pub const SYNC_STATUSES: &str = "crr.apps.kruise.io/sync-container-statuses";
/// CRR annotation, v1alpha1: since when the pod is kept unready (CONV-CRR-3). Also a finalizer, of both versions (API-64).
pub const UNREADY_ACQUIRED: &str = "crr.apps.kruise.io/unready-acquired";

/// CRR label: UID of the pod, so that one of the same name that comes later is told apart (CRR-40).
pub const RECREATE_POD_UID: &str = "crr.apps.kruise.io/pod-uid";
/// CRR label: node of the pod, by which its daemon watches (CRR-40).
pub const RECREATE_NODE: &str = "crr.apps.kruise.io/node-name";
/// CRR label: `"true"` until the request has ended (CRR-40).
pub const RECREATE_ACTIVE: &str = "crr.apps.kruise.io/active";
/// Label of a Node, and of a CRR for a pod on it: what kind of node it is (CRR-41).
pub const NODE_TYPE: &str = "type";
/// The one value of [`NODE_TYPE`] that is copied to a CRR.
pub const VIRTUAL_KUBELET: &str = "virtual-kubelet";
/// Pod condition: its sidecars were ended after its other containers (CRR-28).
pub const SIDECAR_TERMINATED: &str = "SidecarTerminated";

/// NodeImage label: it may be there without a Node (IMG-5).
pub const FAKE_NODE_IMAGE: &str = "apps.kruise.io/fake-nodeimage";
/// Finalizer of ImagePullJobs: copies of Secrets are given back first (JOB-35).
pub const DELETION_PROTECTION: &str = "apps.kruise.io/deletion-protection";
/// Annotation of a copied Secret: `namespace/name` of the one it is a copy of (SEC-4).
pub const SECRET_SOURCE: &str = "imagepulljobs.kruise.io/source-key";
/// Annotation of a copied Secret: `namespace/name` of the jobs that need it (SEC-8).
pub const SECRET_REFERENCES: &str = "imagepulljobs.kruise.io/references";
/// Annotation of a copied Secret, and of references to it (SEC-9).
pub const SECRET_MODE: &str = "imagepulljobs.kruise.io/mode";
/// The one value of [`SECRET_MODE`].
pub const SECRET_MODE_BATCH: &str = "batch";
/// The namespace of copied Secrets, which daemons may read, unless the env variable of [`DAEMON_CONFIG_ENV`] says another
/// (SEC-1).
pub const DAEMON_CONFIG_NAMESPACE: &str = "kruise-daemon-config";
/// See [`DAEMON_CONFIG_NAMESPACE`].
pub const DAEMON_CONFIG_ENV: &str = "KRUISE_DAEMON_CONFIG_NS";
/// Label of an ImageListPullJob and of its jobs: which template they were made of (LIST-3).
pub const TEMPLATE_HASH: &str = "controller-revision-hash";

/// ConfigMap with settings of the operator (SSV-30).
pub const CONFIGURATION: &str = "kruise-configuration";
/// Its key with the annotations that `patchPodMetadata` may touch (SSV-30).
pub const PATCH_WHITE_LIST: &str = "SidecarSet_PatchPodMetadata_WhiteList";
/// The Secret with the CA and the serving certificate (WH-9), the operator's Service and the two configurations (WH-8).
pub const CERTS_SECRET: &str = "kruise-webhook-certs";
/// The Service that the API server calls.
pub const SERVICE: &str = "kruise-webhook-service";
/// The Service that the API server calls for conversion; ours alone.
pub const CONVERSION_SERVICE: &str = "outrigger-conversion-service";
/// The mutating webhooks.
pub const MUTATING_CONFIGURATION: &str = "kruise-mutating-webhook-configuration";
/// The validating webhooks.
pub const VALIDATING_CONFIGURATION: &str = "kruise-validating-webhook-configuration";
/// Annotation of [`CERTS_SECRET`]: `leaf` or `ca` asks for a new one at once; removed when done.
pub const ROTATE: &str = "outrigger/rotate";
/// Annotation of [`CERTS_SECRET`]: when the last of the retired CAs ceased to issue.
pub const RETIRED_AT: &str = "outrigger/retired-at";
/// The operator's namespace when `POD_NAMESPACE` is unset (WH-8).
pub const DEFAULT_NAMESPACE: &str = "kruise-system";

/// Letters and digits that spell no word: of hashes (HASH-1, REV-3) and of generated names (PRI-8).
pub const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
