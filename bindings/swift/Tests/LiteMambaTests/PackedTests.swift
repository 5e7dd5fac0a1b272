// SPDX-License-Identifier: Apache-2.0

import LiteMamba
import Testing

@Suite struct PackedTests {
    @Test(arguments: Configuration.Variant.allCases, DType.allCases)
    func eachSequenceIsAForwardOfItsOwn(variant: Configuration.Variant, dtype: DType) throws {
        let layer = try makeLayer(variant, dtype: dtype)
        let d = layer.dModel
        let cache = try Cache(for: layer, batch: 4)
        let alone = try (0..<4).map { _ in try Cache(for: layer) }
        // Two rounds: the second sequence is empty in the first one, the third in the other.
        for cuSeqlens in [[0, 3, 3, 10, 11], [0, 1, 3, 3, 12]] {
            let x = makeInput(cuSeqlens[4] * d)
            let fresh = try layer.forward(x, cuSeqlens: cuSeqlens)
            let continued = try layer.forward(x, cuSeqlens: cuSeqlens, cache: cache)
            #expect(fresh.count == x.count && continued.count == x.count)
            for i in 0..<4 {
                let tokens = cuSeqlens[i] * d..<cuSeqlens[i + 1] * d
                #expect(try bits(Array(fresh[tokens])) == bits(layer.forward(Array(x[tokens]))))
                let expected = try layer.forward(Array(x[tokens]), cache: alone[i])
                #expect(bits(Array(continued[tokens])) == bits(expected))
            }

            var array = [Float](repeating: .nan, count: x.count)
            try layer.forward(x, cuSeqlens: cuSeqlens, into: &array)
            #expect(bits(array) == bits(fresh))
            var inPlace = x
            try inPlace.withUnsafeMutableBufferPointer { x in
                try cuSeqlens.withUnsafeBufferPointer {
                    try layer.forward(UnsafeBufferPointer(x), cuSeqlens: $0, into: x)
                }
            }
            #expect(bits(inPlace) == bits(fresh))
        }
        #expect(cache.seqlenOffset == 10)
    }

    @Test func whatIsNoPacking() throws {
        let layer = try makeLayer()
        let x = makeInput(48)
        let cache = try Cache(for: layer, batch: 2)
        expectError(.invalidArgument, "cuSeqlens[0] is 6; it must be 0") { _ = try layer.forward(x, cuSeqlens: [6]) }
        expectError(.invalidArgument, "cuSeqlens[1] is -1; it must not be negative") {
            _ = try layer.forward(x, cuSeqlens: [0, -1, 6])
        }
        expectError(.invalidArgument, "cu_seqlens[2] is 6") { _ = try layer.forward(x, cuSeqlens: [0, 7, 6]) }
        expectError(.shapeMismatch, "x has 48 values; it must have cuSeqlens.last * d_model, 5 * 8") {
            _ = try layer.forward(x, cuSeqlens: [0, 5])
        }
        expectError(.shapeMismatch, "cuSeqlens.last * d_model, 0 * 8") { _ = try layer.forward(x, cuSeqlens: []) }
        expectError(.shapeMismatch, "x has 48 values") { _ = try layer.forward(x, cuSeqlens: [0, .max]) }
        expectError(.shapeMismatch, "batch") { _ = try layer.forward(x, cuSeqlens: [0, 6], cache: cache) }
        var y = [Float](repeating: 0, count: 47)
        expectError(.shapeMismatch, "y has 47 values") { try layer.forward(x, cuSeqlens: [0, 6], into: &y) }
        #expect(cache.seqlenOffset == 0)
    }

    @Test func nothingIsNoError() throws {
        let layer = try makeLayer()
        let cache = try Cache(for: layer, batch: 2)
        #expect(try layer.forward([], cuSeqlens: []).isEmpty)
        #expect(try layer.forward([], cuSeqlens: [0]).isEmpty)
        #expect(try layer.forward([], cuSeqlens: [0, 0, 0], cache: cache).isEmpty)
        #expect(cache.seqlenOffset == 0)
    }
}
