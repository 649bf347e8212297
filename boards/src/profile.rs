//! What is known about a board beforehand: core types, memory speed, power figures, sensors.
//!
//! A profile is a TOML file. Those in `profiles/` are compiled in; files in `/etc/tern/boards.d` add boards or
//! replace a compiled-in one of the same name. A board that no profile names gets the generic profile of its
//! architecture, which holds no power figure: an unknown board has unknown energy, not zero.

use core::fmt;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::cpu;
use crate::energy::Scope;
use crate::energy::model::Calibration;
use crate::root::Root;
use crate::unknown_key;

/// Folder under the root whose `*.toml` files add to or replace the compiled-in profiles.
pub const OVERRIDE_FOLDER: &str = "/etc/tern/boards.d";

/// The compiled-in profiles: file name and text. The two generic ones come last.
const BUILT_IN: &[(&str, &str)] = &[
    ("raspberry-pi-zero-2-w.toml", include_str!("../profiles/raspberry-pi-zero-2-w.toml")),
    ("raspberry-pi-3b-plus.toml", include_str!("../profiles/raspberry-pi-3b-plus.toml")),
    ("raspberry-pi-4b.toml", include_str!("../profiles/raspberry-pi-4b.toml")),
    ("raspberry-pi-400.toml", include_str!("../profiles/raspberry-pi-400.toml")),
    ("raspberry-pi-cm4.toml", include_str!("../profiles/raspberry-pi-cm4.toml")),
    ("raspberry-pi-5.toml", include_str!("../profiles/raspberry-pi-5.toml")),
    ("raspberry-pi-cm5.toml", include_str!("../profiles/raspberry-pi-cm5.toml")),
    ("raspberry-pi-500.toml", include_str!("../profiles/raspberry-pi-500.toml")),
    ("orange-pi-5.toml", include_str!("../profiles/orange-pi-5.toml")),
    ("orange-pi-5-max.toml", include_str!("../profiles/orange-pi-5-max.toml")),
    ("rock-5b.toml", include_str!("../profiles/rock-5b.toml")),
    ("rock-5c.toml", include_str!("../profiles/rock-5c.toml")),
    ("radxa-zero-3.toml", include_str!("../profiles/radxa-zero-3.toml")),
    ("orange-pi-zero-2w.toml", include_str!("../profiles/orange-pi-zero-2w.toml")),
    ("jetson-orin-nano.toml", include_str!("../profiles/jetson-orin-nano.toml")),
    ("beaglebone-ai-64.toml", include_str!("../profiles/beaglebone-ai-64.toml")),
    ("beagleplay.toml", include_str!("../profiles/beagleplay.toml")),
    ("imx8mp-evk.toml", include_str!("../profiles/imx8mp-evk.toml")),
    ("stm32mp257f-ev1.toml", include_str!("../profiles/stm32mp257f-ev1.toml")),
    ("orion-o6.toml", include_str!("../profiles/orion-o6.toml")),
    ("generic-aarch64.toml", include_str!("../profiles/generic-aarch64.toml")),
    ("generic-x86-64.toml", include_str!("../profiles/generic-x86-64.toml")),
];

/// One board.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// Short name, unique among profiles: lower-case letters, digits and hyphens.
    pub name: String,
    /// The board's name as its maker writes it.
    pub title: String,
    /// Device-tree `compatible` strings that name this board and no other.
    #[serde(default)]
    pub compatible: Vec<String>,
    /// DMI product names, for boards and PCs whose firmware speaks ACPI.
    #[serde(default)]
    pub dmi_product: Vec<String>,
    /// For a generic profile: the architecture it stands for. It matches when nothing else does.
    #[serde(default)]
    pub generic_arch: Option<String>,
    /// Core types, fastest first.
    #[serde(default, rename = "cluster")]
    pub clusters: Vec<ProfileCluster>,
    /// Extensions that every one of these boards has, beyond the base architecture.
    #[serde(default)]
    pub features: Vec<String>,
    /// Main memory.
    #[serde(default)]
    pub memory: Option<ProfileMemory>,
    /// What the board draws; absent where nobody published a figure.
    #[serde(default)]
    pub power: Option<Power>,
    /// Power sensors the board has, and what they measure.
    #[serde(default, rename = "sensor")]
    pub sensors: Vec<Sensor>,
    /// A power model that `tern energy calibrate` made on the very board; never compiled in.
    #[serde(default)]
    pub calibration: Option<Calibration>,
    /// Where its warmth is shown and when it slows down.
    #[serde(default)]
    pub thermal: Option<ProfileThermal>,
    /// What nobody published, or what the board has not: the field's name, and why it is left out.
    #[serde(default)]
    pub missing: BTreeMap<String, String>,
    /// What to use on this board unless told otherwise.
    #[serde(default)]
    pub recommended: Recommended,
}

/// Cores of one type.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProfileCluster {
    /// Core name (`cortex-a76`).
    pub core: String,
    /// How many.
    pub count: usize,
    /// Highest clock of the board as sold, where its maker says.
    #[serde(default)]
    pub max_mhz: Option<u32>,
    /// Its caches, where they were published.
    #[serde(default)]
    pub cache: Option<ProfileCache>,
}

/// Caches of a cluster, KiB.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProfileCache {
    /// Level 1 data cache of a core.
    #[serde(default)]
    pub l1d_kib: Option<u32>,
    /// Level 2.
    pub l2_kib: u32,
    /// Who has that much of level 2.
    pub l2_of: CacheOwner,
    /// Level 3 of the whole chip, or of one of its halves.
    #[serde(default)]
    pub l3_kib: Option<u32>,
    /// Who says so.
    pub source: String,
    /// When.
    pub date: String,
}

/// Whose a cache is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CacheOwner {
    /// Each core has one.
    Core,
    /// The cores of the cluster share it.
    Cluster,
}

/// Main memory of a board.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProfileMemory {
    /// Type and width in words.
    pub kind: String,
    /// Sizes the board is sold with, in MiB.
    #[serde(default)]
    pub sizes_mib: Vec<u64>,
    /// Sequential read bandwidth of one core, MB/s; absent where nobody published it.
    #[serde(default)]
    pub read_mb_per_s: Option<Figure>,
}

/// Idle and loaded power of a board, both by the same meter where possible.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Power {
    /// Where the meter sat.
    pub scope: Scope,
    /// Power with the system up and nothing to do, watts.
    pub idle_w: Figure,
    /// Power with every CPU core busy, watts.
    pub load_w: Figure,
}

impl Power {
    /// Whether either figure is an estimate rather than a measurement of this board.
    pub fn is_estimate(&self) -> bool {
        self.idle_w.estimate || self.load_w.estimate
    }
}

/// How a board shows its warmth.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProfileThermal {
    /// Names (`type`) of the zones that hold the processor, the most telling first; of several kernels' names for one
    /// zone those that are not there are passed over.
    pub zones: Vec<String>,
    /// Degrees Celsius at which the processor begins to be slowed down; absent where it is only ever switched off.
    #[serde(default)]
    pub throttle_c: Option<Figure>,
    /// Degrees Celsius at which it is switched off.
    #[serde(default)]
    pub critical_c: Option<Figure>,
}

/// A number with its origin.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Figure {
    /// The number; its unit is in the field's name.
    pub value: f64,
    /// Who measured it and how.
    pub source: String,
    /// When it was measured (`2024`, `2024-01`, `2024-01-20`); where a collection does not say, the day of the
    /// commit it was read at.
    pub date: String,
    /// Not measured on this very board.
    #[serde(default)]
    pub estimate: bool,
}

/// A power sensor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sensor {
    /// Chip name as hwmon shows it (`ina3221`).
    pub chip: String,
    /// The channel's label, for chips with several channels.
    #[serde(default)]
    pub label: Option<String>,
    /// What the channel measures.
    pub scope: Scope,
}

/// What to use on a board.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recommended {
    /// Worker threads.
    #[serde(default)]
    pub threads: Option<usize>,
    /// Kernel sets by name, best first; names this machine cannot run are passed over.
    #[serde(default)]
    pub kernels: Vec<String>,
}

impl Profile {
    /// Reads one profile; `origin` is the file's name, for messages.
    ///
    /// # Errors
    /// [`ProfileError`] when the text is not TOML, has a field profiles do not have, or a value out of range.
    pub fn parse(origin: &str, text: &str) -> Result<Profile, ProfileError> {
        let fail = |problem: String| ProfileError { origin: origin.to_owned(), problem };
        let profile: Profile = toml::from_str(text).map_err(|error| {
            let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
            let line = before.matches('\n').count() + 1;
            fail(format!("line {line}: {}", unknown_key::explain(text, &error)))
        })?;
        match profile.problem() {
            Some(problem) => Err(fail(problem)),
            None => Ok(profile),
        }
    }

    /// No reading of the whole board above this can be true, watts: five times its load leaves room for whatever hangs on
    /// it. A board without figures may draw what a server does.
    pub fn most_watts(&self) -> f64 {
        const LEAST_W: f64 = 15.0;
        const UNKNOWN_W: f64 = 2_000.0;
        self.power.as_ref().map_or(UNKNOWN_W, |power| (power.load_w.value * 5.0).max(LEAST_W))
    }

    /// The first thing wrong with the values, if any.
    fn problem(&self) -> Option<String> {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if self.name.is_empty() || !self.name.chars().all(plain) {
            return Some(format!("name is {:?}; use lower-case letters, digits and hyphens", self.name));
        }
        let names = self.compatible.iter().chain(&self.dmi_product).chain(&self.generic_arch);
        if names.clone().count() == 0 || names.clone().any(|name| name.trim().is_empty()) {
            return Some(
                "give at least one non-empty compatible string or dmi_product, else nothing matches".into(),
            );
        }
        if let Some(cluster) = self.clusters.iter().find(|c| c.count == 0 || c.max_mhz == Some(0)) {
            return Some(format!("cluster {} needs a count and a max_mhz above zero", cluster.core));
        }
        if let Some(name) = self.features.iter().find(|name| !cpu::is_known_feature(name)) {
            return Some(format!(
                "feature {name:?} is not a name that Tern knows (dotprod, i8mm, avx2 and so on)"
            ));
        }
        if let Some(Power { idle_w, load_w, .. }) = &self.power
            && !(idle_w.value > 0.0 && load_w.value >= idle_w.value && load_w.value <= 1000.0)
        {
            let (idle, load) = (idle_w.value, load_w.value);
            return Some(format!(
                "power needs 0 < idle_w <= load_w <= 1000; found idle_w {idle}, load_w {load}"
            ));
        }
        let read = self.memory.as_ref().and_then(|memory| memory.read_mb_per_s.as_ref());
        if let Some(figure) = read.filter(|figure| !(figure.value > 0.0 && figure.value.is_finite())) {
            return Some(format!("read_mb_per_s is {}; it must be above zero", figure.value));
        }
        let degrees = self.thermal.iter().flat_map(|t| [&t.throttle_c, &t.critical_c]).flatten();
        if let Some(figure) = degrees.clone().find(|figure| !(30.0..=150.0).contains(&figure.value)) {
            return Some(format!("thermal: {} degrees Celsius; give 30 to 150", figure.value));
        }
        if self.recommended.threads == Some(0) {
            return Some("recommended threads must be at least 1".into());
        }
        None
    }
}

/// A profile could not be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProfileError {
    /// The file.
    pub origin: String,
    /// What is wrong in it and what would be right.
    pub problem: String,
}

impl fmt::Display for ProfileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "board profile {}: {}", self.origin, self.problem)
    }
}

impl core::error::Error for ProfileError {}

/// The board this machine is.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Board {
    /// What is known about it.
    pub profile: Profile,
    /// How it was recognised.
    pub matched: Match,
    /// The board's own name for itself: the device tree's `model`, else the DMI product name.
    pub model: Option<String>,
}

/// How a profile was chosen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "by", content = "name")]
pub enum Match {
    /// By this device-tree `compatible` string.
    DeviceTree(String),
    /// By this DMI product name.
    Dmi(String),
    /// Nothing matched; the architecture's generic profile is used.
    Generic,
}

impl Board {
    /// Recognises the board under `root`, whose CPU is of family `arch` (as [`Cpu::arch`](crate::Cpu)).
    ///
    /// Profiles in [`OVERRIDE_FOLDER`] come before the compiled-in ones. One that cannot be used is left out and
    /// its error returned beside the board, so that a typing mistake never keeps a daemon from starting.
    pub fn detect(root: &Root, arch: &str) -> (Board, Vec<ProfileError>) {
        let (profiles, errors) = profiles(root);
        let names = compatible(root);
        let product = root.read("/sys/class/dmi/id/product_name").ok().filter(|name| !name.is_empty());
        // The device tree lists the board first and its SoC last, so the first hit is the most specific.
        let by_tree = names.iter().find_map(|name| {
            let profile = profiles.iter().find(|profile| profile.compatible.contains(name))?;
            Some((profile, Match::DeviceTree(name.clone())))
        });
        let by_dmi = || {
            let name = product.as_ref()?;
            let profile = profiles.iter().find(|profile| profile.dmi_product.contains(name))?;
            Some((profile, Match::Dmi(name.clone())))
        };
        let (profile, matched) = match by_tree.or_else(by_dmi) {
            Some((profile, matched)) => (profile.clone(), matched),
            None => (generic(&profiles, arch), Match::Generic),
        };
        (Board { profile, matched, model: device_tree_model(root).or(product) }, errors)
    }
}

/// All profiles in the order they are tried, and the errors of those left out.
fn profiles(root: &Root) -> (Vec<Profile>, Vec<ProfileError>) {
    let (mut profiles, mut errors) = (Vec::new(), Vec::new());
    for name in root.list(OVERRIDE_FOLDER).iter().filter(|name| name.ends_with(".toml")) {
        let path = format!("{OVERRIDE_FOLDER}/{name}");
        let text =
            root.read(&path).map_err(|e| ProfileError { origin: path.clone(), problem: e.to_string() });
        match text.and_then(|text| Profile::parse(&path, &text)) {
            Ok(profile) => profiles.push(profile),
            Err(error) => errors.push(error),
        }
    }
    profiles.extend(built_in());
    (profiles, errors)
}

/// The compiled-in profiles.
pub fn built_in() -> impl Iterator<Item = Profile> {
    BUILT_IN.iter().map(|(origin, text)| {
        Profile::parse(origin, text).expect("compiled-in profiles are parsed by a test")
    })
}

/// The profile for a machine nobody described: the architecture's own, without any power figure.
fn generic(profiles: &[Profile], arch: &str) -> Profile {
    let found = profiles.iter().find(|profile| profile.generic_arch.as_deref() == Some(arch));
    found.cloned().unwrap_or_else(|| Profile {
        name: "generic".into(),
        title: format!("a machine of architecture {arch}"),
        compatible: Vec::new(),
        dmi_product: Vec::new(),
        generic_arch: Some(arch.to_owned()),
        clusters: Vec::new(),
        features: Vec::new(),
        memory: None,
        power: None,
        sensors: Vec::new(),
        calibration: None,
        thermal: None,
        missing: BTreeMap::new(),
        recommended: Recommended::default(),
    })
}

/// The device tree's `compatible` strings, most specific first.
///
/// `/proc/device-tree` is the documented place; a service with `ProcSubset=pid` sees only the one in `/sys`.
pub fn compatible(root: &Root) -> Vec<String> {
    ["/proc/device-tree/compatible", "/sys/firmware/devicetree/base/compatible"]
        .iter()
        .find_map(|path| root.read(path).ok())
        .map(|text| text.split('\0').filter(|name| !name.is_empty()).map(str::to_owned).collect())
        .unwrap_or_default()
}

fn device_tree_model(root: &Root) -> Option<String> {
    ["/proc/device-tree/model", "/sys/firmware/devicetree/base/model"]
        .iter()
        .find_map(|path| root.read(path).ok())
        .map(|text| text.trim_end_matches('\0').to_owned())
        .filter(|model| !model.is_empty())
}

#[cfg(test)]
mod tests;
