//! From what devices send to the text that a task reads: plain text, JSON, SenML and records of system logs.

use std::fmt;

use serde_json::{Map, Value};

use crate::config::mqtt::Format;

/// A payload that holds no text.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PayloadError {
    /// It is not UTF-8 from this byte on.
    NotUtf8 {
        /// The byte.
        at: usize,
    },
    /// It is not JSON.
    NotJson {
        /// What the parser says.
        reason: String,
    },
    /// There is nothing at the pointer.
    NoField {
        /// The pointer.
        field: String,
    },
    /// A pointer into something that is not JSON.
    FieldOfText,
    /// It is not SenML.
    Senml {
        /// What is wrong.
        reason: String,
    },
    /// It is not a record of a log.
    NoMessage,
}

impl fmt::Display for PayloadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PayloadError::NotUtf8 { at } => {
                write!(f, "the payload is not UTF-8 from byte {at} on; send UTF-8")
            }
            PayloadError::NotJson { reason } => write!(f, "the payload is not JSON: {reason}"),
            PayloadError::NoField { field } => write!(f, "the payload has nothing at {field:?}"),
            PayloadError::FieldOfText => {
                f.write_str("the payload is plain text, which has no fields; send JSON or ask for no field")
            }
            PayloadError::Senml { reason } => write!(f, "the payload is not SenML (RFC 8428): {reason}"),
            PayloadError::NoMessage => {
                f.write_str("the payload is no log record: it has no MESSAGE, message or msg")
            }
        }
    }
}

impl std::error::Error for PayloadError {}

/// What a content type says about the format, where it says something.
pub fn format_of(content_type: Option<&str>) -> Format {
    let kind = content_type.unwrap_or_default().split(';').next().unwrap_or_default().trim();
    match kind.to_ascii_lowercase().as_str() {
        "application/senml+json" => Format::Senml,
        kind if kind == "application/json" || kind.ends_with("+json") => Format::Json,
        kind if kind.starts_with("text/") => Format::Text,
        _ => Format::Auto,
    }
}

/// The payload as UTF-8.
///
/// # Errors
/// Where it is not.
pub fn utf8(payload: &[u8]) -> Result<&str, PayloadError> {
    std::str::from_utf8(payload).map_err(|error| PayloadError::NotUtf8 { at: error.valid_up_to() })
}

/// The text of a payload of this format; of JSON, that at the pointer `field`.
///
/// # Errors
/// If it is not of this format, or holds no text.
pub fn text(payload: &[u8], format: Format, field: Option<&str>) -> Result<String, PayloadError> {
    let text = utf8(payload)?;
    let value = match format {
        Format::Text => None,
        Format::Auto if !text.trim_start().starts_with(['{', '[']) && field.is_none() => None,
        // A bracket in front is no promise, as in "[  1.23] usb 1-1: reset".
        Format::Auto if field.is_none() => serde_json::from_str(text).ok(),
        _ => {
            let parsed = serde_json::from_str(text);
            Some(parsed.map_err(|error| PayloadError::NotJson { reason: error.to_string() })?)
        }
    };
    match value {
        Some(value) => text_of_value(&value, format, field),
        None if field.is_some() => Err(PayloadError::FieldOfText),
        None => Ok(text.trim_end_matches(['\n', '\r', '\0']).to_owned()),
    }
}

/// As [`text`], of JSON that was parsed already.
///
/// # Errors
/// As [`text`].
pub fn text_of_value(value: &Value, format: Format, field: Option<&str>) -> Result<String, PayloadError> {
    let value = match field {
        Some(field) => {
            value.pointer(field).ok_or_else(|| PayloadError::NoField { field: field.to_owned() })?
        }
        None => value,
    };
    match (format, value) {
        (Format::Senml, _) => super::senml::text(value),
        (Format::Journal, Value::Object(record)) => log_line(record).ok_or(PayloadError::NoMessage),
        (Format::Journal, _) => Err(PayloadError::NoMessage),
        // What was asked for by name is taken as it is.
        (_, Value::String(text)) => Ok(text.clone()),
        (_, Value::Array(records)) if super::senml::looks_like(records) => super::senml::text(value),
        (_, Value::Object(record)) if record.contains_key("MESSAGE") => {
            log_line(record).ok_or(PayloadError::NoMessage)
        }
        _ => Ok(value.to_string()),
    }
}

/// The line of a record of the journal (`journalctl -o json`) or of a syslog daemon: who says it, and what.
fn log_line(record: &Map<String, Value>) -> Option<String> {
    let first = |names: &[&str]| names.iter().find_map(|name| record.get(*name)).and_then(string);
    let message = first(&["MESSAGE", "message", "msg", "@message"])?;
    let from = first(&["SYSLOG_IDENTIFIER", "_COMM", "app-name", "appname", "programname", "tag", "ident"]);
    Some(match from {
        // The kernel names the driver itself.
        Some(from) if from != "kernel" && !from.is_empty() => format!("{from}: {message}"),
        _ => message,
    })
}

/// A field of the journal: a string, or a list of bytes where it is not UTF-8 or has control characters.
fn string(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Array(bytes) => {
            let bytes: Option<Vec<u8>> =
                bytes.iter().map(|byte| byte.as_u64().and_then(|byte| u8::try_from(byte).ok())).collect();
            Some(String::from_utf8_lossy(&bytes?).into_owned())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn auto(payload: &str) -> String {
        text(payload.as_bytes(), Format::Auto, None).expect("it has text")
    }

    #[test]
    fn a_payload_is_what_it_looks_like() {
        assert_eq!(auto("fan stopped\n"), "fan stopped");
        assert_eq!(auto("[   12.5] usb 1-1: reset"), "[   12.5] usb 1-1: reset");
        assert_eq!(auto("{\"a\": 1,\n \"b\": [true]}"), "{\"a\":1,\"b\":[true]}");
        assert_eq!(auto("\"quoted\""), "\"quoted\"");
        assert_eq!(
            auto(r#"{"MESSAGE":"link down","SYSLOG_IDENTIFIER":"NetworkManager","PRIORITY":"4"}"#),
            "NetworkManager: link down"
        );
        assert_eq!(auto(r#"{"MESSAGE":[117,115,98,255],"_COMM":"kernel"}"#), "usb\u{fffd}");
        assert_eq!(auto(r#"[{"bn":"dev:","n":"t","u":"Cel","v":23.5}]"#), "dev:t 23.5 Cel");
    }

    #[test]
    fn a_field_is_picked_by_its_pointer() {
        let payload = br#"{"data":[{"msg":"hot"},{"n":7}],"a/b":"slash"}"#;
        let pick = |field| text(payload, Format::Auto, Some(field));
        assert_eq!(pick("/data/0/msg").as_deref(), Ok("hot"));
        assert_eq!(pick("/data/1/n").as_deref(), Ok("7"));
        assert_eq!(pick("/a~1b").as_deref(), Ok("slash"));
        assert_eq!(pick("/nope"), Err(PayloadError::NoField { field: "/nope".into() }));
        assert!(matches!(text(b"plain", Format::Json, Some("/x")), Err(PayloadError::NotJson { .. })));
        assert_eq!(text(b"{}", Format::Text, Some("/x")), Err(PayloadError::FieldOfText));
    }

    #[test]
    fn what_is_not_of_its_format_is_told() {
        assert_eq!(text(b"ab\xff", Format::Text, None), Err(PayloadError::NotUtf8 { at: 2 }));
        assert!(matches!(text(b"{", Format::Json, None), Err(PayloadError::NotJson { .. })));
        assert_eq!(text(b"{\"a\":1}", Format::Journal, None), Err(PayloadError::NoMessage));
        assert_eq!(text(br#"{"msg":"x","tag":"sshd"}"#, Format::Journal, None).as_deref(), Ok("sshd: x"));
        assert_eq!(format_of(Some("Application/SenML+JSON; v=1")), Format::Senml);
        assert_eq!(format_of(Some("application/cloudevents+json")), Format::Json);
        assert_eq!((format_of(Some("text/plain")), format_of(None)), (Format::Text, Format::Auto));
    }
}
