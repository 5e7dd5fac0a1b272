#include "check.hpp"

// Runs the tests whose names begin with the argument, or all.
int main(int argc, char** argv) {
    const std::string wanted = argc > 1 ? argv[1] : "";
    int run = 0;
    for (const test& test : test::all()) {
        if (std::string(test.name).compare(0, wanted.size(), wanted) != 0) continue;
        test.run();
        ++run;
    }
    CHECK_THAT(run > 0, wanted);
    std::printf("%d tests\n", run);
}
