//! The process log: what Postern says of itself, to standard error, as text or JSON, one line an event.
//!
//! Its filter can be changed while we run. Events carry no secret, because the types of secrets do not print.

use postern_config::telemetry::LogFormat;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, fmt, reload};

/// Where neither the file nor the environment says anything.
pub const FILTER_DEFAULT: &str = "info";

/// Reads and changes the filter of a running process.
#[derive(Clone)]
pub struct LogHandle {
    filter: reload::Handle<Targets, Registry>,
    current: Arc<Mutex<String>>,
    /// Keeps the layer of [`detached`](LogHandle::detached) alive, which no subscriber does.
    _layer: Option<Arc<reload::Layer<Targets, Registry>>>,
}

/// Why a filter was not taken; the one before stays.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    #[error("`{filter}` is not a log filter, write for example `info` or `info,postern::tls=debug`")]
    Syntax { filter: String, source: tracing_subscriber::filter::ParseError },
    #[error("the log filter could not be replaced")]
    Replace(#[source] reload::Error),
}

/// Starts the log. `filter` is in the syntax of `RUST_LOG`: levels and `target=level`; `None` is `info`. When a subscriber stands already (in
/// tests), that one stays and this handle changes nothing that is seen.
///
/// # Errors
/// [`FilterError::Syntax`].
pub fn init(filter: Option<&str>, format: LogFormat) -> Result<LogHandle, FilterError> {
    let (layer, handle) = handle(filter.unwrap_or(FILTER_DEFAULT))?;
    let registry = tracing_subscriber::registry().with(layer);
    let lines: Box<dyn Layer<_> + Send + Sync> = match format {
        LogFormat::Text => fmt::layer().with_ansi(false).with_writer(|| OneLine(io::stderr())).boxed(),
        LogFormat::Json => fmt::layer().json().flatten_event(true).with_ansi(false).with_writer(io::stderr).boxed(),
    };
    // Fails only when there is one already.
    let _ = registry.with(lines).try_init();
    Ok(handle)
}

fn handle(filter: &str) -> Result<(reload::Layer<Targets, Registry>, LogHandle), FilterError> {
    let (layer, reload) = reload::Layer::new(parse(filter)?);
    let current = Arc::new(Mutex::new(filter.to_owned()));
    Ok((layer, LogHandle { filter: reload, current, _layer: None }))
}

/// Of what no directive names, errors are told. Directives about spans are not known: there are none here, and the regular
/// expressions for them would take half a megabyte of every process.
fn parse(filter: &str) -> Result<Targets, FilterError> {
    let syntax = |source| FilterError::Syntax { filter: filter.to_owned(), source };
    let targets: Targets = filter.parse().map_err(syntax)?;
    Ok(match targets.default_level() {
        Some(_) => targets,
        None => targets.with_default(LevelFilter::ERROR),
    })
}

/// # Errors
/// [`FilterError::Syntax`].
pub fn check_filter(filter: &str) -> Result<(), FilterError> {
    parse(filter).map(drop)
}

impl LogHandle {
    /// A handle to nothing, for parts that are run without a process log.
    pub fn detached() -> Self {
        let (layer, reload) = reload::Layer::new(Targets::default());
        let current = Arc::new(Mutex::new(FILTER_DEFAULT.to_owned()));
        Self { filter: reload, current, _layer: Some(Arc::new(layer)) }
    }

    /// # Errors
    /// [`FilterError`]; the filter before stays.
    pub fn set_filter(&self, filter: &str) -> Result<(), FilterError> {
        self.filter.reload(parse(filter)?).map_err(FilterError::Replace)?;
        filter.clone_into(&mut self.current.lock().unwrap_or_else(PoisonError::into_inner));
        Ok(())
    }

    pub fn current(&self) -> String {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Text has no quoting of its own: a value from outside that holds a line break or an escape sequence would become a
/// line of its own, or move the reader's cursor (THREATS HD-22). The formatter writes an event in one call.
struct OneLine<W>(W);

impl<W: Write> Write for OneLine<W> {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let (text, end) = event.split_at(event.len() - usize::from(event.ends_with(b"\n")));
        if text.iter().any(u8::is_ascii_control) {
            let mut line = Vec::with_capacity(event.len() + 16);
            for byte in text {
                if byte.is_ascii_control() {
                    line.extend(byte.escape_ascii());
                } else {
                    line.push(*byte);
                }
            }
            line.extend_from_slice(end);
            self.0.write_all(&line)?;
        } else {
            self.0.write_all(event)?;
        }
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::{FilterError, LogHandle, OneLine};
    use std::io::Write;

    #[test]
    fn a_filter_that_cannot_be_read_leaves_the_one_before() {
        let log = LogHandle::detached();
        log.set_filter("warn,postern::tls=trace").unwrap();
        assert!(matches!(log.set_filter("postern=loudest"), Err(FilterError::Syntax { .. })));
        assert_eq!(log.current(), "warn,postern::tls=trace");
    }

    #[test]
    fn an_event_is_one_line_whatever_a_value_holds() {
        for (event, expected) in [
            ("plain ü\n", "plain ü\n"),
            ("a\nINFO forged\u{1b}[2J\n", "a\\nINFO forged\\x1b[2J\n"),
            ("no end", "no end"),
            ("\n", "\n"),
        ] {
            let mut line = Vec::new();
            OneLine(&mut line).write_all(event.as_bytes()).unwrap();
            assert_eq!(String::from_utf8(line).unwrap(), expected);
        }
    }
}
