//! Work and time of one request.

use serde::{Deserialize, Serialize};

/// What a request took.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Tokens generated; 0 for a decision.
    pub generated_tokens: u32,
    /// Nodes of the label tree that the model was run on.
    pub label_rows: u32,
    /// Time in the queue.
    pub queue_ms: f64,
    /// From the engine taking the request to its decision or its first token.
    pub prefill_ms: f64,
    /// From then to the end.
    pub decode_ms: f64,
    /// Prompt tokens (and label nodes) by `prefill_ms`.
    pub prompt_tokens_per_second: Option<f64>,
    /// Steps of decoding by `decode_ms`; `None` if there were none.
    pub generated_tokens_per_second: Option<f64>,
    /// Time of `prefill_ms` and `decode_ms` in which the daemon held still to keep its power budget or to stay cool;
    /// `None` if it did not. Not in frames.
    #[serde(default, with = "crate::named")]
    pub paced_ms: Option<f64>,
    /// Tokens of the prompt that were not computed for this request, since the daemon still had what it keeps of the same
    /// beginning; `prompt_tokens` counts them, `prompt_tokens_per_second` does not. Not in frames.
    #[serde(default, with = "crate::named")]
    pub cached_tokens: Option<u32>,
    /// Tokens that were tried ahead because they stood in the text before; `None` if none were. Not in frames.
    #[serde(default, with = "crate::named")]
    pub drafted_tokens: Option<u32>,
    /// Those of them that came to be part of the answer. Not in frames.
    #[serde(default, with = "crate::named")]
    pub accepted_tokens: Option<u32>,
}
