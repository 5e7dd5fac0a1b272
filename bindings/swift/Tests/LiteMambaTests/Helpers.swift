// SPDX-License-Identifier: Apache-2.0

import Foundation
import LiteMamba
import Testing

/// A small layer with every kind of parameter.
func makeLayer(
    _ variant: Configuration.Variant = .ptcn, layerIdx: Int? = nil, dtype: DType = .float32, seed: UInt64 = 0
) throws -> Layer {
    var configuration = Configuration(
        variant, dModel: 8, convDilations: variant == .baseline ? [1] : [1, 2, 4], layerIdx: layerIdx,
        dtype: dtype, seed: seed)
    configuration.dState = 4
    configuration.bias = true
    return try Layer(configuration)
}

/// Numbers that look random, the same at every call.
func makeInput(_ count: Int) -> [Float] {
    (0..<count).map { Float(sin(0.7 * Double($0) + 0.1 * Double($0 % 13))) }
}

/// The error that `body` throws, which must have this code and a message with these words.
func expectError(
    _ code: LiteMambaError.Code, _ words: String, sourceLocation: SourceLocation = #_sourceLocation,
    _ body: () throws -> Void
) {
    do {
        try body()
        Issue.record("nothing was thrown", sourceLocation: sourceLocation)
    } catch let error as LiteMambaError {
        #expect(error.code == code, "\(error)", sourceLocation: sourceLocation)
        #expect(error.message.contains(words), "\(error)", sourceLocation: sourceLocation)
    } catch {
        Issue.record(error, sourceLocation: sourceLocation)
    }
}

/// Calls `body` with a folder that is gone afterwards.
func withTemporaryDirectory<Result>(_ body: (URL) throws -> Result) throws -> Result {
    let directory = FileManager.default.temporaryDirectory.appendingPathComponent("lite-mamba-\(UUID())")
    try FileManager.default.createDirectory(at: directory, withIntermediateDirectories: true)
    defer { try? FileManager.default.removeItem(at: directory) }
    return try body(directory)
}
