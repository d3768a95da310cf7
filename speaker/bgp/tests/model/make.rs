//! Makers of what the tests want.

use std::net::IpAddr;
use std::sync::Arc;

use ferrolb_bgp::adj_rib_out::{Context, OwnHops};
use ferrolb_bgp::proto::update::Encoding;
use ferrolb_bgp::{Attributes, Community, Routes};
use ferrolb_model::FamilySet;
use ipnet::IpNet;

pub(crate) const BOTH: FamilySet = FamilySet { v4: true, v6: true };

pub(crate) fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// An IPv4 /32, or an IPv6 /128, by number.
pub(crate) fn host(v6: bool, number: u32) -> IpNet {
    if v6 {
        IpNet::new(IpAddr::V6((0xfd00_u128 << 112 | u128::from(number)).into()), 128).unwrap()
    } else {
        IpNet::new(IpAddr::V4((0x0a00_0000 + number).into()), 32).unwrap()
    }
}

/// Attributes that differ by number.
pub(crate) fn tagged(number: u16) -> Attributes {
    Attributes {
        communities: [Community::new(64512, number)].into(),
        ..Attributes::default()
    }
}

/// So many routes of a family, all with the same attributes.
pub(crate) fn hosts(v6: bool, count: u32, attributes: &Attributes) -> Arc<Routes> {
    Arc::new((0..count).map(|n| (host(v6, n), attributes.clone())).collect())
}

pub(crate) fn context() -> Context {
    Context {
        encoding: Encoding {
            local_asn: 64512,
            external: false,
            four_octet_asn: true,
        },
        families: BOTH,
        extended_next_hop: false,
        own: OwnHops {
            v4: Some(ip("192.0.2.1")),
            v6: Some("2001:db8::1".parse().unwrap()),
        },
    }
}
