//! BIRD in the host's namespaces.

use ferrolb_netns::{Lab, Namespace, Process, eventually};

/// A running BIRD.
pub(crate) struct Bird<'a> {
    host: &'a Namespace,
    _process: Process,
}

impl<'a> Bird<'a> {
    /// BIRD with these lines for its BFD protocol.
    pub(crate) fn start(lab: &'a Lab, lines: &str) -> Bird<'a> {
        let text = format!("router id 10.0.0.9;\nprotocol device {{}}\nprotocol bfd {{\n{lines}\n}}\n");
        lab.host.write("/run/bird/bird.conf", &text);
        let words = ["bird", "-f", "-c", "/run/bird/bird.conf", "-s", "/run/bird/bird.ctl"];
        let bird = Bird {
            host: &lab.host,
            _process: lab.host.start(&words),
        };
        eventually("BIRD answers", || {
            bird.birdc("show status").contains("up and running").then_some(())
        });
        bird
    }

    pub(crate) fn birdc(&self, command: &str) -> String {
        self.host.command(&["birdc", "-s", "/run/bird/bird.ctl", command]).0
    }

    /// Waits until its session with this address is in this state.
    pub(crate) fn until(&self, address: &str, state: &str) {
        eventually(&format!("{address} {state}"), || {
            let shown = self.birdc("show bfd sessions");
            let line = shown
                .lines()
                .find(|line| line.split_whitespace().next() == Some(address))?;
            (line.split_whitespace().nth(2) == Some(state)).then_some(())
        });
    }
}
