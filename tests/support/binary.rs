//! The program `tern` itself, as a user runs it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Longest that any program of a test may run.
const PATIENCE: Duration = Duration::from_secs(120);

/// The program, built in the profile of this test if it is not up to date; `TERN_BINARY` names another one.
///
/// # Panics
/// If it cannot be built.
pub fn path() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| {
        if let Some(given) = std::env::var_os("TERN_BINARY") {
            return given.into();
        }
        // target/PROFILE/deps/THIS-TEST
        let this = std::env::current_exe().expect("the path of this test");
        let profile = this.ancestors().nth(2).expect("a test lies in PROFILE/deps");
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        // The whole workspace's features, and with a test among the targets those of what tests depend on, as
        // `cargo test --workspace` has them: nothing is built twice.
        let name = target_name(&this);
        let benches = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches");
        let kind = if benches.join(name).with_extension("rs").exists() { "--bench" } else { "--test" };
        cargo.args(["build", "--quiet", "--workspace", "--bin", "tern", kind, name, "--target-dir"]);
        cargo.arg(profile.parent().expect("a profile lies in the target folder"));
        if profile.file_name().is_some_and(|name| name == "release") {
            cargo.arg("--release");
        }
        let built = cargo.current_dir(env!("CARGO_MANIFEST_DIR")).status().expect("cargo runs");
        assert!(built.success(), "cargo build --bin tern failed");
        profile.join("tern")
    })
}

/// The name of a test or a benchmark, from the file that cargo made of it: `NAME-HASH`.
fn target_name(executable: &Path) -> &str {
    let stem = executable.file_stem().and_then(|stem| stem.to_str()).expect("cargo names tests in ASCII");
    stem.rsplit_once('-').map_or(stem, |(name, _)| name)
}

/// `tern` with arguments, without variables of the caller that would change what it does.
pub fn tern<'a>(arguments: impl IntoIterator<Item = &'a str>) -> Command {
    let mut command = Command::new(path());
    command.args(arguments);
    for name in ["TERN_MODEL", "TERN_KERNELS", "TERN_THREADS", "NO_COLOR", "COLUMNS"] {
        command.env_remove(name);
    }
    // A second of trials at each start would be most of a test; what they choose changes no answer.
    command.env("TERN_TUNE", "off");
    // Not in the home of who runs the tests.
    command.env("XDG_STATE_HOME", std::env::temp_dir().join("tern-tests-state"));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// What a program printed and how it ended.
#[derive(Clone, Debug)]
pub struct Ended {
    /// Exit code; `None` after a signal.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

/// Runs `command` with `input` on its standard input.
///
/// # Panics
/// If it cannot run, prints what is not UTF-8, or takes longer than two minutes.
pub fn run(mut command: Command, input: impl Into<Vec<u8>>) -> Ended {
    let input = input.into();
    command.stdin(if input.is_empty() { Stdio::null() } else { Stdio::piped() });
    let mut child = command.spawn().expect("the program starts");
    let feeder = child.stdin.take().map(|mut stdin| {
        // A program that refuses early does not read to the end; that is its right.
        std::thread::spawn(move || drop(std::io::Write::write_all(&mut stdin, &input)))
    });
    let output = wait(child);
    if let Some(feeder) = feeder {
        feeder.join().expect("feeding does not panic");
    }
    Ended {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).expect("standard output is UTF-8"),
        stderr: String::from_utf8(output.stderr).expect("standard error is UTF-8"),
    }
}

/// Waits for the end of `child`, reading what it prints.
fn wait(child: Child) -> Output {
    let id = child.id();
    let reader = std::thread::spawn(move || child.wait_with_output());
    let began = Instant::now();
    while !reader.is_finished() {
        assert!(began.elapsed() < PATIENCE, "process {id} is still running after {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(2));
    }
    reader.join().expect("reading does not panic").expect("the program's output can be read")
}
