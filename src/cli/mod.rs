//! The command line of `mirrorfs`: one file a subcommand, each with its `Args` and a `run`.
//!
//! stdout is data, stderr is for people. An error is one line that says what failed and why, and
//! one that says what to do; [`exit`] says what its number means.

pub mod client;
pub mod compare;
pub mod create;
pub mod examine;
pub mod exit;
pub mod fail;
pub mod mount;
pub mod re_add;
pub mod replace;
pub mod resolve;
pub mod size;
pub mod status;
pub mod time;
pub mod wait;

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use crate::daemon::Start;
use exit::{Exit, Failure};

#[derive(Parser)]
#[command(name = "mirrorfs", version, about = "Mirror every file over two directories", max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Create(create::Args),
    Mount(mount::Args),
    Status(status::Args),
    Fail(fail::Args),
    ReAdd(re_add::Args),
    Replace(replace::Args),
    Resolve(resolve::Args),
    Wait(wait::Args),
    Examine(examine::Args),
    Compare(compare::Args),
}

/// Runs a command line; `start` opens the mirror that a mount serves.
pub fn main(arguments: impl IntoIterator<Item = OsString>, start: Start) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // Nothing is left to do when the terminal is gone.
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage } else { Exit::Success }.into();
        }
    };
    let outcome = match cli.command {
        Command::Compare(args) => compare::run(&args),
        Command::Create(args) => create::run(&args),
        Command::Examine(args) => examine::run(&args),
        Command::Fail(args) => fail::run(&args),
        Command::Mount(args) => mount::run(args, start),
        Command::ReAdd(args) => re_add::run(&args),
        Command::Replace(args) => replace::run(&args),
        Command::Resolve(args) => resolve::run(&args),
        Command::Status(args) => status::run(&args),
        Command::Wait(args) => wait::run(&args),
    };
    conclude(outcome)
}

/// The command line as clap knows it, for the man page's check.
pub fn command() -> clap::Command {
    Cli::command()
}

/// Prints what was asked for.
fn print(text: &str) -> crate::error::Result<()> {
    let mut out = std::io::stdout().lock();
    printed(out.write_all(text.as_bytes()).and_then(|()| out.flush()))
}

/// What became of printing. That nobody reads any more, as behind `| head`, is no failure.
fn printed(result: std::io::Result<()>) -> crate::error::Result<()> {
    match result {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        result => result.map_err(|cause| {
            crate::error::Error::new("cannot write to standard output")
                .because(cause)
                .hint("What was printed so far is not all.")
        }),
    }
}

fn conclude(outcome: Result<Exit, Failure>) -> ExitCode {
    match outcome {
        Ok(exit) => exit.into(),
        Err(failure) => {
            eprintln!("mirrorfs: {failure}");
            failure.exit.into()
        }
    }
}
