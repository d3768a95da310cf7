//! FRR in the place of a speaker, on a host of its own: what MetalLB has beside each of its speakers. Prefixes are `network`
//! lines.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use ferrolb_lab::Lab;
use ferrolb_lab::frr::Frr;

use super::collector::Collector;
use super::frr::Router;
use super::speech::addresses;
use super::{ASN, NODES, PATIENCE, Row, Times, Usage, mebibytes};

/// Its number on the LAN.
const NUMBER: u8 = 243;
/// The daemons that MetalLB's FRR consists of, zebra first.
const DAEMONS: [&str; 3] = ["zebra", "bfdd", "bgpd"];

pub(super) struct Announcer(Frr);

impl Announcer {
    pub(super) fn add(lab: &Lab) -> Result<Self> {
        Ok(Announcer(Frr::add(lab, "announcer", NUMBER)?))
    }

    pub(super) fn address(&self) -> IpAddr {
        self.0.host().address()
    }

    /// bgpd's configuration: these neighbours, over a hop or several, are told so many prefixes.
    fn config(&self, neighbours: &[IpAddr], count: u32) -> String {
        let mut text = format!(
            "router bgp {NODES}\n bgp router-id {}\n no bgp ebgp-requires-policy\n no bgp network import-check\n",
            self.address()
        );
        for address in neighbours {
            text += &format!(
                " neighbor {address} remote-as {ASN}\n neighbor {address} ebgp-multihop\n neighbor {address} timers connect 1\n"
            );
        }
        text += " address-family ipv4 unicast\n";
        for address in addresses(count) {
            text += &format!("  network {address}/32\n");
        }
        text + " exit-address-family\n"
    }

    /// Starts bgpd, and what it needs, with this configuration. Whatever bgpd ran before is gone.
    async fn announce(&mut self, lab: &Lab, neighbours: &[IpAddr], count: u32) -> Result<()> {
        self.end().await?;
        if self.0.daemon("zebra").is_none() {
            self.0.start(lab, "zebra", "", &[], PATIENCE).await?;
        }
        let config = self.config(neighbours, count);
        self.0.start(lab, "bgpd", &config, &[], PATIENCE).await
    }

    /// Ends bgpd.
    async fn end(&mut self) -> Result<()> {
        if let Some(bgpd) = self.0.daemon("bgpd") {
            bgpd.stop(PATIENCE).await?;
        }
        self.0.forget("bgpd");
        Ok(())
    }

    /// From bgpd's start to the last prefix in the router's RIB, so often.
    pub(super) async fn rib(&mut self, lab: &Lab, router: &Router, count: u32, runs: u32) -> Result<Row> {
        let mut times = Times::default();
        // What it needs runs before.
        self.announce(lab, &[], 0).await?;
        for _ in 0..runs {
            self.end().await?;
            router.holds(self.address(), 0)?;
            let start = Instant::now();
            self.announce(lab, &[router.host().address()], count).await?;
            router.holds(self.address(), count.into())?;
            times.add(start.elapsed());
        }
        self.end().await?;
        router.holds(self.address(), 0)?;
        Ok(times.row("  FRR in the same run", "bgpd with as many `network` lines"))
    }

    /// From vtysh's answer that a prefix is there, or is gone, to the UPDATE on the wire.
    pub(super) async fn service(
        &mut self,
        lab: &Lab,
        collector: &Collector,
        router: IpAddr,
        runs: u32,
    ) -> Result<Vec<Row>> {
        collector.forget();
        self.announce(lab, &[router], 1).await?;
        collector.until("FRR's first route", |heard| (!heard.addresses.is_empty()).then_some(()))?;
        let address = Ipv4Addr::new(11, 1, 1, 1);
        let (mut up, mut down) = (Times::default(), Times::default());
        for run in 0..2 * runs {
            let announced = run % 2 == 0;
            let no = if announced { "" } else { "no " };
            let line = format!("{no}network {address}/32");
            let within = [
                "configure terminal",
                &format!("router bgp {NODES}"),
                "address-family ipv4 unicast",
                &line,
            ];
            self.0.vtysh("bgpd", &within)?;
            let told = Instant::now();
            let heard = collector.until("FRR's change", |heard| {
                let (is, at) = heard.addresses.get(&address)?;
                (*is == announced).then_some(*at)
            })?;
            let times = if announced { &mut up } else { &mut down };
            times.add(heard.saturating_duration_since(told));
        }
        self.end().await?;
        let how = "from vtysh's answer; MetalLB's debounce of 3 s comes before it";
        Ok(vec![
            up.row("  FRR: `network` -> UPDATE on the wire", how),
            down.row("  FRR: `no network` -> withdrawn on the wire", how),
        ])
    }

    /// Tells so many prefixes to all these routers, and lets it run.
    pub(super) async fn tell(
        &mut self,
        lab: &Lab,
        collector: &Collector,
        (routers, via): (&[IpAddr], IpAddr),
        prefixes: u32,
    ) -> Result<()> {
        let route = format!("route replace 10.98.0.0/24 via {via}\n");
        self.0.host().namespace().ip(&route)?;
        collector.forget();
        self.announce(lab, routers, prefixes).await?;
        if self.0.daemon("bfdd").is_none() {
            self.0.start(lab, "bfdd", "", &[], PATIENCE).await?;
        }
        let total = routers.len() * usize::try_from(prefixes)?;
        collector.until("all of FRR's routes at all peers", |heard| {
            (heard.announced >= total).then_some(())
        })
    }

    /// What each of its daemons uses.
    pub(super) fn usage(&self) -> Result<Vec<(&'static str, Usage)>> {
        let of = |daemon| {
            let process = self
                .0
                .daemon(daemon)
                .with_context(|| format!("{daemon} does not run"))?;
            Ok((daemon, Usage::of(process.pid())?))
        };
        DAEMONS.into_iter().map(of).collect()
    }

    /// Rows of what its daemons use after `idle`, since `before`. Ends bgpd.
    pub(super) async fn used(&mut self, before: &[(&'static str, Usage)], idle: Duration) -> Result<Vec<Row>> {
        let after = self.usage()?;
        self.end().await?;
        let sum = after.iter().map(|(_, usage)| usage.rss).sum();
        let each: Vec<_> = after
            .iter()
            .map(|(daemon, usage)| format!("{daemon} {}", mebibytes(usage.rss)))
            .collect();
        let cpu: f64 = after
            .iter()
            .zip(before)
            .map(|((_, after), (_, before))| after.percent_of_a_core_since(before, idle))
            .sum();
        let memory = Row::new(
            "  FRR: memory",
            mebibytes(sum),
            String::new(),
            format!("VmRSS; {}", each.join(", ")),
        );
        let idle = Row::new(
            "  FRR: CPU time, idle",
            format!("{cpu:.2} %"),
            String::new(),
            "of one core",
        );
        Ok(vec![memory, idle])
    }

    /// Watches a router by BFD at 50 ms x 3.
    pub(super) async fn watch(&mut self, lab: &Lab, router: IpAddr) -> Result<()> {
        let config = format!(
            "bfd\n peer {router}\n  detect-multiplier 3\n  receive-interval 50\n  transmit-interval 50\n  no shutdown\n exit\nexit\n"
        );
        if let Some(bfdd) = self.0.daemon("bfdd") {
            bfdd.stop(PATIENCE).await?;
        }
        self.0.forget("bfdd");
        if self.0.daemon("zebra").is_none() {
            self.0.start(lab, "zebra", "", &[], PATIENCE).await?;
        }
        self.0.start(lab, "bfdd", &config, &[], PATIENCE).await
    }
}
