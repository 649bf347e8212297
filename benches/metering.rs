//! What a reading of each power meter costs, and what its sampling comes to in per cent of one core.
//!
//! ```sh
//! cargo bench --bench metering
//! ```
//! The meters read files written into a temporary folder, `/proc/stat` of this machine, and memory. What is left out is
//! the time that a chip on an I2C bus or a firmware takes to answer; the CPU waits for those and is free meanwhile, save
//! for drivers that poll. Only a board can tell.

use std::path::Path;
use std::time::{Duration, Instant};

use tern_boards::energy::external::{Outside, Told, feed};
use tern_boards::energy::file::{FileMeter, FileSource, Unit};
use tern_boards::energy::hwmon::{self, Hwmon};
use tern_boards::energy::model::calibration::CorePower;
use tern_boards::energy::model::{Calibration, ModelMeter};
use tern_boards::energy::pmic::Pmic;
use tern_boards::energy::powercap::Powercap;
use tern_boards::energy::sampler::{PERIOD, Sampler};
use tern_boards::energy::table::UtilisationTable;
use tern_boards::energy::{Meter, Scope};
use tern_boards::profile::built_in;
use tern_boards::{Profile, Root};
use tern_tests::simulation::Simulation;

/// Readings that are timed together.
const READINGS: u32 = 20_000;

/// The rows of a tree of sysfs.
fn tree(name: &str) -> Root {
    Root::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("boards/tests/trees").join(name))
}

fn profile(name: &str) -> Profile {
    built_in().find(|profile| profile.name == name).expect("it is compiled in")
}

/// Processor time of this thread, by `/proc/thread-self/stat`, would be as coarse as a hundredth of a second: over twenty
/// thousand readings in a row, time passed is time worked.
fn time_of_one(mut read: impl FnMut(Duration)) -> Duration {
    let origin = Instant::now();
    for _ in 0..READINGS / 10 {
        read(origin.elapsed());
    }
    let began = Instant::now();
    for _ in 0..READINGS {
        read(origin.elapsed());
    }
    began.elapsed() / READINGS
}

fn say(name: &str, each: Duration, hertz: f64) {
    let percent = each.as_secs_f64() * hertz * 100.0;
    println!("{name:<42} {:>8.2} us  {hertz:>5} /s  {percent:>8.4} % of a core", each.as_secs_f64() * 1e6);
}

/// Times a meter whose readings must succeed.
fn meter(name: &str, mut meter: impl Meter, hertz: f64) {
    meter.sample(Duration::ZERO).unwrap_or_else(|error| panic!("{name}: {error}"));
    // A recorded value stands still, which a meter may call frozen: that is a reading like any other.
    say(name, time_of_one(|now| drop(meter.sample(now))), hertz);
}

fn channel(root: &Root, label: Option<&str>) -> hwmon::Channel {
    let mut channels = hwmon::channels(root).into_iter();
    channels.find(|channel| channel.label.as_deref() == label).expect("the tree has it")
}

fn main() {
    let sampled = 1.0 / PERIOD.as_secs_f64();
    let rock = tree("rock-5b");
    let ina226 = Hwmon::open(&rock, channel(&rock, None), Scope::BoardDc, 60.0).expect("it can be read");
    meter("hwmon, one power file (INA226)", ina226, sampled);
    let jetson = tree("jetson-orin-nano");
    let ina3221 = channel(&jetson, Some("VDD_IN"));
    let ina3221 = Hwmon::open(&jetson, ina3221, Scope::Module, 60.0).expect("it can be read");
    meter("hwmon, voltage times current (INA3221)", ina3221, sampled);
    meter(
        "PMIC, the answer's text alone",
        Pmic::open(&tree("raspberry-pi-5")).expect("it can be read"),
        sampled,
    );
    let rapl = Powercap::detect(&tree("x86-rapl")).expect("it can be read").expect("it is there");
    meter("RAPL, one package, read by each step", rapl, sampled);
    let table = UtilisationTable::detect(&Root::new("/"), &profile("raspberry-pi-4b"));
    meter(
        "board table, /proc/stat of this machine",
        table.expect("it can be read").expect("it has figures"),
        sampled,
    );
    let board = Simulation::pi_4(1);
    let core = |mhz, watts| CorePower { cluster: 0, mhz, watts };
    let calibration = Calibration {
        scope: Scope::Wall,
        idle_w: 2.5,
        cores: vec![core(600, 0.4), core(1800, 1.4)],
        byte_nj: 0.2,
        instruction_nj: None,
        median_error: 0.03,
        relative_uncertainty: 0.1,
        loads: 12,
        date: None,
        against: None,
    };
    let calibrated = Profile { calibration: Some(calibration), ..profile("raspberry-pi-4b") };
    let model = ModelMeter::detect(board.root(), &calibrated).expect("it can be read");
    meter("calibrated model, four cores, 13 clocks", model.expect("it is calibrated"), sampled);
    let folder = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(folder.path().join("power_w"), "3.5\n").expect("it can be written");
    let from = FileSource {
        path: "/power_w".into(),
        unit: Unit::Watts,
        stale: Duration::from_secs(3600),
        relative_uncertainty: 0.05,
        most_watts: 60.0,
    };
    meter(
        "a file of watts",
        FileMeter::open(&Root::new(folder.path()), from).expect("it can be read"),
        sampled,
    );
    let outside = Outside {
        source: "plug".into(),
        relative_uncertainty: 0.05,
        silence: Duration::from_secs(3600),
        most_watts: 60.0,
    };
    let (teller, mut plug) = feed(outside);
    let told = Told { watts: Some(3.5), counter: None };
    teller.tell(told);
    let payload =
        br#"{"Time":"2026-02-01T12:00:10","ENERGY":{"Total":3.185,"Power":4,"Voltage":231,"Current":0.040}}"#;
    let section: tern::config::metering::PlugSection =
        serde_json::from_str(r#"{"topic":"t","kind":"tasmota"}"#).expect("a sound section");
    say(
        "a plug's message, read and added",
        time_of_one(|_| teller.tell(section.read(payload).expect("it is one"))),
        1.0,
    );
    say("a plug, read by a step of the engine", time_of_one(|now| drop(plug.sample(now))), sampled);
    let origin = Instant::now();
    let (_teller, idle) = feed(Outside {
        source: "plug".into(),
        relative_uncertainty: 0.05,
        silence: Duration::from_secs(3600),
        most_watts: 60.0,
    });
    let mut sampler = Sampler::spawn(Box::new(idle), Duration::from_secs(3600), origin).expect("a thread");
    say(
        "handing a reading over between threads",
        time_of_one(|_| drop(sampler.sample(origin.elapsed()))),
        sampled,
    );
}
