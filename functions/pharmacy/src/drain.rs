//! The stream of orders → the database.
//!
//! A batch of entries is committed and only then acknowledged. An entry that is no order that can be placed goes to the
//! stream `<stream>:dead`, with the reason.

use std::time::Duration;

use shared::{
    db::DbError,
    json,
    outbox::Courier,
    problem::sentence,
    stream::{self, Dead, DrainError, Drained, Entry, Source},
};

use crate::{
    intake::{Intake, Placed, log},
    order::Order,
    rules::RuleSet,
};

/// Entries that are read at once.
const ENTRIES: usize = 200;

/// Drains `source` until it is empty or there is no `more_time`. The order is in the entry's `field`.
pub(crate) async fn drain<C: Courier, S: Source>(
    intake: &Intake<'_, C>,
    rules: &RuleSet,
    source: &S,
    field: &str,
    more_time: impl Fn() -> bool + Send,
) -> Result<Drained, DrainError<DbError>> {
    stream::drain(source, ENTRIES, more_time, async |entries: Vec<Entry>| {
        let mut dead = Vec::new();
        let (mut orders, mut ids) = (Vec::new(), Vec::new());
        for entry in &entries {
            let order = match stream::payload(entry, field) {
                Ok(Some(text)) => read(intake, text.as_bytes()),
                Ok(None) => continue,
                Err(reason) => Err(reason),
            };
            match order {
                Ok(order) => {
                    orders.push(order);
                    ids.push(&entry.id);
                }
                Err(reason) => {
                    log("order", &entry.id, "rejected", Some(&reason), Duration::ZERO, intake.path);
                    dead.push(Dead { id: entry.id.clone(), reason });
                }
            }
        }
        let placed = intake.place(&orders, rules).await?;
        for (id, placed) in ids.iter().zip(placed) {
            if placed == Placed::Conflict {
                let reason = "the order's number was used with other content".to_owned();
                dead.push(Dead { id: (*id).clone(), reason });
            }
        }
        Ok(dead)
    })
    .await
}

/// Reads an order and finds its partner; an error is what is wrong.
pub(crate) fn read<C: Courier>(intake: &Intake<'_, C>, text: &[u8]) -> Result<(Order, &'static str), String> {
    let value = json::parse(text).map_err(|error| format!("not JSON: {error}"))?;
    let order = Order::read(&value, "").map_err(|faults| sentence(&faults))?;
    let partner = intake.partner(&order).map_err(|problem| sentence(problem.errors()))?;
    Ok((order, partner.name()))
}
