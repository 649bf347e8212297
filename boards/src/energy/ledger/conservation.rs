//! Nothing is lost and nothing is counted twice, whatever requests come and go and however badly the meter behaves.
//!
//! Each case is a random schedule such as a daemon's engine thread goes through: requests join while others run, read
//! their prompts in chunks, decode one token a step in batches, end, or are cancelled; between steps there are idle
//! ticks. The meter under it is a counter that wraps, or a power sensor; its readings stall, fail, run backwards, come
//! hours apart, and its clock may be set back. The books are kept here a second time, from nothing but what
//! [`Ledger::end_step`] answers, by request, phase and token, and compared with the ledger's and with the meter's own.

use core::sync::atomic::{AtomicU64, Ordering};
use std::collections::BTreeMap;
use std::sync::Arc;

use super::super::counter::PowerTotal;
use super::super::fake::{FakeMeter, Reading};
use super::super::meter::{Method, Resolution, Scope};
use super::*;
use crate::root::{ReadCause, ReadError};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

/// Schedules that the test goes through.
const SCHEDULES: u32 = 5_000;

/// A sensor of power that plays a script; `None` is a reading that fails.
struct Sensor {
    script: std::vec::IntoIter<Option<u64>>,
    power: PowerTotal,
}

/// A meter that says beside the ledger what it has counted.
struct Watched {
    meter: Box<dyn Meter>,
    counted_uj: Arc<AtomicU64>,
}

impl Meter for Sensor {
    fn source(&self) -> &str {
        "sensor"
    }
    fn method(&self) -> Method {
        Method::HwmonPower
    }
    fn scope(&self) -> Scope {
        Scope::BoardDc
    }
    fn relative_uncertainty(&self) -> f64 {
        0.05
    }
    fn resolution(&self) -> Resolution {
        Resolution { period: Duration::from_millis(100), quantum_uj: 1_000 }
    }
    fn faults(&self) -> Faults {
        self.power.faults()
    }
    fn sample(&mut self, now: Duration) -> Result<Sample, MeterError> {
        let Some(power_uw) = self.script.next().unwrap_or(Some(0)) else {
            self.power.fail();
            let cause = ReadCause::Io(std::io::ErrorKind::TimedOut);
            return Err(MeterError::Unreadable(ReadError { path: "/sensor".into(), cause }));
        };
        let energy_uj = self.power.add(now, power_uw);
        Ok(Sample { at: now, energy_uj, readings: self.power.readings() })
    }
}

impl Meter for Watched {
    fn source(&self) -> &str {
        self.meter.source()
    }
    fn method(&self) -> Method {
        self.meter.method()
    }
    fn scope(&self) -> Scope {
        self.meter.scope()
    }
    fn relative_uncertainty(&self) -> f64 {
        self.meter.relative_uncertainty()
    }
    fn resolution(&self) -> Resolution {
        self.meter.resolution()
    }
    fn faults(&self) -> Faults {
        self.meter.faults()
    }
    fn sample(&mut self, now: Duration) -> Result<Sample, MeterError> {
        let sample = self.meter.sample(now)?;
        self.counted_uj.store(sample.energy_uj, Ordering::Relaxed);
        Ok(sample)
    }
}

/// What happens next.
#[derive(Debug, Clone)]
enum Event {
    /// A request comes whose prompt takes so many steps and whose answer so many tokens.
    Join { chunks: u8, tokens: u8 },
    /// All that run, or the first so many, take part in a step; the weights of their shares.
    Step { first: usize, weights: Vec<u64>, busy_ms: u64 },
    /// A step is begun and nothing comes of it.
    Lost,
    /// A request is given up.
    Cancel { which: usize },
    /// Nothing is to be done.
    Tick,
    /// Time passes.
    Pass { ms: u64 },
    /// The clock is set back.
    Back { ms: u64 },
}

fn event() -> impl Strategy<Value = Event> {
    let weights = proptest::collection::vec(prop_oneof![4 => 0u64..1000, 1 => any::<u64>()], 8);
    prop_oneof![
        4 => (0u8..4, 0u8..12).prop_map(|(chunks, tokens)| Event::Join { chunks, tokens }),
        12 => (1usize..9, weights, 0u64..400)
            .prop_map(|(first, weights, busy_ms)| Event::Step { first, weights, busy_ms }),
        1 => Just(Event::Lost),
        1 => (0usize..8).prop_map(|which| Event::Cancel { which }),
        3 => Just(Event::Tick),
        // most pauses are short, some are gaps to a sensor, few to a counter
        4 => prop_oneof![8 => 0u64..900, 2 => 1_000u64..60_000, 1 => 3_600_000u64..20_000_000]
            .prop_map(|ms| Event::Pass { ms }),
        1 => (1u64..5_000).prop_map(|ms| Event::Back { ms }),
    ]
}

#[derive(Debug, Clone)]
enum Script {
    Counter { range_uj: Option<u64>, readings: Vec<Reading> },
    Sensor(Vec<Option<u64>>),
}

fn script() -> impl Strategy<Value = Script> {
    // a counter of 1 J: every third reading wraps it, or resets it where it has no range
    let reading = prop_oneof![
        12 => (0u64..1_000_000).prop_map(Reading::Raw),
        2 => Just(Reading::Stall),
        1 => Just(Reading::Fail),
    ];
    let power = prop_oneof![12 => (0u64..30_000_000).prop_map(Some), 1 => Just(None)];
    prop_oneof![
        (proptest::option::of(Just(1_000_000u64)), proptest::collection::vec(reading, 1..200))
            .prop_map(|(range_uj, readings)| Script::Counter { range_uj, readings }),
        proptest::collection::vec(power, 1..200).prop_map(Script::Sensor),
    ]
}

/// A request that runs, by the test's own books.
#[derive(Debug, Clone, Default)]
struct Running {
    id: RequestId,
    chunks_left: u8,
    tokens_left: u8,
    prefill_uj: u64,
    /// One a decoding step.
    tokens_uj: Vec<u64>,
    unknown: bool,
    worked: bool,
}

impl Running {
    fn uj(&self) -> u64 {
        self.prefill_uj + self.tokens_uj.iter().sum::<u64>()
    }
}

/// How often the cases met what they are to be about.
#[derive(Debug, Default)]
struct Seen {
    schedules: u64,
    steps: u64,
    batched: u64,
    requests: u64,
    cancelled: u64,
    unknown: u64,
    faults: BTreeMap<&'static str, u64>,
}

/// Ends a request and compares its report with the test's books.
fn close(ledger: &mut Ledger, request: &Running, seen: &mut Seen) -> Result<(), TestCaseError> {
    let tokens = request.tokens_uj.len() as u64;
    let report =
        ledger.finish(request.id, Completed { prefill_tokens: 1, decode_tokens: tokens, throttled: None });
    let joules = |uj: u64| uj as f64 / 1e6;
    if request.unknown || !request.worked {
        seen.unknown += 1;
        prop_assert_eq!((report.joules, report.prefill_joules, report.decode_joules), (None, None, None));
    } else {
        prop_assert_eq!(report.joules, Some(joules(request.uj())));
        prop_assert_eq!(report.prefill_joules.unwrap_or(0.0), joules(request.prefill_uj));
        let decode_uj: u64 = request.tokens_uj.iter().sum();
        prop_assert_eq!(report.decode_joules, (tokens > 0).then_some(joules(decode_uj)));
    }
    Ok(())
}

fn check(script: Script, events: Vec<Event>, seen: &mut Seen) -> Result<(), TestCaseError> {
    let counted_uj = Arc::new(AtomicU64::new(0));
    let meter: Box<dyn Meter> = match script {
        Script::Counter { range_uj, readings } => Box::new(FakeMeter::scripted(range_uj, readings)),
        Script::Sensor(script) => {
            Box::new(Sensor { script: script.into_iter(), power: PowerTotal::default() })
        }
    };
    let watched = Watched { meter, counted_uj: Arc::clone(&counted_uj) };
    let mut now = Duration::from_secs(100);
    let mut ledger = Ledger::new(Some(Box::new(watched)), now);
    let (mut running, mut ended_uj, mut next) = (Vec::<Running>::new(), 0, 0);
    for event in events {
        match event {
            Event::Join { chunks, tokens } if running.len() < 8 => {
                next += 1;
                seen.requests += 1;
                let (chunks_left, tokens_left) = (chunks + 1, tokens);
                running.push(Running { id: next, chunks_left, tokens_left, ..Running::default() });
            }
            Event::Join { .. } => {}
            Event::Step { first, weights, busy_ms } => {
                let shares: Vec<Share> = (running.iter().take(first).zip(weights))
                    .map(|(request, weight)| {
                        let phase = if request.chunks_left > 0 { Phase::Prefill } else { Phase::Decode };
                        Share { request: request.id, phase, weight }
                    })
                    .collect();
                ledger.begin_step(now);
                now += Duration::from_millis(busy_ms);
                let parts = ledger.end_step(now, &shares);
                seen.steps += 1;
                seen.batched += u64::from(shares.len() > 1);
                for (index, share) in shares.iter().enumerate() {
                    let request = &mut running[index];
                    let part_uj = parts.as_ref().map(|parts| parts[index]);
                    request.worked = true;
                    request.unknown |= part_uj.is_none();
                    match share.phase {
                        Phase::Prefill => {
                            request.prefill_uj += part_uj.unwrap_or(0);
                            request.chunks_left -= 1;
                        }
                        Phase::Decode => {
                            request.tokens_uj.extend(part_uj);
                            request.tokens_left = request.tokens_left.saturating_sub(1);
                        }
                    }
                }
                for request in
                    running.extract_if(.., |request| request.chunks_left == 0 && request.tokens_left == 0)
                {
                    ended_uj += request.uj();
                    close(&mut ledger, &request, seen)?;
                }
            }
            Event::Lost => ledger.begin_step(now),
            Event::Cancel { which } if which < running.len() => {
                let request = running.swap_remove(which);
                seen.cancelled += 1;
                ended_uj += request.uj();
                close(&mut ledger, &request, seen)?;
            }
            Event::Cancel { .. } => {}
            Event::Tick => ledger.tick(now),
            Event::Pass { ms } => now += Duration::from_millis(ms),
            Event::Back { ms } => now = now.saturating_sub(Duration::from_millis(ms)),
        }
        let totals = ledger.totals().expect("there is a meter");
        let running_uj: u64 = running.iter().map(Running::uj).sum();
        prop_assert_eq!(totals.requests_uj, ended_uj + running_uj);
        prop_assert_eq!(totals.requests_uj + totals.idle_uj + totals.unattributed_uj, totals.counter_uj);
        prop_assert_eq!(totals.counter_uj, counted_uj.load(Ordering::Relaxed));
    }
    let faults = ledger.meter().expect("there is a meter").faults();
    for (name, count) in [("gaps", faults.gaps), ("backwards", faults.backwards), ("failed", faults.failed)] {
        *seen.faults.entry(name).or_default() += count;
    }
    seen.schedules += 1;
    Ok(())
}

#[test]
fn over_thousands_of_schedules_requests_and_idle_and_unattributed_are_the_counter() {
    let mut runner =
        TestRunner::new(Config { cases: SCHEDULES, failure_persistence: None, ..Config::default() });
    let seen = std::cell::RefCell::new(Seen::default());
    let schedules = (script(), proptest::collection::vec(event(), 1..120));
    let outcome = runner.run(&schedules, |(script, events)| check(script, events, &mut seen.borrow_mut()));
    let seen = seen.into_inner();
    println!("{seen:?}");
    if let Err(error) = outcome {
        panic!("{error}");
    }
    assert_eq!(seen.schedules, u64::from(SCHEDULES));
    // A test of what never happened proves nothing.
    assert!(seen.batched > 10_000 && seen.cancelled > 1_000 && seen.unknown > 1_000, "{seen:?}");
    assert!(seen.faults.values().all(|count| *count > 1_000), "{seen:?}");
}
