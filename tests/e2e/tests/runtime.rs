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
