//! Refusals, in the form that clients of the OpenAI API understand.

use hyper::StatusCode;
use hyper::header::{ALLOW, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use serde_json::{Value, json};

use super::reply::{Response, json_response};
use crate::wire::Failure;

/// A request that is not answered as wished.
#[derive(Clone, Debug, PartialEq)]
pub struct ApiError {
    /// The status of the response.
    pub status: StatusCode,
    /// Why, for programs.
    pub code: &'static str,
    /// The field that is to blame.
    pub param: Option<String>,
    /// Why, for people.
    pub message: String,
    /// When to come back, if that helps.
    pub retry_after_ms: Option<u32>,
    /// The methods there are, if another was used.
    pub allow: Option<&'static str>,
    /// Whether the service has counted it.
    pub is_counted: bool,
}

impl ApiError {
    /// A refusal.
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        ApiError {
            status,
            code,
            param: None,
            message: message.into(),
            retry_after_ms: None,
            allow: None,
            is_counted: false,
        }
    }

    /// A request that makes no sense.
    pub fn bad(message: impl Into<String>) -> Self {
        ApiError::new(StatusCode::BAD_REQUEST, "bad_request", message)
    }

    /// A field that makes no sense.
    pub fn field(name: impl Into<String>, message: impl Into<String>) -> Self {
        ApiError { param: Some(name.into()), ..ApiError::bad(message) }
    }

    /// A fault of ours.
    pub fn internal(message: impl Into<String>) -> Self {
        ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", message)
    }

    /// A service that is not there for now.
    pub fn unavailable(code: &'static str, message: impl Into<String>) -> Self {
        let error = ApiError::new(StatusCode::SERVICE_UNAVAILABLE, code, message);
        ApiError { retry_after_ms: Some(1000), ..error }
    }

    /// What the service said.
    pub fn of(failure: Failure) -> Self {
        let code = match failure.reason {
            tern_protocol::answer::Reason::BadRequest => "bad_request",
            tern_protocol::answer::Reason::UnknownTask => "unknown_task",
            tern_protocol::answer::Reason::UnknownRequest => "unknown_request",
            tern_protocol::answer::Reason::Deadline => "deadline",
            tern_protocol::answer::Reason::TooLarge => "too_large",
            tern_protocol::answer::Reason::QueueFull => "queue_full",
            tern_protocol::answer::Reason::TooManyClients => "too_many_clients",
            tern_protocol::answer::Reason::Cancelled => "cancelled",
            tern_protocol::answer::Reason::Internal => "internal",
            tern_protocol::answer::Reason::Stopping => "stopping",
            tern_protocol::answer::Reason::Forbidden => "forbidden",
            tern_protocol::answer::Reason::Energy => "energy",
        };
        let status = StatusCode::from_u16(failure.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let retry_after_ms = match failure.retry_after_ms {
            None if status == StatusCode::SERVICE_UNAVAILABLE => Some(1000),
            given => given,
        };
        ApiError { retry_after_ms, is_counted: true, ..ApiError::new(status, code, failure.message) }
    }

    /// The body of the response.
    pub fn body(&self) -> Value {
        let kind = match self.status.as_u16() {
            401 | 403 => "authentication_error",
            429 => "rate_limit_error",
            500.. => "server_error",
            _ => "invalid_request_error",
        };
        json!({"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}})
    }

    /// The response.
    pub fn response(&self) -> Response {
        let mut response = json_response(self.status, &self.body());
        let headers = response.headers_mut();
        if let Some(ms) = self.retry_after_ms {
            // Whole seconds are all that the header can say.
            headers.insert(RETRY_AFTER, HeaderValue::from(ms.div_ceil(1000).max(1)));
        }
        if let Some(methods) = self.allow {
            headers.insert(ALLOW, HeaderValue::from_static(methods));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}
