//! MetalLB as it is released: its programs built from its Go module, and the manifest that is in there.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::module::Module;

/// The version that `metallb/go.mod` asks for.
pub const METALLB_VERSION: &str = "v0.16.1";
const MODULE: &str = "go.universe.tf/metallb";
const MANIFEST: &str = "config/manifests/metallb-native.yaml";

/// A MetalLB that can be installed.
#[derive(Debug, Clone)]
pub struct Metallb {
    /// The executable of the controller, static.
    pub controller: PathBuf,
    /// The executable of the speaker, static.
    pub speaker: PathBuf,
    /// Its manifest for layer 2 and its own BGP, as released.
    pub manifest: String,
}

impl Metallb {
    /// Takes it from the cache, or builds it, which takes minutes the first time; `report` hears about that line by line.
    ///
    /// # Errors
    /// When it has to be built and the Go toolchain is missing or too old, or when a module cannot be had.
    pub fn obtain(report: &mut dyn FnMut(&str)) -> Result<Self> {
        let module = Module {
            name: "metallb",
            title: format!("MetalLB {METALLB_VERSION}"),
            takes: "2 to 4 minutes",
            packages: "tool",
            programs: &["controller", "speaker"],
            stamp: String::new(),
        };
        let directory = module.obtain(report)?;
        let manifest = module.sources_of(MODULE)?.join(MANIFEST);
        Ok(Self {
            controller: directory.join("controller"),
            speaker: directory.join("speaker"),
            manifest: fs::read_to_string(&manifest).with_context(|| format!("read {}", manifest.display()))?,
        })
    }

    /// By which name the manifest asks for the image of the `controller` or the `speaker`.
    ///
    /// # Errors
    /// When it asks for none.
    pub fn image(&self, program: &str) -> Result<&str> {
        let part = format!("/{program}:");
        let mut images = self
            .manifest
            .lines()
            .filter_map(|line| line.trim().strip_prefix("image: "));
        images
            .find(|image| image.contains(&part))
            .with_context(|| format!("MetalLB's manifest has no image of its {program}"))
    }
}
