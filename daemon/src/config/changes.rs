//! Which keys of a configuration file differ from another one's.

use std::collections::BTreeMap;

use toml::{Table, Value};

/// Keys with their sections that have another value in `after` than in `before`, or are in one of them only. A list of
/// tables counts as one key. A text that is not TOML has no keys.
pub fn changed_keys(before: &str, after: &str) -> Vec<String> {
    let (before, after) = (keys(before), keys(after));
    let differs = |key: &&String| before.get(*key) != after.get(*key);
    let mut changed: Vec<String> = before.keys().chain(after.keys()).filter(differs).cloned().collect();
    changed.sort();
    changed.dedup();
    changed
}

fn keys(text: &str) -> BTreeMap<String, Value> {
    let mut keys = BTreeMap::new();
    if let Ok(table) = toml::from_str::<Table>(text) {
        collect("", table, &mut keys);
    }
    keys
}

fn collect(section: &str, table: Table, keys: &mut BTreeMap<String, Value>) {
    for (key, value) in table {
        let key = if section.is_empty() { key } else { format!("{section}.{key}") };
        match value {
            Value::Table(table) => collect(&key, table, keys),
            value => drop(keys.insert(key, value)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_differs_is_named() {
        let before =
            "log = 'info'\n[limits]\nqueue = 5\n[mqtt.tls]\nca = { file = 'a' }\n[[watch]]\ntopic = 'a'\n";
        assert_eq!(changed_keys(before, before), [""; 0]);
        let after = "# a comment\n[mqtt]\ntls.ca = { file = 'b' }\n[limits]\nqueue = 5\nclients = 3\n[[watch]]\n\
                     topic = 'a'\n[[watch]]\ntopic = 'b'\n";
        assert_eq!(changed_keys(before, after), ["limits.clients", "log", "mqtt.tls.ca.file", "watch"]);
    }
}
