//! Models that ask for something this build does not do: left out, it would make wrong answers.

use tern_runtime::arena::Arena;
use tern_runtime::error::LoadError;
use tern_runtime::gguf::{Gguf, Header, TensorType};
use tern_runtime::model::{Config, Model};

/// Where a mapping would put it.
#[repr(align(64))]
struct Aligned<T: ?Sized>(T);

static LLAMA: &Aligned<[u8]> = &Aligned(*include_bytes!("../../tests/fixtures/oracle/llama/tiny-i2_s.gguf"));

/// The llama model with more keys, and with `tensor`, if one is named.
fn with(tensor: Option<&str>, keys: impl Fn(&mut Header)) -> Result<(), LoadError> {
    let file = Gguf::parse(&LLAMA.0).expect("a sound file");
    let mut header = Header::aligned(64);
    for (key, value) in file.entries().filter(|(key, _)| *key != "general.alignment") {
        header.copy(key, &value);
    }
    keys(&mut header);
    for found in file.tensors() {
        header.tensor(found.name(), found.ty(), found.dims()).expect("as it was");
    }
    if let Some(name) = tensor {
        header.tensor(name, TensorType::F32, &[16]).expect("a new name");
    }
    let mut data = header.begin(Vec::new()).expect("memory");
    for found in file.tensors() {
        data.write(found.data().expect("sound")).expect("memory");
    }
    if tensor.is_some() {
        data.write(&[0; 64]).expect("memory");
    }
    let bytes = data.finish().expect("whole");
    // To 64 bytes, as the file is mapped.
    let mut memory = vec![0u8; bytes.len() + 64];
    let start = memory.as_ptr().align_offset(64);
    memory[start..start + bytes.len()].copy_from_slice(&bytes);
    let file = Gguf::parse(&memory[start..start + bytes.len()])?;
    let config = Config::read(&file)?;
    Model::load(&file, config, &tern_kernels::reference::SCALAR, &mut Arena::new(&mut [])).map(|_| ())
}

#[test]
fn as_it_is_it_loads() {
    assert_eq!(with(None, |_| ()), Ok(()));
    assert_eq!(with(None, |header| _ = header.str("llama.rope.scaling.type", "none")), Ok(()));
}

#[test]
fn tensors_that_nobody_would_use_are_named() {
    for name in ["blk.0.attn_q.bias", "blk.0.attn_sub_norm.weight", "blk.2.ffn_up.weight"] {
        let refused = with(Some(name), |_| ()).expect_err(name);
        assert!(
            matches!(refused, LoadError::TensorUnknown { .. }) && refused.to_string().contains(name),
            "{refused}"
        );
    }
}

#[test]
fn scaled_angles_are_refused_where_how_is_not_known_or_not_said() {
    let refused = |kind: &str| {
        let error = with(None, |header| _ = header.str("llama.rope.scaling.type", kind)).expect_err(kind);
        error.to_string()
    };
    assert!(refused("dynamic").contains("dynamic"), "{}", refused("dynamic"));
    assert!(refused("yarn").contains("llama.rope.scaling.factor"), "{}", refused("yarn"));
    let lengths = with(Some("rope_freqs.weight"), |_| ()).expect_err("one factor a pair");
    assert!(matches!(lengths, LoadError::TensorShape { .. }), "{lengths}");
}
