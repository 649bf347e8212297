//! The one folder that knows which MQTT library is used: rumqttc, its clients for version 5 and for version 3.1.1.
//!
//! The library is used for the wire alone. It would connect again by itself and forget what it was told when the
//! broker has forgotten our session, so every connection gets a client of its own and ends with its first error.

mod v4;
mod v5;

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rumqttc::{NetworkOptions, Transport};

use super::link::{Dial, Link, LinkEvent, LinkFull, LinkOptions, Loss, Report};
use crate::config::mqtt::{Broker, Protocol};

/// Seconds for connecting, TLS and the broker's answer.
const CONNECT_S: u64 = 10;

/// Opens connections with rumqttc.
#[derive(Debug)]
pub struct Rumqtt;

impl Dial for Rumqtt {
    fn check(&self, options: &LinkOptions) -> Result<(), String> {
        v5::settings(options).map(|_| ())
    }

    fn dial(&self, options: &LinkOptions, report: Report) -> Result<Box<dyn Link>, String> {
        match options.protocol {
            Protocol::V5 => v5::dial(options, report),
            Protocol::V311 => v4::dial(options, report),
        }
    }
}

/// Host and port as the library wants them: for a socket, its path.
fn address(options: &LinkOptions) -> Result<(String, u16), String> {
    match &options.broker {
        Broker::Tcp { host, port, .. } => Ok((host.clone(), *port)),
        Broker::Unix(path) => {
            let path = path.to_str().ok_or("the path of the broker's socket is not UTF-8")?;
            Ok((path.to_owned(), 0))
        }
    }
}

/// What is spoken below MQTT, if not plain TCP.
fn transport(options: &LinkOptions) -> Result<Option<Transport>, String> {
    match (&options.tls, &options.broker) {
        (Some(pem), _) => tls(pem).map(Some),
        (None, Broker::Unix(_)) => Ok(Some(Transport::Unix)),
        (None, Broker::Tcp { .. }) => Ok(None),
    }
}

#[cfg(feature = "tls")]
fn tls(pem: &super::link::TlsPem) -> Result<Transport, String> {
    let config = rumqttc::TlsConfiguration::Rustls(super::tls::config(pem)?);
    Ok(Transport::tls_with_config(config))
}

#[cfg(not(feature = "tls"))]
fn tls(_: &super::link::TlsPem) -> Result<Transport, String> {
    Err("this program was built without TLS; build it with the feature tls, or use mqtt://".into())
}

fn network() -> NetworkOptions {
    let mut network = NetworkOptions::new();
    network.set_tcp_nodelay(true);
    network.set_connection_timeout(CONNECT_S);
    network
}

/// Requests to the library that may be unread.
fn room(options: &LinkOptions) -> usize {
    // Acknowledgements and publications are limited by their windows; subscriptions and farewells are few.
    usize::from(options.receive_maximum) * 4 + usize::from(options.window) + 128
}

/// Whether the other side has closed the connection.
fn is_hanging_up(error: &io::Error) -> bool {
    use io::ErrorKind as Kind;
    let kinds = [Kind::ConnectionReset, Kind::ConnectionAborted, Kind::BrokenPipe, Kind::UnexpectedEof];
    // Half a packet, as the refusal of an old broker looks to a client of MQTT 5.
    kinds.contains(&error.kind()) || error.kind() == Kind::Other
}

/// Pairs our tokens with packet identifiers: publications carry no token in this library, but its events of outgoing
/// ones come in the order in which they were handed in.
#[derive(Clone, Default)]
struct Tokens(Arc<Mutex<Pairs>>);

#[derive(Default)]
struct Pairs {
    /// Tokens that the library has not sent yet, oldest first.
    unsent: VecDeque<u64>,
    /// Tokens by packet identifier.
    sent: BTreeMap<u16, u64>,
}

impl Tokens {
    fn pairs(&self) -> MutexGuard<'_, Pairs> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands a publication in. The lock is held until the library has it, so that the order of both is the same.
    fn hand_in(&self, token: u64, publish: impl FnOnce() -> Result<(), LinkFull>) -> Result<(), LinkFull> {
        let mut pairs = self.pairs();
        publish()?;
        pairs.unsent.push_back(token);
        Ok(())
    }

    fn went_out(&self, packet: u16) {
        let mut pairs = self.pairs();
        if let Some(token) = pairs.unsent.pop_front() {
            pairs.sent.insert(packet, token);
        }
    }

    fn came_back(&self, packet: u16) -> Option<u64> {
        self.pairs().sent.remove(&packet)
    }
}

/// What a connection did.
enum Step {
    /// Something, which may be of interest.
    Went(Option<LinkEvent>),
    /// It has said goodbye.
    Left,
    /// It is gone.
    Lost(Loss),
    /// Nothing for too long.
    Silent,
    /// Nobody holds its link any more.
    Dropped,
}

/// A connection of either version.
trait Drive: Send + 'static {
    /// Waits for what it does next, for at most `silence`.
    fn step(&mut self, silence: Duration) -> Step;
}

/// Drives a connection on a thread of its own.
fn drive(mut driver: impl Drive, options: &LinkOptions, report: Report) -> Result<(), String> {
    // A connection that is alive has an event in every keep-alive time, if only a ping.
    let silence = options.keep_alive * 2 + Duration::from_secs(CONNECT_S);
    let run = move || {
        let loss = loop {
            match driver.step(silence) {
                Step::Went(None) => {}
                Step::Went(Some(event)) => {
                    if !report(event) {
                        return;
                    }
                }
                Step::Left => break Loss::passing("we said goodbye"),
                Step::Lost(loss) => break loss,
                Step::Silent => {
                    let seconds = silence.as_secs();
                    break Loss::passing(format!("nothing was heard or could be sent for {seconds} s"));
                }
                Step::Dropped => return,
            }
        };
        report(LinkEvent::Lost(loss));
    };
    let spawned = std::thread::Builder::new().name("tern-mqtt-link".into()).spawn(run);
    spawned.map(drop).map_err(|error| format!("the system refuses a thread: {error}"))
}
