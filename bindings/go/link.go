//go:build !litemamba_static

package litemamba

// #cgo pkg-config: lite_mamba
import "C"
