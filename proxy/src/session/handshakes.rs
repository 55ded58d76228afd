//! The TLS handshakes of callers that are under way on one worker: how many there may be, and whose turn it is.
//!
//! Two things keep a flood of handshakes (THREATS DS-03, DS-04) from whoever is served already. Above the limit the oldest
//! one is ended: it has had the most time, so callers that stall make room for those that do not, and nobody waits in a
//! queue that stalled callers fill. And between two steps of handshakes, which cost hundreds of microseconds each, all other
//! work of the worker that is ready is done.

use super::{EndCause, Session};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

#[derive(Default)]
pub struct Handshakes(Rc<State>);

#[derive(Default)]
struct State {
    /// By the order in which they began.
    under_way: RefCell<BTreeMap<u64, Arc<Session>>>,
    begun: Cell<u64>,
    turns: Turns,
}

/// A handshake's place; given back when dropped.
pub struct UnderWay {
    state: Rc<State>,
    number: u64,
}

impl Handshakes {
    /// Takes a place, if need be that of the oldest handshake.
    pub fn begin(&self, session: &Arc<Session>, handshakes_max: usize) -> UnderWay {
        let state = self.0.clone();
        let number = state.begun.replace(state.begun.get() + 1);
        let oldest = {
            let mut under_way = state.under_way.borrow_mut();
            let oldest = if under_way.len() >= handshakes_max { under_way.pop_first() } else { None };
            under_way.insert(number, session.clone());
            oldest
        };
        if let Some((_, oldest)) = oldest {
            oldest.cut(EndCause::OverLimit, Instant::now());
        }
        UnderWay { state, number }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.state.under_way.borrow_mut().remove(&self.number);
    }
}

impl UnderWay {
    /// Runs `handshake`, one step a turn.
    pub async fn run<T>(&self, handshake: impl Future<Output = T>) -> T {
        let mut handshake = pin!(handshake);
        let turns = &self.state.turns;
        poll_fn(|context| {
            if turns.poll_turn(context).is_pending() {
                return Poll::Pending;
            }
            turns.taken(&self.state);
            handshake.as_mut().poll(context)
        })
        .await
    }
}

/// One turn for each time that the worker has looked for events.
#[derive(Default)]
struct Turns {
    is_taken: Cell<bool>,
    waiting: RefCell<VecDeque<Waker>>,
}

impl Turns {
    fn poll_turn(&self, context: &Context<'_>) -> Poll<()> {
        if !self.is_taken.get() {
            return Poll::Ready(());
        }
        self.waiting.borrow_mut().push_back(context.waker().clone());
        Poll::Pending
    }

    fn taken(&self, state: &Rc<State>) {
        self.is_taken.set(true);
        let state = state.clone();
        tokio::task::spawn_local(async move {
            // Resumes when the runtime has looked for events, and so behind all that is ready now.
            tokio::task::yield_now().await;
            let turns = &state.turns;
            turns.is_taken.set(false);
            // Who waited may have ended meanwhile: until somebody takes the turn, or nobody is left.
            while !turns.is_taken.get() {
                let next = turns.waiting.borrow_mut().pop_front();
                let Some(next) = next else { return };
                next.wake();
                tokio::task::yield_now().await;
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::Handshakes;
    use crate::capture::Remote;
    use crate::session::{Direction, EndCause, Session};
    use crate::telemetry::PortMetrics;
    use std::cell::RefCell;
    use std::net::{Ipv4Addr, SocketAddr};
    use std::rc::Rc;
    use std::sync::Arc;
    use std::time::Duration;
    use tokio::runtime::{Builder, LocalOptions};
    use tokio::task::{spawn_local, yield_now};

    fn session() -> Arc<Session> {
        let remote = Remote::Ip(SocketAddr::from((Ipv4Addr::LOCALHOST, 1)));
        Session::new(1, Direction::Inbound, "orders".into(), remote, Arc::new(PortMetrics::default()))
    }

    fn on_a_worker(test: impl Future<Output = ()>) {
        let runtime =
            Builder::new_current_thread().enable_all().build_local(LocalOptions::default()).expect("a runtime");
        runtime.block_on(async { tokio::time::timeout(Duration::from_secs(10), test).await.expect("it ends") });
    }

    #[test]
    fn ds_03_above_the_limit_the_oldest_handshake_makes_room() {
        let handshakes = Handshakes::default();
        let sessions: Vec<_> = (0..4).map(|_| session()).collect();
        let mut places: Vec<_> = sessions[..3].iter().map(|session| handshakes.begin(session, 3)).collect();
        assert!(sessions.iter().all(|session| !session.is_cut()));
        // The second ends by itself; its place is free.
        drop(places.remove(1));
        places.push(handshakes.begin(&sessions[3], 3));
        assert!(!sessions[0].is_cut());
        places.push(handshakes.begin(&session(), 3));
        assert_eq!(sessions[0].end_cause(), Some(EndCause::OverLimit));
        assert!(!sessions[2].is_cut() && !sessions[3].is_cut());
        drop(places);
        assert!(handshakes.0.under_way.borrow().is_empty());
    }

    #[test]
    fn ds_04_other_work_is_done_between_two_steps_of_handshakes() {
        on_a_worker(async {
            let (handshakes, order) = (Rc::new(Handshakes::default()), Rc::new(RefCell::new(String::new())));
            let mut tasks = Vec::new();
            for _ in 0..20 {
                let (handshakes, order) = (handshakes.clone(), order.clone());
                tasks.push(spawn_local(async move {
                    let place = handshakes.begin(&session(), 100);
                    place
                        .run(async {
                            for _ in 0..3 {
                                order.borrow_mut().push('h');
                                yield_now().await;
                            }
                        })
                        .await;
                }));
            }
            let of_work = order.clone();
            tasks.push(spawn_local(async move {
                for _ in 0..60 {
                    of_work.borrow_mut().push('w');
                    yield_now().await;
                }
            }));
            for task in tasks {
                task.await.expect("no panic");
            }
            let order = order.borrow();
            assert_eq!(order.matches('h').count(), 60);
            let until_work_ends = &order[..order.rfind('w').expect("work")];
            // One step for each look at events, and so has the other work: their order may differ from look to look.
            assert!(!until_work_ends.contains("hhh"), "two steps without other work: {order}");
        });
    }

    #[test]
    fn a_handshake_that_ends_while_it_waits_keeps_nobody_waiting() {
        on_a_worker(async {
            let handshakes = Rc::new(Handshakes::default());
            let mut tasks = Vec::new();
            for number in 0..30 {
                let handshakes = handshakes.clone();
                let task = spawn_local(async move {
                    let place = handshakes.begin(&session(), 100);
                    place.run(yield_now()).await;
                });
                if number % 3 == 0 {
                    tasks.push(task);
                } else {
                    yield_now().await;
                    task.abort();
                }
            }
            for task in tasks {
                task.await.expect("no panic");
            }
        });
    }
}
