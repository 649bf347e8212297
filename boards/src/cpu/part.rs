//! ARM core types by the numbers in the main identification register.
//!
//! `MIDR_EL1` (Arm ARM, D19.2.87): implementer in bits 31..24, variant in 23..20, part number in 15..4,
//! revision in 3..0. The kernel shows it in sysfs and, split into fields, in `/proc/cpuinfo`. Part
//! numbers are those of Linux `arch/arm64/include/asm/cputype.h`.

use serde::Serialize;

/// Identity of one core.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
pub struct Part {
    /// Who designed the core; 0x41 is Arm.
    pub implementer: u8,
    /// The design's number, 12 bits.
    pub part: u16,
    /// Major revision (`r1` in `r1p0`).
    pub variant: u8,
    /// Minor revision (`p0` in `r1p0`).
    pub revision: u8,
}

impl Part {
    /// Splits a `MIDR_EL1` value.
    pub fn from_midr(midr: u64) -> Part {
        Part {
            implementer: (midr >> 24) as u8,
            part: ((midr >> 4) & 0xfff) as u16,
            variant: ((midr >> 20) & 0xf) as u8,
            revision: (midr & 0xf) as u8,
        }
    }

    /// The core's name as profiles write it (`cortex-a76`), or `None` for a core not in the table.
    pub fn name(self) -> Option<&'static str> {
        PARTS
            .iter()
            .find(|row| row.implementer == self.implementer && row.part == self.part)
            .map(|row| row.name)
    }
}

struct Row {
    implementer: u8,
    part: u16,
    name: &'static str,
}

const fn arm(part: u16, name: &'static str) -> Row {
    Row { implementer: 0x41, part, name }
}

/// Cores that edge boards and ARM servers have.
const PARTS: &[Row] = &[
    arm(0xd03, "cortex-a53"),
    arm(0xd04, "cortex-a35"),
    arm(0xd05, "cortex-a55"),
    arm(0xd06, "cortex-a65"),
    arm(0xd07, "cortex-a57"),
    arm(0xd08, "cortex-a72"),
    arm(0xd09, "cortex-a73"),
    arm(0xd0a, "cortex-a75"),
    arm(0xd0b, "cortex-a76"),
    arm(0xd0c, "neoverse-n1"),
    arm(0xd0d, "cortex-a77"),
    arm(0xd0e, "cortex-a76ae"),
    arm(0xd40, "neoverse-v1"),
    arm(0xd41, "cortex-a78"),
    arm(0xd42, "cortex-a78ae"),
    arm(0xd44, "cortex-x1"),
    arm(0xd46, "cortex-a510"),
    arm(0xd47, "cortex-a710"),
    arm(0xd48, "cortex-x2"),
    arm(0xd49, "neoverse-n2"),
    arm(0xd4b, "cortex-a78c"),
    arm(0xd4d, "cortex-a715"),
    arm(0xd4e, "cortex-x3"),
    arm(0xd4f, "neoverse-v2"),
    arm(0xd80, "cortex-a520"),
    arm(0xd81, "cortex-a720"),
    arm(0xd82, "cortex-x4"),
    arm(0xd84, "neoverse-v3"),
    arm(0xd85, "cortex-x925"),
    arm(0xd87, "cortex-a725"),
    arm(0xd8e, "neoverse-n3"),
    // Qualcomm's renamed A55 and A76/A78 cores
    Row { implementer: 0x51, part: 0x804, name: "kryo-gold-a76" },
    Row { implementer: 0x51, part: 0x805, name: "kryo-silver-a55" },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn midr_splits_and_names() {
        // r0p4 Cortex-A53 as every BCM2837 shows it
        let a53 = Part::from_midr(0x410f_d034);
        assert_eq!(a53, Part { implementer: 0x41, part: 0xd03, variant: 0, revision: 4 });
        assert_eq!(a53.name(), Some("cortex-a53"));
        assert_eq!(Part::from_midr(0x414f_d0b1).name(), Some("cortex-a76"));
        assert_eq!(Part::from_midr(0).name(), None);
    }

    #[test]
    fn no_part_number_is_listed_twice() {
        for (i, a) in PARTS.iter().enumerate() {
            assert!(
                PARTS[i + 1..].iter().all(|b| (a.implementer, a.part) != (b.implementer, b.part)),
                "{}",
                a.name
            );
        }
    }
}
