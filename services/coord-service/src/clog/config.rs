//! What can be changed of the logs while a program runs.

use std::collections::BTreeMap;
use std::io::{IsTerminal, stderr, stdout};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use tracing::Metadata;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;

use super::ClogError;

/// How many targets may have a level of their own.
const MAX_TARGETS: usize = 256;

/// What is logged, how, and where: the document of the component `clog`.
///
/// ```
/// # use coord_service::clog::LogConfig;
/// let config: LogConfig = serde_json::from_str(r#"{
///     "level": "info",
///     "targets": {"sqlx": "warn", "im_logic::send": "debug"},
///     "format": "json",
///     "output": "stdout"
/// }"#).unwrap();
/// config.check().unwrap();
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct LogConfig {
    /// What is logged: `off`, `error`, `warn`, `info`, `debug` or `trace`. Default: `info`.
    pub level: String,
    /// The levels of targets, which are paths of modules as `sqlx` or `im_logic::send`; of several
    /// that fit, the longest counts. At most 256. Default: none.
    pub targets: BTreeMap<String, String>,
    /// `text` for people (also: `console`), `json`, one object a line, or `auto`: text where the
    /// output is a terminal, and JSON elsewhere. Default: `auto`.
    pub format: String,
    /// `stdout`, `stderr`, or the path of a file, which is appended to. Default: `stdout`.
    pub output: String,
}

impl Default for LogConfig {
    fn default() -> Self {
        LogConfig {
            level: "info".to_owned(),
            targets: BTreeMap::new(),
            format: "auto".to_owned(),
            output: "stdout".to_owned(),
        }
    }
}

impl LogConfig {
    /// Sets the level.
    #[must_use]
    pub fn with_level(mut self, level: impl Into<String>) -> Self {
        self.level = level.into();
        self
    }

    /// Sets the level of a target.
    #[must_use]
    pub fn with_target(mut self, target: impl Into<String>, level: impl Into<String>) -> Self {
        self.targets.insert(target.into(), level.into());
        self
    }

    /// Sets the format.
    #[must_use]
    pub fn with_format(mut self, format: impl Into<String>) -> Self {
        self.format = format.into();
        self
    }

    /// Sets the output.
    #[must_use]
    pub fn with_output(mut self, output: impl Into<String>) -> Self {
        self.output = output.into();
        self
    }

    /// Whether every field has a value that it can have. Whether a file can be opened is only known
    /// when it is.
    ///
    /// # Errors
    ///
    /// [`ClogError::Config`], which names the field, what it must be, and what it is.
    pub fn check(&self) -> Result<(), ClogError> {
        self.parse().map(drop)
    }

    pub(super) fn parse(&self) -> Result<Parsed, ClogError> {
        if self.targets.len() > MAX_TARGETS {
            return Err(wrong(
                "targets",
                format!("there are {} of them, and may be 256", self.targets.len()),
            ));
        }
        let mut filter = Filter {
            targets: Targets::new().with_default(level("level", &self.level)?),
            most: level("level", &self.level)?,
        };
        for (target, name) in &self.targets {
            let field = format!("targets.{target}");
            let level = level(&field, name)?;
            if target.is_empty() || target.contains(|c: char| c.is_whitespace() || c.is_control() || c == '=')
            {
                return Err(wrong(&field, "it must be the path of a module".to_owned()));
            }
            filter.targets = filter.targets.with_target(target.clone(), level);
            filter.most = filter.most.max(level);
        }
        let output = match self.output.as_str() {
            "stdout" => LogOutput::Stdout,
            "stderr" => LogOutput::Stderr,
            "" => return Err(wrong("output", "it must be stdout, stderr or the path of a file".to_owned())),
            path if path.contains('\0') => {
                return Err(wrong("output", "a path has no zero byte".to_owned()));
            }
            path => LogOutput::File(PathBuf::from(path)),
        };
        let format = match self.format.as_str() {
            "text" | "console" => LogFormat::Text,
            "json" => LogFormat::Json,
            "auto" if output.is_terminal() => LogFormat::Text,
            "auto" => LogFormat::Json,
            other => return Err(wrong("format", format!("it must be text, json or auto, and is {other:?}"))),
        };
        Ok(Parsed { filter, format, output })
    }
}

fn wrong(field: &str, why: String) -> ClogError {
    ClogError::Config { field: field.to_owned(), why }
}

fn level(field: &str, name: &str) -> Result<LevelFilter, ClogError> {
    Ok(match name.to_ascii_lowercase().as_str() {
        "off" => LevelFilter::OFF,
        "error" => LevelFilter::ERROR,
        "warn" => LevelFilter::WARN,
        "info" => LevelFilter::INFO,
        "debug" => LevelFilter::DEBUG,
        "trace" => LevelFilter::TRACE,
        _ => {
            let why = format!("it must be off, error, warn, info, debug or trace, and is {name:?}");
            return Err(wrong(field, why));
        }
    })
}

/// A configuration that was understood.
#[derive(Debug)]
pub(super) struct Parsed {
    pub(super) filter: Filter,
    pub(super) format: LogFormat,
    pub(super) output: LogOutput,
}

/// The form of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LogFormat {
    Text,
    Json,
}

/// Where lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum LogOutput {
    Stdout,
    Stderr,
    File(PathBuf),
}

impl LogOutput {
    /// Whether people look at it.
    fn is_terminal(&self) -> bool {
        match self {
            LogOutput::Stdout => stdout().is_terminal(),
            LogOutput::Stderr => stderr().is_terminal(),
            LogOutput::File(_) => false,
        }
    }
}

/// What is logged.
#[derive(Clone, Debug)]
pub(super) struct Filter {
    targets: Targets,
    /// The most that any target logs.
    most: LevelFilter,
}

impl Filter {
    /// Whether an event is logged, or a span kept.
    ///
    /// Spans of INFO and above are kept whatever the level, unless that is `off`: they say what the
    /// events in them belong to, also those that are logged after the level was changed.
    pub(super) fn enables(&self, metadata: &Metadata<'_>) -> bool {
        let level = match metadata.is_span() && *metadata.level() <= tracing::Level::INFO {
            true => &tracing::Level::ERROR,
            false => metadata.level(),
        };
        self.targets.would_enable(metadata.target(), level)
    }

    /// The most that is let through for anything.
    pub(super) fn most(&self) -> LevelFilter {
        match self.most {
            LevelFilter::OFF => LevelFilter::OFF,
            most => most.max(LevelFilter::INFO),
        }
    }

    /// The most that an event may be.
    pub(super) fn most_of_events(&self) -> LevelFilter {
        self.most
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_that_is_wrong_names_its_field() {
        for (config, field) in [
            (LogConfig::default().with_level("lout"), "level: "),
            (LogConfig::default().with_level(""), "level: "),
            (LogConfig::default().with_target("sqlx", "loud"), "targets.sqlx: "),
            (LogConfig::default().with_target("", "info"), "targets.: "),
            (LogConfig::default().with_target("a=b", "info"), "targets.a=b: "),
            (LogConfig::default().with_format("xml"), "format: "),
            (LogConfig::default().with_output(""), "output: "),
            (LogConfig::default().with_output("a\0b"), "output: "),
        ] {
            let error = config.check().unwrap_err().to_string();
            assert!(error.starts_with(field), "{error}");
        }
        let many =
            (0..257).fold(LogConfig::default(), |config, n| config.with_target(format!("t{n}"), "info"));
        assert!(many.check().unwrap_err().to_string().starts_with("targets: "));
    }

    #[test]
    fn a_document_may_leave_out_everything_and_add_nothing() {
        assert_eq!(serde_json::from_str::<LogConfig>("{}").unwrap(), LogConfig::default());
        let error = serde_json::from_str::<LogConfig>("{\"levels\": \"info\"}").unwrap_err().to_string();
        assert!(error.contains("levels") && error.contains("line 1"), "{error}");
        let config = LogConfig::default().with_target("sqlx", "warn").with_format("json");
        let text = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<LogConfig>(&text).unwrap(), config);
        assert!(LogConfig::default().with_format("console").with_level("WARN").check().is_ok());
    }
}
