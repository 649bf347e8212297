//! The GGUF reader on sound files, and on files that are wrong in one known way.

use tern_runtime::error::LoadError;
use tern_runtime::gguf::{Gguf, Header, Lookalike, TensorType, Value, ValueType, optional};

const TINY: &[u8] = include_bytes!("../../tests/fixtures/oracle/gguf/tiny-i2_s.gguf");

#[test]
fn tiny_fixture_reads_as_its_recipe_says() {
    let g = Gguf::parse(TINY).unwrap();
    assert_eq!((g.version(), g.alignment_bytes(), g.tensor_count()), (3, 32, 24));
    assert_eq!(g.architecture(), Ok("bitnet-b1.58"));
    assert_eq!(g.u32(&g.arch_key("feed_forward_length").unwrap()), Ok(512));
    assert_eq!(g.f32(&g.arch_key("rope.freq_base").unwrap()), Ok(500_000.0));
    assert_eq!(g.bool("tokenizer.ggml.add_bos_token"), Ok(true));
    assert_eq!(g.strings("tokenizer.ggml.tokens").unwrap().len(), 512);
    assert_eq!(g.strings("tokenizer.ggml.merges").unwrap().len(), 254);
    let types = g.i32s("tokenizer.ggml.token_type").unwrap();
    assert_eq!((types.len(), types.at(509), types.at(510), types.at(512)), (512, Some(1), Some(3), None));
    assert_eq!(g.entries().count(), 22);

    let embedding = g.require("token_embd.weight").unwrap();
    assert_eq!((embedding.ty(), embedding.dims()), (TensorType::F16, &[256u64, 512][..]));
    assert_eq!(embedding.data().unwrap().len(), 256 * 512 * 2);
    let down = g.require("blk.1.ffn_down.weight").unwrap();
    assert_eq!((down.ty(), down.row_len(), down.rows()), (TensorType::I2S, 512, 256));
    let data = down.data().unwrap();
    assert_eq!(data.len(), 512 * 256 / 4 + 32);
    let scale = f32::from_le_bytes(data[data.len() - 32..][..4].try_into().unwrap());
    assert!((0.03..0.13).contains(&scale), "the recipe draws scales from 0.04 to 0.12, found {scale}");
    assert_eq!(down.expect_shape(512, 256), Ok(()));
    assert!(matches!(down.expect_shape(256, 512), Err(LoadError::TensorShape { .. })));
}

#[test]
fn strings_are_found_again_by_offset() {
    let g = Gguf::parse(TINY).unwrap();
    let tokens = g.strings("tokenizer.ggml.tokens").unwrap();
    assert_eq!(tokens.iter().count(), tokens.len());
    for (at, text) in tokens.iter() {
        assert_eq!(tokens.at(at), text);
    }
    assert_eq!(tokens.at(usize::MAX), b"");
}

#[test]
fn unsupported_type_names_the_tensor_and_what_would_do() {
    let file = patched("b.weight", 12, &26u32.to_le_bytes());
    let error = Gguf::parse(&file).unwrap().require("b.weight").unwrap().data().unwrap_err();
    assert_eq!(
        error.to_string(),
        "tensor 'b.weight' has type I32 (26); this build reads I2_S, TL1, TL2, TQ1_0, TQ2_0, Q2_0, PQ2_0, PTQ1_0, STQ1_0, \
         Q1_0, F32, F16, BF16, Q8_0, Q6_K, Q4_K, Q4_0 and what tern pack writes; convert the model to one of these"
    );
}

#[test]
fn wrong_types_and_missing_keys_say_so() {
    let g = Gguf::parse(TINY).unwrap();
    let message = |r: Result<(), LoadError>| r.unwrap_err().to_string();
    assert_eq!(
        message(g.u32("general.name").map(drop)),
        "key 'general.name' has type string, expected an integer"
    );
    assert_eq!(
        message(g.str("general.file_type").map(drop)),
        "key 'general.file_type' has type u32, expected string"
    );
    assert_eq!(
        message(g.i32s("tokenizer.ggml.tokens").map(drop)),
        "key 'tokenizer.ggml.tokens' has type string, expected an array of i32"
    );
    assert!(matches!(g.u32("nothing"), Err(LoadError::KeyMissing { .. })));
    assert_eq!(optional(g.u32("nothing")), Ok(None));
    assert!(optional(g.u32("general.name")).is_err());
    assert!(g.tensor("nothing").is_none());
    assert!(matches!(g.value("general.alignment"), Some(Value::U32(32))));
    assert_eq!(g.value("tokenizer.ggml.tokens").unwrap().ty(), ValueType::Array);
}

/// A small sound file to damage: two keys, an I2_S matrix and a vector.
fn small() -> Vec<u8> {
    let mut header = Header::new();
    header.str("general.architecture", "bitnet-b1.58").u32("general.alignment", 32);
    header.tensor("a.weight", TensorType::I2S, &[128, 2]).unwrap();
    header.tensor("b.weight", TensorType::F32, &[8]).unwrap();
    let mut data = header.begin(Vec::new()).unwrap();
    data.write(&[0x55; 128 * 2 / 4 + 32]).unwrap();
    data.write(&[0; 32]).unwrap();
    data.finish().unwrap()
}

/// Overwrites the bytes that follow the only occurrence of `anchor`, `skip` bytes further on.
fn patched(anchor: &str, skip: usize, bytes: &[u8]) -> Vec<u8> {
    let mut file = small();
    let at = file.windows(anchor.len()).position(|w| w == anchor.as_bytes()).unwrap() + anchor.len() + skip;
    file[at..at + bytes.len()].copy_from_slice(bytes);
    file
}

fn refusal(file: &[u8]) -> String {
    Gguf::parse(file).unwrap_err().to_string()
}

#[test]
fn small_file_is_sound() {
    let file = small();
    let g = Gguf::parse(&file).unwrap();
    assert_eq!(g.require("b.weight").unwrap().offset_bytes(), 96);
    assert_eq!(g.file_bytes(), g.data_at_bytes() + 128);
}

#[test]
fn each_lie_is_refused_by_name() {
    let u32s = |v: u32| v.to_le_bytes().to_vec();
    let u64s = |v: u64| v.to_le_bytes().to_vec();
    // After a tensor's name: u32 rank, u64 dims[rank], u32 type, u64 offset.
    let (rank, dim0, dim1, ty_a, ty_b, offset_b) = (0, 4, 12, 20, 12, 16);
    let cases = [
        ("a.weight", rank, u32s(0), "has 0 dimensions"),
        ("a.weight", rank, u32s(5), "has 5 dimensions"),
        ("a.weight", dim0, u64s(64), "multiple of 128"),
        ("a.weight", dim0, u64s(0), "zero dimension"),
        ("a.weight", dim1, u64s(u64::MAX), "zero dimension or more elements"),
        ("a.weight", dim1, u64s(1 << 40), "would end at byte"),
        ("a.weight", dim1, u64s(3), "ends at 128 of the data but another one starts at 96"),
        ("a.weight", dim1, u64s(1), "takes 96 bytes where I2_S (36) takes 64"),
        ("a.weight", ty_a, u32s(1), "would end at byte 736"),
        ("b.weight", ty_b, u32s(36), "rows of 8 weights"),
        ("b.weight", offset_b, u64s(100), "not a multiple of the alignment 32"),
        ("b.weight", offset_b, u64s(1 << 63), "would end at byte"),
        ("b.weight", offset_b, u64s(0), "'a.weight' ends at 96 of the data but another one starts at 0"),
        ("b.weight", offset_b, u64s(64), "starts at 64"),
        ("b.weight", offset_b, u64s(128), "would end at byte"),
        ("general.alignment", 4, u32s(0), "general.alignment is 0"),
        ("general.alignment", 4, u32s(4), "general.alignment is 4"),
        ("general.alignment", 4, u32s(48), "general.alignment is 48"),
        ("general.alignment", 4, u32s(1 << 31), "would end at byte"),
        ("general.alignment", 0, u32s(13), "value type 13"),
        ("general.alignment", 0, u32s(6), "has type f32, expected an integer"),
        ("general.architecture", 4, u64s(u64::MAX), "ends inside a metadata string"),
        ("GGUF", 0, u32s(1), "GGUF version 1"),
        ("GGUF", 0, u32s(3 << 24), "big-endian"),
        ("GGUF", 4, u64s(u64::MAX), "tensors announced"),
        ("GGUF", 4, u64s(3), "tensor '' has 0 dimensions"),
        ("GGUF", 12, u64s(1 << 40), "metadata keys announced"),
    ];
    for (anchor, skip, bytes, expected) in cases {
        let message = refusal(&patched(anchor, skip, &bytes));
        assert!(message.contains(expected), "{anchor}+{skip} = {bytes:?}: {message:?} lacks {expected:?}");
    }
}

#[test]
fn twins_are_refused() {
    let file = patched("b.weight", 0, &[]);
    let at = file.windows(8).position(|w| w == b"b.weight").unwrap();
    let mut twin = file.clone();
    twin[at] = b'a';
    assert!(refusal(&twin).contains("tensor 'a.weight' appears twice"));

    let mut header = Header::new();
    header.u32("x", 1).u32("x", 2);
    let file = header.begin(Vec::new()).unwrap().finish().unwrap();
    assert!(refusal(&file).contains("key 'x' appears twice"));
}

#[test]
fn text_that_is_not_utf8_is_refused() {
    let mut file = small();
    let at = file.windows(8).position(|w| w == b"b.weight").unwrap();
    file[at] = 0xff;
    assert!(refusal(&file).contains("'?.weight' is not UTF-8"));
    let file = patched("general.architecture", 12, b"\xc3(");
    let g = Gguf::parse(&file).unwrap();
    assert!(matches!(g.architecture(), Err(LoadError::NotUtf8 { .. })));
}

#[test]
fn version_2_reads_alike() {
    let file = patched("GGUF", 0, &2u32.to_le_bytes());
    let g = Gguf::parse(&file).unwrap();
    assert_eq!((g.version(), g.tensor_count()), (2, 2));
}

#[test]
fn arrays_of_arrays_and_huge_arrays_are_refused() {
    let array = |element: u32, len: u64| {
        let mut header = Header::new();
        header.i32s("array", &[1, 2]);
        let mut file = header.begin(Vec::new()).unwrap().finish().unwrap();
        let at = file.windows(5).position(|w| w == b"array").unwrap() + 5 + 4;
        file[at..at + 4].copy_from_slice(&element.to_le_bytes());
        file[at + 4..at + 12].copy_from_slice(&len.to_le_bytes());
        refusal(&file)
    };
    assert!(array(9, 2).contains("array of arrays"));
    assert!(array(5, u64::MAX).contains("elements of a metadata array"));
    assert!(array(8, 1 << 50).contains("elements of a metadata array"));
    assert!(array(5, 1 << 62).contains("elements of a metadata array"), "4 << 62 must not wrap");
}

#[test]
fn a_file_that_is_no_model_is_named() {
    let looks_like = Lookalike::GitLfsPointer;
    let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:4221b2\nsize 1187801280\n";
    assert_eq!(Gguf::parse(pointer).unwrap_err(), LoadError::NotGguf { looks_like });
    assert!(refusal(pointer).contains("git lfs pull"));
    assert!(refusal(b"GGU").contains("47 47 55 00"));
    assert!(refusal(b"GGUF").contains("ends inside the version"));
}
