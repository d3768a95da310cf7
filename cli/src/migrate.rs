//! Moving in from MetalLB: what stays the same, what differs and why, and what to do in which order.
//!
//! A function of objects. What FerroLB would make of them is asked of its own core, which meets the cluster as it would
//! on its first start: it takes over what stands in the status of Services, then gives what is missing.

mod legacy;
mod procedure;
mod shadow;
mod started;

use std::collections::BTreeSet;
use std::net::IpAddr;

use ferrolb_config::{Kind, service_view};
use ferrolb_model::{BgpAdvertisement, Config, Peer, Reason, RemoteAsn, ServiceType, ServiceView};
use k8s_openapi::api::core::v1::{PodSpec, PodTemplateSpec};
use kube::ResourceExt;
use serde::Serialize;
use serde_json::Value;

pub use legacy::{LegacyError, convert};
pub use procedure::Stage;
pub use shadow::{Change, Shadow};
use started::{BgpMode, bgp_mode};

use crate::replay::Replay;
use crate::table::{join, or_dash, table};
use crate::world::World;

/// The report.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Whether anything differs.
    pub differs: bool,
    /// In one sentence.
    pub summary: String,
    /// What is there of MetalLB.
    pub found: Found,
    /// Every LoadBalancer Service of the class that is served.
    pub services: Vec<Outcome>,
    /// What FerroLB says of the configuration, one line for each mistake or warning.
    pub configuration: Vec<String>,
    /// What behaves otherwise, and why.
    pub differences: Vec<String>,
    /// What this cannot know.
    pub unknown: Vec<String>,
    /// What to do, in this order.
    pub procedure: Vec<Stage>,
}

/// What is there of MetalLB.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Found {
    /// Its namespace.
    pub namespace: String,
    /// Its Deployments and DaemonSets, like `DaemonSet speaker (image), 3 ready`.
    pub workloads: Vec<String>,
    /// Names of the Deployments that run its controller, and of the DaemonSets that run its speaker: its manifest and
    /// its chart differ in them.
    #[serde(skip)]
    pub programs: Programs,
    /// Its objects, how many of each kind.
    pub objects: Vec<String>,
    /// A ConfigMap of a release up to 0.12 is there.
    pub config_map: bool,
    /// Its ValidatingWebhookConfigurations that refuse what they cannot ask about.
    pub webhooks: Vec<String>,
    /// Definitions that are converted by MetalLB.
    pub conversions: Vec<String>,
}

/// What runs the programs of MetalLB.
#[derive(Clone, Debug, Default)]
pub struct Programs {
    /// Deployments.
    pub controllers: Vec<String>,
    /// DaemonSets.
    pub speakers: Vec<String>,
}

/// What becomes of a Service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Outcome {
    /// Namespace and name.
    pub service: String,
    /// What it has.
    pub now: Vec<IpAddr>,
    /// What it would have.
    pub then: Vec<IpAddr>,
    /// In one word.
    pub outcome: Fate,
    /// Why, by its stable name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Why, in words.
    pub text: String,
}

/// What becomes of the addresses of a Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Fate {
    /// It keeps them.
    Same,
    /// It keeps them, and FerroLB shows that it would not give them today.
    Kept,
    /// It has none now and gets one.
    Gains,
    /// It has other addresses.
    Changes,
    /// It has none now, and none then.
    Pending,
}

/// The report about a move from the MetalLB in `namespace` to a FerroLB that serves `class`.
///
/// # Errors
/// When an old ConfigMap cannot be read.
pub fn check(world: &World, namespace: &str, class: Option<&str>) -> Result<Report, LegacyError> {
    let mut converted = World::new(namespace);
    let from_config_map = old_objects(world, namespace)?;
    from_config_map
        .iter()
        .cloned()
        .for_each(|object| converted.take(object));
    let found = found(world, namespace, from_config_map.len());
    let replay = match from_config_map.is_empty() {
        true => Replay::of(world, namespace, class),
        false => Replay::with(world, namespace, class, converted.configuration(namespace)),
    };
    let views = world.services.values().map(service_view);
    let views = views.filter(|v| v.kind == ServiceType::LoadBalancer && v.class.as_deref() == class);
    let views = views.collect::<Vec<_>>();
    let services = views.iter().map(|view| outcome(&replay, view)).collect::<Vec<_>>();
    let parsed = &replay.parsed;
    let said = parsed.errors.iter().chain(&parsed.warnings).map(ToString::to_string);
    let configuration = said.chain(replay.unreadable.iter().cloned()).collect::<Vec<_>>();
    let differences = differences(&parsed.config, &views, class, world, namespace);
    let changed = services.iter().filter(|s| s.outcome == Fate::Changes).count();
    let kept = services
        .iter()
        .filter(|s| matches!(s.outcome, Fate::Same | Fate::Kept))
        .count();
    let with = services.iter().filter(|s| !s.now.is_empty()).count();
    let odd = services.iter().any(|s| s.outcome != Fate::Same);
    let nobody = found.workloads.is_empty() && found.objects.is_empty();
    let nobody = match nobody {
        true => format!("no MetalLB is in namespace {namespace}; --metallb-namespace names another. "),
        false => String::new(),
    };
    let summary = format!(
        "{nobody}{kept} of {with} Services with an address keep it, {changed} would have another; {} without one; {} objects of the \
         configuration would be refused or warned about",
        services.len() - with,
        configuration.len()
    );
    Ok(Report {
        differs: odd || !configuration.is_empty() || !differences.is_empty(),
        summary,
        procedure: procedure::procedure(&found, &parsed.config, &world.namespace),
        services,
        configuration,
        differences,
        unknown: unknown(&parsed.config, world, namespace),
        found,
    })
}

/// MetalLB's objects as YAML for FerroLB's namespace.
///
/// # Errors
/// When an old ConfigMap cannot be read.
pub fn objects(world: &World, namespace: &str) -> Result<String, LegacyError> {
    let current = world
        .raw
        .iter()
        .filter(|o| o["metadata"]["namespace"] == namespace)
        .cloned();
    let mut text = String::new();
    for mut object in current.chain(old_objects(world, namespace)?) {
        let metadata = &object["metadata"];
        let mut kept = serde_json::Map::new();
        for key in ["name", "labels"] {
            if !metadata[key].is_null() {
                kept.insert(key.to_owned(), metadata[key].clone());
            }
        }
        kept.insert("namespace".to_owned(), Value::from(world.namespace.clone()));
        object["metadata"] = Value::Object(kept);
        if let Some(object) = object.as_object_mut() {
            object.remove("status");
        }
        let yaml = serde_saphyr::to_string(&object).map_err(|error| LegacyError {
            namespace: namespace.to_owned(),
            problem: error.to_string(),
        })?;
        text += "---\n";
        text += &yaml;
    }
    Ok(text)
}

/// The objects that an old ConfigMap stands for. Objects of `metallb.io` are newer and go before.
fn old_objects(world: &World, namespace: &str) -> Result<Vec<Value>, LegacyError> {
    if world.raw.iter().any(|o| o["metadata"]["namespace"] == namespace) {
        return Ok(Vec::new());
    }
    let mut maps = world.config_maps.iter();
    let map = maps.find(|m| m.name_any() == "config" && m.namespace().as_deref() == Some(namespace));
    let text = map.and_then(|m| m.data.as_ref()?.get("config"));
    text.map_or(Ok(Vec::new()), |text| convert(text, namespace))
}

fn found(world: &World, namespace: &str, from_config_map: usize) -> Found {
    let here = |object: &dyn Fn() -> Option<String>| object().as_deref() == Some(namespace);
    let image = |spec: Option<&PodSpec>| {
        let image = spec.and_then(|s| s.containers.first()?.image.clone());
        image.unwrap_or_default()
    };
    let deployments = world.deployments.iter().filter(|d| here(&|| d.namespace()));
    let deployments = deployments.map(|d| {
        let pod = d.spec.as_ref().and_then(|s| s.template.spec.as_ref());
        let ready = d.status.as_ref().and_then(|s| s.ready_replicas).unwrap_or(0);
        format!("Deployment {} ({}), {ready} ready", d.name_any(), image(pod))
    });
    let daemons = world.daemon_sets.iter().filter(|d| here(&|| d.namespace()));
    let daemons = daemons.map(|d| {
        let pod = d.spec.as_ref().and_then(|s| s.template.spec.as_ref());
        let ready = d.status.as_ref().map_or(0, |s| s.number_ready);
        format!("DaemonSet {} ({}), {ready} ready", d.name_any(), image(pod))
    });
    let snapshot = world.configuration(namespace);
    let count = |kind: Kind| {
        let n = snapshot.keys().filter(|of| of.kind == kind).count();
        (n > 0).then(|| format!("{n} {}", kind.name()))
    };
    let mut objects = Kind::ALL
        .iter()
        .filter(|k| k.is_namespaced())
        .filter_map(|k| count(*k))
        .collect::<Vec<_>>();
    if from_config_map > 0 {
        objects.push(format!("{from_config_map} objects worth in ConfigMap config"));
    }
    let webhooks = world.webhooks.iter().filter(|configuration| {
        let mut hooks = configuration.webhooks.iter().flatten();
        hooks.any(|hook| {
            let service = hook.client_config.service.as_ref();
            // Fail is what the API server takes for none.
            service.is_some_and(|s| s.namespace == namespace) && hook.failure_policy.as_deref() != Some("Ignore")
        })
    });
    let conversions = world.definitions.iter().filter(|d| {
        let by_webhook = d.spec.conversion.as_ref().is_some_and(|c| c.strategy == "Webhook");
        d.spec.group == ferrolb_api::names::METALLB_GROUP && by_webhook
    });
    Found {
        namespace: namespace.to_owned(),
        workloads: deployments.chain(daemons).collect(),
        programs: programs(world, namespace),
        objects,
        config_map: from_config_map > 0,
        webhooks: webhooks.map(ResourceExt::name_any).collect(),
        conversions: conversions.map(ResourceExt::name_any).collect(),
    }
}

fn programs(world: &World, namespace: &str) -> Programs {
    let here = |of: Option<String>| of.as_deref() == Some(namespace);
    let has = |pod: &PodTemplateSpec, name: &str| {
        let mut containers = pod.spec.iter().flat_map(|spec| &spec.containers);
        containers.any(|container| container.name == name)
    };
    let deployments = world.deployments.iter().filter(|d| here(d.namespace()));
    let controllers = deployments.filter(|d| d.spec.as_ref().is_some_and(|s| has(&s.template, "controller")));
    let daemons = world.daemon_sets.iter().filter(|d| here(d.namespace()));
    let speakers = daemons.filter(|d| d.spec.as_ref().is_some_and(|s| has(&s.template, "speaker")));
    Programs {
        controllers: controllers.map(ResourceExt::name_any).collect(),
        speakers: speakers.map(ResourceExt::name_any).collect(),
    }
}

fn outcome(replay: &Replay, view: &ServiceView) -> Outcome {
    let controller = &replay.controller;
    let then = controller.held_by(&view.id);
    let as_set = |addresses: &[IpAddr]| addresses.iter().copied().collect::<BTreeSet<_>>();
    let kept = controller.kept_by(&view.id);
    let unmet = controller.unmet_of(&view.id);
    let lost = view.ingress.iter().filter(|a| !then.contains(a));
    let lost = lost.filter_map(|a| controller.barred(&view.id, *a)).collect::<Vec<_>>();
    let reason = lost.first().or(unmet).or(kept.first());
    let (outcome, text) = match (view.ingress.is_empty(), then.is_empty()) {
        (true, true) => (Fate::Pending, String::new()),
        (true, false) => (Fate::Gains, "it waits under MetalLB and gets an address".to_owned()),
        _ if as_set(&view.ingress) != as_set(&then) => (
            Fate::Changes,
            "what stands in its status cannot be taken over".to_owned(),
        ),
        _ if reason.is_some() => (Fate::Kept, String::new()),
        _ => (Fate::Same, "keeps what it has".to_owned()),
    };
    let why = reason.map(Reason::to_string);
    Outcome {
        service: view.id.to_string(),
        now: view.ingress.clone(),
        then,
        outcome,
        reason: reason.map(|r| r.as_str().to_owned()),
        text: [text, why.unwrap_or_default()]
            .into_iter()
            .filter(|t| !t.is_empty())
            .collect::<Vec<_>>()
            .join(": "),
    }
}

fn differences(
    config: &Config,
    views: &[ServiceView],
    class: Option<&str>,
    world: &World,
    namespace: &str,
) -> Vec<String> {
    let mut found = Vec::new();
    let old = views.iter().filter(|v| !v.deprecated_annotations.is_empty());
    let old = old
        .map(|v| format!("{} ({})", v.id, join(&v.deprecated_annotations)))
        .collect::<Vec<_>>();
    if !old.is_empty() {
        found.push(format!(
            "annotations under metallb.universe.tf mean the same, and each has the Warning deprecatedAnnotation: {}",
            old.join("; ")
        ));
    }
    for profile in config.bfd_profiles.values().filter(|p| p.echo_interval.is_some()) {
        found.push(format!(
            "BFDProfile {:?}: echoMode has no effect; the session runs as without",
            profile.name
        ));
    }
    if bgp_mode(world, namespace) == BgpMode::Native {
        found.extend(unset_preferences(config).map(|ad| {
            format!(
                "BGPAdvertisement {:?}: localPref is not set; to peers of the own AS it is 100, and was 0 in MetalLB's native mode",
                ad.name
            )
        }));
    }
    if let Some(served) = started::class(world, namespace).filter(|served| served.as_deref() != class) {
        let (theirs, ours) = (served.as_deref().unwrap_or_default(), class.unwrap_or_default());
        found.push(format!(
            "MetalLB serves loadBalancerClass {theirs:?} (--lb-class), this report is about {ours:?}; ask again with \
             --load-balancer-class, and start FerroLB with that class"
        ));
    }
    let foreign = world.services.values().map(service_view);
    let foreign =
        foreign.filter(|v| v.kind == ServiceType::LoadBalancer && v.class.as_deref() != class && !v.ingress.is_empty());
    let foreign = foreign.map(|v| v.id.to_string()).collect::<Vec<_>>();
    if !foreign.is_empty() {
        found.push(format!(
            "Services of another loadBalancerClass are not served: {}; if MetalLB served them, start FerroLB with that class",
            foreign.join(", ")
        ));
    }
    found
}

/// The advertisements without a local preference that speak to a peer of the own AS: only there it is on the wire.
fn unset_preferences(config: &Config) -> impl Iterator<Item = &BgpAdvertisement> {
    let internal = |peer: &Peer| match peer.remote_asn {
        RemoteAsn::Number(asn) => asn == peer.shown_asn(),
        RemoteAsn::Internal => true,
        RemoteAsn::External => false,
    };
    let advertisements = config.bgp_advertisements.values();
    advertisements.filter(move |ad| {
        let named = |peer: &Peer| ad.peers.as_ref().is_none_or(|names| names.contains(&peer.name));
        ad.local_pref.is_none() && config.peers.values().any(|peer| internal(peer) && named(peer))
    })
}

fn unknown(config: &Config, world: &World, namespace: &str) -> Vec<String> {
    let mut unknown = Vec::new();
    if !config.l2_advertisements.is_empty() && world.speakers.is_empty() {
        unknown.push(
            "in which subnets the nodes are: FerroLB announces an address only on interfaces with a subnet that contains it; \
             for pools outside of them make an AnnouncementPolicy with spec.layer2.subnetCheck: false first"
                .to_owned(),
        );
    }
    if config
        .peers
        .values()
        .any(|peer| matches!(peer.password, Some(ferrolb_model::PasswordSource::Secret(_))))
    {
        unknown.push(
            "the Secrets of BGPPeers: those that passwordSecret names have to be copied to FerroLB's namespace"
                .to_owned(),
        );
    }
    if bgp_mode(world, namespace) == BgpMode::Unknown {
        unknown.extend(unset_preferences(config).map(|ad| {
            format!(
                "whether MetalLB speaks BGP in its native mode (METALLB_BGP_TYPE): if so, the localPref of BGPAdvertisement \
                 {:?}, which is not set, was 0 to peers of the own AS, and is 100",
                ad.name
            )
        }));
    }
    unknown.push(match started::class(world, namespace) {
        Some(_) => "what MetalLB's programs were started with, but for --lb-class and METALLB_BGP_TYPE".to_owned(),
        None => "what MetalLB's programs were started with, such as --lb-class".to_owned(),
    });
    unknown
}

impl Report {
    /// For people.
    pub fn text(&self, wide: bool) -> String {
        let mut text = format!("{}\n\nMetalLB in namespace {}:\n", self.summary, self.found.namespace);
        let found = &self.found;
        let hooks = found
            .webhooks
            .iter()
            .map(|w| format!("ValidatingWebhookConfiguration {w} with failurePolicy Fail"));
        let conversions = found
            .conversions
            .iter()
            .map(|d| format!("CustomResourceDefinition {d} with a conversion webhook"));
        let all = found
            .workloads
            .iter()
            .chain(&found.objects)
            .cloned()
            .chain(hooks)
            .chain(conversions);
        let all = all.collect::<Vec<_>>();
        lines(
            &mut text,
            if all.is_empty() {
                vec!["nothing".to_owned()]
            } else {
                all
            },
        );
        let shown = self.services.iter().filter(|s| wide || s.outcome != Fate::Same);
        let row = |s: &Outcome| {
            let fate = format!("{:?}", s.outcome).to_lowercase();
            let reason = s.reason.clone().unwrap_or_default();
            [
                s.service.clone(),
                join(&s.now),
                join(&s.then),
                fate,
                reason,
                s.text.clone(),
            ]
            .map(or_dash)
            .to_vec()
        };
        let rows = shown.map(row).collect::<Vec<_>>();
        if !rows.is_empty() {
            text.push('\n');
            text += &table(&["SERVICE", "NOW", "WITH FERROLB", "OUTCOME", "REASON", "WHY"], &rows);
        }
        for (heading, all) in [
            ("The configuration:", &self.configuration),
            ("What differs:", &self.differences),
            ("What this cannot know:", &self.unknown),
        ] {
            if !all.is_empty() {
                text += &format!("\n{heading}\n");
                lines(&mut text, all.clone());
            }
        }
        text += "\nWhat to do, in this order:\n";
        for (place, stage) in self.procedure.iter().enumerate() {
            text += &format!("{:3}. {} (gap: {})\n", place + 1, stage.what, stage.gap);
            for command in &stage.commands {
                text += &format!("       {command}\n");
            }
        }
        text
    }
}

fn lines(text: &mut String, all: Vec<String>) {
    for line in all {
        *text += &format!("  {line}\n");
    }
}
