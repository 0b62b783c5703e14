//! Descriptors: which attributes each kind has, of which type and how many values, and what becomes of them once finalised.

use std::collections::BTreeMap;
use std::ffi::{c_int, c_void};
use std::sync::Arc;

use crate::engines::{self, Engine};
use crate::problem::Problem;
use crate::status::{
    ATTRIBUTE_TYPE, BAD_PARAM, DESCRIPTOR_TYPE, Failure, INSUFFICIENT, NOT_FINALISED, NOT_SUPPORTED, NULL_POINTER,
};
use crate::stream;

/// Types of attributes, as cuDNN numbers them, and bytes of a value.
const HANDLE: c_int = 0;
const DATA_TYPE: c_int = 1;
const BOOLEAN: c_int = 2;
const INT64: c_int = 3;
const FLOAT: c_int = 4;
const VOID_PTR: c_int = 6;
const CONVOLUTION_MODE: c_int = 7;
const HEUR_MODE: c_int = 8;
const KNOB_TYPE: c_int = 9;
const NUMERICAL_NOTE: c_int = 11;
const POINTWISE_MODE: c_int = 14;
const DESCRIPTOR: c_int = 15;
const BEHAVIOUR_NOTE: c_int = 19;

/// Kinds of descriptors.
pub(crate) mod kind {
    use std::ffi::c_int;

    pub(crate) const POINTWISE: c_int = 0;
    pub(crate) const CONVOLUTION: c_int = 1;
    pub(crate) const ENGINE: c_int = 2;
    pub(crate) const ENGINE_CONFIG: c_int = 3;
    pub(crate) const HEURISTICS: c_int = 4;
    pub(crate) const PLAN: c_int = 5;
    pub(crate) const KNOB_CHOICE: c_int = 7;
    pub(crate) const FORWARD: c_int = 10;
    pub(crate) const BWD_FILTER: c_int = 11;
    pub(crate) const BWD_DATA: c_int = 12;
    pub(crate) const POINTWISE_OPERATION: c_int = 13;
    pub(crate) const GRAPH: c_int = 15;
    pub(crate) const VARIANT_PACK: c_int = 16;
    pub(crate) const TENSOR: c_int = 17;
}

/// An attribute that a kind may be given.
struct Rule {
    number: c_int,
    value: c_int,
    /// The fewest and the most values.
    count: [i64; 2],
    required: bool,
    /// Kinds of descriptors, where it is of these.
    of: &'static [c_int],
}

const fn rule(number: c_int, value: c_int, count: [i64; 2], required: bool) -> Rule {
    Rule { number, value, count, required, of: &[] }
}

const fn descriptors(number: c_int, count: [i64; 2], of: &'static [c_int]) -> Rule {
    Rule { number, value: DESCRIPTOR, count, required: true, of }
}

const ONE: [i64; 2] = [1, 1];
/// Dimensions of images.
const FOUR: [i64; 2] = [4, 4];
const TWO: [i64; 2] = [2, 2];
const OPERATIONS: &[c_int] = &[kind::FORWARD, kind::BWD_DATA, kind::BWD_FILTER, kind::POINTWISE_OPERATION];

/// What each kind may be given.
fn rules(of: c_int) -> Option<Vec<Rule>> {
    let convolution = |first: c_int| {
        let mut rules = vec![rule(first, FLOAT, ONE, true), rule(first + 1, FLOAT, ONE, true)];
        rules.push(descriptors(first + 2, ONE, &[kind::CONVOLUTION]));
        rules.extend((3..6).map(|next| descriptors(first + next, ONE, &[kind::TENSOR])));
        rules
    };
    Some(match of {
        kind::POINTWISE => vec![rule(0, POINTWISE_MODE, ONE, true), rule(1, DATA_TYPE, ONE, true)],
        kind::CONVOLUTION => vec![
            rule(100, DATA_TYPE, ONE, true),
            rule(101, CONVOLUTION_MODE, ONE, true),
            rule(102, INT64, TWO, true),
            rule(103, INT64, TWO, true),
            rule(104, INT64, TWO, true),
            rule(105, INT64, TWO, true),
            rule(106, INT64, ONE, true),
        ],
        kind::ENGINE => vec![descriptors(1300, ONE, &[kind::GRAPH]), rule(1301, INT64, ONE, true)],
        kind::ENGINE_CONFIG => {
            let knobs = Rule { required: false, ..descriptors(302, [0, 64], &[kind::KNOB_CHOICE]) };
            vec![descriptors(300, ONE, &[kind::ENGINE]), knobs]
        }
        kind::HEURISTICS => vec![rule(200, HEUR_MODE, ONE, true), descriptors(201, ONE, &[kind::GRAPH])],
        kind::PLAN => vec![rule(400, HANDLE, ONE, true), descriptors(401, ONE, &[kind::ENGINE_CONFIG])],
        kind::KNOB_CHOICE => vec![rule(600, KNOB_TYPE, ONE, true), rule(601, INT64, ONE, true)],
        kind::FORWARD => convolution(700),
        kind::BWD_DATA => convolution(706),
        kind::BWD_FILTER => convolution(712),
        kind::POINTWISE_OPERATION => {
            let tensor = |number| descriptors(number, ONE, &[kind::TENSOR]);
            // What has no second argument has no 752.
            let second = Rule { required: false, ..tensor(752) };
            vec![descriptors(750, ONE, &[kind::POINTWISE]), tensor(751), second, tensor(753)]
        }
        kind::GRAPH => vec![rule(800, HANDLE, ONE, true), descriptors(801, [1, 2], OPERATIONS)],
        kind::VARIANT_PACK => {
            vec![rule(1000, INT64, [1, 8], true), rule(1001, VOID_PTR, [1, 8], true), rule(1003, VOID_PTR, ONE, true)]
        }
        kind::TENSOR => vec![
            rule(900, INT64, ONE, true),
            rule(901, DATA_TYPE, ONE, true),
            rule(902, INT64, FOUR, true),
            rule(903, INT64, FOUR, true),
            rule(906, INT64, ONE, true),
            rule(907, BOOLEAN, ONE, false),
        ],
        _ => return None,
    })
}

/// The values of an attribute: numbers of any kind, addresses and handles as such; or descriptors.
#[derive(Clone, Debug)]
enum Values {
    Numbers(Vec<i64>),
    Floats(Vec<f32>),
    Descriptors(Vec<Arc<Closed>>),
}

/// A descriptor as cuDNN hands it out.
#[derive(Debug)]
pub(crate) struct Descriptor {
    kind: c_int,
    values: BTreeMap<c_int, Values>,
    closed: Option<Arc<Closed>>,
}

/// A descriptor that has been finalised.
#[derive(Debug)]
pub(crate) struct Closed {
    pub(crate) kind: c_int,
    values: BTreeMap<c_int, Values>,
    derived: Derived,
}

/// What a finalised descriptor means.
#[derive(Debug)]
enum Derived {
    Nothing,
    Graph(Arc<Problem>),
    Heuristics(Vec<Engine>),
    Engine(Engine),
    Plan(Arc<Problem>, Engine),
}

/// The address of one value of what `values` leads to.
///
/// # Safety
/// There are more than `index` values of type V, aligned or not.
unsafe fn read<V: Copy>(values: *const c_void, index: usize) -> V {
    // SAFETY: the caller's promise.
    unsafe { values.cast::<V>().add(index).read_unaligned() }
}

impl Descriptor {
    pub(crate) fn new(kind: c_int) -> Result<Self, Failure> {
        rules(kind)
            .ok_or_else(|| Failure::new(NOT_SUPPORTED, format!("no descriptors of kind {kind} are made here")))?;
        Ok(Self { kind, values: BTreeMap::new(), closed: None })
    }

    /// Whether it is an execution plan, finalised or not.
    pub(crate) fn is_plan(&self) -> bool {
        self.kind == kind::PLAN
    }

    /// It, finalised.
    pub(crate) fn closed(&self) -> Result<Arc<Closed>, Failure> {
        let open = || Failure::new(NOT_FINALISED, format!("a descriptor of kind {} is not finalised", self.kind));
        self.closed.clone().ok_or_else(open)
    }

    /// Sets an attribute.
    ///
    /// # Safety
    /// There are `count` values of this type.
    pub(crate) unsafe fn set(
        &mut self,
        attribute: c_int,
        value: c_int,
        count: i64,
        values: *const c_void,
    ) -> Result<(), Failure> {
        let what = format!("attribute {attribute} of a descriptor of kind {}", self.kind);
        if self.closed.is_some() {
            return Err(Failure::new(BAD_PARAM, format!("{what} is set after it was finalised")));
        }
        let rules = rules(self.kind).unwrap_or_default();
        let known = rules.iter().find(|rule| rule.number == attribute);
        let rule = known.ok_or_else(|| Failure::new(NOT_SUPPORTED, format!("there is no {what}")))?;
        if value != rule.value {
            return Err(Failure::new(ATTRIBUTE_TYPE, format!("{what} is of type {}, not {value}", rule.value)));
        }
        if !(rule.count[0]..=rule.count[1]).contains(&count) {
            return Err(Failure::new(BAD_PARAM, format!("{what} has {:?} values, not {count}", rule.count)));
        }
        let count = usize::try_from(count).unwrap_or(0);
        if values.is_null() && count > 0 {
            return Err(Failure::new(NULL_POINTER, what));
        }
        let each = 0..count;
        // SAFETY: the caller's promise; the types have the sizes of cuDNN's.
        let kept = unsafe {
            match value {
                FLOAT => Values::Floats(each.map(|index| read(values, index)).collect()),
                INT64 => Values::Numbers(each.map(|index| read(values, index)).collect()),
                BOOLEAN => Values::Numbers(each.map(|index| read::<u8>(values, index).into()).collect()),
                HANDLE | VOID_PTR => {
                    Values::Numbers(each.map(|index| read::<usize>(values, index).cast_signed() as i64).collect())
                }
                DESCRIPTOR => {
                    let closed = |index| (*read::<*const Self>(values, index)).closed();
                    Values::Descriptors(each.map(closed).collect::<Result<_, _>>()?)
                }
                _ => Values::Numbers(each.map(|index| read::<c_int>(values, index).into()).collect()),
            }
        };
        if let Values::Descriptors(given) = &kept
            && let Some(wrong) = given.iter().find(|given| !rule.of.contains(&given.kind))
        {
            return Err(Failure::new(DESCRIPTOR_TYPE, format!("{what} is no descriptor of kind {}", wrong.kind)));
        }
        self.values.insert(attribute, kept);
        Ok(())
    }

    /// Closes it, if it has what it needs and that goes together.
    pub(crate) fn finalise(&mut self) -> Result<(), Failure> {
        let missing = rules(self.kind).unwrap_or_default().into_iter();
        let missing = missing.filter(|rule| rule.required).find(|rule| !self.values.contains_key(&rule.number));
        if let Some(Rule { number, .. }) = missing {
            let message = format!("a descriptor of kind {} has no attribute {number}", self.kind);
            return Err(Failure::new(BAD_PARAM, message));
        }
        let closed = Closed { kind: self.kind, values: self.values.clone(), derived: Derived::Nothing };
        let derived = closed.derive()?;
        self.closed = Some(Arc::new(Closed { derived, ..closed }));
        Ok(())
    }

    /// Makes it a configuration of `engine` for the graph that it was looked for.
    fn become_config(&mut self, graph: &Arc<Closed>, engine: &Engine) {
        let mut whole = Self { kind: kind::ENGINE, values: BTreeMap::new(), closed: None };
        whole.become_engine(graph, engine);
        let knobs = engine.knobs.iter().map(|&(kind_of_knob, value)| {
            let values = BTreeMap::from([
                (600, Values::Numbers(vec![kind_of_knob.into()])),
                (601, Values::Numbers(vec![value])),
            ]);
            Arc::new(Closed { kind: kind::KNOB_CHOICE, values, derived: Derived::Nothing })
        });
        let values = BTreeMap::from([
            (300, Values::Descriptors(whole.closed.into_iter().collect())),
            (302, Values::Descriptors(knobs.collect())),
        ]);
        self.closed = Some(Arc::new(Closed { kind: kind::ENGINE_CONFIG, values, derived: Derived::Nothing }));
    }

    fn become_engine(&mut self, graph: &Arc<Closed>, engine: &Engine) {
        let values = BTreeMap::from([
            (1300, Values::Descriptors(vec![graph.clone()])),
            (1301, Values::Numbers(vec![engine.index])),
        ]);
        let engine = Engine { knobs: Vec::new(), ..engine.clone() };
        self.closed = Some(Arc::new(Closed { kind: kind::ENGINE, values, derived: Derived::Engine(engine) }));
    }

    /// Asks for an attribute.
    ///
    /// # Safety
    /// There is room for `room` values of this type, and for their number.
    pub(crate) unsafe fn get(
        &self,
        attribute: c_int,
        value: c_int,
        room: i64,
        count: *mut i64,
        values: *mut c_void,
    ) -> Result<(), Failure> {
        let closed = self.closed()?;
        let room = usize::try_from(room).unwrap_or(0);
        let expected = match attribute {
            202 | 300 | 302 => DESCRIPTOR,
            1303 => NUMERICAL_NOTE,
            1305 => BEHAVIOUR_NOTE,
            600 => KNOB_TYPE,
            402 | 601 | 1301 => INT64,
            _ => return Err(Failure::new(NOT_SUPPORTED, format!("nobody is told attribute {attribute}"))),
        };
        if value != expected {
            return Err(Failure::new(
                ATTRIBUTE_TYPE,
                format!("attribute {attribute} is of type {expected}, not {value}"),
            ));
        }
        // SAFETY: the caller's promise.
        let give = |found: usize| unsafe { count.write(found as i64) };
        // SAFETY: the caller's promise: these are descriptors, open ones that are to be filled.
        let to_fill = |index: usize| unsafe { &mut *read::<*mut Self>(values, index) };
        let numbers: Vec<i64> = match (&closed.derived, attribute) {
            (Derived::Heuristics(engines), 202) => {
                give(if room == 0 { engines.len() } else { engines.len().min(room) });
                let graph = closed.descriptor(201)?;
                for (index, engine) in engines.iter().enumerate().take(room) {
                    let filled = to_fill(index);
                    filled.must_be(kind::ENGINE_CONFIG)?;
                    filled.become_config(graph, engine);
                }
                return Ok(());
            }
            (Derived::Nothing, 300 | 302) if closed.kind == kind::ENGINE_CONFIG => {
                let found = closed.descriptors(attribute);
                give(found.len().min(room));
                let wanted = if attribute == 300 { kind::ENGINE } else { kind::KNOB_CHOICE };
                for (index, found) in found.iter().enumerate().take(room) {
                    let filled = to_fill(index);
                    filled.must_be(wanted)?;
                    filled.closed = Some(found.clone());
                }
                return Ok(());
            }
            (Derived::Engine(engine), 1303) => engine.notes.iter().map(|&note| note.into()).collect(),
            // The first of the notes: plans are compiled.
            (Derived::Engine(engine), 1305) => {
                if engine.is_compiled {
                    vec![0]
                } else {
                    Vec::new()
                }
            }
            (Derived::Engine(engine), 1301) => vec![engine.index],
            (Derived::Plan(_, engine), 402) => vec![engine.workspace as i64],
            (Derived::Nothing, 600 | 601) if closed.kind == kind::KNOB_CHOICE => closed.numbers(attribute).to_vec(),
            _ => {
                let message = format!("a descriptor of kind {} has no attribute {attribute} to tell", closed.kind);
                return Err(Failure::new(BAD_PARAM, message));
            }
        };
        give(numbers.len().min(room));
        for (index, &number) in numbers.iter().enumerate().take(room) {
            // SAFETY: the caller's promise.
            unsafe {
                match value {
                    INT64 => values.cast::<i64>().add(index).write_unaligned(number),
                    _ => values.cast::<c_int>().add(index).write_unaligned(c_int::try_from(number).unwrap_or(-1)),
                }
            }
        }
        Ok(())
    }

    fn must_be(&self, kind: c_int) -> Result<(), Failure> {
        if self.kind == kind {
            return Ok(());
        }
        Err(Failure::new(DESCRIPTOR_TYPE, format!("a descriptor of kind {} is to be filled, not {kind}", self.kind)))
    }
}

impl Closed {
    /// The numbers of an attribute; none where it has not been set.
    pub(crate) fn numbers(&self, attribute: c_int) -> &[i64] {
        match self.values.get(&attribute) {
            Some(Values::Numbers(numbers)) => numbers,
            _ => &[],
        }
    }

    /// The one number of an attribute that has one.
    pub(crate) fn number(&self, attribute: c_int) -> i64 {
        self.numbers(attribute).first().copied().unwrap_or(0)
    }

    /// The one float of an attribute that has one.
    pub(crate) fn float(&self, attribute: c_int) -> f32 {
        match self.values.get(&attribute) {
            Some(Values::Floats(floats)) => floats.first().copied().unwrap_or(f32::NAN),
            _ => f32::NAN,
        }
    }

    /// The descriptors of an attribute.
    pub(crate) fn descriptors(&self, attribute: c_int) -> &[Arc<Self>] {
        match self.values.get(&attribute) {
            Some(Values::Descriptors(descriptors)) => descriptors,
            _ => &[],
        }
    }

    /// The one descriptor of an attribute that has one.
    pub(crate) fn descriptor(&self, attribute: c_int) -> Result<&Arc<Self>, Failure> {
        let missing = || Failure::new(BAD_PARAM, format!("no descriptor as attribute {attribute}"));
        self.descriptors(attribute).first().ok_or_else(missing)
    }

    /// The handle that a plan was made with.
    pub(crate) fn handle(&self) -> Option<usize> {
        self.numbers(400).first().map(|&handle| handle.cast_unsigned() as usize)
    }

    /// What a plan computes, and how.
    pub(crate) fn plan(&self) -> Result<(&Arc<Problem>, &Engine), Failure> {
        match &self.derived {
            Derived::Plan(problem, engine) => Ok((problem, engine)),
            _ => Err(Failure::new(DESCRIPTOR_TYPE, "what is to be executed is no plan")),
        }
    }

    fn problem(&self) -> Result<&Arc<Problem>, Failure> {
        match &self.derived {
            Derived::Graph(problem) => Ok(problem),
            _ => Err(Failure::new(DESCRIPTOR_TYPE, "no graph")),
        }
    }

    /// What finalising it brings to light.
    fn derive(&self) -> Result<Derived, Failure> {
        Ok(match self.kind {
            kind::GRAPH => Derived::Graph(Arc::new(Problem::new(self.descriptors(801))?)),
            kind::HEURISTICS => {
                let graph = self.descriptor(201)?;
                stream::refuse_capture(graph.number(800))?;
                Derived::Heuristics(engines::offered(graph.problem()?, self.number(200))?)
            }
            kind::ENGINE => {
                let problem = self.descriptor(1300)?.problem()?;
                let index = self.number(1301);
                let engine = engines::all(problem).into_iter().find(|engine| engine.index == index);
                let engine =
                    engine.ok_or_else(|| Failure::new(NOT_SUPPORTED, format!("there is no engine {index}")))?;
                Derived::Engine(Engine { knobs: Vec::new(), ..engine })
            }
            kind::PLAN => {
                stream::refuse_capture(self.number(400))?;
                let config = self.descriptor(401)?;
                let engine = config.descriptor(300)?;
                let problem = engine.descriptor(1300)?.problem()?;
                let knob = |knob: &Arc<Self>| Ok((c_int::try_from(knob.number(600)).unwrap_or(-1), knob.number(601)));
                let knobs = config.descriptors(302).iter().map(knob).collect::<Result<Vec<_>, Failure>>()?;
                Derived::Plan(problem.clone(), engines::with_knobs(problem, engine.number(1301), &knobs)?)
            }
            kind::VARIANT_PACK if self.numbers(1000).len() != self.numbers(1001).len() => {
                return Err(Failure::new(INSUFFICIENT, "a pack has not as many addresses as tensors"));
            }
            kind::CONVOLUTION if self.number(106) != 2 || self.number(101) != 1 || self.numbers(102) != [1, 1] => {
                return Err(Failure::new(NOT_SUPPORTED, "only plain cross-correlations of images are known here"));
            }
            _ => Derived::Nothing,
        })
    }
}
