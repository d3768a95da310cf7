//! What people and machines do to the objects, and how every change reaches watches and speakers.

use std::net::IpAddr;
use std::time::Duration;

use ferrolb_controller_core::Input;
use ferrolb_model::{Claim, Probe, ReclaimPolicy, ServiceType, ServiceView, Stranger, VirtualIp};

use super::{Event, Sim};
use crate::history::Action;
use crate::store::INTERFACE;
use crate::words;

impl Sim<'_> {
    pub(super) fn act(&mut self, action: &Action) {
        self.log(|| format!("            {}", words::action(action)));
        let now = self.now;
        match action.clone() {
            Action::Config(config, _) => {
                self.store.set_config(config);
            }
            Action::Apply(view) => {
                self.ledger.edited(&self.store, &view.id, now);
                self.store.apply_service(*view, now.as_secs() as i64);
            }
            Action::Delete(id) => {
                self.ledger.edited(&self.store, &id, now);
                self.ledger.gone(&id);
                self.store.remove_service(&id);
            }
            Action::Reserve {
                address,
                service,
                retain,
            } => {
                if !self.store.virtual_ips.contains_key(&address) {
                    self.ledger.touched(address, now);
                    let claim = |service| Claim { service, uid: None };
                    let retains = retain && service.is_some();
                    self.store.put_virtual_ip(VirtualIp {
                        claims: service.map(claim).into_iter().collect(),
                        reclaim_policy: policy(retains),
                        ..VirtualIp::of(address)
                    });
                }
            }
            Action::Retain { address, retain } => {
                if let Some(object) = self.store.virtual_ips.get(&address).cloned() {
                    self.ledger.touched(address, now);
                    self.store.put_virtual_ip(VirtualIp {
                        reclaim_policy: policy(retain),
                        ..object
                    });
                }
            }
            Action::DeleteVirtualIp(address) => {
                if self.store.virtual_ips.contains_key(&address) {
                    self.ledger.touched(address, now);
                    self.store.remove_virtual_ip(address);
                }
            }
            Action::WriteStatus {
                service,
                ingress,
                foreign,
            } => {
                // The API server lets no other type have such a status.
                let view = self.store.services.get(&service).cloned();
                if let Some(view) = view.filter(|v| v.kind == ServiceType::LoadBalancer) {
                    self.ledger.status_by_hand(&service, now);
                    self.store.put_service(ServiceView {
                        ingress,
                        ingress_foreign: foreign,
                        ..view
                    });
                }
            }
            Action::Node(view) => {
                if self.scenario.speakers {
                    self.store.set_network(&view.name);
                }
                self.store.set_node(view);
            }
            Action::NodeGone(name) => {
                self.store.remove_network(&name);
                self.store.remove_node(&name);
            }
            Action::Stranger { address, there: true } => drop(self.strangers.insert(address)),
            Action::Stranger { address, there: false } => drop(self.strangers.remove(&address)),
            Action::Endpoints(view) => self.store.set_slice(view),
            Action::TakeOver(address) => self.take_over(address),
            Action::Move { address, request } => {
                if let Some(object) = self.store.virtual_ips.get(&address).cloned() {
                    self.store.put_virtual_ip(VirtualIp {
                        move_to: Some(request),
                        ..object
                    });
                }
            }
            Action::Rebalance(request) => self.store.ask_to_rebalance(request),
        }
        self.spread();
    }

    /// A standby believes the owner to be gone, and announces the address at once; the API server learns of it later. In a
    /// calm history it is the first standby, and nothing is late.
    pub(super) fn take_over(&mut self, address: IpAddr) {
        let object = self.store.virtual_ips.get(&address);
        let Some(mut placed) = object.and_then(|o| o.placement.clone()) else {
            return;
        };
        if placed.standbys.is_empty() {
            return;
        }
        let calm = self.scenario.calm;
        let rank = if calm {
            0
        } else {
            self.rng.usize(..placed.standbys.len())
        };
        let late = if calm { 0 } else { self.rng.u64(..20_000) };
        placed.owner = placed.standbys.remove(rank);
        placed.epoch += 1;
        let at = self.now + Duration::from_millis(late);
        self.at(at, Event::TookOver(address, placed));
    }

    /// The speaker that is asked about an address answers, unless it has gone or is out of sorts.
    pub(super) fn probe(&mut self, address: IpAddr, uid: &str, node: &str) {
        let mute = !self.peace && self.rng.u8(..8) == 0;
        if mute || !self.store.networks.contains_key(node) {
            return;
        }
        let stranger = self.strangers.contains(&address).then(|| Stranger {
            mac: [2, 0, 0, 0, 0, 9],
            interface: INTERFACE.to_owned(),
        });
        let found = if stranger.is_some() {
            "a stranger at"
        } else {
            "nobody at"
        };
        if self.store.answer_probe(address, uid, stranger) {
            self.log(|| format!("speaker     {node} has found {found} {address}"));
            self.spread();
        }
    }

    /// Takes what changed to every watch, and to the speakers.
    pub(super) fn spread(&mut self) {
        for (key, input) in std::mem::take(&mut self.store.changed) {
            if let Input::VirtualIp(object) = &input
                && object.placement.as_ref().map(|p| &p.owner) != object.announcer.as_ref().map(|a| &a.node)
            {
                let (address, at) = (object.address, self.now + self.delay() + Duration::from_millis(5));
                self.at(at, Event::Announce(address));
            }
            if let Input::VirtualIp(object) = &input
                && let Some(Probe::Asked { node }) = object.probe.as_deref()
                && self.asked.insert(object.uid.clone())
            {
                let at = self.now + self.delay() + Duration::from_millis(30);
                self.at(
                    at,
                    Event::Probe {
                        address: object.address,
                        uid: object.uid.clone(),
                        node: node.clone(),
                    },
                );
            }
            for replica in 0..self.replicas.len() {
                let Some(process) = self.replicas[replica].as_mut() else {
                    continue;
                };
                process.enqueue(key.clone(), input.clone());
                let life = process.life;
                let twice = !self.scenario.calm && self.rng.u8(..16) == 0;
                if twice && let Some(process) = self.replicas[replica].as_mut() {
                    process.enqueue(key.clone(), input.clone());
                }
                for _ in 0..=usize::from(twice) {
                    let at = self.now + self.delay();
                    let kind = key.kind();
                    self.at(at, Event::Watch { replica, life, kind });
                }
            }
        }
    }
}

fn policy(retain: bool) -> ReclaimPolicy {
    if retain {
        ReclaimPolicy::Retain
    } else {
        ReclaimPolicy::Delete
    }
}
