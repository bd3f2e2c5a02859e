//! `dev demo`: plays the life of two orders and of a campaign through the running application, and shows the messages
//! and answers.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use harness::feeds::Update;
use harness::http_client;
use reqwest::{Client, StatusCode};
use serde_json::Value;
use time::OffsetDateTime;
use tokio::time::{Instant, sleep};

use crate::campaign::Campaign;
use crate::messages;
use crate::settings::{self, first_token, reachable};

const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
const ARRIVAL_TIMEOUT: Duration = Duration::from_secs(10);
const POLL_EVERY: Duration = Duration::from_millis(50);

/// An order is paid, accepted and served: `(from, to, operation)`.
const SERVED: [Step; 4] = [
    ("支付中", "待接单", "payment_succeeded"),
    ("待接单", "待服务", "nurse_accepted"),
    ("待服务", "服务中", "service_started"),
    ("服务中", "服务完成", "service_completed"),
];

/// An order is refunded while it is being served.
const REFUNDED: [Step; 2] = [("服务中", "退款申请中", "refund_requested"), ("退款申请中", "退款中", "refund_approved")];

type Step = (&'static str, &'static str, &'static str);

/// An order that no earlier run has used.
pub(crate) fn fresh_order() -> u64 {
    u64::try_from(OffsetDateTime::now_utc().unix_timestamp_nanos() / 1_000_000).unwrap_or_default()
}

/// Plays both stories; an error if a message was not sent.
pub(crate) async fn run(settings: settings::Demo) -> Result<()> {
    let mut given = settings::given_variables()?;
    let named_gateway = given.get("push_gateway").cloned();
    given.entry("api_token".to_owned()).or_insert(settings.api_token);
    given.entry("admin_token".to_owned()).or_insert(settings.admin_token);

    let client = http_client(ANSWER_TIMEOUT);
    let origin = format!("http://{}", reachable(settings.gateway_listen));
    let mut gateway = DevGateway { client: client.clone(), url: format!("{origin}/received"), seen: 0 };
    let is_in_use = named_gateway.is_none_or(|named| named == origin) && gateway.arrivals().await.is_ok();
    let mut player = Player {
        client,
        events: format!("http://{}/push/events", reachable(settings.listen)),
        token: first_token(&given, "api_token").to_owned(),
        gateway: is_in_use.then_some(gateway),
        failures: 0,
    };

    let order_id = fresh_order();
    player.play("is paid, accepted and served", order_id, &SERVED).await?;
    player.play("is refunded while it is being served", order_id + 1, &REFUNDED).await?;
    if player.failures > 0 {
        bail!("{} of the messages were not sent", player.failures);
    }
    let campaign = Campaign {
        client: player.client,
        origin: format!("http://{}", reachable(settings.listen)),
        api_token: player.token,
        admin_token: first_token(&given, "admin_token").to_owned(),
    };
    campaign.play(&format!("demo-{order_id}")).await
}

struct Player {
    client: Client,
    events: String,
    token: String,
    gateway: Option<DevGateway>,
    failures: usize,
}

impl Player {
    async fn play(&mut self, story: &str, order_id: u64, steps: &[Step]) -> Result<()> {
        println!("\nOrder {order_id} {story}.");
        for (from, to, operation) in steps {
            println!("\n  {from} → {to}");
            let event = Update::new(order_id, from, to).by(operation).maxwell();
            let result = self.post(&event).await?;
            let outcome = result["outcome"].as_str().unwrap_or_default();
            let empty = Vec::new();
            let sent = result["messages"].as_array().unwrap_or(&empty);
            if !matches!(outcome, "sent" | "logged") || sent.is_empty() {
                self.failures += 1;
                println!("    {result}");
                continue;
            }
            match &mut self.gateway {
                Some(gateway) => self.failures += gateway.show(sent).await?,
                None => println!("    {outcome}: {}", result["messages"]),
            }
        }
        Ok(())
    }

    /// Posts one event, and returns the one result.
    async fn post(&self, event: &Value) -> Result<Value> {
        let posted = self.client.post(&self.events).bearer_auth(&self.token).json(event).send().await;
        let answer = match posted {
            Err(error) if error.is_connect() => {
                bail!("nothing answers at {} (LISTEN): is `make up` running?", self.events)
            }
            other => other?,
        };
        let status = answer.status();
        let body = answer.text().await?;
        if status != StatusCode::ACCEPTED {
            bail!("{} answered {status}: {body}", self.events);
        }
        let mut body: Value = serde_json::from_str(&body).context("the answer is not JSON")?;
        Ok(body["results"][0].take())
    }
}

/// The gateway that `dev up` runs.
struct DevGateway {
    client: Client,
    url: String,
    /// How many of its requests we have looked at.
    seen: u64,
}

impl DevGateway {
    /// Prints these messages as they arrive, and returns how many did not.
    async fn show(&mut self, sent: &[Value]) -> Result<usize> {
        let mut awaited: Vec<&Value> = sent.iter().map(|message| &message["id"]).collect();
        let deadline = Instant::now() + ARRIVAL_TIMEOUT;
        while !awaited.is_empty() && Instant::now() < deadline {
            for request in self.arrivals().await? {
                let before = awaited.len();
                awaited.retain(|id| **id != request["id"]);
                if awaited.len() < before {
                    println!("    {}", messages::line(&request["message"], received_at(&request)));
                }
            }
            sleep(POLL_EVERY).await;
        }
        for id in &awaited {
            println!("    {id} did not arrive at the dev gateway within {ARRIVAL_TIMEOUT:?}");
        }
        Ok(awaited.len())
    }

    /// What has arrived since the last look.
    async fn arrivals(&mut self) -> Result<Vec<Value>> {
        let url = format!("{}?after={}", self.url, self.seen);
        let answer = self.client.get(url).send().await?.error_for_status()?;
        let requests: Vec<Value> = answer.json().await?;
        self.seen += requests.len() as u64;
        Ok(requests)
    }
}

fn received_at(request: &Value) -> OffsetDateTime {
    let unix_ms = request["received_at_ms"].as_i64().unwrap_or_default();
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(unix_ms) * 1_000_000).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}
