// SPDX-License-Identifier: Apache-2.0

import LiteMamba
import Testing

@Suite struct TypeTests {
    @Test(arguments: Configuration.Variant.allCases, DType.allCases)
    func layersOfEveryType(variant: Configuration.Variant, dtype: DType) throws {
        let layer = try makeLayer(variant, dtype: dtype)
        #expect(layer.configuration.dtype == dtype)
        let d = layer.dModel
        let x = makeInput(5 * d)
        let y = try layer.forward(x)
        let plain = try makeLayer(variant).forward(x)
        let scale = try #require(plain.map(abs).max())
        let off = zip(y, plain).map { abs($0 - $1) }.max()! / scale
        #expect(off <= allowance(dtype))
        #expect((off == 0) == (dtype == .float32))

        let cache = try Cache(for: layer)
        #expect(cache.dtype == arithmetic(of: dtype))
        var steps: [Float] = []
        for t in 0..<5 { steps += try layer.step(Array(x[t * d..<(t + 1) * d]), cache: cache) }
        #expect(bits(steps) == bits(y))

        // Types as the reference keeps them, in memory, in a file and in a copy.
        try withTemporaryDirectory { directory in
            let url = directory.appendingPathComponent("layer.safetensors")
            try layer.save(to: url)
            let loaded = try Layer(contentsOf: url)
            #expect(loaded.configuration.dtype == dtype)
            #expect(try loaded.parameters == layer.parameters)
            #expect(try bits(loaded.forward(x)) == bits(y))
        }
        let copy = try Layer.Builder(copying: layer).build()
        #expect(copy.configuration == layer.configuration)
        #expect(try bits(copy.forward(x)) == bits(y))
        for parameter in try layer.parameters {
            let kept = ["A_log", "D", "conv_gates"].contains(parameter.name)
            #expect(parameter.dtype == (kept ? arithmetic(of: dtype) : dtype), "\(parameter.name)")
        }
    }

    @Test(arguments: DType.allCases)
    func cachesOfEveryType(dtype: DType) throws {
        let layer = try makeLayer()
        let plain = try Cache(for: layer)
        let cache = try Cache(for: layer, dtype: dtype)
        #expect(cache.dtype == dtype)
        #expect(try cache.states.allSatisfy { $0.dtype == dtype })
        #expect(try cache.copy().dtype == dtype)
        #expect((cache.byteCount < plain.byteCount) == (dtype.byteCount < 4))
        #expect((cache.byteCount > plain.byteCount) == (dtype.byteCount > 4))
        var off: Float = 0
        for t in 0..<5 {  // the state is rounded five times
            let x = makeInput(layer.dModel).map { $0 * Float(t + 1) }
            let expected = try layer.step(x, cache: plain)
            let difference = zip(try layer.step(x, cache: cache), expected).map { abs($0 - $1) }.max()!
            off = max(off, difference / expected.map(abs).max()!)
        }
        #expect(off <= allowance(dtype))
        if dtype == .float32 { #expect(off == 0) }
        if dtype.byteCount < 4 { #expect(off > 0) }
        try cache.copyLane(0, of: plain, to: 0)  // from another type
    }

    @Test(arguments: DType.allCases)
    func parametersAsDoubles(dtype: DType) throws {
        var builder = try Layer.Builder(makeLayer(dtype: dtype).configuration)
        let info = try builder.parameterInfo("dt_proj.bias")
        #expect(info.dtype == dtype)
        let values = (0..<info.count).map { 1 / Double($0 + 3) }
        try builder.setParameter("dt_proj.bias", as: Double.self, to: values)
        let read = try builder.parameter("dt_proj.bias", as: Double.self)
        let rounding =
            switch dtype {
            case .float64: 0.0
            case .float32: 0x1p-24
            case .float16: 0x1p-11
            case .bfloat16: 0x1p-8
            }
        #expect(zip(read, values).allSatisfy { abs($0 - $1) <= rounding * $1 })
        #expect((read == values) == (dtype == .float64))
        let layer = builder.build()
        #expect(try layer.parameter("dt_proj.bias", as: Double.self) == read)
        #expect(try layer.parameter("dt_proj.bias") == read.map(Float.init))
    }

    @Test func parametersByName() throws {
        let layer = try makeLayer(dtype: .bfloat16)
        for parameter in try layer.parameters { #expect(try layer.parameterInfo(parameter.name) == parameter) }
        let info = try layer.parameterInfo("conv1d_layers.0.weight")
        #expect(try layer.parameterInfo("conv1d.weight") == info)
        #expect(info.shape == [16, 1, 4])
        expectError(.notFound, "\"E\"") { _ = try layer.parameterInfo("E") }
        expectError(.notFound, "\"E\"") { _ = try layer.parameter("E", as: Double.self) }
        expectError(.invalidArgument, "name is") { _ = try layer.parameterInfo("D\0") }

        var builder = try Layer.Builder(copying: layer)
        for (name, code) in [("E", LiteMambaError.Code.notFound), ("D", .shapeMismatch), ("D\0", .invalidArgument)] {
            do {
                try builder.setParameter(name, as: Double.self, to: [1, 2])
                Issue.record("\(name) took two values")
            } catch {
                #expect(error.code == code)
            }
        }
    }
}

/// In which a layer of this type computes, and a cache holds its state by default.
private func arithmetic(of dtype: DType) -> DType { dtype == .float64 ? .float64 : .float32 }

/// How far a type's rounding may move a result of the small layers here.
private func allowance(_ dtype: DType) -> Float {
    switch dtype {
    case .bfloat16: 0.05
    case .float16: 0.01
    case .float32, .float64: 1e-5
    }
}
