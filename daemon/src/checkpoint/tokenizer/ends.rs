//! Where texts begin and end, and the form of a conversation.
//!
//! - The begin token: `bos_token` of tokenizer_config.json or special_tokens_map.json by its text, else what the
//!   post-processor puts in front, else `bos_token_id` of generation_config.json or config.json.
//! - The end tokens: `eos_token` likewise, then every `eos_token_id` of those two files. The first is the end of a text
//!   (`eos_token_id` in the GGUF), the second the end of a turn (`eot_token_id`); further ones are found by their text when
//!   the file is read.
//! - The begin token is put in front of a prompt if the post-processor of tokenizer.json does so, and where it has no
//!   template, if `add_bos_token` of tokenizer_config.json says so.

use std::path::Path;

use serde_json::Value;
use tern_runtime::gguf::Header;

use super::byte_level::{kind, steps};
use super::json::File;
use super::{CONTROL, refused};
use crate::checkpoint::CheckpointError;
use crate::checkpoint::settings::{self, Settings};

/// Largest chat_template.jinja.
const MOST_TEMPLATE_BYTES: u64 = 1 << 20;

/// Begin, ends and template.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ends {
    bos: Option<u32>,
    eos: Option<u32>,
    end_of_turn: Option<u32>,
    add_bos: bool,
    template: Option<String>,
}

impl Ends {
    /// Looks them up in the files of `folder`, and hands back the bytes of those.
    pub fn open(
        folder: &Path,
        config: &Settings,
        file: &File<'_>,
        tokens: &[String],
        types: &[i32],
    ) -> Result<(Self, Vec<u8>), CheckpointError> {
        let (tokenizer, mut texts) = Settings::open(folder, "tokenizer_config.json")?;
        let (map, map_bytes) = Settings::open(folder, "special_tokens_map.json")?;
        let (generation, generation_bytes) = Settings::open(folder, "generation_config.json")?;
        let jinja = settings::read(&folder.join("chat_template.jinja"), MOST_TEMPLATE_BYTES)?;
        texts.extend(map_bytes.iter().chain(&generation_bytes).chain(jinja.iter().flatten()));
        let by_text = |key: &'static str| -> Result<Option<u32>, CheckpointError> {
            let Some((settings, text)) =
                [&tokenizer, &map].into_iter().find_map(|settings| Some((settings, settings.token(key)?)))
            else {
                return Ok(None);
            };
            // A special token before an ordinary one that is spelled the same.
            let found = |special: bool| {
                tokens.iter().zip(types).position(|(token, ty)| token == text && (*ty == CONTROL || !special))
            };
            let id = found(true).or_else(|| found(false));
            id.map(|id| Some(id as u32)).ok_or_else(|| settings.refused(key, "a token of the vocabulary"))
        };
        let by_id = |key: &'static str| -> Result<Vec<u32>, CheckpointError> {
            let mut ids = Vec::new();
            for settings in [&generation, config] {
                for id in settings.ids(key)? {
                    if id as usize >= tokens.len() {
                        return Err(settings.refused(key, "ids below vocab_size"));
                    }
                    ids.push(id);
                }
            }
            Ok(ids)
        };
        let front = front(&file.post_processor)?;
        let bos = match (by_text("bos_token")?, &front) {
            (Some(bos), _) => Some(bos),
            // What stands in front of a text begins it, whatever ids config.json has.
            (None, Some(Some(text))) => tokens.iter().position(|token| token == text).map(|id| id as u32),
            (None, _) => by_id("bos_token_id")?.first().copied(),
        };
        let mut ends: Vec<u32> = Vec::new();
        for id in by_text("eos_token")?.into_iter().chain(by_id("eos_token_id")?) {
            if !ends.contains(&id) {
                ends.push(id);
            }
        }
        let template = match jinja {
            Some(bytes) => Some(String::from_utf8_lossy(&bytes).into_owned()),
            None => template(&tokenizer),
        };
        let add_bos = match &front {
            Some(Some(text)) if bos.and_then(|bos| tokens.get(bos as usize)) != Some(text) => {
                let understood =
                    "the begin token and a text; tokenizer_config.json names another begin token";
                return Err(refused("post_processor", text, understood));
            }
            Some(front) => front.is_some(),
            None => tokenizer.flag("add_bos_token", false)? && bos.is_some(),
        };
        let (eos, end_of_turn) = (ends.first().copied(), ends.get(1).copied());
        Ok((Ends { bos, eos, end_of_turn, add_bos, template }, texts))
    }

    /// Adds the keys.
    pub fn write(&self, header: &mut Header) {
        for (key, id) in [("bos", self.bos), ("eos", self.eos), ("eot", self.end_of_turn)] {
            if let Some(id) = id {
                header.u32(&format!("tokenizer.ggml.{key}_token_id"), id);
            }
        }
        header.bool("tokenizer.ggml.add_bos_token", self.add_bos);
        if let Some(template) = &self.template {
            header.str("tokenizer.chat_template", template);
        }
    }
}

/// The template in tokenizer_config.json: a text, or the one called default of a list.
fn template(tokenizer: &Settings) -> Option<String> {
    let value = tokenizer.value("chat_template")?;
    let list = value.as_array().into_iter().flatten();
    let mut named = list.filter(|entry| entry.get("name").and_then(Value::as_str) == Some("default"));
    let text = value.as_str().or_else(|| named.next()?.get("template")?.as_str());
    text.map(str::to_owned)
}

/// What a template of the post-processor puts in front of a text; `None` if there is no template.
fn front(processor: &Value) -> Result<Option<Option<String>>, CheckpointError> {
    let mut front = None;
    for step in steps(processor) {
        match kind(step) {
            "ByteLevel" => {}
            "TemplateProcessing" => {
                let pieces = step.get("single").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
                let special =
                    |piece: &Value| Some(piece.get("SpecialToken")?.get("id")?.as_str()?.to_owned());
                front = match pieces {
                    [text] if special(text).is_none() => Some(None),
                    [begin, text] if special(begin).is_some() && special(text).is_none() => {
                        Some(special(begin))
                    }
                    _ => {
                        let found = step.get("single").unwrap_or(step).to_string();
                        return Err(refused(
                            "post_processor",
                            &found,
                            "a text, or the begin token and a text",
                        ));
                    }
                };
            }
            _ => {
                let understood = "none, ByteLevel or TemplateProcessing";
                return Err(refused("post_processor", &step.to_string(), understood));
            }
        }
    }
    Ok(front)
}
