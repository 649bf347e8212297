//! Packed models: the same weights in a layout that kernels read where they are mapped, so that opening one copies
//! nothing.
//!
//! A packed file is a GGUF of version 3 (`docs/packed.md`): every key of its source, a few of ours, and the tensors of the
//! source in its order. Ternary matrices have a type id of ours and another byte order, everything else is unchanged; an
//! int8 head may stand behind them. [`Recipe::write`] makes one, holding one matrix in memory at a time;
//! [`verify`](verify::verify) takes it apart again and compares every weight.

mod error;
pub mod head;
pub mod rows;
pub mod stream;
pub mod verify;

use std::fmt::Write as _;
use std::thread;

use tern_kernels::{Layout, pack};
use tern_runtime::arena::Arena;
use tern_runtime::gguf::{Gguf, Header, PACKED_TAIL_BYTES, TensorInfo, TensorType, optional};
use tern_runtime::model::{Config, Model, file_layout};
use tern_runtime::tokenizer::Tokenizer;

pub use error::PackError;

pub use stream::Output;

use head::{Plane, Source};

/// Tensors start at multiples of this: the largest page of the boards Tern is made for (16 KiB on a Raspberry Pi 5).
pub const ALIGNMENT_BYTES: u32 = 16 << 10;

/// Version of what the keys and types of a packed file mean.
pub const VERSION: u32 = 1;

/// Key of [`VERSION`]; a file that has it is packed.
pub const VERSION_KEY: &str = "tern.pack.version";
/// Key of the layout's name.
pub const LAYOUT_KEY: &str = "tern.pack.layout";
/// Key of the text that says which file this was made from.
pub const SOURCE_KEY: &str = "tern.pack.source";

/// How a model is to be packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recipe {
    /// Layout of the ternary matrices.
    pub layout: Layout,
    /// Whether an int8 head is added; the head of the source stays in any case.
    pub int8_head: bool,
}

/// What a packed file says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packed<'a> {
    /// Layout of the ternary matrices.
    pub layout: Layout,
    /// What it was made from.
    pub source: &'a str,
}

/// What `gguf` says of how it was packed, or `None` if it was not.
///
/// # Errors
/// If it was packed by a version that this build does not know, or its keys contradict its tensors.
pub fn packed<'a>(gguf: &Gguf<'a>) -> Result<Option<Packed<'a>>, PackError> {
    let Some(version) = optional(gguf.u32(VERSION_KEY))? else { return Ok(None) };
    if version != VERSION {
        return Err(PackError::Version { found: version });
    }
    let named = gguf.str(LAYOUT_KEY)?;
    match file_layout(gguf) {
        Some(layout) if layout.name() == named => Ok(Some(Packed { layout, source: gguf.str(SOURCE_KEY)? })),
        found => Err(PackError::Layout { named: named.to_owned(), found: found.map(Layout::name) }),
    }
}

/// One tensor of the packed file.
struct Part<'a> {
    name: &'a str,
    ty: TensorType,
    dims: Vec<u64>,
    content: Content<'a>,
}

/// Where the data of a tensor comes from.
enum Content<'a> {
    /// From the source as it is.
    Same(TensorInfo<'a>),
    /// From a ternary matrix of the source, in this layout.
    Matrix(Layout, TensorInfo<'a>),
    /// From the head of the source.
    Head(Source<'a>, Plane),
}

impl Recipe {
    fn parts<'a>(&self, gguf: &Gguf<'a>, workers: usize) -> Result<Vec<Part<'a>>, PackError> {
        let is_head = |name: &str| Plane::ALL.iter().any(|plane| plane.name() == name);
        let kept = gguf.tensors().filter(|info| !is_head(info.name())).map(|info| {
            let (ty, content) = match info.ty().layout() {
                Some(from) => (TensorType::Packed(self.layout), Content::Matrix(from, info)),
                None => (info.ty(), Content::Same(info)),
            };
            Part { name: info.name(), ty, dims: info.dims().to_vec(), content }
        });
        let mut parts: Vec<Part<'a>> = kept.collect();
        if self.int8_head {
            let source = Source::new(gguf, workers)?;
            parts.extend(Plane::ALL.map(|plane| Part {
                name: plane.name(),
                ty: plane.ty(),
                dims: source.dims(plane).to_vec(),
                content: Content::Head(source, plane),
            }));
        }
        Ok(parts)
    }

    fn header(&self, gguf: &Gguf<'_>, source: &str, parts: &[Part<'_>]) -> Result<Header, PackError> {
        let mut header = Header::aligned(ALIGNMENT_BYTES);
        let ours = ["general.alignment", VERSION_KEY, LAYOUT_KEY, SOURCE_KEY];
        for (key, value) in gguf.entries().filter(|(key, _)| !ours.contains(key)) {
            header.copy(key, &value);
        }
        header.u32(VERSION_KEY, VERSION).str(LAYOUT_KEY, self.layout.name()).str(SOURCE_KEY, source);
        for part in parts {
            header.tensor(part.name, part.ty, &part.dims).map_err(PackError::Write)?;
        }
        Ok(header)
    }

    /// Bytes of the packed form of `gguf`.
    ///
    /// # Errors
    /// If a matrix has a shape that the layout has no room for.
    pub fn file_bytes(&self, gguf: &Gguf<'_>, source: &str) -> Result<u64, PackError> {
        Ok(self.header(gguf, source, &self.parts(gguf, 1)?)?.file_bytes())
    }

    /// Writes the packed form of `gguf`, which `source` names, with `workers` threads, and tells `wrote` how many bytes
    /// each piece had.
    ///
    /// # Errors
    /// If the model could not be run: what is broken is found before the first byte is written. And those of `out`.
    pub fn write<W: Output>(
        &self,
        gguf: &Gguf<'_>,
        source: &str,
        workers: usize,
        out: W,
        wrote: impl FnMut(u64),
    ) -> Result<W, PackError> {
        check(gguf)?;
        let parts = self.parts(gguf, workers)?;
        let header = self.header(gguf, source, &parts)?;
        let mut buffer = Vec::new();
        stream::stream(header, parts.len(), out, wrote, |index, put| match &parts[index].content {
            Content::Same(info) => put(info.data()?),
            Content::Matrix(from, info) => {
                self.repack(*from, info, workers, &mut buffer)?;
                put(&buffer)
            }
            Content::Head(source, plane) => source.fill(*plane, put),
        })
    }

    /// A text that changes with anything the packed form of `gguf` consists of but the weights, see
    /// [`Unfinished::begin`](crate::unfinished::Unfinished::begin).
    ///
    /// # Errors
    /// As [`file_bytes`](Self::file_bytes).
    pub fn identity(&self, gguf: &Gguf<'_>, source: &str) -> Result<String, PackError> {
        Ok(stream::identity(&self.header(gguf, source, &self.parts(gguf, 1)?)?))
    }

    /// One matrix and its tail in this layout, in `buffer`.
    fn repack(
        &self,
        from: Layout,
        info: &TensorInfo<'_>,
        workers: usize,
        buffer: &mut Vec<u8>,
    ) -> Result<(), PackError> {
        let (rows, cols) = (info.rows() as usize, info.row_len() as usize);
        let (codes, scale) = codes_and_scale(info)?;
        let Some(bytes) = self.layout.bytes(rows, cols) else {
            return Err(PackError::Shape { tensor: info.name().to_owned(), rows, cols, layout: self.layout });
        };
        buffer.clear();
        buffer.resize(bytes + PACKED_TAIL_BYTES, 0);
        let (packed, tail) = buffer.split_at_mut(bytes);
        tail[..scale.len()].copy_from_slice(&scale);
        // Whole panels of both layouts for each worker: their least common multiple divides this.
        let unit = from.panel_rows() * self.layout.panel_rows();
        let each = rows.div_ceil(workers).next_multiple_of(unit);
        let from_bytes = each / from.panel_rows() * from.panel_bytes(cols);
        let to_bytes = each / self.layout.panel_rows() * self.layout.panel_bytes(cols);
        thread::scope(|scope| {
            let pieces = codes.chunks(from_bytes).zip(packed.chunks_mut(to_bytes));
            for (at, (source, target)) in pieces.enumerate() {
                let rows = each.min(rows - at * each);
                scope.spawn(move || pack::repack(from, source, self.layout, rows, cols, target));
            }
        });
        Ok(())
    }
}

/// Codes of a ternary tensor and the four bytes of its scale.
fn codes_and_scale<'a>(info: &TensorInfo<'a>) -> Result<(&'a [u8], [u8; 4]), PackError> {
    let data = info.data()?;
    let layout = info.ty().layout().expect("asked for ternary tensors only");
    // Parsed: the tensor has exactly the bytes of its type, the codes first.
    let codes = layout.bytes(info.rows() as usize, info.row_len() as usize).unwrap_or(0);
    let (codes, tail) = data.split_at(codes);
    Ok((codes, [tail[0], tail[1], tail[2], tail[3]]))
}

/// Whether the model could be run from `gguf` as it is: its shape, its tokenizer's tables and every code.
fn check(gguf: &Gguf<'_>) -> Result<(), PackError> {
    let config = Config::read(gguf)?;
    Tokenizer::plan(gguf)?;
    let layout = file_layout(gguf).ok_or(PackError::Mixed)?;
    let scalar = tern_kernels::reference::scalar(layout);
    Model::load(gguf, config, scalar, &mut Arena::new(&mut []))?;
    Ok(())
}

/// A text that tells one model file from another without reading its weights: its name, its size, when it was last
/// changed, and a sum over its header.
pub fn source_note(path: &std::path::Path, gguf: &Gguf<'_>, header: &[u8]) -> String {
    let name = path.file_name().map_or_else(Default::default, |name| name.to_string_lossy().into_owned());
    let changed = std::fs::metadata(path).ok().and_then(|metadata| metadata.modified().ok());
    let changed = changed.and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok());
    let mut note = String::new();
    // Writing to a string cannot fail.
    let _ = write!(
        note,
        "{name}, {} bytes, changed at {}, header {:016x}",
        gguf.file_bytes(),
        changed.map_or(0, |at| at.as_nanos()),
        fnv1a(header)
    );
    note
}

/// The 64-bit FNV-1a sum (Fowler, Noll and Vo): enough to tell headers apart, no protection against anybody.
pub(crate) fn fnv1a(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}
