//! Defects of published files that are mended at load, each said once in the log.

use core::fmt;

/// A defect and what was done about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Repair {
    /// `tokenizer.ggml.pre` is missing from a file of the Llama 3 vocabulary.
    MissingPretokenizer,
    /// The chat template is a converter's placeholder that the model was never trained on.
    PlaceholderTemplate,
    /// The vocabulary ends turns with a token that the file does not declare.
    UndeclaredEndOfTurn,
}

impl fmt::Display for Repair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::MissingPretokenizer => {
                "tokenizer.ggml.pre is missing, which would split words wrongly; llama-bpe is used"
            }
            Self::PlaceholderTemplate => {
                "tokenizer.chat_template is a converter's placeholder (BITNETAssistant) that makes the model loop; the \
                 trained form 'User: ...<|eot_id|>Assistant: ' is used"
            }
            Self::UndeclaredEndOfTurn => {
                "the file does not declare <|eot_id|> as an end of text, so answers would run on; generation stops at it"
            }
        })
    }
}

/// The repairs made to one file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Repairs {
    bits: u8,
}

impl Repairs {
    pub(super) fn add(&mut self, repair: Repair) {
        self.bits |= 1 << repair as u8;
    }

    /// Whether a repair was made.
    #[must_use]
    pub fn contains(&self, repair: Repair) -> bool {
        self.bits & 1 << repair as u8 != 0
    }

    /// Whether none was made.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bits == 0
    }

    /// The repairs that were made.
    pub fn iter(&self) -> impl Iterator<Item = Repair> + use<> {
        let this = *self;
        [Repair::MissingPretokenizer, Repair::PlaceholderTemplate, Repair::UndeclaredEndOfTurn]
            .into_iter()
            .filter(move |&repair| this.contains(repair))
    }
}
