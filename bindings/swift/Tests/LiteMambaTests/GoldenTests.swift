// SPDX-License-Identifier: Apache-2.0

import LiteMamba
import Testing

@Suite struct GoldenTests {
    static let bound = 1e-5

    @Test func allCasesAreThere() {
        #expect(Golden.urls.count >= 30, "in \(Golden.directory.path)")
    }

    /// Forward, steps and states are the reference's, and steps have the bits of forward.
    @Test(arguments: Golden.urls.map(Golden.init))
    func theReferencesNumbers(golden: Golden) throws {
        let tensors = try golden.tensors()
        let x = try #require(tensors["x"])
        let y = try #require(tensors["y"])
        let (batch, seqlen) = (x.shape[0], x.shape[1])
        let layer = try Layer(contentsOf: golden.url, prefix: "layer")
        #expect(layer.dModel == x.shape[2])

        let whole = try layer.forward(x.values, batch: batch)
        #expect(relativeError(whole, y.values) <= Self.bound)

        // Token by token: x is (batch, seqlen, d_model), a step takes (batch, d_model).
        let cache = try Cache(for: layer, batch: batch)
        var stepped = [Float](repeating: .nan, count: x.values.count)
        let d = layer.dModel
        for t in 0..<seqlen {
            let places = (0..<batch).map { lane in (lane * seqlen + t) * d }
            let out = try layer.step(places.flatMap { x.values[$0..<$0 + d] }, cache: cache)
            for (lane, place) in places.enumerated() {
                stepped.replaceSubrange(place..<place + d, with: out[lane * d..<(lane + 1) * d])
            }
        }
        #expect(bits(stepped) == bits(whole))
        #expect(cache.seqlenOffset == seqlen)
        if let expected = tensors["y_step"] {
            #expect(relativeError(stepped, expected.values) <= Self.bound)
        } else {
            #expect(seqlen > 131)
        }

        let states = try cache.states
        #expect(Set(states.map(\.name)) == Set(tensors.keys.filter { $0.contains("_state") }))
        for state in states {
            let expected = try #require(tensors[state.name])
            #expect(state.shape == expected.shape)
            #expect(try relativeError(cache.state(state.name), expected.values) <= Self.bound, "\(state.name)")
        }
    }

    @Test func theMetricNoticesWhatItMust() {
        #expect(relativeError([1, 2], [1, 4]) == 0.5)
        #expect(relativeError([.nan], [1]) == .infinity)
        #expect(relativeError([.infinity], [1]) == .infinity)
        #expect(relativeError([.infinity, 1], [.infinity, 1]) == 0)
        #expect(relativeError([0.25], [0]) == 0.25)
    }
}
