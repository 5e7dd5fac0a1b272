// Loads layers of a model trained in PyTorch and runs a sequence through them: most of it at once, the rest as a stream.
//
//     load_pytorch_weights co2.safetensors layers.0 layers.1 layers.2
//
// The file is one that bindings/python/export.py writes, the rest are the names of the layers in the model.
// examples/co2/co2.safetensors, of this project, is such a file.
#include <cmath>
#include <cstdio>
#include <exception>
#include <lite_mamba.hpp>
#include <vector>

int main(int argc, char** argv) try {
    if (argc < 3) {
        std::fprintf(stderr, "usage: %s MODEL.safetensors LAYER...\n", argv[0]);
        return 2;
    }
    std::vector<lite_mamba::layer> layers;
    std::vector<lite_mamba::cache> caches; // of one stream
    for (int i = 2; i < argc; ++i) {
        const auto& layer = layers.emplace_back(lite_mamba::layer::load(argv[1], argv[i]));
        caches.emplace_back(layer, 1);
        std::size_t values = 0;
        for (const auto& parameter : layer.parameters()) values += parameter.count;
        std::printf("%s: d_model %zu, %zu branches, %zu parameters\n", argv[i], layer.d_model(),
                    layer.config().conv_dilations.size(), values);
    }

    // What a model does around its layers is the program's own; here, a residual connection around each.
    const auto run = [&](lite_mamba::span<float> x) {
        std::vector<float> y(x.size());
        for (std::size_t i = 0; i < layers.size(); ++i) {
            layers[i].forward(x, caches[i], y);
            for (std::size_t j = 0; j < y.size(); ++j) x[j] += y[j];
        }
    };

    const std::size_t d_model = layers[0].d_model(), prefill = 12, seqlen = 16;
    std::vector<float> x(seqlen * d_model);
    for (std::size_t i = 0; i < x.size(); ++i) x[i] = std::sin(0.1F * float(i));
    const lite_mamba::span<float> tokens(x);
    run(tokens.first(prefill * d_model));
    for (std::size_t t = prefill; t < seqlen; ++t) {
        const auto token = tokens.subspan(t * d_model, d_model);
        run(token);
        std::printf("token %zu: %+.6f %+.6f ...\n", t, double(token[0]), double(token[1]));
    }
    for (const auto& cache : caches) std::printf("%zu bytes of state, however long the stream grows\n", cache.bytes());
} catch (const std::exception& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 1;
}
