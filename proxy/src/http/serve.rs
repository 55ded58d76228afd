//! Runs HTTP on one accepted connection, until it ends, is retired or cut.

use super::{serve_http1, serve_http2};
use crate::capture::caller::CallerIo;
use crate::connection::Connection;
use crate::detect::Rewind;
use crate::upstream::client::{HttpVersion, chain};
use std::rc::Rc;

/// Ends when the connection has ended; an end by error goes into the connection's record.
pub async fn serve(connection: Rc<Connection>, io: Rewind<CallerIo>, version: HttpVersion) {
    connection.set_version(version);
    match version {
        // Boxed, as the next one: a connection's future lives long, these are large, and most connections need neither.
        HttpVersion::Http1 => {
            if let Err(error) = Box::pin(serve_http1::serve(&connection, io)).await {
                connection.ended(chain(&error));
            }
        }
        HttpVersion::Http2 => {
            if let Err(error) = Box::pin(serve_http2::serve(&connection, io)).await {
                connection.ended(chain(&error));
            }
        }
    }
}
