//! An address in use, reserved or blocked: the claim that makes it impossible to hand one address out twice.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use crate::ip::canonical;
use crate::reason::Reason;
use crate::service::ServiceId;

/// What a decision needs of a VirtualIP object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VirtualIp {
    /// The address; the object's name follows from it.
    pub address: IpAddr,
    /// The pool it was taken from.
    pub pool: Option<String>,
    /// Who holds it; several when shared; none when an administrator blocked it.
    pub claims: Vec<Claim>,
    /// The sharing key, when it may be shared.
    pub sharing_key: Option<String>,
    /// What happens when the last claim goes.
    pub reclaim_policy: ReclaimPolicy,
    /// Where it is announced at layer 2.
    pub placement: Option<Placement>,
    /// The node that really announces it, as that node's speaker says.
    pub announcer: Option<Announcer>,
    /// The request to move it, as it stands in the annotation.
    pub move_to: Option<String>,
    /// The last request that was answered.
    pub answered_move: Option<String>,
    /// Whether another machine uses it, as a speaker was asked to find out before it is handed out; `None` where nobody was
    /// asked, or nothing speaks against it.
    pub probe: Option<Box<Probe>>,
    /// What stands in `status.conditions`, by type.
    pub conditions: BTreeMap<ConditionType, Condition>,
    /// The object's uid.
    pub uid: String,
    /// `metadata.resourceVersion`, opaque: the precondition of the next write.
    pub resource_version: String,
}

impl VirtualIp {
    /// One that says nothing but its address.
    pub fn of(address: IpAddr) -> Self {
        VirtualIp {
            address,
            pool: None,
            claims: Vec::new(),
            sharing_key: None,
            reclaim_policy: ReclaimPolicy::Delete,
            placement: None,
            announcer: None,
            move_to: None,
            answered_move: None,
            probe: None,
            conditions: BTreeMap::new(),
            uid: String::new(),
            resource_version: String::new(),
        }
    }
}

/// What the owning speaker has really programmed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announcer {
    /// The node.
    pub node: String,
    /// The interfaces it answers on, in order, each once.
    pub interfaces: Box<[String]>,
}

/// A question about an address before it is handed out for the first time: does another machine use it?
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probe {
    /// The speaker of this node is asked, and has not said yet.
    Asked {
        /// The node.
        node: String,
    },
    /// Another machine uses it.
    Occupied {
        /// The node whose speaker says so.
        node: String,
        /// Who.
        stranger: Stranger,
    },
}

/// A machine that is no node's and uses an address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stranger {
    /// Its MAC address.
    pub mac: [u8; 6],
    /// The interface of the node on whose segment it was heard.
    pub interface: String,
}

impl Stranger {
    /// Its MAC address, like `02:00:5e:10:00:01`.
    pub fn mac_text(&self) -> String {
        Stranger::text_of(self.mac)
    }

    /// Any MAC address in that form.
    pub fn text_of(mac: [u8; 6]) -> String {
        mac.map(|byte| format!("{byte:02x}")).join(":")
    }

    /// A MAC address that was written by [`Stranger::mac_text`].
    pub fn parse_mac(text: &str) -> Option<[u8; 6]> {
        let mut mac = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut mac {
            let part = parts.next().filter(|part| part.len() == 2)?;
            let digits = part.bytes().all(|digit| digit.is_ascii_hexdigit());
            *byte = digits.then(|| u8::from_str_radix(part, 16).ok())??;
        }
        parts.next().is_none().then_some(mac)
    }
}

/// The conditions of a VirtualIP. The controller alone writes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ConditionType {
    /// The address is handed out.
    Allocated,
    /// Some node announces it.
    Announced,
    /// It was moved as asked.
    Moved,
    /// A machine that is no node uses it as well. Only there while one does.
    Conflict,
}

impl ConditionType {
    const ALL: [ConditionType; 4] = [
        ConditionType::Allocated,
        ConditionType::Announced,
        ConditionType::Moved,
        ConditionType::Conflict,
    ];

    /// The name as it stands in the object.
    pub fn as_str(self) -> &'static str {
        match self {
            ConditionType::Allocated => "Allocated",
            ConditionType::Announced => "Announced",
            ConditionType::Moved => "Moved",
            ConditionType::Conflict => "Conflict",
        }
    }

    /// The one of this name, if the controller writes it.
    pub fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }
}

/// One condition, without the times: those are the shell's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// `True` or `False`.
    pub status: bool,
    /// Stable, for scripts: the name of a [`crate::Reason`] where it is a "no".
    pub reason: String,
    /// For a person.
    pub message: String,
}

impl Condition {
    /// One with this reason and message.
    pub fn new(status: bool, reason: &str, message: String) -> Self {
        Condition {
            status,
            reason: reason.to_owned(),
            message,
        }
    }

    /// One that says what `reason` does.
    pub fn told(status: bool, reason: &Reason) -> Self {
        Condition::new(status, reason.as_str(), reason.to_string())
    }
}

/// One holder of an address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Claim {
    /// The Service.
    pub service: ServiceId,
    /// Its uid; absent in a reservation made by hand, which then holds for whatever Service comes by that name.
    pub uid: Option<String>,
}

/// What becomes of the VirtualIP when nothing claims it any more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReclaimPolicy {
    /// It is deleted and the address is free again.
    #[default]
    Delete,
    /// It stays and keeps the address for the Services it names.
    Retain,
}

/// Who announces an address at layer 2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// The node that announces.
    pub owner: String,
    /// Who takes over, in order.
    pub standbys: Vec<String>,
    /// Grows by one with every change of owner; the higher epoch wins.
    pub epoch: u64,
}

impl Placement {
    /// What decides between two placements of one address: the greater one counts, for everybody.
    pub fn order(&self) -> (u64, &str) {
        (self.epoch, &self.owner)
    }
}

/// The name of a VirtualIP: IPv4 as it is written, IPv6 as eight zero-padded groups joined by `-`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VirtualIpName(IpAddr);

impl VirtualIpName {
    /// The name of the VirtualIP of `address`.
    pub fn of(address: IpAddr) -> Self {
        VirtualIpName(canonical(address))
    }

    /// The address that `name` stands for; `None` unless it is exactly the name that [`VirtualIpName::of`] gives.
    pub fn parse(name: &str) -> Option<IpAddr> {
        let address = match name.parse() {
            Ok(v4) => IpAddr::V4(v4),
            Err(_) => IpAddr::V6(name.replace('-', ":").parse::<Ipv6Addr>().ok()?),
        };
        (VirtualIpName::of(address).to_string() == name).then_some(address)
    }
}

impl fmt::Display for VirtualIpName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            IpAddr::V4(a) => a.fmt(f),
            IpAddr::V6(a) => {
                let groups = a.segments().map(|g| format!("{g:04x}"));
                f.write_str(&groups.join("-"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names() {
        let name = |a: &str| VirtualIpName::of(a.parse().unwrap()).to_string();
        assert_eq!(name("192.0.2.7"), "192.0.2.7");
        assert_eq!(name("2001:db8::7"), "2001-0db8-0000-0000-0000-0000-0000-0007");
        assert_eq!(name("::ffff:192.0.2.7"), "192.0.2.7");
        assert_eq!(VirtualIpName::parse("2001-db8--7"), None);
    }

    #[test]
    fn what_is_no_mac_address_is_none() {
        for text in [
            "",
            "02:00",
            "02:00:5e:10:00:1",
            "02:00:5e:10:00:01:02",
            "+2:00:5e:10:00:01",
            "02-00-5e-10-00-01",
        ] {
            assert_eq!(Stranger::parse_mac(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn macs_read_back(mac: [u8; 6], text in "\\PC{0,20}") {
            let stranger = Stranger { mac, interface: String::new() };
            prop_assert_eq!(Stranger::parse_mac(&stranger.mac_text()), Some(mac));
            let _ = Stranger::parse_mac(&text);
        }

        #[test]
        fn names_read_back(bits: u128) {
            let address = canonical(IpAddr::V6(Ipv6Addr::from(bits)));
            prop_assert_eq!(VirtualIpName::parse(&VirtualIpName::of(address).to_string()), Some(address));
        }
    }
}
