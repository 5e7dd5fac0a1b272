// SPDX-License-Identifier: Apache-2.0

import LiteMamba
import Testing

@Suite struct ParameterTests {
    @Test func aBuilderReplacesParameters() throws {
        let original = try makeLayer()
        var builder = try Layer.Builder(original.configuration)
        let count = try #require(try builder.parameters.first { $0.name == "D" }).count
        let ones = [Float](repeating: 2, count: count)
        try builder.setParameter("D", to: ones)
        #expect(try builder.parameter("D") == ones)
        let layer = builder.build()
        #expect(try layer.parameter("D") == ones)
        #expect(try layer.parameter("A_log") == original.parameter("A_log"))
        let x = makeInput(16)
        #expect(try layer.forward(x) != original.forward(x))
    }

    @Test(arguments: Configuration.Variant.allCases)
    func aCopyIsEqualAndOnItsOwn(variant: Configuration.Variant) throws {
        var first = try Layer.Builder(try makeLayer(variant).configuration)
        try first.setParameter("A_log", to: first.parameter("A_log").map { $0 + 0.5 })
        let original = first.build()
        let x = makeInput(24)
        let y = bits(try original.forward(x))

        var builder = try Layer.Builder(copying: original)
        #expect(try builder.parameters == original.parameters)
        for parameter in try builder.parameters {
            #expect(try bits(builder.parameter(parameter.name)) == bits(original.parameter(parameter.name)))
        }
        try builder.setParameter("D", to: builder.parameter("D").map { $0 + 1 })
        #expect(try bits(builder.build().forward(x)) != y)
        #expect(try bits(original.forward(x)) == y)
        #expect(try bits(Layer.Builder(copying: original).build().forward(x)) == y)
    }

    @Test func otherTypes() throws {
        let layer = try makeLayer()
        let values = try layer.parameter("A_log")
        var doubles = [Double](repeating: 0, count: values.count)
        try doubles.withUnsafeMutableBytes { try layer.copyParameter("A_log", as: .float64, into: $0) }
        #expect(doubles == values.map(Double.init))

        var builder = try Layer.Builder(copying: layer)
        let thirds = doubles.map { $0 / 3 }
        try thirds.withUnsafeBytes { try builder.setParameter("A_log", as: .float64, to: $0) }
        #expect(try builder.parameter("A_log") == thirds.map(Float.init))

        var own = [Float](repeating: 0, count: values.count)
        try own.withUnsafeMutableBytes { try layer.copyParameter("A_log", as: nil, into: $0) }
        #expect(own == values)

        for dtype in DType.allCases {
            var bytes = [UInt8](repeating: 0, count: values.count * dtype.byteCount)
            try bytes.withUnsafeMutableBytes { try layer.copyParameter("A_log", as: dtype, into: $0) }
            bytes.removeLast()
            expectError(.shapeMismatch, "bytes is \(bytes.count)") {
                try bytes.withUnsafeMutableBytes { try layer.copyParameter("A_log", as: dtype, into: $0) }
            }
        }
    }

    @Test func bothNamesOfATensor() throws {
        let layer = try makeLayer()
        #expect(try layer.parameter("conv1d.weight") == layer.parameter("conv1d_layers.0.weight"))
        #expect(try layer.parameter("conv1d.bias") == layer.parameter("conv1d_layers.0.bias"))
        var builder = try Layer.Builder(copying: layer)
        let zeros = [Float](repeating: 0, count: try layer.parameter("conv1d.bias").count)
        try builder.setParameter("conv1d.bias", to: zeros)
        #expect(try builder.parameter("conv1d_layers.0.bias") == zeros)
    }

    @Test func wrongNamesAndSizes() throws {
        let layer = try makeLayer()
        expectError(.notFound, "\"E\"") { _ = try layer.parameter("E") }
        expectError(.invalidArgument, "name is") { _ = try layer.parameter("D\0") }
        var values = [Float](repeating: 0, count: 3)
        expectError(.shapeMismatch, "count is 3") {
            try values.withUnsafeMutableBufferPointer { try layer.copyParameter("D", into: $0) }
        }
        do {
            var builder = try Layer.Builder(copying: layer)
            do {
                try builder.setParameter("D", to: values)
                Issue.record("D took three values")
            } catch {
                #expect(error.code == .shapeMismatch)
            }
            do {
                try builder.setParameter("E", to: values)
                Issue.record("there is a parameter E")
            } catch {
                #expect(error.code == .notFound)
            }
            #expect(try builder.build().parameter("D") == layer.parameter("D"))
        }
    }
}
