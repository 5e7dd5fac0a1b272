// SPDX-License-Identifier: Apache-2.0

import LiteMamba
import Testing

@Suite struct ForwardTests {
    @Test(arguments: Configuration.Variant.allCases)
    func allFormsGiveTheSameBits(variant: Configuration.Variant) throws {
        let layer = try makeLayer(variant)
        let (batch, seqlen, d) = (2, 5, layer.dModel)
        let x = makeInput(batch * seqlen * d)
        let y = try layer.forward(x, batch: batch)
        #expect(y.count == x.count)
        #expect(y.contains { $0 != 0 })

        var array = [Float](repeating: .nan, count: x.count)
        try layer.forward(x, batch: batch, into: &array)
        #expect(bits(array) == bits(y))

        var inPlace = x
        try inPlace.withUnsafeMutableBufferPointer {
            try layer.forward(UnsafeBufferPointer($0), batch: batch, into: $0)
        }
        #expect(bits(inPlace) == bits(y))

        var same = x
        try layer.forward(same, batch: batch, into: &same)
        #expect(bits(same) == bits(y))

        let cache = try Cache(for: layer, batch: batch)
        #expect(try bits(layer.forward(x, cache: cache)) == bits(y))
        #expect(cache.seqlenOffset == seqlen)
    }

    @Test func chunksAndStepsContinueOneAnother() throws {
        let layer = try makeLayer()
        let d = layer.dModel
        let x = makeInput(7 * d)
        let whole = try layer.forward(x)
        let cache = try Cache(for: layer)
        var parts = try layer.forward(Array(x[..<(4 * d)]), cache: cache)
        parts += try layer.step(Array(x[(4 * d)..<(5 * d)]), cache: cache)
        var y = [Float](repeating: .nan, count: d)
        try layer.step(Array(x[(5 * d)..<(6 * d)]), cache: cache, into: &y)
        parts += y
        y = Array(x[(6 * d)...])
        try y.withUnsafeMutableBufferPointer { try layer.step(UnsafeBufferPointer($0), cache: cache, into: $0) }
        parts += y
        #expect(bits(parts) == bits(whole))
        #expect(cache.seqlenOffset == 7)
    }

    @Test func lanesThatAreDueMoveOnAlone() throws {
        let layer = try makeLayer()
        let d = layer.dModel
        let cache = try Cache(for: layer, batch: 3)
        let x = makeInput(2 * d)
        let alone = try Cache(for: layer)
        let expected = try layer.step(Array(x[d...]), cache: alone)

        let y = try layer.step(x, lanes: [2, 0], cache: cache)
        #expect(bits(Array(y[d...])) == bits(expected))

        // Lane 2 again: its second token; lane 1 its first.
        var second = [Float](repeating: .nan, count: 2 * d)
        let tokens = Array(x[..<d] + x[d...])
        try layer.step(tokens, lanes: [2, 1], cache: cache, into: &second)
        #expect(bits(Array(second[d...])) == bits(expected))
        #expect(bits(Array(second[..<d])) != bits(Array(y[..<d])))

        #expect(try layer.step([], lanes: [], cache: cache).isEmpty)
        expectError(.invalidArgument, "lanes[1] is 2") {
            _ = try layer.step(x, lanes: [2, 2], cache: cache)
        }
        expectError(.invalidArgument, "lanes[1] is 3") {
            _ = try layer.step(x, lanes: [2, 3], cache: cache)
        }
        expectError(.invalidArgument, "lanes[0] is -1; it must not be negative") {
            _ = try layer.step(x, lanes: [-1, 2], cache: cache)
        }
        expectError(.shapeMismatch, "x has 16 values; it must have lanes.count * d_model, 1 * 8") {
            _ = try layer.step(x, lanes: [2], cache: cache)
        }
    }

    @Test func emptyInputsAreNoError() throws {
        let layer = try makeLayer()
        let cache = try Cache(for: layer, batch: 2)
        #expect(try layer.forward([]).isEmpty)
        #expect(try layer.forward([], batch: 0).isEmpty)
        #expect(try layer.forward([], cache: cache).isEmpty)
        #expect(cache.seqlenOffset == 0)
        let none = try Cache(for: layer, batch: 0)
        #expect(none.batch == 0)
        #expect(try layer.step([], cache: none).isEmpty)
        try layer.forward(
            UnsafeBufferPointer(start: nil, count: 0), into: UnsafeMutableBufferPointer(start: nil, count: 0))
    }

    @Test func wrongSizesDoNotCross() throws {
        let layer = try makeLayer()
        let cache = try Cache(for: layer, batch: 2)
        let x = makeInput(24)
        expectError(
            .shapeMismatch, "x has 24 values; with a batch of 2 and a d_model of 8 it must have a multiple of 16"
        ) {
            _ = try layer.forward(x, batch: 2)
        }
        expectError(.shapeMismatch, "a multiple of 16") { _ = try layer.forward(x, cache: cache) }
        expectError(.shapeMismatch, "x has 24 values") { _ = try layer.forward(x, batch: 0) }
        expectError(.shapeMismatch, "a multiple of their product") { _ = try layer.forward(x, batch: .max) }
        expectError(.invalidArgument, "batch is -1; it must not be negative") { _ = try layer.forward(x, batch: -1) }
        expectError(.shapeMismatch, "x has 24 values; it must have cache.batch * d_model, 2 * 8") {
            _ = try layer.step(x, cache: cache)
        }
        var y = [Float](repeating: 0, count: 23)
        expectError(.shapeMismatch, "y has 23 values; it must have as many as x, 24") { try layer.forward(x, into: &y) }
        expectError(.shapeMismatch, "y has 23 values") { try layer.step(Array(x[..<16]), cache: cache, into: &y) }
        #expect(y.allSatisfy { $0 == 0 })
        #expect(cache.seqlenOffset == 0)
    }

    @Test func whatTheLibraryRefuses() throws {
        let layer = try makeLayer()
        let x = makeInput(16)
        let wide = try Layer(Configuration(dModel: 16))
        expectError(.shapeMismatch, "cache") { _ = try layer.forward(x, cache: try Cache(for: wide)) }
        expectError(.shapeMismatch, "batch is 1") {
            _ = try layer.forward(x, batch: 1, cache: try Cache(for: layer, batch: 2))
        }
        var buffer = makeInput(17)
        buffer.withUnsafeMutableBufferPointer { buffer in
            expectError(.invalidArgument, "overlap") {
                try layer.forward(
                    UnsafeBufferPointer(rebasing: buffer[..<16]),
                    into: UnsafeMutableBufferPointer(rebasing: buffer[1...]))
            }
        }
        #expect(buffer == makeInput(17))
    }

    @Test func nanStaysInItsLane() throws {
        let layer = try makeLayer()
        var x = makeInput(2 * 3 * 8)
        let clean = try layer.forward(x, batch: 2)
        x[0] = .nan
        let y = try layer.forward(x, batch: 2)
        #expect(y[..<24].contains { $0.isNaN })
        #expect(bits(Array(y[24...])) == bits(Array(clean[24...])))
    }
}
