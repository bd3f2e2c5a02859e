//! What the runtime promises its components, shown by the component in `tests/probe` on the host as it is built.

use std::{
    fs,
    net::TcpListener as StdListener,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use harness::{Redis, port};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    task::JoinSet,
    time::sleep,
};

const PATIENCE: Duration = Duration::from_secs(30);

fn probe() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../probe")
}

fn wasm() -> PathBuf {
    let wasm = probe().join("../../target/wasm32-wasip2/release/probe.wasm");
    assert!(
        wasm.is_file(),
        "there is no {}: run `cargo build --release --target wasm32-wasip2 -p probe`",
        wasm.display()
    );
    wasm.canonicalize().unwrap()
}

/// A host that runs, in a folder of its own; it ends with the test.
struct Host {
    child: Child,
    folder: TempDir,
    url: String,
}

/// How a host is started.
struct Start {
    folder: TempDir,
    command: Command,
}

impl Start {
    fn probe() -> Self {
        wasm();
        Self::manifest(&probe().join("spin.toml")).variable("TOKEN", "secret")
    }

    /// The HTTP half alone, which needs no Redis.
    fn http() -> Self {
        let mut start = Self::probe();
        start.command.args(["-c", "probe"]);
        start
    }

    fn manifest(path: &Path) -> Self {
        let folder = TempDir::new().unwrap();
        let file = |name: &str| fs::File::create(folder.path().join(name)).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_clinic-host"));
        command
            .args(["up", "--listen", "127.0.0.1:0", "-f"])
            .arg(path)
            .arg("--state-dir")
            .arg(folder.path().join("state"))
            .current_dir(&folder)
            .stdin(Stdio::null())
            .stdout(file("stdout"))
            .stderr(file("stderr"));
        for (key, _) in std::env::vars() {
            if key.starts_with("SPIN_VARIABLE_") {
                command.env_remove(key);
            }
        }
        Self { folder, command }
    }

    fn variable(mut self, name: &str, value: &str) -> Self {
        self.command.env(format!("SPIN_VARIABLE_{name}"), value);
        self
    }

    async fn up(mut self) -> Host {
        let child = self.command.spawn().unwrap();
        let mut host = Host { child, folder: self.folder, url: String::new() };
        let url = host.wait_for("stdout", "Serving ").await;
        host.url = url.lines().next().unwrap().trim().to_owned();
        host
    }

    /// For a host that must not start: what it said.
    fn fails(mut self) -> String {
        let status = self.command.status().unwrap();
        let stderr = fs::read_to_string(self.folder.path().join("stderr")).unwrap();
        assert_eq!(status.code(), Some(1), "{stderr}");
        stderr
    }
}

impl Host {
    fn output(&self, stream: &str) -> String {
        fs::read_to_string(self.folder.path().join(stream)).unwrap()
    }

    /// Waits until the host has said `text`, and gives what follows it.
    async fn wait_for(&mut self, stream: &str, text: &str) -> String {
        let start = Instant::now();
        loop {
            if let Some((_, rest)) = self.output(stream).split_once(text)
                && rest.contains('\n')
            {
                return rest.to_owned();
            }
            let ended = self.child.try_wait().unwrap();
            assert!(
                ended.is_none() && start.elapsed() < PATIENCE,
                "no {text:?} on {stream}; {ended:?}; {}",
                self.output("stderr")
            );
            sleep(Duration::from_millis(10)).await;
        }
    }

    async fn get(&self, path: &str) -> (u16, String) {
        let response = reqwest::get(format!("{}{path}", self.url)).await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    }

    async fn post(&self, path: &str, body: Value) -> (u16, Value) {
        let request = reqwest::Client::new().post(format!("{}{path}", self.url)).json(&body);
        let response = request.send().await.unwrap();
        (response.status().as_u16(), response.json().await.unwrap())
    }

    async fn sql(&self, sql: &str, params: Value) -> (u16, Value) {
        self.post("/probe/sqlite", json!({ "sql": sql, "params": params })).await
    }

    async fn redis(&self, command: &str, args: Value) -> (u16, Value) {
        self.post("/probe/redis", json!({ "command": command, "args": args })).await
    }

    /// By the synchronous functions of the interface.
    async fn sql_sync(&self, sql: &str, params: Value) -> (u16, Value) {
        self.post("/probe/sqlite", json!({ "sql": sql, "params": params, "sync": true })).await
    }

    /// By a function of the interface other than `execute`.
    async fn redis_function(&self, function: &str, args: Value) -> (u16, Value) {
        self.post("/probe/redis", json!({ "function": function, "args": args })).await
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), signal).unwrap();
    }

    async fn exit(&mut self) -> ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(start.elapsed() < PATIENCE, "the host does not end");
            sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn redis() -> Redis {
    Redis::start().await.unwrap()
}

/// Publishes once somebody listens.
async fn publish(redis: &Redis, channel: &str, message: &str) {
    redis.wait_for_subscriber(channel, PATIENCE).await.unwrap();
    redis.publish(channel, [message]).await.unwrap();
}

/// Answers every request with 204, and gives its origin.
async fn peer() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let origin = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut buffer = [0; 4096];
                while stream.read(&mut buffer).await.is_ok_and(|count| count > 0) {
                    let answer = b"HTTP/1.1 204 No Content\r\n\r\n";
                    if stream.write_all(answer).await.is_err() {
                        break;
                    }
                }
            });
        }
    });
    origin
}

/// A manifest of one component, with `top` and `component` added.
fn manifest(folder: &TempDir, top: &str, component: &str) -> PathBuf {
    let path = folder.path().join("spin.toml");
    let text = format!(
        r#"
        spin_manifest_version = 2
        application = {{ name = "test" }}
        {top}
        [[trigger.http]]
        route = "/..."
        component = "test"
        [component.test]
        source = {:?}
        {component}
        "#,
        wasm()
    );
    fs::write(&path, text).unwrap();
    path
}

#[tokio::test]
async fn routes_and_health() {
    let host = Start::http().up().await;
    assert_eq!(host.get("/probe/hello").await, (200, "Hello, world!".into()));
    assert_eq!(host.get("/.well-known/spin/health").await, (200, "OK".into()));
    assert_eq!(host.get("/.well-known/spin/other").await, (404, String::new()));
    assert_eq!(host.get("/").await, (404, String::new()));
    assert_eq!(host.get("/probes").await, (404, String::new()));
    // The component's own.
    assert_eq!(host.get("/probe").await.0, 404);

    let (_, headers) = host.get("/probe/headers?a=b").await;
    let headers: Value = serde_json::from_str(&headers).unwrap();
    assert_eq!(headers["spin-path-info"], "/headers");
    assert_eq!(headers["spin-full-url"], format!("{}/probe/headers?a=b", host.url));
    assert_eq!(headers["spin-matched-route"], "/probe/...");
    assert_eq!(headers["spin-component-route"], "/probe");
    assert!(headers.get("connection").is_none());
}

#[tokio::test]
async fn a_body_is_streamed_both_ways() {
    let host = Start::http().up().await;
    let body = vec![b'x'; 3 << 20];
    for echo in ["/probe/echo", "/probe/own-echo"] {
        let request = reqwest::Client::new().post(format!("{}{echo}", host.url));
        let response = request.body(body.clone()).send().await.unwrap();
        assert!(response.bytes().await.unwrap() == body, "{echo}");
    }
}

#[tokio::test]
async fn an_instance_is_reused_up_to_128_times_and_dropped_when_idle() {
    let host = Start::http().up().await;
    let mut most = 0;
    for _ in 0..300 {
        let (_, count) = host.get("/probe/count").await;
        most = most.max(count.parse().unwrap());
    }
    assert!((100..=128).contains(&most), "{most}");
    sleep(Duration::from_millis(2500)).await;
    assert_eq!(host.get("/probe/count").await.1, "1");
}

#[tokio::test]
async fn sixteen_requests_share_an_instance_and_the_next_gets_another() {
    let host = Start::http().up().await;
    host.get("/probe/hello").await;
    let start = Instant::now();
    let mut sleeping = JoinSet::new();
    for _ in 0..16 {
        let url = format!("{}/probe/sleep?ms=5000", host.url);
        sleeping.spawn(async move { reqwest::get(url).await.unwrap().status() });
        // One after the other, since an instance that computes takes no other request.
        sleep(Duration::from_millis(100)).await;
    }
    let (_, count) = host.get("/probe/count").await;
    while let Some(status) = sleeping.join_next().await {
        assert_eq!(status.unwrap(), 200);
    }
    // One after the other they would take 80 s.
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    assert_eq!(count, "1");
}

#[tokio::test]
async fn a_trap_answers_500_and_the_next_request_works() {
    let mut host = Start::http().up().await;
    assert_eq!(host.get("/probe/panic").await, (500, String::new()));
    assert_eq!(host.get("/probe/hello").await.0, 200);
    host.wait_for("stderr", "failed to answer /probe/panic").await;
}

#[tokio::test]
async fn variables_come_from_the_environment_a_file_or_their_defaults() {
    let host = Start::http().up().await;
    assert_eq!(host.get("/probe/variables/greeting").await, (200, "hello".into()));
    assert_eq!(host.get("/probe/variables/authorization").await.1, "Bearer secret");
    // The application's, not the component's.
    let (status, error) = host.get("/probe/variables/token").await;
    assert_eq!(status, 404);
    assert!(error.contains("Undefined"), "{error}");
    assert!(host.get("/probe/variables/NO").await.1.contains("InvalidName"));

    let start = Start::http().variable("TOKEN", "environment");
    let file = "SPIN_VARIABLE_GREETING=file\nSPIN_VARIABLE_TOKEN=file\n";
    fs::write(start.folder.path().join(".env"), file).unwrap();
    let host = start.up().await;
    assert_eq!(host.get("/probe/variables/greeting").await.1, "file");
    assert_eq!(host.get("/probe/variables/authorization").await.1, "Bearer environment");
}

#[test]
fn a_required_variable_without_a_value_stops_the_start() {
    let mut start = Start::http();
    start.command.env_remove("SPIN_VARIABLE_TOKEN");
    let error = start.fails();
    assert!(error.contains("SPIN_VARIABLE_TOKEN"), "{error}");
}

#[tokio::test]
async fn sqlite_keeps_what_was_written() {
    let host = Start::http().up().await;
    let (status, _) = host.sql("CREATE TABLE t (a INTEGER, b TEXT, c REAL, d)", json!([])).await;
    assert_eq!(status, 200);
    let (_, result) = host.sql("INSERT INTO t VALUES ($1, $2, $3, $4)", json!([1, "x", 1.5, null])).await;
    assert_eq!(result["changes"], 1);
    assert_eq!(result["last_insert_rowid"], 1);
    let (_, result) = host.sql("SELECT * FROM t", json!([])).await;
    assert_eq!(result["columns"], json!(["a", "b", "c", "d"]));
    assert_eq!(result["rows"], json!([[1, "x", 1.5, null]]));
    assert!(host.folder.path().join("state/sqlite_db.db").is_file());

    let (_, result) = host
        .sql(
            "WITH RECURSIVE n (i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 1000) SELECT i FROM n",
            json!([]),
        )
        .await;
    assert_eq!(result["rows"].as_array().unwrap().len(), 1000);

    let (status, error) = host.sql("SELEC", json!([])).await;
    assert_eq!(status, 500);
    assert!(error["error"].as_str().unwrap().contains("syntax error"), "{error}");
    let (_, error) = host.sql("ATTACH '/tmp/other.db' AS other", json!([])).await;
    assert!(error["error"].as_str().unwrap().contains("not authorized"), "{error}");
    let (_, error) = host.post("/probe/sqlite", json!({ "sql": "SELECT 1", "database": "other" })).await;
    assert!(error["error"].as_str().unwrap().contains("AccessDenied"), "{error}");
}

#[tokio::test]
async fn sqlite_has_synchronous_functions_too() {
    let host = Start::http().up().await;
    let (status, result) = host.sql_sync("CREATE TABLE t (a INTEGER, b TEXT, c REAL, d)", json!([])).await;
    assert_eq!(status, 200, "{result}");
    for (rowid, text) in [(1, "x"), (2, "y")] {
        let (_, result) = host.sql_sync("INSERT INTO t VALUES ($1, $2, $3, $4)", json!([1, text, 1.5, null])).await;
        assert_eq!(result, json!({ "columns": [], "rows": [], "changes": 1, "last_insert_rowid": rowid }));
    }
    let (_, result) = host.sql_sync("UPDATE t SET d = $1", json!(["z"])).await;
    assert_eq!(result["changes"], 2);
    let (_, result) = host.sql_sync("SELECT * FROM t WHERE b = $1", json!(["x"])).await;
    assert_eq!(result["columns"], json!(["a", "b", "c", "d"]));
    assert_eq!(result["rows"], json!([[1, "x", 1.5, "z"]]));
    // It is the same database.
    let (_, result) = host.sql("SELECT count(*) FROM t", json!([])).await;
    assert_eq!(result["rows"], json!([[2]]));

    let (status, error) = host.sql_sync("SELEC", json!([])).await;
    assert_eq!(status, 500);
    assert!(error["error"].as_str().unwrap().contains("syntax error"), "{error}");
    let (_, error) = host.sql_sync("ATTACH '/tmp/other.db' AS other", json!([])).await;
    assert!(error["error"].as_str().unwrap().contains("not authorized"), "{error}");
    let other = json!({ "sql": "SELECT 1", "database": "other", "sync": true });
    let (_, error) = host.post("/probe/sqlite", other).await;
    assert!(error["error"].as_str().unwrap().contains("AccessDenied"), "{error}");
}

#[tokio::test]
async fn only_a_granted_host_is_called() {
    let granted = peer().await;
    let other = peer().await;
    let mut host = Start::http().variable("PEER", &granted).up().await;
    let fetch = async |url: &str| host.get(&format!("/probe/fetch?url={url}/x")).await;
    assert_eq!(fetch(&granted).await, (200, json!({ "status": 204 }).to_string()));
    for _ in 0..2 {
        let denied = json!({ "error": "HttpRequestDenied" }).to_string();
        assert_eq!(fetch(&other).await, (502, denied));
    }
    let remedy = format!("allowed_outbound_hosts = [\"{other}\"]");
    host.wait_for("stderr", &remedy).await;
    assert_eq!(host.output("stderr").matches(&remedy).count(), 1);

    // A path that arrives by a variable refuses every call.
    let host = Start::http().variable("PEER", &format!("{granted}/path")).up().await;
    let (status, error) = host.get(&format!("/probe/fetch?url={granted}")).await;
    assert!(status == 502 && error.contains("HttpRequestDenied"), "{error}");
}

#[tokio::test]
async fn a_granted_host_that_is_not_there_is_refused_or_times_out() {
    let nobody = format!("http://127.0.0.1:{}", port::free());
    let host = Start::http().variable("PEER", &nobody).up().await;
    let (_, error) = host.get(&format!("/probe/fetch?url={nobody}")).await;
    assert!(error.contains("ConnectionRefused"), "{error}");

    // Connects, and never answers.
    let silent = StdListener::bind("127.0.0.1:0").unwrap();
    let silent = (format!("http://{}", silent.local_addr().unwrap()), silent);
    let host = Start::http().variable("PEER", &silent.0).up().await;
    let (_, error) = host.get(&format!("/probe/fetch?url={}", silent.0)).await;
    assert!(error.contains("ConnectionReadTimeout"), "{error}");
}

#[tokio::test]
async fn redis_is_called_and_its_messages_are_heard() {
    let redis = redis().await;
    let mut host = Start::probe().variable("REDIS_URL", &redis.url()).up().await;
    assert_eq!(host.redis("SET", json!(["key", "value"])).await, (200, json!(["OK"])));
    assert_eq!(host.redis("GET", json!(["key"])).await.1, json!(["value"]));
    assert_eq!(host.redis("GET", json!(["none"])).await.1, json!([null]));
    assert_eq!(host.redis("KEYS", json!(["none"])).await.1, json!([]));
    let nested = "return {1, {'a', {}}, {2}}";
    assert_eq!(host.redis("EVAL", json!([nested, "0"])).await.1, json!([1, "a", 2]));
    assert_eq!(host.redis("NONSENSE", json!([])).await.0, 502);
    let other = json!({ "command": "PING", "address": format!("redis://localhost:{}", redis.port()) });
    let (_, error) = host.post("/probe/redis", other).await;
    assert!(error["error"].as_str().unwrap().contains("InvalidAddress"), "{error}");

    host.wait_for("stdout", "Active Channels on").await;
    publish(&redis, "probe", "first").await;
    host.wait_for("stderr", "first").await;
    publish(&redis, "probe", "fail").await;
    host.wait_for("stderr", "failed on a message of channel \"probe\"").await;
    publish(&redis, "probe", "second").await;
    host.wait_for("stderr", "second").await;
    let log = host.folder.path().join("state/logs/probe-events_stdout.txt");
    assert_eq!(fs::read_to_string(log).unwrap(), "first\nfail\nsecond\n");
}

#[tokio::test]
async fn redis_has_a_function_for_each_of_the_usual_commands() {
    let redis = redis().await;
    let mut host = Start::probe().variable("REDIS_URL", &redis.url()).up().await;
    for (function, args, result) in [
        ("get", json!(["key"]), json!(null)),
        ("set", json!(["key", "value"]), json!(null)),
        ("get", json!(["key"]), json!("value")),
        ("incr", json!(["number"]), json!(1)),
        ("incr", json!(["number"]), json!(2)),
        ("sadd", json!(["set", "a", "b"]), json!(2)),
        ("sadd", json!(["set", "b", "c"]), json!(1)),
        ("srem", json!(["set", "a", "c", "none"]), json!(2)),
        ("smembers", json!(["set"]), json!(["b"])),
        ("smembers", json!(["none"]), json!([])),
        ("del", json!(["key", "number", "none"]), json!(2)),
        ("get", json!(["key"]), json!(null)),
    ] {
        let answer = host.redis_function(function, args.clone()).await;
        assert_eq!(answer, (200, result), "{function} {args}");
    }
    // What is written by a function is there for others.
    assert_eq!(host.redis("SMEMBERS", json!(["set"])).await.1, json!(["b"]));

    host.redis_function("set", json!(["text", "x"])).await;
    for (function, key) in [("incr", "text"), ("get", "set"), ("smembers", "text")] {
        let (status, error) = host.redis_function(function, json!([key])).await;
        assert_eq!(status, 502, "{function} {key}: {error}");
    }

    host.wait_for("stdout", "Active Channels on").await;
    publish(&redis, "probe", "subscribed").await;
    host.wait_for("stderr", "subscribed").await;
    assert_eq!(host.redis_function("publish", json!(["probe", "by a function"])).await, (200, json!(null)));
    host.wait_for("stderr", "by a function").await;
}

#[tokio::test]
async fn a_lost_redis_is_found_again_while_http_goes_on() {
    let port = port::free();
    // Not there at the start, either.
    let url = format!("redis://127.0.0.1:{port}");
    let mut host = Start::probe().variable("REDIS_URL", &url).variable("CHANNEL", "c").up().await;
    host.wait_for("stderr", "cannot be reached").await;
    assert_eq!(host.get("/probe/hello").await.0, 200);

    for round in ["round 1", "round 2"] {
        let redis = Redis::builder().port(port).start().await.unwrap();
        publish(&redis, "c", round).await;
        host.wait_for("stderr", round).await;
        let said = host.output("stderr");
        assert!(said.contains("is back"), "{said}");
        drop(redis);
        host.wait_for("stderr", "went away").await;
        assert_eq!(host.get("/probe/hello").await.0, 200);
    }
}

#[tokio::test]
async fn a_graceful_stop_finishes_what_is_in_flight() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut host = Start::http().up().await;
        let url = format!("{}/probe/sleep?ms=1500", host.url);
        let in_flight = tokio::spawn(async { reqwest::get(url).await.unwrap().text().await.unwrap() });
        sleep(Duration::from_millis(500)).await;
        host.signal(signal);
        sleep(Duration::from_millis(300)).await;
        assert!(reqwest::get(format!("{}/probe/hello", host.url)).await.is_err());
        assert_eq!(in_flight.await.unwrap(), "slept 1500 ms");
        assert_eq!(host.exit().await.code(), Some(0));
        assert!(!host.output("stderr").contains("failed"), "{}", host.output("stderr"));
    }
}

#[tokio::test]
async fn a_graceful_stop_finishes_the_redis_message_in_hand() {
    let redis = redis().await;
    let mut host = Start::probe().variable("REDIS_URL", &redis.url()).up().await;
    publish(&redis, "probe", "sleep 1500").await;
    host.wait_for("stderr", "sleep 1500").await;
    publish(&redis, "probe", "next").await;
    host.signal(Signal::SIGTERM);
    assert_eq!(host.exit().await.code(), Some(0));
    let log = host.folder.path().join("state/logs/probe-events_stdout.txt");
    assert_eq!(fs::read_to_string(log).unwrap(), "sleep 1500\nslept 1500 ms\n");
}

#[tokio::test]
async fn a_second_signal_stops_at_once() {
    let mut host = Start::http().up().await;
    let url = format!("{}/probe/sleep?ms=9000", host.url);
    let in_flight = tokio::spawn(reqwest::get(url));
    sleep(Duration::from_millis(500)).await;
    let start = Instant::now();
    host.signal(Signal::SIGTERM);
    sleep(Duration::from_millis(300)).await;
    host.signal(Signal::SIGTERM);
    host.exit().await;
    assert!(start.elapsed() < Duration::from_secs(6), "{:?}", start.elapsed());
    let _ = in_flight.await;
}

#[tokio::test]
async fn a_manifest_with_faults_does_not_start() {
    let folder = TempDir::new().unwrap();
    let fails = |top: &str, component: &str| Start::manifest(&manifest(&folder, top, component)).fails();

    let error = fails("", "key_value_stores = [\"default\"]");
    assert!(error.contains("key_value_stores"), "{error}");
    let error = fails("", "");
    assert!(error.contains("granted no database"), "{error}");
    let error = fails("", "sqlite_databases = [\"other\"]");
    assert!(error.contains("\"other\""), "{error}");
    let error = fails("", "allowed_outbound_hosts = [\"https://example.com/path\"]");
    assert!(error.contains("path"), "{error}");

    // All together.
    let trigger = "trigger.redis = [{ channel = \"c\", component = \"gone\", address = \"redis://127.0.0.1\" }]";
    let error = fails(trigger, "variables = { a = \"{{ b }}\" }");
    assert!(error.contains("\"gone\"") && error.contains("\"b\"") && error.contains("granted no"), "{error}");

    let path = manifest(&folder, "", "build = { command = \"make it\" }");
    let text = fs::read_to_string(&path).unwrap().replace("probe.wasm", "gone.wasm");
    fs::write(&path, text).unwrap();
    let error = Start::manifest(&path).fails();
    assert!(error.contains("gone.wasm") && error.contains("`make it`"), "{error}");

    // In the text format, which the engine reads too.
    let other = folder.path().join("other.wasm");
    let import = "(import \"spin:key-value/key-value@3.0.0\" (instance (export \"open\" (func))))";
    fs::write(&other, format!("(component {import})")).unwrap();
    let path = manifest(&folder, "", "");
    let text = fs::read_to_string(&path).unwrap();
    let text = text.replace(&format!("{:?}", wasm()), &format!("{other:?}"));
    fs::write(&path, text).unwrap();
    let error = Start::manifest(&path).fails();
    assert!(error.contains("\"test\"") && error.contains("spin:key-value/key-value@3.0.0"), "{error}");

    let error = Start::manifest(&folder.path().join("none.toml")).fails();
    assert!(error.contains("none.toml"), "{error}");
}

#[tokio::test]
async fn a_second_start_is_quick() {
    drop(Start::http().up().await);
    let start = Instant::now();
    drop(Start::http().up().await);
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}

#[tokio::test]
async fn quiet_keeps_the_output_to_the_files() {
    let redis = redis().await;
    let mut start = Start::probe().variable("REDIS_URL", &redis.url());
    start.command.arg("--quiet");
    let host = start.up().await;
    publish(&redis, "probe", "hushed").await;
    let log = host.folder.path().join("state/logs/probe-events_stdout.txt");
    let begun = Instant::now();
    while fs::read_to_string(&log).unwrap() != "hushed\n" {
        assert!(begun.elapsed() < PATIENCE);
        sleep(Duration::from_millis(10)).await;
    }
    assert!(!host.output("stderr").contains("hushed"));
}
