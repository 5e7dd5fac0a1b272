// expect: error: (capture of 'cache' with non-[Ss]endable type 'Cache'|conformance of 'Cache' to 'Sendable' is unavailable)
// A cache in a closure that may run anywhere.

import LiteMamba

func captureCache(_ layer: Layer, _ cache: Cache) -> @Sendable () throws -> Void {
    { _ = try layer.step([], cache: cache) }
}
