//! Processes that log to a file and do not outlive us, and ports for them.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::until;

/// How long a process may take to end once it was asked to.
const GRACE: Duration = Duration::from_secs(20);

/// So much of a log is shown with a failure.
const TAIL_LINES: usize = 25;
const TAIL_BYTES: usize = 6000;

/// A running process and its log. Dropping it kills the process.
pub struct Process {
    name: String,
    log: PathBuf,
    id: u32,
    child: Mutex<Child>,
}

/// How a process is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// SIGTERM, and SIGKILL when that does not help.
    Gracefully,
    /// SIGKILL.
    Kill,
}

// === impl Process ===

impl Process {
    /// Starts `command` with its output at the end of `DIR/NAME.log`.
    pub fn spawn(name: &str, dir: &Path, command: &Command) -> Result<Self> {
        let log = dir.join(format!("{name}.log"));
        let output = File::options().create(true).append(true).open(&log)?;
        let mut command = bound_to_us(command);
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let child = spawn_from_lasting_thread(command).with_context(|| format!("cannot start {name}"))?;
        Ok(Self { name: name.to_owned(), log, id: child.id(), child: Mutex::new(child) })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn id(&self) -> u32 {
        self.id
    }

    pub fn log(&self) -> &Path {
        &self.log
    }

    pub fn is_running(&self) -> bool {
        matches!(self.child().try_wait(), Ok(None))
    }

    /// How it ended, if it has.
    pub fn exit(&self) -> Option<ExitStatus> {
        self.child().try_wait().ok().flatten()
    }

    /// Asks it to end by SIGTERM.
    pub fn terminate(&self) -> Result<()> {
        self.signal("TERM")
    }

    /// Sends a signal by name, such as `TERM`, `STOP` or `CONT`.
    pub fn signal(&self, signal: &str) -> Result<()> {
        let kill = format!("kill -{signal} {}", self.id());
        let status = Command::new("sh").args(["-c", &kill]).stderr(Stdio::null()).status()?;
        ensure!(status.success(), "cannot send SIG{signal} to {}", self.name);
        Ok(())
    }

    /// Ends it and waits until it has.
    pub async fn stop(&self, how: Stop) -> Result<()> {
        if how == Stop::Gracefully && self.is_running() && self.terminate().is_ok() {
            let ended = until("it ends", GRACE, async || Ok(!self.is_running())).await;
            if ended.is_ok() {
                return Ok(());
            }
        }
        self.kill();
        Ok(())
    }

    /// SIGKILL, and waits until it has ended.
    pub fn kill(&self) {
        let mut child = self.child();
        // Both fail only when it has ended.
        let _ = child.kill();
        let _ = child.wait();
    }

    fn child(&self) -> MutexGuard<'_, Child> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until it ends by itself.
    pub async fn ended(&self, patience: Duration) -> Result<ExitStatus> {
        let what = format!("{} ends", self.name);
        super::eventually(&what, patience, async || Ok(self.exit())).await.map_err(|error| self.explain(error))
    }

    /// The last lines of its log.
    pub fn tail(&self) -> String {
        tail(&self.log)
    }

    /// The error with what the log says about it.
    pub fn explain(&self, error: anyhow::Error) -> anyhow::Error {
        let state = self.exit().map_or_else(|| "is running".into(), |status| format!("has ended ({status})"));
        error.context(format!("{} {state}; {} ends:\n{}", self.name, self.log.display(), self.tail()))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The last lines of a log, or why there are none.
pub fn tail(log: &Path) -> String {
    let text = match fs::read(log) {
        Ok(bytes) => String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(TAIL_BYTES)..]).into_owned(),
        Err(error) => return format!("  (cannot read it: {error})"),
    };
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
}

/// The same command, killed by the kernel when we end, even if nobody can tell it to.
pub fn bound_to_us(command: &Command) -> Command {
    static SETPRIV: LazyLock<bool> = LazyLock::new(|| {
        let asked = Command::new("setpriv").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        asked.is_ok_and(|status| status.success())
    });
    let mut bound = if *SETPRIV { Command::new("setpriv") } else { Command::new("env") };
    if *SETPRIV {
        bound.args(["--pdeathsig", "KILL", "--"]);
    }
    bound.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => bound.env(name, value),
            None => bound.env_remove(name),
        };
    }
    if let Some(dir) = command.get_current_dir() {
        bound.current_dir(dir);
    }
    bound
}

/// The kernel means the thread when it says parent, and threads of tests come and go: one that stays starts them all.
fn spawn_from_lasting_thread(command: Command) -> io::Result<Child> {
    type Job = (Command, mpsc::Sender<io::Result<Child>>);
    static SPAWNER: LazyLock<Mutex<mpsc::Sender<Job>>> = LazyLock::new(|| {
        let (jobs, inbox) = mpsc::channel::<Job>();
        thread::spawn(move || {
            for (mut command, answer) in inbox {
                // Whoever asked may be gone; then so is the child.
                let _ = answer.send(command.spawn());
            }
        });
        Mutex::new(jobs)
    });
    let (answer, outcome) = mpsc::channel();
    let gone = || io::Error::other("the thread that starts processes is gone");
    SPAWNER.lock().map_err(|_| gone())?.send((command, answer)).map_err(|_| gone())?;
    outcome.recv().map_err(|_| gone())?
}

/// Different ports of the loopback where nobody listens, below those that the kernel gives to clients: one of them could
/// take the port of a server that is being restarted, or even connect to itself there.
pub fn free_ports(count: usize) -> Result<Vec<u16>> {
    const ATTEMPTS: usize = 1000;
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let lowest = range.split_whitespace().next().and_then(|port| port.parse().ok()).unwrap_or(32768);
    let from: u16 = if lowest > 20_000 { 15_000 } else { 1_100 };
    let mut found = BTreeSet::new();
    for _ in 0..ATTEMPTS {
        let port = fastrand::u16(from..lowest.max(from + 1000));
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            found.insert(port);
        }
        if found.len() == count {
            return Ok(found.into_iter().collect());
        }
    }
    bail!("there are no {count} free ports between {from} and {lowest} on 127.0.0.1");
}
