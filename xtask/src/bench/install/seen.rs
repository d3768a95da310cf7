//! What was measured, and the table of it.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};

use super::side::PARTS;
use crate::bench::figures::{Row, Times, mebibytes, millis, verdict};
use crate::{image, repository};

const FIRST_PAGE_GOAL: Duration = Duration::from_secs(5);
const ROLLOUT_GOAL: Duration = Duration::from_secs(10);
const KILLED_GOAL: Duration = Duration::from_millis(200);
const POWER_CUT_GOAL: Duration = Duration::from_millis(300);
const START_GOAL: Duration = Duration::from_secs(1);
const HANG_GOAL: Duration = Duration::from_secs(15);
/// Resident, KiB; of the speaker and of the controller.
const MEMORY_GOAL: [u64; 2] = [10 * 1024, 14 * 1024];

/// What all clusters of one side have seen.
#[derive(Default)]
pub(super) struct Seen {
    /// From the manifest on: taken by kubectl, custom resources served, address, first page, all pods ready.
    pub(super) phases: [Times; 5],
    pub(super) memory: [Vec<u64>; 2],
    /// Bytes of the executables, which are all that is in the images.
    pub(super) sizes: [u64; 2],
    /// From the start of a process to `/readyz`.
    pub(super) starts: [Times; 2],
    pub(super) rollouts: Times,
    pub(super) rollout_gaps: Times,
    pub(super) rollout_silences: Times,
    pub(super) lost: u64,
    pub(super) asked: u64,
    /// Rolling updates, and after how many the owner was another.
    pub(super) updates: u64,
    pub(super) moved: u64,
    /// Connections that were open during all rolling updates of a cluster, and how many of them live.
    pub(super) connections: u64,
    pub(super) living: u64,
    pub(super) killed: Times,
    /// Until the containers of programs that hang run again.
    pub(super) hangs: [Times; 2],
    pub(super) lost_by_hangs: u64,
    pub(super) power_cuts: Times,
    /// How often a node was booted again, and how often it got its address back.
    pub(super) boots: u64,
    pub(super) returned: u64,
}

const PHASES: [&str; 5] = [
    "manifest -> kubectl is done",
    "manifest -> a pool is accepted",
    "manifest -> address in the Service's status",
    "manifest -> first page",
    "manifest -> all pods ready",
];

/// The head of the table.
pub(super) const HEAD: [&str; 4] = ["median (most)", "FerroLB", "MetalLB", "how; goals are FerroLB's"];

/// The lines of the table: FerroLB, and MetalLB where it was measured.
pub(super) fn rows(ferrolb: &Seen, metallb: Option<&Seen>) -> Result<Vec<Row>> {
    let mut lines = Lines {
        ferrolb,
        metallb,
        rows: Vec::new(),
    };
    for (phase, what) in PHASES.into_iter().enumerate() {
        let goal = (phase == 3).then_some(FIRST_PAGE_GOAL);
        lines.times(what, |seen| &seen.phases[phase], "", goal);
    }
    for (part, name) in PARTS.into_iter().enumerate() {
        let most = MEMORY_GOAL[part];
        let met = ferrolb.memory[part].iter().all(|resident| *resident <= most);
        let how = format!("resident; goal {}: {}", mebibytes(most), verdict(met));
        lines.row(&format!("{name} with one Service"), |seen| seen.resident(part), how);
    }
    for (part, name) in PARTS.into_iter().enumerate() {
        let how = "process start -> /readyz";
        lines.times(
            &format!("{name} starts"),
            |seen| &seen.starts[part],
            how,
            Some(START_GOAL),
        );
    }
    lines.times(
        "rolling update of three speakers",
        |seen| &seen.rollouts,
        "",
        Some(ROLLOUT_GOAL),
    );
    let what = "  longest silence for a client that knows the address";
    lines.times(what, |seen| &seen.rollout_gaps, "asks every millisecond", None);
    let lost = |seen: &Seen| format!("{} of {}", seen.lost, seen.asked);
    lines.row("  its questions that were lost", lost, none(ferrolb.lost));
    let what = "  longest silence for clients that ask for it";
    lines.times(what, |seen| &seen.rollout_silences, "asked by ARP every 20 ms", None);
    let moved = |seen: &Seen| format!("{} of {}", seen.moved, seen.updates);
    lines.row("  with another owner afterwards", moved, none(ferrolb.moved));
    let living = |seen: &Seen| format!("{} of {}", seen.living, seen.connections);
    let met = verdict(ferrolb.living == ferrolb.connections);
    let how = format!("open during all of a cluster's; goal all: {met}");
    lines.row("  TCP connections that live on", living, how);
    let what = "speaker killed: silence for clients that ask for it";
    lines.times(what, |seen| &seen.killed, "", Some(KILLED_GOAL));
    for (part, name) in PARTS.into_iter().enumerate() {
        let how = "until it is ready again";
        lines.times(&format!("{name} hangs"), |seen| &seen.hangs[part], how, Some(HANG_GOAL));
    }
    let lost = |seen: &Seen| seen.lost_by_hangs.to_string();
    lines.row("  questions lost meanwhile", lost, none(ferrolb.lost_by_hangs));
    let what = "owner's node loses its power: silence";
    lines.times(what, |seen| &seen.power_cuts, "", Some(POWER_CUT_GOAL));
    let returned = |seen: &Seen| format!("{} of {}", seen.returned, seen.boots);
    lines.row("  booted, it gets its address back", returned, none(ferrolb.returned));
    for (part, name) in PARTS.into_iter().enumerate() {
        let met = verdict(ferrolb.sizes[part] <= image::LIMIT);
        let how = format!(
            "unpacked, of the program; goal {}: {met}",
            mebibytes(image::LIMIT / 1024)
        );
        lines.row(&format!("{name}, size"), |seen| mebibytes(seen.sizes[part] / 1024), how);
        let path = repository().join(format!("target/images/ferrolb-{name}.oci.tar"));
        let packed = fs::metadata(&path).with_context(|| format!("look at {}", path.display()))?;
        let (packed, how) = (mebibytes(packed.len() / 1024), "the archive of its image, compressed");
        lines.rows.push(Row::new("", packed, String::new(), how));
    }
    Ok(lines.rows)
}

/// What has a goal of zero.
fn none(seen: u64) -> String {
    format!("goal 0: {}", verdict(seen == 0))
}

/// Lines with a cell for each side.
struct Lines<'a> {
    ferrolb: &'a Seen,
    metallb: Option<&'a Seen>,
    rows: Vec<Row>,
}

impl Lines<'_> {
    fn row(&mut self, what: &str, cell: impl Fn(&Seen) -> String, how: impl Into<String>) {
        let other = self.metallb.map(&cell).unwrap_or_default();
        self.rows.push(Row::new(what, cell(self.ferrolb), other, how));
    }

    fn times(&mut self, what: &str, times: impl Fn(&Seen) -> &Times, how: &str, goal: Option<Duration>) {
        let goal = goal.map(|goal| {
            let met = verdict(times(self.ferrolb).quantile(100) <= goal);
            format!("goal {}: {met}", millis(goal))
        });
        let how = [Some(how.to_owned()), goal]
            .into_iter()
            .flatten()
            .filter(|part| !part.is_empty());
        let how = how.collect::<Vec<_>>().join("; ");
        let cell = |seen: &Seen| {
            let times = times(seen);
            format!("{} ({})", millis(times.median()), millis(times.quantile(100)))
        };
        self.row(what, cell, how);
    }
}

impl Seen {
    /// Resident memory of a part: the median of its processes, and the most.
    fn resident(&self, part: usize) -> String {
        let mut memory = self.memory[part].clone();
        memory.sort_unstable();
        let (middle, most) = (memory.get(memory.len() / 2), memory.last());
        let [middle, most] = [middle, most].map(|resident| mebibytes(resident.copied().unwrap_or_default()));
        format!("{middle} ({most})")
    }
}
