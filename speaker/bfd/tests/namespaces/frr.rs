//! FRR: zebra and bfdd in the host's namespaces.

use serde_json::Value;

use ferrolb_netns::{Lab, Namespace, Process, eventually};

const LIBRARY: &str = "/usr/lib/frr";

/// A running FRR.
pub(crate) struct Frr<'a> {
    host: &'a Namespace,
    _zebra: Process,
    bfdd: Option<Process>,
}

/// The configuration for a peer, 200 ms both ways and multiplier 3; `lines` come after and win.
pub(crate) fn peer(name: &str, lines: &[&str]) -> String {
    let mut text = format!(" peer {name}\n  receive-interval 200\n  transmit-interval 200\n  no shutdown\n");
    for line in lines {
        text += &format!("  {line}\n");
    }
    text + " exit\n"
}

impl<'a> Frr<'a> {
    /// FRR with these peers.
    pub(crate) fn start(lab: &'a Lab, peers: &str) -> Frr<'a> {
        let host = &lab.host;
        host.write("/etc/frr/vtysh.conf", "no service integrated-vtysh-config\n");
        host.write("/etc/frr/zebra.conf", "");
        host.write("/etc/frr/bfdd.conf", &format!("bfd\n{peers}exit\n"));
        let zebra = host.start(&[&format!("{LIBRARY}/zebra"), "-A", "127.0.0.1", "-P", "0"]);
        let mut frr = Frr {
            host,
            _zebra: zebra,
            bfdd: None,
        };
        frr.wait_for("zebra");
        frr.start_bfdd();
        frr
    }

    pub(crate) fn start_bfdd(&mut self) {
        let bfdd = self
            .host
            .start(&[&format!("{LIBRARY}/bfdd"), "-A", "127.0.0.1", "-P", "0"]);
        self.bfdd = Some(bfdd);
        self.wait_for("bfdd");
    }

    /// Ends bfdd at once.
    pub(crate) fn kill_bfdd(&mut self) {
        self.bfdd = None;
        self.host.run(|| {
            for end in ["bfdd.vty", "bfdd.pid", "bfdd.sock"] {
                let _ = std::fs::remove_file(format!("/var/run/frr/{end}"));
            }
        });
    }

    fn wait_for(&self, daemon: &str) {
        eventually(&format!("{daemon} answers"), || {
            let (_, answers) = self.host.command(&["vtysh", "-d", daemon, "-c", "show version"]);
            answers.then_some(())
        });
    }

    /// Changes the configuration of a peer.
    pub(crate) fn configure(&self, name: &str, line: &str) {
        let (peer, words) = (
            format!("peer {name}"),
            ["vtysh", "-d", "bfdd", "-c", "configure terminal", "-c", "bfd"],
        );
        let words: Vec<&str> = words.into_iter().chain(["-c", &peer, "-c", line]).collect();
        let (output, success) = self.host.command(&words);
        assert!(success && output.is_empty(), "{line}: {output}");
    }

    fn list(&self, what: &str) -> Vec<Value> {
        let command = format!("show bfd peers {what}json");
        let shown = self.host.command(&["vtysh", "-d", "bfdd", "-c", &command]).0;
        serde_json::from_str(&shown).unwrap_or_default()
    }

    /// What it says about the session with this address.
    pub(crate) fn session(&self, address: &str) -> Value {
        let found = self.list("").into_iter().find(|session| session["peer"] == address);
        found.unwrap_or(Value::Null)
    }

    /// How often the session with this address went down.
    pub(crate) fn downs(&self, address: &str) -> u64 {
        let found = self
            .list("counters ")
            .into_iter()
            .find(|session| session["peer"] == address);
        found
            .and_then(|session| session["session-down"].as_u64())
            .expect("a session with counters")
    }

    /// Waits until the session with this address is as it is said.
    pub(crate) fn until(&self, address: &str, key: &str, value: impl Into<Value>) {
        let value = value.into();
        eventually(&format!("{address}: {key} {value}"), || {
            (self.session(address)[key] == value).then_some(())
        });
    }
}
