// lite-mamba for C++17 and later: a header over the C interface of lite_mamba.h and nothing else.
//
// SPDX-License-Identifier: Apache-2.0
//
// EXAMPLE
//
//     lite_mamba::config config;                      // the reference's defaults
//     config.d_model = 64;
//     config.conv_dilations = {1, 2, 4};
//
//     const lite_mamba::layer layer(config);          // or layer::load("model.safetensors", "backbone.0")
//     lite_mamba::cache cache(layer, 1);              // the state of one stream
//     std::vector<float> x(64), y(64);
//     layer.step(x, cache, y);                        // one token in, one token out
//
// ERRORS
//
// Every operation that can fail has two forms. forward() throws lite_mamba::error; try_forward() returns a
// result<void> that must be looked at. Both carry the library's status code and its message: one sentence that
// names the argument, what it was and what it must be. A call that fails has changed nothing (status::internal, a
// bug of the library, apart).
//
// The try_ functions serve under -fno-exceptions and -fno-rtti. Where exceptions are off, the forms that would throw
// print the message and abort, as the standard library's do. Functions that make a std::vector or a std::string are
// not noexcept, whichever their form, since std::bad_alloc may leave them; every other try_ function is.
//
// SIZES
//
// Numbers are passed as spans (or as DLPack's tensors, as other libraries have them), which know their sizes; so a call is told neither seqlen nor the batch of a cache. Sizes
// that do not fit are status::shape_mismatch, found before anything is read. Tensors are contiguous and row-major:
// (batch, seqlen, d_model) means that the last index varies fastest. x and y of one call may be the same buffer.
//
// THREADS
//
// const is what it is in the standard library: any number of threads may call const member functions of one object at
// the same time; a call of any other member function must be the only use of its object meanwhile. So many threads
// share one layer, and a cache belongs to one thread at a time, whichever that is. Different objects are independent.
//
// OWNERSHIP
//
// layer, cache and inference_params own their handles: they can be moved and not copied. One that was moved from may be
// destroyed or assigned to; other calls fail with status::null_pointer. Handles may be destroyed in any order. A
// cache_ref owns nothing, and ends with what it refers to.
#ifndef LITE_MAMBA_HPP
#define LITE_MAMBA_HPP

#if __cplusplus < 201703L && (!defined(_MSVC_LANG) || _MSVC_LANG < 201703L)
#error "lite_mamba.hpp needs C++17"
#endif

#include "lite_mamba.h"

#if __has_include(<version>)
#include <version>
#endif

#include <cassert>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <iterator>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#ifdef __cpp_lib_span
#include <span>
#endif

namespace lite_mamba {

// One program may mix translation units with and without exceptions: the linker must not take an inline function that
// aborts for its namesake that throws.
#ifndef __cpp_exceptions
inline namespace without_exceptions {
#endif

// ---- Spans ----------------------------------------------------------------------------------------------------------

#ifdef __cpp_lib_span

using std::as_bytes;
using std::as_writable_bytes;
using std::span;

#else

/// A view of contiguous values: std::span where there is one, else as much of it as is needed here.
template <class T>
class span {
    template <class Range>
    using pointer_of = decltype(std::data(std::declval<Range&>()));

    // Not from derived to base, and not from temporaries that would be written to.
    template <class Range, class Pointer = pointer_of<Range>, class = decltype(std::size(std::declval<Range&>()))>
    static constexpr bool viewable =
        std::is_convertible_v<std::remove_pointer_t<Pointer> (*)[], T (*)[]> &&
        (std::is_lvalue_reference_v<Range> || std::is_const_v<T>);

public:
    using element_type = T;
    using value_type = std::remove_cv_t<T>;
    using size_type = std::size_t;
    using difference_type = std::ptrdiff_t;
    using pointer = T*;
    using reference = T&;
    using iterator = T*;

    /// Of no values.
    constexpr span() noexcept = default;

    /// Of size values at data.
    constexpr span(T* data, std::size_t size) noexcept : data_(data), size_(size) {}

    /// Of the values of an array, or of a vector, std::array, string, span or whatever else has data and size.
    template <class Range, std::enable_if_t<!std::is_same_v<std::decay_t<Range>, span> && viewable<Range>, int> = 0>
    constexpr span(Range&& range) noexcept : data_(std::data(range)), size_(std::size(range)) {}

    /// The first value; may be null where there are none.
    [[nodiscard]] constexpr T* data() const noexcept { return data_; }
    /// Number of values.
    [[nodiscard]] constexpr std::size_t size() const noexcept { return size_; }
    /// Size of all values in bytes.
    [[nodiscard]] constexpr std::size_t size_bytes() const noexcept { return size_ * sizeof(T); }
    /// Whether there are no values.
    [[nodiscard]] constexpr bool empty() const noexcept { return size_ == 0; }
    /// The first of the values.
    [[nodiscard]] constexpr T* begin() const noexcept { return data_; }
    /// One past the last.
    [[nodiscard]] constexpr T* end() const noexcept { return data_ + size_; }
    /// A value; index must be below size.
    [[nodiscard]] constexpr T& operator[](std::size_t index) const noexcept { return data_[index]; }
    /// The first count values; there must be as many.
    [[nodiscard]] constexpr span first(std::size_t count) const noexcept { return {data_, count}; }
    /// The last count values; there must be as many.
    [[nodiscard]] constexpr span last(std::size_t count) const noexcept { return {data_ + (size_ - count), count}; }
    /// The count values from offset on, or all of them; there must be as many.
    [[nodiscard]] constexpr span subspan(std::size_t offset, std::size_t count = static_cast<std::size_t>(-1)) const noexcept {
        return {data_ + offset, count == static_cast<std::size_t>(-1) ? size_ - offset : count};
    }

private:
    T* data_ = nullptr;
    std::size_t size_ = 0;
};

template <class T>
span(T*, std::size_t) -> span<T>;
template <class Range>
span(Range&&) -> span<std::remove_pointer_t<decltype(std::data(std::declval<Range&>()))>>;

/// The bytes of values.
template <class T>
[[nodiscard]] span<const std::byte> as_bytes(span<T> values) noexcept {
    return {reinterpret_cast<const std::byte*>(values.data()), values.size_bytes()};
}

/// The bytes of values, to be written.
template <class T, std::enable_if_t<!std::is_const_v<T>, int> = 0>
[[nodiscard]] span<std::byte> as_writable_bytes(span<T> values) noexcept {
    return {reinterpret_cast<std::byte*>(values.data()), values.size_bytes()};
}

#endif

// ---- Enumerations ---------------------------------------------------------------------------------------------------

/// What a call came to. Converts to std::error_code, which compares with std::errc where that has a likeness. A later
/// version of the library may give values that are not here.
enum class status : lm_status {
    ok = LM_OK,                                     ///< Success.
    null_pointer = LM_ERR_NULL_POINTER,             ///< An object that was moved from, or another missing pointer.
    invalid_config = LM_ERR_INVALID_CONFIG,         ///< A field of the configuration is out of range or contradicts another.
    invalid_argument = LM_ERR_INVALID_ARGUMENT,     ///< Another argument is out of its range.
    shape_mismatch = LM_ERR_SHAPE_MISMATCH,         ///< Sizes do not fit together.
    unsupported = LM_ERR_UNSUPPORTED,               ///< Valid, but not something this version or this build can do.
    not_found = LM_ERR_NOT_FOUND,                   ///< No such parameter, state or tensor.
    io = LM_ERR_IO,                                 ///< A file could not be opened, read or written.
    format = LM_ERR_FORMAT,                         ///< A file's content is not what it must be.
    out_of_memory = LM_ERR_OUT_OF_MEMORY,           ///< More memory was asked for than can be had.
    buffer_too_small = LM_ERR_BUFFER_TOO_SMALL,     ///< The buffer given is too small for the result.
    cuda = LM_ERR_CUDA,                             ///< The GPU, its driver or its memory: missing, too old or out of it.
    internal = LM_ERR_INTERNAL,                     ///< A bug of the library.
};

/// How the dilated convolutions are combined into the input of the state space model.
enum class variant : std::uint32_t {
    ptcn = LM_VARIANT_PTCN,         ///< Parallel branches, mixed by softmax gates: `PTCNMamba` and `Mamba`.
    stcn = LM_VARIANT_STCN,         ///< Stacked branches, each fed by the one before, no gates: `STCNMamba`.
    dpwc = LM_VARIANT_DPWC,         ///< Parallel depthwise branches, each followed by a pointwise product: `DPWCMamba`.
    baseline = LM_VARIANT_BASELINE, ///< One convolution of dilation 1: `BaselineMamba`, the block of `state-spaces/mamba`.
};

/// Storage types. Arithmetic is in f32, for f64 in f64, whatever the type. A bf16 or f16 layer keeps `A_log`, `D` and
/// `conv_gates` in f32, as the reference does.
enum class dtype : std::uint32_t {
    default_ = LM_DTYPE_DEFAULT, ///< Where a function allows it: the type that is natural there.
    f32 = LM_DTYPE_F32,          ///< IEEE 754 binary32: float.
    f64 = LM_DTYPE_F64,          ///< IEEE 754 binary64: double.
    bf16 = LM_DTYPE_BF16,        ///< The upper half of a binary32.
    f16 = LM_DTYPE_F16,          ///< IEEE 754 binary16.
};

/// Where parameters, caches and arithmetic live.
enum class device : std::uint32_t {
    cpu = LM_DEVICE_CPU,   ///< The processor.
    cuda = LM_DEVICE_CUDA, ///< The NVIDIA GPU numbered config::device_index.
};

/// The arithmetic of matrix products on a GPU.
enum class math : std::uint32_t {
    default_ = LM_MATH_DEFAULT, ///< The storage type's own.
    tf32 = LM_MATH_TF32,        ///< TF32 for f32 layers on CUDA; without effect elsewhere.
};

/// How `dt_proj.weight` starts.
enum class dt_init : std::uint32_t {
    random = LM_DT_INIT_RANDOM,     ///< Uniform between plus and minus dt_scale / sqrt(dt_rank).
    constant = LM_DT_INIT_CONSTANT, ///< The constant dt_scale / sqrt(dt_rank).
};

// ---- Errors ---------------------------------------------------------------------------------------------------------

/// The name of a status code in the C interface, such as "LM_ERR_IO"; "unknown status" for a number that it lacks.
[[nodiscard]] inline const char* status_name(status code) noexcept {
    return lm_status_name(static_cast<lm_status>(code));
}

/// The std::error_category of status.
[[nodiscard]] inline const std::error_category& status_category() noexcept {
    struct category final : std::error_category {
        const char* name() const noexcept override { return "lite_mamba"; }
        std::string message(int code) const override { return lm_status_name(code); }
        std::error_condition default_error_condition(int code) const noexcept override {
            switch (static_cast<status>(code)) {
            case status::null_pointer:
            case status::invalid_config:
            case status::invalid_argument:
            case status::shape_mismatch: return std::errc::invalid_argument;
            case status::unsupported: return std::errc::not_supported;
            case status::io: return std::errc::io_error;
            case status::out_of_memory: return std::errc::not_enough_memory;
            case status::buffer_too_small: return std::errc::no_buffer_space;
            default: return {code, *this};
            }
        }
    };
    static const category instance;
    return instance;
}

/// Makes a status a std::error_code, also implicitly: `std::error_code code = status::io`.
[[nodiscard]] inline std::error_code make_error_code(status code) noexcept {
    return {static_cast<int>(code), status_category()};
}

/// Why a call failed.
class failure {
public:
    /// A failure with a message, which is copied.
    failure(status code, const char* message) noexcept : code_(code) {
#ifdef __cpp_exceptions
        try {
            message_ = message;
        } catch (...) { // no memory for it: the code has to do
        }
#else
        message_ = message;
#endif
    }

    /// What kind of failure.
    [[nodiscard]] status code() const noexcept { return code_; }

    /// One sentence that names the argument, what it was and what it must be.
    [[nodiscard]] const std::string& message() const noexcept { return message_; }

private:
    status code_;
    std::string message_;
};

/// What is thrown; what() is the message.
class error : public std::runtime_error {
public:
    /// The exception for a failure.
    explicit error(const failure& cause) : std::runtime_error(cause.message()), code_(cause.code()) {}

    /// What kind of failure.
    [[nodiscard]] status code() const noexcept { return code_; }

private:
    status code_;
};

namespace detail {

[[noreturn]] inline void raise(const failure& cause) {
#ifdef __cpp_exceptions
    throw error(cause);
#else
    std::fprintf(stderr, "lite_mamba: %s: %s\n", status_name(cause.code()), cause.message().c_str());
    std::abort();
#endif
}

} // namespace detail

/// A value, or the failure that there is instead: as much of std::expected<T, failure> as is needed here.
template <class T>
class [[nodiscard]] result {
public:
    using value_type = T;
    using error_type = failure;

    /// A success.
    result(T value) noexcept(std::is_nothrow_move_constructible_v<T>) : state_(std::in_place_index<0>, std::move(value)) {}

    /// A failure.
    result(failure cause) noexcept : state_(std::in_place_index<1>, std::move(cause)) {}

    /// Whether there is a value.
    [[nodiscard]] bool has_value() const noexcept { return state_.index() == 0; }
    /// Whether there is a value.
    [[nodiscard]] explicit operator bool() const noexcept { return has_value(); }

    /// The value, which must be there.
    [[nodiscard]] T& operator*() & noexcept { return get(*this); }
    [[nodiscard]] const T& operator*() const& noexcept { return get(*this); }
    [[nodiscard]] T&& operator*() && noexcept { return std::move(get(*this)); }
    /// A member of the value, which must be there.
    [[nodiscard]] T* operator->() noexcept { return &get(*this); }
    [[nodiscard]] const T* operator->() const noexcept { return &get(*this); }

    /// The value. Throws lite_mamba::error if there is none.
    T& value() & { return *required(*this); }
    const T& value() const& { return *required(*this); }
    T value() && { return std::move(*required(*this)); }

    /// The failure, which must be there.
    [[nodiscard]] const failure& error() const& noexcept { return cause(*this); }
    [[nodiscard]] failure&& error() && noexcept { return std::move(cause(*this)); }

private:
    template <class Self>
    static auto& get(Self& self) noexcept {
        assert(self.has_value());
        return *std::get_if<0>(&self.state_);
    }

    template <class Self>
    static auto& cause(Self& self) noexcept {
        assert(!self.has_value());
        return *std::get_if<1>(&self.state_);
    }

    template <class Self>
    static auto* required(Self& self) {
        if (!self.has_value()) detail::raise(self.error());
        return std::get_if<0>(&self.state_);
    }

    std::variant<T, failure> state_;
};

/// Nothing, or the failure that there is instead of success.
template <>
class [[nodiscard]] result<void> {
public:
    using value_type = void;
    using error_type = failure;

    /// A success.
    result() noexcept = default;

    /// A failure.
    result(failure cause) noexcept : cause_(std::move(cause)) {}

    /// Whether it is a success.
    [[nodiscard]] bool has_value() const noexcept { return !cause_.has_value(); }
    /// Whether it is a success.
    [[nodiscard]] explicit operator bool() const noexcept { return has_value(); }

    /// Throws lite_mamba::error unless it is a success.
    void value() const {
        if (cause_) detail::raise(*cause_);
    }

    /// The failure, which must be there.
    [[nodiscard]] const failure& error() const& noexcept {
        assert(cause_);
        return *cause_;
    }
    [[nodiscard]] failure&& error() && noexcept {
        assert(cause_);
        return std::move(*cause_);
    }

private:
    std::optional<failure> cause_;
};

namespace detail {

// The message is the calling thread's, so it is fetched before anything else is called.
inline result<void> checked(lm_status code) noexcept {
    if (code == LM_OK) return {};
    return failure(static_cast<status>(code), lm_last_error());
}

// Text that crosses ends at its first NUL, so it must have no other.
inline result<void> checked(const char* argument, const std::string& text) noexcept {
    const std::size_t end = text.find('\0');
    if (end == std::string::npos) return {};
    char message[96];
    std::snprintf(message, sizeof message, "%s has a NUL at byte %zu; it must have none", argument, end);
    return failure(status::invalid_argument, message);
}

inline failure moved_from(const char* argument) noexcept {
    char message[96];
    std::snprintf(message, sizeof message, "%s was moved from; it must hold something", argument);
    return failure(status::null_pointer, message);
}

inline failure other_size(std::size_t x, std::size_t y) noexcept {
    char message[128];
    std::snprintf(message, sizeof message, "y has %zu values; it must have as many as x, %zu", y, x);
    return failure(status::shape_mismatch, message);
}

} // namespace detail

// ---- The library ----------------------------------------------------------------------------------------------------

/// The version of the library that was loaded, "major.minor.patch"; LM_VERSION is that of the header.
[[nodiscard]] inline std::string_view version() noexcept { return lm_version(); }

/// The version of the binary interface of the library that was loaded. A program whose LM_ABI_VERSION differs must not
/// use the library.
[[nodiscard]] inline std::uint32_t abi_version() noexcept { return lm_abi_version(); }

/// One line for a log or a bug report: the version, the instruction set in use, the number of threads, and whether CUDA
/// was built and can be used, or why not.
[[nodiscard]] inline std::string build_info() { return lm_build_info(); }

/// Whether layers on device::cuda can be created here. If not, build_info says why.
[[nodiscard]] inline bool cuda_available() noexcept { return lm_cuda_available(); }

/// As set_num_threads.
inline result<void> try_set_num_threads(std::size_t n) noexcept { return detail::checked(lm_set_num_threads(n)); }

/// Sets how many threads a call may compute on, 4096 at most; 0, the default, is one per core. It changes no bit of any
/// result, and holds for calls that start afterwards, on any thread.
///
/// status::invalid_argument for more than 4096.
inline void set_num_threads(std::size_t n) { try_set_num_threads(n).value(); }

// ---- Configuration --------------------------------------------------------------------------------------------------

/// A layer's configuration: every argument of the reference's constructor under its name and with its default, and what
/// the library adds. An aggregate: C++20 can write `config{.d_model = 64, .conv_dilations = {1, 2, 4}}`.
struct config {
    /// Which of the four layers.
    lite_mamba::variant variant = lite_mamba::variant::ptcn;
    /// Storage type of the parameters, not dtype::default_.
    lite_mamba::dtype dtype = lite_mamba::dtype::f32;
    /// Width of the input and the output, at least 1. There is no default.
    std::size_t d_model = 0;
    /// States per channel, at least 1.
    std::size_t d_state = 16;
    /// Taps of each convolution, at least 1.
    std::size_t d_conv = 4;
    /// One dilation for each branch, each at least 1. variant::baseline takes one branch of dilation 1.
    std::vector<std::size_t> conv_dilations = {1};
    /// The inner width d_inner is expand * d_model, truncated.
    double expand = 2.0;
    /// Rank of the projection of the time step; 0 stands for ceil(d_model / 16).
    std::size_t dt_rank = 0;
    /// Smallest initial time step, above 0.
    double dt_min = 0.001;
    /// Largest initial time step, not below dt_min.
    double dt_max = 0.1;
    /// Scale of the initial `dt_proj.weight`: finite, and not negative for dt_init::random.
    double dt_scale = 1.0;
    /// Lower bound of the initial time step, at least 0.
    double dt_init_floor = 1e-4;
    /// How `dt_proj.weight` starts.
    lite_mamba::dt_init dt_init = lite_mamba::dt_init::random;
    /// Whether the depthwise convolutions have a bias.
    bool conv_bias = true;
    /// Whether `in_proj` and `out_proj` have a bias.
    bool bias = false;
    /// Accepted for the reference's sake; without effect there and here.
    bool use_fast_path = false;
    /// The layer's number in its model, for inference_params: not negative.
    std::optional<std::int64_t> layer_idx = std::nullopt;
    /// Where the layer lives.
    lite_mamba::device device = lite_mamba::device::cpu;
    /// Which GPU.
    std::uint32_t device_index = 0;
    /// The arithmetic of matrix products on a GPU.
    lite_mamba::math math = lite_mamba::math::default_;
    /// Seed of the initial values, as of `torch.manual_seed`: the low 32 bits count.
    std::uint64_t seed = 0;
};

/// What there is to know of a parameter or a state.
struct tensor_info {
    /// Its name in the reference's state dict, or of a state.
    std::string name;
    /// Type in which the values are held.
    lite_mamba::dtype dtype = lite_mamba::dtype::default_;
    /// Whether a training's weight decay applies; false for states.
    bool weight_decay = false;
    /// The sizes, outermost first.
    std::vector<std::size_t> shape;
    /// Number of values: the product of shape.
    std::size_t count = 0;
};

/// A file's path, in UTF-8 as the library takes it: from text, or from a std::filesystem::path of any platform.
class utf8_path {
public:
    /// From text in UTF-8.
    utf8_path(const char* text) : text_(text) {}
    /// From text in UTF-8.
    utf8_path(std::string text) noexcept : text_(std::move(text)) {}
    /// From a std::filesystem::path, for which this header does not include <filesystem>.
    template <class Path, class = decltype(std::declval<const Path&>().u8string())>
    utf8_path(const Path& path) {
        const auto text = path.u8string(); // of char in C++17, of char8_t since
        text_.assign(text.begin(), text.end());
    }

    /// The path.
    [[nodiscard]] const std::string& string() const noexcept { return text_; }

private:
    std::string text_;
};

namespace detail {

// Borrows the dilations. What a later version adds to lm_config keeps its default.
inline result<lm_config> to_c(const config& from) noexcept {
    lm_config c;
    if (auto done = checked(lm_config_init(&c, sizeof c)); !done) return std::move(done).error();
    c.variant = static_cast<std::uint32_t>(from.variant);
    c.dtype = static_cast<std::uint32_t>(from.dtype);
    c.d_model = from.d_model;
    c.d_state = from.d_state;
    c.d_conv = from.d_conv;
    c.conv_dilations = from.conv_dilations.data();
    c.num_conv_dilations = from.conv_dilations.size();
    c.expand = from.expand;
    c.dt_rank = from.dt_rank;
    c.dt_min = from.dt_min;
    c.dt_max = from.dt_max;
    c.dt_scale = from.dt_scale;
    c.dt_init_floor = from.dt_init_floor;
    c.dt_init = static_cast<std::uint32_t>(from.dt_init);
    c.conv_bias = from.conv_bias;
    c.bias = from.bias;
    c.use_fast_path = from.use_fast_path;
    c.layer_idx = from.layer_idx.value_or(-1);
    c.device = static_cast<std::uint32_t>(from.device);
    c.device_index = from.device_index;
    c.math = static_cast<std::uint32_t>(from.math);
    c.seed = from.seed;
    return c;
}

inline config from_c(const lm_config& c) {
    config to;
    to.variant = static_cast<variant>(c.variant);
    to.dtype = static_cast<dtype>(c.dtype);
    to.d_model = c.d_model;
    to.d_state = c.d_state;
    to.d_conv = c.d_conv;
    to.conv_dilations.assign(c.conv_dilations, c.conv_dilations + c.num_conv_dilations);
    to.expand = c.expand;
    to.dt_rank = c.dt_rank;
    to.dt_min = c.dt_min;
    to.dt_max = c.dt_max;
    to.dt_scale = c.dt_scale;
    to.dt_init_floor = c.dt_init_floor;
    to.dt_init = static_cast<dt_init>(c.dt_init);
    to.conv_bias = c.conv_bias;
    to.bias = c.bias;
    to.use_fast_path = c.use_fast_path;
    if (c.layer_idx >= 0) to.layer_idx = c.layer_idx;
    to.device = static_cast<device>(c.device);
    to.device_index = c.device_index;
    to.math = static_cast<math>(c.math);
    to.seed = c.seed;
    return to;
}

inline tensor_info from_c(const lm_tensor_info& c) {
    return {c.name, static_cast<dtype>(c.dtype), c.weight_decay, {c.shape, c.shape + c.ndim}, c.count};
}

// A uint16_t has the bits of no other type.
inline result<void> of_16_bits(dtype type) noexcept {
    if (type == dtype::bf16 || type == dtype::f16) return {};
    char message[96];
    std::snprintf(message, sizeof message, "dtype is %u; for values of 16 bits it must be bf16 or f16",
                  static_cast<unsigned>(type));
    return failure(status::invalid_argument, message);
}

template <class Handle>
result<std::vector<tensor_info>> describe(const Handle* handle, std::size_t count,
                                          lm_status (*describe_one)(const Handle*, std::size_t, lm_tensor_info*, std::size_t)) {
    std::vector<tensor_info> all(count);
    for (std::size_t i = 0; i < count; ++i) {
        lm_tensor_info c;
        if (auto done = checked(describe_one(handle, i, &c, sizeof c)); !done) return std::move(done).error();
        all[i] = from_c(c);
    }
    return all;
}

struct freeing {
    void operator()(lm_layer* handle) const noexcept { lm_destroy(handle); }
    void operator()(lm_inference_params* handle) const noexcept { lm_inference_params_free(handle); }
};

} // namespace detail

class cache;
class layer;

// ---- Streaming ------------------------------------------------------------------------------------------------------

/// A cache that something else owns: a cache, an inference_params, or C. It is a reference: to copy it is to refer to
/// the same cache once more, and it cannot be made to refer to another.
///
/// One thread at a time; const member functions any number, while nothing changes the cache.
class cache_ref {
public:
    /// Refers to a cache of the C interface.
    explicit cache_ref(lm_cache* handle) noexcept : handle_(handle) {}
    cache_ref(const cache_ref&) noexcept = default;
    cache_ref& operator=(const cache_ref&) = delete;

    /// Number of sequences.
    [[nodiscard]] std::size_t batch() const noexcept { return lm_cache_batch(handle_); }

    /// Number of tokens since the beginning, of the sequence that has had most.
    [[nodiscard]] std::uint64_t seqlen_offset() const noexcept { return lm_cache_seqlen_offset(handle_); }

    /// Memory that the state takes, in bytes.
    [[nodiscard]] std::size_t bytes() const noexcept { return lm_cache_bytes(handle_); }

    /// Type in which the state is held; dtype::default_ if the cache was moved from.
    [[nodiscard]] lite_mamba::dtype dtype() const noexcept {
        lm_tensor_info c;
        if (lm_cache_state_info(handle_, 0, &c, sizeof c) != LM_OK) return lite_mamba::dtype::default_;
        return static_cast<lite_mamba::dtype>(c.dtype);
    }

    /// Describes the states: one for each branch, and "ssm_state".
    [[nodiscard]] std::vector<tensor_info> states() const { return try_states().value(); }
    /// As states.
    [[nodiscard]] result<std::vector<tensor_info>> try_states() const {
        return detail::describe<lm_cache>(handle_, lm_cache_num_states(handle_), lm_cache_state_info);
    }

    /// Copies a state out, in the reference's layout.
    ///
    /// name: "ssm_state" of shape (batch, d_inner, d_state), or "conv_state.0", "conv_state.1", ... of shape
    ///       (batch, d_inner, (d_conv - 1) * dilation + 1), oldest input first; see states.
    /// out: exactly the state's number of values.
    ///
    /// status::not_found for another name; status::shape_mismatch for another size.
    void get_state(const std::string& name, span<float> out) const { try_get_state(name, out).value(); }
    /// As get_state.
    result<void> try_get_state(const std::string& name, span<float> out) const noexcept {
        if (auto done = detail::checked("name", name); !done) return done;
        return detail::checked(lm_cache_get_state(handle_, name.c_str(), out.data(), out.size()));
    }

    /// Replaces a state. The number of tokens seen stays as it is. Branches that share one history (those of ptcn and
    /// dpwc all see the same input) share what is written: writing "conv_state.i" sets the last
    /// (d_conv - 1) * dilation + 1 inputs of that history, so write the longest one.
    ///
    /// name: as in get_state.
    /// values: exactly the state's number of values, in the layout of get_state.
    ///
    /// status::not_found for another name; status::shape_mismatch for another size.
    void set_state(const std::string& name, span<const float> values) { try_set_state(name, values).value(); }
    /// As set_state.
    result<void> try_set_state(const std::string& name, span<const float> values) noexcept {
        if (auto done = detail::checked("name", name); !done) return done;
        return detail::checked(lm_cache_set_state(handle_, name.c_str(), values.data(), values.size()));
    }

    /// Returns every sequence to its beginning, and makes a cache that status::internal left unusable usable again.
    void reset() { try_reset().value(); }
    /// As reset.
    result<void> try_reset() noexcept { return detail::checked(lm_cache_reset(handle_)); }

    /// Returns one sequence to its beginning; the others go on.
    ///
    /// lane: below batch, else status::invalid_argument.
    void reset_lane(std::size_t lane) { try_reset_lane(lane).value(); }
    /// As reset_lane.
    result<void> try_reset_lane(std::size_t lane) noexcept { return detail::checked(lm_cache_reset_lane(handle_, lane)); }

    /// Makes one sequence of this cache go on from where a sequence of source is; that one goes on by itself.
    ///
    /// lane: which sequence changes, below batch.
    /// source, source_lane: where it is copied from, and may be this cache. The caches may differ in batch and in dtype,
    ///                      but must be of layers of the same variant, shape and type.
    ///
    /// status::invalid_argument for a lane that a cache does not have; status::shape_mismatch for caches of layers that
    /// differ.
    void copy_lane(std::size_t lane, const cache_ref& source, std::size_t source_lane) {
        try_copy_lane(lane, source, source_lane).value();
    }
    /// As copy_lane.
    result<void> try_copy_lane(std::size_t lane, const cache_ref& source, std::size_t source_lane) noexcept {
        return detail::checked(lm_cache_copy_lane(handle_, lane, source.handle_, source_lane));
    }

    /// A copy that continues from the same state on its own.
    ///
    /// status::out_of_memory.
    [[nodiscard]] cache clone() const;
    /// As clone.
    result<cache> try_clone() const noexcept;

    /// The state as bytes, from which cache::load makes it again, in this process or another, on this machine or another,
    /// with this version of the library or a later one. The same state gives the same bytes.
    [[nodiscard]] std::vector<std::byte> save() const { return try_save().value(); }
    /// As save.
    [[nodiscard]] result<std::vector<std::byte>> try_save() const {
        auto size = try_saved_size();
        if (!size) return std::move(size).error();
        std::vector<std::byte> buffer(*size);
        if (auto done = try_save(buffer); !done) return std::move(done).error();
        return buffer;
    }

    /// save into a buffer of one's own, at any alignment. Returns how many bytes of it were written; it may have more.
    ///
    /// status::buffer_too_small, with nothing written, for fewer than saved_size.
    std::size_t save(span<std::byte> buffer) const { return try_save(buffer).value(); }
    /// As save.
    result<std::size_t> try_save(span<std::byte> buffer) const noexcept {
        std::byte nothing; // null would ask for the size
        std::size_t written = 0;
        void* const data = buffer.data() == nullptr ? &nothing : buffer.data();
        if (auto done = detail::checked(lm_cache_save(handle_, data, buffer.size(), &written)); !done)
            return std::move(done).error();
        return written;
    }

    /// Number of bytes that save gives.
    [[nodiscard]] std::size_t saved_size() const { return try_saved_size().value(); }
    /// As saved_size.
    [[nodiscard]] result<std::size_t> try_saved_size() const noexcept {
        std::size_t size = 0;
        if (auto done = detail::checked(lm_cache_save(handle_, nullptr, 0, &size)); !done) return std::move(done).error();
        return size;
    }

    /// The handle, for the functions of the C interface; still owned by whatever owns it.
    [[nodiscard]] lm_cache* native_handle() noexcept { return handle_; }
    /// The handle, for those that only read.
    [[nodiscard]] const lm_cache* native_handle() const noexcept { return handle_; }

protected:
    /// Null in a cache that was moved from.
    lm_cache* handle_;
};

/// The streaming state of a batch of sequences: what a layer remembers between calls. Its size does not depend on how
/// long the sequences are.
///
/// One thread at a time; const member functions any number, while nothing changes the cache.
class cache : public cache_ref {
public:
    /// Creates a cache for batch sequences, all at their beginning.
    ///
    /// layer: the layer it is for; any other layer of the same variant, shape and type can use it as well.
    /// batch: number of sequences.
    /// max_seqlen: accepted for the reference's sake, without effect: a sequence may be of any length.
    /// dtype: in which the state is held. dtype::default_ is the type of the layer's arithmetic, f64 for an f64 layer, f32
    ///        for every other one. bf16 and f16 take half the memory of f32; each call then rounds the states that it
    ///        leaves, so that how a sequence is cut into calls changes its results.
    ///
    /// status::invalid_argument for no dtype; status::out_of_memory.
    cache(const layer& layer, std::size_t batch, std::size_t max_seqlen = 0,
          lite_mamba::dtype dtype = lite_mamba::dtype::default_)
        : cache(try_create(layer, batch, max_seqlen, dtype).value()) {}
    /// As the constructor.
    static result<cache> try_create(const layer& layer, std::size_t batch, std::size_t max_seqlen = 0,
                                    lite_mamba::dtype dtype = lite_mamba::dtype::default_) noexcept;

    /// Creates a cache from what save gave, exactly that.
    ///
    /// layer: a layer of the variant, shape and type that the cache was of.
    /// saved: at any alignment, not kept.
    ///
    /// status::format for bytes that save did not give, cut short or altered; status::unsupported for those of a later
    /// version that this one cannot read; status::shape_mismatch for a layer of another variant, shape or type;
    /// status::out_of_memory.
    [[nodiscard]] static cache load(const layer& layer, span<const std::byte> saved) {
        return try_load(layer, saved).value();
    }
    /// As load.
    static result<cache> try_load(const layer& layer, span<const std::byte> saved) noexcept;

    cache(cache&& other) noexcept : cache_ref(std::exchange(other.handle_, nullptr)) {}
    cache& operator=(cache&& other) noexcept {
        cache taken(std::move(other));
        std::swap(handle_, taken.handle_);
        return *this;
    }
    ~cache() { lm_free_cache(handle_); }

private:
    friend cache_ref;
    explicit cache(lm_cache* owned) noexcept : cache_ref(owned) {}
};

inline cache cache_ref::clone() const { return try_clone().value(); }

inline result<cache> cache_ref::try_clone() const noexcept {
    lm_cache* handle = nullptr;
    if (auto done = detail::checked(lm_cache_clone(handle_, &handle)); !done) return std::move(done).error();
    return cache(handle);
}

/// The caches of all layers of one model, found by config::layer_idx and made at first use, as the reference's
/// `inference_params`.
///
/// One thread at a time.
class inference_params {
public:
    /// Creates an empty collection of caches.
    ///
    /// batch: number of sequences.
    /// max_seqlen: accepted for the reference's sake, without effect.
    explicit inference_params(std::size_t batch, std::size_t max_seqlen = 0)
        : inference_params(try_create(batch, max_seqlen).value()) {}
    /// As the constructor.
    static result<inference_params> try_create(std::size_t batch, std::size_t max_seqlen = 0) noexcept {
        lm_inference_params* handle = nullptr;
        auto done = detail::checked(lm_inference_params_create(batch, max_seqlen, &handle));
        if (!done) return std::move(done).error();
        return inference_params(handle, batch);
    }

    /// Number of sequences.
    [[nodiscard]] std::size_t batch() const noexcept { return batch_; }

    /// The cache of the layer numbered layer_idx, which ends with this collection; none before that layer's first forward.
    [[nodiscard]] std::optional<cache_ref> cache(std::int64_t layer_idx) noexcept {
        lm_cache* const handle = lm_inference_params_cache(handle_.get(), layer_idx);
        if (handle == nullptr) return std::nullopt;
        return cache_ref(handle);
    }

    /// Returns every sequence to its beginning.
    void reset() { try_reset().value(); }
    /// As reset.
    result<void> try_reset() noexcept { return detail::checked(lm_inference_params_reset(handle_.get())); }

    /// The handle, for the functions of the C interface; still owned here.
    [[nodiscard]] lm_inference_params* native_handle() noexcept { return handle_.get(); }

private:
    inference_params(lm_inference_params* owned, std::size_t batch) noexcept : handle_(owned), batch_(batch) {}

    std::unique_ptr<lm_inference_params, detail::freeing> handle_;
    std::size_t batch_;
};

// ---- The layer ------------------------------------------------------------------------------------------------------

/// A layer and its parameters.
///
/// Any number of threads may use one const layer.
class layer {
public:
    /// Creates a layer with the initial values that config.seed gives: those of PyTorch after `torch.manual_seed`.
    ///
    /// status::invalid_config names the field; status::unsupported and status::cuda for a type or device that cannot be
    /// had here; status::out_of_memory.
    explicit layer(const lite_mamba::config& config) : layer(try_create(config).value()) {}
    /// As the constructor.
    static result<layer> try_create(const lite_mamba::config& config) noexcept {
        return made(&config, [](const lm_config* c, lm_layer** handle) { return lm_create(c, handle); });
    }

    /// Creates a layer from a safetensors file.
    ///
    /// Tensors are named as in the reference's state dict, each after the prefix. The configuration is config if given,
    /// and is then checked against the shapes; else the file's metadata `lite_mamba.config`, which save and the exporter
    /// for PyTorch write; with neither, only a layer of variant::baseline loads, all its sizes taken from the shapes.
    ///
    /// prefix: what the layer's names begin with in the file, with or without a dot at the end, such as
    ///         "layers.0.mixer"; empty for none.
    ///
    /// status::io for a file that cannot be read; status::format for one that is damaged, has an unknown tensor or two
    /// that contradict each other; status::not_found for a missing tensor, or a prefix that no name begins with;
    /// status::shape_mismatch for a tensor of another shape; status::unsupported for one of a type that cannot be
    /// converted; status::invalid_config; status::out_of_memory. The message names the tensor.
    [[nodiscard]] static layer load(const utf8_path& path, const std::string& prefix = {},
                                    const std::optional<lite_mamba::config>& config = std::nullopt) {
        return try_load(path, prefix, config).value();
    }
    /// As load.
    static result<layer> try_load(const utf8_path& path, const std::string& prefix = {},
                                  const std::optional<lite_mamba::config>& config = std::nullopt) noexcept {
        if (auto done = detail::checked("path", path.string()); !done) return std::move(done).error();
        return loaded(prefix, config, [&](const char* start, const lm_config* c, lm_layer** handle) {
            return lm_load(path.string().c_str(), start, c, handle);
        });
    }

    /// load from a file's content in memory, which is not kept.
    [[nodiscard]] static layer load_memory(span<const std::byte> data, const std::string& prefix = {},
                                           const std::optional<lite_mamba::config>& config = std::nullopt) {
        return try_load_memory(data, prefix, config).value();
    }
    /// As load_memory.
    static result<layer> try_load_memory(span<const std::byte> data, const std::string& prefix = {},
                                         const std::optional<lite_mamba::config>& config = std::nullopt) noexcept {
        return loaded(prefix, config, [&](const char* start, const lm_config* c, lm_layer** handle) {
            return lm_load_memory(data.data(), data.size(), start, c, handle);
        });
    }

    /// Writes a safetensors file that load and the reference's load_state_dict read, with the configuration in its
    /// metadata. An existing file is replaced.
    ///
    /// status::io when it cannot be written.
    void save(const utf8_path& path) const { try_save(path).value(); }
    /// As save.
    result<void> try_save(const utf8_path& path) const noexcept {
        if (auto done = detail::checked("path", path.string()); !done) return done;
        return detail::checked(lm_save(handle_.get(), path.string().c_str()));
    }

    /// What the layer was created with, resolved: dt_rank is a number, never 0.
    [[nodiscard]] lite_mamba::config config() const { return try_config().value(); }
    /// As config.
    [[nodiscard]] result<lite_mamba::config> try_config() const {
        lm_config c;
        auto done = detail::checked(lm_get_config(handle_.get(), &c, sizeof c));
        if (!done) return std::move(done).error();
        return detail::from_c(c);
    }

    /// Width of the input and the output.
    [[nodiscard]] std::size_t d_model() const noexcept { return d_model_; }

    /// The inner width: expand * d_model, truncated.
    [[nodiscard]] std::size_t d_inner() const noexcept { return lm_d_inner(handle_.get()); }

    /// Computes y, the layer's output for every token of sequences that begin here and are not continued.
    ///
    /// x: (batch, seqlen, d_model); seqlen is what its size makes it.
    /// y: of the size of x, and may be x itself.
    ///
    /// status::shape_mismatch for sizes that do not fit; status::invalid_argument when y overlaps x in part;
    /// status::out_of_memory.
    void forward(span<const float> x, std::size_t batch, span<float> y) const { try_forward(x, batch, y).value(); }
    /// As forward.
    result<void> try_forward(span<const float> x, std::size_t batch, span<float> y) const noexcept {
        return computed(x, batch, y, [&](std::size_t seqlen) {
            return lm_forward(handle_.get(), x.data(), batch, seqlen, nullptr, y.data());
        });
    }

    /// Continues the sequences of a cache by seqlen tokens, and moves the cache on.
    ///
    /// x: (batch of the cache, seqlen, d_model); seqlen is what its size makes it.
    /// y: of the size of x, and may be x itself.
    ///
    /// status::shape_mismatch for sizes that do not fit, or a cache of another layer's shape; status::invalid_argument
    /// when y overlaps x in part; status::out_of_memory.
    void forward(span<const float> x, cache_ref& cache, span<float> y) const { try_forward(x, cache, y).value(); }
    /// As forward.
    result<void> try_forward(span<const float> x, cache_ref& cache, span<float> y) const noexcept {
        if (cache.native_handle() == nullptr) return detail::moved_from("cache");
        const std::size_t batch = cache.batch();
        return computed(x, batch, y, [&](std::size_t seqlen) {
            return lm_forward(handle_.get(), x.data(), batch, seqlen, cache.native_handle(), y.data());
        });
    }

    /// forward with the cache that params holds for this layer's config::layer_idx, made by the first call.
    ///
    /// status::invalid_argument for a layer without layer_idx, or with one that another layer has used here; further
    /// errors as forward with a cache.
    void forward(span<const float> x, inference_params& params, span<float> y) const {
        try_forward(x, params, y).value();
    }
    /// As forward.
    result<void> try_forward(span<const float> x, inference_params& params, span<float> y) const noexcept {
        if (params.native_handle() == nullptr) return detail::moved_from("params");
        return computed(x, params.batch(), y, [&](std::size_t seqlen) {
            return lm_forward_inference(handle_.get(), x.data(), params.batch(), seqlen, params.native_handle(), y.data());
        });
    }

    /// Computes the next token of every sequence: forward with a seqlen of 1, to the bit. It allocates nothing.
    ///
    /// x: (batch of the cache, d_model).
    /// y: of the size of x, and may be x itself.
    ///
    /// Errors as forward.
    void step(span<const float> x, cache_ref& cache, span<float> y) const { try_step(x, cache, y).value(); }
    /// As step.
    result<void> try_step(span<const float> x, cache_ref& cache, span<float> y) const noexcept {
        if (cache.native_handle() == nullptr) return detail::moved_from("cache");
        if (auto done = one_token_each(x, "batch", cache.batch(), y); !done) return done;
        return detail::checked(lm_step(handle_.get(), x.data(), cache.native_handle(), y.data()));
    }

    /// forward of tensors as other libraries have them, used where they lie: of any dtype, each of its own and whatever the
    /// layer's, of any strides and with an offset. What differs from the layer's arithmetic is converted on its way; the
    /// bits are otherwise those of forward of spans.
    ///
    /// x: (batch, seqlen, d_model), described as lm_forward_dlpack takes it.
    /// y: (batch, seqlen, d_model), to be written, each element in a place of its own. It may be x itself.
    /// stream: the CUDA stream to work on, for a layer on a GPU.
    ///
    /// status::unsupported for another type; status::invalid_argument for another device, misaligned data, elements of y in
    /// one place, and y overlapping x in part; errors as forward.
    void forward_dlpack(const DLTensor& x, const DLTensor& y, void* stream = nullptr) const {
        try_forward_dlpack(x, y, stream).value();
    }
    /// As forward_dlpack.
    result<void> try_forward_dlpack(const DLTensor& x, const DLTensor& y, void* stream = nullptr) const noexcept {
        return detail::checked(lm_forward_dlpack(handle_.get(), &x, nullptr, &y, stream));
    }

    /// The same with a cache of a batch of as many sequences, which go on from its state and move it on.
    void forward_dlpack(const DLTensor& x, cache_ref& cache, const DLTensor& y, void* stream = nullptr) const {
        try_forward_dlpack(x, cache, y, stream).value();
    }
    /// As forward_dlpack.
    result<void> try_forward_dlpack(const DLTensor& x, cache_ref& cache, const DLTensor& y,
                                    void* stream = nullptr) const noexcept {
        if (cache.native_handle() == nullptr) return detail::moved_from("cache");
        return detail::checked(lm_forward_dlpack(handle_.get(), &x, cache.native_handle(), &y, stream));
    }

    /// step of such tensors, of (batch, d_model). It allocates nothing after the first call.
    void step_dlpack(const DLTensor& x, cache_ref& cache, const DLTensor& y, void* stream = nullptr) const {
        try_step_dlpack(x, cache, y, stream).value();
    }
    /// As step_dlpack.
    result<void> try_step_dlpack(const DLTensor& x, cache_ref& cache, const DLTensor& y,
                                 void* stream = nullptr) const noexcept {
        if (cache.native_handle() == nullptr) return detail::moved_from("cache");
        return detail::checked(lm_step_dlpack(handle_.get(), &x, cache.native_handle(), &y, stream));
    }

    /// Computes the next token of those sequences of a cache that are due. The bits are those that step gives these
    /// sequences; the others stay where they are.
    ///
    /// x: (lanes.size(), d_model), one token for each of lanes.
    /// lanes: different numbers below the cache's batch, in any order.
    /// y: of the size of x, and may be x itself.
    ///
    /// status::invalid_argument for a lane that the cache does not have or that is there twice; errors as forward.
    void step_lanes(span<const float> x, span<const std::size_t> lanes, cache_ref& cache, span<float> y) const {
        try_step_lanes(x, lanes, cache, y).value();
    }
    /// As step_lanes.
    result<void> try_step_lanes(span<const float> x, span<const std::size_t> lanes, cache_ref& cache,
                                span<float> y) const noexcept {
        if (auto done = one_token_each(x, "lanes.size()", lanes.size(), y); !done) return done;
        return detail::checked(
            lm_step_lanes(handle_.get(), x.data(), lanes.data(), lanes.size(), cache.native_handle(), y.data()));
    }

    /// Computes sequences of different lengths, packed one after the other without padding: forward of each, to the bit,
    /// in one call. They begin here and are not continued.
    ///
    /// x: (total, d_model), where total is the last of cu_seqlens.
    /// cu_seqlens: one number more than there are sequences, the first 0 and none less than the one before: sequence i has
    ///             the tokens from cu_seqlens[i] to cu_seqlens[i + 1], that one excluded. A sequence may be empty.
    /// y: of the size of x, and may be x itself.
    ///
    /// status::invalid_argument for other cu_seqlens; errors as forward.
    void forward_varlen(span<const float> x, span<const std::size_t> cu_seqlens, span<float> y) const {
        try_forward_varlen(x, cu_seqlens, y).value();
    }
    /// As forward_varlen.
    result<void> try_forward_varlen(span<const float> x, span<const std::size_t> cu_seqlens,
                                    span<float> y) const noexcept {
        return packed(x, cu_seqlens, nullptr, y);
    }

    /// The same with sequence i going on from sequence i of a cache, which moves on by as many tokens.
    ///
    /// cache: of a batch of as many sequences as there are here, else status::shape_mismatch.
    void forward_varlen(span<const float> x, span<const std::size_t> cu_seqlens, cache_ref& cache, span<float> y) const {
        try_forward_varlen(x, cu_seqlens, cache, y).value();
    }
    /// As forward_varlen.
    result<void> try_forward_varlen(span<const float> x, span<const std::size_t> cu_seqlens, cache_ref& cache,
                                    span<float> y) const noexcept {
        if (cache.native_handle() == nullptr) return detail::moved_from("cache");
        return packed(x, cu_seqlens, cache.native_handle(), y);
    }

    /// Describes the parameters. Names, shapes and order are those of the reference's state dict; of two names for one
    /// tensor (`conv1d.weight` is branch 0's) only one is listed, and every function accepts both.
    [[nodiscard]] std::vector<tensor_info> parameters() const { return try_parameters().value(); }
    /// As parameters.
    [[nodiscard]] result<std::vector<tensor_info>> try_parameters() const {
        return detail::describe<lm_layer>(handle_.get(), lm_num_parameters(handle_.get()), lm_parameter_info);
    }

    /// Describes a parameter.
    ///
    /// name: as in parameters, or its other name.
    ///
    /// status::not_found for another name.
    [[nodiscard]] tensor_info find_parameter(const std::string& name) const { return try_find_parameter(name).value(); }
    /// As find_parameter.
    [[nodiscard]] result<tensor_info> try_find_parameter(const std::string& name) const {
        if (auto done = detail::checked("name", name); !done) return std::move(done).error();
        std::size_t index = 0;
        if (auto done = detail::checked(lm_find_parameter(handle_.get(), name.c_str(), &index)); !done)
            return std::move(done).error();
        lm_tensor_info c;
        if (auto done = detail::checked(lm_parameter_info(handle_.get(), index, &c, sizeof c)); !done)
            return std::move(done).error();
        return detail::from_c(c);
    }

    /// Copies a parameter out.
    ///
    /// name: as in parameters, or its other name.
    /// out: exactly the parameter's number of values.
    ///
    /// status::not_found for another name; status::shape_mismatch for another size.
    void get_parameter(const std::string& name, span<float> out) const { try_get_parameter(name, out).value(); }
    /// As get_parameter.
    result<void> try_get_parameter(const std::string& name, span<float> out) const noexcept {
        if (auto done = detail::checked("name", name); !done) return done;
        return detail::checked(lm_get_parameter(handle_.get(), name.c_str(), out.data(), out.size()));
    }

    /// Copies a parameter out exactly, whatever its type.
    ///
    /// Arguments and errors as for floats, and status::out_of_memory.
    void get_parameter(const std::string& name, span<double> out) const { try_get_parameter(name, out).value(); }
    /// As get_parameter.
    result<void> try_get_parameter(const std::string& name, span<double> out) const noexcept {
        return try_get_parameter(name, dtype::f64, lite_mamba::as_writable_bytes(out));
    }

    /// Copies a parameter out in a type of the caller's choice: every value exactly where the type can hold it, as f64
    /// always can, else rounded to nearest.
    ///
    /// name: as in parameters, or its other name.
    /// dtype: dtype::default_ is the parameter's own type.
    /// out: exactly the size of the parameter's values in that type, at any alignment; see as_writable_bytes.
    ///
    /// status::not_found for another name; status::shape_mismatch for another size; status::out_of_memory.
    void get_parameter(const std::string& name, dtype dtype, span<std::byte> out) const {
        try_get_parameter(name, dtype, out).value();
    }
    /// As get_parameter.
    result<void> try_get_parameter(const std::string& name, dtype dtype, span<std::byte> out) const noexcept {
        if (auto done = detail::checked("name", name); !done) return done;
        return detail::checked(lm_get_parameter_typed(handle_.get(), name.c_str(), static_cast<std::uint32_t>(dtype),
                                                      out.data(), out.size()));
    }

    /// The same in a type of 16 bits, dtype::bf16 or dtype::f16, as the bits of each value.
    void get_parameter(const std::string& name, dtype dtype, span<std::uint16_t> out) const {
        try_get_parameter(name, dtype, out).value();
    }
    /// As get_parameter.
    result<void> try_get_parameter(const std::string& name, dtype dtype, span<std::uint16_t> out) const noexcept {
        if (auto done = detail::of_16_bits(dtype); !done) return done;
        return try_get_parameter(name, dtype, lite_mamba::as_writable_bytes(out));
    }

    /// Replaces a parameter. Caches stay as they are.
    ///
    /// name: as in parameters, or its other name.
    /// values: exactly the parameter's number of values.
    ///
    /// status::not_found for another name; status::shape_mismatch for another size; status::out_of_memory.
    void set_parameter(const std::string& name, span<const float> values) { try_set_parameter(name, values).value(); }
    /// As set_parameter.
    result<void> try_set_parameter(const std::string& name, span<const float> values) noexcept {
        if (auto done = detail::checked("name", name); !done) return done;
        return detail::checked(lm_set_parameter(handle_.get(), name.c_str(), values.data(), values.size()));
    }

    /// Replaces a parameter: every value exactly where the layer's type can hold it, else rounded to nearest.
    ///
    /// Arguments and errors as for floats.
    void set_parameter(const std::string& name, span<const double> values) { try_set_parameter(name, values).value(); }
    /// As set_parameter.
    result<void> try_set_parameter(const std::string& name, span<const double> values) noexcept {
        return try_set_parameter(name, dtype::f64, lite_mamba::as_bytes(values));
    }

    /// Replaces a parameter with values of a type of the caller's choice: every value exactly where the layer's type can
    /// hold it, else rounded to nearest. Caches stay as they are.
    ///
    /// name: as in parameters, or its other name.
    /// dtype: dtype::default_ is the parameter's own type.
    /// values: exactly the size of the parameter's values in that type, at any alignment; see as_bytes.
    ///
    /// status::not_found for another name; status::shape_mismatch for another size; status::out_of_memory.
    void set_parameter(const std::string& name, dtype dtype, span<const std::byte> values) {
        try_set_parameter(name, dtype, values).value();
    }
    /// As set_parameter.
    result<void> try_set_parameter(const std::string& name, dtype dtype, span<const std::byte> values) noexcept {
        if (auto done = detail::checked("name", name); !done) return done;
        return detail::checked(lm_set_parameter_typed(handle_.get(), name.c_str(), static_cast<std::uint32_t>(dtype),
                                                      values.data(), values.size()));
    }

    /// The same with values of a type of 16 bits, dtype::bf16 or dtype::f16, as the bits of each.
    void set_parameter(const std::string& name, dtype dtype, span<const std::uint16_t> values) {
        try_set_parameter(name, dtype, values).value();
    }
    /// As set_parameter.
    result<void> try_set_parameter(const std::string& name, dtype dtype, span<const std::uint16_t> values) noexcept {
        if (auto done = detail::of_16_bits(dtype); !done) return done;
        return try_set_parameter(name, dtype, lite_mamba::as_bytes(values));
    }

    /// The handle, for the functions of the C interface; still owned here.
    [[nodiscard]] lm_layer* native_handle() noexcept { return handle_.get(); }
    /// The handle, for those that only read.
    [[nodiscard]] const lm_layer* native_handle() const noexcept { return handle_.get(); }

private:
    explicit layer(lm_layer* owned) noexcept : handle_(owned) {}

    // create: lm_status(const lm_config*, lm_layer**)
    template <class Create>
    static result<layer> made(const lite_mamba::config* config, Create create) noexcept {
        lm_config c;
        if (config != nullptr) {
            auto converted = detail::to_c(*config);
            if (!converted) return std::move(converted).error();
            c = *converted;
        }
        lm_layer* handle = nullptr;
        if (auto done = detail::checked(create(config == nullptr ? nullptr : &c, &handle)); !done)
            return std::move(done).error();
        layer made(handle);
        if (auto done = detail::checked(lm_get_config(handle, &c, sizeof c)); !done) return std::move(done).error();
        made.d_model_ = c.d_model;
        return made;
    }

    // load: lm_status(const char* prefix, const lm_config*, lm_layer**)
    template <class Load>
    static result<layer> loaded(const std::string& prefix, const std::optional<lite_mamba::config>& config,
                                Load load) noexcept {
        if (auto done = detail::checked("prefix", prefix); !done) return std::move(done).error();
        return made(config ? &*config : nullptr, [&](const lm_config* c, lm_layer** handle) {
            return load(prefix.empty() ? nullptr : prefix.c_str(), c, handle);
        });
    }

    // x and y are (batch, seqlen, d_model). compute: lm_status(seqlen)
    template <class Compute>
    result<void> computed(span<const float> x, std::size_t batch, span<float> y, Compute compute) const noexcept {
        if (handle_ == nullptr) return detail::moved_from("layer");
        std::size_t seqlen = 0;
        if (!x.empty()) {
            if (batch == 0 || x.size() % batch != 0 || x.size() / batch % d_model_ != 0) {
                char message[192];
                std::snprintf(message, sizeof message,
                              "x has %zu values; with a batch of %zu and a d_model of %zu it must have a multiple of "
                              "their product",
                              x.size(), batch, d_model_);
                return failure(status::shape_mismatch, message);
            }
            seqlen = x.size() / batch / d_model_;
        }
        if (y.size() != x.size()) return detail::other_size(x.size(), y.size());
        return detail::checked(compute(seqlen));
    }

    // x and y are (count, d_model).
    result<void> one_token_each(span<const float> x, const char* name, std::size_t count, span<float> y) const noexcept {
        if (handle_ == nullptr) return detail::moved_from("layer");
        if (x.size() % d_model_ != 0 || x.size() / d_model_ != count) {
            char message[192];
            std::snprintf(message, sizeof message, "x has %zu values; it must have %s * d_model, %zu * %zu", x.size(), name,
                          count, d_model_);
            return failure(status::shape_mismatch, message);
        }
        if (y.size() != x.size()) return detail::other_size(x.size(), y.size());
        return {};
    }

    // x and y are (total, d_model); the cache may be null.
    result<void> packed(span<const float> x, span<const std::size_t> cu_seqlens, lm_cache* cache,
                        span<float> y) const noexcept {
        const std::size_t total = cu_seqlens.empty() ? 0 : cu_seqlens[cu_seqlens.size() - 1];
        if (auto done = one_token_each(x, "the last of cu_seqlens", total, y); !done) return done;
        const std::size_t num_seqs = cu_seqlens.empty() ? 0 : cu_seqlens.size() - 1;
        return detail::checked(lm_forward_varlen(handle_.get(), x.data(), cu_seqlens.data(), num_seqs, cache, y.data()));
    }

    std::unique_ptr<lm_layer, detail::freeing> handle_;
    std::size_t d_model_ = 0;
};

inline result<cache> cache::try_create(const layer& layer, std::size_t batch, std::size_t max_seqlen,
                                       lite_mamba::dtype dtype) noexcept {
    lm_cache* handle = nullptr;
    auto done = detail::checked(lm_alloc_cache(layer.native_handle(), batch, max_seqlen, static_cast<std::uint32_t>(dtype),
                                               &handle));
    if (!done) return std::move(done).error();
    return cache(handle);
}

inline result<cache> cache::try_load(const layer& layer, span<const std::byte> saved) noexcept {
    lm_cache* handle = nullptr;
    auto done = detail::checked(lm_cache_load(layer.native_handle(), saved.data(), saved.size(), &handle));
    if (!done) return std::move(done).error();
    return cache(handle);
}

#ifndef __cpp_exceptions
} // namespace without_exceptions
#endif

} // namespace lite_mamba

template <>
struct std::is_error_code_enum<lite_mamba::status> : std::true_type {};

#endif // LITE_MAMBA_HPP
