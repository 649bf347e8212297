//! How requests come in and answers go out.

pub mod http;
pub mod messages;
pub mod mqtt;
pub mod serial;
pub mod unix;

use std::fmt::Debug;

/// A way in that a running daemon has. Its requests go through [`Service`](crate::serve::service::Service), each for a
/// [`Requester`](crate::serve::requester::Requester) that takes the answers.
pub trait Transport: Debug + Send + Sync {
    /// Takes no more requests. Those taken may go on.
    fn stop_accepting(&mut self);

    /// Delivers the last answers, for a moment at most, and ends. The engine has stopped by then.
    fn finish(self: Box<Self>);
}
