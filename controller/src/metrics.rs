//! What `/metrics` shows of the controller. Names under `metallb_` are those that users' dashboards know.

use std::collections::{BTreeMap, BTreeSet};

use ferrolb_controller_core::PoolUsage;
use ferrolb_runtime::apply::Failure;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::pools::saturated;
use crate::writes::WriteKind;

/// All of them, registered.
#[derive(Clone, Debug, Default)]
pub(crate) struct Metrics {
    addresses: Family<PoolLabel, Gauge>,
    in_use: Family<PoolLabel, Gauge>,
    pending: Family<ReasonLabel, Gauge>,
    writes: Family<WriteLabels, Counter>,
    unanswered_probes: Counter,
    conflicts: Gauge,
    inputs: Counter,
    pools: BTreeSet<String>,
    reasons: BTreeSet<&'static str>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PoolLabel {
    pool: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WriteLabels {
    kind: &'static str,
    result: &'static str,
}

impl Metrics {
    /// Registers everything.
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        // Gauges: the library appends `_total` to counters only, so here it is part of the name.
        registry.register(
            "metallb_allocator_addresses_total",
            "Addresses that the pool may hand out",
            metrics.addresses.clone(),
        );
        registry.register(
            "metallb_allocator_addresses_in_use_total",
            "Addresses of the pool that are in use",
            metrics.in_use.clone(),
        );
        registry.register(
            "ferrolb_pending_services",
            "Services that wait for an address, by reason",
            metrics.pending.clone(),
        );
        registry.register(
            "ferrolb_writes",
            "Writes to the API server, by what was written and how it ended",
            metrics.writes.clone(),
        );
        registry.register(
            "ferrolb_unanswered_probes",
            "Addresses handed out because the speaker that was asked about other machines did not answer in time",
            metrics.unanswered_probes.clone(),
        );
        registry.register(
            "ferrolb_address_conflicts",
            "Addresses of Services that other machines use, as speakers say",
            metrics.conflicts.clone(),
        );
        registry.register(
            "ferrolb_inputs",
            "News that the owner task has taken in",
            metrics.inputs.clone(),
        );
        metrics
    }

    /// One piece of news.
    pub(crate) fn input(&self) {
        self.inputs.inc();
    }

    /// What is known of other machines that use addresses.
    pub(crate) fn probes(&self, unanswered: u64, conflicts: usize) {
        let more = unanswered.saturating_sub(self.unanswered_probes.get());
        self.unanswered_probes.inc_by(more);
        self.conflicts.set(i64::try_from(conflicts).unwrap_or(i64::MAX));
    }

    /// One write has ended.
    pub(crate) fn write(&self, kind: WriteKind, result: &Result<(), Failure>) {
        let kind = kind.as_str();
        let result = result.as_ref().map_or_else(Failure::as_str, |()| "ok");
        self.writes.get_or_create(&WriteLabels { kind, result }).inc();
    }

    /// How full the pools are now.
    pub(crate) fn pools(&mut self, counts: &BTreeMap<String, PoolUsage>) {
        for gone in self.pools.iter().filter(|pool| !counts.contains_key(*pool)) {
            let label = PoolLabel { pool: gone.clone() };
            self.addresses.remove(&label);
            self.in_use.remove(&label);
        }
        for (pool, count) in counts {
            let label = PoolLabel { pool: pool.clone() };
            let total = count.v4.total.saturating_add(count.v6.total);
            self.addresses.get_or_create(&label).set(saturated(total));
            self.in_use
                .get_or_create(&label)
                .set(saturated(count.v4.in_use + count.v6.in_use));
        }
        self.pools = counts.keys().cloned().collect();
    }

    /// How many Services wait now, by reason.
    pub(crate) fn pending(&mut self, counts: &BTreeMap<&'static str, usize>) {
        for reason in self.reasons.iter().filter(|reason| !counts.contains_key(*reason)) {
            self.pending.get_or_create(&ReasonLabel { reason }).set(0);
        }
        for (reason, count) in counts {
            let count = i64::try_from(*count).unwrap_or(i64::MAX);
            self.pending.get_or_create(&ReasonLabel { reason }).set(count);
        }
        self.reasons.extend(counts.keys());
    }
}
