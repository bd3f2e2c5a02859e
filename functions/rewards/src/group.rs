//! Calls that come at the same time are done together: a commit costs as much for sixteen as for one.
//!
//! Whoever finds nobody at work takes all that wait and does it; the others wait for their results. A waiting request
//! is woken by another one of the same instance, for which `wit-bindgen` needs its feature `inter-task-wakeup`.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

/// Calls that are done together at most.
const TOGETHER: usize = 64;

struct Waiting<T, R> {
    item: T,
    result: Arc<OnceLock<R>>,
}

/// Those that wait.
pub(crate) struct Group<T, R> {
    waiting: Mutex<VecDeque<Waiting<T, R>>>,
    turn: futures::lock::Mutex<()>,
}

impl<T, R: Clone> Group<T, R> {
    /// Nobody.
    pub(crate) const fn new() -> Self {
        Self { waiting: Mutex::new(VecDeque::new()), turn: futures::lock::Mutex::new(()) }
    }

    /// Has `item` done by `work`, with others if there are any; `None` if `work` gave it no result. `work` gives a
    /// result for each item, in their order.
    pub(crate) async fn submit<W, F>(&self, item: T, work: W) -> Option<R>
    where
        W: Fn(Vec<T>) -> F,
        F: Future<Output = Vec<R>>,
    {
        let result = Arc::new(OnceLock::new());
        self.waiting().push_back(Waiting { item, result: Arc::clone(&result) });
        loop {
            let _turn = self.turn.lock().await;
            if let Some(result) = result.get() {
                return Some(result.clone());
            }
            let together: Vec<_> = {
                let mut waiting = self.waiting();
                let count = waiting.len().min(TOGETHER);
                waiting.drain(..count).collect()
            };
            if together.is_empty() {
                return None;
            }
            let (items, slots): (Vec<_>, Vec<_>) =
                together.into_iter().map(|waiting| (waiting.item, waiting.result)).unzip();
            for (slot, result) in slots.iter().zip(work(items).await) {
                let _ = slot.set(result);
            }
        }
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, VecDeque<Waiting<T, R>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn calls_at_the_same_time_are_done_together_and_each_gets_its_own_result() {
        let group = Group::new();
        let times = AtomicUsize::new(0);
        let work = async |items: Vec<usize>| {
            times.fetch_add(1, Ordering::Relaxed);
            tokio::task::yield_now().await;
            items.into_iter().map(|item| item * 2).collect()
        };
        let calls = (0..200).map(|item| group.submit(item, &work));
        let results = futures::future::join_all(calls).await;
        assert_eq!(results, (0..200).map(|item| Some(item * 2)).collect::<Vec<_>>());
        assert!(times.into_inner() <= 5);
    }

    #[tokio::test]
    async fn a_call_without_a_result_does_not_wait_forever() {
        let group: Group<usize, usize> = Group::new();
        assert_eq!(group.submit(1, async |_| Vec::new()).await, None);
        assert_eq!(group.submit(2, async |items| items).await, Some(2));
    }
}
