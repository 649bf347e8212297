//! Which meter to use here, and why not another.

use core::error::Error;

use serde::Serialize;

use super::external::External;
use super::file::{FileMeter, FileSource};
use super::hwmon::{self, Hwmon};
use super::meter::{Meter, MeterError, Method, Scope};
use super::model::{ModelError, ModelMeter};
use super::pmic::{self, Pmic};
use super::powercap::Powercap;
use super::sampler::within;
use super::table::UtilisationTable;
use crate::profile::{OVERRIDE_FOLDER, Profile};
use crate::root::Root;

/// One place that was looked at for a meter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MeterFinding {
    /// What was looked at: a chip, the RAPL counters, the board table.
    pub looked_at: String,
    /// What came of it.
    pub outcome: Outcome,
    /// Why, and what an operator can do about it, one sentence.
    pub why: String,
}

/// What came of looking for a meter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// This meter is used.
    Used,
    /// It works, and a better one is used.
    NotNeeded,
    /// It is there, and what it measures is not known.
    Unclear,
    /// It is there, and this user may not read it.
    Denied,
    /// It is there and does not work.
    Failed,
    /// There is none.
    Absent,
}

/// Which meter is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Choice {
    /// The best that works.
    #[default]
    Auto,
    /// None: joules stay unknown.
    None,
    /// The best of this method, or none.
    Only(Method),
}

/// What the operator says about meters.
#[derive(Default)]
pub struct Wanted {
    /// Which one.
    pub choice: Choice,
    /// One that is heard over a network.
    pub outside: Option<External>,
    /// One that is a file.
    pub file: Option<FileSource>,
}

/// What came of looking for meters.
pub struct Found {
    /// The one to use.
    pub meter: Option<Box<dyn Meter>>,
    /// The best of the others that measure, to compare with.
    pub witness: Option<Box<dyn Meter>>,
    /// A finding for each place looked at.
    pub findings: Vec<MeterFinding>,
}

/// Looks for meters under `root` on the board that `profile` describes.
///
/// Answers the best one, if any, and a finding for each place looked at: energy counters before power sensors,
/// power sensors before rails, rails before meters outside, these before the board's calibrated model, that before
/// the board table.
pub fn detect(root: &Root, profile: &Profile) -> (Option<Box<dyn Meter>>, Vec<MeterFinding>) {
    let found = detect_wanted(root, profile, Wanted::default());
    (found.meter, found.findings)
}

/// As [`detect`], with what the operator says.
pub fn detect_wanted(root: &Root, profile: &Profile, wanted: Wanted) -> Found {
    let mut search = Search { meters: Vec::new(), findings: Vec::new() };
    search.powercap(root);
    search.hwmon(root, profile);
    search.pmic(root, profile);
    search.external(root, wanted.outside, wanted.file);
    search.model(root, profile);
    search.table(root, profile);
    search.choose(wanted.choice)
}

struct Search {
    /// Working meters, each with the place of its finding.
    meters: Vec<(usize, Box<dyn Meter>)>,
    findings: Vec<MeterFinding>,
}

impl Search {
    fn found(&mut self, looked_at: &str, why: String, meter: Box<dyn Meter>) {
        self.meters.push((self.findings.len(), meter));
        self.note(looked_at, Outcome::NotNeeded, why);
    }

    fn note(&mut self, looked_at: &str, outcome: Outcome, why: String) {
        self.findings.push(MeterFinding { looked_at: looked_at.to_owned(), outcome, why });
    }

    fn failed(&mut self, looked_at: &str, error: &MeterError) {
        let outcome =
            if matches!(error, MeterError::Denied { .. }) { Outcome::Denied } else { Outcome::Failed };
        let why = match error.source() {
            Some(cause) => format!("{error}: {cause}"),
            None => error.to_string(),
        };
        self.note(looked_at, outcome, why);
    }

    fn powercap(&mut self, root: &Root) {
        let looked_at = "RAPL counters in /sys/class/powercap";
        match Powercap::detect(root) {
            Ok(Some(meter)) => self.found(looked_at, format!("counts {}", meter.source()), Box::new(meter)),
            Ok(None) => {
                self.note(looked_at, Outcome::Absent, "there is no intel-rapl package zone here".into())
            }
            Err(error) => self.failed(looked_at, &error),
        }
    }

    fn hwmon(&mut self, root: &Root, profile: &Profile) {
        let channels = hwmon::channels(root);
        if channels.is_empty() {
            let why = "no INA power sensor has a driver bound here".into();
            return self.note("power sensors in /sys/class/hwmon", Outcome::Absent, why);
        }
        let only_one = channels.len() == 1;
        for channel in channels {
            let looked_at = format!("hwmon {} in {}", channel.describe(), channel.folder);
            let named = profile.sensors.iter().find(|sensor| channel.is(sensor));
            let (scope, why) = match named {
                Some(sensor) => (sensor.scope, format!("the profile {} names it", profile.name)),
                None if only_one && profile.sensors.is_empty() => {
                    let assumed = "the only power sensor; taken to sit in the board's supply line";
                    (Scope::BoardDc, format!("{assumed} (name it in a profile if it does not)"))
                }
                None => {
                    let why =
                        "which rail it measures is not known; name it in a [[sensor]] of the board's profile";
                    self.note(&looked_at, Outcome::Unclear, why.into());
                    continue;
                }
            };
            let (theirs, ours, most_watts) = (root.clone(), profile.clone(), profile.most_watts());
            let opened = within(&looked_at, move || {
                let meter = Hwmon::open(&theirs, channel, scope, most_watts)?;
                let implausible = meter.implausible_on(&ours);
                Ok((meter, implausible))
            });
            match opened {
                Ok((meter, None)) => self.found(&looked_at, why, Box::new(meter)),
                Ok((_, Some(implausible))) => self.note(&looked_at, Outcome::Failed, implausible),
                Err(error) => self.failed(&looked_at, &error),
            }
        }
    }

    fn pmic(&mut self, root: &Root, profile: &Profile) {
        // Only where the profile says so: another board's firmware would answer something else.
        if !profile.sensors.iter().any(|sensor| sensor.chip == pmic::CHIP) {
            return;
        }
        let looked_at = "PMIC rails through /dev/vcio";
        let theirs = root.clone();
        match within(looked_at, move || Pmic::open(&theirs)) {
            Ok(meter) => self.found(looked_at, meter.source().to_owned(), Box::new(meter)),
            Err(error) => self.failed(looked_at, &error),
        }
    }

    fn model(&mut self, root: &Root, profile: &Profile) {
        let looked_at = "calibrated model";
        match ModelMeter::detect(root, profile) {
            Ok(Some(meter)) => self.found(looked_at, meter.source().to_owned(), Box::new(meter)),
            Ok(None) => {
                let why = "the board's profile holds no calibration; `tern energy calibrate` makes one";
                self.note(looked_at, Outcome::Absent, why.into());
            }
            Err(ModelError::Calibration(problem)) => {
                let why = format!("{problem}; run `tern energy calibrate --force` again");
                self.note(looked_at, Outcome::Failed, why);
            }
            Err(ModelError::Meter(error)) => self.failed(looked_at, &error),
        }
    }

    fn table(&mut self, root: &Root, profile: &Profile) {
        let looked_at = "board table with CPU utilisation";
        match UtilisationTable::detect(root, profile) {
            Ok(Some(meter)) => self.found(looked_at, meter.source().to_owned(), Box::new(meter)),
            Ok(None) => {
                let why = format!(
                    "the profile {} holds no power figures, and another board's are not borrowed; joules stay unknown: fit a \
                     sensor, configure a plug ([energy] in docs/config.md), or describe the board in {OVERRIDE_FOLDER}",
                    profile.name
                );
                self.note(looked_at, Outcome::Absent, why);
            }
            Err(error) => self.failed(looked_at, &error),
        }
    }

    fn external(&mut self, root: &Root, outside: Option<External>, file: Option<FileSource>) {
        if let Some(meter) = outside {
            let looked_at = format!("the configured {}", meter.source());
            self.found(&looked_at, "joules are known once it speaks".into(), Box::new(meter));
        }
        if let Some(from) = file {
            let looked_at = format!("the configured file {}", from.path);
            let theirs = root.clone();
            match within(&looked_at, move || FileMeter::open(&theirs, from)) {
                Ok(meter) => self.found(&looked_at, "another program writes it".into(), Box::new(meter)),
                Err(error) => self.failed(&looked_at, &error),
            }
        }
    }

    fn choose(mut self, choice: Choice) -> Found {
        // Among equals the wider scope says more about what the answer cost.
        self.meters.sort_by_key(|(_, meter)| (meter.method(), meter.scope().width()));
        let is_wanted = |meter: &dyn Meter| match choice {
            Choice::Auto => true,
            Choice::None => false,
            Choice::Only(method) => meter.method() == method,
        };
        let at = self.meters.iter().position(|(_, meter)| is_wanted(&**meter));
        let meter = at.map(|at| {
            let (finding, meter) = self.meters.remove(at);
            self.findings[finding].outcome = Outcome::Used;
            debug_assert_ne!(meter.method(), Method::Unknown);
            meter
        });
        if let (Choice::Only(_), None) = (choice, &meter) {
            let why = "none that works was found; joules stay unknown";
            self.note("the meter that energy.meter names", Outcome::Absent, why.into());
        }
        let measures = |meter: &dyn Meter| meter.method() <= Method::ExternalMeter;
        let witness = meter.as_deref().filter(|meter| measures(*meter)).and_then(|_| {
            let at = self.meters.iter().position(|(_, other)| measures(&**other))?;
            Some(self.meters.swap_remove(at).1)
        });
        Found { meter, witness, findings: self.findings }
    }
}
