//! What AllocationPolicies leave of a namespace's choice.
//!
//! Limits decide about what is handed out anew; what is held stays. Every policy that speaks for a namespace must allow,
//! so the first that does not is named. A reservation made by hand stands above all of them.

use std::net::IpAddr;

use ferrolb_model::{AllocationPolicy, PolicyLimit, Reason, ServiceId};

use crate::allocator::Allocator;
use crate::world::World;

/// The limits of one namespace.
#[derive(Clone, Copy)]
pub(crate) struct Limits<'a> {
    world: &'a World,
    allocator: &'a Allocator,
    namespace: &'a str,
}

impl<'a> Limits<'a> {
    /// The limits of `namespace`.
    pub(crate) fn of(world: &'a World, allocator: &'a Allocator, namespace: &'a str) -> Self {
        Limits {
            world,
            allocator,
            namespace,
        }
    }

    /// Whether addresses of the pool may be used.
    pub(crate) fn pool(self, pool: &str) -> Result<(), Reason> {
        let wanted = || vec![pool.to_owned()];
        self.all(|p| p.allows_pool(pool), || PolicyLimit::Pools { wanted: wanted() })
    }

    /// Whether the address may be asked for by name.
    pub(crate) fn request(self, address: IpAddr) -> Result<(), Reason> {
        self.all(|p| p.allows_request(address), || PolicyLimit::Requestable { address })
    }

    /// Whether both sides let the Service share the address with whoever holds it.
    pub(crate) fn sharing(self, address: IpAddr, id: &ServiceId) -> Result<(), Reason> {
        let record = self.allocator.record(address);
        let users = record
            .into_iter()
            .flat_map(|r| r.users(self.world))
            .map(|view| &view.id);
        for other in users.filter(|o| *o != id && o.namespace != self.namespace) {
            self.shares_with(address, &other.namespace)?;
            let theirs = Limits::of(self.world, self.allocator, &other.namespace);
            theirs.shares_with(address, self.namespace)?;
        }
        Ok(())
    }

    fn shares_with(self, address: IpAddr, other: &str) -> Result<(), Reason> {
        let with = || other.to_owned();
        self.all(
            |p| p.allows_sharing(self.namespace, other),
            || PolicyLimit::Sharing { address, with: with() },
        )
    }

    /// How many more addresses the namespace may have when `given_up` of its own go; `usize::MAX` without a limit. As
    /// many as go may always come: over its limit a namespace may still replace.
    pub(crate) fn room(self, given_up: usize) -> usize {
        let held = self.allocator.held_in(self.namespace);
        self.lowest().map_or(usize::MAX, |(limit, _)| {
            (limit as usize + given_up).saturating_sub(held).max(given_up)
        })
    }

    /// The refusal when there is no room.
    pub(crate) fn full(self) -> Option<Reason> {
        self.lowest().map(|(limit, policy)| Reason::PolicyRefuses {
            policy: policy.name.clone(),
            limit: PolicyLimit::MaxAddresses { limit },
        })
    }

    /// Whether the address would count as one more.
    pub(crate) fn is_more(self, address: IpAddr) -> bool {
        self.allocator.holders_in(self.namespace, address) == 0
    }

    fn lowest(self) -> Option<(u32, &'a AllocationPolicy)> {
        let limits = self
            .world
            .policies(self.namespace)
            .filter_map(|p| Some((p.max_addresses?, p)));
        limits.min_by_key(|(limit, _)| *limit)
    }

    fn all(
        self,
        allows: impl Fn(&AllocationPolicy) -> bool,
        limit: impl FnOnce() -> PolicyLimit,
    ) -> Result<(), Reason> {
        match self.world.policies(self.namespace).find(|p| !allows(p)) {
            None => Ok(()),
            Some(policy) => Err(Reason::PolicyRefuses {
                policy: policy.name.clone(),
                limit: limit(),
            }),
        }
    }
}

/// Whether only the number of addresses stands in the way.
pub(crate) fn is_full(reason: &Reason) -> bool {
    matches!(
        reason,
        Reason::PolicyRefuses {
            limit: PolicyLimit::MaxAddresses { .. },
            ..
        }
    )
}
