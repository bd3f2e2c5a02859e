//! A statement that grows by the conditions of a list: those that were asked for.

use super::{Db, DbError, Row, Value};

/// What is selected, by a table's `seq`.
pub struct Select {
    sql: String,
    values: Vec<Value>,
}

impl Select {
    /// `sql` ends with a condition, and `values` are those of its placeholders.
    pub fn new(sql: impl Into<String>, values: impl IntoIterator<Item = Value>) -> Self {
        Self { sql: sql.into(), values: values.into_iter().collect() }
    }

    /// Only rows whose column compares so, such as `("seq <", cursor)`, if there is a value to compare it with.
    #[must_use]
    pub fn and(mut self, comparison: &str, value: Option<impl Into<Value>>) -> Self {
        if let Some(value) = value {
            self.values.push(value.into());
            self.sql += &format!(" AND {comparison} ${}", self.values.len());
        }
        self
    }

    /// Only rows of which this is true.
    #[must_use]
    pub fn only(mut self, condition: &str) -> Self {
        self.sql += &format!(" AND {condition}");
        self
    }

    /// At most `limit` rows, the newest first.
    #[must_use]
    pub fn newest(self, limit: usize) -> Self {
        self.ordered("seq DESC", limit)
    }

    /// At most `limit` rows, the oldest first.
    #[must_use]
    pub fn oldest(self, limit: usize) -> Self {
        self.ordered("seq", limit)
    }

    fn ordered(mut self, order: &str, limit: usize) -> Self {
        self.values.push(i64::try_from(limit).unwrap_or(i64::MAX).into());
        self.sql += &format!(" ORDER BY {order} LIMIT ${}", self.values.len());
        self
    }

    /// The rows.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn rows(self, db: &Db) -> Result<Vec<Row>, DbError> {
        db.query(&self.sql, self.values).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::native::Native;

    #[tokio::test]
    async fn conditions_without_a_value_do_not_count() {
        let db = Native::in_memory();
        db.execute("CREATE TABLE a (seq INTEGER PRIMARY KEY, kind TEXT, done INTEGER)", []).await.unwrap();
        db.execute("INSERT INTO a VALUES (1, 'x', 0), (2, 'y', 1), (3, 'x', 1), (4, 'x', 1)", []).await.unwrap();
        let of = |kind: Option<&str>, below: Option<i64>| {
            Select::new("SELECT seq FROM a WHERE seq > $1", [0.into()]).and("kind =", kind).and("seq <", below)
        };
        for (select, expected) in [
            (of(None, None).newest(9), vec![4, 3, 2, 1]),
            (of(None, None).oldest(2), vec![1, 2]),
            (of(Some("x"), None).newest(2), vec![4, 3]),
            (of(Some("x"), Some(4)).newest(9), vec![3, 1]),
            (of(Some("x"), None).only("done = 0").newest(9), vec![1]),
        ] {
            let rows = select.rows(&db).await.unwrap();
            let found: Vec<i64> = rows.iter().map(|row| row.integer(0).unwrap()).collect();
            assert_eq!(found, expected);
        }
    }
}
