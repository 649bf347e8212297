//! Profiles are read, recognised and refused.

use super::*;

#[test]
fn every_built_in_profile_parses_and_no_two_answer_to_the_same_name() {
    let mut taken = std::collections::HashSet::new();
    for (origin, text) in BUILT_IN {
        let profile = Profile::parse(origin, text).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(*origin, format!("{}.toml", profile.name), "file and profile name differ");
        for name in profile.compatible.iter().chain(&profile.dmi_product).chain([&profile.name]) {
            assert!(taken.insert(name.clone()), "{name} is claimed twice");
        }
    }
}

#[test]
fn every_figure_names_its_source_and_date_and_generic_profiles_hold_none() {
    for profile in built_in() {
        let read = profile.memory.iter().filter_map(|memory| memory.read_mb_per_s.as_ref());
        let power = profile.power.iter().flat_map(|power| [&power.idle_w, &power.load_w]);
        for figure in read.chain(power) {
            let name = &profile.name;
            assert!(figure.source.len() > 20, "{name}: {:?} is not a source", figure.source);
            let year: u32 = figure.date.get(..4).and_then(|year| year.parse().ok()).unwrap_or(0);
            assert!((2012..2100).contains(&year), "{name}: {:?} is not a date", figure.date);
        }
        for cache in profile.clusters.iter().filter_map(|cluster| cluster.cache.as_ref()) {
            assert!(cache.source.len() > 20 && cache.date.starts_with("20"), "{}: {cache:?}", profile.name);
            assert!((64..=65_536).contains(&cache.l2_kib), "{}: {cache:?}", profile.name);
        }
        if profile.generic_arch.is_some() {
            assert_eq!(profile.power, None, "{} must not claim watts", profile.name);
        }
        assert_eq!(profile.calibration, None, "{}: a calibration is of one board", profile.name);
    }
}

#[test]
fn mistakes_are_named_with_their_line() {
    let base = "name = \"x\"\ntitle = \"X\"\ncompatible = [\"a,x\"]\n";
    assert!(Profile::parse("x.toml", base).is_ok());
    let message =
        |extra: &str| Profile::parse("x.toml", &format!("{base}{extra}")).expect_err(extra).to_string();
    assert!(
        message("wats = 3\n").contains("line 4: wats: unknown key; there are name"),
        "{}",
        message("wats = 3\n")
    );
    assert!(message("titel = 3\n").contains("did you mean title?"), "{}", message("titel = 3\n"));
    let slip = message("[power]\nscope = \"wall\"\nidel_w = 3\n");
    assert!(slip.contains("line 6: power.idel_w: unknown key; did you mean idle_w?"), "{slip}");
    assert!(message("features = [\"warp\"]\n").contains("warp"));
    assert!(message("[recommended]\nthreads = 0\n").contains("at least 1"));
    assert!(message("[[cluster]]\ncore = \"c\"\ncount = 0\nmax_mhz = 1\n").contains("count"));
    let power = |idle: &str, load: &str| {
        format!(
            "[power]\nscope = \"wall\"\nidle_w = {{ value = {idle}, source = \"s\", date = \"2024\" }}\n\
             load_w = {{ value = {load}, source = \"s\", date = \"2024\" }}\n"
        )
    };
    for (idle, load) in [("3.0", "2.0"), ("0.0", "2.0"), ("nan", "2.0"), ("1.0", "inf")] {
        assert!(message(&power(idle, load)).contains("idle_w <= load_w"), "{idle} {load}");
    }
    assert!(
        Profile::parse("x.toml", "name = \"x\"\ntitle = \"X\"\n").unwrap_err().problem.contains("compatible")
    );
    assert!(
        Profile::parse("x.toml", "name = \"X y\"\ntitle = \"X\"\n").unwrap_err().problem.contains("hyphens")
    );
}
