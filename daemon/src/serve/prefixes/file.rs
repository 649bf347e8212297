//! One file of keys and values: its form, its name, and how it is read.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};
use tern_runtime::engine::Engine;
use tern_runtime::kv_cache::PAGE_CELLS;
use tern_runtime::map::MappedFile;

/// The form that this build writes, and the only one it reads.
const FORM: u32 = 2;

/// The start of a checksum.
pub const BASIS: u64 = 0xcbf2_9ce4_8422_2325;

/// The first line of a file.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Head {
    form: u32,
    identity: String,
    tokens: Vec<u32>,
    page_bytes: usize,
}

/// A checksum: FNV-1a of 64 bits (Fowler, Noll, Vo; draft-eastlake-fnv), by words of eight bytes.
pub fn checksum(mut hash: u64, bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    let mut add = |word: u64| hash = (hash ^ word).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(29);
    words.iter().for_each(|word| add(u64::from_le_bytes(*word)));
    rest.iter().for_each(|byte| add(u64::from(*byte)));
    hash
}

/// What tells a model file from others without reading all of it: size, time of change, and samples.
///
/// # Errors
/// If it cannot be read.
pub fn model_identity(path: &Path) -> io::Result<String> {
    use std::os::unix::fs::FileExt as _;
    const SAMPLES: u64 = 64;
    let file = fs::File::open(path)?;
    let meta = file.metadata()?;
    let changed = meta.modified()?.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
    let (mut sum, mut sample) = (BASIS, vec![0; 1 << 16]);
    for index in 0..=SAMPLES {
        let read = file.read_at(&mut sample, meta.len() / SAMPLES * index)?;
        sum = checksum(sum, &sample[..read]);
    }
    Ok(format!("{} bytes, changed {changed}, samples {sum:016x}", meta.len()))
}

/// Where the file of these tokens is.
pub fn place(folder: &Path, identity: &str, tokens: &[u32]) -> PathBuf {
    let of_tokens = tokens.iter().fold(BASIS, |hash, token| checksum(hash, &token.to_le_bytes()));
    folder.join(format!("{:016x}.kv", checksum(of_tokens, identity.as_bytes())))
}

/// The first line of the file of these tokens, with its end.
pub fn first_line(identity: &str, tokens: &[u32], page_bytes: usize) -> Vec<u8> {
    let head = Head { form: FORM, identity: identity.to_owned(), tokens: tokens.to_vec(), page_bytes };
    // A struct of texts and numbers is always JSON.
    let mut line = serde_json::to_vec(&head).unwrap_or_default();
    line.push(b'\n');
    line
}

/// Why a file is passed over.
#[derive(Debug)]
pub enum Unusable {
    /// There is none.
    Absent,
    /// The system refuses it.
    Unreadable(String),
    /// Its first line is not one of ours.
    NoHead,
    /// It is of something else.
    Foreign,
    /// It is too short or too long.
    Length {
        /// Bytes of its pages and checksum.
        expected: usize,
        /// Bytes after its first line.
        found: usize,
    },
    /// Its checksum does not fit.
    Damaged,
}

impl Unusable {
    /// In words.
    pub fn words(&self) -> String {
        match self {
            Unusable::Absent => "it is not there".into(),
            Unusable::Unreadable(why) => why.clone(),
            Unusable::NoHead => "its first line is not that of kept keys and values".into(),
            Unusable::Foreign => "it is of another model, program or text".into(),
            Unusable::Length { expected, found } => format!("it has {found} bytes of pages, not {expected}"),
            Unusable::Damaged => "its checksum does not fit".into(),
        }
    }
}

/// Takes the pages of a file into the cache; returns how many there are of them.
///
/// # Errors
/// If there is no file, or it is not of this engine and these tokens, or not as it was written.
pub fn read(path: &Path, identity: &str, tokens: &[u32], engine: &mut Engine<'_>) -> Result<usize, Unusable> {
    if !path.exists() {
        return Err(Unusable::Absent);
    }
    let file = MappedFile::open(path).map_err(|error| Unusable::Unreadable(error.to_string()))?;
    let bytes = file.bytes();
    let end = bytes.iter().position(|byte| *byte == b'\n').ok_or(Unusable::NoHead)?;
    let head: Head = serde_json::from_slice(&bytes[..end]).map_err(|_| Unusable::NoHead)?;
    let page_bytes = engine.cache().shape().page_bytes();
    if (head.form, &*head.identity, &*head.tokens, head.page_bytes) != (FORM, identity, tokens, page_bytes) {
        return Err(Unusable::Foreign);
    }
    let (line, rest) = bytes.split_at(end + 1);
    let pages_bytes = tokens.len() / PAGE_CELLS * page_bytes;
    let length = Unusable::Length { expected: pages_bytes + 8, found: rest.len() };
    let Some((pages, sum)) = rest.split_last_chunk::<8>().filter(|(pages, _)| pages.len() == pages_bytes)
    else {
        return Err(length);
    };
    if checksum(checksum(BASIS, line), pages) != u64::from_le_bytes(*sum) {
        return Err(Unusable::Damaged);
    }
    for (index, page) in pages.chunks_exact(page_bytes).enumerate() {
        // What is there already, or has no room, need not be there twice.
        engine.restore(tokens, index, page);
    }
    Ok(pages_bytes / page_bytes)
}
