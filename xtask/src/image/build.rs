//! Builds static executables with musl.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use ferrolb_image::Architecture;

pub(crate) use super::executable::machine;

/// Separates flags in `CARGO_ENCODED_RUSTFLAGS`.
const SEPARATOR: &str = "\x1f";

/// The architecture of this machine.
pub(crate) fn host() -> Result<Architecture> {
    match std::env::consts::ARCH {
        "x86_64" => Ok(Architecture::Amd64),
        "aarch64" => Ok(Architecture::Arm64),
        other => bail!("this machine is {other}; say for which architecture to build, with --arch"),
    }
}

/// Rust's name for what is built for.
pub(crate) fn triple(architecture: Architecture) -> String {
    format!("{}-unknown-linux-musl", machine(architecture))
}

/// Builds the packages for release and gives the folder with their executables.
pub(crate) fn programs(
    root: &Path,
    architecture: Architecture,
    target_dir: Option<&Path>,
    packages: &[&str],
) -> Result<PathBuf> {
    let triple = triple(architecture);
    let target_dir = target_dir.map_or_else(|| root.join("target"), Path::to_owned);
    let mut cargo = cargo(root, architecture, Some(&target_dir))?;
    cargo
        .args(["build", "--locked", "--release", "--target", &triple])
        .args(packages.iter().flat_map(|package| ["-p", package]))
        .env("CARGO_ENCODED_RUSTFLAGS", flags(root, &target_dir)?.join(SEPARATOR));
    let status = cargo.status().context("run cargo")?;
    if !status.success() {
        bail!("the build for {triple} failed");
    }
    Ok(target_dir.join(triple).join("release"))
}

/// cargo, in `root`, with what it needs to build for the architecture.
pub(crate) fn cargo(root: &Path, architecture: Architecture, target_dir: Option<&Path>) -> Result<Command> {
    installed(&triple(architecture))?;
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(root);
    if let Some(target_dir) = target_dir {
        cargo.env("CARGO_TARGET_DIR", target_dir);
    }
    // The TLS library has C and assembly in it, which need headers and no C library: any compiler for the processor will do.
    let compiler = format!("CC_{}", triple(architecture).replace('-', "_"));
    if std::env::var_os(&compiler).is_none() {
        cargo.env(compiler, c_compiler(architecture)?);
    }
    if host().ok() != Some(architecture) {
        let linker = variable(architecture, "LINKER");
        if std::env::var_os(&linker).is_none() {
            cargo.env(linker, "rust-lld");
        }
    }
    Ok(cargo)
}

/// By which variable cargo is told something about the architecture.
pub(crate) fn variable(architecture: Architecture, what: &str) -> String {
    format!(
        "CARGO_TARGET_{}_{what}",
        triple(architecture).replace('-', "_").to_uppercase()
    )
}

/// Takes the paths of this machine out of the messages of panics, so that every machine builds the same bytes.
fn flags(root: &Path, target_dir: &Path) -> Result<Vec<String>> {
    let home = std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::home_dir().map(|home| home.join(".cargo")))
        .context("neither CARGO_HOME nor HOME is set")?;
    // Of several that fit, the last one counts.
    let renamed = [(home.as_path(), "/cargo"), (root, "/ferrolb"), (target_dir, "/target")];
    Ok(renamed
        .into_iter()
        .map(|(from, to)| format!("--remap-path-prefix={}={to}", from.display()))
        .collect())
}

fn installed(triple: &str) -> Result<()> {
    let output = Command::new("rustc")
        .args(["--print", "target-libdir", "--target", triple])
        .output()
        .context("run rustc")?;
    let folder = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
    if output.status.success() && folder.is_dir() {
        return Ok(());
    }
    bail!("Rust's standard library for {triple} is missing: rustup target add {triple}")
}

/// A C compiler that makes objects for the processor.
fn c_compiler(architecture: Architecture) -> Result<String> {
    if host().ok() == Some(architecture) {
        return Ok("cc".to_owned());
    }
    let name = format!("{}-linux-gnu-gcc", machine(architecture));
    match Command::new(&name).arg("--version").output() {
        Ok(_) => Ok(name),
        Err(error) => {
            bail!("cannot run {name} ({error}), which the TLS library is built with: scripts/prepare --all installs it")
        }
    }
}
