// Many tasks may use one layer.

import LiteMamba

func shareLayer(_ layer: Layer) async throws {
    async let first = layer.forward([])
    async let second = layer.forward([])
    _ = try await (first, second)
    Task.detached { try layer.forward([]) }
}
