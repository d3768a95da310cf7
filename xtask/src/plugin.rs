//! `xtask plugin`: `kubectl ferrolb` for a release, one archive per architecture, and the krew manifest with their
//! checksums. krew itself, built from its Go module, installs what came out into a folder that goes again.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum as _;
use ferrolb_image::{Architecture, bundle, sha256};

use crate::image::{Target, build, epoch};
use crate::repository;

const PACKAGE: &str = "ferrolb-cli";
const PROGRAM: &str = "kubectl-ferrolb";
const TEMPLATE: &str = "deploy/krew/ferrolb.yaml";
const KREW: &str = "sigs.k8s.io/krew/cmd/krew@v0.4.3";

/// Arguments of `xtask plugin`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Where the archives and the manifest go.
    #[arg(long, value_name = "DIR", default_value = "target/plugin")]
    out: PathBuf,
    /// Where cargo builds.
    #[arg(long, value_name = "DIR")]
    target_dir: Option<PathBuf>,
}

/// Makes everything and tries it.
pub(crate) fn run(args: &Args) -> Result<()> {
    let root = repository();
    let out = root.join(&args.out);
    fs::create_dir_all(&out).with_context(|| format!("make {}", out.display()))?;
    let epoch = epoch(std::env::var("SOURCE_DATE_EPOCH").ok().as_deref())?;
    let licence = fs::read(root.join("LICENSE")).context("read LICENSE")?;
    let template = fs::read_to_string(root.join(TEMPLATE)).with_context(|| format!("read {TEMPLATE}"))?;
    let mut manifest = template.replace("VERSION", env!("CARGO_PKG_VERSION"));
    for target in Target::value_variants() {
        let architecture = Architecture::from(*target);
        let folder = build::programs(&root, architecture, args.target_dir.as_deref(), &[PACKAGE])?;
        let program = fs::read(folder.join(PROGRAM)).with_context(|| format!("read {PROGRAM}"))?;
        let archive = bundle(&[(PROGRAM, &program, 0o755), ("LICENSE", &licence, 0o644)], epoch)?;
        let path = out.join(name(architecture));
        fs::write(&path, &archive).with_context(|| format!("write {}", path.display()))?;
        let sum = sha256(&archive);
        manifest = manifest.replace(&format!("SHA256_LINUX_{}", architecture.name().to_uppercase()), &sum);
        println!(
            "{}\n  sha256  {sum}\n  {} bytes packed, {} unpacked",
            path.display(),
            archive.len(),
            program.len()
        );
    }
    // The first line tells what the template is.
    let manifest = manifest.split_once('\n').map_or("", |(_, rest)| rest);
    ensure!(
        !manifest.contains("SHA256"),
        "{TEMPLATE} names an architecture that nothing is made for"
    );
    let path = out.join("ferrolb.yaml");
    fs::write(&path, manifest).with_context(|| format!("write {}", path.display()))?;
    tried(&path, &out.join(name(build::host()?)))
}

fn name(architecture: Architecture) -> String {
    format!("{PROGRAM}_linux_{}.tar.gz", architecture.name())
}

/// krew installs it, and what it has installed runs.
fn tried(manifest: &Path, archive: &Path) -> Result<()> {
    let scratch = std::env::temp_dir().join(format!("ferrolb-krew-{}", std::process::id()));
    fs::create_dir_all(&scratch).with_context(|| format!("make {}", scratch.display()))?;
    let outcome = install(&scratch, manifest, archive);
    fs::remove_dir_all(&scratch).with_context(|| format!("remove {}", scratch.display()))?;
    println!("krew installed it: {}", outcome?);
    Ok(())
}

fn install(scratch: &Path, manifest: &Path, archive: &Path) -> Result<String> {
    let run = |command: &mut Command, what: &str| {
        let output = command.output().with_context(|| format!("run {what}"))?;
        if !output.status.success() {
            bail!("{what} failed: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        String::from_utf8(output.stdout).with_context(|| format!("read what {what} says"))
    };
    run(
        Command::new("go").args(["install", KREW]).env("GOBIN", scratch),
        "go install",
    )?;
    let root = scratch.join("root");
    let mut krew = Command::new(scratch.join("krew"));
    let krew = krew.env("KREW_ROOT", &root).env("HOME", scratch).arg("install");
    let krew = krew.arg(format!("--manifest={}", manifest.display()));
    run(krew.arg(format!("--archive={}", archive.display())), "krew")?;
    let installed = run(Command::new(root.join("bin").join(PROGRAM)).arg("--version"), PROGRAM)?;
    let installed = installed.trim();
    ensure!(
        installed.ends_with(env!("CARGO_PKG_VERSION")),
        "{PROGRAM} says {installed:?}"
    );
    Ok(installed.to_owned())
}
