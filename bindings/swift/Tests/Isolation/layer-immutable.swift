// expect: error: value of type 'Layer' has no member 'setParameter'
// A layer cannot be changed.

import LiteMamba

func change(_ layer: Layer) throws {
    try layer.setParameter("D", to: [])
}
