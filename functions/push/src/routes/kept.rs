//! The events that nobody could act on: read them, and say what they meant.

use axum::{Json, extract::Path, extract::Request};
use serde::{Deserialize, Serialize};
use shared::{
    auth::Role,
    db::{Db, DbError},
    http::{JSON_LIMIT, read_whole},
    json,
    outbox::Courier,
    problem::{Fault, Kind, Problem},
    query::{Page, Query},
    stream,
};

use super::{allowed, events::SPEND_MS, intake, not_found};
use crate::{
    config::db,
    drain::kept_entry,
    format::{Answer, Formatted, Formatter, Outcome},
    intake::{Batch, Delivered, Intake},
    store::{self, Entry, Filter, Whole},
};

pub(super) async fn list(request: Request) -> Result<Json<Page<Entry>>, Problem> {
    allowed(Role::Service, request.headers()).await?;
    let mut query = Query::of(request.uri());
    let outcome = |text: &str| ["ambiguous", "rejected"].into_iter().find(|outcome| *outcome == text);
    let filter = Filter {
        outcome: query.parsed("outcome", "must be ambiguous or rejected", outcome),
        order_id: query.text("order_id"),
        resolved: query.parsed("resolved", "must be true or false", |text| text.parse().ok()),
        cursor: None,
    };
    let (cursor, limit) = query.page();
    query.finish()?;
    let events = store::list(db().await?, &Filter { cursor, ..filter }, limit + 1).await?;
    Ok(Json(Page::of(events, limit, |event| event.seq)))
}

pub(super) async fn one(Path(id): Path<String>, request: Request) -> Result<Json<Whole>, Problem> {
    allowed(Role::Service, request.headers()).await?;
    store::get(db().await?, &id).await?.map(Json).ok_or_else(|| not_found("event", &id))
}

/// What an operator says that an event meant.
#[derive(Debug)]
enum Meaning {
    /// Its rows are read with this operation; without one, as they are.
    Rows(Option<String>),
    /// It sends nothing.
    Nothing,
}

/// What the event became.
#[derive(Serialize)]
pub(super) struct Resolved {
    results: Vec<Answer<Delivered>>,
}

pub(super) async fn resolve(Path(id): Path<String>, request: Request) -> Result<Json<Resolved>, Problem> {
    let config = allowed(Role::Admin, request.headers()).await?;
    let body = read_whole(request.into_body(), JSON_LIMIT).await?;
    let meaning = meaning(&body)?;
    resolved(&intake(config).await?, &config.stream.field, &id, &meaning).await.map(Json)
}

async fn resolved<C: Courier>(
    intake: &Intake<'_, C>,
    field: &str,
    id: &str,
    meaning: &Meaning,
) -> Result<Resolved, Problem> {
    let db = intake.db;
    let kept = store::get(db, id).await?.ok_or_else(|| not_found("event", id))?;
    let operation = match meaning {
        // As a row's would be read: by the names that the mapping knows.
        Meaning::Rows(name) => name.as_deref().map(|name| intake.formatter.mapping.operation_named(name)),
        Meaning::Nothing if store::dismiss(db, id, intake.courier.now_ms()).await? => {
            return Ok(Resolved { results: Vec::new() });
        }
        Meaning::Nothing => return Err(taken(db, id).await?),
    };
    let operation = operation.as_deref();
    // The claim is told apart from `no operation` by a text that no operation is.
    if !store::claim(db, id, operation.unwrap_or_default()).await? {
        return Err(taken(db, id).await?);
    }
    let unclaimed = async |problem: Problem| match store::disclaim(db, id, operation.unwrap_or_default()).await {
        Ok(()) => problem,
        Err(error) => error.into(),
    };
    let results = match format_again(intake.formatter, field, &kept, operation) {
        Ok(results) => results,
        Err(why) => {
            let problem = Problem::bad_input("the event cannot be resolved").with(Fault::at("", why));
            return Err(unclaimed(problem).await);
        }
    };
    if let Some(why) = results.iter().find_map(still_unclear) {
        let problem = Problem::bad_input("the event still cannot be acted on").with(Fault::at("/operation", why));
        return Err(unclaimed(problem).await);
    }
    let scenario = results.iter().find_map(|formatted| match &formatted.outcome {
        Outcome::Formatted(message) => Some(message.scenario),
        _ => None,
    });
    let mut batch = Batch::default();
    batch.add(results, String::new);
    intake.commit(&batch).await?;
    store::resolve(db, id, scenario, intake.courier.now_ms()).await?;
    // What cannot be delivered now is in the outbox.
    let _ = intake.deliver(&batch.ids(), intake.courier.now_ms() + SPEND_MS).await;
    Ok(Resolved { results: intake.answers(batch).await? })
}

/// Why an event can be given no other meaning.
async fn taken(db: &Db, id: &str) -> Result<Problem, DbError> {
    let operation = store::get(db, id).await?.and_then(|kept| kept.entry.operation);
    let taken = operation.map_or_else(|| "without an operation".to_owned(), |name| format!("with `{name}`"));
    Ok(Problem::new(Kind::WrongState, format!("the event is being resolved, or was, {taken}")))
}

/// What a kept event becomes now, or why nothing.
fn format_again(
    formatter: &Formatter,
    field: &str,
    kept: &Whole,
    operation: Option<&str>,
) -> Result<Vec<Formatted>, String> {
    let parse = |text| json::parse(text).map_err(|error| error.to_string());
    if let Some(entry) = kept_entry(&kept.text) {
        let event = stream::payload(&entry, field)?.ok_or("the entry has no event")?;
        return Ok(formatter.format_as(&parse(event.as_bytes())?, operation));
    }
    let results = formatter.format_kept(&parse(kept.text.as_bytes())?, &kept.entry.id, operation);
    if results.is_empty() {
        return Err("the event has no row with this id any more; publish it again".into());
    }
    Ok(results)
}

/// The body: an object, or nothing.
fn meaning(body: &[u8]) -> Result<Meaning, Problem> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Said {
        #[serde(default)]
        operation: Option<String>,
        #[serde(default)]
        dismiss: bool,
    }
    let refused = |pointer: &str, detail: String| {
        Problem::bad_input("the body is not acceptable").with(Fault::at(pointer, detail))
    };
    if body.trim_ascii().is_empty() {
        return Ok(Meaning::Rows(None));
    }
    let said: Said = serde_json::from_slice(body)
        .map_err(|error| refused("", format!("must be {{\"operation\": \"…\"}} or {{\"dismiss\": true}}: {error}")))?;
    match said.operation {
        Some(_) if said.dismiss => Err(refused("/dismiss", "must not stand beside an operation".into())),
        Some(operation) if operation.trim().is_empty() => Err(refused("/operation", "must not be empty".into())),
        None if said.dismiss => Ok(Meaning::Nothing),
        operation => Ok(Meaning::Rows(operation)),
    }
}

/// Why a result still needs somebody.
fn still_unclear(formatted: &Formatted) -> Option<String> {
    match &formatted.outcome {
        Outcome::Formatted(_) | Outcome::Ignored(_) => None,
        Outcome::Ambiguous(why) | Outcome::Rejected(why) => Some(why.clone()),
        Outcome::Unreadable(_) => formatted.unreadable_because(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use shared::{
        db::{migration::migrate, native::Native},
        log::EntryPath,
        outbox::{self, Attempted, ledger},
        stream::{Dead, Source, StreamError},
    };

    use super::*;
    use crate::{drain::drain, format::tests::formatter, intake::FUNCTION};

    const NOW: i64 = 1_481_361_166_000;
    /// A mapping by which the operation's column says what the default does not read.
    const CORRECTED: &str = r#"{"columns":{"operation":"why"}}"#;

    struct Gateway;

    impl Courier for Gateway {
        async fn post(&self, _: &str, _: &str, _: String, _: Duration) -> outbox::Answer {
            outbox::Answer::Accepted
        }

        fn now_ms(&self) -> i64 {
            NOW
        }

        fn log(&self, _: &Attempted<'_>) {}

        fn alarm(&self, _: &str) {}

        fn patience(&self) -> Duration {
            Duration::from_secs(7)
        }

        fn token(&self) -> String {
            "token".into()
        }
    }

    /// A stream of one entry.
    struct One(stream::Entry);

    impl Source for One {
        async fn read(&self, _: usize, held: Option<&str>) -> Result<stream::Batch, StreamError> {
            Ok(stream::Batch::Entries(if held.is_none() { vec![self.0.clone()] } else { Vec::new() }))
        }

        async fn finish(&self, _: &[String], _: &[Dead]) -> Result<(), StreamError> {
            Ok(())
        }

        async fn release(&self) -> Result<u64, StreamError> {
            Ok(0)
        }
    }

    async fn database() -> Db {
        let db = Native::in_memory();
        migrate(&db, "outbox", outbox::MIGRATIONS).await.unwrap();
        migrate(&db, FUNCTION, store::MIGRATIONS).await.unwrap();
        db
    }

    fn intake<'a>(db: &'a Db, formatter: &'a Formatter) -> Intake<'a, Gateway> {
        Intake { formatter, db, courier: &Gateway, path: EntryPath::Http }
    }

    /// A change that is ambiguous to who does not read the column `why`.
    fn unclear(order: u64) -> String {
        format!(
            r#"{{"database":"d","table":"order","type":"update","ts":1481361166,"xid":{order},"commit":true,
            "data":{{"id":{order},"status":"服务纠纷","why":"护士拒绝退款","patient_id":98}},
            "old":{{"status":"退款申请中"}}}}"#
        )
    }

    async fn comes_in(intake: &Intake<'_, Gateway>, text: &str) {
        let mut batch = Batch::default();
        match json::parse(text.as_bytes()) {
            Ok(event) => batch.add(intake.formatter.format(&event), || text.to_owned()),
            Err(error) => batch.add_unreadable(Fault::at("", error.to_string()), text.as_bytes()),
        }
        intake.commit(&batch).await.unwrap();
    }

    /// The only kept event.
    async fn kept(db: &Db) -> Entry {
        let mut events = store::list(db, &Filter::default(), 2).await.unwrap();
        assert_eq!(events.len(), 1);
        events.remove(0)
    }

    async fn sent(db: &Db) -> usize {
        ledger::list(db, &ledger::Filter::default(), 10).await.unwrap().len()
    }

    fn with(operation: &str) -> Meaning {
        Meaning::Rows(Some(operation.to_owned()))
    }

    async fn say(intake: &Intake<'_, Gateway>, meaning: Meaning) -> Result<usize, Problem> {
        let id = kept(intake.db).await.id;
        resolved(intake, "message", &id, &meaning).await.map(|resolved| resolved.results.len())
    }

    fn wrong_state(detail: &str) -> Result<usize, Problem> {
        Err(Problem::new(Kind::WrongState, format!("the event is being resolved, or was, {detail}")))
    }

    #[tokio::test]
    async fn an_event_is_given_one_meaning() {
        let (db, formatter) = (database().await, formatter(""));
        let intake = intake(&db, &formatter);
        comes_in(&intake, &unclear(1)).await;
        assert_eq!(say(&intake, Meaning::Rows(None)).await.unwrap_err().status(), 400);
        for _ in 0..2 {
            assert_eq!(say(&intake, with("护士拒绝退款")).await, Ok(1));
        }
        let taken = wrong_state("with `护士拒绝退款`");
        assert_eq!(say(&intake, with("退款申请超时")).await, taken);
        assert_eq!(say(&intake, Meaning::Nothing).await, taken);
        assert_eq!(sent(&db).await, 1);
    }

    #[tokio::test]
    async fn garbage_is_dismissed() {
        let (db, formatter) = (database().await, formatter(""));
        let intake = intake(&db, &formatter);
        comes_in(&intake, "nonsense").await;
        for _ in 0..2 {
            assert_eq!(say(&intake, Meaning::Nothing).await, Ok(0));
        }
        let entry = kept(&db).await;
        assert_eq!((entry.operation, entry.scenario, entry.resolved_at.is_some()), (None, None, true));
        assert_eq!(say(&intake, Meaning::Rows(None)).await, wrong_state("without an operation"));
        assert_eq!(say(&intake, with("护士拒绝退款")).await, wrong_state("without an operation"));
    }

    #[test]
    fn an_operator_gives_a_meaning_or_dismisses() {
        assert!(matches!(meaning(b" "), Ok(Meaning::Rows(None))));
        assert!(matches!(meaning(br#"{"operation":"x"}"#), Ok(Meaning::Rows(Some(_)))));
        assert!(matches!(meaning(br#"{"dismiss":true}"#), Ok(Meaning::Nothing)));
        for (body, pointer) in [
            (&br#"{"operation":" "}"#[..], "/operation"),
            (br#"{"operation":"x","dismiss":true}"#, "/dismiss"),
            (br#"{"dismissed":true}"#, ""),
        ] {
            assert_eq!(meaning(body).unwrap_err().errors()[0].pointer, pointer);
        }
    }

    #[tokio::test]
    async fn an_entry_of_another_layout_is_read_again_when_its_field_is_known() {
        let (db, formatter) = (database().await, formatter(CORRECTED));
        let intake = intake(&db, &formatter);
        // Longer than what is kept of garbage.
        let padded = format!("{}{}", unclear(1), " ".repeat(10_000));
        let fields = [("order", padded), ("written_by", "maxwell".into())];
        let fields = fields.map(|(name, value)| (name.to_owned(), value)).into();
        let entry = stream::Entry { id: "1-0".into(), fields, valid_utf8: true };
        assert_eq!(drain(&intake, &One(entry), "message", || true).await.unwrap().dead, 1);
        assert_eq!(say(&intake, Meaning::Rows(None)).await.unwrap_err().status(), 400, "it still has no such field");
        let id = kept(&db).await.id;
        assert!(resolved(&intake, "order", &id, &Meaning::Rows(None)).await.is_ok());
        let entry = kept(&db).await;
        assert_eq!((entry.operation, entry.scenario.as_deref()), (None, Some("refund_rejected_by_nurse")));
        assert_eq!(sent(&db).await, 1);
    }

    #[tokio::test]
    async fn an_event_that_comes_again_and_sends_a_message_waits_for_nobody() {
        let (db, corrected) = (database().await, formatter(CORRECTED));
        let formatter = formatter("");
        let (before, after) = (intake(&db, &formatter), intake(&db, &corrected));
        comes_in(&before, &unclear(1)).await;
        assert!(kept(&db).await.resolved_at.is_none());
        comes_in(&after, &unclear(1)).await;
        let entry = kept(&db).await;
        assert_eq!((entry.scenario.as_deref(), entry.resolved_at.is_some()), (Some("refund_rejected_by_nurse"), true));
        assert_eq!(say(&after, with("退款申请超时")).await, wrong_state("without an operation"));
        assert_eq!(say(&after, Meaning::Nothing).await, wrong_state("without an operation"));
        assert_eq!(sent(&db).await, 1);
    }

    #[tokio::test]
    async fn the_reasons_of_what_waits_are_told_the_most_frequent_first() {
        let (db, formatter) = (database().await, formatter(""));
        let intake = intake(&db, &formatter);
        for text in [&unclear(1), "nonsense", &unclear(2), &unclear(3)] {
            comes_in(&intake, text).await;
        }
        let reasons = store::reasons(&db, 2).await.unwrap();
        let told: Vec<_> = reasons.iter().map(|reason| (reason.outcome.as_str(), reason.count)).collect();
        assert_eq!(told, [("ambiguous", 3), ("rejected", 1)]);
        assert!(reasons[0].detail.contains("refund_request_timed_out"), "{reasons:?}");
        assert_eq!(store::reasons(&db, 1).await.unwrap().len(), 1);
    }
}
