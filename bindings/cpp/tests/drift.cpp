// The C header that was installed has nothing that the C++ header lacks or says otherwise.
#include <lite_mamba.hpp>

#include <cctype>
#include <fstream>
#include <iterator>
#include <map>
#include <regex>
#include <set>
#include <sstream>

#include "check.hpp"

namespace {

std::string content(const std::string& path) {
    std::ifstream file(path);
    const std::string text{std::istreambuf_iterator<char>(file), {}};
    CHECK_THAT(!text.empty(), path);
    return text;
}

std::string without_comments(const std::string& code) {
    static const std::regex line_comment("//.*");
    std::string text = std::regex_replace(code, line_comment, "");
    for (std::size_t first; (first = text.find("/*")) != std::string::npos;) text.erase(first, text.find("*/", first) + 2 - first);
    return text;
}

// What the tests are about: the header of the prefix, unless an altered one is to be found out.
std::string c_header() {
    const char* altered = std::getenv("LITE_MAMBA_H");
    return without_comments(content(altered != nullptr ? altered : setting("PREFIX") + "/include/lite_mamba.h"));
}

using enumerators = std::map<std::string, long long>;

std::map<std::string, enumerators> c_enumerations() {
    static const std::regex begin("typedef enum (\\w+) \\{"), value("\\s*(LM_\\w+) = (\\d+),"), end("\\} \\w+;");
    std::map<std::string, enumerators> all;
    enumerators* current = nullptr;
    std::istringstream lines(c_header());
    std::smatch match;
    for (std::string line; std::getline(lines, line);) {
        if (std::regex_match(line, match, begin))
            current = &all[match[1]];
        else if (std::regex_match(line, end))
            current = nullptr;
        else if (current != nullptr && std::regex_match(line, match, value))
            (*current)[match[1]] = std::stoll(match[2]);
    }
    return all;
}

// ptcn is LM_VARIANT_PTCN, default_ LM_DTYPE_DEFAULT.
std::string c_name(const std::string& prefix, const std::string& name) {
    std::string upper = prefix;
    for (const char c : name) upper += char(std::toupper(static_cast<unsigned char>(c)));
    if (upper.back() == '_') upper.pop_back();
    return upper;
}

} // namespace

TEST(drift_of_values) {
    std::map<std::string, enumerators> ours;
#define ENUMERATOR(c_enumeration, prefix, enumeration, name)                                                          \
    ours[c_enumeration][c_name(prefix, #name)] = static_cast<long long>(lite_mamba::enumeration::name)
#define STATUS(name) ENUMERATOR("lm_status_code", "LM_ERR_", status, name)
    ENUMERATOR("lm_status_code", "LM_", status, ok);
    STATUS(null_pointer);
    STATUS(invalid_config);
    STATUS(invalid_argument);
    STATUS(shape_mismatch);
    STATUS(unsupported);
    STATUS(not_found);
    STATUS(io);
    STATUS(format);
    STATUS(out_of_memory);
    STATUS(buffer_too_small);
    STATUS(cuda);
    STATUS(internal);
#define VARIANT(name) ENUMERATOR("lm_variant", "LM_VARIANT_", variant, name)
    VARIANT(ptcn);
    VARIANT(stcn);
    VARIANT(dpwc);
    VARIANT(baseline);
#define DTYPE(name) ENUMERATOR("lm_dtype", "LM_DTYPE_", dtype, name)
    DTYPE(default_);
    DTYPE(f32);
    DTYPE(f64);
    DTYPE(bf16);
    DTYPE(f16);
#define DEVICE(name) ENUMERATOR("lm_device", "LM_DEVICE_", device, name)
    DEVICE(cpu);
    DEVICE(cuda);
#define MATH(name) ENUMERATOR("lm_math", "LM_MATH_", math, name)
    MATH(default_);
    MATH(tf32);
#define DT_INIT(name) ENUMERATOR("lm_dt_init", "LM_DT_INIT_", dt_init, name)
    DT_INIT(random);
    DT_INIT(constant);

    const auto theirs = c_enumerations();
    const auto subset = [](const std::map<std::string, enumerators>& a, const std::map<std::string, enumerators>& b, const char* where) {
        for (const auto& [enumeration, values] : a) {
            CHECK_THAT(b.count(enumeration) == 1, enumeration + " is not in " + where);
            for (const auto& [name, value] : values) {
                const auto& others = b.at(enumeration);
                CHECK_THAT(others.count(name) == 1, name + " is not in " + where);
                CHECK_THAT(others.at(name) == value, name + " differs");
            }
        }
    };
    subset(theirs, ours, "lite_mamba.hpp");
    subset(ours, theirs, "lite_mamba.h");

    for (const auto& [name, value] : ours["lm_status_code"])
        CHECK(lite_mamba::status_name(static_cast<lite_mamba::status>(value)) == name);
}

TEST(drift_of_functions) {
    static const std::regex function("\\b(lm_[a-z0-9_]+)\\s*\\(");
    const std::string c = c_header();
    const std::string ours = without_comments(content(setting("PREFIX") + "/include/lite_mamba.hpp"));
    std::set<std::string> declared;
    for (std::sregex_iterator match(c.begin(), c.end(), function), end; match != end; ++match) declared.insert((*match)[1]);
    CHECK(declared.size() >= 48);
    for (const std::string& name : declared)
        CHECK_THAT(std::regex_search(ours, std::regex("\\b" + name + "\\b")), name + " is not called in lite_mamba.hpp");
}
