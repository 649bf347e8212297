//! One client of the socket: whether it may stay, its thread that reads and its thread that writes.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use tern_protocol::answer::Reason;

use super::Shared;
use super::peers::PeerId;
use crate::serve::form::Form;
use crate::serve::queue::Notice;
use crate::serve::refusal;
use crate::serve::requester::{ClientId, Requester};
use crate::serve::service::Service;
use crate::serve::session::Session;
use crate::transport::messages::{MessageReader, Piece, TimedRead, too_long, unfinished};

/// How long a client that cannot stay gets to show whether it speaks in lines or in frames, and to take its answer.
const DOORSTEP: Duration = Duration::from_millis(250);

/// Clients that may stand there at once; more are told in a line, without a look at what they speak.
const ON_THE_DOORSTEP: usize = 16;

/// Bytes that are read of what such a client has sent, to be dropped.
const DROPPED_BYTES: u64 = 64 << 10;

/// The stream of a client, read and written by two threads.
struct Half(Arc<UnixStream>);

impl Read for Half {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        (&*self.0).read(to)
    }
}

impl TimedRead for Half {
    fn limit_wait(&mut self, limit: Option<Duration>) -> io::Result<()> {
        // A limit below a microsecond would mean none to the system.
        self.0.set_read_timeout(limit.map(|limit| limit.max(Duration::from_millis(1))))
    }
}

/// Starts the threads of a client, or says why it cannot stay.
pub fn connect(stream: UnixStream, id: ClientId, shared: &Arc<Shared>) -> io::Result<()> {
    let limits = &shared.service.limits;
    let peer = PeerId::of(&stream)?;
    if !shared.allowed.admits(peer) {
        log::warn!("a client was turned away: {peer} (socket.allow_users, socket.allow_groups)");
        let message = format!(
            "user {} may not ask this daemon; its operator decides (socket.allow_users, socket.allow_groups)",
            peer.user
        );
        return turn_away(stream, Reason::Forbidden, message, shared);
    }
    let connected = shared.clients().len();
    if connected >= limits.clients {
        log::warn!("a client was turned away: {connected} are connected (limits.clients)");
        let message = format!("{connected} clients are connected, as many as may be (limits.clients)");
        return turn_away(stream, Reason::TooManyClients, message, shared);
    }
    stream.set_write_timeout(Some(Duration::from_millis(limits.write_ms)))?;
    let stream = Arc::new(stream);
    let closing = Arc::clone(&stream);
    let hang_up = Box::new(move || {
        let _gone_already = closing.shutdown(Shutdown::Both);
    });
    let session = Arc::new(Session::new(id, limits.unread_bytes, hang_up));
    shared.clients().insert(id, (Arc::clone(&session), Arc::clone(&stream)));
    log::debug!("client {id} connected: {peer}");
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

/// Says why there is no place for a client, in its own form if it shows it soon; it may not be listening.
fn turn_away(stream: UnixStream, reason: Reason, message: String, shared: &Arc<Shared>) -> io::Result<()> {
    stream.set_write_timeout(Some(DOORSTEP))?;
    let answer = refusal(None, reason, message);
    let others = shared.turned_away.fetch_add(1, Ordering::Relaxed);
    if others >= ON_THE_DOORSTEP {
        shared.turned_away.fetch_sub(1, Ordering::Relaxed);
        return (&stream).write_all(&Form::Lines.answer(&answer));
    }
    let theirs = Arc::clone(shared);
    let started = std::thread::Builder::new().name("tern-door".into()).spawn(move || {
        let mut first = [b'{'];
        let read = stream.set_read_timeout(Some(DOORSTEP)).and_then(|()| (&stream).read(&mut first));
        // One that says nothing is told in a line.
        let form = read.map_or(Form::Lines, |_| Form::of_first_byte(first[0]));
        let _gone_already = (&stream).write_all(&form.answer(&answer));
        let _gone_already = stream.shutdown(Shutdown::Write);
        // What it sent and nobody read would reset the connection before it has read the answer.
        let _silent_by_now = io::copy(&mut (&stream).take(DROPPED_BYTES), &mut io::sink());
        theirs.turned_away.fetch_sub(1, Ordering::Relaxed);
    });
    if started.is_err() {
        shared.turned_away.fetch_sub(1, Ordering::Relaxed);
    }
    started.map(|_| ())
}

/// Reads requests until the client ends, while another thread writes answers.
fn serve(session: &Arc<Session>, stream: &Arc<UnixStream>, shared: &Arc<Shared>) {
    let (writing, sending) = (Arc::clone(stream), Arc::clone(session));
    let writer = std::thread::Builder::new().name(format!("tern-answer-{}", session.id())).spawn(move || {
        sending.write_answers(&*writing);
        // Wakes the reading thread and tells the client that nothing follows.
        let _gone_already = writing.shutdown(Shutdown::Both);
    });
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
    let half = Half(Arc::clone(stream));
    let mut messages = MessageReader::new(half, None, bytes, Duration::from_millis(ms));
    let Some(form) = messages.form()? else { return Ok(()) };
    session.speak(form);
    let requester: Arc<dyn Requester> = Arc::<Session>::clone(session);
    loop {
        match messages.next_message()? {
            Piece::Whole(message) => service.take_message(&requester, form, message),
            Piece::TooLong => service.refuse_message(&**session, Reason::TooLarge, too_long(form, bytes)),
            Piece::Unfinished => {
                service.refuse_message(&**session, Reason::BadRequest, unfinished(form, ms));
                return Ok(());
            }
            Piece::End => return Ok(()),
        }
    }
}

/// Waits until both directions are closed. A client that has only ended its requests still reads answers.
fn wait_for_hang_up(stream: &UnixStream) {
    // Nothing is asked for: hang-up and errors are reported all the same.
    let mut watched = [PollFd::new(stream, PollFlags::empty())];
    while let Err(rustix::io::Errno::INTR) = poll(&mut watched, None) {}
}
