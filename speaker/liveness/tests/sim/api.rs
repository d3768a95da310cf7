//! The API server and the controller, and what a speaker's core makes of them.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use ferrolb_liveness::{Duties, Duty, InterfaceChoice, Keyring, Manner, Placement};

use crate::node::{Node, Waiting};
use crate::world::{Event, World, ms};

impl World {
    /// The controller writes a placement.
    pub(crate) fn place(&mut self, address: IpAddr, owner: usize, standbys: &[usize]) {
        if !self.api_up {
            return;
        }
        let name = |node: &usize| Arc::clone(&self.nodes[*node].name);
        let before = self.api.get(&address).map(|(placement, _)| placement.clone());
        let placement = Placement {
            owner: name(&owner),
            standbys: standbys.iter().map(name).collect(),
            epoch: before.as_ref().map_or(1, |before| before.epoch + 1),
        };
        // Whoever neither hears the new owner nor reads that it is one may take the address over.
        let blind = |node: &usize| self.deaf.contains(&(owner.min(*node), owner.max(*node))) && !self.nodes[*node].api;
        if (0..self.nodes.len()).any(|node| blind(&node)) {
            *self.hits.entry(address).or_default() += 1;
        }
        self.say(|| format!("controller places {address} as {placement:?}"));
        self.api.insert(address, (placement, before));
        self.tell_all();
    }

    /// The controller gives an address other standbys; its owner stays.
    pub(crate) fn stand_by(&mut self, address: IpAddr, order: &[usize]) {
        if !self.api_up {
            return;
        }
        let names: Vec<_> = order.iter().map(|node| Arc::clone(&self.nodes[*node].name)).collect();
        let Some((placement, _)) = self.api.get_mut(&address) else {
            return;
        };
        let others = names.into_iter().filter(|name| *name != placement.owner);
        placement.standbys = others.take(3).collect();
        self.say(|| format!("controller gives {address} other standbys: {:?}", self.api[&address].0));
        self.tell_all();
    }

    /// Every node that can be reached hears of the API's state.
    pub(crate) fn tell_all(&mut self) {
        for node in 0..self.nodes.len() {
            let at = self.now + self.between(ms(2), ms(80));
            self.at(at, Event::Watch(node));
        }
    }

    pub(crate) fn watch(&mut self, node: usize) {
        let entry = &self.nodes[node];
        let Some(process) = entry.process.as_ref().filter(|_| self.api_up && entry.api) else {
            return;
        };
        let duties = self.duties(node, process.boot);
        self.nodes[node].snapshot = Arc::clone(&duties);
        self.give(node, None, Waiting::Duties(duties));
    }

    fn duties(&self, node: usize, boot: u64) -> Arc<Duties> {
        let name = &self.nodes[node].name;
        let has = |placement: &Placement| placement.members().any(|member| member == name);
        let duty = |(address, (placement, before)): (&IpAddr, &(Placement, Option<Placement>))| {
            let part = has(placement) || before.as_ref().is_some_and(has);
            let duty = Duty {
                object: "uid".into(),
                placement: placement.clone(),
                previous_owner: before.as_ref().map(|before| Arc::clone(&before.owner)),
                interfaces: InterfaceChoice::All,
                may_announce: true,
                timing: self.timing,
                manner: Manner::default(),
            };
            part.then(|| (*address, Arc::new(duty)))
        };
        let peers = self
            .nodes
            .iter()
            .map(|other| (Arc::clone(&other.name), BTreeSet::from([other.ip])));
        let mut duties = Duties {
            node: Arc::clone(name),
            boot,
            keys: Keyring::new(1, [(1, b"secret".as_slice())]),
            peers: peers.collect(),
            addresses: self.api.iter().filter_map(duty).collect(),
        };
        (self.sabotage.duties)(self.now, &mut duties);
        Arc::new(duties)
    }

    /// Every core that reaches the API server writes what it knows better.
    pub(crate) fn record(&mut self) {
        let mut news = false;
        let reach = self.nodes.iter().filter(|node| self.api_up && node.api);
        for process in reach.filter_map(Node::running) {
            for (address, (placement, before)) in &mut self.api {
                if let Some(belief) = process.guard.belief(*address)
                    && belief.order() > placement.order()
                {
                    *before = Some(std::mem::replace(placement, belief.clone()));
                    news = true;
                }
            }
        }
        if news {
            self.tell_all();
        }
    }

    pub(crate) fn address(number: usize) -> IpAddr {
        Ipv4Addr::new(10, 0, 1, u8::try_from(number + 1).unwrap()).into()
    }
}
