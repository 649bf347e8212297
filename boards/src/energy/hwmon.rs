//! Power sensors on I2C, through `/sys/class/hwmon`.
//!
//! Chips are found by their `name`, never by number, since numbers change from boot to boot. Of what a chip offers
//! the best is taken: `energy1_input` (INA228 and INA780 accumulate in hardware), `power1_input`, else bus voltage
//! times current (INA3221 has no power attribute). Units are those of Linux `Documentation/hwmon/sysfs-interface.rst`:
//! millivolts, milliamperes, microwatts, microjoules.
//!
//! A power reading is integrated on each call to [`Meter::sample`]; put the meter into a
//! [`Sampler`](super::sampler::Sampler) so that calls come at a steady rate.

use core::time::Duration;

use super::counter::{CounterTotal, POWER_GAP, PowerTotal};
use super::frozen::{Frozen, StoppedCounter};
use super::meter::{Faults, Meter, MeterError, Method, Resolution, Sample, Scope};
use crate::profile::{Profile, Sensor};
use crate::root::{ReadCause, Root};

const FOLDER: &str = "/sys/class/hwmon";

/// How an operator lets the daemon read a sensor.
pub const GRANT: &str =
    "grant read access with a udev rule for the hwmon device, or run this command as root";

/// What is known of a chip.
struct Chip {
    name: &'static str,
    /// 95 % bound: chip gain and offset with a shunt of 1 % tolerance.
    relative_uncertainty: f64,
    /// Step of the power reading at the driver's default shunt, microwatts.
    power_step_uw: u64,
    /// Conversion time of one reading with default settings.
    period: Duration,
}

const fn chip(name: &'static str, relative_uncertainty: f64, power_step_uw: u64, period_ms: u64) -> Chip {
    Chip { name, relative_uncertainty, power_step_uw, period: Duration::from_millis(period_ms) }
}

/// Steps and times from the data sheets at the kernel driver's defaults; the bounds follow the shunt, not the chip.
const CHIPS: &[Chip] = &[
    chip("ina219", 0.05, 20_000, 2),
    chip("ina226", 0.03, 25_000, 3),
    chip("ina230", 0.03, 25_000, 3),
    chip("ina231", 0.03, 25_000, 3),
    chip("ina260", 0.02, 10_000, 3),
    chip("ina3221", 0.05, 40_000, 2),
    chip("ina238", 0.03, 3_000, 5),
    chip("ina237", 0.03, 3_000, 5),
    chip("ina228", 0.02, 1_000, 5),
    chip("ina780", 0.02, 1_000, 5),
    chip("ina2xx", 0.05, 25_000, 3),
];

/// A sensor that was found, before it is decided whether to use it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Channel {
    /// Folder of the chip.
    pub folder: String,
    /// The chip's name.
    pub chip: String,
    /// The channel's label where it has one.
    pub label: Option<String>,
    kind: Kind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    Energy { path: String },
    Power { path: String },
    VoltageTimesCurrent { millivolts: String, milliamperes: String },
}

impl Channel {
    /// Chip and label in words.
    pub fn describe(&self) -> String {
        match &self.label {
            Some(label) => format!("{} {label}", self.chip),
            None => self.chip.clone(),
        }
    }

    /// Whether `sensor` of a profile speaks of this channel.
    pub fn is(&self, sensor: &Sensor) -> bool {
        sensor.chip == self.chip && (sensor.label.is_none() || sensor.label == self.label)
    }
}

/// All channels of known power sensors under `root`.
pub fn channels(root: &Root) -> Vec<Channel> {
    let mut found = Vec::new();
    for entry in root.list(FOLDER) {
        let folder = format!("{FOLDER}/{entry}");
        let Ok(name) = root.read(&format!("{folder}/name")) else { continue };
        if !CHIPS.iter().any(|chip| chip.name == name) {
            continue;
        }
        let single = ["energy1_input", "power1_input", "power1_average"]
            .iter()
            .find(|file| root.exists(&format!("{folder}/{file}")));
        if let Some(file) = single {
            let path = format!("{folder}/{file}");
            let kind = if file.starts_with("energy") { Kind::Energy { path } } else { Kind::Power { path } };
            let stem = file.split_once('_').map_or(*file, |(stem, _)| stem);
            let label = root.read(&format!("{folder}/{stem}_label")).ok();
            found.push(Channel { folder, chip: name, label, kind });
            continue;
        }
        // INA3221: bus voltages are in1..in3 with currents curr1..curr3; in7 and curr4 are sums over the shunts.
        for channel in 1..=3 {
            let millivolts = format!("{folder}/in{channel}_input");
            let milliamperes = format!("{folder}/curr{channel}_input");
            let label = root.read(&format!("{folder}/in{channel}_label")).ok();
            if root.exists(&millivolts) && root.exists(&milliamperes) && label.as_deref() != Some("NC") {
                let kind = Kind::VoltageTimesCurrent { millivolts, milliamperes };
                found.push(Channel { folder: folder.clone(), chip: name.clone(), label, kind });
            }
        }
    }
    found
}

/// One channel as a meter.
pub struct Hwmon {
    root: Root,
    channel: Channel,
    scope: Scope,
    source: String,
    relative_uncertainty: f64,
    resolution: Resolution,
    /// Nothing above this can be true, microwatts.
    most_uw: u64,
    total: Total,
}

enum Total {
    Counter(CounterTotal, StoppedCounter),
    Power(PowerTotal, Frozen),
}

impl Hwmon {
    /// A meter on `channel`, which measures `scope` and never more than `most_watts`; reads it once to see that it
    /// answers.
    ///
    /// # Errors
    /// [`MeterError`] when the sensor does not answer or reads something it cannot.
    pub fn open(root: &Root, channel: Channel, scope: Scope, most_watts: f64) -> Result<Hwmon, MeterError> {
        let chip = CHIPS.iter().find(|chip| chip.name == channel.chip);
        let (relative_uncertainty, step_uw, period) = chip
            .map_or((0.05, 25_000, Duration::from_millis(3)), |chip| {
                (chip.relative_uncertainty, chip.power_step_uw, chip.period)
            });
        // `update_interval` (milliseconds) tells the real period where the driver has it.
        let interval = root.read_u64(&format!("{}/update_interval", channel.folder)).ok();
        let period = interval.filter(|ms| (1..=60_000).contains(ms)).map_or(period, Duration::from_millis);
        let (total, quantum_uj) = match &channel.kind {
            Kind::Energy { .. } => (Total::Counter(CounterTotal::new(None), StoppedCounter::default()), 1),
            _ => {
                let quantum_uj = (step_uw * period.as_millis() as u64 / 1000).max(1);
                (Total::Power(PowerTotal::default(), Frozen::new(root)), quantum_uj)
            }
        };
        let source = format!("hwmon {}", channel.describe());
        let resolution = Resolution { period, quantum_uj };
        let root = root.clone();
        let most_uw = (most_watts * 1e6) as u64;
        let meter = Hwmon { root, channel, scope, source, relative_uncertainty, resolution, most_uw, total };
        meter.read()?;
        Ok(meter)
    }

    /// What is wrong with the power it shows now, if the board that `profile` describes cannot draw that: as a rule the
    /// driver was told of another shunt than the one that is soldered in.
    pub fn implausible_on(&self, profile: &Profile) -> Option<String> {
        let power = profile.power.as_ref()?;
        let whole = matches!(self.scope, Scope::Wall | Scope::BoardDc | Scope::Module);
        let power_file = format!("{}/power1_input", self.channel.folder);
        let shown_uw = match &self.channel.kind {
            Kind::Energy { .. } => self.root.read_u64(&power_file).ok()?,
            _ => self.read().ok()?,
        };
        let watts = shown_uw as f64 / 1e6;
        let (idle_w, load_w) = (power.idle_w.value, power.load_w.value);
        // Twice the load leaves room for a drive and what hangs on USB, a quarter of idle for another meter's idea of it.
        if !whole || (idle_w / 4.0..=load_w * 2.0).contains(&watts) {
            return None;
        }
        let folder = &self.channel.folder;
        let shunt = ["shunt_resistor", "shunt1_resistor"]
            .iter()
            .find_map(|file| self.root.read_u64(&format!("{folder}/{file}")).ok())
            .map_or("does not say which".into(), |microohms| format!("says {microohms} uOhm"));
        Some(format!(
            "it shows {watts:.1} W where this board draws {idle_w} W at rest and {load_w} W busy; check the shunt: the driver \
             {shunt}"
        ))
    }

    /// The sensor's value: microjoules for a counter, microwatts otherwise.
    fn read(&self) -> Result<u64, MeterError> {
        let read = |path: &str| self.root.read_i64(path).map_err(|e| MeterError::from_read(e, GRANT));
        let not_negative = |value: i64| {
            u64::try_from(value).map_err(|_| MeterError::Implausible {
                source: self.source.clone(),
                found: value,
                expected: "zero or more; a negative value means that the shunt is wired the wrong way round",
            })
        };
        match &self.channel.kind {
            Kind::Energy { path } => match self.root.read_u64(path) {
                Err(error) if matches!(error.cause, ReadCause::NotNumber { .. }) => not_negative(read(path)?),
                value => value.map_err(|error| MeterError::from_read(error, GRANT)),
            },
            Kind::Power { path } => not_negative(read(path)?),
            Kind::VoltageTimesCurrent { millivolts, milliamperes } => {
                // mV x mA = uW
                not_negative(read(millivolts)?.saturating_mul(read(milliamperes)?))
            }
        }
    }
}

impl Meter for Hwmon {
    fn source(&self) -> &str {
        &self.source
    }

    fn method(&self) -> Method {
        match self.total {
            Total::Counter(..) => Method::EnergyCounter,
            Total::Power(..) => Method::HwmonPower,
        }
    }

    fn scope(&self) -> Scope {
        self.scope
    }

    fn relative_uncertainty(&self) -> f64 {
        self.relative_uncertainty
    }

    fn resolution(&self) -> Resolution {
        self.resolution
    }

    fn faults(&self) -> Faults {
        let (faults, frozen) = match &self.total {
            Total::Counter(total, stopped) => (total.faults(), stopped.times()),
            Total::Power(total, frozen) => (total.faults(), frozen.times()),
        };
        faults + Faults { frozen, ..Faults::default() }
    }

    fn may_block(&self) -> bool {
        // The chip sits on a bus.
        true
    }

    fn sample(&mut self, now: Duration) -> Result<Sample, MeterError> {
        let read = self.read();
        let (energy_uj, readings) = match &mut self.total {
            Total::Counter(total, stopped) => {
                let value = read.inspect_err(|_| total.fail())?;
                stopped.look(&self.source, now, value).inspect_err(|_| total.fail())?;
                (total.add(now, value), total.readings())
            }
            Total::Power(total, frozen) => {
                let value = read.inspect_err(|_| total.fail())?;
                if let Err(error) = frozen.look(&self.source, now, value) {
                    total.interrupt();
                    total.fail();
                    return Err(error);
                }
                if value > self.most_uw {
                    total.reject();
                    // One wild reading among good ones is left out; without good ones nothing is known.
                    if total.since_last(now).is_none_or(|since| since > POWER_GAP) {
                        total.fail();
                        return Err(MeterError::Implausible {
                            source: self.source.clone(),
                            found: value as i64,
                            expected: "no more microwatts than this board can draw; check the sensor's shunt and bus",
                        });
                    }
                    (total.total_uj(), total.readings())
                } else {
                    (total.add(now, value), total.readings())
                }
            }
        };
        Ok(Sample { at: now, energy_uj, readings })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chip_with_averages_only_is_read_and_its_label_found() {
        let dir = tempfile::tempdir().unwrap();
        let chip = dir.path().join("sys/class/hwmon/hwmon7");
        std::fs::create_dir_all(&chip).unwrap();
        for (file, text) in
            [("name", "ina260\n"), ("power1_average", "2500000\n"), ("power1_label", "input\n")]
        {
            std::fs::write(chip.join(file), text).unwrap();
        }
        let root = Root::new(dir.path());
        let [channel] = channels(&root).try_into().expect("one channel");
        assert_eq!(channel.describe(), "ina260 input");
        let mut meter = Hwmon::open(&root, channel, Scope::BoardDc, 60.0).unwrap();
        meter.sample(Duration::ZERO).unwrap();
        assert_eq!(meter.sample(Duration::from_secs(1)).unwrap().energy_uj, 2_500_000);
    }

    #[test]
    fn a_bus_that_is_not_wired_or_a_chip_of_another_kind_is_no_channel() {
        let dir = tempfile::tempdir().unwrap();
        let put = |path: &str, text: &str| {
            let path = dir.path().join("sys/class/hwmon").join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        put("hwmon0/name", "nvme\n");
        put("hwmon0/power1_input", "1\n");
        put("hwmon1/name", "ina3221\n");
        for (file, text) in
            [("in1_label", "NC"), ("in1_input", "0"), ("curr1_input", "0"), ("in2_input", "12000")]
        {
            put(&format!("hwmon1/{file}"), text);
        }
        assert_eq!(channels(&Root::new(dir.path())), []);
    }
}
