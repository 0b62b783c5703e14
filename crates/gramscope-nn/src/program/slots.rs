//! Where values lie: those that are never there at the same time share a slot of memory.

use std::collections::BTreeSet;

use super::{IMAGES, Program, ValueId};

/// Slots begin at multiples of so many numbers: 256 bytes of the smallest.
const SLOT_STEP: usize = 128;

impl Program {
    /// Where values lie, so that those that are needed at the same time lie apart.
    pub(crate) fn slots(&self) -> Slots {
        let last = self.last_uses();
        let mut slots = Slots { of: vec![usize::MAX; self.values.len()], lengths: Vec::new() };
        let mut free = Vec::new();
        slots.give(IMAGES, self.values[IMAGES].length(), &mut free);
        for (place, step) in self.steps.iter().enumerate() {
            for value in step.values().filter(|&value| slots.of[value] == usize::MAX).collect::<Vec<_>>() {
                slots.give(value, self.values[value].length(), &mut free);
            }
            let done: BTreeSet<ValueId> = step.values().filter(|&value| last[value] == place).collect();
            free.extend(done.into_iter().map(|value| slots.of[value]));
        }
        slots
    }
}

/// Memory that values share.
#[derive(Clone, Debug)]
pub(crate) struct Slots {
    /// Of each value, its slot.
    pub(crate) of: Vec<usize>,
    /// Of each slot, its numbers an image.
    pub(crate) lengths: Vec<usize>,
}

impl Slots {
    /// Gives `value` the free slot that fits best: the smallest that is large enough, else the largest, which grows, else a
    /// new one.
    fn give(&mut self, value: ValueId, length: usize, free: &mut Vec<usize>) {
        let fit = |&place: &usize| {
            let has = self.lengths[free[place]];
            if has >= length { (0, has - length) } else { (1, length - has) }
        };
        let slot = match (0..free.len()).min_by_key(fit) {
            Some(place) => free.swap_remove(place),
            None => {
                self.lengths.push(0);
                self.lengths.len() - 1
            }
        };
        self.lengths[slot] = self.lengths[slot].max(length);
        self.of[value] = slot;
    }

    /// Where the numbers of so many images lie that the slot of `value` holds, in one memory of all slots.
    #[cfg(feature = "cuda")]
    pub(crate) fn start(&self, value: ValueId, images: usize) -> usize {
        self.lengths[..self.of[value]].iter().map(|length| aligned(length * images)).sum()
    }

    /// Numbers of all slots, over so many images.
    pub(crate) fn length(&self, images: usize) -> usize {
        self.lengths.iter().map(|length| aligned(length * images)).sum()
    }
}

/// `length`, so that what follows begins at a multiple of what any kernel reads at once.
fn aligned(length: usize) -> usize {
    length.next_multiple_of(SLOT_STEP)
}
