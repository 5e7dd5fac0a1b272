//go:build litemamba_static

package litemamba

// The archive comes first and leaves nothing to be found in the shared library beside it, which is then not
// needed.

// #cgo pkg-config: --static lite_mamba
// #cgo LDFLAGS: -l:liblite_mamba.a -Wl,--as-needed
import "C"
