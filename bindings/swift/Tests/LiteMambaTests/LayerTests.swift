// SPDX-License-Identifier: Apache-2.0

import Foundation
import LiteMamba
import Testing

@Suite struct LayerTests {
    @Test func whatALayerKnowsOfItself() throws {
        let layer = try Layer(Configuration(.dpwc, dModel: 40, convDilations: [1, 3], seed: 5))
        #expect(layer.dModel == 40)
        #expect(layer.dInner == 80)
        #expect(layer.configuration.dtRank == 3)
        #expect(layer.configuration.convDilations == [1, 3])
        #expect(layer.configuration.layerIdx == nil)
        let names = try layer.parameters.map(\.name)
        #expect(names.contains("A_log"))
        let decay = try layer.parameters.filter { !$0.weightDecay }.map(\.name)
        #expect(Set(["A_log", "D"]).isSubset(of: decay))
        let projection = try #require(try layer.parameters.first { $0.name == "in_proj.weight" })
        #expect(projection.shape == [160, 40])
        #expect(projection.count == 6400)
        #expect(projection.dtype == .float32)
        #expect(projection.weightDecay)
    }

    @Test func theSeedDecides() throws {
        let first = try makeLayer(seed: 1).parameter("in_proj.weight")
        #expect(try makeLayer(seed: 1).parameter("in_proj.weight") == first)
        #expect(try makeLayer(seed: 2).parameter("in_proj.weight") != first)
    }

    @Test func wrongConfigurations() {
        func expect(_ words: String, change: (inout Configuration) -> Void) {
            var configuration = Configuration(.ptcn, dModel: 8)
            change(&configuration)
            expectError(.invalidConfig, words) { _ = try Layer(configuration) }
        }
        expect("d_model is 0") { $0.dModel = 0 }
        expect("d_model is -1; it must not be negative") { $0.dModel = -1 }
        expect("d_state") { $0.dState = 0 }
        expect("d_conv is -4") { $0.dConv = -4 }
        expect("dt_rank is -1") { $0.dtRank = -1 }
        expect("layer_idx is -1") { $0.layerIdx = -1 }
        expect("conv_dilations[1] is -2") { $0.convDilations = [1, -2] }
        expect("conv_dilations") { $0.convDilations = [] }
        expect("Baseline") { $0 = Configuration(.baseline, dModel: 8, convDilations: [1, 2]) }
        expect("expand is NaN") { $0.expand = .nan }
        expect("dt_min") { $0.dtMin = 1 }
    }

    @Test func whatThisVersionCannotDo() {
        if !Library.isCUDAAvailable {
            var configuration = Configuration(dModel: 8)
            configuration.device = .cuda(index: 0)
            do {
                _ = try Layer(configuration)
                Issue.record("a layer without a GPU")
            } catch {
                #expect([.unsupported, .cuda].contains(error.code))
            }
        }
    }

    @Test func tooLargeForTheMachine() {
        expectError(.outOfMemory, "d_model is") { _ = try Layer(Configuration(dModel: 1 << 40)) }
        expectError(.outOfMemory, "batch of 1125899906842624") { _ = try Cache(for: try makeLayer(), batch: 1 << 50) }
    }

    @Test func aSavedLayerLoads() throws {
        try withTemporaryDirectory { directory in
            let layer = try makeLayer(.stcn, layerIdx: 2, seed: 3)
            let url = directory.appendingPathComponent("layer \u{e9}.safetensors")
            try layer.save(to: url)
            let x = makeInput(24)
            let y = bits(try layer.forward(x))
            let data = try Data(contentsOf: url)
            for loaded in [
                try Layer(contentsOf: url),
                try Layer(contentsOfFile: url.path),
                try Layer(contentsOfFile: url.path, configuration: layer.configuration),
                try Layer(data: data),
                try Layer(data: [UInt8](data), configuration: layer.configuration),
                try data.withUnsafeBytes { try Layer(data: $0) },
            ] {
                #expect(loaded.configuration.variant == .stcn)
                #expect(try bits(loaded.forward(x)) == y)
            }
            try layer.save(toFile: url.path)
            #expect(try Data(contentsOf: url) == data)

            expectError(.notFound, "nowhere") { _ = try Layer(contentsOf: url, prefix: "nowhere") }
            expectError(.shapeMismatch, "tensor \"A_log\"") {
                _ = try Layer(
                    contentsOf: url, configuration: Configuration(.stcn, dModel: 9, convDilations: [1, 2, 4]))
            }
            expectError(.format, "data is cut short") { _ = try Layer(data: data.prefix(100)) }
            expectError(.format, "data is cut short") { _ = try Layer(data: Data()) }
        }
    }

    @Test func filesThatCannotBe() throws {
        let layer = try makeLayer()
        expectError(.io, "/no/such/file") { _ = try Layer(contentsOfFile: "/no/such/file") }
        expectError(.io, "/no/such/file") { try layer.save(toFile: "/no/such/file") }
        expectError(.invalidArgument, "path is") { _ = try Layer(contentsOfFile: "a\0b") }
        expectError(.invalidArgument, "path is") { try layer.save(toFile: "a\0b") }
        expectError(.invalidArgument, "prefix is") { _ = try Layer(contentsOfFile: "a", prefix: "\0") }
        expectError(.invalidArgument, "prefix is") { _ = try Layer(data: Data(), prefix: "\0") }
        let page = URL(string: "https://example.com/layer.safetensors")!
        expectError(.invalidArgument, "it must be that of a file") { _ = try Layer(contentsOf: page) }
        expectError(.invalidArgument, "it must be that of a file") { try layer.save(to: page) }
    }

    @Test func errorsSayThemselves() {
        do {
            _ = try Layer(Configuration(dModel: 0))
            Issue.record("a layer of no width")
        } catch {
            #expect(error.description == "LM_ERR_INVALID_CONFIG: \(error.message)")
            #expect(error.localizedDescription == error.message)
            #expect("\(error.code)" == "LM_ERR_INVALID_CONFIG")
        }
    }
}

@Suite struct LibraryTests {
    @Test func whatWasLoaded() throws {
        #expect(Library.version.split(separator: ".").count == 3)
        #expect(Library.abiVersion == Library.compiledABIVersion)
        #expect(Library.buildInfo.contains(Library.version))
    }

    @Test func theNumberOfThreadsChangesNoBit() throws {
        let layer = try Layer(Configuration(dModel: 64))
        let x = makeInput(64 * 200)
        try Library.setThreadCount(1)
        let alone = try layer.forward(x)
        try Library.setThreadCount(0)
        #expect(try bits(layer.forward(x)) == bits(alone))
        expectError(.invalidArgument, "4097") { try Library.setThreadCount(4097) }
        expectError(.invalidArgument, "count is -1") { try Library.setThreadCount(-1) }
    }
}
