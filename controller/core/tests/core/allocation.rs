//! What Services get, seen from the API server's side.

use ferrolb_controller_core::EventKind;

use crate::lab::*;

#[test]
fn a_service_gets_the_lowest_address_in_three_writes() {
    let mut lab = Lab::started([pool("a", &["192.0.2.10-192.0.2.20"])]);
    lab.set_endpoints(endpoints("web", &["n2"]));
    lab.apply(service("web", 1));
    lab.settle();
    assert_eq!(lab.shown("web"), ["192.0.2.10"]);
    assert_eq!(lab.services[&id("web")].pool_annotation.as_deref(), Some("a"));
    assert!(lab.owner("192.0.2.10").is_some());
    assert_eq!(lab.kinds("web"), [EventKind::Allocated]);
    assert_eq!(
        lab.last_message("web"),
        "Assigned IP [\"192.0.2.10\"] from IPAddressPool \"a\""
    );
    assert_eq!(lab.writes.len(), 3, "{:#?}", lab.writes);
    lab.assert_quiet();
}
