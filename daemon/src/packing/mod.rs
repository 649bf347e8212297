//! Packed models: the same weights in a layout that kernels read where they are mapped, so that opening one copies
//! nothing.
//!
//! A packed file is a GGUF of version 3 (`docs/packed.md`): every key of its source, a few of ours, and the tensors of the
//! source in its order. Ternary matrices have a type id of ours and another byte order, with their scales beside them where
//! they have several; everything else is unchanged; an int8 head may stand behind them. [`Recipe::write`] makes one, holding one matrix in memory at a time;
//! [`verify`](verify::verify) takes it apart again and compares every weight.

mod error;
pub mod head;
pub mod rows;
pub mod stream;
pub mod verify;

use std::fmt::Write as _;

use tern_kernels::Layout;
use tern_runtime::arena::{ALIGN, Arena};
use tern_runtime::error::LoadError;
use tern_runtime::gguf::{Gguf, Header, PACKED_KEY, TensorInfo, TensorType, optional};
use tern_runtime::model::loading::{rows_bytes, scales_name};
use tern_runtime::model::ternary::{GROUP_KEY, is_matrix, packed_bytes};
use tern_runtime::model::{Config, Model, Rows, file_layout, grouping};
use tern_runtime::tokenizer::Tokenizer;

pub use error::PackError;

pub use stream::Output;

use head::{Plane, Source};
use rows::PackedMatrix;

/// Tensors start at multiples of this: the largest page of the boards Tern is made for (16 KiB on a Raspberry Pi 5).
pub const ALIGNMENT_BYTES: u32 = 16 << 10;

/// Version of what the keys and types of a packed file mean, where every matrix has one scale.
pub const VERSION: u32 = 1;
/// The same where matrices have a scale for each row and group of columns.
pub const GROUPED_VERSION: u32 = 2;

/// Key of [`VERSION`]; a file that has it is packed.
pub const VERSION_KEY: &str = PACKED_KEY;
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
    let expected = if grouping(gguf)?.is_some() { GROUPED_VERSION } else { VERSION };
    if version != expected {
        return Err(PackError::Version { found: version });
    }
    let named = gguf.str(LAYOUT_KEY)?;
    match file_layout(gguf) {
        Some(layout) if layout.name() == named => Ok(Some(Packed { layout, source: gguf.str(SOURCE_KEY)? })),
        found => Err(PackError::Layout { named: named.to_owned(), found: found.map(Layout::name) }),
    }
}

/// Keys that a packed file has of its own, not from its source.
pub const KEYS: [&str; 5] = ["general.alignment", VERSION_KEY, LAYOUT_KEY, SOURCE_KEY, GROUP_KEY];

/// One tensor of the packed file.
struct Part<'a> {
    name: String,
    ty: TensorType,
    dims: Vec<u64>,
    content: Content<'a>,
}

/// Where the data of a tensor comes from.
enum Content<'a> {
    /// From the source as it is.
    Same(TensorInfo<'a>),
    /// From a ternary matrix of the source.
    Matrix(Rows<'a>),
    /// The scales of such a matrix.
    Scales(Rows<'a>),
    /// From the head of the source.
    Head(Source<'a>, Plane),
}

impl Recipe {
    fn parts<'a>(&self, gguf: &Gguf<'a>, workers: usize) -> Result<Vec<Part<'a>>, PackError> {
        let group = grouping(gguf)?;
        let mut parts: Vec<Part<'a>> = Vec::new();
        for info in gguf.tensors().filter(|info| !Plane::ALL.iter().any(|plane| plane.name() == info.name()))
        {
            let (name, dims) = (info.name().to_owned(), info.dims().to_vec());
            if !is_matrix(&info) {
                parts.push(Part { name, ty: info.ty(), dims, content: Content::Same(info) });
                continue;
            }
            let (rows, scales) = (Rows::new(gguf, &info, group)?, scales_name(info.name()));
            self.check_room(info.name(), rows.shape(), group)?;
            let content = Content::Matrix(rows);
            parts.push(Part { name, ty: TensorType::Packed(self.layout), dims, content });
            // A packed source has them beside its matrices already.
            let is_made = group.is_some() && !matches!(info.ty(), TensorType::Packed(_));
            if let Some(name) = scales.filter(|_| is_made) {
                let dims = vec![info.rows(), rows.scales() as u64];
                let name = name.as_str().to_owned();
                parts.push(Part { name, ty: TensorType::F16, dims, content: Content::Scales(rows) });
            }
        }
        if self.int8_head {
            let source = Source::new(gguf, workers)?;
            parts.extend(Plane::ALL.map(|plane| Part {
                name: plane.name().to_owned(),
                ty: plane.ty(),
                dims: source.dims(plane).to_vec(),
                content: Content::Head(source, plane),
            }));
        }
        Ok(parts)
    }

    fn header(&self, gguf: &Gguf<'_>, source: &str, parts: &[Part<'_>]) -> Result<Header, PackError> {
        let mut header = Header::aligned(ALIGNMENT_BYTES);
        for (key, value) in gguf.entries().filter(|(key, _)| !KEYS.contains(key)) {
            header.copy(key, &value);
        }
        let group = grouping(gguf)?;
        header.u32(VERSION_KEY, if group.is_some() { GROUPED_VERSION } else { VERSION });
        header.str(LAYOUT_KEY, self.layout.name()).str(SOURCE_KEY, source);
        if let Some(group) = group {
            header.u32(GROUP_KEY, group as u32);
        }
        for part in parts {
            header.tensor(&part.name, part.ty, &part.dims).map_err(PackError::Write)?;
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
        let mut matrix = PackedMatrix::default();
        stream::stream(header, parts.len(), out, wrote, |index, put| match &parts[index].content {
            Content::Same(info) => put(info.data()?),
            Content::Matrix(rows) => {
                self.pack(&mut matrix, rows, workers)?;
                put(&matrix.bytes)
            }
            Content::Scales(rows) => {
                // An attempt that goes on here has not packed the matrix in front.
                if matrix.scale_bytes().is_none() {
                    self.pack(&mut matrix, rows, workers)?;
                }
                put(&matrix.scale_bytes().unwrap_or_default())
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

    /// Packs a matrix that [`check_room`](Self::check_room) has found to fit.
    fn pack(&self, matrix: &mut PackedMatrix, rows: &Rows<'_>, workers: usize) -> Result<(), PackError> {
        let scale = rows.one_scale()?.unwrap_or(1.0);
        let read = |row, trits: &mut [i8], scales: &mut [f32]| rows.read(row, trits, scales);
        Ok(matrix.pack((self.layout, workers), rows.shape(), rows.group(), scale, &read)?)
    }

    /// Whether this layout has room for the matrix `tensor` of this shape, in groups of `group` columns if there are groups.
    ///
    /// # Errors
    /// If it has not.
    pub fn check_room(
        &self,
        tensor: &str,
        (rows, cols): (usize, usize),
        group: Option<usize>,
    ) -> Result<(), PackError> {
        let layout = self.layout;
        match (packed_bytes(layout, rows, cols, group), group) {
            (Ok(_), _) => Ok(()),
            (Err(_), None) => Err(PackError::Shape { tensor: tensor.to_owned(), rows, cols, layout }),
            (Err(error), Some(_)) => Err(error.into()),
        }
    }
}

/// Whether the model could be run from `gguf` as it is: its shape, its tokenizer's tables, every code and every scale.
fn check(gguf: &Gguf<'_>) -> Result<(), PackError> {
    let config = Config::read(gguf)?;
    Tokenizer::plan(gguf)?;
    look_at(gguf, config, |_| ())?;
    Ok(())
}

/// Checks the weights of `gguf` where they lie and hands them to `seen`.
///
/// # Errors
/// As [`Model::look_at`].
pub fn look_at<R>(
    gguf: &Gguf<'_>,
    config: Config,
    seen: impl FnOnce(&Model<'_>) -> R,
) -> Result<R, LoadError> {
    let mut memory = vec![0; rows_bytes(gguf, None)?.next_multiple_of(ALIGN) + ALIGN];
    Ok(seen(&Model::look_at(gguf, config, &mut Arena::new(&mut memory))?))
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
