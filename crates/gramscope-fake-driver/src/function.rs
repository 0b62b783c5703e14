//! Modules, the kernels that are found in them, and what a launch of one may ask for.

use std::ffi::{CStr, c_int, c_uint, c_void};
use std::sync::LazyLock;

use gramscope_emulation::Entry;

use crate::context::{self, Context};
use crate::machine::machine;
use crate::memory::{self, PieceId};
use crate::status::{Answer, ILLEGAL_ADDRESS, INVALID_HANDLE, INVALID_VALUE, LAUNCH_FAILED, NOT_FOUND};
use crate::stream;
use crate::table::Table;
use crate::work::Work;

/// The most blocks along x, y and z, and threads of a block along them, of every device since compute capability 3.0.
const MOST_BLOCKS: [u32; 3] = [(1 << 31) - 1, 65_535, 65_535];
const MOST_THREADS: [u32; 3] = [1024, 1024, 64];
/// The most shared memory that a block has without asking for more, in bytes.
const PLAIN_SHARED_BYTES: usize = 48 << 10;

/// Attributes of kernels: the most threads of a block, shared memory of their own, and dynamic shared memory that may be asked for.
const THREADS_ATTRIBUTE: c_uint = 0;
const OWN_SHARED_ATTRIBUTE: c_uint = 1;
const SHARED_ATTRIBUTE: c_uint = 8;

/// A loaded image. What its bytes hold is nvcc's secret, so that all kernels are looked for among those that are emulated; but
/// there is one image a family.
struct Module {
    context: Context,
    /// The family of the first kernel that was asked for.
    family: Option<&'static CStr>,
    /// The array of constants, and how many bytes it has.
    constants: (usize, usize),
}

/// A kernel of a module.
#[derive(Clone, Copy)]
struct Function {
    module: usize,
    context: Context,
    kernel: Entry,
    /// Dynamic shared memory that may be asked for, in bytes.
    shared_bytes: usize,
}

static MODULES: Table<Module> = Table::new();
static FUNCTIONS: Table<Function> = Table::new();

/// What is launched, and how.
pub(crate) struct Launch {
    module: usize,
    kernel: Entry,
    /// Grid x, y, z, block x, y, z.
    geometry: [u32; 6],
    shared_bytes: usize,
    pub(crate) context: Context,
    /// Each in a place aligned for any.
    arguments: Vec<Vec<u128>>,
    /// What of them points into a device's memory, and the piece that it pointed into.
    pointers: Vec<(usize, PieceId)>,
}

/// The numbers of kernels/common/constants.cuh in their order, as the kernels here were compiled with them.
fn constants() -> &'static [u32] {
    static CONSTANTS: LazyLock<Vec<u32>> = LazyLock::new(|| {
        let source = include_str!("../../../kernels/common/constants.cuh");
        let value =
            |line: &str| line.strip_prefix("constexpr int ")?.split_once(" = ")?.1.strip_suffix(';')?.parse().ok();
        source.lines().filter_map(value).collect()
    });
    &CONSTANTS
}

/// A new module's handle.
pub(crate) fn load() -> Answer<usize> {
    let (context, values) = (context::here()?, constants());
    let constants = (memory::keep(values, context)?, size_of_val(values));
    Ok(MODULES.add(Module { context, family: None, constants }))
}

/// Forgets a module; its kernels and its constants are no more. One whose kernels have yet to run breaks its context.
pub(crate) fn unload(module: usize) -> Answer {
    let Module { context, constants, .. } = MODULES.remove(module)?;
    if stream::any_work(|work| matches!(work, Work::Launch(launch) if launch.module == module)) {
        eprintln!("fake driver: a module is unloaded before its kernels have run");
        context::break_with(context, ILLEGAL_ADDRESS);
    }
    memory::free(constants.0, memory::Kind::Module(context))
}

/// Where a module's array of constants is, and how many bytes it has.
pub(crate) fn constants_of(module: usize, name: &CStr) -> Answer<(usize, usize)> {
    context::here()?;
    let constants = MODULES.with(module, |module| module.constants)?;
    if name == c"gs_constants" { Ok(constants) } else { Err(NOT_FOUND) }
}

/// The handle of a kernel: the same whenever it is asked for.
pub(crate) fn find(module: usize, name: &CStr) -> Answer<usize> {
    let here = context::here()?;
    let kernel = gramscope_emulation::entry(name).ok_or(NOT_FOUND)?;
    MODULES.with(module, |module| {
        if module.context != here {
            return Err(INVALID_HANDLE);
        }
        if *module.family.get_or_insert(kernel.family) == kernel.family { Ok(()) } else { Err(NOT_FOUND) }
    })??;
    let known = FUNCTIONS.find(|function| function.module == module && function.kernel.name == name);
    let new = || FUNCTIONS.add(Function { module, context: here, kernel, shared_bytes: PLAIN_SHARED_BYTES });
    Ok(known.unwrap_or_else(new))
}

/// A kernel of a module that is there, in the context that this thread has turned to.
fn function(handle: usize) -> Answer<Function> {
    let here = context::here()?;
    let function = FUNCTIONS.with(handle, |function| *function)?;
    MODULES.with(function.module, |_| ())?;
    if function.context == here { Ok(function) } else { Err(INVALID_HANDLE) }
}

/// An attribute of a kernel.
pub(crate) fn attribute(handle: usize, attribute: c_uint) -> Answer<c_int> {
    let Function { kernel, shared_bytes, .. } = function(handle)?;
    let value = match attribute {
        THREADS_ATTRIBUTE => kernel.threads as usize,
        // All of it is dynamic.
        OWN_SHARED_ATTRIBUTE => 0,
        SHARED_ATTRIBUTE => shared_bytes,
        _ => return Err(INVALID_VALUE),
    };
    c_int::try_from(value).map_err(|_| INVALID_VALUE)
}

/// Sets the one attribute of a kernel that can be set: the dynamic shared memory that a launch may ask for.
pub(crate) fn set_attribute(handle: usize, attribute: c_uint, value: c_int) -> Answer {
    function(handle)?;
    let shared_bytes = usize::try_from(value).map_err(|_| INVALID_VALUE)?;
    if attribute != SHARED_ATTRIBUTE || machine().shared_bytes().is_none_or(|most| shared_bytes > most) {
        return Err(INVALID_VALUE);
    }
    FUNCTIONS.with(handle, |function| function.shared_bytes = shared_bytes)
}

/// A launch of a kernel in `context`, if a device would do it.
///
/// # Safety
/// `arguments` is null or leads to as many pointers as the kernel has arguments, each null or to one. What they point to may be
/// read and written as the kernel does, when it runs.
pub(crate) unsafe fn launch(
    handle: usize,
    geometry: [u32; 6],
    shared_bytes: usize,
    context: Context,
    arguments: *const *const c_void,
) -> Answer<Launch> {
    let function = function(handle)?;
    if function.context != context {
        return Err(INVALID_HANDLE);
    }
    let most = MOST_BLOCKS.into_iter().chain(MOST_THREADS);
    if !geometry.iter().zip(most).all(|(size, most)| (1..=most).contains(size)) {
        return Err(INVALID_VALUE);
    }
    let threads: u32 = geometry[3..].iter().product();
    if threads > function.kernel.threads || shared_bytes > function.shared_bytes {
        return Err(INVALID_VALUE);
    }
    let sizes = function.kernel.argument_sizes;
    // SAFETY: the caller's promise.
    let arguments = unsafe { copied(arguments, sizes) }?;
    let addresses = sizes.iter().zip(&arguments).flat_map(|(&bytes, place)| words(place, bytes));
    let pointers = addresses.filter_map(|address| Some((address, memory::piece_at(address)?))).collect();
    Ok(Launch {
        module: function.module,
        kernel: function.kernel,
        geometry,
        shared_bytes,
        context,
        arguments,
        pointers,
    })
}

/// The whole words among the bytes of an argument, any of which may be an address.
fn words(place: &[u128], bytes: usize) -> impl Iterator<Item = usize> {
    let halves = place.iter().flat_map(|&both| [both as u64, (both >> 64) as u64]);
    halves.take(bytes / size_of::<usize>()).map(|word| word as usize)
}

/// A copy of arguments, each in a place aligned for any.
///
/// # Safety
/// `arguments` is null or leads to as many pointers as there are `sizes`, each null or to so many bytes.
unsafe fn copied(arguments: *const *const c_void, sizes: &[usize]) -> Answer<Vec<Vec<u128>>> {
    if arguments.is_null() && !sizes.is_empty() {
        return Err(INVALID_VALUE);
    }
    let copy = |(index, &bytes): (usize, &usize)| {
        // SAFETY: there are as many pointers as sizes.
        let argument = unsafe { *arguments.add(index) };
        if argument.is_null() {
            return Err(INVALID_VALUE);
        }
        let mut place = vec![0_u128; bytes.div_ceil(size_of::<u128>())];
        // SAFETY: the argument has so many bytes, and the place has room for them.
        unsafe { std::ptr::copy_nonoverlapping(argument.cast::<u8>(), place.as_mut_ptr().cast(), bytes) };
        Ok(place)
    };
    sizes.iter().enumerate().map(copy).collect()
}

impl Launch {
    /// The addresses of device memory that it is given.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = usize> {
        self.pointers.iter().map(|(address, _)| *address)
    }

    /// Notes it where that is wanted, as a stream is told of it. One whose module has been unloaded by then breaks the context, and so
    /// does one whose memory is not its own to use: that of another device, or such as has been given back.
    pub(crate) fn note(&self) {
        machine().note_launch(self.kernel.name, memory::allocated(self.context));
        let is_own = |(_, piece): &(usize, PieceId)| piece.context == self.context && memory::is_given_out(*piece);
        if !self.pointers.iter().all(is_own) || MODULES.with(self.module, |_| ()).is_err() {
            self.uses_what_it_may_not();
        }
    }

    /// Runs it. What goes wrong breaks the context.
    pub(crate) fn run(&self) {
        if !self.pointers.iter().all(|(address, piece)| memory::piece_at(*address) == Some(*piece)) {
            return self.uses_what_it_may_not();
        }
        let arguments: Vec<*const c_void> = self.arguments.iter().map(|place| place.as_ptr().cast()).collect();
        let Self { kernel, geometry, shared_bytes, context, .. } = *self;
        // SAFETY: the promise of whoever made this launch; and no memory has been taken back.
        let ran = unsafe { gramscope_emulation::launch(kernel.name, geometry, shared_bytes, arguments.as_ptr()) };
        if let Err(error) = ran {
            eprintln!("fake driver: {error}");
            context::break_with(context, LAUNCH_FAILED);
        }
    }

    fn uses_what_it_may_not(&self) {
        let wrong = "is given memory of another device or that has been given back, or its module has been unloaded";
        eprintln!("fake driver: {:?} {wrong}", self.kernel.name);
        context::break_with(self.context, ILLEGAL_ADDRESS);
    }
}
