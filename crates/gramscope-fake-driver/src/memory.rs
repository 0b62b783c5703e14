//! Memory that starts as NaN and is fenced.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::context::Context;
use crate::status::{Answer, INVALID_VALUE, OUT_OF_MEMORY};
use crate::stream;

/// Bytes before and after what was asked for. A multiple of the alignment that the driver promises.
const FENCE: usize = 256;
/// What the fences hold.
const FENCE_BYTE: u8 = 0xA5;
/// What memory holds at first: NaN in every format.
const START_BYTE: u8 = 0xFF;

/// Aligned as the driver aligns.
#[derive(Clone, Copy)]
#[repr(align(256))]
struct Block([u8; FENCE]);

/// What memory stands for, and so which call gives it back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A device's, by its context.
    Device(Context),
    /// A device's, which a module has brought along.
    Module(Context),
    /// The host's, pinned.
    Host,
}

/// What tells a piece of a device's memory from every other, and from one at the same address later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PieceId {
    pub(crate) context: Context,
    start: usize,
    number: u64,
}

struct Piece {
    blocks: Vec<Block>,
    bytes: usize,
    kind: Kind,
    /// No other piece's.
    number: u64,
    /// Nobody's any longer, but the stream that it was given back to has not come to that.
    is_given_back: bool,
}

/// All memory that has been given out.
#[derive(Default)]
struct Memory {
    /// Pieces by the address given out.
    pieces: BTreeMap<usize, Piece>,
    /// Bytes that were given back in the order of a stream: whoever asks what is free finds them once somebody has waited.
    reserved: BTreeMap<Context, usize>,
}

static MEMORY: Mutex<Memory> = Mutex::new(Memory { pieces: BTreeMap::new(), reserved: BTreeMap::new() });
static NEXT_NUMBER: AtomicU64 = AtomicU64::new(0);

fn memory() -> MutexGuard<'static, Memory> {
    MEMORY.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Kind {
    /// The context whose device's memory it is.
    fn context(self) -> Option<Context> {
        match self {
            Self::Device(context) | Self::Module(context) => Some(context),
            Self::Host => None,
        }
    }
}

impl Memory {
    /// Bytes of the pieces that `are_meant`.
    fn bytes(&self, are_meant: impl Fn(&Piece) -> bool) -> usize {
        self.pieces.values().filter(|piece| are_meant(piece)).map(|piece| piece.bytes).sum()
    }

    /// Bytes of a device that are somebody's.
    fn used(&self, context: Context) -> usize {
        self.bytes(|piece| !piece.is_given_back && piece.kind.context() == Some(context))
    }

    /// The piece that an address lies in, and where that begins.
    fn at(&self, address: usize) -> Option<(usize, &Piece)> {
        let (start, piece) = self.pieces.range(..=address).next_back()?;
        (address - start < piece.bytes).then_some((*start, piece))
    }
}

/// Bytes of a device that have been allocated: what modules have brought along is not the program's to limit.
pub(crate) fn allocated(context: Context) -> usize {
    memory().bytes(|piece| !piece.is_given_back && piece.kind == Kind::Device(context))
}

/// Bytes of a device that have been given back to streams which have not come to that.
pub(crate) fn given_back(context: Context) -> usize {
    memory().bytes(|piece| piece.is_given_back && piece.kind == Kind::Device(context))
}

/// Bytes of a device that are neither in use nor kept for whoever allocates next, out of `total`.
pub(crate) fn free_bytes(context: Context, total: usize) -> usize {
    let memory = memory();
    let reserved = memory.reserved.get(&context).copied().unwrap_or(0);
    total.saturating_sub(memory.used(context)).saturating_sub(reserved)
}

/// Somebody has waited for a stream of this context: what has been taken back by now is free.
pub(crate) fn waited(context: Context) {
    let mut memory = memory();
    let late = memory.bytes(|piece| piece.is_given_back && piece.kind == Kind::Device(context));
    if let Some(reserved) = memory.reserved.get_mut(&context) {
        *reserved = late.min(*reserved);
    }
}

/// New memory, unless more than `limit` of a device's would then be in use.
pub(crate) fn allocate(bytes: usize, limit: usize, kind: Kind) -> Answer<usize> {
    if bytes == 0 {
        return Err(INVALID_VALUE);
    }
    let mut memory = memory();
    if let Some(context) = kind.context()
        && memory.used(context).checked_add(bytes).is_none_or(|used| used > limit)
    {
        return Err(OUT_OF_MEMORY);
    }
    let count = bytes.div_ceil(FENCE).checked_add(2).ok_or(OUT_OF_MEMORY)?;
    let mut blocks = Vec::new();
    blocks.try_reserve_exact(count).map_err(|_| OUT_OF_MEMORY)?;
    blocks.resize(count, Block([START_BYTE; FENCE]));
    let address = blocks.as_mut_ptr() as usize + FENCE;
    let number = NEXT_NUMBER.fetch_add(1, Ordering::Relaxed);
    let mut piece = Piece { blocks, bytes, kind, number, is_given_back: false };
    for byte in piece.fences() {
        *byte = FENCE_BYTE;
    }
    memory.pieces.insert(address, piece);
    // Allocated from what was kept first.
    if let Some(reserved) = kind.context().and_then(|context| memory.reserved.get_mut(&context)) {
        *reserved = reserved.saturating_sub(bytes);
    }
    Ok(address)
}

/// Gives memory back, to be taken back later. Fails if it was not given out, or as another kind.
pub(crate) fn give_back(address: usize, kind: Kind) -> Answer {
    let mut memory = memory();
    let piece = memory.pieces.get_mut(&address).filter(|piece| piece.kind == kind && !piece.is_given_back);
    let piece = piece.ok_or(INVALID_VALUE)?;
    piece.is_given_back = true;
    let bytes = piece.bytes;
    if let Some(context) = kind.context() {
        *memory.reserved.entry(context).or_default() += bytes;
    }
    Ok(())
}

/// Takes memory back that has been given back. Fails, in words, if its fences have been written, or if what a stream has not come to
/// would use it.
pub(crate) fn take_back(address: usize) -> Result<(), String> {
    let bytes = memory().pieces.get(&address).map_or(0, |piece| piece.bytes);
    if stream::any_work(|work| work.uses(address, bytes)) {
        // It stays, for what uses it.
        return Err(format!("a buffer of {bytes} bytes is given back while it is in use"));
    }
    let mut piece = memory().pieces.remove(&address).ok_or("a buffer is taken back twice")?;
    if piece.fences().all(|byte| *byte == FENCE_BYTE) {
        return Ok(());
    }
    Err(format!("a write next to a buffer of {bytes} bytes"))
}

/// Gives memory back that is taken back at once; refused while it is in use.
pub(crate) fn free(address: usize, kind: Kind) -> Answer {
    let bytes = memory().pieces.get(&address).map_or(0, |piece| piece.bytes);
    if stream::any_work(|work| work.uses(address, bytes)) {
        eprintln!("fake driver: a buffer of {bytes} bytes is given back while it is in use");
        return Err(INVALID_VALUE);
    }
    give_back(address, kind)?;
    take_back(address).map_err(|wrong| {
        eprintln!("fake driver: {wrong}");
        INVALID_VALUE
    })
}

/// A range lies within one piece of a device's memory.
pub(crate) fn check_device(address: usize, bytes: usize, context: Context) -> Answer {
    let memory = memory();
    let holds = |(start, piece): (usize, &Piece)| {
        !piece.is_given_back && piece.kind.context() == Some(context) && bytes <= piece.bytes - (address - start)
    };
    if bytes == 0 || memory.at(address).is_some_and(holds) { Ok(()) } else { Err(INVALID_VALUE) }
}

/// A range that is called the host's is none of a device's, and where it is pinned it lies within one piece.
pub(crate) fn check_host(address: usize, bytes: usize) -> Answer {
    let memory = memory();
    let end = address.checked_add(bytes).ok_or(INVALID_VALUE)?;
    // With their fences, which nobody's other memory lies in; they do not overlap.
    let before_end = memory.pieces.range(..end.saturating_add(FENCE)).rev();
    let mut touched = before_end.take_while(|(start, piece)| **start + piece.bytes + FENCE > address);
    let within =
        |(start, piece): (&usize, &Piece)| piece.kind == Kind::Host && *start <= address && end <= start + piece.bytes;
    if bytes == 0 || touched.all(within) { Ok(()) } else { Err(INVALID_VALUE) }
}

/// The piece of a device's memory that an address lies in, whether or not it has been given back.
pub(crate) fn piece_at(address: usize) -> Option<PieceId> {
    let memory = memory();
    let (start, piece) = memory.at(address)?;
    Some(PieceId { context: piece.kind.context()?, start, number: piece.number })
}

/// Whether a piece is somebody's: neither given back nor taken back.
pub(crate) fn is_given_out(id: PieceId) -> bool {
    let memory = memory();
    memory.pieces.get(&id.start).is_some_and(|piece| piece.number == id.number && !piece.is_given_back)
}

/// Puts values into memory of a module's.
pub(crate) fn keep(values: &[u32], context: Context) -> Answer<usize> {
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_ne_bytes()).collect();
    let address = allocate(bytes.len(), usize::MAX, Kind::Module(context))?;
    // SAFETY: the memory was allocated just now with this many bytes, and nobody else knows of it.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), address as *mut u8, bytes.len()) };
    Ok(address)
}

impl Piece {
    /// The bytes before and after the piece.
    fn fences(&mut self) -> impl Iterator<Item = &mut u8> {
        let end = FENCE + self.bytes;
        let bytes = self.blocks.iter_mut().flat_map(|block| &mut block.0).enumerate();
        bytes.filter(move |(index, _)| *index < FENCE || *index >= end).map(|(_, byte)| byte)
    }
}
