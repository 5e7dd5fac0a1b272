// Steps allocate nothing, and a failure needs no memory. A program of its own, since it replaces operator new.
#include <lite_mamba.hpp>

#include <new>

#include "check.hpp"

namespace {

long allocations = 0;
bool exhausted = false;

} // namespace

// Not inlined: gcc would take the pair for mismatched.
#ifdef __GNUC__
#define NOINLINE __attribute__((noinline))
#else
#define NOINLINE
#endif

NOINLINE void* operator new(std::size_t size) {
    ++allocations;
    if (exhausted) throw std::bad_alloc();
    void* const memory = std::malloc(size);
    if (memory == nullptr) throw std::bad_alloc();
    return memory;
}
NOINLINE void operator delete(void* memory) noexcept { std::free(memory); }
NOINLINE void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }

int main() {
    lite_mamba::config config;
    config.d_model = 16;
    config.conv_dilations = {1, 2};
    const lite_mamba::layer layer(config);
    lite_mamba::cache cache(layer, 1);
    std::vector<float> x(16, 0.5F), y(16);

    const std::vector<std::size_t> cu_seqlens = {0, 1};
    std::vector<std::byte> saved(cache.saved_size());
    std::int64_t shape[] = {1, 16};
    DLTensor tensor{};
    tensor.data = x.data();
    tensor.device.device_type = kDLCPU;
    tensor.ndim = 2;
    tensor.dtype.code = kDLFloat;
    tensor.dtype.bits = 32;
    tensor.dtype.lanes = 1;
    tensor.shape = shape;
    const long before = allocations;
    for (int i = 0; i < 100; ++i) {
        layer.step(x, cache, y);
        CHECK(layer.try_step(x, cache, y));
        layer.forward(x, cache, y);
        layer.forward_varlen(x, cu_seqlens, cache, y);
        CHECK(cache.save(saved) == saved.size());
        layer.step_dlpack(tensor, cache, tensor);
    }
    CHECK(allocations == before);

    exhausted = true;
    const auto found_here = layer.try_step({}, cache, {});
    const auto found_there = lite_mamba::layer::try_create(lite_mamba::config{{}, {}, 0, 16, 4, {}});
    exhausted = false;
    CHECK(allocations > before);
    CHECK(found_here.error().code() == lite_mamba::status::shape_mismatch && found_here.error().message().empty());
    CHECK(found_there.error().code() == lite_mamba::status::invalid_config && found_there.error().message().empty());
}
