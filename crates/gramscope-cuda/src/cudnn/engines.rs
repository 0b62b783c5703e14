//! The engines that compute a graph: which there are, which of them are wanted, and the plans that they become.

use super::descriptor::attribute::*;
use super::descriptor::{Attribute, BehaviourNote, Descriptor, HeuristicMode, Kind, KnobKind, Note, RawHandle};
use super::graph::Graph;
use super::library::Library;
use crate::choices::Choice;
use crate::error::Error;
use crate::plan::Arithmetic;

/// What cuDNN is asked for engines: the best first, and what is there where those do not do.
const MODES: [HeuristicMode; 2] = [HeuristicMode(3), HeuristicMode(2)];
/// Knobs, or notes, that an engine may have.
const MOST: usize = 64;

const TENSOR_CORE: Note = Note(0);
/// Passes NaN on as it should.
const STRICT_NAN: Note = Note(9);
/// Its plans are compiled when they are made.
const RUNTIME_COMPILATION: BehaviourNote = BehaviourNote(0);

/// What plans are made for.
pub(super) enum Target {
    /// The device of a handle.
    Handle(RawHandle),
    /// A device that need not be there.
    #[cfg(test)]
    Properties(Descriptor),
}

/// An engine with its settings, that computes a graph as it is wanted.
pub(super) struct Candidate {
    pub(super) choice: Choice,
    pub(super) config: Descriptor,
    /// Its plan is compiled when it is made, which takes a second or so.
    pub(super) is_compiled: bool,
}

/// What can be executed.
pub(super) struct Plan {
    pub(super) plan: Descriptor,
    /// Bytes of device memory that it works in.
    pub(super) workspace: usize,
    _config: Descriptor,
}

impl Target {
    /// A graph for it.
    pub(super) fn of_graph(&self, graph: Descriptor) -> Result<Descriptor, Error> {
        match self {
            Self::Handle(handle) => graph.with(OPERATIONGRAPH_HANDLE, &[*handle]),
            #[cfg(test)]
            Self::Properties(_) => Ok(graph),
        }
    }

    /// A search for engines for it.
    fn of_heuristics(&self, heuristics: Descriptor) -> Result<Descriptor, Error> {
        match self {
            Self::Handle(_) => Ok(heuristics),
            #[cfg(test)]
            Self::Properties(properties) => {
                heuristics.with_descriptors(super::real::ENGINEHEUR_DEVICEPROP, &[properties])
            }
        }
    }

    /// An engine for it.
    fn of_engine(&self, engine: Descriptor) -> Result<Descriptor, Error> {
        match self {
            Self::Handle(_) => Ok(engine),
            #[cfg(test)]
            Self::Properties(properties) => engine.with_descriptors(super::real::ENGINE_DEVICEPROP, &[properties]),
        }
    }

    /// A plan for it.
    fn of_plan(&self, plan: Descriptor) -> Result<Descriptor, Error> {
        match self {
            Self::Handle(handle) => plan.with(EXECUTION_PLAN_HANDLE, &[*handle]),
            #[cfg(test)]
            Self::Properties(properties) => {
                plan.with_descriptors(super::real::EXECUTION_PLAN_DEVICEPROP, &[properties])
            }
        }
    }
}

/// The engines that compute `graph` in this arithmetic, always to the same bits, the most promising first.
pub(super) fn candidates(
    api: &'static Library,
    target: &Target,
    graph: &Graph,
    arithmetic: Arithmetic,
) -> Result<Vec<Candidate>, Error> {
    let mut found: Vec<Candidate> = Vec::new();
    for mode in MODES {
        let heuristics = Descriptor::new(api, Kind::Heuristics)?
            .with_descriptors(ENGINEHEUR_OPERATION_GRAPH, &[&graph.graph])?
            .with(ENGINEHEUR_MODE, &[mode])?;
        let heuristics = target.of_heuristics(heuristics)?.finalised()?;
        let count = heuristics.count(ENGINEHEUR_RESULTS)?;
        for config in heuristics.get_descriptors(ENGINEHEUR_RESULTS, Kind::EngineConfig, count)? {
            let engine = one(&config, ENGINECFG_ENGINE, Kind::Engine)?;
            if !are_wanted(&engine.get(ENGINE_NUMERICAL_NOTE, MOST)?, arithmetic) {
                continue;
            }
            let knobs = config.get_descriptors(ENGINECFG_KNOB_CHOICES, Kind::KnobChoice, MOST)?;
            let knob =
                |knob: &Descriptor| Ok((knob.get_one(KNOB_CHOICE_KNOB_TYPE)?.0, knob.get_one(KNOB_CHOICE_KNOB_VALUE)?));
            let knobs = knobs.iter().map(knob).collect::<Result<_, Error>>()?;
            let choice = Choice::Engine { index: engine.get_one(ENGINE_GLOBAL_INDEX)?, knobs };
            if found.iter().all(|known| known.choice != choice) {
                let is_compiled = engine.get(ENGINE_BEHAVIOUR_NOTE, MOST)?.contains(&RUNTIME_COMPILATION);
                found.push(Candidate { choice, config, is_compiled });
            }
        }
    }
    Ok(found)
}

/// Whether an engine with these notes computes as it is wanted: always the same bits, sums in float32, products of the factors as
/// they are (no Fourier or Winograd transform, whose errors grow with the largest values about them, no narrower factors), and
/// tensor cores only where they are asked for. What is not known is not wanted.
fn are_wanted(notes: &[Note], arithmetic: Arithmetic) -> bool {
    notes.iter().all(|&note| match note {
        STRICT_NAN => true,
        TENSOR_CORE => arithmetic != Arithmetic::Float32,
        _ => false,
    })
}

/// Engine `index` of `graph` with these knobs.
pub(super) fn config(
    api: &'static Library,
    target: &Target,
    graph: &Graph,
    index: i64,
    knobs: &[(i32, i64)],
) -> Result<Descriptor, Error> {
    let engine = Descriptor::new(api, Kind::Engine)?
        .with_descriptors(ENGINE_OPERATION_GRAPH, &[&graph.graph])?
        .with(ENGINE_GLOBAL_INDEX, &[index])?;
    let engine = target.of_engine(engine)?.finalised()?;
    let knob = |&(kind, value): &(i32, i64)| {
        Descriptor::new(api, Kind::KnobChoice)?
            .with(KNOB_CHOICE_KNOB_TYPE, &[KnobKind(kind)])?
            .with(KNOB_CHOICE_KNOB_VALUE, &[value])?
            .finalised()
    };
    let knobs = knobs.iter().map(knob).collect::<Result<Vec<_>, _>>()?;
    let config = Descriptor::new(api, Kind::EngineConfig)?.with_descriptors(ENGINECFG_ENGINE, &[&engine])?;
    config.with_descriptors(ENGINECFG_KNOB_CHOICES, &knobs.iter().collect::<Vec<_>>())?.finalised()
}

impl Plan {
    /// The plan of an engine.
    pub(super) fn new(api: &'static Library, target: &Target, config: Descriptor) -> Result<Self, Error> {
        let plan = target.of_plan(Descriptor::new(api, Kind::Plan)?)?;
        let plan = plan.with_descriptors(EXECUTION_PLAN_ENGINE_CONFIG, &[&config])?.finalised()?;
        let workspace = plan.get_one(EXECUTION_PLAN_WORKSPACE_SIZE)?;
        Ok(Self { plan, workspace: usize::try_from(workspace).unwrap_or(0), _config: config })
    }
}

fn one(
    of: &Descriptor,
    attribute: Attribute<super::descriptor::OfDescriptors>,
    kind: Kind,
) -> Result<Descriptor, Error> {
    let missing = || Error::Cudnn { action: "looking for engines".to_owned(), message: format!("no {kind:?}") };
    of.get_descriptors(attribute, kind, 1)?.pop().ok_or_else(missing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn engines_that_would_compute_otherwise_are_not_wanted() {
        let (down_convert, reduced, fft, varying, winograd, unknown) =
            (Note(1), Note(2), Note(3), Note(4), Note(5), Note(77));
        for arithmetic in [Arithmetic::Float32, Arithmetic::Tf32, Arithmetic::Bf16] {
            assert!(are_wanted(&[], arithmetic) && are_wanted(&[STRICT_NAN], arithmetic));
            for note in [down_convert, reduced, fft, varying, winograd, unknown] {
                assert!(!are_wanted(&[note], arithmetic) && !are_wanted(&[STRICT_NAN, note], arithmetic), "{note:?}");
            }
            assert_eq!(are_wanted(&[TENSOR_CORE], arithmetic), arithmetic != Arithmetic::Float32);
        }
    }
}
