//! `tern serve`: answers on a Unix socket and at a broker until it is told to stop.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::Args;
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::config::{Config, LogLevel};
use crate::error::{CommandError, Exit};
use crate::model::{ModelChoice, kv_name};
use crate::serve::Server;
use crate::tasks::TaskSet;
use crate::{figures, logger, systemd};

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
    /// How much to log
    #[arg(long, value_name = "LEVEL")]
    log: Option<LogLevel>,
    #[command(flatten)]
    model: ModelChoice,
}

const EXAMPLES: &str = "\
Options win over the configuration file. The daemon ends on SIGTERM or SIGINT: it finishes running requests, for at
most limits.stop_ms, and removes its socket.

Examples:
  tern serve                                   the bundled model on the default socket
  tern serve --socket /tmp/t.sock --threads 2
  echo '{\"id\":\"1\",\"task\":\"log-severity\",\"text\":\"fan stopped\"}' | nc -UN /tmp/t.sock
  tern serve --config tern.toml --check-config";

impl ServeArgs {
    fn config(&self) -> Result<Config, CommandError> {
        let system = Path::new(SYSTEM_CONFIG);
        let mut config = match &self.config {
            Some(path) => Config::read(path)?,
            None if system.exists() => Config::read(system)?,
            None => Config::default(),
        };
        if let Some(socket) = &self.socket {
            config.socket.path.clone_from(socket);
        }
        config.log = self.log.unwrap_or(config.log);
        Ok(config)
    }
}

/// Runs the daemon until it is told to stop.
///
/// # Errors
/// If it cannot start.
pub fn run(args: &ServeArgs) -> Result<(), CommandError> {
    let config = args.config()?;
    if args.check_config {
        return check(&config, &args.model);
    }
    logger::init(config.log.into());
    // Before the model is loaded, so that a stop meanwhile is not lost.
    let mut signals = signals()?;
    let server = Server::start(&config, &args.model)?;
    let opened = server.opened();
    let status = format!("{} with {} on {} threads", opened.title(), opened.kernels, opened.threads);
    log::info!("{status}");
    systemd::ready(&status);
    let mut byte = [0];
    // One byte a signal. An error would be one of the process's own pipe: stopping is the sane answer to it.
    let _ = signals.read(&mut byte);
    systemd::stopping();
    log::info!("stopping");
    server.stop();
    log::info!("stopped");
    Ok(())
}

/// A stream that gives a byte when the process is told to stop. The second time it ends at once.
fn signals() -> Result<UnixStream, CommandError> {
    let fail = |error| CommandError::from_error(Exit::Internal, &error).while_doing("setting up signals");
    let (receive, send) = UnixStream::pair().map_err(fail)?;
    let told = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT] {
        // Order matters: the first signal finds the flag down and raises it afterwards.
        signal_hook::flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&told))
            .map_err(fail)?;
        signal_hook::flag::register(signal, Arc::clone(&told)).map_err(fail)?;
        signal_hook::low_level::pipe::register(signal, send.try_clone().map_err(fail)?).map_err(fail)?;
    }
    Ok(receive)
}

/// Says what a configuration comes to.
fn check(config: &Config, model: &ModelChoice) -> Result<(), CommandError> {
    let tasks = TaskSet::load(config.tasks.folder.as_deref())?;
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
    if let Some(mqtt) = &config.mqtt {
        text += &format!(
            "mqtt     {} as {}, {}/{}/+/request{}, {} topics watched, outbox in {}\n",
            mqtt.broker,
            mqtt.client_id(),
            mqtt.base,
            mqtt.device(),
            mqtt.group.as_ref().map(|group| format!(", in the group {group}")).unwrap_or_default(),
            config.watch.len(),
            mqtt.state_folder().display(),
        );
        if let Some(watch) = config.watch.iter().find(|watch| tasks.find(&watch.task).is_none()) {
            let message =
                format!("the watch of {:?} wants the task {:?}, which is not there", watch.topic, watch.task);
            return Err(CommandError::new(Exit::BadInput, message));
        }
    }
    if let Some(kv) = choice.engine.kv {
        text += &format!("kv       {}\n", kv_name(kv));
    }
    std::io::stdout().write_all(text.as_bytes()).map_err(|error| CommandError::output(&error))
}
