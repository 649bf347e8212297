//! What answers cost, summed up and in words.

use serde::Serialize;
use tern_protocol::answer::{Idle, Method, Scope, Usage};

use crate::figures;
use crate::wire::Energy;

/// Tokens and joules of any number of answers.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Cost {
    /// Answers.
    pub answers: usize,
    /// Tokens of prompts.
    pub prompt_tokens: u64,
    /// Tokens generated.
    pub generated_tokens: u64,
    /// Tokens tried ahead.
    pub drafted_tokens: u64,
    /// Those of them that came to be part of answers.
    pub accepted_tokens: u64,
    /// Sum over the answers whose joules are known; `None` if none are.
    pub joules: Option<f64>,
    /// Answers whose joules are not known.
    pub unmetered_answers: usize,
    /// How the joules were obtained.
    pub method: Option<Method>,
    /// Chip, counter zone or table row behind them.
    pub source: Option<String>,
    /// What they cover.
    pub scope: Option<Scope>,
    /// Whether idle power is in them.
    pub idle: Option<Idle>,
    /// The greatest half-width of a 95 % interval, as a fraction.
    pub relative_uncertainty: Option<f64>,
    /// Whether each window was too short for the meter, so that only the sum means something.
    pub below_resolution: bool,
}

impl Cost {
    /// Adds an answer.
    pub fn add(&mut self, usage: &Usage, energy: &Energy) {
        self.answers += 1;
        self.prompt_tokens += u64::from(usage.prompt_tokens);
        self.generated_tokens += u64::from(usage.generated_tokens);
        self.drafted_tokens += u64::from(usage.drafted_tokens.unwrap_or(0));
        self.accepted_tokens += u64::from(usage.accepted_tokens.unwrap_or(0));
        let Some(joules) = energy.joules else {
            self.unmetered_answers += 1;
            return;
        };
        *self.joules.get_or_insert(0.0) += joules;
        self.method = Some(energy.method);
        self.source.clone_from(&energy.source);
        self.scope = energy.scope;
        self.idle = Some(energy.idle);
        self.below_resolution |= energy.below_resolution;
        if let Some(found) = energy.relative_uncertainty {
            self.relative_uncertainty = Some(self.relative_uncertainty.map_or(found, |most| most.max(found)));
        }
    }

    /// Joules by token that went through the model, prompt and answer; `None` where no joule is known.
    pub fn joules_per_token(&self) -> Option<f64> {
        let tokens = self.prompt_tokens + self.generated_tokens;
        // With answers missing from the sum, the division would flatter.
        self.joules.filter(|_| tokens > 0 && self.unmetered_answers == 0).map(|joules| joules / tokens as f64)
    }

    /// What the energy figure is, in a sentence without its end.
    pub fn energy_in_words(&self) -> String {
        let Some(joules) = self.joules else {
            return "unknown: no power meter can be read here (`tern doctor` says why)".to_owned();
        };
        let mut words = figures::joules(joules);
        if let Some(each) = self.joules_per_token() {
            words.push_str(&format!(" ({} a token)", figures::joules(each)));
        }
        if let Some(scope) = self.scope {
            words.push_str(&format!(" by the {}", scope_in_words(scope)));
        }
        match (self.method, &self.source) {
            (Some(method), Some(source)) => {
                words.push_str(&format!(", {} {source}", method_in_words(method)));
            }
            (Some(method), None) => words.push_str(&format!(", {}", method_in_words(method))),
            (None, _) => {}
        }
        words.push_str(match self.idle {
            Some(Idle::Included) => ", idle power included",
            Some(Idle::Subtracted) => ", idle power taken off",
            None => "",
        });
        if self.below_resolution && self.answers == 1 {
            words.push_str(", too short a time for this meter: only a sum over many means something");
        } else if let Some(part) = self.relative_uncertainty {
            words.push_str(&format!(", within {}", figures::percent(part)));
        }
        if self.unmetered_answers > 0 {
            words.push_str(&format!("; {} of {} answers not metered", self.unmetered_answers, self.answers));
        }
        words
    }
}

/// One answer's cost on one line: tokens and their speed, joules.
pub fn line(usage: &Usage, energy: &Energy) -> String {
    let mut words = format!("{} prompt tokens", usage.prompt_tokens);
    if let Some(rate) = usage.prompt_tokens_per_second {
        words.push_str(&format!(" at {}/s", figures::three_digits(rate)));
    }
    if usage.generated_tokens > 0 {
        words.push_str(&format!(", {} generated", usage.generated_tokens));
        if let Some(rate) = usage.generated_tokens_per_second {
            words.push_str(&format!(" at {}/s", figures::three_digits(rate)));
        }
    }
    let mut cost = Cost::default();
    cost.add(usage, energy);
    words.push_str("; energy ");
    words.push_str(&cost.energy_in_words());
    words
}

/// Joules by token of one answer for a narrow column; `~` marks a window too short for the meter.
pub fn per_token(energy: &Energy) -> String {
    match energy.joules_per_token {
        None => "no meter".to_owned(),
        Some(each) if energy.below_resolution => format!("~{}", figures::joules(each)),
        Some(each) => figures::joules(each),
    }
}

/// A method in words.
pub fn method_in_words(method: Method) -> &'static str {
    match method {
        Method::EnergyCounter => "energy counter",
        Method::HwmonPower => "power sensor",
        Method::PmicRailsCorrected => "power rails, corrected",
        Method::CalibratedModel => "calibrated model,",
        Method::ExternalMeter => "external meter,",
        Method::UtilisationTable => "estimated from the board table",
        Method::Unknown => "no meter",
    }
}

fn scope_in_words(scope: Scope) -> &'static str {
    match scope {
        Scope::Wall => "whole device at the wall",
        Scope::BoardDc => "whole board",
        Scope::Module => "compute module",
        Scope::SocRails => "rails of the system on chip",
        Scope::CpuPackage => "processor package",
        Scope::CpuModel => "processor",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn energy(joules: Option<f64>) -> Energy {
        Energy {
            joules,
            prefill_joules: joules,
            decode_joules: None,
            joules_per_token: joules.map(|joules| joules / 10.0),
            method: if joules.is_some() { Method::EnergyCounter } else { Method::Unknown },
            source: joules.map(|_| "rapl".to_owned()),
            scope: joules.map(|_| Scope::CpuPackage),
            idle: Idle::Included,
            idle_watts: None,
            relative_uncertainty: joules.map(|_| 0.05),
            samples: 2,
            sample_hz: None,
            window_ms: 5.0,
            calibrated_at: None,
            throttled: None,
            below_resolution: true,
        }
    }

    #[test]
    fn joules_add_up_and_say_where_they_come_from() {
        let usage = Usage { prompt_tokens: 10, ..Usage::default() };
        let mut cost = Cost::default();
        cost.add(&usage, &energy(Some(0.02)));
        assert!(
            cost.energy_in_words()
                .ends_with("included, too short a time for this meter: only a sum over many means something")
        );
        cost.add(&usage, &energy(Some(0.04)));
        assert!((cost.joules_per_token().expect("metered") - 0.003).abs() < 1e-12);
        let words = cost.energy_in_words();
        assert_eq!(
            words,
            "60.0 mJ (3.00 mJ a token) by the processor package, energy counter rapl, idle power included, within 5%"
        );
        cost.add(&usage, &energy(None));
        assert_eq!(cost.joules_per_token(), None, "a partial sum must not be divided by all tokens");
        assert!(cost.energy_in_words().ends_with("1 of 3 answers not metered"));
    }

    #[test]
    fn unknown_is_not_zero() {
        let usage = Usage { prompt_tokens: 10, ..Usage::default() };
        let words = line(&usage, &energy(None));
        assert!(words.starts_with("10 prompt tokens; energy unknown"), "{words}");
        assert_eq!(per_token(&energy(None)), "no meter");
        assert_eq!(per_token(&energy(Some(0.02))), "~2.00 mJ");
    }
}
