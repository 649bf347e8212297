//! What the device says of itself: a retained status with a last will, figures, and Home Assistant's discovery.

use std::time::Instant;

use serde_json::{Value, json};

use super::asked::Topics;
use super::link::Publication;
use crate::config::mqtt::Protocol;
use crate::serve::service::Service;
use crate::wire::Status;

const JSON: Option<&str> = Some("application/json");

/// What the device says of itself.
#[derive(Debug)]
pub struct Presence {
    topics: Topics,
    discovery: Option<String>,
    /// Label of the last decision.
    pub last_label: Option<String>,
    /// What an operator should look at, if anything.
    pub problem: Option<String>,
    /// When figures were last taken, and what was counted by then: tokens and joules.
    last: Option<(Instant, u64, Option<f64>)>,
}

impl Presence {
    /// Nothing said yet.
    pub fn new(topics: Topics, discovery: Option<String>) -> Self {
        Presence { topics, discovery, last_label: None, problem: None, last: None }
    }

    fn retained(&self, topic: String, body: &Value) -> Publication {
        let payload = body.to_string().into_bytes();
        Publication { topic, payload, retain: true, content_type: JSON, ..Publication::default() }
    }

    /// What the broker says for us when we are gone without a word.
    pub fn will(&self) -> Publication {
        self.retained(self.topics.own("status"), &json!({"state": "offline"}))
    }

    /// The last word of a daemon that was told to stop.
    pub fn stopped(&self) -> Publication {
        let body = json!({"state": "stopped", "version": env!("CARGO_PKG_VERSION")});
        self.retained(self.topics.own("status"), &body)
    }

    /// That the device is here, and what it can do.
    pub fn online(&self, service: &Service, protocol: Protocol) -> Publication {
        let status = status(service);
        let body = json!({
            "state": "online",
            "version": status.version,
            "model": status.model,
            "kernels": status.kernels,
            "queue": status.queue,
            "tasks": status.tasks,
            "protocol": protocol.to_string(),
            "formats": ["text/plain", "application/json", "application/senml+json"],
        });
        self.retained(self.topics.own("status"), &body)
    }

    /// Figures since the last ones. What is not known is null.
    pub fn figures(&mut self, service: &Service, now: Instant) -> Publication {
        let status = status(service);
        let tokens = status.tokens.prompt + status.tokens.generated;
        let joules = status.energy.as_ref().map(|energy| energy.counter_joules);
        let since = self.last.replace((now, tokens, joules));
        let window =
            since.map(|(at, ..)| now.saturating_duration_since(at).as_secs_f64()).filter(|s| *s > 0.0);
        let rate = |then: f64, now: f64| window.map(|window| round((now - then).max(0.0) / window));
        let power = joules.zip(since.and_then(|(.., joules)| joules)).and_then(|(now, then)| rate(then, now));
        let body = json!({
            "energy_wh": joules.map(|joules| round(joules / 3600.0)),
            "power_w": power,
            "tokens_per_second": since.and_then(|(_, then, _)| rate(then as f64, tokens as f64)),
            "queue": status.queue,
            "live": status.live,
            "answered": status.requests.answered,
            "refused": status.requests.refused,
            "expired": status.requests.expired,
            "last_label": self.last_label,
            "problem": self.problem.is_some(),
            "problem_text": self.problem,
        });
        self.retained(self.topics.own("metrics"), &body)
    }

    /// Home Assistant's description of the device, if it is wanted: one message for all its entities.
    pub fn discovery(&self, service: &Service) -> Option<Publication> {
        let prefix = self.discovery.as_ref()?;
        let device = self.topics.device();
        // Home Assistant takes letters, digits, - and _ in a name of a topic.
        let id: String =
            device.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' }).collect();
        let id = format!("tern_{id}");
        let sensor = |name: &str, key: &str, more: Value| {
            let mut sensor = json!({
                "platform": "sensor",
                "unique_id": format!("{id}_{key}"),
                "name": name,
                "value_template": format!("{{{{ value_json.{key} }}}}"),
            });
            if let (Value::Object(sensor), Value::Object(more)) = (&mut sensor, more) {
                sensor.extend(more);
            }
            sensor
        };
        let measured = |unit: &str| json!({"state_class": "measurement", "unit_of_measurement": unit});
        let body = json!({
            "device": {
                "identifiers": [id],
                "name": format!("Tern {device}"),
                "manufacturer": "Tern",
                "model": service.state.facts.model,
                "sw_version": env!("CARGO_PKG_VERSION"),
            },
            "origin": {"name": "tern", "sw_version": env!("CARGO_PKG_VERSION")},
            "availability_topic": self.topics.own("status"),
            "availability_template": "{{ 'online' if value_json.state == 'online' else 'offline' }}",
            "payload_available": "online",
            "payload_not_available": "offline",
            "state_topic": self.topics.own("metrics"),
            "components": {
                "energy": sensor("Energy", "energy_wh", json!({
                    "device_class": "energy", "state_class": "total_increasing", "unit_of_measurement": "Wh"})),
                "power": sensor("Power", "power_w", json!({
                    "device_class": "power", "state_class": "measurement", "unit_of_measurement": "W"})),
                "tokens_per_second": sensor("Tokens per second", "tokens_per_second", measured("tokens/s")),
                "queue": sensor("Queue", "queue", measured("requests")),
                "last_label": sensor("Last label", "last_label", json!({})),
                "problem": {
                    "platform": "binary_sensor",
                    "unique_id": format!("{id}_problem"),
                    "name": "Problem",
                    "device_class": "problem",
                    "value_template": "{{ 'ON' if value_json.problem else 'OFF' }}",
                },
            },
        });
        Some(self.retained(format!("{prefix}/device/{id}/config"), &body))
    }
}

fn status(service: &Service) -> Status {
    service.status(String::new())
}

/// To four decimals: a Wh is much for a small board.
fn round(value: f64) -> f64 {
    (value * 1e4).round() / 1e4
}
