//! Messages as a person reads them on a terminal: each that arrives at the dev gateway, on one line.

use std::collections::HashSet;

use harness::Gateway;
use serde_json::Value;
use time::OffsetDateTime;
use time::macros::{format_description, offset};

/// Prints what arrives at the gateway, for ever.
pub(crate) async fn print_arrivals<T>(gateway: Option<&Gateway>) -> T {
    let Some(gateway) = gateway else {
        return std::future::pending().await;
    };
    let mut printed = 0;
    let mut known = HashSet::new();
    loop {
        let arrived = gateway.after(printed).await;
        printed += arrived.len();
        for request in arrived {
            let at = OffsetDateTime::from(request.at);
            let line = line(&request.message(), at);
            if !request.verified {
                println!("{line}  [refused: the signature is wrong]");
            } else if known.insert(request.id().to_owned()) {
                println!("{line}");
            } else {
                // Delivery is at least once: a receiver knows a repetition by its id.
                println!("{line}  [again: {}]", request.id());
            }
        }
    }
}

/// One line: when (by the clinic's clock), the scenario, to whom, by which channel, and the text.
pub(crate) fn line(message: &Value, at: OffsetDateTime) -> String {
    format!(
        "{}  {:<26} → {:<17} {:<13} {}",
        time_of_day(at),
        text(&message["scenario"]),
        recipient(&message["recipient"]),
        text(&message["channel"]),
        text(&message["body"]),
    )
}

/// Such as `17:12:46`, by the clinic's clock.
fn time_of_day(at: OffsetDateTime) -> String {
    at.to_offset(offset!(+8))
        .format(format_description!("[hour]:[minute]:[second]"))
        .expect("every instant has these parts")
}

/// Such as `patient 98`, or `nurse (available)` where nobody in particular is meant.
fn recipient(recipient: &Value) -> String {
    let role = text(&recipient["role"]);
    match (&recipient["id"], &recipient["audience"]) {
        (Value::Null, Value::Null) => role,
        (Value::Null, audience) => format!("{role} ({})", text(audience)),
        (id, _) => format!("{role} {}", text(id)),
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "?".to_owned(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use time::macros::datetime;

    use super::*;

    #[test]
    fn a_line_says_when_what_to_whom_and_how() {
        let accepted = json!({
            "scenario": "nurse_accepted",
            "recipient": {"role": "patient", "id": 98},
            "channel": "wechat",
            "body": "您的订单已接单，点击查看订单详情。",
        });
        assert_eq!(
            line(&accepted, datetime!(2016-12-10 09:12:46 UTC)),
            "17:12:46  nurse_accepted             → patient 98        wechat        您的订单已接单，点击查看订单详情。"
        );
        let available = json!({"role": "nurse", "id": null, "audience": "available"});
        assert_eq!(recipient(&available), "nurse (available)");
    }
}
