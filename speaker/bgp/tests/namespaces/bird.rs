//! BIRD in the host's namespaces.

use ferrolb_netns::{Lab, Namespace, Process, ROUTER, eventually};

/// A running BIRD.
pub(crate) struct Bird<'a> {
    host: &'a Namespace,
    process: Option<Process>,
}

/// A BGP protocol with a neighbour in our AS.
pub(crate) fn protocol(name: &str, neighbour: &str, options: &str) -> String {
    protocol_to(name, neighbour, 179, options)
}

/// The same, to another port.
pub(crate) fn protocol_to(name: &str, neighbour: &str, port: u16, options: &str) -> String {
    format!(
        "protocol bgp {name} {{\n  local {} as 64512;\n  neighbor {neighbour} port {port} as 64512;\n  direct;\n  \
         hold time 9;\n  error wait time 1, 2;\n  {options}\n  \
         ipv4 {{ import all; export none; extended next hop on; }};\n  ipv6 {{ import all; export none; }};\n}}\n",
        ROUTER[1]
    )
}

impl<'a> Bird<'a> {
    pub(crate) fn start(lab: &'a Lab, protocols: &str) -> Bird<'a> {
        let mut bird = Bird {
            host: &lab.host,
            process: None,
        };
        bird.launch(protocols);
        bird
    }

    /// Ends it and starts another.
    pub(crate) fn restart(mut self, protocols: &str) -> Bird<'a> {
        self.process = None;
        self.launch(protocols);
        self
    }

    fn launch(&mut self, protocols: &str) {
        let text = format!("router id 10.0.0.9;\nprotocol device {{}}\nprotocol direct {{ ipv4; ipv6; }}\n{protocols}");
        self.host.write("/run/bird/bird.conf", &text);
        let words = ["bird", "-f", "-c", "/run/bird/bird.conf", "-s", "/run/bird/bird.ctl"];
        self.process = Some(self.host.start(&words));
        eventually("BIRD answers", || {
            self.birdc("show status").contains("up and running").then_some(())
        });
    }

    pub(crate) fn birdc(&self, command: &str) -> String {
        self.host.command(&["birdc", "-s", "/run/bird/bird.ctl", command]).0
    }

    /// Waits until it has so many routes of each family from a protocol.
    pub(crate) fn has(&self, protocol: &str, v4: usize, v6: usize) {
        eventually(&format!("{v4} and {v6} routes"), || {
            let count = |table: &str| {
                let shown = self.birdc(&format!("show route table {table} protocol {protocol} count"));
                shown
                    .lines()
                    .find_map(|line| line.split(" of ").next()?.trim().parse::<usize>().ok())
            };
            (count("master4") == Some(v4) && count("master6") == Some(v6)).then_some(())
        });
    }
}
