//! Scratch memory for one call: a block of tokens through all stages, never more however long the sequence.

use std::sync::{Mutex, PoisonError};

use super::{Config, Dims, Variant};
use crate::cache::State;
use crate::error::Result;
use crate::memory::{Buffer, check_fits, product};
use crate::ops::conv::Segment;
use crate::ops::padded;
use crate::simd::Real;

/// Rows that go through all stages together: enough to reuse each weight often, few enough to stay in cache.
const BLOCK_ROWS: usize = 384;

/// The intermediate results of one block of rows.
#[derive(Debug)]
pub struct Workspace<T> {
    /// Rows of every buffer.
    pub rows: usize,
    /// (blocks, rows, channels)
    pub x: Buffer<T>,
    /// (blocks, rows, channels)
    pub z: Buffer<T>,
    /// (blocks, rows, channels)
    pub u: Buffer<T>,
    /// DPWC: (branches, blocks, rows, channels), else empty.
    pub branches: Buffer<T>,
    /// (rows, dt_rank + 2 d_state): r, B and C side by side.
    pub projected: Buffer<T>,
    /// (blocks, rows, channels)
    pub delta: Buffer<T>,
    /// (blocks, rows, channels)
    pub y: Buffer<T>,
    /// The pieces of sequences that make up the block.
    pub segments: Vec<Segment>,
    /// For calls without a cache: a lane for each sequence that can be in a block.
    pub state: Option<State<T>>,
}

impl<T: Real> Workspace<T> {
    fn new(config: &Config, dims: &Dims, rows: usize) -> Result<Self> {
        let what = "the workspace";
        let columns = padded(dims.d_inner);
        let branches = if config.variant == Variant::Dpwc { dims.branches } else { 0 };
        let projected = dims.dt_rank + 2 * dims.d_state;
        let sizes = [5 * columns, product(what, &[branches, columns])?, projected];
        let total = sizes.iter().try_fold(0, |sum: usize, &size| sum.checked_add(size)).unwrap_or(usize::MAX);
        check_fits(what, product(what, &[rows, total, size_of::<T>()])?)?;
        let buffer = |columns: usize| Buffer::zeroed(what, product(what, &[rows, columns])?);
        Ok(Workspace {
            rows,
            x: buffer(columns)?,
            z: buffer(columns)?,
            u: buffer(columns)?,
            branches: buffer(branches * columns)?,
            projected: buffer(projected)?,
            delta: buffer(columns)?,
            y: buffer(columns)?,
            segments: Vec::with_capacity(rows),
            state: None,
        })
    }
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
    /// One that is large enough for a call, with lanes of its own if the call brings no cache.
    ///
    /// # Errors
    /// `OutOfMemory`
    pub fn take(
        &self,
        config: &Config,
        dims: &Dims,
        batch: usize,
        seqlen: usize,
        own_state: bool,
    ) -> Result<Workspace<T>> {
        let rows = BLOCK_ROWS.min(batch.saturating_mul(seqlen));
        let idle = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut workspace = match idle {
            Some(workspace) if workspace.rows >= rows => workspace,
            _ => Workspace::new(config, dims, rows)?,
        };
        if own_state {
            // A block touches at most this many sequences, so later ones reuse the lanes.
            let lanes = batch.min(rows.div_ceil(seqlen) + 1);
            if workspace.state.as_ref().is_none_or(|state| state.lanes() < lanes) {
                workspace.state = Some(State::new(config, dims, lanes)?);
            }
        }
        Ok(workspace)
    }

    /// Keeps a workspace for the next call.
    pub fn put_back(&self, workspace: Workspace<T>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(workspace);
    }
}
