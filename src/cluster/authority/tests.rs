//! A cluster in values: one Secret, what clients trust, and replicas that are killed, late, and of two minds about the
//! time. At every instant a client must accept what every ready replica serves.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use rstest::rstest;
use rustls::client::danger::ServerCertVerifier as _;

use super::plan::{CaView, LEAF_LIFE, LeafView, Signer, View, Why};
use super::*;
use crate::admission::certs::issue::{self, Life};

const HOST: &str = "kruise-webhook-service.kruise-system.svc";
const DAY: SignedDuration = SignedDuration::from_hours(24);
const SETTLE: SignedDuration = SignedDuration::from_secs(30);

fn rules() -> Rules {
    Rules { settle: SETTLE, patience: SignedDuration::ZERO }
}

fn start() -> Timestamp {
    "2026-03-01T12:00:00Z".parse().unwrap()
}

fn hosts() -> Vec<String> {
    vec![HOST.to_owned()]
}

// === the plan, by table ===

fn ca() -> CaView {
    CaView { from: start(), until: start() + DAY * 3650, issues: true, published: Some(DAY) }
}

fn leaf() -> LeafView {
    LeafView { from: start(), until: start() + LEAF_LIFE, named: true, signer: Signer::Ca }
}

fn steady() -> View {
    View { ca: Some(ca()), leaf: Some(leaf()), ..View::default() }
}

#[rstest]
#[case::nothing_there(View::default(), 0, Step::Found)]
#[case::all_well(steady(), 0, Step::Keep)]
#[case::all_well_at_half_of_the_life(steady(), 15, Step::Keep)]
#[case::leaf_at_two_thirds_of_its_life(steady(), 20, Step::Renew(Why::Due))]
#[case::leaf_missing(View { leaf: None, ..steady() }, 0, Step::Renew(Why::Missing))]
#[case::leaf_ended(steady(), 31, Step::Renew(Why::Missing))]
#[case::thirteen_months_ahead(steady(), 395, Step::Renew(Why::Missing))]
#[case::leaf_of_nobody(View { leaf: Some(LeafView { signer: Signer::Unknown, ..leaf() }), ..steady() }, 0, Step::Renew(Why::Missing))]
#[case::leaf_without_a_host(View { leaf: Some(LeafView { named: false, ..leaf() }), ..steady() }, 0, Step::Renew(Why::Hosts))]
#[case::ca_without_key(View { ca: Some(CaView { issues: false, ..ca() }), ..steady() }, 0, Step::Introduce(Why::Unfit))]
#[case::ca_missing_but_leaf_trusted(
    View { ca: None, leaf: Some(LeafView { signer: Signer::Other, ..leaf() }), retired: 1, retired_at: Some(start()), ..View::default() }, 0, Step::Introduce(Why::Unfit))]
#[case::ca_without_key_and_leaf_ended(View { ca: Some(CaView { issues: false, ..ca() }), ..steady() }, 31, Step::Found)]
#[case::ca_ends_soon(View { ca: Some(CaView { until: start() + DAY * 89, ..ca() }), ..steady() }, 0, Step::Introduce(Why::Due))]
#[case::ca_ends_with_the_leaf(
    View { ca: Some(CaView { until: start() + DAY * 30, ..ca() }), next: Some(CaView { published: None, ..ca() }), ..steady() }, 25, Step::Await)]
#[case::everything_ended(View { ca: Some(CaView { until: start() + DAY * 30, ..ca() }), ..steady() }, 31, Step::Found)]
#[case::next_not_yet_published(View { next: Some(CaView { published: None, ..ca() }), ..steady() }, 0, Step::Await)]
#[case::next_just_published(View { next: Some(CaView { published: Some(SignedDuration::ZERO), ..ca() }), ..steady() }, 0, Step::Await)]
#[case::next_settled(View { next: Some(CaView { published: Some(SETTLE), ..ca() }), ..steady() }, 0, Step::Switch)]
#[case::next_unfit(View { next: Some(CaView { issues: false, ..ca() }), ..steady() }, 0, Step::Introduce(Why::Unfit))]
#[case::leaf_due_while_next_is_awaited(View { next: Some(CaView { published: None, ..ca() }), ..steady() }, 21, Step::Renew(Why::Due))]
#[case::no_time_to_wait_for_next(
    View { ca: Some(CaView { issues: false, ..ca() }), next: Some(CaView { published: None, ..ca() }), leaf: None, ..View::default() }, 0, Step::Switch)]
#[case::ca_of_the_future(View { ca: Some(CaView { from: start() + DAY, ..ca() }), leaf: None, ..steady() }, 0, Step::Found)]
#[case::asked_for_a_leaf(View { request: Some(Request::Leaf), ..steady() }, 0, Step::Renew(Why::Requested))]
#[case::asked_for_a_ca(View { request: Some(Request::Ca), ..steady() }, 0, Step::Introduce(Why::Requested))]
#[case::asked_for_a_ca_during_a_rotation(
    View { request: Some(Request::Ca), next: Some(CaView { published: None, ..ca() }), ..steady() }, 0, Step::Await)]
#[case::asked_for_too_many_cas(
    View { request: Some(Request::Ca), retired: 6, retired_at: Some(start()), ..steady() }, 0, Step::Keep)]
#[case::stray_leaf(View { leaf: Some(LeafView { signer: Signer::Other, ..leaf() }), ..steady() }, 0, Step::Renew(Why::Stray))]
#[case::stray_leaf_of_a_ca_nobody_knows(
    View { ca: Some(CaView { published: None, ..ca() }), leaf: Some(LeafView { signer: Signer::Other, ..leaf() }), ..steady() }, 0, Step::Await)]
#[case::retired_yesterday(View { retired: 1, retired_at: Some(start() - DAY), ..steady() }, 0, Step::Keep)]
#[case::retired_for_the_life_of_a_leaf(View { retired: 1, retired_at: Some(start() - LEAF_LIFE), ..steady() }, 0, Step::Forget)]
#[case::retired_without_a_date(View { retired: 1, ..steady() }, 0, Step::Date)]
fn wh_9_the_next_step_follows_from_the_secret(#[case] view: View, #[case] day: i32, #[case] step: Step) {
    assert_eq!(plan(&view, rules(), start() + DAY * day), step);
}

#[test]
fn a_leaf_that_ends_with_its_ca_is_not_renewed_without_end() {
    let view = View { ca: Some(CaView { until: leaf().until, ..ca() }), ..steady() };
    assert_eq!(plan(&view, rules(), start() + DAY * 25), Step::Introduce(Why::Due));
}

#[test]
fn a_patient_replica_lets_another_renew_but_not_for_ever() {
    let rules = Rules { patience: SignedDuration::from_mins(5), ..rules() };
    let due = start() + DAY * 20;
    assert_eq!(plan(&steady(), rules, due), Step::Keep);
    assert_eq!(plan(&steady(), rules, due + SignedDuration::from_mins(5)), Step::Renew(Why::Due));
}

// === a cluster in values ===

/// One Secret under a resourceVersion, three registered objects, and what the time really is.
#[derive(Default)]
struct Cluster {
    secret: Option<Secret>,
    writes: u64,
    objects: [Bundle; 3],
    time: i64,
}

/// A process: what it knows may be old.
struct Replica {
    keeper: Keeper,
    known: Option<Secret>,
    since: BTreeMap<Fingerprint, i64>,
    /// Its clock is off by this.
    ahead: SignedDuration,
}

impl Cluster {
    fn now(&self) -> Timestamp {
        start() + SignedDuration::from_secs(self.time)
    }

    /// As the API server does it: refused unless what was read is what is there.
    fn put(&mut self, read: Option<&Secret>, mut secret: Secret) -> bool {
        let version = |secret: Option<&Secret>| secret.and_then(|secret| secret.metadata.resource_version.clone());
        if version(read) != version(self.secret.as_ref()) {
            return false;
        }
        self.writes += 1;
        secret.metadata.resource_version = Some(self.writes.to_string());
        self.secret = Some(secret);
        true
    }

    fn contents(&self) -> Contents {
        self.secret.as_ref().map(Contents::read).unwrap_or_default()
    }

    /// Whether an API server whose clock is right accepts what `keeper` serves, by every registered object.
    fn accepts(&self, keeper: &Keeper) -> bool {
        let Some(pair) = keeper.resolver.current() else { return true };
        let at =
            rustls::pki_types::UnixTime::since_unix_epoch(Duration::from_secs(self.now().as_second().unsigned_abs()));
        self.objects.iter().all(|bundle| {
            let mut roots = rustls::RootCertStore::empty();
            roots.add_parsable_certificates(bundle.certs().iter().cloned());
            if roots.is_empty() {
                return false;
            }
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let verifier =
                rustls::client::WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
            let host = ServerName::try_from(HOST).unwrap();
            let (leaf, chain) = pair.cert.split_first().unwrap();
            verifier.verify_server_cert(leaf, chain, &host, &[], at).is_ok()
        })
    }
}

impl Replica {
    fn new() -> Self {
        let keeper = Keeper::new(hosts(), rules());
        Self { keeper, known: None, since: BTreeMap::new(), ahead: SignedDuration::ZERO }
    }

    /// Looks at the registered objects, and writes one that is not as the Secret says.
    fn register(&mut self, cluster: &mut Cluster, object: usize) {
        let bundle = cluster.contents().bundle();
        if !bundle.is_empty() && self.keeper.trust.borrow().is_some() {
            cluster.objects[object] = bundle;
        }
    }

    fn observe(&mut self, cluster: &Cluster) {
        let seen = Published::default().then(&cluster.objects, tokio::time::Instant::now());
        self.since.retain(|print, _| seen.everywhere.contains_key(print));
        for print in seen.everywhere.keys() {
            self.since.entry(*print).or_insert(cluster.time);
        }
    }

    fn look(&mut self, cluster: &Cluster) {
        self.known.clone_from(&cluster.secret);
    }

    /// One step by what is known. `killed`: before the answer to the write is seen.
    fn act(&mut self, cluster: &mut Cluster, killed: bool) -> Step {
        self.observe(cluster);
        let contents = self.known.as_ref().map(Contents::read).unwrap_or_default();
        let (since, time) = (self.since.clone(), cluster.time);
        let lasting = move |ca: &CertificateDer<'_>| {
            since.get(&Fingerprint::of(ca)).map(|since| SignedDuration::from_secs(time - since))
        };
        let now = cluster.now() + self.ahead;
        let step = self.keeper.judge(&contents, &lasting, now);
        if matches!(step, Step::Keep | Step::Await) {
            return step;
        }
        let anywhere = Bundle::new(cluster.objects.iter().flat_map(|bundle| bundle.certs().iter().cloned()));
        let after = contents.after(step, &hosts(), &anywhere, now).unwrap();
        let mut secret = self.known.clone().unwrap_or_default();
        after.write(&mut secret);
        cluster.put(self.known.as_ref(), secret);
        if killed {
            *self = Self { ahead: self.ahead, ..Self::new() };
        } else {
            self.look(cluster);
        }
        step
    }

    fn is_serving(&self) -> bool {
        self.keeper.resolver.current().is_some()
    }
}

/// A cluster in which one replica has done what it does at its start.
fn settled() -> (Cluster, Replica) {
    let mut cluster = Cluster::default();
    let mut replica = Replica::new();
    run(&mut cluster, &mut replica, 5);
    (cluster, replica)
}

/// Lets one replica go on for so many seconds; returns the steps it took.
fn run(cluster: &mut Cluster, replica: &mut Replica, seconds: i64) -> Vec<Step> {
    let mut steps = Vec::new();
    for _ in 0..seconds {
        replica.look(cluster);
        let step = replica.act(cluster, false);
        if !matches!(step, Step::Keep | Step::Await) {
            steps.push(step);
        }
        (0..3).for_each(|object| replica.register(cluster, object));
        cluster.time += 1;
    }
    steps
}

#[test]
fn the_first_replica_founds_a_ca_and_the_next_serves_the_same_leaf() {
    let (mut cluster, first) = settled();
    assert!(cluster.accepts(&first.keeper) && first.is_serving());
    let mut second = Replica::new();
    assert_eq!(run(&mut cluster, &mut second, 2), []);
    let leaf = |replica: &Replica| replica.keeper.resolver.current().unwrap().cert.clone();
    assert_eq!(leaf(&first), leaf(&second));
    assert_eq!(first.keeper.resolver.not_after(), Some((start() + LEAF_LIFE).as_second()));
}

#[test]
fn two_replicas_that_start_at_once_agree_on_one_ca() {
    let mut cluster = Cluster::default();
    let (mut one, mut two) = (Replica::new(), Replica::new());
    assert_eq!(one.act(&mut cluster, false), Step::Found);
    // It has not heard of the first's Secret: its write is refused.
    assert_eq!(two.act(&mut cluster, false), Step::Found);
    assert_eq!(cluster.writes, 1);
    assert_eq!(two.act(&mut cluster, false), Step::Keep);
    assert_eq!(cluster.contents().bundle().certs().len(), 1);
    assert!(two.keeper.serves(&cluster.contents()));
}

#[test]
fn a_rotation_publishes_first_serves_then_and_forgets_after_a_leafs_life() {
    let (mut cluster, mut replica) = settled();
    let annotations = [(names::ROTATE.to_owned(), "ca".to_owned())].into();
    cluster.secret.as_mut().unwrap().metadata.annotations = Some(annotations);
    let old = cluster.contents().bundle();
    assert_eq!(run(&mut cluster, &mut replica, 20), [Step::Introduce(Why::Requested)]);
    assert_eq!(cluster.contents().bundle().certs().len(), 2);
    assert_eq!(cluster.contents().signer(), old.certs().first());
    assert_eq!(run(&mut cluster, &mut replica, 20), [Step::Switch]);
    assert_ne!(cluster.contents().signer(), old.certs().first());
    assert_eq!(cluster.objects[0].certs().len(), 2);
    assert!(cluster.accepts(&replica.keeper));
    cluster.time += LEAF_LIFE.as_secs() - 100;
    assert_eq!(run(&mut cluster, &mut replica, 5), [Step::Renew(Why::Due)]);
    cluster.time += 200;
    assert_eq!(run(&mut cluster, &mut replica, 5), [Step::Forget]);
    assert_eq!(cluster.contents().bundle().certs().len(), 1);
    assert!(!cluster.contents().bundle().certs().contains(&old.certs()[0]));
    assert!(cluster.accepts(&replica.keeper));
}

#[test]
fn a_clock_thirteen_months_ahead_costs_one_renewal() {
    let (mut cluster, mut replica) = settled();
    cluster.time += 395 * 24 * 3600;
    assert_eq!(run(&mut cluster, &mut replica, 60), [Step::Renew(Why::Missing)]);
    assert!(cluster.accepts(&replica.keeper));
}

#[test]
fn replicas_whose_clocks_disagree_by_thirteen_months_come_to_rest() {
    let (mut cluster, mut right) = settled();
    let mut ahead = Replica { ahead: DAY * 395, ..Replica::new() };
    let mut steps = 0;
    for _ in 0..60 {
        steps += run(&mut cluster, &mut ahead, 1).len() + run(&mut cluster, &mut right, 1).len();
        assert!(cluster.accepts(&right.keeper) && cluster.accepts(&ahead.keeper));
    }
    assert_eq!(steps, 1);
}

#[test]
fn a_ca_at_its_end_is_replaced_without_a_gap() {
    let (mut cluster, mut replica) = settled();
    cluster.time += (3650 - 89) * 24 * 3600;
    // The leaf had ended long ago, so that comes first.
    let steps = run(&mut cluster, &mut replica, 60);
    assert_eq!(steps, [Step::Renew(Why::Missing), Step::Introduce(Why::Due), Step::Switch]);
    cluster.time += 3650 * 24 * 3600;
    assert_eq!(run(&mut cluster, &mut replica, 60), [Step::Found]);
    assert!(cluster.accepts(&replica.keeper));
}

#[test]
fn a_deleted_secret_is_a_new_beginning_without_loss() {
    let (mut cluster, mut replica) = settled();
    let old = cluster.contents().bundle();
    cluster.secret = None;
    for second in 0..40 {
        run(&mut cluster, &mut replica, 1);
        if second > 0 {
            assert!(cluster.accepts(&replica.keeper), "after {second} s");
        }
    }
    assert!(cluster.objects[0].certs().contains(&old.certs()[0]));
    assert!(replica.keeper.serves(&cluster.contents()));
    assert_ne!(cluster.contents().signer(), old.certs().first());
}

/// As the reference's writer leaves it: an RSA key in PKCS#1 is a key that ring does not sign with.
#[test]
fn wh_9_a_secret_of_the_reference_is_served_and_its_ca_succeeded() {
    let made = issue::ca("webhook-cert-ca", Life::starting(start(), DAY * 3650)).unwrap();
    let ca = Bundle::from_pem(made.cert.as_bytes());
    let life = Life::starting(start(), DAY * 3650);
    let leaf = issue::leaf(&ca.certs()[0], &made.key, HOST, [HOST], life, start()).unwrap();
    let unusable = "-----BEGIN RSA PRIVATE KEY-----\nMAA=\n-----END RSA PRIVATE KEY-----\n".to_owned();
    let members =
        [("ca-cert.pem", made.cert), ("ca-key.pem", unusable), ("cert.pem", leaf.cert), ("key.pem", leaf.key)];
    let data = members.map(|(name, text)| (name.to_owned(), ByteString(text.into_bytes())));
    let mut cluster = Cluster { objects: [ca.clone(), ca.clone(), ca.clone()], ..Cluster::default() };
    cluster.put(None, Secret { data: Some(data.into()), ..Secret::default() });
    let mut replica = Replica::new();
    let mut steps = Vec::new();
    for _ in 0..60 {
        steps.extend(run(&mut cluster, &mut replica, 1));
        assert!(cluster.accepts(&replica.keeper) && replica.is_serving());
    }
    assert_eq!(steps, [Step::Introduce(Why::Unfit), Step::Switch]);
    assert!(cluster.objects[0].certs().contains(&ca.certs()[0]));
}

#[rstest]
#[case::every_key_is_garbage(&["ca-cert.pem", "ca-key.pem", "cert.pem", "key.pem"])]
#[case::the_ca_is_garbage(&["ca-cert.pem"])]
#[case::the_ca_key_is_garbage(&["ca-key.pem"])]
#[case::the_leaf_is_garbage(&["cert.pem"])]
#[case::the_leaf_key_is_garbage(&["key.pem"])]
fn whatever_is_garbage_is_made_anew_while_what_is_served_stays_trusted(#[case] keys: &[&str]) {
    let (mut cluster, mut replica) = settled();
    let mut secret = cluster.secret.clone().unwrap();
    let data = secret.data.as_mut().unwrap();
    data.insert("theirs".to_owned(), ByteString(b"stays".to_vec()));
    for key in keys {
        data.insert((*key).to_owned(), ByteString(b"\xff-----BEGIN CERTIFICATE-----\nnone".to_vec()));
    }
    let read = cluster.secret.clone();
    cluster.put(read.as_ref(), secret);
    for _ in 0..60 {
        run(&mut cluster, &mut replica, 1);
        assert!(cluster.accepts(&replica.keeper));
    }
    assert!(replica.keeper.serves(&cluster.contents()));
    assert_eq!(cluster.secret.unwrap().data.unwrap()["theirs"].0, b"stays");
}

#[test]
fn no_key_is_ever_in_the_bundle_and_contents_survive_a_round() {
    let (cluster, _) = settled();
    let contents = cluster.contents();
    let mut secret = Secret::default();
    contents.write(&mut secret);
    assert_eq!(secret.data, cluster.secret.unwrap().data);
    assert!(!contents.bundle().pem().contains("KEY"));
}

#[test]
fn what_cert_manager_writes_is_served_once_clients_trust_it() {
    let made = |now: Timestamp| {
        let ca = issue::ca("theirs", Life::starting(now, DAY * 365)).unwrap();
        let root = Bundle::from_pem(ca.cert.as_bytes());
        let pair = issue::leaf(&root.certs()[0], &ca.key, "x", [HOST], Life::starting(now, DAY), now).unwrap();
        let members = [("tls.crt", pair.cert), ("tls.key", pair.key), ("ca.crt", ca.cert)];
        let data = members.map(|(name, text)| (name.to_owned(), ByteString(text.into_bytes())));
        contents::external(&data.into()).unwrap()
    };
    let mut keeper = Keeper::new(hosts(), rules());
    let (first, cas) = made(start());
    assert!(!keeper.take_external(&first, &cas, &|_| None, start()));
    assert!(keeper.is_served(&first));
    assert_eq!(*keeper.trust.borrow(), Some(Trust::Theirs));
    let (second, cas) = made(start() + SignedDuration::from_secs(1));
    assert!(!keeper.take_external(&second, &cas, &|_| None, start()));
    assert!(keeper.is_served(&first));
    assert!(keeper.take_external(&second, &cas, &|_| Some(SETTLE), start()));
    assert!(keeper.is_served(&second));
}

/// Replicas act in any order, on what they knew some time ago, are killed after a write, the clock jumps, a person asks
/// for rotations, and the registered objects are written one at a time.
#[test]
fn at_every_instant_clients_accept_what_is_served() {
    let mut switches = 0;
    for seed in 0..8 {
        let mut dice = fastrand::Rng::with_seed(seed);
        let (mut cluster, first) = settled();
        let mut replicas = vec![first, Replica::new(), Replica::new()];
        for turn in 0..400 {
            let place = dice.usize(..replicas.len());
            let replica = &mut replicas[place];
            match dice.u32(..10) {
                0..3 => replica.look(&cluster),
                3..6 => replica.register(&mut cluster, dice.usize(..3)),
                6..9 => {
                    let step = replica.act(&mut cluster, dice.u32(..8) == 0);
                    switches += u32::from(step == Step::Switch);
                }
                _ => {
                    if let Some(secret) = cluster.secret.clone().filter(|_| dice.u32(..4) == 0) {
                        let mut asked = secret.clone();
                        let wish = if dice.bool() { "ca" } else { "leaf" };
                        let annotations = asked.metadata.annotations.get_or_insert_default();
                        annotations.insert(names::ROTATE.to_owned(), wish.to_owned());
                        cluster.put(Some(&secret), asked);
                    }
                }
            }
            cluster.time += dice.i64(0..6);
            for (place, replica) in replicas.iter().enumerate() {
                assert!(cluster.accepts(&replica.keeper), "seed {seed}, turn {turn}, replica {place}");
            }
            if dice.u32(..100) == 0 {
                // The machine slept; everybody wakes and looks before anything is called.
                cluster.time += dice.i64(0..200 * 24 * 3600);
                for replica in &mut replicas {
                    replica.look(&cluster);
                    replica.act(&mut cluster, false);
                    replica.look(&cluster);
                    replica.act(&mut cluster, false);
                }
                replicas[0].look(&cluster);
                (0..3).for_each(|object| replicas[0].register(&mut cluster, object));
                for replica in &mut replicas {
                    replica.look(&cluster);
                    replica.act(&mut cluster, false);
                }
            }
        }
    }
    assert!(switches > 8, "{switches}");
}
