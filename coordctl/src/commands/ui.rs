//! All of it on a page in a browser, live.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use coord::ui::UiOptions;
use tokio::net::TcpListener;

use super::Session;
use crate::error::Failure;
use crate::show::plain;
use crate::stop::stopped;

/// All of it on a page in a browser, live: until Ctrl-C.
///
/// It only shows, unless --allow-edit says otherwise. Whoever reaches the address reads what is not
/// secret, so that it listens to this machine alone by default.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Where it listens; port 0 takes any that is free.
    #[arg(long, default_value = "127.0.0.1:7480")]
    listen: SocketAddr,
    /// Who has the token may set and roll back configuration, and end who holds or waits. The token
    /// is read from COORD_UI_TOKEN, or from the file that --token-file names.
    #[arg(long)]
    allow_edit: bool,
    /// Holds the token, in its first line.
    #[arg(long, requires = "allow_edit", value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// A name of fields whose values are not shown, besides those that are known as such.
    #[arg(long = "secret-field", value_name = "NAME")]
    secret_fields: Vec<String>,
    /// A name under which the page is asked for, besides localhost and addresses.
    #[arg(long = "host", value_name = "NAME")]
    hosts: Vec<String>,
}

impl Arguments {
    pub(super) async fn run(self, session: &mut Session<'_>) -> Result<(), Failure> {
        let mut options = UiOptions::default().with_hosts(&self.hosts);
        options.secret_fields.extend(self.secret_fields.iter().cloned());
        if self.allow_edit {
            options = options.with_edit(self.token()?)?;
        }
        let failed = |error| Failure::Io(format!("a listener at {}", self.listen), error);
        let listener = TcpListener::bind(self.listen).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        session.terminal.print(&format!("http://{address}/\n"));
        if !address.ip().is_loopback() {
            let warning = "whoever reaches this address reads the store\n";
            session.terminal.complain(&format!("{}: {warning}", plain(&address.to_string())));
        }
        let router = session.coord.ui(options).router();
        // Those who look are not waited for: they look until they go.
        tokio::select! {
            served = axum::serve(listener, router) => served.map_err(failed),
            () = stopped() => Ok(()),
        }
    }

    fn token(&self) -> Result<String, Failure> {
        if let Some(path) = &self.token_file {
            let name = path.display().to_string();
            let text = std::fs::read_to_string(path).map_err(|error| Failure::Io(name, error))?;
            return Ok(text.lines().next().unwrap_or_default().trim().to_owned());
        }
        let unset =
            || Failure::Usage("--allow-edit needs a token in COORD_UI_TOKEN, or --token-file".to_owned());
        std::env::var("COORD_UI_TOKEN").map_err(|_| unset())
    }
}
