//! The node's side against a runtime of our own on a real unix socket.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail the test")]

#[path = "support/cri/mod.rs"]
mod fake;
#[path = "support/proto.rs"]
mod proto;

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use outrigger::cri::detect::{Detector, Pace, Places, Runtimes};
use outrigger::cri::{self, Client, Metrics, Why, v1};
use outrigger::daemon::http::{self, Get};
use outrigger::health::Readiness;
use outrigger::images::progress;
use rstest::rstest;
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tonic::Code;

use self::fake::{Behaviour, Runtime, Serves, until};

#[test]
fn the_code_of_the_runtimes_messages_is_what_their_description_makes() {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let mut changed = Vec::new();
    for generated in proto::generate().unwrap() {
        let committed = fs::read_to_string(generated.path).unwrap_or_default();
        let made = target.join(generated.path.replace('/', "-"));
        fs::write(&made, &generated.text).unwrap();
        if committed != generated.text {
            changed.push(format!("cp {} {}", made.display(), generated.path));
        }
    }
    assert!(changed.is_empty(), "changed; take it: {}", changed.join("; "));
}

// === calls ===

fn node() -> (Runtime, Client) {
    let runtime = Runtime::alone();
    let client = Client::new(&runtime.socket, Metrics::default());
    (runtime, client)
}

#[tokio::test]
async fn containers_of_a_pod_come_newest_first_with_all_that_is_read_of_them_cri_4() {
    let (runtime, client) = node();
    let old = runtime.run("uid-1", "web", 0);
    runtime.crash(&old, 3);
    let new = runtime.run("uid-1", "web", 1);
    runtime.run("uid-2", "web", 0);
    let found = client.containers("uid-1").await.unwrap();
    assert_eq!(found.iter().map(|status| status.id.as_str()).collect::<Vec<_>>(), [&*new, &*old]);
    assert_eq!((found[1].exit_code, found[1].state()), (3, v1::ContainerState::ContainerExited));
    assert_eq!(cri::name_of(&found[0]), Some("web"));
    assert_eq!(found[0].annotations[cri::RESTART_COUNT], "1");
}

#[tokio::test]
async fn a_container_that_vanishes_between_list_and_status_is_left_out_weak_7() {
    let (runtime, client) = node();
    runtime.run("uid-1", "web", 0);
    runtime.world().vanishing = true;
    assert_eq!(client.containers("uid-1").await, Ok(Vec::new()));
}

#[tokio::test]
async fn a_container_that_is_gone_is_stopped_weak_7() {
    let (_runtime, client) = node();
    assert_eq!(client.stop("c-1", Duration::ZERO).await, Ok(()));
}

#[tokio::test]
async fn a_stop_that_fails_says_which_call_on_which_socket_and_why() {
    let (runtime, client) = node();
    let id = runtime.run("uid-1", "web", 0);
    let refusal = Behaviour::Fails(Duration::ZERO, Code::Internal, "shim is stuck".to_owned());
    runtime.world().stops.insert("web".to_owned(), [refusal].into());
    let error = client.stop(&id, Duration::from_secs(1)).await.unwrap_err().to_string();
    let told =
        format!("StopContainer on {}: the container runtime answers Internal: shim is stuck", runtime.socket.display());
    assert_eq!(error, told);
}

#[tokio::test]
async fn a_command_tells_its_exit_code_and_what_it_said_crr_56() {
    let (runtime, client) = node();
    let id = runtime.run("uid-1", "web", 0);
    let said = Behaviour::Exits(Duration::ZERO, 7, format!("{}no such file\n", "x".repeat(5000)));
    runtime.world().execs.insert("web".to_owned(), [said].into());
    let done = client.exec(&id, &["/bin/drain".to_owned()], Duration::from_secs(5)).await.unwrap();
    assert_eq!(done.exit_code, 7);
    assert!(done.said.ends_with("no such file") && done.said.len() <= 400, "{}", done.said);
}

#[tokio::test]
async fn a_command_is_waited_for_no_longer_than_it_may_take() {
    let (runtime, client) = node();
    let id = runtime.run("uid-1", "web", 0);
    runtime.world().execs.insert("web".to_owned(), [Behaviour::Hangs].into());
    let error = client.exec(&id, &["/hang".to_owned()], Duration::from_millis(100)).await.unwrap_err();
    assert_eq!(error.why, Why::Slow(Duration::from_millis(100)));
    until("the command to be ended", || runtime.world().cancelled.len() == 1).await;
}

#[tokio::test]
async fn calls_go_on_after_the_runtime_was_away_weak_36() {
    let (mut runtime, client) = node();
    let id = runtime.run("uid-1", "web", 0);
    assert_eq!(client.containers("uid-1").await.unwrap().len(), 1);
    runtime.close();
    let error = client.containers("uid-1").await.unwrap_err();
    assert!(matches!(&error.why, Why::Unreachable(_)), "{error}");
    runtime.open();
    assert_eq!(client.containers("uid-1").await.unwrap()[0].id, id);
}

#[rstest]
#[case::hangs(Serves::Hangs, "no answer within 5 s")]
#[case::is_another(Serves::Other, "CRI v1 is needed")]
#[case::says_nothing(Serves::Nameless, "lacks runtime_name")]
#[tokio::test]
async fn what_is_no_runtime_is_told_apart_dmn_10(#[case] serves: Serves, #[case] told: &str) {
    let (runtime, client) = node();
    runtime.world().serves = serves;
    if serves == Serves::Hangs {
        assert!(client.version().await.unwrap_err().to_string().contains(told));
        return;
    }
    let error = client.version().await.unwrap_err().to_string();
    assert!(error.contains(told), "{error}");
}

#[tokio::test]
async fn images_are_pulled_and_found_and_a_pull_that_is_given_up_ends() {
    let (runtime, client) = node();
    let request = |image: &str| v1::PullImageRequest {
        image: Some(v1::ImageSpec { image: image.to_owned(), ..v1::ImageSpec::default() }),
        auth: Some(v1::AuthConfig {
            username: "me".to_owned(),
            password: "secret".to_owned(),
            ..v1::AuthConfig::default()
        }),
        ..v1::PullImageRequest::default()
    };
    assert!(!format!("{:?}", request("a")).contains("secret"));
    client.image_fs_info().await.unwrap();
    assert_eq!(client.image("a:1").await.unwrap(), None);
    let id = client.pull(request("a:1"), Duration::from_secs(5)).await.unwrap();
    assert_eq!(client.image("a:1").await.unwrap().unwrap().id, id);
    assert_eq!(client.images().await.unwrap().len(), 1);
    runtime.world().pulls.insert("b:1".to_owned(), [Behaviour::Hangs].into());
    client.pull(request("b:1"), Duration::from_millis(50)).await.unwrap_err();
    until("the pull to be ended", || runtime.world().cancelled == ["pull b:1 me"]).await;
}

#[tokio::test]
async fn containerd_tells_how_far_a_pull_is_weak_28() {
    let (runtime, client) = node();
    let brings = Behaviour::Brings(Duration::from_secs(1), vec![1000, 3000]);
    runtime.world().pulls.insert("reg.example:5000/app:1".to_owned(), [brings].into());
    let image = Some(v1::ImageSpec { image: "reg.example:5000/app:1".to_owned(), ..v1::ImageSpec::default() });
    let request = v1::PullImageRequest { image, ..v1::PullImageRequest::default() };
    let mut pull = std::pin::pin!(client.pull(request, Duration::from_secs(5)));
    let look = async {
        loop {
            let found = client.blobs(progress::filter("reg.example:5000/app")).await.unwrap();
            let underway = client.blobs_underway().await.unwrap();
            if let ([manifest], [status, ..]) = (&*found, &*underway) {
                let text = client.read_blob(&manifest.digest, progress::LONGEST).await.unwrap();
                let mut account = progress::Account::read(&text).unwrap();
                account.arriving(progress::digest_of(&status.r#ref).unwrap(), status.offset.try_into().unwrap());
                return account.percent();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        _ = &mut pull => panic!("it was not seen"),
        percent = look => assert!((0..99).contains(&percent), "{percent}"),
    }
    assert!(client.blob("sha256:none").await.unwrap().is_none());
    runtime.world().is_mute = true;
    let error = client.blobs_underway().await.unwrap_err();
    assert!(matches!(error.why, Why::NotServed(_)), "{error}");
}

// === detection ===

/// Looks for runtimes in `dir`, quickly.
struct Looking {
    runtimes: watch::Receiver<Arc<Runtimes>>,
    readiness: Readiness,
    stopping: CancellationToken,
}

fn look(dir: &Path, only: Option<&Path>) -> Looking {
    let places = Places { run_dir: dir.to_owned(), only: only.map(Path::to_owned) };
    let fast = Duration::from_millis(20);
    let pace = Pace { check: fast, retry: (fast, fast * 2), window: Duration::from_millis(200) };
    let detector = Detector::new(&places, pace, &Metrics::default());
    let stopping = CancellationToken::new();
    let readiness = Readiness::new(stopping.clone());
    let runtimes = detector.runtimes();
    tokio::spawn(detector.run(readiness.part("runtime"), stopping.clone()));
    Looking { runtimes, readiness, stopping }
}

impl Looking {
    fn names(&self) -> Vec<String> {
        self.runtimes.borrow().usable.iter().map(|runtime| runtime.version.name.clone()).collect()
    }
}

impl Drop for Looking {
    fn drop(&mut self) {
        self.stopping.cancel();
    }
}

#[tokio::test]
async fn without_a_socket_it_is_not_ready_says_why_and_takes_the_one_that_comes_late_weak_36() {
    let dir = tempfile::tempdir().unwrap();
    let looking = look(dir.path(), None);
    until("a reason", || looking.readiness.report().contains("there is no socket at")).await;
    assert!(looking.readiness.report().contains("k3s/containerd/containerd.sock"), "{}", looking.readiness.report());
    assert!(!looking.readiness.is_ready());
    let _runtime = Runtime::start(&dir.path().join("k3s/containerd/containerd.sock"), "containerd");
    until("the runtime", || looking.names() == ["containerd"] && looking.readiness.is_ready()).await;
}

#[tokio::test]
async fn a_runtime_that_is_lost_is_found_again_weak_36() {
    let dir = tempfile::tempdir().unwrap();
    let mut runtime = Runtime::start(&dir.path().join("containerd/containerd.sock"), "containerd");
    let looking = look(dir.path(), None);
    until("the runtime", || looking.readiness.is_ready()).await;
    runtime.close();
    until("the loss", || !looking.readiness.is_ready() && looking.names().is_empty()).await;
    runtime.open();
    until("the runtime again", || looking.readiness.is_ready()).await;
}

#[tokio::test]
async fn every_runtime_of_a_node_is_known_in_order_and_others_are_left_out_dmn_9() {
    let dir = tempfile::tempdir().unwrap();
    let at = |socket: &str, name: &str| Runtime::start(&dir.path().join(socket), name);
    let _crio = at("crio/crio.sock", "cri-o");
    let _containerd = at("containerd/containerd.sock", "containerd");
    let other = at("cri-dockerd.sock", "docker");
    other.world().serves = Serves::Other;
    std::fs::write(dir.path().join("containerd.sock"), "not a socket").unwrap();
    let looking = look(dir.path(), None);
    until("both", || looking.names() == ["containerd", "cri-o"]).await;
    let runtimes = looking.runtimes.borrow();
    assert_eq!(runtimes.named("cri-o").unwrap().version.name, "cri-o");
    assert!(runtimes.named("docker").is_none());
    assert_eq!(runtimes.trouble.len(), 2, "{:?}", runtimes.trouble);
    let preferred = runtimes.preferred(["cri-o", "cri-o", "containerd", "x"].into_iter()).unwrap();
    assert_eq!(preferred.version.name, "cri-o", "WEAK-37");
    assert_eq!(runtimes.preferred(std::iter::empty()).unwrap().version.name, "containerd");
}

#[tokio::test]
async fn a_flag_is_the_only_place_that_is_looked_at_dmn_8() {
    let dir = tempfile::tempdir().unwrap();
    let _other = Runtime::start(&dir.path().join("containerd.sock"), "containerd");
    let only = dir.path().join("mine.sock");
    let looking = look(dir.path(), Some(&only));
    until("a reason", || looking.readiness.report().contains("mine.sock")).await;
    assert!(looking.names().is_empty());
    let _mine = Runtime::start(&only, "cri-o");
    until("the runtime", || looking.names() == ["cri-o"]).await;
}

// === hooks by HTTP ===

/// Answers every connection with `answer`, over TLS if asked to; what was asked is sent away.
async fn server(answer: &'static str, tls: bool) -> (u16, mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (sender, asked) = mpsc::channel(8);
    let acceptor = tls.then(acceptor);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Some(acceptor) = &acceptor else {
                reply(stream, answer, &sender).await;
                continue;
            };
            if let Ok(stream) = acceptor.accept(stream).await {
                reply(stream, answer, &sender).await;
            }
        }
    });
    (port, asked)
}

async fn reply(mut stream: impl AsyncRead + AsyncWrite + Unpin, answer: &str, asked: &mpsc::Sender<String>) {
    let mut head = Vec::new();
    // A TLS greeting has no blank line; who speaks HTTP answers it anyway.
    while !head.ends_with(b"\r\n\r\n") && !head.starts_with(&[0x16]) {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    asked.send(String::from_utf8_lossy(&head).into_owned()).await.unwrap();
    _ = stream.write_all(answer.as_bytes()).await;
    _ = stream.shutdown().await;
}

fn acceptor() -> TlsAcceptor {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let made = rcgen::generate_simple_self_signed(["elsewhere.example".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_no_client_auth().with_single_cert(vec![made.cert.der().clone()], key).unwrap();
    TlsAcceptor::from(Arc::new(config))
}

fn hook(port: u16, is_https: bool) -> Get {
    let headers = [("X-Why", "drain"), ("Authorization", "Bearer secret"), ("Host", "web.example")];
    Get {
        is_https,
        host: "127.0.0.1".to_owned(),
        port,
        path: "/drain?fast=1".to_owned(),
        headers: headers.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
    }
}

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
const LIMIT: Duration = Duration::from_secs(5);

#[rstest]
#[case::in_the_clear(false)]
#[case::over_tls_whatever_the_certificate(true)]
#[tokio::test]
async fn a_hook_gets_its_path_with_its_headers_crr_57(#[case] tls: bool) {
    let (port, mut asked) = server(OK, tls).await;
    http::get(&hook(port, tls), LIMIT).await.unwrap();
    let asked = asked.recv().await.unwrap().to_ascii_lowercase();
    assert!(asked.starts_with("get /drain?fast=1 http/1.1\r\n"), "{asked}");
    for header in ["x-why: drain\r\n", "host: web.example\r\n", "authorization: bearer secret\r\n"] {
        assert!(asked.contains(header), "{asked}");
    }
}

#[tokio::test]
async fn https_that_is_answered_in_the_clear_is_asked_again_so_without_credentials_crr_57() {
    let (port, mut asked) = server("HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n", false).await;
    let error = http::get(&hook(port, true), LIMIT).await.unwrap_err();
    assert_eq!(error.to_string(), "the answer is 400 Bad Request");
    asked.recv().await.unwrap();
    let second = asked.recv().await.unwrap().to_ascii_lowercase();
    assert!(second.starts_with("get /drain?fast=1") && !second.contains("secret"), "{second}");
}

#[tokio::test]
async fn a_hook_that_cannot_be_sent_or_is_not_answered_says_so() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = silent.local_addr().unwrap().port();
    let limit = Duration::from_secs(1);
    assert_eq!(http::get(&hook(port, false), limit).await.unwrap_err().to_string(), "no answer within 1 s");
    drop(silent);
    let error = http::get(&hook(port, false), limit).await.unwrap_err().to_string();
    assert!(error.starts_with(&format!("127.0.0.1:{port} cannot be connected: ")), "{error}");
    let odd = Get { headers: vec![("a b".to_owned(), String::new())], ..hook(port, false) };
    let error = http::get(&odd, limit).await.unwrap_err().to_string();
    assert_eq!(error, "the hook's httpGet is not in order: header \"a b\"");
}
