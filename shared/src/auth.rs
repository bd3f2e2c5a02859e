//! Who may call: `Authorization: Bearer` with a token of the variable `api_token` (services) or `admin_token`
//! (operators, who may do all that services may).
//!
//! A variable may hold several tokens separated by spaces, so that they can be rotated. Tokens are compared by
//! their digests in constant time: neither a token's length nor its first wrong byte shows in the answer's time.

use axum::http::{HeaderMap, header};
use subtle::{Choice, ConstantTimeEq};

use crate::{
    config::variable,
    digest,
    problem::{Kind, Problem},
};

/// What a route asks of its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A service of the hospital.
    Service,
    /// An operator: imports, switches, rules, recalls, retries.
    Admin,
}

/// The tokens that are accepted.
pub struct Tokens {
    service: Vec<[u8; 32]>,
    admin: Vec<[u8; 32]>,
}

impl Tokens {
    /// By the variables of the component.
    ///
    /// # Errors
    /// 503 if the manifest does not give them.
    pub async fn load() -> Result<Self, Problem> {
        Ok(Self::new(&variable("api_token").await?, &variable("admin_token").await?))
    }

    /// Reads the two variables' values. An empty value accepts nobody.
    pub fn new(api_token: &str, admin_token: &str) -> Self {
        let digests = |tokens: &str| tokens.split_whitespace().map(|token| digest::bytes(token.as_bytes())).collect();
        Self { service: digests(api_token), admin: digests(admin_token) }
    }

    /// Lets a caller with a token for `role` through.
    ///
    /// # Errors
    /// 401 without a token of ours, 403 with one that is not enough.
    pub fn require(&self, role: Role, headers: &HeaderMap) -> Result<(), Problem> {
        let Some(token) = bearer(headers) else {
            return Err(Problem::new(Kind::Unauthorized, "send `Authorization: Bearer <token>`"));
        };
        let sent = digest::bytes(token.as_bytes());
        let known = |tokens: &[[u8; 32]]| bool::from(among(tokens, &sent));
        // Which of the two lists is asked depends on the route and the role found, not on the token's bytes.
        match role {
            Role::Service if known(&self.service) || known(&self.admin) => Ok(()),
            Role::Admin if known(&self.admin) => Ok(()),
            Role::Admin if known(&self.service) => Err(Problem::new(Kind::Forbidden, "this needs an operator's token")),
            _ => Err(Problem::new(Kind::Unauthorized, "the token is not known here")),
        }
    }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

fn among(known: &[[u8; 32]], sent: &[u8; 32]) -> Choice {
    known.iter().fold(Choice::from(0), |found, token| found | token.ct_eq(sent))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(value: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, value.parse().unwrap());
        headers
    }

    fn status(tokens: &Tokens, role: Role, headers: &HeaderMap) -> u16 {
        tokens.require(role, headers).map_or_else(|problem| problem.status(), |()| 200)
    }

    #[test]
    fn each_role_needs_its_token() {
        let tokens = Tokens::new("svc", "adm");
        for (value, service, admin) in
            [("Bearer svc", 200, 403), ("bearer adm", 200, 200), ("Bearer sv", 401, 401), ("Basic svc", 401, 401)]
        {
            assert_eq!(status(&tokens, Role::Service, &with(value)), service, "{value}");
            assert_eq!(status(&tokens, Role::Admin, &with(value)), admin, "{value}");
        }
        assert_eq!(status(&tokens, Role::Service, &HeaderMap::new()), 401);
    }

    #[test]
    fn a_rotated_token_works_beside_the_old_one() {
        let tokens = Tokens::new("old new", "");
        for value in ["Bearer old", "Bearer new"] {
            assert_eq!(status(&tokens, Role::Service, &with(value)), 200);
        }
        assert_eq!(status(&tokens, Role::Service, &with("Bearer old new")), 401);
    }

    #[test]
    fn an_empty_configuration_accepts_nobody() {
        let tokens = Tokens::new("", "  ");
        for value in ["Bearer ", "Bearer", "Bearer  ", "Bearer x"] {
            assert_eq!(status(&tokens, Role::Service, &with(value)), 401, "{value:?}");
            assert_eq!(status(&tokens, Role::Admin, &with(value)), 401, "{value:?}");
        }
    }
}
