//! What the functions rely on in the runtime, shown by a component that does nothing else (`tests/probe`).

use anyhow::Result;
use e2e::PATIENCE;
use harness::{Gateway, Runtime, http_client, workspace_root};
use serde_json::Value;

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
