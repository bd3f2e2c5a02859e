//! What the operator set for `push`, read once per instance.

use shared::{
    auth::Tokens,
    config::{Lazy, misconfigured, variable},
    db::{self, Db},
    gateway::Gateways,
    message::Accounts,
    outbox,
    problem::Problem,
    stream::Settings,
};

use crate::{format::Formatter, intake::FUNCTION, mapping::OrderMapping, store};

/// All that both triggers need.
pub(crate) struct Config {
    pub(crate) formatter: Formatter,
    pub(crate) gateways: Gateways,
    pub(crate) stream: Settings,
}

static CONFIG: Lazy<Config> = Lazy::new();
static TOKENS: Lazy<Tokens> = Lazy::new();
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

async fn load() -> Result<Config, Problem> {
    let mapping = OrderMapping::parse(&variable("order_mapping").await?);
    let accounts = Accounts::load().await?;
    let gateways = Gateways::load().await?;
    let stream = Settings::load("orders_stream", "orders_stream_field").await?;
    match (mapping, accounts, gateways, stream) {
        (Ok(mapping), Ok(accounts), Ok(gateways), Ok(stream)) => {
            Ok(Config { formatter: Formatter { mapping, accounts }, gateways, stream })
        }
        (mapping, accounts, gateways, stream) => {
            let faults = [mapping.err(), accounts.err(), gateways.err(), stream.err()];
            Err(misconfigured(faults.into_iter().flatten().flatten().collect()))
        }
    }
}
