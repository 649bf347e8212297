//! `tern energy calibrate` on simulated boards, through the code that the command uses: files, plan, meter, fit, profile.

use std::cell::RefCell;
use std::io::{BufReader, Read};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use tern::calibration::bench::{Bench, Interrupted, LOOK};
use tern::calibration::gauge::{Display, Gauge};
use tern::calibration::job::Job;
use tern::calibration::plan::{Extent, Kind};
use tern_boards::energy::model::Traffic;
use tern_boards::energy::{self, Meter, Method, Outcome, Scope};
use tern_boards::{Machine, Root};
use tern_tests::simulation::{Simulation, Work};

/// A simulated board as a bench; the plug at it is read elsewhere.
struct Simulated {
    root: Root,
    board: Rc<RefCell<Simulation>>,
    /// Loads after which the user ends it.
    patience: usize,
}

impl Simulated {
    fn new(board: Simulation) -> Simulated {
        Simulated { root: board.root().clone(), board: Rc::new(RefCell::new(board)), patience: usize::MAX }
    }
}

/// What a load of this kind is on a simulated board. The two that compute differ as instructions do, which no term sees.
fn work(kind: Kind, cpus: &[usize]) -> Work {
    let (memory, mix) = match kind {
        Kind::Idle => (0.0, 1.0),
        Kind::Scalars => (0.0, 0.9),
        Kind::Vectors => (0.0, 1.15),
        Kind::Memory => (1.0, 1.0),
        Kind::Mixed => (0.5, 1.05),
    };
    Work { cpus: cpus.to_vec(), duty: 1.0, memory, mix }
}

impl Bench for Simulated {
    fn root(&self) -> &Root {
        &self.root
    }

    fn now(&self) -> Duration {
        self.board.borrow().now()
    }

    fn run(
        &mut self,
        kind: Kind,
        cpus: &[usize],
        time: Duration,
        traffic: &Traffic,
        look: &mut dyn FnMut(Duration),
    ) -> Result<(), Interrupted> {
        self.patience = self.patience.checked_sub(1).ok_or(Interrupted)?;
        let work = work(kind, cpus);
        for _ in 0..time.as_millis() / LOOK.as_millis() {
            traffic.add(self.board.borrow_mut().advance(&work, LOOK.as_secs_f64()));
            look(self.now());
        }
        Ok(())
    }
}

/// Somebody who types what the plug shows.
struct Reader {
    board: Rc<RefCell<Simulation>>,
    step_w: f64,
    left: Vec<u8>,
}

impl Read for Reader {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        if self.left.is_empty() {
            let decimals = if self.step_w < 1.0 { 1 } else { 0 };
            let watts = self.board.borrow().plug_w(30.0, self.step_w);
            self.left = format!("{watts:.decimals$}\n").into_bytes();
        }
        // A line at a time: the next is of another load.
        let count = out.len().min(self.left.len());
        out[..count].copy_from_slice(&self.left[..count]);
        self.left.drain(..count);
        Ok(count)
    }
}

fn plug(bench: &Simulated, step_w: f64) -> Gauge<'static> {
    let reader = Reader { board: Rc::clone(&bench.board), step_w, left: Vec::new() };
    Gauge::Display(Display::new(Box::new(BufReader::new(reader)), "a plug's display".into(), 0.03, false))
}

fn pmic(bench: &Simulated) -> Gauge<'static> {
    let (machine, meter) = Machine::with_meter(&bench.root);
    let meter = meter.expect("the PMIC");
    assert_eq!(meter.method(), Method::PmicRailsCorrected, "{:?}", machine.meters);
    Gauge::Meter(meter)
}

fn job(extent: Extent, seconds: u64) -> Job {
    Job { time: Duration::from_secs(seconds), extent, output: None, force: false, date: "2026-01-20".into() }
}

/// What the command says on a simulated board, with its folder left out.
fn run(bench: &mut Simulated, gauge: &mut Gauge<'_>, job: &Job) -> Result<String, String> {
    let mut said = String::new();
    let folder = bench.board.borrow().folder().display().to_string();
    let ended = job.run(bench, gauge, &mut |line| said += &format!("{line}\n"));
    ended.map(|_| said.replace(&folder, "")).map_err(|error| error.to_string().replace(&folder, ""))
}

/// The model that the profile now holds, as the daemon finds it. A Pi 5 still has its PMIC; the model stands behind it.
fn model_of(bench: &Simulated) -> Box<dyn Meter> {
    let cpu = tern_boards::Cpu::detect(&bench.root);
    let (mut board, errors) = tern_boards::Board::detect(&bench.root, cpu.arch);
    assert!(errors.is_empty(), "{errors:?}");
    board.profile.sensors.clear();
    let (meter, findings) = energy::detect(&bench.root, &board.profile);
    let meter = meter.expect("the model");
    assert_eq!(meter.method(), Method::CalibratedModel, "{findings:?}");
    assert!(
        findings.iter().any(|found| found.outcome == Outcome::NotNeeded && found.looked_at.contains("table"))
    );
    meter
}

/// Errors of the model on `count` loads that it has not seen, ten seconds each.
fn errors_on_unseen_loads(bench: &Simulated, count: usize) -> Vec<f64> {
    let mut meter = model_of(bench);
    let traffic = meter.traffic().expect("a model goes by traffic");
    let mut board = bench.board.borrow_mut();
    let mut errors = Vec::new();
    for _ in 0..count {
        let last_clock = board.clocks_mhz().len() as f64 - 0.01;
        let clock = board.uniform(0.0, last_clock) as usize;
        let mhz = board.clocks_mhz()[clock];
        board.hold(mhz);
        let threads = board.uniform(0.0, 4.99) as usize;
        let work = Work {
            cpus: (0..threads).collect(),
            duty: board.uniform(0.2, 1.0),
            memory: board.uniform(0.0, 1.0),
            mix: board.uniform(0.88, 1.17),
        };
        let (before, first) = (board.joules(), meter.sample(board.now()).expect("files that can be read"));
        for _ in 0..50 {
            traffic.add(board.advance(&work, 0.2));
            meter.sample(board.now()).expect("files that can be read");
        }
        let last = meter.sample(board.now()).expect("files that can be read");
        let found = (last.energy_uj - first.energy_uj) as f64 * 1e-6;
        errors.push((found / (board.joules() - before) - 1.0).abs());
    }
    assert_eq!(meter.faults(), energy::Faults::default());
    errors
}

#[test]
fn loads_never_seen_are_within_five_percent_and_the_interval_on_random_boards() {
    let boards = 16;
    for (name, pi_5) in [("Pi 4, plug of 0.1 W", false), ("Pi 5, PMIC", true)] {
        let (mut errors, mut inside, mut widths) = (Vec::new(), 0, Vec::new());
        for seed in 0..boards {
            let board = if pi_5 { Simulation::pi_5(seed) } else { Simulation::pi_4(seed) };
            let mut bench = Simulated::new(board);
            let said = if pi_5 {
                let mut gauge = pmic(&bench);
                run(&mut bench, &mut gauge, &job(Extent::Full, 4))
            } else {
                let mut gauge = plug(&bench, 0.1);
                run(&mut bench, &mut gauge, &job(Extent::Few, 30))
            };
            said.unwrap_or_else(|error| panic!("board {seed}: {error}"));
            let width = model_of(&bench).relative_uncertainty();
            let found = errors_on_unseen_loads(&bench, 20);
            inside += found.iter().filter(|error| **error <= width).count();
            errors.extend(found);
            widths.push(width);
        }
        errors.sort_by(f64::total_cmp);
        widths.sort_by(f64::total_cmp);
        let (median, covered) = (errors[errors.len() / 2], inside as f64 / errors.len() as f64);
        println!(
            "{name}: {} loads on {boards} boards: median error {:.2} %, 95 % of errors under {:.2} %, median interval +-{:.1} %, covers {:.1} %",
            errors.len(),
            median * 100.0,
            errors[errors.len() * 95 / 100] * 100.0,
            widths[widths.len() / 2] * 100.0,
            covered * 100.0
        );
        assert!(median <= 0.05, "{name}: median error {median}");
        assert!(covered >= 0.95, "{name}: covers {covered}");
        assert!(widths[widths.len() / 2] < 0.2, "{name}: an interval so wide says nothing: {widths:?}");
    }
}

#[test]
fn a_plug_of_whole_watts_is_refused_with_the_reason() {
    let mut bench = Simulated::new(Simulation::pi_4(1));
    let before = bench.board.borrow().limits();
    let mut gauge = plug(&bench, 1.0);
    let error = run(&mut bench, &mut gauge, &job(Extent::Few, 30)).expect_err("too coarse");
    assert!(error.contains("steps of 1.00 W") && error.contains("use a finer meter"), "{error}");
    assert_eq!(bench.board.borrow().limits(), before, "clocks are put back");
    assert!(written(&bench).is_empty(), "nothing is left behind");
}

/// Files among the overrides.
fn written(bench: &Simulated) -> Vec<PathBuf> {
    let folder = bench.root.resolve("/etc/tern/boards.d");
    std::fs::read_dir(folder).map_or(Vec::new(), |all| all.flatten().map(|entry| entry.path()).collect())
}

#[test]
fn clocks_are_put_back_and_nothing_is_written_when_the_user_ends_it() {
    let mut bench = Simulated::new(Simulation::pi_5(2));
    bench.patience = 9;
    let mut gauge = pmic(&bench);
    let error = run(&mut bench, &mut gauge, &job(Extent::Full, 2)).expect_err("interrupted");
    assert!(error.contains("interrupted; nothing was written"), "{error}");
    assert_eq!(bench.board.borrow().limits(), (1500, 2400));
    assert!(written(&bench).is_empty());
}

#[test]
fn a_calibration_is_not_overwritten_unless_told_and_is_the_boards_own() {
    let mut bench = Simulated::new(Simulation::pi_4(3));
    let mut gauge = plug(&bench, 0.1);
    let mut job = job(Extent::Few, 30);
    run(&mut bench, &mut gauge, &job).expect("a calibration");
    assert_eq!(written(&bench).len(), 1);
    let meter = model_of(&bench);
    assert_eq!((meter.scope(), meter.calibrated_at()), (Scope::Wall, Some("2026-01-20")));
    assert!(meter.source().contains("against a plug's display"), "{}", meter.source());
    let error = run(&mut bench, &mut gauge, &job).expect_err("it is there");
    assert!(error.contains("--force replaces it"), "{error}");
    job.force = true;
    run(&mut bench, &mut gauge, &job).expect("another one");
    // All that the compiled-in profile knew of the board is still there.
    let (machine, _) = Machine::with_meter(&bench.root);
    let profile = &machine.board.profile;
    assert_eq!((profile.name.as_str(), profile.recommended.threads), ("raspberry-pi-4b", Some(4)));
    assert!(profile.power.is_some() && profile.calibration.is_some());
}
