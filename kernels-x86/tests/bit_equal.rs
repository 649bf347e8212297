//! Every operation of every set that this machine can run returns the bits of the scalar oracle.

mod support;

use support::{Fenced, Random, bits, padded, same_floats};
use tern_kernels::layout::MAX_COLS;
use tern_kernels::reference::SCALARS;
use tern_kernels::{GroupedTile, KernelSet, Layout, SCALAR, pack};

/// Shapes whose rows and columns hit every edge: tiles of four rows, pairs of blocks, ten blocks between widenings, blocks of
/// a strip.
const COLS: [usize; 7] = [128, 2 * 128, 3 * 128, 5 * 128, 13 * 128, 20 * 128, 54 * 128];
const GUARD: i32 = 0x5a5a_5a5a;

/// The sets under test. An x86-64 without AVX2 has none, and says so rather than passing silently.
fn sets() -> Vec<&'static KernelSet> {
    let sets: Vec<_> = tern_kernels_x86::all().collect();
    if sets.is_empty() {
        println!("skipped: this machine has no AVX2");
    }
    sets
}

/// The scalar set for `layout`.
fn oracle(layout: Layout) -> &'static KernelSet {
    SCALARS.into_iter().find(|set| set.layout == layout).expect("every layout has one")
}

/// Sums of `set` for packed `weights` and `q: [tokens, cols]`, with every buffer `offset` bytes off its alignment.
fn sums(set: &KernelSet, weights: &[u8], rows: usize, cols: usize, q: &[i8], offset: usize) -> Vec<i32> {
    let tokens = q.len() / cols;
    let mut weight_room = padded(weights.len(), offset);
    let weight_place = weight_room.bytes_mut();
    weight_place.copy_from_slice(weights);
    let stride = set.prepared_bytes(cols);
    let mut prepared_room = padded(tokens * stride, offset);
    let prepared = prepared_room.bytes_mut();
    prepared.fill(0xee);
    for (q, p) in q.chunks_exact(cols).zip(prepared.chunks_exact_mut(stride)) {
        set.prepare(q, p);
    }
    let mut out = vec![GUARD; tokens * rows + 16];
    let mut scratch = vec![0; set.scratch_words(rows, cols, tokens)];
    set.multiply(weight_place, rows, cols, prepared, tokens, &mut scratch, &mut out[8..8 + tokens * rows]);
    let (before, rest) = out.split_at(8);
    let (sums, behind) = rest.split_at(tokens * rows);
    assert!(before.iter().chain(behind).all(|v| *v == GUARD), "{} wrote outside {rows} x {tokens}", set.name);
    sums.to_vec()
}

/// The weights of `rows` packed in the oracle's layout, packed in that of `set`.
fn repacked(set: &KernelSet, weights: &[u8], rows: usize, cols: usize) -> Vec<u8> {
    let mut packed = vec![0; set.layout.bytes(rows, cols).expect("a shape of whole blocks")];
    pack::repack(SCALAR.layout, weights, set.layout, rows, cols, &mut packed);
    packed
}

/// The sums of `set` are those of the oracle, for weights in the oracle's layout.
fn check(set: &KernelSet, what: &str, weights: &[u8], rows: usize, cols: usize, q: &[i8], offset: usize) {
    let packed = repacked(set, weights, rows, cols);
    let (found, expected) =
        (sums(set, &packed, rows, cols, q, offset), sums(&SCALAR, weights, rows, cols, q, 0));
    if let Some(at) = (0..expected.len()).find(|i| found[*i] != expected[*i]) {
        let tokens = q.len() / cols;
        panic!(
            "{}: {what}, {rows} x {cols}, {tokens} tokens, offset {offset}: token {} row {} is {}, not {}",
            set.name,
            at / rows,
            at % rows,
            found[at],
            expected[at]
        );
    }
}

#[test]
fn random_products() {
    let mut random = Random(0x7e51);
    for cols in COLS {
        for rows in 1..=100usize {
            // All row counts with few columns, the edges of a tile and of a strip with many.
            if cols > 256 && rows > 3 && ![9, 33, 65, 81, 100].contains(&rows) {
                continue;
            }
            let weights = random.codes(rows * cols / 4);
            let q = random.activations(40 * cols);
            for set in sets() {
                let packed = repacked(set, &weights, rows, cols);
                let offset = rows % 16;
                let expected = sums(&SCALAR, &weights, rows, cols, &q, 0);
                // Every size of a group of tokens, with few and with many of them.
                for tokens in [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 16, 19, 40] {
                    let found = sums(set, &packed, rows, cols, &q[..tokens * cols], offset);
                    let at = (0..found.len()).find(|i| found[*i] != expected[*i]);
                    assert_eq!(at, None, "{}: {rows} x {cols}, {tokens} tokens", set.name);
                }
            }
        }
    }
}

#[test]
fn strips_and_blocks_of_real_shapes() {
    let mut random = Random(0x51a1);
    for (rows, cols) in [(211, 2560), (86, 6912), (170, 8704)] {
        let (weights, q) = (random.codes(rows * cols / 4), random.activations(17 * cols));
        for set in sets() {
            check(set, "strips", &weights, rows, cols, &q[..5 * cols], 3);
            check(set, "strips", &weights, rows, cols, &q, 3);
        }
    }
}

#[test]
fn columns_that_are_no_multiple_of_a_block() {
    let mut random = Random(0xc015);
    for set in sets() {
        let oracle = oracle(set.layout);
        for cols in [4usize, 12, 16, 20, 64, 80, 96, 144, 160, 176, 240, 1040, 2576] {
            if !cols.is_multiple_of(set.layout.col_multiple()) {
                continue;
            }
            for rows in [1, 11, 65] {
                let weight = random.activations(rows * cols).into_iter().map(|w| w % 2).collect::<Vec<_>>();
                let mut packed = vec![0; set.layout.bytes(rows, cols).expect("columns that fit")];
                pack::pack(set.layout, &weight, rows, cols, &mut packed);
                let q = random.activations(17 * cols);
                for tokens in [1, 2, 5, 17] {
                    let q = &q[..tokens * cols];
                    let (found, expected) =
                        (sums(set, &packed, rows, cols, q, 1), sums(oracle, &packed, rows, cols, q, 0));
                    assert_eq!(found, expected, "{}: {rows} x {cols}, {tokens} tokens", set.name);
                }
            }
        }
    }
}

#[test]
fn any_byte_of_five_weights_means_the_same_everywhere() {
    // Thirteen bytes are never packed; a damaged model must not make two machines answer differently.
    for set in sets().into_iter().filter(|set| matches!(set.layout, Layout::T5R | Layout::T5C)) {
        let (rows, cols) = (80, 640);
        let bytes = set.layout.bytes(rows, cols).expect("a shape of whole panels");
        let packed: Vec<u8> = (0..bytes).map(|i| (i * 89 + i / 256) as u8).collect();
        let q = Random(0xda3a).activations(17 * cols);
        for tokens in [1, 3, 17] {
            let q = &q[..tokens * cols];
            let expected = sums(oracle(set.layout), &packed, rows, cols, q, 0);
            assert_eq!(sums(set, &packed, rows, cols, q, 0), expected, "{} {tokens} tokens", set.name);
        }
    }
}

#[test]
fn nothing_behind_a_buffer_is_read_or_written() {
    // Pages that may not be touched lie right behind weights, tokens, scratch and sums.
    let mut random = Random(0xfe4c);
    for set in sets() {
        for (rows, cols) in [(1, 128), (7, 384), (16, 256), (33, 640), (81, 2560), (100, 128)] {
            let weights = random.codes(rows * cols / 4);
            let packed = repacked(set, &weights, rows, cols);
            for tokens in [1, 2, 3, 4, 8, 9, 13, 17] {
                let q = random.activations(tokens * cols);
                let expected = sums(&SCALAR, &weights, rows, cols, &q, 0);
                let mut fenced_weights = Fenced::new(packed.len());
                fenced_weights.bytes_mut().copy_from_slice(&packed);
                let stride = set.prepared_bytes(cols);
                let mut prepared = Fenced::new(tokens * stride);
                for (q, p) in q.chunks_exact(cols).zip(prepared.bytes_mut().chunks_exact_mut(stride)) {
                    set.prepare(q, p);
                }
                let mut scratch = Fenced::new(8 * set.scratch_words(rows, cols, tokens));
                let mut found = Fenced::new(4 * tokens * rows);
                set.multiply(
                    fenced_weights.bytes_mut(),
                    rows,
                    cols,
                    prepared.bytes_mut(),
                    tokens,
                    scratch.as_mut(),
                    found.as_mut(),
                );
                assert_eq!(found.as_mut::<i32>(), expected, "{} {rows} x {cols} x {tokens}", set.name);
            }
        }
    }
}

#[test]
fn nothing_is_touched_behind_groups() {
    for set in sets() {
        let mut random = Random(0x96f5);
        for (rows, cols, tokens) in
            [(16, 64, 1), (21, 64, 3), (37, 128, 9), (10, 80, 2), (83, 128, 1), (32, 384, 17)]
        {
            if !set.layout.takes_groups(cols) {
                continue;
            }
            let groups = 3;
            let (each, stride) =
                (set.layout.bytes(rows, cols).expect("whole blocks"), set.prepared_bytes(cols));
            let mut weights = Fenced::new(groups * each);
            for codes in weights.bytes_mut().chunks_exact_mut(each) {
                let trits = random.activations(rows * cols);
                pack::pack_with(set.layout, rows, cols, codes, |r, c| trits[r * cols + c] % 2);
            }
            let mut scales = Fenced::new(2 * groups * rows);
            scales.as_mut().copy_from_slice(&random.halves(groups * rows, 0));
            let mut prepared = Fenced::new(groups * tokens * stride);
            for place in prepared.bytes_mut().chunks_exact_mut(stride) {
                set.prepare(&random.activations(cols), place);
            }
            let factors = random.floats(tokens * groups, 0);
            let mut run = |by: &KernelSet, values: &mut [f32]| {
                let tile = GroupedTile {
                    weights: weights.bytes_mut(),
                    weights_stride: each,
                    scales: scales.as_mut(),
                    scales_stride: rows,
                    rows,
                    cols,
                    groups,
                    prepared: prepared.bytes_mut(),
                    prepared_stride: tokens * stride,
                    tokens,
                    digits: 1,
                    factors: &factors,
                };
                let mut scratch = Fenced::new(8 * by.grouped_scratch_words(rows, cols, tokens));
                let mut sums = vec![0; by.grouped_sums(rows, cols, tokens)];
                by.multiply_groups(tile, scratch.as_mut(), &mut sums, values);
            };
            let (mut found, mut expected) = (Fenced::new(4 * tokens * rows), vec![0.0; tokens * rows]);
            run(set, found.as_mut());
            run(oracle(set.layout), &mut expected);
            same_floats(found.as_mut(), &expected, &format!("{} {rows} x {cols} x {tokens}", set.name));
        }
    }
}

#[test]
fn extreme_products() {
    /// Weights of one code everywhere, or codes alternating with the columns in step with alternating activations.
    type Case = (&'static str, [u8; 4], fn(usize) -> i8);
    let cases: [Case; 9] = [
        ("all -127 by all -1", [0, 0, 0, 0], |_| -127),
        ("all 127 by all +1", [2, 2, 2, 2], |_| 127),
        ("all -128 by all +1", [2, 2, 2, 2], |_| -128),
        ("all -128 by all -1", [0, 0, 0, 0], |_| -128),
        ("all -128 by all 0", [1, 1, 1, 1], |_| -128),
        ("alternating in step", [2, 0, 2, 0], |c| if c / 32 % 2 == 0 { 127 } else { -128 }),
        ("alternating against", [0, 2, 0, 2], |c| if c / 32 % 2 == 0 { 127 } else { -128 }),
        ("alternating columns", [2, 2, 2, 2], |c| if c % 2 == 0 { 127 } else { -128 }),
        // Never packed; a damaged model must not make two machines answer differently.
        ("the unused code", [3, 3, 3, 3], |_| -128),
    ];
    for set in sets() {
        for cols in COLS {
            for (what, fields, value) in cases {
                // Only this layout has a code that no weight has, and only here the oracle reads it.
                if fields == [3; 4] && set.layout != Layout::T2B128 {
                    continue;
                }
                let code = fields.iter().fold(0, |b, field| b << 2 | field);
                let weights = vec![code; 5 * cols / 4];
                let q: Vec<i8> = (0..17 * cols).map(|i| value(i % cols)).collect();
                check(set, what, &weights, 5, cols, &q[..5 * cols], 0);
                check(set, what, &weights, 5, cols, &q, 0);
            }
        }
    }
}

#[test]
fn the_widest_matrix_is_exact() {
    let cols = MAX_COLS;
    for set in sets() {
        for (code, value) in [(0xaa, 127), (0xaa, -128), (0, 127), (0, -128), (0xff, -128)] {
            if code == 0xff && set.layout != Layout::T2B128 {
                continue;
            }
            let weights = vec![code; cols / 4];
            check(set, "widest", &weights, 1, cols, &vec![value; cols], 0);
            check(set, "widest", &weights, 1, cols, &vec![value; 17 * cols], 0);
        }
    }
}

#[test]
fn a_matrix_without_columns_has_zero_sums() {
    // Rows in several tiles, and tokens that are few and many.
    for set in sets() {
        for (rows, tokens) in [(5, 2), (100, 1), (100, 17)] {
            let mut prepared = vec![0; tokens * set.prepared_bytes(0)];
            prepared.chunks_exact_mut(set.prepared_bytes(0)).for_each(|p| set.prepare(&[], p));
            let mut sums = vec![GUARD; rows * tokens];
            let mut scratch = vec![0; set.scratch_words(rows, 0, tokens)];
            set.multiply(&[], rows, 0, &prepared, tokens, &mut scratch, &mut sums);
            assert!(sums.iter().all(|sum| *sum == 0), "{} {rows} rows, {tokens} tokens", set.name);
        }
    }
}

#[test]
fn every_offset_of_a_buffer() {
    for set in sets() {
        let mut random = Random(0x0ff5);
        let (weights, q) = (random.codes(6 * 96), random.activations(5 * 384));
        for offset in 0..16 {
            check(set, "offset", &weights, 6, 384, &q, offset);
        }
    }
}

#[test]
fn float_reductions() {
    for set in sets() {
        let mut random = Random(0xf10a);
        for length in (0..100).chain([128, 640, 2560, 2561]) {
            for kind in 0..5 {
                let x = random.floats(length, kind);
                let what = format!("{} length {length} kind {kind}", set.name);
                assert_eq!(bits(set.absmax(&x)), bits(SCALAR.absmax(&x)), "absmax of {what}");
                assert_eq!(bits(set.sum_squares(&x)), bits(SCALAR.sum_squares(&x)), "sum_squares of {what}");
                let (mut found, mut expected) = (x.clone(), x.clone());
                let sums = (set.exp_sum(&mut found), SCALAR.exp_sum(&mut expected));
                assert_eq!(bits(sums.0), bits(sums.1), "exp_sum of {what}");
                same_floats(&found, &expected, &format!("exp_sum of {what}"));
                for s in [1.0, 0.37, 127.0, -3.0, 1e30, 1e-40, f32::INFINITY, f32::NAN] {
                    let (mut found, mut expected) = (vec![99i8; length + 1], vec![99i8; length + 1]);
                    set.quantize(&x, s, &mut found[..length]);
                    SCALAR.quantize(&x, s, &mut expected[..length]);
                    assert_eq!(found, expected, "quantize by {s} of {what}");
                }
            }
        }
    }
}

#[test]
fn ties_of_quantisation_round_to_even() {
    for set in sets() {
        let x: Vec<f32> = (-600..600).map(|i| i as f32 * 0.25).collect();
        let (mut found, mut expected) = (vec![0; x.len()], vec![0; x.len()]);
        set.quantize(&x, 1.0, &mut found);
        SCALAR.quantize(&x, 1.0, &mut expected);
        assert_eq!(found, expected, "{}", set.name);
    }
}

#[test]
fn float_products_and_mixtures() {
    for set in sets() {
        let mut random = Random(0x3a7e);
        for k in (1..100).chain([128, 160, 640, 2560]) {
            for rows in [0, 1, 2, 3, 4, 5, 8, 11] {
                for kind in 0..5 {
                    let what = format!("{} {rows} x {k} kind {kind}", set.name);
                    // One value off, so that no row is aligned.
                    let matrix = random.floats(rows * k + 1, kind);
                    let halves = random.halves(rows * k + 1, kind);
                    let (matrix, halves) = (&matrix[1..], &halves[1..]);
                    let x = random.floats(k, kind);
                    let p = random.floats(rows, kind);
                    let (mut found, mut expected) = (vec![7.0f32; rows + 1], vec![7.0f32; rows + 1]);
                    set.matvec_f32(matrix, &x, &mut found[..rows]);
                    SCALAR.matvec_f32(matrix, &x, &mut expected[..rows]);
                    same_floats(&found, &expected, &format!("matvec_f32 {what}"));
                    set.matvec_f16(halves, &x, &mut found[..rows]);
                    SCALAR.matvec_f16(halves, &x, &mut expected[..rows]);
                    same_floats(&found, &expected, &format!("matvec_f16 {what}"));
                    let (mut found, mut expected) = (x.clone(), x);
                    set.mix_f32(matrix, &p, &mut found);
                    SCALAR.mix_f32(matrix, &p, &mut expected);
                    same_floats(&found, &expected, &format!("mix_f32 {what}"));
                    set.mix_f16(halves, &p, &mut found);
                    SCALAR.mix_f16(halves, &p, &mut expected);
                    same_floats(&found, &expected, &format!("mix_f16 {what}"));
                }
            }
        }
    }
}

#[test]
fn every_binary16_value() {
    let halves: Vec<u16> = (0..=u16::MAX).collect();
    for set in sets() {
        // Rows of one column: the product with 1 is the value itself.
        let (mut found, mut expected) = (vec![0.0; halves.len()], vec![0.0; halves.len()]);
        set.matvec_f16(&halves, &[1.0], &mut found);
        SCALAR.matvec_f16(&halves, &[1.0], &mut expected);
        same_floats(&found, &expected, &format!("{} one column", set.name));
        // One row of all columns: the vector path.
        let (mut found, mut expected) = (vec![0.0; halves.len()], vec![0.0; halves.len()]);
        set.mix_f16(&halves, &[1.0], &mut found);
        SCALAR.mix_f16(&halves, &[1.0], &mut expected);
        same_floats(&found, &expected, &format!("{} one row", set.name));
    }
}
