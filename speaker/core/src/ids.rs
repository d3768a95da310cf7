//! The names of Services, each kept once: a Service, its EndpointSlices and its VirtualIPs come by ways of their own, and each
//! of them brings the name.

use ferrolb_model::{EndpointsView, ServiceId, ServiceView};

use crate::input::Input;

/// The names that are in use.
#[derive(Debug, Default)]
pub struct Ids {
    /// In order.
    known: Vec<ServiceId>,
    /// How many there may be before those that nobody has any more are looked for.
    sweep_at: usize,
}

/// Fewer are not worth a look.
const FEW: usize = 64;

impl Ids {
    /// The same piece of news, with names that others have already.
    pub fn shared(&mut self, input: Input) -> Input {
        match input {
            Input::Service(view) => Input::Service(ServiceView {
                id: self.one(view.id),
                ..view
            }),
            Input::Endpoints(view) => Input::Endpoints(EndpointsView {
                service: self.one(view.service),
                ..view
            }),
            Input::VirtualIp(mut ip) => {
                for claim in &mut ip.claims {
                    claim.service = self.one(claim.service.clone());
                }
                Input::VirtualIp(ip)
            }
            other => other,
        }
    }

    fn one(&mut self, id: ServiceId) -> ServiceId {
        match self.known.binary_search(&id) {
            Ok(at) => return self.known[at].clone(),
            Err(at) => self.known.insert(at, id.clone()),
        }
        if self.known.len() > self.sweep_at {
            self.known.retain(ServiceId::is_shared);
            self.sweep_at = FEW.max(self.known.len() * 2);
        }
        id
    }
}

#[cfg(test)]
mod tests {
    use ferrolb_model::{Claim, Family, VirtualIp};

    use super::*;

    #[test]
    fn a_name_is_kept_once_and_as_long_as_somebody_has_it() {
        let mut ids = Ids::default();
        let id = |n: usize| ServiceId::new("shop", format!("web-{n}"));
        let kept: Vec<ServiceId> = [3, 1, 2, 1].map(|n| ids.one(id(n))).into();
        assert_eq!(kept, [id(3), id(1), id(2), id(1)]);
        assert!(std::ptr::eq(&*kept[1], &*kept[3]));
        for n in 10..10 * FEW {
            drop(ids.one(id(n)));
            assert!(ids.known.len() <= FEW + 1, "{}", ids.known.len());
        }
        assert!(std::ptr::eq(&*ids.one(id(3)), &*kept[0]));
    }

    #[test]
    fn what_comes_by_three_ways_shares_its_name() {
        let mut ids = Ids::default();
        let id = || ServiceId::new("shop", "web");
        let Input::Service(service) = ids.shared(Input::Service(ServiceView::load_balancer(id()))) else {
            panic!("a Service")
        };
        let view = EndpointsView {
            slice: ("shop".to_owned(), "web-1".to_owned()),
            service: id(),
            family: Family::V4,
            endpoints: Vec::new(),
        };
        let Input::Endpoints(view) = ids.shared(Input::Endpoints(view)) else {
            panic!("endpoints")
        };
        let mut ip = VirtualIp::of([192, 0, 2, 1].into());
        ip.claims = vec![Claim {
            service: id(),
            uid: None,
        }];
        let Input::VirtualIp(ip) = ids.shared(Input::VirtualIp(ip)) else {
            panic!("a VirtualIP")
        };
        for other in [&view.service, &ip.claims[0].service] {
            assert!(std::ptr::eq(&**other, &*service.id));
        }
        assert!(matches!(ids.shared(Input::Synced), Input::Synced));
    }
}
