//! Durations as the Kubernetes API writes them: the syntax of Go's `time.ParseDuration`.

use std::time::Duration;

/// `90s`, `1m30s`, `1.5h`, `0`. `None` for anything else, negative ones and those of more than 2^64 ns (584 years)
/// included. Exact to the nanosecond; what is smaller is dropped.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total = 0u64;
    while !rest.is_empty() {
        let number = take(&mut rest, |c| c.is_ascii_digit() || c == '.');
        let unit = match take(&mut rest, |c| !c.is_ascii_digit() && c != '.') {
            "ns" => 1,
            "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return None,
        };
        total = total.checked_add(nanoseconds(number, unit)?)?;
    }
    Some(Duration::from_nanos(total))
}

fn take<'a>(rest: &mut &'a str, belongs: impl Fn(char) -> bool) -> &'a str {
    let end = rest.find(|c| !belongs(c)).unwrap_or(rest.len());
    let (taken, left) = rest.split_at(end);
    *rest = left;
    taken
}

fn nanoseconds(number: &str, unit: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return None;
    }
    let whole = if whole.is_empty() {
        0
    } else {
        whole.parse::<u64>().ok()?
    };
    let mut parts = 0;
    let mut worth = unit;
    for digit in fraction.bytes() {
        worth /= 10;
        parts += worth * u64::from(digit - b'0');
    }
    whole.checked_mul(unit)?.checked_add(parts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_what_go_reads() {
        for (text, nanoseconds) in [
            ("0", Some(0)),
            ("+0", Some(0)),
            ("90s", Some(90_000_000_000)),
            ("1m30s", Some(90_000_000_000)),
            ("1.5h", Some(5_400_000_000_000)),
            (".5s", Some(500_000_000)),
            ("5.s", Some(5_000_000_000)),
            ("1h0m0s", Some(3_600_000_000_000)),
            ("007ms", Some(7_000_000)),
            ("1us1\u{b5}s1\u{3bc}s1ns", Some(3_001)),
            ("0.0000000009s", Some(0)),
            ("18446744073s", Some(18_446_744_073_000_000_000)),
            ("18446744074s", None),
            ("99999999999999999999999999s", None),
            ("-1s", None),
            ("1s-1s", None),
            ("1e30h", None),
            ("", None),
            ("+", None),
            (".s", None),
            ("1.2.3s", None),
            ("90", None),
            ("s", None),
            (" 90s", None),
            ("90 s", None),
            ("90S", None),
            ("٩s", None),
        ] {
            assert_eq!(parse_duration(text), nanoseconds.map(Duration::from_nanos), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn whole_seconds(seconds in 0..18_446_744_073u64) {
            prop_assert_eq!(parse_duration(&format!("{seconds}s")), Some(Duration::from_secs(seconds)));
        }

        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,40}|[+0-9.hmsnu\u{b5}]{0,40}") {
            let _ = parse_duration(&text);
        }
    }
}
