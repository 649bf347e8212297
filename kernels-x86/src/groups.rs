//! Where a walk over groups of columns finds things: what the products in groups for few tokens have in common.

use tern_kernels::GroupedTile;
use tern_kernels::reference::PLAIN_HEADER;

use crate::tiles::AHEAD_BYTES;

/// Walks a [`GroupedTile`] by addresses: a group is over too soon for checks and multiplications.
#[derive(Clone, Copy)]
pub(crate) struct Walk<'a> {
    tile: GroupedTile<'a>,
    /// The first of the tokens that are met.
    token: usize,
    /// Bytes of a digit of a token.
    token_bytes: usize,
    /// Where a group begins.
    weights: *const u8,
    scales: *const u16,
    prepared: *const u8,
    factors: *const f32,
}

impl<'a> Walk<'a> {
    /// From the first group on, with tokens from `token` on.
    #[inline(always)]
    pub(crate) fn new(tile: GroupedTile<'a>, token: usize) -> Self {
        let plain = tile.group(0);
        Walk {
            tile,
            token,
            token_bytes: plain.prepared.len() / plain.tokens,
            weights: tile.weights.as_ptr(),
            scales: tile.scales.as_ptr(),
            prepared: tile.prepared.as_ptr(),
            factors: tile.factors.as_ptr(),
        }
    }

    /// On to the next group.
    #[inline(always)]
    pub(crate) fn next(&mut self) {
        self.weights = self.weights.wrapping_add(self.tile.weights_stride);
        self.scales = self.scales.wrapping_add(self.tile.scales_stride);
        self.prepared = self.prepared.wrapping_add(self.tile.prepared_stride);
        self.factors = self.factors.wrapping_add(self.tile.digits);
    }

    /// The codes of the group.
    #[inline(always)]
    pub(crate) fn weights(&self) -> *const u8 {
        self.weights
    }

    /// The activations of digit `digit` of `T` tokens, with their sum in front, see [`token_sum`].
    #[inline(always)]
    pub(crate) fn activations<const T: usize>(&self, digit: usize) -> [*const u8; T] {
        let mut q = [self.prepared; T];
        for (t, q) in q.iter_mut().enumerate() {
            let place = (self.token + t) * self.tile.digits + digit;
            *q = q.wrapping_add(place * self.token_bytes + PLAIN_HEADER);
        }
        q
    }

    /// Where the factor of digit `digit` of token `t` is, counted from the first that is met.
    #[inline(always)]
    pub(crate) fn factor(&self, t: usize, digit: usize) -> *const u8 {
        let place = (self.token + t) * self.tile.groups * self.tile.digits + digit;
        self.factors.wrapping_add(place).cast()
    }

    /// The scales of rows from `row` on: at least `most` of them, copied to `room` with zeros behind where there are fewer.
    ///
    /// # Safety
    /// 1. The group is one of the tile's, and `row` one of its rows.
    #[inline(always)]
    pub(crate) unsafe fn scales(&self, row: usize, most: usize, room: &mut Room) -> *const u16 {
        let (at, left) = (self.scales.wrapping_add(row), self.tile.rows - row);
        if left < most {
            // SAFETY: as many scales are left in the group (1).
            unsafe { padded(at, left, room) }
        } else {
            at
        }
    }
}

/// Room for the scales of rows that are fewer than a vector has.
pub(crate) type Room = [u16; 32];

/// Copies `left` scales; apart from the walk, which comes by here once a group.
///
/// # Safety
/// 1. `left` scales, fewer than `room` has, are readable at `at`.
#[cold]
#[inline(never)]
unsafe fn padded(at: *const u16, left: usize, room: &mut Room) -> *const u16 {
    *room = [0; 32];
    for (i, to) in room.iter_mut().enumerate().take(left) {
        // SAFETY: one of those (1).
        *to = unsafe { at.add(i).read_unaligned() };
    }
    room.as_ptr()
}

/// How many groups before their use codes are asked for, of which a block of rows has `block_bytes` in a group.
#[inline(always)]
pub(crate) fn groups_ahead(block_bytes: usize) -> usize {
    AHEAD_BYTES.div_ceil(block_bytes.max(1))
}

/// Where the sum of the activations at `q` is.
#[inline(always)]
pub(crate) fn token_sum(q: *const u8) -> *const u8 {
    q.wrapping_sub(PLAIN_HEADER)
}
