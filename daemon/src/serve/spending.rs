//! `max_joules`: how much of the meter's energy a request may cost.
//!
//! The account that the ledger keeps for a request is looked at between steps of the engine, so a request overshoots by
//! one step at most. A text ends with what it has; what has no answer yet is refused with what it cost. A prompt that by
//! what prompts cost lately cannot be read for its joules is refused before its first step.

use std::collections::VecDeque;

use crate::config::energy::Unmetered;

/// Prompts that are remembered.
const REMEMBERED: usize = 8;
/// Fewer say nothing yet.
const ENOUGH: usize = 3;

/// What `max_joules` comes to on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Budgets {
    /// There is a meter, and they are kept.
    Kept,
    /// There is none, and requests that name joules are refused.
    Refused,
    /// There is none, and the operator says to answer all the same.
    Ignored,
}

impl Budgets {
    /// With a meter or without one, as the operator says.
    pub fn of(metered: bool, unmetered: Unmetered) -> Self {
        match (metered, unmetered) {
            (true, _) => Budgets::Kept,
            (false, Unmetered::Refuse) => Budgets::Refused,
            (false, Unmetered::Ignore) => Budgets::Ignored,
        }
    }

    /// The joules that count of those that a request, its task or the configuration names.
    ///
    /// # Errors
    /// What to tell the client if they cannot be kept.
    pub fn take(self, max_joules: Option<f64>) -> Result<Option<f64>, &'static str> {
        match self {
            Budgets::Kept => Ok(max_joules),
            Budgets::Refused if max_joules.is_some() => Err(
                "max_joules cannot be kept: this machine has no power meter that Tern can read (tern doctor says why); \
                 leave it out, or set energy.unmetered to \"ignore\" here",
            ),
            _ => Ok(None),
        }
    }
}

/// A number of joules that makes no sense as a limit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BadJoules(pub f64);

impl std::fmt::Display for BadJoules {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "max_joules is {}; it must be a number above 0", self.0)
    }
}

impl std::error::Error for BadJoules {}

/// Checks joules that somebody names.
///
/// # Errors
/// If they are no number above 0.
pub fn check(max_joules: Option<f64>) -> Result<(), BadJoules> {
    match max_joules {
        Some(found) if !(found > 0.0 && found.is_finite()) => Err(BadJoules(found)),
        _ => Ok(()),
    }
}

/// What reading prompts cost lately.
#[derive(Debug, Default)]
pub struct PromptCost {
    /// Joules, or whatever is noted, by prompt token.
    recent: VecDeque<f64>,
}

impl PromptCost {
    /// Notes what a prompt of so many tokens cost.
    pub fn note(&mut self, cost: f64, tokens: usize) {
        if tokens == 0 {
            return;
        }
        if self.recent.len() == REMEMBERED {
            self.recent.pop_front();
        }
        self.recent.push_back(cost / tokens as f64);
    }

    /// What a prompt of so many tokens costs at the least: as much as the cheapest of those remembered would have. `None`
    /// before there are enough of them.
    pub fn least(&self, tokens: usize) -> Option<f64> {
        let cheapest = self.recent.iter().copied().reduce(f64::min)?;
        (self.recent.len() >= ENOUGH).then_some(cheapest * tokens as f64)
    }
}

/// What a client is told whose prompt would cost more than it may.
pub fn told_early(tokens: usize, least_joules: f64, max_joules: f64) -> String {
    format!(
        "the prompt of {tokens} tokens takes at least {least_joules:.3} J, as the meter counts here, and max_joules is \
         {max_joules}; shorten it or allow more"
    )
}

/// What a client is told whose joules were spent before there was an answer.
pub fn told_late(spent_uj: Option<u64>, max_joules: f64) -> String {
    match spent_uj {
        Some(spent_uj) => format!(
            "{:.3} J were spent before there was an answer, and max_joules is {max_joules}; shorten the request or \
             allow more",
            spent_uj as f64 * 1e-6
        ),
        None => format!(
            "the power meter could not be read, so that max_joules, {max_joules}, cannot be kept; try again, or leave it \
             out"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn joules_are_kept_by_a_meter_and_else_refused_or_ignored() {
        assert_eq!(Budgets::of(true, Unmetered::Refuse).take(Some(2.0)), Ok(Some(2.0)));
        let refused = Budgets::of(false, Unmetered::Refuse);
        assert!(refused.take(Some(2.0)).expect_err("no meter").contains("energy.unmetered"));
        assert_eq!(refused.take(None), Ok(None));
        assert_eq!(Budgets::of(false, Unmetered::Ignore).take(Some(2.0)), Ok(None));
        for bad in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert!(check(Some(bad)).is_err(), "{bad}");
        }
        assert_eq!(check(Some(1e-6)), Ok(()));
    }

    #[test]
    fn only_what_even_the_cheapest_prompt_would_cost_is_held_against_a_request() {
        let mut cost = PromptCost::default();
        cost.note(1.0, 100);
        cost.note(2.0, 100);
        cost.note(9.0, 0);
        assert_eq!(cost.least(50), None, "two are not enough");
        cost.note(4.0, 100);
        assert_eq!(cost.least(50), Some(0.5));
        for _ in 0..REMEMBERED {
            cost.note(3.0, 100);
        }
        assert_eq!(cost.least(50), Some(1.5), "the old ones are forgotten");
    }
}
