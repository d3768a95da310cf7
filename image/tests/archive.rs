//! Archives, taken apart by other hands than those that made them: every blob has the digest of its name, every
//! descriptor the size of its blob, and what a container engine reads says what was asked for.

use std::collections::BTreeMap;
use std::io::Read;

use ferrolb_image::capability::{Capability, PAX_KEY, attribute};
use ferrolb_image::{About, Architecture, Archive, Error, Program, USER, archive, bundle};
use proptest::prelude::*;
use serde_json::Value;
use sha2::Digest;

const REFERENCE: &str = "ferrolb/ferrolb-speaker:v1.2.3";

fn labels() -> BTreeMap<String, String> {
    // Enough of them that maps without an order would not agree by chance.
    let label = |n: u32| (format!("org.example.{n}"), format!("value {n}"));
    (0..16).map(label).collect()
}

fn about(labels: &BTreeMap<String, String>) -> About<'_> {
    About {
        reference: REFERENCE,
        labels,
        epoch: 1_700_000_000,
    }
}

fn speaker(executable: &[u8]) -> Program<'_> {
    Program {
        name: "ferrolb-speaker",
        executable,
        user: USER,
        capabilities: &[Capability::NetRaw],
        libraries: &[],
    }
}

/// The files of a tar archive by path.
fn files(tar: &[u8]) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in tar::Archive::new(tar).entries().unwrap() {
        let mut entry = entry.unwrap();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        files.insert(entry.path().unwrap().to_str().unwrap().to_owned(), bytes);
    }
    files
}

/// A blob, which must be what its descriptor says.
fn blob<'a>(files: &'a BTreeMap<String, Vec<u8>>, descriptor: &Value) -> &'a [u8] {
    let digest = descriptor["digest"].as_str().unwrap();
    let bytes = &files[&format!("blobs/{}", digest.replace(':', "/"))];
    let hex: String = sha2::Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(digest, format!("sha256:{hex}"));
    assert_eq!(descriptor["size"], bytes.len());
    bytes
}

fn document(files: &BTreeMap<String, Vec<u8>>, descriptor: &Value) -> Value {
    serde_json::from_slice(blob(files, descriptor)).unwrap()
}

/// The layer of a manifest, unpacked.
fn layer(files: &BTreeMap<String, Vec<u8>>, manifest: &Value) -> Vec<u8> {
    let descriptor = &manifest["layers"][0];
    assert_eq!(descriptor["mediaType"], "application/vnd.oci.image.layer.v1.tar+gzip");
    let mut tar = Vec::new();
    flate2::read::GzDecoder::new(blob(files, descriptor))
        .read_to_end(&mut tar)
        .unwrap();
    tar
}

fn top(files: &BTreeMap<String, Vec<u8>>) -> Value {
    let index: Value = serde_json::from_slice(&files["index.json"]).unwrap();
    let [top] = &index["manifests"].as_array().unwrap()[..] else {
        panic!("{index}");
    };
    top.clone()
}

fn made(executable: &[u8]) -> Archive {
    archive(&about(&labels()), &[(Architecture::Amd64, speaker(executable))]).unwrap()
}

#[test]
fn an_engine_finds_the_program_under_the_name_of_the_manifest() {
    let made = made(b"\x7fELF program");
    let files = files(&made.bytes);
    assert_eq!(files["oci-layout"], br#"{"imageLayoutVersion":"1.0.0"}"#);
    let top = top(&files);
    assert_eq!(top["digest"], made.digest);
    assert_eq!(made.name, format!("docker.io/{REFERENCE}"));
    assert_eq!(top["annotations"]["io.containerd.image.name"], made.name);
    assert_eq!(top["annotations"]["org.opencontainers.image.ref.name"], "v1.2.3");
    assert_eq!(
        top["platform"],
        serde_json::json!({"architecture": "amd64", "os": "linux"})
    );

    let manifest = document(&files, &top);
    assert_eq!(manifest["annotations"], serde_json::to_value(labels()).unwrap());
    let config = document(&files, &manifest["config"]);
    assert_eq!(
        (&config["os"], &config["architecture"]),
        (&"linux".into(), &"amd64".into())
    );
    assert_eq!(config["config"]["User"], "65534:65534");
    assert_eq!(config["config"]["Entrypoint"], serde_json::json!(["/ferrolb-speaker"]));
    assert_eq!(config["config"]["Cmd"], Value::Null);
    assert_eq!(config["config"]["Labels"], serde_json::to_value(labels()).unwrap());

    let tar = layer(&files, &manifest);
    let hex: String = sha2::Sha256::digest(&tar).iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(
        config["rootfs"]["diff_ids"],
        serde_json::json!([format!("sha256:{hex}")])
    );
    assert_eq!(made.sizes[0].unpacked, tar.len() as u64);
    assert_eq!(manifest["layers"][0]["size"], made.sizes[0].packed);
}

#[test]
fn the_layer_is_the_program_with_its_capability_and_nothing_else() {
    let made = made(b"\x7fELF program");
    let files = files(&made.bytes);
    let tar = layer(&files, &document(&files, &top(&files)));
    let mut archive = tar::Archive::new(&tar[..]);
    let mut entries = archive.entries().unwrap();
    let mut program = entries.next().unwrap().unwrap();
    assert_eq!(program.path().unwrap().to_str(), Some("ferrolb-speaker"));
    let extensions: Vec<(String, Vec<u8>)> = program
        .pax_extensions()
        .unwrap()
        .unwrap()
        .map(|extension| extension.unwrap())
        .map(|extension| (extension.key().unwrap().to_owned(), extension.value_bytes().to_vec()))
        .collect();
    assert_eq!(
        extensions,
        [(PAX_KEY.to_owned(), attribute(&[Capability::NetRaw]).to_vec())]
    );
    let header = program.header();
    assert_eq!((header.uid().unwrap(), header.gid().unwrap()), (0, 0));
    assert_eq!(
        (header.mode().unwrap(), header.mtime().unwrap()),
        (0o755, 1_700_000_000)
    );
    let mut bytes = Vec::new();
    program.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes, b"\x7fELF program");
    assert!(entries.next().is_none());
}

#[test]
fn a_program_without_capabilities_carries_no_attribute() {
    let program = Program {
        user: USER,
        capabilities: &[],
        ..speaker(b"program")
    };
    let made = archive(&about(&labels()), &[(Architecture::Amd64, program)]).unwrap();
    let files = files(&made.bytes);
    let tar = layer(&files, &document(&files, &top(&files)));
    let mut archive = tar::Archive::new(&tar[..]);
    let mut entry = archive.entries().unwrap().next().unwrap().unwrap();
    assert!(entry.pax_extensions().unwrap().is_none());
}

#[test]
fn several_architectures_are_one_image() {
    let made = archive(
        &about(&labels()),
        &[
            (Architecture::Amd64, speaker(b"for amd64")),
            (Architecture::Arm64, speaker(b"for arm64")),
        ],
    )
    .unwrap();
    let files = files(&made.bytes);
    let top = top(&files);
    assert_eq!(top["mediaType"], "application/vnd.oci.image.index.v1+json");
    assert_eq!(top["digest"], made.digest);
    assert_eq!(top["annotations"]["io.containerd.image.name"], made.name);
    let index = document(&files, &top);
    let manifests = index["manifests"].as_array().unwrap();
    let platforms: Vec<&Value> = manifests.iter().map(|m| &m["platform"]["architecture"]).collect();
    assert_eq!(platforms, ["amd64", "arm64"]);
    for (descriptor, program) in manifests.iter().zip(["for amd64", "for arm64"]) {
        assert_eq!(descriptor["annotations"], Value::Null);
        let manifest = document(&files, descriptor);
        let config = document(&files, &manifest["config"]);
        assert_eq!(config["architecture"], descriptor["platform"]["architecture"]);
        assert_eq!(files_of_layer(&files, &manifest)["ferrolb-speaker"], program.as_bytes());
    }
}

fn files_of_layer(files: &BTreeMap<String, Vec<u8>>, manifest: &Value) -> BTreeMap<String, Vec<u8>> {
    self::files(&layer(files, manifest))
}

#[test]
fn what_cannot_be_an_image_is_refused() {
    let labels = labels();
    let refused = |reference| {
        let about = About {
            reference,
            ..about(&labels)
        };
        archive(&about, &[(Architecture::Amd64, speaker(b"program"))]).unwrap_err()
    };
    assert!(matches!(refused("Upper/Case:v1"), Error::Reference { .. }));
    assert!(matches!(refused(""), Error::Reference { .. }));
    assert!(matches!(refused("ferrolb/ferrolb-speaker"), Error::NoTag(_)));
    assert!(
        refused("ferrolb/ferrolb-speaker")
            .to_string()
            .contains("REPOSITORY:TAG")
    );
    assert!(matches!(archive(&about(&labels), &[]).unwrap_err(), Error::Empty));
}

proptest! {
    /// Bit for bit, whatever the program is; and another program is another image.
    #[test]
    fn the_same_input_gives_the_same_bytes(program in prop::collection::vec(any::<u8>(), 0..4096)) {
        let first = made(&program);
        let again = made(&program);
        prop_assert_eq!(&first.bytes, &again.bytes);
        prop_assert_eq!(&first.digest, &again.digest);
        let mut other = program;
        other.push(0);
        prop_assert_ne!(&first.digest, &made(&other).digest);
    }
}

#[test]
fn a_bundle_is_its_files_and_the_same_each_time() {
    let made = bundle(&[("program", b"\x7fELF", 0o755), ("LICENSE", b"text", 0o644)], 7).unwrap();
    assert_eq!(
        made,
        bundle(&[("program", b"\x7fELF", 0o755), ("LICENSE", b"text", 0o644)], 7).unwrap()
    );
    let mut tar = tar::Archive::new(flate2::read::GzDecoder::new(&made[..]));
    let read = tar.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().display().to_string();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        (
            name,
            bytes,
            entry.header().mode().unwrap(),
            entry.header().mtime().unwrap(),
        )
    });
    let files = [("program", &b"\x7fELF"[..], 0o755), ("LICENSE", b"text", 0o644)];
    let wanted = files.map(|(name, bytes, mode)| (name.to_owned(), bytes.to_vec(), mode, 7));
    assert_eq!(read.collect::<Vec<_>>(), wanted);
}
