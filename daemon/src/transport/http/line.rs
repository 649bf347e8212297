//! A connection's bytes, between the socket and hyper.
//!
//! Here are the times that a client may take: to send a head, to be silent between requests, to accept bytes. And here
//! hyper's own bare answers to heads that it cannot read are held back, so that ours, which says why, goes out instead.

use std::cell::Cell;
use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::rt::{Read, ReadBufCursor, Write};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

/// Bytes read at once.
const CHUNK_BYTES: usize = 4096;

/// What goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Nothing came yet.
    Fresh,
    /// Nothing came since the last response.
    Idle,
    /// A head has begun.
    Head,
    /// A request is being served, its body included.
    Serving,
}

/// What goes on, known to the line and to those who serve its requests.
#[derive(Debug)]
pub struct Stage {
    phase: Cell<Phase>,
    /// Counts changes of the phase.
    turn: Cell<u32>,
    /// The whole response was handed over.
    is_answered: Cell<bool>,
}

impl Stage {
    fn set(&self, phase: Phase) {
        self.phase.set(phase);
        self.turn.set(self.turn.get().wrapping_add(1));
    }

    /// A request is being served.
    pub fn begin(&self) {
        self.is_answered.set(false);
        self.set(Phase::Serving);
    }

    /// The whole response was handed over, if not yet written.
    pub fn end(&self) {
        self.is_answered.set(true);
    }

    /// What goes on.
    pub fn phase(&self) -> Phase {
        self.phase.get()
    }
}

/// The times that a client may take.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// For a head.
    pub head: Duration,
    /// Between requests.
    pub idle: Duration,
    /// To accept bytes.
    pub write: Duration,
}

/// A connection's bytes.
#[derive(Debug)]
pub struct Line<S> {
    io: S,
    stage: Rc<Stage>,
    times: Times,
    timer: Pin<Box<Sleep>>,
    /// The turn of the stage that the timer runs for.
    timed: Option<u32>,
    /// When the bytes at hand must have been accepted.
    write_by: Option<Pin<Box<Sleep>>>,
    held_bytes: usize,
    is_late: bool,
}

impl<S> Line<S> {
    /// The line of a new connection.
    pub fn new(io: S, times: Times) -> Self {
        let stage = Rc::new(Stage {
            phase: Cell::new(Phase::Fresh),
            turn: Cell::new(0),
            is_answered: Cell::new(false),
        });
        Line {
            io,
            stage,
            times,
            timer: Box::pin(sleep(times.head)),
            timed: None,
            write_by: None,
            held_bytes: 0,
            is_late: false,
        }
    }

    /// What goes on.
    pub fn stage(&self) -> &Rc<Stage> {
        &self.stage
    }

    /// Whether the client took too long.
    pub fn is_late(&self) -> bool {
        self.is_late
    }

    /// Whether an answer of hyper's own was held back.
    pub fn held_back(&self) -> bool {
        self.held_bytes > 0
    }

    /// The socket.
    pub fn into_inner(self) -> S {
        self.io
    }

    /// Whether the time of this phase is over.
    fn poll_late(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let phase = self.stage.phase();
        if phase == Phase::Serving {
            return Poll::Pending;
        }
        let turn = self.stage.turn.get();
        if self.timed != Some(turn) {
            let time = if phase == Phase::Idle { self.times.idle } else { self.times.head };
            self.timer.as_mut().reset(Instant::now() + time);
            self.timed = Some(turn);
        }
        self.timer.as_mut().poll(context)
    }
}

impl<S: AsyncRead + Unpin> Read for Line<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        mut to: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let line = &mut *self;
        let mut chunk = [0; CHUNK_BYTES];
        let room = to.remaining().min(CHUNK_BYTES);
        let mut buffer = ReadBuf::new(&mut chunk[..room]);
        match Pin::new(&mut line.io).poll_read(context, &mut buffer) {
            Poll::Ready(Ok(())) => {
                if !buffer.filled().is_empty() && matches!(line.stage.phase(), Phase::Fresh | Phase::Idle) {
                    line.stage.set(Phase::Head);
                }
                to.put_slice(buffer.filled());
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => {
                ready!(line.poll_late(context));
                line.is_late = true;
                Poll::Ready(Err(ErrorKind::TimedOut.into()))
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> Write for Line<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let line = &mut *self;
        if line.stage.phase() != Phase::Serving {
            line.held_bytes += bytes.len();
            return Poll::Ready(Ok(bytes.len()));
        }
        match Pin::new(&mut line.io).poll_write(context, bytes) {
            Poll::Ready(written) => {
                line.write_by = None;
                Poll::Ready(written)
            }
            Poll::Pending => {
                let write = line.times.write;
                let by = line.write_by.get_or_insert_with(|| Box::pin(sleep(write)));
                ready!(by.as_mut().poll(context));
                Poll::Ready(Err(ErrorKind::TimedOut.into()))
            }
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let line = &mut *self;
        ready!(Pin::new(&mut line.io).poll_flush(context))?;
        // hyper flushes when it has written all that it had.
        if line.stage.phase() == Phase::Serving && line.stage.is_answered.get() {
            line.stage.set(Phase::Idle);
            // hyper may not read again before there is something to read; the timer has to wake it.
            let _begun = line.poll_late(context);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}
