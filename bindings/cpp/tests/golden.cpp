// The reference's numbers, of tests/golden.
#include <lite_mamba.hpp>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <set>

#include "check.hpp"

namespace {

constexpr double bound = 1e-5;

struct tensor {
    std::vector<std::size_t> shape;
    std::vector<float> values;
};

using tensors = std::map<std::string, tensor>;

// Of a safetensors file as make_golden.py writes it.
tensors read_safetensors(const std::filesystem::path& path) {
    std::ifstream file(path, std::ios::binary);
    const std::string content{std::istreambuf_iterator<char>(file), {}};
    CHECK_THAT(content.size() > 8, path.string());
    std::uint64_t header_size = 0;
    std::memcpy(&header_size, content.data(), sizeof header_size); // little-endian, as is whatever runs this
    const std::string header = content.substr(8, header_size);
    const char* const data = content.data() + 8 + header_size;
    const std::size_t data_size = content.size() - 8 - header_size;

    // "name": {"data_offsets": [0, 8], "dtype": "F32", "shape": [1, 2]}
    static const std::string before = "\": {\"data_offsets\": [", between = "], \"dtype\": \"F32\", \"shape\": [";
    tensors all;
    for (std::size_t at = 0; (at = header.find(before, at)) != std::string::npos;) {
        const std::size_t quote = header.rfind('"', at - 1);
        const std::string name = header.substr(quote + 1, at - quote - 1);
        const char* text = header.c_str() + (at += before.size());
        const auto number = [&text] {
            char* end = nullptr;
            const auto value = std::strtoull(text, &end, 10);
            text = end;
            return std::size_t(value);
        };
        const std::size_t first = number();
        text += 2;
        const std::size_t last = number();
        CHECK_THAT(between.compare(0, between.size(), text, between.size()) == 0, name);
        text += between.size();
        tensor& t = all[name];
        std::size_t count = 1;
        for (; *text != ']'; text += *text == ',' ? 2 : 0) count *= t.shape.emplace_back(number());
        CHECK_THAT(last <= data_size && last - first == count * sizeof(float), path.string() + " " + name);
        t.values.resize(count);
        std::memcpy(t.values.data(), data + first, last - first);
    }
    return all;
}

// max|a - b| / max|b|; see tests/common/mod.rs.
double relative_error(const std::vector<float>& actual, const std::vector<float>& expected) {
    CHECK(actual.size() == expected.size());
    double difference = 0, scale = 0;
    for (std::size_t i = 0; i < actual.size(); ++i) {
        const double a = double(actual[i]), b = double(expected[i]);
        if (a == b && std::isinf(b)) continue;
        if (!std::isfinite(a) || !std::isfinite(b)) return HUGE_VAL;
        difference = std::fmax(difference, std::fabs(a - b));
        scale = std::fmax(scale, std::fabs(b));
    }
    return scale == 0 ? difference : difference / scale;
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
    return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

} // namespace

TEST(golden) {
    int cases = 0;
    std::set<std::string> compared;
    double worst = 0;
    for (const auto& file : std::filesystem::directory_iterator(setting("ROOT") + "/tests/golden")) {
        if (file.path().extension() != ".safetensors") continue;
        ++cases;
        const std::string name = file.path().stem().string();
        const tensors expected = read_safetensors(file.path());
        const auto agrees = [&](const std::string& what, const std::vector<float>& actual) {
            const double error = relative_error(actual, expected.at(what).values);
            CHECK_THAT(error <= bound, name + ": " + what + " is off by " + std::to_string(error / bound) + " bounds");
            worst = std::fmax(worst, error);
            compared.insert(what);
        };

        const auto layer = lite_mamba::layer::load(file.path(), "layer");
        const tensor& x = expected.at("x");
        const std::size_t batch = x.shape[0], seqlen = x.shape[1], d_model = x.shape[2];
        CHECK_THAT(layer.d_model() == d_model, name);

        std::vector<float> y(x.values.size());
        layer.forward(x.values, batch, y);
        agrees("y", y);

        lite_mamba::cache cache(layer, batch);
        std::vector<float> stepped(y.size()), token(batch * d_model);
        for (std::size_t t = 0; t < seqlen; ++t) {
            const auto row = [&](std::size_t lane) { return (lane * seqlen + t) * d_model; };
            for (std::size_t lane = 0; lane < batch; ++lane)
                std::copy_n(&x.values[row(lane)], d_model, &token[lane * d_model]);
            layer.step(token, cache, token);
            for (std::size_t lane = 0; lane < batch; ++lane)
                std::copy_n(&token[lane * d_model], d_model, &stepped[row(lane)]);
        }
        CHECK_THAT(same_bits(stepped, y), name);
        CHECK_THAT(cache.seqlen_offset() == seqlen, name);
        if (expected.count("y_step") != 0) agrees("y_step", stepped);
        CHECK_THAT(expected.count("y_step") != 0 || seqlen > 131, name);

        std::size_t states = 0;
        for (const auto& state : cache.states()) {
            CHECK_THAT(state.shape == expected.at(state.name).shape, name + ": " + state.name);
            std::vector<float> values(state.count);
            cache.get_state(state.name, values);
            agrees(state.name, values);
            ++states;
        }
        CHECK_THAT(states == layer.config().conv_dilations.size() + 1, name);
    }
    CHECK_THAT(cases >= 30, std::to_string(cases) + " golden files");
    for (const char* what : {"y", "y_step", "ssm_state", "conv_state.0", "conv_state.1"}) CHECK_THAT(compared.count(what) == 1, what);
    std::printf("%d golden files, the largest relative error %.2g\n", cases, worst);
}
