//! `rewards` on the real component: a campaign's life, and the incident that it must survive.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use e2e::{App, PATIENCE, answered};
use futures::{StreamExt, stream};
use harness::Redis;
use reqwest::Method;
use serde_json::{Value, json};

const BASE: &str = "/rewards/activities/autumn";
const STREAM: &str = "accounts:stream";

/// The campaign of the autumn of 2020: five cards of 20 yuan for every full 1,000 points of a week from Tuesday on.
fn campaign() -> Value {
    json!({
        "id": "autumn", "name": "秋季推荐",
        "starts_at": "2020-09-15T00:00:00+08:00", "ends_at": "2020-11-01T00:00:00+08:00",
        "invite": {"card_fen": 2000, "points": 20},
        "settlement": {"points": 1000, "cards": 5, "card_fen": 2000},
        "period": {"weekday_start": "tuesday"},
    })
}

/// What a friend's registration is told as.
fn opened(number: usize) -> Value {
    json!({
        "event_id": format!("open-{number}"), "invitee": format!("friend-{number}"),
        "opened_at": "2020-09-23T10:00:00+08:00", "new_customer": true,
    })
}

/// The same on Redis.
fn opened_on_redis(number: usize) -> Value {
    let mut event = opened(number);
    event["activity_id"] = json!("autumn");
    event["type"] = json!("registration");
    event
}

fn invitation(inviter: &str, number: usize) -> Value {
    json!({"inviter": inviter, "invitee": format!("friend-{number}"), "invited_at": "2020-09-20T10:00:00+08:00"})
}

/// Cards numbered from `from` on, as CSV.
fn cards(from: usize, count: usize) -> String {
    let lines = (from..from + count).map(|number| format!("card-{number},secret-{number},2000\n"));
    std::iter::once("card_no,secret,fen\n".to_owned()).chain(lines).collect()
}

trait Campaign {
    async fn create(&self) -> Result<()>;
    async fn import(&self, csv: String) -> Result<Value>;
    async fn call(&self, path: &str, body: Value) -> Result<(u16, Value)>;
    async fn operate(&self, method: Method, path: &str, body: Value) -> Result<(u16, Value)>;
    async fn read(&self, path: &str) -> Result<Value>;
    async fn audit(&self) -> Result<(Vec<Value>, Value)>;
}

impl Campaign for App {
    async fn create(&self) -> Result<()> {
        let (status, answer) = answered(self.admin(Method::POST, "/rewards/activities").json(&campaign())).await?;
        ensure!(status == 201, "{answer}");
        Ok(())
    }

    async fn import(&self, csv: String) -> Result<Value> {
        let request = self.admin(Method::POST, &format!("{BASE}/cards")).header("content-type", "text/csv").body(csv);
        let (status, answer) = answered(request).await?;
        ensure!(status == 200, "{answer}");
        Ok(answer)
    }

    async fn call(&self, path: &str, body: Value) -> Result<(u16, Value)> {
        answered(self.post(&format!("{BASE}{path}")).json(&body)).await
    }

    async fn operate(&self, method: Method, path: &str, body: Value) -> Result<(u16, Value)> {
        answered(self.admin(method, &format!("{BASE}{path}")).json(&body)).await
    }

    async fn read(&self, path: &str) -> Result<Value> {
        let (status, answer) = self.get_json(&format!("{BASE}{path}")).await?;
        ensure!(status == 200, "{path}: {answer}");
        Ok(answer)
    }

    /// The findings, and the line of totals, without which the audit was cut off.
    async fn audit(&self) -> Result<(Vec<Value>, Value)> {
        let answer = self.admin(Method::GET, &format!("{BASE}/audit")).send().await?;
        ensure!(answer.status() == 200);
        let text = answer.text().await?;
        let mut lines: Vec<Value> = text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
        let last = lines.pop().context("an audit has lines")?;
        ensure!(last["totals"].is_object(), "{text}");
        Ok((lines, last))
    }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

#[tokio::test]
async fn a_campaign_lives_from_its_first_invitation_to_a_clean_audit() -> Result<()> {
    let app = App::http(|builder| builder).await?;
    app.create().await?;
    let answer = app.import(cards(0, 7)).await?;
    assert_eq!(answer, json!({"imported": 7, "duplicates": 0, "rejected": []}));
    let again = app.import(format!("{}card-9,,2000\n", cards(0, 8))).await?;
    assert_eq!((&again["imported"], &again["duplicates"]), (&json!(1), &json!(7)));
    assert_eq!(again["rejected"][0]["line"], 10, "{again}");

    let joined = app.call("/participants", json!({"user_id": "u1", "channel": "app"})).await?;
    assert_eq!(joined.0, 201, "{}", joined.1);
    assert_eq!(app.call("/participants", json!({"user_id": "u1"})).await?.1, joined.1);
    assert_eq!(app.call("/invitations", invitation("u1", 1)).await?.0, 201);
    assert_eq!(app.call("/invitations", invitation("u1", 1)).await?.0, 200);
    assert_eq!(app.call("/invitations", invitation("u2", 1)).await?.0, 409, "the first inviter wins");
    let (status, problem) = app.call("/invitations", json!({"inviter": "u1", "invitee": "u1"})).await?;
    assert_eq!((status, &problem["errors"][0]["pointer"]), (400, &json!("/invitee")));

    let (status, granted) = app.call("/registrations", opened(1)).await?;
    assert_eq!((status, &granted["outcome"]), (200, &json!("granted")), "{granted}");
    assert_eq!(app.call("/registrations", opened(1)).await?.1, granted, "a repetition has the same answer");
    let mut other = opened(1);
    other["new_customer"] = json!(false);
    assert_eq!(app.call("/registrations", other).await?.0, 409);

    // The registration before the invitation, and one that nobody invited in time.
    assert_eq!(app.call("/registrations", opened(2)).await?.1["outcome"], "recorded");
    assert_eq!(app.call("/invitations", invitation("u1", 2)).await?.0, 201);
    assert_eq!(app.call("/registrations", opened(2)).await?.1["outcome"], "granted");
    app.call("/registrations", opened(3)).await?;
    let late = json!({"inviter": "u1", "invitee": "friend-3", "invited_at": "2020-09-24T10:00:00+08:00"});
    assert_eq!(app.call("/invitations", late).await?.0, 409);

    // 960 points of learning beside the 40: one full sum of the week from 2020-09-22 on.
    let learned = |event: &str, points| json!({"event_id": event, "user_id": "u1", "kind": "learning", "points": points, "at": "2020-09-25T10:00:00+08:00"});
    let (status, answer) =
        app.call("/points", json!([learned("p1", 900), learned("p2", 60), learned("p1", 900)])).await?;
    assert_eq!((status, list(&answer["results"]).len()), (200, 3), "{answer}");
    let ranking = app.read("/ranking").await?;
    assert_eq!((&ranking["items"][0]["user_id"], &ranking["items"][0]["points"]), (&json!("u1"), &json!(1000)));
    let (_, settled) = app.call("/settlements", json!({"period": "2020-09-22"})).await?;
    assert_eq!((&settled["cards"], &settled["waiting"]), (&json!(5), &json!(0)), "{settled}");
    assert_eq!(app.call("/settlements", json!({"period": "2020-09-22"})).await?.1, settled);
    let (status, problem) = app.call("/settlements", json!({"period": "2020-09-23"})).await?;
    assert_eq!((status, &problem["errors"][0]["pointer"]), (400, &json!("/period")), "{problem}");

    let standing = app.read("/participants/u1").await?;
    assert_eq!((&standing["points"], &standing["rank"]), (&json!(1000), &json!(1)), "{standing}");
    let earned: BTreeSet<_> = list(&standing["entries"]).iter().map(|entry| entry["event_id"].to_string()).collect();
    assert_eq!(earned.len(), 4, "{standing}");
    let claims = list(&standing["cards"]);
    assert_eq!(claims.len(), 7);

    // The secret is its owner's alone, and always the same.
    let id = claims[0]["id"].as_str().context("a claim has an id")?;
    let activate = async |user: &str| {
        answered(app.post(&format!("/rewards/claims/{id}/activate")).json(&json!({"user_id": user}))).await
    };
    assert_eq!(activate("u2").await?.0, 403);
    let (status, card) = activate("u1").await?;
    let number = card["card_no"].as_str().context("a card has a number")?.trim_start_matches("card-").to_owned();
    assert_eq!((status, card["secret"].as_str()), (200, Some(format!("secret-{number}").as_str())), "{card}");
    assert_eq!(activate("u1").await?.1, card);

    let (findings, last) = app.audit().await?;
    assert_eq!((findings.len(), &last["clean"]), (0, &json!(true)), "{findings:?} {last}");
    assert_eq!(last["totals"]["due"], last["totals"]["issued"], "{last}");
    // One message for each referral's card and one for the settlement, by the channel that the user chose.
    let received = app.gateway.wait_for(3, PATIENCE).await?;
    assert!(received.iter().all(|request| request.verified && request.message()["channel"] == "app"));
    let logs = format!("{:?} {}", app.runtime.logs("rewards"), app.runtime.stderr());
    assert!(!logs.contains("secret-"), "a secret is in the log");
    Ok(())
}

#[tokio::test]
async fn an_operator_switches_voids_recalls_and_is_told_once_of_an_empty_pool() -> Result<()> {
    let app = App::http(|builder| builder.variable("stock_threshold", "2")).await?;
    app.create().await?;
    for number in 0..4 {
        app.call("/invitations", invitation("u1", number)).await?;
    }
    let (status, _) = app.operate(Method::PATCH, "", json!({"switches": {"register": false, "join": false}})).await?;
    assert_eq!(status, 200);
    let (status, problem) = app.call("/participants", json!({"user_id": "u1"})).await?;
    assert_eq!((status, &problem["type"]), (403, &json!("urn:clinic:problem:switched-off")));
    let (status, held) = app.call("/registrations", opened(0)).await?;
    assert_eq!((status, &held["outcome"]), (202, &json!("held")), "{held}");
    app.operate(Method::PATCH, "", json!({"switches": {"register": true}})).await?;
    // Nothing is in the pool: the claim waits, and operators are told once, whatever follows.
    for number in 0..4 {
        assert_eq!(app.call("/registrations", opened(number)).await?.1["outcome"], "waiting");
    }
    let told = app.operators.wait_for(2, PATIENCE).await?;
    let scenarios: BTreeSet<_> = told.iter().map(|request| request.message()["scenario"].to_string()).collect();
    assert_eq!(scenarios, BTreeSet::from(["\"card_stock_low\"".to_owned(), "\"claim_waiting\"".to_owned()]));
    app.import(cards(0, 3)).await?;
    let outcomes = async || -> Result<Vec<String>> {
        let mut all = Vec::new();
        for number in 0..4 {
            all.push(
                app.call("/registrations", opened(number)).await?.1["outcome"].as_str().unwrap_or_default().into(),
            );
        }
        Ok(all)
    };
    assert_eq!(outcomes().await?, ["granted", "granted", "granted", "waiting"], "the oldest first");

    let (status, voided) = app.operate(Method::DELETE, "/registrations/friend-0", json!({"reason": "false"})).await?;
    assert_eq!((status, &voided["card"], &voided["points_taken_back"]), (200, &json!("recalled"), &json!(20)));
    let again = app.operate(Method::DELETE, "/registrations/friend-0", json!({"reason": "other"})).await?;
    assert_eq!(again.1["reason"], "false", "the first reason stays");
    assert_eq!(app.operate(Method::DELETE, "/registrations/friend-0", json!({})).await?.0, 400);

    let (_, claims) = app.get_json("/rewards/claims?user_id=u1&activity_id=autumn&state=issued").await?;
    let ids: Vec<&str> = list(&claims["items"]).iter().filter_map(|claim| claim["id"].as_str()).collect();
    assert_eq!(ids.len(), 2, "{claims}");
    answered(app.post(&format!("/rewards/claims/{}/activate", ids[0])).json(&json!({"user_id": "u1"}))).await?;
    let (_, recalled) =
        app.operate(Method::POST, "/recalls", json!({"claim_ids": [ids[0], ids[1], "clm_none"]})).await?;
    assert_eq!(recalled["recalled"], json!([ids[1]]), "{recalled}");
    let reasons: BTreeMap<_, _> = list(&recalled["not_recalled"])
        .iter()
        .map(|claim| (claim["claim_id"].as_str().unwrap_or_default(), claim["reason"].as_str().unwrap_or_default()))
        .collect();
    assert_eq!(reasons, BTreeMap::from([(ids[0], "it is activated"), ("clm_none", "there is no such claim")]));
    let (status, _) =
        answered(app.post(&format!("/rewards/claims/{}/activate", ids[1])).json(&json!({"user_id": "u1"}))).await?;
    assert_eq!(status, 409);

    // One more card serves the claim that waits, and nobody gets a recalled one.
    app.import(cards(0, 4)).await?;
    assert_eq!(outcomes().await?, ["voided", "granted", "granted", "granted"]);
    let (findings, _) = app.audit().await?;
    assert!(findings.is_empty(), "{findings:?}");
    assert_eq!(app.operators.received().len(), 2, "told once");
    Ok(())
}

#[tokio::test]
async fn dates_terms_and_switches_change_and_what_is_earned_after_all_is_paid() -> Result<()> {
    let app = App::http_on(Redis::start().await?, |builder| builder).await?;
    app.create().await?;
    let import = |body: &'static str, content_type: &str| {
        let path = format!("{BASE}/cards");
        answered(app.admin(Method::POST, &path).header("content-type", content_type).body(body))
    };
    let (status, problem) = import("card_no,secret,fen,expiry\n1,s,2000,2030-01-01T00:00:00Z\n", "text/csv").await?;
    assert_eq!(status, 400, "{problem}");
    assert_eq!(app.read("/cards").await?["pools"], json!([]), "nothing of it is there");
    let lines = "{\"card_no\":\"n1\",\"secret\":\"s\",\"fen\":2000}\n{\"card_no\":\"n2\",\"secret\":\"s\",\"fen\":2000}\n{\"card_no\":3}\n";
    let (_, imported) = import(lines, "application/x-ndjson").await?;
    assert_eq!((&imported["imported"], &imported["rejected"][0]["line"]), (&json!(2), &json!(3)), "{imported}");

    // Who never joined is told by WeChat.
    app.call("/invitations", invitation("u1", 1)).await?;
    let (_, granted) = app.call("/registrations", opened(1)).await?;
    let first = granted["claim_id"].as_str().context("a claim")?.to_owned();
    let told = app.gateway.wait_for(1, PATIENCE).await?;
    assert_eq!(told[0].message()["channel"], "wechat");

    // New terms are for what happens from now on.
    let (status, changed) = app.operate(Method::PATCH, "", json!({"invite": {"card_fen": 5000, "points": 30}})).await?;
    assert_eq!((status, &changed["invite"]["card_fen"]), (200, &json!(5000)), "{changed}");
    assert_eq!(app.get_json(&format!("/rewards/claims/{first}")).await?.1["fen"], 2000);
    assert!(app.audit().await?.0.is_empty());

    // Dates that leave it out, a recall, and the dates as they were: another card, once.
    app.operate(Method::PATCH, "", json!({"ends_at": "2020-09-22T00:00:00+08:00"})).await?;
    let kinds = async || -> Result<Vec<String>> {
        Ok(app.audit().await?.0.iter().map(|finding| finding["finding"].to_string()).collect())
    };
    assert_eq!(kinds().await?, ["\"points_mismatch\"", "\"over_issued\""]);
    let (_, recalled) = app.operate(Method::POST, "/recalls", json!({"over_issued": true})).await?;
    assert_eq!((&recalled["recalled"], &recalled["complete"]), (&json!([first]), &json!(true)), "{recalled}");
    app.operate(Method::PATCH, "", json!({"ends_at": "2020-11-01T00:00:00+08:00"})).await?;
    assert_eq!(kinds().await?, ["\"unfulfilled\""]);
    for _ in 0..2 {
        let (_, fulfilled) = app.call("/fulfil", json!(null)).await?;
        assert_eq!((&fulfilled["waiting"], &fulfilled["complete"]), (&json!(0), &json!(true)), "{fulfilled}");
    }
    assert_eq!(kinds().await?, Vec::<String>::new());
    let standing = app.read("/participants/u1").await?;
    let states: Vec<_> = list(&standing["cards"]).iter().map(|claim| claim["state"].as_str().unwrap_or("")).collect();
    assert_eq!((states, &standing["paid_count"]), (vec!["issued", "recalled"], &json!(1)), "{standing}");

    // Held on every path while `register` is off, the stream's too; what is held is not paid, and is shown so.
    app.operate(Method::PATCH, "", json!({"register": false})).await?;
    app.call("/invitations", invitation("u1", 2)).await?;
    app.xadd(STREAM, [[("message".to_owned(), opened_on_redis(2).to_string())]]).await?;
    let (_, drained) = answered(app.post("/rewards/drain")).await?;
    assert_eq!((&drained["read"], &drained["left"]), (&json!(1), &json!(0)), "{drained}");
    let (_, held) = app.get_json(&format!("{BASE}/registrations/friend-2")).await?;
    assert_eq!((&held["held"], &held["due"], &held["claim"]), (&json!(true), &json!(true), &json!(null)), "{held}");
    assert_eq!(app.read("/participants/u1").await?["paid_count"], 1);
    assert!(app.audit().await?.0.is_empty(), "what was given stays due, and what is held is not yet");
    app.operate(Method::PATCH, "", json!({"register": true})).await?;
    let (_, paid) = app.get_json(&format!("{BASE}/registrations/friend-2")).await?;
    assert_eq!((&paid["held"], &paid["claim"]["state"]), (&json!(false), &json!("waiting")), "{paid}");
    let invitees = app.read("/participants/u1/invitees?limit=1").await?;
    let cursor = invitees["next_cursor"].as_str().context("there is more")?;
    let rest = app.read(&format!("/participants/u1/invitees?cursor={cursor}")).await?;
    assert_eq!((&rest["items"][0]["invitee"], &rest["items"][0]["paid"]), (&json!("friend-2"), &json!(false)));

    // Switched off, at once, whichever way it is asked.
    app.operate(Method::PATCH, "", json!({"switches": {"query": false, "invite": false}})).await?;
    assert_eq!(app.get_json(&format!("{BASE}/participants/u1")).await?.0, 403);
    assert_eq!(app.get_json(&format!("/rewards/claims/{first}")).await?.0, 403);
    assert_eq!(app.get_json("/rewards/claims?activity_id=autumn").await?.0, 403);
    assert_eq!(app.get_json("/rewards/claims?user_id=u1").await?.1["items"], json!([]));
    let (status, problem) = app.call("/invitations", invitation("u1", 3)).await?;
    assert_eq!((status, &problem["type"]), (403, &json!("urn:clinic:problem:switched-off")));
    let mut colon = campaign();
    colon["id"] = json!("autumn:2");
    assert_eq!(answered(app.admin(Method::POST, "/rewards/activities").json(&colon)).await?.0, 400);
    Ok(())
}

#[tokio::test]
async fn what_is_wrong_is_named_and_nothing_of_it_is_stored() -> Result<()> {
    let app = App::http(|builder| builder).await?;
    app.create().await?;
    let (status, _) = answered(app.admin(Method::POST, "/rewards/activities").json(&campaign())).await?;
    assert_eq!(status, 200, "the same again");
    let mut other = campaign();
    other["name"] = json!("another");
    assert_eq!(answered(app.admin(Method::POST, "/rewards/activities").json(&other)).await?.0, 409);
    assert_eq!(answered(app.post("/rewards/activities").json(&campaign())).await?.0, 403, "operators alone");

    let (status, problem) =
        app.call("/registrations", json!([opened(1), {"event_id": "a b", "new_customer": 1}])).await?;
    let pointers: Vec<_> =
        list(&problem["errors"]).iter().map(|error| error["pointer"].as_str().unwrap_or("")).collect();
    assert_eq!((status, pointers), (400, vec!["/1/event_id", "/1/invitee", "/1/opened_at", "/1/new_customer"]));
    assert_eq!(app.get_json(&format!("{BASE}/registrations/friend-1")).await?.0, 404);
    let elsewhere = answered(app.post("/rewards/activities/none/registrations").json(&opened(1))).await?;
    assert_eq!(elsewhere.0, 404);
    let plain = app.admin(Method::POST, &format!("{BASE}/cards")).header("content-type", "text/plain").body("x");
    assert_eq!(answered(plain).await?.0, 415);
    let (status, problem) = app.get_json("/rewards/claims?state=lost&limit=0").await?;
    assert_eq!((status, list(&problem["errors"]).len()), (400, 2), "{problem}");
    Ok(())
}

#[tokio::test]
async fn events_come_by_the_stream_and_by_the_channel() -> Result<()> {
    let app = App::start().await?;
    app.create().await?;
    app.import(cards(0, 2)).await?;
    app.call("/invitations", invitation("u1", 1)).await?;
    app.call("/invitations", invitation("u1", 2)).await?;
    app.publish("accounts.opened", opened_on_redis(1).to_string()).await?;
    let points = json!({"type": "points", "activity_id": "autumn", "event_id": "p1", "user_id": "u1", "kind": "learning",
        "points": 7, "at": "2020-09-25T10:00:00+08:00"});
    let mut nowhere = opened_on_redis(3);
    nowhere["activity_id"] = json!("none");
    // An id that another type's event has is its own.
    nowhere["event_id"] = json!("p1");
    let entries = [opened_on_redis(2), points, nowhere, json!("no event")];
    app.xadd(STREAM, entries.map(|event| [("message".to_owned(), event.to_string())])).await?;
    app.gateway.wait_for(2, PATIENCE).await?;
    let mut connection = app.redis.as_ref().context("Redis runs")?.connection().await?;
    let mut dead = 0;
    for _ in 0..100 {
        dead = redis::cmd("XLEN").arg("accounts:stream:dead").query_async::<i64>(&mut connection).await?;
        if dead == 2 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(dead, 2, "what nobody can take is put aside");
    let standing = app.read("/participants/u1").await?;
    assert_eq!(standing["points"], 47, "{standing}");
    Ok(())
}

/// 736 registrations were due; overlapping timer runs paid 2,166 cards for them. Here each is told three times over, by
/// 16 clients and by the stream, while settlements overlap and the host is killed twice.
#[tokio::test]
async fn overlapping_runs_pay_736_referrals_with_736_cards_and_not_2166() -> Result<()> {
    const DUE: usize = 736;
    // Of the settlement, beside the referrals': eight inviters have a full sum with what they learned.
    const SETTLED: usize = 8 * 5;
    let mut app = App::start_on(Redis::builder().append_only(true).start().await?, |builder| builder).await?;
    app.create().await?;
    app.import(cards(0, DUE + 100)).await?;
    let learned = (0..8).map(|user| json!({"event_id": format!("p{user}"), "user_id": format!("u{user}"), "kind": "learning", "points": 700, "at": "2020-09-25T10:00:00+08:00"}));
    assert_eq!(app.call("/points", learned.collect()).await?.0, 200);
    let invitations: Vec<Value> = (0..DUE).map(|number| invitation(&format!("u{}", number % 40), number)).collect();
    stream::iter(&invitations)
        .map(|invitation| app.call("/invitations", invitation.clone()))
        .buffer_unordered(16)
        .for_each(|answer| async move { assert_eq!(answer.expect("an answer").0, 201) })
        .await;
    for part in 0..3 {
        // A third of all by the stream, all of this third three times by HTTP, in different orders; some before a kill
        // and some after.
        let entries = (0..DUE).filter(|number| number % 3 == part);
        let entries = entries.map(|number| [("message".to_owned(), opened_on_redis(number).to_string())]);
        app.xadd(STREAM, entries).await?;
        let told: Vec<usize> = (0..3 * DUE).map(|place| (place * 7 + part) % DUE).filter(|n| n % 3 == part).collect();
        let app_ref = &app;
        let calls = stream::iter(told).map(|number| async move {
            // A call that a kill cut off is simply made again, as callers do: here by the next third.
            let _ = app_ref.call("/registrations", opened(number)).await;
            if number % 50 == 0 {
                let _ = app_ref.call("/settlements", json!({"period": "2020-09-22"})).await;
            }
        });
        if part < 2 {
            // Killed in the middle of it.
            let _ =
                tokio::time::timeout(Duration::from_millis(250), calls.buffer_unordered(16).collect::<Vec<_>>()).await;
            app.restart().await?;
        } else {
            calls.buffer_unordered(16).collect::<Vec<_>>().await;
        }
    }
    // What the kills cut off is told again.
    let app = Arc::new(app);
    stream::iter(0..DUE)
        .map(|number| {
            let app = Arc::clone(&app);
            async move { app.call("/registrations", opened(number)).await }
        })
        .buffer_unordered(16)
        .for_each(|answer| async move { assert_eq!(answer.expect("an answer").1["outcome"], "granted") })
        .await;
    // So that nothing comes after the audit: what a kill left of the stream, and then what is left of the period.
    loop {
        let (status, drained) = answered(app.post("/rewards/drain")).await?;
        ensure!(status == 200, "{drained}");
        if drained["left"] == 0 && drained["busy"] != true {
            break;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let settlements = (0..4).map(|_| app.call("/settlements", json!({"period": "2020-09-22"})));
    for settled in futures::future::join_all(settlements).await {
        assert_eq!(settled?.1["cards"], SETTLED);
    }
    let heard = |line: &Value| line["what"] == "registration" && line["path"] == "stream";
    assert!(app.runtime.logs("rewards-events").iter().any(heard), "the stream told of none");

    let (findings, last) = app.audit().await?;
    assert_eq!((findings.len(), &last["clean"]), (0, &json!(true)), "{findings:?} {last}");
    let cards = DUE + SETTLED;
    let issued = json!({"cards": cards, "fen": cards * 2000, "points": DUE * 20 + 8 * 700});
    assert_eq!(last["totals"]["issued"], issued, "{last}");
    let (mut cards_out, mut referrals) = (BTreeSet::new(), 0);
    let mut cursor = String::new();
    loop {
        let (_, page) = app.get_json(&format!("/rewards/claims?activity_id=autumn&limit=500{cursor}")).await?;
        for claim in list(&page["items"]) {
            assert_eq!(claim["state"], "issued");
            assert!(cards_out.insert(claim["card_no"].to_string()), "{claim}: a card in two hands");
            referrals += usize::from(claim["kind"] == "invite");
        }
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!((cards_out.len(), referrals), (cards, DUE));
    Ok(())
}

#[tokio::test]
async fn the_last_card_goes_to_one_of_64_and_63_wait() -> Result<()> {
    let app = App::http(|builder| builder).await?;
    app.create().await?;
    app.import(cards(0, 1)).await?;
    for number in 0..64 {
        app.call("/invitations", invitation(&format!("u{number}"), number)).await?;
    }
    let answers: Vec<_> = stream::iter(0..64)
        .map(|number| app.call("/registrations", opened(number)))
        .buffer_unordered(64)
        .collect()
        .await;
    let mut outcomes: BTreeMap<String, usize> = BTreeMap::new();
    for answer in answers {
        let (status, answer) = answer?;
        ensure!(status == 200, "{answer}");
        *outcomes.entry(answer["outcome"].as_str().unwrap_or_default().to_owned()).or_default() += 1;
    }
    assert_eq!(outcomes, BTreeMap::from([("granted".to_owned(), 1), ("waiting".to_owned(), 63)]));
    // As the operator finds it, and as an import heals it.
    let (findings, _) = app.audit().await?;
    assert_eq!(findings.iter().filter(|finding| finding["finding"] == "unfulfilled").count(), 63, "{findings:?}");
    app.import(cards(1, 63)).await?;
    let (findings, last) = app.audit().await?;
    assert_eq!((findings.len(), &last["totals"]["issued"]["cards"]), (0, &json!(64)), "{findings:?}");
    Ok(())
}
