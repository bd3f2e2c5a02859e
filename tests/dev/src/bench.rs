//! The benchmark's place.

use anyhow::{Result, bail};

/// Not written yet.
pub(crate) async fn run() -> Result<()> {
    bail!("there is no benchmark yet");
}
