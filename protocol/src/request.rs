//! What a client sends.

use core::fmt;

use serde::{Deserialize, Serialize};

use crate::json::Json;
use crate::present::serialize_present;
use crate::storage::Storage;

/// One request. Exactly one of `task`, `ask`, `generate`, `chat`, `cancel` and `status` says what to do; see
/// [`Request::work`].
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(
    deny_unknown_fields,
    expecting = "a request: an object with an id",
    bound(deserialize = "F::Text: Deserialize<'de>, F::List<F::Text>: Deserialize<'de>, \
                         F::List<Example<F>>: Deserialize<'de>, F::List<Message<F>>: Deserialize<'de>")
)]
pub struct Request<F: Storage> {
    /// Chosen by the client, unique among its live requests, 1 to [`ID_BYTES`](crate::limits::ID_BYTES) bytes.
    pub id: F::Text,
    /// Name of a task file that the daemon has.
    pub task: Option<F::Text>,
    /// A task given here.
    pub ask: Option<Ask<F>>,
    /// A prompt to go on from, without any template.
    pub generate: Option<Generate<F>>,
    /// A conversation to go on from.
    pub chat: Option<Chat<F>>,
    /// Id of a live request of this connection that is no longer wanted.
    pub cancel: Option<F::Text>,
    /// Ask how the daemon is.
    #[serde(default)]
    pub status: bool,
    /// The input of `task` and `ask`.
    pub text: Option<F::Text>,
    /// Send text as it appears.
    #[serde(default)]
    pub stream: bool,
    /// Give up after this long, time in the queue included.
    pub deadline_ms: Option<u32>,
    /// Spend no more than this, by the daemon's meter; refused where there is none.
    pub max_joules: Option<f64>,
    /// How it goes beside others that wait; the task's own without it.
    pub priority: Option<Priority>,
}

serialize_present!(Request {
    id;
    task, ask, generate, chat, cancel, status, text, stream, deadline_ms, max_joules, priority
});

/// How a request goes beside others that wait. One that has waited long goes like one of a higher priority.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Priority {
    /// When nothing else is to be done, and not while power or heat are short.
    Low,
    /// In turn.
    #[default]
    Normal,
    /// Before others.
    High,
}

/// What a request asks for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Work<'r, F: Storage> {
    /// Run the task of this name on the text.
    Task(&'r F::Text),
    /// Run this task on the text.
    Ask(&'r Ask<F>),
    /// Go on from a prompt.
    Generate(&'r Generate<F>),
    /// Go on from a conversation.
    Chat(&'r Chat<F>),
    /// Cancel the request with this id.
    Cancel(&'r F::Text),
    /// Answer with a status.
    Status,
}

/// A request that asks for nothing, or for several things at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotOneWork {
    /// How many of the six fields are there.
    pub found: usize,
}

impl fmt::Display for NotOneWork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let found = self.found;
        write!(f, "{found} of task, ask, generate, chat, cancel and status are given; give exactly one")
    }
}

impl core::error::Error for NotOneWork {}

impl<F: Storage> Request<F> {
    /// A request that asks for nothing yet: set one field.
    pub fn new(id: F::Text) -> Self {
        Request {
            id,
            task: None,
            ask: None,
            generate: None,
            chat: None,
            cancel: None,
            status: false,
            text: None,
            stream: false,
            deadline_ms: None,
            max_joules: None,
            priority: None,
        }
    }

    /// Runs the task called `name` on `text`.
    pub fn task(id: impl Into<F::Text>, name: impl Into<F::Text>, text: impl Into<F::Text>) -> Self {
        Request { task: Some(name.into()), text: Some(text.into()), ..Request::new(id.into()) }
    }

    /// What is asked for.
    ///
    /// # Errors
    /// If it is not exactly one thing.
    pub fn work(&self) -> Result<Work<'_, F>, NotOneWork> {
        let all = [
            self.task.as_ref().map(Work::Task),
            self.ask.as_ref().map(Work::Ask),
            self.generate.as_ref().map(Work::Generate),
            self.chat.as_ref().map(Work::Chat),
            self.cancel.as_ref().map(Work::Cancel),
            self.status.then_some(Work::Status),
        ];
        let found = all.iter().flatten().count();
        all.into_iter().flatten().next().filter(|_| found == 1).ok_or(NotOneWork { found })
    }
}

/// A task: what to ask of a text. Task files have the same fields.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(
    deny_unknown_fields,
    expecting = "a task",
    bound(deserialize = "F::Text: Deserialize<'de>, F::List<F::Text>: Deserialize<'de>, \
                         F::List<Example<F>>: Deserialize<'de>")
)]
pub struct Ask<F: Storage> {
    /// The kind of answer.
    pub kind: Kind,
    /// Name of the task; of a task file, its file name without the ending if it is not given.
    pub name: Option<F::Text>,
    /// What to do, in the words the model was trained with or would understand; `{labels}` is replaced.
    pub instructions: Option<F::Text>,
    /// How instructions and text become one message; `{instructions}` and `{text}` are replaced.
    pub template: Option<F::Text>,
    /// The labels of a `choice`.
    pub labels: Option<F::List<F::Text>>,
    /// Abstain if the best label is less probable.
    pub threshold: Option<f32>,
    /// The least value of a `score`.
    pub min: Option<i32>,
    /// The greatest value of a `score`.
    pub max: Option<i32>,
    /// Solved examples, shown to the model before the text.
    pub example: Option<F::List<Example<F>>>,
    /// Limits.
    pub limits: Option<Limits>,
    /// How text is sampled.
    pub sampling: Option<Sampling<F>>,
    /// The JSON schema of what an `extract` gives.
    pub schema: Option<Json<F>>,
    /// What a `text` task does with a text that is longer than the context; without it such a text is refused.
    pub long: Option<Long>,
    /// What to do with the answers to the parts of a long text; `instructions` where it is not given.
    pub reduce_instructions: Option<F::Text>,
}

serialize_present!(Ask {
    kind;
    name, instructions, template, labels, threshold, min, max, example, limits, sampling, schema, long,
    reduce_instructions
});

impl<F: Storage> Ask<F> {
    /// A task of this kind that says nothing else yet.
    pub fn new(kind: Kind) -> Self {
        Ask {
            kind,
            name: None,
            instructions: None,
            template: None,
            labels: None,
            threshold: None,
            min: None,
            max: None,
            example: None,
            limits: None,
            sampling: None,
            schema: None,
            long: None,
            reduce_instructions: None,
        }
    }
}

/// What to do with a text that is longer than the context.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Long {
    /// Answer each part, then the answers, until one is left.
    MapReduce,
}

/// The kind of answer a task gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// One of the labels.
    Choice,
    /// Yes or no.
    YesNo,
    /// A whole number from `min` to `max`, and the expected value.
    Score,
    /// Text.
    Text,
    /// JSON that is valid against `schema`.
    Extract,
}

/// A solved example.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, bound(serialize = "", deserialize = "F::Text: Deserialize<'de>"))]
pub struct Example<F: Storage> {
    /// An input.
    pub text: F::Text,
    /// The right answer.
    pub answer: F::Text,
}

/// Limits of a task.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Bytes of the longest text.
    pub text_bytes: Option<u32>,
    /// Tokens of the longest answer.
    pub max_tokens: Option<u32>,
    /// Deadline of a request that gives none.
    pub deadline_ms: Option<u32>,
    /// Tokens that one long text may cost: prompts and answers of all its parts together.
    pub long_tokens: Option<u32>,
    /// Joules of a request that says nothing of its own. Not in frames, where a request says it.
    #[serde(default, with = "crate::named")]
    pub max_joules: Option<f64>,
    /// Priority of a request that says nothing of its own. Not in frames, where a request says it.
    #[serde(default, with = "crate::named")]
    pub priority: Option<Priority>,
}

/// How tokens are chosen; what is not given is greedy and plain.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(
    deny_unknown_fields,
    expecting = "sampling settings",
    bound(deserialize = "F::List<F::Text>: Deserialize<'de>")
)]
pub struct Sampling<F: Storage> {
    /// Divides logits; 0 chooses greedily.
    pub temperature: Option<f32>,
    /// Keep the so many most likely tokens; 0 keeps all.
    pub top_k: Option<u32>,
    /// Keep the fewest tokens whose probabilities reach this together.
    pub top_p: Option<f32>,
    /// Drop tokens less likely than this times the most likely.
    pub min_p: Option<f32>,
    /// Makes recent tokens less likely; 1 does nothing.
    pub repetition_penalty: Option<f32>,
    /// Start of the random sequence.
    pub seed: Option<u64>,
    /// Strings that end the text and are not part of it.
    pub stop: Option<F::List<F::Text>>,
}

serialize_present!(Sampling { ; temperature, top_k, top_p, min_p, repetition_penalty, seed, stop });

impl<F: Storage> Default for Sampling<F> {
    fn default() -> Self {
        Sampling {
            temperature: None,
            top_k: None,
            top_p: None,
            min_p: None,
            repetition_penalty: None,
            seed: None,
            stop: None,
        }
    }
}

/// A prompt to go on from.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(
    deny_unknown_fields,
    expecting = "a prompt",
    bound(deserialize = "F::Text: Deserialize<'de>, F::List<F::Text>: Deserialize<'de>")
)]
pub struct Generate<F: Storage> {
    /// The prompt, given to the model as it is.
    pub prompt: F::Text,
    /// Most tokens to generate; without it, what the context leaves.
    pub max_tokens: Option<u32>,
    /// How tokens are chosen.
    pub sampling: Option<Sampling<F>>,
    /// The JSON schema that the text is to be valid against.
    pub schema: Option<Json<F>>,
    /// Tell the log probability of every token, and of so many alternatives; at most
    /// [`LOGPROBS`](crate::limits::LOGPROBS).
    pub logprobs: Option<u32>,
}

serialize_present!(Generate { prompt; max_tokens, sampling, schema, logprobs });

impl<F: Storage> Generate<F> {
    /// This prompt with nothing said about how to go on.
    pub fn new(prompt: F::Text) -> Self {
        Generate { prompt, max_tokens: None, sampling: None, schema: None, logprobs: None }
    }
}

/// A conversation to go on from.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(
    deny_unknown_fields,
    expecting = "a conversation",
    bound(deserialize = "F::Text: Deserialize<'de>, F::List<F::Text>: Deserialize<'de>, \
                         F::List<Message<F>>: Deserialize<'de>")
)]
pub struct Chat<F: Storage> {
    /// What was said so far, the last message by the user.
    pub messages: F::List<Message<F>>,
    /// Most tokens to generate; without it, what the context leaves.
    pub max_tokens: Option<u32>,
    /// How tokens are chosen.
    pub sampling: Option<Sampling<F>>,
    /// The JSON schema that the text is to be valid against.
    pub schema: Option<Json<F>>,
    /// Tell the log probability of every token, and of so many alternatives; at most
    /// [`LOGPROBS`](crate::limits::LOGPROBS).
    pub logprobs: Option<u32>,
}

serialize_present!(Chat { messages; max_tokens, sampling, schema, logprobs });

impl<F: Storage> Chat<F> {
    /// This conversation with nothing said about how to go on.
    pub fn new(messages: F::List<Message<F>>) -> Self {
        Chat { messages, max_tokens: None, sampling: None, schema: None, logprobs: None }
    }
}

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, bound(serialize = "", deserialize = "F::Text: Deserialize<'de>"))]
pub struct Message<F: Storage> {
    /// Who said it.
    pub role: Role,
    /// What was said.
    pub content: F::Text,
}

/// Who says a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Standing instructions.
    System,
    /// The one who asks.
    User,
    /// The model.
    Assistant,
}
