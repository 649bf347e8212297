//! Seeded data, unaligned buffers and comparisons by bits.

/// A seeded generator (splitmix64, Steele et al. 2014), so that a failure repeats.
pub struct Random(pub u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// Packed codes, 0 to 2 in every field.
    pub fn codes(&mut self, bytes: usize) -> Vec<u8> {
        (0..bytes)
            .map(|_| {
                let bits = self.next();
                (0..4).fold(0, |b, field| b << 2 | ((bits >> (8 * field)) % 3) as u8)
            })
            .collect()
    }

    /// Any `i8`.
    pub fn activations(&mut self, count: usize) -> Vec<i8> {
        (0..count).map(|_| self.next() as i8).collect()
    }

    /// Floats of a kind: 0 near one, 1 wide in exponent, 2 subnormal, 3 with NaN and infinities, 4 zeros of both signs.
    pub fn floats(&mut self, count: usize, kind: usize) -> Vec<f32> {
        (0..count)
            .map(|_| {
                let bits = self.next() as u32;
                match kind {
                    0 => (bits as i32) as f32 / 2.0f32.powi(30),
                    1 => f32::from_bits(bits & 0x807f_ffff | (64 + bits % 127) << 23),
                    2 => f32::from_bits(bits & 0x807f_ffff),
                    3 => match bits % 16 {
                        0 => f32::NAN,
                        1 => f32::INFINITY,
                        2 => f32::NEG_INFINITY,
                        _ => (bits as i32) as f32 / 2.0f32.powi(28),
                    },
                    _ => f32::from_bits(bits & 0x8000_0000),
                }
            })
            .collect()
    }

    /// The same kinds as binary16 bits.
    pub fn halves(&mut self, count: usize, kind: usize) -> Vec<u16> {
        (0..count)
            .map(|_| {
                let bits = self.next() as u16;
                match kind {
                    0 => bits & 0x83ff | 0x3800,
                    1 => bits & 0xbfff,
                    2 => bits & 0x83ff,
                    3 => bits,
                    _ => bits & 0x8000,
                }
            })
            .collect()
    }
}

/// Bytes at a chosen distance from a 64-byte boundary.
pub struct Padded {
    room: Vec<u8>,
    from: usize,
    length: usize,
}

impl Padded {
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.room[self.from..self.from + self.length]
    }
}

/// A buffer of `length` bytes that begins `offset` bytes behind a 64-byte boundary.
pub fn padded(length: usize, offset: usize) -> Padded {
    let room = vec![0; length + 128];
    let from = room.as_ptr().align_offset(64) + offset;
    Padded { room, from, length }
}

/// Bytes that end where memory does: the page behind them may not be touched, and neither may the page before the one
/// in which they begin.
pub struct Fenced {
    pages: *mut u8,
    mapped: usize,
    length: usize,
}

/// A whole number of pages on any x86-64.
const PAGE: usize = 4096;

impl Fenced {
    /// `length` bytes, zeros at first.
    pub fn new(length: usize) -> Self {
        use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap_anonymous, mprotect};
        let mapped = length.next_multiple_of(PAGE) + 2 * PAGE;
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping that the kernel places, of which the first and last page lie within.
        let pages = unsafe {
            let pages = mmap_anonymous(core::ptr::null_mut(), mapped, access, MapFlags::PRIVATE)
                .expect("a few pages are free");
            mprotect(pages, PAGE, MprotectFlags::empty()).expect("the first page was mapped");
            mprotect(pages.byte_add(mapped - PAGE), PAGE, MprotectFlags::empty())
                .expect("the last page was mapped");
            pages
        };
        Fenced { pages: pages.cast(), mapped, length }
    }

    pub fn bytes_mut(&mut self) -> &mut [u8] {
        let start = self.mapped - PAGE - self.length;
        // SAFETY: mapped, readable, writable and zeroed by `new`, and borrowed from `self` alone.
        unsafe { core::slice::from_raw_parts_mut(self.pages.add(start), self.length) }
    }

    /// The same memory as numbers, of which it holds a whole number.
    pub fn as_mut<T: Number>(&mut self) -> &mut [T] {
        // SAFETY: any bits are a number.
        let (before, numbers, behind) = unsafe { self.bytes_mut().align_to_mut() };
        assert!(before.is_empty() && behind.is_empty(), "a whole number of numbers");
        numbers
    }
}

impl Drop for Fenced {
    fn drop(&mut self) {
        // SAFETY: mapped by `new` with this length; no borrow outlives `self`.
        unsafe { rustix::mm::munmap(self.pages.cast(), self.mapped).expect("it was mapped") };
    }
}

/// Types of which any bits are a value.
pub trait Number {}
impl Number for f32 {}
impl Number for i32 {}
impl Number for u16 {}
impl Number for u64 {}

/// The bits of a float, one pattern for every NaN: which payload survives is not promised.
pub fn bits(v: f32) -> u32 {
    if v.is_nan() { f32::NAN.to_bits() } else { v.to_bits() }
}

/// Both slices hold the same bits.
pub fn same_floats(found: &[f32], expected: &[f32], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (i, (f, e)) in found.iter().zip(expected).enumerate() {
        assert_eq!(bits(*f), bits(*e), "{what}: index {i} is {f:e}, not {e:e}");
    }
}
