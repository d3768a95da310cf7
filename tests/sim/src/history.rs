//! What people and machines around the controller do, drawn from a seed before anything runs, so that the same history
//! can be played with another order of events.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use ferrolb_controller_core::RebalanceRequest;
use ferrolb_model::{Config, EndpointsView, NodeView, ServiceId, ServiceView};

use crate::cluster::{Cluster, NODES, any_address};
use crate::users::Users;

/// What a seed puts into the world; most seeds leave something out, so that what fails stays readable.
#[derive(Clone, Debug)]
pub(crate) struct Scenario {
    /// How many controllers run; one of them leads.
    pub(crate) replicas: usize,
    /// How many things happen.
    pub(crate) actions: usize,
    /// Everything comes to rest between two actions, and nothing fails: the outcome must not depend on the order in
    /// which watches and answers arrive.
    pub(crate) calm: bool,
    /// The API server fails some writes.
    pub(crate) faults: bool,
    /// Controllers crash, and pause; with several, two may believe to lead.
    pub(crate) crashes: bool,
    /// Watches stall and are listed anew.
    pub(crate) relists: bool,
    /// Administrators and strangers write VirtualIPs and statuses by hand.
    pub(crate) hands: bool,
    /// Pools and namespaces change after the start.
    pub(crate) admin: bool,
    /// AllocationPolicies are in force.
    pub(crate) policies: bool,
    /// Nodes and endpoints come and go.
    pub(crate) nodes: bool,
    /// Addresses stand in the status of Services before the first controller starts.
    pub(crate) legacy: bool,
    /// Speakers tell of the segment, and are asked whether another machine uses an address; some machines do.
    pub(crate) speakers: bool,
    /// The longest delay of a watch event or a write.
    pub(crate) slow: Duration,
}

impl Scenario {
    fn draw(rng: &mut Rng) -> Self {
        let calm = rng.u8(..4) == 0;
        let mut often = |n: u8| rng.u8(..n) != 0;
        let (faults, crashes, relists) = (!calm && often(3), !calm && often(3), !calm && often(2));
        let (hands, admin, nodes) = (often(2), often(4), often(3));
        let (legacy, policies) = (!often(3), !often(4));
        let speakers = !calm && !often(2);
        Scenario {
            replicas: if crashes { rng.usize(1..=3) } else { 1 },
            actions: rng.usize(5..45),
            calm,
            faults,
            crashes,
            relists,
            hands,
            admin,
            policies,
            nodes,
            legacy,
            speakers,
            slow: Duration::from_millis([5, 100, 1000, 4000][rng.usize(..if calm { 2 } else { 4 })]),
        }
    }
}

/// One thing that happens.
#[derive(Clone, Debug)]
pub(crate) enum Action {
    /// The configuration changed; the text says how.
    Config(Arc<Config>, String),
    /// A Service is created or edited.
    Apply(Box<ServiceView>),
    /// A Service is deleted.
    Delete(ServiceId),
    /// A VirtualIP is created by hand, if there is none: a reservation, or without a Service a block.
    Reserve {
        address: IpAddr,
        service: Option<ServiceId>,
        retain: bool,
    },
    /// The reclaim policy of a VirtualIP is changed by hand.
    Retain { address: IpAddr, retain: bool },
    /// A VirtualIP is deleted by hand.
    DeleteVirtualIp(IpAddr),
    /// Somebody writes into the status of a Service.
    WriteStatus {
        service: ServiceId,
        ingress: Vec<IpAddr>,
        foreign: bool,
    },
    /// A node appears or changes.
    Node(NodeView),
    /// A node is gone.
    NodeGone(String),
    /// The endpoints of a Service change.
    Endpoints(EndpointsView),
    /// A standby takes an address over.
    TakeOver(IpAddr),
    /// Somebody asks to move an address, by an annotation of its VirtualIP.
    Move { address: IpAddr, request: String },
    /// Somebody asks to rebalance.
    Rebalance(RebalanceRequest),
    /// A machine that is no node's comes with this address, or goes.
    Stranger { address: IpAddr, there: bool },
}

/// A seed's scenario and everything that happens in it, by time since the start.
#[derive(Clone, Debug)]
pub(crate) struct History {
    pub(crate) scenario: Scenario,
    /// What is there before the first controller starts.
    pub(crate) before: Vec<Action>,
    pub(crate) actions: Vec<(Duration, Action)>,
    /// Nodes whose speaker never confirms that it announces, and takes nothing over.
    pub(crate) mute: BTreeSet<String>,
}

impl History {
    /// The history of a seed.
    pub(crate) fn draw(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let scenario = Scenario::draw(&mut rng);
        let mut cluster = Cluster::draw(&mut rng, &scenario);
        let mut users = Users::default();
        let mut before = cluster.start();
        before.extend(users.start(&mut rng, &scenario));
        let mut at = Duration::from_secs(1);
        let mut actions = Vec::new();
        for _ in 0..scenario.actions {
            at += gap(&mut rng, &scenario);
            let action = if scenario.speakers && rng.u8(..6) == 0 {
                Action::Stranger {
                    address: any_address(&mut rng),
                    there: rng.u8(..3) != 0,
                }
            } else if rng.u8(..10) < 7 {
                users.act(&mut rng, &scenario)
            } else {
                cluster
                    .act(&mut rng, &scenario)
                    .unwrap_or_else(|| users.act(&mut rng, &scenario))
            };
            actions.push((at, action));
        }
        History {
            scenario,
            before,
            actions,
            mute: mute(seed),
        }
    }
}

/// Mostly none, else some or all. By a generator of its own: with it or without, a history is the same otherwise.
fn mute(seed: u64) -> BTreeSet<String> {
    let mut rng = Rng::with_seed(!seed);
    let count = match rng.u8(..8) {
        0 => NODES.len(),
        1 => rng.usize(1..NODES.len()),
        _ => 0,
    };
    let nodes = rng.choose_multiple(NODES, count);
    nodes.into_iter().map(str::to_owned).collect()
}

/// Mostly things happen close together; at times a cool-down passes between two.
fn gap(rng: &mut Rng, scenario: &Scenario) -> Duration {
    let millis = match rng.u8(..20) {
        0 => 65_000 + rng.u64(..10_000),
        1..4 => rng.u64(1_000..15_000),
        4..10 => rng.u64(100..1_000),
        _ => rng.u64(..60),
    };
    let rest = if scenario.calm { 5_000 } else { 0 };
    Duration::from_millis(millis + rest)
}
