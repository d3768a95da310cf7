//! FerroLB in the lab: its manifest applied, its programs run as processes with the rights of their service accounts.
//!
//! The manifest is the one users install, without the Deployment and the DaemonSet, which the lab stands in for. A rule
//! that is missing in it is missing here, too: no program gets a token that can do more.

use std::fs;
use std::net::{Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use anyhow::{Context, Result, bail};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{ListParams, PostParams};
use kube::{Api, Client};

use super::boot::PATIENCE;
use super::node::{Node, Program};
use super::shared::{Shared, give_to_nobody, target_dir, workspace};
use super::wait::{ensure_seen, wait_until};
use crate::net::{Host, http_get};
use crate::process::{Capabilities, Process, Spec};

/// The namespace of FerroLB and of the `metallb.io` objects.
pub const NAMESPACE: &str = "ferrolb-system";
/// The port of both programs' admin server, on every address of their host; further controllers have the next ones.
pub const ADMIN_PORT: u16 = 7472;

const CONTROLLER: &str = "ferrolb-controller";
const SPEAKER: &str = "ferrolb-speaker";

/// Installs FerroLB and starts the controllers on the control plane's host and a speaker on each node; returns the
/// controllers.
pub(super) async fn start(shared: &Shared, client: &Client, nodes: &[Node]) -> Result<Vec<Process>> {
    let (controller, speaker) = (binary(CONTROLLER)?, binary(SPEAKER)?);
    install(shared, client).await?;
    let (controller_token, speaker_token) = tokio::try_join!(token(client, CONTROLLER), token(client, SPEAKER))?;
    for node in nodes {
        let name = format!("{SPEAKER}-{}", node.name());
        let state = shared.run_dir.path().join("state").join(node.name());
        fs::create_dir_all(&state).with_context(|| format!("make {}", state.display()))?;
        give_to_nobody(&state)?;
        let spec = program(shared, &name, &speaker, node.host(), SPEAKER, &speaker_token)?
            .args(["--node-name", node.name(), "--state-dir"])
            .args([state])
            .args(&shared.setup.speaker_args)
            .capabilities(Capabilities::NetRawOnly);
        node.set_speaker(Process::start(spec)?)?;
    }
    (0..shared.setup.controllers)
        .map(|index| start_controller(shared, index, &controller, &controller_token))
        .collect()
}

/// Installs FerroLB as users do, by its manifest as it stands, and waits until all its pods are ready. The nodes have its images.
pub(super) async fn deploy(shared: &Shared) -> Result<()> {
    apply(shared).await?;
    let timeout = format!("--timeout={}s", PATIENCE.as_secs());
    for workload in [format!("daemonset/{SPEAKER}"), format!("deployment/{CONTROLLER}")] {
        let args = ["-n", NAMESPACE, "rollout", "status", &workload, &timeout];
        shared.kubectl.run(&args, "").await?;
    }
    Ok(())
}

/// Applies the manifest as it stands.
pub(super) async fn apply(shared: &Shared) -> Result<()> {
    let args = ["apply", "--server-side", "--force-conflicts", "-f", "-"];
    shared.kubectl.run(&args, &read_manifest()?).await.map(drop)
}

fn read_manifest() -> Result<String> {
    let path = workspace().join("deploy/manifests/ferrolb.yaml");
    fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
}

fn start_controller(shared: &Shared, index: u16, binary: &Path, token: &str) -> Result<Process> {
    let name = match index {
        0 => CONTROLLER.to_owned(),
        _ => format!("{CONTROLLER}-{}", index + 1),
    };
    let spec = program(shared, &name, binary, &shared.control_host, CONTROLLER, token)?
        .args(["--pod-name", &name, "--admin-addr"])
        .args([format!("[::]:{}", controller_port(index))])
        .args(&shared.setup.controller_args)
        .capabilities(Capabilities::None);
    Process::start(spec)
}

/// The port of the admin server of controller number `index`, from zero.
pub(super) fn controller_port(index: u16) -> u16 {
    ADMIN_PORT + index
}

/// Waits until every program says it is ready.
pub(super) async fn wait_ready(shared: &Shared, controllers: &[Process], nodes: &[Node]) -> Result<()> {
    let ports = (0..).map(controller_port);
    let controllers = controllers.iter().zip(ports);
    let mut programs = controllers
        .map(|(process, port)| (process, &shared.control_host, port))
        .collect::<Vec<_>>();
    for node in nodes {
        programs.push((node.program(Program::Speaker)?, node.host(), ADMIN_PORT));
    }
    let programs = programs.into_iter();
    futures::future::try_join_all(programs.map(|(process, host, port)| program_ready(process, host, port)))
        .await
        .map(drop)
}

/// Waits until `/readyz` of the program at this port of `host` says 200.
pub(super) async fn program_ready(process: &Process, host: &Host, port: u16) -> Result<()> {
    wait_until(&format!("{} to be ready", process.name()), PATIENCE, async || {
        ensure_seen(process.is_alive(), || format!("it has ended: {}", process.log_tail(3)))?;
        let namespace = host.namespace().clone();
        let address = SocketAddr::from((Ipv6Addr::LOCALHOST, port));
        let get = move || http_get(&namespace, address, "/readyz");
        let (status, body) = tokio::task::spawn_blocking(get).await??;
        ensure_seen(status == 200, || format!("/readyz says {status}: {}", body.trim()))
    })
    .await
}

/// Where the programs are, if somebody has said so.
static PROGRAMS: OnceLock<PathBuf> = OnceLock::new();

/// Every cluster of this process runs the programs in that folder, unless `$FERROLB_BIN_DIR` names another one.
///
/// # Panics
/// When it was said before.
pub fn programs_are_in(folder: PathBuf) {
    PROGRAMS.set(folder).expect("it is said once");
}

/// The program of that name, where it was built: in `$FERROLB_BIN_DIR`, else where [`programs_are_in`], else in cargo's
/// release directory.
///
/// # Errors
/// When it has not been built.
pub fn binary(name: &str) -> Result<PathBuf> {
    let given = std::env::var_os("FERROLB_BIN_DIR").map(PathBuf::from);
    let directory = given
        .or_else(|| PROGRAMS.get().cloned())
        .unwrap_or_else(|| target_dir().join("release"));
    let path = directory.join(name);
    if !path.is_file() {
        bail!(
            "no {}: cargo build --release -p {CONTROLLER} -p {SPEAKER} -p ferrolb-cli",
            path.display()
        );
    }
    Ok(path)
}

async fn install(shared: &Shared, client: &Client) -> Result<()> {
    let manifest = read_manifest()?;
    let kept: Vec<&str> = manifest.split("\n---\n").filter(|object| !runs_pods(object)).collect();
    shared
        .kubectl
        .run(&["apply", "--server-side", "-f", "-"], &kept.join("\n---\n"))
        .await?;
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    wait_until("the custom resources to be served", PATIENCE, async || {
        let all = definitions.list(&ListParams::default()).await?;
        let waiting: Vec<String> = all
            .items
            .iter()
            .filter(|definition| !is_served(definition))
            .filter_map(|d| d.metadata.name.clone())
            .collect();
        ensure_seen(waiting.is_empty(), || format!("not yet: {}", waiting.join(", ")))
    })
    .await
}

/// Whether the object is one of those that the lab's processes stand in for.
fn runs_pods(object: &str) -> bool {
    object
        .lines()
        .any(|line| matches!(line.trim_end(), "kind: Deployment" | "kind: DaemonSet"))
}

fn is_served(definition: &CustomResourceDefinition) -> bool {
    let conditions = definition
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_deref())
        .unwrap_or_default();
    conditions
        .iter()
        .any(|condition| condition.type_ == "Established" && condition.status == "True")
}

/// A token of the service account, good for a day.
async fn token(client: &Client, account: &str) -> Result<String> {
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), NAMESPACE);
    let spec = TokenRequestSpec {
        expiration_seconds: Some(24 * 3600),
        ..Default::default()
    };
    let request = TokenRequest {
        spec,
        ..Default::default()
    };
    let answer = accounts
        .create_token_request(account, &PostParams::default(), &request)
        .await
        .with_context(|| format!("get a token of the service account {account}"))?;
    Ok(answer.status.context("the token request has no status")?.token)
}

/// What both programs have in common.
fn program(shared: &Shared, name: &str, binary: &Path, host: &Host, account: &str, token: &str) -> Result<Spec> {
    let kubeconfig = shared.run_dir.path().join(format!("{name}.kubeconfig"));
    let user = format!("system:serviceaccount:{NAMESPACE}:{account}");
    shared
        .plane
        .write_kubeconfig(&kubeconfig, &shared.plane.server(), &user, token)?;
    give_to_nobody(&kubeconfig)?;
    Ok(shared
        .spec(name, binary, host)
        .args(["--namespace", NAMESPACE, "--kubeconfig"])
        .args([kubeconfig]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_workloads_are_left_out() {
        assert!(runs_pods("apiVersion: apps/v1\nkind: Deployment\n"));
        assert!(runs_pods("kind: DaemonSet"));
        assert!(!runs_pods(
            "kind: CustomResourceDefinition\nspec:\n  names:\n    kind: Deployment"
        ));
        assert!(!runs_pods("kind: ClusterRole"));
    }
}
