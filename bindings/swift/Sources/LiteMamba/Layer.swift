// SPDX-License-Identifier: Apache-2.0

internal import CLiteMamba

#if canImport(FoundationEssentials)
import FoundationEssentials
#else
import Foundation
#endif

/// A lite-mamba layer and its parameters.
///
/// A layer never changes, so it is `Sendable`: any number of tasks and threads may use one at the same time.
/// Parameters of one's own go in through a ``Builder``, before there is a layer that could be shared.
///
/// ```swift
/// let layer = try Layer(Configuration(.ptcn, dModel: 64, convDilations: [1, 2, 4]))
/// let y = try layer.forward(x)  // x: seqlen * 64 numbers
/// ```
///
/// Tensors are row-major: (batch, seqlen, d_model) means that the last index varies fastest. The methods on
/// buffers allocate nothing; `x` and `y` of one call may be the same memory, which is then overwritten with the
/// result, but must not overlap in part.
///
/// On one instruction set, a token gives the same bits in a step, in a chunk, in a whole sequence, in any lane
/// of a batch and with any number of threads, given the same history.
public final class Layer: Sendable {
    /// What the layer was created with, resolved: ``Configuration/dtRank`` is a number.
    public let configuration: Configuration

    /// The inner width: ``Configuration/expand`` · ``dModel``, truncated.
    public let dInner: Int

    /// Width of the input and the output.
    public let dModel: Int

    // Read by everyone, written by a Builder alone: the C library's rule for a const handle.
    nonisolated(unsafe) let handle: OpaquePointer

    /// Creates a layer with the initial values that ``Configuration/seed`` gives: those of PyTorch after
    /// `torch.manual_seed`.
    ///
    /// - Throws: ``LiteMambaError/Code-swift.struct/invalidConfig``, naming the field;
    ///   ``LiteMambaError/Code-swift.struct/unsupported`` or ``LiteMambaError/Code-swift.struct/cuda`` for a type or
    ///   a device that cannot be had here; ``LiteMambaError/Code-swift.struct/outOfMemory``.
    public convenience init(_ configuration: Configuration) throws(LiteMambaError) {
        var handle: OpaquePointer?
        try configuration.withC { lm_create($0, &handle) }
        try self.init(owning: handle!)
    }

    /// Creates a layer from a safetensors file.
    ///
    /// Tensors are named as in the reference's state dict, each after the prefix. Of two names for one tensor
    /// either alone is enough; if the file has both they must agree.
    ///
    /// - Parameters:
    ///   - url: The file.
    ///   - prefix: What the layer's names begin with in the file, with or without a dot at the end, such as
    ///     `layers.0.mixer`; `nil` for none.
    ///   - configuration: Is checked against the shapes if given. `nil` takes it from the file's metadata, where
    ///     the exporter for PyTorch and ``save(to:)`` write it; without that, only a layer of
    ///     ``Configuration/Variant-swift.enum/baseline`` loads, all its sizes taken from the shapes.
    /// - Throws: ``LiteMambaError/Code-swift.struct/io`` for a file that cannot be read;
    ///   ``LiteMambaError/Code-swift.struct/format`` for one that is damaged, has an unknown tensor or two that
    ///   contradict each other; ``LiteMambaError/Code-swift.struct/notFound`` for a missing tensor, or a prefix that
    ///   no name begins with; ``LiteMambaError/Code-swift.struct/shapeMismatch`` for a tensor of another shape;
    ///   ``LiteMambaError/Code-swift.struct/unsupported`` for one of a type that cannot be converted;
    ///   ``LiteMambaError/Code-swift.struct/invalidConfig``; ``LiteMambaError/Code-swift.struct/outOfMemory``. The
    ///   message names the tensor.
    public convenience init(
        contentsOf url: URL, prefix: String? = nil, configuration: Configuration? = nil
    ) throws(LiteMambaError) {
        try self.init(contentsOfFile: path(of: url), prefix: prefix, configuration: configuration)
    }

    /// Creates a layer from a safetensors file at a path, as ``init(contentsOf:prefix:configuration:)``.
    public convenience init(
        contentsOfFile path: String, prefix: String? = nil, configuration: Configuration? = nil
    ) throws(LiteMambaError) {
        try requireText(path, "path")
        try requireText(prefix, "prefix")
        var handle: OpaquePointer?
        try configuration.withC { lm_load(path, prefix, $0, &handle) }
        try self.init(owning: handle!)
    }

    /// Creates a layer from a safetensors file's content, as ``init(contentsOf:prefix:configuration:)``.
    ///
    /// - Parameters:
    ///   - data: The bytes, such as a `Data`, a `[UInt8]` or an `UnsafeRawBufferPointer`. They are not kept.
    ///   - prefix: What the layer's names begin with.
    ///   - configuration: As the file's metadata has it if `nil`.
    public convenience init(
        data: some ContiguousBytes, prefix: String? = nil, configuration: Configuration? = nil
    ) throws(LiteMambaError) {
        try requireText(prefix, "prefix")
        var handle: OpaquePointer?
        try configuration.withC { configuration in
            data.withUnsafeBytes { lm_load_memory($0.baseAddress, $0.count, prefix, configuration, &handle) }
        }
        try self.init(owning: handle!)
    }

    init(owning handle: OpaquePointer) throws(LiteMambaError) {
        do throws(LiteMambaError) {
            var c = lm_config()
            try check(lm_get_config(handle, &c, MemoryLayout<lm_config>.size))
            configuration = try Configuration(c)
        } catch {
            lm_destroy(handle)
            throw error
        }
        self.handle = handle
        dInner = lm_d_inner(handle)
        dModel = configuration.dModel
    }

    deinit {
        lm_destroy(handle)
    }

    /// Writes the layer to a safetensors file that ``init(contentsOf:prefix:configuration:)`` and the reference's
    /// `load_state_dict` read, its configuration in the metadata. An existing file is replaced.
    ///
    /// - Throws: ``LiteMambaError/Code-swift.struct/io`` when it cannot be written.
    public func save(to url: URL) throws(LiteMambaError) {
        try save(toFile: path(of: url))
    }

    /// Writes the layer to a safetensors file at a path, as ``save(to:)``.
    public func save(toFile path: String) throws(LiteMambaError) {
        try requireText(path, "path")
        try check(withExtendedLifetime(self) { lm_save(handle, path) })
    }
}

/// The path of a URL that has one.
private func path(of url: URL) throws(LiteMambaError) -> String {
    guard url.isFileURL else {
        throw LiteMambaError(.invalidArgument, "url is \(url.absoluteString); it must be that of a file")
    }
    return url.path
}
