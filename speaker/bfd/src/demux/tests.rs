use crate::packet::{Diagnostic, State};

use super::*;

const PEER: &str = "192.0.2.9";
const LOCAL: &str = "192.0.2.1";

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn arrival() -> Arrival<'static> {
    Arrival {
        source: ip(PEER),
        destination: ip(LOCAL),
        interface: 2,
        vrf: None,
        multi_hop: false,
        ttl: 255,
    }
}

fn packet(your_discriminator: u32) -> Repr {
    Repr {
        diagnostic: Diagnostic::NONE,
        state: State::Down,
        poll: false,
        r#final: false,
        independent: false,
        demand: false,
        multiplier: 3,
        my_discriminator: NonZeroU32::MIN,
        your_discriminator,
        desired_transmit: 1,
        required_receive: 1,
        required_echo: 0,
    }
}

/// Sessions 1, 2, ... with these paths; "eth0" is interface 2, "eth1" is 3.
fn demux(paths: &[Path]) -> Demux {
    let entries = (1..).zip(paths).map(|(discriminator, path)| {
        let entry = Entry {
            path: Arc::new(path.clone()),
            interface: path.interface.as_ref().map(|name| if name == "eth0" { 2 } else { 3 }),
            minimum_ttl: 250,
        };
        (NonZeroU32::new(discriminator).unwrap(), entry)
    });
    Demux {
        entries: entries.collect(),
    }
}

/// The number of the session found.
fn find(paths: &[Path], arrival: Arrival<'_>, your_discriminator: u32) -> Result<usize, Reason> {
    let demux = demux(paths);
    let found = demux.find(&arrival, &packet(your_discriminator))?;
    Ok(paths.iter().position(|path| *path == **found).unwrap() + 1)
}

#[test]
fn a_named_session_is_found_whatever_the_sender() {
    let paths = [Path::new(ip(PEER)), Path::new(ip("192.0.2.8"))];
    let other = Arrival {
        source: ip("192.0.2.77"),
        destination: ip("192.0.2.3"),
        ..arrival()
    };
    assert_eq!(find(&paths, other, 2), Ok(2));
    assert_eq!(find(&paths, arrival(), 3), Err(Reason::UnknownDiscriminator));
}

#[test]
fn a_named_session_keeps_to_its_port_interface_and_vrf() {
    let on = |interface: &str| Path {
        interface: Some(interface.to_owned()),
        ..Path::new(ip(PEER))
    };
    let far = Path {
        multi_hop: true,
        ..Path::new(ip(PEER))
    };
    let red = Path {
        vrf: Some("red".to_owned()),
        ..Path::new(ip(PEER))
    };
    let paths = [on("eth0"), on("eth1"), far, red];
    let found: Vec<_> = (1..=4).map(|number| find(&paths, arrival(), number)).collect();
    let other = Err(Reason::OtherPath);
    assert_eq!(found, [Ok(1), other, other, other]);
    let far = Arrival {
        multi_hop: true,
        ..arrival()
    };
    assert_eq!(find(&paths, far, 3), Ok(3));
    let red = Arrival {
        vrf: Some("red"),
        ..arrival()
    };
    assert_eq!(find(&paths, red, 4), Ok(4));
}

#[test]
fn a_first_packet_goes_to_the_session_that_says_most() {
    let plain = Path::new(ip(PEER));
    let local = |address: &str| Path {
        local: Some(ip(address)),
        ..plain.clone()
    };
    let on = |name: &str| Path {
        interface: Some(name.to_owned()),
        ..plain.clone()
    };
    let far = Path {
        multi_hop: true,
        ..plain.clone()
    };
    let cases: [(&[Path], Result<usize, Reason>); 7] = [
        (&[], Err(Reason::UnknownPeer)),
        (&[Path::new(ip("192.0.2.8")), far.clone()], Err(Reason::UnknownPeer)),
        (&[local("192.0.2.3"), on("eth1")], Err(Reason::UnknownPeer)),
        (&[far, plain.clone()], Ok(2)),
        (&[plain.clone(), local(LOCAL)], Ok(2)),
        (&[on("eth0"), local(LOCAL), plain.clone()], Ok(1)),
        (&[on("eth1"), plain.clone()], Ok(2)),
    ];
    for (paths, expected) in cases {
        assert_eq!(find(paths, arrival(), 0), expected, "{paths:?}");
    }
}

#[test]
fn the_distance_is_judged() {
    let far = Path {
        multi_hop: true,
        ..Path::new(ip(PEER))
    };
    let cases = [
        (false, 255, true),
        (false, 254, false),
        (true, 250, true),
        (true, 249, false),
        (true, 0, false),
    ];
    for (multi_hop, ttl, passes) in cases {
        let arrival = Arrival {
            multi_hop,
            ttl,
            ..arrival()
        };
        for your_discriminator in [0, if multi_hop { 2 } else { 1 }] {
            let found = find(&[Path::new(ip(PEER)), far.clone()], arrival, your_discriminator);
            let expected = if passes {
                Ok(if multi_hop { 2 } else { 1 })
            } else {
                Err(Reason::Ttl)
            };
            assert_eq!(found, expected, "{arrival:?}");
        }
    }
}
