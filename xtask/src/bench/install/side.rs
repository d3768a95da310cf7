//! Who is measured: FerroLB, or MetalLB as it is released.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::Result;
use ferrolb_controlplane::Metallb;
use ferrolb_lab::Lab;
use ferrolb_lab::lab::{ADMIN_PORT, NAMESPACE as FERROLB};

use super::PATIENCE;

/// Speaker and controller, in all arrays.
pub(super) const PARTS: [&str; 2] = ["speaker", "controller"];

/// An installation of one of the two.
pub(super) enum Side {
    /// FerroLB, from the images of `xtask image`.
    Ferrolb,
    /// MetalLB, from its own manifest.
    Metallb(Metallb),
}

impl Side {
    /// What its programs are called.
    pub(super) fn programs(&self) -> [&'static str; 2] {
        match self {
            Self::Ferrolb => ["ferrolb-speaker", "ferrolb-controller"],
            Self::Metallb(_) => ["speaker", "controller"],
        }
    }

    /// The workloads that run them.
    pub(super) fn workloads(&self) -> [&'static str; 2] {
        match self {
            Self::Ferrolb => ["daemonset/ferrolb-speaker", "deployment/ferrolb-controller"],
            Self::Metallb(_) => ["daemonset/speaker", "deployment/controller"],
        }
    }

    /// Where its pods and the pools are.
    pub(super) fn namespace(&self) -> &'static str {
        match self {
            Self::Ferrolb => FERROLB,
            Self::Metallb(_) => "metallb-system",
        }
    }

    /// Where its programs say in their own network whether they are ready.
    pub(super) fn readyz(&self) -> SocketAddr {
        let (address, port): (IpAddr, u16) = match self {
            Self::Ferrolb => (Ipv6Addr::LOCALHOST.into(), ADMIN_PORT),
            Self::Metallb(_) => (Ipv4Addr::LOCALHOST.into(), 17472),
        };
        (address, port).into()
    }

    /// Gives the nodes its images.
    pub(super) async fn import(&self, lab: &Lab) -> Result<()> {
        match self {
            Self::Ferrolb => lab.import_ferrolb().await,
            Self::Metallb(metallb) => lab.import_metallb(metallb).await,
        }
    }

    /// Applies its manifest as it stands.
    pub(super) async fn apply(&self, lab: &Lab) -> Result<()> {
        match self {
            Self::Ferrolb => lab.apply_ferrolb().await,
            Self::Metallb(metallb) => lab.apply(self.namespace(), &metallb.manifest).await,
        }
    }

    pub(super) async fn kubectl(&self, lab: &Lab, args: &[&str]) -> Result<String> {
        lab.kubectl(&[&["-n", self.namespace()], args].concat()).await
    }

    /// Waits until all pods of these workloads are of the last version, and ready.
    pub(super) async fn rolled_out(&self, lab: &Lab, workloads: &[&str]) -> Result<()> {
        let timeout = format!("--timeout={}s", PATIENCE.as_secs());
        for workload in workloads {
            self.kubectl(lab, &["rollout", "status", workload, &timeout]).await?;
        }
        Ok(())
    }

    /// Its processes of a part, each with its node.
    pub(super) fn processes(&self, lab: &Lab, part: usize) -> Result<Vec<(String, i32)>> {
        let mut found = Vec::new();
        for node in lab.nodes() {
            let here = node.processes_called(self.programs()[part])?;
            found.extend(here.into_iter().map(|pid| (node.name().to_owned(), pid)));
        }
        Ok(found)
    }
}
