// swift-tools-version: 6.0
// SPDX-License-Identifier: Apache-2.0

import PackageDescription

let liteMamba = Target.Dependency.product(name: "LiteMamba", package: "LiteMamba")

let package = Package(
    name: "Examples",
    dependencies: [.package(name: "LiteMamba", path: "..")],
    targets: [
        .executableTarget(name: "Streaming", dependencies: [liteMamba]),
        .executableTarget(name: "Weights", dependencies: [liteMamba]),
        .executableTarget(
            name: "StepOverhead", dependencies: [liteMamba, .product(name: "CLiteMamba", package: "LiteMamba")]),
    ],
    swiftLanguageModes: [.v6]
)
