//! What SIGINT and SIGTERM do: the first lets a command that can go on later finish its step and keep what it has, or clear away what
//! is half written, and ends every other command; another one, a moment later, ends the process at once.

use std::io;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

/// What a shell adds to a signal's number for the exit code of what it ended.
const SIGNALLED: u8 = 128;

/// Signals so close together are one request: coreutils' `timeout` sends its signal to the process, and again to its group.
const ONE_REQUEST: Duration = Duration::from_millis(250);

/// The signal that asked this process to stop, if one has.
#[derive(Debug)]
pub(crate) struct Interrupt {
    requested: Arc<AtomicBool>,
    signal: Arc<AtomicUsize>,
}

impl Interrupt {
    /// Listens for both signals from now on; either ends the process.
    pub(crate) fn listen() -> io::Result<Self> {
        Self::with(&Arc::new(AtomicBool::new(true)))
    }

    /// Listens for both signals from now on; the first one only sets the flag. Where the command has not ended by then, `say` says after
    /// a moment what that means, and another signal ends the process.
    pub(crate) fn listen_gracefully(say: impl FnOnce() + Send + 'static) -> io::Result<Self> {
        let ends = Arc::default();
        let interrupt = Self::with(&ends)?;
        let requested = interrupt.requested.clone();
        let wait = move || {
            while !requested.load(Ordering::Relaxed) {
                thread::sleep(ONE_REQUEST / 4);
            }
            thread::sleep(ONE_REQUEST);
            ends.store(true, Ordering::Relaxed);
            say();
        };
        thread::Builder::new().name("signals".to_owned()).spawn(wait)?;
        Ok(interrupt)
    }

    /// Listens for both signals, which end the process where `ends` is set.
    fn with(ends: &Arc<AtomicBool>) -> io::Result<Self> {
        let interrupt = Self { requested: Arc::default(), signal: Arc::default() };
        // A file that grows beyond what the shell allows is then an error that says so, as a full disk is.
        #[cfg(unix)]
        flag::register(signal_hook::consts::SIGXFSZ, Arc::default())?;
        for (signal, code) in [(SIGINT, 2), (SIGTERM, 15)] {
            // The order counts: what a signal finds set is what the signal before it left.
            flag::register_conditional_shutdown(signal, i32::from(SIGNALLED + code), ends.clone())?;
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
