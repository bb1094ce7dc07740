//! The demo: a real control plane, three real web servers outside of it, and the operator between them.
//!
//! `make demo` builds and runs it. It checks each thing that it shows and ends with an error otherwise. On a
//! terminal it leaves everything running at the end, to look around, until Enter or Ctrl-C; without one it
//! ends by itself. Whichever way it ends, nothing of it stays behind.

mod acts;
mod narrator;
mod operator;
mod web_server;

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use testbed::cluster::binaries;

use crate::acts::Stage;
use crate::narrator::Narrator;

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\ndemo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<()> {
    // What is missing is said before anything is started.
    binaries::dir()?;
    web_server::program()?;
    // Files are named from the root of the repository.
    std::env::set_current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))?;
    let begun = Instant::now();
    let mut narrator = Narrator::new();
    narrator.say(
        "This demo takes about a minute. Everything in it is real: the control plane, the web servers, the \
         packets. All of it lives in network namespaces of its own and goes away at the end.",
    );
    let mut stage = Stage::set_up(&mut narrator).await?;
    if let Err(error) = stage.play(&mut narrator).await {
        eprintln!("\nThe operator wrote last:\n{}", stage.operator.log_tail(20));
        return Err(error);
    }
    let page = stage.open_status_page(&mut narrator).await?;
    narrator.checked(&format!("the demo went as announced, in {} s", begun.elapsed().as_secs()));
    if std::io::stdin().is_terminal() && std::io::stdout().is_terminal() {
        stage.invite(&mut narrator, &page);
        until_dismissed().await?;
    }
    Ok(())
}

/// Enter, Ctrl-C or SIGTERM.
async fn until_dismissed() -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    // A thread of its own: a read from a terminal cannot be cancelled, and the runtime would wait for it.
    let (entered, enter) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let _ = std::io::stdin().read_line(&mut String::new());
        let _ = entered.send(());
    });
    tokio::select! {
        _ = enter => {}
        result = tokio::signal::ctrl_c() => result?,
        _ = terminate.recv() => {}
    }
    Ok(())
}
