//! Which parts of a mapped model file stay in memory while it runs.
//!
//! A mapping takes memory only for pages that are read. What every token reads must stay there, or each token waits for
//! the disk; the rest is read row by row, and the kernel may drop it whenever something else needs the room.

use tern_runtime::gguf::{Gguf, TensorInfo};
use tern_runtime::head::HeadKind;
use tern_runtime::head::planes::NAMES;
use tern_runtime::model::ternary::is_matrix;

/// Part of a mapped file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// What it is.
    pub name: &'static str,
    /// Its bytes.
    pub bytes: u64,
    /// Whether every token reads all of it.
    pub streamed: bool,
}

/// The parts of `gguf`, run with a head of this kind; `moved` says that the ternary weights are copied into the arena.
pub fn parts(gguf: &Gguf<'_>, head: HeadKind, moved: bool) -> Vec<Part> {
    let has = |name: &str| gguf.tensor(name).is_some();
    let in_planes = has(NAMES[0]) && head != HeadKind::File;
    let made = head == HeadKind::Int8 && !has(NAMES[0]);
    let head_name = if has("output.weight") { "output.weight" } else { "token_embd.weight" };
    let bytes = |want: &dyn Fn(&TensorInfo<'_>) -> bool| {
        gguf.tensors().filter(want).filter_map(|info| info.nbytes()).sum::<u64>()
    };
    let is = |names: &'static [&'static str]| move |info: &TensorInfo<'_>| names.contains(&info.name());
    let is_scales = |info: &TensorInfo<'_>| info.name().ends_with(".scales");
    let ternary = bytes(&|info| is_matrix(info) || is_scales(info));
    let embedding = bytes(&is(&["token_embd.weight"]));
    let own_head = bytes(&is(&["output.weight"]));
    let [high, low] = [bytes(&is(&[NAMES[0], NAMES[2]])), bytes(&is(&[NAMES[1]]))];
    let head_streams = !in_planes && !made;
    let part = |name, bytes, streamed| Part { name, bytes, streamed };
    let mut parts = vec![
        part("ternary weights", ternary, !moved),
        part("embedding, by rows", embedding, head_streams && head_name == "token_embd.weight"),
        part("head", own_head, head_streams),
        part("head, high plane", high, in_planes),
        part("head, low plane, by rows", low, false),
    ];
    let tensors: u64 = parts.iter().map(|part| part.bytes).sum();
    let norms = bytes(&|info| info.rows() == 1 && !is_matrix(info) && !is_scales(info));
    parts.push(part("norms", norms, true));
    let rest = gguf.file_bytes().saturating_sub(tensors + norms);
    parts.push(part("tokenizer, metadata, padding", rest, false));
    parts.retain(|part| part.bytes > 0);
    parts
}

/// Bytes that every token reads.
pub fn streamed_bytes(parts: &[Part]) -> u64 {
    parts.iter().filter(|part| part.streamed).map(|part| part.bytes).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aligned::Aligned;
    use crate::packing::Recipe;
    use tern_kernels::Layout;

    static TINY: &Aligned<[u8]> =
        &Aligned(*include_bytes!("../../../tests/fixtures/oracle/gguf/tiny-i2_s.gguf"));

    #[test]
    fn parts_add_up_to_the_file_and_an_int8_head_streams_less() {
        let source = Gguf::parse(&TINY.0).expect("a sound file");
        let recipe = Recipe { layout: Layout::T5R, int8_head: true };
        let packed = recipe.write(&source, "here", 1, Vec::new(), |_| ()).expect("it can be packed");
        let packed = Gguf::parse(&packed).expect("what we write");
        for (gguf, head) in [
            (&source, HeadKind::Stored),
            (&source, HeadKind::Int8),
            (&packed, HeadKind::Stored),
            (&packed, HeadKind::File),
        ] {
            let parts = parts(gguf, head, false);
            assert_eq!(parts.iter().map(|part| part.bytes).sum::<u64>(), gguf.file_bytes(), "{parts:?}");
        }
        let streamed = |gguf, head, moved| streamed_bytes(&parts(gguf, head, moved));
        let stored = streamed(&packed, HeadKind::Stored, false);
        assert!(stored < streamed(&packed, HeadKind::File, false));
        assert!(streamed(&source, HeadKind::Stored, true) < streamed(&source, HeadKind::Stored, false));
    }
}
