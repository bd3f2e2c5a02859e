//! The stream of change-data-capture feeds → the outbox.
//!
//! A batch of entries is committed and only then acknowledged. An entry that is no event goes to the stream
//! `<stream>:dead`, with the reason, and is kept like every event that needs somebody.

use shared::{
    db::DbError,
    json,
    outbox::Courier,
    problem::Fault,
    stream::{self, Dead, DrainError, Drained, Entry, Source},
};

use crate::{
    format::Formatted,
    intake::{Batch, Intake},
};

/// Entries that are read at once.
const ENTRIES: usize = 200;

/// Drains `source` until it is empty or there is no `more_time`. The event is in the entry's `field`, or where
/// Debezium Server puts it.
pub(crate) async fn drain<C: Courier, S: Source>(
    intake: &Intake<'_, C>,
    source: &S,
    field: &str,
    more_time: impl Fn() -> bool + Send,
) -> Result<Drained, DrainError<DbError>> {
    stream::drain(source, ENTRIES, more_time, |entries: Vec<Entry>| {
        let mut batch = Batch::default();
        let mut dead = Vec::new();
        for entry in &entries {
            if let Err(reason) = read(intake, entry, field, &mut batch) {
                dead.push(Dead { id: entry.id.clone(), reason });
            }
        }
        async move {
            intake.commit(&batch).await?;
            Ok(dead)
        }
    })
    .await
}

/// Adds an entry's event to the batch; what is none is added as such, and the reason returned.
fn read<C: Courier>(intake: &Intake<'_, C>, entry: &Entry, field: &str, batch: &mut Batch) -> Result<(), String> {
    let unreadable = |batch: &mut Batch, reason: String| {
        let text = serde_json::to_string(&entry.fields).unwrap_or_default();
        let fault = Fault::at("", reason.clone());
        if entry.valid_utf8 {
            // Whole: another layout may find the event in it.
            batch.add(vec![Formatted::unreadable(vec![fault])], || text.clone());
        } else {
            batch.add_unreadable(fault, text.as_bytes());
        }
        Err(reason)
    };
    let event = match stream::payload(entry, field) {
        Ok(Some(event)) => event,
        Ok(None) => return Ok(()),
        Err(reason) => return unreadable(batch, reason),
    };
    match json::parse(event.as_bytes()) {
        Ok(event) => {
            let results = intake.formatter.format(&event);
            let reason = results.iter().find_map(Formatted::unreadable_because);
            batch.add(results, || crate::intake::written(&event));
            reason.map_or(Ok(()), Err)
        }
        Err(error) => unreadable(batch, format!("not JSON: {error}")),
    }
}

/// The entry whose fields these are, as [`read`] keeps one that is no event.
pub(crate) fn kept_entry(text: &str) -> Option<Entry> {
    let fields = serde_json::from_str(text).ok()?;
    // What was not UTF-8 is not what was sent.
    Some(Entry { id: String::new(), fields, valid_utf8: !text.contains(char::REPLACEMENT_CHARACTER) })
}
