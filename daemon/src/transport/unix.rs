//! The Unix socket: a listener, and for each client a thread that reads its lines and one that writes its answers.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;
use std::fs::{File, Permissions, TryLockError};
use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use tern_protocol::answer::Reason;

use super::Transport;
use super::lines::{Line, LineReader, TimedRead};
use crate::serve::queue::Notice;
use crate::serve::refusal;
use crate::serve::requester::{ClientId, Requester};
use crate::serve::service::Service;
use crate::serve::session::Session;

/// How long clients get to read their last answers when the daemon stops.
const FAREWELL: Duration = Duration::from_secs(2);

/// A socket that cannot be had.
#[derive(Debug)]
#[non_exhaustive]
pub enum SocketError {
    /// Another daemon has it.
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// There is something else in its place.
    NotASocket {
        /// The place.
        path: PathBuf,
    },
    /// The system refused something.
    Io {
        /// What was done.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// What it said.
        error: io::Error,
    },
}

impl fmt::Display for SocketError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SocketError::InUse { path } => write!(
                f,
                "another daemon answers on '{}'; stop it, or choose another socket with --socket",
                path.display()
            ),
            SocketError::NotASocket { path } => write!(
                f,
                "'{}' is there and is not a socket; remove it, or choose another socket with --socket",
                path.display()
            ),
            SocketError::Io { doing, path, .. } => write!(f, "cannot {doing} '{}'", path.display()),
        }
    }
}

impl Error for SocketError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            SocketError::Io { error, .. } => Some(error),
            _ => None,
        }
    }
}

/// The right to a socket's place: no other daemon has it while this is held.
#[derive(Debug)]
pub struct Claim {
    path: PathBuf,
    /// Locked. Two daemons that both find a dead socket must not remove each other's new one.
    _lock: File,
}

impl Claim {
    /// Claims `path`, removing a socket on which nobody answers any more.
    ///
    /// # Errors
    /// If somebody does, or the place is taken or cannot be written.
    pub fn take(path: &Path) -> Result<Claim, SocketError> {
        let io = |doing, path: &Path| {
            let path = path.to_owned();
            move |error| SocketError::Io { doing, path, error }
        };
        if let Some(folder) =
            path.parent().filter(|folder| !folder.as_os_str().is_empty() && !folder.exists())
        {
            let mut builder = std::fs::DirBuilder::new();
            builder.mode(0o755).create(folder).map_err(io("create the folder", folder))?;
        }
        let mut lock_path = path.as_os_str().to_owned();
        lock_path.push(".lock");
        let lock_path = PathBuf::from(lock_path);
        let lock = File::options().create(true).truncate(false).write(true).open(&lock_path);
        let lock = lock.map_err(io("create the lock", &lock_path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(SocketError::InUse { path: path.to_owned() }),
            Err(TryLockError::Error(error)) => return Err(io("lock", &lock_path)(error)),
        }
        match std::fs::symlink_metadata(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(io("look at", path)(error)),
            Ok(found) if !found.file_type().is_socket() => {
                return Err(SocketError::NotASocket { path: path.to_owned() });
            }
            Ok(_) => match UnixStream::connect(path) {
                Ok(_) => return Err(SocketError::InUse { path: path.to_owned() }),
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                    std::fs::remove_file(path).map_err(io("remove the dead socket", path))?;
                    log::info!("removed the socket of a daemon that is gone");
                }
                Err(error) => return Err(io("connect to", path)(error)),
            },
        }
        Ok(Claim { path: path.to_owned(), _lock: lock })
    }

    /// Removes the socket. Somebody may have removed it, or its whole folder, before us.
    pub fn remove_socket(&self) {
        match std::fs::remove_file(&self.path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                log::warn!("cannot remove the socket '{}': {error}", self.path.display());
            }
            _ => {}
        }
    }
}

/// A connected client, as the listener knows it.
type Clients = BTreeMap<ClientId, (Arc<Session>, Arc<UnixStream>)>;

/// What the listener and its clients share.
#[derive(Debug)]
struct Shared {
    service: Arc<Service>,
    clients: Mutex<Clients>,
    left: Condvar,
}

impl Shared {
    fn clients(&self) -> MutexGuard<'_, Clients> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A listening socket.
#[derive(Debug)]
pub struct UnixTransport {
    claim: Claim,
    shared: Arc<Shared>,
    listener: Option<JoinHandle<()>>,
    /// Dropped to wake the listener.
    wake: Option<UnixStream>,
}

impl UnixTransport {
    /// Listens where `claim` says, for those whom the permissions `mode` let in.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn listen(claim: Claim, mode: u32, service: Arc<Service>) -> Result<Self, SocketError> {
        let io = |doing| {
            let path = claim.path.clone();
            move |error| SocketError::Io { doing, path, error }
        };
        let (wake, woken) = UnixStream::pair().map_err(io("prepare to stop"))?;
        let socket = UnixListener::bind(&claim.path).map_err(io("listen on"))?;
        // A client may go between being seen and being accepted; waiting for the next one would miss the wake-up.
        socket.set_nonblocking(true).map_err(io("listen on"))?;
        std::fs::set_permissions(&claim.path, Permissions::from_mode(mode))
            .map_err(io("set the permissions of"))?;
        let shared = Arc::new(Shared { service, clients: Mutex::default(), left: Condvar::new() });
        let theirs = Arc::clone(&shared);
        let listener = std::thread::Builder::new()
            .name("tern-listen".into())
            .spawn(move || accept(&socket, &woken, &theirs))
            .map_err(io("start a thread for"))?;
        Ok(UnixTransport { claim, shared, listener: Some(listener), wake: Some(wake) })
    }
}

impl Transport for UnixTransport {
    /// Takes no more clients. Those connected may go on.
    fn stop_accepting(&mut self) {
        self.wake = None;
        if let Some(listener) = self.listener.take()
            && listener.join().is_err()
        {
            log::error!("the listener's thread panicked; this is a fault of Tern");
        }
    }

    /// Lets clients read their last answers, closes every connection and removes the socket.
    fn finish(mut self: Box<Self>) {
        self.stop_accepting();
        for (_, stream) in self.shared.clients().values() {
            // Ends what the client sends; its answers still go out.
            let _gone_already = stream.shutdown(Shutdown::Read);
        }
        let clients = self.shared.clients();
        let waited = self.shared.left.wait_timeout_while(clients, FAREWELL, |clients| !clients.is_empty());
        let (clients, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let slow: Vec<_> = clients.values().map(|(session, _)| Arc::clone(session)).collect();
        drop(clients);
        for session in slow {
            session.abandon();
        }
    }
}

impl Drop for UnixTransport {
    fn drop(&mut self) {
        self.stop_accepting();
        self.claim.remove_socket();
    }
}

/// The stream of a client, read and written by two threads.
struct Half(Arc<UnixStream>);

impl Read for Half {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        (&*self.0).read(to)
    }
}

impl TimedRead for Half {
    fn limit_wait(&self, limit: Option<Duration>) -> io::Result<()> {
        // A limit below a microsecond would mean none to the system.
        self.0.set_read_timeout(limit.map(|limit| limit.max(Duration::from_millis(1))))
    }
}

/// Accepts clients until the other end of `woken` is dropped.
fn accept(socket: &UnixListener, woken: &UnixStream, shared: &Arc<Shared>) {
    loop {
        let mut watched = [PollFd::new(socket, PollFlags::IN), PollFd::new(woken, PollFlags::IN)];
        // Interrupted, or out of memory for a moment: either way the next round shows what there is.
        let _ = poll(&mut watched, None);
        if !watched[1].revents().is_empty() {
            return;
        }
        let stream = match socket.accept() {
            Ok((stream, _)) => stream,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => continue,
            Err(error) => {
                log::warn!("a client could not be accepted: {error}");
                // Out of file descriptors, most likely: trying on at full speed helps nobody.
                std::thread::sleep(Duration::from_millis(100));
                continue;
            }
        };
        let next = shared.service.new_client_id();
        if let Err(error) = connect(stream, next, shared) {
            log::warn!("client {next} could not be served: {error}");
        }
    }
}

/// Starts the threads of a client.
fn connect(stream: UnixStream, id: ClientId, shared: &Arc<Shared>) -> io::Result<()> {
    let limits = &shared.service.limits;
    stream.set_write_timeout(Some(Duration::from_millis(limits.write_ms)))?;
    let connected = shared.clients().len();
    if connected >= limits.clients {
        log::warn!("a client was turned away: {connected} are connected (limits.clients)");
        let message = format!("{connected} clients are connected, as many as may be (limits.clients)");
        return turn_away(&stream, &message);
    }
    let stream = Arc::new(stream);
    let closing = Arc::clone(&stream);
    let hang_up = Box::new(move || {
        let _gone_already = closing.shutdown(Shutdown::Both);
    });
    let session = Arc::new(Session::new(id, limits.unread_bytes, hang_up));
    shared.clients().insert(id, (Arc::clone(&session), Arc::clone(&stream)));
    log::debug!("client {id} connected");
    let theirs = Arc::clone(shared);
    let started = std::thread::Builder::new().name(format!("tern-client-{id}")).spawn(move || {
        serve(&session, &stream, &theirs);
        theirs.service.queue.notify(Notice::Gone(id));
        log::debug!("client {id} left");
        theirs.clients().remove(&id);
        theirs.left.notify_all();
    });
    if started.is_err() {
        shared.clients().remove(&id);
    }
    started.map(|_| ())
}

/// Says why there is no place for a client; it may not be listening.
fn turn_away(mut stream: &UnixStream, message: &str) -> io::Result<()> {
    stream.set_write_timeout(Some(Duration::from_millis(100)))?;
    let answer = refusal(None, Reason::TooManyClients, message);
    stream.write_all((serde_json::to_string(&answer)? + "\n").as_bytes())
}

/// Reads requests until the client ends, while another thread writes answers.
fn serve(session: &Arc<Session>, stream: &Arc<UnixStream>, shared: &Arc<Shared>) {
    let (writing, sending) = (Arc::clone(stream), Arc::clone(session));
    let writer = std::thread::Builder::new()
        .name(format!("tern-answer-{}", session.id()))
        .spawn(move || write_answers(&sending, &writing));
    let writer = match writer {
        Ok(writer) => writer,
        Err(error) => {
            log::warn!("client {} could not be served: {error}", session.id());
            return session.abandon();
        }
    };
    match read_requests(session, stream, &shared.service) {
        Ok(()) => {
            session.end_requests();
            wait_for_hang_up(stream);
        }
        Err(error) => log::debug!("client {}: {error}", session.id()),
    }
    // Its requests are dropped by the engine's thread, which hears of it when this returns.
    session.abandon();
    if writer.join().is_err() {
        log::error!("a client's thread panicked; this is a fault of Tern");
    }
}

fn read_requests(session: &Arc<Session>, stream: &Arc<UnixStream>, service: &Service) -> io::Result<()> {
    let (bytes, ms) = (service.limits.line_bytes, service.limits.line_ms);
    let mut lines = LineReader::new(Half(Arc::clone(stream)), bytes, Duration::from_millis(ms));
    let requester: Arc<dyn Requester> = Arc::<Session>::clone(session);
    loop {
        match lines.next_line()? {
            Line::Whole(line) => service.take_line(&requester, line),
            Line::TooLong => {
                let message =
                    format!("a line of more than {bytes} bytes (limits.line_bytes); send less at once");
                service.refuse_line(&**session, Reason::TooLarge, message);
            }
            Line::Unfinished => {
                let message =
                    format!("a line was not finished within {ms} ms (limits.line_ms); end it with \\n");
                service.refuse_line(&**session, Reason::BadRequest, message);
                return Ok(());
            }
            Line::End => return Ok(()),
        }
    }
}

/// Waits until both directions are closed. A client that has only ended its requests still reads answers.
fn wait_for_hang_up(stream: &UnixStream) {
    // Nothing is asked for: hang-up and errors are reported all the same.
    let mut watched = [PollFd::new(stream, PollFlags::empty())];
    while let Err(rustix::io::Errno::INTR) = poll(&mut watched, None) {}
}

fn write_answers(session: &Session, mut stream: &UnixStream) {
    while let Some(line) = session.next_line() {
        if let Err(error) = stream.write_all(line.as_bytes()) {
            log::debug!("client {}: {error}", session.id());
            return session.abandon();
        }
    }
    // Wakes the reading thread and tells the client that nothing follows.
    let _gone_already = stream.shutdown(Shutdown::Both);
}
