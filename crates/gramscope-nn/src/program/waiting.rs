//! Layers that are there and wait to be handed out, several at a time.

use super::{Step, Tapped};

/// Layers are handed out once they have so many values an image: enough to fill a GPU together, and in float32 256 MiB of its
/// memory for 256 images.
const TOGETHER_VALUES: usize = 1 << 18;
/// Or once they are so many.
const TOGETHER_LAYERS: usize = 56;

/// A layer among those that wait. It stands until that layer is there.
#[derive(Clone, Copy)]
pub(super) struct Place(usize);

/// Layers in their order, which is not that in which they are computed: a block's last batch norm comes before the shortcut, and
/// adds what that gives.
#[derive(Default)]
pub(super) struct Waiting {
    /// Layers before the first of these.
    before: usize,
    /// None: it is still to be computed.
    layers: Vec<Option<Tapped>>,
    /// Numbers an image, of those that are there.
    values: usize,
}

impl Waiting {
    /// Counts a layer that is still to be computed.
    pub(super) fn count(&mut self) -> Place {
        self.layers.push(None);
        Place(self.layers.len() - 1)
    }

    /// A layer of so many numbers an image is there.
    pub(super) fn note(&mut self, place: Place, of: Tapped, values: usize) {
        self.layers[place.0] = Some(of);
        self.values += values;
    }

    /// Whether there is enough to be handed out, and none among it that is still to be computed.
    pub(super) fn are_enough(&self) -> bool {
        let enough = self.values >= TOGETHER_VALUES || self.layers.len() >= TOGETHER_LAYERS;
        enough && self.layers.iter().all(Option::is_some)
    }

    /// The taps of all that are there.
    pub(super) fn hand_out(&mut self) -> impl Iterator<Item = Step> {
        let Self { before, layers, .. } = std::mem::take(self);
        self.before = before + layers.len();
        (before..).zip(layers).filter_map(|(layer, of)| Some(Step::Tap { layer, of: of? }))
    }
}
