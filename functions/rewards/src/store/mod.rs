//! This function's SQL, all of it. What may happen once has a key that is unique, and each step is one statement that
//! may be repeated: a crash between any two leaves a state from which repeating the call finishes the work. What a
//! statement brings with it, a trigger does within that statement.
//!
//! [`activities`]: campaigns and their terms; [`events`]: what happened; [`claims`]: what is due for it; [`cards`]: the
//! cards, and who gets which; [`points`]: the ledger; [`settlements`]: points into cards; [`searches`]: how far a search
//! came; [`audit`]: the books.

pub(crate) mod activities;
pub(crate) mod audit;
pub(crate) mod cards;
pub(crate) mod claims;
pub(crate) mod events;
pub(crate) mod points;
pub(crate) mod searches;
pub(crate) mod settlements;

use serde::Serialize;
use shared::db::{DbError, Migration};

/// This function's tables.
pub(crate) const MIGRATIONS: &[Migration] = &[Migration {
    version: 1,
    statements: &[
        // A switch is 0 or 1. `weekday_start` counts from Monday, 0.
        "CREATE TABLE rewards_activities (
            seq INTEGER PRIMARY KEY,
            id TEXT NOT NULL UNIQUE,
            name TEXT NOT NULL,
            starts_at_ms INTEGER NOT NULL,
            ends_at_ms INTEGER NOT NULL,
            weekday_start INTEGER NOT NULL,
            join_on INTEGER NOT NULL DEFAULT 1,
            invite_on INTEGER NOT NULL DEFAULT 1,
            query_on INTEGER NOT NULL DEFAULT 1,
            register_on INTEGER NOT NULL DEFAULT 1,
            created_at_ms INTEGER NOT NULL,
            updated_at_ms INTEGER NOT NULL
        )",
        // Terms hold from their time on, until the next: an event is paid by those of its own time, so that what it
        // is worth never changes afterwards. The first hold from the beginning of time.
        "CREATE TABLE rewards_terms (
            activity_id TEXT NOT NULL,
            from_ms INTEGER NOT NULL,
            invite_card_fen INTEGER NOT NULL,
            invite_points INTEGER NOT NULL,
            settlement_points INTEGER NOT NULL,
            settlement_cards INTEGER NOT NULL,
            settlement_card_fen INTEGER NOT NULL,
            PRIMARY KEY (activity_id, from_ms)
        ) WITHOUT ROWID",
        // Who joined, and by which channel they want to be told.
        "CREATE TABLE rewards_participants (
            activity_id TEXT NOT NULL,
            user_id TEXT NOT NULL,
            channel TEXT,
            joined_at_ms INTEGER NOT NULL,
            PRIMARY KEY (activity_id, user_id)
        ) WITHOUT ROWID",
        // An invitee has one inviter: the key decides who was first.
        "CREATE TABLE rewards_invitations (
            activity_id TEXT NOT NULL,
            invitee TEXT NOT NULL,
            inviter TEXT NOT NULL,
            invited_at_ms INTEGER,
            recorded_at_ms INTEGER NOT NULL,
            PRIMARY KEY (activity_id, invitee)
        ) WITHOUT ROWID",
        "CREATE INDEX rewards_invitations_inviter ON rewards_invitations (activity_id, inviter, invitee)",
        // An invitee opens one account: the first event of it counts, whatever id a later one has. `held` are those
        // that came while `register` was off. A void one stays, so that its event, sent again, pays nothing.
        "CREATE TABLE rewards_registrations (
            seq INTEGER PRIMARY KEY,
            activity_id TEXT NOT NULL,
            invitee TEXT NOT NULL,
            event_id TEXT NOT NULL,
            opened_at_ms INTEGER NOT NULL,
            new_customer INTEGER NOT NULL,
            held INTEGER NOT NULL,
            path TEXT NOT NULL,
            recorded_at_ms INTEGER NOT NULL,
            voided_at_ms INTEGER,
            void_reason TEXT,
            UNIQUE (activity_id, invitee),
            UNIQUE (activity_id, event_id)
        )",
        "CREATE INDEX rewards_registrations_held ON rewards_registrations (activity_id, seq) WHERE held = 1",
        // Points from elsewhere: each event once.
        "CREATE TABLE rewards_point_events (
            seq INTEGER PRIMARY KEY,
            activity_id TEXT NOT NULL,
            event_id TEXT NOT NULL,
            user_id TEXT NOT NULL,
            kind TEXT NOT NULL,
            points INTEGER NOT NULL,
            at_ms INTEGER NOT NULL,
            path TEXT NOT NULL,
            recorded_at_ms INTEGER NOT NULL,
            UNIQUE (activity_id, event_id)
        )",
        // The ledger. An entry's key names what earned it, so that nothing earns twice; entries are only added, sums
        // are derived, and a page of the ranking is that of the ledger up to one `seq`.
        "CREATE TABLE rewards_points (
            seq INTEGER PRIMARY KEY,
            key TEXT NOT NULL UNIQUE,
            activity_id TEXT NOT NULL,
            user_id TEXT NOT NULL,
            kind TEXT NOT NULL,
            points INTEGER NOT NULL,
            event_id TEXT NOT NULL,
            invitee TEXT,
            at_ms INTEGER NOT NULL,
            recorded_at_ms INTEGER NOT NULL
        )",
        // Has all that a sum needs: neither the ranking nor a settlement reads the table.
        "CREATE INDEX rewards_points_user ON rewards_points (activity_id, user_id, at_ms, points)",
        // A claim is a card that is due. Its key names what for: once. One that was recalled because nothing earned it
        // has none any more: should it be earned after all, there is another. `card_no` is unique here and `claim_id` on
        // the card's side: two claims never share a card, nor two cards a claim. `tells` marks the one of a settlement's
        // claims that its message belongs to; `told` is 0 until that message is in the outbox.
        "CREATE TABLE rewards_claims (
            seq INTEGER PRIMARY KEY,
            id TEXT NOT NULL UNIQUE,
            key TEXT UNIQUE,
            activity_id TEXT NOT NULL,
            user_id TEXT NOT NULL,
            kind TEXT NOT NULL CHECK (kind IN ('invite', 'settlement')),
            fen INTEGER NOT NULL,
            event_id TEXT,
            invitee TEXT,
            period TEXT,
            n INTEGER,
            tells INTEGER NOT NULL,
            told INTEGER NOT NULL DEFAULT 0,
            at_ms INTEGER NOT NULL,
            state TEXT NOT NULL CHECK (state IN ('waiting', 'issued', 'activated', 'recalled')),
            card_no TEXT UNIQUE,
            created_at_ms INTEGER NOT NULL,
            issued_at_ms INTEGER,
            activated_at_ms INTEGER,
            recalled_at_ms INTEGER,
            recall_reason TEXT
        )",
        // The oldest that wait are served first, and are few among many.
        "CREATE INDEX rewards_claims_waiting ON rewards_claims (activity_id, fen, seq) WHERE state = 'waiting'",
        "CREATE INDEX rewards_claims_untold ON rewards_claims (seq) WHERE state = 'issued' AND tells = 1 AND told = 0",
        "CREATE INDEX rewards_claims_user ON rewards_claims (user_id, seq)",
        "CREATE INDEX rewards_claims_settled ON rewards_claims (activity_id, period, user_id, n)
            WHERE kind = 'settlement'",
        // A card that was ever given to a claim keeps it: recalled, it is never given again.
        "CREATE TABLE rewards_cards (
            seq INTEGER PRIMARY KEY,
            card_no TEXT NOT NULL UNIQUE,
            activity_id TEXT NOT NULL,
            fen INTEGER NOT NULL,
            secret TEXT NOT NULL,
            expires_at_ms INTEGER,
            import_id TEXT NOT NULL,
            imported_at_ms INTEGER NOT NULL,
            claim_id TEXT,
            issued_at_ms INTEGER,
            recalled_at_ms INTEGER
        )",
        // Of the cards that are given: a unique column would also offer all free ones as an index, and in no order.
        "CREATE UNIQUE INDEX rewards_cards_claim ON rewards_cards (claim_id) WHERE claim_id IS NOT NULL",
        "CREATE INDEX rewards_cards_free ON rewards_cards (activity_id, fen, seq) WHERE claim_id IS NULL",
        // What operators were told, so that they are told once: again only when it was over in between.
        "CREATE TABLE rewards_alerts (
            activity_id TEXT NOT NULL,
            fen INTEGER NOT NULL,
            what TEXT NOT NULL,
            raised INTEGER NOT NULL,
            episode INTEGER NOT NULL,
            PRIMARY KEY (activity_id, fen, what)
        ) WITHOUT ROWID",
        // What each registration is worth: the one definition that grants and the audit share. Joined by `JOIN` alone:
        // behind a `LEFT JOIN` SQLite would make all of it first.
        "CREATE VIEW rewards_earnings AS
            SELECT r.seq, r.activity_id, r.invitee, r.event_id, r.opened_at_ms, r.new_customer, r.voided_at_ms,
                r.held, i.inviter,
                t.invite_card_fen AS card_fen, t.invite_points AS points, a.register_on,
                'invite:' || r.activity_id || ':' || r.invitee AS key,
                (i.inviter IS NOT NULL AND r.new_customer = 1 AND r.voided_at_ms IS NULL
                    AND r.opened_at_ms >= a.starts_at_ms AND r.opened_at_ms < a.ends_at_ms
                    AND (i.invited_at_ms IS NULL OR i.invited_at_ms <= r.opened_at_ms)) AS due
            FROM rewards_registrations AS r
            JOIN rewards_activities AS a ON a.id = r.activity_id
            JOIN rewards_terms AS t ON t.activity_id = r.activity_id AND t.from_ms =
                (SELECT max(l.from_ms) FROM rewards_terms AS l
                    WHERE l.activity_id = r.activity_id AND l.from_ms <= r.opened_at_ms)
            LEFT JOIN rewards_invitations AS i ON i.activity_id = r.activity_id AND i.invitee = r.invitee",
        // What a registration earns is given by the statement that records it, and what an invitation earns whose
        // registration came first by that one: nothing is between them that could be cut off, and a grant is one commit.
        "CREATE TRIGGER rewards_registered AFTER INSERT ON rewards_registrations WHEN NEW.held = 0 BEGIN
            INSERT INTO rewards_points (key, activity_id, user_id, kind, points, event_id, invitee, at_ms, recorded_at_ms)
                SELECT e.key, e.activity_id, e.inviter, 'invite', e.points, e.event_id, e.invitee, e.opened_at_ms,
                    NEW.recorded_at_ms
                FROM rewards_earnings AS e
                WHERE e.activity_id = NEW.activity_id AND e.invitee = NEW.invitee
                    AND e.due AND e.register_on = 1 AND e.points > 0
                ON CONFLICT (key) DO NOTHING;
            INSERT INTO rewards_claims (id, key, activity_id, user_id, kind, fen, event_id, invitee, tells, at_ms, state,
                    created_at_ms)
                SELECT 'clm_' || lower(hex(randomblob(12))), e.key, e.activity_id, e.inviter, 'invite', e.card_fen,
                    e.event_id, e.invitee, 1, e.opened_at_ms, 'waiting', NEW.recorded_at_ms
                FROM rewards_earnings AS e
                WHERE e.activity_id = NEW.activity_id AND e.invitee = NEW.invitee
                    AND e.due AND e.register_on = 1 AND e.card_fen > 0
                ON CONFLICT (key) DO NOTHING;
        END",
        "CREATE TRIGGER rewards_invited AFTER INSERT ON rewards_invitations BEGIN
            INSERT INTO rewards_points (key, activity_id, user_id, kind, points, event_id, invitee, at_ms, recorded_at_ms)
                SELECT e.key, e.activity_id, e.inviter, 'invite', e.points, e.event_id, e.invitee, e.opened_at_ms,
                    NEW.recorded_at_ms
                FROM rewards_earnings AS e
                WHERE e.activity_id = NEW.activity_id AND e.invitee = NEW.invitee
                    AND e.due AND e.register_on = 1 AND e.points > 0
                ON CONFLICT (key) DO NOTHING;
            INSERT INTO rewards_claims (id, key, activity_id, user_id, kind, fen, event_id, invitee, tells, at_ms, state,
                    created_at_ms)
                SELECT 'clm_' || lower(hex(randomblob(12))), e.key, e.activity_id, e.inviter, 'invite', e.card_fen,
                    e.event_id, e.invitee, 1, e.opened_at_ms, 'waiting', NEW.recorded_at_ms
                FROM rewards_earnings AS e
                WHERE e.activity_id = NEW.activity_id AND e.invitee = NEW.invitee
                    AND e.due AND e.register_on = 1 AND e.card_fen > 0
                ON CONFLICT (key) DO NOTHING;
        END",
        // A new claim takes the oldest free card, unless an older claim waits for one.
        "CREATE TRIGGER rewards_claimed AFTER INSERT ON rewards_claims WHEN NEW.state = 'waiting' BEGIN
            UPDATE rewards_cards SET claim_id = NEW.id, issued_at_ms = NEW.created_at_ms
                WHERE card_no = (SELECT f.card_no FROM rewards_cards AS f
                        WHERE f.claim_id IS NULL AND f.activity_id = NEW.activity_id AND f.fen = NEW.fen
                            AND (f.expires_at_ms IS NULL OR f.expires_at_ms > NEW.created_at_ms)
                        ORDER BY f.seq LIMIT 1)
                    AND NOT EXISTS (SELECT 1 FROM rewards_claims AS o WHERE o.state = 'waiting'
                        AND o.activity_id = NEW.activity_id AND o.fen = NEW.fen AND o.seq < NEW.seq);
        END",
        // Both sides of a card and its claim are written together, whoever gives it.
        "CREATE TRIGGER rewards_given AFTER UPDATE OF claim_id ON rewards_cards WHEN NEW.claim_id IS NOT NULL BEGIN
            UPDATE rewards_claims SET state = 'issued', card_no = NEW.card_no, issued_at_ms = NEW.issued_at_ms
                WHERE id = NEW.claim_id AND state = 'waiting';
        END",
        "CREATE TRIGGER rewards_recalled AFTER UPDATE OF state ON rewards_claims WHEN NEW.state = 'recalled' BEGIN
            UPDATE rewards_cards SET recalled_at_ms = NEW.recalled_at_ms
                WHERE claim_id = NEW.id AND recalled_at_ms IS NULL;
        END",
        // Where a search that ran out of time goes on the next time it is asked for.
        "CREATE TABLE rewards_searches (
            activity_id TEXT NOT NULL,
            what TEXT NOT NULL,
            after INTEGER NOT NULL,
            PRIMARY KEY (activity_id, what)
        ) WITHOUT ROWID",
    ],
}];

/// A batch as one value.
fn json(value: &impl Serialize) -> Result<String, DbError> {
    serde_json::to_string(value).map_err(|error| DbError::Other(format!("a batch cannot be written: {error}")))
}

#[cfg(test)]
mod tests;
