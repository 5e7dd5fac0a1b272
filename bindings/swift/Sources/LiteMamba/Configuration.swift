// SPDX-License-Identifier: Apache-2.0

internal import CLiteMamba

/// A layer's configuration: every argument of the reference's constructor under its name and with its default,
/// and what this library adds.
///
/// ```swift
/// let configuration = Configuration(.ptcn, dModel: 64, convDilations: [1, 2, 4])
/// ```
///
/// Values are checked where the configuration is used: a layer's initialiser throws
/// ``LiteMambaError/Code-swift.struct/invalidConfig`` with a message that names the field.
public struct Configuration: Hashable, Sendable {
    /// How the dilated convolutions are combined into the input of the state space model.
    public var variant: Variant
    /// Width of the input and the output, at least 1.
    public var dModel: Int
    /// States per channel, at least 1.
    public var dState = 16
    /// Taps of each convolution, at least 1.
    public var dConv = 4
    /// One dilation for each branch, each at least 1. ``Variant-swift.enum/baseline`` takes one branch of
    /// dilation 1.
    public var convDilations: [Int]
    /// The inner width `d_inner` is `expand * dModel`, truncated.
    public var expand = 2.0
    /// Rank of the projection of the time step; `nil` stands for ⌈`dModel` / 16⌉.
    public var dtRank: Int?
    /// Smallest initial time step, above 0.
    public var dtMin = 0.001
    /// Largest initial time step, not below `dtMin`.
    public var dtMax = 0.1
    /// How `dt_proj.weight` starts.
    public var dtInit = DTInit.random
    /// Scale of the initial `dt_proj.weight`: finite, and not negative for ``DTInit-swift.enum/random``.
    public var dtScale = 1.0
    /// Lower bound of the initial time step, at least 0.
    public var dtInitFloor = 0.0001
    /// Whether the depthwise convolutions have a bias.
    public var convBias = true
    /// Whether `in_proj` and `out_proj` have a bias.
    public var bias = false
    /// Accepted for the reference's sake; without effect there and here.
    public var useFastPath = false
    /// The layer's number in its model, for ``InferenceParameters``.
    public var layerIdx: Int?
    /// Storage type of the parameters; see ``DType``.
    public var dtype: DType
    /// Where parameters, caches and arithmetic live.
    public var device = Device.cpu
    /// The arithmetic of matrix products on a GPU.
    public var math = Math.default
    /// Seed of the initial values, as of `torch.manual_seed`: the low 32 bits count.
    public var seed: UInt64 = 0

    /// A configuration with the reference's defaults for all that is not given.
    ///
    /// What has no argument here is a property to be set afterwards.
    public init(
        _ variant: Variant = .ptcn, dModel: Int, convDilations: [Int] = [1], layerIdx: Int? = nil,
        dtype: DType = .float32, seed: UInt64 = 0
    ) {
        self.variant = variant
        self.dModel = dModel
        self.convDilations = convDilations
        self.layerIdx = layerIdx
        self.dtype = dtype
        self.seed = seed
    }

    /// How the dilated convolutions are combined into the input of the state space model.
    public enum Variant: Hashable, Sendable, CaseIterable {
        /// Parallel branches, mixed by softmax gates: the reference's `PTCNMamba` and `Mamba`.
        case ptcn
        /// Stacked branches, each fed by the one before, no gates: `STCNMamba`.
        case stcn
        /// Parallel depthwise branches, each followed by a pointwise product, mixed by gates: `DPWCMamba`.
        case dpwc
        /// One convolution of dilation 1, the block of `state-spaces/mamba`: `BaselineMamba`.
        case baseline
    }

    /// How `dt_proj.weight` starts.
    public enum DTInit: Hashable, Sendable, CaseIterable {
        /// Uniform between plus and minus `dtScale` / √`dtRank`.
        case random
        /// The constant `dtScale` / √`dtRank`.
        case constant
    }

    /// Where parameters, caches and arithmetic live.
    public enum Device: Hashable, Sendable {
        /// The processor.
        case cpu
        /// An NVIDIA GPU by its number; see ``Library/isCUDAAvailable``.
        case cuda(index: UInt32 = 0)
    }

    /// The arithmetic of matrix products on a GPU.
    public enum Math: Hashable, Sendable, CaseIterable {
        /// The storage type's own arithmetic: true f32 for ``DType/float32``.
        case `default`
        /// TF32 for ``DType/float32`` layers on CUDA; without effect elsewhere.
        case tf32
    }
}

/// A type of numbers, in which parameters and states are stored.
///
/// Arithmetic is in `Float`, for ``float64`` in `Double`, whatever the type, and inputs and outputs are `Float`. A layer
/// of ``bfloat16`` or ``float16`` keeps its matrices, convolutions and biases in that type, and `A_log`, `D` and
/// `conv_gates` in ``float32``, as the reference does; one of ``float64`` keeps everything in that.
public enum DType: Hashable, Sendable, CaseIterable {
    /// IEEE 754 binary32, Swift's `Float`.
    case float32
    /// IEEE 754 binary64, Swift's `Double`.
    case float64
    /// The upper half of a binary32.
    case bfloat16
    /// IEEE 754 binary16, Swift's `Float16`.
    case float16

    /// Size of one number in bytes.
    public var byteCount: Int {
        switch self {
        case .float32: 4
        case .float64: 8
        case .bfloat16, .float16: 2
        }
    }
}

// Enumerated values as they cross.

extension Configuration.Variant {
    var cValue: UInt32 {
        switch self {
        case .ptcn: LM_VARIANT_PTCN.rawValue
        case .stcn: LM_VARIANT_STCN.rawValue
        case .dpwc: LM_VARIANT_DPWC.rawValue
        case .baseline: LM_VARIANT_BASELINE.rawValue
        }
    }
}

extension Configuration.DTInit {
    var cValue: UInt32 {
        switch self {
        case .random: LM_DT_INIT_RANDOM.rawValue
        case .constant: LM_DT_INIT_CONSTANT.rawValue
        }
    }
}

extension Configuration.Device {
    var cValue: UInt32 {
        switch self {
        case .cpu: LM_DEVICE_CPU.rawValue
        case .cuda: LM_DEVICE_CUDA.rawValue
        }
    }

    var index: UInt32 {
        switch self {
        case .cpu: 0
        case .cuda(let index): index
        }
    }
}

extension Configuration.Math {
    var cValue: UInt32 {
        switch self {
        case .default: LM_MATH_DEFAULT.rawValue
        case .tf32: LM_MATH_TF32.rawValue
        }
    }
}

extension DType {
    var cValue: UInt32 {
        switch self {
        case .float32: LM_DTYPE_F32.rawValue
        case .float64: LM_DTYPE_F64.rawValue
        case .bfloat16: LM_DTYPE_BF16.rawValue
        case .float16: LM_DTYPE_F16.rawValue
        }
    }
}

extension DType? {
    /// `nil` is the type that is natural where it stands.
    var cValue: UInt32 { self?.cValue ?? LM_DTYPE_DEFAULT.rawValue }
}

/// The case that has a value of the C library, which a later version of it may have added.
func known<Value>(
    _ cValue: UInt32, as name: String, among cases: [Value], _ value: (Value) -> UInt32
) throws(LiteMambaError) -> Value {
    guard let known = cases.first(where: { value($0) == cValue }) else {
        throw LiteMambaError(.unsupported, "\(name) is \(cValue), which this version of the package does not know")
    }
    return known
}

extension Configuration {
    /// Calls `body` with the configuration as the C library takes it, valid during the call.
    func withC(_ body: (UnsafePointer<lm_config>) -> lm_status) throws(LiteMambaError) {
        let sizes = [("d_model", dModel), ("d_state", dState), ("d_conv", dConv), ("dt_rank", dtRank ?? 0)]
        for (name, size) in sizes { try requireSize(size, name, .invalidConfig) }
        for (i, dilation) in convDilations.enumerated() {
            try requireSize(dilation, "conv_dilations[\(i)]", .invalidConfig)
        }
        if let layerIdx { try requireSize(layerIdx, "layer_idx", .invalidConfig) }

        var c = lm_config()
        try check(lm_config_init(&c, MemoryLayout<lm_config>.size))
        c.variant = variant.cValue
        c.dtype = dtype.cValue
        c.d_model = dModel
        c.d_state = dState
        c.d_conv = dConv
        c.num_conv_dilations = convDilations.count
        c.expand = expand
        c.dt_rank = dtRank ?? 0
        c.dt_min = dtMin
        c.dt_max = dtMax
        c.dt_scale = dtScale
        c.dt_init_floor = dtInitFloor
        c.dt_init = dtInit.cValue
        c.conv_bias = convBias
        c.bias = bias
        c.use_fast_path = useFastPath
        c.layer_idx = layerIdx.map(Int64.init) ?? -1
        c.device = device.cValue
        c.device_index = device.index
        c.math = math.cValue
        c.seed = seed
        try convDilations.withBuffer { dilations throws(LiteMambaError) in
            c.conv_dilations = dilations.baseAddress
            try check(body(&c))
        }
    }

    /// The configuration that a layer reports.
    init(_ c: lm_config) throws(LiteMambaError) {
        self.init(
            try known(c.variant, as: "variant", among: Variant.allCases, \.cValue),
            dModel: c.d_model,
            convDilations: Array(UnsafeBufferPointer(start: c.conv_dilations, count: c.num_conv_dilations)),
            layerIdx: c.layer_idx < 0 ? nil : Int(c.layer_idx),
            seed: c.seed)
        dState = c.d_state
        dConv = c.d_conv
        expand = c.expand
        dtRank = c.dt_rank == 0 ? nil : c.dt_rank
        dtMin = c.dt_min
        dtMax = c.dt_max
        dtInit = try known(c.dt_init, as: "dt_init", among: DTInit.allCases, \.cValue)
        dtScale = c.dt_scale
        dtInitFloor = c.dt_init_floor
        convBias = c.conv_bias
        bias = c.bias
        useFastPath = c.use_fast_path
        dtype = try known(c.dtype, as: "dtype", among: DType.allCases, \.cValue)
        device = try known(c.device, as: "device", among: [.cpu, .cuda(index: c.device_index)], \.cValue)
        math = try known(c.math, as: "math", among: Math.allCases, \.cValue)
    }
}

extension Configuration? {
    func withC(_ body: (UnsafePointer<lm_config>?) -> lm_status) throws(LiteMambaError) {
        if let self {
            try self.withC(body)
        } else {
            try check(body(nil))
        }
    }
}
