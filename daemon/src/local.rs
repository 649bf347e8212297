//! A daemon for as long as one command takes: the same server, on a socket in a temporary folder.

use std::path::PathBuf;

use clap::Args;

use crate::client::Client;
use crate::config::Config;
use crate::error::{CommandError, Exit};
use crate::logger;
use crate::model::ModelChoice;
use crate::serve::{Server, ServerHandle};
use crate::wire::{Answer, Request, Status};

/// Which daemon a command speaks to.
#[derive(Args, Clone, Debug, Default)]
pub struct DaemonChoice {
    /// Socket of a running daemon; without it this command runs its own until it is done
    #[arg(long, value_name = "PATH", conflicts_with_all = ["path", "EngineChoice"])]
    pub socket: Option<PathBuf>,
    /// The model of the command's own daemon.
    #[command(flatten)]
    pub model: ModelChoice,
}

/// A connection, and the daemon at its other end if it is our own; that one stops when this goes.
#[derive(Debug)]
pub struct Session {
    /// The connection.
    pub client: Client,
    local: Option<ServerHandle>,
}

impl DaemonChoice {
    /// Connects to the chosen daemon, or starts one and connects to it.
    ///
    /// # Errors
    /// If nobody listens on the chosen socket, or our own daemon cannot start: mostly an unusable model.
    pub fn open(&self) -> Result<Session, CommandError> {
        match &self.socket {
            Some(socket) => Ok(Session { client: Client::connect(socket)?, local: None }),
            None => start(&self.model),
        }
    }
}

fn start(model: &ModelChoice) -> Result<Session, CommandError> {
    let folder = tempfile::Builder::new().prefix("tern-").tempdir().map_err(|error| {
        let place = std::env::temp_dir();
        CommandError::new(Exit::CannotCreate, format!("cannot make a folder in {}: {error}", place.display()))
    })?;
    let mut config = Config::default();
    config.socket.path = folder.path().join("tern.sock");
    config.socket.mode = 0o600;
    // One client, trusted with all there is.
    config.limits.clients = 1;
    config.limits.client_queue = config.limits.queue;
    config.limits.text_bytes = tern_protocol::limits::LINE_BYTES;
    // Whoever drops the session has its answers or no longer wants them.
    config.limits.stop_ms = 0;
    logger::init(log::LevelFilter::Warn);
    let server = Server::start(&config, model)?;
    let client = Client::connect(&config.socket.path)?;
    // Connected is connected: without its name nobody else can come, and nothing is left behind if we are killed.
    drop(folder);
    Ok(Session { client, local: Some(server) })
}

impl Session {
    /// Asks the daemon how it is.
    ///
    /// # Errors
    /// If it does not answer.
    pub fn status(&mut self) -> Result<Status, CommandError> {
        let request = Request { status: true, ..Request::new(self.client.new_id()) };
        match self.client.ask(&request, |_| Ok(()))? {
            Answer::Status(status) => Ok(status),
            other => Err(unexpected(&other)),
        }
    }

    /// Gives the connection away; the daemon stays until the returned value goes.
    pub fn into_parts(self) -> (Client, Option<ServerHandle>) {
        (self.client, self.local)
    }
}

/// An answer of another kind than was asked for.
pub fn unexpected(answer: &Answer) -> CommandError {
    let kind = match answer {
        Answer::Decision(_) => "a decision",
        Answer::Text(_) => "text",
        Answer::Token(_) => "a part of a text",
        Answer::Cancelled(_) => "a cancellation",
        Answer::Status(_) => "a status",
        Answer::Error(_) => "an error",
    };
    CommandError::new(
        Exit::BadInput,
        format!(
            "the answer is {kind}, which is not what this command is for; is the task of the right kind?"
        ),
    )
}
