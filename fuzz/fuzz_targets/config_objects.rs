//! Objects as an API server could hand them out, stored by whatever version of the schema: reading them never panics,
//! and what is in force never overlaps.
#![no_main]

use std::collections::BTreeMap;

use ferrolb_api::{IpAddressPool, L2Advertisement, VirtualIp};
use ferrolb_config::{Snapshot, parse, service_view, virtual_ip};
use ferrolb_model::Config;
use k8s_openapi::api::core::v1::Service;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(service) = serde_json::from_slice::<Service>(data) {
        let _ = service_view(&service);
    }
    if let Ok(object) = serde_json::from_slice::<VirtualIp>(data) {
        let _ = virtual_ip(&object);
    }
    let pools = serde_json::from_slice::<Vec<IpAddressPool>>(data).unwrap_or_default();
    let advertisements = serde_json::from_slice::<Vec<L2Advertisement>>(data).unwrap_or_default();
    let namespaces = BTreeMap::new();
    let snapshot = Snapshot {
        pools: pools.iter().collect(),
        l2_advertisements: advertisements.iter().collect(),
        namespaces: &namespaces,
    };
    let in_force = parse(&snapshot, &Config::default()).config;
    let ranges = in_force
        .pools
        .values()
        .flat_map(|pool| &pool.ranges)
        .collect::<Vec<_>>();
    for (index, range) in ranges.iter().enumerate() {
        assert!(ranges[index + 1..].iter().all(|other| !other.overlaps(range)));
    }
});
