//! Who is told of which step, and in which words: one table.

use shared::{
    digest,
    id::Id,
    message::{Channel, Notice, Recipient, Role, Text},
};

use crate::{history::Step, order::Order, status::Event};

/// One row: of this event, this person is told so.
struct Telling {
    event: Event,
    to: Role,
    key: &'static str,
    /// As operators know it.
    label: &'static str,
    text: Text,
}

const fn telling(
    event: Event,
    to: Role,
    key: &'static str,
    label: &'static str,
    [title, body, short, phrase]: [&'static str; 4],
) -> Telling {
    Telling { event, to, key, label, text: Text { title, body, short, phrase } }
}

use Role::{Doctor, Patient};

/// The table. A rule's refusal is told to the doctor alone: the patient has not heard of the order yet.
const TELLINGS: [Telling; 15] = [
    telling(
        Event::Passed,
        Doctor,
        "order_taken",
        "处方订单已受理",
        ["处方已受理", "您开具的处方订单已受理，等待患者支付。", "处方已受理，待患者支付", "已受理"],
    ),
    telling(
        Event::Passed,
        Patient,
        "payment_due",
        "患者待支付",
        ["处方待支付", "医生为您开具的处方已可购药，请尽快完成支付。", "您的处方已开具，请支付", "待支付"],
    ),
    telling(
        Event::Queued,
        Doctor,
        "order_under_review",
        "处方订单待审核",
        ["处方待审核", "您开具的处方订单已受理，等待药师审核。", "处方已受理，待药师审核", "待审核"],
    ),
    telling(
        Event::Queued,
        Patient,
        "review_pending",
        "患者处方待审核",
        ["处方审核中", "医生为您开具的处方正在由药师审核，审核通过后即可支付。", "您的处方正在审核", "审核中"],
    ),
    telling(
        Event::Refused,
        Doctor,
        "order_refused",
        "处方订单被规则拒绝",
        ["处方未通过", "您开具的处方订单未通过用药规则，请修改后重新开具。", "处方未通过用药规则", "未通过"],
    ),
    telling(
        Event::Approved,
        Patient,
        "payment_due",
        "患者待支付",
        ["处方待支付", "您的处方已通过药师审核，请尽快完成支付。", "处方审核通过，请支付", "待支付"],
    ),
    telling(
        Event::TurnedDown,
        Doctor,
        "review_rejected",
        "药师拒绝处方",
        ["处方未通过", "您开具的处方未通过药师审核，请修改后重新开具。", "处方未通过药师审核", "未通过"],
    ),
    telling(
        Event::TurnedDown,
        Patient,
        "review_rejected",
        "药师拒绝处方",
        ["处方未通过", "您的处方未通过药师审核，请联系医生。", "您的处方未通过药师审核", "未通过"],
    ),
    telling(
        Event::Paid,
        Doctor,
        "order_paid",
        "患者已支付处方",
        ["患者已支付", "您开具的处方患者已支付，药房正在配药。", "患者已支付处方", "已支付"],
    ),
    telling(
        Event::Paid,
        Patient,
        "order_paid",
        "患者已支付处方",
        ["支付成功", "您的处方已支付成功，药房正在为您配药。", "支付成功，药房配药中", "已支付"],
    ),
    telling(
        Event::PartnerRejected,
        Doctor,
        "pharmacy_rejected",
        "药房拒单",
        ["药房无法供药", "您开具的处方药房无法供药，正在给患者退款。", "药房无法供药", "已拒单"],
    ),
    telling(
        Event::PartnerRejected,
        Patient,
        "pharmacy_rejected",
        "药房拒单",
        ["药房无法供药", "很抱歉，药房无法为您供药，正在给您退款。", "药房无法供药，退款中", "退款中"],
    ),
    telling(
        Event::PartnerOutOfStock,
        Doctor,
        "out_of_stock",
        "药房缺货",
        ["药房缺货", "您开具的处方药房缺货，正在给患者退款。", "药房缺货", "缺货"],
    ),
    telling(
        Event::PartnerOutOfStock,
        Patient,
        "out_of_stock",
        "药房缺货",
        ["药房缺货", "很抱歉，您的药品暂时缺货，正在给您退款。", "药品缺货，退款中", "退款中"],
    ),
    telling(
        Event::PartnerShipped,
        Patient,
        "order_shipped",
        "处方已发货",
        ["药品已发货", "您的药品已发货，点击查看订单详情。", "您的药品已发货", "已发货"],
    ),
];

/// What is told of a step.
///
/// An order takes a step to a status once at most, so that order and status are the event's identity: whoever repeats
/// the telling, after whatever crash, repeats the same messages.
pub(crate) fn notices(order: &Order, step: &Step) -> Vec<Notice> {
    let Some(event_id) = event_id(order.order_no.as_str(), &step.status) else { return Vec::new() };
    let rows = TELLINGS.iter().filter(|row| row.event.as_str() == step.event);
    let notice = |row: &Telling| {
        let (id, channel) = match row.to {
            Role::Doctor => (&order.doctor_id, Channel::App),
            _ => (&order.patient.id, order.channel.of_messages()),
        };
        Notice {
            event_id: event_id.clone(),
            scenario: row.key,
            label: row.label,
            order_id: order.order_no.clone(),
            recipient: Recipient { role: row.to, id: Some(id.clone()), audience: None, address: None },
            channel,
            text: row.text,
            occurred_at_ms: step.at_ms,
            nurse: None,
        }
    };
    rows.map(notice).collect()
}

/// The identity of an order's entering a status.
pub(crate) fn event_id(order_no: &str, status: &str) -> Option<Id> {
    Id::parse(&digest::hex("pharmacy:", format!("{order_no}\n{status}").as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::order::tests::order;
    use shared::message::{Accounts, Message, PHRASE_MAX, THING_MAX};
    use std::collections::BTreeSet;

    fn told(event: Event) -> Vec<String> {
        let step = Step::new(event, 1_481_361_166_000, None, None);
        notices(&order("ST-1"), &step)
            .iter()
            .map(|notice| format!("{} {} {}", notice.recipient.key(), notice.channel.as_str(), notice.scenario))
            .collect()
    }

    #[test]
    fn each_step_is_told_to_those_whom_it_concerns() {
        assert_eq!(told(Event::Passed), ["doctor:17 app order_taken", "patient:98 wechat payment_due"]);
        assert_eq!(told(Event::Queued), ["doctor:17 app order_under_review", "patient:98 wechat review_pending"]);
        assert_eq!(told(Event::Approved), ["patient:98 wechat payment_due"]);
        assert_eq!(told(Event::Paid), ["doctor:17 app order_paid", "patient:98 wechat order_paid"]);
        assert_eq!(told(Event::Refused), ["doctor:17 app order_refused"]);
        for event in [Event::TurnedDown, Event::PartnerRejected, Event::PartnerOutOfStock] {
            assert_eq!(told(event).len(), 2, "{event:?}");
        }
        assert_eq!(told(Event::PartnerShipped), ["patient:98 wechat order_shipped"]);
        assert!(told(Event::PartnerDelivered).is_empty() && told(Event::Cancelled).is_empty());
    }

    #[test]
    fn every_text_fits_its_channel() {
        for row in &TELLINGS {
            assert!(row.text.short.chars().count() <= THING_MAX, "{}", row.text.short);
            assert!(row.text.phrase.chars().count() <= PHRASE_MAX, "{}", row.text.phrase);
            assert!(row.text.phrase.chars().all(|character| ('\u{4e00}'..='\u{9fff}').contains(&character)));
        }
    }

    #[test]
    fn every_text_is_documented() {
        let page = include_str!("../../../docs/pharmacy.md");
        for row in &TELLINGS {
            assert!(page.contains(&format!("`{}` {}", row.key, row.text.body)), "{}", row.text.body);
        }
    }

    #[test]
    fn one_step_has_one_id_for_each_person_and_no_two_share_one() {
        let accounts = Accounts {
            wechat_template_id: "wx".into(),
            wechat_link: String::new(),
            mini_program_template_id: "mp".into(),
            mini_program_page: String::new(),
            app_link: String::new(),
        };
        let mut ids = BTreeSet::new();
        for order_no in ["ST-1", "ST-2"] {
            for event in [Event::Queued, Event::Approved, Event::Paid, Event::PartnerShipped] {
                let of = |at_ms| notices(&order(order_no), &Step::new(event, at_ms, None, None));
                let id = |notice| Message::new(notice, &accounts).id;
                let (first, again): (Vec<_>, Vec<_>) =
                    (of(1).into_iter().map(id).collect(), of(2).into_iter().map(id).collect());
                assert_eq!(first, again);
                ids.extend(first);
            }
        }
        assert_eq!(ids.len(), 12);
    }
}
