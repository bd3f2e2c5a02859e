//! A campaign: when it runs, what it pays, and what operators have switched off.

use serde::Serialize;
use shared::{
    clock,
    fields::Fields,
    id::Id,
    json::Value,
    problem::{Fault, Kind, Problem},
};

use crate::period::Weekday;

/// The most that a card is worth, in fen.
pub(crate) const CARD_FEN_MAX: i64 = 10_000_000;
/// The most points of one event or of one settlement.
pub(crate) const POINTS_MAX: i64 = 1_000_000;
/// The most cards for one full sum of points.
const CARDS_MAX: i64 = 100;
const NAME_MAX: usize = 100;

/// What a registration, and a full sum of points, are worth. A card of 0 fen is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Terms {
    pub(crate) invite_card_fen: i64,
    pub(crate) invite_points: i64,
    pub(crate) settlement_points: i64,
    pub(crate) settlement_cards: i64,
    pub(crate) settlement_card_fen: i64,
}

/// What participants may do, and whether registrations are paid at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Switches {
    pub(crate) join: bool,
    pub(crate) invite: bool,
    pub(crate) query: bool,
    pub(crate) register: bool,
}

/// A campaign as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Activity {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) starts_at_ms: i64,
    pub(crate) ends_at_ms: i64,
    pub(crate) weekday_start: Weekday,
    pub(crate) switches: Switches,
    pub(crate) terms: Terms,
    pub(crate) created_at_ms: i64,
    pub(crate) updated_at_ms: i64,
    pub(crate) seq: i64,
}

/// One of the four switches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Switch {
    Join,
    Invite,
    Query,
}

impl Activity {
    /// Lets through what is switched on.
    pub(crate) fn require(&self, switch: Switch) -> Result<(), Problem> {
        let (on, name) = match switch {
            Switch::Join => (self.switches.join, "join"),
            Switch::Invite => (self.switches.invite, "invite"),
            Switch::Query => (self.switches.query, "query"),
        };
        if on {
            return Ok(());
        }
        Err(Problem::new(Kind::SwitchedOff, format!("`{name}` is switched off for the activity `{}`", self.id)))
    }

    /// As callers read it.
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::json!({
            "id": self.id,
            "name": self.name,
            "starts_at": clock::rfc3339(self.starts_at_ms),
            "ends_at": clock::rfc3339(self.ends_at_ms),
            "invite": {"card_fen": self.terms.invite_card_fen, "points": self.terms.invite_points},
            "settlement": {
                "points": self.terms.settlement_points,
                "cards": self.terms.settlement_cards,
                "card_fen": self.terms.settlement_card_fen,
            },
            "period": {"weekday_start": self.weekday_start.as_str()},
            "switches": self.switches,
            "created_at": clock::rfc3339(self.created_at_ms),
            "updated_at": clock::rfc3339(self.updated_at_ms),
        })
    }
}

/// A campaign as an operator asks for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NewActivity {
    pub(crate) id: Id,
    pub(crate) name: String,
    pub(crate) starts_at_ms: i64,
    pub(crate) ends_at_ms: i64,
    pub(crate) weekday_start: Weekday,
    pub(crate) terms: Terms,
}

impl NewActivity {
    /// Reads the body of `POST /activities`.
    ///
    /// # Errors
    /// Every fault of it.
    pub(crate) fn read(body: &Value<'_>) -> Result<Self, Vec<Fault>> {
        let mut fields = Fields::of(body, "");
        // A key names its activity first, and ends that name by a colon.
        let id = fields.id("id");
        if id.as_ref().is_some_and(|id| id.as_str().contains(':')) {
            fields.fault("id", "must have no `:`");
        }
        let name = fields.text("name", NAME_MAX);
        let starts_at_ms = fields.instant("starts_at");
        let ends_at_ms = fields.instant("ends_at");
        let invite = fields.object("invite", |invite| {
            (invite.integer("card_fen", 0..=CARD_FEN_MAX), invite.integer("points", 0..=POINTS_MAX))
        });
        let settlement = fields.object("settlement", |settlement| {
            (
                settlement.integer("points", 1..=POINTS_MAX),
                settlement.integer("cards", 1..=CARDS_MAX),
                settlement.integer("card_fen", 1..=CARD_FEN_MAX),
            )
        });
        let weekday_start = fields.object("period", weekday).flatten();
        if let (Some(starts), Some(ends)) = (starts_at_ms, ends_at_ms)
            && starts >= ends
        {
            fields.fault("ends_at", "must be after starts_at");
        }
        let read = (|| {
            let (invite_card_fen, invite_points) = invite?;
            let (settlement_points, settlement_cards, settlement_card_fen) = settlement?;
            Some(Self {
                id: id?,
                name: name?,
                starts_at_ms: starts_at_ms?,
                ends_at_ms: ends_at_ms?,
                weekday_start: weekday_start?,
                terms: Terms {
                    invite_card_fen: invite_card_fen?,
                    invite_points: invite_points?,
                    settlement_points: settlement_points?,
                    settlement_cards: settlement_cards?,
                    settlement_card_fen: settlement_card_fen?,
                },
            })
        })();
        fields.finish(read)
    }

    /// Whether `activity` is what this one asks for: the same call again.
    pub(crate) fn is(&self, activity: &Activity) -> bool {
        self.name == activity.name
            && self.starts_at_ms == activity.starts_at_ms
            && self.ends_at_ms == activity.ends_at_ms
            && self.weekday_start == activity.weekday_start
            && self.terms == activity.terms
    }
}

fn weekday(period: &mut Fields<'_>) -> Option<Weekday> {
    period.required("weekday_start", "must be monday … sunday", |value| Weekday::parse(value.as_str()?))
}

/// What an operator changes; `None` stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) name: Option<String>,
    pub(crate) starts_at_ms: Option<i64>,
    pub(crate) ends_at_ms: Option<i64>,
    pub(crate) join: Option<bool>,
    pub(crate) invite: Option<bool>,
    pub(crate) query: Option<bool>,
    pub(crate) register: Option<bool>,
    pub(crate) terms: TermsChange,
}

/// New terms, as far as they differ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TermsChange {
    pub(crate) invite_card_fen: Option<i64>,
    pub(crate) invite_points: Option<i64>,
    pub(crate) settlement_points: Option<i64>,
    pub(crate) settlement_cards: Option<i64>,
    pub(crate) settlement_card_fen: Option<i64>,
}

impl Change {
    /// Reads the body of `PATCH /activities/{id}`. The switches stand in `switches`, or by themselves.
    ///
    /// # Errors
    /// Every fault of it.
    pub(crate) fn read(body: &Value<'_>, now: &Activity) -> Result<Self, Vec<Fault>> {
        let mut fields = Fields::of(body, "");
        let mut change = Self {
            name: fields.optional_text("name", NAME_MAX),
            starts_at_ms: fields.optional_instant("starts_at"),
            ends_at_ms: fields.optional_instant("ends_at"),
            ..Self::default()
        };
        // A switch by itself, or the terms of the same name.
        let is_switch =
            body.as_object().and_then(|body| body.get("invite")).is_some_and(|it| matches!(it, Value::Bool(_)));
        if is_switch {
            change.invite = fields.optional_flag("invite");
        } else {
            fields.optional_object("invite", |invite| {
                change.terms.invite_card_fen = invite.optional_integer("card_fen", 0..=CARD_FEN_MAX);
                change.terms.invite_points = invite.optional_integer("points", 0..=POINTS_MAX);
            });
        }
        change.join = fields.optional_flag("join");
        change.query = fields.optional_flag("query");
        change.register = fields.optional_flag("register");
        fields.optional_object("settlement", |settlement| {
            change.terms.settlement_points = settlement.optional_integer("points", 1..=POINTS_MAX);
            change.terms.settlement_cards = settlement.optional_integer("cards", 1..=CARDS_MAX);
            change.terms.settlement_card_fen = settlement.optional_integer("card_fen", 1..=CARD_FEN_MAX);
        });
        fields.optional_object("switches", |switches| {
            change.join = switches.optional_flag("join").or(change.join);
            change.invite = switches.optional_flag("invite").or(change.invite);
            change.query = switches.optional_flag("query").or(change.query);
            change.register = switches.optional_flag("register").or(change.register);
        });
        let starts = change.starts_at_ms.unwrap_or(now.starts_at_ms);
        let ends = change.ends_at_ms.unwrap_or(now.ends_at_ms);
        if starts >= ends {
            let field = if change.ends_at_ms.is_some() { "ends_at" } else { "starts_at" };
            fields.fault(field, "ends_at must be after starts_at");
        }
        fields.finish(Some(change))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared::json;

    const BODY: &str = r#"{"id":"autumn","name":"秋季推荐","starts_at":"2020-09-15T00:00:00+08:00",
        "ends_at":"2020-11-01T00:00:00+08:00","invite":{"card_fen":2000,"points":20},
        "settlement":{"points":1000,"cards":5,"card_fen":2000},"period":{"weekday_start":"tuesday"}}"#;

    #[test]
    fn a_campaign_is_read_whole() {
        let body = json::parse(BODY.as_bytes()).unwrap();
        let new = NewActivity::read(&body).unwrap();
        assert_eq!((new.terms.settlement_cards, new.weekday_start), (5, Weekday::parse("tuesday").unwrap()));
    }

    #[test]
    fn every_fault_of_a_campaign_is_named() {
        let body = json::parse(
            br#"{"id":"a b","starts_at":"2020-09-15T00:00:00Z","ends_at":"2020-09-01T00:00:00Z",
                "invite":{"card_fen":-1},"settlement":{"points":0,"cards":1,"card_fen":1},"period":{}}"#,
        )
        .unwrap();
        let pointers: Vec<_> = NewActivity::read(&body).unwrap_err().into_iter().map(|fault| fault.pointer).collect();
        assert_eq!(
            pointers,
            [
                "/id",
                "/name",
                "/invite/card_fen",
                "/invite/points",
                "/settlement/points",
                "/period/weekday_start",
                "/ends_at"
            ]
        );
    }
}
