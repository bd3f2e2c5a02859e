//! Cards as a campaign speaks of them: their pools, and who was given one.

/// A pool: the cards of one worth of one campaign.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pool<'a> {
    pub(crate) activity_id: &'a str,
    pub(crate) fen: i64,
}

/// How a pool stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stock {
    /// Free cards that have not expired, counted only as far as it matters.
    pub(crate) free: i64,
    /// Claims that wait, counted likewise.
    pub(crate) waiting: i64,
}

/// A card that was given to a claim, and of which its owner is to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Issued {
    pub(crate) activity_id: String,
    pub(crate) fen: i64,
    pub(crate) claim_id: String,
    pub(crate) user_id: String,
    /// `invite` or `settlement`.
    pub(crate) kind: String,
    pub(crate) at_ms: i64,
    /// By which channel the user wants to be told.
    pub(crate) channel: Option<String>,
}
