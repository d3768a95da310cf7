//! `xtask image`: container images of the programs, as files that container engines import.
//!
//! For each program an OCI archive `PROGRAM.oci.tar` and, per architecture, a list of what is linked in,
//! `PROGRAM.ARCHITECTURE.cdx.json` (CycloneDX). The images are named as `deploy/manifests/ferrolb.yaml` asks for them. No
//! daemon is needed, and the same sources give the same bytes: programs are built without the paths of this machine,
//! and times are `SOURCE_DATE_EPOCH`, else 0.

pub(crate) mod build;
mod contents;
mod executable;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::generate::{MANIFEST, manifest};
use crate::repository;
use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use ferrolb_image::capability::Capability;
use ferrolb_image::{About, Architecture, Program, Size, archive};
use ferrolb_lab::lab::programs_are_in;

/// Bytes that an image may have, unpacked.
pub(crate) const LIMIT: u64 = 12 * 1024 * 1024;

/// A program that has an image.
pub(crate) struct Product {
    /// Package, executable and file in the image.
    pub(crate) name: &'static str,
    title: &'static str,
    description: &'static str,
    /// What its container always has, so that it starts with it in effect although it is not root.
    capabilities: &'static [Capability],
}

pub(crate) const PRODUCTS: [Product; 2] = [
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
    /// Build the programs once more, from a copy of the sources in another folder, and fail where a byte differs.
    #[arg(long, conflicts_with = "bin_dir")]
    reproduce: bool,
    /// Take static executables from here instead of building them; once per architecture.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["arch", "target_dir"])]
    bin_dir: Vec<PathBuf>,
}

/// What can be built for.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Target {
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
            reproduce: false,
            bin_dir: Vec::new(),
        }
    }
}

/// What clusters of the lab run from now on is what images hold, built unless it is; `$FERROLB_BIN_DIR` has the last word. To be
/// called before a user namespace is entered, which has no network to fetch crates by.
pub(crate) fn measure_shipped() -> Result<()> {
    if std::env::var_os("FERROLB_BIN_DIR").is_some() {
        return Ok(());
    }
    let names = PRODUCTS.map(|product| product.name);
    let built = build::programs(&repository(), build::host()?, None, &names)?;
    // How much of a program is mapped depends on how it came into the page cache: copied, as out of an image.
    let folder = repository().join("target/bench/programs");
    fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
    for name in names {
        let to = folder.join(name);
        // Not over one that still runs.
        if to.exists() {
            fs::remove_file(&to).with_context(|| format!("remove {}", to.display()))?;
        }
        fs::copy(built.join(name), &to).with_context(|| format!("write {}", to.display()))?;
    }
    programs_are_in(folder);
    Ok(())
}

/// Makes the images and says what they are.
pub(crate) fn run(args: &Args) -> Result<()> {
    let root = repository();
    let folders = if args.bin_dir.is_empty() {
        build(&root, args, args.target_dir.as_deref())?
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
    if args.reproduce {
        reproduce(&root, args, &folders)?;
    }
    Ok(())
}

/// Builds in another folder, and compares.
fn reproduce(root: &Path, args: &Args, folders: &[PathBuf]) -> Result<()> {
    let scratch = std::env::temp_dir().join(format!("ferrolb-reproduce-{}", std::process::id()));
    let sources = scratch.join("sources");
    let again = copy(root, &sources).and_then(|()| build(&sources, args, Some(&scratch.join("build"))));
    let outcome = again.and_then(|again| {
        for (first, second) in folders.iter().zip(&again) {
            for product in &PRODUCTS {
                let read = |folder: &Path| {
                    let path = folder.join(product.name);
                    fs::read(&path).with_context(|| format!("read {}", path.display()))
                };
                ensure!(
                    read(first)? == read(second)?,
                    "{} is another one when it is built elsewhere",
                    first.join(product.name).display()
                );
            }
        }
        println!("built in {}, too: the same bytes", sources.display());
        Ok(())
    });
    fs::remove_dir_all(&scratch).with_context(|| format!("remove {}", scratch.display()))?;
    outcome
}

/// Copies the files that git knows, as they are now.
fn copy(root: &Path, to: &Path) -> Result<()> {
    let listed = Command::new("git").current_dir(root).args(["ls-files", "-z"]).output();
    let listed = String::from_utf8(listed.context("run git ls-files")?.stdout).context("read what git says")?;
    for name in listed.split('\0').filter(|name| root.join(name).is_file()) {
        let file = to.join(name);
        let folder = file.parent().context("a file lies in a folder")?;
        fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
        fs::copy(root.join(name), &file).with_context(|| format!("copy {name}"))?;
    }
    Ok(())
}

fn build(root: &Path, args: &Args, target_dir: Option<&Path>) -> Result<Vec<PathBuf>> {
    let packages: Vec<&str> = PRODUCTS.iter().map(|product| product.name).collect();
    let mut architectures: Vec<Architecture> = args.arch.iter().map(|target| Architecture::from(*target)).collect();
    if architectures.is_empty() {
        architectures.push(build::host()?);
    }
    architectures.sort();
    architectures.dedup();
    architectures
        .into_iter()
        .map(|architecture| build::programs(root, architecture, target_dir, &packages))
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
                user: ferrolb_image::USER,
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

pub(crate) fn epoch(variable: Option<&str>) -> Result<u64> {
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
    fn the_dockerfile_makes_such_images() {
        let dockerfile = fs::read_to_string(repository().join("Dockerfile")).unwrap();
        let references = references(&repository()).unwrap();
        for product in &PRODUCTS {
            let name = product.name;
            let begin = format!("FROM scratch AS {name}\n");
            let stage = dockerfile.split(&begin).nth(1).unwrap().split("\nFROM").next().unwrap();
            let user = format!("USER {0}:{0}\n", ferrolb_image::USER);
            let copy = format!("COPY --from=build /out/{name} /{name}\n");
            for line in [user, copy, format!("ENTRYPOINT [\"/{name}\"]\n")] {
                assert!(stage.contains(&line), "{name}: no {line}");
            }
            assert!(dockerfile.contains(&format!("--target {name} -t {} .", references[name])));
            let net_raw = dockerfile.contains(&format!("setcap cap_net_raw+ep /out/{name}\n"));
            assert_eq!(net_raw, product.capabilities == [Capability::NetRaw], "{name}");
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
