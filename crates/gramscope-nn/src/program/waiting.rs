//! Layers that are there and wait to be handed out, several at a time.

use std::collections::VecDeque;

use gramscope_cuda::plan::LAYERS_TOGETHER;

use super::{Step, Tapped};

/// How layers of a network that is observed are handed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HandOut {
    /// Each when it is there, so that nothing waits.
    OneByOne,
    /// Several, with up to 2^19 values an image: enough to keep a GPU busy for a hundred times what launches cost, and in float32
    /// 512 MiB of its memory for 256 images.
    #[cfg(any(feature = "cuda", test))]
    Together,
}

/// The number of a layer that waits. It stands until that layer is there.
#[derive(Clone, Copy)]
pub(super) struct Place(usize);

/// Layers in their order, which is not that in which they are computed: a block's last batch norm comes before the shortcut, and
/// adds what that gives.
pub(super) struct Waiting {
    /// The most values an image of layers that are handed out together; a layer with more is handed out alone.
    most_values: usize,
    /// Layers before the first of these.
    before: usize,
    /// Each with its numbers an image. None: it is still to be computed.
    layers: VecDeque<Option<(Tapped, usize)>>,
    /// How often some have been handed out.
    groups: usize,
}

impl Waiting {
    /// None yet.
    pub(super) fn new(how: HandOut) -> Self {
        let most_values = match how {
            HandOut::OneByOne => 0,
            #[cfg(any(feature = "cuda", test))]
            HandOut::Together => 1 << 19,
        };
        Self { most_values, before: 0, layers: VecDeque::new(), groups: 0 }
    }

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
            if layers == LAYERS_TOGETHER || values + more > self.most_values {
                return self.hand_out(layers.max(1));
            }
            (layers, values) = (layers + 1, values + more);
        }
        if layers > 0 && (layers == LAYERS_TOGETHER || values == self.most_values) {
            self.hand_out(layers)
        } else {
            Vec::new()
        }
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
