//! The model against boards that do not keep to it: leakage that grows with heat, regulators that lose more at the ends
//! of their range, cores that draw less while they wait for memory, and a meter with a gain error, noise, drift and
//! steps.

use super::super::Busy;
use super::*;

/// Deterministic random numbers (splitmix64).
struct Random(u64);

impl Random {
    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn uniform(&mut self, from: f64, to: f64) -> f64 {
        from + (to - from) * (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Twelve uniform numbers: near enough to normal, without tails that no sensor has.
    fn normal(&mut self, deviation: f64) -> f64 {
        deviation * ((0..12).map(|_| self.uniform(0.0, 1.0)).sum::<f64>() - 6.0)
    }

    fn choose<T: Copy>(&mut self, from: &[T]) -> T {
        from[(self.bits() % from.len() as u64) as usize]
    }
}

/// A board as it is, not as the model has it.
struct Board {
    cores: usize,
    clocks_mhz: Vec<u32>,
    idle_w: f64,
    core_w_at_top: f64,
    byte_nj: f64,
    most_gb_s: f64,
    /// Share of a core's power that goes while it waits for memory.
    waiting: f64,
    leakage_a_watt: f64,
    /// Gain of the reference meter, its drift over the whole calibration, its noise per reading and its step.
    gain: f64,
    drift: f64,
    noise: f64,
    step_w: f64,
}

/// What runs: `threads` cores, of whose time `memory` goes into streaming.
#[derive(Clone, Copy)]
struct Work {
    threads: f64,
    mhz: u32,
    memory: f64,
    /// What the instructions draw beside a mean one: vectors more, waiting on branches less. No term sees it.
    mix: f64,
}

impl Board {
    /// Like a Raspberry Pi 4 (`big` false) or 5, with the scatter of chips and meters.
    fn random(random: &mut Random, big: bool) -> Board {
        let (idle_w, core_w_at_top, most_gb_s) = if big { (2.8, 1.9, 15.0) } else { (2.0, 1.0, 4.5) };
        let clocks_mhz = if big { vec![1500, 1800, 2100, 2400] } else { vec![600, 1000, 1500, 1800] };
        Board {
            cores: 4,
            clocks_mhz,
            idle_w: idle_w * random.uniform(0.8, 1.2),
            core_w_at_top: core_w_at_top * random.uniform(0.8, 1.2),
            byte_nj: random.uniform(0.10, 0.35),
            most_gb_s,
            waiting: random.uniform(0.70, 0.95),
            leakage_a_watt: random.uniform(0.0, 0.02),
            gain: 1.0 + random.normal(0.01),
            drift: random.normal(0.005),
            noise: 0.03,
            step_w: 0.01,
        }
    }

    fn activity(&self, work: Work, seconds: f64) -> Activity {
        let mhz = work.mhz;
        let busy = vec![Busy { cluster: 0, mhz, core_seconds: work.threads * seconds }];
        // Two cores saturate memory; what they stream follows their share of waiting.
        let stream = (work.threads * work.memory * 0.55).min(1.0) * self.most_gb_s * 1e9;
        Activity { seconds, busy, bytes: stream * seconds, instructions: None }
    }

    /// True watts.
    fn watts(&self, work: Work) -> f64 {
        let top = f64::from(self.clocks_mhz[self.clocks_mhz.len() - 1]);
        let f = f64::from(work.mhz) / top;
        // Voltage falls with the clock, not to nothing.
        let voltage = 0.7 + 0.3 * f;
        let mix = work.mix * (1.0 - work.memory * (1.0 - self.waiting));
        let cores = work.threads * self.core_w_at_top * f * voltage * voltage * mix;
        let memory = self.activity(work, 1.0).bytes * self.byte_nj * 1e-9;
        let warm = cores + memory;
        let leakage = self.leakage_a_watt * warm * warm;
        let loss = 0.02 * warm / (self.idle_w + warm);
        (self.idle_w + warm + leakage) * (1.0 + loss)
    }

    /// What the meter says over `seconds` at ten readings a second, `progress` of the way through the calibration.
    fn measure(&self, random: &mut Random, work: Work, seconds: f64, progress: f64) -> f64 {
        let watts = self.watts(work) * self.gain * (1.0 + self.drift * progress);
        let readings = (seconds * 10.0) as usize;
        let mean =
            (0..readings).map(|_| watts * (1.0 + random.normal(self.noise))).sum::<f64>() / readings as f64;
        (mean / self.step_w).round() * self.step_w * seconds
    }

    fn loads(&self, random: &mut Random) -> Vec<Load> {
        let mut works =
            vec![
                ("idle".to_owned(), Work { threads: 0.01, mhz: self.clocks_mhz[0], memory: 0.0, mix: 1.0 });
                3
            ];
        for &mhz in &self.clocks_mhz {
            for threads in 1..=self.cores {
                let kinds = [
                    ("vectors", 0.0, 1.15),
                    ("scalars", 0.0, 0.9),
                    ("memory", 1.0, 1.0),
                    ("mixed", 0.5, 1.05),
                ];
                for (kind, memory, mix) in kinds {
                    let name = format!("{kind}, {threads} threads, {mhz} MHz");
                    works.push((name, Work { threads: threads as f64, mhz, memory, mix }));
                }
            }
        }
        let count = works.len() as f64;
        let measured = works.into_iter().enumerate().map(|(index, (name, work))| Load {
            name,
            activity: self.activity(work, 8.0),
            joules: self.measure(random, work, 8.0, index as f64 / count),
        });
        measured.collect()
    }
}

const REFERENCE: Reference =
    Reference { relative_uncertainty: 0.025, resolution_w: 0.01, scope: Scope::BoardDc };

#[test]
fn loads_never_seen_are_within_five_percent_and_their_interval() {
    let mut random = Random(7);
    let (mut errors, mut inside, mut widths) = (Vec::new(), 0, Vec::new());
    for index in 0..120 {
        let board = Board::random(&mut random, index % 2 == 0);
        let calibration = fit(&board.loads(&mut random), REFERENCE).expect("a calibration");
        widths.push(calibration.relative_uncertainty);
        for _ in 0..25 {
            // Any mixture, parts of cores too; the clocks are those that were calibrated.
            let work = Work {
                threads: random.uniform(0.0, 4.0),
                mhz: random.choose(&board.clocks_mhz),
                memory: random.uniform(0.0, 1.0),
                mix: random.uniform(0.88, 1.17),
            };
            let error = calibration.joules(&board.activity(work, 1.0)) / board.watts(work) - 1.0;
            inside += usize::from(error.abs() <= calibration.relative_uncertainty);
            errors.push(error.abs());
        }
    }
    errors.sort_by(f64::total_cmp);
    widths.sort_by(f64::total_cmp);
    let (median, covered) = (errors[errors.len() / 2], inside as f64 / errors.len() as f64);
    println!(
        "{} loads on 120 boards: median error {:.2} %, 95 % of errors under {:.2} %, median interval +-{:.1} %, covers {:.1} %",
        errors.len(),
        median * 100.0,
        errors[errors.len() * 95 / 100] * 100.0,
        widths[widths.len() / 2] * 100.0,
        covered * 100.0
    );
    assert!(median <= 0.05, "median error {median}");
    assert!(covered >= 0.95, "covers {covered}");
    // An interval that covers everything by being wide says nothing.
    assert!(widths[widths.len() / 2] < 0.15, "{widths:?}");
}

fn board() -> (Board, Random) {
    let mut random = Random(3);
    (Board::random(&mut random, false), random)
}

#[test]
fn a_bad_calibration_is_refused_with_its_reason() {
    let (board, mut random) = board();
    let loads = board.loads(&mut random);
    let refused = |loads: &[Load], reference| fit(loads, reference).expect_err("refused").to_string();
    let few: Vec<Load> = loads.iter().take(6).cloned().collect();
    assert!(refused(&few, REFERENCE).contains("4 different loads"), "{}", refused(&few, REFERENCE));
    let busy: Vec<Load> = loads.iter().filter(|load| load.name != "idle").cloned().collect();
    assert!(refused(&busy, REFERENCE).contains("never at rest"));
    let coarse = Reference { resolution_w: 2.0, ..REFERENCE };
    assert!(refused(&loads, coarse).contains("resolves 2.00 W"));
    let mut dead = loads.clone();
    dead[5].joules = 0.0;
    assert!(refused(&dead, REFERENCE).contains(&format!("0 J for the load '{}'", dead[5].name)));
    // A meter that guesses: loads that were held out are not predicted.
    let mut guessed = loads.clone();
    for load in &mut guessed {
        load.joules *= random.uniform(0.5, 1.5);
    }
    let why = refused(&guessed, REFERENCE);
    assert!(why.contains("median error") && why.contains("worst '"), "{why}");
}

#[test]
fn a_term_that_never_varies_by_itself_is_named() {
    let (board, mut random) = board();
    let loads = board.loads(&mut random);
    // Every load streams in proportion to its cores' time: which of the two draws the power cannot be told.
    let alike: Vec<Load> = loads
        .into_iter()
        .filter(|load| load.name.ends_with("1800 MHz") || load.name == "idle")
        .map(|mut load| {
            load.activity.bytes = load.activity.busy.iter().map(|busy| busy.core_seconds).sum::<f64>() * 1e9;
            load
        })
        .collect();
    let error = fit(&alike, REFERENCE).expect_err("refused");
    assert!(matches!(error, FitError::Inseparable { .. }), "{error}");
}

#[test]
fn instructions_are_used_where_they_are_counted() {
    let (board, mut random) = board();
    let mut loads = board.loads(&mut random);
    // A machine whose power follows instructions alone, which busy time cannot see.
    for load in &mut loads {
        let busy: f64 = load.activity.busy.iter().map(|busy| busy.core_seconds).sum();
        let instructions = busy * random.uniform(0.2e9, 3e9);
        load.activity.instructions = Some(instructions);
        load.joules = 2.0 * load.activity.seconds + instructions * 0.6e-9;
    }
    let counted = fit(&loads, REFERENCE).expect("a calibration");
    assert!((counted.instruction_nj.expect("the term") - 0.6).abs() < 0.01, "{counted:?}");
    assert!(counted.median_error < 0.005);
    loads.iter_mut().for_each(|load| load.activity.instructions = None);
    assert!(matches!(fit(&loads, REFERENCE), Err(FitError::Poor { .. })));
}
