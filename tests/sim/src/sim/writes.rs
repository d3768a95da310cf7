//! The way of a write: sent by a core, done or not, answered or not.

use std::fmt::Write as _;

use ferrolb_controller_core::{Input, Write, WriteError, WriteKey};

use super::{Event, Flight, Sim};
use crate::words;

impl Sim<'_> {
    pub(super) fn send(&mut self, replica: usize, write: Write) -> Result<(), String> {
        let Some(process) = self.replicas[replica].as_mut() else {
            return Ok(());
        };
        if !process.writing.insert(write.key()) {
            return Err(format!("two writes under way for {:?}", write.key()));
        }
        self.ledger.asked(process, &write, self.now)?;
        let life = process.life;
        self.writes += 1;
        self.last_write = self.now;
        match &write {
            Write::SetVirtualIpStatus { address, placement, .. } => {
                let object = self.store.virtual_ips.get(address);
                self.remarks += usize::from(object.is_some_and(|o| o.placement == *placement));
            }
            Write::DeleteVirtualIp { .. } => {
                self.tied |= self.is_close(self.freed) || self.is_close(self.happened);
                self.freed = Some(self.now);
            }
            _ => {}
        }
        let mut line = String::new();
        let _ = write!(
            line,
            "{:.3} controller{replica} {}",
            self.now.as_secs_f64(),
            words::write(&write)
        );
        self.recent.push(line);
        if self.recent.len() > 8 {
            self.recent.remove(0);
        }
        self.next += 1;
        let number = self.next;
        let result = Ok(());
        self.flights.insert(
            number,
            Flight {
                replica,
                life,
                write,
                result,
            },
        );
        let at = self.now + self.delay();
        self.at(at, Event::Arrive(number));
        Ok(())
    }

    pub(super) fn arrive(&mut self, number: u64) -> Result<(), String> {
        let Some(flight) = self.flights.get(&number) else {
            return Ok(());
        };
        let (life, write) = (flight.life, flight.write.clone());
        let fault = self.fault();
        let done = match &fault {
            None | Some(None) => Some(self.perform(life, &write)?),
            Some(Some(_)) => None,
        };
        let result = match (fault, done) {
            (Some(Some(error)), _) => Err(error),
            (Some(None), _) => Err(WriteError::Unavailable("the answer was lost".to_owned())),
            (None, done) => done.unwrap_or(Ok(())),
        };
        self.log(|| format!("server      {} : {result:?}", words::write(&write)));
        if let Some(flight) = self.flights.get_mut(&number) {
            flight.result = result;
        }
        let at = self.now + self.delay();
        self.at(at, Event::Answer(number));
        Ok(())
    }

    /// `Some(None)`: done, but nobody learns of it.
    fn fault(&mut self) -> Option<Option<WriteError>> {
        if !self.scenario.faults || self.peace || self.rng.u8(..8) != 0 {
            return None;
        }
        Some(match self.rng.u8(..12) {
            0..3 => None,
            3..7 => Some(WriteError::Unavailable("down".to_owned())),
            7..9 => Some(WriteError::Conflict),
            9 => Some(WriteError::Forbidden("no rule".to_owned())),
            10 => Some(WriteError::Refused("no".to_owned())),
            _ => Some(WriteError::ForeignManager("somebody".to_owned())),
        })
    }

    fn perform(&mut self, life: u64, write: &Write) -> Result<Result<(), WriteError>, String> {
        let (service, object) = match write.key() {
            WriteKey::ServiceStatus(id) => (self.store.services.get(&id).cloned(), None),
            WriteKey::Claim(a) | WriteKey::VirtualIpStatus(a) => (None, self.store.virtual_ips.get(&a).cloned()),
        };
        let result = self.store.perform(write);
        if result.is_ok() {
            self.ledger
                .written(&self.store, life, write, service.as_ref(), object.as_ref(), self.now)?;
            self.spread();
        }
        self.divide();
        Ok(result)
    }

    pub(super) fn answer(&mut self, number: u64) -> Result<(), String> {
        let Some(flight) = self.flights.get(&number) else {
            return Ok(());
        };
        let (replica, life, now) = (flight.replica, flight.life, self.now);
        if let Some(process) = self.process(replica, life) {
            if process.paused > now {
                let at = process.paused;
                self.at(at, Event::Answer(number));
                return Ok(());
            }
            if let Some(flight) = self.flights.remove(&number) {
                let key = flight.write.key();
                if let Some(process) = self.process(replica, life) {
                    process.writing.remove(&key);
                    match flight.result {
                        Ok(()) => process.wrote(&flight.write, now),
                        Err(_) => process.failed(&flight.write),
                    }
                }
                return self.feed(
                    replica,
                    Input::Written {
                        key,
                        result: flight.result,
                    },
                );
            }
        }
        self.flights.remove(&number);
        Ok(())
    }
}
