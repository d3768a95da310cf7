//! What was in force, carried over a restart.

use ferrolb_api::{BgpPeer, IpAddressPool, L2Advertisement};
use ferrolb_config::{LastGood, Object, ObjectRef, Parsed};
use proptest::prelude::*;

use crate::make::{object, read, read_after, snapshot, surroundings, unreadable, with_metadata};

const ROOM: usize = 128 * 1024;

fn restart(text: &str, objects: &[(ObjectRef, Object)]) -> Parsed {
    let before = LastGood::read(text)
        .unwrap()
        .resume(&snapshot(objects), &surroundings());
    read_after(objects, &before)
}

fn pool(name: &str, addresses: &str) -> (ObjectRef, Object) {
    let metadata = format!(
        "{{name: {name}, uid: u-{name}, generation: 3, labels: {{a: b}}, annotations: {{ferrolb.io/on-shrink: reassign, \
         kubectl.kubernetes.io/last-applied-configuration: x}}, resourceVersion: '5'}}"
    );
    with_metadata::<IpAddressPool>(name, &metadata, &format!("addresses: [{addresses}]"))
}

#[test]
fn a_restart_changes_nothing() {
    let ad = |weight: u32| {
        let spec = format!("{{ipAddressPools: [p], preferredNodeSelectors: [{{weight: {weight}, preference: {{}}}}]}}");
        object::<L2Advertisement>("a", 1, &spec)
    };
    let good = read(&[pool("p", "192.0.2.0/28"), pool("q", "198.51.100.0/24"), ad(1)]);
    assert_eq!(LastGood::text(&good, ROOM), (None, vec![]), "nothing is wrong");

    let wrong = [pool("p", "192.0.2.0/33"), pool("q", "198.51.100.0/24"), ad(0)];
    let parsed = read_after(&wrong, &good);
    let (text, dropped) = LastGood::text(&parsed, ROOM);
    let text = text.unwrap();
    assert!(
        dropped.is_empty() && text.contains("\"generation\":3") && !text.contains("last-applied"),
        "{text}"
    );
    assert!(!text.contains("198.51.100.0"), "only what is wrong");
    let after = restart(&text, &wrong);
    assert_eq!(after, parsed);
    assert_eq!(LastGood::text(&after, ROOM).0, Some(text.clone()));

    let garbage = [unreadable::<IpAddressPool>("p"), wrong[1].clone(), ad(1)];
    let after = restart(&text, &garbage);
    assert_eq!(
        after.config.pools, parsed.config.pools,
        "also when it cannot be read at all"
    );
    assert_eq!(
        restart(&text, &wrong[1..2]).config.pools.len(),
        1,
        "what is gone stays gone"
    );
    let right = restart(&text, &[pool("p", "192.0.2.0/29"), ad(7)]);
    assert_eq!(LastGood::text(&right, ROOM).0, None, "right again");
    assert_eq!(right.config.pools["p"].ranges, ["192.0.2.0/29".parse().unwrap()]);
}

#[test]
fn the_largest_go_when_there_is_no_room() {
    let wide = (0..200)
        .map(|n| format!("10.0.{n}.0/24"))
        .collect::<Vec<_>>()
        .join(", ");
    let good = read(&[
        pool("small", "192.0.2.0/28"),
        pool("wide", &wide),
        pool("other", "192.0.2.32/28"),
    ]);
    let wrong = ["small", "wide", "other"].map(|name| pool(name, "x"));
    let parsed = read_after(&wrong, &good);
    let (all, dropped) = LastGood::text(&parsed, ROOM);
    let all = all.unwrap();
    assert!(dropped.is_empty());
    assert_eq!(
        LastGood::text(&parsed, all.len()).0.as_ref(),
        Some(&all),
        "it fits exactly"
    );
    let (rest, dropped) = LastGood::text(&parsed, all.len() - 1);
    assert_eq!(dropped, [ObjectRef::new(wrong[1].0.kind, "wide")]);
    let after = restart(&rest.unwrap(), &wrong);
    assert_eq!(after.config.pools.keys().collect::<Vec<_>>(), ["other", "small"]);
    assert_eq!(
        LastGood::text(&parsed, 10),
        (
            None,
            vec![
                ObjectRef::new(wrong[1].0.kind, "wide"),
                ObjectRef::new(wrong[0].0.kind, "other"),
                ObjectRef::new(wrong[0].0.kind, "small"),
            ]
        )
    );
}

#[test]
fn a_password_never_leaves_the_object() {
    let peer = |secret: &str, asn: u32| {
        object::<BgpPeer>(
            "p",
            1,
            &format!("{{myASN: {asn}, peerASN: 2, peerAddress: 192.0.2.1, {secret}}}"),
        )
    };
    for (secret, kept) in [("password: s3cret", false), ("passwordSecret: {name: s3cret}", true)] {
        let parsed = read_after(&[peer(secret, 0)], &read(&[peer(secret, 1)]));
        assert_eq!(parsed.config.peers.len(), 1);
        assert_eq!(
            LastGood::text(&parsed, ROOM)
                .0
                .is_some_and(|text| text.contains("s3cret")),
            kept
        );
    }
}

#[test]
fn what_cannot_be_read_is_passed_over() {
    assert!(LastGood::read("{}").is_err() && LastGood::read("").is_err());
    let garbage = r#"[7, {"kind":"Pod"}, {"kind":"IPAddressPool","metadata":{"name":"p"},"spec":{"addresses":3}}, {"kind":"IPAddressPool","metadata":{"name":"q"},"spec":{"addresses":["192.0.2.0/28"]}}]"#;
    let after = restart(garbage, &[pool("p", "x"), pool("q", "x")]);
    assert_eq!(after.config.pools.keys().collect::<Vec<_>>(), ["q"]);
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in "\\PC{0,80}|\\[\\{\"kind\":\"(Community|BGPPeer)\",\"metadata\":\\{\"name\":\"\\PC{0,9}\"\\}\\}\\]") {
        if let Ok(good) = LastGood::read(&text) {
            good.resume(&snapshot(&[pool("p", "192.0.2.0/28")]), &surroundings());
        }
    }
}
