//go:build race || asan

package litemamba_test

const sanitized = true
