//! `gramscope data`: what data there is, where it comes from, what it looks like.

use std::path::Path;

use anyhow::Context;
use gramscope_train::data::{self, DataConfig, DataName, Summary, fetch};

use crate::arguments::{DataCommand, FetchArgument, InfoArguments};
use crate::console::{Console, Unit};
use crate::words::counted;

/// Columns of a contact sheet, and how much larger than life it shows images.
const SHEET_COLUMNS: usize = 12;
const SHEET_SCALE: usize = 2;

/// Lists, fetches or describes.
pub(crate) fn run(command: &DataCommand, console: &Console) -> anyhow::Result<()> {
    match command {
        DataCommand::List => list(console),
        DataCommand::Fetch { name } => download(*name, console),
        DataCommand::Info { data, sheet } => info(data, sheet.as_deref(), console),
    }
}

fn list(console: &Console) -> anyhow::Result<()> {
    console.result("builtin    drawn by the program: 10 classes of shapes and textures, 32 x 32, any number of images");
    let cache = data::cache_dir()?;
    for (name, archive) in [(DataName::Cifar10, fetch::CIFAR10), (DataName::Cifar100, fetch::CIFAR100)] {
        let dir = cache.join(archive.folder);
        let state = match data::check_files(name, &dir) {
            _ if !dir.is_dir() => format!("not on this machine: gramscope data fetch {name}"),
            Ok(()) => format!("in {}", dir.display()),
            Err(damage) => format!("damaged: {damage}"),
        };
        console.result(&format!("{:<10} {state}", name.as_str()));
    }
    console.result("DIR        a directory with CIFAR's binary files, or with train/ and test/ and a folder a class");
    Ok(())
}

fn download(name: FetchArgument, console: &Console) -> anyhow::Result<()> {
    let (name, archive) = match name {
        FetchArgument::Cifar10 => (DataName::Cifar10, &fetch::CIFAR10),
        FetchArgument::Cifar100 => (DataName::Cifar100, &fetch::CIFAR100),
    };
    let mut bar = console.progress(Unit::Bytes, archive.bytes);
    let dir = fetch::fetch(archive, &data::cache_dir()?, fetch::BASE_URL, &mut |done, total| {
        if let Some(total) = total {
            bar.set_total(total);
        }
        bar.update(done, archive.file, "");
    })?;
    drop(bar);
    // What was there already may have lost a file since.
    data::check_files(name, &dir)?;
    console.result(&format!("{}", dir.display()));
    Ok(())
}

fn info(arguments: &InfoArguments, sheet: Option<&Path>, console: &Console) -> anyhow::Result<()> {
    let named = DataConfig::resolve_argument(&arguments.data)?;
    let dataset = data::load(&DataConfig { image_side: arguments.image_side.or(named.image_side), ..named })?;
    console.result(&describe(&dataset.summary()));
    if let Some(path) = sheet {
        data::write_contact_sheet(&dataset, SHEET_COLUMNS, SHEET_SCALE, path)
            .with_context(|| format!("cannot write the contact sheet {}", path.display()))?;
        console.result(&format!("contact sheet: {}", path.display()));
    }
    Ok(())
}

/// Names and counts of the classes, a line each.
fn describe(summary: &Summary) -> String {
    let Summary { name, classes, image_side, train, test } = summary;
    let mut lines = vec![format!(
        "{name}: {}, {} training and {} test images of {image_side} x {image_side}",
        counted(classes.len(), "class", "classes"),
        train.iter().sum::<usize>(),
        test.iter().sum::<usize>()
    )];
    let width = classes.iter().map(|class| class.chars().count()).max().unwrap_or(0);
    for ((class, train), test) in classes.iter().zip(train).zip(test) {
        lines.push(format!("  {class:<width$}  {train:>7} {test:>7}"));
    }
    lines.join("\n")
}
