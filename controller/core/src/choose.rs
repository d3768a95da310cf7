//! Which addresses a Service should hold: a function of the world, the records, and what it holds now.
//!
//! What is held stays unless the request names something else that can be had. Where there is a choice it is made in
//! a fixed order: an address kept for this very Service, one that stands in its status, one that carries its sharing
//! key, then pools pinned to it by priority and name, then the others by name; lowest address first.

use std::net::IpAddr;

use ferrolb_model::{AddressRequest, Family, FamilyPolicy, FamilySet, Pool, Reason, ServiceView};

use crate::allocator::Allocator;
use crate::limits::Limits;
use crate::world::World;

/// The answer for one Service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Decision {
    /// What it should hold, IPv4 first.
    pub(crate) addresses: Vec<IpAddr>,
    /// Why it does not get what it asks for.
    pub(crate) unmet: Option<Reason>,
    /// Why a second family is missing that would be taken if there were an address.
    pub(crate) missing: Option<Reason>,
}

/// The inputs of a decision.
pub(crate) struct Chooser<'a> {
    pub(crate) world: &'a World,
    pub(crate) allocator: &'a Allocator,
    pub(crate) view: &'a ServiceView,
    /// What the Service holds and may keep; of the Service's families, one of each at most.
    pub(crate) held: &'a [IpAddr],
    /// What is chosen takes the place of something else, so it is not one more for its namespace.
    pub(crate) replacing: bool,
}

impl Chooser<'_> {
    /// Decides.
    pub(crate) fn decide(&self) -> Decision {
        let keep = |unmet| Decision {
            addresses: self.held.to_vec(),
            unmet: Some(unmet),
            missing: None,
        };
        let wanted = match self.wanted() {
            Ok(wanted) => wanted,
            Err(reason) => return keep(reason),
        };
        let request = match &self.view.request {
            Ok(request) => request,
            Err(error) => return keep(Reason::BadRequest(error.clone())),
        };
        let chosen = if !request.addresses.is_empty() {
            self.requested(request, wanted).map(|addresses| (addresses, None))
        } else if let Some(pool) = &request.pool {
            self.in_pool(pool, wanted)
        } else {
            self.automatic(wanted)
        };
        match chosen {
            Err(reason) => keep(reason),
            Ok((mut addresses, missing)) => {
                addresses.sort_unstable();
                Decision {
                    addresses,
                    unmet: None,
                    missing,
                }
            }
        }
    }

    /// The address that the pool would give if the Service took a new one from it, or why it gives none.
    pub(crate) fn offer(&self, pool: &Pool, family: Family) -> Result<IpAddr, Reason> {
        self.allows(pool)?;
        let free = self.allocator.first_free(self.world, pool, family);
        free.ok_or_else(|| self.why_none(family, &[vec![pool]], 1))
    }

    /// The families to find addresses of.
    fn wanted(&self) -> Result<FamilySet, Reason> {
        let families = self.view.families;
        match (families.len(), self.view.family_policy) {
            (0, _) => Err(Reason::NoClusterIp),
            (1, FamilyPolicy::RequireDualStack) => Err(Reason::NotDualStack),
            // The API server keeps one cluster address under SingleStack; in between, the first family counts.
            (2, FamilyPolicy::SingleStack) => Ok([self.view.primary_family].into_iter().collect()),
            _ => Ok(families),
        }
    }

    /// Exactly the addresses asked for, or why not.
    fn requested(&self, request: &AddressRequest, wanted: FamilySet) -> Result<Vec<IpAddr>, Reason> {
        let asked = request.addresses.iter().map(|a| Family::of(*a)).collect::<FamilySet>();
        if asked != wanted {
            return Err(Reason::RequestFamilies {
                addresses: request.addresses.clone(),
                service: match (wanted.v4, wanted.v6) {
                    (true, true) => "dual-stack: name one address of each family",
                    (true, false) => "IPv4: name one IPv4 address",
                    _ => "IPv6: name one IPv6 address",
                },
            });
        }
        for address in &request.addresses {
            self.check_requested(*address, request.pool.as_deref())?;
        }
        let new = request.addresses.iter().filter(|a| !self.held.contains(a));
        let more = new.map(|a| self.cost(*a)).sum::<usize>();
        match self.limits().full() {
            Some(full) if more > self.room(&request.addresses) => Err(full),
            _ => Ok(request.addresses.clone()),
        }
    }

    fn check_requested(&self, address: IpAddr, asked_pool: Option<&str>) -> Result<(), Reason> {
        if let Some(pool) = asked_pool
            && self.pool_name(address) != Some(pool)
        {
            return Err(if self.world.config().pools.contains_key(pool) {
                Reason::AddressOutsidePool {
                    address,
                    pool: pool.to_owned(),
                }
            } else {
                Reason::PoolNotFound { pool: pool.to_owned() }
            });
        }
        if self.held.contains(&address) {
            return Ok(());
        }
        match self.world.pool_of(address) {
            // Somebody reserved it for this Service by hand: that is permission enough.
            _ if self.is_reserved(address) => {}
            None if self.world.config().pools.is_empty() => return Err(Reason::NoPools),
            None => return Err(Reason::AddressOutsidePools { address }),
            Some(pool) => {
                self.allows(pool)?;
                self.limits().request(address)?;
                if pool.is_buggy(address) {
                    return Err(Reason::AddressAvoided {
                        address,
                        pool: pool.name.clone(),
                    });
                }
            }
        }
        self.may_get(address)
    }

    /// Addresses of the one pool asked for. What is held elsewhere is given up only for a full replacement.
    fn in_pool(&self, name: &str, wanted: FamilySet) -> Result<(Vec<IpAddr>, Option<Reason>), Reason> {
        let mut found = self.kept(wanted);
        found.retain(|a| self.pool_name(*a) == Some(name));
        if found.len() == wanted.len() {
            return Ok((found, None));
        }
        let pools = &self.world.config().pools;
        let pool = pools.get(name).ok_or_else(|| match pools.is_empty() {
            true => Reason::NoPools,
            false => Reason::PoolNotFound { pool: name.to_owned() },
        })?;
        self.allows(pool)?;
        let missing = self.fill(&mut found, wanted, vec![vec![pool]]);
        let held_is_covered = self
            .kept(wanted)
            .iter()
            .all(|h| found.iter().any(|f| Family::of(*f) == Family::of(*h)));
        match missing {
            Some(reason) if self.view.family_policy == FamilyPolicy::RequireDualStack || found.is_empty() => {
                Err(reason)
            }
            Some(reason) if !held_is_covered => Err(reason),
            missing => Ok((found, missing)),
        }
    }

    /// What is held, and whatever is missing from wherever the Service may take it.
    fn automatic(&self, wanted: FamilySet) -> Result<(Vec<IpAddr>, Option<Reason>), Reason> {
        let mut found = self.kept(wanted);
        if found.len() == wanted.len() {
            return Ok((found, None));
        }
        match self.fill(&mut found, wanted, self.groups()) {
            Some(reason) if self.view.family_policy == FamilyPolicy::RequireDualStack || found.is_empty() => {
                Err(reason)
            }
            missing => Ok((found, missing)),
        }
    }

    /// What is held, of the families wanted.
    fn kept(&self, wanted: FamilySet) -> Vec<IpAddr> {
        self.held
            .iter()
            .copied()
            .filter(|a| wanted.contains(Family::of(*a)))
            .collect()
    }

    /// Adds an address for every family that `found` lacks; says why when one stays missing.
    /// The pool of the first address may give the other family too, and goes first.
    fn fill<'p>(
        &'p self,
        found: &mut Vec<IpAddr>,
        wanted: FamilySet,
        mut groups: Vec<Vec<&'p Pool>>,
    ) -> Option<Reason> {
        let primary = self.view.primary_family;
        let lacking = |found: &[IpAddr]| {
            let order = [primary, primary.other()].into_iter().filter(|f| wanted.contains(*f));
            order
                .filter(|f| found.iter().all(|a| Family::of(*a) != *f))
                .collect::<Vec<_>>()
        };
        let mut room = self.room(found);
        groups.splice(0..0, self.home(found));
        let known = |found: &[IpAddr], groups: &[Vec<&Pool>], room| {
            lacking(found).into_iter().find_map(|family| {
                let own = self.own(family, groups).filter(|a| self.cost(*a) <= room);
                own.or_else(|| self.shared(family, groups, room))
            })
        };
        while let Some(address) = known(found, &groups, room) {
            room -= self.cost(address);
            found.push(address);
            groups.splice(0..0, self.home(found));
        }
        let take = |pool: &&Pool, family| self.allocator.first_free(self.world, pool, family);
        for group in &groups {
            let missing = lacking(found);
            if let [a, b] = missing[..]
                && room >= 2
                && let Some((a, b)) = group.iter().find_map(|p| Some((take(p, a)?, take(p, b)?)))
            {
                found.extend([a, b]);
                room -= 2;
                continue;
            }
            for family in missing {
                if room > 0
                    && let Some(address) = group.iter().find_map(|p| take(p, family))
                {
                    found.push(address);
                    room -= 1;
                }
            }
        }
        lacking(found)
            .first()
            .map(|family| self.why_none(*family, &groups, room))
    }

    /// The pool of the first address found, as a group of its own.
    fn home(&self, found: &[IpAddr]) -> Option<Vec<&Pool>> {
        let home = self.world.pool_of(*found.first()?)?;
        self.allows(home).is_ok().then(|| vec![home])
    }

    /// An address that is kept for this Service, or stands in its status.
    fn own(&self, family: Family, groups: &[Vec<&Pool>]) -> Option<IpAddr> {
        let of_family = |a: &IpAddr| Family::of(*a) == family;
        let usable = |a: &IpAddr| self.may_get(*a).is_ok();
        let asked = self.view.request.as_ref().ok().and_then(|r| r.pool.as_deref());
        let fits = |a: &IpAddr| of_family(a) && asked.is_none_or(|pool| self.pool_name(*a) == Some(pool));
        let named = self.allocator.named(&self.view.id).into_iter().filter(fits);
        let mut kept = named
            .filter(|a| self.is_reserved(*a) || self.may_take(*a, groups))
            .filter(usable);
        kept.next().or_else(|| {
            let shown = self.view.ingress.iter().copied().filter(fits);
            shown.filter(|a| self.may_take(*a, groups)).find(usable)
        })
    }

    /// An address that carries the Service's sharing key.
    fn shared(&self, family: Family, groups: &[Vec<&Pool>], room: usize) -> Option<IpAddr> {
        let key = self.view.sharing_key.as_deref()?;
        let place = |a: &IpAddr| groups.iter().flatten().position(|p| p.contains(*a));
        self.allocator
            .with_key(key)
            .filter(|a| Family::of(*a) == family)
            .filter_map(|a| Some((place(&a)?, a)))
            .filter(|(_, a)| self.cost(*a) <= room && self.may_take(*a, groups) && self.may_get(*a).is_ok())
            .min()
            .map(|(_, a)| a)
    }

    /// Whether the address lies in a pool that may be used now.
    fn may_take(&self, address: IpAddr, groups: &[Vec<&Pool>]) -> bool {
        self.world.pool_of(address).is_some_and(|pool| {
            let usable = groups.iter().flatten().any(|p| p.name == pool.name);
            // Whoever held an address of a pool without autoAssign asked for it once; that is still good.
            (usable || self.allows(pool).is_ok() && self.is_named(address)) && !pool.is_buggy(address)
        })
    }

    fn is_named(&self, address: IpAddr) -> bool {
        let record = self
            .allocator
            .record(address)
            .filter(|r| !r.is_losing(&self.view.id, &self.view.uid));
        let claims = record.and_then(|r| r.object.as_ref()).map(|o| &o.claims);
        claims.into_iter().flatten().any(|c| c.service == self.view.id)
    }

    fn is_reserved(&self, address: IpAddr) -> bool {
        let record = self.allocator.record(address);
        record.is_some_and(|r| r.is_reserved_for(&self.view.id))
    }

    /// The pools that may be chosen unasked, in groups of equal standing.
    fn groups(&self) -> Vec<Vec<&Pool>> {
        let pools = self.world.config().pools.values();
        let (mut pinned, unpinned): (Vec<_>, Vec<_>) = pools
            .filter(|p| p.auto_assign && self.allows(p).is_ok())
            .partition(|p| p.allocation.is_some());
        pinned.sort_by(|a, b| a.rank().cmp(&b.rank()));
        let mut groups = pinned
            .chunk_by(|a, b| a.rank().0 == b.rank().0)
            .map(<[&Pool]>::to_vec)
            .collect::<Vec<_>>();
        if !unpinned.is_empty() {
            groups.push(unpinned);
        }
        groups
    }

    fn admits(&self, pool: &Pool) -> Result<(), Reason> {
        if pool.admits(&self.view.id.namespace, &self.view.labels) {
            Ok(())
        } else {
            Err(Reason::PoolExcludesService {
                pool: pool.name.clone(),
            })
        }
    }

    /// Whether both the pool's own rules and the policies of the namespace let the Service have addresses of it.
    fn allows(&self, pool: &Pool) -> Result<(), Reason> {
        self.admits(pool)?;
        self.limits().pool(&pool.name)
    }

    fn limits(&self) -> Limits<'_> {
        Limits::of(self.world, self.allocator, &self.view.id.namespace)
    }

    /// Whether the address is free for the Service, or may be shared by it.
    fn may_get(&self, address: IpAddr) -> Result<(), Reason> {
        self.allocator.may_hold(self.world, address, self.view)?;
        if self.is_reserved(address) {
            return Ok(());
        }
        self.limits().sharing(address, &self.view.id)
    }

    /// How many more addresses the namespace may have once the Service holds nothing but `kept`.
    fn room(&self, kept: &[IpAddr]) -> usize {
        if self.replacing {
            return usize::MAX;
        }
        let alone = |a: &&IpAddr| self.allocator.holders_in(&self.view.id.namespace, **a) == 1;
        let given_up = self.held.iter().filter(|a| !kept.contains(a)).filter(alone);
        self.limits().room(given_up.count())
    }

    /// How much of that the address takes.
    fn cost(&self, address: IpAddr) -> usize {
        usize::from(self.limits().is_more(address) && !self.is_reserved(address))
    }

    /// The pool that the address counts to: the one it lies in, else the one its VirtualIP names.
    fn pool_name(&self, address: IpAddr) -> Option<&str> {
        match self.world.pool_of(address) {
            Some(pool) => Some(&pool.name),
            None => self.allocator.record(address)?.recorded_pool(),
        }
    }

    fn why_none(&self, family: Family, groups: &[Vec<&Pool>], room: usize) -> Reason {
        let names = |pools: Vec<&&Pool>| {
            let mut names = pools.into_iter().map(|p| p.name.clone()).collect::<Vec<_>>();
            names.dedup();
            names
        };
        let all = groups.iter().flatten().collect::<Vec<_>>();
        let with_family = all
            .iter()
            .copied()
            .filter(|p| p.families().contains(family))
            .collect::<Vec<_>>();
        let pools = &self.world.config().pools;
        if pools.is_empty() {
            Reason::NoPools
        } else if all.is_empty()
            && let Some(refusal) = pools
                .values()
                .filter(|p| p.auto_assign && self.admits(p).is_ok())
                .find_map(|p| self.limits().pool(&p.name).err())
        {
            refusal
        } else if all.is_empty() {
            let refusal = |p: &Pool| match self.admits(p) {
                Err(_) => "its serviceAllocation does not select this Service",
                Ok(()) => "autoAssign is off",
            };
            Reason::NoPoolForService {
                refused: pools.values().map(|p| (p.name.clone(), refusal(p))).collect(),
            }
        } else if with_family.is_empty() {
            Reason::NoAddressOfFamily {
                pools: names(all),
                family,
            }
        } else if let Some(full) = self.limits().full().filter(|_| room == 0) {
            full
        } else {
            Reason::PoolExhausted {
                pools: names(with_family),
                family,
            }
        }
    }
}
