//! Least privilege, rule by rule: a program that lacks a right is not ready, and its `/readyz` says which one; so every rule
//! that the manifest has is needed, and whoever runs it with fewer learns what is missing.
//!
//! The rules are read from the cluster, so that one that is added later is tried, too.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use ferrolb_lab::lab::NAMESPACE;
use ferrolb_lab::net::Host;
use ferrolb_lab::process::{Capabilities, Process};
use ferrolb_lab::{Program, wait_until};
use serde_json::{Value, json};

use crate::manifests::{deployment, service};
use crate::scene::{PATIENCE, Scene};
use crate::told::Teller;

/// How soon a program has to say what it lacks.
const SAID: Duration = Duration::from_secs(10);
const READS: [&str; 3] = ["get", "list", "watch"];
/// Rights to write that are not tried: events are for people, and that they cannot be written is no reason to be called not ready.
const EVENTS: &str = "events";
/// What a router was told. It is written when there is a router, so all that is tried is whether a speaker may delete it.
const OF_ROUTERS: &str = "servicebgpstatuses";
/// The keys of the heartbeats, which the controller makes and changes.
const KEYS: &str = "secret/ferrolb-liveness";

/// What a program is left with, and the words of which it must say one.
struct Case {
    rules: Vec<Value>,
    named: Vec<String>,
    /// What it may no longer do to change something; then something has to be changed before the right is missed.
    writes: Vec<String>,
}

/// Without each right in turn.
fn cases(rules: &[Value]) -> Result<Vec<Case>> {
    let mut cases = Vec::new();
    for (index, rule) in rules.iter().enumerate() {
        let list = |field: &str| -> Result<Vec<String>> {
            let all = rule[field].as_array();
            let all = all.with_context(|| format!("no {field} in {rule}"))?;
            Ok(all.iter().filter_map(Value::as_str).map(str::to_owned).collect())
        };
        let (resources, verbs) = (list("resources")?, list("verbs")?);
        let without = |field: &str, left: Vec<String>| {
            let mut rules = rules.to_vec();
            if left.is_empty() {
                rules.remove(index);
            } else {
                rules[index][field] = json!(left);
            }
            rules
        };
        if verbs.iter().any(|verb| verb == "list") {
            for resource in &resources {
                let left = resources.iter().filter(|other| *other != resource).cloned().collect();
                cases.push(Case {
                    rules: without("resources", left),
                    named: vec![resource.clone()],
                    writes: Vec::new(),
                });
            }
        }
        let (reads, writes): (Vec<String>, Vec<String>) =
            verbs.into_iter().partition(|verb| READS.contains(&verb.as_str()));
        let of_routers = resources.iter().any(|resource| resource.starts_with(OF_ROUTERS));
        let untold = of_routers && writes != ["delete"];
        if !writes.is_empty() && !untold && resources != [EVENTS] {
            cases.push(Case {
                rules: without("verbs", reads),
                named: resources,
                writes,
            });
        }
    }
    Ok(cases)
}

/// A program whose rights are tried.
struct Subject<'a> {
    s: &'a Scene,
    account: &'static str,
    process: &'a Process,
    host: &'a Host,
    /// What its events are about.
    about: (&'static str, &'static str, &'static str),
    /// What it makes by itself, and would not make again while it is there.
    own: &'static [&'static str],
}

impl Subject<'_> {
    /// Tries each rule of a role of this kind; returns what the program did not say.
    async fn try_role(&self, kind: &str) -> Result<Vec<String>> {
        let role = format!("{kind}/{}", self.account);
        let object: Value = serde_json::from_str(&self.kubectl(&["get", &role, "-o", "json"]).await?)?;
        let rules = object["rules"].as_array().context("a role has rules")?;
        let (mut missed, mut told) = (Vec::new(), BTreeSet::new());
        for (number, case) in cases(rules)?.into_iter().enumerate() {
            self.set_rules(&role, &case.rules).await?;
            self.process.kill();
            self.forget(&case).await?;
            self.process.restart()?;
            if !case.writes.is_empty() {
                let name = format!("{kind}-{number}");
                self.s.apply(&service(&name, "web", "type: LoadBalancer")).await?;
            }
            let first_of_kind = told.insert(case.writes.is_empty());
            if let Err(error) = self.says(&case.named, first_of_kind).await {
                missed.push(format!("{role} without {:?} {:?}: {error:#}", case.writes, case.named));
            }
            self.set_rules(&role, rules).await?;
        }
        Ok(missed)
    }

    async fn set_rules(&self, role: &str, rules: &[Value]) -> Result<()> {
        let patch = json!([{ "op": "replace", "path": "/rules", "value": rules }]).to_string();
        self.kubectl(&["patch", role, "--type=json", "-p", &patch])
            .await
            .map(drop)
    }

    /// Takes away what the program makes, so that it has to use the rights that it has lost.
    async fn forget(&self, case: &Case) -> Result<()> {
        let delete = ["delete", "--ignore-not-found", "--wait=false"];
        if case.writes.iter().any(|verb| verb == "create") {
            for own in self.own {
                let words: Vec<&str> = own.split(' ').collect();
                self.kubectl(&[&delete, &words[..]].concat()).await?;
            }
        } else if !case.writes.is_empty() && case.named == ["secrets"] {
            // One without keys has to be changed.
            self.kubectl(&[&delete, &[KEYS][..]].concat()).await?;
            let name = KEYS.trim_start_matches("secret/");
            self.kubectl(&["create", "secret", "generic", name]).await?;
        } else if case.named == [OF_ROUTERS] {
            // One that the program has told in a former life.
            let (_, _, node) = self.about;
            let object = format!(
                "apiVersion: metallb.io/v1beta1\nkind: ServiceBGPStatus\nmetadata:\n  name: of-routers\n  \
                 labels: {{metallb.io/node: {node}}}\n"
            );
            self.s.apply_config(&object).await?;
        }
        Ok(())
    }

    async fn kubectl(&self, args: &[&str]) -> Result<String> {
        self.s.lab().kubectl(&[&["-n", NAMESPACE], args].concat()).await
    }

    /// In `/readyz`, in the log of this run and, which takes longer, as an event.
    async fn says(&self, named: &[String], with_event: bool) -> Result<()> {
        let names_one = |line: &str| {
            let line = line.to_lowercase();
            line.contains("forbidden") && named.iter().any(|resource| line.contains(resource.as_str()))
        };
        wait_until(&format!("/readyz to name one of {named:?}"), SAID, async || {
            ensure!(self.process.is_alive(), "it has ended: {}", self.process.log_tail(3));
            let (status, body) = self.s.admin_of(self.host, "/readyz").await?;
            ensure!(status != 200 && body.lines().any(names_one), "it says {status} {body}");
            Ok(())
        })
        .await?;
        let log = self.process.log_tail(200);
        // Each run begins with its command line.
        let run = log.rsplit("\n# ").next().unwrap_or_default();
        ensure!(run.lines().any(names_one), "the log says {run}");
        if !with_event {
            return Ok(());
        }
        let (namespace, kind, name) = &self.about;
        wait_until(&format!("an event that names one of {named:?}"), SAID, async || {
            let events = self.s.events(namespace, kind, name).await?;
            let said = events
                .iter()
                .any(|event| event.reason == "ferrolbNotReady" && names_one(&event.message));
            ensure!(said, "{events:?}");
            Ok(())
        })
        .await
    }
}

/// Each rule of a program in turn.
async fn each(subject: Subject<'_>) -> Result<()> {
    let s = subject.s;
    s.apply(&deployment("web", 1)).await?;
    s.ready("web", 1).await?;
    let mut missed = subject.try_role("clusterrole").await?;
    missed.extend(subject.try_role("role").await?);
    subject.process.restart()?;
    if missed.is_empty() {
        return Ok(());
    }
    bail!("not told:\n{}", missed.join("\n"))
}

/// The controller without each of its rights.
pub(crate) async fn controller(s: Scene) -> Result<()> {
    each(Subject {
        s: &s,
        account: "ferrolb-controller",
        process: s.controller(),
        host: s.control_plane(),
        about: (NAMESPACE, "Pod", "ferrolb-controller"),
        own: &[KEYS, "lease/ferrolb-controller", "configurationstates --all"],
    })
    .await?;
    s.wait_ferrolb_ready().await
}

/// A speaker without each of its rights.
pub(crate) async fn speaker(s: Scene) -> Result<()> {
    speaker_of_node_1(&s).await?;
    s.wait_ferrolb_ready().await
}

async fn speaker_of_node_1(s: &Scene) -> Result<()> {
    let node = s.node("node-1")?;
    each(Subject {
        s,
        account: "ferrolb-speaker",
        process: node.program(Program::Speaker)?,
        host: node.host(),
        about: ("default", "Node", "node-1"),
        own: &["speakerstates --all"],
    })
    .await
}

/// A speaker that does layer 2 alone, without each of the fewer rights that it has then.
pub(crate) async fn layer2_only(s: Scene) -> Result<()> {
    let role = include_str!("../../../../deploy/components/layer2-only/speaker-role.yaml");
    let all = ["-n", NAMESPACE, "get", "role/ferrolb-speaker", "-o", "json"];
    let all: Value = serde_json::from_str(&s.lab().kubectl(&all).await?)?;
    let node = s.node("node-1")?;
    let speaker = node.program(Program::Speaker)?;
    let both = speaker.spec();
    s.apply_config(role).await?;
    speaker.restart_with(both.clone().args(["--layer2-only"]))?;
    let tried = speaker_of_node_1(&s).await;
    let back = json!([{ "op": "replace", "path": "/rules", "value": all["rules"] }]).to_string();
    let patch = [
        "-n",
        NAMESPACE,
        "patch",
        "role/ferrolb-speaker",
        "--type=json",
        "-p",
        &back,
    ];
    s.lab().kubectl(&patch).await?;
    speaker.restart_with(both)?;
    tried?;
    s.wait_ferrolb_ready().await
}

/// A speaker without `NET_RAW` says what it lacks and how to grant it, in `/readyz` and in the log, and is ready once it has it.
pub(crate) async fn speaker_without_net_raw(s: Scene) -> Result<()> {
    let node = s.node("node-1")?;
    let speaker = node.program(Program::Speaker)?;
    let granted = speaker.spec();
    speaker.restart_with(granted.clone().capabilities(Capabilities::None))?;
    let said = wait_until("/readyz to name NET_RAW", PATIENCE, async || {
        let (status, body) = s.admin_of(node.host(), "/readyz").await?;
        let said = body
            .lines()
            .any(|line| line.contains("layer 2") && line.contains("NET_RAW"));
        ensure!(status != 200 && said, "it says {status} {body}");
        let log = speaker.log_tail(50);
        ensure!(log.contains("capabilities.add"), "the log says {log}");
        Ok(())
    })
    .await;
    let told = Teller::speaker(&s, "node-1")?.event("ferrolbNotReady", "NET_RAW").await;
    speaker.restart_with(granted)?;
    said?;
    told?;
    s.wait_ferrolb_ready().await
}
