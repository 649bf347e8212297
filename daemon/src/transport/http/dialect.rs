//! Text answers in the three shapes that clients know: a chat completion, a completion, and llama-server's own.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value, json};
use tern_protocol::answer::{Finish, Usage};

use crate::wire::{Alternative, Chosen, Text, Token};

/// The shape of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// `/v1/chat/completions`.
    Chat,
    /// `/v1/completions`.
    Completion,
    /// `/completion`.
    Llama,
}

/// How to answer one call.
#[derive(Clone, Debug)]
pub struct Dialect {
    /// The shape.
    pub shape: Shape,
    /// The answer's id.
    pub id: String,
    /// The model's name.
    pub model: String,
    /// When the answer was begun, in seconds since 1970.
    pub created_s: u64,
    /// Whether a last event tells the usage.
    pub usage_event: bool,
    /// Characters of the tokens streamed so far.
    pub streamed_chars: usize,
}

/// Seconds since 1970.
pub fn unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// The number that prints as `value` does: a double has digits that a float never knew.
pub fn shortest(value: f32) -> f64 {
    value.to_string().parse().unwrap_or_else(|_| f64::from(value))
}

fn finish_reason(finish: Finish) -> &'static str {
    match finish {
        Finish::StopToken | Finish::StopString => "stop",
        Finish::MaxTokens | Finish::ContextFull | Finish::Budget | Finish::Energy => "length",
    }
}

fn usage(usage: &Usage) -> Value {
    let (drafted, accepted) = (usage.drafted_tokens.unwrap_or(0), usage.accepted_tokens.unwrap_or(0));
    json!({
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.generated_tokens,
        "total_tokens": usage.prompt_tokens + usage.generated_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens.unwrap_or(0)},
        // Drafts of the daemon's own, in the words for those that a client sends.
        "completion_tokens_details": {
            "accepted_prediction_tokens": accepted,
            "rejected_prediction_tokens": drafted.saturating_sub(accepted),
        },
    })
}

/// Times as llama-server tells them.
pub fn timings(usage: &Usage) -> Value {
    let per_token = |ms: f64, tokens: u32| (tokens > 0).then(|| ms / f64::from(tokens));
    // As there, a prompt counts without what was kept of it.
    let cached = usage.cached_tokens.unwrap_or(0);
    let computed = usage.prompt_tokens.saturating_sub(cached);
    json!({
        "cache_n": cached,
        "prompt_n": computed,
        "prompt_ms": usage.prefill_ms,
        "prompt_per_token_ms": per_token(usage.prefill_ms, computed),
        "prompt_per_second": usage.prompt_tokens_per_second,
        "predicted_n": usage.generated_tokens,
        "predicted_ms": usage.decode_ms,
        "predicted_per_token_ms": per_token(usage.decode_ms, usage.generated_tokens),
        "predicted_per_second": usage.generated_tokens_per_second,
        "queue_ms": usage.queue_ms,
    })
}

fn probability(token: &str, logprob: f32) -> Map<String, Value> {
    let mut map = Map::new();
    map.insert("token".into(), json!(token));
    map.insert("logprob".into(), json!(shortest(logprob)));
    // What is no character by itself came as U+FFFD; its bytes are not known here.
    let is_known = !token.contains(char::REPLACEMENT_CHARACTER);
    map.insert("bytes".into(), json!(is_known.then_some(token.as_bytes())));
    map
}

/// Probabilities as chat completions and llama-server tell them.
fn contents(chosen: &[Chosen]) -> Vec<Value> {
    let alternative =
        |Alternative { token, logprob }: &Alternative| Value::Object(probability(token, *logprob));
    let one = |chosen: &Chosen| {
        let mut map = probability(&chosen.token, chosen.logprob);
        map.insert("top_logprobs".into(), chosen.top.iter().map(alternative).collect());
        Value::Object(map)
    };
    chosen.iter().map(one).collect()
}

/// Probabilities as completions tell them; the text before them has `offset` characters.
fn columns(chosen: &[Chosen], mut offset: usize) -> Value {
    let mut offsets = Vec::new();
    for one in chosen {
        offsets.push(offset);
        offset += one.token.chars().count();
    }
    let top = |chosen: &Chosen| {
        let pair = |each: &Alternative| (each.token.clone(), json!(shortest(each.logprob)));
        chosen.top.iter().map(pair).collect::<Map<_, _>>()
    };
    json!({
        "tokens": chosen.iter().map(|one| &one.token).collect::<Vec<_>>(),
        "token_logprobs": chosen.iter().map(|one| shortest(one.logprob)).collect::<Vec<_>>(),
        "top_logprobs": chosen.iter().map(top).collect::<Vec<_>>(),
        "text_offset": offsets,
    })
}

impl Dialect {
    fn logprobs(&self, chosen: Option<&Vec<Chosen>>) -> Value {
        match (chosen, self.shape) {
            (None, _) => Value::Null,
            (Some(chosen), Shape::Completion) => columns(chosen, self.streamed_chars),
            (Some(chosen), _) => json!({"content": contents(chosen), "refusal": null}),
        }
    }

    fn object(&self, kind: &str, choices: Value) -> Value {
        json!({
            "id": self.id,
            "object": kind,
            "created": self.created_s,
            "model": self.model,
            "system_fingerprint": concat!("tern-", env!("CARGO_PKG_VERSION")),
            "choices": choices,
        })
    }

    /// An answer in one piece.
    pub fn whole(&self, text: &Text) -> Value {
        let reason = finish_reason(text.finish);
        let logprobs = self.logprobs(text.logprobs.as_ref());
        let mut body = match self.shape {
            Shape::Chat => {
                let message = json!({"role": "assistant", "content": text.text, "refusal": null});
                let choice =
                    json!({"index": 0, "message": message, "logprobs": logprobs, "finish_reason": reason});
                self.object("chat.completion", json!([choice]))
            }
            Shape::Completion => {
                let choice =
                    json!({"index": 0, "text": text.text, "logprobs": logprobs, "finish_reason": reason});
                self.object("text_completion", json!([choice]))
            }
            Shape::Llama => return self.llama_end(text, &text.text),
        };
        body["usage"] = usage(&text.usage);
        body["timings"] = timings(&text.usage);
        body["energy"] = json!(text.energy);
        body
    }

    /// What llama-server says at the end, with `content`.
    fn llama_end(&self, text: &Text, content: &str) -> Value {
        let stop_type = match text.finish {
            Finish::StopToken => "eos",
            Finish::StopString => "word",
            Finish::MaxTokens | Finish::ContextFull | Finish::Budget | Finish::Energy => "limit",
        };
        let mut body = json!({
            "index": 0,
            "content": content,
            "stop": true,
            "stop_type": stop_type,
            "truncated": false,
            "model": self.model,
            "tokens_predicted": text.usage.generated_tokens,
            "tokens_evaluated": text.usage.prompt_tokens,
            "timings": timings(&text.usage),
            "energy": text.energy,
        });
        if let Some(chosen) = &text.logprobs {
            body["completion_probabilities"] = contents(chosen).into();
        }
        if text.tokens_below_resolution {
            body["energy"]["tokens_below_resolution"] = json!(true);
        }
        body
    }

    fn chunk(&self, choices: Value) -> Value {
        let kind = if self.shape == Shape::Chat { "chat.completion.chunk" } else { "text_completion" };
        let mut chunk = self.object(kind, choices);
        if self.usage_event {
            chunk["usage"] = Value::Null;
        }
        chunk
    }

    fn delta(&self, delta: &Value, logprobs: &Value, reason: Option<&str>) -> Value {
        self.chunk(json!([{"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": reason}]))
    }

    /// What comes before the first text of a stream.
    pub fn opening(&self) -> Option<Value> {
        let first = json!({"role": "assistant", "content": ""});
        (self.shape == Shape::Chat).then(|| self.delta(&first, &Value::Null, None))
    }

    /// More text of a stream.
    pub fn piece(&mut self, token: &Token) -> Value {
        let logprobs = self.logprobs(token.logprobs.as_ref());
        let chosen = token.logprobs.iter().flatten();
        self.streamed_chars += chosen.map(|one| one.token.chars().count()).sum::<usize>();
        let mut piece = match self.shape {
            Shape::Chat => self.delta(&json!({"content": token.text}), &logprobs, None),
            Shape::Completion => self.chunk(
                json!([{"index": 0, "text": token.text, "logprobs": logprobs, "finish_reason": null}]),
            ),
            Shape::Llama => {
                let mut body = json!({"index": 0, "content": token.text, "stop": false});
                if let Some(chosen) = &token.logprobs {
                    body["completion_probabilities"] = contents(chosen).into();
                }
                body
            }
        };
        if let Some(joules) = token.joules {
            piece["energy"] = json!({"joules": joules});
        }
        piece
    }

    /// The end of a stream.
    pub fn ending(&self, text: &Text) -> Vec<Value> {
        let reason = finish_reason(text.finish);
        let mut last = match self.shape {
            Shape::Chat => self.delta(&json!({}), &Value::Null, Some(reason)),
            Shape::Completion => {
                self.chunk(json!([{"index": 0, "text": "", "logprobs": null, "finish_reason": reason}]))
            }
            Shape::Llama => return vec![self.llama_end(text, "")],
        };
        last["timings"] = timings(&text.usage);
        last["energy"] = json!(text.energy);
        if text.tokens_below_resolution {
            last["energy"]["tokens_below_resolution"] = json!(true);
        }
        let mut events = vec![last];
        if self.usage_event {
            let mut with_usage = self.chunk(json!([]));
            with_usage["usage"] = usage(&text.usage);
            events.push(with_usage);
        }
        events
    }

    /// What closes a stream.
    pub fn closing(&self) -> Option<&'static str> {
        (self.shape != Shape::Llama).then_some("data: [DONE]\n\n")
    }
}
