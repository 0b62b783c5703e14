//! `gramscope quickstart`: everything once, on a small family.

use gramscope_study::quickstart::{QuickstartEvent, Scale, quickstart};

use super::show_progress;
use super::sweep::SweepProgress;
use crate::arguments::QuickstartArguments;
use crate::console::{Console, Unit};
use crate::device;
use crate::interrupt::Interrupt;

/// Trains, compares, reports, and says what was found and where to look.
pub(crate) fn run(arguments: &QuickstartArguments, interrupt: &Interrupt, console: &Console) -> anyhow::Result<()> {
    let processor = device::processor(&arguments.device, console)?;
    let default = Scale::default();
    let scale = Scale {
        train_images: arguments.train_images.unwrap_or(default.train_images),
        test_images: arguments.test_images.unwrap_or(default.test_images),
        epochs: arguments.epochs.unwrap_or(default.epochs),
    };
    let mut training = SweepProgress::new(console);
    let mut comparing = None;
    let result = quickstart(&arguments.out, scale, &processor, interrupt.requested(), &mut |event| match event {
        QuickstartEvent::Training(event) => training.show(event),
        QuickstartEvent::Comparing(progress) => show_progress(
            comparing.get_or_insert_with(|| console.progress(Unit::Passes, progress.total as u64)),
            "comparing",
            progress,
        ),
    })?;
    drop(comparing);
    for finding in &result.findings {
        console.result(finding);
    }
    console.result(&format!("All networks at a glance: {}", result.maps.display()));
    console.result(&format!("Every map, curve and number: {}", result.report.display()));
    Ok(())
}
