// What the header adds to the C interface: ownership, spans, sizes, errors in two forms, comfortable types.
#include <lite_mamba.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <list>
#include <string_view>

#include "check.hpp"

int without_exceptions();

namespace lm = lite_mamba;
using lm::status;

// ---- What is known when this is compiled ----

template <class Handle>
constexpr bool is_handle = !std::is_copy_constructible_v<Handle> && !std::is_copy_assignable_v<Handle> &&
                           std::is_nothrow_move_constructible_v<Handle> && std::is_nothrow_move_assignable_v<Handle> &&
                           std::is_nothrow_swappable_v<Handle> && !std::is_default_constructible_v<Handle>;
static_assert(is_handle<lm::layer> && is_handle<lm::cache> && is_handle<lm::inference_params>);
static_assert(std::is_copy_constructible_v<lm::cache_ref> && !std::is_copy_assignable_v<lm::cache_ref>);
// Neither a number nor a pointer becomes a handle by itself.
static_assert(!std::is_convertible_v<std::size_t, lm::inference_params> && !std::is_convertible_v<lm_layer*, lm::layer> &&
              !std::is_convertible_v<lm_cache*, lm::cache_ref> && !std::is_convertible_v<lm::config, lm::layer>);

static_assert(std::is_base_of_v<std::runtime_error, lm::error> && std::is_nothrow_copy_constructible_v<lm::error>);
static_assert(std::is_nothrow_move_constructible_v<lm::result<lm::layer>> && !std::is_copy_constructible_v<lm::result<lm::layer>>);
static_assert(std::is_nothrow_move_constructible_v<lm::result<void>>);
static_assert(std::is_aggregate_v<lm::config>);
static_assert(std::is_error_code_enum_v<status>);

template <class From, class To>
constexpr bool converts = std::is_convertible_v<From, To>;
using floats = std::vector<float>;
static_assert(converts<floats&, lm::span<float>> && converts<floats&, lm::span<const float>>);
static_assert(converts<const floats&, lm::span<const float>> && !converts<const floats&, lm::span<float>>);
static_assert(converts<floats, lm::span<const float>> && !converts<floats, lm::span<float>>);
static_assert(converts<std::array<float, 3>&, lm::span<float>> && converts<float (&)[3], lm::span<float>>);
static_assert(converts<lm::span<float>, lm::span<const float>> && !converts<lm::span<const float>, lm::span<float>>);
static_assert(!converts<std::vector<double>&, lm::span<const float>> && !converts<std::list<float>&, lm::span<const float>>);
static_assert(!converts<float*, lm::span<float>> && !converts<std::size_t, lm::span<float>>);

// A cache that must not change does not step, and a layer that must not change does not take parameters.
template <class Layer, class Cache, class = void>
constexpr bool steps = false;
template <class Layer, class Cache>
constexpr bool steps<Layer, Cache,
                     std::void_t<decltype(std::declval<Layer&>().step(floats(), std::declval<Cache&>(), std::declval<floats&>()))>> =
    true;
static_assert(steps<const lm::layer, lm::cache> && steps<const lm::layer, lm::cache_ref> && !steps<lm::layer, const lm::cache>);
template <class Layer, class = void>
constexpr bool sets = false;
template <class Layer>
constexpr bool sets<Layer, std::void_t<decltype(std::declval<Layer&>().set_parameter("D", floats()))>> = true;
static_assert(sets<lm::layer> && !sets<const lm::layer>);

using view = lm::span<const float>;
using place = lm::span<float>;
static_assert(noexcept(std::declval<const lm::layer&>().try_step(view(), std::declval<lm::cache&>(), place())));
static_assert(noexcept(std::declval<const lm::layer&>().try_forward(view(), 1, place())));
static_assert(noexcept(std::declval<const lm::layer&>().try_forward_varlen(view(), {}, std::declval<lm::cache&>(), place())));
static_assert(noexcept(std::declval<const lm::cache&>().try_save(lm::span<std::byte>())));
static_assert(noexcept(lm::cache::try_load(std::declval<const lm::layer&>(), {})));
static_assert(!noexcept(std::declval<const lm::layer&>().step(view(), std::declval<lm::cache&>(), place())));

// ---- Helpers ----

namespace {

lm::config small_config() {
    lm::config config;
    config.d_model = 8;
    config.conv_dilations = {1, 3};
    config.seed = 5;
    return config;
}

floats waves(std::size_t count, float phase = 0) {
    floats values(count);
    for (std::size_t i = 0; i < count; ++i) values[i] = std::sin(0.3F * float(i) + phase);
    return values;
}

bool same_bits(view a, view b) { return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size_bytes()) == 0; }

floats state_of(const lm::cache_ref& cache, const std::string& name) {
    for (const auto& info : cache.states()) {
        if (info.name != name) continue;
        floats values(info.count);
        cache.get_state(name, values);
        return values;
    }
    CHECK_THAT(false, name);
}

// The failure that both forms give, which must be this one.
template <class Throwing, class Returning>
std::string fails(status code, Throwing throwing, Returning returning) {
    std::string thrown = "nothing was thrown";
    try {
        throwing();
    } catch (const lm::error& e) {
        CHECK_THAT(e.code() == code, std::string(lm::status_name(e.code())) + ": " + e.what());
        thrown = e.what();
    }
    const auto returned = returning();
    CHECK_THAT(!returned && !returned.has_value(), thrown);
    CHECK_THAT(returned.error().code() == code, returned.error().message());
    CHECK_THAT(returned.error().message() == thrown, thrown);
    CHECK(!thrown.empty());
    return thrown;
}

// FAILS(code, object., operation(arguments))
#define FAILS(code, object, call) fails(code, [&] { static_cast<void>(object call); }, [&] { return object try_##call; })

bool contains(const std::string& text, const char* part) { return text.find(part) != std::string::npos; }

struct temporary_directory {
    std::filesystem::path path = std::filesystem::temp_directory_path() / ("lite_mamba_cpp_" + std::to_string(reinterpret_cast<std::uintptr_t>(this)));
    temporary_directory() { std::filesystem::create_directory(path); }
    ~temporary_directory() { std::filesystem::remove_all(path); }
};

} // namespace

// ---- Spans ----

TEST(spans) {
    floats vector = {1, 2, 3, 4};
    const floats& constant = vector;
    std::array<float, 2> array = {5, 6};
    float c_array[3] = {7, 8, 9};
    CHECK(place(vector).data() == vector.data() && place(vector).size() == 4);
    CHECK(view(constant).size() == 4 && view(array)[1] == 6 && view(c_array).size() == 3);
    CHECK(view(c_array, 2).size() == 2 && place(c_array, 2).end() - place(c_array).begin() == 2);
    CHECK(view().empty() && view().data() == nullptr && !view(array).empty());
    const place all(vector);
    CHECK(all.first(2).size() == 2 && all.last(1)[0] == 4 && all.subspan(1)[0] == 2 && all.subspan(1, 2).size() == 2);
    float sum = 0;
    for (const float value : all) sum += value;
    CHECK(sum == 10);
    all[0] = 11;
    CHECK(vector[0] == 11 && all.size_bytes() == 16);

    const lm::span deduced(vector);
    static_assert(std::is_same_v<decltype(deduced)::element_type, float>);
    const lm::span deduced_constant(constant);
    static_assert(std::is_same_v<decltype(deduced_constant)::element_type, const float>);
    const lm::span deduced_pointer(vector.data(), 2);
    static_assert(std::is_same_v<decltype(deduced_pointer)::element_type, float>);
    CHECK(deduced.size() == 4 && deduced_constant.size() == 4 && deduced_pointer.size() == 2);
    CHECK(lm::as_bytes(deduced).size() == 16 && lm::as_writable_bytes(deduced).size() == 16);
    lm::as_writable_bytes(deduced)[3] = std::byte{0};
    CHECK(vector[0] != 11);
}

// ---- Configuration ----

TEST(config_defaults_are_the_librarys) {
    lm_config c;
    CHECK(lm_config_init(&c, sizeof c) == LM_OK);
    const lm::config ours;
    const auto converted = lm::detail::to_c(ours);
    CHECK(converted.has_value());
#define SAME(field) CHECK(converted->field == c.field)
    SAME(struct_size);
    SAME(variant);
    SAME(dtype);
    SAME(d_model);
    SAME(d_state);
    SAME(d_conv);
    SAME(num_conv_dilations);
    SAME(conv_dilations[0]);
    SAME(expand);
    SAME(dt_rank);
    SAME(dt_min);
    SAME(dt_max);
    SAME(dt_scale);
    SAME(dt_init_floor);
    SAME(dt_init);
    SAME(conv_bias);
    SAME(bias);
    SAME(use_fast_path);
    SAME(layer_idx);
    SAME(device);
    SAME(device_index);
    SAME(math);
    SAME(seed);
}

TEST(config_comes_back) {
    lm::config config;
    config.variant = lm::variant::dpwc;
    config.d_model = 6;
    config.d_state = 5;
    config.d_conv = 3;
    config.conv_dilations = {4, 1, 7};
    config.expand = 1.5;
    config.dt_min = 0.01;
    config.dt_max = 0.2;
    config.dt_scale = 0.5;
    config.dt_init_floor = 0.002;
    config.dt_init = lm::dt_init::constant;
    config.conv_bias = false;
    config.bias = true;
    config.use_fast_path = true;
    config.layer_idx = 12;
    config.device_index = 3;
    config.math = lm::math::tf32;
    config.seed = 99;
    const lm::layer layer(config);
    const lm::config back = layer.config();
#undef SAME
#define SAME(field) CHECK(back.field == config.field)
    SAME(variant);
    SAME(dtype);
    SAME(d_model);
    SAME(d_state);
    SAME(d_conv);
    SAME(conv_dilations);
    SAME(expand);
    SAME(dt_min);
    SAME(dt_max);
    SAME(dt_scale);
    SAME(dt_init_floor);
    SAME(dt_init);
    SAME(conv_bias);
    SAME(bias);
    SAME(use_fast_path);
    SAME(layer_idx);
    SAME(device);
    SAME(device_index);
    SAME(math);
    SAME(seed);
    CHECK(back.dt_rank == 1); // resolved
    CHECK(layer.d_model() == 6 && layer.d_inner() == 9);
    CHECK(lm::layer(small_config()).config().layer_idx == std::nullopt);
#ifdef __cpp_designated_initializers
    CHECK(lm::layer({.d_model = 4, .conv_dilations = {1, 2}}).config().conv_dilations.size() == 2);
#endif
}

TEST(config_errors) {
    lm::config config;
    const auto message = [&] {
        return fails(status::invalid_config, [&] { lm::layer layer(config); }, [&] { return lm::layer::try_create(config); });
    };
    CHECK(contains(message(), "d_model is 0"));
    config.d_model = 4;
    config.conv_dilations = {};
    CHECK(contains(message(), "conv_dilations is empty"));
    config.conv_dilations = {1, 0};
    CHECK(contains(message(), "conv_dilations"));
    config.conv_dilations = {1};
    config.variant = static_cast<lm::variant>(77);
    CHECK(contains(message(), "variant is 77"));
    config.variant = lm::variant::ptcn;
    config.layer_idx = -3;
    CHECK(contains(message(), "layer_idx is -3"));

    config.layer_idx.reset();
    config.dtype = lm::dtype::default_;
    CHECK(contains(message(), "dtype is 0"));
    config.dtype = lm::dtype::f32;
    config.d_model = std::numeric_limits<std::size_t>::max() / 64;
    CHECK(lm::layer::try_create(config).error().code() == status::out_of_memory);
    config.d_model = 4;
    config.device = lm::device::cuda;
    if (!lm::cuda_available()) CHECK(!lm::layer::try_create(config));
}

// ---- Errors ----

TEST(errors) {
    try {
        const auto layer = lm::layer::load("/nowhere/at all.safetensors");
        CHECK(false);
    } catch (const std::runtime_error& e) {
        CHECK(contains(e.what(), "at all.safetensors"));
        CHECK(dynamic_cast<const lm::error&>(e).code() == status::io);
    }

    const std::error_code code = status::io;
    CHECK(code.category() == lm::status_category() && std::string_view(code.category().name()) == "lite_mamba");
    CHECK(code == status::io && code != status::format && code == std::errc::io_error && code.message() == "LM_ERR_IO");
    CHECK(!std::error_code(status::ok) && std::error_code(status::out_of_memory) == std::errc::not_enough_memory);
    CHECK(std::error_code(status::shape_mismatch) == std::errc::invalid_argument);
    CHECK(std::error_code(status::unsupported) == std::errc::not_supported);
    CHECK(std::error_code(status::buffer_too_small) == std::errc::no_buffer_space);
    CHECK(std::error_code(status::internal).default_error_condition().category() == lm::status_category());
    CHECK(std::string_view(lm::status_name(static_cast<status>(-1))) == "unknown status");
}

TEST(results) {
    lm::result<std::string> good = std::string("good");
    CHECK(good && good.has_value() && *good == "good" && good->size() == 4 && good.value() == "good");
    *good += '!';
    const std::string moved = *std::move(good);
    CHECK(moved == "good!");

    lm::result<std::string> bad = lm::failure(status::format, "a message longer than a short string");
    CHECK(!bad && bad.error().code() == status::format);
    try {
        static_cast<void>(bad.value());
        CHECK(false);
    } catch (const lm::error& e) {
        CHECK(e.code() == status::format && e.what() == bad.error().message());
    }
    const lm::result<void> passed_on = std::move(bad).error();
    CHECK(!passed_on && contains(passed_on.error().message(), "longer"));
    CHECK(lm::result<void>().has_value());
    lm::result<void>().value();
}

TEST(without_exceptions_beside_exceptions) { CHECK(without_exceptions() == 0); }

// ---- Library ----

TEST(library) {
    CHECK(lm::version() == LM_VERSION && lm::abi_version() == LM_ABI_VERSION);
    CHECK(contains(lm::build_info(), LM_VERSION));
    lm::set_num_threads(2);
    CHECK(contains(FAILS(status::invalid_argument, lm::, set_num_threads(4097)), "4097"));
    CHECK(lm::try_set_num_threads(0).has_value());
}

// ---- Ownership ----

TEST(handles_move) {
    lm::layer layer(small_config());
    lm::cache cache(layer, 2), other(layer, 1);
    const lm_cache* const first = cache.native_handle();
    lm::cache moved = std::move(cache);
    CHECK(moved.native_handle() == first && moved.batch() == 2);
    other = std::move(moved);
    CHECK(other.native_handle() == first);
    lm::cache& itself = other;
    other = std::move(itself);
    CHECK(other.native_handle() == first && other.batch() == 2);

    // A vector of handles grows by moving them; a cache outlives its layer.
    std::vector<lm::layer> layers;
    for (std::uint64_t seed = 0; seed < 10; ++seed) {
        auto config = small_config();
        config.seed = seed;
        layers.emplace_back(config);
    }
    CHECK(layers[9].config().seed == 9);
    layer = std::move(layers[3]);
    layers.clear();
    CHECK(layer.config().seed == 3 && layer.d_model() == 8);
    floats x = waves(16), y(16);
    layer.step(x, other, y);
}

TEST(what_was_moved_from_fails) {
    lm::layer layer(small_config()), empty_layer(small_config());
    lm::cache cache(layer, 1), empty_cache(layer, 1);
    lm::inference_params params(1), empty_params(1);
    { lm::layer taken = std::move(empty_layer); }
    { lm::cache taken = std::move(empty_cache); }
    { lm::inference_params taken = std::move(empty_params); }
    floats x = waves(8), y(8);
    const std::size_t lane = 0;
    const lm::span<const std::size_t> lanes(&lane, 1);
    constexpr auto null = status::null_pointer;
    CHECK(FAILS(null, empty_layer., forward(x, 1, y)) == "layer was moved from; it must hold something");
    FAILS(null, empty_layer., forward(x, cache, y));
    FAILS(null, empty_layer., forward(x, params, y));
    FAILS(null, empty_layer., step(x, cache, y));
    FAILS(null, empty_layer., step_lanes(x, lanes, cache, y));
    const std::vector<std::size_t> cu_seqlens = {0, 1};
    FAILS(null, empty_layer., forward_varlen(x, cu_seqlens, y));
    FAILS(null, empty_layer., forward_varlen(x, cu_seqlens, cache, y));
    FAILS(null, empty_layer., find_parameter("D"));
    std::vector<double> wide(8);
    std::vector<std::uint16_t> half(8);
    FAILS(null, empty_layer., get_parameter("D", wide));
    FAILS(null, empty_layer., set_parameter("D", wide));
    FAILS(null, empty_layer., get_parameter("D", lm::dtype::bf16, half));
    FAILS(null, empty_layer., set_parameter("D", lm::dtype::bf16, half));
    FAILS(null, empty_layer., config());
    FAILS(null, empty_layer., save("x.safetensors"));
    FAILS(null, empty_layer., get_parameter("D", y));
    FAILS(null, empty_layer., set_parameter("D", x));
    FAILS(null, empty_layer., get_parameter("D", lm::dtype::f32, lm::as_writable_bytes(place(y))));
    FAILS(null, empty_layer., set_parameter("D", lm::dtype::f32, lm::as_bytes(view(x))));
    CHECK(empty_layer.parameters().empty() && empty_layer.d_inner() == 0);
    fails(null, [&] { lm::cache none(empty_layer, 1); }, [&] { return lm::cache::try_create(empty_layer, 1); });
    CHECK(FAILS(null, layer., forward(x, empty_cache, y)) == "cache was moved from; it must hold something");
    FAILS(null, layer., step(x, empty_cache, y));
    FAILS(null, layer., step_lanes(x, lanes, empty_cache, y));
    CHECK(FAILS(null, layer., forward_varlen(x, cu_seqlens, empty_cache, y)) == "cache was moved from; it must hold something");
    FAILS(null, empty_cache., save());
    FAILS(null, empty_cache., save(lm::as_writable_bytes(place(y))));
    FAILS(null, empty_cache., saved_size());
    CHECK(empty_cache.dtype() == lm::dtype::default_);
    fails(null, [&] { static_cast<void>(lm::cache::load(empty_layer, {})); }, [&] { return lm::cache::try_load(empty_layer, {}); });
    FAILS(null, empty_cache., reset());
    FAILS(null, empty_cache., reset_lane(0));
    FAILS(null, empty_cache., copy_lane(0, cache, 0));
    FAILS(null, cache., copy_lane(0, empty_cache, 0));
    FAILS(null, empty_cache., clone());
    FAILS(null, empty_cache., get_state("ssm_state", y));
    FAILS(null, empty_cache., set_state("ssm_state", x));
    CHECK(empty_cache.batch() == 0 && empty_cache.seqlen_offset() == 0 && empty_cache.bytes() == 0 && empty_cache.states().empty());
    CHECK(FAILS(null, layer., forward(x, empty_params, y)) == "params was moved from; it must hold something");
    FAILS(null, empty_params., reset());
    CHECK(!empty_params.cache(0));
    layer.step(x, cache, y);
}

// ---- Computing ----

TEST(streams_have_the_bits_of_the_whole) {
    const lm::layer layer(small_config());
    const std::size_t d = layer.d_model(), seqlen = 9;
    const floats x = waves(seqlen * d);
    floats whole(x.size()), y(x.size());
    layer.forward(x, 1, whole);

    lm::cache cache(layer, 1);
    const view in(x);
    const place out(y);
    layer.forward(in.first(4 * d), cache, out.first(4 * d));
    CHECK(cache.seqlen_offset() == 4);
    for (std::size_t t = 4; t < seqlen; ++t) layer.step(in.subspan(t * d, d), cache, out.subspan(t * d, d));
    CHECK(same_bits(y, whole));

    floats in_place = x;
    layer.forward(in_place, 1, in_place);
    CHECK(same_bits(in_place, whole));

    cache.reset();
    CHECK(cache.seqlen_offset() == 0);
    std::array<float, 8> a{};
    float c[8] = {};
    std::copy_n(x.begin(), 8, a.begin());
    layer.step(a, cache, c);
    CHECK(same_bits(c, view(whole).first(8)));

    // Nothing is no error.
    floats none;
    layer.forward(none, 1, none);
    layer.forward({}, 0, {});
    layer.forward(none, cache, none);
    layer.step_lanes(none, {}, cache, none);
    const std::vector<std::size_t> empty_sequences(2);
    layer.forward_varlen(none, empty_sequences, cache, none);
    layer.forward_varlen({}, {}, {});
    layer.forward_varlen({}, {}, cache, {});
    lm::cache of_none(layer, 0);
    layer.step(none, of_none, none);
    CHECK(cache.seqlen_offset() == 1);
}

TEST(sizes) {
    lm::config config = small_config();
    config.layer_idx = 0;
    const lm::layer layer(config);
    lm::cache cache(layer, 2);
    lm::inference_params params(2);
    constexpr auto mismatch = status::shape_mismatch;
    const floats x16 = waves(16), x15 = waves(15), x24 = waves(24), x32 = waves(32);
    const floats marked(32, 77);
    floats y = marked;
    const place y16 = place(y).first(16), y15 = place(y).first(15), y24 = place(y).first(24), y32 = place(y);
    const std::vector<std::size_t> lanes = {1};

    CHECK(FAILS(mismatch, layer., forward(x15, 1, y15)) ==
          "x has 15 values; with a batch of 1 and a d_model of 8 it must have a multiple of their product");
    CHECK(FAILS(mismatch, layer., forward(x16, 1, y15)) == "y has 15 values; it must have as many as x, 16");
    FAILS(mismatch, layer., forward(x16, 1, y24));
    FAILS(mismatch, layer., forward(x24, 2, y24));
    FAILS(mismatch, layer., forward(x16, 0, y16));
    FAILS(mismatch, layer., forward(x16, std::numeric_limits<std::size_t>::max(), y16));
    FAILS(mismatch, layer., forward(x16, std::numeric_limits<std::size_t>::max() / 8 + 1, y16)); // 8 times that is 0
    FAILS(mismatch, layer., forward({}, 1, y16));
    FAILS(mismatch, layer., forward(x24, cache, y24));
    FAILS(mismatch, layer., forward(x16, cache, y15));
    FAILS(mismatch, layer., forward(x24, params, y24));
    FAILS(mismatch, layer., forward(x16, params, y15));
    CHECK(FAILS(mismatch, layer., step(x32, cache, y32)) == "x has 32 values; it must have batch * d_model, 2 * 8");
    FAILS(mismatch, layer., step(x15, cache, y16));
    FAILS(mismatch, layer., step(x16, cache, y15));
    FAILS(mismatch, layer., step({}, cache, {}));
    CHECK(FAILS(mismatch, layer., step_lanes(x16, lanes, cache, y16)) ==
          "x has 16 values; it must have lanes.size() * d_model, 1 * 8");
    FAILS(mismatch, layer., step_lanes(view(x16).first(8), lanes, cache, y16));
    FAILS(mismatch, layer., step_lanes(view(x16).first(8), {}, cache, place(y).first(8)));
    CHECK(cache.seqlen_offset() == 0 && same_bits(y, marked) && !params.cache(0));

    // Those that the library finds.
    FAILS(status::invalid_argument, layer., forward(place(y).subspan(4, 16), 1, y16));
    auto wider = small_config();
    wider.d_state = 7;
    lm::cache others(lm::layer(wider), 2);
    FAILS(mismatch, layer., step(x16, others, y16));
    FAILS(mismatch, layer., get_parameter("D", y15));
    FAILS(mismatch, cache., get_state("ssm_state", y15));
    CHECK(same_bits(y, marked));
    fails(status::out_of_memory, [&] { lm::cache huge(layer, std::size_t(1) << 60); },
          [&] { return lm::cache::try_create(layer, std::size_t(1) << 60); });
    const auto no_type = static_cast<lm::dtype>(9);
    const auto refused = fails(status::invalid_argument, [&] { lm::cache none(layer, 1, 0, no_type); },
                               [&] { return lm::cache::try_create(layer, 1, 0, no_type); });
    CHECK(contains(refused, "dtype is 9"));

    const std::vector<std::size_t> two = {0, 1, 2}, falls = {0, 3, 2}, begins_late = {1, 2}, three = {0, 1, 1, 2};
    CHECK(FAILS(mismatch, layer., forward_varlen(x24, two, y24)) ==
          "x has 24 values; it must have the last of cu_seqlens * d_model, 2 * 8");
    CHECK(FAILS(mismatch, layer., forward_varlen(x16, two, y15)) == "y has 15 values; it must have as many as x, 16");
    FAILS(mismatch, layer., forward_varlen(x15, two, y15));
    FAILS(mismatch, layer., forward_varlen(x24, two, cache, y24));
    FAILS(mismatch, layer., forward_varlen({}, two, cache, {}));
    FAILS(mismatch, layer., forward_varlen(x16, {}, y16));
    FAILS(mismatch, layer., forward_varlen(x16, three, cache, y16));
    const std::vector<std::size_t> far = {0, std::numeric_limits<std::size_t>::max() / 8 + 1}; // 8 times that is 0
    FAILS(mismatch, layer., forward_varlen(x16, far, y16));
    CHECK(contains(FAILS(status::invalid_argument, layer., forward_varlen(x16, falls, y16)), "cu_seqlens[2] is 2"));
    CHECK(contains(FAILS(status::invalid_argument, layer., forward_varlen(x16, begins_late, y16)), "cu_seqlens[0] is 1"));
    FAILS(status::invalid_argument, layer., forward_varlen(place(y).subspan(4, 16), two, y16));
    CHECK(cache.seqlen_offset() == 0 && same_bits(y, marked));
}

// A tensor of another library.
template <class T, std::size_t sides>
DLTensor tensor(T* data, std::array<std::int64_t, sides>& shape, std::int64_t* strides = nullptr) {
    DLTensor t{};
    t.data = data;
    t.device.device_type = kDLCPU;
    t.ndim = int(sides);
    t.dtype.code = kDLFloat;
    t.dtype.bits = sizeof(T) * 8;
    t.dtype.lanes = 1;
    t.shape = shape.data();
    t.strides = strides;
    return t;
}

TEST(tensors_of_other_libraries) {
    const lm::layer layer(small_config());
    const std::size_t batch = 2, seqlen = 3, d = layer.d_model();
    floats x = waves(batch * seqlen * d), y(x.size()), expected(x.size());
    layer.forward(x, batch, expected);
    std::array<std::int64_t, 3> shape = {2, 3, 8};
    layer.forward_dlpack(tensor(x.data(), shape), tensor(y.data(), shape));
    CHECK(same_bits(y, expected));

    // Doubles, the token first.
    std::array<std::int64_t, 3> strides = {8, 16, 1};
    std::vector<double> turned(x.size()), result(x.size());
    const auto place_of = [&](std::size_t i) { return (i / d % seqlen * batch + i / d / seqlen) * d + i % d; };
    for (std::size_t i = 0; i < x.size(); ++i) turned[place_of(i)] = double(x[i]);
    layer.forward_dlpack(tensor(turned.data(), shape, strides.data()), tensor(result.data(), shape, strides.data()));
    for (std::size_t i = 0; i < x.size(); ++i) CHECK(result[place_of(i)] == double(expected[i]));

    // With a cache, and token by token, each where it lies.
    lm::cache cache(layer, batch), stepped(layer, batch);
    y.assign(y.size(), 0);
    layer.forward_dlpack(tensor(x.data(), shape), cache, tensor(y.data(), shape));
    CHECK(same_bits(y, expected) && cache.seqlen_offset() == 3);
    y.assign(y.size(), 0);
    std::array<std::int64_t, 2> one = {2, 8};
    std::array<std::int64_t, 2> apart = {24, 1};
    for (std::size_t t = 0; t < seqlen; ++t)
        layer.step_dlpack(tensor(&x[t * d], one, apart.data()), stepped, tensor(&y[t * d], one, apart.data()));
    CHECK(same_bits(y, expected) && stepped.save() == cache.save());

    // Refused, with nothing changed.
    const DLTensor good = tensor(x.data(), shape), out = tensor(y.data(), shape), token = tensor(x.data(), one);
    DLTensor bad = good;
    bad.dtype.bits = 8;
    FAILS(status::unsupported, layer., forward_dlpack(bad, out));
    bad = good;
    bad.device.device_type = kDLMetal;
    FAILS(status::invalid_argument, layer., forward_dlpack(bad, out));
    FAILS(status::shape_mismatch, layer., forward_dlpack(token, token));
    FAILS(status::shape_mismatch, layer., step_dlpack(good, cache, out));
    lm::cache single(layer, 1);
    FAILS(status::shape_mismatch, layer., forward_dlpack(good, single, out));
    FAILS(status::shape_mismatch, layer., step_dlpack(token, single, token));
    { lm::cache taken = std::move(single); }
    CHECK(FAILS(status::null_pointer, layer., forward_dlpack(good, single, out)) == "cache was moved from; it must hold something");
    FAILS(status::null_pointer, layer., step_dlpack(token, single, token));
    lm::layer empty(small_config());
    { lm::layer taken = std::move(empty); }
    FAILS(status::null_pointer, empty., forward_dlpack(good, out));
    FAILS(status::null_pointer, empty., forward_dlpack(good, cache, out));
    FAILS(status::null_pointer, empty., step_dlpack(token, cache, token));
    CHECK(same_bits(y, expected) && cache.seqlen_offset() == 3);
}

// ---- Caches ----

TEST(caches) {
    const lm::layer layer(small_config());
    const std::size_t d = layer.d_model();
    lm::cache cache(layer, 2, 100, lm::dtype::f32);
    const floats x = waves(2 * d), x2 = waves(2 * d, 1);
    floats y(2 * d), y2(2 * d), expected(2 * d);
    CHECK(cache.batch() == 2 && cache.bytes() > 0);
    layer.step(x, cache, y);

    lm::cache fork = cache.clone();
    layer.step(x2, cache, expected);
    CHECK(fork.seqlen_offset() == 1 && cache.seqlen_offset() == 2);
    layer.step(x2, fork, y);
    CHECK(same_bits(y, expected));

    // A state goes out and into another cache.
    const auto states = cache.states();
    CHECK(states.size() == 3 && states.back().name == "ssm_state" && states[1].name == "conv_state.1");
    CHECK((states.back().shape == std::vector<std::size_t>{2, 16, 16}) && states.back().count == 512);
    CHECK(states[0].dtype == lm::dtype::f32 && !states[0].weight_decay && states[1].shape[2] == 10);
    lm::cache copy(layer, 2);
    for (const char* name : {"ssm_state", "conv_state.1"}) copy.set_state(name, state_of(cache, name));
    layer.step(x, cache, expected);
    layer.step(x, copy, y);
    CHECK(same_bits(y, expected));
    FAILS(status::not_found, cache., get_state("conv_state.9", y));
    FAILS(status::not_found, cache., set_state("other", x));
    CHECK(FAILS(status::invalid_argument, cache., get_state(std::string("ssm_state\0x", 11), y)) ==
          "name has a NUL at byte 9; it must have none");
    FAILS(status::invalid_argument, cache., set_state(std::string(1, '\0'), x));

    // Lanes.
    cache.reset();
    const std::vector<std::size_t> second = {1};
    layer.step_lanes(view(x).first(d), second, cache, place(y).first(d));
    lm::cache single(layer, 1);
    layer.step(view(x).first(d), single, place(y2).first(d));
    CHECK(same_bits(view(y).first(d), view(y2).first(d)));
    cache.copy_lane(0, single, 0);
    layer.step(view(x2).first(d), single, place(expected).first(d));
    floats both(x2.begin(), x2.begin() + 8);
    both.insert(both.end(), x2.begin(), x2.begin() + 8);
    layer.step(both, cache, both);
    CHECK(same_bits(view(both).first(d), view(both).last(d)) && same_bits(view(both).first(d), view(expected).first(d)));
    cache.reset_lane(0);
    const floats history = state_of(cache, "ssm_state");
    CHECK(history[0] == 0 && history.back() != 0);
    CHECK(contains(FAILS(status::invalid_argument, cache., reset_lane(2)), "lane is 2"));
    FAILS(status::invalid_argument, cache., copy_lane(0, single, 1));
    const std::vector<std::size_t> twice = {1, 1}, outside = {2};
    FAILS(status::invalid_argument, layer., step_lanes(x, twice, cache, y));
    FAILS(status::invalid_argument, layer., step_lanes(view(x).first(d), outside, cache, place(y).first(d)));

    // A reference is the same cache.
    lm::cache_ref reference = cache;
    const auto before = cache.seqlen_offset();
    layer.step(x, reference, y);
    CHECK(cache.seqlen_offset() == before + 1 && reference.native_handle() == cache.native_handle());
    lm::cache_ref from_c(cache.native_handle());
    from_c.reset();
    CHECK(cache.seqlen_offset() == 0);
    CHECK(lm_cache_batch(std::as_const(cache).native_handle()) == 2);
}

TEST(packed_sequences_have_the_bits_of_each) {
    for (const auto type : {lm::dtype::f32, lm::dtype::bf16}) {
        auto config = small_config();
        config.dtype = type;
        const lm::layer layer(config);
        const std::size_t d = layer.d_model();
        const std::vector<std::size_t> cu_seqlens = {0, 3, 3, 4, 11};
        const floats x = waves(11 * d);
        floats y(x.size()), expected(x.size());
        for (std::size_t i = 0; i + 1 < cu_seqlens.size(); ++i) {
            const std::size_t at = cu_seqlens[i] * d, size = cu_seqlens[i + 1] * d - at;
            layer.forward(view(x).subspan(at, size), 1, place(expected).subspan(at, size));
        }
        layer.forward_varlen(x, cu_seqlens, y);
        CHECK(same_bits(y, expected));
        floats in_place = x;
        CHECK(layer.try_forward_varlen(in_place, cu_seqlens, in_place));
        CHECK(same_bits(in_place, expected));

        // One that ends here goes on with the cache.
        lm::cache cache(layer, 4), alone(layer, 1);
        layer.forward_varlen(x, cu_seqlens, cache, y);
        CHECK(same_bits(y, expected) && cache.seqlen_offset() == 7);
        const floats tokens = waves(4 * d, 2);
        floats next(4 * d), last(d);
        layer.step(tokens, cache, next);
        layer.forward(view(x).last(7 * d), alone, place(y).last(7 * d));
        layer.step(view(tokens).last(d), alone, last);
        CHECK(same_bits(view(next).last(d), last));
    }
}

TEST(caches_are_saved) {
    const lm::layer layer(small_config());
    lm::cache cache(layer, 2);
    const floats x = waves(32), token = waves(16, 1);
    floats y(32), expected(16), actual(16);
    layer.forward(x, cache, y);
    const std::vector<std::byte> saved = cache.save();
    CHECK(saved.size() == cache.saved_size() && cache.clone().save() == saved);

    lm::cache loaded = lm::cache::load(layer, saved);
    CHECK(loaded.batch() == 2 && loaded.seqlen_offset() == 2 && loaded.dtype() == lm::dtype::f32 && loaded.save() == saved);
    layer.step(token, cache, expected);
    layer.step(token, loaded, actual);
    CHECK(same_bits(actual, expected) && cache.save() != saved && cache.save() == loaded.save());

    // A buffer of one's own, at any alignment.
    std::vector<std::byte> buffer(saved.size() + 2, std::byte{0x5a});
    const lm::span<std::byte> all(buffer);
    CHECK(cache.save(all.subspan(1)) == saved.size());
    CHECK(buffer.front() == std::byte{0x5a} && buffer.back() == std::byte{0x5a});
    CHECK(lm::cache::load(layer, all.subspan(1, saved.size())).seqlen_offset() == 3);
    const auto before = buffer;
    CHECK(contains(FAILS(status::buffer_too_small, cache., save(all.first(saved.size() - 1))), "capacity is"));
    FAILS(status::buffer_too_small, cache., save({}));
    CHECK(buffer == before);

    const auto load_fails = [](status code, const lm::layer& from, lm::span<const std::byte> bytes) {
        return fails(code, [&] { static_cast<void>(lm::cache::load(from, bytes)); },
                     [&] { return lm::cache::try_load(from, bytes); });
    };
    const lm::span<const std::byte> good(saved);
    load_fails(status::format, layer, {});
    load_fails(status::format, layer, good.first(saved.size() - 1));
    CHECK(contains(load_fails(status::format, layer, lm::as_bytes(view(x))), "does not begin like one"));
    auto altered = saved;
    altered.back() ^= std::byte{1};
    CHECK(contains(load_fails(status::format, layer, altered), "checksum"));
    altered = saved;
    altered[8] = std::byte{2};
    CHECK(contains(load_fails(status::unsupported, layer, altered), "version 2"));
    auto other = small_config();
    other.d_state = 7;
    CHECK(contains(load_fails(status::shape_mismatch, lm::layer(other), good), "d_state is 16; this layer's is 7"));
    other = small_config();
    other.dtype = lm::dtype::bf16;
    CHECK(contains(load_fails(status::shape_mismatch, lm::layer(other), good), "dtype"));
}

// Caches and layers of every type.
TEST(types) {
    for (const auto type : {lm::dtype::f32, lm::dtype::f64, lm::dtype::bf16, lm::dtype::f16}) {
        auto config = small_config();
        config.dtype = type;
        const bool is_f64 = type == lm::dtype::f64, is_short = type == lm::dtype::bf16 || type == lm::dtype::f16;
        lm::layer layer(config);
        CHECK(layer.config().dtype == type);
        CHECK(layer.find_parameter("in_proj.weight").dtype == type);
        CHECK(layer.find_parameter("D").dtype == (is_short ? lm::dtype::f32 : type));
        CHECK(lm::cache(layer, 1).dtype() == (is_f64 ? lm::dtype::f64 : lm::dtype::f32));

        std::vector<std::size_t> bytes;
        for (const auto held : {lm::dtype::f16, lm::dtype::bf16, lm::dtype::f32, lm::dtype::f64}) {
            lm::cache cache(layer, 1, 0, held);
            floats token = waves(8);
            layer.step(token, cache, token);
            CHECK(cache.dtype() == held && cache.states().back().dtype == held);
            CHECK(lm::cache::load(layer, cache.save()).dtype() == held);
            bytes.push_back(cache.bytes());
        }
        CHECK(bytes[0] == bytes[1] && bytes[3] - bytes[2] == 2 * (bytes[2] - bytes[1]));

        // Values that are in the type or not.
        const double third = 1.0 / 3;
        const std::vector<double> thirds(8 * 32, third);
        std::vector<double> exact(8 * 32);
        layer.set_parameter("in_proj.weight", thirds);
        layer.get_parameter("in_proj.weight", exact);
        CHECK(exact[9] == (is_f64 ? third : type == lm::dtype::f32 ? double(1.0F / 3) : type == lm::dtype::bf16 ? 0.333984375 : 0.333251953125));
        std::vector<std::uint16_t> bits(8 * 32);
        layer.get_parameter("in_proj.weight", lm::dtype::bf16, bits);
        CHECK(bits[3] == 0x3EAB);
        layer.get_parameter("in_proj.weight", lm::dtype::f16, bits);
        CHECK(bits[3] == (type == lm::dtype::bf16 ? 0x3558 : 0x3555));
        bits.assign(8 * 32, 0x3C00);
        layer.set_parameter("in_proj.weight", lm::dtype::f16, bits);
        layer.get_parameter("in_proj.weight", exact);
        CHECK(exact[0] == 1 && exact.back() == 1);
        bits.assign(8 * 32, 0xBF80);
        layer.set_parameter("in_proj.weight", lm::dtype::bf16, bits);
        layer.get_parameter("in_proj.weight", exact);
        CHECK(exact[0] == -1 && exact.back() == -1);

        // A file keeps the type.
        const temporary_directory directory;
        layer.save(directory.path / "typed.safetensors");
        const auto loaded = lm::layer::load(directory.path / "typed.safetensors");
        const floats x = waves(24);
        floats y(24), expected(24);
        layer.forward(x, 1, expected);
        loaded.forward(x, 1, y);
        CHECK(loaded.config().dtype == type && same_bits(y, expected));
    }
}

TEST(several_layers) {
    std::vector<lm::layer> layers;
    for (const std::int64_t i : {0, 1}) {
        auto config = small_config();
        config.layer_idx = i;
        config.seed = std::uint64_t(i);
        layers.emplace_back(config);
    }
    lm::inference_params params(2, 10);
    CHECK(params.batch() == 2 && !params.cache(0) && !params.cache(-1));
    const floats x = waves(2 * 3 * 8);
    floats y = x, expected = x;
    for (const auto& layer : layers) {
        layer.forward(y, params, y);
        layer.forward(expected, 2, expected);
    }
    CHECK(same_bits(y, expected));
    auto cache = params.cache(1);
    CHECK(cache && cache->batch() == 2 && cache->seqlen_offset() == 3);
    layers[1].step(view(x).first(16), *cache, place(y).first(16));
    CHECK(params.cache(1)->seqlen_offset() == 4);
    params.reset();
    CHECK(cache->seqlen_offset() == 0 && params.native_handle() != nullptr);

    const lm::layer impostor(layers[0].config()), unnumbered(small_config());
    FAILS(status::invalid_argument, impostor., forward(x, params, y));
    FAILS(status::invalid_argument, unnumbered., forward(x, params, y));
}

// ---- Parameters and files ----

TEST(parameters) {
    lm::layer layer(small_config());
    const auto infos = layer.parameters();
    CHECK(infos.size() > 8);
    for (const auto& info : infos) {
        std::size_t count = 1;
        for (const std::size_t size : info.shape) count *= size;
        CHECK_THAT(count == info.count && info.dtype == lm::dtype::f32, info.name);
        if (info.name == "A_log" || info.name == "in_proj.weight")
            CHECK(info.weight_decay == (info.name == "in_proj.weight"));
        floats values(info.count), back(info.count);
        layer.get_parameter(info.name, values);
        for (float& value : values) value += 0.25F;
        layer.set_parameter(info.name, values);
        layer.get_parameter(info.name, back);
        CHECK_THAT(same_bits(back, values), info.name);
    }

    std::vector<double> exact(16, 0.5);
    std::vector<std::uint16_t> half(16);
    layer.set_parameter("D", lm::dtype::f64, lm::as_bytes(lm::span(exact)));
    layer.get_parameter("D", lm::dtype::bf16, lm::as_writable_bytes(lm::span(half)));
    CHECK(half[7] == 0x3F00);
    exact.assign(16, 0);
    layer.get_parameter("D", lm::dtype::f64, lm::as_writable_bytes(lm::span(exact)));
    CHECK(exact[15] == 0.5);

    const lm::tensor_info found = layer.find_parameter("conv1d.weight");
    CHECK(found.name == "conv1d_layers.0.weight" && (found.shape == std::vector<std::size_t>{16, 1, 4}));
    CHECK(found.count == 64 && found.dtype == lm::dtype::f32 && found.weight_decay);

    // The other name of branch 0.
    floats one(8 * 2 * 4), two(one.size());
    layer.get_parameter("conv1d.weight", one);
    layer.get_parameter("conv1d_layers.0.weight", two);
    CHECK(same_bits(one, two));

    CHECK(contains(FAILS(status::not_found, layer., get_parameter("E", one)), "\"E\""));
    FAILS(status::not_found, layer., set_parameter("E", one));
    FAILS(status::shape_mismatch, layer., set_parameter("D", one));
    FAILS(status::shape_mismatch, layer., set_parameter("D", lm::dtype::f64, lm::as_bytes(lm::span(one))));
    FAILS(status::invalid_argument, layer., get_parameter("D", static_cast<lm::dtype>(9), lm::as_writable_bytes(lm::span(exact))));
    FAILS(status::invalid_argument, layer., get_parameter(std::string("D\0", 2), one));
    CHECK(contains(FAILS(status::not_found, layer., find_parameter("E")), "\"E\""));
    FAILS(status::invalid_argument, layer., find_parameter(std::string("D\0", 2)));
    FAILS(status::shape_mismatch, layer., get_parameter("D", lm::span(exact).first(15)));
    FAILS(status::shape_mismatch, layer., set_parameter("D", lm::span(exact).first(15)));
    FAILS(status::shape_mismatch, layer., get_parameter("D", lm::dtype::f16, lm::span(half).first(15)));
    FAILS(status::shape_mismatch, layer., set_parameter("D", lm::dtype::f16, lm::span(half).first(15)));
    std::vector<std::uint16_t> as_many_bytes(32);
    CHECK(FAILS(status::invalid_argument, layer., get_parameter("D", lm::dtype::f32, as_many_bytes)) ==
          "dtype is 1; for values of 16 bits it must be bf16 or f16");
    FAILS(status::invalid_argument, layer., set_parameter("D", lm::dtype::default_, as_many_bytes));
    layer.get_parameter("D", exact);
    CHECK(exact[15] == 0.5);
}

TEST(files) {
    const temporary_directory directory;
    const auto path = directory.path / std::filesystem::u8path("kept \xC3\xA4.safetensors");
    const lm::layer layer(small_config());
    layer.save(path);
    CHECK(std::filesystem::exists(path));
    const floats x = waves(24);
    floats y(24), expected(24);
    layer.forward(x, 1, expected);

    lm::layer::load(path).forward(x, 1, y);
    CHECK(same_bits(y, expected));
    lm::layer::load(path.string(), "", small_config()).forward(x, 1, y);
    CHECK(same_bits(y, expected));
    std::ifstream file(path, std::ios::binary);
    const std::string content{std::istreambuf_iterator<char>(file), {}};
    const lm::layer from_memory = lm::layer::load_memory(lm::as_bytes(lm::span(content)));
    from_memory.forward(x, 1, y);
    CHECK(same_bits(y, expected) && from_memory.config().conv_dilations == small_config().conv_dilations);

    using lm::layer;
    const std::string text = path.string();
    CHECK(contains(FAILS(status::io, layer::, load(directory.path / "absent")), "absent"));
    FAILS(status::not_found, layer::, load(path, "backbone"));
    CHECK(contains(FAILS(status::not_found, layer::, load_memory(lm::as_bytes(lm::span(content)), "backbone")), "backbone"));
    FAILS(status::format, layer::, load_memory(lm::as_bytes(lm::span(content)).first(100)));
    FAILS(status::format, layer::, load_memory({}));
    auto wider = small_config();
    wider.d_state = 7;
    FAILS(status::shape_mismatch, layer::, load(path, "", wider));
    FAILS(status::invalid_argument, layer::, load(std::string("a\0b", 3)));
    FAILS(status::invalid_argument, layer::, load(path, std::string("a\0b", 3)));
    const lm::layer saved(small_config());
    FAILS(status::io, saved., save(directory.path / "no such directory" / "x"));
    FAILS(status::invalid_argument, saved., save(std::string("a\0b", 3)));
}
