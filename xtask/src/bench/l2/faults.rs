//! Speakers that fail while their nodes live, upgrades, planned moves: nobody is to notice.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ferrolb_lab::client::Prober;
use ferrolb_lab::{Node, Program};

use super::super::figures::{Row, Times, millis};
use super::{Bench, ECHO, EXCLUDE, PATIENCE, TCP, progress, served_again, verdict};

/// First answers to clients that ask in the moment of a fault.
const FIRST_ANSWER: Duration = Duration::from_millis(200);
/// Away for so long.
const STOPPED: Duration = Duration::from_secs(5);
const DEAD: Duration = Duration::from_secs(2);

/// What clients have seen of faults of one kind.
#[derive(Default)]
struct Seen {
    asked: u64,
    lost: u64,
    first: Times,
}

impl Seen {
    fn end(&mut self, prober: Prober) {
        let tally = prober.stop();
        self.asked += tally.sent;
        self.lost += tally.lost;
    }

    fn lost_row(&self, what: &str, runs: u32) -> Row {
        let how = format!("of {} in {runs} runs; goal 0: {}", self.asked, verdict(self.lost == 0));
        Row::new(
            format!("{what}: questions lost"),
            self.lost.to_string(),
            String::new(),
            how,
        )
    }

    fn first_row(&self) -> Row {
        let most = self.first.quantile(100);
        let goal = format!("goal {}: {}", millis(FIRST_ANSWER), verdict(most <= FIRST_ANSWER));
        self.first.row(
            "  first answer to who asks just then",
            &format!("max {}; {goal}", millis(most)),
        )
    }
}

/// Says something, and hears it again.
fn echo(connection: &mut TcpStream) -> Result<()> {
    let mut heard = [0; 5];
    connection.write_all(b"still")?;
    connection.read_exact(&mut heard)?;
    ensure!(heard == *b"still", "another echo");
    Ok(())
}

impl Bench<'_> {
    /// SIGKILL, SIGSTOP and an upgrade of the owner's speaker.
    pub(super) async fn speaker_faults(&mut self, runs: u32) -> Result<()> {
        for (what, fault, mend, away) in [
            (
                "speaker killed, back after 2 s",
                (|node| node.kill(Program::Speaker)) as fn(&Node) -> Result<()>,
                (|node| node.restart(Program::Speaker)) as fn(&Node) -> Result<()>,
                DEAD,
            ),
            (
                "speaker stopped for 5 s",
                |node| node.freeze(Program::Speaker),
                |node| node.thaw(Program::Speaker),
                STOPPED,
            ),
        ] {
            let mut seen = Seen::default();
            for run in 1..=runs {
                progress(&format!("{what}, {run} of {runs}"));
                let owner = self.owner().await?;
                let prober = self.probe(&self.client, self.address).await?;
                self.guest.flush_neighbours()?;
                fault(owner)?;
                let begin = Instant::now();
                seen.first.add(self.first_answer()?);
                tokio::time::sleep(away.saturating_sub(begin.elapsed())).await;
                mend(owner)?;
                self.still(owner).await?;
                seen.end(prober);
            }
            self.rows.push(seen.lost_row(what, runs));
            self.rows.push(seen.first_row());
        }
        self.upgrades(runs).await
    }

    async fn upgrades(&mut self, runs: u32) -> Result<()> {
        let (mut seen, mut broken) = (Seen::default(), 0);
        for run in 1..=runs {
            progress(&format!("upgrade {run} of {runs}"));
            let owner = self.owner().await?;
            let mut connection = self.connect()?;
            let prober = self.probe(&self.client, self.address).await?;
            let speaker = owner.program(Program::Speaker)?;
            self.guest.flush_neighbours()?;
            let exit = speaker.stop(PATIENCE).await?;
            ensure!(exit.success(), "the speaker ended with {exit}");
            seen.first.add(self.first_answer()?);
            speaker.restart()?;
            self.still(owner).await?;
            broken += u32::from(echo(&mut connection).is_err());
            seen.end(prober);
        }
        self.rows
            .push(seen.lost_row("speaker upgraded (SIGTERM, then started)", runs));
        self.rows.push(seen.first_row());
        let how = format!(
            "of {runs}, one open over each upgrade; goal 0: {}",
            verdict(broken == 0)
        );
        let what = "  TCP connections broken";
        self.rows.push(Row::new(what, broken.to_string(), String::new(), how));
        Ok(())
    }

    /// Moves the address away from its owner time and again, by the label that excludes a node.
    pub(super) async fn planned(&mut self, runs: u32) -> Result<()> {
        let mut seen = Seen::default();
        for run in 1..=runs {
            progress(&format!("planned move {run} of {runs}"));
            let owner = self.owner().await?;
            let prober = self.probe(&self.client, self.address).await?;
            owner.label(EXCLUDE, Some("true")).await?;
            self.owner_other_than(Some(owner)).await?;
            owner.label(EXCLUDE, None).await?;
            served_again(&prober, prober.so_far().answered()).await?;
            seen.end(prober);
        }
        self.rows.push(seen.lost_row("planned move (node excluded)", runs));
        Ok(())
    }

    /// A TCP connection that has been answered: first comes the name of the pod and a space.
    fn connect(&self) -> Result<TcpStream> {
        let target = SocketAddr::new(self.address, TCP);
        let mut connection = self.client.tcp_connect(target, Duration::from_secs(5))?;
        let mut byte = [0];
        while byte != *b" " {
            connection.read_exact(&mut byte).context("read the name of the pod")?;
        }
        echo(&mut connection)?;
        Ok(connection)
    }

    /// How long a client waits that does not know the address.
    fn first_answer(&self) -> Result<Duration> {
        let asked = Instant::now();
        self.guest
            .udp(SocketAddr::new(self.address, ECHO), b"0", Duration::from_secs(5))?;
        Ok(asked.elapsed())
    }

    /// The owner answers itself again, and nothing has moved.
    async fn still(&self, owner: &Node) -> Result<()> {
        self.lab.wait_ferrolb_ready().await?;
        let now = self.owner().await?;
        ensure!(now.name() == owner.name(), "{} has become {}", owner.name(), now.name());
        Ok(())
    }
}
