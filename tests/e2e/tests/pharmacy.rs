//! `pharmacy` from a doctor's order to a partner's last call, on the real component with real servers around it.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use e2e::{API_TOKEN, App, PATIENCE, answered};
use harness::{
    Pharmacy, Redis,
    gateway::Answer,
    http_client,
    pharmacy::{STANDARD_SECRET, YIFENG_SECRET, now_ms, standard_headers, yifeng_sign},
};
use reqwest::Method;
use serde_json::{Value, json};

/// An order of one prescription drug, which no shipped rule minds.
fn order(order_no: &str) -> Value {
    json!({
        "order_no": order_no, "doctor_id": "d-17",
        "patient": {"id": "p-98", "name": "王芳", "phone": "13800138000"},
        "channel": "wechat",
        "prescription": {"id": "rx-1", "diagnosis": ["高血压"], "lines": [line("rx", 2, Some(28))]},
        "address": "上海市徐汇区某路1号", "amount_fen": 12_800,
    })
}

fn line(category: &str, quantity: i64, days: Option<i64>) -> Value {
    let mut line = json!({"sku": format!("D-{category}"), "name": "药", "category": category, "quantity": quantity});
    if let Some(days) = days {
        line["days"] = days.into();
    }
    line
}

fn with_lines(order_no: &str, lines: Value) -> Value {
    let mut order = order(order_no);
    order["prescription"]["lines"] = lines;
    order
}

fn payment() -> Value {
    json!({"payment_id": "pay-1", "paid_at": "2026-11-21T09:00:00+08:00", "amount_fen": 12_800})
}

/// The application without Redis, with both partners at `pharmacy`.
async fn app_with(pharmacy: &Pharmacy) -> Result<App> {
    App::http(|builder| builder.variables(accounts(pharmacy))).await
}

fn accounts(pharmacy: &Pharmacy) -> [(&'static str, String); 4] {
    [
        ("yifeng_origin", pharmacy.url()),
        ("yifeng_secret", YIFENG_SECRET.into()),
        ("standard_origin", pharmacy.url()),
        ("standard_secret", STANDARD_SECRET.into()),
    ]
}

async fn place(app: &App, order: &Value) -> Result<(u16, Value)> {
    app.answer("/pharmacy/orders", order.to_string()).await
}

async fn pay(app: &App, order_no: &str) -> Result<(u16, Value)> {
    app.answer(&format!("/pharmacy/orders/{order_no}/payment"), payment().to_string()).await
}

async fn review(app: &App, order_no: &str, pharmacist: &str, decision: &str) -> Result<(u16, Value)> {
    let body = json!({"pharmacist_id": pharmacist, "decision": decision, "note": "seen"});
    app.answer(&format!("/pharmacy/orders/{order_no}/review"), body.to_string()).await
}

async fn status(app: &App, order_no: &str) -> Result<Value> {
    let (status, order) = app.get_json(&format!("/pharmacy/orders/{order_no}")).await?;
    ensure!(status == 200, "{order}");
    Ok(order["status"].clone())
}

/// Places and pays.
async fn paid(app: &App, order_no: &str) -> Result<()> {
    let (status, answer) = place(app, &order(order_no)).await?;
    ensure!((status, &answer["status"]) == (201, &json!("awaiting_payment")), "{answer}");
    let (status, answer) = pay(app, order_no).await?;
    ensure!((status, &answer["status"]) == (200, &json!("submitted")), "{answer}");
    Ok(())
}

/// A callback of `standard`.
async fn call_back(app: &App, secret: &str, id: &str, seconds: i64, body: &Value) -> Result<(u16, Value)> {
    let body = body.to_string();
    let request = http_client(PATIENCE)
        .post(app.runtime.url("/pharmacy/callbacks/standard"))
        .headers(standard_headers(secret, id, seconds, &body)?)
        .body(body);
    answered(request).await
}

/// A callback of `yifeng`.
async fn yifeng_call(app: &App, mut body: Value, secret: &str) -> Result<(u16, Value)> {
    body["sign"] = yifeng_sign(&body, secret).into();
    let url = app.runtime.url("/pharmacy/callbacks/yifeng");
    answered(http_client(PATIENCE).post(url).body(body.to_string())).await
}

async fn reported(app: &App, id: &str, order_no: &str, what: &str) -> Result<(u16, Value)> {
    call_back(app, STANDARD_SECRET, id, 0, &json!({"order_no": order_no, "status": what})).await
}

/// Submits as a scheduler does until the order has this status.
async fn until(app: &App, order_no: &str, expected: &str) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let found = status(app, order_no).await?;
        if found == expected {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "it is {found}, not {expected}");
        app.answer("/pharmacy/submit?seconds=5", "").await?;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// `doctor:d-17 order_taken`, of each message once.
fn messages(app: &App) -> Vec<String> {
    let mut seen = std::collections::BTreeSet::new();
    let received = app.gateway.received();
    let message = |message: Value| {
        let recipient = &message["recipient"];
        [&recipient["role"], &recipient["id"], &message["channel"], &message["scenario"], &message["order_id"]]
            .map(|part| part.as_str().unwrap_or("-").to_owned())
            .join(" ")
    };
    received
        .iter()
        .filter(|request| seen.insert(request.id().to_owned()))
        .map(|request| message(request.message()))
        .collect()
}

#[tokio::test]
async fn an_order_goes_from_the_doctor_to_the_patients_door() -> Result<()> {
    let pharmacy = Pharmacy::start()?;
    let app = app_with(&pharmacy).await?;
    let (created, answer) = place(&app, &order("ST-1")).await?;
    assert_eq!(created, 201);
    let first = json!({"order_no": "ST-1", "pharmacy": "standard", "status": "awaiting_payment", "reasons": []});
    assert_eq!(answer, first);
    assert!(pharmacy.received().is_empty(), "it is not paid");
    assert_eq!(pay(&app, "ST-1").await?.1["status"], "submitted");
    let received = pharmacy.wait_for(1, PATIENCE).await?;
    assert!(received[0].is_signed_by_standard());
    assert_eq!(received[0].json(), order("ST-1"));
    assert_eq!(received[0].path, "/orders");
    for (id, what) in [("cb-1", "accepted"), ("cb-2", "dispensed"), ("cb-3", "shipped"), ("cb-4", "delivered")] {
        let (ok, heard) = reported(&app, id, "ST-1", what).await?;
        assert_eq!((ok, &heard["status"], &heard["outcome"]), (200, &json!(what), &json!("applied")), "{heard}");
    }
    // The repetition of the order still gets its first answer.
    assert_eq!(place(&app, &order("ST-1")).await?, (200, first));
    let (_, whole) = app.get_json("/pharmacy/orders/ST-1").await?;
    let steps: Vec<_> = whole["history"].as_array().unwrap().iter().map(|step| step["to"].as_str().unwrap()).collect();
    assert_eq!(steps, ["received", "awaiting_payment", "submitted", "accepted", "dispensed", "shipped", "delivered"]);
    assert_eq!((&whole["order"], &whole["refund_due"]), (&order("ST-1"), &json!(false)));
    assert_eq!((&whole["payment"]["payment_id"], &whole["submission"]["state"]), (&json!("pay-1"), &json!("sent")));
    assert_eq!(
        messages(&app),
        [
            "doctor d-17 app order_taken ST-1",
            "patient p-98 wechat payment_due ST-1",
            "doctor d-17 app order_paid ST-1",
            "patient p-98 wechat order_paid ST-1",
            "patient p-98 wechat order_shipped ST-1",
        ]
    );
    assert_eq!(pharmacy.received().len(), 1);
    Ok(())
}

#[tokio::test]
async fn yifeng_is_spoken_to_in_its_own_words() -> Result<()> {
    let pharmacy = Pharmacy::start()?;
    pharmacy.answer(200, r#"{"code":0,"message":"ok"}"#);
    let app = app_with(&pharmacy).await?;
    paid(&app, "YF-1").await?;
    let received = pharmacy.wait_for(1, PATIENCE).await?;
    let body = received[0].json();
    assert!(received[0].is_signed_by_yifeng(), "{body}");
    assert_eq!(
        (&body["orderNo"], &body["rxNo"], &body["patientName"]),
        (&json!("YF-1"), &json!("rx-1"), &json!("王芳"))
    );
    let drug = &body["drugs"][0];
    assert_eq!((&drug["drugCode"], &drug["drugName"], &drug["num"]), (&json!("D-rx"), &json!("药"), &json!(2)));
    let body = |nonce: &str, status: &str, at_ms: i64| json!({"orderNo": "YF-1", "status": status, "timestamp": at_ms, "nonce": nonce});
    let now = now_ms();
    assert_eq!(yifeng_call(&app, body("n-1", "ACCEPTED", now), YIFENG_SECRET).await?.1["outcome"], "applied");
    assert_eq!(yifeng_call(&app, body("n-2", "SHIPPED", now), "another").await?.0, 401);
    assert_eq!(yifeng_call(&app, body("n-2", "SHIPPED", now), STANDARD_SECRET).await?.0, 401, "another partner's key");
    assert_eq!(yifeng_call(&app, body("n-2", "SHIPPED", now - 301_000), YIFENG_SECRET).await?.0, 401, "stale");
    let mut altered = body("n-2", "ACCEPTED", now);
    altered["sign"] = yifeng_sign(&altered, YIFENG_SECRET).into();
    altered["status"] = "SHIPPED".into();
    let url = app.runtime.url("/pharmacy/callbacks/yifeng");
    let request = http_client(PATIENCE).post(url).body(altered.to_string());
    assert_eq!(answered(request).await?.0, 401, "altered");
    assert_eq!(yifeng_call(&app, body("n-1", "SHIPPED", now), YIFENG_SECRET).await?.0, 409, "a nonce used again");
    assert_eq!(status(&app, "YF-1").await?, "accepted");
    assert_eq!(yifeng_call(&app, body("n-2", "SHIPPED", now), YIFENG_SECRET).await?.1["status"], "shipped");
    assert_eq!(
        yifeng_call(
            &app,
            json!({"orderNo": "ST-1", "status": "SHIPPED", "timestamp": now, "nonce": "n-9"}),
            YIFENG_SECRET
        )
        .await?
        .0,
        404
    );
    Ok(())
}

#[tokio::test]
async fn bad_input_is_refused_with_every_fault_and_nothing_is_kept() -> Result<()> {
    let app = App::http(|builder| builder).await?;
    let mut bad = order("ST-1");
    bad["channel"] = json!("fax");
    bad["amount_fen"] = json!("1");
    bad["prescription"]["lines"][0]["quantity"] = json!(0);
    bad["prescription"]["lines"][0]["category"] = json!("drug");
    let (status, problem) = place(&app, &bad).await?;
    assert_eq!((status, &problem["type"]), (400, &json!("urn:clinic:problem:bad-input")));
    let pointers: std::collections::BTreeSet<_> =
        problem["errors"].as_array().unwrap().iter().map(|fault| fault["pointer"].as_str().unwrap()).collect();
    let lines = "/prescription/lines/0";
    let expected = [&format!("{lines}/category"), &format!("{lines}/quantity"), "/amount_fen", "/channel"];
    assert_eq!(pointers, expected.into_iter().collect());
    let (status, problem) = place(&app, &order("ZZ-1")).await?;
    assert_eq!(status, 422);
    let detail = problem["errors"][0]["detail"].as_str().unwrap();
    assert!(detail.contains("YF") && detail.contains("ST"), "{problem}");
    for body in ["", "{", "[]", "null", "{\"order_no\":\"ST-1\",\"order_no\":\"ST-2\"}"] {
        assert_eq!(app.answer("/pharmacy/orders", body).await?.0, 400, "{body}");
    }
    let long = app.begun("/pharmacy/orders", "content-length: 1048577", b"").await?;
    assert!(long.starts_with("HTTP/1.1 413 ") && long.contains("urn:clinic:problem:too-large"), "{long}");
    let (_, page) = app.get_json("/pharmacy/orders").await?;
    assert_eq!(page, json!({"items": [], "next_cursor": null}));
    for path in ["/pharmacy/orders/ST-1", "/pharmacy/nothing"] {
        assert_eq!(app.get_json(path).await?.0, 404);
    }
    assert_eq!(app.get("/pharmacy/orders").await?.status(), 401);
    assert_eq!(app.get_json("/pharmacy/orders?status=lost&pharmacy=none&what=1").await?.0, 400);
    assert!(app.gateway.received().is_empty());
    Ok(())
}

#[tokio::test]
async fn an_orders_number_is_one_order() -> Result<()> {
    let app = App::http(|builder| builder).await?;
    assert_eq!(place(&app, &order("ST-1")).await?.0, 201);
    let mut reordered: Value = serde_json::from_str(&order("ST-1").to_string())?;
    reordered["patient"]["name"] = json!(" 王芳 ");
    assert_eq!(place(&app, &reordered).await?.0, 200, "the same but for space around a name");
    let mut other = order("ST-1");
    other["amount_fen"] = json!(1);
    let (status, problem) = place(&app, &other).await?;
    assert_eq!((status, &problem["type"]), (409, &json!("urn:clinic:problem:conflict")));
    app.gateway.wait_for(2, PATIENCE).await?;
    app.answer("/pharmacy/submit", "").await?;
    assert_eq!(messages(&app).len(), 2);
    Ok(())
}

#[tokio::test]
async fn orders_that_come_at_once_are_each_answered_for_themselves() -> Result<()> {
    let app = App::http(|builder| builder).await?;
    // So that it is sure who comes first.
    place(&app, &order("ST-0")).await?;
    let mut other = order("ST-0");
    other["amount_fen"] = json!(1);
    let mut orders: Vec<Value> = (0..60).map(|number| order(&format!("ST-{}", number % 40))).collect();
    orders.extend([other, order("ZZ-1"), with_lines("ST-77", json!([line("rx", 1, None)]))]);
    let posts = orders.iter().map(|order| {
        let request = app.post("/pharmacy/orders").body(order.to_string());
        tokio::spawn(answered(request))
    });
    let posts: Vec<_> = posts.collect();
    let mut statuses = std::collections::BTreeMap::new();
    for (order, post) in orders.iter().zip(posts) {
        let (status, answer) = post.await??;
        *statuses.entry(status).or_insert(0) += 1;
        if status < 300 {
            assert_eq!(answer["order_no"], order["order_no"]);
            let expected = if order["order_no"] == "ST-77" { "under_review" } else { "awaiting_payment" };
            assert_eq!(answer["status"], expected);
        }
    }
    assert_eq!(statuses.get(&201), Some(&40), "{statuses:?}");
    assert_eq!((statuses.get(&409), statuses.get(&422)), (Some(&1), Some(&1)), "{statuses:?}");
    Ok(())
}

#[tokio::test]
async fn rules_reject_or_queue_and_the_first_pharmacist_decides() -> Result<()> {
    let pharmacy = Pharmacy::start()?;
    let app = app_with(&pharmacy).await?;
    let (_, rejected) = place(&app, &with_lines("ST-1", json!([line("rx", 5_000, Some(7))]))).await?;
    assert_eq!(
        (&rejected["status"], &rejected["reasons"][0]["rule"]),
        (&json!("rejected"), &json!("quantity_over_limit"))
    );
    let mut undiagnosed = order("ST-2");
    undiagnosed["prescription"]["diagnosis"] = json!([]);
    assert_eq!(place(&app, &undiagnosed).await?.1["reasons"][0]["rule"], "diagnosis_missing");
    let mixed = with_lines("ST-3", json!([line("otc", 1, None), line("rx", 1, Some(31)), line("tcm", 501, None)]));
    let (created, queued) = place(&app, &mixed).await?;
    assert_eq!(
        (created, &queued["status"], queued["reasons"].as_array().map(Vec::len)),
        (201, &json!("under_review"), Some(2))
    );
    assert_eq!(place(&app, &with_lines("ST-4", json!([line("otc", 1, None)]))).await?.1["status"], "awaiting_payment");
    assert_eq!(place(&app, &with_lines("ST-5", json!([line("rx", 1, None)]))).await?.1["status"], "under_review");

    let (_, page) = app.get_json("/pharmacy/reviews?limit=1").await?;
    let waiting = &page["items"][0];
    assert_eq!(waiting["order_no"], "ST-3");
    let lines = waiting["prescription"]["lines"].as_array().context("it has lines")?;
    assert!(lines.len() == 2 && lines.iter().all(|line| line["category"] != "otc"), "{waiting}");
    assert_eq!((&lines[0]["line"], &lines[1]["line"]), (&json!(1), &json!(2)), "as the reasons name them");
    assert!(waiting["reasons"].as_array().unwrap().iter().all(|reason| reason["line"] != 0), "{waiting}");
    assert!(!waiting.to_string().contains("13800138000"));
    let cursor = page["next_cursor"].as_str().context("there is more")?;
    let (_, page) = app.get_json(&format!("/pharmacy/reviews?limit=1&cursor={cursor}")).await?;
    assert_eq!((&page["items"][0]["order_no"], &page["next_cursor"]), (&json!("ST-5"), &Value::Null));

    assert_eq!(pay(&app, "ST-3").await?.0, 409, "it is not yet to be paid");
    let (ok, approved) = review(&app, "ST-3", "ph-1", "approve").await?;
    assert_eq!((ok, &approved["status"]), (200, &json!("awaiting_payment")));
    assert_eq!(review(&app, "ST-3", "ph-1", "approve").await?, (200, approved), "repeated");
    let (conflict, told) = review(&app, "ST-3", "ph-2", "reject").await?;
    assert_eq!(conflict, 409);
    assert!(told["detail"].as_str().unwrap().contains("`ph-1` approved"), "{told}");
    assert_eq!(review(&app, "ST-5", "ph-2", "reject").await?.1["status"], "rejected");
    assert_eq!(review(&app, "ST-4", "ph-2", "reject").await?.0, 409, "it waits for no review");
    assert_eq!(review(&app, "ST-9", "ph-2", "reject").await?.0, 404);
    assert_eq!(review(&app, "ST-5", "ph 2", "maybe").await?.1["errors"].as_array().map(Vec::len), Some(2));
    assert_eq!(app.get_json("/pharmacy/reviews").await?.1["items"], json!([]));
    app.gateway.wait_for(11, PATIENCE).await?;
    let of = |order: &str| messages(&app).into_iter().filter(|message| message.ends_with(order)).collect::<Vec<_>>();
    assert_eq!(of("ST-1"), ["doctor d-17 app order_refused ST-1"]);
    assert_eq!(
        of("ST-3"),
        [
            "doctor d-17 app order_under_review ST-3",
            "patient p-98 wechat review_pending ST-3",
            "patient p-98 wechat payment_due ST-3"
        ]
    );
    assert_eq!(of("ST-5").len(), 4);
    let (_, page) = app.get_json("/pharmacy/orders?status=rejected&pharmacy=standard&limit=2").await?;
    let listed: Vec<_> = page["items"].as_array().unwrap().iter().map(|item| item["order_no"].clone()).collect();
    assert_eq!(listed, ["ST-5", "ST-2"]);
    Ok(())
}

#[tokio::test]
async fn a_payment_must_match_and_counts_once() -> Result<()> {
    let pharmacy = Pharmacy::start()?;
    let app = app_with(&pharmacy).await?;
    place(&app, &order("ST-1")).await?;
    let path = "/pharmacy/orders/ST-1/payment";
    let mut less = payment();
    less["amount_fen"] = json!(1);
    let (refused, problem) = app.answer(path, less.to_string()).await?;
    assert_eq!((refused, &problem["errors"][0]["pointer"]), (422, &json!("/amount_fen")));
    assert_eq!(app.answer(path, "{}").await?.1["errors"].as_array().map(Vec::len), Some(3));
    let first = pay(&app, "ST-1").await?;
    assert_eq!(pay(&app, "ST-1").await?, first);
    let mut second = payment();
    second["payment_id"] = json!("pay-2");
    assert_eq!(app.answer(path, second.to_string()).await?.0, 409);
    assert_eq!(pay(&app, "ST-9").await?.0, 404);
    app.answer("/pharmacy/submit", "").await?;
    assert_eq!((pharmacy.received().len(), messages(&app).len()), (1, 4));
    Ok(())
}

#[tokio::test]
async fn a_callback_must_be_its_partners_and_of_now_and_counts_once() -> Result<()> {
    let pharmacy = Pharmacy::start()?;
    let app = app_with(&pharmacy).await?;
    paid(&app, "ST-1").await?;
    let accepted = json!({"order_no": "ST-1", "status": "accepted"});
    let foreign = "whsec_YW5vdGhlci1zZWNyZXQtb2YtdGhlLXRlc3RzLTAwMDI=";
    for (secret, seconds) in [(foreign, 0), (STANDARD_SECRET, -301), (STANDARD_SECRET, 302)] {
        assert_eq!(call_back(&app, secret, "cb-1", seconds, &accepted).await?.0, 401);
    }
    let url = app.runtime.url("/pharmacy/callbacks/standard");
    let headers = standard_headers(STANDARD_SECRET, "cb-1", 0, &accepted.to_string())?;
    let altered = accepted.to_string().replace("accepted", "delivered");
    let request = http_client(PATIENCE).post(&url).headers(headers).body(altered);
    assert_eq!(answered(request).await?.0, 401);
    assert_eq!(answered(http_client(PATIENCE).post(&url).body(accepted.to_string())).await?.0, 401);
    assert_eq!(status(&app, "ST-1").await?, "submitted");

    assert_eq!(reported(&app, "cb-1", "ST-1", "shipped").await?.1["outcome"], "applied");
    assert_eq!(reported(&app, "cb-1", "ST-1", "shipped").await?.1["outcome"], "repeated", "the same id");
    assert_eq!(reported(&app, "cb-1", "ST-1", "delivered").await?.0, 409, "the same id with something else");
    assert_eq!(reported(&app, "cb-2", "ST-1", "accepted").await?.1["outcome"], "late");
    assert_eq!(reported(&app, "cb-3", "ST-1", "out_of_stock").await?.1["outcome"], "late");
    assert_eq!(status(&app, "ST-1").await?, "shipped");
    assert_eq!(messages(&app).iter().filter(|message| message.contains("order_shipped")).count(), 1);

    place(&app, &order("ST-2")).await?;
    assert_eq!(reported(&app, "cb-4", "ST-2", "accepted").await?.0, 409, "the pharmacy does not have it");
    pay(&app, "ST-2").await?;
    assert_eq!(reported(&app, "cb-4", "ST-2", "accepted").await?.0, 200, "what was refused may come again");
    assert_eq!(reported(&app, "cb-5", "YF-2", "accepted").await?.0, 404);
    assert_eq!(reported(&app, "cb-6", "ST-2", "lost").await?.0, 400);
    let request = http_client(PATIENCE).post(app.runtime.url("/pharmacy/callbacks/nobody")).body("{}");
    assert_eq!(answered(request).await?.0, 404);
    Ok(())
}

#[tokio::test]
async fn an_order_is_called_off_and_its_partner_told() -> Result<()> {
    let pharmacy = Pharmacy::start()?;
    let app = app_with(&pharmacy).await?;
    let cancel = async |order_no: &str| app.answer(&format!("/pharmacy/orders/{order_no}/cancel"), "").await;
    place(&app, &order("ST-1")).await?;
    let (ok, answer) = cancel("ST-1").await?;
    assert_eq!((ok, &answer["status"], &answer["refund_due"]), (200, &json!("cancelled"), &Value::Null));
    assert_eq!(cancel("ST-1").await?.0, 200);
    assert_eq!(pay(&app, "ST-1").await?.0, 409);
    assert!(pharmacy.received().is_empty());
    paid(&app, "ST-2").await?;
    assert_eq!(cancel("ST-2").await?.1["refund_due"], true);
    let received = pharmacy.wait_for(2, PATIENCE).await?;
    assert_eq!((received[1].path.as_str(), received[1].json()), ("/orders/cancel", json!({"order_no": "ST-2"})));
    assert!(received[1].is_signed_by_standard());
    assert_eq!(reported(&app, "cb-1", "ST-2", "shipped").await?.1["outcome"], "late");
    assert_eq!(app.get_json("/pharmacy/orders/ST-2").await?.1["refund_due"], true);
    paid(&app, "ST-3").await?;
    reported(&app, "cb-2", "ST-3", "shipped").await?;
    assert_eq!(cancel("ST-3").await?.0, 409);
    assert_eq!(cancel("ST-9").await?.0, 404);
    Ok(())
}

#[tokio::test]
async fn a_partner_that_keeps_an_order_which_is_called_off_is_seen() -> Result<()> {
    let pharmacy = Pharmacy::start()?;
    let app = app_with(&pharmacy).await?;
    for (order_no, status, answer, reason) in [
        ("ST-1", 409, r#"{"reason":"packed already"}"#, Some("packed already")),
        ("ST-2", 422, r#"{"detail":"too late"}"#, Some("too late")),
        ("ST-3", 405, "", Some("the pharmacy answered 405")),
        ("YF-4", 200, r#"{"code":1003,"message":"已发货"}"#, Some("已发货")),
        ("ST-5", 404, "", None),
        ("ST-6", 410, "", None),
        ("YF-7", 200, r#"{"code":0}"#, None),
    ] {
        pharmacy.answer(200, r#"{"code":0}"#);
        paid(&app, order_no).await?;
        pharmacy.answer(status, answer);
        let (ok, cancelled) = app.answer(&format!("/pharmacy/orders/{order_no}/cancel"), "").await?;
        assert_eq!((ok, &cancelled["status"]), (200, &json!("cancelled")));
        let (_, whole) = app.get_json(&format!("/pharmacy/orders/{order_no}")).await?;
        let last = whole["history"].as_array().unwrap().last().unwrap();
        match reason {
            Some(reason) => assert_eq!(
                (&last["event"], &last["to"], &last["detail"]),
                (&json!("cancel_refused"), &json!("cancelled"), &json!(reason))
            ),
            None => assert_eq!(last["event"], "cancelled", "{order_no}"),
        }
    }
    let alarm = |line: &Value| line["what"] == "alarm" && line["outcome"] == "cancel_refused" && line["key"] == "YF-4";
    app.runtime.wait_for_log("pharmacy", PATIENCE, alarm).await?;
    let (_, done) = app.answer("/pharmacy/submit", "").await?;
    assert_eq!(done["pending"], 0, "nothing is asked again");
    Ok(())
}

#[tokio::test]
async fn a_callback_for_an_order_that_its_partner_was_not_given_moves_nothing() -> Result<()> {
    // Without an origin the order waits.
    let app = App::http(|builder| builder.variables([("standard_secret", STANDARD_SECRET)])).await?;
    paid(&app, "ST-1").await?;
    let (refused, problem) = reported(&app, "cb-1", "ST-1", "accepted").await?;
    assert_eq!((refused, &problem["type"]), (409, &json!("urn:clinic:problem:wrong-state")));
    assert_eq!(status(&app, "ST-1").await?, "submitted");
    let (_, whole) = app.get_json("/pharmacy/orders/ST-1").await?;
    assert_eq!(whole["submission"]["state"], "pending", "{whole}");
    Ok(())
}

#[tokio::test]
async fn a_refusal_is_an_outcome_with_its_reason_and_no_retry() -> Result<()> {
    let pharmacy = Pharmacy::start()?;
    let app = app_with(&pharmacy).await?;
    pharmacy.answer(422, r#"{"status":"out_of_stock","reason":"氨氯地平 none left"}"#);
    paid(&app, "ST-1").await?;
    pharmacy.answer(200, r#"{"code":1002,"message":"unknown drug D-rx"}"#);
    paid(&app, "YF-2").await?;
    for (order_no, expected, reason) in
        [("ST-1", "out_of_stock", "氨氯地平 none left"), ("YF-2", "rejected", "unknown drug D-rx")]
    {
        let (_, whole) = app.get_json(&format!("/pharmacy/orders/{order_no}")).await?;
        assert_eq!((&whole["status"], &whole["refund_due"]), (&json!(expected), &json!(true)), "{whole}");
        assert_eq!(whole["history"].as_array().unwrap().last().unwrap()["detail"], reason);
    }
    app.answer("/pharmacy/submit", "").await?;
    assert_eq!(pharmacy.received().len(), 2);
    let told = messages(&app);
    assert_eq!(told.iter().filter(|message| message.contains(" out_of_stock ST-1")).count(), 2);
    assert_eq!(told.iter().filter(|message| message.contains(" pharmacy_rejected YF-2")).count(), 2);
    Ok(())
}

#[tokio::test]
async fn an_order_outlives_a_partner_that_is_down_and_one_that_is_up_does_not_wait_for_it() -> Result<()> {
    let address: SocketAddr = format!("127.0.0.1:{}", harness::port::free()).parse()?;
    let up = Pharmacy::start()?;
    let settings = [("yifeng_origin", format!("http://{address}"))];
    let app = App::http(|builder| builder.variables(accounts(&up)).variables(settings)).await?;
    for number in 0..10 {
        paid(&app, &format!("YF-{number}")).await?;
    }
    paid(&app, "ST-1").await?;
    up.wait_for(1, PATIENCE).await?;
    let (_, waiting) = app.answer("/pharmacy/submit", "").await?;
    assert_eq!(
        (&waiting["pharmacies"]["yifeng"]["pending"], &waiting["pharmacies"]["standard"]["pending"]),
        (&json!(10), &json!(0))
    );
    let (_, whole) = app.get_json("/pharmacy/orders/YF-0").await?;
    assert_eq!((&whole["status"], &whole["submission"]["state"]), (&json!("submitted"), &json!("pending")), "{whole}");
    assert!(whole["submission"]["attempted"][0]["detail"].as_str().unwrap().contains("refused the connection"));
    let (_, page) = app.get_json("/pharmacy/submissions?order_no=YF-0").await?;
    let submission = page["items"][0]["id"].as_str().context("it is listed")?;
    assert_eq!(app.get_json(&format!("/push/messages/{submission}")).await?.0, 404, "it is no message");
    let retry = app.admin(Method::POST, &format!("/push/messages/{submission}/retry"));
    assert_eq!(answered(retry).await?.0, 404);
    let back = Pharmacy::start_at(address)?;
    back.answer(200, r#"{"code":0,"status":"ACCEPTED"}"#);
    for number in 0..10 {
        until(&app, &format!("YF-{number}"), "accepted").await?;
    }
    let mut orders: Vec<_> = back.received().iter().map(|request| request.json()["orderNo"].to_string()).collect();
    orders.sort();
    orders.dedup();
    assert_eq!(orders.len(), 10);
    let (_, page) = app.get_json("/pharmacy/submissions?pharmacy=yifeng&state=sent&limit=4").await?;
    assert_eq!(page["items"].as_array().map(Vec::len), Some(4));
    Ok(())
}

#[tokio::test]
async fn a_partner_that_is_slow_or_answers_garbage_is_asked_again_under_the_same_id() -> Result<()> {
    let pharmacy = Pharmacy::start()?;
    let app = app_with(&pharmacy).await?;
    let calls = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    pharmacy.answer_by(move |_| {
        let call = calls.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        async move {
            match call {
                0 => {
                    tokio::time::sleep(Duration::from_secs(20)).await;
                    (200, String::new())
                }
                1 => (200, "<html>sorry</html>".into()),
                2 => (500, "{}".into()),
                3 => (200, "x".repeat(100_000)),
                _ => (200, r#"{"status":"accepted"}"#.into()),
            }
        }
    });
    let started = Instant::now();
    paid(&app, "ST-1").await?;
    assert!(started.elapsed() < Duration::from_secs(10), "the payment did not wait for the pharmacy");
    until(&app, "ST-1", "accepted").await?;
    let received = pharmacy.received();
    assert!(received.len() >= 5, "{}", received.len());
    let ids: std::collections::BTreeSet<_> = received.iter().map(|request| &request.headers["webhook-id"]).collect();
    assert_eq!(ids.len(), 1);
    Ok(())
}

#[tokio::test]
async fn a_partner_may_call_back_before_it_answers_and_answer_what_it_said_again() -> Result<()> {
    let pharmacy = Pharmacy::start()?;
    let app = app_with(&pharmacy).await?;
    let url = app.runtime.url("/pharmacy/callbacks/standard");
    pharmacy.answer_by(move |received| {
        let url = url.clone();
        async move {
            let order_no = received.json()["order_no"].clone();
            for (id, what) in [("a", "accepted"), ("b", "dispensed"), ("a", "accepted")] {
                let body = json!({"order_no": order_no, "status": what}).to_string();
                let id = format!("{id}-{}", order_no.as_str().unwrap());
                let headers = standard_headers(STANDARD_SECRET, &id, 0, &body).unwrap();
                let answer = http_client(PATIENCE).post(&url).headers(headers).body(body).send().await.unwrap();
                assert_eq!(answer.status(), 200);
            }
            (200, r#"{"status":"accepted"}"#.into())
        }
    });
    paid(&app, "ST-1").await?;
    until(&app, "ST-1", "dispensed").await?;
    app.answer("/pharmacy/submit", "").await?;
    let (_, whole) = app.get_json("/pharmacy/orders/ST-1").await?;
    assert_eq!(
        (&whole["status"], whole["history"].as_array().map(Vec::len)),
        (&json!("dispensed"), Some(5)),
        "{whole}"
    );
    assert_eq!(whole["submission"]["state"], "sent");
    assert_eq!(messages(&app).len(), 4);
    Ok(())
}

#[tokio::test]
async fn operators_try_replace_and_roll_back_rules() -> Result<()> {
    let app = App::http(|builder| builder).await?;
    let (_, shipped) = app.get_json("/pharmacy/rules").await?;
    assert_eq!((&shipped["version"], shipped["rules"].as_array().map(Vec::len)), (&json!(0), Some(6)));
    let toml = "[constants]\nmost = 1\n[[rules]]\nname = \"at_most\"\nwhen = \"line.quantity > most\"\n\
        action = \"reject\"\nmessage = \"too many\"\n";
    let (ok, checked) =
        app.answer("/pharmacy/rules/check", json!({"order": order("ST-1"), "rules": toml}).to_string()).await?;
    assert_eq!((ok, &checked["status"], &checked["version"]), (200, &json!("rejected"), &Value::Null), "{checked}");
    assert_eq!(checked["lines"][0]["fired"][0]["rule"], "at_most");
    let (_, checked) = app.answer("/pharmacy/rules/check", json!({"order": order("ST-1")}).to_string()).await?;
    assert_eq!((&checked["status"], &checked["version"]), (&json!("awaiting_payment"), &json!(0)));
    for nothing in [json!([]), json!("")] {
        let check = json!({"order": order("ST-1"), "rules": nothing});
        let (refused, problem) = app.answer("/pharmacy/rules/check", check.to_string()).await?;
        assert_eq!((refused, &problem["errors"][0]["pointer"]), (400, &json!("/rules")), "{problem}");
    }
    assert_eq!(app.get_json("/pharmacy/orders/ST-1").await?.0, 404, "checking keeps nothing");

    let put = |body: String| answered(app.admin(Method::PUT, "/pharmacy/rules").body(body));
    let by_service = http_client(PATIENCE).put(app.runtime.url("/pharmacy/rules")).bearer_auth(API_TOKEN).body(toml);
    assert_eq!(answered(by_service).await?.0, 403);
    assert_eq!(put(toml.replace("line.quantity >", "line.quantity > >")).await?.0, 400);
    assert_eq!(put(toml.replace("line.quantity", "lines.quantity")).await?.1["errors"][0]["pointer"], "/rules/0/when");
    let with = |expect: &str| {
        json!({"operator": "op-7", "rules": toml, "samples": [{"order": order("ST-0"), "expect": expect}]}).to_string()
    };
    let (refused, problem) = put(with("awaiting_payment")).await?;
    assert_eq!((refused, &problem["errors"][0]["pointer"]), (422, &json!("/samples/0")), "{problem}");
    assert_eq!(app.get_json("/pharmacy/rules").await?.1["version"], 0, "the old set stays");
    assert_eq!(place(&app, &order("ST-1")).await?.1["status"], "awaiting_payment");
    let (ok, put_set) = put(with("rejected")).await?;
    assert_eq!((ok, &put_set["version"], &put_set["operator"]), (200, &json!(1), &json!("op-7")), "{put_set}");
    assert_eq!(place(&app, &order("ST-2")).await?.1["status"], "rejected");

    let (ok, rolled_back) =
        answered(app.admin(Method::POST, "/pharmacy/rules/rollback").body(r#"{"version":0}"#)).await?;
    assert_eq!((ok, &rolled_back["version"], &rolled_back["rolled_back_to"]), (200, &json!(2), &json!(0)));
    assert_eq!(place(&app, &order("ST-3")).await?.1["status"], "awaiting_payment");
    let (_, history) = app.get_json("/pharmacy/rules/history").await?;
    let versions: Vec<_> = history["items"].as_array().unwrap().iter().map(|set| set["version"].clone()).collect();
    assert_eq!(versions, [2, 1, 0]);
    assert!(history["items"][0]["operator"].as_str().unwrap().starts_with("token-"));
    let rollback = |body: &'static str| answered(app.admin(Method::POST, "/pharmacy/rules/rollback").body(body));
    assert_eq!((rollback(r#"{"version":9}"#).await?.0, rollback("{}").await?.0), (404, 400));

    // What would go too deep for a component's stack is refused, and the component lives.
    for step in ["+1", "==1", ".a", "[0]", "||1==1"] {
        let deep = format!("1{} == 2", step.repeat(985 / step.len()));
        let check = json!({"order": order("ST-1"), "rules": toml.replace("line.quantity > most", &deep)});
        let (status, answer) = app.answer("/pharmacy/rules/check", check.to_string()).await?;
        assert!(matches!(status, 200 | 400), "{step}: {answer}");
    }
    let errs = toml.replace("line.quantity > most", "line.days > 1 && line.weight > 1");
    assert_eq!(put(errs).await?.1["version"], 3);
    let (_, queued) = place(&app, &order("ST-4")).await?;
    assert_eq!(queued["status"], "under_review");
    assert!(queued["reasons"][0]["error"].as_str().unwrap().contains("weight"), "{queued}");
    Ok(())
}

#[tokio::test]
async fn orders_come_by_channel_and_stream_and_what_is_none_is_put_aside() -> Result<()> {
    let app = App::start().await?;
    app.publish("pharmacy.orders", order("ST-1").to_string()).await?;
    app.publish("pharmacy.orders", "nonsense").await?;
    app.publish("pharmacy.orders", order("ZZ-1").to_string()).await?;
    let entry = |order: &Value| [("order".to_owned(), order.to_string())];
    let mut other = order("ST-2");
    other["amount_fen"] = json!(1);
    app.xadd("pharmacy:stream", [entry(&order("ST-2")), entry(&order("YF-3")), entry(&order("ZZ-2")), entry(&other)])
        .await?;
    app.gateway.wait_for(6, PATIENCE).await?;
    for order_no in ["ST-1", "ST-2", "YF-3"] {
        assert_eq!(status(&app, order_no).await?, "awaiting_payment");
    }
    assert_eq!(place(&app, &order("ST-1")).await?.0, 200, "every way in is the same way");
    let redis = app.redis.as_ref().context("Redis runs")?;
    let mut connection = redis.connection().await?;
    let length: i64 = redis::cmd("XLEN").arg("pharmacy:stream:dead").query_async(&mut connection).await?;
    assert_eq!(length, 2, "an unknown prefix, and a number used again");
    app.runtime
        .wait_for_log("pharmacy-events", PATIENCE, |line| {
            line["outcome"] == "rejected" && line["path"] == "redis" && line["detail"].to_string().contains("YF")
        })
        .await?;
    let nonsense = |line: &Value| line["path"] == "redis" && line["detail"].to_string().contains("not JSON");
    app.runtime.wait_for_log("pharmacy-events", PATIENCE, nonsense).await?;
    for secret in ["王芳", "13800138000", "徐汇区"] {
        let logs = [app.runtime.logs("pharmacy-events"), app.runtime.logs("pharmacy")].concat();
        assert!(!logs.iter().any(|line| line.to_string().contains(secret)), "{secret}");
    }
    Ok(())
}

#[tokio::test]
async fn the_stream_is_drained_by_http_where_no_trigger_hears_it() -> Result<()> {
    let app = App::http_on(Redis::start().await?, |builder| builder).await?;
    let entries: Vec<_> =
        (0..250).map(|number| [("order".to_owned(), order(&format!("ST-{number}")).to_string())]).collect();
    app.xadd("pharmacy:stream", entries).await?;
    let (ok, drained) = app.answer("/pharmacy/drain?deliver=false", "").await?;
    assert_eq!((ok, &drained["read"], &drained["left"]), (200, &json!(250), &json!(0)), "{drained}");
    let (_, stats) = app.get_json("/pharmacy/stats").await?;
    assert_eq!(stats["orders"]["awaiting_payment"], 250);
    let (_, done) = app.answer("/pharmacy/submit?seconds=25", "").await?;
    assert_eq!((&done["messages"]["sent"], &done["messages"]["pending"]), (&json!(500), &json!(0)), "{done}");
    Ok(())
}

#[tokio::test]
async fn a_drain_that_finds_no_redis_still_gives_partners_what_is_due() -> Result<()> {
    let address: SocketAddr = format!("127.0.0.1:{}", harness::port::free()).parse()?;
    let app = App::http(|builder| {
        builder
            .variables([("standard_origin", format!("http://{address}"))])
            .variables([("standard_secret", STANDARD_SECRET), ("redis_url", "redis://127.0.0.1:1")])
    })
    .await?;
    paid(&app, "ST-1").await?;
    let back = Pharmacy::start_at(address)?;
    let deadline = Instant::now() + PATIENCE;
    while back.received().is_empty() {
        let (status, problem) = app.answer("/pharmacy/drain?seconds=5", "").await?;
        assert_eq!(status, 503, "the stream cannot be read: {problem}");
        ensure!(Instant::now() < deadline, "nothing is submitted");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Ok(())
}

#[tokio::test]
async fn a_partner_whose_variables_have_faults_is_shut_alone() -> Result<()> {
    let pharmacy = Pharmacy::start()?;
    let faulty = [("standard_secret", "no secret"), ("standard_path", "orders")];
    let app = App::http(|builder| builder.variables(accounts(&pharmacy)).variables(faulty)).await?;
    pharmacy.answer(200, r#"{"code":0}"#);
    paid(&app, "ST-1").await?;
    paid(&app, "YF-1").await?;
    let received = pharmacy.wait_for(1, PATIENCE).await?;
    assert_eq!(received[0].json()["orderNo"], "YF-1");
    let (shut, problem) = reported(&app, "cb-1", "ST-1", "accepted").await?;
    assert_eq!((shut, problem["errors"].as_array().map(Vec::len)), (503, Some(2)), "{problem}");
    let body = json!({"orderNo": "YF-1", "status": "ACCEPTED", "timestamp": now_ms(), "nonce": "n-1"});
    assert_eq!(yifeng_call(&app, body, YIFENG_SECRET).await?.1["outcome"], "applied");
    let (ok, done) = app.answer("/pharmacy/submit", "").await?;
    assert_eq!((ok, &done["pharmacies"]["standard"]["pending"]), (200, &json!(1)), "{done}");
    assert_eq!(app.get_json("/pharmacy/stats").await?.1["submissions_pending"], json!({"standard": 1, "yifeng": 0}));
    let alarm =
        |line: &Value| line["what"] == "alarm" && line["outcome"] == "misconfigured" && line["key"] == "standard";
    app.runtime.wait_for_log("pharmacy", PATIENCE, alarm).await?;
    Ok(())
}

#[tokio::test]
async fn traffic_alone_submits_what_is_overdue() -> Result<()> {
    let address: SocketAddr = format!("127.0.0.1:{}", harness::port::free()).parse()?;
    let up = Pharmacy::start()?;
    let settings = [("yifeng_origin", format!("http://{address}"))];
    let app = App::http(|builder| builder.variables(accounts(&up)).variables(settings)).await?;
    paid(&app, "YF-1").await?;
    let back = Pharmacy::start_at(address)?;
    back.answer(200, r#"{"code":0}"#);
    let deadline = Instant::now() + PATIENCE;
    for number in 0.. {
        paid(&app, &format!("ST-{number}")).await?;
        if !back.received().is_empty() {
            break;
        }
        ensure!(Instant::now() < deadline, "nobody submits it");
    }
    Ok(())
}

#[tokio::test]
async fn no_line_of_the_log_tells_who_a_patient_is() -> Result<()> {
    let pharmacy = Pharmacy::start()?;
    let app = app_with(&pharmacy).await?;
    pharmacy.answer(200, r#"{"code":1003,"message":"王芳 13800138000"}"#);
    paid(&app, "YF-1").await?;
    pharmacy.answer(500, r#"{"detail":"王芳 lives at 徐汇区"}"#);
    paid(&app, "ST-1").await?;
    pharmacy.answer(409, r#"{"reason":"王芳 has it"}"#);
    app.answer("/pharmacy/orders/ST-1/cancel", r#"{"reason":"王芳 called 13800138000"}"#).await?;
    pharmacy.answer(200, "");
    paid(&app, "ST-2").await?;
    let body = json!({"order_no": "ST-2", "status": "rejected", "reason": "王芳 is unknown"});
    assert_eq!(call_back(&app, STANDARD_SECRET, "cb-1", 0, &body).await?.0, 200);
    place(&app, &with_lines("ST-3", json!([line("rx", 1, None)]))).await?;
    let note = json!({"pharmacist_id": "ph-1", "decision": "reject", "note": "王芳 13800138000"});
    assert_eq!(app.answer("/pharmacy/orders/ST-3/review", note.to_string()).await?.0, 200);
    app.answer("/pharmacy/submit", "").await?;
    for what in ["order", "callback", "submission", "message"] {
        app.runtime
            .wait_for_log("pharmacy", PATIENCE, |line| line["what"] == what || line.get("operate").is_some())
            .await?;
    }
    let logs = app.runtime.logs("pharmacy");
    for what in ["order", "callback", "submission"] {
        assert!(logs.iter().any(|line| line["what"] == what), "{what}");
    }
    for secret in ["王芳", "13800138000", "徐汇区", STANDARD_SECRET, YIFENG_SECRET, API_TOKEN] {
        let told = logs.iter().find(|line| line.to_string().contains(secret));
        assert!(told.is_none(), "{secret}: {told:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_killed_host_loses_no_paid_order_and_tells_nobody_twice() -> Result<()> {
    let pharmacy = Pharmacy::start()?;
    let mut app = App::http(|builder| builder.variables(accounts(&pharmacy))).await?;
    let mut orders = Vec::new();
    for round in 0..3 {
        app.gateway.answer(if round == 1 { Answer::Status(500) } else { Answer::Ok });
        for number in 0..4 {
            let order_no = format!("ST-{round}-{number}");
            paid(&app, &order_no).await?;
            orders.push(order_no);
        }
        // One is being placed as the host dies.
        let dying = format!("ST-{round}-dying");
        let request = app.post("/pharmacy/orders").body(order(&dying).to_string()).send();
        let _ = tokio::time::timeout(Duration::from_millis(5 * round), request).await;
        app.runtime.kill();
        app.runtime.restart().await?;
        place(&app, &order(&dying)).await?;
        pay(&app, &dying).await?;
        orders.push(dying);
    }
    app.gateway.answer(Answer::Ok);
    answered(app.admin(Method::POST, "/push/retry?state=pending")).await?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let (_, done) = app.answer("/pharmacy/submit?seconds=5", "").await?;
        if done["pending"] == 0 && done["messages"]["pending"] == 0 {
            break;
        }
        ensure!(Instant::now() < deadline, "{done}");
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    for order_no in &orders {
        assert_eq!(status(&app, order_no).await?, "submitted");
        let told: Vec<_> = messages(&app).into_iter().filter(|message| message.ends_with(order_no)).collect();
        assert_eq!(told.len(), 4, "{told:?}");
        let given = pharmacy.received().iter().filter(|request| request.json()["order_no"] == *order_no).count();
        assert!(given >= 1, "{order_no}");
    }
    Ok(())
}
