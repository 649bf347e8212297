//! The power meter of a daemon: found as the configuration wants it, and read at a steady rate where that is needed.

use std::io;
use std::time::Instant;

use tern_boards::energy::sampler::{PERIOD, Sampler};
use tern_boards::energy::witness::Witnessed;
use tern_boards::energy::{Choice, Meter, Wanted};
use tern_boards::machine::Metered;
use tern_boards::{Machine, Root};

use super::ServeError;
use crate::config::Config;
use crate::transport::mqtt::client::Rumqtt;
use crate::transport::mqtt::plug::{self, PlugListener};

/// What there is to meter with.
pub struct Meters {
    /// The machine they belong to.
    pub machine: Machine,
    /// The one whose joules are told.
    pub meter: Option<Box<dyn Meter>>,
    /// The best of the others that measure.
    pub witness: Option<Box<dyn Meter>>,
    /// Hears a plug, for as long as it lives.
    pub listener: Option<PlugListener>,
}

/// Finds the meters of the machine under `root`, with what `config` says of them.
///
/// # Errors
/// If a plug is to be heard and a secret cannot be read, or the system has no thread.
pub fn find(root: &Root, config: &Config) -> Result<Meters, ServeError> {
    let energy = &config.energy;
    let choice = energy.choice();
    let plug = energy.mqtt.as_ref().zip(config.mqtt.as_ref()).filter(|_| choice != Choice::None);
    let (listener, outside) = match plug {
        None => (None, None),
        Some((plug, section)) => {
            let (feed, outside) = plug::meter(energy, plug);
            let listener = PlugListener::start(section, plug, Box::new(Rumqtt), feed);
            (Some(listener.map_err(ServeError::Mqtt)?), Some(outside))
        }
    };
    let wanted = Wanted { choice, outside, file: energy.file_source() };
    let Metered { machine, meter, witness } = Machine::with_meters(root, wanted);
    Ok(Meters { machine, meter, witness, listener })
}

/// The meter to use, with its witness beside it if there is one.
///
/// # Errors
/// When the system has no thread to give.
pub fn witnessed(
    meter: Option<Box<dyn Meter>>,
    witness: Option<Box<dyn Meter>>,
) -> Result<Option<Box<dyn Meter>>, ServeError> {
    match (meter, witness) {
        (Some(meter), Some(witness)) => {
            log::info!("power by {}, compared with {}", meter.source(), witness.source());
            let both = Witnessed::new(meter, witness).map_err(ServeError::Thread)?;
            Ok(Some(Box::new(both)))
        }
        (meter, _) => Ok(meter),
    }
}

/// A sensor of power must be read at a steady rate, and one that may not answer by somebody who can wait; a counter
/// needs neither.
pub fn steadily_read(meter: Box<dyn Meter>, origin: Instant) -> io::Result<Box<dyn Meter>> {
    if !meter.may_block() {
        return Ok(meter);
    }
    Ok(Box::new(Sampler::spawn(meter, PERIOD, origin)?))
}
