//! The Helm chart on real nodes: it takes over what kubectl has installed, is upgraded and rolled back under clients,
//! uninstalled without a loss of what is the user's, and installed again.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use ferrolb_lab::lab::NAMESPACE;
use tokio::process::Command;

use crate::failover::{Clients, V4, none_lost};
use crate::install::{TOOK_OVER, WORKLOADS, every_speaker_says, installed, kubectl, rolled_out};
use crate::scene::Scene;

const RELEASE: &str = "ferrolb";
/// What helm may wait for.
const TIMEOUT: &str = "--timeout=90s";
/// What is not the release's when it is gone, and what is.
const KEPT: [&str; 2] = ["customresourcedefinitions", "ipaddresspools"];
const GONE: [&str; 3] = [
    "deployments,daemonsets,poddisruptionbudgets,networkpolicies",
    "serviceaccounts,roles,rolebindings",
    "clusterroles,clusterrolebindings",
];

struct Helm<'a> {
    s: &'a Scene,
    program: PathBuf,
}

impl<'a> Helm<'a> {
    async fn new(s: &'a Scene) -> Result<Self> {
        let find = || ferrolb_controlplane::helm(&mut |line| eprintln!("  {line}"));
        let program = tokio::task::spawn_blocking(find).await??;
        Ok(Self { s, program })
    }

    /// What it says; it keeps what it remembers in the lab's directory.
    async fn run(&self, args: &[&str]) -> Result<String> {
        let kubeconfig = self.s.kubeconfig();
        let home = kubeconfig.parent().context("a kubeconfig lies in a directory")?;
        let output = Command::new(&self.program)
            .env("HOME", home)
            .env("KUBECONFIG", &kubeconfig)
            .args(["--namespace", NAMESPACE])
            .args(args)
            .kill_on_drop(true)
            .output()
            .await
            .context("run helm")?;
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        ensure!(output.status.success(), "helm {}: {said}", args.join(" "));
        Ok(said)
    }

    /// Installs or upgrades the release by the chart, with these values, and waits until it runs.
    async fn chart(&self, verb: &str, values: &[&str]) -> Result<()> {
        let chart = format!("{}/../../deploy/helm/ferrolb", env!("CARGO_MANIFEST_DIR"));
        let begin = Instant::now();
        let said = self
            .run(&[&[verb, RELEASE, &chart, "--wait", TIMEOUT], values].concat())
            .await?;
        eprintln!(
            "  helm {verb} {}: {:.1} s",
            values.join(" "),
            begin.elapsed().as_secs_f32()
        );
        ensure!(
            said.contains("rollout status"),
            "the notes do not say what to do next: {said}"
        );
        rolled_out(self.s).await
    }

    /// Fails where applying what the release consists of would change anything.
    async fn changes_nothing(&self) -> Result<()> {
        let manifest = self.run(&["get", "manifest", RELEASE]).await?;
        let file = self.s.kubeconfig().with_file_name("release.yaml");
        std::fs::write(&file, manifest).with_context(|| format!("write {}", file.display()))?;
        let file = file.to_string_lossy();
        let difference = ["diff", "--server-side", "--force-conflicts", "-f", &*file];
        kubectl(self.s, &difference).await.map(drop)
    }
}

/// What both workloads ask for. Their generation would tell of annotations, too.
async fn wanted(s: &Scene) -> Result<String> {
    kubectl(
        s,
        &[&["get"], &WORKLOADS[..], &["-o", "jsonpath={.items[*].spec}"]].concat(),
    )
    .await
}

/// What kubectl has installed becomes a release; values change and are rolled back under clients; the release goes, and
/// leaves definitions, pools and claims; another one goes on with them.
pub(crate) async fn chart(s: Scene) -> Result<()> {
    installed(&s).await?;
    let helm = Helm::new(&s).await?;
    let mut clients = Clients::new(s.clone(), V4).await?;
    let address = clients.served.address;

    let before = wanted(&s).await?;
    helm.chart("install", &["--take-ownership"]).await?;
    let after = wanted(&s).await?;
    ensure!(
        before == after,
        "{before} has become {after}: the chart installs something else"
    );
    helm.changes_nothing().await?;
    clients.unnoticed("take-over by helm").await?;

    let values = ["--set=speaker.logLevel=debug,controller.logLevel=debug,prometheus.scrapeAnnotations=true"];
    clients.asking_anew(helm.chart("upgrade", &values)).await?;
    clients.unnoticed("upgrade by helm").await?;
    every_speaker_says(&s, TOOK_OVER).await?;
    let before = wanted(&s).await?;
    helm.chart("upgrade", &values).await?;
    let after = wanted(&s).await?;
    ensure!(before == after, "the same values again: {before} has become {after}");
    helm.changes_nothing().await?;

    let back = async {
        helm.run(&["rollback", RELEASE, "1", "--wait", TIMEOUT]).await?;
        rolled_out(&s).await
    };
    clients.asking_anew(back).await?;
    clients.unnoticed("rollback by helm").await?;
    every_speaker_says(&s, TOOK_OVER).await?;
    none_lost(&clients.end("helm's upgrade and rollback").await?)?;

    uninstalled(&s, &helm, address).await?;
    helm.chart("install", &[]).await?;
    ensure!(
        s.addresses("web", 1).await? == [address],
        "the Service has another address"
    );
    let owner = s.owner(address).await?;
    s.answered_by(address, &owner).await?;
    uninstalled(&s, &helm, address).await
}

/// Nobody answers any more. What was the release's is gone, what is the user's is not.
async fn uninstalled(s: &Scene, helm: &Helm<'_>, address: IpAddr) -> Result<()> {
    let mut kept = Vec::new();
    for kind in KEPT {
        kept.push((kind, kubectl(s, &["get", kind, "-o", "name"]).await?));
    }
    helm.run(&["uninstall", RELEASE, "--wait", TIMEOUT]).await?;
    s.unanswered(address).await?;
    for (kind, before) in kept {
        let after = kubectl(s, &["get", kind, "-o", "name"]).await?;
        ensure!(
            !before.is_empty() && before == after,
            "{kind}: {before} has become {after}"
        );
    }
    for kinds in GONE {
        let left = kubectl(s, &["get", kinds, "-l", "app.kubernetes.io/name=ferrolb", "-o", "name"]).await?;
        ensure!(left.is_empty(), "the release has left {left}");
    }
    kubectl(s, &["get", "virtualip", &address.to_string()]).await?;
    ensure!(
        s.addresses("web", 1).await? == [address],
        "the Service has lost its address"
    );
    Ok(())
}
