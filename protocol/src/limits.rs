//! Sizes that both sides agree on. A daemon may be configured to take less, never more.

/// Bytes of a request's id, at least 1.
pub const ID_BYTES: usize = 128;

/// Bytes of one line of JSON without its line end.
pub const LINE_BYTES: usize = 1 << 20;

/// Steps between the least and the greatest value of a score.
pub const SCORE_STEPS: i32 = 20;

/// Messages of a conversation.
pub const MESSAGES: usize = 256;

/// The most alternatives whose log probabilities can be asked for beside each token.
pub const LOGPROBS: u32 = 20;
