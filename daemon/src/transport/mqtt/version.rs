//! Which version of MQTT the broker is greeted in: 5 if it may be, and 3.1.1 if it must be.
//!
//! A broker of 3.1.1 that says so is spoken to in 3.1.1. Most only seem to hang up, or wait for more, which a network
//! that fails does as well, and a broker of 5 must not be spoken to in 3.1.1 by mistake: what is asked in 5 would lose
//! its properties on the way. So a broker that hung up on 5 and lets us in with 3.1.1 is left at once and greeted in 5
//! again, and only one that hangs up once more is taken for what it seems. One that has ever let us in with 5 is never.

use super::link::Objection;
use crate::config::mqtt::Protocol;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nothing speaks against the version that is wanted.
    Wanted,
    /// It hung up on 5: does it let us in with 3.1.1?
    Trying,
    /// It did: does it still hang up on 5?
    Checking,
    /// It is of 3.1.1.
    Old,
}

/// What to do when a broker has let us in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Welcome {
    /// Go on.
    Stay,
    /// Say that it is not the version that was wanted, and go on.
    Tell,
    /// Leave, and connect again at once.
    Leave,
}

/// The version of the next greeting.
#[derive(Debug)]
pub struct Version {
    wanted: Protocol,
    state: State,
    /// It has let us in with 5.
    knows_5: bool,
    told: bool,
}

impl Version {
    /// The version `wanted` first.
    pub fn new(wanted: Protocol) -> Self {
        Version { wanted, state: State::Wanted, knows_5: false, told: false }
    }

    /// The version to greet the broker in.
    pub fn next(&self) -> Protocol {
        match self.state {
            State::Wanted | State::Checking => self.wanted,
            State::Trying | State::Old => Protocol::V311,
        }
    }

    /// A connection is gone, or did not come about. Whether to try again at once, in another version.
    pub fn lost(&mut self, objection: Objection) -> bool {
        if self.wanted == Protocol::V311 || self.knows_5 {
            return false;
        }
        let next = match (self.state, objection) {
            (State::Wanted, Objection::HungUp) => State::Trying,
            (State::Wanted | State::Checking, Objection::Refused) | (State::Checking, Objection::HungUp) => {
                State::Old
            }
            (State::Old, Objection::None) => State::Old,
            _ => State::Wanted,
        };
        let is_other = next != self.state && next != State::Wanted;
        self.state = next;
        is_other
    }

    /// The broker has let us in.
    pub fn let_in(&mut self) -> Welcome {
        match self.state {
            State::Wanted | State::Checking => {
                (self.state, self.knows_5) = (State::Wanted, true);
                Welcome::Stay
            }
            State::Trying => {
                self.state = State::Checking;
                Welcome::Leave
            }
            State::Old if std::mem::replace(&mut self.told, true) => Welcome::Stay,
            State::Old => Welcome::Tell,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broker_of_3_1_1_that_says_so_is_believed() {
        let mut version = Version::new(Protocol::V5);
        assert!(!version.lost(Objection::None) && version.next() == Protocol::V5);
        assert!(version.lost(Objection::Refused) && version.next() == Protocol::V311);
        assert_eq!((version.let_in(), version.let_in()), (Welcome::Tell, Welcome::Stay));
        assert!(!version.lost(Objection::None) && version.next() == Protocol::V311);
        // Another broker stands there now.
        assert!(!version.lost(Objection::Refused) && version.next() == Protocol::V5);
        let mut fixed = Version::new(Protocol::V311);
        assert!(!fixed.lost(Objection::HungUp) && !fixed.lost(Objection::Refused));
        assert!(fixed.next() == Protocol::V311 && fixed.let_in() == Welcome::Stay);
    }

    #[test]
    fn one_that_hangs_up_is_found_out_and_a_network_that_fails_is_not_taken_for_one() {
        let mut version = Version::new(Protocol::V5);
        assert!(version.lost(Objection::HungUp) && version.next() == Protocol::V311);
        assert_eq!((version.let_in(), version.next()), (Welcome::Leave, Protocol::V5));
        assert!(version.lost(Objection::HungUp) && version.next() == Protocol::V311);
        assert_eq!(version.let_in(), Welcome::Tell);

        let mut version = Version::new(Protocol::V5);
        assert!(version.lost(Objection::HungUp));
        assert_eq!(
            (version.let_in(), version.next(), version.let_in()),
            (Welcome::Leave, Protocol::V5, Welcome::Stay)
        );
        for _ in 0..9 {
            assert!(!version.lost(Objection::HungUp) && version.next() == Protocol::V5);
        }
        // Nobody is there at all.
        let mut version = Version::new(Protocol::V5);
        assert!(version.lost(Objection::HungUp) && !version.lost(Objection::HungUp));
        assert!(version.next() == Protocol::V5 && version.lost(Objection::HungUp));
    }
}
