//! Layers that are there and wait to be handed out, several at a time.

use std::collections::VecDeque;

use gramscope_cuda::plan::LAYERS_TOGETHER;

use super::{Step, Tapped};

/// Layers that are handed out together have up to so many values an image: enough to keep a GPU busy for a hundred times what
/// launches cost, and in float32 512 MiB of its memory for 256 images.
const TOGETHER_VALUES: usize = 1 << 19;

/// The number of a layer that waits. It stands until that layer is there.
#[derive(Clone, Copy)]
pub(super) struct Place(usize);

/// Layers in their order, which is not that in which they are computed: a block's last batch norm comes before the shortcut, and
/// adds what that gives.
#[derive(Default)]
pub(super) struct Waiting {
    /// Layers before the first of these.
    before: usize,
    /// Each with its numbers an image. None: it is still to be computed.
    layers: VecDeque<Option<(Tapped, usize)>>,
    /// How often some have been handed out.
    groups: usize,
}

impl Waiting {
    /// Counts a layer that is still to be computed.
    pub(super) fn count(&mut self) -> Place {
        self.layers.push_back(None);
        Place(self.before + self.layers.len() - 1)
    }

    /// A layer of so many numbers an image is there.
    pub(super) fn note(&mut self, Place(layer): Place, of: Tapped, values: usize) {
        self.layers[layer - self.before] = Some((of, values));
    }

    /// The taps of the first layers, as many as go together, once no other can go with them; else none.
    pub(super) fn hand_out_enough(&mut self) -> Vec<Step> {
        let (mut layers, mut values) = (0, 0);
        while let Some(&Some((_, more))) = self.layers.get(layers) {
            if layers == LAYERS_TOGETHER || values + more > TOGETHER_VALUES {
                return self.hand_out(layers.max(1));
            }
            (layers, values) = (layers + 1, values + more);
        }
        if layers == LAYERS_TOGETHER || values == TOGETHER_VALUES { self.hand_out(layers) } else { Vec::new() }
    }

    /// The taps of all, at the end.
    pub(super) fn hand_out_all(&mut self) -> Vec<Step> {
        self.hand_out(self.layers.len())
    }

    /// The taps of the first `count`, which are there.
    fn hand_out(&mut self, count: usize) -> Vec<Step> {
        let (first, group) = (self.before, self.groups);
        (self.before, self.groups) = (first + count, group + 1);
        let taken = self.layers.drain(..count).flatten();
        taken.zip(first..).map(|((of, _), layer)| Step::Tap { layer, of, group }).collect()
    }
}
