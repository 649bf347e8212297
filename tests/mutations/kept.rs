//! Inputs that fuzzing found and that are kept: a file for each target in `fuzz/kept`, every input behind its length in 32 bits,
//! little-endian. They are read again in every run, and go into the corpus that fuzzing begins with.

use std::io;
use std::path::Path;

/// Targets of which inputs are kept; those that read whole model files begin with the seeds alone, which are large enough.
const KEPT: [(&str, &[u8]); 6] = [
    ("frame", include_bytes!("../../fuzz/kept/frame.bin")),
    ("line", include_bytes!("../../fuzz/kept/line.bin")),
    ("settings", include_bytes!("../../fuzz/kept/settings.bin")),
    ("task", include_bytes!("../../fuzz/kept/task.bin")),
    ("template", include_bytes!("../../fuzz/kept/template.bin")),
    ("tiles", include_bytes!("../../fuzz/kept/tiles.bin")),
];

/// What is kept for the target `name`.
pub fn inputs(name: &str) -> Vec<&'static [u8]> {
    let mut rest = KEPT.iter().find(|(kept, _)| *kept == name).map_or(&[][..], |(_, bytes)| bytes);
    let mut inputs = Vec::new();
    while let Some((length, after)) = rest.split_first_chunk() {
        let (input, after) = after.split_at(u32::from_le_bytes(*length) as usize);
        inputs.push(input);
        rest = after;
    }
    assert!(rest.is_empty(), "fuzz/kept/{name}.bin ends within a length");
    inputs
}

/// Keeps the files of `found/NAME`, such as `cargo fuzz cmin` leaves, for every target of which inputs are kept.
pub fn keep(found: &Path) -> io::Result<()> {
    for (name, _) in KEPT {
        let files = std::fs::read_dir(found.join(name))?.map(|file| std::fs::read(file?.path()));
        let mut inputs = files.collect::<io::Result<Vec<_>>>()?;
        // Whatever their files were called.
        inputs.sort_by_key(|input| (input.len(), input.clone()));
        let behind_length = |input: &Vec<u8>| [&(input.len() as u32).to_le_bytes()[..], input].concat();
        let bytes: Vec<u8> = inputs.iter().flat_map(behind_length).collect();
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/kept");
        std::fs::write(folder.join(format!("{name}.bin")), bytes)?;
    }
    Ok(())
}
