//! An event → the messages that it sends, or why it sends none. No effects.

use serde::Serialize;
use shared::{
    id::Id,
    json::Value,
    message::{Accounts, Channel, Message, Notice, Nurse, Recipient},
    problem::{Fault, sentence},
};

use crate::{
    event::{OrderChange, Reading},
    feed,
    mapping::{OrderMapping, RowReading},
    scenario::{Addressee, Meaning, Scenario},
};

/// What formatting needs to know.
pub(crate) struct Formatter {
    pub(crate) mapping: OrderMapping,
    pub(crate) accounts: Accounts,
}

/// One event's result.
#[derive(Debug)]
pub(crate) struct Formatted {
    /// Its identity; a feed's event without one is not readable.
    pub(crate) event_id: Option<Id>,
    /// The order that it is about, as far as that is known.
    pub(crate) order_id: Option<Id>,
    pub(crate) outcome: Outcome,
}

/// What became of an event.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// It sends this message.
    Formatted(Box<Message>),
    /// It is none of our business.
    Ignored(String),
    /// It may be one of several scenarios.
    Ambiguous(String),
    /// It is an order's transition with something missing or unknown.
    Rejected(String),
    /// It is not an event of a known form.
    Unreadable(Vec<Fault>),
}

impl Formatted {
    /// What cannot be read at all.
    pub(crate) fn unreadable(faults: Vec<Fault>) -> Self {
        Self { event_id: None, order_id: None, outcome: Outcome::Unreadable(faults) }
    }

    /// Why it cannot be read, if it cannot.
    pub(crate) fn unreadable_because(&self) -> Option<String> {
        match &self.outcome {
            Outcome::Unreadable(faults) => Some(sentence(faults)),
            _ => None,
        }
    }
}

/// One event's result, as answers show it.
#[derive(Serialize)]
pub(crate) struct Answer<M> {
    pub(crate) event_id: Option<Id>,
    pub(crate) outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) scenario: Option<&'static str>,
    pub(crate) messages: Vec<M>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) detail: Option<String>,
}

impl<M> Answer<M> {
    /// The answer for an event that sends nothing, or its message.
    pub(crate) fn of(formatted: Formatted) -> Result<(Option<Id>, Box<Message>), Self> {
        let event_id = formatted.event_id;
        let (outcome, detail) = match formatted.outcome {
            Outcome::Formatted(message) => return Ok((event_id, message)),
            Outcome::Ignored(detail) => ("ignored", detail),
            Outcome::Ambiguous(detail) => ("ambiguous", detail),
            Outcome::Rejected(detail) => ("rejected", detail),
            Outcome::Unreadable(faults) => ("rejected", sentence(&faults)),
        };
        Err(Self { event_id, outcome, scenario: None, messages: Vec::new(), detail: Some(detail) })
    }
}

impl Formatter {
    /// The results of one event; a Canal event has one for each of its rows.
    pub(crate) fn format(&self, event: &Value<'_>) -> Vec<Formatted> {
        self.readings(event, None).collect()
    }

    /// What the row of a kept event becomes that is known by this id; nothing if no row is.
    ///
    /// One event may have many rows, of which this is one. The only one is it, whatever it is called by now: by another
    /// mapping another column may have the order's id.
    pub(crate) fn format_kept(&self, event: &Value<'_>, id: &str, operation: Option<&str>) -> Vec<Formatted> {
        let mut results = self.format_as(event, operation);
        if results.len() > 1 {
            results.retain(|formatted| formatted.event_id.as_ref().is_none_or(|found| found.as_str() == id));
        }
        results
    }

    /// The results of one event as if its rows had this operation.
    pub(crate) fn format_as(&self, event: &Value<'_>, operation: Option<&str>) -> Vec<Formatted> {
        self.readings(event, operation).collect()
    }

    fn readings<'v>(
        &'v self,
        event: &'v Value<'v>,
        operation: Option<&'v str>,
    ) -> impl Iterator<Item = Formatted> + use<'v> {
        let readings = feed::read(event, self.mapping.id_column());
        readings.into_iter().map(move |reading| self.result(reading, operation))
    }

    fn result(&self, reading: Reading<'_>, operation: Option<&str>) -> Formatted {
        let (event_id, order_id, outcome) = match reading {
            Reading::Row(row) => {
                let (order_id, outcome) = match self.mapping.read(&row) {
                    RowReading::Change(change) => (Some(change.order_id.clone()), self.outcome(*change, operation)),
                    RowReading::Ignored(why) => (None, Outcome::Ignored(why)),
                    RowReading::Rejected(why) => {
                        (row.now(self.mapping.id_column()).and_then(Id::from_json), Outcome::Rejected(why))
                    }
                };
                (Some(row.event_id), order_id, outcome)
            }
            Reading::Order(change) => {
                let ids = (Some(change.event_id.clone()), Some(change.order_id.clone()));
                (ids.0, ids.1, self.outcome(change, operation))
            }
            Reading::Nothing { event_id, detail } => (event_id, None, Outcome::Ignored(detail)),
            Reading::Unreadable(faults) => return Formatted::unreadable(faults),
        };
        Formatted { event_id, order_id, outcome }
    }

    fn outcome(&self, change: OrderChange, operation: Option<&str>) -> Outcome {
        let operation = operation.or(change.operation.as_deref());
        match self.mapping.transitions.meaning(change.from, change.to, operation, change.restated) {
            Meaning::Send(scenario) => match notice(scenario, change) {
                Ok(notice) => Outcome::Formatted(Box::new(Message::new(notice, &self.accounts))),
                Err(why) => Outcome::Rejected(why),
            },
            Meaning::Ignored(why) => Outcome::Ignored(why),
            Meaning::Ambiguous(why) => Outcome::Ambiguous(why),
        }
    }
}

/// Whom `scenario` tells what of this change.
fn notice(scenario: &'static Scenario, change: OrderChange) -> Result<Notice, String> {
    let role = scenario.recipient.role();
    let missing = |who: &str| format!("{} tells the {who}, and the order has none", scenario.key);
    let nurse = change.nurse;
    let told_of =
        scenario.tells_of_nurse.then(|| nurse.id.clone().map(|id| Nurse { id, name: nurse.name.clone() })).flatten();
    let (channel, recipient) = match scenario.recipient {
        Addressee::Patient => {
            let channel = change.channel.unwrap_or(Ok(scenario.recipient.channel()));
            let channel =
                channel.map_err(|name| format!("the channel `{name}` is neither `wechat` nor `mini_program`"))?;
            let patient = change.patient;
            let address = if channel == Channel::MiniProgram { patient.mini_program_address } else { patient.address };
            let id = Some(patient.id.ok_or_else(|| missing("patient"))?);
            (channel, Recipient { role, id, audience: None, address })
        }
        Addressee::Nurse => {
            let id = Some(nurse.id.ok_or_else(|| missing("nurse"))?);
            (scenario.recipient.channel(), Recipient { role, id, audience: None, address: nurse.address })
        }
        Addressee::AvailableNurses => {
            (scenario.recipient.channel(), Recipient { role, id: None, audience: Some("available"), address: None })
        }
    };
    Ok(Notice {
        event_id: change.event_id,
        scenario: scenario.key,
        label: scenario.label,
        order_id: change.order_id,
        recipient,
        channel,
        text: scenario.text,
        occurred_at_ms: change.occurred_at_ms,
        nurse: told_of,
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;
    use shared::json;

    pub(crate) fn formatter(mapping: &str) -> Formatter {
        let accounts = Accounts {
            wechat_template_id: "wx".into(),
            wechat_link: String::new(),
            mini_program_template_id: "mp".into(),
            mini_program_page: "pages/order/detail?id={order_id}".into(),
            app_link: String::new(),
        };
        Formatter { mapping: OrderMapping::parse(mapping).unwrap(), accounts }
    }

    #[test]
    fn a_kept_event_is_found_again_when_another_column_has_its_orders_id() {
        let text = r#"{"database":"d","table":"order","type":"update","ts":1481361166,"xid":1,"commit":true,
            "data":{"order_no":7,"status":"待服务","patient_id":98,"nurse_id":17},"old":{"status":"待接单"}}"#;
        let event = json::parse(text.as_bytes()).unwrap();
        let before = formatter("").format(&event).pop().unwrap();
        assert!(matches!(before.outcome, Outcome::Rejected(_)), "{before:?}");
        let id = before.event_id.unwrap();
        let after =
            formatter(r#"{"columns":{"id":"order_no"}}"#).format_kept(&event, id.as_str(), Some("nurse_accepted"));
        assert!(matches!(after[..], [Formatted { outcome: Outcome::Formatted(_), .. }]), "{after:?}");
        assert_ne!(after[0].event_id.as_ref(), Some(&id), "the identity has the id in it");
    }

    /// The results of a text, each as `outcome`, or as `scenario` where it is formatted.
    fn outcomes(mapping: &str, text: &str) -> Vec<String> {
        let formatter = formatter(mapping);
        let each = |line: &str| {
            let event = json::parse(line.as_bytes()).unwrap();
            formatter.format(&event).into_iter().map(|formatted| name(&formatted).to_owned()).collect::<Vec<_>>()
        };
        text.lines().flat_map(each).collect()
    }

    fn name(formatted: &Formatted) -> &'static str {
        match &formatted.outcome {
            Outcome::Formatted(message) => message.scenario,
            Outcome::Ignored(_) => "ignored",
            Outcome::Ambiguous(_) => "ambiguous",
            Outcome::Rejected(_) => "rejected",
            Outcome::Unreadable(_) => "unreadable",
        }
    }

    fn why(formatted: &Formatted) -> String {
        match &formatted.outcome {
            Outcome::Formatted(_) => String::new(),
            Outcome::Ignored(why) | Outcome::Ambiguous(why) | Outcome::Rejected(why) => why.clone(),
            Outcome::Unreadable(faults) => sentence(faults),
        }
    }

    fn one(mapping: &str, text: &str) -> Formatted {
        let event = json::parse(text.as_bytes()).unwrap();
        let mut results = formatter(mapping).format(&event);
        assert_eq!(results.len(), 1, "{text}");
        results.remove(0)
    }

    fn message(mapping: &str, text: &str) -> serde_json::Value {
        let formatted = one(mapping, text);
        match formatted.outcome {
            Outcome::Formatted(message) => serde_json::to_value(message).unwrap(),
            _ => panic!("{}", why(&formatted)),
        }
    }

    const MAXWELL: &str = include_str!("../testdata/maxwell_update.json");
    const MAXWELL_AT: &str = include_str!("../testdata/maxwell_update_with_position.json");
    const CANAL: &str = include_str!("../testdata/canal_update.json");
    const MYSQL: &str = include_str!("../testdata/debezium_mysql_update.json");
    const MYSQL_BARE: &str = include_str!("../testdata/debezium_mysql_update_unwrapped.json");
    const POSTGRES: &str = include_str!("../testdata/debezium_postgres_update.json");
    const PLAIN: &str = include_str!("../testdata/plain.json");

    #[test]
    fn every_feed_gives_the_same_message() {
        let mut expected = message("", MAXWELL);
        assert_eq!(expected["body"], "您的订单已接单，点击查看订单详情。");
        assert_eq!(expected["recipient"], serde_json::json!({"role": "patient", "id": "98"}));
        assert_eq!(expected["nurse"], serde_json::json!({"id": "17", "name": "王芳"}));
        assert_eq!(expected["occurred_at"], "2016-12-10T17:12:46.000+08:00");
        expected["id"].take();
        for sample in [MAXWELL_AT, CANAL, MYSQL, MYSQL_BARE, POSTGRES, PLAIN] {
            let mut other = message("", sample);
            other["id"].take();
            assert_eq!(other, expected, "{sample}");
        }
    }

    #[test]
    fn a_feed_without_a_time_has_the_rows_own() {
        let untimed = POSTGRES.replace("\"ts_ms\":", "\"ts\":");
        assert_eq!(message("", &untimed)["occurred_at"], "2016-12-11T01:12:46.000+08:00", "as if it were UTC");
    }

    #[test]
    fn a_replayed_event_has_the_same_id_and_another_event_another() {
        let id = |text: &str| one("", text).event_id.unwrap();
        let altered = |text: &str, from: &str, to: &str| {
            assert!(text.contains(from), "{from}");
            text.replace(from, to)
        };
        for sample in [MAXWELL, MAXWELL_AT, CANAL, MYSQL, POSTGRES] {
            assert_eq!(id(sample), id(sample));
        }
        // Enveloped or not, it is the same event.
        assert_eq!(id(MYSQL), id(MYSQL_BARE));
        // What Canal numbers and times itself differs from replay to replay.
        assert_eq!(id(CANAL), id(&altered(&altered(CANAL, "\"id\":9,", "\"id\":10,"), "166798", "999999")));
        for (sample, from, to) in [
            (MAXWELL, "\"xid\":940786", "\"xid\":940787"),
            (MAXWELL, "\"id\":98001", "\"id\":98002"),
            (MAXWELL, "\"ts\":1481361166", "\"ts\":1481361167"),
            (MAXWELL_AT, "000006:800911", "000006:800912"),
            (MAXWELL_AT, "\"xoffset\":1", "\"xoffset\":2"),
            (CANAL, "\"es\":1481361166000", "\"es\":1481361167000"),
            (CANAL, "待接单", "派单"),
            (MYSQL_BARE, "\"pos\":800911", "\"pos\":800912"),
            (MYSQL_BARE, "\"row\":0", "\"row\":1"),
            (POSTGRES, "\"lsn\":24023128", "\"lsn\":24023129"),
        ] {
            assert_ne!(id(sample), id(&altered(sample, from, to)), "{from}");
        }
    }

    #[test]
    fn what_is_no_transition_is_ignored() {
        for sample in [
            include_str!("../testdata/maxwell_others.ndjson"),
            include_str!("../testdata/canal_others.ndjson"),
            include_str!("../testdata/debezium_others.ndjson"),
        ] {
            let outcomes = outcomes("", sample);
            assert!(outcomes.len() >= 3 && outcomes.iter().all(|outcome| outcome == "ignored"), "{outcomes:?}");
        }
    }

    #[test]
    fn each_row_of_a_canal_message_is_an_event_of_its_own() {
        let event = json::parse(include_str!("../testdata/canal_update_two_rows.json").as_bytes()).unwrap();
        let results = formatter("").format(&event);
        assert_eq!(results.iter().map(name).collect::<Vec<_>>(), ["payment_timed_out", "payment_timed_out"]);
        assert_ne!(results[0].event_id, results[1].event_id);
        let channel = |formatted: &Formatted| match &formatted.outcome {
            Outcome::Formatted(message) => message.channel,
            _ => panic!("{}", why(formatted)),
        };
        assert_eq!((channel(&results[0]), channel(&results[1])), (Channel::Wechat, Channel::MiniProgram));
    }

    #[test]
    fn postgres_without_the_row_before_is_rejected_with_the_remedy() {
        let rejected = one("", include_str!("../testdata/debezium_postgres_update_without_before.json"));
        assert_eq!(name(&rejected), "rejected");
        assert!(why(&rejected).contains("REPLICA IDENTITY FULL"));
    }

    #[test]
    fn maxwell_without_the_row_before_is_rejected_with_the_remedy() {
        let (before, _) = MAXWELL.split_once(",\"old\":").unwrap();
        let (absent, null) = (format!("{before}}}"), format!("{before},\"old\":null}}"));
        for without in [&absent, &null] {
            let rejected = one("", without);
            assert_eq!(name(&rejected), "rejected");
            assert!(why(&rejected).contains("binlog_row_image=FULL"), "{}", why(&rejected));
            assert!(rejected.order_id.is_some() && rejected.event_id.is_some());
            assert_eq!(name(&one("", &without.replace("\"order\"", "\"patient\""))), "ignored");
        }
        assert_ne!(one("", &absent).event_id, one("", &absent.replace("940786", "940787")).event_id);
        let unreadable = one("", &absent.replace("\"ts\"", "\"old\":7,\"ts\""));
        assert_eq!(why(&unreadable), "/old must be an object");
    }

    #[test]
    fn a_statement_that_canal_has_no_rows_of_is_rejected_with_the_remedy() {
        let statement = r#"{"data":null,"database":"clinic","es":1481361166000,"gtid":"","id":9,"isDdl":false,
            "mysqlType":null,"old":null,"pkNames":null,"sql":"UPDATE `order` SET status = '已取消'","sqlType":null,
            "table":"order","ts":1481361166798,"type":"UPDATE"}"#;
        for statement in [statement, &statement.replace("\"data\":null,", "")] {
            let rejected = one("", statement);
            assert_eq!(name(&rejected), "rejected");
            assert!(why(&rejected).contains("binlog_format=ROW and binlog_row_image=FULL"), "{}", why(&rejected));
        }
        assert_eq!(name(&one("", &statement.replace("\"order\"", "\"patient\""))), "ignored");
        assert_eq!(name(&one(r#"{"database": "hospital"}"#, statement)), "ignored");
        let id = |statement: &str| one("", statement).event_id.unwrap();
        assert_eq!(id(statement), id(&statement.replace("\"id\":9", "\"id\":10").replace("166798", "999999")));
        assert_ne!(id(statement), id(&statement.replace("已取消", "退款中")));
        assert_ne!(id(statement), id(&statement.replace("1481361166000", "1481361167000")));
    }

    #[test]
    fn canal_without_the_row_before_is_rejected_with_the_remedy() {
        let minimal = r#"{"data":[{"status":"待服务"}],"database":"clinic","es":1481361166000,"isDdl":false,
            "old":[{}],"table":"order","type":"UPDATE"}"#;
        for without in [minimal, &minimal.replace("[{}]", "null"), &minimal.replace("[{}]", "[]")] {
            assert!(why(&one("", without)).contains("binlog_row_image=FULL"), "{without}");
        }
        assert_eq!(name(&one("", &minimal.replace("\"order\"", "\"patient\""))), "ignored");
        // A whole row, of which nothing changed.
        let whole = minimal.replace("{\"status\"", "{\"id\":\"98001\",\"status\"");
        assert_eq!(why(&one("", &whole)), "the status did not change");
    }

    #[test]
    fn what_a_canal_event_lacks_is_named_together() {
        let unreadable = one("", r#"{"type":"UPDATE","isDdl":false,"data":{},"old":7}"#);
        assert_eq!(
            why(&unreadable),
            "/table must be a string; /data must be an array of rows; /old must be an array of rows"
        );
        let unreadable = one("", r#"{"type":"UPDATE","isDdl":false,"data":[],"old":"x"}"#);
        assert_eq!(why(&unreadable), "/table must be a string; /old must be an array of rows; /data has no row");
    }

    #[test]
    fn what_an_order_lacks_is_named() {
        for (from, to, says) in [
            ("\"patient_id\":98", "\"patient_id\":null", "the order has none"),
            ("\"status\":\"待服务\"", "\"status\":\"归档\"", "`归档`, is unknown"),
            ("\"status\":\"待接单\"", "\"status\":true", "neither a string nor an integer"),
            ("\"id\":98001", "\"id\":1.5", "`id` is no id"),
            ("\"id\":98001", "\"id\":\"九\"", "`id` is no id"),
            ("\"channel\":\"wechat\"", "\"channel\":\"sms\"", "neither `wechat` nor `mini_program`"),
        ] {
            assert!(MAXWELL.contains(from));
            let rejected = one("", &MAXWELL.replace(from, to));
            assert_eq!(name(&rejected), "rejected", "{from}");
            assert!(why(&rejected).contains(says), "{}", why(&rejected));
        }
    }

    #[test]
    fn what_a_debezium_event_lacks_is_named_together() {
        let lacks = |text: &str| why(&one("", text));
        assert_eq!(lacks(r#"{"op":"u","before":{}}"#), "/source must be an object; /after must be an object");
        assert_eq!(
            lacks(r#"{"payload":{"op":"u","source":{}}}"#),
            "/payload/source/table must be a string; /payload/after must be an object"
        );
        assert_eq!(lacks(r#"{"op":"c","after":{}}"#), "/source must be an object");
        // What only looks like a boundary of a transaction.
        assert_eq!(name(&one("", r#"{"status":"BEGIN","id":"571"}"#)), "unreadable");
    }

    #[test]
    fn a_channel_that_is_no_text_is_an_unknown_one_in_every_feed() {
        for sample in [MAXWELL, MAXWELL_AT, CANAL, MYSQL, MYSQL_BARE, POSTGRES] {
            let with = |channel: &str| one("", &sample.replace("\"wechat\"", channel));
            for (channel, quoted) in
                [("2", "2"), ("0", "0"), ("true", "true"), ("\"2\"", "2"), ("{\"a\": 1}", "{\"a\":1}")]
            {
                let rejected = with(channel);
                assert_eq!(name(&rejected), "rejected", "{channel}");
                let says = format!("the channel `{quoted}` is neither `wechat` nor `mini_program`");
                assert_eq!(why(&rejected), says);
            }
            for none in ["null", "\" \""] {
                assert_eq!(name(&with(none)), "nurse_accepted", "{none}");
            }
        }
        let long = one("", &MAXWELL.replace("\"wechat\"", &format!("[{}1]", "1,".repeat(1000))));
        assert!(why(&long).len() < 100, "{}", why(&long));
    }

    #[test]
    fn nobody_is_nobody_in_every_form() {
        for nobody in ["0", "\"\"", "\"0\"", "null"] {
            for sample in [MAXWELL, PLAIN] {
                let rejected = one("", &sample.replace("\"patient_id\":98", &format!("\"patient_id\":{nobody}")));
                assert!(why(&rejected).contains("the order has none"), "{}", why(&rejected));
            }
        }
    }

    #[test]
    fn what_a_plain_event_lacks_is_named_together() {
        let unreadable = one("", r#"{"order_id":"a b","from":"x","to":"in_service","channel":"sms"}"#);
        assert_eq!(
            why(&unreadable),
            "/event_id is missing; /order_id must be an id: 1 to 64 of A-Z a-z 0-9 . _ : -; \
             /from must be a status, by key or label; /occurred_at is missing; \
             /channel must be `wechat` or `mini_program`"
        );
    }

    #[test]
    fn an_overdue_service_is_stated_anew_by_operation_or_time() {
        let event = |old: &str| {
            format!(
                r#"{{"database":"clinic","table":"order","type":"update","ts":1,"xid":1,"data":{{"id":1,"status":"服务超时",
                "operation":"service_overdue","operated_at":"2016-12-10 18:00:00","patient_id":98,"nurse_id":17}},"old":{old}}}"#
            )
        };
        assert_eq!(name(&one("", &event(r#"{"operated_at":"2016-12-10 17:00:00"}"#))), "service_overdue");
        assert_eq!(name(&one("", &event(r#"{"operation":null}"#))), "service_overdue");
        assert_eq!(name(&one("", &event(r#"{"remark":null}"#))), "ignored");
        let unchanged = event(r#"{"operated_at":null}"#).replace("服务超时", "服务中");
        assert_eq!(name(&one("", &unchanged)), "ignored");
        // By whichever of its names.
        let respelt = event(r#"{"status":"service_overdue","operated_at":null}"#);
        assert_eq!(name(&one("", &respelt)), "service_overdue");
    }

    #[test]
    fn the_operators_names_are_read() {
        let mapping = r#"{
            "database": "hospital", "table": "t_order",
            "columns": {"id": "order_no", "status": "state", "operation": "op", "patient_openid": "openid",
                        "nurse_alias": "nurse_id", "nurse_name": null},
            "statuses": {"40": "awaiting_acceptance", "50": "awaiting_service"},
            "operations": {"7": "nurse_accepted"}
        }"#;
        let event = r#"{"database":"hospital","table":"t_order","type":"update","ts":1481361166,"xid":1,
            "data":{"order_no":"HN-98001","state":50,"op":7,"patient_id":"p98","nurse_id":17,"openid":"oABC","nurse_name":"王芳"},
            "old":{"state":40}}"#;
        let message = message(mapping, event);
        assert_eq!(message["order_id"], "HN-98001");
        assert_eq!(message["payload"]["touser"], "oABC");
        assert_eq!(message["nurse"], serde_json::json!({"id": "17"}));
        assert_eq!(name(&one(mapping, &event.replace("t_order", "order"))), "ignored");
        assert_eq!(name(&one(mapping, &event.replace("hospital", "clinic"))), "ignored");
        assert_eq!(name(&one(mapping, &event.replace("\"state\":50", "\"state\":51"))), "rejected");
    }

    #[test]
    fn a_status_code_may_come_as_canals_string() {
        let mapping = r#"{"statuses": {"40": "待接单", "50": "待服务"}}"#;
        let event = CANAL.replace("\"待接单\"", "\"40\"").replace("\"待服务\"", "\"50\"");
        assert_eq!(name(&one(mapping, &event)), "nurse_accepted");
    }

    #[test]
    fn every_fault_of_a_mapping_is_named() {
        let mapping = r#"{"tabel": "x", "table": "", "columns": {"id": 5, "patient_id": "status", "colour": "c"},
            "statuses": {"1": "nowhere", "服务中": "refunding"}, "operations": {"a": "b"},
            "to_states": {"nurse_cancelled": [], "x": ["refunding"], "refund_approved": ["refunding", 3]}}"#;
        let faults = OrderMapping::parse(mapping).err().unwrap();
        let pointers: Vec<_> =
            faults.iter().map(|fault| fault.pointer.trim_start_matches("/variables/order_mapping")).collect();
        assert_eq!(
            pointers,
            [
                "/tabel",
                "/table",
                "/columns/colour",
                "/columns/patient_id",
                "/columns/id",
                "/statuses/1",
                "/statuses/服务中",
                "/operations/a",
                "/to_states/nurse_cancelled",
                "/to_states/x",
                "/to_states/refund_approved/1"
            ]
        );
        for (mapping, pointer) in [
            (r#"{"statuses":{"1":"派单"," 1 ":"支付中"}}"#, "/statuses/ 1 "),
            (r#"{"statuses":{"":"支付中"}}"#, "/statuses/"),
            (r#"{"statuses":{"a/b~c":"nowhere"}}"#, "/statuses/a~1b~0c"),
            (r#"{"operations":{"nurse_accepted":"service_started"}}"#, "/operations/nurse_accepted"),
            (r#"{"to_states":{"payment_timed_out":["已取消","待支付"]}}"#, "/to_states/payment_timed_out/1"),
            (r#"{"to_states":{"nurse_cancelled":["退款中","退款中"]}}"#, "/to_states/nurse_cancelled/1"),
        ] {
            let faults = OrderMapping::parse(mapping).err().unwrap();
            assert_eq!(faults[0].pointer, format!("/variables/order_mapping{pointer}"), "{mapping}");
            assert_eq!(faults.len(), 1, "{faults:?}");
        }
        assert!(OrderMapping::parse(r#"{"to_states":{"service_overdue":["服务超时"]}}"#).is_ok());
        for text in ["[]", "{", "{\"columns\": 1}", "{\"table\":\"a\",\"table\":\"b\"}"] {
            assert!(OrderMapping::parse(text).is_err(), "{text}");
        }
    }

    proptest! {
        /// A replay of any change in any feed is the same message; another order's is another.
        #[test]
        fn ids_are_stable_and_distinct(order in 1u32..1_000_000, xid in 1u32..1_000_000) {
            let event = |order: u32| MAXWELL.replace("98001", &order.to_string()).replace("940786", &xid.to_string());
            let first = message("", &event(order));
            prop_assert_eq!(&first, &message("", &event(order)));
            prop_assert_ne!(&first["id"], &message("", &event(order + 1))["id"]);
        }

        #[test]
        fn no_text_makes_it_panic(text in r#"[\[\]{}",:a-z0-9服务中]{0,80}"#) {
            if let Ok(value) = json::parse(text.as_bytes()) {
                formatter("").format(&value);
            }
        }
    }
}
