// expect: error: .*(accessed after being transferred; later accesses could race|sending 'cache' risks causing data races|sending value of non-Sendable type .* risks causing data races)
// A borrowed cache belongs to its collection, which is still used here.

import LiteMamba

func sendBorrowed(_ layer: Layer) throws {
    let parameters = try InferenceParameters()
    guard let cache = parameters.cache(layerIdx: 0) else { return }
    Task { try layer.step([], cache: cache) }
    try parameters.reset()
}
