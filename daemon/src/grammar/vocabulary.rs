//! The model's tokens as the grammar library takes them.

use std::fmt;
use std::sync::Arc;

use llguidance::api::ParserLimits;
use llguidance::toktrie::{InferenceCapabilities, TokEnv, TokRxInfo, TokTrie, TokenizerEnv};
use llguidance::{JsonCompileOptions, Matcher, ParserFactory, api::TopLevelGrammar};

/// Bytes of the longest token that can be part of JSON; longer ones are never allowed.
const MOST_TOKEN_BYTES: usize = 256;
/// Bytes of all tokens together that the library can hold.
const MOST_BYTES: usize = 4_000_000;

/// How far a grammar may grow. Fuel is the library's measure of work: 50,000 a millisecond when it is made, 14,000 when it
/// is followed; a state takes 1 to 2 kB.
fn limits() -> ParserLimits {
    ParserLimits {
        initial_lexer_fuel: 1_000_000,
        max_lexer_states: 20_000,
        max_grammar_size: 100_000,
        precompute_large_lexemes: false,
        verbose_errors: false,
        ..ParserLimits::default()
    }
}

struct Tokens {
    trie: TokTrie,
}

impl TokenizerEnv for Tokens {
    fn tok_trie(&self) -> &TokTrie {
        &self.trie
    }

    fn tokenize_bytes(&self, text: &[u8]) -> Vec<u32> {
        self.trie.greedy_tokenize(text)
    }

    /// The model is free in how it cuts what the grammar leaves no choice about.
    fn tokenize_is_canonical(&self) -> bool {
        false
    }
}

/// A vocabulary, ready to make grammars for it.
pub struct Vocabulary {
    factory: ParserFactory,
}

impl fmt::Debug for Vocabulary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vocabulary").finish_non_exhaustive()
    }
}

impl Vocabulary {
    /// The vocabulary whose tokens print as `words`, in the order of their ids; those that print as nothing are never
    /// allowed. `None` if the library cannot hold it.
    pub fn new(mut words: Vec<Vec<u8>>) -> Option<Self> {
        for word in words.iter_mut().filter(|word| word.len() > MOST_TOKEN_BYTES) {
            word.clear();
        }
        if words.is_empty() || words.iter().map(Vec::len).sum::<usize>() > MOST_BYTES {
            return None;
        }
        // The end is the engine's concern; the library wants some token for it, and gets one that prints as nothing.
        let end = words.len() as u32;
        words.push(Vec::new());
        let trie = TokTrie::from(&TokRxInfo::new(words.len() as u32, end), &words);
        let tokens: TokEnv = Arc::new(Tokens { trie });
        let mut factory = ParserFactory::new(&tokens, InferenceCapabilities::default(), &[]).ok()?;
        factory.quiet();
        *factory.limits_mut() = limits();
        Some(Vocabulary { factory })
    }

    /// Every byte a token of its own: enough to find out whether a schema can be kept at all.
    pub fn of_bytes() -> Option<Self> {
        Vocabulary::new((0..=255).map(|byte| vec![byte]).collect())
    }

    /// Compiles a checked schema into what follows it from its beginning.
    ///
    /// # Errors
    /// What the library says.
    pub fn compile(&self, schema: &str) -> Result<Matcher, String> {
        let mut schema: serde_json::Value =
            serde_json::from_str(schema).map_err(|error| error.to_string())?;
        JsonCompileOptions { whitespace_flexible: false, ..JsonCompileOptions::default() }
            .apply_to(&mut schema);
        let parser = self.factory.create_parser(TopLevelGrammar::from_json_schema(schema));
        let mut matcher = Matcher::new(parser);
        // A schema that nothing satisfies is found out here, not by the first request's first token.
        match matcher.compute_mask() {
            Ok(mask) if mask.is_zero() => Err("no JSON satisfies it".into()),
            Ok(_) => Ok(matcher),
            Err(error) => Err(error.to_string()),
        }
    }
}
