//! The scripts on a real redis-server.

use std::{
    net::TcpListener,
    process::{Child, Command, Stdio},
    sync::Mutex,
    time::{Duration, Instant},
};

use ::redis::aio::MultiplexedConnection;

use super::*;

/// A redis-server on a port and in a folder of its own.
struct Server {
    child: Child,
    url: String,
    folder: std::path::PathBuf,
}

impl Server {
    async fn start() -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let folder = std::env::temp_dir().join(format!("clinic-stream-{port}"));
        std::fs::create_dir_all(&folder).unwrap();
        let child = Command::new("redis-server")
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--dir"])
            .arg(&folder)
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is on the PATH: `make test` installs it");
        let server = Self { child, url: format!("redis://127.0.0.1:{port}"), folder };
        let begun = Instant::now();
        loop {
            let client = ::redis::Client::open(server.url.as_str()).unwrap();
            if client.get_multiplexed_async_connection().await.is_ok() {
                return server;
            }
            assert!(begun.elapsed() < Duration::from_secs(20), "redis-server does not answer");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn connection(&self) -> MultiplexedConnection {
        ::redis::Client::open(self.url.as_str()).unwrap().get_multiplexed_async_connection().await.unwrap()
    }

    /// What a command answers.
    async fn ask<T: ::redis::FromRedisValue>(&self, command: &[&[u8]]) -> T {
        let mut asked = ::redis::Cmd::new();
        for part in command {
            asked.arg(*part);
        }
        asked.query_async(&mut self.connection().await).await.unwrap()
    }

    /// Adds an entry with one field `message`.
    async fn add(&self, value: &[u8]) -> String {
        self.ask(&[b"XADD", b"orders", b"*", b"message", value]).await
    }

    /// A drain's hold on the stream `orders`.
    async fn drain(&self, token: &str) -> RedisStream<MultiplexedConnection> {
        RedisStream::on(self.connection().await, "orders", "push", token.into()).with_times(300, 200)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

impl Eval for MultiplexedConnection {
    async fn eval(
        &self,
        script: &'static str,
        keys: Vec<String>,
        arguments: Vec<String>,
    ) -> Result<Vec<u8>, StreamError> {
        let mut command = ::redis::cmd("EVAL");
        command.arg(script).arg(keys.len()).arg(keys).arg(arguments);
        let answer = command.query_async(&mut self.clone()).await;
        answer.map_err(|error: ::redis::RedisError| StreamError::Unavailable(error.to_string()))
    }
}

fn values(batch: Batch) -> Vec<String> {
    match batch {
        Batch::Entries(entries) => entries.into_iter().map(|entry| entry.fields[0].1.clone()).collect(),
        Batch::Busy => panic!("it is busy"),
    }
}

fn ids(batch: &Batch) -> Vec<String> {
    match batch {
        Batch::Entries(entries) => entries.iter().map(|entry| entry.id.clone()).collect(),
        Batch::Busy => panic!("it is busy"),
    }
}

#[tokio::test]
async fn a_missing_stream_is_made_and_batches_come_in_order() {
    let server = Server::start().await;
    let stream = server.drain("a").await;
    assert_eq!(stream.read(2, None).await.unwrap(), Batch::Entries(Vec::new()));
    for value in ["1", "2", "3"] {
        server.add(value.as_bytes()).await;
    }
    let first = stream.read(2, None).await.unwrap();
    stream.finish(&ids(&first), &[]).await.unwrap();
    assert_eq!(values(first), ["1", "2"]);
    assert_eq!(stream.release().await.unwrap(), 1);
    assert_eq!(values(stream.read(2, None).await.unwrap()), ["3"]);
    assert_eq!(stream.release().await.unwrap(), 1, "handed out is not handled");
}

#[tokio::test]
async fn what_is_held_is_not_read_again_and_comes_back_if_it_is_not_finished() {
    let server = Server::start().await;
    for value in ["1", "2", "3", "4"] {
        server.add(value.as_bytes()).await;
    }
    let stream = server.drain("a").await;
    let held = ids(&stream.read(1, None).await.unwrap());
    let ahead = stream.read(1, held.last().map(String::as_str)).await.unwrap();
    assert_eq!(values(ahead), ["2"]);
    stream.release().await.unwrap();
    // Two that nobody finished, in turns, before what is new.
    let next = server.drain("next").await;
    let held = ids(&next.read(1, None).await.unwrap());
    let ahead = next.read(1, held.last().map(String::as_str)).await.unwrap();
    next.finish(&held, &[]).await.unwrap();
    let held = ids(&ahead);
    assert_eq!(values(ahead), ["2"]);
    assert_eq!(values(next.read(1, held.last().map(String::as_str)).await.unwrap()), ["3"]);
}

#[tokio::test]
async fn entries_from_before_the_group_count() {
    let server = Server::start().await;
    server.add(b"1").await;
    assert_eq!(values(server.drain("a").await.read(10, None).await.unwrap()), ["1"]);
}

#[tokio::test]
async fn what_a_dead_drain_had_read_comes_again_first_when_its_lease_ends() {
    let server = Server::start().await;
    for value in ["1", "2", "3"] {
        server.add(value.as_bytes()).await;
    }
    let dies = server.drain("dies").await;
    assert_eq!(values(dies.read(2, None).await.unwrap()), ["1", "2"]);
    let next = server.drain("next").await;
    assert_eq!(next.read(2, None).await.unwrap(), Batch::Busy);
    tokio::time::sleep(Duration::from_millis(350)).await;
    let again = next.read(2, None).await.unwrap();
    next.finish(&ids(&again), &[]).await.unwrap();
    assert_eq!(values(again), ["1", "2"]);
    assert_eq!(values(next.read(2, None).await.unwrap()), ["3"]);
    // The one that was thought dead finds the stream taken, and gives back nothing that is not its own.
    assert_eq!(dies.read(2, None).await.unwrap(), Batch::Busy);
    dies.release().await.unwrap();
    assert_eq!(server.drain("third").await.read(2, None).await.unwrap(), Batch::Busy);
    next.release().await.unwrap();
    assert_eq!(values(dies.read(2, None).await.unwrap()), ["3"]);
}

#[tokio::test]
async fn what_another_consumer_abandoned_is_taken_over() {
    let server = Server::start().await;
    server.add(b"1").await;
    let stream = server.drain("a").await;
    let _: () = server.ask(&[b"XGROUP", b"CREATE", b"orders", b"push", b"0"]).await;
    let read: &[&[u8]] = &[b"XREADGROUP", b"GROUP", b"push", b"other", b"STREAMS", b"orders", b">"];
    let _: ::redis::Value = server.ask(read).await;
    assert_eq!(stream.read(10, None).await.unwrap(), Batch::Entries(Vec::new()));
    tokio::time::sleep(Duration::from_millis(250)).await;
    assert_eq!(values(stream.read(10, None).await.unwrap()), ["1"]);
}

#[tokio::test]
async fn a_dead_entry_is_copied_once_and_byte_for_byte() {
    let server = Server::start().await;
    server.add(b"\xff\xfe").await;
    let stream = server.drain("a").await;
    let batch = stream.read(10, None).await.unwrap();
    let Batch::Entries(entries) = &batch else { panic!() };
    assert!(!entries[0].valid_utf8);
    let dead = [Dead { id: entries[0].id.clone(), reason: "the entry is not UTF-8".into() }];
    for _ in 0..2 {
        stream.finish(&ids(&batch), &dead).await.unwrap();
    }
    assert_eq!(stream.release().await.unwrap(), 0);
    let copies: Vec<(String, Vec<Vec<u8>>)> = server.ask(&[b"XRANGE", b"orders:dead", b"-", b"+"]).await;
    assert_eq!(copies.len(), 1);
    let fields = &copies[0].1;
    assert_eq!(fields[..4], [&b"dead.id"[..], dead[0].id.as_bytes(), b"dead.reason", b"the entry is not UTF-8"]);
    assert_eq!(fields[6..], [&b"message"[..], b"\xff\xfe"]);
}

#[tokio::test]
async fn an_entry_that_was_trimmed_meanwhile_is_done_with_and_shows_among_the_dead() {
    let server = Server::start().await;
    let first = server.add(b"1").await;
    server.add(b"2").await;
    let stream = server.drain("a").await;
    assert_eq!(values(stream.read(1, None).await.unwrap()), ["1"]);
    let _: i64 = server.ask(&[b"XDEL", b"orders", first.as_bytes()]).await;
    assert_eq!(values(stream.read(10, None).await.unwrap()), ["2"]);
    let (pending, ..): (i64, ::redis::Value, ::redis::Value, ::redis::Value) =
        server.ask(&[b"XPENDING", b"orders", b"push"]).await;
    assert_eq!(pending, 1);
    let copies: Vec<(String, Vec<String>)> = server.ask(&[b"XRANGE", b"orders:dead", b"-", b"+"]).await;
    assert_eq!((copies.len(), copies[0].1[1].as_str()), (1, first.as_str()), "{copies:?}");
}

#[tokio::test]
async fn a_batch_has_no_more_bytes_than_an_answer_may_and_the_rest_comes_next() {
    let server = Server::start().await;
    let large = vec![b'x'; 3 * 1024 * 1024];
    for _ in 0..3 {
        server.add(&large).await;
    }
    server.add(b"small").await;
    let stream = server.drain("a").await;
    let seen = Mutex::new(Vec::new());
    let drained = drain(
        &stream,
        10,
        || true,
        async |entries: Vec<Entry>| {
            seen.lock().unwrap().push(entries.len());
            Ok::<_, DrainError<std::convert::Infallible>>(Vec::new())
        },
    );
    assert_eq!(drained.await.unwrap().read, 4);
    assert_eq!(*seen.lock().unwrap(), [1, 1, 2]);
}

#[tokio::test]
async fn a_dead_entry_that_cannot_be_copied_is_not_acknowledged() {
    let server = Server::start().await;
    let id = server.add(b"nonsense").await;
    let _: String = server.ask(&[b"SET", b"orders:dead", b"no stream"]).await;
    let stream = server.drain("a").await;
    stream.read(10, None).await.unwrap();
    let dead = [Dead { id: id.clone(), reason: "why".into() }];
    assert!(stream.finish(&[id], &dead).await.is_err());
    let (pending, ..): (i64, ::redis::Value, ::redis::Value, ::redis::Value) =
        server.ask(&[b"XPENDING", b"orders", b"push"]).await;
    assert_eq!(pending, 1);
}

#[tokio::test]
async fn a_drain_acknowledges_what_was_handled_and_nothing_else() {
    let server = Server::start().await;
    for value in 1..=5 {
        server.add(value.to_string().as_bytes()).await;
    }
    let stream = server.drain("a").await;
    let seen = Mutex::new(Vec::new());
    let handled = drain(
        &stream,
        2,
        || true,
        async |entries: Vec<Entry>| {
            let mut seen = seen.lock().unwrap();
            seen.extend(entries.iter().map(|entry| entry.fields[0].1.clone()));
            let dead = entries.iter().filter(|entry| entry.fields[0].1 == "2");
            let dead = dead.map(|entry| Dead { id: entry.id.clone(), reason: "why".into() }).collect();
            if seen.len() > 3 { Err("the database is busy") } else { Ok(dead) }
        },
    )
    .await;
    assert_eq!(handled, Err(DrainError::Handler("the database is busy")));
    assert_eq!(*seen.lock().unwrap(), ["1", "2", "3", "4"]);
    // The next one need not wait, and meets what was not acknowledged.
    let next = server.drain("b").await;
    let once = drain(&next, 2, || false, async |_| Ok::<_, ()>(Vec::new())).await.unwrap();
    assert_eq!(once, Drained { read: 2, dead: 0, left: Some(1), busy: false });
    let rest = drain(&next, 2, || true, async |_| Ok::<_, ()>(Vec::new())).await.unwrap();
    assert_eq!(rest, Drained { read: 1, dead: 0, left: Some(0), busy: false });
    assert_eq!(server.ask::<i64>(&[b"XLEN", b"orders:dead"]).await, 1);
}

#[tokio::test]
async fn a_second_drain_ends_at_once() {
    let server = Server::start().await;
    server.add(b"1").await;
    server.drain("a").await.read(1, None).await.unwrap();
    let busy = drain(&server.drain("b").await, 2, || true, async |_| Ok::<_, ()>(Vec::new())).await.unwrap();
    assert!(busy.busy && busy.read == 0);
}

#[test]
fn only_an_added_entry_rings() {
    assert_eq!(rung(b"xadd"), Some(true));
    for other in ["xtrim", "xgroup-create", "xgroup-createconsumer", "del", "expire", "rename_from"] {
        assert_eq!(rung(other.as_bytes()), Some(false), "{other}");
    }
    for event in ["{}", "null", "true", "nonsense", "x y", "[1]", "", "7", "{\"a\":1}\n{\"a\":2}"] {
        assert_eq!(rung(event.as_bytes()), None, "{event}");
    }
}

/// A stream of one entry a batch that writes down what it is asked.
#[derive(Default)]
struct Scripted {
    said: Mutex<Vec<String>>,
    entries: Mutex<Vec<&'static str>>,
    /// The batch that cannot be acknowledged.
    unfinished: Option<&'static str>,
    /// The last batch before another drain is at it.
    last: Option<&'static str>,
}

impl Scripted {
    fn of(entries: &[&'static str]) -> Self {
        Self { entries: Mutex::new(entries.iter().rev().copied().collect()), ..Self::default() }
    }

    fn say(&self, what: &str) {
        self.said.lock().unwrap().push(what.to_owned());
    }

    async fn drained(&self, fails: &str) -> Result<Drained, DrainError<&'static str>> {
        drain(
            self,
            1,
            || true,
            async |entries: Vec<Entry>| {
                let id = &entries[0].id;
                self.say(&format!("begin {id}"));
                tokio::task::yield_now().await;
                self.say(&format!("commit {id}"));
                if id == fails { Err("busy") } else { Ok(Vec::new()) }
            },
        )
        .await
    }

    fn said(&self) -> String {
        self.said.lock().unwrap().join(", ")
    }
}

impl Source for Scripted {
    async fn read(&self, _: usize, held: Option<&str>) -> Result<Batch, StreamError> {
        self.say(&format!("read past {}", held.unwrap_or("-")));
        if held.is_some() && held == self.last {
            return Ok(Batch::Busy);
        }
        let entry = |id: &str| Entry { id: id.to_owned(), fields: Vec::new(), valid_utf8: true };
        Ok(Batch::Entries(self.entries.lock().unwrap().pop().map(entry).into_iter().collect()))
    }

    async fn finish(&self, handled: &[String], _: &[Dead]) -> Result<(), StreamError> {
        self.say(&format!("finish {}", handled[0]));
        if self.unfinished == Some(handled[0].as_str()) { Err(StreamError::TimedOut) } else { Ok(()) }
    }

    async fn release(&self) -> Result<u64, StreamError> {
        self.say("release");
        Ok(0)
    }
}

#[tokio::test]
async fn a_batch_is_acknowledged_once_it_is_committed_and_before_the_one_after_the_next_is_read() {
    let stream = Scripted::of(&["1", "2", "3"]);
    let drained = stream.drained("-").await.unwrap();
    assert_eq!((drained.read, drained.left), (3, Some(0)));
    assert_eq!(
        stream.said(),
        "read past -, begin 1, read past 1, commit 1, begin 2, finish 1, read past 2, commit 2, begin 3, finish 2, \
         read past 3, commit 3, finish 3, release"
    );
}

#[tokio::test]
async fn what_is_committed_is_acknowledged_whatever_fails_beside_it() {
    let stream = Scripted::of(&["1", "2", "3"]);
    assert_eq!(stream.drained("2").await, Err(DrainError::Handler("busy")));
    assert!(stream.said().contains("finish 1") && !stream.said().contains("finish 2"), "{}", stream.said());

    let stream = Scripted { unfinished: Some("1"), ..Scripted::of(&["1", "2", "3"]) };
    assert_eq!(stream.drained("-").await, Err(DrainError::Stream(StreamError::TimedOut)));
    assert!(stream.said().ends_with("finish 1, commit 2, finish 2, release"), "{}", stream.said());

    // Another drain has come in: what this one has committed is acknowledged all the same.
    let stream = Scripted { last: Some("1"), ..Scripted::of(&["1"]) };
    assert!(stream.drained("-").await.unwrap().busy);
    assert!(stream.said().ends_with("commit 1, finish 1"), "{}", stream.said());
    let stream = Scripted { last: Some("1"), unfinished: Some("1"), ..Scripted::of(&["1"]) };
    assert_eq!(stream.drained("-").await, Err(DrainError::Stream(StreamError::TimedOut)));
}
