//! The documents name files that exist: every relative link, and every path in backticks that begins with a folder of
//! the repository.

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
