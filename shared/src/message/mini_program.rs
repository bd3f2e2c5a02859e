//! WeChat mini program: the subscribe message of `POST /cgi-bin/message/subscribe/send`.
//!
//! Field names and limits: WeChat's "订阅消息参数值内容限制说明" (`thing` ≤ 20 characters, `phrase` ≤ 5 Chinese
//! characters, `character_string` ≤ 32, `time` as `2019年10月1日 15:01`). A sentence over 20 characters is replaced
//! by the scenario's own short form.

use serde::Serialize;

use super::{Accounts, Field, Notice, THING_MAX, character_string};
use crate::clock;

/// The request body.
#[derive(Clone, Debug, Serialize)]
pub struct SubscribeMessage {
    touser: String,
    template_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    page: Option<String>,
    lang: &'static str,
    data: Data,
}

#[derive(Clone, Debug, Serialize)]
struct Data {
    thing1: Field<&'static str>,
    phrase2: Field<&'static str>,
    character_string3: Field,
    time4: Field,
}

pub(super) fn payload(notice: &Notice, accounts: &Accounts, page: Option<&str>) -> SubscribeMessage {
    let text = notice.text;
    let thing = if text.body.chars().count() <= THING_MAX { text.body } else { text.short };
    SubscribeMessage {
        touser: notice.recipient.address().into_owned(),
        template_id: accounts.mini_program_template_id.clone(),
        page: page.map(str::to_owned),
        lang: "zh_CN",
        data: Data {
            thing1: Field { value: thing },
            phrase2: Field { value: text.phrase },
            character_string3: Field { value: character_string(&notice.order_id) },
            time4: Field { value: clock::shanghai_minutes(notice.occurred_at_ms) },
        },
    }
}

#[cfg(test)]
mod tests {
    use crate::message::{
        Channel, Message, Text,
        tests::{TEXT, accounts, notice, payload},
    };

    #[test]
    fn it_is_the_subscribe_message_of_the_mini_program() {
        assert_eq!(
            payload(Channel::MiniProgram),
            serde_json::json!({
                "touser": "oABC-123_x",
                "template_id": "mp-template",
                "page": "pages/order/detail?id=10086",
                "lang": "zh_CN",
                "data": {
                    "thing1": {"value": "您的订单已接单，点击查看订单详情。"},
                    "phrase2": {"value": "已接单"},
                    "character_string3": {"value": "10086"},
                    "time4": {"value": "2016年12月10日 17:12"},
                },
            })
        );
    }

    #[test]
    fn a_sentence_over_twenty_characters_uses_its_short_form() {
        let mut long = notice(Channel::MiniProgram);
        long.text =
            Text {
                body: "护士已完成订单所有服务步骤，请及时做出评价。", short: "服务已完成，请及时评价", ..TEXT
            };
        let value = serde_json::to_value(Message::new(long, &accounts())).unwrap();
        assert_eq!(value["payload"]["data"]["thing1"]["value"], "服务已完成，请及时评价");
        assert_eq!(value["body"], "护士已完成订单所有服务步骤，请及时做出评价。");
    }
}
