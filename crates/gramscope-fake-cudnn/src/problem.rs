//! What a graph says: which product of which convolution, of which tensors.

use std::ffi::c_int;
use std::sync::Arc;

use crate::descriptor::{Closed, kind};
use crate::status::{BAD_PARAM, Failure, NOT_SUPPORTED, SHAPE_MISMATCH};

/// What a tensor's values are stored as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stored {
    Float,
    Bfloat16,
}

/// A tensor: dimensions and strides in the order images (outputs), channels, rows, columns.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Tensor {
    pub(crate) number: i64,
    pub(crate) stored: Stored,
    pub(crate) dimensions: [usize; 4],
    pub(crate) strides: [usize; 4],
    pub(crate) alignment: usize,
    is_virtual: bool,
}

/// What is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Product {
    Forward,
    InputGradient,
    WeightGradient,
}

/// A convolution, or one of its gradients.
#[derive(Debug)]
pub(crate) struct Problem {
    pub(crate) product: Product,
    pub(crate) images: Tensor,
    pub(crate) weights: Tensor,
    pub(crate) results: Tensor,
    pub(crate) biases: Option<Tensor>,
    pub(crate) stride: [usize; 2],
    pub(crate) padding: [usize; 2],
    /// Whether the input gradient is added to what is there.
    pub(crate) adds: bool,
    /// Whether the sums of weights' gradients are stored by an operation of its own.
    pub(crate) is_stored_apart: bool,
}

impl Problem {
    /// Of the operations of a graph: a convolution with biases, or a gradient.
    pub(crate) fn new(operations: &[Arc<Closed>]) -> Result<Self, Failure> {
        let [first, rest @ ..] = operations else { return Err(Failure::new(BAD_PARAM, "a graph without operations")) };
        // The first attribute of the operation, and the places of images, weights and results among its tensors.
        let (product, base, [images, weights, results]): (_, c_int, [c_int; 3]) = match first.kind {
            kind::FORWARD => (Product::Forward, 700, [4, 3, 5]),
            kind::BWD_DATA => (Product::InputGradient, 706, [4, 3, 5]),
            kind::BWD_FILTER => (Product::WeightGradient, 712, [4, 3, 5]),
            other => return Err(Failure::new(NOT_SUPPORTED, format!("a graph that begins with kind {other}"))),
        };
        let (alpha, beta) = (first.float(base), first.float(base + 1));
        if alpha != 1.0 || !(beta == 0.0 || beta == 1.0 && product == Product::InputGradient) {
            return Err(Failure::new(NOT_SUPPORTED, format!("alpha {alpha} and beta {beta}")));
        }
        let tensor = |place: c_int| Tensor::new(first.descriptor(base + place)?);
        let convolution = first.descriptor(base + 2)?;
        let pair = |attribute| match convolution.numbers(attribute) {
            &[rows, columns] => Ok([rows, columns].map(|number| usize::try_from(number).unwrap_or(0))),
            _ => Err(Failure::new(BAD_PARAM, format!("attribute {attribute} of a convolution"))),
        };
        let mut problem = Self {
            product,
            images: tensor(images)?,
            weights: tensor(weights)?,
            results: tensor(results)?,
            biases: None,
            stride: pair(103)?,
            padding: pair(104)?,
            adds: beta == 1.0,
            is_stored_apart: false,
        };
        if pair(105)? != problem.padding || convolution.number(100) != 0 {
            return Err(Failure::new(NOT_SUPPORTED, "uneven padding, or sums that are not float32"));
        }
        match (product, rest) {
            (Product::Forward, [addition]) => problem.add_biases(addition)?,
            (Product::WeightGradient, [identity]) => problem.store_weights(identity)?,
            (Product::InputGradient | Product::WeightGradient, []) => {}
            _ => return Err(Failure::new(NOT_SUPPORTED, "a graph of another form")),
        }
        problem.check()?;
        Ok(problem)
    }

    /// The biases are added to what the convolution leaves, and the sum is what is left.
    fn add_biases(&mut self, addition: &Closed) -> Result<(), Failure> {
        let [x, biases, y] = [751, 752, 753].map(|place| addition.descriptor(place).map(|found| Tensor::new(found)));
        let (x, biases, y) = (x??, biases??, y??);
        let mode = addition.descriptor(750)?;
        let plain = mode.number(0) == 0 && mode.number(1) == 0;
        if !plain || x != self.results || !x.is_virtual || x.stored != Stored::Float || y.dimensions != x.dimensions {
            return Err(Failure::new(
                NOT_SUPPORTED,
                "what is behind the convolution adds no biases to its float32 sums",
            ));
        }
        let channels = y.dimensions[1];
        if biases.dimensions != [1, channels, 1, 1] || biases.stored != Stored::Float {
            return Err(Failure::new(SHAPE_MISMATCH, format!("biases of {:?}", biases.dimensions)));
        }
        (self.results, self.biases) = (y, Some(biases));
        Ok(())
    }

    /// The sums of weights' gradients are stored as they are.
    fn store_weights(&mut self, identity: &Closed) -> Result<(), Failure> {
        let [x, y] = [751, 753].map(|place| identity.descriptor(place).map(|found| Tensor::new(found)));
        let (x, y) = (x??, y??);
        let mode = identity.descriptor(750)?;
        let plain = mode.number(0) == 21 && mode.number(1) == 0 && identity.descriptors(752).is_empty();
        if !plain || x != self.weights || !x.is_virtual || x.stored != Stored::Float || y.dimensions != x.dimensions {
            return Err(Failure::new(NOT_SUPPORTED, "what is behind the gradient does not store its float32 sums"));
        }
        self.weights = y;
        self.is_stored_apart = true;
        Ok(())
    }

    /// The tensors go together, lie with their channels together, and are in memory.
    fn check(&self) -> Result<(), Failure> {
        let ([n, c, h, w], [k, of, u, v], [images, outputs, rows, columns]) =
            (self.images.dimensions, self.weights.dimensions, self.results.dimensions);
        let out = |side: usize, window: usize, axis: usize| {
            let padded = (side + 2 * self.padding[axis]).checked_sub(window)?;
            padded.checked_div(self.stride[axis]).map(|steps| steps + 1)
        };
        let expected = [Some(n), Some(k), out(h, u, 0), out(w, v, 1)];
        if of != c || expected != [images, outputs, rows, columns].map(Some) {
            let shapes = [&self.images, &self.weights, &self.results].map(|tensor| tensor.dimensions);
            return Err(Failure::new(SHAPE_MISMATCH, format!("tensors of {shapes:?}")));
        }
        let activations =
            if self.product == Product::WeightGradient { self.images.stored } else { self.weights.stored };
        let types = [self.images.stored, self.results.stored];
        if types != [activations; 2] || self.product == Product::WeightGradient && self.weights.stored != Stored::Float
        {
            return Err(Failure::new(NOT_SUPPORTED, "types that do not go together"));
        }
        let numbers: Vec<i64> = self.tensors().map(|tensor| tensor.number).collect();
        if (1..numbers.len()).any(|place| numbers[..place].contains(&numbers[place])) {
            return Err(Failure::new(BAD_PARAM, format!("tensors of the numbers {numbers:?}")));
        }
        match self.tensors().find(|tensor| tensor.is_virtual || !tensor.has_channels_together()) {
            Some(tensor) => {
                Err(Failure::new(NOT_SUPPORTED, format!("tensor {} is not in memory as here", tensor.number)))
            }
            None => Ok(()),
        }
    }

    /// Those that are in memory.
    pub(crate) fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        [&self.images, &self.weights, &self.results].into_iter().chain(&self.biases)
    }
}

impl Tensor {
    fn new(closed: &Closed) -> Result<Self, Failure> {
        let four = |attribute| {
            let numbers = closed.numbers(attribute).iter().map(|&number| usize::try_from(number).unwrap_or(0));
            <[usize; 4]>::try_from(numbers.collect::<Vec<_>>())
                .map_err(|_| Failure::new(BAD_PARAM, format!("attribute {attribute} of a tensor")))
        };
        let stored = match closed.number(901) {
            0 => Stored::Float,
            9 => Stored::Bfloat16,
            other => return Err(Failure::new(NOT_SUPPORTED, format!("tensors of type {other}"))),
        };
        let alignment = usize::try_from(closed.number(900)).unwrap_or(0);
        if !alignment.is_power_of_two() {
            return Err(Failure::new(BAD_PARAM, format!("an alignment of {alignment}")));
        }
        Ok(Self {
            number: closed.number(906),
            stored,
            dimensions: four(902)?,
            strides: four(903)?,
            alignment,
            is_virtual: closed.number(907) != 0,
        })
    }

    fn has_channels_together(&self) -> bool {
        let [_, channels, rows, columns] = self.dimensions;
        self.strides == [rows * columns * channels, 1, columns * channels, channels]
    }

    /// Bytes of a value.
    pub(crate) fn value_bytes(&self) -> usize {
        match self.stored {
            Stored::Float => size_of::<f32>(),
            Stored::Bfloat16 => size_of::<u16>(),
        }
    }
}
