//! Scratch memory for one call: a block of tokens through all stages, never more however long the sequence.

use std::sync::{Mutex, PoisonError};

use super::tokens::Sequences;
use super::{Config, Dims, Variant};
use crate::cache::State;
use crate::error::Result;
use crate::memory::{Buffer, check_fits, product};
use crate::ops::{Segment, padded};
use crate::simd::Real;
use crate::simd::linear::MAX_PANEL;
use crate::simd::team::MAX_PIECES;
use crate::threads::num_threads;

/// Rows that go through all stages together: enough to reuse each weight often, few enough to stay in cache.
const BLOCK_ROWS: usize = 384;
/// Values of one intermediate result that a thread works on at a time: few enough for several to stay in its
/// cache.
const CHUNK: usize = 32 * BLOCK_ROWS;

/// The intermediate results of one block of rows.
#[derive(Debug)]
pub struct Workspace<T> {
    /// Rows of every buffer.
    pub rows: usize,
    /// (blocks, rows, channels): u, then y.
    pub u: Buffer<T>,
    /// DPWC: (branches, blocks, rows, channels), else empty.
    pub branches: Buffer<T>,
    /// (rows, dt_rank + 2 d_state): r, B and C side by side.
    pub projected: Buffer<T>,
    /// For each thread, two intermediate results of a chunk of channels.
    pub scratch: Buffer<T>,
    scratch_len: usize,
    /// (rows, d_model), for tokens that cannot be used as they lie; else empty.
    pub room: Buffer<T>,
    /// What products take in place of h, of r, and in turn of their other inputs
    /// ([`Linear::prepare`](crate::ops::linear::Linear::prepare)).
    pub prepared: [Buffer<T>; 3],
    /// The pieces of sequences that make up the block.
    pub segments: Vec<Segment>,
    /// For calls without a cache, or with one of another type: a lane for each sequence that can be in a block.
    pub state: Option<State<T>>,
}

impl<T: Real> Workspace<T> {
    fn new(config: &Config, dims: &Dims, prepared: [usize; 3], rows: usize, threads: usize) -> Result<Self> {
        let what = "the workspace";
        let columns = padded(dims.d_inner);
        let branches = if config.variant == Variant::Dpwc { dims.branches } else { 0 };
        let projected = dims.dt_rank + 2 * dims.d_state;
        let values = |columns: usize| product(what, &[rows, columns]);
        // A chunk has at least one panel of weights.
        let scratch_len = 2 * values(columns)?.min(CHUNK.max(values(MAX_PANEL)?));
        let sizes = [
            values(columns)?,
            values(product(what, &[branches, columns])?)?,
            values(projected)?,
            product(what, &[threads, scratch_len])?,
            values(prepared[0])?,
            values(prepared[1])?,
            values(prepared[2])?,
        ];
        let total = sizes.iter().try_fold(0, |sum: usize, &size| sum.checked_add(size)).unwrap_or(usize::MAX);
        check_fits(what, product(what, &[total, size_of::<T>()])?)?;
        let [u, branches, projected, scratch, h, r, others] = sizes.map(|size| Buffer::zeroed(what, size));
        Ok(Workspace {
            rows,
            u: u?,
            branches: branches?,
            projected: projected?,
            scratch: scratch?,
            scratch_len,
            room: Buffer::zeroed(what, 0)?,
            prepared: [h?, r?, others?],
            segments: Vec::with_capacity(rows),
            state: None,
        })
    }

    /// Threads that it has scratch for.
    pub fn threads(&self) -> usize {
        self.scratch.len() / self.scratch_len
    }

    /// Values of each thread's scratch, half of them for one intermediate result.
    pub fn scratch_len(&self) -> usize {
        self.scratch_len
    }
}

/// What a call needs of a workspace.
pub struct Needs<'a> {
    /// Its sequences.
    pub sequences: &'a Sequences<'a>,
    /// Whether they need lanes: the call brings no state, or one of another type.
    pub state: bool,
    /// Whether its tokens cannot be used as they lie.
    pub room: bool,
    /// Values of each row of [`Workspace::prepared`].
    pub prepared: [usize; 3],
}

/// The workspaces of a layer that no call is using.
#[derive(Debug)]
pub struct Workspaces<T>(Mutex<Vec<Workspace<T>>>);

impl<T> Default for Workspaces<T> {
    fn default() -> Self {
        Workspaces(Mutex::new(Vec::new()))
    }
}

impl<T: Real> Workspaces<T> {
    /// One that is large enough for a call.
    ///
    /// # Errors
    /// `OutOfMemory`
    pub fn take(&self, config: &Config, dims: &Dims, needs: &Needs<'_>) -> Result<Workspace<T>> {
        let rows = BLOCK_ROWS.min(needs.sequences.rows());
        let idle = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let threads = num_threads().min(MAX_PIECES);
        let mut workspace = match idle {
            Some(workspace) if workspace.rows >= rows && workspace.threads() >= threads => workspace,
            _ => Workspace::new(config, dims, needs.prepared, rows, threads)?,
        };
        if needs.state {
            let lanes = needs.sequences.most_within(rows);
            if workspace.state.as_ref().is_none_or(|state| state.lanes() < lanes) {
                workspace.state = Some(State::new(config.variant, dims, lanes)?);
            }
        }
        let room = product("the workspace", &[workspace.rows, dims.d_model])?;
        if needs.room && workspace.room.len() < room {
            workspace.room = Buffer::zeroed("the workspace", room)?;
        }
        Ok(workspace)
    }

    /// Keeps a workspace for the next call.
    pub fn put_back(&self, workspace: Workspace<T>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(workspace);
    }
}
