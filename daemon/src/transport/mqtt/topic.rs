//! Topics and filters of topics, after section 4.7 of MQTT 5.

/// Bytes of the longest topic that we send to.
const LONGEST: usize = 1024;

/// Bytes of the longest part that the configuration may give.
const LONGEST_PART: usize = 200;

/// Whether `text` is a topic, or a part of one, that a configuration may name: no wildcard, no empty level.
pub fn is_plain(text: &str) -> bool {
    is_topic(text) && text.len() <= LONGEST_PART && text.split('/').all(|level| !level.is_empty())
}

/// Whether an answer may be sent to `text`: MQTT allows it, and it does not speak to the broker itself.
pub fn is_topic(text: &str) -> bool {
    !text.is_empty() && text.len() <= LONGEST && !text.starts_with('$') && !text.contains(['+', '#', '\0'])
}

/// Whether `text` is a filter.
pub fn is_filter(text: &str) -> bool {
    let mut levels = text.split('/').peekable();
    let mut sound = !text.is_empty() && text.len() <= LONGEST && !text.contains('\0');
    while let Some(level) = levels.next() {
        sound &= match level {
            "#" => levels.peek().is_none(),
            "+" => true,
            _ => !level.contains(['+', '#']),
        };
    }
    sound
}

/// Whether `filter` takes `topic`.
pub fn matches(filter: &str, topic: &str) -> bool {
    if topic.starts_with('$') && filter.starts_with(['+', '#']) {
        return false;
    }
    let mut levels = topic.split('/');
    for wanted in filter.split('/') {
        match (wanted, levels.next()) {
            // It also takes the level above.
            ("#", _) => return true,
            ("+", Some(_)) => {}
            (wanted, Some(level)) if wanted == level => {}
            _ => return false,
        }
    }
    levels.next().is_none()
}

/// Whether there is a topic that both filters take.
pub fn overlap(one: &str, two: &str) -> bool {
    if one.starts_with('$') != two.starts_with('$')
        && (one.starts_with(['+', '#']) || two.starts_with(['+', '#']))
    {
        return false;
    }
    let (mut one, mut two) = (one.split('/'), two.split('/'));
    loop {
        match (one.next(), two.next()) {
            (Some("#"), _) | (_, Some("#")) | (None, None) => return true,
            (Some(a), Some(b)) if a == b || a == "+" || b == "+" => {}
            _ => return false,
        }
    }
}

/// Filters that take all that `filters` take, no two of which take the same topic. So a broker that sends a message once
/// for each subscription and one that sends it once for each client are the same to us. A filter within another is left
/// out; only filters that cross become a wider one, which takes more than they do.
pub fn cover<'f>(filters: impl Iterator<Item = &'f str>) -> Vec<String> {
    let mut cover: Vec<String> = Vec::new();
    for filter in filters {
        let mut wide = filter.to_owned();
        while let Some(at) = cover.iter().position(|other| overlap(other, &wide)) {
            wide = join(&cover.remove(at), &wide);
        }
        cover.push(wide);
    }
    cover
}

/// The narrowest filter that takes what two that overlap take.
fn join(one: &str, two: &str) -> String {
    let (mut one, mut two) = (one.split('/'), two.split('/'));
    let mut levels = Vec::new();
    loop {
        match (one.next(), two.next()) {
            (None, None) => break,
            (Some(a), Some(b)) if a != "#" && b != "#" => levels.push(if a == b { a } else { "+" }),
            _ => {
                levels.push("#");
                break;
            }
        }
    }
    levels.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_take_what_the_standard_says() {
        // The examples of sections 4.7.1.2, 4.7.1.3 and 4.7.2.
        let all = "sport/tennis/player1/#";
        for topic in
            ["sport/tennis/player1", "sport/tennis/player1/ranking", "sport/tennis/player1/score/wimbledon"]
        {
            assert!(matches(all, topic), "{topic}");
        }
        assert!(matches("sport/tennis/+", "sport/tennis/player1"));
        assert!(!matches("sport/tennis/+", "sport/tennis/player1/ranking"));
        assert!(!matches("sport/+", "sport") && matches("sport/+", "sport/"));
        assert!(matches("+/+", "/finance") && matches("/+", "/finance") && !matches("+", "/finance"));
        assert!(!matches("#", "$SYS/x") && !matches("+/x", "$SYS/x") && matches("$SYS/#", "$SYS/x"));
    }

    #[test]
    fn filters_and_topics_are_told_from_nonsense() {
        for good in ["#", "a/#", "+", "a/+/b", "/", "a//b"] {
            assert!(is_filter(good), "{good}");
        }
        for bad in ["", "a#", "a/#/b", "a+/b", "\0"] {
            assert!(!is_filter(bad), "{bad}");
        }
        assert!(is_topic("a/b") && !is_topic("a/+") && !is_topic("") && !is_topic("$SYS/x"));
        assert!(is_plain("plant/line 1") && !is_plain("a//b") && !is_plain("/a") && !is_plain("a/"));
    }

    #[test]
    fn overlapping_filters_are_found() {
        assert!(overlap("a/+", "+/b") && overlap("a/#", "a") && overlap("#", "x/y") && overlap("a/b", "a/b"));
        assert!(!overlap("a/b", "a/c") && !overlap("a/+", "a/b/c") && !overlap("a", "b"));
    }

    #[test]
    fn a_cover_takes_everything_and_nothing_twice() {
        let covered = |filters: &[&str]| cover(filters.iter().copied());
        assert_eq!(covered(&["a/b", "c/+", "a/b"]), ["c/+", "a/b"]);
        assert_eq!(covered(&["a/b", "a/#", "a/+/c"]), ["a/#"]);
        assert_eq!(covered(&["a/+", "+/b"]), ["+/+"]);
        // What is joined may meet a third.
        assert_eq!(covered(&["x/y", "a/+", "+/b"]), ["+/+"]);
        assert_eq!(covered(&["a", "a/#"]), ["a/#"]);
        assert_eq!(covered(&["$SYS/#", "#"]), ["$SYS/#", "#"]);
        let filters = ["a/+/c", "a/b/#", "+/b/c", "d/#", "d/+/e", "f"];
        let cover = covered(&filters);
        for (at, one) in cover.iter().enumerate() {
            assert!(cover[..at].iter().all(|other| !overlap(one, other)), "{cover:?}");
        }
        for topic in ["a/x/c", "a/b", "a/b/x/y", "z/b/c", "d", "d/x/e", "f"] {
            assert!(filters.iter().any(|filter| matches(filter, topic)), "{topic}");
            assert_eq!(
                cover.iter().filter(|filter| matches(filter, topic)).count(),
                1,
                "{topic} of {cover:?}"
            );
        }
    }
}
