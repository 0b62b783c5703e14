//! The flags that would mend an error. Libraries say in words what is wrong and what would help, and know no command line.

use std::error::Error as StdError;
use std::sync::Arc;

use clap::{Arg, ArgMatches};
use gramscope_nn::Backend;
use gramscope_study::{Fewer, Setting};
use gramscope_train::settings::{ConfigError, Difference};

use crate::arguments::command_line;

/// The flags that the command has which was given.
#[derive(Debug)]
pub(crate) struct Flags(Vec<String>);

impl Flags {
    /// Of the command, or the command's command, that `matches` names.
    pub(crate) fn of_command(mut matches: &ArgMatches) -> Self {
        let root = command_line();
        let mut command = &root;
        while let Some((name, inner)) = matches.subcommand()
            && let Some(found) = command.find_subcommand(name)
        {
            (command, matches) = (found, inner);
        }
        Self(command.get_arguments().filter_map(Arg::get_long).map(|long| format!("--{long}")).collect())
    }

    /// What to append to the message of `error`: in brackets, the flags of this command, or the other commands, that do what it
    /// advises.
    pub(crate) fn advice(&self, error: &anyhow::Error) -> String {
        let mending = error.chain().find_map(flags_for).unwrap_or_default();
        let is_known = |flag: &str| self.0.iter().any(|known| known == flag);
        let had = |text: &String| !text.starts_with("--") || text.split(' ').next().is_some_and(is_known);
        let mending: Vec<String> = mending.into_iter().filter(had).collect();
        if mending.is_empty() { String::new() } else { format!(" ({})", mending.join(", ")) }
    }
}

/// The flags of whichever command, or the commands, that mend `error`, if it is a library's.
fn flags_for(error: &(dyn StdError + 'static)) -> Option<Vec<String>> {
    let study = error.downcast_ref().map(for_study);
    let train = || error.downcast_ref().or(error.downcast_ref::<Arc<_>>().map(Arc::as_ref)).map(for_train);
    let network = || error.downcast_ref().map(for_network);
    study.or_else(train).or_else(network).or_else(|| error.downcast_ref().map(for_gpu))
}

fn for_study(error: &gramscope_study::Error) -> Vec<String> {
    use gramscope_study::Error;
    match error {
        Error::NonFinite { .. } => flags(["--layers"]),
        Error::File { mend, .. } | Error::Incomparable { mend, .. } => flags(mend.iter().copied().map(for_choice)),
        Error::Memory { lower, .. } => {
            let flag = |fewer: &Fewer| match fewer {
                Fewer::InBatch => "--batch-size",
                Fewer::Examples => "--examples",
                Fewer::Layers => "--layers",
            };
            flags(lower.iter().map(flag).chain(["--memory-limit"]))
        }
        Error::Cka { reason: gramscope_cka::Error::Device(reason), .. } => for_gpu(reason),
        Error::Untrained { reason, .. } => for_train(reason),
        Error::Train(reason) => for_train(reason),
        Error::Network(reason) => for_network(reason),
        _ => Vec::new(),
    }
}

fn for_train(error: &gramscope_train::Error) -> Vec<String> {
    use gramscope_train::Error;
    match error {
        Error::Occupied { .. } => flags(["--resume", "--out"]),
        Error::Foreign { .. } | Error::SweepInRun { .. } | Error::OtherData { .. } => flags(["--out"]),
        Error::OtherSettings { difference, .. } => {
            let setting = (!has_to_go(difference)).then(|| for_setting(difference.key));
            setting.into_iter().chain(["--out".to_owned()]).collect()
        }
        Error::OtherBackend { begun, .. } => flags([for_backend(*begun), "--out"]),
        Error::InitialRun { .. } => flags(["--init-from"]),
        Error::NoPredictions { .. } | Error::UnfinishedInitialRun { .. } | Error::LostWeights { .. } => {
            flags(["train --resume", "sweep"])
        }
        Error::TooFewImages { .. } => flags(["--batch-size"]),
        Error::Interrupted { .. } => flags(["--resume"]),
        Error::Diverged { .. } | Error::DivergedInTest { .. } => flags(["--learning-rate", "--out"]),
        Error::Config(ConfigError::Setting { key: "init_stages", .. }) => flags(["--init-stages", "--init-from"]),
        Error::Config(ConfigError::Setting { key, .. }) => vec![for_setting(key)],
        Error::Network(reason) => for_network(reason),
        _ => Vec::new(),
    }
}

fn for_network(error: &gramscope_nn::Error) -> Vec<String> {
    match error {
        gramscope_nn::Error::Memory { images: 0, .. } => flags(["--width", "--depth"]),
        gramscope_nn::Error::Memory { .. } => flags(["--width", "--depth", "--batch-size"]),
        gramscope_nn::Error::Device(reason) => for_gpu(reason),
        _ => Vec::new(),
    }
}

fn for_gpu(error: &gramscope_cuda::Error) -> Vec<String> {
    use gramscope_cuda::Error;
    match error {
        Error::NotBuilt => flags(["--device cpu"]),
        Error::MemoryLimit { .. } => flags(["--memory-limit"]),
        _ => Vec::new(),
    }
}

/// The flag by which `setting` is chosen.
fn for_choice(setting: Setting) -> &'static str {
    match setting {
        Setting::Out => "--out",
        Setting::Data => "--data",
        Setting::Layers => "--layers",
        Setting::Examples => "--examples",
        Setting::TestImages => "--test-images",
        Setting::BatchSize => "--batch-size",
        Setting::KeepPartial => "--keep-partial",
        Setting::Passes => "--passes",
        Setting::Pairs => "--pairs",
        Setting::Epochs => "--epochs",
        Setting::LearningRate => "--learning-rate",
        Setting::Momentum => "--momentum",
        Setting::Top => "--top",
        Setting::DropDominant => "--drop-dominant",
        Setting::Block => "--block",
        Setting::Between => "--between",
        Setting::Scale => "--scale",
    }
}

/// The flag that sets `key` of a run.
fn for_setting(key: &str) -> String {
    match key {
        "residual" | "flip" => format!("--no-{key}"),
        "name" | "dir" => "--data".to_owned(),
        _ => format!("--{}", key.replace('_', "-")),
    }
}

/// Whether what makes the difference is a flag without a value, which was given and was not before: naming it would be no help.
fn has_to_go(difference: &Difference) -> bool {
    match difference.key {
        "residual" | "flip" => difference.asked == "false",
        "shake_shake" | "random_labels" => difference.asked == "true",
        _ => false,
    }
}

/// The flags that ask for `backend`.
fn for_backend(backend: Backend) -> &'static str {
    match backend {
        Backend::Cpu => "--device cpu",
        Backend::CudaF32 => "--device cuda --precision f32",
        Backend::CudaTf32 => "--device cuda --precision tf32",
        Backend::CudaBf16 => "--device cuda --precision bf16",
        Backend::CudaF32Cudnn => "--device cuda --precision f32 --convolutions cudnn",
        Backend::CudaTf32Cudnn => "--device cuda --precision tf32 --convolutions cudnn",
        Backend::CudaBf16Cudnn => "--device cuda --precision bf16 --convolutions cudnn",
    }
}

fn flags<'a>(flags: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    flags.into_iter().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use gramscope_train::TrainSettings;

    use super::*;

    fn flags_of(arguments: &[&str]) -> Flags {
        Flags::of_command(&command_line().try_get_matches_from(arguments).unwrap())
    }

    #[test]
    fn only_flags_that_the_command_has_are_named() {
        let of_batch = |images| gramscope_nn::Error::Memory { what: String::new(), needed: 1, total: 0, images };
        let memory = || of_batch(1);
        let trained = || gramscope_train::Error::from(memory());
        let failed = anyhow::Error::new(Arc::new(trained())).context("runs/a");
        let studied =
            anyhow::Error::new(gramscope_study::Error::Untrained { run: "a".to_owned(), reason: Arc::new(trained()) });
        for (arguments, advice) in [
            (&["gramscope", "train", "--depth", "8", "--out", "a"][..], " (--width, --depth, --batch-size)"),
            (&["gramscope", "bench", "train"], " (--width, --depth, --batch-size)"),
            (&["gramscope", "cka", "a", "--out", "b"], " (--batch-size)"),
            (&["gramscope", "sweep", "a", "--out", "b"], ""),
        ] {
            let flags = flags_of(arguments);
            for error in [&memory().into(), &anyhow::Error::new(trained()), &failed, &studied] {
                assert_eq!(flags.advice(error), advice, "{arguments:?}");
            }
            let advice = flags.advice(&of_batch(0).into());
            assert!(!advice.contains("--batch-size"), "{advice}");
        }
    }

    #[test]
    fn what_mends_a_run_is_named_and_what_does_not_is_not() {
        use gramscope_train::Error;
        let flags = flags_of(&["gramscope", "train", "--depth", "8", "--out", "a"]);
        let advice = |error: Error| flags.advice(&error.into());
        let other = |key, stored: &str, asked: &str| {
            let difference = Difference { key, stored: stored.to_owned(), asked: asked.to_owned() };
            advice(Error::OtherSettings { dir: "a".into(), difference })
        };
        assert_eq!(other("residual", "true", "false"), " (--out)");
        assert_eq!(other("residual", "false", "true"), " (--no-residual, --out)");
        assert_eq!(other("shake_shake", "not set", "true"), " (--out)");
        assert_eq!(other("seed", "1", "2"), " (--seed, --out)");
        for epoch in [1, 2] {
            for error in [
                Error::Diverged { epoch, step: 3, loss: f64::NAN },
                Error::DivergedInTest { epoch, loss: f64::INFINITY },
            ] {
                let message = error.to_string();
                assert!(message.ends_with("a smaller learning_rate, into another directory"), "{message}");
                assert_eq!(message.contains("kept"), epoch > 1, "{message}");
                assert_eq!(advice(error), " (--learning-rate, --out)");
            }
        }
        let unfinished = advice(Error::UnfinishedInitialRun { dir: "b".into() });
        assert!(unfinished.contains("--resume") && !unfinished.contains("--init-from"), "{unfinished}");
    }

    #[test]
    fn every_setting_and_every_backend_has_a_flag_of_train() {
        let Flags(flags) = flags_of(&["gramscope", "train", "--depth", "8", "--out", "a"]);
        let backends =
            [Backend::Cpu, Backend::CudaBf16Cudnn].map(for_backend).into_iter().flat_map(|text| text.split(' '));
        let named = backends.filter(|word| word.starts_with("--")).map(str::to_owned);
        for flag in TrainSettings::KEYS.map(for_setting).into_iter().chain(named) {
            assert!(flags.contains(&flag), "{flag}");
        }
    }
}
