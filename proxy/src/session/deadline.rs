//! The time that a request may take, where the configuration says so. Others pay for a `None`.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, Sleep, sleep};

#[derive(Default)]
pub struct Deadline {
    timer: RefCell<Option<Pin<Box<Sleep>>>>,
    has_passed: Cell<bool>,
}

impl Deadline {
    pub fn start(&self, time: Duration) {
        *self.timer.borrow_mut() = Some(Box::pin(sleep(time)));
    }

    /// It is no request any more.
    pub fn lift(&self) {
        *self.timer.borrow_mut() = None;
    }

    pub fn has_passed(&self) -> bool {
        self.has_passed.get()
    }

    /// Has it passed just now? Else `context` is woken when it does.
    pub fn poll(&self, context: &mut Context<'_>) -> bool {
        let mut timer = self.timer.borrow_mut();
        let passes = timer.as_mut().is_some_and(|timer| timer.as_mut().poll(context) == Poll::Ready(()));
        self.pass_if(passes, &mut timer)
    }

    /// The same without anybody to wake: for whoever looks once a second at what nobody polls.
    pub fn look(&self) -> bool {
        let mut timer = self.timer.borrow_mut();
        let passes = timer.as_ref().is_some_and(|timer| timer.deadline() <= Instant::now());
        self.pass_if(passes, &mut timer)
    }

    fn pass_if(&self, passes: bool, timer: &mut Option<Pin<Box<Sleep>>>) -> bool {
        if passes {
            self.has_passed.set(true);
            *timer = None;
        }
        passes
    }
}
