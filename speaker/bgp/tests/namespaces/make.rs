//! Makers of what the tests want.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use ferrolb_bgp::proto::Cease;
use ferrolb_bgp::session::Leave;
use ferrolb_bgp::{Attributes, Community, LargeCommunity, Peer, Phase, RemoteAsn, Routes};
use ferrolb_model::FamilySet;
use ipnet::IpNet;

use ferrolb_netns::{ROUTER, ip};

/// The router, reached over IPv4 or IPv6, in our AS, for both families.
pub(crate) fn peer(v6: bool) -> Peer {
    let address = ip(ROUTER[usize::from(v6)]);
    let mut peer = Peer::new(address, 64512, RemoteAsn::Is(64512), Ipv4Addr::new(10, 0, 0, 1));
    peer.families = FamilySet { v4: true, v6: true };
    peer.hold_time = 9;
    peer.connect_retry = Duration::from_secs(1);
    peer
}

pub(crate) fn external(v6: bool) -> Peer {
    Peer {
        local_asn: 64513,
        remote_asn: RemoteAsn::External,
        ..peer(v6)
    }
}

fn attributes() -> Attributes {
    Attributes {
        local_pref: Some(150),
        med: Some(7),
        communities: [Community::new(64512, 100)].into(),
        large_communities: [LargeCommunity(64512, 1, 2)].into(),
        ..Attributes::default()
    }
}

/// So many routes of each family: 172.16.0.0/32 and fd00::/128 upwards.
pub(crate) fn routes(v4: u32, v6: u32) -> Arc<Routes> {
    let v4 = (0..v4).map(|n| IpNet::new(Ipv4Addr::from(0xac10_0000 + n).into(), 32).unwrap());
    let v6 = (0..v6).map(|n| IpNet::new(Ipv6Addr::from(0xfd00_u128 << 112 | u128::from(n)).into(), 128).unwrap());
    Arc::new(v4.chain(v6).map(|prefix| (prefix, attributes())).collect())
}

pub(crate) fn drain(wait: u64, text: &str) -> Phase {
    Phase::Leave(Leave::Withdraw {
        wait: Duration::from_secs(wait),
        cease: Cease::Shutdown,
        text: text.to_owned(),
    })
}
