//! cuDNN's convolutions on a GPU, on stand-ins for driver and library: what the graphs say is what float64 says, engines that
//! would compute otherwise are never run, choices are kept, and captured work has the bits of plain work.
#![cfg(feature = "cuda")]
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use candle_core::Device as Host;
use gramscope_cuda::plan::Placing;
use gramscope_cuda::{
    Activation, Arithmetic, Choice, Choices, Convolution, Device, Factors, Product, Regions, Scratch, Slice,
};
use gramscope_nn::device::{DeviceNetwork, Images, Order, StoredImages, Totals};
use gramscope_nn::{ResNet, Sgd, SgdConfig};
use gramscope_reference::{Tensor4, convolution as reference};
use gramscope_train::TrainSettings;
use half::bf16;
use support::driver::{driver_and_cudnn, on_fake_driver};
use support::noise;

const WHAT: &str = "a test";
/// float32's unit roundoff.
const ROUNDOFF: f64 = 1.0 / (1u64 << 24) as f64;

/// Choices in memory.
#[derive(Debug, Default)]
struct Kept(Mutex<BTreeMap<String, Choice>>);

impl Choices for Kept {
    fn find(&self, of: &str) -> Result<Option<Choice>, String> {
        Ok(self.0.lock().unwrap().get(of).cloned())
    }

    fn keep(&self, of: &str, choice: Choice) -> Result<Choice, String> {
        Ok(self.0.lock().unwrap().entry(of.to_owned()).or_insert(choice).clone())
    }
}

impl Kept {
    /// The engines of what is of `part`.
    fn of(&self, part: &str) -> Vec<(String, Choice)> {
        let kept = self.0.lock().unwrap();
        kept.iter().filter(|(of, _)| of.contains(part)).map(|(of, choice)| (of.clone(), choice.clone())).collect()
    }
}

fn device(choices: &Arc<Kept>) -> Arc<Device> {
    Arc::new(Device::open(0).unwrap().with_cudnn(choices.clone()).unwrap())
}

/// Engines that compute as it is wanted: in float32 float64's sums and float32's in parts, else tensor cores too. Sums in one part
/// would be the fastest in float32, but they are offered behind three others that are compiled too.
fn may_be_chosen(of: &str, choice: &Choice) -> bool {
    match choice {
        Choice::Engine { index: 3, knobs } if *knobs == [(17, 1)] => false,
        Choice::Own => of.contains("weight gradient, bf16") && of.contains("x 3 to "),
        Choice::Engine { index: 0 | 3, .. } => true,
        Choice::Engine { index: 2, .. } => !of.contains(", f32,"),
        Choice::Engine { .. } => false,
    }
}

/// A type of activations.
trait Stored: Activation {
    const HALF: bool;
    fn of(value: f64) -> Self;
    fn widen(self) -> f64;
}

impl Stored for f32 {
    const HALF: bool = false;

    fn of(value: f64) -> Self {
        value as f32
    }

    fn widen(self) -> f64 {
        self.into()
    }
}

impl Stored for bf16 {
    const HALF: bool = true;

    fn of(value: f64) -> Self {
        Self::from_f32(value as f32)
    }

    fn widen(self) -> f64 {
        self.into()
    }
}

type Case = (usize, usize, usize, usize, usize, usize, usize, usize);

/// (images, height, width, from, to, kernel, stride, padding): single pixels and channels, primes, strides, windows beyond the
/// images, three channels.
const CASES: [Case; 7] = [
    (1, 1, 1, 1, 1, 1, 1, 0),
    (2, 7, 5, 3, 11, 3, 1, 1),
    (3, 9, 9, 4, 8, 3, 2, 1),
    (2, 8, 6, 13, 7, 1, 1, 0),
    (1, 9, 8, 5, 4, 1, 2, 0),
    (2, 13, 11, 3, 5, 7, 2, 3),
    (1, 2, 2, 6, 2, 5, 1, 2),
];

/// Numbers on the device, `shift` values into their memory, and as float64 sees them.
struct Values<T> {
    device: Slice<T>,
    host: Vec<f64>,
}

impl<T: Stored> Values<T> {
    fn new(device: &Device, seed: u64, length: usize, shift: usize) -> Self {
        let values: Vec<T> = noise(seed, shift + length).into_iter().map(|value| T::of(value.into())).collect();
        let host = values[shift..].iter().map(|value| value.widen()).collect();
        Self { device: device.upload(WHAT, &values).unwrap(), host }
    }
}

/// What a convolution and its gradients are made of.
struct Operands<T> {
    convolution: Convolution,
    shift: usize,
    x: Values<T>,
    dy: Values<T>,
    before: Values<T>,
    weight: Values<f32>,
    bias: Values<f32>,
}

/// y, dx, dx added to what was there, dw, db.
type Results = [Vec<f64>; 5];
const NAMES: [&str; 5] = ["y", "dx", "added dx", "dweight", "dbias"];

impl<T: Stored> Operands<T> {
    fn new(device: &Device, case: Case, shift: usize) -> Self {
        let (images, height, width, from, to, kernel, stride, padding) = case;
        let convolution = Convolution { images, height, width, from, to, kernel, stride, padding };
        Self {
            x: Values::new(device, 1, convolution.x_length(), 0),
            dy: Values::new(device, 2, convolution.y_length(), 0),
            before: Values::new(device, 3, convolution.x_length(), 0),
            weight: Values::new(device, 4, convolution.weight_length(), shift),
            bias: Values::new(device, 5, to, shift),
            convolution,
            shift,
        }
    }

    /// In float64, of factors as `factor` makes them and other terms as `term` does.
    fn truth(&self, factor: &dyn Fn(f64) -> f64, term: &dyn Fn(f64) -> f64) -> Results {
        let Convolution { images, height, width, from, to, kernel, stride, padding } = self.convolution;
        let tensor = |shape: [usize; 4], values: &[f64]| {
            Tensor4::new(shape, values.iter().map(|&value| factor(value)).collect())
        };
        let terms = |values: &[f64]| values.iter().map(|&value| term(value)).collect::<Vec<_>>();
        let x = tensor([images, height, width, from], &self.x.host);
        let dy = tensor([images, self.convolution.out_height(), self.convolution.out_width(), to], &self.dy.host);
        let weight = tensor([to, kernel, kernel, from], &self.weight.host);
        let y = reference::forward(&x, &weight, &terms(&self.bias.host), stride, padding).data;
        let gradients = reference::backward(&x, &weight, &dy, stride, padding);
        let dx = gradients.dx.data;
        let added = dx.iter().zip(terms(&self.before.host)).map(|(dx, before)| dx + before).collect();
        // Biases' gradients are sums of what is stored, and no products.
        let dbias = (0..to).map(|o| terms(&self.dy.host).iter().skip(o).step_by(to).sum()).collect();
        [y, dx, added, gradients.dweight.data, dbias]
    }

    /// Through the device.
    fn found(&self, device: &Device, arithmetic: Arithmetic) -> Results {
        let (launcher, c, shift) = (device.launcher(), &self.convolution, self.shift);
        let widened = |slice: &Slice<T>| device.download(slice).unwrap().into_iter().map(T::widen).collect();
        let floats =
            |slice: &Slice<f32>| device.download(slice).unwrap().into_iter().map(f64::from).collect::<Vec<_>>();
        let narrow: Vec<bf16> = device.download(&self.weight.device).unwrap().into_iter().map(bf16::from_f32).collect();
        let narrow = device.upload(WHAT, &narrow).unwrap();
        let factors =
            Factors { weight: self.weight.device.slice(shift..), narrow: T::HALF.then(|| narrow.slice(shift..)) };
        let (factor, float) = (shift * size_of::<T>(), shift * size_of::<f32>());
        let products = [
            (Product::Forward, vec![factor, float]),
            (Product::InputGradient { adds: false }, vec![factor]),
            (Product::InputGradient { adds: true }, vec![factor]),
            (Product::WeightGradient, vec![float]),
        ];
        let planned = products
            .iter()
            .map(|(product, offsets)| launcher.plan_convolution(*product, c, arithmetic, offsets).unwrap());
        let mut workspace = device.zeros::<u8>(WHAT, planned.flatten().max().unwrap_or(0).max(1)).unwrap();
        let partials = launcher.convolution_scratch(c).max(launcher.convolution_bias_scratch(c)).max(1);
        let mut partials = device.zeros::<f32>(WHAT, partials).unwrap();
        let scratch = &mut Scratch { partials: partials.as_view_mut(), workspace: workspace.as_view_mut() };
        let (x, dy, bias) = (self.x.device.as_view(), self.dy.device.as_view(), self.bias.device.slice(shift..));

        let mut y = device.zeros::<T>(WHAT, c.y_length()).unwrap();
        launcher.convolve(&mut y.as_view_mut(), &x, &factors, &bias, scratch, c, arithmetic).unwrap();
        let [dx, added] = [false, true].map(|adds| {
            let before: Vec<T> = self.before.host.iter().map(|&value| T::of(value)).collect();
            let mut dx = device.upload(WHAT, &before).unwrap();
            let to = &mut dx.as_view_mut();
            launcher.convolve_input_gradient(to, &dy, &factors, scratch, c, arithmetic, adds).unwrap();
            widened(&dx)
        });
        let mut dweight = device.zeros::<f32>(WHAT, shift + c.weight_length()).unwrap();
        let mut dbias = device.zeros::<f32>(WHAT, c.to).unwrap();
        let (to, biases) = (&mut dweight.slice_mut(shift..), &mut dbias.as_view_mut());
        launcher.convolve_weight_gradient(to, biases, scratch, &x, &dy, c, arithmetic).unwrap();
        [widened(&y), dx, added, floats(&dweight)[shift..].to_vec(), floats(&dbias)]
    }
}

/// Every product of every case against float64.
fn check_products<T: Stored>(device: &Device, arithmetic: Arithmetic) {
    for case in CASES {
        for shift in [0, 1] {
            let operands = Operands::<T>::new(device, case, shift);
            let found = operands.found(device, arithmetic);
            // Weights are rounded to what activations are stored as. What tensor cores round to TF32 is off by half of 2^-10 at most,
            // and there are two factors.
            let truth = operands.truth(&|value| T::of(value).widen(), &|value| value);
            let magnitudes = operands.truth(&f64::abs, &f64::abs);
            let rounded = if arithmetic == Arithmetic::Tf32 { 1.001 / 1024.0 } else { 0.0 };
            let c = &operands.convolution;
            let terms = [c.taps() * c.from, c.taps() * c.to, c.taps() * c.to, c.out_pixels(), c.out_pixels()];
            for (product, name) in NAMES.into_iter().enumerate() {
                // A rounding a term, and a few of a bias and of parts; then that of what is stored.
                let sums = (terms[product] + 6) as f64 * ROUNDOFF + if name == "dbias" { 0.0 } else { rounded };
                let stored = if T::HALF && product < 3 { 1.001 / 256.0 } else { ROUNDOFF };
                assert_eq!(found[product].len(), truth[product].len(), "{name}");
                for ((found, truth), magnitude) in found[product].iter().zip(&truth[product]).zip(&magnitudes[product])
                {
                    let allowed = sums * magnitude + stored * (truth.abs() + sums * magnitude);
                    let what =
                        || format!("{arithmetic:?} {case:?} {shift} off, {name}: {found} {truth} +- {allowed:e}");
                    assert!((found - truth).abs() <= allowed, "{}", what());
                }
            }
        }
    }
}

#[test]
fn products_are_what_float64_says_and_engines_are_chosen_with_care() {
    let test = "products_are_what_float64_says_and_engines_are_chosen_with_care";
    if on_fake_driver(&driver_and_cudnn(), test).is_some() {
        return;
    }
    let choices = Arc::<Kept>::default();
    let device = device(&choices);
    check_products::<f32>(&device, Arithmetic::Float32);
    check_products::<f32>(&device, Arithmetic::Tf32);
    check_products::<bf16>(&device, Arithmetic::Bf16);
    let all = choices.of("");
    // Four products, cases and both alignments, three arithmetics.
    assert_eq!(all.len(), 4 * CASES.len() * 2 * 3);
    for (of, choice) in &all {
        assert!(may_be_chosen(of, choice), "{of}: {choice}");
        assert!(of.starts_with("Emulated GPU, cuDNN 9.21.1, "), "{of}");
    }
    // Where tensor cores are asked for they are the fastest, and where nothing is offered a kernel of ours computes.
    assert!(choices.of(", tf32,").iter().any(|(_, choice)| matches!(choice, Choice::Engine { index: 2, .. })));
    assert_eq!(all.iter().filter(|(_, choice)| *choice == Choice::Own).count(), 2 * 2);
}

/// What was chosen before is what computes: another engine has other bits, and the same choice the same.
#[test]
fn choices_are_kept_to() {
    if on_fake_driver(&driver_and_cudnn(), "choices_are_kept_to").is_some() {
        return;
    }
    let measured = Arc::<Kept>::default();
    let results = |choices: &Arc<Kept>| {
        let device = device(choices);
        Operands::<f32>::new(&device, CASES[1], 0).found(&device, Arithmetic::Float32)
    };
    let first = results(&measured);
    let before = measured.of("");
    assert_eq!((results(&measured) == first, measured.of("") == before, before.len()), (true, true, 4));
    let with = |choice: &Choice| {
        let of = |(of, _): &(String, Choice)| (of.clone(), choice.clone());
        Arc::new(Kept(Mutex::new(before.iter().map(of).collect())))
    };
    let parts = |parts| Choice::Engine { index: 3, knobs: vec![(17, parts)] };
    let [two, four] = [2, 4].map(|count| results(&with(&parts(count))));
    let own = results(&with(&Choice::Own));
    assert!(two != four && own != two, "the engines compute alike, so that a mistake would not be seen");
    // What cannot be had any more is said.
    let device = device(&with(&Choice::Engine { index: 17, knobs: vec![] }));
    let (launcher, c) = (device.launcher(), Operands::<f32>::new(&device, CASES[1], 0).convolution);
    let error = launcher.plan_convolution(Product::Forward, &c, Arithmetic::Float32, &[0, 0]).unwrap_err().to_string();
    assert!(error.contains("cuDNN says") && error.contains("no engine 17"), "{error}");
}

/// Nothing is measured while work is captured; what has a plan can be captured, and launched again.
#[test]
fn plans_are_made_before_work_is_captured() {
    if let Some(trace) = on_fake_driver(&driver_and_cudnn(), "plans_are_made_before_work_is_captured") {
        assert_eq!(trace.count("graph"), 2);
        return;
    }
    let choices = Arc::<Kept>::default();
    let device = device(&choices);
    let operands = Operands::<f32>::new(&device, CASES[2], 0);
    let (launcher, c) = (device.launcher(), &operands.convolution);
    let mut y = device.zeros::<f32>(WHAT, c.y_length()).unwrap();
    let (mut partials, mut workspace) =
        (device.zeros::<f32>(WHAT, 1).unwrap(), device.zeros::<u8>(WHAT, 1 << 16).unwrap());
    let factors = Factors { weight: operands.weight.device.as_view(), narrow: None };
    let mut convolve = |y: &mut Slice<f32>| {
        let scratch = &mut Scratch { partials: partials.as_view_mut(), workspace: workspace.as_view_mut() };
        let (x, bias) = (operands.x.device.as_view(), operands.bias.device.as_view());
        launcher.convolve(&mut y.as_view_mut(), &x, &factors, &bias, scratch, c, Arithmetic::Float32)
    };
    let error = device.capture(|| convolve(&mut y)).err().unwrap().to_string();
    assert!(error.contains("captured") && choices.of("").is_empty(), "{error}");
    convolve(&mut y).unwrap();
    let plain = device.download(&y).unwrap();
    let captured = device.capture(|| convolve(&mut y)).unwrap();
    // It uses memory that it has to be shown.
    let mut some = Regions::default();
    some.writes(&mut y);
    assert!(captured.over(&some).err().unwrap().to_string().contains("not shown"));
    let captured = device.capture(|| convolve(&mut y)).unwrap();
    device.copy_to("y", &vec![f32::NAN; plain.len()], &mut y.as_view_mut()).unwrap();
    let mut memory = Regions::default();
    memory.writes(&mut y);
    memory.reads(&operands.x.device);
    memory.reads(&operands.weight.device);
    memory.reads(&operands.bias.device);
    memory.writes(&mut workspace);
    let graph = captured.over(&memory).unwrap();
    assert!(graph.launch(&memory).unwrap() && graph.launch(&memory).unwrap());
    drop(memory);
    assert_eq!(device.download(&y).unwrap(), plain);
}

/// cuDNN waits for all of a GPU when it goes, which no capture there survives.
#[test]
fn a_capture_does_not_survive_the_end_of_a_cudnn_in_its_thread() {
    if on_fake_driver(&driver_and_cudnn(), "a_capture_does_not_survive_the_end_of_a_cudnn_in_its_thread").is_some() {
        return;
    }
    let device = device(&Arc::default());
    let (fork, mut y) = (device.fork().unwrap(), device.zeros::<f32>(WHAT, 3).unwrap());
    let captured = device.capture(|| {
        drop(fork);
        device.launcher().relu(&mut y.as_view_mut(), 3)
    });
    let error = captured.err().unwrap().to_string();
    assert!(error.contains("STREAM_CAPTURE"), "{error}");
}

/// cuDNN may wait for all of a GPU when it starts, when plans are made and tried, and when it goes: another thread's captures are over
/// by then, or have not begun.
#[test]
fn captures_survive_what_cudnn_does_in_other_threads() {
    if on_fake_driver(&driver_and_cudnn(), "captures_survive_what_cudnn_does_in_other_threads").is_some() {
        return;
    }
    let device = device(&Arc::default());
    let (begun, begins) = mpsc::channel();
    let other = device.clone();
    let planning = thread::spawn(move || {
        begins.recv().unwrap();
        let fork = other.fork().unwrap();
        for (height, width) in [(7, 5), (8, 5), (7, 6)] {
            let c = Convolution { images: 2, height, width, from: 3, to: 11, kernel: 3, stride: 1, padding: 1 };
            fork.launcher().plan_convolution(Product::Forward, &c, Arithmetic::Float32, &[0, 0]).unwrap();
        }
    });
    let mut y = device.zeros::<f32>(WHAT, 3).unwrap();
    loop {
        let captured = device.capture(|| {
            // The first of them; and whoever has been told may be gone.
            let _ = begun.send(());
            thread::sleep(Duration::from_millis(2));
            device.launcher().relu(&mut y.as_view_mut(), 3)
        });
        captured.unwrap();
        if planning.is_finished() {
            break;
        }
    }
    planning.join().unwrap();
}

const SIDE: usize = 9;
const IMAGES: usize = 13;

/// Steps that are captured, steps that are not, and what one evaluates to, of a network: with the bits of each other.
#[test]
fn captured_steps_have_the_bits_of_plain_ones() {
    if let Some(trace) = on_fake_driver(&driver_and_cudnn(), "captured_steps_have_the_bits_of_plain_ones") {
        assert_eq!(trace.count("graph"), 3 * 3);
        return;
    }
    let choices = Arc::<Kept>::default();
    let device = device(&choices);
    let settings = TrainSettings { seed: 5, depth: 8, width: 0.25, ..TrainSettings::default() };
    let host = ResNet::new(&settings.network(10, SIDE), 3, &Host::Cpu).unwrap();
    let sgd = SgdConfig { learning_rate: 0.05, momentum: 0.9, weight_decay: 1e-3 };
    let pixels: Vec<u8> = (0..IMAGES * SIDE * SIDE * 3).map(|place| (place * 97 % 251) as u8).collect();
    let labels: Vec<u32> = (0..IMAGES as u32).map(|image| image * 7 % 10).collect();
    let stored = StoredImages::new(&device, &pixels, &labels, SIDE).unwrap();
    let order: Vec<u32> = (0..IMAGES as u32).map(|image| image * 5 % IMAGES as u32).collect();
    for arithmetic in [Arithmetic::Float32, Arithmetic::Tf32, Arithmetic::Bf16] {
        let network = || {
            let mut network = DeviceNetwork::new(&host, device.clone(), arithmetic).unwrap();
            network.learn(&Sgd::for_network(&host, sgd).unwrap()).unwrap();
            network.set_totals(Totals::default()).unwrap();
            network
        };
        let (mut captured, mut plain) = (network(), network());
        let mut next = Order::new(device.clone(), IMAGES, Placing::default()).unwrap();
        next.begin(&order, 0, 1).unwrap();
        // The second and third are captured; the smaller one has plans of its own, then the larger takes more memory.
        for (taken, count) in [(0, 3), (3, 3), (6, 3), (9, 2)] {
            captured.step(Images::Next { images: &stored, order: &mut next, count }).unwrap();
            let batch = &order[taken..][..count];
            let image = |&image: &u32| &pixels[image as usize * SIDE * SIDE * 3..][..SIDE * SIDE * 3];
            let values: Vec<f32> = batch.iter().flat_map(image).map(|&byte| f32::from(byte) / 255.0).collect();
            let labels: Vec<u32> = batch.iter().map(|&image| labels[image as usize]).collect();
            plain.step(Images::Host { pixels: &values, labels: &labels, shake: None }).unwrap();
            assert_eq!(captured.totals().unwrap(), plain.totals().unwrap(), "{arithmetic:?}, {count} from {taken}");
        }
        next.begin(&order, 0, 1).unwrap();
        let values: Vec<Vec<f32>> = [6, 6, 1]
            .map(|count| captured.forward(Images::Next { images: &stored, order: &mut next, count }).unwrap())
            .to_vec();
        next.begin(&order, 0, 1).unwrap();
        let again: Vec<f32> = plain.forward(Images::Next { images: &stored, order: &mut next, count: 13 }).unwrap();
        // Engines may be others for other batches.
        let close = values.concat().iter().zip(&again).all(|(a, b)| (a - b).abs() <= 0.02 * (1.0 + b.abs()));
        assert!(close && values.concat().len() == again.len(), "{arithmetic:?}");
    }
    let all = choices.of("");
    assert!(all.iter().all(|(of, choice)| may_be_chosen(of, choice)), "{all:?}");
}
