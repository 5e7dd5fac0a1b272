// SPDX-License-Identifier: Apache-2.0

import CLiteMamba
import LiteMamba
import Testing

@Suite struct DLPackTests {
    /// A tensor of floats on the CPU within `values`, which begins at `offset`, and the numbers that it points to.
    final class Tensor<Value: BinaryFloatingPoint> {
        let values: UnsafeMutableBufferPointer<Value>
        private let sizes: UnsafeMutableBufferPointer<Int64>
        var c = DLTensor()

        init(_ values: [Value], offset: Int = 0, shape: [Int64], strides: [Int64]) {
            self.values = .allocate(capacity: values.count)
            _ = self.values.initialize(from: values)
            sizes = .allocate(capacity: 2 * shape.count)
            _ = sizes.initialize(from: shape + strides)
            c.data = UnsafeMutableRawPointer(self.values.baseAddress)
            c.device = DLDevice(device_type: kDLCPU, device_id: 0)
            c.ndim = Int32(shape.count)
            c.dtype = DLDataType(
                code: UInt8(kDLFloat.rawValue), bits: UInt8(8 * MemoryLayout<Value>.stride), lanes: 1)
            c.shape = sizes.baseAddress
            c.strides = sizes.baseAddress! + shape.count
            c.byte_offset = UInt64(offset * MemoryLayout<Value>.stride)
        }

        deinit {
            values.deallocate()
            sizes.deallocate()
        }
    }

    /// Every second column of a wider tensor goes in, backwards in time; doubles come out, channels first.
    @Test func tensorsAreUsedWhereTheyLie() throws {
        let layer = try makeLayer()
        let (batch, seqlen, d) = (2, 3, layer.dModel)
        let (b64, s64, d64) = (Int64(batch), Int64(seqlen), Int64(d))
        let input = Tensor(
            makeInput(batch * seqlen * 2 * d), offset: (seqlen - 1) * 2 * d, shape: [b64, s64, d64],
            strides: [s64 * 2 * d64, -2 * d64, 2])
        let output = Tensor(
            [Double](repeating: .nan, count: batch * seqlen * d), shape: [b64, s64, d64],
            strides: [s64 * d64, 1, s64])
        var x: [Float] = []
        for b in 0..<batch {
            for s in (0..<seqlen).reversed() {
                let row = (b * seqlen + s) * 2 * d
                for i in 0..<d { x.append(input.values[row + 2 * i]) }
            }
        }
        /// The output as `forward` has it.
        func y() -> [Float] {
            var y: [Float] = []
            for b in 0..<batch {
                for s in 0..<seqlen {
                    for i in 0..<d { y.append(Float(output.values[(b * d + i) * seqlen + s])) }
                }
            }
            return y
        }
        try layer.forward(&input.c, into: &output.c)
        #expect(try bits(y()) == bits(layer.forward(x, batch: batch)))

        // A step, of the sequences in the other order and in place, and what follows it.
        let cache = try Cache(for: layer, batch: batch)
        let plain = try Cache(for: layer, batch: batch)
        let token = makeInput(batch * d)
        let expected = try layer.step(Array(token[d...] + token[..<d]), cache: plain)
        let step = Tensor(token, offset: d, shape: [b64, d64], strides: [-d64, 1])
        try withUnsafePointer(to: step.c) { try layer.step($0, cache: cache, into: $0) }
        #expect(bits(Array(step.values[d...]) + Array(step.values[..<d])) == bits(expected))
        try layer.forward(&input.c, cache: cache, into: &output.c)
        #expect(try bits(y()) == bits(layer.forward(x, cache: plain)))
        #expect(cache.seqlenOffset == 1 + seqlen)

        expectError(.shapeMismatch, "x") { try layer.step(&input.c, cache: cache, into: &output.c) }
        var other = input.c
        other.dtype.bits = 8
        expectError(.unsupported, "x") { try layer.forward(&other, cache: cache, into: &output.c) }
        other = input.c
        other.device.device_type = kDLCUDA
        expectError(.invalidArgument, "x") { try layer.forward(&other, cache: cache, into: &output.c) }
        #expect(cache.seqlenOffset == 1 + seqlen)
        withExtendedLifetime((input, output, step)) {}
    }
}
