//! Support for the whole-system tests in `tests/`.
//!
//! | module | holds |
//! |---|---|
//! | [`binary`] | the program `tern` as a user runs it |
//! | [`broker`], [`mqtt_peer`] | the broker mosquitto, and clients of it that share no code with the daemon |
//! | [`daemon`] | a running daemon, and clients that send it any bytes |
//! | [`mqtt_daemon`] | a daemon at a broker, and a record of its answers |
//! | [`old_broker`] | a broker that does not know MQTT 5 |
//! | [`fault_proxy`] | a network that fails on purpose, between the two |
//! | [`http_peer`] | a daemon that speaks HTTP, and a client that sends it any bytes |
//! | [`sets`] | the kernel sets that this machine can run, and why it cannot run the others |
//! | [`fill`] | seeded and adversarial numbers |
//! | [`gguf_fields`] | where the fields of a model file's header lie |
//! | [`model`] | opening a model and asking the engine |
//! | [`npy`] | reading the fixtures' arrays |
//! | [`port`] | a serial line with a test at its near end, and noise on it |
//! | [`simulation`] | boards that are not there, whose files move on as loads run |
//! | [`tl2`] | matrices as bitnet.cpp lays them for x86 |
//! | [`product`] | one ternary product as a test case: what goes in, what must come out, how a difference is told |

pub mod binary;
pub mod broker;
pub mod daemon;
pub mod fault_proxy;
pub mod fill;
pub mod gguf_fields;
pub mod grouped;
pub mod http_peer;
pub mod model;
pub mod mqtt_daemon;
pub mod mqtt_peer;
pub mod npy;
pub mod old_broker;
pub mod port;
pub mod product;
pub mod sets;
pub mod simulation;
pub mod tl2;
