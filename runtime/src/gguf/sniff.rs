//! What a file that is not a GGUF looks like, so that the error can say what to do about it.

use core::fmt;

/// A guess from the first bytes of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Lookalike {
    /// Nothing in it.
    Empty,
    /// The small text file git leaves when large files were not fetched.
    GitLfsPointer,
    /// Hugging Face safetensors.
    Safetensors,
    /// A zip archive, which PyTorch checkpoints are too.
    Zip,
    /// A web page: usually a download that needed a login.
    Html,
    /// JSON text, usually a configuration beside the model.
    Json,
    /// gzip, zstd, xz or bzip2.
    Compressed,
    /// The formats before GGUF.
    OldGgml,
    /// An executable.
    Elf,
    /// Zero bytes: a download that reserved its space and never filled it.
    Zeros,
    /// None of these; the first four bytes.
    Unknown([u8; 4]),
}

impl Lookalike {
    /// Guesses from the head of a file.
    #[must_use]
    pub fn guess(bytes: &[u8]) -> Self {
        let head = &bytes[..bytes.len().min(512)];
        let text = head.trim_ascii_start();
        let starts = |magics: &[&[u8]]| magics.iter().any(|m| head.starts_with(m));
        if head.is_empty() {
            Self::Empty
        } else if head.starts_with(b"version https://git-lfs") {
            Self::GitLfsPointer
        } else if starts(&[b"PK\x03\x04"]) {
            Self::Zip
        } else if starts(&[b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\xfd7zXZ", b"BZh"]) {
            Self::Compressed
        } else if starts(&[b"tjgg", b"fmgg", b"lmgg", b"algg"]) {
            Self::OldGgml
        } else if head.starts_with(b"\x7fELF") {
            Self::Elf
        } else if head.len() > 9 && head[8] == b'{' && head[6] == 0 && head[7] == 0 {
            // safetensors: u64 length of a JSON header, then the header
            Self::Safetensors
        } else if text.first() == Some(&b'<') {
            Self::Html
        } else if text.first() == Some(&b'{') {
            Self::Json
        } else if head.iter().all(|&b| b == 0) {
            Self::Zeros
        } else {
            let mut first = [0; 4];
            for (to, from) in first.iter_mut().zip(head) {
                *to = *from;
            }
            Self::Unknown(first)
        }
    }
}

impl fmt::Display for Lookalike {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "the file is empty; fetch it again",
            Self::GitLfsPointer => "it is a Git LFS pointer, not the model; run 'git lfs pull' where it came from",
            Self::Safetensors => "it is a safetensors checkpoint; convert it to GGUF (type I2_S) first",
            Self::Zip => "it is a zip archive or a PyTorch checkpoint; convert it to GGUF (type I2_S) first",
            Self::Html => "it is a web page; the download probably needed a login or another address",
            Self::Json => "it is JSON text, perhaps the configuration beside the model; give the .gguf file",
            Self::Compressed => "it is compressed; unpack it first",
            Self::OldGgml => "it is in a format older than GGUF; convert the model again with a newer converter",
            Self::Elf => "it is an executable; give the .gguf file",
            Self::Zeros => "it starts with zero bytes; the download was never completed, fetch it again",
            Self::Unknown([a, b, c, d]) => {
                return write!(
                    f,
                    "it starts with bytes {a:02x} {b:02x} {c:02x} {d:02x}, expected 47 47 55 46 (\"GGUF\"); give the .gguf file"
                );
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_usual_mistakes() {
        let cases: [(&[u8], Lookalike); 10] = [
            (b"", Lookalike::Empty),
            (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", Lookalike::GitLfsPointer),
            (b"\x40\x01\0\0\0\0\0\0{\"model.embed_tokens", Lookalike::Safetensors),
            (b"PK\x03\x04rest", Lookalike::Zip),
            (b"\n<!DOCTYPE html><html>", Lookalike::Html),
            (b"{\"hidden_size\": 2560}", Lookalike::Json),
            (b"\x1f\x8b\x08\0", Lookalike::Compressed),
            (b"tjgg\x03\0\0\0", Lookalike::OldGgml),
            (b"\0\0\0\0\0\0\0\0\0\0\0\0", Lookalike::Zeros),
            (b"abc", Lookalike::Unknown(*b"abc\0")),
        ];
        for (bytes, expected) in cases {
            assert_eq!(Lookalike::guess(bytes), expected, "{bytes:?}");
        }
    }
}
