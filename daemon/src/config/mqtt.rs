//! `[mqtt]` and `[[watch]]`: the broker, who the daemon is there, and which topics of others it reads.

use std::fmt;
use std::path::PathBuf;

use serde::Deserialize;

use super::ConfigError;
use super::secret::Secret;
use crate::transport::mqtt::topic::{self, overlap};

/// `[mqtt]`; without it the daemon speaks to no broker.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MqttSection {
    /// `mqtt://host:port`, `mqtts://host:port` for TLS, or `unix:/path`.
    pub broker: String,
    /// Version of MQTT, `5` or `3.1.1`. A broker that does not speak 5 is spoken to in 3.1.1 all the same.
    pub protocol: Protocol,
    /// Who the daemon is to the broker; `tern-` and the device without it.
    pub client_id: Option<String>,
    /// First part of every topic of ours; it may have several levels.
    pub base: String,
    /// Second part; the host's name without it.
    pub device: Option<String>,
    /// Group of devices that share `<base>/any/<task>/request`; without it the device takes only its own requests.
    pub group: Option<String>,
    /// User name.
    pub user: Option<String>,
    /// Password: a name in `$CREDENTIALS_DIRECTORY` or the path of a file, never the password itself.
    pub password: Option<Secret>,
    /// TLS files.
    pub tls: TlsSection,
    /// Folder of the outbox; `$STATE_DIRECTORY` without it.
    pub state_folder: Option<PathBuf>,
    /// Requests that the broker may send before one is acknowledged.
    pub receive_maximum: u16,
    /// Bytes of the largest packet, both ways.
    pub packet_bytes: u32,
    /// Seconds between signs of life.
    pub keep_alive_s: u16,
    /// Seconds for which the broker keeps our session when we are gone.
    pub session_expiry_s: u32,
    /// First pause before connecting again; it doubles up to the longest.
    pub reconnect_ms: u32,
    /// Longest pause before connecting again.
    pub reconnect_most_ms: u32,
    /// Seconds for which an answer is kept for a sender that asks again.
    pub cache_s: u32,
    /// Bytes of requests and answers kept on disk and in memory.
    pub outbox_bytes: u32,
    /// Times that the daemon may end without a word while it works on a request, before that is given up; 0 for ever.
    pub attempts: u32,
    /// Seconds between figures on `<base>/<device>/metrics`.
    pub metrics_s: u32,
    /// Prefix of Home Assistant's discovery topics, mostly `homeassistant`; without it nothing is announced.
    pub discovery: Option<String>,
}

impl Default for MqttSection {
    fn default() -> Self {
        MqttSection {
            broker: "mqtt://localhost:1883".into(),
            protocol: Protocol::default(),
            client_id: None,
            base: "tern".into(),
            device: None,
            group: None,
            user: None,
            password: None,
            tls: TlsSection::default(),
            state_folder: None,
            receive_maximum: 16,
            packet_bytes: 256 << 10,
            keep_alive_s: 30,
            session_expiry_s: 3600,
            reconnect_ms: 500,
            reconnect_most_ms: 60_000,
            cache_s: 600,
            outbox_bytes: 4 << 20,
            attempts: 3,
            metrics_s: 30,
            discovery: None,
        }
    }
}

/// A version of MQTT.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum Protocol {
    /// MQTT 5.
    #[default]
    #[serde(rename = "5")]
    V5,
    /// MQTT 3.1.1.
    #[serde(rename = "3.1.1")]
    V311,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Protocol::V5 => "5",
            Protocol::V311 => "3.1.1",
        })
    }
}

/// `[mqtt.tls]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TlsSection {
    /// Certificates of the authorities that may vouch for the broker, in PEM.
    pub ca: Option<Secret>,
    /// Our own certificate, in PEM.
    pub certificate: Option<Secret>,
    /// Its key, in PEM.
    pub key: Option<Secret>,
}

/// `[[watch]]`: a topic whose messages go to a task as they are.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Watch {
    /// Filter of topics; `+` and `#` as MQTT has them.
    pub topic: String,
    /// Name of the task.
    pub task: String,
    /// Topic of the answers; `{topic}` and `{device}` are replaced.
    pub answer: String,
    /// What the messages are.
    #[serde(default)]
    pub format: Format,
    /// JSON pointer (RFC 6901) of the text in a JSON message.
    pub field: Option<String>,
    /// Whether the broker keeps the last answer for those who come later.
    #[serde(default)]
    pub retain: bool,
    /// Seconds after which an answer is worth nothing; a message's own expiry wins if it is sooner.
    pub expiry_s: Option<u32>,
}

/// What a message is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// By content type, else by its looks.
    #[default]
    Auto,
    /// Text as it is.
    Text,
    /// JSON, of which `field` is read, or all of it.
    Json,
    /// SenML (RFC 8428) in JSON.
    Senml,
    /// A record of the journal or of a syslog daemon in JSON.
    Journal,
}

/// Where a broker is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Broker {
    /// A host and a port.
    Tcp {
        /// Name or address.
        host: String,
        /// Port.
        port: u16,
        /// Whether TLS is spoken.
        tls: bool,
    },
    /// A Unix socket.
    Unix(PathBuf),
}

impl Broker {
    /// Reads `mqtt://host:port`, `mqtts://host:port` or `unix:/path`; the port may be left out.
    pub fn parse(text: &str) -> Option<Broker> {
        if let Some(path) = text.strip_prefix("unix:") {
            return path.starts_with('/').then(|| Broker::Unix(path.into()));
        }
        let (tls, rest) = match (text.strip_prefix("mqtt://"), text.strip_prefix("mqtts://")) {
            (Some(rest), _) => (false, rest),
            (_, Some(rest)) => (true, rest),
            _ => return None,
        };
        let default = if tls { 8883 } else { 1883 };
        // An IPv6 address is full of colons, so it stands in brackets.
        let (host, port) = match rest.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((host, "")) => (format!("[{host}]"), default),
            Some((host, port)) => (format!("[{host}]"), port.strip_prefix(':')?.parse().ok()?),
            None => match rest.split_once(':') {
                Some((host, port)) => (host.to_owned(), port.parse().ok()?),
                None => (rest.to_owned(), default),
            },
        };
        let sound = !host.is_empty() && !host.contains(['/', '@', ' ']);
        sound.then_some(Broker::Tcp { host, port, tls })
    }
}

pub(super) fn value(key: &'static str, found: impl Into<String>, expected: &'static str) -> ConfigError {
    ConfigError::Value { key, found: found.into(), expected }
}

impl MqttSection {
    /// The device: as configured, or the host's name with what no topic may have replaced by `-`.
    pub fn device(&self) -> String {
        let host = || rustix::system::uname().nodename().to_string_lossy().into_owned();
        let name = self.device.clone().unwrap_or_else(host);
        name.replace(['/', '+', '#', '\0', '$'], "-")
    }

    /// Who the daemon is to the broker.
    pub fn client_id(&self) -> String {
        self.client_id.clone().unwrap_or_else(|| format!("tern-{}", self.device()))
    }

    /// Where the outbox is.
    pub fn state_folder(&self) -> PathBuf {
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let user = || set("XDG_STATE_HOME").map(|folder| folder.join("tern"));
        (self.state_folder.clone())
            .or_else(|| set("STATE_DIRECTORY"))
            .or_else(user)
            .unwrap_or_else(|| PathBuf::from("/var/lib/tern"))
    }

    /// The topics of requests: to this device, and to any device of its group.
    pub fn request_filters(&self) -> [String; 2] {
        [format!("{}/{}/+/request", self.base, self.device()), format!("{}/any/+/request", self.base)]
    }

    /// Checks every value.
    ///
    /// # Errors
    /// The first that makes no sense.
    pub fn check(&self, watches: &[Watch]) -> Result<(), ConfigError> {
        let ranges = [
            ("mqtt.receive_maximum", u64::from(self.receive_maximum), 1, 1024),
            ("mqtt.packet_bytes", u64::from(self.packet_bytes), 1024, 16 << 20),
            ("mqtt.keep_alive_s", u64::from(self.keep_alive_s), 5, 3600),
            ("mqtt.session_expiry_s", u64::from(self.session_expiry_s), 1, u64::from(u32::MAX)),
            ("mqtt.reconnect_ms", u64::from(self.reconnect_ms), 10, 600_000),
            ("mqtt.reconnect_most_ms", u64::from(self.reconnect_most_ms), 10, 3_600_000),
            ("mqtt.cache_s", u64::from(self.cache_s), 0, 604_800),
            ("mqtt.outbox_bytes", u64::from(self.outbox_bytes), 64 << 10, 1 << 30),
            ("mqtt.attempts", u64::from(self.attempts), 0, 100),
            ("mqtt.metrics_s", u64::from(self.metrics_s), 1, 86_400),
        ];
        super::in_range(&ranges)?;
        let broker = Broker::parse(&self.broker).ok_or_else(|| {
            value("mqtt.broker", &self.broker, "mqtt://host:port, mqtts://host:port or unix:/path")
        })?;
        let tls = matches!(broker, Broker::Tcp { tls: true, .. });
        if !tls && self.tls != TlsSection::default() {
            return Err(value("mqtt.tls", "keys", "none for a broker that is not mqtts://"));
        }
        if tls && self.tls.ca.is_none() {
            return Err(value("mqtt.tls.ca", "nothing", "the authorities' certificates for mqtts://"));
        }
        if self.tls.certificate.is_some() != self.tls.key.is_some() {
            return Err(value("mqtt.tls", "one of certificate and key", "both or neither"));
        }
        if self.password.is_some() && self.user.is_none() {
            return Err(value("mqtt.password", "no user", "mqtt.user beside it"));
        }
        let plain = "a topic without + and #, of at most 200 bytes, with no empty level";
        for (key, found) in [
            ("mqtt.base", Some(&self.base)),
            ("mqtt.device", self.device.as_ref()),
            ("mqtt.group", self.group.as_ref()),
        ] {
            let Some(found) = found else { continue };
            let one_level = key != "mqtt.base" && found.contains('/');
            if key == "mqtt.device" && found == "any" {
                return Err(value(key, found, "another name; any is for all devices of a group"));
            }
            if !topic::is_plain(found) || one_level {
                return Err(value(key, found, plain));
            }
        }
        self.check_watches(watches)
    }

    fn check_watches(&self, watches: &[Watch]) -> Result<(), ConfigError> {
        let own = self.request_filters();
        for watch in watches {
            if !topic::is_filter(&watch.topic) {
                return Err(value("watch.topic", &watch.topic, "a topic filter, as in sensors/+/log"));
            }
            if own.iter().any(|own| overlap(&watch.topic, own)) {
                return Err(value(
                    "watch.topic",
                    &watch.topic,
                    "a filter that takes none of our own requests",
                ));
            }
            let example = watch.answer.replace("{topic}", "t").replace("{device}", "d");
            if !topic::is_plain(&example) {
                return Err(value(
                    "watch.answer",
                    &watch.answer,
                    "a topic; {topic} and {device} are replaced",
                ));
            }
            let answers = watch.answer.replace("{topic}", &watch.topic).replace("{device}", &self.device());
            if watches.iter().map(|other| &other.topic).chain(&own).any(|filter| overlap(filter, &answers)) {
                return Err(value(
                    "watch.answer",
                    &watch.answer,
                    "a topic that no watch and no request reads again",
                ));
            }
            if watch.field.as_deref().is_some_and(|field| !field.is_empty() && !field.starts_with('/')) {
                let found = watch.field.clone().unwrap_or_default();
                return Err(value("watch.field", found, "a JSON pointer, as in /message"));
            }
            if watch.expiry_s == Some(0) {
                return Err(value("watch.expiry_s", "0", "at least 1 second"));
            }
        }
        let joined = topic::cover(watches.iter().map(|watch| watch.topic.as_str()));
        if let Some(wide) = joined.iter().find(|wide| own.iter().any(|own| overlap(wide, own))) {
            let found = format!("filters that cross, and are {wide} together");
            return Err(value("watch.topic", found, "filters that take none of our own requests together"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(section: &str, watches: &str) -> Result<(), String> {
        let section: MqttSection = toml::from_str(section).map_err(|error| error.to_string())?;
        #[derive(Deserialize)]
        struct Watches {
            #[serde(default)]
            watch: Vec<Watch>,
        }
        let watches: Watches = toml::from_str(watches).map_err(|error| error.to_string())?;
        section.check(&watches.watch).map_err(|error| error.to_string())
    }

    #[test]
    fn addresses_of_brokers_are_read() {
        let tcp = |host: &str, port, tls| Some(Broker::Tcp { host: host.into(), port, tls });
        assert_eq!(Broker::parse("mqtt://plant"), tcp("plant", 1883, false));
        assert_eq!(Broker::parse("mqtts://plant:9000"), tcp("plant", 9000, true));
        assert_eq!(Broker::parse("mqtt://[fe80::1]:1884"), tcp("[fe80::1]", 1884, false));
        assert_eq!(Broker::parse("unix:/run/m.sock"), Some(Broker::Unix("/run/m.sock".into())));
        for bad in ["plant", "http://plant", "mqtt://", "mqtt://a:b", "mqtt://user@plant", "unix:m.sock"] {
            assert_eq!(Broker::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_told_with_its_key() {
        let sound = "device = 'pi'\n";
        let watch = |topic: &str, answer: &str| {
            format!("[[watch]]\ntopic = '{topic}'\ntask = 't'\nanswer = '{answer}'\n")
        };
        assert_eq!(check(sound, ""), Ok(()));
        assert_eq!(check(sound, &watch("site/+/log", "graded/{topic}")), Ok(()));
        assert_eq!(check("protocol = '3.1.1'", &(watch("a/+", "x") + &watch("+/b", "y"))), Ok(()));
        for (section, watches, words) in [
            ("broker = 'plant'", String::new(), "mqtt.broker is \"plant\""),
            ("broker = 'mqtts://plant'", String::new(), "mqtt.tls.ca"),
            ("tls.ca = { file = '/x' }", String::new(), "mqtt.tls"),
            ("password = { file = '/x' }", String::new(), "mqtt.user"),
            ("password = { file = '/x', credential = 'y' }", String::new(), "not written here but named"),
            ("base = 'a/#'", String::new(), "mqtt.base"),
            ("device = 'a/b'", String::new(), "mqtt.device"),
            ("keep_alive_s = 1", String::new(), "mqtt.keep_alive_s is 1; it may be 5 to 3600"),
            ("devise = 'pi'", String::new(), "devise"),
            (sound, watch("a/#/b", "x"), "watch.topic"),
            (sound, watch("tern/pi/#", "x"), "our own requests"),
            (sound, watch("tern/+/+/x", "x") + &watch("tern/z/+/+", "y"), "tern/+/+/+ together"),
            ("device = 'any'", String::new(), "all devices of a group"),
            ("protocol = '4'", String::new(), "unknown variant `4`"),
            (sound, watch("a/b", "x/+"), "watch.answer"),
            (sound, watch("a/#", "a/answers"), "reads again"),
            (sound, watch("a/#", "a/{topic}"), "reads again"),
            (sound, watch("a/b", "tern/pi/summarize/request"), "reads again"),
        ] {
            let message = check(section, &watches).expect_err(words);
            assert!(message.contains(words), "{words:?} in {message}");
        }
        let message = check("user = 'me'\npassword = 'hunter2'", "").expect_err("it is written out");
        let error = toml::from_str::<MqttSection>("password = 'hunter2'").expect_err("it is written out");
        assert!(message.contains("named") && !error.message().contains("hunter2"), "{message}");
    }

    #[test]
    fn a_device_has_a_name_that_fits_into_a_topic() {
        let section = MqttSection { device: Some("press-1".into()), ..MqttSection::default() };
        assert_eq!((section.device().as_str(), section.client_id().as_str()), ("press-1", "tern-press-1"));
        assert_eq!(section.request_filters()[0], "tern/press-1/+/request");
        assert!(topic::is_plain(&MqttSection::default().device()));
    }
}
