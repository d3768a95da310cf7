//! Nodes and speakers that fail, and addresses that are moved, under clients that ask without a pause: how long they
//! wait, and who owns the address afterwards.
//!
//! The pods run on a node that announces nothing, so what is lost is the announcer's doing. A bound here is one that a
//! busy machine keeps, too; `xtask bench l2` measures.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use ferrolb_api::Placement;
use ferrolb_lab::client::{Client, Probe, Prober, Tally};
use ferrolb_lab::{Node, Program, wait_until};

use crate::manifests::deployment;
use crate::scene::{PATIENCE, Scene};

/// The node of the pods; the others are candidates for the address.
const BACKENDS: &str = "node-4";

/// Between two questions of a client.
const PERIOD: Duration = Duration::from_millis(1);
/// The longest silence when a node is lost.
pub(crate) const NODE_LOSS: Duration = Duration::from_secs(2);
/// The longest wait of a client that asks for the address while its speaker is away, beyond that of one that knows it. A
/// Linux client that is not answered asks again after a second, so this shows that its first question was remembered.
const FIRST_ANSWER: Duration = Duration::from_millis(800);
/// How long a speaker is dead, or stopped: less than the grace time of ten seconds.
const DEAD: Duration = Duration::from_secs(3);
const STOPPED: Duration = Duration::from_secs(5);
/// How long a client knows the address that it has asked for.
const FORGET: Duration = Duration::from_millis(50);
/// How long heartbeats are lost: many detection times.
const LOST: Duration = Duration::from_secs(2);

const RECEIVED: &str = "ferrolb_liveness_received_total";
const VOUCHED: &str = "ferrolb_liveness_vouched_total";
pub(crate) const SILENCES: &str = "ferrolb_liveness_silences_total";
const DEFENCES: &str = "ferrolb_l2_defences_total{protocol=\"ARP\"}";

pub(crate) const V4: &str = "IPv4";
const V6: &str = "IPv6";

const HTTP: u16 = 80;
pub(crate) const TCP: u16 = 9000;
pub(crate) const UDP: u16 = 53;

pub(crate) const MANY_PORTS: &str = r#"
apiVersion: v1
kind: Service
metadata: { name: web }
spec:
  type: LoadBalancer
  ipFamilies: [FAMILY]
  selector: { app: web }
  ports:
    - { name: http, port: 80, targetPort: http }
    - { name: tcp, port: 9000 }
    - { name: udp, port: 53, targetPort: 5353, protocol: UDP }
"#;

/// A Service whose address is answered, and watched by its standbys.
pub(crate) struct Served {
    /// Where.
    pub(crate) s: Scene,
    /// The address.
    pub(crate) address: IpAddr,
    /// Its placement at the beginning.
    pub(crate) placement: Placement,
}

impl Served {
    pub(crate) async fn new(s: Scene, family: &str) -> Result<Self> {
        let pool = s.pool();
        Self::with(s, family, &pool).await
    }

    /// With this pool and its advertisement, the end of which can be added to.
    async fn with(s: Scene, family: &str, pool: &str) -> Result<Self> {
        let candidates = format!(
            "  nodeSelectors:\n    - matchExpressions:\n        \
             - {{ key: kubernetes.io/hostname, operator: NotIn, values: [{BACKENDS}] }}\n"
        );
        s.apply_config(&(pool.to_owned() + &candidates)).await?;
        let pinned = format!("      nodeSelector: {{ kubernetes.io/hostname: {BACKENDS} }}\n");
        s.apply(&(deployment("web", 2) + &pinned)).await?;
        let address = s
            .apply_and_address("web", &MANY_PORTS.replace("FAMILY", family))
            .await?;
        s.ready("web", 2).await?;
        s.endpoints("web").await?;
        s.page(address, HTTP).await?;
        s.udp_echo(address, UDP).await?;
        s.owner(address).await?;
        let placement = s.placement(address).await?;
        let served = Served { s, address, placement };
        served.watched().await?;
        Ok(served)
    }

    /// Waits until heartbeats go to and fro: a standby that has never heard the owner is slow to suspect it.
    pub(crate) async fn watched(&self) -> Result<()> {
        for standby in &self.placement.standbys {
            let before = self.counted(standby, RECEIVED).await?;
            wait_until(&format!("{standby} to hear heartbeats"), PATIENCE, async || {
                let heard = self.counted(standby, RECEIVED).await? - before;
                ensure!(heard > 10, "{heard}");
                Ok(())
            })
            .await?;
        }
        Ok(())
    }

    /// A metric of the speaker of `node`.
    pub(crate) async fn counted(&self, node: &str, metric: &str) -> Result<u64> {
        let metrics = self.s.metrics(self.s.node(node)?.host()).await?;
        let count = metrics.lines().find_map(|line| line.strip_prefix(metric));
        let count = count.with_context(|| format!("no {metric} in\n{metrics}"))?;
        Ok(count.trim().parse()?)
    }

    pub(crate) fn owner(&self) -> Result<&Node> {
        self.s.node(&self.placement.owner)
    }

    /// A client that nobody has heard of yet.
    async fn guest(&self) -> Result<Client> {
        let [_, _, number, _] = self.s.v4(0).octets();
        let host = self.s.lab().add_host(&format!("guest-{number}"), 200 + number)?;
        Ok(Client::new(host.namespace()))
    }

    /// Asks without a pause, from the first answer on.
    pub(crate) async fn probe(&self, client: &Client) -> Result<Prober> {
        asking(client, SocketAddr::new(self.address, UDP)).await
    }

    fn connect(&self) -> Result<TcpStream> {
        connect(&self.s.browser(), SocketAddr::new(self.address, TCP))
    }

    /// Waits until another node owns the address, by one takeover or move, and the old owner has no part in it.
    pub(crate) async fn inherited(&self) -> Result<String> {
        let heir = self.s.other_owner(self.address, &self.placement.owner).await?;
        let placement = self.s.placement(self.address).await?;
        ensure!(
            placement.owner == heir && placement.epoch == self.placement.epoch + 1,
            "{:?} has become {placement:?}",
            self.placement
        );
        self.s.answered_by(self.address, &heir).await?;
        Ok(heir)
    }

    /// The address is where it was, under the same epoch, and its owner answers for it.
    pub(crate) async fn unmoved(&self) -> Result<()> {
        self.s.fence().await?;
        let now = self.s.placement(self.address).await?;
        ensure!(
            (&now.owner, now.epoch) == (&self.placement.owner, self.placement.epoch),
            "{:?} has become {now:?}",
            self.placement
        );
        self.answered_from(&self.placement.owner, &self.placement.owner).await
    }

    /// Waits until one station alone, that of the node `sender`, answers for the address, and gives the MAC address of
    /// `named`.
    pub(crate) async fn answered_from(&self, named: &str, sender: &str) -> Result<()> {
        let wanted = (self.s.node_mac(named), self.s.node_mac(sender));
        wait_until(&format!("{sender} to answer for {named}"), PATIENCE, async || {
            let (client, address) = (self.s.browser(), self.address);
            let ask = move || client.resolve(address, Duration::from_millis(100));
            let replies = tokio::task::spawn_blocking(ask).await??;
            let seen = replies
                .0
                .iter()
                .map(|reply| (reply.mac.to_string(), reply.source.to_string()));
            let seen: BTreeSet<_> = seen.collect();
            ensure!(
                seen == [wanted.clone()].into(),
                "MAC addresses and senders are {seen:?}"
            );
            Ok(())
        })
        .await
    }
}

/// A client that asks without a pause, from the first answer on.
pub(crate) async fn asking(client: &Client, target: SocketAddr) -> Result<Prober> {
    wait_until("the client to be answered", PATIENCE, async || {
        let client = client.clone();
        tokio::task::spawn_blocking(move || client.udp(target, b"0", Duration::from_secs(1))).await?
    })
    .await?;
    let prober = client.probe(target, Probe::Udp, PERIOD)?;
    served_again(&prober, 0).await?;
    Ok(prober)
}

/// Waits until five hundred questions have been answered since `before` were.
pub(crate) async fn served_again(prober: &Prober, before: u64) -> Result<()> {
    wait_until("the clients to be served", PATIENCE, async || {
        let tally = prober.so_far();
        ensure!(tally.answered() >= before + 500, "{tally:?}");
        Ok(())
    })
    .await
}

/// The end of a prober's work: shows what it has seen.
pub(crate) fn told(what: &str, prober: Prober) -> Tally {
    let tally = prober.stop();
    let millis = tally.longest_gap.as_secs_f64() * 1000.0;
    eprintln!(
        "  {what}: {} of {} lost, longest silence {millis:.1} ms",
        tally.lost, tally.sent
    );
    tally
}

pub(crate) fn none_lost(tally: &Tally) -> Result<()> {
    ensure!(tally.lost == 0, "questions were lost: {tally:?}");
    Ok(())
}

/// A connection that has been answered.
pub(crate) fn connect(client: &Client, target: SocketAddr) -> Result<TcpStream> {
    let mut connection = client.tcp_connect(target, PATIENCE)?;
    // It begins with the name of the pod and a space.
    let mut byte = [0];
    while byte != *b" " {
        connection.read_exact(&mut byte).context("read the pod's name")?;
    }
    echoed(&mut connection)?;
    Ok(connection)
}

/// The connection still answers.
pub(crate) fn echoed(connection: &mut TcpStream) -> Result<()> {
    connection.write_all(b"alive?").context("write")?;
    let mut answer = [0; 6];
    connection.read_exact(&mut answer).context("read")?;
    ensure!(&answer == b"alive?", "{answer:?} came back");
    Ok(())
}

/// The node that owns the address loses its power while the API server is down: a standby takes over. Back, the API
/// server hears of it; back, the node gets nothing back.
pub(crate) async fn node_lost(s: Scene) -> Result<()> {
    owner_loses_power(s, V4).await
}

/// The same on nodes that have IPv6 alone: heartbeats, and the questions to the wire, go over it.
pub(crate) async fn node_lost_ipv6(s: Scene) -> Result<()> {
    owner_loses_power(s, V6).await
}

async fn owner_loses_power(s: Scene, family: &str) -> Result<()> {
    let served = Served::new(s.clone(), family).await?;
    let prober = served.probe(&s.browser()).await?;
    s.api_server().kill();
    lose_owner(&served, prober).await
}

/// Cuts the power of the owner, and brings everything back.
async fn lose_owner(served: &Served, prober: Prober) -> Result<()> {
    let s = &served.s;
    let before = prober.so_far().answered();
    served.owner()?.power_off()?;
    served_again(&prober, before).await?;
    let tally = told("node lost", prober);
    ensure!(tally.longest_gap < NODE_LOSS, "nobody answered for too long: {tally:?}");

    s.api_server().restart()?;
    s.wait_api_ready().await?;
    let heir = served.inherited().await?;
    served.owner()?.power_on()?;
    s.node_ready(&served.placement.owner).await?;
    s.wait_ferrolb_ready().await?;
    s.fence().await?;
    ensure!(served.inherited().await? == heir, "the address moved once more");
    Ok(())
}

/// All the speakers are killed and started again while the API server is down: they go on from what they remember, and
/// a node that is lost then is taken over from, here with an IPv6 address.
pub(crate) async fn speakers_restart_without_api(s: Scene) -> Result<()> {
    let served = Served::new(s.clone(), V6).await?;
    s.api_server().kill();
    for node in s.nodes() {
        node.restart(Program::Speaker)?;
    }
    let owner = &served.placement.owner;
    served.answered_from(owner, owner).await?;
    served.watched().await?;
    let prober = served.probe(&s.browser()).await?;
    lose_owner(&served, prober).await
}

/// Clients that must not notice anything: one that knows the address, one that asks for it anew, one with a connection.
pub(crate) struct Clients {
    pub(crate) served: Served,
    pub(crate) guest: Client,
    knows: Prober,
    asks: Prober,
    connection: TcpStream,
}

impl Clients {
    pub(crate) async fn new(s: Scene, family: &str) -> Result<Self> {
        let served = Served::new(s, family).await?;
        let guest = served.guest().await?;
        Ok(Self {
            knows: served.probe(&served.s.browser()).await?,
            asks: served.probe(&guest).await?,
            connection: served.connect()?,
            guest,
            served,
        })
    }

    /// Makes one of them ask, while the speaker is away for so long; then a standby answers in the owner's name.
    async fn wait(&self, away: Duration) -> Result<()> {
        self.guest.forget_neighbour(self.served.address)?;
        tokio::time::sleep(away).await;
        let placement = &self.served.placement;
        self.served
            .answered_from(&placement.owner, &placement.standbys[0])
            .await
    }

    /// Makes one of them ask for the address again and again while something happens.
    pub(crate) async fn asking_anew(&self, happens: impl Future<Output = Result<()>>) -> Result<()> {
        let forget = async {
            loop {
                self.guest.forget_neighbour(self.served.address)?;
                tokio::time::sleep(FORGET).await;
            }
        };
        tokio::select! {
            outcome = happens => outcome,
            outcome = forget => outcome,
        }
    }

    /// Until now nothing has moved, and the connection lives.
    pub(crate) async fn unnoticed(&mut self, what: &str) -> Result<()> {
        self.served.unmoved().await?;
        echoed(&mut self.connection).with_context(|| format!("the connection, after the {what}"))
    }

    /// Nothing has moved, and nobody has noticed; returns what the one who asked anew has seen.
    pub(crate) async fn end(mut self, what: &str) -> Result<Tally> {
        self.served.unmoved().await?;
        echoed(&mut self.connection)?;
        let knows = told(&format!("{what}, a client that knows the address"), self.knows);
        let asks = told(&format!("{what}, a client that asks anew"), self.asks);
        none_lost(&knows)?;
        ensure!(
            asks.longest_gap < knows.longest_gap + FIRST_ANSWER,
            "it waited too long: {asks:?}"
        );
        Ok(asks)
    }
}

/// The speaker of a node that lives is killed, and comes back after a while: a standby answers in its name.
pub(crate) async fn speaker_killed(s: Scene) -> Result<()> {
    let clients = Clients::new(s, V4).await?;
    let owner = clients.served.owner()?;
    owner.kill(Program::Speaker)?;
    clients.wait(DEAD).await?;
    owner.restart(Program::Speaker)?;
    clients.end("speaker killed").await.map(drop)
}

/// The same with a speaker that hangs, and goes on after a while, and an IPv6 address.
pub(crate) async fn speaker_hangs(s: Scene) -> Result<()> {
    let clients = Clients::new(s, V6).await?;
    let owner = clients.served.owner()?;
    owner.freeze(Program::Speaker)?;
    clients.wait(STOPPED).await?;
    owner.thaw(Program::Speaker)?;
    clients.end("speaker stopped").await.map(drop)
}

/// The same with a speaker that is ended and started again, as an upgrade does it: not even who asks just then waits.
pub(crate) async fn speaker_upgraded(s: Scene) -> Result<()> {
    let clients = Clients::new(s.clone(), V4).await?;
    let speaker = clients.served.owner()?.program(Program::Speaker)?;
    let exit = speaker.stop(PATIENCE).await?;
    ensure!(exit.success(), "the speaker ended with {exit}");
    clients.wait(Duration::ZERO).await?;
    speaker.restart()?;
    clients.guest.forget_neighbour(clients.served.address)?;
    s.wait_ferrolb_ready().await?;
    none_lost(&clients.end("speaker upgraded").await?)
}

/// A speaker that stays dead: when the grace time is over a standby takes the address over, as in a planned move. Back,
/// it gets nothing back.
pub(crate) async fn speaker_stays_dead(s: Scene) -> Result<()> {
    let served = Served::new(s.clone(), V4).await?;
    let prober = served.probe(&s.browser()).await?;
    served.owner()?.kill(Program::Speaker)?;
    let heir = served.inherited().await?;
    none_lost(&told("speaker dead for longer than the grace time", prober))?;
    served.owner()?.restart(Program::Speaker)?;
    s.wait_ferrolb_ready().await?;
    s.fence().await?;
    ensure!(served.inherited().await? == heir, "the address moved once more");
    Ok(())
}

/// A planned move: the new owner answers before the old one stops.
pub(crate) async fn planned_move(s: Scene) -> Result<()> {
    let served = Served::new(s.clone(), V4).await?;
    let prober = served.probe(&s.browser()).await?;
    let label = "node.kubernetes.io/exclude-from-external-load-balancers";
    served.owner()?.label(label, Some("true")).await?;
    served.inherited().await?;
    served_again(&prober, prober.so_far().answered()).await?;
    none_lost(&told("planned move", prober))?;
    served.owner()?.label(label, None).await
}

/// Heartbeats are lost, and nothing else: the standbys ask the wire, hear that the owner answers, and let it be.
pub(crate) async fn heartbeats_lost(s: Scene) -> Result<()> {
    let served = Served::new(s.clone(), V4).await?;
    let prober = served.probe(&s.browser()).await?;
    let standby = &served.placement.standbys[0];
    let before = served.counted(standby, SILENCES).await?;
    for node in s.nodes() {
        let rules = "add table inet fault; add chain inet fault in { type filter hook input priority 0; }; \
                     add rule inet fault in udp dport 7947 drop";
        node.host().namespace().output("nft", &[rules])?;
    }
    tokio::time::sleep(LOST).await;
    let silences = served.counted(standby, SILENCES).await? - before;
    ensure!(silences > 0, "{standby} has missed nothing");
    served.unmoved().await?;
    for node in s.nodes() {
        node.host().namespace().output("nft", &["delete table inet fault"])?;
    }
    served.watched().await?;
    served.unmoved().await?;
    none_lost(&told("heartbeats lost", prober))
}

/// Two nodes hear nothing of each other, and everybody else hears both: the first standby asks another one before it acts.
pub(crate) async fn deaf_pair(s: Scene) -> Result<()> {
    let served = Served::new(s.clone(), V4).await?;
    let prober = served.probe(&s.browser()).await?;
    let (owner, standby) = (&served.placement.owner, &served.placement.standbys[0]);
    let before = served.counted(standby, VOUCHED).await?;
    for (node, other) in [(owner, standby), (standby, owner)] {
        let mac = s.node_mac(other);
        let rules = format!(
            "add table netdev fault; add chain netdev fault in {{ type filter hook ingress device eth0 priority 0; }}; \
             add rule netdev fault in ether saddr {mac} drop"
        );
        s.node(node)?.host().namespace().output("nft", &[rules])?;
    }
    wait_until("another standby to be asked", PATIENCE, async || {
        let vouched = served.counted(standby, VOUCHED).await? - before;
        ensure!(vouched > 3, "{vouched}");
        Ok(())
    })
    .await?;
    served.unmoved().await?;
    for node in [owner, standby] {
        s.node(node)?
            .host()
            .namespace()
            .output("nft", &["delete table netdev fault"])?;
    }
    served.watched().await?;
    served.unmoved().await?;
    none_lost(&told("two nodes deaf to each other", prober))
}

/// The interface that is announced on loses its carrier while heartbeats pass on another one and the API server is down:
/// the owner asks a standby to take over. Back, the interface gets nothing back.
pub(crate) async fn announcing_link_lost(s: Scene) -> Result<()> {
    for node in s.nodes() {
        let IpAddr::V4(address) = node.host().address() else {
            anyhow::bail!("no IPv4 address")
        };
        let second = s.v4(200 + address.octets()[3] % 50);
        let namespace = node.host().namespace();
        for command in [
            "link add link eth0 name lan1 type macvlan mode bridge".to_owned(),
            format!("addr add {second}/16 dev lan1 noprefixroute"),
            "link set lan1 up".to_owned(),
        ] {
            namespace.output("ip", &command.split(' ').collect::<Vec<_>>())?;
        }
    }
    let pool = s.pool() + "  interfaces: [lan1]\n";
    let served = Served::with(s.clone(), V4, &pool).await?;
    let prober = served.probe(&s.browser()).await?;
    s.api_server().kill();
    let before = prober.so_far().answered();
    let link = |state: &str| {
        let namespace = served.owner()?.host().namespace();
        namespace.output("ip", &["link", "set", "lan1", state])
    };
    link("down")?;
    served_again(&prober, before).await?;
    let tally = told("the announcing interface lost", prober);
    ensure!(tally.longest_gap < NODE_LOSS, "nobody answered for too long: {tally:?}");
    link("up")?;
    s.api_server().restart()?;
    s.wait_api_ready().await?;
    let heir = s.other_owner(served.address, &served.placement.owner).await?;
    s.fence().await?;
    let now = s.placement(served.address).await?;
    ensure!(
        (now.owner == heir, now.epoch) == (true, served.placement.epoch + 1),
        "{:?} has become {now:?}",
        served.placement
    );
    for node in s.nodes() {
        node.host().namespace().output("ip", &["link", "delete", "lan1"])?;
    }
    Ok(())
}

/// The owner alone is cut off without noticing, so that there is an owner on each side. Once the segment is whole the one of
/// the higher epoch stays, and the other one answers no more, and does not fight its heir.
pub(crate) async fn segment_split(s: Scene) -> Result<()> {
    let served = Served::new(s.clone(), V4).await?;
    let prober = served.probe(&s.browser()).await?;
    let before = prober.so_far().answered();
    served.owner()?.isolate()?;
    served_again(&prober, before).await?;
    let tally = told("segment split", prober);
    ensure!(tally.longest_gap < NODE_LOSS, "nobody answered for too long: {tally:?}");
    let heir = served.inherited().await?;
    let prober = served.probe(&s.browser()).await?;
    let defences = served.counted(&served.placement.owner, DEFENCES).await?;
    served.owner()?.restore_link()?;
    s.node_ready(&served.placement.owner).await?;
    s.fence().await?;
    ensure!(served.inherited().await? == heir, "the address moved once more");
    let fought = served.counted(&served.placement.owner, DEFENCES).await? - defences;
    ensure!(fought == 0, "{} has fought its heir", served.placement.owner);
    let tally = told("segment healed", prober);
    ensure!(
        tally.longest_gap < NODE_LOSS,
        "the healed segment was silent for too long: {tally:?}"
    );
    Ok(())
}
