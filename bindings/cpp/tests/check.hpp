// As much of a test framework as these tests need: it works without exceptions too, and ends with the first failure.
#ifndef LITE_MAMBA_TESTS_CHECK_HPP
#define LITE_MAMBA_TESTS_CHECK_HPP

#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

struct test {
    const char* name;
    void (*run)();

    static std::vector<test>& all() {
        static std::vector<test> tests;
        return tests;
    }
};

#define TEST(name)                                                                                                     \
    static void name();                                                                                                \
    static const bool name##_is_listed = (test::all().push_back({#name, name}), true);                                 \
    static void name()

#define CHECK(condition) ((condition) ? void() : check_failed(__FILE__, __LINE__, #condition, ""))
// With words that say which case of many it was.
#define CHECK_THAT(condition, words) ((condition) ? void() : check_failed(__FILE__, __LINE__, #condition, words))

[[noreturn]] inline void check_failed(const char* file, int line, const char* what, const std::string& words) {
    std::fflush(stdout);
    std::fprintf(stderr, "%s:%d: FAILED: %s  %s\n", file, line, what, words.c_str());
    std::_Exit(1);
}

// What test.sh tells.
inline std::string setting(const char* name) {
    const char* value = std::getenv(name);
    CHECK_THAT(value != nullptr, name);
    return value;
}

#endif
