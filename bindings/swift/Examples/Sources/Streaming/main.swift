// The smallest useful program: a PTCN layer reads six tokens at once, then the same six one by one.

import Foundation
import LiteMamba

let dModel = 32
let seqlen = 6
let layer = try Layer(Configuration(.ptcn, dModel: dModel, convDilations: [1, 2, 4], seed: 7))
let x = (0..<seqlen).map { t in (0..<dModel).map { i in Float(sin(0.3 * Double(t) + 0.7 * Double(i))) } }

let whole = try layer.forward(x.flatMap { $0 })

let cache = try Cache(for: layer)
var streamed: [Float] = []
for token in x {
    streamed += try layer.step(token, cache: cache)
}

guard streamed == whole else { fatalError("the streamed tokens are not those of the forward pass") }
print("lite-mamba \(Library.version): \(seqlen) streamed tokens, bit for bit the forward pass")
