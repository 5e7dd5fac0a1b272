// SPDX-License-Identifier: Apache-2.0

internal import CLiteMamba

// MARK: Any number of tokens

extension Layer {
    /// Computes the layer's output for every token of `x`.
    ///
    /// - Parameters:
    ///   - x: (batch, seqlen, d_model). Its size says what seqlen is.
    ///   - batch: Number of sequences; `nil` is that of the cache, or 1 without one.
    ///   - cache: `nil` for sequences that begin here and are not continued. With a cache the sequences continue
    ///     from its state, whatever seqlen is, and the state moves on by seqlen tokens.
    /// - Returns: (batch, seqlen, d_model).
    /// - Throws: ``LiteMambaError/Code-swift.struct/shapeMismatch`` for a size that is not a whole number of tokens, or
    ///   a cache of another layer's shape, batch or device; ``LiteMambaError/Code-swift.struct/outOfMemory``.
    public func forward(
        _ x: [Float], batch: Int? = nil, cache: Cache? = nil
    ) throws(LiteMambaError) -> [Float] {
        try output(x) { x, y throws(LiteMambaError) in try forward(x, batch: batch, cache: cache, into: y) }
    }

    /// Computes the layer's output for every token of `x` into an array of the same size, as
    /// ``forward(_:batch:cache:)``, without allocating.
    public func forward(
        _ x: [Float], batch: Int? = nil, cache: Cache? = nil, into y: inout [Float]
    ) throws(LiteMambaError) {
        try fill(&y, from: x) { x, y throws(LiteMambaError) in
            try forward(x, batch: batch, cache: cache, into: y)
        }
    }

    /// Computes the layer's output for every token of `x` into a buffer of the same size, as
    /// ``forward(_:batch:cache:)``, without allocating. The buffer may be `x` itself.
    ///
    /// - Throws: As the other form, and ``LiteMambaError/Code-swift.struct/invalidArgument`` when `y` overlaps `x` in
    ///   part.
    public func forward(
        _ x: UnsafeBufferPointer<Float>, batch: Int? = nil, cache: Cache? = nil,
        into y: UnsafeMutableBufferPointer<Float>
    ) throws(LiteMambaError) {
        let batch = batch ?? cache?.batch ?? 1
        let seqlen = try seqlen(of: x, y, batch: batch)
        try withHandles(self, cache) { layer, cache in
            lm_forward(layer, x.baseAddress, batch, seqlen, cache, y.baseAddress)
        }
    }

    /// ``forward(_:batch:cache:)`` with the cache that a model's collection holds for this layer's
    /// ``Configuration/layerIdx``, made by its first call.
    ///
    /// - Parameters:
    ///   - x: (batch, seqlen, d_model), the batch being that of the collection.
    ///   - inferenceParameters: The caches of the model.
    /// - Returns: (batch, seqlen, d_model).
    /// - Throws: ``LiteMambaError/Code-swift.struct/invalidArgument`` for a layer without a number, or with one that
    ///   another layer has used here; further errors as ``forward(_:batch:cache:)``.
    public func forward(
        _ x: [Float], inferenceParameters: InferenceParameters
    ) throws(LiteMambaError) -> [Float] {
        try output(x) { x, y throws(LiteMambaError) in
            try forward(x, inferenceParameters: inferenceParameters, into: y)
        }
    }

    /// As ``forward(_:inferenceParameters:)``, into an array of the size of `x`, without allocating.
    public func forward(
        _ x: [Float], inferenceParameters: InferenceParameters, into y: inout [Float]
    ) throws(LiteMambaError) {
        try fill(&y, from: x) { x, y throws(LiteMambaError) in
            try forward(x, inferenceParameters: inferenceParameters, into: y)
        }
    }

    /// As ``forward(_:inferenceParameters:)``, into a buffer of the size of `x`, which may be `x` itself, without
    /// allocating.
    public func forward(
        _ x: UnsafeBufferPointer<Float>, inferenceParameters: InferenceParameters,
        into y: UnsafeMutableBufferPointer<Float>
    ) throws(LiteMambaError) {
        let batch = inferenceParameters.batch
        let seqlen = try seqlen(of: x, y, batch: batch)
        let status = withExtendedLifetime((self, inferenceParameters)) {
            lm_forward_inference(handle, x.baseAddress, batch, seqlen, inferenceParameters.handle, y.baseAddress)
        }
        try check(status)
    }
}

// MARK: Sequences of different lengths

extension Layer {
    /// Computes sequences of different lengths, packed one after the other without padding:
    /// ``forward(_:batch:cache:)`` of each, to the bit, in one call.
    ///
    /// ```swift
    /// let y = try layer.forward(x, cuSeqlens: [0, 2, 7])  // of 2 and of 5 tokens
    /// ```
    ///
    /// - Parameters:
    ///   - x: (total, d_model), where total is the last of `cuSeqlens`.
    ///   - cuSeqlens: One number more than there are sequences, the first 0 and none less than the one before: sequence
    ///     `i` has the tokens `cuSeqlens[i]..<cuSeqlens[i + 1]`. It may be empty. No numbers at all are no sequences.
    ///   - cache: `nil` for sequences that begin here and are not continued. With a cache whose batch is the number of
    ///     sequences, sequence `i` continues its sequence `i`, which moves on by as many tokens.
    /// - Returns: (total, d_model).
    /// - Throws: ``LiteMambaError/Code-swift.struct/invalidArgument`` for other numbers in `cuSeqlens`; further errors as
    ///   ``forward(_:batch:cache:)``.
    public func forward(
        _ x: [Float], cuSeqlens: [Int], cache: Cache? = nil
    ) throws(LiteMambaError) -> [Float] {
        try output(x) { x, y throws(LiteMambaError) in
            try cuSeqlens.withBuffer { cuSeqlens throws(LiteMambaError) in
                try forward(x, cuSeqlens: cuSeqlens, cache: cache, into: y)
            }
        }
    }

    /// As ``forward(_:cuSeqlens:cache:)``, into an array of the size of `x`, without allocating.
    public func forward(
        _ x: [Float], cuSeqlens: [Int], cache: Cache? = nil, into y: inout [Float]
    ) throws(LiteMambaError) {
        try fill(&y, from: x) { x, y throws(LiteMambaError) in
            try cuSeqlens.withBuffer { cuSeqlens throws(LiteMambaError) in
                try forward(x, cuSeqlens: cuSeqlens, cache: cache, into: y)
            }
        }
    }

    /// As ``forward(_:cuSeqlens:cache:)``, into a buffer of the size of `x`, which may be `x` itself, without allocating.
    public func forward(
        _ x: UnsafeBufferPointer<Float>, cuSeqlens: UnsafeBufferPointer<Int>, cache: Cache? = nil,
        into y: UnsafeMutableBufferPointer<Float>
    ) throws(LiteMambaError) {
        // That no number is less than the one before is left to the library.
        for i in cuSeqlens.indices where cuSeqlens[i] < 0 { try requireSize(cuSeqlens[i], "cuSeqlens[\(i)]") }
        if let first = cuSeqlens.first, first != 0 {
            throw LiteMambaError(.invalidArgument, "cuSeqlens[0] is \(first); it must be 0")
        }
        try requireTokens(cuSeqlens.last ?? 0, "cuSeqlens.last", x, y)
        try withHandles(self, cache) { layer, cache in
            lm_forward_varlen(
                layer, x.baseAddress, cuSeqlens.baseAddress, max(cuSeqlens.count, 1) - 1, cache, y.baseAddress)
        }
    }
}

// MARK: One token

extension Layer {
    /// Computes the next token of every sequence of a cache: ``forward(_:batch:cache:)`` with a seqlen of 1, to the
    /// bit.
    ///
    /// - Parameters:
    ///   - x: (batch, d_model), one token for each sequence of the cache.
    ///   - cache: The state, which moves on by one token.
    /// - Returns: (batch, d_model).
    /// - Throws: As ``forward(_:batch:cache:)``.
    public func step(_ x: [Float], cache: Cache) throws(LiteMambaError) -> [Float] {
        try output(x) { x, y throws(LiteMambaError) in try step(x, cache: cache, into: y) }
    }

    /// Computes the next token of every sequence into an array of the same size, as ``step(_:cache:)``, without
    /// allocating.
    public func step(_ x: [Float], cache: Cache, into y: inout [Float]) throws(LiteMambaError) {
        try fill(&y, from: x) { x, y throws(LiteMambaError) in try step(x, cache: cache, into: y) }
    }

    /// Computes the next token of every sequence into a buffer of the same size, as ``step(_:cache:)``, without
    /// allocating. The buffer may be `x` itself.
    public func step(
        _ x: UnsafeBufferPointer<Float>, cache: Cache, into y: UnsafeMutableBufferPointer<Float>
    ) throws(LiteMambaError) {
        try requireTokens(cache.batch, "cache.batch", x, y)
        try withHandles(self, cache) { lm_step($0, x.baseAddress, $1, y.baseAddress) }
    }

    /// Computes the next token of those sequences of a cache that are due. The bits are those that
    /// ``step(_:cache:)`` gives these sequences; the others stay where they are.
    ///
    /// - Parameters:
    ///   - x: (lanes.count, d_model), one token for each of `lanes`.
    ///   - lanes: Different numbers below the cache's batch, in any order.
    ///   - cache: The state, of which these sequences move on by one token.
    /// - Returns: (lanes.count, d_model).
    /// - Throws: ``LiteMambaError/Code-swift.struct/invalidArgument`` for a lane that the cache does not have or that is
    ///   there twice; further errors as ``forward(_:batch:cache:)``.
    public func step(_ x: [Float], lanes: [Int], cache: Cache) throws(LiteMambaError) -> [Float] {
        try output(x) { x, y throws(LiteMambaError) in
            try lanes.withBuffer { lanes throws(LiteMambaError) in
                try step(x, lanes: lanes, cache: cache, into: y)
            }
        }
    }

    /// As ``step(_:lanes:cache:)``, into an array of the size of `x`, without allocating.
    public func step(
        _ x: [Float], lanes: [Int], cache: Cache, into y: inout [Float]
    ) throws(LiteMambaError) {
        try fill(&y, from: x) { x, y throws(LiteMambaError) in
            try lanes.withBuffer { lanes throws(LiteMambaError) in
                try step(x, lanes: lanes, cache: cache, into: y)
            }
        }
    }

    /// As ``step(_:lanes:cache:)``, into a buffer of the size of `x`, which may be `x` itself, without allocating.
    public func step(
        _ x: UnsafeBufferPointer<Float>, lanes: UnsafeBufferPointer<Int>, cache: Cache,
        into y: UnsafeMutableBufferPointer<Float>
    ) throws(LiteMambaError) {
        try requireTokens(lanes.count, "lanes.count", x, y)
        for i in lanes.indices where lanes[i] < 0 { try requireSize(lanes[i], "lanes[\(i)]") }
        try withHandles(self, cache) { layer, cache in
            lm_step_lanes(layer, x.baseAddress, lanes.baseAddress, lanes.count, cache, y.baseAddress)
        }
    }
}

// MARK: Sizes, checked before a pointer crosses

extension Layer {
    /// How many tokens of `batch` sequences `x` and `y` hold.
    private func seqlen(
        of x: UnsafeBufferPointer<Float>, _ y: UnsafeMutableBufferPointer<Float>, batch: Int
    ) throws(LiteMambaError) -> Int {
        try requireSize(batch, "batch")
        try requireSameSize(x, y)
        if x.isEmpty { return 0 }
        let (size, overflow) = batch.multipliedReportingOverflow(by: dModel)
        guard !overflow, size > 0, x.count.isMultiple(of: size) else {
            throw LiteMambaError(
                .shapeMismatch,
                "x has \(x.count) values; with a batch of \(batch) and a d_model of \(dModel) it must have a multiple of "
                    + (overflow ? "their product" : "\(size)"))
        }
        return x.count / size
    }

    /// One token for each of `count` sequences.
    @inline(__always)
    private func requireTokens(
        _ count: Int, _ name: String, _ x: UnsafeBufferPointer<Float>, _ y: UnsafeMutableBufferPointer<Float>
    ) throws(LiteMambaError) {
        let (size, overflow) = count.multipliedReportingOverflow(by: dModel)
        guard !overflow, x.count == size else {
            throw LiteMambaError(
                .shapeMismatch, "x has \(x.count) values; it must have \(name) * d_model, \(count) * \(dModel)")
        }
        try requireSameSize(x, y)
    }

    @inline(__always)
    private func requireSameSize(
        _ x: UnsafeBufferPointer<Float>, _ y: UnsafeMutableBufferPointer<Float>
    ) throws(LiteMambaError) {
        if x.count != y.count {
            throw LiteMambaError(.shapeMismatch, "y has \(y.count) values; it must have as many as x, \(x.count)")
        }
    }
}

// MARK: Arrays

private typealias Computation =
    (UnsafeBufferPointer<Float>, UnsafeMutableBufferPointer<Float>) throws(LiteMambaError) -> Void

/// A new array of the size of `x`, which `compute` fills.
private func output(_ x: [Float], _ compute: Computation) throws(LiteMambaError) -> [Float] {
    try [Float](count: x.count) { y throws(LiteMambaError) in
        try x.withBuffer { x throws(LiteMambaError) in try compute(x, y) }
    }
}

/// Has `compute` fill `y`.
private func fill(_ y: inout [Float], from x: [Float], _ compute: Computation) throws(LiteMambaError) {
    try y.withMutableBuffer { y throws(LiteMambaError) in
        try x.withBuffer { x throws(LiteMambaError) in try compute(x, y) }
    }
}
