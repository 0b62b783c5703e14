//! Every command that looks into a network takes it as it was after a kept epoch, `RUN@EPOCH`.
#![allow(clippy::unwrap_used)]

mod support;

use std::path::Path;

use gramscope_study::Saved;
use gramscope_study::ablate::AblateResult;
use gramscope_study::cosine::CosineResult;
use gramscope_study::pcs::PcsResult;
use gramscope_study::probe::ProbeResult;
use gramscope_study::sparsity::Sparsity;
use support::{TINY, fails, succeeds};

/// A command, and what of its result depends on the network; numbers are written with all their digits.
type Command = (&'static [&'static str], fn(&Path) -> String);

const COMMANDS: [Command; 5] = [
    (&["probe", "--epochs", "20", "--layers", "pool|logits|relu2"], |dir| {
        format!("{:?}", ProbeResult::load(dir).unwrap().layers)
    }),
    (&["ablate", "--each"], |dir| {
        let result = AblateResult::load(dir).unwrap();
        format!("{:?} {:?}", result.stages, result.info.alone)
    }),
    (&["sparsity"], |dir| format!("{:?}", Sparsity::load(dir).unwrap().unit_zeros)),
    (&["pcs"], |dir| format!("{:?}", PcsResult::load(dir).unwrap().similarity)),
    (&["cosine"], |dir| format!("{:?}", CosineResult::load(dir).unwrap().cosine)),
];

/// The last kept epoch is the run, to the bit; an earlier one is another network; and one that was not kept is an error.
#[test]
fn a_kept_epoch_is_the_network_after_it() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let run = at("run");
    // At a rate at which epochs change which images are right.
    let flags = ["--learning-rate", "0.05", "--checkpoint-every", "3", "--out", &run];
    succeeds(["train"].into_iter().chain(TINY.map(|flag| if flag == "2" { "6" } else { flag })).chain(flags));
    for (flags, load) in COMMANDS {
        let of = |name: &str| {
            let out = at(&format!("{}-of-{name}", flags[0]));
            let (command, rest) = flags.split_first().unwrap();
            succeeds([command, &*at(name), "--out", &out].into_iter().chain(rest.iter().copied()));
            load(Path::new(&out))
        };
        let now = of("run");
        assert_eq!(of("run@6"), now, "{flags:?}: the last epoch is not the run");
        assert_ne!(of("run@3"), now, "{flags:?}: an earlier epoch is no other network");
        let out = at("refused");
        for epoch in ["0", "4", "7"] {
            fails([flags[0], &format!("{run}@{epoch}"), "--out", &out], 1, &["epochs that were kept are 3, 6"]);
        }
        assert!(!Path::new(&out).exists(), "{flags:?} left something");
    }
}
