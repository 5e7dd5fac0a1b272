/* The header needs no other, and bears being included twice. */
#include <lite_mamba.h>
#include <lite_mamba.h>

#if LM_VERSION_MAJOR < 0 || LM_VERSION_MINOR < 0 || LM_VERSION_PATCH < 0 || LM_ABI_VERSION < 1
#error "versions can be compared by the preprocessor"
#endif

int main(void) {
    lm_config config = {0};
    lm_status status = lm_config_init(&config, sizeof config);
    return status == LM_OK && config.struct_size == sizeof config && config.conv_bias == true ? 0 : 1;
}
