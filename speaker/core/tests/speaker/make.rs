//! Builds inputs and the effects that are expected; every field that a test does not care about has a plain value.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ferrolb_model::{
    Announcer, Claim, Config, FamilySet, L2Advertisement, LabelSelector, Labels, NodeRefusal, NodeView, OnShrink,
    Operator, Placement, Pool, PoolSelection, Requirement, ServiceId, ServiceView, VirtualIp,
};
use ferrolb_speaker_core::{Announcement, Duty, Effect, Input, Liveness, Manner, Settings, Speaker};
use ipnet::IpNet;

/// The node that is tested.
pub(crate) const ME: &str = "node-a";
/// Another.
pub(crate) const OTHER: &str = "node-b";

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

pub(crate) fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|n| (*n).to_owned()).collect()
}

pub(crate) fn subnets(of: &[&str]) -> BTreeSet<IpNet> {
    of.iter().map(|net| net.parse().expect("a subnet")).collect()
}

pub(crate) fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

pub(crate) fn selector(key: &str, value: &str) -> LabelSelector {
    LabelSelector {
        requirements: vec![Requirement {
            key: key.to_owned(),
            operator: Operator::In(set(&[value])),
        }],
    }
}

pub(crate) fn speaker() -> Speaker {
    Speaker::new(ME, Settings::default())
}

pub(crate) fn id(name: &str) -> ServiceId {
    ServiceId::new("shop", name)
}

pub(crate) fn service(name: &str, labels: Labels) -> ServiceView {
    ServiceView {
        uid: format!("uid-{name}"),
        families: FamilySet { v4: true, v6: true },
        labels,
        resource_version: "1".to_owned(),
        ..ServiceView::load_balancer(id(name))
    }
}

pub(crate) fn node(labels: Labels) -> Input {
    Input::OwnNode(NodeView {
        name: ME.to_owned(),
        labels,
        ready: true,
        silent: false,
        network_unavailable: false,
        excluded: false,
        cordoned: false,
        evicting: false,
        addresses: BTreeSet::new(),
    })
}

pub(crate) fn virtual_ip(address: IpAddr, owner: Option<(&str, u64)>, claims: &[&str]) -> VirtualIp {
    VirtualIp {
        pool: Some("lan".to_owned()),
        claims: claims
            .iter()
            .map(|name| Claim {
                service: id(name),
                uid: Some(format!("uid-{name}")),
            })
            .collect(),
        placement: owner.map(|(owner, epoch)| Placement {
            owner: owner.to_owned(),
            standbys: Vec::new(),
            epoch,
        }),
        uid: format!("uid-{address}"),
        resource_version: "1".to_owned(),
        ..VirtualIp::of(address)
    }
}

pub(crate) fn pool(name: &str, range: &str) -> Pool {
    Pool {
        name: name.to_owned(),
        labels: labels(&[("pool", name)]),
        ranges: vec![range.parse().expect("a range")],
        auto_assign: true,
        avoid_buggy_ips: false,
        allocation: None,
        on_shrink: OnShrink::Keep,
    }
}

/// An advertisement of everything, on all interfaces.
pub(crate) fn advertisement(name: &str) -> L2Advertisement {
    L2Advertisement {
        name: name.to_owned(),
        pools: PoolSelection::All,
        node_selectors: Vec::new(),
        service_selectors: Vec::new(),
        interfaces: None,
        preferred_nodes: Vec::new(),
    }
}

pub(crate) fn config(pools: Vec<Pool>, ads: Vec<L2Advertisement>) -> Input {
    Input::Config(Arc::new(plain(pools, ads)))
}

/// The same while an advertisement cannot be read.
pub(crate) fn config_with_a_gap(pools: Vec<Pool>, ads: Vec<L2Advertisement>) -> Input {
    Input::Config(Arc::new(Config {
        advertisements_unknown: true,
        ..plain(pools, ads)
    }))
}

fn plain(pools: Vec<Pool>, ads: Vec<L2Advertisement>) -> Config {
    Config {
        pools: pools.into_iter().map(|p| (p.name.clone(), p)).collect(),
        l2_advertisements: ads.into_iter().map(|a| (a.name.clone(), a)).collect(),
        ..Config::default()
    }
}

/// Pool `lan`, 192.0.2.0/24, advertised by everybody on all interfaces.
pub(crate) fn plain_config() -> Input {
    config(vec![pool("lan", "192.0.2.0/24")], vec![advertisement("all")])
}

pub(crate) fn announcement(interfaces: Option<&[&str]>, epoch: u64) -> Announcement {
    Announcement {
        interfaces: interfaces.map(set),
        epoch,
        manner: Manner::default(),
    }
}

/// The part of `owner` in an address that it announces so.
pub(crate) fn duty(address: IpAddr, owner: &str, how: &Announcement) -> Duty {
    Duty {
        uid: format!("uid-{address}"),
        interfaces: how.interfaces.clone(),
        placement: Placement {
            owner: owner.to_owned(),
            standbys: Vec::new(),
            epoch: how.epoch,
        },
        previous_owner: None,
        able: true,
        liveness: Liveness::default(),
        manner: how.manner,
    }
}

/// This node's snapshot, by which it announced these.
pub(crate) fn snapshot(all: &BTreeMap<IpAddr, Announcement>) -> Input {
    let duties = all.iter().map(|(ip, how)| (*ip, Arc::new(duty(*ip, ME, how))));
    Input::Restored(Arc::new(duties.collect()))
}

pub(crate) fn answering(address: IpAddr, interfaces: &[&str]) -> Input {
    Input::Announcing {
        address,
        interfaces: set(interfaces).into_iter().collect(),
    }
}

/// A speaker in sync that owns `192.0.2.7` for Service `web`, told of `extra` before.
pub(crate) fn owning(extra: Vec<Input>) -> (Speaker, Vec<Effect>) {
    let mut speaker = speaker();
    let mut effects = Vec::new();
    let facts = [
        plain_config(),
        node(labels(&[("zone", "a")])),
        Input::Service(service("web", labels(&[("app", "web")]))),
        Input::VirtualIp(virtual_ip(ip("192.0.2.7"), Some((ME, 1)), &["web"])),
    ];
    for input in facts.into_iter().chain(extra).chain([Input::Synced]) {
        effects.extend(speaker.handle(input));
    }
    (speaker, effects)
}

pub(crate) fn announce(interfaces: Option<&[&str]>, epoch: u64) -> Effect {
    Effect::Announce(BTreeMap::from([(ip("192.0.2.7"), announcement(interfaces, epoch))]))
}

pub(crate) fn nothing() -> Effect {
    Effect::Announce(BTreeMap::new())
}

pub(crate) fn withheld(why: NodeRefusal) -> Effect {
    Effect::Withheld {
        address: ip("192.0.2.7"),
        why,
    }
}

pub(crate) fn set_announcer(interfaces: Option<&[&str]>, version: &str) -> Effect {
    Effect::SetAnnouncer {
        address: ip("192.0.2.7"),
        interfaces: interfaces.map(set),
        resource_version: version.to_owned(),
    }
}

pub(crate) fn assigned(name: &str) -> Effect {
    Effect::NodeAssigned {
        service: id(name),
        uid: format!("uid-{name}"),
        address: ip("192.0.2.7"),
    }
}

/// Interfaces in the subnet of the pool `lan`.
pub(crate) fn interfaces(usable: &[&str], excluded: &[&str]) -> Input {
    let lan = |names: &[&str]| set(names).into_iter().map(|name| (name, subnets(&["192.0.2.1/24"])));
    Input::Interfaces {
        usable: lan(usable).collect(),
        excluded: lan(excluded).collect(),
    }
}

/// The VirtualIP as the API server has it once `node` wrote its announcer.
pub(crate) fn with_announcer(node: &str, interfaces: &[&str], version: &str) -> Input {
    let mut object = virtual_ip(ip("192.0.2.7"), Some((ME, 1)), &["web"]);
    object.announcer = Some(Announcer {
        node: node.to_owned(),
        interfaces: set(interfaces).into_iter().collect(),
    });
    object.resource_version = version.to_owned();
    Input::VirtualIp(object)
}
