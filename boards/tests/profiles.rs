//! Every board's profile says everything about it, or why not.

use tern_boards::profile::{Figure, Profile, built_in};

/// What a profile must say, by the name under which `[missing]` may excuse it, and whether this one does.
fn said(profile: &Profile) -> Vec<(&'static str, bool)> {
    let thermal = profile.thermal.as_ref();
    let memory = profile.memory.as_ref();
    let clusters = &profile.clusters;
    vec![
        ("names", !profile.compatible.is_empty() || !profile.dmi_product.is_empty()),
        ("clusters", !clusters.is_empty()),
        ("features", !profile.features.is_empty()),
        ("max_mhz", clusters.iter().all(|cluster| cluster.max_mhz.is_some())),
        ("cache", clusters.iter().all(|cluster| cluster.cache.is_some())),
        ("memory", memory.is_some_and(|memory| !memory.kind.is_empty() && !memory.sizes_mib.is_empty())),
        ("bandwidth", memory.is_some_and(|memory| memory.read_mb_per_s.is_some())),
        ("power", profile.power.is_some()),
        ("sensors", !profile.sensors.is_empty()),
        ("thermal", thermal.is_some_and(|thermal| !thermal.zones.is_empty())),
        // Without zones there is nothing to be hot.
        ("throttle_c", thermal.is_none_or(|thermal| thermal.throttle_c.is_some())),
        ("threads", profile.recommended.threads.is_some()),
        ("kernels", !profile.recommended.kernels.is_empty()),
    ]
}

/// What is wrong with a profile: left out without a reason, a reason for what is there, or for what nobody asked.
fn complaints(profile: &Profile) -> Vec<String> {
    let said = said(profile);
    let mut complaints = Vec::new();
    for (name, is_said) in &said {
        match (is_said, profile.missing.get(*name)) {
            (false, None) => complaints.push(format!("{name} is missing, and [missing] does not say why")),
            (false, Some(why)) if why.len() < 20 => complaints.push(format!("{name}: {why:?} is no reason")),
            (true, Some(_)) => complaints.push(format!("{name} is there and called missing")),
            _ => {}
        }
    }
    let unknown = profile.missing.keys().filter(|key| !said.iter().any(|(name, _)| name == key));
    complaints.extend(unknown.map(|key| format!("[missing] speaks of {key}, which no profile has")));
    complaints
}

fn figures(profile: &Profile) -> Vec<&Figure> {
    let power = profile.power.iter().flat_map(|power| [&power.idle_w, &power.load_w]);
    let thermal = profile.thermal.iter().flat_map(|t| [&t.throttle_c, &t.critical_c]).flatten();
    let bandwidth = profile.memory.iter().filter_map(|memory| memory.read_mb_per_s.as_ref());
    power.chain(thermal).chain(bandwidth).collect()
}

#[test]
fn every_profile_says_everything_or_why_not() {
    let mut boards = 0;
    for profile in built_in().filter(|profile| profile.generic_arch.is_none()) {
        assert_eq!(complaints(&profile), [""; 0], "{}", profile.name);
        for figure in figures(&profile) {
            assert!(
                figure.source.len() > 20 && figure.date.starts_with("20"),
                "{}: {figure:?}",
                profile.name
            );
        }
        boards += 1;
    }
    assert_eq!(boards, 20);
}

#[test]
fn the_recommended_kernels_are_of_the_boards_architecture_and_features() {
    for profile in built_in().filter(|profile| profile.generic_arch.is_none()) {
        for name in &profile.recommended.kernels {
            let needs = name.split('-').nth(2).expect("architecture, weights, instructions");
            let has = needs == "neon" || profile.features.iter().any(|feature| feature == needs);
            assert!(name.starts_with("aarch64-") && has, "{}: {name}", profile.name);
        }
        assert!(profile.recommended.kernels.len() >= 3, "{}", profile.name);
    }
}

#[test]
fn a_profile_that_leaves_something_out_is_refused() {
    let whole = built_in().find(|profile| profile.name == "raspberry-pi-5").expect("it is there");
    assert_eq!(complaints(&whole), [""; 0]);
    let without = |change: &dyn Fn(&mut Profile)| {
        let mut profile = whole.clone();
        change(&mut profile);
        complaints(&profile)
    };
    assert_eq!(without(&|p| p.power = None), ["power is missing, and [missing] does not say why"]);
    assert_eq!(
        without(&|p| p.recommended.kernels.clear()),
        ["kernels is missing, and [missing] does not say why"]
    );
    let hot = without(&|p| p.thermal.as_mut().expect("it has zones").throttle_c = None);
    assert_eq!(hot, ["throttle_c is missing, and [missing] does not say why"]);
    let told = |key: &str, why: &str| without(&|p| drop(p.missing.insert(key.to_owned(), why.to_owned())));
    assert_eq!(told("power", "nobody has ever measured it"), ["power is there and called missing"]);
    assert_eq!(
        told("colour", "it is green, as boards are"),
        ["[missing] speaks of colour, which no profile has"]
    );
    let short = without(&|p| {
        p.sensors.clear();
        p.missing.insert("sensors".into(), "no".into());
    });
    assert_eq!(short, ["sensors: \"no\" is no reason"]);
}
