//! Answers to parts, kept for a text that has the same part again.
//!
//! A digest that is asked about while it grows is cut into parts of which all but the last are what they were the time
//! before. A prompt and the way in which it is answered decide an answer to the bit, whatever else the engine does, so an
//! answer that is kept is the one that would be written again.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::tasks::Answering;
use crate::tasks::prompt::Prompt;
use crate::wire::Text;

/// Bytes of prompts and answers that are kept, of all texts together: those of a few documents or of many digests.
const MOST_BYTES: usize = 1 << 20;

/// What was said of a part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// The answer, as long as the model made it.
    pub text: String,
    /// Tokens of the part's prompt.
    pub prompt_tokens: u32,
    /// Tokens of the answer.
    pub generated_tokens: u32,
}

impl Said {
    /// Of an answer that came to its end.
    pub fn of(answer: &Text) -> Said {
        let (text, usage) = (answer.text.clone(), &answer.usage);
        Said { text, prompt_tokens: usage.prompt_tokens, generated_tokens: usage.generated_tokens }
    }
}

/// An answer and all that it depends on.
#[derive(Debug)]
struct Kept {
    prompt: Prompt,
    answering: Answering,
    said: Said,
}

impl Kept {
    fn bytes(&self) -> usize {
        self.prompt.bytes() + self.said.text.len() + size_of::<Kept>()
    }
}

/// The answers that are kept, the one that was not asked for the longest first.
#[derive(Debug, Default)]
pub struct KeptAnswers {
    kept: Mutex<VecDeque<Kept>>,
}

impl KeptAnswers {
    fn open(&self) -> MutexGuard<'_, VecDeque<Kept>> {
        // Nothing that could panic happens under the lock.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was said to this prompt when it was answered in this way, if it is kept.
    pub fn find(&self, prompt: &Prompt, answering: &Answering) -> Option<Said> {
        let mut all = self.open();
        let at = all.iter().position(|kept| kept.prompt == *prompt && kept.answering == *answering)?;
        let kept = all.remove(at)?;
        let said = kept.said.clone();
        all.push_back(kept);
        Some(said)
    }

    /// Keeps what was said, and forgets as much as it takes for that. One that would take all the room is not kept.
    pub fn keep(&self, prompt: &Prompt, answering: &Answering, said: Said) {
        let new = Kept { prompt: prompt.clone(), answering: answering.clone(), said };
        if new.bytes() > MOST_BYTES / 4 {
            return;
        }
        let mut all = self.open();
        all.retain(|kept| kept.prompt != *prompt || kept.answering != *answering);
        let mut bytes = new.bytes() + all.iter().map(Kept::bytes).sum::<usize>();
        while bytes > MOST_BYTES
            && let Some(oldest) = all.pop_front()
        {
            bytes -= oldest.bytes();
        }
        all.push_back(new);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tasks::Task;
    use crate::tasks::prompt::PromptForm;

    fn task(more: &str) -> Task {
        let ask = toml::from_str(&format!("kind = 'text'\ninstructions = 'Shorten.'\n{more}"));
        Task::new(ask.expect("sound TOML")).expect("it makes sense")
    }

    fn said(text: &str) -> Said {
        Said { text: text.to_owned(), prompt_tokens: 7, generated_tokens: 2 }
    }

    #[test]
    fn what_is_found_has_the_same_prompt_and_is_answered_in_the_same_way() {
        let (kept, plain) = (KeptAnswers::default(), task(""));
        let prompt = |text: &str| PromptForm::bare().task(&plain, text);
        kept.keep(&prompt("one"), &plain.answering, said("1"));
        assert_eq!(kept.find(&prompt("one"), &plain.answering), Some(said("1")));
        assert_eq!(kept.find(&prompt("two"), &plain.answering), None);
        for other in ["sampling.temperature = 0.5", "[limits]\nmax_tokens = 3"] {
            assert_eq!(kept.find(&prompt("one"), &task(other).answering), None, "{other}");
        }
        kept.keep(&prompt("one"), &plain.answering, said("anew"));
        assert_eq!(kept.find(&prompt("one"), &plain.answering), Some(said("anew")));
        assert_eq!(kept.open().len(), 1);
    }

    #[test]
    fn what_was_not_asked_for_the_longest_is_forgotten_first() {
        let (kept, plain) = (KeptAnswers::default(), task(""));
        let prompt =
            |number: usize| PromptForm::bare().task(&plain, &format!("{number} {}", "x".repeat(100_000)));
        for number in 0..9 {
            kept.keep(&prompt(number), &plain.answering, said("s"));
        }
        assert!(kept.find(&prompt(0), &plain.answering).is_some());
        for number in 9..12 {
            kept.keep(&prompt(number), &plain.answering, said("s"));
        }
        let found: Vec<_> =
            (0..12).filter(|number| kept.find(&prompt(*number), &plain.answering).is_some()).collect();
        assert_eq!(found, [0, 3, 4, 5, 6, 7, 8, 9, 10, 11]);
        kept.keep(&prompt(0), &plain.answering, said(&"s".repeat(MOST_BYTES)));
        let all = kept.open();
        assert!(all.iter().map(Kept::bytes).sum::<usize>() <= MOST_BYTES && all.len() == 10);
    }
}
