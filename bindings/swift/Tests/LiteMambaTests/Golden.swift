// SPDX-License-Identifier: Apache-2.0

import Foundation

/// This repository's root. The tests read files of the source tree, users do not need them.
let repository = URL(fileURLWithPath: #filePath)
    .deletingLastPathComponent().deletingLastPathComponent().deletingLastPathComponent()
    .deletingLastPathComponent().deletingLastPathComponent()

/// The f32 tensors of a safetensors file, which `tests/golden/README.md` describes.
struct Golden: CustomStringConvertible, Sendable {
    struct Tensor {
        let shape: [Int]
        let values: [Float]
    }

    static let directory = repository.appendingPathComponent("tests/golden")

    static let urls: [URL] = {
        let files = try? FileManager.default.contentsOfDirectory(at: directory, includingPropertiesForKeys: nil)
        return (files ?? []).filter { $0.pathExtension == "safetensors" }.sorted { $0.path < $1.path }
    }()

    let url: URL
    var description: String { url.lastPathComponent }

    func tensors() throws -> [String: Tensor] {
        struct Entry: Decodable {
            let dtype: String
            let shape: [Int]
            let offsets: [Int]

            enum CodingKeys: String, CodingKey {
                case dtype, shape
                case offsets = "data_offsets"
            }
        }
        let file = try Data(contentsOf: url)
        let length = file.prefix(8).reversed().reduce(0) { $0 << 8 | Int($1) }
        let header = file[8..<8 + length]
        let data = file[(8 + length)...]
        let object = try JSONSerialization.jsonObject(with: header) as? [String: Any] ?? [:]
        var tensors: [String: Tensor] = [:]
        for (name, value) in object where name != "__metadata__" {
            let entry = try JSONDecoder().decode(Entry.self, from: JSONSerialization.data(withJSONObject: value))
            precondition(entry.dtype == "F32")
            let bytes = data.dropFirst(entry.offsets[0]).prefix(entry.offsets[1] - entry.offsets[0])
            let values = [Float](unsafeUninitializedCapacity: bytes.count / 4) { buffer, count in
                count = bytes.copyBytes(to: buffer) / 4
            }
            tensors[name] = Tensor(shape: entry.shape, values: values)
        }
        return tensors
    }
}

/// max|a − b| / max|b|, or the difference itself where b is all zeros; infinity for a NaN, or an infinity that
/// is not the same on both sides.
func relativeError(_ actual: [Float], _ expected: [Float]) -> Double {
    precondition(actual.count == expected.count, "tensors of different sizes are compared")
    var difference = 0.0
    var scale = 0.0
    for (a, b) in zip(actual, expected) {
        if a == b, b.isInfinite { continue }
        guard a.isFinite, b.isFinite else { return .infinity }
        difference = max(difference, abs(Double(a) - Double(b)))
        scale = max(scale, abs(Double(b)))
    }
    return scale == 0 ? difference : difference / scale
}

func bits(_ values: [Float]) -> [UInt32] { values.map(\.bitPattern) }
