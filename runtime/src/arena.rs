//! One block of memory, handed out once at start. After that the runtime allocates nothing.
//!
//! The caller gives the block (a `Vec` on Linux, a static array on bare metal) and [`Arena::take`] cuts typed slices
//! off its front, each aligned to a cache line. What a slice holds before its first write is unspecified but
//! initialised bytes. `docs/arena.md` lists the sections and how each is sized.

use bytemuck::Pod;

/// Alignment of every slice: a cache line on all supported machines, and the widest vector register.
pub const ALIGN: usize = 64;

/// The rest of the block.
#[derive(Debug)]
pub struct Arena<'a> {
    rest: &'a mut [u8],
}

/// The block is smaller than what was planned for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArenaError {
    /// Bytes that the slice needs, alignment included.
    pub needed_bytes: usize,
    /// Bytes left.
    pub left_bytes: usize,
}

impl core::fmt::Display for ArenaError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let Self { needed_bytes, left_bytes } = self;
        write!(
            f,
            "memory block too small: {needed_bytes} bytes needed, {left_bytes} left; give the planned total"
        )
    }
}

impl core::error::Error for ArenaError {}

/// Bytes that a slice of `len` values of `T` takes from an aligned arena, or `None` on overflow.
pub const fn slice_bytes<T>(len: usize) -> Option<usize> {
    match len.checked_mul(size_of::<T>()) {
        Some(bytes) => bytes.checked_next_multiple_of(ALIGN),
        None => None,
    }
}

impl<'a> Arena<'a> {
    /// An arena over `memory`; up to [`ALIGN`] - 1 bytes at its start are lost to alignment.
    pub fn new(memory: &'a mut [u8]) -> Self {
        let skip = memory.as_ptr().align_offset(ALIGN).min(memory.len());
        Arena { rest: &mut memory[skip..] }
    }

    /// Cuts off a slice of `len` values.
    ///
    /// # Errors
    /// If less than [`slice_bytes`] is left; the arena is then unchanged.
    pub fn take<T: Pod>(&mut self, len: usize) -> Result<&'a mut [T], ArenaError> {
        let left_bytes = self.rest.len();
        let needed_bytes = slice_bytes::<T>(len).unwrap_or(usize::MAX);
        if needed_bytes > left_bytes {
            return Err(ArenaError { needed_bytes, left_bytes });
        }
        if len == 0 {
            // What is left may be the empty end of a block that was too short to align.
            return Ok(&mut []);
        }
        let (slice, rest) = core::mem::take(&mut self.rest).split_at_mut(needed_bytes);
        self.rest = rest;
        Ok(bytemuck::cast_slice_mut(&mut slice[..len * size_of::<T>()]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_are_aligned_and_do_not_overlap() {
        let mut memory = [0u8; 1024];
        for offset in 0..ALIGN {
            let mut arena = Arena::new(&mut memory[offset..]);
            let a = arena.take::<u8>(3).expect("3 bytes fit");
            let b = arena.take::<f32>(16).expect("64 bytes fit");
            assert_eq!((a.len(), b.len()), (3, 16));
            assert!(a.as_ptr().addr().is_multiple_of(ALIGN) && b.as_ptr().addr().is_multiple_of(ALIGN));
            assert_eq!(b.as_ptr().addr() - a.as_ptr().addr(), ALIGN);
        }
    }

    #[test]
    fn nothing_can_be_taken_from_a_block_too_short_to_align() {
        let mut memory = [0u8; 2 * ALIGN];
        for offset in 0..ALIGN {
            let mut arena = Arena::new(&mut memory[offset..offset + 1]);
            assert_eq!(arena.take::<u64>(0), Ok(&mut [][..]));
            assert!(arena.take::<u64>(1).is_err());
        }
    }

    #[test]
    fn a_block_that_is_too_small_says_by_how_much() {
        let mut memory = [0u8; 256];
        let mut arena = Arena::new(&mut memory);
        arena.take::<u8>(64).expect("64 bytes fit");
        let error = arena.take::<u64>(32).expect_err("256 bytes do not fit");
        assert_eq!(error.needed_bytes, 256);
        assert!(error.left_bytes < 256);
        assert_eq!(slice_bytes::<u64>(usize::MAX), None);
    }
}
