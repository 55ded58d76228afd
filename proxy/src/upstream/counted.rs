//! What is under way, counted while it lives.

use super::http2::H2Connection;
use super::pool::Endpoint;
use std::rc::Rc;
use std::time::Instant;

/// Counts one stream of a shared connection while it lives.
pub struct Stream(Rc<H2Connection>);

impl Stream {
    pub fn of(connection: &Rc<H2Connection>) -> Self {
        connection.streams.set(connection.streams.get() + 1);
        Self(connection.clone())
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.0.streams.set(self.0.streams.get() - 1);
        if self.0.streams.get() == 0 {
            self.0.idle_since.set(Instant::now());
        }
    }
}

/// Counts one request or tunnel of an endpoint while it lives.
pub struct Active(Rc<Endpoint>);

impl Active {
    pub fn at(endpoint: &Rc<Endpoint>) -> Self {
        let active = endpoint.active.get() + 1;
        endpoint.active.set(active);
        let (now, before) = endpoint.busiest.get();
        endpoint.busiest.set((now.max(active), before));
        Self(endpoint.clone())
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.0.active.set(self.0.active.get() - 1);
    }
}
