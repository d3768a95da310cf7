//! What the guide, and the procedure of a report, tell people to type can be typed.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Parser;
use ferrolb_cli::args::Cli;

const CALL: &str = "kubectl ferrolb ";

fn files(folder: PathBuf, extension: &str) -> Vec<PathBuf> {
    let all = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    all.filter(|path| path.extension().is_some_and(|e| e == extension))
        .collect()
}

/// The calls in a line: the line itself, or what is in backticks.
fn calls(line: &str) -> impl Iterator<Item = &str> {
    let line = line.trim().trim_start_matches("$ ");
    let code = line.split('`').skip(1).step_by(2);
    let all = code.chain(Some(line)).filter_map(|code| code.strip_prefix(CALL));
    all.filter_map(|call| call.split(['#', '>', '|', ';']).next())
}

#[test]
fn every_call_can_be_read() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut documents = files(root.join("docs/src"), "md");
    documents.extend(files(root.join("cli/tests/worlds"), "txt"));
    documents.push(root.join("README.md"));
    let mut seen = 0;
    for document in documents {
        let text = fs::read_to_string(&document).unwrap();
        for call in text.lines().flat_map(calls) {
            seen += 1;
            let words = std::iter::once("kubectl-ferrolb").chain(call.split_whitespace());
            if let Err(error) = Cli::try_parse_from(words) {
                panic!("{}: {CALL}{call}: {error}", document.display());
            }
        }
    }
    assert!(seen > 30, "only {seen} calls found: is this test still looking right?");
}
