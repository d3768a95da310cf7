//! Everything at a glance, problems first.

use std::net::IpAddr;

use ferrolb_api as api;
use ferrolb_config::service_view;
use ferrolb_controller_core::Usage;
use ferrolb_model::ServiceType;
use kube::ResourceExt;
use serde::Serialize;

use crate::replay::Replay;
use crate::table::{join, or_dash, table};
use crate::why::{session_text, why};
use crate::world::World;

/// The overview.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// What is wrong, one line each.
    pub problems: Vec<String>,
    /// The pools in force.
    pub pools: Vec<PoolLine>,
    /// The addresses in use, reserved or blocked.
    pub addresses: Vec<AddressLine>,
    /// The nodes.
    pub nodes: Vec<NodeLine>,
    /// The BGP sessions.
    pub sessions: Vec<SessionLine>,
}

/// A pool.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PoolLine {
    /// Its name.
    pub name: String,
    /// Addresses in use.
    pub used_v4: String,
    /// Addresses left.
    pub free_v4: String,
    /// Addresses in use.
    pub used_v6: String,
    /// Addresses left.
    pub free_v6: String,
}

/// An address.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AddressLine {
    /// The address.
    pub address: String,
    /// The pool it is of.
    pub pool: String,
    /// Who holds it.
    pub services: Vec<String>,
    /// The node that owns it at layer 2.
    pub owner: String,
    /// Who takes over.
    pub standbys: Vec<String>,
    /// Reason of the condition Announced.
    pub state: String,
}

/// A node.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeLine {
    /// Its name.
    pub name: String,
    /// Whether the Node is Ready.
    pub ready: bool,
    /// The version of its speaker; empty without one.
    pub speaker: String,
    /// How many addresses it announces at layer 2.
    pub addresses: u32,
    /// BGP sessions that stand, of how many.
    pub sessions: String,
    /// What its speaker says went wrong last.
    pub last_error: String,
}

/// A BGP session.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SessionLine {
    /// The node.
    pub node: String,
    /// The BGPPeer.
    pub peer: String,
    /// The router.
    pub address: String,
    /// Where it stands.
    pub state: String,
    /// Prefixes that the router has.
    pub prefixes: u32,
}

/// The overview of a world; of Services, those that `wanted` lets through.
pub fn status(world: &World, replay: &Replay, class: Option<&str>, wanted: impl Fn(&str) -> bool) -> Status {
    let mut problems = replay.unreadable.clone();
    problems.extend(replay.parsed.errors.iter().map(ToString::to_string));
    for (id, service) in world.services.iter().filter(|(id, _)| wanted(&id.namespace)) {
        let view = service_view(service);
        let ours = view.kind == ServiceType::LoadBalancer && view.class.as_deref() == class;
        if let Some(why) = ours
            .then(|| why(world, replay, id, class))
            .flatten()
            .filter(|w| !w.works)
        {
            problems.push(format!("Service {id} {}", why.verdict));
        }
    }
    let nodes = world.nodes.iter().map(|node| {
        let view = ferrolb_config::node_view(node);
        let state = world.speakers.iter().find(|s| s.name_any() == view.name);
        let state = state.and_then(|s| s.status.as_ref());
        let bgp = state.and_then(|s| s.bgp.as_ref());
        NodeLine {
            ready: view.ready,
            speaker: state.map(|s| s.version.clone()).unwrap_or_default(),
            addresses: state.and_then(|s| s.layer2).map_or(0, |l| l.announced_addresses),
            sessions: bgp
                .map(|b| format!("{}/{}", b.established, b.sessions.len()))
                .unwrap_or_default(),
            last_error: state.map(|s| s.last_error.clone()).unwrap_or_default(),
            name: view.name,
        }
    });
    let mut nodes = nodes.collect::<Vec<_>>();
    nodes.sort_by(|a, b| a.name.cmp(&b.name));
    for node in &nodes {
        if !node.ready {
            problems.push(format!("Node {} is not Ready", node.name));
        }
        if node.speaker.is_empty() {
            problems.push(format!("the speaker of Node {} has told nothing", node.name));
        }
        if !node.last_error.is_empty() {
            problems.push(format!("the speaker of Node {} says {:?}", node.name, node.last_error));
        }
    }
    let mut sessions = Vec::new();
    for speaker in &world.speakers {
        let node = speaker.name_any();
        let all = speaker
            .status
            .iter()
            .filter_map(|s| s.bgp.as_ref())
            .flat_map(|b| &b.sessions);
        for session in all {
            let line = session_line(&node, session);
            if session.state != api::SessionState::Established {
                problems.push(format!("BGP session of {node} with {}: {}", session.peer, line.state));
            }
            sessions.push(line);
        }
    }
    sessions.sort_by(|a, b| (&a.node, &a.peer).cmp(&(&b.node, &b.peer)));
    Status {
        problems,
        pools: pools(replay),
        addresses: addresses(world),
        nodes,
        sessions,
    }
}

fn session_line(node: &str, session: &api::BgpSession) -> SessionLine {
    SessionLine {
        node: node.to_owned(),
        peer: session.peer.clone(),
        address: session.address.clone(),
        state: session_text(session),
        prefixes: session.prefixes_sent,
    }
}

fn pools(replay: &Replay) -> Vec<PoolLine> {
    let free = |usage: Usage| usage.total.saturating_sub(usage.in_use).to_string();
    let usage = replay.controller.pool_usage().into_iter();
    let lines = usage.map(|(name, usage)| PoolLine {
        name,
        used_v4: usage.v4.in_use.to_string(),
        free_v4: free(usage.v4),
        used_v6: usage.v6.in_use.to_string(),
        free_v6: free(usage.v6),
    });
    lines.collect()
}

fn addresses(world: &World) -> Vec<AddressLine> {
    let line = |vip: &api::VirtualIp| {
        let status = vip.status.clone().unwrap_or_default();
        let placement = status.placement.unwrap_or_default();
        let condition = |kind: &str| status.conditions.iter().find(|c| c.type_ == kind);
        let state = condition("Announced")
            .or(condition("Allocated"))
            .map(|c| c.reason.clone());
        let claims = vip.spec.claims.iter().map(|c| format!("{}/{}", c.namespace, c.name));
        AddressLine {
            address: vip.spec.address.clone(),
            pool: vip.spec.pool.clone().unwrap_or_default(),
            services: claims.collect(),
            owner: placement.owner,
            standbys: placement.standbys,
            state: state.unwrap_or_default(),
        }
    };
    let mut lines = world.virtual_ips.iter().map(line).collect::<Vec<_>>();
    lines.sort_by_key(|line| line.address.parse::<IpAddr>().ok());
    lines
}

impl Status {
    /// As tables.
    pub fn text(&self) -> String {
        let mut text = match self.problems.len() {
            0 => "No problems.\n".to_owned(),
            n => format!("{n} problem{}:\n", if n == 1 { "" } else { "s" }),
        };
        for problem in &self.problems {
            text += &format!("  {problem}\n");
        }
        let pools = self.pools.iter().map(|p| {
            let PoolLine {
                name,
                used_v4,
                free_v4,
                used_v6,
                free_v6,
            } = p.clone();
            vec![name, used_v4, free_v4, used_v6, free_v6]
        });
        let addresses = self.addresses.iter().map(|a| {
            let (services, standbys) = (join(&a.services), join(&a.standbys));
            let cells = [&a.address, &a.pool, &services, &a.owner, &standbys, &a.state];
            cells.map(or_dash).to_vec()
        });
        let nodes = self.nodes.iter().map(|n| {
            let ready = if n.ready { "True" } else { "False" }.to_owned();
            let addresses = n.addresses.to_string();
            let cells = [&n.name, &ready, &n.speaker, &addresses, &n.sessions, &n.last_error];
            cells.map(or_dash).to_vec()
        });
        let sessions = self.sessions.iter().map(|s| {
            let prefixes = s.prefixes.to_string();
            let cells = [&s.node, &s.peer, &s.address, &s.state, &prefixes];
            cells.map(or_dash).to_vec()
        });
        let parts: [(&[&str], Vec<Vec<String>>); 4] = [
            (
                &["POOL", "USED IPv4", "FREE IPv4", "USED IPv6", "FREE IPv6"],
                pools.collect(),
            ),
            (
                &["ADDRESS", "POOL", "SERVICES", "OWNER", "STANDBYS", "STATE"],
                addresses.collect(),
            ),
            (
                &["NODE", "READY", "SPEAKER", "ADDRESSES", "BGP", "LAST ERROR"],
                nodes.collect(),
            ),
            (&["NODE", "PEER", "ROUTER", "SESSION", "PREFIXES"], sessions.collect()),
        ];
        for (heading, rows) in parts.iter().filter(|(_, rows)| !rows.is_empty()) {
            text.push('\n');
            text += &table(heading, rows);
        }
        text
    }
}
