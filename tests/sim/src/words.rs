//! The log of a run: one short line for every input, effect, write and deed.

use std::fmt::Display;

use ferrolb_controller_core::{Effect, Input, Write, WriteKey};
use ferrolb_model::{Claim, Config, Family, Placement, ServiceView, VirtualIp};

use crate::history::Action;

fn list<T: Display>(items: impl IntoIterator<Item = T>) -> String {
    let texts = items.into_iter().map(|i| i.to_string()).collect::<Vec<_>>();
    format!("[{}]", texts.join(" "))
}

fn claims(claims: &[Claim]) -> String {
    list(
        claims
            .iter()
            .map(|c| format!("{}({})", c.service, c.uid.as_deref().unwrap_or("any"))),
    )
}

fn service(view: &ServiceView) -> String {
    let families = view.families.iter().map(|f| if f == Family::V4 { "4" } else { "6" });
    let mut text = format!(
        "Service {} {:?} {}{:?} shows {}",
        view.id,
        view.kind,
        families.collect::<String>(),
        view.family_policy,
        list(&view.ingress)
    );
    if view.families.len() == 2 {
        text += &format!(" first={}", view.primary_family);
    }
    if view.ingress_foreign {
        text += " foreign";
    }
    if let Some(pool) = &view.pool_annotation {
        text += &format!(" from={pool}");
    }
    match &view.request {
        Ok(r) if r.pool.is_none() && r.addresses.is_empty() => {}
        Ok(r) => text += &format!(" asks={:?}{}", r.pool, list(&r.addresses)),
        Err(_) => text += " asks=nonsense",
    }
    if let Some(class) = &view.class {
        text += &format!(" class={class}");
    }
    if let Some(key) = &view.sharing_key {
        let ports = list(view.ports.iter().map(|p| p.port));
        text += &format!(" key={key} ports={ports} {:?} {}", view.traffic_policy, view.selector);
    }
    if !view.labels.is_empty() {
        text += " front";
    }
    text + &format!(" uid={} rv={}", view.uid, view.resource_version)
}

fn placement(placed: Option<&Placement>) -> String {
    placed.map_or("nobody".to_owned(), |p| {
        format!("{}{} epoch {}", p.owner, list(&p.standbys), p.epoch)
    })
}

fn virtual_ip(object: &VirtualIp) -> String {
    format!(
        "VirtualIP {} pool={:?} claims={} key={:?} {:?} at {} announcer={:?}{} rv={}",
        object.address,
        object.pool,
        claims(&object.claims),
        object.sharing_key,
        object.reclaim_policy,
        placement(object.placement.as_ref()),
        object.announcer.as_ref().map(|a| &a.node),
        object
            .probe
            .iter()
            .map(|probe| format!(" {probe:?}"))
            .collect::<String>(),
        object.resource_version
    )
}

fn config(config: &Config) -> String {
    let pool = |p: &ferrolb_model::Pool| {
        let ranges = list(p.ranges.iter().map(|r| format!("{}-{}", r.first(), r.last())));
        let mut text = format!("{}{ranges}", p.name);
        if !p.auto_assign {
            text += " manual";
        }
        if p.avoid_buggy_ips {
            text += " avoids";
        }
        if let Some(a) = &p.allocation {
            let front = if a.service_selectors.is_empty() { "" } else { " front" };
            text += &format!(" pinned({} {:?}{front})", a.priority, a.namespaces);
        }
        if p.on_shrink == ferrolb_model::OnShrink::Reassign {
            text += " reassigns";
        }
        text
    };
    let policies = config.allocation_policies.values().map(|p| format!("{p:?}"));
    format!("pools {} {}", list(config.pools.values().map(pool)), list(policies))
}

/// A deed.
pub(crate) fn action(action: &Action) -> String {
    match action {
        Action::Config(new, why) => format!("admin: {why}: {}", config(new)),
        Action::Apply(view) => format!("user applies {}", service(view)),
        Action::Delete(id) => format!("user deletes Service {id}"),
        Action::Reserve {
            address,
            service,
            retain,
        } => {
            let whom = service.as_ref().map_or("nobody".to_owned(), ToString::to_string);
            format!("hand reserves {address} for {whom}, retain {retain}")
        }
        Action::Retain { address, retain } => format!("hand sets retain {retain} on {address}"),
        Action::DeleteVirtualIp(address) => format!("hand deletes VirtualIP {address}"),
        Action::WriteStatus {
            service,
            ingress,
            foreign,
        } => format!("hand writes status {} foreign {foreign} of {service}", list(ingress)),
        Action::Node(view) => format!(
            "node {} ready {} excluded {} unavailable {} {}",
            view.name,
            view.ready,
            view.excluded,
            view.network_unavailable,
            list(&view.addresses)
        ),
        Action::NodeGone(name) => format!("node {name} is gone"),
        Action::Endpoints(view) => {
            let endpoint = |e: &ferrolb_model::Endpoint| {
                format!(
                    "{}:{}",
                    e.node.as_deref().unwrap_or("?"),
                    if e.can_serve() { "up" } else { "down" }
                )
            };
            format!(
                "endpoints of {} {}",
                view.service,
                list(view.endpoints.iter().map(endpoint))
            )
        }
        Action::TakeOver(address) => format!("standby takes {address} over"),
        Action::Move { address, request } => format!("hand asks to move {address} to {request}"),
        Action::Rebalance(request) => format!("hand asks to rebalance: {request:?}"),
        Action::Stranger { address, there } => {
            format!("stranger {} {address}", if *there { "takes" } else { "leaves" })
        }
    }
}

/// News for a core.
pub(crate) fn input(input: &Input) -> String {
    match input {
        Input::Config(new) => config(new),
        Input::Service(view) => service(view),
        Input::ServiceGone(id) => format!("Service {id} is gone"),
        Input::Node(view) => action(&Action::Node(view.clone())),
        Input::NodeGone(name) => format!("node {name} is gone"),
        Input::Endpoints(view) => action(&Action::Endpoints(view.clone())),
        Input::EndpointsGone((_, name)) => format!("endpoints {name} are gone"),
        Input::VirtualIp(object) => virtual_ip(object),
        Input::VirtualIpGone(address) => format!("VirtualIP {address} is gone"),
        Input::Written { key, result } => {
            let key = match key {
                WriteKey::Claim(address) => format!("claim {address}"),
                WriteKey::VirtualIpStatus(address) => format!("VirtualIP status {address}"),
                WriteKey::ServiceStatus(id) => format!("Service status {id}"),
            };
            format!("written {key}: {result:?}")
        }
        other => format!("{other:?}"),
    }
}

/// A write.
pub(crate) fn write(write: &Write) -> String {
    match write {
        Write::CreateVirtualIp {
            address,
            pool,
            claims: all,
            sharing_key,
            prober,
        } => {
            let asked = prober.iter().map(|node| format!(" asks={node}")).collect::<String>();
            format!(
                "creates {address} pool={pool:?} claims={} key={sharing_key:?}{asked}",
                claims(all)
            )
        }
        Write::UpdateVirtualIp {
            address,
            pool,
            claims: all,
            sharing_key,
            resource_version,
        } => format!(
            "updates {address} pool={pool:?} claims={} key={sharing_key:?} if rv={resource_version}",
            claims(all)
        ),
        Write::ConfirmVirtualIp {
            address,
            resource_version,
        } => format!("confirms {address} if rv={resource_version}"),
        Write::DeleteVirtualIp {
            address,
            resource_version,
            ..
        } => format!("deletes {address} if rv={resource_version}"),
        Write::SetVirtualIpStatus {
            address,
            placement: placed,
            conditions,
            resource_version,
            ..
        } => {
            let said = conditions.iter().map(|(t, c)| format!("{}={}", t.as_str(), c.reason));
            format!(
                "places {address} at {} {} if rv={resource_version}",
                placement(placed.as_ref()),
                list(said)
            )
        }
        Write::SetServiceStatus {
            service,
            ingress,
            pool,
            resource_version,
            ..
        } => format!(
            "shows {} from={pool:?} in {service} if rv={resource_version}",
            list(ingress)
        ),
    }
}

/// What a core asks for.
pub(crate) fn effect(effect: &Effect) -> String {
    match effect {
        Effect::Write(w) => write(w),
        Effect::Rebalanced { request, message } => format!("answers rebalance {request}: {message}"),
        Effect::Event(event) => format!("event {:?} on {}: {}", event.kind, event.service, event.message),
    }
}
