//! The one path of tokens through the layer, to be read beside the maths of the reference.

use std::ops::Range;

use ndarray::{ArrayView2, ArrayViewMut4, Axis};

use super::parameters::Parameters;
use super::tokens::{Sequences, Tensors};
use super::workspace::Workspace;
use super::{Dims, Variant};
use crate::cache::{AnyState, Part, State};
use crate::ops::linear::{Input, Linear, Output};
use crate::ops::{CHANNEL_BLOCK, Segment, padded, share, view2, view2_mut, view3, view3_mut, view4_mut};
use crate::simd::{Real, Storage};
use crate::tensor::Element;
use crate::threads::Workers;

/// A layer as its stages see it.
pub(super) struct Pass<'a, W: Storage> {
    pub variant: Variant,
    pub dims: &'a Dims,
    pub parameters: &'a Parameters<W>,
}

/// Where the sequences of a call continue from, and where their states go.
struct States<'a, R> {
    /// What the stages work on.
    state: &'a mut State<R>,
    backing: Backing<'a>,
    /// The lane of the last sequence that began.
    lane: Option<usize>,
}

/// What is behind the state that the stages work on.
enum Backing<'a> {
    /// Nothing: it is the cache's.
    Itself,
    /// Nothing: every sequence begins here and is not continued.
    Nothing,
    /// The cache's, in another type: converted when a sequence begins and when it ends.
    Converted(&'a mut AnyState),
}

impl<R: Real> States<'_, R> {
    /// The lane in which a sequence begins.
    fn begin(&mut self, sequence_lane: usize) -> usize {
        let next = self.lane.map_or(0, |lane| (lane + 1) % self.state.lanes());
        let lane = match &self.backing {
            Backing::Itself => sequence_lane,
            Backing::Nothing => {
                self.state.reset_lane(next);
                next
            }
            Backing::Converted(cached) => {
                cached.copy_lane_to(sequence_lane, self.state, next);
                next
            }
        };
        self.lane = Some(lane);
        lane
    }

    /// The last token of a sequence has gone by.
    fn end(&mut self, sequence_lane: usize, lane: usize) {
        if let Backing::Converted(cached) = &mut self.backing {
            cached.copy_lane(sequence_lane, self.state, lane);
        }
    }
}

/// Some channels on their way through the stages of one thread.
struct Chunk<'a, R> {
    /// The first block of them.
    first: usize,
    state: Part<'a, R>,
    /// Room for two intermediate results.
    scratch: &'a mut [R],
    /// Their part of what the next product takes.
    prepared: &'a mut [R],
}

/// How blocks of channels are shared out: so many to a thread, which takes a chunk of them at a time.
struct Shares {
    share: usize,
    chunk: usize,
    scratch_len: usize,
}

impl Shares {
    fn new<R: Real>(
        blocks: usize,
        rows: usize,
        panel: usize,
        workers: &Workers,
        workspace: &Workspace<R>,
    ) -> Self {
        let scratch_len = workspace.scratch_len();
        let share = share(blocks, panel, workers.count().min(workspace.threads()));
        let fitting = scratch_len / 2 / (rows * CHANNEL_BLOCK);
        Shares { share, chunk: share.min(fitting.max(panel) / panel * panel), scratch_len }
    }

    /// Calls `work` with every chunk of channels and its part of `tensor`, (any, blocks, rows, channels), and of
    /// `prepared`, which is what `next` takes of all channels, or empty.
    fn for_each<W: Storage>(
        &self,
        workers: &Workers,
        mut tensor: ArrayViewMut4<W::Real>,
        state: &mut Part<'_, W::Real>,
        scratch: &mut [W::Real],
        (next, prepared): (&Linear<W>, &mut [W::Real]),
        work: impl Fn(Chunk<'_, W::Real>, ArrayViewMut4<W::Real>) + Send + Sync,
    ) {
        let Shares { share, chunk, scratch_len } = *self;
        let rows = tensor.len_of(Axis(2));
        let [prepared_share, prepared_chunk] = [share, chunk].map(|blocks| rows * next.room_of(blocks));
        let shares = tensor.axis_chunks_iter_mut(Axis(1), share).zip(state.parts(share));
        let shares = shares.zip(scratch.chunks_mut(scratch_len)).zip(pieces(prepared, prepared_share));
        workers.for_each(shares.enumerate(), |(i, (((mut tensor, mut state), scratch), prepared))| {
            let chunks = tensor.axis_chunks_iter_mut(Axis(1), chunk).zip(state.parts(chunk));
            for (j, ((tensor, state), prepared)) in chunks.zip(pieces(prepared, prepared_chunk)).enumerate() {
                work(Chunk { first: i * share + j * chunk, state, scratch, prepared }, tensor);
            }
        });
    }
}

/// The values in pieces of `len`, empty ones when there are no more.
fn pieces<R>(mut values: &mut [R], len: usize) -> impl Iterator<Item = &mut [R]> {
    std::iter::from_fn(move || {
        let at = len.min(values.len());
        let (piece, rest) = std::mem::take(&mut values).split_at_mut(at);
        values = rest;
        Some(piece)
    })
}

impl<W: Storage> Pass<'_, W> {
    /// Takes all tokens through the stages, a block of rows at a time: those of the first sequence, then those of the
    /// second, and so on; a block holds the pieces of as many as it covers.
    pub fn run(
        &self,
        tensors: &mut Tensors<'_>,
        sequences: &Sequences<'_>,
        workspace: &mut Workspace<W::Real>,
        cached: Option<&mut AnyState>,
    ) {
        let rows = sequences.rows();
        let workers = Workers::for_operations(rows as f64 * self.operations_per_token());
        let mut own = workspace.state.take();
        const OWN: &str = "a call without a state of its own type takes a workspace with one";
        let (state, backing) = match cached {
            None => (own.as_mut().expect(OWN), Backing::Nothing),
            Some(cached) if cached.dtype() == W::Real::DTYPE => {
                (cached.of().expect("asked"), Backing::Itself)
            }
            Some(cached) => (own.as_mut().expect(OWN), Backing::Converted(cached)),
        };
        let mut states = States { state, backing, lane: None };
        let mut start = 0;
        while start < rows {
            let block = start..rows.min(start + workspace.rows);
            workspace.segments.clear();
            for sequence in sequences.within(block.clone()) {
                let whole = sequences.rows_of(sequence);
                let lane = match states.lane {
                    Some(lane) if whole.start < block.start => lane,
                    _ => states.begin(sequences.lane(sequence)),
                };
                let rows = block.start.max(whole.start) - block.start..block.end.min(whole.end) - block.start;
                workspace.segments.push(Segment { lane, rows, offset: states.state.offset(lane) });
            }
            self.block(&workers, tensors, block.clone(), workspace, states.state);
            for (segment, sequence) in workspace.segments.iter().zip(sequences.within(block.clone())) {
                states.state.advance(segment.lane, segment.rows.len());
                if sequences.rows_of(sequence).end <= block.end {
                    states.end(sequences.lane(sequence), segment.lane);
                }
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
        tensors: &mut Tensors<'_>,
        block: Range<usize>,
        workspace: &mut Workspace<W::Real>,
        state: &mut State<W::Real>,
    ) {
        let p = self.parameters;
        let (rows, branches) = (block.len(), self.dims.branches);
        let (dt_rank, d_state) = (self.dims.dt_rank, self.dims.d_state);
        let blocks = padded(self.dims.d_inner) / CHANNEL_BLOCK;
        let shares = Shares::new(blocks, rows, p.in_proj_x.panel_blocks(), workers, workspace);
        let Workspace { u, branches: apart, projected, scratch, room, prepared, segments, .. } = workspace;
        let [prepared_h, prepared_r, prepared] = prepared;
        let mut channels = state.all();

        // x = in_proj_x(h), u = the front end of x
        let h = Input::Rows(tensors.input(workers, block.clone(), room));
        let h = p.in_proj_x.prepare(workers, h, prepared_h);
        let v = match self.variant {
            Variant::Dpwc => view4_mut(apart, [branches, blocks, rows, CHANNEL_BLOCK]),
            _ => view4_mut(u, [1, blocks, rows, CHANNEL_BLOCK]),
        };
        let inner = [blocks, rows, CHANNEL_BLOCK];
        let ready = if p.pointwise.is_some() { 0 } else { rows * p.x_proj.room() };
        let ready = &mut prepared[..ready];
        shares.for_each(workers, v, &mut channels, scratch, (&p.x_proj, &mut *ready), |chunk, v| {
            self.front(chunk, h, segments, v)
        });
        let v = match &p.pointwise {
            None => p.x_proj.prepared(Input::Blocks(view3(u, inner)), ready),
            Some(pointwise) => {
                let v = Input::Blocks(view3(apart, [branches * blocks, rows, CHANNEL_BLOCK]));
                let v = pointwise.prepare(workers, v, prepared);
                pointwise.apply(workers, v, Output::Blocks(view3_mut(u, inner)));
                p.x_proj.prepare(workers, Input::Blocks(view3(u, inner)), prepared)
            }
        };

        // [r, B, C] = x_proj(u)
        let wide = [rows, dt_rank + 2 * d_state];
        p.x_proj.apply(workers, v, Output::Rows(view2_mut(projected, wide)));
        let (r, bc) = view2(projected, wide).split_at(Axis(1), dt_rank);
        let r = p.dt_proj.prepare(workers, Input::Rows(r), prepared_r);

        // z = in_proj_z(h), δ = softplus(dt_proj(r)), s_t = exp(δA) ⊙ s_{t−1} + (δu)Bᵀ, y = (sC + D ⊙ u) ⊙ silu(z)
        let y = view4_mut(u, [1, blocks, rows, CHANNEL_BLOCK]);
        let ready = &mut prepared[..rows * p.out_proj.room()];
        shares.for_each(workers, y, &mut channels, scratch, (&p.out_proj, &mut *ready), |chunk, u| {
            self.back(chunk, h, r, bc, segments, u)
        });

        // out = out_proj(y)
        let y = p.out_proj.prepared(Input::Blocks(view3(u, inner)), ready);
        tensors.output(workers, block, room, |out| p.out_proj.apply(workers, y, Output::Rows(out)));
    }

    /// The input projection of a chunk of channels and their convolutions: into `v`, (1, blocks, rows, channels), made
    /// ready for x_proj, or (branches, blocks, rows, channels) where another product is still to come.
    fn front(
        &self,
        chunk: Chunk<'_, W::Real>,
        h: Input<'_, W::Real>,
        segments: &[Segment],
        mut v: ArrayViewMut4<W::Real>,
    ) {
        let p = self.parameters;
        let Chunk { first, mut state, scratch, prepared } = chunk;
        let (_, blocks, rows, channels) = v.dim();
        let branches = self.dims.branches;
        let mut v = v.view_mut();
        let mut x = view4_mut(scratch, [1, blocks, rows, channels]);
        let stacked = self.variant == Variant::Stcn;
        // Stacked, each branch's output is the next one's input, and the last one ends in `v`.
        if stacked && branches.is_multiple_of(2) {
            std::mem::swap(&mut x, &mut v);
        }
        p.in_proj_x.apply_columns(first * CHANNEL_BLOCK, h, Output::Blocks(x.index_axis_mut(Axis(0), 0)));
        if !stacked {
            let x = x.index_axis(Axis(0), 0);
            p.conv.apply(first, 0..branches, &p.gates, segments, x, state.history(0), v.view_mut());
        } else {
            for i in 0..branches {
                let input = x.index_axis(Axis(0), 0);
                p.conv.apply(
                    first,
                    i..i + 1,
                    &p.gates[i..=i],
                    segments,
                    input,
                    state.history(i),
                    v.view_mut(),
                );
                std::mem::swap(&mut x, &mut v);
            }
            std::mem::swap(&mut x, &mut v);
        }
        p.x_proj.prepare_blocks(first, v.index_axis(Axis(0), 0), prepared);
    }

    /// The gate and the time step of a chunk of channels, and their scan: `u`, (1, blocks, rows, channels), becomes
    /// y, made ready for out_proj.
    fn back(
        &self,
        chunk: Chunk<'_, W::Real>,
        h: Input<'_, W::Real>,
        r: Input<'_, W::Real>,
        bc: ArrayView2<W::Real>,
        segments: &[Segment],
        u: ArrayViewMut4<W::Real>,
    ) {
        let p = self.parameters;
        let Chunk { first, mut state, scratch, prepared } = chunk;
        let mut u = u.index_axis_move(Axis(0), 0);
        let (z, delta) = scratch.split_at_mut(scratch.len() / 2);
        let (mut z, mut delta) = (view3_mut(z, u.dim().into()), view3_mut(delta, u.dim().into()));
        let (b, c) = bc.split_at(Axis(1), self.dims.d_state);
        p.in_proj_z.apply_columns(first * CHANNEL_BLOCK, h, Output::Blocks(z.view_mut()));
        p.dt_proj.apply_columns(first * CHANNEL_BLOCK, r, Output::Blocks(delta.view_mut()));
        p.scan.apply(first, segments, u.view_mut(), delta, z, b, c, state.ssm());
        p.out_proj.prepare_blocks(first, u.view(), prepared);
    }

    /// Multiplications and additions that a token costs, exponentials counted as ten.
    fn operations_per_token(&self) -> f64 {
        let [d, e, n, r] =
            [self.dims.d_model, self.dims.d_inner, self.dims.d_state, self.dims.dt_rank].map(|v| v as f64);
        let branches = self.dims.branches as f64;
        let pointwise = if self.variant == Variant::Dpwc { branches * e * e } else { 0.0 };
        let products = 2.0 * (3.0 * d * e + e * (r + 2.0 * n) + r * e + pointwise);
        products + 16.0 * e * n + 2.0 * branches * e * (self.dims.d_conv as f64 + 10.0)
    }
}
