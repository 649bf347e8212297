//! Five ternary weights in one byte: 1.6 bits a weight, 1 % above the entropy of a trit.
//!
//! Read the byte as a signed number `q0` and triple it again and again, keeping eight bits: `q(k+1) = 3 q(k)` with
//! wrap-around. What wraps is the next weight: `3 q(k) = 256 w(k) + q(k+1)`, with every `q` in -128..=127 and `w(k)` in
//! {-1, 0, +1}. So a byte is a fraction in balanced base 3, `q0 = round(256 v / 243)` for `v = sum 3^(4-k) w(k)`, and
//! digits come out by additions alone.
//!
//! The identity is linear, hence it holds for dot products too: with `F(k) = sum q(k) a` over a row of bytes,
//! `sum w(k) a = (3 F(k) - F(k+1)) / 256` exactly, so that five rows need six products and no digit at all.
//!
//! With the top bit flipped the same byte is an unsigned fraction: `u(k) = q(k) + 128` obeys `3 u(k) = 256 t(k) +
//! u(k+1)` with `t(k) = w(k) + 1` in {0, 1, 2}, for machines that multiply unsigned by signed bytes. Base-3 packing of
//! weights is known from the TQ1_0 type of ggml; the balanced form and the linear identity are ours.

/// Weights in a byte.
pub const WEIGHTS: usize = 5;

/// The byte of five zeros.
pub const ZERO: u8 = 0;

/// The byte of `weights`, each -1, 0 or +1, the first the most significant.
///
/// # Panics
/// If a weight is not ternary: packing is only ever asked for weights that were made ternary before.
pub const fn encode(weights: [i8; WEIGHTS]) -> u8 {
    let mut value = 0i32;
    let mut k = 0;
    while k < WEIGHTS {
        assert!(weights[k] >= -1 && weights[k] <= 1, "a ternary weight is -1, 0 or +1");
        value = 3 * value + weights[k] as i32;
        k += 1;
    }
    // Rounded to the nearest; 256 v / 243 is never half way, as 243 is odd and shares no factor with 512.
    let scaled = 256 * value;
    let q = if scaled < 0 { (scaled - 121) / 243 } else { (scaled + 121) / 243 };
    q as u8
}

/// The weights that a byte stands for. Bytes that [`encode`] never writes decode to something, see [`is_valid`].
#[inline(always)]
pub const fn decode(byte: u8) -> [i8; WEIGHTS] {
    let (mut q, mut weights, mut k) = (byte as i8, [0; WEIGHTS], 0);
    while k < WEIGHTS {
        let tripled = 3 * q as i16;
        q = tripled as i8;
        weights[k] = ((tripled - q as i16) >> 8) as i8;
        k += 1;
    }
    weights
}

/// Whether [`encode`] writes this byte: 243 of 256 are.
pub const fn is_valid(byte: u8) -> bool {
    encode(decode(byte)) == byte
}

/// Index of the first byte that [`encode`] never writes, if there is one.
pub fn first_invalid(packed: &[u8]) -> Option<usize> {
    const VALID: [bool; 256] = {
        let (mut valid, mut byte) = ([false; 256], 0);
        while byte < 256 {
            valid[byte] = is_valid(byte as u8);
            byte += 1;
        }
        valid
    };
    packed.iter().position(|byte| !VALID[usize::from(*byte)])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> impl Iterator<Item = [i8; WEIGHTS]> {
        (0..243u32).map(|n| core::array::from_fn(|k| (n / 3u32.pow(4 - k as u32) % 3) as i8 - 1))
    }

    #[test]
    fn every_five_weights_come_back_and_bytes_differ() {
        let mut seen = [false; 256];
        for weights in all() {
            let byte = encode(weights);
            assert_eq!(decode(byte), weights);
            assert!(is_valid(byte) && !seen[usize::from(byte)], "{weights:?}");
            seen[usize::from(byte)] = true;
        }
        assert_eq!((0..=255).filter(|byte| is_valid(*byte)).count(), 243);
        assert_eq!(encode([0; 5]), ZERO);
    }

    #[test]
    fn the_unsigned_fraction_has_the_weights_plus_one() {
        for weights in all() {
            let mut u = encode(weights) ^ 0x80;
            for weight in weights {
                let tripled = 3 * u32::from(u);
                assert_eq!((tripled >> 8) as i8 - 1, weight);
                u = tripled as u8;
            }
        }
    }

    #[test]
    fn products_of_fractions_give_products_of_weights() {
        // One row of 243 bytes, all of them, against activations of every size.
        let (mut products, mut expected) = ([0i32; 6], [0i32; 5]);
        for (c, weights) in all().enumerate() {
            let (a, mut q) = ((c * 73 % 256) as u8 as i8 as i32, encode(weights) as i8);
            for product in &mut products {
                *product += a * i32::from(q);
                q = q.wrapping_mul(3);
            }
            for (sum, w) in expected.iter_mut().zip(weights) {
                *sum += a * i32::from(w);
            }
        }
        for k in 0..5 {
            let scaled = 3 * products[k] - products[k + 1];
            assert_eq!((scaled % 256, scaled >> 8), (0, expected[k]));
        }
    }

    #[test]
    fn the_first_invalid_byte_is_found() {
        let bad = (0..=255).find(|byte| !is_valid(*byte)).unwrap();
        assert_eq!(first_invalid(&[0, 1, bad, bad]), Some(2));
        assert_eq!(first_invalid(&[encode([1, -1, 0, 1, 1]); 9]), None);
    }
}
