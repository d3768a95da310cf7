//! Programs that are built from Go modules of ours, which pin versions and sums, and kept in a cache under the hash of the module's
//! sources.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use sha2::{Digest, Sha256};

/// How often a build says how far it is.
const PROGRESS_EVERY: Duration = Duration::from_secs(5);
/// How many lines of the compiler's output an error repeats.
const ERROR_LINES: usize = 30;

/// What is built.
pub(crate) struct Module {
    /// Its directory in this crate, and its name in the cache.
    pub(crate) name: &'static str,
    /// What a user is told that is being built.
    pub(crate) title: String,
    /// How long that takes on two cores.
    pub(crate) takes: &'static str,
    /// What the compiler is asked for: `.`, or `tool` for all the tools of `go.mod`.
    pub(crate) packages: &'static str,
    /// The programs that come of it.
    pub(crate) programs: &'static [&'static str],
    /// Arguments of the linker beyond those that leave out symbols.
    pub(crate) stamp: String,
}

impl Module {
    /// The directory of the cache that has the programs; builds them where it has not. `report` hears about that line by line.
    ///
    /// # Errors
    /// When they have to be built and the Go toolchain is missing or too old, or when the build fails.
    pub(crate) fn obtain(&self, report: &mut dyn FnMut(&str)) -> Result<PathBuf> {
        let directory = cache_root()?.join(format!("{}-{}", self.name, hash(&self.sources())?));
        let complete = || self.programs.iter().all(|program| directory.join(program).is_file());
        if complete() {
            return Ok(directory);
        }
        fs::create_dir_all(&directory).with_context(|| format!("make the cache {}", directory.display()))?;
        let lock = File::create(directory.join("lock")).context("make the lock of the cache")?;
        if lock.try_lock().is_err() {
            report(&format!(
                "another build of {} is under way in {}; waiting for it",
                self.title,
                directory.display()
            ));
            lock.lock().context("wait for the other build")?;
        }
        if !complete() {
            self.build(&directory, report)?;
        }
        Ok(directory)
    }

    /// Where the module lies.
    pub(crate) fn sources(&self) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join(self.name)
    }

    fn build(&self, directory: &Path, report: &mut dyn FnMut(&str)) -> Result<()> {
        let sources = self.sources();
        let go = find_go(&sources)?;
        report(&format!(
            "building {} from Go modules into {}: {} on two cores, once; later runs use what is there",
            self.title,
            directory.display(),
            self.takes
        ));
        let unfinished = directory.join(format!("unfinished-{}", std::process::id()));
        fs::create_dir_all(&unfinished).with_context(|| format!("make {}", unfinished.display()))?;
        let mut compiler = Command::new(go)
            .current_dir(&sources)
            .args(["build", "-v", "-trimpath", "-ldflags"])
            .arg(format!("-s -w {}", self.stamp))
            .arg("-o")
            .arg(&unfinished)
            .arg(self.packages)
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
            bail!("the build of {} failed ({status}):\n{}", self.title, tail.join("\n"));
        }
        for program in self.programs {
            fs::rename(unfinished.join(program), directory.join(program))
                .with_context(|| format!("put the built {program} in place"))?;
        }
        fs::remove_dir(&unfinished).with_context(|| format!("remove {}", unfinished.display()))
    }

    /// Where the sources of a module are that this one needs, at the version that it needs.
    ///
    /// # Errors
    /// When they are not there and cannot be fetched.
    pub(crate) fn sources_of(&self, needed: &str) -> Result<PathBuf> {
        let sources = self.sources();
        let output = Command::new(find_go(&sources)?)
            .current_dir(&sources)
            .args(["mod", "download", "-json", needed])
            .env("GOTOOLCHAIN", "local")
            .output()
            .context("run go mod download")?;
        ensure!(
            output.status.success(),
            "go mod download {needed}: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
        let told: Value = serde_json::from_slice(&output.stdout).context("read what go mod download says")?;
        told["Dir"]
            .as_str()
            .map(PathBuf::from)
            .with_context(|| format!("no directory in {told}"))
    }
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
        .context("no place for what is built of Go modules: set FERROLB_CACHE, XDG_CACHE_HOME or HOME")
}

/// A digest over everything that the programs are built from.
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
        "the lab builds programs with Go {needed} or newer: unpack it from https://go.dev/dl/ to /usr/local/go and put \
         /usr/local/go/bin in PATH"
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
