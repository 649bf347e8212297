//! Boards that are not there: a Raspberry Pi 4 with a plug at the wall and a Raspberry Pi 5 with its PMIC, whose files
//! under a temporary root move on as loads run, in a time of their own.
//!
//! Their power is not that of the model: leakage grows with heat, which comes and goes within half a minute, cores draw
//! less while they wait for memory, kinds of instructions differ, regulators and the supply lose a part. The meters have
//! gains, noise, drift and steps. `/proc/stat` and `time_in_state` count in hundredths of a second, and the system has a
//! little work of its own. Numbers are drawn from a seed and computed without functions that differ between machines.

use std::fs;
use std::path::Path;
use std::time::Duration;

use tern_boards::Root;

use crate::fill::Random;

/// Cores of either board.
pub const CORES: usize = 4;

/// Time of one step of the simulation.
const STEP_S: f64 = 0.1;

/// Rails of the PMIC, each at one volt.
const RAILS: [&str; 12] = [
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

/// What runs on a simulated board.
#[derive(Clone, Debug, PartialEq)]
pub struct Work {
    /// CPUs in use.
    pub cpus: Vec<usize>,
    /// Share of the time that they are busy.
    pub duty: f64,
    /// Share of that in which they stream from memory.
    pub memory: f64,
    /// What the instructions draw beside a mean one.
    pub mix: f64,
    /// Bytes streamed a second, where they do not follow from the share.
    pub bytes_per_second: Option<f64>,
}

impl Work {
    /// Nothing.
    pub fn rest() -> Work {
        Work { cpus: Vec::new(), duty: 1.0, memory: 0.0, mix: 1.0, bytes_per_second: None }
    }
}

/// A model to run on a simulated board.
#[derive(Clone, Copy, Debug)]
pub struct SimulatedModel {
    /// Bytes of weights that a token reads.
    pub bytes_per_token: f64,
    /// Time that a token's arithmetic takes one core at its highest clock, seconds.
    pub core_seconds_per_token: f64,
}

/// What makes one board differ from another.
#[derive(Clone, Debug)]
struct Truth {
    clocks_mhz: Vec<u32>,
    idle_w: f64,
    core_w: f64,
    byte_nj: f64,
    most_gb_s: f64,
    waiting: f64,
    leakage_per_degree: f64,
    degrees_per_watt: f64,
    /// Watts at the meter's place by watts of the board.
    supply: (f64, f64),
    gain: f64,
    drift_an_hour: f64,
    noise: f64,
}

/// A simulated board.
#[derive(Debug)]
pub struct Simulation {
    folder: tempfile::TempDir,
    root: Root,
    truth: Truth,
    random: Random,
    has_pmic: bool,
    seconds: f64,
    busy_s: [f64; CORES],
    clocks_s: Vec<f64>,
    degrees: f64,
    joules: f64,
    shown: Vec<f64>,
}

impl Simulation {
    /// A Raspberry Pi 4B without a sensor, measured at the wall.
    pub fn pi_4(seed: u64) -> Simulation {
        let clocks = (6..=18).map(|hundreds| hundreds * 100).collect();
        let board =
            ("raspberrypi,4-model-b\0brcm,bcm2711\0", "Raspberry Pi 4 Model B Rev 1.4\0", "0x410fd083");
        Simulation::new(seed, clocks, (2.0, 0.95, 4.5), (1.15, 0.25), board, false)
    }

    /// A Raspberry Pi 5B with its PMIC, measured at its direct-current input.
    pub fn pi_5(seed: u64) -> Simulation {
        let clocks = (15..=24).map(|hundreds| hundreds * 100).collect();
        let board =
            ("raspberrypi,5-model-b\0brcm,bcm2712\0", "Raspberry Pi 5 Model B Rev 1.0\0", "0x414fd0b1");
        Simulation::new(seed, clocks, (2.7, 1.9, 15.0), (1.0, 0.0), board, true)
    }

    fn new(
        seed: u64,
        clocks_mhz: Vec<u32>,
        (idle_w, core_w, most_gb_s): (f64, f64, f64),
        supply: (f64, f64),
        (compatible, model, midr): (&str, &str, &str),
        has_pmic: bool,
    ) -> Simulation {
        let mut random = Random::new(seed);
        let clocks = clocks_mhz.len();
        let truth = Truth {
            clocks_mhz,
            idle_w: idle_w * uniform(&mut random, 0.85, 1.15),
            core_w: core_w * uniform(&mut random, 0.8, 1.2),
            byte_nj: uniform(&mut random, 0.10, 0.35),
            most_gb_s,
            waiting: uniform(&mut random, 0.70, 0.95),
            leakage_per_degree: uniform(&mut random, 0.0, 0.002),
            degrees_per_watt: uniform(&mut random, 4.0, 8.0),
            supply,
            gain: 1.0 + normal(&mut random, if has_pmic { 0.03 } else { 0.01 }),
            drift_an_hour: normal(&mut random, 0.005),
            noise: if has_pmic { 0.10 } else { 0.02 },
        };
        // Thousands of small files are written; where there is a file system in memory, they need not reach a disk.
        let memory = Path::new("/dev/shm");
        let place = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        let folder = tempfile::tempdir_in(place).expect("a temporary folder");
        let root = Root::new(folder.path());
        let mut board = Simulation {
            folder,
            root,
            truth,
            random,
            has_pmic,
            seconds: 1000.0,
            busy_s: [120.0; CORES],
            clocks_s: vec![30.0; clocks],
            degrees: 0.0,
            joules: 0.0,
            shown: Vec::new(),
        };
        board.write("proc/device-tree/compatible", compatible);
        board.write("proc/device-tree/model", model);
        board.write("sys/devices/system/cpu/online", "0-3\n");
        let khz = |mhz: u32| format!("{}\n", mhz * 1000);
        let (least, most) = (board.truth.clocks_mhz[0], board.truth.clocks_mhz[clocks - 1]);
        for cpu in 0..CORES {
            let folder = format!("sys/devices/system/cpu/cpu{cpu}");
            board.write(&format!("{folder}/regs/identification/midr_el1"), midr);
            board.write(&format!("{folder}/cpufreq/cpuinfo_max_freq"), &khz(most));
        }
        let listed: Vec<String> = board.truth.clocks_mhz.iter().map(|mhz| (mhz * 1000).to_string()).collect();
        board.policy("related_cpus", "0 1 2 3\n");
        board.policy("scaling_available_frequencies", &(listed.join(" ") + "\n"));
        board.policy("scaling_min_freq", &khz(least));
        board.policy("scaling_max_freq", &khz(most));
        board.advance(&Work::rest(), STEP_S);
        board
    }

    /// Where its files are.
    pub fn root(&self) -> &Root {
        &self.root
    }

    /// The folder that stands for `/`.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The time on its clock.
    pub fn now(&self) -> Duration {
        Duration::from_micros((self.seconds * 1e6) as u64)
    }

    /// True energy at the meter's place so far, joules.
    pub fn joules(&self) -> f64 {
        self.joules
    }

    /// The clocks it can be held at, megahertz.
    pub fn clocks_mhz(&self) -> &[u32] {
        &self.truth.clocks_mhz
    }

    /// A uniform number of its own sequence.
    pub fn uniform(&mut self, from: f64, to: f64) -> f64 {
        uniform(&mut self.random, from, to)
    }

    /// Holds the clock, as writing both files does.
    pub fn hold(&mut self, mhz: u32) {
        self.limit((mhz, mhz));
    }

    /// Limits the clock from below and above.
    pub fn limit(&mut self, (least, most): (u32, u32)) {
        self.policy("scaling_min_freq", &format!("{}\n", least * 1000));
        self.policy("scaling_max_freq", &format!("{}\n", most * 1000));
    }

    /// The limits of the clock as they are set now, megahertz.
    pub fn limits(&self) -> (u32, u32) {
        let read = |file: &str| {
            let path = format!("/sys/devices/system/cpu/cpufreq/policy0/{file}");
            self.root.read_u64(&path).expect("a number that was written") as u32 / 1000
        };
        (read("scaling_min_freq"), read("scaling_max_freq"))
    }

    /// The mean of what a plug has shown in the last `seconds`, in steps of `step_w`.
    pub fn plug_w(&self, seconds: f64, step_w: f64) -> f64 {
        let count = ((seconds / STEP_S) as usize).clamp(1, self.shown.len());
        let last = &self.shown[self.shown.len() - count..];
        let mean = last.iter().sum::<f64>() / count as f64;
        (mean / step_w).round() * step_w
    }

    /// Bytes a second that `work` streams at `mhz`.
    fn stream(&self, work: &Work, mhz: u32) -> f64 {
        if let Some(bytes) = work.bytes_per_second {
            return bytes;
        }
        let f = f64::from(mhz) / f64::from(self.truth.clocks_mhz[self.truth.clocks_mhz.len() - 1]);
        let wanted = work.cpus.len() as f64 * work.duty * work.memory * (0.25 + 0.30 * f);
        wanted.min(1.0) * self.truth.most_gb_s * 1e9
    }

    /// What decoding is on `threads` cores at the clock they run at, and its tokens a second: arithmetic shrinks with cores
    /// and clock, reading memory with neither once two cores do it.
    pub fn decode(&self, model: SimulatedModel, threads: usize) -> (Work, f64) {
        let cpus: Vec<usize> = (0..threads).collect();
        let all = Work { cpus, duty: 1.0, memory: 1.0, mix: 1.1, bytes_per_second: None };
        let mhz = self.clock_mhz(&all);
        let f = f64::from(mhz) / f64::from(self.truth.clocks_mhz[self.truth.clocks_mhz.len() - 1]);
        let arithmetic_s = model.core_seconds_per_token / (threads as f64 * f);
        let memory_s = model.bytes_per_token / self.stream(&all, mhz);
        let seconds = (arithmetic_s * arithmetic_s + memory_s * memory_s).sqrt();
        let work = Work {
            memory: memory_s / (memory_s + arithmetic_s),
            bytes_per_second: Some(model.bytes_per_token / seconds),
            ..all
        };
        (work, 1.0 / seconds)
    }

    /// True watts at the meter's place while `work` runs at `mhz`.
    fn watts(&self, work: &Work, mhz: u32) -> (f64, f64) {
        let truth = &self.truth;
        let f = f64::from(mhz) / f64::from(truth.clocks_mhz[truth.clocks_mhz.len() - 1]);
        let voltage = 0.7 + 0.3 * f;
        let mix = work.mix * (1.0 - work.memory * (1.0 - truth.waiting));
        let cores = work.cpus.len() as f64 * work.duty * truth.core_w * f * voltage * voltage * mix;
        let warm = cores + self.stream(work, mhz) * truth.byte_nj * 1e-9;
        let leakage = truth.leakage_per_degree * self.degrees * (truth.idle_w + warm);
        let loss = 1.0 + 0.02 * warm / (truth.idle_w + warm);
        let board = (truth.idle_w + warm + leakage) * loss;
        (board * truth.supply.0 + truth.supply.1, warm)
    }

    /// The clock at which a core runs `work`: what a governor that races chooses between the limits.
    pub fn clock_mhz(&self, work: &Work) -> u32 {
        let (least, most) = self.limits();
        if work.cpus.is_empty() { least } else { most }
    }

    /// Runs `work` for a step of `seconds` and writes what the kernel and the firmware would; returns the bytes streamed.
    pub fn advance(&mut self, work: &Work, seconds: f64) -> u64 {
        let mhz = self.clock_mhz(work);
        let (watts, warm) = self.watts(work, mhz);
        let bytes = self.stream(work, mhz) * seconds;
        self.seconds += seconds;
        self.joules += watts * seconds;
        // Half a minute to come to rest.
        self.degrees += (self.truth.degrees_per_watt * warm - self.degrees) * (seconds / 30.0);
        for cpu in 0..CORES {
            let own = 0.004 * (self.random.below(3) as f64);
            let given = if work.cpus.contains(&cpu) { work.duty } else { 0.0 };
            self.busy_s[cpu] += (given + own).min(1.0) * seconds;
        }
        if let Some(index) = self.truth.clocks_mhz.iter().position(|clock| *clock == mhz) {
            self.clocks_s[index] += seconds;
        }
        let drift = 1.0 + self.truth.drift_an_hour * (self.seconds - 1000.0) / 3600.0;
        let noise = 1.0 + normal(&mut self.random, self.truth.noise);
        let seen = watts * self.truth.gain * drift * noise;
        self.shown.push(seen);
        if self.has_pmic {
            self.write_rails(seen);
        }
        self.write_ticks();
        bytes as u64
    }

    fn write_ticks(&self) {
        let ticks = |seconds: f64| (seconds * 100.0) as u64;
        let mut text = String::from("cpu  1 0 0 1 0 0 0 0 0 0\n");
        for (cpu, busy) in self.busy_s.iter().enumerate() {
            let (busy, idle) = (ticks(*busy), ticks((self.seconds - busy).max(0.0)));
            text += &format!("cpu{cpu} {} 0 {} {idle} 0 0 0 0 0 0\n", busy - busy / 10, busy / 10);
        }
        self.write("proc/stat", &text);
        let states = self.truth.clocks_mhz.iter().zip(&self.clocks_s);
        let states: String =
            states.map(|(mhz, seconds)| format!("{} {}\n", mhz * 1000, ticks(*seconds))).collect();
        self.policy("stats/time_in_state", &states);
    }

    /// The answer of the firmware, whose rails do not see all of the board: see `boards/src/energy/pmic.rs`.
    fn write_rails(&self, board_w: f64) {
        let each = (board_w - 0.5879) / 1.1451 / RAILS.len() as f64;
        let mut text = String::new();
        for (index, rail) in RAILS.iter().enumerate() {
            text += &format!("{rail}_A current({index})={each:.8}A\n");
            text += &format!("{rail}_V volt({})=1.00000000V\n", index + 8);
        }
        self.write("dev/vcio", &text);
    }

    fn policy(&self, file: &str, text: &str) {
        self.write(&format!("sys/devices/system/cpu/cpufreq/policy0/{file}"), text);
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.folder.path().join(path);
        if fs::write(&path, text).is_err() {
            fs::create_dir_all(path.parent().expect("a file in a folder")).expect("a folder");
            fs::write(&path, text).expect("a small file");
        }
    }
}

fn uniform(random: &mut Random, from: f64, to: f64) -> f64 {
    from + (to - from) * (random.bits() >> 11) as f64 / (1u64 << 53) as f64
}

/// Twelve uniform numbers: near enough to normal, without tails that no sensor has.
fn normal(random: &mut Random, deviation: f64) -> f64 {
    deviation * ((0..12).map(|_| uniform(random, 0.0, 1.0)).sum::<f64>() - 6.0)
}
