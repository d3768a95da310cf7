//! Keeps `status.announcer` of each VirtualIP equal to what this node really answers for; and the book of such writes.
//!
//! At most one write per address is under way. A write that succeeded is not repeated before the watch shows it, one
//! that failed not before the object changed or it is time to retry; so a refusing or slow API server sees one request
//! per change, never a storm.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ferrolb_model::Announcer;

use crate::decide::HeldIp;
use crate::effect::Effect;

/// The writes of all addresses.
#[derive(Debug, Default)]
pub(crate) struct Writes(BTreeMap<IpAddr, Write>);

/// The last write of one address, with the version of the object that it was based on.
#[derive(Debug)]
struct Write {
    based_on: String,
    state: State,
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    UnderWay,
    Done,
    Failed,
}

impl Writes {
    /// Asks for a write when `ip` does not say what it should: `interfaces` this node answers on, or that it does not.
    pub(crate) fn converge(
        &mut self,
        node: &str,
        address: IpAddr,
        ip: &HeldIp,
        interfaces: Option<&BTreeSet<String>>,
        effects: &mut Vec<Effect>,
    ) {
        let true_already = match (interfaces, &ip.ip.announcer) {
            (Some(interfaces), Some(stands)) => stands.node == node && stands.interfaces.iter().eq(interfaces),
            (Some(_), None) => false,
            (None, stands) => !names(stands.as_ref(), node),
        };
        if self.begin(address, &ip.ip.resource_version, true_already) {
            effects.push(Effect::SetAnnouncer {
                address,
                interfaces: interfaces.cloned(),
                resource_version: ip.ip.resource_version.clone(),
            });
        }
    }

    /// Whether to write now, based on the object at `version`, of which it is known whether it says the right thing
    /// already. If so, the write counts as under way.
    pub(crate) fn begin(&mut self, address: IpAddr, version: &str, true_already: bool) -> bool {
        let last = self.0.get(&address);
        if last.is_some_and(|w| w.state == State::UnderWay) {
            return false;
        }
        if true_already {
            self.0.remove(&address);
            return false;
        }
        if last.is_some_and(|w| w.based_on == version) {
            return false;
        }
        let write = Write {
            based_on: version.to_owned(),
            state: State::UnderWay,
        };
        self.0.insert(address, write);
        true
    }

    /// The write under way for `address` has ended. One that nobody asked for is no news.
    pub(crate) fn ended(&mut self, address: IpAddr, ok: bool) {
        if let Some(write) = self.0.get_mut(&address)
            && write.state == State::UnderWay
        {
            write.state = if ok { State::Done } else { State::Failed };
        }
    }

    /// The object is gone: nothing remains to be written.
    pub(crate) fn forget(&mut self, address: IpAddr) {
        if self.0.get(&address).is_some_and(|w| w.state != State::UnderWay) {
            self.0.remove(&address);
        }
    }

    /// Forgets which writes failed, so that the next look asks again; gives their addresses.
    pub(crate) fn retry(&mut self) -> Vec<IpAddr> {
        let failed = |w: &Write| w.state == State::Failed;
        let addresses = self.0.iter().filter(|(_, w)| failed(w)).map(|(a, _)| *a).collect();
        self.0.retain(|_, w| !failed(w));
        addresses
    }

    /// How many writes failed and wait for a retry.
    pub(crate) fn failed(&self) -> usize {
        self.0.values().filter(|w| w.state == State::Failed).count()
    }
}

/// Whether an announcer stands there and is this node.
pub(crate) fn names(announcer: Option<&Announcer>, node: &str) -> bool {
    announcer.is_some_and(|a| a.node == node)
}
