// SPDX-License-Identifier: Apache-2.0

import CLiteMamba
import Foundation
import Testing

@testable import LiteMamba

/// The package knows what the header of the installed library has, all of it and nothing else.
@Suite struct DriftTests {
    /// `LITE_MAMBA_PREFIX` is the install prefix; without it, the header of this repository.
    static let header: String = {
        let prefix = ProcessInfo.processInfo.environment["LITE_MAMBA_PREFIX"].map(URL.init(fileURLWithPath:))
        let url = (prefix ?? repository).appendingPathComponent("include/lite_mamba.h")
        return try! String(contentsOf: url, encoding: .utf8)
    }()

    /// Name and value of every enumerator, by enumeration.
    static let enumerations: [String: [String: Int]] = {
        var enumerations: [String: [String: Int]] = [:]
        for match in header.matches(of: /typedef enum (lm_\w+) \{([^}]*)\}/) {
            enumerations[String(match.1)] = Dictionary(
                uniqueKeysWithValues: match.2.matches(of: /\b(LM_\w+) = (\d+)/).map { (String($0.1), Int($0.2)!) })
        }
        return enumerations
    }()

    @Test func noEnumerationIsUnknown() {
        #expect(
            Set(Self.enumerations.keys) == [
                "lm_status_code", "lm_variant", "lm_dtype", "lm_device", "lm_math", "lm_dt_init",
            ])
    }

    @Test func statusCodes() {
        typealias Code = LiteMambaError.Code
        let codes: [String: Code] = [
            "LM_ERR_NULL_POINTER": .nullPointer, "LM_ERR_INVALID_CONFIG": .invalidConfig,
            "LM_ERR_INVALID_ARGUMENT": .invalidArgument, "LM_ERR_SHAPE_MISMATCH": .shapeMismatch,
            "LM_ERR_UNSUPPORTED": .unsupported, "LM_ERR_NOT_FOUND": .notFound, "LM_ERR_IO": .io,
            "LM_ERR_FORMAT": .format, "LM_ERR_OUT_OF_MEMORY": .outOfMemory,
            "LM_ERR_BUFFER_TOO_SMALL": .bufferTooSmall, "LM_ERR_CUDA": .cuda, "LM_ERR_INTERNAL": .internal,
        ]
        var expected = codes.mapValues { Int($0.rawValue) }
        expected["LM_OK"] = 0
        #expect(Self.enumerations["lm_status_code"] == expected)
        for (name, code) in codes { #expect(code.description == name) }
    }

    @Test func anUnknownStatusCodeIsAValueToo() {
        let code = LiteMambaError.Code(rawValue: 4711)
        #expect(code.description == "unknown status 4711")
        #expect(LiteMambaError(status: 4711).code == code)
    }

    @Test func variants() {
        let variants: [String: Configuration.Variant] = [
            "LM_VARIANT_PTCN": .ptcn, "LM_VARIANT_STCN": .stcn, "LM_VARIANT_DPWC": .dpwc,
            "LM_VARIANT_BASELINE": .baseline,
        ]
        #expect(Self.enumerations["lm_variant"] == variants.mapValues { Int($0.cValue) })
        #expect(Set(variants.values) == Set(Configuration.Variant.allCases))
    }

    @Test func dtypes() {
        let dtypes: [String: DType?] = [
            "LM_DTYPE_DEFAULT": .none, "LM_DTYPE_F32": .float32, "LM_DTYPE_F64": .float64,
            "LM_DTYPE_BF16": .bfloat16, "LM_DTYPE_F16": .float16,
        ]
        #expect(Self.enumerations["lm_dtype"] == dtypes.mapValues { Int($0.cValue) })
        #expect(Set(dtypes.values.compactMap { $0 }) == Set(DType.allCases))
    }

    @Test func devices() {
        let devices: [String: Configuration.Device] = ["LM_DEVICE_CPU": .cpu, "LM_DEVICE_CUDA": .cuda(index: 3)]
        #expect(Self.enumerations["lm_device"] == devices.mapValues { Int($0.cValue) })
    }

    @Test func math() {
        let math: [String: Configuration.Math] = ["LM_MATH_DEFAULT": .default, "LM_MATH_TF32": .tf32]
        #expect(Self.enumerations["lm_math"] == math.mapValues { Int($0.cValue) })
        #expect(Set(math.values) == Set(Configuration.Math.allCases))
    }

    @Test func dtInits() {
        let dtInits: [String: Configuration.DTInit] = [
            "LM_DT_INIT_RANDOM": .random, "LM_DT_INIT_CONSTANT": .constant,
        ]
        #expect(Self.enumerations["lm_dt_init"] == dtInits.mapValues { Int($0.cValue) })
        #expect(Set(dtInits.values) == Set(Configuration.DTInit.allCases))
    }

    @Test func everyFieldOfTheConfigurationAndItsDefault() throws {
        let configuration = Configuration(dModel: 0)
        var c = lm_config()
        #expect(lm_config_init(&c, MemoryLayout<lm_config>.size) == 0)
        #expect(try Configuration(c) == configuration)

        // What layers report must come back from a struct with other values, too: no field is forgotten.
        var other = Configuration(.stcn, dModel: 48, convDilations: [2, 3], layerIdx: 5, seed: 6)
        other.dState = 7
        other.dConv = 3
        other.expand = 1.5
        other.dtRank = 2
        other.dtMin = 0.01
        other.dtMax = 0.2
        other.dtInit = .constant
        other.dtScale = 0.5
        other.dtInitFloor = 0.001
        other.convBias = false
        other.bias = true
        other.useFastPath = true
        other.dtype = .float64
        other.math = .tf32
        #expect(try Layer(other).configuration == other)

        let fields = try #require(Self.header.firstMatch(of: /typedef struct lm_config \{([^}]*\}?[^}]*)\} lm_config;/))
        let names = fields.1.matches(of: /\n  [\w ]+ \*?(\w+);/).map { String($0.1) }
        let known = [
            "struct_size", "variant", "dtype", "d_model", "d_state", "d_conv", "conv_dilations",
            "num_conv_dilations", "expand", "dt_rank", "dt_min", "dt_max", "dt_scale", "dt_init_floor", "dt_init",
            "conv_bias", "bias", "use_fast_path", "layer_idx", "device", "device_index", "math", "seed",
        ]
        #expect(names == known)
    }

    /// Functions that the package does not call, each with its reason here and in the README.
    static let exceptions: Set<String> = []

    @Test func everyFunctionIsReached() throws {
        let sources = repository.appendingPathComponent("bindings/swift/Sources/LiteMamba")
        let text = try FileManager.default.contentsOfDirectory(at: sources, includingPropertiesForKeys: nil)
            .filter { $0.pathExtension == "swift" }
            .map { try String(contentsOf: $0, encoding: .utf8) }
            .joined()
        let declared = Set(
            Self.header.matches(of: /(?m)^(?:LM_API )?[\w ]+ \*?(lm_\w+)\(/).map { String($0.1) })
        #expect(declared.count >= 42, "so few functions: has the header changed its style?")
        let called = Set(text.matches(of: /\b(lm_\w+)\(/).map { String($0.1) })
        #expect(declared.subtracting(called) == Self.exceptions)
    }
}
