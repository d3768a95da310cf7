//! The procedures of `docs/src/migration.md`, as they stand there, on real nodes: in from MetalLB and back out, under a
//! client that knows the address and one that asks for it all the time.
//!
//! MetalLB itself does not run here. There are its objects, its webhooks with nobody behind them, and pods by the names of
//! its workloads, of which the speaker's keep its port on the node; a node that has the address on its interface
//! answers as MetalLB's speaker would.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use ferrolb_lab::client::Client;
use ferrolb_lab::{Node, wait_until};

use crate::cli::of_metallb;
use crate::failover::{MANY_PORTS, UDP, asking, none_lost, told};
use crate::manifests::{deployment, service};
use crate::scene::{PATIENCE, Scene};
use crate::shell::Shell;

const GUIDE: &str = include_str!("../../../../docs/src/migration.md");

const METALLB: &str = "metallb-system";
/// Where its pods are, and with them the pods of the Service.
const ANNOUNCES: &str = "node-1";
const BACKENDS: &str = "node-4";

/// In a step without a gap nobody waits longer for an answer; the bound is that of a busy machine.
const NONE: Duration = Duration::from_millis(500);
/// What the change of speakers may take on a busy machine.
const CHANGE: Duration = Duration::from_secs(20);
/// How long a step is watched.
const WATCHED: Duration = Duration::from_secs(1);

/// Its workloads, as its manifest names them.
const CONTROLLER: &str = r#"apiVersion: apps/v1
kind: Deployment
metadata: { name: controller, namespace: metallb-system, labels: { app: metallb, component: controller } }
spec:
  selector: { matchLabels: { app: metallb, component: controller } }
  template:
    metadata: { labels: { app: metallb, component: controller } }
    spec:
      terminationGracePeriodSeconds: 0
      containers:
        - { name: controller, image: "ferrolb.lab/web:1", args: [--http, "7472"] }
"#;
const SPEAKER: &str = r#"apiVersion: apps/v1
kind: DaemonSet
metadata: { name: speaker, namespace: metallb-system, labels: { app: metallb, component: speaker } }
spec:
  selector: { matchLabels: { app: metallb, component: speaker } }
  template:
    metadata: { labels: { app: metallb, component: speaker } }
    spec:
      hostNetwork: true
      terminationGracePeriodSeconds: 2
      tolerations: [{ operator: Exists }]
      containers:
        - name: speaker
          image: ferrolb.lab/web:1
          args: [--http, "7472"]
          readinessProbe: { httpGet: { path: /healthz, port: 7472 }, periodSeconds: 1 }
"#;
/// What its webhooks ask, and nobody answers.
const WEBHOOKS: &str = r#"apiVersion: v1
kind: Service
metadata: { name: metallb-webhook-service, namespace: metallb-system }
spec: { selector: { component: controller }, ports: [{ port: 443, targetPort: 9443 }] }
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingWebhookConfiguration
metadata: { name: metallb-webhook-configuration }
webhooks:
  - name: ipaddresspoolvalidationwebhook.metallb.io
    failurePolicy: Fail
    sideEffects: None
    timeoutSeconds: 2
    admissionReviewVersions: [v1]
    rules: [{ apiGroups: [metallb.io], apiVersions: [v1beta1], operations: [CREATE, UPDATE], resources: [ipaddresspools] }]
    clientConfig: { service: { name: metallb-webhook-service, namespace: metallb-system, path: /validate } }
"#;
const CONVERSION: &str = r#"{"spec":{"conversion":{"strategy":"Webhook","webhook":{
    "conversionReviewVersions":["v1beta1","v1beta2"],
    "clientConfig":{"service":{"namespace":"metallb-system","name":"metallb-webhook-service","path":"/convert"}}}}}}"#;

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
    address: IpAddr,
}

impl Watchers {
    /// Runs a step, in which the one who knows the address loses nothing; for how long nobody answered the one who asks.
    async fn during<T>(&self, step: &str, happens: impl Future<Output = Result<T>>) -> Result<(T, Duration)> {
        let prober = asking(&self.knows, (self.address, UDP).into()).await?;
        let asker = self.asks.asker(self.address)?;
        let outcome = happens.await?;
        tokio::time::sleep(WATCHED).await;
        let silence = tokio::task::spawn_blocking(move || asker.stop()).await??;
        none_lost(&told(step, prober)).with_context(|| step.to_owned())?;
        eprintln!("    nobody answered ARP for {:.0} ms", silence.as_secs_f64() * 1000.0);
        Ok((outcome, silence))
    }

    /// A step that the guide promises to have no gap.
    async fn none<T>(&self, step: &str, happens: impl Future<Output = Result<T>>) -> Result<T> {
        let (outcome, silence) = self.during(step, happens).await?;
        ensure!(silence < NONE, "{step}: nobody answered for {silence:?}");
        Ok(outcome)
    }
}

/// Answers for the address as MetalLB's speaker does, by having it.
fn announce(node: &Node, address: IpAddr, verb: &str) -> Result<()> {
    node.host()
        .namespace()
        .ip(&format!("addr {verb} {address}/32 dev eth0\n"))
}

/// A cluster that MetalLB serves: two Services have addresses, one of which clients ask.
async fn metallb(s: &Scene, shell: &Shell) -> Result<Watchers> {
    // Whatever was here before.
    let lines = [
        "kubectl delete --ignore-not-found -f deploy/manifests/ferrolb.yaml",
        "kubectl apply --server-side -k deploy/crds",
        "kubectl wait --for=condition=Established --timeout=20s crd --all",
        "kubectl create namespace metallb-system",
    ];
    shell.run_all(&lines.map(str::to_owned)).await?;
    let [low, high, first, second] = [100, 149, 120, 121].map(|n| s.v4(n));
    s.lab().apply(METALLB, &of_metallb(METALLB, low, high)).await?;
    s.lab()
        .apply(METALLB, &format!("{CONTROLLER}---\n{SPEAKER}---\n{WEBHOOKS}"))
        .await?;
    let patch = ["patch", "crd", "bgppeers.metallb.io", "--type=merge", "-p", CONVERSION];
    s.lab().kubectl(&patch).await?;

    let pinned = format!("      nodeSelector: {{ kubernetes.io/hostname: {BACKENDS} }}\n");
    s.apply(&(deployment("web", 2) + &pinned)).await?;
    s.apply(&MANY_PORTS.replace("FAMILY", "IPv4")).await?;
    s.apply(&service("second", "web", "type: LoadBalancer")).await?;
    s.write_status("web", first.into()).await?;
    s.write_status("second", second.into()).await?;
    announce(s.node(ANNOUNCES)?, first.into(), "add")?;
    s.ready("web", 2).await?;
    let label = "app=metallb,component=speaker";
    s.wait_pods_ready(METALLB, label, s.nodes().len(), PATIENCE).await?;
    s.page(first, 80).await?;
    let host = s.lab().add_host("newcomer", 199)?;
    Ok(Watchers {
        knows: s.browser(),
        asks: Client::new(host.namespace()),
        address: first.into(),
    })
}

/// Both Services have what MetalLB has given them.
async fn addresses_are_kept(s: &Scene) -> Result<()> {
    for (name, n) in [("web", 120), ("second", 121)] {
        let now = s.addresses(name, 1).await?;
        ensure!(now == [IpAddr::V4(s.v4(n))], "{name} has {now:?}");
    }
    Ok(())
}

/// In, and out again, with the same addresses.
pub(crate) async fn in_and_out(s: Scene) -> Result<()> {
    s.import_ferrolb().await?;
    let shell = Shell::new(&s)?;
    let watchers = metallb(&s, &shell).await?;
    moved_in(&s, &shell, &watchers).await?;
    moved_out(&s, &shell, &watchers).await?;
    announce(s.node(ANNOUNCES)?, watchers.address, "del")?;
    s.lab()
        .kubectl(&["delete", "namespace", METALLB, "--wait=false"])
        .await
        .map(drop)
}

async fn moved_in(s: &Scene, shell: &Shell, watchers: &Watchers) -> Result<()> {
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
        let (ends, begins) = change.split_first().context("no command for the change")?;
        shell.run(ends).await?;
        announce(s.node(ANNOUNCES)?, address, "del")?;
        shell.run_all(begins).await?;
        s.owner(address).await
    };
    let (owner, silence) = watchers.during("in 7, the change", changes).await?;
    ensure!(silence < CHANGE, "nobody answered for {silence:?}");
    s.answered_by(address, &owner).await?;
    addresses_are_kept(s).await?;
    shell
        .run("kubectl -n ferrolb-system rollout status daemonset/ferrolb-speaker deployment/ferrolb-controller")
        .await?;
    wait_until("everything to be well", PATIENCE, async || shell.run_all(look).await).await?;
    watchers.none("in 9, the rest of MetalLB", shell.run_all(rest)).await?;
    // FerroLB gives addresses, and none that is taken.
    s.fence().await?;
    addresses_are_kept(s).await
}

async fn moved_out(s: &Scene, shell: &Shell, watchers: &Watchers) -> Result<()> {
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
    let manifest = format!("{CONTROLLER}---\n{WEBHOOKS}");
    let begins = s.lab().apply(METALLB, &manifest);
    watchers.none("out 4, MetalLB's controller", begins).await?;
    addresses_are_kept(s).await?;
    let address = watchers.address;
    let changes = async {
        shell.run_all(change).await?;
        s.unanswered(address).await?;
        s.lab().apply(METALLB, SPEAKER).await?;
        announce(s.node(ANNOUNCES)?, address, "add")
    };
    watchers.during("out 5, the change", changes).await?;
    s.answered_by(address, ANNOUNCES).await?;
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
    addresses_are_kept(s).await
}
