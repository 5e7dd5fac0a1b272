// expect: error: .*(accessed after being transferred; later accesses could race|sending 'parameters' risks causing data races|sending value of non-Sendable type .* risks causing data races)
// Two tasks with the caches of one model.

import LiteMamba

func shareParameters(_ layer: Layer) throws {
    let parameters = try InferenceParameters()
    Task { try layer.forward([], inferenceParameters: parameters) }
    Task { try layer.forward([], inferenceParameters: parameters) }
}
