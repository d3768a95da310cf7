//! `AnnouncementPolicy`.

use std::collections::{BTreeMap, BTreeSet};

use ferrolb_api as api;
use ferrolb_model::{
    AddressSource, AnnouncementPolicy, AntiAffinity, BgpSettings, Community, CommunityError, ConflictDetection,
    DrainSettings, DrainTrigger, EndpointSettings, Family, Layer2Settings, NodeValue, OnRequest, Opener, PeerSettings,
};

use crate::advertise::{pool_selection, preferred_node};
use crate::error::Report;
use crate::number::{milliseconds, number, seconds};
use crate::problem::Problem;
use crate::selector::{check_key, once, selectors};

/// One policy. A setting that is not there stays open: another policy may have it.
pub(crate) fn policy(object: &api::AnnouncementPolicy, report: &mut Report) -> AnnouncementPolicy {
    let spec = &object.spec;
    AnnouncementPolicy {
        name: object.metadata.name.clone().unwrap_or_default(),
        pools: pool_selection(report, &spec.ip_address_pools, &spec.ip_address_pool_selectors),
        service_selectors: selectors(report, "spec.serviceSelectors", &spec.service_selectors),
        node_selectors: selectors(report, "spec.nodeSelectors", &spec.node_selectors),
        on_request: spec.on_request.as_ref().map(|request| on_request(request, report)),
        layer2: spec.layer2.as_ref().map(|l| layer2(l, report)).unwrap_or_default(),
        drain: spec.drain.as_ref().map(|d| drain(d, report)).unwrap_or_default(),
        endpoints: spec.endpoints.map(|e| endpoints(e, report)).unwrap_or_default(),
        bgp: spec.bgp.as_ref().map(|b| bgp(b, report)).unwrap_or_default(),
    }
}

fn on_request(object: &api::OnRequest, report: &mut Report) -> OnRequest {
    let field = "spec.onRequest.namespaces";
    once(report, field, object.namespaces.iter(), |name| format!("{name:?}"));
    for (n, name) in object.namespaces.iter().enumerate() {
        if !is_namespace(name) {
            report.push(format!("{field}[{n}]"), name, Problem::Namespace(name.to_owned()));
        }
    }
    OnRequest {
        namespaces: Some(object.namespaces.iter().cloned().collect()).filter(|names: &BTreeSet<_>| !names.is_empty()),
    }
}

/// A DNS label (RFC 1123).
fn is_namespace(name: &str) -> bool {
    let inside = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    (1..=63).contains(&name.len())
        && name.bytes().all(|b| inside(b) || b == b'-')
        && !name.starts_with('-')
        && !name.ends_with('-')
}

fn layer2(object: &api::Layer2Policy, report: &mut Report) -> Layer2Settings {
    let no_placement = api::PlacementPolicy::default();
    let placement = object.placement.as_ref().unwrap_or(&no_placement);
    let liveness = object.liveness.unwrap_or_default();
    let mut weights = Vec::new();
    for (n, weight) in placement.weights.iter().enumerate() {
        let field = format!("spec.layer2.placement.weights[{n}]");
        weights.extend(preferred_node(
            report,
            &field,
            weight.weight,
            "nodeSelector",
            &weight.node_selector,
        ));
    }
    let interval = "spec.layer2.liveness.intervalMilliseconds";
    let multiplier = "spec.layer2.liveness.multiplier";
    Layer2Settings {
        weights,
        anti_affinity: placement.anti_affinity.as_ref().map(|a| anti_affinity(a, report)),
        preemption: placement.preemption,
        liveness_interval: milliseconds(report, interval, liveness.interval_milliseconds, 10..=10_000),
        liveness_multiplier: liveness.multiplier.and_then(|m| number(report, multiplier, m, 1..=100)),
        grace: seconds(report, "spec.layer2.graceSeconds", object.grace_seconds, 3600),
        answer_for_owner: object.answer_for_owner,
        conflict_detection: object.conflict_detection.map(|detection| match detection {
            api::ConflictDetection::Probe => ConflictDetection::Probe,
            api::ConflictDetection::Passive => ConflictDetection::Passive,
            api::ConflictDetection::Disabled => ConflictDetection::Disabled,
        }),
        refresh: seconds(report, "spec.layer2.refreshSeconds", object.refresh_seconds, 86_400),
        subnet_check: object.subnet_check,
    }
}

fn anti_affinity(object: &api::AntiAffinity, report: &mut Report) -> AntiAffinity {
    let (field, key) = ("spec.layer2.placement.antiAffinity.labelKey", &object.label_key);
    match object.among {
        api::AntiAffinityGroup::None => AntiAffinity::None,
        api::AntiAffinityGroup::Service => AntiAffinity::Service,
        api::AntiAffinityGroup::Label => {
            if key.is_empty() {
                let problem = Problem::Empty("write the label of Services whose value makes a group");
                report.push(field, "", problem);
            } else {
                check_key(report, field, key);
            }
            AntiAffinity::Label(key.clone())
        }
    }
}

fn drain(object: &api::DrainPolicy, report: &mut Report) -> DrainSettings {
    let triggers = object.triggers.as_ref();
    once(report, "spec.drain.triggers", triggers.into_iter().flatten(), |t| {
        format!("{t:?}")
    });
    let trigger = |trigger: &api::DrainTrigger| match trigger {
        api::DrainTrigger::ExcludeLabel => DrainTrigger::ExcludeLabel,
        api::DrainTrigger::Cordon => DrainTrigger::Cordon,
        api::DrainTrigger::Taint => DrainTrigger::Taint,
    };
    DrainSettings {
        triggers: triggers.map(|triggers| triggers.iter().map(trigger).collect()),
        delay: seconds(report, "spec.drain.delaySeconds", object.delay_seconds, 3600),
    }
}

fn endpoints(object: api::EndpointPolicy, report: &mut Report) -> EndpointSettings {
    EndpointSettings {
        serving: object.policy.map(|policy| policy == api::EndpointCondition::Serving),
        wait: seconds(report, "spec.endpoints.waitSeconds", object.wait_seconds, 300),
    }
}

fn bgp(object: &api::BgpPolicy, report: &mut Report) -> BgpSettings {
    let bandwidth = object.link_bandwidth.map(|b| b.megabits_per_endpoint.unwrap_or(1000));
    let shutdown = object.graceful_shutdown.map(|g| g.wait_seconds.unwrap_or(5));
    let prepend = object.as_path_prepend;
    BgpSettings {
        med: object.med,
        as_path_prepend: prepend.and_then(|times| number(report, "spec.bgp.asPathPrepend", times, 0..=32)),
        large_communities: list(
            report,
            "spec.bgp.largeCommunities",
            &object.large_communities,
            Community::large,
        ),
        extended_communities: list(
            report,
            "spec.bgp.extendedCommunities",
            &object.extended_communities,
            str::parse,
        ),
        link_bandwidth: bandwidth
            .and_then(|b| number(report, "spec.bgp.linkBandwidth.megabitsPerEndpoint", b, 1..=1_000_000)),
        graceful_shutdown: seconds(report, "spec.bgp.gracefulShutdown.waitSeconds", shutdown, 600),
        peers: peers(&object.peers, report),
    }
}

fn peers(objects: &[api::PeerPolicy], report: &mut Report) -> BTreeMap<String, PeerSettings> {
    once(report, "spec.bgp.peers", objects.iter().map(|peer| &peer.name), |n| {
        format!("{n:?}")
    });
    let mut peers = BTreeMap::new();
    for (n, object) in objects.iter().enumerate() {
        let field = format!("spec.bgp.peers[{n}]");
        if object.name.is_empty() {
            let problem = Problem::Empty("write the name of a BGPPeer");
            report.push(format!("{field}.name"), "", problem);
        }
        let (address, asn) = (object.address.as_ref(), object.asn.as_ref());
        let settings = PeerSettings {
            address: address.and_then(|address| address_source(address, &format!("{field}.address"), report)),
            asn: asn.and_then(|asn| {
                let (field, fields) = (format!("{field}.asn"), "nodeLabel and nodeAnnotation");
                let found = node_value(&asn.node_label, &asn.node_annotation);
                one(found, fields, &field, report).and_then(|value| checked(value, &field, report))
            }),
            opener: object.opened_by.map(|opener| match opener {
                api::OpenedBy::Speaker => Opener::Speaker,
                api::OpenedBy::Router => Opener::Router,
                api::OpenedBy::Both => Opener::Both,
            }),
            ttl_security: object.ttl_security_hops.and_then(|hops| {
                let hops = number(report, format!("{field}.ttlSecurityHops"), hops, 1..=254);
                hops.and_then(|hops| u8::try_from(hops).ok())
            }),
        };
        peers.insert(object.name.clone(), settings);
    }
    peers
}

fn address_source(object: &api::PeerAddressSource, field: &str, report: &mut Report) -> Option<AddressSource> {
    let gateway = object.default_gateway.map(|family| match family {
        api::GatewayFamily::V4 => Family::V4,
        api::GatewayFamily::V6 => Family::V6,
    });
    let values = node_value(&object.node_label, &object.node_annotation).map(AddressSource::Node);
    let found = values.chain(gateway.map(AddressSource::DefaultGateway));
    match one(found, "nodeLabel, nodeAnnotation and defaultGateway", field, report)? {
        AddressSource::Node(value) => checked(value, field, report).map(AddressSource::Node),
        gateway => Some(gateway),
    }
}

fn node_value(label: &str, annotation: &str) -> impl Iterator<Item = NodeValue> {
    let label = Some(label).filter(|key| !key.is_empty());
    let annotation = Some(annotation).filter(|key| !key.is_empty());
    let label = label.map(|key| NodeValue::Label(key.to_owned()));
    label
        .into_iter()
        .chain(annotation.map(|key| NodeValue::Annotation(key.to_owned())))
}

/// The only one of several.
fn one<T>(mut found: impl Iterator<Item = T>, fields: &'static str, field: &str, report: &mut Report) -> Option<T> {
    let first = found.next();
    let state = match (&first, found.next()) {
        (Some(_), None) => return first,
        (None, _) => "none is set",
        (Some(_), Some(_)) => "several are set",
    };
    report.push(field, "", Problem::ExactlyOne { state, fields });
    None
}

/// A label or an annotation that a node can have.
fn checked(value: NodeValue, field: &str, report: &mut Report) -> Option<NodeValue> {
    let (end, key) = match &value {
        NodeValue::Label(key) => ("nodeLabel", key),
        NodeValue::Annotation(key) => ("nodeAnnotation", key),
    };
    check_key(report, &format!("{field}.{end}"), key);
    Some(value)
}

fn list<C: Ord>(
    report: &mut Report,
    field: &str,
    texts: &[String],
    read: impl Fn(&str) -> Result<C, CommunityError>,
) -> BTreeSet<C> {
    once(report, field, texts.iter(), |t| format!("{t:?}"));
    let mut communities = BTreeSet::new();
    for (n, text) in texts.iter().enumerate() {
        communities.extend(report.take(format!("{field}[{n}]"), text, read(text)));
    }
    communities
}
