// SPDX-License-Identifier: Apache-2.0

import Foundation
import LiteMamba
import Testing

@Suite struct SavedTests {
    /// Two sequences, of which the second has seen more.
    func makeCache(_ layer: Layer, _ dtype: DType? = nil) throws -> Cache {
        let cache = try Cache(for: layer, batch: 2, dtype: dtype)
        _ = try layer.forward(makeInput(7 * layer.dModel), cuSeqlens: [0, 2, 7], cache: cache)
        return cache
    }

    @Test(arguments: Configuration.Variant.allCases, DType.allCases)
    func whatWasSavedGoesOn(variant: Configuration.Variant, dtype: DType) throws {
        let layer = try makeLayer(variant, dtype: dtype)
        for held in DType.allCases {
            let cache = try makeCache(layer, held)
            let saved = try cache.save()
            #expect(try saved.count == cache.savedByteCount)
            for loaded in [
                try Cache(loading: saved, for: layer),
                try Cache(loading: Data(saved), for: layer),
                try saved.withUnsafeBytes { try Cache(loading: $0, for: layer) },
            ] {
                #expect(loaded.batch == 2 && loaded.seqlenOffset == 5 && loaded.dtype == held)
                #expect(try loaded.save() == saved)
                let original = try cache.copy()
                for _ in 0..<3 {
                    let x = makeInput(2 * layer.dModel)
                    #expect(try bits(layer.step(x, cache: loaded)) == bits(layer.step(x, cache: original)))
                }
                #expect(try loaded.save() != saved)
            }
        }
    }

    @Test func intoABuffer() throws {
        let layer = try makeLayer()
        let cache = try makeCache(layer)
        let saved = try cache.save()
        var bytes = [UInt8](repeating: 0xaa, count: saved.count + 9)
        let written = try bytes.withUnsafeMutableBytes {
            try cache.save(into: UnsafeMutableRawBufferPointer(rebasing: $0[1...]))  // of any alignment
        }
        #expect(written == saved.count)
        #expect(bytes == [0xaa] + saved + [UInt8](repeating: 0xaa, count: 8))

        var small = [UInt8](repeating: 0xaa, count: saved.count - 1)
        expectError(.bufferTooSmall, "capacity is \(small.count)") {
            try small.withUnsafeMutableBytes { _ = try cache.save(into: $0) }
        }
        #expect(small.allSatisfy { $0 == 0xaa })
        expectError(.bufferTooSmall, "capacity is 0") {
            _ = try cache.save(into: UnsafeMutableRawBufferPointer(start: nil, count: 0))
        }
    }

    @Test func aBorrowedCache() throws {
        let layer = try makeLayer(layerIdx: 0)
        let parameters = try InferenceParameters()
        _ = try layer.forward(makeInput(24), inferenceParameters: parameters)
        let borrowed = try #require(parameters.cache(layerIdx: 0))
        #expect(borrowed.dtype == .float32)
        #expect(try Cache(loading: borrowed.save(), for: layer).seqlenOffset == 3)
    }

    /// Whatever befalls the bytes is an error with its code, and never a cache.
    @Test func whatWasNotSaved() throws {
        var configuration = Configuration(.stcn, dModel: 3, convDilations: [1, 3])
        configuration.dState = 2
        configuration.dConv = 3
        let layer = try Layer(configuration)
        let saved = try makeCache(layer, .float16).save()

        for count in saved.indices {
            expectError(.format, "saved cache") { _ = try Cache(loading: Array(saved[..<count]), for: layer) }
        }
        expectError(.format, "checksum") { _ = try Cache(loading: saved + [0], for: layer) }
        for i in saved.indices {
            var altered = saved
            altered[i] ^= 0x10
            // The version has a code of its own.
            let code = (8..<12).contains(i) ? LiteMambaError.Code.unsupported : .format
            expectError(code, "saved cache") { _ = try Cache(loading: altered, for: layer) }
        }

        let others: [String: (inout Configuration) -> Void] = [
            "variant": { $0.variant = .ptcn },
            "dtype": { $0.dtype = .bfloat16 },
            "d_model": { ($0.dModel, $0.expand) = (6, 1) },
            "d_inner": { $0.expand = 3 },
            "d_state": { $0.dState = 4 },
            "d_conv": { $0.dConv = 4 },
            "dt_rank": { $0.dtRank = 2 },
            "num_conv_dilations": { $0.convDilations = [1] },
            "a dilation": { $0.convDilations = [3, 1] },
        ]
        for (words, change) in others {
            var other = configuration
            change(&other)
            let layer = try Layer(other)
            expectError(.shapeMismatch, words) { _ = try Cache(loading: saved, for: layer) }
        }
    }
}
