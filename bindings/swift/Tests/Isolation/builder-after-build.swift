// expect: error: 'builder' used after consume
// Changing a layer that others may have.

import LiteMamba

func changeAfterBuild() throws -> Layer {
    var builder = try Layer.Builder(Configuration(dModel: 8))
    let layer = builder.build()
    try builder.setParameter("D", to: [])
    return layer
}
