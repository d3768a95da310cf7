//! The last good versions of objects that are wrong at present, as a text that outlives the process.
//!
//! The text is a JSON list of objects with only the metadata that the configuration depends on. It holds no password: a
//! BGPPeer with one in its spec is left out.

use ferrolb_api::BgpPeer;
use serde_json::Value;
use thiserror::Error;

use crate::objects::{Configures, Kind, Object, ObjectRef, Snapshot};
use crate::parse::{Parsed, parse};
use crate::surroundings::Surroundings;

/// Last good versions, read back from a text.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LastGood {
    objects: Snapshot,
}

/// Why a text has no last good versions.
#[derive(Debug, Error)]
#[error("not a list of objects: {0}")]
pub struct LastGoodError(#[from] serde_json::Error);

impl LastGood {
    /// Reads a text of [`LastGood::text`]. An item that cannot be read is passed over: without it, its object is left
    /// out as if it had never been good.
    pub fn read(text: &str) -> Result<Self, LastGoodError> {
        let items = serde_json::from_str::<Vec<Value>>(text)?;
        let objects = items.into_iter().filter_map(|item| {
            let kind = item.get("kind")?.as_str()?;
            let kind = Kind::ALL.iter().copied().find(|k| k.name() == kind)?;
            let name = item.get("metadata")?.get("name")?.as_str()?.to_owned();
            Some((ObjectRef::new(kind, name), Object::from_json(kind, item).ok()?))
        });
        Ok(LastGood {
            objects: objects.collect(),
        })
    }

    /// What was in force when the text was written, as far as its objects still exist: for [`parse`] as what came
    /// before.
    pub fn resume(&self, snapshot: &Snapshot, surroundings: &Surroundings) -> Parsed {
        let still = |(of, old): &(&ObjectRef, &Object)| snapshot.get(*of).is_some_and(|now| now.may_be_same(old));
        let mut before = snapshot.clone();
        let old = self.objects.iter().filter(still);
        before.extend(old.map(|(of, object)| (of.clone(), object.clone())));
        parse(&before, surroundings, &Parsed::default())
    }

    /// The last good versions of the objects that are wrong in `parsed`, in at most `max` bytes, and which were left out
    /// for that, the largest first. Nothing, if there are none.
    pub fn text(parsed: &Parsed, max: usize) -> (Option<String>, Vec<ObjectRef>) {
        let kept = parsed.kept().filter(|(_, object)| !has_password(object));
        let mut items = kept
            .filter_map(|(of, object)| Some((of, object.reduced()?.to_string())))
            .collect::<Vec<_>>();
        // Brackets around the items, a comma behind each but the last.
        let mut size = items.iter().map(|(_, item)| item.len() + 1).sum::<usize>() + 1;
        let mut by_size = items.iter().map(|(of, item)| (item.len(), *of)).collect::<Vec<_>>();
        by_size.sort_unstable();
        let mut dropped = Vec::new();
        while size > max
            && let Some((length, of)) = by_size.pop()
        {
            size -= length + 1;
            dropped.push(of.clone());
        }
        items.retain(|(of, _)| !dropped.contains(of));
        let items = items.into_iter().map(|(_, item)| item).collect::<Vec<_>>();
        ((!items.is_empty()).then(|| format!("[{}]", items.join(","))), dropped)
    }
}

fn has_password(object: &Object) -> bool {
    BgpPeer::of(object).is_some_and(|peer| !peer.spec.password.is_empty())
}
