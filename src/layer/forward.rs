//! The one path of tokens through the layer, to be read beside the maths of the reference.

use std::ops::Range;

use ndarray::{ArrayView2, ArrayViewMut2, ArrayViewMut4, Axis, s};

use super::workspace::Workspace;
use super::{Layer, Variant};
use crate::cache::{Part, State};
use crate::error::{Result, fail};
use crate::ops::conv::Segment;
use crate::ops::linear::{Input, Output};
use crate::ops::{CHANNEL_BLOCK, padded, share, view2, view2_mut, view3, view3_mut, view4_mut};
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

impl<T> Tokens<'_, T> {
    /// Whether input and output have `len` values.
    pub(super) fn check(&self, size: &str, len: usize) -> Result<()> {
        let (x, y) = match self {
            Tokens::Separate { x, y } => (x.len(), y.len()),
            Tokens::InPlace(both) => (both.len(), both.len()),
        };
        if x != len || y != len {
            fail!(ShapeMismatch, "x and y have {x} and {y} values; {size} is {len}");
        }
        Ok(())
    }

    fn input(&self, rows: Range<usize>, columns: usize) -> ArrayView2<'_, T> {
        let values = match self {
            Tokens::Separate { x, .. } => x,
            Tokens::InPlace(both) => &both[..],
        };
        view2(&values[rows.start * columns..], [rows.len(), columns])
    }

    fn output(&mut self, rows: Range<usize>, columns: usize) -> ArrayViewMut2<'_, T> {
        let values = match self {
            Tokens::Separate { y, .. } => &mut y[..],
            Tokens::InPlace(both) => both,
        };
        view2_mut(&mut values[rows.start * columns..], [rows.len(), columns])
    }
}

/// The sequences of a call, and where their states are.
pub(super) struct Sequences<'a> {
    /// How many.
    pub count: usize,
    /// Tokens of each.
    pub seqlen: usize,
    /// The lane of each in the cache; their own numbers if `None`.
    pub lanes: Option<&'a [usize]>,
}

/// Some channels on their way through the stages of one thread.
struct Chunk<'a> {
    /// The first block of them.
    first: usize,
    state: Part<'a, f32>,
    /// Room for two intermediate results.
    scratch: &'a mut [f32],
}

/// How blocks of channels are shared out: so many to a thread, which takes a chunk of them at a time.
struct Shares {
    share: usize,
    chunk: usize,
    scratch_len: usize,
}

impl Shares {
    fn new(blocks: usize, rows: usize, panel: usize, workers: &Workers, workspace: &Workspace<f32>) -> Self {
        let scratch_len = workspace.scratch_len();
        let share = share(blocks, panel, workers.count().min(workspace.threads()));
        let fitting = scratch_len / 2 / (rows * CHANNEL_BLOCK);
        Shares { share, chunk: share.min(fitting.max(panel) / panel * panel), scratch_len }
    }

    /// Calls `work` with every chunk of channels and its part of `tensor`, (any, blocks, rows, channels).
    fn for_each(
        &self,
        workers: &Workers,
        mut tensor: ArrayViewMut4<f32>,
        state: &mut Part<'_, f32>,
        scratch: &mut [f32],
        work: impl Fn(Chunk<'_>, ArrayViewMut4<f32>) + Send + Sync,
    ) {
        let Shares { share, chunk, scratch_len } = *self;
        let shares = tensor.axis_chunks_iter_mut(Axis(1), share).zip(state.parts(share));
        let shares = shares.zip(scratch.chunks_mut(scratch_len)).enumerate();
        workers.for_each(shares, |(i, ((mut tensor, mut state), scratch))| {
            let chunks = tensor.axis_chunks_iter_mut(Axis(1), chunk).zip(state.parts(chunk));
            for (j, (tensor, state)) in chunks.enumerate() {
                work(Chunk { first: i * share + j * chunk, state, scratch }, tensor);
            }
        });
    }
}

impl Layer {
    /// Takes all tokens through the stages, a block of rows at a time. The rows are the tokens of the first
    /// sequence, then those of the second, and so on; a block holds the pieces of as many as it covers.
    pub(super) fn run(
        &self,
        tokens: &mut Tokens<'_, f32>,
        sequences: Sequences<'_>,
        workspace: &mut Workspace<f32>,
        cached: Option<&mut State<f32>>,
    ) {
        let Sequences { count, seqlen, lanes } = sequences;
        let rows = count * seqlen;
        let workers = Workers::for_operations(rows as f64 * self.operations_per_token());
        let mut own = workspace.state.take();
        let is_cached = cached.is_some();
        let state = cached.or(own.as_mut()).expect("a call without a cache takes a workspace with a state");
        let mut start = 0;
        while start < rows {
            let block = start..rows.min(start + workspace.rows);
            workspace.segments.clear();
            for sequence in block.start / seqlen..=(block.end - 1) / seqlen {
                let from = block.start.max(sequence * seqlen);
                let to = block.end.min((sequence + 1) * seqlen);
                let lane = match lanes {
                    Some(lanes) => lanes[sequence],
                    None if is_cached => sequence,
                    None => sequence % state.lanes(),
                };
                if !is_cached && from == sequence * seqlen {
                    state.reset_lane(lane);
                }
                let rows = from - block.start..to - block.start;
                workspace.segments.push(Segment { lane, rows, offset: state.offset(lane) });
            }
            self.block(&workers, tokens, block.clone(), workspace, state);
            for segment in &workspace.segments {
                state.advance(segment.lane, segment.rows.len());
            }
            start = block.end;
        }
        workspace.state = own;
    }

    /// One block of rows, stage by stage. What stays within a channel goes through all its stages in one thread,
    /// a chunk of channels at a time, so that it never leaves the cache; the products in between mix channels.
    fn block(
        &self,
        workers: &Workers,
        tokens: &mut Tokens<'_, f32>,
        block: Range<usize>,
        workspace: &mut Workspace<f32>,
        state: &mut State<f32>,
    ) {
        let p = &self.parameters;
        let (rows, branches) = (block.len(), self.dims.branches);
        let (dt_rank, d_state) = (self.dims.dt_rank, self.dims.d_state);
        let blocks = padded(self.dims.d_inner) / CHANNEL_BLOCK;
        let shares = Shares::new(blocks, rows, p.in_proj_x.panel_blocks(), workers, workspace);
        let Workspace { u, branches: apart, projected, scratch, segments, .. } = workspace;
        let mut channels = state.all();

        // x = in_proj_x(h), u = the front end of x
        let h = Input::Rows(tokens.input(block.clone(), self.dims.d_model));
        let v = match self.config.variant {
            Variant::Dpwc => view4_mut(apart, [branches, blocks, rows, CHANNEL_BLOCK]),
            _ => view4_mut(u, [1, blocks, rows, CHANNEL_BLOCK]),
        };
        shares.for_each(workers, v, &mut channels, scratch, |chunk, v| self.front(chunk, h, segments, v));
        if let Some(pointwise) = &p.pointwise {
            let v = Input::Blocks(view3(apart, [branches * blocks, rows, CHANNEL_BLOCK]));
            pointwise.apply(workers, v, Output::Blocks(view3_mut(u, [blocks, rows, CHANNEL_BLOCK])));
        }

        // [r, B, C] = x_proj(u)
        let wide = [rows, dt_rank + 2 * d_state];
        let inner = [blocks, rows, CHANNEL_BLOCK];
        p.x_proj.apply(workers, Input::Blocks(view3(u, inner)), Output::Rows(view2_mut(projected, wide)));
        let projected = view2(projected, wide);

        // z = in_proj_z(h), δ = softplus(dt_proj(r)), s_t = exp(δA) ⊙ s_{t−1} + (δu)Bᵀ, y = (sC + D ⊙ u) ⊙ silu(z)
        let y = view4_mut(u, [1, blocks, rows, CHANNEL_BLOCK]);
        shares.for_each(workers, y, &mut channels, scratch, |chunk, u| {
            self.back(chunk, h, projected, segments, u)
        });

        // out = out_proj(y)
        let out = tokens.output(block, self.dims.d_model);
        p.out_proj.apply(workers, Input::Blocks(view3(u, inner)), Output::Rows(out));
    }

    /// The input projection of a chunk of channels and their convolutions: into `v`, (1, blocks, rows, channels),
    /// or (branches, blocks, rows, channels) where a product is still to come.
    fn front(&self, chunk: Chunk<'_>, h: Input<'_, f32>, segments: &[Segment], mut v: ArrayViewMut4<f32>) {
        let p = &self.parameters;
        let Chunk { first, mut state, scratch } = chunk;
        let (_, blocks, rows, channels) = v.dim();
        let branches = self.dims.branches;
        let mut v = v.view_mut();
        let mut x = view4_mut(scratch, [1, blocks, rows, channels]);
        let stacked = self.config.variant == Variant::Stcn;
        // Stacked, each branch's output is the next one's input, and the last one ends in `v`.
        if stacked && branches.is_multiple_of(2) {
            std::mem::swap(&mut x, &mut v);
        }
        p.in_proj_x.apply_columns(first * CHANNEL_BLOCK, h, Output::Blocks(x.index_axis_mut(Axis(0), 0)));
        if !stacked {
            let x = x.index_axis(Axis(0), 0);
            p.conv.apply(first, 0..branches, &p.gates, segments, x, state.history(0), v);
            return;
        }
        for i in 0..branches {
            let input = x.index_axis(Axis(0), 0);
            p.conv.apply(first, i..i + 1, &p.gates[i..=i], segments, input, state.history(i), v.view_mut());
            std::mem::swap(&mut x, &mut v);
        }
    }

    /// The gate and the time step of a chunk of channels, and their scan: `u`, (1, blocks, rows, channels), becomes
    /// y.
    fn back(
        &self,
        chunk: Chunk<'_>,
        h: Input<'_, f32>,
        projected: ArrayView2<f32>,
        segments: &[Segment],
        u: ArrayViewMut4<f32>,
    ) {
        let p = &self.parameters;
        let Chunk { first, mut state, scratch } = chunk;
        let (dt_rank, d_state) = (self.dims.dt_rank, self.dims.d_state);
        let u = u.index_axis_move(Axis(0), 0);
        let (z, delta) = scratch.split_at_mut(scratch.len() / 2);
        let (mut z, mut delta) = (view3_mut(z, u.dim().into()), view3_mut(delta, u.dim().into()));
        let r = Input::Rows(projected.slice_move(s![.., ..dt_rank]));
        let b = projected.slice_move(s![.., dt_rank..dt_rank + d_state]);
        let c = projected.slice_move(s![.., dt_rank + d_state..]);
        p.in_proj_z.apply_columns(first * CHANNEL_BLOCK, h, Output::Blocks(z.view_mut()));
        p.dt_proj.apply_columns(first * CHANNEL_BLOCK, r, Output::Blocks(delta.view_mut()));
        p.scan.apply(first, segments, u, delta, z, b, c, state.ssm());
    }

    /// Multiplications and additions that a token costs, exponentials counted as ten.
    fn operations_per_token(&self) -> f64 {
        let [d, e, n, r] =
            [self.dims.d_model, self.dims.d_inner, self.dims.d_state, self.dims.dt_rank].map(|v| v as f64);
        let branches = self.dims.branches as f64;
        let pointwise = if self.config.variant == Variant::Dpwc { branches * e * e } else { 0.0 };
        let products = 2.0 * (3.0 * d * e + e * (r + 2.0 * n) + r * e + pointwise);
        products + 16.0 * e * n + 2.0 * branches * e * (self.dims.d_conv as f64 + 10.0)
    }
}
