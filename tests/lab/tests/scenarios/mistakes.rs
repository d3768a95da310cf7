//! What people do wrong around FerroLB, one mistake at a time: what works goes on, the programs say what is wrong, and all is
//! well once it is put right. Rights and capabilities have a module of their own ([`crate::rights`]), and so have other load
//! balancers ([`crate::rivals`]), and tokens and certificates ([`crate::credentials`]).

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use ferrolb_lab::lab::NAMESPACE;
use ferrolb_lab::process::Process;
use ferrolb_lab::{Program, wait_until};
use serde_json::{Value, json};

use crate::cli::told;
use crate::manifests::{deployment, pool, service};
use crate::scene::{PATIENCE, Scene};
use crate::told::Teller;

/// Where Debian puts the library that tells programs a wrong time.
const FAKETIME: [&str; 2] = [
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketime.so.1",
];

/// An owner that has not confirmed for so long may still be starting.
const SOON: Duration = Duration::from_secs(20);

/// The level below which an installation is refused.
const ENFORCE: &str = "pod-security.kubernetes.io/enforce";

/// CustomResourceDefinitions of an older version: without a field of FerroLB's own kinds the controller is not ready, without
/// one of MetalLB's it warns; and it names the field.
pub(crate) async fn older_definitions(s: Scene) -> Result<()> {
    let controller = Teller::controller(&s);
    let spec = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties";
    let mut lost = Vec::new();
    for (crd, field) in [
        ("ipaddresspools.metallb.io", "avoidBuggyIPs"),
        ("announcementpolicies.ferrolb.io", "endpoints"),
    ] {
        let path = format!("{spec}/{field}");
        let definition = s.json(&format!("crd/{crd}")).await?;
        let schema = definition
            .pointer(&path)
            .with_context(|| format!("{crd} has no {path}"))?;
        patch(&s, crd, "remove", &path, &Value::Null).await?;
        lost.push((crd, path, schema.clone()));
    }
    s.controller().restart()?;
    let own = controller
        .not_ready("AnnouncementPolicy spec.endpoints of ferrolb.io/v1alpha1")
        .await;
    let (crd, path, schema) = lost.pop().context("two were taken away")?;
    patch(&s, crd, "add", &path, &schema).await?;
    let theirs = controller
        .warns("IPAddressPool spec.avoidBuggyIPs of metallb.io/v1beta1")
        .await;
    let (crd, path, schema) = lost.pop().context("two were taken away")?;
    patch(&s, crd, "add", &path, &schema).await?;
    own?;
    theirs?;
    controller.well().await?;
    s.fence().await
}

async fn patch(s: &Scene, crd: &str, op: &str, path: &str, value: &Value) -> Result<()> {
    let patch = json!([{ "op": op, "path": path, "value": value }]).to_string();
    s.kubectl(&["patch", "crd", crd, "--type=json", "-p", &patch])
        .await
        .map(drop)
}

/// A namespace that admits no speakers is told before anybody misses one.
pub(crate) async fn restricted_namespace(s: Scene) -> Result<()> {
    let controller = Teller::controller(&s);
    enforce(&s, "restricted").await?;
    let told = controller.warns("keeps new pods of the speakers out").await;
    enforce(&s, "privileged").await?;
    told?;
    controller.well().await
}

/// The same with pods: those that run go on, the one that is to take over is refused, the controllers say why, and the rollout
/// ends by itself once the label is put right.
pub(crate) async fn speakers_refused(s: Scene) -> Result<()> {
    s.import_ferrolb().await?;
    s.deploy_ferrolb().await?;
    let kubectl = async |args: &[&str]| s.lab().kubectl(&[&["-n", NAMESPACE], args].concat()).await;
    let rolled_out = ["rollout", "status", "daemonset/ferrolb-speaker", "--timeout=60s"];
    kubectl(&rolled_out).await?;
    enforce(&s, "baseline").await?;
    let told = async {
        kubectl(&["rollout", "restart", "daemonset/ferrolb-speaker"]).await?;
        wait_until("the DaemonSet's event", PATIENCE, async || {
            let events = s.events(NAMESPACE, "DaemonSet", "ferrolb-speaker").await?;
            let refused = |message: &str| message.contains("violates PodSecurity") && message.contains("baseline");
            ensure!(events.iter().any(|event| refused(&event.message)), "{events:?}");
            Ok(())
        })
        .await?;
        let pods = kubectl(&[
            "get",
            "pods",
            "-l",
            "app.kubernetes.io/component=controller",
            "-o",
            "name",
        ])
        .await?;
        let names: Vec<&str> = pods.lines().map(|pod| pod.trim_start_matches("pod/")).collect();
        wait_until("the event of a controller", PATIENCE, async || {
            let mut seen = Vec::new();
            for name in &names {
                seen.extend(s.events(NAMESPACE, "Pod", name).await?);
            }
            let warned = seen.iter().any(|event| {
                event.reason == "ferrolbWarning" && event.message.contains("keeps new pods of the speakers out")
            });
            ensure!(warned, "{seen:?}");
            Ok(())
        })
        .await?;
        // Of several pods at once it describes no events.
        let mut described = String::new();
        for name in &names {
            described += &kubectl(&["describe", "pod", name]).await?;
        }
        ensure!(
            described.contains("ferrolbWarning"),
            "kubectl describe does not show it: {described}"
        );
        let ready = "jsonpath={.status.numberReady}";
        let ready = kubectl(&["get", "daemonset", "ferrolb-speaker", "-o", ready]).await?;
        ensure!(ready == s.nodes().len().to_string(), "{ready} speakers are ready");
        anyhow::Ok(())
    }
    .await;
    enforce(&s, "privileged").await?;
    kubectl(&rolled_out).await?;
    told
}

async fn enforce(s: &Scene, level: &str) -> Result<()> {
    let label = format!("{ENFORCE}={level}");
    let args = ["label", "--overwrite", "namespace", NAMESPACE, &label];
    s.lab().kubectl(&args).await.map(drop)
}

/// A node as kube-proxy in IPVS mode leaves it without strict ARP: a kernel that answers for every address of a Service. The
/// lab's kernel has no IPVS; a bridge of that name stands in for the interface, which makes the same difference to ARP.
pub(crate) async fn ipvs_without_strict_arp(s: Scene) -> Result<()> {
    s.apply(&deployment("web", 1)).await?;
    s.ready("web", 1).await?;
    let address = s
        .apply_and_address("web", &service("web", "web", "type: LoadBalancer"))
        .await?;
    let owner = s.owner(address).await?;
    s.answered_by(address, &owner).await?;
    let other = s
        .nodes()
        .iter()
        .find(|node| node.name() != owner)
        .context("another node")?;
    let (name, network) = (other.name(), other.host().namespace());
    network.ip(&format!(
        "link add kube-ipvs0 type bridge\naddr add {address}/32 dev kube-ipvs0\n"
    ))?;
    let speaker = Teller::speaker(&s, name)?;
    let told = async {
        speaker.warns("kube-proxy runs in IPVS mode without strict ARP").await?;
        wait_until("two nodes to answer", PATIENCE, async || {
            s.forget_neighbours()?;
            let macs = s.who_answers(address).await?;
            ensure!(macs.len() == 2, "{macs:?}");
            Ok(())
        })
        .await?;
        network.sysctl(&[
            ("net/ipv4/conf/all/arp_ignore", "1"),
            ("net/ipv4/conf/all/arp_announce", "2"),
        ])?;
        speaker.well().await?;
        s.answered_by(address, &owner).await
    }
    .await;
    network.sysctl(&[
        ("net/ipv4/conf/all/arp_ignore", "0"),
        ("net/ipv4/conf/all/arp_announce", "0"),
    ])?;
    network.ip("link del kube-ipvs0\n")?;
    told?;
    speaker.well().await
}

/// A pool outside of the subnets of all nodes: the Service has its address, and says that no node can announce it, each for want of a
/// subnet. It is announced once a policy says that clients reach it all the same.
pub(crate) async fn no_subnet(s: Scene) -> Result<()> {
    let name = s.namespace().to_owned();
    s.apply_config(&pool(&name, &name, &["10.91.0.0/28"])).await?;
    s.apply_config(&crate::manifests::advertisement(std::slice::from_ref(&name)))
        .await?;
    s.apply(&deployment("web", 1)).await?;
    s.ready("web", 1).await?;
    let address = s
        .apply_and_address("web", &service("web", "web", "type: LoadBalancer"))
        .await?;
    s.condition(address, "Announced", "False", "NoSubnet").await?;
    s.event("web", "announceFailed", "NoSubnet").await?;
    let policy = format!(
        "apiVersion: ferrolb.io/v1alpha1\nkind: AnnouncementPolicy\nmetadata: {{ name: {name} }}\nspec:\n  \
         ipAddressPools: [{name}]\n  layer2: {{ subnetCheck: false }}\n"
    );
    s.apply(&policy).await?;
    let announced = s.owner(address).await;
    s.delete(&policy).await?;
    announced.map(drop)
}

/// No speaker anywhere: the Service has its address, and after a while condition, event and plugin say that no speaker answers. Once
/// speakers run, that goes away by itself, and a client reaches the Service.
pub(crate) async fn no_speakers(s: Scene) -> Result<()> {
    s.apply(&deployment("web", 1)).await?;
    s.ready("web", 1).await?;
    let speakers = s.nodes().iter().map(|node| node.program(Program::Speaker));
    let speakers = speakers.collect::<Result<Vec<_>>>()?;
    speakers.iter().for_each(|speaker| speaker.kill());
    s.lab().kubectl(&["delete", "speakerstates", "--all"]).await?;
    let named = async {
        let address = s
            .apply_and_address("web", &service("web", "web", "type: LoadBalancer"))
            .await?;
        s.condition(address, "Announced", "False", "Pending").await?;
        tokio::time::sleep(SOON).await;
        s.condition(address, "Announced", "False", "Pending").await?;
        s.condition(address, "Announced", "False", "NoSpeaker").await?;
        s.event("web", "announceFailed", "NoSpeaker").await?;
        told(&s, &["why", "web"], 1, "does not work: layer 2: NoSpeaker").await?;
        s.unanswered(address).await?;
        anyhow::Ok(address)
    }
    .await;
    speakers.iter().try_for_each(|speaker| speaker.restart())?;
    let address = named?;
    let owner = s.owner(address).await?;
    s.condition(address, "Announced", "True", "Announced").await?;
    s.answered_by(address, &owner).await?;
    s.page(address, 80).await?;
    told(&s, &["why", "web"], 0, "works: ").await?;
    let events = s.events(s.namespace(), "Service", "web").await?;
    let said = events.iter().filter(|event| event.message.contains("NoSpeaker"));
    ensure!(said.count() == 1, "{events:?}");
    s.wait_ferrolb_ready().await
}

/// Clocks that are an hour off: that of the controller ahead, that of the owner's speaker behind. Addresses are given, announced
/// and taken over as ever; both programs say which clock is wrong by how much.
pub(crate) async fn wrong_clocks(s: Scene) -> Result<()> {
    let library = FAKETIME.iter().find(|path| std::path::Path::new(path).is_file());
    let library = library.context("libfaketime is missing: apt-get install libfaketime")?;
    s.apply(&deployment("web", 2)).await?;
    s.ready("web", 2).await?;
    let first = s
        .apply_and_address("first", &service("first", "web", "type: LoadBalancer"))
        .await?;
    let owner = s.owner(first).await?;
    let speaker = s.node(&owner)?.program(Program::Speaker)?;
    let off = |process: &Process, by: &str| {
        let spec = process.spec().env("LD_PRELOAD", *library).env("FAKETIME", by);
        spec.env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
    };
    let right = [s.controller().spec(), speaker.spec()];
    s.controller().restart_with(off(s.controller(), "+1h"))?;
    speaker.restart_with(off(speaker, "-1h"))?;
    let told = async {
        Teller::controller(&s).warns("ahead of the API server's").await?;
        Teller::speaker(&s, &owner)?.warns("behind the API server's").await?;
        // Given, cooled down and given again.
        s.answered_by(first, &owner).await?;
        let second = s
            .apply_and_address("second", &service("second", "web", "type: LoadBalancer"))
            .await?;
        s.page(second, 80).await?;
        s.kubectl(&["delete", "svc", "second"]).await?;
        s.condition(second, "Allocated", "False", "CoolingDown").await?;
        let third = s
            .apply_and_address("third", &service("third", "web", "type: LoadBalancer"))
            .await?;
        ensure!(third != second, "{second} was given again at once");
        // Heartbeats of the one whose clock is slow are believed: it is missed, and stood in for.
        speaker.kill();
        s.answered_by(first, &owner).await?;
        speaker.restart()?;
        s.wait_ferrolb_ready().await
    }
    .await;
    let [of_controller, of_speaker] = right;
    s.controller().restart_with(of_controller)?;
    speaker.restart_with(of_speaker)?;
    told?;
    // Back by two hours and forth by one: whoever compares with what was written before would wait.
    Teller::controller(&s).well().await?;
    Teller::speaker(&s, &owner)?.well().await?;
    tokio::time::timeout(Duration::from_secs(30), s.answered_by(first, &owner)).await??;
    s.fence().await
}
