//! Routes: which component answers a path, as Spin matches them. Exact before `/:name` before `/...`, and the
//! longest prefix first.

use std::collections::HashMap;

use routefinder::Router;

use crate::manifest::HttpTrigger;

/// The paths that the runtime answers itself.
pub(crate) const WELL_KNOWN: &str = "/.well-known/spin/";

/// The routes of the application.
pub(crate) struct Routes(Router<Route>);

/// A route as the manifest has it, and whose it is.
pub(crate) struct Route {
    pub(crate) component: String,
    /// As written.
    pub(crate) raw: String,
    /// With a slash before it, and none behind.
    pub(crate) based: String,
}

/// A route, and what of the path its wildcards stand for.
pub(crate) struct Found<'a> {
    pub(crate) route: &'a Route,
    /// Behind the prefix of `/...`, from its slash on.
    pub(crate) rest: String,
    pub(crate) named: Vec<(String, String)>,
}

impl Routes {
    /// Makes the routes, or lists what is wrong with them.
    pub(crate) fn new(triggers: &[HttpTrigger]) -> Result<Self, Vec<String>> {
        let mut router = Router::new();
        let mut owners: HashMap<String, &str> = HashMap::new();
        let mut faults = Vec::new();
        for trigger in triggers {
            let based = based(&trigger.route);
            if let Some(owner) = owners.insert(based.clone(), &trigger.component) {
                faults.push(format!(
                    "the route {:?} is given twice: to {owner:?} and to {:?}",
                    trigger.route, trigger.component
                ));
            }
            if based.starts_with(WELL_KNOWN) {
                faults.push(format!("the route {:?} is below {WELL_KNOWN}, which the runtime answers", trigger.route));
            }
            let pattern = match based.strip_suffix("/...") {
                Some(prefix) => format!("{prefix}/*"),
                None => based.clone(),
            };
            let route = Route { component: trigger.component.clone(), raw: trigger.route.clone(), based };
            if let Err(reason) = router.add(pattern, route) {
                faults.push(format!("the route {:?} is invalid: {reason}", trigger.route));
            }
        }
        if faults.is_empty() { Ok(Self(router)) } else { Err(faults) }
    }

    pub(crate) fn find(&self, path: &str) -> Option<Found<'_>> {
        let found = self.0.best_match(path)?;
        let captures = found.captures();
        // The router drops a trailing slash from what it captures; Spin gives it to the component.
        let rest = captures.wildcard().map(|rest| match (rest, path.ends_with('/')) {
            ("", false) => String::new(),
            ("", true) => "/".into(),
            (rest, false) => format!("/{rest}"),
            (rest, true) => format!("/{rest}/"),
        });
        Some(Found {
            route: found.handler(),
            rest: rest.unwrap_or_default(),
            named: captures.iter().map(|(name, value)| (name.into(), value.into())).collect(),
        })
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Route> {
        self.0.iter().map(|(_, route)| route)
    }
}

impl Route {
    /// The route without a trailing wildcard.
    pub(crate) fn prefix(&self) -> &str {
        self.raw.strip_suffix("/...").unwrap_or(&self.raw)
    }

    /// As the start message shows it.
    pub(crate) fn display(&self) -> String {
        match self.based.strip_suffix("/...") {
            Some(prefix) => format!("{prefix} (wildcard)"),
            None => self.based.clone(),
        }
    }
}

fn based(route: &str) -> String {
    let route = route.strip_suffix('/').unwrap_or(route);
    match route.starts_with('/') || route.is_empty() {
        true => route.into(),
        false => format!("/{route}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routes(routes: &[&str]) -> Result<Routes, Vec<String>> {
        let triggers: Vec<HttpTrigger> = routes
            .iter()
            .map(|route| toml::from_str(&format!("route = {route:?}\ncomponent = {route:?}")).unwrap())
            .collect();
        Routes::new(&triggers)
    }

    #[test]
    fn the_best_route_answers() {
        let routes = routes(&["/", "/a/...", "/a/b", "/a/:id", "/a/b/...", "/c", "/d/:x/e"]).unwrap();
        for (path, route, rest) in [
            ("/", Some("/"), ""),
            ("/a", Some("/a/..."), ""),
            ("/a/", Some("/a/..."), "/"),
            ("/a/b", Some("/a/b"), ""),
            ("/a/x", Some("/a/:id"), ""),
            ("/a/x/y", Some("/a/..."), "/x/y"),
            ("/a/x/y/", Some("/a/..."), "/x/y/"),
            ("/a/b/c", Some("/a/b/..."), "/c"),
            ("/ab", None, ""),
            ("/c", Some("/c"), ""),
            ("/c/d", None, ""),
            ("/d/1/e", Some("/d/:x/e"), ""),
            ("/d/1", None, ""),
        ] {
            let found = routes.find(path);
            assert_eq!(found.as_ref().map(|f| f.route.raw.as_str()), route, "{path}");
            assert_eq!(found.map(|f| f.rest).unwrap_or_default(), rest, "{path}");
        }
        let found = routes.find("/d/1/e").unwrap();
        assert_eq!(found.named, [("x".to_owned(), "1".to_owned())]);
    }

    #[test]
    fn bad_routes_are_all_named() {
        let faults = routes(&["/a", "/a/", "/.well-known/spin/health", "/*x/b"]).err().unwrap();
        assert_eq!(faults.len(), 3, "{faults:?}");
    }
}
