//! Versioned migrations, each owner's (a function's, or the outbox's) by itself.
//!
//! SQLite migrates itself on first use. A migration is one transaction on a connection that nobody else uses, so
//! that it is there as a whole or not at all, also when two processes start at once or one is killed.

use super::{Db, DbError};
use crate::clock;

/// One step of an owner's schema. Steps are only ever appended.
#[derive(Clone, Copy, Debug)]
pub struct Migration {
    /// Counted from 1, without a gap.
    pub version: i64,
    /// One statement each: an engine runs only the first of a string.
    pub statements: &'static [&'static str],
}

/// Which versions are there. Owners are independent: a function's tables do not wait for another function's.
const CREATE_VERSIONS: &str = "CREATE TABLE IF NOT EXISTS schema_versions (
    owner TEXT NOT NULL,
    version INTEGER NOT NULL,
    applied_at_ms INTEGER NOT NULL,
    PRIMARY KEY (owner, version)
) WITHOUT ROWID";

/// The version that `owner`'s tables have; 0 for none.
///
/// # Errors
/// Those of the engine.
pub async fn version(db: &Db, owner: &str) -> Result<i64, DbError> {
    let asked = db.query_one("SELECT coalesce(max(version), 0) FROM schema_versions WHERE owner = $1", [owner.into()]);
    match asked.await {
        Ok(Some(row)) => row.integer(0),
        Ok(None) => Ok(0),
        Err(DbError::Other(message)) if message.contains("no such table") => Ok(0),
        Err(error) => Err(error),
    }
}

/// Whether every owner's tables have its newest version, and file and connection what [`SETTINGS`] say. One statement: each
/// message of the Redis trigger asks it.
///
/// # Errors
/// Those of the engine.
pub async fn is_ready(db: &Db, owners: &[(&str, &[Migration])]) -> Result<bool, DbError> {
    const SQL: &str = "SELECT owner, max(version),
            (SELECT journal_mode FROM pragma_journal_mode) = 'wal' AND (SELECT synchronous FROM pragma_synchronous) = 2
        FROM schema_versions GROUP BY owner";
    let present = match db.query(SQL, []).await {
        Ok(present) => present,
        Err(DbError::Other(message)) if message.contains("no such table") => return Ok(false),
        Err(error) => return Err(error),
    };
    let has = |owner: &str, version| {
        present.iter().any(|row| {
            let is_there = row.text(0) == Ok(owner) && row.integer(1).is_ok_and(|there| there >= version);
            is_there && row.integer(2) == Ok(1)
        })
    };
    Ok(owners.iter().all(|(owner, migrations)| migrations.last().is_none_or(|newest| has(owner, newest.version))))
}

/// WAL is the file's, the other each connection's: a commit that a power cut can undo, after its stream entry was
/// acknowledged, is a loss.
pub const SETTINGS: [&str; 2] = ["PRAGMA journal_mode = WAL", "PRAGMA synchronous = FULL"];

/// Brings `owner`'s tables to the last of `migrations`. `db` must be a connection of this call alone.
///
/// # Errors
/// Those of the engine; then nothing has changed, and the next call tries again.
pub async fn migrate(db: &Db, owner: &str, migrations: &[Migration]) -> Result<(), DbError> {
    let newest = migrations.last().map_or(0, |migration| migration.version);
    if version(db, owner).await? >= newest {
        return Ok(());
    }
    // The write lock first: of two that come at once, the second waits and then finds nothing to do.
    db.execute("BEGIN IMMEDIATE", []).await?;
    match apply(db, owner, migrations).await {
        Ok(()) => db.execute("COMMIT", []).await,
        Err(error) => {
            let _ = db.execute("ROLLBACK", []).await;
            Err(error)
        }
    }
}

async fn apply(db: &Db, owner: &str, migrations: &[Migration]) -> Result<(), DbError> {
    db.execute(CREATE_VERSIONS, []).await?;
    let present = version(db, owner).await?;
    for migration in migrations.iter().filter(|migration| migration.version > present) {
        for statement in migration.statements {
            db.execute(statement, []).await?;
        }
        db.execute(
            "INSERT INTO schema_versions (owner, version, applied_at_ms) VALUES ($1, $2, $3)",
            [owner.into(), migration.version.into(), clock::now_ms().into()],
        )
        .await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::native::Native;

    const ONE: Migration = Migration { version: 1, statements: &["CREATE TABLE a (id INTEGER PRIMARY KEY)"] };
    const TWO: Migration =
        Migration { version: 2, statements: &["ALTER TABLE a ADD COLUMN b TEXT", "INSERT INTO a VALUES (1, 'x')"] };

    #[tokio::test]
    async fn each_step_runs_once_and_in_order() {
        let db = Native::in_memory();
        migrate(&db, "push", &[ONE]).await.unwrap();
        assert_eq!(version(&db, "push").await.unwrap(), 1);
        for _ in 0..3 {
            migrate(&db, "push", &[ONE, TWO]).await.unwrap();
        }
        assert_eq!(version(&db, "push").await.unwrap(), 2);
        assert_eq!(db.query("SELECT b FROM a", []).await.unwrap().len(), 1);
        assert_eq!(version(&db, "other").await.unwrap(), 0);
    }

    #[tokio::test]
    async fn a_database_is_ready_with_every_owners_tables_and_our_settings() {
        let folder = tempfile::tempdir().unwrap();
        let open = || Native::open(&folder.path().join("a.db"));
        let db = open();
        let owners: [(&str, &[Migration]); 1] = [("push", &[ONE])];
        assert!(!is_ready(&db, &owners).await.unwrap());
        migrate(&db, "push", &[ONE]).await.unwrap();
        assert!(!is_ready(&db, &owners).await.unwrap());
        for setting in SETTINGS {
            db.execute(setting, []).await.unwrap();
        }
        assert!(is_ready(&db, &owners).await.unwrap() && is_ready(&open(), &owners).await.unwrap());
        assert!(!is_ready(&db, &[("push", &[ONE, TWO])]).await.unwrap());
        assert!(!is_ready(&db, &[("push", &[ONE]), ("other", &[ONE])]).await.unwrap());
        // A file's mode is changed by its only connection.
        drop(db);
        for setting in ["PRAGMA synchronous = NORMAL", "PRAGMA journal_mode = DELETE"] {
            let db = open();
            db.execute(setting, []).await.unwrap();
            assert!(!is_ready(&db, &owners).await.unwrap(), "{setting}");
            db.execute(SETTINGS[0], []).await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_step_that_fails_leaves_nothing_behind() {
        let db = Native::in_memory();
        let broken =
            Migration { version: 1, statements: &["CREATE TABLE a (id INTEGER)", "CREATE TABLE a (id INTEGER)"] };
        assert!(migrate(&db, "push", &[broken]).await.is_err());
        assert_eq!(version(&db, "push").await.unwrap(), 0);
        migrate(&db, "push", &[ONE]).await.unwrap();
    }

    #[tokio::test]
    async fn two_that_migrate_at_once_do_it_once() {
        let file = std::env::temp_dir().join(format!("clinic-migrate-{}.db", std::process::id()));
        let _ = std::fs::remove_file(&file);
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let file = file.clone();
                std::thread::spawn(move || {
                    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
                    runtime.block_on(async { migrate(&Native::open(&file), "push", &[ONE, TWO]).await })
                })
            })
            .collect();
        for thread in threads {
            thread.join().unwrap().unwrap();
        }
        let db = Native::open(&file);
        assert_eq!(db.query("SELECT b FROM a", []).await.unwrap().len(), 1);
        let _ = std::fs::remove_file(&file);
    }
}
