//! From one probability a label to a typed decision.

use tern_protocol::answer::Value;

/// What the labels of a task mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// Nothing beyond themselves.
    Choice,
    /// The first is yes, the second no.
    YesNo,
    /// Whole numbers from `min` on.
    Score {
        /// The first.
        min: i32,
    },
}

/// A decision.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Verdict {
    /// Place of the most probable label.
    pub best: usize,
    /// Its probability.
    pub probability: f32,
    /// Whether it is under the threshold.
    pub abstained: bool,
    /// The decision as a value: the expected value of a score, also if it abstained from a single number; yes or no
    /// unless it abstained.
    pub value: Option<Value>,
}

/// Decides by `probabilities`, one a label and at least one. The first of equals wins.
pub fn decide(probabilities: &[f32], reading: Reading, threshold: Option<f32>) -> Verdict {
    let mut best = 0;
    for (index, p) in probabilities.iter().enumerate() {
        if *p > probabilities[best] {
            best = index;
        }
    }
    let probability = probabilities[best];
    let abstained = threshold.is_some_and(|threshold| probability < threshold);
    let value = match reading {
        Reading::Choice => None,
        Reading::YesNo => (!abstained).then_some(Value::Bool(best == 0)),
        Reading::Score { min } => {
            let weighed = probabilities.iter().zip(0..).map(|(p, step)| f64::from(*p) * f64::from(step));
            Some(Value::Number((f64::from(min) + weighed.sum::<f64>()) as f32))
        }
    };
    Verdict { best, probability, abstained, value }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_label_wins_unless_it_is_under_the_threshold() {
        let verdict = decide(&[0.2, 0.5, 0.3], Reading::Choice, Some(0.5));
        assert_eq!((verdict.best, verdict.abstained, verdict.value), (1, false, None));
        let verdict = decide(&[0.2, 0.5, 0.3], Reading::Choice, Some(0.51));
        assert_eq!((verdict.best, verdict.probability, verdict.abstained), (1, 0.5, true));
        assert_eq!(decide(&[0.5, 0.5], Reading::Choice, None).best, 0);
    }

    #[test]
    fn values_follow_the_reading() {
        assert_eq!(decide(&[0.9, 0.1], Reading::YesNo, None).value, Some(Value::Bool(true)));
        assert_eq!(decide(&[0.4, 0.6], Reading::YesNo, Some(0.7)).value, None);
        let score = decide(&[0.25, 0.25, 0.5], Reading::Score { min: -1 }, Some(0.9));
        assert_eq!((score.abstained, score.value), (true, Some(Value::Number(0.25))));
    }
}
