// SPDX-License-Identifier: Apache-2.0

import LiteMamba
import Testing

@Suite struct ConcurrencyTests {
    /// One layer, many tasks, each with a cache of its own.
    @Test func manyTasksUseOneLayer() async throws {
        let layer = try makeLayer()
        let d = layer.dModel
        let x = makeInput(40 * d)
        let expected = bits(try layer.forward(x))
        try await withThrowingTaskGroup(of: [UInt32].self) { group in
            for task in 0..<64 {
                group.addTask {
                    if task.isMultiple(of: 2) { return bits(try layer.forward(x)) }
                    let cache = try Cache(for: layer)
                    var y: [Float] = []
                    for t in 0..<40 {
                        y += try layer.step(Array(x[t * d..<(t + 1) * d]), cache: cache)
                        if t.isMultiple(of: 8) { await Task.yield() }  // and maybe on with another thread
                    }
                    return bits(y)
                }
            }
            for try await y in group { #expect(y == expected) }
        }
    }

    /// A message belongs to the thread of the failed call: no task gets another's.
    @Test func everyTaskGetsItsOwnMessage() async throws {
        let layer = try makeLayer()
        await withTaskGroup(of: Void.self) { group in
            for task in 0..<64 {
                group.addTask {
                    for i in 0..<50 {
                        let name = "parameter.\(task).\(i)"
                        expectError(.notFound, "\"\(name)\"") { _ = try layer.parameter(name) }
                        if i.isMultiple(of: 10) { await Task.yield() }
                    }
                }
            }
        }
    }

    actor Session {
        private let layer: Layer
        private let cache: Cache

        init(layer: Layer, cache: sending Cache) {
            self.layer = layer
            self.cache = cache
        }

        func step(_ x: [Float]) throws -> [Float] { try layer.step(x, cache: cache) }
        func fork() throws -> sending Cache { try cache.copy() }
    }

    /// Nothing ties a cache to a thread: it moves into an actor, and a copy of it out again.
    @Test func aCacheIsHandedOver() async throws {
        let layer = try makeLayer()
        let token = makeInput(layer.dModel)
        let cache = try Cache(for: layer)
        let first = try layer.step(token, cache: cache)
        let session = Session(layer: layer, cache: cache)
        let second = try await session.step(token)
        let fork = try await session.fork()
        #expect(fork.seqlenOffset == 2)
        let third = try layer.step(token, cache: fork)
        #expect(try await bits(session.step(token)) == bits(third))
        #expect(try bits(layer.forward(token + token + token)) == bits(first + second + third))
    }
}
