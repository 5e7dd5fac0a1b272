// Runs the layers of a model that was trained in PyTorch, from the safetensors file that
// bindings/python/export.py has written:
//
//     swift run Weights ../../../examples/co2/co2.safetensors layers.0 layers.1 layers.2
//
// They form a stack with residual connections. A long sequence goes through it in one pass, which leaves the
// states in caches; from there on it is streamed.

import Foundation
import LiteMamba

/// Layers one after another, each adding to its input.
struct Model: Sendable {
    let layers: [Layer]

    func caches() throws -> [Cache] { try layers.map { try Cache(for: $0) } }

    func forward(_ x: [Float], _ caches: [Cache]) throws -> [Float] {
        var hidden = x
        var y = x
        for (layer, cache) in zip(layers, caches) {
            try layer.forward(hidden, cache: cache, into: &y)
            for i in y.indices { hidden[i] += y[i] }
        }
        return hidden
    }
}

func run(_ path: String, _ prefixes: [String]) throws {
    // The file's metadata holds the configurations, so none is given here.
    let layers = try prefixes.map { try Layer(contentsOfFile: path, prefix: $0) }
    for (prefix, layer) in zip(prefixes, layers) {
        let count = try layer.parameters.reduce(0) { $0 + $1.count }
        print(
            "\(prefix): \(layer.configuration.variant), d_model \(layer.dModel), d_inner \(layer.dInner),",
            "dilations \(layer.configuration.convDilations), \(count) parameters")
    }

    let model = Model(layers: layers)
    let d = layers[0].dModel
    let (prompt, seqlen) = (1000, 1200)
    let x = (0..<seqlen * d).map { Float(sin(0.05 * Double($0 / d) + 0.4 * Double($0 % d))) }
    let whole = try model.forward(x, model.caches())

    let caches = try model.caches()
    var streamed = try model.forward(Array(x[..<(prompt * d)]), caches)
    for t in prompt..<seqlen {
        streamed += try model.forward(Array(x[t * d..<(t + 1) * d]), caches)
    }
    guard streamed == whole else { fatalError("the streamed tokens are not those of one pass") }
    let bytes = caches.reduce(0) { $0 + $1.byteCount }
    print("\(prompt) tokens at once and \(seqlen - prompt) streamed, bit for bit one pass; a state of \(bytes) bytes")
}

let arguments = CommandLine.arguments.dropFirst()
guard let path = arguments.first, arguments.count >= 2 else {
    print("usage: Weights model.safetensors prefix...")
    exit(2)
}
do {
    try run(path, Array(arguments.dropFirst()))
} catch {
    print(error)
    exit(1)
}
