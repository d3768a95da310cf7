//! Container images of one program each: FROM scratch, one layer, no shell.
//!
//! [`archive`] gives the bytes of an OCI image layout in a tar archive, which container engines import from a file
//! (`ctr -n k8s.io images import`, `docker load`, `podman load`, `skopeo copy oci-archive:`). It touches neither files
//! nor network, and the same input gives the same bytes: times are the caller's, everything else has a fixed order.
//!
//! Start reading at [`archive`], then `layer.rs`.

pub mod capability;
mod layer;

use std::collections::{BTreeMap, HashMap};
use std::str::FromStr;

use oci_spec::OciSpecError;
use oci_spec::distribution::{ParseError, Reference};
use oci_spec::image::{
    ANNOTATION_REF_NAME, Arch, ConfigBuilder, Descriptor, DescriptorBuilder, Digest, ImageConfigurationBuilder,
    ImageIndexBuilder, ImageManifestBuilder, MediaType, OciLayoutBuilder, Os, PlatformBuilder, RootFsBuilder,
    SCHEMA_VERSION,
};
use serde::Serialize;
use sha2::Digest as _;

pub use layer::{Library, Program, bundle};

/// User and group that FerroLB's programs run as: nobody.
pub const USER: u32 = 65534;

/// Annotation that containerd takes an image's full name from.
const CONTAINERD_NAME: &str = "io.containerd.image.name";

/// Why an image cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The name cannot be one of an image.
    #[error("image reference {reference:?}: {source}; write REPOSITORY:TAG, as in ferrolb/ferrolb-speaker:v1.2.3")]
    Reference {
        /// The name as given.
        reference: String,
        /// What is wrong with it.
        source: ParseError,
    },
    /// The name says nothing of a version.
    #[error("image reference {0:?} has no tag; write REPOSITORY:TAG, as in ferrolb/ferrolb-speaker:v1.2.3")]
    NoTag(String),
    /// There is nothing to make an image of.
    #[error("an image needs a program for at least one architecture")]
    Empty,
    /// The tar archive cannot be written.
    #[error("cannot write the tar archive: {0}")]
    Tar(#[source] std::io::Error),
    /// A document of the image cannot be written.
    #[error("cannot write a document of the image: {0}")]
    Document(#[from] OciSpecError),
    /// A document of the image is no JSON.
    #[error("cannot write a document of the image as JSON: {0}")]
    Json(#[from] serde_json::Error),
}

/// The processor that a program is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Architecture {
    /// 64-bit x86.
    Amd64,
    /// 64-bit ARM.
    Arm64,
}

impl Architecture {
    /// As container images and Go name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }

    fn oci(self) -> Arch {
        match self {
            Self::Amd64 => Arch::Amd64,
            Self::Arm64 => Arch::ARM64,
        }
    }
}

/// What an image says of itself, besides its program.
#[derive(Debug, Clone, Copy)]
pub struct About<'a> {
    /// The name under which manifests ask for it, with a tag: `ferrolb/ferrolb-speaker:v0.1.0`.
    pub reference: &'a str,
    /// Labels of the configuration, and annotations of the manifest.
    pub labels: &'a BTreeMap<String, String>,
    /// The time of the sources in seconds since 1970 (`SOURCE_DATE_EPOCH`).
    pub epoch: u64,
}

/// An image in a file.
#[derive(Debug, Clone)]
pub struct Archive {
    /// The tar archive.
    pub bytes: Vec<u8>,
    /// The full name, as container engines know it: `docker.io/ferrolb/ferrolb-speaker:v0.1.0`.
    pub name: String,
    /// The digest by which the image can be asked for: of its manifest, or, with several architectures, of its index.
    pub digest: String,
    /// The size for each architecture, in the order in which they were given.
    pub sizes: Vec<Size>,
}

/// How big the image for one architecture is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// The architecture.
    pub architecture: Architecture,
    /// Bytes that are transferred.
    pub packed: u64,
    /// Bytes on the disk of a node.
    pub unpacked: u64,
}

/// Makes an image of a program, built for one or more architectures.
///
/// # Errors
/// When the reference is not one, or has no tag, or when no program is given.
pub fn archive(about: &About<'_>, programs: &[(Architecture, Program<'_>)]) -> Result<Archive, Error> {
    let reference = Reference::from_str(about.reference).map_err(|source| Error::Reference {
        reference: about.reference.to_owned(),
        source,
    })?;
    // A name without a tag means `latest`, which is not what anybody ships.
    let tag = reference
        .tag()
        .filter(|tag| about.reference.ends_with(&format!(":{tag}")));
    let tag = tag.ok_or_else(|| Error::NoTag(about.reference.to_owned()))?;
    let mut blobs = Blobs::default();
    let mut manifests = Vec::new();
    let mut sizes = Vec::new();
    for (architecture, program) in programs {
        let layer = layer::Layer::pack(program, about.epoch)?;
        sizes.push(Size {
            architecture: *architecture,
            packed: layer.packed.len() as u64,
            unpacked: layer.unpacked,
        });
        manifests.push(manifest(&mut blobs, about, *architecture, program, layer)?);
    }
    let top = match &manifests[..] {
        [] => return Err(Error::Empty),
        [only] => only.clone(),
        several => blobs.document(&index(several.to_vec())?, MediaType::ImageIndex)?,
    };
    let digest = top.digest().to_string();
    let mut named = top;
    named.set_annotations(Some(HashMap::from([
        (ANNOTATION_REF_NAME.to_owned(), tag.to_owned()),
        (CONTAINERD_NAME.to_owned(), reference.whole()),
    ])));
    Ok(Archive {
        bytes: layout(&blobs, &json(&index(vec![named])?)?, about.epoch).map_err(Error::Tar)?,
        name: reference.whole(),
        digest,
        sizes,
    })
}

/// Adds the blobs of one architecture.
fn manifest(
    blobs: &mut Blobs,
    about: &About<'_>,
    architecture: Architecture,
    program: &Program<'_>,
    layer: layer::Layer,
) -> Result<Descriptor, Error> {
    let labels: HashMap<String, String> = about.labels.clone().into_iter().collect();
    let config = ConfigBuilder::default()
        .user(format!("{0}:{0}", program.user))
        .entrypoint(vec![format!("/{}", program.name)])
        .working_dir("/")
        .labels(labels.clone())
        .build()?;
    let files = RootFsBuilder::default()
        .typ("layers")
        .diff_ids(vec![layer.diff_id])
        .build()?;
    let configuration = ImageConfigurationBuilder::default()
        .architecture(architecture.oci())
        .os(Os::Linux)
        .config(config)
        .rootfs(files)
        .build()?;
    let manifest = ImageManifestBuilder::default()
        .schema_version(SCHEMA_VERSION)
        .media_type(MediaType::ImageManifest)
        .config(blobs.document(&configuration, MediaType::ImageConfig)?)
        .layers(vec![blobs.add(layer.packed, MediaType::ImageLayerGzip)?])
        .annotations(labels)
        .build()?;
    let mut descriptor = blobs.document(&manifest, MediaType::ImageManifest)?;
    let platform = PlatformBuilder::default()
        .architecture(architecture.oci())
        .os(Os::Linux)
        .build()?;
    descriptor.set_platform(Some(platform));
    Ok(descriptor)
}

fn index(manifests: Vec<Descriptor>) -> Result<oci_spec::image::ImageIndex, Error> {
    Ok(ImageIndexBuilder::default()
        .schema_version(SCHEMA_VERSION)
        .media_type(MediaType::ImageIndex)
        .manifests(manifests)
        .build()?)
}

/// What is stored under its digest.
#[derive(Default)]
struct Blobs(BTreeMap<String, Vec<u8>>);

impl Blobs {
    fn add(&mut self, bytes: Vec<u8>, media_type: MediaType) -> Result<Descriptor, Error> {
        let digest = digest(&bytes);
        let descriptor = DescriptorBuilder::default()
            .media_type(media_type)
            .size(bytes.len() as u64)
            .digest(Digest::from_str(&digest)?)
            .build()?;
        self.0.insert(digest.replace(':', "/"), bytes);
        Ok(descriptor)
    }

    fn document(&mut self, document: &impl Serialize, media_type: MediaType) -> Result<Descriptor, Error> {
        self.add(json(document)?, media_type)
    }
}

/// JSON with its keys in order: the types keep annotations and labels in maps without one.
fn json(document: &impl Serialize) -> Result<Vec<u8>, Error> {
    let mut value = serde_json::to_value(document)?;
    value.sort_all_objects();
    Ok(serde_json::to_vec(&value)?)
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", sha256(bytes))
}

/// The SHA-256 of something, in hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    sha2::Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

/// The OCI image layout as a tar archive.
fn layout(blobs: &Blobs, index: &[u8], epoch: u64) -> std::io::Result<Vec<u8>> {
    let mark = OciLayoutBuilder::default()
        .image_layout_version("1.0.0")
        .build()
        .and_then(|layout| layout.to_string())
        .map_err(std::io::Error::other)?;
    let mut tar = tar::Builder::new(Vec::new());
    let mut add =
        |path: &str, bytes: &[u8]| tar.append_data(&mut layer::file_header(bytes.len(), 0o644, epoch), path, bytes);
    add("oci-layout", mark.as_bytes())?;
    add("index.json", index)?;
    for (name, bytes) in &blobs.0 {
        add(&format!("blobs/{name}"), bytes)?;
    }
    tar.into_inner()
}
