//! The procedures of `docs/src/migration.md`, as they stand there, on real nodes: in from MetalLB and back out, under a
//! client that knows the address, one that asks for it all the time and one behind a router.
//!
//! MetalLB is the released one, from its own manifest, with its webhooks.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use ferrolb_controlplane::Metallb;
use ferrolb_lab::client::Client;
use ferrolb_lab::wait_until;

use crate::bgp::{NODES, all};
use crate::cli::of_metallb;
use crate::failover::{MANY_PORTS, UDP, asking, none_lost, told};
use crate::manifests::{deployment, service};
use crate::router::{ASN, Router};
use crate::scene::{PATIENCE, Scene};
use crate::shell::Shell;

const GUIDE: &str = include_str!("../../../../docs/src/migration.md");

const METALLB: &str = "metallb-system";
/// Where the pods of the Service are.
const BACKENDS: &str = "node-4";

/// In a step without a gap nobody waits longer for an answer; the bound is that of a busy machine.
const NONE: Duration = Duration::from_secs(1);
/// What MetalLB takes to be ready, or to answer: its probes begin after 10 s, and its webhooks when its certificates are in its pod.
const METALLB_PATIENCE: Duration = Duration::from_secs(120);
/// What the change of speakers may take on a busy machine.
const CHANGE: Duration = Duration::from_secs(20);
/// How long a step is watched.
const WATCHED: Duration = Duration::from_secs(1);

/// The router as a peer of a MetalLB, which tells it what it tells the LAN.
fn by_bgp(router: &str) -> String {
    format!(
        r#"apiVersion: metallb.io/v1beta2
kind: BGPPeer
metadata: {{name: old, namespace: {METALLB}}}
spec: {{myASN: {NODES}, peerASN: {ASN}, peerAddress: {router}}}
---
apiVersion: metallb.io/v1beta1
kind: BGPAdvertisement
metadata: {{name: old, namespace: {METALLB}}}
"#
    )
}

/// The commands of each step of a procedure, in their order.
fn steps(title: &str) -> Result<Vec<Vec<String>>> {
    let heading = format!("\n## {title}\n");
    let section = GUIDE.split_once(&heading).map(|(_, rest)| rest);
    let section = section.with_context(|| format!("the guide has no section {title:?}"))?;
    let section = section.split("\n## ").next().unwrap_or_default();
    let mut steps = Vec::new();
    for row in section.lines().filter_map(|line| line.strip_prefix("| ")) {
        let number = format!("{}. ", steps.len() + 1);
        let Some(row) = row.strip_prefix(&number) else { continue };
        let step = row.split(" | ").next().unwrap_or_default();
        let quoted = step.split('`').skip(1).step_by(2);
        steps.push(
            quoted
                .filter(|text| text.starts_with("kubectl "))
                .map(str::to_owned)
                .collect(),
        );
    }
    ensure!(steps.len() > 4, "the guide has {} steps of {title:?}", steps.len());
    Ok(steps)
}

/// Whom each step is measured by.
struct Watchers {
    knows: Client,
    asks: Client,
    router: Router,
    address: IpAddr,
}

/// What a step has cost.
#[derive(Debug)]
struct Gaps {
    /// For how long nobody answered the one who asks by ARP.
    asking: Duration,
    /// For how long the one behind the router had no answer.
    routed: Duration,
    /// How many of that one's questions were lost.
    lost: u64,
}

impl Watchers {
    /// Runs a step, in which the one who knows the address loses nothing.
    async fn during<T>(&self, step: &str, happens: impl Future<Output = Result<T>>) -> Result<(T, Gaps)> {
        let target = (self.address, UDP).into();
        let prober = asking(&self.knows, target).await?;
        let routed = asking(&self.router.client(), target).await?;
        let asker = self.asks.asker(self.address)?;
        let outcome = happens.await?;
        tokio::time::sleep(WATCHED).await;
        let asking = tokio::task::spawn_blocking(move || asker.stop()).await??;
        none_lost(&told(step, prober)).with_context(|| step.to_owned())?;
        eprintln!("    nobody answered ARP for {:.0} ms", asking.as_secs_f64() * 1000.0);
        let routed = told("  behind the router", routed);
        let gaps = Gaps {
            asking,
            routed: routed.longest_gap,
            lost: routed.lost,
        };
        Ok((outcome, gaps))
    }

    /// Waits until the router sends what is for the address to every node.
    async fn routed(&self, s: &Scene) -> Result<()> {
        let prefix = format!("{}/32", self.address);
        let patiently = async || self.router.forwards(s, &prefix, &all(s)).await;
        wait_until("the routes", METALLB_PATIENCE, patiently).await
    }

    /// A step that the guide promises to have no gap.
    async fn none<T>(&self, step: &str, happens: impl Future<Output = Result<T>>) -> Result<T> {
        let (outcome, gaps) = self.during(step, happens).await?;
        ensure!(gaps.asking < NONE && gaps.lost == 0, "{step}: {gaps:?}");
        Ok(outcome)
    }

    /// The change of speakers, which is the step that has one.
    async fn change<T>(&self, step: &str, most: Duration, happens: impl Future<Output = Result<T>>) -> Result<T> {
        let (outcome, gaps) = self.during(step, happens).await?;
        ensure!(gaps.asking < most && gaps.routed < most, "{step}: {gaps:?}");
        Ok(outcome)
    }
}

/// A cluster that MetalLB serves.
struct Cluster {
    s: Scene,
    shell: Shell,
    /// What users apply.
    manifest: String,
    watchers: Watchers,
    /// What it has given to the two Services.
    given: BTreeMap<String, IpAddr>,
}

impl Cluster {
    /// Installs MetalLB as its users do, and lets it give addresses to two Services, one of which clients ask.
    async fn with_metallb(s: Scene) -> Result<Self> {
        let metallb = Metallb::obtain(&mut |line| eprintln!("    {line}"))?;
        let shell = Shell::new(&s)?;
        // Whatever was here before.
        shell
            .run("kubectl delete --ignore-not-found -f deploy/manifests/ferrolb.yaml")
            .await?;
        s.import_metallb(&metallb).await?;
        shell.write("metallb-native.yaml", &metallb.manifest)?;
        shell.run("kubectl apply -f metallb-native.yaml").await?;
        let label = "app=metallb,component=speaker";
        s.wait_pods_ready(METALLB, label, s.nodes().len(), METALLB_PATIENCE)
            .await?;
        s.wait_pods_ready(METALLB, "app=metallb,component=controller", 1, METALLB_PATIENCE)
            .await?;
        let pool = of_metallb(METALLB, s.v4(100), s.v4(149));
        wait_until("its webhooks to let the pool in", METALLB_PATIENCE, async || {
            s.lab().apply(METALLB, &pool).await
        })
        .await?;
        let router = Router::start(&s, NODES, &[]).await?;
        s.lab().apply(METALLB, &by_bgp(&router.address())).await?;

        let pinned = format!("      nodeSelector: {{ kubernetes.io/hostname: {BACKENDS} }}\n");
        s.apply(&(deployment("web", 2) + &pinned)).await?;
        s.apply(&MANY_PORTS.replace("FAMILY", "IPv4")).await?;
        s.apply(&service("second", "web", "type: LoadBalancer")).await?;
        let address = s.addresses("web", 1).await?[0];
        s.addresses("second", 1).await?;
        s.ready("web", 2).await?;
        wait_until("its speaker to answer", METALLB_PATIENCE, async || {
            s.page(address, 80).await
        })
        .await?;
        let given = s.all_addresses().await?;
        let host = s.lab().add_host("newcomer", 199)?;
        let watchers = Watchers {
            knows: s.browser(),
            asks: Client::new(host.namespace()),
            router,
            address,
        };
        watchers.routed(&s).await?;
        Ok(Self {
            s,
            shell,
            manifest: metallb.manifest,
            watchers,
            given,
        })
    }

    /// Both Services have what MetalLB has given them.
    async fn addresses_are_kept(&self) -> Result<()> {
        let now = self.s.all_addresses().await?;
        ensure!(now == self.given, "the Services have {now:?}, and had {:?}", self.given);
        Ok(())
    }
}

/// In, and out again, with the same addresses.
pub(crate) async fn in_and_out(s: Scene) -> Result<()> {
    s.import_ferrolb().await?;
    let cluster = Cluster::with_metallb(s).await?;
    too_early(&cluster).await?;
    moved_in(&cluster).await?;
    moved_out(&cluster).await?;
    cluster
        .shell
        .run("kubectl delete --ignore-not-found --wait=false -f metallb-native.yaml")
        .await
        .map(drop)
}

/// Somebody applies FerroLB's manifest beside a MetalLB that works: FerroLB says so and waits, and MetalLB goes on.
async fn too_early(cluster: &Cluster) -> Result<()> {
    let Cluster { s, shell, watchers, .. } = cluster;
    let begins = async {
        let (code, said) = shell
            .line("kubectl apply --server-side --force-conflicts -f deploy/manifests/ferrolb.yaml")
            .await?;
        ensure!(
            code != Some(0) && said.contains("spec.conversion.webhookClientConfig"),
            "{code:?}: {said}"
        );
        wait_until("FerroLB's controller to say that it waits", PATIENCE, async || {
            let said = shell
                .run("kubectl -n ferrolb-system get events --field-selector reason=ferrolbNotReady")
                .await?;
            ensure!(said.contains("MetalLB"), "{said}");
            Ok(())
        })
        .await?;
        s.apply(&service("third", "web", "type: LoadBalancer")).await?;
        let third = s.addresses("third", 1).await?[0];
        let answer = s.who_answers(third).await?;
        ensure!(answer.len() <= 1, "{answer:?} answer for {third}");
        s.kubectl(&["delete", "service", "third"]).await?;
        let claims = shell.run("kubectl get virtualips -o name").await?;
        ensure!(claims.trim().is_empty(), "FerroLB has claimed {claims}");
        shell.run("kubectl delete namespace ferrolb-system").await
    };
    watchers.none("too early", begins).await?;
    cluster.addresses_are_kept().await
}

async fn moved_in(cluster: &Cluster) -> Result<()> {
    let Cluster { s, shell, watchers, .. } = cluster;
    let steps = steps("Moving in")?;
    let [check, objects, images, stop, webhook, conversion, change, look, rest] = &steps[..] else {
        bail!("the guide has {} steps for moving in", steps.len());
    };
    let looks_on = async {
        // A day of looking on takes seconds here.
        let lines = check
            .iter()
            .map(|line| line.replace("--for 24h", "--for 3s --every 1s"));
        shell.run_all(&lines.collect::<Vec<_>>()).await
    };
    let said = watchers.none("in 1, check and shadow", looks_on).await?;
    for line in [&stop[0], &webhook[0], &conversion[0], &change[0]] {
        ensure!(
            said.contains(line),
            "the guide says {line:?}, and the check does not: {said}"
        );
    }
    ensure!(said.contains("2 of 2 Services with an address keep it"), "{said}");
    watchers.none("in 2, objects", shell.run_all(objects)).await?;
    ensure!(images.is_empty(), "the images are there, and yet: {images:?}");
    watchers
        .none("in 4, MetalLB's controller stops", shell.run_all(stop))
        .await?;
    s.wait_pods_ready(METALLB, "app=metallb,component=controller", 0, PATIENCE)
        .await?;

    // The trap: nobody is there to ask.
    let touch =
        "kubectl -n metallb-system patch ipaddresspool old --type=merge -p '{\"spec\":{\"avoidBuggyIPs\":true}}'";
    let (code, said) = shell.line(touch).await?;
    ensure!(
        code != Some(0) && said.contains("metallb-webhook-service"),
        "{code:?}: {said}"
    );
    watchers.none("in 5, webhooks", shell.run_all(webhook)).await?;
    watchers.none("in 6, conversion", shell.run_all(conversion)).await?;

    let address = watchers.address;
    let changes = async {
        shell.run_all(change).await?;
        let owner = s.owner(address).await?;
        watchers.routed(s).await.map(|()| owner)
    };
    let owner = watchers.change("in 7, the change", CHANGE, changes).await?;
    s.answered_by(address, &owner).await?;
    cluster.addresses_are_kept().await?;
    shell
        .run("kubectl -n ferrolb-system rollout status daemonset/ferrolb-speaker deployment/ferrolb-controller")
        .await?;
    wait_until("everything to be well", PATIENCE, async || shell.run_all(look).await).await?;
    watchers.none("in 9, the rest of MetalLB", shell.run_all(rest)).await?;
    // FerroLB gives addresses, and none that is taken.
    s.fence().await?;
    cluster.addresses_are_kept().await
}

async fn moved_out(cluster: &Cluster) -> Result<()> {
    let Cluster { s, shell, watchers, .. } = cluster;
    let steps = steps("Moving out")?;
    let [objects, stop, back, controller, change, rest] = &steps[..] else {
        bail!("the guide has {} steps for moving out", steps.len());
    };
    watchers.none("out 1, objects", shell.run_all(objects)).await?;
    watchers
        .none("out 2, FerroLB's controller stops", shell.run_all(stop))
        .await?;
    // The namespace has stayed here.
    let (_, back) = back.split_first().context("no namespace is made")?;
    watchers.none("out 3, objects back", shell.run_all(back)).await?;
    ensure!(controller.is_empty(), "MetalLB's manifest is not ours: {controller:?}");
    let is_speaker = |object: &&str| object.contains("\nkind: DaemonSet\n");
    let (speaker, others): (Vec<&str>, Vec<&str>) = cluster.manifest.split("\n---\n").partition(is_speaker);
    shell.write("metallb-controller.yaml", &others.join("\n---\n"))?;
    shell.write("metallb-speaker.yaml", &speaker.join("\n---\n"))?;
    let begins = async {
        shell.run("kubectl apply -f metallb-controller.yaml").await?;
        s.wait_pods_ready(METALLB, "app=metallb,component=controller", 1, METALLB_PATIENCE)
            .await
    };
    watchers.none("out 4, MetalLB's controller", begins).await?;
    cluster.addresses_are_kept().await?;
    let address = watchers.address;
    let changes = async {
        shell.run_all(change).await?;
        shell.run("kubectl apply -f metallb-speaker.yaml").await?;
        let label = "app=metallb,component=speaker";
        s.wait_pods_ready(METALLB, label, s.nodes().len(), METALLB_PATIENCE)
            .await?;
        wait_until("one speaker to answer", METALLB_PATIENCE, async || {
            let answer = s.who_answers(address).await?;
            ensure!(answer.len() == 1, "{answer:?} answer");
            Ok(())
        })
        .await?;
        watchers.routed(s).await
    };
    watchers.change("out 5, the change", METALLB_PATIENCE, changes).await?;
    watchers.none("out 6, the rest of FerroLB", shell.run_all(rest)).await?;
    let pools = s
        .lab()
        .kubectl(&["-n", METALLB, "get", "ipaddresspools", "-o", "name"])
        .await?;
    ensure!(pools.contains("/old"), "MetalLB has the pools {pools}");
    let left = s
        .lab()
        .kubectl(&["get", "crd,namespaces,clusterroles,clusterrolebindings", "-o", "name"])
        .await?;
    let left: Vec<&str> = left.lines().filter(|name| name.contains("ferrolb")).collect();
    let left: Vec<&&str> = left.iter().filter(|name| !name.ends_with(s.namespace())).collect();
    ensure!(left.is_empty(), "FerroLB has left {left:?}");
    cluster.addresses_are_kept().await
}
