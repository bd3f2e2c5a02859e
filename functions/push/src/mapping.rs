//! Reads a row by the operator's names: which table and columns, what a status or an operation is called there.
//!
//! The variable `order_mapping` is a JSON object; what it leaves out keeps its default. A mapping that does not make
//! sense is refused with every fault named, at the place in the variable that has it.

use std::{borrow::Cow, collections::HashMap};

use shared::{
    clock,
    id::Id,
    json::{self, Object, Value},
    message::Channel,
    problem::{Fault, escaped},
};
use time::{PrimitiveDateTime, macros::format_description, macros::offset};

use crate::{
    event::{Before, OrderChange, Person, RowUpdate, person},
    feed::plain::patient_channel,
    scenario::{self, SCENARIOS, Transitions},
    status::Status,
};

/// What the columns of the order table are called. `None`: the table has no such column.
struct Columns {
    id: String,
    status: String,
    operation: Option<String>,
    operated_at: Option<String>,
    patient_id: Option<String>,
    nurse_id: Option<String>,
    nurse_name: Option<String>,
    channel: Option<String>,
    updated_at: Option<String>,
    patient_openid: Option<String>,
    patient_mini_program_openid: Option<String>,
    nurse_alias: Option<String>,
}

/// A checked mapping.
pub(crate) struct OrderMapping {
    database: Option<String>,
    table: String,
    columns: Columns,
    /// The operator's names of statuses, beside keys and labels.
    statuses: HashMap<String, Status>,
    /// The operator's names of operations → scenario keys, beside keys and labels.
    operations: HashMap<String, &'static str>,
    /// What each transition may mean.
    pub(crate) transitions: Transitions,
}

/// What a row's update says of an order.
#[derive(Debug, PartialEq)]
pub(crate) enum RowReading {
    /// A transition, or the same status stated anew.
    Change(Box<OrderChange>),
    /// Nothing of interest, for this reason.
    Ignored(String),
    /// Something that cannot be read, for these reasons.
    Rejected(String),
}

impl OrderMapping {
    /// Reads the variable's value; empty means all defaults.
    ///
    /// # Errors
    /// Every fault, with a pointer that starts at the variable.
    pub(crate) fn parse(text: &str) -> Result<Self, Vec<Fault>> {
        let text = if text.trim().is_empty() { "{}" } else { text };
        let mut check = Check { faults: Vec::new() };
        let parsed = json::parse(text.as_bytes());
        let empty = Object::default();
        let root = match &parsed {
            Ok(Value::Object(root)) => root,
            Ok(_) => {
                check.fault("", "must be a JSON object");
                &empty
            }
            Err(error) => {
                check.fault("", &format!("is no JSON: {error}"));
                &empty
            }
        };
        check.keys(root, "", &["database", "table", "columns", "statuses", "operations", "to_states"]);
        let database = check.name(root, "", "database").flatten();
        let table = check.required_name(root, "", "table", "order");
        let columns = check.columns(root.object("columns").unwrap_or(&empty));
        let statuses = check.statuses(root.object("statuses").unwrap_or(&empty));
        let operations = check.operations(root.object("operations").unwrap_or(&empty));
        let to_states = check.replaced_states(root.object("to_states").unwrap_or(&empty));
        for key in ["columns", "statuses", "operations", "to_states"] {
            if root.present(key).is_some_and(|value| value.as_object().is_none()) {
                check.fault(&format!("/{key}"), "must be an object");
            }
        }
        if !check.faults.is_empty() {
            return Err(check.faults);
        }
        let transitions = Transitions::new(|key| to_states.get(key).cloned());
        Ok(Self { database, table, columns, statuses, operations, transitions })
    }

    /// The row's key column, a part of its identity.
    pub(crate) fn id_column(&self) -> &str {
        &self.columns.id
    }

    /// Reads an updated row.
    pub(crate) fn read(&self, row: &RowUpdate<'_>) -> RowReading {
        if row.table != self.table {
            return RowReading::Ignored(format!("the table is `{}`, not `{}`", row.table, self.table));
        }
        if let (Some(expected), Some(found)) = (&self.database, row.database)
            && expected != found
        {
            return RowReading::Ignored(format!("the database is `{found}`, not `{expected}`"));
        }
        if matches!(row.before, Before::Unknown) {
            return RowReading::Rejected(
                "the feed does not tell the row before the update: set REPLICA IDENTITY FULL on Postgres, \
                 binlog_format=ROW and binlog_row_image=FULL on MySQL"
                    .into(),
            );
        }
        let columns = &self.columns;
        let operation = self.operation(row);
        let changed = |column: &Option<String>| column.as_ref().is_some_and(|column| row.changed(column));
        let stated_anew = || {
            let named = operation.as_deref().is_some_and(scenario::restates);
            (named && changed(&columns.operation)) || changed(&columns.operated_at)
        };
        if !row.changed(&columns.status) {
            // Whatever else is in such a row, only an overdue service can be stated anew.
            let now = self.status(row.now(&columns.status), "now", &mut Vec::new());
            if now != Some(Status::ServiceOverdue) || !stated_anew() {
                return RowReading::Ignored("the status did not change".into());
            }
        }
        let mut faults = Vec::new();
        let from = self.status(row.before(&columns.status), "before the update", &mut faults);
        let to = self.status(row.now(&columns.status), "now", &mut faults);
        let order_id = row.now(&columns.id).and_then(Id::from_json);
        if order_id.is_none() {
            faults.push(format!("`{}` is no id", columns.id));
        }
        let patient = Person {
            id: id(row, &columns.patient_id, &mut faults),
            name: None,
            address: address(row, &columns.patient_openid, OPENID_MAX, &mut faults),
            mini_program_address: address(row, &columns.patient_mini_program_openid, OPENID_MAX, &mut faults),
        };
        let nurse = Person {
            id: id(row, &columns.nurse_id, &mut faults),
            name: text(row, &columns.nurse_name).map(str::to_owned),
            address: address(row, &columns.nurse_alias, ALIAS_MAX, &mut faults),
            mini_program_address: None,
        };
        let channel = columns.channel.as_deref().and_then(|column| channel(row.now(column)?));
        match (order_id, from, to) {
            (Some(order_id), Some(from), Some(to)) if faults.is_empty() => RowReading::Change(Box::new(OrderChange {
                event_id: row.event_id.clone(),
                order_id,
                from,
                to,
                restated: from == to && stated_anew(),
                operation,
                patient,
                nurse,
                channel,
                occurred_at_ms: self.occurred_at_ms(row),
            })),
            _ => RowReading::Rejected(faults.join("; ")),
        }
    }

    fn status(&self, value: Option<&Value<'_>>, when: &str, faults: &mut Vec<String>) -> Option<Status> {
        let name = match value {
            Some(Value::String(name)) => Cow::Borrowed(name.trim()),
            Some(Value::Integer(code)) => Cow::Owned(code.to_string()),
            Some(_) => {
                faults.push(format!("the status {when} is neither a string nor an integer"));
                return None;
            }
            None => {
                faults.push(format!("there is no status {when}"));
                return None;
            }
        };
        let status = self.statuses.get(name.as_ref()).copied().or_else(|| Status::parse(&name));
        if status.is_none() {
            faults.push(format!("the status {when}, `{}`, is unknown", shortened(&name)));
        }
        status
    }

    /// The operation column's value, in the scenario table's names.
    fn operation(&self, row: &RowUpdate<'_>) -> Option<String> {
        let value = row.now(self.columns.operation.as_deref()?)?;
        let name = match value {
            Value::String(name) => name.trim().to_owned(),
            Value::Integer(code) => code.to_string(),
            _ => return None,
        };
        let name = self.operation_named(&name);
        (!name.is_empty()).then_some(name)
    }

    /// An operation in the scenario table's names.
    pub(crate) fn operation_named(&self, name: &str) -> String {
        let name = name.trim();
        self.operations.get(name).map_or(name, |key| *key).to_owned()
    }

    /// The feed's own time; without one the row's `updated_at`; without that, now.
    fn occurred_at_ms(&self, row: &RowUpdate<'_>) -> i64 {
        let updated_at = || instant(row.now(self.columns.updated_at.as_deref()?)?);
        row.occurred_at_ms.or_else(updated_at).unwrap_or_else(clock::now_ms)
    }
}

/// A value as a fault may quote it.
fn shortened(name: &str) -> String {
    name.chars().take(40).collect()
}

fn text<'v>(row: &RowUpdate<'v>, column: &Option<String>) -> Option<&'v str> {
    let text = row.now(column.as_deref()?)?.as_str()?.trim();
    (!text.is_empty()).then_some(text)
}

/// The channel that a row chooses, or the name that is none. What is no text is a name as its JSON has it: Canal writes
/// every value as a string.
fn channel(value: &Value<'_>) -> Option<Result<Channel, String>> {
    let name = match value {
        Value::String(name) => Cow::Borrowed(name.trim()),
        other => Cow::Owned(serde_json::to_string(other).unwrap_or_default()),
    };
    (!name.is_empty()).then(|| patient_channel(&name).ok_or_else(|| shortened(&name)))
}

fn id(row: &RowUpdate<'_>, column: &Option<String>, faults: &mut Vec<String>) -> Option<Id> {
    let column = column.as_deref()?;
    let who = person(row.now(column)?);
    if who.is_none() {
        faults.push(format!("`{column}` is no id"));
    }
    who.flatten()
}

/// WeChat's openids have 28 bytes, and nobody promises that this stays.
const OPENID_MAX: usize = 64;

/// The most bytes of a JPush alias.
const ALIAS_MAX: usize = 40;

/// Where a person is reached: a text, or a number, which one feed writes as such and another as its digits. As with
/// ids, 0 is what a column without default has.
fn address(row: &RowUpdate<'_>, column: &Option<String>, max: usize, faults: &mut Vec<String>) -> Option<String> {
    let column = column.as_deref()?;
    let address = match row.now(column)? {
        Value::String(text) => Some(text.trim().to_owned()),
        number => Id::from_json(number).map(|id| id.as_str().to_owned()),
    };
    let fits = |address: &String| address.len() <= max && !address.chars().any(|c| c.is_control() || c.is_whitespace());
    let Some(address) = address.filter(fits) else {
        faults.push(format!("`{column}` is no address of at most {max} bytes"));
        return None;
    };
    (!matches!(address.as_str(), "" | "0")).then_some(address)
}

/// A column's time: RFC 3339, `2016-12-10 17:12:46` in Asia/Shanghai, Unix seconds, milliseconds or microseconds.
fn instant(value: &Value<'_>) -> Option<i64> {
    let Value::String(text) = value else {
        return crate::feed::instant_ms(Some(value));
    };
    let local = || {
        let format = format_description!("[year]-[month]-[day] [hour]:[minute]:[second]");
        let seconds = text.get(..19)?;
        let at = PrimitiveDateTime::parse(seconds, format).ok()?.assume_offset(offset!(+8));
        at.unix_timestamp().checked_mul(1000)
    };
    clock::parse_rfc3339(text).or_else(local)
}

/// Checks the variable and keeps its faults.
struct Check {
    faults: Vec<Fault>,
}

impl Check {
    /// A fault at `at`, whose last part may be a name that the operator chose.
    fn fault(&mut self, at: &str, detail: &str) {
        self.faults.push(Fault::at(format!("/variables/order_mapping{at}"), detail));
    }

    fn keys(&mut self, object: &Object<'_>, at: &str, known: &[&str]) {
        for (key, _) in object.iter() {
            if !known.contains(&key) {
                self.fault(&format!("{at}/{}", escaped(key)), &format!("is unknown; known are {}", known.join(", ")));
            }
        }
    }

    /// A name that may be left out (`None`) or be `null` (`Some(None)`).
    fn name(&mut self, object: &Object<'_>, at: &str, key: &str) -> Option<Option<String>> {
        match object.get(key)? {
            Value::Null => Some(None),
            Value::String(name) if !name.trim().is_empty() => Some(Some(name.trim().to_owned())),
            _ => {
                self.fault(&format!("{at}/{key}"), "must be a name");
                None
            }
        }
    }

    fn required_name(&mut self, object: &Object<'_>, at: &str, key: &str, default: &str) -> String {
        match self.name(object, at, key) {
            Some(Some(name)) => name,
            Some(None) => {
                self.fault(&format!("{at}/{key}"), "must be a name");
                default.to_owned()
            }
            None => default.to_owned(),
        }
    }

    fn columns(&mut self, object: &Object<'_>) -> Columns {
        const AT: &str = "/columns";
        // The columns that every table has, those that it may lack, and addresses, which have no default.
        const DEFAULTED: [&str; 9] = [
            "id",
            "status",
            "operation",
            "operated_at",
            "patient_id",
            "nurse_id",
            "nurse_name",
            "channel",
            "updated_at",
        ];
        const ADDRESSES: [&str; 3] = ["patient_openid", "patient_mini_program_openid", "nurse_alias"];
        self.keys(object, AT, &[&DEFAULTED[..], &ADDRESSES].concat());
        // One column cannot be two of these. Times and addresses may well share one with another.
        let distinct = ["id", "status", "operation", "patient_id", "nurse_id", "nurse_name", "channel"];
        let mut roles: HashMap<String, &str> = HashMap::new();
        for role in distinct {
            let name = match object.get(role) {
                Some(Value::String(name)) => name.trim().to_owned(),
                Some(_) => continue,
                None => role.to_owned(),
            };
            if let Some(other) = roles.insert(name.clone(), role) {
                self.fault(&format!("{AT}/{role}"), &format!("`{name}` is the column of `{other}` already"));
            }
        }
        let id = self.required_name(object, AT, "id", "id");
        let status = self.required_name(object, AT, "status", "status");
        let mut optional = |role: &str| match self.name(object, AT, role) {
            Some(name) => name,
            None => DEFAULTED.contains(&role).then(|| role.to_owned()),
        };
        Columns {
            id,
            status,
            operation: optional("operation"),
            operated_at: optional("operated_at"),
            patient_id: optional("patient_id"),
            nurse_id: optional("nurse_id"),
            nurse_name: optional("nurse_name"),
            channel: optional("channel"),
            updated_at: optional("updated_at"),
            patient_openid: optional("patient_openid"),
            patient_mini_program_openid: optional("patient_mini_program_openid"),
            nurse_alias: optional("nurse_alias"),
        }
    }

    fn statuses(&mut self, object: &Object<'_>) -> HashMap<String, Status> {
        let mut statuses = HashMap::new();
        for (name, value) in object.iter() {
            let (at, name) = (format!("/statuses/{}", escaped(name)), name.trim());
            let Some(status) = value.as_str().and_then(Status::parse) else {
                self.fault(&at, &format!("must be a status: {}", names(Status::ALL.iter().map(|s| s.key()))));
                continue;
            };
            let taken = Status::parse(name).filter(|known| *known != status);
            match taken.or_else(|| statuses.insert(name.to_owned(), status)) {
                Some(other) => self.fault(&at, &format!("is the name of {} already", other.key())),
                None if name.is_empty() => self.fault(&at, "must have a name"),
                None => {}
            }
        }
        statuses
    }

    fn operations(&mut self, object: &Object<'_>) -> HashMap<String, &'static str> {
        let mut operations = HashMap::new();
        for (name, value) in object.iter() {
            let (at, name) = (format!("/operations/{}", escaped(name)), name.trim());
            let Some(scenario) = value.as_str().and_then(scenario::by_key) else {
                self.fault(&at, &format!("must be a scenario: {}", scenarios()));
                continue;
            };
            let taken = SCENARIOS.iter().find(|known| known.is_called(name) && known.key != scenario.key);
            match taken.map(|known| known.key).or_else(|| operations.insert(name.to_owned(), scenario.key)) {
                Some(other) => self.fault(&at, &format!("is the name of {other} already")),
                None if name.is_empty() => self.fault(&at, "must have a name"),
                None => {}
            }
        }
        operations
    }

    fn replaced_states(&mut self, object: &Object<'_>) -> HashMap<String, Vec<Status>> {
        let mut to_states = HashMap::new();
        for (key, value) in object.iter() {
            let at = format!("/to_states/{}", escaped(key));
            let Some(scenario) = scenario::by_key(key) else {
                self.fault(&at, &format!("is no scenario; known are {}", scenarios()));
                continue;
            };
            let Some(items) = value.as_array().filter(|items| !items.is_empty()) else {
                self.fault(&at, "must be a list of at least one status");
                continue;
            };
            let mut statuses = Vec::new();
            for (index, item) in items.iter().enumerate() {
                let at = format!("{at}/{index}");
                match item.as_str().and_then(Status::parse) {
                    None => self.fault(&at, "must be a status, by key or label"),
                    Some(status) if statuses.contains(&status) => self.fault(&at, "stands twice"),
                    Some(status) if !scenario.may_lead_to(status) => {
                        self.fault(&at, "is where the scenario comes from: nothing would change");
                    }
                    Some(status) => statuses.push(status),
                }
            }
            to_states.insert(key.to_owned(), statuses);
        }
        to_states
    }
}

fn scenarios() -> String {
    names(SCENARIOS.iter().map(|scenario| scenario.key))
}

fn names(keys: impl Iterator<Item = &'static str>) -> String {
    keys.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use shared::json;

    use crate::format::{Outcome, tests::formatter};

    /// The message of a text's one event, or why there is none.
    fn message(mapping: &str, text: &str) -> Result<serde_json::Value, String> {
        let event = json::parse(text.as_bytes()).unwrap();
        match formatter(mapping).format(&event).remove(0).outcome {
            Outcome::Formatted(message) => Ok(serde_json::to_value(message).unwrap()),
            Outcome::Rejected(why) => Err(why),
            _ => panic!("{text}"),
        }
    }

    #[test]
    fn an_address_that_is_a_number_is_the_same_in_every_feed() {
        let mapping = r#"{"columns": {"nurse_alias": "nurse_id", "patient_openid": "patient_id"}}"#;
        for sample in [
            include_str!("../testdata/maxwell_update.json"),
            include_str!("../testdata/maxwell_update_with_position.json"),
            include_str!("../testdata/canal_update.json"),
            include_str!("../testdata/debezium_mysql_update.json"),
            include_str!("../testdata/debezium_mysql_update_unwrapped.json"),
            include_str!("../testdata/debezium_postgres_update.json"),
        ] {
            assert_eq!(message(mapping, sample).unwrap()["payload"]["touser"], "98", "{sample}");
            let refund = sample.replace("待服务", "退款申请中").replace("待接单", "服务中");
            let told = message(mapping, &refund).unwrap();
            assert_eq!(told["payload"]["audience"], serde_json::json!({"alias": ["17"]}), "{sample}");
        }
    }

    #[test]
    fn what_is_no_address_is_named() {
        let mapping = r#"{"columns": {"nurse_alias": "alias", "patient_openid": "openid"}}"#;
        let with = |openid: &str, alias: &str| {
            let event = r#"{"database":"clinic","table":"order","type":"update","ts":1,"xid":1,"data":{"id":1,
                "status":"待服务","patient_id":98,"nurse_id":17,"openid":OPENID,"alias":ALIAS},"old":{"status":"待接单"}}"#;
            message(mapping, &event.replace("OPENID", openid).replace("ALIAS", alias))
        };
        let text = |bytes: usize| format!("{:?}", "x".repeat(bytes));
        for openid in ["true", "1.5", "[]", "\"a b\"", &text(65)] {
            assert_eq!(with(openid, "null").unwrap_err(), "`openid` is no address of at most 64 bytes");
        }
        assert_eq!(with("null", &text(41)).unwrap_err(), "`alias` is no address of at most 40 bytes");
        assert!(with(&text(64), &text(40)).is_ok());
        for none in ["null", "0", "\"0\"", "\" \""] {
            assert_eq!(with(none, none).unwrap()["payload"]["touser"], "patient:98", "{none}");
        }
    }
}
