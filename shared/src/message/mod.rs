//! What a person is told: recipient × channel → the channel's own payload, within its limits.
//!
//! A [`Notice`] is the event in the business's words. [`Message::new`] makes of it what the gateway gets. A channel
//! is one file: [`wechat`] (official account), [`mini_program`], [`app`].

pub mod app;
pub mod mini_program;
pub mod wechat;

use std::borrow::Cow;

use serde::Serialize;

use crate::{
    clock,
    config::variable,
    digest,
    id::Id,
    problem::{Fault, Problem},
};

/// Whom a message is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// 患者.
    Patient,
    /// 护士.
    Nurse,
    /// 医生.
    Doctor,
    /// 运营: not a person but the team, by its webhook.
    Operator,
}

impl Role {
    /// As messages call it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Patient => "patient",
            Self::Nurse => "nurse",
            Self::Doctor => "doctor",
            Self::Operator => "operator",
        }
    }
}

/// One person, or an audience where no person is assigned yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Recipient {
    /// What they are in the story.
    pub role: Role,
    /// Who it is; `None` for an audience.
    pub id: Option<Id>,
    /// Which group, if it is not one person: `available` are the nurses who may accept an order.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audience: Option<&'static str>,
    /// The channel's own address of them (an openid, an alias), where it is known.
    #[serde(skip)]
    pub address: Option<String>,
}

impl Recipient {
    /// The address for the channel: the known one, else `role:id` (`role:audience`) for the gateway to resolve.
    pub fn address(&self) -> Cow<'_, str> {
        match &self.address {
            Some(address) => Cow::Borrowed(address),
            None => Cow::Owned(self.key()),
        }
    }

    /// `patient:98`, `nurse:available`: who it is within one event.
    pub fn key(&self) -> String {
        let mut key = String::with_capacity(24);
        self.push_key(&mut key);
        key
    }

    fn push_key(&self, text: &mut String) {
        let who = self.id.as_ref().map(Id::as_str).or(self.audience).unwrap_or("-");
        for part in [self.role.as_str(), ":", who] {
            text.push_str(part);
        }
    }
}

/// How a message reaches its recipient.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Channel {
    /// WeChat official account, 公众号.
    Wechat,
    /// WeChat mini program, 小程序.
    MiniProgram,
    /// The mobile app, by JPush.
    App,
    /// The operators' webhook.
    Webhook,
}

impl Channel {
    /// Those that reach a person.
    pub const ALL: [Self; 3] = [Self::Wechat, Self::MiniProgram, Self::App];

    /// Reads a channel's name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|channel| channel.as_str() == name)
    }

    /// Its name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Wechat => "wechat",
            Self::MiniProgram => "mini_program",
            Self::App => "app",
            Self::Webhook => "webhook",
        }
    }
}

/// A scenario's words in every length that a channel may ask for. None is ever cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Text {
    /// A headline.
    pub title: &'static str,
    /// The whole sentence.
    pub body: &'static str,
    /// The sentence within 20 characters.
    pub short: &'static str,
    /// The state in at most 5 Chinese characters.
    pub phrase: &'static str,
}

/// A nurse as a patient is told of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Nurse {
    /// Who it is.
    pub id: Id,
    /// Their name, where the source has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// Something that happened and that one recipient must be told.
#[derive(Clone, Debug)]
pub struct Notice {
    /// The event's identity; a replay has the same.
    pub event_id: Id,
    /// The scenario's key.
    pub scenario: &'static str,
    /// The scenario's Chinese name, as operators know it.
    pub label: &'static str,
    /// The order that it is about.
    pub order_id: Id,
    /// Whom to tell.
    pub recipient: Recipient,
    /// How.
    pub channel: Channel,
    /// In which words.
    pub text: Text,
    /// When it happened, Unix ms.
    pub occurred_at_ms: i64,
    /// The nurse that it tells of.
    pub nurse: Option<Nurse>,
}

/// What the push gateway gets.
#[derive(Clone, Debug, Serialize)]
pub struct Message {
    /// `msg_` and a hash of event, scenario and recipient: the same for every repetition.
    pub id: String,
    /// The scenario's key.
    pub scenario: &'static str,
    /// The order that it is about.
    pub order_id: Id,
    /// For whom.
    pub recipient: Recipient,
    /// By which channel.
    pub channel: Channel,
    /// A headline.
    pub title: &'static str,
    /// The whole sentence.
    pub body: &'static str,
    /// Where a tap leads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub link: Option<String>,
    /// The nurse that it tells of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nurse: Option<Nurse>,
    /// RFC 3339.
    pub occurred_at: String,
    /// The channel's own request body.
    pub payload: Payload,
    /// The scenario's Chinese name, for the log.
    #[serde(skip)]
    pub label: &'static str,
    /// The event that it came of.
    #[serde(skip)]
    pub event_id: Id,
    /// When it happened, Unix ms: an order's messages are sent in this order.
    #[serde(skip)]
    pub occurred_at_ms: i64,
}

/// A channel's own request body.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub enum Payload {
    /// Of the official account.
    Wechat(wechat::TemplateMessage),
    /// Of the mini program.
    MiniProgram(mini_program::SubscribeMessage),
    /// Of the app.
    App(app::Push),
    /// For operators: what the matter is.
    Webhook(serde_json::Value),
}

/// What the operator set for the channels' accounts.
#[derive(Clone, Debug)]
pub struct Accounts {
    /// The official account's template.
    pub wechat_template_id: String,
    /// Where a tap on its message leads; `{order_id}` is replaced; empty for nowhere.
    pub wechat_link: String,
    /// The mini program's template.
    pub mini_program_template_id: String,
    /// Which of its pages a tap opens, likewise.
    pub mini_program_page: String,
    /// Where a tap in the app leads, likewise.
    pub app_link: String,
}

/// The most bytes of a link or page: with it every payload stays within its channel's limits.
const LINK_MAX: usize = 1024;

impl Accounts {
    /// By the variables of the component.
    ///
    /// # Errors
    /// Every fault of them; the outer error if the manifest does not give one.
    pub async fn load() -> Result<Result<Self, Vec<Fault>>, Problem> {
        let accounts = Self {
            wechat_template_id: variable("wechat_template_id").await?,
            wechat_link: variable("wechat_link").await?,
            mini_program_template_id: variable("mini_program_template_id").await?,
            mini_program_page: variable("mini_program_page").await?,
            app_link: variable("app_link").await?,
        };
        Ok(accounts.check())
    }

    /// Checks the values.
    ///
    /// # Errors
    /// Every fault, at the variable that has it.
    pub fn check(self) -> Result<Self, Vec<Fault>> {
        let mut faults = Vec::new();
        for (name, link) in [
            ("wechat_link", &self.wechat_link),
            ("mini_program_page", &self.mini_program_page),
            ("app_link", &self.app_link),
        ] {
            let longest = link.replace("{order_id}", &"9".repeat(crate::id::MAX_LEN));
            // As JSON writes it, but for the quotes: that is what the channels' limits count.
            let written = serde_json::to_string(&longest).map_or(usize::MAX, |text| text.len() - 2);
            if written > LINK_MAX || link.chars().any(char::is_control) {
                let detail = format!("must have at most {LINK_MAX} bytes with the longest id in it, none a control");
                faults.push(Fault::at(format!("/variables/{name}"), detail));
            }
        }
        for (name, template) in [
            ("wechat_template_id", &self.wechat_template_id),
            ("mini_program_template_id", &self.mini_program_template_id),
        ] {
            if template.is_empty() || template.len() > 64 {
                faults.push(Fault::at(format!("/variables/{name}"), "must have 1 to 64 bytes"));
            }
        }
        if faults.is_empty() { Ok(self) } else { Err(faults) }
    }

    fn link(&self, channel: Channel, order_id: &Id) -> Option<String> {
        let template = match channel {
            Channel::Wechat => &self.wechat_link,
            Channel::MiniProgram => &self.mini_program_page,
            Channel::App => &self.app_link,
            Channel::Webhook => return None,
        };
        (!template.is_empty()).then(|| template.replace("{order_id}", order_id.as_str()))
    }
}

impl Message {
    /// What the gateway gets for `notice`.
    pub fn new(notice: Notice, accounts: &Accounts) -> Self {
        let link = accounts.link(notice.channel, &notice.order_id);
        let payload = match notice.channel {
            Channel::Wechat => Payload::Wechat(wechat::payload(&notice, accounts, link.as_deref())),
            Channel::MiniProgram => Payload::MiniProgram(mini_program::payload(&notice, accounts, link.as_deref())),
            Channel::App => Payload::App(app::payload(&notice, link.as_deref())),
            Channel::Webhook => Payload::Webhook(serde_json::Value::Null),
        };
        Self {
            id: message_id(&notice.event_id, notice.scenario, &notice.recipient),
            scenario: notice.scenario,
            order_id: notice.order_id,
            recipient: notice.recipient,
            channel: notice.channel,
            title: notice.text.title,
            body: notice.text.body,
            link,
            nurse: notice.nurse,
            occurred_at: clock::rfc3339(notice.occurred_at_ms),
            payload,
            label: notice.label,
            event_id: notice.event_id,
            occurred_at_ms: notice.occurred_at_ms,
        }
    }
}

/// Something that operators must look at.
#[derive(Clone, Debug)]
pub struct Alert {
    /// The identity of this matter, this time.
    pub event_id: Id,
    /// The scenario's key.
    pub scenario: &'static str,
    /// Its Chinese name.
    pub label: &'static str,
    /// What it is about.
    pub subject: Id,
    /// In which words.
    pub text: Text,
    /// When it was found, Unix ms.
    pub occurred_at_ms: i64,
    /// What the matter is, as the webhook's payload.
    pub details: serde_json::Value,
}

impl Message {
    /// What the operators' webhook gets for `alert`.
    pub fn to_operators(alert: Alert) -> Self {
        let recipient = Recipient { role: Role::Operator, id: None, audience: Some("all"), address: None };
        Self {
            id: message_id(&alert.event_id, alert.scenario, &recipient),
            scenario: alert.scenario,
            order_id: alert.subject,
            recipient,
            channel: Channel::Webhook,
            title: alert.text.title,
            body: alert.text.body,
            link: None,
            nurse: None,
            occurred_at: clock::rfc3339(alert.occurred_at_ms),
            payload: Payload::Webhook(alert.details),
            label: alert.label,
            event_id: alert.event_id,
            occurred_at_ms: alert.occurred_at_ms,
        }
    }
}

/// `msg_` and 32 hexadecimal digits: the digest of event, scenario and recipient.
fn message_id(event_id: &Id, scenario: &str, recipient: &Recipient) -> String {
    // None of the three can hold a line's end, so two different triples never feed the same bytes.
    let mut of = String::with_capacity(160);
    for part in [event_id.as_str(), "\n", scenario, "\n"] {
        of.push_str(part);
    }
    recipient.push_key(&mut of);
    digest::hex("msg_", of.as_bytes())
}

/// `{"value": …}`, as WeChat's templates take each of their fields.
#[derive(Clone, Debug, Serialize)]
pub struct Field<T = String> {
    /// What stands there.
    pub value: T,
}

/// The most characters of WeChat's `thing` fields.
pub const THING_MAX: usize = 20;
/// The most Chinese characters of WeChat's `phrase` fields.
pub const PHRASE_MAX: usize = 5;
/// The most characters of WeChat's `character_string` fields.
pub const CHARACTER_STRING_MAX: usize = 32;

/// An id as a `character_string`. One that is too long shows its end, as people name long numbers by their end.
fn character_string(id: &Id) -> String {
    let text = id.as_str();
    let over = text.len().saturating_sub(CHARACTER_STRING_MAX);
    if over == 0 {
        return text.to_owned();
    }
    let end = text.get(over + 3..).unwrap_or(text);
    format!("...{end}")
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) const TEXT: Text = Text {
        title: "订单已接单",
        body: "您的订单已接单，点击查看订单详情。",
        short: "您的订单已接单",
        phrase: "已接单",
    };

    pub(crate) fn accounts() -> Accounts {
        Accounts {
            wechat_template_id: "wx-template".into(),
            wechat_link: "https://m.example.org/orders/{order_id}".into(),
            mini_program_template_id: "mp-template".into(),
            mini_program_page: "pages/order/detail?id={order_id}".into(),
            app_link: "clinic://orders/{order_id}".into(),
        }
    }

    pub(crate) fn notice(channel: Channel) -> Notice {
        Notice {
            event_id: Id::parse("e1").unwrap(),
            scenario: "nurse_accepted",
            label: "护士接单",
            order_id: Id::parse("10086").unwrap(),
            recipient: Recipient {
                role: Role::Patient,
                id: Id::parse("98"),
                audience: None,
                address: Some("oABC-123_x".into()),
            },
            channel,
            text: TEXT,
            occurred_at_ms: 1_481_361_166_000,
            nurse: None,
        }
    }

    pub(crate) fn payload(channel: Channel) -> serde_json::Value {
        serde_json::to_value(Message::new(notice(channel), &accounts()).payload).unwrap()
    }

    #[test]
    fn a_message_has_the_shape_that_the_gateway_is_promised() {
        let value = serde_json::to_value(Message::new(notice(Channel::Wechat), &accounts())).unwrap();
        assert_eq!(value["recipient"], serde_json::json!({"role": "patient", "id": "98"}));
        assert_eq!(value["occurred_at"], "2016-12-10T17:12:46.000+08:00");
        assert_eq!(value["link"], "https://m.example.org/orders/10086");
        let mut keys: Vec<_> = value.as_object().unwrap().keys().map(String::as_str).collect();
        keys.sort_unstable();
        assert_eq!(
            keys,
            ["body", "channel", "id", "link", "occurred_at", "order_id", "payload", "recipient", "scenario", "title"]
        );
    }

    #[test]
    fn an_id_depends_on_event_scenario_and_recipient_alone() {
        let id = |notice: Notice| Message::new(notice, &accounts()).id;
        let base = id(notice(Channel::Wechat));
        assert!(base.starts_with("msg_") && base.len() == 36 && Id::parse(&base).is_some());
        assert_eq!(id(notice(Channel::App)), base);
        let mut other = notice(Channel::Wechat);
        other.event_id = Id::parse("e2").unwrap();
        assert_ne!(id(other), base);
        let mut other = notice(Channel::Wechat);
        other.recipient.id = Id::parse("99");
        assert_ne!(id(other), base);
        let mut other = notice(Channel::Wechat);
        other.scenario = "service_started";
        assert_ne!(id(other), base);
    }

    #[test]
    fn an_order_number_of_any_length_fits_and_keeps_its_end() {
        for len in 1..=crate::id::MAX_LEN {
            let text: String = (0..len).map(|n| char::from(b'0' + u8::try_from(n % 10).unwrap())).collect();
            let shown = character_string(&Id::parse(&text).unwrap());
            assert!(shown.len() <= 32, "{shown}");
            assert!(text.ends_with(shown.trim_start_matches('.')), "{shown}");
            assert_eq!(shown == text, len <= 32);
        }
    }

    #[test]
    fn an_unknown_address_is_left_to_the_gateway() {
        let mut to = notice(Channel::App).recipient;
        to.address = None;
        assert_eq!(to.address(), "patient:98");
        to.id = None;
        to.audience = Some("available");
        assert_eq!(to.address(), "patient:available");
    }

    #[test]
    fn faults_of_the_accounts_are_named_together() {
        let mut bad = accounts();
        bad.wechat_link = "x".repeat(LINK_MAX + 1);
        bad.mini_program_template_id = String::new();
        let pointers: Vec<_> = bad.check().unwrap_err().into_iter().map(|fault| fault.pointer).collect();
        assert_eq!(pointers, ["/variables/wechat_link", "/variables/mini_program_template_id"]);
    }
}
