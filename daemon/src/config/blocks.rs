//! `i2s_blocks` of `[model]`.

use serde::Deserialize;
use tern_runtime::gguf::I2sBlocks;

use crate::model::reading::parse_i2s_blocks;

/// Weights in a block of I2_S, as a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "i64")]
pub struct BlocksOf(I2sBlocks);

impl BlocksOf {
    /// The blocks of so many weights.
    pub fn blocks(self) -> I2sBlocks {
        self.0
    }
}

impl TryFrom<i64> for BlocksOf {
    type Error = String;

    fn try_from(weights: i64) -> Result<Self, String> {
        parse_i2s_blocks(&weights.to_string()).map(BlocksOf)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::Config;
    use crate::model::{EngineChoice, ModelChoice};

    fn read(value: &str) -> Result<Config, String> {
        let text = format!("[model]\ni2s_blocks = {value}\n");
        Config::parse(Path::new("tern.toml"), &text).map_err(|error| error.to_string())
    }

    #[test]
    fn a_number_of_weights_is_taken_unless_the_command_line_says_another() {
        let said = |choice: Option<I2sBlocks>, value: &str| {
            let engine = EngineChoice { i2s_blocks: choice, ..EngineChoice::default() };
            let config = read(value).expect("there are such blocks");
            config.model_choice(&ModelChoice { path: None, engine }).engine.i2s_blocks
        };
        assert_eq!(said(None, "64"), Some(I2sBlocks::Of64));
        assert_eq!(said(None, "128"), Some(I2sBlocks::Of128));
        assert_eq!(said(Some(I2sBlocks::Of128), "64"), Some(I2sBlocks::Of128));
    }

    #[test]
    fn other_numbers_are_refused_with_their_line() {
        for value in ["32", "0", "-64"] {
            let error = read(value).expect_err("no such blocks");
            assert!(error.contains(":2:") && error.contains("128 or 64"), "{error}");
        }
        assert!(read("\"64\"").is_err());
    }
}
