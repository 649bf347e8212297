//! The outbox on a disk.

use super::*;

fn open(folder: &Path) -> Outbox {
    Outbox::open(folder, 64 << 10, 600_000).expect("the folder can be written")
}

fn reply_to(correlation: &str) -> ReplyTo {
    let correlation = (!correlation.is_empty()).then(|| correlation.as_bytes().to_vec());
    ReplyTo {
        topic: "answers/me".into(),
        correlation,
        id: "7".into(),
        retain: false,
        expires: None,
        properties: vec![],
    }
}

fn reply(text: &str) -> Reply {
    Reply { status: 200, payload: text.into(), properties: vec![("status".into(), "200".into())] }
}

fn request() -> Option<Box<Request>> {
    Some(Box::new(Request::task("1", "log-severity", "fan stopped")))
}

#[test]
fn every_stage_survives_the_process() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut outbox = open(folder.path());
    outbox.note_session(&["tern/pi/+/request".into()]);
    let waiting = outbox.ask(reply_to("a"), 1, Some(4), request());
    let answered = outbox.ask(reply_to("b"), 2, Some(5), request());
    let delivered = outbox.ask(reply_to("c"), 3, None, request());
    let forgotten = outbox.ask(reply_to("d"), 4, None, request());
    for number in [answered, delivered, forgotten] {
        outbox.answer(number, reply("{\"text\":\"\\u00e9\"}"));
    }
    outbox.delivered(delivered);
    outbox.forget(forgotten);
    let before = outbox.entries.clone();
    drop(outbox);
    let mut outbox = open(folder.path());
    assert_eq!(outbox.session(), Some(&["tern/pi/+/request".to_owned()][..]));
    for (number, mut entry) in before {
        (entry.unacknowledged, entry.tries) = (false, 1);
        assert_eq!(outbox.entry(number), Some(&entry));
    }
    assert_eq!((outbox.entries.len(), outbox.waiting()), (3, 1));
    let Some(Stage::Waiting(kept)) = outbox.entry(waiting).map(|entry| &entry.stage) else {
        panic!("it waits")
    };
    assert_eq!(kept.text.as_deref(), Some("fan stopped"));
    assert_eq!(outbox.find(&reply_to("c"), 3, None), Some(delivered));
    assert!(outbox.ask(reply_to("e"), 5, None, request()) > forgotten);
    outbox.rewrite();
    let before = outbox.entries.clone();
    drop(outbox);
    assert_eq!(open(folder.path()).entries.len(), before.len());
}

#[test]
fn the_same_request_is_found_and_a_different_one_is_not() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut outbox = open(folder.path());
    let known = outbox.ask(reply_to("a"), 1, Some(4), request());
    let nameless = outbox.ask(reply_to(""), 2, Some(5), request());
    assert_eq!(outbox.find(&reply_to("a"), 1, None), Some(known));
    // Other content under the same name, another name, another topic.
    assert_eq!(outbox.find(&reply_to("a"), 9, None), None);
    assert_eq!(outbox.find(&reply_to("b"), 1, None), None);
    let elsewhere = ReplyTo { topic: "answers/you".into(), ..reply_to("a") };
    assert_eq!(outbox.find(&elsewhere, 1, None), None);
    // Without a name only the broker's word counts.
    assert_eq!(outbox.find(&reply_to(""), 2, Some(5)), Some(nameless));
    assert_eq!(outbox.find(&reply_to(""), 2, None), None);
    assert_eq!(outbox.find(&reply_to(""), 2, Some(6)), None);
    // A careless sender's second request does not displace the first.
    let second = outbox.ask(reply_to("a"), 9, None, request());
    assert_eq!(outbox.find(&reply_to("a"), 9, None), Some(second));
    assert_eq!(outbox.find(&reply_to("a"), 1, None), Some(known));
    outbox.answer(second, reply("x"));
    outbox.delivered(second);
    outbox.ask_again(second, Some(8), Some(77));
    let entry = outbox.entry(second).expect("it is kept");
    assert_eq!((&entry.stage, entry.reply_to.expires), (&Stage::Answered(reply("x")), Some(77)));
}

#[test]
fn it_stays_small_and_forgets_no_debt() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut outbox = open(folder.path());
    let owed = outbox.ask(reply_to("owed"), 1, None, request());
    outbox.answer(owed, reply("kept"));
    for round in 0..2000_u32 {
        let number = outbox.ask(reply_to(&round.to_string()), 1, None, request());
        outbox.answer(number, reply(&"x".repeat(300)));
        outbox.delivered(number);
        outbox.tidy();
        assert!(outbox.bytes <= 64 << 10 && outbox.disk.bytes() < 400_000, "{}", outbox.disk.bytes());
    }
    assert!(outbox.entries.len() < 100 && !outbox.is_full());
    assert!(matches!(outbox.entry(owed).map(|entry| &entry.stage), Some(Stage::Answered(_))));
}

#[test]
fn tries_are_counted_over_the_ends_of_processes_and_not_over_a_stop_in_order() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut outbox = open(folder.path());
    let number = outbox.ask(reply_to("a"), 1, None, request());
    for life in 1..5 {
        outbox.tried(number);
        if life == 3 {
            outbox.rewrite();
        }
        drop(outbox);
        outbox = open(folder.path());
        assert_eq!(outbox.entry(number).map(|entry| entry.tries), Some(life));
    }
    outbox.untried(number);
    drop(outbox);
    assert_eq!(open(folder.path()).entry(number).map(|entry| entry.tries), Some(0));
}

/// A journal that an earlier process left, with its clocks changed by `change`.
fn with_clocks(folder: &Path, change: impl Fn(&mut Stamp)) {
    let (mut disk, records) =
        Disk::open::<Record>(&folder.join("mqtt.outbox"), "outbox").expect("it is there");
    let changed: Vec<_> = (records.into_iter())
        .map(|record| match record {
            Record::Time(mut stamp) => {
                change(&mut stamp);
                Record::Time(stamp)
            }
            other => other,
        })
        .collect();
    disk.rewrite(&changed);
}

#[test]
fn a_clock_that_jumps_between_two_processes_neither_expires_nor_revives_anything() {
    const HOUR: Millis = 3_600_000;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut outbox = open(folder.path());
    let expires = Some(outbox.clock().now() + HOUR);
    let waiting = outbox.ask(ReplyTo { expires, ..reply_to("a") }, 1, None, request());
    let delivered = outbox.ask(reply_to("b"), 2, None, request());
    outbox.answer(delivered, reply("kept"));
    outbox.delivered(delivered);
    drop(outbox);
    let left = |outbox: &Outbox| {
        let expires = outbox.entry(waiting).and_then(|entry| entry.reply_to.expires).expect("it is kept");
        expires.saturating_sub(outbox.clock().now())
    };
    // The network told the time: a year more, or less, than the earlier process believed.
    for wall in [|ms| ms - 8760 * HOUR, |ms| ms + 8760 * HOUR] as [fn(Millis) -> Millis; 2] {
        with_clocks(folder.path(), |stamp| stamp.wall_ms = wall(stamp.wall_ms));
        let outbox = open(folder.path());
        assert!((HOUR - 60_000..=HOUR).contains(&left(&outbox)), "{}", left(&outbox));
        assert!(outbox.find(&reply_to("b"), 2, None).is_some());
    }
    // The machine was off, for ten hours as far as can be known: what expired meanwhile has expired, and is known.
    with_clocks(folder.path(), |stamp| {
        (stamp.boot, stamp.wall_ms) = ("an earlier one".into(), stamp.wall_ms - 10 * HOUR);
    });
    let outbox = open(folder.path());
    assert_eq!(left(&outbox), 0);
    assert!(
        outbox.find(&reply_to("b"), 2, None).is_some(),
        "an answer is kept for a sender that was off as well"
    );
    drop(outbox);
    // It was off, and its clock began in 1970.
    with_clocks(folder.path(), |stamp| {
        (stamp.boot, stamp.wall_ms) = ("an earlier one".into(), stamp.wall_ms + 500_000 * HOUR);
    });
    assert!(open(folder.path()).find(&reply_to("b"), 2, None).is_some());
}
