// What a step through the package costs over the C call, in ns: `swift run -c release StepOverhead`.
// The layer is tiny, so that the call can be seen; the best of many short runs counts.

import CLiteMamba
import LiteMamba

let steps = 1000
let configuration = Configuration(dModel: 8)
let layer = try Layer(configuration)
let cache = try Cache(for: layer)
var x = [Float](repeating: 0.5, count: layer.dModel)
var y = x

var cConfig = lm_config()
var cLayer: OpaquePointer?
var cCache: OpaquePointer?
guard lm_config_init(&cConfig, MemoryLayout<lm_config>.size) == 0 else { fatalError() }
cConfig.d_model = layer.dModel
guard lm_create(&cConfig, &cLayer) == 0, lm_alloc_cache(cLayer, 1, 0, 0, &cCache) == 0 else { fatalError() }

func oneStep(_ body: () throws -> Void) rethrows -> Double {
    let duration = try ContinuousClock().measure { for _ in 0..<steps { try body() } }
    return Double(duration.components.attoseconds) / 1e9 / Double(steps)
}

// In turns, so that what disturbs one disturbs the others too.
var best: [(name: String, time: Double)] = [
    ("lm_step", .infinity), ("step on buffers", .infinity), ("step into an array", .infinity),
    ("step to a new array", .infinity),
]
try x.withUnsafeBufferPointer { xBuffer in
    for _ in 0..<500 {
        let times = [
            y.withUnsafeMutableBufferPointer { yBuffer in
                oneStep { if lm_step(cLayer, xBuffer.baseAddress, cCache, yBuffer.baseAddress) != 0 { fatalError() } }
            },
            try y.withUnsafeMutableBufferPointer { yBuffer in
                try oneStep { try layer.step(xBuffer, cache: cache, into: yBuffer) }
            },
            try oneStep { try layer.step(x, cache: cache, into: &y) },
            try oneStep { _ = try layer.step(x, cache: cache) },
        ]
        for i in times.indices { best[i].time = min(best[i].time, times[i]) }
    }
}
for (name, time) in best {
    print("\(name): \(Int(time.rounded())) ns, \(Int((time - best[0].time).rounded())) ns over lm_step")
}
lm_free_cache(cCache)
lm_destroy(cLayer)
