//! What the functions rely on in the runtime, shown by a component that does nothing else (`tests/probe`).

use std::time::{Duration, Instant};

use anyhow::Result;
use e2e::{App, PATIENCE, answered};
use harness::{Gateway, Redis, Runtime, http_client, workspace_root};
use reqwest::Method;
use serde_json::Value;
use tokio::time::sleep;

#[tokio::test]
async fn a_host_that_is_not_granted_is_refused() -> Result<()> {
    let other = Gateway::start()?;
    let manifest = workspace_root().join("tests/probe/spin.toml");
    let runtime = Runtime::builder(manifest).component("probe").variable("token", "t").start().await?;
    let url = format!("{}/x", other.url());
    let answer = http_client(PATIENCE).get(runtime.url("/probe/fetch")).query(&[("url", &url)]).send().await?;
    assert_eq!(answer.status(), 502);
    let body: Value = answer.json().await?;
    assert!(body["error"].to_string().contains("HttpRequestDenied"), "{body}");
    assert!(other.received().is_empty());
    Ok(())
}

#[tokio::test]
async fn a_database_is_migrated_once_by_requests_that_come_first_together() -> Result<()> {
    let manifest = workspace_root().join("tests/probe/spin.toml");
    let mut runtime = Runtime::builder(manifest).component("probe").variable("token", "t").start().await?;
    let client = http_client(PATIENCE);
    let url = runtime.url("/probe/migrated");
    let together: Vec<_> = (0..24).map(|_| tokio::spawn(client.get(&url).send())).collect();
    for answer in together {
        let answer = answer.await??;
        let status = answer.status();
        let body: Value = answer.json().await?;
        assert_eq!(status, 200, "{body}");
        // FULL: what was committed survives a power cut.
        assert_eq!(body["synchronous"], 2);
    }
    runtime.restart().await?;
    let body: Value = client.get(&url).send().await?.json().await?;
    assert_eq!(body["visits"], 25);
    Ok(())
}

#[tokio::test]
async fn a_handler_of_redis_messages_stores_what_http_reads() -> Result<()> {
    let redis = Redis::start().await?;
    let manifest = workspace_root().join("tests/probe/spin.toml");
    let builder = Runtime::builder(manifest).variables([("token", "t"), ("redis_url", &redis.url())]);
    let runtime = builder.start().await?;
    redis.wait_for_subscriber("probe", PATIENCE).await?;
    let messages = (0..50).map(|number| format!("row {number}"));
    redis.publish("probe", messages.chain(["the end".to_owned()])).await?;
    // Messages are handled one after the other, and what is no row is written to the output.
    let output = runtime.state_dir().join("logs/probe-events_stdout.txt");
    let deadline = Instant::now() + PATIENCE;
    while std::fs::read_to_string(&output).unwrap_or_default() != "the end\n" {
        assert!(Instant::now() < deadline, "{}", runtime.stderr());
        sleep(Duration::from_millis(20)).await;
    }
    let rows: Value = http_client(PATIENCE).get(runtime.url("/probe/rows")).send().await?.json().await?;
    assert_eq!(rows["rows"], 50);
    Ok(())
}

#[tokio::test]
async fn the_application_is_there_again_after_a_power_cut() -> Result<()> {
    let redis = Redis::builder().append_only(true).start().await?;
    let mut app = App::start_on(redis, |builder| builder).await?;
    let before = (app.runtime.url("/"), app.runtime.state_dir().to_path_buf());
    app.xadd("kept", [[("message", "an entry")]]).await?;

    app.runtime.kill();
    assert!(app.get("/push").await.is_err());
    app.restart().await?;
    app.restart_redis().await?;
    assert_eq!((app.runtime.url("/"), app.runtime.state_dir().to_path_buf()), before);
    let (status, about) = app.get_json("/push").await?;
    assert_eq!((status, &about["function"]), (200, &Value::from("push")));
    let (status, _) = answered(app.admin(Method::GET, "/push")).await?;
    assert_eq!(status, 200);
    // The stream is as it was: its next entry is its second.
    app.xadd("kept", [[("message", "another")]]).await?;
    let mut connection = app.redis.as_ref().unwrap().connection().await?;
    let length: u64 = redis::cmd("XLEN").arg("kept").query_async(&mut connection).await?;
    assert_eq!(length, 2);
    Ok(())
}
