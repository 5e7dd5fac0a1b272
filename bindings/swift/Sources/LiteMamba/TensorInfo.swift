// SPDX-License-Identifier: Apache-2.0

internal import CLiteMamba

/// What there is to know of a parameter or a state.
public struct TensorInfo: Hashable, Sendable {
    /// The name, as in the reference's state dict.
    public let name: String
    /// Type in which the values are held.
    public let dtype: DType
    /// The sizes, outermost first.
    public let shape: [Int]
    /// Number of values: the product of the shape.
    public let count: Int
    /// Whether a training's weight decay applies; false for states.
    public let weightDecay: Bool

    /// What `describe` says about `count` tensors.
    static func list(
        _ count: Int, _ describe: (Int, UnsafeMutablePointer<lm_tensor_info>, Int) -> lm_status
    ) throws(LiteMambaError) -> [TensorInfo] {
        var list: [TensorInfo] = []
        for index in 0..<count {
            list.append(try TensorInfo { describe(index, $0, $1) })
        }
        return list
    }

    /// What `describe` says about one tensor.
    init(_ describe: (UnsafeMutablePointer<lm_tensor_info>, Int) -> lm_status) throws(LiteMambaError) {
        var info = lm_tensor_info()
        try check(describe(&info, MemoryLayout<lm_tensor_info>.size))
        try self.init(info)
    }

    private init(_ c: lm_tensor_info) throws(LiteMambaError) {
        name = withUnsafeBytes(of: c.name) { String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) }
        dtype = try known(c.dtype, as: "dtype", among: DType.allCases, \.cValue)
        shape = withUnsafeBytes(of: c.shape) { Array($0.bindMemory(to: Int.self).prefix(c.ndim)) }
        count = c.count
        weightDecay = c.weight_decay
    }
}
