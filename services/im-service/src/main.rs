//! The program: an instance of the service, or a transcript that is sent to one.
#![allow(clippy::print_stdout, reason = "its answer")]

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use coord_service::Boot;
use im_service::replay::replay;
use im_service::run::{Instance, Places};
use im_service::{SERVICE, transcript};

/// A messenger's backend on coord. Without options it runs until it is told to end, and needs
/// nothing but itself.
#[derive(Debug, Parser)]
struct Arguments {
    /// Where to answer; port 0 takes any that is free
    #[arg(long, env = "IM_LISTEN", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// Send this transcript to an instance of its own, judge what comes of it, and end
    #[arg(long, value_name = "FILE")]
    replay: Option<PathBuf>,
    /// Send it to the instances that answer there instead
    #[arg(long, value_name = "ADDRESS", requires = "replay")]
    at: Vec<SocketAddr>,
    #[command(flatten)]
    places: Places,
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    // What tests ask for.
    #[cfg(feature = "failpoints")]
    let _asked_for = fail::FailScenario::setup();
    let Arguments { listen, replay: file, at, mut places } = Arguments::parse();
    let lines = file.as_deref().map(transcript::read).transpose()?;
    if let Some(lines) = lines.as_ref().filter(|_| !at.is_empty()) {
        let summary = replay(lines, &at).await?;
        println!("{summary}");
        return Ok(if summary.wrong.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }

    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    if lines.is_some() {
        places.admin.get_or_insert(any);
    }
    let listen = if lines.is_some() { any } else { listen };
    let instance = Instance::start(Boot::start(SERVICE)?.with_versions_in_use(), &places, listen).await?;
    println!("answers at http://{}", instance.address());
    if let Some(Ok(admin)) = instance.app().admin().map(|admin| admin.current()) {
        println!("operators look at http://{}", admin.address());
    }
    let Some(lines) = lines else {
        let report = instance.app().run_until_signal().await?;
        let clean = report.is_some_and(|report| report.is_clean());
        return Ok(if clean { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    };
    instance.app().health().wait_for(|state| state.is_serving()).await;
    let summary = replay(&lines, &[instance.address()]).await?;
    let report = instance.app().end().await;
    println!("{summary}");
    Ok(if summary.wrong.is_empty() && report.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
