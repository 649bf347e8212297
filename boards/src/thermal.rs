//! How warm the machine is and whether it is being slowed.
//!
//! A throttled run says little about a board at its best, so reports carry the flag. Three sources are asked: the
//! kernel's cooling devices, the Raspberry Pi firmware, and the firmware's under-voltage alarm.

use serde::Serialize;

use crate::profile::Profile;
use crate::root::Root;

/// Temperatures and throttling.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Thermal {
    /// Every thermal zone that can be read.
    pub zones: Vec<Zone>,
    /// The warmest of them; on a board whose profile names the processor's zones, the warmest of those.
    pub hottest_celsius: Option<f64>,
    /// When the board slows down, by its profile.
    pub throttle_celsius: Option<f64>,
    /// Whether anything slows the CPU now; `None` where no source can say.
    pub throttled: Option<bool>,
    /// What slows it, or slowed it since boot, in words.
    pub notes: Vec<String>,
}

/// One thermal zone.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Zone {
    /// The kernel's name for it (`cpu-thermal`, `x86_pkg_temp`).
    pub name: String,
    /// Its temperature.
    pub celsius: f64,
}

/// What to do about a supply that is too weak.
const SUPPLY: &str = "use a supply of 5 V and 3 A (5 A for a Raspberry Pi 5) and a short cable, and unplug what the USB ports feed";

/// Bits 0 to 3 of the Raspberry Pi firmware's answer, true now; the same bits from 16 on say "since boot"
/// (Raspberry Pi documentation, `vcgencmd get_throttled`).
const FIRMWARE_BITS: [&str; 4] =
    ["under-voltage", "frequency capped", "throttled by heat or voltage", "soft temperature limit"];

impl Thermal {
    /// Reads temperatures and throttling under `root`.
    pub fn detect(root: &Root) -> Thermal {
        let zones = zones(root);
        let hottest_celsius = zones.iter().map(|zone| zone.celsius).reduce(f64::max);
        let mut thermal = Thermal { zones, hottest_celsius, ..Thermal::default() };
        thermal.ask_cooling_devices(root);
        thermal.ask_firmware(root);
        thermal.ask_voltage_alarm(root);
        thermal
    }

    /// The same with what is known of the board: which zones are the processor's, and when it slows down.
    #[must_use]
    pub fn on(mut self, profile: &Profile) -> Thermal {
        let Some(known) = &profile.thermal else { return self };
        let theirs = self.zones.iter().filter(|zone| known.zones.contains(&zone.name));
        if let Some(hottest) = theirs.map(|zone| zone.celsius).reduce(f64::max) {
            self.hottest_celsius = Some(hottest);
        }
        self.throttle_celsius = known.throttle_c.as_ref().map(|figure| figure.value);
        self
    }

    fn say(&mut self, throttled: bool) {
        self.throttled = Some(self.throttled.unwrap_or(false) || throttled);
    }

    /// A cooling device that acts on CPU frequency is above state 0 while the kernel holds the CPU back.
    fn ask_cooling_devices(&mut self, root: &Root) {
        const FOLDER: &str = "/sys/class/thermal";
        for device in root.list(FOLDER).iter().filter(|name| name.starts_with("cooling_device")) {
            let kind = root.read(&format!("{FOLDER}/{device}/type")).unwrap_or_default();
            if !(kind.contains("cpufreq") || kind == "Processor") {
                continue;
            }
            if let Ok(state) = root.read_u64(&format!("{FOLDER}/{device}/cur_state")) {
                self.say(state > 0);
                if state > 0 {
                    self.notes.push(format!("{kind} is held back (cooling state {state})"));
                }
            }
        }
    }

    fn ask_firmware(&mut self, root: &Root) {
        // The node sits below `soc`, whose name carries an address on some kernels.
        const FOLDER: &str = "/sys/devices/platform";
        let socs = root.list(FOLDER).into_iter().filter(|name| name.starts_with("soc"));
        let paths = socs.map(|soc| format!("{FOLDER}/{soc}/{soc}:firmware/get_throttled"));
        let Some(text) = paths.into_iter().find_map(|path| root.read(&path).ok()) else { return };
        // The file is hexadecimal, with and without the prefix by kernel version.
        let Ok(bits) = u32::from_str_radix(text.trim_start_matches("0x"), 16) else { return };
        self.say(bits & 0xf != 0);
        for (bit, name) in FIRMWARE_BITS.iter().enumerate() {
            if bits >> bit & 1 == 1 {
                let advice = if bit == 0 { format!("; {SUPPLY}") } else { String::new() };
                self.notes.push(format!("firmware: {name} now{advice}"));
            } else if bits >> (bit + 16) & 1 == 1 {
                self.notes.push(format!("firmware: {name} since boot"));
            }
        }
    }

    fn ask_voltage_alarm(&mut self, root: &Root) {
        const FOLDER: &str = "/sys/class/hwmon";
        for chip in root.list(FOLDER) {
            if root.read(&format!("{FOLDER}/{chip}/name")).is_ok_and(|name| name == "rpi_volt")
                && let Ok(alarm) = root.read_u64(&format!("{FOLDER}/{chip}/in0_lcrit_alarm"))
            {
                self.say(alarm != 0);
                if alarm != 0 {
                    self.notes.push(format!("the supply voltage is too low (rpi_volt alarm); {SUPPLY}"));
                }
            }
        }
    }
}

/// The lowest temperature at which the kernel begins to slow the processor (a `passive` trip point), degrees Celsius. Zones
/// named after the processor count, all of them where none is.
pub fn passive_trip_celsius(root: &Root) -> Option<f64> {
    const FOLDER: &str = "/sys/class/thermal";
    let mut trips: Vec<(bool, f64)> = Vec::new();
    for zone in root.list(FOLDER).iter().filter(|name| name.starts_with("thermal_zone")) {
        let kind = root.read(&format!("{FOLDER}/{zone}/type")).unwrap_or_default().to_lowercase();
        let is_processor = ["cpu", "soc", "core", "pkg", "package"].iter().any(|word| kind.contains(word));
        for file in root.list(&format!("{FOLDER}/{zone}")) {
            let Some(trip) = file.strip_suffix("_type").filter(|trip| trip.starts_with("trip_point_")) else {
                continue;
            };
            let is_passive =
                root.read(&format!("{FOLDER}/{zone}/{file}")).is_ok_and(|kind| kind == "passive");
            let millidegrees = root.read_i64(&format!("{FOLDER}/{zone}/{trip}_temp"));
            // Trip points that are not used read as zero or as absolute nonsense.
            if let Some(celsius) = millidegrees.ok().map(|temp| temp as f64 / 1000.0)
                && is_passive
                && (30.0..=150.0).contains(&celsius)
            {
                trips.push((is_processor, celsius));
            }
        }
    }
    let any = trips.iter().any(|(is_processor, _)| *is_processor);
    trips.into_iter().filter(|(own, _)| *own || !any).map(|(_, celsius)| celsius).reduce(f64::min)
}

fn zones(root: &Root) -> Vec<Zone> {
    const FOLDER: &str = "/sys/class/thermal";
    let names = root.list(FOLDER).into_iter().filter(|name| name.starts_with("thermal_zone"));
    names
        .filter_map(|zone| {
            let name = root.read(&format!("{FOLDER}/{zone}/type")).ok()?;
            // Millidegrees. Zones that are switched off read as an error or as absolute nonsense.
            let celsius = root.read_i64(&format!("{FOLDER}/{zone}/temp")).ok()? as f64 / 1000.0;
            (-55.0..=200.0).contains(&celsius).then_some(Zone { name, celsius })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[(&str, &str)]) -> (tempfile::TempDir, Root) {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let root = Root::new(dir.path());
        (dir, root)
    }

    #[test]
    fn a_machine_that_shows_nothing_is_not_called_cool() {
        let (_dir, root) = tree(&[]);
        assert_eq!(Thermal::detect(&root), Thermal::default());
    }

    #[test]
    fn a_profile_says_which_zones_count_and_when_the_board_slows_down() {
        let files = [
            ("sys/class/thermal/thermal_zone0/type", "cpu-thermal\n"),
            ("sys/class/thermal/thermal_zone0/temp", "51000\n"),
            ("sys/class/thermal/thermal_zone1/type", "nvme-thermal\n"),
            ("sys/class/thermal/thermal_zone1/temp", "70000\n"),
        ];
        let (_dir, root) = tree(&files);
        let bare = Thermal::detect(&root);
        assert_eq!((bare.hottest_celsius, bare.throttle_celsius), (Some(70.0), None));
        let profile = |name: &str| crate::profile::built_in().find(|profile| profile.name == name).unwrap();
        let on = bare.clone().on(&profile("raspberry-pi-5"));
        assert_eq!((on.hottest_celsius, on.throttle_celsius), (Some(51.0), Some(80.0)));
        // A board of which nothing is known is as it was, and one whose zones have other names keeps the warmest.
        assert_eq!(bare.clone().on(&profile("generic-aarch64")), bare);
        assert_eq!(bare.on(&profile("rock-5b")).hottest_celsius, Some(70.0));
    }

    #[test]
    fn firmware_bits_tell_now_from_since_boot() {
        let path = "sys/devices/platform/soc/soc:firmware/get_throttled";
        let (_dir, root) = tree(&[(path, "50005\n")]);
        let thermal = Thermal::detect(&root);
        assert_eq!(thermal.throttled, Some(true));
        assert!(thermal.notes[0].starts_with("firmware: under-voltage now; use a supply of 5 V and 3 A"));
        assert_eq!(thermal.notes[1..], ["firmware: throttled by heat or voltage now"]);
        let (_dir, root) = tree(&[(path, "0x50000\n")]);
        let thermal = Thermal::detect(&root);
        assert_eq!(thermal.throttled, Some(false));
        assert!(thermal.notes.iter().all(|note| note.ends_with("since boot")) && thermal.notes.len() == 2);
    }

    #[test]
    fn the_lowest_passive_trip_of_the_processor_counts() {
        let trip = |zone: u32, kind: &'static str, trip: &'static str, temp: &'static str| {
            let folder = format!("sys/class/thermal/thermal_zone{zone}");
            [
                (format!("{folder}/type"), kind),
                (format!("{folder}/trip_point_0_type"), trip),
                (format!("{folder}/trip_point_0_temp"), temp),
            ]
        };
        let with = |zones: &[[(String, &str); 3]]| {
            let files: Vec<(&str, &str)> =
                zones.iter().flatten().map(|(path, text)| (path.as_str(), *text)).collect();
            let (_dir, root) = tree(&files);
            passive_trip_celsius(&root)
        };
        let wifi = trip(0, "iwlwifi_1\n", "passive\n", "60000\n");
        let big = trip(1, "bigcore0-thermal\n", "passive\n", "85000\n");
        let small = trip(2, "littlecore-thermal\n", "passive\n", "75000\n");
        assert_eq!(with(&[wifi.clone(), big, small]), Some(75.0));
        assert_eq!(with(core::slice::from_ref(&wifi)), Some(60.0));
        let critical = trip(1, "cpu-thermal\n", "critical\n", "110000\n");
        assert_eq!(with(&[critical]), None);
        assert_eq!(with(&[trip(1, "cpu-thermal\n", "passive\n", "0\n"), wifi]), Some(60.0));
        assert_eq!(with(&[]), None);
    }

    #[test]
    fn a_cooling_device_above_zero_is_throttling_and_a_fan_is_not() {
        let zone = [
            ("sys/class/thermal/thermal_zone0/type", "cpu-thermal\n"),
            ("sys/class/thermal/thermal_zone0/temp", "81234\n"),
            ("sys/class/thermal/thermal_zone1/type", "off\n"),
            ("sys/class/thermal/thermal_zone1/temp", "-274000\n"),
            ("sys/class/thermal/cooling_device0/type", "pwm-fan\n"),
            ("sys/class/thermal/cooling_device0/cur_state", "3\n"),
            ("sys/class/thermal/cooling_device1/type", "cpufreq-cpu0\n"),
        ];
        let with = |state| [&zone[..], &[("sys/class/thermal/cooling_device1/cur_state", state)]].concat();
        let (_dir, root) = tree(&with("0\n"));
        let thermal = Thermal::detect(&root);
        assert_eq!((thermal.hottest_celsius, thermal.throttled), (Some(81.234), Some(false)));
        assert_eq!(thermal.zones.len(), 1);
        let (_dir, root) = tree(&with("2\n"));
        assert_eq!(Thermal::detect(&root).throttled, Some(true));
    }
}
