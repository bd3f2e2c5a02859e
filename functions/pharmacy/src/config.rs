//! What the operator set for `pharmacy`, read once per instance.

use std::sync::{Arc, PoisonError, RwLock};

use shared::{
    auth::Tokens,
    config::{Lazy, misconfigured, variable},
    db::{self, Db, DbError},
    gateway::Gateways,
    http::is_origin,
    message::Accounts,
    outbox,
    problem::{Fault, Kind, Problem},
};

use crate::{
    intake::FUNCTION,
    partner::{self, Partner},
    rules::{RuleSet, source::Source},
    store,
    submission::Account,
};

/// All that both triggers need.
pub(crate) struct Config {
    pub(crate) accounts: Accounts,
    pub(crate) gateways: Gateways,
    pub(crate) stream: Stream,
}

/// The stream that services write orders to.
pub(crate) struct Stream {
    /// The Redis server's.
    pub(crate) url: String,
    pub(crate) name: String,
    /// The entry's field that has the order.
    pub(crate) field: String,
}

static CONFIG: Lazy<Config> = Lazy::new();
static PHARMACIES: Lazy<Vec<Account>> = Lazy::new();
static TOKENS: Lazy<Tokens> = Lazy::new();
static DB: Lazy<Db> = Lazy::new();
static EFFECTS: Lazy<Db> = Lazy::new();
/// The rules in force when they were last looked for.
static RULES: RwLock<Option<Arc<RuleSet>>> = RwLock::new(None);

/// The database, with this function's tables and the outbox's.
///
/// # Errors
/// 503 while it is busy; the next call tries again.
pub(crate) async fn db() -> Result<&'static Db, Problem> {
    let owners = [("outbox", outbox::MIGRATIONS), (FUNCTION, store::MIGRATIONS)];
    Ok(DB.get_or_try_init(db::spin::open(&owners)).await?)
}

/// The database for what an order's steps lead to: an order itself says what of that is still to be done, so that only
/// its own commits wait for the disk.
///
/// # Errors
/// As [`db`].
pub(crate) async fn effects() -> Result<&'static Db, Problem> {
    db().await?;
    Ok(EFFECTS.get_or_try_init(db::spin::open_for_effects()).await?)
}

/// The configuration.
///
/// # Errors
/// 503 with every fault of every variable.
pub(crate) async fn config() -> Result<&'static Config, Problem> {
    CONFIG.get_or_try_init(load()).await
}

/// The partners' accounts, in the order of [`partner::ALL`]. The Redis component, which submits nothing, is not given
/// them.
///
/// # Errors
/// 503 with every fault of every variable of theirs.
pub(crate) async fn pharmacies() -> Result<&'static [Account], Problem> {
    let load = async {
        let mut pharmacies = Vec::with_capacity(partner::ALL.len());
        let mut faults = Vec::new();
        for partner in partner::ALL {
            match account(*partner).await? {
                Ok(account) => pharmacies.push(account),
                Err(found) => faults.extend(found),
            }
        }
        if faults.is_empty() { Ok(pharmacies) } else { Err(misconfigured(faults)) }
    };
    Ok(PHARMACIES.get_or_try_init(load).await?)
}

/// The tokens that HTTP accepts. The Redis component is not given them.
///
/// # Errors
/// 503 if the manifest does not give the variables.
pub(crate) async fn tokens() -> Result<&'static Tokens, Problem> {
    TOKENS
        .get_or_try_init(async { Ok(Tokens::new(&variable("api_token").await?, &variable("admin_token").await?)) })
        .await
}

/// The rules in force: compiled once per instance and version.
///
/// # Errors
/// 503 while the database is busy; 500 if the set that is kept does not compile any more.
pub(crate) async fn rules(db: &Db) -> Result<Arc<RuleSet>, Problem> {
    let cached = RULES.read().unwrap_or_else(PoisonError::into_inner).clone();
    let newer = store::newer_rules(db, cached.as_ref().map_or(0, |rules| rules.version)).await?;
    let compiled = match (newer, cached) {
        (None, Some(cached)) => return Ok(cached),
        (Some(kept), _) => compiled(&kept.source, kept.version)?,
        (None, None) => shipped()?,
    };
    let compiled = Arc::new(compiled);
    *RULES.write().unwrap_or_else(PoisonError::into_inner) = Some(compiled.clone());
    Ok(compiled)
}

fn shipped() -> Result<RuleSet, Problem> {
    Source::shipped().and_then(|source| RuleSet::compile(&source, 0)).map_err(broken)
}

fn compiled(source: &str, version: i64) -> Result<RuleSet, Problem> {
    let source: Source = serde_json::from_str(source).map_err(|error| DbError::Other(error.to_string()))?;
    RuleSet::compile(&source, version).map_err(broken)
}

/// No rules at all would let everything pass.
fn broken(faults: Vec<Fault>) -> Problem {
    Problem::new(Kind::Internal, "the rules in force do not compile").with_all(faults)
}

async fn load() -> Result<Config, Problem> {
    let accounts = Accounts {
        wechat_template_id: variable("wechat_template_id").await?,
        wechat_link: variable("wechat_link").await?,
        mini_program_template_id: variable("mini_program_template_id").await?,
        mini_program_page: variable("mini_program_page").await?,
        app_link: variable("app_link").await?,
    }
    .check();
    let gateways = Gateways::load().await?;
    let mut faults = Vec::new();
    let stream = Stream {
        url: variable("redis_url").await?,
        name: variable("pharmacy_stream").await?,
        field: variable("pharmacy_stream_field").await?,
    };
    for (name, value) in [("pharmacy_stream", &stream.name), ("pharmacy_stream_field", &stream.field)] {
        if value.trim().is_empty() {
            faults.push(Fault::at(format!("/variables/{name}"), "must not be empty"));
        }
    }
    match (accounts, gateways) {
        (Ok(accounts), Ok(gateways)) if faults.is_empty() => Ok(Config { accounts, gateways, stream }),
        (accounts, gateways) => {
            faults.extend([accounts.err(), gateways.err()].into_iter().flatten().flatten());
            Err(misconfigured(faults))
        }
    }
}

/// A partner's account: `<name>_origin`, `<name>_path`, `<name>_secret`. Without an origin it is not connected: its
/// orders wait.
async fn account(partner: &dyn Partner) -> Result<Result<Account, Vec<Fault>>, Problem> {
    let name = partner.name();
    let read = async |part: &str| variable(&format!("{name}_{part}")).await;
    let (origin, path, secret) = (read("origin").await?, read("path").await?, read("secret").await?);
    let origin = origin.trim().trim_end_matches('/');
    let mut faults = Vec::new();
    let fault = |part: &str, detail: String| Fault::at(format!("/variables/{name}_{part}"), detail);
    if !origin.is_empty() && !is_origin(origin) {
        faults.push(fault("origin", "must be an origin such as https://pharmacy.example.org".into()));
    }
    if !path.starts_with('/') {
        faults.push(fault("path", "must start with /".into()));
    }
    if !(origin.is_empty() && secret.is_empty())
        && let Err(detail) = partner.check_secret(&secret)
    {
        faults.push(fault("secret", detail));
    }
    let url = if origin.is_empty() { String::new() } else { format!("{origin}{}", path.trim_end_matches('/')) };
    Ok(if faults.is_empty() { Ok(Account { url, secret }) } else { Err(faults) })
}
