//! Texts that users write: ranges of pools, addresses in annotations, names of VirtualIPs, communities, durations, last
//! good versions. Nothing panics, nothing loops over a range, and what is accepted reads back from its own display.
#![no_main]

use ferrolb_config::{LastGood, parse_address_list, parse_duration};
use ferrolb_model::{Community, ExtendedCommunity, IpRange, VirtualIpName};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(range) = text.parse::<IpRange>() {
        assert_eq!(range.to_string().parse(), Ok(range));
        assert!(range.size() > 0 && range.contains(range.first()) && range.contains(range.last()));
        assert_eq!(range.after(range.last()), None);
        let widest = range.widest_block();
        assert!(widest <= range.family().bits());
        let bits = u32::from(range.family().bits() - widest);
        assert!(1u128.checked_shl(bits).is_none_or(|size| size <= range.size()));
    }
    if let Ok(addresses) = parse_address_list("annotation", text) {
        assert!(addresses.len() <= 2);
    }
    if let Some(address) = VirtualIpName::parse(text) {
        assert_eq!(VirtualIpName::of(address).to_string(), text);
    }
    if let Ok(community) = text.parse::<Community>() {
        assert_eq!(community.to_string().parse(), Ok(community));
    }
    if let Ok(community) = Community::large(text) {
        assert_eq!(community.to_string().parse(), Ok(community));
    }
    if let Ok(community) = text.parse::<ExtendedCommunity>() {
        assert_eq!(community.to_string().parse(), Ok(community));
    }
    if let Some(duration) = parse_duration(text) {
        assert_eq!(parse_duration(&format!("{}ns", duration.as_nanos())), Some(duration));
    }
    let _ = LastGood::read(text);
});
