//! `kubectl ferrolb`, asked about a real cluster.

use std::net::IpAddr;

use anyhow::{Context as _, Result, ensure};
use ferrolb_lab::wait_until;
use serde_json::Value;
use tokio::process::Command;

use crate::manifests::{deployment, pool, service};
use crate::scene::{PATIENCE, Scene};

const PLUGIN: &str = "kubectl-ferrolb";

/// What the plugin printed, and its exit code.
struct Told {
    text: String,
    code: Option<i32>,
}

async fn ask(s: &Scene, args: &[&str]) -> Result<Told> {
    let output = Command::new(s.binary(PLUGIN)?)
        .arg("--kubeconfig")
        .arg(s.kubeconfig())
        .args(["-n", s.namespace()])
        .args(args)
        .output()
        .await?;
    let both = [output.stdout, output.stderr].concat();
    Ok(Told {
        text: String::from_utf8_lossy(&both).into_owned(),
        code: output.status.code(),
    })
}

/// Asks until the answer has this exit code and contains `part`.
async fn told(s: &Scene, args: &[&str], code: i32, part: &str) -> Result<String> {
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

/// A cluster with MetalLB's objects: who keeps its address, the webhook that has to go, and the objects for the move.
pub(crate) async fn migrate_check(s: Scene) -> Result<()> {
    let (metallb, [low, high]) = (format!("{}-metallb", s.namespace()), [180, 189].map(|n| s.v4(n)));
    let hook = format!("{metallb}-hook");
    s.lab().kubectl(&["create", "namespace", &metallb]).await?;
    s.lab()
        .apply(
            &metallb,
            &format!(
                r#"apiVersion: metallb.io/v1beta1
kind: IPAddressPool
metadata: {{name: old, namespace: {metallb}}}
spec: {{addresses: ["{low}-{high}"]}}
---
apiVersion: metallb.io/v1beta1
kind: L2Advertisement
metadata: {{name: old, namespace: {metallb}}}
---
apiVersion: admissionregistration.k8s.io/v1
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
    let text = told(s, &[&args[..], &["check", "-o", "json"]].concat(), 1, "procedure").await?;
    let report = serde_json::from_str::<Value>(&text)?;
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
