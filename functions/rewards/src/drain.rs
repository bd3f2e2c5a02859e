//! Events of other systems, in batches: the stream's entries, or a channel's payload.

use std::time::Instant;

use shared::{
    db::DbError,
    json::{self, Value},
    log::{EntryPath, Line},
    outbox::Courier,
    problem::{Fault, sentence},
    stream::{self, Dead, DrainError, Drained, Entry, Source},
};

use crate::{
    config::VERSION,
    event::{Event, PointsEvent, Registration},
    rewards::{Answer, Outcome, Rewards},
};

/// Entries that are read at once.
const ENTRIES: usize = 200;

/// Events that are committed together.
#[derive(Default)]
pub(crate) struct Batch {
    registrations: Vec<Registration>,
    points: Vec<PointsEvent>,
}

impl Batch {
    /// Adds the event, or each of an array.
    pub(crate) fn add(&mut self, value: &Value<'_>) -> Result<(), Vec<Fault>> {
        let Some(items) = value.as_array() else { return self.add_one(value, String::new()) };
        let mut faults = Vec::new();
        for (place, item) in items.iter().enumerate() {
            faults.extend(self.add_one(item, format!("/{place}")).err().into_iter().flatten());
        }
        if faults.is_empty() { Ok(()) } else { Err(faults) }
    }

    fn add_one(&mut self, value: &Value<'_>, base: String) -> Result<(), Vec<Fault>> {
        match Event::read(value, base)? {
            Event::Registration(event) => self.registrations.push(event),
            Event::Points(event) => self.points.push(event),
        }
        Ok(())
    }

    /// Commits them, and says what became of each in the log; which nobody could take, by their places among the
    /// registrations and, after those, the points, and why.
    pub(crate) async fn commit<C: Courier>(&self, rewards: &Rewards<'_, C>) -> Result<Vec<(usize, String)>, DbError> {
        let started = Instant::now();
        let mut answers = rewards.register(&self.registrations).await?;
        answers.extend(rewards.earn(&self.points).await?);
        let mut refused = Vec::new();
        for (place, answer) in answers.iter().enumerate() {
            log(answer, started, rewards.path);
            if matches!(answer.outcome, Outcome::UnknownActivity | Outcome::Conflict) {
                refused.push((place, format!("{}: {}", answer.event_id, answer.detail.as_deref().unwrap_or_default())));
            }
        }
        Ok(refused)
    }
}

/// Writes an event's line: what, which, and what became of it.
pub(crate) fn log(answer: &Answer, started: Instant, path: EntryPath) {
    Line {
        known_as: (),
        what: if answer.invitee.is_some() { "registration" } else { "points" },
        key: &answer.event_id,
        outcome: answer.outcome.as_str(),
        detail: answer.detail.as_deref(),
        took: started.elapsed(),
        path,
        version: VERSION,
    }
    .write();
}

/// Drains `source` until it is empty or there is no `more_time`. The event is in the entry's `field`.
pub(crate) async fn drain<C: Courier, S: Source>(
    rewards: &Rewards<'_, C>,
    source: &S,
    field: &str,
    more_time: impl Fn() -> bool + Send,
) -> Result<Drained, DrainError<DbError>> {
    stream::drain(source, ENTRIES, more_time, async |entries: Vec<Entry>| {
        let mut batch = Batch::default();
        let mut dead = Vec::new();
        // Which entry each event came in, to find the dead among them.
        let (mut registrations_in, mut points_in): (Vec<&str>, Vec<&str>) = Default::default();
        for entry in &entries {
            match read(entry, field) {
                Ok(None) => {}
                Ok(Some(events)) => {
                    for event in events {
                        match event {
                            Event::Registration(event) => {
                                batch.registrations.push(event);
                                registrations_in.push(&entry.id);
                            }
                            Event::Points(event) => {
                                batch.points.push(event);
                                points_in.push(&entry.id);
                            }
                        }
                    }
                }
                Err(reason) => dead.push(Dead { id: entry.id.clone(), reason }),
            }
        }
        for (place, reason) in batch.commit(rewards).await? {
            let entry = registrations_in.iter().chain(&points_in).nth(place);
            if let Some(entry) = entry.filter(|entry| !dead.iter().any(|dead| dead.id == **entry)) {
                dead.push(Dead { id: (*entry).to_owned(), reason });
            }
        }
        Ok(dead)
    })
    .await
}

/// An entry's events; `None` for a tombstone.
fn read(entry: &Entry, field: &str) -> Result<Option<Vec<Event>>, String> {
    let Some(text) = stream::payload(entry, field)? else { return Ok(None) };
    let value = json::parse(text.as_bytes()).map_err(|error| format!("not JSON: {error}"))?;
    let mut batch = Batch::default();
    batch.add(&value).map_err(|faults| sentence(&faults))?;
    let registrations = batch.registrations.into_iter().map(Event::Registration);
    Ok(Some(registrations.chain(batch.points.into_iter().map(Event::Points)).collect()))
}
