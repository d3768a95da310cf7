//! The documents name files that exist: every relative link, and every path in backticks that begins with a folder of
//! the repository. The user guide explains every refusal, has every page in its summary, and knows every flag.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

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

/// Fields of `value` that the schema does not have.
fn unknown_fields(schema: &Value, value: &Value, path: &str, unknown: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                let known = [&schema["properties"][name], &schema["additionalProperties"]];
                let path = format!("{path}.{name}");
                match known.into_iter().find(|known| known.is_object()) {
                    Some(known) => unknown_fields(known, field, &path, unknown),
                    None if schema["x-kubernetes-preserve-unknown-fields"] == true => {}
                    None => unknown.push(path),
                }
            }
        }
        Value::Array(items) => {
            let of = |item| unknown_fields(&schema["items"], item, path, unknown);
            items.iter().for_each(of);
        }
        _ => {}
    }
}

/// Objects of ours in examples have the fields of their definitions, and a namespace where they live in one.
#[test]
fn examples_can_be_applied() {
    let definitions = ferrolb_api::crds().into_iter();
    let definitions = definitions.map(|crd| serde_json::to_value(crd).expect("a definition"));
    let definitions = definitions.collect::<Vec<_>>();
    let mut seen = 0;
    for document in documents() {
        let text = fs::read_to_string(&document).expect("a readable document");
        for block in between(&text, "```yaml\n", "```") {
            let place = || format!("{}:\n{block}", document.display());
            let objects = serde_saphyr::from_multiple::<Value>(block);
            let objects = objects.unwrap_or_else(|error| panic!("{}{error}", place()));
            for object in objects {
                let of_kind = |d: &&Value| d["spec"]["names"]["kind"] == object["kind"];
                let Some(definition) = definitions.iter().find(of_kind) else {
                    continue;
                };
                seen += 1;
                let spec = &definition["spec"];
                let versions = spec["versions"].as_array().expect("versions");
                let group = spec["group"].as_str().expect("a group");
                let called = |v: &&Value| object["apiVersion"] == format!("{group}/{}", v["name"].as_str().unwrap());
                let version = versions.iter().find(called);
                let version = version.unwrap_or_else(|| panic!("{}there is no such version", place()));
                let schema = &version["schema"]["openAPIV3Schema"]["properties"]["spec"];
                let mut unknown = Vec::new();
                unknown_fields(schema, &object["spec"], "spec", &mut unknown);
                assert!(unknown.is_empty(), "{}there is no {unknown:?}", place());
                let wanted = match spec["scope"] == "Namespaced" {
                    true => Value::from(ferrolb_api::names::DEFAULT_NAMESPACE),
                    false => Value::Null,
                };
                assert_eq!(object["metadata"]["namespace"], wanted, "{}", place());
            }
        }
    }
    assert!(
        seen > 15,
        "only {seen} objects found: is this test still looking right?"
    );
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
