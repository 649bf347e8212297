//! Which version of MQTT the broker is greeted in: 5 if it may be, and 3.1.1 if it must be.
//!
//! A broker of 3.1.1 refuses a greeting in 5, or hangs up on it. The first is its last word. The second may also be a
//! broker that is about to stop, or something in between that has none behind it: then 3.1.1 is tried at once, and 5
//! again with the next connection.

use super::link::Objection;
use crate::config::mqtt::Protocol;

/// The version of the next greeting.
#[derive(Debug)]
pub struct Version {
    wanted: Protocol,
    next: Protocol,
    /// The broker has said that it does not speak 5.
    refused: bool,
    told: bool,
}

impl Version {
    /// The version `wanted` first.
    pub fn new(wanted: Protocol) -> Self {
        Version { wanted, next: wanted, refused: false, told: false }
    }

    /// The version to greet the broker in.
    pub fn next(&self) -> Protocol {
        self.next
    }

    /// A connection is gone, or did not come about. Whether to try again at once, in another version.
    pub fn lost(&mut self, objection: Objection) -> bool {
        if self.wanted == Protocol::V311 {
            return false;
        }
        if self.next == Protocol::V311 {
            if !self.refused || objection != Objection::None {
                (self.refused, self.next) = (false, Protocol::V5);
            }
            return false;
        }
        if objection != Objection::None {
            self.refused = objection == Objection::Refused;
            self.next = Protocol::V311;
        }
        objection != Objection::None
    }

    /// The broker has let us in. Whether somebody should be told that it was not in the version that was wanted.
    pub fn is_to_be_told(&mut self) -> bool {
        self.next != self.wanted && !std::mem::replace(&mut self.told, true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broker_of_3_1_1_is_found_out_and_one_that_was_only_away_is_not_taken_for_one() {
        let mut version = Version::new(Protocol::V5);
        assert!(!version.lost(Objection::None) && version.next() == Protocol::V5);
        // Said clearly, it holds.
        assert!(version.lost(Objection::Refused) && version.next() == Protocol::V311);
        assert!(version.is_to_be_told() && !version.is_to_be_told());
        assert!(!version.lost(Objection::None) && version.next() == Protocol::V311);
        // Another broker stands there now.
        assert!(!version.lost(Objection::HungUp) && version.next() == Protocol::V5);
        assert!(!version.is_to_be_told());
        // What only looks like it is asked anew each time.
        assert!(version.lost(Objection::HungUp) && version.next() == Protocol::V311);
        assert!(!version.lost(Objection::None) && version.next() == Protocol::V5);
        let mut fixed = Version::new(Protocol::V311);
        assert!(!fixed.lost(Objection::HungUp) && !fixed.lost(Objection::Refused));
        assert!(fixed.next() == Protocol::V311 && !fixed.is_to_be_told());
    }
}
