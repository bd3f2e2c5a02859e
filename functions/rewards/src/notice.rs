//! Whom a campaign tells what: a user of a card and of a settlement, operators of a pool that runs dry.

use serde_json::json;
use shared::{
    digest,
    id::Id,
    message::{Accounts, Alert, Channel, Message, Notice, Recipient, Role, Text},
};

use crate::card::{Issued, Pool, Stock};

struct Scenario {
    key: &'static str,
    label: &'static str,
    text: Text,
}

const CARD_ISSUED: Scenario = Scenario {
    key: "card_issued",
    label: "礼品卡发放",
    text: Text {
        title: "礼品卡已到账",
        body: "您推荐的好友已开户，奖励礼品卡已发放，请前往活动页查看并激活。",
        short: "推荐奖励礼品卡已发放",
        phrase: "已发放",
    },
};

const POINTS_SETTLED: Scenario = Scenario {
    key: "points_settled",
    label: "积分结算",
    text: Text {
        title: "积分已结算",
        body: "您本期的活动积分已结算，兑换的礼品卡已发放，请前往活动页查看并激活。",
        short: "积分已结算，礼品卡已发放",
        phrase: "已结算",
    },
};

const STOCK_LOW: Scenario = Scenario {
    key: "card_stock_low",
    label: "礼品卡库存不足",
    text: Text {
        title: "礼品卡库存不足",
        body: "活动礼品卡库存低于预警值，请及时导入。",
        short: "礼品卡库存不足",
        phrase: "库存不足",
    },
};

const CLAIM_WAITING: Scenario = Scenario {
    key: "claim_waiting",
    label: "礼品卡待补发",
    text: Text {
        title: "有用户在等待礼品卡",
        body: "礼品卡已用完，有用户的奖励等待发放，请导入礼品卡。",
        short: "有用户在等待礼品卡",
        phrase: "待补发",
    },
};

/// What the owner of a card is told.
pub(crate) fn card(issued: &Issued, accounts: &Accounts) -> Option<Message> {
    let scenario = if issued.kind == "settlement" { &POINTS_SETTLED } else { &CARD_ISSUED };
    let claim_id = Id::parse(&issued.claim_id)?;
    let recipient =
        Recipient { role: Role::Patient, id: Some(Id::parse(&issued.user_id)?), audience: None, address: None };
    let notice = Notice {
        event_id: claim_id.clone(),
        scenario: scenario.key,
        label: scenario.label,
        // What it is about: messages of one claim alone wait for each other.
        order_id: claim_id,
        recipient,
        channel: issued.channel.as_deref().and_then(Channel::parse).unwrap_or(Channel::Wechat),
        text: scenario.text,
        occurred_at_ms: issued.at_ms,
        nurse: None,
    };
    Some(Message::new(notice, accounts))
}

/// What may be the matter with a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Matter {
    /// Fewer cards than the threshold.
    StockLow,
    /// Somebody waits for a card.
    ClaimWaiting,
}

impl Matter {
    pub(crate) const ALL: [Self; 2] = [Self::StockLow, Self::ClaimWaiting];

    pub(crate) const fn key(self) -> &'static str {
        self.scenario().key
    }

    const fn scenario(self) -> &'static Scenario {
        match self {
            Self::StockLow => &STOCK_LOW,
            Self::ClaimWaiting => &CLAIM_WAITING,
        }
    }

    /// Whether it is the matter with a pool that stands so.
    pub(crate) const fn holds(self, stock: Stock, threshold: i64) -> bool {
        match self {
            Self::StockLow => stock.free < threshold,
            Self::ClaimWaiting => stock.waiting > 0,
        }
    }

    /// What operators are told of it, for the `episode`th time.
    pub(crate) fn alert(
        self,
        pool: Pool<'_>,
        stock: Stock,
        threshold: i64,
        episode: i64,
        now_ms: i64,
    ) -> Option<Message> {
        let scenario = self.scenario();
        let key = format!("{}\n{}\n{}\n{episode}", pool.activity_id, pool.fen, scenario.key);
        let id = Id::parse(&digest::hex("alert_", key.as_bytes()))?;
        Some(Message::to_operators(Alert {
            event_id: id.clone(),
            scenario: scenario.key,
            label: scenario.label,
            subject: id,
            text: scenario.text,
            occurred_at_ms: now_ms,
            details: json!({
                "activity_id": pool.activity_id,
                "fen": pool.fen,
                "free": stock.free,
                "threshold": threshold,
                "waiting": stock.waiting > 0,
            }),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared::message::{PHRASE_MAX, THING_MAX};

    #[test]
    fn every_text_is_within_the_channels_limits() {
        for scenario in [&CARD_ISSUED, &POINTS_SETTLED, &STOCK_LOW, &CLAIM_WAITING] {
            assert!(scenario.text.short.chars().count() <= THING_MAX, "{}", scenario.key);
            assert!(scenario.text.phrase.chars().count() <= PHRASE_MAX, "{}", scenario.key);
        }
    }
}
