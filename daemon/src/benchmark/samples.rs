//! Repeated measurements: all of them, their mean and their spread.

use serde::Serialize;

/// The values of one quantity.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Samples {
    /// Arithmetic mean.
    pub mean: f64,
    /// Standard deviation of the sample; `None` for a single value.
    pub sd: Option<f64>,
    /// Every value in the order it was measured.
    pub values: Vec<f64>,
}

impl FromIterator<f64> for Samples {
    /// The mean of nothing is NaN.
    fn from_iter<I: IntoIterator<Item = f64>>(values: I) -> Self {
        let values: Vec<f64> = values.into_iter().collect();
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        let sd = (values.len() > 1).then(|| (squares / (values.len() - 1) as f64).sqrt());
        Samples { mean, sd, values }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mean_and_spread_are_those_of_a_sample() {
        let samples: Samples = [2.0, 4.0, 9.0].into_iter().collect();
        assert_eq!((samples.mean, samples.sd), (5.0, Some(13f64.sqrt())));
        let one: Samples = [3.0].into_iter().collect();
        assert_eq!((one.mean, one.sd), (3.0, None));
    }
}
