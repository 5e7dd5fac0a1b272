// A layer reads a token at a time; its cache remembers what came before.
#include <cmath>
#include <cstdio>
#include <exception>
#include <lite_mamba.hpp>
#include <vector>

int main() try {
    lite_mamba::config config; // the reference's defaults
    config.d_model = 32;
    config.conv_dilations = {1, 2, 4};
    const lite_mamba::layer layer(config);
    lite_mamba::cache cache(layer, 1);

    std::vector<float> x(layer.d_model()), y(layer.d_model());
    for (int t = 0; t < 6; ++t) {
        for (std::size_t i = 0; i < x.size(); ++i) x[i] = std::sin(0.3F * float(t) + 0.7F * float(i));
        layer.step(x, cache, y);
        std::printf("token %d: y[0] = %+.6f\n", t, double(y[0]));
    }
} catch (const std::exception& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 1;
}
