//! Objects as an API server could hand them out, stored by whatever version of the schema: reading them never panics,
//! what is in force never overlaps, a second look changes nothing, and a restart neither.
#![no_main]

use std::time::Duration;

use ferrolb_api::{
    AllocationPolicy, AnnouncementPolicy, BfdProfile, BgpAdvertisement, BgpPeer, Community, IpAddressPool,
    L2Advertisement, VirtualIp,
};
use ferrolb_config::{
    Configures, LastGood, NodeFacts, ObjectRef, Parsed, Snapshot, Surroundings, parse, service_cidr, service_view,
    virtual_ip,
};
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::networking::v1::ServiceCIDR;
use libfuzzer_sys::fuzz_target;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// What one input may take.
const MOST: Duration = Duration::from_secs(5);

fn put<K: Configures + DeserializeOwned>(items: &[Value], snapshot: &mut Snapshot) {
    for item in items.iter().filter(|item| item["kind"] == K::KIND.name()) {
        let name = item["metadata"]["name"].as_str().unwrap_or_default();
        let object = match serde_json::from_value::<K>(item.clone()) {
            Ok(object) => object.into_object(),
            Err(error) => K::KIND.unreadable(&error.to_string()),
        };
        snapshot.insert(ObjectRef::new(K::KIND, name), object);
    }
}

fn snapshot(items: &[Value]) -> Snapshot {
    let mut snapshot = Snapshot::new();
    put::<IpAddressPool>(items, &mut snapshot);
    put::<L2Advertisement>(items, &mut snapshot);
    put::<BgpAdvertisement>(items, &mut snapshot);
    put::<BgpPeer>(items, &mut snapshot);
    put::<BfdProfile>(items, &mut snapshot);
    put::<Community>(items, &mut snapshot);
    put::<AllocationPolicy>(items, &mut snapshot);
    put::<AnnouncementPolicy>(items, &mut snapshot);
    snapshot
}

fn surroundings(items: &[Value]) -> Surroundings {
    let mut surroundings = Surroundings::default();
    for (n, item) in items.iter().enumerate() {
        if let Ok(node) = serde_json::from_value::<Node>(item.clone()) {
            surroundings.nodes.insert(n.to_string(), NodeFacts::of(&node));
        }
        if let Ok(cidr) = serde_json::from_value::<ServiceCIDR>(item.clone()) {
            surroundings.service_cidrs.insert(n.to_string(), service_cidr(&cidr));
        }
    }
    surroundings
}

fuzz_target!(|data: &[u8]| {
    if let Ok(service) = serde_json::from_slice::<Service>(data) {
        let _ = service_view(&service);
    }
    if let Ok(object) = serde_json::from_slice::<VirtualIp>(data) {
        let _ = virtual_ip(&object);
    }
    let items = serde_json::from_slice::<Vec<Value>>(data).unwrap_or_default();
    let started = std::time::Instant::now();
    let (objects, around) = (snapshot(&items), surroundings(&items));
    // What came before: the same objects, in versions of the other half of the input.
    let (_, half) = items.split_at(items.len() / 2);
    let before = parse(&snapshot(half), &around, &Parsed::default());
    let parsed = parse(&objects, &around, &before);
    let ranges = parsed
        .config
        .pools
        .values()
        .flat_map(|pool| &pool.ranges)
        .collect::<Vec<_>>();
    for (index, range) in ranges.iter().enumerate() {
        assert!(ranges[index + 1..].iter().all(|other| !other.overlaps(range)));
    }
    assert_eq!(parse(&objects, &around, &parsed).config, parsed.config);
    if let (Some(text), _) = LastGood::text(&parsed, 1 << 20) {
        let last_good = LastGood::read(&text).expect("what was written is read");
        let _ = last_good.resume(&objects, &around);
    }
    assert!(started.elapsed() < MOST);
});
