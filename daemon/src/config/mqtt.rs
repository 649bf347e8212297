//! `[mqtt]` and `[[watch]]`: the broker, who the daemon is there, and which topics of others it reads.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::ConfigError;
use crate::transport::mqtt::topic::{self, overlap};

/// `[mqtt]`; without it the daemon speaks to no broker.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MqttSection {
    /// `mqtt://host:port`, `mqtts://host:port` for TLS, or `unix:/path`.
    pub broker: String,
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
    /// Seconds between figures on `<base>/<device>/metrics`.
    pub metrics_s: u32,
    /// Prefix of Home Assistant's discovery topics, mostly `homeassistant`; without it nothing is announced.
    pub discovery: Option<String>,
}

impl Default for MqttSection {
    fn default() -> Self {
        MqttSection {
            broker: "mqtt://localhost:1883".into(),
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
            metrics_s: 30,
            discovery: None,
        }
    }
}

/// Where a secret is.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Secret {
    /// A name in the folder that systemd puts credentials in.
    Credential(String),
    /// A file.
    File(PathBuf),
}

impl Secret {
    /// The file that holds it; `None` for a credential where systemd has given no folder.
    pub fn path(&self) -> Option<PathBuf> {
        match self {
            Secret::File(path) => Some(path.clone()),
            Secret::Credential(name) => {
                std::env::var_os("CREDENTIALS_DIRECTORY").map(|folder| Path::new(&folder).join(name))
            }
        }
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

fn value(key: &'static str, found: impl Into<String>, expected: &'static str) -> ConfigError {
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
            if !topic::is_plain(found) || one_level {
                return Err(value(key, found, plain));
            }
        }
        self.check_watches(watches)
    }

    fn check_watches(&self, watches: &[Watch]) -> Result<(), ConfigError> {
        let own = self.request_filters();
        for (index, watch) in watches.iter().enumerate() {
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
            if let Some(other) = watches[..index].iter().find(|other| overlap(&other.topic, &watch.topic)) {
                let found = format!("{} beside {}", watch.topic, other.topic);
                return Err(value("watch.topic", found, "filters of which no two take the same topic"));
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
        Ok(())
    }
}
