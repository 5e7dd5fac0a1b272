//! Who does the work of a call: the calling thread, or the library's own team with it.
//!
//! Stages hand their work out in pieces, and which thread runs a piece, or how many there are, changes no bit.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError, TryLockError};

use rayon::prelude::*;

use crate::error::{Result, fail};
use crate::simd::team::{MAX_PIECES, Team};

/// More threads than any machine of ours can use are a mistake of the caller.
const MAX_THREADS: usize = 4096;

/// The workers of one call.
pub struct Workers {
    /// The team, led by this call alone while it runs.
    team: Option<Mutex<MutexGuard<'static, Standing>>>,
    threads: usize,
    /// Whether threads that park during the call are woken for its later stages.
    wakes: bool,
}

impl Workers {
    /// The calling thread alone.
    pub fn caller() -> Workers {
        Workers { team: None, threads: 1, wakes: false }
    }

    /// The workers for a call of so many multiplications and additions: the calling thread alone where
    /// sharing would not pay, or where the team is busy with another call. A caller that is parallel itself
    /// keeps all cores busy that way, each call on its own thread.
    pub fn for_operations(operations: f64) -> Workers {
        /// Some 15 µs on one core: less is done before the others have taken up their pieces.
        const INLINE: f64 = 1e6;
        /// A forward of many stages, during which a thread may park while another finishes a long piece.
        const WAKE: f64 = 2e7;
        if operations < INLINE {
            return Workers::caller();
        }
        let mut standing = match TEAM.try_lock() {
            Ok(standing) => standing,
            Err(TryLockError::Poisoned(standing)) => standing.into_inner(),
            Err(TryLockError::WouldBlock) => return Workers::caller(),
        };
        let wakes = operations >= WAKE;
        let Some(team) = standing.team() else { return Workers::caller() };
        team.wake();
        let threads = team.threads();
        Workers { team: Some(Mutex::new(standing)), threads, wakes }
    }

    /// How many threads there are to share pieces among.
    pub fn count(&self) -> usize {
        self.threads.min(MAX_PIECES)
    }

    /// Calls `work` once for every piece, of which there may be [`Workers::count`]. Allocates nothing.
    pub fn for_each<P: Send>(&self, pieces: impl Iterator<Item = P>, work: impl Fn(P) + Send + Sync) {
        match (&self.team, self.threads) {
            (None, _) => pieces.for_each(work),
            (Some(team), ..=4) => self.share::<P, 4>(team, pieces, work),
            (Some(team), ..=16) => self.share::<P, 16>(team, pieces, work),
            (Some(team), _) => self.share::<P, MAX_PIECES>(team, pieces, work),
        }
    }

    fn share<P: Send, const MOST: usize>(
        &self,
        team: &Mutex<MutexGuard<'static, Standing>>,
        mut pieces: impl Iterator<Item = P>,
        work: impl Fn(P) + Send + Sync,
    ) {
        let mut count = 0;
        let cells: [Mutex<Option<P>>; MOST] = std::array::from_fn(|_| {
            let piece = pieces.next();
            count += usize::from(piece.is_some());
            Mutex::new(piece)
        });
        assert!(pieces.next().is_none(), "a stage was cut into more pieces than there are workers");
        let mut standing = team.lock().unwrap_or_else(PoisonError::into_inner);
        let team = standing.team.as_mut().expect("the team of this call");
        if self.wakes {
            team.wake();
        }
        team.run(count, &|i| {
            let piece = cells[i].lock().unwrap_or_else(PoisonError::into_inner).take();
            work(piece.expect("each piece is taken once"));
        });
    }
}

/// Calls `work` with every chunk of `data` and its number: for work that is done once, such as packing weights.
/// Where there is much, rayon spreads it over threads of its own, made for this call: none are left for a
/// fork's child to wait for in vain.
pub fn for_each_chunk<T: Send>(data: &mut [T], chunk: usize, work: impl Fn(usize, &mut [T]) + Send + Sync) {
    /// A millisecond or two of copying.
    const WORTH_THREADS: usize = 1 << 20;
    let threads = if data.len() < WORTH_THREADS { 1 } else { num_threads() };
    let pool =
        if threads > 1 { rayon::ThreadPoolBuilder::new().num_threads(threads).build().ok() } else { None };
    match pool {
        Some(pool) => pool.install(|| {
            data.par_chunks_mut(chunk).enumerate().for_each(|(i, chunk)| work(i, chunk));
        }),
        None => data.chunks_mut(chunk).enumerate().for_each(|(i, chunk)| work(i, chunk)),
    }
}

/// Sets the number of threads that later calls share; 0 is one per core.
///
/// # Errors
/// `InvalidArgument` for more than 4096.
pub fn set_num_threads(n: usize) -> Result<()> {
    if n > MAX_THREADS {
        fail!(InvalidArgument, "n is {n}; it must be at most {MAX_THREADS}");
    }
    WANTED.store(n, Relaxed);
    Ok(())
}

/// The number of threads that a large call uses.
pub fn num_threads() -> usize {
    static DEFAULT: OnceLock<usize> = OnceLock::new();
    match WANTED.load(Relaxed) {
        UNSET => *DEFAULT.get_or_init(|| crate::environment::num_threads().unwrap_or_else(cores)),
        0 => cores(),
        n => n,
    }
}

fn cores() -> usize {
    static CORES: OnceLock<usize> = OnceLock::new();
    *CORES.get_or_init(|| std::thread::available_parallelism().map_or(1, |n| n.get()))
}

/// What `set_num_threads` was told.
static WANTED: AtomicUsize = AtomicUsize::new(UNSET);
const UNSET: usize = usize::MAX;

struct Standing {
    team: Option<Team>,
    /// The process whose threads the team has.
    process: u32,
}

static TEAM: Mutex<Standing> = Mutex::new(Standing { team: None, process: 0 });

impl Standing {
    /// The team of the wanted number of threads, made at first use; `None` where that is one.
    fn team(&mut self) -> Option<&Team> {
        let threads = num_threads();
        let process = std::process::id();
        if self.process != process {
            // A fork's child: the threads are the parent's, and there is nobody to end.
            std::mem::forget(self.team.take());
            self.process = process;
        }
        if threads == 1 {
            self.team = None;
        } else if self.team.as_ref().is_none_or(|team| team.wanted() != threads) {
            self.team = Some(Team::new(threads));
        }
        self.team.as_ref().filter(|team| team.threads() > 1)
    }
}
