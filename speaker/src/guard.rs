//! The guard in the speaker: everything between `ferrolb_speaker_core::Ownership`, which knows what the API server says,
//! `ferrolb_liveness`, which watches the other speakers and decides who answers, and `ferrolb_l2`, which does.
//!
//! The guard and layer 2 run on threads of their own and talk to each other without the rest of the program: a takeover
//! waits for nobody who parses JSON.
//!
//! | channel | direction | when it is full |
//! | --- | --- | --- |
//! | duties, ground, memory | owner task to guard and snapshot | the latest only |
//! | what layer 2 has to do | guard to layer 2 | the latest only |
//! | questions | guard to layer 2 | the guard hears that it was not asked, and asks again |
//! | notes | layer 2 to guard | layer 2 drops and counts them; the guard asks again |
//! | outcomes | guard to owner task | wait in the guard, in order |

mod convert;
mod keeper;
mod keys;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ferrolb_l2::{InterfaceState, NamePattern};
use ferrolb_liveness::{Duties, Ground, Keyring, Outcome, PeerState, Placement};
use ferrolb_model::LivenessKeys;
use ferrolb_speaker_core::{Duty, Input};
use tokio::sync::watch;
use tracing::{info, warn};

use crate::snapshot::Memory;

pub(crate) use keeper::{Keeper, Order};
pub(crate) use keys::KeyFile;

/// The owner task's side: gathers what the guard has to know.
pub(crate) struct Briefing {
    node: Arc<str>,
    boot: u64,
    duties: ferrolb_speaker_core::Duties,
    peers: BTreeMap<String, BTreeSet<IpAddr>>,
    /// This node, and who has a part in an address of it, or had: it may not know yet that it has none any more.
    acquainted: BTreeSet<Arc<str>>,
    keys: Option<LivenessKeys>,
    duties_out: watch::Sender<Arc<Duties>>,
    ground_out: watch::Sender<Arc<Ground>>,
    keys_out: watch::Sender<Option<LivenessKeys>>,
    memory_out: watch::Sender<Arc<Memory>>,
}

impl Briefing {
    /// For the speaker of `node`, in its run named `boot`, which starts with these keys and this memory.
    pub(crate) fn new(
        (node, boot): (&str, u64),
        keys_out: watch::Sender<Option<LivenessKeys>>,
        memory_out: watch::Sender<Arc<Memory>>,
    ) -> Self {
        let keys = keys_out.borrow().clone();
        let memory = memory_out.borrow().as_ref().clone();
        let node: Arc<str> = node.into();
        let mut briefing = Briefing {
            acquainted: BTreeSet::from([Arc::clone(&node)]),
            node,
            boot,
            duties: memory.duties,
            peers: memory.peers,
            keys,
            memory_out,
            duties_out: watch::Sender::new(Arc::default()),
            ground_out: watch::Sender::new(Arc::default()),
            keys_out,
        };
        briefing.tell();
        briefing
    }

    /// What the guard is told.
    pub(crate) fn subscribe(&self) -> (watch::Receiver<Arc<Duties>>, watch::Receiver<Arc<Ground>>) {
        (self.duties_out.subscribe(), self.ground_out.subscribe())
    }

    /// This node's part in addresses is another.
    pub(crate) fn duties(&mut self, duties: ferrolb_speaker_core::Duties) {
        self.duties = duties;
        self.tell();
    }

    /// The addresses of another node, or that it is gone.
    pub(crate) fn peer(&mut self, node: String, addresses: Option<BTreeSet<IpAddr>>) {
        let changed = match addresses {
            Some(addresses) => self.peers.insert(node, addresses.clone()) != Some(addresses),
            // A Node may be deleted before its machine falls silent.
            None if self.members().contains(&node) => false,
            None => self.peers.remove(&node).is_some(),
        };
        if changed {
            self.tell();
        }
    }

    /// The keys are others.
    pub(crate) fn keys(&mut self, keys: LivenessKeys) {
        if self.keys.as_ref() != Some(&keys) {
            self.keys = Some(keys.clone());
            self.keys_out.send_replace(Some(keys));
            self.tell();
        }
    }

    /// The interfaces are others, or layer 2 does not work.
    pub(crate) fn ground(&self, answering: bool, states: &[InterfaceState], exclude: &[NamePattern]) {
        let named = self.duties.values().filter_map(|duty| duty.interfaces.as_ref());
        let named = named.flatten().map(String::as_str).collect();
        let ground = Arc::new(Ground {
            answering,
            links: convert::links(states, &named, exclude),
        });
        self.ground_out.send_if_modified(|old| {
            let changed = *old != ground;
            *old = ground;
            changed
        });
    }

    /// The other nodes with a part in an address of this one.
    fn members(&self) -> BTreeSet<String> {
        let members = self.duties.values().flat_map(|duty| {
            let placement = &duty.placement;
            let members = placement.standbys.iter().chain([&placement.owner]);
            members.chain(&duty.previous_owner)
        });
        members.filter(|name| ***name != *self.node).cloned().collect()
    }

    /// Nodes that never had a part in an address of this one are left out, so that a node that comes or goes somewhere is
    /// no news.
    fn tell(&mut self) {
        let members = self.members();
        let known = |name: &String| Some((name.clone(), self.peers.get(name)?.clone()));
        let memory = Memory {
            duties: self.duties.clone(),
            peers: members.iter().filter_map(known).collect(),
        };
        for name in members {
            if !self.acquainted.contains(name.as_str()) {
                self.acquainted.insert(name.into());
            }
        }
        let address = |name: &Arc<str>| Some((Arc::clone(name), self.peers.get(&**name)?.clone()));
        let peers = self.acquainted.iter().filter_map(address);
        let keys = self.keys.as_ref();
        let addresses = self
            .duties
            .iter()
            .map(|(address, duty)| (*address, self.told(address, duty)));
        let addresses = addresses.collect();
        self.duties_out.send_replace(Arc::new(Duties {
            node: Arc::clone(&self.node),
            boot: self.boot,
            keys: keys.map_or_else(Keyring::default, |keys| {
                Keyring::new(
                    keys.signing,
                    keys.keys.iter().map(|(number, key)| (*number, key.as_slice())),
                )
            }),
            peers: peers.collect(),
            addresses,
        }));
        self.memory_out.send_if_modified(|old| {
            let changed = **old != memory;
            *old = Arc::new(memory);
            changed
        });
    }

    /// A duty as the guard takes it. One that is the same as when duties were told last is not made again: most are.
    fn told(&self, address: &IpAddr, duty: &Arc<Duty>) -> Arc<ferrolb_liveness::Duty> {
        let before = self.memory_out.borrow();
        let same = before.duties.get(address).filter(|before| Arc::ptr_eq(before, duty));
        let told = same.and_then(|_| self.duties_out.borrow().addresses.get(address).cloned());
        told.unwrap_or_else(|| Arc::new(convert::duty(duty, &self.acquainted)))
    }
}

/// What is remembered, and what the guard knows better: it hears of a claim before the core does.
pub(crate) fn remembered(memory: &Memory, beliefs: &BTreeMap<IpAddr, Placement>) -> Memory {
    let mut memory = memory.clone();
    for (address, belief) in beliefs {
        let belief = convert::placement_back(belief);
        if let Some(duty) = memory.duties.get(address)
            && (belief.epoch, &belief.owner) > (duty.placement.epoch, &duty.placement.owner)
        {
            let mut duty = Duty::clone(duty);
            duty.placement = belief;
            Arc::make_mut(&mut memory.duties).insert(*address, Arc::new(duty));
        }
    }
    memory
}

/// What the core has to know of it.
pub(crate) fn input(outcome: Outcome) -> Option<Input> {
    match outcome {
        Outcome::TookOver { address, placement, .. } | Outcome::Yielded { address, placement } => {
            Some(Input::TookOver {
                address,
                placement: convert::placement_back(&placement),
            })
        }
        Outcome::HandedOver { address, .. } => Some(Input::HandedOver(address)),
        Outcome::StandingIn { .. } | Outcome::StoodDown { .. } | Outcome::Peer { .. } => None,
    }
}

/// For the log.
pub(crate) fn log(outcome: &Outcome) {
    match outcome {
        Outcome::TookOver {
            address,
            placement,
            from,
            reason,
            after,
        } => warn!(
            %address,
            from = &**from,
            reason = reason.as_str(),
            epoch = placement.epoch,
            silence_ms = after.as_millis(),
            "took the address over"
        ),
        Outcome::StandingIn { owner, addresses } => warn!(
            owner = &**owner,
            addresses = addresses.len(),
            "answering in the name of a node whose speaker is silent"
        ),
        Outcome::StoodDown { owner } => info!(owner = &**owner, "no longer answering in its name"),
        Outcome::Yielded { address, placement } => warn!(
            %address,
            to = &*placement.owner,
            epoch = placement.epoch,
            "another node has taken the address over"
        ),
        Outcome::HandedOver {
            address,
            to,
            unconfirmed,
        } => info!(%address, to = &**to, unconfirmed, "handed the address over"),
        Outcome::Peer { node, state } => match state {
            PeerState::Unheard | PeerState::Alive | PeerState::Suspect => {
                info!(node = &**node, state = state.as_str(), "another speaker");
            }
            _ => warn!(node = &**node, state = state.as_str(), "another speaker"),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferrolb_speaker_core::{Liveness, Manner};

    fn duty(epoch: u64) -> Arc<Duty> {
        Arc::new(Duty {
            uid: "uid".to_owned(),
            interfaces: None,
            placement: ferrolb_model::Placement {
                owner: "node-a".to_owned(),
                standbys: vec!["node-b".to_owned()],
                epoch,
            },
            previous_owner: None,
            able: true,
            liveness: Liveness::default(),
            manner: Manner::default(),
        })
    }

    #[test]
    fn without_a_guard_what_is_held_back_stays_so() {
        let mut briefing = Briefing::new(
            ("node-a", 1),
            watch::Sender::new(None),
            watch::Sender::new(Arc::default()),
        );
        let (told, _) = briefing.subscribe();
        let [begun, held_back] = ["192.0.2.1", "192.0.2.2"].map(|text| text.parse::<IpAddr>().unwrap());
        let unable = Arc::new(Duty {
            able: false,
            ..Duty::clone(&duty(1))
        });
        briefing.duties(BTreeMap::from([(begun, duty(1)), (held_back, unable)]).into());
        let wanted = convert::owned(&told.borrow());
        assert_eq!(wanted.addresses.keys().collect::<Vec<_>>(), [&begun]);
    }

    #[test]
    fn a_duty_that_stays_is_told_as_it_was() {
        let memory = watch::Sender::new(Arc::default());
        let mut briefing = Briefing::new(("node-a", 1), watch::Sender::new(None), memory);
        let (told, _) = briefing.subscribe();
        let [stays, changes] = ["192.0.2.1", "192.0.2.2"].map(|text| text.parse::<IpAddr>().unwrap());
        let same = duty(1);
        briefing.duties(BTreeMap::from([(stays, Arc::clone(&same)), (changes, duty(1))]).into());
        let before = Arc::clone(&told.borrow());
        briefing.duties(BTreeMap::from([(stays, same), (changes, duty(2))]).into());
        let after = Arc::clone(&told.borrow());
        assert!(Arc::ptr_eq(&before.addresses[&stays], &after.addresses[&stays]));
        let [one, other] = [&after.addresses[&stays], &after.addresses[&changes]];
        assert_eq!((one.placement.epoch, other.placement.epoch), (1, 2));
        assert!(
            Arc::ptr_eq(&one.placement.owner, &other.placement.owner),
            "names are kept once"
        );
    }
}
