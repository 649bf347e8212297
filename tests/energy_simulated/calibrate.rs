//! `tern energy calibrate` on simulated boards.

use std::path::PathBuf;

use tern::calibration::plan::Extent;
use tern_boards::Machine;
use tern_boards::energy::{self, Scope};
use tern_tests::simulation::{Simulation, Work};

use crate::bench::{Simulated, job, model_of, plug, pmic, run};

/// Errors of the model on `count` loads that it has not seen, ten seconds each.
fn errors_on_unseen_loads(bench: &Simulated, count: usize) -> Vec<f64> {
    let mut meter = model_of(bench);
    let traffic = meter.traffic().expect("a model goes by traffic");
    let mut board = bench.board.borrow_mut();
    let mut errors = Vec::new();
    for _ in 0..count {
        let last_clock = board.clocks_mhz().len() as f64 - 0.01;
        let clock = board.uniform(0.0, last_clock) as usize;
        let mhz = board.clocks_mhz()[clock];
        board.hold(mhz);
        let threads = board.uniform(0.0, 4.99) as usize;
        let work = Work {
            cpus: (0..threads).collect(),
            duty: board.uniform(0.2, 1.0),
            memory: board.uniform(0.0, 1.0),
            mix: board.uniform(0.88, 1.17),
            bytes_per_second: None,
        };
        let (before, first) = (board.joules(), meter.sample(board.now()).expect("files that can be read"));
        for _ in 0..50 {
            traffic.add(board.advance(&work, 0.2));
            meter.sample(board.now()).expect("files that can be read");
        }
        let last = meter.sample(board.now()).expect("files that can be read");
        let found = (last.energy_uj - first.energy_uj) as f64 * 1e-6;
        errors.push((found / (board.joules() - before) - 1.0).abs());
    }
    assert_eq!(meter.faults(), energy::Faults::default());
    errors
}

#[test]
fn loads_never_seen_are_within_five_percent_and_the_interval_on_random_boards() {
    let boards = 16;
    for (name, pi_5) in [("Pi 4, plug of 0.1 W", false), ("Pi 5, PMIC", true)] {
        let (mut errors, mut inside, mut widths) = (Vec::new(), 0, Vec::new());
        for seed in 0..boards {
            let board = if pi_5 { Simulation::pi_5(seed) } else { Simulation::pi_4(seed) };
            let mut bench = Simulated::new(board);
            let said = if pi_5 {
                let mut gauge = pmic(&bench);
                run(&mut bench, &mut gauge, &job(Extent::Full, 4))
            } else {
                let mut gauge = plug(&bench, 0.1);
                run(&mut bench, &mut gauge, &job(Extent::Few, 30))
            };
            said.unwrap_or_else(|error| panic!("board {seed}: {error}"));
            let width = model_of(&bench).relative_uncertainty();
            let found = errors_on_unseen_loads(&bench, 20);
            inside += found.iter().filter(|error| **error <= width).count();
            errors.extend(found);
            widths.push(width);
        }
        errors.sort_by(f64::total_cmp);
        widths.sort_by(f64::total_cmp);
        let (median, covered) = (errors[errors.len() / 2], inside as f64 / errors.len() as f64);
        println!(
            "{name}: {} loads on {boards} boards: median error {:.2} %, 95 % of errors under {:.2} %, median interval +-{:.1} %, covers {:.1} %",
            errors.len(),
            median * 100.0,
            errors[errors.len() * 95 / 100] * 100.0,
            widths[widths.len() / 2] * 100.0,
            covered * 100.0
        );
        assert!(median <= 0.05, "{name}: median error {median}");
        assert!(covered >= 0.95, "{name}: covers {covered}");
        assert!(widths[widths.len() / 2] < 0.2, "{name}: an interval so wide says nothing: {widths:?}");
    }
}

#[test]
fn a_plug_of_whole_watts_is_refused_with_the_reason() {
    let mut bench = Simulated::new(Simulation::pi_4(1));
    let before = bench.board.borrow().limits();
    let mut gauge = plug(&bench, 1.0);
    let error = run(&mut bench, &mut gauge, &job(Extent::Few, 30)).expect_err("too coarse");
    assert!(error.contains("steps of 1.00 W") && error.contains("use a finer meter"), "{error}");
    assert_eq!(bench.board.borrow().limits(), before, "clocks are put back");
    assert!(written(&bench).is_empty(), "nothing is left behind");
}

/// Files among the overrides.
fn written(bench: &Simulated) -> Vec<PathBuf> {
    let folder = bench.root.resolve("/etc/tern/boards.d");
    std::fs::read_dir(folder).map_or(Vec::new(), |all| all.flatten().map(|entry| entry.path()).collect())
}

#[test]
fn clocks_are_put_back_and_nothing_is_written_when_the_user_ends_it() {
    let mut bench = Simulated::new(Simulation::pi_5(2));
    bench.patience = 9;
    let mut gauge = pmic(&bench);
    let error = run(&mut bench, &mut gauge, &job(Extent::Full, 2)).expect_err("interrupted");
    assert!(error.contains("interrupted; nothing was written"), "{error}");
    assert_eq!(bench.board.borrow().limits(), (1500, 2400));
    assert!(written(&bench).is_empty());
}

#[test]
fn a_calibration_is_not_overwritten_unless_told_and_is_the_boards_own() {
    let mut bench = Simulated::new(Simulation::pi_4(3));
    let mut gauge = plug(&bench, 0.1);
    let mut job = job(Extent::Few, 30);
    run(&mut bench, &mut gauge, &job).expect("a calibration");
    assert_eq!(written(&bench).len(), 1);
    let meter = model_of(&bench);
    assert_eq!((meter.scope(), meter.calibrated_at()), (Scope::Wall, Some("2026-01-20")));
    assert!(meter.source().contains("against a plug's display"), "{}", meter.source());
    let error = run(&mut bench, &mut gauge, &job).expect_err("it is there");
    assert!(error.contains("--force replaces it"), "{error}");
    job.force = true;
    run(&mut bench, &mut gauge, &job).expect("another one");
    // All that the compiled-in profile knew of the board is still there.
    let (machine, _) = Machine::with_meter(&bench.root);
    let profile = &machine.board.profile;
    assert_eq!((profile.name.as_str(), profile.recommended.threads), ("raspberry-pi-4b", Some(4)));
    assert!(profile.power.is_some() && profile.calibration.is_some());
}
