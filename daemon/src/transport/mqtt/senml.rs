//! SenML records (RFC 8428) as lines of text, with their base fields resolved (section 4.6).

use serde_json::{Map, Value};

use super::payload::PayloadError;

/// Times below this are relative to now (section 4.5.3).
const RELATIVE_BELOW: f64 = 268_435_456.0;

/// The version that is understood (section 4.1).
const VERSION: u64 = 10;

/// Fields of section 4 in JSON; a record may have others, which are passed over unless they end in `_`.
const VALUES: [&str; 4] = ["v", "vs", "vb", "vd"];

fn bad(reason: impl Into<String>) -> PayloadError {
    PayloadError::Senml { reason: reason.into() }
}

/// Whether a JSON array that nobody has called SenML is most likely that.
pub fn looks_like(records: &[Value]) -> bool {
    let is_record = |record: &Value| {
        record.as_object().is_some_and(|record| {
            let named = record.contains_key("n") || record.contains_key("bn");
            named && (VALUES.iter().any(|name| record.contains_key(*name)) || record.contains_key("s"))
        })
    };
    records.first().is_some_and(is_record)
}

/// What holds for the records that follow.
#[derive(Default)]
struct Base {
    name: String,
    time: f64,
    unit: String,
    value: f64,
    sum: f64,
}

/// One line a record: name, value, unit, and the time where it is not now.
///
/// # Errors
/// If it is not SenML, with the record that is not.
pub fn text(pack: &Value) -> Result<String, PayloadError> {
    let records = pack.as_array().ok_or_else(|| bad("a pack is an array of records"))?;
    let mut base = Base::default();
    let mut lines = Vec::new();
    for (index, record) in records.iter().enumerate() {
        let record = record.as_object().ok_or_else(|| bad(format!("record {index} is no object")))?;
        let told = |reason: String| bad(format!("record {index}: {reason}"));
        lines.extend(line(record, &mut base).map_err(told)?);
    }
    if lines.is_empty() {
        return Err(bad("no record has a value"));
    }
    Ok(lines.join("\n"))
}

fn line(record: &Map<String, Value>, base: &mut Base) -> Result<Option<String>, String> {
    if let Some(must) = record.keys().find(|name| name.ends_with('_')) {
        return Err(format!("{must:?} must be understood, and is not"));
    }
    let number = |name: &str| match record.get(name) {
        None => Ok(None),
        Some(value) => value.as_f64().map(Some).ok_or_else(|| format!("{name} is {value}, not a number")),
    };
    let string = |name: &str| match record.get(name) {
        None => Ok(None),
        Some(value) => value.as_str().map(Some).ok_or_else(|| format!("{name} is {value}, not a string")),
    };
    if let Some(version) = record.get("bver").filter(|found| found.as_u64().is_none_or(|v| v > VERSION)) {
        return Err(format!("version {version}; at most {VERSION} is understood"));
    }
    if let Some(name) = string("bn")? {
        name.clone_into(&mut base.name);
    }
    if let Some(unit) = string("bu")? {
        unit.clone_into(&mut base.unit);
    }
    base.time = number("bt")?.unwrap_or(base.time);
    base.value = number("bv")?.unwrap_or(base.value);
    base.sum = number("bs")?.unwrap_or(base.sum);

    let found: Vec<_> = VALUES.iter().copied().filter(|name| record.contains_key(*name)).collect();
    let value = match found[..] {
        [] => None,
        ["v"] => number("v")?.map(|value| (value + base.value).to_string()),
        ["vs"] => string("vs")?.map(str::to_owned),
        ["vd"] => string("vd")?.map(|data| format!("data {data}")),
        ["vb"] => {
            let value = record["vb"].as_bool();
            Some(value.ok_or_else(|| format!("vb is {}, not true or false", record["vb"]))?.to_string())
        }
        _ => return Err(format!("{} are given together; one value a record", found.join(" and "))),
    };
    let sum = number("s")?.map(|sum| format!("sum {}", sum + base.sum));
    let parts: Vec<_> = value.into_iter().chain(sum).collect();
    if parts.is_empty() {
        // Base fields alone are for the records that follow.
        return if record.contains_key("n") { Err("it has no value and no sum".into()) } else { Ok(None) };
    }
    let name = format!("{}{}", base.name, string("n")?.unwrap_or_default());
    if name.is_empty() {
        return Err("it has no name, neither n nor bn".into());
    }
    let mut line = format!("{name} {}", parts.join(" "));
    let unit = string("u")?.unwrap_or(&base.unit);
    if !unit.is_empty() {
        line += &format!(" {unit}");
    }
    let time = base.time + number("t")?.unwrap_or(0.0);
    if time != 0.0 {
        line += &if time < RELATIVE_BELOW { format!(" at {time:+} s") } else { format!(" at {time}") };
    }
    Ok(Some(line))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn base_fields_hold_for_what_follows() {
        // After the example of section 5.1.3.
        let pack = json!([
            {"bn": "urn:dev:ow:10e2073a0108006:", "bt": 1.276020076e9, "bu": "A", "bver": 5,
             "n": "voltage", "u": "V", "v": 120.1},
            {"n": "current", "t": -5, "v": 1.2},
            {"n": "current", "t": -4, "v": 1.3}
        ]);
        let lines = text(&pack).expect("it is SenML");
        assert_eq!(
            lines.lines().collect::<Vec<_>>(),
            [
                "urn:dev:ow:10e2073a0108006:voltage 120.1 V at 1276020076",
                "urn:dev:ow:10e2073a0108006:current 1.2 A at 1276020071",
                "urn:dev:ow:10e2073a0108006:current 1.3 A at 1276020072",
            ]
        );
        let pack = json!([
            {"bn": "d/", "bv": 20.0, "bs": 100.0},
            {"n": "t", "v": 1.5},
            {"n": "door", "vb": true},
            {"n": "log", "vs": "fan stopped", "t": -5},
            {"n": "flow", "s": 5.0, "bn": "e/"}
        ]);
        let lines = text(&pack).expect("it is SenML");
        assert_eq!(lines, "d/t 21.5\nd/door true\nd/log fan stopped at -5 s\ne/flow sum 105");
    }

    #[test]
    fn what_is_not_senml_is_told_with_its_record() {
        for (pack, words) in [
            (json!({}), "array"),
            (json!([1]), "record 0 is no object"),
            (json!([]), "no record has a value"),
            (json!([{"n": "a", "v": 1, "vs": "x"}]), "v and vs are given together"),
            (json!([{"n": "a", "v": "x"}]), "v is \"x\", not a number"),
            (json!([{"v": 1}]), "no name"),
            (json!([{"n": "a", "v": 1}, {"n": "b"}]), "record 1: it has no value"),
            (json!([{"n": "a", "v": 1, "strict_": 1}]), "must be understood"),
            (json!([{"n": "a", "v": 1, "bver": 11}]), "version 11"),
        ] {
            let message = text(&pack).expect_err("it is wrong").to_string();
            assert!(message.contains(words), "{message}");
        }
        assert!(
            !looks_like(&[json!(1)])
                && !looks_like(&[json!({"n": 1})])
                && looks_like(&[json!({"bn": "a", "v": 1})])
        );
    }
}
