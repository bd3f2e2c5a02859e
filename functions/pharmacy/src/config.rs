//! What the operator set for `pharmacy`, read once per instance.

use std::{
    convert::Infallible,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use shared::{
    auth::Tokens,
    config::{Lazy, misconfigured, variable},
    db::{self, Db, DbError},
    gateway::Gateways,
    log::EntryPath,
    message::Accounts,
    outbox,
    problem::{Fault, Kind, Problem, sentence},
    stream::Settings,
};

use crate::{
    intake::{FUNCTION, log},
    partner::{self, Partner},
    rules::{RuleSet, source::Source},
    store,
    submission::{Account, Pharmacies},
};

/// All that both triggers need.
pub(crate) struct Config {
    pub(crate) accounts: Accounts,
    pub(crate) gateways: Gateways,
    pub(crate) stream: Settings,
}

static CONFIG: Lazy<Config> = Lazy::new();
static PHARMACIES: Lazy<Pharmacies> = Lazy::new();
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

/// The partners' accounts. The Redis component, which submits nothing, is not given them. A fault of one's variables is
/// said in the log, once an instance: the others go on.
pub(crate) async fn pharmacies() -> &'static Pharmacies {
    let load = async {
        let mut pharmacies = Pharmacies::default();
        for partner in partner::ALL {
            let account = account(*partner).await;
            if let Err(faults) = &account {
                let detail = sentence(faults);
                log("alarm", partner.name(), "misconfigured", Some(&detail), Duration::ZERO, EntryPath::Http);
            }
            pharmacies.0.insert(partner.name(), account);
        }
        Ok::<_, Infallible>(pharmacies)
    };
    match PHARMACIES.get_or_try_init(load).await {
        Ok(pharmacies) => pharmacies,
        Err(never) => match never {},
    }
}

async fn account(partner: &dyn Partner) -> Result<Account, Vec<Fault>> {
    let read = async |part: &str| {
        let value = variable(&format!("{}_{part}", partner.name())).await;
        value.map_err(|problem| problem.errors().to_vec())
    };
    Account::of(partner, [&read("origin").await?, &read("path").await?, &read("secret").await?])
}

/// The tokens that HTTP accepts. The Redis component is not given them.
///
/// # Errors
/// 503 if the manifest does not give the variables.
pub(crate) async fn tokens() -> Result<&'static Tokens, Problem> {
    TOKENS.get_or_try_init(Tokens::load()).await
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
    Ok(kept_newer(&mut RULES.write().unwrap_or_else(PoisonError::into_inner), compiled))
}

/// Keeps a set unless a newer one is there, and returns the one that is kept: of two requests that compile at the same
/// time, the one that asked first may be done last.
fn kept_newer(kept: &mut Option<Arc<RuleSet>>, compiled: RuleSet) -> Arc<RuleSet> {
    match kept {
        Some(newer) if newer.version >= compiled.version => newer.clone(),
        older => older.insert(Arc::new(compiled)).clone(),
    }
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
    let accounts = Accounts::load().await?;
    let gateways = Gateways::load().await?;
    let stream = Settings::load("pharmacy_stream", "pharmacy_stream_field").await?;
    match (accounts, gateways, stream) {
        (Ok(accounts), Ok(gateways), Ok(stream)) => Ok(Config { accounts, gateways, stream }),
        (accounts, gateways, stream) => {
            let faults = [accounts.err(), gateways.err(), stream.err()];
            Err(misconfigured(faults.into_iter().flatten().flatten().collect()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_older_set_that_is_compiled_last_puts_no_newer_one_out_of_force() {
        let set = |version| RuleSet::compile(&Source::shipped().unwrap(), version).unwrap();
        let mut kept = None;
        for (compiled, in_force) in [(0, 0), (2, 2), (1, 2), (0, 2), (3, 3)] {
            assert_eq!(kept_newer(&mut kept, set(compiled)).version, in_force);
        }
    }
}
