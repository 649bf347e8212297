//! What travels between Tern and its clients, for machines from a server down to a microcontroller.
//!
//! The same requests and answers go as lines of JSON over sockets (`docs/wire.md`) and as binary frames over serial
//! lines ([`frame`]). Their types are generic over where text and lists live ([`Storage`]), so that a daemon holds
//! them on its heap and a microcontroller in fixed arrays; there is one definition of the shape.
//!
//! | module | holds |
//! |---|---|
//! | [`storage`] | where text and lists of a message live |
//! | [`request`] | what a client sends |
//! | [`answer`], [`energy`] | what it gets back, and what that cost |
//! | [`json`] | JSON documents inside messages |
//! | [`limits`] | sizes both sides agree on |
//! | [`frame`] | one message as bytes between zeros: version, postcard, COBS |
//! | [`client`] | a blocking client over any [`embedded_io`] stream |
//!
//! ```
//! use tern_protocol::frame::{decode, encode};
//! use tern_protocol::request::{Request, Work};
//! use tern_protocol::storage::{Borrowed, Fixed};
//!
//! // A sensor node asks a gateway how bad this line is.
//! let request = Request::<Borrowed>::task("7", "log-severity", "i2c 0-0048: sensor not answering");
//! let mut bytes = [0; 128];
//! let frame = encode(&request, &mut bytes).unwrap();
//!
//! let mut received = heapless::Vec::<u8, 128>::from_slice(frame).unwrap();
//! let request: Request<Fixed<64, 4>> = decode(&mut received).unwrap();
//! assert!(matches!(request.work(), Ok(Work::Task(name)) if name == "log-severity"));
//! ```
//!
//! The crate needs neither the standard library nor an allocator, opens nothing and knows no model.
#![no_std]
#![forbid(unsafe_code)]

pub mod answer;
pub mod client;
pub mod energy;
pub mod frame;
pub mod json;
pub mod limits;
pub mod request;
pub mod storage;
mod usage;

mod named;
mod present;

pub use answer::Answer;
pub use request::Request;
pub use storage::Storage;
