//! The mobile app: the push object of JPush's `POST /v3/push`.
//!
//! Field names and limits: JPush's "推送 API v3" page; the whole object stays within 4,000 bytes, since
//! links are limited where they are configured and every text is the scenario's own.

use serde::Serialize;

use super::Notice;

/// The request body.
#[derive(Clone, Debug, Serialize)]
pub struct Push {
    platform: [&'static str; 2],
    audience: Audience,
    notification: Notification,
    options: Options,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
enum Audience {
    /// One person's devices.
    Alias([String; 1]),
    /// A group's devices.
    Tag([&'static str; 1]),
}

#[derive(Clone, Debug, Serialize)]
struct Notification {
    android: Android,
    ios: Ios,
}

#[derive(Clone, Debug, Serialize)]
struct Android {
    alert: &'static str,
    title: &'static str,
    extras: Extras,
}

#[derive(Clone, Debug, Serialize)]
struct Ios {
    alert: Alert,
    sound: &'static str,
    badge: &'static str,
    extras: Extras,
}

#[derive(Clone, Debug, Serialize)]
struct Alert {
    title: &'static str,
    body: &'static str,
}

#[derive(Clone, Debug, Serialize)]
struct Extras {
    scenario: &'static str,
    order_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    link: Option<String>,
}

#[derive(Clone, Debug, Serialize)]
struct Options {
    /// A day: an older change of an order is of no use to anybody.
    time_to_live: u32,
    apns_production: bool,
}

pub(super) fn payload(notice: &Notice, link: Option<&str>) -> Push {
    let text = notice.text;
    let extras =
        Extras { scenario: notice.scenario, order_id: notice.order_id.to_string(), link: link.map(str::to_owned) };
    let audience = match notice.recipient.audience {
        Some(group) => Audience::Tag([group]),
        None => Audience::Alias([notice.recipient.address().into_owned()]),
    };
    Push {
        platform: ["android", "ios"],
        audience,
        notification: Notification {
            android: Android { alert: text.body, title: text.title, extras: extras.clone() },
            ios: Ios { alert: Alert { title: text.title, body: text.body }, sound: "default", badge: "+1", extras },
        },
        options: Options { time_to_live: 86_400, apns_production: true },
    }
}

#[cfg(test)]
mod tests {
    use crate::{
        id::Id,
        message::{
            Channel, LINK_MAX, Message,
            tests::{accounts, notice, payload},
        },
    };

    #[test]
    fn it_is_the_push_object_of_jpush() {
        let extras = serde_json::json!({
            "scenario": "nurse_accepted", "order_id": "10086", "link": "clinic://orders/10086",
        });
        assert_eq!(
            payload(Channel::App),
            serde_json::json!({
                "platform": ["android", "ios"],
                "audience": {"alias": ["oABC-123_x"]},
                "notification": {
                    "android": {"alert": "您的订单已接单，点击查看订单详情。", "title": "订单已接单", "extras": extras},
                    "ios": {
                        "alert": {"title": "订单已接单", "body": "您的订单已接单，点击查看订单详情。"},
                        "sound": "default", "badge": "+1", "extras": extras,
                    },
                },
                "options": {"time_to_live": 86_400, "apns_production": true},
            })
        );
    }

    #[test]
    fn an_audience_is_a_tag() {
        let mut to_all = notice(Channel::App);
        to_all.recipient.id = None;
        to_all.recipient.audience = Some("available");
        let value = serde_json::to_value(Message::new(to_all, &accounts())).unwrap();
        assert_eq!(value["payload"]["audience"], serde_json::json!({"tag": ["available"]}));
        assert_eq!(value["recipient"]["id"], serde_json::Value::Null);
    }

    #[test]
    fn the_longest_link_and_ids_stay_within_the_limit() {
        let mut longest = notice(Channel::App);
        longest.order_id = Id::parse(&"9".repeat(64)).unwrap();
        let mut accounts = accounts();
        // What JSON escapes counts as it is written.
        for (link, fits) in
            [("x".repeat(LINK_MAX), true), ("\"".repeat(LINK_MAX / 2), true), ("\"".repeat(LINK_MAX), false)]
        {
            accounts.app_link = link;
            let Ok(accounts) = accounts.clone().check() else {
                assert!(!fits);
                continue;
            };
            assert!(fits);
            let message = Message::new(longest.clone(), &accounts);
            assert!(serde_json::to_vec(&message.payload).unwrap().len() <= 4000);
        }
    }
}
