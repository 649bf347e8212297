//! `tern serve`: answers on a Unix socket and at a broker until it is told to stop.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;

use crate::config::socket::SerialSection;
use crate::config::{Config, LogLevel};
use crate::error::{CommandError, Exit};
use crate::model::{ModelChoice, kv_name};
use crate::reload::{self, Configuration};
use crate::serve::{ServeError, Server, ServerHandle};
use crate::signals::{Signals, Told};
use crate::systemd::Watchdog;
use crate::tasks::TaskSet;
use crate::transport::unix::peers::{self, Allowed};
use crate::{figures, logger, systemd};

/// How often the service manager is told what was done meanwhile.
const STATUS_EVERY: Duration = Duration::from_secs(5);

/// Where the configuration of the system's daemon is.
const SYSTEM_CONFIG: &str = "/etc/tern/tern.toml";

/// Answers requests on a Unix socket until it is told to stop
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct ServeArgs {
    /// Configuration file; without it /etc/tern/tern.toml if there is one
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Read the configuration and the task files, say what they come to, and leave
    #[arg(long)]
    check_config: bool,
    /// Where to make the socket
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Answer on this serial line as well, a microcontroller's say
    #[arg(long, value_name = "DEVICE")]
    serial: Option<PathBuf>,
    /// How much to log
    #[arg(long, value_name = "LEVEL")]
    log: Option<LogLevel>,
    #[command(flatten)]
    model: ModelChoice,
}

const EXAMPLES: &str = "\
Options win over the configuration file. The daemon ends on SIGTERM or SIGINT: it finishes running requests, for at
most limits.stop_ms, and removes its socket. On SIGHUP it reads the task files and the level of the log again; what
cannot be used changes nothing.

Examples:
  tern serve                                   the bundled model on the default socket
  tern serve --socket /tmp/t.sock --threads 2
  echo '{\"id\":\"1\",\"task\":\"log-severity\",\"text\":\"fan stopped\"}' | nc -UN /tmp/t.sock
  tern serve --serial /dev/ttyAMA0             and on a serial line
  tern serve --config tern.toml --check-config";

impl ServeArgs {
    /// The configuration as its file is now, and what the command line says against it.
    fn config(&self) -> Result<Configuration, CommandError> {
        let system = Path::new(SYSTEM_CONFIG);
        let mut read = match &self.config {
            Some(path) => Configuration::read(path)?,
            None if system.exists() => Configuration::read(system)?,
            None => Configuration::default(),
        };
        let config = &mut read.config;
        if let Some(socket) = &self.socket {
            config.socket.path.clone_from(socket);
        }
        if let Some(path) = &self.serial {
            let baud = config.serial.take().map(|section| section.baud);
            let mut section = SerialSection::new(path.clone());
            section.baud = baud.unwrap_or(section.baud);
            config.serial = Some(section);
        }
        config.log = self.log.unwrap_or(config.log);
        config.energy.record.settle_folder();
        Ok(read)
    }
}

/// Runs the daemon until it is told to stop.
///
/// # Errors
/// If it cannot start, or its engine ends.
pub fn run(args: &ServeArgs) -> Result<(), CommandError> {
    let running = args.config()?;
    let config = &running.config;
    if args.check_config {
        return check(config, &args.model);
    }
    logger::init(config.log.into());
    // Before the model is loaded, so that a signal meanwhile is not lost.
    let mut signals = Signals::register().map_err(signals_failed)?;
    systemd::loading("starting");
    let server = Server::start(config, &args.model).map_err(|error| {
        let error = CommandError::from(error);
        systemd::status(&error.to_string());
        error
    })?;
    signals.started();
    let opened = server.opened();
    let status = format!("{} with {} on {} threads", opened.title(), opened.kernels, opened.threads);
    log::info!("{status}");
    systemd::ready(&status);
    let ended = attend(&mut signals, args, &running, &server);
    systemd::stopping(Duration::from_millis(config.limits.stop_ms));
    log::info!("stopping");
    server.stop();
    log::info!("stopped");
    ended
}

fn signals_failed(error: io::Error) -> CommandError {
    CommandError::from_error(Exit::Internal, &error).while_doing("waiting for signals")
}

/// Reloads, reports and feeds the watchdog until the process is told to stop.
fn attend(
    signals: &mut Signals,
    args: &ServeArgs,
    running: &Configuration,
    server: &ServerHandle,
) -> Result<(), CommandError> {
    let mut watchdog = Watchdog::of_service();
    let pause = watchdog.every().map_or(STATUS_EVERY, |every| every.min(STATUS_EVERY));
    let (mut refused, mut told, mut told_at) = (None, String::new(), Instant::now());
    loop {
        match signals.wait(pause).map_err(signals_failed)? {
            Some(Told::Stop) => return Ok(()),
            Some(Told::Reload) => {
                systemd::reloading();
                refused = reloaded(args, running, server);
                told = summary(server, refused.as_deref());
                told_at = Instant::now();
                systemd::ready(&told);
            }
            None => {}
        }
        if !server.is_running() {
            let message = "the engine's thread has ended; this is a fault of Tern";
            return Err(CommandError::new(Exit::Internal, message));
        }
        watchdog.look(server.pulse());
        if systemd::is_listening() && told_at.elapsed() >= STATUS_EVERY {
            told_at = Instant::now();
            let now = summary(server, refused.as_deref());
            if now != told {
                systemd::status(&now);
                told = now;
            }
        }
    }
}

/// Reloads, and says in the log what came of it; returns why it was refused.
fn reloaded(args: &ServeArgs, running: &Configuration, server: &ServerHandle) -> Option<String> {
    match args.config().and_then(|now| reload::reload(&now, running, server.service())) {
        Ok(reloaded) => {
            log::info!("reloaded: {reloaded}");
            if !reloaded.restart.is_empty() {
                log::warn!("changed, and in force only after a restart: {}", reloaded.restart.join(", "));
            }
            None
        }
        Err(error) => {
            log::error!("reload refused, everything stays as it was: {error}");
            Some(error.to_string())
        }
    }
}

/// One line on what the daemon does.
fn summary(server: &ServerHandle, refused: Option<&str>) -> String {
    let status = server.service().status(String::new());
    let mut text = format!(
        "{}: {} running, {} waiting; {} answered, {} refused, {} expired; {} prompt and {} generated tokens",
        status.model,
        status.live,
        status.queue,
        status.requests.answered,
        status.requests.refused,
        status.requests.expired,
        status.tokens.prompt,
        status.tokens.generated,
    );
    if let Some(why) = refused {
        text += &format!("; the last reload was refused: {why}");
    }
    text
}

/// Says what a configuration comes to.
fn check(config: &Config, model: &ModelChoice) -> Result<(), CommandError> {
    let tasks = TaskSet::load(config.tasks.folder.as_deref())?;
    config.check_tasks(&tasks)?;
    let names: Vec<_> = tasks.names().collect();
    let choice = config.model_choice(model);
    let path = choice.file()?;
    let size = std::fs::metadata(&path).map_err(|error| {
        CommandError::from_error(Exit::NoInput, &error)
            .while_doing(format!("looking at '{}'", path.display()))
    })?;
    let limits = &config.limits;
    let mut text = format!(
        "model    {} ({})\nsocket   {} (mode {:o})\ntasks    {}\nlimits   {} clients, {} requests waiting, {} of one \
         client, texts of {} bytes\n",
        path.display(),
        figures::bytes(size.len()),
        config.socket.path.display(),
        config.socket.mode,
        names.join(", "),
        limits.clients,
        limits.queue,
        limits.client_queue,
        limits.text_bytes,
    );
    if let Some(http) = &config.http {
        let key = if http.key.is_some() { "with a key" } else { "without a key" };
        text += &format!("http     {}, {key}, {} connections\n", http.listen, http.connections);
    }
    config.socket.group.as_ref().map(peers::group_of_file).transpose().map_err(ServeError::Socket)?;
    let allowed = Allowed::of(&config.socket).map_err(ServeError::Socket)?;
    if let Allowed::Listed { users, groups } = allowed {
        text += &format!("allowed  users {users:?} and groups {groups:?}\n");
    }
    if let Some(serial) = &config.serial {
        text += &format!("serial   {} at {} baud\n", serial.path.display(), serial.baud);
    }
    if let Some(mqtt) = &config.mqtt {
        text += &format!(
            "mqtt     {} as {}, {}/{}/+/request{}, {} topics watched, {} digests, outbox in {}\n",
            mqtt.broker,
            mqtt.client_id(),
            mqtt.base,
            mqtt.device(),
            mqtt.group.as_ref().map(|group| format!(", in the group {group}")).unwrap_or_default(),
            config.watch.len(),
            config.digest.len(),
            mqtt.state_folder().display(),
        );
    }
    if let Some(kv) = choice.engine.kv {
        text += &format!("kv       {}\n", kv_name(kv));
    }
    io::stdout().write_all(text.as_bytes()).map_err(|error| CommandError::output(&error))
}
