// SPDX-License-Identifier: Apache-2.0

public import CLiteMamba

// MARK: Tensors of other libraries

extension Layer {
    /// Computes the layer's output for every token of a tensor as other libraries have it: ``forward(_:batch:cache:)``
    /// of what lies where it lies, of any ``DType``, whatever the layer's, of any strides and with an offset.
    ///
    /// Types that differ from the layer's arithmetic are converted on their way, outputs to the nearest value; the bits
    /// are otherwise those of ``forward(_:batch:cache:)``. `DLTensor` is DLPack's struct; `import CLiteMamba` has it.
    ///
    /// - Parameters:
    ///   - x: (batch, seqlen, d_model), on the layer's device.
    ///   - cache: `nil` for sequences that begin here and are not continued.
    ///   - y: (batch, seqlen, d_model), of a type and strides of its own, each element in a place of its own. It may be
    ///     the elements of `x`, which are then overwritten.
    ///   - stream: For a layer on a GPU, the CUDA stream to work on. Not looked at on the CPU.
    /// - Throws: ``LiteMambaError/Code-swift.struct/shapeMismatch`` for another number of sides, another d_model, or an
    ///   `x` and a `y` of different shapes; ``LiteMambaError/Code-swift.struct/unsupported`` for another type;
    ///   ``LiteMambaError/Code-swift.struct/invalidArgument`` for another device, a negative side, misaligned values,
    ///   elements of `y` in one place, and a `y` that overlaps `x` in part; further errors as
    ///   ``forward(_:batch:cache:)``.
    public func forward(
        _ x: UnsafePointer<DLTensor>, cache: Cache? = nil, into y: UnsafePointer<DLTensor>,
        stream: UnsafeMutableRawPointer? = nil
    ) throws(LiteMambaError) {
        try withHandles(self, cache) { lm_forward_dlpack($0, x, $1, y, stream) }
    }

    /// Computes the next token of every sequence of a cache, of tensors (batch, d_model) as other libraries have them:
    /// ``forward(_:cache:into:stream:)`` with a seqlen of 1, to the bit.
    public func step(
        _ x: UnsafePointer<DLTensor>, cache: Cache, into y: UnsafePointer<DLTensor>,
        stream: UnsafeMutableRawPointer? = nil
    ) throws(LiteMambaError) {
        try withHandles(self, cache) { lm_step_dlpack($0, x, $1, y, stream) }
    }
}
