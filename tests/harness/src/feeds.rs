//! An update of an order's row, as each change-data-capture feed writes it.

use serde_json::{Map, Value, json};
use time::macros::{format_description, offset};
use time::{Duration, OffsetDateTime};

/// One update of one row of the table `order`.
#[derive(Debug, Clone)]
pub struct Update {
    /// The order's id.
    pub order_id: u64,
    /// Its status before, by key or label.
    pub from: &'static str,
    /// Its status now.
    pub to: &'static str,
    /// The operation column.
    pub operation: Option<&'static str>,
    /// The order's patient.
    pub patient_id: Option<u32>,
    /// The order's nurse, and the nurse's name.
    pub nurse: Option<(u32, &'static str)>,
    /// The channel column.
    pub channel: Option<&'static str>,
    /// When it happened; feeds know the second.
    pub at: OffsetDateTime,
}

impl Update {
    /// An update of order `order_id` from one status to another, by patient 98 and nurse 17, now.
    pub fn new(order_id: u64, from: &'static str, to: &'static str) -> Self {
        Self {
            order_id,
            from,
            to,
            operation: None,
            patient_id: Some(98),
            nurse: Some((17, "王芳")),
            channel: Some("wechat"),
            at: OffsetDateTime::now_utc(),
        }
    }

    /// The same by this operation.
    pub fn by(mut self, operation: &'static str) -> Self {
        self.operation = Some(operation);
        self
    }

    /// The same at this time.
    pub fn at(mut self, at: OffsetDateTime) -> Self {
        self.at = at;
        self
    }

    /// As Maxwell writes it: of the columns before, those that changed.
    pub fn maxwell(&self) -> Value {
        json!({
            "database": "clinic", "table": "order", "type": "update", "ts": self.at.unix_timestamp(),
            "xid": self.transaction(), "commit": true, "data": self.row(self.to, self.at), "old": self.changed(),
        })
    }

    /// As Canal writes it: rows in arrays, every value a string.
    pub fn canal(&self) -> Value {
        let strings = |row: Value| {
            let fields = row.as_object().cloned().unwrap_or_default().into_iter();
            let text = |value: Value| match value {
                Value::Number(number) => Value::String(number.to_string()),
                other => other,
            };
            Value::Object(fields.map(|(name, value)| (name, text(value))).collect::<Map<_, _>>())
        };
        json!({
            "data": [strings(self.row(self.to, self.at))], "database": "clinic",
            "es": self.at.unix_timestamp() * 1000, "id": 9, "isDdl": false,
            "mysqlType": {"id": "bigint(20)", "status": "varchar(32)"}, "old": [strings(self.changed())],
            "pkNames": ["id"], "sql": "", "sqlType": {"id": -5, "status": 12}, "table": "order",
            "ts": self.at.unix_timestamp() * 1000 + 632, "type": "UPDATE",
        })
    }

    /// As Debezium writes it for MySQL, without the schema: both rows whole.
    pub fn debezium(&self) -> Value {
        let mut before = self.row(self.from, self.at - Duration::MINUTE);
        before["operation"] = Value::Null;
        json!({
            "before": before, "after": self.row(self.to, self.at),
            "source": {
                "version": "2.7.3.Final", "connector": "mysql", "name": "clinic", "snapshot": "false", "db": "clinic",
                "ts_ms": self.at.unix_timestamp() * 1000, "table": "order", "server_id": 223_344, "gtid": null,
                "file": "mysql-bin.000006", "pos": self.transaction(), "row": 0, "thread": 108, "query": null,
            },
            "transaction": null, "op": "u", "ts_ms": self.at.unix_timestamp() * 1000 + 432,
        })
    }

    fn row(&self, status: &str, at: OffsetDateTime) -> Value {
        json!({
            "id": self.order_id, "status": status, "operation": self.operation, "operated_at": date_time(at),
            "patient_id": self.patient_id, "nurse_id": self.nurse.map(|(id, _)| id),
            "nurse_name": self.nurse.map(|(_, name)| name), "channel": self.channel, "updated_at": date_time(at),
        })
    }

    fn changed(&self) -> Value {
        let before = date_time(self.at - Duration::MINUTE);
        let mut old = json!({"status": self.from, "operated_at": before, "updated_at": before});
        if self.operation.is_some() {
            old["operation"] = Value::Null;
        }
        if self.from == self.to {
            old.as_object_mut().map(|old| old.remove("status"));
        }
        old
    }

    /// A number that differs from change to change, as a transaction's and a binlog offset do.
    fn transaction(&self) -> u64 {
        let statuses =
            self.from.bytes().chain(self.to.bytes()).fold(7_u64, |sum, byte| sum * 31 % 65_537 + u64::from(byte));
        self.order_id % 10_000_000 * 100_000 + statuses
    }
}

/// As MySQL writes a `DATETIME`, by the clinic's clock.
fn date_time(at: OffsetDateTime) -> String {
    at.to_offset(offset!(+8))
        .format(format_description!("[year]-[month]-[day] [hour]:[minute]:[second]"))
        .expect("every instant has these parts")
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    #[test]
    fn each_feed_has_the_row_and_what_changed_in_it() {
        let update = Update::new(98001, "待接单", "待服务").by("nurse_accepted").at(datetime!(2016-12-10 17:12:46 +8));
        let maxwell = update.maxwell();
        assert_eq!((&maxwell["ts"], &maxwell["data"]["id"]), (&json!(1_481_361_166), &json!(98001)));
        assert_eq!(maxwell["data"]["operated_at"], "2016-12-10 17:12:46");
        assert_eq!(maxwell["old"]["status"], "待接单");
        assert_eq!(maxwell["old"].get("patient_id"), None);
        let canal = update.canal();
        assert_eq!((&canal["data"][0]["id"], &canal["old"][0]["status"]), (&json!("98001"), &json!("待接单")));
        let debezium = update.debezium();
        assert_eq!((&debezium["before"]["status"], &debezium["after"]["nurse_id"]), (&json!("待接单"), &json!(17)));
    }
}
