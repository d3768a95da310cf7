//! The endpoints of Services, reduced to how many could serve, here and anywhere. A cluster has many more of them than
//! a node decides about, so all that is kept besides is which other nodes have a ready one. They are kept here alone, for
//! everybody who decides by them.

use std::collections::BTreeSet;
use std::ops::AddAssign;
use std::sync::Arc;

use ferrolb_model::{Endpoint, EndpointsView, Family, ServiceId};
use litemap::LiteMap;

/// How many endpoints there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Count {
    /// Ready.
    pub(crate) ready: u32,
    /// Not ready, and still serving: they terminate.
    pub(crate) terminating: u32,
}

/// How many a Service has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// On this node.
    pub(crate) here: Count,
    /// On any node, this one included.
    pub(crate) anywhere: Count,
}

impl Count {
    fn add(&mut self, endpoint: &Endpoint) {
        self.ready += u32::from(endpoint.ready);
        self.terminating += u32::from(!endpoint.ready && endpoint.serving);
    }

    /// Whether one of them can serve: a ready one, else one that terminates if those count.
    pub(crate) fn can_serve(self, terminating: bool) -> bool {
        self.ready > 0 || terminating && self.terminating > 0
    }

    /// Of two counts of the same pods by their addresses, one for each family, that of the pods.
    fn most(self, other: Count) -> Count {
        Count {
            ready: self.ready.max(other.ready),
            terminating: self.terminating.max(other.terminating),
        }
    }

    /// How many share the load.
    pub(crate) fn serving(self) -> u32 {
        if self.ready > 0 { self.ready } else { self.terminating }
    }
}

impl AddAssign for Count {
    fn add_assign(&mut self, other: Count) {
        self.ready += other.ready;
        self.terminating += other.terminating;
    }
}

/// Namespace and name of an EndpointSlice.
type Slice = (String, String);

/// The same as one text: neither has a slash in it.
fn text((namespace, name): &Slice) -> String {
    format!("{namespace}/{name}")
}

/// The EndpointSlices.
#[derive(Debug, Default)]
pub(crate) struct Endpoints {
    /// The Service that each belongs to.
    slices: LiteMap<Arc<str>, ServiceId>,
    /// Of most Services there is one.
    of: LiteMap<ServiceId, Vec<Known>>,
    /// The names in use, each once.
    names: BTreeSet<Arc<str>>,
}

/// What is kept of a slice.
#[derive(Debug, PartialEq, Eq)]
struct Known {
    /// Namespace and name.
    slice: Arc<str>,
    family: Family,
    counts: Counts,
    /// The other nodes with a ready endpoint.
    ready_elsewhere: Box<[Arc<str>]>,
}

impl Endpoints {
    /// Takes a slice in, as `node` sees it; gives the Services that it changes something for.
    pub(crate) fn insert(&mut self, node: &str, view: &EndpointsView) -> Vec<ServiceId> {
        let mut counts = Counts::default();
        let mut elsewhere = BTreeSet::new();
        for endpoint in &view.endpoints {
            counts.anywhere.add(endpoint);
            match endpoint.node.as_deref() {
                Some(name) if name == node => counts.here.add(endpoint),
                Some(name) if endpoint.ready => drop(elsewhere.insert(name)),
                _ => {}
            }
        }
        let new = Known {
            slice: text(&view.slice).into(),
            family: view.family,
            counts,
            ready_elsewhere: elsewhere.into_iter().map(|name| self.name(name)).collect(),
        };
        if self.of.get(&view.service).is_some_and(|slices| slices.contains(&new)) {
            return Vec::new();
        }
        let before = self.remove(&view.slice).filter(|service| *service != view.service);
        self.slices.insert(Arc::clone(&new.slice), view.service.clone());
        match self.of.get_mut(&view.service) {
            Some(slices) => {
                slices.reserve_exact(1);
                slices.push(new);
            }
            None => drop(self.of.insert(view.service.clone(), vec![new])),
        }
        before.into_iter().chain([view.service.clone()]).collect()
    }

    /// A slice is gone; gives the Service it belonged to.
    pub(crate) fn remove(&mut self, slice: &Slice) -> Option<ServiceId> {
        let slice = text(slice);
        let service = self.slices.remove(slice.as_str())?;
        let slices = self.of.get_mut(&service)?;
        let at = slices.iter().position(|known| *known.slice == *slice)?;
        for name in slices.swap_remove(at).ready_elsewhere {
            // One here, one in the set of names.
            if Arc::strong_count(&name) == 2 {
                self.names.remove(&name);
            }
        }
        if slices.is_empty() {
            self.of.remove(&service);
        }
        Some(service)
    }

    /// How many endpoints a Service has. A pod with addresses of both families is one.
    pub(crate) fn of(&self, service: &ServiceId) -> Counts {
        let (mut v4, mut v6) = (Counts::default(), Counts::default());
        for known in self.of.get(service).into_iter().flatten() {
            let sum = match known.family {
                Family::V4 => &mut v4,
                Family::V6 => &mut v6,
            };
            sum.here += known.counts.here;
            sum.anywhere += known.counts.anywhere;
        }
        Counts {
            here: v4.here.most(v6.here),
            anywhere: v4.anywhere.most(v6.anywhere),
        }
    }

    /// The other nodes with a ready endpoint of a Service; some perhaps more than once.
    pub(crate) fn ready_elsewhere(&self, service: &ServiceId) -> impl Iterator<Item = &str> {
        let known = self.of.get(service).into_iter().flatten();
        known.flat_map(|known| known.ready_elsewhere.iter().map(|name| &**name))
    }

    fn name(&mut self, name: &str) -> Arc<str> {
        if let Some(known) = self.names.get(name) {
            return Arc::clone(known);
        }
        let new = Arc::<str>::from(name);
        self.names.insert(Arc::clone(&new));
        new
    }
}
