// SPDX-License-Identifier: Apache-2.0

internal import CLiteMamba

#if canImport(FoundationEssentials)
import FoundationEssentials
#else
import Foundation
#endif

/// Why a call failed: a code to decide by, and a sentence to show.
///
/// A call that fails for its arguments or for want of a resource changes nothing: no output is half-written,
/// no cache advanced. The one exception is ``Code-swift.struct/internal``, a bug of the library: what the call
/// was to write is then undefined, and the cache it used refuses all further use until ``Cache/reset()``.
///
/// ```swift
/// do {
///     let layer = try Layer(contentsOfFile: "model.safetensors", prefix: "backbone.0")
/// } catch where error.code == .notFound {
///     print(error.message)  // names the missing tensor
/// }
/// ```
public struct LiteMambaError: Error, Hashable, Sendable {
    /// What kind of failure it is.
    public let code: Code

    /// One sentence that names the argument, what it was and what it must be.
    public let message: String

    init(_ code: Code, _ message: String) {
        self.code = code
        self.message = message
    }

    /// The failure that the calling thread's last call into the C library has met. Its message is the thread's
    /// own, so nothing may suspend between the two.
    init(status: lm_status) {
        self.init(Code(rawValue: status), String(cString: lm_last_error()))
    }
}

extension LiteMambaError {
    /// A kind of failure: an `LM_ERR_` value of the C library.
    ///
    /// The known ones are the static members. A later version of the C library may add others, which arrive
    /// as they are, so let a `switch` have a `default`.
    public struct Code: RawRepresentable, Hashable, Sendable {
        /// The number of the C library's `lm_status`.
        public let rawValue: Int32

        /// A code of any number, known or not.
        public init(rawValue: Int32) {
            self.rawValue = rawValue
        }

        private init(_ code: lm_status_code) {
            rawValue = lm_status(code.rawValue)
        }

        /// A pointer was null that must not be. No call of this package causes it.
        public static let nullPointer = Code(LM_ERR_NULL_POINTER)
        /// A field of the configuration is out of its range, or contradicts another.
        public static let invalidConfig = Code(LM_ERR_INVALID_CONFIG)
        /// Another argument is out of its range.
        public static let invalidArgument = Code(LM_ERR_INVALID_ARGUMENT)
        /// Sizes do not fit together: a cache of another layer's shape or batch, a wrong number of values.
        public static let shapeMismatch = Code(LM_ERR_SHAPE_MISMATCH)
        /// Valid, but not something this version or this build can do.
        public static let unsupported = Code(LM_ERR_UNSUPPORTED)
        /// No such parameter, state or tensor.
        public static let notFound = Code(LM_ERR_NOT_FOUND)
        /// A file could not be opened, read or written.
        public static let io = Code(LM_ERR_IO)
        /// A file's content is not what it must be.
        public static let format = Code(LM_ERR_FORMAT)
        /// More memory was asked for than can be had.
        public static let outOfMemory = Code(LM_ERR_OUT_OF_MEMORY)
        /// The buffer given is too small for the result.
        public static let bufferTooSmall = Code(LM_ERR_BUFFER_TOO_SMALL)
        /// The GPU, its driver or its memory: missing, too old or out of it.
        public static let cuda = Code(LM_ERR_CUDA)
        /// A bug of the library.
        public static let `internal` = Code(LM_ERR_INTERNAL)
    }
}

extension LiteMambaError.Code: CustomStringConvertible {
    /// The name that the C library gives the code, such as `LM_ERR_IO`.
    public var description: String {
        let name = String(cString: lm_status_name(rawValue))
        return name.hasPrefix("LM_") ? name : "\(name) \(rawValue)"
    }
}

extension LiteMambaError: CustomStringConvertible, LocalizedError {
    /// The code's name and the message.
    public var description: String { "\(code): \(message)" }

    /// The message.
    public var errorDescription: String? { message }
}
