//! Two that give addresses in one cluster: a second FerroLB, or MetalLB. Whoever worked first goes on, the other waits and says
//! for whom, and nobody writes over anybody without end.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use ferrolb_lab::lab::NAMESPACE;
use ferrolb_lab::process::Process;
use ferrolb_lab::{Program, wait_until};
use serde_json::json;

use crate::credentials;
use crate::manifests::{deployment, service};
use crate::scene::{PATIENCE, Scene};
use crate::told::Teller;

/// The namespace of the second FerroLB.
const SECOND: &str = "ferrolb-second";
/// The port of its controller's admin server; on the control plane's host the first has its own.
const SECOND_PORT: u16 = 7572;

/// How long a program that writes status without a pause is watched.
const FIGHT: Duration = Duration::from_secs(8);

/// A second FerroLB in another namespace, for the same Services: its controller and its speakers wait and say for whom. When the first
/// is gone the second goes on with all that the first had given; and the first, started again, waits in its turn.
pub(crate) async fn second_installation(s: Scene) -> Result<()> {
    s.apply(&deployment("web", 1)).await?;
    s.ready("web", 1).await?;
    let address = s
        .apply_and_address("web", &service("web", "web", "type: LoadBalancer"))
        .await?;
    let owner = s.owner(address).await?;
    let kubeconfig = install_second(&s).await?;
    let second = second_controller(&s, &kubeconfig, &[])?;
    let told = async {
        second
            .not_ready(&format!("the FerroLB in namespace {NAMESPACE:?} leads"))
            .await?;
        speaker_waits(&s, &owner, &kubeconfig).await?;
        s.answered_by(address, &owner).await?;
        Teller::controller(&s).well().await?;
        s.fence().await?;
        taken_over(&s, &second, address).await
    }
    .await;
    second.process.kill();
    s.controller().restart()?;
    remove_second(&s).await?;
    told?;
    // The Lease of the second, which was killed, has to run out.
    Teller::controller(&s).well().await?;
    s.fence().await
}

/// The same where neither of the two stands for election.
pub(crate) async fn second_without_election(s: Scene) -> Result<()> {
    let with_election = s.controller().spec();
    let without = ["--leader-elect=false"];
    s.controller().restart_with(with_election.clone().args(without))?;
    Teller::controller(&s).well().await?;
    s.fence().await?;
    let kubeconfig = install_second(&s).await?;
    let second = second_controller(&s, &kubeconfig, &without)?;
    let told = async {
        second
            .not_ready(&format!("the FerroLB in namespace {NAMESPACE:?} leads"))
            .await?;
        // It would have served this one, too, and has no pool for it.
        s.fence().await?;
        Teller::controller(&s).well().await
    }
    .await;
    second.process.kill();
    s.controller().restart_with(with_election)?;
    remove_second(&s).await?;
    told?;
    Teller::controller(&s).well().await?;
    s.fence().await
}

async fn remove_second(s: &Scene) -> Result<()> {
    s.lab()
        .kubectl(&["delete", "namespace", SECOND, "--wait=false"])
        .await?;
    s.lab()
        .kubectl(&["delete", "clusterrolebinding", SECOND])
        .await
        .map(drop)
}

/// The first ends, and the second goes on.
async fn taken_over(s: &Scene, second: &Teller, address: IpAddr) -> Result<()> {
    s.controller().stop(Duration::from_secs(5)).await?;
    second.well().await?;
    let pool = s.pool().replace(NAMESPACE, SECOND);
    s.lab().apply(SECOND, &pool).await?;
    let late = s
        .apply_and_address("late", &service("late", "web", "type: LoadBalancer"))
        .await?;
    ensure!(late != address, "{address} was given twice");
    ensure!(s.addresses("web", 1).await? == [address], "the address changed");
    s.controller().restart()?;
    let first = Teller::controller(s);
    first
        .not_ready(&format!("the FerroLB in namespace {SECOND:?} leads"))
        .await?;
    // It has taken nothing from the one that works.
    ensure!(second.readyz().await?.0 == 200, "the second is not ready any more");
    s.kubectl(&["delete", "svc", "late"]).await.map(drop)
}

/// Makes namespace and account of the second FerroLB; returns a kubeconfig for it.
async fn install_second(s: &Scene) -> Result<String> {
    s.lab().kubectl(&["create", "namespace", SECOND]).await?;
    s.lab()
        .kubectl(&["-n", SECOND, "create", "serviceaccount", "ferrolb"])
        .await?;
    // That its rules are its own is no matter here.
    let account = format!("--serviceaccount={SECOND}:ferrolb");
    let args = [
        "create",
        "clusterrolebinding",
        SECOND,
        "--clusterrole=cluster-admin",
        &account,
    ];
    s.lab().kubectl(&args).await?;
    let token = s.lab().kubectl(&["-n", SECOND, "create", "token", "ferrolb"]).await?;
    credentials::kubeconfig(s, "second", json!({ "token": token.trim() }))
}

fn second_controller(s: &Scene, kubeconfig: &str, more: &[&str]) -> Result<Teller> {
    let name = "ferrolb-controller-second";
    let port = format!("[::]:{SECOND_PORT}");
    let spec = s.spec(name, s.binary("ferrolb-controller")?, s.control_plane());
    let spec = spec.args([
        "--namespace",
        SECOND,
        "--kubeconfig",
        kubeconfig,
        "--pod-name",
        name,
        "--admin-addr",
        &port,
    ]);
    let spec = spec.args(more.iter().copied());
    Ok(Teller {
        s: s.clone(),
        process: s.start_process(spec)?,
        host: s.control_plane().clone(),
        port: SECOND_PORT,
        about: (SECOND.to_owned(), "Pod", name.to_owned()),
    })
}

/// A speaker of the second on a node of the first begins nothing, and takes nothing from the one that works.
async fn speaker_waits(s: &Scene, node: &str, kubeconfig: &str) -> Result<()> {
    let first = s.node(node)?.program(Program::Speaker)?;
    let (mut spec, pid) = (first.spec(), first.pid());
    spec.name = "ferrolb-speaker-second".to_owned();
    spec.log = s.spec(&spec.name, &spec.program, s.control_plane()).log;
    for (flag, value) in [("--namespace", SECOND), ("--kubeconfig", kubeconfig)] {
        let at = spec
            .args
            .iter()
            .position(|arg| arg == flag)
            .with_context(|| format!("no {flag}"))?;
        spec.args[at + 1] = value.into();
    }
    let second = Process::start(spec)?;
    Teller {
        process: second.clone(),
        ..Teller::speaker(s, node)?
    }
    .event("ferrolbNotReady", "a second speaker waits on this node")
    .await?;
    let log = second.log_tail(20);
    ensure!(
        log.contains("that of another FerroLB in this cluster?"),
        "it logs {log}"
    );
    ensure!(
        first.is_alive() && first.pid() == pid,
        "the speaker that works has ended"
    );
    second.kill();
    Ok(())
}

/// MetalLB runs already, for the same Services: FerroLB touches nothing until MetalLB's controller is scaled down, and then
/// takes over what that has given. A MetalLB that comes later is warned of, and not fought with.
pub(crate) async fn metallb(s: Scene) -> Result<()> {
    let controller = Teller::controller(&s);
    s.lab().kubectl(&["create", "namespace", "metallb-system"]).await?;
    s.lab().apply("metallb-system", &metallb_controller()).await?;
    s.wait_pods_ready("metallb-system", "app=metallb", 1, 3 * PATIENCE)
        .await?;
    let told = async {
        s.controller().restart()?;
        controller
            .not_ready("MetalLB's Deployment \"controller\" in namespace \"metallb-system\" runs")
            .await?;
        let theirs = IpAddr::V4(s.v4(120));
        s.apply(&service("theirs", "web", "type: LoadBalancer")).await?;
        s.write_status("theirs", theirs).await?;
        scale(&s, 0).await?;
        controller.well().await?;
        // Adopted, not replaced.
        s.claimed(theirs).await?;
        ensure!(s.addresses("theirs", 1).await? == [theirs], "{theirs} was replaced");

        let ours = s
            .apply_and_address("ours", &service("ours", "web", "type: LoadBalancer"))
            .await?;
        scale(&s, 1).await?;
        controller.warns("beside this FerroLB, which goes on").await?;
        let other = IpAddr::V4(s.v4(140));
        let written = fight(&s, "ours", other).await?;
        ensure!(
            written <= 2,
            "FerroLB wrote its address {written} times over in {FIGHT:?}"
        );
        s.event("ours", "LoadBalancerFailed", "ForeignWriter").await?;
        let claims = &s.json(&format!("vip/{ours}")).await?["spec"]["claims"];
        ensure!(claims[0]["name"] == "ours", "{ours} is claimed by {claims}");
        anyhow::Ok(())
    }
    .await;
    s.lab()
        .kubectl(&["delete", "namespace", "metallb-system", "--wait=false"])
        .await?;
    told?;
    wait_until("the controller to be at peace", 3 * PATIENCE, async || {
        let (_, body) = controller.readyz().await?;
        ensure!(body == "ok\n", "/readyz says {body}");
        anyhow::Ok(())
    })
    .await?;
    s.fence().await
}

/// A MetalLB whose Helm release has a name of its own is found by the pods behind its webhooks. Whether it has a class is only known
/// to a FerroLB that may read its Deployment.
pub(crate) async fn metallb_of_any_name(s: Scene) -> Result<()> {
    let (namespace, name) = ("lb", "edge-metallb-controller");
    let controller = Teller::controller(&s);
    s.lab().kubectl(&["create", "namespace", namespace]).await?;
    let labelled = |yaml: String| yaml.replace(&format!("app: {name}"), "app: metallb");
    s.lab().apply(namespace, &labelled(deployment(name, 1))).await?;
    let webhook = service("metallb-webhook-service", name, "type: ClusterIP");
    s.lab().apply(namespace, &labelled(webhook)).await?;
    s.wait_pods_ready(namespace, "app=metallb", 1, 3 * PATIENCE).await?;
    let rule = [
        "see-metallb",
        "--verb=list",
        "--resource=deployments.apps",
        "--resource-name=edge-metallb-controller",
    ];
    let account = format!("--serviceaccount={NAMESPACE}:ferrolb-controller");
    let binding = ["see-metallb", "--clusterrole=see-metallb", &account];
    let told = async {
        s.controller().restart()?;
        let found = format!("MetalLB's Deployment {name:?} in namespace {namespace:?} runs");
        controller
            .not_ready(&format!("{found}, as far as can be seen for the same Services"))
            .await?;
        s.lab()
            .kubectl(&[&["create", "clusterrole"], &rule[..]].concat())
            .await?;
        s.lab()
            .kubectl(&[&["create", "clusterrolebinding"], &binding[..]].concat())
            .await?;
        controller.not_ready(&format!("{found} for the same Services")).await?;
        s.lab()
            .kubectl(&["-n", namespace, "scale", "deployment", name, "--replicas=0"])
            .await?;
        controller.well().await
    }
    .await;
    for kind in ["clusterrolebinding", "clusterrole"] {
        s.lab()
            .kubectl(&["delete", kind, "see-metallb", "--ignore-not-found"])
            .await?;
    }
    s.lab()
        .kubectl(&["delete", "namespace", namespace, "--wait=false"])
        .await?;
    told?;
    s.fence().await
}

async fn scale(s: &Scene, replicas: u8) -> Result<()> {
    let replicas = format!("--replicas={replicas}");
    let args = ["-n", "metallb-system", "scale", "deployment", "controller", &replicas];
    s.lab().kubectl(&args).await.map(drop)
}

/// What stands for MetalLB's controller: its labels, around the lab's web server.
fn metallb_controller() -> String {
    deployment("controller", 1)
        .replace("app: controller", "app: metallb")
        .replace("- name: web", "- name: controller")
}

/// Writes `theirs` into the status whenever something else stands there, as MetalLB's controller does; returns how often that was.
async fn fight(s: &Scene, service: &str, theirs: IpAddr) -> Result<usize> {
    let begin = Instant::now();
    let mut written = 0;
    while begin.elapsed() < FIGHT {
        if s.external_ips(s.namespace(), service).await? != [theirs] {
            s.write_status(service, theirs).await?;
            written += 1;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // The first of them wrote over the address that the Service had in peace.
    Ok(written - 1)
}
