//! The Unix socket: a listener, and for each client a thread that reads its messages and one that writes its answers.

pub mod claim;
mod client;
pub mod peers;

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};

use super::Transport;
use crate::serve::requester::ClientId;
use crate::serve::service::Service;
use crate::serve::session::Session;
use claim::{Claim, HeldPlace, SocketError};
use peers::Allowed;

/// How long clients get to read their last answers when the daemon stops.
const FAREWELL: Duration = Duration::from_secs(2);

/// A connected client, as the listener knows it.
type Clients = BTreeMap<ClientId, (Arc<Session>, Arc<UnixStream>)>;

/// What the listener and its clients share.
#[derive(Debug)]
struct Shared {
    service: Arc<Service>,
    allowed: Allowed,
    clients: Mutex<Clients>,
    left: Condvar,
    /// Those being told that they cannot stay.
    turned_away: AtomicUsize,
}

impl Shared {
    fn clients(&self) -> MutexGuard<'_, Clients> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A listening socket.
#[derive(Debug)]
pub struct UnixTransport {
    path: PathBuf,
    shared: Arc<Shared>,
    listener: Option<JoinHandle<()>>,
    /// Dropped to wake the listener.
    wake: Option<UnixStream>,
    /// Dropped last: the socket goes when nobody listens any more. Of a socket that systemd passed there is none.
    _place: Option<HeldPlace>,
}

impl UnixTransport {
    /// Listens where `claim` says.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn listen(claim: Claim, service: Arc<Service>) -> Result<Self, SocketError> {
        let listening = claim.listen()?;
        let io = |doing| {
            let path = listening.path.clone();
            move |error| SocketError::Io { doing, path, error }
        };
        let (wake, woken) = UnixStream::pair().map_err(io("prepare to stop"))?;
        let shared = Arc::new(Shared {
            service,
            allowed: listening.allowed,
            clients: Mutex::default(),
            left: Condvar::new(),
            turned_away: AtomicUsize::new(0),
        });
        let theirs = Arc::clone(&shared);
        let socket = listening.socket;
        let listener = std::thread::Builder::new()
            .name("tern-listen".into())
            .spawn(move || accept(&socket, &woken, &theirs))
            .map_err(io("start a thread for"))?;
        let (path, listener, wake) = (listening.path, Some(listener), Some(wake));
        Ok(UnixTransport { path, shared, listener, wake, _place: listening.place })
    }

    /// Where clients find it.
    pub fn path(&self) -> &Path {
        &self.path
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
        if let Err(error) = client::connect(stream, next, shared) {
            log::warn!("client {next} could not be served: {error}");
        }
    }
}
