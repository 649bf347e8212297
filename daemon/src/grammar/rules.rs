//! Where each request with a schema has come to in it.

use std::collections::HashMap;
use std::fmt;

use llguidance::Matcher;
use llguidance::toktrie::SimpleVob;
use tern_runtime::constraint::{Constraint, Progress};

use super::book::one_line;

/// A grammar, and how far a text has come in it.
pub struct Grammar {
    matcher: Matcher,
    /// The tokens that may follow, once it was asked for them.
    mask: Option<SimpleVob>,
}

impl fmt::Debug for Grammar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grammar").finish_non_exhaustive()
    }
}

impl Grammar {
    /// A grammar at its beginning.
    pub(super) fn new(matcher: Matcher) -> Self {
        Grammar { matcher, mask: None }
    }

    /// Whether `token` may come next.
    pub fn allows(&mut self, token: u32) -> bool {
        match &self.mask {
            Some(mask) => mask.is_allowed(token),
            None => self.matcher.validate_tokens(&[token]).is_ok_and(|allowed| allowed == 1),
        }
    }

    /// A bit a token: those that may come next; none if the grammar has become too complex.
    pub fn allowed(&mut self) -> &[u32] {
        if self.mask.is_none() {
            self.mask = self.matcher.compute_mask().ok();
        }
        self.mask.as_ref().map_or(&[], |mask| mask.as_slice())
    }

    /// Whether the text is JSON that satisfies the schema.
    pub fn may_end(&mut self) -> bool {
        self.matcher.is_accepting().unwrap_or(false)
    }

    /// `token` comes next.
    pub fn take(&mut self, token: u32) -> Progress {
        self.mask = None;
        match self.matcher.consume_token(token) {
            Ok(()) if self.matcher.is_stopped() => Progress::Complete,
            // What went wrong shows when nothing is allowed any more.
            _ => Progress::Open,
        }
    }

    /// Why nothing is allowed.
    pub fn failure(&self) -> String {
        let error = self.matcher.get_error().map(|error| one_line(&error));
        error.unwrap_or_else(|| "no token of the model continues the JSON".into())
    }
}

/// The grammars of live requests, by their keys.
#[derive(Debug, Default)]
pub struct Rules {
    grammars: HashMap<u64, Grammar>,
}

impl Rules {
    /// A request that is to keep to `grammar`.
    pub fn add(&mut self, key: u64, grammar: Grammar) {
        self.grammars.insert(key, grammar);
    }

    /// Forgets a request and gives its grammar back, if it had one.
    pub fn remove(&mut self, key: u64) -> Option<Grammar> {
        self.grammars.remove(&key)
    }
}

impl Constraint for Rules {
    fn constrains(&self, key: u64) -> bool {
        self.grammars.contains_key(&key)
    }

    fn allows(&mut self, key: u64, token: u32) -> bool {
        self.grammars.get_mut(&key).is_none_or(|grammar| grammar.allows(token))
    }

    fn allowed(&mut self, key: u64) -> &[u32] {
        self.grammars.get_mut(&key).map_or(&[], Grammar::allowed)
    }

    fn may_end(&mut self, key: u64) -> bool {
        self.grammars.get_mut(&key).is_none_or(Grammar::may_end)
    }

    fn take(&mut self, key: u64, token: u32) -> Progress {
        self.grammars.get_mut(&key).map_or(Progress::Open, |grammar| grammar.take(token))
    }
}
