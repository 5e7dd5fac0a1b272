//! The device's scratch memory of one call: a block of tokens through all stages, never more however long the call.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::ThreadId;

use super::driver::{Gpu, Memory, OwnStream, Stream};
use super::state::State;
use crate::error::Result;

/// The intermediate results of one block of rows, in memory that grows as calls need it. What has been outgrown is
/// kept where a captured graph may still use it, on a caller's stream.
#[derive(Debug)]
pub struct Workspace {
    /// (rows, 2 d_inner): x and z; later, δ takes the place of x.
    pub xz: Memory,
    /// (rows, d_inner): u, then y.
    pub u: Memory,
    /// DPWC: (rows, branches · d_inner).
    pub apart: Memory,
    /// (rows, dt_rank + 2 d_state): r, B and C side by side.
    pub projected: Memory,
    /// What chunks of the scan leave for each other.
    pub chunks: Memory,
    /// cuBLASLt's.
    pub products: Memory,
    /// Beginnings and lanes of sequences, i32.
    pub indices: Memory,
    /// Input and output of a call as the stages take them, and as the host has them.
    pub tokens: [Memory; 3],
    /// For calls without a cache whose sequences are longer than a block.
    pub state: Option<State>,
    /// See above.
    pub retired: Retired,
}

/// What a memory of `has` bytes becomes that is to have `bytes`.
fn ample(has: usize, bytes: usize) -> usize {
    bytes.max(has + has / 2)
}

/// What has been outgrown.
#[derive(Debug, Default)]
pub struct Retired {
    memories: Vec<Memory>,
    states: Vec<State>,
}

impl Workspace {
    fn new(gpu: &'static Gpu) -> Result<Workspace> {
        let none = || Memory::zeroed(gpu, "the workspace", 0);
        Ok(Workspace {
            xz: none()?,
            u: none()?,
            apart: none()?,
            projected: none()?,
            chunks: none()?,
            products: none()?,
            indices: none()?,
            tokens: [none()?, none()?, none()?],
            state: None,
            retired: Retired::default(),
        })
    }
}

impl Retired {
    /// Sees to it that `memory` has at least `bytes`. Where it is not the first, it becomes half as large again if it
    /// can: calls each a little longer than the one before would else leave behind as many memories as calls.
    ///
    /// # Errors
    /// `Cuda` where the device has not so much.
    pub fn grow(&mut self, gpu: &'static Gpu, memory: &mut Memory, bytes: usize) -> Result<()> {
        if memory.bytes() < bytes {
            let zeroed = |bytes| Memory::zeroed(gpu, "the workspace", bytes);
            let ample = ample(memory.bytes(), bytes);
            let grown =
                zeroed(ample).or_else(|error| if ample > bytes { zeroed(bytes) } else { Err(error) })?;
            self.memories.push(std::mem::replace(memory, grown));
        }
        Ok(())
    }

    /// Sees to it that there is a state of at least `lanes`, which `new` makes.
    ///
    /// # Errors
    /// Those of `new`.
    pub fn grow_state(
        &mut self,
        state: &mut Option<State>,
        lanes: usize,
        new: impl FnOnce() -> Result<State>,
    ) -> Result<()> {
        if state.as_ref().is_none_or(|state| state.lanes() < lanes) {
            let grown = new()?;
            self.states.extend(state.replace(grown));
        }
        Ok(())
    }
}

/// Which stream: the driver has one handle for the default streams of all threads.
type Name = (usize, Option<ThreadId>);

/// The workspaces of a layer: one for each stream of a caller, and one for each host thread that is in a call.
#[derive(Debug)]
pub struct Workspaces {
    gpu: &'static Gpu,
    streams: Mutex<HashMap<Name, Arc<Mutex<Workspace>>>>,
    idle: Mutex<Vec<(OwnStream, Workspace)>>,
}

impl Workspaces {
    /// None as yet.
    pub fn new(gpu: &'static Gpu) -> Workspaces {
        Workspaces { gpu, streams: Mutex::default(), idle: Mutex::default() }
    }

    /// The one of a caller's stream. It stays locked while a call is enqueued, lest two mix.
    ///
    /// # Errors
    /// `Cuda`
    pub fn of(&self, stream: Stream) -> Result<Arc<Mutex<Workspace>>> {
        const PER_THREAD: usize = 2;
        let handle = stream.handle() as usize;
        let name = (handle, (handle == PER_THREAD).then(|| std::thread::current().id()));
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(workspace) = streams.get(&name) {
            return Ok(workspace.clone());
        }
        let workspace = Arc::new(Mutex::new(Workspace::new(self.gpu)?));
        streams.insert(name, workspace.clone());
        Ok(workspace)
    }

    /// One that no call is using, with a stream.
    ///
    /// # Errors
    /// `Cuda`
    pub fn take(&self) -> Result<(OwnStream, Workspace)> {
        match self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop() {
            Some(idle) => Ok(idle),
            None => Ok((OwnStream::new(self.gpu)?, Workspace::new(self.gpu)?)),
        }
    }

    /// Keeps it for the next call; nothing on the stream is still to be done.
    pub fn put_back(&self, mut idle: (OwnStream, Workspace)) {
        idle.1.retired = Retired::default();
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(idle);
    }
}

#[cfg(test)]
mod tests {
    use super::ample;

    #[test]
    fn what_is_left_behind_is_no_more_than_twice_what_is_in_use() {
        let (mut has, mut left) = (0, 0);
        for bytes in (1..1_000_000).step_by(7) {
            if has < bytes {
                left += has;
                has = ample(has, bytes);
            }
            assert!(left <= 2 * has && has <= bytes + bytes / 2, "{left} bytes left by {has} for {bytes}");
        }
        assert_eq!(ample(0, 100), 100);
        assert_eq!(ample(100, 1000), 1000);
    }
}
