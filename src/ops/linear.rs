//! Products with weights that never change between calls.

use ndarray::{ArrayView3, Axis};

use super::{CHANNEL_BLOCK, padded, share, view3};
use crate::error::Result;
use crate::memory::{Buffer, product};
pub use crate::simd::linear::{Input, Output};
use crate::simd::linear::{Pack, Product, panel_width, slots};
use crate::simd::{Isa, Storage};
use crate::tensor::Element;
use crate::threads::{Workers, for_each_chunk};

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
pub struct Linear<W: Storage> {
    isa: Isa,
    inputs: Groups,
    outputs: usize,
    width: usize,
    panels: Buffer<W>,
    bias: Buffer<W::Real>,
}

impl<W: Storage> Linear<W> {
    /// All zeros.
    ///
    /// # Errors
    /// `OutOfMemory` naming `what`.
    pub fn zeroed(what: &str, isa: Isa, outputs: usize, inputs: Groups) -> Result<Self> {
        let width = panel_width::<W::Real>(isa);
        let columns = padded(outputs).next_multiple_of(width);
        let panels = Buffer::zeroed(what, product(what, &[columns, inputs.count, slots::<W>(inputs.len)])?)?;
        Ok(Linear { isa, inputs, outputs, width, panels, bias: Buffer::zeroed(what, columns)? })
    }

    /// Number of outputs.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// Steps of k in a panel.
    fn slots(&self) -> usize {
        self.inputs.count * slots::<W>(self.inputs.len)
    }

    /// Writes the weights of one group, row-major (outputs, inputs), rounded to the type they are stored in.
    pub fn set_weight<T: Element>(&mut self, group: usize, values: &[T]) {
        let (width, inputs) = (self.width, self.inputs.len);
        assert_eq!(values.len(), self.outputs * inputs);
        let panel_len = self.slots() * width;
        for_each_chunk(&mut self.panels, panel_len, |panel, weights| {
            let weights = &mut weights[group * slots::<W>(inputs) * width..];
            let rows = values.chunks_exact(inputs).skip(panel * width).take(width);
            for (column, row) in rows.enumerate() {
                for (k, value) in row.iter().enumerate() {
                    weights[place::<W>(width, k, column)] = value.convert();
                }
            }
        });
    }

    /// Reads the weights of one group, row-major (outputs, inputs).
    pub fn get_weight<T: Element>(&self, group: usize, values: &mut [T]) {
        let (width, inputs) = (self.width, self.inputs.len);
        assert_eq!(values.len(), self.outputs * inputs);
        let panel_len = self.slots() * width;
        for_each_chunk(values, width * inputs, |panel, rows| {
            let weights = &self.panels[panel * panel_len + group * slots::<W>(inputs) * width..];
            for (column, row) in rows.chunks_exact_mut(inputs).enumerate() {
                for (k, value) in row.iter_mut().enumerate() {
                    *value = weights[place::<W>(width, k, column)].convert();
                }
            }
        });
    }

    /// The bias, a value for each output.
    pub fn bias(&self) -> &[W::Real] {
        &self.bias[..self.outputs]
    }

    /// The bias, to be written.
    pub fn bias_mut(&mut self) -> &mut [W::Real] {
        &mut self.bias[..self.outputs]
    }

    /// Values of room that [`Linear::prepare`] takes for each row; 0 where it takes none.
    pub fn room(&self) -> usize {
        if W::is_packed(self.isa) { self.slots() / W::STEPS } else { 0 }
    }

    /// The part of that which [`Linear::prepare_blocks`] takes for so many blocks of channels.
    pub fn room_of(&self, blocks: usize) -> usize {
        if W::is_packed(self.isa) { slots::<W>(blocks * CHANNEL_BLOCK) / W::STEPS } else { 0 }
    }

    /// What the product takes for `x`: the same, or where rounded rows are multiplied, those in `room`. It can serve
    /// several products of the same inputs and type.
    pub fn prepare<'a>(
        &self,
        workers: &Workers,
        x: Input<'a, W::Real>,
        room: &'a mut [W::Real],
    ) -> Input<'a, W::Real> {
        /// Some 10 µs on one core.
        const INLINE: usize = 1 << 16;
        let (rows, blocks) = (x.rows(), self.room() / CHANNEL_BLOCK);
        if blocks == 0 {
            return x;
        }
        let room = &mut room[..rows * self.room()];
        let pack = |first: usize, out: &mut [W::Real]| {
            let Groups { len, stride, .. } = self.inputs;
            self.isa.dispatch(Pack::<W> { x, group_len: len, group_stride: stride, first, out });
        };
        if room.len() < INLINE {
            pack(0, room);
        } else {
            let share = share(blocks, 1, workers.count());
            let pieces = room.chunks_mut(share * rows * CHANNEL_BLOCK).enumerate();
            workers.for_each(pieces, |(i, room)| pack(i * share, room));
        }
        self.prepared(x, room)
    }

    /// Its part for some blocks of channels, those of `x`, from `first`, the first of a panel: into the part of the room
    /// that they take, empty where they take none.
    pub fn prepare_blocks(&self, first: usize, x: ArrayView3<'_, W::Real>, room: &mut [W::Real]) {
        let (blocks, _, channels) = x.dim();
        let group_len = (self.inputs.len - first * channels).min(blocks * channels);
        if !room.is_empty() {
            let x = Input::Blocks(x);
            self.isa.dispatch(Pack::<W> { x, group_len, group_stride: group_len, first: 0, out: room });
        }
    }

    /// What [`Linear::prepare`] gives, once all parts of `room` are.
    pub fn prepared<'a>(&self, x: Input<'a, W::Real>, room: &'a [W::Real]) -> Input<'a, W::Real> {
        let rows = x.rows();
        match self.room() {
            0 => x,
            len => Input::Packed(view3(room, [len / CHANNEL_BLOCK, rows, CHANNEL_BLOCK])),
        }
    }

    /// `out = x · weightᵀ + bias`, where [`Linear::prepare`] gave `x`. Columns of `out` past the outputs are zeroed;
    /// `x` may have more columns than are read.
    pub fn apply(&self, workers: &Workers, x: Input<W::Real>, out: Output<W::Real>) {
        let columns = out.columns();
        if columns.div_ceil(self.width) >= workers.count() {
            // Columns: each thread reads weights of its own.
            let share = share(columns, self.panel_blocks() * CHANNEL_BLOCK, workers.count());
            match out {
                Output::Rows(mut out) => {
                    let pieces = out.axis_chunks_iter_mut(Axis(1), share).enumerate();
                    workers.for_each(pieces, |(i, out)| self.apply_columns(i * share, x, Output::Rows(out)));
                }
                Output::Blocks(mut out) => {
                    let pieces = out.axis_chunks_iter_mut(Axis(0), share / CHANNEL_BLOCK).enumerate();
                    workers
                        .for_each(pieces, |(i, out)| self.apply_columns(i * share, x, Output::Blocks(out)));
                }
            }
        } else {
            let share = share(x.rows(), ROW_SHARE, workers.count());
            let rows = (0..x.rows()).step_by(share).map(|row| row..x.rows().min(row + share));
            match out {
                Output::Rows(mut out) => {
                    let pieces = rows.zip(out.axis_chunks_iter_mut(Axis(0), share));
                    workers.for_each(pieces, |(rows, out)| {
                        self.apply_columns(0, x.part(rows), Output::Rows(out))
                    });
                }
                Output::Blocks(mut out) => {
                    let pieces = rows.zip(out.axis_chunks_iter_mut(Axis(1), share));
                    workers.for_each(pieces, |(rows, out)| {
                        self.apply_columns(0, x.part(rows), Output::Blocks(out))
                    });
                }
            }
        }
    }

    /// Blocks of channels that a panel of weights covers: what a share of the columns is a multiple of.
    pub fn panel_blocks(&self) -> usize {
        self.width.div_ceil(CHANNEL_BLOCK)
    }

    /// The same for some columns on one thread: as many as `out` has, from `column`, the first of a panel.
    pub fn apply_columns(&self, column: usize, x: Input<'_, W::Real>, out: Output<'_, W::Real>) {
        assert_eq!(matches!(x, Input::Packed(_)), W::is_packed(self.isa), "the input was not prepared");
        let Groups { count, len, stride } = self.inputs;
        let product = Product {
            x,
            groups: count,
            group_len: len,
            group_stride: stride,
            panels: &self.panels[column * self.slots()..],
            bias: &self.bias[column..],
            out,
        };
        W::multiply(self.isa, product);
    }
}

/// Where the weight of a step and a column is in a panel.
#[inline(always)]
fn place<W: Storage>(width: usize, k: usize, column: usize) -> usize {
    (k / W::STEPS * width + column) * W::STEPS + k % W::STEPS
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{Random, bits, epsilon, from_blocks, narrow, to_blocks, values, with_workers};
    use crate::ops::{view2, view2_mut, view3_mut};
    use half::{bf16, f16};

    /// `x · weightᵀ + bias` for (rows, k) and (outputs, k), a sum at a time.
    fn reference(x: &[f64], weight: &[f64], bias: &[f64]) -> Vec<f64> {
        let k = weight.len() / bias.len();
        let rows = x.chunks_exact(k);
        let row = |x: &[f64]| -> Vec<f64> {
            let outputs = weight.chunks_exact(k).zip(bias);
            outputs.map(|(w, b)| b + x.iter().zip(w).map(|(x, w)| x * w).sum::<f64>()).collect()
        };
        rows.flat_map(row).collect()
    }

    /// What is left of the values in storage.
    fn stored<W: Storage>(values: &[f64]) -> Vec<f64> {
        narrow::<W>(values).into_iter().map(Element::to_f64).collect()
    }

    /// A product whose weights are `weight`, (outputs, all k of all groups).
    fn linear<W: Storage>(isa: Isa, groups: Groups, weight: &[f64], bias: &[f64]) -> Linear<W> {
        let mut linear = Linear::zeroed("test", isa, bias.len(), groups).unwrap();
        for group in 0..groups.count {
            let rows = weight.chunks_exact(groups.count * groups.len);
            let part: Vec<f64> =
                rows.flat_map(|row| &row[group * groups.len..][..groups.len]).copied().collect();
            linear.set_weight(group, &part);
            let mut read = vec![W::default(); part.len()];
            linear.get_weight(group, &mut read);
            assert_eq!(read, narrow::<W>(&part));
        }
        linear.bias_mut().copy_from_slice(&narrow(bias));
        linear
    }

    /// Applies it to (rows, all k) laid out one way and gives (rows, outputs) laid out another way. What
    /// lies between the groups and beside the columns is NaN.
    fn apply<W: Storage>(
        linear: &Linear<W>,
        workers: &Workers,
        x: &[f64],
        layouts: (bool, bool),
    ) -> Vec<f64> {
        let Groups { count, len, stride } = linear.inputs;
        let (rows, outputs) = (x.len() / (count * len), linear.outputs());
        let columns = (count - 1) * stride + len + 3;
        let mut spread = vec![f64::NAN; rows * columns];
        for (i, part) in x.chunks_exact(len).enumerate() {
            spread[i / count * columns + i % count * stride..][..len].copy_from_slice(part);
        }
        let flat: Vec<W::Real> = narrow(&spread);
        let blocks: Vec<W::Real> = to_blocks(&spread, rows, columns);
        let input = match layouts.0 {
            false => Input::Rows(view2(&flat, [rows, columns])),
            true => Input::Blocks(view3(&blocks, [padded(columns) / CHANNEL_BLOCK, rows, CHANNEL_BLOCK])),
        };
        let mut room = vec![W::Real::from_f64(f64::NAN); rows * linear.room()];
        let input = linear.prepare(workers, input, &mut room);
        let mut out = vec![W::Real::from_f64(f64::NAN); rows * padded(outputs)];
        match layouts.1 {
            false => {
                linear.apply(workers, input, Output::Rows(view2_mut(&mut out, [rows, outputs])));
                out[..rows * outputs].iter().map(|v| v.to_f64()).collect()
            }
            true => {
                let shape = [padded(outputs) / CHANNEL_BLOCK, rows, CHANNEL_BLOCK];
                linear.apply(workers, input, Output::Blocks(view3_mut(&mut out, shape)));
                let all = from_blocks(&out, rows, padded(outputs));
                assert!(all.chunks(padded(outputs)).all(|row| row[outputs..].iter().all(|&v| v == 0.0)));
                from_blocks(&out, rows, outputs)
            }
        }
    }

    const LAYOUTS: [(bool, bool); 4] = [(false, false), (false, true), (true, false), (true, true)];

    fn groups() -> [Groups; 6] {
        let apart = Groups { count: 3, len: 37, stride: 48 };
        [Groups::one(1), Groups::one(16), Groups::one(37), Groups::one(256), Groups::one(600), apart]
    }

    /// Sums of small whole numbers are exact, so every element must be.
    fn whole_numbers<W: Storage>() {
        let mut random = Random(1);
        let mut whole =
            |count| -> Vec<f64> { (0..count).map(|_| random.uniform(-8.0, 9.0).floor()).collect() };
        for groups in groups() {
            let k = groups.count * groups.len;
            for outputs in [1, 7, 16, 17, 33, 64, 150] {
                let (x, weight, bias) = (whole(27 * k), whole(outputs * k), whole(outputs));
                let exact = reference(&x, &weight, &bias);
                for isa in Isa::available() {
                    let linear = linear::<W>(isa, groups, &weight, &bias);
                    with_workers(|workers| {
                        for rows in 1..=27 {
                            for layouts in LAYOUTS {
                                let out = apply(&linear, workers, &x[..rows * k], layouts);
                                assert!(
                                    out == exact[..rows * outputs],
                                    "{rows} rows, {outputs} outputs, {groups:?}, {layouts:?}, {isa:?}"
                                );
                            }
                        }
                    });
                }
            }
        }
    }

    #[test]
    fn whole_numbers_are_exact() {
        whole_numbers::<f32>();
        whole_numbers::<f64>();
        whole_numbers::<bf16>();
        whole_numbers::<f16>();
    }

    /// Whatever rows it comes with and whoever computes it, a row has the same bits.
    fn rows_alone<W: Storage>() {
        let mut random = Random(2);
        for groups in groups() {
            let (k, outputs) = (groups.count * groups.len, 83);
            let (x, weight) = (values(&mut random, 29 * k), stored::<W>(&values(&mut random, outputs * k)));
            let bias = values(&mut random, outputs);
            for isa in Isa::available() {
                let linear = linear::<W>(isa, groups, &weight, &bias);
                let read = if linear.room() > 0 { stored::<W>(&x) } else { x.clone() };
                let exact = reference(&read, &weight, &bias);
                let magnitudes =
                    [&read, &weight, &bias].map(|values| values.iter().map(|v| v.abs()).collect::<Vec<_>>());
                let magnitude = reference(&magnitudes[0], &magnitudes[1], &magnitudes[2]);
                let alone: Vec<f64> = x
                    .chunks_exact(k)
                    .flat_map(|row| apply(&linear, &Workers::caller(), row, (false, false)))
                    .collect();
                for ((out, exact), magnitude) in alone.iter().zip(&exact).zip(&magnitude) {
                    assert!((out - exact).abs() <= (k + 1) as f64 * epsilon::<W::Real>() * magnitude);
                }
                with_workers(|workers| {
                    for rows in [1, 2, 3, 5, 11, 12, 13, 24, 29] {
                        for layouts in LAYOUTS {
                            let out = apply(&linear, workers, &x[..rows * k], layouts);
                            assert_eq!(bits(&out), bits(&alone[..rows * outputs]), "{rows} rows, {isa:?}");
                        }
                    }
                });
            }
        }
    }

    #[test]
    fn rows_have_the_same_bits_alone_and_together() {
        rows_alone::<f32>();
        rows_alone::<f64>();
        rows_alone::<bf16>();
        rows_alone::<f16>();
    }
}
