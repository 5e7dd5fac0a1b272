//! A standing team of threads that takes up a piece of work within a microsecond or two.
//!
//! Entering a general thread pool costs tens of microseconds, as much as a whole step, and a forward has
//! hundreds of stages to hand out. Here the threads spin for a bounded time after the last piece, then park.

use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::system::{self, DefaultFpEnv};

/// Pieces of one job at most: one bit each.
pub const MAX_PIECES: usize = 64;
/// How long a thread looks out for the next job before it parks.
const SPIN: Duration = Duration::from_micros(50);

/// Threads that wait for jobs of one leader at a time. Dropping it lets them end.
#[derive(Debug)]
pub struct Team {
    shared: Arc<Shared>,
    threads: usize,
    wanted: usize,
}

struct Shared {
    /// Epoch of the last job, whether it is open, and how many threads are looking at it.
    state: AtomicU64,
    /// Pieces of the open job that somebody has taken.
    claimed: AtomicU64,
    /// Written by the leader while no job is open and no thread is inside one.
    job: UnsafeCell<Job>,
    panicked: AtomicBool,
    stop: AtomicBool,
    sleepers: AtomicUsize,
    /// Which processor the leader was on when it last woke others; `usize::MAX` where that is not known.
    leader: AtomicUsize,
    gate: Mutex<()>,
    bell: Condvar,
}

#[derive(Clone, Copy)]
struct Job {
    pieces: usize,
    call: *const (dyn Fn(usize) + Sync),
}

const OPEN: u64 = 1 << 16;
const EPOCH: u64 = 1 << 17;
const ACTIVE: u64 = OPEN - 1;

// SAFETY: `job` is written by the leader alone, while the job is closed and nobody is counted active, and
// read only by threads that counted themselves active and then saw the job open.
unsafe impl Sync for Shared {}
// SAFETY: as above; the pointer in `job` is followed only while the call it belongs to is running.
unsafe impl Send for Shared {}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("state", &self.state).finish_non_exhaustive()
    }
}

impl Team {
    /// A team of `threads`, its leader included; of fewer where the system refuses to start more.
    pub fn new(threads: usize) -> Team {
        fn nothing(_: usize) {}
        let shared = Arc::new(Shared {
            state: AtomicU64::new(0),
            claimed: AtomicU64::new(0),
            job: UnsafeCell::new(Job { pieces: 0, call: &nothing }),
            panicked: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            sleepers: AtomicUsize::new(0),
            leader: AtomicUsize::new(usize::MAX),
            gate: Mutex::new(()),
            bell: Condvar::new(),
        });
        let started = (1..threads)
            .map_while(|i| {
                let shared = Arc::clone(&shared);
                let thread = std::thread::Builder::new().name(format!("lite-mamba-{i}"));
                thread.spawn(move || shared.work(i)).ok()
            })
            .count();
        Team { shared, threads: started + 1, wanted: threads }
    }

    /// Threads, the leader included.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// The number it was made for, which the system may not have granted.
    pub fn wanted(&self) -> usize {
        self.wanted
    }

    /// Wakes the threads that have parked, so that they look out for jobs again.
    pub fn wake(&self) {
        if self.shared.sleepers.load(SeqCst) > 0 {
            self.shared.leader.store(system::current_processor().unwrap_or(usize::MAX), SeqCst);
            drop(self.shared.gate.lock().unwrap_or_else(PoisonError::into_inner));
            self.shared.bell.notify_all();
            // One that was woken onto this processor goes to another as soon as it gets to run.
            std::thread::yield_now();
        }
    }

    /// Calls `call` with each of `0..pieces`, on this thread and on those of the team that are awake.
    /// Only one thread may lead at a time: `&mut self`.
    ///
    /// # Panics
    /// If a piece panicked, after all have ended; or for more than [`MAX_PIECES`].
    pub fn run(&mut self, pieces: usize, call: &(dyn Fn(usize) + Sync)) {
        assert!(pieces <= MAX_PIECES);
        let shared = &*self.shared;
        // SAFETY: the lifetime is hidden, not extended: the job is closed, with nobody inside, before this returns.
        let call = unsafe {
            std::mem::transmute::<*const (dyn Fn(usize) + Sync + '_), *const (dyn Fn(usize) + Sync + 'static)>(
                call,
            )
        };
        // SAFETY: `&mut self` makes this the only leader, and the last job was closed and left by all.
        unsafe { *shared.job.get() = Job { pieces, call } };
        shared.claimed.store(0, SeqCst);
        shared.state.fetch_add(EPOCH + OPEN, SeqCst);
        shared.take_pieces(0);
        shared.state.fetch_sub(OPEN, SeqCst);
        let mut rounds = 0u32;
        while shared.state.load(SeqCst) & ACTIVE != 0 {
            rounds += 1;
            // Where there are fewer cores than threads, the one waited for may need this core.
            if rounds.is_multiple_of(4096) { std::thread::yield_now() } else { std::hint::spin_loop() }
        }
        if shared.panicked.swap(false, SeqCst) {
            panic!("a piece of work panicked");
        }
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.shared.stop.store(true, SeqCst);
        self.wake();
    }
}

impl Shared {
    fn work(&self, index: usize) {
        // Threads inherit their maker's floating-point environment; theirs must be the default one.
        std::mem::forget(DefaultFpEnv::enter());
        let mut seen = 0;
        while self.wait_for_job(seen) {
            let state = self.state.fetch_add(1, SeqCst);
            seen = state / EPOCH;
            if state & OPEN != 0 {
                self.take_pieces(index);
            }
            self.state.fetch_sub(1, SeqCst);
        }
    }

    /// Works on pieces until all are taken, beginning with the one of this thread's number: the same thread
    /// then meets the same channels in every stage, in its own cache.
    fn take_pieces(&self, index: usize) {
        // SAFETY: the caller is the leader, or counted itself active and saw the job open.
        let Job { pieces, call } = unsafe { *self.job.get() };
        for i in (0..pieces).map(|i| (i + index) % pieces) {
            let bit = 1 << i;
            if self.claimed.load(SeqCst) & bit == 0 && self.claimed.fetch_or(bit, SeqCst) & bit == 0 {
                // SAFETY: the leader's call outlives the job.
                if catch_unwind(AssertUnwindSafe(|| unsafe { (*call)(i) })).is_err() {
                    self.panicked.store(true, SeqCst);
                }
            }
        }
    }

    /// Waits for a job after the one of epoch `seen`; false when the team has ended.
    fn wait_for_job(&self, seen: u64) -> bool {
        let is_new = || self.state.load(SeqCst) / EPOCH != seen;
        loop {
            let since = Instant::now();
            while since.elapsed() < SPIN {
                for _ in 0..32 {
                    if is_new() {
                        return true;
                    }
                    std::hint::spin_loop();
                }
            }
            let gate = self.gate.lock().unwrap_or_else(PoisonError::into_inner);
            self.sleepers.fetch_add(1, SeqCst);
            let gate = if is_new() || self.stop.load(SeqCst) {
                gate
            } else {
                self.bell.wait(gate).unwrap_or_else(PoisonError::into_inner)
            };
            self.sleepers.fetch_sub(1, SeqCst);
            drop(gate);
            if self.stop.load(SeqCst) {
                return false;
            }
            // Systems like to wake a thread where its waker runs. Two threads that spin on one processor would
            // hold each other up until the system notices, milliseconds later.
            if let Some(here) = system::current_processor()
                && here == self.leader.load(SeqCst)
            {
                system::leave_processor(here);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_piece_is_done_once_and_before_the_call_returns() {
        let mut team = Team::new(4);
        for round in 0..2000 {
            let pieces = round % (MAX_PIECES + 1);
            let counts: Vec<AtomicUsize> = (0..pieces).map(|_| AtomicUsize::new(0)).collect();
            if round % 100 == 0 {
                std::thread::sleep(2 * SPIN);
                team.wake();
            }
            team.run(pieces, &|i| {
                counts[i].fetch_add(1, SeqCst);
            });
            assert!(counts.iter().all(|count| count.load(SeqCst) == 1));
        }
    }

    #[test]
    fn a_panic_in_a_piece_reaches_the_leader_and_the_team_goes_on() {
        let mut team = Team::new(3);
        for guilty in 0..8 {
            let outcome = catch_unwind(AssertUnwindSafe(|| team.run(8, &|i| assert_ne!(i, guilty))));
            assert!(outcome.is_err());
        }
        team.run(8, &|_| {});
    }
}
