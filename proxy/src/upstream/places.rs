//! A bounded number of places, and a short, bounded queue for them (PEERS D2: fail fast).

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::Notify;

/// Of one service and worker. Who finds one free pays for two counters, and nothing else.
pub struct Places {
    max: usize,
    taken: Cell<usize>,
    waiting_max: usize,
    waiting: Cell<usize>,
    patience: Duration,
    freed: Notify,
}

/// Why there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoPlace {
    #[error("{max} are in use, and {waiting} wait")]
    QueueIsFull { max: usize, waiting: usize },
    #[error("{max} are in use, and none became free within {within:?}")]
    NoneWasFreed { max: usize, within: Duration },
}

impl Places {
    pub fn new(max: usize, waiting_max: usize, patience: Duration) -> Rc<Self> {
        let (taken, waiting) = (Cell::new(0), Cell::new(0));
        Rc::new(Self { max, taken, waiting_max, waiting, patience, freed: Notify::new() })
    }

    /// One that is free, and for which nobody waits.
    pub fn try_take(self: &Rc<Self>) -> Option<Place> {
        if self.waiting.get() == 0 { self.take_free() } else { None }
    }

    /// Waits for one. `look` is called first, and whenever one may have become free; it may find something better.
    ///
    /// # Errors
    /// [`NoPlace`].
    ///
    /// # Cancellation
    /// Leaves the queue.
    pub async fn wait<T>(self: &Rc<Self>, mut look: impl FnMut(&Rc<Self>) -> Option<T>) -> Result<T, NoPlace> {
        let Self { max, waiting_max, patience: within, .. } = **self;
        if self.waiting.get() >= waiting_max {
            return Err(NoPlace::QueueIsFull { max, waiting: self.waiting.get() });
        }
        let _waiting = Waiting::at(self);
        let found = async {
            loop {
                if let Some(found) = look(self) {
                    return found;
                }
                self.freed.notified().await;
            }
        };
        tokio::time::timeout(within, found).await.map_err(|_| NoPlace::NoneWasFreed { max, within })
    }

    /// For `look` of [`wait`](Self::wait).
    pub fn take_free(self: &Rc<Self>) -> Option<Place> {
        (self.taken.get() < self.max).then(|| {
            self.taken.set(self.taken.get() + 1);
            Place(self.clone())
        })
    }

    /// What is as good as a free place has come up.
    pub fn something_freed(&self) {
        if self.waiting.get() > 0 {
            self.freed.notify_one();
        }
    }
}

pub struct Place(Rc<Places>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.taken.set(self.0.taken.get() - 1);
        self.0.something_freed();
    }
}

struct Waiting<'a>(&'a Places);

impl<'a> Waiting<'a> {
    fn at(places: &'a Places) -> Self {
        places.waiting.set(places.waiting.get() + 1);
        Self(places)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.set(self.0.waiting.get() - 1);
        // A place that was freed for this one may be for the next.
        if self.0.taken.get() < self.0.max {
            self.0.something_freed();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{NoPlace, Places};
    use std::rc::Rc;
    use std::time::Duration;
    use tokio::time::Instant;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn ds_09_who_finds_none_waits_a_second_and_is_refused() {
        let places = Places::new(1, 1, SECOND);
        let held = places.try_take().expect("free");
        assert!(places.try_take().is_none());
        let started = Instant::now();
        let refused = places.wait(|places| places.take_free()).await.err();
        assert_eq!(refused, Some(NoPlace::NoneWasFreed { max: 1, within: SECOND }));
        assert_eq!(started.elapsed(), SECOND);
        drop(held);
        assert!(places.try_take().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn ds_09_who_finds_the_queue_full_does_not_wait() {
        let places = Places::new(1, 2, SECOND);
        let _held = places.try_take().expect("free");
        let started = Instant::now();
        let wait = || places.wait(|places| places.take_free());
        let (one, other, third) = tokio::join!(wait(), wait(), async {
            let refused = wait().await.err();
            (refused, started.elapsed())
        });
        assert!(one.is_err() && other.is_err());
        assert_eq!(third, (Some(NoPlace::QueueIsFull { max: 1, waiting: 2 }), Duration::ZERO));
    }

    #[tokio::test(start_paused = true)]
    async fn places_go_to_those_who_wait_in_their_order() {
        let places = Places::new(1, 10, SECOND);
        let held = places.try_take().expect("free");
        let order = Rc::new(std::cell::RefCell::new(Vec::new()));
        let waiter = |name: &'static str| {
            let (places, order) = (places.clone(), order.clone());
            async move {
                let place = places.wait(|places| places.take_free()).await.expect("one is freed");
                order.borrow_mut().push(name);
                tokio::time::sleep(Duration::from_millis(10)).await;
                drop(place);
            }
        };
        let newcomer = async {
            tokio::time::sleep(Duration::from_millis(5)).await;
            drop(held);
            assert!(places.try_take().is_none(), "those who wait come first");
        };
        tokio::join!(waiter("first"), waiter("second"), waiter("third"), newcomer);
        assert_eq!(*order.borrow(), ["first", "second", "third"]);
        assert!(places.try_take().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn who_gives_up_does_not_take_the_place_with_him() {
        let places = Places::new(1, 10, SECOND);
        let held = places.try_take().expect("free");
        let patient = places.wait(|places| places.take_free());
        let impatient = tokio::time::timeout(Duration::from_millis(1), places.wait(|places| places.take_free()));
        let freeing = async {
            tokio::time::sleep(Duration::from_millis(2)).await;
            drop(held);
        };
        let (given_up, got, ()) = tokio::join!(impatient, patient, freeing);
        assert!(given_up.is_err());
        assert!(got.is_ok());
    }
}
