//! A program, and how long its values are wanted.

use std::collections::{HashMap, HashSet};

use crate::program::{Program, Value, ValueId};

/// A program, ready to be carried out.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) program: Program,
    /// Of each value, the place of the last step that uses it.
    last_uses: Vec<usize>,
    /// Of each shape, the place of the last step that makes a value of it.
    last_made: HashMap<Value, usize>,
}

impl Plan {
    pub(crate) fn new(program: Program) -> Self {
        let (mut last_made, mut made) = (HashMap::new(), HashSet::new());
        for (place, step) in program.steps.iter().enumerate() {
            for value in step.values().filter(|&value| made.insert(value)) {
                last_made.insert(program.values[value], place);
            }
        }
        Self { last_uses: program.last_uses(), last_made, program }
    }

    /// Whether no step behind this place uses the value.
    pub(super) fn is_done(&self, value: ValueId, place: usize) -> bool {
        self.last_uses[value] <= place
    }

    /// Whether a step behind this place makes a value of that shape.
    pub(super) fn makes_later(&self, shape: Value, place: usize) -> bool {
        self.last_made.get(&shape).is_some_and(|&last| last > place)
    }
}
