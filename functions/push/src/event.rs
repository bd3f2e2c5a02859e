//! One event on its way: what a feed told, then what it says of an order.

use shared::{
    id::Id,
    json::{Object, Value},
    message::Channel,
    problem::Fault,
};

use crate::status::Status;

/// What a feed's event turned out to be.
#[derive(Debug)]
pub(crate) enum Reading<'v> {
    /// A row was updated.
    Row(RowUpdate<'v>),
    /// An order's change in the plain form.
    Order(OrderChange),
    /// Nothing that could be a transition: an insert, a delete, a change of the schema.
    Nothing {
        /// Its identity, where it has one.
        event_id: Option<Id>,
        /// What it is.
        detail: String,
    },
    /// An event that lacks what its form promises, or of no known form.
    Unreadable(Vec<Fault>),
}

/// An update of one row, as a change-data-capture feed tells it.
#[derive(Debug)]
pub(crate) struct RowUpdate<'v> {
    pub(crate) event_id: Id,
    pub(crate) database: Option<&'v str>,
    pub(crate) table: &'v str,
    pub(crate) after: &'v Object<'v>,
    pub(crate) before: Before<'v>,
    /// When the database did it, Unix ms.
    pub(crate) occurred_at_ms: Option<i64>,
}

/// What a feed tells of the row before the update.
#[derive(Debug)]
pub(crate) enum Before<'v> {
    /// The changed columns alone (Maxwell, Canal).
    Changed(&'v Object<'v>),
    /// All columns (Debezium).
    Whole(&'v Object<'v>),
    /// Nothing: the database does not write it into its log.
    Unknown,
}

impl<'v> RowUpdate<'v> {
    /// The column's value now, unless it is `NULL`.
    pub(crate) fn now(&self, column: &str) -> Option<&'v Value<'v>> {
        self.after.present(column)
    }

    /// The column's value before the update, unless it was `NULL`.
    pub(crate) fn before(&self, column: &str) -> Option<&'v Value<'v>> {
        match self.before {
            Before::Changed(changed) if changed.get(column).is_some() => changed.present(column),
            Before::Changed(_) => self.now(column),
            Before::Whole(row) => row.present(column),
            Before::Unknown => None,
        }
    }

    /// Whether this very update changed the column.
    pub(crate) fn changed(&self, column: &str) -> bool {
        self.before(column) != self.now(column)
    }
}

/// A transition of an order.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct OrderChange {
    pub(crate) event_id: Id,
    pub(crate) order_id: Id,
    pub(crate) from: Status,
    pub(crate) to: Status,
    /// The operation column, in the scenario table's names.
    pub(crate) operation: Option<String>,
    /// The status stayed, and an overdue service was reported anew.
    pub(crate) restated: bool,
    pub(crate) patient: Person,
    pub(crate) nurse: Person,
    /// The patient's channel, where the row chooses one; a name that is none is the patient's messages' fault alone.
    pub(crate) channel: Option<Result<Channel, String>>,
    pub(crate) occurred_at_ms: i64,
}

/// Who a value names: an id; or nobody (`Some(None)`), as an empty text or the 0 of a column without default does;
/// `None` for what is no id.
pub(crate) fn person(value: &Value<'_>) -> Option<Option<Id>> {
    let nobody =
        matches!(value, Value::Integer(0)) || value.as_str().is_some_and(|text| matches!(text.trim(), "" | "0"));
    if nobody { Some(None) } else { Id::from_json(value).map(Some) }
}

/// A person of an order, as far as the row knows them.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Person {
    pub(crate) id: Option<Id>,
    pub(crate) name: Option<String>,
    /// WeChat openid at the official account, or the app's push alias.
    pub(crate) address: Option<String>,
    /// WeChat openid at the mini program, which is another one.
    pub(crate) mini_program_address: Option<String>,
}
