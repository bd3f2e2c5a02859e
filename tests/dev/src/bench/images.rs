//! What rewriting a body costs, beside a component that echoes it in the same process, by the SDK and by the functions'
//! own, faster way, beside nginx's `sub_filter` with the same four rules, and beside GNU sed.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use harness::process::Group;
use harness::runtime::Kind;
use harness::{Runtime, http_client, port};
use rusqlite::Connection;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::report::{Report, Spread};
use super::{ANSWER_TIMEOUT, Settings, TOKEN, application};

const COMPONENTS: [&str; 2] = ["images", "probe"];
const URLS: usize = 24_000;
/// Four of them are rewritten.
const HOSTS: [&str; 6] = [
    "img10.360buyimg.com",
    "img11.360buyimg.com",
    "img12.360buyimg.com",
    "img13.360buyimg.com",
    "cdn.other.example",
    "static.foreign.example",
];
const REWRITTEN: usize = 4;
/// None of them is in the body.
const OTHER_HOSTS: [&str; 6] = [
    "img21.360buyimg.com",
    "img22.360buyimg.com",
    "static.another.example",
    "pictures.another.example",
    "avatars.another.example",
    "scans.another.example",
];
const REPORTS: usize = 100_000;
const TO: &str = "img.hospital.example";
/// By nothing but the SDK.
const ECHO: &str = "/probe/echo";
/// By the functions' own way through the runtime.
const OWN_ECHO: &str = "/probe/own-echo";
const REWRITE: &str = "/images/rewrite";

/// Measures every case, and tells the figures.
pub(crate) async fn bench(kind: Kind, settings: &Settings) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let keys = "hmac-sha256=of-a-benchmark";
    let builder = application::builder(folder.path(), kind, &COMPONENTS)?.variable("images_sign_keys", keys);
    let runtime = builder.start().await?;
    let body = chat_history();
    let megabytes = body.len() as f64 / 1e6;
    let mut report = Report::new("images", kind, settings);
    println!(
        "\n{}, which the client shares.\nA JSON chat history of {megabytes:.1} MB with {URLS} URLs in {} hosts, {REWRITTEN} of them \
         rewritten; medians of {} rounds, in turns.",
        report.machine(),
        HOSTS.len(),
        settings.rounds,
    );
    println!("\n{:<38} {:>9} {:>20} {:>20} {:>12}", "", "MB/s", "to the SDK's echo", "to our own echo", "added ms/MB");
    let sets = [
        ("4 rules", rules(1, REWRITTEN, false)),
        ("200 rules", rules(2, 200, false)),
        ("4 rules, signed", rules(3, REWRITTEN, true)),
    ];
    for (name, rules) in sets {
        put(&runtime, &rules).await?;
        let rounds = beside_echoes(&runtime, &body, settings.rounds).await?;
        report.add(tell(&format!("images/rewrite, {name}"), &rounds, megabytes));
    }
    for (version, name, hosts) in [(4, "reports elsewhere", OTHER_HOSTS), (5, "reports on its hosts", HOSTS)] {
        keep_reports(&runtime, hosts).with_context(|| format!("{REPORTS} {name}"))?;
        // New rules make the reports' keys anew, as one piece.
        put(&runtime, &rules(version, REWRITTEN, false)).await?;
        let rounds = beside_echoes(&runtime, &body, settings.rounds).await?;
        report.add(tell(&format!("the same, 100,000 {name}"), &rounds, megabytes));
    }
    let file = folder.path().join("chat.json");
    std::fs::write(&file, &body)?;
    let nginx = Nginx::start(folder.path()).await?;
    let mut rounds = Vec::new();
    for _ in 0..=settings.rounds {
        let baseline = nginx.get("/plain").await?;
        rounds.push(Round { sdk: None, baseline, case: nginx.get("/sub_filter").await? });
    }
    report.add(tell("nginx sub_filter, over nginx", rounds.get(1..).unwrap_or_default(), megabytes));
    let mut seds = Vec::new();
    for _ in 0..settings.rounds {
        seds.push(megabytes / sed(&file)?.as_secs_f64());
    }
    let sed = Spread::of(seds);
    println!("{:<38} {:>9.0}", "GNU sed", sed.median);
    report.add(json!({"name": "GNU sed", "mb_per_s": sed.json()}));
    report.print_figures(&[("megabytes", megabytes.into())])
}

/// Reports of images on these hosts instead of those that there are. The body holds none of them.
fn keep_reports(runtime: &Runtime, hosts: [&str; 6]) -> Result<()> {
    let connection = Connection::open(runtime.state_dir().join("sqlite_db.db"))?;
    connection.busy_timeout(ANSWER_TIMEOUT)?;
    connection.execute("DELETE FROM images_violations", [])?;
    let hosts: Vec<String> = hosts.iter().map(|host| format!("('{host}')")).collect();
    let sql = format!(
        "WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {REPORTS}),
            hosts AS (SELECT row_number() OVER () - 1 AS place, column1 AS host FROM (VALUES {}))
        INSERT INTO images_violations
            (id, url, doctor_id, patient_id, order_no, channel, reason, image, keys, hosts, reported_at_ms)
        SELECT 'report-' || n, 'https://' || host || '/pop/unlawful/' || n || '.jpg', '', '', '', '', 'x', '', '', '', 0
        FROM numbers JOIN hosts ON place = n % {}",
        hosts.join(", "),
        hosts.len(),
    );
    let kept = connection.execute(&sql, [])?;
    ensure!(kept == REPORTS, "{kept} were kept");
    Ok(())
}

/// The same at every run.
fn chat_history() -> Vec<u8> {
    let mut state = 0x2545_F491_4F6C_DD1D_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let message = |number: usize| {
        let (path, file, more) = (next() >> 32, next(), next() % 4);
        format!(
            r#"{{"id":{number},"from":"patient-{}","to":"doctor-{}","at":"2016-12-10T17:12:46.224+08:00","kind":"image","text":"医生您好，这是今天拍的检查报告，请您看一下有没有问题。{}","image":"https://{}/pop/jfs/{path:08x}/{file:016x}.jpg"}}"#,
            path % 10_000,
            file % 1_000,
            "最近两天还是有点不舒服，".repeat(2 + more as usize),
            HOSTS[number % HOSTS.len()],
        )
    };
    let messages: Vec<String> = (0..URLS).map(message).collect();
    format!(r#"{{"messages":[{}]}}"#, messages.join(",")).into_bytes()
}

/// The first rules are of the body's hosts; the others find nothing in it.
fn rules(version: usize, count: usize, signed: bool) -> Value {
    let rule = |number: usize| {
        let host = match HOSTS.get(number).filter(|_| number < REWRITTEN) {
            Some(host) => (*host).to_owned(),
            None => format!("img{number}.retired-{}.example.org", number % 17),
        };
        let mut rule = json!({"name": format!("rule-{number}"), "from": [host], "to": TO, "contexts": ["*"]});
        if signed {
            rule["sign"] = "hmac-sha256".into();
        }
        rule
    };
    let rules: Vec<Value> = (0..count).map(rule).collect();
    json!({"version": version, "rules": rules, "placeholder": format!("https://{TO}/removed.png")})
}

async fn put(runtime: &Runtime, rules: &Value) -> Result<()> {
    let request = http_client(ANSWER_TIMEOUT).put(runtime.url("/images/rules")).bearer_auth(TOKEN).json(rules);
    let answer = request.send().await?;
    ensure!(answer.status().is_success(), "the rules were refused: {}", answer.text().await?);
    // By then every instance has them.
    sleep(Duration::from_secs(1)).await;
    Ok(())
}

/// A round of the baselines and of the case, one right after the other.
struct Round {
    sdk: Option<Duration>,
    baseline: Duration,
    case: Duration,
}

async fn beside_echoes(runtime: &Runtime, body: &[u8], rounds: u32) -> Result<Vec<Round>> {
    let mut measured = Vec::new();
    // The first is to warm up.
    for number in 0..=rounds {
        let sdk = post(runtime, ECHO, body).await?;
        let own = post(runtime, OWN_ECHO, body).await?;
        let rewritten = post(runtime, REWRITE, body).await?;
        ensure!(sdk.1 == body && own.1 == body, "an echo is not the body");
        let found = String::from_utf8_lossy(&rewritten.1).matches(TO).count();
        ensure!(found == URLS * REWRITTEN / HOSTS.len(), "{found} URLs were rewritten");
        if number > 0 {
            measured.push(Round { sdk: Some(sdk.0), baseline: own.0, case: rewritten.0 });
        }
    }
    Ok(measured)
}

async fn post(runtime: &Runtime, path: &str, body: &[u8]) -> Result<(Duration, Vec<u8>)> {
    let url = runtime.url("");
    let address: SocketAddr = url.trim_start_matches("http://").parse()?;
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {TOKEN}\r\ncontent-type: application/json\r\n\
         content-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    let request = [head.as_bytes(), body].concat();
    let (took, answer) = tokio::task::spawn_blocking(move || exchange(address, request)).await??;
    Ok((took, dechunked(&answer)?))
}

/// Sends and reads at the same time, as what streams must be asked.
fn exchange(address: SocketAddr, request: Vec<u8>) -> Result<(Duration, Vec<u8>)> {
    let mut stream = TcpStream::connect(address)?;
    let mut answer = Vec::with_capacity(request.len() + (2 << 20));
    let started = Instant::now();
    let mut writer = stream.try_clone()?;
    let sending = std::thread::spawn(move || writer.write_all(&request));
    stream.read_to_end(&mut answer)?;
    let took = started.elapsed();
    sending.join().ok().context("the sender panicked")??;
    Ok((took, answer))
}

/// The body of an answer with status 200.
fn dechunked(answer: &[u8]) -> Result<Vec<u8>> {
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n").context("no head")?;
    let head = String::from_utf8_lossy(&answer[..end]).to_lowercase();
    ensure!(head.starts_with("http/1.1 200"), "{head}");
    let mut rest = &answer[end + 4..];
    if !head.contains("transfer-encoding: chunked") {
        return Ok(rest.to_vec());
    }
    let mut body = Vec::new();
    loop {
        let line = rest.windows(2).position(|window| window == b"\r\n").context("a chunk is cut off")?;
        let size = usize::from_str_radix(std::str::from_utf8(&rest[..line])?, 16)?;
        if size == 0 {
            return Ok(body);
        }
        body.extend_from_slice(rest.get(line + 2..line + 2 + size).context("a chunk is cut off")?);
        rest = &rest[line + 2 + size + 2..];
    }
}

/// Prints a case's row, and returns its figures.
fn tell(name: &str, rounds: &[Round], megabytes: f64) -> Value {
    let rate = |took: &Duration| megabytes / took.as_secs_f64();
    let to = |baseline: &Duration, round: &Round| rate(&round.case) / rate(baseline);
    let baseline = Spread::of(rounds.iter().map(|round| rate(&round.baseline)));
    let case = Spread::of(rounds.iter().map(|round| rate(&round.case)));
    let ratio = Spread::of(rounds.iter().map(|round| to(&round.baseline, round)));
    let to_sdk: Option<Vec<f64>> = rounds.iter().map(|round| Some(to(round.sdk.as_ref()?, round))).collect();
    let to_sdk = to_sdk.map(Spread::of);
    let added_s = rounds.iter().map(|round| round.case.as_secs_f64() - round.baseline.as_secs_f64());
    let added = Spread::of(added_s.map(|seconds| seconds * 1e3 / megabytes));
    let to_sdk_text = to_sdk.as_ref().map_or_else(String::new, ToString::to_string);
    println!("{name:<38} {:>9.0} {to_sdk_text:>20} {:>20} {:>12.2}", case.median, ratio.to_string(), added.median);
    json!({
        "name": name,
        "mb_per_s": case.json(),
        "baseline_mb_per_s": baseline.json(),
        "ratio": ratio.json(),
        "ratio_to_sdk": to_sdk.map(|spread| spread.json()),
        "added_ms_per_mb": added.json(),
    })
}

/// nginx, which serves the file as it is and through `sub_filter`.
struct Nginx {
    _group: Group,
    address: SocketAddr,
}

impl Nginx {
    async fn start(folder: &Path) -> Result<Self> {
        let address = SocketAddr::from(([127, 0, 0, 1], port::free()));
        let filters: String =
            HOSTS.iter().take(REWRITTEN).map(|host| format!("sub_filter '//{host}' '//{TO}';\n")).collect();
        let at = folder.display();
        let configuration = format!(
            "daemon off; {} pid {at}/nginx.pid; error_log {at}/nginx.log; worker_processes 2; events {{}}
             http {{
                 access_log off; default_type application/json; client_body_temp_path {at}; proxy_temp_path {at};
                 fastcgi_temp_path {at}; uwsgi_temp_path {at}; scgi_temp_path {at};
                 server {{
                     listen {address};
                     location /plain {{ alias {at}/chat.json; }}
                     location /sub_filter {{ alias {at}/chat.json; sub_filter_types *; sub_filter_once off; {filters} }}
                 }}
             }}",
            if nix::unistd::geteuid().is_root() { "user root;" } else { "" }
        );
        let file = folder.join("nginx.conf");
        std::fs::write(&file, configuration)?;
        let mut command = Command::new("nginx");
        command.arg("-p").arg(folder).arg("-c").arg(&file).stderr(Stdio::null());
        let group = Group::spawn(&mut command)?;
        let deadline = Instant::now() + ANSWER_TIMEOUT;
        while TcpStream::connect(address).is_err() {
            ensure!(Instant::now() < deadline, "nginx does not listen");
            sleep(Duration::from_millis(20)).await;
        }
        Ok(Self { _group: group, address })
    }

    async fn get(&self, path: &str) -> Result<Duration> {
        let request = format!("GET {path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n", self.address);
        let address = self.address;
        let (took, answer) = tokio::task::spawn_blocking(move || exchange(address, request.into_bytes())).await??;
        let found = String::from_utf8_lossy(&dechunked(&answer)?).matches(TO).count();
        let expected = if path == "/plain" { 0 } else { URLS * REWRITTEN / HOSTS.len() };
        ensure!(found == expected, "nginx rewrote {found} URLs");
        Ok(took)
    }
}

fn sed(file: &Path) -> Result<Duration> {
    let mut command = Command::new("sed");
    for host in HOSTS.iter().take(REWRITTEN) {
        command.arg("-e").arg(format!("s#//{}#//{TO}#g", host.replace('.', "\\.")));
    }
    let started = Instant::now();
    let status = command.arg(file).stdout(Stdio::null()).status().context("cannot run sed")?;
    ensure!(status.success(), "sed failed");
    Ok(started.elapsed())
}
