//! What `dev up` says once everything runs: where it listens, with which tokens, and what to try.

use std::time::Duration;

use harness::feeds::Update;
use harness::runtime::Kind;
use harness::{Gateway, Runtime, redis};

use crate::demo::fresh_order;
use crate::doorbell;
use crate::settings::first_token;
use crate::up::Application;

/// Between the runtime's health and the subscriptions of its Redis triggers.
const SUBSCRIPTION_TIMEOUT: Duration = Duration::from_secs(10);

/// What the channel begins with on which Redis tells of what happens to a key.
const KEYSPACE: &str = "__keyspace@0__:";

/// Prints it, after a wait for the Redis triggers, so that what it tells to try does work.
pub(crate) async fn print(
    application: &Application,
    runtime: &Runtime,
    gateway: Option<&Gateway>,
    redis_is_ours: bool,
) {
    let mut notes = Vec::new();
    let program = match application.kind {
        Kind::Spin => "Spin",
        Kind::Host => "the stand-in host (tests/host)",
    };
    println!("\nclinic-functions runs on {program}.\n");

    println!("  HTTP      {}", runtime.url(""));
    for (route, component) in application.manifest.routes() {
        println!("              {route:<24} {component}");
    }
    let resolve = |template| application.manifest.resolve(template, &application.variables);
    if application.hears_redis {
        let url = application.redis_url();
        let whose = if redis_is_ours { "started here" } else { "was there already" };
        println!("  Redis     {url} ({whose})");
        let mut streams = Vec::new();
        for (channel, component) in application.manifest.channels() {
            let channel = resolve(channel);
            let stream = channel.strip_prefix(KEYSPACE);
            let heard = stream.map_or_else(|| channel.clone(), |stream| format!("{stream} (stream)"));
            println!("              {heard:<24} {component}");
            let waited = redis::wait_for_subscriber(url, &channel, SUBSCRIPTION_TIMEOUT).await;
            notes.extend(waited.err().map(|error| format!("{error:#}.")));
            streams.extend(stream.map(str::to_owned));
        }
        notes.extend(doorbell::warning(url, &streams).await);
    } else {
        println!("  Redis     none (TRIGGERS=http)");
    }
    match gateway {
        Some(gateway) => println!("  Messages  go to {}, a dev gateway, and appear below", gateway.url()),
        None => match application.variables.get("push_gateway").map(String::as_str) {
            Some(named) if !named.is_empty() => println!("  Messages  go to {named}"),
            _ => println!("  Messages  go to the log alone"),
        },
    }
    println!("  State     {}", application.state_dir.display());
    let token = first_token(&application.variables, "api_token");
    println!("  Tokens    Authorization: Bearer {token} (services)");
    println!("            Authorization: Bearer {} (operators)", first_token(&application.variables, "admin_token"));
    for note in notes {
        println!("\n  Note: {note}");
    }

    println!("\nTry it: a nurse accepts an order (待接单 → 待服务), and the patient is told.");
    // Each time another order, so that the messages can be told apart.
    let order_id = fresh_order();
    if application.hears_redis {
        let redis_cli = format!("redis-cli -u {}", application.redis_url());
        let [stream, field, channel] =
            ["{{ orders_stream }}", "{{ orders_stream_field }}", "{{ orders_channel }}"].map(resolve);
        println!("\n  By a stream of Redis, where it waits until it is handled:\n");
        println!("{redis_cli} xadd {stream} '*' {field} '{}'", accepted(order_id));
        println!("\n  By a channel of Redis, where it is lost if nobody listens:\n");
        println!("{redis_cli} publish {channel} '{}'", accepted(order_id + 1));
    }
    println!("\n  By HTTP:\n");
    println!(
        "curl -i {} -H 'Authorization: Bearer {token}' -H 'Content-Type: application/json' -d '{}'",
        runtime.url("/push/events"),
        accepted(order_id + 2)
    );
    println!("\n  An order's whole life, in another terminal: make demo");
    println!("\nCtrl-C ends everything that was started here.\n");
}

fn accepted(order_id: u64) -> serde_json::Value {
    Update::new(order_id, "待接单", "待服务").by("nurse_accepted").maxwell()
}
