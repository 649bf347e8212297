//! Whole machines from trees in `tests/trees`; its README says where they come from.

use core::time::Duration;
use std::path::{Path, PathBuf};

use tern_boards::energy::{Meter, Method, Outcome, Scope};
use tern_boards::machine::MeterSummary;
use tern_boards::profile::Match;
use tern_boards::{Machine, Root};

fn tree(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/trees").join(name);
    assert!(path.is_dir(), "{} is missing", path.display());
    path
}

fn machine(name: &str) -> (Machine, Option<Box<dyn Meter>>) {
    Machine::with_meter(&Root::new(tree(name)))
}

/// A copy of a tree that a test may change.
fn copy(name: &str) -> tempfile::TempDir {
    fn copy_into(from: &Path, to: &Path) {
        std::fs::create_dir_all(to).unwrap();
        for entry in std::fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            let target = to.join(entry.file_name());
            if entry.file_type().unwrap().is_dir() {
                copy_into(&entry.path(), &target);
            } else {
                std::fs::copy(entry.path(), target).unwrap();
            }
        }
    }
    let dir = tempfile::tempdir().unwrap();
    copy_into(&tree(name), dir.path());
    dir
}

fn write(dir: &tempfile::TempDir, path: &str, text: &str) {
    let path = dir.path().join(path);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

fn outcome(machine: &Machine, looked_at: &str) -> (Outcome, String) {
    let finding = machine.meters.iter().find(|finding| finding.looked_at.contains(looked_at));
    let finding = finding.unwrap_or_else(|| panic!("nothing about {looked_at:?} in {:#?}", machine.meters));
    (finding.outcome, finding.why.clone())
}

const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// What the profiles claim of a board and what its tree shows must not contradict each other.
#[test]
fn profiles_agree_with_the_trees() {
    for name in ["raspberry-pi-zero-2-w", "raspberry-pi-4b", "raspberry-pi-5", "rock-5b", "jetson-orin-nano"]
    {
        let machine = machine(name).0;
        let profile = &machine.board.profile;
        assert_eq!(profile.name, name);
        assert!(matches!(machine.board.matched, Match::DeviceTree(_)), "{name}");
        let seen: Vec<(&str, usize)> =
            machine.cpu.clusters.iter().map(|cluster| (cluster.core.as_str(), cluster.cpus.len())).collect();
        let told: Vec<(&str, usize)> =
            profile.clusters.iter().map(|cluster| (cluster.core.as_str(), cluster.count)).collect();
        assert_eq!(seen, told, "{name}");
        // the Pi 4 tree hides /proc/cpuinfo, so no feature is seen there
        if !machine.cpu.features.is_empty() {
            assert_eq!(machine.cpu.features, profile.features, "{name}");
        }
        assert!(machine.problems.is_empty(), "{:?}", machine.problems);
    }
}

#[test]
fn pi_zero_2_w_has_four_a53_without_dotprod_and_a_table() {
    let (machine, meter) = machine("raspberry-pi-zero-2-w");
    assert_eq!((machine.cpu.arch, machine.cpu.logical_cores), ("aarch64", 4));
    assert!(!machine.cpu.features.contains(&"dotprod") && !machine.cpu.is_heterogeneous());
    assert_eq!(machine.cpu.clusters[0].max_mhz, Some(1000));
    assert_eq!(machine.memory.total_bytes, Some(426_332 * 1024));
    assert_eq!(machine.board.model.as_deref(), Some("Raspberry Pi Zero 2 W Rev 1.0"));
    let l2 = machine.cpu.caches.iter().find(|cache| cache.level == 2).unwrap();
    assert_eq!((l2.size_bytes, l2.instances, l2.shared_by), (512 * 1024, 1, 4));
    assert_eq!((machine.thermal.hottest_celsius, machine.thermal.throttled), (Some(44.008), Some(false)));
    let meter = meter.unwrap();
    assert_eq!((meter.method(), meter.scope()), (Method::UtilisationTable, Scope::Wall));
    assert_eq!((meter.relative_uncertainty(), meter.idle_watts()), (0.35, Some(1.4)));
    assert_eq!(outcome(&machine, "board table").0, Outcome::Used);
    assert_eq!(outcome(&machine, "RAPL").0, Outcome::Absent);
    assert_eq!(outcome(&machine, "power sensors").0, Outcome::Absent);
}

#[test]
fn pi_4_behind_a_hardened_unit_is_recognised_and_says_what_hides_its_load() {
    let (machine, meter) = machine("raspberry-pi-4b");
    assert_eq!(machine.board.matched, Match::DeviceTree("raspberrypi,4-model-b".into()));
    assert_eq!(machine.cpu.clusters[0].core, "cortex-a72");
    assert!(meter.is_none());
    let (outcome, why) = outcome(&machine, "board table");
    assert_eq!(outcome, Outcome::Failed);
    assert!(why.contains("/proc/stat does not exist"), "{why}");
    assert_eq!(machine.thermal.throttled, Some(true));
    assert!(machine.thermal.notes.iter().any(|note| note.contains("supply voltage")));
}

#[test]
fn pi_5_asks_its_pmic_and_leaves_other_chips_alone() {
    let (machine, meter) = machine("raspberry-pi-5");
    assert!(machine.cpu.features.contains(&"dotprod") && !machine.cpu.features.contains(&"i8mm"));
    assert_eq!(outcome(&machine, "power sensors").0, Outcome::Absent);
    assert_eq!(outcome(&machine, "PMIC").0, Outcome::Used);
    let mut meter = meter.unwrap();
    assert_eq!((meter.method(), meter.scope()), (Method::PmicRailsCorrected, Scope::BoardDc));
    meter.sample(s(0)).unwrap();
    let joules = meter.sample(s(1)).unwrap().energy_uj as f64 / 1e6;
    assert!((joules - 3.441077).abs() < 1e-5, "{joules}");
    // without the right to ask the firmware, the next best, and a way to grant it
    let root = Root::new(tree("raspberry-pi-5")).denying("/dev/vcio");
    let (without, meter) = Machine::with_meter(&root);
    assert_eq!(meter.unwrap().method(), Method::UtilisationTable);
    let (found, why) = outcome(&without, "PMIC");
    assert!(found == Outcome::Denied && why.contains("group video"), "{why}");
    // the fan turns, the CPU is not held back, and it would be from 80 degrees on
    assert_eq!((machine.thermal.throttled, machine.thermal.throttle_celsius), (Some(false), Some(80.0)));
}

#[test]
fn rock_5b_puts_the_big_cores_first_and_uses_the_sensor_in_its_supply_line() {
    let (machine, meter) = machine("rock-5b");
    let big = &machine.cpu.clusters[0];
    assert_eq!(
        (big.core.as_str(), big.cpus.as_slice(), big.max_mhz),
        ("cortex-a76", &[4, 5, 6, 7][..], Some(2352))
    );
    assert!(machine.cpu.is_heterogeneous());
    assert_eq!(machine.cpu.fast_cores(), 4);
    assert_eq!(machine.thermal.throttled, Some(true));
    let mut meter = meter.unwrap();
    assert_eq!(
        (meter.method(), meter.scope(), meter.source()),
        (Method::HwmonPower, Scope::BoardDc, "hwmon ina226")
    );
    assert_eq!(meter.resolution().period, Duration::from_millis(36));
    assert_eq!(meter.sample(s(1)).unwrap().energy_uj, 0);
    assert_eq!(meter.sample(s(2)).unwrap().energy_uj, 7_375_000);
    let (used, why) = outcome(&machine, "ina226");
    assert!(used == Outcome::Used && why.contains("supply line"), "{why}");
    assert_eq!(outcome(&machine, "board table").0, Outcome::NotNeeded);
}

#[test]
fn jetson_uses_the_module_input_rail_and_never_a_sum_of_rails() {
    let dir = copy("jetson-orin-nano");
    let (machine, meter) = Machine::with_meter(&Root::new(dir.path()));
    let mut meter = meter.unwrap();
    assert_eq!((meter.method(), meter.scope()), (Method::HwmonPower, Scope::Module));
    assert_eq!(meter.source(), "hwmon ina3221 VDD_IN");
    meter.sample(s(0)).unwrap();
    // 5.024 V x 1.088 A for half a second, then 5 V x 2 A at its end
    assert_eq!(meter.sample(Duration::from_millis(500)).unwrap().energy_uj, 5_466_112 / 2);
    write(&dir, "sys/class/hwmon/hwmon1/in1_input", "5000\n");
    write(&dir, "sys/class/hwmon/hwmon1/curr1_input", "2000\n");
    let energy_uj = meter.sample(s(1)).unwrap().energy_uj;
    assert_eq!(energy_uj, 5_466_112 / 2 + (5_466_112 + 10_000_000) / 4);
    assert_eq!(outcome(&machine, "VDD_CPU_GPU_CV").0, Outcome::Unclear);
    assert_eq!(outcome(&machine, "VDD_SOC").0, Outcome::Unclear);
    assert!(!machine.meters.iter().any(|finding| finding.looked_at.contains("sum of shunt")));
    // a sensor that stops answering is an error, and the total goes on after it
    std::fs::remove_file(dir.path().join("sys/class/hwmon/hwmon1/curr1_input")).unwrap();
    assert!(meter.sample(s(2)).is_err());
    assert_eq!(meter.faults().failed, 1);
    write(&dir, "sys/class/hwmon/hwmon1/curr1_input", "-2000\n");
    let error = meter.sample(s(3)).unwrap_err().to_string();
    assert!(error.contains("-10000000") && error.contains("shunt"), "{error}");
    write(&dir, "sys/class/hwmon/hwmon1/curr1_input", "2000\n");
    assert_eq!(meter.sample(s(4)).unwrap().energy_uj, energy_uj + 30_000_000);
    assert_eq!((meter.faults().failed, meter.faults().gaps), (2, 1));
}

#[test]
fn rapl_counts_the_package_once_and_over_its_wrap() {
    let dir = copy("x86-rapl");
    let (machine, meter) = Machine::with_meter(&Root::new(dir.path()));
    assert_eq!(machine.board.matched, Match::Generic);
    assert_eq!(machine.board.profile.name, "generic-x86-64");
    assert_eq!(machine.board.model.as_deref(), Some("A gateway nobody described"));
    assert_eq!((machine.cpu.logical_cores, machine.cpu.physical_cores), (4, 2));
    assert!(machine.cpu.features.contains(&"avxvnni"));
    let mut meter = meter.unwrap();
    assert_eq!((meter.method(), meter.scope()), (Method::EnergyCounter, Scope::CpuPackage));
    assert_eq!(meter.source(), "intel-rapl:0 (package-0)");
    assert_eq!(meter.sample(s(0)).unwrap().energy_uj, 0);
    write(&dir, "sys/class/powercap/intel-rapl:0/energy_uj", "262000000000\n");
    assert_eq!(meter.sample(s(100)).unwrap().energy_uj, 1_000_000_000);
    write(&dir, "sys/class/powercap/intel-rapl:0/energy_uj", "56671150\n");
    assert_eq!(meter.sample(s(110)).unwrap().energy_uj, 1_200_000_000);
    write(&dir, "sys/class/powercap/intel-rapl:0/energy_uj", "ten\n");
    let error = meter.sample(s(111)).unwrap_err();
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.contains("energy_uj holds \"ten\""), "{cause}");
    write(&dir, "sys/class/powercap/intel-rapl:0/energy_uj", "56671160\n");
    assert_eq!(meter.sample(s(112)).unwrap().energy_uj, 1_200_000_010);
}

#[test]
fn rapl_without_permission_tells_how_to_grant_it() {
    let root = Root::new(tree("x86-rapl")).denying("/sys/class/powercap/intel-rapl:0/energy_uj");
    let (machine, meter) = Machine::with_meter(&root);
    assert!(meter.is_none() && machine.meter.is_none());
    let (outcome, why) = outcome(&machine, "RAPL");
    assert_eq!(outcome, Outcome::Denied);
    assert!(why.contains("intel-rapl:0/energy_uj") && why.contains("tmpfiles.d"), "{why}");
}

#[test]
fn a_second_package_is_added() {
    let dir = copy("x86-rapl");
    for (file, text) in [("name", "package-1"), ("energy_uj", "500"), ("max_energy_range_uj", "262143328850")]
    {
        write(&dir, &format!("sys/class/powercap/intel-rapl:2/{file}"), text);
    }
    let mut meter = Machine::with_meter(&Root::new(dir.path())).1.unwrap();
    assert_eq!(meter.source(), "intel-rapl:0 (package-0) + intel-rapl:2 (package-1)");
    meter.sample(s(0)).unwrap();
    write(&dir, "sys/class/powercap/intel-rapl:2/energy_uj", "800");
    assert_eq!(meter.sample(s(1)).unwrap().energy_uj, 300);
}

#[test]
fn an_energy_accumulator_is_preferred_to_the_same_chip_s_power() {
    let dir = copy("rock-5b");
    write(&dir, "sys/class/hwmon/hwmon2/name", "ina228\n");
    write(&dir, "sys/class/hwmon/hwmon2/energy1_input", "9000000\n");
    let mut meter = Machine::with_meter(&Root::new(dir.path())).1.unwrap();
    assert_eq!((meter.method(), meter.relative_uncertainty()), (Method::EnergyCounter, 0.02));
    meter.sample(s(0)).unwrap();
    write(&dir, "sys/class/hwmon/hwmon2/energy1_input", "9500000\n");
    assert_eq!(meter.sample(s(3600)).unwrap().energy_uj, 500_000);
}

#[test]
fn two_sensors_that_nobody_named_are_not_guessed_at_until_a_profile_names_one() {
    let dir = copy("rock-5b");
    write(&dir, "sys/class/hwmon/hwmon3/name", "ina219\n");
    write(&dir, "sys/class/hwmon/hwmon3/power1_input", "1000000\n");
    let (machine, meter) = Machine::with_meter(&Root::new(dir.path()));
    assert_eq!(meter.unwrap().method(), Method::UtilisationTable);
    assert_eq!(outcome(&machine, "ina219").0, Outcome::Unclear);
    assert_eq!(outcome(&machine, "ina226").0, Outcome::Unclear);
    let profile = "name = \"rock-5b\"\ntitle = \"ROCK 5B of the workshop\"\ncompatible = [\"radxa,rock-5b\"]\n\
                   [[sensor]]\nchip = \"ina226\"\nscope = \"wall\"\n";
    write(&dir, "etc/tern/boards.d/workshop.toml", profile);
    let (machine, meter) = Machine::with_meter(&Root::new(dir.path()));
    assert_eq!(machine.board.profile.title, "ROCK 5B of the workshop");
    let meter = meter.unwrap();
    assert_eq!((meter.source(), meter.scope()), ("hwmon ina226", Scope::Wall));
}

#[test]
fn a_profile_with_a_mistake_is_left_out_and_named() {
    let dir = copy("raspberry-pi-5");
    write(&dir, "etc/tern/boards.d/bad.toml", "name = \"raspberry-pi-5\"\nwats = 3\n");
    let machine = Machine::detect(&Root::new(dir.path()));
    assert_eq!(machine.board.profile.title, "Raspberry Pi 5 Model B");
    let [problem] = machine.problems.as_slice() else { panic!("{:?}", machine.problems) };
    assert!(problem.contains("/etc/tern/boards.d/bad.toml") && problem.contains("line 2"), "{problem}");
}

#[test]
fn an_unknown_board_has_no_joules() {
    let dir = copy("raspberry-pi-zero-2-w");
    write(&dir, "proc/device-tree/compatible", "acme,gateway\0brcm,bcm2837\0");
    let (machine, meter) = Machine::with_meter(&Root::new(dir.path()));
    assert_eq!(
        (machine.board.profile.name.as_str(), &machine.board.matched),
        ("generic-aarch64", &Match::Generic)
    );
    assert!(meter.is_none() && machine.meter.is_none());
    let (outcome, why) = outcome(&machine, "board table");
    assert!(outcome == Outcome::Absent && why.contains("joules stay unknown"), "{why}");
}

#[test]
fn a_board_known_by_its_firmware_tables_is_recognised() {
    let dir = tempfile::tempdir().unwrap();
    write(&dir, "sys/class/dmi/id/product_name", "Radxa Orion O6\n");
    write(&dir, "proc/stat", "cpu 1 1 1 1\n");
    let machine = Machine::detect(&Root::new(dir.path()));
    assert_eq!(machine.board.matched, Match::Dmi("Radxa Orion O6".into()));
    let Some(MeterSummary { method, .. }) = machine.meter else { panic!("no meter") };
    assert_eq!(method, Method::UtilisationTable);
}

#[test]
fn an_empty_root_is_a_machine_nobody_knows_anything_of() {
    let dir = tempfile::tempdir().unwrap();
    let machine = Machine::detect(&Root::new(dir.path()));
    assert_eq!((machine.cpu.logical_cores, machine.cpu.fast_cores()), (0, 1));
    assert_eq!(machine.board.profile.name, "generic");
    assert_eq!((machine.memory.total_bytes, machine.meter), (None, None));
}

#[test]
fn the_machine_is_written_as_json_for_doctor() {
    let json = serde_json::to_value(machine("rock-5b").0).unwrap();
    assert_eq!(json["cpu"]["clusters"][0]["core"], "cortex-a76");
    assert_eq!(json["board"]["matched"]["by"], "device_tree");
    assert_eq!(json["meter"]["method"], "hwmon_power");
    assert_eq!(json["meters"][0]["outcome"], "absent");
}
