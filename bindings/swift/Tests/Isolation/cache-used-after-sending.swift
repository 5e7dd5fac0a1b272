// expect: error: .*(accessed after being transferred; later accesses could race|sending 'cache' risks causing data races|sending value of non-Sendable type .* risks causing data races)
// A cache that was handed over and is used nonetheless.

import LiteMamba

func useAfterSending(_ layer: Layer) throws {
    let cache = try Cache(for: layer)
    Task { try layer.step([], cache: cache) }
    try cache.reset()
}
