//! Spin's SQLite.
//!
//! A connection is opened once per instance: opening costs as much as a commit.

use futures::future::BoxFuture;
use spin_sdk::sqlite;

use super::{
    Db, DbError, Engine, Migration, Row, Value,
    migration::{SETTINGS, is_ready, migrate},
};

/// The database that all components share.
const DATABASE: &str = "default";

/// One open connection.
struct Spin(sqlite::Connection);

/// Opens the database and brings each owner's tables to their newest version.
///
/// # Errors
/// Those of the runtime; the next call tries again.
pub async fn open(owners: &[(&str, &[Migration])]) -> Result<Db, DbError> {
    let db = connect().await?;
    if is_ready(&db, owners).await? {
        return Ok(db);
    }
    set(&db).await?;
    // On this connection alone: a request that comes while it is within its transaction would join it.
    for (owner, migrations) in owners {
        migrate(&db, owner, migrations).await?;
    }
    drop(db);
    let db = connect().await?;
    set(&db).await?;
    Ok(db)
}

/// Opens another connection to a database that [`open`] has migrated, for effects that are repeated as long as nothing
/// says that they were had: a power cut may undo its last commits, in whole and in their order, so that they cost no
/// wait for the disk. A later commit of an ordinary connection makes them last.
///
/// # Errors
/// Those of the runtime; the next call tries again.
pub async fn open_for_effects() -> Result<Db, DbError> {
    let db = connect().await?;
    db.execute("PRAGMA synchronous = NORMAL", []).await?;
    Ok(db)
}

async fn connect() -> Result<Db, DbError> {
    Ok(Db::new(Spin(sqlite::Connection::open(DATABASE).await?)))
}

async fn set(db: &Db) -> Result<(), DbError> {
    for setting in SETTINGS {
        db.execute(setting, []).await?;
    }
    Ok(())
}

impl Engine for Spin {
    fn run<'a>(&'a self, sql: &'a str, values: Vec<Value>) -> BoxFuture<'a, Result<Vec<Row>, DbError>> {
        Box::pin(async move {
            let mut result = self.0.execute(sql, values.into_iter().map(sqlite::Value::from)).await?;
            let mut rows = Vec::new();
            while let Some(row) = result.next().await {
                rows.push(Row(row.values.into_iter().map(Value::from).collect()));
            }
            // Its error arrives here alone, an invalid statement's too.
            result.result().await?;
            Ok(rows)
        })
    }
}

impl From<sqlite::Error> for DbError {
    fn from(error: sqlite::Error) -> Self {
        match error {
            sqlite::Error::Io(message) => Self::from_message(message),
            other => Self::Other(other.to_string()),
        }
    }
}

impl From<Value> for sqlite::Value {
    fn from(value: Value) -> Self {
        match value {
            Value::Null => Self::Null,
            Value::Integer(value) => Self::Integer(value),
            Value::Real(value) => Self::Real(value),
            Value::Text(value) => Self::Text(value),
            Value::Blob(value) => Self::Blob(value),
        }
    }
}

impl From<sqlite::Value> for Value {
    fn from(value: sqlite::Value) -> Self {
        match value {
            sqlite::Value::Null => Self::Null,
            sqlite::Value::Integer(value) => Self::Integer(value),
            sqlite::Value::Real(value) => Self::Real(value),
            sqlite::Value::Text(value) => Self::Text(value),
            sqlite::Value::Blob(value) => Self::Blob(value),
        }
    }
}
