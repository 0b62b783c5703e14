//! What the user sees: a progress bar on a terminal, plain lines elsewhere, JSON lines with `--json`, nothing but errors
//! with `--quiet`. Results go to stdout, everything else to stderr.

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Map, Value, json};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::registry::LookupSpan;

/// Plain progress lines come at most this often, those of several things at once taken together.
const LINE_EVERY: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Bars,
    Lines,
    Json,
    Quiet,
}

/// The user's terminal, log or pipe.
pub(crate) struct Console {
    mode: Mode,
    bars: MultiProgress,
    /// How many there are.
    bar_count: AtomicU32,
    /// Why the first result that is not on stdout could not be written.
    lost: OnceLock<io::Error>,
}

impl Console {
    /// Chooses the mode from the flags and from whether stderr is a terminal, and sends the libraries' warnings there.
    pub(crate) fn new(quiet: bool, json: bool) -> Self {
        let mode = match (quiet, json) {
            (true, _) => Mode::Quiet,
            (_, true) => Mode::Json,
            _ if io::stderr().is_terminal() => Mode::Bars,
            _ => Mode::Lines,
        };
        let target = if mode == Mode::Bars { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bars = MultiProgress::with_draw_target(target);
        let level = if quiet { Level::ERROR } else { Level::WARN };
        let log =
            tracing_subscriber::fmt().with_max_level(level).with_target(false).with_writer(AboveBars(bars.clone()));
        if mode == Mode::Json {
            log.event_format(JsonLines).init();
        } else {
            let colours = std::env::var_os("NO_COLOR").is_none_or(|said| said.is_empty());
            log.without_time().with_ansi(mode == Mode::Bars && colours).init();
        }
        Self { mode, bars, bar_count: AtomicU32::new(0), lost: OnceLock::new() }
    }

    /// A result, on stdout.
    pub(crate) fn result(&self, text: &str) {
        if self.mode != Mode::Quiet
            && let Err(error) = self.bars.suspend(|| writeln!(io::stdout(), "{text}"))
        {
            self.lost.get_or_init(|| error);
        }
    }

    /// Fails where a result could not be written to stdout. A reader that closed the pipe is no error.
    pub(crate) fn check_written(&self) -> anyhow::Result<()> {
        match self.lost.get() {
            Some(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                anyhow::bail!("cannot write to stdout: {error}")
            }
            _ => Ok(()),
        }
    }

    /// Something worth saying about how the work goes; `event` names it for `--json`.
    pub(crate) fn note(&self, event: &str, text: &str, fields: Value) {
        match self.mode {
            Mode::Bars | Mode::Lines => self.stderr(text),
            Mode::Json => self.stderr(&json_line(event, fields)),
            Mode::Quiet => {}
        }
    }

    /// The one message of a command that failed.
    pub(crate) fn error(&self, text: &str) {
        match self.mode {
            Mode::Json => self.stderr(&json_line("error", json!({ "message": text }))),
            _ => self.stderr(&format!("error: {text}")),
        }
    }

    /// Progress of `total` units of `what`.
    pub(crate) fn progress(&self, what: Unit, total: u64) -> Progress<'_> {
        let bar = self.bars.add(ProgressBar::new(total).with_style(what.style()));
        self.bar_count.fetch_add(1, Ordering::Relaxed);
        Progress { console: self, bar, unit: what, total, last_line: Instant::now() }
    }

    /// How long each of the bars there are waits between its lines.
    fn line_every(&self) -> Duration {
        LINE_EVERY * self.bar_count.load(Ordering::Relaxed).max(1)
    }

    fn stderr(&self, text: &str) {
        self.bars.suspend(|| drop(writeln!(io::stderr(), "{text}")));
    }
}

/// What a progress bar counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    /// Training steps.
    Steps,
    /// Forward passes of a network over a batch, or layers of a file read for one.
    Passes,
    /// Test images whose predictions are compared.
    Images,
    /// Bytes of a download.
    Bytes,
}

impl Unit {
    fn style(self) -> ProgressStyle {
        let template = match self {
            Self::Bytes => {
                "{prefix:.bold} {bar:28} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} left {eta}"
            }
            Self::Steps | Self::Passes | Self::Images => "{prefix:.bold} {bar:28} {pos}/{len} {msg} left {eta}",
        };
        ProgressStyle::with_template(template).expect("the template is a constant of this file")
    }

    fn name(self) -> &'static str {
        match self {
            Self::Steps => "step",
            Self::Passes => "pass",
            Self::Images => "image",
            Self::Bytes => "byte",
        }
    }
}

/// One running bar, or the lines that stand in for it. It disappears when dropped.
pub(crate) struct Progress<'a> {
    console: &'a Console,
    bar: ProgressBar,
    unit: Unit,
    total: u64,
    last_line: Instant,
}

impl Progress<'_> {
    /// So many units were done before, of which nothing can be told of how long the others take.
    pub(crate) fn begin_at(&mut self, done: u64) {
        self.bar.set_position(done);
        self.bar.reset_eta();
    }

    /// `done` units are done; `prefix` says of what, `message` how it goes.
    pub(crate) fn update(&mut self, done: u64, prefix: &str, message: &str) {
        match self.console.mode {
            Mode::Bars => {
                self.bar.set_prefix(prefix.to_owned());
                self.bar.set_message(message.to_owned());
                self.bar.set_position(done);
            }
            Mode::Lines | Mode::Json if self.last_line.elapsed() >= self.console.line_every() => {
                self.last_line = Instant::now();
                let (unit, total) = (self.unit.name(), self.total);
                let text = format!("{prefix}: {unit} {done} of {total} {message}");
                self.console.note(
                    "progress",
                    text.trim_end(),
                    json!({ "of": prefix, "unit": unit, "done": done, "total": total }),
                );
            }
            Mode::Lines | Mode::Json | Mode::Quiet => {}
        }
    }

    /// The number of units is known only now (a download's length).
    pub(crate) fn set_total(&mut self, total: u64) {
        self.total = total;
        self.bar.set_length(total);
    }
}

impl Drop for Progress<'_> {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
        self.console.bar_count.fetch_sub(1, Ordering::Relaxed);
    }
}

fn json_line(event: &str, fields: Value) -> String {
    let mut line = json!({ "event": event });
    if let (Some(line), Value::Object(fields)) = (line.as_object_mut(), fields) {
        line.extend(fields);
    }
    line.to_string()
}

/// Log lines as [`json_line`] has everything else.
struct JsonLines;

impl<S: Subscriber + for<'a> LookupSpan<'a>, N: for<'a> FormatFields<'a> + 'static> FormatEvent<S, N> for JsonLines {
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut fields = LogFields::default();
        event.record(&mut fields);
        let name = if *event.metadata().level() == Level::WARN { "warning" } else { "error" };
        writeln!(writer, "{}", json_line(name, Value::Object(fields.0)))
    }
}

/// The message of a log line, and what else it has.
#[derive(Default)]
struct LogFields(Map<String, Value>);

impl Visit for LogFields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name().to_owned(), format!("{value:?}").into());
    }
}

/// Writes log lines above the progress bars instead of through them.
#[derive(Clone)]
struct AboveBars(MultiProgress);

impl Write for AboveBars {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.suspend(|| io::stderr().write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

impl<'a> MakeWriter<'a> for AboveBars {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_lines_carry_the_event_and_its_fields() {
        assert_eq!(json_line("epoch", json!({ "epoch": 3 })), r#"{"epoch":3,"event":"epoch"}"#);
    }
}
