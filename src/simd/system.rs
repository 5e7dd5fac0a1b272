//! What is asked of the machine: its memory, its larger registers, and the floating-point environment of a thread.

use std::sync::OnceLock;

/// Bytes of physical memory, or `u64::MAX` where the system does not say.
pub fn physical_memory() -> u64 {
    // Every step is held against it: the system is asked once.
    static BYTES: OnceLock<u64> = OnceLock::new();
    *BYTES.get_or_init(|| {
        #[cfg(unix)]
        {
            // SAFETY: `sysconf` takes any number and touches no memory of ours.
            let (pages, size) =
                unsafe { (libc::sysconf(libc::_SC_PHYS_PAGES), libc::sysconf(libc::_SC_PAGESIZE)) };
            if pages > 0 && size > 0 {
                return (pages as u64).saturating_mul(size as u64);
            }
        }
        u64::MAX
    })
}

/// Asks for this process and its children to be let use AMX's registers, which the system then has room for in every
/// thread that does; false where it does not know them.
#[cfg(target_arch = "x86_64")]
pub fn permit_tiles() -> bool {
    #[cfg(target_os = "linux")]
    {
        const ARCH_REQ_XCOMP_PERM: libc::c_ulong = 0x1023;
        const TILE_DATA: libc::c_ulong = 18;
        // SAFETY: the call takes two numbers and touches no memory of ours.
        unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, TILE_DATA) == 0 }
    }
    #[cfg(not(target_os = "linux"))]
    false
}

/// While it lives, the thread computes in the default floating-point environment: round to nearest, no
/// traps, denormals kept. Dropping it restores the caller's.
#[derive(Debug)]
pub struct DefaultFpEnv {
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    callers: FpControl,
}

#[cfg(target_arch = "x86_64")]
type FpControl = u32;
#[cfg(target_arch = "aarch64")]
type FpControl = u64;

impl DefaultFpEnv {
    /// Saves the calling thread's environment and sets the default one.
    pub fn enter() -> Self {
        #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
        {
            let callers = read_control();
            write_control(DEFAULT_CONTROL);
            DefaultFpEnv { callers }
        }
        #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
        DefaultFpEnv {}
    }

    /// The default one, but denormals are zero, as they are for some instructions in any.
    #[cfg(target_arch = "x86_64")]
    pub fn without_denormals() -> Self {
        let default = DefaultFpEnv::enter();
        write_control(DEFAULT_CONTROL | 0x8040);
        default
    }
}

impl Drop for DefaultFpEnv {
    fn drop(&mut self) {
        #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
        write_control(self.callers);
    }
}

/// All exceptions masked, round to nearest, neither flush-to-zero nor denormals-are-zero.
#[cfg(target_arch = "x86_64")]
const DEFAULT_CONTROL: FpControl = 0x1f80;
#[cfg(target_arch = "aarch64")]
const DEFAULT_CONTROL: FpControl = 0;

#[cfg(target_arch = "x86_64")]
fn read_control() -> FpControl {
    let mut control: FpControl = 0;
    // SAFETY: stores the 4 bytes of MXCSR to `control`.
    unsafe { core::arch::asm!("stmxcsr [{}]", in(reg) &mut control, options(nostack, preserves_flags)) };
    control
}

#[cfg(target_arch = "x86_64")]
fn write_control(control: FpControl) {
    // SAFETY: `control` was read from MXCSR or is its documented default, so no reserved bit is set.
    // Neither `readonly` nor `nomem`, here and below: what is computed from memory and into it stays on its
    // side of the change.
    unsafe { core::arch::asm!("ldmxcsr [{}]", in(reg) &control, options(nostack, preserves_flags)) };
}

#[cfg(target_arch = "aarch64")]
fn read_control() -> FpControl {
    let control: FpControl;
    // SAFETY: reads FPCR.
    unsafe { core::arch::asm!("mrs {}, fpcr", out(reg) control, options(nomem, nostack, preserves_flags)) };
    control
}

#[cfg(target_arch = "aarch64")]
fn write_control(control: FpControl) {
    // SAFETY: `control` was read from FPCR or is its default.
    unsafe { core::arch::asm!("msr fpcr, {}", in(reg) control, options(nostack, preserves_flags)) };
}

/// The processor that the calling thread runs on, where the system tells.
pub fn current_processor() -> Option<usize> {
    #[cfg(target_os = "linux")]
    // SAFETY: takes nothing and gives a number, negative where it fails.
    return usize::try_from(unsafe { libc::sched_getcpu() }).ok();
    #[cfg(not(target_os = "linux"))]
    None
}

/// Moves the calling thread to another processor of those that it may run on, if there is one. It may come back.
pub fn leave_processor(processor: usize) {
    #[cfg(target_os = "linux")]
    // SAFETY: the sets are plain bits, valid when zeroed, of the size that is said; 0 is the calling thread.
    unsafe {
        const SIZE: usize = size_of::<libc::cpu_set_t>();
        let mut allowed: libc::cpu_set_t = std::mem::zeroed();
        if processor >= 8 * SIZE || libc::sched_getaffinity(0, SIZE, &mut allowed) != 0 {
            return;
        }
        let mut others = allowed;
        libc::CPU_CLR(processor, &mut others);
        if libc::CPU_COUNT(&others) > 0 && libc::sched_setaffinity(0, SIZE, &others) == 0 {
            libc::sched_setaffinity(0, SIZE, &allowed);
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = processor;
}

#[cfg(all(test, target_os = "linux"))]
mod processor_tests {
    use super::*;

    #[test]
    fn a_thread_leaves_its_processor_and_may_still_run_on_all() {
        fn allowed() -> i32 {
            // SAFETY: as in `leave_processor`.
            unsafe {
                let mut set: libc::cpu_set_t = std::mem::zeroed();
                assert_eq!(libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut set), 0);
                libc::CPU_COUNT(&set)
            }
        }
        let before = allowed();
        let left = (0..100).any(|_| {
            let here = current_processor().expect("Linux tells");
            leave_processor(here);
            current_processor() != Some(here)
        });
        assert_eq!(left, before > 1);
        assert_eq!(allowed(), before);
        leave_processor(usize::MAX);
    }
}

#[cfg(all(test, any(target_arch = "x86_64", target_arch = "aarch64")))]
mod tests {
    use super::*;
    use crate::{Config, Layer, Tokens, Variant, threads};

    /// Denormals flushed and taken as zero, and rounding towards zero.
    #[cfg(target_arch = "x86_64")]
    const UNUSUAL: FpControl = DEFAULT_CONTROL | 0x8040 | 0x6000;
    #[cfg(target_arch = "aarch64")]
    const UNUSUAL: FpControl = 1 << 24 | 3 << 22;

    #[test]
    fn nested_environments_are_restored_in_turn() {
        let own = read_control();
        write_control(UNUSUAL);
        let outer = DefaultFpEnv::enter();
        assert_eq!(read_control(), DEFAULT_CONTROL);
        drop(DefaultFpEnv::enter());
        assert_eq!(read_control(), DEFAULT_CONTROL);
        drop(outer);
        let restored = read_control();
        write_control(own);
        assert_eq!(restored, UNUSUAL);
    }

    /// Inputs so small that outputs are denormal, in a call large enough for the library's threads.
    #[test]
    fn the_callers_environment_changes_no_bit() {
        let run = |control: FpControl, threads: usize| {
            let own = read_control();
            write_control(control);
            threads::set_num_threads(threads).unwrap();
            let layer = Layer::new(&Config::new(Variant::Ptcn, 64)).unwrap();
            let x: Vec<f32> = (0..300 * 64).map(|i| f32::from_bits(i * 777)).collect();
            let mut y = vec![0.0; x.len()];
            layer.forward(Tokens::Separate { x: &x, y: &mut y }, 1, 300, None).unwrap();
            let after = read_control();
            write_control(own);
            assert_eq!(after, control, "the environment was not restored");
            y.iter().map(|y| y.to_bits()).collect::<Vec<_>>()
        };
        let expected = run(DEFAULT_CONTROL, 1);
        assert!(expected.iter().any(|&bits| f32::from_bits(bits).is_subnormal()), "no output is denormal");
        for threads in [1, 4, 5] {
            assert!(run(UNUSUAL, threads) == expected, "other bits with {threads} threads");
        }
    }
}
