//! That settling comes to rest, whatever the rules say.
//!
//! Decisions follow from one another until nothing is left to decide. Were two rules at odds, a Service could lose and
//! take one address for ever; every such circle gives some address of some Service up again and again. So that is counted:
//! whoever loses the same one too often in one settling is put off, keeps the status that it has, and is looked at again
//! later; everybody else is served meanwhile. It is a fault of FerroLB, never of the Service: builds with debug
//! assertions stop there.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use ferrolb_model::{Reason, ServiceId};

use crate::controller::Controller;
use crate::effect::Effect;
use crate::line::Turn;
use crate::timers::Timer;

/// In one settling a Service may lose one address so often: far more than rules that agree give reason for.
const LOSSES: u32 = 32;

const FIRST: Duration = Duration::from_secs(1);
const MOST: Duration = Duration::from_secs(64);

/// A Service that did not come to rest.
#[derive(Debug)]
struct Restless {
    /// What it lost last.
    address: IpAddr,
    /// It waits to be looked at again.
    off: bool,
    in_a_row: u32,
    told: bool,
}

/// Who comes to rest, and who does not.
#[derive(Debug, Default)]
pub(crate) struct Rest {
    losses: BTreeMap<(ServiceId, IpAddr), u32>,
    restless: BTreeMap<ServiceId, Restless>,
}

impl Rest {
    /// The Service loses an address.
    pub(crate) fn lose(&mut self, id: &ServiceId, address: IpAddr) {
        let losses = self.losses.entry((id.clone(), address)).or_default();
        *losses += 1;
        if *losses <= LOSSES || self.is_put_off(id) {
            return;
        }
        let restless = self.restless.entry(id.clone()).or_insert(Restless {
            address,
            off: true,
            in_a_row: 0,
            told: false,
        });
        restless.address = address;
        restless.off = true;
        restless.in_a_row += 1;
    }

    /// Whether nothing is decided about the Service for now.
    pub(crate) fn is_put_off(&self, id: &ServiceId) -> bool {
        self.restless.get(id).is_some_and(|r| r.off)
    }

    /// Everything is settled, or put off.
    pub(crate) fn begin_anew(&mut self) {
        self.losses.clear();
    }

    /// The Service is gone.
    pub(crate) fn forget(&mut self, id: &ServiceId) {
        self.restless.remove(id);
    }
}

impl Controller {
    /// Says when those who do not come to rest are looked at again, and gives one of them, if there is any new.
    pub(crate) fn put_off(&mut self, now: Duration, effects: &mut Vec<Effect>) -> Option<String> {
        let ids = self.rest.losses.iter().filter(|(_, losses)| **losses > LOSSES);
        let ids = ids.map(|((id, _), _)| id.clone()).collect::<Vec<_>>();
        self.rest.begin_anew();
        // Who is looked at and comes to rest is as everybody else.
        self.rest.restless.retain(|_, r| r.off);
        let mut news = None;
        for id in ids {
            let Some(restless) = self.rest.restless.get_mut(&id) else {
                continue;
            };
            let told = std::mem::replace(&mut restless.told, true);
            let wait = FIRST.saturating_mul(1 << (restless.in_a_row - 1).min(16)).min(MOST);
            let address = restless.address;
            self.timers.set(Timer::Restless(id.clone()), now + wait);
            // What was said on the way was not so.
            effects.retain(|e| !matches!(e, Effect::Event(event) if event.service == id));
            let (mut said, reason) = (Vec::new(), Reason::Unsettled { address });
            news.get_or_insert_with(|| format!("{id} loses and takes {address} for ever"));
            self.report_decision(&id, Some(reason), &mut said);
            if !told {
                effects.append(&mut said);
            }
        }
        news
    }

    /// Looks at the Service again.
    pub(crate) fn take_up(&mut self, id: &ServiceId) {
        if let Some(restless) = self.rest.restless.get_mut(id) {
            restless.off = false;
            self.dirty.services.extend(self.world.service(id).map(Turn::of));
            self.dirty.statuses.insert(id.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use ferrolb_model::ServiceView;

    use super::*;
    use crate::controller::Settings;
    use crate::effect::{EventKind, ServiceEvent};
    use crate::input::Input;

    /// A controller that knows one Service and no pool.
    fn started(id: &ServiceId) -> Controller {
        let mut controller = Controller::new(Settings::default());
        controller.handle(Input::Synced, Duration::ZERO);
        controller.handle(Input::Service(ServiceView::load_balancer(id.clone())), Duration::ZERO);
        controller
    }

    fn spin(controller: &mut Controller, id: &ServiceId) {
        for _ in 0..=LOSSES {
            controller.rest.lose(id, IpAddr::from([192, 0, 2, 1]));
        }
    }

    #[test]
    fn who_does_not_come_to_rest_is_told_once_and_looked_at_less_and_less_often() {
        let id = ServiceId::new("a", "b");
        let mut controller = started(&id);
        controller.timers.clear(&Timer::Sweep);
        let (mut now, mut told) = (Duration::from_secs(5), Vec::new());
        for wait in [1, 2, 4, 8, 16, 32, 64, 64] {
            spin(&mut controller, &id);
            assert!(controller.rest.is_put_off(&id));
            let mut effects = Vec::new();
            assert!(controller.put_off(now, &mut effects).is_some());
            told.append(&mut effects);
            now += Duration::from_secs(wait);
            assert_eq!(controller.timers.pop_due(now - Duration::from_millis(1)), None);
            assert_eq!(controller.timers.pop_due(now), Some(Timer::Restless(id.clone())));
            controller.take_up(&id);
            assert!(!controller.rest.is_put_off(&id));
        }
        let [Effect::Event(ServiceEvent { kind, message, .. })] = &told[..] else {
            panic!("{told:?}");
        };
        assert_eq!(*kind, EventKind::AllocationFailed);
        assert!(message.starts_with("Unsettled: "), "{message}");
        assert_eq!(controller.pending_by_reason(), [("Unsettled", 1)].into());
    }

    #[test]
    fn who_comes_to_rest_again_is_as_everybody_else() {
        let id = ServiceId::new("a", "b");
        let mut controller = started(&id);
        spin(&mut controller, &id);
        controller.put_off(Duration::from_secs(5), &mut Vec::new());
        controller.handle(Input::Tick, Duration::from_secs(5));
        assert!(controller.rest.is_put_off(&id), "not yet");
        controller.handle(Input::Tick, Duration::from_secs(6));
        assert_eq!(controller.pending_by_reason(), [("NoPools", 1)].into());
        spin(&mut controller, &id);
        let mut told = Vec::new();
        controller.put_off(Duration::from_secs(9), &mut told);
        assert_eq!(told.len(), 1, "told anew: {told:?}");
        assert_eq!(
            controller.next_deadline(),
            Some(Duration::from_secs(10)),
            "the shortest wait"
        );
    }

    #[test]
    #[cfg(debug_assertions)]
    #[should_panic = "a/b loses and takes 192.0.2.1 for ever"]
    fn a_circle_of_decisions_stops_a_build_with_debug_assertions() {
        let id = ServiceId::new("a", "b");
        let mut controller = started(&id);
        spin(&mut controller, &id);
        controller.handle(Input::Tick, Duration::ZERO);
    }
}
