//! The tokens of a call: where they lie, and which sequences they are.

use std::ops::Range;

use ndarray::{ArrayView2, ArrayViewMut2, Axis, s};

use crate::error::{Result, fail};
use crate::ops::{share, view2, view2_mut, view3, view3_mut};
use crate::simd::{self, Isa, Real, Storage};
use crate::tensor::{Element, TensorView, TensorViewMut, each_dtype};
use crate::threads::Workers;

/// Where a call reads its tokens and writes its outputs, both (batch, seqlen, d_model), row-major.
#[derive(Debug)]
pub enum Tokens<'a, T> {
    /// From one array to another.
    Separate {
        /// The input.
        x: &'a [T],
        /// The output.
        y: &'a mut [T],
    },
    /// Each output takes the place of its input.
    InPlace(&'a mut [T]),
}

impl<'a, T: Element> Tokens<'a, T> {
    /// The same as tensors of rows, if input and output have `len` values.
    pub(super) fn tensors(self, size: &str, len: usize, d_model: usize) -> Result<Tensors<'a>> {
        let (x, y) = match &self {
            Tokens::Separate { x, y } => (x.len(), y.len()),
            Tokens::InPlace(both) => (both.len(), both.len()),
        };
        if x != len || y != len {
            fail!(ShapeMismatch, "x and y have {x} and {y} values; {size} is {len}");
        }
        let shape = [1, len / d_model, d_model];
        Ok(match self {
            Tokens::Separate { x, y } => {
                Tensors::Separate { x: T::any(view3(x, shape)), y: T::any_mut(view3_mut(y, shape)) }
            }
            Tokens::InPlace(both) => Tensors::InPlace(T::any_mut(view3_mut(both, shape))),
        })
    }
}

/// Where a call reads its tokens and writes its outputs: tensors (groups, rows, d_model) of any type and strides,
/// whose rows, those of the first group first, are the tokens of the first sequence, then of the second, and so on.
///
/// Rows within a group are used where they lie if they are of the type that the layer computes in and each lies
/// together; others are converted on their way, a block at a time.
#[derive(Debug)]
pub enum Tensors<'a> {
    /// From one tensor to another.
    Separate {
        /// The input.
        x: TensorView<'a>,
        /// The output.
        y: TensorViewMut<'a>,
    },
    /// Each output takes the place of its input.
    InPlace(TensorViewMut<'a>),
}

impl<'a> Tensors<'a> {
    /// Whether input and output have `rows` rows of `d_model`.
    pub(super) fn check(&self, rows: usize, d_model: usize) -> Result<()> {
        for (name, tensor) in [("x", self.x()), ("y", self.y())] {
            let [groups, of_group, columns] = tensor.dim();
            if groups.checked_mul(of_group) != Some(rows) || columns != d_model {
                fail!(
                    ShapeMismatch,
                    "{name} has {groups} · {of_group} rows of {columns}; it must have {rows} of d_model {d_model}"
                );
            }
        }
        Ok(())
    }

    fn x(&self) -> TensorView<'_> {
        match self {
            Tensors::Separate { x, .. } => x.view(),
            Tensors::InPlace(both) => both.view(),
        }
    }

    fn y(&self) -> TensorView<'_> {
        match self {
            Tensors::Separate { y, .. } => y.view(),
            Tensors::InPlace(both) => both.view(),
        }
    }

    fn y_mut(&mut self) -> &mut TensorViewMut<'a> {
        match self {
            Tensors::Separate { y, .. } => y,
            Tensors::InPlace(both) => both,
        }
    }

    /// Whether some block of rows may have to be converted.
    pub(super) fn need_room<R: Real>(&self) -> bool {
        [self.x(), self.y()].into_iter().any(|tensor| {
            let ([groups, rows, columns], [_, row, column]) = (tensor.dim(), tensor.strides());
            tensor.dtype() != R::DTYPE || groups > 1 || (rows > 1 && row < 0) || (columns > 1 && column != 1)
        })
    }

    /// Some rows of the input: where they lie, or else converted into `room`.
    pub(super) fn input<'r, R: Real>(
        &'r self,
        workers: &Workers,
        rows: Range<usize>,
        room: &'r mut [R],
    ) -> ArrayView2<'r, R> {
        let x = self.x();
        let [_, of_group, columns] = x.dim();
        if let Some(x) = R::view(x)
            && let Some((group, part)) = in_one_group(&rows, of_group)
            && fits(part.len(), &x.strides()[1..], columns)
        {
            return x.slice_move(s![group, part, ..]);
        }
        let mut to = view2_mut(room, [rows.len(), columns]);
        each_dtype!(TensorView, x, x => {
            for (group, part, done) in groups(rows.clone(), of_group) {
                let to = to.slice_mut(s![done..done + part.len(), ..]);
                convert(workers, x.slice(s![group, part, ..]), to);
            }
        });
        view2(room, [rows.len(), columns])
    }

    /// Has `write` fill some rows of the output: where they lie, or else in `room`, from where they are converted.
    pub(super) fn output<R: Real>(
        &mut self,
        workers: &Workers,
        rows: Range<usize>,
        room: &mut [R],
        write: impl FnOnce(ArrayViewMut2<'_, R>),
    ) {
        let y = self.y_mut();
        let [_, of_group, columns] = y.view().dim();
        if let Some(mut y) = R::view_mut(y)
            && let Some((group, part)) = in_one_group(&rows, of_group)
            && fits(part.len(), &y.strides()[1..], columns)
        {
            return write(y.slice_mut(s![group, part, ..]));
        }
        write(view2_mut(room, [rows.len(), columns]));
        let from = view2(room, [rows.len(), columns]);
        each_dtype!(TensorViewMut, y, y => {
            for (group, part, done) in groups(rows.clone(), of_group) {
                let from = from.slice(s![done..done + part.len(), ..]);
                convert(workers, from, y.slice_mut(s![group, part, ..]));
            }
        });
    }
}

/// Rows that belong to one group: which one, and which of its rows.
fn in_one_group(rows: &Range<usize>, of_group: usize) -> Option<(usize, Range<usize>)> {
    let group = rows.start / of_group;
    let first = group * of_group;
    (rows.end <= first + of_group).then(|| (group, rows.start - first..rows.end - first))
}

/// Whether the products read and write such rows as they lie.
fn fits(rows: usize, strides: &[isize], columns: usize) -> bool {
    (rows < 2 || strides[0] >= 0) && (columns < 2 || strides[1] == 1)
}

/// The parts of `rows` in each group: the group, which of its rows, and how many rows came before.
fn groups(rows: Range<usize>, of_group: usize) -> impl Iterator<Item = (usize, Range<usize>, usize)> {
    (rows.start / of_group..=(rows.end - 1) / of_group).map(move |group| {
        let first = group * of_group;
        let part = rows.start.max(first)..rows.end.min(first + of_group);
        (group, part.start - first..part.end - first, part.start - rows.start)
    })
}

/// `to ← from`, the rows shared out.
fn convert<A: Storage, B: Storage>(workers: &Workers, from: ArrayView2<A>, mut to: ArrayViewMut2<B>) {
    /// Rows that a thread takes at least.
    const ROW_SHARE: usize = 32;
    let isa = Isa::current();
    let share = share(from.nrows(), ROW_SHARE, workers.count());
    let pieces = from.axis_chunks_iter(Axis(0), share).zip(to.axis_chunks_iter_mut(Axis(0), share));
    workers.for_each(pieces, |(from, mut to)| {
        for (from, mut to) in from.outer_iter().zip(to.outer_iter_mut()) {
            match (from.to_slice(), to.as_slice_mut()) {
                (Some(from), Some(to)) => simd::convert::convert(isa, from, to),
                _ => to.zip_mut_with(&from, |to, from| *to = from.convert()),
            }
        }
    });
}

/// The sequences of a call, one after the other in its rows.
#[derive(Clone, Copy, Debug)]
pub(super) enum Sequences<'a> {
    /// So many of the same length, in lanes of their own numbers.
    Equal {
        /// How many.
        count: usize,
        /// Tokens of each.
        seqlen: usize,
    },
    /// One token for each of these lanes.
    Lanes(&'a [usize]),
    /// Sequence i has the rows from the number at i to the next one; in lanes of their own numbers.
    Packed(&'a [usize]),
}

impl Sequences<'_> {
    /// Tokens of all.
    pub fn rows(&self) -> usize {
        match *self {
            Sequences::Equal { count, seqlen } => count.saturating_mul(seqlen),
            Sequences::Lanes(lanes) => lanes.len(),
            Sequences::Packed(starts) => starts.last().copied().unwrap_or(0),
        }
    }

    /// The rows of one.
    pub fn rows_of(&self, sequence: usize) -> Range<usize> {
        match *self {
            Sequences::Equal { seqlen, .. } => sequence * seqlen..(sequence + 1) * seqlen,
            Sequences::Lanes(_) => sequence..sequence + 1,
            Sequences::Packed(starts) => starts[sequence]..starts[sequence + 1],
        }
    }

    /// Which lane of a cache one belongs to.
    pub fn lane(&self, sequence: usize) -> usize {
        match *self {
            Sequences::Lanes(lanes) => lanes[sequence],
            _ => sequence,
        }
    }

    /// Those that have some of `rows`.
    pub fn within(&self, rows: Range<usize>) -> impl Iterator<Item = usize> {
        let first = match *self {
            Sequences::Equal { seqlen, .. } => rows.start / seqlen,
            Sequences::Lanes(_) => rows.start,
            Sequences::Packed(starts) => starts.partition_point(|&start| start <= rows.start) - 1,
        };
        let of = *self;
        (first..)
            .take_while(move |&i| of.starts_before(i, rows.end))
            .filter(move |&i| !of.rows_of(i).is_empty())
    }

    fn starts_before(&self, sequence: usize, row: usize) -> bool {
        match *self {
            Sequences::Packed(starts) => sequence + 1 < starts.len() && starts[sequence] < row,
            _ => self.rows_of(sequence).start < row,
        }
    }

    /// How many can have some of `rows` adjacent rows, at most.
    pub fn most_within(&self, rows: usize) -> usize {
        match *self {
            Sequences::Equal { count, seqlen } => count.min(rows.div_ceil(seqlen) + 1),
            Sequences::Lanes(lanes) => lanes.len().min(rows),
            Sequences::Packed(starts) => {
                let lengths = starts.windows(2).map(|pair| pair[1] - pair[0]).filter(|&length| length > 0);
                let (count, shortest) = lengths
                    .fold((0, usize::MAX), |(count, shortest), length| (count + 1, shortest.min(length)));
                rows.min(count).min(rows.div_ceil(shortest) + 1)
            }
        }
    }
}
