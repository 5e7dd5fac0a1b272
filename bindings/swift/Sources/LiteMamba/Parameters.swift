// SPDX-License-Identifier: Apache-2.0

internal import CLiteMamba

extension Layer {
    /// The parameters, with the names, the shapes and in the order of the reference's state dict.
    ///
    /// Of two names for one tensor (`conv1d.weight` is branch 0's) only one is listed, and every method accepts
    /// both.
    public var parameters: [TensorInfo] {
        get throws(LiteMambaError) {
            try withExtendedLifetime(self) { () throws(LiteMambaError) in
                try TensorInfo.list(lm_num_parameters(handle)) { lm_parameter_info(handle, $0, $1, $2) }
            }
        }
    }

    /// What there is to know of one of ``parameters``.
    ///
    /// - Parameter name: As in ``parameters``, or its other name.
    /// - Throws: ``LiteMambaError/Code-swift.struct/notFound`` for another name.
    public func parameterInfo(_ name: String) throws(LiteMambaError) -> TensorInfo {
        try requireText(name, "name")
        return try withExtendedLifetime(self) { () throws(LiteMambaError) in
            var index = 0
            try check(lm_find_parameter(handle, name, &index))
            return try TensorInfo { lm_parameter_info(handle, index, $0, $1) }
        }
    }

    /// A parameter's values.
    ///
    /// - Parameter name: As in ``parameters``, or its other name.
    /// - Throws: ``LiteMambaError/Code-swift.struct/notFound`` for another name.
    public func parameter(_ name: String) throws(LiteMambaError) -> [Float] {
        try [Float](count: parameterInfo(name).count) { values throws(LiteMambaError) in
            try copyParameter(name, into: values)
        }
    }

    /// A parameter's values, each exactly, whatever its type is.
    ///
    /// - Parameters:
    ///   - name: As in ``parameters``, or its other name.
    ///   - type: `Double.self`.
    /// - Throws: ``LiteMambaError/Code-swift.struct/notFound`` for another name;
    ///   ``LiteMambaError/Code-swift.struct/outOfMemory``.
    public func parameter(_ name: String, as type: Double.Type) throws(LiteMambaError) -> [Double] {
        try [Double](count: parameterInfo(name).count) { values throws(LiteMambaError) in
            try copyParameter(name, as: .float64, into: UnsafeMutableRawBufferPointer(values))
        }
    }

    /// Copies a parameter out, as ``parameter(_:)``, without allocating.
    ///
    /// - Throws: ``LiteMambaError/Code-swift.struct/notFound`` for another name,
    ///   ``LiteMambaError/Code-swift.struct/shapeMismatch`` unless the buffer has exactly the parameter's number of
    ///   values.
    public func copyParameter(
        _ name: String, into values: UnsafeMutableBufferPointer<Float>
    ) throws(LiteMambaError) {
        try requireText(name, "name")
        try check(
            withExtendedLifetime(self) { lm_get_parameter(handle, name, values.baseAddress, values.count) })
    }

    /// Copies a parameter out in a type of the caller's choice: every value exactly where the type can hold it,
    /// as ``DType/float64`` always can, else rounded to nearest.
    ///
    /// - Parameters:
    ///   - name: As in ``parameters``, or its other name.
    ///   - dtype: The type; `nil` is the parameter's own.
    ///   - bytes: Where the values go, at any alignment.
    /// - Throws: ``LiteMambaError/Code-swift.struct/notFound`` for another name,
    ///   ``LiteMambaError/Code-swift.struct/shapeMismatch`` unless the buffer has exactly the size of the parameter's
    ///   values in that type.
    public func copyParameter(
        _ name: String, as dtype: DType?, into bytes: UnsafeMutableRawBufferPointer
    ) throws(LiteMambaError) {
        try requireText(name, "name")
        try check(
            withExtendedLifetime(self) {
                lm_get_parameter_typed(handle, name, dtype.cValue, bytes.baseAddress, bytes.count)
            })
    }

    /// A layer in the making, whose parameters can still be replaced.
    ///
    /// ```swift
    /// var builder = try Layer.Builder(Configuration(.stcn, dModel: 64))
    /// try builder.setParameter("D", to: ones)
    /// let layer = builder.build()
    /// ```
    ///
    /// The C library wants the one who sets a parameter to be alone with the layer. A builder cannot be copied, and
    /// ``build()`` consumes it, so nobody else has the layer while it changes, and nobody changes it any more once
    /// it can be shared. The compiler sees to both.
    public struct Builder: ~Copyable, Sendable {
        private let layer: Layer

        /// Begins with the initial values of a configuration, as ``Layer/init(_:)``.
        public init(_ configuration: Configuration) throws(LiteMambaError) {
            layer = try Layer(configuration)
        }

        /// Begins with a copy of a layer's parameters.
        public init(copying original: Layer) throws(LiteMambaError) {
            var handle: OpaquePointer?
            let status = withExtendedLifetime(original) {
                var c = lm_config()
                let status = lm_get_config(original.handle, &c, MemoryLayout<lm_config>.size)
                return status == 0 ? lm_create(&c, &handle) : status
            }
            try check(status)
            let copy = try Layer(owning: handle!)
            for parameter in try original.parameters {
                // Every type fits into f64.
                try copy.overwrite(parameter.name, with: original.parameter(parameter.name, as: Double.self))
            }
            layer = copy
        }

        /// The layer, which from now on stays as it is.
        public consuming func build() -> Layer { layer }

        /// The parameters, as ``Layer/parameters``.
        public var parameters: [TensorInfo] {
            get throws(LiteMambaError) { try layer.parameters }
        }

        /// What there is to know of a parameter, as ``Layer/parameterInfo(_:)``.
        public func parameterInfo(_ name: String) throws(LiteMambaError) -> TensorInfo {
            try layer.parameterInfo(name)
        }

        /// A parameter's values, each exactly, as ``Layer/parameter(_:as:)``.
        public func parameter(_ name: String, as type: Double.Type) throws(LiteMambaError) -> [Double] {
            try layer.parameter(name, as: type)
        }

        /// A parameter's values, as ``Layer/parameter(_:)``.
        public func parameter(_ name: String) throws(LiteMambaError) -> [Float] {
            try layer.parameter(name)
        }

        /// Replaces a parameter.
        ///
        /// - Parameters:
        ///   - name: As in ``Layer/parameters``, or its other name.
        ///   - values: The values, row-major in the parameter's shape.
        /// - Throws: ``LiteMambaError/Code-swift.struct/notFound`` for another name;
        ///   ``LiteMambaError/Code-swift.struct/shapeMismatch`` for another number of values;
        ///   ``LiteMambaError/Code-swift.struct/outOfMemory``.
        public mutating func setParameter(_ name: String, to values: [Float]) throws(LiteMambaError) {
            try values.withBuffer { values throws(LiteMambaError) in try setParameter(name, to: values) }
        }

        /// Replaces a parameter, as the form on arrays does.
        public mutating func setParameter(
            _ name: String, to values: UnsafeBufferPointer<Float>
        ) throws(LiteMambaError) {
            try requireText(name, "name")
            try check(lm_set_parameter(layer.handle, name, values.baseAddress, values.count))
        }

        /// Replaces a parameter with values that are exact where the layer's type can hold them, else rounded to nearest.
        ///
        /// - Parameters:
        ///   - name: As in ``Layer/parameters``, or its other name.
        ///   - type: `Double.self`.
        ///   - values: The values, row-major in the parameter's shape.
        /// - Throws: As the form on `Float`.
        public mutating func setParameter(
            _ name: String, as type: Double.Type, to values: [Double]
        ) throws(LiteMambaError) {
            try requireText(name, "name")
            try layer.overwrite(name, with: values)
        }

        /// Replaces a parameter with values of a type of the caller's choice: every value exactly where the layer's
        /// type can hold it, else rounded to nearest.
        ///
        /// - Parameters:
        ///   - name: As in ``Layer/parameters``, or its other name.
        ///   - dtype: The type; `nil` is the parameter's own.
        ///   - bytes: The values, at any alignment.
        /// - Throws: ``LiteMambaError/Code-swift.struct/notFound`` for another name;
        ///   ``LiteMambaError/Code-swift.struct/shapeMismatch`` unless the buffer has exactly the size of the parameter's
        ///   values in that type; ``LiteMambaError/Code-swift.struct/outOfMemory``.
        public mutating func setParameter(
            _ name: String, as dtype: DType?, to bytes: UnsafeRawBufferPointer
        ) throws(LiteMambaError) {
            try requireText(name, "name")
            try check(
                lm_set_parameter_typed(layer.handle, name, dtype.cValue, bytes.baseAddress, bytes.count))
        }
    }
}

extension Layer {
    /// For a builder alone, which nobody shares the layer with.
    fileprivate func overwrite(_ name: String, with values: [Double]) throws(LiteMambaError) {
        try values.withBuffer { values throws(LiteMambaError) in
            let bytes = UnsafeRawBufferPointer(values)
            try check(
                withExtendedLifetime(self) {
                    lm_set_parameter_typed(handle, name, LM_DTYPE_F64.rawValue, bytes.baseAddress, bytes.count)
                })
        }
    }
}
