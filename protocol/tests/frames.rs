//! The framed form: its bytes are pinned, since the other side may be years older.

use tern_protocol::answer::{Answer, Failure, Reason, Token, Value};
use tern_protocol::client::{Client, ClientError};
use tern_protocol::frame::{FrameError, VERSION, decode, encode};
use tern_protocol::json::Json;
use tern_protocol::request::{Ask, Generate, Kind, Request};
use tern_protocol::storage::{Borrowed, Dropped, Fixed};

type Small = Fixed<64, 4>;

fn token(text: &str) -> Answer<Small> {
    Answer::Token(Token { id: "1".try_into().unwrap(), text: text.try_into().unwrap(), logprobs: None })
}

fn framed<T: serde::Serialize>(message: &T) -> Vec<u8> {
    let mut buffer = [0; 256];
    encode(message, &mut buffer).unwrap().to_vec()
}

#[test]
fn the_bytes_of_a_request_are_pinned() {
    let request = Request::<Borrowed>::task("7", "t", "hi");
    // COBS of: version 1, "7", Some "t", four times None, status false, Some "hi", stream false, no deadline
    let plain = [1, 1, b'7', 1, 1, b't', 0, 0, 0, 0, 0, 1, 2, b'h', b'i', 0, 0];
    let frame = [7, 1, 1, b'7', 1, 1, b't', 1, 1, 1, 1, 5, 1, 2, b'h', b'i', 1, 1, 0];
    assert_eq!(framed(&request), frame);
    let page = include_str!("../../docs/wire.md");
    let shown: Vec<_> = frame.iter().map(|byte| format!("{byte:02x}")).collect();
    assert!(page.contains(&shown.join(" ")), "the page shows another frame");
    let mut bytes = frame;
    assert_eq!(cobs::decode_in_place(&mut bytes[..18]).unwrap(), plain.len());
    assert_eq!(&bytes[..17], plain);
}

#[test]
fn the_bytes_of_answers_are_pinned() {
    // COBS of: version 1, the second kind of answer, "1", "ok", no log probabilities
    assert_eq!(framed(&token("ok")), [8, 1, 1, 1, b'1', 2, b'o', b'k', 1, 0]);
    let failure = Answer::Error(Failure::<Borrowed> {
        id: None,
        code: 429,
        reason: Reason::QueueFull,
        message: "full",
        retry_after_ms: None,
    });
    assert_eq!(framed(&failure), [3, 1, 5, 9, 0xad, 3, 5, 4, b'f', b'u', b'l', b'l', 1, 0]);
    assert_eq!(framed(&Value::Bool(true)), [2, 1, 2, 1, 0]);
}

#[test]
fn the_bytes_of_a_schema_and_of_log_probabilities_are_pinned() {
    let mut request = Request::<Borrowed>::new("7");
    let generate = Generate { schema: Some(Json("{}")), logprobs: Some(2), ..Generate::new("hi") };
    request.generate = Some(generate);
    // COBS of: version 1, "7", no task, no ask, Some: "hi", no max_tokens, no sampling, Some "{}", Some 2; then nothing
    let plain =
        [&[1, 1, b'7', 0, 0, 1, 2, b'h', b'i', 0, 0, 1, 2, b'{', b'}', 1, 2][..], &[0, 0, 0, 0, 0, 0]]
            .concat();
    let mut frame = framed(&request);
    assert_eq!(frame.pop(), Some(0));
    let length = cobs::decode_in_place(&mut frame).unwrap();
    assert_eq!(frame[..length], plain);

    // What a machine with a heap sends: "a" with one alternative, "b"; -0.5 and -1.
    let bytes =
        [&[1, 1, 1, b'1', 1, b'a', 1, 1, 1, b'a', 0, 0, 0, 0xbf, 1, 1, b'b'][..], &[0, 0, 0x80, 0xbf]]
            .concat();
    let mut frame = vec![0; bytes.len() + 2];
    let length = cobs::encode(&bytes, &mut frame);
    frame.truncate(length + 1);
    let read: Answer<Small> = decode(&mut frame).unwrap();
    let Answer::Token(token) = read else { panic!("a token was sent") };
    assert_eq!((token.text.as_str(), token.logprobs), ("a", Some(Dropped::default())));
}

#[test]
fn a_message_comes_back_the_same() {
    // Declared first, since what is read from it borrows from it.
    let mut frame;
    let mut request = Request::<Borrowed>::new("a");
    request.ask = Some(Ask {
        instructions: Some("How bad?"),
        threshold: Some(0.25),
        min: Some(-3),
        max: Some(7),
        ..Ask::new(Kind::Score)
    });
    request.text = Some("smoke");
    let mut copy = framed(&request);
    let read: Request<Small> = decode(&mut copy).unwrap();
    assert_eq!(read.ask.unwrap().min, Some(-3));
    frame = framed(&request);
    let read: Request<Borrowed> = decode(&mut frame).unwrap();
    assert_eq!(read, request);
}

#[test]
fn damage_is_an_error_of_its_kind() {
    let good = framed(&token("ok"));
    let read = |bytes: &[u8]| decode::<Answer<Small>>(&mut bytes.to_vec());
    assert_eq!(read(&good), Ok(token("ok")));
    assert_eq!(read(&good[..good.len() - 1]), Ok(token("ok")));
    assert_eq!(read(&[0]), Err(FrameError::Empty));
    assert_eq!(read(&[]), Err(FrameError::Empty));
    assert_eq!(read(&[200, 1, 0]), Err(FrameError::Damaged { frame_bytes: 3 }));
    assert_eq!(read(&[2, VERSION + 1, 0]), Err(FrameError::Version { found: VERSION + 1 }));
    let long = framed(&Answer::Token(Token::<Borrowed> { id: "1", text: &"x".repeat(65), logprobs: None }));
    assert_eq!(read(&long), Err(FrameError::Message));
    assert_eq!(encode(&token("ok"), &mut [0; 8]).err(), Some(FrameError::TooLong { buffer_bytes: 8 }));
    for cut in 0..good.len() {
        for flip in 0..8 {
            let mut bytes = good.clone();
            bytes[cut] ^= 1 << flip;
            // Any outcome but a panic: a changed letter is still text.
            let _ = read(&bytes);
            let _ = read(&bytes[..cut]);
        }
    }
}

/// What a client wrote, and what it will read.
#[derive(Default)]
struct Pipe {
    written: Vec<u8>,
    to_read: Vec<u8>,
}

impl embedded_io::ErrorType for Pipe {
    type Error = core::convert::Infallible;
}

impl embedded_io::Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> Result<usize, Self::Error> {
        // Short writes happen on real lines.
        let taken = bytes.len().min(3);
        self.written.extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> Result<(), Self::Error> {
        Ok(())
    }
}

impl embedded_io::Read for Pipe {
    fn read(&mut self, bytes: &mut [u8]) -> Result<usize, Self::Error> {
        let taken = bytes.len().min(self.to_read.len());
        for (to, from) in bytes.iter_mut().zip(self.to_read.drain(..taken)) {
            *to = from;
        }
        Ok(taken)
    }
}

#[test]
fn a_client_sends_and_receives_and_goes_on_after_a_bad_frame() {
    let mut pipe = Pipe::default();
    pipe.to_read.extend([0, 0]);
    pipe.to_read.extend(framed(&token("first")));
    pipe.to_read.extend([200, 7, 0]);
    pipe.to_read.extend([9; 80]);
    pipe.to_read.push(0);
    pipe.to_read.extend(framed(&token("second")));
    let mut client = Client::<Pipe, 64>::new(pipe);
    let request = Request::<Borrowed>::task("1", "t", "x");
    client.send(&request).unwrap();
    assert_eq!(client.receive(), Ok(token("first")));
    assert_eq!(client.receive::<Small>(), Err(ClientError::Frame(FrameError::Damaged { frame_bytes: 2 })));
    assert_eq!(client.receive::<Small>(), Err(ClientError::Frame(FrameError::TooLong { buffer_bytes: 64 })));
    assert_eq!(client.receive(), Ok(token("second")));
    assert_eq!(client.receive::<Small>(), Err(ClientError::Closed));
    assert_eq!(client.into_inner().written, framed(&request));
}
