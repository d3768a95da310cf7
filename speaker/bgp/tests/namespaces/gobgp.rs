//! GoBGP in the host's namespaces.

use ferrolb_netns::{Lab, NODE, Namespace, Process, eventually};

/// A running GoBGP.
pub(crate) struct Gobgp<'a> {
    host: &'a Namespace,
    _process: Process,
}

impl<'a> Gobgp<'a> {
    /// GoBGP in AS 64512 with the node as neighbour in AS 64513, for both families.
    pub(crate) fn start(lab: &'a Lab, password: &str) -> Gobgp<'a> {
        let family = |name: &str| {
            format!("[[neighbors.afi-safis]]\n[neighbors.afi-safis.config]\nafi-safi-name = \"{name}-unicast\"\n")
        };
        let text = format!(
            "[global.config]\nas = 64512\nrouter-id = \"10.0.0.9\"\n[[neighbors]]\n[neighbors.config]\n\
             neighbor-address = \"{}\"\npeer-as = 64513\nauth-password = \"{password}\"\n\
             [neighbors.transport.config]\npassive-mode = true\n{}{}",
            NODE[0],
            family("ipv4"),
            family("ipv6"),
        );
        lab.host.write("/run/bird/gobgpd.toml", &text);
        let words = [
            "gobgpd",
            "-f",
            "/run/bird/gobgpd.toml",
            "-t",
            "toml",
            "--api-hosts",
            "127.0.0.1:50051",
        ];
        let gobgp = Gobgp {
            host: &lab.host,
            _process: lab.host.start(&words),
        };
        eventually("GoBGP answers", || {
            gobgp.run(&["neighbor"]).contains(NODE[0]).then_some(())
        });
        gobgp
    }

    pub(crate) fn run(&self, words: &[&str]) -> String {
        let words: Vec<&str> = std::iter::once("gobgp").chain(words.iter().copied()).collect();
        self.host.command(&words).0
    }

    /// Waits until it has so many routes of a family.
    pub(crate) fn has(&self, family: &str, count: usize) {
        eventually(&format!("{count} {family} routes"), || {
            let shown = self.run(&["global", "rib", "summary", "-a", family]);
            shown.contains(&format!("Destination: {count},")).then_some(())
        });
    }
}
