//! The daemon: one engine thread behind a bounded queue, and a socket in front.
//!
//! ```text
//! client --message--> reader thread --job--> queue --> engine thread --answers--> session --> writer thread --message-->
//!                     (transport::unix)                (worker)
//! ```
//! Nothing a client does reaches the engine's thread but jobs and cancellations; nothing the engine does waits for a
//! client.

mod charges;
pub mod climate;
pub mod counters;
pub mod form;
mod live;
pub mod long;
pub mod meters;
pub mod pace;
pub mod pacing;
mod prefixes;
pub mod queue;
pub mod report;
pub mod requester;
pub mod service;
pub mod session;
pub mod spending;
pub mod state;
mod submit;
pub mod tokenizing;
mod turns;
pub mod worker;

use std::error::Error;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tern_boards::Root;
use tern_boards::energy::{Ledger, Meter};
use tern_protocol::answer::{Answer, Reason};

use crate::config::{Config, Limits};
use crate::daybook::Keeper;
use crate::error::{CommandError, Exit};
use crate::grammar::Book;
use crate::model::{ModelChoice, OpenError, Opened, with_engine};
use crate::tasks::prompt::PromptForm;
use crate::tasks::{CurrentTasks, TaskFileError, TaskSet};
use crate::transport::Transport;
use crate::transport::http::{HttpError, HttpTransport};
use crate::transport::mqtt::client::Rumqtt;
use crate::transport::mqtt::plug::PlugListener;
use crate::transport::mqtt::{MqttError, MqttTransport};
use crate::transport::serial::{SerialError, SerialTransport};
use crate::transport::unix::UnixTransport;
use crate::transport::unix::claim::{Claim, SocketError};
use crate::wire::{self, Failure};
use climate::Climate;
use long::{LongTexts, Surroundings};
use meters::Meters;
use pacing::{BudgetError, Pacing};
use prefixes::Prefixes;
use queue::Queue;
use service::Service;
use spending::Budgets;
use state::{Facts, State};
use worker::{Metering, Worker};

/// What clients are told while the daemon stops.
pub(crate) const STOPPING: &str = "the daemon is shutting down; send the request again when it is back";

/// Characters of an error's message at most, or little more.
const MESSAGE_CHARACTERS: usize = 1000;

/// The error answer to the request `id`.
pub(crate) fn refusal(id: Option<String>, reason: Reason, message: impl Into<String>) -> wire::Answer {
    let message = shortened(message.into());
    Answer::Error(Failure { id, code: reason.code(), reason, message, retry_after_ms: None })
}

/// A message without its middle if it is long: it quotes what was sent, which may be a megabyte, and ends with what to do.
fn shortened(message: String) -> String {
    let characters = message.chars().count();
    if characters <= MESSAGE_CHARACTERS {
        return message;
    }
    let half = MESSAGE_CHARACTERS / 2;
    let begin: String = message.chars().take(half).collect();
    let end: String = message.chars().skip(characters - half).collect();
    format!("{begin} ... {end}")
}

/// A daemon could not start.
#[derive(Debug)]
#[non_exhaustive]
pub enum ServeError {
    /// A task file cannot be used.
    Tasks(TaskFileError),
    /// The socket cannot be had.
    Socket(SocketError),
    /// HTTP cannot be served.
    Http(HttpError),
    /// The serial line cannot be had.
    Serial(SerialError),
    /// The bridge to the broker cannot start.
    Mqtt(MqttError),
    /// The budget of watts cannot be kept.
    Power(BudgetError),
    /// The model cannot be used.
    Model(OpenError),
    /// The system refused a thread.
    Thread(io::Error),
    /// The engine's thread ended before it was ready.
    EngineDied,
}

impl fmt::Display for ServeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ServeError::Tasks(error) => write!(f, "{error}"),
            ServeError::Socket(error) => write!(f, "{error}"),
            ServeError::Http(error) => write!(f, "{error}"),
            ServeError::Serial(error) => write!(f, "{error}"),
            ServeError::Mqtt(error) => write!(f, "{error}"),
            ServeError::Power(error) => write!(f, "{error}"),
            ServeError::Model(error) => write!(f, "{error}"),
            ServeError::Thread(_) => f.write_str("the system refuses a thread; raise the limit of tasks"),
            ServeError::EngineDied => {
                f.write_str("the engine ended before it was ready; this is a fault of Tern")
            }
        }
    }
}

impl Error for ServeError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            // These print their own message above.
            ServeError::Tasks(error) => error.source(),
            ServeError::Socket(error) => error.source(),
            ServeError::Http(error) => error.source(),
            ServeError::Serial(error) => error.source(),
            ServeError::Mqtt(error) => error.source(),
            ServeError::Power(error) => error.source(),
            ServeError::Model(error) => error.source(),
            ServeError::Thread(error) => Some(error),
            ServeError::EngineDied => None,
        }
    }
}

impl From<ServeError> for CommandError {
    fn from(error: ServeError) -> Self {
        match error {
            ServeError::Tasks(error) => error.into(),
            ServeError::Model(error) => error.into(),
            ServeError::Http(HttpError::Key(_)) => CommandError::from_error(Exit::NoInput, &error),
            ServeError::Socket(SocketError::NoAccount { .. }) => {
                CommandError::from_error(Exit::BadInput, &error)
            }
            ServeError::Socket(_) | ServeError::Http(_) | ServeError::Serial(_) => {
                CommandError::from_error(Exit::CannotCreate, &error)
            }
            ServeError::Mqtt(MqttError::UnknownTask { .. }) => {
                CommandError::from_error(Exit::BadInput, &error)
            }
            ServeError::Power(_) => CommandError::from_error(Exit::BadInput, &error),
            ServeError::Mqtt(MqttError::Secret(_)) => CommandError::from_error(Exit::NoInput, &error),
            ServeError::Mqtt(_) => CommandError::from_error(Exit::CannotCreate, &error),
            ServeError::Thread(_) | ServeError::EngineDied => {
                CommandError::from_error(Exit::Internal, &error)
            }
        }
    }
}

/// The daemon.
#[derive(Debug)]
pub struct Server;

/// What the engine's thread says once it is ready.
struct Ready {
    opened: Opened,
    form: Arc<PromptForm>,
    slots: usize,
}

impl Server {
    /// Starts a daemon on `model` with this machine's meter, and returns when it answers on its socket.
    ///
    /// # Errors
    /// If the tasks, the socket or the model cannot be used.
    pub fn start(config: &Config, model: &ModelChoice) -> Result<ServerHandle, ServeError> {
        let Meters { machine, meter, witness, listener } = meters::find(&Root::new("/"), config)?;
        for problem in &machine.problems {
            log::warn!("{problem}");
        }
        let meter = meters::witnessed(meter, witness)?;
        let mut handle = Server::start_on(config, model, meter, Root::new("/"))?;
        handle.plug = listener;
        Ok(handle)
    }

    /// As [`Server::start`], with this meter or none.
    ///
    /// # Errors
    /// As [`Server::start`].
    pub fn start_metered(
        config: &Config,
        model: &ModelChoice,
        meter: Option<Box<dyn Meter>>,
    ) -> Result<ServerHandle, ServeError> {
        Server::start_on(config, model, meter, Root::new("/"))
    }

    /// As [`Server::start_metered`], with temperatures as under `root`.
    ///
    /// # Errors
    /// As [`Server::start`].
    pub fn start_on(
        config: &Config,
        model: &ModelChoice,
        meter: Option<Box<dyn Meter>>,
        root: Root,
    ) -> Result<ServerHandle, ServeError> {
        pacing::check(&config.energy, meter.as_deref()).map_err(ServeError::Power)?;
        let tasks = TaskSet::load(config.tasks.folder.as_deref()).map_err(ServeError::Tasks)?;
        // Before the model: a second daemon must not load one only to find that there is a first.
        let claim = Claim::take(&config.socket).map_err(ServeError::Socket)?;
        // It says that the model is being opened.
        let http = config.http.as_ref();
        let http = http.map(|section| HttpTransport::bind(section, config.limits.write_ms));
        let http = http.transpose().map_err(ServeError::Http)?;
        let queue = Arc::new(Queue::new(config.limits.queue, config.limits.client_queue));
        let origin = Instant::now();
        let budgets = Budgets::of(meter.is_some(), config.energy.unmetered);
        let meter = meter
            .map(|meter| meters::steadily_read(meter, origin))
            .transpose()
            .map_err(ServeError::Thread)?;
        let names: Vec<String> = tasks.names().map(str::to_owned).collect();
        let tasks = Arc::new(CurrentTasks::new(tasks));
        let sensors = Sensors { meter, root, origin };
        let (engine, ready) = start_engine(config, model, sensors, &queue, &tasks)?;
        let Ready { opened, form, slots } = ready;
        let facts = Facts {
            model: opened.title().to_owned(),
            kernels: opened.kernels,
            threads: opened.threads,
            slots,
            budgets,
        };
        let state = Arc::new(State::new(facts));
        state.daybook.open().set_tasks(names.iter().map(String::as_str));
        let keeper = config.energy.record.keep(&state);
        let limits = config.limits.clone();
        let service = Arc::new(Service {
            queue: Arc::clone(&queue),
            state: Arc::clone(&state),
            current_tasks: tasks,
            form,
            limits,
            clients: AtomicU64::new(0),
            book: Book::default(),
        });
        let socket = claim.path().to_owned();
        let started = engine.start(state);
        let mut handle = ServerHandle {
            socket,
            limits: config.limits.clone(),
            opened,
            service: Arc::clone(&service),
            engine: Some(engine.thread),
            transports: Vec::new(),
            plug: None,
            keeper,
        };
        started?;
        if let Some(http) = http {
            http.open(Arc::clone(&service));
            handle.transports.push(Box::new(http));
        }
        // Before the socket: who finds that answering finds the line open as well.
        if let Some(section) = &config.serial {
            let started = SerialTransport::start(section, Arc::clone(&service));
            handle.transports.push(Box::new(started.map_err(ServeError::Serial)?));
        }
        let listening = UnixTransport::listen(claim, Arc::clone(&service));
        handle.transports.push(Box::new(listening.map_err(ServeError::Socket)?));
        if let Some(section) = &config.mqtt {
            let started =
                MqttTransport::start(section, &config.watch, &config.digest, Box::new(Rumqtt), service);
            handle.transports.push(Box::new(started.map_err(ServeError::Mqtt)?));
        }
        log::info!("ready on {}", handle.socket.display());
        Ok(handle)
    }
}

/// The engine's thread, which waits to be told where to count.
struct EngineThread {
    thread: JoinHandle<()>,
    go: mpsc::SyncSender<Arc<State>>,
}

impl EngineThread {
    fn start(&self, state: Arc<State>) -> Result<(), ServeError> {
        self.go.send(state).map_err(|_| ServeError::EngineDied)
    }
}

/// What the engine's thread reads of the machine.
struct Sensors {
    meter: Option<Box<dyn Meter>>,
    /// Where temperatures are.
    root: Root,
    /// Zero of the meter's clock.
    origin: Instant,
}

fn start_engine(
    config: &Config,
    model: &ModelChoice,
    Sensors { meter, root, origin }: Sensors,
    queue: &Arc<Queue>,
    tasks: &Arc<CurrentTasks>,
) -> Result<(EngineThread, Ready), ServeError> {
    let (model, long_texts) = (config.model_choice(model), config.limits.long_texts);
    let (section, kept) = (config.energy.clone(), config.prefixes.clone());
    let (queue, tasks) = (Arc::clone(queue), Arc::clone(tasks));
    let (tell, told) = mpsc::sync_channel(1);
    let (go, gone) = mpsc::sync_channel::<Arc<State>>(1);
    let thread = std::thread::Builder::new()
        .name("tern-engine".into())
        .spawn(move || {
            let tell_failure = tell.clone();
            let outcome = with_engine(&model, |engine, opened| {
                let form = Arc::new(PromptForm::of(engine.tokenizer()));
                let options = *engine.options();
                let ready = Ready { opened: opened.clone(), form: Arc::clone(&form), slots: options.slots };
                let pulse = Arc::clone(&opened.pulse);
                // The other side waits for this, and then sends or drops its end: either way nothing blocks.
                if tell.send(Ok(ready)).is_ok()
                    && let Ok(state) = gone.recv()
                {
                    let prefixes = Prefixes::of(&kept, opened.file(), engine, Arc::clone(&form), tasks);
                    let ledger = Ledger::new(meter, origin.elapsed());
                    let pacing = Pacing::new(&section, Climate::new(root));
                    let metering = Metering { ledger, pacing, origin };
                    let around = Surroundings {
                        queue: Arc::clone(&queue),
                        state: Arc::clone(&state),
                        form,
                        context_tokens: options.context_tokens,
                        prompt_bytes: options.prompt_bytes,
                    };
                    let long = LongTexts::new(around, long_texts);
                    Worker::new(engine, &queue, &state, long, metering, pulse).keeping(prefixes).run();
                }
            });
            if let Err(error) = outcome {
                let _nobody_waits = tell_failure.send(Err(error));
            }
        })
        .map_err(ServeError::Thread)?;
    match told.recv() {
        Ok(Ok(ready)) => Ok((EngineThread { thread, go }, ready)),
        Ok(Err(error)) => Err(ServeError::Model(error)),
        Err(_) => Err(ServeError::EngineDied),
    }
}

/// A running daemon. Dropping it stops it.
#[derive(Debug)]
pub struct ServerHandle {
    socket: PathBuf,
    limits: Limits,
    opened: Opened,
    service: Arc<Service>,
    engine: Option<JoinHandle<()>>,
    transports: Vec<Box<dyn Transport>>,
    /// Hears the power meter while the daemon runs.
    plug: Option<PlugListener>,
    /// Keeps the record of energy.
    keeper: Option<Keeper>,
}

impl ServerHandle {
    /// The socket it answers on.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The model it runs.
    pub fn opened(&self) -> &Opened {
        &self.opened
    }

    /// What it serves with, for whoever changes or reports it while it runs.
    pub fn service(&self) -> &Service {
        &self.service
    }

    /// A count that goes up while the engine's thread advances, at work or idle.
    pub fn pulse(&self) -> u64 {
        self.opened.pulse.load(Ordering::Relaxed)
    }

    /// Whether its engine still runs.
    pub fn is_running(&self) -> bool {
        self.engine.as_ref().is_some_and(|engine| !engine.is_finished())
    }

    /// Stops it: no new clients, waiting requests are refused, running ones get `limits.stop_ms` to finish, every
    /// answer is delivered if its client reads it, and the socket is removed. Returns when all that is done.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        for transport in &mut self.transports {
            transport.stop_accepting();
        }
        self.service.queue.stop(Instant::now() + Duration::from_millis(self.limits.stop_ms));
        if let Some(engine) = self.engine.take()
            && engine.join().is_err()
        {
            log::error!("the engine's thread panicked; this is a fault of Tern");
        }
        // After the engine's last entry.
        drop(self.keeper.take());
        for transport in self.transports.drain(..) {
            transport.finish();
        }
    }
}

impl Drop for ServerHandle {
    fn drop(&mut self) {
        self.end();
    }
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod schema_tests;

#[cfg(test)]
mod spending_tests;

#[cfg(test)]
mod pacing_tests;
