//! Variables: `{{ templates }}`, where values come from (environment, `.env`, default), and the interface
//! `spin:variables` by which a component reads its own.

use std::{
    collections::{BTreeMap, HashMap},
    env,
    path::Path,
};

use wasmtime::component::Accessor;

use crate::{
    bindings::spin::variables::variables::{Error, Host, HostWithStore},
    host::{Capabilities, Host as State},
    manifest::{Manifest, check_variable_name},
};

/// Text with `{{ names }}` of variables in it.
#[derive(Debug, PartialEq)]
pub(crate) struct Template(Vec<Part>);

#[derive(Debug, PartialEq)]
enum Part {
    Literal(String),
    Name(String),
}

impl Template {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((literal, after)) = rest.split_once("{{") {
            let Some((name, after)) = after.split_once("}}") else {
                return Err("a `{{` without its `}}`".into());
            };
            if !literal.is_empty() {
                parts.push(Part::Literal(literal.into()));
            }
            parts.push(Part::Name(name.trim().into()));
            rest = after;
        }
        if !rest.is_empty() {
            parts.push(Part::Literal(rest.into()));
        }
        Ok(Self(parts))
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|part| match part {
            Part::Literal(_) => None,
            Part::Name(name) => Some(name.as_str()),
        })
    }

    pub(crate) fn is_literal(&self) -> bool {
        self.names().next().is_none()
    }

    /// The text with every name replaced by its value, or `None` if one has none.
    pub(crate) fn resolve(&self, value: impl Fn(&str) -> Option<String>) -> Option<String> {
        self.0
            .iter()
            .map(|part| match part {
                Part::Literal(literal) => Some(literal.clone()),
                Part::Name(name) => value(name),
            })
            .collect()
    }
}

/// The application's variables and their values. Spin asks the environment at each call; it cannot change, so
/// here it is asked once.
pub(crate) struct Variables(BTreeMap<String, String>);

impl Variables {
    /// Takes each variable from `SPIN_VARIABLE_<NAME>`, else from the file `.env`, else its default. All faults
    /// come together: every required variable without a value.
    pub(crate) fn from_environment(manifest: &Manifest) -> (Self, Vec<String>) {
        let mut faults = Vec::new();
        let file = read_dotenv(Path::new(".env")).unwrap_or_else(|fault| {
            faults.push(fault);
            HashMap::new()
        });
        let (variables, missing) = Self::resolve(manifest, |key| match env::var_os(key) {
            Some(value) => Some(value.to_string_lossy().into_owned()),
            None => file.get(key).cloned(),
        });
        if !missing.is_empty() {
            let keys = missing.iter().map(|name| environment_key(name)).collect::<Vec<_>>();
            faults.push(format!("required variables without a value: {}. Set {}", missing.join(", "), keys.join(", ")));
        }
        (variables, faults)
    }

    fn resolve(manifest: &Manifest, environment: impl Fn(&str) -> Option<String>) -> (Self, Vec<&str>) {
        let mut values = BTreeMap::new();
        let mut missing = Vec::new();
        for (name, variable) in &manifest.variables {
            match environment(&environment_key(name)).or_else(|| variable.default.clone()) {
                Some(value) => {
                    values.insert(name.clone(), value);
                }
                None => missing.push(name.as_str()),
            }
        }
        (Self(values), missing)
    }

    /// A template's text. What cannot be resolved has been reported by then, and gives an empty text.
    pub(crate) fn expand(&self, text: &str) -> String {
        Template::parse(text)
            .ok()
            .and_then(|template| template.resolve(|name| self.0.get(name).cloned()))
            .unwrap_or_default()
    }
}

fn environment_key(name: &str) -> String {
    format!("SPIN_VARIABLE_{}", name.to_ascii_uppercase())
}

fn read_dotenv(path: &Path) -> Result<HashMap<String, String>, String> {
    if !path.is_file() {
        return Ok(HashMap::new());
    }
    dotenvy::from_path_iter(path).and_then(Iterator::collect).map_err(|error| format!("{}: {error}", path.display()))
}

/// An error of the interface.
pub(crate) type Failure = wasmtime_wasi::TrappableError<Error>;

impl Host for State {
    fn convert_error(&mut self, failure: Failure) -> wasmtime::Result<Error> {
        failure.downcast()
    }
}

impl<T: Send> HostWithStore<T> for Capabilities {
    async fn get(accessor: &Accessor<T, Self>, name: String) -> Result<String, Failure> {
        if let Err(reason) = check_variable_name(&name) {
            return Err(Error::InvalidName(format!("{name:?}: {reason}")).into());
        }
        accessor.with(|mut access| {
            let component = &access.get().component;
            let value = component.variables.get(&name).cloned();
            value.ok_or_else(|| Error::Undefined(format!("no variable for {:?}.{name:?}", component.id)).into())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(text: &str) -> Option<String> {
        let values = HashMap::from([("a", "1"), ("b", "2")]);
        let template = Template::parse(text).unwrap();
        template.resolve(|name| values.get(name).map(ToString::to_string))
    }

    #[test]
    fn templates_are_filled_in() {
        for (text, expected) in [
            ("", ""),
            ("plain } { text", "plain } { text"),
            ("{{ a }}", "1"),
            ("{{a}}{{  b  }}", "12"),
            ("x-{{ a }}-y", "x-1-y"),
        ] {
            assert_eq!(resolve(text).as_deref(), Some(expected));
        }
    }

    #[test]
    fn an_unknown_name_gives_nothing_and_an_open_brace_is_an_error() {
        assert_eq!(resolve("{{ c }}"), None);
        assert!(Template::parse("{{ a }} {{ b").is_err());
    }

    #[test]
    fn the_environment_goes_before_the_default() {
        let manifest = toml::from_str(
            r#"
            spin_manifest_version = 2
            [application]
            name = "a"
            [variables]
            set = { default = "default" }
            unset = { default = "default" }
            empty = { required = true }
            gone_1 = { required = true }
            gone_2 = { required = true }
            "#,
        )
        .unwrap();
        let environment = HashMap::from([("SPIN_VARIABLE_SET", "value"), ("SPIN_VARIABLE_EMPTY", "")]);
        let (variables, missing) = Variables::resolve(&manifest, |key| environment.get(key).map(ToString::to_string));
        assert_eq!(variables.expand("{{ set }} {{ unset }} {{ empty }}"), "value default ");
        assert_eq!(missing, ["gone_1", "gone_2"]);
    }
}
