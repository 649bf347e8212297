use super::super::fake::{FakeMeter, Reading};
use super::super::meter::{Method, Resolution};
use super::*;
use proptest::prelude::*;

const fn ms(value: u64) -> Duration {
    Duration::from_millis(value)
}

fn share(request: RequestId, phase: Phase, weight: u64) -> Share {
    Share { request, phase, weight }
}

fn ledger(readings: impl IntoIterator<Item = Reading>) -> Ledger {
    Ledger::new(Some(Box::new(FakeMeter::scripted(None, readings))), ms(0))
}

fn completed(prefill_tokens: u64, decode_tokens: u64) -> Completed {
    Completed { prefill_tokens, decode_tokens, throttled: None }
}

use Phase::{Decode, Prefill};
use Reading::{Fail, Raw};

#[test]
fn a_step_is_split_by_weight_and_idle_kept_apart() {
    // zero point, begin, end, begin, end, tick
    let mut ledger = ledger([Raw(5_000), Raw(6_000), Raw(46_000), Raw(46_500), Raw(56_500), Raw(57_000)]);
    ledger.begin_step(ms(10));
    ledger.end_step(ms(50), &[share(1, Prefill, 30), share(2, Decode, 10)]);
    ledger.begin_step(ms(51));
    ledger.end_step(ms(61), &[share(1, Decode, 1), share(2, Decode, 1)]);
    ledger.tick(ms(62));
    let totals = ledger.totals().unwrap();
    assert_eq!(totals.counter_uj, 52_000);
    assert_eq!((totals.requests_uj, totals.idle_uj, totals.unattributed_uj), (50_000, 2_000, 0));
    let one = ledger.finish(1, completed(30, 1));
    assert_eq!((one.prefill_joules, one.decode_joules, one.joules), (Some(0.03), Some(0.005), Some(0.035)));
    assert_eq!(one.joules_per_token, Some(0.005));
    assert_eq!((one.window_ms, one.samples), (50.0, 2));
    assert_eq!((one.method, one.scope), (Method::EnergyCounter, Some(crate::energy::Scope::BoardDc)));
    let two = ledger.finish(2, completed(0, 2));
    assert_eq!((two.prefill_joules, two.decode_joules), (None, Some(0.015)));
    assert_eq!(two.joules_per_token, Some(0.0075));
    assert!(!one.below_resolution && !two.below_resolution);
}

#[test]
fn a_classification_has_joules_by_prompt_token() {
    let mut ledger = ledger([Raw(0), Raw(0), Raw(1_000_000)]);
    ledger.begin_step(ms(0));
    ledger.end_step(ms(100), &[share(9, Prefill, 1)]);
    let report = ledger.finish(9, completed(40, 0));
    assert_eq!(
        (report.joules, report.decode_joules, report.joules_per_token),
        (Some(1.0), None, Some(0.025))
    );
}

#[test]
fn without_a_meter_everything_is_null_and_nothing_is_zero() {
    let mut ledger = Ledger::new(None, ms(0));
    ledger.begin_step(ms(1));
    ledger.end_step(ms(2), &[share(1, Prefill, 1)]);
    let report = ledger.finish(1, completed(10, 0));
    assert_eq!(report, EnergyReport::unknown());
    let json = serde_json::to_value(&report).unwrap();
    for field in ["joules", "prefill_joules", "decode_joules", "joules_per_token", "source", "scope"] {
        assert!(json[field].is_null(), "{field} is {}", json[field]);
    }
    assert_eq!(json["method"], "unknown");
    assert_eq!(ledger.totals(), None);
}

#[test]
fn the_wire_names_are_those_that_the_documents_promise() {
    let json = serde_json::to_value(EnergyReport::unknown()).unwrap();
    let mut names: Vec<&str> = json.as_object().unwrap().keys().map(String::as_str).collect();
    names.sort_unstable();
    assert_eq!(
        names,
        [
            "below_resolution",
            "calibrated_at",
            "decode_joules",
            "idle",
            "idle_watts",
            "joules",
            "joules_per_token",
            "method",
            "prefill_joules",
            "relative_uncertainty",
            "sample_hz",
            "samples",
            "scope",
            "source",
            "throttled",
            "window_ms",
        ]
    );
}

#[test]
fn a_failed_reading_makes_its_requests_unknown_and_loses_no_energy() {
    // the end of the first step fails; what was counted meanwhile shows up at the next begin
    let mut ledger = ledger([Raw(0), Raw(100), Fail, Raw(900), Raw(1_900)]);
    ledger.begin_step(ms(1));
    ledger.end_step(ms(2), &[share(1, Decode, 1), share(2, Decode, 1)]);
    ledger.begin_step(ms(3));
    ledger.end_step(ms(4), &[share(2, Decode, 1), share(3, Decode, 1)]);
    let totals = ledger.totals().unwrap();
    assert_eq!((totals.idle_uj, totals.unattributed_uj, totals.requests_uj), (100, 800, 1_000));
    assert_eq!(totals.counter_uj, 1_900);
    assert_eq!(ledger.finish(1, completed(0, 1)).joules, None);
    // part of this one's energy is known, but part is not, so its sum is not
    assert_eq!(ledger.finish(2, completed(0, 2)).joules, None);
    assert_eq!(ledger.finish(3, completed(0, 1)).joules, Some(0.0005));
}

#[test]
fn a_counter_that_runs_backwards_in_a_step_makes_it_unknown() {
    let mut ledger = ledger([Raw(1_000), Raw(2_000), Raw(10), Raw(20), Raw(40)]);
    ledger.begin_step(ms(1));
    ledger.end_step(ms(2), &[share(1, Prefill, 1)]);
    assert_eq!(ledger.finish(1, completed(4, 0)).joules, None);
    ledger.begin_step(ms(3));
    ledger.end_step(ms(4), &[share(2, Prefill, 1)]);
    assert_eq!(ledger.finish(2, completed(4, 0)).joules, Some(20e-6));
}

#[test]
fn windows_that_the_meter_cannot_resolve_say_so() {
    let coarse = Resolution { period: ms(100), quantum_uj: 2_000 };
    let report = |step_ms: u64, step_uj: u64| {
        let meter = FakeMeter::scripted(None, [Raw(0), Raw(0), Raw(step_uj)]).with_resolution(coarse);
        let mut ledger = Ledger::new(Some(Box::new(meter)), ms(0));
        ledger.begin_step(ms(0));
        ledger.end_step(ms(step_ms), &[share(1, Prefill, 1)]);
        ledger.finish(1, completed(1, 0))
    };
    assert!(report(99, 1_000_000).below_resolution);
    assert!(report(500, 19_999).below_resolution);
    assert!(!report(100, 20_000).below_resolution);
    // a stalled meter counted nothing: zero is what it said, and the flag says what that is worth
    assert!(report(500, 0).below_resolution);
}

#[test]
fn idle_power_is_measured_after_a_second_of_rest() {
    let meter = FakeMeter::steady(2_000_000);
    let mut ledger = Ledger::new(Some(Box::new(meter)), ms(0));
    assert_eq!(ledger.idle_watts(), None);
    ledger.begin_step(ms(100));
    ledger.end_step(ms(200), &[share(1, Prefill, 1)]);
    for at in [700, 1_200, 1_700] {
        ledger.tick(ms(at));
    }
    assert_eq!(ledger.idle_watts(), None, "the first second after a step is not rest");
    for at in [2_200, 2_700, 3_200] {
        ledger.tick(ms(at));
    }
    assert_eq!(ledger.idle_watts(), Some(2.0));
}

#[test]
fn requests_that_took_no_step_and_steps_that_were_never_begun_claim_nothing() {
    let mut ledger = ledger([Raw(0), Raw(10)]);
    ledger.end_step(ms(1), &[share(1, Prefill, 1)]);
    assert_eq!(ledger.finish(1, completed(1, 0)).joules, None);
    ledger.tick(ms(2));
    assert_eq!(ledger.totals().unwrap().idle_uj, 10);
}

#[test]
fn a_step_that_was_never_ended_is_idle_and_not_charged_to_the_next() {
    let mut ledger = ledger([Raw(0), Raw(10), Raw(500), Raw(500), Raw(600)]);
    ledger.begin_step(ms(1));
    ledger.begin_step(ms(2));
    ledger.end_step(ms(3), &[share(1, Prefill, 1)]);
    assert_eq!(ledger.finish(1, completed(1, 0)).joules, Some(100e-6));
    let totals = ledger.totals().unwrap();
    assert_eq!((totals.idle_uj, totals.requests_uj, totals.counter_uj), (500, 100, 600));
}

#[test]
fn remainders_go_to_the_largest_and_zero_weights_get_nothing() {
    let shares = [share(1, Decode, 1), share(2, Decode, 1), share(3, Decode, 1)];
    assert_eq!(split(10, &shares), [4, 3, 3]);
    assert_eq!(split(7, &[share(1, Decode, 0), share(2, Decode, 5)]), [0, 7]);
    assert_eq!(split(7, &[share(1, Decode, 0), share(2, Decode, 0)]), [4, 3]);
    assert_eq!(split(100, &[share(1, Decode, 1), share(2, Decode, 2)]), [33, 67]);
    assert!(split(7, &[]).is_empty());
    let huge = [share(1, Decode, u64::MAX), share(2, Decode, u64::MAX)];
    assert_eq!(
        split(u64::MAX, &huge).iter().map(|&part| u128::from(part)).sum::<u128>(),
        u128::from(u64::MAX)
    );
}

/// One thing that a daemon may do to its ledger.
#[derive(Debug, Clone)]
enum Event {
    Tick,
    Step(Vec<(u64, bool, u64)>),
    Finish(u64),
}

fn event() -> impl Strategy<Value = Event> {
    let shares = proptest::collection::vec((0u64..6, any::<bool>(), 0u64..100), 0..8);
    prop_oneof![Just(Event::Tick), shares.prop_map(Event::Step), (0u64..6).prop_map(Event::Finish)]
}

fn reading() -> impl Strategy<Value = Reading> {
    // a counter of a 1 J range: about every third reading wraps it or runs it backwards
    prop_oneof![
        8 => (0u64..1_000_000).prop_map(Raw),
        1 => Just(Reading::Stall),
        1 => Just(Fail),
    ]
}

proptest! {
    #[test]
    fn parts_add_up_and_differ_from_the_exact_share_by_less_than_one(
        delta_uj in any::<u64>(),
        weights in proptest::collection::vec(0u64..=u64::MAX, 1..12),
    ) {
        let shares: Vec<Share> = weights.iter().map(|&weight| share(0, Decode, weight)).collect();
        let parts = split(delta_uj, &shares);
        prop_assert_eq!(parts.iter().map(|&part| u128::from(part)).sum::<u128>(), u128::from(delta_uj));
        let sum: u128 = weights.iter().map(|&weight| u128::from(weight)).sum();
        for (&part, &weight) in parts.iter().zip(&weights) {
            if let Some(exact) = (u128::from(delta_uj) * u128::from(weight)).checked_div(sum) {
                prop_assert!((exact..=exact + 1).contains(&u128::from(part)));
            }
        }
    }

    #[test]
    fn requests_and_idle_and_unattributed_are_the_counter(
        range_uj in proptest::option::of(Just(1_000_000u64)),
        readings in proptest::collection::vec(reading(), 1..80),
        events in proptest::collection::vec(event(), 1..40),
    ) {
        let mut ledger = Ledger::new(Some(Box::new(FakeMeter::scripted(range_uj, readings))), ms(0));
        let (mut now, mut finished_uj, mut unclaimed_uj) = (ms(0), 0, 0);
        for event in events {
            now += ms(100);
            match event {
                Event::Tick => ledger.tick(now),
                Event::Step(shares) => {
                    let phase = |decode| if decode { Decode } else { Prefill };
                    let shares: Vec<Share> =
                        shares.into_iter().map(|(id, decode, weight)| share(id, phase(decode), weight)).collect();
                    ledger.begin_step(now);
                    now += ms(100);
                    ledger.end_step(now, &shares);
                }
                Event::Finish(id) => {
                    let account = ledger.accounts.iter().find(|account| account.request == id).cloned();
                    let report = ledger.finish(id, completed(1, 1));
                    let account = account.unwrap_or_default();
                    let own_uj = account.prefill_uj.unwrap_or(0) + account.decode_uj.unwrap_or(0);
                    match report.joules {
                        Some(joules) => {
                            prop_assert_eq!((joules * 1e6).round() as u64, own_uj);
                            finished_uj += own_uj;
                        }
                        // its known steps stay in the sum over requests, but no figure is given for it
                        None => unclaimed_uj += own_uj,
                    }
                }
            }
        }
        let in_flight_uj: u64 = ledger
            .accounts
            .iter()
            .map(|account| account.prefill_uj.unwrap_or(0) + account.decode_uj.unwrap_or(0))
            .sum();
        let totals = ledger.totals().unwrap();
        prop_assert_eq!(totals.requests_uj, finished_uj + unclaimed_uj + in_flight_uj);
        prop_assert_eq!(totals.requests_uj + totals.idle_uj + totals.unattributed_uj, totals.counter_uj);
        prop_assert_eq!(ledger.last.map_or(0, |sample| sample.energy_uj), totals.counter_uj);
    }
}
