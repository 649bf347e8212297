//! Where the joules went, hour by hour, over restarts of the daemon.
//!
//! The engine's thread books every step as it happens: each share's microjoules and tokens go to its task, and what the
//! meter counted beside them to idle or to nobody. So at any moment the sum over tasks, idle and unattributed is what the
//! meter counted. A thread writes the book to the state directory once a minute and when the daemon ends; a crash loses
//! what came since.
//!
//! Hours are those of the system's clock in universal time. A clock that jumps puts what follows on another page and
//! costs nothing; sums do not depend on it. Joules of two meters are never added up: each has its pages and its sums.

pub mod book;
pub mod days;
pub mod file;
pub mod keeper;
pub mod sums;

pub use book::{Book, Page, Record, Total};
pub use keeper::{Daybook, Keeper};
pub use sums::{Charge, MeterName, OTHER, Sums, Work};
