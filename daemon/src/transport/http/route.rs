//! From the head of a request to whoever answers it.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::{Body, Incoming};
use hyper::header::{CONNECTION, HeaderValue};
use hyper::{Method, Request, StatusCode};
use serde_json::{Value, json};
use tern_protocol::answer::Answer;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::call::Call;
use super::dialect::{Dialect, Shape, unix_s};
use super::error::ApiError;
use super::events::Events;
use super::fields::Fields;
use super::reply::{Response, event_response, json_response, text_response};
use super::systemone::Questions;
use super::{Phase, Shared, metrics, openai};
use crate::serve::counters::{Ending, Way};
use crate::serve::queue::Notice;
use crate::serve::service::Service;
use crate::serve::tokenizing::{Found, Piece, Tokenizing, Wanted};

/// What there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Endpoint {
    Health,
    Models,
    Model,
    Metrics,
    Text(Shape),
    Tokenize,
    Detokenize,
    SystemOne,
}

impl Endpoint {
    fn of(path: &str) -> Option<Endpoint> {
        Some(match path {
            "/health" | "/v1/health" => Endpoint::Health,
            "/v1/models" | "/models" => Endpoint::Models,
            "/metrics" => Endpoint::Metrics,
            "/v1/chat/completions" | "/chat/completions" => Endpoint::Text(Shape::Chat),
            "/v1/completions" => Endpoint::Text(Shape::Completion),
            "/completion" | "/completions" => Endpoint::Text(Shape::Llama),
            "/tokenize" => Endpoint::Tokenize,
            "/detokenize" => Endpoint::Detokenize,
            "/v1/systemone" => Endpoint::SystemOne,
            path => {
                return path.strip_prefix("/v1/models/").filter(|id| !id.is_empty()).map(|_| Endpoint::Model);
            }
        })
    }

    /// Whether it is asked without a body.
    fn is_read(self) -> bool {
        matches!(self, Endpoint::Health | Endpoint::Models | Endpoint::Model | Endpoint::Metrics)
    }
}

/// Answers a request.
pub async fn answer(shared: &Shared, mut request: Request<Incoming>) -> Response {
    let mut response = match routed(shared, &mut request).await {
        Ok(response) => response,
        Err(error) => {
            if let Phase::Ready(service) = &*shared.phase.borrow()
                && !error.is_counted
                && *request.method() == Method::POST
            {
                service.state.count(Way::Http, Ending::Refused);
            }
            log::debug!("HTTP {} {}: {}", request.method(), request.uri().path(), error.message);
            error.response()
        }
    };
    if !request.body().is_end_stream() {
        // What is left of it will not be read.
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

async fn routed(shared: &Shared, request: &mut Request<Incoming>) -> Result<Response, ApiError> {
    let path = request.uri().path();
    let Some(endpoint) = Endpoint::of(path) else {
        let message = format!("there is no {path}; docs/http.md lists what there is");
        return Err(ApiError::new(StatusCode::NOT_FOUND, "not_found", message));
    };
    let (allow, is_right) = match endpoint.is_read() {
        true => ("GET, HEAD", matches!(*request.method(), Method::GET | Method::HEAD)),
        false => ("POST", *request.method() == Method::POST),
    };
    if !is_right {
        let message = format!("{path} takes {allow}, not {}", request.method());
        let error = ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message);
        return Err(ApiError { allow: Some(allow), ..error });
    }
    if endpoint == Endpoint::Health {
        return Ok(health(&shared.phase.borrow()));
    }
    shared.access.check(request.headers())?;
    let service = match &*shared.phase.borrow() {
        Phase::Ready(service) => Arc::clone(service),
        Phase::Loading => {
            return Err(ApiError::unavailable("loading", "the model is being opened; try again"));
        }
        Phase::Stopping | Phase::Closing => {
            return Err(ApiError::unavailable("stopping", crate::serve::STOPPING));
        }
    };
    let json = |body: &Value| json_response(StatusCode::OK, body);
    match endpoint {
        Endpoint::Health => Ok(health(&shared.phase.borrow())),
        Endpoint::Models => Ok(json(&json!({"object": "list", "data": [model(shared, &service)]}))),
        Endpoint::Model => {
            check_model(&service, path.strip_prefix("/v1/models/"))?;
            Ok(json(&model(shared, &service)))
        }
        Endpoint::Metrics => {
            Ok(text_response(StatusCode::OK, metrics::CONTENT_TYPE, metrics::render(&service)))
        }
        Endpoint::Text(shape) => text(shared, &service, shape, body(shared, request).await?).await,
        Endpoint::Tokenize => tokenize(&service, body(shared, request).await?).await.map(|body| json(&body)),
        Endpoint::Detokenize => {
            detokenize(&service, body(shared, request).await?).await.map(|body| json(&body))
        }
        Endpoint::SystemOne => {
            system_one(shared, &service, body(shared, request).await?).await.map(|body| json(&body))
        }
    }
}

fn health(phase: &Phase) -> Response {
    let (status, word) = match phase {
        Phase::Loading => (StatusCode::SERVICE_UNAVAILABLE, "loading"),
        Phase::Ready(_) => (StatusCode::OK, "ok"),
        Phase::Stopping | Phase::Closing => (StatusCode::SERVICE_UNAVAILABLE, "stopping"),
    };
    let mut response = json_response(status, &json!({"status": word}));
    if status != StatusCode::OK {
        response.headers_mut().insert(hyper::header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

fn model(shared: &Shared, service: &Service) -> Value {
    json!({
        "id": service.state.facts.model,
        "object": "model",
        "created": shared.started_s,
        "owned_by": "tern",
    })
}

/// There is one model. To answer with it where another was asked for would be a wrong answer.
fn check_model(service: &Service, wanted: Option<&str>) -> Result<(), ApiError> {
    let ours = &service.state.facts.model;
    match wanted {
        None => Ok(()),
        Some(wanted) if wanted == ours || wanted == "tern" || wanted.is_empty() => Ok(()),
        Some(wanted) => {
            let message = format!("the model {wanted:?} is not here; {ours:?} is (or say \"tern\")");
            let error = ApiError::new(StatusCode::NOT_FOUND, "model_not_found", message);
            Err(ApiError { param: Some("model".into()), ..error })
        }
    }
}

/// Reads the body of a request.
async fn body(shared: &Shared, request: &mut Request<Incoming>) -> Result<Fields, ApiError> {
    let (most, ms) = (shared.section.body_bytes, shared.section.body_ms);
    let too_large = || {
        let message = format!("the body has more than {most} bytes (http.body_bytes); send less at once");
        ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", message)
    };
    let incoming = request.body_mut();
    if incoming.size_hint().lower() > most as u64 {
        return Err(too_large());
    }
    let mut bytes = Vec::new();
    let reading = async {
        while let Some(frame) = poll_fn(|context| Pin::new(&mut *incoming).poll_frame(context)).await {
            let frame = frame.map_err(|error| ApiError::bad(format!("the body cannot be read: {error}")))?;
            let Ok(data) = frame.into_data() else { continue };
            if bytes.len() + data.len() > most {
                return Err(too_large());
            }
            bytes.extend_from_slice(&data);
        }
        Ok(())
    };
    match timeout(Duration::from_millis(ms), reading).await {
        Ok(read) => read?,
        Err(_) => {
            let message = format!("the body did not end within {ms} ms (http.body_ms)");
            return Err(ApiError::new(StatusCode::REQUEST_TIMEOUT, "deadline", message));
        }
    }
    Fields::parse(&bytes)
}

async fn text(
    shared: &Shared,
    service: &Arc<Service>,
    shape: Shape,
    fields: Fields,
) -> Result<Response, ApiError> {
    let wanted = openai::read(shape, fields)?;
    check_model(service, wanted.model.as_deref())?;
    let mut call = Call::new(Arc::clone(service));
    let prefix = if shape == Shape::Chat { "chatcmpl" } else { "cmpl" };
    let dialect = Dialect {
        shape,
        id: format!("{prefix}-{:x}-{}", shared.started_s, call.id()),
        model: service.state.facts.model.clone(),
        created_s: unix_s(),
        usage_event: wanted.usage_event,
        streamed_chars: 0,
    };
    let is_streamed = wanted.request.stream;
    call.ask(wanted.request, Duration::from_millis(shared.section.request_ms));
    // The first answer decides the status.
    match call.next().await? {
        Answer::Text(text) if !is_streamed => Ok(json_response(StatusCode::OK, &dialect.whole(&text))),
        first if is_streamed => Ok(event_response(Events::new(call, dialect, first))),
        _ => Err(ApiError::internal("an answer of another kind came")),
    }
}

async fn ask_tokenizer(service: &Service, wanted: Wanted) -> Result<Found, ApiError> {
    let (send, found) = oneshot::channel();
    let then = Box::new(move |found| {
        // The client may have gone.
        let _ = send.send(found);
    });
    service.queue.notify(Notice::Tokenize(Tokenizing { wanted, then }));
    found.await.map_err(|_| ApiError::unavailable("stopping", crate::serve::STOPPING))
}

async fn tokenize(service: &Service, mut fields: Fields) -> Result<Value, ApiError> {
    let text: String = fields.need("content")?;
    let begin = fields.take("add_special")?.unwrap_or(false);
    let with_pieces = fields.take("with_pieces")?.unwrap_or(false);
    fields.ignore(&["model"]);
    fields.ignore_if(&[("parse_special", &["false"])]);
    fields.finish()?;
    let most = service.limits.text_bytes;
    if text.len() > most {
        let message =
            format!("content has {} bytes; at most {most} are taken (limits.text_bytes)", text.len());
        let error = ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", message);
        return Err(ApiError { param: Some("content".into()), ..error });
    }
    let piece = |Piece { id, bytes }: Piece| match (with_pieces, String::from_utf8(bytes)) {
        (false, _) => json!(id),
        (true, Ok(text)) => json!({"id": id, "piece": text}),
        (true, Err(part)) => json!({"id": id, "piece": part.into_bytes()}),
    };
    match ask_tokenizer(service, Wanted::Tokens { text, begin }).await? {
        Found::Tokens(pieces) => Ok(json!({"tokens": pieces.into_iter().map(piece).collect::<Vec<_>>()})),
        _ => Err(ApiError::internal("an answer of another kind came")),
    }
}

async fn detokenize(service: &Service, mut fields: Fields) -> Result<Value, ApiError> {
    let tokens: Vec<u32> = fields.need("tokens")?;
    fields.ignore(&["model"]);
    fields.finish()?;
    match ask_tokenizer(service, Wanted::Text(tokens)).await? {
        Found::Text(text) => Ok(json!({"content": text})),
        Found::NoToken { id, tokens } => {
            Err(ApiError::field("tokens", format!("there is no token {id}; there are 0 to {}", tokens - 1)))
        }
        Found::Tokens(_) | Found::Lengths(_) | Found::Words(_) => {
            Err(ApiError::internal("an answer of another kind came"))
        }
    }
}

async fn system_one(shared: &Shared, service: &Arc<Service>, fields: Fields) -> Result<Value, ApiError> {
    let mut questions = Questions::read(fields)?;
    check_model(service, questions.model.as_deref())?;
    let mut call = Call::new(Arc::clone(service));
    let requests = std::mem::take(&mut questions.requests);
    let mut answers = Vec::new();
    answers.resize_with(requests.len(), || None);
    for request in requests {
        call.ask(request, Duration::from_millis(shared.section.request_ms));
    }
    while answers.iter().any(Option::is_none) {
        let answer = match call.any().await? {
            Answer::Error(failure) => {
                let place = failure.id.as_deref().and_then(|id| id.parse::<usize>().ok());
                let error = ApiError::of(failure);
                let Some(id) = place.map(|place| questions.id(place)) else { return Err(error) };
                let (message, param) =
                    (format!("question {id:?}: {}", error.message), format!("questions.{id}"));
                return Err(ApiError { message, param: Some(param), ..error });
            }
            answer => answer,
        };
        let place = answer.id().and_then(|id| id.parse::<usize>().ok());
        if let Some(slot) = place.and_then(|place| answers.get_mut(place)) {
            *slot = Some(answer);
        }
    }
    let answers: Vec<_> = answers.into_iter().flatten().collect();
    questions.response(&service.state.facts.model, &answers)
}
