//! The whole application as the end-to-end tests start it: `spin.toml` unchanged, on the runtime that `RUNTIME`
//! names, with a Redis and a push gateway of its own.

use std::time::Duration;

use anyhow::{Context, Result};
use harness::{Gateway, Redis, Runtime, http_client, runtime::Builder, workspace_root};
use reqwest::{RequestBuilder, Response};
use serde_json::Value;

/// What services send.
pub const API_TOKEN: &str = "a-service";
/// What operators send.
pub const ADMIN_TOKEN: &str = "an-operator";
/// Longer than anything here takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The running application and what it stands on.
#[derive(Debug)]
pub struct App {
    /// What it runs in.
    pub runtime: Runtime,
    /// Where its messages arrive.
    pub gateway: Gateway,
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
        let redis = Redis::start().await?;
        let gateway = Gateway::start()?;
        let builder = builder(&gateway).variable("redis_url", redis.url());
        let runtime = settings(builder).start().await?;
        // The application is healthy before its subscriptions stand.
        for channel in ["orders", "pharmacy.orders", "images.messages", "accounts.opened"] {
            redis.wait_for_subscriber(channel, PATIENCE).await?;
        }
        Ok(Self { runtime, gateway, redis: Some(redis), client: http_client(PATIENCE) })
    }

    /// The components that answer HTTP, without Redis, with other settings.
    pub async fn http(settings: impl FnOnce(Builder) -> Builder) -> Result<Self> {
        let gateway = Gateway::start()?;
        let builder = ["push", "pharmacy", "images", "rewards"]
            .into_iter()
            .fold(builder(&gateway), |builder, component| builder.component(component));
        let runtime = settings(builder).start().await?;
        Ok(Self { runtime, gateway, redis: None, client: http_client(PATIENCE) })
    }

    /// A `GET` without a token.
    pub async fn get(&self, path: &str) -> Result<Response> {
        Ok(self.client.get(self.runtime.url(path)).send().await?)
    }

    /// A `POST` by a service, to be sent.
    pub fn post(&self, path: &str) -> RequestBuilder {
        self.client.post(self.runtime.url(path)).bearer_auth(API_TOKEN)
    }

    /// The status and JSON of what a service's `POST` of this body is answered.
    pub async fn answer(&self, path: &str, body: impl Into<reqwest::Body>) -> Result<(u16, Value)> {
        let answer = self.post(path).body(body).send().await?;
        let status = answer.status().as_u16();
        let text = answer.text().await?;
        let value = serde_json::from_str(&text).with_context(|| format!("not JSON: {text}"))?;
        Ok((status, value))
    }

    /// Publishes on a Redis channel.
    pub async fn publish(&self, channel: &str, payload: impl AsRef<[u8]>) -> Result<()> {
        let redis = self.redis.as_ref().context("only HTTP runs")?;
        let mut connection = redis.connection().await?;
        let heard: i64 = redis::cmd("PUBLISH").arg(channel).arg(payload.as_ref()).query_async(&mut connection).await?;
        anyhow::ensure!(heard > 0, "nobody hears {channel}");
        Ok(())
    }
}

fn builder(gateway: &Gateway) -> Builder {
    Runtime::builder(workspace_root().join("spin.toml")).variables([
        ("api_token", API_TOKEN),
        ("admin_token", ADMIN_TOKEN),
        ("push_gateway", &gateway.url()),
        ("push_gateway_secret", gateway.secret()),
    ])
}
