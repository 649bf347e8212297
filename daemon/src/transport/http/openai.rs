//! Requests for text: `/v1/chat/completions`, `/v1/completions` and llama-server's `/completion`, as requests of ours.
//!
//! A field that changes no answer is accepted; one that would change it and cannot be served is refused by name.

use serde::Deserialize;
use serde_json::value::RawValue;
use tern_protocol::request::Role;

use super::dialect::Shape;
use super::error::ApiError;
use super::fields::Fields;
use crate::wire::{Chat, Generate, Json, Message, Request, Sampling};

/// Fields that say who asks and why, or how it is to be kept.
const HARMLESS: [&str; 10] = [
    "user",
    "store",
    "metadata",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
    "cache_prompt",
    "timings_per_token",
    "parallel_tool_calls",
];

/// Fields that we have no use for, with the values that ask for nothing.
const PLAIN: [(&str, &[&str]); 17] = [
    ("n", &["1"]),
    ("best_of", &["1"]),
    ("echo", &["false"]),
    ("suffix", &["\"\""]),
    ("presence_penalty", &["0", "0.0"]),
    ("frequency_penalty", &["0", "0.0"]),
    ("logit_bias", &["{}", "[]"]),
    ("tools", &["[]"]),
    ("tool_choice", &["\"none\"", "\"auto\""]),
    ("functions", &["[]"]),
    ("function_call", &["\"none\"", "\"auto\""]),
    ("modalities", &["[\"text\"]"]),
    ("id_slot", &["-1"]),
    ("n_keep", &["0"]),
    ("return_tokens", &["false"]),
    ("return_progress", &["false"]),
    ("grammar", &["\"\""]),
];

/// A request for text.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// As the service takes it.
    pub request: Request,
    /// The model that was asked for.
    pub model: Option<String>,
    /// Whether a last event is to tell the usage.
    pub usage_event: bool,
}

/// One string or several.
#[derive(Deserialize)]
#[serde(untagged, expecting = "a string or a list of strings")]
enum Strings {
    One(String),
    Many(Vec<String>),
}

impl From<Strings> for Vec<String> {
    fn from(strings: Strings) -> Self {
        match strings {
            Strings::One(one) => vec![one],
            Strings::Many(many) => many,
        }
    }
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "a string or a list of parts of text")]
enum Content {
    Text(String),
    Parts(Vec<Part>),
}

#[derive(Deserialize)]
struct Part {
    r#type: String,
    text: Option<String>,
}

#[derive(Deserialize)]
struct StreamOptions {
    #[serde(default)]
    include_usage: bool,
}

#[derive(Deserialize)]
struct Format {
    r#type: String,
    json_schema: Option<NamedSchema>,
    /// llama-server takes the schema here, too.
    schema: Option<Json>,
}

#[derive(Deserialize)]
struct NamedSchema {
    schema: Option<Json>,
}

/// Takes the settings of sampling.
fn sampling(fields: &mut Fields) -> Result<Sampling, ApiError> {
    let top_k: Option<i64> = fields.take("top_k")?;
    let penalty: Option<f32> = fields.take("repetition_penalty")?;
    let mut sampling = Sampling {
        temperature: fields.take("temperature")?,
        // llama-server says 0 or less where all are kept.
        top_k: top_k.map(|top_k| u32::try_from(top_k).unwrap_or(0)),
        top_p: fields.take("top_p")?,
        min_p: fields.take("min_p")?,
        repetition_penalty: penalty.or(fields.take("repeat_penalty")?),
        // Clients count from -1, which stands for any, or use all of an i64.
        seed: fields.take::<i64>("seed")?.filter(|seed| *seed != -1).map(i64::cast_unsigned),
        stop: fields.take::<Strings>("stop")?.map(Vec::from),
    };
    let narrows = sampling.top_k.is_some_and(|top_k| top_k > 1)
        || sampling.top_p.is_some_and(|top_p| top_p < 1.0)
        || sampling.min_p.is_some();
    if sampling.temperature.is_none() && narrows {
        // To choose among the likeliest is to choose by chance.
        sampling.temperature = Some(1.0);
    }
    if sampling.temperature.is_some_and(|temperature| temperature > 0.0) && sampling.seed.is_none() {
        sampling.seed = Some(any_seed());
    }
    Ok(sampling)
}

/// A seed that nobody chose.
fn any_seed() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(())
}

fn at_least_one(name: &str, tokens: Option<i64>) -> Result<Option<u32>, ApiError> {
    match tokens {
        None => Ok(None),
        Some(tokens) => match u32::try_from(tokens) {
            Ok(tokens) if tokens > 0 => Ok(Some(tokens)),
            _ => Err(ApiError::field(name, format!("{name} is {tokens}; it must be at least 1"))),
        },
    }
}

/// Takes the schema of `response_format`.
fn response_format(fields: &mut Fields) -> Result<Option<Json>, ApiError> {
    const NAME: &str = "response_format";
    let Some(format) = fields.take::<Format>(NAME)? else { return Ok(None) };
    let named = format.json_schema.and_then(|named| named.schema);
    match (format.r#type.as_str(), named.or(format.schema)) {
        ("text", None) => Ok(None),
        ("json_object", None) => Ok(Some(tern_protocol::json::Json(r#"{"type":"object"}"#.into()))),
        ("json_object" | "json_schema", Some(schema)) => Ok(Some(schema)),
        ("json_schema", None) => {
            Err(ApiError::field(NAME, "response_format of type json_schema needs json_schema.schema"))
        }
        (other, _) => {
            let message =
                format!("response_format of type {other:?}; there are text, json_object and json_schema");
            Err(ApiError::field(NAME, message))
        }
    }
}

fn messages(list: &[Box<RawValue>]) -> Result<Vec<Message>, ApiError> {
    let mut messages = Vec::new();
    for (index, value) in list.iter().enumerate() {
        let place = format!("messages[{index}]");
        let mut fields = Fields::of(&place, value)?;
        let role: String = fields.need("role")?;
        let role = match role.as_str() {
            "system" | "developer" => Role::System,
            "user" => Role::User,
            "assistant" => Role::Assistant,
            other => {
                let message = format!("{place}.role is {other:?}; there are system, user and assistant");
                return Err(ApiError::field(format!("{place}.role"), message));
            }
        };
        let content = match fields.need("content")? {
            Content::Text(text) => text,
            Content::Parts(parts) => {
                let mut all = String::new();
                for part in parts {
                    let text = part.text.filter(|_| part.r#type == "text").ok_or_else(|| {
                        let message =
                            format!("{place} has a part of type {:?}; only text is read", part.r#type);
                        ApiError::field(format!("{place}.content"), message)
                    })?;
                    all += &text;
                }
                all
            }
        };
        fields.ignore(&["name"]);
        fields.ignore_if(&[("tool_calls", &["[]"]), ("annotations", &["[]"])]);
        fields.finish()?;
        messages.push(Message { role, content });
    }
    Ok(messages)
}

/// How many alternatives beside each token: `logprobs` as chat completions ask for them.
fn chat_logprobs(fields: &mut Fields) -> Result<Option<u32>, ApiError> {
    let wanted: Option<bool> = fields.take("logprobs")?;
    let top: Option<u32> = fields.take("top_logprobs")?;
    match (wanted.unwrap_or(false), top) {
        (true, top) => Ok(Some(top.unwrap_or(0))),
        (false, None | Some(0)) => Ok(None),
        (false, Some(_)) => Err(ApiError::field("top_logprobs", "top_logprobs needs logprobs: true")),
    }
}

fn one_prompt(fields: &mut Fields) -> Result<String, ApiError> {
    let mut prompts = Vec::from(fields.need::<Strings>("prompt")?);
    match (prompts.pop(), prompts.len()) {
        (Some(prompt), 0) => Ok(prompt),
        (None, _) => Err(ApiError::field("prompt", "prompt is empty")),
        (Some(_), more) => {
            let message = format!("prompt has {} texts; send one at a time", more + 1);
            Err(ApiError::field("prompt", message))
        }
    }
}

/// Reads a request of this shape.
///
/// # Errors
/// The first field that cannot be served.
pub fn read(shape: Shape, mut fields: Fields) -> Result<Wanted, ApiError> {
    let model = fields.take("model")?;
    let stream: Option<bool> = fields.take("stream")?;
    let options: Option<StreamOptions> = fields.take("stream_options")?;
    let sampling = Some(sampling(&mut fields)?);
    let mut request = Request {
        stream: stream.unwrap_or(false),
        deadline_ms: fields.take("deadline_ms")?,
        max_joules: fields.take("max_joules")?,
        priority: fields.take("priority")?,
        ..Request::new("0".into())
    };
    match shape {
        Shape::Chat => {
            let tokens: Option<i64> = fields.take("max_completion_tokens")?;
            let tokens = tokens.or(fields.take("max_tokens")?);
            request.chat = Some(Chat {
                max_tokens: at_least_one("max_completion_tokens", tokens)?,
                sampling,
                schema: response_format(&mut fields)?,
                logprobs: chat_logprobs(&mut fields)?,
                ..Chat::new(messages(&fields.need::<Vec<Box<RawValue>>>("messages")?)?)
            });
        }
        Shape::Completion => {
            request.generate = Some(Generate {
                max_tokens: at_least_one("max_tokens", fields.take("max_tokens")?)?,
                sampling,
                schema: response_format(&mut fields)?,
                logprobs: fields.take("logprobs")?,
                ..Generate::new(one_prompt(&mut fields)?)
            });
        }
        Shape::Llama => {
            let most: Option<i64> = fields.take("n_predict")?;
            let most = most.or(fields.take("max_tokens")?).filter(|most| *most >= 0);
            let top: Option<u32> = fields.take("n_probs")?;
            request.generate = Some(Generate {
                max_tokens: at_least_one("n_predict", most)?,
                sampling,
                schema: fields.take("json_schema")?,
                logprobs: top.filter(|top| *top > 0),
                ..Generate::new(one_prompt(&mut fields)?)
            });
        }
    }
    fields.ignore(&HARMLESS);
    fields.ignore_if(&PLAIN);
    fields.finish()?;
    let usage_event = options.is_some_and(|options| options.include_usage);
    Ok(Wanted { request, model, usage_event })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chat(extra: &str) -> Result<Wanted, ApiError> {
        let body = format!(r#"{{"messages":[{{"role":"user","content":"Hi"}}],"model":"m"{extra}}}"#);
        read(Shape::Chat, Fields::parse(body.as_bytes())?)
    }

    #[test]
    fn our_own_fields_go_with_any_shape() {
        let wanted = chat(r#","deadline_ms":900,"max_joules":0.5"#).expect("it is sound");
        assert_eq!((wanted.request.deadline_ms, wanted.request.max_joules), (Some(900), Some(0.5)));
    }

    #[test]
    fn a_chat_becomes_a_request_of_ours() {
        let wanted = chat(
            r#","max_completion_tokens":7,"temperature":0.5,"seed":-3,"stop":"x","user":"me","n":1,"stream":true,
            "stream_options":{"include_usage":true},"logprobs":true,"top_logprobs":2,
            "response_format":{"type":"json_schema","json_schema":{"name":"s","strict":true,
            "schema":{"type":"object","properties":{"b":{},"a":{}}}}}"#,
        )
        .expect("all of it is served");
        let chat = wanted.request.chat.expect("a chat");
        assert_eq!((chat.max_tokens, chat.logprobs), (Some(7), Some(2)));
        let schema = chat.schema.expect("a schema");
        assert_eq!(schema.as_str(), r#"{"type":"object","properties":{"b":{},"a":{}}}"#);
        let sampling = chat.sampling.expect("sampling");
        assert_eq!(sampling.seed, Some((-3i64).cast_unsigned()));
        assert_eq!(sampling.stop, Some(vec!["x".to_owned()]));
        assert!(wanted.usage_event && wanted.request.stream);
        assert_eq!(wanted.model.as_deref(), Some("m"));
    }

    #[test]
    fn nothing_said_is_greedy_and_chance_has_a_seed() {
        let sampling = |extra: &str| chat(extra).expect("sound").request.chat.and_then(|chat| chat.sampling);
        let greedy = sampling("").expect("sampling");
        assert_eq!((greedy.temperature, greedy.seed), (None, None));
        let [one, two] = [0, 1].map(|_| sampling(r#","top_p":0.9"#).expect("sampling"));
        assert_eq!(one.temperature, Some(1.0));
        assert!(one.seed.is_some() && one.seed != two.seed);
    }

    #[test]
    fn what_cannot_be_served_is_refused_by_name() {
        for (extra, param) in [
            (r#","n":2"#, "n"),
            (r#","tools":[{"type":"function"}]"#, "tools"),
            (r#","presence_penalty":0.5"#, "presence_penalty"),
            (r#","logit_bias":{"5":1}"#, "logit_bias"),
            (r#","max_tokens":0"#, "max_completion_tokens"),
            (r#","top_logprobs":3"#, "top_logprobs"),
            (r#","response_format":{"type":"grammar"}"#, "response_format"),
            (r#","response_format":{"type":"json_schema"}"#, "response_format"),
            (r#","temprature":1"#, "temprature"),
        ] {
            let error = chat(extra).expect_err(extra);
            assert_eq!((error.status.as_u16(), error.param.as_deref()), (400, Some(param)), "{error:?}");
        }
        let read = |shape, body: &str| read(shape, Fields::parse(body.as_bytes()).expect("JSON"));
        let message = |content: &str| format!(r#"{{"messages":[{{"role":"user","content":{content}}}]}}"#);
        let parts = message(r#"[{"type":"text","text":"a"},{"type":"text","text":"b"}]"#);
        let chat = read(Shape::Chat, &parts).expect("text").request.chat.expect("a chat");
        assert_eq!(chat.messages[0].content, "ab");
        let image = message(r#"[{"type":"image_url","image_url":{"url":"x"}}]"#);
        assert!(read(Shape::Chat, &image).is_err_and(|error| error.message.contains("image_url")));
        assert!(read(Shape::Completion, r#"{"prompt":["a","b"]}"#).is_err());
        assert!(read(Shape::Completion, r#"{"prompt":["a"]}"#).is_ok());
        assert!(
            read(Shape::Llama, r#"{"prompt":"a","n_predict":-1,"cache_prompt":true,"n_probs":0}"#).is_ok()
        );
    }
}
