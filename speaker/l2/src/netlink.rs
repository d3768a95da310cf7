//! Follows the node's interfaces over netlink and publishes them.
//!
//! Subscribes first, dumps second, then applies what was heard since: nothing is missed in between. Dumps again when
//! the kernel lost events for want of room, and every five minutes to be sure. The table is published as a whole
//! through a watch channel, so a reader sees the latest and several changes may arrive as one.
//!
//! A carrier is asked for as well. The kernel tells of lost ones at most once in a second (`net/core/link_watch.c`;
//! stacked interfaces apart), but answers at once.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::channel::mpsc::UnboundedReceiver;
use futures::{Stream, StreamExt};
use ipnet::IpNet;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{
    InfoPortKind, LinkAttribute, LinkEvent, LinkExtentMask, LinkFlags, LinkInfo, LinkLayerType, LinkMessage,
};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteType, RouteVia};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::packet_core::{NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use rtnetlink::sys::SocketAddr;
use rtnetlink::{Handle, MulticastGroup, new_multicast_connection};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout};

use crate::interfaces::{Event, InterfaceState, Link, Table, could_announce};

/// Between dumps that nothing asked for.
const DUMP_INTERVAL: Duration = Duration::from_secs(300);
/// Between two looks at the carriers. What is done about a lost one shall have begun within 100 ms.
const LOOK_INTERVAL: Duration = Duration::from_millis(60);
/// Interfaces without a subnet whose carriers are asked for: a node with a pod behind each of hundreds has better things to
/// do. An interface with a subnet is none of these.
const LOOKED_AT_WITHOUT_SUBNET: usize = 16;
/// Before a connection that failed is made again.
const RETRY: Duration = Duration::from_secs(1);
/// A dump during which something changed is repeated this often before it is taken as it is: the change itself is also
/// an event.
const DUMP_ATTEMPTS: usize = 3;
/// The kernel answers at once; an answer that the socket had no room for never comes.
const ANSWER: Duration = Duration::from_secs(5);

/// The interfaces as last read.
#[derive(Clone, Debug, Default)]
pub(crate) struct Interfaces {
    /// Ordered by index.
    pub(crate) links: Arc<Vec<Link>>,
    /// Why they may be stale.
    pub(crate) fault: Option<String>,
}

type Messages = UnboundedReceiver<(NetlinkMessage<RouteNetlinkMessage>, SocketAddr)>;

/// A socket subscribed to changes, and the task that reads it, which ends with this.
struct Connection {
    handle: Handle,
    messages: Messages,
    _reader: JoinSet<()>,
}

impl Connection {
    fn open() -> io::Result<Connection> {
        let groups = [
            MulticastGroup::Link,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv6Ifaddr,
            MulticastGroup::Ipv4Route,
            MulticastGroup::Ipv6Route,
        ];
        let (mut connection, handle, messages) = new_multicast_connection(&groups)?;
        // The end of a dump carries the mark that it was interrupted.
        connection.set_forward_done(true);
        let mut reader = JoinSet::new();
        reader.spawn(connection);
        Ok(Connection {
            handle,
            messages,
            _reader: reader,
        })
    }
}

/// Keeps the table true.
pub(crate) struct Follower {
    table: Table,
    connection: Connection,
}

/// What the kernel said unasked.
enum Heard {
    Event(Event),
    /// A default route changed. Which others it replaced is not said.
    Routes,
    /// Events were lost.
    Lost,
    /// Nothing of interest.
    Other,
}

/// What has to be read again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stale {
    Nothing,
    Routes,
    All,
}

impl Follower {
    /// Connects, subscribes and reads everything once.
    pub(crate) async fn start() -> io::Result<Follower> {
        let mut follower = Follower {
            table: Table::default(),
            connection: Connection::open()?,
        };
        follower.dump().await?;
        Ok(follower)
    }

    /// The interfaces as known now.
    pub(crate) fn interfaces(&self) -> Interfaces {
        Interfaces {
            links: Arc::new(self.table.links().cloned().collect()),
            fault: None,
        }
    }

    /// Publishes every change, for ever.
    /// The carriers of what is used, by index, are of interest.
    pub(crate) async fn follow(mut self, publish: watch::Sender<Interfaces>, used: watch::Receiver<BTreeSet<u32>>) {
        loop {
            let mut error = self.follow_connection(&publish, &used).await;
            loop {
                publish.send_modify(|interfaces| interfaces.fault = Some(error.to_string()));
                sleep(RETRY).await;
                match self.reconnect().await {
                    Ok(()) => break,
                    Err(again) => error = again,
                }
            }
            publish.send_replace(self.interfaces());
        }
    }

    async fn reconnect(&mut self) -> io::Result<()> {
        self.connection = Connection::open()?;
        self.dump().await
    }

    /// Returns when the connection fails.
    async fn follow_connection(
        &mut self,
        publish: &watch::Sender<Interfaces>,
        used: &watch::Receiver<BTreeSet<u32>>,
    ) -> io::Error {
        let mut dump_at = Instant::now() + DUMP_INTERVAL;
        let mut look = interval(LOOK_INTERVAL);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let mut stale = tokio::select! {
                message = self.connection.messages.next() => match message {
                    Some((message, _)) => self.apply(heard(message)),
                    None => return io::Error::from(io::ErrorKind::ConnectionAborted),
                },
                () = sleep_until(dump_at) => Stale::All,
                _ = look.tick() => match self.look_at_carriers(used).await {
                    Ok(true) => Stale::Nothing,
                    Ok(false) => continue,
                    Err(error) => return error,
                },
            };
            // Everything that is there already makes one change.
            while let Ok((message, _)) = self.connection.messages.try_recv() {
                stale = stale.max(self.apply(heard(message)));
            }
            let read = match stale {
                Stale::Nothing => Ok(()),
                Stale::Routes => self.read_gateways().await,
                Stale::All => {
                    dump_at = Instant::now() + DUMP_INTERVAL;
                    self.dump().await
                }
            };
            if let Err(error) = read {
                return error;
            }
            let now = self.interfaces();
            publish.send_if_modified(|before| {
                let changed = before.links != now.links || before.fault.is_some();
                *before = now;
                changed
            });
        }
    }

    /// Asks for the carrier of every interface with a subnet that addresses could be announced on, and of some others that
    /// are used; says whether one is lost. That it is back is no hurry, and is heard as an event.
    async fn look_at_carriers(&mut self, used: &watch::Receiver<BTreeSet<u32>>) -> io::Result<bool> {
        let useful = looked_at(&self.table, &used.borrow());
        let mut lost = false;
        for index in useful {
            let mut request = LinkMessage::default();
            request.header.index = index;
            request.attributes = vec![LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats])];
            let mut message = NetlinkMessage::from(RouteNetlinkMessage::GetLink(request));
            message.header.flags = NLM_F_REQUEST;
            let mut answers = self.connection.handle.request(message).map_err(io::Error::other)?;
            // An interface that is gone by now is told of by an event.
            let Some(NetlinkPayload::InnerMessage(answer)) = next(&mut answers).await?.map(|answer| answer.payload)
            else {
                continue;
            };
            let answer = event(answer).filter(|event| matches!(event, Event::Link { state, .. } if !state.running()));
            if let Some(event) = answer {
                self.table.apply(event);
                lost = true;
            }
        }
        Ok(lost)
    }

    /// Reads everything, then applies what was heard meanwhile; again if some of that was lost.
    async fn dump(&mut self) -> io::Result<()> {
        loop {
            let links = RouteNetlinkMessage::GetLink(LinkMessage::default());
            let addresses = RouteNetlinkMessage::GetAddress(AddressMessage::default());
            let mut events = self.read(links, event).await?;
            events.extend(self.read(addresses, event).await?);
            self.table.replace(events);
            self.read_gateways().await?;
            let mut stale = Stale::Nothing;
            while let Ok((message, _)) = self.connection.messages.try_recv() {
                stale = stale.max(self.apply(heard(message)));
            }
            match stale {
                Stale::Nothing => return Ok(()),
                Stale::Routes => return self.read_gateways().await,
                Stale::All => {}
            }
        }
    }

    /// Reads the default routes of both families. Those that change meanwhile are heard of again.
    async fn read_gateways(&mut self) -> io::Result<()> {
        let mut gateways: BTreeMap<u32, BTreeSet<IpAddr>> = BTreeMap::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut message = RouteMessage::default();
            message.header.address_family = family;
            for (index, gateway) in self
                .read(RouteNetlinkMessage::GetRoute(message), gateways_of)
                .await?
                .into_iter()
                .flatten()
            {
                gateways.entry(index).or_default().insert(gateway);
            }
        }
        self.table.apply(Event::Gateways(gateways));
        Ok(())
    }

    /// Reads a whole table, as far as `take` has a use for its entries.
    async fn read<T>(
        &mut self,
        request: RouteNetlinkMessage,
        take: impl Fn(RouteNetlinkMessage) -> Option<T>,
    ) -> io::Result<Vec<T>> {
        let mut events = Vec::new();
        for _ in 0..DUMP_ATTEMPTS {
            events.clear();
            let mut message = NetlinkMessage::from(request.clone());
            message.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
            let mut answers = self.connection.handle.request(message).map_err(io::Error::other)?;
            let (mut interrupted, mut ended) = (false, false);
            while let Some(answer) = next(&mut answers).await? {
                interrupted |= answer.header.flags & NLM_F_DUMP_INTR != 0;
                match answer.payload {
                    NetlinkPayload::InnerMessage(message) => events.extend(take(message)),
                    NetlinkPayload::Error(error) => return Err(error.to_io()),
                    NetlinkPayload::Done(_) => ended = true,
                    _ => interrupted = true,
                }
            }
            if !ended {
                return Err(io::Error::from(io::ErrorKind::ConnectionAborted));
            }
            if !interrupted {
                break;
            }
        }
        Ok(events)
    }

    /// Takes in one message, and says what has to be read again for it.
    fn apply(&mut self, heard: Heard) -> Stale {
        match heard {
            Heard::Event(event) => self.table.apply(event),
            Heard::Routes => return Stale::Routes,
            Heard::Lost => return Stale::All,
            Heard::Other => {}
        }
        Stale::Nothing
    }
}

/// What the kernel says next to a request; `None` after the last of it.
async fn next<T>(answers: &mut (impl Stream<Item = T> + Unpin)) -> io::Result<Option<T>> {
    Ok(timeout(ANSWER, answers.next()).await?)
}

/// The interfaces whose carriers are asked for.
fn looked_at(table: &Table, used: &BTreeSet<u32>) -> Vec<u32> {
    let able = table.links().map(|link| &link.state);
    let able = able.filter(|state| state.running() && could_announce(state));
    let (with_subnet, without): (Vec<_>, Vec<_>) = able.partition(|state| state.subnets().next().is_some());
    let without = without.into_iter().filter(|state| used.contains(&state.index));
    let all = with_subnet.into_iter().chain(without.take(LOOKED_AT_WITHOUT_SUBNET));
    all.map(|state| state.index).collect()
}

fn heard(message: NetlinkMessage<RouteNetlinkMessage>) -> Heard {
    match message.payload {
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewRoute(route) | RouteNetlinkMessage::DelRoute(route)) => {
            if is_default(&route.header) {
                Heard::Routes
            } else {
                Heard::Other
            }
        }
        NetlinkPayload::InnerMessage(message) => event(message).map_or(Heard::Other, Heard::Event),
        NetlinkPayload::Overrun(_) => Heard::Lost,
        _ => Heard::Other,
    }
}

fn event(message: RouteNetlinkMessage) -> Option<Event> {
    match message {
        RouteNetlinkMessage::NewLink(message) => link(&message),
        // A port that leaves a bridge is told of as a deleted link of the bridge family; the link itself stays.
        RouteNetlinkMessage::DelLink(message) if message.header.interface_family == AddressFamily::Unspec => {
            Some(Event::LinkGone {
                index: message.header.index,
            })
        }
        RouteNetlinkMessage::NewAddress(message) => address(&message).map(|address| Event::Address {
            index: message.header.index,
            address,
        }),
        RouteNetlinkMessage::DelAddress(message) => address(&message).map(|address| Event::AddressGone {
            index: message.header.index,
            address,
        }),
        _ => None,
    }
}

/// Messages of the bridge family, and those of wireless drivers without a name, describe no link as a whole.
fn link(message: &LinkMessage) -> Option<Event> {
    if message.header.interface_family != AddressFamily::Unspec {
        return None;
    }
    let flags = message.header.flags;
    let mut state = InterfaceState {
        index: message.header.index,
        ethernet: message.header.link_layer_type == LinkLayerType::Ether,
        up: flags.contains(LinkFlags::Up),
        carrier: flags.contains(LinkFlags::LowerUp),
        loopback: flags.contains(LinkFlags::Loopback),
        noarp: flags.contains(LinkFlags::Noarp),
        broadcast: flags.contains(LinkFlags::Broadcast),
        multicast: flags.contains(LinkFlags::Multicast),
        ..InterfaceState::default()
    };
    let (mut named, mut notify_peers, mut in_vrf) = (false, false, false);
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => {
                state.name.clone_from(name);
                named = true;
            }
            LinkAttribute::Address(bytes) => {
                state.mac = bytes.as_slice().try_into().ok().filter(|mac| *mac != [0; 6]);
            }
            LinkAttribute::Controller(index) => state.master = Some(*index).filter(|index| *index != 0),
            LinkAttribute::LinkInfo(info) => in_vrf = info.contains(&LinkInfo::PortKind(InfoPortKind::Vrf)),
            LinkAttribute::Event(LinkEvent::NotifyPeers | LinkEvent::BondingFailover) => notify_peers = true,
            _ => {}
        }
    }
    if in_vrf {
        // The kernel calls the VRF a master, too, but answers ARP by the member and never by the VRF (NOARP).
        state.vrf = state.master.take();
    }
    named.then_some(Event::Link { state, notify_peers })
}

/// The interface's own address; on a point-to-point link the plain attribute is the peer's.
fn address(message: &AddressMessage) -> Option<IpNet> {
    let (mut plain, mut local) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Address(address) => plain = Some(*address),
            AddressAttribute::Local(address) => local = Some(*address),
            _ => {}
        }
    }
    let address: IpAddr = local.or(plain)?;
    IpNet::new(address, message.header.prefix_len).ok()
}

/// A route that carries traffic to everywhere.
fn is_default(header: &RouteHeader) -> bool {
    header.destination_prefix_length == 0 && header.kind == RouteType::Unicast
}

/// The gateways of a default route, each with the index of the interface it is behind.
fn gateways_of(message: RouteNetlinkMessage) -> Option<Vec<(u32, IpAddr)>> {
    let RouteNetlinkMessage::NewRoute(route) = message else {
        return None;
    };
    if !is_default(&route.header) {
        return None;
    }
    let interface = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => Some(*index),
        _ => None,
    });
    let mut gateways = Vec::new();
    gateways.extend(interface.zip(gateway(&route.attributes)));
    for attribute in &route.attributes {
        if let RouteAttribute::MultiPath(hops) = attribute {
            gateways.extend(
                hops.iter()
                    .filter_map(|hop| Some((hop.interface_index, gateway(&hop.attributes)?))),
            );
        }
    }
    Some(gateways)
}

fn gateway(attributes: &[RouteAttribute]) -> Option<IpAddr> {
    attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Gateway(RouteAddress::Inet(ip)) | RouteAttribute::Via(RouteVia::Inet(ip)) => Some((*ip).into()),
        RouteAttribute::Gateway(RouteAddress::Inet6(ip)) | RouteAttribute::Via(RouteVia::Inet6(ip)) => {
            Some((*ip).into())
        }
        _ => None,
    })
}

#[cfg(test)]
mod tests;
