//! Products with weights that never change between calls.

use ndarray::{ArrayView2, ArrayViewMut2, Axis};

use super::padded;
use crate::error::Result;
use crate::memory::{Buffer, product};
use crate::simd::linear::{Product, panel_width};
use crate::simd::{Isa, Real};
use crate::threads::Workers;

/// Rows that a thread takes at least when rows are what is shared.
const ROW_SHARE: usize = 12;

/// The input columns of a [`Linear`]: `count` groups of `len`, their starts `stride` apart.
#[derive(Clone, Copy, Debug)]
pub struct Groups {
    /// Number of groups.
    pub count: usize,
    /// Columns of each.
    pub len: usize,
    /// Columns from the start of one to the start of the next.
    pub stride: usize,
}

impl Groups {
    /// `len` adjacent columns.
    pub fn one(len: usize) -> Self {
        Groups { count: 1, len, stride: len }
    }
}

/// `out = x · weightᵀ + bias`, with the weights packed once into the panels of [`crate::simd::linear`].
///
/// The panels are the only copy of the weights; reading one back gives the value that was written.
#[derive(Debug)]
pub struct Linear<T> {
    isa: Isa,
    inputs: Groups,
    outputs: usize,
    width: usize,
    panels: Buffer<T>,
    bias: Buffer<T>,
}

impl<T: Real> Linear<T> {
    /// All zeros.
    ///
    /// # Errors
    /// `OutOfMemory` naming `what`.
    pub fn zeroed(what: &str, isa: Isa, outputs: usize, inputs: Groups) -> Result<Self> {
        let width = panel_width::<T>(isa);
        let columns = padded(outputs).next_multiple_of(width);
        let panels = Buffer::zeroed(what, product(what, &[columns, inputs.count, inputs.len])?)?;
        Ok(Linear { isa, inputs, outputs, width, panels, bias: Buffer::zeroed(what, columns)? })
    }

    /// The value at (output, input of a group), for reading and writing.
    fn at(&self, output: usize, group: usize, input: usize) -> usize {
        let k = self.inputs.count * self.inputs.len;
        (output / self.width * k + group * self.inputs.len + input) * self.width + output % self.width
    }

    /// Number of outputs.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// Writes the weights of one group, row-major (outputs, inputs).
    pub fn set_weight(&mut self, group: usize, values: &[T]) {
        let inputs = self.inputs.len;
        assert_eq!(values.len(), self.outputs * inputs);
        for (output, row) in values.chunks_exact(inputs).enumerate() {
            let at = self.at(output, group, 0);
            for (slot, &value) in self.panels[at..].iter_mut().step_by(self.width).zip(row) {
                *slot = value;
            }
        }
    }

    /// Reads the weights of one group, row-major (outputs, inputs).
    pub fn get_weight(&self, group: usize, values: &mut [T]) {
        let inputs = self.inputs.len;
        assert_eq!(values.len(), self.outputs * inputs);
        for (output, row) in values.chunks_exact_mut(inputs).enumerate() {
            let at = self.at(output, group, 0);
            for (&slot, value) in self.panels[at..].iter().step_by(self.width).zip(row) {
                *value = slot;
            }
        }
    }

    /// The bias, a value for each output.
    pub fn bias(&self) -> &[T] {
        &self.bias[..self.outputs]
    }

    /// The bias, to be written.
    pub fn bias_mut(&mut self) -> &mut [T] {
        &mut self.bias[..self.outputs]
    }

    /// `out = x · weightᵀ + bias` for (rows, inputs) and (rows, outputs). Columns of `out` past the outputs
    /// are zeroed up to the end of the last panel; `x` may have more columns than are read.
    pub fn apply(&self, workers: &Workers, x: ArrayView2<T>, mut out: ArrayViewMut2<T>) {
        let k = self.inputs.count * self.inputs.len;
        let panels = out.ncols().div_ceil(self.width);
        let count = workers.count();
        let call = |x: ArrayView2<T>, out: ArrayViewMut2<T>, first_panel: usize| {
            self.isa.dispatch(Product {
                x,
                groups: self.inputs.count,
                group_len: self.inputs.len,
                group_stride: self.inputs.stride,
                panels: &self.panels[first_panel * k * self.width..],
                bias: &self.bias[first_panel * self.width..],
                out,
            })
        };
        if panels >= count {
            // Columns: each thread reads its own weights.
            let share = super::share(out.ncols(), self.width, count);
            let pieces = out.axis_chunks_iter_mut(Axis(1), share).enumerate();
            workers.for_each(pieces, |(i, out)| call(x, out, i * share / self.width));
        } else {
            let share = super::share(x.nrows(), ROW_SHARE, count);
            let pieces = x.axis_chunks_iter(Axis(0), share).zip(out.axis_chunks_iter_mut(Axis(0), share));
            workers.for_each(pieces, |(x, out)| call(x, out, 0));
        }
    }
}
