//! Where the fields of a GGUF header lie, found by a reader of the tests' own.

/// A field of a header.
#[derive(Clone, Debug)]
pub struct Field {
    /// What it is: "number of keys", "blk.0.attn_q.weight: dimension 1".
    pub name: String,
    /// Where it begins.
    pub at: usize,
    /// Its length.
    pub bytes: usize,
}

/// All fields of a header. Of long tables the first three and the last entries are named one by one: the others are
/// read by the same code.
struct Walk<'f> {
    file: &'f [u8],
    at: usize,
    fields: Vec<Field>,
}

impl Walk<'_> {
    fn number(&mut self, name: &str, bytes: usize, note: bool) -> u64 {
        let mut value = [0; 8];
        value[..bytes].copy_from_slice(&self.file[self.at..self.at + bytes]);
        if note {
            self.fields.push(Field { name: name.into(), at: self.at, bytes });
        }
        self.at += bytes;
        u64::from_le_bytes(value)
    }

    fn string(&mut self, name: &str, note: bool) -> String {
        let length = self.number(&format!("{name}: length"), 8, note) as usize;
        let text = String::from_utf8_lossy(&self.file[self.at..self.at + length]).into_owned();
        if note {
            self.fields.push(Field { name: format!("{name}: text"), at: self.at, bytes: length });
        }
        self.at += length;
        text
    }

    fn value(&mut self, key: &str, ty: u64, note: bool) {
        match ty {
            0 | 1 | 7 => drop(self.number(key, 1, note)),
            2 | 3 => drop(self.number(key, 2, note)),
            4..=6 => drop(self.number(key, 4, note)),
            10..=12 => drop(self.number(key, 8, note)),
            8 => drop(self.string(key, note)),
            9 => {
                let element = self.number(&format!("{key}: element type"), 4, true);
                let count = self.number(&format!("{key}: count"), 8, true);
                for index in 0..count {
                    self.value(&format!("{key}[{index}]"), element, index < 3 || index + 1 == count);
                }
            }
            other => panic!("the synthetic model has a value of type {other}"),
        }
    }
}

/// The fields of the header of `file`, in their order.
///
/// # Panics
/// If it is no sound GGUF file.
#[must_use]
pub fn fields(file: &[u8]) -> Vec<Field> {
    let mut walk = Walk { file, at: 0, fields: Vec::new() };
    walk.number("magic", 4, true);
    walk.number("version", 4, true);
    let tensors = walk.number("number of tensors", 8, true);
    let keys = walk.number("number of keys", 8, true);
    for _ in 0..keys {
        let key = walk.string("key", true);
        let ty = walk.number(&format!("{key}: type"), 4, true);
        walk.value(&key, ty, true);
    }
    for _ in 0..tensors {
        let name = walk.string("tensor name", true);
        let rank = walk.number(&format!("{name}: rank"), 4, true);
        for dim in 0..rank {
            walk.number(&format!("{name}: dimension {dim}"), 8, true);
        }
        walk.number(&format!("{name}: type"), 4, true);
        walk.number(&format!("{name}: offset"), 8, true);
    }
    walk.fields
}
