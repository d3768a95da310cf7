//! Texts that users write: ranges of pools, addresses in annotations, names of VirtualIPs. Nothing panics, nothing loops
//! over a range, and what is accepted reads back from its own display.
#![no_main]

use ferrolb_config::parse_address_list;
use ferrolb_model::{IpRange, VirtualIpName};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(range) = text.parse::<IpRange>() {
        assert_eq!(range.to_string().parse(), Ok(range));
        assert!(range.size() > 0 && range.contains(range.first()) && range.contains(range.last()));
        assert_eq!(range.after(range.last()), None);
    }
    if let Ok(addresses) = parse_address_list("annotation", text) {
        assert!(addresses.len() <= 2);
    }
    if let Some(address) = VirtualIpName::parse(text) {
        assert_eq!(VirtualIpName::of(address).to_string(), text);
    }
});
