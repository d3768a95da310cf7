//! `xtask image`: container images of the programs, as files that container engines import.
//!
//! For each program an OCI archive `PROGRAM.oci.tar` and, per architecture, a list of what is linked in,
//! `PROGRAM.ARCHITECTURE.cdx.json` (CycloneDX). The images are named as `deploy/manifests/ferrolb.yaml` asks for them. No
//! daemon is needed, and the same sources give the same bytes: programs are built without the paths of this machine,
//! and times are `SOURCE_DATE_EPOCH`, else 0.

mod build;
mod contents;
mod executable;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::generate::{MANIFEST, manifest};
use crate::repository;
use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use ferrolb_image::capability::Capability;
use ferrolb_image::{About, Architecture, Program, Size, archive};

/// Bytes that an image may have, unpacked.
const LIMIT: u64 = 12 * 1024 * 1024;

/// A program that has an image.
struct Product {
    /// Package, executable and file in the image.
    name: &'static str,
    title: &'static str,
    description: &'static str,
    /// What its container always has, so that it starts with it in effect although it is not root.
    capabilities: &'static [Capability],
}

const PRODUCTS: [Product; 2] = [
    Product {
        name: "ferrolb-controller",
        title: "FerroLB controller",
        description: "Gives addresses to Services of type LoadBalancer",
        capabilities: &[],
    },
    Product {
        name: "ferrolb-speaker",
        title: "FerroLB speaker",
        description: "Announces the addresses of LoadBalancer Services from a node, by ARP, Neighbor Discovery and BGP",
        capabilities: &[Capability::NetRaw],
    },
];

/// Arguments of `xtask image`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Where the archives go.
    #[arg(long, value_name = "DIR", default_value = "target/images")]
    out: PathBuf,
    /// The architectures to build for; this machine's when there is none.
    #[arg(long, value_name = "ARCH", value_enum, value_delimiter = ',')]
    arch: Vec<Target>,
    /// Where cargo builds.
    #[arg(long, value_name = "DIR")]
    target_dir: Option<PathBuf>,
    /// Take static executables from here instead of building them; once per architecture.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["arch", "target_dir"])]
    bin_dir: Vec<PathBuf>,
}

/// What can be built for.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Target {
    Amd64,
    Arm64,
}

impl From<Target> for Architecture {
    fn from(target: Target) -> Self {
        match target {
            Target::Amd64 => Self::Amd64,
            Target::Arm64 => Self::Arm64,
        }
    }
}

impl Args {
    /// This machine's architecture, and the folders where others look.
    pub(crate) fn usual() -> Self {
        Self {
            out: repository().join("target/images"),
            arch: Vec::new(),
            target_dir: None,
            bin_dir: Vec::new(),
        }
    }
}

/// Makes the images and says what they are.
pub(crate) fn run(args: &Args) -> Result<()> {
    let root = repository();
    let folders = if args.bin_dir.is_empty() {
        build(&root, args)?
    } else {
        args.bin_dir.clone()
    };
    fs::create_dir_all(&args.out).with_context(|| format!("create {}", args.out.display()))?;
    let references = references(&root)?;
    let epoch = epoch(std::env::var("SOURCE_DATE_EPOCH").ok().as_deref())?;
    for product in &PRODUCTS {
        let reference = references.get(product.name).with_context(|| {
            let (name, file) = (product.name, MANIFEST);
            format!("no container of {file} has an image whose repository ends in {name}")
        })?;
        make(&root, args, product, reference, epoch, &folders)?;
    }
    Ok(())
}

fn build(root: &Path, args: &Args) -> Result<Vec<PathBuf>> {
    let packages: Vec<&str> = PRODUCTS.iter().map(|product| product.name).collect();
    let mut architectures: Vec<Architecture> = args.arch.iter().map(|target| Architecture::from(*target)).collect();
    if architectures.is_empty() {
        architectures.push(build::host()?);
    }
    architectures.sort();
    architectures.dedup();
    architectures
        .into_iter()
        .map(|architecture| build::programs(root, architecture, args.target_dir.as_deref(), &packages))
        .collect()
}

fn make(root: &Path, args: &Args, product: &Product, reference: &str, epoch: u64, folders: &[PathBuf]) -> Result<()> {
    let mut executables = Vec::new();
    for folder in folders {
        let path = folder.join(product.name);
        let bytes = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        let architecture = executable::architecture(&bytes).with_context(|| path.display().to_string())?;
        ensure!(
            !executables.iter().any(|(other, _)| *other == architecture),
            "{}: there is another one for {}",
            path.display(),
            architecture.name()
        );
        executables.push((architecture, bytes));
    }
    executables.sort_by_key(|(architecture, _)| *architecture);
    let programs: Vec<(Architecture, Program<'_>)> = executables
        .iter()
        .map(|(architecture, executable)| {
            let program = Program {
                name: product.name,
                executable,
                capabilities: product.capabilities,
                libraries: &[],
            };
            (*architecture, program)
        })
        .collect();
    let labels = labels(product);
    let about = About {
        reference,
        labels: &labels,
        epoch,
    };
    let made = archive(&about, &programs)?;
    let path = args.out.join(format!("{}.oci.tar", product.name));
    fs::write(&path, &made.bytes).with_context(|| format!("write {}", path.display()))?;
    println!("{}\n  image   {}\n  digest  {}", path.display(), made.name, made.digest);
    for (size, (architecture, executable)) in made.sizes.iter().zip(&executables) {
        let list = contents::list(root, product.name, *architecture, executable)?;
        let path = args
            .out
            .join(format!("{}.{}.cdx.json", product.name, architecture.name()));
        fs::write(&path, &list.json).with_context(|| format!("write {}", path.display()))?;
        println!(
            "  {}   {:.1} MiB, {:.1} MiB packed, {} packages linked in",
            architecture.name(),
            mebibytes(size.unpacked),
            mebibytes(size.packed),
            list.packages
        );
    }
    within_limit(product.name, &made.sizes)
}

fn within_limit(name: &str, sizes: &[Size]) -> Result<()> {
    match sizes.iter().find(|size| size.unpacked > LIMIT) {
        Some(size) => bail!(
            "the image of {name} for {} has {} bytes unpacked, more than {LIMIT}; was it built for release and stripped?",
            size.architecture.name(),
            size.unpacked
        ),
        None => Ok(()),
    }
}

#[expect(clippy::cast_precision_loss, reason = "a size to read, of a few million bytes")]
fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / 1024.0 / 1024.0
}

/// The labels that image tools show, by the names of the OCI image specification.
fn labels(product: &Product) -> BTreeMap<String, String> {
    let version = concat!("v", env!("CARGO_PKG_VERSION"));
    [
        ("title", product.title),
        ("description", product.description),
        ("version", version),
        ("licenses", env!("CARGO_PKG_LICENSE")),
        ("source", env!("CARGO_PKG_REPOSITORY")),
        ("vendor", "FerroLB"),
    ]
    .into_iter()
    .map(|(key, value)| (format!("org.opencontainers.image.{key}"), value.to_owned()))
    .collect()
}

fn epoch(variable: Option<&str>) -> Result<u64> {
    let Some(text) = variable.filter(|text| !text.is_empty()) else {
        return Ok(0);
    };
    text.parse()
        .with_context(|| format!("SOURCE_DATE_EPOCH is {text:?}; it must be seconds since 1970, as in 1700000000"))
}

/// The images that the manifest asks for, by the last part of their repository.
fn references(root: &Path) -> Result<BTreeMap<String, String>> {
    let documents = manifest(root)?;
    let containers = documents
        .iter()
        .filter_map(|document| document["spec"]["template"]["spec"]["containers"].as_array())
        .flatten();
    Ok(containers
        .filter_map(|container| container["image"].as_str())
        .map(|image| {
            let last = image.rsplit('/').next().unwrap_or(image);
            let name = last.split([':', '@']).next().unwrap_or(last);
            (name.to_owned(), image.to_owned())
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manifest_names_an_image_of_this_version_for_each_program() {
        let references = references(&repository()).unwrap();
        let names: Vec<&str> = references.keys().map(String::as_str).collect();
        assert_eq!(names, PRODUCTS.map(|product| product.name));
        for reference in references.values() {
            assert!(
                reference.ends_with(concat!(":v", env!("CARGO_PKG_VERSION"))),
                "{reference}"
            );
        }
    }

    #[test]
    fn too_big_is_refused() {
        let size = |unpacked| Size {
            architecture: Architecture::Arm64,
            packed: 1,
            unpacked,
        };
        within_limit("x", &[size(LIMIT)]).unwrap();
        let refused = within_limit("x", &[size(1), size(LIMIT + 1)]).unwrap_err().to_string();
        assert!(refused.contains("12582913") && refused.contains("arm64"), "{refused}");
    }

    #[test]
    fn the_time_of_the_sources() {
        assert_eq!(epoch(None).unwrap(), 0);
        assert_eq!(epoch(Some("1700000000")).unwrap(), 1_700_000_000);
        let refused = epoch(Some("yesterday")).unwrap_err().to_string();
        assert!(
            refused.contains("yesterday") && refused.contains("seconds"),
            "{refused}"
        );
    }
}
