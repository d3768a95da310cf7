//! The overlays for kustomize, rendered by kubectl.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use ferrolb_controlplane::{Program, Programs};
use serde_json::Value;

use super::same::by_name;
use super::{Golden, output, same};
use crate::generate::documents;

const OVERLAYS: &str = "deploy/overlays";

/// Renders base and overlays, and says how many of the latter there are.
pub(super) fn run(root: &Path, manifest: &[Value], golden: &mut Golden<'_>) -> Result<usize> {
    let kubectl = Programs::obtain(&mut |line| println!("{line}"))?.invocation(Program::Kubectl);
    let render = |folder: &str| {
        let mut command = Command::new(&kubectl.0);
        command.current_dir(root).args(&kubectl.1).args(["kustomize", folder]);
        documents(&output(&mut command, &format!("kubectl kustomize {folder}"))?, folder)
    };
    let base = render("deploy/base")?;
    same::assert("deploy/base", manifest, &base)?;
    let mut names = Vec::new();
    for entry in fs::read_dir(root.join(OVERLAYS)).with_context(|| format!("read {OVERLAYS}"))? {
        let name = entry.with_context(|| format!("read {OVERLAYS}"))?.file_name();
        names.push(name.into_string().ok().context("an overlay's name is no UTF-8")?);
    }
    names.sort();
    for name in &names {
        let overlay = render(&format!("{OVERLAYS}/{name}"))?;
        let text = changed(&base, &overlay)?;
        ensure!(!text.is_empty(), "{OVERLAYS}/{name} changes nothing");
        golden.compare(&format!("xtask/tests/overlays/{name}.yaml"), &text)?;
    }
    Ok(names.len())
}

/// The objects of an overlay that the base has not, or has otherwise.
fn changed(base: &[Value], overlay: &[Value]) -> Result<String> {
    let base = by_name(base)?;
    let overlay = by_name(overlay)?;
    for name in base.keys() {
        ensure!(overlay.contains_key(name), "the overlay leaves out {name}");
    }
    let mut text = String::new();
    for (name, object) in overlay.iter().filter(|(name, object)| base.get(*name) != Some(object)) {
        let mut object = object.clone();
        if object["kind"] == "ConfigMap" {
            // Of the dashboard its name is enough.
            let names: Vec<String> = object["data"]
                .as_object()
                .into_iter()
                .flatten()
                .map(|(name, _)| name.clone())
                .collect();
            object["data"] = names.into();
        }
        text.push_str("---\n");
        text.push_str(&serde_saphyr::to_string(&object).with_context(|| format!("write {name}"))?);
    }
    Ok(text)
}
