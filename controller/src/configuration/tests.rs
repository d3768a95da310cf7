use super::*;
use ferrolb_api::IpAddressPool;
use ferrolb_config::{Configures, Kind};
use serde_json::json;

/// A pool of the namespace, `uid` included; read from JSON as the watch does.
fn pool(uid: &str, addresses: &str) -> Option<Object> {
    let object = json!({
        "apiVersion": "metallb.io/v1beta1",
        "kind": "IPAddressPool",
        "metadata": { "name": "lan", "uid": uid, "resourceVersion": "7", "generation": 3 },
        "spec": { "addresses": [addresses] },
    });
    let object = serde_json::from_value::<IpAddressPool>(object).unwrap();
    Some(object.into_object())
}

fn lan() -> ObjectRef {
    ObjectRef::new(Kind::Pool, "lan")
}

fn empty() -> Configuration {
    Configuration::new("ferrolb-system".to_owned())
}

#[test]
fn a_fault_is_told_once_and_the_last_good_version_stays() {
    let mut configuration = empty();
    let first = configuration.settle().unwrap();
    assert_eq!(first.config.as_deref(), Some(&Config::default()));
    assert!(configuration.settle().is_none(), "nothing changed");

    configuration.object(lan(), pool("1", "192.0.2.0/24"));
    let change = configuration.settle().unwrap();
    assert_eq!(change.findings, Findings::default());
    assert!(change.notes.is_empty() && change.config.is_some_and(|c| c.pools.contains_key("lan")));

    configuration.object(lan(), pool("1", "192.0.2.0/33"));
    let change = configuration.settle().unwrap();
    assert!(change.config.is_none(), "the same is in force");
    assert_eq!(change.findings.errors.len(), 1);
    assert!(
        change
            .findings
            .last_good
            .is_some_and(|text| text.contains("192.0.2.0/24"))
    );
    let about = &change.notes[0].about;
    assert_eq!((about.name.as_deref(), about.uid.as_deref()), (Some("lan"), Some("1")));
    assert_eq!(about.namespace.as_deref(), Some("ferrolb-system"));
    configuration.object(lan(), pool("1", "192.0.2.0/33"));
    assert!(configuration.settle().is_none(), "the same again");
    configuration.namespace("shop".to_owned(), Some(Labels::new()));
    assert!(configuration.settle().unwrap().notes.is_empty(), "told already");

    configuration.object(lan(), None);
    let change = configuration.settle().unwrap();
    assert_eq!(change.findings, Findings::default());
    assert!(change.config.is_some_and(|c| c.pools.is_empty()));
}

#[test]
fn a_warning_is_no_error() {
    let mut configuration = empty();
    configuration.object(lan(), pool("1", "192.0.2.0/24"));
    let facts = NodeFacts {
        addresses: ["192.0.2.7".parse().unwrap()].into(),
        ..NodeFacts::default()
    };
    configuration.node("n1".to_owned(), Some(facts));
    let change = configuration.settle().unwrap();
    assert!(change.findings.errors.is_empty() && change.config.unwrap().pools.contains_key("lan"));
    assert!(change.findings.warnings[0].contains("192.0.2.7, an address of Node \"n1\""));
    assert_eq!(change.notes[0].reason, reasons::CONFIGURATION_WARNING);
    configuration.node("n2".to_owned(), Some(NodeFacts::default()));
    assert!(configuration.settle().unwrap().notes.is_empty(), "told already");
}

#[test]
fn what_was_in_force_outlives_the_process() {
    let mut before = empty();
    before.object(lan(), pool("1", "192.0.2.0/24"));
    before.settle();
    before.object(lan(), pool("1", "192.0.2.0/33"));
    let text = before.settle().unwrap().findings.last_good.unwrap();

    let started = |text: &str, object| {
        let mut after = empty();
        after.object(lan(), object);
        after.inherit(Some(text));
        (after.settle().unwrap(), after)
    };
    let (change, mut after) = started(&text, pool("1", "192.0.2.0/33"));
    let pools = &change.config.unwrap().pools;
    assert_eq!(pools["lan"].ranges, ["192.0.2.0/24".parse().unwrap()]);
    assert_eq!(
        change.findings.last_good.as_deref(),
        Some(&*text),
        "it stays for the next process"
    );
    assert_eq!(change.notes.len(), 1);
    after.inherit(None);
    after.object(lan(), Some(Kind::Pool.unreadable("garbage")));
    let change = after.settle().unwrap();
    assert!(change.config.is_none(), "the same is in force");
    assert_eq!(change.findings.last_good.as_deref(), Some(&*text));
    after.object(lan(), pool("1", "192.0.2.0/25"));
    assert_eq!(after.settle().unwrap().findings, Findings::default(), "right again");

    let (change, _) = started(&text, pool("2", "192.0.2.0/33"));
    assert!(
        change.config.unwrap().pools.is_empty(),
        "another object of the same name"
    );
    let (change, _) = started("{", pool("1", "192.0.2.0/33"));
    assert!(
        change.config.unwrap().pools.is_empty(),
        "a text that cannot be read is ignored"
    );
}
