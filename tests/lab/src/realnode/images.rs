//! Images for nodes that pull from nobody: the lab's own, made of its `lab_pod`, and FerroLB's, as `xtask image` makes them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use ferrolb_controlplane::Metallb;
use ferrolb_image::{About, Architecture, Library, Program, USER, archive};

use crate::kubelet::images::built_lab_pod;

/// What holds a pod's namespaces.
pub(super) const PAUSE: &str = "ferrolb.lab/pause:1";
/// The web server of the lab.
const WEB: &str = "ferrolb.lab/web:1";
const ROOT: u32 = 0;
/// The archives that `xtask image` makes.
const PRODUCTS: [&str; 2] = ["ferrolb-controller.oci.tar", "ferrolb-speaker.oci.tar"];

/// Finds FerroLB's images in `$FERROLB_IMAGE_DIR`, else in `target/images`.
///
/// # Errors
/// When they have not been made.
pub(crate) fn products(target: &Path) -> Result<Vec<PathBuf>> {
    let directory = std::env::var_os("FERROLB_IMAGE_DIR").map_or_else(|| target.join("images"), PathBuf::from);
    let paths: Vec<PathBuf> = PRODUCTS.iter().map(|name| directory.join(name)).collect();
    match paths.iter().find(|path| !path.is_file()) {
        Some(missing) => bail!("no {}: cargo run -p xtask -- image", missing.display()),
        None => Ok(paths),
    }
}

/// Makes the lab's own images as archives in `directory`.
pub(crate) fn make_own(directory: &Path) -> Result<Vec<PathBuf>> {
    fs::create_dir_all(directory).with_context(|| format!("make {}", directory.display()))?;
    let path = built_lab_pod()?;
    let executable = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
    let libraries = libraries(&path)?;
    let beside: Vec<Library<'_>> = libraries.iter().map(|(path, bytes)| Library { path, bytes }).collect();
    let program = |name| Program {
        name,
        executable: &executable,
        user: USER,
        capabilities: &[],
        libraries: &beside,
    };
    let images = [("pause", PAUSE), ("web", WEB)];
    images
        .into_iter()
        .map(|(name, reference)| make(directory, reference, program(name)))
        .collect()
}

/// Makes MetalLB's images as archives in `directory`, by the names that its manifest has. They run as root where that does not say
/// otherwise.
pub(crate) fn of_metallb(metallb: &Metallb, directory: &Path) -> Result<Vec<PathBuf>> {
    let mut made = Vec::new();
    for (name, path) in [("controller", &metallb.controller), ("speaker", &metallb.speaker)] {
        let executable = fs::read(path).with_context(|| format!("read {}", path.display()))?;
        let program = Program {
            name,
            executable: &executable,
            user: ROOT,
            capabilities: &[],
            libraries: &[],
        };
        made.push(make(directory, metallb.image(name)?, program)?);
    }
    Ok(made)
}

/// Makes an image as an archive in `directory`.
fn make(directory: &Path, reference: &str, program: Program<'_>) -> Result<PathBuf> {
    let architecture = match std::env::consts::ARCH {
        "aarch64" => Architecture::Arm64,
        _ => Architecture::Amd64,
    };
    let about = About {
        reference,
        labels: &BTreeMap::new(),
        epoch: 0,
    };
    let path = directory.join(format!("{}.oci.tar", program.name));
    let image = archive(&about, &[(architecture, program)])?;
    fs::write(&path, image.bytes).with_context(|| format!("write {}", path.display()))?;
    Ok(path)
}

/// The loader and the libraries of an executable, by the paths at which it looks for them.
fn libraries(executable: &Path) -> Result<BTreeMap<String, Vec<u8>>> {
    let output = Command::new("ldd")
        .arg(executable)
        .output()
        .context("run ldd, which comes with the C library")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut found = BTreeMap::new();
    for path in library_paths(&text) {
        let bytes = fs::read(path).with_context(|| format!("read {path}"))?;
        found.insert(path.trim_start_matches('/').to_owned(), bytes);
    }
    Ok(found)
}

/// The paths in what `ldd` says; none for a static executable.
fn library_paths(text: &str) -> impl Iterator<Item = &str> {
    text.lines()
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loader_and_libraries_are_found() {
        let text = "\tlinux-vdso.so.1 (0x00007ffd)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        let found: Vec<&str> = library_paths(text).collect();
        assert_eq!(
            found,
            ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"]
        );
        assert_eq!(library_paths("\tstatically linked\n").count(), 0);
    }
}
