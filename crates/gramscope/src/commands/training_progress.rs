//! How a training run looks while it goes on: a bar that moves a step at a time, and a line an epoch.

use gramscope_train::Event;
use serde_json::json;

use crate::console::{Console, Progress, Unit};

/// Shows the events of a run.
pub(crate) struct TrainingProgress<'a> {
    console: &'a Console,
    bar: Option<Progress<'a>>,
    name: String,
    epochs: usize,
    steps_per_epoch: usize,
}

impl<'a> TrainingProgress<'a> {
    pub(crate) fn new(console: &'a Console) -> Self {
        Self { console, bar: None, name: String::new(), epochs: 0, steps_per_epoch: 0 }
    }

    pub(crate) fn show(&mut self, event: Event<'_>) {
        match event {
            Event::Started { name, epochs, steps_per_epoch, first_epoch, parameters } => {
                self.name = name.to_owned();
                self.epochs = epochs;
                self.steps_per_epoch = steps_per_epoch;
                let mut bar = self.console.progress(Unit::Steps, (epochs * steps_per_epoch) as u64);
                bar.begin_at(((first_epoch - 1) * steps_per_epoch) as u64);
                self.bar = Some(bar);
                let text = format!("{name}: {parameters} parameters, epochs {first_epoch} to {epochs}");
                let fields =
                    json!({ "run": name, "parameters": parameters, "first_epoch": first_epoch, "epochs": epochs });
                self.console.note("started", &text, fields);
            }
            Event::Step { epoch, step, loss, accuracy, images_per_second } => {
                let done = ((epoch - 1) * self.steps_per_epoch + step) as u64;
                let prefix = format!("{} epoch {epoch}/{}", self.name, self.epochs);
                let message = format!("loss {loss:.3} accuracy {accuracy:.3} {images_per_second:.0} images/s");
                if let Some(bar) = &mut self.bar {
                    bar.update(done, &prefix, &message);
                }
            }
            Event::Epoch(metrics) => {
                let text = format!(
                    "{} epoch {}/{}: loss {:.3}, accuracy {:.3} (training), {:.3} (test), {:.0} images/s",
                    self.name,
                    metrics.epoch,
                    self.epochs,
                    metrics.train_loss,
                    metrics.train_accuracy,
                    metrics.test_accuracy,
                    metrics.images_per_second
                );
                let mut fields = serde_json::to_value(metrics).unwrap_or_default();
                if let Some(fields) = fields.as_object_mut() {
                    fields.insert("run".to_owned(), json!(self.name));
                }
                self.console.note("epoch", &text, fields);
            }
            Event::Finished => self.bar = None,
        }
    }
}
