//! What `dev` reads of spin.toml: routes, channels, and what is to be built, so that none of it is written twice.

use std::path::Path;

use anyhow::{Context, Result};
use toml::{Table, Value};

use crate::settings::Variables;

/// The application's manifest.
pub(crate) struct Manifest(Table);

impl Manifest {
    pub(crate) fn read(file: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        Self::parse(&text).with_context(|| format!("cannot read {}", file.display()))
    }

    fn parse(text: &str) -> Result<Self> {
        Ok(Self(text.parse()?))
    }

    /// Route and component of each HTTP trigger.
    pub(crate) fn routes(&self) -> Vec<(&str, &str)> {
        self.triggers("http", "route")
    }

    /// Channel and component of each Redis trigger; a channel may be a template.
    pub(crate) fn channels(&self) -> Vec<(&str, &str)> {
        self.triggers("redis", "channel")
    }

    /// The packages whose .wasm files the components are.
    pub(crate) fn packages(&self) -> Vec<&str> {
        let components = self.0.get("component").and_then(Value::as_table);
        let mut packages: Vec<_> = components
            .into_iter()
            .flat_map(Table::values)
            .filter_map(|component| Path::new(component.get("source")?.as_str()?).file_stem()?.to_str())
            .collect();
        packages.sort_unstable();
        packages.dedup();
        packages
    }

    /// A text with each `{{ name }}` replaced by the variable, or by its default.
    pub(crate) fn resolve(&self, template: &str, variables: &Variables) -> String {
        let mut text = template.to_owned();
        while let Some((before, rest)) = text.split_once("{{")
            && let Some((name, after)) = rest.split_once("}}")
        {
            let value = self.variable(name.trim(), variables);
            text = format!("{before}{value}{after}");
        }
        text
    }

    fn variable<'a>(&'a self, name: &str, variables: &'a Variables) -> &'a str {
        let default = || {
            let declared = self.0.get("variables")?.get(name)?;
            declared.get("default")?.as_str()
        };
        variables.get(name).map(String::as_str).or_else(default).unwrap_or_default()
    }

    fn triggers(&self, kind: &str, key: &str) -> Vec<(&str, &str)> {
        let triggers = self.0.get("trigger").and_then(|all| all.get(kind)?.as_array());
        triggers
            .into_iter()
            .flatten()
            .filter_map(|trigger| Some((trigger.get(key)?.as_str()?, trigger.get("component")?.as_str()?)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANIFEST: &str = r#"
        [variables]
        orders_channel = { default = "orders" }
        [[trigger.http]]
        route = "/push/..."
        component = "push"
        [[trigger.redis]]
        channel = "{{ orders_channel }}"
        component = "push-events"
        [component.push]
        source = "target/wasm32-wasip2/release/push.wasm"
        [component.push-events]
        source = "target/wasm32-wasip2/release/push.wasm"
    "#;

    #[test]
    fn routes_channels_and_packages_are_read_from_it() {
        let manifest = Manifest::parse(MANIFEST).unwrap();
        assert_eq!(manifest.routes(), [("/push/...", "push")]);
        assert_eq!(manifest.channels(), [("{{ orders_channel }}", "push-events")]);
        assert_eq!(manifest.packages(), ["push"]);
    }

    #[test]
    fn a_template_takes_the_variable_or_its_default() {
        let manifest = Manifest::parse(MANIFEST).unwrap();
        let mut variables = Variables::new();
        assert_eq!(manifest.resolve("{{ orders_channel }}", &variables), "orders");
        variables.insert("orders_channel".to_owned(), "cdc".to_owned());
        assert_eq!(manifest.resolve("x.{{orders_channel}}", &variables), "x.cdc");
        assert_eq!(manifest.resolve("pharmacy.orders", &variables), "pharmacy.orders");
    }

    #[test]
    fn the_real_manifest_has_four_functions_on_each_trigger_and_a_doorbell_for_each_stream() {
        let manifest = Manifest::read(&harness::workspace_root().join("spin.toml")).unwrap();
        assert_eq!(manifest.packages(), ["images", "pharmacy", "push", "rewards"]);
        let channels = manifest.channels();
        let doorbells = channels.iter().filter(|(channel, _)| channel.starts_with("__keyspace@0__:")).count();
        assert_eq!((manifest.routes().len(), channels.len(), doorbells), (4, 7, 3));
    }
}
