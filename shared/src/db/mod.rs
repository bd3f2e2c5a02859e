//! The one door to SQL.
//!
//! Statements of concurrent requests interleave on a shared connection, so every invariant holds by single
//! statements and unique indexes, never by a transaction across calls. Each result is read to its end before the
//! next statement: unread rows hold the database's lock. Placeholders are `$1, $2, …`, first used in order,
//! and `?` for those of a long list behind them.
//!
//! An engine is one file: [`spin`] (Spin's SQLite) and, for tests, `native` (rusqlite).

pub mod migration;
#[cfg(any(test, feature = "native"))]
pub mod native;
pub mod select;
pub mod spin;

use std::{io::Write, sync::Arc};

use futures::future::BoxFuture;

pub use migration::Migration;
pub use select::Select;

use crate::problem::{Kind, Problem};

/// A value in SQL.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// `NULL`.
    Null,
    /// `INTEGER`: also money in fen and time in Unix ms.
    Integer(i64),
    /// `REAL`.
    Real(f64),
    /// `TEXT`.
    Text(String),
    /// `BLOB`.
    Blob(Vec<u8>),
}

impl From<i64> for Value {
    fn from(value: i64) -> Self {
        Self::Integer(value)
    }
}

impl From<f64> for Value {
    fn from(value: f64) -> Self {
        Self::Real(value)
    }
}

impl From<&str> for Value {
    fn from(value: &str) -> Self {
        Self::Text(value.to_owned())
    }
}

impl From<String> for Value {
    fn from(value: String) -> Self {
        Self::Text(value)
    }
}

impl From<Vec<u8>> for Value {
    fn from(value: Vec<u8>) -> Self {
        Self::Blob(value)
    }
}

impl<T: Into<Self>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

/// Why a statement did not do its work.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DbError {
    /// Another connection holds the lock for longer than the busy timeout; the same statement may work later.
    #[error("the database is busy")]
    Busy,
    /// A unique index or another constraint forbids it.
    #[error("a constraint forbids it: {0}")]
    Constraint(String),
    /// A row has another shape than the code that reads it.
    #[error("column {0} has another type than expected")]
    Column(usize),
    /// Anything else, in the engine's words.
    #[error("{0}")]
    Other(String),
}

impl DbError {
    /// Reads an engine's message. SQLite's texts are part of its stable interface.
    pub(crate) fn from_message(message: String) -> Self {
        if message.contains("database is locked") || message.contains("database table is locked") {
            Self::Busy
        } else if message.contains("constraint failed") {
            Self::Constraint(message)
        } else {
            Self::Other(message)
        }
    }
}

impl From<DbError> for Problem {
    fn from(error: DbError) -> Self {
        // What the engine says is for the log: it may quote values.
        let _ = writeln!(std::io::stderr(), "database: {error}");
        match error {
            DbError::Busy => Self::new(Kind::Unavailable, "the database is busy; the same call may succeed later"),
            _ => Self::new(Kind::Internal, "the database did not do its work"),
        }
    }
}

/// One row of a result.
#[derive(Clone, Debug, PartialEq)]
pub struct Row(pub(crate) Vec<Value>);

impl Row {
    /// The integer in `column`.
    ///
    /// # Errors
    /// [`DbError::Column`] if it is none.
    pub fn integer(&self, column: usize) -> Result<i64, DbError> {
        self.optional_integer(column)?.ok_or(DbError::Column(column))
    }

    /// The integer in `column`, or `None` for `NULL`.
    ///
    /// # Errors
    /// [`DbError::Column`] if it is another type.
    pub fn optional_integer(&self, column: usize) -> Result<Option<i64>, DbError> {
        match self.0.get(column) {
            Some(Value::Integer(value)) => Ok(Some(*value)),
            Some(Value::Null) => Ok(None),
            _ => Err(DbError::Column(column)),
        }
    }

    /// The text in `column`.
    ///
    /// # Errors
    /// [`DbError::Column`] if it is none.
    pub fn text(&self, column: usize) -> Result<&str, DbError> {
        self.optional_text(column)?.ok_or(DbError::Column(column))
    }

    /// The text in `column`, or `None` for `NULL`.
    ///
    /// # Errors
    /// [`DbError::Column`] if it is another type.
    pub fn optional_text(&self, column: usize) -> Result<Option<&str>, DbError> {
        match self.0.get(column) {
            Some(Value::Text(value)) => Ok(Some(value)),
            Some(Value::Null) => Ok(None),
            _ => Err(DbError::Column(column)),
        }
    }

    /// The bytes in `column`, or `None` for `NULL`: they may be many, so that they are not copied, but gone from the row.
    ///
    /// # Errors
    /// [`DbError::Column`] if it is another type.
    pub fn take_blob(&mut self, column: usize) -> Result<Option<Vec<u8>>, DbError> {
        match self.0.get_mut(column).map(|value| std::mem::replace(value, Value::Null)) {
            Some(Value::Blob(value)) => Ok(Some(value)),
            Some(Value::Null) => Ok(None),
            _ => Err(DbError::Column(column)),
        }
    }
}

/// What runs statements.
pub trait Engine: Send + Sync {
    /// Runs one statement and reads its result to the end.
    fn run<'a>(&'a self, sql: &'a str, values: Vec<Value>) -> BoxFuture<'a, Result<Vec<Row>, DbError>>;
}

/// A connection, kept for the life of an instance. Cheap to clone.
#[derive(Clone)]
pub struct Db(Arc<dyn Engine>);

impl Db {
    /// A database behind `engine`.
    pub fn new(engine: impl Engine + 'static) -> Self {
        Self(Arc::new(engine))
    }

    /// Runs one statement and returns its rows, all of them.
    ///
    /// # Errors
    /// Those of the engine.
    pub async fn query(&self, sql: &str, values: impl IntoIterator<Item = Value>) -> Result<Vec<Row>, DbError> {
        self.0.run(sql, values.into_iter().collect()).await
    }

    /// Runs one statement and returns its first row, if it has any.
    ///
    /// # Errors
    /// Those of the engine.
    pub async fn query_one(&self, sql: &str, values: impl IntoIterator<Item = Value>) -> Result<Option<Row>, DbError> {
        Ok(self.query(sql, values).await?.into_iter().next())
    }

    /// Runs one statement for its effect.
    ///
    /// # Errors
    /// Those of the engine.
    pub async fn execute(&self, sql: &str, values: impl IntoIterator<Item = Value>) -> Result<(), DbError> {
        self.query(sql, values).await.map(drop)
    }
}
