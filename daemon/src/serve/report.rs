//! What an answer says of its work, time and energy.

use std::time::Duration;

use tern_boards::energy as boards;
use tern_protocol::answer as wire;
use tern_runtime::engine::Usage as Counted;

use crate::wire::Energy;

/// When the parts of a request began and ended, and how much was done in them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// From coming in to the engine taking it.
    pub queue: Duration,
    /// From then to the decision or the first token.
    pub prefill: Duration,
    /// From then to the end.
    pub decode: Duration,
    /// Rows of the engine that read the prompt or scored labels.
    pub prefill_rows: usize,
    /// Tokens that rows of the engine chose beyond the first, one that ended the text included.
    pub decode_tokens: usize,
    /// Time since the engine took it in which the engine held still.
    pub paced: Duration,
}

/// `value` to three decimals: more is noise.
pub fn thousandths(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}

/// `value` to four significant digits: no meter knows more of a mean.
pub fn four_digits(value: f64) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return value;
    }
    let scale = 10f64.powi(3 - value.abs().log10().floor() as i32);
    // Dividing by a power of ten is exact as far as it is printed; multiplying by a fraction is not.
    if scale >= 1.0 {
        (value * scale).round() / scale
    } else {
        (value * scale).round() * (1.0 / scale).round()
    }
}

/// The usage of an answer.
pub fn usage(counted: &Counted, times: &Times) -> wire::Usage {
    let ms = |time: Duration| thousandths(time.as_secs_f64() * 1e3);
    let rate = |rows: usize, time: Duration| {
        (rows > 0 && !time.is_zero()).then(|| thousandths(rows as f64 / time.as_secs_f64()))
    };
    let drafted = counted.drafted_tokens > 0;
    wire::Usage {
        prompt_tokens: counted.prompt_tokens as u32,
        generated_tokens: counted.generated_tokens as u32,
        label_rows: counted.label_rows as u32,
        queue_ms: ms(times.queue),
        prefill_ms: ms(times.prefill),
        decode_ms: ms(times.decode),
        prompt_tokens_per_second: rate(times.prefill_rows, times.prefill),
        generated_tokens_per_second: rate(times.decode_tokens, times.decode),
        paced_ms: (!times.paced.is_zero()).then(|| ms(times.paced)),
        cached_tokens: Some(counted.cached_tokens as u32),
        drafted_tokens: drafted.then_some(counted.drafted_tokens as u32),
        accepted_tokens: drafted.then_some(counted.accepted_tokens as u32),
    }
}

/// How joules were obtained, as the wire says it.
pub fn method(method: boards::Method) -> wire::Method {
    match method {
        boards::Method::EnergyCounter => wire::Method::EnergyCounter,
        boards::Method::HwmonPower => wire::Method::HwmonPower,
        boards::Method::PmicRailsCorrected => wire::Method::PmicRailsCorrected,
        boards::Method::ExternalMeter => wire::Method::ExternalMeter,
        boards::Method::CalibratedModel => wire::Method::CalibratedModel,
        boards::Method::UtilisationTable => wire::Method::UtilisationTable,
        // One that the wire has no name for yet.
        _ => wire::Method::Unknown,
    }
}

/// What joules cover, as the wire says it.
pub fn scope(scope: boards::Scope) -> wire::Scope {
    match scope {
        boards::Scope::Wall => wire::Scope::Wall,
        boards::Scope::BoardDc => wire::Scope::BoardDc,
        boards::Scope::Module => wire::Scope::Module,
        boards::Scope::SocRails => wire::Scope::SocRails,
        boards::Scope::CpuPackage => wire::Scope::CpuPackage,
        boards::Scope::CpuModel => wire::Scope::CpuModel,
    }
}

/// The energy of an answer.
pub fn energy(report: boards::EnergyReport) -> Energy {
    Energy {
        joules: report.joules,
        prefill_joules: report.prefill_joules,
        decode_joules: report.decode_joules,
        joules_per_token: report.joules_per_token.map(four_digits),
        method: method(report.method),
        source: report.source,
        scope: report.scope.map(scope),
        idle: match report.idle {
            boards::Idle::Included => wire::Idle::Included,
            boards::Idle::Subtracted => wire::Idle::Subtracted,
        },
        idle_watts: report.idle_watts.map(four_digits),
        relative_uncertainty: report.relative_uncertainty,
        samples: report.samples,
        sample_hz: report.sample_hz.map(thousandths),
        window_ms: thousandths(report.window_ms),
        calibrated_at: report.calibrated_at,
        throttled: report.throttled,
        below_resolution: report.below_resolution,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_rows_and_tokens_by_time_and_null_where_there_is_nothing() {
        let counted = Counted { prompt_tokens: 100, generated_tokens: 1, ..Counted::default() };
        let times = Times {
            queue: Duration::from_micros(1234),
            prefill: Duration::from_millis(50),
            decode: Duration::ZERO,
            prefill_rows: 100,
            decode_tokens: 0,
            paced: Duration::from_millis(7),
        };
        let usage = usage(&counted, &times);
        assert_eq!((usage.queue_ms, usage.prefill_ms, usage.paced_ms), (1.234, 50.0, Some(7.0)));
        assert_eq!(usage.prompt_tokens_per_second, Some(2000.0));
        assert_eq!(usage.generated_tokens_per_second, None);
    }

    #[test]
    fn means_have_four_digits_and_sums_keep_theirs() {
        let shown =
            [1.234_56, 0.000_123_456, 98_765.4, 0.0, 0.1 + 0.2].map(|value| four_digits(value).to_string());
        assert_eq!(shown, ["1.235", "0.0001235", "98770", "0", "0.3"]);
        let report = boards::EnergyReport {
            joules: Some(12.345_678),
            joules_per_token: Some(12.345_678 / 7.0),
            ..boards::EnergyReport::unknown()
        };
        let energy = energy(report);
        assert_eq!((energy.joules, energy.joules_per_token), (Some(12.345_678), Some(1.764)));
    }

    #[test]
    fn unknown_energy_is_null_on_the_wire() {
        let json = serde_json::to_value(energy(boards::EnergyReport::unknown())).expect("it can be written");
        assert!(json["joules"].is_null() && json["joules_per_token"].is_null() && json["source"].is_null());
        assert_eq!(json["method"], "unknown");
        // The wire has every field of the report, under the same name.
        let report = serde_json::to_value(boards::EnergyReport::unknown()).expect("it can be written");
        let names = |value: &serde_json::Value| {
            value.as_object().map(|object| object.keys().cloned().collect::<Vec<_>>())
        };
        assert_eq!(names(&json), names(&report));
    }
}
