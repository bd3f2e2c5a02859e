//! A redis-server of our own: on a free port, in a folder of its own, with the settings that the application needs.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use redis::aio::MultiplexedConnection;
use redis::{Cmd, ConnectionAddr, FromRedisValue, Pipeline, ToRedisArgs};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use crate::port;
use crate::process::{Group, on_path};

/// Keyspace events (`K`) of stream commands (`t`): the doorbell on a stream, and no event more.
pub const KEYSPACE_EVENTS: &str = "Kt";

/// Also the time for reading a large append-only file again.
const START_TIMEOUT: Duration = Duration::from_secs(30);
const STOP_PATIENCE: Duration = Duration::from_secs(5);
const POLL_EVERY: Duration = Duration::from_millis(20);
/// So many that a round trip costs nothing beside them, and so few that neither side holds much in memory.
const COMMANDS_PER_PIPELINE: usize = 1_000;

/// A running redis-server. It ends when this is dropped, and its folder goes too, unless it was given.
#[derive(Debug)]
pub struct Redis {
    settings: Builder,
    port: u16,
    folder: PathBuf,
    server: Option<Group>,
    _temporary: Option<TempDir>,
}

/// How a Redis is to be started.
#[derive(Debug, Clone, Default)]
pub struct Builder {
    append_only: bool,
    port: Option<u16>,
    folder: Option<PathBuf>,
    settings: Vec<(String, String)>,
}

impl Builder {
    /// Whether every write goes to an append-only file, and so outlives [`Redis::kill`]. Off by default.
    pub fn append_only(mut self, on: bool) -> Self {
        self.append_only = on;
        self
    }

    /// The port; by default a free one.
    pub fn port(mut self, port: u16) -> Self {
        self.port = Some(port);
        self
    }

    /// The folder for its files; by default a temporary one.
    pub fn folder(mut self, folder: impl Into<PathBuf>) -> Self {
        self.folder = Some(folder.into());
        self
    }

    /// A setting as redis.conf has it, such as `maxmemory` and `64mb`; it wins over those of ours.
    pub fn setting(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }

    fn arguments(&self) -> impl Iterator<Item = String> {
        let words = |(name, value): &(String, String)| {
            // Redis takes a value of several words as so many arguments.
            let values = value.split(' ').map(str::to_owned);
            std::iter::once(format!("--{name}")).chain(values).collect::<Vec<_>>()
        };
        self.settings.iter().flat_map(words)
    }

    /// Starts it, and returns when it answers.
    pub async fn start(self) -> Result<Redis> {
        let (folder, temporary) = match &self.folder {
            Some(folder) => {
                std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
                (folder.clone(), None)
            }
            None => {
                let temporary = tempfile::tempdir()?;
                (temporary.path().to_path_buf(), Some(temporary))
            }
        };
        let mut redis = Redis {
            port: self.port.unwrap_or_else(port::free),
            settings: self,
            folder,
            server: None,
            _temporary: temporary,
        };
        redis.launch().await?;
        Ok(redis)
    }
}

impl Redis {
    /// Starts one on a free port, without an append-only file.
    pub async fn start() -> Result<Self> {
        Self::builder().start().await
    }

    /// Settings to start from.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// `redis://127.0.0.1:<port>`: without `/0`, which Spin would not take.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// The port, the same over restarts.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// A new connection, which belongs to the calling Tokio runtime.
    pub async fn connection(&self) -> Result<MultiplexedConnection> {
        connect(&self.url()).await
    }

    /// Waits until somebody has subscribed to the channel: the runtime's health answers before that.
    pub async fn wait_for_subscriber(&self, channel: &str, timeout: Duration) -> Result<()> {
        wait_for_subscriber(&self.url(), channel, timeout).await
    }

    /// Adds entries to a stream, each a list of fields and values, and returns their ids. One after the other, but in
    /// pipelines: thousands take a moment.
    pub async fn xadd<F: ToRedisArgs, V: ToRedisArgs>(
        &self,
        stream: &str,
        entries: impl IntoIterator<Item = impl AsRef<[(F, V)]>>,
    ) -> Result<Vec<String>> {
        let command = |entry: &[(F, V)]| {
            let mut command = redis::cmd("XADD");
            command.arg(stream).arg("*");
            for (field, value) in entry {
                command.arg(field).arg(value);
            }
            command
        };
        self.pipelined(entries.into_iter().map(|entry| command(entry.as_ref()))).await
    }

    /// Publishes on a channel, likewise in pipelines; an error if anything was heard by nobody.
    pub async fn publish(&self, channel: &str, payloads: impl IntoIterator<Item = impl ToRedisArgs>) -> Result<()> {
        let command = |payload| redis::cmd("PUBLISH").arg(channel).arg(payload).to_owned();
        let heard: Vec<u64> = self.pipelined(payloads.into_iter().map(command)).await?;
        ensure!(heard.iter().all(|&subscribers| subscribers > 0), "nobody hears {channel}");
        Ok(())
    }

    /// The answers to the commands, in their order.
    async fn pipelined<T: FromRedisValue>(&self, commands: impl IntoIterator<Item = Cmd>) -> Result<Vec<T>> {
        let mut connection = self.connection().await?;
        let mut commands = commands.into_iter().peekable();
        let mut answers = Vec::new();
        while commands.peek().is_some() {
            let mut pipeline = Pipeline::new();
            for command in commands.by_ref().take(COMMANDS_PER_PIPELINE) {
                pipeline.add_command(command);
            }
            let some: Vec<T> = pipeline.query_async(&mut connection).await?;
            answers.extend(some);
        }
        Ok(answers)
    }

    /// Whether the server runs; it may end by itself, or by another's hand.
    pub fn is_running(&mut self) -> bool {
        self.server.as_mut().is_some_and(|server| server.exited().is_none())
    }

    /// SIGKILL: what is not in the append-only file is lost.
    pub fn kill(&mut self) {
        if let Some(mut server) = self.server.take() {
            server.kill();
        }
    }

    /// SIGTERM: Redis writes out what it holds, and ends.
    pub async fn stop(&mut self) {
        if let Some(mut server) = self.server.take() {
            server.stop(STOP_PATIENCE).await;
        }
    }

    /// Starts it again on the same port and in the same folder, after a SIGKILL if it still runs.
    pub async fn restart(&mut self) -> Result<()> {
        self.kill();
        self.launch().await
    }

    async fn launch(&mut self) -> Result<()> {
        let Some(program) = on_path("redis-server") else {
            bail!("redis-server is not on the PATH: `make test` and `make up` install it");
        };
        let log = self.folder.join("redis.log");
        let mut server = Group::spawn(
            Command::new(program)
                .args(["--port", &self.port.to_string()])
                .args(["--bind", "127.0.0.1"])
                .arg("--dir")
                .arg(&self.folder)
                .arg("--logfile")
                .arg(&log)
                // No snapshots: what is to outlive the process is in the append-only file.
                .args(["--save", ""])
                .args(["--appendonly", if self.settings.append_only { "yes" } else { "no" }])
                .args(["--notify-keyspace-events", KEYSPACE_EVENTS])
                .args(self.settings.arguments())
                .stdout(Stdio::null())
                .stderr(Stdio::null()),
        )?;
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            // First, because an answer could come from another server on this port.
            if let Some(status) = server.exited() {
                let said = std::fs::read_to_string(&log).unwrap_or_default();
                let from = said.floor_char_boundary(said.len().saturating_sub(1_000));
                bail!("redis-server ended at once ({status}):\n{}", &said[from..]);
            }
            if answers(&self.url()).await {
                break;
            }
            if Instant::now() > deadline {
                bail!("redis-server on port {} did not answer within {START_TIMEOUT:?}", self.port);
            }
            sleep(POLL_EVERY).await;
        }
        self.server = Some(server);
        Ok(())
    }
}

/// A new connection to the Redis at this URL.
pub async fn connect(url: &str) -> Result<MultiplexedConnection> {
    let client = redis::Client::open(url).with_context(|| format!("{url} is not a Redis URL"))?;
    client.get_multiplexed_async_connection().await.with_context(|| format!("no Redis answers at {url}"))
}

/// Whether a Redis answers at this URL, and is done reading its files.
pub async fn answers(url: &str) -> bool {
    let Ok(mut connection) = connect(url).await else {
        return false;
    };
    let pong: redis::RedisResult<String> = redis::cmd("PING").query_async(&mut connection).await;
    pong.is_ok()
}

/// Host and port of a plain Redis URL.
pub fn host_and_port(url: &str) -> Result<(String, u16)> {
    let client = redis::Client::open(url).with_context(|| format!("{url} is not a Redis URL"))?;
    match client.get_connection_info().addr() {
        ConnectionAddr::Tcp(host, port) => Ok((host.clone(), *port)),
        other => bail!("{url} ({other}) is not a plain redis://host:port"),
    }
}

/// Which keyspace events the Redis at this URL notifies of, in its own letters; an error if it does not say, as some
/// that others operate.
pub async fn keyspace_events(url: &str) -> Result<String> {
    const SETTING: &str = "notify-keyspace-events";
    let mut connection = connect(url).await?;
    let settings: BTreeMap<String, String> =
        redis::cmd("CONFIG").arg("GET").arg(SETTING).query_async(&mut connection).await?;
    settings.get(SETTING).cloned().with_context(|| format!("{url} does not tell its {SETTING}"))
}

/// The version of the Redis at this URL, such as `7.0.15`; an error if it does not say.
pub async fn version(url: &str) -> Result<String> {
    let mut connection = connect(url).await?;
    let about: String = redis::cmd("INFO").arg("server").query_async(&mut connection).await?;
    let version = about.lines().find_map(|line| line.strip_prefix("redis_version:"));
    version.map(|version| version.trim().to_owned()).with_context(|| format!("{url} does not tell its version"))
}

/// Waits until somebody has subscribed to the channel of the Redis at this URL.
pub async fn wait_for_subscriber(url: &str, channel: &str, timeout: Duration) -> Result<()> {
    let mut connection = connect(url).await?;
    let deadline = Instant::now() + timeout;
    loop {
        let (_, subscribers): (String, u64) =
            redis::cmd("PUBSUB").arg("NUMSUB").arg(channel).query_async(&mut connection).await?;
        if subscribers > 0 {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("nobody subscribed to {channel} at {url} within {timeout:?}");
        }
        sleep(POLL_EVERY).await;
    }
}

#[cfg(test)]
mod tests {
    use redis::AsyncCommands;
    use redis::streams::StreamRangeReply;

    use super::*;

    #[tokio::test]
    async fn it_starts_on_a_port_of_its_own_and_ends_when_dropped() {
        let (one, other) = (Redis::start().await.unwrap(), Redis::start().await.unwrap());
        assert_ne!(one.url(), other.url());
        assert!(answers(&one.url()).await && answers(&other.url()).await);

        let url = one.url();
        drop(one);
        assert!(!answers(&url).await && answers(&other.url()).await);
    }

    #[tokio::test]
    async fn the_append_only_file_outlives_a_kill() {
        for append_only in [true, false] {
            let mut redis = Redis::builder().append_only(append_only).start().await.unwrap();
            let url = redis.url();
            let mut connection = redis.connection().await.unwrap();
            let _: () = connection.set("key", "value").await.unwrap();

            redis.kill();
            assert!(!redis.is_running() && !answers(&url).await);

            redis.restart().await.unwrap();
            assert_eq!(redis.url(), url);
            let mut connection = redis.connection().await.unwrap();
            let kept: Option<String> = connection.get("key").await.unwrap();
            assert_eq!(kept.as_deref(), append_only.then_some("value"));
        }
    }

    #[tokio::test]
    async fn a_subscriber_is_waited_for() {
        let redis = Redis::start().await.unwrap();
        let short = Duration::from_millis(100);
        let nobody = redis.wait_for_subscriber("orders", short).await.unwrap_err();
        assert!(nobody.to_string().contains("orders"), "{nobody}");

        let client = redis::Client::open(redis.url()).unwrap();
        let mut subscriber = client.get_async_pubsub().await.unwrap();
        subscriber.subscribe("orders").await.unwrap();
        redis.wait_for_subscriber("orders", Duration::from_secs(5)).await.unwrap();
    }

    #[tokio::test]
    async fn it_notifies_of_stream_events_and_of_no_others_unless_it_is_told_to() {
        let redis = Redis::start().await.unwrap();
        let mut events: Vec<char> = keyspace_events(&redis.url()).await.unwrap().chars().collect();
        events.sort_unstable();
        assert_eq!(events, ['K', 't']);

        let silent = Redis::builder().setting("notify-keyspace-events", "").start().await.unwrap();
        assert_eq!(keyspace_events(&silent.url()).await.unwrap(), "");
    }

    #[tokio::test]
    async fn it_tells_its_version() {
        let redis = Redis::start().await.unwrap();
        let version = version(&redis.url()).await.unwrap();
        assert!(
            version.split('.').count() >= 3 && version.starts_with(|first: char| first.is_ascii_digit()),
            "{version}"
        );
    }

    #[tokio::test]
    async fn thousands_of_entries_stand_in_a_stream_in_their_order() {
        let redis = Redis::start().await.unwrap();
        let entries = (0..2_500).map(|number| [("number", number.to_string()), ("kind", "any".to_owned())]);
        let ids = redis.xadd("orders", entries).await.unwrap();
        assert_eq!(ids.len(), 2_500);

        let mut connection = redis.connection().await.unwrap();
        let length: usize = connection.xlen("orders").await.unwrap();
        let last: StreamRangeReply = connection.xrevrange_count("orders", "+", "-", 1).await.unwrap();
        assert_eq!((length, &last.ids[0].id), (2_500, &ids[2_499]));
        assert_eq!(last.ids[0].get::<u32>("number"), Some(2_499));
        assert_eq!(last.ids[0].get::<String>("kind").as_deref(), Some("any"));
    }

    #[tokio::test]
    async fn what_nobody_hears_is_an_error() {
        let redis = Redis::start().await.unwrap();
        let unheard = redis.publish("orders", ["a message"]).await.unwrap_err();
        assert!(unheard.to_string().contains("orders"), "{unheard}");

        let client = redis::Client::open(redis.url()).unwrap();
        let mut subscriber = client.get_async_pubsub().await.unwrap();
        subscriber.subscribe("orders").await.unwrap();
        redis.publish("orders", ["a message", "another"]).await.unwrap();
    }

    #[test]
    fn a_url_gives_its_host_and_port() {
        assert_eq!(host_and_port("redis://127.0.0.1:6380").unwrap(), ("127.0.0.1".to_owned(), 6380));
        assert!(host_and_port("http://127.0.0.1").is_err());
    }
}
