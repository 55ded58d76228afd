//! Reading and writing of an enum whose every variant is a byte stream.
//!
//! A macro, because Rust has no other way to write `impl AsyncRead` once for several enums of ours; the alternative, a
//! trait object for each poll, would cost an indirect call where bytes are copied.

/// `delegate_io!(CallerIo { Plain, Tls })`: each call goes to the stream inside, vectored writes included.
macro_rules! delegate_io {
    ($streams:ident { $($variant:ident),+ }) => {
        impl tokio::io::AsyncRead for $streams {
            fn poll_read(
                self: std::pin::Pin<&mut Self>,
                context: &mut std::task::Context<'_>,
                buffer: &mut tokio::io::ReadBuf<'_>,
            ) -> std::task::Poll<std::io::Result<()>> {
                match self.get_mut() {
                    $(Self::$variant(inner) => std::pin::Pin::new(inner).poll_read(context, buffer),)+
                }
            }
        }

        impl tokio::io::AsyncWrite for $streams {
            fn poll_write(
                self: std::pin::Pin<&mut Self>,
                context: &mut std::task::Context<'_>,
                bytes: &[u8],
            ) -> std::task::Poll<std::io::Result<usize>> {
                match self.get_mut() {
                    $(Self::$variant(inner) => std::pin::Pin::new(inner).poll_write(context, bytes),)+
                }
            }

            fn poll_write_vectored(
                self: std::pin::Pin<&mut Self>,
                context: &mut std::task::Context<'_>,
                slices: &[std::io::IoSlice<'_>],
            ) -> std::task::Poll<std::io::Result<usize>> {
                match self.get_mut() {
                    $(Self::$variant(inner) => std::pin::Pin::new(inner).poll_write_vectored(context, slices),)+
                }
            }

            fn is_write_vectored(&self) -> bool {
                match self {
                    $(Self::$variant(inner) => inner.is_write_vectored(),)+
                }
            }

            fn poll_flush(
                self: std::pin::Pin<&mut Self>,
                context: &mut std::task::Context<'_>,
            ) -> std::task::Poll<std::io::Result<()>> {
                match self.get_mut() {
                    $(Self::$variant(inner) => std::pin::Pin::new(inner).poll_flush(context),)+
                }
            }

            fn poll_shutdown(
                self: std::pin::Pin<&mut Self>,
                context: &mut std::task::Context<'_>,
            ) -> std::task::Poll<std::io::Result<()>> {
                match self.get_mut() {
                    $(Self::$variant(inner) => std::pin::Pin::new(inner).poll_shutdown(context),)+
                }
            }
        }
    };
}

pub(crate) use delegate_io;
