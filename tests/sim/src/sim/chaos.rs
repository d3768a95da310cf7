//! What goes wrong with controllers and their watches, and the end of it.

use std::time::Duration;

use super::{Event, Sim};
use crate::store::KINDS;

impl Sim<'_> {
    pub(super) fn chaos(&mut self) {
        if self.peace {
            return;
        }
        let replica = self.rng.usize(..self.replicas.len());
        let kind = self.rng.usize(..KINDS);
        match self.rng.u8(..8) {
            0 if self.scenario.crashes => self.crash(replica),
            1 if self.scenario.crashes => self.pause(replica),
            2 | 3 if self.scenario.relists => self.relist(replica, kind),
            4 if self.scenario.relists => {
                let end = self.now + Duration::from_millis(self.rng.u64(..20_000));
                if let Some(process) = &mut self.replicas[replica] {
                    process.stalled[kind] = end;
                    self.log(|| format!("controller{replica} stream {kind} stalls"));
                }
            }
            5 | 6 if self.scenario.hands => {
                let addresses = self.store.virtual_ips.keys().copied().collect::<Vec<_>>();
                if let Some(address) = self.rng.choice(addresses) {
                    self.take_over(address);
                }
            }
            _ => {}
        }
        let wait = if self.rng.bool() { 400 } else { 12_000 };
        let at = self.now + Duration::from_millis(self.rng.u64(1..wait));
        self.at(at, Event::Chaos);
    }

    fn relist(&mut self, replica: usize, kind: usize) {
        let Some(process) = self.replicas[replica].as_mut().filter(|p| !p.is_listing_kind(kind)) else {
            return;
        };
        let (entries, life) = (process.relist(&self.store, kind, &mut self.rng), process.life);
        self.log(|| format!("controller{replica} stream {kind} is listed anew"));
        self.schedule_list(replica, life, kind, entries);
    }

    /// A process stops for a while. When it led, another leads meanwhile, and for a moment after it wakes both do.
    fn pause(&mut self, replica: usize) {
        let length = Duration::from_millis(self.rng.u64(10..40_000));
        let (now, several) = (self.now, self.replicas.len() > 1);
        let Some(process) = self.replicas[replica].as_mut() else {
            return;
        };
        process.paused = now + length;
        let (leads, life) = (process.leads, process.life);
        self.log(|| format!("controller{replica} pauses for {length:?}"));
        if leads && several && self.leaders() == 1 {
            let awake = Duration::from_millis(self.rng.u64(..6_000));
            self.at(now + length + awake, Event::Deposed { replica, life });
            let after = Duration::from_millis(self.rng.u64(1..1 + length.as_millis() as u64));
            self.elect(None, after);
        }
    }

    /// From now on nothing goes wrong, and one replica leads. Gives when the last pause and the last stall end.
    pub(crate) fn calm_down(&mut self) -> Duration {
        self.log(|| "            nothing happens and nothing fails from here on".to_owned());
        self.peace = true;
        self.strangers.clear();
        let mut awake = self.now;
        for replica in 0..self.replicas.len() {
            match &self.replicas[replica] {
                Some(process) => {
                    awake = process
                        .stalled
                        .into_iter()
                        .fold(awake.max(process.paused), Duration::max)
                }
                None => self.start(replica),
            }
        }
        let leaders = (0..self.replicas.len()).filter(|r| self.replicas[*r].as_ref().is_some_and(|p| p.leads));
        let leaders = leaders.collect::<Vec<_>>();
        self.queue
            .retain(|_, e| !matches!(e, Event::Lead { .. } | Event::Deposed { .. } | Event::Start { .. }));
        for replica in leaders.iter().skip(1) {
            self.replicas[*replica] = None;
        }
        if leaders.is_empty() {
            self.elect(Some(0), Duration::from_millis(1));
        }
        awake
    }
}
