// swift-tools-version: 6.0
// SPDX-License-Identifier: Apache-2.0

import PackageDescription

let package = Package(
    name: "LiteMamba",
    products: [
        .library(name: "LiteMamba", targets: ["LiteMamba"]),
        // The C functions as they are.
        .library(name: "CLiteMamba", targets: ["CLiteMamba"]),
    ],
    targets: [
        // The C library, which pkg-config finds: PKG_CONFIG_PATH=<prefix>/lib/pkgconfig.
        .systemLibrary(name: "CLiteMamba", pkgConfig: "lite_mamba"),
        .target(name: "LiteMamba", dependencies: ["CLiteMamba"]),
        .testTarget(name: "LiteMambaTests", dependencies: ["LiteMamba", "CLiteMamba"]),
    ],
    swiftLanguageModes: [.v6]
)
