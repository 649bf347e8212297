//! Everything at once: what `tern doctor` shows and what the daemon asks at start.

use serde::Serialize;

use crate::cpu::Cpu;
use crate::energy::{self, Found, Meter, MeterFinding, Method, Scope, Wanted};
use crate::memory::Memory;
use crate::profile::Board;
use crate::root::Root;
use crate::select::kernel_sets;
use crate::thermal::Thermal;

/// The machine: processor, memory, board, warmth and meters.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Machine {
    /// The processor.
    pub cpu: Cpu,
    /// Main memory.
    pub memory: Memory,
    /// The board and what is known of it beforehand.
    pub board: Board,
    /// Kernel sets by name that this program can run here, best first. They belong to the running machine, whatever
    /// root the rest was read from.
    pub kernels: Vec<&'static str>,
    /// Temperatures and throttling.
    pub thermal: Thermal,
    /// The meter that would be used.
    pub meter: Option<MeterSummary>,
    /// Every place that was looked at for a meter, and what came of it.
    pub meters: Vec<MeterFinding>,
    /// Things an operator should mend, one sentence each: board profiles that could not be used.
    pub problems: Vec<String>,
}

/// A meter in words.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MeterSummary {
    /// Chip, zone or table row.
    pub source: String,
    /// How it gets joules.
    pub method: Method,
    /// What they cover.
    pub scope: Scope,
    /// Half-width of the 95 % interval as a fraction.
    pub relative_uncertainty: f64,
}

/// A machine, and meters on it that can be read.
pub struct Metered {
    /// The machine.
    pub machine: Machine,
    /// The meter to use.
    pub meter: Option<Box<dyn Meter>>,
    /// The best of the others that measure, to compare with.
    pub witness: Option<Box<dyn Meter>>,
}

impl Machine {
    /// Reads the machine under `root`; `Root::new("/")` for the one this program runs on.
    pub fn detect(root: &Root) -> Machine {
        Machine::with_meter(root).0
    }

    /// As [`Machine::detect`], and hands over the meter that was chosen.
    pub fn with_meter(root: &Root) -> (Machine, Option<Box<dyn Meter>>) {
        let found = Machine::with_meters(root, Wanted::default());
        (found.machine, found.meter)
    }

    /// As [`Machine::detect`], with what the operator `wanted` of meters; hands over the meters that were chosen.
    pub fn with_meters(root: &Root, wanted: Wanted) -> Metered {
        let cpu = Cpu::detect(root);
        let (board, errors) = Board::detect(root, cpu.arch);
        let Found { meter, witness, findings: meters } = energy::detect_wanted(root, &board.profile, wanted);
        let summary = meter.as_deref().map(|meter| MeterSummary {
            source: meter.source().to_owned(),
            method: meter.method(),
            scope: meter.scope(),
            relative_uncertainty: meter.relative_uncertainty(),
        });
        let thermal = Thermal::detect(root).on(&board.profile);
        let machine = Machine {
            cpu,
            memory: Memory::detect(root),
            board,
            kernels: kernel_sets().map(|set| set.name).collect(),
            thermal,
            meter: summary,
            meters,
            problems: errors.iter().map(ToString::to_string).collect(),
        };
        Metered { machine, meter, witness }
    }
}
