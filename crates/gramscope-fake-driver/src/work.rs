//! What streams are told, and do when they come to it.

use std::ffi::c_void;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use crate::context::{self, Context};
use crate::function::Launch;
use crate::memory;
use crate::queue::Point;
use crate::status::ILLEGAL_ADDRESS;

/// A stream's work. Who makes it promises that its ranges are there, and that the host's may be read and written, until it is
/// done.
pub(crate) enum Work {
    Launch(Launch),
    Host(HostWork),
    /// Copies, from and to wherever it may be.
    Copy {
        to: usize,
        from: usize,
        bytes: usize,
    },
    /// Sets every byte.
    Set {
        to: usize,
        value: u8,
        bytes: usize,
    },
    /// Gives device memory back.
    Free {
        address: usize,
    },
    /// Waits for what another stream was told.
    Wait(Point),
    /// Writes down when the stream comes to it.
    Record(Arc<OnceLock<Instant>>),
}

/// A function of the host's, and what it is given.
#[derive(Clone, Copy)]
pub(crate) struct HostWork {
    pub(crate) function: unsafe extern "C" fn(*mut c_void),
    pub(crate) data: *mut c_void,
}

// SAFETY: who gives it to the driver lets it be called from any thread.
unsafe impl Send for HostWork {}
// SAFETY: the same.
unsafe impl Sync for HostWork {}

impl Work {
    /// Does it. In a context that a kernel has broken nothing happens any more, but that memory is given back, events are reached
    /// and waits end.
    pub(crate) fn run(&self, context: Context) {
        let is_usable = context::usable(context).is_ok();
        match *self {
            Self::Free { address } => free(address, context),
            Self::Wait(ref point) => point.reach(),
            // A time is written once: nobody else has this event's.
            Self::Record(ref at) => drop(at.set(Instant::now())),
            _ if !is_usable => (),
            Self::Launch(ref launch) => launch.run(),
            // SAFETY: whoever gave it to the driver lets it be called when the stream comes to it, and whenever a graph does.
            Self::Host(HostWork { function, data }) => unsafe { function(data) },
            // SAFETY: by the promise of whoever made it. Device memory is not taken back while anything that waits uses it.
            Self::Copy { to, from, bytes } => unsafe { std::ptr::copy(from as *const u8, to as *mut u8, bytes) },
            // SAFETY: the same.
            Self::Set { to, value, bytes } => unsafe { std::ptr::write_bytes(to as *mut u8, value, bytes) },
        }
    }

    /// Whether it would read or write a range.
    pub(crate) fn uses(&self, address: usize, bytes: usize) -> bool {
        let meets = |start: usize, length: usize| start < address + bytes && address < start + length;
        match *self {
            Self::Launch(ref launch) => launch.addresses().any(|address| meets(address, 1)),
            Self::Copy { to, from, bytes } => meets(to, bytes) || meets(from, bytes),
            Self::Set { to, bytes, .. } => meets(to, bytes),
            Self::Host(_) | Self::Free { .. } | Self::Wait(_) | Self::Record(_) => false,
        }
    }
}

/// Takes back what the program has given back before.
fn free(address: usize, context: Context) {
    if let Err(wrong) = memory::take_back(address) {
        eprintln!("fake driver: {wrong}");
        context::break_with(context, ILLEGAL_ADDRESS);
    }
}
