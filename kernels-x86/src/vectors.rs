//! Byte vectors of a tier, behind methods that the ternary products share.
//!
//! A vector is two or four lanes of 16 bytes; every product here is written once, in lanes, and compiled for each tier.
//! Holding a value of a [`Vectors`] proves its features, so register-only methods are safe to call anywhere; they are
//! fast only when inlined into a function compiled for those features, which is why everything is `inline(always)`
//! and why no closure stands between. Loads and stores take addresses and are `unsafe`.
//!
//! The names follow the width of an element: `8` bytes, `32` double words. Words of 32 bits wrap around.

/// The integer vectors of a tier. A value exists only where the machine has its features.
pub(crate) trait Vectors: Copy {
    /// A vector of `16 * LANES` bytes.
    type V: Copy;

    /// Lanes of 16 bytes.
    const LANES: usize;
    /// Bytes of a vector.
    const BYTES: usize = 16 * Self::LANES;
    /// Double words of a vector.
    const WORDS: usize = 4 * Self::LANES;
    /// The most sums that stay in registers beside what a step needs.
    const SUMS: usize;
    /// Whether [`dot_code`](Self::dot_code) is one instruction; else four at once are faster.
    const DOT: bool;

    /// All zeros.
    fn zero(self) -> Self::V;
    /// `value` in every byte.
    fn splat8(self, value: u8) -> Self::V;
    /// `value` in every double word.
    fn splat32(self, value: i32) -> Self::V;
    /// The vector at `at`.
    ///
    /// # Safety
    /// 1. `BYTES` bytes at `at` are readable.
    unsafe fn load(self, at: *const u8) -> Self::V;
    /// Half a vector from `low` and half from `high`.
    ///
    /// # Safety
    /// 1. `BYTES / 2` bytes at either address are readable.
    unsafe fn load_halves(self, low: *const u8, high: *const u8) -> Self::V;
    /// Lane `i` is the 16 bytes at `at[i]`.
    ///
    /// # Safety
    /// 1. 16 bytes at each of the first `LANES` addresses are readable.
    unsafe fn load_lanes(self, at: [*const u8; 4]) -> Self::V;
    /// The 16 bytes at `at` in every lane.
    ///
    /// # Safety
    /// 1. 16 bytes at `at` are readable.
    unsafe fn repeat16(self, at: *const u8) -> Self::V;
    /// The 4 bytes at `at` in every double word.
    ///
    /// # Safety
    /// 1. 4 bytes at `at` are readable.
    unsafe fn repeat4(self, at: *const u8) -> Self::V;
    /// Writes `v` to `to`.
    ///
    /// # Safety
    /// 1. `BYTES` bytes at `to` are writable.
    unsafe fn store(self, to: *mut u8, v: Self::V);

    /// `a + b` of bytes.
    fn add8(self, a: Self::V, b: Self::V) -> Self::V;
    /// `3 a` of bytes, by two additions. The compiler must not see through it: it would turn the powers of three that a
    /// chain of these is into multiplications of words, at several times the cost.
    fn triple8(self, a: Self::V) -> Self::V;
    /// `a + b` of double words.
    fn add32(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a - b` of double words.
    fn sub32(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a / 2^N` of signed double words, rounded down.
    fn shift32<const N: u32>(self, a: Self::V) -> Self::V;
    /// `a 2^N` of double words, wrapping.
    fn up32<const N: u32>(self, a: Self::V) -> Self::V;
    /// `a & b`.
    fn and(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a ^ b`.
    fn xor(self, a: Self::V, b: Self::V) -> Self::V;
    /// `(a >> by) & mask` of bytes, for `mask` in every byte without the bits that come from a neighbour.
    fn field(self, a: Self::V, by: usize, mask: u8) -> Self::V;
    /// The leading weight plus one of bytes of five weights (see [`tern_kernels::five`]), read as signed fractions: 0 up
    /// to -43, 1 up to 42, 2 beyond.
    fn five_code(self, q: Self::V) -> Self::V;
    /// `table[a]` of bytes, for `a` below 16 and the same 16 bytes of `table` in every lane.
    fn lookup(self, table: Self::V, a: Self::V) -> Self::V;

    /// Within each lane, the lower and the upper halves of `a` and `b` alternating by `8 SIZE` bits: `a0 b0 a1 b1`.
    fn zip<const SIZE: usize>(self, a: Self::V, b: Self::V) -> (Self::V, Self::V);
    /// The even and the odd lanes of both: lanes 0, 2 of `a`, then of `b`; lanes 1, 3 of `a`, then of `b`.
    fn unzip_lanes(self, a: Self::V, b: Self::V) -> (Self::V, Self::V);
    /// `out[i]` is `table[index[i]]` of double words, if `index[i]` is below `WORDS`.
    fn permute32(self, table: Self::V, index: Self::V) -> Self::V;
    /// `b` where double words of `mask` have their top bit set, else `a`.
    fn choose32(self, mask: Self::V, a: Self::V, b: Self::V) -> Self::V;

    /// Double words of `sum` plus, for each, the four products of bytes of `codes` (0 to 3) and `q` (signed).
    fn dot_code(self, sum: Self::V, codes: Self::V, q: Self::V) -> Self::V;
    /// [`dot_code`](Self::dot_code) over four pairs of vectors.
    fn dot_codes(self, sum: Self::V, codes: [Self::V; 4], q: [Self::V; 4]) -> Self::V;
}

/// Binary32 in the double words of a vector, a row each, for what becomes of sums.
pub(crate) trait Scale: Vectors {
    /// The values of `WORDS` binary16 numbers at `at`.
    ///
    /// # Safety
    /// 1. `WORDS` numbers at `at` are readable.
    unsafe fn load_halves_wide(self, at: *const u16) -> Self::V;
    /// `values + sums (scales factor)`, every step rounded by itself; `sums` are integers, the rest binary32.
    fn add_scaled(self, values: Self::V, sums: Self::V, scales: Self::V, factor: Self::V) -> Self::V;
    /// Lane by lane, the double words 0, a0, a1, a2.
    fn later32(self, a: Self::V) -> Self::V;
    /// Lane by lane, the double words a1, a2, a3, b0.
    fn earlier32(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a / 2^by` of signed double words, rounded down, each by its own number.
    fn shift_each32(self, a: Self::V, by: Self::V) -> Self::V;
}

/// Vectors with an instruction that multiplies any unsigned byte with any signed one and adds four products exactly.
pub(crate) trait Dot: Vectors {
    /// Double words of `sum` plus, for each, the four products of bytes of `u` (unsigned) and `q` (signed), wrapping.
    fn dot(self, sum: Self::V, u: Self::V, q: Self::V) -> Self::V;
}

/// Lane by lane, the 4 x 4 matrix of double words whose rows are `v`, transposed.
#[inline(always)]
pub(crate) fn transpose4<B: Vectors>(b: B, v: [B::V; 4]) -> [B::V; 4] {
    let (low01, high01) = b.zip::<4>(v[0], v[1]);
    let (low23, high23) = b.zip::<4>(v[2], v[3]);
    let (w0, w1) = b.zip::<8>(low01, low23);
    let (w2, w3) = b.zip::<8>(high01, high23);
    [w0, w1, w2, w3]
}

/// Double word `j` of a lane is the sum of the four of `v[j]` in that lane.
#[inline(always)]
pub(crate) fn sum4<B: Vectors>(b: B, v: [B::V; 4]) -> B::V {
    let (low01, high01) = b.zip::<4>(v[0], v[1]);
    let (low23, high23) = b.zip::<4>(v[2], v[3]);
    let (half01, half23) = (b.add32(low01, high01), b.add32(low23, high23));
    let (even, odd) = b.zip::<8>(half01, half23);
    b.add32(even, odd)
}

/// The most double words that a vector has.
pub(crate) const MOST_WORDS: usize = 16;

/// The double words of `v`, zeros behind them.
#[inline(always)]
pub(crate) fn words<B: Vectors>(b: B, v: B::V) -> [i32; MOST_WORDS] {
    let mut words = [0; MOST_WORDS];
    // SAFETY: a vector has at most MOST_WORDS double words.
    unsafe { b.store(words.as_mut_ptr().cast(), v) };
    words
}
