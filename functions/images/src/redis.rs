//! The Redis channels: chat and bulk messages come on `images.messages` and go, rewritten, to `images.rewritten`.

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::{Either, select};
use serde::Deserialize;
use serde_json::value::RawValue;
use shared::{
    config::variable,
    http::JSON_LIMIT,
    id::Id,
    json,
    log::EntryPath,
    problem::{Fault, Problem},
};

use crate::{
    config::standing_for,
    outcome,
    rules::{CONTEXTS, Caller, Context},
};

const REWRITTEN: &str = "images.rewritten";
/// How long Redis may take to take a message: all messages of all functions wait for this one.
const PUBLISH_WITHIN: Duration = Duration::from_secs(1);

/// What is read of a message; all its bytes but the body's go on as they are.
#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow)]
    body: &'a RawValue,
}

/// Takes one message.
///
/// # Errors
/// If it is none, or if the database or Redis is not there: it is lost then, as messages of a channel are, and the log
/// says so.
pub(crate) async fn heard(payload: Bytes) -> Result<(), Problem> {
    let started = Instant::now();
    let heard = take(&payload).await;
    if let Err(problem) = &heard {
        outcome::refused(problem, started.elapsed());
    }
    heard
}

async fn take(payload: &Bytes) -> Result<(), Problem> {
    let started = Instant::now();
    let caller = caller(payload)?;
    let envelope: Envelope<'_> =
        serde_json::from_slice(payload).map_err(|error| refused(vec![Fault::at("", format!("not JSON: {error}"))]))?;
    let body = payload.slice_ref(envelope.body.get().as_bytes());
    let standing = standing_for(&body).await?;
    // The body's JSON as it stands: an escape is an escape in a message, too.
    let (rewritten, counts) = standing.rewritten(&caller, body.clone()).await?;
    let start = body.as_ptr() as usize - payload.as_ptr() as usize;
    let parts = [payload.get(..start), Some(rewritten.as_ref()), payload.get(start + body.len()..)];
    let message = parts.into_iter().flatten().collect::<Vec<_>>().concat();
    publish(message).await?;
    outcome::Outcome {
        rules: &standing.rules,
        context: caller.context,
        counts: &counts,
        path: EntryPath::Redis,
        took: started.elapsed(),
    }
    .log("rewritten", None);
    Ok(())
}

async fn publish(message: Vec<u8>) -> Result<(), Problem> {
    let url = variable("redis_url").await?;
    let published = std::pin::pin!(async {
        let connection = spin_sdk::redis::Connection::open(url).await?;
        connection.publish(REWRITTEN, message).await
    });
    let deadline = std::pin::pin!(spin_sdk::time::sleep(PUBLISH_WITHIN));
    let unavailable = |why: String| Problem::new(shared::problem::Kind::Unavailable, why);
    match select(published, deadline).await {
        Either::Left((published, _)) => {
            published.map_err(|error| unavailable(format!("Redis does not take it: {error}")))
        }
        Either::Right(_) => Err(unavailable("Redis did not take it in time".into())),
    }
}

fn refused(faults: Vec<Fault>) -> Problem {
    Problem::bad_input("the message is not acceptable").with_all(faults)
}

/// Whom a message is for, as an HTTP call's query says it.
fn caller(payload: &[u8]) -> Result<Caller, Problem> {
    if payload.len() > JSON_LIMIT {
        return Err(Problem::too_large(JSON_LIMIT));
    }
    let value = json::parse(payload).map_err(|error| refused(vec![Fault::at("", format!("not JSON: {error}"))]))?;
    let object = value.as_object().ok_or_else(|| refused(vec![Fault::at("", "must be an object")]))?;
    let mut faults = Vec::new();
    // As of a query, an empty text is none.
    let present = |name: &str| object.present(name).filter(|value| value.as_str() != Some(""));
    let context = match present("context").map(|value| value.as_str().and_then(Context::parse)) {
        None => None,
        Some(Some(context)) => Some(context),
        Some(None) => {
            faults.push(Fault::at("/context", CONTEXTS));
            None
        }
    };
    let user = match present("user").map(Id::from_json) {
        Some(None) => {
            faults.push(Fault::at("/user", "must be a user's id"));
            None
        }
        user => user.flatten().map(|user| user.to_string()),
    };
    // As of a header, one that cannot be read is as good as none.
    let app_version = object.present("app_version").and_then(|value| value.as_str()?.parse().ok());
    if object.get("body").is_none() {
        faults.push(Fault::at("/body", "is missing"));
    }
    if faults.is_empty() { Ok(Caller { context, user, app_version }) } else { Err(refused(faults)) }
}
