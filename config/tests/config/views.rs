//! Objects of the cluster, reduced to what decisions need.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ferrolb_config::{endpoints_view, network_view, node_view, parse_address_list, request, service_view, virtual_ip};
use ferrolb_model::{
    AddressRequest, AddressUse, ConditionType, Family, FamilyPolicy, FamilySet, Port, Probe, Protocol, ReclaimPolicy,
    RequestError, ServiceId, ServiceType, Stranger, TrafficPolicy,
};
use proptest::prelude::*;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn from_yaml<T: serde::de::DeserializeOwned>(yaml: &str) -> T {
    serde_saphyr::from_str(yaml).unwrap_or_else(|e| panic!("{e}\n{yaml}"))
}

#[test]
fn a_service() {
    let view = service_view(&from_yaml(
        "
metadata:
  name: web
  namespace: shop
  uid: u1
  resourceVersion: '12'
  creationTimestamp: 1970-01-01T00:01:40Z
  labels: {app: web}
  annotations:
    metallb.io/address-pool: front
    metallb.io/loadBalancerIPs: '2001:db8::5, 192.0.2.5'
    metallb.universe.tf/allow-shared-ip: key
    metallb.io/ip-allocated-from-pool: front
spec:
  type: LoadBalancer
  loadBalancerClass: example.com/x
  clusterIP: 'fd00::1'
  clusterIPs: ['fd00::1', 10.0.0.1]
  ipFamilies: [IPv6, IPv4]
  ipFamilyPolicy: PreferDualStack
  externalTrafficPolicy: Local
  selector: {b: '2', a: '1'}
  ports:
  - {name: http, port: 80, targetPort: http}
  - {name: dns, port: 53, protocol: UDP}
status:
  loadBalancer:
    ingress:
    - {ip: 192.0.2.5, ipMode: VIP}
    - {ip: '2001:db8::5', ipMode: VIP}
",
    ));
    assert_eq!(view.id, ServiceId::new("shop", "web"));
    assert_eq!(
        (view.uid.as_str(), view.created, view.resource_version.as_str()),
        ("u1", 100, "12")
    );
    assert_eq!(
        (view.kind, view.class.as_deref()),
        (ServiceType::LoadBalancer, Some("example.com/x"))
    );
    assert_eq!(
        (view.families, view.primary_family),
        (FamilySet { v4: true, v6: true }, Family::V6)
    );
    assert_eq!(
        (view.family_policy, view.traffic_policy),
        (FamilyPolicy::PreferDualStack, TrafficPolicy::Local)
    );
    assert_eq!(view.selector, "a=1,b=2");
    let port = |protocol, port| Port { protocol, port };
    assert_eq!(
        view.ports.into_iter().collect::<Vec<_>>(),
        [port(Protocol::Tcp, 80), port(Protocol::Udp, 53)]
    );
    let expected = AddressRequest {
        pool: Some("front".to_owned()),
        addresses: vec![ip("192.0.2.5"), ip("2001:db8::5")],
    };
    assert_eq!(view.request, Ok(expected));
    assert_eq!(
        (view.sharing_key.as_deref(), view.pool_annotation.as_deref()),
        (Some("key"), Some("front"))
    );
    assert_eq!(view.deprecated_annotations.len(), 1);
    assert_eq!(
        (view.ingress, view.ingress_foreign),
        (vec![ip("192.0.2.5"), ip("2001:db8::5")], false)
    );
}

#[test]
fn a_service_with_almost_nothing() {
    let view = service_view(&from_yaml(
        "metadata: {name: a}\nspec: {clusterIP: None, clusterIPs: [None]}\n",
    ));
    assert_eq!((view.kind, view.families.is_empty()), (ServiceType::ClusterIp, true));
    assert_eq!((view.request, view.sharing_key), (Ok(AddressRequest::default()), None));
    let view = service_view(&from_yaml(
        "metadata: {name: a}\nspec: {type: LoadBalancer, clusterIP: 10.0.0.1}\n",
    ));
    assert_eq!(view.families, FamilySet { v4: true, v6: false });
}

#[test]
fn entries_of_the_status_that_are_not_ours() {
    for (entry, foreign) in [
        ("{ip: 192.0.2.5}", false),
        ("{ip: 192.0.2.5, ipMode: Proxy}", true),
        ("{ip: '::ffff:192.0.2.5'}", true),
        ("{ip: 192.0.2.5, hostname: a.example}", true),
        ("{hostname: a.example}", true),
        ("{ip: nonsense}", true),
    ] {
        let view = service_view(&from_yaml(&format!(
            "metadata: {{name: a}}\nstatus:\n  loadBalancer:\n    ingress:\n    - {entry}\n"
        )));
        assert_eq!(view.ingress_foreign, foreign, "{entry}");
    }
}

#[test]
fn requests() {
    let new = "metallb.io/loadBalancerIPs";
    let old = "metallb.universe.tf/loadBalancerIPs";
    let read = |given: &[(&str, &str)], single: &str| {
        let given = given.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        request(&given.collect::<BTreeMap<_, _>>(), single).map(|r| r.addresses)
    };
    assert_eq!(read(&[(new, " 192.0.2.1 ")], ""), Ok(vec![ip("192.0.2.1")]));
    assert_eq!(read(&[(new, "::ffff:192.0.2.1")], ""), Ok(vec![ip("192.0.2.1")]));
    assert_eq!(read(&[(old, "192.0.2.1")], ""), Ok(vec![ip("192.0.2.1")]));
    assert_eq!(
        read(&[(new, ""), (old, "192.0.2.1")], ""),
        Ok(vec![]),
        "the new prefix wins, even empty"
    );
    assert_eq!(read(&[(new, "")], "192.0.2.9"), Ok(vec![ip("192.0.2.9")]));
    assert_eq!(read(&[], "2001:db8::9"), Ok(vec![ip("2001:db8::9")]));
    for (given, single, part) in [
        (
            vec![(new, "192.0.2.1,")],
            "",
            "metallb.io/loadBalancerIPs: \"\" is not an IP address",
        ),
        (
            vec![(old, "a.example")],
            "",
            "metallb.universe.tf/loadBalancerIPs: \"a.example\" is not",
        ),
        (
            vec![(new, "192.0.2.1,192.0.2.2")],
            "",
            "more than one address of a family",
        ),
        (
            vec![(new, "192.0.2.1,2001:db8::1,192.0.2.2")],
            "",
            "more than one address of a family",
        ),
        (
            vec![(new, "192.0.2.1")],
            "192.0.2.2",
            "are both set (\"192.0.2.1\" and \"192.0.2.2\")",
        ),
        (vec![], "192.0.2.300", "spec.loadBalancerIP: \"192.0.2.300\" is not"),
    ] {
        let error = read(&given, single).unwrap_err().to_string();
        assert!(error.contains(part), "{given:?}: {error}");
    }
}

#[test]
fn a_node() {
    let view = node_view(&from_yaml(
        "
metadata:
  name: n1
  labels: {node.kubernetes.io/exclude-from-external-load-balancers: ''}
spec:
  unschedulable: true
  taints:
  - {key: maintenance, effect: NoExecute}
status:
  addresses:
  - {type: InternalIP, address: 192.0.2.11}
  - {type: Hostname, address: n1}
  - {type: ExternalIP, address: '2001:db8::11'}
  conditions:
  - {type: Ready, status: 'True'}
  - {type: NetworkUnavailable, status: 'False'}
",
    ));
    assert!(view.ready && !view.silent && !view.network_unavailable && view.excluded);
    assert!(view.cordoned && view.evicting);
    assert_eq!(
        view.addresses.into_iter().collect::<Vec<_>>(),
        [ip("192.0.2.11"), ip("2001:db8::11")]
    );
    let silent = node_view(&from_yaml(
        "metadata: {name: n}\nspec:\n  taints:\n  - {key: node.kubernetes.io/unreachable, effect: NoExecute}\n  - {key: a, effect: \
         NoSchedule}\nstatus:\n  conditions:\n  - {type: Ready, status: Unknown}\n  - {type: NetworkUnavailable, \
         status: 'True'}\n",
    ));
    assert!(!silent.ready && silent.silent && silent.network_unavailable && !silent.excluded);
    assert!(!silent.cordoned && !silent.evicting);
}

#[test]
fn a_network() {
    let view = network_view(&from_yaml(
        "
metadata: {name: n1}
status:
  interfaces:
  - {name: eth0, up: true, carrier: true, addresses: [192.0.2.11/24, '2001:db8::11/64', 10.0.0.1/31, 10.1.0.1/32], gateways: [192.0.2.1, 'fe80::1']}
  - {name: eth1, addresses: [nonsense, 198.51.100.5/30], gateways: ['']}
",
    ));
    let expected = [
        ("192.0.2.0", AddressUse::Subnet),
        ("192.0.2.1", AddressUse::Gateway),
        ("192.0.2.255", AddressUse::Broadcast),
        ("198.51.100.4", AddressUse::Subnet),
        ("198.51.100.7", AddressUse::Broadcast),
        ("2001:db8::", AddressUse::Subnet),
        ("fe80::1", AddressUse::Gateway),
    ];
    assert_eq!(view.node, "n1");
    let links = view.links.iter().map(|l| (l.name.as_str(), l.running, l.subnets.len()));
    assert_eq!(links.collect::<Vec<_>>(), [("eth0", true, 4), ("eth1", false, 1)]);
    assert_eq!(
        view.addresses.into_iter().collect::<Vec<_>>(),
        expected.map(|(address, role)| (ip(address), role))
    );
}

#[test]
fn endpoints() {
    let view = endpoints_view(&from_yaml(
        "
metadata: {name: web-x, namespace: shop, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
endpoints:
- {addresses: [10.0.0.1], nodeName: n1}
- {addresses: [10.0.0.2], nodeName: n1, conditions: {ready: true, serving: true}}
- {addresses: [10.0.0.3], nodeName: n1, conditions: {ready: false, serving: true, terminating: true}}
- {addresses: [10.0.0.4], nodeName: n1, conditions: {ready: false, serving: false}}
- {addresses: [10.0.0.5], conditions: {ready: false}}
",
    ))
    .unwrap();
    assert_eq!(view.slice, ("shop".to_owned(), "web-x".to_owned()));
    assert_eq!((view.service, view.family), (ServiceId::new("shop", "web"), Family::V4));
    let serves = view.endpoints.iter().map(|e| e.can_serve()).collect::<Vec<_>>();
    assert_eq!(serves, [true, true, true, false, false]);
    assert_eq!(view.endpoints[4].node, None);
    assert_eq!(
        endpoints_view(&from_yaml("metadata: {name: x}\naddressType: IPv4\nendpoints: []\n")),
        None
    );
}

#[test]
fn a_virtual_ip() {
    let object = "
apiVersion: ferrolb.io/v1alpha1
kind: VirtualIP
metadata: {name: 2001-0db8-0000-0000-0000-0000-0000-0005, uid: u, resourceVersion: '7'}
spec:
  address: 2001:db8::5
  pool: front
  claims:
  - {namespace: shop, name: web, uid: u1}
  - {namespace: shop, name: later}
  sharingKey: k
  reclaimPolicy: Retain
  prober: n2
status:
  probe: {node: n2, result: Occupied, interface: eth0, macAddress: '02:00:5e:00:00:07'}
  placement: {owner: n1, standbys: [n2], epoch: 4}
  announcer: {node: n1, interfaces: [eth0]}
  conditions:
  - {type: Allocated, status: 'True', reason: Allocated, message: m, lastTransitionTime: 2026-01-01T00:00:00Z}
  - {type: Other, status: 'True', reason: R, message: m, lastTransitionTime: 2026-01-01T00:00:00Z}
";
    let view = virtual_ip(&from_yaml(object)).unwrap();
    assert_eq!((view.address, view.pool.as_deref()), (ip("2001:db8::5"), Some("front")));
    assert_eq!(
        view.claims.iter().map(|c| c.uid.as_deref()).collect::<Vec<_>>(),
        [Some("u1"), None]
    );
    assert_eq!(
        (view.sharing_key.as_deref(), view.reclaim_policy),
        (Some("k"), ReclaimPolicy::Retain)
    );
    assert_eq!(view.placement.map(|p| (p.owner, p.epoch)), Some(("n1".to_owned(), 4)));
    assert_eq!(view.announcer.map(|a| a.interfaces.len()), Some(1));
    assert_eq!(
        view.conditions.keys().copied().collect::<Vec<_>>(),
        [ConditionType::Allocated]
    );
    let stranger = Stranger {
        mac: [2, 0, 0x5e, 0, 0, 7],
        interface: "eth0".to_owned(),
    };
    let n2 = || "n2".to_owned();
    for (from, to, probe) in [
        ("", "", Some(Probe::Occupied { node: n2(), stranger })),
        ("node: n2", "node: n3", Some(Probe::Asked { node: n2() })),
        ("result: Occupied", "result: Clear", None),
        ("result: Occupied", "result: NotAsked", None),
        ("  prober: n2\n", "", None),
    ] {
        let view = virtual_ip(&from_yaml(&object.replace(from, to))).unwrap();
        assert_eq!(view.probe.as_deref(), probe.as_ref(), "{from} {to}");
    }
    for (from, to, part) in [
        (
            "2001:db8::5\n",
            "nonsense\n",
            "spec.address: \"nonsense\" is not an IP address",
        ),
        (
            "2001:db8::5\n",
            "2001:db8::6\n",
            "call the object \"2001-0db8-0000-0000-0000-0000-0000-0006\"",
        ),
        ("name: later", "name: ''", "spec.claims[1].name: is empty"),
    ] {
        let error = virtual_ip(&from_yaml(&object.replace(from, to)))
            .unwrap_err()
            .to_string();
        assert!(error.contains(part), "{error}");
    }
}

proptest! {
    #[test]
    fn any_text_is_a_list_or_an_error(text in "\\PC{0,40}") {
        let _ = parse_address_list("field", &text);
    }

    #[test]
    fn lists_read_back(v4: Option<u32>, v6: Option<u128>, swap: bool) {
        let v6 = v6.map(std::net::Ipv6Addr::from).filter(|a| a.to_ipv4_mapped().is_none());
        let mut list = v4.map(|n| IpAddr::V4(n.into())).into_iter().chain(v6.map(IpAddr::V6)).collect::<Vec<_>>();
        prop_assume!(!list.is_empty());
        let sorted = list.clone();
        if swap {
            list.reverse();
        }
        let text = list.iter().map(ToString::to_string).collect::<Vec<_>>().join(" , ");
        prop_assert_eq!(parse_address_list("field", &text), Ok::<_, RequestError>(sorted));
    }
}
