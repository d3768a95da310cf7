//! The lab's own `kubectl`: never the machine's, never the user's configuration.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result, bail};
use ferrolb_controlplane::{Program, Programs};
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// How to call `kubectl` for one cluster.
#[derive(Debug, Clone)]
pub struct Kubectl {
    executable: PathBuf,
    leading: Vec<String>,
    kubeconfig: PathBuf,
    home: PathBuf,
}

impl Kubectl {
    /// `home` takes what kubectl caches.
    pub(super) fn new(programs: &Programs, kubeconfig: &Path, home: &Path) -> Self {
        let (executable, leading) = programs.invocation(Program::Kubectl);
        Self {
            executable,
            leading,
            kubeconfig: kubeconfig.to_owned(),
            home: home.to_owned(),
        }
    }

    /// Runs it with `args` and gives it `input`; returns what it printed.
    ///
    /// # Errors
    /// When it fails; the message is what it wrote to standard error.
    pub async fn run<S: AsRef<OsStr>>(&self, args: &[S], input: &str) -> Result<String> {
        self.run_with(self.kubeconfig.as_os_str(), args, input).await
    }

    /// Like [`Kubectl::run`], with `namespace` for objects that name none. Unlike with `-n`, those that name another one
    /// are no error.
    pub async fn run_in<S: AsRef<OsStr>>(&self, namespace: &str, args: &[S], input: &str) -> Result<String> {
        let overlay = self
            .context(namespace)
            .with_context(|| format!("write a context for {namespace}"))?;
        // Of a context that stands in several files, the first file's counts.
        let files = std::env::join_paths([&overlay, &self.kubeconfig]).context("join the kubeconfigs")?;
        self.run_with(&files, args, input).await
    }

    /// The file that makes `namespace` the default.
    fn context(&self, namespace: &str) -> Result<PathBuf> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let contexts = self.home.join("contexts");
        let path = contexts.join(namespace);
        if path.exists() {
            return Ok(path);
        }
        let content = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "admin", "namespace": namespace}}],
        });
        // In one step: another call may want the same file at this moment.
        let unfinished = contexts.join(format!("{namespace}.{}", COUNT.fetch_add(1, Ordering::Relaxed)));
        fs::create_dir_all(&contexts)?;
        fs::write(&unfinished, content.to_string())?;
        fs::rename(&unfinished, &path)?;
        Ok(path)
    }

    async fn run_with<S: AsRef<OsStr>>(&self, kubeconfig: &OsStr, args: &[S], input: &str) -> Result<String> {
        let mut child = Command::new(&self.executable)
            .args(&self.leading)
            .args(args)
            .env("KUBECONFIG", kubeconfig)
            .env("HOME", &self.home)
            .env("KUBERC", "off")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("start {}", self.executable.display()))?;
        let mut stdin = child.stdin.take().context("kubectl's standard input")?;
        let write = async move { stdin.write_all(input.as_bytes()).await };
        // A failed write is kubectl ending early, and its own message says why.
        let (_, output) = tokio::join!(write, child.wait_with_output());
        let output = output.context("wait for kubectl")?;
        if !output.status.success() {
            let words: Vec<_> = args.iter().map(|word| word.as_ref().to_string_lossy()).collect();
            let stderr = String::from_utf8_lossy(&output.stderr);
            bail!("kubectl {}: {}", words.join(" "), stderr.trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// A shell script that does the same from outside; `prefix` is what has to come before the program.
    pub(super) fn script(&self, prefix: &str) -> String {
        let leading = self.leading.join(" ");
        format!(
            "#!/bin/sh\nexport KUBERC=off KUBECONFIG='{}'\nexec {prefix}'{}' {leading} \"$@\"\n",
            self.kubeconfig.display(),
            self.executable.display()
        )
    }
}
