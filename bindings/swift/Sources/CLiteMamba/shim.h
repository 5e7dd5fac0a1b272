#include <lite_mamba.h>
