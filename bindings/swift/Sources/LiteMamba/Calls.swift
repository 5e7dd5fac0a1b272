// SPDX-License-Identifier: Apache-2.0

// What every call into the C library goes through.

internal import CLiteMamba

/// Throws the failure of the call that gave `status`, which must be this thread's last.
@inline(__always)
func check(_ status: lm_status) throws(LiteMambaError) {
    if status != 0 { throw LiteMambaError(status: status) }
}

/// The handle that `create` stored.
func makeHandle(
    _ create: (UnsafeMutablePointer<OpaquePointer?>) -> lm_status
) throws(LiteMambaError) -> OpaquePointer {
    var handle: OpaquePointer?
    try check(create(&handle))
    return handle!
}

/// The handles of these objects, kept alive until `call` is over.
@inline(__always)
func withHandles(
    _ layer: Layer, _ cache: Cache?, _ call: (OpaquePointer, OpaquePointer?) -> lm_status
) throws(LiteMambaError) {
    // The failure is read before the objects may go: freeing them is a call into the library too.
    try withExtendedLifetime((layer, cache)) { () throws(LiteMambaError) in
        try check(call(layer.handle, cache?.handle))
    }
}

// The standard library's closures on an array's memory throw any error or none, ours one type.

extension Array {
    func withBuffer(
        _ body: (UnsafeBufferPointer<Element>) throws(LiteMambaError) -> Void
    ) throws(LiteMambaError) {
        try withUnsafeBufferPointer { buffer in
            Result { () throws(LiteMambaError) in try body(buffer) }
        }.get()
    }

    mutating func withMutableBuffer(
        _ body: (UnsafeMutableBufferPointer<Element>) throws(LiteMambaError) -> Void
    ) throws(LiteMambaError) {
        try withUnsafeMutableBufferPointer { buffer in
            Result { [buffer] () throws(LiteMambaError) in try body(buffer) }
        }.get()
    }

    /// An array whose `count` elements `fill` writes, unless it fails.
    init(
        count: Int, _ fill: (UnsafeMutableBufferPointer<Element>) throws(LiteMambaError) -> Void
    ) throws(LiteMambaError) {
        var result: Result<Void, LiteMambaError> = .success(())
        self.init(unsafeUninitializedCapacity: count) { buffer, initializedCount in
            let exact = UnsafeMutableBufferPointer(rebasing: buffer[..<count])
            result = Result { () throws(LiteMambaError) in try fill(exact) }
            if case .success = result { initializedCount = count }
        }
        try result.get()
    }
}

/// Text crosses NUL-terminated: a NUL inside would cut it short without a word.
func requireText(_ text: String?, _ name: String) throws(LiteMambaError) {
    if let text, text.utf8.contains(0) {
        throw LiteMambaError(.invalidArgument, "\(name) is \"\(text)\"; it must not contain NUL")
    }
}

/// Sizes cross without a sign.
func requireSize(
    _ size: Int, _ name: String, _ code: LiteMambaError.Code = .invalidArgument
) throws(LiteMambaError) {
    if size < 0 { throw LiteMambaError(code, "\(name) is \(size); it must not be negative") }
}
