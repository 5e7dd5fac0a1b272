//! Every environment variable the library reads, in one place.

/// `LITE_MAMBA_ISA`: the instruction set to use instead of the fastest one (`portable`, `avx2`,
/// `avx512`, `avx512bf16`, `amx`, `neon`). One that the processor lacks is ignored; `lm_build_info` says what is in use.
pub fn isa() -> Option<String> {
    std::env::var("LITE_MAMBA_ISA").ok().map(|name| name.to_ascii_lowercase())
}

/// `LITE_MAMBA_NUM_THREADS`: the number of threads until `lm_set_num_threads` says otherwise.
pub fn num_threads() -> Option<usize> {
    std::env::var("LITE_MAMBA_NUM_THREADS").ok().and_then(|n| n.parse().ok()).filter(|&n| n > 0)
}
