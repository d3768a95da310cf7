//! The documents name files that exist: every relative link, and every path in backticks that begins with a folder of
//! the repository. The user guide explains every refusal, has every page in its summary, and knows every flag.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("a workspace")
        .to_owned()
}

fn documents() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)
            .expect("a readable folder")
            .map(|entry| entry.expect("an entry").path())
        {
            let name = entry.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if entry.is_dir() && !name.starts_with('.') && name != "target" {
                folders.push(entry);
            } else if name.ends_with(".md") {
                found.push(entry);
            }
        }
    }
    found
}

/// What stands between `open` and `close`, in each place.
fn between<'a>(text: &'a str, open: &'a str, close: &'a str) -> impl Iterator<Item = &'a str> {
    text.split(open)
        .skip(1)
        .filter_map(move |rest| rest.split_once(close))
        .map(|(inside, _)| inside)
}

#[test]
fn links_lead_somewhere() {
    let mut broken = Vec::new();
    for document in documents() {
        let text = fs::read_to_string(&document).expect("a readable document");
        for link in between(&text, "](", ")") {
            let path = link.split('#').next().unwrap_or_default();
            let outside = link.contains("://") || link.starts_with("mailto:") || path.is_empty();
            if !outside && !document.with_file_name(path).exists() {
                broken.push(format!("{}: {link}", document.display()));
            }
        }
    }
    assert!(broken.is_empty(), "links to nowhere:\n{}", broken.join("\n"));
}

#[test]
fn paths_in_backticks_exist() {
    let root = root();
    let mut missing = Vec::new();
    let mut seen = 0;
    for document in documents() {
        let text = fs::read_to_string(&document).expect("a readable document");
        for line in text.lines() {
            for path in line.split('`').skip(1).step_by(2) {
                let mut parts = path.split('/');
                let folder = parts.next().unwrap_or_default();
                let plain = path.bytes().all(|b| b.is_ascii_alphanumeric() || b"/_.-".contains(&b));
                // `target/` appears when something is built.
                if folder.is_empty()
                    || parts.next().is_none()
                    || !plain
                    || folder == "target"
                    || !root.join(folder).is_dir()
                {
                    continue;
                }
                seen += 1;
                if !root.join(path).exists() {
                    missing.push(format!("{}: {path}", document.display()));
                }
            }
        }
    }
    assert!(
        seen > 20,
        "only {seen} paths found: is this test still looking at the right things?"
    );
    assert!(missing.is_empty(), "paths that do not exist:\n{}", missing.join("\n"));
}

/// The names that `as_str` of `impl TYPE` gives, read from the arms of its match.
fn names_in_code<'a>(source: &'a str, of: &str) -> BTreeSet<&'a str> {
    let start = format!("impl {of} {{");
    let body = source.split(&start).nth(1).unwrap_or_default();
    let body = body.split("\n}\n").next().unwrap_or_default();
    between(body, "=> \"", "\",").collect()
}

/// The names in the first column of the table under a heading.
fn names_in_table<'a>(page: &'a str, heading: &str) -> BTreeSet<&'a str> {
    let start = format!("\n## {heading}\n");
    let section = page.split(&start).nth(1).unwrap_or_default();
    let section = section.split("\n## ").next().unwrap_or_default();
    let rows = section.lines().filter_map(|line| line.strip_prefix("| `"));
    rows.filter_map(|row| row.split_once('`'))
        .map(|(name, _)| name)
        .collect()
}

#[test]
fn every_refusal_is_explained() {
    let source = fs::read_to_string(root().join("model/src/reason.rs")).expect("the reasons");
    let page = fs::read_to_string(root().join("docs/src/when-it-does-not-work.md")).expect("the page");
    for (of, heading) in [("Reason", "Reasons"), ("NodeRefusal", "Node refusals")] {
        let (code, table) = (names_in_code(&source, of), names_in_table(&page, heading));
        assert!(
            code.len() > 5,
            "{of}: found {code:?} alone: is this test still looking at the right things?"
        );
        let missing: Vec<_> = code.difference(&table).collect();
        let unknown: Vec<_> = table.difference(&code).collect();
        assert!(missing.is_empty(), "the table {heading:?} lacks {missing:?}");
        assert!(
            unknown.is_empty(),
            "the table {heading:?} names what is not there: {unknown:?}"
        );
    }
}

#[test]
fn every_page_is_in_the_summary() {
    let pages = root().join("docs/src");
    let summary = fs::read_to_string(pages.join("SUMMARY.md")).expect("a summary");
    let listed: BTreeSet<String> = between(&summary, "](", ")").map(str::to_owned).collect();
    let there: BTreeSet<String> = fs::read_dir(&pages)
        .expect("the pages")
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .filter(|name| name.ends_with(".md") && name != "SUMMARY.md")
        .collect();
    assert_eq!(listed, there);
}

#[test]
fn every_variable_is_in_the_reference() {
    let page = fs::read_to_string(root().join("docs/src/reference.md")).expect("the reference");
    let mut code = BTreeSet::new();
    for file in ["runtime/src/args.rs", "controller/src/args.rs", "speaker/src/args.rs"] {
        let source = fs::read_to_string(root().join(file)).expect("the arguments");
        code.extend(between(&source, "env = \"", "\"").map(str::to_owned));
    }
    let table: BTreeSet<String> = between(&page, "| `FERROLB_", "`")
        .map(|name| format!("FERROLB_{name}"))
        .collect();
    assert_eq!(table, code);
}
