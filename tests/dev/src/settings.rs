//! The parameters, and the application variables that follow from them. No default stands here: tokens and secrets
//! belong in the Makefile, so that nothing else can ship them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::builder::NonEmptyStringValueParser;
use clap::{Args, ValueEnum};
use harness::runtime::VARIABLE_PREFIX;

/// Application variables by name in lower case, without their prefix.
pub(crate) type Variables = BTreeMap<String, String>;

/// What `dev up` needs to know.
#[derive(Args)]
pub(crate) struct Up {
    /// Where the application listens
    #[arg(long, env)]
    pub(crate) listen: SocketAddr,
    /// The Redis to use; one is started if none answers there and it is on this machine
    #[arg(long, env, value_parser = NonEmptyStringValueParser::new())]
    pub(crate) redis_url: String,
    /// Where the database, the logs and the Redis files lie
    #[arg(long, env)]
    pub(crate) state_dir: PathBuf,
    /// auto (Spin where it is on the PATH), spin or host
    #[arg(long, env)]
    pub(crate) runtime: String,
    /// Which triggers run
    #[arg(long, env)]
    pub(crate) triggers: Triggers,
    /// Where the dev gateway listens, which shows the messages
    #[arg(long, env)]
    pub(crate) gateway_listen: SocketAddr,
    /// What messages to the dev gateway are signed with
    #[arg(long, env, hide_env_values = true, value_parser = NonEmptyStringValueParser::new())]
    pub(crate) gateway_secret: String,
    /// What services show to call the application
    #[arg(long, env, hide_env_values = true, value_parser = NonEmptyStringValueParser::new())]
    pub(crate) api_token: String,
    /// What operators show to call the application
    #[arg(long, env, hide_env_values = true, value_parser = NonEmptyStringValueParser::new())]
    pub(crate) admin_token: String,
    /// What the secrets of gift cards are sealed with
    #[arg(long, env, hide_env_values = true, value_parser = NonEmptyStringValueParser::new())]
    pub(crate) card_key: String,
}

/// What `dev demo` needs to know: the same parameters as the running `dev up`.
#[derive(Args)]
pub(crate) struct Demo {
    /// Where the application listens
    #[arg(long, env)]
    pub(crate) listen: SocketAddr,
    /// Where the dev gateway listens
    #[arg(long, env)]
    pub(crate) gateway_listen: SocketAddr,
    /// What services show to call the application
    #[arg(long, env, hide_env_values = true, value_parser = NonEmptyStringValueParser::new())]
    pub(crate) api_token: String,
    /// What operators show to call the application
    #[arg(long, env, hide_env_values = true, value_parser = NonEmptyStringValueParser::new())]
    pub(crate) admin_token: String,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Triggers {
    /// HTTP and Redis
    All,
    /// HTTP alone: no Redis is needed
    Http,
}

impl Up {
    /// The application's variables: what is `given`, and for the rest what follows from the parameters.
    pub(crate) fn variables(&self, given: &Variables) -> Variables {
        let mut derived = Variables::from([
            ("api_token".to_owned(), self.api_token.clone()),
            ("admin_token".to_owned(), self.admin_token.clone()),
            ("redis_url".to_owned(), self.redis_url.clone()),
            ("card_key".to_owned(), self.card_key.clone()),
        ]);
        if self.has_dev_gateway(given) {
            // The dev gateway is both, unless operators have a webhook of their own, and knows one secret.
            let secrets = ["push_gateway_secret", "operators_webhook_secret"];
            let named: &[_] = if given.contains_key("operators_webhook") { &secrets[..1] } else { &secrets };
            let secret = named.iter().find_map(|name| given.get(*name)).unwrap_or(&self.gateway_secret);
            for name in named {
                let gateway = name.trim_end_matches("_secret");
                derived.insert(gateway.to_owned(), format!("http://{}", reachable(self.gateway_listen)));
                derived.insert((*name).to_owned(), secret.clone());
            }
        }
        derived.extend(given.clone());
        derived
    }

    /// Whether messages go to a gateway of our own, because no other is named. An empty name is one too: the
    /// application then delivers to its log alone.
    pub(crate) fn has_dev_gateway(&self, given: &Variables) -> bool {
        !given.contains_key("push_gateway")
    }
}

/// The variables set in the environment, and in `.env`, which Spin reads too; the environment wins.
pub(crate) fn given_variables() -> Result<Variables> {
    let env_file = harness::workspace_root().join(".env");
    let mut given = Variables::new();
    if env_file.is_file() {
        let entries =
            dotenvy::from_path_iter(&env_file).with_context(|| format!("cannot read {}", env_file.display()))?;
        for entry in entries {
            let entry = entry.with_context(|| format!("cannot read {}", env_file.display()))?;
            given.extend(variable(entry));
        }
    }
    // Not `vars`, which panics at what is no UTF-8 in any variable of anybody.
    for (name, value) in std::env::vars_os() {
        let Some(name) = name.to_str().filter(|name| name.starts_with(VARIABLE_PREFIX)) else { continue };
        let value = value.into_string().ok().with_context(|| format!("{name} is not UTF-8"))?;
        given.extend(variable((name.to_owned(), value)));
    }
    Ok(given)
}

/// Refuses what the application would: with any other URL no component may call anybody, the gateway included. Refuses
/// `rediss`, too: `dev` asks Redis itself, and has no TLS.
pub(crate) fn check_redis_url(url: &str) -> Result<()> {
    if url.starts_with("rediss://") {
        bail!("REDIS_URL must be redis://…: `make up` has no TLS; rediss://host:port is for deployments");
    }
    let rest = url.strip_prefix("redis://");
    if rest.is_none_or(|rest| rest.is_empty() || rest.contains(['/', '?', '#', '@'])) {
        // Not quoted: it may hold a password.
        bail!(
            "REDIS_URL must be redis://host or redis://host:port, without a database such as /0 and without \
             credentials: an outbound grant of Spin is an origin"
        );
    }
    Ok(())
}

fn variable((name, value): (String, String)) -> Option<(String, String)> {
    let name = name.strip_prefix(VARIABLE_PREFIX)?;
    Some((name.to_lowercase(), value))
}

/// The first of the tokens that a variable holds, which are separated by spaces.
pub(crate) fn first_token<'a>(variables: &'a Variables, name: &str) -> &'a str {
    let tokens = variables.get(name).map_or("", String::as_str);
    tokens.split_whitespace().next().unwrap_or_default()
}

/// The address to call, of an address to listen on.
pub(crate) fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
    }
    address
}

#[cfg(test)]
mod tests {
    use super::*;

    fn up() -> Up {
        Up {
            listen: "127.0.0.1:3000".parse().unwrap(),
            redis_url: "redis://127.0.0.1:6379".to_owned(),
            state_dir: ".spin".into(),
            runtime: "auto".to_owned(),
            triggers: Triggers::All,
            gateway_listen: "0.0.0.0:3900".parse().unwrap(),
            gateway_secret: "whsec_dev".to_owned(),
            card_key: "dev:key".to_owned(),
            api_token: "service".to_owned(),
            admin_token: "operator".to_owned(),
        }
    }

    fn given(name: &str, value: &str) -> Variables {
        variable((format!("SPIN_VARIABLE_{name}"), value.to_owned())).into_iter().collect()
    }

    #[test]
    fn messages_go_to_the_dev_gateway_unless_another_is_named() {
        let variables = up().variables(&Variables::new());
        assert_eq!(variables["push_gateway"], "http://127.0.0.1:3900");
        assert_eq!(variables["push_gateway_secret"], "whsec_dev");

        for named in ["https://push.example", ""] {
            let variables = up().variables(&given("PUSH_GATEWAY", named));
            assert_eq!(variables["push_gateway"], named);
            assert!(!variables.contains_key("push_gateway_secret"));
        }
    }

    #[test]
    fn whoever_tells_the_dev_gateway_signs_as_it_verifies() {
        let both = ["push_gateway_secret", "operators_webhook_secret"];
        for name in both {
            let variables = up().variables(&given(&name.to_uppercase(), "whsec_given"));
            for secret in both {
                assert_eq!(variables[secret], "whsec_given", "{name}");
            }
            assert_eq!(variables["operators_webhook"], variables["push_gateway"]);
        }
        let variables = up().variables(&given("OPERATORS_WEBHOOK", "https://alerts.example"));
        assert_eq!(variables["operators_webhook"], "https://alerts.example");
        assert!(!variables.contains_key("operators_webhook_secret"));
        assert_eq!(variables["push_gateway_secret"], "whsec_dev");
        // What is meant for the operators' own webhook is not the dev gateway's.
        let mut two = given("OPERATORS_WEBHOOK", "https://alerts.example");
        two.extend(given("OPERATORS_WEBHOOK_SECRET", "whsec_theirs"));
        let variables = up().variables(&two);
        assert_eq!(
            (&*variables["push_gateway_secret"], &*variables["operators_webhook_secret"]),
            ("whsec_dev", "whsec_theirs")
        );
    }

    #[test]
    fn a_redis_url_is_refused_for_whatever_stands_behind_host_and_port() {
        for good in ["redis://127.0.0.1:6379", "redis://localhost"] {
            check_redis_url(good).unwrap();
        }
        for bad in ["", "redis://", "127.0.0.1:6379", "redis://127.0.0.1:6379/0", "redis://:secret@127.0.0.1"] {
            let error = check_redis_url(bad).unwrap_err().to_string();
            assert!(error.contains("/0") && !error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn a_redis_url_with_tls_is_refused_for_it() {
        for url in ["rediss://redis.example.org:6380", "rediss://redis.example.org", "rediss://:secret@127.0.0.1"] {
            let error = check_redis_url(url).unwrap_err().to_string();
            assert!(error.contains("no TLS") && !error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn what_the_environment_sets_wins_over_what_follows() {
        let variables = up().variables(&given("API_TOKEN", "old new"));
        assert_eq!(variables["api_token"], "old new");
        assert_eq!(first_token(&variables, "api_token"), "old");
        assert_eq!(variables["admin_token"], "operator");
    }
}
