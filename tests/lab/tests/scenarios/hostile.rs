//! Routers that say what is wrong, all that a session's tests know of, over real connections to a running speaker; others
//! that never read, or send more than anybody wants. Another router's sessions and routes are untouched by all of them.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use ferrolb_lab::Program;
use ferrolb_lab::lab::NAMESPACE;
use ferrolb_lab::net::Host;

use crate::bgp::{Told, all, page, web};
use crate::router::{ASN, Router};
use crate::scene::{PATIENCE, Scene};
use crate::wrong::{self, Case, ROUTER_ID, Then, capabilities, message, open_message};

/// Longer than the time between two keepalives of a hold time of 9 s: who says nothing for so long and closes nothing does
/// not mind.
const QUIET: Duration = Duration::from_secs(4);
/// What a speaker may use in addition, KiB.
const ROOM: u64 = 16 << 10;

/// Every case on a session of its own, all at once.
pub(crate) async fn everything_wrong(s: Scene) -> Result<()> {
    let router = Router::start(&s, ASN, &[]).await?;
    let told = Told::new(&s, ASN);
    told.apply(&s, &router).await?;
    let address = web(&s, 3, "type: LoadBalancer").await?;
    let prefix = format!("{address}/32");
    router.forwards(&s, &prefix, &all(&s)).await?;
    let before = resident(&s)?;

    let node = s.node("node-1")?.host();
    let std::net::IpAddr::V4(ours) = node.address() else {
        bail!("the node has no IPv4 address")
    };
    let mut cases = wrong::updates();
    cases.extend(wrong::headers());
    cases.extend(wrong::opens(ours));
    cases.extend(wrong::notifications());
    let strangers = Strangers::new(&s, cases.len() + 2)?;
    let listeners = strangers.listen()?;
    s.apply_config(&strangers.peers()).await?;
    let mut threads = Vec::new();
    let (mut rest, mut cases) = (listeners.into_iter(), cases.into_iter());
    for case in cases.by_ref() {
        let listener = rest.next().context("a listener for each")?;
        let judge = move || judge(&listener, &case).with_context(|| case.name.clone());
        threads.push(tokio::task::spawn_blocking(judge));
    }
    let (flood, deaf) = (rest.next().context("a listener")?, rest.next().context("a listener")?);
    threads.push(tokio::task::spawn_blocking(move || flooded(&flood)));
    threads.push(tokio::task::spawn_blocking(move || unread(&deaf)));
    let mut wrong = Vec::new();
    for thread in threads {
        wrong.extend(thread.await?.err().map(|error| format!("{error:#}")));
    }
    let grown = resident(&s)?.saturating_sub(before);
    s.lab().delete(NAMESPACE, &strangers.peers()).await?;
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    ensure!(grown < ROOM, "the speaker has grown by {grown} KiB");
    ensure!(router.establishments(&s)? == 3, "a session was reset");
    router.forwards(&s, &prefix, &all(&s)).await?;
    page(&router, address).await?;
    told.delete(&s, &router).await
}

/// Addresses of routers that node-1 has sessions with.
struct Strangers {
    name: String,
    host: Host,
    addresses: Vec<Ipv4Addr>,
}

impl Strangers {
    fn new(s: &Scene, count: usize) -> Result<Self> {
        let [_, _, number, _] = s.v4(0).octets();
        let host = s.add_host(&format!("strangers-{number}"), 230)?;
        let addresses: Vec<_> = (1..=count)
            .map(|n| Ok(Ipv4Addr::new(10, 97, 0, u8::try_from(n)?)))
            .collect::<Result<_>>()?;
        let batch = addresses
            .iter()
            .map(|address| format!("addr add {address}/32 dev eth0\n"));
        host.namespace().ip(&batch.collect::<String>())?;
        let route = format!("route add 10.97.0.0/24 via {}\n", host.address());
        s.node("node-1")?.host().namespace().ip(&route)?;
        Ok(Strangers {
            name: s.namespace().to_owned(),
            host,
            addresses,
        })
    }

    fn listen(&self) -> Result<Vec<TcpListener>> {
        let bind = |address: &Ipv4Addr| {
            let listener = self.host.namespace().run(|| TcpListener::bind((*address, 179)))?;
            listener.with_context(|| format!("listen on {address}"))
        };
        self.addresses.iter().map(bind).collect()
    }

    fn peers(&self) -> String {
        let name = &self.name;
        let peer = |(n, address): (usize, &Ipv4Addr)| {
            format!(
                "apiVersion: metallb.io/v1beta2\nkind: BGPPeer\nmetadata: {{name: {name}-{n}, namespace: {NAMESPACE}}}\n\
                 spec: {{myASN: {ASN}, peerASN: {ASN}, peerAddress: {address}, holdTime: 9s, connectTime: 1s,\n\
                 dualStackAddressFamily: true,\n\
                 nodeSelectors: [{{matchLabels: {{kubernetes.io/hostname: node-1}}}}]}}\n"
            )
        };
        let all: Vec<_> = self.addresses.iter().enumerate().map(peer).collect();
        all.join("---\n")
    }
}

/// Kind and body.
type Message = (u8, Vec<u8>);

/// A connection of the speaker.
struct Heard {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Heard {
    fn accept(listener: &TcpListener) -> Result<Self> {
        listener.set_nonblocking(true)?;
        let deadline = Instant::now() + PATIENCE;
        let stream = loop {
            match listener.accept() {
                Ok((stream, _)) => break stream,
                Err(error) if error.kind() != ErrorKind::WouldBlock => return Err(error.into()),
                Err(_) if Instant::now() > deadline => bail!("the speaker does not connect"),
                Err(_) => std::thread::sleep(Duration::from_millis(10)),
            }
        };
        stream.set_nonblocking(false)?;
        stream.set_nodelay(true)?;
        Ok(Heard {
            stream,
            buffer: Vec::new(),
        })
    }

    /// The next message; `None` if the connection ends first, or nothing comes before `deadline`, which
    /// the flag tells apart.
    fn next(&mut self, deadline: Instant) -> Result<(Option<Message>, bool)> {
        loop {
            if self.buffer.len() >= 19 {
                let length = usize::from(u16::from_be_bytes([self.buffer[16], self.buffer[17]]));
                ensure!(length >= 19, "the speaker sends a length of {length}");
                if self.buffer.len() >= length {
                    let message: Vec<u8> = self.buffer.drain(..length).collect();
                    return Ok((Some((message[18], message[19..].to_vec())), false));
                }
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok((None, false));
            }
            self.stream.set_read_timeout(Some(left))?;
            let mut chunk = [0; 4096];
            match self.stream.read(&mut chunk) {
                Ok(0) => return Ok((None, true)),
                Ok(count) => self.buffer.extend_from_slice(&chunk[..count]),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok((None, true)),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Makes a proper session of it.
    fn establish(&mut self) -> Result<()> {
        let open = open_message(ASN, 9, ROUTER_ID, &capabilities(ASN));
        self.stream.write_all(&[open, message(4, &[])].concat())?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.next(deadline)? {
                (Some((4, _)), _) => return Ok(()),
                (Some((1, _)), _) => {}
                other => bail!("no session comes up: {other:?}"),
            }
        }
    }
}

fn judge(listener: &TcpListener, case: &Case) -> Result<()> {
    let mut heard = Heard::accept(listener)?;
    if case.early {
        // Whoever closes at once may not take the rest.
        heard.stream.write_all(&case.bytes)?;
        let _ = heard.stream.write_all(&message(4, &[]));
    } else {
        heard.establish()?;
        heard.stream.write_all(&case.bytes)?;
    }
    let deadline = Instant::now() + QUIET;
    let mut told = None;
    let then = loop {
        match heard.next(deadline)? {
            (Some((3, body)), _) => told = body.first().copied().zip(body.get(1).copied()),
            (Some(_), _) => {}
            (None, true) => break told.map_or(Then::Closed, |(code, subcode)| Then::Told(code, subcode)),
            (None, false) => break Then::StaysUp,
        }
    };
    ensure!(then == case.then, "{then:?} instead of {:?}", case.then);
    Ok(())
}

/// Tells a speaker of a hundred thousand routes, and still gets its keepalives.
fn flooded(listener: &TcpListener) -> Result<()> {
    let mut heard = Heard::accept(listener)?;
    heard.establish()?;
    let next_hop = [64, 3, 4, 10, 97, 0, 1];
    let attributes = [&[64, 1, 1, 0, 64, 2, 0][..], &next_hop, &[64, 5, 4, 0, 0, 0, 100]].concat();
    let length = u16::try_from(attributes.len())?.to_be_bytes();
    for first in 0..100_000_u32 / 500 {
        let prefix = |n: u32| [&[32][..], &(0x1400_0000 + first * 500 + n).to_be_bytes()].concat();
        let prefixes: Vec<u8> = (0..500).flat_map(prefix).collect();
        let update = message(2, &[&[0, 0], &length[..], &attributes, &prefixes].concat());
        heard.stream.write_all(&update).context("a flood is not taken")?;
    }
    let deadline = Instant::now() + QUIET;
    let mut keepalives = 0;
    loop {
        match heard.next(deadline)? {
            (Some((4, _)), _) => keepalives += 1,
            (Some((2, _)), _) => {}
            (None, false) => break,
            other => bail!("a flood ends the session: {other:?}"),
        }
    }
    ensure!(keepalives > 0, "no keepalive after a flood");
    Ok(())
}

/// Asks for everything again, time after time, and reads nothing of it.
fn unread(listener: &TcpListener) -> Result<()> {
    let mut heard = Heard::accept(listener)?;
    heard.establish()?;
    let refresh = message(5, &[0, 1, 0, 1]).repeat(1000);
    heard.stream.set_write_timeout(Some(QUIET))?;
    for _ in 0..100 {
        match heard.stream.write_all(&refresh) {
            Ok(()) => {}
            // It does not read from who does not read.
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return Ok(()),
            Err(error) => bail!("who does not read loses the session at once: {error}"),
        }
    }
    Ok(())
}

/// The resident memory of the speaker on node-1, KiB.
fn resident(s: &Scene) -> Result<u64> {
    let pid = s.node("node-1")?.program(Program::Speaker)?.pid();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.trim().strip_suffix(" kB"));
    number.and_then(|n| n.parse().ok()).context("VmRSS")
}
