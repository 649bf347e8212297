//! The transcripts of `docs/energy.md` are what the commands say on these two boards.

use tern::calibration::plan::Extent;
use tern::sweep::report;
use tern_boards::Machine;
use tern_boards::energy::Meter;
use tern_tests::simulation::Simulation;

use crate::bench::{Simulated, job, model_of, plug, pmic, run};
use crate::sweep::{LARGE, swept};

const PAGE: &str = include_str!("../../docs/energy.md");

fn sweep_page(bench: &Simulated, meter: &mut dyn Meter) -> String {
    let found = swept(bench, meter, LARGE).expect("a sweep");
    format!("read by {}\n{}", meter.source(), report::page(&found))
}

/// Shows what was said, and asks that the block of the page called `name` is that, but for lines left out at each `...`.
fn on_the_page(name: &str, said: &str) {
    println!("--- {name}\n{said}---");
    let begin = format!("```text {name}\n");
    let (_, rest) =
        PAGE.split_once(&begin).unwrap_or_else(|| panic!("docs/energy.md has no block {begin:?}"));
    let (block, _) = rest.split_once("```").expect("the block has an end");
    let mut left = said;
    for part in block.split("...\n") {
        let place = left.find(part);
        let place =
            place.unwrap_or_else(|| panic!("{name} does not say (any more, or in this order):\n{part}"));
        left = &left[place + part.len()..];
    }
    assert!(
        left.is_empty() || block.ends_with("...\n"),
        "docs/energy.md leaves out the end of {name}:\n{left}"
    );
}

#[test]
fn the_page_shows_a_pi_4_with_a_plug() {
    let mut bench = Simulated::new(Simulation::pi_4(4));
    let mut gauge = plug(&bench, 0.1);
    let said = run(&mut bench, &mut gauge, &job(Extent::Few, 60)).expect("a calibration");
    on_the_page("calibrate-pi-4", &said);
    let mut meter = model_of(&bench);
    on_the_page("sweep-pi-4", &sweep_page(&bench, &mut *meter));
    let mut coarse = Simulated::new(Simulation::pi_4(4));
    let mut gauge = plug(&coarse, 1.0);
    let refused = run(&mut coarse, &mut gauge, &job(Extent::Few, 60)).expect_err("whole watts");
    on_the_page("calibrate-pi-4-whole-watts", &format!("tern: {refused}\n"));
}

#[test]
fn the_page_shows_a_pi_5_with_its_pmic() {
    let mut bench = Simulated::new(Simulation::pi_5(5));
    let mut gauge = pmic(&bench);
    let said = run(&mut bench, &mut gauge, &job(Extent::Full, 8));
    on_the_page("calibrate-pi-5", &said.expect("a calibration"));
    let mut meter = Machine::with_meter(&bench.root).1.expect("the PMIC");
    on_the_page("sweep-pi-5", &sweep_page(&bench, &mut *meter));
}
