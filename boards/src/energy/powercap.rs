//! Energy counters of x86 processors: RAPL through `/sys/class/powercap`.
//!
//! Only package zones are read (`intel-rapl:0` named `package-0`). The zones beneath them (`core`, `uncore`) are
//! parts of the package, `psys` contains it and `intel-rapl-mmio` shows it a second time, so adding any of those
//! would count the same joules twice. `dram` lies outside the package and stays out, as the scope says.
//!
//! Format: Linux `Documentation/power/powercap/powercap.rst`. Since CVE-2020-8694 the counter is readable by the
//! superuser alone.

use core::time::Duration;

use super::counter::CounterTotal;
use super::frozen::StoppedCounter;
use super::meter::{Faults, Meter, MeterError, Method, Resolution, Sample, Scope};
use crate::root::Root;

const FOLDER: &str = "/sys/class/powercap";

/// How an operator lets the daemon read the counters.
pub const GRANT: &str = "grant it with a line `z /sys/devices/virtual/powercap/intel-rapl/intel-rapl:*/energy_uj \
                         0440 root tern - -` in /etc/tmpfiles.d/tern.conf (with the service's group), or run this command as root";

/// RAPL against a wall meter, package only: within a few per cent on Haswell and later (Khan et al., "RAPL in
/// Action", ACM ToMPECS 3(2), 2018).
const RELATIVE_UNCERTAINTY: f64 = 0.05;

/// The counter's usual unit of 2^-14 J (Intel SDM vol. 3B, 15.10.1), rounded up; it updates about every millisecond.
const RESOLUTION: Resolution = Resolution { period: Duration::from_millis(1), quantum_uj: 62 };

/// The package counters of one machine.
pub struct Powercap {
    root: Root,
    packages: Vec<Package>,
    source: String,
}

struct Package {
    counter_path: String,
    total: CounterTotal,
    stopped: StoppedCounter,
}

impl Powercap {
    /// The package zones under `root`; `Ok(None)` where there are none.
    ///
    /// # Errors
    /// [`MeterError::Denied`] when the counters exist and this user may not read them, and
    /// [`MeterError::Unreadable`] when one of them does not hold a number.
    pub fn detect(root: &Root) -> Result<Option<Powercap>, MeterError> {
        let (mut packages, mut names) = (Vec::new(), Vec::new());
        for zone in root.list(FOLDER) {
            let is_top = zone.strip_prefix("intel-rapl:").is_some_and(|rest| !rest.contains(':'));
            let name = root.read(&format!("{FOLDER}/{zone}/name")).unwrap_or_default();
            if !is_top || !name.starts_with("package-") {
                continue;
            }
            let counter_path = format!("{FOLDER}/{zone}/energy_uj");
            root.read_u64(&counter_path).map_err(|error| MeterError::from_read(error, GRANT))?;
            let range_uj = root.read_u64(&format!("{FOLDER}/{zone}/max_energy_range_uj")).ok();
            names.push(format!("{zone} ({name})"));
            let (total, stopped) = (CounterTotal::new(range_uj), StoppedCounter::default());
            packages.push(Package { counter_path, total, stopped });
        }
        if packages.is_empty() {
            return Ok(None);
        }
        Ok(Some(Powercap { root: root.clone(), packages, source: names.join(" + ") }))
    }
}

impl Meter for Powercap {
    fn source(&self) -> &str {
        &self.source
    }

    fn method(&self) -> Method {
        Method::EnergyCounter
    }

    fn scope(&self) -> Scope {
        Scope::CpuPackage
    }

    fn relative_uncertainty(&self) -> f64 {
        RELATIVE_UNCERTAINTY
    }

    fn resolution(&self) -> Resolution {
        RESOLUTION
    }

    fn faults(&self) -> Faults {
        let of = |package: &Package| {
            package.total.faults() + Faults { frozen: package.stopped.times(), ..Faults::default() }
        };
        self.packages.iter().map(of).fold(Faults::default(), |a, b| a + b)
    }

    fn sample(&mut self, now: Duration) -> Result<Sample, MeterError> {
        // Read all before adding any: a package that fails must not leave the others a step ahead.
        let mut raw = Vec::with_capacity(self.packages.len());
        for package in &mut self.packages {
            match self.root.read_u64(&package.counter_path) {
                Ok(value) => {
                    // A virtual machine may show the files and count nothing.
                    if let Err(error) = package.stopped.look(&self.source, now, value) {
                        package.total.fail();
                        return Err(error);
                    }
                    raw.push(value);
                }
                Err(error) => {
                    package.total.fail();
                    return Err(MeterError::from_read(error, GRANT));
                }
            }
        }
        let energy_uj =
            self.packages.iter_mut().zip(raw).map(|(package, value)| package.total.add(now, value)).sum();
        let readings = self.packages[0].total.readings();
        Ok(Sample { at: now, energy_uj, readings })
    }
}
