//! Which of two settings takes fewer joules a token, and whether that can be told.

use super::{Measured, Round};

/// Two-sided 95 % points of Student's distribution, by degrees of freedom from 1.
const STUDENT: [f64; 10] = [12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23];

/// What a meter's figures are worth when settings are compared.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Worth {
    /// Its smallest step of energy, joules.
    pub step_j: f64,
    /// The part of its error that differs from setting to setting, a fraction: none of a sensor, whose gain is the same
    /// for all; all of a model, which is wrong in another way for each kind of work.
    pub differing: f64,
}

/// Half-width of the 95 % interval of joules a token.
pub fn half_width(measured: &Measured, worth: Worth) -> f64 {
    let values = measured.rounds.iter().map(Round::joules_per_token);
    spread(values, worth, measured).hypot(worth.differing * measured.joules_per_token())
}

/// How much more `other` takes than `best`, a fraction, and whether that is more than chance and the meter explain.
///
/// Round by round, since settings took turns.
pub fn against(best: &Measured, other: &Measured, worth: Worth) -> (f64, bool) {
    let (mine, theirs) = (best.joules_per_token(), other.joules_per_token());
    let pairs = best.rounds.iter().zip(&other.rounds);
    let differences = pairs.map(|(a, b)| b.joules_per_token() - a.joules_per_token());
    let chance = spread(differences, worth, best);
    let model = (worth.differing * mine).hypot(worth.differing * theirs);
    ((theirs - mine) / mine, (theirs - mine).abs() > chance.hypot(model))
}

/// Half-width of the interval of the mean of `values`, which cannot be known better than the meter's steps allow.
fn spread(values: impl Iterator<Item = f64>, worth: Worth, of: &Measured) -> f64 {
    let values: Vec<f64> = values.collect();
    let count = values.len() as f64;
    let least = of.rounds.iter().map(|round| round.tokens).min().unwrap_or(1).max(1) as f64;
    let step = worth.step_j / least / count.sqrt();
    if values.len() < 2 {
        return f64::INFINITY;
    }
    let mean = values.iter().sum::<f64>() / count;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    let student = STUDENT.get(values.len() - 2).copied().unwrap_or(2.0);
    (student * (squares / (count - 1.0) / count).sqrt()).hypot(step)
}

/// A setting that takes more joules than the fewest by less than this, and cannot be told from it, costs the same.
pub const MARGIN: f64 = 0.03;

/// The setting with the fewest joules a token; and of those that cost the same as far as can be told, the fastest.
pub fn recommended(all: &[Measured], worth: Worth) -> Option<(&Measured, &Measured)> {
    let fewest = all.iter().min_by(|a, b| a.joules_per_token().total_cmp(&b.joules_per_token()))?;
    let as_good = all.iter().filter(|other| {
        let (more, is_told) = against(fewest, other, worth);
        more <= MARGIN && !is_told
    });
    let chosen = as_good.max_by(|a, b| a.tokens_per_second().total_cmp(&b.tokens_per_second()));
    Some((fewest, chosen.unwrap_or(fewest)))
}

#[cfg(test)]
mod tests {
    use super::super::Setting;
    use super::*;

    fn measured(threads: usize, joules: &[f64], seconds: f64) -> Measured {
        let round = |joules: &f64| Round { tokens: 10, seconds, joules: *joules };
        Measured { setting: Setting { threads, mhz: None }, rounds: joules.iter().map(round).collect() }
    }

    const SENSOR: Worth = Worth { step_j: 0.01, differing: 0.0 };

    #[test]
    fn drift_that_touches_all_settings_cancels_and_noise_does_not() {
        // Warmer round by round, always a tenth apart.
        let (cold, warm) = (measured(1, &[10.0, 11.0, 12.0], 2.0), measured(2, &[11.0, 12.0, 13.0], 2.0));
        let (more, told) = against(&cold, &warm, SENSOR);
        assert!((more - 1.0 / 11.0).abs() < 1e-9 && told);
        assert!(half_width(&cold, SENSOR) > 0.2);
        let noisy = measured(2, &[9.0, 13.0, 12.5], 2.0);
        assert!(!against(&cold, &noisy, SENSOR).1);
        // The same figures of a model that may be 8 % off for each.
        assert!(!against(&cold, &warm, Worth { differing: 0.08, ..SENSOR }).1);
        // One round says nothing.
        assert!(!against(&measured(1, &[1.0], 1.0), &measured(2, &[9.0], 1.0), SENSOR).1);
        // Steps so coarse that they explain it.
        assert!(!against(&cold, &warm, Worth { step_j: 5.0, ..SENSOR }).1);
    }

    #[test]
    fn of_settings_that_cost_the_same_the_fastest_is_taken() {
        let all = [
            measured(1, &[10.0, 10.1, 9.9], 8.0),
            measured(2, &[10.1, 10.0, 10.0], 4.0),
            // Perhaps as cheap, but it does not look so.
            measured(3, &[9.0, 13.0, 12.5], 3.0),
            measured(4, &[14.0, 14.1, 14.2], 2.0),
        ];
        let (fewest, chosen) = recommended(&all, SENSOR).expect("settings");
        assert_eq!((fewest.setting.threads, chosen.setting.threads), (1, 2));
        assert!(recommended(&[], SENSOR).is_none());
    }
}
