//! What is linked into a program, as a CycloneDX list (SBOM) that scanners of images read.
//!
//! Which packages those are, cargo alone knows: features depend on what is built together, so `cargo tree` is asked for
//! the one package. Licences and edges come from `cargo metadata`. Programs that only ran during the build, procedural macros among
//! them, are not in the image and not in the list.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, Package, PackageId};
use cyclonedx_bom::external_models::normalized_string::NormalizedString;
use cyclonedx_bom::external_models::spdx::SpdxExpression;
use cyclonedx_bom::models::bom::{Bom, SpecVersion};
use cyclonedx_bom::models::component::{Classification, Component, Components};
use cyclonedx_bom::models::dependency::{Dependencies, Dependency};
use cyclonedx_bom::models::hash::{Hash, HashAlgorithm, HashValue, Hashes};
use cyclonedx_bom::models::license::{LicenseChoice, Licenses};
use cyclonedx_bom::models::metadata::Metadata as About;
use cyclonedx_bom::prelude::{Purl, Validate};
use ferrolb_image::{Architecture, sha256};

use super::build::triple;

/// A list of contents.
pub(super) struct List {
    /// The document.
    pub(super) json: Vec<u8>,
    /// How many packages are in it, the program's own among them.
    pub(super) packages: usize,
}

/// Lists what is in a program.
pub(super) fn list(root: &Path, name: &str, architecture: Architecture, executable: &[u8]) -> Result<List> {
    let triple = triple(architecture);
    let linked = linked(root, name, &triple)?;
    let metadata = MetadataCommand::new()
        .manifest_path(root.join("Cargo.toml"))
        .other_options(["--locked".to_owned(), "--filter-platform".to_owned(), triple])
        .exec()
        .context("run cargo metadata")?;
    let bom = bom(&metadata, &linked, name, executable)?;
    let found = bom.validate();
    ensure!(found.passed(), "the list of what is in {name} is not valid: {found:?}");
    let packages = bom.components.as_ref().map_or(0, |components| components.0.len()) + 1;
    ensure!(
        packages == linked.len(),
        "cargo tree names {} packages of {name}, cargo metadata knows {packages} of them",
        linked.len()
    );
    let mut json = Vec::new();
    bom.output_as_json(&mut json, SpecVersion::V1_5)
        .with_context(|| format!("write the list of what is in {name}"))?;
    json.push(b'\n');
    Ok(List { json, packages })
}

/// Name and version of each package that is linked in.
fn linked(root: &Path, name: &str, triple: &str) -> Result<BTreeSet<(String, String)>> {
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .current_dir(root)
        .args(["tree", "--locked", "-p", name, "--target", triple])
        .args(["--edges", "normal,no-proc-macro", "--prefix", "none"])
        .args(["--format", "{p}"])
        .output()
        .context("run cargo tree")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("cargo tree ended with {}: {}", output.status, said.trim());
    }
    let text = String::from_utf8(output.stdout).context("read what cargo tree says")?;
    text.lines().filter(|line| !line.is_empty()).map(package).collect()
}

/// Name and version from a line such as `serde v1.0.0`, `ferrolb-api v0.1.0 (/path)` or, the second time, `serde v1.0.0 (*)`.
fn package(line: &str) -> Result<(String, String)> {
    let mut words = line.split(' ');
    let pair = words.next().zip(words.next().and_then(|word| word.strip_prefix('v')));
    let (name, version) = pair.with_context(|| format!("cargo tree says {line:?}, not a name and a version"))?;
    Ok((name.to_owned(), version.to_owned()))
}

fn bom(metadata: &Metadata, linked: &BTreeSet<(String, String)>, name: &str, executable: &[u8]) -> Result<Bom> {
    let packages: BTreeMap<&PackageId, &Package> = metadata
        .packages
        .iter()
        .filter(|package| linked.contains(&(package.name.to_string(), package.version.to_string())))
        .map(|package| (&package.id, package))
        .collect();
    let program = packages.values().find(|package| *package.name == name);
    let program = program.with_context(|| format!("cargo metadata has no package {name}"))?;
    let mut about = component(program, Classification::Application)?;
    about.hashes = Some(Hashes(vec![Hash {
        alg: HashAlgorithm::SHA_256,
        content: HashValue(sha256(executable)),
    }]));
    let mut components = packages
        .values()
        .filter(|package| package.id != program.id)
        .map(|package| component(package, Classification::Library))
        .collect::<Result<Vec<_>>>()?;
    components.sort_by(|a, b| a.bom_ref.cmp(&b.bom_ref));
    Ok(Bom {
        spec_version: SpecVersion::V1_5,
        // A random one would make every build differ.
        serial_number: None,
        metadata: Some(About {
            component: Some(about),
            ..About::default()
        }),
        components: Some(Components(components)),
        dependencies: Some(dependencies(metadata, &packages)?),
        ..Bom::default()
    })
}

fn dependencies(metadata: &Metadata, packages: &BTreeMap<&PackageId, &Package>) -> Result<Dependencies> {
    let nodes = &metadata
        .resolve
        .as_ref()
        .context("cargo metadata resolved nothing")?
        .nodes;
    let mut all = Vec::new();
    for node in nodes {
        let Some(package) = packages.get(&node.id) else {
            continue;
        };
        let normal = node
            .deps
            .iter()
            .filter(|dep| dep.dep_kinds.iter().any(|kind| kind.kind == DependencyKind::Normal));
        let on: BTreeSet<String> = normal
            .filter_map(|dep| packages.get(&dep.pkg))
            .map(|package| reference(package))
            .collect();
        all.push(Dependency {
            dependency_ref: reference(package),
            dependencies: on.into_iter().collect(),
        });
    }
    all.sort_by(|a, b| a.dependency_ref.cmp(&b.dependency_ref));
    Ok(Dependencies(all))
}

fn component(package: &Package, kind: Classification) -> Result<Component> {
    let version = package.version.to_string();
    let purl =
        Purl::new("cargo", &package.name, &version).with_context(|| format!("name {} as a URL", package.name))?;
    let mut component = Component::new(kind, &package.name, &version, Some(reference(package)));
    component.purl = Some(purl);
    component.description = package.description.as_deref().map(NormalizedString::new);
    component.licenses = package
        .license
        .as_ref()
        .map(|license| SpdxExpression::parse_lax(license.clone()))
        .transpose()
        .with_context(|| format!("read the licence of {} {version}", package.name))?
        .map(|license| Licenses(vec![LicenseChoice::Expression(license)]));
    Ok(component)
}

/// By which the list refers to a package.
fn reference(package: &Package) -> String {
    format!("pkg:cargo/{}@{}", package.name, package.version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_cargo_tree() {
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(package("serde v1.0.229").unwrap(), pair("serde", "1.0.229"));
        assert_eq!(
            package("ferrolb-api v0.1.0 (/some/path)").unwrap(),
            pair("ferrolb-api", "0.1.0")
        );
        assert_eq!(package("serde v1.0.229 (*)").unwrap(), pair("serde", "1.0.229"));
        assert!(package("serde").is_err());
        assert!(package("serde 1.0").is_err());
    }
}
