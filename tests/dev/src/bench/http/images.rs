//! What `images` costs: a small body.

use anyhow::{Result, ensure};

use super::{Case, Request};

/// A body of 1 KB, as a chat message has.
pub(crate) fn cases(clients: u32) -> Vec<Case> {
    let text = "医生您好，这是今天拍的检查报告。".repeat(18);
    let body = format!(r#"{{"text":"{text}","image":"https://img10.360buyimg.com/pop/jfs/a.jpg"}}"#);
    vec![Case {
        name: "images/rewrite, 1 KB",
        request: Request::post("/images/rewrite", "application/json", body),
        clients,
        unit: "bodies",
        units_per_request: 1,
        check,
    }]
}

fn check(answer: &str) -> Result<()> {
    ensure!(answer.contains("https://img.hospital.example/pop/jfs/a.jpg"), "the URL is not rewritten: {answer}");
    Ok(())
}
