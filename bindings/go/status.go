package litemamba

// #include "shim.h"
import "C"

import (
	"errors"
	"fmt"
	"unsafe"
)

// A Status is the kind of an error, a number of the library's lm_status_code. It is itself an error, for
// use with [errors.Is]; a later version of the library may return numbers that are not listed here.
type Status int32

// The library's status codes.
const (
	OK                 Status = 0  // Success; never the code of an error.
	ErrNullPointer     Status = 1  // An argument is nil that must not be.
	ErrInvalidConfig   Status = 2  // A field of the configuration is out of its range, or contradicts another.
	ErrInvalidArgument Status = 3  // Another argument is out of its range.
	ErrShapeMismatch   Status = 4  // Sizes do not fit together: a cache of another layer's shape or batch, a wrong number of values.
	ErrUnsupported     Status = 5  // Valid, but not something this version or this build can do. Also an [errors.ErrUnsupported].
	ErrNotFound        Status = 6  // No such parameter, state or tensor.
	ErrIO              Status = 7  // A file could not be opened, read or written.
	ErrFormat          Status = 8  // A file's content is not what it must be.
	ErrOutOfMemory     Status = 9  // More memory was asked for than can be had.
	ErrBufferTooSmall  Status = 10 // The buffer given is too small for the result.
	ErrCUDA            Status = 11 // The GPU, its driver or its memory: missing, too old or out of it.
	ErrInternal        Status = 12 // A bug of the library. The cache used refuses all further use until [Cache.Reset].
)

// String returns the code's name in C, such as "LM_ERR_IO".
func (s Status) String() string { return C.GoString(C.lm_status_name(C.lm_status(s))) }

// Error returns the code's name in C; the sentence that goes with a failure is in [Error].
func (s Status) Error() string { return "litemamba: " + s.String() }

// Is makes [ErrUnsupported] match [errors.ErrUnsupported].
func (s Status) Is(target error) bool { return s == ErrUnsupported && target == errors.ErrUnsupported }

// An Error is a call that failed. [errors.Is] compares its code, and [errors.As] finds it, or the code as a
// [Status].
type Error struct {
	Code    Status
	Message string // one sentence: the argument, what it was and what it must be
}

// Error returns the sentence, with the package's name before it.
func (e *Error) Error() string { return "litemamba: " + e.Message }

// Unwrap returns the code.
func (e *Error) Unwrap() error { return e.Code }

// ErrClosed is what the use of a closed [Layer], [Cache] or [InferenceParams] fails with, and that of one
// which no constructor has made.
var ErrClosed = errors.New("litemamba: use of a closed handle")

var (
	errLayerClosed  = fmt.Errorf("%w: the layer", ErrClosed)
	errCacheClosed  = fmt.Errorf("%w: the cache", ErrClosed)
	errParamsClosed = fmt.Errorf("%w: the inference params", ErrClosed)
)

// check turns the result of a C call into an error, and frees its message.
func check(result C.lmgo_result) error {
	if result.status == C.LM_OK {
		return nil
	}
	defer C.free(unsafe.Pointer(result.message))
	return &Error{Code: Status(result.status), Message: C.GoString(result.message)}
}
