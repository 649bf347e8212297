//! HTTP/1.1, for tools that speak nothing else: the OpenAI API, what llama-server adds to it, and metrics.
//!
//! | module | holds |
//! |---|---|
//! | [`connection`], [`mod@line`] | one connection from its first byte to its last; the times a client may take |
//! | [`access`] | the key, and web pages turned away |
//! | [`route`] | from a path to whoever answers |
//! | [`fields`], [`openai`], [`systemone`] | from a body to requests |
//! | [`call`] | a call as the engine sees it |
//! | [`dialect`], [`events`], [`reply`], [`error`] | from answers to a response |
//! | [`metrics`] | what the daemon counts |
//!
//! One thread runs all connections. It is there before the model is opened, so that `/health` can say so, and serves
//! until the last answer has been delivered. hyper does the protocol; everything that a client can do to harm is limited:
//! bytes and time of a head and of a body, connections, what waits for it unread. A call whose client hangs up is
//! cancelled.

pub mod access;
pub mod call;
pub mod connection;
pub mod dialect;
pub mod error;
pub mod events;
pub mod fields;
pub mod line;
pub mod metrics;
pub mod openai;
pub mod reply;
pub mod route;
pub mod systemone;

use std::cell::Cell;
use std::error::Error;
use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Notify, watch};
use tokio::task::{LocalSet, spawn_local};
use tokio::time::{sleep, timeout};

use super::Transport;
use super::unix::claim::{HeldPlace, Place, SocketError};
use crate::config::http::{HttpSection, Listen};
use crate::serve::service::Service;
use access::Access;

/// How long clients get to read their last answers when the daemon stops.
const FAREWELL: Duration = Duration::from_secs(2);

/// Connections beyond the limit that are told so at the same time; any more are closed without a word.
const TOLD: usize = 16;

/// HTTP cannot be served.
#[derive(Debug)]
#[non_exhaustive]
pub enum HttpError {
    /// The address cannot be had.
    Address {
        /// The address.
        address: SocketAddr,
        /// Why.
        error: io::Error,
    },
    /// The Unix socket cannot be had.
    Socket(SocketError),
    /// The key cannot be read, or is none.
    Key(String),
    /// `http.listen` is no place.
    Listen(String),
    /// The system refuses a thread or what it needs.
    Thread(io::Error),
}

impl fmt::Display for HttpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HttpError::Address { address, .. } => {
                write!(f, "cannot listen on {address}; choose another address with http.listen")
            }
            HttpError::Socket(error) => write!(f, "{error}"),
            HttpError::Key(reason) => f.write_str(reason),
            HttpError::Listen(found) => {
                write!(f, "http.listen is {found:?}, which is no address and no unix:/path")
            }
            HttpError::Thread(_) => {
                f.write_str("the system refuses a thread for HTTP; raise the limit of tasks")
            }
        }
    }
}

impl Error for HttpError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            HttpError::Address { error, .. } | HttpError::Thread(error) => Some(error),
            HttpError::Socket(error) => error.source(),
            HttpError::Key(_) | HttpError::Listen(_) => None,
        }
    }
}

/// What the daemon is up to.
#[derive(Clone, Debug)]
pub enum Phase {
    /// The model is being opened.
    Loading,
    /// Requests are taken.
    Ready(Arc<Service>),
    /// No more requests are taken; those taken may go on.
    Stopping,
    /// Connections end.
    Closing,
}

impl Phase {
    fn is_closing(&self) -> bool {
        matches!(self, Phase::Closing)
    }
}

/// What all connections share.
#[derive(Debug)]
pub struct Shared {
    section: HttpSection,
    access: Access,
    phase: watch::Receiver<Phase>,
    write_ms: u64,
    started_s: u64,
    connected: Cell<usize>,
    left: Notify,
}

/// A listener that accepts what serves as a connection.
enum Listener {
    Tcp(std::net::TcpListener),
    Unix(std::os::unix::net::UnixListener, HeldPlace),
}

/// HTTP, being served.
#[derive(Debug)]
pub struct HttpTransport {
    phase: watch::Sender<Phase>,
    thread: Option<JoinHandle<()>>,
    place: String,
}

impl HttpTransport {
    /// Listens, and says that the model is being opened until [`HttpTransport::open`].
    ///
    /// # Errors
    /// If the place cannot be had or the key cannot be read.
    pub fn bind(section: &HttpSection, write_ms: u64) -> Result<Self, HttpError> {
        let key = section.key.as_ref().map(|key| key.read_line("the key of HTTP (http.key)")).transpose();
        let key = key.map_err(HttpError::Key)?;
        if key.as_ref().is_some_and(|key| key.trim().is_empty() || key.trim() != key) {
            let message =
                "the key of HTTP (http.key) is empty or has spaces around it; put one line of text there";
            return Err(HttpError::Key(message.into()));
        }
        let listen =
            Listen::parse(&section.listen).ok_or_else(|| HttpError::Listen(section.listen.clone()))?;
        let access = Access::new(key, matches!(listen, Listen::Tcp(_)));
        let (listener, place) = match listen {
            Listen::Tcp(address) => {
                let fail = |error| HttpError::Address { address, error };
                let listener = std::net::TcpListener::bind(address).map_err(fail)?;
                listener.set_nonblocking(true).map_err(fail)?;
                let place = format!("http://{}", listener.local_addr().map_err(fail)?);
                (Listener::Tcp(listener), place)
            }
            Listen::Unix(path) => {
                let place = Place::take(&path, section.mode, None).map_err(HttpError::Socket)?;
                let (listener, held) = place.bind().map_err(HttpError::Socket)?;
                (Listener::Unix(listener, held), path.display().to_string())
            }
        };
        let (phase, phases) = watch::channel(Phase::Loading);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .build()
            .map_err(HttpError::Thread)?;
        let section = section.clone();
        let thread = std::thread::Builder::new().name("tern-http".into()).spawn(move || {
            let shared = Rc::new(Shared {
                section,
                access,
                phase: phases,
                write_ms,
                started_s: dialect::unix_s(),
                connected: Cell::new(0),
                left: Notify::new(),
            });
            LocalSet::new().block_on(&runtime, listen_until_closed(listener, shared));
        });
        let thread = thread.map_err(HttpError::Thread)?;
        log::info!("HTTP on {place}");
        Ok(HttpTransport { phase, thread: Some(thread), place })
    }

    /// Takes requests from now on.
    pub fn open(&self, service: Arc<Service>) {
        self.phase.send_replace(Phase::Ready(service));
    }

    /// Where it listens.
    pub fn place(&self) -> &str {
        &self.place
    }

    fn end(&mut self) {
        self.phase.send_replace(Phase::Closing);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!("the thread of HTTP panicked; this is a fault of Tern");
        }
    }
}

impl Transport for HttpTransport {
    /// Answers everything new with 503.
    fn stop_accepting(&mut self) {
        self.phase.send_if_modified(|phase| {
            let is_open = matches!(phase, Phase::Ready(_) | Phase::Loading);
            if is_open {
                *phase = Phase::Stopping;
            }
            is_open
        });
    }

    fn finish(mut self: Box<Self>) {
        self.end();
    }
}

impl Drop for HttpTransport {
    fn drop(&mut self) {
        self.end();
    }
}

async fn listen_until_closed(listener: Listener, shared: Rc<Shared>) {
    let listening = async {
        match listener {
            Listener::Tcp(listener) => match TcpListener::from_std(listener) {
                Ok(listener) => {
                    accept(&shared, || async {
                        let (stream, _) = listener.accept().await?;
                        // Events are small and are wanted at once. A socket that refuses is slower, no more.
                        let _ = stream.set_nodelay(true);
                        Ok(stream)
                    })
                    .await;
                }
                Err(error) => log::error!("HTTP cannot listen: {error}"),
            },
            Listener::Unix(listener, held) => {
                match UnixListener::from_std(listener) {
                    Ok(listener) => accept(&shared, || async { Ok(listener.accept().await?.0) }).await,
                    Err(error) => log::error!("HTTP cannot listen: {error}"),
                }
                drop(held);
            }
        }
    };
    listening.await;
    let all_left = async {
        while shared.connected.get() > 0 {
            shared.left.notified().await;
        }
    };
    if timeout(FAREWELL, all_left).await.is_err() {
        log::warn!("{} HTTP connections did not take their last answers", shared.connected.get());
    }
}

/// A place among the connections.
struct Seat(Rc<Shared>);

impl Seat {
    fn take(shared: &Rc<Shared>) -> Self {
        shared.connected.set(shared.connected.get() + 1);
        Seat(Rc::clone(shared))
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.connected.set(self.0.connected.get() - 1);
        self.0.left.notify_one();
    }
}

/// Accepts connections until the daemon closes.
async fn accept<S, F>(shared: &Rc<Shared>, mut next: impl FnMut() -> F)
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
    F: Future<Output = io::Result<S>>,
{
    let mut phase = shared.phase.clone();
    let mut closing = pin!(phase.wait_for(Phase::is_closing));
    loop {
        let accepted = {
            let mut accepting = pin!(next());
            poll_fn(|context| match closing.as_mut().poll(context) {
                Poll::Ready(_) => Poll::Ready(None),
                Poll::Pending => accepting.as_mut().poll(context).map(Some),
            })
            .await
        };
        let stream = match accepted {
            None => return,
            Some(Ok(stream)) => stream,
            Some(Err(error)) => {
                log::warn!("an HTTP connection could not be accepted: {error}");
                // Out of file descriptors, most likely: trying on at full speed helps nobody.
                sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (connected, most) = (shared.connected.get(), shared.section.connections);
        let seat = Seat::take(shared);
        if connected < most {
            spawn_local(async move {
                connection::serve(stream, Rc::clone(&seat.0)).await;
                drop(seat);
            });
        } else if connected < most + TOLD {
            let message = format!("{connected} connections are open, as many as may be (http.connections)");
            log::debug!("{message}");
            let error = error::ApiError::unavailable("too_many_connections", message);
            spawn_local(async move {
                connection::end(stream, Some(error.response())).await;
                drop(seat);
            });
        }
    }
}
