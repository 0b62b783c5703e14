//! Modules, the kernels that are found in them, and what a launch of one may ask for.

use std::ffi::{CStr, c_int, c_uint, c_void};
use std::sync::LazyLock;

use gramscope_emulation::Entry;

use crate::context::{self, Context};
use crate::machine::machine;
use crate::memory;
use crate::status::{Answer, ILLEGAL_ADDRESS, INVALID_HANDLE, INVALID_VALUE, LAUNCH_FAILED, NOT_FOUND};
use crate::table::Table;

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
#[derive(Clone, Copy)]
pub(crate) struct Launch {
    kernel: Entry,
    /// Grid x, y, z, block x, y, z.
    geometry: [u32; 6],
    shared_bytes: usize,
    pub(crate) context: Context,
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

/// Forgets a module; its kernels and its constants are no more.
pub(crate) fn unload(module: usize) -> Answer {
    let Module { context, constants, .. } = MODULES.remove(module)?;
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
pub(crate) fn launch(handle: usize, geometry: [u32; 6], shared_bytes: usize, context: Context) -> Answer<Launch> {
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
    Ok(Launch { kernel: function.kernel, geometry, shared_bytes, context })
}

impl Launch {
    /// A copy of the arguments, each in a place aligned for any.
    ///
    /// # Safety
    /// `arguments` is null or leads to as many pointers as the kernel has arguments, each null or to one.
    pub(crate) unsafe fn copied(&self, arguments: *const *const c_void) -> Answer<Vec<Vec<u128>>> {
        let sizes = self.kernel.argument_sizes;
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

    /// The pieces of device memory that arguments point into: the address, whose it is, and which.
    pub(crate) fn pieces(&self, arguments: &[Vec<u128>]) -> Vec<(usize, (Context, u64))> {
        let words = self.kernel.argument_sizes.iter().zip(arguments).filter(|(bytes, _)| **bytes == size_of::<usize>());
        let addresses = words.map(|(_, place)| place[0] as usize);
        addresses.filter_map(|address| Some((address, memory::piece_at(address)?))).collect()
    }

    /// Runs it. What goes wrong breaks the context.
    ///
    /// # Safety
    /// The arguments are the kernel's: what they point to may be read and written as it does.
    pub(crate) unsafe fn run(&self, arguments: &[Vec<u128>]) {
        machine().note_launch(self.kernel.name, memory::allocated(self.context));
        if self.pieces(arguments).iter().any(|(_, (context, _))| *context != self.context) {
            eprintln!("fake driver: {:?} is given the memory of another device", self.kernel.name);
            return context::break_with(self.context, ILLEGAL_ADDRESS);
        }
        let arguments: Vec<*const c_void> = arguments.iter().map(|place| place.as_ptr().cast()).collect();
        let Self { kernel, geometry, shared_bytes, context } = *self;
        // SAFETY: the caller's promise.
        let ran = unsafe { gramscope_emulation::launch(kernel.name, geometry, shared_bytes, arguments.as_ptr()) };
        if let Err(error) = ran {
            eprintln!("fake driver: {error}");
            context::break_with(context, LAUNCH_FAILED);
        }
    }
}
