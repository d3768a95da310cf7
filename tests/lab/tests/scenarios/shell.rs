//! What users type, as the documents have it.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use ferrolb_controlplane::{Program, Programs};
use tokio::process::Command;

use crate::scene::Scene;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
const README: &str = include_str!("../../../../README.md");

/// What the README has new users do.
pub(crate) struct QuickStart {
    /// Installs FerroLB.
    pub(crate) install: &'static str,
    /// A pool, an advertisement and a Service; its addresses stand for those of the user's network.
    pub(crate) objects: &'static str,
    /// Each shows something.
    pub(crate) looks: Vec<&'static str>,
}

/// The addresses that stand in the README for those of the user's network.
pub(crate) const EXAMPLE: [&str; 2] = ["192.0.2.100-192.0.2.150", "2001:db8::100-2001:db8::1ff"];

/// Reads it from the README.
pub(crate) fn quick_start() -> Result<QuickStart> {
    let section = README.split("\n## A first pool and Service\n").nth(1);
    let section = section.and_then(|rest| rest.split("\n## ").next());
    let section = section.context("the README has no quick start")?;
    let mut blocks = section.split("```").skip(1).step_by(2);
    let mut block = |language: &str| {
        let block = blocks.next().and_then(|block| block.strip_prefix(language));
        block.with_context(|| format!("the quick start has no block of {language}"))
    };
    let (install, objects, looks) = (block("sh\n")?, block("yaml\n")?, block("sh\n")?);
    let looks: Vec<&str> = looks
        .lines()
        .map(|line| line.split(" #").next().unwrap_or_default().trim())
        .collect();
    for part in EXAMPLE {
        ensure!(objects.contains(part), "the quick start has another range than {part}");
    }
    Ok(QuickStart {
        install: install.trim(),
        objects,
        looks,
    })
}

/// Somebody at a shell in a checkout of FerroLB, with kubectl and its plugin.
pub(crate) struct Shell {
    s: Scene,
    directory: PathBuf,
}

impl Shell {
    /// In a directory of the lab's own, with the repository's `deploy`.
    pub(crate) fn new(s: &Scene) -> Result<Self> {
        let kubeconfig = s.kubeconfig();
        let directory = kubeconfig.with_file_name(format!("shell-{}", s.namespace()));
        let bin = directory.join("bin");
        fs::create_dir_all(&bin).with_context(|| format!("make {}", bin.display()))?;
        let (kubectl, leading) = Programs::obtain(&mut |_| {})?.invocation(Program::Kubectl);
        let script = format!("#!/bin/sh\nexec '{}' {} \"$@\"\n", kubectl.display(), leading.join(" "));
        let path = bin.join("kubectl");
        fs::write(&path, script).context("write a script for kubectl")?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).context("make it executable")?;
        symlink(s.binary("kubectl-ferrolb")?, bin.join("kubectl-ferrolb")).context("link the plugin")?;
        symlink(Path::new(ROOT).join("deploy"), directory.join("deploy")).context("link the manifests")?;
        Ok(Self {
            s: s.clone(),
            directory,
        })
    }

    /// Writes a file into the directory.
    pub(crate) fn write(&self, name: &str, content: &str) -> Result<()> {
        fs::write(self.directory.join(name), content).with_context(|| format!("write {name}"))
    }

    /// Runs a line; its exit code, and what it has said.
    pub(crate) async fn line(&self, line: &str) -> Result<(Option<i32>, String)> {
        let path = std::env::var("PATH").unwrap_or_default();
        let output = Command::new("sh")
            .args(["-c", line])
            .current_dir(&self.directory)
            .env("PATH", format!("{}:{path}", self.directory.join("bin").display()))
            .env("KUBECONFIG", self.s.kubeconfig())
            .env("HOME", &self.directory)
            .env("KUBERC", "off")
            .kill_on_drop(true)
            .output()
            .await
            .with_context(|| format!("run {line:?}"))?;
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        Ok((output.status.code(), said))
    }

    /// Runs a line that must not fail; what it has said.
    pub(crate) async fn run(&self, line: &str) -> Result<String> {
        match self.line(line).await? {
            (Some(0), said) => Ok(said),
            (code, said) => bail!("{line:?} ended with {code:?}: {said}"),
        }
    }

    /// Runs line after line.
    pub(crate) async fn run_all(&self, lines: &[String]) -> Result<String> {
        let mut said = String::new();
        for line in lines {
            said += &self.run(line).await?;
        }
        Ok(said)
    }
}
