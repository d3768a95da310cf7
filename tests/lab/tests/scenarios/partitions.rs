//! Short stalls, a node that shuts down, a segment in two, and several faults in a row: who owns the address afterwards, and
//! what clients notice.
//!
//! The words are those of `failover.rs`. What a busy machine cannot keep is measured by `xtask bench l2`.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use ferrolb_lab::client::Client;
use ferrolb_lab::{Program, wait_until};

use crate::failover::{NODE_LOSS, SILENCES, Served, V4, none_lost, served_again, told};
use crate::scene::{PATIENCE, Scene};

/// How long a speaker stands still each time: less and more than the detection time.
const STALLS: [Duration; 3] = [
    Duration::from_millis(50),
    Duration::from_millis(150),
    Duration::from_millis(500),
];

/// How long an owner's speaker is silent, by a policy, before its addresses are taken over, and how long of that nobody answers
/// for sure.
const GRACE: Duration = Duration::from_secs(4);
const NOBODY: Duration = Duration::from_secs(2);
/// How long a split segment is looked at: longer than anybody needs to take an address over.
const SPLIT: Duration = Duration::from_secs(2);

/// Addresses that a speaker has taken over because their owner's was silent for the grace time.
const GRACE_OVER: &str = "ferrolb_takeover_seconds_count{reason=\"GraceOver\"}";

/// Addresses that a speaker has taken over from nodes that are gone.
const NODES_GONE: &str = "ferrolb_takeover_seconds_count{reason=\"NodeGone\"}";

/// Waits for the event that tells of it.
async fn taken_over(s: &Scene, from: &str, by: &str, reason: &str) -> Result<()> {
    wait_until(&format!("the event of {from}'s loss"), PATIENCE, async || {
        let events = s.events("default", "Node", from).await?;
        let told = |message: &str| message.contains(reason) && message.contains(&format!("{by:?}"));
        ensure!(
            events
                .iter()
                .any(|event| event.reason == "addressesTakenOver" && told(&event.message)),
            "{events:?}"
        );
        Ok(())
    })
    .await
}

/// The owner loses its power and then, while the API server is still down, its heir: the third one answers. Back, nobody
/// gets anything back.
pub(crate) async fn owner_and_heir_lost(s: Scene) -> Result<()> {
    let served = Served::new(s.clone(), V4).await?;
    let prober = served.probe(&s.browser()).await?;
    let (owner, mut left) = (&served.placement.owner, served.placement.standbys.clone());
    s.api_server().kill();
    let before = prober.so_far().answered();
    served.owner()?.power_off()?;
    served_again(&prober, before).await?;
    // The second standby is the quicker one where the first has to wait for a processor.
    let heir = wait_until("a standby alone to answer", PATIENCE, async || {
        let macs = s.who_answers(served.address).await?;
        let heir = left.iter().position(|node| macs == [s.node_mac(node)]);
        heir.with_context(|| format!("{macs:?} answer"))
    })
    .await?;
    let heir = left.remove(heir);
    let before = prober.so_far().answered();
    s.node(&heir)?.power_off()?;
    served_again(&prober, before).await?;
    let tally = told("owner and heir lost", prober);
    ensure!(tally.longest_gap < NODE_LOSS, "nobody answered for too long: {tally:?}");
    back(&served, [owner, &heir]).await?;
    wait_until("both takeovers to be recorded", PATIENCE, async || {
        let placement = s.placement(served.address).await?;
        ensure!(
            (&placement.owner, placement.epoch) == (&left[0], served.placement.epoch + 2),
            "{:?} has become {placement:?}",
            served.placement
        );
        Ok(())
    })
    .await?;
    s.answered_by(served.address, &left[0]).await
}

/// Brings the API server and these nodes back, and waits until all of them have caught up.
async fn back(served: &Served, nodes: [&String; 2]) -> Result<()> {
    let s = &served.s;
    s.api_server().restart()?;
    s.wait_api_ready().await?;
    for node in nodes {
        s.node(node)?.power_on()?;
    }
    for node in nodes {
        s.node_ready(node).await?;
    }
    s.wait_ferrolb_ready().await?;
    s.fence().await
}

/// All the standbys lose their power, which nobody notices; then the owner's speaker is killed, and goes on from what it
/// remembers, though nobody could stand in for it and the API server is down.
pub(crate) async fn standbys_then_owner(s: Scene) -> Result<()> {
    let served = Served::new(s.clone(), V4).await?;
    let prober = served.probe(&s.browser()).await?;
    let (owner, standbys) = (&served.placement.owner, &served.placement.standbys);
    s.api_server().kill();
    for standby in standbys {
        s.node(standby)?.power_off()?;
    }
    served_again(&prober, prober.so_far().answered()).await?;
    s.node(owner)?.kill(Program::Speaker)?;
    s.unanswered(served.address).await?;
    s.node(owner)?.restart(Program::Speaker)?;
    served.answered_from(owner, owner).await?;
    // The client knew the address all the time, and the node was never gone.
    none_lost(&told("standbys lost, then the owner's speaker", prober))?;
    back(&served, [&standbys[0], &standbys[1]]).await?;
    // The outage may have made the node NotReady for a moment, which is no reason to move.
    served.unmoved().await
}

/// The owner's speaker stands still for a moment, again and again: nothing moves, nothing is lost.
pub(crate) async fn short_stalls(s: Scene) -> Result<()> {
    let served = Served::new(s.clone(), V4).await?;
    let prober = served.probe(&s.browser()).await?;
    for stall in STALLS {
        for _ in 0..3 {
            served.owner()?.freeze(Program::Speaker)?;
            tokio::time::sleep(stall).await;
            served.owner()?.thaw(Program::Speaker)?;
            served.watched().await?;
        }
    }
    served.unmoved().await?;
    none_lost(&told("short stalls", prober))
}

/// The owner shuts down: its programs are told to end, which loses nothing, and then its kernel falls silent, and a
/// standby takes over.
pub(crate) async fn node_shuts_down(s: Scene) -> Result<()> {
    let served = Served::new(s.clone(), V4).await?;
    let owner = served.owner()?;
    let prober = served.probe(&s.browser()).await?;
    for program in [Program::Speaker, Program::Proxy] {
        owner.program(program)?.stop(PATIENCE).await?;
    }
    served
        .answered_from(&served.placement.owner, &served.placement.standbys[0])
        .await?;
    none_lost(&told("programs of the node ended", prober))?;

    let prober = served.probe(&s.browser()).await?;
    let before = prober.so_far().answered();
    let standby = &served.placement.standbys[0];
    let taken = served.counted(standby, NODES_GONE).await?;
    owner.power_off()?;
    served_again(&prober, before).await?;
    let tally = told("node shut down", prober);
    ensure!(tally.longest_gap < NODE_LOSS, "nobody answered for too long: {tally:?}");
    let heir = served.inherited().await?;
    ensure!(heir == *standby, "{heir} has taken over instead of {standby}");
    // The event may be that of an earlier loss: of a node that fails again within a minute nothing more is told.
    ensure!(
        served.counted(&heir, NODES_GONE).await? == taken + 1,
        "it was not counted"
    );
    taken_over(&s, owner.name(), &heir, "NodeGone").await?;
    owner.power_on()?;
    s.node_ready(owner.name()).await?;
    s.wait_ferrolb_ready().await?;
    s.fence().await?;
    ensure!(served.inherited().await? == heir, "the address moved once more");
    Ok(())
}

/// A policy lets no standby answer in another's name, and sets a short grace time: nobody answers for a speaker that is dead, until a
/// standby takes the address over.
pub(crate) async fn nobody_stands_in_by_policy(s: Scene) -> Result<()> {
    let policy = format!(
        "apiVersion: ferrolb.io/v1alpha1\nkind: AnnouncementPolicy\nmetadata: {{name: {0}}}\n\
         spec: {{ipAddressPools: [{0}], layer2: {{answerForOwner: false, graceSeconds: {1}}}}}\n",
        s.namespace(),
        GRACE.as_secs()
    );
    s.apply_config(&policy).await?;
    let served = Served::new(s.clone(), V4).await?;
    let standby = &served.placement.standbys[0];
    let before = served.counted(standby, GRACE_OVER).await?;
    served.owner()?.kill(Program::Speaker)?;
    let dead = Instant::now();
    while dead.elapsed() < NOBODY {
        let macs = s.who_answers(served.address).await?;
        ensure!(macs.is_empty(), "{macs:?} answer for a speaker that is dead");
    }
    let heir = served.inherited().await?;
    let took = dead.elapsed();
    ensure!(heir == *standby, "{heir} has taken over instead of {standby}");
    ensure!(took > GRACE, "it was taken over after {took:?}");
    ensure!(
        served.counted(&heir, GRACE_OVER).await? == before + 1,
        "it was not counted"
    );
    served.owner()?.restart(Program::Speaker)?;
    s.wait_ferrolb_ready().await
}

/// The segment is split in two: the owner, a standby and a client here, another standby, the control plane and another client there.
/// Each side has one owner. Once it is whole the one of the higher epoch stays, and all go by it.
pub(crate) async fn two_sides(s: Scene) -> Result<()> {
    let served = Served::new(s.clone(), V4).await?;
    let (owner, address) = (&served.placement.owner, served.address);
    let [there, here] = served.placement.standbys.as_slice() else {
        bail!("two standbys are needed: {:?}", served.placement)
    };
    let client = s.lab().add_host("this-side", 250)?;
    let side = [s.node(owner)?.host(), s.node(here)?.host(), &client];
    s.lab().lan().split(&side)?;
    s.answered_by(address, there).await?;
    let begin = Instant::now();
    while begin.elapsed() < SPLIT {
        s.answered_by(address, there).await?;
        let client = Client::new(client.namespace());
        let ask = move || client.resolve(address, Duration::from_millis(100));
        let answers = tokio::task::spawn_blocking(ask).await??.only();
        ensure!(answers == Some(s.node_mac(owner)), "here {answers:?} answers");
    }
    s.lab().lan().join(&side)?;
    healed(&served, [owner, there, here], there).await
}

/// All at once: the API server is gone, one standby gets no heartbeats, the other one's speaker hangs, and then the owner loses its
/// link. The standby that is left takes over from what the wire says. All heals at once: one node owns the address, and all
/// go by it.
pub(crate) async fn all_at_once(s: Scene) -> Result<()> {
    let served = Served::new(s.clone(), V4).await?;
    let owner = &served.placement.owner;
    let [hangs, deaf] = served.placement.standbys.as_slice() else {
        bail!("two standbys are needed: {:?}", served.placement)
    };
    let prober = served.probe(&s.browser()).await?;
    let silences = served.counted(deaf, SILENCES).await?;
    s.api_server().kill();
    let rules = "add table inet fault; add chain inet fault in { type filter hook input priority 0; }; \
                 add rule inet fault in udp dport 7947 drop";
    let deaf_host = s.node(deaf)?.host().namespace();
    deaf_host.output("nft", &[rules])?;
    s.node(hangs)?.freeze(Program::Speaker)?;
    wait_until("the standby to miss the owner", PATIENCE, async || {
        ensure!(served.counted(deaf, SILENCES).await? > silences, "it has missed nobody");
        Ok(())
    })
    .await?;
    served.answered_from(owner, owner).await?;
    let before = prober.so_far().answered();
    served.owner()?.cut_link()?;
    served_again(&prober, before).await?;
    let tally = told("all at once", prober);
    ensure!(tally.longest_gap < NODE_LOSS, "nobody answered for too long: {tally:?}");
    served.answered_from(deaf, deaf).await?;

    let prober = served.probe(&s.browser()).await?;
    served.owner()?.restore_link()?;
    s.node(hangs)?.thaw(Program::Speaker)?;
    deaf_host.output("nft", &["delete table inet fault"])?;
    s.api_server().restart()?;
    s.wait_api_ready().await?;
    healed(&served, [owner, hangs, deaf], deaf).await?;
    let tally = told("all healed", prober);
    ensure!(tally.longest_gap < NODE_LOSS, "nobody answered for too long: {tally:?}");
    Ok(())
}

/// Waits until these nodes are ready, `heir` owns the address, and all of them go by that.
async fn healed(served: &Served, nodes: [&String; 3], heir: &str) -> Result<()> {
    let s = &served.s;
    for node in nodes {
        s.node_ready(node).await?;
    }
    s.wait_ferrolb_ready().await?;
    s.fence().await?;
    let owner = served.inherited().await?;
    ensure!(owner == heir, "{owner} owns {}, and not {heir}", served.address);
    for node in nodes {
        goes_by(served, node, heir).await?;
    }
    Ok(())
}

/// Waits until the speaker of `node` announces the address if it is that of `owner`, and misses nobody.
async fn goes_by(served: &Served, node: &str, owner: &str) -> Result<()> {
    let address = format!("protocol=\"layer2\",node=\"{node}\",ip=\"{}\"", served.address);
    wait_until(&format!("{node} to go by {owner} alone"), PATIENCE, async || {
        let metrics = served.s.metrics(served.s.node(node)?.host()).await?;
        let announces = metrics
            .lines()
            .any(|line| line.contains(&address) && line.ends_with(" 1"));
        ensure!(announces == (node == owner), "it announces: {announces}");
        let peers = metrics
            .lines()
            .filter_map(|line| line.strip_prefix("ferrolb_liveness_peers"));
        let missed: Vec<&str> = peers
            .filter(|peers| !peers.contains("Alive") && !peers.ends_with(" 0"))
            .collect();
        ensure!(missed.is_empty(), "it misses {missed:?}");
        Ok(())
    })
    .await
}
