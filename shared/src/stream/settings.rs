//! Which stream a function takes events from: three variables.

use crate::{
    config::{redis_url_fault, variable},
    problem::{Fault, Problem},
};

/// Where a stream is, and where its entries have their event.
pub struct Settings {
    /// The Redis server's.
    pub url: String,
    /// The stream's key.
    pub name: String,
    /// The entry's field that has the event.
    pub field: String,
}

impl Settings {
    /// By `redis_url` and the variables of these names.
    ///
    /// # Errors
    /// Every fault of them; the outer error if the manifest does not give one.
    pub async fn load(name: &str, field: &str) -> Result<Result<Self, Vec<Fault>>, Problem> {
        let settings =
            Self { url: variable("redis_url").await?, name: variable(name).await?, field: variable(field).await? };
        let values = [(name, &settings.name), (field, &settings.field)];
        let empty = values.iter().filter(|(_, value)| value.trim().is_empty());
        let mut faults: Vec<_> =
            empty.map(|(name, _)| Fault::at(format!("/variables/{name}"), "must not be empty")).collect();
        faults.extend(redis_url_fault(&settings.url));
        Ok(if faults.is_empty() { Ok(settings) } else { Err(faults) })
    }
}
