// Faults, for the sanitizers to find: faults KIND. test.sh sees to it that each is found. What goes wrong is not known
// when this is compiled.
#include <lite_mamba.hpp>

#include <cstring>
#include <limits>
#include <thread>

int main(int argc, char** argv) {
    const auto is = [&](const char* kind) { return argc == 2 && std::strcmp(argv[1], kind) == 0; };
    lite_mamba::config config;
    config.d_model = 8;
    lite_mamba::layer layer(config);
    lite_mamba::cache cache(layer, 1);
    std::vector<float> x(8), y(8);
    if (is("none")) {
        layer.step(x, cache, y);
        return 0;
    }
    if (is("address")) { // a span that says more than is there
        const lite_mamba::span<float> longer(y.data(), y.size() + std::size_t(argc));
        return int(longer[9]);
    }
    if (is("leak")) { // of the library
        lm_cache* lost = nullptr;
        const bool made = lm_cache_clone(cache.native_handle(), &lost) == LM_OK;
        lost = nullptr;
        return made && lost == nullptr ? 0 : 3;
    }
    if (is("undefined")) {
        const int most = std::numeric_limits<int>::max() - 1;
        return most + argc + int(x[0]) < 0 ? 0 : 3;
    }
    if (is("thread")) { // two threads write one y
        lite_mamba::cache other = cache.clone();
        std::thread first([&] { layer.step(x, cache, y), y[0] += 1; });
        std::thread second([&] { layer.step(x, other, y), y[0] += 1; });
        first.join();
        second.join();
        return 0;
    }
    return 2;
}
