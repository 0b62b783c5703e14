//! A launch in the making, in which something may be wrong.

use std::cell::Cell;

use gramscope_cuda::{Device, Error, Launcher, Slice, View, ViewMut};

/// What is wrong with a launch.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Defect {
    Nothing,
    /// This buffer, counted as they are made, is a value short.
    Short(usize),
    /// This one begins a value into its memory.
    Shifted(usize),
    /// This dimension is this number.
    Dimension(usize, usize),
}

/// A dimension of a launch.
#[derive(Clone, Copy)]
pub(crate) enum Dimension {
    /// Of a buffer: no launch has none of it, nor one more than its buffers.
    Size(usize),
    /// Not of a buffer; no launch has none of it.
    Setting(usize),
    /// It may be 0.
    Free(usize),
}

/// Numbers that no dimension may be.
const BEYOND: [usize; 5] = [1 << 32, 1 << 62, (1 << 63) - 1, 1 << 63, usize::MAX];

impl Dimension {
    pub(crate) fn value(self) -> usize {
        let (Self::Size(value) | Self::Setting(value) | Self::Free(value)) = self;
        value
    }

    /// What is refused in its place.
    pub(crate) fn wrong(self) -> Vec<usize> {
        let small = match self {
            Self::Size(value) => vec![0, value + 1],
            Self::Setting(_) => vec![0],
            Self::Free(_) => Vec::new(),
        };
        [&small[..], &BEYOND].concat()
    }
}

/// Makes the buffers of a launcher and calls it.
pub(crate) type Launch = fn(&Making<'_>) -> Result<(), Error>;

/// One launcher, on buffers of the right lengths for its dimensions.
pub(crate) struct Family {
    pub(crate) name: &'static str,
    pub(crate) dimensions: &'static [Dimension],
    /// The buffers that must lie as runs do.
    pub(crate) runs: &'static [usize],
    pub(crate) launch: Launch,
}

pub(crate) const fn family(name: &'static str, dimensions: &'static [Dimension], launch: Launch) -> Family {
    Family { name, dimensions, runs: &[], launch }
}

impl Family {
    /// Launches it, and says how many buffers it has.
    pub(crate) fn try_with(&self, device: &Device, defect: Defect) -> (Result<(), Error>, usize) {
        let making = Making { device, dimensions: self.dimensions, defect, buffers: Cell::new(0) };
        let outcome = (self.launch)(&making);
        device.synchronise().unwrap();
        (outcome, making.buffers.get())
    }

    /// It is refused, for a reason with these words in it.
    pub(crate) fn refuses(&self, device: &Device, defect: Defect, words: &str) -> usize {
        let (outcome, buffers) = self.try_with(device, defect);
        let error = outcome.err().unwrap_or_else(|| panic!("{}, {defect:?}: launched", self.name));
        let is_typed = matches!(error, Error::Argument { .. });
        assert!(is_typed && error.to_string().contains(words), "{}, {defect:?}: {error}", self.name);
        buffers
    }
}

/// A launch in the making, in which something may be wrong.
pub(crate) struct Making<'a> {
    pub(crate) device: &'a Device,
    pub(crate) dimensions: &'a [Dimension],
    pub(crate) defect: Defect,
    pub(crate) buffers: Cell<usize>,
}

/// A buffer, or what is left of it.
pub(crate) struct Made<T> {
    slice: Slice<T>,
    start: usize,
    end: usize,
}

impl<T> Made<T> {
    pub(crate) fn view(&self) -> View<'_, T> {
        self.slice.slice(self.start..self.end)
    }

    pub(crate) fn view_mut(&mut self) -> ViewMut<'_, T> {
        self.slice.slice_mut(self.start..self.end)
    }
}

impl<'a> Making<'a> {
    pub(crate) fn launcher(&self) -> Launcher<'a> {
        self.device.launcher()
    }

    /// The dimensions that buffers have.
    pub(crate) fn right<const N: usize>(&self) -> [usize; N] {
        std::array::from_fn(|index| self.dimensions[index].value())
    }

    /// Those that the launcher is told.
    pub(crate) fn told<const N: usize>(&self) -> [usize; N] {
        let mut told = self.right();
        if let Defect::Dimension(index, value) = self.defect {
            told[index] = value;
        }
        told
    }

    /// The next buffer, of so many values and one more in `slice`.
    pub(crate) fn made<T>(&self, slice: Slice<T>) -> Made<T> {
        let (index, length) = (self.buffers.replace(self.buffers.get() + 1), slice.len() - 1);
        let (start, end) = match self.defect {
            Defect::Short(short) if short == index => (0, length - 1),
            Defect::Shifted(shifted) if shifted == index => (1, length + 1),
            _ => (0, length),
        };
        Made { slice, start, end }
    }
}

/// The next buffer of a launch in the making, of so many values.
macro_rules! make {
    ($making:expr, $length:expr) => {
        $making.made($making.device.zeros("a launch", $length + 1).unwrap())
    };
}
