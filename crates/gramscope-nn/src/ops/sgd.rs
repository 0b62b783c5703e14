//! One step of stochastic gradient descent with momentum, in Keras's form.
//!
//! v = momentum v - rate (g + 2 decay w); w = w + v: the gradient of the loss plus decay times the sum of squared
//! weights. In one pass over a parameter, in place.

use std::cell::RefCell;

use candle_core::{CpuStorage, InplaceOp1, InplaceOp2, Layout, Result, Tensor};

use super::values;

/// The factors of a step.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// Learning rate.
    pub rate: f64,
    /// Share of the velocity that is kept.
    pub momentum: f64,
    /// Weight decay; 0 for parameters without.
    pub decay: f64,
}

/// Moves `parameter` and its `velocity` by one step along `gradient`, all of one shape.
///
/// # Errors
/// [`crate::Error::Shape`] and [`crate::Error::DType`], wrapped in candle's.
pub fn step(parameter: &Tensor, gradient: &Tensor, velocity: &Tensor, step: Step) -> Result<()> {
    values::check("SGD: parameter", parameter, parameter.rank())?;
    values::check_shape("SGD: gradient", gradient, parameter.dims())?;
    values::check_shape("SGD: velocity", velocity, parameter.dims())?;
    velocity.inplace_op2(&gradient.contiguous()?, &Update { parameter, step })
}

/// candle's operations change one tensor; this one changes the velocity and, from inside it, the parameter.
struct Update<'a> {
    parameter: &'a Tensor,
    step: Step,
}

impl InplaceOp2 for Update<'_> {
    fn name(&self) -> &'static str {
        "SGD"
    }

    fn cpu_fwd(
        &self,
        velocity: &mut CpuStorage,
        velocity_layout: &Layout,
        gradient: &CpuStorage,
        gradient_layout: &Layout,
    ) -> Result<()> {
        let gradient = values::of("SGD: gradient", gradient, gradient_layout)?;
        let velocity = RefCell::new(values::of_mut("SGD: velocity", velocity, velocity_layout)?);
        self.parameter.inplace_op1(&UpdateBoth { velocity, gradient, step: self.step })
    }
}

struct UpdateBoth<'a> {
    velocity: RefCell<&'a mut [f32]>,
    gradient: &'a [f32],
    step: Step,
}

impl InplaceOp1 for UpdateBoth<'_> {
    fn name(&self) -> &'static str {
        "SGD"
    }

    fn cpu_fwd(&self, parameter: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let parameter = values::of_mut("SGD: parameter", parameter, layout)?;
        let (rate, momentum) = (self.step.rate as f32, self.step.momentum as f32);
        let decay = 2.0 * self.step.decay as f32;
        for ((w, v), g) in parameter.iter_mut().zip(self.velocity.borrow_mut().iter_mut()).zip(self.gradient) {
            *v = momentum * *v - rate * decay.mul_add(*w, *g);
            *w += *v;
        }
        Ok(())
    }
}
