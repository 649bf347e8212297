//! A smart plug at the broker, heard as a power meter.
//!
//! It has a connection of its own, under our client id with `-meter` and the process behind it, and a session that ends with the
//! connection: what a broker would keep for us comes late, and a reading of power is worth something only when it is
//! made. For the same reason what is retained is not counted. Everything else, broker, login and TLS, is that of
//! `[mqtt]`.
//!
//! What the messages look like: Tasmota `{"ENERGY":{"Power":4,"Total":3.185}}` with kilowatt-hours (its documentation,
//! "JSON status responses"); Shelly from the second generation on `{"apower":4.1,"aenergy":{"total":1563.9}}` with
//! watt-hours (its API, component Switch); a state topic is a number alone.

use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;
use tern_boards::energy::external::{self, Counter, External, Feed, Outside, Told};

use super::link::{Dial, Link, LinkEvent, LinkOptions, Loss, Objection};
use super::reconnect::Pauses;
use super::version::{Version, Welcome};
use super::{MqttError, journal::fnv1a, options};
use crate::config::energy::EnergySection;
use crate::config::metering::{PlugKind, PlugSection, Unit};
use crate::config::mqtt::MqttSection;

/// A connection that held for so long was a good one.
const STEADY: Duration = Duration::from_secs(30);

/// Messages of a plug are short; larger ones are somebody else's.
const PACKET_BYTES: u32 = 16 << 10;

impl PlugSection {
    /// What one message says; `None` if it is not what it should be.
    pub fn read(&self, payload: &[u8]) -> Option<Told> {
        let text = std::str::from_utf8(payload).ok()?.trim();
        let json = || serde_json::from_str::<Value>(text).ok();
        match self.kind {
            PlugKind::Tasmota => {
                let message = json()?;
                let energy = message.get("ENERGY")?;
                let told = Told {
                    watts: number(energy.get("Power")),
                    counter: number(energy.get("Total")).map(|total| counter(total, Unit::KilowattHours)),
                };
                (told != Told::default()).then_some(told)
            }
            PlugKind::Shelly => {
                let message = json()?;
                let total = number(message.pointer("/aenergy/total"));
                let told = Told {
                    watts: number(message.get("apower")),
                    counter: total.map(|total| counter(total, Unit::WattHours)),
                };
                (told != Told::default()).then_some(told)
            }
            PlugKind::Homeassistant => {
                text.parse().ok().filter(|value: &f64| value.is_finite()).map(|value| self.told(value))
            }
            PlugKind::Json => {
                let message = json()?;
                let value = message.pointer(self.pointer.as_deref().unwrap_or_default());
                number(value).map(|value| self.told(value))
            }
        }
    }

    fn told(&self, value: f64) -> Told {
        match self.unit {
            Unit::Watts => Told { watts: Some(value), counter: None },
            unit => Told { watts: None, counter: Some(counter(value, unit)) },
        }
    }
}

/// A number, or text that is one.
fn number(value: Option<&Value>) -> Option<f64> {
    match value? {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.trim().parse().ok().filter(|value: &f64| value.is_finite()),
        _ => None,
    }
}

/// A counter in `unit`. Its step is that of the last decimal shown; a number that happens to end in noughts looks coarser,
/// which only makes the meter wait a little longer before it trusts the counter.
fn counter(value: f64, unit: Unit) -> Counter {
    let joules_each = match unit {
        Unit::Watts | Unit::Joules => 1.0,
        Unit::WattHours => 3_600.0,
        Unit::KilowattHours => 3_600_000.0,
    };
    let shown = value.to_string();
    let decimals = shown.split_once('.').map_or(0, |(_, decimals)| decimals.len().min(6));
    Counter { joules: value * joules_each, step_joules: joules_each / 10f64.powi(decimals as i32) }
}

/// A meter for the plug that `energy` names, and who hears it.
pub fn meter(energy: &EnergySection, plug: &PlugSection) -> (Feed, External) {
    external::feed(Outside {
        source: format!("plug at {}", plug.topic),
        relative_uncertainty: energy.relative_uncertainty,
        silence: Duration::from_secs(u64::from(plug.stale_s)),
        most_watts: energy.most_watts,
    })
}

/// Hears a plug until it is dropped.
#[derive(Debug)]
pub struct PlugListener {
    stop: Option<Sender<Heard>>,
    thread: Option<JoinHandle<()>>,
}

/// What the thread is told.
#[derive(Debug)]
enum Heard {
    /// By the connection of this number.
    Link(u64, LinkEvent),
    Stop,
}

impl PlugListener {
    /// Hears `plug` at the broker of `section` and tells `feed`; it connects when it can.
    ///
    /// # Errors
    /// If a secret cannot be read, or the system has no thread.
    pub fn start(
        section: &MqttSection,
        plug: &PlugSection,
        dial: Box<dyn Dial>,
        feed: Feed,
    ) -> Result<PlugListener, MqttError> {
        // Now, so that a missing file is told at the start.
        let first = options(section, None, section.protocol).map_err(MqttError::Secret)?;
        dial.check(&first).map_err(MqttError::Secret)?;
        let ms = |ms: u32| Duration::from_millis(u64::from(ms));
        let seed =
            fnv1a(&[first.client_id.as_bytes(), plug.topic.as_bytes()]) ^ u64::from(std::process::id());
        let (tell, told) = mpsc::channel();
        let listening = Listening {
            section: section.clone(),
            plug: plug.clone(),
            dial,
            feed,
            tell: tell.clone(),
            version: Version::new(section.protocol),
            pauses: Pauses::new(ms(section.reconnect_ms), ms(section.reconnect_most_ms), seed),
            number: 0,
            link: None,
            up_since: None,
            complained: false,
        };
        let thread = std::thread::Builder::new()
            .name("tern-mqtt-meter".into())
            .spawn(move || listening.run(&told))
            .map_err(MqttError::Thread)?;
        Ok(PlugListener { stop: Some(tell), thread: Some(thread) })
    }
}

impl Drop for PlugListener {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            // A thread that has ended needs no telling.
            let _ = stop.send(Heard::Stop);
        }
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!("the thread of the power meter's plug panicked; this is a fault of Tern");
        }
    }
}

struct Listening {
    section: MqttSection,
    plug: PlugSection,
    dial: Box<dyn Dial>,
    feed: Feed,
    tell: Sender<Heard>,
    version: Version,
    pauses: Pauses,
    /// Of the present connection; what an earlier one still says is not heard.
    number: u64,
    link: Option<Box<dyn Link>>,
    up_since: Option<Instant>,
    /// Whether a message that makes no sense was told, once until one does.
    complained: bool,
}

impl Listening {
    fn run(mut self, told: &Receiver<Heard>) {
        let mut connect_at = Some(Instant::now());
        loop {
            if connect_at.is_some_and(|at| at <= Instant::now()) {
                connect_at = self.connect();
            }
            let wait = connect_at.map_or(STEADY, |at| at.saturating_duration_since(Instant::now()));
            match told.recv_timeout(wait) {
                Ok(Heard::Link(number, event)) if number == self.number => {
                    if let Some(at) = self.on_event(event) {
                        connect_at = Some(at);
                    }
                }
                Ok(Heard::Link(..)) | Err(RecvTimeoutError::Timeout) => {}
                Ok(Heard::Stop) | Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Begins a connection; answers when to try again if that was in vain.
    fn connect(&mut self) -> Option<Instant> {
        self.number += 1;
        let (number, tell) = (self.number, self.tell.clone());
        let report = Box::new(move |event| tell.send(Heard::Link(number, event)).is_ok());
        let dialled = options(&self.section, None, self.version.next())
            .map(|options| LinkOptions {
                // With our number, so that a doctor beside the daemon does not push it off the broker.
                client_id: format!("{}-meter-{}", options.client_id, std::process::id()),
                packet_bytes: PACKET_BYTES,
                ..options
            })
            .and_then(|options| self.dial.dial(&options, report));
        match dialled {
            Ok(link) => {
                self.link = Some(link);
                None
            }
            Err(reason) => Some(self.lost(&Loss { reason, lasting: true, objection: Objection::None })),
        }
    }

    /// Answers when to connect again, if that is needed.
    fn on_event(&mut self, event: LinkEvent) -> Option<Instant> {
        let link = self.link.as_mut()?;
        match event {
            LinkEvent::Connected { .. } => {
                if self.version.let_in() == Welcome::Leave {
                    self.forget();
                    return Some(Instant::now());
                }
                self.up_since = Some(Instant::now());
                if link.subscribe(std::slice::from_ref(&self.plug.topic)).is_err() {
                    return Some(self.lost(&Loss::passing("the connection takes nothing any more")));
                }
            }
            LinkEvent::Message(message) => {
                if let Some(ticket) = message.ticket
                    && link.acknowledge(ticket).is_err()
                {
                    return Some(self.lost(&Loss::passing("the connection takes nothing any more")));
                }
                if !message.retained {
                    self.hear(&message.payload);
                }
            }
            LinkEvent::Subscribed { refused: 0, .. } => log::info!("listening to {}", self.feed_name()),
            LinkEvent::Subscribed { reason, .. } => {
                log::error!(
                    "the broker refused to let us hear {} ({reason}); allow it there",
                    self.feed_name()
                );
            }
            LinkEvent::Published { .. } => {}
            LinkEvent::Lost(loss) => return Some(self.lost(&loss)),
        }
        None
    }

    fn hear(&mut self, payload: &[u8]) {
        match self.plug.read(payload) {
            Some(told) => {
                self.complained = false;
                self.feed.tell(told);
            }
            None => {
                self.feed.tell_garbage();
                if !std::mem::replace(&mut self.complained, true) {
                    let bytes = payload.len();
                    log::warn!(
                        "{} said {bytes} bytes that are not what energy.mqtt.kind says",
                        self.feed_name()
                    );
                }
            }
        }
    }

    fn feed_name(&self) -> String {
        format!("the power meter's topic {}", self.plug.topic)
    }

    fn forget(&mut self) -> Option<Instant> {
        self.link = None;
        self.number += 1;
        self.up_since.take()
    }

    fn lost(&mut self, loss: &Loss) -> Instant {
        if self.forget().is_some_and(|since| since.elapsed() >= STEADY) {
            self.pauses.reset();
        }
        if self.version.lost(loss.objection) {
            return Instant::now();
        }
        let pause = self.pauses.next(loss.lasting);
        log::warn!(
            "{} cannot be heard: {}; trying again in {:.1} s",
            self.feed_name(),
            loss.reason,
            pause.as_secs_f32()
        );
        Instant::now() + pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plug(text: &str) -> PlugSection {
        toml::from_str(&format!("topic = 't'\n{text}")).expect("sound TOML")
    }

    #[test]
    fn tasmota_says_watts_and_kilowatt_hours() {
        let plug = plug("kind = 'tasmota'");
        let message = br#"{"Time":"2026-02-01T12:00:10","ENERGY":{"TotalStartTime":"2025-11-02T08:11:20","Total":3.185,
            "Yesterday":0.092,"Today":0.041,"Period":0,"Power":4,"ApparentPower":9,"ReactivePower":8,"Factor":0.42,
            "Voltage":231,"Current":0.040}}"#;
        let told = plug.read(message).expect("it is one");
        assert_eq!(told.watts, Some(4.0));
        let counter = told.counter.expect("there is one");
        assert!((counter.joules - 11_466_000.0).abs() < 1e-3 && (counter.step_joules - 3600.0).abs() < 1e-9);
        // A plug with EnergyRes 5 and power in text form, as rules make it.
        let told = plug.read(br#"{"ENERGY":{"Total":"3.18512","Power":"4.25"}}"#).expect("it is one");
        assert_eq!(told.watts, Some(4.25));
        assert!((told.counter.expect("there is one").step_joules - 36.0).abs() < 1e-9);
        for bad in
            [&br#"{"Time":"2026-02-01T12:00:10"}"#[..], b"", b"\xff", b"{\"ENERGY\":{}}", b"{\"ENERGY\":[4]}"]
        {
            assert_eq!(plug.read(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn shelly_says_watts_and_watt_hours() {
        let message =
            br#"{"id":0,"source":"timer","output":true,"apower":8.9,"voltage":237.5,"current":0.071,
            "aenergy":{"total":6532.152,"by_minute":[148.3,148.1,147.9],"minute_ts":1769947200},
            "temperature":{"tC":42.7,"tF":108.9}}"#;
        let told = plug("kind = 'shelly'").read(message).expect("it is one");
        assert_eq!(told.watts, Some(8.9));
        let counter = told.counter.expect("there is one");
        assert!((counter.joules - 23_515_747.2).abs() < 1e-3 && (counter.step_joules - 3.6).abs() < 1e-9);
        assert_eq!(plug("kind = 'shelly'").read(br#"{"id":0,"output":false}"#), None);
    }

    #[test]
    fn a_state_topic_is_a_number_and_json_has_one_somewhere() {
        let watts = |watts| Some(Told { watts: Some(watts), counter: None });
        let plain = plug("kind = 'homeassistant'");
        assert_eq!(plain.read(b"4.2\n"), watts(4.2));
        for bad in ["unavailable", "unknown", "", "nan", "4,2"] {
            assert_eq!(plain.read(bad.as_bytes()), None, "{bad}");
        }
        let hours =
            plug("kind = 'homeassistant'\nunit = 'watt_hours'").read(b"12.5").and_then(|told| told.counter);
        assert_eq!(hours, Some(Counter { joules: 45_000.0, step_joules: 360.0 }));
        let json = plug("kind = 'json'\npointer = '/meter/0/p'");
        assert_eq!(json.read(br#"{"meter":[{"p":3.5}]}"#), watts(3.5));
        assert_eq!(json.read(br#"{"meter":[]}"#), None);
    }
}
