//! What rewriting a body costs, beside a component that echoes it, by the SDK and by the functions' own, faster way,
//! beside nginx's `sub_filter` with the same four rules, and beside GNU sed.
//!
//! Each set of rules and reports has a process, so that all of them have their turn in each round, nginx and sed too: what
//! else the machine does meets them alike.
//!
//! - [`small`]: bodies of 1 KB, in requests per second

mod small;

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
use tempfile::TempDir;
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
const MANY_REPORTS: &str = "100,000 reports on its hosts";
const FEW_REPORTS: &str = "6 reports on its hosts";
const TO: &str = "img.hospital.example";
/// By nothing but the SDK.
const ECHO: &str = "/probe/echo";
/// By the functions' own way through the runtime.
const OWN_ECHO: &str = "/probe/own-echo";
/// No answer is longer: room is made before the clock runs.
const ANSWER_MAX: usize = 16 << 20;
const REWRITE: &str = "/images/rewrite";

/// Measures every case, and tells the figures.
pub(crate) async fn bench(kind: Kind, settings: &Settings) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let body = chat_history();
    let megabytes = body.len() as f64 / 1e6;
    let file = folder.path().join("chat.json");
    std::fs::write(&file, &body)?;
    let mut report = Report::new("images", kind, settings);
    println!(
        "\n{}, which the client shares.\nA JSON chat history of {megabytes:.1} MB with {URLS} URLs in {} hosts, {REWRITTEN} of them \
         rewritten; medians of {} rounds, in each of which every case has its turn.",
        report.machine(),
        HOSTS.len(),
        settings.rounds,
    );
    let cases = Case::start_all(kind, folder.path(), &body).await?;
    let nginx = Nginx::start(folder.path()).await?;
    let mut rounds = Vec::new();
    // The first is to warm up.
    for number in 0..=settings.rounds as usize {
        let mut round = Round { cases: vec![Duration::ZERO; cases.len()], ..Round::default() };
        // Each process begins a round in its turn, and echoes.
        for turn in 0..cases.len() {
            let place = (turn + number) % cases.len();
            let case = &cases[place];
            if turn == 0 {
                (round.sdk, round.own) = (case.echo(ECHO, &body).await?, case.echo(OWN_ECHO, &body).await?);
            }
            round.cases[place] = case.rewrite(&body).await?;
        }
        (round.plain, round.sub_filter) = (nginx.get("/plain").await?, nginx.get("/sub_filter").await?);
        round.sed = sed(&file)?;
        if number > 0 {
            rounds.push(round);
        }
    }
    let columns =
        ["to the SDK's echo", "to our own echo", "to 4 rules", "added ms/MB"].map(|name| format!("{name:>19}"));
    println!("\n{:<29} {:>5} {}", "", "MB/s", columns.join(" "));
    for (place, case) in cases.iter().enumerate() {
        let of = |round: &Round| Beside {
            baseline: round.own,
            sdk: Some(round.sdk),
            first: round.cases.first().copied(),
            case: round.cases[place],
        };
        report.add(tell(case.name, rounds.iter().map(of), megabytes));
    }
    let of = |round: &Round| Beside { baseline: round.plain, sdk: None, first: None, case: round.sub_filter };
    report.add(tell("nginx sub_filter, over nginx", rounds.iter().map(of), megabytes));
    let sed = Spread::of(rounds.iter().map(|round| megabytes / round.sed.as_secs_f64()));
    println!("{:<29} {:>5.0}", "GNU sed", sed.median);
    report.add(json!({"name": "GNU sed", "mb_per_s": sed.json()}));
    let place = |name: &str| cases.iter().position(|case| case.name == name).context("no such case");
    let (many, few) = (place(MANY_REPORTS)?, place(FEW_REPORTS)?);
    let ratio = Spread::of(rounds.iter().map(|round| round.cases[few].as_secs_f64() / round.cases[many].as_secs_f64()));
    println!("{MANY_REPORTS}, to {FEW_REPORTS}: {ratio}");
    report.add(json!({"name": format!("{MANY_REPORTS}, to {FEW_REPORTS}"), "ratio": ratio.json()}));
    small::bench(&cases, settings, &mut report).await?;
    report.print_figures(&[("megabytes", megabytes.into())])
}

/// One set of rules and reports, in a process of its own.
struct Case {
    name: &'static str,
    runtime: Runtime,
    /// How often the new host is in the body when it is rewritten.
    found: usize,
    _folder: TempDir,
}

/// What is kept in a case.
#[derive(Clone, Copy)]
struct Kept {
    rules: usize,
    signed: bool,
    /// So many images that are not in the body are reported.
    reports: usize,
    /// The host of each.
    reported: fn(usize) -> String,
    /// Of the body's images one in so many is reported, too.
    one_in: Option<usize>,
}

impl Case {
    async fn start_all(kind: Kind, folder: &Path, body: &[u8]) -> Result<Vec<Self>> {
        let few =
            Kept { rules: REWRITTEN, signed: false, reports: 0, reported: |number| of(&HOSTS, number), one_in: None };
        let many = Kept { reports: REPORTS, ..few };
        let cases = [
            ("4 rules", few),
            // What two processes differ by that do the same.
            ("4 rules, once more", few),
            ("200 rules", Kept { rules: 200, ..few }),
            ("4 rules, signed", Kept { signed: true, ..few }),
            ("100,000 reports elsewhere", Kept { reported: |number| of(&OTHER_HOSTS, number), ..many }),
            (
                "100,000 reports on as many",
                Kept { reported: |number| format!("pictures-{number}.another.example"), ..many },
            ),
            ("100,000 reports on old hosts", Kept { reported: |number| of(&HOSTS[..REWRITTEN], number), ..many }),
            (MANY_REPORTS, many),
            ("and of 1 in 1,000 of its own", Kept { one_in: Some(1_000), ..many }),
            (FEW_REPORTS, Kept { reports: HOSTS.len(), ..few }),
        ];
        let mut started = Vec::new();
        for (name, kept) in cases {
            let case = Self::start(kind, folder, name, kept, body).await;
            started.push(case.with_context(|| format!("cannot start `{name}`"))?);
        }
        // By then every instance knows what it is to know.
        sleep(Duration::from_secs(1)).await;
        Ok(started)
    }

    async fn start(kind: Kind, folder: &Path, name: &'static str, kept: Kept, body: &[u8]) -> Result<Self> {
        let own = tempfile::tempdir_in(folder)?;
        let keys = "hmac-sha256=of-a-benchmark";
        let builder = application::builder(own.path(), kind, &COMPONENTS)?.variable("images_sign_keys", keys);
        let removed = |url: usize| kept.one_in.is_some_and(|one_in| url.is_multiple_of(one_in));
        // The placeholder is on the new host.
        let found = (0..URLS).filter(|url| url % HOSTS.len() < REWRITTEN || removed(*url)).count();
        let case = Self { name, runtime: builder.start().await?, found, _folder: own };
        case.put(&rules(1, kept.rules, kept.signed)).await?;
        if kept.reports > 0 {
            let mut next = random(0x9E37_79B9_7F4A_7C15);
            let url = |number: usize| image_url(&(kept.reported)(number), &mut next);
            let mut urls: Vec<_> = (0..kept.reports).map(url).collect();
            urls.extend(image_urls(body)?.enumerate().filter(|(url, _)| removed(*url)).map(|(_, url)| url.to_owned()));
            case.keep_reports(&urls)?;
            // New rules make the reports' keys anew, as one piece.
            case.put(&rules(2, kept.rules, kept.signed)).await?;
        }
        Ok(case)
    }

    /// Keeps them where the application does: a request for each would take minutes.
    fn keep_reports(&self, urls: &[String]) -> Result<()> {
        const SQL: &str = "INSERT INTO images_violations
                (id, url, doctor_id, patient_id, order_no, channel, reason, image, keys, hosts, reported_at_ms)
            VALUES (?1, ?1, '', '', '', '', 'x', '', '', '', 0)";
        let mut connection = Connection::open(self.runtime.state_dir().join("sqlite_db.db"))?;
        connection.busy_timeout(ANSWER_TIMEOUT)?;
        let transaction = connection.transaction()?;
        for url in urls {
            transaction.prepare_cached(SQL)?.execute([url])?;
        }
        Ok(transaction.commit()?)
    }

    async fn put(&self, rules: &Value) -> Result<()> {
        let request = http_client(ANSWER_TIMEOUT).put(self.runtime.url("/images/rules")).bearer_auth(TOKEN).json(rules);
        let answer = request.send().await?;
        ensure!(answer.status().is_success(), "the rules were refused: {}", answer.text().await?);
        Ok(())
    }

    async fn rewrite(&self, body: &[u8]) -> Result<Duration> {
        let (took, answer) = self.post(REWRITE, body).await?;
        let found = String::from_utf8_lossy(&answer).matches(TO).count();
        ensure!(found == self.found, "{found} URLs are on the new host instead of {}", self.found);
        Ok(took)
    }

    async fn echo(&self, path: &str, body: &[u8]) -> Result<Duration> {
        let (took, answer) = self.post(path, body).await?;
        ensure!(answer == body, "an echo is not the body");
        Ok(took)
    }

    /// Of the second body of two: while the others had their turn, the process has cooled down.
    async fn post(&self, path: &str, body: &[u8]) -> Result<(Duration, Vec<u8>)> {
        post(&self.runtime, path, body).await?;
        post(&self.runtime, path, body).await
    }
}

/// Numbers without order, the same at every run: Marsaglia's xorshift.
fn random(mut state: u64) -> impl FnMut() -> u64 {
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    }
}

/// One of some hosts after the other.
fn of(hosts: &[&str], number: usize) -> String {
    hosts[number % hosts.len()].to_owned()
}

fn image_url(host: &str, mut next: impl FnMut() -> u64) -> String {
    format!("https://{host}/pop/jfs/{:08x}/{:016x}.jpg", next() >> 32, next())
}

/// The same at every run.
fn chat_history() -> Vec<u8> {
    let mut next = random(0x2545_F491_4F6C_DD1D);
    let message = |number: usize| {
        let (patient, doctor, more) = (next() % 10_000, next() % 1_000, next() % 4);
        format!(
            r#"{{"id":{number},"from":"patient-{patient}","to":"doctor-{doctor}","at":"2016-12-10T17:12:46.224+08:00","kind":"image","text":"医生您好，这是今天拍的检查报告，请您看一下有没有问题。{}","image":"{}"}}"#,
            "最近两天还是有点不舒服，".repeat(2 + more as usize),
            image_url(HOSTS[number % HOSTS.len()], &mut next),
        )
    };
    let messages: Vec<String> = (0..URLS).map(message).collect();
    format!(r#"{{"messages":[{}]}}"#, messages.join(",")).into_bytes()
}

/// The images of a chat history.
fn image_urls(body: &[u8]) -> Result<impl Iterator<Item = &str>> {
    let behind = std::str::from_utf8(body)?.split(r#""image":""#).skip(1);
    Ok(behind.filter_map(|rest| Some(rest.split_once('"')?.0)))
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

/// What a round measured.
#[derive(Default)]
struct Round {
    sdk: Duration,
    own: Duration,
    /// By the case's place.
    cases: Vec<Duration>,
    plain: Duration,
    sub_filter: Duration,
    sed: Duration,
}

/// A case beside its baselines, in one round.
struct Beside {
    baseline: Duration,
    sdk: Option<Duration>,
    /// What the first case took, of which this one has more.
    first: Option<Duration>,
    case: Duration,
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
    let mut answer = Vec::with_capacity(ANSWER_MAX);
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
fn tell(name: &str, rounds: impl Iterator<Item = Beside>, megabytes: f64) -> Value {
    let rounds: Vec<_> = rounds.collect();
    let rate = |took: Duration| megabytes / took.as_secs_f64();
    let baseline = Spread::of(rounds.iter().map(|round| rate(round.baseline)));
    let case = Spread::of(rounds.iter().map(|round| rate(round.case)));
    let to = |baseline: fn(&Beside) -> Option<Duration>| {
        let ratio = |round: &Beside| Some(rate(round.case) / rate(baseline(round)?));
        rounds.iter().map(ratio).collect::<Option<Vec<f64>>>().map(Spread::of)
    };
    let (ratio, to_sdk, to_first) = (to(|round| Some(round.baseline)), to(|round| round.sdk), to(|round| round.first));
    let added_s = rounds.iter().map(|round| round.case.as_secs_f64() - round.baseline.as_secs_f64());
    let added = Spread::of(added_s.map(|seconds| seconds * 1e3 / megabytes));
    let text = |spread: &Option<Spread>| spread.as_ref().map_or_else(String::new, ToString::to_string);
    let texts = [text(&to_sdk), text(&ratio), text(&to_first), added.to_string()].map(|text| format!("{text:>19}"));
    println!("{name:<29} {:>5.0} {}", case.median, texts.join(" "));
    json!({
        "name": name,
        "mb_per_s": case.json(),
        "baseline_mb_per_s": baseline.json(),
        "ratio": ratio.map(Spread::json),
        "ratio_to_sdk": to_sdk.map(Spread::json),
        "ratio_to_first": to_first.map(Spread::json),
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

    /// Of the second request of two, as of the others.
    async fn get(&self, path: &str) -> Result<Duration> {
        self.get_once(path).await?;
        self.get_once(path).await
    }

    async fn get_once(&self, path: &str) -> Result<Duration> {
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
