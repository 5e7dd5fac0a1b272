//! Products with weights that never change between calls.

use ndarray::Axis;

use super::{CHANNEL_BLOCK, padded, share};
use crate::error::Result;
use crate::memory::{Buffer, product};
pub use crate::simd::linear::{Input, Output};
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
    /// Columns from the start of one to the start of the next, whole blocks.
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

    /// `out = x · weightᵀ + bias`. Columns of `out` past the outputs are zeroed; `x` may have more columns
    /// than are read.
    pub fn apply(&self, workers: &Workers, x: Input<T>, out: Output<T>) {
        let columns = out.columns();
        if columns.div_ceil(self.width) >= workers.count() {
            // Columns: each thread reads weights of its own.
            let share = share(columns, self.width.max(CHANNEL_BLOCK), workers.count());
            match out {
                Output::Rows(mut out) => {
                    let pieces = out.axis_chunks_iter_mut(Axis(1), share).enumerate();
                    workers.for_each(pieces, |(i, out)| self.part(x.part(0..x.rows()), Output::Rows(out), i * share));
                }
                Output::Blocks(mut out) => {
                    let pieces = out.axis_chunks_iter_mut(Axis(0), share / CHANNEL_BLOCK).enumerate();
                    workers.for_each(pieces, |(i, out)| self.part(x.part(0..x.rows()), Output::Blocks(out), i * share));
                }
            }
        } else {
            let share = share(x.rows(), ROW_SHARE, workers.count());
            let rows = (0..x.rows()).step_by(share).map(|row| row..x.rows().min(row + share));
            match out {
                Output::Rows(mut out) => {
                    let pieces = rows.zip(out.axis_chunks_iter_mut(Axis(0), share));
                    workers.for_each(pieces, |(rows, out)| self.part(x.part(rows), Output::Rows(out), 0));
                }
                Output::Blocks(mut out) => {
                    let pieces = rows.zip(out.axis_chunks_iter_mut(Axis(1), share));
                    workers.for_each(pieces, |(rows, out)| self.part(x.part(rows), Output::Blocks(out), 0));
                }
            }
        }
    }

    /// The columns from `column`, the first of a panel.
    fn part<'a>(&'a self, x: Input<'a, T>, out: Output<'a, T>, column: usize) {
        let k = self.inputs.count * self.inputs.len;
        self.isa.dispatch(Product {
            x,
            groups: self.inputs.count,
            group_len: self.inputs.len,
            group_stride: self.inputs.stride,
            panels: &self.panels[column * k..],
            bias: &self.bias[column..],
            out,
        });
    }
}
