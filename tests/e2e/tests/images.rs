//! `images` from a body to the same body on the new domain.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use e2e::{API_TOKEN, App, PATIENCE, answered};
use futures::future::join_all;
use reqwest::{Method, Response};
use rusqlite::Connection;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::sleep,
};
use tokio_stream::{StreamExt, wrappers::ReceiverStream};

const SIGN_KEYS: &str = "hmac-sha256=a-secret aliyun-a=aliyuncdnexp1234";
const OLD: &str = "https://img10.360buyimg.com/a.jpg";
const NEW: &str = "https://img.hospital.example/a.jpg";
const PLACEHOLDER: &str = "https://img.hospital.example/removed.png";

fn rules(version: u32) -> Value {
    let rule = |name: &str, from: &[&str], contexts: &[&str], more: Value| {
        let mut rule =
            json!({"name": name, "from": from, "to": "img.hospital.example", "scheme": "https", "contexts": contexts});
        rule.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        rule
    };
    json!({"version": version, "placeholder": PLACEHOLDER, "rules": [
        rule("everywhere", &["img10.360buyimg.com", "*.many.example"], &["*"], json!({})),
        rule("avatars", &["avatars.example.org"], &["avatar"], json!({})),
        rule("stamps", &["stamps.example.org"], &["*"], json!({"sign": "hmac-sha256"})),
        rule("prescriptions", &["rx.example.org"], &["*"], json!({"sign": {"signer": "aliyun-a", "key": "aliyun-a"}})),
        rule("slowly", &["slow.example.org"], &["*"], json!({"rollout": {"users": ["u1"], "percent": 0}})),
        rule("new-apps", &["apps.example.org"], &["*"], json!({"rollout": {"percent": 100, "min_app_version": "3.2"}})),
    ]})
}

async fn app() -> Result<App> {
    let app = App::http(|builder| builder.variable("images_sign_keys", SIGN_KEYS)).await?;
    put(&app, rules(1)).await?;
    Ok(app)
}

async fn put(app: &App, rules: Value) -> Result<()> {
    let (status, answer) = answered(app.admin(Method::PUT, "/images/rules").json(&rules)).await?;
    assert_eq!((status, &answer["version"]), (200, &rules["version"]), "{answer}");
    Ok(())
}

/// The application's database, beside the application.
fn database(app: &App) -> Result<Connection> {
    let database = Connection::open(app.runtime.state_dir().join("sqlite_db.db"))?;
    database.busy_timeout(PATIENCE)?;
    Ok(database)
}

/// Until every instance must know what has changed, not only the one that was told.
async fn known_everywhere() {
    sleep(Duration::from_secs(1)).await;
}

/// Until no instance is left that has read anything: they are dropped after a second without work.
async fn forgotten_everywhere() {
    sleep(Duration::from_millis(2_500)).await;
}

async fn rewrite(app: &App, query: &str, body: impl Into<reqwest::Body>) -> Result<Response> {
    Ok(app.post(&format!("/images/rewrite{query}")).body(body).send().await?.error_for_status()?)
}

async fn rewritten(app: &App, query: &str, body: &str) -> Result<String> {
    Ok(rewrite(app, query, body.to_owned()).await?.text().await?)
}

#[tokio::test]
async fn a_url_is_found_in_every_escaping_and_what_only_looks_like_one_stays() -> Result<()> {
    let app = app().await?;
    for (before, after) in [
        ("https://img10.360buyimg.com/a.jpg", "https://img.hospital.example/a.jpg"),
        ("http://img10.360buyimg.com/a.jpg", "https://img.hospital.example/a.jpg"),
        ("<img src=//img10.360buyimg.com/a.jpg>", "<img src=//img.hospital.example/a.jpg>"),
        (r#"{"u":"http:\/\/img10.360buyimg.com\/a.jpg"}"#, r#"{"u":"https:\/\/img.hospital.example\/a.jpg"}"#),
        (r"http:\u002F\u002Fimg10.360buyimg.com\u002Fa.jpg", r"https:\u002F\u002Fimg.hospital.example\u002Fa.jpg"),
        ("u=http%3A%2F%2Fimg10.360buyimg.com%2Fa.jpg&x=1", "u=https%3A%2F%2Fimg.hospital.example%2Fa.jpg&x=1"),
        ("http:&#x2F;&#x2F;img10.360buyimg.com&#x2F;a", "https:&#x2F;&#x2F;img.hospital.example&#x2F;a"),
        ("url(HTTPS://IMG10.360BUYIMG.COM:443/a.jpg)", "url(https://img.hospital.example/a.jpg)"),
        (r"看这里\nhttps://x.y.many.example/a.jpg。", r"看这里\nhttps://img.hospital.example/a.jpg。"),
        ("https://b.example/?u=https://img10.360buyimg.com/a", "https://b.example/?u=https://img.hospital.example/a"),
    ] {
        assert_eq!(rewritten(&app, "", before).await?, after);
    }
    for same in [
        "https://notimg10.360buyimg.com/a.jpg",
        "https://img10.360buyimg.com.evil.example/a.jpg",
        "https://img10.360buyimg.com@evil.example/a.jpg",
        "https://img10.360buyimg.com:x@evil.example/a.jpg",
        "https://b.example/img10.360buyimg.com/a.jpg",
        "https://b.example/?u=//img10.360buyimg.com/a.jpg",
        "https://b.example//img10.360buyimg.com/a.jpg",
        "ftp://img10.360buyimg.com/a.jpg",
        "https://many.example/a.jpg",
        "https://avatars.example.org/a.jpg",
    ] {
        assert_eq!(rewritten(&app, "", same).await?, same);
    }
    Ok(())
}

#[tokio::test]
async fn context_user_and_version_choose_the_rules() -> Result<()> {
    let app = app().await?;
    let avatar = "https://avatars.example.org/a";
    assert_eq!(rewritten(&app, "?context=avatar", avatar).await?, "https://img.hospital.example/a");
    assert_eq!(rewritten(&app, "?context=bulk", avatar).await?, avatar);
    let slow = "https://slow.example.org/a";
    assert_eq!(rewritten(&app, "?user=u1", slow).await?, "https://img.hospital.example/a");
    assert_eq!(rewritten(&app, "?user=u2", slow).await?, slow);
    for (version, is_new) in [(None, false), (Some("3.1.9"), false), (Some("3.2.0"), true)] {
        let mut request = app.post("/images/rewrite").body("//apps.example.org/a");
        if let Some(version) = version {
            request = request.header("x-app-version", version);
        }
        assert_eq!(request.send().await?.text().await?.contains("hospital"), is_new, "{version:?}");
    }
    let line = app.runtime.wait_for_log("images", PATIENCE, |line| line["rewritten"]["avatars"] == 1).await?;
    assert_eq!(
        (&line["key"], &line["outcome"], &line["path"]),
        (&json!("avatar"), &json!("rewritten"), &json!("http"))
    );
    Ok(())
}

#[tokio::test]
async fn a_signature_extends_the_query_as_it_is_escaped() -> Result<()> {
    let app = app().await?;
    let text = rewritten(&app, "", "<a href=\"https://stamps.example.org/s.png?w=1&amp;h=2\">").await?;
    let (url, rest) = text.split_once("&amp;expires=").context("no expiry")?;
    assert_eq!(url, "<a href=\"https://img.hospital.example/s.png?w=1&amp;h=2");
    let (expires, signature) = rest.split_once("&amp;signature=").context("no signature")?;
    let now_s = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs();
    assert!((now_s..now_s + 3_600).contains(&expires.parse()?), "{expires}");
    assert_eq!((signature.len(), &signature[64..]), (66, "\">"));

    let request = app.post("/images/rewrite").header("content-type", "application/xml; charset=utf-8");
    let text = request.body("<i>https://stamps.example.org/s.png</i>").send().await?.text().await?;
    assert!(text.contains("&amp;signature=") && !text.replace("&amp;", "").contains('&'), "{text}");

    let text = rewritten(&app, "", "u=https%3A%2F%2Frx.example.org%2Fr.png&v=1").await?;
    assert!(text.starts_with("u=https%3A%2F%2Fimg.hospital.example%2Fr.png%3Fauth_key%3D"), "{text}");
    assert!(text.ends_with("&v=1"), "{text}");
    Ok(())
}

#[tokio::test]
async fn a_body_keeps_its_type_and_one_that_cannot_be_read_is_refused() -> Result<()> {
    let app = app().await?;
    let request = app.post("/images/rewrite").header("content-type", "text/html; charset=gbk");
    let answer = request.body(OLD).send().await?;
    assert_eq!(answer.headers()["content-type"], "text/html; charset=gbk");
    assert_eq!(answer.text().await?, NEW);

    let request = app.post("/images/rewrite").header("content-encoding", "gzip");
    let (status, problem) = answered(request.body("x")).await?;
    assert_eq!((status, &problem["type"]), (415, &json!("urn:clinic:problem:unsupported-media-type")));
    let identity = app.post("/images/rewrite").header("content-encoding", "identity").body(OLD).send().await?;
    assert_eq!(identity.text().await?, NEW);

    let (status, problem) = app.answer("/images/rewrite?context=nonsense&user=a%20b&more=1", "").await?;
    assert_eq!(status, 400);
    let pointers: Vec<_> = problem["errors"].as_array().unwrap().iter().map(|error| &error["pointer"]).collect();
    assert_eq!(pointers, ["/query/context", "/query/user", "/query/more"]);
    let bare = harness::http_client(PATIENCE).post(app.runtime.url("/images/rewrite")).body(OLD).send().await?;
    assert_eq!(bare.status(), 401);
    Ok(())
}

/// Bytes that repeat nowhere soon, with hardly a URL among them.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x2545_F491_4F6C_DD1D_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..length.div_ceil(8)).flat_map(|_| next()).take(length).collect()
}

#[tokio::test]
async fn a_body_without_a_url_comes_back_byte_for_byte() -> Result<()> {
    let app = app().await?;
    for length in [0, 1, 1_000, 65_536, 65_537, 3_000_001] {
        let body = noise(length);
        assert!(rewrite(&app, "", body.clone()).await?.bytes().await? == body, "{length}");
    }
    Ok(())
}

#[tokio::test]
async fn the_first_bytes_leave_before_the_last_have_come() -> Result<()> {
    let app = app().await?;
    let (send, pieces) = mpsc::channel::<Result<Vec<u8>, std::io::Error>>(1);
    let request = app.post("/images/rewrite").body(reqwest::Body::wrap_stream(ReceiverStream::new(pieces)));
    let answer = tokio::spawn(request.send());
    send.send(Ok(format!("{OLD} and https://img10.360").into_bytes())).await?;
    let mut stream = answer.await??.bytes_stream();
    let mut out = Vec::new();
    while out.len() < NEW.len() + 5 {
        out.extend_from_slice(&stream.next().await.context("it ended")??);
    }
    // The URL that is not there as a whole is held back, and nothing else.
    assert_eq!(String::from_utf8(out.clone())?, format!("{NEW} and "));
    send.send(Ok(b"buyimg.com/b".to_vec())).await?;
    drop(send);
    while let Some(piece) = stream.next().await {
        out.extend_from_slice(&piece?);
    }
    assert_eq!(String::from_utf8(out)?, format!("{NEW} and https://img.hospital.example/b"));
    Ok(())
}

#[tokio::test]
async fn a_body_of_200_mb_takes_no_more_memory_than_a_small_one() -> Result<()> {
    let app = app().await?;
    let piece = format!("{}{OLD}\",", "{\"text\":\"你好\",\"image\":\"".repeat(40)).repeat(60).into_bytes();
    let expected = String::from_utf8(piece.clone())?.replace(OLD, NEW).into_bytes();
    let pass = async |pieces: usize| {
        let body = piece.clone();
        let stream = tokio_stream::iter(0..pieces).map(move |_| Ok::<_, std::io::Error>(body.clone()));
        let mut answer = rewrite(&app, "", reqwest::Body::wrap_stream(stream)).await?;
        // Every byte is as it must be.
        let (mut length, mut at) = (0, 0);
        while let Some(chunk) = answer.chunk().await? {
            length += chunk.len();
            let mut rest = chunk.as_ref();
            while !rest.is_empty() {
                let (same, more) = rest.split_at(rest.len().min(expected.len() - at));
                assert!(same == &expected[at..at + same.len()], "before byte {length}");
                (rest, at) = (more, (at + same.len()) % expected.len());
            }
        }
        assert_eq!(length, pieces * expected.len());
        Ok::<_, anyhow::Error>(())
    };
    // What the runtime takes for any body is there after a smaller one.
    pass(20_000_000 / piece.len()).await?;
    let before = app.runtime.peak_memory_bytes();
    pass(200_000_000 / piece.len()).await?;
    if let (Some(before), Some(after)) = (before, app.runtime.peak_memory_bytes()) {
        assert!(after - before < 16 * 1_024 * 1_024, "{before} {after}");
    }
    Ok(())
}

const CHUNKED: &str = "transfer-encoding: chunked";

/// A body to be rewritten, as far as the request's head.
async fn open(app: &App, framing: &str) -> Result<TcpStream> {
    app.open("/images/rewrite", framing).await
}

/// Reads as far as this text.
async fn read_until(stream: &mut TcpStream, text: &str) -> Result<()> {
    let mut read = Vec::new();
    while !String::from_utf8_lossy(&read).contains(text) {
        read.push(tokio::time::timeout(PATIENCE, stream.read_u8()).await??);
    }
    Ok(())
}

#[tokio::test]
async fn a_body_that_breaks_off_does_not_end_as_if_it_were_whole() -> Result<()> {
    let app = app().await?;
    let mut stream = open(&app, CHUNKED).await?;
    stream.write_all(b"5\r\nhello\r\nnonsense").await?;
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await?;
    let answer = String::from_utf8_lossy(&answer);
    assert!(!answer.contains("0\r\n\r\n"), "{answer}");
    app.runtime.wait_for_log("images", PATIENCE, |line| line["outcome"] == "broken").await?;
    Ok(())
}

#[tokio::test]
async fn a_client_that_goes_away_ends_its_body() -> Result<()> {
    let app = app().await?;
    let mut stream = open(&app, CHUNKED).await?;
    for _ in 0..100 {
        stream.write_all(b"400\r\n").await?;
        stream.write_all(&[b'x'; 1_024]).await?;
        stream.write_all(b"\r\n").await?;
    }
    drop(stream);
    let ended = |line: &Value| line["outcome"] == "abandoned" || line["outcome"] == "broken";
    app.runtime.wait_for_log("images", PATIENCE, ended).await?;
    assert_eq!(rewritten(&app, "", OLD).await?, NEW);
    Ok(())
}

#[tokio::test]
async fn fifty_slow_clients_take_little_memory_and_keep_nobody_waiting() -> Result<()> {
    let app = app().await?;
    rewritten(&app, "", OLD).await?;
    let before = app.runtime.peak_memory_bytes();
    // They send and do not read, until nothing more is taken from them.
    let mut slow = Vec::new();
    for number in 0..50 {
        slow.push(tokio::spawn({
            // A body of known length comes in larger pieces.
            let framing = if number % 2 == 0 { CHUNKED } else { "content-length: 200000000" };
            let mut stream = open(&app, framing).await?;
            async move {
                let chunk = [b"10000\r\n".to_vec(), vec![b'x'; 65_536], b"\r\n".to_vec()].concat();
                let mut sent = 0_usize;
                while tokio::time::timeout(Duration::from_secs(2), stream.write_all(&chunk)).await.is_ok() {
                    sent += chunk.len();
                    assert!(sent < 100 << 20, "nothing held it back");
                }
                stream
            }
        }));
    }
    let mut stalled = Vec::new();
    for client in slow {
        stalled.push(client.await?);
    }
    let started = Instant::now();
    assert_eq!(rewritten(&app, "", OLD).await?, NEW);
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    if let (Some(before), Some(after)) = (before, app.runtime.peak_memory_bytes()) {
        assert!(after - before < 150 << 20, "{before} {after}");
    }
    Ok(())
}

#[tokio::test]
async fn a_message_is_published_rewritten_in_its_envelope() -> Result<()> {
    let app = App::start_with(|builder| builder.variable("images_sign_keys", SIGN_KEYS)).await?;
    put(&app, rules(1)).await?;
    let mut messages = listener(&app).await?.into_on_message();
    for (sent, expected) in [
        (
            json!({"context": "avatar", "user": "u1", "body": "看 https://avatars.example.org/a", "id": 7}),
            json!({"context": "avatar", "user": "u1", "body": "看 https://img.hospital.example/a", "id": 7}),
        ),
        (
            json!({"context": "bulk", "body": {"text": "x", "image": OLD}}),
            json!({"context": "bulk", "body": {"text": "x", "image": NEW}}),
        ),
    ] {
        app.publish("images.messages", sent.to_string()).await?;
        let message = tokio::time::timeout(PATIENCE, messages.next()).await?.context("no message")?;
        assert_eq!(serde_json::from_slice::<Value>(message.get_payload_bytes())?, expected);
    }
    // What is not there may also be empty, and what an app says of itself may be nonsense. Every other byte stays.
    let sent = |url: &str| {
        format!(
            "{{ \"context\": \"\",\"user\":\"\",\n\"app_version\": \"?\" , \"body\":\t[\"{url}\", 1.50], \"id\":\"\\u0037\"}} "
        )
    };
    app.publish("images.messages", sent(OLD)).await?;
    let message = tokio::time::timeout(PATIENCE, messages.next()).await?.context("no message")?;
    assert_eq!(String::from_utf8_lossy(message.get_payload_bytes()), sent(NEW));
    let is_rewritten = |line: &Value| line["outcome"] == "rewritten" && line["key"] == "*";
    let line = app.runtime.wait_for_log("images-events", PATIENCE, is_rewritten).await?;
    assert_eq!((&line["what"], &line["path"]), (&json!("body"), &json!("redis")), "{line}");
    app.publish("images.messages", r#"{"context":"nonsense"}"#).await?;
    let line = app.runtime.wait_for_log("images-events", PATIENCE, |line| line["outcome"] == "rejected").await?;
    let detail = line["detail"].as_str().unwrap();
    assert!(detail.contains("/context") && detail.contains("/body"), "{detail}");
    // It was not published: the next one that comes is another.
    app.publish("images.messages", json!({"body": "last"}).to_string()).await?;
    let message = tokio::time::timeout(PATIENCE, messages.next()).await?.context("no message")?;
    assert_eq!(serde_json::from_slice::<Value>(message.get_payload_bytes())?, json!({"body": "last"}));
    Ok(())
}

#[tokio::test]
async fn a_new_set_of_rules_holds_everywhere_within_a_second_and_old_ones_are_kept() -> Result<()> {
    let app = app().await?;
    // More requests at the same time than an instance takes: several of them know the old set.
    let mut open_requests = Vec::new();
    for _ in 0..48 {
        let mut stream = open(&app, CHUNKED).await?;
        stream.write_all(format!("{:x}\r\n{OLD} \r\n", OLD.len() + 1).as_bytes()).await?;
        open_requests.push(stream);
    }
    for stream in &mut open_requests {
        read_until(stream, NEW).await?;
    }
    let mut next = rules(2);
    next["rules"][0]["to"] = "img2.hospital.example".into();
    put(&app, next.clone()).await?;
    known_everywhere().await;
    for text in join_all((0..64).map(|_| rewritten(&app, "", OLD))).await {
        assert_eq!(text?, "https://img2.hospital.example/a.jpg");
    }
    // A body keeps to the set that it began with.
    for stream in &mut open_requests {
        stream.write_all(format!("{:x}\r\n{OLD} \r\n0\r\n\r\n", OLD.len() + 1).as_bytes()).await?;
        read_until(stream, NEW).await?;
    }
    // Again is the same, another one under the same version is not.
    put(&app, next.clone()).await?;
    let (status, problem) = answered(app.admin(Method::PUT, "/images/rules").json(&{
        next["placeholder"] = "https://other.example.com/x.png".into();
        next.clone()
    }))
    .await?;
    assert_eq!((status, &problem["type"]), (409, &json!("urn:clinic:problem:conflict")));
    let (_, kept) = answered(app.admin(Method::GET, "/images/rules")).await?;
    assert_eq!((&kept["version"], &kept["placeholder"]), (&json!(2), &json!(PLACEHOLDER)));
    let (_, history) = answered(app.admin(Method::GET, "/images/rules/history?limit=1")).await?;
    assert_eq!((&history["items"][0]["version"], &history["next_cursor"]), (&json!(2), &json!("2")));
    let (_, first) = answered(app.admin(Method::GET, "/images/rules/history/1")).await?;
    assert_eq!(first["rules"], rules(1));
    // Behind the highest version there is no next one.
    let mut highest = rules(1);
    highest["version"] = ((1_i64 << 53) - 1).into();
    put(&app, highest.clone()).await?;
    highest.as_object_mut().unwrap().remove("version");
    let (status, problem) = answered(app.admin(Method::PUT, "/images/rules").json(&highest)).await?;
    assert_eq!((status, &problem["type"]), (409, &json!("urn:clinic:problem:conflict")));
    known_everywhere().await;
    assert_eq!(rewritten(&app, "", OLD).await?, NEW);
    Ok(())
}

#[tokio::test]
async fn most_requests_ask_the_database_for_nothing() -> Result<()> {
    let app = app().await?;
    let report = json!({"url": OLD.replace("a.jpg", "b.jpg"), "reason": "违规"});
    assert_eq!(app.answer("/images/violations", report.to_string()).await?.0, 201);
    let database = database(&app)?;
    let mut unasked = 0;
    for _ in 0..3 {
        forgotten_everywhere().await;
        // It needs nothing of the reports: what the next ones need of so few of them is read all the same.
        assert_eq!(rewritten(&app, "", "no URL").await?, "no URL");
        // Whoever asks for anything from now on is told that there is no such table.
        database.execute_batch("ALTER TABLE images_unlawful_filters RENAME TO images_hidden")?;
        let hidden = Instant::now();
        let refused = loop {
            let answer = app.post("/images/rewrite").body(OLD).send().await?;
            match answer.status().as_u16() {
                200 if hidden.elapsed() < PATIENCE => unasked += 1,
                status => break status,
            }
        };
        database.execute_batch("ALTER TABLE images_hidden RENAME TO images_unlawful_filters")?;
        // In half a second what an instance knows is asked for again.
        assert_eq!(refused, 500);
    }
    assert!(unasked > 5, "{unasked}");
    Ok(())
}

#[tokio::test]
async fn a_wrong_set_of_rules_is_refused_with_every_fault_and_only_operators_may_send_one() -> Result<()> {
    let app = app().await?;
    let wrong = json!({"version": 2, "placeholder": "nonsense", "rules": [
        {"name": "a", "from": ["one.example.org"], "to": "two.example.org", "contexts": ["*"]},
        {"name": "b", "from": ["ONE.example.org"], "to": "three.example.org", "contexts": ["avatar"]},
        {"name": "c", "from": ["two.example.org"], "to": "one.example.org", "contexts": ["bulk"]},
        {"name": "d", "from": ["x"], "to": "", "contexts": ["nonsense"], "sign": "md5", "rollout": {"percent": 101}},
        {"name": "e", "from": ["e.example.org"], "to": "f.example.org", "contexts": ["*"], "sign": {"signer": "aliyun-a", "key": "none"}},
    ]});
    let (status, problem) = answered(app.admin(Method::PUT, "/images/rules").json(&wrong)).await?;
    assert_eq!(status, 400);
    let pointers: Vec<_> =
        problem["errors"].as_array().unwrap().iter().map(|e| e["pointer"].as_str().unwrap()).collect();
    for pointer in [
        "/placeholder",
        "/rules/1/from/0",
        "/rules/0/to",
        "/rules/2/to",
        "/rules/3/from/0",
        "/rules/3/to",
        "/rules/3/contexts/0",
        "/rules/3/sign",
        "/rules/3/rollout/percent",
        "/rules/4/sign/key",
    ] {
        assert!(pointers.contains(&pointer), "{pointer}: {pointers:?}");
    }
    assert_eq!(rewritten(&app, "", OLD).await?, NEW);
    let client = harness::http_client(PATIENCE);
    let by_service = client.put(app.runtime.url("/images/rules")).bearer_auth(API_TOKEN).json(&rules(2)).send().await?;
    assert_eq!(by_service.status(), 403);
    Ok(())
}

#[tokio::test]
async fn an_unlawful_image_becomes_the_placeholder_until_it_is_taken_back() -> Result<()> {
    let app = app().await?;
    let report = json!({"url": OLD, "doctor_id": "d7", "reason": "违规"});
    let (status, kept) = app.answer("/images/violations", report.to_string()).await?;
    assert_eq!(status, 201, "{kept}");
    assert_eq!((&kept["channel"], &kept["order_no"], &kept["patient_id"]), (&json!("in_site"), &json!(""), &json!("")));
    let (status, again) = app.answer("/images/violations", report.to_string()).await?;
    assert_eq!((status, &again), (200, &kept));

    let received = app.gateway.wait_for(1, PATIENCE).await?;
    let message = received[0].message();
    assert_eq!((&message["recipient"]["role"], &message["recipient"]["id"]), (&json!("doctor"), &json!("d7")));
    assert!(received[0].verified);

    let body = format!("{OLD}?w=1 {NEW} https://img10.360buyimg.com/b.jpg \"{}\"", OLD.replace('/', "\\/"));
    let expected = format!(
        "{PLACEHOLDER} {PLACEHOLDER} https://img.hospital.example/b.jpg \"{}\"",
        PLACEHOLDER.replace('/', "\\/")
    );
    known_everywhere().await;
    assert_eq!(rewritten(&app, "", &body).await?, expected);
    let (_, list) = answered(app.admin(Method::GET, "/images/violations?doctor_id=d7")).await?;
    assert_eq!(list["items"], json!([kept]));

    let path = format!("/images/violations/{}", kept["id"].as_str().unwrap());
    assert_eq!(app.admin(Method::DELETE, &path).send().await?.status(), 204);
    known_everywhere().await;
    assert_eq!(rewritten(&app, "", OLD).await?, NEW);
    assert_eq!(app.admin(Method::DELETE, &path).send().await?.status(), 404);
    assert_eq!(app.gateway.received().len(), 1);

    // Reported anew, its doctor is told anew. By the old rules' address it is known under new ones, too.
    assert_eq!(app.answer("/images/violations", report.to_string()).await?.0, 201);
    app.gateway.wait_for(2, PATIENCE).await?;
    put(&app, json!({"version": 2, "placeholder": PLACEHOLDER, "rules": [
        {"name": "a", "from": ["img10.360buyimg.com"], "to": "another.example", "scheme": "https", "contexts": ["*"]}]}))
    .await?;
    known_everywhere().await;
    let another = NEW.replace("img.hospital.example", "another.example");
    assert_eq!(rewritten(&app, "", &format!("{OLD} {NEW} {another}")).await?, [PLACEHOLDER; 3].join(" "));
    let by_url = |method| app.admin(method, "/images/violations").query(&[("url", &another)]);
    assert_eq!(answered(by_url(Method::GET)).await?.1["items"].as_array().map(Vec::len), Some(1));
    assert_eq!(by_url(Method::DELETE).send().await?.status(), 204);
    known_everywhere().await;
    assert_eq!(rewritten(&app, "", OLD).await?, another);

    let (status, problem) = app.answer("/images/violations", r#"{"url":"nonsense","doctor_id":"a b"}"#).await?;
    let pointers: Vec<_> = problem["errors"].as_array().unwrap().iter().map(|error| &error["pointer"]).collect();
    assert_eq!(status, 400);
    assert_eq!(pointers, ["/url", "/doctor_id", "/reason"]);
    Ok(())
}

#[tokio::test]
async fn operators_list_reports_and_take_them_back_and_nobody_else_may() -> Result<()> {
    let app = app().await?;
    let url = |name: &str| format!("https://img10.360buyimg.com/{name}.jpg");
    let mut kept = Vec::new();
    for (name, doctor, patient, order) in
        [("a", "d1", "p1", "o1"), ("b", "d2", "p1", "o2"), ("c", "d2", "p2", "o3"), ("c?v=2", "", "", "")]
    {
        let report = json!({"url": url(name).replace("?v=2.jpg", ".jpg?v=2"), "doctor_id": doctor, "patient_id": patient,
            "order_no": order, "channel": "wechat", "reason": "违规"});
        let (status, report) = app.answer("/images/violations", report.to_string()).await?;
        assert_eq!(status, 201, "{report}");
        kept.push(report);
    }
    let list = async |query: &str| -> Result<Vec<usize>> {
        let (status, list) = answered(app.admin(Method::GET, &format!("/images/violations?{query}"))).await?;
        assert_eq!(status, 200, "{list}");
        let place = |item: &Value| kept.iter().position(|report| report == item).context("an unknown report");
        list["items"].as_array().context("no items")?.iter().map(place).collect()
    };
    for (query, expected) in [
        ("", vec![3, 2, 1, 0]),
        ("doctor_id=d2", vec![2, 1]),
        ("patient_id=p1", vec![1, 0]),
        ("order_no=o3", vec![2]),
        ("doctor_id=d2&patient_id=p1", vec![1]),
        ("doctor_id=none", vec![]),
        // All that make this URL the placeholder.
        ("url=https://img10.360buyimg.com/c.jpg?v=2", vec![3, 2]),
        ("url=https://img.hospital.example/c.jpg", vec![2]),
        ("url=https://img10.360buyimg.com/a.jpg?w=1", vec![0]),
    ] {
        assert_eq!(list(query).await?, expected, "{query}");
    }
    let (_, page) = answered(app.admin(Method::GET, "/images/violations?limit=3")).await?;
    assert_eq!(page["items"].as_array().map(Vec::len), Some(3));
    let cursor = page["next_cursor"].as_str().context("no cursor")?;
    assert_eq!(list(&format!("limit=3&cursor={cursor}")).await?, [0]);
    let of = |report: &Value| format!("/images/violations/{}", report["id"].as_str().unwrap());
    assert_eq!(answered(app.admin(Method::GET, &of(&kept[1]))).await?, (200, kept[1].clone()));
    for wrong in ["limit=0", "limit=501", "cursor=x", "url=x", "doctor=d1"] {
        let (status, problem) = answered(app.admin(Method::GET, &format!("/images/violations?{wrong}"))).await?;
        assert_eq!((status, problem["errors"].as_array().map(Vec::len)), (400, Some(1)), "{wrong}");
    }

    let client = harness::http_client(PATIENCE);
    for (method, path) in [
        (Method::GET, "/images/violations".to_owned()),
        (Method::GET, of(&kept[1])),
        (Method::DELETE, of(&kept[1])),
        (Method::DELETE, format!("/images/violations?url={}", url("a"))),
        (Method::GET, "/images/rules".into()),
        (Method::GET, "/images/rules/history".into()),
        (Method::GET, "/images/rules/history/1".into()),
    ] {
        let request = client.request(method.clone(), app.runtime.url(&path));
        let by_service = request.try_clone().context("a body")?.bearer_auth(API_TOKEN).send().await?.status();
        assert_eq!(
            (by_service, request.send().await?.status().as_u16()),
            (reqwest::StatusCode::FORBIDDEN, 401),
            "{method} {path}"
        );
    }

    let by_url = "/images/violations?url=https://img10.360buyimg.com/c.jpg?v=2";
    assert_eq!(app.admin(Method::DELETE, by_url).send().await?.status(), 204);
    assert_eq!(app.admin(Method::DELETE, by_url).send().await?.status(), 404);
    assert_eq!(list("").await?, [1, 0]);
    known_everywhere().await;
    let body = format!("{} {}", url("c"), url("a"));
    assert_eq!(rewritten(&app, "", &body).await?, format!("https://img.hospital.example/c.jpg {PLACEHOLDER}"));
    // The log tells the risk system of each, by ids alone.
    for (report, outcome) in [(&kept[2], "kept"), (&kept[2], "taken_back"), (&kept[3], "taken_back")] {
        let is_it =
            |line: &Value| line["what"] == "violation" && line["key"] == report["id"] && line["outcome"] == outcome;
        let line = app.runtime.wait_for_log("images", PATIENCE, is_it).await?;
        for name in ["doctor_id", "patient_id", "order_no", "channel"] {
            assert_eq!(line[name], report[name], "{name}: {line}");
        }
        assert!(!line.to_string().contains("360buyimg"), "{line}");
    }
    Ok(())
}

/// Keeps so many reports where the application does, and has them gathered.
async fn keep_reports(app: &App, count: usize) -> Result<()> {
    keep_reports_on(app, count, |_| "img10.360buyimg.com".to_owned()).await
}

async fn keep_reports_on(app: &App, count: usize, host: impl Fn(usize) -> String) -> Result<()> {
    let mut connection = database(app)?;
    let transaction = connection.transaction()?;
    for number in 0..count {
        let sql = "INSERT INTO images_violations
                (id, url, doctor_id, patient_id, order_no, channel, reason, image, keys, hosts, reported_at_ms)
            VALUES (?1, ?1, '', '', '', '', 'x', '', '', '', 0)";
        let url = format!("https://{}/reported/{number}.jpg", host(number));
        transaction.prepare_cached(sql)?.execute([url])?;
    }
    transaction.commit()?;
    // New rules give every image its addresses anew.
    put(app, rules(2)).await?;
    known_everywhere().await;
    Ok(())
}

#[tokio::test]
async fn one_of_many_unlawful_images_is_found_whatever_an_instance_has_read_of_them() -> Result<()> {
    let (url, _asked) = origin(
        "HTTP/1.1 302 Found\r\nlocation: https://img10.360buyimg.com/reported/7.jpg\r\ncontent-length: 0\r\n\
         connection: close\r\n\r\n",
    )
    .await?;
    let app = App::start_with(|builder| {
        builder.variable("images_sign_keys", SIGN_KEYS).variable("images_origin_1", url.clone())
    })
    .await?;
    put(&app, rules(1)).await?;
    keep_reports(&app, 30_000).await?;
    let (unlawful, lawful) =
        ("https://img10.360buyimg.com/reported/29999.jpg", "https://img10.360buyimg.com/kept/1.jpg");
    let kept = lawful.replace("img10.360buyimg.com", "img.hospital.example");
    forgotten_everywhere().await;
    assert_eq!(rewritten(&app, "", &format!("{unlawful} {lawful}")).await?, format!("{PLACEHOLDER} {kept}"));
    forgotten_everywhere().await;
    assert_eq!(rewritten(&app, "", lawful).await?, kept);
    let escaped = |url: &str| url.replace('/', "\\/");
    assert_eq!(rewritten(&app, "", &escaped(unlawful)).await?, escaped(PLACEHOLDER));
    forgotten_everywhere().await;
    let many = |url: &str| format!("<img src={url}> 图 ").repeat(30_000);
    let long = many(lawful) + unlawful + &many(lawful);
    assert!(rewritten(&app, "", &long).await? == many(&kept) + PLACEHOLDER + &many(&kept));
    forgotten_everywhere().await;
    let path = format!("/images/fetch/{}/a", url.strip_prefix("http://").unwrap());
    let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build()?;
    let fetched = client.get(app.runtime.url(&path)).bearer_auth(API_TOKEN).send().await?;
    assert_eq!(fetched.headers()["location"], PLACEHOLDER);

    assert_eq!(passed_on(&app, json!([unlawful, lawful])).await?, json!([PLACEHOLDER, kept]));
    assert_eq!(passed_on(&app, json!("no URL")).await?, json!("no URL"));
    Ok(())
}

/// Hears what is published rewritten.
async fn listener(app: &App) -> Result<redis::aio::PubSub> {
    let url = app.redis.as_ref().context("no Redis")?.url();
    let mut listener = redis::Client::open(url)?.get_async_pubsub().await?;
    listener.subscribe("images.rewritten").await?;
    Ok(listener)
}

/// What a message's body becomes.
async fn passed_on(app: &App, body: Value) -> Result<Value> {
    let mut messages = listener(app).await?.into_on_message();
    app.publish("images.messages", json!({"body": body}).to_string()).await?;
    let message = tokio::time::timeout(PATIENCE, messages.next()).await?.context("no message")?;
    Ok(serde_json::from_slice::<Value>(message.get_payload_bytes())?["body"].take())
}

#[tokio::test]
async fn unlawful_images_may_be_on_any_number_of_hosts() -> Result<()> {
    let mut app = App::start_with(|builder| builder.variable("images_sign_keys", SIGN_KEYS)).await?;
    put(&app, rules(1)).await?;
    keep_reports_on(&app, 3_000, |number| format!("host-{number}.example.org")).await?;
    let url = |host: usize, number: usize| format!("https://host-{host}.example.org/reported/{number}.jpg");
    let (unlawful, lawful) = (url(7, 7), url(7, 8));
    let (body, expected) = (format!("{unlawful} {lawful} {OLD}"), format!("{PLACEHOLDER} {lawful} {NEW}"));
    forgotten_everywhere().await;
    assert_eq!(rewritten(&app, "", &body).await?, expected);
    let long = |text: &str| format!("{text} 图 ").repeat(20_000);
    assert!(rewritten(&app, "", &long(&body)).await? == long(&expected));
    assert_eq!(passed_on(&app, json!([body])).await?, json!([expected]));
    // One more, on a further host.
    let more = "https://further.example.org/a.jpg";
    assert_eq!(app.answer("/images/violations", json!({"url": more, "reason": "违规"}).to_string()).await?.0, 201);
    known_everywhere().await;
    let (body, expected) = (format!("{more} {body}"), format!("{PLACEHOLDER} {expected}"));
    assert_eq!(rewritten(&app, "", &body).await?, expected);
    // The release before migration 7 of images listed them all.
    app.runtime.stop().await;
    let database = database(&app)?;
    database.execute_batch(&format!(
        "{WITHOUT_FILTERS}
        UPDATE images_unlawful SET generation = generation + 1, bloom = x'';
        DELETE FROM schema_versions WHERE owner = 'images' AND version > 6"
    ))?;
    app.runtime.restart().await?;
    assert_eq!(rewritten(&app, "", &body).await?, expected);
    let is_filtered = "SELECT length(f.hosts) > 0
        FROM images_unlawful AS u JOIN images_unlawful_filters AS f ON f.generation = u.generation";
    assert!(database.query_row(is_filtered, [], |row| row.get::<_, bool>(0))?);
    // What that release writes beside this one is made anew.
    database.execute_batch(
        "INSERT INTO images_violations
            (id, url, doctor_id, patient_id, order_no, channel, reason, image, keys, hosts, reported_at_ms)
        VALUES ('x', 'https://img10.360buyimg.com/头像[1].jpg', '', '', '', '', 'x', '', '00000000000000aa', 'a', 0);
        UPDATE images_unlawful SET generation = generation + 1, bloom = x''",
    )?;
    forgotten_everywhere().await;
    let (lettered, encoded) =
        ("https://img10.360buyimg.com/\\u5934像[1].jpg", "https://img.hospital.example/%E5%A4%B4%E5%83%8F%5B1%5D.jpg");
    let body = format!("{unlawful} \"{lettered}，{encoded} {lawful}");
    let expected = format!("{PLACEHOLDER} \"{PLACEHOLDER}，{PLACEHOLDER} {lawful}");
    assert_eq!(rewritten(&app, "", &body).await?, expected);
    // Without the filter of hosts nothing is let through.
    database.execute_batch("UPDATE images_unlawful_filters SET hosts = 'none'")?;
    forgotten_everywhere().await;
    assert_eq!(app.answer("/images/rewrite", body.clone()).await?.0, 500);
    database.execute_batch("UPDATE images_unlawful_filters SET hosts = x''")?;
    forgotten_everywhere().await;
    assert_eq!(rewritten(&app, "", &body).await?, expected);
    Ok(())
}

#[tokio::test]
async fn a_body_is_not_let_through_when_the_reports_cannot_be_read() -> Result<()> {
    let app = app().await?;
    keep_reports(&app, 300).await?;
    let damage = |filter: &str| {
        anyhow::Ok(database(&app)?.execute_batch(&format!("UPDATE images_unlawful_filters SET paths = {filter}"))?)
    };
    let (reported, other) = ("https://img10.360buyimg.com/reported/7.jpg", "https://stamps.example.com/a.jpg");
    // As long as one that is read only when it is needed.
    damage("printf('%05000d', 0)")?;
    forgotten_everywhere().await;
    assert_eq!(rewritten(&app, "", other).await?, other);
    let (status, problem) = app.answer("/images/rewrite", reported.to_owned()).await?;
    assert_eq!((status, problem["type"].as_str()), (500, Some("urn:clinic:problem:internal")), "{problem}");
    let long = format!("{other} ").repeat(30_000) + reported + &" ".repeat(1 << 20);
    let broken = rewrite(&app, "", long).await;
    assert!(broken.is_err() || broken?.bytes().await.is_err());
    let failed = |line: &Value| line["outcome"] == "failed" && line["detail"].is_string();
    app.runtime.wait_for_log("images", PATIENCE, failed).await?;
    let is_long = |line: &Value| failed(line) && line["bytes"].as_u64() > Some(500_000);
    app.runtime.wait_for_log("images", PATIENCE, is_long).await?;
    // A filter that tells nothing hides nothing.
    damage("x''")?;
    forgotten_everywhere().await;
    assert_eq!(rewritten(&app, "", reported).await?, PLACEHOLDER);
    Ok(())
}

#[tokio::test]
async fn a_report_of_an_older_release_holds_after_an_update() -> Result<()> {
    let mut app = App::http(|builder| builder).await?;
    let (status, kept) = app.answer("/images/violations", json!({"url": OLD, "reason": "违规"}).to_string()).await?;
    assert_eq!(status, 201, "{kept}");
    make_old(&mut app).await?;
    assert!(rewritten(&app, "", OLD).await?.ends_with("/removed.png"));
    make_old(&mut app).await?;
    let by_url = |method| app.admin(method, "/images/violations").query(&[("url", OLD)]);
    let (_, list) = answered(by_url(Method::GET)).await?;
    assert_eq!(list["items"], json!([kept]));
    make_old(&mut app).await?;
    let by_url = |method| app.admin(method, "/images/violations").query(&[("url", OLD)]);
    assert_eq!(by_url(Method::DELETE).send().await?.status(), 204);
    Ok(())
}

#[tokio::test]
async fn reports_that_were_gathered_without_a_filter_get_one() -> Result<()> {
    let mut app = app().await?;
    keep_reports(&app, 300).await?;
    app.runtime.stop().await;
    database(&app)?.execute_batch(&format!("{WITHOUT_FILTERS} {WITHOUT_BLOOM} {WITHOUT_FILTER} AND version > 4"))?;
    app.runtime.restart().await?;
    let reported = "https://img10.360buyimg.com/reported/7.jpg";
    assert_eq!(rewritten(&app, "", &format!("{reported} {OLD}")).await?, format!("{PLACEHOLDER} {NEW}"));
    let sql = "SELECT u.dirty_at_ms, u.rules_version, length(f.paths) > 0
        FROM images_unlawful AS u JOIN images_unlawful_filters AS f ON f.generation = u.generation";
    let database = database(&app)?;
    let state = database.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    assert_eq!(state, (0, 2, true));
    Ok(())
}

#[tokio::test]
async fn keys_that_were_made_otherwise_are_made_anew_by_the_rules_that_they_were_made_by() -> Result<()> {
    let rules = |version: u64, to: &str| {
        json!({"version": version, "placeholder": PLACEHOLDER, "rules": [
            {"name": "a", "from": ["old.example.org"], "to": to, "contexts": ["*"]}]})
    };
    let mut app = App::http(|builder| builder).await?;
    put(&app, rules(7, "one.example.org")).await?;
    let report = json!({"url": "https://one.example.org/a.jpg", "reason": "违规"});
    assert_eq!(app.answer("/images/violations", report.to_string()).await?.0, 201);
    // Of what the release before migration 6 of images made nothing is found.
    let make_old = |app: &App| {
        anyhow::Ok(database(app)?.execute_batch(&format!(
            "{WITHOUT_FILTERS} {WITHOUT_BLOOM}
            CREATE TRIGGER images_unlawful_filtered AFTER UPDATE OF filter ON images_unlawful BEGIN
                INSERT OR REPLACE INTO images_unlawful_filter VALUES (1, NEW.generation, NEW.hosts, NEW.filter);
            END;
            UPDATE images_violations SET keys = '00000000000000aa', image = '00000000000000aa';
            UPDATE images_unlawful SET keys = x'00000000000000aa', filter = zeroblob(2048), rules_version = 7;
            DELETE FROM schema_versions WHERE owner = 'images' AND version > 5"
        ))?)
    };
    app.runtime.stop().await;
    make_old(&app)?;
    app.runtime.restart().await?;
    let reported = "https://old.example.org/a.jpg https://one.example.org/a.jpg";
    let both = format!("{PLACEHOLDER} {PLACEHOLDER}");
    assert_eq!(rewritten(&app, "", reported).await?, both);
    app.runtime.stop().await;
    make_old(&app)?;
    app.runtime.restart().await?;
    // Nobody has looked at the reports yet.
    put(&app, rules(8, "two.example.org")).await?;
    forgotten_everywhere().await;
    assert_eq!(rewritten(&app, "", reported).await?, both);
    assert_eq!(rewritten(&app, "", "https://two.example.org/a.jpg").await?, PLACEHOLDER);
    // What an earlier release makes now is made anew as well.
    database(&app)?.execute_batch(
        "UPDATE images_violations SET keys = '00000000000000aa', image = '00000000000000aa';
        UPDATE images_unlawful SET generation = generation + 1, keys = x'00000000000000aa', filter = zeroblob(2048)",
    )?;
    forgotten_everywhere().await;
    assert_eq!(rewritten(&app, "", reported).await?, both);
    Ok(())
}

#[tokio::test]
async fn a_set_of_rules_that_nobody_finished_is_finished_before_the_first_body() -> Result<()> {
    let mut app = app().await?;
    keep_reports(&app, 300).await?;
    app.runtime.stop().await;
    // Whoever kept it was gone before the reports had their new addresses.
    let set = json!({"version": 3, "placeholder": PLACEHOLDER, "rules": [
        {"name": "a", "from": ["img10.360buyimg.com"], "to": "another.example", "contexts": ["*"]}]});
    database(&app)?
        .execute("INSERT INTO images_rules (version, text, stored_at_ms) VALUES (3, ?1, 0)", [set.to_string()])?;
    app.runtime.restart().await?;
    let body = "https://another.example/reported/7.jpg https://another.example/a.jpg";
    assert_eq!(rewritten(&app, "", body).await?, format!("{PLACEHOLDER} https://another.example/a.jpg"));
    Ok(())
}

/// Undoes migration 7 of images.
const WITHOUT_FILTERS: &str = "DROP TRIGGER images_unlawful_filters_made;
    DROP TRIGGER images_unlawful_by_others;
    DROP TRIGGER images_violations_by_others;
    DROP TABLE images_unlawful_filters;
    ALTER TABLE images_violations DROP COLUMN made_by;
    DROP TABLE images_unlawful_others;
    ALTER TABLE images_unlawful DROP COLUMN others_done;
    ALTER TABLE images_unlawful DROP COLUMN listed;
    ALTER TABLE images_unlawful DROP COLUMN host_filter;
    ALTER TABLE images_unlawful DROP COLUMN path_filter;";

/// Undoes migration 6, too, but for a trigger that it drops.
const WITHOUT_BLOOM: &str = "DROP TRIGGER images_unlawful_bloomed;
    DROP TRIGGER images_unlawful_by_earlier;
    DROP TRIGGER images_violations_by_earlier;
    ALTER TABLE images_unlawful DROP COLUMN bloom;";

/// Undoes migration 5, too, that trigger with it.
const WITHOUT_FILTER: &str = "DROP TABLE images_unlawful_filter;
    ALTER TABLE images_unlawful DROP COLUMN filter;
    DELETE FROM schema_versions WHERE owner = 'images'";

/// Starts the application again on a database as the release before migration 3 of images left it.
async fn make_old(app: &mut App) -> Result<()> {
    app.runtime.stop().await;
    database(app)?.execute_batch(&format!(
        "UPDATE images_violations SET keys = '00000000000000aa', image = '00000000000000aa';
        UPDATE images_unlawful SET rules_version = 0, generation = generation + 1, keys = x'';
        CREATE INDEX images_violations_image ON images_violations (image);
        {WITHOUT_FILTERS} {WITHOUT_BLOOM} {WITHOUT_FILTER} AND version > 2;",
    ))?;
    app.runtime.restart().await
}

/// An origin that answers every request with this, and tells what it was asked.
async fn origin(answer: &'static str) -> Result<(String, mpsc::Receiver<String>)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    let (tell, asked) = mpsc::channel(16);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let head = head(&mut stream).await;
            let _ = stream.write_all(answer.as_bytes()).await;
            let _ = tell.send(String::from_utf8_lossy(&head).into_owned()).await;
        }
    });
    Ok((url, asked))
}

/// A request up to its body, or up to where it breaks off.
async fn head(stream: &mut TcpStream) -> Vec<u8> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => break,
        }
    }
    head
}

#[tokio::test]
async fn a_fetched_answer_is_rewritten_and_only_configured_origins_are_reached() -> Result<()> {
    let answer = "HTTP/1.1 404 Not Found\r\ncontent-type: text/html\r\ncontent-length: 41\r\netag: \"x\"\r\nx-own: 1\r\n\
        host: x\r\nproxy-authorization: x\r\nhttp2-settings: x\r\nlink: <//img10.360buyimg.com/k>\r\n\
        keep-alive: timeout=5\r\nlocation: http://img10.360buyimg.com/l\r\nconnection: close\r\n\r\n<img src=//img10.360buyimg.com/abcde.jpg>";
    let (url, mut asked) = origin(answer).await?;
    let app = App::http(|builder| builder.variable("images_origin_1", url.clone())).await?;
    put(&app, json!({"version": 1, "placeholder": PLACEHOLDER, "rules": [
        {"name": "a", "from": ["img10.360buyimg.com"], "to": "img.hospital.example", "scheme": "https", "contexts": ["*"]}]}))
    .await?;
    let name = url.strip_prefix("http://").unwrap();
    let fetch = |path: String| harness::http_client(PATIENCE).get(app.runtime.url(&path)).bearer_auth(API_TOKEN).send();
    let fetched = fetch(format!("/images/fetch/{name}/a/b%2Fc?x=1&context=avatar&y=2")).await?;
    assert_eq!(fetched.status(), 404);
    let headers = fetched.headers().clone();
    assert_eq!((&headers["content-type"], &headers["x-own"]), (&"text/html".parse()?, &"1".parse()?));
    assert_eq!(headers["location"], "https://img.hospital.example/l");
    assert_eq!(headers["link"], "<//img.hospital.example/k>");
    assert_eq!(headers["vary"], "x-app-version");
    for dropped in ["content-length", "etag", "keep-alive", "host", "proxy-authorization", "http2-settings"] {
        assert!(!headers.contains_key(dropped), "{dropped}");
    }
    assert_eq!(fetched.text().await?, "<img src=//img.hospital.example/abcde.jpg>");
    let asked = asked.recv().await.context("not asked")?;
    assert!(asked.starts_with("GET /a/b%2Fc?x=1&y=2 HTTP/1.1\r\n"), "{asked}");
    assert!(asked.contains("accept-encoding: identity") && !asked.contains(API_TOKEN), "{asked}");

    for other in ["127.0.0.1:1", "evil.example", "127.0.0.1", &format!("x@{name}"), &format!("{name}.evil.example")] {
        let refused = fetch(format!("/images/fetch/{other}/a")).await?;
        assert_eq!(refused.status(), 404, "{other}");
        assert_eq!(refused.headers()["content-type"], "application/problem+json");
    }
    Ok(())
}

#[tokio::test]
async fn an_origin_that_does_not_answer_as_it_must_is_a_bad_gateway() -> Result<()> {
    const ENCODED: &str = "HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    let (encoded, mut asked) = origin(ENCODED).await?;
    let dead = format!("http://127.0.0.1:{}", harness::port::free());
    let app = App::http(|builder| {
        builder.variable("images_origin_1", encoded.clone()).variable("images_origin_2", dead.clone())
    })
    .await?;
    let fetch = async |origin: &str, path: &str| -> Result<(u16, Value)> {
        let name = origin.strip_prefix("http://").context("no scheme")?;
        let request = harness::http_client(PATIENCE).get(app.runtime.url(&format!("/images/fetch/{name}{path}")));
        answered(request.bearer_auth(API_TOKEN)).await
    };
    for origin in [&encoded, &dead] {
        let (status, problem) = fetch(origin, "/a").await?;
        assert_eq!((status, &problem["type"]), (502, &json!("urn:clinic:problem:bad-gateway")), "{problem}");
    }
    assert!(asked.recv().await.context("not asked")?.starts_with("GET /a HTTP/1.1\r\n"));
    // A path goes out as it came, and leads nowhere else.
    for path in ["//evil.example/a", "/a%0d%0ahost:evil.example", "/@evil.example"] {
        assert_eq!(fetch(&encoded, path).await?.0, 502, "{path}");
        let head = asked.recv().await.context("not asked")?;
        assert!(head.starts_with(&format!("GET {path} HTTP/1.1\r\n")), "{path}: {head}");
    }
    Ok(())
}

#[tokio::test]
async fn origins_must_differ_in_what_they_are_asked_for_by() -> Result<()> {
    let app = App::http(|builder| {
        builder
            .variable("images_origin_1", "https://legacy.example.org")
            .variable("images_origin_2", "legacy.example.org")
            .variable("images_origin_3", "http://legacy.example.org/")
    })
    .await?;
    let request = harness::http_client(PATIENCE).get(app.runtime.url("/images/fetch/legacy.example.org/a"));
    let (status, problem) = answered(request.bearer_auth(API_TOKEN)).await?;
    let pointers: Vec<_> = problem["errors"].as_array().context("no errors")?.iter().map(|e| &e["pointer"]).collect();
    assert_eq!(status, 503, "{problem}");
    assert_eq!(pointers, ["/variables/images_origin_2", "/variables/images_origin_3"]);
    Ok(())
}

/// An origin's answer as it comes out of `/images/fetch`, and the application.
async fn fetched_from(url: &str) -> Result<(App, reqwest::Result<Response>)> {
    let app =
        App::http(|builder| builder.variable("images_sign_keys", SIGN_KEYS).variable("images_origin_1", url)).await?;
    put(&app, rules(1)).await?;
    let path = format!("/images/fetch/{}/a", url.strip_prefix("http://").unwrap());
    let fetched = harness::http_client(PATIENCE).get(app.runtime.url(&path)).bearer_auth(API_TOKEN).send().await;
    Ok((app, fetched))
}

#[tokio::test]
async fn a_long_answer_is_rewritten_on_its_way() -> Result<()> {
    let text = format!("<img src={OLD}> 图 ").repeat(100_000);
    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{text}", text.len());
    let (url, _asked) = origin(answer.leak()).await?;
    let (_app, fetched) = fetched_from(&url).await?;
    let fetched = fetched?;
    assert_eq!(fetched.status(), 200);
    assert!(fetched.text().await? == text.replace(OLD, NEW));
    Ok(())
}

#[tokio::test]
async fn a_fetched_answer_that_breaks_off_does_not_end_as_if_it_were_whole() -> Result<()> {
    let head = "HTTP/1.1 200 OK\r\ncontent-length: 100\r\nconnection: close\r\n\r\n";
    let (url, _asked) = origin(format!("{head}{OLD} and").leak()).await?;
    let (app, fetched) = fetched_from(&url).await?;
    assert!(fetched.is_err() || fetched?.bytes().await.is_err());
    app.runtime.wait_for_log("images", PATIENCE, |line| line["outcome"] == "broken").await?;
    Ok(())
}

#[tokio::test]
async fn a_fetched_answer_that_does_not_go_on_is_broken_off() -> Result<()> {
    const PAUSE: Duration = Duration::from_secs(5);
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    // It says what is to come, sends a part of it, and stays there.
    let (tell, mut sent) = mpsc::channel(1);
    let origin = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await?;
        head(&mut stream).await;
        stream.write_all(format!("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{OLD} and").as_bytes()).await?;
        let _ = tell.send(Instant::now()).await;
        stream.read_to_end(&mut Vec::new()).await
    });
    let (app, fetched) = fetched_from(&url).await?;
    assert!(fetched.is_err() || fetched?.bytes().await.is_err());
    let paused = sent.recv().await.context("not sent")?.elapsed();
    // Its clock began a moment before, or ours went on a moment longer.
    assert!(paused > PAUSE - Duration::from_millis(500) && paused < PATIENCE, "{paused:?}");
    app.runtime.wait_for_log("images", PATIENCE, |line| line["outcome"] == "broken").await?;
    origin.abort();
    Ok(())
}
