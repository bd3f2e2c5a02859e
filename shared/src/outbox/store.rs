//! The outbox's SQL for what writes and sends; [`super::ledger`] has what people read.
//!
//! A row is taken and settled by single statements: two that deliver at once never hold the same row, and a crash
//! between any two statements leaves a row that somebody takes again. Batches travel as one JSON value, so that a
//! statement's text, and its plan, does not depend on their size.

use serde::Serialize;

use crate::db::{Db, DbError, Migration, Row, Value};

/// The outbox's tables, which all functions share.
pub const MIGRATIONS: &[Migration] = &[TABLES, QUEUES, STALLS, COUNTS];

const TABLES: Migration = Migration {
    version: 1,
    statements: &[
        // `seq` is the order of arrival, which decides between changes of the same instant. The id is the
        // message's: a replay meets the row that is there, also when its body is long gone.
        // `due_at_ms` is when somebody may take the row: of a `pending` one the next attempt, of a `sending` one
        // the end of its lease. `tried_since_ms` starts the 24 hours after which it may be given up.
        // `attempt_log` has a JSON line for each attempt: appended in the statement that settles it, none is lost.
        "CREATE TABLE outbox (
            seq INTEGER PRIMARY KEY,
            id TEXT NOT NULL UNIQUE,
            function TEXT NOT NULL,
            event_id TEXT NOT NULL,
            order_id TEXT NOT NULL,
            scenario TEXT NOT NULL,
            label TEXT NOT NULL,
            recipient TEXT NOT NULL,
            recipient_id TEXT,
            channel TEXT NOT NULL,
            occurred_at_ms INTEGER NOT NULL,
            body TEXT,
            state TEXT NOT NULL CHECK (state IN ('pending', 'sending', 'sent', 'logged', 'dead')),
            attempts INTEGER NOT NULL DEFAULT 0,
            attempt_log TEXT NOT NULL DEFAULT '',
            lease TEXT,
            created_at_ms INTEGER NOT NULL,
            due_at_ms INTEGER NOT NULL,
            tried_since_ms INTEGER,
            settled_at_ms INTEGER
        )",
        // What is due is few rows among many: the index holds those alone.
        "CREATE INDEX outbox_due ON outbox (due_at_ms) WHERE state IN ('pending', 'sending')",
        // Whether an earlier message of the same order still waits.
        "CREATE INDEX outbox_waiting ON outbox (order_id, occurred_at_ms, seq) WHERE state IN ('pending', 'sending')",
        // An operator asks for an order, or for a person.
        "CREATE INDEX outbox_order ON outbox (order_id)",
        "CREATE INDEX outbox_recipient ON outbox (recipient)",
        // How much was sent lately, and which bodies are old enough to go.
        "CREATE INDEX outbox_settled ON outbox (settled_at_ms) WHERE settled_at_ms IS NOT NULL AND body IS NOT NULL",
        "CREATE INDEX outbox_dead ON outbox (seq) WHERE state = 'dead'",
        // When something was last said loudly, so that it is said once a minute by all instances together.
        "CREATE TABLE outbox_alarms (what TEXT PRIMARY KEY, said_at_ms INTEGER NOT NULL)",
    ],
};

const QUEUES: Migration = Migration {
    version: 2,
    statements: &[
        // Who carries the row: one courier's rows never wait for, or behind, another's.
        "ALTER TABLE outbox ADD COLUMN queue TEXT NOT NULL DEFAULT 'messages'",
        "DROP INDEX outbox_due",
        "CREATE INDEX outbox_due ON outbox (queue, due_at_ms) WHERE state IN ('pending', 'sending')",
        "DROP INDEX outbox_waiting",
        "CREATE INDEX outbox_waiting ON outbox (queue, order_id, occurred_at_ms, seq)
            WHERE state IN ('pending', 'sending')",
    ],
};

const STALLS: Migration = Migration {
    version: 3,
    statements: &[
        // When a delivery of a queue last spent itself on a gateway that took nothing, for all instances together.
        "CREATE TABLE outbox_stalls (queue TEXT PRIMARY KEY, at_ms INTEGER NOT NULL)",
    ],
};

const COUNTS: Migration = Migration {
    version: 4,
    statements: &[
        // Operators count and list what is not sent, which is little beside what is: the table only grows. An INSERT pays
        // for one entry more, at an end of the index.
        "CREATE INDEX outbox_unsent ON outbox (queue, state, seq) WHERE state <> 'sent'",
        "DROP INDEX outbox_dead",
        // What is sent is counted when it becomes that, and not at each look.
        "CREATE TABLE outbox_sent (queue TEXT PRIMARY KEY, sent INTEGER NOT NULL)",
        "INSERT INTO outbox_sent (queue, sent) SELECT queue, count(*) FROM outbox WHERE state = 'sent' GROUP BY queue",
        "CREATE TRIGGER outbox_counts_sent AFTER UPDATE OF state ON outbox
            WHEN NEW.state = 'sent' AND OLD.state <> 'sent'
        BEGIN
            INSERT INTO outbox_sent (queue, sent) VALUES (NEW.queue, 1) ON CONFLICT (queue) DO UPDATE SET sent = sent + 1;
        END",
        "CREATE TRIGGER outbox_counts_removed AFTER DELETE ON outbox WHEN OLD.state = 'sent'
        BEGIN
            UPDATE outbox_sent SET sent = sent - 1 WHERE queue = OLD.queue;
        END",
    ],
};

/// The queue of what people are told.
pub const MESSAGES: &str = "messages";

/// What is to be carried, as it is stored: a message, or whatever else the queue's courier carries.
pub struct NewRow<'a> {
    /// The same for every repetition, and never another's.
    pub id: &'a str,
    /// The event that it comes of.
    pub event_id: &'a str,
    /// Rows of one order go out one after the other.
    pub order_id: &'a str,
    /// What it is, as a key.
    pub scenario: &'a str,
    /// Its Chinese name, for the log.
    pub label: &'a str,
    /// `patient:98`.
    pub recipient: String,
    /// `98`; `None` for an audience.
    pub recipient_id: Option<&'a str>,
    /// How it goes.
    pub channel: &'a str,
    /// When it happened, Unix ms: an order's rows go out in this order.
    pub occurred_at_ms: i64,
    /// What the courier is given.
    pub body: String,
}

/// Adds the rows whose ids are not there, all or none.
///
/// Of all batches this is the one with large texts, and it is measured: as values they cost a third less than as JSON,
/// and without `RETURNING`, as each row that a statement returns costs the guest more than one that it adds.
pub(super) async fn insert(
    db: &Db,
    (function, queue): (&str, &str),
    rows: Vec<NewRow<'_>>,
    now_ms: i64,
) -> Result<(), DbError> {
    // Behind a message that waits for its next attempt, one of the same order waits as long: what is due and
    // blocked would be looked at by every delivery.
    const HEAD: &str = "INSERT INTO outbox (id, function, event_id, order_id, scenario, label, recipient, recipient_id,
            channel, occurred_at_ms, body, state, created_at_ms, queue, due_at_ms)
        SELECT column1, $1, column2, column3, column4, column5, column6, column7, column8, column9, column10,
            'pending', $2, $3, max($2, coalesce((SELECT max(w.due_at_ms) FROM outbox AS w
                WHERE w.queue = $3 AND w.order_id = column3 AND w.state = 'pending'
                AND w.occurred_at_ms <= column9), 0))
        FROM (VALUES ";
    const TAIL: &str = ") WHERE true ON CONFLICT (id) DO NOTHING";
    // Without names: SQLite looks each name up among all that came before.
    const ROW: &str = "(?,?,?,?,?,?,?,?,?,?)";
    const NEXT_ROW: &str = ",(?,?,?,?,?,?,?,?,?,?)";
    const COLUMNS: usize = 10;
    let mut sql = String::with_capacity(HEAD.len() + TAIL.len() + rows.len() * NEXT_ROW.len());
    sql.push_str(HEAD);
    let mut values: Vec<Value> = Vec::with_capacity(3 + rows.len() * COLUMNS);
    values.extend([function.into(), now_ms.into(), queue.into()]);
    for row in rows {
        sql.push_str(if values.len() == 3 { ROW } else { NEXT_ROW });
        let texts = [row.id, row.event_id, row.order_id, row.scenario, row.label];
        values.extend(texts.map(Value::from));
        values.extend([row.recipient.into(), row.recipient_id.into(), row.channel.into()]);
        values.extend([row.occurred_at_ms.into(), row.body.into()]);
    }
    sql.push_str(TAIL);
    db.execute(&sql, values).await
}

/// A row that is ours until `leased_until_ms`.
#[derive(Clone, Debug)]
pub(super) struct Leased {
    pub(super) seq: i64,
    pub(super) id: String,
    pub(super) order_id: String,
    pub(super) label: String,
    pub(super) recipient: String,
    pub(super) recipient_id: Option<String>,
    pub(super) body: String,
    pub(super) attempts: i64,
    pub(super) tried_since_ms: i64,
    pub(super) leased_until_ms: i64,
}

/// Which rows a delivery may take.
#[derive(Clone, Copy, Debug)]
pub enum Whose<'a> {
    /// Those with these message ids.
    These(&'a [String]),
    /// Any that are due.
    Any,
}

/// What a lease is asked for.
pub(super) struct LeaseRequest<'a> {
    pub(super) whose: Whose<'a>,
    pub(super) queue: &'a str,
    /// Unique to this delivery: only its holder settles a failure.
    pub(super) token: &'a str,
    pub(super) now_ms: i64,
    pub(super) until_ms: i64,
    pub(super) rows: usize,
    /// None that was tried before.
    pub(super) new_alone: bool,
}

/// Takes rows that are due: the first of each order, as the later ones wait for it.
pub(super) async fn lease(db: &Db, request: &LeaseRequest<'_>) -> Result<Vec<Leased>, DbError> {
    const TAKE: &str = "UPDATE outbox SET state = 'sending', due_at_ms = $1, lease = $2, attempts = attempts + 1,
            tried_since_ms = coalesce(tried_since_ms, $3)
        WHERE seq IN (SELECT o.seq FROM outbox AS o
            WHERE o.state IN ('pending', 'sending')";
    const DUE: &str = " AND o.due_at_ms <= $3 AND o.queue = $4";
    // By their ids, and not by looking at all that is due.
    const THESE: &str = " AND +o.due_at_ms <= $3 AND +o.queue = $4 AND o.id IN (SELECT value FROM json_each($5))";
    const NEW: &str = " AND o.attempts = 0";
    const FIRST: &str = " AND NOT EXISTS (SELECT 1 FROM outbox AS w
                WHERE w.queue = o.queue AND w.order_id = o.order_id AND w.state IN ('pending', 'sending')
                AND (w.occurred_at_ms, w.seq) < (o.occurred_at_ms, o.seq))
            ORDER BY o.due_at_ms, o.seq LIMIT ";
    const GIVE: &str = ") RETURNING seq, id, order_id, label, recipient, recipient_id, body, attempts, tried_since_ms";
    let mut values: Vec<Value> =
        vec![request.until_ms.into(), request.token.into(), request.now_ms.into(), request.queue.into()];
    let (these, limit) = match request.whose {
        Whose::These(ids) => {
            values.push(json(&ids)?.into());
            (THESE, "$6")
        }
        Whose::Any => (DUE, "$5"),
    };
    let new = if request.new_alone { NEW } else { "" };
    values.push(i64::try_from(request.rows).unwrap_or(i64::MAX).into());
    let rows = db.query(&[TAKE, these, new, FIRST, limit, GIVE].concat(), values).await?;
    let mut rows: Vec<Leased> = rows.iter().map(|row| leased(row, request.until_ms)).collect::<Result<_, _>>()?;
    // `RETURNING` promises no order.
    rows.sort_unstable_by_key(|row| row.seq);
    Ok(rows)
}

fn leased(row: &Row, leased_until_ms: i64) -> Result<Leased, DbError> {
    let text = |column| row.text(column).map(str::to_owned);
    Ok(Leased {
        seq: row.integer(0)?,
        id: text(1)?,
        order_id: text(2)?,
        label: text(3)?,
        recipient: text(4)?,
        recipient_id: row.optional_text(5)?.map(str::to_owned),
        body: text(6)?,
        attempts: row.integer(7)?,
        tried_since_ms: row.integer(8)?,
        leased_until_ms,
    })
}

/// What became of an attempt.
#[derive(Serialize)]
pub(super) struct Outcome {
    pub(super) id: String,
    pub(super) order_id: String,
    /// The row's next state.
    pub(super) state: &'static str,
    pub(super) due_at_ms: i64,
    /// The line for `attempt_log`, with its end.
    pub(super) line: String,
}

/// Settles attempts, all in one statement.
///
/// A failure is settled by the lease's holder alone. A success counts whoever holds the row by now: the gateway
/// has the message.
pub(super) async fn settle(db: &Db, outcomes: &[Outcome], token: &str, now_ms: i64) -> Result<(), DbError> {
    const SQL: &str = "UPDATE outbox SET state = r.state, due_at_ms = r.due_at_ms, lease = NULL,
            attempt_log = attempt_log || r.line,
            settled_at_ms = CASE WHEN r.state IN ('sent', 'logged') THEN $1 END
        FROM (SELECT value ->> 'id' AS id, value ->> 'state' AS state, value ->> 'due_at_ms' AS due_at_ms,
                value ->> 'line' AS line
            FROM json_each($2)) AS r
        WHERE outbox.id = r.id
            AND (outbox.lease = $3 OR (r.state = 'sent' AND outbox.state <> 'sent'))";
    db.execute(SQL, [now_ms.into(), json(&outcomes)?.into(), token.into()]).await
}

/// Lets what waits behind these rows wait until the given times: nobody needs to look at it before. A row whose
/// failure did not count holds nothing back.
pub(super) async fn hold_back(db: &Db, queue: &str, retried: &[&Outcome]) -> Result<(), DbError> {
    const SQL: &str = "UPDATE outbox SET due_at_ms = r.due_at_ms
        FROM (SELECT b.order_id, b.occurred_at_ms, b.seq, value ->> 'due_at_ms' AS due_at_ms
            FROM json_each($1) JOIN outbox AS b ON b.id = value ->> 'id'
            WHERE b.state = 'pending' AND b.due_at_ms = value ->> 'due_at_ms') AS r
        WHERE outbox.queue = $2 AND outbox.order_id = r.order_id AND outbox.state = 'pending'
            AND outbox.due_at_ms < r.due_at_ms
            AND (outbox.occurred_at_ms, outbox.seq) > (r.occurred_at_ms, r.seq)";
    db.execute(SQL, [json(&retried)?.into(), queue.into()]).await
}

/// Makes due what was held back behind rows that wait no more, also what had failed before: the gateway is there.
pub(super) async fn let_go(db: &Db, queue: &str, ids: &[String], now_ms: i64) -> Result<(), DbError> {
    const SQL: &str = "UPDATE outbox SET due_at_ms = $1
        FROM (SELECT b.order_id, b.occurred_at_ms, b.seq
            FROM json_each($2) JOIN outbox AS b ON b.id = value) AS r
        WHERE outbox.queue = $3 AND outbox.order_id = r.order_id AND outbox.state = 'pending'
            AND outbox.due_at_ms > $1
            AND (outbox.occurred_at_ms, outbox.seq) > (r.occurred_at_ms, r.seq)";
    db.execute(SQL, [now_ms.into(), json(&ids)?.into(), queue.into()]).await
}

/// Gives back rows that were leased and not tried. They were due, and are again at the place of their age, not behind
/// all others; the first attempt is still to come, and so is the day of trying.
pub(super) async fn give_back(db: &Db, ids: &[&str], token: &str) -> Result<(), DbError> {
    const SQL: &str = "UPDATE outbox SET state = 'pending', due_at_ms = created_at_ms, lease = NULL,
            attempts = attempts - 1, tried_since_ms = CASE WHEN attempts > 1 THEN tried_since_ms END
        WHERE lease = $1 AND state = 'sending' AND id IN (SELECT value FROM json_each($2))";
    db.execute(SQL, [token.into(), json(&ids)?.into()]).await
}

/// How many rows of a queue still wait.
pub(super) async fn pending(db: &Db, queue: &str) -> Result<u64, DbError> {
    const SQL: &str = "SELECT count(*) FROM outbox WHERE state IN ('pending', 'sending') AND queue = $1";
    let row = db.query_one(SQL, [queue.into()]).await?.ok_or(DbError::Column(0))?;
    Ok(row.integer(0)?.unsigned_abs())
}

/// Removes the bodies of rows settled before `before_ms`, at most `rows` of them, and returns of how many. Their ids
/// stay, so that an old replay still sends nothing.
pub(super) async fn forget_bodies(db: &Db, before_ms: i64, rows: i64) -> Result<u64, DbError> {
    const SQL: &str = "UPDATE outbox SET body = NULL, attempt_log = ''
        WHERE seq IN (SELECT seq FROM outbox
            WHERE settled_at_ms IS NOT NULL AND body IS NOT NULL AND settled_at_ms < $1
            ORDER BY settled_at_ms LIMIT $2)
        RETURNING 1";
    Ok(db.query(SQL, [before_ms.into(), rows.into()]).await?.len() as u64)
}

/// Whether it is time to say `what` again; if so, it counts as said.
pub(super) async fn may_say(db: &Db, what: &str, now_ms: i64, every_ms: i64) -> Result<bool, DbError> {
    const SQL: &str = "INSERT INTO outbox_alarms (what, said_at_ms) VALUES ($1, $2)
        ON CONFLICT (what) DO UPDATE SET said_at_ms = $2 WHERE said_at_ms <= $2 - $3
        RETURNING 1";
    Ok(!db.query(SQL, [what.into(), now_ms.into(), every_ms.into()]).await?.is_empty())
}

/// Keeps when a delivery spent itself on a gateway that took nothing.
pub(super) async fn note_stall(db: &Db, queue: &str, now_ms: i64) -> Result<(), DbError> {
    const SQL: &str = "INSERT INTO outbox_stalls (queue, at_ms) VALUES ($1, $2)
        ON CONFLICT (queue) DO UPDATE SET at_ms = $2";
    db.execute(SQL, [queue.into(), now_ms.into()]).await
}

/// Whether a delivery did so since then, and nothing was sent after it.
pub(super) async fn has_stalled(db: &Db, queue: &str, since_ms: i64) -> Result<bool, DbError> {
    const SQL: &str = "SELECT 1 FROM outbox_stalls AS s WHERE s.queue = $1 AND s.at_ms > $2
            AND NOT EXISTS (SELECT 1 FROM outbox AS o WHERE o.settled_at_ms IS NOT NULL AND o.body IS NOT NULL
                AND o.settled_at_ms >= s.at_ms AND o.queue = s.queue)";
    Ok(!db.query(SQL, [queue.into(), since_ms.into()]).await?.is_empty())
}

/// A batch as one value.
fn json(value: &impl Serialize) -> Result<String, DbError> {
    serde_json::to_string(value).map_err(|error| DbError::Other(format!("a batch cannot be written: {error}")))
}
