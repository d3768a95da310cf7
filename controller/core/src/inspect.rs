//! What somebody may ask a controller that is only looked at, for instance one that was fed a copy of a cluster: why a
//! Service has what it has. Nothing here changes anything.

use std::net::IpAddr;
use std::time::Duration;

use ferrolb_model::{Family, NodeRefusal, Reason, ServiceId};

use crate::choose::Chooser;
use crate::controller::Controller;
use crate::standing::Coverage;

impl Controller {
    /// The addresses that the Service holds by the last decision, written or not.
    pub fn held_by(&self, id: &ServiceId) -> Vec<IpAddr> {
        self.allocator.held(id)
    }

    /// Why the Service does not have what it asks for.
    pub fn unmet_of(&self, id: &ServiceId) -> Option<&Reason> {
        self.states.get(id)?.unmet.as_deref()
    }

    /// Why the Service would not be given today what it keeps; one for each such address.
    pub fn kept_by(&self, id: &ServiceId) -> Vec<Reason> {
        let Some(view) = self.world.service(id) else {
            return Vec::new();
        };
        let staying = self.staying(id);
        staying.iter().filter_map(|a| self.why_kept(*a, view)).collect()
    }

    /// The address of the family that the pool would give to the Service, or why it gives none; `None` without such a Service
    /// or pool.
    pub fn offer_of(&self, id: &ServiceId, pool: &str, family: Family) -> Option<Result<IpAddr, Reason>> {
        let chooser = Chooser {
            world: &self.world,
            allocator: &self.allocator,
            view: self.world.service(id)?,
            held: &[],
            replacing: false,
        };
        Some(chooser.offer(self.world.config().pools.get(pool)?, family))
    }

    /// Why the Service may not hold the address, whatever pools say.
    pub fn barred(&self, id: &ServiceId, address: IpAddr) -> Option<Reason> {
        let view = self.world.service(id)?;
        self.allocator.may_hold(&self.world, address, view).err()
    }

    /// Every node with why it does not announce the address at layer 2, or would rather not; nothing where no layer-2
    /// advertisement covers the address.
    pub fn refusals_of(&self, address: IpAddr, now: Duration) -> Vec<(String, Option<NodeRefusal>)> {
        let nodes = self.look(address, &mut Coverage::default(), now, |round| {
            let names = round.standings.nodes.keys();
            names.map(|name| (name.clone(), round.reluctance(name))).collect()
        });
        nodes.and_then(|(_, nodes)| nodes).unwrap_or_default()
    }
}
