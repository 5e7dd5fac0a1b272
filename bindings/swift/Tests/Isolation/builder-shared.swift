// expect: error: .*(accessed after being transferred; later accesses could race|sending 'builder' risks causing data races|sending value of non-Sendable type .* risks causing data races)
// Two tasks with one builder.

import LiteMamba

func shareBuilder() throws {
    var builder = try Layer.Builder(Configuration(dModel: 8))
    Task { try builder.setParameter("D", to: []) }
    Task { try builder.setParameter("D", to: []) }
}
