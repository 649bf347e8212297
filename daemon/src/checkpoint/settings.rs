//! The JSON files of a checkpoint, read with a bound on their size, and looked up with errors that name file and key.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde_json::{Map, Value};

use super::CheckpointError;
use super::error::shown;

/// Largest file of settings; published ones have a few kilobytes.
const MOST_BYTES: u64 = 16 << 20;

/// The bytes of a file of at most `most_bytes`; `None` if there is none.
pub(super) fn read(path: &Path, most_bytes: u64) -> Result<Option<Vec<u8>>, CheckpointError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(CheckpointError::read(path)(error)),
    };
    let bytes = file.metadata().map_err(CheckpointError::read(path))?.len();
    if bytes > most_bytes {
        return Err(CheckpointError::TooLarge { path: path.to_owned(), bytes, most_bytes });
    }
    let mut content = Vec::new();
    file.take(most_bytes).read_to_end(&mut content).map_err(CheckpointError::read(path))?;
    Ok(Some(content))
}

/// A finite number above 0, in binary32 too.
fn number(value: &Value) -> Option<f64> {
    value.as_f64().filter(|number| (*number as f32).is_finite() && *number as f32 > 0.0)
}

/// One JSON object.
#[derive(Debug)]
pub(super) struct Settings {
    file: &'static str,
    map: Map<String, Value>,
}

impl Settings {
    /// The file of that name in `folder`, empty if there is none, and its bytes.
    pub fn open(folder: &Path, file: &'static str) -> Result<(Self, Vec<u8>), CheckpointError> {
        let path = folder.join(file);
        let Some(bytes) = read(&path, MOST_BYTES)? else {
            return Ok((Settings { file, map: Map::new() }, Vec::new()));
        };
        let map = serde_json::from_slice(&bytes).map_err(|error| CheckpointError::Json { path, error })?;
        Ok((Settings { file, map }, bytes))
    }

    /// The object `value` as if `file` held it.
    #[cfg(test)]
    pub fn of(file: &'static str, value: Value) -> Self {
        let Value::Object(map) = value else { panic!("{value} is no object") };
        Settings { file, map }
    }

    /// The value of a key; null is none.
    pub fn value(&self, key: &str) -> Option<&Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    /// The object under a key, if there is one.
    pub fn object(&self, key: &'static str) -> Result<Option<Settings>, CheckpointError> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::Object(map)) => Ok(Some(Settings { file: self.file, map: map.clone() })),
            Some(_) => Err(self.refused(key, "an object")),
        }
    }

    /// That a key says something else than `understood`.
    pub fn refused(&self, key: &str, understood: &'static str) -> CheckpointError {
        let found = self.map.get(key).map_or("nothing".to_owned(), |value| shown(&value.to_string()));
        CheckpointError::Setting { file: self.file, key: key.to_owned(), found, understood }
    }

    /// A whole number from 1 to below 2^32, if the key is there.
    pub fn count(&self, key: &str) -> Result<Option<u32>, CheckpointError> {
        let Some(value) = self.value(key) else { return Ok(None) };
        let number =
            value.as_u64().and_then(|number| u32::try_from(number).ok()).filter(|number| *number > 0);
        number.map(Some).ok_or_else(|| self.refused(key, "a whole number above 0"))
    }

    /// A whole number that must be there.
    pub fn required(&self, key: &str) -> Result<u32, CheckpointError> {
        self.count(key)?.ok_or_else(|| self.refused(key, "a whole number above 0"))
    }

    /// A finite number above 0, if the key is there.
    pub fn positive(&self, key: &str) -> Result<Option<f32>, CheckpointError> {
        Ok(self.positive_f64(key)?.map(|number| number as f32))
    }

    /// The same as the file has it, to be computed with; it is one above 0 in binary32, too.
    pub fn positive_f64(&self, key: &str) -> Result<Option<f64>, CheckpointError> {
        let Some(value) = self.value(key) else { return Ok(None) };
        number(value).map(Some).ok_or_else(|| self.refused(key, "a number above 0"))
    }

    /// So many finite numbers above 0.
    pub fn positives(
        &self,
        key: &str,
        count: usize,
        understood: &'static str,
    ) -> Result<Vec<f32>, CheckpointError> {
        let list = self.value(key).and_then(Value::as_array).filter(|list| list.len() == count);
        let numbers =
            list.and_then(|list| list.iter().map(|value| number(value).map(|n| n as f32)).collect());
        numbers.ok_or_else(|| self.refused(key, understood))
    }

    /// Whether any of its keys holds an object.
    pub fn has_objects(&self) -> bool {
        self.map.values().any(Value::is_object)
    }

    /// A text, if the key is there.
    pub fn text(&self, key: &str) -> Result<Option<&str>, CheckpointError> {
        let Some(value) = self.value(key) else { return Ok(None) };
        value.as_str().map(Some).ok_or_else(|| self.refused(key, "a text"))
    }

    /// Yes or no; `default` where the key is missing.
    pub fn flag(&self, key: &str, default: bool) -> Result<bool, CheckpointError> {
        match self.value(key) {
            None => Ok(default),
            Some(value) => value.as_bool().ok_or_else(|| self.refused(key, "true or false")),
        }
    }

    /// A token id or a list of them.
    pub fn ids(&self, key: &str) -> Result<Vec<u32>, CheckpointError> {
        let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
        let ids = match self.value(key) {
            None => return Ok(Vec::new()),
            Some(Value::Array(list)) => list.iter().map(id).collect(),
            Some(value) => id(value).map(|id| vec![id]),
        };
        ids.ok_or_else(|| self.refused(key, "a token id or a list of them"))
    }

    /// A token: its text, or an object with it as `content`.
    pub fn token(&self, key: &str) -> Option<&str> {
        let value = self.value(key)?;
        value.as_str().or_else(|| value.get("content")?.as_str())
    }
}
