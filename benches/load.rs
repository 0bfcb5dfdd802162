//! The whole, under load: ours and a no-op on the same stack, each pinned to one core with the load on another, in turn
//! and several times, so that a ratio holds when the machine's speed drifts. `make bench` runs it.
//!
//! Twice: over HTTP/2 with `h2load`, which is what an API server speaks, and over HTTP/1.1 with `wrk`. Needs `taskset` and
//! `curl` beside these, and at least two cores. The goals are judged over HTTP/2.

#![allow(clippy::print_stdout, reason = "a benchmark prints")]

#[path = "support/fixtures.rs"]
mod fixtures;

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

const ROUNDS: usize = 5;
const SECONDS: u32 = 5;
/// Connections of HTTP/1.1, and connections times streams of HTTP/2.
const IN_FLIGHT: u32 = 16;
const SERVER_CORE: &str = "0";
const LOAD_CORE: &str = "1";

/// One run of the load.
#[derive(Clone, Copy, Default)]
struct Run {
    requests: f64,
    p50: f64,
    p99: f64,
    cpu: f64,
}

fn main() -> Result<()> {
    if std::thread::available_parallelism()?.get() < 2 {
        bail!("two cores are needed: one for the server, one for the load");
    }
    let scratch = tempfile::tempdir()?;
    let at = scratch.path();
    let certificates = at.join("certs");
    let noop = built("examples/noop")?;
    let ours = PathBuf::from(env!("CARGO_BIN_EXE_outrigger"));

    println!(
        "{ROUNDS} rounds of {SECONDS} s, {IN_FLIGHT} requests in flight over TLS, medians; server and load on a core each"
    );
    println!("{:<34}{:>12}{:>10}{:>10}{:>8}{:>12}", "", "requests/s", "p50 ms", "p99 ms", "CPU", "memory");
    let mut failed = false;
    for (name, sets, selected, goal) in
        [("a pod nothing selects, 100 sets", 100, false, 0.9), ("a pod with 3 of 10 sets", 10, true, 0.5)]
    {
        let manifests = at.join(format!("sets-{sets}"));
        write_sets(&manifests, sets)?;
        let body = fixtures::review(selected).to_string();
        let load = Load::new(at, &body)?;
        println!("{name} (review of {} bytes)", body.len());
        for protocol in [Protocol::Http2, Protocol::Http1] {
            let mut ours_server = Server::start(
                &ours,
                &[
                    "manager",
                    "--standalone",
                    text(&manifests)?,
                    "--port",
                    "0",
                    "--log",
                    "warn",
                    "--cert-dir",
                    text(&certificates)?,
                ],
                None,
            )?;
            let port = free_port()?;
            let mut noop_server = Server::start(&noop, &[text(&certificates)?, &port.to_string()], Some(port))?;
            let (mut us, mut floor) = (Vec::new(), Vec::new());
            for round in 0..=ROUNDS {
                let (a, b) = (load.run(&mut noop_server, protocol)?, load.run(&mut ours_server, protocol)?);
                // The first round warms up.
                if round > 0 {
                    floor.push(a);
                    us.push(b);
                }
            }
            let ratio = median(us.iter().zip(&floor).map(|(us, floor)| us.requests / floor.requests));
            let memory = ours_server.memory()?;
            row(&format!("  {protocol:?} no-op"), &floor, noop_server.memory()?);
            row(&format!("  {protocol:?} outrigger"), &us, memory);
            println!("  {protocol:?} ratio {ratio:.2} (goal {goal}), memory {memory:.1} MiB (goal 30)");
            failed |= (protocol == Protocol::Http2 && ratio < goal) || memory > 30.0;
        }
    }

    let start = median((0..ROUNDS).map(|_| start_to_first_answer(&ours, at, &certificates).unwrap_or(f64::NAN)));
    println!("start to first answer, 100 sets: {start:.0} ms (goal 100)");
    failed |= start.is_nan() || start > 100.0;
    println!("{}", if failed { "short of a goal" } else { "all goals met" });
    Ok(())
}

fn row(name: &str, runs: &[Run], memory: f64) {
    let of = |pick: fn(&Run) -> f64| median(runs.iter().map(pick));
    println!(
        "{name:<34}{:>12.0}{:>10.2}{:>10.2}{:>7.0}%{memory:>8.1} MiB",
        of(|run| run.requests),
        of(|run| run.p50),
        of(|run| run.p99),
        of(|run| run.cpu),
    );
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a path that is not UTF-8")
}

/// Another program of this build: it lies beside the folder of this one.
fn built(name: &str) -> Result<PathBuf> {
    let mut path = PathBuf::from(env!("CARGO_BIN_EXE_outrigger"));
    path.pop();
    path.push(name);
    if !path.exists() {
        bail!("{} is missing; build it with: cargo build --release --example noop", path.display());
    }
    Ok(path)
}

fn write_sets(directory: &Path, count: usize) -> Result<()> {
    fs::create_dir_all(directory)?;
    for (n, set) in fixtures::sidecarsets(count).iter().enumerate() {
        fs::write(directory.join(format!("{n:03}.json")), set.to_string())?;
    }
    Ok(())
}

/// What the load is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    /// `h2load`, as many streams on few connections.
    Http2,
    /// `wrk`, one request at a time on each connection.
    Http1,
}

/// A server that is stopped when it goes out of scope.
struct Server {
    process: Child,
    port: u16,
}

impl Server {
    /// Starts a server on its core. Without a port, it prints the address it listens on.
    fn start(program: &Path, args: &[&str], port: Option<u16>) -> Result<Self> {
        let mut command = Command::new("taskset");
        command.args(["-c", SERVER_CORE]).arg(program).args(args).stdout(Stdio::piped());
        let mut process = command.spawn().context("taskset (util-linux) is needed")?;
        let port = if let Some(port) = port {
            port
        } else {
            let mut line = String::new();
            BufReader::new(process.stdout.take().context("no output")?).read_line(&mut line)?;
            let address = line.split_whitespace().find_map(|word| word.strip_prefix("https://127.0.0.1:"));
            address.with_context(|| format!("the server said {line:?}"))?.parse()?
        };
        let server = Self { process, port };
        let started = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", server.port)).is_err() {
            if started.elapsed() > Duration::from_secs(10) {
                bail!("{} does not listen", program.display());
            }
            std::thread::yield_now();
        }
        Ok(server)
    }

    /// Resident memory in MiB.
    fn memory(&self) -> Result<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        let kib: f64 = line.trim().trim_end_matches(" kB").trim().parse()?;
        Ok(kib / 1024.0)
    }

    /// Processor time used so far, in clock ticks of 10 ms.
    fn ticks(&self) -> Result<f64> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.process.id()))?;
        let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
        Ok(fields[11].parse::<f64>()? + fields[12].parse::<f64>()?)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Posts one body again and again.
struct Load {
    body: PathBuf,
    script: PathBuf,
    log: PathBuf,
}

impl Load {
    fn new(at: &Path, body: &str) -> Result<Self> {
        let load = Self { body: at.join("body.json"), script: at.join("post.lua"), log: at.join("h2load.log") };
        fs::write(&load.body, body)?;
        let lua = format!(
            "wrk.method = 'POST'\nwrk.headers['Content-Type'] = 'application/json'\nwrk.body = [==[{body}]==]\n"
        );
        fs::write(&load.script, lua)?;
        Ok(load)
    }

    fn run(&self, server: &mut Server, protocol: Protocol) -> Result<Run> {
        let before = server.ticks()?;
        let run = match protocol {
            Protocol::Http2 => self.h2load(server.port)?,
            Protocol::Http1 => self.wrk(server.port)?,
        };
        Ok(Run { cpu: (server.ticks()? - before) / f64::from(SECONDS), ..run })
    }

    fn wrk(&self, port: u16) -> Result<Run> {
        let mut command = Command::new("taskset");
        command.args(["-c", LOAD_CORE, "wrk", "-t1", "--latency"]).arg(format!("-c{IN_FLIGHT}"));
        command.arg(format!("-d{SECONDS}s")).arg("-s").arg(&self.script).arg(url(port));
        let printed = output(command, "wrk (Debian package wrk)")?;
        if printed.contains("Non-2xx") || printed.contains("Socket errors") {
            bail!("requests failed:\n{printed}");
        }
        let requests = after(&printed, "Requests/sec:")?.parse()?;
        Ok(Run { requests, p50: millis(&after(&printed, "50%")?)?, p99: millis(&after(&printed, "99%")?)?, cpu: 0.0 })
    }

    fn h2load(&self, port: u16) -> Result<Run> {
        let _ = fs::remove_file(&self.log);
        let mut command = Command::new("taskset");
        command.args(["-c", LOAD_CORE, "h2load", "-t1", "-c2", "-m"]).arg((IN_FLIGHT / 2).to_string());
        command.arg("-D").arg(SECONDS.to_string()).arg("-d").arg(&self.body);
        command.args(["-H", "content-type: application/json"]).arg("--log-file").arg(&self.log).arg(url(port));
        let printed = output(command, "h2load (Debian package nghttp2-client)")?;
        if !printed.contains(" 0 failed, 0 errored, 0 timeout") {
            bail!("requests failed:\n{printed}");
        }
        let finished = after(&printed, "finished in")?;
        let requests = finished.split_whitespace().nth(1).context("h2load printed no rate")?.parse()?;
        // A line a request: when it began, its status, and microseconds to its answer.
        let log = fs::read_to_string(&self.log)?;
        let mut took: Vec<f64> = log.lines().filter_map(|line| line.split_whitespace().nth(2)?.parse().ok()).collect();
        took.sort_by(f64::total_cmp);
        let percentile = |part: usize| took.get(took.len() * part / 100).copied().unwrap_or(f64::NAN) / 1000.0;
        Ok(Run { requests, p50: percentile(50), p99: percentile(99), cpu: 0.0 })
    }
}

fn url(port: u16) -> String {
    format!("https://127.0.0.1:{port}/mutate-pod")
}

fn output(mut command: Command, needed: &str) -> Result<String> {
    let output = command.output()?;
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        bail!("{needed} is needed:\n{printed}{}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(printed)
}

fn after(printed: &str, label: &str) -> Result<String> {
    let line = printed.lines().find_map(|line| line.trim().strip_prefix(label));
    line.map(|value| value.trim().to_owned()).with_context(|| format!("no {label} in:\n{printed}"))
}

/// A duration as wrk prints it, in milliseconds.
fn millis(text: &str) -> Result<f64> {
    let units = [("us", 0.001), ("ms", 1.0), ("s", 1000.0)];
    for (unit, factor) in units {
        if let Some(number) = text.strip_suffix(unit) {
            return Ok(number.parse::<f64>()? * factor);
        }
    }
    bail!("{text:?} is no duration")
}

fn free_port() -> Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// From the start of the process to the first answer over TLS, in milliseconds.
fn start_to_first_answer(program: &Path, at: &Path, certificates: &Path) -> Result<f64> {
    let body = at.join("first.json");
    fs::write(&body, fixtures::review(false).to_string())?;
    let port = free_port()?;
    let manifests = at.join("sets-100");
    let started = Instant::now();
    let server = Server::start(
        program,
        &[
            "manager",
            "--standalone",
            text(&manifests)?,
            "--port",
            &port.to_string(),
            "--log",
            "warn",
            "--cert-dir",
            text(certificates)?,
        ],
        Some(port),
    )?;
    let client = Command::new("curl")
        .args(["-sS", "--fail", "--cacert"])
        .arg(certificates.join("ca.crt"))
        .args(["-H", "Content-Type: application/json", "--data-binary"])
        .arg(format!("@{}", body.display()))
        .arg(format!("https://127.0.0.1:{}/mutate-pod", server.port))
        .output()
        .context("curl is needed")?;
    let took = started.elapsed();
    if !client.status.success() {
        bail!("no answer: {}", String::from_utf8_lossy(&client.stderr));
    }
    Ok(took.as_secs_f64() * 1000.0)
}
