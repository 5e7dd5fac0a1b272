// SPDX-License-Identifier: Apache-2.0

internal import CLiteMamba

/// The C library that was loaded. Everything here may be used from any thread, at any time.
public enum Library {
    /// The library's version: "major.minor.patch".
    public static var version: String { String(cString: lm_version()) }

    /// The version of the library's binary interface.
    public static var abiVersion: UInt32 { lm_abi_version() }

    /// The version of the binary interface that this package was compiled against. A program in which it
    /// differs from ``abiVersion`` must not use the library.
    public static var compiledABIVersion: UInt32 { UInt32(LM_ABI_VERSION) }

    /// One line for a log or a bug report: the version, the instruction set in use, the number of threads, and
    /// whether CUDA was built and can be used, or why not.
    public static var buildInfo: String { String(cString: lm_build_info()) }

    /// Whether layers on ``Configuration/Device-swift.enum/cuda(index:)`` can be created here. If not,
    /// ``buildInfo`` says why.
    public static var isCUDAAvailable: Bool { lm_cuda_available() }

    /// Sets how many threads a call may compute on, 4096 at most; 0, the default, is one per core.
    ///
    /// It changes no bit of any result, and holds for calls that start afterwards.
    public static func setThreadCount(_ count: Int) throws(LiteMambaError) {
        try requireSize(count, "count")
        try check(lm_set_num_threads(count))
    }
}
