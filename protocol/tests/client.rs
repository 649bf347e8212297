//! The client on a line that loses, invents and repeats.

use std::collections::VecDeque;

use embedded_io::ErrorKind;
use tern_protocol::answer::{Answer, Failure, Reason, Token};
use tern_protocol::client::{Client, ClientError, Ids};
use tern_protocol::frame::{FrameError, encode};
use tern_protocol::request::Request;
use tern_protocol::storage::{Borrowed, Fixed};

type Small = Fixed<64, 4>;

fn token(text: &str) -> Answer<Small> {
    Answer::Token(Token {
        id: "1".try_into().unwrap(),
        text: text.try_into().unwrap(),
        logprobs: None,
        joules: None,
    })
}

/// An answer that is the last to `id`.
fn last(id: Option<&str>, message: &str) -> Answer<Small> {
    Answer::Error(Failure {
        id: id.map(|id| id.try_into().unwrap()),
        code: 400,
        reason: Reason::BadRequest,
        message: message.try_into().unwrap(),
        retry_after_ms: None,
    })
}

fn framed<T: serde::Serialize>(message: &T) -> Vec<u8> {
    let mut buffer = [0; 256];
    encode(message, &mut buffer).unwrap().to_vec()
}

fn request() -> Request<Borrowed<'static>> {
    Request::task("1", "t", "x")
}

/// What a client wrote, and what it will read: bytes, or a wait that is too long.
#[derive(Default)]
struct Pipe {
    written: Vec<u8>,
    to_read: VecDeque<Option<u8>>,
}

impl Pipe {
    fn bytes(mut self, bytes: &[u8]) -> Self {
        self.to_read.extend(bytes.iter().copied().map(Some));
        self
    }

    fn silence(mut self) -> Self {
        self.to_read.push_back(None);
        self
    }
}

impl embedded_io::ErrorType for Pipe {
    type Error = ErrorKind;
}

impl embedded_io::Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> Result<usize, ErrorKind> {
        // Short writes happen on real lines.
        let taken = bytes.len().min(3);
        self.written.extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> Result<(), ErrorKind> {
        Ok(())
    }
}

impl embedded_io::Read for Pipe {
    fn read(&mut self, bytes: &mut [u8]) -> Result<usize, ErrorKind> {
        match self.to_read.pop_front() {
            None => Ok(0),
            Some(None) => Err(ErrorKind::TimedOut),
            Some(Some(byte)) => {
                bytes[0] = byte;
                Ok(1)
            }
        }
    }
}

/// What comes of asking on `pipe`, and how often the request was sent.
fn asked(pipe: Pipe) -> (Result<Answer<Small>, ClientError<ErrorKind>>, usize) {
    let mut client = Client::<Pipe, 64>::new(pipe);
    let answer = client.ask(&request(), 3);
    let sent = [&[0], &framed(&request())[..]].concat();
    let written = client.into_inner().written;
    let times = written.len() / sent.len();
    assert_eq!(written, sent.repeat(times));
    (answer, times)
}

#[test]
fn a_client_sends_and_receives_and_goes_on_after_a_bad_frame() {
    let pipe = Pipe::default().bytes(&[0, 0]).bytes(&framed(&token("first"))).bytes(&[200, 7, 0]);
    let pipe = pipe.bytes(&[9; 80]).bytes(&[0]).bytes(&framed(&token("second")));
    let mut client = Client::<Pipe, 64>::new(pipe);
    client.send(&request()).unwrap();
    assert_eq!(client.receive(), Ok(token("first")));
    assert_eq!(client.receive::<Small>(), Err(ClientError::Frame(FrameError::Damaged { frame_bytes: 2 })));
    assert_eq!(client.receive::<Small>(), Err(ClientError::Frame(FrameError::TooLong { buffer_bytes: 64 })));
    assert_eq!(client.receive(), Ok(token("second")));
    assert_eq!(client.receive::<Small>(), Err(ClientError::Closed));
    assert_eq!(client.into_inner().written, [&[0], &framed(&request())[..]].concat());
}

#[test]
fn a_frame_that_comes_in_pieces_survives_a_timeout() {
    let frame = framed(&token("ok"));
    let pipe = Pipe::default().bytes(&frame[..4]).silence().bytes(&frame[4..]);
    let mut client = Client::<Pipe, 64>::new(pipe);
    assert_eq!(client.receive::<Small>(), Err(ClientError::Port(ErrorKind::TimedOut)));
    assert_eq!(client.receive(), Ok(token("ok")));
}

#[test]
fn what_is_late_repeated_or_damaged_is_passed_over() {
    let (late, right) = (framed(&last(Some("0"), "late")), framed(&last(Some("1"), "right")));
    let cut = &right[..right.len() / 2];
    let pipe = Pipe::default().bytes(&late).bytes(&late).bytes(b"login: ").bytes(&[0]).bytes(cut).bytes(&[0]);
    let pipe = pipe.bytes(&framed(&token("part"))).bytes(&right);
    assert_eq!(asked(pipe), (Ok(last(Some("1"), "right")), 1));
}

#[test]
fn silence_and_a_request_that_was_not_understood_make_it_send_again() {
    let right = framed(&last(Some("1"), "right"));
    assert_eq!(asked(Pipe::default().silence().bytes(&right)), (Ok(last(Some("1"), "right")), 2));
    let garbled = framed(&last(None, "a damaged frame"));
    let pipe = Pipe::default().bytes(&garbled).silence().bytes(&right);
    assert_eq!(asked(pipe), (Ok(last(Some("1"), "right")), 3));
    let pipe = Pipe::default().silence().silence().silence().bytes(&right);
    assert_eq!(asked(pipe), (Err(ClientError::NoAnswer { tries: 3 }), 3));
    assert_eq!(asked(Pipe::default()), (Err(ClientError::Closed), 1));
}

#[test]
fn a_line_that_babbles_does_not_hold_its_reader() {
    let babble = Pipe::default().bytes(&[b'u'; 64 * 3100]);
    let too_long = ClientError::Frame(FrameError::TooLong { buffer_bytes: 64 });
    assert_eq!(asked(babble), (Err(too_long), 3));
    let zeros_between = Pipe::default().bytes(&[b'u', 0].repeat(3000));
    assert_eq!(asked(zeros_between), (Err(ClientError::NoAnswer { tries: 3 }), 3));
}

#[test]
fn an_answer_that_never_fits_is_said_to_be_too_long() {
    let long = framed(&last(Some("1"), &"x".repeat(60)));
    let pipe = (0..3).fold(Pipe::default(), |pipe, _| pipe.bytes(&long).silence());
    assert_eq!(asked(pipe), (Err(ClientError::Frame(FrameError::TooLong { buffer_bytes: 64 })), 3));
}

#[test]
fn ids_differ_from_each_other_and_from_those_before_a_reset() {
    let (mut before, mut after) = (Ids::after_reset(0xffff_ffff), Ids::after_reset(1));
    assert_eq!(before.next_id(), "ffffffff-1");
    assert_eq!(before.next_id(), "ffffffff-2");
    assert_eq!(after.next_id(), "1-1");
}
