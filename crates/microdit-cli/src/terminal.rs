//! The only place that prints: text from outside is shown, its control characters never obeyed.
//!
//! Nothing here fails or panics when the reader of the output is gone: a run outlives its terminal.

use crate::{Cli, examples::command, signal::Stopped};
use clap::{FromArgMatches, builder::Styles};
use microdit::printable;
use miette::{Diagnostic, MietteHandlerOpts, ReportHandler};
use std::{
    error::Error,
    fmt,
    io::{IsTerminal, Write},
    process::ExitCode,
};
use textwrap::{WordSeparator, WordSplitter};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::{
    EnvFilter,
    fmt::{FmtContext, FormatEvent, FormatFields, format::Writer},
    registry::LookupSpan,
};

/// A line on the standard output.
macro_rules! say {
    ($($text:tt)*) => {
        $crate::terminal::print(format_args!($($text)*))
    };
}
pub(crate) use say;

/// What [`say!`] does.
pub(crate) fn print(text: fmt::Arguments<'_>) {
    let text = text.to_string();
    let _ = writeln!(std::io::stdout(), "{}", printable::text(&text));
}

/// A line on the standard error.
pub(crate) fn complain(text: &str) {
    let _ = writeln!(std::io::stderr(), "{}", printable::text(text));
}

/// Sends warnings and errors through this module.
pub(crate) fn set_up() {
    let colors = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    tracing_subscriber::fmt()
        .with_env_filter(
            EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn")),
        )
        .with_writer(std::io::stderr)
        .with_ansi(colors)
        // It would panic where the standard error is closed.
        .log_internal_errors(false)
        .event_format(Lines)
        .init();
    // Fails only if a handler is there already, and this is the first.
    let _ = miette::set_hook(Box::new(|_| Box::new(Reports)));
}

/// The command line; or the exit status, after the help that was asked for, or what is wrong with the arguments.
pub(crate) fn parse() -> Result<Cli, ExitCode> {
    let parsed = command()
        .try_get_matches()
        .and_then(|matches| Cli::from_arg_matches(&matches));
    let error = match parsed {
        Ok(cli) => return Ok(cli),
        Err(error) => error,
    };
    if !error.use_stderr() {
        let _ = error.print();
        return Err(ExitCode::SUCCESS);
    }
    // Without clap's own colors, every control character in the message comes from an argument.
    let plain = command().styles(Styles::plain()).try_get_matches();
    let message = plain.err().unwrap_or(error).render().ansi().to_string();
    complain(message.trim_end());
    Err(ExitCode::from(2))
}

/// Says why a command failed or was stopped, and returns its exit status.
pub(crate) fn report(report: &miette::Report) -> ExitCode {
    if let Some(stopped) = report.downcast_ref::<Stopped>() {
        complain(&stopped.to_string());
        return ExitCode::from(Stopped::STATUS);
    }
    // The handler escapes what it shows; the colors are its own.
    let _ = writeln!(std::io::stderr(), "Error: {report:?}");
    ExitCode::FAILURE
}

/// Warnings, a line each.
struct Lines;

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut text = String::new();
        context.format_fields(Writer::new(&mut text), event)?;
        let level = *event.metadata().level();
        if writer.has_ansi_escapes() {
            let color = match level {
                Level::ERROR => 31,
                Level::WARN => 33,
                Level::INFO => 32,
                _ => 34,
            };
            write!(writer, "\x1b[{color}m{level:>5}\x1b[0m ")?;
        } else {
            write!(writer, "{level:>5} ")?;
        }
        writeln!(writer, "{}", printable::line(&text))
    }
}

/// Shows errors as miette does, escaped.
struct Reports;

impl ReportHandler for Reports {
    fn debug(&self, error: &dyn Diagnostic, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = Shown {
            message: printable::text(&error.to_string()).into_owned(),
            help: error
                .help()
                .map(|help| printable::text(&help.to_string()).into_owned()),
            cause: error.source().map(|cause| Box::new(Shown::of(cause))),
        };
        // Lines end between words alone: paths and commands can be copied.
        MietteHandlerOpts::new()
            .break_words(false)
            .word_separator(WordSeparator::AsciiSpace)
            .word_splitter(WordSplitter::NoHyphenation)
            .build()
            .debug(&shown, f)
    }
}

/// An error with its causes, as it may be printed.
#[derive(Debug)]
struct Shown {
    message: String,
    help: Option<String>,
    cause: Option<Box<Shown>>,
}

impl Shown {
    fn of(error: &dyn Error) -> Self {
        Self {
            message: printable::text(&error.to_string()).into_owned(),
            help: None,
            cause: error.source().map(|cause| Box::new(Self::of(cause))),
        }
    }
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for Shown {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.cause.as_deref().map(|cause| cause as _)
    }
}

impl Diagnostic for Shown {
    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.help.as_deref().map(|help| Box::new(help) as _)
    }
}
