//! Activations for the tests: made, written as safetensors in any format, compared by the binary, and compared by the
//! definitions in float64.

use std::fs;
use std::path::{Path, PathBuf};

use gramscope_nn::random::{Philox, Stream};
use gramscope_reference::{Matrix, cka};
use gramscope_study::Saved;
use gramscope_study::pair::PairResult;
use half::{bf16, f16};
use safetensors::Dtype;
use safetensors::tensor::TensorView;

use super::{gramscope, text};

/// A layer over all examples, row-major, as its file will hold it.
#[derive(Clone)]
pub struct Layer {
    pub name: String,
    pub features: usize,
    pub dtype: Dtype,
    pub values: Vec<f64>,
}

impl Layer {
    /// The float32 layer of `value(example, feature)`.
    pub fn from_fn(name: &str, n: usize, features: usize, mut value: impl FnMut(usize, usize) -> f64) -> Self {
        let values = (0..n * features).map(|at| value(at / features, at % features)).collect();
        Self { name: name.to_owned(), features, dtype: Dtype::F32, values }.stored_as(Dtype::F32)
    }

    /// The layer of `value(example, feature, number)` for its own numbers.
    pub fn map(&self, mut value: impl FnMut(usize, usize, f64) -> f64) -> Self {
        let values = self.values.iter().enumerate();
        let values = values.map(|(at, &number)| value(at / self.features, at % self.features, number)).collect();
        Self { values, ..self.clone() }.stored_as(self.dtype)
    }

    /// The layer with its values rounded to `dtype`.
    pub fn stored_as(&self, dtype: Dtype) -> Self {
        let round = |value: f64| match dtype {
            Dtype::F16 => f16::from_f64(value).to_f64(),
            Dtype::BF16 => bf16::from_f64(value).to_f64(),
            Dtype::F32 => f64::from(value as f32),
            _ => value,
        };
        Self { dtype, values: self.values.iter().copied().map(round).collect(), ..self.clone() }
    }

    fn bytes(&self) -> Vec<u8> {
        let values = self.values.iter();
        match self.dtype {
            Dtype::F16 => values.flat_map(|&value| f16::from_f64(value).to_le_bytes()).collect(),
            Dtype::BF16 => values.flat_map(|&value| bf16::from_f64(value).to_le_bytes()).collect(),
            Dtype::F32 => values.flat_map(|&value| (value as f32).to_le_bytes()).collect(),
            _ => values.flat_map(|&value| value.to_le_bytes()).collect(),
        }
    }
}

/// Standard normal numbers, a pure function of `seed`.
pub fn normals(seed: u32, len: usize) -> Vec<f64> {
    let mut numbers = Philox::new(0, Stream::Drawing).sequence(seed);
    (0..len).map(|_| numbers.normal()).collect()
}

/// Layers that have something in common, `widths[i]` features each: every feature is one of five normal numbers an example
/// has in all layers, plus noise of its own that is as large in the last layer and little in the first.
pub fn related(seed: u32, n: usize, widths: &[usize]) -> Vec<Layer> {
    let shared = normals(seed, n * 5);
    let layer = |(index, &width): (usize, &usize)| {
        let noise = normals(seed + 1 + index as u32, n * width);
        let share = (index + 1) as f64 / widths.len() as f64;
        let value = |i: usize, f: usize| shared[i * 5 + (f + index) % 5] + share * noise[i * width + f];
        Layer::from_fn(&format!("layer{index}"), n, width, value)
    };
    widths.iter().enumerate().map(layer).collect()
}

/// Writes `layers` of `n` examples, in this order.
pub fn write(path: &Path, n: usize, layers: &[Layer]) {
    let bytes: Vec<Vec<u8>> = layers.iter().map(Layer::bytes).collect();
    let views = layers.iter().zip(&bytes).map(|(layer, bytes)| {
        (layer.name.as_str(), TensorView::new(layer.dtype, vec![n, layer.features], bytes).unwrap())
    });
    let names: Vec<&str> = layers.iter().map(|layer| layer.name.as_str()).collect();
    let order = [("layers".to_owned(), serde_json::to_string(&names).unwrap())];
    safetensors::serialize_to_file(views, Some(order.into_iter().collect()), path).unwrap();
}

/// What is compared, and how.
#[derive(Clone)]
pub struct Comparison {
    pub name: String,
    pub examples: usize,
    pub batch_size: usize,
    pub x: Vec<Layer>,
    /// The layers of x among themselves where there are none.
    pub y: Option<Vec<Layer>>,
    pub estimator: cka::Estimator,
    pub kernel: cka::Kernel,
    pub gram: &'static str,
}

impl Comparison {
    /// All layers of `x` over `examples` examples in one batch, by default settings.
    pub fn new(name: impl Into<String>, examples: usize, x: Vec<Layer>) -> Self {
        let (estimator, kernel) = (cka::Estimator::Unbiased, cka::Kernel::Linear);
        Self { name: name.into(), examples, batch_size: examples, x, y: None, estimator, kernel, gram: "exact" }
    }

    /// Runs the binary in `dir`; what it wrote, and where.
    pub fn run(&self, dir: &Path) -> (PairResult, PathBuf) {
        fs::create_dir_all(dir).unwrap();
        let (x, y, out) = (dir.join("x.safetensors"), dir.join("y.safetensors"), dir.join("cka"));
        write(&x, self.examples, &self.x);
        let mut command = ["cka", "--activations", x.to_str().unwrap()].map(str::to_owned).to_vec();
        if let Some(layers) = &self.y {
            write(&y, self.examples, layers);
            command.push(y.to_str().unwrap().to_owned());
        }
        let kernel = match self.kernel {
            cka::Kernel::Linear => "linear".to_owned(),
            cka::Kernel::Rbf(t) => format!("rbf:{t}"),
        };
        let estimator = format!("{:?}", self.estimator).to_lowercase();
        let batch_size = self.batch_size.to_string();
        command.extend(["--out", out.to_str().unwrap(), "--gram", self.gram].map(str::to_owned));
        command.extend(["--batch-size", &batch_size, "--estimator", &estimator].map(str::to_owned));
        command.extend(["--kernel", &kernel].map(str::to_owned));
        let output = gramscope(&command);
        assert!(output.status.success(), "{}: {}", self.name, text(&output.stderr));
        (PairResult::load(&out).unwrap(), out)
    }

    /// Minibatch CKA of all pairs in float64.
    pub fn truth(&self) -> Vec<f64> {
        let batches = |layer: &Layer| {
            let batch = |values: &[f64]| Matrix::new(self.batch_size, layer.features, values.to_vec());
            layer.values.chunks_exact(self.batch_size * layer.features).map(batch).collect()
        };
        let cut = |layers: &[Layer]| layers.iter().map(batches).collect::<Vec<Vec<Matrix>>>();
        let x = cut(&self.x);
        let y = self.y.as_deref().map_or_else(|| x.clone(), cut);
        cka::matrix(&x, &y, self.kernel, self.estimator).data
    }
}
