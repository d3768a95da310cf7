//! What the controller's core makes of a world.

use std::collections::BTreeMap;
use std::time::Duration;

use ferrolb_api::names::{annotations, configuration_state};
use ferrolb_config::{LastGood, NodeFacts, Parsed, Snapshot, Surroundings, parse};
use ferrolb_controller_core::{Controller, Input, Settings};
use ferrolb_model::{EndpointsView, ServiceId};
use kube::ResourceExt;

use crate::world::World;

/// Everything has been as it is for this long when the core decides, so that no delay of its own is left to wait for.
const LONG: Duration = Duration::from_secs(3600);

/// A configuration that was read and a core that has decided, and of which nothing will be written.
#[derive(Debug)]
pub struct Replay {
    /// The configuration, and what is wrong with it.
    pub parsed: Parsed,
    /// The core.
    pub controller: Controller,
    /// The endpoints of each Service, slice by slice.
    pub endpoints: BTreeMap<ServiceId, Vec<EndpointsView>>,
    /// VirtualIPs that cannot be read, each with why.
    pub unreadable: Vec<String>,
}

impl Replay {
    /// The time at which the core decided.
    pub const NOW: Duration = LONG;

    /// An installation with its objects in `namespace` that serves `class`, meeting this world for the first time.
    pub fn of(world: &World, namespace: &str, class: Option<&str>) -> Self {
        Replay::with(world, namespace, class, world.configuration(namespace))
    }

    /// The same with another configuration.
    pub fn with(world: &World, namespace: &str, class: Option<&str>, snapshot: Snapshot) -> Self {
        let parsed = configuration(world, namespace, &snapshot);
        let mut controller = Controller::new(Settings {
            load_balancer_class: class.map(str::to_owned),
            ..Settings::default()
        });
        let mut unreadable = world.unreadable.clone();
        let mut inputs = vec![Input::Config(parsed.config.clone())];
        inputs.extend(world.nodes.iter().map(|n| Input::Node(ferrolb_config::node_view(n))));
        let networks = world.speakers.iter().map(ferrolb_config::network_view);
        inputs.extend(networks.map(Input::Network));
        let mut endpoints = BTreeMap::<_, Vec<_>>::new();
        for view in world.slices.iter().filter_map(ferrolb_config::endpoints_view) {
            endpoints.entry(view.service.clone()).or_default().push(view.clone());
            inputs.push(Input::Endpoints(view));
        }
        for vip in &world.virtual_ips {
            match ferrolb_config::virtual_ip(vip) {
                Ok(view) => inputs.push(Input::VirtualIp(view)),
                Err(error) => unreadable.push(error.to_string()),
            }
        }
        let services = world.services.values().map(ferrolb_config::service_view);
        inputs.extend(services.map(Input::Service));
        for input in inputs {
            controller.handle(input, Duration::ZERO);
        }
        controller.handle(Input::Synced, LONG);
        Replay {
            parsed,
            controller,
            endpoints,
            unreadable,
        }
    }
}

fn configuration(world: &World, namespace: &str, snapshot: &Snapshot) -> Parsed {
    let nodes = world.nodes.iter().map(|n| (n.name_any(), NodeFacts::of(n)));
    let namespaces = world
        .namespaces
        .iter()
        .map(|n| (n.name_any(), n.labels().clone().into()));
    let cidrs = world.service_cidrs.iter();
    let surroundings = Surroundings {
        namespaces: namespaces.collect(),
        nodes: nodes.collect(),
        service_cidrs: cidrs.map(|c| (c.name_any(), ferrolb_config::service_cidr(c))).collect(),
    };
    // What was in force of an object that is wrong now.
    let state = world.configuration_states.iter().find(|state| {
        state.name_any() == configuration_state::CONTROLLER && state.namespace().as_deref() == Some(namespace)
    });
    let last_good = state.and_then(|s| LastGood::read(s.annotations().get(annotations::LAST_GOOD)?).ok());
    let before = last_good.unwrap_or_default().resume(snapshot, &surroundings);
    parse(snapshot, &surroundings, &before)
}
