//! `dev up` as a person runs it: the application, a Redis and a dev gateway, and their common end.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use harness::feeds::Update;
use harness::runtime::{Kind, VARIABLE_PREFIX};
use harness::{Redis, http_client, port, process, redis, workspace_root};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use reqwest::StatusCode;
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::Child;
use tokio::time::{Instant, sleep, timeout};

/// A first run builds the components and the stand-in host.
const BUILD_PATIENCE: Duration = Duration::from_secs(300);
const PATIENCE: Duration = Duration::from_secs(60);
const POLL_EVERY: Duration = Duration::from_millis(50);

const ACCEPTED: &str = "您的订单已接单，点击查看订单详情。";
/// The last that it says once everything runs.
const WELCOME_END: &str = "Ctrl-C ends everything that was started here.";
const TOKEN: &str = "service-token";
const SECRET: &str = "whsec_dGhlLWRldi1nYXRld2F5cy1zZWNyZXQtaW4tdGVzdHM=";

/// A `dev up` that runs, on ports and in a folder of its own; it ends with the test, and so does what it started,
/// which watches for its end.
struct Up {
    child: Child,
    folder: TempDir,
    ports: Ports,
}

#[derive(Clone, Copy)]
struct Ports {
    http: u16,
    redis: u16,
    gateway: u16,
}

impl Ports {
    fn new() -> Self {
        Self { http: port::free(), redis: port::free(), gateway: port::free() }
    }

    fn all_are_free(self) -> bool {
        [self.http, self.redis, self.gateway].into_iter().all(|port| port::is_free(local(port)))
    }
}

fn local(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

fn runtime() -> String {
    std::env::var("RUNTIME").unwrap_or_else(|_| "auto".to_owned())
}

fn command(folder: &TempDir, ports: Ports, triggers: &str) -> Command {
    let file = |name: &str| File::create(folder.path().join(name)).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_dev"));
    command
        .arg("up")
        .env("LISTEN", local(ports.http).to_string())
        .env("REDIS_URL", format!("redis://127.0.0.1:{}", ports.redis))
        .env("GATEWAY_LISTEN", local(ports.gateway).to_string())
        .env("STATE_DIR", folder.path().join("state"))
        .env("RUNTIME", runtime())
        .env("TRIGGERS", triggers)
        .env("API_TOKEN", TOKEN)
        .env("ADMIN_TOKEN", "operator-token")
        .env("CARD_KEY", "test:ZGV2LWNhcmQta2V5LW9mLXRoaXMtbWFjaGluZS1vbmw=")
        // The one that these tests were built with: another build of it takes minutes.
        .env("CLINIC_HOST", workspace_root().join("target/debug/clinic-host"))
        .env("GATEWAY_SECRET", SECRET)
        .stdin(Stdio::null())
        .stdout(file("stdout"))
        .stderr(file("stderr"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with(VARIABLE_PREFIX) {
            command.env_remove(name);
        }
    }
    command
}

impl Up {
    /// Returns when it has said what to try.
    async fn start(triggers: &str) -> Self {
        Self::start_at(Ports::new(), triggers).await
    }

    async fn start_at(ports: Ports, triggers: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let command = command(&folder, ports, triggers);
        let child = tokio::process::Command::from(command).kill_on_drop(true).spawn().unwrap();
        let mut up = Self { child, folder, ports };
        up.wait_for(WELCOME_END, BUILD_PATIENCE).await;
        up
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().unwrap().try_into().unwrap())
    }

    fn output(&self, stream: &str) -> String {
        String::from_utf8_lossy(&fs::read(self.folder.path().join(stream)).unwrap()).into_owned()
    }

    /// Waits until its standard output has `text`.
    async fn wait_for(&mut self, text: &str, patience: Duration) {
        let deadline = Instant::now() + patience;
        while !self.output("stdout").contains(text) {
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none() && Instant::now() < deadline, "no {text:?}; {ended:?}; {}", self.everything());
            sleep(POLL_EVERY).await;
        }
    }

    fn everything(&self) -> String {
        format!("stdout:\n{}\nstderr:\n{}", self.output("stdout"), self.output("stderr"))
    }

    /// How many lines say that a patient was told.
    fn lines_of_accepted(&self) -> usize {
        self.output("stdout").lines().filter(|line| line.ends_with(ACCEPTED)).count()
    }

    /// What has arrived at the dev gateway.
    async fn received(&self) -> Vec<Value> {
        let url = format!("http://{}/received", local(self.ports.gateway));
        http_client(PATIENCE).get(url).send().await.unwrap().json().await.unwrap()
    }

    /// Waits until `n` messages have arrived and are shown.
    async fn wait_for_messages(&self, n: usize) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let received = self.received().await;
            let arrived = received.iter().filter(|request| request["message"]["body"] == ACCEPTED).count();
            if arrived == n && self.lines_of_accepted() == n {
                assert!(received.iter().all(|request| request["verified"] == true), "{received:#?}");
                return;
            }
            assert!(Instant::now() < deadline, "not {n} messages: {received:#?}; {}", self.everything());
            sleep(POLL_EVERY).await;
        }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", local(self.ports.http))
    }

    async fn status_of_push(&self) -> Option<StatusCode> {
        let answer = http_client(PATIENCE).get(self.url("/push")).bearer_auth(TOKEN).send().await;
        answer.ok().map(|answer| answer.status())
    }

    async fn post_event(&self, order_id: u64) -> StatusCode {
        let request = http_client(PATIENCE).post(self.url("/push/events")).bearer_auth(TOKEN);
        request.json(&accepted(order_id)).send().await.unwrap().status()
    }

    /// The runtime's own process: the child that is told where to listen.
    fn runtime_process(&self) -> Pid {
        let mut children = process::all();
        children.retain(|child| child.parent == self.pid());
        let expected = match Kind::choose(&runtime()).unwrap() {
            Kind::Spin => "spin",
            Kind::Host => "clinic-host",
        };
        let found: Vec<_> = children.iter().filter(|child| child.program == expected).collect();
        assert_eq!(found.len(), 1, "{expected}: {children:?}");
        found[0].pid
    }

    /// Ctrl-C; returns when it has ended and its ports are free.
    async fn interrupt(mut self) -> ExitStatus {
        kill(self.pid(), Signal::SIGINT).unwrap();
        let ended = timeout(PATIENCE, self.child.wait()).await;
        let status = ended.unwrap_or_else(|_| panic!("it does not end: {}", self.everything())).unwrap();
        assert!(self.ports.all_are_free(), "something is left: {}", self.everything());
        status
    }
}

fn accepted(order_id: u64) -> Value {
    Update::new(order_id, "待接单", "待服务").by("nurse_accepted").maxwell()
}

#[tokio::test]
async fn the_application_runs_and_is_restarted_and_leaves_nothing() {
    let mut up = Up::start("all").await;
    assert_eq!(up.status_of_push().await, Some(StatusCode::OK));

    let url = format!("redis://127.0.0.1:{}", up.ports.redis);
    let mut connection = redis::connect(&url).await.unwrap();
    let event = accepted(98001).to_string();
    let publish = ::redis::cmd("PUBLISH").arg("orders").arg(event).to_owned();
    let heard: u64 = publish.query_async(&mut connection).await.unwrap();
    assert_eq!(heard, 1);
    up.wait_for_messages(1).await;

    assert_eq!(up.post_event(98002).await, StatusCode::ACCEPTED);
    up.wait_for_messages(2).await;

    // Its Redis rings for a stream, keeps it, and is told of as one.
    let event = accepted(98003).to_string();
    let add = ::redis::cmd("XADD").arg(&["orders:stream", "*", "message", &event]).to_owned();
    let _: String = add.query_async(&mut connection).await.unwrap();
    up.wait_for_messages(3).await;
    assert!(up.folder.path().join("state/redis/appendonlydir").is_dir());
    let said = up.output("stdout");
    let streams = ["orders:stream", "pharmacy:stream", "accounts:stream"];
    assert!(streams.iter().all(|stream| said.contains(&format!("{stream} (stream)"))), "{said}");
    assert!(said.contains("xadd orders:stream '*' message '{"), "{said}");
    assert!(!said.contains("notify-keyspace-events"), "{said}");

    let first = up.runtime_process();
    kill(first, Signal::SIGKILL).unwrap();
    up.wait_for("The runtime has ended by itself", PATIENCE).await;
    up.wait_for("It is started again in", PATIENCE).await;
    up.wait_for("The runtime runs again", PATIENCE).await;
    assert_ne!(up.runtime_process(), first);
    assert_eq!(up.post_event(98004).await, StatusCode::ACCEPTED);
    up.wait_for_messages(4).await;

    let status = up.interrupt().await;
    assert!(status.success(), "{status}");
}

#[tokio::test]
async fn a_redis_that_was_there_and_does_not_ring_is_told_of_and_left_as_it_is() {
    let ports = Ports::new();
    let silent = Redis::builder().port(ports.redis).setting("notify-keyspace-events", "Ex").start().await.unwrap();
    let mut up = Up::start_at(ports, "all").await;
    let set = redis::keyspace_events(&silent.url()).await.unwrap();
    assert!(!set.contains(['K', 't']), "{set}");
    let said = up.output("stdout");
    let notes: Vec<_> = said.lines().filter(|line| line.contains("Note: ")).collect();
    let command = format!("redis-cli -u {} config set notify-keyspace-events {set}Kt", silent.url());
    assert!(notes.len() == 1 && notes[0].ends_with(&command), "{said}");

    kill(up.pid(), Signal::SIGINT).unwrap();
    let status = timeout(PATIENCE, up.child.wait()).await.expect("it ends").unwrap();
    assert!(status.success() && redis::answers(&silent.url()).await, "{status}");
}

#[tokio::test]
async fn http_alone_needs_no_redis() {
    let up = Up::start("http").await;
    assert!(port::is_free(local(up.ports.redis)));
    assert_eq!(up.status_of_push().await, Some(StatusCode::OK));
    let status = up.interrupt().await;
    assert!(status.success(), "{status}");
}

#[test]
fn without_a_token_it_does_not_start() {
    for empty in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let ports = Ports::new();
        let mut command = command(&folder, ports, "http");
        if empty {
            command.env("API_TOKEN", "");
        } else {
            command.env_remove("API_TOKEN");
        }
        let status = command.status().unwrap();
        let error = fs::read_to_string(folder.path().join("stderr")).unwrap();
        assert!(!status.success());
        // By its name as an option: `--api-token <API_TOKEN>`.
        assert!(error.contains("API_TOKEN"), "{error}");
        assert!(!error.contains(TOKEN) && ports.all_are_free());
    }
}

#[test]
fn a_redis_url_that_is_no_origin_is_refused_at_once() {
    for (parameter, url) in
        [("REDIS_URL", "redis://127.0.0.1:6379/0"), ("SPIN_VARIABLE_REDIS_URL", "redis://:pw@127.0.0.1")]
    {
        let folder = tempfile::tempdir().unwrap();
        let ports = Ports::new();
        let status = command(&folder, ports, "all").env(parameter, url).status().unwrap();
        let error = fs::read_to_string(folder.path().join("stderr")).unwrap();
        assert!(!status.success() && error.contains("REDIS_URL must be redis://host"), "{error}");
        assert!(!error.contains("pw") && ports.all_are_free());
    }
}

#[test]
fn a_variable_of_somebody_else_need_not_be_utf_8() {
    use std::{ffi::OsStr, os::unix::ffi::OsStrExt};
    let latin = OsStr::from_bytes(b"caf\xe9");
    let folder = tempfile::tempdir().unwrap();
    let mut others = command(&folder, Ports::new(), "all");
    // It gets as far as the next fault.
    let status = others.env("CAFE", latin).env("REDIS_URL", "nowhere").status().unwrap();
    let error = fs::read_to_string(folder.path().join("stderr")).unwrap();
    assert!(!status.success() && error.contains("REDIS_URL"), "{error}");

    let mut ours = command(&folder, Ports::new(), "all");
    let status = ours.env("SPIN_VARIABLE_APP_LINK", latin).status().unwrap();
    let error = fs::read_to_string(folder.path().join("stderr")).unwrap();
    assert!(!status.success() && error.contains("SPIN_VARIABLE_APP_LINK is not UTF-8"), "{error}");
}
