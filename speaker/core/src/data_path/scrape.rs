//! How far kube-proxy is, read from its `/metrics` (the text format of Prometheus).
//!
//! [`Scrape`] takes the answer as it comes, in pieces of any size, keeps one line at a time and the few figures that
//! matter, and accepts everything: a line that is too long, or is no sample, means nothing. Old versions have one set of
//! figures without a family, newer ones a set for each.
//!
//! `/healthz` cannot be used for this: as long as kube-proxy is healthy it gives the time of the question for that of its
//! last work.

use std::collections::BTreeMap;
use std::time::Duration;

use ferrolb_model::Family;

/// Longer lines mean nothing here. Those that do have about a hundred octets.
const LONGEST_LINE: usize = 1024;

/// What every sample of kube-proxy begins with.
const OURS: &str = "kubeproxy_";

/// What has been read so far.
#[derive(Clone, Debug, Default)]
pub struct Scrape {
    line: Vec<u8>,
    overlong: bool,
    reading: Reading,
}

/// What kube-proxy says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// It is kube-proxy that answers.
    pub is_proxy: bool,
    /// How far it is with the rules of each family; of both, where it does not tell them apart.
    pub progress: BTreeMap<Option<Family>, Progress>,
}

/// How far kube-proxy is with the rules of a family. Times are since the Unix epoch, by its clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// When it last heard of a change; `None` if never.
    pub queued: Option<Duration>,
    /// When it last finished writing rules; `None` if never.
    pub synced: Option<Duration>,
    /// How often it has written them.
    pub syncs: u64,
    /// The time that took, all together.
    pub spent: Duration,
}

impl Scrape {
    /// Takes the next piece of the answer.
    pub fn feed(&mut self, mut piece: &[u8]) {
        while let Some(end) = piece.iter().position(|octet| *octet == b'\n') {
            self.keep(&piece[..end]);
            self.end_line();
            piece = &piece[end + 1..];
        }
        self.keep(piece);
    }

    /// The answer is over.
    pub fn end(mut self) -> Reading {
        self.end_line();
        self.reading
    }

    fn keep(&mut self, part: &[u8]) {
        self.overlong |= self.line.len() + part.len() > LONGEST_LINE;
        if !self.overlong {
            self.line.extend_from_slice(part);
        }
    }

    fn end_line(&mut self) {
        if !std::mem::take(&mut self.overlong)
            && let Ok(line) = std::str::from_utf8(&self.line)
        {
            self.reading.take(line);
        }
        self.line.clear();
    }
}

impl Reading {
    fn take(&mut self, line: &str) {
        let Some(sample) = line.trim().strip_prefix(OURS) else {
            return;
        };
        self.is_proxy = true;
        let Some(rest) = sample.strip_prefix("sync_proxy_rules_") else {
            return;
        };
        let named = rest.find(['{', ' ']).map(|end| rest.split_at(end));
        let Some((name, rest)) = named else { return };
        let (labels, value) = match rest.strip_prefix('{').map(|rest| rest.split_once('}')) {
            None => ("", rest),
            Some(Some(parts)) => parts,
            Some(None) => return,
        };
        let value = value
            .split_whitespace()
            .next()
            .and_then(|value| value.parse::<f64>().ok());
        // Not a number, negative, or beyond all time.
        let Some(value) = value.and_then(|value| Duration::try_from_secs_f64(value).ok()) else {
            return;
        };
        let family = match labels {
            _ if labels.contains(r#"ip_family="IPv4""#) => Some(Family::V4),
            _ if labels.contains(r#"ip_family="IPv6""#) => Some(Family::V6),
            _ => None,
        };
        let mut set = |to: fn(&mut Progress, Duration)| to(self.progress.entry(family).or_default(), value);
        // A gauge that was never set is 0.
        match name {
            "last_queued_timestamp_seconds" => set(|p, at| p.queued = Some(at).filter(|at| !at.is_zero())),
            "last_timestamp_seconds" => set(|p, at| p.synced = Some(at).filter(|at| !at.is_zero())),
            "duration_seconds_sum" => set(|p, sum| p.spent = sum),
            "duration_seconds_count" => set(|p, count| p.syncs = count.as_secs()),
            _ => {}
        }
    }
}
