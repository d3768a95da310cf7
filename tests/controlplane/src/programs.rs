//! Where the programs of Kubernetes come from.
//!
//! All of them are one Go binary with many names, built from the module in `kube/` and kept in a cache
//! ([`crate::module`]). A directory of ready-made binaries (`$KUBEBUILDER_ASSETS`) goes before it, program by program.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::Result;

use crate::KUBERNETES_VERSION;
use crate::module::Module;

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
            Some(multi_call().obtain(report)?.join("kube"))
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

/// The module in `kube/`.
fn multi_call() -> Module {
    Module {
        name: "kube",
        title: format!("etcd and Kubernetes {KUBERNETES_VERSION}"),
        takes: "3 to 5 minutes",
        packages: ".",
        programs: &["kube"],
        stamp: format!("-X k8s.io/component-base/version.gitVersion={KUBERNETES_VERSION}"),
    }
}
