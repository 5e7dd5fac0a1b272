//! The library's own threads.
//!
//! Every stage hands its work out in pieces that do not depend on the number of threads' bits: which thread
//! runs a piece, and how many there are, changes no result.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rayon::ThreadPool;
use rayon::prelude::*;

use crate::error::{Result, fail};

/// More threads than any machine of ours can use are a mistake of the caller.
const MAX_THREADS: usize = 4096;

/// Who does the work of one call.
pub enum Workers {
    /// The calling thread alone.
    Caller,
    /// The calling call's share of the library's pool, from inside it.
    Pool(Arc<ThreadPool>),
}

impl Workers {
    /// The calling thread alone for work that is not worth waking others, else the library's pool.
    pub fn for_operations(operations: f64) -> Workers {
        /// Below this many multiplications and additions a call takes no longer than entering the pool.
        const INLINE: f64 = 4e6;
        if operations < INLINE {
            return Workers::Caller;
        }
        match pool() {
            Some(pool) => Workers::Pool(pool),
            None => Workers::Caller,
        }
    }

    /// How many threads there are to share pieces among.
    pub fn count(&self) -> usize {
        match self {
            Workers::Caller => 1,
            Workers::Pool(pool) => pool.current_num_threads(),
        }
    }

    /// Runs `call` where its pieces are handed out cheaply.
    pub fn enter<R: Send>(&self, call: impl FnOnce() -> R + Send) -> R {
        match self {
            Workers::Caller => call(),
            Workers::Pool(pool) => pool.install(call),
        }
    }

    /// Calls `work` once for every piece. Allocates only when there are threads to share with.
    pub fn for_each<P: Send>(&self, pieces: impl Iterator<Item = P>, work: impl Fn(P) + Send + Sync) {
        match self {
            Workers::Caller => pieces.for_each(work),
            Workers::Pool(_) => pieces.collect::<Vec<_>>().into_par_iter().with_max_len(1).for_each(work),
        }
    }
}

/// Sets the number of threads that calls share from now on; 0 is one per core.
///
/// # Errors
/// `InvalidArgument` for more than 4096.
pub fn set_num_threads(n: usize) -> Result<()> {
    if n > MAX_THREADS {
        fail!(InvalidArgument, "n is {n}; it must be at most {MAX_THREADS}");
    }
    let mut state = state();
    if state.wanted != Some(n) {
        state.wanted = Some(n);
        state.retire_pool();
    }
    Ok(())
}

/// The number of threads that a large call uses.
pub fn num_threads() -> usize {
    state().resolve()
}

struct State {
    /// What `set_num_threads` was told; 0 is one per core.
    wanted: Option<usize>,
    pool: Option<Arc<ThreadPool>>,
    /// The process whose threads `pool` holds.
    process: u32,
}

static STATE: Mutex<State> = Mutex::new(State { wanted: None, pool: None, process: 0 });

fn state() -> MutexGuard<'static, State> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

impl State {
    fn resolve(&self) -> usize {
        match self.wanted.or_else(crate::environment::num_threads) {
            Some(n) if n > 0 => n,
            _ => std::thread::available_parallelism().map_or(1, |n| n.get()),
        }
    }

    fn retire_pool(&mut self) {
        let pool = self.pool.take();
        if self.process != std::process::id() {
            // A fork's child: the threads are the parent's, and there is nobody to wind them down.
            std::mem::forget(pool);
        }
    }
}

/// The pool, made at first use; `None` where one thread is wanted or none can be started.
fn pool() -> Option<Arc<ThreadPool>> {
    let mut state = state();
    let threads = state.resolve();
    if threads == 1 {
        return None;
    }
    if state.process != std::process::id() {
        state.retire_pool();
        state.process = std::process::id();
    }
    if state.pool.is_none() {
        let built = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|i| format!("lite-mamba-{i}"))
            // Threads inherit their maker's floating-point environment; theirs must be the default one.
            .start_handler(|_| std::mem::forget(crate::simd::system::DefaultFpEnv::enter()))
            .build();
        state.pool = built.ok().map(Arc::new);
    }
    state.pool.clone()
}
