//! What waits for kube-proxy, and what never does.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ferrolb_model::{
    AnnouncementPolicy, Announcer, BgpSettings, Config, ConflictDetection, DrainSettings, Endpoint, EndpointSettings,
    EndpointsView, Family, Layer2Settings, NodeRefusal, Placement, PoolSelection, Stranger, TrafficPolicy, VirtualIp,
};
use ferrolb_speaker_core::{
    Beginning, DataPath, Duty, Effect, Finding, Input, NotReady, Ownership, Probes, Progress, ProxyAnswer, Reading,
    WAIT, WAIT_TO_TAKE,
};

use crate::make::*;

const ADDRESS: &str = "192.0.2.7";
/// By the core's clock, the first moment of a test.
const START: Duration = Duration::from_secs(1_764_424_000);

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// One node's ownership and what is known of its kube-proxy.
struct Node {
    ownership: Ownership,
    path: DataPath,
    probes: Probes,
    /// What every question to the segment finds.
    finding: Finding,
    now: Duration,
    duty: Option<Duty>,
    next: Option<Duration>,
}

/// `web` at its address, with an endpoint on another node.
fn web(policy: TrafficPolicy) -> Input {
    let mut view = service("web", labels(&[]));
    view.ingress = vec![ip(ADDRESS)];
    view.traffic_policy = policy;
    Input::Service(view)
}

fn endpoints(node: &str, ready: bool, serving: bool) -> Input {
    Input::Endpoints(EndpointsView {
        slice: ("shop".to_owned(), format!("web-{node}")),
        service: id("web"),
        family: Family::V4,
        endpoints: vec![Endpoint {
            node: Some(node.to_owned()),
            ready,
            serving,
        }],
    })
}

fn placed(owner: &str, standbys: &[&str], epoch: u64, version: u64) -> Input {
    Input::VirtualIp(VirtualIp {
        placement: Some(Placement {
            owner: owner.to_owned(),
            standbys: standbys.iter().map(|name| (*name).to_owned()).collect(),
            epoch,
        }),
        resource_version: version.to_string(),
        ..virtual_ip(ip(ADDRESS), None, &["web"])
    })
}

fn policy(name: &str, endpoints: EndpointSettings) -> AnnouncementPolicy {
    AnnouncementPolicy {
        name: name.to_owned(),
        on_request: None,
        pools: PoolSelection::All,
        service_selectors: Vec::new(),
        node_selectors: Vec::new(),
        layer2: Layer2Settings::default(),
        drain: DrainSettings::default(),
        endpoints,
        bgp: BgpSettings::default(),
    }
}

impl Node {
    /// It has heard nothing yet.
    fn deaf(path: DataPath) -> Node {
        Node {
            ownership: Ownership::new(ME, speaker()),
            path,
            probes: Probes::new(ME),
            finding: Finding::Clear,
            now: START,
            duty: None,
            next: None,
        }
    }

    /// In sync, where nothing is placed on this node.
    fn new(path: DataPath) -> Node {
        let mut node = Node::deaf(path);
        for input in [
            plain_config(),
            crate::make::node(labels(&[])),
            Input::Synced,
            Input::BgpSynced,
        ] {
            node.hear(input);
        }
        node
    }

    fn hear(&mut self, input: Input) -> Vec<Effect> {
        self.path.hear(&input, self.now);
        let effects = self.ownership.handle(input);
        self.look(effects)
    }

    fn look(&mut self, mut effects: Vec<Effect>) -> Vec<Effect> {
        let (more, next) = self.ownership.begin(&self.path, &mut self.probes, self.now);
        effects.extend(more);
        self.next = next;
        let questions = self.probes.take(9);
        if !questions.is_empty() {
            for (address, on) in questions {
                self.probes.answered(address, on, self.finding.clone(), self.now);
            }
            effects.extend(self.look(Vec::new()));
        }
        for effect in &effects {
            if let Effect::Duties(all) = effect {
                self.duty = all.get(&ip(ADDRESS)).map(|duty| Duty::clone(duty));
            }
        }
        effects
    }

    /// kube-proxy has just begun, and finished, to write its rules.
    fn synced(&mut self) -> Vec<Effect> {
        // It is asked twice: only then one knows when it began.
        let progress = |syncs, at| Progress {
            queued: Some(at),
            synced: Some(at),
            syncs,
            spent: Duration::ZERO,
        };
        for (syncs, after) in [(1, 0), (2, 10)] {
            self.now += ms(after);
            let reading = Reading {
                is_proxy: true,
                progress: BTreeMap::from([(None, progress(syncs, self.now))]),
            };
            let wall = self.now;
            self.path.answered(
                ProxyAnswer::Reading {
                    reading,
                    wall,
                    took: Duration::ZERO,
                },
                self.now,
            );
        }
        self.look(Vec::new())
    }

    fn silent(&mut self, after: u64) -> Vec<Effect> {
        self.now += ms(after);
        self.path.answered(ProxyAnswer::Silence, self.now);
        self.look(Vec::new())
    }

    fn able(&self) -> Option<bool> {
        self.duty.as_ref().map(|duty| duty.able)
    }
}

fn late(effects: &[Effect]) -> Vec<(Duration, NotReady)> {
    let late = |effect: &Effect| match effect {
        Effect::DataPathNotReady {
            waited, why, services, ..
        } => {
            assert_eq!(*services, [(id("web"), "uid-web".to_owned())]);
            Some((*waited, *why))
        }
        _ => None,
    };
    effects.iter().filter_map(late).collect()
}

#[test]
fn a_new_address_waits_for_kube_proxy() {
    let mut node = Node::new(DataPath::new(ME));
    node.hear(web(TrafficPolicy::Cluster));
    node.hear(endpoints(OTHER, true, true));
    node.now += ms(10);
    let effects = node.hear(placed(ME, &[OTHER], 1, 1));
    assert_eq!((node.able(), node.ownership.is_waiting()), (Some(false), true));
    assert_eq!(late(&effects), []);
    let withheld: Vec<_> = node.ownership.speaker().withheld().collect();
    assert_eq!(withheld, [(ip(ADDRESS), NodeRefusal::DataPathNotReady)]);
    assert!(node.ownership.speaker().services().is_some(), "others are told of");
    node.now += ms(40);
    let effects = node.synced();
    assert_eq!((node.able(), node.ownership.is_waiting()), (Some(true), false));
    assert_eq!((late(&effects), node.next), (vec![], None));
    assert_eq!(node.ownership.speaker().withheld().count(), 0);
    // kube-proxy hangs or is gone: who has begun goes on.
    node.silent(1_000);
    node.hear(placed(ME, &["node-c"], 1, 2));
    assert_eq!(node.able(), Some(true));
}

#[test]
fn it_is_announced_anyway_after_a_while_and_says_so() {
    let mut node = Node::new(DataPath::new(ME));
    node.hear(web(TrafficPolicy::Cluster));
    node.hear(endpoints(OTHER, true, true));
    node.hear(placed(ME, &[OTHER], 1, 1));
    let word = node.next.expect("a moment to say so");
    assert_eq!(node.silent(1_000), [], "not worth a word yet");
    assert_eq!(node.next, Some(word));
    node.now = word;
    let withheld = Effect::Withheld {
        address: ip(ADDRESS),
        why: NodeRefusal::DataPathNotReady,
    };
    assert_eq!(node.look(Vec::new()), [withheld], "once");
    assert_eq!((node.silent(1_000), node.next), (vec![], Some(START + WAIT)));
    node.now = START + WAIT;
    let effects = node.look(Vec::new());
    assert_eq!(late(&effects), [(WAIT, NotReady::Silent)]);
    assert_eq!((node.able(), node.next), (Some(true), None));
}

#[test]
fn a_planned_move_waits_but_not_for_as_long_as_the_old_owner_answers() {
    let mut node = Node::new(DataPath::new(ME));
    let mut config = Config::clone(match &plain_config() {
        Input::Config(config) => config,
        _ => unreachable!("a configuration"),
    });
    let policy = policy(
        "patient",
        EndpointSettings {
            wait: Some(Duration::from_secs(60)),
            ..Default::default()
        },
    );
    config.announcement_policies.insert(policy.name.clone(), policy);
    node.hear(Input::Config(config.into()));
    node.hear(web(TrafficPolicy::Cluster));
    node.hear(endpoints(OTHER, true, true));
    node.hear(placed(OTHER, &[ME], 1, 1));
    assert_eq!(
        (node.able(), node.ownership.is_waiting()),
        (Some(true), false),
        "as a standby"
    );
    let Input::VirtualIp(mut moved) = placed(ME, &[OTHER], 2, 2) else {
        unreachable!("a VirtualIP")
    };
    moved.announcer = Some(ferrolb_model::Announcer {
        node: OTHER.to_owned(),
        interfaces: ["eth0".to_owned()].into(),
    });
    node.hear(Input::VirtualIp(moved));
    assert_eq!((node.able(), node.ownership.is_waiting()), (Some(false), true));
    let effects = node.silent(WAIT_TO_TAKE.as_millis() as u64);
    assert_eq!(late(&effects), [(WAIT_TO_TAKE, NotReady::Silent)]);
    assert_eq!(node.able(), Some(true));
}

#[test]
fn a_takeover_waits_for_nothing() {
    let mut node = Node::new(DataPath::new(ME));
    node.hear(web(TrafficPolicy::Cluster));
    node.hear(endpoints(OTHER, true, true));
    node.hear(placed(OTHER, &[ME], 1, 1));
    node.silent(0);
    let placement = Placement {
        owner: ME.to_owned(),
        standbys: vec![OTHER.to_owned()],
        epoch: 2,
    };
    node.hear(Input::TookOver {
        address: ip(ADDRESS),
        placement,
    });
    assert_eq!((node.able(), node.ownership.is_waiting()), (Some(true), false));
    node.hear(placed(ME, &[OTHER], 2, 2));
    assert_eq!(
        (node.able(), node.ownership.is_waiting()),
        (Some(true), false),
        "once it is written, too"
    );
}

/// What a speaker hears when it starts: the address is its node's.
fn first_lists(policy: TrafficPolicy) -> [Input; 5] {
    [
        plain_config(),
        crate::make::node(labels(&[])),
        web(policy),
        placed(ME, &[OTHER], 1, 1),
        Input::Synced,
    ]
}

#[test]
fn a_restart_waits_for_nothing() {
    let restored = BTreeMap::from([(ip(ADDRESS), announcement(None, 1))]);
    let mut node = Node::deaf(DataPath::new(ME));
    node.hear(snapshot(&restored));
    for input in first_lists(TrafficPolicy::Local) {
        node.hear(input);
        assert_eq!((node.able(), node.ownership.is_waiting()), (Some(true), false));
    }
    // Without a snapshot, what stands in the object says that it is announced.
    let mut node = Node::new(DataPath::new(ME));
    node.hear(web(TrafficPolicy::Cluster));
    node.hear(with_announcer(ME, &["eth0"], "1"));
    assert_eq!((node.able(), node.ownership.is_waiting()), (Some(true), false));
}

#[test]
fn what_was_held_back_is_held_back_after_a_restart() {
    let mut before = Node::new(DataPath::new(ME));
    before.hear(web(TrafficPolicy::Cluster));
    before.hear(placed(ME, &[OTHER], 1, 1));
    let duty = before.duty.clone().unwrap();
    assert!(!duty.able && before.ownership.is_waiting());
    let restored = BTreeMap::from([(ip(ADDRESS), Arc::new(duty))]);
    let mut node = Node::deaf(DataPath::new(ME));
    node.hear(Input::Restored(Arc::new(restored)));
    for input in first_lists(TrafficPolicy::Cluster) {
        node.hear(input);
        assert_eq!(node.able(), Some(false));
    }
    assert!(node.ownership.is_waiting(), "for what it had waited for");
}

#[test]
fn nobody_to_ask_means_no_wait() {
    let mut node = Node::new(DataPath::off(ME));
    node.hear(placed(ME, &[], 1, 1));
    node.hear(web(TrafficPolicy::Cluster));
    assert_eq!((node.able(), node.ownership.is_waiting()), (Some(true), false));

    let mut node = Node::new(DataPath::new(ME));
    node.hear(web(TrafficPolicy::Local));
    node.hear(placed(ME, &[], 1, 1));
    assert!(node.ownership.is_waiting(), "until that is known");
    node.path
        .answered(ProxyAnswer::Nobody("connection refused".to_owned()), node.now);
    node.look(Vec::new());
    assert_eq!((node.able(), node.ownership.is_waiting()), (Some(true), false));
    assert_eq!(node.path.is_asked(), Some(Err("connection refused")));
}

#[test]
fn what_can_be_served_depends_on_policy_and_place() {
    let ready = |inputs: Vec<Input>, terminating| {
        let mut path = DataPath::new(ME);
        path.hear(&Input::BgpSynced, START);
        inputs.iter().for_each(|input| drop(path.hear(input, START)));
        let now = START + ms(10_000);
        let at = START + ms(5_000);
        let progress = Progress {
            queued: Some(at),
            synced: Some(at),
            syncs: 1,
            spent: Duration::ZERO,
        };
        let reading = Reading {
            is_proxy: true,
            progress: [(None, progress)].into(),
        };
        path.answered(
            ProxyAnswer::Reading {
                reading,
                wall: now,
                took: Duration::ZERO,
            },
            now,
        );
        path.ready(
            Beginning {
                address: ip(ADDRESS),
                terminating,
                asked: now,
            },
            [&id("web")],
        )
    };
    use TrafficPolicy::{Cluster, Local};
    assert_eq!(ready(vec![web(Cluster), endpoints(OTHER, true, true)], true), Ok(()));
    assert_eq!(
        ready(vec![web(Local), endpoints(OTHER, true, true)], true),
        Err(NotReady::Nothing)
    );
    assert_eq!(ready(vec![web(Local), endpoints(ME, true, true)], true), Ok(()));
    assert_eq!(ready(vec![web(Local), endpoints(ME, false, true)], true), Ok(()));
    assert_eq!(
        ready(vec![web(Local), endpoints(ME, false, true)], false),
        Err(NotReady::Nothing)
    );
    assert_eq!(ready(vec![endpoints(OTHER, true, true)], true), Err(NotReady::Nothing));
    let elsewhere = Input::Service(service("web", labels(&[])));
    assert_eq!(
        ready(vec![elsewhere, endpoints(OTHER, true, true)], true),
        Err(NotReady::Nothing)
    );
    let gone = vec![
        web(Cluster),
        endpoints(OTHER, true, true),
        Input::ServiceGone(id("web")),
    ];
    assert_eq!(ready(gone, true), Err(NotReady::Nothing));
}

/// Under Local the health check port of a Service has the last word, if it has one.
#[test]
fn a_health_check_port_may_deny_it() {
    let mut node = Node::new(DataPath::new(ME));
    let Input::OwnNode(mut own) = crate::make::node(labels(&[])) else {
        unreachable!("a Node")
    };
    own.addresses = [ip("2001:db8::1"), ip("10.0.0.11")].into();
    node.hear(Input::OwnNode(own));
    let Input::Service(mut view) = web(TrafficPolicy::Local) else {
        unreachable!("a Service")
    };
    view.health_check_port = Some(30_500);
    let local = Input::Service(view);
    node.hear(local.clone());
    node.hear(endpoints(ME, true, true));
    node.hear(placed(ME, &[], 1, 1));
    let asked = "10.0.0.11:30500".parse().expect("a socket address");
    assert_eq!(node.ownership.checks(&node.path), [asked].into());
    node.now += ms(100);
    node.path.checked(BTreeMap::from([(30_500, false)]), node.now);
    node.synced();
    assert_eq!(node.able(), Some(false));
    node.path.checked(BTreeMap::from([(30_500, true)]), node.now);
    node.look(Vec::new());
    assert_eq!(node.able(), Some(true));
    assert!(
        node.ownership.checks(&node.path).is_empty(),
        "nothing is asked any more"
    );
    // An endpoint that terminates is not counted there.
    let mut path = DataPath::new(ME);
    path.hear(&local, START);
    path.hear(&endpoints(ME, false, true), START);
    assert_eq!(path.checks(ip(ADDRESS), [&id("web")]).count(), 0);
}

/// An endpoint that comes back to a node is news to its kube-proxy; one more is not.
#[test]
fn only_the_first_endpoint_has_to_be_heard_of() {
    let mut path = DataPath::new(ME);
    for input in [
        Input::BgpSynced,
        web(TrafficPolicy::Cluster),
        endpoints(OTHER, true, true),
    ] {
        path.hear(&input, START);
    }
    let progress = |syncs, at| Progress {
        queued: Some(at),
        synced: Some(at),
        syncs,
        spent: Duration::ZERO,
    };
    for (syncs, at) in [(1, START), (2, START + ms(10))] {
        let reading = Reading {
            is_proxy: true,
            progress: [(None, progress(syncs, at))].into(),
        };
        path.answered(
            ProxyAnswer::Reading {
                reading,
                wall: at,
                took: Duration::ZERO,
            },
            at,
        );
    }
    let address: IpAddr = ip(ADDRESS);
    let ready = |path: &DataPath, asked| {
        path.ready(
            Beginning {
                address,
                terminating: true,
                asked,
            },
            [&id("web")],
        )
    };
    path.hear(&endpoints("node-c", true, true), START + ms(500));
    assert_eq!(ready(&path, START + ms(500)), Ok(()));
    for name in [OTHER, "node-c"] {
        path.hear(
            &Input::EndpointsGone(("shop".to_owned(), format!("web-{name}"))),
            START + ms(600),
        );
    }
    assert_eq!(ready(&path, START + ms(600)), Err(NotReady::Nothing));
    path.hear(&endpoints(OTHER, true, true), START + ms(700));
    assert_eq!(ready(&path, START + ms(700)), Err(NotReady::Unasked));
}

#[test]
fn an_address_of_a_stranger_is_not_begun_before_he_is_gone() {
    let stranger = Stranger {
        mac: [2, 0, 0x5e, 0, 0, 7],
        interface: "eth1".to_owned(),
    };
    let mut node = Node::new(DataPath::off(ME));
    node.finding = Finding::Occupied(stranger.clone());
    node.hear(web(TrafficPolicy::Cluster));
    let effects = node.hear(placed(ME, &["n2"], 1, 1));
    let told = |effects: &[Effect]| {
        let conflict = |e: &&Effect| matches!(e, Effect::Conflict { mac, .. } if *mac == stranger.mac);
        effects.iter().filter(conflict).count()
    };
    assert_eq!(told(&effects), 1);
    let why = |node: &Node| {
        node.ownership
            .speaker()
            .withheld()
            .map(|(_, why)| why)
            .collect::<Vec<_>>()
    };
    assert_eq!(
        (why(&node), node.duty.as_ref().map(|d| d.able)),
        (vec![NodeRefusal::AddressOccupied], Some(false))
    );
    assert!(!node.ownership.is_waiting(), "nothing that kube-proxy could change");
    assert_eq!(node.next, Some(START + Duration::from_secs(10)));
    node.now += Duration::from_secs(10);
    assert_eq!(told(&node.look(Vec::new())), 0, "it was told");
    assert_eq!(node.next, Some(node.now + Duration::from_secs(20)));
    node.finding = Finding::Clear;
    node.now += Duration::from_secs(20);
    node.look(Vec::new());
    assert_eq!((why(&node), node.duty.as_ref().map(|d| d.able)), (vec![], Some(true)));
}

#[test]
fn what_another_node_has_announced_or_a_policy_leaves_alone_is_not_asked_about() {
    let stranger = Stranger {
        mac: [2, 0, 0x5e, 0, 0, 7],
        interface: "eth1".to_owned(),
    };
    for detection in [ConflictDetection::Passive, ConflictDetection::Disabled] {
        let mut node = Node::new(DataPath::off(ME));
        node.finding = Finding::Occupied(stranger.clone());
        let mut policy = policy("p", EndpointSettings::default());
        policy.layer2.conflict_detection = Some(detection);
        let Input::Config(config) = plain_config() else {
            unreachable!()
        };
        let mut config = Config::clone(&config);
        config.announcement_policies.insert(policy.name.clone(), policy);
        node.hear(Input::Config(config.into()));
        node.hear(web(TrafficPolicy::Cluster));
        node.hear(placed(ME, &["n2"], 1, 1));
        assert_eq!(node.duty.as_ref().map(|d| d.able), Some(true), "{detection:?}");
    }
    let mut node = Node::new(DataPath::off(ME));
    node.finding = Finding::Occupied(stranger);
    node.hear(web(TrafficPolicy::Cluster));
    let Input::VirtualIp(mut ip) = placed(ME, &["n2"], 2, 1) else {
        unreachable!()
    };
    ip.announcer = Some(Announcer {
        node: "n2".to_owned(),
        interfaces: ["eth1".to_owned()].into(),
    });
    node.hear(Input::VirtualIp(ip));
    assert_eq!(node.duty.as_ref().map(|d| d.able), Some(true), "it is handed over");
}
