//! `push` from an event to the gateway.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::Result;
use e2e::{API_TOKEN, App, PATIENCE};
use harness::{Answer, feeds::Update, http_client};
use serde_json::{Value, json};
use tokio::net::TcpStream;

/// Each scenario with one of its transitions, whom it tells, and in which words.
const SCENARIOS: [(&str, &str, &str, &str, &str); 15] = [
    ("payment_timed_out", "待支付", "已取消", "patient", "您的订单由于长时间没支付，已被取消。"),
    ("payment_succeeded", "支付中", "待接单", "nurse", "您有新的可接接单。"),
    ("unaccepted_for_2h", "高优先待接单", "退款中", "patient", "您的订单超时无人接单，正在给您退款。"),
    ("refund_approved", "退款申请中", "退款中", "patient", "您的退款已被同意，正在给您退款。"),
    ("nurse_cancelled", "服务中", "退款中", "patient", "抱歉！为您服务的护士已取消订单，正在给您退款。"),
    ("refund_requested", "服务完成", "退款申请中", "nurse", "您的订单患者正申请退款。"),
    ("refund_withdrawn", "服务纠纷", "服务完成", "nurse", "您的订单患者已取消退款"),
    ("nurse_accepted", "待接单", "待服务", "patient", "您的订单已接单，点击查看订单详情。"),
    (
        "refund_rejected_by_nurse",
        "退款申请中",
        "服务纠纷",
        "patient",
        "您的退款申请护士已拒绝，等待客服人员处理，点击查看订单详情",
    ),
    (
        "refund_request_timed_out",
        "退款申请中",
        "服务纠纷",
        "patient",
        "您的退款申请由于长时间无人确认，需等待客服人员处理，点击查看订单详情。",
    ),
    ("refund_rejected_by_support", "服务纠纷", "服务中", "patient", "您的退款申请客服人员已拒绝，点击查看订单详情。"),
    ("nurse_disputed", "服务中", "服务纠纷", "patient", "为您服务的护士选择进入纠纷，点击查看订单详情。"),
    ("service_started", "待服务", "服务中", "patient", "您的订单服务已开始，可以查看宣教内容，点击查看详情。"),
    ("service_overdue", "服务中", "服务超时", "nurse", "您的订单已超时，请尽快完成服务。"),
    ("service_completed", "服务中", "服务完成", "patient", "护士已完成订单所有服务步骤，请及时做出评价。"),
];

fn accepted(order_id: u64) -> Update {
    Update::new(order_id, "待接单", "待服务").by("nurse_accepted")
}

/// A message without what must differ from order to order.
fn without_order(message: &Value) -> Value {
    let order = message["order_id"].as_str().unwrap().to_owned();
    let mut message: Value = serde_json::from_str(&message.to_string().replace(&order, "ORDER")).unwrap();
    message["id"].take();
    message
}

#[tokio::test]
async fn every_scenario_in_every_feed_by_http_and_redis_gives_the_same_message() -> Result<()> {
    let app = App::start().await?;
    let at = Update::new(0, "", "").at;
    let mut by_http = Vec::new();
    let mut scenario_of = BTreeMap::new();
    for (index, (scenario, from, to, ..)) in SCENARIOS.iter().enumerate() {
        for feed in 0..3 {
            for by_redis in [false, true] {
                let order_id = 700_000 + index as u64 * 10 + feed * 2 + u64::from(by_redis);
                scenario_of.insert(order_id.to_string(), index);
                let update = Update::new(order_id, from, to).by(scenario).at(at);
                let event = match feed {
                    0 => update.maxwell(),
                    1 => update.canal(),
                    _ => update.debezium(),
                };
                if by_redis {
                    app.publish("orders", event.to_string()).await?;
                } else {
                    by_http.push(event);
                }
            }
        }
    }
    let (status, answer) = app.answer("/push/events", Value::Array(by_http).to_string()).await?;
    assert_eq!(status, 202);
    let outcomes: Vec<_> = answer["results"].as_array().unwrap().iter().map(|result| &result["outcome"]).collect();
    assert_eq!(outcomes, vec!["sent"; 45]);

    let received = app.gateway.wait_for(90, PATIENCE).await?;
    let mut messages: BTreeMap<usize, Vec<Value>> = BTreeMap::new();
    for request in &received {
        assert!(request.verified, "{:?}", request.headers);
        assert_eq!(request.path, "/messages");
        let message = request.message();
        assert_eq!(request.id(), message["id"].as_str().unwrap());
        assert!(request.header("content-length").is_some() && request.header("transfer-encoding").is_none());
        messages.entry(scenario_of[message["order_id"].as_str().unwrap()]).or_default().push(message);
    }
    for (index, (scenario, _, _, role, body)) in SCENARIOS.iter().enumerate() {
        let first = without_order(&messages[&index][0]);
        assert_eq!(first["scenario"], *scenario);
        assert_eq!(first["body"], *body);
        assert_eq!(first["recipient"]["role"], *role);
        assert_eq!(first["channel"], if *role == "patient" { "wechat" } else { "app" });
        assert_eq!(messages[&index].len(), 6, "{scenario}");
        for message in &messages[&index] {
            assert_eq!(without_order(message), first);
        }
    }
    // Each has an id of its own.
    let ids: std::collections::BTreeSet<_> = received.iter().map(|request| request.id().to_owned()).collect();
    assert_eq!(ids.len(), 90);
    Ok(())
}

#[tokio::test]
async fn a_delivered_message_is_logged_as_the_operators_know_it() -> Result<()> {
    let app = App::start().await?;
    app.publish("orders", accepted(98001).maxwell().to_string()).await?;
    app.gateway.wait_for(1, PATIENCE).await?;
    let line = app.runtime.wait_for_log("push-events", PATIENCE, |line| line["operate"] == "护士接单").await?;
    assert_eq!(line["userId"], 98);
    let time = line["successTime"].as_str().unwrap();
    assert_eq!((time.len(), &time[4..5], &time[10..11], &time[19..20]), (23, "-", " ", "."), "{time}");
    assert_eq!((&line["what"], &line["outcome"], &line["path"]), (&json!("message"), &json!("sent"), &json!("redis")));
    assert!(line["duration_ms"].is_number() && line["version"].is_string());
    for secret in [API_TOKEN, app.gateway.secret(), "王芳"] {
        assert!(!app.runtime.logs("push-events").iter().any(|line| line.to_string().contains(secret)));
    }
    Ok(())
}

#[tokio::test]
async fn what_cannot_be_read_on_the_channel_is_logged_and_the_next_message_delivered() -> Result<()> {
    let app = App::start().await?;
    let lines = format!("nonsense\n{}\nnonsense\n{}\n", accepted(1).maxwell(), accepted(2).canal());
    for payload in [&b"\xff\xfe"[..], b"", b"{\"a\":", lines.as_bytes()] {
        app.publish("orders", payload).await?;
    }
    app.publish("orders", b"[]").await?;
    app.publish("orders", json!([accepted(3).maxwell(), {"x": 1}, accepted(4).debezium()]).to_string()).await?;
    let received = app.gateway.wait_for(4, PATIENCE).await?;
    let mut orders: Vec<_> = received.iter().map(|request| request.message()["order_id"].to_string()).collect();
    orders.sort();
    assert_eq!(orders, ["\"1\"", "\"2\"", "\"3\"", "\"4\""]);
    let rejected = |line: &&Value| line["what"] == "event" && line["outcome"] == "rejected" && line["path"] == "redis";
    app.runtime
        .wait_for_log("push-events", PATIENCE, |line| line["detail"].to_string().contains("not an event of"))
        .await?;
    assert_eq!(app.runtime.logs("push-events").iter().filter(rejected).count(), 7);
    Ok(())
}

#[tokio::test]
async fn a_payload_of_too_many_events_is_cut_short_with_one_line_in_the_log() -> Result<()> {
    let app = App::start().await?;
    // Few lines, of which one holds more events than a payload may.
    let many = format!("[{}0]", "0,".repeat(10_000));
    let payload = format!("{}\n{many}\n{}\n", accepted(1).maxwell(), accepted(2).maxwell());
    app.publish("orders", payload).await?;
    app.publish("orders", accepted(3).maxwell().to_string()).await?;
    let received = app.gateway.wait_for(2, PATIENCE).await?;
    let orders: Vec<_> = received.iter().map(|request| request.message()["order_id"].clone()).collect();
    assert_eq!(orders, ["1", "3"]);
    let rejected: Vec<_> =
        app.runtime.logs("push-events").into_iter().filter(|line| line["outcome"] == "rejected").collect();
    assert_eq!(rejected.len(), 1, "{rejected:?}");
    assert!(rejected[0]["detail"].as_str().unwrap().contains("10000 events"));
    Ok(())
}

#[tokio::test]
async fn each_function_says_which_version_answers() -> Result<()> {
    let app = App::http(|builder| builder).await?;
    for function in ["push", "pharmacy", "images", "rewards"] {
        let answer = app.get(&format!("/{function}")).await?;
        assert_eq!(answer.status(), 200);
        assert!(answer.headers().contains_key("content-length"));
        let about: Value = answer.json().await?;
        assert_eq!(about, json!({"function": function, "version": env!("CARGO_PKG_VERSION")}));
        let missing = app.get(&format!("/{function}/nothing")).await?;
        assert_eq!(missing.status(), 404);
        assert_eq!(missing.headers()["content-type"], "application/problem+json");
    }
    let get = app.get("/push/format").await?;
    assert_eq!((get.status().as_u16(), &get.headers()["allow"]), (405, &"POST".parse()?));
    assert_eq!(get.json::<Value>().await?["type"], "urn:clinic:problem:method-not-allowed");
    Ok(())
}

#[tokio::test]
async fn only_a_known_token_may_call() -> Result<()> {
    let app = App::http(|builder| builder).await?;
    let url = app.runtime.url("/push/format");
    let client = http_client(PATIENCE);
    for token in [None, Some(""), Some("wrong"), Some("a-servic"), Some("a-service2")] {
        let mut request = client.post(&url).body(accepted(1).maxwell().to_string());
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let answer = request.send().await?;
        assert_eq!(answer.status(), 401, "{token:?}");
        assert_eq!(answer.headers()["www-authenticate"], "Bearer");
        let problem: Value = answer.json().await?;
        assert_eq!(problem["type"], "urn:clinic:problem:unauthorized");
    }
    assert!(app.gateway.received().is_empty());
    Ok(())
}

#[tokio::test]
async fn an_empty_token_in_the_configuration_lets_nobody_in() -> Result<()> {
    let app = App::http(|builder| builder.variables([("api_token", ""), ("admin_token", " ")])).await?;
    let client = http_client(PATIENCE);
    for value in ["Bearer ", "Bearer", "Bearer  ", "Bearer a-service"] {
        let request = client.post(app.runtime.url("/push/format")).header("authorization", value).body("{}");
        assert_eq!(request.send().await?.status(), 401, "{value:?}");
    }
    Ok(())
}

#[tokio::test]
async fn format_shows_the_messages_and_sends_none() -> Result<()> {
    let app = App::http(|builder| builder).await?;
    let unknown = accepted(2).maxwell().to_string().replace("待服务", "归档");
    let events = format!(
        "[{},{unknown},{{}},{},{}]",
        accepted(1).maxwell(),
        Update::new(3, "退款申请中", "服务纠纷").maxwell(),
        Update::new(4, "退款中", "已退款").maxwell()
    );
    let (status, answer) = app.answer("/push/format", events).await?;
    assert_eq!(status, 200);
    let results = answer["results"].as_array().unwrap();
    let outcomes: Vec<_> = results.iter().map(|result| result["outcome"].as_str().unwrap()).collect();
    assert_eq!(outcomes, ["formatted", "rejected", "rejected", "ambiguous", "ignored"]);
    assert_eq!(results[0]["scenario"], "nurse_accepted");
    assert_eq!(results[0]["messages"][0]["body"], "您的订单已接单，点击查看订单详情。");
    assert_eq!(results[0]["messages"][0]["nurse"], json!({"id": "17", "name": "王芳"}));
    assert!(results[1]["detail"].as_str().unwrap().contains("`归档`"));
    assert!(results[3]["detail"].as_str().unwrap().contains("refund_request_timed_out"));
    assert!(app.gateway.received().is_empty());
    Ok(())
}

#[tokio::test]
async fn bad_input_is_refused_with_every_fault_named() -> Result<()> {
    let app = App::http(|builder| builder).await?;
    let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
    let twice = br#"{"order_id":1,"order_id":2}"#.to_vec();
    for (body, says) in [
        (b"\xff\xfe{}".to_vec(), "not UTF-8"),
        (deep.into_bytes(), "recursion limit"),
        (twice, "`order_id` stands twice"),
        (b"{\"a\":".to_vec(), "not JSON"),
        (Vec::new(), "not JSON"),
        (b"{\"order_id\":1e999}".to_vec(), "out of range"),
    ] {
        for path in ["/push/format", "/push/events"] {
            let (status, problem) = app.answer(path, body.clone()).await?;
            assert_eq!((status, &problem["type"]), (400, &json!("urn:clinic:problem:bad-input")), "{says}");
            let detail = problem["errors"][0]["detail"].as_str().unwrap();
            assert!(detail.contains(says), "{detail}");
        }
    }
    let (status, problem) = app.answer("/push/format", r#"[{"order_id":"a b","from":"x","to":"y"},7]"#).await?;
    assert_eq!(status, 400);
    let pointers: Vec<_> =
        problem["errors"].as_array().unwrap().iter().map(|fault| fault["pointer"].as_str().unwrap()).collect();
    assert_eq!(pointers, ["/0/event_id", "/0/order_id", "/0/from", "/0/to", "/0/occurred_at", "/1"]);
    let (status, _) = app.answer("/push/format", "[]").await?;
    assert_eq!(status, 400);
    assert!(app.gateway.received().is_empty());
    Ok(())
}

#[tokio::test]
async fn a_body_over_a_mebibyte_is_refused_before_it_is_read_whole() -> Result<()> {
    let app = App::http(|builder| builder).await?;
    let event = accepted(1).maxwell().to_string();
    let at_limit = format!("{event}{}", " ".repeat(1024 * 1024 - event.len()));
    let (status, _) = app.answer("/push/format", at_limit).await?;
    assert_eq!(status, 200);
    // The length alone is enough: not a byte of the body is sent.
    let declared = app.begun("/push/format", "content-length: 1048577", b"").await?;
    assert!(declared.starts_with("HTTP/1.1 413 ") && declared.contains("urn:clinic:problem:too-large"), "{declared}");
    // Without a length it is the first byte too many, and the body has no end.
    let mut chunk = b"100001\r\n".to_vec();
    chunk.resize(chunk.len() + 0x10_0001, b' ');
    chunk.extend_from_slice(b"\r\n");
    let chunked = app.begun("/push/format", "transfer-encoding: chunked", &chunk).await?;
    assert!(chunked.starts_with("HTTP/1.1 413 "), "{chunked}");
    Ok(())
}

#[tokio::test]
async fn ndjson_is_answered_line_by_line_while_it_comes() -> Result<()> {
    const EVENTS: usize = 10_000;
    let app = App::http(|builder| builder).await?;
    let (lines, body) = tokio::sync::mpsc::channel::<Result<String, std::io::Error>>(4);
    let body = reqwest::Body::wrap_stream(tokio_stream::wrappers::ReceiverStream::new(body));
    let line = |n: usize| {
        let event = match n % 3 {
            0 => accepted(n as u64).maxwell(),
            1 => accepted(n as u64).canal(),
            _ => accepted(n as u64).debezium(),
        };
        format!("{event}\n")
    };
    // A first line that nobody can read spoils nothing.
    let head: String = (0..100).map(line).collect();
    lines.send(Ok(format!("nonsense\n{head}"))).await?;
    let request = app.post("/push/format").header("content-type", "application/x-ndjson").body(body);
    let mut answer = request.send().await?;
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["content-type"], "application/x-ndjson");
    let mut text = answer.chunk().await?.unwrap().to_vec();
    assert!(!text.is_empty());
    let rest = tokio::spawn(async move {
        for n in (100..EVENTS).step_by(50) {
            let batch: String = (n..n + 50).map(line).collect();
            lines.send(Ok(batch)).await.unwrap();
        }
    });
    while let Some(chunk) = answer.chunk().await? {
        text.extend_from_slice(&chunk);
    }
    rest.await?;
    let results: Vec<Value> =
        String::from_utf8(text)?.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(results.len(), EVENTS + 1);
    assert_eq!(results[0]["outcome"], "rejected");
    assert!(results[0]["detail"].as_str().unwrap().starts_with("line 1: not JSON"));
    for (n, result) in results[1..].iter().enumerate() {
        assert_eq!(result["messages"][0]["order_id"], n.to_string());
    }
    Ok(())
}

#[tokio::test]
async fn lines_are_told_from_one_event_without_a_content_type_and_none_readable_is_400() -> Result<()> {
    let app = App::http(|builder| builder).await?;
    let lines = format!("{}\n\n{}", accepted(1).maxwell(), accepted(2).canal());
    let answer = app.post("/push/events").body(lines).send().await?;
    assert_eq!((answer.status().as_u16(), answer.headers()["content-type"].to_str()?), (202, "application/x-ndjson"));
    assert_eq!(answer.text().await?.lines().count(), 2);
    assert_eq!(app.gateway.wait_for(2, PATIENCE).await?.len(), 2);

    let pretty = serde_json::to_string_pretty(&accepted(3).maxwell())?;
    assert_eq!(app.answer("/push/format", pretty).await?.0, 200);

    let request = app.post("/push/format").header("content-type", "application/x-ndjson").body("a\nb\n{}\n");
    let answer = request.send().await?;
    assert_eq!(answer.status(), 400);
    let problem: Value = answer.json().await?;
    assert_eq!(problem["errors"].as_array().unwrap().len(), 3);
    for empty in ["", "\n\n", "[]"] {
        let request = app.post("/push/events").header("content-type", "application/x-ndjson").body(empty);
        let answer = request.send().await?;
        assert_eq!(answer.status(), 400);
        assert_eq!(answer.json::<Value>().await?["errors"][0]["detail"], "has no event");
    }
    Ok(())
}

#[tokio::test]
async fn a_failed_delivery_says_why_and_is_made_up_for_under_the_same_id() -> Result<()> {
    let app = App::http(|builder| builder).await?;
    let events = json!([accepted(1).maxwell(), accepted(2).maxwell()]).to_string();
    app.gateway.answer_by(|n| if n == 1 { Answer::Status(500) } else { Answer::Ok });
    let (status, answer) = app.answer("/push/events", events).await?;
    assert_eq!(status, 202);
    let results = answer["results"].as_array().unwrap();
    let failed = results.iter().find(|result| result["outcome"] == "pending").unwrap();
    let message = &failed["messages"][0];
    assert_eq!((&message["state"], &message["detail"]), (&json!("pending"), &json!("the gateway answered 500")));
    assert!(results.iter().any(|result| result["outcome"] == "sent"));
    let line = app.runtime.wait_for_log("push", PATIENCE, |line| line["outcome"] == "retrying").await?;
    assert_eq!((&line["userId"], &line["detail"]), (&json!(98), &json!("the gateway answered 500")));
    assert_eq!(line.get("successTime"), None);

    let sent = deliver_until(&app, |answer| answer["sent"] == 1).await?;
    assert_eq!(sent["pending"], 0);
    let received = app.gateway.received();
    let tries = received.iter().filter(|request| request.id() == message["id"].as_str().unwrap());
    assert_eq!((received.len(), tries.count()), (3, 2));
    Ok(())
}

/// Calls `POST /push/deliver` as a scheduler does, until its answer is the one that is waited for.
async fn deliver_until(app: &App, is_it: impl Fn(&Value) -> bool) -> Result<Value> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let (status, answer) = app.answer("/push/deliver", "").await?;
        assert_eq!(status, 200, "{answer}");
        if is_it(&answer) {
            return Ok(answer);
        }
        assert!(Instant::now() < deadline, "{answer}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn a_gateway_that_never_answers_is_given_up_and_then_not_waited_for() -> Result<()> {
    let app = App::http(|builder| builder).await?;
    app.gateway.answer(Answer::Never);
    let events: Vec<_> = (0..40).map(|n| accepted(n).maxwell()).collect();
    let started = Instant::now();
    let (_, answer) = app.answer("/push/events", Value::Array(events).to_string()).await?;
    let results = answer["results"].as_array().unwrap();
    assert!(results.iter().all(|result| result["outcome"] == "pending"));
    assert_eq!(results[0]["messages"][0]["detail"], "the gateway did not answer in time");
    // Once five seconds, not forty times.
    let took = started.elapsed();
    assert!(Duration::from_millis(4500) < took && took < Duration::from_secs(15), "{took:?}");
    assert!(app.gateway.received().len() <= 16, "{}", app.gateway.received().len());
    app.gateway.answer(Answer::Ok);
    deliver_until(&app, |answer| answer["pending"] == 0).await?;
    let ids: std::collections::BTreeSet<_> =
        app.gateway.received().iter().map(|request| request.id().to_owned()).collect();
    assert_eq!(ids.len(), 40);
    Ok(())
}

/// An address where connecting hangs: a listener that takes no more connections, and what fills it.
async fn hanging() -> Result<(String, tokio::net::TcpListener, Vec<TcpStream>)> {
    let socket = tokio::net::TcpSocket::new_v4()?;
    socket.bind("127.0.0.1:0".parse()?)?;
    let listener = socket.listen(0)?;
    let address = listener.local_addr()?;
    let mut queued = Vec::new();
    while let Ok(connected) = tokio::time::timeout(Duration::from_millis(500), TcpStream::connect(address)).await {
        queued.push(connected?);
    }
    Ok((format!("http://{address}"), listener, queued))
}

#[tokio::test]
async fn a_gateway_that_cannot_be_connected_to_is_given_up_after_two_seconds() -> Result<()> {
    let (nowhere, _listener, _queued) = hanging().await?;
    let app = App::http(|builder| builder.variable("push_gateway", nowhere)).await?;
    app.get("/push").await?;
    let started = Instant::now();
    let (_, answer) = app.answer("/push/events", accepted(1).maxwell().to_string()).await?;
    assert_eq!(answer["results"][0]["messages"][0]["detail"], "the gateway did not answer in time");
    let took = started.elapsed();
    assert!(Duration::from_millis(1900) < took && took < Duration::from_millis(4500), "{took:?}");
    Ok(())
}

#[tokio::test]
async fn a_gateway_that_is_down_or_refuses_the_signature_is_a_named_failure() -> Result<()> {
    let nowhere = format!("http://127.0.0.1:{}", harness::port::free());
    let app = App::http(|builder| builder.variable("push_gateway", nowhere)).await?;
    let (_, answer) = app.answer("/push/events", accepted(1).maxwell().to_string()).await?;
    assert_eq!(answer["results"][0]["messages"][0]["detail"], "the gateway refused the connection");

    let other = "whsec_b3RoZXItc2VjcmV0LW9mLXRoaXJ0eS1ieXRlcy4u";
    let app = App::http(|builder| builder.variable("push_gateway_secret", other)).await?;
    let (_, answer) = app.answer("/push/events", accepted(1).maxwell().to_string()).await?;
    assert_eq!(answer["results"][0]["messages"][0]["detail"], "the gateway answered 401");
    assert!(!app.gateway.received()[0].verified);
    Ok(())
}

#[tokio::test]
async fn without_a_gateway_messages_go_to_the_log_and_say_so() -> Result<()> {
    let app = App::http(|builder| builder.variable("push_gateway", "")).await?;
    let (status, answer) = app.answer("/push/events", accepted(1).maxwell().to_string()).await?;
    assert_eq!((status, &answer["results"][0]["outcome"]), (202, &json!("logged")));
    let line = app.runtime.wait_for_log("push", PATIENCE, |line| line["operate"] == "护士接单").await?;
    assert_eq!(line["detail"], "no gateway is configured");
    Ok(())
}

#[tokio::test]
async fn faults_of_the_configuration_are_named_together() -> Result<()> {
    let app = App::http(|builder| {
        builder.variables([
            ("order_mapping", r#"{"columns": {"colour": "c"}, "statuses": {"1": "nowhere"}}"#),
            ("push_gateway_secret", ""),
            ("redis_url", "redis://127.0.0.1:6379/0"),
            ("wechat_template_id", ""),
        ])
    })
    .await?;
    let (status, problem) = app.answer("/push/format", accepted(1).maxwell().to_string()).await?;
    assert_eq!((status, &problem["type"]), (503, &json!("urn:clinic:problem:misconfigured")));
    let pointers: Vec<_> =
        problem["errors"].as_array().unwrap().iter().map(|fault| fault["pointer"].as_str().unwrap()).collect();
    assert_eq!(
        pointers,
        [
            "/variables/order_mapping/columns/colour",
            "/variables/order_mapping/statuses/1",
            "/variables/wechat_template_id",
            "/variables/push_gateway_secret",
            "/variables/redis_url"
        ]
    );
    for path in ["/pharmacy/drain", "/rewards/drain"] {
        let (status, problem) = app.answer(path, "").await?;
        assert_eq!(status, 503, "{path}");
        assert!(problem["errors"].to_string().contains("/variables/redis_url"), "{problem}");
    }
    Ok(())
}

#[tokio::test]
async fn the_operators_names_and_the_rows_channel_are_read() -> Result<()> {
    let mapping = json!({"columns": {"patient_mini_program_openid": "openid"}, "statuses": {"50": "awaiting_service"}});
    let app = App::http(|builder| builder.variable("order_mapping", mapping.to_string())).await?;
    let mut update = accepted(1);
    update.channel = Some("mini_program");
    let mut event = update.maxwell();
    event["data"]["status"] = json!(50);
    event["data"]["openid"] = json!("oMINI-1");
    let (_, answer) = app.answer("/push/format", event.to_string()).await?;
    let message = &answer["results"][0]["messages"][0];
    assert_eq!((&message["channel"], &message["payload"]["touser"]), (&json!("mini_program"), &json!("oMINI-1")));
    assert_eq!(message["payload"]["data"]["thing1"]["value"], "您的订单已接单，点击查看订单详情。");
    Ok(())
}
