//! What a profiler is to NVTX: a library that `NVTX_INJECTION64_PATH` names and that asks for the calls to come to it. This one
//! writes them to the driver's trace, between the launches: `> NAME` where a range begins, `<` where it ends.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};

use crate::machine::machine;

/// NVTX's numbers: the table of tables, the module of the ordinary functions, and two functions in it.
const CALLBACKS: u32 = 1;
const CORE: c_uint = 1;
const RANGE_PUSH: usize = 9;
const RANGE_POP: usize = 11;

/// NVTX's table of tables.
#[repr(C)]
struct Callbacks {
    bytes: usize,
    /// Gives a module's table, each entry of which says where NVTX keeps the address of a function, and its length.
    functions_of:
        unsafe extern "C" fn(module: c_uint, table: *mut *mut *mut *const c_void, length: *mut c_uint) -> c_int,
}

unsafe extern "C" fn push(name: *const c_char) -> c_int {
    // SAFETY: NVTX passes on what the program gave it, a string that ends with a zero.
    let name = unsafe { CStr::from_ptr(name) };
    machine().note(&format!("> {}", name.to_string_lossy()));
    0
}

unsafe extern "C" fn pop() -> c_int {
    machine().note("<");
    0
}

/// Called by NVTX when the program first calls it; 1 where this tool wants to listen.
#[unsafe(no_mangle)]
#[allow(non_snake_case, reason = "NVTX's name")]
pub(crate) unsafe extern "C" fn InitializeInjectionNvtx2(table: unsafe extern "C" fn(u32) -> *const c_void) -> c_int {
    // SAFETY: NVTX's contract: under this number it has the table of tables, or nothing.
    let Some(callbacks) = (unsafe { table(CALLBACKS).cast::<Callbacks>().as_ref() }) else { return 0 };
    let (mut functions, mut length) = (std::ptr::null_mut(), 0);
    // SAFETY: both are there to be written.
    let found = unsafe { (callbacks.functions_of)(CORE, &raw mut functions, &raw mut length) };
    if callbacks.bytes < size_of::<Callbacks>() || found == 0 || (length as usize) <= RANGE_POP {
        return 0;
    }
    // SAFETY: the table has more than `RANGE_POP` entries, and each says where an address may be written.
    unsafe {
        **functions.add(RANGE_PUSH) = push as *const c_void;
        **functions.add(RANGE_POP) = pop as *const c_void;
    }
    1
}
