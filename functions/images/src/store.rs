//! This function's SQL: rule sets with their history, reports of unlawful images, and the keys of all of them in one
//! piece, with filters of them and of their hosts: an instance reads what of these is large when a body needs it.
//!
//! The piece may lag behind: reports after `through_seq` are read one by one, and one that was taken back leaves it
//! marked as `dirty`, until somebody has made it anew. Whoever makes it names the generation that it follows, so that
//! an older view never replaces a newer one.

use serde::Serialize;
use shared::{
    clock,
    db::{Db, DbError, Migration, Row, Select, Value},
};

use crate::{
    unlawful::{Bloom, Keys, LISTED_MAX, sorted},
    violation::Report,
};

/// The function's tables.
pub(crate) const MIGRATIONS: &[Migration] = &[
    Migration {
        version: 1,
        statements: &[
            // Sets are only ever added; the one with the highest version holds.
            "CREATE TABLE images_rules (
            version INTEGER PRIMARY KEY,
            text TEXT NOT NULL,
            stored_at_ms INTEGER NOT NULL
        )",
            // `seq` is never given out twice: what is newer than a piece is known by it.
            "CREATE TABLE images_violations (
            seq INTEGER PRIMARY KEY AUTOINCREMENT,
            id TEXT NOT NULL UNIQUE,
            url TEXT NOT NULL,
            doctor_id TEXT NOT NULL,
            patient_id TEXT NOT NULL,
            order_no TEXT NOT NULL,
            channel TEXT NOT NULL,
            reason TEXT NOT NULL,
            image TEXT NOT NULL,
            keys TEXT NOT NULL,
            hosts TEXT NOT NULL,
            reported_at_ms INTEGER NOT NULL
        )",
            "CREATE INDEX images_violations_image ON images_violations (image)",
            "CREATE INDEX images_violations_doctor ON images_violations (doctor_id, seq) WHERE doctor_id <> ''",
            "CREATE INDEX images_violations_order ON images_violations (order_no, seq) WHERE order_no <> ''",
            // `dirty_at_ms`: since when it holds what is no more; 0 if it does not.
            "CREATE TABLE images_unlawful (
            id INTEGER PRIMARY KEY CHECK (id = 1),
            generation INTEGER NOT NULL,
            through_seq INTEGER NOT NULL,
            rules_version INTEGER NOT NULL,
            dirty_at_ms INTEGER NOT NULL,
            keys BLOB NOT NULL,
            hosts TEXT NOT NULL
        )",
            "INSERT INTO images_unlawful VALUES (1, 0, 0, 0, 0, x'', '')",
        ],
    },
    Migration {
        version: 2,
        statements: &[
            // Whoever gathers may have read a report before it was taken back, and write before or after that: with the
            // report itself goes that the piece holds it, and that any older view of the reports is one.
            "CREATE TRIGGER images_violations_taken_back AFTER DELETE ON images_violations BEGIN
            UPDATE images_unlawful
            SET generation = generation + 1, dirty_at_ms = CASE dirty_at_ms WHEN 0 THEN 1 ELSE dirty_at_ms END
            WHERE id = 1;
        END",
        ],
    },
    Migration {
        version: 3,
        statements: &[
            // Keys are made otherwise: those that there are count as made by no rules yet, and are made anew.
            "UPDATE images_unlawful SET rules_version = -1 WHERE EXISTS (SELECT 1 FROM images_violations)",
        ],
    },
    Migration {
        version: 4,
        statements: &[
            // An image is asked for by all its keys.
            "DROP INDEX images_violations_image",
        ],
    },
    Migration {
        version: 5,
        statements: &[
            "ALTER TABLE images_unlawful ADD COLUMN filter BLOB NOT NULL DEFAULT x''",
            // What most bodies need, on its own: in a row, what stands behind the keys is reached by way of all of them.
            // An earlier release gathers without a filter: then there is none of that generation.
            "CREATE TABLE images_unlawful_filter (
            id INTEGER PRIMARY KEY CHECK (id = 1),
            generation INTEGER NOT NULL,
            hosts TEXT NOT NULL,
            filter BLOB NOT NULL
        )",
            "CREATE TRIGGER images_unlawful_filtered AFTER UPDATE OF filter ON images_unlawful BEGIN
            INSERT OR REPLACE INTO images_unlawful_filter VALUES (1, NEW.generation, NEW.hosts, NEW.filter);
        END",
            // Of no keys.
            "INSERT INTO images_unlawful_filter
            SELECT 1, generation, hosts, zeroblob(2048) FROM images_unlawful WHERE keys = x''",
            // They are gathered anew, with a filter.
            "UPDATE images_unlawful SET dirty_at_ms = 1 WHERE dirty_at_ms = 0 AND keys <> x''",
        ],
    },
    Migration {
        version: 6,
        statements: &[
            // Keys and filters are made otherwise. By which rules they were made is still known.
            "UPDATE images_unlawful SET generation = generation + 1, rules_version = -1 - rules_version
            WHERE rules_version >= 0 AND EXISTS (SELECT 1 FROM images_violations)",
            // What an earlier release writes, beside this one or after a rollback, is to be made anew, too: it alone writes
            // `filter`, and `image`.
            "DROP TRIGGER images_unlawful_filtered",
            "ALTER TABLE images_unlawful ADD COLUMN bloom BLOB NOT NULL DEFAULT x''",
            "CREATE TRIGGER images_unlawful_bloomed AFTER UPDATE OF bloom ON images_unlawful BEGIN
            INSERT OR REPLACE INTO images_unlawful_filter VALUES (1, NEW.generation, NEW.hosts, NEW.bloom);
        END",
            "CREATE TRIGGER images_unlawful_by_earlier AFTER UPDATE OF filter ON images_unlawful BEGIN
            UPDATE images_unlawful SET rules_version = -1 - rules_version WHERE id = 1 AND rules_version >= 0;
        END",
            "CREATE TRIGGER images_violations_by_earlier AFTER INSERT ON images_violations WHEN NEW.image <> '' BEGIN
            UPDATE images_unlawful SET rules_version = -1 - rules_version WHERE id = 1 AND rules_version >= 0;
        END",
        ],
    },
    Migration {
        version: 7,
        statements: &[
            // Of hosts that are too many for a list it has none, but a filter.
            "ALTER TABLE images_unlawful ADD COLUMN listed TEXT",
            "ALTER TABLE images_unlawful ADD COLUMN host_filter BLOB NOT NULL DEFAULT x''",
            "ALTER TABLE images_unlawful ADD COLUMN path_filter BLOB NOT NULL DEFAULT x''",
            // Instead of `images_unlawful_filter`, which lists all hosts, however many. That one stays for an earlier
            // release: beside this one it finds none of its generation there, and reads everything.
            "CREATE TABLE images_unlawful_filters (
            id INTEGER PRIMARY KEY CHECK (id = 1),
            generation INTEGER NOT NULL,
            listed TEXT,
            hosts BLOB NOT NULL,
            paths BLOB NOT NULL
        )",
            "INSERT INTO images_unlawful_filters
            SELECT 1, generation, '', x'', zeroblob(2048) FROM images_unlawful WHERE keys = x''",
            // How often an earlier release made keys, and how many of these times they were made anew since: images
            // whose paths have letters have more of them now. Such a release does not see it, and makes nothing anew.
            // On its own: it is read often, and what stands behind the keys in a row is reached by way of all of them.
            "CREATE TABLE images_unlawful_others (
            id INTEGER PRIMARY KEY CHECK (id = 1),
            made INTEGER NOT NULL,
            done INTEGER NOT NULL
        )",
            "INSERT INTO images_unlawful_others VALUES (1, EXISTS (SELECT 1 FROM images_violations), 0)",
            "ALTER TABLE images_unlawful ADD COLUMN others_done INTEGER NOT NULL DEFAULT 0",
            "CREATE TRIGGER images_unlawful_filters_made AFTER UPDATE OF path_filter ON images_unlawful BEGIN
            INSERT OR REPLACE INTO images_unlawful_filters
            VALUES (1, NEW.generation, NEW.listed, NEW.host_filter, NEW.path_filter);
            UPDATE images_unlawful_others SET done = max(done, NEW.others_done) WHERE id = 1;
        END",
            // It alone writes `bloom`, and reports without this.
            "ALTER TABLE images_violations ADD COLUMN made_by INTEGER NOT NULL DEFAULT 0",
            "CREATE TRIGGER images_unlawful_by_others AFTER UPDATE OF bloom ON images_unlawful BEGIN
            UPDATE images_unlawful_others SET made = made + 1 WHERE id = 1;
        END",
            "CREATE TRIGGER images_violations_by_others AFTER INSERT ON images_violations WHEN NEW.made_by = 0 BEGIN
            UPDATE images_unlawful_others SET made = made + 1 WHERE id = 1;
        END",
        ],
    },
];

/// Where everything stands: whether it has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    /// 0 for the set that is compiled in.
    pub(crate) rules_version: i64,
    /// Of the newest report.
    pub(crate) seq: i64,
    pub(crate) generation: i64,
    pub(crate) through_seq: i64,
    /// The rules by which the piece's keys were made; of those that are to be made anew, so many below -1.
    pub(crate) keys_version: i64,
    pub(crate) dirty_at_ms: i64,
    /// How often another release has made keys, and how many of these times they were made anew.
    pub(crate) others: i64,
    pub(crate) others_done: i64,
}

impl Mark {
    /// Whether another release made keys.
    pub(crate) fn has_other_keys(&self) -> bool {
        self.keys_version < 0 || self.others > self.others_done
    }

    /// The rules by which the piece's keys were made, whoever made them.
    pub(crate) fn keys_made_by(&self) -> i64 {
        if self.keys_version < 0 { -1 - self.keys_version } else { self.keys_version }
    }
}

/// A [`Mark`]'s columns.
const MARK: &str = "(SELECT coalesce(max(version), 0) FROM images_rules),
    (SELECT coalesce(max(seq), 0) FROM images_violations),
    u.generation, u.through_seq, u.rules_version, u.dirty_at_ms,
    (SELECT made FROM images_unlawful_others), (SELECT done FROM images_unlawful_others)";
/// How many they are.
const MARK_COLUMNS: usize = 8;

fn read_mark(row: &Row) -> Result<Mark, DbError> {
    Ok(Mark {
        rules_version: row.integer(0)?,
        seq: row.integer(1)?,
        generation: row.integer(2)?,
        through_seq: row.integer(3)?,
        keys_version: row.integer(4)?,
        dirty_at_ms: row.integer(5)?,
        others: row.integer(6)?,
        others_done: row.integer(7)?,
    })
}

pub(crate) async fn mark(db: &Db) -> Result<Mark, DbError> {
    let sql = format!("SELECT {MARK} FROM images_unlawful AS u WHERE u.id = 1");
    read_mark(&db.query_one(&sql, []).await?.ok_or(DbError::Column(0))?)
}

/// Where everything stands, and what of that is new.
pub(crate) struct News {
    pub(crate) mark: Mark,
    /// `None` also for the set that is compiled in.
    pub(crate) rules: Option<RuleSet>,
    /// The hosts of the gathered reports, where filters were made with them.
    pub(crate) hosts: Option<Hosts>,
    /// The filter of these hosts, if they are many, where filters are wanted.
    pub(crate) host_filter: Option<Bloom>,
    /// The filter of the reports' keys, where filters are wanted or it is small.
    pub(crate) path_filter: Option<Bloom>,
}

/// The hosts of the gathered reports.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Hosts {
    Listed(Vec<String>),
    /// So many that there is a filter of them.
    Many,
}

/// A filter of so many bytes, of about 1,500 images, costs less to bring along than to ask for.
const SMALL_MAX_BYTES: usize = 4_096;

/// What is new to one who knows all that was there at a mark: one query, also for one who knows nothing, and a small one
/// if no filters are wanted.
pub(crate) async fn news(db: &Db, since: Option<&Mark>, wants_filters: bool) -> Result<News, DbError> {
    let sql = format!(
        "SELECT {MARK}, r.text, r.stored_at_ms, f.generation, f.listed,
            CASE WHEN $1 AND f.listed IS NULL THEN f.hosts END,
            CASE WHEN $1 OR length(f.paths) <= {SMALL_MAX_BYTES} THEN f.paths END
        FROM images_unlawful AS u
        LEFT JOIN images_rules AS r ON r.version = (SELECT max(version) FROM images_rules) AND r.version <> $2
        LEFT JOIN images_unlawful_filters AS f ON f.generation = u.generation AND f.generation <> $3
        WHERE u.id = 1"
    );
    let (version, generation) = since.map_or((-1, -1), |mark| (mark.rules_version, mark.generation));
    let values = [i64::from(wants_filters).into(), version.into(), generation.into()];
    let mut row = db.query_one(&sql, values).await?.ok_or(DbError::Column(0))?;
    let mark = read_mark(&row)?;
    let rules = match (row.optional_text(MARK_COLUMNS)?, row.optional_integer(MARK_COLUMNS + 1)?) {
        (Some(text), Some(stored_at_ms)) => {
            Some(RuleSet { version: mark.rules_version, text: text.to_owned(), stored_at_ms })
        }
        _ => None,
    };
    let listed = row.optional_text(MARK_COLUMNS + 3)?;
    let hosts = row
        .optional_integer(MARK_COLUMNS + 2)?
        .map(|_| listed.map_or(Hosts::Many, |listed| Hosts::Listed(names(listed))));
    let host_filter = row.take_blob(MARK_COLUMNS + 4)?.map(Bloom::from_bytes);
    let path_filter = row.take_blob(MARK_COLUMNS + 5)?.map(Bloom::from_bytes);
    Ok(News { mark, rules, hosts, host_filter, path_filter })
}

/// A kept rule set.
#[derive(Debug)]
pub(crate) struct RuleSet {
    pub(crate) version: i64,
    pub(crate) text: String,
    pub(crate) stored_at_ms: i64,
}

fn rule_set(row: &Row) -> Result<RuleSet, DbError> {
    Ok(RuleSet { version: row.integer(0)?, text: row.text(1)?.to_owned(), stored_at_ms: row.integer(2)? })
}

/// The set with this version.
pub(crate) async fn rules(db: &Db, version: i64) -> Result<Option<RuleSet>, DbError> {
    const SQL: &str = "SELECT version, text, stored_at_ms FROM images_rules WHERE version = $1";
    db.query_one(SQL, [version.into()]).await?.as_ref().map(rule_set).transpose()
}

/// The newest sets first, at most `limit`, older than `cursor`.
pub(crate) async fn rules_history(db: &Db, cursor: Option<i64>, limit: usize) -> Result<Vec<RuleSet>, DbError> {
    const SQL: &str = "SELECT version, text, stored_at_ms FROM images_rules WHERE version < $1
        ORDER BY version DESC LIMIT $2";
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    db.query(SQL, [cursor.unwrap_or(i64::MAX).into(), limit.into()]).await?.iter().map(rule_set).collect()
}

/// Keeps a set, which holds from then on; `false` if its version is not the newest.
pub(crate) async fn keep_rules(db: &Db, version: i64, text: &str, now_ms: i64) -> Result<bool, DbError> {
    const SQL: &str = "INSERT INTO images_rules (version, text, stored_at_ms)
        SELECT $1, $2, $3 WHERE $1 > (SELECT coalesce(max(version), 0) FROM images_rules)
        ON CONFLICT (version) DO NOTHING RETURNING 1";
    Ok(!db.query(SQL, [version.into(), text.into(), now_ms.into()]).await?.is_empty())
}

/// Keys as a text that SQL can join: 16 digits each.
fn hexadecimal(keys: &Keys) -> String {
    keys.all().map(|key| format!("{key:016x}")).collect()
}

fn keys(text: &str) -> Vec<u64> {
    let digits = text.as_bytes().chunks_exact(16).filter_map(|digits| std::str::from_utf8(digits).ok());
    digits.filter_map(|digits| u64::from_str_radix(digits, 16).ok()).collect()
}

fn names(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

/// The hosts of the gathered reports, by way of their keys.
pub(crate) async fn hosts(db: &Db) -> Result<Vec<String>, DbError> {
    let row = db.query_one("SELECT hosts FROM images_unlawful WHERE id = 1", []).await?;
    Ok(names(row.ok_or(DbError::Column(0))?.text(0)?))
}

/// The filter of the gathered reports' hosts, if one was made with them.
pub(crate) async fn host_filter(db: &Db, generation: i64) -> Result<Option<Bloom>, DbError> {
    filter(db, "SELECT hosts FROM images_unlawful_filters WHERE generation = $1 AND listed IS NULL", generation).await
}

/// The filter of the gathered reports' keys, if it was made with them.
pub(crate) async fn path_filter(db: &Db, generation: i64) -> Result<Option<Bloom>, DbError> {
    filter(db, "SELECT paths FROM images_unlawful_filters WHERE generation = $1", generation).await
}

async fn filter(db: &Db, sql: &str, generation: i64) -> Result<Option<Bloom>, DbError> {
    let Some(mut row) = db.query_one(sql, [generation.into()]).await? else { return Ok(None) };
    Ok(row.take_blob(0)?.map(Bloom::from_bytes))
}

/// The gathered reports' keys, sorted.
pub(crate) async fn gathered_keys(db: &Db) -> Result<Vec<u8>, DbError> {
    let row = db.query_one("SELECT keys FROM images_unlawful WHERE id = 1", []).await?;
    row.ok_or(DbError::Column(0))?.take_blob(0)?.ok_or(DbError::Column(0))
}

/// The keys of the reports after `seq`, each report's all in one.
pub(crate) async fn reported_since(db: &Db, seq: i64) -> Result<Vec<Keys>, DbError> {
    const SQL: &str = "SELECT keys, hosts FROM images_violations WHERE seq > $1";
    let rows = db.query(SQL, [seq.into()]).await?;
    rows.iter()
        .map(|row| Ok(Keys { images: keys(row.text(0)?), beginnings: Vec::new(), hosts: names(row.text(1)?) }))
        .collect()
}

/// By what a piece's keys were made.
#[derive(Clone, Copy)]
pub(crate) struct MadeBy {
    pub(crate) rules_version: i64,
    /// After so many times that another release has made some.
    pub(crate) others: i64,
}

impl From<&Mark> for MadeBy {
    /// As those that there are.
    fn from(mark: &Mark) -> Self {
        Self { rules_version: mark.keys_version, others: mark.others_done }
    }
}

/// Makes the piece anew after `generation`; `false` if somebody else did, or a report was taken back meanwhile.
pub(crate) async fn gather(db: &Db, generation: i64, made_by: MadeBy) -> Result<bool, DbError> {
    let gathered = gathered(db).await?;
    replace(db, gathered, generation, made_by).await
}

/// What the reports' piece is to be.
struct Gathered {
    through_seq: i64,
    sorted: Vec<u8>,
    hosts: Vec<String>,
}

async fn gathered(db: &Db) -> Result<Gathered, DbError> {
    const READ: &str = "SELECT coalesce(max(seq), 0), coalesce(group_concat(keys, ''), ''),
            coalesce((SELECT group_concat(hosts, ' ') FROM (SELECT DISTINCT hosts FROM images_violations)), '')
        FROM images_violations";
    let row = db.query_one(READ, []).await?.ok_or(DbError::Column(0))?;
    let mut hosts = names(row.text(2)?);
    hosts.sort_unstable();
    hosts.dedup();
    Ok(Gathered { through_seq: row.integer(0)?, sorted: sorted(keys(row.text(1)?)), hosts })
}

async fn replace(db: &Db, gathered: Gathered, generation: i64, made_by: MadeBy) -> Result<bool, DbError> {
    const WRITE: &str = "UPDATE images_unlawful
        SET generation = generation + 1, through_seq = $1, rules_version = $2, dirty_at_ms = 0, keys = $3, hosts = $4,
            listed = $5, host_filter = $6, path_filter = $7, others_done = $8
        WHERE id = 1 AND generation = $9 RETURNING 1";
    let hosts = gathered.hosts.join(" ");
    let (listed, host_filter) = match gathered.hosts.len() {
        0..=LISTED_MAX => (Some(hosts.clone()), Vec::new()),
        _ => (None, Bloom::of_hosts(&gathered.hosts).into_bytes()),
    };
    let path_filter = Bloom::of(&gathered.sorted).into_bytes();
    let values: [Value; 9] = [
        gathered.through_seq.into(),
        made_by.rules_version.into(),
        gathered.sorted.into(),
        hosts.into(),
        listed.into(),
        host_filter.into(),
        path_filter.into(),
        made_by.others.into(),
        generation.into(),
    ];
    Ok(!db.query(WRITE, values).await?.is_empty())
}

/// Where a report's image is.
pub(crate) struct Address {
    pub(crate) seq: i64,
    pub(crate) url: String,
    /// Its hosts by the rules so far.
    pub(crate) hosts: Vec<String>,
}

/// The addresses of reports after `seq`, at most `limit`, to make their keys anew.
pub(crate) async fn addresses(db: &Db, seq: i64, limit: i64) -> Result<Vec<Address>, DbError> {
    const SQL: &str = "SELECT seq, url, hosts FROM images_violations WHERE seq > $1 ORDER BY seq LIMIT $2";
    let rows = db.query(SQL, [seq.into(), limit.into()]).await?;
    let address =
        |row: &Row| Ok(Address { seq: row.integer(0)?, url: row.text(1)?.to_owned(), hosts: names(row.text(2)?) });
    rows.iter().map(address).collect()
}

/// Writes keys that were made anew.
pub(crate) async fn rekey(db: &Db, of: &[(i64, Keys)]) -> Result<(), DbError> {
    #[derive(Serialize)]
    struct Entry {
        seq: i64,
        keys: String,
        hosts: String,
    }
    const SQL: &str = "UPDATE images_violations
        SET keys = e.value ->> 'keys', hosts = e.value ->> 'hosts', image = ''
        FROM json_each($1) AS e
        WHERE images_violations.seq = e.value ->> 'seq' AND images_violations.keys <> e.value ->> 'keys'";
    let entry = |(seq, keys): &(i64, Keys)| Entry { seq: *seq, keys: hexadecimal(keys), hosts: keys.hosts.join(" ") };
    let entries: Vec<_> = of.iter().map(entry).collect();
    let entries = serde_json::to_string(&entries).map_err(|error| DbError::Other(error.to_string()))?;
    db.execute(SQL, [entries.into()]).await
}

/// Keeps a report; `false` if it is there already.
pub(crate) async fn report(db: &Db, report: &Report, keys: &Keys, now_ms: i64) -> Result<bool, DbError> {
    const SQL: &str = "INSERT INTO images_violations
            (id, url, doctor_id, patient_id, order_no, channel, reason, image, keys, hosts, reported_at_ms, made_by)
        VALUES ($1, $2, $3, $4, $5, $6, $7, '', $8, $9, $10, 1)
        ON CONFLICT (id) DO NOTHING RETURNING 1";
    let text = |text: &String| Value::from(text.as_str());
    let values = [
        text(&report.id),
        text(&report.url),
        text(&report.doctor_id),
        text(&report.patient_id),
        text(&report.order_no),
        text(&report.channel),
        text(&report.reason),
        hexadecimal(keys).into(),
        keys.hosts.join(" ").into(),
        now_ms.into(),
    ];
    Ok(!db.query(SQL, values).await?.is_empty())
}

/// A report in a list.
#[derive(Debug, Serialize)]
pub(crate) struct Entry {
    #[serde(flatten)]
    pub(crate) report: Report,
    pub(crate) reported_at: String,
    #[serde(skip)]
    pub(crate) seq: i64,
    #[serde(skip)]
    pub(crate) reported_at_ms: i64,
}

const COLUMNS: &str = "seq, id, url, doctor_id, patient_id, order_no, channel, reason, reported_at_ms";

fn entry(row: &Row) -> Result<Entry, DbError> {
    let text = |column| row.text(column).map(str::to_owned);
    let report = Report {
        id: text(1)?,
        url: text(2)?,
        doctor_id: text(3)?,
        patient_id: text(4)?,
        order_no: text(5)?,
        channel: text(6)?,
        reason: text(7)?,
    };
    let reported_at_ms = row.integer(8)?;
    Ok(Entry { report, reported_at: clock::rfc3339(reported_at_ms), seq: row.integer(0)?, reported_at_ms })
}

/// One report.
pub(crate) async fn violation(db: &Db, id: &str) -> Result<Option<Entry>, DbError> {
    let sql = format!("SELECT {COLUMNS} FROM images_violations WHERE id = $1");
    db.query_one(&sql, [id.into()]).await?.as_ref().map(entry).transpose()
}

/// Which reports are asked for.
#[derive(Default)]
pub(crate) struct Filter {
    pub(crate) doctor_id: Option<String>,
    pub(crate) patient_id: Option<String>,
    pub(crate) order_no: Option<String>,
    /// Of an image, by any of its keys.
    pub(crate) image: Option<Vec<u64>>,
    pub(crate) cursor: Option<i64>,
}

/// The newest first, at most `limit`.
pub(crate) async fn violations(db: &Db, filter: &Filter, limit: usize) -> Result<Vec<Entry>, DbError> {
    let select = Select::new(format!("SELECT {COLUMNS} FROM images_violations WHERE true"), [])
        .and("doctor_id =", filter.doctor_id.as_deref())
        .and("patient_id =", filter.patient_id.as_deref())
        .and("order_no =", filter.order_no.as_deref())
        .and("seq <", filter.cursor);
    let select = match &filter.image {
        Some(keys) => select.only(&shares_any(keys)),
        None => select,
    };
    select.newest(limit).rows(db).await?.iter().map(entry).collect()
}

/// Which reports are taken back.
pub(crate) enum Which<'a> {
    /// The one with this id.
    Id(&'a str),
    /// All of an image, by any of its keys.
    Image(&'a [u64]),
}

/// The condition that a report's image has one of these keys.
fn shares_any(keys: &[u64]) -> String {
    let keys: Vec<String> = keys.iter().map(|key| format!("\"{key:016x}\"")).collect();
    format!("EXISTS (SELECT 1 FROM json_each('[{}]') AS k WHERE instr(keys, k.value) > 0)", keys.join(","))
}

/// Takes reports back, and returns them.
///
/// The piece is marked first, by when; a mark that somebody has cleared in between is made again with the deletion.
pub(crate) async fn take_back(db: &Db, which: Which<'_>, now_ms: i64) -> Result<Vec<Report>, DbError> {
    const MARK: &str = "UPDATE images_unlawful SET dirty_at_ms = $1 WHERE id = 1 AND dirty_at_ms = 0";
    db.execute(MARK, [now_ms.into()]).await?;
    let (condition, values) = match which {
        Which::Id(id) => ("id = $1".to_owned(), vec![Value::from(id)]),
        Which::Image(keys) => (shares_any(keys), Vec::new()),
    };
    let sql = format!("DELETE FROM images_violations WHERE {condition} RETURNING {COLUMNS}");
    db.query(&sql, values).await?.iter().map(|row| Ok(entry(row)?.report)).collect()
}

#[cfg(test)]
mod tests {
    use shared::db::{migration::migrate, native::Native};

    use super::*;
    use crate::{
        rules::Rules,
        sign,
        unlawful::{Image, Unlawful, hash},
    };

    fn by(rules_version: i64) -> MadeBy {
        MadeBy { rules_version, others: 0 }
    }

    /// Two reports, gathered, and the first one's id.
    async fn reported() -> (Db, String) {
        let db = Native::in_memory();
        migrate(&db, "images", MIGRATIONS).await.unwrap();
        let rules = Rules::parse(Rules::DEFAULT.as_bytes(), &sign::Keys::default()).unwrap();
        let mut ids = Vec::new();
        for name in ["a", "b"] {
            let text = format!(r#"{{"url": "https://one.example.com/{name}.jpg", "reason": "x"}}"#);
            let (kept, image) = Report::parse(text.as_bytes(), &rules).unwrap();
            assert!(report(&db, &kept, &image.keys(&rules), 1_000).await.unwrap());
            ids.push(kept.id);
        }
        assert!(gather(&db, 0, by(0)).await.unwrap());
        (db, ids.swap_remove(0))
    }

    /// As an instance reads it that needs all of it.
    async fn known(db: &Db) -> Unlawful {
        let generation = mark(db).await.unwrap().generation;
        let unlawful = Unlawful::on(hosts(db).await.unwrap().iter().map(String::as_str));
        if let Some(filter) = path_filter(db, generation).await.unwrap() {
            unlawful.learn_filter(filter);
        }
        unlawful.learn_keys(gathered_keys(db).await.unwrap().into());
        unlawful
    }

    async fn holds(db: &Db, path: &str) -> bool {
        let unlawful = known(db).await;
        unlawful.holds(&[hash(b"one.example.com")], path.as_bytes(), b"", &mut Vec::new()).unwrap()
    }

    #[tokio::test]
    async fn a_report_that_is_taken_back_leaves_the_piece_however_a_gathering_runs_beside_it() {
        // Read before the deletion, written after it; then whoever took the report back is gone.
        let (db, id) = reported().await;
        let before = mark(&db).await.unwrap();
        let old = gathered(&db).await.unwrap();
        assert_eq!(take_back(&db, Which::Id(&id), 2_000).await.unwrap().len(), 1);
        assert!(!replace(&db, old, before.generation, by(0)).await.unwrap());
        let after = mark(&db).await.unwrap();
        assert!(after.dirty_at_ms > 0 && holds(&db, "/a.jpg").await);
        assert!(gather(&db, after.generation, by(0)).await.unwrap());
        assert!(!holds(&db, "/a.jpg").await && holds(&db, "/b.jpg").await);
        assert_eq!(mark(&db).await.unwrap().dirty_at_ms, 0);

        // Read and written between the mark and the deletion.
        let (db, id) = reported().await;
        db.execute("UPDATE images_unlawful SET dirty_at_ms = 2000 WHERE id = 1", []).await.unwrap();
        assert!(gather(&db, mark(&db).await.unwrap().generation, by(0)).await.unwrap());
        db.execute("DELETE FROM images_violations WHERE id = $1", [id.as_str().into()]).await.unwrap();
        let after = mark(&db).await.unwrap();
        assert!(after.dirty_at_ms > 0 && gather(&db, after.generation, by(0)).await.unwrap());
        assert!(!holds(&db, "/a.jpg").await);
    }

    #[tokio::test]
    async fn only_what_is_new_is_told() {
        let (db, _) = reported().await;
        let shown = async |since: Option<&Mark>| {
            let News { mark, rules, hosts, .. } = news(&db, since, false).await.unwrap();
            (mark, rules.map(|set| (set.version, set.text, set.stored_at_ms)), hosts.is_some())
        };
        let (first, rules, hosts) = shown(None).await;
        assert_eq!((first, rules, hosts), (mark(&db).await.unwrap(), None, true));
        assert_eq!(shown(Some(&first)).await, (first, None, false));
        assert!(keep_rules(&db, 7, "{}", 1_500).await.unwrap());
        let seven = Some((7, "{}".to_owned(), 1_500));
        let second = mark(&db).await.unwrap();
        assert_eq!(shown(Some(&first)).await, (second, seven.clone(), false));
        assert_eq!(shown(Some(&second)).await, (second, None, false));
        assert_eq!(shown(None).await, (second, seven, true));
        assert!(gather(&db, second.generation, by(7)).await.unwrap());
        assert_eq!(shown(Some(&second)).await, (mark(&db).await.unwrap(), None, true));
    }

    #[tokio::test]
    async fn a_filter_is_of_the_generation_that_it_was_made_for() {
        let (db, id) = reported().await;
        let generation = async || mark(&db).await.unwrap().generation;
        let of = |keys: &[u8]| Some(Bloom::of(keys));
        let keys = gathered_keys(&db).await.unwrap();
        assert_eq!(path_filter(&db, generation().await).await.unwrap(), of(&keys));
        let told = async || {
            let News { hosts, path_filter, .. } = news(&db, None, true).await.unwrap();
            assert_eq!(path_filter.is_some(), hosts.is_some());
            hosts
        };
        for wants_filters in [true, false] {
            let told = news(&db, None, wants_filters).await.unwrap();
            assert_eq!((told.host_filter, told.path_filter), (None, of(&keys)));
            assert_eq!(news(&db, Some(&told.mark), wants_filters).await.unwrap().path_filter, None);
        }
        assert_eq!(told().await, Some(Hosts::Listed(vec!["one.example.com".to_owned()])));
        // What was taken back leaves none, and what is gathered has one again.
        assert_eq!(take_back(&db, Which::Id(&id), 2_000).await.unwrap().len(), 1);
        assert_eq!((path_filter(&db, generation().await).await.unwrap(), told().await), (None, None));
        assert!(gather(&db, generation().await, by(0)).await.unwrap());
        let fewer = gathered_keys(&db).await.unwrap();
        assert!(fewer.len() < keys.len());
        assert_eq!(path_filter(&db, generation().await).await.unwrap(), of(&fewer));
        // An earlier release gathers without one.
        let earlier = "UPDATE images_unlawful SET generation = generation + 1, keys = $1, hosts = 'a b' WHERE id = 1";
        db.execute(earlier, [keys.into()]).await.unwrap();
        assert_eq!((path_filter(&db, generation().await).await.unwrap(), told().await), (None, None));
        assert_eq!(hosts(&db).await.unwrap(), ["a", "b"]);
        assert!(holds(&db, "/a.jpg").await);
    }

    #[tokio::test]
    async fn of_many_hosts_a_filter_is_kept_instead_of_a_list() {
        let (db, _) = reported().await;
        let count = i64::try_from(LISTED_MAX).unwrap();
        let report = async |from: i64, until: i64| {
            let sql = "WITH RECURSIVE numbers (n) AS (SELECT $1 UNION ALL SELECT n + 1 FROM numbers WHERE n < $2)
                INSERT INTO images_violations
                    (id, url, doctor_id, patient_id, order_no, channel, reason, image, keys, hosts, reported_at_ms)
                SELECT 'n' || n, 'https://h' || n || '.example.com/a.jpg', '', '', '', '', 'x', '', '00000000000000aa',
                    'h' || n || '.example.com', 0 FROM numbers";
            db.execute(sql, [from.into(), until.into()]).await.unwrap();
            let generation = mark(&db).await.unwrap().generation;
            assert!(gather(&db, generation, by(0)).await.unwrap());
            let filter = host_filter(&db, generation + 1).await.unwrap();
            assert!(path_filter(&db, generation + 1).await.unwrap().is_some());
            let wanted = news(&db, None, true).await.unwrap();
            assert_eq!(wanted.host_filter, filter);
            assert!(wanted.path_filter.is_some());
            let unwanted = news(&db, None, false).await.unwrap();
            assert_eq!(unwanted.host_filter, None);
            (unwanted.hosts, filter)
        };
        // One is there already.
        let (told, filter) = report(1, count - 1).await;
        assert!(matches!(&told, Some(Hosts::Listed(hosts)) if hosts.len() == LISTED_MAX), "{told:?}");
        assert_eq!(filter, None);
        let (told, filter) = report(count, count).await;
        assert_eq!(told, Some(Hosts::Many));
        let all = hosts(&db).await.unwrap();
        assert_eq!((all.len(), filter), (LISTED_MAX + 1, Some(Bloom::of_hosts(&all))));
        let unlawful = Unlawful::on_many();
        unlawful.learn_hosts(host_filter(&db, mark(&db).await.unwrap().generation).await.unwrap().unwrap());
        assert!(all.iter().all(|host| unlawful.has_host(hash(host.as_bytes())) == Ok(true)));
    }

    #[tokio::test]
    async fn what_an_earlier_release_writes_is_to_be_made_anew() {
        const GATHER: &str =
            "UPDATE images_unlawful SET generation = generation + 1, through_seq = 9, rules_version = 7,
            dirty_at_ms = 0, keys = x'00000000000000aa', hosts = 'a', filter = zeroblob(2048) WHERE id = 1";
        const REPORT: &str = "INSERT INTO images_violations
                (id, url, doctor_id, patient_id, order_no, channel, reason, image, keys, hosts, reported_at_ms)
            VALUES ('x', 'https://one.example.com/c.jpg', '', '', '', '', 'x', '00000000000000aa', '00000000000000aa',
                'one.example.com', 0) ON CONFLICT (id) DO NOTHING RETURNING 1";
        let (db, _) = reported().await;
        assert!(gather(&db, mark(&db).await.unwrap().generation, by(7)).await.unwrap());
        for sql in [GATHER, REPORT] {
            let before = mark(&db).await.unwrap();
            assert!(!before.has_other_keys() && before.keys_made_by() == 7);
            db.query(sql, []).await.unwrap();
            let after = mark(&db).await.unwrap();
            assert!(after.has_other_keys() && after.keys_made_by() == 7, "{sql}");
            // Nobody takes its filter for one of ours, and who gathers what is there makes nothing good.
            assert_eq!(path_filter(&db, after.generation).await.unwrap().is_none(), sql == GATHER);
            assert!(gather(&db, after.generation, (&after).into()).await.unwrap());
            let gathered = mark(&db).await.unwrap();
            assert_eq!((gathered.keys_version, gathered.keys_made_by()), (after.keys_version, 7));
            assert!(gather(&db, gathered.generation, by(7)).await.unwrap());
        }
    }

    #[tokio::test]
    async fn what_the_release_before_letters_writes_is_to_be_made_anew_and_that_release_does_not_see_it() {
        const GATHER: &str = "UPDATE images_unlawful
            SET generation = generation + 1, through_seq = 9, rules_version = 7, dirty_at_ms = 0,
                keys = x'00000000000000aa', hosts = 'a', bloom = zeroblob(2048)
            WHERE id = 1 AND generation = (SELECT generation FROM images_unlawful) RETURNING 1";
        const REPORT: &str = "INSERT INTO images_violations
                (id, url, doctor_id, patient_id, order_no, channel, reason, image, keys, hosts, reported_at_ms)
            VALUES ('x', 'https://one.example.com/c.jpg', '', '', '', '', 'x', '', '00000000000000aa', 'one.example.com', 0)
            ON CONFLICT (id) DO NOTHING RETURNING 1";
        let (db, _) = reported().await;
        assert!(gather(&db, mark(&db).await.unwrap().generation, by(7)).await.unwrap());
        for sql in [GATHER, REPORT] {
            assert!(!mark(&db).await.unwrap().has_other_keys());
            db.query(sql, []).await.unwrap();
            let after = mark(&db).await.unwrap();
            assert!(after.has_other_keys() && after.keys_made_by() == 7 && after.keys_version == 7, "{sql}");
            // Its gathering has no filters of ours, and ours of what is there makes nothing good.
            assert_eq!(news(&db, None, false).await.unwrap().hosts.is_none(), sql == GATHER);
            assert!(gather(&db, after.generation, (&after).into()).await.unwrap());
            assert!(mark(&db).await.unwrap().has_other_keys());
            // Nor does what was begun before it wrote once more.
            db.query(GATHER, []).await.unwrap();
            let again = mark(&db).await.unwrap();
            let made_by = |mark: &Mark| MadeBy { rules_version: 7, others: mark.others };
            assert!(gather(&db, again.generation, made_by(&after)).await.unwrap());
            assert!(mark(&db).await.unwrap().has_other_keys());
            assert!(gather(&db, again.generation + 1, made_by(&again)).await.unwrap());
        }
    }

    #[tokio::test]
    async fn an_image_is_found_and_taken_back_by_any_of_its_addresses() {
        let db = Native::in_memory();
        migrate(&db, "images", MIGRATIONS).await.unwrap();
        let rules = Rules::parse(Rules::DEFAULT.as_bytes(), &sign::Keys::default()).unwrap();
        let (old, new) = ("https://img10.360buyimg.com/a.jpg", "https://img.hospital.example/a.jpg");
        let keys = |url: &str| Image::parse(url).unwrap().keys(&rules).images;
        let of = async |image: Vec<u64>| {
            violations(&db, &Filter { image: Some(image), ..Filter::default() }, 9).await.unwrap().len()
        };
        for asked in [old, new] {
            for url in [old, new, "https://img10.360buyimg.com/b.jpg"] {
                let text = format!(r#"{{"url": "{url}", "reason": "x"}}"#);
                let (kept, image) = Report::parse(text.as_bytes(), &rules).unwrap();
                report(&db, &kept, &image.keys(&rules), 1_000).await.unwrap();
            }
            assert_eq!(of(keys(asked)).await, 2);
            assert_eq!(take_back(&db, Which::Image(&keys(asked)), 2_000).await.unwrap().len(), 2);
            assert_eq!(of(keys(asked)).await, 0);
        }
        assert_eq!(of(keys("https://img10.360buyimg.com/b.jpg")).await, 1);
    }

    #[tokio::test]
    async fn each_of_100_000_images_is_known_by_the_piece_and_no_other() {
        let (db, _) = reported().await;
        let rules = Rules::parse(Rules::DEFAULT.as_bytes(), &sign::Keys::default()).unwrap();
        let image = |number: usize| Image::parse(&format!("https://img10.360buyimg.com/{number}.jpg")).unwrap();
        db.execute(
            "WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 100000)
            INSERT INTO images_violations
                (id, url, doctor_id, patient_id, order_no, channel, reason, image, keys, hosts, reported_at_ms)
            SELECT n, 'https://img10.360buyimg.com/' || n || '.jpg', '', '', '', '', 'x', '', '', '', 0 FROM numbers",
            [],
        )
        .await
        .unwrap();
        let rows = addresses(&db, 0, i64::MAX).await.unwrap();
        let keys: Vec<_> = rows.iter().map(|row| (row.seq, Image::parse(&row.url).unwrap().keys(&rules))).collect();
        rekey(&db, &keys).await.unwrap();
        assert!(gather(&db, mark(&db).await.unwrap().generation, by(0)).await.unwrap());
        // A large filter is told to those who want it.
        assert_eq!(news(&db, None, false).await.unwrap().path_filter, None);
        let filter = news(&db, None, true).await.unwrap().path_filter;
        assert_eq!(filter, Some(Bloom::of(&gathered_keys(&db).await.unwrap())));
        let set = known(&db).await;
        let holds = |host: &str, number: usize| {
            assert_eq!(image(number).keys(&rules).hosts.len(), 2);
            let path = format!("/{number}.jpg");
            set.holds(&[hash(host.as_bytes())], path.as_bytes(), b"", &mut Vec::new()).unwrap()
        };
        for host in ["img10.360buyimg.com", "img.hospital.example"] {
            assert!((1..=100_000).all(|number| holds(host, number)), "{host}");
            assert!((100_001..200_000).all(|number| !holds(host, number)), "{host}");
        }
    }
}
