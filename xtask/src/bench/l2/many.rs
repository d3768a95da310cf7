//! A node that is lost with many addresses on it, and what they cost.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use ferrolb_api::VirtualIp;
use ferrolb_lab::capture::{Capture, Frame};
use ferrolb_lab::{Program, wait_until};
use kube::Api;
use kube::api::ListParams;

use super::super::figures::{Row, Times, Usage, mebibytes, millis};
use super::{Bench, EXCLUDE, NAMESPACE, progress, service, verdict};

/// The last of the addresses is announced by its heir.
const ALL: Duration = Duration::from_millis(400);
/// KiB.
const MEMORY: u64 = 12 * 1024;
/// A speaker gives memory back every minute: so long after the last change that is read.
const GIVEN_BACK: Duration = Duration::from_secs(65);
/// Four kube-proxies learn of a thousand Services on two cores meanwhile.
const TO_PLACE: Duration = Duration::from_secs(240);
/// Nodes are lost this long after the last change.
const SETTLED: Duration = Duration::from_secs(3);

impl Bench<'_> {
    /// Puts `count` addresses on one node, and loses it.
    pub(super) async fn many_addresses(&mut self, count: usize, runs: u32) -> Result<()> {
        progress(&format!("{count} addresses"));
        self.grow(count).await?;
        let (mut all, mut halves) = (Times::default(), Times::default());
        for run in 1..=runs {
            progress(&format!("loss of a node with {count} addresses, {run} of {runs}"));
            self.gather(count).await?;
            let mut times = self.lose_all(count).await?;
            times.sort_unstable();
            halves.add(times[count / 2]);
            all.add(times[count - 1]);
        }
        let met = verdict(all.quantile(100) <= ALL);
        let how = format!(
            "from the cut to the heir's announcement of the last one; goal {}: {met}",
            millis(ALL)
        );
        self.rows
            .push(all.row(&format!("node lost with {count} addresses: all back"), &how));
        self.rows.push(halves.row("  half of them back", "the same"));
        Ok(())
    }

    /// Puts `count` addresses on one node; the addresses.
    pub(super) async fn own(&mut self, count: usize) -> Result<Vec<IpAddr>> {
        progress(&format!("{count} addresses"));
        self.grow(count).await?;
        self.gather(count).await?;
        let api: Api<VirtualIp> = Api::all(self.lab.client());
        let ips = api.list(&ListParams::default()).await?.items.into_iter();
        ips.map(|ip| Ok(ip.spec.address.parse()?)).collect()
    }

    /// Makes Services until there are so many, or more.
    async fn grow(&mut self, count: usize) -> Result<()> {
        let names: Vec<usize> = (self.more + 1..count).collect();
        for some in names.chunks(100) {
            let services: Vec<String> = some.iter().map(|n| service(&format!("many-{n}"))).collect();
            self.lab.apply(NAMESPACE, &services.join("---\n")).await?;
        }
        self.more = self.more.max(count.saturating_sub(1));
        Ok(())
    }

    /// Places all addresses on the first node: the others are excluded, and come back to nothing but standing by.
    async fn gather(&self, count: usize) -> Result<()> {
        let [first, others @ ..] = &self.lab.nodes()[..3] else {
            anyhow::bail!("the lab is too small")
        };
        for node in others {
            node.label(EXCLUDE, Some("true")).await?;
        }
        self.placed(count, |owner, _| owner == first.name()).await?;
        for node in others {
            node.label(EXCLUDE, None).await?;
        }
        self.placed(count, |owner, standbys| {
            owner == first.name() && standbys == others.len()
        })
        .await?;
        tokio::time::sleep(SETTLED).await;
        Ok(())
    }

    /// Waits until all addresses are announced, and placed as wanted: owner, number of standbys.
    async fn placed(&self, count: usize, wanted: impl Fn(&str, usize) -> bool) -> Result<()> {
        let api: Api<VirtualIp> = Api::all(self.lab.client());
        wait_until(&format!("{count} addresses to be placed"), TO_PLACE, async || {
            let statuses = api.list(&ListParams::default()).await?.items.into_iter();
            let placed = statuses.filter_map(|ip| {
                let status = ip.status?;
                let (placement, announcer) = (status.placement?, status.announcer?);
                let right = wanted(&placement.owner, placement.standbys.len()) && announcer.node == placement.owner;
                right.then_some(())
            });
            let placed = placed.count();
            ensure!(placed == count, "{placed} are");
            Ok(())
        })
        .await
    }

    /// What a speaker needs that has nothing to do but to announce: what making the addresses has cost is given back every minute.
    pub(super) async fn memory(&mut self, count: usize) -> Result<()> {
        tokio::time::sleep(GIVEN_BACK).await;
        let mut most = None;
        for node in self.lab.nodes() {
            most = most.max(Some(Usage::of(node.program(Program::Speaker)?.pid())?));
        }
        let usage = most.context("a speaker")?;
        let met = verdict(usage.rss <= MEMORY);
        let how = format!(
            "VmRSS, the highest of four, a minute after the last change; of it RssAnon {}; goal {} with 1,000: {met}",
            mebibytes(usage.anonymous),
            mebibytes(MEMORY)
        );
        let what = format!("memory of the speaker with {count} addresses");
        self.rows.push(Row::new(what, mebibytes(usage.rss), String::new(), how));
        Ok(())
    }

    /// Loses the first node; how long each address was silent, in no order.
    async fn lose_all(&self, count: usize) -> Result<Vec<Duration>> {
        let lost = &self.lab.nodes()[0];
        self.lab.api_server().kill();
        let file = self.lab.log_dir().join("many.pcap");
        let capture = Capture::start(self.lab.client_host().namespace(), "eth0", &file)?;
        let cut = SystemTime::now();
        self.lab.lan().isolate(lost.host())?;
        tokio::time::sleep(SETTLED).await;
        let frames = capture.stop()?;
        self.lab.lan().plug(lost.host())?;
        self.back().await?;

        let mut first: BTreeMap<Ipv4Addr, SystemTime> = BTreeMap::new();
        for frame in frames.frames.iter().filter(|frame| frame.at >= cut) {
            if let Some((address, mac)) = arp_sender(frame)
                && mac != lost.host().mac()
                && address.octets()[2] != 0
            {
                first.entry(address).or_insert(frame.at);
            }
        }
        ensure!(
            first.len() == count,
            "{} of {count} addresses were announced",
            first.len()
        );
        let times = first.values().map(|at| at.duration_since(cut).unwrap_or_default());
        Ok(times.collect())
    }
}

/// Whom an ARP packet says to be from (RFC 826): the address and its MAC.
fn arp_sender(frame: &Frame) -> Option<(Ipv4Addr, String)> {
    let bytes = frame.bytes.get(..42).filter(|bytes| bytes[12..14] == [8, 6])?;
    let mac: Vec<String> = bytes[22..28].iter().map(|byte| format!("{byte:02x}")).collect();
    let address: [u8; 4] = bytes[28..32].try_into().ok()?;
    Some((address.into(), mac.join(":")))
}
