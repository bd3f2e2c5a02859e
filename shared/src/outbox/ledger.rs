//! The messages as operators read them, and their hand on them: list, look at, try again.

use serde::Serialize;
use serde_json::value::RawValue;

use super::MESSAGES;
use crate::{
    clock,
    db::{Db, DbError, Row, Select},
};

/// Which messages are asked for; `None` for all.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Of this queue; of the messages' if it is `None`.
    pub queue: Option<String>,
    /// Of this order.
    pub order_id: Option<String>,
    /// For this recipient, `patient:98`.
    pub recipient: Option<String>,
    /// Of this scenario.
    pub scenario: Option<String>,
    /// In this state.
    pub state: Option<State>,
    /// Enqueued at or after it, Unix ms.
    pub from_ms: Option<i64>,
    /// Enqueued before it, Unix ms.
    pub to_ms: Option<i64>,
    /// Older than the row with this cursor.
    pub cursor: Option<i64>,
}

/// Where a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It waits for its first or next attempt.
    Pending,
    /// Somebody is posting it.
    Sending,
    /// The gateway has it.
    Sent,
    /// There was no gateway; the log has it.
    Logged,
    /// It is given up.
    Dead,
}

impl State {
    /// All of them, in the order of a message's life.
    pub const ALL: [Self; 5] = [Self::Pending, Self::Sending, Self::Sent, Self::Logged, Self::Dead];

    /// Reads a state's name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == name)
    }

    /// Its name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Sending => "sending",
            Self::Sent => "sent",
            Self::Logged => "logged",
            Self::Dead => "dead",
        }
    }
}

/// A message in a list.
#[derive(Clone, Debug, Serialize)]
pub struct Entry {
    /// Its id, which is its `webhook-id`.
    pub id: String,
    /// The event that it came of.
    pub event_id: String,
    /// The order.
    pub order_id: String,
    /// The scenario's key.
    pub scenario: String,
    /// `patient:98`, `nurse:available`.
    pub recipient: String,
    /// By which channel.
    pub channel: String,
    /// Where it is.
    pub state: State,
    /// How often it was tried.
    pub attempts: i64,
    /// When the order changed.
    pub occurred_at: String,
    /// When it was enqueued.
    pub created_at: String,
    /// When it is tried next, or taken from whoever holds it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub due_at: Option<String>,
    /// When the gateway had it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sent_at: Option<String>,
    /// Its place, for the cursor.
    #[serde(skip)]
    pub seq: i64,
}

/// A message with all that is known of it.
#[derive(Debug, Serialize)]
pub struct Whole {
    /// As in a list.
    #[serde(flatten)]
    pub entry: Entry,
    /// What the gateway gets; `null` 30 days after it was sent.
    pub message: Option<Box<RawValue>>,
    /// Every attempt, the oldest first; empty 30 days after it was sent.
    pub history: Vec<Box<RawValue>>,
}

const COLUMNS: &str = "seq, id, event_id, order_id, scenario, recipient, channel, state, attempts, occurred_at_ms,
    created_at_ms, due_at_ms, settled_at_ms";

fn entry(row: &Row) -> Result<Entry, DbError> {
    let text = |column| row.text(column).map(str::to_owned);
    let state = State::parse(row.text(7)?).ok_or(DbError::Column(7))?;
    let waits = matches!(state, State::Pending | State::Sending);
    Ok(Entry {
        seq: row.integer(0)?,
        id: text(1)?,
        event_id: text(2)?,
        order_id: text(3)?,
        scenario: text(4)?,
        recipient: text(5)?,
        channel: text(6)?,
        state,
        attempts: row.integer(8)?,
        occurred_at: clock::rfc3339(row.integer(9)?),
        created_at: clock::rfc3339(row.integer(10)?),
        due_at: if waits { Some(clock::rfc3339(row.integer(11)?)) } else { None },
        sent_at: row.optional_integer(12)?.filter(|_| state == State::Sent).map(clock::rfc3339),
    })
}

/// The newest messages first, at most `limit`.
///
/// # Errors
/// Those of the database.
pub async fn list(db: &Db, filter: &Filter, limit: usize) -> Result<Vec<Entry>, DbError> {
    let queue = filter.queue.as_deref().unwrap_or(MESSAGES);
    let select = Select::new(format!("SELECT {COLUMNS} FROM outbox WHERE queue = $1"), [queue.into()])
        .and("order_id =", filter.order_id.as_deref())
        .and("recipient =", filter.recipient.as_deref())
        .and("scenario =", filter.scenario.as_deref())
        .and("state =", filter.state.map(State::as_str))
        .and("created_at_ms >=", filter.from_ms)
        .and("created_at_ms <", filter.to_ms)
        .and("seq <", filter.cursor);
    // An order or a person has few messages, a state may have many.
    let by_state = filter.order_id.is_none() && filter.recipient.is_none();
    let select = match filter.state {
        Some(state) if by_state && state != State::Sent => select.only("state <> 'sent'"),
        _ => select,
    };
    select.newest(limit).rows(db).await?.iter().map(entry).collect()
}

/// One message, if there is one with this id.
///
/// # Errors
/// Those of the database.
pub async fn get(db: &Db, id: &str) -> Result<Option<Whole>, DbError> {
    get_of(db, MESSAGES, id).await
}

/// One row of another queue, which is no message to anybody.
///
/// # Errors
/// Those of the database.
pub async fn get_of(db: &Db, queue: &str, id: &str) -> Result<Option<Whole>, DbError> {
    let sql = format!("SELECT {COLUMNS}, body, attempt_log FROM outbox WHERE id = $1 AND queue = $2");
    let Some(row) = db.query_one(&sql, [id.into(), queue.into()]).await? else { return Ok(None) };
    // Written by us as JSON; what is not is not shown.
    let raw = |text: &str| RawValue::from_string(text.to_owned()).ok();
    let message = row.optional_text(13)?.and_then(raw);
    let history = row.text(14)?.lines().filter_map(raw).collect();
    Ok(Some(Whole { entry: entry(&row)?, message, history }))
}

/// The states of these messages, of those that are there, and why the last attempt at each failed.
///
/// # Errors
/// Those of the database.
pub async fn states(db: &Db, ids: &[String]) -> Result<Vec<(String, (State, Option<String>))>, DbError> {
    const SQL: &str = "SELECT id, state, attempt_log FROM outbox WHERE id IN (SELECT value FROM json_each($1))";
    let ids = serde_json::to_string(ids).map_err(|error| DbError::Other(error.to_string()))?;
    let rows = db.query(SQL, [ids.into()]).await?;
    let state = |row: &Row| {
        let state = State::parse(row.text(1)?).ok_or(DbError::Column(1))?;
        Ok((row.text(0)?.to_owned(), (state, row.text(2)?.lines().next_back().and_then(detail))))
    };
    rows.iter().map(state).collect()
}

/// The `detail` of an attempt's line.
fn detail(line: &str) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Attempt {
        detail: Option<String>,
    }
    serde_json::from_str::<Attempt>(line).ok()?.detail
}

/// Makes a message due now, with a new day to try; `false` if it is none that waits, is dead or was only logged, or
/// if its body is gone.
///
/// # Errors
/// Those of the database.
pub async fn retry(db: &Db, id: &str, now_ms: i64) -> Result<bool, DbError> {
    const SQL: &str = "UPDATE outbox SET state = 'pending', due_at_ms = $1, lease = NULL, attempts = min(attempts, 1),
            tried_since_ms = NULL, settled_at_ms = NULL
        WHERE id = $2 AND queue = 'messages' AND state IN ('pending', 'logged', 'dead') AND body IS NOT NULL
        RETURNING 1";
    Ok(!db.query(SQL, [now_ms.into(), id.into()]).await?.is_empty())
}

/// Makes at most `rows` messages in `state`, which is not `sent`, due now, the oldest first, and returns how many.
///
/// # Errors
/// Those of the database.
pub async fn retry_some(db: &Db, state: State, rows: i64, now_ms: i64) -> Result<u64, DbError> {
    // A pending one that is due already is no work; without this, asking until none is left would never end.
    const SQL: &str = "UPDATE outbox SET state = 'pending', due_at_ms = $1, lease = NULL, attempts = min(attempts, 1),
            tried_since_ms = NULL, settled_at_ms = NULL
        WHERE seq IN (SELECT seq FROM outbox
            WHERE queue = 'messages' AND state = $2 AND state <> 'sent' AND body IS NOT NULL
                AND (state <> 'pending' OR due_at_ms > $1)
            ORDER BY seq LIMIT $3)
        RETURNING 1";
    Ok(db.query(SQL, [now_ms.into(), state.as_str().into(), rows.into()]).await?.len() as u64)
}

/// How the outbox is doing.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Stats {
    /// How many messages are in each state.
    pub by_state: std::collections::BTreeMap<&'static str, i64>,
    /// How long the oldest that waits has waited since it was enqueued, in ms.
    pub oldest_pending_age_ms: Option<i64>,
    /// How many the gateway took lately.
    pub sent_in_last: Sent,
}

/// How many messages the gateway took.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Sent {
    /// In the last 60 seconds.
    pub minute: i64,
    /// In the last 60 minutes.
    pub hour: i64,
    /// In the last 24 hours.
    pub day: i64,
}

/// How the outbox is doing now.
///
/// # Errors
/// Those of the database.
pub async fn stats(db: &Db, now_ms: i64) -> Result<Stats, DbError> {
    const STATES: &str = "SELECT state, count(*) FROM outbox
        WHERE queue = 'messages' AND state <> 'sent' GROUP BY state
        UNION ALL SELECT 'sent', sent FROM outbox_sent WHERE queue = 'messages'";
    const OLDEST: &str = "SELECT min(created_at_ms) FROM outbox
        WHERE state IN ('pending', 'sending') AND queue = 'messages'";
    const SENT: &str = "SELECT coalesce(sum(settled_at_ms > $1 - 60000), 0),
            coalesce(sum(settled_at_ms > $1 - 3600000), 0), count(*)
        FROM outbox WHERE settled_at_ms IS NOT NULL AND body IS NOT NULL AND state = 'sent'
            AND settled_at_ms > $1 - 86400000 AND queue = 'messages'";
    let mut stats = Stats { by_state: State::ALL.map(|state| (state.as_str(), 0)).into(), ..Stats::default() };
    for row in db.query(STATES, []).await? {
        let state = State::parse(row.text(0)?).ok_or(DbError::Column(0))?;
        stats.by_state.insert(state.as_str(), row.integer(1)?);
    }
    if let Some(row) = db.query_one(OLDEST, []).await? {
        stats.oldest_pending_age_ms = row.optional_integer(0)?.map(|oldest_ms| (now_ms - oldest_ms).max(0));
    }
    if let Some(row) = db.query_one(SENT, [now_ms.into()]).await? {
        stats.sent_in_last = Sent { minute: row.integer(0)?, hour: row.integer(1)?, day: row.integer(2)? };
    }
    Ok(stats)
}
