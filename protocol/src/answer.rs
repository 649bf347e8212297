//! What a client gets back.
//!
//! In JSON every answer is one flat object whose first field is its `type`, so that a reader knows what follows before
//! it gets there; in binary form it is an enum.

use core::fmt;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize, Serializer};

pub use crate::energy::{Energy, EnergyTotals, Idle, Method, Pacing, Scope, SlowedBy};
use crate::present::serialize_present;
use crate::storage::Storage;
pub use crate::usage::Usage;

/// An answer. All but [`Answer::Token`] are the last one to their request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(
    remote = "Self",
    bound(
        serialize = "",
        deserialize = "F::Text: Deserialize<'de>, F::List<F::Text>: Deserialize<'de>, \
                       F::List<Probability<F>>: Deserialize<'de>, \
                       F::Detail<Chosen<F>>: Deserialize<'de>"
    )
)]
pub enum Answer<F: Storage> {
    /// A typed decision.
    Decision(Decision<F>),
    /// More text of a streamed answer.
    Token(Token<F>),
    /// The end of a text answer, and all of its text.
    Text(Text<F>),
    /// A request was cancelled as asked.
    Cancelled(Cancelled<F>),
    /// How the daemon is.
    Status(Status<F>),
    /// A request was refused or failed.
    Error(Failure<F>),
}

/// The same answer as one flat object.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case", bound(serialize = ""))]
enum Flat<'r, F: Storage> {
    Decision(&'r Decision<F>),
    Token(&'r Token<F>),
    Text(&'r Text<F>),
    Cancelled(&'r Cancelled<F>),
    Status(&'r Status<F>),
    Error(&'r Failure<F>),
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Type {
    Decision,
    Token,
    Text,
    Cancelled,
    Status,
    Error,
}

impl<F: Storage> Serialize for Answer<F> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if !serializer.is_human_readable() {
            return Answer::serialize(self, serializer);
        }
        let flat = match self {
            Answer::Decision(answer) => Flat::Decision(answer),
            Answer::Token(answer) => Flat::Token(answer),
            Answer::Text(answer) => Flat::Text(answer),
            Answer::Cancelled(answer) => Flat::Cancelled(answer),
            Answer::Status(answer) => Flat::Status(answer),
            Answer::Error(answer) => Flat::Error(answer),
        };
        flat.serialize(serializer)
    }
}

impl<'de, F: Storage> Deserialize<'de> for Answer<F>
where
    F::Text: Deserialize<'de>,
    F::List<F::Text>: Deserialize<'de>,
    F::List<Probability<F>>: Deserialize<'de>,
    F::Detail<Chosen<F>>: Deserialize<'de>,
{
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if !deserializer.is_human_readable() {
            return Answer::deserialize(deserializer);
        }
        deserializer.deserialize_map(FlatVisitor(core::marker::PhantomData))
    }
}

struct FlatVisitor<F>(core::marker::PhantomData<F>);

impl<'de, F: Storage> Visitor<'de> for FlatVisitor<F>
where
    F::Text: Deserialize<'de>,
    F::List<F::Text>: Deserialize<'de>,
    F::List<Probability<F>>: Deserialize<'de>,
    F::Detail<Chosen<F>>: Deserialize<'de>,
{
    type Value = Answer<F>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an answer: an object whose first field is its type")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Answer<F>, A::Error> {
        #[derive(Deserialize)]
        #[serde(rename_all = "snake_case")]
        enum First {
            Type,
        }
        if map.next_key::<First>()?.is_none() {
            return Err(serde::de::Error::missing_field("type"));
        }
        let kind = map.next_value::<Type>()?;
        let rest = MapAccessDeserializer::new(map);
        Ok(match kind {
            Type::Decision => Answer::Decision(Deserialize::deserialize(rest)?),
            Type::Token => Answer::Token(Deserialize::deserialize(rest)?),
            Type::Text => Answer::Text(Deserialize::deserialize(rest)?),
            Type::Cancelled => Answer::Cancelled(Deserialize::deserialize(rest)?),
            Type::Status => Answer::Status(Deserialize::deserialize(rest)?),
            Type::Error => Answer::Error(Deserialize::deserialize(rest)?),
        })
    }
}

impl<F: Storage> Answer<F> {
    /// The id of the request; `None` for an error about something that had no id.
    pub fn id(&self) -> Option<&F::Text> {
        match self {
            Answer::Decision(answer) => Some(&answer.id),
            Answer::Token(answer) => Some(&answer.id),
            Answer::Text(answer) => Some(&answer.id),
            Answer::Cancelled(answer) => Some(&answer.id),
            Answer::Status(answer) => Some(&answer.id),
            Answer::Error(answer) => answer.id.as_ref(),
        }
    }

    /// Whether no other answer to the same request follows.
    pub fn is_last(&self) -> bool {
        !matches!(self, Answer::Token(_))
    }
}

/// A typed decision.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(bound(
    serialize = "",
    deserialize = "F::Text: Deserialize<'de>, F::List<Probability<F>>: Deserialize<'de>"
))]
pub struct Decision<F: Storage> {
    /// The request.
    pub id: F::Text,
    /// The best label; `None` if the task abstained.
    pub label: Option<F::Text>,
    /// Probability of the best label, also of one abstained from.
    pub probability: f32,
    /// Whether the best label was under the task's threshold.
    pub abstained: bool,
    /// One a label, in the order of the labels, adding up to 1.
    pub probabilities: F::List<Probability<F>>,
    /// The answer as a value; `None` for a `choice` and if the task abstained from a yes or no.
    pub value: Option<Value>,
    /// Work and time.
    pub usage: Usage,
    /// Energy.
    pub energy: Energy<F>,
    /// Name of the model.
    pub model: F::Text,
    /// Name of the task; `None` if it has none.
    pub task: Option<F::Text>,
}

/// A label and its probability.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(bound(serialize = "", deserialize = "F::Text: Deserialize<'de>"))]
pub struct Probability<F: Storage> {
    /// The label.
    pub label: F::Text,
    /// Its probability.
    pub p: f32,
}

/// A decision as a value: in JSON `true`, `false` or a number.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub enum Value {
    /// Yes or no.
    Bool(bool),
    /// The expected value of a score.
    Number(f32),
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match (serializer.is_human_readable(), self) {
            (false, _) => Value::serialize(self, serializer),
            (true, Value::Bool(value)) => value.serialize(serializer),
            (true, Value::Number(value)) => value.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            deserializer.deserialize_any(ValueVisitor)
        } else {
            Value::deserialize(deserializer)
        }
    }
}

struct ValueVisitor;

impl Visitor<'_> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("true, false or a number")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Number(value as f32))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value as f32))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value as f32))
    }
}

/// More text of a streamed answer.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(bound(deserialize = "F::Text: Deserialize<'de>, F::Detail<Chosen<F>>: Deserialize<'de>"))]
pub struct Token<F: Storage> {
    /// The request.
    pub id: F::Text,
    /// The text since the last one: whole characters.
    pub text: F::Text,
    /// The tokens since the last one, if they were asked for. The text of a token may come with a later answer, where
    /// it ends within a character or may be part of a stop string.
    pub logprobs: Option<F::Detail<Chosen<F>>>,
    /// Joules of the decoding steps since the last one; `None` where they are not known. The first token comes with the
    /// end of the prompt and has none of its own.
    pub joules: Option<f64>,
}

serialize_present!(Token { id, text; logprobs, joules });

/// A token that was chosen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(bound(
    serialize = "",
    deserialize = "F::Text: Deserialize<'de>, F::Detail<Alternative<F>>: Deserialize<'de>"
))]
pub struct Chosen<F: Storage> {
    /// Its text; bytes of it that are no UTF-8 by themselves are U+FFFD.
    pub token: F::Text,
    /// Natural logarithm of its probability among all tokens, before temperature, penalties, filters and a schema.
    pub logprob: f32,
    /// The most probable tokens in the same sense, best first; the chosen one may be one of them.
    pub top: F::Detail<Alternative<F>>,
}

/// A token that could have been chosen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(bound(serialize = "", deserialize = "F::Text: Deserialize<'de>"))]
pub struct Alternative<F: Storage> {
    /// Its text; bytes of it that are no UTF-8 by themselves are U+FFFD.
    pub token: F::Text,
    /// Natural logarithm of its probability.
    pub logprob: f32,
}

/// The end of a text answer.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(bound(deserialize = "F::Text: Deserialize<'de>, F::Detail<Chosen<F>>: Deserialize<'de>"))]
pub struct Text<F: Storage> {
    /// The request.
    pub id: F::Text,
    /// The whole text, also if it was streamed.
    pub text: F::Text,
    /// Why it ends here.
    pub finish: Finish,
    /// Work and time.
    pub usage: Usage,
    /// Energy.
    pub energy: Energy<F>,
    /// Name of the model.
    pub model: F::Text,
    /// Name of the task; `None` if it was no task or one without a name.
    pub task: Option<F::Text>,
    /// The tokens of the text, if they were asked for and were not streamed.
    pub logprobs: Option<F::Detail<Chosen<F>>>,
    /// The joules of its streamed tokens are shares of what the meter cannot tell apart: trust them only in a sum.
    #[serde(default)]
    pub tokens_below_resolution: bool,
}

serialize_present!(Text { id, text, finish, usage, energy, model, task; logprobs, tokens_below_resolution });

/// Why a text ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Finish {
    /// The model ended it, or it is complete by its schema.
    StopToken,
    /// A stop string came up.
    StopString,
    /// `max_tokens` were generated.
    MaxTokens,
    /// The context is full.
    ContextFull,
    /// The tokens that a long text may cost are spent; this is how far its parts came.
    Budget,
    /// The joules that the request may cost are spent.
    Energy,
}

/// A request was cancelled as asked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(bound(serialize = "", deserialize = "F::Text: Deserialize<'de>"))]
pub struct Cancelled<F: Storage> {
    /// The request that asked for it.
    pub id: F::Text,
    /// The request that was cancelled; it is answered with an error of code 499.
    pub cancel: F::Text,
}

/// How the daemon is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(bound(
    serialize = "",
    deserialize = "F::Text: Deserialize<'de>, F::List<F::Text>: Deserialize<'de>"
))]
pub struct Status<F: Storage> {
    /// The request.
    pub id: F::Text,
    /// Whether it takes requests.
    pub state: State,
    /// Name of the model.
    pub model: F::Text,
    /// Name of the kernel set.
    pub kernels: F::Text,
    /// Worker threads.
    pub threads: u32,
    /// Version of the daemon.
    pub version: F::Text,
    /// Requests that wait.
    pub queue: u32,
    /// Requests that the engine works on.
    pub live: u32,
    /// Requests so far.
    pub requests: Requests,
    /// Tokens so far.
    pub tokens: Tokens,
    /// Seconds since the daemon started.
    pub uptime_s: f64,
    /// Names of the tasks.
    pub tasks: F::List<F::Text>,
    /// Where the energy went; `None` without a meter.
    pub energy: Option<EnergyTotals<F>>,
    /// What holds the engine back, and how warm it is.
    pub pacing: Option<Pacing>,
}

/// Whether the daemon takes requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It does.
    Ready,
    /// It is shutting down.
    Stopping,
}

/// Requests so far, each counted once when it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Requests {
    /// Answered with a decision or text.
    pub answered: u64,
    /// Refused: they made no sense, were too large, or the queue was full.
    pub refused: u64,
    /// Given up at their deadline, or when their joules were spent.
    pub expired: u64,
    /// Cancelled, or their client went away.
    pub cancelled: u64,
}

/// Tokens so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Tokens {
    /// Tokens of prompts.
    pub prompt: u64,
    /// Tokens generated.
    pub generated: u64,
    /// Tokens of prompts that were kept and not computed again. Not in frames.
    #[serde(default, with = "crate::named")]
    pub cached: Option<u64>,
    /// Tokens tried ahead; `None` from an older daemon. Not in frames.
    #[serde(default, with = "crate::named")]
    pub drafted: Option<u64>,
    /// Those of them that came to be part of answers. Not in frames.
    #[serde(default, with = "crate::named")]
    pub accepted: Option<u64>,
}

/// A request that was refused or failed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(bound(serialize = "", deserialize = "F::Text: Deserialize<'de>"))]
pub struct Failure<F: Storage> {
    /// The request; `None` if it had no usable id.
    pub id: Option<F::Text>,
    /// [`Reason::code`] of the reason.
    pub code: u16,
    /// Why, for programs.
    pub reason: Reason,
    /// Why, for people: what was found, what was expected and what to do.
    pub message: F::Text,
    /// When to come back, if that helps.
    pub retry_after_ms: Option<u32>,
}

/// Why a request was refused or failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// It makes no sense.
    BadRequest,
    /// There is no task of this name.
    UnknownTask,
    /// There is no live request of this id to cancel.
    UnknownRequest,
    /// Its deadline ran out.
    Deadline,
    /// Line, text or context over a limit.
    TooLarge,
    /// The queue is full.
    QueueFull,
    /// As many clients are connected as may be.
    TooManyClients,
    /// The client cancelled it.
    Cancelled,
    /// A fault of the daemon.
    Internal,
    /// The daemon is shutting down.
    Stopping,
    /// This user may not connect.
    Forbidden,
    /// Its joules do not suffice, or nothing here can count them.
    Energy,
}

impl Reason {
    /// The code, after those of HTTP.
    pub const fn code(self) -> u16 {
        match self {
            Reason::BadRequest => 400,
            Reason::Energy => 402,
            Reason::Forbidden => 403,
            Reason::UnknownTask | Reason::UnknownRequest => 404,
            Reason::Deadline => 408,
            Reason::TooLarge => 413,
            Reason::QueueFull | Reason::TooManyClients => 429,
            Reason::Cancelled => 499,
            Reason::Internal => 500,
            Reason::Stopping => 503,
        }
    }
}
