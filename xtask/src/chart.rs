//! `xtask chart`: renders what is installed, as users do, and compares it with what was looked at before.
//!
//! - The Helm chart, linted and rendered with each file of `xtask/tests/chart/cases` into `xtask/tests/chart/golden`, without
//!   the definitions. With default values it must install what `deploy/manifests/ferrolb.yaml` does.
//! - Each overlay of `deploy/overlays`, by kubectl: what is different from the base goes into `xtask/tests/overlays`.
//! - The alerts, by promtool, with the cases of `xtask/tests/alerts.yaml`.
//!
//! Without `--check` the files are written; with it a difference is a failure.

mod alerts;
mod helm;
mod overlays;
mod same;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::generate::manifest;
use crate::repository;
use anyhow::{Context, Result, bail, ensure};

/// Arguments of `xtask chart`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Write nothing; fail when something is rendered in another way than before.
    #[arg(long)]
    check: bool,
}

/// Renders everything.
pub(crate) fn run(args: &Args) -> Result<()> {
    let root = repository();
    let manifest = manifest(&root)?;
    let mut golden = Golden {
        check: args.check,
        root: &root,
        different: Vec::new(),
    };
    let cases = helm::run(&root, &manifest, &mut golden)?;
    let overlays = overlays::run(&root, &manifest, &mut golden)?;
    let alerts = alerts::run(&root)?;
    ensure!(
        golden.different.is_empty() || !args.check,
        "rendered in another way than before; run `cargo xtask chart` and look at the difference: {}",
        golden.different.join(", ")
    );
    println!(
        "chart: {cases} cases, {overlays} overlays, {alerts} alerts, {} changed",
        golden.different.len()
    );
    Ok(())
}

/// Files that say what was rendered before.
struct Golden<'a> {
    check: bool,
    root: &'a Path,
    different: Vec<String>,
}

impl Golden<'_> {
    /// Compares, and writes unless it is only to be checked.
    fn compare(&mut self, path: &str, text: &str) -> Result<()> {
        let file = self.root.join(path);
        if fs::read_to_string(&file).is_ok_and(|before| before == text) {
            return Ok(());
        }
        self.different.push(path.to_owned());
        if self.check {
            return Ok(());
        }
        fs::write(&file, text).with_context(|| format!("write {path}"))
    }
}

/// The files of a folder with an extension, by name.
fn files(folder: &Path, extension: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))? {
        let path = entry.with_context(|| format!("read {}", folder.display()))?.path();
        if path.extension().is_some_and(|is| is == extension) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// The name of a file without its extension.
fn stem(path: &Path) -> Result<&str> {
    path.file_stem()
        .and_then(|stem| stem.to_str())
        .with_context(|| format!("{} has no name", path.display()))
}

/// What a program says that must not fail.
fn output(command: &mut Command, what: &str) -> Result<String> {
    let Output { status, stdout, stderr } = command.output().with_context(|| format!("run {what}"))?;
    if !status.success() {
        let said = [stdout, stderr].concat();
        bail!("{what} failed:\n{}", String::from_utf8_lossy(&said).trim());
    }
    String::from_utf8(stdout).with_context(|| format!("read what {what} says"))
}
