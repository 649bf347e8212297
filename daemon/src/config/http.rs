//! `[http]`: where HTTP is spoken, to whom, and how much of it is taken.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use serde::Deserialize;

use super::ConfigError;
use super::secret::Secret;

/// `[http]`; without it the daemon speaks no HTTP.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HttpSection {
    /// `address:port` or `unix:/path`.
    pub listen: String,
    /// Who may connect to a Unix socket, as file permissions.
    pub mode: u32,
    /// The key that requests must bear; needed wherever others than this machine's users can connect.
    pub key: Option<Secret>,
    /// Connections at once.
    pub connections: usize,
    /// Bytes of the body of a request.
    pub body_bytes: usize,
    /// Bytes of the head of a request.
    pub header_bytes: usize,
    /// Time from the first byte of a request to the end of its head.
    pub header_ms: u64,
    /// Time from there to the end of its body.
    pub body_ms: u64,
    /// Time that the engine has for a request, waiting included.
    pub request_ms: u64,
    /// Time that a connection may stay without a request.
    pub keep_alive_ms: u64,
}

impl Default for HttpSection {
    fn default() -> Self {
        HttpSection {
            listen: "127.0.0.1:8080".into(),
            mode: 0o660,
            key: None,
            connections: 64,
            body_bytes: 1 << 20,
            header_bytes: 16 << 10,
            header_ms: 10_000,
            body_ms: 30_000,
            request_ms: 600_000,
            keep_alive_ms: 60_000,
        }
    }
}

/// Where connections are taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// At an address.
    Tcp(SocketAddr),
    /// On a Unix socket.
    Unix(PathBuf),
}

impl Listen {
    /// Reads `address:port`, `localhost:port` or `unix:/path`.
    pub fn parse(text: &str) -> Option<Listen> {
        if let Some(path) = text.strip_prefix("unix:") {
            return path.starts_with('/').then(|| Listen::Unix(path.into()));
        }
        if let Some(port) = text.strip_prefix("localhost:") {
            return Some(Listen::Tcp((Ipv4Addr::LOCALHOST, port.parse().ok()?).into()));
        }
        text.parse().ok().map(Listen::Tcp)
    }

    /// Whether only this machine's users can connect.
    pub fn is_local(&self) -> bool {
        match self {
            Listen::Tcp(address) => address.ip().is_loopback(),
            Listen::Unix(_) => true,
        }
    }
}

impl HttpSection {
    /// Checks every value.
    ///
    /// # Errors
    /// The first that makes no sense.
    pub fn check(&self) -> Result<(), ConfigError> {
        let hour_ms = 3_600_000;
        let ranges = [
            ("http.mode", u64::from(self.mode), 0, 0o777),
            ("http.connections", self.connections as u64, 1, 1024),
            ("http.body_bytes", self.body_bytes as u64, 256, 16 << 20),
            ("http.header_bytes", self.header_bytes as u64, 1024, 256 << 10),
            ("http.header_ms", self.header_ms, 1, hour_ms),
            ("http.body_ms", self.body_ms, 1, hour_ms),
            ("http.request_ms", self.request_ms, 1, 24 * hour_ms),
            ("http.keep_alive_ms", self.keep_alive_ms, 1, hour_ms),
        ];
        super::in_range(&ranges)?;
        let refuse =
            |key, found: &str, expected| Err(ConfigError::Value { key, found: found.to_owned(), expected });
        let Some(listen) = Listen::parse(&self.listen) else {
            return refuse("http.listen", &self.listen, "address:port, as in 127.0.0.1:8080, or unix:/path");
        };
        if !listen.is_local() && self.key.is_none() {
            return refuse(
                "http.listen",
                &self.listen,
                "a loopback address or a Unix socket, unless http.key names a key: { credential = \"name\" } or \
                 { file = \"/path\" }",
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_to_listen_are_read() {
        let tcp = |text: &str| Some(Listen::Tcp(text.parse().expect("an address")));
        assert_eq!(Listen::parse("127.0.0.1:80"), tcp("127.0.0.1:80"));
        assert_eq!(Listen::parse("[::1]:80"), tcp("[::1]:80"));
        assert_eq!(Listen::parse("localhost:0"), tcp("127.0.0.1:0"));
        assert_eq!(Listen::parse("unix:/run/h.sock"), Some(Listen::Unix("/run/h.sock".into())));
        for bad in ["8080", "plant:80", "127.0.0.1", "unix:h.sock", "http://127.0.0.1:80", ""] {
            assert_eq!(Listen::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn only_this_machine_may_come_without_a_key() {
        let check = |text: &str| {
            let section: HttpSection = toml::from_str(text).expect("TOML");
            section.check().map_err(|error| error.to_string())
        };
        for local in ["", "listen = '127.9.9.9:80'", "listen = '[::1]:80'", "listen = 'unix:/x'"] {
            assert_eq!(check(local), Ok(()), "{local}");
        }
        for open in ["0.0.0.0:80", "[::]:80", "192.168.1.2:80"] {
            let message = check(&format!("listen = '{open}'")).expect_err(open);
            assert!(message.contains("http.key") && message.contains(open), "{message}");
            assert_eq!(check(&format!("listen = '{open}'\nkey = {{ file = '/k' }}")), Ok(()));
        }
        assert!(check("header_bytes = 10").is_err_and(|message| message.contains("http.header_bytes")));
    }
}
