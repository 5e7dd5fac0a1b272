// What a step through the C++ header costs beside the call of the C function: the best of many short runs of each, taken
// in turns, in nanoseconds. A step of no sequences (batch 0) computes nothing, so that the calls are all there is.
#include <lite_mamba.hpp>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <limits>

namespace {

constexpr int rounds = 2000, steps = 200;

template <class Step>
double nanoseconds(Step step) {
    const auto start = std::chrono::steady_clock::now();
    for (int i = 0; i < steps; ++i) step();
    return std::chrono::duration<double, std::nano>(std::chrono::steady_clock::now() - start).count() / steps;
}

} // namespace

int main() {
    std::printf("%s\n%8s%8s%12s%12s%12s\n", lite_mamba::build_info().c_str(), "batch", "d_model", "lm_step", "step", "try_step");
    for (const auto [batch, d_model] : {std::array<std::size_t, 2>{0, 16}, {1, 16}, {1, 64}}) {
        lite_mamba::config config;
        config.d_model = d_model;
        const lite_mamba::layer layer(config);
        lite_mamba::cache cache(layer, batch);
        std::vector<float> x(batch * d_model, 0.5F), y(x.size());
        double c = std::numeric_limits<double>::max(), throwing = c, returning = c;
        for (int i = 0; i < rounds; ++i) {
            c = std::min(c, nanoseconds([&] {
                             if (lm_step(layer.native_handle(), x.data(), cache.native_handle(), y.data()) != LM_OK) std::abort();
                         }));
            throwing = std::min(throwing, nanoseconds([&] { layer.step(x, cache, y); }));
            returning = std::min(returning, nanoseconds([&] {
                                     if (!layer.try_step(x, cache, y)) std::abort();
                                 }));
        }
        std::printf("%8zu%8zu%12.1f%12.1f%12.1f\n", batch, d_model, c, throwing, returning);
    }
}
