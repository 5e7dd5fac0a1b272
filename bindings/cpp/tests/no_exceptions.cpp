// Compiled with -fno-exceptions -fno-rtti: alone (STANDALONE), and linked into the other tests to live beside exceptions.
#include <lite_mamba.hpp>

#include <cstring>

#include "check.hpp"

#ifdef __cpp_exceptions
#error "exceptions are on"
#endif
#ifdef __cpp_rtti
#error "RTTI is on"
#endif

namespace lm = lite_mamba;
using lm::status;

int without_exceptions();

int without_exceptions() {
    lm::config config;
    CHECK(lm::layer::try_create(config).error().code() == status::invalid_config);
    config.d_model = 8;
    config.layer_idx = 0;
    auto created = lm::layer::try_create(config);
    CHECK(created.has_value());
    lm::layer layer = *std::move(created);

    auto made = lm::cache::try_create(layer, 1);
    CHECK(made);
    std::vector<float> x(16, 0.5F), whole(16), steps(16);
    CHECK(layer.try_forward(x, 1, whole));
    for (std::size_t t = 0; t < 2; ++t)
        CHECK(layer.try_step({&x[8 * t], 8}, *made, {&steps[8 * t], 8}));
    CHECK(whole == steps);
    CHECK(made->try_clone()->seqlen_offset() == 2);
    const auto saved = made->try_save();
    CHECK(saved && lm::cache::try_load(layer, *saved)->seqlen_offset() == 2);
    CHECK(lm::cache::try_load(layer, {}).error().code() == status::format);
    CHECK(made->try_reset() && made->try_states()->size() == 2);

    const std::vector<std::size_t> cu_seqlens = {0, 2};
    CHECK(layer.try_forward_varlen(x, cu_seqlens, steps) && whole == steps);
    CHECK(layer.try_find_parameter("D")->count == 16);

    auto params = lm::inference_params::try_create(1);
    CHECK(params && layer.try_forward(x, *params, steps) && whole == steps);

    const auto wrong = layer.try_step(x, *made, steps);
    CHECK(!wrong && wrong.error().code() == status::shape_mismatch);
    CHECK(wrong.error().message() == "x has 16 values; it must have batch * d_model, 1 * 8");
    const auto absent = lm::layer::try_load("absent.safetensors");
    CHECK(!absent && absent.error().code() == status::io && !absent.error().message().empty());
    CHECK(std::error_code(absent.error().code()) == std::errc::io_error);
    CHECK(layer.try_config()->layer_idx == 0 && layer.try_parameters()->size() > 8);

    // The other form is there for what cannot fail, or must not.
    layer.forward(x, 1, steps);
    return 0;
}

#ifdef STANDALONE
int main(int argc, char** argv) {
    if (argc > 1 && std::strcmp(argv[1], "abort") == 0) lm::layer::try_load("absent.safetensors").value();
    return without_exceptions();
}
#endif
