//! From a message to a request and the place of its answer, or to a refusal that still finds its sender.

use serde_json::{Map, Value};
use tern_protocol::answer::Reason;
use tern_protocol::limits::ID_BYTES;

use super::clock::Millis;
use super::journal::fnv1a;
use super::link::Message;
use super::outbox::ReplyTo;
use super::payload::{self, PayloadError};
use super::topic;
use crate::config::digest::Digest;
use crate::config::mqtt::{Format, MqttSection, Watch};
use crate::wire::Request;

/// Levels in the place of a task that name another kind of request.
const KINDS: [&str; 4] = ["ask", "generate", "chat", "status"];

/// Fields that make a JSON object a request rather than a record to be read.
const MARKS: [&str; 7] = ["text", "payload", "ask", "generate", "chat", "reply_to", "ttl_s"];

/// What a message asks for; where several watches read it, one of the things.
#[derive(Debug)]
pub struct Asked {
    /// Hash of what is asked: the same message gives the same, but another for each watch that reads it.
    pub hash: u64,
    /// Where the answer goes.
    pub reply_to: ReplyTo,
    /// The request, with an id that is to be replaced; or what is wrong with it.
    pub request: Result<Box<Request>, (Reason, String)>,
}

/// Topics of ours: what is read, and what for.
#[derive(Clone, Debug)]
pub struct Topics {
    base: String,
    device: String,
    group: Option<String>,
    watches: Vec<Watch>,
    /// Filters of the digests.
    digests: Vec<String>,
    discovery: Option<String>,
}

/// Why a topic is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route<'t> {
    /// It asks for a task of this name, or another kind of request.
    Request(&'t str),
    /// A watch reads it.
    Watch(&'t Watch),
    /// The digest at this place of the configuration reads it.
    Digest(usize),
    /// Home Assistant says how it is.
    HomeAssistant,
}

impl Topics {
    /// The topics of a configuration.
    pub fn of(section: &MqttSection, watches: &[Watch], digests: &[Digest]) -> Self {
        Topics {
            base: section.base.clone(),
            device: section.device(),
            group: section.group.clone(),
            watches: watches.to_vec(),
            digests: digests.iter().map(|digest| digest.topic.clone()).collect(),
            discovery: section.discovery.clone(),
        }
    }

    /// Name of the device.
    pub fn device(&self) -> &str {
        &self.device
    }

    /// A topic of this device.
    pub fn own(&self, last: &str) -> String {
        format!("{}/{}/{last}", self.base, self.device)
    }

    /// Filters to subscribe to, no two of which take the same topic.
    pub fn filters(&self, shared: bool) -> Vec<String> {
        let mut filters = vec![self.own("+/request")];
        match &self.group {
            Some(group) if shared => filters.push(format!("$share/{group}/{}/any/+/request", self.base)),
            _ => {}
        }
        let birth = self.discovery.as_ref().map(|prefix| birth_topic(prefix));
        let watched = self.watches.iter().map(|watch| &watch.topic).chain(&self.digests);
        let read = watched.map(String::as_str).chain(birth.as_deref());
        filters.extend(topic::cover(read));
        filters
    }

    /// Why `topic` is read; nothing if it is not, or not any more.
    pub fn routes<'t>(&'t self, topic: &'t str) -> Vec<Route<'t>> {
        if let Some(rest) = topic.strip_prefix(&self.base).and_then(|rest| rest.strip_prefix('/')) {
            let levels: Vec<_> = rest.split('/').collect();
            match levels[..] {
                [device, task, "request"]
                    if device == self.device || device == "any" && self.group.is_some() =>
                {
                    // No watch takes these.
                    return vec![Route::Request(task)];
                }
                _ => {}
            }
        }
        let is_birth = self.discovery.as_ref().is_some_and(|prefix| topic == birth_topic(prefix));
        let watches = self.watches.iter().filter(|watch| topic::matches(&watch.topic, topic));
        let digests = self.digests.iter().enumerate().filter(|(_, filter)| topic::matches(filter, topic));
        let read = watches.map(Route::Watch).chain(digests.map(|(place, _)| Route::Digest(place)));
        is_birth.then_some(Route::HomeAssistant).into_iter().chain(read).collect()
    }

    /// Whether an answer sent to `topic` would come back to us.
    fn reads(&self, topic: &str) -> bool {
        !self.routes(topic).is_empty()
    }

    /// What a message to the task, or the kind of request, `task` asks for.
    pub fn asked(&self, task: &str, message: &Message, now: Millis) -> Asked {
        let hash = fnv1a(&[message.topic.as_bytes(), &[0], &message.payload]);
        let mut reply_to = ReplyTo {
            topic: self.own(&format!("{task}/response")),
            correlation: message.correlation.clone(),
            id: String::new(),
            retain: false,
            expires: message.expiry_s.map(|seconds| now + Millis::from(seconds) * 1000),
            properties: Vec::new(),
        };
        let request = self.request(task, message, now, &mut reply_to);
        if let Some(wanted) = &message.response_topic {
            reply_to.topic.clone_from(wanted);
        }
        let request = if topic::is_topic(&reply_to.topic) && !self.reads(&reply_to.topic) {
            request
        } else {
            let found = std::mem::replace(&mut reply_to.topic, self.own("unanswerable/response"));
            Err(bad(format!(
                "{found:?} is no topic for an answer; name one without wildcards that no request goes to"
            )))
        };
        if reply_to.id.is_empty() {
            reply_to.id = reply_to.correlation.as_deref().map(name).unwrap_or_default();
        }
        Asked { hash, reply_to, request }
    }

    fn request(
        &self,
        task: &str,
        message: &Message,
        now: Millis,
        reply_to: &mut ReplyTo,
    ) -> Result<Box<Request>, (Reason, String)> {
        let format = payload::format_of(message.content_type.as_deref());
        if let Some(bytes) = message.oversize {
            return Err(too_large(bytes));
        }
        let text = payload::utf8(&message.payload).map_err(bad)?;
        let object = match format {
            Format::Auto | Format::Json if text.trim_start().starts_with('{') => {
                serde_json::from_str::<Map<String, Value>>(text).ok()
            }
            _ => None,
        };
        let envelope = object.filter(|object| MARKS.iter().any(|name| object.contains_key(*name)));
        if let Some(envelope) = envelope {
            return self.of_envelope(task, envelope, now, reply_to);
        }
        if task == "status" {
            return Ok(Box::new(Request { status: true, ..Request::new(String::new()) }));
        }
        if KINDS.contains(&task) {
            return Err(bad(format!("a request to {task} is a JSON object with the field {task:?}")));
        }
        let text = payload::text(&message.payload, format, None).map_err(bad)?;
        Ok(Box::new(Request::task("", task, text)))
    }

    /// A request as JSON: the fields of the wire, less the task, which the topic names; and what senders without the
    /// properties of MQTT 5 need.
    fn of_envelope(
        &self,
        task: &str,
        mut envelope: Map<String, Value>,
        now: Millis,
        reply_to: &mut ReplyTo,
    ) -> Result<Box<Request>, (Reason, String)> {
        let string = |name: &str, value: Value| match value {
            Value::String(text) => Ok(text),
            other => Err(bad(format!("{name} is {other}; it must be a string"))),
        };
        // First all that the way back depends on.
        if let Some(id) = envelope.remove("id") {
            let id = string("id", id)?;
            if !(1..=ID_BYTES).contains(&id.len()) {
                return Err(bad(format!("the id has {} bytes; give it 1 to {ID_BYTES}", id.len())));
            }
            if reply_to.correlation.is_none() {
                reply_to.correlation = Some(id.clone().into_bytes());
            }
            reply_to.id = id;
        }
        if let Some(topic) = envelope.remove("reply_to") {
            reply_to.topic = string("reply_to", topic)?;
        }
        if let Some(ttl) = envelope.remove("ttl_s") {
            let sound = ttl.as_f64().filter(|seconds| (0.0..=1e9).contains(seconds));
            let seconds =
                sound.ok_or_else(|| bad(format!("ttl_s is {ttl}; it must be a number of seconds")))?;
            let expires = now + (seconds * 1000.0) as Millis;
            reply_to.expires = Some(reply_to.expires.map_or(expires, |other| other.min(expires)));
        }
        let field = envelope.remove("field").map(|field| string("field", field)).transpose()?;
        if let Some(payload) = envelope.remove("payload") {
            if envelope.contains_key("text") {
                return Err(bad("text and payload are given; give one"));
            }
            let text = payload::text_of_value(&payload, Format::Auto, field.as_deref()).map_err(bad)?;
            envelope.insert("text".into(), text.into());
        } else if field.is_some() {
            return Err(bad("field is given without payload, which it points into"));
        }
        if !KINDS.contains(&task) {
            envelope.insert("task".into(), task.into());
        } else if task == "status" {
            envelope.insert("status".into(), true.into());
        } else if !envelope.contains_key(task) {
            return Err(bad(format!("a request to {task} is a JSON object with the field {task:?}")));
        }
        envelope.insert("id".into(), "-".into());
        let request: Request = serde_json::from_value(Value::Object(envelope)).map_err(bad)?;
        if request.stream || request.cancel.is_some() {
            return Err(bad("stream and cancel are for connections; over MQTT an answer comes whole"));
        }
        Ok(Box::new(request))
    }

    /// What a message that a watch reads asks for.
    pub fn watched(&self, watch: &Watch, message: &Message, now: Millis) -> Asked {
        let given = watch.expiry_s.into_iter().chain(message.expiry_s).min();
        let topic = watch.answer.replace("{topic}", &message.topic).replace("{device}", &self.device);
        let reply_to = ReplyTo {
            topic,
            correlation: message.correlation.clone(),
            id: message.correlation.as_deref().map(name).unwrap_or_default(),
            retain: watch.retain,
            expires: given.map(|seconds| now + Millis::from(seconds) * 1000),
            properties: Vec::new(),
        };
        let format = match watch.format {
            Format::Auto => payload::format_of(message.content_type.as_deref()),
            chosen => chosen,
        };
        let request = match message.oversize {
            Some(bytes) => Err(too_large(bytes)),
            None => payload::text(&message.payload, format, watch.field.as_deref())
                .map(|text| Box::new(Request::task("", watch.task.as_str(), text)))
                .map_err(bad),
        };
        let field = watch.field.as_deref().unwrap_or_default();
        let hash =
            [&message.topic, &watch.topic, &watch.task, &watch.answer, field].map(str::as_bytes).join(&0);
        Asked { hash: fnv1a(&[&hash, &[0], &message.payload]), reply_to, request }
    }

    /// Whether an answer may go to this topic.
    pub fn may_answer(&self, topic: &str) -> bool {
        topic::is_topic(topic) && !self.reads(topic)
    }
}

/// Where Home Assistant says that it has started.
fn birth_topic(prefix: &str) -> String {
    format!("{prefix}/status")
}

fn too_large(bytes: usize) -> (Reason, String) {
    (Reason::TooLarge, format!("the message has {bytes} bytes; send less, or raise mqtt.packet_bytes"))
}

fn bad(message: impl std::fmt::Display) -> (Reason, String) {
    (Reason::BadRequest, message.to_string())
}

impl From<PayloadError> for (Reason, String) {
    fn from(error: PayloadError) -> Self {
        bad(error)
    }
}

/// Correlation data as the id of an answer: as it is if it can be read, else in hexadecimal.
fn name(correlation: &[u8]) -> String {
    match std::str::from_utf8(correlation) {
        Ok(text) if text.len() <= ID_BYTES && !text.contains(char::is_control) => text.to_owned(),
        _ => correlation.iter().take(ID_BYTES / 2).map(|byte| format!("{byte:02x}")).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topics() -> Topics {
        let watch = Watch {
            topic: "site/+/log".into(),
            task: "log-severity".into(),
            answer: "graded/{topic}".into(),
            format: Format::Auto,
            field: Some("/message".into()),
            retain: true,
            expiry_s: Some(60),
        };
        let section = MqttSection {
            device: Some("pi".into()),
            group: Some("workers".into()),
            discovery: Some("homeassistant".into()),
            ..MqttSection::default()
        };
        Topics::of(&section, &[watch], &[])
    }

    fn message(topic: &str, payload: &[u8]) -> Message {
        Message {
            topic: topic.into(),
            payload: payload.into(),
            oversize: None,
            ticket: Some(1),
            again: false,
            retained: false,
            response_topic: None,
            correlation: None,
            content_type: None,
            expiry_s: None,
        }
    }

    #[test]
    fn topics_are_told_apart() {
        let topics = topics();
        assert_eq!(topics.routes("tern/pi/log-severity/request"), [Route::Request("log-severity")]);
        assert_eq!(topics.routes("tern/any/summarize/request"), [Route::Request("summarize")]);
        assert_eq!(topics.routes("tern/other/summarize/request"), []);
        assert_eq!(topics.routes("homeassistant/status"), [Route::HomeAssistant]);
        assert!(matches!(topics.routes("site/a/log")[..], [Route::Watch(_)]));
        assert_eq!(topics.routes("site/a/b/log"), []);
        assert_eq!(
            topics.filters(true),
            ["tern/pi/+/request", "$share/workers/tern/any/+/request", "site/+/log", "homeassistant/status"]
        );
        assert_eq!(topics.filters(false).len(), 3);
    }

    #[test]
    fn a_request_is_plain_text_with_properties_or_json_without() {
        let topics = topics();
        let mut plain = message("t", b"fan stopped");
        plain.response_topic = Some("me/answers".into());
        plain.correlation = Some(vec![0, 255]);
        plain.expiry_s = Some(5);
        let asked = topics.asked("log-severity", &plain, 1000);
        assert_eq!((asked.reply_to.topic.as_str(), asked.reply_to.id.as_str()), ("me/answers", "00ff"));
        assert_eq!(asked.reply_to.expires, Some(6000));
        let request = asked.request.expect("it is sound");
        assert_eq!(
            (request.task.as_deref(), request.text.as_deref()),
            (Some("log-severity"), Some("fan stopped"))
        );

        let json = br#"{"id":"7","reply_to":"me/old","ttl_s":1.5,"text":"hot","deadline_ms":900}"#;
        let asked = topics.asked("log-severity", &message("t", json), 1000);
        assert_eq!((asked.reply_to.topic.as_str(), asked.reply_to.id.as_str()), ("me/old", "7"));
        assert_eq!(
            (asked.reply_to.expires, asked.reply_to.correlation.as_deref()),
            (Some(2500), Some(&b"7"[..]))
        );
        assert_eq!(asked.request.expect("it is sound").deadline_ms, Some(900));

        let senml = br#"{"reply_to":"x","payload":[{"n":"a","u":"Cel","v":3}],"id":"1"}"#;
        let asked = topics.asked("log-severity", &message("t", senml), 0);
        assert_eq!(asked.request.expect("it is sound").text.as_deref(), Some("a 3 Cel"));
        let record = br#"{"MESSAGE":"link down","id":"kept"}"#;
        let asked = topics.asked("log-severity", &message("t", record), 0);
        assert_eq!(asked.request.expect("it is sound").text.as_deref(), Some("link down"));
        assert_eq!(asked.reply_to.topic, "tern/pi/log-severity/response");
        let ask = br#"{"ask":{"kind":"yes_no","instructions":"Bad?"},"text":"x"}"#;
        assert!(topics.asked("ask", &message("t", ask), 0).request.expect("it is sound").ask.is_some());
        assert!(topics.asked("status", &message("t", b""), 0).request.expect("it is sound").status);
    }

    #[test]
    fn what_is_wrong_still_finds_its_sender() {
        let topics = topics();
        let refused = |task: &str, payload: &[u8]| {
            let asked = topics.asked(task, &message("t", payload), 0);
            (asked.reply_to, asked.request.expect_err("it is wrong").1)
        };
        let (reply_to, message_) =
            refused("log-severity", br#"{"id":"7","reply_to":"me/x","txt":1,"text":"a"}"#);
        assert_eq!((reply_to.topic.as_str(), reply_to.id.as_str()), ("me/x", "7"));
        assert!(message_.contains("txt"), "{message_}");
        for (task, payload, words) in [
            ("log-severity", &b"\xff"[..], "UTF-8 from byte 0"),
            ("log-severity", br#"{"text":"a","ttl_s":"x"}"#, "ttl_s"),
            ("log-severity", br#"{"text":"a","reply_to":7}"#, "reply_to is 7"),
            ("log-severity", br#"{"text":"a","stream":true}"#, "whole"),
            ("log-severity", br#"{"payload":{"a":1},"field":"/b"}"#, "/b"),
            ("log-severity", br#"{"text":"a","reply_to":"tern/pi/x/request"}"#, "no topic for an answer"),
            ("log-severity", br#"{"text":"a","reply_to":"a/#"}"#, "no topic for an answer"),
            ("log-severity", br#"{"text":"a","reply_to":"site/a/log"}"#, "no topic for an answer"),
            ("chat", br#"{"text":"a"}"#, "field \"chat\""),
        ] {
            let (reply_to, message) = refused(task, payload);
            assert!(message.contains(words), "{message}");
            assert!(topics.may_answer(&reply_to.topic), "{reply_to:?}");
        }
    }

    #[test]
    fn a_watch_reads_what_others_send_as_it_is() {
        let topics = topics();
        let mut record = message("site/press 1/log", br#"{"message":"fan stopped","n":3}"#);
        record.expiry_s = Some(600);
        let [Route::Watch(watch)] = topics.routes(&record.topic)[..] else { panic!("it is watched") };
        let asked = topics.watched(watch, &record, 0);
        assert_eq!(
            (asked.reply_to.topic.as_str(), asked.reply_to.expires),
            ("graded/site/press 1/log", Some(60_000))
        );
        assert!(asked.reply_to.retain);
        assert_eq!(asked.request.expect("it has a message").text.as_deref(), Some("fan stopped"));
        assert!(topics.watched(watch, &message("site/a/log", b"plain"), 0).request.is_err());
    }
}
