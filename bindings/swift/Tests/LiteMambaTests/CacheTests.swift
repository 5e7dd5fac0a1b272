// SPDX-License-Identifier: Apache-2.0

import LiteMamba
import Testing

@Suite struct CacheTests {
    let layer: Layer
    let x: [Float]

    init() throws {
        layer = try makeLayer()
        x = makeInput(5 * layer.dModel)
    }

    @Test func aCopyIsAFork() throws {
        let cache = try Cache(for: layer)
        _ = try layer.forward(x, cache: cache)
        let fork = try cache.copy()
        #expect(fork.seqlenOffset == 5)
        let token = Array(x[..<8])
        let y = bits(try layer.step(token, cache: cache))
        #expect(try bits(layer.step(token, cache: fork)) == y)
        _ = try layer.step(token, cache: fork)
        #expect(cache.seqlenOffset == 6)
        #expect(fork.seqlenOffset == 7)
    }

    @Test func resetBeginsAnew() throws {
        let cache = try Cache(for: layer)
        let first = bits(try layer.forward(x, cache: cache))
        #expect(try bits(layer.forward(x, cache: cache)) != first)
        try cache.reset()
        #expect(cache.seqlenOffset == 0)
        #expect(try bits(layer.forward(x, cache: cache)) == first)
    }

    @Test func lanes() throws {
        let cache = try Cache(for: layer, batch: 3)
        _ = try layer.forward(x + x + x, cache: cache)
        let one = try Cache(for: layer)
        try cache.reset(lane: 1)
        try cache.copyLane(0, of: one, to: 2)
        let token = Array(x[..<8])
        let y = bits(try layer.step(token + token + token, cache: cache))
        let fresh = bits(try layer.step(token, cache: one))
        #expect(Array(y[..<8]) != fresh)
        #expect(Array(y[8..<16]) == fresh)
        #expect(Array(y[16...]) == fresh)
        try cache.copyLane(0, to: 1)
        let next = bits(try layer.step(token + token + token, cache: cache))
        #expect(Array(next[..<8]) == Array(next[8..<16]))

        expectError(.invalidArgument, "lane is 3") { try cache.reset(lane: 3) }
        expectError(.invalidArgument, "lane is -1; it must not be negative") { try cache.reset(lane: -1) }
        expectError(.invalidArgument, "3") { try cache.copyLane(0, to: 3) }
        expectError(.invalidArgument, "source is -1") { try cache.copyLane(-1, to: 0) }
        expectError(.invalidArgument, "lane is -1") { try cache.copyLane(0, to: -1) }
        let other = try Cache(for: try Layer(Configuration(dModel: 3)))
        expectError(.shapeMismatch, "another shape") { try cache.copyLane(0, of: other, to: 0) }
    }

    @Test func statesMove() throws {
        let cache = try Cache(for: layer, batch: 2)
        _ = try layer.forward(x + x, cache: cache)
        #expect(cache.byteCount > 0)
        #expect(try cache.states.map(\.name) == ["conv_state.0", "conv_state.1", "conv_state.2", "ssm_state"])
        let ssm = try #require(try cache.states.last)
        #expect(ssm.shape == [2, layer.dInner, 4])
        #expect(!ssm.weightDecay)

        let other = try Cache(for: layer, batch: 2)
        for state in try cache.states {
            try other.setState(state.name, to: cache.state(state.name))
        }
        let token = Array(x[..<16])
        #expect(try bits(layer.step(token, cache: other)) == bits(layer.step(token, cache: cache)))

        expectError(.notFound, "conv_state.3") { _ = try cache.state("conv_state.3") }
        expectError(.shapeMismatch, "count is 2") { try cache.setState("ssm_state", to: [1, 2]) }
        expectError(.invalidArgument, "name is") { try cache.setState("ssm\0state", to: []) }
        var values = [Float](repeating: 0, count: 5)
        expectError(.shapeMismatch, "count is 5") {
            try values.withUnsafeMutableBufferPointer { try cache.copyState("ssm_state", into: $0) }
        }
    }

    @Test func whatCannotBeMade() throws {
        expectError(.invalidArgument, "batch is -1") { _ = try Cache(for: layer, batch: -1) }
    }

    @Test func itOutlivesItsLayer() throws {
        func orphan() throws -> Cache { try Cache(for: try makeLayer()) }
        let cache = try orphan()
        #expect(try bits(layer.forward(x, cache: cache)) == bits(layer.forward(x)))
    }
}

@Suite struct InferenceTests {
    @Test func cachesAreFoundByNumber() throws {
        let layers = try (0..<3).map { try makeLayer(layerIdx: $0, seed: UInt64($0)) }
        let x = makeInput(2 * 5 * 8)
        let parameters = try InferenceParameters(batch: 2)
        #expect(parameters.cache(layerIdx: 0) === nil)
        #expect(parameters.cache(layerIdx: -1) === nil)

        var hidden = x
        for layer in layers { hidden = try layer.forward(hidden, inferenceParameters: parameters) }
        var expected = x
        for layer in layers { expected = try layer.forward(expected, batch: 2) }
        #expect(bits(hidden) == bits(expected))

        var borrowed = parameters.cache(layerIdx: 1)
        #expect(borrowed?.seqlenOffset == 5)
        #expect(borrowed?.batch == 2)
        let fork = try borrowed?.copy()
        try parameters.reset()
        #expect(borrowed?.seqlenOffset == 0)
        #expect(fork?.seqlenOffset == 5)
        borrowed = nil  // frees nothing
        #expect(parameters.cache(layerIdx: 1)?.seqlenOffset == 0)

        var y = [Float](repeating: .nan, count: x.count)
        try layers[0].forward(x, inferenceParameters: parameters, into: &y)
        #expect(try bits(y) == bits(layers[0].forward(x, batch: 2)))
        try parameters.reset()
        var inPlace = x
        try inPlace.withUnsafeMutableBufferPointer {
            try layers[0].forward(UnsafeBufferPointer($0), inferenceParameters: parameters, into: $0)
        }
        #expect(bits(inPlace) == bits(y))
    }

    @Test func aBorrowedCacheKeepsItsOwner() throws {
        let layer = try makeLayer(layerIdx: 0)
        func borrow() throws -> Cache? {
            let parameters = try InferenceParameters()
            _ = try layer.forward(makeInput(24), inferenceParameters: parameters)
            return parameters.cache(layerIdx: 0)
        }
        let cache = try #require(try borrow())
        #expect(cache.seqlenOffset == 3)
        _ = try layer.step(makeInput(8), cache: cache)
        #expect(cache.seqlenOffset == 4)
    }

    @Test func whatCannotBe() throws {
        expectError(.invalidArgument, "batch is -1") { _ = try InferenceParameters(batch: -1) }
        let parameters = try InferenceParameters()
        expectError(.invalidArgument, "layer_idx") {
            _ = try makeLayer().forward(makeInput(8), inferenceParameters: parameters)
        }
        _ = try makeLayer(layerIdx: 0).forward(makeInput(8), inferenceParameters: parameters)
        expectError(.invalidArgument, "layer_idx") {
            _ = try makeLayer(layerIdx: 0).forward(makeInput(8), inferenceParameters: parameters)
        }
        expectError(.shapeMismatch, "x has 12 values") {
            _ = try makeLayer(layerIdx: 0).forward(makeInput(12), inferenceParameters: parameters)
        }
    }
}
