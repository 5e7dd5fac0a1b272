// Must not compile where warnings are errors: what a try_ function returns has to be looked at.
#include <lite_mamba.hpp>

void forgetful(lite_mamba::cache& cache);

void forgetful(lite_mamba::cache& cache) { cache.try_reset(); }
