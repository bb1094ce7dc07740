//! Logs: to stderr, for people or as JSON, and never in the way of probing.
//!
//! Lines go through a bounded queue to a thread of their own. When stderr is stuck (a full pipe, a full
//! disk behind it) lines are dropped and counted; nobody waits.

use std::io::{self, IsTerminal, Write};
use std::panic::PanicHookInfo;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt;

/// Lines that may wait for stderr; at 300 bytes a line this is a few MB at the very most.
const QUEUED_LINES: usize = 8192;

/// How long the end of the process may wait for the last lines to be written.
const FAREWELL: Duration = Duration::from_secs(2);

/// Lines dropped because the queue was full.
static QUEUE_FULL: OnceLock<ErrorCounter> = OnceLock::new();
/// Lines dropped because stderr refused them.
static NOT_WRITTEN: AtomicU64 = AtomicU64::new(0);

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// One line for people
    #[default]
    Text,
    /// One JSON object a line
    Json,
}

/// The flags of logging.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Logging")]
pub struct LogArgs {
    /// How log lines look; they go to stderr
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t, env = "LOG_FORMAT")]
    pub log_format: LogFormat,
    /// What is logged: error, warn, info, debug or trace, also by module as in "info,kube=debug"
    #[arg(long, value_name = "FILTER", default_value = "info", env = "RUST_LOG")]
    pub log_level: String,
}

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter makes no sense.
    #[error("--log-level {filter:?} is no log filter; examples: info, \"info,kube=debug\"")]
    Filter {
        /// As it was given.
        filter: String,
        /// What is wrong with it.
        source: tracing_subscriber::filter::ParseError,
    },
    /// Somebody has set up logging before.
    #[error("logging is set up already")]
    Twice(#[from] tracing_subscriber::util::TryInitError),
}

/// Keep it until the end of `main`: dropping it writes the lines that still wait, for two seconds at most.
#[derive(Debug)]
#[must_use = "lines that still wait are lost when nothing holds this"]
pub struct Telemetry(Option<WorkerGuard>);

/// Sets up logging for the whole process, panics included.
pub fn init(args: &LogArgs) -> Result<Telemetry, TelemetryError> {
    let filter = EnvFilter::builder()
        .parse(&args.log_level)
        .map_err(|source| TelemetryError::Filter { filter: args.log_level.clone(), source })?;
    let (writer, guard) = NonBlockingBuilder::default()
        .lossy(true)
        .buffered_lines_limit(QUEUED_LINES)
        .thread_name("log-writer")
        .finish(Counted(io::stderr()));
    let _ = QUEUE_FULL.set(writer.error_counter());

    // The default timer writes RFC 3339 in UTC, with microseconds.
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer);
    match args.log_format {
        LogFormat::Text => subscriber.with_ansi(io::stderr().is_terminal()).finish().try_init()?,
        LogFormat::Json => {
            subscriber.json().flatten_event(true).with_span_list(false).finish().try_init()?;
        }
    }
    // The standard hook writes to stderr itself, and would wait for a stuck one.
    std::panic::set_hook(Box::new(log_panic));
    Ok(Telemetry(Some(guard)))
}

/// Log lines that could not be written since the start of the process.
pub fn lines_dropped() -> u64 {
    let queue_full = QUEUE_FULL.get().map_or(0, |counter| counter.dropped_lines() as u64);
    queue_full + NOT_WRITTEN.load(Ordering::Relaxed)
}

impl Drop for Telemetry {
    fn drop(&mut self) {
        let Some(guard) = self.0.take() else { return };
        // The guard bounds its own wait, but then prints to stdout, which may be stuck as well.
        let (done, finished) = mpsc::channel();
        let spawned = std::thread::Builder::new().name("log-farewell".to_owned()).spawn(move || {
            drop(guard);
            let _ = done.send(());
        });
        if spawned.is_ok() {
            let _ = finished.recv_timeout(FAREWELL);
        }
    }
}

/// Counts lines that the inner writer refuses, and goes on with the next.
struct Counted<W>(W);

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.write_all(line).map(|()| line.len())
    }

    fn write_all(&mut self, line: &[u8]) -> io::Result<()> {
        if self.0.write_all(line).is_err() {
            NOT_WRITTEN.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        let _ = self.0.flush();
        Ok(())
    }
}

fn log_panic(info: &PanicHookInfo<'_>) {
    let message = info.payload_as_str().unwrap_or("something that is no text");
    let location = info.location().map(ToString::to_string).unwrap_or_default();
    let thread = std::thread::current();
    let backtrace = std::backtrace::Backtrace::capture();
    let backtrace = match backtrace.status() {
        std::backtrace::BacktraceStatus::Captured => Some(backtrace.to_string()),
        _ => None,
    };
    tracing::error!(location, thread = thread.name(), backtrace, "panicked: {message}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        log: LogArgs,
    }

    #[test]
    fn flags() {
        let cli =
            Cli::try_parse_from(["x", "--log-format", "json", "--log-level", "info,kube=debug"]).unwrap();
        assert_eq!(cli.log.log_format, LogFormat::Json);
        assert_eq!(cli.log.log_level, "info,kube=debug");
    }

    #[test]
    fn a_filter_that_makes_no_sense_is_refused_by_name() {
        let args = LogArgs { log_format: LogFormat::Text, log_level: "info,=?".to_owned() };
        let error = init(&args).unwrap_err().to_string();
        assert!(error.contains("--log-level \"info,=?\""), "{error}");
    }

    /// Refuses everything, as a full disk does.
    struct Full;

    impl Write for Full {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::StorageFull.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Err(io::ErrorKind::StorageFull.into())
        }
    }

    /// Takes the first line and then nothing, until its sender is dropped.
    struct Stuck(mpsc::Receiver<()>);

    impl Write for Stuck {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            let _ = self.0.recv();
            Ok(line.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_full_disk_is_counted_and_is_no_error() {
        let before = lines_dropped();
        let mut writer = Counted(Full);
        writer.write_all(b"one\n").unwrap();
        writer.write_all(b"two\n").unwrap();
        writer.flush().unwrap();
        assert!(lines_dropped() >= before + 2);
    }

    #[test]
    fn a_stuck_stderr_costs_lines_not_time() {
        let (release, stuck) = mpsc::channel();
        let (mut writer, guard) =
            NonBlockingBuilder::default().lossy(true).buffered_lines_limit(10).finish(Counted(Stuck(stuck)));
        let dropped = writer.error_counter();
        for _ in 0..100 {
            writer.write_all(b"line\n").unwrap();
        }
        // One may be in the writer's hands; the rest of what the queue holds not is gone.
        assert!((89..=90).contains(&dropped.dropped_lines()), "{}", dropped.dropped_lines());
        drop(release);
        drop(guard);
    }
}
