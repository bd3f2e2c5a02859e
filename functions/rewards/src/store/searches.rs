//! Where a search through a whole campaign goes on that ran out of time.

use shared::db::{Db, DbError};

/// Which search.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Search {
    /// Registrations that are due something.
    Registrations,
    /// Points events that are due their points.
    PointEvents,
    /// Claims of registrations that nothing earns.
    Claims,
    /// Periods with cards that nothing earns: by their first instant.
    Periods,
}

impl Search {
    const fn name(self) -> &'static str {
        match self {
            Self::Registrations => "registrations",
            Self::PointEvents => "point_events",
            Self::Claims => "claims",
            Self::Periods => "periods",
        }
    }
}

/// What the search was past when it ended; 0 to begin.
pub(crate) async fn after(db: &Db, activity_id: &str, search: Search) -> Result<i64, DbError> {
    const SQL: &str = "SELECT after FROM rewards_searches WHERE activity_id = $1 AND what = $2";
    db.query_one(SQL, [activity_id.into(), search.name().into()]).await?.map_or(Ok(0), |row| row.integer(0))
}

/// Notes what the search is past; 0 once it has come to the end.
pub(crate) async fn note(db: &Db, activity_id: &str, search: Search, after: i64) -> Result<(), DbError> {
    const SQL: &str = "INSERT INTO rewards_searches (activity_id, what, after) VALUES ($1, $2, $3)
        ON CONFLICT (activity_id, what) DO UPDATE SET after = $3 WHERE after <> $3";
    db.execute(SQL, [activity_id.into(), search.name().into(), after.into()]).await
}
