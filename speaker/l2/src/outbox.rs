//! Reports waiting for a reader that may be slow: at most one per kind, address and claimant's place, always
//! the latest. Pure, so that a full channel cannot hold up an answer.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::interfaces::InterfaceState;
use crate::seam::{Fault, Mac, Report};

/// A conflict with the same claimant is told again after this time.
const CONFLICT_INTERVAL: Duration = Duration::from_secs(10);

/// An address on an interface.
type Place = (IpAddr, String);

/// What the reader knows, and what it still has to be told.
#[derive(Debug, Default)]
pub struct Outbox {
    interfaces_told: Option<Vec<InterfaceState>>,
    interfaces: Option<Vec<InterfaceState>>,
    /// Those of most addresses are the same, and are kept once.
    announcing_told: BTreeMap<IpAddr, Arc<BTreeSet<String>>>,
    /// The last of them.
    last_told: Arc<BTreeSet<String>>,
    /// `None` for an address that is no longer wanted.
    announcing: BTreeMap<IpAddr, Option<BTreeSet<String>>>,
    conflicts_told: BTreeMap<Place, (Mac, Duration)>,
    conflicts: BTreeMap<Place, Mac>,
    faults_told: BTreeSet<Fault>,
    faults: Option<BTreeSet<Fault>>,
}

impl Outbox {
    /// These are the interfaces now.
    pub fn interfaces(&mut self, now: Vec<InterfaceState>) {
        self.interfaces = (self.interfaces_told.as_ref() != Some(&now)).then_some(now);
    }

    /// Here is every wanted address announced now.
    pub fn announcing(&mut self, now: BTreeMap<IpAddr, BTreeSet<String>>) {
        let gone = |address: &IpAddr| !now.contains_key(address);
        self.conflicts.retain(|(address, _), _| !gone(address));
        self.conflicts_told.retain(|(address, _), _| !gone(address));
        let ended = self.announcing_told.extract_if(.., |address, _| gone(address));
        let mut due: BTreeMap<_, _> = ended
            .filter(|(_, names)| !names.is_empty())
            .map(|(address, _)| (address, None))
            .collect();
        due.extend(
            self.announcing
                .extract_if(.., |address, told| told.is_none() && gone(address)),
        );
        let changed = now
            .into_iter()
            .filter(|(address, names)| self.announcing_told.get(address).is_none_or(|told| **told != *names));
        due.extend(changed.map(|(address, names)| (address, Some(names))));
        self.announcing = due;
    }

    /// Somebody claimed an address.
    pub fn conflict(&mut self, now: Duration, address: IpAddr, interface: &str, mac: Mac) {
        let place = (address, interface.to_owned());
        let known = self.conflicts_told.get(&place);
        if known.is_none_or(|(claimant, told)| *claimant != mac || now >= *told + CONFLICT_INTERVAL) {
            self.conflicts_told.insert(place.clone(), (mac, now));
            self.conflicts.insert(place, mac);
        }
    }

    /// These are the faults now.
    pub fn faults(&mut self, now: BTreeSet<Fault>) {
        self.faults = (self.faults_told != now).then_some(now);
    }

    /// Has something to tell.
    pub fn is_empty(&self) -> bool {
        self.interfaces.is_none() && self.announcing.is_empty() && self.conflicts.is_empty() && self.faults.is_none()
    }

    /// Takes the next report, which counts as told.
    pub fn pop(&mut self) -> Option<Report> {
        if let Some(interfaces) = self.interfaces.take() {
            self.interfaces_told = Some(interfaces.clone());
            return Some(Report::Interfaces(interfaces));
        }
        if let Some((address, interfaces)) = self.announcing.pop_first() {
            if let Some(interfaces) = &interfaces {
                if *self.last_told != *interfaces {
                    self.last_told = Arc::new(interfaces.clone());
                }
                self.announcing_told.insert(address, Arc::clone(&self.last_told));
            }
            return Some(Report::Announcing {
                address,
                interfaces: interfaces.unwrap_or_default(),
            });
        }
        if let Some(((address, interface), mac)) = self.conflicts.pop_first() {
            return Some(Report::Conflict {
                address,
                interface,
                mac,
            });
        }
        let faults = self.faults.take()?;
        self.faults_told.clone_from(&faults);
        Some(Report::Faults(faults))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn announcing(entries: &[(&str, &[&str])]) -> BTreeMap<IpAddr, BTreeSet<String>> {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        entries
            .iter()
            .map(|(address, interfaces)| (address.parse().unwrap(), names(interfaces)))
            .collect()
    }

    fn drain(outbox: &mut Outbox) -> Vec<String> {
        let text = |report| match report {
            Report::Announcing { address, interfaces } => {
                format!("{address} on {}", interfaces.into_iter().collect::<Vec<_>>().join(" "))
            }
            Report::Interfaces(interfaces) => format!("{} interfaces", interfaces.len()),
            Report::Conflict {
                address,
                interface,
                mac,
            } => format!("{address} {interface} {}", mac[5]),
            Report::Faults(faults) => format!("faults:{}", faults.iter().map(|f| format!(" {f}")).collect::<String>()),
        };
        std::iter::from_fn(|| outbox.pop()).map(text).collect()
    }

    #[test]
    fn announcing_is_told_on_change_only_and_the_latest_wins() {
        let mut outbox = Outbox::default();
        outbox.announcing(announcing(&[("192.0.2.1", &[]), ("192.0.2.2", &["eth0"])]));
        assert_eq!(drain(&mut outbox), ["192.0.2.1 on ", "192.0.2.2 on eth0"]);
        outbox.announcing(announcing(&[("192.0.2.1", &[]), ("192.0.2.2", &["eth0"])]));
        assert!(outbox.is_empty());

        outbox.announcing(announcing(&[("192.0.2.1", &["eth0"]), ("192.0.2.2", &[])]));
        outbox.announcing(announcing(&[
            ("192.0.2.1", &["eth0", "eth1"]),
            ("192.0.2.2", &["eth0"]),
        ]));
        assert_eq!(drain(&mut outbox), ["192.0.2.1 on eth0 eth1"]);
    }

    #[test]
    fn an_address_no_longer_wanted_is_announced_nowhere_once() {
        let mut outbox = Outbox::default();
        outbox.announcing(announcing(&[("192.0.2.1", &["eth0"]), ("192.0.2.2", &[])]));
        drain(&mut outbox);
        outbox.announcing(announcing(&[]));
        outbox.announcing(announcing(&[]));
        assert_eq!(drain(&mut outbox), ["192.0.2.1 on "]);
        outbox.announcing(announcing(&[("192.0.2.1", &[])]));
        assert_eq!(drain(&mut outbox), ["192.0.2.1 on "]);
    }

    #[test]
    fn a_conflict_is_told_once_per_claimant_and_interval() {
        let mut outbox = Outbox::default();
        outbox.announcing(announcing(&[("192.0.2.1", &["eth0"])]));
        drain(&mut outbox);
        let address = "192.0.2.1".parse().unwrap();
        let at = |seconds, outbox: &mut Outbox, mac| {
            outbox.conflict(Duration::from_secs(seconds), address, "eth0", [2, 0, 0, 0, 0, mac]);
            drain(outbox)
        };
        assert_eq!(at(1, &mut outbox, 7), ["192.0.2.1 eth0 7"]);
        assert!(at(10, &mut outbox, 7).is_empty());
        assert_eq!(at(10, &mut outbox, 8), ["192.0.2.1 eth0 8"]);
        assert_eq!(at(20, &mut outbox, 8), ["192.0.2.1 eth0 8"]);
        outbox.conflict(Duration::from_secs(40), address, "eth0", [2, 0, 0, 0, 0, 8]);
        outbox.announcing(announcing(&[]));
        assert_eq!(drain(&mut outbox), ["192.0.2.1 on "]);
    }

    #[test]
    fn interfaces_and_faults_are_told_on_change_only() {
        let mut outbox = Outbox::default();
        let fault = Fault::Netlink { error: "no".to_owned() };
        outbox.interfaces(vec![InterfaceState::default()]);
        outbox.faults(BTreeSet::from([fault.clone()]));
        assert_eq!(
            drain(&mut outbox),
            ["1 interfaces".to_owned(), format!("faults: {fault}")]
        );
        outbox.interfaces(vec![InterfaceState::default()]);
        outbox.faults(BTreeSet::from([fault.clone()]));
        assert!(outbox.is_empty());
        outbox.faults(BTreeSet::new());
        outbox.faults(BTreeSet::from([fault.clone()]));
        assert!(outbox.is_empty(), "it went and came back unseen");
        outbox.faults(BTreeSet::new());
        assert_eq!(drain(&mut outbox), ["faults:"]);
    }
}
