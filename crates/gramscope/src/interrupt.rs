//! What SIGINT and SIGTERM do: the first lets a command that can go on later finish its step and write a checkpoint, and
//! ends every other command; the second ends the process at once.

use std::io;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

/// What a shell adds to a signal's number for the exit code of what it ended.
const SIGNALLED: u8 = 128;

/// The signal that asked this process to stop, if one has.
#[derive(Debug, Default)]
pub(crate) struct Interrupt {
    requested: Arc<AtomicBool>,
    signal: Arc<AtomicUsize>,
}

impl Interrupt {
    /// Listens for both signals from now on; with `gracefully`, the first one only sets the flag.
    pub(crate) fn listen(gracefully: bool) -> io::Result<Self> {
        let interrupt = Self::default();
        // A file that grows beyond what the shell allows is then an error that says so, as a full disk is.
        #[cfg(unix)]
        flag::register(signal_hook::consts::SIGXFSZ, Arc::default())?;
        for (signal, code) in [(SIGINT, 2), (SIGTERM, 15)] {
            // The order counts: what a signal finds set is what the signal before it left.
            let ends = if gracefully { interrupt.requested.clone() } else { Arc::new(AtomicBool::new(true)) };
            flag::register_conditional_shutdown(signal, i32::from(SIGNALLED + code), ends)?;
            flag::register_usize(signal, interrupt.signal.clone(), usize::from(code))?;
            flag::register(signal, interrupt.requested.clone())?;
        }
        Ok(interrupt)
    }

    /// Set once the command is to stop.
    pub(crate) fn requested(&self) -> &AtomicBool {
        &self.requested
    }

    /// The exit code of a command that was stopped by a signal; none if there was no signal.
    pub(crate) fn exit_code(&self) -> Option<ExitCode> {
        let signal = u8::try_from(self.signal.load(Ordering::Relaxed)).ok()?;
        (signal > 0).then(|| ExitCode::from(SIGNALLED + signal))
    }
}
