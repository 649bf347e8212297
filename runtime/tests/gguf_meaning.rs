//! Type ids with several meanings, told apart by the bytes that tensors take, and types that need more than the file.

use tern_kernels::coding::{Coding, TernaryBlock, TileShape};
use tern_runtime::error::LoadError;
use tern_runtime::gguf::{Gguf, Header, I2sBlocks, Reading, ReadingError, TensorType};
use tern_runtime::model::Config;

const Q2_0: TensorType = TensorType::Ternary(TernaryBlock::Q2_0);
const PQ2_0: TensorType = TensorType::Ternary(TernaryBlock::Pq2_0);
const STQ1_0: TensorType = TensorType::Ternary(TernaryBlock::Stq1_0);

/// A file of matrices `t0`, `t1`, ... of zeros, each with `id` in place of its type's own.
fn file(tensors: &[(TensorType, [u64; 2])], id: u32) -> Vec<u8> {
    let mut header = Header::new();
    header.str("general.architecture", "qwen3");
    for (n, (ty, dims)) in tensors.iter().enumerate() {
        header.tensor(&format!("t{n}"), *ty, dims).unwrap();
    }
    let mut writer = header.begin(Vec::new()).unwrap();
    while let Some((_, left)) = writer.current() {
        writer.write(&vec![0; left as usize]).unwrap();
    }
    let mut file = writer.finish().unwrap();
    for n in 0..tensors.len() {
        let name = format!("t{n}");
        // A length of two, the name, the rank and two dimensions stand before the type.
        let anchor: Vec<u8> = [&2u64.to_le_bytes()[..], name.as_bytes()].concat();
        let at = file.windows(anchor.len()).position(|w| w == anchor).unwrap() + anchor.len() + 4 + 16;
        file[at..at + 4].copy_from_slice(&id.to_le_bytes());
    }
    file
}

fn types(file: &[u8]) -> Vec<TensorType> {
    let gguf = Gguf::parse(file).unwrap_or_else(|error| panic!("{error}"));
    gguf.tensors().map(|info| info.ty()).collect()
}

fn refusal(file: &[u8]) -> (ReadingError, String) {
    match Gguf::parse(file).unwrap_err() {
        LoadError::Reading(error) => (error, error.to_string()),
        other => panic!("{other}"),
    }
}

#[test]
fn id_42_is_what_the_bytes_between_tensors_say() {
    for ty in [Q2_0, PQ2_0, STQ1_0] {
        assert_eq!(types(&file(&[(ty, [1024, 3]), (ty, [256, 7]), (ty, [512, 64])], 42)), [ty; 3], "{ty}");
        // One tensor, which ends with the file; and one with bytes behind it, which another one decides.
        assert_eq!(types(&file(&[(ty, [1024, 3])], 42)), [ty]);
        let mut longer = file(&[(ty, [1024, 3]), (ty, [1024, 8])], 42);
        longer.resize(longer.len() + 1000, 7);
        assert_eq!(types(&longer), [ty; 2]);
    }
    assert_eq!(types(&file(&[(PQ2_0, [1024, 3])], 142)), [PQ2_0]);
    assert_eq!(types(&file(&[(STQ1_0, [1024, 3])], 43)), [STQ1_0]);
}

#[test]
fn a_tensor_that_fits_two_meanings_is_decided_by_the_others_or_refused() {
    // 256 weights are 72 or 68 bytes, both 96 with their padding.
    assert_eq!(types(&file(&[(PQ2_0, [256, 1]), (PQ2_0, [256, 7])], 42)), [PQ2_0; 2]);
    let (error, message) = refusal(&file(&[(PQ2_0, [256, 1]), (PQ2_0, [256, 1])], 42));
    assert!(matches!(error, ReadingError::Meaning { id: 42, span_bytes: 96, fits: 2, .. }), "{error:?}");
    assert!(message.contains("STQ1_0") && message.contains("more than one"), "{message}");
}

#[test]
fn bytes_that_fit_no_meaning_are_refused() {
    // Two groupings in one file, and a type that is none of them.
    for tensors in [[(Q2_0, [1024, 3]), (PQ2_0, [1024, 3])], [(TensorType::Q8_0, [1024, 3]); 2]] {
        let (error, message) = refusal(&file(&tensors, 42));
        assert!(matches!(error, ReadingError::Meaning { id: 42, fits: 0, .. }), "{error:?}");
        assert!(message.contains("type id 42") && message.contains("none of these"), "{message}");
    }
    // An id of one meaning, with other bytes than it takes.
    let wrong = Gguf::parse(&file(&[(TensorType::Q8_0, [1024, 3]); 2], 143)).unwrap_err();
    assert!(
        matches!(wrong, LoadError::TensorSpan { found_bytes: 3264, expected_bytes: 672, .. }),
        "{wrong:?}"
    );
}

#[test]
fn id_39_is_tl2_or_a_float_type_that_is_not_read() {
    assert_eq!(types(&file(&[(TensorType::Tl2, [512, 96]); 2], 39)), [TensorType::Tl2; 2]);
    // MXFP4 is 17 bytes for 32 weights, half of Q8_0.
    let mxfp4 = file(&[(TensorType::Q8_0, [512, 48]); 2], 39);
    let mut mxfp4 = mxfp4;
    let at = mxfp4.windows(2).position(|w| w == b"t0").unwrap();
    for at in [at, mxfp4.windows(2).position(|w| w == b"t1").unwrap()] {
        mxfp4[at + 2 + 4 + 8..][..8].copy_from_slice(&96u64.to_le_bytes());
    }
    let gguf = Gguf::parse(&mxfp4).unwrap();
    assert!(gguf.tensors().all(|info| info.ty() == TensorType::Other(39) && info.ty().name() == "MXFP4"));
}

#[test]
fn tiles_come_from_outside_and_must_fit() {
    let bytes = file(&[(TensorType::Tl1, [256, 128])], 38);
    let coding = |tile: Option<TileShape>| {
        let mut reading = Reading::default();
        if let Some(tile) = tile {
            reading.tiles.add(128, 256, tile).unwrap();
        }
        Gguf::parse_as(&bytes, &reading).unwrap().require("t0").unwrap().coding()
    };
    let tile = TileShape { rows: 64, cols: 64, strip: 32 };
    assert_eq!(coding(Some(tile)), Ok(Coding::Tl1(tile)));
    let message = coding(None).unwrap_err().to_string();
    assert!(message.contains("128 x 256") && message.contains("kernel_config.ini"), "{message}");
    let message = coding(Some(TileShape { cols: 48, ..tile })).unwrap_err().to_string();
    assert!(message.contains("tiles of 64 x 48"), "{message}");
}

#[test]
fn blocks_of_64_are_read_when_somebody_says_so() {
    let bytes = file(&[(TensorType::I2S, [256, 4])], 36);
    let reading = Reading { i2s: I2sBlocks::Of64, ..Reading::default() };
    let gguf = Gguf::parse_as(&bytes, &reading).unwrap();
    let info = gguf.require("t0").unwrap();
    assert_eq!((info.ty(), info.coding()), (TensorType::I2s64, Ok(Coding::I2s64)));
    assert_eq!(types(&bytes), [TensorType::I2S]);
    // Rows of 192 are whole blocks of 64, not of 128.
    let narrow = file(&[(TensorType::I2s64, [192, 4])], 36);
    assert!(matches!(Gguf::parse(&narrow), Err(LoadError::TensorRow { .. })));
    assert!(Gguf::parse_as(&narrow, &reading).is_ok());
}

#[test]
fn a_transform_that_is_not_there_is_refused_by_name() {
    let mut header = Header::new();
    header.str("general.architecture", "llama").u32("prism.hadamard.version", 1);
    let file = header.begin(Vec::new()).unwrap().finish().unwrap();
    let message = Config::read(&Gguf::parse(&file).unwrap()).unwrap_err().to_string();
    assert!(message.contains("prism.hadamard.version") && message.contains("Hadamard"), "{message}");
}
