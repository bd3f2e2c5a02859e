//! The whole application as the end-to-end tests start it: `spin.toml` unchanged, on the runtime that `RUNTIME`
//! names, with a Redis and a push gateway of its own.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::{
    Gateway, Redis, Runtime, http_client,
    runtime::{Builder, Kind},
    workspace_root,
};
use redis::ToRedisArgs;
use reqwest::{Method, RequestBuilder, Response};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{sleep, timeout},
};

/// What services send.
pub const API_TOKEN: &str = "a-service";
/// What operators send.
pub const ADMIN_TOKEN: &str = "an-operator";
/// What card secrets are sealed with.
pub const CARD_KEY: &str = "e2e:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
/// Longer than anything here takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Spin ends within this time of its Redis.
const ENDS_WITHIN: Duration = Duration::from_secs(10);
/// The pauses between starts that fail double between these.
const PAUSES: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(8)];

/// The running application and what it stands on.
#[derive(Debug)]
pub struct App {
    /// What it runs in.
    pub runtime: Runtime,
    /// Where its messages arrive.
    pub gateway: Gateway,
    /// Where operators are told.
    pub operators: Gateway,
    /// What it hears events from; `None` where only HTTP runs.
    pub redis: Option<Redis>,
    client: reqwest::Client,
}

impl App {
    /// All components. Their Redis triggers have subscribed.
    pub async fn start() -> Result<Self> {
        Self::start_with(|builder| builder).await
    }

    /// All components, with other settings.
    pub async fn start_with(settings: impl FnOnce(Builder) -> Builder) -> Result<Self> {
        Self::start_on(Redis::start().await?, settings).await
    }

    /// All components on this Redis, such as one that keeps an append-only file, with other settings.
    pub async fn start_on(redis: Redis, settings: impl FnOnce(Builder) -> Builder) -> Result<Self> {
        let (gateway, operators) = (Gateway::start()?, Gateway::start()?);
        let builder = builder(&gateway, &operators).variable("redis_url", redis.url());
        let runtime = settings(builder).start().await?;
        let app = Self { runtime, gateway, operators, redis: Some(redis), client: http_client(PATIENCE) };
        app.wait_for_subscriptions().await?;
        Ok(app)
    }

    /// The components that answer HTTP, without Redis, with other settings.
    pub async fn http(settings: impl FnOnce(Builder) -> Builder) -> Result<Self> {
        let (gateway, operators) = (Gateway::start()?, Gateway::start()?);
        let runtime = settings(http_only(builder(&gateway, &operators))).start().await?;
        Ok(Self { runtime, gateway, operators, redis: None, client: http_client(PATIENCE) })
    }

    /// The components that answer HTTP, which call this Redis and hear nothing from it, with other settings.
    pub async fn http_on(redis: Redis, settings: impl FnOnce(Builder) -> Builder) -> Result<Self> {
        let (gateway, operators) = (Gateway::start()?, Gateway::start()?);
        let builder = http_only(builder(&gateway, &operators)).variable("redis_url", redis.url());
        let runtime = settings(builder).start().await?;
        Ok(Self { runtime, gateway, operators, redis: Some(redis), client: http_client(PATIENCE) })
    }

    /// Waits until the Redis triggers have subscribed: the application is healthy before that.
    pub async fn wait_for_subscriptions(&self) -> Result<()> {
        let redis = self.redis()?;
        let variable = |name, default| self.runtime.variable(name).unwrap_or(default);
        let orders = variable("orders_channel", "orders");
        let doorbell = |name, default| format!("__keyspace@0__:{}", variable(name, default));
        let orders_bell = doorbell("orders_stream", "orders:stream");
        let accounts_bell = doorbell("accounts_stream", "accounts:stream");
        let pharmacy_bell = doorbell("pharmacy_stream", "pharmacy:stream");
        let bells = [orders_bell.as_str(), &accounts_bell, &pharmacy_bell];
        for channel in [orders, "pharmacy.orders", "images.messages", "accounts.opened"].into_iter().chain(bells) {
            redis.wait_for_subscriber(channel, PATIENCE).await?;
        }
        Ok(())
    }

    /// Starts the runtime again at the same address and with the same state, as after a power cut if it was not
    /// stopped. The Redis triggers have subscribed again.
    pub async fn restart(&mut self) -> Result<()> {
        self.runtime.restart().await?;
        self.wait_for_subscriptions().await
    }

    /// Starts Redis again on the same port, as after a power cut if it still runs. The Redis triggers have subscribed
    /// again: Spin ends with its Redis, and is started again as a supervisor does, with growing pauses.
    pub async fn restart_redis(&mut self) -> Result<()> {
        self.redis.as_mut().context("no Redis runs")?.restart().await?;
        if self.runtime.kind() == Kind::Spin {
            // Mostly it has ended by itself; what is still there is killed.
            let _ = timeout(ENDS_WITHIN, self.runtime.wait()).await;
            let [mut pause, longest] = PAUSES;
            while let Err(error) = self.runtime.restart().await {
                ensure!(pause <= longest, "it does not start again: {error:#}");
                sleep(pause).await;
                pause *= 2;
            }
        }
        self.wait_for_subscriptions().await
    }

    /// A `GET` without a token.
    pub async fn get(&self, path: &str) -> Result<Response> {
        Ok(self.client.get(self.runtime.url(path)).send().await?)
    }

    /// The status and JSON of what a service's `GET` is answered.
    pub async fn get_json(&self, path: &str) -> Result<(u16, Value)> {
        answered(self.client.get(self.runtime.url(path)).bearer_auth(API_TOKEN)).await
    }

    /// A `POST` by a service, to be sent.
    pub fn post(&self, path: &str) -> RequestBuilder {
        self.client.post(self.runtime.url(path)).bearer_auth(API_TOKEN)
    }

    /// The status and JSON of what a service's `POST` of this body is answered.
    pub async fn answer(&self, path: &str, body: impl Into<reqwest::Body>) -> Result<(u16, Value)> {
        answered(self.post(path).body(body)).await
    }

    /// A service's `POST` as far as its head, by hand. `framing` tells where its body ends.
    pub async fn open(&self, path: &str, framing: &str) -> Result<TcpStream> {
        let url = self.runtime.url("");
        let address = url.strip_prefix("http://").context("no http")?;
        let mut stream = TcpStream::connect(address).await?;
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {API_TOKEN}\r\n{framing}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await?;
        Ok(stream)
    }

    /// The answer, head and JSON, to a service's `POST` of whose body only this much is ever sent. An ordinary client may
    /// fail to write the rest of a body that is refused, and so miss the answer.
    pub async fn begun(&self, path: &str, framing: &str, body: &[u8]) -> Result<String> {
        let mut stream = self.open(path, framing).await?;
        stream.write_all(body).await?;
        let mut answer = Vec::new();
        let read = timeout(PATIENCE, async {
            while !String::from_utf8_lossy(&answer).contains('}') {
                if stream.read_buf(&mut answer).await? == 0 {
                    break;
                }
            }
            anyhow::Ok(())
        });
        read.await??;
        Ok(String::from_utf8(answer)?)
    }

    /// A request by an operator, to be sent.
    pub fn admin(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, self.runtime.url(path)).bearer_auth(ADMIN_TOKEN)
    }

    /// Publishes on a Redis channel.
    pub async fn publish(&self, channel: &str, payload: impl AsRef<[u8]>) -> Result<()> {
        self.redis()?.publish(channel, [payload.as_ref()]).await
    }

    /// Adds entries to a stream of Redis, thousands at a time, and returns their ids.
    pub async fn xadd<F: ToRedisArgs, V: ToRedisArgs>(
        &self,
        stream: &str,
        entries: impl IntoIterator<Item = impl AsRef<[(F, V)]>>,
    ) -> Result<Vec<String>> {
        self.redis()?.xadd(stream, entries).await
    }

    fn redis(&self) -> Result<&Redis> {
        self.redis.as_ref().context("no Redis runs")
    }
}

/// The status and JSON of what a request is answered.
pub async fn answered(request: RequestBuilder) -> Result<(u16, Value)> {
    let answer = request.send().await?;
    let status = answer.status().as_u16();
    let text = answer.text().await?;
    let value = serde_json::from_str(&text).with_context(|| format!("not JSON: {text}"))?;
    Ok((status, value))
}

fn http_only(builder: Builder) -> Builder {
    ["push", "pharmacy", "images", "rewards"]
        .into_iter()
        .fold(builder, |builder, component| builder.component(component))
}

fn builder(gateway: &Gateway, operators: &Gateway) -> Builder {
    Runtime::builder(workspace_root().join("spin.toml")).variables([
        ("api_token", API_TOKEN),
        ("admin_token", ADMIN_TOKEN),
        ("push_gateway", &gateway.url()),
        ("push_gateway_secret", gateway.secret()),
        ("operators_webhook", &operators.url()),
        ("operators_webhook_secret", operators.secret()),
        ("card_key", CARD_KEY),
    ])
}
