//! Taking a packed model apart again and comparing it with its source, weight by weight.

use std::fmt;
use std::ops::Range;
use std::thread;

use tern_runtime::error::LoadError;
use tern_runtime::gguf::{Gguf, TensorInfo};
use tern_runtime::model::loading::scales_name;
use tern_runtime::model::ternary::is_matrix;
use tern_runtime::model::{Rows, grouping};

use super::head::{Plane, Source};
use super::{KEYS, PackError, packed};

/// What was compared and found equal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// Ternary matrices, each with its scale.
    pub matrices: usize,
    /// Their weights.
    pub weights: u64,
    /// Other tensors, byte by byte.
    pub tensors: usize,
    /// Rows of an int8 head, made again from the source and compared.
    pub head_rows: u64,
    /// Keys and their values.
    pub keys: usize,
}

/// The first difference between a packed file and its source.
#[derive(Debug)]
pub enum Difference {
    /// One of the two cannot be read.
    Unreadable(PackError),
    /// The file is not packed.
    NotPacked,
    /// A key is missing or has another value.
    Key(String),
    /// A tensor is missing, or has another type, shape or bytes.
    Tensor(String),
    /// A weight differs.
    Weight {
        /// The tensor.
        tensor: String,
        /// Row of the weight.
        row: usize,
        /// Column of the weight.
        col: usize,
    },
    /// A scale differs.
    Scale(String),
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Difference::Unreadable(error) => write!(f, "{error}"),
            Difference::NotPacked => f.write_str("it is not a packed file"),
            Difference::Key(key) => write!(f, "key '{key}' is not as in the source"),
            Difference::Tensor(tensor) => write!(f, "tensor '{tensor}' is not as in the source"),
            Difference::Weight { tensor, row, col } => {
                write!(f, "the weight in row {row}, column {col} of '{tensor}' is not that of the source")
            }
            Difference::Scale(tensor) => write!(f, "the scale of '{tensor}' is not that of the source"),
        }
    }
}

impl std::error::Error for Difference {}

/// Compares every weight, every other tensor and every key of `copy` with `source`; tells `read` the bytes of each
/// tensor when it is done.
///
/// # Errors
/// The first [`Difference`].
pub fn verify(source: &Gguf<'_>, copy: &Gguf<'_>, mut read: impl FnMut(u64)) -> Result<Verified, Difference> {
    packed(copy).map_err(Difference::Unreadable)?.ok_or(Difference::NotPacked)?;
    let mut verified = Verified::default();
    for (key, value) in source.entries().filter(|(key, _)| !KEYS.contains(key)) {
        // Bit patterns, so that a NaN equals itself.
        if copy.value(key).is_none_or(|found| format!("{found:?}") != format!("{value:?}")) {
            return Err(Difference::Key(key.to_owned()));
        }
        verified.keys += 1;
    }
    let is_head = |info: &TensorInfo<'_>| Plane::ALL.iter().any(|plane| plane.name() == info.name());
    // The scales of groups are compared with their matrix, from wherever they are in either file.
    let is_scales = |info: &TensorInfo<'_>| info.name().ends_with(".scales");
    let originals: Vec<_> = source.tensors().filter(|info| !is_head(info) && !is_scales(info)).collect();
    let (heads, founds): (Vec<_>, Vec<_>) = copy.tensors().filter(|info| !is_scales(info)).partition(is_head);
    if originals.len() != founds.len() || !(heads.is_empty() || heads.len() == Plane::ALL.len()) {
        return Err(Difference::Tensor("(one of them)".to_owned()));
    }
    let groupings = [source, copy].map(grouping);
    let [Ok(group), Ok(found_group)] = groupings else {
        let error = groupings.into_iter().find_map(Result::err).expect("one of them is an error");
        return Err(Difference::Unreadable(error.into()));
    };
    for (original, found) in originals.into_iter().zip(founds) {
        let name = || original.name().to_owned();
        if original.name() != found.name() || original.dims() != found.dims() {
            return Err(Difference::Tensor(name()));
        }
        if is_matrix(&original) && is_matrix(&found) {
            let rows = |gguf, info, group| {
                Rows::new(gguf, info, group).map_err(|error| Difference::Unreadable(error.into()))
            };
            let (a, b) = (rows(source, &original, group)?, rows(copy, &found, found_group)?);
            compare_matrix(&a, &b, original.name())?;
            verified.matrices += 1;
            verified.weights += original.elements();
            let scales = scales_name(found.name()).and_then(|name| copy.tensor(&name));
            read(scales.and_then(|info| info.nbytes()).unwrap_or(0));
        } else {
            let same_bytes = matches!((original.data(), found.data()), (Ok(a), Ok(b)) if a == b);
            if original.ty() != found.ty() || !same_bytes {
                return Err(Difference::Tensor(name()));
            }
            verified.tensors += 1;
        }
        read(found.nbytes().unwrap_or(0));
    }
    for (plane, found) in Plane::ALL.into_iter().zip(&heads) {
        verified.head_rows = compare_head(source, plane, found).map_err(Difference::Unreadable)?;
        read(found.nbytes().unwrap_or(0));
    }
    Ok(verified)
}

/// Makes `plane` again from the head of `source` and compares; its rows, or an error that names the tensor.
fn compare_head(source: &Gguf<'_>, plane: Plane, found: &TensorInfo<'_>) -> Result<u64, PackError> {
    let differs = || PackError::Head { tensor: found.name().to_owned() };
    let head = Source::new(source, thread::available_parallelism().map_or(1, usize::from))?;
    if found.name() != plane.name() || found.ty() != plane.ty() || found.dims() != head.dims(plane) {
        return Err(differs());
    }
    compare_plane(&head, plane, found)
}

/// Makes `plane` again from `head` and compares its bytes; its rows.
///
/// # Errors
/// If they differ or the head cannot be read.
pub fn compare_plane(head: &Source<'_>, plane: Plane, found: &TensorInfo<'_>) -> Result<u64, PackError> {
    let differs = || PackError::Head { tensor: found.name().to_owned() };
    let mut rest = found.data()?;
    head.fill(plane, &mut |bytes| {
        let (these, others) = rest.split_at_checked(bytes.len()).ok_or_else(differs)?;
        rest = others;
        if these == bytes { Ok(()) } else { Err(differs()) }
    })?;
    if rest.is_empty() { Ok(head.rows()) } else { Err(differs()) }
}

/// Compares every weight and every scale of two matrices, a few rows a thread.
fn compare_matrix(original: &Rows<'_>, found: &Rows<'_>, name: &str) -> Result<(), Difference> {
    let unreadable = |error: LoadError| Difference::Unreadable(error.into());
    let scale_differs = || Difference::Scale(name.to_owned());
    if original.scales() != found.scales() {
        return Err(scale_differs());
    }
    let one = |rows: &Rows<'_>| rows.one_scale().map(|scale| scale.map(f32::to_bits)).map_err(unreadable);
    let (rows, cols) = original.shape();
    let compare = |range: Range<usize>| {
        let (mut a, mut b) = (vec![0i8; cols], vec![0i8; cols]);
        let (mut a_scales, mut b_scales) = (vec![0f32; found.scales()], vec![0f32; found.scales()]);
        for row in range {
            original.read(row, &mut a, &mut a_scales).map_err(unreadable)?;
            found.read(row, &mut b, &mut b_scales).map_err(unreadable)?;
            if let Some(col) = a.iter().zip(&b).position(|(a, b)| a != b) {
                return Err(Difference::Weight { tensor: name.to_owned(), row, col });
            }
            if a_scales.iter().zip(&b_scales).any(|(a, b)| a.to_bits() != b.to_bits()) {
                return Err(scale_differs());
            }
        }
        Ok(())
    };
    let compare = &compare;
    let workers = thread::available_parallelism().map_or(1, usize::from);
    // Whole panels of every layout, so that each is checked once.
    let each = rows.div_ceil(workers).next_multiple_of(160);
    thread::scope(|scope| {
        let starts = (0..rows).step_by(each);
        let threads: Vec<_> =
            starts.map(|first| scope.spawn(move || compare(first..rows.min(first + each)))).collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("comparing does not panic"))
    })?;
    if one(original)? == one(found)? { Ok(()) } else { Err(scale_differs()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aligned::Aligned;
    use crate::packing::Recipe;
    use tern_kernels::Layout;

    static TINY: &Aligned<[u8]> =
        &Aligned(*include_bytes!("../../../tests/fixtures/oracle/gguf/tiny-i2_s.gguf"));

    /// The difference that is found after `change` was made to the packed file.
    fn difference(change: impl Fn(&Gguf<'_>, &mut [u8])) -> Difference {
        let source = Gguf::parse(&TINY.0).expect("a sound file");
        let recipe = Recipe { layout: Layout::T5R, int8_head: true };
        let copy = recipe.write(&source, "here", 2, Vec::new(), |_| ()).expect("it can be packed");
        let mut changed = copy.clone();
        let parsed = Gguf::parse(&copy).expect("what we write");
        verify(&source, &parsed, |_| ()).expect("nothing was changed yet");
        change(&parsed, &mut changed);
        let changed = Gguf::parse(&changed).expect("still a file");
        verify(&source, &changed, |_| ()).expect_err("something was changed")
    }

    /// Where the data of a tensor starts in the file.
    fn at(gguf: &Gguf<'_>, name: &str) -> usize {
        (gguf.data_at_bytes() + gguf.require(name).expect("it is there").offset_bytes()) as usize
    }

    #[test]
    fn a_changed_weight_scale_value_or_key_is_found_and_named() {
        let name = "blk.1.ffn_down.weight";
        let found = difference(|gguf, file| {
            // Row 0 of column 3 changes whatever it was: the byte of five other weights.
            let byte = &mut file[at(gguf, name) + 3];
            let old = tern_kernels::five::decode(*byte);
            *byte =
                tern_kernels::five::encode([if old[0] == 0 { 1 } else { 0 }, old[1], old[2], old[3], old[4]]);
        });
        assert!(matches!(&found, Difference::Weight { tensor, row: 0, col: 3 } if tensor == name), "{found}");
        let found = difference(|gguf, file| {
            let info = gguf.require(name).expect("it is there");
            let codes = Layout::T5R.bytes(info.rows() as usize, info.row_len() as usize).expect("it fits");
            file[at(gguf, name) + codes] ^= 1;
        });
        assert!(matches!(&found, Difference::Scale(tensor) if tensor == name), "{found}");
        for plane in Plane::ALL {
            let found = difference(|gguf, file| file[at(gguf, plane.name()) + 8] ^= 1);
            assert!(found.to_string().contains(plane.name()), "{found}");
        }
        let found = difference(|gguf, file| file[at(gguf, "output_norm.weight")] ^= 1);
        assert!(matches!(&found, Difference::Tensor(tensor) if tensor == "output_norm.weight"), "{found}");
        let found = difference(|_, file| {
            let key = b"bitnet-b1.58.rope.freq_base";
            let place = file.windows(key.len()).position(|window| window == key).expect("it is there");
            file[place + key.len() + 4] ^= 1;
        });
        assert!(matches!(&found, Difference::Key(key) if key.ends_with("freq_base")), "{found}");
    }
}
