// A stream of tokens through a layer, each on from what came before.
#include <cstdio>
#include <exception>
#include <lite_mamba.hpp>
#include <vector>

int main() try {
    lite_mamba::config config; // the reference's defaults
    config.d_model = 32;
    config.conv_dilations = {1, 2, 4};
    const lite_mamba::layer layer(config);
    lite_mamba::cache cache(layer, 1); // the state of one stream

    std::vector<float> token(32);
    for (int t = 0; t < 6; ++t) {
        token[0] = float(t);
        layer.step(token, cache, token); // in place
        std::printf("%d %.4f %.4f %.4f\n", t, double(token[0]), double(token[1]), double(token[2]));
    }
} catch (const std::exception& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 1;
}
