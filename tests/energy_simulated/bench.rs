//! A simulated board where this machine would be, and what reads it.

use std::cell::RefCell;
use std::io::{BufReader, Read};
use std::rc::Rc;
use std::time::Duration;

use tern::calibration::bench::{Bench, Interrupted, LOOK};
use tern::calibration::gauge::{Display, Gauge};
use tern::calibration::job::Job;
use tern::calibration::plan::{Extent, Kind};
use tern_boards::energy::model::Traffic;
use tern_boards::energy::{self, Meter, Method, Outcome};
use tern_boards::{Machine, Root};
use tern_tests::simulation::{Simulation, Work};

/// A simulated board as a bench; the plug at it is read elsewhere.
pub struct Simulated {
    pub root: Root,
    pub board: Rc<RefCell<Simulation>>,
    /// Loads after which the user ends it.
    pub patience: usize,
}

impl Simulated {
    pub fn new(board: Simulation) -> Simulated {
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
    Work { cpus: cpus.to_vec(), memory, mix, ..Work::rest() }
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

pub fn plug(bench: &Simulated, step_w: f64) -> Gauge<'static> {
    let reader = Reader { board: Rc::clone(&bench.board), step_w, left: Vec::new() };
    Gauge::Display(Display::new(Box::new(BufReader::new(reader)), "a plug's display".into(), 0.03, false))
}

pub fn pmic(bench: &Simulated) -> Gauge<'static> {
    let (machine, meter) = Machine::with_meter(&bench.root);
    let meter = meter.expect("the PMIC");
    assert_eq!(meter.method(), Method::PmicRailsCorrected, "{:?}", machine.meters);
    Gauge::Meter(meter)
}

pub fn job(extent: Extent, seconds: u64) -> Job {
    Job { time: Duration::from_secs(seconds), extent, output: None, force: false, date: "2026-01-20".into() }
}

/// What the command says on a simulated board, with its folder left out.
pub fn run(bench: &mut Simulated, gauge: &mut Gauge<'_>, job: &Job) -> Result<String, String> {
    let mut said = String::new();
    let folder = bench.board.borrow().folder().display().to_string();
    let ended = job.run(bench, gauge, &mut |line| said += &format!("{line}\n"));
    ended.map(|_| said.replace(&folder, "")).map_err(|error| error.to_string().replace(&folder, ""))
}

/// The model that the profile now holds, as the daemon finds it. A Pi 5 still has its PMIC; the model stands behind it.
pub fn model_of(bench: &Simulated) -> Box<dyn Meter> {
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
