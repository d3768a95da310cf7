//! Rules about the source itself.

use std::fs;
use std::path::{Path, PathBuf};

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else {
            found.push(path);
        }
    }
    found
}

#[test]
fn only_proto_names_the_pinned_crates() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let inside = |path: &Path| path.starts_with(source.join("proto")) || path == source.join("proto.rs");
    let (mut named_inside, mut named_outside) = (0, Vec::new());
    for path in sources(&source) {
        if fs::read_to_string(&path).unwrap().contains("rustbgpd_") {
            if inside(&path) {
                named_inside += 1;
            } else {
                named_outside.push(path);
            }
        }
    }
    assert!(named_inside > 0 && named_outside.is_empty(), "{named_outside:?}");
}
