//! The governor before simulated boards. What is simulated: power that is idle power plus a part while the engine works,
//! and heat that flows from a die through a heat sink into the room.

use std::time::Duration;

use super::heat::HeatPace;
use super::power::PowerPace;
use super::{Governor, Why};

/// Numbers that look random, always the same for a seed.
struct Dice(u64);

impl Dice {
    fn share(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 11) as f64 / (1u64 << 53) as f64
    }

    fn between(&mut self, least: f64, most: f64) -> f64 {
        least + self.share() * (most - least)
    }
}

/// A board whose power is known, and what it drew at every moment.
struct Board {
    now_s: f64,
    drawn_j: f64,
    idle_w: f64,
    /// Time and joules.
    trace: Vec<(f64, f64)>,
    worked_s: f64,
}

impl Board {
    fn new(idle_w: f64) -> Self {
        Board { now_s: 0.0, drawn_j: 0.0, idle_w, trace: vec![(0.0, 0.0)], worked_s: 0.0 }
    }

    fn pass(&mut self, seconds: f64, watts: f64) {
        self.now_s += seconds;
        self.drawn_j += seconds * watts;
        self.trace.push((self.now_s, self.drawn_j));
    }

    fn now(&self) -> Duration {
        Duration::from_secs_f64(self.now_s)
    }

    fn uj(&self) -> Option<u64> {
        Some((self.drawn_j * 1e6) as u64)
    }

    /// Runs one step under the governor, which is asked until it lets it.
    fn step(&mut self, governor: &mut Governor, seconds: f64, watts: f64) {
        governor.reading(self.now(), self.uj());
        while let Some((pause, _)) = governor.pause(self.now(), Some(self.idle_w)) {
            self.pass(pause.as_secs_f64().clamp(1e-3, 0.1), self.idle_w);
            governor.reading(self.now(), self.uj());
        }
        let (began, began_uj) = (self.now(), self.uj());
        self.pass(seconds, watts);
        self.worked_s += seconds;
        governor.step(began, began_uj, self.now(), self.uj());
    }

    fn joules_at(&self, at_s: f64) -> f64 {
        let behind = self.trace.partition_point(|(at, _)| *at < at_s).clamp(1, self.trace.len() - 1);
        let ((a, before), (b, after)) = (self.trace[behind - 1], self.trace[behind]);
        if b <= a { after } else { before + (at_s - a) / (b - a) * (after - before) }
    }

    /// The highest mean power of any window that begins after `from_s`.
    fn worst_w(&self, from_s: f64, window_s: f64) -> f64 {
        let windows = ((self.now_s - window_s - from_s) / (window_s / 200.0)).max(0.0) as usize;
        let begins = (0..windows).map(|window| from_s + window as f64 * window_s / 200.0);
        begins
            .map(|begin| (self.joules_at(begin + window_s) - self.joules_at(begin)) / window_s)
            .fold(0.0, f64::max)
    }
}

fn power(budget_w: f64, window_s: f64) -> Governor {
    Governor::new(Some(PowerPace::new(budget_w, Duration::from_secs_f64(window_s))), None)
}

#[test]
fn a_busy_board_draws_its_budget_and_no_more() {
    let mut dice = Dice(1);
    for case in 0..60 {
        let idle_w = dice.between(0.5, 4.0);
        let work_w = idle_w + dice.between(1.0, 8.0);
        let budget_w = idle_w + dice.between(0.15, 0.95) * (work_w - idle_w);
        let window_s = dice.between(5.0, 60.0);
        // A step is short against the window, as one of a language model on a board is.
        let longest_s = 0.02 * window_s;
        let mut governor = power(budget_w, window_s);
        let mut board = Board::new(idle_w);
        while board.now_s < 6.0 * window_s {
            let (seconds, watts) = (dice.between(0.1, 1.0) * longest_s, work_w * dice.between(0.97, 1.03));
            board.step(&mut governor, seconds, watts);
        }
        let worst_w = board.worst_w(0.0, window_s);
        assert!(
            worst_w <= 1.03 * budget_w,
            "case {case}: {worst_w:.3} W of {budget_w:.3} W in {window_s:.0} s"
        );
        let allowed = (budget_w - idle_w) / (work_w - idle_w);
        let share = board.worked_s / board.now_s;
        assert!(
            share >= 0.9 * allowed,
            "case {case}: works {share:.3} of the time, {allowed:.3} are allowed"
        );
    }
}

#[test]
fn bursts_run_at_full_speed_while_the_window_has_room() {
    let mut dice = Dice(7);
    for case in 0..40 {
        let (idle_w, work_w) = (2.7, 8.0);
        let budget_w = dice.between(3.2, 7.0);
        let window_s = dice.between(10.0, 60.0);
        let mut governor = power(budget_w, window_s);
        let mut board = Board::new(idle_w);
        // One window of rest, read once a second.
        while board.now_s < window_s {
            board.pass(1.0, idle_w);
            governor.reading(board.now(), board.uj());
        }
        // The first steps after a rest are not held back.
        let (began_s, worked_s) = (board.now_s, 0.02 * window_s);
        for _ in 0..10 {
            board.step(&mut governor, worked_s / 10.0, work_w);
        }
        let took_s = board.now_s - began_s;
        assert!(
            took_s < 1.5 * worked_s,
            "case {case}: {took_s:.3} s for {worked_s:.3} s of work at {budget_w:.2} W"
        );
        while board.now_s < 8.0 * window_s {
            for _ in 0..(dice.between(1.0, 300.0) as usize) {
                board.step(&mut governor, dice.between(0.005, 0.15), work_w);
            }
            let rest_s = dice.between(0.0, window_s);
            for _ in 0..=(rest_s as usize) {
                board.pass(1.0, idle_w);
                governor.reading(board.now(), board.uj());
            }
        }
        let worst_w = board.worst_w(0.0, window_s);
        assert!(
            worst_w <= 1.03 * budget_w,
            "case {case}: {worst_w:.3} W of {budget_w:.3} W in {window_s:.0} s"
        );
    }
}

#[test]
fn what_cannot_be_kept_slows_down_and_never_stops() {
    // A budget below idle power: one twentieth of the time is work.
    let mut governor = power(2.0, 10.0);
    let mut board = Board::new(2.7);
    for _ in 0..100 {
        board.step(&mut governor, 0.1, 8.0);
    }
    let share = board.worked_s / board.now_s;
    assert!((0.045..0.06).contains(&share), "{share}");
    // One step that draws more than a window allows: one a window.
    let mut governor = power(3.0, 2.0);
    let mut board = Board::new(2.7);
    for _ in 0..5 {
        board.step(&mut governor, 4.0, 8.0);
    }
    assert!(board.now_s < 5.0 * (4.0 + 2.0) + 0.5, "{} s", board.now_s);
}

#[test]
fn a_meter_that_fails_leaves_the_pace_as_it_was() {
    let mut governor = power(5.0, 10.0);
    let mut board = Board::new(2.0);
    while board.now_s < 30.0 {
        board.step(&mut governor, 0.05, 8.0);
    }
    let (now, allowed) = (board.now(), 0.5);
    governor.step(now, board.uj(), now + Duration::from_millis(50), None);
    let (pause, why) = governor.pause(now + Duration::from_millis(50), None).expect("it goes on pausing");
    let share = 0.05 / (0.05 + pause.as_secs_f64());
    assert!(why == Why::Power && (share - allowed).abs() < 0.1, "{share} of the time is work");
}

#[test]
fn without_limits_nothing_is_held_back() {
    let mut governor = Governor::new(None, None);
    governor.reading(Duration::ZERO, Some(0));
    governor.temperature(Duration::ZERO, 99.0);
    governor.step(Duration::ZERO, Some(0), Duration::from_secs(1), Some(9_000_000));
    assert_eq!(governor.pause(Duration::from_secs(1), None), None);
}

/// A board's heat: a die on a heat sink in a room, and firmware that throttles at `throttle_c` until it has cooled by
/// `hysteresis_c`. Values are of the order of a Pi 4 without a fan; they are no measurement of one.
#[derive(Clone)]
struct Warm {
    room_c: f64,
    sink_c: f64,
    die_c: f64,
    idle_w: f64,
    /// At full clock.
    work_w: f64,
    throttle_c: f64,
    hysteresis_c: f64,
    /// Speed and dynamic power while throttled, as parts of those at full clock.
    slow: (f64, f64),
    throttled: bool,
}

impl Warm {
    /// Kelvin by watt from die to sink and from sink to room, and joules by kelvin of each.
    const DIE_K_W: f64 = 1.5;
    const DIE_J_K: f64 = 0.4;
    const ROOM_K_W: f64 = 8.0;
    const SINK_J_K: f64 = 18.0;

    fn passively_cooled(room_c: f64) -> Warm {
        Warm {
            room_c,
            sink_c: room_c,
            die_c: room_c,
            idle_w: 2.3,
            work_w: 6.8,
            throttle_c: 80.0,
            hysteresis_c: 5.0,
            slow: (0.4, 0.28),
            throttled: false,
        }
    }

    /// So many seconds with the engine at work or not; returns the die's temperature and the work done.
    fn pass(&mut self, seconds: f64, works: bool) -> (f64, f64) {
        let (speed, part) = if self.throttled { self.slow } else { (1.0, 1.0) };
        let watts = self.idle_w + if works { part * (self.work_w - self.idle_w) } else { 0.0 };
        let (up, away) =
            ((self.die_c - self.sink_c) / Self::DIE_K_W, (self.sink_c - self.room_c) / Self::ROOM_K_W);
        self.die_c += (watts - up) * seconds / Self::DIE_J_K;
        self.sink_c += (up - away) * seconds / Self::SINK_J_K;
        let die_c = self.die_c;
        match self.throttled {
            false if die_c >= self.throttle_c => self.throttled = true,
            true if die_c <= self.throttle_c - self.hysteresis_c => self.throttled = false,
            _ => {}
        }
        (die_c, if works { speed * seconds } else { 0.0 })
    }
}

/// What came of an hour: the highest temperature, work by hour at full speed, and seconds throttled after ten minutes.
struct Hour {
    hottest_c: f64,
    work: f64,
    throttled_s: f64,
}

fn hour(mut board: Warm, limit_c: Option<f64>) -> Hour {
    let mut governor = Governor::new(None, limit_c.map(HeatPace::new));
    let mut dice = Dice(3);
    let (mut now_s, mut read_s) = (0.0, 0.0);
    let mut hour = Hour { hottest_c: 0.0, work: 0.0, throttled_s: 0.0 };
    let mut die_c = board.room_c;
    while now_s < 3600.0 {
        if now_s >= read_s {
            governor.temperature(Duration::from_secs_f64(now_s), (die_c + dice.between(-0.5, 0.5)).round());
            read_s = now_s + 1.0;
        }
        let now = Duration::from_secs_f64(now_s);
        let (seconds, works) = match governor.pause(now, None) {
            Some((pause, _)) => (pause.as_secs_f64().clamp(1e-3, 0.1), false),
            None => (0.08, true),
        };
        let (c, work) = board.pass(seconds, works);
        now_s += seconds;
        if works {
            let ended = Duration::from_secs_f64(now_s);
            governor.step(now, None, ended, None);
        }
        die_c = c;
        hour.hottest_c = hour.hottest_c.max(c);
        hour.work += work / 3600.0;
        hour.throttled_s += if board.throttled && now_s > 600.0 { seconds } else { 0.0 };
    }
    hour
}

#[test]
fn a_warm_board_stays_under_its_limit_and_is_not_throttled() {
    for room_c in [15.0, 25.0, 35.0, 45.0] {
        let board = Warm::passively_cooled(room_c);
        let (left, held) = (hour(board.clone(), None), hour(board.clone(), Some(78.0)));
        println!(
            "room {room_c} C: left alone {:.1} C, work {:.3}, throttled {:.0} s; held {:.1} C, work {:.3}",
            left.hottest_c, left.work, left.throttled_s, held.hottest_c, held.work
        );
        // Where the room leaves little, the way up is steep, and a reading a second sees it late.
        let most_c = if room_c < 40.0 { 78.0 } else { 79.0 };
        assert!(held.hottest_c < most_c && held.throttled_s == 0.0, "{:.2} C at {room_c} C", held.hottest_c);
        // Firmware that lowers the voltage with the clock does more work in the same heat than pauses at full clock can:
        // steady, and cooler, is what they give instead. docs/energy.md has these figures.
        assert!(held.work > 0.5 * left.work, "{} of {} at {room_c} C", held.work, left.work);
    }
    let fan = Warm { room_c: 25.0, work_w: 4.0, ..Warm::passively_cooled(25.0) };
    assert!(hour(fan, Some(78.0)).work > 0.999, "a cool board is left alone");
}

#[test]
fn the_share_comes_back_when_it_is_cool_again() {
    let mut heat = HeatPace::new(70.0);
    for second in 0..120 {
        heat.temperature(Duration::from_secs(second), 85.0);
    }
    assert!(heat.share() <= 0.05 + 1e-9);
    assert_eq!(heat.pause_after(Duration::from_millis(10)).as_millis(), 190);
    for second in 120..200 {
        heat.temperature(Duration::from_secs(second), 45.0);
    }
    assert!((heat.share() - 1.0).abs() < 1e-9);
    assert_eq!(heat.pause_after(Duration::from_millis(10)), Duration::ZERO);
}
