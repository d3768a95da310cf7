//! Owners that stand still for a third of a second on a busy machine, FerroLB's and keepalived's by turns: longer than
//! either waits before it suspects anything. Nothing has failed, so nothing is to move.

use std::time::Duration;

use anyhow::Result;
use ferrolb_lab::process::Process;
use ferrolb_lab::{Program, wait_until};

use super::super::figures::Row;
use super::keepalived;
use super::{Bench, PATIENCE, REST, progress, verdict};

/// How long a stall is: at least, and what is added from run to run.
const STALL: (Duration, u32) = (Duration::from_millis(300), 100);
/// keepalived is master again after this, by its priority.
const CALM: Duration = Duration::from_millis(800);
/// The interval of keepalived's advertisements.
const INTERVAL: &str = "0.08";

impl Bench<'_> {
    /// Stalls the process that speaks for the owner, ours and keepalived's, `runs` times each.
    pub(super) async fn stalls(&mut self, runs: u32) -> Result<()> {
        let beside = self.keepalived()?;
        if let Some(keepalived) = &beside {
            keepalived.start(INTERVAL)?;
            keepalived.settled(&self.client).await?;
        }
        let owner = self.owner().await?;
        let before = self.placement(self.address).await?;
        let prober = self.probe(&self.client, self.address).await?;
        let masters = beside.as_ref().map_or(0, |keepalived| keepalived.takeovers());
        let load = self.load()?;
        for run in 1..=runs {
            progress(&format!("stall {run} of {runs}"));
            let time = STALL.0 + Duration::from_millis(u64::from(run * 37 % STALL.1));
            owner.freeze(Program::Speaker)?;
            tokio::time::sleep(time).await;
            owner.thaw(Program::Speaker)?;
            tokio::time::sleep(CALM).await;
            if let Some(keepalived) = &beside {
                keepalived.freeze()?;
                tokio::time::sleep(time).await;
                keepalived.thaw()?;
                tokio::time::sleep(CALM).await;
            }
        }
        load.iter().for_each(Process::kill);
        tokio::time::sleep(REST).await;
        let masters = beside.as_ref().map(|keepalived| keepalived.takeovers() - masters);
        let tally = prober.stop();
        let after = wait_until("the owner to be known", PATIENCE, async || {
            self.placement(self.address).await
        })
        .await?;
        let answers = self.owner().await?;
        let changes = after.epoch.saturating_sub(before.epoch) + u64::from(answers.name() != owner.name());
        let how = format!(
            "in {runs} stalls of its speaker (SIGSTOP) for {} to {} ms, every core busy; {} of {} questions of a client \
             lost; goal 0 and 0: {}",
            STALL.0.as_millis(),
            STALL.0.as_millis() + u128::from(STALL.1),
            tally.lost,
            tally.sent,
            verdict(changes == 0 && tally.lost == 0)
        );
        let what = "owner stands still: false takeovers";
        self.rows.push(Row::new(what, changes.to_string(), String::new(), how));
        if let Some(masters) = masters {
            let how = format!("the same stalls of its master, by turns; {}", keepalived::HOW);
            let what = format!("  keepalived, VRRPv3, advert_int {INTERVAL}: changes of master");
            self.rows.push(Row::new(what, masters.to_string(), String::new(), how));
        }
        if let Some(keepalived) = &beside {
            keepalived.stop();
        }
        Ok(())
    }

    /// Keeps every core busy.
    fn load(&self) -> Result<Vec<Process>> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let loop_on = |core| {
            let spec = self
                .lab
                .spec(&format!("load-{core}"), "/bin/sh", self.lab.client_host());
            self.lab.start_process(spec.args(["-c", "while :; do :; done"]))
        };
        (0..cores).map(loop_on).collect()
    }
}
