//! Who may ask: the key, and no page of some web site.

use std::hint::black_box;
use std::net::IpAddr;

use hyper::header::{AUTHORIZATION, HOST, HeaderMap, ORIGIN};
use hyper::{StatusCode, Uri};

use super::error::ApiError;

/// Who may ask.
#[derive(Debug)]
pub struct Access {
    key: Option<String>,
    /// Whether a browser could connect.
    meets_browsers: bool,
}

/// Whether two texts are equal, in a time that does not tell where they differ.
fn is_equal(one: &[u8], other: &[u8]) -> bool {
    let differs = one
        .iter()
        .zip(other)
        .fold(one.len() ^ other.len(), |so_far, (a, b)| black_box(so_far | usize::from(a ^ b)));
    differs == 0
}

/// The host of `host`, `host:port` or `scheme://host:port`.
fn host_of(text: &str) -> Option<String> {
    let uri: Uri = text.parse().ok()?;
    uri.host().map(|host| host.trim_matches(['[', ']']).to_owned())
}

/// Whether a host can only mean this machine, whatever a name server says.
fn is_fixed(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok()
}

impl Access {
    /// Those who have this key, or without one whoever can connect; browsers connect to addresses, not to sockets.
    pub fn new(key: Option<String>, meets_browsers: bool) -> Self {
        Access { key, meets_browsers }
    }

    /// Checks the head of a request.
    ///
    /// # Errors
    /// 401 without the key, 403 for a web page.
    pub fn check(&self, headers: &HeaderMap) -> Result<(), ApiError> {
        let Some(key) = &self.key else {
            return if self.meets_browsers { from_this_machine(headers) } else { Ok(()) };
        };
        let given = headers.get(AUTHORIZATION).map(|value| value.as_bytes());
        let given = given.and_then(|value| {
            let (scheme, key) = value.split_at_checked(7)?;
            scheme.eq_ignore_ascii_case(b"bearer ").then(|| key.trim_ascii())
        });
        match given {
            Some(given) if is_equal(given, key.as_bytes()) => Ok(()),
            Some(_) => {
                let message = "the key is wrong; it is in the file that http.key names";
                Err(ApiError::new(StatusCode::UNAUTHORIZED, "invalid_api_key", message))
            }
            None => {
                let message = "a key is needed; send it as Authorization: Bearer KEY";
                Err(ApiError::new(StatusCode::UNAUTHORIZED, "invalid_api_key", message))
            }
        }
    }
}

/// Without a key, whoever can connect may ask. So can a web page in a browser on this machine, which is the one visitor
/// that must not: it tells itself by its origin, or by the name of its own site that it had resolve to this machine.
fn from_this_machine(headers: &HeaderMap) -> Result<(), ApiError> {
    let foreign = [ORIGIN, HOST].into_iter().find(|name| {
        headers.get(name).is_some_and(|value| {
            let host = value.to_str().ok().and_then(host_of);
            // An empty host is what clients on a Unix socket send.
            !value.is_empty() && !host.is_some_and(|host| is_fixed(&host))
        })
    });
    match foreign {
        None => Ok(()),
        Some(name) => {
            let message = format!(
                "the header {name} names another site; set http.key and send the key if this is no web page"
            );
            Err(ApiError::new(StatusCode::FORBIDDEN, "foreign_site", message))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(access: &Access, name: &'static str, value: &str) -> u16 {
        let headers =
            HeaderMap::from_iter([(name.parse().expect("a name"), value.parse().expect("a value"))]);
        access.check(&headers).map_or_else(|error| error.status.as_u16(), |()| 200)
    }

    #[test]
    fn the_key_opens() {
        let access = Access::new(Some("open sesame".into()), true);
        for (value, expected) in [
            ("Bearer open sesame", 200),
            ("bearer  open sesame ", 200),
            ("Bearer open", 401),
            ("Bearer open sesamf", 401),
            ("Bearer open sesame!", 401),
            ("Basic open sesame", 401),
            ("Bearer ", 401),
            ("", 401),
        ] {
            assert_eq!(status(&access, "authorization", value), expected, "{value}");
        }
        assert_eq!(status(&access, "host", "plant.example"), 401);
    }

    #[test]
    fn web_pages_are_turned_away() {
        let open = Access::new(None, true);
        for (name, value, expected) in [
            ("host", "127.0.0.1:8080", 200),
            ("host", "localhost", 200),
            ("host", "[::1]:8080", 200),
            ("host", "", 200),
            ("host", "plant.example:8080", 403),
            ("origin", "http://localhost:3000", 200),
            ("origin", "https://plant.example", 403),
            ("origin", "null", 403),
            ("accept", "*/*", 200),
        ] {
            assert_eq!(status(&open, name, value), expected, "{name}: {value}");
        }
        assert_eq!(status(&Access::new(None, false), "host", "tern"), 200);
    }
}
