// SPDX-License-Identifier: Apache-2.0

import CLiteMamba
import Foundation
import Testing

/// Leaks, if asked to: `test.sh` makes sure that its leak detector would notice.
@Test(.enabled(if: ProcessInfo.processInfo.environment["LITE_MAMBA_TEST_LEAK"] != nil))
func plantedLeak() {
    var config = lm_config()
    #expect(lm_config_init(&config, MemoryLayout<lm_config>.size) == 0)
    config.d_model = 8
    var layer: OpaquePointer?
    #expect(lm_create(&config, &layer) == 0)
}
