//! What is under way, counted while it lives.

use super::http2::H2Connection;
use super::pool::Endpoint;
use std::rc::Rc;
use std::time::Instant;

/// Counts one stream of a shared connection while it lives.
pub struct Stream {
    connection: Rc<H2Connection>,
    is_open: bool,
}

impl Stream {
    pub fn of(connection: &Rc<H2Connection>) -> Self {
        connection.streams.set(connection.streams.get() + 1);
        Self { connection: connection.clone(), is_open: false }
    }

    /// Waits for its turn, where the other side takes fewer streams than want to be.
    pub async fn open(&mut self) {
        self.connection.open().await;
        self.is_open = true;
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let connection = &self.connection;
        if self.is_open {
            connection.opened.set(connection.opened.get() - 1);
            if connection.streams.get() > connection.opened.get() + 1 {
                connection.freed.notify_one();
            }
        }
        connection.streams.set(connection.streams.get() - 1);
        if connection.streams.get() == 0 {
            connection.idle_since.set(Instant::now());
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
