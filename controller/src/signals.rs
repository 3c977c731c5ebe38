//! The signals of the process.
//!
//! Invariants: TERM, INT and QUIT end it, the first one with a drain and the second one at once;
//! HUP, USR1 and USR2, which reload or reopen something elsewhere, never end it.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that end the process.
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    quit: Signal,
}

/// Which one came.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Stop {
    Terminate,
    Interrupt,
    Quit,
}

impl Signals {
    /// Takes the signals over, for the rest of the process's life.
    pub(crate) fn new() -> io::Result<Self> {
        let signals = Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
        };
        let hangup = signal(SignalKind::hangup())?;
        let user = [
            signal(SignalKind::user_defined1())?,
            signal(SignalKind::user_defined2())?,
        ];
        tokio::spawn(shrug(hangup, user));
        Ok(signals)
    }

    /// Waits for the next one.
    pub(crate) async fn next(&mut self) -> Stop {
        tokio::select! {
            _ = self.terminate.recv() => Stop::Terminate,
            _ = self.interrupt.recv() => Stop::Interrupt,
            _ = self.quit.recv() => Stop::Quit,
        }
    }
}

/// Says why nothing happens.
async fn shrug(mut hangup: Signal, [mut first, mut second]: [Signal; 2]) {
    loop {
        tokio::select! {
            _ = hangup.recv() => tracing::info!(
                signal = "SIGHUP",
                "there is nothing to reload: objects and settings are followed live; flags need a restart"
            ),
            _ = first.recv() => tracing::info!(
                signal = "SIGUSR1",
                "there is nothing to reopen: the access log goes to standard output"
            ),
            _ = second.recv() => tracing::info!(
                signal = "SIGUSR2",
                "it is not used: to upgrade, start the new process and end this one with SIGTERM"
            ),
        }
    }
}

impl Stop {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Terminate => "SIGTERM",
            Self::Interrupt => "SIGINT",
            Self::Quit => "SIGQUIT",
        }
    }

    /// 128 and the number of the signal, as shells report it.
    pub(crate) fn exit_status(self) -> u8 {
        match self {
            Self::Terminate => 143,
            Self::Interrupt => 130,
            Self::Quit => 131,
        }
    }
}
