//! No message lost: the stream, the outbox and the operator's hand, on the real components.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use e2e::{App, PATIENCE, answered};
use harness::{
    Gateway, Redis,
    feeds::Update,
    gateway::{Answer, Received},
};
use reqwest::Method;
use serde_json::{Value, json};

const STREAM: &str = "orders:stream";
const WRONG_STATE: &str = "urn:clinic:problem:wrong-state";

/// What the patient is told when a nurse accepts.
fn accepted(order: u64) -> Update {
    Update::new(order, "待接单", "待服务").by("护士接单")
}

/// An entry as Maxwell writes it.
fn entry(event: &Value) -> [(String, String); 1] {
    [("message".to_owned(), event.to_string())]
}

/// Waits until `done` says so.
async fn until(what: &str, patience: Duration, mut done: impl AsyncFnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + patience;
    while !done().await? {
        anyhow::ensure!(Instant::now() < deadline, "not within {patience:?}: {what}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

fn ids(received: &[Received]) -> BTreeSet<String> {
    received.iter().map(|request| request.id().to_owned()).collect()
}

#[tokio::test]
async fn every_layout_of_an_entry_rings_and_arrives_and_what_is_no_event_is_put_aside() -> Result<()> {
    let app = App::start().await?;
    app.xadd(STREAM, [entry(&accepted(1).maxwell())]).await?;
    let compact = [("{\"id\":2}".to_owned(), accepted(2).debezium().to_string())];
    app.xadd(STREAM, [compact]).await?;
    let extended =
        [("key".to_owned(), "{\"id\":3}".to_owned()), ("value".to_owned(), accepted(3).debezium().to_string())];
    app.xadd(STREAM, [extended]).await?;
    app.xadd(STREAM, [[("message", "nonsense")]]).await?;
    app.xadd(STREAM, [entry(&accepted(4).maxwell())]).await?;
    let received = app.gateway.wait_for(4, PATIENCE).await?;
    let orders: BTreeSet<_> = received.iter().map(|request| request.message()["order_id"].to_string()).collect();
    assert_eq!(orders.len(), 4);
    let redis = app.redis.as_ref().context("Redis runs")?;
    let mut connection = redis.connection().await?;
    until("the entry that is no event is put aside", PATIENCE, async || {
        let length: i64 = redis::cmd("XLEN").arg("orders:stream:dead").query_async(&mut connection).await?;
        Ok(length == 1)
    })
    .await?;
    until("nothing is left", PATIENCE, async || {
        let (_, answer) = app.answer("/push/drain", "").await?;
        // While the doorbell's own drain is at it, nobody knows.
        assert_eq!(answer["left"].is_null(), answer["busy"] == true, "{answer}");
        Ok(answer["left"] == 0)
    })
    .await?;
    let (_, events) = app.get_json("/push/events?outcome=rejected").await?;
    assert_eq!(events["items"].as_array().map(Vec::len), Some(1), "{events}");
    Ok(())
}

#[tokio::test]
async fn a_stream_is_drained_by_http_where_no_trigger_hears_it() -> Result<()> {
    let app = App::http_on(Redis::start().await?, |builder| builder).await?;
    let entries: Vec<_> = (0..450).map(|order| entry(&accepted(order).maxwell())).collect();
    app.xadd(STREAM, entries).await?;
    let (status, answer) = app.answer("/push/drain?deliver=false", "").await?;
    assert_eq!((status, &answer["read"], &answer["left"]), (200, &json!(450), &json!(0)), "{answer}");
    assert!(app.gateway.received().is_empty());
    let (_, stats) = app.get_json("/push/stats").await?;
    assert_eq!(stats["messages"]["by_state"]["pending"], 450);
    let (_, delivered) = app.answer("/push/deliver?seconds=25", "").await?;
    assert_eq!((&delivered["sent"], &delivered["pending"]), (&json!(450), &json!(0)), "{delivered}");
    let (status, problem) = app.answer("/push/drain?seconds=99&what=1", "").await?;
    assert_eq!((status, problem["errors"].as_array().map(Vec::len)), (400, Some(2)), "{problem}");
    Ok(())
}

#[tokio::test]
async fn without_redis_a_drain_says_so_and_an_event_still_arrives() -> Result<()> {
    let nowhere = format!("redis://127.0.0.1:{}", harness::port::free());
    let app = App::http(|builder| builder.variable("redis_url", nowhere)).await?;
    let (status, problem) = app.answer("/push/drain", "").await?;
    assert_eq!((status, &problem["type"]), (503, &json!("urn:clinic:problem:unavailable")));
    app.answer("/push/events", accepted(1).maxwell().to_string()).await?;
    app.gateway.wait_for(1, PATIENCE).await?;
    Ok(())
}

#[tokio::test]
async fn an_operator_sees_every_message_and_sends_a_dead_one_again() -> Result<()> {
    let app = App::http(|builder| builder).await?;
    app.gateway.answer(Answer::Status(422));
    let (_, answer) = app.answer("/push/events", accepted(7).maxwell().to_string()).await?;
    assert_eq!(answer["results"][0]["outcome"], "dead");
    let id = answer["results"][0]["messages"][0]["id"].as_str().context("it has an id")?.to_owned();
    let (_, page) = app.get_json("/push/messages?state=dead&order_id=7&recipient=patient:98").await?;
    assert_eq!((&page["items"][0]["id"], &page["next_cursor"]), (&json!(id), &Value::Null), "{page}");
    let (_, message) = app.get_json(&format!("/push/messages/{id}")).await?;
    assert_eq!(message["message"]["body"], "您的订单已接单，点击查看订单详情。");
    assert_eq!(message["history"][0]["detail"], "the gateway answered 422");

    app.gateway.answer(Answer::Ok);
    let retry = format!("/push/messages/{id}/retry");
    assert_eq!(app.post(&retry).send().await?.status(), 403, "a service may not");
    assert_eq!(answered(app.admin(Method::POST, &retry)).await?.0, 202);
    app.answer("/push/deliver", "").await?;
    let (_, message) = app.get_json(&format!("/push/messages/{id}")).await?;
    assert_eq!((&message["state"], message["history"].as_array().map(Vec::len)), (&json!("sent"), Some(2)));
    let (status, problem) = answered(app.admin(Method::POST, &retry)).await?;
    assert_eq!((status, &problem["type"]), (409, &json!(WRONG_STATE)), "a sent one is not sent again");
    let (status, all) = answered(app.admin(Method::POST, "/push/retry?state=dead")).await?;
    assert_eq!((status, &all["retried"]), (202, &json!(0)));
    assert_eq!(app.get_json("/push/messages/msg_none").await?.0, 404);
    assert_eq!(app.get_json("/push/messages?state=lost").await?.0, 400);
    Ok(())
}

#[tokio::test]
async fn an_ambiguous_event_waits_until_an_operator_says_what_it_was() -> Result<()> {
    let app = App::http(|builder| builder).await?;
    let event = Update::new(5, "退款申请中", "服务纠纷").maxwell();
    let (_, answer) = app.answer("/push/events", event.to_string()).await?;
    assert_eq!(answer["results"][0]["outcome"], "ambiguous");
    let (_, page) = app.get_json("/push/events?outcome=ambiguous&resolved=false").await?;
    let id = page["items"][0]["id"].as_str().context("it is kept")?.to_owned();
    assert_eq!(page["items"][0]["order_id"], "5");
    let resolve = format!("/push/events/{id}/resolve");
    let with = |operation: &str| app.admin(Method::POST, &resolve).body(json!({"operation": operation}).to_string());
    assert_eq!(answered(with("服务开始")).await?.0, 400, "that says as little");
    let (status, resolved) = answered(with("护士拒绝退款")).await?;
    assert_eq!((status, &resolved["results"][0]["outcome"]), (200, &json!("sent")), "{resolved}");
    assert_eq!(answered(with("护士拒绝退款")).await?.0, 200, "the same again changes nothing");
    let (status, problem) = answered(with("退款申请超时")).await?;
    assert_eq!((status, &problem["type"]), (409, &json!(WRONG_STATE)));
    assert_eq!(app.gateway.received().len(), 1);
    let (_, stats) = app.get_json("/push/stats").await?;
    assert_eq!(stats["events"]["ambiguous"], 0);
    Ok(())
}

/// The changes of many orders, two each, in the order of a binlog.
fn feed(orders: u64) -> Vec<Value> {
    let first = (0..orders).map(|order| accepted(order).maxwell());
    let second = (0..orders).map(|order| Update::new(order, "待服务", "服务中").by("服务开始").maxwell());
    first.chain(second).collect()
}

/// Every message came, under one id each, and each order's in the order of its changes.
fn check(received: &[Received], orders: u64) {
    let mut firsts: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    for request in received {
        assert!(request.verified);
        let message = request.message();
        if seen.insert(request.id().to_owned()) {
            let order = message["order_id"].as_str().unwrap().to_owned();
            firsts.entry(order).or_default().push(message["scenario"].as_str().unwrap().to_owned());
        }
    }
    assert_eq!(firsts.len() as u64, orders);
    for (order, scenarios) in &firsts {
        assert_eq!(scenarios, &["nurse_accepted", "service_started"], "order {order}");
    }
}

/// The requests that the gateway took, not those that it failed.
fn taken(gateway: &Gateway, fails: impl Fn(usize) -> bool) -> Vec<Received> {
    let received = gateway.received();
    received.into_iter().enumerate().filter(|(index, _)| !fails(index + 1)).map(|(_, request)| request).collect()
}

/// Delivers as a scheduler does, until nothing waits and the stream is empty. An operator who knows that the gateway is
/// there again does not wait for the backoff.
async fn settle(app: &App) -> Result<()> {
    until("everything is delivered", Duration::from_secs(120), async || {
        let (status, _) = answered(app.admin(Method::POST, "/push/retry?state=pending")).await?;
        assert_eq!(status, 202);
        let (status, drained) = app.answer("/push/drain?seconds=5", "").await?;
        Ok(status == 200 && drained["left"] == 0 && drained["delivered"]["pending"] == 0)
    })
    .await
}

#[tokio::test]
async fn two_thousand_changes_arrive_though_the_host_is_killed_ten_times_and_the_gateway_fails_a_third() -> Result<()> {
    const ORDERS: u64 = 1_000;
    let mut app = App::start().await?;
    // The gateway counts from 1.
    let fails = |n: usize| n.is_multiple_of(3);
    app.gateway.answer_by(move |n| if fails(n) { Answer::Status(500) } else { Answer::Ok });
    let feed = feed(ORDERS);
    for part in feed.chunks(200) {
        app.xadd(STREAM, part.iter().map(entry)).await?;
        // While it drains and delivers.
        tokio::time::sleep(Duration::from_millis(150)).await;
        app.runtime.kill();
        app.restart().await?;
    }
    settle(&app).await?;
    check(&taken(&app.gateway, fails), ORDERS);

    // The whole feed again: no new message.
    app.gateway.answer(Answer::Ok);
    let before = app.gateway.received().len();
    app.xadd(STREAM, feed.iter().map(entry)).await?;
    settle(&app).await?;
    assert_eq!(app.gateway.received().len(), before);
    Ok(())
}

#[tokio::test]
async fn a_burst_survives_redis_being_killed_in_the_middle_of_it() -> Result<()> {
    const ORDERS: u64 = 300;
    let redis = Redis::builder().append_only(true).setting("appendfsync", "always").start().await?;
    let mut app = App::start_on(redis, |builder| builder).await?;
    let feed = feed(ORDERS);
    for (number, part) in feed.chunks(100).enumerate() {
        app.xadd(STREAM, part.iter().map(entry)).await?;
        if number % 2 == 1 {
            app.restart_redis().await?;
        }
    }
    settle(&app).await?;
    let received = app.gateway.received();
    check(&received, ORDERS);
    assert_eq!(ids(&received).len() as u64, 2 * ORDERS);
    Ok(())
}
