//! `[energy.record]`: where the joules went, by hour, over restarts.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;

use super::{ConfigError, in_range};
use crate::daybook::Keeper;
use crate::serve::state::State;
use crate::state;

/// `[energy.record]`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RecordSection {
    /// Whether a daemon that serves keeps one.
    pub keep: bool,
    /// Its folder; without one nothing is kept. A daemon that serves takes the state directory.
    pub folder: Option<PathBuf>,
    /// Seconds between writes, which is what a crash loses.
    pub every_s: u64,
}

impl Default for RecordSection {
    fn default() -> Self {
        RecordSection { keep: true, folder: None, every_s: 60 }
    }
}

impl RecordSection {
    /// Checks every value, and the price beside them.
    ///
    /// # Errors
    /// The first that makes no sense.
    pub fn check(&self, price_per_kwh: Option<f64>) -> Result<(), ConfigError> {
        in_range(&[("energy.record.every_s", self.every_s, 1, 3600)])?;
        match price_per_kwh {
            Some(found) if !is_price(found) => Err(ConfigError::Value {
                key: "energy.price_per_kwh",
                found: found.to_string(),
                expected: "what a kilowatt-hour costs, 0 or more",
            }),
            _ => Ok(()),
        }
    }

    /// Takes the state directory where no folder is named.
    pub fn settle_folder(&mut self) {
        if self.folder.is_none() {
            self.folder = state::folder();
        }
    }

    /// Keeps the record of `state` as this section says, if it does. A record that cannot be kept keeps nobody from
    /// answering.
    pub fn keep(&self, state: &Arc<State>) -> Option<Keeper> {
        let folder = self.folder.as_ref().filter(|_| self.keep)?;
        match Keeper::start(folder, Duration::from_secs(self.every_s), Arc::clone(state)) {
            Ok(keeper) => Some(keeper),
            Err(error) => {
                log::info!("no record of energy is kept: {error}");
                None
            }
        }
    }
}

/// Whether money can be counted by it.
pub fn is_price(found: f64) -> bool {
    found.is_finite() && found >= 0.0
}
