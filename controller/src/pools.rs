//! The counters in each pool's status: on change only, and never more often than every [`PACE`], however many Services
//! come and go in between. What somebody else writes there is put right.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use ferrolb_api::names::CONTROLLER_MANAGER;
use ferrolb_api::{IpAddressPool, IpAddressPoolStatus};
use ferrolb_controller_core::{PoolUsage, Usage};
use ferrolb_runtime::apply::{self, Failure};
use kube::api::{PartialObjectMeta, Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;

/// Time that changes are collected before they are written.
pub(crate) const PACE: Duration = Duration::from_millis(500);

/// Time before a failed write is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// What the pools' statuses should say, what they say, and what is being written.
#[derive(Debug, Default)]
pub(crate) struct PoolStatuses {
    wanted: BTreeMap<String, IpAddressPoolStatus>,
    seen: BTreeMap<String, Option<IpAddressPoolStatus>>,
    busy: BTreeSet<String>,
    due: Option<Instant>,
}

impl PoolStatuses {
    /// The object says this.
    pub(crate) fn seen(&mut self, pool: &str, status: Option<IpAddressPoolStatus>, now: Instant) {
        if self.seen.insert(pool.to_owned(), status) != Some(status) {
            self.wake(now + PACE);
        }
    }

    /// The object is gone.
    pub(crate) fn gone(&mut self, pool: &str) {
        self.seen.remove(pool);
    }

    /// The figures are these now.
    pub(crate) fn want(&mut self, usage: &BTreeMap<String, PoolUsage>) {
        self.wanted = usage
            .iter()
            .map(|(pool, usage)| (pool.clone(), status(usage)))
            .collect();
    }

    /// The statuses to write now; their outcomes come back through [`PoolStatuses::written`].
    pub(crate) fn due(&mut self, now: Instant) -> Vec<(String, IpAddressPoolStatus)> {
        if self.due.is_none_or(|due| due > now) {
            return Vec::new();
        }
        self.due = None;
        let stale = self
            .wanted
            .iter()
            .filter(|(pool, wanted)| self.seen.get(*pool).is_some_and(|seen| seen.as_ref() != Some(*wanted)))
            .filter(|(pool, _)| !self.busy.contains(*pool))
            .map(|(pool, wanted)| (pool.clone(), *wanted))
            .collect::<Vec<_>>();
        self.busy.extend(stale.iter().map(|(pool, _)| pool.clone()));
        stale
    }

    /// A write has ended.
    pub(crate) fn written(&mut self, pool: &str, written: Result<IpAddressPoolStatus, &Failure>, now: Instant) {
        self.busy.remove(pool);
        match written {
            Ok(status) => {
                if let Some(seen) = self.seen.get_mut(pool) {
                    *seen = Some(status);
                }
                self.wake(now + PACE);
            }
            Err(_) => self.wake(now + RETRY),
        }
    }

    /// When to ask [`PoolStatuses::due`] again.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.due
    }

    /// Asks for a look at `at`, unless an earlier one is planned.
    pub(crate) fn wake(&mut self, at: Instant) {
        self.due = Some(self.due.map_or(at, |due| due.min(at)));
    }
}

/// Writes one pool's counters. No precondition: the figures are the controller's alone, and the newest are right.
pub(crate) async fn write(
    client: Client,
    namespace: String,
    pool: String,
    status: IpAddressPoolStatus,
) -> Result<(), Failure> {
    let pools = Api::<PartialObjectMeta<IpAddressPool>>::namespaced(client, &namespace);
    let params = PatchParams {
        field_manager: Some(CONTROLLER_MANAGER.to_owned()),
        ..PatchParams::default()
    };
    let body = Patch::Merge(json!({ "status": status }));
    apply::within(pools.patch_status(&pool, &params, &body)).await?;
    Ok(())
}

fn status(usage: &PoolUsage) -> IpAddressPoolStatus {
    IpAddressPoolStatus {
        assigned_ipv4: saturated(usage.v4.in_use),
        assigned_ipv6: saturated(usage.v6.in_use),
        available_ipv4: available(usage.v4),
        available_ipv6: available(usage.v6),
    }
}

fn available(usage: Usage) -> i64 {
    saturated(usage.total.saturating_sub(usage.in_use))
}

/// What the API can say of a number of addresses.
pub(crate) fn saturated(count: u128) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(total: u128, in_use: u128) -> BTreeMap<String, PoolUsage> {
        let v4 = Usage { total, in_use };
        let v6 = Usage {
            total: u128::MAX,
            in_use: 0,
        };
        BTreeMap::from([("lan".to_owned(), PoolUsage { v4, v6 })])
    }

    #[test]
    fn written_once_per_change_and_put_right() {
        let start = Instant::now();
        let mut pools = PoolStatuses::default();
        pools.seen("lan", None, start);
        pools.want(&usage(10, 1));
        assert!(pools.due(start).is_empty(), "changes are collected first");
        pools.want(&usage(10, 3));
        let due = pools.due(start + PACE);
        let [(pool, status)] = &due[..] else { panic!("{due:?}") };
        assert_eq!(
            (status.assigned_ipv4, status.available_ipv4, status.available_ipv6),
            (3, 7, i64::MAX)
        );
        pools.wake(start);
        assert!(pools.due(start + PACE).is_empty(), "one write at a time");

        pools.written(pool, Ok(*status), start + PACE);
        assert!(pools.due(start + PACE * 2).is_empty(), "nothing changed");
        assert_eq!(pools.deadline(), None);

        pools.seen("lan", Some(IpAddressPoolStatus::default()), start);
        assert_eq!(pools.due(start + PACE).len(), 1, "somebody else wrote it");
        pools.written("lan", Err(&Failure::Conflict), start);
        assert!(pools.due(start + PACE).is_empty());
        assert_eq!(pools.due(start + RETRY).len(), 1);
    }

    #[test]
    fn a_pool_that_is_gone_is_left_alone() {
        let start = Instant::now();
        let mut pools = PoolStatuses::default();
        pools.seen("lan", None, start);
        pools.want(&usage(10, 1));
        pools.gone("lan");
        assert!(pools.due(start + PACE).is_empty());
    }
}
