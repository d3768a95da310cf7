//! What this speaker says about itself, as the owner task last saw it: pure functions from what the core and the engine
//! know to the statuses of `SpeakerState` and `ServiceL2Status`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ferrolb_api::{
    AddressConflict, InterfaceInfo, InterfaceState, Layer2State, ServiceL2StatusStatus, SpeakerStateStatus,
};
use ferrolb_l2::interfaces::could_announce;
use ferrolb_l2::{Fault, NamePattern};
use ferrolb_model::{ServiceId, Stranger};
use ferrolb_runtime::text::shortened;
use ferrolb_speaker_core::Speaker;

use crate::snapshot;

/// A conflict is told as the last error for this long after it was last heard of.
pub(crate) const CONFLICT_SHOWN: Duration = Duration::from_secs(60);

/// `lastError` holds this much; it is shown in a table.
const MAX_ERROR: usize = 1024;

/// What is to stand in the API server.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Picture {
    /// The uid of the Node, which owns what is written; `None` until the Node is known.
    pub(crate) node_uid: Option<String>,
    /// About the speaker.
    pub(crate) state: SpeakerStateStatus,
    /// About each Service that is announced, by the name of its object; `None` while that is not known.
    pub(crate) services: Option<BTreeMap<String, Arc<ServiceL2StatusStatus>>>,
}

/// What is wrong at present.
#[derive(Debug, Default)]
pub(crate) struct Trouble {
    /// Why the engine does not run.
    pub(crate) engine: Option<String>,
    /// What the engine cannot do.
    pub(crate) faults: BTreeSet<Fault>,
    /// Who uses which address of a Service, and when that was heard of last.
    pub(crate) conflicts: BTreeMap<IpAddr, (Stranger, Instant)>,
}

impl Trouble {
    /// The worst of it in one line; empty while everything is in order.
    fn text(&self, now: Instant) -> String {
        let conflict = self.shown(now).max_by_key(|(_, (_, at))| *at);
        let text = match (&self.engine, self.faults.first(), conflict) {
            (Some(why), ..) => why.clone(),
            (None, Some(fault), _) => match self.faults.len() - 1 {
                0 => fault.to_string(),
                more => format!("{fault} (and {more} more)"),
            },
            (None, None, Some((address, (stranger, _)))) => format!(
                "the machine with MAC address {} claims {address} on {}",
                stranger.mac_text(),
                stranger.interface
            ),
            (None, None, None) => String::new(),
        };
        shortened(text, MAX_ERROR)
    }

    /// When the text changes by itself.
    pub(crate) fn deadline(&self, now: Instant) -> Option<Instant> {
        let ends = self.conflicts.values().map(|(_, at)| *at + CONFLICT_SHOWN);
        ends.filter(|end| *end > now).min()
    }

    /// The conflicts that are told still.
    fn shown(&self, now: Instant) -> impl Iterator<Item = (&IpAddr, &(Stranger, Instant))> {
        self.conflicts
            .iter()
            .filter(move |(_, (_, at))| now < *at + CONFLICT_SHOWN)
    }

    /// Somebody uses the address.
    pub(crate) fn conflict(&mut self, address: IpAddr, stranger: Stranger, now: Instant) {
        self.conflicts.retain(|_, (_, at)| now < *at + CONFLICT_SHOWN);
        self.conflicts.insert(address, (stranger, now));
    }

    fn conflicts(&self, now: Instant) -> Vec<AddressConflict> {
        let conflict = |(address, (stranger, _)): (&IpAddr, &(Stranger, Instant))| AddressConflict {
            address: address.to_string(),
            interface: stranger.interface.clone(),
            mac_address: stranger.mac_text(),
        };
        self.shown(now).map(conflict).collect()
    }
}

/// The status of the SpeakerState. Of the interfaces those count that addresses could be announced on if they were up,
/// unless their names are left out and no advertisement names them.
pub(crate) fn state(
    speaker: &Speaker,
    interfaces: &[ferrolb_l2::InterfaceState],
    exclude: &[NamePattern],
    trouble: &Trouble,
    now: Instant,
) -> SpeakerStateStatus {
    let named = speaker.named_interfaces();
    let left_out = |name: &str| exclude.iter().any(|pattern| pattern.matches(name)) && !named.contains(name);
    let mut interfaces: Vec<InterfaceState> = interfaces
        .iter()
        .filter(|state| !left_out(&state.name) && could_announce(state))
        .map(interface)
        .collect();
    interfaces.sort_by(|a, b| a.name.cmp(&b.name));
    SpeakerStateStatus {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        interfaces,
        layer2: Some(Layer2State {
            announced_addresses: u32::try_from(speaker.answering()).unwrap_or(u32::MAX),
        }),
        conflicts: trouble.conflicts(now),
        bgp: None,
        last_error: trouble.text(now),
    }
}

fn interface(state: &ferrolb_l2::InterfaceState) -> InterfaceState {
    let mac = state.mac.map(Stranger::text_of);
    InterfaceState {
        name: state.name.clone(),
        mac_address: mac.unwrap_or_default(),
        up: state.up,
        carrier: state.carrier,
        addresses: state.addresses.iter().map(ToString::to_string).collect(),
        gateways: state.gateways.iter().map(ToString::to_string).collect(),
    }
}

/// The statuses of the Services that `speaker` announces from `node`, by the names of their objects.
pub(crate) fn services(speaker: &Speaker, node: &str) -> Option<BTreeMap<String, Arc<ServiceL2StatusStatus>>> {
    let services = speaker.services()?.into_iter();
    Some(
        services
            .map(|(id, interfaces)| (object_name(node, id), Arc::new(service(node, id, interfaces))))
            .collect(),
    )
}

/// The same name each time, so that no Service ever has two objects of one node.
fn object_name(node: &str, service: &ServiceId) -> String {
    let sum = snapshot::sum(format!("{node}\0{service}").as_bytes());
    format!("l2-{}", &sum[..20])
}

fn service(node: &str, id: &ServiceId, interfaces: Option<BTreeSet<String>>) -> ServiceL2StatusStatus {
    ServiceL2StatusStatus {
        node: node.to_owned(),
        service_name: id.name.clone(),
        service_namespace: id.namespace.clone(),
        interfaces: interfaces
            .into_iter()
            .flatten()
            .map(|name| InterfaceInfo { name })
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interfaces_of_layer_2_are_told_in_whatever_state() {
        let ethernet = |name: &str| ferrolb_l2::InterfaceState {
            name: name.to_owned(),
            mac: Some([2, 0, 0x5e, 0x10, 0, 1]),
            ethernet: true,
            broadcast: true,
            ..ferrolb_l2::InterfaceState::default()
        };
        let states = [
            ethernet("veth7"),
            ferrolb_l2::InterfaceState {
                up: true,
                addresses: BTreeSet::from(["192.0.2.5/24".parse().unwrap()]),
                gateways: BTreeSet::from(["192.0.2.1".parse().unwrap()]),
                ..ethernet("eth1")
            },
            ethernet("eth0"),
            ferrolb_l2::InterfaceState {
                loopback: true,
                ..ethernet("lo1")
            },
        ];
        let speaker = Speaker::new("node-a", ferrolb_speaker_core::Settings::default());
        let exclude = NamePattern::defaults();
        let status = state(&speaker, &states, &exclude, &Trouble::default(), Instant::now());
        let [eth0, eth1] = &status.interfaces[..] else {
            panic!("{status:?}")
        };
        assert_eq!((eth0.name.as_str(), eth0.up, eth0.carrier), ("eth0", false, false));
        let expected = InterfaceState {
            name: "eth1".to_owned(),
            mac_address: "02:00:5e:10:00:01".to_owned(),
            up: true,
            carrier: false,
            addresses: vec!["192.0.2.5/24".to_owned()],
            gateways: vec!["192.0.2.1".to_owned()],
        };
        assert_eq!(*eth1, expected);
        assert_eq!(
            (status.last_error.as_str(), status.layer2.unwrap().announced_addresses),
            ("", 0)
        );
    }

    #[test]
    fn the_worst_trouble_is_told_while_it_lasts() {
        let now = Instant::now();
        let mut trouble = Trouble {
            engine: Some("no NET_RAW".to_owned()),
            faults: ["a", "b"]
                .map(|error| Fault::Netlink {
                    error: error.to_owned(),
                })
                .into(),
            conflicts: BTreeMap::new(),
        };
        let stranger = Stranger {
            mac: [2, 0, 0x5e, 0, 0, 7],
            interface: "eth0".to_owned(),
        };
        let text = "the machine with MAC address 02:00:5e:00:00:07 claims 192.0.2.1 on eth0";
        trouble.conflict("192.0.2.1".parse().unwrap(), stranger, now);
        assert_eq!(trouble.text(now), "no NET_RAW");
        trouble.engine = None;
        assert!(
            trouble.text(now).ends_with("netlink: a (and 1 more)"),
            "{}",
            trouble.text(now)
        );
        trouble.faults.clear();
        assert_eq!(trouble.text(now), text);
        assert_eq!(trouble.conflicts(now).len(), 1);
        assert_eq!(trouble.conflicts(now + CONFLICT_SHOWN), []);
        assert_eq!(trouble.deadline(now), Some(now + CONFLICT_SHOWN));
        assert_eq!(trouble.text(now + CONFLICT_SHOWN), "");
        assert_eq!(trouble.deadline(now + CONFLICT_SHOWN), None);
    }

    #[test]
    fn a_service_has_one_object_for_each_node() {
        let (web, other) = (ServiceId::new("shop", "web"), ServiceId::new("shop-web", ""));
        let name = object_name("node-a", &web);
        assert_eq!((name.len(), name.starts_with("l2-")), (23, true));
        assert_ne!(name, object_name("node-b", &web));
        assert_ne!(name, object_name("node-a", &other));
        let named = service("node-a", &web, Some(BTreeSet::from(["eth1".to_owned()])));
        assert_eq!(named.interfaces[0].name, "eth1");
        assert!(
            service("node-a", &web, None).interfaces.is_empty(),
            "none stands for all"
        );
    }
}
