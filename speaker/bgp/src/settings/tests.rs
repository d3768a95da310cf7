use super::*;

fn peer() -> Peer {
    let mut peer = Peer::new(
        "192.0.2.1".parse().unwrap(),
        64512,
        RemoteAsn::Is(64513),
        Ipv4Addr::new(10, 0, 0, 1),
    );
    peer.password = Some(Password::new(b"secret").unwrap());
    peer
}

/// A way to change a peer.
type Edit = fn(&mut Peer);

#[test]
fn only_what_is_fixed_when_a_session_starts_resets_it() {
    use Field::*;
    let edits: [(Field, bool, Edit); 19] = [
        (Address, true, |p| p.address = "192.0.2.2".parse().unwrap()),
        (Interface, true, |p| p.interface = Some("eth0".to_owned())),
        (Port, true, |p| p.port = 1790),
        (LocalAsn, true, |p| p.local_asn = 1),
        (RemoteAsn, true, |p| p.remote_asn = super::RemoteAsn::External),
        (RouterId, true, |p| p.router_id = Ipv4Addr::new(10, 0, 0, 2)),
        (Source, true, |p| p.source = Some("192.0.2.9".parse().unwrap())),
        (Vrf, true, |p| p.vrf = Some("red".to_owned())),
        (Families, true, |p| p.families.v6 = true),
        (HoldTime, true, |p| p.hold_time = 9),
        (GracefulRestart, true, |p| {
            p.graceful_restart = Some(super::GracefulRestart { restart_time: 120 });
        }),
        (Password, true, |p| p.password = None),
        (Password, false, |p| {
            p.password = Some(super::Password::new(b"other").unwrap());
        }),
        (Keepalive, false, |p| p.keepalive = Some(5)),
        (ConnectRetry, false, |p| p.connect_retry = Duration::from_secs(1)),
        (Reach, false, |p| p.reach = super::Reach::MultiHop),
        (Opening, false, |p| p.opening = super::Opening::Listen),
        (NextHops, false, |p| p.next_hops.v4 = Some("192.0.2.3".parse().unwrap())),
        (NextHops, false, |p| {
            p.next_hops.v6 = Some("2001:db8::3".parse().unwrap())
        }),
    ];
    for (field, resets, edit) in edits {
        let mut next = peer();
        edit(&mut next);
        let diff = peer().diff(&next);
        let expected = BTreeSet::from([field]);
        let (found, other) = if resets {
            (diff.reset, diff.live)
        } else {
            (diff.live, diff.reset)
        };
        assert_eq!((found, other.len()), (expected, 0), "{field:?}");
    }
    assert!(peer().diff(&peer()).is_empty());
}

#[test]
fn impossible_settings_are_named() {
    let edits: [(Edit, &str); 14] = [
        (|p| p.hold_time = 2, "hold time 2 s: must be 0 or at least 3"),
        (
            |p| p.keepalive = Some(91),
            "keepalive time 91 s: must be from 1 s to the hold time, 90 s",
        ),
        (
            |p| p.keepalive = Some(0),
            "keepalive time 0 s: must be from 1 s to the hold time, 90 s",
        ),
        (
            |p| p.connect_retry = Duration::ZERO,
            "connect time 0 s: must be positive",
        ),
        (|p| p.local_asn = 0, "local AS 0: must be from 1 to 4294967295"),
        (
            |p| p.remote_asn = RemoteAsn::Is(0),
            "remote AS 0: must be from 1 to 4294967295",
        ),
        (
            |p| p.router_id = Ipv4Addr::UNSPECIFIED,
            "router id 0.0.0.0: must be another address",
        ),
        (|p| p.port = 0, "peer port 0: must be from 1 to 65535"),
        (
            |p| p.families = FamilySet::default(),
            "no address family: at least one of IPv4 and IPv6",
        ),
        (
            |p| p.reach = Reach::Secured { hops: 0 },
            "TTL security over 0 hops: must be from 1 to 255",
        ),
        (
            |p| p.graceful_restart = Some(GracefulRestart { restart_time: 4096 }),
            "restart time 4096 s: must be at most 4095",
        ),
        (
            |p| p.address = "fe80::1".parse().unwrap(),
            "peer address fe80::1 is link-local: needs an interface",
        ),
        (
            |p| p.address = "224.0.0.1".parse().unwrap(),
            "peer address 224.0.0.1: must be a unicast address",
        ),
        (
            |p| p.source = Some("2001:db8::1".parse().unwrap()),
            "source address 2001:db8::1: must be of the same family as the peer address 192.0.2.1",
        ),
    ];
    for (edit, message) in edits {
        let mut peer = peer();
        edit(&mut peer);
        assert_eq!(peer.check().unwrap_err().to_string(), message);
    }
    let mut fine = peer();
    (fine.hold_time, fine.keepalive) = (0, None);
    assert_eq!(fine.check(), Ok(()));
}

#[test]
fn a_password_has_a_length_and_no_face() {
    assert_eq!(Password::new(b""), Err(SettingsError::PasswordLength { length: 0 }));
    assert_eq!(
        Password::new(&[b'x'; 81]),
        Err(SettingsError::PasswordLength { length: 81 })
    );
    assert!(Password::new(&[b'x'; 80]).is_ok());
    assert!(!format!("{:#?} {:?}", peer(), peer()).contains("secret"));
}

#[test]
fn who_a_peer_may_be() {
    for (remote, asn, accepted) in [
        (RemoteAsn::Is(64513), 64513, true),
        (RemoteAsn::Is(64513), 64512, false),
        (RemoteAsn::External, 64513, true),
        (RemoteAsn::External, 64512, false),
        (RemoteAsn::Internal, 64513, false),
        (RemoteAsn::Internal, 64512, true),
    ] {
        assert_eq!(remote.accepts(asn, 64512), accepted, "{remote:?} {asn}");
    }
}
