//! What `images` costs: a small body.

use anyhow::{Result, ensure};

use super::{Case, Request};

/// A body of 1 KB, as a chat message has, each with an image of its own.
pub(crate) fn small() -> Request {
    let text = "医生您好，这是今天拍的检查报告。".repeat(18);
    let body = format!(r#"{{"text":"{text}","image":"https://img10.360buyimg.com/pop/jfs/{{n}}.jpg"}}"#);
    Request::post("/images/rewrite", "application/json", body).numbered_from(0)
}

pub(crate) fn cases(clients: u32) -> Vec<Case> {
    vec![Case { name: "images/rewrite, 1 KB", request: small(), clients, unit: "bodies", units_per_request: 1, check }]
}

pub(crate) fn check(answer: &str) -> Result<()> {
    ensure!(answer.contains("https://img.hospital.example/pop/jfs/0.jpg"), "the URL is not rewritten: {answer}");
    Ok(())
}
