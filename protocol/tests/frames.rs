//! Frames that are damaged, of another version, or longer or shorter than this side knows.

use tern_protocol::answer::{Answer, Token};
use tern_protocol::frame::{FrameError, VERSION, decode, decode_all, encode};
use tern_protocol::request::{Ask, Kind, Request};
use tern_protocol::storage::{Borrowed, Dropped, Fixed};

type Small = Fixed<64, 4>;

fn token(text: &str) -> Answer<Small> {
    Answer::Token(Token {
        id: "1".try_into().unwrap(),
        text: text.try_into().unwrap(),
        logprobs: None,
        joules: None,
    })
}

fn framed<T: serde::Serialize>(message: &T) -> Vec<u8> {
    let mut buffer = [0; 512];
    encode(message, &mut buffer).unwrap().to_vec()
}

/// A frame around any bytes, version included.
fn around(content: &[u8]) -> Vec<u8> {
    let sum = crc::Crc::<u32>::new(&crc::CRC_32_ISO_HDLC).checksum(content);
    let plain = [content, &sum.to_le_bytes()].concat();
    let mut stuffed = vec![0; cobs::max_encoding_length(plain.len()) + 1];
    let length = cobs::encode(&plain, &mut stuffed);
    stuffed.truncate(length + 1);
    stuffed
}

#[test]
fn a_message_comes_back_the_same() {
    // Declared first, since what is read from it borrows from it.
    let (long, mut frame);
    let mut request = Request::<Borrowed>::new("a");
    request.ask = Some(Ask {
        instructions: Some("How bad?"),
        threshold: Some(0.25),
        min: Some(-3),
        max: Some(7),
        ..Ask::new(Kind::Score)
    });
    long = "smoke ".repeat(60);
    request.text = Some(&long);
    frame = framed(&request);
    assert_eq!(frame.iter().position(|byte| *byte == 0), Some(frame.len() - 1));
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
    assert_eq!(read(&[5, 1, 2, 3, 4, 0]), Err(FrameError::Damaged { frame_bytes: 6 }));
    assert_eq!(read(&around(&[])), Err(FrameError::Empty));
    assert_eq!(read(&around(&[VERSION + 1, 7])), Err(FrameError::Version { found: VERSION + 1 }));
    assert_eq!(read(&around(&[VERSION, 77])), Err(FrameError::Message));
    let long = framed(&Answer::Token(Token::<Borrowed> {
        id: "1",
        text: &"x".repeat(65),
        logprobs: None,
        joules: None,
    }));
    assert_eq!(read(&long), Err(FrameError::Message));
    assert_eq!(encode(&token("ok"), &mut [0; 8]).err(), Some(FrameError::TooLong { buffer_bytes: 8 }));
    for cut in 0..good.len() - 1 {
        assert!(read(&good[..cut]).is_err(), "cut at {cut}");
        assert!(read(&good[cut + 1..]).is_err(), "begun at {}", cut + 1);
    }
}

#[test]
fn fields_of_an_older_and_of_a_newer_side() {
    let plain = [&[VERSION][..], b"\x017\x01\x01t\0\0\0\0\0\x01\x02hi\0\0\0\0"].concat();
    let request = Request::<Borrowed>::task("7", "t", "hi");
    assert_eq!(around(&plain), framed(&request));
    // An older side that lacks the last four fields, and a newer one with three more, of which none is used.
    let read = |bytes: &[u8]| decode_all::<Request<Small>>(&mut around(bytes)).map(|read| read.text.unwrap());
    assert_eq!(read(&plain[..plain.len() - 4]).as_deref(), Ok("hi"));
    assert_eq!(read(&[&plain[..], &[0, 0, 0]].concat()).as_deref(), Ok("hi"));
    let used = [&plain[..], &[0, 1, 9]].concat();
    assert_eq!(read(&used), Err(FrameError::MoreFields { bytes: 3 }));
    // A reader of answers passes over what it does not know.
    let text = decode::<Request<Small>>(&mut around(&used)).map(|read| read.text.unwrap());
    assert_eq!(text.as_deref(), Ok("hi"));
    // A text cannot be lacking, nor can a list claim what is not there.
    assert_eq!(read(&plain[..plain.len() - 5]).err(), Some(FrameError::Message));
    let endless = [&[VERSION][..], b"\x017\0\x01\0\0\0\0\x01\xff\xff\xff\xff\x0f"].concat();
    // Sixteen labels would have room, and there are fewer.
    assert_eq!(decode_all::<Request<Fixed<64, 64>>>(&mut around(&endless)).err(), Some(FrameError::Message));
}

#[test]
fn log_probabilities_are_passed_over_where_there_is_no_heap() {
    // "a" with the alternative "b" beside it; -0.5 and -1.
    let chosen = [&[1, 1, 1, b'a', 0, 0, 0, 0xbf, 1, 1, b'b'][..], &[0, 0, 0x80, 0xbf]].concat();
    let read: Answer<Small> =
        decode(&mut around(&[&[VERSION, 1, 1, b'1', 1, b'a'][..], &chosen].concat())).unwrap();
    let Answer::Token(token) = read else { panic!("a token was sent") };
    assert_eq!((token.text.as_str(), token.logprobs), ("a", Some(Dropped::default())));
}
