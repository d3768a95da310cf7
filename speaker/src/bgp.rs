//! BGP and BFD in the speaker: everything between `ferrolb_speaker_core::Bgp`, which decides, and `ferrolb_bgp` and
//! `ferrolb_bfd`, which do.
//!
//! The owner task hands each of its inputs to the [`Decider`], which gives every new plan to the [`Keeper`] task. The
//! keeper turns it into what the two engines want (`convert`), runs them on threads of their own once there is a peer
//! (`engine`), and keeps a [`View`] of plan and sessions for whoever tells about them: `picture` for the objects in the
//! API server, `metrics`, and `notices` for events.
//!
//! | channel | when it is full |
//! | --- | --- |
//! | the plan, to keeper and snapshot; what the engines want; the view | always the latest only |
//! | reports of BFD | the BFD thread keeps the latest of each session and offers it again |
//!
//! What the last run of the speaker had planned is in force from the first moment on, so that sessions stand and routes
//! stay although the API server is away. Routers that wait for the end of the routes after a restart (RFC 4724) are told
//! of it once there is a plan of this run.
//!
//! A path that BFD sees fail takes its session down on the BGP thread itself: however busy the rest of the program is,
//! it does not stand in between.

mod convert;
mod engine;
mod keeper;
mod marker;
mod metrics;
pub(crate) mod news;
mod notices;
mod picture;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ferrolb_bgp::engine::Board;
use ferrolb_model::{NodeRefusal, ServiceId};
use ferrolb_runtime::events::Recorder;
use ferrolb_runtime::tasks::Tasks;
use ferrolb_speaker_core::{Bgp, BgpPlan, DataPath, Input, Late, Settings};
use jiff::Timestamp;
use prometheus_client::registry::Registry;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tracing::info;

use crate::kube_proxy::Clock;

use crate::store::Store;

use keeper::{Ends, Keeper};

pub(crate) use engine::{BfdBoard, Lent};
pub(crate) use keeper::{Fixed, Order};
pub(crate) use marker::Marker;
pub(crate) use picture::{BgpPicture, Services};

/// A plan, and what is needed to talk about it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Planned {
    /// The plan.
    pub(crate) plan: Arc<BgpPlan>,
    /// The uid of each BGPPeer in it, by name.
    pub(crate) uids: BTreeMap<String, String>,
    /// It is what the last run left behind, and may lack something.
    pub(crate) restored: bool,
}

/// What there is to tell, all of it as it is now.
#[derive(Clone, Debug, Default)]
pub(crate) struct View {
    /// `None` until there is a plan.
    pub(crate) planned: Option<Planned>,
    /// What was made of it for BGP.
    pub(crate) wanted: Arc<ferrolb_bgp::Wanted>,
    /// Settings of peers that cannot be used, with the reason.
    pub(crate) faults: BTreeMap<String, String>,
    /// The paths that BFD watches, by the name of the peer.
    pub(crate) paths: BTreeMap<String, Arc<ferrolb_bfd::Path>>,
    /// When the sessions' clock began.
    pub(crate) start: Option<(Timestamp, std::time::Instant)>,
    /// The sessions.
    pub(crate) sessions: Board,
    /// The paths.
    pub(crate) bfd: BfdBoard,
}

/// What a predecessor has handed over.
#[derive(Debug, Default)]
pub(crate) struct Before {
    /// Its plan.
    pub(crate) plan: Option<BgpPlan>,
    /// What its engines had.
    pub(crate) lent: Lent,
}

/// Starts the keeper and shows what it sees in `registry`. The [`Decider`] is for the owner task, the picture for whoever
/// writes it down.
pub(crate) fn spawn(
    tasks: &mut Tasks,
    registry: &mut Registry,
    fixed: Fixed,
    settings: Settings,
    (store, events): (Store<BgpPlan>, Recorder),
    (before, orders): (Before, mpsc::Receiver<Order>),
) -> (Decider, watch::Receiver<BgpPicture>) {
    let restored = before.plan.or_else(|| store.restore()).map(Arc::new);
    let (planned_in, planned) = watch::channel(None);
    let (view, shown) = watch::channel(Arc::default());
    let (picture_in, picture) = watch::channel(BgpPicture::default());
    metrics::register(registry, shown);
    let (plans, to_keep) = watch::channel(Arc::default());
    let mut decider = Decider::new(&fixed.node, settings, planned_in, plans);
    if let Some(plan) = restored {
        decider.restore(plan);
    }
    let ends = Ends {
        planned,
        view,
        picture: picture_in,
        events,
        orders,
    };
    tasks.spawn("bgp snapshot", store.keep(to_keep, tasks.stop()));
    tasks.spawn("bgp", Keeper::new(fixed, before.lent, ends).run(tasks.stop()));
    (decider, picture)
}

/// The owner task's side: decides, and tells the keeper.
pub(crate) struct Decider {
    core: Bgp,
    planned: watch::Sender<Option<Planned>>,
    /// To the snapshot.
    plans: watch::Sender<Arc<BgpPlan>>,
    /// What was not announced when it was last looked at, for the log.
    withheld: BTreeMap<(ServiceId, IpAddr), NodeRefusal>,
}

impl Decider {
    /// For the speaker of `node`.
    pub(crate) fn new(
        node: &str,
        settings: Settings,
        planned: watch::Sender<Option<Planned>>,
        plans: watch::Sender<Arc<BgpPlan>>,
    ) -> Self {
        Decider {
            core: Bgp::new(node, settings),
            planned,
            plans,
            withheld: BTreeMap::new(),
        }
    }

    /// What the last run planned goes on until there is a plan.
    fn restore(&mut self, plan: Arc<BgpPlan>) {
        self.core.restore(Arc::clone(&plan));
        self.planned.send_replace(Some(Planned {
            plan,
            uids: BTreeMap::new(),
            restored: true,
        }));
    }

    /// Takes in what the owner task heard.
    pub(crate) fn hear(&mut self, input: &Input) {
        self.core.handle(input);
    }

    /// The endpoints of these Services have changed.
    pub(crate) fn endpoints_changed(&mut self, services: &[ServiceId]) {
        self.core.endpoints_changed(services);
    }

    /// Routers may still hold what the last run announced.
    pub(crate) fn resume(&mut self) {
        self.core.resume();
    }

    /// Tells the keeper what follows from it; `uid` gives that of a BGPPeer. Returns what has waited for kube-proxy in vain.
    pub(crate) fn settle(&mut self, path: &DataPath, now: Duration, uid: impl Fn(&str) -> Option<String>) -> Vec<Late> {
        let Some(plan) = self.core.plan(path, now) else {
            return self.core.late();
        };
        let peers = plan.peers.keys().chain(plan.refused.keys());
        let uids = peers.filter_map(|peer| Some((peer.clone(), uid(peer)?))).collect();
        self.plans.send_replace(Arc::clone(&plan));
        self.planned.send_replace(Some(Planned {
            plan,
            uids,
            restored: false,
        }));
        self.log();
        self.core.late()
    }

    /// Whether something waits for kube-proxy.
    pub(crate) fn is_waiting(&self) -> bool {
        self.core.is_waiting()
    }

    /// What is to be asked for that besides kube-proxy itself.
    pub(crate) fn checks(&self, path: &DataPath) -> BTreeSet<SocketAddr> {
        self.core.checks(path)
    }

    /// When to settle although nothing was heard.
    pub(crate) fn deadline(&self, clock: Clock) -> Option<Instant> {
        // A plan that is due is settled with whatever comes first.
        let soon = Duration::from_millis(1);
        let after = self.core.deadline()?;
        Some(clock.instant(after).max(Instant::now() + soon))
    }

    /// Each Service that is announced, with its address.
    pub(crate) fn announced(&self) -> impl Iterator<Item = (&ServiceId, IpAddr)> {
        self.core.announced()
    }

    /// How many addresses are not announced although an advertisement speaks for them, by reason.
    pub(crate) fn withheld(&self) -> BTreeMap<NodeRefusal, u64> {
        let mut counts = BTreeMap::new();
        for (_, _, why) in self.core.withheld() {
            *counts.entry(why).or_default() += 1;
        }
        counts
    }

    /// Logs each reason once.
    fn log(&mut self) {
        let now: BTreeMap<_, _> = self
            .core
            .withheld()
            .map(|(service, address, why)| ((service.clone(), address), why))
            .collect();
        for ((service, address), why) in &now {
            if self.withheld.get(&(service.clone(), *address)) != Some(why) {
                info!(%service, %address, reason = why.as_str(), "not announced by BGP");
            }
        }
        self.withheld = now;
    }
}
