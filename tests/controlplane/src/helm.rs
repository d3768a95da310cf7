//! Helm, which installs the chart: found on this machine, or built from its Go module once.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// What is built when there is no helm.
const MODULE: &str = "helm.sh/helm/v3/cmd/helm";
const VERSION: &str = "v3.22.0";

/// helm from `$PATH` or Go's folder of programs; else it is built into the latter, of which `report` hears.
///
/// # Errors
/// When it has to be built and the Go toolchain is missing, or when the build fails.
pub fn helm(report: &mut dyn FnMut(&str)) -> Result<PathBuf> {
    let output = Command::new("go")
        .args(["env", "GOPATH"])
        .output()
        .context("run go env")?;
    let gopath = String::from_utf8(output.stdout).context("read what go env says")?;
    let built = Path::new(gopath.trim()).join("bin/helm");
    for program in [PathBuf::from("helm"), built.clone()] {
        let version = Command::new(&program).args(["version", "--short"]).output();
        if version.is_ok_and(|output| output.stdout.starts_with(b"v3.")) {
            return Ok(program);
        }
    }
    report(&format!("building helm {VERSION}, once"));
    let module = format!("{MODULE}@{VERSION}");
    let output = Command::new("go")
        .args(["install", &module])
        .output()
        .context("run go install")?;
    ensure!(
        output.status.success(),
        "go install {module} failed:\n{}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(built)
}
