//! A browser without a window, told what to do by WebDriver.

use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::process::Process;
use crate::program;

/// How long it may take to start.
const START_WITHIN: Duration = Duration::from_secs(60);

/// Chromium and its ChromeDriver, which listens on a free port of 127.0.0.1. Both die when this is
/// dropped: the browser ends with the pipe to its driver.
#[derive(Debug)]
pub struct Chromium {
    process: Process,
    /// What both of them leave behind.
    _data: TempDir,
    url: String,
    browser: String,
}

impl Chromium {
    /// Starts the driver, and waits until it listens. Each session starts a browser of its own.
    ///
    /// # Panics
    ///
    /// When there is none to start, or it does not listen.
    pub fn start() -> Self {
        const SCRIPT: &str = "scripts/chromium.sh";
        let driver = program::find("CHROMEDRIVER", "chromium/bin/chromedriver", "chromedriver", SCRIPT);
        let browser = program::find("CHROMIUM", "chromium/bin/chromium", "chromium", SCRIPT);
        // A socket lies in it, whose path must not be long.
        let data = TempDir::with_prefix("coord-ui-").expect("a temporary directory");
        let mut temporary = std::ffi::OsString::from("TMPDIR=");
        temporary.push(data.path());
        let (tell, told) = channel();
        let command = ["env".into(), temporary, driver.into_os_string(), "--port=0".into()];
        let process = Process::start(command, data.path(), move |line| {
            let started = line.strip_prefix("ChromeDriver was started successfully on port ");
            if let Some(port) = started.and_then(|port| port.trim_end_matches('.').parse::<u16>().ok()) {
                let _ = tell.send(port);
            }
        });
        let process = process.expect("chromedriver can be run");
        let deadline = Instant::now() + START_WITHIN;
        let port = told.recv_timeout(deadline.saturating_duration_since(Instant::now()));
        let port = port.unwrap_or_else(|_| panic!("chromedriver does not start:\n{}", process.log()));
        Chromium {
            process,
            _data: data,
            url: format!("http://127.0.0.1:{port}"),
            browser: browser.to_string_lossy().into_owned(),
        }
    }

    /// Where the driver listens.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// What a session asks for: this browser, without a window.
    pub fn capabilities(&self) -> serde_json::Map<String, Value> {
        let args = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--remote-debugging-pipe",
        ];
        let options = json!({ "binary": self.browser, "args": args });
        let logs = json!({ "browser": "ALL" });
        [("goog:chromeOptions".to_owned(), options), ("goog:loggingPrefs".to_owned(), logs)]
            .into_iter()
            .collect()
    }

    /// The last lines of the driver's log.
    pub fn log(&self) -> String {
        self.process.log()
    }
}
