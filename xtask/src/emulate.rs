//! `xtask emulate`: what is built for the processor that this machine has not, run by qemu.
//!
//! The programs of the images must start and say their version, and what reads and writes frames and messages must pass its
//! tests there: byte order, alignment and the width of numbers are the compiler's, and atomics the processor's.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use ferrolb_image::Architecture;

use crate::image::{self, build};
use crate::repository;

/// The crates whose codecs, pure machines and calls of the kernel are tested, in their library tests.
const TESTED: [&str; 5] = [
    "ferrolb-l2",
    "ferrolb-bfd",
    "ferrolb-liveness",
    "ferrolb-bgp",
    "ferrolb-urgency",
];

/// Arguments of `xtask emulate`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Where cargo builds.
    #[arg(long, value_name = "DIR")]
    target_dir: Option<PathBuf>,
    /// The programs as `xtask image` builds them, which takes minutes; without it those of the profile for development.
    #[arg(long)]
    release: bool,
}

/// Builds what is not built yet, and runs it.
pub(crate) fn run(args: &Args) -> Result<()> {
    let root = repository();
    let architecture = other()?;
    let emulator = format!("qemu-{}", build::machine(architecture));
    let found = Command::new(&emulator).arg("--version").output();
    found.with_context(|| format!("run {emulator}: apt-get install qemu-user"))?;
    versions(&root, args, architecture, &emulator)?;
    let mut cargo = build::cargo(&root, architecture, args.target_dir.as_deref())?;
    let runner = build::variable(architecture, "RUNNER");
    let tests = cargo
        .args(["test", "--locked", "--lib", "--target", &build::triple(architecture)])
        .args(TESTED.iter().flat_map(|package| ["-p", package]))
        .env(runner, &emulator);
    let status = tests.status().context("run cargo test")?;
    ensure!(status.success(), "tests fail on {}", architecture.name());
    Ok(())
}

fn versions(root: &Path, args: &Args, architecture: Architecture, emulator: &str) -> Result<()> {
    let packages: Vec<&str> = image::PRODUCTS.iter().map(|product| product.name).collect();
    let target_dir = args.target_dir.as_deref();
    let folder = match args.release {
        true => build::programs(root, architecture, target_dir, &packages)?,
        false => {
            let triple = build::triple(architecture);
            let mut cargo = build::cargo(root, architecture, target_dir)?;
            cargo.args(["build", "--locked", "--target", &triple]);
            cargo.args(packages.iter().flat_map(|package| ["-p", package]));
            let status = cargo.status().context("run cargo build")?;
            ensure!(status.success(), "the build for {triple} failed");
            let target_dir = target_dir.map_or_else(|| root.join("target"), Path::to_owned);
            target_dir.join(triple).join("debug")
        }
    };
    for name in packages {
        let program = folder.join(name);
        let output = Command::new(emulator)
            .arg(&program)
            .arg("--version")
            .output()
            .with_context(|| format!("run {}", program.display()))?;
        let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        let wanted = concat!(" ", env!("CARGO_PKG_VERSION"));
        ensure!(
            output.status.success() && said == name.to_owned() + wanted,
            "{} says {said:?}: {}",
            program.display(),
            String::from_utf8_lossy(&output.stderr)
        );
        println!("{}: {said}", architecture.name());
    }
    Ok(())
}

/// The architecture that images are made for, too.
fn other() -> Result<Architecture> {
    Ok(match build::host()? {
        Architecture::Amd64 => Architecture::Arm64,
        Architecture::Arm64 => Architecture::Amd64,
    })
}
