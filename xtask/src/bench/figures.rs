//! Numbers: quantiles of times, what a process uses, and a table of them.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};

/// Ticks per second in `/proc/PID/stat`: USER_HZ, which is 100 on every architecture that Linux runs containers on.
const TICKS_PER_SECOND: f64 = 100.0;

/// Times of one kind.
#[derive(Debug, Default)]
pub(super) struct Times(Vec<Duration>);

impl Times {
    pub(super) fn add(&mut self, time: Duration) {
        self.0.push(time);
    }

    pub(super) fn append(&mut self, mut other: Self) {
        self.0.append(&mut other.0);
    }

    /// The part of the samples that are like this; 0 without samples.
    pub(super) fn share(&self, like: impl Fn(Duration) -> bool) -> f64 {
        let count = self.0.iter().filter(|time| like(**time)).count();
        count as f64 / self.0.len().max(1) as f64
    }

    /// The time that `percent` of the samples do not exceed (nearest rank); zero without samples.
    pub(super) fn quantile(&self, percent: usize) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let rank = (sorted.len() * percent).div_ceil(100).max(1);
        sorted.get(rank - 1).copied().unwrap_or_default()
    }

    pub(super) fn median(&self) -> Duration {
        self.quantile(50)
    }

    /// A row: median, 99th percentile, how many, and how it was measured.
    pub(super) fn row(&self, what: &str, how: &str) -> Row {
        self.row_in(millis, what, how)
    }

    /// The same in microseconds.
    pub(super) fn fine_row(&self, what: &str, how: &str) -> Row {
        self.row_in(micros, what, how)
    }

    fn row_in(&self, unit: fn(Duration) -> String, what: &str, how: &str) -> Row {
        let how = format!("n={}; {how}", self.0.len());
        Row::new(what, unit(self.median()), unit(self.quantile(99)), how)
    }
}

/// What a process uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Usage {
    /// Resident memory, KiB.
    pub(super) rss: u64,
    /// The part of it that is no file's, KiB.
    pub(super) anonymous: u64,
    /// The most resident memory there ever was, KiB.
    pub(super) peak: u64,
    /// User and system time so far, in ticks.
    ticks: u64,
}

impl Usage {
    /// Reads `/proc/PID`.
    ///
    /// # Errors
    /// When the process is gone.
    pub(super) fn of(pid: i32) -> Result<Self> {
        let read = |file| fs::read_to_string(format!("/proc/{pid}/{file}")).with_context(|| format!("process {pid}"));
        Self::parse(&read("status")?, &read("stat")?).with_context(|| format!("read /proc/{pid}"))
    }

    fn parse(status: &str, stat: &str) -> Option<Self> {
        let line = |key: &str| -> Option<u64> {
            let rest = status.lines().find_map(|line| line.strip_prefix(key))?;
            rest.trim().strip_suffix(" kB")?.parse().ok()
        };
        // The name stands in parentheses and may hold anything; utime and stime are fields 14 and 15 (proc(5)).
        let mut fields = stat[stat.rfind(')')? + 1..].split_whitespace().skip(11);
        let mut tick = || fields.next()?.parse::<u64>().ok();
        Some(Self {
            rss: line("VmRSS:")?,
            anonymous: line("RssAnon:")?,
            peak: line("VmHWM:")?,
            ticks: tick()? + tick()?,
        })
    }

    /// Which part of one core was used since `before`, in percent.
    pub(super) fn percent_of_a_core_since(&self, before: &Self, window: Duration) -> f64 {
        let seconds = self.ticks.saturating_sub(before.ticks) as f64 / TICKS_PER_SECOND;
        100.0 * seconds / window.as_secs_f64()
    }
}

/// A line of a table.
#[derive(Debug)]
pub(super) struct Row([String; 4]);

impl Row {
    pub(super) fn new(what: impl Into<String>, first: String, second: String, how: impl Into<String>) -> Self {
        Self([what.into(), first, second, how.into()])
    }
}

/// A Markdown table whose columns stand below each other; `head` is its first line.
pub(super) fn table(head: [&str; 4], rows: &[Row]) -> String {
    let head = Row(head.map(str::to_owned));
    let all = || std::iter::once(&head).chain(rows);
    let width = |column: usize| all().map(|row| row.0[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; 4] = std::array::from_fn(width);
    let mut lines: Vec<String> = all()
        .map(|Row([what, first, second, how])| {
            let [a, b, c, d] = widths;
            format!("| {what:<a$} | {first:>b$} | {second:>c$} | {how:<d$} |")
        })
        .collect();
    let [a, b, c, d] = widths.map(|width| "-".repeat(width));
    lines.insert(1, format!("| {a} | {b}: | {c}: | {d} |").replace("-: |", ": |"));
    lines.join("\n") + "\n"
}

/// Whether a goal was met.
pub(super) fn verdict(met: bool) -> &'static str {
    if met { "met" } else { "missed" }
}

/// `12.3 ms`.
pub(super) fn millis(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1000.0)
}

/// `12 µs`.
pub(super) fn micros(time: Duration) -> String {
    format!("{:.0} µs", time.as_secs_f64() * 1_000_000.0)
}

/// `12.3 MiB`.
pub(super) fn mebibytes(kibibytes: u64) -> String {
    format!("{:.1} MiB", kibibytes as f64 / 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_of_the_nearest_rank() {
        let times = Times((1..=200).rev().map(Duration::from_millis).collect());
        assert_eq!(times.median(), Duration::from_millis(100));
        assert_eq!(times.quantile(99), Duration::from_millis(198));
        assert_eq!(Times(vec![Duration::from_secs(3)]).quantile(99), Duration::from_secs(3));
        assert_eq!(Times::default().median(), Duration::ZERO);
        assert_eq!(times.quantile(0), Duration::from_millis(1));
        assert!((times.share(|time| time <= Duration::from_millis(50)) - 0.25).abs() < 1e-9);
    }

    #[test]
    fn usage_is_read_past_an_odd_name() {
        let status = "Name:\ta) b\nVmHWM:\t   30720 kB\nVmRSS:\t   20480 kB\nRssAnon:\t    4096 kB\n";
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 100 0 0 0 150 50 0 0 20 0 5 0 100 1 2";
        let usage = Usage::parse(status, stat).unwrap();
        let read = (usage.rss, usage.anonymous, usage.peak, usage.ticks);
        assert_eq!(read, (20480, 4096, 30720, 200));
        let before = Usage { ticks: 140, ..usage };
        let percent = usage.percent_of_a_core_since(&before, Duration::from_secs(60));
        assert!((percent - 1.0).abs() < 1e-9, "{percent}");
        assert_eq!(Usage::parse(status, "7 (gone"), None);
    }

    #[test]
    fn columns_stand_below_each_other() {
        let row = Row::new("address", "1.0 ms".into(), String::new(), "x");
        let text = table(["what", "median", "p99", "how"], &[row]);
        assert_eq!(
            text,
            "| what    | median | p99 | how |\n| ------- | -----: | --: | --- |\n| address | 1.0 ms |     | x   |\n"
        );
    }
}
