//! The application manifest (`spin.toml`, version 2): what of it this host supports, and everything that can be
//! found wrong with it before a component is loaded.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use crate::{allowed_hosts, variables::Template};

/// A manifest, exactly as it is written. A key that is not here is an error that names it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Manifest {
    spin_manifest_version: i64,
    pub(crate) application: Application,
    #[serde(default)]
    pub(crate) variables: BTreeMap<String, Variable>,
    #[serde(default)]
    pub(crate) trigger: Triggers,
    #[serde(default)]
    pub(crate) component: BTreeMap<String, Component>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Application {
    name: String,
    #[serde(default, rename = "version")]
    _version: String,
    #[serde(default, rename = "description")]
    _description: String,
    #[serde(default, rename = "authors")]
    _authors: Vec<String>,
    #[serde(default)]
    pub(crate) trigger: ApplicationTriggers,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ApplicationTriggers {
    #[serde(default, rename = "http")]
    _http: NoKeys,
    #[serde(default)]
    pub(crate) redis: ApplicationRedis,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NoKeys {}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ApplicationRedis {
    pub(crate) address: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Variable {
    pub(crate) default: Option<String>,
    #[serde(default)]
    pub(crate) required: bool,
    // As in Spin, it changes nothing at run time.
    #[serde(default, rename = "secret")]
    _secret: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Triggers {
    #[serde(default)]
    pub(crate) http: Vec<HttpTrigger>,
    #[serde(default)]
    pub(crate) redis: Vec<RedisTrigger>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct HttpTrigger {
    #[serde(rename = "id")]
    _id: Option<String>,
    pub(crate) route: String,
    pub(crate) component: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RedisTrigger {
    #[serde(rename = "id")]
    _id: Option<String>,
    pub(crate) channel: String,
    pub(crate) component: String,
    pub(crate) address: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Component {
    pub(crate) source: String,
    #[serde(default, rename = "description")]
    _description: String,
    #[serde(default)]
    pub(crate) variables: BTreeMap<String, String>,
    #[serde(default)]
    pub(crate) environment: BTreeMap<String, String>,
    #[serde(default)]
    pub(crate) allowed_outbound_hosts: Vec<String>,
    #[serde(default)]
    pub(crate) sqlite_databases: Vec<String>,
    build: Option<Build>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Build {
    command: Commands,
    #[serde(rename = "workdir")]
    _workdir: Option<String>,
    #[serde(default, rename = "watch")]
    _watch: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Commands {
    One(String),
    Several(Vec<String>),
}

impl Manifest {
    /// Reads the manifest at `path`: a file, or a folder that holds a `spin.toml`. Gives its folder too, which
    /// is what the paths in it are relative to.
    pub(crate) fn read(path: &Path) -> Result<(Self, PathBuf)> {
        let file = if path.is_dir() { path.join("spin.toml") } else { path.to_owned() };
        let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let manifest = Self::parse(&text)
            .with_context(|| format!("{} is not a manifest that this host supports", file.display()))?;
        let folder = file.parent().map(Path::to_owned).unwrap_or_default();
        Ok((manifest, folder))
    }

    fn parse(text: &str) -> Result<Self> {
        Ok(toml::from_str(text)?)
    }

    /// Leaves only the components named and their triggers: `-c`.
    pub(crate) fn retain(&mut self, ids: &[String]) -> Result<()> {
        if ids.is_empty() {
            return Ok(());
        }
        for id in ids {
            if !self.component.contains_key(id) {
                let known = self.component.keys().cloned().collect::<Vec<_>>().join(", ");
                bail!("there is no component {id:?} in the manifest; there are {known}");
            }
        }
        self.trigger.http.retain(|trigger| ids.contains(&trigger.component));
        self.trigger.redis.retain(|trigger| ids.contains(&trigger.component));
        // The manifest's other components stay for `build_command`, but nothing loads them without a trigger.
        Ok(())
    }

    /// The components that a trigger calls, by id.
    pub(crate) fn triggered(&self) -> BTreeMap<&str, &Component> {
        let http = self.trigger.http.iter().map(|trigger| &trigger.component);
        let redis = self.trigger.redis.iter().map(|trigger| &trigger.component);
        http.chain(redis).filter_map(|id| Some((id.as_str(), self.component.get(id)?))).collect()
    }

    /// Everything that is wrong with what is written, one sentence each.
    pub(crate) fn faults(&self, folder: &Path) -> Vec<String> {
        let mut faults = Vec::new();
        if self.spin_manifest_version != 2 {
            faults.push(format!("spin_manifest_version is {}; this host reads version 2", self.spin_manifest_version));
        }
        if self.application.name.is_empty() {
            faults.push("application.name is empty".into());
        }
        for (name, variable) in &self.variables {
            if let Err(reason) = check_variable_name(name) {
                faults.push(format!("variable {name:?}: {reason}"));
            }
            if variable.required == variable.default.is_some() {
                faults.push(format!("variable {name:?} must be `required` or have a `default`, and not both"));
            }
        }
        self.trigger_faults(&mut faults);
        for (id, component) in &self.component {
            self.component_faults(id, component, &mut faults);
        }
        let mut sources = BTreeSet::new();
        for (id, component) in self.triggered() {
            let source = folder.join(&component.source);
            if sources.insert(source.clone()) && !source.is_file() {
                let build = match self.build_command(component) {
                    Some(command) => format!("build it with `{command}`"),
                    None => "and no component says how to build it".into(),
                };
                faults.push(format!("component {id:?}: there is no {}: {build}", source.display()));
            }
        }
        faults
    }

    fn trigger_faults(&self, faults: &mut Vec<String>) {
        if self.trigger.http.is_empty() && self.trigger.redis.is_empty() {
            faults.push("there is no trigger".into());
        }
        for trigger in &self.trigger.http {
            self.check_component(&trigger.component, "an HTTP trigger", faults);
        }
        for trigger in &self.trigger.redis {
            self.check_component(&trigger.component, "a Redis trigger", faults);
            let owner = format!("the Redis trigger of {:?}", trigger.component);
            self.check_template(&owner, &trigger.channel, faults);
            match trigger.address.as_ref().or(self.application.trigger.redis.address.as_ref()) {
                Some(address) => self.check_template(&owner, address, faults),
                None => {
                    faults.push(format!("{owner} has no address, and application.trigger.redis.address is not set"))
                }
            }
        }
    }

    fn component_faults(&self, id: &str, component: &Component, faults: &mut Vec<String>) {
        let owner = format!("component {id:?}");
        if !id.starts_with(|c: char| c.is_ascii_alphabetic())
            || !id.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
        {
            faults.push(format!("{owner}: an id is words of letters and digits joined by `-`"));
        }
        for (name, value) in &component.variables {
            if let Err(reason) = check_variable_name(name) {
                faults.push(format!("{owner}: variable {name:?}: {reason}"));
            }
            self.check_template(&format!("{owner}, variable {name:?}"), value, faults);
        }
        for database in &component.sqlite_databases {
            if database != "default" {
                faults.push(format!("{owner}: sqlite_databases names {database:?}; this host has `default` alone"));
            }
        }
        for host in &component.allowed_outbound_hosts {
            let owner = format!("{owner}, allowed_outbound_hosts");
            self.check_template(&owner, host, faults);
            let Ok(template) = Template::parse(host) else {
                continue;
            };
            // With the defaults, as Spin checks it: what arrives by the environment is judged at the first call.
            let default = |name: &str| self.variables.get(name)?.default.clone();
            let Some(entry) = template.resolve(default) else {
                continue;
            };
            let skipped = !template.is_literal() && allowed_hosts::is_skipped(&entry);
            if !skipped && let Err(reason) = allowed_hosts::Entry::parse(&entry) {
                faults.push(format!("{owner}: {reason}"));
            }
        }
    }

    fn check_component(&self, id: &str, owner: &str, faults: &mut Vec<String>) {
        if !self.component.contains_key(id) {
            faults.push(format!("{owner} calls component {id:?}, which the manifest does not have"));
        }
    }

    fn check_template(&self, owner: &str, text: &str, faults: &mut Vec<String>) {
        match Template::parse(text) {
            Ok(template) => {
                for name in template.names().filter(|name| !self.variables.contains_key(*name)) {
                    faults.push(format!(
                        "{owner}: {text:?} names the variable {name:?}, which the manifest does not have"
                    ));
                }
            }
            Err(reason) => faults.push(format!("{owner}: {text:?}: {reason}")),
        }
    }

    /// The command that makes a component's .wasm file, said by it or by another with the same file.
    fn build_command(&self, component: &Component) -> Option<String> {
        let same = self.component.values().filter(|other| other.source == component.source);
        let commands = std::iter::once(component).chain(same).find_map(|c| c.build.as_ref())?;
        Some(match &commands.command {
            Commands::One(command) => command.clone(),
            Commands::Several(commands) => commands.join(" && "),
        })
    }
}

/// Variable names: lower-case words of letters and digits joined by single underscores, so that each has
/// exactly one environment variable.
pub(crate) fn check_variable_name(name: &str) -> Result<(), String> {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    if let Some(c) = name.chars().find(|c| !allowed(*c)) {
        return Err(format!("{c:?} is neither a lower-case letter nor a digit nor an underscore"));
    }
    if !name.starts_with(|c: char| c.is_ascii_lowercase()) {
        return Err("must start with a lower-case letter".into());
    }
    if name.ends_with('_') || name.contains("__") {
        return Err("an underscore stands alone between other characters".into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
        spin_manifest_version = 2
        [application]
        name = "a"
        [application.trigger.redis]
        address = "{{ redis }}"
        [variables]
        redis = { default = "redis://127.0.0.1:6379" }
        token = { required = true, secret = true }
        peer = { default = "" }
        [[trigger.http]]
        route = "/a/..."
        component = "a"
        [[trigger.redis]]
        channel = "c"
        component = "a"
        [component.a]
        source = "Cargo.toml"
        allowed_outbound_hosts = ["{{ peer }}", "{{ redis }}", "https://*.example.com"]
        sqlite_databases = ["default"]
        [component.a.variables]
        token = "Bearer {{ token }}"
        [component.a.build]
        command = "make a"
        watch = ["src"]
    "#;

    fn faults(text: &str) -> String {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
        Manifest::parse(text).unwrap().faults(folder).join("\n")
    }

    #[test]
    fn a_good_manifest_has_no_faults() {
        assert_eq!(faults(GOOD), "");
    }

    #[test]
    fn an_unknown_key_is_named() {
        for (place, key) in [
            ("[application]", "title"),
            ("[[trigger.http]]", "executor"),
            ("[[trigger.redis]]", "group"),
            ("[component.a]", "key_value_stores"),
            ("[component.a.build]", "shell"),
        ] {
            let text = GOOD.replace(place, &format!("{place}\n{key} = []"));
            let error = format!("{:#}", Manifest::parse(&text).unwrap_err());
            assert!(error.contains(key), "{error}");
        }
        let error = Manifest::parse(&format!("{GOOD}\n[trigger.mqtt]")).unwrap_err();
        assert!(format!("{error:#}").contains("mqtt"));
    }

    #[test]
    fn each_fault_is_named() {
        for (from, to, fault) in [
            ("version = 2", "version = 1", "version is 1"),
            ("component = \"a\"", "component = \"b\"", "component \"b\""),
            ("\"Cargo.toml\"", "\"gone.wasm\"", "build it with `make a`"),
            ("\"default\"]", "\"other\"]", "\"other\""),
            ("{{ token }}", "{{ tocken }}", "\"tocken\""),
            ("{{ token }}", "{{ token", "{{"),
            ("channel = \"c\"", "channel = \"{{ c }}\"", "\"c\""),
            ("token = { required = true, secret = true }", "token = {}", "must be `required`"),
            ("peer = {", "peer__ = {", "underscore"),
            ("https://*.example.com", "https://example.com/path", "path"),
            ("default = \"\"", "default = \"http://a/b\"", "path"),
            ("address = \"{{ redis }}\"", "", "no address"),
        ] {
            let faults = faults(&GOOD.replace(from, to));
            assert!(faults.contains(fault), "{fault}: {faults}");
        }
    }

    #[test]
    fn all_faults_come_together() {
        let text = GOOD.replace("Cargo.toml", "gone.wasm").replace("version = 2", "version = 3");
        assert_eq!(faults(&text).lines().count(), 2);
    }

    #[test]
    fn a_choice_of_components_keeps_their_triggers_alone() {
        let more = "[[trigger.http]]\nroute = \"/b\"\ncomponent = \"b\"\n[component.b]\nsource = \"b.wasm\"";
        let mut manifest = Manifest::parse(&format!("{GOOD}\n{more}")).unwrap();
        manifest.retain(&["b".into()]).unwrap();
        assert_eq!(manifest.triggered().into_keys().collect::<Vec<_>>(), ["b"]);
        assert!(manifest.trigger.redis.is_empty());
        assert!(manifest.retain(&["c".into()]).is_err());
    }
}
