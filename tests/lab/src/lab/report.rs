//! What a person gets to see when something has failed.

use std::fmt::Write as _;
use std::path::Path;

use super::{Lab, Program};
use crate::process::tail;

/// How many lines of each log are shown.
const LINES: usize = 15;

/// For a cluster that did not come up: where the logs are, and the end of each.
pub(super) fn of_start(name: &str, log_dir: &Path) -> String {
    let mut text = format!("the cluster {name} did not come up; logs in {}", log_dir.display());
    let mut logs: Vec<_> = std::fs::read_dir(log_dir)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect();
    logs.sort();
    for log in logs {
        show(&mut text, &log, 5);
    }
    text
}

/// For a failed scenario: where the logs are, which programs have ended, and how FerroLB's logs end.
pub(super) fn of_failure(lab: &Lab) -> String {
    let mut text = format!("logs in {}", lab.log_dir().display());
    for process in lab.processes() {
        if let Some(exit) = process.exit() {
            write!(text, "\n{} has ended: {exit}", process.name()).expect("write to a string");
        }
    }
    let speakers = lab
        .nodes()
        .iter()
        .filter_map(|node| node.program(Program::Speaker).ok());
    for process in lab.controllers().iter().chain(speakers) {
        show(&mut text, &process.log(), LINES);
    }
    text
}

fn show(text: &mut String, log: &Path, lines: usize) {
    write!(text, "\n--- {}\n{}", log.display(), tail(log, lines)).expect("write to a string");
}
