//! How other programs lay ternary matrices, against bytes that other programs made.
//!
//! Three sources: `layout_vectors.json` (the reference converters), `coding_vectors.json` (`tests/oracles/codings.py`), and
//! the tiny model of the oracle in six encodings, which must be trit for trit the same.

use serde_json::Value;
use tern_kernels::blocks::{self, Blocks};
use tern_kernels::coding::{Coding, TernaryBlock, TileShape};
use tern_kernels::half::f16_to_f32;
use tern_kernels::{Layout, SCALAR};
use tern_runtime::gguf::{Gguf, I2sBlocks, Reading, TensorInfo};
use tern_runtime::map::MappedFile;
use tern_tests::model::fixture;
use tern_tests::tl2;

fn json(name: &str) -> Value {
    let path = fixture(name);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).expect("the fixture is JSON")
}

fn bytes(value: &Value) -> Vec<u8> {
    let digits = value.as_str().expect("hexadecimal text").as_bytes();
    let pair = |pair: &[u8]| {
        let text = std::str::from_utf8(pair).expect("ASCII");
        u8::from_str_radix(text, 16).expect("hexadecimal digits")
    };
    digits.chunks(2).map(pair).collect()
}

fn size(vector: &Value, key: &str) -> usize {
    vector[key].as_u64().unwrap_or_else(|| panic!("no size {key}")) as usize
}

/// A whole matrix: its weights, and the scales of all rows.
fn read(coding: Coding, data: &[u8], rows: usize, cols: usize) -> (Vec<i8>, Vec<f32>) {
    let (mut weights, mut scales) = (vec![9; rows * cols], vec![f32::NAN; rows * coding.scales(cols)]);
    let lines = weights.chunks_exact_mut(cols).zip(scales.chunks_exact_mut(coding.scales(cols)));
    for (row, (weights, scales)) in lines.enumerate() {
        let read = coding.row_into(data, rows, cols, row, weights, scales);
        read.unwrap_or_else(|error| panic!("{coding:?} row {row}: {error}"));
    }
    (weights, scales)
}

/// The weight rule of `layout_vectors.json`.
fn ruled(rows: usize, cols: usize) -> Vec<i8> {
    let weight = |i: usize| {
        let (row, col) = ((i / cols) as u32, (i % cols) as u32);
        let x = row.wrapping_mul(73_856_093) ^ col.wrapping_mul(19_349_663);
        ((x.wrapping_mul(2_654_435_761) >> 16) % 3) as i8 - 1
    };
    (0..rows * cols).map(weight).collect()
}

#[test]
fn bytes_of_the_reference_converters_are_read_weight_by_weight() {
    let mut checked = 0;
    for vector in json("oracle/layout_vectors.json")["vectors"].as_array().expect("a list") {
        let tile =
            || TileShape { rows: size(vector, "BM"), cols: size(vector, "BK"), strip: size(vector, "bm") };
        let coding = match vector["layout"].as_str().expect("a name") {
            "i2_s_blk128" => Coding::Layout(Layout::T2B128),
            "i2_s_blk64" => Coding::I2s64,
            "tl1" => Coding::Tl1(tile()),
            "tl2" => Coding::Tl2(tile()),
            "tq1_0" => Coding::Blocks(TernaryBlock::Tq1_0),
            "tq2_0" => Coding::Blocks(TernaryBlock::Tq2_0),
            "q2_0_g64_upstream42" => Coding::Blocks(TernaryBlock::Q2_0),
            "pq2_0_g128_prism142_or_legacy42" => Coding::Blocks(TernaryBlock::Pq2_0),
            "ptq1_0_prism143" => Coding::Blocks(TernaryBlock::Ptq1_0),
            // The interleaved form of I2_S is in no published file, and the packing of Hugging Face is not GGUF's.
            "i2_s_x86_row4" | "hf_packed_u8" => continue,
            other => panic!("{other} is new"),
        };
        let (rows, cols) = (size(vector, "M"), size(vector, "K"));
        let mut data = bytes(&vector["hex"]);
        // TL1 and TL2 come without padding and without their scale.
        let scale = vector["scale"].as_f64().unwrap_or(1.5) as f32;
        if matches!(coding, Coding::Tl1(_) | Coding::Tl2(_)) {
            data.resize(coding.code_bytes(rows, cols).expect("a shape that fits"), 0);
            data.extend(scale.to_le_bytes());
        }
        // What writes whole models for `tests/foreign.rs`.
        if let Coding::Tl2(tile) = coding {
            let written = tl2::encode(&ruled(rows, cols), (rows, cols), tile, scale);
            assert!(written[..data.len()] == data, "{tile:?}: other bytes than the converter's");
        }
        let (weights, scales) = read(coding, &data, rows, cols);
        assert_eq!(weights, ruled(rows, cols), "{coding:?}");
        assert!(scales.iter().all(|s| *s == scale), "{coding:?}: {scales:?}");
        checked += 1;
    }
    assert_eq!(checked, 10, "vectors in layout_vectors.json");
}

#[test]
fn bytes_encoded_from_the_definitions_are_read_with_all_their_scales() {
    let vectors = json("oracle/coding_vectors.json");
    for vector in vectors["vectors"].as_array().expect("a list") {
        let tile = || {
            let size = |at: usize| vector["tile"][at].as_u64().expect("a size") as usize;
            TileShape { rows: size(0), cols: size(1), strip: size(2) }
        };
        let name = vector["coding"].as_str().expect("a name");
        let coding = match name {
            "tq1_0" => Coding::Blocks(TernaryBlock::Tq1_0),
            "tq2_0" => Coding::Blocks(TernaryBlock::Tq2_0),
            "q2_0" => Coding::Blocks(TernaryBlock::Q2_0),
            "pq2_0" => Coding::Blocks(TernaryBlock::Pq2_0),
            "ptq1_0" => Coding::Blocks(TernaryBlock::Ptq1_0),
            "stq1_0" => Coding::Blocks(TernaryBlock::Stq1_0),
            "q1_0" => Coding::Blocks(TernaryBlock::Q1_0),
            "i2_s_64" => Coding::I2s64,
            "tl1" => Coding::Tl1(tile()),
            "tl2" => Coding::Tl2(tile()),
            other => panic!("{other} is new"),
        };
        let (rows, cols, data) = (size(vector, "rows"), size(vector, "cols"), bytes(&vector["hex"]));
        assert_eq!(coding.bytes(rows, cols), Some(data.len()), "{name}");
        let (weights, scales) = read(coding, &data, rows, cols);
        let digit = |pair: &[i8]| char::from(b'0' + (3 * pair[0] + pair[1] + 4) as u8);
        let text: String = weights.chunks(2).map(digit).collect();
        assert_eq!(text, vector["weights"].as_str().expect("weights"), "{coding:?}");
        let expected: Vec<f32> =
            vector["scales"].as_array().expect("scales").iter().map(|s| s.as_f64().unwrap() as f32).collect();
        let of_row = |row: usize| if coding.group().is_none() { 0 } else { row * coding.scales(cols) };
        for (row, scales) in scales.chunks(coding.scales(cols)).enumerate() {
            assert_eq!(scales, &expected[of_row(row)..][..scales.len()], "{coding:?} row {row}");
        }
        // As an embedding, the same row is its weights times their scales.
        if let Coding::Blocks(block) = coding {
            let mut values = vec![0.0; rows * cols];
            blocks::widen(Blocks::Ternary(block), &data, &mut values);
            for (i, value) in values.iter().enumerate() {
                assert_eq!(*value, f32::from(weights[i]) * scales[i / block.values()], "{name} value {i}");
            }
        }
    }
}

#[test]
fn q4_k_has_the_values_that_another_program_finds() {
    let vectors = json("oracle/coding_vectors.json");
    let (data, values) = (bytes(&vectors["q4_k"]["hex"]), bytes(&vectors["q4_k"]["values"]));
    let mut found = vec![0.0; data.len() / 144 * 256];
    SCALAR.widen(Blocks::Q4K, &data, &mut found);
    let expected: Vec<f32> = values.as_chunks::<4>().0.iter().map(|v| f32::from_le_bytes(*v)).collect();
    assert_eq!(found, expected);
}

/// What a ternary matrix of the tiny model is in `name`, read as `reading` says.
fn with_tiny(name: &str, reading: &Reading, mut check: impl FnMut(&str, TensorInfo<'_>)) {
    let file = MappedFile::open(fixture(&format!("oracle/gguf/tiny-{name}.gguf"))).expect("the fixture");
    let gguf = Gguf::parse_as(file.bytes(), reading).unwrap_or_else(|error| panic!("{name}: {error}"));
    let mut matrices = 0;
    for info in gguf.tensors().filter(|info| info.ty().is_ternary()) {
        check(info.name(), info);
        matrices += 1;
    }
    assert_eq!(matrices, 14, "{name}: ternary matrices of two layers");
}

#[test]
fn one_model_in_six_encodings_has_the_same_weights() {
    let of = |info: TensorInfo<'_>| {
        let (rows, cols) = (info.rows() as usize, info.row_len() as usize);
        let coding = info.coding().unwrap_or_else(|error| panic!("{error}"));
        (read(coding, info.data().expect("a type that is read"), rows, cols), coding)
    };
    let mut expected = std::collections::HashMap::new();
    with_tiny("i2_s", &Reading::default(), |name, info| {
        let ((weights, scales), _) = of(info);
        expected.insert(name.to_owned(), (weights, scales[0]));
    });
    let mut tl1 = Reading::default();
    for (rows, cols) in [(256, 256), (128, 256), (512, 256), (256, 512)] {
        tl1.tiles.add(rows, cols, TileShape { rows: 128, cols: 64, strip: 64 }).expect("there is room");
    }
    let arm = Reading { i2s: I2sBlocks::Of64, ..Reading::default() };
    let plain = Reading::default();
    for (name, reading) in [("i2_s_arm64blk", &arm), ("tl1", &tl1), ("tq1_0", &plain), ("tq2_0", &plain)] {
        with_tiny(name, reading, |tensor, info| {
            let ((weights, scales), coding) = of(info);
            let (of_it, scale) = &expected[tensor];
            assert_eq!(&weights, of_it, "{name}: {tensor}");
            // Scales of blocks are binary16.
            let error = if coding.group().is_some() { 1.0 / 2048.0 } else { 0.0 };
            assert!(scales.iter().all(|s| (s - scale).abs() <= scale * error), "{name}: {tensor}");
        });
    }
    // Read in the other blocks nearly every weight lies elsewhere: the file itself cannot tell.
    with_tiny("i2_s_arm64blk", &plain, |tensor, info| {
        let ((weights, _), _) = of(info);
        let same = weights.iter().zip(&expected[tensor].0).filter(|(a, b)| a == b).count();
        assert!(same < weights.len() * 2 / 3, "{tensor}: {same} of {}", weights.len());
    });
}

#[test]
fn a_scale_in_a_block_is_a_binary16() {
    // The largest, the smallest and a negative one, in a block that begins with its scale and one that ends with it.
    for bits in [0x7bff, 0x0001, 0xb800u16] {
        let mut block = vec![0x55; 34];
        block[..2].copy_from_slice(&bits.to_le_bytes());
        let coding = Coding::Blocks(TernaryBlock::Pq2_0);
        assert_eq!(read(coding, &block, 1, 128), (vec![0; 128], vec![f16_to_f32(bits)]));
        let mut block = vec![0x55; 66];
        block[64..].copy_from_slice(&bits.to_le_bytes());
        let coding = Coding::Blocks(TernaryBlock::Tq2_0);
        assert_eq!(read(coding, &block, 1, 256), (vec![0; 256], vec![f16_to_f32(bits)]));
    }
}
