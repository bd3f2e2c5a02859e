//! What the operator set for `rewards`, read once per instance.

use shared::{
    auth::Tokens,
    config::{Lazy, misconfigured, variable},
    db::{self, Db},
    gateway::{Deliveries, Gateways},
    log::EntryPath,
    message::Accounts,
    outbox,
    problem::{Fault, Problem},
    stream::Settings,
};

use crate::{
    rewards::{FUNCTION, Rewards},
    store,
    vault::Vault,
};

/// The component's version.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// All that both triggers need.
pub(crate) struct Config {
    pub(crate) accounts: Accounts,
    pub(crate) gateways: Gateways,
    pub(crate) stream: Settings,
    pub(crate) stock_threshold: i64,
}

static CONFIG: Lazy<Config> = Lazy::new();
static TOKENS: Lazy<Tokens> = Lazy::new();
static VAULT: Lazy<Vault> = Lazy::new();
static DB: Lazy<Db> = Lazy::new();

/// The database, with this function's tables and the outbox's.
///
/// # Errors
/// 503 while it is busy; the next call tries again.
pub(crate) async fn db() -> Result<&'static Db, Problem> {
    let owners = [("outbox", outbox::MIGRATIONS), (FUNCTION, store::MIGRATIONS)];
    Ok(DB.get_or_try_init(db::spin::open(&owners)).await?)
}

/// The configuration.
///
/// # Errors
/// 503 with every fault of every variable.
pub(crate) async fn config() -> Result<&'static Config, Problem> {
    CONFIG.get_or_try_init(load()).await
}

/// The tokens that HTTP accepts. The Redis component is not given them.
///
/// # Errors
/// 503 if the manifest does not give the variables.
pub(crate) async fn tokens() -> Result<&'static Tokens, Problem> {
    TOKENS.get_or_try_init(Tokens::load()).await
}

/// The keys of card secrets, which the Redis component is not given.
///
/// # Errors
/// 503 if there is none, or with every fault of `card_key`.
pub(crate) async fn vault() -> Result<&'static Vault, Problem> {
    let make = async {
        let vault = Vault::parse(&variable("card_key").await?).map_err(misconfigured)?;
        if vault.seals() {
            return Ok(vault);
        }
        Err(misconfigured(vec![Fault::at("/variables/card_key", "is empty: cards can be neither kept nor shown")]))
    };
    VAULT.get_or_try_init(make).await
}

/// A campaign's work, for a call that came in by the path of `courier`.
pub(crate) async fn rewards<'a>(courier: &'a Deliveries<'static>) -> Result<Rewards<'a, Deliveries<'static>>, Problem> {
    let config = config().await?;
    Ok(Rewards {
        db: db().await?,
        courier,
        accounts: &config.accounts,
        stock_threshold: config.stock_threshold,
        path: courier.path,
    })
}

/// The gateways, as a call that came in by `path` meets them.
pub(crate) async fn courier(path: EntryPath) -> Result<Deliveries<'static>, Problem> {
    Ok(Deliveries { gateways: &config().await?.gateways, path, version: VERSION })
}

async fn load() -> Result<Config, Problem> {
    let accounts = Accounts::load().await?;
    let gateways = Gateways::load().await?;
    let stream = Settings::load("accounts_stream", "accounts_stream_field").await?;
    let mut faults: Vec<Fault> = Vec::new();
    let threshold = variable("stock_threshold").await?;
    let stock_threshold = threshold.trim().parse().ok().filter(|threshold| (0..=1_000_000).contains(threshold));
    if stock_threshold.is_none() {
        faults.push(Fault::at("/variables/stock_threshold", "must be a number from 0 to 1000000"));
    }
    match (accounts, gateways, stream, stock_threshold) {
        (Ok(accounts), Ok(gateways), Ok(stream), Some(stock_threshold)) => {
            Ok(Config { accounts, gateways, stream, stock_threshold })
        }
        (accounts, gateways, stream, _) => {
            faults.extend([accounts.err(), gateways.err(), stream.err()].into_iter().flatten().flatten());
            Err(misconfigured(faults))
        }
    }
}
