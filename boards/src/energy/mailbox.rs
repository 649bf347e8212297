//! One question to a Raspberry Pi's firmware, through the property mailbox `/dev/vcio`.
//!
//! The firmware answers text commands (the ones `vcgencmd` sends) in the property tag `0x00030080`. The driver takes
//! one `ioctl` with a buffer of 32-bit words, all in the CPU's byte order:
//!
//! ```text
//! word 0      size of the buffer in bytes
//!      1      0: a request; the firmware writes 0x8000_0000 for success
//!      2      tag 0x0003_0080
//!      3      bytes of the tag's value: TEXT_BYTES
//!      4      0
//!      5      error of the command in the answer
//!      6..    command, then answer, both ended by a zero byte
//!      last   0: end of the tags
//! ```
//!
//! Source: `vcgencmd.c` of raspberrypi/utils and `drivers/char/broadcom/vcio.c` of the Raspberry Pi kernel. The device
//! belongs to group `video`. This is the one file of the crate with unsafe code: a call of `ioctl`.
#![allow(unsafe_code, reason = "ioctl on /dev/vcio")]

use std::fs::File;
use std::io;
use std::path::Path;

use rustix::ioctl::{Updater, ioctl, opcode};

/// Property tag of a text command.
const TEXT_COMMAND: u32 = 0x0003_0080;

/// Room for the command and its answer; that of `pmic_read_adc` has about 1,000 bytes.
const TEXT_BYTES: usize = 4096;

/// Words before the text, the text, and the end tag.
const WORDS: usize = 6 + TEXT_BYTES / 4 + 1;

/// `_IOWR(100, 0, char *)`, whose size is that of a pointer; the argument is the buffer itself.
const PROPERTY: rustix::ioctl::Opcode = opcode::read_write::<*mut u8>(100, 0);

/// The open device.
#[derive(Debug)]
pub struct Mailbox {
    device: File,
}

impl Mailbox {
    /// Opens the device at `path`.
    ///
    /// # Errors
    /// Those of opening a file: there is none, or this user may not.
    pub fn open(path: &Path) -> io::Result<Mailbox> {
        // The driver does not look at the mode; reading is enough to be let in by group `video`.
        Ok(Mailbox { device: File::open(path)? })
    }

    /// Sends `command` and gives the text of the answer.
    ///
    /// # Errors
    /// The driver's; [`io::ErrorKind::InvalidInput`] for a command that does not fit; [`io::ErrorKind::InvalidData`]
    /// when the firmware does not know the command or answers no text.
    pub fn ask(&self, command: &str) -> io::Result<String> {
        let mut words = request(command)?;
        // SAFETY: the driver copies `words[0]` bytes, which is the size of `words`, in and out again (vcio.c,
        // vcio_user_property_list), and keeps no pointer; the opcode is the driver's own.
        let exchange = unsafe { Updater::<PROPERTY, [u32; WORDS]>::new(&mut words) };
        // SAFETY: as above; a descriptor of another kind of file answers ENOTTY.
        unsafe { ioctl(&self.device, exchange) }?;
        answer(&words)
    }
}

fn request(command: &str) -> io::Result<[u32; WORDS]> {
    if command.len() >= TEXT_BYTES || command.contains('\0') {
        let message = format!(
            "a firmware command of {} bytes; at most {} without zeros",
            command.len(),
            TEXT_BYTES - 1
        );
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    }
    let mut words = [0; WORDS];
    words[0] = size_of_val(&words) as u32;
    words[2] = TEXT_COMMAND;
    words[3] = TEXT_BYTES as u32;
    for (word, bytes) in words[6..].iter_mut().zip(command.as_bytes().chunks(4)) {
        let mut four = [0; 4];
        four[..bytes.len()].copy_from_slice(bytes);
        *word = u32::from_ne_bytes(four);
    }
    Ok(words)
}

fn answer(words: &[u32; WORDS]) -> io::Result<String> {
    let unusable = |message: String| io::Error::new(io::ErrorKind::InvalidData, message);
    if words[1] != 0x8000_0000 {
        return Err(unusable(format!("the firmware answers {:#010x} instead of 0x80000000", words[1])));
    }
    if words[5] != 0 {
        return Err(unusable(format!("the firmware refuses the command with error {}", words[5])));
    }
    let bytes: Vec<u8> = words[6..WORDS - 1].iter().flat_map(|word| word.to_ne_bytes()).collect();
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8(bytes[..end].to_vec()).map_err(|_| unusable("the firmware answers no text".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_laid_out_as_the_driver_wants_it() {
        let words = request("pmic_read_adc").expect("it fits");
        assert_eq!(words[..6], [(WORDS * 4) as u32, 0, 0x0003_0080, 4096, 0, 0]);
        assert_eq!(words[6].to_ne_bytes(), *b"pmic");
        assert_eq!(words[9].to_ne_bytes(), *b"c\0\0\0");
        assert_eq!(words[WORDS - 1], 0);
        assert_eq!(request(&"x".repeat(4096)).expect_err("too long").kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn an_answer_is_its_text_or_says_what_is_wrong() {
        let mut words = request("VDD_CORE_A current(7)=1.5A\n").expect("it fits");
        assert!(answer(&words).expect_err("not answered").to_string().contains("0x00000000"));
        words[1] = 0x8000_0000;
        assert_eq!(answer(&words).expect("an answer"), "VDD_CORE_A current(7)=1.5A\n");
        words[5] = 1;
        assert!(answer(&words).expect_err("refused").to_string().contains("error 1"));
    }

    #[test]
    fn a_device_of_another_kind_refuses() {
        let mailbox = Mailbox::open(Path::new("/dev/null")).expect("it is there");
        assert!(mailbox.ask("pmic_read_adc").is_err());
    }
}
