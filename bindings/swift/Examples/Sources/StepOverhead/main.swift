// What a step through the package costs over the C call, in ns: `swift run -c release StepOverhead`.
// With a batch of 0 nothing is computed, and the call itself can be seen; a batch of 1 shows it beside the smallest
// layer's work. The best of many short runs counts.

import CLiteMamba
import LiteMamba

let steps = 1000

func nanosecondsPerStep(_ step: () throws -> Void) rethrows -> Double {
    let duration = try ContinuousClock().measure { for _ in 0..<steps { try step() } }
    return Double(duration.components.attoseconds) / 1e9 / Double(steps)
}

func check(_ status: lm_status) {
    if status != 0 { fatalError(String(cString: lm_last_error())) }
}

func measure(batch: Int) throws {
    var configuration = Configuration(dModel: 1)
    configuration.dState = 1
    let layer = try Layer(configuration)
    let cache = try Cache(for: layer, batch: batch)

    var cConfiguration = lm_config()
    var cLayer: OpaquePointer?
    var cCache: OpaquePointer?
    check(lm_config_init(&cConfiguration, MemoryLayout<lm_config>.size))
    cConfiguration.d_model = configuration.dModel
    cConfiguration.d_state = configuration.dState
    check(lm_create(&cConfiguration, &cLayer))
    check(lm_alloc_cache(cLayer, batch, 0, 0, &cCache))
    defer {
        lm_free_cache(cCache)
        lm_destroy(cLayer)
    }

    let x = [Float](repeating: 0.5, count: batch)
    var y = x
    var best = [Double](repeating: .infinity, count: 4)
    for _ in 0..<500 {
        // In turns, so that what disturbs one disturbs the others too.
        var times = try x.withUnsafeBufferPointer { x in
            try y.withUnsafeMutableBufferPointer { y in
                [
                    nanosecondsPerStep { check(lm_step(cLayer, x.baseAddress, cCache, y.baseAddress)) },
                    try nanosecondsPerStep { try layer.step(x, cache: cache, into: y) },
                ]
            }
        }
        times.append(try nanosecondsPerStep { try layer.step(x, cache: cache, into: &y) })
        times.append(try nanosecondsPerStep { _ = try layer.step(x, cache: cache) })
        for i in times.indices { best[i] = min(best[i], times[i]) }
    }
    let names = ["lm_step", "step on buffers", "step into an array", "step to a new array"]
    for (name, time) in zip(names, best) {
        print("batch \(batch), \(name): \(Int(time.rounded())) ns, \(Int((time - best[0]).rounded())) ns over lm_step")
    }
}

try measure(batch: 0)
try measure(batch: 1)
