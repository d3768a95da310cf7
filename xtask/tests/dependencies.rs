//! Who may depend on whom, checked over the whole graph of normal dependencies as cargo resolves it.
//!
//! A core that cannot reach a runtime, a socket, a clock of its own or the API server cannot do IO by mistake, and is
//! built and tested in seconds.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, PackageId};

/// What no crate that decides something may reach. A name that ends in `*` stands for all that begin with it.
const IMPURE: [&str; 22] = [
    "axum*",
    "futures*",
    "getrandom",
    "hyper*",
    "k8s-openapi",
    "kube*",
    "libc",
    "log",
    "mio",
    "neli*",
    "netlink-*",
    "nix",
    "pnet*",
    "rand*",
    "rtnetlink",
    "rustix",
    "rustls*",
    "socket2",
    "time",
    "tokio*",
    "tower*",
    "tracing*",
];

/// Every crate of the product with the crates of the workspace that it may name. `tests/*` and `xtask` may name all.
const MAY_NAME: [(&str, &[&str]); 16] = [
    ("ferrolb-image", &[]),
    ("ferrolb-model", &[]),
    ("ferrolb-api", &[]),
    ("ferrolb-runtime", &[]),
    ("ferrolb-controller-core", &["ferrolb-model"]),
    ("ferrolb-speaker-core", &["ferrolb-model"]),
    ("ferrolb-handover", &[]),
    ("ferrolb-l2", &["ferrolb-urgency"]),
    ("ferrolb-liveness", &["ferrolb-urgency"]),
    ("ferrolb-bfd", &["ferrolb-model", "ferrolb-urgency"]),
    ("ferrolb-urgency", &[]),
    ("ferrolb-bgp", &["ferrolb-model"]),
    ("ferrolb-config", &["ferrolb-api", "ferrolb-model"]),
    (
        "ferrolb-cli",
        &[
            "ferrolb-api",
            "ferrolb-config",
            "ferrolb-controller-core",
            "ferrolb-model",
        ],
    ),
    (
        "ferrolb-controller",
        &[
            "ferrolb-api",
            "ferrolb-config",
            "ferrolb-controller-core",
            "ferrolb-model",
            "ferrolb-runtime",
        ],
    ),
    (
        "ferrolb-speaker",
        &[
            "ferrolb-api",
            "ferrolb-bfd",
            "ferrolb-bgp",
            "ferrolb-config",
            "ferrolb-handover",
            "ferrolb-l2",
            "ferrolb-liveness",
            "ferrolb-model",
            "ferrolb-runtime",
            "ferrolb-speaker-core",
        ],
    ),
];

/// Who may use anyhow, by folder.
const MAY_USE_ANYHOW: [&str; 4] = ["controller", "speaker", "xtask", "tests/"];

fn matches(name: &str, pattern: &str) -> bool {
    pattern
        .strip_suffix('*')
        .map_or(name == pattern, |start| name.starts_with(start))
}

/// The graph of normal dependencies.
struct Graph {
    metadata: Metadata,
    names: BTreeMap<PackageId, String>,
    normal: BTreeMap<PackageId, Vec<PackageId>>,
}

impl Graph {
    fn load() -> Self {
        let platform = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
        let metadata = MetadataCommand::new()
            .manifest_path(Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.toml"))
            .other_options(["--locked".to_owned(), "--filter-platform".to_owned(), platform])
            .exec()
            .unwrap();
        let names = metadata
            .packages
            .iter()
            .map(|p| (p.id.clone(), p.name.to_string()))
            .collect();
        let nodes = &metadata.resolve.as_ref().unwrap().nodes;
        let normal = nodes
            .iter()
            .map(|node| {
                let normal =
                    |d: &&cargo_metadata::NodeDep| d.dep_kinds.iter().any(|k| k.kind == DependencyKind::Normal);
                (
                    node.id.clone(),
                    node.deps.iter().filter(normal).map(|d| d.pkg.clone()).collect(),
                )
            })
            .collect();
        Graph {
            metadata,
            names,
            normal,
        }
    }

    /// Every member of the workspace with its name and its folder, relative to the root.
    fn members(&self) -> impl Iterator<Item = (&PackageId, &str, String)> {
        self.metadata.workspace_packages().into_iter().map(|package| {
            let folder = package.manifest_path.parent().unwrap();
            let folder = folder.strip_prefix(&self.metadata.workspace_root).unwrap();
            (&package.id, self.names[&package.id].as_str(), folder.to_string())
        })
    }

    fn member(&self, name: &str) -> &PackageId {
        let found = self.members().find(|(_, n, _)| *n == name);
        found.unwrap_or_else(|| panic!("there is no crate {name}")).0
    }

    /// The names of the direct normal dependencies.
    fn direct(&self, id: &PackageId) -> BTreeSet<&str> {
        self.normal[id].iter().map(|id| self.names[id].as_str()).collect()
    }

    /// Each name reached from `id`, with the chain of names that leads to it.
    fn reached(&self, id: &PackageId) -> BTreeMap<&str, String> {
        let mut reached = BTreeMap::new();
        let mut open = vec![(id, self.names[id].clone())];
        while let Some((at, chain)) = open.pop() {
            for next in &self.normal[at] {
                let name = self.names[next].as_str();
                let chain = format!("{chain} -> {name}");
                if !reached.contains_key(name) {
                    reached.insert(name, chain.clone());
                    open.push((next, chain));
                }
            }
        }
        reached
    }

    fn assert_unreachable(&self, from: &str, patterns: &[&str]) {
        for (name, chain) in self.reached(self.member(from)) {
            let hit = patterns.iter().find(|pattern| matches(name, pattern));
            assert!(hit.is_none(), "{from} may not reach {name}: {chain}");
        }
    }
}

#[test]
fn the_workspace_depends_in_one_direction() {
    let graph = Graph::load();
    for (id, name, folder) in graph.members() {
        if folder.starts_with("tests/") || folder == "xtask" {
            continue;
        }
        let allowed = MAY_NAME.iter().find(|(member, _)| *member == name);
        let (_, allowed) = allowed.unwrap_or_else(|| panic!("say in MAY_NAME what {name} may depend on"));
        for dependency in graph.direct(id).into_iter().filter(|d| d.starts_with("ferrolb-")) {
            assert!(allowed.contains(&dependency), "{name} may not depend on {dependency}");
        }
    }
}

#[test]
fn the_model_is_plain() {
    let graph = Graph::load();
    let direct = graph.direct(graph.member("ferrolb-model"));
    assert!(direct.is_subset(&BTreeSet::from(["ipnet", "thiserror"])), "{direct:?}");
    graph.assert_unreachable("ferrolb-model", &IMPURE);
}

#[test]
fn the_cores_are_pure() {
    let graph = Graph::load();
    for core in ["ferrolb-controller-core", "ferrolb-speaker-core"] {
        graph.assert_unreachable(core, &IMPURE);
    }
}

#[test]
fn protocols_know_no_kubernetes() {
    let graph = Graph::load();
    for protocol in ["ferrolb-l2", "ferrolb-liveness", "ferrolb-bfd", "ferrolb-bgp"] {
        graph.assert_unreachable(protocol, &["kube*", "k8s-openapi", "ferrolb-api", "ferrolb-runtime"]);
    }
}

#[test]
fn the_runtime_knows_no_domain() {
    Graph::load().assert_unreachable("ferrolb-runtime", &["ferrolb-*"]);
}

#[test]
fn the_api_is_apart_from_the_model() {
    Graph::load().assert_unreachable("ferrolb-api", &["ferrolb-*"]);
}

#[test]
fn errors_are_typed_below_main() {
    let graph = Graph::load();
    for (id, name, folder) in graph.members() {
        if graph.direct(id).contains("anyhow") {
            let may = MAY_USE_ANYHOW
                .iter()
                .any(|f| folder == *f || (f.ends_with('/') && folder.starts_with(f)));
            assert!(may, "{name} may not depend on anyhow");
        }
    }
    for program in ["controller", "speaker"] {
        let source = graph.metadata.workspace_root.join(program).join("src");
        for entry in fs::read_dir(source).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|e| e == "rs") && path.file_name().is_some_and(|n| n != "main.rs") {
                let text = fs::read_to_string(&path).unwrap();
                assert!(!text.contains("anyhow"), "{} uses anyhow", path.display());
            }
        }
    }
}

#[test]
fn patterns() {
    assert!(matches("kube-client", "kube*") && matches("rand", "rand*"));
    assert!(!matches("timer", "time") && !matches("kub", "kube*"));
}
