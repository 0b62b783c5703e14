//! Runs the CUDA kernels of kernels/ on the host: their own source, compiled by the host's C++ compiler against an emulation
//! of thread blocks. For tests alone: nothing that users build depends on this crate.
//!
//! ```
//! use gramscope_emulation::{Buffer, Launch};
//!
//! let input = Buffer::new(&[1.0f32; 256]);
//! let mut output = Buffer::<f32>::poisoned(256);
//! let launch = Launch::new("gs_faulty_correct").blocks([1, 1, 1], 256, 1024);
//! launch.output(&mut output).input(&input).run().unwrap();
//! assert_eq!(output.values(), [1.0; 256]);
//! ```
//!
//! What is emulated: blocks one after the other in shuffled order; threads that run, in shuffled order, until a barrier or a
//! warp-wide operation holds them; shared memory that starts as NaN; asynchronous copies that arrive when they are waited
//! for and leave NaN until then; tensor cores that align and truncate. What is not: the order in which memory operations of
//! concurrent blocks become visible, and time.
#![allow(unsafe_code)]

mod buffer;

use std::ffi::{CStr, CString, c_char, c_void};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

pub use buffer::{Buffer, Plain};

unsafe extern "C" {
    fn gs_emulation_launch(
        name: *const c_char,
        geometry: *const u32,
        shared_bytes: usize,
        seed: u64,
        arguments: *const *const c_void,
        sizes: *const usize,
        count: usize,
        message: *mut c_char,
        length: usize,
    ) -> i32;
    fn gs_emulation_entry(name: *const c_char) -> *const RawEntry;
}

/// An entry point as entries.h has it.
#[repr(C)]
struct RawEntry {
    name: *const c_char,
    family: *const c_char,
    threads: u32,
    _call: *const c_void,
    sizes: *const usize,
    count: usize,
}

/// An entry point, as a driver has them.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// Its name,
    pub name: &'static CStr,
    /// that of the file it stands in,
    pub family: &'static CStr,
    /// the most threads that a block of it may have,
    pub threads: u32,
    /// and the bytes of each of its arguments.
    pub argument_sizes: &'static [usize],
}

/// The kernel of this name, where there is one.
pub fn entry(name: &CStr) -> Option<Entry> {
    // SAFETY: the name is terminated; what comes back is null or leads to a constant of this program.
    let raw = unsafe { gs_emulation_entry(name.as_ptr()).as_ref() }?;
    // SAFETY: both are terminated constants of this program.
    let [name, family] = [raw.name, raw.family].map(|text| unsafe { CStr::from_ptr(text) });
    let argument_sizes = match raw.count {
        0 => &[][..],
        // SAFETY: the table of entries holds so many sizes there, constants of this program.
        count => unsafe { std::slice::from_raw_parts(raw.sizes, count) },
    };
    Some(Entry { name, family, threads: raw.threads, argument_sizes })
}

/// Launches of [`launch`] so far, which the order of blocks and threads is drawn from: the same work done again meets another.
static LAUNCHES: AtomicU64 = AtomicU64::new(0);

/// Runs a kernel as cuLaunchKernel would: `geometry` is grid x, y, z, block x, y, z, and `arguments` leads to as many
/// pointers as the kernel has arguments, one to each. Blocks and threads run in another order every time.
///
/// # Errors
/// As [`Launch::run`].
///
/// # Safety
/// Each argument has the type that the kernel expects there, and what it points to lives and may be read and written as
/// the kernel does.
pub unsafe fn launch(
    name: &CStr,
    geometry: [u32; 6],
    shared_bytes: usize,
    arguments: *const *const c_void,
) -> Result<(), Error> {
    let mut message = [0u8; 256];
    // SAFETY: the name is terminated, `geometry` has six numbers, `message` its length; the arguments are as the caller has
    // promised, and their sizes are not looked at.
    let failed = unsafe {
        gs_emulation_launch(
            name.as_ptr(),
            geometry.as_ptr(),
            shared_bytes,
            LAUNCHES.fetch_add(1, Ordering::Relaxed),
            arguments,
            std::ptr::null(),
            0,
            message.as_mut_ptr().cast(),
            message.len(),
        )
    };
    if failed == 0 { Ok(()) } else { Err(Error::from_message(&name.to_string_lossy(), &message)) }
}

/// Why a launch failed: a wrong name or argument, a deadlock, divergent lanes, writes out of bounds, ...
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error(String);

impl Error {
    /// What the emulation says of `entry`, up to the first zero.
    fn from_message(entry: &str, message: &[u8]) -> Self {
        let text = message.split(|&byte| byte == 0).next().unwrap_or(message);
        Self(format!("{entry}: {}", String::from_utf8_lossy(text)))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for Error {}

/// A launch of a kernel, being put together. Arguments are added in the kernel's order.
pub struct Launch<'a> {
    entry: &'a str,
    geometry: [u32; 6],
    shared_bytes: usize,
    seed: u64,
    /// An argument's bytes, in places aligned for any argument.
    arguments: Vec<(Vec<u128>, usize)>,
    buffers: Vec<&'a dyn buffer::Guarded>,
}

impl<'a> Launch<'a> {
    /// A launch of `entry`: one block of one warp unless told otherwise.
    pub fn new(entry: &'a str) -> Self {
        let geometry = [1, 1, 1, 32, 1, 1];
        Self { entry, geometry, shared_bytes: 0, seed: 0, arguments: Vec::new(), buffers: Vec::new() }
    }

    /// A grid of blocks of `threads` threads with `shared_bytes` of dynamic shared memory each.
    pub fn blocks(mut self, grid: [u32; 3], threads: u32, shared_bytes: usize) -> Self {
        self.geometry = [grid[0], grid[1], grid[2], threads, 1, 1];
        self.shared_bytes = shared_bytes;
        self
    }

    /// The same, from a plan.
    pub fn geometry(self, plan: gramscope_cuda::plan::Geometry) -> Self {
        self.blocks(plan.grid, plan.block[0], plan.shared_bytes)
    }

    /// What the order of blocks and threads is drawn from.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// A pointer to values that the kernel may write.
    pub fn output<T: Plain>(mut self, buffer: &'a mut Buffer<T>) -> Self {
        self.push(buffer.pointer_mut());
        self.buffers.push(buffer);
        self
    }

    /// A pointer to values that the kernel only reads.
    pub fn input<T: Plain>(mut self, buffer: &'a Buffer<T>) -> Self {
        self.push(buffer.pointer());
        self.buffers.push(buffer);
        self
    }

    /// Values that the kernel only reads, whose address is in another argument.
    pub fn reading<T: Plain>(mut self, buffer: &'a Buffer<T>) -> Self {
        self.buffers.push(buffer);
        self
    }

    /// A null pointer.
    pub fn null(mut self) -> Self {
        self.push(std::ptr::null::<c_void>());
        self
    }

    /// An argument by value.
    pub fn value<T: Plain>(mut self, value: T) -> Self {
        self.push(value);
        self
    }

    fn push<T: Copy>(&mut self, value: T) {
        let mut place = vec![0u128; size_of::<T>().div_ceil(size_of::<u128>())];
        assert!(align_of::<T>() <= align_of::<u128>());
        // SAFETY: the place is at least as large and as aligned as T, and T is Copy: plain bytes that own nothing.
        unsafe { place.as_mut_ptr().cast::<T>().write(value) };
        self.arguments.push((place, size_of::<T>()));
    }

    /// Runs it.
    ///
    /// # Errors
    /// No such entry; arguments of the wrong number or size; whatever the emulation notices while it runs; a write next to
    /// one of the buffers.
    pub fn run(self) -> Result<(), Error> {
        let name = CString::new(self.entry).map_err(|_| Error("a name with a zero byte".into()))?;
        let pointers: Vec<*const c_void> = self.arguments.iter().map(|(place, _)| place.as_ptr().cast()).collect();
        let sizes: Vec<usize> = self.arguments.iter().map(|&(_, size)| size).collect();
        let mut message = [0u8; 256];
        // SAFETY: the name is terminated; `geometry` has six numbers, `pointers` and `sizes` one an argument, `message` its
        // length, as the function's comment asks. Each pointer leads to an argument whose size the function checks against
        // the kernel's own. Buffers that kernels write are borrowed mutably for as long as `self` lives.
        let failed = unsafe {
            gs_emulation_launch(
                name.as_ptr(),
                self.geometry.as_ptr(),
                self.shared_bytes,
                self.seed,
                pointers.as_ptr(),
                sizes.as_ptr(),
                sizes.len(),
                message.as_mut_ptr().cast(),
                message.len(),
            )
        };
        if failed != 0 {
            return Err(Error::from_message(self.entry, &message));
        }
        match self.buffers.iter().position(|buffer| !buffer.margins_intact()) {
            Some(index) => Err(Error(format!("{}: a write next to buffer {index}", self.entry))),
            None => Ok(()),
        }
    }
}
