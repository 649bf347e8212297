//! How many tokens a long text may take at most.

/// What is known of the steps.
#[derive(Clone, Copy, Debug)]
pub struct Steps {
    /// Tokens of the longest answer to a part.
    pub answer: usize,
    /// Tokens of a prompt beside the answers it puts together.
    pub form: usize,
    /// Tokens of answers that go into one prompt; room for two answers at least.
    pub room: usize,
}

impl Steps {
    /// The most that parts with prompts of these lengths take, and all that comes after them: as if every answer were as
    /// long as it may be. The number of `rounds` after the first is bounded since each halves the number of parts.
    pub fn estimate(&self, prompts: impl ExactSizeIterator<Item = usize>) -> u64 {
        // An answer comes with a line end.
        let (answer, line) = (self.answer as u64, self.answer as u64 + 1);
        let in_one = (self.room as u64 / line).max(2);
        let mut parts = prompts.len() as u64;
        let mut tokens = prompts.map(|prompt| prompt as u64 + answer).sum::<u64>();
        while parts > 1 {
            let next = parts.div_ceil(in_one);
            tokens += parts * line + next * (self.form as u64 + answer);
            parts = next;
        }
        tokens
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_round_is_counted() {
        let steps = Steps { answer: 9, form: 5, room: 40 };
        assert_eq!(steps.estimate([30].into_iter()), 39);
        // Two parts, then both answers in one prompt.
        assert_eq!(steps.estimate([30, 20].into_iter()), 39 + 29 + 20 + 5 + 9);
        // Nine parts, three prompts of four answers at most, one of three.
        assert_eq!(steps.estimate([30; 9].into_iter()), 9 * 39 + 90 + 3 * 14 + 30 + 14);
    }
}
