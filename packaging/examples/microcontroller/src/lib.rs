//! A sensor node: it tells the daemon at the other end of its serial line, in the words of a log, how its sensor does, and
//! restarts the sensor or calls somebody.
//!
//! It needs neither a heap nor the standard library: [`Node::watch`] is called from the firmware's main loop with a UART
//! of the chip's own crate (anything with `embedded_io::Read + Write` whose read fails with `TimedOut` after, say, two
//! seconds) and with what reads the sensor and what switches.
//!
//! ```ignore
//! let resets = flash.count_reset();                  // a number that no earlier start had
//! let mut node = Node::new(uart, resets);
//! loop {
//!     node.watch(thermometer.read(), &mut switches);
//!     timer.wait_ms(1000);
//! }
//! ```
//! Wiring: TX to RX crosswise, ground to ground, 3.3 V levels; on the gateway `tern serve --serial /dev/ttyAMA0`.
#![no_std]
#![forbid(unsafe_code)]

use core::fmt::Write as _;

use embedded_io::{Read, Write};
use tern_protocol::client::{Client, ClientError, Ids};
use tern_protocol::storage::{Borrowed, Fixed};
use tern_protocol::{Answer, Request};

/// Bytes of the largest frame, both ways: a decision between four labels has some 200.
const FRAME_BYTES: usize = 512;

/// An answer's texts (labels, names, an error's message) and lists.
type Room = Fixed<192, 16>;

/// How often a request is sent before the node decides alone.
const TRIES: u32 = 3;

/// Failures in a row after which the node restarts its sensor without the daemon's word.
pub const ALONE_FAILURES: u16 = 3;

/// What came of reading the sensor.
#[derive(Debug, Clone, Copy)]
pub enum Reading {
    /// Degrees Celsius.
    Celsius(i16),
    /// It did not answer.
    Failed {
        /// How often in a row.
        times: u16,
    },
}

/// What the node switches.
pub trait Switches {
    /// Takes the sensor's power away for a moment.
    fn restart_sensor(&mut self);
    /// The lamp that calls somebody.
    fn call(&mut self, on: bool);
}

/// What came of a reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// There is nothing to act on.
    Fine,
    /// Somebody should look.
    Look,
    /// The sensor was restarted.
    Restarted,
    /// The daemon did not answer, and the node decided by counting.
    Alone {
        /// Whether the sensor was restarted.
        restarted: bool,
    },
}

/// A sensor node on a serial line.
#[derive(Debug)]
pub struct Node<Port> {
    client: Client<Port, FRAME_BYTES>,
    ids: Ids,
}

impl<Port: Read + Write> Node<Port> {
    /// A node on `port`; `reset` is a number that no start before had, so that an answer to a question from before is
    /// not taken for one of now.
    pub fn new(port: Port, reset: u32) -> Self {
        Node { client: Client::new(port), ids: Ids::after_reset(reset) }
    }

    /// Asks about a reading and acts on the answer.
    pub fn watch(&mut self, reading: Reading, switches: &mut impl Switches) -> Verdict {
        let verdict = match self.severity(reading) {
            Ok(Some(verdict)) => verdict,
            // No answer, or none that helps: a node must do without its gateway.
            _ => {
                let restarted = matches!(reading, Reading::Failed { times } if times >= ALONE_FAILURES);
                Verdict::Alone { restarted }
            }
        };
        if matches!(verdict, Verdict::Restarted | Verdict::Alone { restarted: true }) {
            switches.restart_sensor();
        }
        switches.call(verdict != Verdict::Fine);
        verdict
    }

    /// What the daemon says; `None` if it refuses or says something else than was asked for.
    fn severity(&mut self, reading: Reading) -> Result<Option<Verdict>, ClientError<Port::Error>> {
        let mut line = heapless::String::<96>::new();
        // A number has at most six characters: it always fits.
        let _fits = match reading {
            Reading::Celsius(celsius) => write!(line, "lm75 1-0048: hwmon1: sensor 'lm75', {celsius} C"),
            Reading::Failed { times } => {
                write!(line, "lm75 1-0048: Error: failed to read temperature ({times} times)")
            }
        };
        let id = self.ids.next_id();
        let request = Request::<Borrowed>::task(id.as_str(), "log-severity", line.as_str());
        let Answer::Decision(decision) = self.client.ask::<_, Room>(&request, TRIES)? else {
            return Ok(None);
        };
        Ok(match decision.label.as_deref() {
            Some("critical" | "error") => Some(Verdict::Restarted),
            Some("warning") => Some(Verdict::Look),
            Some("info") => Some(Verdict::Fine),
            // The task abstained, or it is another task of that name.
            _ => None,
        })
    }
}
