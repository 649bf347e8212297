//! The power-management chip of the Raspberry Pi 5 family: voltage and current of twelve rails.
//!
//! No driver shows them in `/sys`; the firmware's command `pmic_read_adc` does, one line a figure:
//!
//! ```text
//!  VDD_CORE_A current(7)=1.50000000A
//!  VDD_CORE_V volt(15)=0.90000000V
//! ```
//!
//! The chip does not see the 5 V input, so the sum over the rails leaves out what hangs on 5 V (USB, fan, NVMe) and the
//! losses of the regulators: a quarter to a fifth of the board. A published line corrects for it:
//!
//! ```text
//! board = 1.1451 sum(V I) + 0.5879 W      jfikar/RPi5-power, 2024-05, against a USB-C meter
//! ```
//!
//! A second meter, at the wall (sbc-bench with a Netio 4KF), gives the slope 1.15. The line holds for a board with
//! nothing on its USB ports; single readings of a busy board jump by 2 W, so only means of a second and more say
//! something. Hence the bound of 10 %.

use core::time::Duration;

use super::counter::PowerTotal;
use super::frozen::Frozen;
use super::mailbox::Mailbox;
use super::meter::{Faults, Meter, MeterError, Method, Resolution, Sample, Scope};
use crate::root::{ReadCause, ReadError, Root};

/// The firmware's device.
const DEVICE: &str = "/dev/vcio";

/// Name of this meter in a profile's `[[sensor]]`.
pub const CHIP: &str = "rpi-pmic";

/// How an operator lets the daemon ask.
pub const GRANT: &str =
    "let the service into group video and at /dev/vcio, as packaging/systemd/energy.conf does";

/// Rails with both a current and a voltage. `EXT5V` and `BATT` have a voltage only.
const RAILS: usize = 12;

/// Board watts by watts of the rails, and watts that the rails never see (see the head of this file).
const SLOPE: f64 = 1.1451;
const OFFSET_W: f64 = 0.5879;

/// 95 % bound of the corrected figure over a window of seconds.
const UNCERTAINTY: f64 = 0.10;

/// The firmware converts about ten times a second; a reading in between repeats the last.
const PERIOD: Duration = Duration::from_millis(100);

/// More than the supply can give: 27 W.
const MOST_W: f64 = 40.0;

/// Where the answers come from.
#[derive(Debug)]
enum Firmware {
    Mailbox(Mailbox),
    /// A recording of a machine: its `/dev/vcio` holds the answer.
    Recorded(Root),
}

/// The rails, corrected to the board's input, as a meter.
#[derive(Debug)]
pub struct Pmic {
    firmware: Firmware,
    source: String,
    total: PowerTotal,
    frozen: Frozen,
}

impl Pmic {
    /// Asks the firmware once to see that it answers.
    ///
    /// # Errors
    /// [`MeterError`] when the device is missing or forbidden, or the answer has not the twelve rails.
    pub fn open(root: &Root) -> Result<Pmic, MeterError> {
        let firmware = if root.is_live() {
            let opened = Mailbox::open(DEVICE.as_ref());
            Firmware::Mailbox(opened.map_err(|error| unreadable(ReadCause::from_io(&error)))?)
        } else {
            Firmware::Recorded(root.clone())
        };
        let source = format!("{RAILS} PMIC rails, board = {SLOPE} rails + {OFFSET_W} W");
        let meter = Pmic { firmware, source, total: PowerTotal::default(), frozen: Frozen::new(root) };
        meter.read()?;
        Ok(meter)
    }

    /// Power of the board, microwatts.
    fn read(&self) -> Result<u64, MeterError> {
        let answer = match &self.firmware {
            Firmware::Mailbox(mailbox) => {
                mailbox.ask("pmic_read_adc").map_err(|error| unreadable(ReadCause::from_io(&error)))?
            }
            Firmware::Recorded(root) => {
                root.read(DEVICE).map_err(|error| MeterError::from_read(error, GRANT))?
            }
        };
        let (rails, watts) = sum_of_rails(&answer);
        let implausible = |found: i64, expected| MeterError::Implausible {
            source: "the firmware's pmic_read_adc".to_owned(),
            found,
            expected,
        };
        if rails != RAILS {
            return Err(implausible(
                rails as i64,
                "12 rails with a current and a voltage, as on a Raspberry Pi 5",
            ));
        }
        if !(0.0..=MOST_W).contains(&watts) {
            return Err(implausible((watts * 1e6) as i64, "0 to 40,000,000 microwatts over all rails"));
        }
        Ok(((SLOPE * watts + OFFSET_W) * 1e6).round() as u64)
    }
}

fn unreadable(cause: ReadCause) -> MeterError {
    MeterError::from_read(ReadError { path: DEVICE.to_owned(), cause }, GRANT)
}

/// Rails that have both figures, and their power together, watts.
fn sum_of_rails(answer: &str) -> (usize, f64) {
    let figure = |line: &str| -> Option<(String, char, f64)> {
        let (name, value) = line.trim().split_once('=')?;
        let name = name.split_ascii_whitespace().next()?;
        let (rail, kind) = name.rsplit_once('_')?;
        let kind = kind.chars().next().filter(|kind| matches!(kind, 'A' | 'V'))?;
        let number = value.trim().strip_suffix(kind)?.parse().ok()?;
        Some((rail.to_owned(), kind, number))
    };
    let figures: Vec<_> = answer.lines().filter_map(figure).collect();
    let amperes = figures.iter().filter(|(_, kind, _)| *kind == 'A');
    amperes
        .filter_map(|(rail, _, amperes)| {
            let volts = figures.iter().find(|(other, kind, _)| *kind == 'V' && other == rail)?.2;
            Some(volts * amperes)
        })
        .fold((0, 0.0), |(rails, sum), watts| (rails + 1, sum + watts))
}

impl Meter for Pmic {
    fn source(&self) -> &str {
        &self.source
    }

    fn method(&self) -> Method {
        Method::PmicRailsCorrected
    }

    fn scope(&self) -> Scope {
        Scope::BoardDc
    }

    fn relative_uncertainty(&self) -> f64 {
        UNCERTAINTY
    }

    fn resolution(&self) -> Resolution {
        // Single readings scatter by about a watt whatever their last digit says.
        Resolution { period: PERIOD, quantum_uj: 100_000 }
    }

    fn calibrated_at(&self) -> Option<&str> {
        Some("2024-05")
    }

    fn faults(&self) -> Faults {
        self.total.faults() + Faults { frozen: self.frozen.times(), ..Faults::default() }
    }

    fn sample(&mut self, now: Duration) -> Result<Sample, MeterError> {
        let power_uw = self.read().inspect_err(|_| self.total.fail())?;
        if let Err(error) = self.frozen.look("the PMIC", now, power_uw) {
            self.total.interrupt();
            self.total.fail();
            return Err(error);
        }
        Ok(Sample { at: now, energy_uj: self.total.add(now, power_uw), readings: self.total.readings() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A reading in the firmware's form; every rail carries `amperes` at 1 V.
    fn recording(amperes: f64) -> (tempfile::TempDir, Root) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("dev")).unwrap();
        write(&dir, amperes);
        let root = Root::new(dir.path());
        (dir, root)
    }

    fn write(dir: &tempfile::TempDir, amperes: f64) {
        let rails = [
            "3V7_WL_SW",
            "3V3_SYS",
            "1V8_SYS",
            "DDR_VDD2",
            "DDR_VDDQ",
            "1V1_SYS",
            "0V8_SW",
            "VDD_CORE",
            "3V3_DAC",
            "3V3_ADC",
            "0V8_AON",
            "HDMI",
        ];
        let mut text = String::new();
        for (index, rail) in rails.iter().enumerate() {
            text += &format!("     {rail}_A current({index})={amperes:.8}A\n");
        }
        for (index, rail) in rails.iter().enumerate() {
            text += &format!("     {rail}_V volt({})=1.00000000V\n", index + 8);
        }
        text += "     EXT5V_V volt(24)=5.14756000V\n      BATT_V volt(25)=0.00000000V\n";
        std::fs::write(dir.path().join("dev/vcio"), text).unwrap();
    }

    #[test]
    fn the_rails_are_summed_corrected_and_integrated() {
        let (dir, root) = recording(0.25);
        let mut meter = Pmic::open(&root).unwrap();
        // 12 rails x 0.25 W = 3 W; 1.1451 x 3 + 0.5879 = 4.0232 W
        assert_eq!(meter.sample(Duration::ZERO).unwrap().energy_uj, 0);
        assert_eq!(meter.sample(Duration::from_millis(500)).unwrap().energy_uj, 2_011_600);
        // to 6 W within the next half second: the trapezoid's mean is 4.5 W of rails
        write(&dir, 0.5);
        let expected = 2_011_600 + ((1.1451 * 4.5 + 0.5879) * 0.5 * 1e6) as u64;
        assert_eq!(meter.sample(Duration::from_secs(1)).unwrap().energy_uj, expected);
        assert_eq!(meter.method(), Method::PmicRailsCorrected);
    }

    #[test]
    fn an_answer_that_is_not_this_chips_is_refused_and_counted() {
        let (dir, root) = recording(0.25);
        let mut meter = Pmic::open(&root).unwrap();
        for (text, expected) in [
            ("error=1 error_msg=\"Command not registered\"", "reads 0; expected 12 rails"),
            ("VDD_CORE_A current(7)=1.0A\nVDD_CORE_V volt(15)=1.0V\n", "reads 1; expected 12 rails"),
        ] {
            std::fs::write(dir.path().join("dev/vcio"), text).unwrap();
            let error = meter.sample(Duration::from_secs(1)).unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
        }
        write(&dir, 5.0);
        let error = meter.sample(Duration::from_secs(1)).unwrap_err();
        assert!(error.to_string().contains("60000000"), "{error}");
        assert_eq!(meter.faults().failed, 3);
        let denied = Pmic::open(&root.denying(DEVICE)).unwrap_err();
        assert!(matches!(denied, MeterError::Denied { .. }) && denied.to_string().contains("video"));
    }
}
