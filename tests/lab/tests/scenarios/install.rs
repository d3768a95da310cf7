//! FerroLB as users run it: its manifest, its images, pods on nodes with a real kubelet. Installed, upgraded, killed, hung,
//! removed and installed again, under clients that ask without a pause.
//!
//! The scenarios share a cluster, and each begins with an installation that stands, whoever made it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use ferrolb_lab::lab::NAMESPACE;
use ferrolb_lab::run_dir::Living;
use ferrolb_lab::{Program, realnode, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::failover::{Clients, NODE_LOSS, Served, V4, none_lost, served_again, told};
use crate::ground::swept_after_kill;
use crate::manifests::{advertisement, deployment, service};
use crate::scene::{PATIENCE, Scene};
use crate::shell::{EXAMPLE, Shell, quick_start};

const SPEAKER: &str = "ferrolb-speaker";
const CONTROLLER: &str = "ferrolb-controller";
pub(crate) const WORKLOADS: [&str; 2] = ["daemonset/ferrolb-speaker", "deployment/ferrolb-controller"];

/// Capabilities, as the kernel shows them: `CAP_NET_RAW` alone, and none.
const NET_RAW: &str = "0000000000002000";
const NOTHING: &str = "0000000000000000";
/// `CAP_NET_BIND_SERVICE` too.
const LOW_PORTS: &str = "0000000000002400";
/// The user that programs run as that are not root.
const NOBODY: u32 = 65534;

const ROOT: u32 = 0;

/// What speakers log when they begin with the work of the one before, and when with what it has left.
pub(crate) const TOOK_OVER: &str = "took over from the speaker that ran here";
const GOES_BY_SNAPSHOT: &str = "going by the snapshot";
/// And when the directory for it is not theirs.
const NO_DIRECTORY: [&str; 4] = [
    "the state directory is not the speaker's",
    "cannot be written",
    "the snapshot is not used",
    "cannot take over from this speaker",
];

/// From the manifest to the first page. The goal is 5 s, on a machine that does nothing else.
const FIRST_PAGE: Duration = Duration::from_secs(20);
/// What a rollout, or the end of a program that hangs, may take.
const ROLLOUT: Duration = Duration::from_secs(60);
/// The longest time in which nobody answers an ARP request when a speaker is killed. The goal is 200 ms.
const ARP_SILENCE: Duration = Duration::from_millis(500);

/// Installs FerroLB, or finds that it is.
pub(crate) async fn installed(s: &Scene) -> Result<()> {
    s.import_ferrolb().await?;
    s.deploy_ferrolb().await
}

/// Runs kubectl in FerroLB's namespace.
pub(crate) async fn kubectl(s: &Scene, args: &[&str]) -> Result<String> {
    s.lab().kubectl(&[&["-n", NAMESPACE], args].concat()).await
}

pub(crate) async fn rolled_out(s: &Scene) -> Result<()> {
    let timeout = format!("--timeout={}s", ROLLOUT.as_secs());
    for workload in WORKLOADS {
        kubectl(s, &["rollout", "status", workload, &timeout]).await?;
    }
    Ok(())
}

/// How often the container of each pod of a component has been started again, by pod.
async fn restarts(s: &Scene, component: &str) -> Result<BTreeMap<String, u64>> {
    let label = format!("app.kubernetes.io/component={component}");
    let list: Value = serde_json::from_str(&kubectl(s, &["get", "pods", "-l", &label, "-o", "json"]).await?)?;
    let pods = list["items"].as_array().context("a list has items")?;
    let count = |pod: &Value| pod["status"]["containerStatuses"][0]["restartCount"].as_u64();
    Ok(pods
        .iter()
        .filter_map(|pod| Some((pod["metadata"]["name"].as_str()?.to_owned(), count(pod)?)))
        .collect())
}

/// The pod of the speaker of a node.
async fn speaker_of(s: &Scene, node: &str) -> Result<String> {
    let label = "app.kubernetes.io/component=speaker";
    let field = format!("--field-selector=spec.nodeName={node}");
    let args = [
        "get",
        "pods",
        "-l",
        label,
        &field,
        "-o",
        "jsonpath={.items[0].metadata.name}",
    ];
    kubectl(s, &args).await
}

/// What the speaker's containers have logged since they were last started, by node; a pod that is about to end is none.
async fn speakers_say(s: &Scene) -> Result<BTreeMap<String, String>> {
    let label = "app.kubernetes.io/component=speaker";
    let living = r#"jsonpath={range .items[*]}{.metadata.name}{" "}{.spec.nodeName}{" "}{.metadata.deletionTimestamp}{"\n"}{end}"#;
    let pods = kubectl(s, &["get", "pods", "-l", label, "-o", living]).await?;
    let mut said = BTreeMap::new();
    let living = pods.lines().filter_map(|line| line.strip_suffix(' '));
    for (pod, node) in living.filter_map(|line| line.split_once(' ')) {
        let log = kubectl(s, &["logs", pod, "--all-containers"]).await?;
        said.insert(node.to_owned(), log);
    }
    ensure!(said.len() == s.nodes().len(), "{} speakers: {pods}", said.len());
    Ok(said)
}

/// Every speaker has logged this, or does soon: a pod may be ready before the runtime has written its log.
pub(crate) async fn every_speaker_says(s: &Scene, what: &str) -> Result<()> {
    wait_until(&format!("every speaker to say {what:?}"), PATIENCE, async || {
        for (node, log) in speakers_say(s).await? {
            ensure!(log.contains(what), "the speaker of {node} does not: {log}");
        }
        Ok(())
    })
    .await
}

/// The speakers that have a part in the address go by what the ones before them have written down.
async fn goes_by_snapshot(s: &Scene, served: &Served) -> Result<()> {
    let said = speakers_say(s).await?;
    let placement = &served.placement;
    for node in placement.standbys.iter().chain([&placement.owner]) {
        let log = said.get(node).with_context(|| format!("no speaker on {node}"))?;
        ensure!(
            log.contains(GOES_BY_SNAPSHOT),
            "the speaker of {node} has forgotten everything: {log}"
        );
    }
    Ok(())
}

/// Every speaker reads and writes what it wants to in its state directory.
pub(crate) async fn every_speaker_has_its_directory(s: &Scene) -> Result<()> {
    for (node, log) in speakers_say(s).await? {
        let trouble = NO_DIRECTORY.iter().find(|trouble| log.contains(**trouble));
        ensure!(trouble.is_none(), "the speaker of {node} says {trouble:?}: {log}");
    }
    Ok(())
}

/// Sends a signal to all processes of a program on a node; returns how many there are.
fn signal(s: &Scene, node: &str, program: &str, what: Signal) -> Result<usize> {
    let found = s.node(node)?.processes_called(program)?;
    for pid in &found {
        kill(Pid::from_raw(*pid), what).with_context(|| format!("{what} to {program} on {node}"))?;
    }
    Ok(found.len())
}

/// A cluster with a Deployment, its images there and nothing of FerroLB. What the README has new users type is typed, with
/// addresses of this network, and a client has a page.
pub(crate) async fn first_page(s: Scene) -> Result<()> {
    s.import_ferrolb().await?;
    s.apply(&deployment("web", 2)).await?;
    s.ready("web", 2).await?;
    let shell = Shell::new(&s)?;
    let typed = quick_start()?;
    let objects = typed.objects.replace(EXAMPLE[0], &s.range_v4());
    let objects = objects.replace(EXAMPLE[1], &s.range_v6());

    let begin = Instant::now();
    let mut laps = Vec::new();
    let mut lap = |what: &str| laps.push(format!("{what} {:.1} s", begin.elapsed().as_secs_f32()));
    shell.run(typed.install).await?;
    lap("applied");
    wait_until("the custom resources to be served", PATIENCE, async || {
        s.apply(&objects).await
    })
    .await?;
    lap("pool applied");
    let addresses = s.addresses("web", 2).await?;
    let address = addresses[0];
    lap("address");
    s.page(address, 80).await?;
    let time = begin.elapsed();
    lap("first page");
    rolled_out(&s).await?;
    lap("all pods ready");
    eprintln!("  manifest -> first page: {}", laps.join(", "));
    ensure!(time < FIRST_PAGE, "the first page took {time:?}");

    confined(&s, SPEAKER, NOBODY, NET_RAW)?;
    every_speaker_says(&s, "gave the state directory to the speaker's user").await?;
    every_speaker_has_its_directory(&s).await?;
    confined(&s, CONTROLLER, NOBODY, NOTHING)?;
    for address in addresses {
        s.page(address, 80).await?;
        s.owner(address).await?;
        for look in &typed.looks {
            let look = look.replace(" svc", &format!(" -n {} svc", s.namespace()));
            let said = shell.run(&look).await?;
            ensure!(
                said.contains(&address.to_string()),
                "{look:?} does not show {address}: {said}"
            );
        }
    }
    unchanged_by_a_second_apply(&s).await?;
    // The pool is open to everybody.
    s.delete(&objects).await
}

/// The processes of a program run as this user, with these capabilities, and cannot get more.
fn confined(s: &Scene, program: &str, user: u32, held: &str) -> Result<()> {
    let mut seen = 0;
    for node in s.nodes() {
        for pid in node.processes_called(program)? {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
            let lines = [
                format!("Uid:\t{user}\t{user}\t{user}\t{user}"),
                format!("CapEff:\t{held}"),
                format!("CapBnd:\t{held}"),
                "NoNewPrivs:\t1".to_owned(),
                "Seccomp:\t2".to_owned(),
            ];
            let missing = lines.iter().find(|wanted| !status.lines().any(|line| line == *wanted));
            ensure!(missing.is_none(), "{program}: not {missing:?} but {status}");
            seen += 1;
        }
    }
    ensure!(seen >= 2, "{seen} processes of {program}");
    Ok(())
}

/// Whoever applies the manifest once more, as GitOps does all the time, changes nothing.
async fn unchanged_by_a_second_apply(s: &Scene) -> Result<()> {
    let generations = "jsonpath={range .items[*]}{.kind}/{.metadata.name}:{.metadata.generation} {end}";
    let all = "daemonsets,deployments,networkpolicies,poddisruptionbudgets";
    let before = kubectl(s, &["get", all, "-o", generations]).await?;
    s.apply_ferrolb().await?;
    let after = kubectl(s, &["get", all, "-o", generations]).await?;
    ensure!(before == after, "{before} has become {after}");
    // And is told so before, which fails where anything differs.
    let manifest = format!("{}/../../deploy/manifests/ferrolb.yaml", env!("CARGO_MANIFEST_DIR"));
    let difference = ["diff", "--server-side", "--force-conflicts", "-f", &manifest];
    s.lab().kubectl(&difference).await.map(drop)
}

/// Both workloads roll over to images of another tag, and back, under clients: nothing is lost, not even for one who asks
/// for the address all the time, a connection lives, and the owner stays.
pub(crate) async fn upgraded_and_rolled_back(s: Scene) -> Result<()> {
    installed(&s).await?;
    for node in s.nodes() {
        for program in [SPEAKER, CONTROLLER] {
            let name = |tag: &str| format!("docker.io/ferrolb/{program}:{tag}");
            node.tag_image(&name(concat!("v", env!("CARGO_PKG_VERSION"))), &name("v0.0.0-next"))
                .await?;
        }
    }
    let mut clients = Clients::new(s.clone(), V4).await?;
    for what in ["upgrade", "rollback"] {
        let begin = Instant::now();
        for workload in WORKLOADS {
            let program = workload.split('/').nth(1).unwrap_or_default();
            let image = format!("*=ferrolb/{program}:v0.0.0-next");
            match what {
                "upgrade" => kubectl(&s, &["set", "image", workload, &image]).await?,
                _ => kubectl(&s, &["rollout", "undo", workload]).await?,
            };
        }
        clients.asking_anew(rolled_out(&s)).await?;
        eprintln!("  {what}: rolled out in {:.1} s", begin.elapsed().as_secs_f32());
        clients.unnoticed(what).await?;
        every_speaker_says(&s, TOOK_OVER).await?;
        every_speaker_has_its_directory(&s).await?;
    }
    none_lost(&clients.end("upgrade and rollback").await?)
}

async fn overlaid(s: &Scene, name: &str) -> Result<()> {
    let overlay = format!("{}/../../deploy/overlays/{name}", env!("CARGO_MANIFEST_DIR"));
    let apply = ["apply", "--server-side", "--force-conflicts", "-k", &overlay];
    s.lab().kubectl(&apply).await.map(drop)
}

/// Whether speakers may list this kind in FerroLB's namespace.
async fn speakers_may_list(s: &Scene, kind: &str) -> bool {
    let account = format!("--as=system:serviceaccount:{NAMESPACE}:{SPEAKER}");
    kubectl(s, &["auth", "can-i", "list", kind, &account]).await.is_ok()
}

/// The overlays that take away what can be done without, both at once: nothing that may not be reached or read is missed, and
/// speakers change over under clients.
pub(crate) async fn hardened(s: Scene) -> Result<()> {
    installed(&s).await?;
    let of_routers = ["secrets", "bgppeers.metallb.io", "bfdprofiles.metallb.io"];
    for kind in of_routers {
        ensure!(speakers_may_list(&s, kind).await, "speakers may not list {kind}");
    }
    let clients = Clients::new(s.clone(), V4).await?;
    overlaid(&s, "hardened").await?;
    overlaid(&s, "layer2-only").await?;
    clients.asking_anew(rolled_out(&s)).await?;
    none_lost(&clients.end("change to layer 2 only").await?)?;
    for kind in of_routers {
        ensure!(!speakers_may_list(&s, kind).await, "speakers may still list {kind}");
    }
    confined(&s, SPEAKER, NOBODY, NET_RAW)?;
    every_speaker_says(&s, TOOK_OVER).await?;
    for (pod, log) in speakers_say(&s).await? {
        ensure!(!log.contains("forbidden"), "{pod} misses a right: {log}");
    }
    // A new address is announced, too.
    let more = s
        .apply_and_address("more", &service("more", "web", "type: LoadBalancer"))
        .await?;
    s.page(more, 80).await?;
    let owner = s.owner(more).await?;
    s.answered_by(more, &owner).await?;
    // Back to the manifest, which has none of it.
    kubectl(&s, &["delete", "networkpolicies", "--all"]).await?;
    installed(&s).await
}

/// Speakers run as root for a while, as those of earlier versions did, and as nobody again. The two do not hand over to each
/// other, but each goes by what the other has left, and clients notice nothing.
pub(crate) async fn root_and_back(s: Scene) -> Result<()> {
    installed(&s).await?;
    let mut clients = Clients::new(s.clone(), V4).await?;
    for (what, user, held) in [("to root", ROOT, LOW_PORTS), ("to nobody", NOBODY, NET_RAW)] {
        let begin = Instant::now();
        match user {
            ROOT => overlaid(&s, "root").await?,
            _ => s.apply_ferrolb().await?,
        }
        clients.asking_anew(rolled_out(&s)).await?;
        eprintln!("  {what}: rolled out in {:.1} s", begin.elapsed().as_secs_f32());
        // The last of the old pods may be about to end.
        wait_until("the speakers' user", ROLLOUT, async || {
            confined(&s, SPEAKER, user, held)
        })
        .await?;
        clients.unnoticed(what).await?;
        goes_by_snapshot(&s, &clients.served).await?;
    }
    every_speaker_has_its_directory(&s).await?;
    none_lost(&clients.end("to root and back").await?)
}

/// The owner's speaker is killed in its container: a standby answers in its name until the kubelet has started it again.
pub(crate) async fn speaker_killed(s: Scene) -> Result<()> {
    installed(&s).await?;
    let served = Served::new(s.clone(), V4).await?;
    let prober = served.probe(&s.browser()).await?;
    let owner = served.placement.owner.clone();
    let pod = speaker_of(&s, &owner).await?;
    let before = restarts(&s, "speaker").await?;
    let asker = s.browser().asker(served.address)?;
    let killed = signal(&s, &owner, SPEAKER, Signal::SIGKILL)?;
    ensure!(killed == 1, "{killed} speakers on {owner}");
    started_again(&s, "speaker", std::slice::from_ref(&pod), &before).await?;
    rolled_out(&s).await?;
    let log = kubectl(&s, &["logs", &pod]).await?;
    ensure!(log.contains(GOES_BY_SNAPSHOT), "{pod} has forgotten everything: {log}");
    let silence = tokio::task::spawn_blocking(move || asker.stop()).await??;
    eprintln!(
        "  speaker killed: nobody answered ARP for {:.0} ms",
        silence.as_secs_f64() * 1000.0
    );
    ensure!(silence < ARP_SILENCE, "nobody answered ARP for {silence:?}");
    served.unmoved().await?;
    none_lost(&told("speaker killed", prober))
}

/// Waits until the containers of these pods have been started once more than `before`.
async fn started_again(s: &Scene, component: &str, pods: &[String], before: &BTreeMap<String, u64>) -> Result<()> {
    wait_until(&format!("{pods:?} to be started again"), ROLLOUT, async || {
        let now = restarts(s, component).await?;
        let all = pods.iter().all(|pod| now.get(pod) > before.get(pod));
        ensure!(all, "restarts were {before:?} and are {now:?}");
        Ok(())
    })
    .await
}

/// The owner's speaker, and every controller, hang: their liveness probes have them replaced, and nobody notices.
pub(crate) async fn programs_hang(s: Scene) -> Result<()> {
    installed(&s).await?;
    let served = Served::new(s.clone(), V4).await?;
    let prober = served.probe(&s.browser()).await?;
    let owner = served.placement.owner.clone();
    let speaker = [speaker_of(&s, &owner).await?];
    let (speakers, controllers) = (restarts(&s, "speaker").await?, restarts(&s, "controller").await?);
    let all: Vec<String> = controllers.keys().cloned().collect();
    let begin = Instant::now();
    signal(&s, &owner, SPEAKER, Signal::SIGSTOP)?;
    for node in s.nodes() {
        signal(&s, node.name(), CONTROLLER, Signal::SIGSTOP)?;
    }
    started_again(&s, "speaker", &speaker, &speakers).await?;
    started_again(&s, "controller", &all, &controllers).await?;
    eprintln!(
        "  hanging programs: replaced after {:.1} s",
        begin.elapsed().as_secs_f32()
    );
    rolled_out(&s).await?;
    s.fence().await?;
    let now = s.owner(served.address).await?;
    s.answered_by(served.address, &now).await?;
    none_lost(&told("hanging programs", prober))
}

/// The kubelet and the container runtime of the owner's node are started again: pods run on, and nobody notices.
pub(crate) async fn kubelet_and_runtime_restart(s: Scene) -> Result<()> {
    installed(&s).await?;
    let served = Served::new(s.clone(), V4).await?;
    let prober = served.probe(&s.browser()).await?;
    let owner = served.placement.owner.clone();
    let before = (
        s.node(&owner)?.processes_called(SPEAKER)?,
        restarts(&s, "speaker").await?,
    );
    s.node(&owner)?.restart(Program::Runtime)?;
    s.node(&owner)?.restart(Program::Kubelet)?;
    s.node_ready(&owner).await?;
    rolled_out(&s).await?;
    let after = (
        s.node(&owner)?.processes_called(SPEAKER)?,
        restarts(&s, "speaker").await?,
    );
    ensure!(
        before == after,
        "speakers and restarts: {before:?} have become {after:?}"
    );
    served.unmoved().await?;
    none_lost(&told("kubelet and runtime restarted", prober))
}

/// The owner's node loses its power, and is booted again with the same disk: a standby takes over, the speaker comes back, and
/// the address does not.
pub(crate) async fn power_cut_and_reboot(s: Scene) -> Result<()> {
    installed(&s).await?;
    let served = Served::new(s.clone(), V4).await?;
    let prober = served.probe(&s.browser()).await?;
    let lost = served.placement.owner.clone();
    let before = prober.so_far().answered();
    served.owner()?.power_off()?;
    served_again(&prober, before).await?;
    let tally = told("power cut", prober);
    ensure!(tally.longest_gap < NODE_LOSS, "nobody answered for too long: {tally:?}");
    let heir = served.inherited().await?;
    s.wait_node_ready(&lost, false, PATIENCE).await?;

    let prober = served.probe(&s.browser()).await?;
    let begin = Instant::now();
    served.owner()?.power_on()?;
    s.node_ready(&lost).await?;
    wait_until(&format!("the speaker of {lost}"), ROLLOUT, async || {
        let ready = s.admin_of(s.node(&lost)?.host(), "/readyz").await?;
        ensure!(ready.0 == 200, "{ready:?}");
        Ok(())
    })
    .await?;
    eprintln!(
        "  {lost} booted: its speaker is ready after {:.1} s",
        begin.elapsed().as_secs_f32()
    );
    rolled_out(&s).await?;
    confined(&s, SPEAKER, NOBODY, NET_RAW)?;
    every_speaker_has_its_directory(&s).await?;
    s.fence().await?;
    ensure!(served.inherited().await? == heir, "the address moved once more");
    none_lost(&told("reboot", prober))
}

/// What a lab with real nodes leaves that was killed with SIGKILL, while its pods run, is gone after a sweep.
pub(crate) async fn killed_lab_is_swept(_: Scene) -> Result<()> {
    let pods = |lab: &Living| {
        realnode::remains(lab.id)
            .iter()
            .any(|path| path.join("node-1/kubepods").is_dir())
    };
    swept_after_kill("install::first_page", pods).await
}

/// Both workloads are deleted: nobody answers any more, and the Service keeps its address. Installed again, it has the same
/// one, and it is answered.
pub(crate) async fn removed_and_installed_again(s: Scene) -> Result<()> {
    installed(&s).await?;
    s.apply(&deployment("web", 2)).await?;
    s.apply_config(&s.pool()).await?;
    let address = s
        .apply_and_address("web", &service("web", "web", "type: LoadBalancer"))
        .await?;
    s.ready("web", 2).await?;
    s.page(address, 80).await?;
    s.owner(address).await?;

    kubectl(&s, &[&["delete"], &WORKLOADS[..]].concat()).await?;
    s.unanswered(address).await?;
    ensure!(
        s.addresses("web", 1).await? == [address],
        "the Service has lost its address"
    );
    // A pool that another Service could take the address from, were it not claimed.
    s.apply_config(&advertisement(&[s.namespace().to_owned()])).await?;

    installed(&s).await?;
    s.apply(&service("other", "web", "type: LoadBalancer")).await?;
    let other = s.addresses("other", 1).await?[0];
    ensure!(
        s.addresses("web", 1).await? == [address],
        "the Service has another address"
    );
    ensure!(other != address, "the address was given away");
    s.page(address, 80).await?;
    let owner = s.owner(address).await?;
    s.answered_by(address, &owner).await
}
