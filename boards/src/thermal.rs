//! How warm the machine is and whether it is being slowed.
//!
//! A throttled run says little about a board at its best, so reports carry the flag. Three sources are asked: the
//! kernel's cooling devices, the Raspberry Pi firmware, and the firmware's under-voltage alarm.

use serde::Serialize;

use crate::root::Root;

/// Temperatures and throttling.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Thermal {
    /// Every thermal zone that can be read.
    pub zones: Vec<Zone>,
    /// The warmest of them.
    pub hottest_celsius: Option<f64>,
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

/// Bits 0 to 3 of the Raspberry Pi firmware's answer, true now; the same bits from 16 on say "since boot"
/// (Raspberry Pi documentation, `vcgencmd get_throttled`).
const FIRMWARE_BITS: [&str; 4] =
    ["under-voltage", "frequency capped", "throttled by heat or voltage", "soft temperature limit"];

impl Thermal {
    /// Reads temperatures and throttling under `root`.
    pub fn detect(root: &Root) -> Thermal {
        let zones = zones(root);
        let hottest_celsius = zones.iter().map(|zone| zone.celsius).reduce(f64::max);
        let mut thermal = Thermal { zones, hottest_celsius, throttled: None, notes: Vec::new() };
        thermal.ask_cooling_devices(root);
        thermal.ask_firmware(root);
        thermal.ask_voltage_alarm(root);
        thermal
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
                self.notes.push(format!("firmware: {name} now"));
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
                    self.notes.push("the supply voltage is too low (rpi_volt alarm)".into());
                }
            }
        }
    }
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
    fn firmware_bits_tell_now_from_since_boot() {
        let path = "sys/devices/platform/soc/soc:firmware/get_throttled";
        let (_dir, root) = tree(&[(path, "50005\n")]);
        let thermal = Thermal::detect(&root);
        assert_eq!(thermal.throttled, Some(true));
        assert_eq!(
            thermal.notes,
            ["firmware: under-voltage now", "firmware: throttled by heat or voltage now"]
        );
        let (_dir, root) = tree(&[(path, "0x50000\n")]);
        let thermal = Thermal::detect(&root);
        assert_eq!(thermal.throttled, Some(false));
        assert!(thermal.notes.iter().all(|note| note.ends_with("since boot")) && thermal.notes.len() == 2);
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
