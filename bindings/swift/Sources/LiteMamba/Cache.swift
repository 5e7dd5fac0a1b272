// SPDX-License-Identifier: Apache-2.0

internal import CLiteMamba

#if canImport(FoundationEssentials)
import FoundationEssentials
#else
import Foundation
#endif

/// The streaming state of a batch of sequences: what a ``Layer`` remembers between calls.
///
/// Its size does not depend on how long the sequences are, and they have no longest length.
///
/// ```swift
/// let cache = try Cache(for: layer)
/// _ = try layer.forward(prompt, cache: cache)    // any number of tokens at once,
/// let y = try layer.step(token, cache: cache)    // then one by one
/// ```
///
/// A cache is used by one thread at a time, so it is not `Sendable`: under Swift 6 the compiler refuses to share
/// one between tasks. It can be handed over, to a task, an actor or another thread, since nothing ties it to a
/// thread; ``copy()`` makes one that can be handed over while this one stays.
///
/// A cache does not keep its layer alive, and works with any other layer of the same variant, shape and type.
public final class Cache {
    /// Number of sequences.
    public let batch: Int

    /// Type in which the state is held.
    public let dtype: DType

    let handle: OpaquePointer
    /// Who frees the handle, if it is borrowed.
    private let owner: InferenceParameters?

    /// Creates a cache for `batch` sequences, all at their beginning.
    ///
    /// - Parameters:
    ///   - layer: The layer it is for.
    ///   - batch: Number of sequences.
    ///   - dtype: In which the state is held. `nil` is the type of the layer's arithmetic: ``DType/float64`` for a
    ///     layer of that type, ``DType/float32`` for every other one. ``DType/bfloat16`` and ``DType/float16`` take half
    ///     the memory of ``DType/float32``; each call then rounds the states that it leaves, so that how a sequence is
    ///     cut into calls changes its results.
    /// - Throws: ``LiteMambaError/Code-swift.struct/outOfMemory``.
    public convenience init(for layer: Layer, batch: Int = 1, dtype: DType? = nil) throws(LiteMambaError) {
        try requireSize(batch, "batch")
        try self.init(
            owning: try makeHandle { cache in
                withExtendedLifetime(layer) { lm_alloc_cache(layer.handle, batch, 0, dtype.cValue, cache) }
            })
    }

    /// Creates a cache from what ``save()`` gave, exactly that.
    ///
    /// - Parameters:
    ///   - saved: The bytes, such as a `[UInt8]`, a `Data` or an `UnsafeRawBufferPointer`. They are not kept.
    ///   - layer: A layer of the variant, shape and type that the cache was of.
    /// - Throws: ``LiteMambaError/Code-swift.struct/format`` for bytes that ``save()`` did not give, cut short or
    ///   altered; ``LiteMambaError/Code-swift.struct/unsupported`` for those of a later version that this one cannot
    ///   read; ``LiteMambaError/Code-swift.struct/shapeMismatch`` for a layer of another variant, shape or type;
    ///   ``LiteMambaError/Code-swift.struct/outOfMemory``.
    public convenience init(loading saved: some ContiguousBytes, for layer: Layer) throws(LiteMambaError) {
        try self.init(
            owning: try makeHandle { cache in
                withExtendedLifetime(layer) {
                    saved.withUnsafeBytes { lm_cache_load(layer.handle, $0.baseAddress, $0.count, cache) }
                }
            })
    }

    private init(owning handle: OpaquePointer) throws(LiteMambaError) {
        do throws(LiteMambaError) {
            dtype = try Self.dtype(of: handle)
        } catch {
            lm_free_cache(handle)
            throw error
        }
        self.handle = handle
        owner = nil
        batch = lm_cache_batch(handle)
    }

    init(borrowing handle: OpaquePointer, from owner: InferenceParameters) throws(LiteMambaError) {
        dtype = try Self.dtype(of: handle)
        self.handle = handle
        self.owner = owner
        batch = lm_cache_batch(handle)
    }

    /// That of its first state; every cache has one.
    private static func dtype(of handle: OpaquePointer) throws(LiteMambaError) -> DType {
        try TensorInfo { lm_cache_state_info(handle, 0, $0, $1) }.dtype
    }

    deinit {
        if owner == nil { lm_free_cache(handle) }
    }

    /// A copy that continues from the same state on its own: a fork of the stream.
    ///
    /// The copy shares nothing with this cache, so it may go to another task.
    public func copy() throws(LiteMambaError) -> sending Cache {
        let handle = try makeHandle { copy in withHandle { lm_cache_clone($0, copy) } }
        // The new handle is bound to nothing of the old one's, which the compiler cannot see.
        nonisolated(unsafe) let copy = try Cache(owning: handle)
        return copy
    }

    /// Returns every sequence to its beginning, and makes a cache that
    /// ``LiteMambaError/Code-swift.struct/internal`` left unusable usable again.
    public func reset() throws(LiteMambaError) {
        try check(withHandle { lm_cache_reset($0) })
    }

    /// Returns one sequence to its beginning; the others go on.
    ///
    /// - Throws: ``LiteMambaError/Code-swift.struct/invalidArgument`` for a lane that is not below ``batch``.
    public func reset(lane: Int) throws(LiteMambaError) {
        try requireSize(lane, "lane")
        try check(withHandle { lm_cache_reset_lane($0, lane) })
    }

    /// Makes one sequence go on from where another one is; that one goes on by itself.
    ///
    /// - Parameters:
    ///   - source: The sequence that is copied.
    ///   - other: The cache that has it; `nil` is this one. It may have another batch and another ``dtype``, but must
    ///     be of a layer of the same variant, shape and type.
    ///   - lane: Which sequence of this cache changes.
    /// - Throws: ``LiteMambaError/Code-swift.struct/invalidArgument`` for a lane that a cache does not have,
    ///   ``LiteMambaError/Code-swift.struct/shapeMismatch`` for caches of layers that differ.
    public func copyLane(_ source: Int, of other: Cache? = nil, to lane: Int) throws(LiteMambaError) {
        try requireSize(source, "source")
        try requireSize(lane, "lane")
        try check(
            withHandle { destination in
                (other ?? self).withHandle { lm_cache_copy_lane(destination, lane, $0, source) }
            })
    }

    /// Number of tokens since the beginning, of the sequence that has had most.
    public var seqlenOffset: Int { withHandle { Int(clamping: lm_cache_seqlen_offset($0)) } }

    /// Memory that the state takes, in bytes.
    public var byteCount: Int { withHandle { lm_cache_bytes($0) } }

    /// The states: `conv_state.0`, `conv_state.1` and so on, one for each branch, and `ssm_state`.
    public var states: [TensorInfo] {
        get throws(LiteMambaError) {
            try TensorInfo.list(withHandle { lm_cache_num_states($0) }) { index, info, size in
                withHandle { lm_cache_state_info($0, index, info, size) }
            }
        }
    }

    /// A state in the reference's layout.
    ///
    /// - Parameter name: `ssm_state` of shape (batch, d_inner, d_state), or `conv_state.0`, `conv_state.1`, … of
    ///   shape (batch, d_inner, (d_conv - 1) · dilation + 1), oldest input first; see ``states``.
    /// - Throws: ``LiteMambaError/Code-swift.struct/notFound`` for another name.
    public func state(_ name: String) throws(LiteMambaError) -> [Float] {
        let count = try states.first { $0.name == name }?.count ?? 0
        return try [Float](count: count) { values throws(LiteMambaError) in try copyState(name, into: values) }
    }

    /// Copies a state out, as ``state(_:)``, without allocating.
    ///
    /// - Throws: ``LiteMambaError/Code-swift.struct/notFound`` for another name,
    ///   ``LiteMambaError/Code-swift.struct/shapeMismatch`` unless the buffer has exactly the state's number of
    ///   values.
    public func copyState(_ name: String, into values: UnsafeMutableBufferPointer<Float>) throws(LiteMambaError) {
        try requireText(name, "name")
        try check(withHandle { lm_cache_get_state($0, name, values.baseAddress, values.count) })
    }

    /// Replaces a state, in the layout of ``state(_:)``. The number of tokens seen stays as it is.
    ///
    /// Branches that share one history (those of PTCN and DPWC all see the same input) share what is written:
    /// writing `conv_state.i` sets the last (d_conv - 1) · dilation + 1 inputs of that history, so write the
    /// longest one.
    ///
    /// - Throws: ``LiteMambaError/Code-swift.struct/notFound`` for another name,
    ///   ``LiteMambaError/Code-swift.struct/shapeMismatch`` for another number of values.
    public func setState(_ name: String, to values: [Float]) throws(LiteMambaError) {
        try values.withBuffer { values throws(LiteMambaError) in try setState(name, to: values) }
    }

    /// Replaces a state, as the form on arrays does.
    public func setState(_ name: String, to values: UnsafeBufferPointer<Float>) throws(LiteMambaError) {
        try requireText(name, "name")
        try check(withHandle { lm_cache_set_state($0, name, values.baseAddress, values.count) })
    }

    /// The state as bytes, from which ``init(loading:for:)`` makes it again, in this process or another, on this
    /// machine or another, with this version of the library or a later one.
    ///
    /// The same state gives the same bytes.
    public func save() throws(LiteMambaError) -> [UInt8] {
        try [UInt8](count: savedByteCount) { bytes throws(LiteMambaError) in
            _ = try save(into: UnsafeMutableRawBufferPointer(bytes))
        }
    }

    /// Writes what ``save()`` gives into a buffer, at any alignment, without allocating.
    ///
    /// - Returns: How many bytes of the buffer were written: ``savedByteCount``.
    /// - Throws: ``LiteMambaError/Code-swift.struct/bufferTooSmall``, with nothing written.
    public func save(into bytes: UnsafeMutableRawBufferPointer) throws(LiteMambaError) -> Int {
        var (nothing, written): (UInt8, Int) = (0, 0)
        try check(
            withUnsafeMutableBytes(of: &nothing) { nothing in
                // A null pointer would ask for the size.
                withHandle { lm_cache_save($0, bytes.baseAddress ?? nothing.baseAddress, bytes.count, &written) }
            })
        return written
    }

    /// Number of bytes that ``save()`` gives.
    public var savedByteCount: Int {
        get throws(LiteMambaError) {
            var count = 0
            try check(withHandle { lm_cache_save($0, nil, 0, &count) })
            return count
        }
    }

    private func withHandle<Result>(_ body: (OpaquePointer) -> Result) -> Result {
        withExtendedLifetime(self) { body(handle) }
    }
}

@available(*, unavailable, message: "a cache belongs to one thread at a time; hand it over, or a copy() of it")
extension Cache: Sendable {}
