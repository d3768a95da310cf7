//! What holds whatever happens, and in whatever order.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ferrolb_model::{Announcer, L2Advertisement, VirtualIp};
use ferrolb_speaker_core::{Announcement, Effect, Input, Speaker};
use proptest::prelude::*;

use crate::make::*;

const ADDRESSES: [&str; 3] = ["192.0.2.7", "192.0.2.8", "2001:db8::7"];
const SERVICES: [&str; 3] = ["web", "dns", "db"];
const USABLE: [&str; 2] = ["eth0", "eth1"];

fn names(of: &'static [&'static str]) -> impl Strategy<Value = Vec<&'static str>> {
    proptest::sample::subsequence(of.to_vec(), 0..=of.len())
}

fn any_ip() -> impl Strategy<Value = VirtualIp> {
    let owner = prop_oneof![Just(None), Just(Some(OTHER)), Just(Some(ME)), Just(Some(ME))];
    let announcer = proptest::option::of((prop_oneof![Just(ME), Just(OTHER)], names(&USABLE)));
    (0..3usize, owner, 1..5u64, names(&SERVICES), announcer).prop_map(|(address, owner, epoch, claims, announcer)| {
        let mut object = virtual_ip(ip(ADDRESSES[address]), owner.map(|o| (o, epoch)), &claims);
        object.announcer = announcer.map(|(node, interfaces)| Announcer {
            node: node.to_owned(),
            interfaces: set(&interfaces).into_iter().collect(),
        });
        object
    })
}

fn any_ad() -> impl Strategy<Value = L2Advertisement> {
    let interfaces = proptest::option::of(proptest::sample::subsequence(vec!["eth0", "eth1", "eth9"], 1..=2));
    let zone = proptest::option::of(prop_oneof![Just("a"), Just("b")]);
    let app = proptest::option::of(proptest::sample::select(SERVICES.to_vec()));
    (interfaces, zone, app).prop_map(|(interfaces, zone, app)| {
        let mut ad = advertisement("ad");
        ad.interfaces = interfaces.map(|i| set(&i));
        ad.node_selectors = zone.map(|z| selector("zone", z)).into_iter().collect();
        ad.service_selectors = app.map(|a| selector("app", a)).into_iter().collect();
        ad
    })
}

fn any_config() -> impl Strategy<Value = Input> {
    proptest::collection::vec(any_ad(), 0..3).prop_map(|mut ads| {
        for (number, ad) in ads.iter_mut().enumerate() {
            ad.name = format!("ad-{number}");
        }
        config(vec![pool("lan", "192.0.2.0/24")], ads)
    })
}

/// News from the API server.
fn any_news() -> impl Strategy<Value = Input> {
    let zone = prop_oneof![Just("a"), Just("b")];
    prop_oneof![
        2 => any_config(),
        2 => (0..3usize, 0..3usize)
            .prop_map(|(name, app)| Input::Service(service(SERVICES[name], labels(&[("app", SERVICES[app])])))),
        1 => (0..3usize).prop_map(|name| Input::ServiceGone(id(SERVICES[name]))),
        1 => zone.prop_map(|zone| node(labels(&[("zone", zone)]))),
        4 => any_ip().prop_map(Input::VirtualIp),
        1 => (0..3usize).prop_map(|address| Input::VirtualIpGone(ip(ADDRESSES[address]))),
    ]
}

/// The same, with times at which an advertisement cannot be read. What stays announced then depends on what was.
fn any_news_with_gaps() -> impl Strategy<Value = Input> {
    let gap = any_ad().prop_map(|ad| config_with_a_gap(vec![pool("lan", "192.0.2.0/24")], vec![ad]));
    prop_oneof![11 => any_news(), 1 => gap]
}

/// What news is about: later news with the same key replaces earlier.
fn key(news: &Input) -> String {
    match news {
        Input::Config(_) => "config".to_owned(),
        Input::Service(view) => view.id.to_string(),
        Input::ServiceGone(id) => id.to_string(),
        Input::OwnNode(_) => "node".to_owned(),
        Input::VirtualIp(object) => object.address.to_string(),
        Input::VirtualIpGone(address) => address.to_string(),
        other => unreachable!("no news of the API server: {other:?}"),
    }
}

/// The last Announce among `effects`, if any.
fn announced(effects: &[Effect]) -> Option<&BTreeMap<IpAddr, Announcement>> {
    effects.iter().rev().find_map(|effect| match effect {
        Effect::Announce(all) => Some(all),
        _ => None,
    })
}

/// The API server and the engine, as far as the speaker can tell.
#[derive(Default)]
struct World {
    objects: BTreeMap<IpAddr, VirtualIp>,
    wanted: BTreeMap<IpAddr, Announcement>,
    version: u64,
    /// Writes that still fail.
    failures: usize,
}

impl World {
    fn usable(wanted: &Announcement) -> BTreeSet<String> {
        let all = set(&USABLE);
        wanted
            .interfaces
            .as_ref()
            .map_or(all.clone(), |named| named.intersection(&all).cloned().collect())
    }

    /// Does what `effects` say; gives the inputs that follow.
    fn run(&mut self, effects: Vec<Effect>) -> Vec<Input> {
        let mut news = Vec::new();
        for effect in effects {
            match effect {
                Effect::Announce(all) => {
                    let addresses: BTreeSet<IpAddr> = self.wanted.keys().chain(all.keys()).copied().collect();
                    self.wanted = all;
                    news.extend(addresses.into_iter().map(|address| Input::Announcing {
                        address,
                        interfaces: self.wanted.get(&address).map(World::usable).unwrap_or_default(),
                    }));
                }
                Effect::SetAnnouncer {
                    address,
                    interfaces,
                    resource_version,
                } => {
                    let object = self.objects.get_mut(&address);
                    let object = object.filter(|o| o.resource_version == resource_version);
                    let ok = self.failures == 0 && object.is_some();
                    self.failures = self.failures.saturating_sub(1);
                    if let Some(object) = object.filter(|_| ok) {
                        self.version += 1;
                        object.resource_version = format!("w{}", self.version);
                        object.announcer = interfaces.map(|interfaces| Announcer {
                            node: ME.to_owned(),
                            interfaces: interfaces.into_iter().collect(),
                        });
                        news.push(Input::VirtualIp(object.clone()));
                    }
                    news.push(Input::AnnouncerWritten { address, ok });
                }
                Effect::Withheld { .. }
                | Effect::NodeAssigned { .. }
                | Effect::AnnounceFailed { .. }
                | Effect::Conflict { .. }
                | Effect::DataPathNotReady { .. }
                | Effect::Duties(_)
                | Effect::SetProbe { .. }
                | Effect::SetPlacement { .. } => {}
            }
        }
        news
    }

    /// Tells the speaker `input` and all that follows from it.
    fn tell(&mut self, speaker: &mut Speaker, mut input: Input) {
        match &mut input {
            Input::VirtualIp(object) => {
                self.version += 1;
                object.resource_version = format!("w{}", self.version);
                self.objects.insert(object.address, object.clone());
            }
            Input::VirtualIpGone(address) => {
                self.objects.remove(address);
            }
            _ => {}
        }
        let mut queue = vec![input];
        for step in 0.. {
            assert!(step < 100, "never comes to rest");
            let Some(input) = queue.pop() else { break };
            let follow = self.run(speaker.handle(input));
            queue.splice(0..0, follow);
        }
    }
}

proptest! {
    #[test]
    fn order_does_not_matter(
        news in proptest::collection::vec(any_news(), 1..20),
        first in any_config(),
        seed: u64,
    ) {
        let mut last = BTreeMap::from([("config".to_owned(), first)]);
        last.extend(news.into_iter().map(|n| (key(&n), n)));
        let forward: Vec<Input> = last.into_values().collect();
        let mut shuffled = forward.clone();
        let count = shuffled.len();
        for i in 0..count {
            let j = (seed.rotate_left(i as u32 * 7) as usize) % count;
            shuffled.swap(i, j);
        }
        let middle = seed as usize % (count + 1);
        let ends = [(forward, count), (shuffled, middle)].map(|(inputs, synced_after)| {
            let mut speaker = speaker();
            let mut wanted = BTreeMap::new();
            let mut hear = |speaker: &mut Speaker, input| {
                if let Some(all) = announced(&speaker.handle(input)) {
                    wanted = all.clone();
                }
            };
            for (number, input) in inputs.into_iter().enumerate() {
                if number == synced_after {
                    hear(&mut speaker, Input::Synced);
                }
                hear(&mut speaker, input);
            }
            hear(&mut speaker, Input::Synced);
            (wanted, speaker.withheld().collect::<Vec<_>>())
        });
        prop_assert_eq!(&ends[0], &ends[1]);
    }

    #[test]
    fn only_what_the_placement_gives_is_announced(
        restored in proptest::collection::btree_map(proptest::sample::select(ADDRESSES.to_vec()), 1..5u64, 0..3),
        news in proptest::collection::vec(any_news_with_gaps(), 1..40),
        synced_after in 0..40usize,
    ) {
        let restored: BTreeMap<IpAddr, Announcement> =
            restored.into_iter().map(|(a, epoch)| (ip(a), announcement(None, epoch))).collect();
        let mut speaker = speaker();
        speaker.handle(snapshot(&restored));
        let mut wanted = restored.clone();
        let mut owners: BTreeMap<IpAddr, String> = BTreeMap::new();
        let (mut configured, mut synced) = (false, false);
        for (number, input) in news.into_iter().enumerate() {
            match &input {
                Input::VirtualIp(object) => {
                    owners.remove(&object.address);
                    owners.extend(object.placement.iter().map(|p| (object.address, p.owner.clone())));
                }
                Input::VirtualIpGone(address) => {
                    owners.remove(address);
                }
                Input::Config(_) => configured = true,
                _ => {}
            }
            let mut effects = speaker.handle(input);
            if number == synced_after {
                synced = true;
                effects.extend(speaker.handle(Input::Synced));
            }
            if let Some(all) = announced(&effects) {
                wanted = all.clone();
            }
            for (address, how) in &wanted {
                if synced && configured {
                    prop_assert_eq!(owners.get(address).map(String::as_str), Some(ME));
                } else {
                    prop_assert_eq!(restored.get(address), Some(how));
                }
            }
        }
    }

    #[test]
    fn it_comes_to_rest_with_the_truth_in_every_object(
        news in proptest::collection::vec(any_news_with_gaps(), 1..30),
        synced_after in 0..30usize,
        failures in 0..4usize,
    ) {
        let mut speaker = speaker();
        let mut world = World { failures, ..World::default() };
        let mut last = BTreeMap::new();
        world.tell(&mut speaker, plain_config());
        last.insert("config".to_owned(), plain_config());
        for (number, input) in news.into_iter().enumerate() {
            if number == synced_after {
                world.tell(&mut speaker, Input::Synced);
            }
            last.insert(key(&input), input.clone());
            world.tell(&mut speaker, input);
        }
        world.tell(&mut speaker, Input::Synced);
        world.failures = 0;
        world.tell(&mut speaker, Input::Retry);
        prop_assert_eq!(speaker.failed_writes(), 0);

        for object in world.objects.values() {
            let says = object.announcer.as_ref().filter(|a| a.node == ME);
            let says = says.map(|a| a.interfaces.iter().cloned().collect::<BTreeSet<_>>());
            let does = world.wanted.get(&object.address).map(World::usable).filter(|i| !i.is_empty());
            prop_assert_eq!(says, does, "{}", object.address);
        }
        let (objects, wanted) = (world.objects.clone(), world.wanted.clone());
        let repeated = last
            .into_values()
            .filter(|news| !matches!(news, Input::VirtualIp(_)))
            .chain(objects.into_values().map(Input::VirtualIp))
            .chain(wanted.iter().map(|(address, how)| Input::Announcing {
                address: *address,
                interfaces: World::usable(how),
            }))
            .chain([Input::Synced, Input::Retry]);
        for input in repeated {
            prop_assert_eq!(speaker.handle(input.clone()), [], "{:?}", input);
        }
    }
}
