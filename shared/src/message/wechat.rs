//! WeChat official account: the template message of `POST /cgi-bin/message/template/send`.
//!
//! Field names and limits: WeChat's "模板消息" page and its table of parameter kinds (`thing` ≤ 20 characters,
//! `phrase` ≤ 5 Chinese characters, `character_string` ≤ 32, `time` as `2019年10月1日 15:01`). Since 2023 WeChat
//! shows the typed fields alone; `first` holds the whole sentence for templates made before.

use serde::Serialize;

use super::{Accounts, Field, Notice, character_string};
use crate::clock;

/// The request body.
#[derive(Clone, Debug, Serialize)]
pub struct TemplateMessage {
    touser: String,
    template_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    url: Option<String>,
    data: Data,
}

#[derive(Clone, Debug, Serialize)]
struct Data {
    first: Field<&'static str>,
    thing1: Field<&'static str>,
    phrase2: Field<&'static str>,
    character_string3: Field,
    time4: Field,
}

pub(super) fn payload(notice: &Notice, accounts: &Accounts, link: Option<&str>) -> TemplateMessage {
    TemplateMessage {
        touser: notice.recipient.address().into_owned(),
        template_id: accounts.wechat_template_id.clone(),
        url: link.map(str::to_owned),
        data: Data {
            first: Field { value: notice.text.body },
            thing1: Field { value: notice.text.short },
            phrase2: Field { value: notice.text.phrase },
            character_string3: Field { value: character_string(&notice.order_id) },
            time4: Field { value: clock::shanghai_minutes(notice.occurred_at_ms) },
        },
    }
}

#[cfg(test)]
mod tests {
    use crate::message::{Channel, tests::payload};

    #[test]
    fn it_is_the_template_message_of_the_official_account() {
        assert_eq!(
            payload(Channel::Wechat),
            serde_json::json!({
                "touser": "oABC-123_x",
                "template_id": "wx-template",
                "url": "https://m.example.org/orders/10086",
                "data": {
                    "first": {"value": "您的订单已接单，点击查看订单详情。"},
                    "thing1": {"value": "您的订单已接单"},
                    "phrase2": {"value": "已接单"},
                    "character_string3": {"value": "10086"},
                    "time4": {"value": "2016年12月10日 17:12"},
                },
            })
        );
    }
}
