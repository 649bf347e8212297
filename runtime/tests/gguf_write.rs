//! What the writer writes, the reader reads; what it should refuse, it refuses.

use tern_runtime::gguf::{Gguf, Header, TensorType};

const TINY: &[u8] = include_bytes!("../../tests/fixtures/oracle/gguf/tiny-i2_s.gguf");

/// Puts a file together again from what the reader saw.
fn rewritten(file: &[u8]) -> Vec<u8> {
    let g = Gguf::parse(file).unwrap();
    let mut header = Header::new();
    for (key, value) in g.entries() {
        header.copy(key, &value);
    }
    for t in g.tensors() {
        header.tensor(t.name(), t.ty(), t.dims()).unwrap();
    }
    let file_bytes = header.file_bytes();
    let mut data = header.begin(Vec::new()).unwrap();
    for t in g.tensors() {
        assert_eq!(data.current(), t.nbytes().map(|n| (t.name(), n)));
        for chunk in t.data().unwrap().chunks(1000) {
            data.write(chunk).unwrap();
        }
    }
    let out = data.finish().unwrap();
    assert_eq!(out.len() as u64, file_bytes);
    out
}

#[test]
fn a_foreign_file_is_reproduced_byte_for_byte() {
    assert!(rewritten(TINY) == TINY);
}

#[test]
fn mistakes_of_the_caller_are_errors() {
    let mut header = Header::new();
    header.tensor("a", TensorType::F32, &[4]).unwrap();
    for (name, ty, dims) in [
        ("a", TensorType::F32, &[4][..]),
        ("b", TensorType::F32, &[]),
        ("b", TensorType::F32, &[1, 1, 1, 1, 1]),
        ("b", TensorType::F32, &[0]),
        ("b", TensorType::F32, &[u64::MAX, 2]),
        ("b", TensorType::I2S, &[64, 2]),
        ("b", TensorType::from_id(42), &[64]),
    ] {
        assert!(header.tensor(name, ty, dims).is_err(), "{name} {ty} {dims:?}");
    }
    let mut data = header.clone().begin(Vec::new()).unwrap();
    assert!(data.write(&[0; 17]).unwrap_err().to_string().contains("'a', which has 16 left"));
    data.write(&[0; 12]).unwrap();
    assert!(data.finish().unwrap_err().to_string().contains("'a' lacks 4 bytes"));
    let mut data = header.begin(Vec::new()).unwrap();
    data.write(&[0; 16]).unwrap();
    assert!(data.write(&[0]).is_err());
    assert!(data.finish().is_ok());
}
