//! Sensors that misbehave, one row each: what is done to the sensor, what is said of it, and that it recovers.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use tern_boards::energy::sampler::{PERIOD, Sampler};
use tern_boards::energy::{Faults, Meter, Method, Outcome};
use tern_boards::{Machine, Root};

const POWER: &str = "sys/class/hwmon/hwmon2/power1_input";

/// A copy of the tree of a board with an INA226 in its supply line, which a test may change.
struct Tree(tempfile::TempDir);

impl Tree {
    fn new() -> Tree {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/trees/rock-5b/.");
        let copied = Command::new("cp").arg("-r").arg(from).arg(dir.path()).status().expect("cp runs");
        assert!(copied.success());
        Tree(dir)
    }

    fn at(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    fn write(&self, path: &str, text: &[u8]) {
        std::fs::create_dir_all(self.at(path).parent().expect("it lies in a folder")).expect("a folder");
        std::fs::write(self.at(path), text).expect("it can be written");
    }

    fn remove(&self, path: &str) {
        std::fs::remove_file(self.at(path)).expect("it was there");
    }

    /// A pipe nobody writes to: whoever opens it waits.
    fn block(&self, path: &str) {
        self.remove(path);
        let made = Command::new("mkfifo").arg(self.at(path)).status().expect("mkfifo runs");
        assert!(made.success());
    }

    fn root(&self) -> Root {
        Root::new(self.0.path())
    }

    fn machine(&self) -> (Machine, Option<Box<dyn Meter>>) {
        Machine::with_meter(&self.root())
    }

    fn meter(&self) -> Box<dyn Meter> {
        let meter = self.machine().1.expect("the sensor works");
        assert_eq!(meter.method(), Method::HwmonPower);
        meter
    }
}

const fn ms(value: u64) -> Duration {
    Duration::from_millis(value)
}

fn in_full(error: &dyn std::error::Error) -> String {
    let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
    format!("{error}{cause}")
}

/// What is done, what a reading then says, and the count that rises.
type Row = (&'static str, fn(&Tree), &'static str, fn(Faults) -> u64);

#[test]
fn a_sensor_that_gives_no_usable_value_is_an_error_each_time_and_recovers() {
    let rows: [Row; 9] = [
        ("vanishes", |tree| tree.remove(POWER), "does not exist", |faults| faults.failed),
        (
            "its chip vanishes",
            |tree| {
                std::fs::remove_dir_all(tree.at("sys/class/hwmon/hwmon2")).expect("it was there");
            },
            "does not exist",
            |faults| faults.failed,
        ),
        ("words", |tree| tree.write(POWER, b"fault\n"), "holds \"fault\"", |faults| faults.failed),
        ("nothing", |tree| tree.write(POWER, b""), "holds \"\"", |faults| faults.failed),
        ("bytes", |tree| tree.write(POWER, &[0xff, 0xfe, 0]), "not UTF-8", |faults| faults.failed),
        ("a fraction", |tree| tree.write(POWER, b"7.5\n"), "holds \"7.5\"", |faults| faults.failed),
        ("endless", |tree| tree.write(POWER, &vec![b'1'; 2 << 20]), "longer than", |faults| faults.failed),
        ("negative", |tree| tree.write(POWER, b"-7375000\n"), "shunt", |faults| faults.failed),
        (
            "beyond the board",
            |tree| tree.write(POWER, b"900000000\n"),
            "than this board can draw",
            |faults| faults.rejected,
        ),
    ];
    for (name, break_it, says, count) in rows {
        let tree = Tree::new();
        let mut meter = tree.meter();
        meter.sample(ms(0)).expect(name);
        let before = meter.sample(ms(500)).expect(name);
        assert!(before.energy_uj > 0, "{name}");
        break_it(&tree);
        // Longer than one wild reading is borne.
        let error = meter.sample(ms(2000)).expect_err(name);
        assert!(in_full(&error).contains(says), "{name}: {}", in_full(&error));
        assert_eq!(count(meter.faults()), 1, "{name}");
        meter.sample(ms(2500)).expect_err(name);
        assert_eq!(count(meter.faults()), 2, "{name}");
        tree.write(POWER, b"7375000\n");
        let after = meter.sample(ms(3000)).expect(name);
        let next = meter.sample(ms(3500)).expect(name);
        assert!(after.energy_uj >= before.energy_uj && next.energy_uj > after.energy_uj, "{name}");
    }
}

#[test]
fn one_jump_among_good_readings_is_left_out_and_counted() {
    let tree = Tree::new();
    let mut meter = tree.meter();
    meter.sample(ms(0)).unwrap();
    meter.sample(ms(100)).unwrap();
    // The profile's load is 12 W; no board with it draws 61.
    tree.write(POWER, b"61000000\n");
    assert_eq!(meter.sample(ms(200)).unwrap().energy_uj, 737_500);
    tree.write(POWER, b"7375000\n");
    assert_eq!(meter.sample(ms(300)).unwrap().energy_uj, 3 * 737_500);
    assert_eq!(meter.faults(), Faults { rejected: 1, ..Faults::default() });
}

#[test]
fn a_counter_that_steps_back_wraps_or_stands_still_is_told_apart() {
    let tree = Tree::new();
    let energy = "sys/class/hwmon/hwmon2/energy1_input";
    let show = |joules: u64| tree.write(energy, format!("{}\n", joules * 1_000_000).as_bytes());
    show(100);
    let mut meter = tree.machine().1.unwrap();
    assert_eq!((meter.method(), meter.may_block()), (Method::EnergyCounter, true));
    meter.sample(ms(0)).unwrap();
    show(105);
    assert_eq!(meter.sample(ms(1000)).unwrap().energy_uj, 5_000_000);
    // The driver was reloaded.
    show(2);
    assert_eq!(meter.sample(ms(2000)).unwrap().energy_uj, 5_000_000);
    show(4);
    assert_eq!(meter.sample(ms(3000)).unwrap().energy_uj, 7_000_000);
    // No board adds a gigajoule in a second.
    show(1_000_000_000);
    assert_eq!(meter.sample(ms(4000)).unwrap().energy_uj, 7_000_000);
    assert_eq!(meter.faults().backwards, 2);
    let frozen = (5..30).find_map(|second| meter.sample(ms(second * 1000)).err()).expect("it stands still");
    assert!(frozen.to_string().contains("it is frozen"), "{frozen}");
    assert_eq!(meter.faults().frozen, 1);
    show(1_000_000_003);
    assert!(meter.sample(ms(31_000)).is_ok());
}

#[test]
fn a_sensor_that_shows_one_value_through_rest_and_load_is_frozen() {
    let tree = Tree::new();
    let mut meter = tree.meter();
    let frozen = (0..600_u64).find_map(|tenth| {
        // Fifteen seconds at rest, then all cores busy.
        let (busy, idle) = if tenth < 150 { (0, tenth * 40) } else { ((tenth - 150) * 40, 6000) };
        tree.write("proc/stat", format!("cpu {busy} 0 0 {idle} 0 0 0 0\n").as_bytes());
        meter.sample(ms(tenth * 100)).err().map(|error| (tenth, error))
    });
    let (tenth, error) = frozen.expect("nobody noticed");
    assert!((200..=250).contains(&tenth), "{tenth}");
    assert!(error.to_string().contains("hwmon ina226 has shown 7375000 for 20 s"), "{error}");
    tree.write(POWER, b"7400000\n");
    assert!(meter.sample(ms(70_000)).is_ok());
    assert_eq!((meter.faults().frozen, meter.faults().gaps), (1, 1));
}

#[test]
fn a_sensor_that_blocks_holds_up_neither_start_nor_reader() {
    // From the beginning: it is passed over for the next best, and named.
    let tree = Tree::new();
    tree.block(POWER);
    let began = Instant::now();
    let (machine, meter) = tree.machine();
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert_eq!(meter.expect("the table is left").method(), Method::UtilisationTable);
    let finding =
        machine.meters.iter().find(|finding| finding.looked_at.contains("ina226")).expect("it is named");
    assert!(finding.outcome == Outcome::Failed && finding.why.contains("has not answered"), "{finding:?}");
    // Later: an error in time, and all is well once it answers.
    let tree = Tree::new();
    let origin = Instant::now();
    let mut sampler = Sampler::spawn(tree.meter(), PERIOD, origin).unwrap();
    sampler.sample(origin.elapsed()).unwrap();
    tree.block(POWER);
    let patience = Instant::now() + Duration::from_secs(20);
    let error = loop {
        assert!(Instant::now() < patience, "it never blocks");
        if let Err(error) = sampler.sample(origin.elapsed()) {
            break error;
        }
    };
    assert!(error.to_string().contains("has not answered for"), "{error}");
    let began = Instant::now();
    assert!(sampler.sample(origin.elapsed()).is_err());
    assert!(began.elapsed() < Duration::from_millis(200), "{:?}", began.elapsed());
    // The pipe answers whoever waits at it; from then on there is a file again.
    let pipe = tree.at(POWER).with_extension("pipe");
    std::fs::rename(tree.at(POWER), &pipe).unwrap();
    tree.write(POWER, b"7375000\n");
    std::fs::write(&pipe, b"7375000\n").unwrap();
    while let Err(error) = sampler.sample(origin.elapsed()) {
        assert!(Instant::now() < patience, "it never comes back: {error}");
    }
    assert!(sampler.faults().failed >= 2);
}

#[test]
fn a_wrong_shunt_is_told_by_the_boards_own_figures() {
    for (microwatts, microohms) in [("120000000", "200"), ("737500", "20000")] {
        let tree = Tree::new();
        tree.write(POWER, microwatts.as_bytes());
        tree.write("sys/class/hwmon/hwmon2/shunt_resistor", microohms.as_bytes());
        let (machine, meter) = tree.machine();
        assert_eq!(meter.expect("the table is left").method(), Method::UtilisationTable);
        let finding = machine.meters.iter().find(|finding| finding.looked_at.contains("ina226")).unwrap();
        assert_eq!(finding.outcome, Outcome::Failed);
        let says = format!("check the shunt: the driver says {microohms} uOhm");
        assert!(finding.why.contains(&says) && finding.why.contains("12 W busy"), "{}", finding.why);
    }
}

#[test]
fn a_sensor_that_may_not_be_read_says_how_to_grant_it() {
    let tree = Tree::new();
    let root = tree.root().denying(&format!("/{POWER}"));
    let (machine, meter) = Machine::with_meter(&root);
    assert_eq!(meter.expect("the table is left").method(), Method::UtilisationTable);
    let finding = machine.meters.iter().find(|finding| finding.looked_at.contains("ina226")).unwrap();
    assert!(finding.outcome == Outcome::Denied && finding.why.contains("udev rule"), "{finding:?}");
}

#[test]
fn a_board_never_seen_borrows_no_table_and_says_what_to_do() {
    let tree = Tree::new();
    tree.write("proc/device-tree/compatible", b"acme,gateway\0rockchip,rk3588\0");
    std::fs::remove_dir_all(tree.at("sys/class/hwmon/hwmon2")).unwrap();
    let (machine, meter) = tree.machine();
    assert!(meter.is_none() && machine.meter.is_none());
    let finding = machine.meters.iter().find(|finding| finding.looked_at.contains("board table")).unwrap();
    assert_eq!(finding.outcome, Outcome::Absent);
    for words in ["not borrowed", "joules stay unknown", "fit a sensor", "[energy]", "/etc/tern/boards.d"] {
        assert!(finding.why.contains(words), "{words:?} in {}", finding.why);
    }
}
