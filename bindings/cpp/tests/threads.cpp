// Many threads on one layer, each with its own cache. Under the thread sanitizer too.
#include <lite_mamba.hpp>

#include <atomic>
#include <cmath>
#include <thread>

#include "check.hpp"

namespace {

constexpr std::size_t d_model = 32, seqlen = 40;

std::vector<float> stream(const lite_mamba::layer& layer, unsigned id) {
    lite_mamba::cache cache(layer, 1);
    std::vector<float> y(seqlen * d_model);
    for (std::size_t i = 0; i < y.size(); ++i) y[i] = std::sin(0.01F * float(i) * float(id + 1));
    const lite_mamba::span<float> tokens(y);
    for (std::size_t t = 0; t < seqlen; ++t) {
        const auto token = tokens.subspan(t * d_model, d_model);
        layer.step(token, cache, token);
    }
    return y;
}

} // namespace

TEST(threads_share_a_layer) {
    constexpr unsigned num_threads = 16;
    lite_mamba::config config;
    config.d_model = d_model;
    config.conv_dilations = {1, 2, 4};
    const lite_mamba::layer layer(config);
    std::vector<std::vector<float>> expected, actual(num_threads);
    for (unsigned id = 0; id < num_threads; ++id) expected.push_back(stream(layer, id));

    std::atomic<unsigned> ready{0};
    std::atomic<bool> failed{false};
    std::vector<std::thread> threads;
    for (unsigned id = 0; id < num_threads; ++id)
        threads.emplace_back([&, id] {
            ++ready;
            while (ready < num_threads) std::this_thread::yield();
            actual[id] = stream(layer, id);
            // const functions besides, large calls on the library's own threads, and each thread's own message.
            std::vector<float> x(64 * d_model, 0.1F), d(layer.d_inner());
            layer.forward(x, 4, x);
            layer.get_parameter("D", d);
            const std::string name = "no parameter " + std::to_string(id);
            const auto missing = layer.try_get_parameter(name, d);
            if (layer.config().d_model != d_model || layer.parameters().empty() || missing ||
                missing.error().message().find('"' + name + '"') == std::string::npos)
                failed = true;
        });
    for (auto& thread : threads) thread.join();
    CHECK(!failed);
    CHECK(actual == expected);
}

// A cache is not tied to the thread that made it.
TEST(threads_hand_over_a_cache) {
    lite_mamba::config config;
    config.d_model = 8;
    const lite_mamba::layer layer(config);
    lite_mamba::cache cache(layer, 1);
    std::vector<float> x(8, 0.5F);
    std::thread([&, cache = std::move(cache)]() mutable {
        layer.step(x, cache, x);
        CHECK(cache.seqlen_offset() == 1);
    }).join();
}
