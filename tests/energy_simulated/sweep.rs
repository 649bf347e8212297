//! `tern energy sweep` on simulated boards.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use tern::calibration::bench::LOOK;
use tern::calibration::plan::{Extent, spread};
use tern::clocks::Clocks;
use tern::sweep::Setting;
use tern::sweep::compare::{against, recommended};
use tern::sweep::run::{Runner, SweepError, Swept, sweep};
use tern_boards::energy::model::Traffic;
use tern_boards::energy::{Meter, Method};
use tern_boards::{Machine, Root};
use tern_tests::simulation::{CORES, SimulatedModel, Simulation, Work};

use crate::bench::{Simulated, job, model_of, plug, pmic, run};

/// A model of 2.4 thousand million ternary weights, 2 bits each.
pub const LARGE: SimulatedModel = SimulatedModel { bytes_per_token: 0.75e9, core_seconds_per_token: 0.30 };

/// A simulated board that runs a simulated model.
pub struct Answering {
    root: Root,
    board: Rc<RefCell<Simulation>>,
    model: SimulatedModel,
    /// Rounds after which the user ends it.
    patience: usize,
    /// Tokens that were begun and not ended, by which the next round is ahead.
    part: f64,
}

impl Answering {
    pub fn new(bench: &Simulated, model: SimulatedModel) -> Answering {
        let board = Rc::clone(&bench.board);
        Answering { root: bench.root.clone(), board, model, patience: usize::MAX, part: 0.0 }
    }

    fn advance(&mut self, work: &Work, time: Duration, traffic: &Traffic, look: &mut dyn FnMut(Duration)) {
        look(self.now());
        for _ in 0..time.as_millis() / LOOK.as_millis() {
            traffic.add(self.board.borrow_mut().advance(work, LOOK.as_secs_f64()));
            look(self.now());
        }
    }
}

impl Runner for Answering {
    fn root(&self) -> &Root {
        &self.root
    }

    fn now(&self) -> Duration {
        self.board.borrow().now()
    }

    fn rest(&mut self, time: Duration, look: &mut dyn FnMut(Duration)) -> Result<(), SweepError> {
        self.advance(&Work::rest(), time, &Traffic::default(), look);
        Ok(())
    }

    fn work(
        &mut self,
        threads: usize,
        time: Duration,
        traffic: &Traffic,
        look: &mut dyn FnMut(Duration),
    ) -> Result<u64, SweepError> {
        self.patience = self.patience.checked_sub(1).ok_or(SweepError::Interrupted)?;
        let (work, tokens_per_second) = self.board.borrow().decode(self.model, threads);
        self.advance(&work, Duration::from_secs(1), traffic, &mut |_| ());
        self.advance(&work, time, traffic, look);
        let tokens = tokens_per_second * time.as_secs_f64() + self.part;
        self.part = tokens - tokens.floor();
        Ok(tokens as u64)
    }
}

/// All threads at three clocks.
pub fn settings(board: &Simulation) -> Vec<Setting> {
    let clocks = spread(board.clocks_mhz(), 3);
    let of = |threads: usize| clocks.iter().map(move |mhz| Setting { threads, mhz: Some(*mhz) });
    (1..=CORES).flat_map(of).collect()
}

pub fn swept(bench: &Simulated, meter: &mut dyn Meter, model: SimulatedModel) -> Result<Swept, SweepError> {
    let settings = settings(&bench.board.borrow());
    let clocks = Clocks::detect(&bench.root);
    let mut runner = Answering::new(bench, model);
    sweep(&mut runner, clocks, meter, &settings, 4, Duration::from_secs(10), &mut || ())
}

/// What a token takes in truth, at rest between settings.
fn true_joules(bench: &Simulated, setting: Setting, model: SimulatedModel) -> f64 {
    let mut board = bench.board.borrow_mut();
    let limits = board.limits();
    board.hold(setting.mhz.expect("a clock"));
    let (work, tokens_per_second) = board.decode(model, setting.threads);
    (0..20).for_each(|_| {
        board.advance(&work, 0.1);
    });
    let before = board.joules();
    (0..100).for_each(|_| {
        board.advance(&work, 0.1);
    });
    let joules = (board.joules() - before) / (tokens_per_second * 10.0);
    board.limit(limits);
    joules
}

/// Sweeps on random boards, and how what was said compares with the truth.
fn judged(boards: impl Iterator<Item = (Simulated, Box<dyn Meter>)>) -> (usize, usize, f64) {
    let (mut told, mut right, mut worst) = (0, 0, 0.0f64);
    for (bench, mut meter) in boards {
        let before = bench.board.borrow().limits();
        let swept = swept(&bench, &mut *meter, LARGE).expect("a sweep");
        assert_eq!(bench.board.borrow().limits(), before, "clocks are put back");
        let (fewest, chosen) = recommended(&swept.all, swept.worth).expect("settings");
        let truth: Vec<f64> = swept.all.iter().map(|one| true_joules(&bench, one.setting, LARGE)).collect();
        let of = |setting: Setting| {
            truth[swept.all.iter().position(|one| one.setting == setting).expect("it was swept")]
        };
        let least = truth.iter().copied().fold(f64::INFINITY, f64::min);
        worst = worst.max(of(chosen.setting) / least - 1.0);
        for (one, joules) in swept.all.iter().zip(&truth) {
            if against(fewest, one, swept.worth).1 {
                told += 1;
                right += usize::from(*joules > of(fewest.setting));
            }
        }
    }
    (told, right, worst)
}

#[test]
fn a_sensor_ranks_settings_and_what_it_tells_apart_is_so() {
    let boards = (0..6).map(|seed| {
        let bench = Simulated::new(Simulation::pi_5(100 + seed));
        let meter = Machine::with_meter(&bench.root).1.expect("the PMIC");
        (bench, meter)
    });
    let (told, right, worst) = judged(boards);
    println!(
        "Pi 5, PMIC: {right} of {told} settings told from the fewest are so; the one recommended takes at most {:.1} % more",
        worst * 100.0
    );
    assert!(told >= 30 && right * 100 >= told * 95, "{right} of {told}");
    assert!(worst < 0.10, "{worst}");
}

#[test]
fn a_calibrated_model_ranks_settings_as_far_as_it_can() {
    let boards = (0..4).map(|seed| {
        let mut bench = Simulated::new(Simulation::pi_4(100 + seed));
        let mut gauge = plug(&bench, 0.1);
        run(&mut bench, &mut gauge, &job(Extent::Few, 30)).expect("a calibration");
        let meter = model_of(&bench);
        (bench, meter)
    });
    let (told, right, worst) = judged(boards);
    println!(
        "Pi 4, model: {right} of {told} settings told from the fewest are so; the one recommended takes at most {:.1} % more",
        worst * 100.0
    );
    assert!(told >= 4 && right * 100 >= told * 95, "{right} of {told}");
    assert!(worst < 0.15, "{worst}");
}

#[test]
fn a_board_table_ranks_nothing() {
    let bench = Simulated::new(Simulation::pi_4(5));
    let mut meter = Machine::with_meter(&bench.root).1.expect("the table");
    assert_eq!(meter.method(), Method::UtilisationTable);
    let error = swept(&bench, &mut *meter, LARGE).expect_err("it cannot tell settings apart").to_string();
    assert!(error.contains("board table") && error.contains("tern energy calibrate"), "{error}");
}

#[test]
fn clocks_are_put_back_when_the_user_ends_a_sweep() {
    let bench = Simulated::new(Simulation::pi_5(6));
    let mut meter = match pmic(&bench) {
        tern::calibration::gauge::Gauge::Meter(meter) => meter,
        tern::calibration::gauge::Gauge::Display(_) => unreachable!("a meter was asked for"),
    };
    let mut runner = Answering { patience: 5, ..Answering::new(&bench, LARGE) };
    let settings = settings(&bench.board.borrow());
    let clocks = Clocks::detect(&bench.root);
    let ended = sweep(&mut runner, clocks, &mut *meter, &settings, 4, Duration::from_secs(2), &mut || ());
    assert!(matches!(ended, Err(SweepError::Interrupted)));
    assert_eq!(bench.board.borrow().limits(), (1500, 2400));
}
