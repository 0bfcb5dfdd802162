//! What a test target with a cluster is made of:
//!
//! ```ignore
//! pub fn tests() -> Vec<Test> {
//!     let mut tests = tests![a_pod_gets_its_sidecar];
//!     tests.push(Test::alone(…));
//!     tests
//! }
//!
//! async fn a_pod_gets_its_sidecar(cluster: &Cluster, ns: &Namespace) -> Result<()> { … }
//! ```
//!
//! All tests of a target share one cluster, which starts with the first of them; each has a namespace of its own. They
//! run beside each other, as many as `--test-threads` says, but for those in `alone![…]`.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, anyhow};
use futures::FutureExt;
use futures::future::LocalBoxFuture;
use libtest_mimic::{Arguments, Failed, Trial};
use tokio::runtime::Runtime;
use tokio::sync::{OnceCell, RwLock};
use tokio::time::timeout;

use super::{Cluster, Namespace, Parts};

/// How long a test may run that says nothing else.
const LIMIT: Duration = Duration::from_mins(3);

type Body = for<'a> fn(&'a Cluster, &'a Namespace) -> LocalBoxFuture<'a, Result<()>>;

/// One test. Made by `tests![…]` and `alone![…]`.
pub struct Test {
    name: &'static str,
    body: Body,
    company: Company,
    limit: Duration,
}

/// Who may run beside a test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Company {
    Others,
    /// Nobody: it stops a part of the cluster, or registers what would meet the pods of others.
    Nobody,
}

/// Tests from `async fn(&Cluster, &Namespace) -> Result<()>`.
macro_rules! tests {
    ($($name:ident),* $(,)?) => {
        vec![$($crate::harness::Test::new(
            concat!(module_path!(), "::", stringify!($name)),
            |cluster, ns| Box::pin($name(cluster, ns)),
        )),*]
    };
}

/// The same for tests beside which no other may run.
macro_rules! alone {
    ($($name:ident),* $(,)?) => {
        $crate::harness::tests![$($name),*].into_iter().map($crate::harness::Test::alone).collect::<Vec<_>>()
    };
}

pub(crate) use {alone, tests};

/// What the tests of a target share.
struct Shared {
    runtime: Runtime,
    parts: Parts,
    cluster: OnceCell<Result<Cluster, String>>,
    /// Held for reading by each test, for writing by one that must be alone.
    company: RwLock<()>,
}

/// The `main` of a test target: `harness = false`.
#[allow(clippy::print_stderr, reason = "like the harness of the language")]
pub fn main(parts: Parts, tests: impl IntoIterator<Item = Test>) -> ExitCode {
    let args = Arguments::from_args();
    let runtime = match Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let shared = Arc::new(Shared { runtime, parts, cluster: OnceCell::new(), company: RwLock::default() });
    let trial = |test: Test| {
        let shared = Arc::clone(&shared);
        let name = test.name.split_once("::").map_or(test.name, |(_, name)| name);
        Trial::test(name, move || shared.run(&test).map_err(|error| Failed::from(chain(&error))))
    };
    let conclusion = libtest_mimic::run(&args, tests.into_iter().map(trial).collect());
    if let Some(Shared { runtime, cluster, .. }) = Arc::into_inner(shared) {
        let _inside = runtime.enter();
        if let Some(Ok(cluster)) = cluster.into_inner()
            && conclusion.has_failed()
        {
            eprintln!("logs and what failed tests have left: {}", cluster.keep().display());
        }
    }
    conclusion.exit_code()
}

// === impl Test ===

impl Test {
    pub fn new(name: &'static str, body: Body) -> Self {
        Self { name, body, company: Company::Others, limit: LIMIT }
    }

    #[must_use]
    pub fn alone(self) -> Self {
        Self { company: Company::Nobody, ..self }
    }

    /// Gives it so much time instead of three minutes.
    #[must_use]
    pub fn within(self, limit: Duration) -> Self {
        Self { limit, ..self }
    }
}

// === impl Shared ===

impl Shared {
    fn run(&self, test: &Test) -> Result<()> {
        self.runtime.block_on(async {
            let (_beside, _alone);
            match test.company {
                Company::Others => _beside = self.company.read().await,
                Company::Nobody => _alone = self.company.write().await,
            }
            let start = async || Cluster::start(self.parts).await.map_err(|error| chain(&error));
            let cluster = self.cluster.get_or_init(start).await.as_ref().map_err(|error| anyhow!(error.clone()))?;
            let outcome = in_namespace(cluster, test).await;
            if test.company == Company::Nobody {
                cluster.start_all().await?;
            }
            outcome
        })
    }
}

async fn in_namespace(cluster: &Cluster, test: &Test) -> Result<()> {
    let name = test.name.rsplit("::").next().unwrap_or(test.name);
    let namespace = Namespace::create(cluster, name).await?;
    let body = AssertUnwindSafe((test.body)(cluster, &namespace)).catch_unwind();
    let outcome = match timeout(test.limit, body).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(panic)) => Err(anyhow!("{}", message(panic.as_ref()))),
        Err(_) => Err(anyhow!("not done within {} s", test.limit.as_secs())),
    };
    let Err(error) = outcome else {
        return namespace.delete().await;
    };
    let left = match namespace.dump(&cluster.logs().join("failed")).await {
        Ok(dir) => format!("what it has left is in {}", dir.display()),
        Err(why) => format!("what it has left could not be written down: {why:#}"),
    };
    Err(anyhow!("{}\n{left}\nlogs of the cluster: {}", chain(&error), cluster.logs().display()))
}

/// The error and its causes; no backtrace, which would bury them.
fn chain(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).collect::<Vec<_>>().join("\n  because: ")
}

fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("it panicked")
}
