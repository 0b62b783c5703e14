//! Memory that starts as NaN and is fenced.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

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

/// Whose memory it stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Device,
    /// Pinned.
    Host,
}

struct Piece {
    blocks: Vec<Block>,
    bytes: usize,
    kind: Kind,
}

/// Pieces by the address given out.
static PIECES: Mutex<BTreeMap<usize, Piece>> = Mutex::new(BTreeMap::new());

fn pieces() -> std::sync::MutexGuard<'static, BTreeMap<usize, Piece>> {
    PIECES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Bytes of the device given out.
pub(crate) fn used() -> usize {
    used_of(Kind::Device)
}

fn used_of(kind: Kind) -> usize {
    pieces().values().filter(|piece| piece.kind == kind).map(|piece| piece.bytes).sum()
}

/// New memory, unless more than `limit` of its kind would then be in use.
pub(crate) fn allocate(bytes: usize, limit: usize, kind: Kind) -> Option<usize> {
    if used_of(kind).checked_add(bytes)? > limit {
        return None;
    }
    let count = bytes.div_ceil(FENCE).checked_add(2)?;
    let mut blocks = Vec::new();
    blocks.try_reserve_exact(count).ok()?;
    blocks.resize(count, Block([START_BYTE; FENCE]));
    let address = blocks.as_mut_ptr() as usize + FENCE;
    let mut piece = Piece { blocks, bytes, kind };
    for byte in piece.fences() {
        *byte = FENCE_BYTE;
    }
    pieces().insert(address, piece);
    Some(address)
}

/// Gives memory back; false if it was not given out, if its fences have been written, or if a copy that has not been waited
/// for would use it.
pub(crate) fn free(address: usize) -> bool {
    if address == 0 {
        return true;
    }
    let Some(bytes) = pieces().get(&address).map(|piece| piece.bytes) else { return false };
    if crate::stream::uses(address, bytes) {
        eprintln!("fake driver: a buffer of {bytes} bytes is given back while it is being copied");
        return false;
    }
    let Some(mut piece) = pieces().remove(&address) else { return false };
    let intact = piece.fences().all(|byte| *byte == FENCE_BYTE);
    if !intact {
        eprintln!("fake driver: a write next to a buffer of {} bytes", piece.bytes);
    }
    intact
}

/// Whether a range lies within one piece of memory.
pub(crate) fn holds(address: usize, bytes: usize) -> bool {
    bytes == 0
        || pieces()
            .range(..=address)
            .next_back()
            .is_some_and(|(start, piece)| address - start <= piece.bytes && bytes <= piece.bytes - (address - start))
}

/// Puts values into memory that is never given back.
pub(crate) fn keep(values: &[u32]) -> usize {
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_ne_bytes()).collect();
    let Some(address) = allocate(bytes.len(), usize::MAX, Kind::Device) else { return 0 };
    // SAFETY: the memory was allocated just now with this many bytes, and nobody else knows of it.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), address as *mut u8, bytes.len()) };
    address
}

impl Piece {
    /// The bytes before and after the piece.
    fn fences(&mut self) -> impl Iterator<Item = &mut u8> {
        let end = FENCE + self.bytes;
        let bytes = self.blocks.iter_mut().flat_map(|block| &mut block.0).enumerate();
        bytes.filter(move |(index, _)| *index < FENCE || *index >= end).map(|(_, byte)| byte)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn memory_starts_as_nan_and_is_fenced() {
        let address = allocate(12, usize::MAX, Kind::Host).unwrap();
        // SAFETY: three floats were allocated, aligned to 256 bytes.
        let values = unsafe { std::slice::from_raw_parts_mut(address as *mut f32, 3) };
        assert!(values.iter().all(|value| value.is_nan()));
        assert!(holds(address, 12) && holds(address + 8, 4) && !holds(address + 8, 5) && !holds(address - 1, 1));
        assert!(free(address) && !free(address));

        let fenced = allocate(12, usize::MAX, Kind::Host).unwrap();
        // SAFETY: the byte after the memory given out is part of the fence, which this library owns.
        unsafe { (fenced as *mut u8).add(12).write(0) };
        assert!(!free(fenced));
    }

    #[test]
    fn memory_runs_out() {
        assert_eq!(allocate(usize::MAX, usize::MAX, Kind::Host), None);
        assert_eq!(allocate(2, 1, Kind::Device), None);
    }
}
