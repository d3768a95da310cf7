//! Moves that somebody asks for, by the annotation `ferrolb.io/move-to` of a VirtualIP.
//!
//! A request is answered once: the address moves, or a reason says why it cannot. The answer stands in the status beside
//! the request that it is for, and is written together with the placement, so that a controller that starts does nothing twice. The
//! annotation stays: whoever keeps objects in a repository finds them as they were written. Taken away, it is forgotten.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ferrolb_model::{Condition, ConditionType, NodeRefusal, Placement, Reason, VirtualIp};

use crate::controller::Controller;
use crate::effect::{Effect, EventKind};
use crate::placement::{Decision, Round};

/// What becomes of a request.
#[derive(Debug)]
pub(crate) struct Answer {
    request: String,
    /// Where the address is from now on.
    pub(crate) outcome: Result<Placement, Reason>,
}

/// The request that is not answered yet.
fn request(object: &VirtualIp) -> Option<&str> {
    let request = object.move_to.as_deref()?;
    (object.answered_move.as_deref() != Some(request)).then_some(request)
}

/// The node that a request names.
fn target(request: &str) -> &str {
    request.split_whitespace().next().unwrap_or_default()
}

impl Controller {
    /// Answers the request about an address that is placed so.
    pub(crate) fn answer(&self, round: &Round<'_>, placed: &Placement) -> Option<Answer> {
        let request = request(round.record.object.as_ref()?)?.to_owned();
        let outcome = self.moved(round, placed, target(&request));
        Some(Answer { request, outcome })
    }

    fn moved(&self, round: &Round<'_>, placed: &Placement, node: &str) -> Result<Placement, Reason> {
        if placed.owner == node {
            return Ok(placed.clone());
        }
        let refused = |why| Reason::CannotMove {
            node: node.to_owned(),
            why,
        };
        let eligible = round.eligible();
        let Some(target) = eligible.candidates.iter().find(|c| *c.name == *node) else {
            let known = round.standings.nodes.contains_key(node);
            return Err(refused(
                known.then(|| round.reluctance(node).unwrap_or(NodeRefusal::NotSelected)),
            ));
        };
        if target.awaited {
            return Err(refused(Some(NodeRefusal::NotReady)));
        }
        if round.rules.preemption && eligible.candidates.iter().any(|c| !c.awaited && c.score > target.score) {
            return Err(refused(Some(NodeRefusal::Outweighed)));
        }
        Ok(Placement {
            owner: node.to_owned(),
            standbys: round.standbys(node, &eligible),
            epoch: round.record.epoch + 1,
        })
    }

    /// The request that counts as answered, and the condition that says how; both stay as long as the request does.
    pub(crate) fn answered(
        &self,
        object: &VirtualIp,
        decision: &Decision,
        conditions: &mut BTreeMap<ConditionType, Condition>,
    ) -> Option<String> {
        let condition = match &decision.answer {
            Some(answer) => Some(match &answer.outcome {
                Ok(placed) => Condition::new(true, "Moved", format!("given to node {}, as asked", placed.owner)),
                Err(reason) => Condition::told(false, reason),
            }),
            None if object.move_to.is_some() => object.conditions.get(&ConditionType::Moved).cloned(),
            None => None,
        };
        conditions.extend(condition.map(|condition| (ConditionType::Moved, condition)));
        let answer = decision.answer.as_ref().map(|answer| answer.request.clone());
        let stands = || object.answered_move.clone().filter(|_| object.move_to.is_some());
        answer.or_else(stands)
    }

    /// Tells the holders what became of the request.
    pub(crate) fn report_move(&self, address: IpAddr, answer: &Answer, effects: &mut Vec<Effect>) {
        let (kind, message) = match &answer.outcome {
            Ok(placed) => (
                EventKind::Moved,
                format!("{address} is given to node {}, as asked", placed.owner),
            ),
            Err(reason) => (
                EventKind::MoveFailed,
                format!("{address} stays. {}: {reason}", reason.as_str()),
            ),
        };
        for id in self.allocator.holders_of(address) {
            self.event(id, kind, message.clone(), effects);
        }
    }
}
