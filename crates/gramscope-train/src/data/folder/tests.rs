#![allow(clippy::unwrap_used)]

use image::codecs::png::PngEncoder;
use image::{DynamicImage, ExtendedColorType, GrayImage, ImageEncoder, ImageFormat, Rgb, Rgba, RgbaImage};
use tempfile::TempDir;

use super::super::load as load_any;
use super::*;

/// A picture whose every pixel tells its place.
fn picture(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| Rgb([(x * 5 % 256) as u8, (y * 5 % 256) as u8, ((x + y) % 256) as u8]))
}

struct Folder(TempDir);

impl Folder {
    /// With one good image in each of two classes and both splits.
    fn new() -> Self {
        let folder = Self(TempDir::new().unwrap());
        for place in ["train/cat", "train/dog", "test/cat", "test/dog"] {
            folder.save(&format!("{place}/first.png"), &DynamicImage::ImageRgb8(picture(8, 8)));
        }
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        let path = self.0.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    }

    fn save(&self, name: &str, image: &DynamicImage) {
        let format = if name.to_lowercase().ends_with("png") { ImageFormat::Png } else { ImageFormat::Jpeg };
        image.save_with_format(self.path(name), format).unwrap();
    }

    fn config(&self) -> DataConfig {
        DataConfig {
            name: DataName::Folder,
            dir: Some(self.0.path().to_path_buf()),
            image_side: Some(8),
            ..DataConfig::default()
        }
    }

    fn load(&self) -> Result<Dataset, DataError> {
        load_any(&self.config())
    }

    fn message(&self) -> String {
        self.load().unwrap_err().to_string()
    }
}

#[test]
fn classes_and_images_come_in_the_order_of_their_names() {
    let folder = Folder::new();
    folder.save("train/ant/b.png", &DynamicImage::ImageRgb8(RgbImage::from_pixel(8, 8, Rgb([2; 3]))));
    folder.save("train/ant/a.PNG", &DynamicImage::ImageRgb8(RgbImage::from_pixel(8, 8, Rgb([1; 3]))));
    folder.save("train/ant/c.jpeg", &DynamicImage::ImageRgb8(RgbImage::from_pixel(8, 8, Rgb([100; 3]))));
    fs::write(folder.path("train/ant/.hidden.png"), b"no image").unwrap();
    fs::write(folder.path("train/ant/notes.txt"), b"no image").unwrap();
    fs::write(folder.path("train/readme.md"), b"no class").unwrap();
    let dataset = folder.load().unwrap();
    assert_eq!(dataset.classes, ["ant", "cat", "dog"]);
    assert_eq!(dataset.train.labels(), [0, 0, 0, 1, 2]);
    assert_eq!(dataset.test.labels(), [1, 2], "a class may be missing from the test split");
    assert_eq!([0, 1, 2].map(|index| dataset.train.image(index)[0]), [1, 2, 100]);
}

/// A file is that of its image, whichever images a limit leaves.
#[test]
fn test_images_know_their_files() {
    let folder = Folder::new();
    for (name, grey) in [("cat/a.png", 1), ("cat/b.png", 2), ("dog/c.JPEG", 3), ("dog/d.png", 4), ("dog/e.png", 5)] {
        folder.save(&format!("test/{name}"), &DynamicImage::ImageRgb8(RgbImage::from_pixel(8, 8, Rgb([grey; 3]))));
    }
    for limit in 1..=7 {
        let dataset = load_any(&DataConfig { test_images: Some(limit), ..folder.config() }).unwrap();
        for index in 0..limit {
            let file = dataset.test.file(index).unwrap();
            let class = &dataset.classes[dataset.test.label(index) as usize];
            assert!(file.starts_with(Path::new("test").join(class)), "{}", file.display());
            let image = image::open(folder.0.path().join(file)).unwrap().into_rgb8();
            assert_eq!(dataset.test.image(index), image.as_raw().as_slice(), "{}", file.display());
        }
        assert!(dataset.test.file(limit).is_none() && dataset.train.file(0).is_none());
    }
}

#[test]
fn an_image_of_the_right_size_keeps_its_pixels() {
    let dataset = Folder::new().load().unwrap();
    assert_eq!(dataset.train.image(0), picture(8, 8).as_raw().as_slice());
}

/// The shorter side is right already, so what is left is the crop: columns or rows (long - 8) / 2 on.
#[test]
fn oblong_images_are_cropped_in_the_centre() {
    for (width, height, left, top) in [(21, 8, 6, 0), (8, 13, 0, 2), (9, 8, 0, 0)] {
        let folder = Folder::new();
        let whole = picture(width, height);
        folder.save("train/cat/first.png", &DynamicImage::ImageRgb8(whole.clone()));
        let dataset = folder.load().unwrap();
        let expected = imageops::crop_imm(&whole, left, top, 8, 8).to_image();
        assert_eq!(dataset.train.image(0), expected.as_raw().as_slice(), "{width} x {height}");
    }
}

/// A linear ramp stays one when it is resized: away from the borders, pixel x of 8 covers a share of the square's side
/// with its centre at (x + 1/2) / 8 of it, and a symmetric filter returns the ramp's value there, within rounding.
#[test]
fn larger_and_smaller_images_are_resized() {
    for (width, height) in [(40, 40), (72, 40), (40, 61), (4, 6)] {
        let step = if width < 8 { 50.0 } else { 3.0 };
        let ramp = RgbImage::from_fn(width, height, |x, _| Rgb([(f64::from(x) * step) as u8, 77, 200]));
        let folder = Folder::new();
        folder.save("train/cat/first.png", &DynamicImage::ImageRgb8(ramp));
        let dataset = folder.load().unwrap();
        let shorter = width.min(height);
        for (at, pixel) in dataset.train.image(0).chunks_exact(3).enumerate() {
            let (x, left) = ((at % 8) as f64, f64::from((width - shorter) / 2));
            let expected = step * (left + (x + 0.5) / 8.0 * f64::from(shorter) - 0.5);
            if (2..6).contains(&(at % 8)) {
                assert!((f64::from(pixel[0]) - expected).abs() <= 1.0, "{width} x {height}: {pixel:?}, {expected}");
            }
            assert_eq!(pixel[1..], [77, 200]);
        }
    }
}

#[test]
fn grey_transparent_and_deep_images_become_rgb() {
    let folder = Folder::new();
    folder.save("train/cat/a.png", &DynamicImage::ImageLuma8(GrayImage::from_pixel(8, 8, [90].into())));
    folder.save("train/cat/b.png", &DynamicImage::ImageRgba8(RgbaImage::from_pixel(8, 8, Rgba([10, 20, 30, 128]))));
    folder.save("train/cat/c.png", &DynamicImage::ImageRgb16(DynamicImage::ImageRgb8(picture(8, 8)).into_rgb16()));
    folder.save("train/cat/d.jpg", &DynamicImage::ImageLuma8(GrayImage::from_pixel(8, 8, [90].into())));
    let train = folder.load().unwrap().train;
    assert_eq!(train.image(0)[..3], [90, 90, 90]);
    assert_eq!(train.image(1)[..3], [10, 20, 30]);
    assert_eq!(train.image(2), picture(8, 8).as_raw().as_slice());
    assert_eq!(train.image(3)[..3], [90, 90, 90]);
}

/// A JPEG whose EXIF data says that it lies on its side (orientation 6: turn it clockwise) comes out upright.
#[test]
fn images_are_turned_as_their_exif_data_says() {
    let dark_left = RgbImage::from_fn(16, 16, |x, _| Rgb([if x < 8 { 0 } else { 255 }; 3]));
    let mut jpeg = Vec::new();
    DynamicImage::ImageRgb8(dark_left).write_to(&mut std::io::Cursor::new(&mut jpeg), ImageFormat::Jpeg).unwrap();
    // APP1, length, "Exif", then a little-endian TIFF with one entry: tag 0x0112, type SHORT, one value, 6.
    let tiff = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0";
    let mut segment = vec![0xff, 0xe1, 0, (2 + 6 + tiff.len()) as u8];
    segment.extend(b"Exif\0\0");
    segment.extend(tiff);
    jpeg.splice(2..2, segment);
    let folder = Folder::new();
    fs::write(folder.path("train/cat/first.jpg"), jpeg).unwrap();
    fs::remove_file(folder.path("train/cat/first.png")).unwrap();
    let dataset = folder.load().unwrap();
    let image = dataset.train.image(0);
    let (top, bottom) = (image[3 * 4], image[3 * (7 * 8 + 4)]);
    assert!(top < 40 && bottom > 215, "what was left must be above: {top}, {bottom}");
}

#[test]
fn a_limit_is_balanced_and_leaves_the_rest_undecoded() {
    let folder = Folder::new();
    for name in ["second", "third"] {
        folder.save(&format!("train/cat/{name}.png"), &DynamicImage::ImageRgb8(picture(8, 8)));
    }
    fs::write(folder.path("train/cat/zzz.png"), b"broken, and never looked at").unwrap();
    let dataset = load_any(&DataConfig { train_images: Some(3), ..folder.config() }).unwrap();
    assert_eq!(dataset.train.labels(), [0, 0, 1]);
    // What is impossible is said before anything is decoded.
    let error = load_any(&DataConfig { test_images: Some(3), ..folder.config() }).unwrap_err();
    assert!(matches!(error, DataError::TooFewImages { key: "test_images", asked: 3, found: 2 }), "{error}");
}

#[test]
fn corrupt_images_are_named() {
    let mut png = Vec::new();
    PngEncoder::new(&mut png).write_image(&[9; 40 * 40 * 3], 40, 40, ExtendedColorType::Rgb8).unwrap();
    let mut jpeg = Vec::new();
    let noisy = RgbImage::from_fn(64, 64, |x, y| Rgb([(x * y * 37 % 256) as u8; 3]));
    DynamicImage::ImageRgb8(noisy).write_to(&mut std::io::Cursor::new(&mut jpeg), ImageFormat::Jpeg).unwrap();
    for (name, content) in [
        ("text.png", b"this is no image".to_vec()),
        ("empty.jpg", Vec::new()),
        ("truncated.png", png[..png.len() / 2].to_vec()),
        ("truncated.jpg", jpeg[..jpeg.len() / 2].to_vec()),
        ("head.jpg", jpeg[..40].to_vec()),
    ] {
        let folder = Folder::new();
        fs::write(folder.path(&format!("test/dog/{name}")), content).unwrap();
        let message = folder.message();
        assert!(message.contains(&format!("test/dog/{name}")) && message.contains("cannot decode"), "{message}");
    }
}

/// A PNG of a few bytes that claims to be large: refused by its header, before anything of that size is allocated.
#[test]
fn image_bombs_are_refused() {
    for (width, height) in [(29_000_u32, 29_000_u32), (31_000, 1), (1, 31_000), (u32::MAX >> 1, u32::MAX >> 1)] {
        let mut png = Vec::new();
        PngEncoder::new(&mut png).write_image(&[0; 3], 1, 1, ExtendedColorType::Rgb8).unwrap();
        // The IHDR chunk: length 8..12, type 12..16, data 16..29, checksum 29..33.
        png[16..20].copy_from_slice(&width.to_be_bytes());
        png[20..24].copy_from_slice(&height.to_be_bytes());
        let checksum = crc32(&png[12..29]);
        png[29..33].copy_from_slice(&checksum.to_be_bytes());
        let folder = Folder::new();
        fs::write(folder.path("train/cat/bomb.png"), png).unwrap();
        let message = folder.message();
        assert!(message.contains("bomb.png") && message.to_lowercase().contains("limit"), "{message}");
    }
}

fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum()
}

#[test]
fn what_is_missing_is_named() {
    let folder = Folder::new();
    fs::remove_dir_all(folder.path("test")).unwrap();
    assert!(folder.message().contains("test is missing"), "{}", folder.message());

    let folder = Folder::new();
    folder.save("test/cow/first.png", &DynamicImage::ImageRgb8(picture(8, 8)));
    let message = folder.message();
    assert!(message.contains("test/cow") && message.contains("no counterpart"), "{message}");

    let folder = Folder::new();
    fs::create_dir(folder.path("train/empty")).unwrap();
    let message = folder.message();
    assert!(message.contains("train/empty holds no images"), "{message}");

    let folder = Folder::new();
    fs::remove_dir_all(folder.path("train")).unwrap();
    fs::create_dir(folder.path("train")).unwrap();
    assert!(folder.message().contains("no class folders"), "{}", folder.message());
}

/// A broken image in one class, and another broken one later: the first in order is reported, every time.
#[test]
fn of_several_errors_the_first_is_reported() {
    let folder = Folder::new();
    for index in 0..50 {
        fs::write(folder.path(&format!("train/dog/{index:02}.png")), b"broken").unwrap();
    }
    for _ in 0..5 {
        assert!(folder.message().contains("train/dog/00.png"), "{}", folder.message());
    }
}
