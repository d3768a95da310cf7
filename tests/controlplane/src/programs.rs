//! Where the programs of Kubernetes come from.
//!
//! All of them are one Go binary with many names, built from the module in `kube/` and kept in a cache under the hash of
//! that module's sources. A directory of ready-made binaries (`$KUBEBUILDER_ASSETS`) goes before it, program by program.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use crate::KUBERNETES_VERSION;

/// How often a build says how far it is.
const PROGRESS_EVERY: Duration = Duration::from_secs(5);
/// How many lines of the compiler's output an error repeats.
const ERROR_LINES: usize = 30;

/// One of the programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Program {
    /// The store of the API server.
    Etcd,
    /// The API server.
    ApiServer,
    /// The controllers of Deployments, Nodes, EndpointSlices and the rest.
    ControllerManager,
    /// The scheduler of pods.
    Scheduler,
    /// What makes Service addresses work on a node.
    Proxy,
    /// What runs pods on a node.
    Kubelet,
    /// The command line client.
    Kubectl,
}

impl Program {
    const ALL: [Self; 7] = [
        Self::Etcd,
        Self::ApiServer,
        Self::ControllerManager,
        Self::Scheduler,
        Self::Proxy,
        Self::Kubelet,
        Self::Kubectl,
    ];

    /// The program's usual name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Etcd => "etcd",
            Self::ApiServer => "kube-apiserver",
            Self::ControllerManager => "kube-controller-manager",
            Self::Scheduler => "kube-scheduler",
            Self::Proxy => "kube-proxy",
            Self::Kubelet => "kubelet",
            Self::Kubectl => "kubectl",
        }
    }
}

/// The programs, ready to run.
#[derive(Debug, Clone)]
pub struct Programs {
    assets: BTreeMap<Program, PathBuf>,
    multi_call: Option<PathBuf>,
}

impl Programs {
    /// Finds the programs, or builds them, which takes minutes the first time; `report` hears about it line by line.
    ///
    /// # Errors
    /// When they have to be built and the Go toolchain is missing or too old, or when the build fails.
    pub fn obtain(report: &mut dyn FnMut(&str)) -> Result<Self> {
        let assets = std::env::var_os("KUBEBUILDER_ASSETS")
            .map(PathBuf::from)
            .map(find_assets)
            .unwrap_or_default();
        let complete = Program::ALL.iter().all(|program| assets.contains_key(program));
        let multi_call = if complete {
            None
        } else {
            Some(obtain_multi_call(report)?)
        };
        Ok(Self { assets, multi_call })
    }

    /// The executable of `program` and the arguments that have to come first.
    pub fn invocation(&self, program: Program) -> (PathBuf, Vec<String>) {
        match (self.assets.get(&program), &self.multi_call) {
            (Some(path), _) => (path.clone(), Vec::new()),
            (None, Some(path)) => (path.clone(), vec![program.name().to_owned()]),
            (None, None) => unreachable!("obtain builds what the assets lack"),
        }
    }
}

fn find_assets(directory: PathBuf) -> BTreeMap<Program, PathBuf> {
    Program::ALL
        .into_iter()
        .map(|program| (program, directory.join(program.name())))
        .filter(|(_, path)| path.is_file())
        .collect()
}

fn obtain_multi_call(report: &mut dyn FnMut(&str)) -> Result<PathBuf> {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("kube");
    let directory = cache_root()?.join(format!("kube-{}", hash(&sources)?));
    let binary = directory.join("kube");
    if binary.is_file() {
        return Ok(binary);
    }
    fs::create_dir_all(&directory).with_context(|| format!("make the cache {}", directory.display()))?;
    let lock = File::create(directory.join("lock")).context("make the lock of the cache")?;
    if lock.try_lock().is_err() {
        report(&format!(
            "another build of Kubernetes is under way in {}; waiting for it",
            directory.display()
        ));
        lock.lock().context("wait for the other build")?;
    }
    if !binary.is_file() {
        build(&sources, &binary, report)?;
    }
    Ok(binary)
}

/// `$FERROLB_CACHE`, else `ferrolb` in the user's cache directory.
fn cache_root() -> Result<PathBuf> {
    let variable = |name| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    variable("FERROLB_CACHE")
        .or_else(|| variable("XDG_CACHE_HOME").map(|cache| cache.join("ferrolb")))
        .or_else(|| variable("HOME").map(|home| home.join(".cache/ferrolb")))
        .context("no place for the built Kubernetes: set FERROLB_CACHE, XDG_CACHE_HOME or HOME")
}

/// A digest over everything that the binary is built from.
fn hash(sources: &Path) -> Result<String> {
    let mut files: Vec<PathBuf> = fs::read_dir(sources)
        .with_context(|| format!("read {}", sources.display()))?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            name == "go.mod" || name == "go.sum" || name.ends_with(".go")
        })
        .collect();
    files.sort();
    let mut digest = Sha256::new();
    for file in &files {
        let bytes = fs::read(file).with_context(|| format!("read {}", file.display()))?;
        digest.update(file.file_name().unwrap_or_default().as_encoded_bytes());
        digest.update(bytes.len().to_le_bytes());
        digest.update(bytes);
    }
    Ok(digest
        .finalize()
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect())
}

fn build(sources: &Path, binary: &Path, report: &mut dyn FnMut(&str)) -> Result<()> {
    let go = find_go(sources)?;
    report(&format!(
        "building etcd and Kubernetes {KUBERNETES_VERSION} from their Go modules into {}: 3 to 5 minutes on two cores, \
         once; later runs use what is there",
        binary.display()
    ));
    let unfinished = binary.with_extension(format!("{}.tmp", std::process::id()));
    let mut compiler = Command::new(go)
        .current_dir(sources)
        .args(["build", "-v", "-trimpath", "-ldflags"])
        .arg(format!(
            "-s -w -X k8s.io/component-base/version.gitVersion={KUBERNETES_VERSION}"
        ))
        .arg("-o")
        .arg(&unfinished)
        .arg(".")
        .env("CGO_ENABLED", "0")
        .env("GOFLAGS", "-buildvcs=false")
        .env("GOTOOLCHAIN", "local")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("start the Go compiler")?;
    let stderr = compiler.stderr.take().context("the compiler's output")?;
    let lines = follow(BufReader::new(stderr), report);
    let status = compiler.wait().context("wait for the Go compiler")?;
    if !status.success() {
        let tail = &lines[lines.len().saturating_sub(ERROR_LINES)..];
        bail!("the build of Kubernetes failed ({status}):\n{}", tail.join("\n"));
    }
    fs::rename(&unfinished, binary).context("put the built binary in place")
}

/// Reads the compiler's lines to their end, reporting from time to time; returns them.
fn follow(output: impl BufRead + Send, report: &mut dyn FnMut(&str)) -> Vec<String> {
    let start = Instant::now();
    std::thread::scope(|scope| {
        let (sender, receiver) = channel();
        scope.spawn(move || {
            output
                .lines()
                .map_while(Result::ok)
                .try_for_each(|line| sender.send(line))
        });
        let mut lines: Vec<String> = Vec::new();
        let mut next = PROGRESS_EVERY;
        loop {
            match receiver.recv_timeout(next.saturating_sub(start.elapsed())) {
                Ok(line) => lines.push(line),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return lines,
            }
            if start.elapsed() >= next {
                next += PROGRESS_EVERY;
                let (seconds, last) = (start.elapsed().as_secs(), lines.last().map_or("", String::as_str));
                report(&format!("  {seconds:>3} s  {:>4} steps  {last}", lines.len()));
            }
        }
    })
}

/// The Go toolchain, new enough for the module.
fn find_go(sources: &Path) -> Result<PathBuf> {
    let module = fs::read_to_string(sources.join("go.mod")).context("read go.mod")?;
    let needed = module
        .lines()
        .find_map(|line| line.strip_prefix("go "))
        .context("go.mod names no version")?
        .trim();
    let how = format!(
        "Kubernetes for the lab is built with Go {needed} or newer: unpack it from https://go.dev/dl/ to /usr/local/go \
         and put /usr/local/go/bin in PATH"
    );
    let mut found = Vec::new();
    for go in ["go", "/usr/local/go/bin/go"] {
        let Ok(output) = Command::new(go).arg("version").env("GOTOOLCHAIN", "local").output() else {
            continue;
        };
        let text = String::from_utf8_lossy(&output.stdout);
        let Some(version) = text.split_whitespace().find_map(|word| word.strip_prefix("go1")) else {
            continue;
        };
        let version = format!("1{version}");
        if numbers(&version) >= numbers(needed) {
            return Ok(PathBuf::from(go));
        }
        found.push(version);
    }
    match found.first() {
        None => bail!("no Go toolchain found. {how}"),
        Some(version) => bail!("the Go toolchain is {version}. {how}"),
    }
}

/// The numbers of a version such as `1.26.0` or `1.27rc1`.
fn numbers(version: &str) -> Vec<u32> {
    version
        .split('.')
        .map_while(|part| {
            part.chars()
                .take_while(char::is_ascii_digit)
                .collect::<String>()
                .parse()
                .ok()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_by_number() {
        for (less, more) in [
            ("1.19.8", "1.26.0"),
            ("1.9", "1.26"),
            ("1.26", "1.26.0"),
            ("1.26.0", "1.27rc1"),
        ] {
            assert!(numbers(less) < numbers(more), "{less} < {more}");
        }
    }

    #[test]
    fn progress_keeps_every_line() {
        let text = "one\ntwo\nthree\n";
        assert_eq!(follow(text.as_bytes(), &mut |_| {}), ["one", "two", "three"]);
    }

    #[test]
    fn the_hash_follows_the_sources() {
        let directory = std::env::temp_dir().join(format!("ferrolb-hash-{}", std::process::id()));
        fs::create_dir_all(&directory).expect("make a directory");
        fs::write(directory.join("main.go"), "package main").expect("write");
        let first = hash(&directory).expect("hash");
        fs::write(directory.join("notes.txt"), "no source").expect("write");
        assert_eq!(hash(&directory).expect("hash"), first);
        fs::write(directory.join("go.sum"), "a line").expect("write");
        assert_ne!(hash(&directory).expect("hash"), first);
        fs::remove_dir_all(&directory).expect("remove");
    }
}
