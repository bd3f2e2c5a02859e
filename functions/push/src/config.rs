//! What the operator set for `push`, read once per instance.

use shared::{
    auth::Tokens,
    config::{Lazy, misconfigured, variable},
    gateway::Gateway,
    message::Accounts,
    problem::Problem,
};

use crate::{format::Formatter, mapping::OrderMapping};

/// All that both triggers need.
pub(crate) struct Config {
    pub(crate) formatter: Formatter,
    pub(crate) gateway: Gateway,
}

static CONFIG: Lazy<Config> = Lazy::new();
static TOKENS: Lazy<Tokens> = Lazy::new();

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
    TOKENS
        .get_or_try_init(async { Ok(Tokens::new(&variable("api_token").await?, &variable("admin_token").await?)) })
        .await
}

async fn load() -> Result<Config, Problem> {
    let mapping = OrderMapping::parse(&variable("order_mapping").await?);
    let accounts = Accounts {
        wechat_template_id: variable("wechat_template_id").await?,
        wechat_link: variable("wechat_link").await?,
        mini_program_template_id: variable("mini_program_template_id").await?,
        mini_program_page: variable("mini_program_page").await?,
        app_link: variable("app_link").await?,
    }
    .check();
    let gateway = Gateway::new(
        &variable("push_gateway").await?,
        &variable("push_gateway_path").await?,
        &variable("push_gateway_secret").await?,
    );
    match (mapping, accounts, gateway) {
        (Ok(mapping), Ok(accounts), Ok(gateway)) => Ok(Config { formatter: Formatter { mapping, accounts }, gateway }),
        (mapping, accounts, gateway) => {
            let faults = [mapping.err(), accounts.err(), gateway.err()];
            Err(misconfigured(faults.into_iter().flatten().flatten().collect()))
        }
    }
}
