//! SQLite by `rusqlite`, for tests: the statements that components run, on the engine that Spin runs them on.

use std::{path::Path, sync::Mutex};

use futures::future::BoxFuture;
use rusqlite::{Connection, config::DbConfig, params_from_iter, types};

use super::{Db, DbError, Engine, Row, Value};

/// One connection.
pub struct Native(Mutex<Connection>);

impl Native {
    /// A database that lives as long as the connection.
    ///
    /// # Panics
    /// If SQLite cannot be opened: this is for tests.
    #[allow(clippy::expect_used)]
    pub fn in_memory() -> Db {
        let connection = Connection::open_in_memory().expect("SQLite opens");
        // A plan is of what a statement runs, and so of its triggers, too.
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRIGGER_EQP, true).expect("SQLite explains triggers");
        Db::new(Self(Mutex::new(connection)))
    }

    /// The database in `file`.
    ///
    /// # Panics
    /// If SQLite cannot open it: this is for tests.
    #[allow(clippy::expect_used)]
    pub fn open(file: &Path) -> Db {
        Db::new(Self(Mutex::new(Connection::open(file).expect("SQLite opens the file"))))
    }

    fn run(&self, sql: &str, values: Vec<Value>) -> Result<Vec<Row>, rusqlite::Error> {
        let connection = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut statement = connection.prepare_cached(sql)?;
        for number in 1..=statement.parameter_count() {
            // To SQLite these are names, and a value goes to the name that is used first. `?` has none.
            let is_in_order = statement.parameter_name(number).is_none_or(|name| name == format!("${number}"));
            assert!(is_in_order, "placeholders are first used in order: {sql}");
        }
        let columns = statement.column_count();
        let mut rows = statement.query(params_from_iter(values.into_iter().map(types::Value::from)))?;
        let mut all = Vec::new();
        while let Some(row) = rows.next()? {
            let values: Result<Vec<_>, _> =
                (0..columns).map(|column| row.get::<_, types::Value>(column).map(Value::from)).collect();
            all.push(Row(values?));
        }
        Ok(all)
    }
}

impl Engine for Native {
    fn run<'a>(&'a self, sql: &'a str, values: Vec<Value>) -> BoxFuture<'a, Result<Vec<Row>, DbError>> {
        let result = Self::run(self, sql, values).map_err(|error| DbError::from_message(error.to_string()));
        Box::pin(std::future::ready(result))
    }
}

impl From<Value> for types::Value {
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

impl From<types::Value> for Value {
    fn from(value: types::Value) -> Self {
        match value {
            types::Value::Null => Self::Null,
            types::Value::Integer(value) => Self::Integer(value),
            types::Value::Real(value) => Self::Real(value),
            types::Value::Text(value) => Self::Text(value),
            types::Value::Blob(value) => Self::Blob(value),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn values_come_back_as_they_went_in() {
        let db = Native::in_memory();
        let values = [1.into(), 2.5.into(), "三".into(), vec![0u8, 255].into(), Value::Null];
        let rows = db.query("SELECT $1, $2, $3, $4, $5", values.clone()).await.unwrap();
        assert_eq!(rows, [Row(values.to_vec())]);
    }

    #[tokio::test]
    #[should_panic(expected = "in order")]
    async fn placeholders_out_of_order_are_a_mistake() {
        let _ = Native::in_memory().query("SELECT $2, $1", [1.into(), 2.into()]).await;
    }

    #[tokio::test]
    async fn a_forbidden_row_is_told_from_a_wrong_statement() {
        let db = Native::in_memory();
        db.execute("CREATE TABLE a (id INTEGER PRIMARY KEY)", []).await.unwrap();
        db.execute("INSERT INTO a VALUES ($1)", [1.into()]).await.unwrap();
        let twice = db.execute("INSERT INTO a VALUES ($1)", [1.into()]).await.unwrap_err();
        assert!(matches!(twice, DbError::Constraint(_)), "{twice:?}");
        let wrong = db.execute("INSERT INTO b VALUES (1)", []).await.unwrap_err();
        assert!(matches!(wrong, DbError::Other(_)), "{wrong:?}");
    }
}
