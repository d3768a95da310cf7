//! Many writes at once, bounded, one at a time for each key.
//!
//! The owner task submits jobs and asks for outcomes in its own `select!`; nothing is spawned, so nothing outlives the
//! owner. What exceeds the bound waits in order. The owner decides how long that queue gets: it submits at most one
//! job for each key at a time, or merges what it still waits for.

use std::collections::{HashSet, VecDeque};
use std::future::pending;
use std::hash::Hash;

use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};

/// Runs jobs and hands back their outcomes.
pub struct Writer<K, T> {
    limit: usize,
    running: FuturesUnordered<BoxFuture<'static, (K, T)>>,
    busy: HashSet<K>,
    /// Jobs that wait for room or for their key, by turn. While there is room, each of them waits for its key.
    waiting: [Waiting<K, T>; 2],
}

type Waiting<K, T> = VecDeque<(K, BoxFuture<'static, (K, T)>)>;

/// Whose turn it is when there is room. Give all jobs of one key the same, or they overtake each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Before every job that is `InOrder`: it ends what others began.
    First,
    /// As they come.
    InOrder,
}

impl<K, T> Writer<K, T>
where
    K: Clone + Eq + Hash + Send + 'static,
    T: Send + 'static,
{
    /// A writer that runs at most `limit` jobs at once.
    pub fn new(limit: usize) -> Self {
        Writer {
            limit,
            running: FuturesUnordered::new(),
            busy: HashSet::new(),
            waiting: [VecDeque::new(), VecDeque::new()],
        }
    }

    /// Runs `job` as soon as there is room, it is its `turn`, and no other job of `key` is before it.
    pub fn submit(&mut self, key: K, turn: Turn, job: impl Future<Output = T> + Send + 'static) {
        let own = key.clone();
        let job = job.map(move |outcome| (own, outcome)).boxed();
        if self.running.len() < self.limit && self.busy.insert(key.clone()) {
            self.running.push(job);
        } else {
            self.waiting[turn as usize].push_back((key, job));
        }
    }

    /// The next outcome; waits for ever when there is no job. Dropping the future loses nothing.
    pub async fn next(&mut self) -> (K, T) {
        let Some((key, outcome)) = self.running.next().await else {
            return pending().await;
        };
        self.busy.remove(&key);
        self.fill();
        (key, outcome)
    }

    /// Jobs running and waiting.
    pub fn len(&self) -> usize {
        self.running.len() + self.waiting.iter().map(VecDeque::len).sum::<usize>()
    }

    /// Whether there is no job.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn fill(&mut self) {
        for waiting in &mut self.waiting {
            let mut from = 0;
            while self.running.len() < self.limit {
                let free = waiting.iter().skip(from).position(|(key, _)| !self.busy.contains(key));
                let Some((key, job)) = free.and_then(|next| {
                    from += next;
                    waiting.remove(from)
                }) else {
                    break;
                };
                self.busy.insert(key);
                self.running.push(job);
            }
            // A burst is over some time; what its queue took is given back.
            if waiting.is_empty() {
                waiting.shrink_to_fit();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};
    use tokio::sync::oneshot;

    #[tokio::test]
    async fn bounded_and_in_order_for_each_key() {
        let mut writer = Writer::new(2);
        let started = Arc::new(Mutex::new(Vec::new()));
        let mut gates = Vec::new();
        for (key, name) in [("a", "a1"), ("a", "a2"), ("b", "b1"), ("c", "c1")] {
            let (open, gate) = oneshot::channel::<()>();
            gates.push(Some(open));
            let started = Arc::clone(&started);
            writer.submit(key, Turn::InOrder, async move {
                started.lock().unwrap().push(name);
                gate.await.unwrap();
                name
            });
        }
        assert_eq!(writer.len(), 4);
        assert!(writer.next().now_or_never().is_none());
        assert_eq!(*started.lock().unwrap(), ["a1", "b1"]);

        gates[2].take().unwrap().send(()).unwrap();
        assert_eq!(writer.next().await, ("b", "b1"));
        assert!(writer.next().now_or_never().is_none());
        assert_eq!(*started.lock().unwrap(), ["a1", "b1", "c1"], "a2 waits for its key");

        gates[0].take().unwrap().send(()).unwrap();
        assert_eq!(writer.next().await, ("a", "a1"));
        for gate in gates.iter_mut().filter_map(Option::take) {
            gate.send(()).unwrap();
        }
        let mut rest = [writer.next().await.1, writer.next().await.1];
        rest.sort_unstable();
        assert_eq!(rest, ["a2", "c1"]);
        assert!(writer.is_empty());
    }

    #[tokio::test]
    async fn what_ends_something_overtakes_what_begins_something() {
        let mut writer = Writer::new(1);
        let turns = [Turn::InOrder, Turn::InOrder, Turn::First, Turn::First];
        for (key, turn) in turns.into_iter().enumerate() {
            writer.submit(key, turn, async {});
        }
        let mut order = Vec::new();
        while !writer.is_empty() {
            order.push(writer.next().await.0);
        }
        assert_eq!(order, [0, 2, 3, 1]);
    }

    #[tokio::test]
    async fn asking_and_not_waiting_loses_nothing() {
        let mut writer = Writer::new(1);
        let (open, gate) = oneshot::channel();
        writer.submit(1, Turn::InOrder, async move { gate.await.unwrap() });
        assert!(writer.next().now_or_never().is_none());
        open.send("done").unwrap();
        assert_eq!(writer.next().await, (1, "done"));
    }
}
