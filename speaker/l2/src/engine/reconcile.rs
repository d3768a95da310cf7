//! Brings sockets, memberships, announcements and reports in line with what is wanted and what there is.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tracing::info;

use super::Engine;
use super::port::Port;
use crate::counters::Family;
use crate::groups;
use crate::plan::{self, Plan, Served};
use crate::seam::{Fault, Role};

/// Before what failed is tried again.
const RETRY: Duration = Duration::from_secs(5);

impl Engine {
    /// Brings everything in line with what is wanted and what there is.
    pub(super) fn reconcile(&mut self) {
        let now = self.now();
        let links = Arc::clone(&self.interfaces.links);
        self.own_macs = links.iter().filter_map(|link| link.state.mac).collect();
        let before = self.ports.iter().map(|(index, port)| (*index, port.served.clone()));
        let before: Plan = before.collect();
        let mut plan = plan::plan(&self.wanted, links.iter(), &self.settings.exclude, &before);
        let mut faults = BTreeSet::new();
        self.close_ports(&plan);
        let answered = self
            .wanted
            .addresses
            .iter()
            .filter(|(_, want)| want.role != Role::Listen);
        self.address_counters = self.counters.select(answered.map(|(address, _)| *address));
        // What waits was asked while this node listened.
        self.hear_quiet();
        self.recall(&plan);
        for (index, served) in &mut plan {
            faults.extend(self.open_port(*index, served));
        }
        plan.retain(|_, served| !served.addresses.is_empty());
        // What came since was asked of the one who answers now.
        self.hear_quiet();
        for port in self.ports.values_mut() {
            port.close_idle(&self.closer);
        }
        for (_, port) in self.ports.extract_if(.., |index, _| !plan.contains_key(index)) {
            port.close_all(&self.closer);
        }
        self.used.send_if_modified(|used| {
            let changed = !used.iter().eq(self.ports.keys());
            if changed {
                *used = self.ports.keys().copied().collect();
            }
            changed
        });
        faults.extend(self.membership.set(&groups::groups(&plan), &plan));
        let may_pass = |fault: &Fault| !matches!(fault, Fault::Filter { .. });
        self.retry = faults.iter().any(may_pass).then_some(now + RETRY);

        self.announcer.serve(now, &plan);
        let wanted = &self.wanted.addresses;
        let refresh = |address| wanted.get(&address).and_then(|want| want.manner.refresh);
        self.announcer.refresh(now, refresh);
        self.outbox
            .interfaces(links.iter().map(|link| link.state.clone()).collect());
        self.outbox.announcing(plan::announcing(&self.wanted, &plan));
        faults.extend(self.interfaces.fault.clone().map(|error| Fault::Netlink { error }));
        self.outbox.faults(faults);
    }

    /// Closes what the plan does not have, and what belonged to an interface that was deleted.
    fn close_ports(&mut self, plan: &Plan) {
        let gone: Vec<u32> = self
            .ports
            .iter()
            .filter(|(index, port)| {
                plan.get(index)
                    .is_none_or(|to| to.incarnation != port.served.incarnation)
            })
            .map(|(index, _)| *index)
            .collect();
        for index in gone {
            self.membership.forget(index);
            self.asking.questions.lost(index);
            if let Some(port) = self.ports.remove(&index) {
                info!(interface = port.served.name, "no longer in use");
                port.close_all(&self.closer);
            }
        }
    }

    /// Opens or adjusts the sockets of an interface. Addresses that cannot be heard there are taken out of the plan.
    fn open_port(&mut self, index: u32, served: &mut Served) -> Vec<Fault> {
        let port = self.ports.entry(index).or_insert_with(|| {
            info!(interface = served.name, "in use");
            Port::new(served.clone())
        });
        port.served.clone_from(served);
        let mut faults = Vec::new();
        for family in [Family::Arp, Family::Ndp] {
            let (interface, name) = (served.name.clone(), family.name());
            port.open_quiet(index, family);
            match port.tune(index, family, &self.wanted.peers, &self.closer) {
                Ok(()) => {}
                Err(error) => {
                    port.close(family, &self.closer);
                    served.addresses.retain(|address, _| Family::of(*address) != family);
                    faults.push(Fault::Socket {
                        interface,
                        family: name,
                        error: error.to_string(),
                    });
                    continue;
                }
            }
            if port.taps.get(&family).is_some_and(|tap| tap.unfiltered) {
                faults.push(Fault::Filter {
                    interface,
                    family: name,
                });
            }
        }
        port.served.clone_from(served);
        for family in [Family::Arp, Family::Ndp] {
            port.tune_quiet(family);
        }
        faults
    }
}
