// A cache may be handed over, and a copy of one that stays.

import LiteMamba

actor Session {
    let cache: Cache
    init(_ cache: sending Cache) { self.cache = cache }
    func fork() throws -> sending Cache { try cache.copy() }
}

func send(_ layer: Layer, _ session: Session) async throws {
    let cache = try Cache(for: layer)
    _ = try layer.step([], cache: cache)
    let copy = try cache.copy()
    Task { try layer.step([], cache: copy) }
    _ = try layer.step([], cache: cache)
    _ = Session(cache)
    let fork = try await session.fork()
    _ = try layer.step([], cache: fork)
}
