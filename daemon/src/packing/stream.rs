//! Writing the tensors of a packed file one after the other, from the first that an earlier attempt did not finish.

use std::io::{self, Write};

use tern_runtime::gguf::Header;

use super::{PackError, fnv1a};

/// Takes the next bytes of a tensor.
pub type Put<'p> = dyn FnMut(&[u8]) -> Result<(), PackError> + 'p;

/// Where a packed file goes.
pub trait Output: Write {
    /// Tensors that are there already, with the header in front of them; the output stands behind them.
    fn tensors_done(&self) -> usize {
        0
    }

    /// Told when the first `tensors` tensors have been written whole.
    ///
    /// # Errors
    /// If that cannot be remembered.
    fn tensor_done(&mut self, tensors: usize) -> io::Result<()> {
        let _ = tensors;
        Ok(())
    }
}

impl Output for Vec<u8> {}

/// Writes `header` and `tensors` tensors to `out` and tells `wrote` how many bytes of data each piece had; what an earlier
/// attempt has done counts as the first piece. `fill(index, put)` makes the data of a tensor.
///
/// # Errors
/// Those of `fill` and `out`.
pub fn stream<W: Output>(
    header: Header,
    tensors: usize,
    out: W,
    mut wrote: impl FnMut(u64),
    mut fill: impl FnMut(usize, &mut Put<'_>) -> Result<(), PackError>,
) -> Result<W, PackError> {
    let done = out.tensors_done().min(tensors);
    let mut data = if done == 0 {
        header.begin(out).map_err(PackError::Write)?
    } else {
        wrote(header.tensor_at_bytes(done));
        header.resume(out, done)
    };
    for index in done..tensors {
        fill(index, &mut |bytes| {
            for piece in bytes.chunks(1 << 20) {
                data.write(piece).map_err(PackError::Write)?;
                wrote(piece.len() as u64);
            }
            Ok(())
        })?;
        data.out_mut().tensor_done(index + 1).map_err(PackError::Write)?;
    }
    data.finish().map_err(PackError::Write)
}

/// A text that tells what `header` describes, and by which version of this program, from anything else.
pub fn identity(header: &Header) -> String {
    let version = env!("CARGO_PKG_VERSION");
    format!("tern {version}, {} bytes, header {:016x}", header.file_bytes(), fnv1a(&header.bytes()))
}
