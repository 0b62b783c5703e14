//! Work that is captured on a GPU and launched as a whole, on the driver that runs the kernels' own sources: it has the bits of
//! the same work launched kernel by kernel, and nothing that cannot be captured, or is no longer there, is launched.
#![cfg(feature = "cuda")]
#![allow(clippy::unwrap_used)]

mod support;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use candle_core::Device as Host;
use candle_nn::Optimizer;
use gramscope_cuda::plan::{Arithmetic, Placing};
use gramscope_cuda::{Device, Error, Regions, Slice};
use gramscope_nn::device::{DeviceNetwork, Images, Order, StoredImages, Totals};
use gramscope_nn::{FirstComponentPenalty, ResNet, Sgd, SgdConfig, Shake};
use gramscope_train::augment::Augmentation;
use gramscope_train::data::Split;
use gramscope_train::{TrainSettings, batches};
use support::driver::{driver, on_fake_driver};

const SIDE: usize = 9;
const IMAGES: usize = 13;
const CLASSES: u32 = 10;

/// Images, a network, and how it learns.
struct Setting {
    split: Split,
    settings: TrainSettings,
    network: ResNet,
    sgd: Sgd,
}

impl Setting {
    fn new(shake_shake: bool) -> Self {
        let pixels = (0..IMAGES * SIDE * SIDE * 3).map(|place| (place * 97 % 251) as u8).collect();
        let labels = (0..IMAGES as u32).map(|image| image * 7 % CLASSES).collect();
        let settings = TrainSettings {
            seed: 5,
            depth: 8,
            width: 0.25,
            shake_shake,
            crop_padding: 2,
            flip: true,
            ..TrainSettings::default()
        };
        let network = ResNet::new(&settings.network(CLASSES as usize, SIDE), 3, &Host::Cpu).unwrap();
        let sgd = SgdConfig { learning_rate: 0.05, momentum: 0.9, weight_decay: 1e-3 };
        Self {
            split: Split::new(pixels, labels, SIDE).unwrap(),
            sgd: Sgd::for_network(&network, sgd).unwrap(),
            settings,
            network,
        }
    }

    fn on_device(&self, device: &Arc<Device>, arithmetic: Arithmetic) -> DeviceNetwork {
        let mut network = DeviceNetwork::new(&self.network, device.clone(), arithmetic).unwrap();
        network.learn(&self.sgd).unwrap();
        network
    }

    fn stored(&self, device: &Device) -> StoredImages {
        StoredImages::new(device, self.split.pixels(), self.split.labels(), SIDE).unwrap()
    }

    fn placing(&self) -> Placing {
        let TrainSettings { seed, crop_padding: padding, flip, .. } = self.settings;
        Placing { seed, padding, flip }
    }

    /// A step that the host draws, which nothing captures.
    fn plain_step(&self, network: &mut DeviceNetwork, images: &[u32], epoch: u32) {
        let images: Vec<usize> = images.iter().map(|&image| image as usize).collect();
        let pixels = Augmentation::new(&self.settings).batch(&self.split, &images, epoch, &Host::Cpu).unwrap();
        let pixels: Vec<f32> = pixels.flatten_all().unwrap().to_vec1().unwrap();
        let labels: Vec<u32> = images.iter().map(|&image| self.split.labels()[image]).collect();
        let TrainSettings { seed, shake_shake, .. } = self.settings;
        let shake = shake_shake.then_some(Shake { seed, epoch, images: &images });
        network.step(Images::Host { pixels: &pixels, labels: &labels, shake }).unwrap();
    }

    /// Everything that has been learnt.
    fn learnt(&self, network: &DeviceNetwork) -> Vec<(String, Vec<u32>)> {
        let Self { network: host, mut sgd, .. } = Self::new(self.settings.shake_shake);
        network.write_back(&host, &mut sgd).unwrap();
        let all = host.state().into_iter().chain(sgd.velocities());
        let bits = |tensor: candle_core::Tensor| -> Vec<u32> {
            tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap().into_iter().map(f32::to_bits).collect()
        };
        all.map(|(name, tensor)| (name, bits(tensor))).collect()
    }
}

/// The order of an epoch's images.
fn shuffled(epoch: u32) -> Vec<u32> {
    (0..IMAGES as u32).map(|image| (image * 5 + epoch * 3) % IMAGES as u32).collect()
}

/// Epochs, images that have been taken when they begin, and batches.
const EPOCHS: [(u32, usize, &[usize]); 4] =
    [(1, 0, &[3, 3, 3]), (2, 3, &[3, 3]), (3, 0, &[4, 4, 4]), (7, 1, &[3, 4, 2])];

#[test]
fn captured_steps_have_the_bits_of_plain_ones() {
    if let Some(trace) = on_fake_driver(&driver(), "captured_steps_have_the_bits_of_plain_ones") {
        // Of each of six networks, in the first epoch two, in the second both, in the third two, in the fourth one.
        assert_eq!(trace.count("graph"), 6 * 7);
        return;
    }
    let device = Arc::new(Device::open(0).unwrap());
    for shake_shake in [false, true] {
        for arithmetic in [Arithmetic::Float32, Arithmetic::Tf32, Arithmetic::Bf16] {
            step_both_ways(&Setting::new(shake_shake), &device, arithmetic);
        }
    }
}

/// Batches that make a network capture, go on, take more memory, capture again, and do without; an epoch that is begun in its
/// middle; learning rates that change; another optimiser.
fn step_both_ways(setting: &Setting, device: &Arc<Device>, arithmetic: Arithmetic) {
    let (mut captured, mut plain) = (setting.on_device(device, arithmetic), setting.on_device(device, arithmetic));
    let images = setting.stored(device);
    let mut order = Order::new(device.clone(), IMAGES, setting.placing()).unwrap();
    for (epoch, mut taken, batches) in EPOCHS {
        order.begin(&shuffled(epoch), taken, epoch).unwrap();
        for network in [&mut captured, &mut plain] {
            network.set_learning_rate(0.1 / f64::from(epoch)).unwrap();
            network.set_totals(Totals { loss: 0.5, correct: 0.0 }).unwrap();
        }
        for &count in batches {
            captured.step(Images::Next { images: &images, order: &mut order, count }).unwrap();
            setting.plain_step(&mut plain, &shuffled(epoch)[taken..][..count], epoch);
            taken += count;
        }
        assert_eq!(captured.totals().unwrap(), plain.totals().unwrap(), "{arithmetic:?}, epoch {epoch}");
        assert!(setting.learnt(&captured) == setting.learnt(&plain), "{arithmetic:?}, epoch {epoch}");
    }
    let beyond = captured.step(Images::Next { images: &images, order: &mut order, count: 4 }).unwrap_err();
    assert!(beyond.to_string().contains("the next images of an epoch"), "{beyond}");
}

/// What a captured step does to a Shake-Shake network depends on the epoch and on nothing that was captured: from the same
/// start, on images that are placed as they are, only the shares can make a difference.
#[test]
fn a_captured_step_draws_the_shares_of_its_own_epoch() {
    if on_fake_driver(&driver(), "a_captured_step_draws_the_shares_of_its_own_epoch").is_some() {
        return;
    }
    let mut setting = Setting::new(true);
    (setting.settings.crop_padding, setting.settings.flip) = (0, false);
    let device = Arc::new(Device::open(0).unwrap());
    let images = setting.stored(&device);
    let learnt_in = |epoch: u32| {
        let mut network = setting.on_device(&device, Arithmetic::Float32);
        let mut order = Order::new(device.clone(), IMAGES, setting.placing()).unwrap();
        // Twice in the first epoch, so that what follows has been captured there.
        network.set_learning_rate(0.0).unwrap();
        order.begin(&shuffled(0), 0, 1).unwrap();
        for _ in 0..2 {
            network.step(Images::Next { images: &images, order: &mut order, count: 4 }).unwrap();
        }
        network.set_learning_rate(0.1).unwrap();
        order.begin(&shuffled(0), 0, epoch).unwrap();
        network.step(Images::Next { images: &images, order: &mut order, count: 4 }).unwrap();
        setting.learnt(&network)
    };
    let (first, second) = (learnt_in(1), learnt_in(2));
    assert!(first == learnt_in(1), "other bits in the same epoch");
    assert!(first != second, "the same shares in another epoch");
}

/// Of images of which nobody says the epoch, both branches have one half, there and back, as on the CPU: the second step's loss
/// is off by the order of sums, the first one's loss and gradients by much more if anything else was done.
#[test]
fn without_an_epoch_branches_share_evenly() {
    if on_fake_driver(&driver(), "without_an_epoch_branches_share_evenly").is_some() {
        return;
    }
    let setting = Setting::new(true);
    let device = Arc::new(Device::open(0).unwrap());
    let stored = setting.stored(&device);
    let [mut from_host, mut from_device] = [(); 2].map(|()| setting.on_device(&device, Arithmetic::Float32));
    let order: Vec<u32> = shuffled(1)[..5].to_vec();
    let images: Vec<usize> = order.iter().map(|&image| image as usize).collect();
    let tensor = batches::images(&setting.split, &images, SIDE, &Host::Cpu).unwrap();
    let pixels: Vec<f32> = tensor.flatten_all().unwrap().to_vec1().unwrap();
    let labels: Vec<u32> = images.iter().map(|&image| setting.split.labels()[image]).collect();
    for _ in 0..2 {
        from_host.step(Images::Host { pixels: &pixels, labels: &labels, shake: None }).unwrap();
        from_device.step(Images::Stored { images: &stored, order: &order }).unwrap();
    }
    assert!(setting.learnt(&from_host) == setting.learnt(&from_device));

    let Setting { network, mut sgd, .. } = Setting::new(true);
    let labels_here = batches::labels(setting.split.labels(), &images, &Host::Cpu).unwrap();
    let mut expected = 0.0;
    for _ in 0..2 {
        let gradients = network.loss_and_gradients(&tensor, &labels_here).unwrap();
        sgd.step(&gradients.grads).unwrap();
        expected += f64::from(gradients.loss.to_scalar::<f32>().unwrap());
    }
    let found = from_host.totals().unwrap().loss;
    assert!((found - expected).abs() <= 1e-5 * expected, "{found} is not {expected}");

    let shake = Some(Shake { seed: 0, epoch: 1, images: &images[..4] });
    let error = from_host.step(Images::Host { pixels: &pixels, labels: &labels, shake }).unwrap_err().to_string();
    assert!(error.contains("image numbers") && error.contains("5 images"), "{error}");
}

/// A penalty that is captured with the rest, one that takes its place, batches that are smaller than those before, down to a
/// single image, which has no first component.
#[test]
fn captured_penalties_have_the_bits_of_plain_ones() {
    const BATCHES: [usize; 5] = [3, 3, 3, 2, 1];
    if let Some(trace) = on_fake_driver(&driver(), "captured_penalties_have_the_bits_of_plain_ones") {
        // Of each of two networks, under each of two penalties two.
        assert_eq!(trace.count("graph"), 2 * 2 * 2);
        return;
    }
    let setting = Setting::new(false);
    let device = Arc::new(Device::open(0).unwrap());
    for arithmetic in [Arithmetic::Float32, Arithmetic::Bf16] {
        let network = || setting.on_device(&device, arithmetic);
        let (mut captured, mut plain, mut free) = (network(), network(), network());
        let images = setting.stored(&device);
        let mut order = Order::new(device.clone(), IMAGES, setting.placing()).unwrap();
        for (epoch, weight) in [(1, 0.5), (2, 0.25)] {
            order.begin(&shuffled(epoch), 0, epoch).unwrap();
            let penalty = FirstComponentPenalty { weight, threshold: 0.1 };
            for network in [&mut captured, &mut plain] {
                network.penalise(penalty);
            }
            let mut taken = 0;
            for count in BATCHES {
                captured.step(Images::Next { images: &images, order: &mut order, count }).unwrap();
                for network in [&mut plain, &mut free] {
                    setting.plain_step(network, &shuffled(epoch)[taken..][..count], epoch);
                }
                taken += count;
            }
            assert_eq!(captured.totals().unwrap(), plain.totals().unwrap(), "{arithmetic:?}, epoch {epoch}");
            assert!(setting.learnt(&captured) == setting.learnt(&plain), "{arithmetic:?}, epoch {epoch}");
            assert!(setting.learnt(&captured) != setting.learnt(&free), "{arithmetic:?}: the penalty does nothing");
        }
    }
}

#[test]
fn captured_evaluations_have_the_bits_of_plain_ones() {
    if let Some(trace) = on_fake_driver(&driver(), "captured_evaluations_have_the_bits_of_plain_ones") {
        // Of batches of 5, 5 and 3 and two networks: in the first epoch one, in the others two.
        assert_eq!(trace.count("graph"), 2 * 5);
        return;
    }
    [false, true].map(Setting::new).iter().for_each(evaluate_both_ways);
}

fn evaluate_both_ways(setting: &Setting) {
    let device = Arc::new(Device::open(0).unwrap());
    let (images, mut network) = (setting.stored(&device), setting.on_device(&device, Arithmetic::Float32));
    let mut order = Order::new(device.clone(), IMAGES, Placing::default()).unwrap();
    for epoch in 1..=3 {
        order.begin(&shuffled(epoch), 0, 1).unwrap();
        let mut whole = setting.on_device(&device, Arithmetic::Float32);
        for (step, images) in shuffled(0).chunks(4).take(epoch as usize).enumerate() {
            setting.plain_step(&mut whole, images, step as u32);
            if step as u32 + 1 == epoch {
                setting.plain_step(&mut network, images, step as u32);
            }
        }
        for batch in shuffled(epoch).chunks(5) {
            let next = Images::Next { images: &images, order: &mut order, count: batch.len() };
            let found = network.forward(next).unwrap();
            let expected = whole.forward(Images::Stored { images: &images, order: batch }).unwrap();
            assert!(found.iter().all(|logit| logit.is_finite()) && found == expected, "epoch {epoch}");
        }
    }
}

/// Memory that is `buffer` alone.
fn written(buffer: &mut Slice<f32>) -> Regions<'_> {
    let mut memory = Regions::default();
    memory.writes(buffer);
    memory
}

#[test]
fn what_cannot_be_captured_is_refused() {
    if on_fake_driver(&driver(), "what_cannot_be_captured_is_refused").is_some() {
        return;
    }
    let device = Device::open(0).unwrap();
    let mut buffer = device.upload("numbers", &[1.0_f32, -2.0, 3.0]).unwrap();
    let refused = |work: &dyn Fn() -> Result<(), Error>| {
        let error = device.capture(work).err().unwrap().to_string();
        assert!(error.contains("CAPTURE"), "{error}");
        // The device is as good as before.
        device.synchronise().unwrap();
    };
    refused(&|| device.synchronise());
    refused(&|| device.zeros::<f32>("nothing", 1).map(drop));
    refused(&|| device.upload("nothing", &[1]).map(drop));
    refused(&|| device.download(&buffer).map(drop));
    let failed = Error::NotWritten { what: "the test" };
    let error = device.capture(|| Err(failed.clone())).err();
    assert_eq!(error, Some(failed));

    let captured = device.capture(|| device.launcher().relu(&mut buffer.as_view_mut(), 3)).unwrap();
    assert_eq!(device.download(&buffer).unwrap(), [1.0, -2.0, 3.0], "a capture ran");
    let mut memory = Regions::default();
    memory.reads(&buffer);
    let error = captured.over(&memory).err().unwrap().to_string();
    assert!(error.contains("not shown"), "{error}");

    let captured = device.capture(|| device.launcher().relu(&mut buffer.as_view_mut(), 3)).unwrap();
    let graph = captured.over(&written(&mut buffer)).unwrap();
    let mut other = device.upload("numbers", &[-1.0_f32, -1.0, -1.0]).unwrap();
    assert!(!graph.launch(&written(&mut other)).unwrap());
    assert!(graph.launch(&written(&mut buffer)).unwrap());
    assert_eq!(device.download(&buffer).unwrap(), [1.0, 0.0, 3.0]);
    assert_eq!(device.download(&other).unwrap(), [-1.0; 3]);
}

#[test]
fn a_stream_takes_no_other_streams_memory() {
    if on_fake_driver(&driver(), "a_stream_takes_no_other_streams_memory").is_some() {
        return;
    }
    let device = Device::open(0).unwrap();
    let fork = device.fork().unwrap();
    let mut buffer = device.upload("numbers", &[1.0_f32, -2.0]).unwrap();
    let error = fork.launcher().relu(&mut buffer.as_view_mut(), 2).unwrap_err().to_string();
    assert!(error.contains("another stream"), "{error}");
    let copied = [fork.copy_to("numbers", &[1.0, 2.0], &mut buffer.as_view_mut()), fork.download(&buffer).map(drop)];
    assert!(copied.into_iter().all(|result| result.unwrap_err().to_string().contains("another stream")));
    device.launcher().relu(&mut buffer.as_view_mut(), 2).unwrap();
    assert_eq!(device.download(&buffer).unwrap(), [1.0, 0.0]);
}

/// What is in a buffer whose device is gone.
fn downloaded(buffer: &Slice<f32>) -> Vec<f32> {
    let values = buffer.stream().clone_dtoh(buffer).unwrap();
    buffer.stream().synchronize().unwrap();
    values
}

/// Its kernels stay for it.
#[test]
fn a_graph_outlives_its_device() {
    if on_fake_driver(&driver(), "a_graph_outlives_its_device").is_some() {
        return;
    }
    let device = Device::open(0).unwrap();
    let mut buffer = device.upload("numbers", &[1.0_f32, -2.0]).unwrap();
    let captured = device.capture(|| device.launcher().relu(&mut buffer.as_view_mut(), 2)).unwrap();
    let graph = captured.over(&written(&mut buffer)).unwrap();
    drop(device);
    assert!(graph.launch(&written(&mut buffer)).unwrap());
    drop(graph);
    // Another device of the same GPU has kernels of its own.
    assert_eq!(downloaded(&buffer), [1.0, 0.0]);
    Device::open(0).unwrap().synchronise().unwrap();
}

/// What has been launched is done before the kernels go.
#[test]
fn a_device_waits_for_its_work_when_it_goes() {
    if on_fake_driver(&driver(), "a_device_waits_for_its_work_when_it_goes").is_some() {
        return;
    }
    let device = Device::open(0).unwrap();
    let mut buffer = device.upload("numbers", &[1.0_f32, -2.0]).unwrap();
    device.launcher().relu(&mut buffer.as_view_mut(), 2).unwrap();
    drop(device);
    assert_eq!(downloaded(&buffer), [1.0, 0.0]);
    Device::open(0).unwrap().synchronise().unwrap();
}

#[test]
fn a_capture_ends_where_its_work_panics() {
    if on_fake_driver(&driver(), "a_capture_ends_where_its_work_panics").is_some() {
        return;
    }
    let device = Device::open(0).unwrap();
    let mut buffer = device.upload("numbers", &[1.0_f32, -2.0]).unwrap();
    let panicking = || device.capture(|| -> Result<(), Error> { panic!("the test") });
    assert!(catch_unwind(AssertUnwindSafe(panicking)).is_err());
    device.synchronise().unwrap();
    let captured = device.capture(|| device.launcher().relu(&mut buffer.as_view_mut(), 2)).unwrap();
    let graph = captured.over(&written(&mut buffer)).unwrap();
    assert!(graph.launch(&written(&mut buffer)).unwrap());
    assert_eq!(device.download(&buffer).unwrap(), [1.0, 0.0]);
}
