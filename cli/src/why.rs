//! Why a Service works, or what to do: its whole way from the request to the wire, one [`Step`] after the other.
//!
//! The first step that says no decides the sentence at the end. Rules come from the controller's core ([`Replay`]); what
//! controller and speakers have said themselves comes from the objects that they write.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ferrolb_api as api;
use ferrolb_config::service_view;
use ferrolb_model::{Family, NodeRefusal, Reason, ServiceId, ServiceType, ServiceView, VirtualIpName};
use kube::ResourceExt;
use serde::Serialize;

use crate::replay::Replay;
use crate::table::{join, or_dash};
use crate::world::World;

/// So many Warnings are worth reading.
const WARNINGS: usize = 5;

/// The report about one Service.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Why {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The addresses in its status.
    pub addresses: Vec<IpAddr>,
    /// Whether nothing stands in the way.
    pub works: bool,
    /// The reason of the first no, by its stable name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Works, or what to do.
    pub verdict: String,
    /// The way.
    pub steps: Vec<Step>,
}

/// One part of the way.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Step {
    /// What it is about.
    pub topic: &'static str,
    /// How it is.
    pub state: State,
    /// The stable name of a no.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// In words.
    pub text: String,
    /// One line for each pool, node, session or event.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub details: Vec<String>,
}

/// How a step is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// As it should be.
    Ok,
    /// Worth knowing.
    Note,
    /// Stands in the way.
    No,
}

impl Step {
    fn new(topic: &'static str, state: State, text: impl Into<String>) -> Self {
        Step {
            topic,
            state,
            reason: None,
            text: text.into(),
            details: Vec::new(),
        }
    }

    fn refused(topic: &'static str, reason: &str, text: impl Into<String>) -> Self {
        Step {
            reason: Some(reason.to_owned()),
            ..Step::new(topic, State::No, text)
        }
    }

    fn with(mut self, details: Vec<String>) -> Self {
        self.details = details;
        self
    }
}

/// The report about a Service; `None` if it is not there.
pub fn why(world: &World, replay: &Replay, id: &ServiceId, class: Option<&str>) -> Option<Why> {
    let view = service_view(world.services.get(id)?);
    let walk = Walk {
        world,
        replay,
        view: &view,
    };
    let steps = walk.steps(class);
    let no = steps.iter().find(|step| step.state == State::No);
    let verdict = match no {
        None => format!("works: {} is announced", join(&view.ingress)),
        Some(step) => {
            let name = step
                .reason
                .as_ref()
                .map(|reason| format!("{reason}: "))
                .unwrap_or_default();
            format!("does not work: {}: {name}{}", step.topic, step.text)
        }
    };
    Some(Why {
        namespace: id.namespace.clone(),
        name: id.name.clone(),
        addresses: view.ingress.clone(),
        works: no.is_none(),
        reason: no.and_then(|step| step.reason.clone()),
        verdict,
        steps,
    })
}

struct Walk<'a> {
    world: &'a World,
    replay: &'a Replay,
    view: &'a ServiceView,
}

impl Walk<'_> {
    fn steps(&self, class: Option<&str>) -> Vec<Step> {
        let mut steps = vec![self.class(class)];
        if steps[0].state == State::No {
            return steps;
        }
        steps.push(self.request());
        steps.push(self.families());
        steps.push(self.pools());
        steps.extend(self.view.ingress.iter().map(|a| self.address(*a)));
        if self.view.ingress.is_empty() {
            steps.push(self.no_address());
        } else {
            steps.push(self.endpoints());
            for address in &self.view.ingress {
                steps.extend(self.announcement(*address));
                steps.push(self.conflicts(*address));
            }
        }
        steps.push(self.events());
        steps
    }

    fn class(&self, class: Option<&str>) -> Step {
        let topic = "class";
        let own = self.view.class.as_deref();
        let named = |class: Option<&str>| class.map_or("no class".to_owned(), |c| format!("class {c:?}"));
        if self.view.kind != ServiceType::LoadBalancer {
            return Step::new(
                topic,
                State::No,
                "the Service is no LoadBalancer; set spec.type to LoadBalancer",
            );
        }
        if own != class {
            let text = format!(
                "the Service has {} and FerroLB serves Services with {}; the class of a Service cannot be changed, so make \
                 the Service again or start FerroLB with --load-balancer-class",
                named(own),
                named(class)
            );
            return Step::new(topic, State::No, text);
        }
        Step::new(topic, State::Ok, format!("LoadBalancer with {}", named(own)))
    }

    fn request(&self) -> Step {
        let topic = "request";
        let request = match &self.view.request {
            Ok(request) => request,
            Err(error) => return Step::refused(topic, "BadRequest", error.to_string()),
        };
        let mut parts = Vec::new();
        parts.extend(request.pool.as_ref().map(|pool| format!("pool {pool}")));
        if !request.addresses.is_empty() {
            parts.push(format!("address {}", join(&request.addresses)));
        }
        let sharing = self.view.sharing_key.as_ref();
        parts.extend(sharing.map(|key| format!("sharing key {key:?}")));
        let policy = self.view.announcement_policy.as_ref();
        parts.extend(policy.map(|name| format!("AnnouncementPolicy {name}")));
        let text = match parts.is_empty() {
            true => "any address".to_owned(),
            false => parts.join(", "),
        };
        let old = self.view.deprecated_annotations.iter();
        let old = old.map(|key| format!("annotation {key} is deprecated; use the prefix metallb.io/"));
        let old = old.collect::<Vec<_>>();
        let state = if old.is_empty() { State::Ok } else { State::Note };
        Step::new(topic, state, text).with(old)
    }

    fn families(&self) -> Step {
        if self.view.families.is_empty() {
            return Step::refused(
                "families",
                Reason::NoClusterIp.as_str(),
                Reason::NoClusterIp.to_string(),
            );
        }
        let text = format!("{} ({:?})", join(self.view.families.iter()), self.view.family_policy);
        Step::new("families", State::Ok, text)
    }

    /// Each pool, and why not.
    fn pools(&self) -> Step {
        let config = &self.replay.parsed.config;
        let errors = self.replay.parsed.errors.iter().filter(|e| e.kind == "IPAddressPool");
        let left_out = errors.map(ToString::to_string);
        let held = &self.view.ingress;
        let of = |pool: &ferrolb_model::Pool| {
            let mut says = Vec::new();
            for family in self.view.families.iter() {
                let holds = held.iter().find(|a| Family::of(**a) == family && pool.contains(**a));
                says.push(
                    match (
                        holds,
                        self.replay.controller.offer_of(&self.view.id, &pool.name, family),
                    ) {
                        (Some(address), _) => format!("gave {address}"),
                        (None, Some(Err(reason))) => format!("{}: {reason}", reason.as_str()),
                        (None, Some(Ok(_))) => format!("has {family} addresses free"),
                        (None, None) => continue,
                    },
                );
            }
            says.dedup();
            if !pool.auto_assign {
                says.push("autoAssign is off, so only for Services that ask for it".to_owned());
            }
            format!("{}: {}", pool.name, says.join("; "))
        };
        let details = config.pools.values().map(of).chain(left_out).collect::<Vec<_>>();
        let count = config.pools.len();
        let text = format!("{count} IPAddressPool{} in force", if count == 1 { "" } else { "s" });
        match self.replay.controller.unmet_of(&self.view.id) {
            Some(reason) if held.is_empty() => Step::refused("pools", reason.as_str(), reason.to_string()),
            Some(reason) => Step {
                reason: Some(reason.as_str().to_owned()),
                ..Step::new("pools", State::Note, format!("{reason}; what works stays"))
            },
            None => Step::new("pools", State::Ok, text),
        }
        .with(details)
    }

    fn no_address(&self) -> Step {
        let chosen = self.replay.controller.held_by(&self.view.id);
        let text = match chosen.is_empty() {
            true => "none in the status of the Service".to_owned(),
            false => format!(
                "{} would be given, and the controller has not done it; look whether it runs and is ready",
                join(&chosen)
            ),
        };
        let probes = chosen.iter().filter_map(|a| self.world.virtual_ip(*a));
        let asked = probes.map(|vip| format!("VirtualIP {} is made; the wire may still be asked", vip.name_any()));
        Step::new("address", State::No, text).with(asked.collect())
    }

    fn address(&self, address: IpAddr) -> Step {
        let topic = "address";
        let Some(vip) = self.world.virtual_ip(address) else {
            let text = format!(
                "{address} stands in the status of the Service, and there is no VirtualIP {:?}; FerroLB's controller did not \
                 give it, or does not run",
                VirtualIpName::of(address).to_string()
            );
            return Step::new(topic, State::No, text);
        };
        let mine = |claim: &api::Claim| claim.namespace == self.view.id.namespace && claim.name == self.view.id.name;
        let others = vip.spec.claims.iter().filter(|claim| !mine(claim));
        let others = others.map(|c| format!("shared with {}/{}", c.namespace, c.name));
        let since = vip
            .creation_timestamp()
            .map(|t| format!(" since {}", t.0))
            .unwrap_or_default();
        let pool = vip.spec.pool.clone().unwrap_or_default();
        let text = format!("{address} of IPAddressPool {}{since}", or_dash(pool));
        if !vip.spec.claims.iter().any(mine) {
            let reason = Reason::AddressInUse {
                address,
                by: vip
                    .spec
                    .claims
                    .iter()
                    .map(|c| ServiceId::new(&c.namespace, &c.name))
                    .collect(),
            };
            return Step::refused(
                topic,
                reason.as_str(),
                format!("VirtualIP {address} has no claim of this Service"),
            );
        }
        let kept = self.replay.controller.kept_by(&self.view.id);
        let kept = kept
            .iter()
            .filter(|r| matches!(r, Reason::PoolChanged { address: of, .. } if *of == address));
        let kept = kept.map(|r| format!("{}: {r}", r.as_str())).collect::<Vec<_>>();
        let state = if kept.is_empty() { State::Ok } else { State::Note };
        Step::new(topic, state, text).with(kept.into_iter().chain(others).collect())
    }

    fn endpoints(&self) -> Step {
        let views = self.replay.endpoints.get(&self.view.id).into_iter().flatten();
        let all = views.flat_map(|v| &v.endpoints).collect::<Vec<_>>();
        let able = all.iter().filter(|e| e.can_serve()).collect::<Vec<_>>();
        let nodes = able.iter().filter_map(|e| e.node.as_deref()).collect::<BTreeSet<_>>();
        let policy = format!("externalTrafficPolicy {:?}", self.view.traffic_policy);
        if able.is_empty() {
            let reason = Reason::NoEndpoint {
                services: vec![self.view.id.clone()],
            };
            let text = format!("{reason} ({} there); look at the pods and their readiness", all.len());
            return Step::refused("endpoints", reason.as_str(), text);
        }
        let text = format!("{} can serve, on {} ({policy})", able.len(), or_dash(join(nodes)));
        Step::new("endpoints", State::Ok, text)
    }

    fn announcement(&self, address: IpAddr) -> Vec<Step> {
        let config = &self.replay.parsed.config;
        let pool = config.pool_of(address);
        let by_layer2 = pool.is_some_and(|p| config.l2_advertisements_for(p, &self.view.labels).next().is_some());
        let by_bgp = pool.is_some_and(|pool| {
            let mut ads = config.bgp_advertisements.values();
            ads.any(|ad| ad.covers_pool(pool) && ad.covers_service(&self.view.labels))
        });
        let Some(vip) = self.world.virtual_ip(address) else {
            return Vec::new();
        };
        let mut steps = Vec::new();
        if by_layer2 || !by_bgp {
            steps.push(self.layer2(address, vip));
        }
        if by_bgp {
            steps.push(self.bgp(address, by_layer2));
        }
        steps
    }

    fn layer2(&self, address: IpAddr, vip: &api::VirtualIp) -> Step {
        let topic = "layer 2";
        let status = vip.status.clone().unwrap_or_default();
        let announcer = status.announcer.filter(|a| !a.node.is_empty());
        let placement = status.placement.filter(|p| !p.owner.is_empty());
        let details = self.nodes(address, placement.as_ref(), announcer.as_ref());
        let condition = status.conditions.iter().find(|c| c.type_ == "Announced");
        let step = match (condition, &placement) {
            (Some(c), _) if c.status == "False" => Step::refused(topic, &c.reason, format!("{address}: {}", c.message)),
            (_, None) => Step::new(
                topic,
                State::No,
                format!("{address} is placed on no node yet; look whether the controller runs"),
            ),
            (_, Some(placed)) => match &announcer {
                Some(a) if a.node == placed.owner => {
                    let standbys = or_dash(join(&placed.standbys));
                    let on = join(&a.interfaces);
                    Step::new(
                        topic,
                        State::Ok,
                        format!("{address} is announced by {} on {on}; standbys {standbys}", a.node),
                    )
                }
                other => {
                    let does = other.as_ref().map_or("nobody".to_owned(), |a| a.node.clone());
                    let text = format!(
                        "{address} is to be announced by {}, and {does} does; look at the speaker of {}",
                        placed.owner, placed.owner
                    );
                    Step::new(topic, State::No, text)
                }
            },
        };
        step.with(details)
    }

    /// Each node, and why not.
    fn nodes(
        &self,
        address: IpAddr,
        placed: Option<&api::Placement>,
        announcer: Option<&api::Announcer>,
    ) -> Vec<String> {
        let refusals = self.replay.controller.refusals_of(address, Replay::NOW);
        let line = |(node, refusal): (String, Option<NodeRefusal>)| {
            let part = match placed {
                Some(p) if p.owner == node => "owner",
                Some(p) if p.standbys.contains(&node) => "standby",
                _ => "no part",
            };
            let mut says = vec![part.to_owned()];
            if let Some(refusal) = refusal {
                says.push(format!("{}: {}", refusal.as_str(), words(refusal)));
            }
            if announcer.is_some_and(|a| a.node == node) {
                says.push("announces".to_owned());
            }
            let speaker = self.world.speakers.iter().find(|s| s.name_any() == node);
            let status = speaker.and_then(|s| s.status.as_ref());
            match status {
                None => says.push("its speaker has told nothing".to_owned()),
                Some(status) if !status.last_error.is_empty() => {
                    says.push(format!("its speaker says {:?}", status.last_error));
                }
                Some(_) => {}
            }
            format!("{node}: {}", says.join("; "))
        };
        refusals.into_iter().map(line).collect()
    }

    fn bgp(&self, address: IpAddr, optional: bool) -> Step {
        let mine = |s: &&api::ServiceBgpStatusStatus| {
            s.service_namespace == self.view.id.namespace && s.service_name == self.view.id.name
        };
        let told = self.world.bgp_statuses.iter().filter_map(|s| s.status.as_ref());
        let told = told.filter(mine).collect::<Vec<_>>();
        let (mut details, mut carried) = (Vec::new(), 0);
        for status in &told {
            let speaker = self.world.speakers.iter().find(|s| s.name_any() == status.node);
            let bgp = speaker.and_then(|s| s.status.as_ref()?.bgp.as_ref());
            for peer in &status.peers {
                let session = bgp.and_then(|b| b.sessions.iter().find(|s| s.peer == *peer));
                let state = session.map_or("not told".to_owned(), session_text);
                carried += usize::from(session.is_some_and(|s| s.state == api::SessionState::Established));
                details.push(format!("{} to {peer}: {state}", status.node));
            }
        }
        for speaker in &self.world.speakers {
            let sessions = speaker
                .status
                .iter()
                .filter_map(|s| s.bgp.as_ref())
                .flat_map(|b| &b.sessions);
            let down = sessions.filter(|s| s.state != api::SessionState::Established);
            details.extend(down.map(|s| format!("{} to {}: {}", speaker.name_any(), s.peer, session_text(s))));
        }
        details.sort();
        details.dedup();
        if self.world.speakers.is_empty() && !optional {
            let text =
                format!("no router has {address}: no speaker answers on any node; see DaemonSet ferrolb-speaker");
            return Step::refused("BGP", Reason::NoSpeaker.as_str(), text);
        }
        let (state, text) = match carried {
            0 if optional => (State::Note, format!("no router has {address}")),
            0 => (
                State::No,
                format!("no router has {address}: no session carries it; look at the sessions and the BGPPeers"),
            ),
            _ => (State::Ok, format!("{carried} sessions carry {address}")),
        };
        Step::new("BGP", state, text).with(details)
    }

    fn conflicts(&self, address: IpAddr) -> Step {
        let mut found = Vec::new();
        for speaker in &self.world.speakers {
            let all = speaker.status.iter().flat_map(|s| &s.conflicts);
            let these = all.filter(|c| ferrolb_config::parse_address(&c.address) == Some(address));
            found.extend(these.map(|c| {
                let node = speaker.name_any();
                format!("{} on the segment of {} of {node}", c.mac_address, c.interface)
            }));
        }
        if found.is_empty() {
            return Step::new(
                "conflicts",
                State::Ok,
                format!("no other machine is known to use {address}"),
            );
        }
        let text = format!(
            "another machine uses {address}; give that machine another address ({})",
            found.join(", ")
        );
        Step::refused("conflicts", "AddressOccupied", text)
    }

    fn events(&self) -> Step {
        let about = |e: &&k8s_openapi::api::core::v1::Event| {
            let of = &e.involved_object;
            of.kind.as_deref() == Some("Service")
                && of.namespace.as_deref() == Some(&self.view.id.namespace)
                && of.name.as_deref() == Some(&self.view.id.name)
                && e.type_.as_deref() == Some("Warning")
        };
        let time = |e: &&k8s_openapi::api::core::v1::Event| {
            let last = e.last_timestamp.as_ref().map(|t| t.0);
            last.or(e.event_time.as_ref().map(|t| t.0))
                .or(e.creation_timestamp().map(|t| t.0))
        };
        let mut events = self.world.events.iter().filter(about).collect::<Vec<_>>();
        events.sort_by_key(|e| std::cmp::Reverse(time(e)));
        let text = format!("{} Warnings", events.len());
        let line = |e: &k8s_openapi::api::core::v1::Event| {
            let at = time(&e).map(|t| format!("{t} ")).unwrap_or_default();
            let (reason, message) = (e.reason.clone(), e.message.clone());
            format!("{at}{}: {}", reason.unwrap_or_default(), message.unwrap_or_default())
        };
        let state = if events.is_empty() { State::Ok } else { State::Note };
        Step::new("events", state, text).with(events.into_iter().take(WARNINGS).map(line).collect())
    }
}

/// A BGP session in words.
pub(crate) fn session_text(session: &api::BgpSession) -> String {
    let mut text = format!("{:?}", session.state);
    if let Some(since) = &session.since {
        text += &format!(" since {}", since.0);
    }
    if session.state != api::SessionState::Established && !session.last_error.is_empty() {
        text += &format!(": {}", session.last_error);
    }
    text
}

/// What a refusal means, and what would be right.
fn words(refusal: NodeRefusal) -> &'static str {
    match refusal {
        NodeRefusal::NotSelected => "no L2Advertisement selects the node",
        NodeRefusal::NotReady => "the Node is not Ready",
        NodeRefusal::Excluded => "it has the label node.kubernetes.io/exclude-from-external-load-balancers",
        NodeRefusal::Cordoned => "it is cordoned, and others are not",
        NodeRefusal::Tainted => "it has a taint with NoExecute",
        NodeRefusal::NetworkUnavailable => "its network is reported unavailable",
        NodeRefusal::NoLocalEndpoint => "externalTrafficPolicy is Local and no endpoint on it can serve",
        NodeRefusal::NoEndpoint => "no endpoint anywhere can serve",
        NodeRefusal::NotOwner => "another node is the owner",
        NodeRefusal::NoClaim => "no Service claims the address",
        NodeRefusal::NoInterface => "no interface that may be used is up with carrier",
        NodeRefusal::NoSubnet => "no interface has a subnet that contains the address",
        NodeRefusal::NoSpeaker => "its speaker has told nothing, while others have",
        NodeRefusal::Outweighed => "a node of a higher score is there",
        NodeRefusal::NoLayer2 => "layer 2 does not run on it; look at its speaker's log",
        NodeRefusal::NoPeer => "no BGPPeer is there for it",
        NodeRefusal::DataPathNotReady => "its kube-proxy has yet to write the rules",
        NodeRefusal::AddressOccupied => "another machine on its segment uses the address",
    }
}
