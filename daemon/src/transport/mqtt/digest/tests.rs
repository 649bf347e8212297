//! Windows under a clock in the test's hands.

use super::*;

const SECOND: Millis = 1000;

fn rule(more: &str) -> Digest {
    toml::from_str(&format!("topic = 'site/+/log'\nanswer = 'digest/{{device}}'\n{more}"))
        .expect("sound TOML")
}

fn message(topic: &str, text: &str) -> Message {
    Message {
        topic: topic.into(),
        payload: text.into(),
        oversize: None,
        ticket: Some(text.len() as u16),
        again: false,
        retained: false,
        response_topic: None,
        correlation: None,
        content_type: None,
        expiry_s: None,
    }
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

fn open(folder: &tempfile::TempDir, rules: &[Digest]) -> Digests {
    Digests::open(folder.path(), rules, 4).expect("the folder can be written")
}

fn log(digests: &mut Digests, site: &str, text: &str, now: Millis) {
    digests.take(0, &message(&format!("site/{site}/log"), text), now).expect("it can be read");
}

/// The text of the first window that has ended, and its counts; it is closed.
fn ended(digests: &mut Digests, now: Millis) -> Option<(String, String)> {
    let mut due = digests.due(now, "pi")?;
    let asked = due.asked.take().expect("it has messages");
    digests.asked(&due);
    let counts: Vec<_> =
        asked.reply_to.properties.iter().map(|(name, count)| format!("{name} {count}")).collect();
    let text = asked.request.expect("it is sound").text.expect("it has a text");
    Some((text, counts.join(", ")))
}

#[test]
fn a_window_ends_by_time_or_by_number_whichever_is_first() {
    let folder = folder();
    let mut digests = open(&folder, &[rule("every_s = 10\nmessages = 3")]);
    assert_eq!((digests.next_due(), ended(&mut digests, 5 * SECOND)), (None, None));
    log(&mut digests, "a", "one", 5 * SECOND);
    log(&mut digests, "b", "two", 14 * SECOND);
    assert_eq!(digests.next_due(), Some(15 * SECOND));
    assert_eq!(ended(&mut digests, 15 * SECOND - 1), None);
    let (text, counts) = ended(&mut digests, 15 * SECOND).expect("it has ended");
    assert_eq!(text, "site/a/log: one\nsite/b/log: two\n");
    assert_eq!(counts, "messages 2, dropped 0");
    // The next begins with its own first message.
    log(&mut digests, "a", "three", 100 * SECOND);
    log(&mut digests, "a", "four", 100 * SECOND);
    assert_eq!(ended(&mut digests, 100 * SECOND), None);
    log(&mut digests, "a", "five", 100 * SECOND);
    assert!(ended(&mut digests, 100 * SECOND).is_some());
    assert_eq!((digests.next_due(), ended(&mut digests, 999 * SECOND)), (None, None));
}

#[test]
fn windows_survive_the_process_and_the_file_stays_small() {
    let folder = folder();
    let rules = [rule("every_s = 10\nmax_bytes = 256")];
    let mut digests = open(&folder, &rules);
    for number in 0..20 {
        log(&mut digests, "a", &format!("valve {number:02} is stuck"), SECOND);
    }
    let before = digests.windows.clone();
    digests.sync();
    drop(digests);
    let mut digests = open(&folder, &rules);
    assert_eq!(digests.windows, before);
    log(&mut digests, "a", "valve 20 is stuck", 2 * SECOND);
    let (text, counts) = ended(&mut digests, 11 * SECOND).expect("the clock went on");
    assert!(text.starts_with("site/a/log: valve 13 is stuck\n") && text.lines().count() == 8, "{text}");
    assert_eq!(counts, "messages 8, dropped 13");
    drop(digests);
    let mut digests = open(&folder, &rules);
    assert!(digests.windows.is_empty());
    for round in 0..300 {
        for number in 0..20 {
            log(&mut digests, "a", &format!("round {round}, valve {number}"), round * 20 * SECOND);
        }
        assert!(ended(&mut digests, (round * 20 + 10) * SECOND).is_some());
        digests.tidy();
        let bytes = digests.disk.as_ref().map_or(0, Disk::bytes);
        assert!(bytes < 2 * WORN_BYTES, "{bytes} bytes");
    }
    // A window written anew counts what it had dropped.
    for number in 0..20 {
        log(&mut digests, "a", &format!("valve {number:02} is stuck"), 0);
    }
    let records = records(&digests.windows, &digests.seen);
    digests.disk.as_mut().expect("there is a file").rewrite(&records);
    let before = digests.windows.clone();
    drop(digests);
    assert_eq!(open(&folder, &rules).windows, before);
    // Those of a digest that is gone are not kept.
    assert!(open(&folder, &[]).windows.is_empty());
}

#[test]
fn a_message_that_the_broker_sends_again_is_not_counted_twice() {
    let folder = folder();
    let rules = [rule("messages = 3")];
    let mut digests = open(&folder, &rules);
    log(&mut digests, "a", "one", 0);
    let again = Message { again: true, ..message("site/a/log", "one") };
    digests.take(0, &again, 0).expect("it can be read");
    assert_eq!(digests.windows.values().map(Window::messages).collect::<Vec<_>>(), [1]);
    // The same text under another packet, or not said to come again, is another message.
    digests.take(0, &Message { ticket: Some(99), ..again }, 0).expect("it can be read");
    log(&mut digests, "a", "one", 0);
    assert_eq!(ended(&mut digests, 0).map(|(_, counts)| counts), Some("messages 3, dropped 0".into()));
    // Also when its window is over, the file was written anew, and the daemon restarted.
    let records = records(&digests.windows, &digests.seen);
    digests.disk.as_mut().expect("there is a file").rewrite(&records);
    drop(digests);
    let mut digests = open(&folder, &rules);
    digests.take(0, &Message { again: true, ..message("site/a/log", "one") }, 0).expect("it is known");
    assert!(digests.windows.is_empty());
    // Not for ever: packet identifiers are used again.
    for text in ["a", "bb", "ccc", "dddd"] {
        log(&mut digests, "b", text, 0);
    }
    digests.take(0, &Message { again: true, ..message("site/a/log", "one") }, 0).expect("it is new");
    assert_eq!(digests.windows.values().map(Window::came).sum::<u64>(), 5);
}

#[test]
fn topics_have_their_own_windows_if_that_is_wanted() {
    let folder = folder();
    let mut by_topic = rule("messages = 2\nby = 'topic'");
    by_topic.answer = "digest/{topic}".into();
    let mut digests = open(&folder, &[by_topic]);
    for site in ["a", "b", "b"] {
        log(&mut digests, site, "door open", 0);
    }
    let mut due = digests.due(0, "pi").expect("two of b");
    let asked = due.asked.take();
    let asked = asked.expect("it has messages");
    assert_eq!(asked.reply_to.topic, "digest/site/b/log");
    assert_eq!(asked.request.expect("it is sound").text.as_deref(), Some("door open\ndoor open\n"));
    digests.asked(&due);
    assert!(digests.due(0, "pi").is_none());
    // Too many topics: the oldest window ends early.
    for site in 0..WINDOWS {
        log(&mut digests, &site.to_string(), "door open", 0);
    }
    assert_eq!(digests.next_due(), Some(0));
    assert_eq!(ended(&mut digests, 0).map(|(_, counts)| counts), Some("messages 1, dropped 0".into()));
    assert!(digests.due(0, "pi").is_none());
}

#[test]
fn what_cannot_be_read_is_counted_and_asks_for_nothing_alone() {
    let folder = folder();
    let mut digests = open(&folder, &[rule("messages = 2\nfield = '/message'")]);
    let bad = digests.take(0, &message("site/a/log", "plain"), 0).expect_err("it has no fields");
    assert!(bad.contains("not JSON"), "{bad}");
    let large = Message { oversize: Some(9_000_000), ..message("site/a/log", "") };
    let bad = digests.take(0, &large, 0).expect_err("it is too large");
    assert!(bad.contains("9000000 bytes"), "{bad}");
    let mut due = digests.due(0, "pi").expect("it is full");
    let asked = due.asked.take();
    assert!(asked.is_none());
    digests.asked(&due);
    log(&mut digests, "a", r#"{"message": "good"}"#, 0);
    digests.take(0, &message("site/a/log", "plain"), 0).expect_err("it has no fields");
    let (text, counts) = ended(&mut digests, 0).expect("it is full");
    assert_eq!((text.as_str(), counts.as_str()), ("site/a/log: good\n", "messages 1, dropped 1"));
}

#[test]
fn the_same_window_asks_for_the_same_after_a_crash_between_two_files() {
    let folder = folder();
    let rules = [rule("messages = 2")];
    let mut digests = open(&folder, &rules);
    log(&mut digests, "a", "one", 3);
    log(&mut digests, "a", "two", 4);
    let first = digests.due(4, "pi").and_then(|due| due.asked).expect("it is full");
    drop(digests);
    let again = open(&folder, &rules).due(9, "pi").and_then(|due| due.asked).expect("it is there still");
    assert_eq!((first.hash, first.reply_to), (again.hash, again.reply_to));
}

#[test]
fn a_window_that_grows_is_asked_about_with_the_same_beginning() {
    let folder = folder();
    let rules = [rule("messages = 9\nupdate_messages = 3")];
    let mut digests = open(&folder, &rules);
    let mut texts: Vec<String> = Vec::new();
    for number in 0..9 {
        log(&mut digests, "a", &format!("pump {number}"), SECOND);
        assert_eq!(digests.next_due().is_some(), number % 3 == 2, "message {number}");
        if let Some((text, counts)) = ended(&mut digests, SECOND) {
            let is_open = if number < 8 { ", open true" } else { "" };
            assert_eq!(counts, format!("messages {}, dropped 0{is_open}", number + 1));
            assert!(texts.last().is_none_or(|before| text.starts_with(before.as_str())), "{text}");
            texts.push(text);
            // What was told is known after a restart.
            digests.sync();
            drop(digests);
            digests = open(&folder, &rules);
            assert!(ended(&mut digests, SECOND).is_none());
        }
    }
    assert_eq!((texts.len(), digests.windows.len()), (3, 0));
}
