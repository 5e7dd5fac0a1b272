// expect: error: .*(accessed after being transferred; later accesses could race|sending 'cache' risks causing data races|sending value of non-Sendable type .* risks causing data races)
// Two tasks with one cache.

import LiteMamba

func shareCache(_ layer: Layer) throws {
    let cache = try Cache(for: layer)
    Task { try layer.step([], cache: cache) }
    Task { try layer.step([], cache: cache) }
}
