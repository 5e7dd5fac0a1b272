// SPDX-License-Identifier: Apache-2.0

internal import CLiteMamba

/// The caches of all layers of one model, as the reference's `inference_params`: found by
/// ``Configuration/layerIdx`` and made at first use.
///
/// ```swift
/// let parameters = try InferenceParameters(batch: 1)
/// for layer in layers {
///     hidden = try layer.forward(hidden, inferenceParameters: parameters)
/// }
/// ```
///
/// As a ``Cache``, it is used by one thread at a time and is not `Sendable`, but can be handed over.
public final class InferenceParameters {
    /// Number of sequences.
    public let batch: Int

    let handle: OpaquePointer

    /// Creates an empty collection of caches for `batch` sequences.
    public init(batch: Int = 1) throws(LiteMambaError) {
        try requireSize(batch, "batch")
        handle = try makeHandle { lm_inference_params_create(batch, 0, $0) }
        self.batch = batch
    }

    deinit {
        lm_inference_params_free(handle)
    }

    /// Returns every sequence to its beginning, in all caches.
    public func reset() throws(LiteMambaError) {
        try check(withExtendedLifetime(self) { lm_inference_params_reset(handle) })
    }

    /// The cache of the layer with this ``Configuration/layerIdx``, `nil` before that layer's first
    /// ``Layer/forward(_:inferenceParameters:)``. It keeps the collection alive.
    public func cache(layerIdx: Int) -> Cache? {
        // Only a type that this package does not know would make it nil, and there is no layer of such a one.
        withExtendedLifetime(self) { lm_inference_params_cache(handle, Int64(layerIdx)) }
            .flatMap { try? Cache(borrowing: $0, from: self) }
    }
}

@available(*, unavailable, message: "its caches belong to one thread at a time; hand it over as a whole")
extension InferenceParameters: Sendable {}
