//! A calibration for people, and as a board's profile.

use std::fmt::Write as _;

use tern_boards::energy::model::Calibration;
use tern_boards::profile::{Board, Match, OVERRIDE_FOLDER, Profile};

use super::run::Calibrated;
use crate::figures;
use crate::table::{Align, Table};

/// The loads as they were measured and as the model has them, and what the model is.
pub fn page(calibrated: &Calibrated) -> String {
    let Calibrated { calibration, loads, .. } = calibrated;
    let mut table = Table::new([Align::Left, Align::Right, Align::Right, Align::Right]).indented(2);
    table.row(["load", "measured", "model", "error"]);
    for load in loads {
        let measured_w = load.joules / load.activity.seconds;
        let model_w = calibration.joules(&load.activity) / load.activity.seconds;
        let error = (model_w / measured_w - 1.0) * 100.0;
        table.row([
            load.name.clone(),
            format!("{measured_w:.2} W"),
            format!("{model_w:.2} W"),
            format!("{error:+.1} %"),
        ]);
    }
    let mut page = table.render();
    page += &summary(calibration);
    page
}

/// What a calibration is, in a few lines.
fn summary(calibration: &Calibration) -> String {
    let mut text =
        format!("at rest {:.2} W; a gigabyte from memory {:.2} J\n", calibration.idle_w, calibration.byte_nj);
    let mut clusters: Vec<usize> = calibration.cores.iter().map(|core| core.cluster).collect();
    clusters.dedup();
    for &cluster in &clusters {
        let of = calibration.cores.iter().filter(|core| core.cluster == cluster);
        let each: Vec<String> = of.map(|core| format!("{:.2} W at {} MHz", core.watts, core.mhz)).collect();
        let which = if clusters.len() > 1 { format!(" of cluster {cluster}") } else { String::new() };
        // Writing to a string cannot fail.
        let _ = writeln!(text, "a busy core{which} {}", each.join(", "));
    }
    let _ = writeln!(
        text,
        "held-out loads are predicted with a median error of {:.1} %; 95 % interval, the meter's own included, +-{:.1} %",
        calibration.median_error * 100.0,
        calibration.relative_uncertainty * 100.0
    );
    text
}

/// The profile of the very board `board`, whose device tree calls it `names`.
///
/// A board that no profile names gets one that does: by what its firmware calls it, else by its architecture.
pub fn named(board: &Board, names: &[String]) -> Profile {
    let mut profile = board.profile.clone();
    if board.matched == Match::Generic {
        let title = board.model.clone().unwrap_or_else(|| profile.title.clone());
        profile.name = slug(&title);
        profile.title = title;
        if let Some(first) = names.first() {
            profile.compatible = vec![first.clone()];
            profile.generic_arch = None;
        } else if let Some(model) = &board.model {
            profile.dmi_product = vec![model.clone()];
            profile.generic_arch = None;
        }
    }
    profile
}

/// The usual place of `profile`.
pub fn usual_place(profile: &Profile) -> String {
    format!("{OVERRIDE_FOLDER}/{}.toml", profile.name)
}

/// The text of the file.
pub fn file(profile: &Profile, calibrated: &Calibrated) -> Result<String, toml::ser::Error> {
    let calibration = &calibrated.calibration;
    let mut text = format!(
        "# Made by `tern energy calibrate`{} against {}.\n# {}, held-out median error {:.1} %, 95 % interval +-{:.1} %.\n\
         # It replaces the compiled-in profile of the same board and holds all that was in it.\n#\n",
        calibration.date.as_deref().map(|date| format!(" on {date}")).unwrap_or_default(),
        calibration.against.as_deref().unwrap_or("a meter"),
        figures::counted(calibration.loads, "load"),
        calibration.median_error * 100.0,
        calibration.relative_uncertainty * 100.0,
    );
    for load in &calibrated.loads {
        let seconds = load.activity.seconds;
        let _ = writeln!(
            text,
            "# {}: measured {:.3} W, model {:.3} W",
            load.name,
            load.joules / seconds,
            calibration.joules(&load.activity) / seconds
        );
    }
    Ok(text + "\n" + &toml::to_string(profile)?)
}

/// Letters and digits of `title`, with hyphens between.
fn slug(title: &str) -> String {
    let lower = title.to_ascii_lowercase();
    let words = lower.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    let slug = words.collect::<Vec<_>>().join("-");
    if slug.is_empty() { "this-board".to_owned() } else { slug }
}
