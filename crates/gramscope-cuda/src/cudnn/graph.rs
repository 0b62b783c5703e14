//! A convolution, or one of its gradients, as a graph of cuDNN's operations.

use super::Problem;
use super::descriptor::attribute::*;
use super::descriptor::{ConvolutionMode, DataType, Descriptor, Kind, PointwiseMode};
use super::engines::Target;
use super::library::Library;
use crate::error::Error;
use crate::plan::convolution::Product;
use crate::plan::{Arithmetic, Convolution};

const FLOAT: DataType = DataType(0);
const BFLOAT16: DataType = DataType(9);
const CROSS_CORRELATION: ConvolutionMode = ConvolutionMode(1);
const ADD: PointwiseMode = PointwiseMode(0);
const IDENTITY: PointwiseMode = PointwiseMode(21);

/// The tensors of a graph: their numbers in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tensor {
    /// x or dL/dx.
    Images = 1,
    /// w or dL/dw.
    Weights = 2,
    /// y or dL/dy.
    Results = 3,
    /// The biases.
    Biases = 4,
    /// What the biases are added to, which is nowhere in memory.
    Sums = 5,
    /// dL/dw before it is stored.
    WeightSums = 6,
}

/// A graph, and what it is made of.
pub(super) struct Graph {
    pub(super) graph: Descriptor,
    _parts: Vec<Descriptor>,
}

/// What tensors of a graph are made of.
struct Shapes {
    api: &'static Library,
    convolution: Convolution,
    alignment: usize,
}

impl Graph {
    /// The graph of `problem`.
    ///
    /// Activations are float32 or bfloat16, and so are weights; sums are float32, and so are biases and what becomes of
    /// weights and biases.
    pub(super) fn new(api: &'static Library, target: &Target, problem: &Problem) -> Result<Self, Error> {
        let Problem { product, convolution, arithmetic, alignment } = *problem;
        let shapes = Shapes { api, convolution, alignment };
        let stored = match arithmetic {
            Arithmetic::Float32 | Arithmetic::Tf32 => FLOAT,
            Arithmetic::Bf16 => BFLOAT16,
        };
        let mut parts = vec![shapes.convolution()?];
        let operations = match product {
            Product::Forward => {
                let [x, weights] = [shapes.tensor(Tensor::Images, stored)?, shapes.tensor(Tensor::Weights, stored)?];
                let [sums, biases] = [shapes.tensor(Tensor::Sums, FLOAT)?, shapes.tensor(Tensor::Biases, FLOAT)?];
                let y = shapes.tensor(Tensor::Results, stored)?;
                let convolve = Descriptor::new(api, Kind::Forward)?
                    .with(FORWARD_ALPHA, &[1.0])?
                    .with(FORWARD_BETA, &[0.0])?
                    .with_descriptors(FORWARD_CONV_DESC, &[&parts[0]])?
                    .with_descriptors(FORWARD_X, &[&x])?
                    .with_descriptors(FORWARD_W, &[&weights])?
                    .with_descriptors(FORWARD_Y, &[&sums])?
                    .finalised()?;
                let addition = shapes.pointwise(ADD)?;
                let add = Descriptor::new(api, Kind::PointwiseOperation)?
                    .with_descriptors(POINTWISE_PW_DESCRIPTOR, &[&addition])?
                    .with_descriptors(POINTWISE_XDESC, &[&sums])?
                    .with_descriptors(POINTWISE_BDESC, &[&biases])?
                    .with_descriptors(POINTWISE_YDESC, &[&y])?
                    .finalised()?;
                parts.extend([x, weights, sums, biases, y, addition]);
                vec![convolve, add]
            }
            Product::InputGradient { adds } => {
                let dx = shapes.tensor(Tensor::Images, stored)?;
                let [weights, dy] = [shapes.tensor(Tensor::Weights, stored)?, shapes.tensor(Tensor::Results, stored)?];
                let operation = Descriptor::new(api, Kind::InputGradient)?
                    .with(BWD_DATA_ALPHA, &[1.0])?
                    .with(BWD_DATA_BETA, &[if adds { 1.0 } else { 0.0 }])?
                    .with_descriptors(BWD_DATA_CONV_DESC, &[&parts[0]])?
                    .with_descriptors(BWD_DATA_W, &[&weights])?
                    .with_descriptors(BWD_DATA_DX, &[&dx])?
                    .with_descriptors(BWD_DATA_DY, &[&dy])?
                    .finalised()?;
                parts.extend([dx, weights, dy]);
                vec![operation]
            }
            Product::WeightGradient => {
                let dweights = shapes.tensor(Tensor::Weights, FLOAT)?;
                let [x, dy] = [shapes.tensor(Tensor::Images, stored)?, shapes.tensor(Tensor::Results, stored)?];
                // No engine gives bfloat16's products as float32 as such, but some pass their float32 sums on.
                let sums = (stored == BFLOAT16).then(|| shapes.tensor(Tensor::WeightSums, FLOAT)).transpose()?;
                let operation = Descriptor::new(api, Kind::WeightGradient)?
                    .with(BWD_FILTER_ALPHA, &[1.0])?
                    .with(BWD_FILTER_BETA, &[0.0])?
                    .with_descriptors(BWD_FILTER_CONV_DESC, &[&parts[0]])?
                    .with_descriptors(BWD_FILTER_DW, &[sums.as_ref().unwrap_or(&dweights)])?
                    .with_descriptors(BWD_FILTER_X, &[&x])?
                    .with_descriptors(BWD_FILTER_DY, &[&dy])?
                    .finalised()?;
                let mut operations = vec![operation];
                if let Some(sums) = sums {
                    let identity = shapes.pointwise(IDENTITY)?;
                    let store = Descriptor::new(api, Kind::PointwiseOperation)?
                        .with_descriptors(POINTWISE_PW_DESCRIPTOR, &[&identity])?
                        .with_descriptors(POINTWISE_XDESC, &[&sums])?
                        .with_descriptors(POINTWISE_YDESC, &[&dweights])?
                        .finalised()?;
                    operations.push(store);
                    parts.extend([sums, identity]);
                }
                parts.extend([dweights, x, dy]);
                operations
            }
        };
        let graph = Descriptor::new(api, Kind::Graph)?;
        let graph = target.of_graph(graph)?;
        let graph = graph.with_descriptors(OPERATIONGRAPH_OPS, &operations.iter().collect::<Vec<_>>())?.finalised()?;
        parts.extend(operations);
        Ok(Self { graph, _parts: parts })
    }
}

impl Shapes {
    /// How the window goes over the images.
    fn convolution(&self) -> Result<Descriptor, Error> {
        let Convolution { stride, padding, .. } = self.convolution;
        let both = |length: usize| [signed(length); 2];
        Descriptor::new(self.api, Kind::Convolution)?
            .with(CONVOLUTION_COMP_TYPE, &[FLOAT])?
            .with(CONVOLUTION_CONV_MODE, &[CROSS_CORRELATION])?
            .with(CONVOLUTION_SPATIAL_DIMS, &[2])?
            .with(CONVOLUTION_PRE_PADDINGS, &both(padding))?
            .with(CONVOLUTION_POST_PADDINGS, &both(padding))?
            .with(CONVOLUTION_FILTER_STRIDES, &both(stride))?
            .with(CONVOLUTION_DILATIONS, &both(1))?
            .finalised()
    }

    /// What is done value by value, in float32.
    fn pointwise(&self, mode: PointwiseMode) -> Result<Descriptor, Error> {
        Descriptor::new(self.api, Kind::Pointwise)?
            .with(POINTWISE_MODE, &[mode])?
            .with(POINTWISE_MATH_PREC, &[FLOAT])?
            .finalised()
    }

    /// cuDNN names dimensions in the order images (outputs), channels, rows, columns; how they lie is the strides' matter.
    fn tensor(&self, tensor: Tensor, stored: DataType) -> Result<Descriptor, Error> {
        let shape = self.convolution;
        let [images, rows, columns, channels] = match tensor {
            Tensor::Images => [shape.images, shape.height, shape.width, shape.from],
            Tensor::Weights | Tensor::WeightSums => [shape.to, shape.kernel, shape.kernel, shape.from],
            Tensor::Results | Tensor::Sums => [shape.images, shape.out_height(), shape.out_width(), shape.to],
            Tensor::Biases => [1, 1, 1, shape.to],
        };
        let open = Descriptor::new(self.api, Kind::Tensor)?
            .with(TENSOR_DATA_TYPE, &[stored])?
            .with(TENSOR_DIMENSIONS, &[images, channels, rows, columns].map(signed))?
            .with(TENSOR_STRIDES, &[rows * columns * channels, 1, columns * channels, channels].map(signed))?
            .with(TENSOR_UNIQUE_ID, &[tensor as i64])?
            .with(TENSOR_BYTE_ALIGNMENT, &[signed(self.alignment)])?;
        let is_virtual = matches!(tensor, Tensor::Sums | Tensor::WeightSums);
        let open = if is_virtual { open.with(TENSOR_IS_VIRTUAL, &[true])? } else { open };
        open.finalised()
    }
}

fn signed(length: usize) -> i64 {
    // What a convolution counts is below 2^31.
    i64::try_from(length).unwrap_or(i64::MAX)
}
