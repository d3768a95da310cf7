//! `kubectl ferrolb`, asked about a real cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use ferrolb_lab::lab::NAMESPACE;
use ferrolb_lab::wait_until;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

use crate::manifests::{advertisement, deployment, pool, service};
use crate::scene::{PATIENCE, Scene};

const PLUGIN: &str = "kubectl-ferrolb";

/// What the plugin printed, and its exit code.
struct Told {
    text: String,
    code: Option<i32>,
}

fn plugin(s: &Scene, args: &[&str]) -> Result<Command> {
    let mut command = Command::new(s.binary(PLUGIN)?);
    command
        .arg("--kubeconfig")
        .arg(s.kubeconfig())
        .args(["-n", s.namespace()])
        .args(args);
    Ok(command)
}

async fn ask(s: &Scene, args: &[&str]) -> Result<Told> {
    let output = plugin(s, args)?.output().await?;
    let both = [output.stdout, output.stderr].concat();
    Ok(Told {
        text: String::from_utf8_lossy(&both).into_owned(),
        code: output.status.code(),
    })
}

/// Asks until the answer has this exit code and contains `part`.
pub(crate) async fn told(s: &Scene, args: &[&str], code: i32, part: &str) -> Result<String> {
    wait_until(&format!("{args:?} to tell {part:?}"), PATIENCE, async || {
        let told = ask(s, args).await?;
        ensure!(
            told.code == Some(code) && told.text.contains(part),
            "{:?}: {}",
            told.code,
            told.text
        );
        Ok(told.text)
    })
    .await
}

/// A Service that works says so with its node; one for which no address is left names the pool, and one that no pool
/// admits each pool.
pub(crate) async fn why(s: Scene) -> Result<()> {
    s.apply(&service("early", "web", "type: LoadBalancer")).await?;
    told(&s, &["why", "early"], 1, "No").await?;
    let (tiny, only) = (format!("{}-tiny", s.namespace()), s.v4(170));
    s.apply_config(&pool(&tiny, s.namespace(), &[&format!("{only}-{only}")]))
        .await?;
    s.addresses("early", 1).await?;
    s.apply(&service("late", "web", "type: LoadBalancer")).await?;
    let text = told(&s, &["why", "late"], 1, "does not work: pools: PoolExhausted").await?;
    ensure!(text.contains(&tiny), "no pool is named: {text}");
    s.event("late", "AllocationFailed", "PoolExhausted").await?;
    told(&s, &["why", "late"], 1, "AllocationFailed: PoolExhausted").await?;

    s.apply_config(&s.pool()).await?;
    s.apply(&deployment("web", 2)).await?;
    s.ready("web", 2).await?;
    let address = s.addresses("late", 1).await?[0];
    let owner = s.owner(address).await?;
    let text = told(&s, &["explain", "late"], 0, "works: ").await?;
    ensure!(
        text.contains(&format!("{address} is announced by {owner}")),
        "{address} of {owner} is not in {text}"
    );
    let json = told(&s, &["why", "late", "-o", "json"], 0, "steps").await?;
    let json = serde_json::from_str::<Value>(&json)?;
    ensure!(json["works"] == true, "{json}");
    told(&s, &["why", "nobody"], 2, "there is no Service").await?;
    told(&s, &["status", "-o", "yaml"], 1, &tiny).await?;
    Ok(())
}

/// An address moves when it is asked for, and the plugin waits for the announcement; a node that is none is refused.
pub(crate) async fn moves(s: Scene) -> Result<()> {
    s.apply(&deployment("web", 2)).await?;
    s.ready("web", 2).await?;
    let address = s
        .apply_and_address("web", &service("web", "web", "type: LoadBalancer"))
        .await?;
    let owner = s.owner(address).await?;
    let standbys = s.placement(address).await?.standbys;
    let heir = standbys.first().context("no standby")?;
    let moved = ask(&s, &["move", "web", "--to", heir]).await?;
    ensure!(
        moved.code == Some(0) && moved.text.contains(&format!("{address} moved from {owner} to {heir}")),
        "{:?}: {}",
        moved.code,
        moved.text
    );
    s.answered_by(address, heir).await?;
    let back = ask(&s, &["move", &address.to_string(), "--to", &owner]).await?;
    ensure!(back.code == Some(0), "{}", back.text);
    let refused = ask(&s, &["move", "web", "--to", "nowhere"]).await?;
    ensure!(
        refused.code == Some(1) && refused.text.contains("CannotMove"),
        "{:?}: {}",
        refused.code,
        refused.text
    );
    Ok(())
}

/// Three addresses on one node: two of them go to the other nodes when it is asked for, and no third.
pub(crate) async fn rebalances(s: Scene) -> Result<()> {
    s.apply(&deployment("web", 2)).await?;
    s.ready("web", 2).await?;
    let full = s.nodes()[0].name().to_owned();
    let mut addresses = Vec::new();
    for name in ["one", "two", "three"] {
        let address = s
            .apply_and_address(name, &service(name, "web", "type: LoadBalancer"))
            .await?;
        if s.owner(address).await? != full {
            told(&s, &["move", name, "--to", &full], 0, "which announces it").await?;
        }
        addresses.push(address);
    }
    told(&s, &["rebalance", "2"], 0, "moved 2 addresses, as many as it may").await?;
    let mut owners = BTreeSet::new();
    for address in addresses {
        owners.insert(s.owner(address).await?);
    }
    ensure!(owners.len() == 3, "the owners are {owners:?}");
    told(&s, &["rebalance", "2"], 0, "no other move makes the spread more even")
        .await
        .map(drop)
}

/// A pool that has shrunk under a Service: the Service leaves when it is asked for, and the plugin waits for that.
pub(crate) async fn renumbers(s: Scene) -> Result<()> {
    let name = format!("{}-shrinks", s.namespace());
    let range = |from, to| pool(&name, s.namespace(), &[&format!("{}-{}", s.v4(from), s.v4(to))]);
    s.apply(&deployment("web", 1)).await?;
    s.ready("web", 1).await?;
    s.apply_config(&range(180, 181)).await?;
    s.apply_config(&advertisement(std::slice::from_ref(&name))).await?;
    let old = s
        .apply_and_address("web", &service("web", "web", "type: LoadBalancer"))
        .await?;
    s.apply_config(&range(184, 185)).await?;
    s.event("web", "PoolChanged", &old.to_string()).await?;
    let late = ask(&s, &["renumber", &name, "--timeout", "1s"]).await?;
    ensure!(
        late.code == Some(1) && late.text.contains(&format!("{old}: ")),
        "{:?}: {}",
        late.code,
        late.text
    );
    let done = ask(&s, &["renumber", &name]).await?;
    ensure!(
        done.code == Some(0) && done.text.contains("no Service has an address"),
        "{:?}: {}",
        done.code,
        done.text
    );
    let now = s.addresses("web", 1).await?;
    ensure!(now == [IpAddr::V4(s.v4(184))], "web has {now:?}");
    s.page(now[0], 80).await?;
    told(&s, &["renumber", "nobody"], 2, "there is no IPAddressPool")
        .await
        .map(drop)
}

/// The pool of a MetalLB in its own namespace, and that it is announced.
pub(crate) fn of_metallb(namespace: &str, low: Ipv4Addr, high: Ipv4Addr) -> String {
    format!(
        r#"apiVersion: metallb.io/v1beta1
kind: IPAddressPool
metadata: {{name: old, namespace: {namespace}}}
spec: {{addresses: ["{low}-{high}"]}}
---
apiVersion: metallb.io/v1beta1
kind: L2Advertisement
metadata: {{name: old, namespace: {namespace}}}
"#
    )
}

/// A cluster with MetalLB's objects: who keeps its address, the webhook that has to go, and the objects for the move.
pub(crate) async fn migrate_check(s: Scene) -> Result<()> {
    let (metallb, [low, high]) = (format!("{}-metallb", s.namespace()), [180, 189].map(|n| s.v4(n)));
    let hook = format!("{metallb}-hook");
    s.lab().kubectl(&["create", "namespace", &metallb]).await?;
    s.lab().apply(&metallb, &of_metallb(&metallb, low, high)).await?;
    s.lab()
        .apply(
            &metallb,
            &format!(
                r#"apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingWebhookConfiguration
metadata: {{name: {hook}}}
webhooks:
  - name: ipaddresspoolvalidationwebhook.metallb.io
    failurePolicy: Fail
    sideEffects: None
    admissionReviewVersions: [v1]
    namespaceSelector: {{matchLabels: {{kubernetes.io/metadata.name: {metallb}}}}}
    rules: [{{apiGroups: [metallb.io], apiVersions: [v1beta1], operations: [UPDATE], resources: [ipaddresspools]}}]
    clientConfig: {{service: {{name: metallb-webhook-service, namespace: {metallb}, path: /validate}}}}
"#
            ),
        )
        .await?;
    let checked = check(&s, &metallb, &hook, low.into()).await;
    s.lab()
        .kubectl(&["delete", "validatingwebhookconfiguration", &hook])
        .await?;
    checked?;
    s.lab()
        .kubectl(&["delete", "namespace", &metallb, "--wait=false"])
        .await
        .map(drop)
}

async fn check(s: &Scene, metallb: &str, hook: &str, held: IpAddr) -> Result<()> {
    // Of another class, so that the FerroLB of the lab leaves the Service alone.
    let class = "lab.example/moving";
    let spec = format!("type: LoadBalancer\nloadBalancerClass: {class}");
    s.apply(&service("moving", "web", &spec)).await?;
    s.write_status("moving", held).await?;
    let args = [
        "--load-balancer-class",
        class,
        "migrate",
        "--metallb-namespace",
        metallb,
    ];
    let checked = ask(s, &[&args[..], &["check", "-o", "json"]].concat()).await?;
    let (text, code) = (checked.text, checked.code);
    let report = serde_json::from_str::<Value>(&text).with_context(|| text.clone())?;
    // What earlier scenarios have left is of another class, and so differs.
    ensure!(
        code == Some(i32::from(report["differs"] == true)),
        "exit code {code:?} of {text}"
    );
    let name = format!("{}/moving", s.namespace());
    let services = report["services"].as_array().context("no services")?;
    let moving = services.iter().find(|o| o["service"] == *name);
    let moving = moving.with_context(|| format!("{name} is not in {text}"))?;
    ensure!(
        moving["outcome"] == "same" && moving["then"][0] == held.to_string(),
        "{moving}"
    );
    ensure!(report["found"]["webhooks"][0] == *hook, "{}", report["found"]);
    let commands = report["procedure"].to_string();
    ensure!(
        commands.contains(&format!("kubectl delete validatingwebhookconfiguration {hook}")),
        "{commands}"
    );
    let objects = told(s, &[&args[..], &["objects"]].concat(), 0, "kind: IPAddressPool").await?;
    ensure!(
        objects.contains("namespace: ferrolb-system") && !objects.contains("resourceVersion"),
        "{objects}"
    );
    Ok(())
}

/// A shadow beside what stands for MetalLB: it tells what will become of each Service and follows what happens, nothing
/// is written meanwhile, and FerroLB, let loose, gives the very addresses.
pub(crate) async fn migrate_shadow(s: Scene) -> Result<()> {
    let metallb = format!("{}-metallb", s.namespace());
    s.controller().kill();
    let told = shadowed(&s, &metallb).await;
    s.controller().restart()?;
    let foretold = told?;
    let objects = ask(&s, &["migrate", "--metallb-namespace", &metallb, "objects"]).await?;
    s.apply_config(&objects.text).await?;
    let kept = keeps_its_word(&s, &foretold).await;
    s.lab().delete(NAMESPACE, &objects.text).await?;
    s.lab()
        .kubectl(&["delete", "namespace", &metallb, "--wait=false"])
        .await?;
    kept
}

/// What is told of each Service in the end.
async fn shadowed(s: &Scene, metallb: &str) -> Result<BTreeMap<String, Vec<IpAddr>>> {
    let [low, high, held, late] = [180, 189, 182, 187].map(|n| s.v4(n));
    s.lab().kubectl(&["create", "namespace", metallb]).await?;
    s.lab().apply(metallb, &of_metallb(metallb, low, high)).await?;
    let outside = IpAddr::V4(Ipv4Addr::new(10, 88, 1, 1));
    let node = s.nodes()[0].host().addresses();
    let node = *node
        .iter()
        .find(|a| a.is_ipv4())
        .context("a node has no IPv4 address")?;
    for (name, address) in [("held", held.into()), ("outside", outside), ("of-node", node)] {
        s.apply(&service(name, "web", "type: LoadBalancer")).await?;
        s.write_status(name, address).await?;
    }
    s.apply(&service("waits", "web", "type: LoadBalancer")).await?;

    let before = versions(s, metallb).await?;
    let args = [
        "migrate",
        "--metallb-namespace",
        metallb,
        "shadow",
        "--every",
        "1s",
        "-o",
        "json",
    ];
    let mut shadow = Watched::start(plugin(s, &args)?)?;
    let waits = shadow.until(s, "waits", "gains").await?;
    let of_node = shadow.until(s, "of-node", "changes").await?;
    ensure!(of_node["reason"] == "AddressOfNode", "{of_node}");
    let kept = shadow.until(s, "outside", "kept").await?;
    ensure!(kept["reason"] == "PoolChanged", "{kept}");
    let during = versions(s, metallb).await?;
    ensure!(before == during, "something was written: {before:?}, {during:?}");
    // What MetalLB does meanwhile is followed.
    s.apply(&service("late", "web", "type: LoadBalancer")).await?;
    shadow.until(s, "late", "gains").await?;
    s.write_status("late", late.into()).await?;
    let same = shadow.until(s, "late", "same").await?;
    let code = shadow.stop().await?;
    ensure!(code == Some(1), "something differs, and the exit code is {code:?}");
    let mut after = versions(s, metallb).await?;
    after.retain(|name, _| before.contains_key(name));
    ensure!(before == after, "something was written: {before:?}, {after:?}");

    let addresses = |of: &Value| anyhow::Ok(serde_json::from_value::<Vec<IpAddr>>(of["then"].clone())?);
    let mut foretold = BTreeMap::from([("held".to_owned(), vec![held.into()])]);
    for (name, of) in [
        ("waits", waits),
        ("of-node", of_node),
        ("outside", kept),
        ("late", same),
    ] {
        foretold.insert(name.to_owned(), addresses(&of)?);
    }
    Ok(foretold)
}

/// The version of each Service of the scenario and of MetalLB's objects, and which VirtualIPs there are: speakers still
/// write the status of those of earlier scenarios.
async fn versions(s: &Scene, metallb: &str) -> Result<BTreeMap<String, String>> {
    let named = "{.kind}/{.metadata.name}";
    let mut versions = BTreeMap::new();
    for (namespace, kinds, version) in [
        (s.namespace(), "services", "{.metadata.resourceVersion}"),
        (
            metallb,
            "ipaddresspools,l2advertisements",
            "{.metadata.resourceVersion}",
        ),
        (NAMESPACE, "virtualips", ""),
    ] {
        let path = format!("jsonpath={{range .items[*]}}{named} {version}{{\"\\n\"}}{{end}}");
        let text = s.lab().kubectl(&["-n", namespace, "get", kinds, "-o", &path]).await?;
        let lines = text.lines().filter_map(|line| line.split_once(' '));
        versions.extend(lines.map(|(name, version)| (name.to_owned(), version.to_owned())));
    }
    Ok(versions)
}

/// Every Service has what was foretold.
async fn keeps_its_word(s: &Scene, foretold: &BTreeMap<String, Vec<IpAddr>>) -> Result<()> {
    for (name, addresses) in foretold {
        wait_until(&format!("{name} to have {addresses:?}"), PATIENCE, async || {
            let now = s.external_ips(s.namespace(), name).await?;
            ensure!(now == *addresses, "it has {now:?}");
            let claims = &s.json(&format!("vip/{}", addresses[0])).await?["spec"]["claims"];
            ensure!(claims[0]["name"] == **name, "{} is claimed by {claims}", addresses[0]);
            Ok(())
        })
        .await?;
    }
    Ok(())
}

/// A plugin that goes on, and what it has told of each Service last.
struct Watched {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    told: BTreeMap<String, Value>,
}

impl Watched {
    fn start(mut command: Command) -> Result<Self> {
        let mut child = command.stdout(Stdio::piped()).kill_on_drop(true).spawn()?;
        let lines = BufReader::new(child.stdout.take().context("no output")?).lines();
        Ok(Watched {
            child,
            lines,
            told: BTreeMap::new(),
        })
    }

    /// Reads until this outcome is told of the Service.
    async fn until(&mut self, s: &Scene, service: &str, outcome: &str) -> Result<Value> {
        let name = format!("{}/{service}", s.namespace());
        let reading = timeout(PATIENCE, async {
            loop {
                if let Some(change) = self.told.get(&name).filter(|change| change["outcome"] == outcome) {
                    return anyhow::Ok(change.clone());
                }
                let line = self.lines.next_line().await?.context("it has ended")?;
                let change = serde_json::from_str::<Value>(&line)?;
                if change["change"] == "service" {
                    let of = change["service"].as_str().unwrap_or_default().to_owned();
                    self.told.insert(of, change);
                }
            }
        });
        let told = reading.await;
        told.with_context(|| format!("{outcome} is not told of {service}, but {:?}", self.told))?
    }

    /// Ends it as Ctrl-C does.
    async fn stop(mut self) -> Result<Option<i32>> {
        let pid = self.child.id().context("it has ended")?;
        kill(Pid::from_raw(pid.try_into()?), Signal::SIGINT)?;
        Ok(timeout(PATIENCE, self.child.wait()).await??.code())
    }
}
