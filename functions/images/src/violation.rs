//! A report of an unlawful image: what it must have, and what its doctor is told.

use serde::Serialize;
use shared::{
    digest,
    id::Id,
    json::{self, Object, Value},
    message::{Accounts, Channel, Message, Notice, Recipient, Role, Text},
    problem::{Fault, escaped},
};

use crate::{rules::Rules, unlawful::Image};

/// The channel, for the risk system, of a report that names no order or no user.
const IN_SITE: &str = "in_site";
const URL_MAX: usize = 2_048;
const REASON_MAX: usize = 500;

/// Its doctor's message.
pub(crate) const SCENARIO: &str = "image_removed";
const LABEL: &str = "违规图片下架";
const TEXT: Text = Text {
    title: "图片已下架",
    body: "您发送的一张图片因违规已被下架，请勿再次发送。",
    short: "您的一张图片因违规已被下架",
    phrase: "已下架",
};

/// A report. What it does not say is empty, as operators read it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Report {
    pub(crate) id: String,
    pub(crate) url: String,
    pub(crate) doctor_id: String,
    pub(crate) patient_id: String,
    pub(crate) order_no: String,
    pub(crate) channel: String,
    pub(crate) reason: String,
}

impl Report {
    /// Reads a report's JSON.
    ///
    /// # Errors
    /// Every fault.
    pub(crate) fn parse(bytes: &[u8], rules: &Rules) -> Result<(Self, Image), Vec<Fault>> {
        let value = json::parse(bytes).map_err(|error| vec![Fault::at("", format!("not JSON: {error}"))])?;
        let Some(object) = value.as_object() else { return Err(vec![Fault::at("", "must be an object")]) };
        const KNOWN: [&str; 6] = ["url", "doctor_id", "patient_id", "order_no", "channel", "reason"];
        let mut faults: Vec<Fault> = object
            .iter()
            .filter(|(key, _)| !KNOWN.contains(key))
            .map(|(key, _)| Fault::at(format!("/{}", escaped(key)), format!("is unknown; known: {}", KNOWN.join(", "))))
            .collect();
        let url = object.text("url").filter(|url| url.len() <= URL_MAX).unwrap_or_default();
        let image = Image::parse(url);
        match &image {
            None => {
                let detail = format!("must be the image's http or https URL, of at most {URL_MAX} bytes");
                faults.push(Fault::at("/url", detail));
            }
            Some(image) if image.is(&rules.placeholder) => {
                faults.push(Fault::at("/url", "is the placeholder that stands in for unlawful images"));
            }
            Some(image) if image.has_unescaped_query() => {
                let detail =
                    "must have its query as bodies have it: `'`, brackets and letters beyond ASCII percent-encoded";
                faults.push(Fault::at("/url", detail));
            }
            Some(_) => {}
        }
        let mut id = |key: &str| optional_id(object, key, &mut faults);
        let (doctor_id, patient_id, order_no) = (id("doctor_id"), id("patient_id"), id("order_no"));
        let channel = id("channel");
        let reason = object.text("reason").map(str::trim).unwrap_or_default();
        if reason.is_empty() || reason.chars().count() > REASON_MAX {
            faults.push(Fault::at("/reason", format!("must be a text of 1 to {REASON_MAX} characters")));
        }
        let Some(image) = image.filter(|_| faults.is_empty()) else { return Err(faults) };
        // Nobody can be reached through a channel without an order or a user.
        let channel = if order_no.is_empty() || patient_id.is_empty() { IN_SITE.to_owned() } else { channel };
        let content = [url, &doctor_id, &patient_id, &order_no, &channel, reason].join("\n");
        let id = digest::hex("violation:", content.as_bytes());
        let report =
            Self { id, url: url.to_owned(), doctor_id, patient_id, order_no, channel, reason: reason.to_owned() };
        Ok((report, image))
    }

    /// What its doctor is told, if it names one. One that was taken back and comes again has another number.
    pub(crate) fn message(&self, number: i64, reported_at_ms: i64) -> Option<Message> {
        let event_id = Id::parse(&format!("{}:{number}", self.id))?;
        let doctor = Id::parse(&self.doctor_id)?;
        let notice = Notice {
            // Without an order the message is about the report itself.
            order_id: Id::parse(&self.order_no).or_else(|| Id::parse(&self.id))?,
            event_id,
            scenario: SCENARIO,
            label: LABEL,
            recipient: Recipient { role: Role::Doctor, id: Some(doctor), audience: None, address: None },
            channel: Channel::App,
            text: TEXT,
            occurred_at_ms: reported_at_ms,
            nurse: None,
        };
        // An order's links lead to patients' pages.
        let accounts = Accounts {
            wechat_template_id: String::new(),
            wechat_link: String::new(),
            mini_program_template_id: String::new(),
            mini_program_page: String::new(),
            app_link: String::new(),
        };
        Some(Message::new(notice, &accounts))
    }
}

fn optional_id(object: &Object<'_>, key: &str, faults: &mut Vec<Fault>) -> String {
    match object.present(key) {
        None => String::new(),
        Some(Value::String(text)) if text.is_empty() => String::new(),
        Some(value) => Id::from_json(value).map(|id| id.to_string()).unwrap_or_else(|| {
            faults.push(Fault::at(format!("/{key}"), "must be 1 to 64 characters of A-Z a-z 0-9 . _ : -"));
            String::new()
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sign::Keys;

    fn parse(text: &str) -> Result<Report, Vec<Fault>> {
        let rules = Rules::parse(Rules::DEFAULT.as_bytes(), &Keys::default()).unwrap();
        Report::parse(text.as_bytes(), &rules).map(|(report, _)| report)
    }

    #[test]
    fn a_report_without_order_or_user_is_in_site_and_its_missing_fields_are_empty() {
        let report =
            parse(r#"{"url":"https://a.example.com/x.jpg","order_no":"O1","channel":"wechat","reason":"x"}"#).unwrap();
        assert_eq!(
            (report.channel.as_str(), report.patient_id.as_str(), report.doctor_id.as_str()),
            ("in_site", "", "")
        );
        assert!(report.message(1, 0).is_none());
        let report = parse(
            r#"{"url":"https://a.example.com/x.jpg","order_no":"O1","patient_id":98,"channel":"wechat","reason":"x"}"#,
        );
        assert_eq!(report.unwrap().channel, "wechat");
    }

    #[test]
    fn every_fault_of_a_report_is_named() {
        let faults = parse(r#"{"url":"nonsense","doctor_id":"a b","order_no":[],"reason":" ","more":1}"#).unwrap_err();
        let pointers: Vec<_> = faults.iter().map(|fault| fault.pointer.as_str()).collect();
        assert_eq!(pointers, ["/more", "/url", "/doctor_id", "/order_no", "/reason"]);
        let rules = Rules::parse(Rules::DEFAULT.as_bytes(), &Keys::default()).unwrap();
        let placeholder = format!(r#"{{"url":"{}","reason":"x"}}"#, rules.placeholder);
        assert_eq!(parse(&placeholder).unwrap_err()[0].pointer, "/url");
        for (url, is_good) in
            [("/头[1].jpg?w=1", true), ("/a.jpg?n=头", false), ("/a.jpg?n[]=1", false), ("/a?n=%E5", true)]
        {
            let text = format!(r#"{{"url":"https://a.example.com{url}","reason":"x"}}"#);
            assert_eq!(parse(&text).is_ok(), is_good, "{url}");
        }
    }

    #[test]
    fn a_doctor_is_told_by_the_app_under_one_id() {
        let text = r#"{"url":"https://a.example.com/x.jpg","doctor_id":7,"reason":"x"}"#;
        let (first, again) = (parse(text).unwrap(), parse(text).unwrap());
        let message = first.message(1, 0).unwrap();
        assert_eq!(message.id, again.message(1, 5).unwrap().id);
        assert_ne!(message.id, again.message(i64::MAX, 0).unwrap().id);
        assert_eq!((message.recipient.key().as_str(), message.channel), ("doctor:7", Channel::App));
    }
}
