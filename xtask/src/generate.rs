//! `xtask gen`: the files under `deploy` that follow from something else, and what else does.
//!
//! - `deploy/crds/GROUP_PLURAL.yaml`, one per kind, from the types of `ferrolb-api`;
//! - `deploy/crds/kustomization.yaml`, which lists them;
//! - what the Helm chart has from elsewhere (`generate/chart.rs`);
//! - `deploy/manifests/ferrolb.yaml`, which installs everything: the CRDs and the hand-written files of `deploy/base`
//!   in the order of their names;
//! - the fields that the API server has to know, for the controller (`generate/fields.rs`);
//! - the tables of reasons in the guide, from `ferrolb-model` (`generate/reasons.rs`).
//!
//! The same input gives the same bytes. `--check` writes nothing and fails with the names of the files that differ.

mod chart;
mod fields;
mod reasons;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::repository;

/// What installs everything.
pub(crate) const MANIFEST: &str = "deploy/manifests/ferrolb.yaml";

/// Arguments of `xtask gen`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Write nothing; fail when a file is not what would be written.
    #[arg(long)]
    check: bool,
}

/// A file as it should be.
struct Generated {
    path: PathBuf,
    text: String,
}

/// Writes the files, or compares them.
pub(crate) fn run(args: &Args) -> Result<()> {
    let root = repository();
    let files = generate(&root)?;
    let stale = stale(&root, &files)?;
    if args.check {
        if stale.is_empty() {
            return Ok(());
        }
        bail!("not up to date, run `cargo run -p xtask -- gen`: {}", names(&stale));
    }
    for file in &files {
        let path = root.join(&file.path);
        let folder = path.parent().context("a generated file lies in a folder")?;
        fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
        fs::write(&path, &file.text).with_context(|| format!("write {}", path.display()))?;
    }
    for path in stale.iter().filter(|path| !files.iter().any(|f| f.path == **path)) {
        fs::remove_file(root.join(path)).with_context(|| format!("remove {}", path.display()))?;
    }
    println!("{} files, {} changed", files.len(), stale.len());
    Ok(())
}

fn names(paths: &[PathBuf]) -> String {
    paths
        .iter()
        .map(|p| p.display().to_string())
        .collect::<Vec<_>>()
        .join(", ")
}

/// The documents of what installs everything.
pub(crate) fn manifest(root: &Path) -> Result<Vec<Value>> {
    let text = fs::read_to_string(root.join(MANIFEST)).with_context(|| format!("read {MANIFEST}"))?;
    documents(&text, MANIFEST)
}

/// The documents of a YAML text that is called `name`.
pub(crate) fn documents(text: &str, name: &str) -> Result<Vec<Value>> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(text).with_context(|| format!("read {name}"))?;
    Ok(documents.into_iter().filter(|document| !document.is_null()).collect())
}

/// The files that differ from what they should be, and the CRD files that nothing generates any more.
fn stale(root: &Path, files: &[Generated]) -> Result<Vec<PathBuf>> {
    let mut stale: Vec<PathBuf> = files
        .iter()
        .filter(|file| fs::read_to_string(root.join(&file.path)).ok().as_ref() != Some(&file.text))
        .map(|file| file.path.clone())
        .collect();
    for folder in ["deploy/crds", chart::DEFINITIONS] {
        for path in yaml_files(root, Path::new(folder))? {
            if !files.iter().any(|file| file.path == path) {
                stale.push(path);
            }
        }
    }
    Ok(stale)
}

fn generate(root: &Path) -> Result<Vec<Generated>> {
    let mut files = Vec::new();
    let mut manifest = header("the CRDs of the api crate and the files of deploy/base");
    let mut list = header("the types of the api crate");
    list.push_str("apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources:\n");
    for crd in ferrolb_api::crds() {
        let name = format!("{}_{}.yaml", crd.spec.group, crd.spec.names.plural);
        let yaml = serde_saphyr::to_string(&crd).with_context(|| format!("write {name} as YAML"))?;
        push_document(&mut manifest, &yaml);
        list.push_str(&format!("  - {name}\n"));
        files.push(chart::definition(&name, &crd)?);
        let mut text = header("the types of the api crate");
        push_document(&mut text, &yaml);
        files.push(Generated {
            path: Path::new("deploy/crds").join(name),
            text,
        });
    }
    files.push(Generated {
        path: PathBuf::from("deploy/crds/kustomization.yaml"),
        text: list,
    });
    files.push(chart::rights(root, "10-controller-rbac.yaml", "controller")?);
    files.push(chart::rights(root, "20-speaker-rbac.yaml", "speaker")?);
    files.extend(chart::files(root)?);
    let base = yaml_files(root, Path::new("deploy/base"))?;
    for path in base.iter().filter(|path| !path.ends_with("kustomization.yaml")) {
        let text = fs::read_to_string(root.join(path)).with_context(|| format!("read {}", path.display()))?;
        push_document(&mut manifest, &text);
    }
    files.push(Generated {
        path: PathBuf::from(MANIFEST),
        text: manifest,
    });
    files.push(fields::list());
    files.push(reasons::page(root)?);
    Ok(files)
}

fn header(source: &str) -> String {
    format!("# Generated by `cargo run -p xtask -- gen` from {source}. Do not edit.\n")
}

fn push_document(text: &mut String, document: &str) {
    text.push_str("---\n");
    text.push_str(document.trim());
    text.push('\n');
}

/// The YAML files of a folder, relative to the root, by name; none when there is no such folder.
fn yaml_files(root: &Path, folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(root.join(folder)) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("read {}", folder.display())),
    };
    let mut paths = Vec::new();
    for entry in entries {
        let name = PathBuf::from(entry.with_context(|| format!("read {}", folder.display()))?.file_name());
        if name.extension().is_some_and(|extension| extension == "yaml") {
            paths.push(folder.join(name));
        }
    }
    paths.sort();
    Ok(paths)
}
