//! Numbers as people read them: three significant digits and a unit.

/// `value` with about three significant digits and no exponent, for 0.001 and more.
pub fn three_digits(value: f64) -> String {
    let size = value.abs();
    let decimals = match size {
        _ if size >= 100.0 => 0,
        _ if size >= 10.0 => 1,
        _ if size >= 1.0 || size == 0.0 => 2,
        _ => 3,
    };
    format!("{value:.decimals$}")
}

/// `joules` in J, mJ or uJ.
pub fn joules(joules: f64) -> String {
    let (scale, unit) = match joules.abs() {
        size if size >= 1.0 => (1.0, "J"),
        size if size >= 1e-3 => (1e3, "mJ"),
        _ => (1e6, "uJ"),
    };
    format!("{} {unit}", three_digits(joules * scale))
}

/// `milliseconds` in ms, s or minutes.
pub fn duration_ms(milliseconds: f64) -> String {
    match milliseconds {
        ms if ms >= 100_000.0 => format!("{} min", three_digits(ms / 60_000.0)),
        ms if ms >= 1000.0 => format!("{} s", three_digits(ms / 1000.0)),
        ms => format!("{} ms", three_digits(ms)),
    }
}

/// `share`, 0 to 1, as whole percent. What is not certain is not called 100 %, nor what is possible 0 %.
pub fn percent(share: f64) -> String {
    let whole = (share * 100.0).round();
    if whole >= 100.0 && share < 1.0 {
        ">99%".to_owned()
    } else if whole <= 0.0 && share > 0.0 {
        "<1%".to_owned()
    } else {
        format!("{whole}%")
    }
}

/// `bytes` in B, kB, MB or GB (powers of ten).
pub fn bytes(bytes: u64) -> String {
    match bytes as f64 {
        size if size >= 1e9 => format!("{} GB", three_digits(size / 1e9)),
        size if size >= 1e6 => format!("{} MB", three_digits(size / 1e6)),
        size if size >= 1e3 => format!("{} kB", three_digits(size / 1e3)),
        _ => format!("{bytes} B"),
    }
}

/// `1 thread`, `2 threads`.
pub fn counted(number: usize, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{plural}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_follow_the_size() {
        assert_eq!(joules(12.345), "12.3 J");
        assert_eq!(joules(0.0123), "12.3 mJ");
        assert_eq!(joules(4.2e-5), "42.0 uJ");
        assert_eq!(duration_ms(0.25), "0.250 ms");
        assert_eq!(duration_ms(2500.0), "2.50 s");
        assert_eq!(duration_ms(180_000.0), "3.00 min");
        assert_eq!(bytes(999), "999 B");
        assert_eq!(bytes(3_039_040), "3.04 MB");
        assert_eq!(three_digits(5123.4), "5123");
        assert_eq!((counted(1, "thread"), counted(2, "thread")), ("1 thread".into(), "2 threads".into()));
    }

    #[test]
    fn percentages_do_not_overstate() {
        assert_eq!(percent(0.831), "83%");
        assert_eq!(percent(0.9999), ">99%");
        assert_eq!(percent(1.0), "100%");
        assert_eq!(percent(0.0001), "<1%");
        assert_eq!(percent(0.0), "0%");
    }
}
