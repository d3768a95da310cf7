//! `xtask image` on programs that are built in a moment: what it writes, that it writes the same again, what it refuses.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// A folder that goes with the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("ferrolb-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn folder(&self, name: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::create_dir_all(&path).unwrap();
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).ok();
    }
}

fn compile(folder: &Path, name: &str, flags: &[&str]) {
    let mut compiler = Command::new("cc")
        .args(["-x", "c", "-", "-o"])
        .arg(folder.join(name))
        .args(flags)
        .stdin(Stdio::piped())
        .spawn()
        .expect("a C compiler, which the TLS library needs anyway");
    let program = format!("int main(void) {{ return {}; }}\n", name.len());
    compiler.stdin.take().unwrap().write_all(program.as_bytes()).unwrap();
    assert!(compiler.wait().unwrap().success());
}

fn image(bin: &Path, out: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_xtask"))
        .args(["image", "--bin-dir"])
        .arg(bin)
        .arg("--out")
        .arg(out)
        .env_remove("SOURCE_DATE_EPOCH")
        .output()
        .unwrap()
}

#[test]
fn the_same_programs_give_the_same_files() {
    let scratch = Scratch::new("image");
    let bin = scratch.folder("bin");
    for name in ["ferrolb-controller", "ferrolb-speaker"] {
        compile(&bin, name, &["-static"]);
    }
    let written = ["first", "second"].map(|name| {
        let out = scratch.folder(name);
        let output = image(&bin, &out);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(said.contains("docker.io/ferrolb/ferrolb-speaker:v"), "{said}");
        assert!(said.contains("digest  sha256:"), "{said}");
        let mut files: Vec<(String, Vec<u8>)> = fs::read_dir(&out)
            .unwrap()
            .map(|entry| entry.unwrap())
            .map(|entry| {
                (
                    entry.file_name().into_string().unwrap(),
                    fs::read(entry.path()).unwrap(),
                )
            })
            .collect();
        files.sort();
        files
    });
    let names: Vec<&str> = written[0].iter().map(|(name, _)| name.as_str()).collect();
    let architecture = if cfg!(target_arch = "aarch64") {
        "arm64"
    } else {
        "amd64"
    };
    assert_eq!(
        names,
        [
            format!("ferrolb-controller.{architecture}.cdx.json"),
            "ferrolb-controller.oci.tar".to_owned(),
            format!("ferrolb-speaker.{architecture}.cdx.json"),
            "ferrolb-speaker.oci.tar".to_owned(),
        ]
    );
    assert!(written[0] == written[1], "two runs differ");

    let contents: Value = serde_json::from_slice(&written[0][2].1).unwrap();
    assert_eq!(contents["metadata"]["component"]["name"], "ferrolb-speaker");
    let names: Vec<&str> = contents["components"]
        .as_array()
        .unwrap()
        .iter()
        .map(|component| component["name"].as_str().unwrap())
        .collect();
    for (name, there) in [
        ("rustls", true),
        ("ferrolb-l2", true),
        ("serde_derive", false),
        ("ferrolb-lab", false),
    ] {
        assert_eq!(names.contains(&name), there, "{name}");
    }
}

#[test]
fn what_cannot_run_in_an_empty_image_is_refused() {
    let scratch = Scratch::new("image-refused");
    let bin = scratch.folder("bin");
    let out = scratch.folder("out");
    let refused = |says: &str| {
        let output = image(&bin, &out);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && error.contains(says), "{error}");
    };
    refused("ferrolb-controller");
    compile(&bin, "ferrolb-controller", &[]);
    refused("dynamic loader");
    fs::write(bin.join("ferrolb-controller"), "#!/bin/sh\n").unwrap();
    refused("ELF");
}
