//! The users: Services created, edited and deleted, reasonable and nonsense alike.

use std::collections::{BTreeMap, BTreeSet};

use fastrand::Rng;
use ferrolb_model::{
    AddressRequest, Endpoint, EndpointsView, Family, FamilyPolicy, FamilySet, Labels, Port, Protocol, RequestError,
    ServiceId, ServiceType, ServiceView, TrafficPolicy,
};

use crate::cluster::any_address;
use crate::history::{Action, Scenario};

/// The namespaces in which Services live.
pub(crate) const NAMESPACES: [&str; 2] = ["red", "blue"];

const SERVICES: usize = 7;

/// One of the few names that Services have here.
pub(crate) fn any_service(rng: &mut Rng) -> ServiceId {
    let n = rng.usize(..SERVICES);
    ServiceId::new(NAMESPACES[n % NAMESPACES.len()], format!("s{n}"))
}

/// What users made so far.
#[derive(Debug, Default)]
pub(crate) struct Users {
    services: BTreeMap<ServiceId, ServiceView>,
}

impl Users {
    /// What stands before the first controller starts: some Services, at times with addresses of an earlier controller.
    pub(crate) fn start(&mut self, rng: &mut Rng, scenario: &Scenario) -> Vec<Action> {
        let mut actions = Vec::new();
        for _ in 0..rng.usize(..5) {
            let id = any_service(rng);
            if self.services.contains_key(&id) {
                continue;
            }
            actions.push(self.apply(rng, id.clone()));
            actions.push(endpoints(rng, &id));
            if scenario.legacy {
                actions.push(Action::WriteStatus {
                    service: id,
                    ingress: (0..rng.usize(..3)).map(|_| any_address(rng)).collect(),
                    foreign: false,
                });
            }
        }
        actions
    }

    /// A user, or a user's workload, does something.
    pub(crate) fn act(&mut self, rng: &mut Rng, scenario: &Scenario) -> Action {
        let id = any_service(rng);
        match rng.u8(..10) {
            0 | 1 => {
                self.services.remove(&id);
                Action::Delete(id)
            }
            2 | 3 if scenario.nodes => endpoints(rng, &id),
            _ => self.apply(rng, id),
        }
    }

    fn apply(&mut self, rng: &mut Rng, id: ServiceId) -> Action {
        let new = !self.services.contains_key(&id);
        let view = self.services.entry(id.clone()).or_insert_with(|| plain(id));
        let edits = if new { rng.usize(..5) } else { 1 };
        for _ in 0..edits {
            edit(rng, view);
        }
        Action::Apply(Box::new(view.clone()))
    }
}

/// A Service that has no wishes.
fn plain(id: ServiceId) -> ServiceView {
    ServiceView {
        selector: format!("app={}", id.name),
        ports: BTreeSet::from([port(80)]),
        ..ServiceView::load_balancer(id)
    }
}

fn port(port: u16) -> Port {
    Port {
        protocol: Protocol::Tcp,
        port,
    }
}

/// Changes one thing.
fn edit(rng: &mut Rng, view: &mut ServiceView) {
    match rng.u8(..16) {
        0 | 1 => {
            let kinds = [
                ServiceType::LoadBalancer,
                ServiceType::LoadBalancer,
                ServiceType::ClusterIp,
            ];
            view.kind = kinds[rng.usize(..kinds.len())];
            // The class is set with the type and cannot change while the type stays.
            if view.kind != ServiceType::LoadBalancer {
                view.class = (rng.u8(..4) == 0).then(|| "other".to_owned());
            }
        }
        2..5 => families(rng, view),
        5 => view.request = Ok(AddressRequest::default()),
        6 => request_pool(rng, view),
        7..10 => request_addresses(rng, view),
        10..13 => {
            view.sharing_key = (rng.u8(..4) != 0).then(|| format!("k{}", rng.u8(..2)));
            view.ports = BTreeSet::from([port(80 + rng.u16(..4))]);
        }
        13 => view.ports = BTreeSet::from([port(80 + rng.u16(..4))]),
        14 => {
            view.labels = Labels::new();
            if rng.bool() {
                view.labels.insert("tier".to_owned(), "front".to_owned());
            }
        }
        _ => {
            view.traffic_policy = if rng.bool() {
                TrafficPolicy::Local
            } else {
                TrafficPolicy::Cluster
            };
            if rng.bool() {
                view.selector = "app=all".to_owned();
            }
        }
    }
}

/// One of the combinations that the API server lets through.
fn families(rng: &mut Rng, view: &mut ServiceView) {
    let both = FamilySet { v4: true, v6: true };
    let single: FamilySet = [view.primary_family].into_iter().collect();
    (view.families, view.family_policy) = match rng.u8(..8) {
        0 => (FamilySet::default(), FamilyPolicy::SingleStack),
        1 => (single, FamilyPolicy::PreferDualStack),
        2 | 3 => (both, FamilyPolicy::PreferDualStack),
        4 => (both, FamilyPolicy::RequireDualStack),
        5 => {
            view.primary_family = view.primary_family.other();
            ([view.primary_family].into_iter().collect(), FamilyPolicy::SingleStack)
        }
        _ => (single, FamilyPolicy::SingleStack),
    };
}

fn request_pool(rng: &mut Rng, view: &mut ServiceView) {
    let pools = ["a", "b", "c", "nowhere"];
    view.request = Ok(AddressRequest {
        pool: Some(pools[rng.usize(..pools.len())].to_owned()),
        addresses: Vec::new(),
    });
}

fn request_addresses(rng: &mut Rng, view: &mut ServiceView) {
    if rng.u8(..8) == 0 {
        view.request = Err(RequestError::NotAnAddress {
            field: "metallb.io/loadBalancerIPs".to_owned(),
            value: "lots".to_owned(),
        });
        return;
    }
    let mut addresses = vec![any_address(rng)];
    if view.families.len() == 2 || rng.u8(..6) == 0 {
        let other = any_address(rng);
        if Family::of(other) != Family::of(addresses[0]) {
            addresses.push(other);
        }
    }
    view.request = Ok(AddressRequest {
        pool: (rng.u8(..6) == 0).then(|| "a".to_owned()),
        addresses,
    });
}

fn endpoints(rng: &mut Rng, id: &ServiceId) -> Action {
    let endpoint = |rng: &mut Rng| {
        let ready = rng.u8(..4) != 0;
        Endpoint {
            node: Some(format!("n{}", rng.u8(1..5))),
            ready,
            serving: ready || rng.bool(),
        }
    };
    Action::Endpoints(EndpointsView {
        slice: (id.namespace.clone(), format!("{}-slice", id.name)),
        service: id.clone(),
        family: Family::V4,
        endpoints: (0..rng.usize(..4)).map(|_| endpoint(rng)).collect(),
    })
}
