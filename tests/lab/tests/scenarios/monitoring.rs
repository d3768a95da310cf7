//! A real Prometheus that scrapes the programs, with the alerts loaded: every query of the dashboard and of the alerts is
//! answered, by metrics that the programs really have.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use ferrolb_lab::lab::{ADMIN_PORT, NAMESPACE};
use ferrolb_lab::process::{Process, Spec};
use ferrolb_lab::wait_until;
use serde_json::{Value, json};

use crate::bgp::{Told, all, web};
use crate::manifests::{advertisement, annotated};
use crate::router::Router;
use crate::scene::Scene;

const DASHBOARD: &str = include_str!("../../../../deploy/components/prometheus/dashboard.json");
const ALERTS: &str = include_str!("../../../../deploy/components/prometheus/alerts.yaml");

/// Where Prometheus listens on the client's host.
const PORT: u16 = 9090;
const ASN: u32 = 64600;
/// What it may take to start, to scrape everything twice and to look at every alert.
const STARTED: Duration = Duration::from_secs(30);

/// Of these a cluster in which nothing fails has no series yet, or none at all.
const OF_FAILURES: [&str; 7] = [
    "ferrolb_takeover_seconds",
    "ferrolb_releases_total",
    "ferrolb_speaker_withheld",
    "ferrolb_bgp_withheld",
    "ferrolb_conflicts_total",
    "ferrolb_l2_defences_total",
    "metallb_bgp_notifications_sent",
];

/// A query of Grafana as it asks Prometheus, for all nodes.
fn asked(query: &str) -> String {
    let range = |text: String, name: &str| text.replace(name, "30s");
    let query = range(range(query.to_owned(), "$__rate_interval"), "$__range");
    match query
        .strip_prefix("label_values(")
        .and_then(|rest| rest.split_once(','))
    {
        Some((metric, _)) => metric.to_owned(),
        None => query.replace("$node", ".*"),
    }
}

/// The queries of all panels, the filters of the dashboard among them.
fn of_dashboard() -> Result<Vec<String>> {
    let dashboard: Value = serde_json::from_str(DASHBOARD)?;
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let panels = list(&dashboard["panels"]);
    let targets = panels.iter().flat_map(|panel| list(&panel["targets"]));
    let filters = list(&dashboard["templating"]["list"]);
    let filters = filters.iter().filter(|filter| filter["type"] == "query");
    let queries = targets.map(|target| target["expr"].clone());
    let queries = queries.chain(filters.map(|filter| filter["query"].clone()));
    let queries: Vec<String> = queries.filter_map(|query| Some(asked(query.as_str()?))).collect();
    ensure!(queries.len() > 25, "the dashboard has {} queries", queries.len());
    Ok(queries)
}

/// A Prometheus at work. Dropping it ends it.
struct Prometheus {
    s: Scene,
    process: Process,
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        self.process.kill();
    }
}

impl Prometheus {
    fn start(s: &Scene) -> Result<Self> {
        let folder = s.run_dir().join("prometheus");
        fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
        let alerts: Value = serde_saphyr::from_str(ALERTS)?;
        fs::write(folder.join("alerts.yaml"), alerts["spec"].to_string())?;
        let target = |address| SocketAddr::new(address, ADMIN_PORT).to_string();
        let speakers = s.nodes().iter().map(|node| {
            let labels = json!({"pod": format!("speaker-{}", node.name()), "container": "speaker"});
            json!({"targets": [target(node.host().address())], "labels": labels})
        });
        let controller = json!({"targets": [target(s.control_plane().address())],
            "labels": {"pod": "controller", "container": "controller"}});
        // JSON is YAML.
        let config = json!({
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": ["alerts.yaml"],
            "scrape_configs": [{
                "job_name": "ferrolb-system/ferrolb",
                "static_configs": speakers.chain([controller]).collect::<Vec<_>>(),
            }],
        });
        fs::write(folder.join("prometheus.yaml"), config.to_string())?;
        let flag = |name: &str, value: String| format!("--{name}={value}");
        let spec = Spec::new("prometheus", "/usr/bin/prometheus", s.log_dir().join("prometheus.log"))
            .namespace(s.client_host().namespace())
            .args([
                flag("config.file", folder.join("prometheus.yaml").display().to_string()),
                flag("storage.tsdb.path", folder.join("data").display().to_string()),
                flag("web.listen-address", format!("[::1]:{PORT}")),
            ]);
        let process = Process::start(spec).context("Prometheus comes with Debian's package prometheus")?;
        Ok(Self { s: s.clone(), process })
    }

    async fn get(&self, path: &str) -> Result<Value> {
        ensure!(self.process.is_alive(), "it has ended: {}", self.process.log_tail(5));
        let (status, body) = self.s.admin(self.s.client_host(), PORT, path).await?;
        let answer: Value = serde_json::from_str(&body).with_context(|| format!("{status} {body}"))?;
        ensure!(answer["status"] == "success", "{path}: {answer}");
        Ok(answer["data"].clone())
    }

    async fn query(&self, query: &str) -> Result<Vec<Value>> {
        let encoded: String = query.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let data = self.get(&format!("/api/v1/query?query={encoded}")).await?;
        Ok(data["result"].as_array().cloned().unwrap_or_default())
    }
}

/// The names of ours in a query.
fn names(query: &str) -> impl Iterator<Item = &str> {
    query
        .split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .filter(|word| word.starts_with("metallb_") || word.starts_with("ferrolb_"))
}

/// With a Service that is announced at layer 2 and told to a router, with BFD, and one that gets no address: all programs are scraped, every
/// query names metrics that are there, and has an answer unless it asks for failures; no alert is wrong, and none
/// fires yet that calls for somebody.
pub(crate) async fn dashboard_and_alerts(s: Scene) -> Result<()> {
    let router = Router::start(&s, ASN, &["neighbor @ timers 60 180", "neighbor @ bfd 3 100 100"]).await?;
    let profile = format!(
        "apiVersion: metallb.io/v1beta1\nkind: BFDProfile\nmetadata: {{name: watched, namespace: {NAMESPACE}}}\n\
         spec: {{receiveInterval: 100, transmitInterval: 100}}\n"
    );
    s.apply_config(&profile).await?;
    let mut told = Told::new(&s, ASN);
    told.peer = "bfdProfile: watched\nholdTime: 180s".to_owned();
    told.apply(&s, &router).await?;
    let by_arp = advertisement(&[s.namespace().to_owned()]);
    s.apply_config(&by_arp).await?;
    let address = web(&s, 1, "type: LoadBalancer").await?;
    router.forwards(&s, &format!("{address}/32"), &all(&s)).await?;
    s.owner(address).await?;
    s.page(address, 80).await?;
    // And one that waits.
    let waits = annotated("waits", "web", "metallb.io/address-pool: nobody", "type: LoadBalancer");
    s.apply(&waits).await?;
    s.refused("waits", "nobody").await?;
    let answered = looked_at(&s).await;
    told.delete(&s, &router).await?;
    s.lab().delete(NAMESPACE, &(profile + "---\n" + &by_arp)).await?;
    answered
}

async fn looked_at(s: &Scene) -> Result<()> {
    let prometheus = Prometheus::start(s)?;
    let programs = s.nodes().len() + 1;
    wait_until("Prometheus to have scraped all programs", STARTED, async || {
        let up = prometheus.query("count_over_time(up[10s]) > 3 and up == 1").await?;
        ensure!(up.len() == programs, "{} of {programs}: {up:?}", up.len());
        Ok(())
    })
    .await?;
    let known = prometheus.get("/api/v1/metadata").await?;
    let known: BTreeSet<&str> = known
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, _)| &**name)
        .collect();
    let is_known = |name: &str| {
        let parts = ["", "_total", "_bucket", "_sum", "_count"];
        parts
            .iter()
            .any(|part| name.strip_suffix(part).is_some_and(|name| known.contains(name)))
    };
    for query in of_dashboard()? {
        let unknown = names(&query).find(|name| !is_known(name));
        ensure!(unknown.is_none(), "no program has {unknown:?} of {query}: {known:?}");
        let answer = prometheus.query(&query).await?;
        let of_failures = names(&query).any(|name| OF_FAILURES.iter().any(|of| name.starts_with(of)));
        ensure!(!answer.is_empty() || of_failures, "nothing answers {query}");
    }
    wait_until("every alert to be looked at", STARTED, async || {
        let groups = prometheus.get("/api/v1/rules").await?;
        let rules = groups["groups"][0]["rules"].as_array().cloned().unwrap_or_default();
        ensure!(rules.len() > 15, "{} alerts: {groups}", rules.len());
        for rule in &rules {
            let query = rule["query"].as_str().unwrap_or_default();
            ensure!(rule["health"] == "ok", "{rule}");
            let unknown = names(query).find(|name| !is_known(name));
            ensure!(unknown.is_none(), "no program has {unknown:?} of {query}");
            let fires = rule["state"] == "firing" && rule["labels"]["severity"] != "info";
            ensure!(
                !fires,
                "nothing is wrong, and {} is {}: {rule}",
                rule["name"],
                rule["state"]
            );
        }
        Ok(())
    })
    .await?;
    Ok(())
}
