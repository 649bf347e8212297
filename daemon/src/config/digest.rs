//! `[[digest]]`: messages of a topic that are collected, and answered together.

use serde::Deserialize;

use super::mqtt::{Format, MqttSection, Watch, value};
use super::{ConfigError, in_range};
use crate::transport::mqtt::topic::{self, overlap};

/// One digest: which messages, how long they are collected, what is made of them, and where that goes.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Digest {
    /// Filter of the topics that are read.
    pub topic: String,
    /// Name of the task that all messages of a window go to together.
    #[serde(default = "summarize")]
    pub task: String,
    /// Topic of the answers; `{device}` is replaced, and with `by = "topic"` also `{topic}`.
    pub answer: String,
    /// Seconds from the first message of a window to its end.
    pub every_s: Option<u32>,
    /// Messages that fill a window.
    pub messages: Option<u32>,
    /// Answer also before the end, after so many further messages of a window each time.
    pub update_messages: Option<u32>,
    /// What shares a window.
    #[serde(default)]
    pub by: By,
    /// What the messages are.
    #[serde(default)]
    pub format: Format,
    /// JSON pointer (RFC 6901) of the text in a JSON message.
    pub field: Option<String>,
    /// Bytes of the text of a window; the oldest messages of a fuller one are dropped, and counted.
    #[serde(default = "max_bytes")]
    pub max_bytes: u32,
    /// Whether the broker keeps the last answer for those who come later.
    #[serde(default)]
    pub retain: bool,
    /// Seconds after which an answer is worth nothing.
    pub expiry_s: Option<u32>,
}

/// What shares a window of a digest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum By {
    /// Everything that the filter takes.
    #[default]
    Filter,
    /// Messages of the same topic.
    Topic,
}

fn summarize() -> String {
    "summarize".to_owned()
}

fn max_bytes() -> u32 {
    32 << 10
}

impl Digest {
    /// The answers' topic for messages of `topic`, which may be a filter.
    pub fn answer_topic(&self, topic: &str, device: &str) -> String {
        self.answer.replace("{topic}", topic).replace("{device}", device)
    }
}

/// Checks every digest, and that no answer is read again.
///
/// # Errors
/// The first value that makes no sense.
pub fn check(
    digests: &[Digest],
    watches: &[Watch],
    mqtt: &MqttSection,
    text_bytes: usize,
) -> Result<(), ConfigError> {
    let (own, device) = (mqtt.request_filters(), mqtt.device());
    let read = || {
        let digests = digests.iter().map(|digest| &digest.topic);
        digests.chain(watches.iter().map(|watch| &watch.topic)).chain(&own)
    };
    for digest in digests {
        let Digest { every_s, messages, update_messages, by, max_bytes, expiry_s, .. } = *digest;
        if !topic::is_filter(&digest.topic) {
            return Err(value("digest.topic", &digest.topic, "a topic filter, as in sensors/+/log"));
        }
        if own.iter().any(|own| overlap(&digest.topic, own)) {
            let expected = "a filter that takes none of our own requests";
            return Err(value("digest.topic", &digest.topic, expected));
        }
        if by == By::Filter && digest.answer.contains("{topic}") {
            let expected = "a topic without {topic}, or by = \"topic\" beside it";
            return Err(value("digest.answer", &digest.answer, expected));
        }
        if !topic::is_plain(&digest.answer_topic("t", "d")) {
            return Err(value("digest.answer", &digest.answer, "a topic; {device} is replaced"));
        }
        let answers = digest.answer_topic(&digest.topic, &device);
        if read().any(|filter| overlap(filter, &answers)) {
            let expected = "a topic that no watch, no digest and no request reads again";
            return Err(value("digest.answer", &digest.answer, expected));
        }
        if digest.field.as_deref().is_some_and(|field| !field.is_empty() && !field.starts_with('/')) {
            let found = digest.field.clone().unwrap_or_default();
            return Err(value("digest.field", found, "a JSON pointer, as in /message"));
        }
        if every_s.is_none() && messages.is_none() {
            let expected = "every_s, messages or both, which say when a window ends";
            return Err(value("digest", &digest.topic, expected));
        }
        in_range(&[
            ("digest.every_s", u64::from(every_s.unwrap_or(1)), 1, 31 * 86_400),
            ("digest.messages", u64::from(messages.unwrap_or(1)), 1, 1_000_000),
            ("digest.update_messages", u64::from(update_messages.unwrap_or(1)), 1, 1_000_000),
            ("digest.max_bytes", u64::from(max_bytes), 256, text_bytes as u64),
            ("digest.expiry_s", u64::from(expiry_s.unwrap_or(1)), 1, u64::from(u32::MAX)),
        ])?;
    }
    for watch in watches {
        let answers = watch.answer.replace("{topic}", &watch.topic).replace("{device}", &device);
        if digests.iter().any(|digest| overlap(&digest.topic, &answers)) {
            return Err(value("watch.answer", &watch.answer, "a topic that no digest reads again"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct File {
        #[serde(default)]
        watch: Vec<Watch>,
        #[serde(default)]
        digest: Vec<Digest>,
    }

    fn read(toml: &str) -> Result<Vec<Digest>, String> {
        let file: File = toml::from_str(toml).map_err(|error| error.message().to_owned())?;
        let mqtt = MqttSection { device: Some("pi".into()), ..MqttSection::default() };
        check(&file.digest, &file.watch, &mqtt, 65_536).map_err(|error| error.to_string())?;
        Ok(file.digest)
    }

    #[test]
    fn what_is_left_out_has_a_default() {
        let digest = read("[[digest]]\ntopic = 'a/#'\nanswer = 'digest/{device}'\nevery_s = 600");
        let digest = &digest.expect("it makes sense")[0];
        assert_eq!((digest.task.as_str(), digest.by, digest.max_bytes), ("summarize", By::Filter, 32_768));
        assert_eq!(digest.answer_topic("a/b", "pi"), "digest/pi");
        let by_topic = "[[digest]]\ntopic = 'a/+'\nanswer = 'd/{topic}'\nmessages = 9\nby = 'topic'";
        assert_eq!(read(by_topic).expect("it makes sense")[0].answer_topic("a/b", "pi"), "d/a/b");
    }

    #[test]
    fn what_makes_no_sense_is_told_with_its_key() {
        let digest = |more: &str| format!("[[digest]]\ntopic = 'a/+'\n{more}");
        let timed = |more: &str| digest(&format!("every_s = 60\n{more}"));
        let watch = "[[watch]]\ntopic = 'w'\ntask = 't'\nanswer = 'a/graded'\n";
        for (toml, words) in [
            (digest("answer = 'x'"), "every_s, messages or both"),
            (digest("answer = 'x'\nmessages = 0"), "digest.messages is 0"),
            (digest("answer = 'x'\nmessages = 1\nevery_s = 0"), "digest.every_s is 0"),
            (timed("answer = 'x'\nupdate_messages = 0"), "digest.update_messages is 0"),
            (timed("answer = 'x'\nmax_bytes = 70000"), "digest.max_bytes is 70000; it may be 256 to 65536"),
            (timed("answer = 'x'\nexpiry_s = 0"), "digest.expiry_s is 0"),
            (timed("answer = 'x/{topic}'"), "by = \"topic\""),
            (timed("answer = 'x/{topic}'\nby = 'sensor'"), "unknown variant `sensor`"),
            (timed("answer = 'x/+'"), "digest.answer"),
            (timed("answer = 'a/b'"), "reads again"),
            (timed("answer = 'x'\nfield = 'message'"), "JSON pointer"),
            (timed("answer = 'x'\nevry_s = 3"), "unknown field `evry_s`"),
            (timed("answer = 'x'").replace("a/+", "tern/pi/#"), "our own requests"),
            (timed("answer = 'x'").replace("a/+", "a/#/b"), "a topic filter"),
            (format!("{watch}{}", timed("answer = 'x'")), "no digest reads again"),
            (format!("{}\n{watch}", timed("answer = 'w'")), "digest.answer is \"w\""),
        ] {
            let message = read(&toml).expect_err(&toml);
            assert!(message.contains(words), "{toml}: {message}");
        }
    }
}
