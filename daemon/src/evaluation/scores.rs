//! The figures of a set of decisions.

use serde::Serialize;

/// One decision beside its right answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// The most probable label, whether or not the daemon abstained.
    pub guess: String,
    /// Its probability.
    pub probability: f64,
    /// The right label.
    pub answer: String,
    /// Whether the daemon abstained, the probability being under the task's threshold.
    pub abstained: bool,
}

/// Figures over all outcomes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Scores {
    /// Outcomes.
    pub rows: usize,
    /// Share of right guesses.
    pub accuracy: f64,
    /// Share of right guesses in the half with the higher probabilities.
    pub confident_half_accuracy: f64,
    /// Expected calibration error: mean distance of probability and accuracy over ten bins of probability, weighted
    /// by their outcomes (Guo et al. 2017, "On Calibration of Modern Neural Networks", equation 3).
    pub calibration_error: f64,
    /// Outcomes under the task's threshold; they are counted by their guess all the same.
    pub abstained: usize,
    /// What guessing blindly would score, of outcomes that were chosen among other labels each.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub blind_share: Option<f64>,
    /// Figures of the labels, of outcomes that were chosen among the same.
    #[serde(flatten)]
    pub by_label: Option<ByLabel>,
}

/// Figures that compare labels, which were offered in all decisions.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ByLabel {
    /// Mean F1 of the labels that occur as answers.
    pub macro_f1: f64,
    /// Share of the commonest answer: what always guessing it would score.
    pub majority_share: f64,
    /// One entry a label that was answered or guessed, in alphabetical order.
    pub labels: Vec<LabelScore>,
    /// `confusion[answer][guess]`, in the order of `labels`.
    pub confusion: Vec<Vec<usize>>,
}

/// Figures of one label.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LabelScore {
    /// The label.
    pub label: String,
    /// How often it is the answer.
    pub answers: usize,
    /// How often it was guessed.
    pub guesses: usize,
    /// How often the guess was right.
    pub hits: usize,
    /// Harmonic mean of precision and recall.
    pub f1: f64,
}

const BINS: usize = 10;

impl Scores {
    /// The figures of `outcomes` that were chosen among the same labels; all zero where there are none.
    pub fn of(outcomes: &[Outcome]) -> Scores {
        Scores { by_label: Some(ByLabel::of(outcomes)), ..Scores::of_any(outcomes) }
    }

    /// The figures of `outcomes` that were chosen among other labels each, where a blind guess would score `blind_share`.
    pub fn of_own_labels(outcomes: &[Outcome], blind_share: f64) -> Scores {
        Scores { blind_share: Some(blind_share), ..Scores::of_any(outcomes) }
    }

    fn of_any(outcomes: &[Outcome]) -> Scores {
        let mut by_confidence: Vec<&Outcome> = outcomes.iter().collect();
        by_confidence.sort_by(|a, b| b.probability.total_cmp(&a.probability));
        let half = outcomes.len() / 2;
        Scores {
            rows: outcomes.len(),
            accuracy: ratio(right(outcomes), outcomes.len()),
            confident_half_accuracy: ratio(right(by_confidence[..half].iter().copied()), half),
            calibration_error: calibration_error(outcomes),
            abstained: outcomes.iter().filter(|outcome| outcome.abstained).count(),
            blind_share: None,
            by_label: None,
        }
    }
}

impl ByLabel {
    fn of(outcomes: &[Outcome]) -> ByLabel {
        let mut names: Vec<&str> =
            outcomes.iter().flat_map(|o| [o.answer.as_str(), o.guess.as_str()]).collect();
        names.sort_unstable();
        names.dedup();
        let place = |name: &str| names.binary_search(&name).expect("every name was collected");
        let mut confusion = vec![vec![0; names.len()]; names.len()];
        for outcome in outcomes {
            confusion[place(&outcome.answer)][place(&outcome.guess)] += 1;
        }
        let labels: Vec<LabelScore> = names
            .iter()
            .enumerate()
            .map(|(at, &name)| {
                let answers: usize = confusion[at].iter().sum();
                let guesses: usize = confusion.iter().map(|row| row[at]).sum();
                let hits = confusion[at][at];
                let f1 = 2.0 * ratio(hits, answers + guesses);
                LabelScore { label: name.to_owned(), answers, guesses, hits, f1 }
            })
            .collect();
        let asked: Vec<f64> = labels.iter().filter(|label| label.answers > 0).map(|label| label.f1).collect();
        let commonest = labels.iter().map(|label| label.answers).max().unwrap_or(0);
        ByLabel {
            macro_f1: if asked.is_empty() { 0.0 } else { asked.iter().sum::<f64>() / asked.len() as f64 },
            majority_share: ratio(commonest, outcomes.len()),
            labels,
            confusion,
        }
    }
}

fn right<'o>(outcomes: impl IntoIterator<Item = &'o Outcome>) -> usize {
    outcomes.into_iter().filter(|outcome| outcome.guess == outcome.answer).count()
}

fn ratio(part: usize, whole: usize) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

fn calibration_error(outcomes: &[Outcome]) -> f64 {
    // Sum of probabilities minus hits, a bin.
    let mut distance = [0.0; BINS];
    for outcome in outcomes {
        // A NaN, which no sound daemon sends, would land in the first bin and spoil the sum visibly.
        let bin = ((outcome.probability * BINS as f64) as usize).min(BINS - 1);
        distance[bin] += outcome.probability - f64::from(u8::from(outcome.guess == outcome.answer));
    }
    let total: f64 = distance.iter().map(|distance| distance.abs()).sum();
    if outcomes.is_empty() { 0.0 } else { total / outcomes.len() as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(answer: &str, guess: &str, probability: f64) -> Outcome {
        Outcome { guess: guess.into(), probability, answer: answer.into(), abstained: probability < 0.5 }
    }

    #[test]
    fn figures_of_a_small_set_are_those_done_by_hand() {
        let scores = Scores::of(&[
            outcome("usb", "usb", 0.95),
            outcome("usb", "usb", 0.85),
            outcome("usb", "bus", 0.45),
            outcome("bus", "usb", 0.65),
        ]);
        assert_eq!((scores.rows, scores.accuracy, scores.blind_share), (4, 0.5, None));
        assert_eq!((scores.confident_half_accuracy, scores.abstained), (1.0, 1));
        // usb: 2 hits, 3 answers, 3 guesses; bus: none of 1 and 1.
        let by_label = scores.by_label.expect("all chose among the same labels");
        assert_eq!(by_label.majority_share, 0.75);
        assert!((by_label.macro_f1 - (2.0 / 3.0) / 2.0).abs() < 1e-12);
        assert_eq!(by_label.confusion, [[0, 1], [1, 2]]);
        // Four bins with one outcome each: .05 + .15 + .45 + .65.
        assert!((scores.calibration_error - 1.30 / 4.0).abs() < 1e-12);
    }

    #[test]
    fn a_label_that_is_never_the_answer_counts_in_the_table_only() {
        let scores = ByLabel::of(&[outcome("a", "a", 1.0), outcome("a", "b", 0.6)]);
        assert_eq!(scores.labels.len(), 2);
        assert!((scores.macro_f1 - 2.0 / 3.0).abs() < 1e-12);
    }

    #[test]
    fn labels_are_not_compared_where_others_were_offered_each_time() {
        let outcomes = [outcome("a", "a", 1.0), outcome("c", "d", 0.6)];
        let (own, same) = (Scores::of_own_labels(&outcomes, 0.375), Scores::of(&outcomes));
        assert_eq!((own.accuracy, own.blind_share), (same.accuracy, Some(0.375)));
        let json = serde_json::to_value(&own).expect("it is plain data");
        assert!(json.get("macro_f1").is_none() && json.get("confusion").is_none(), "{json}");
        let json = serde_json::to_value(&same).expect("it is plain data");
        assert_eq!((&json["macro_f1"], json["confusion"][1][2].as_u64()), (&0.5.into(), Some(1)));
    }

    #[test]
    fn nothing_scores_zero() {
        let scores = Scores::of(&[]);
        assert_eq!((scores.rows, scores.accuracy, scores.calibration_error), (0, 0.0, 0.0));
    }
}
