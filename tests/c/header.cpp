// The header as C++17, and handles in the hands of std::unique_ptr.
#include <lite_mamba.h>
#include <lite_mamba.h>

#include <memory>
#include <type_traits>
#include <vector>

struct Free {
    void operator()(lm_layer *layer) const { lm_destroy(layer); }
    void operator()(lm_cache *cache) const { lm_free_cache(cache); }
};

static_assert(std::is_trivially_copyable<lm_config>::value && std::is_standard_layout<lm_config>::value, "");
static_assert(std::is_same<lm_status, int32_t>::value, "");

int main() {
    lm_config config{};
    if (lm_config_init(&config, sizeof config) != LM_OK)
        return 1;
    config.variant = LM_VARIANT_STCN;
    config.d_model = 8;

    lm_layer *made_layer = nullptr;
    if (lm_create(&config, &made_layer) != LM_OK)
        return 1;
    std::unique_ptr<lm_layer, Free> layer(made_layer);
    lm_cache *made_cache = nullptr;
    if (lm_alloc_cache(layer.get(), 1, 0, LM_DTYPE_DEFAULT, &made_cache) != LM_OK)
        return 1;
    std::unique_ptr<lm_cache, Free> cache(made_cache);

    std::vector<float> x(4 * 8, 0.5f), whole(x.size()), steps(x.size());
    if (lm_forward(layer.get(), x.data(), 1, 4, nullptr, whole.data()) != LM_OK)
        return 1;
    for (std::size_t t = 0; t < 4; t++)
        if (lm_step(layer.get(), &x[t * 8], cache.get(), &steps[t * 8]) != LM_OK)
            return 1;
    return whole == steps ? 0 : 1;
}
