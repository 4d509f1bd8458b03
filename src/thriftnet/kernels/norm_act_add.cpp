// Batch normalisation, residual addition and ReLU or GELU of activations that lie as [rows, channels] (channels-last
// images: rows = N * H * W), forward and backward, each in the fewest passes over memory.
//
//   z = (x - mean) * scale + bias          scale = weight / sqrt(variance + eps), per channel
//   y = activation(z + residual)           activation and residual are optional
//   y = activation(z) + residual           where it is added after the activation
//
// Values are float or bfloat16 (as uint16_t); parameters, statistics and arithmetic are float, sums end in double.
// Rows are cut into a fixed number of parts whose sums are added in order, so a result has the same bits for any number
// of threads. Nothing here includes torch: it compiles in seconds and is called through ctypes.

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <new>
#include <numeric>
#include <type_traits>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace {

constexpr long kParts = 64, kLeastGroups = 128;  // a part's sums cost about as much as a few groups
constexpr long kFlushGroups = 64;  // after this many values a float sum goes into a double
constexpr long kGroupWidth = 256;  // rows of few channels are taken together until the inner loop is this long
constexpr long kShiftSamples = 8;
constexpr long kAheadBytes = 2048;  // tensors are fetched so far ahead; the processor itself stops at the end of a page
constexpr long kUnrolledGroups = 2;  // taken side by side, so that a channel's parameters and sums are loaded once

#if defined(__AVX512F__)
constexpr long kLanes = 16;
#elif defined(__AVX__)
constexpr long kLanes = 8;
#else
constexpr long kLanes = 4;
#endif
constexpr long kMostLanes = 16;

typedef float Vector __attribute__((vector_size(4 * kLanes)));
typedef uint32_t Bits __attribute__((vector_size(4 * kLanes)));
typedef uint16_t Halves __attribute__((vector_size(2 * kLanes)));

inline float as_float(float value) { return value; }

inline float as_float(uint16_t value) {
  const uint32_t bits = static_cast<uint32_t>(value) << 16;
  float wide;
  std::memcpy(&wide, &bits, sizeof wide);
  return wide;
}

inline Vector load(const float* p) {
  Vector value;
  std::memcpy(&value, p, sizeof value);
  return value;
}

inline Vector load(const uint16_t* p) {
  Halves halves;
  std::memcpy(&halves, p, sizeof halves);
#if defined(__AVX512F__)  // which g++ 12 does in four instructions
  const Bits bits = reinterpret_cast<Bits>(_mm512_cvtepu16_epi32(reinterpret_cast<__m256i>(halves)));
#else
  const Bits bits = __builtin_convertvector(halves, Bits);
#endif
  return reinterpret_cast<Vector>(bits << 16);
}

inline void store(float* p, Vector value) { std::memcpy(p, &value, sizeof value); }

// Round to nearest, ties to even; NaN stays NaN (the rounding could carry it into a number).
inline void store(uint16_t* p, Vector value) {
#if defined(__AVX512BF16__) && defined(__AVX512DQ__)
  // The instruction takes denormals for zeros and keeps the bits of a NaN: those, which are rare, go the other way.
  constexpr int kQuietNan = 0x01, kDenormal = 0x20, kSignallingNan = 0x80;
  const __m512 wide = reinterpret_cast<__m512>(value);
  if (__builtin_expect(!_mm512_fpclass_ps_mask(wide, kQuietNan | kDenormal | kSignallingNan), 1)) {
    const __m256bh rounded = _mm512_cvtneps_pbh(wide);
    std::memcpy(p, &rounded, sizeof rounded);
    return;
  }
#endif
  const Bits bits = reinterpret_cast<Bits>(value);
  const Bits rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const Bits quiet_nan = Bits{} + 0x7fc0u;
  const Halves halves = __builtin_convertvector((bits & 0x7fffffffu) > 0x7f800000u ? quiet_nan : rounded, Halves);
  std::memcpy(p, &halves, sizeof halves);
}

// How much of a tensor's vector there is: all of it, or what is left at the very end.
struct Whole {};
struct Rest {
  long values;
};

template <class T>
inline Vector load(const T* p, Whole) {
  __builtin_prefetch(reinterpret_cast<const char*>(p) + kAheadBytes);
  return load(p);
}

template <class T>
inline Vector load(const T* p, Rest rest) {
  T padded[kLanes] = {};
  std::memcpy(padded, p, rest.values * sizeof(T));
  return load(padded);
}

template <class T>
inline void store(T* p, Vector value, Whole) {
  __builtin_prefetch(reinterpret_cast<const char*>(p) + kAheadBytes, 1);
  store(p, value);
}

template <class T>
inline void store(T* p, Vector value, Rest rest) {
  T padded[kLanes];
  store(padded, value);
  std::memcpy(p, padded, rest.values * sizeof(T));
}

inline Vector total(const Vector (&a)[1]) { return a[0]; }
inline Vector total(const Vector (&a)[2]) { return a[0] + a[1]; }

inline void add_to(float* p, Vector value, Whole) { store(p, load(p) + value); }
inline void add_to(float* p, Vector value, Rest rest) { store(p, load(p) + value, rest); }

// Forward and backward must agree on the sign of z, so that the mask of one is that of the other: not left to what the
// compiler makes of each place.
inline Vector affine(Vector centred, Vector scale, Vector bias) {
#if defined(__AVX512F__)
  return _mm512_fmadd_ps(centred, scale, bias);
#elif defined(__FMA__)
  return _mm256_fmadd_ps(centred, scale, bias);
#else
  return centred * scale + bias;
#endif
}

enum Activation { kNone, kRelu, kGelu };

// Where the residual is added.
enum Added { kNowhere, kBefore, kAfter };

#if defined(__AVX512F__)

// A smooth function that is 0 below -6 and 1 above, to 6e-8: polynomials on segments of 13/32 around the multiples of
// that, through six Chebyshev nodes each. An instruction picks each lane's coefficient out of 32, which costs less
// than half of an exponential function and a division.
class Step {
 public:
  explicit Step(double (*f)(double)) {
    for (int n = -kSegments / 2; n < kSegments / 2; ++n) {
      double node[kTerms], difference[kTerms], p[kTerms] = {};
      for (int k = 0; k < kTerms; ++k) {
        node[k] = 0.5 * kWidth * std::cos((k + 0.5) * M_PI / kTerms);
        difference[k] = f(n * kWidth + node[k]);
      }
      for (int order = 1; order < kTerms; ++order)  // Newton's divided differences
        for (int k = kTerms - 1; k >= order; --k)
          difference[k] = (difference[k] - difference[k - 1]) / (node[k] - node[k - order]);
      for (int k = kTerms - 1; k >= 0; --k) {  // p = p * (r - node) + difference
        for (int i = kTerms - 1; i > 0; --i) p[i] = p[i - 1] - node[k] * p[i];
        p[0] = difference[k] - node[k] * p[0];
      }
      const bool vanishes = n == -kSegments / 2;
      for (int i = 0; i < kTerms; ++i) coefficient_[i][n & (kSegments - 1)] = vanishes ? 0.0 : p[i];
    }
  }

  Vector operator()(Vector z) const {
    const Vector low = Vector{} - kWidth * kSegments / 2, high = -low - kWidth;
    const Vector near = _mm512_max_ps(low, _mm512_min_ps(high, z));  // NaN stays NaN
    const Vector shifted = near * (1.0f / kWidth) + 12582912.0f;  // n + 1.5 * 2^23: n is in the lowest bits
    const Vector r = near - (shifted - 12582912.0f) * kWidth;
    Vector p = pick(kTerms - 1, shifted);
    for (int i = kTerms - 2; i >= 0; --i) p = p * r + pick(i, shifted);
    return p;
  }

 private:
  static constexpr int kTerms = 6, kSegments = 32;
  static constexpr float kWidth = 13.0f / 32.0f;
  alignas(64) float coefficient_[kTerms][kSegments];

  Vector pick(int i, Vector shifted) const {
    const float* from = coefficient_[i];
    return _mm512_permutex2var_ps(load(from), reinterpret_cast<__m512i>(shifted), load(from + kLanes));
  }
};

double normal_below(double z) { return 0.5 * std::erfc(-z * M_SQRT1_2); }

const Step below(normal_below);
const Step slope_of_gelu([](double z) { return normal_below(z) + z * std::exp(-0.5 * z * z) / std::sqrt(2.0 * M_PI); });

inline Vector gelu(Vector z) { return z * below(z); }
inline Vector gelu_slope(Vector z) { return slope_of_gelu(z); }

#else

// exp(x) for x <= 0, to 2e-7 of its value; 0 below -87. Cephes' polynomial, in arithmetic that any processor has.
inline Vector exp_of_negative(Vector x) {
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: what is added to it loses its fraction
  const auto vanishes = x < -87.0f;
  x = vanishes ? Vector{} - 87.0f : x;  // NaN stays NaN
  const Vector shifted = x * 1.44269504f + kRound;
  const Vector n = shifted - kRound;
  const Vector r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  Vector p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const Bits zero_bits = reinterpret_cast<Bits>(Vector{} + kRound);
  const Bits bits = (reinterpret_cast<Bits>(shifted) - zero_bits + 127u) << 23;  // 2^n
  return vanishes ? Vector{} : p * reinterpret_cast<Vector>(bits);
}

// The standard normal distribution up to z, and its density at z. The tail is Abramowitz and Stegun's 7.1.26 (1.5e-7),
// which torch's own vectorised erf is too; of a negative z the tail itself is taken, so that nothing cancels.
struct Normal {
  Vector below, density;
};

inline Normal normal(Vector z) {
  const Vector e = exp_of_negative(-0.5f * z * z);
  const Vector size = z < 0.0f ? -z : z;
  const Vector t = 1.0f / (1.0f + 0.3275911f * 0.70710678f * size);
  Vector p = t * 1.061405429f - 1.453152027f;
  p = p * t + 1.421413741f;
  p = p * t - 0.284496736f;
  p = p * t + 0.254829592f;
  const Vector tail = 0.5f * p * t * e;
  return {z < 0.0f ? tail : 1.0f - tail, 0.39894228f * e};
}

inline Vector gelu(Vector z) { return z * normal(z).below; }

inline Vector gelu_slope(Vector z) {
  const Normal at = normal(z);
  return at.below + z * at.density;
}

#endif

// How the rows are taken: `per_group` rows side by side are one group of `width` values, whole vectors of them; groups
// are dealt out in parts, and the `tail` of values that fill no group comes last.
struct Tiling {
  long rows, channels, per_group, width, groups, tail, parts;

  Tiling(long rows, long channels) : rows(rows), channels(channels) {
    const long multiple = kMostLanes / std::gcd(kMostLanes, channels);
    per_group = (kGroupWidth + channels * multiple - 1) / (channels * multiple) * multiple;
    width = per_group * channels;
    groups = rows / per_group;
    tail = rows * channels - groups * width;
    parts = std::clamp(groups / kLeastGroups, 1L, kParts);
  }
  long begin(long part) const { return groups * part / parts; }

  // A value for each channel, repeated over the group.
  std::vector<float> repeated(const float* values) const {
    std::vector<float> all(width);
    for (long i = 0; i < width; ++i) all[i] = values[i % channels];
    return all;
  }
};

// Add a group's float sums to a part's double ones and clear them.
void flush(const Tiling& tiling, std::vector<float>& sums, double* into) {
  for (long row = 0; row < tiling.per_group; ++row) {
    const float* from = sums.data() + row * tiling.channels;
#pragma omp simd
    for (long c = 0; c < tiling.channels; ++c) into[c] += from[c];
  }
  std::fill(sums.begin(), sums.end(), 0.0f);
}

// Calls visit(offset, groups, width) for the runs of one part, at most kFlushGroups long, then after_run().
template <class Visit, class AfterRun>
void for_each_run(const Tiling& tiling, long part, Visit visit, AfterRun after_run) {
  for (long group = tiling.begin(part); group < tiling.begin(part + 1); group += kFlushGroups) {
    const long count = std::min(kFlushGroups, tiling.begin(part + 1) - group);
    visit(group * tiling.width, count, tiling.width);
    after_run();
  }
  if (part == tiling.parts - 1 && tiling.tail > 0) {
    visit(tiling.groups * tiling.width, 1, tiling.tail);
    after_run();
  }
}

// Calls body(first, count, i, part) for every vector of a group, with the same of the next groups: those that begin at
// first, first + width, ... are `count` (a compile-time constant) vectors of the channels' values at i.
template <class Body>
inline void for_each_column(long groups, long width, Body body) {
  using Many = std::integral_constant<long, kUnrolledGroups>;
  using One = std::integral_constant<long, 1>;
  const long whole = width - width % kLanes;
  long group = 0;
  for (; group + kUnrolledGroups <= groups && whole == width; group += kUnrolledGroups)
    for (long i = 0; i < width; i += kLanes) body(group * width + i, Many{}, i, Whole{});
  for (; group < groups; ++group) {
    for (long i = 0; i < whole; i += kLanes) body(group * width + i, One{}, i, Whole{});
    if (whole < width) body(group * width + whole, One{}, whole, Rest{width - whole});
  }
}

// This thread's parts; `last_first` meets what the pass before left in the cache.
template <class Work>
void for_my_parts(const Tiling& tiling, bool last_first, Work work) {
  const long threads = omp_get_num_threads(), thread = omp_get_thread_num();
  const long first = tiling.parts * thread / threads, end = tiling.parts * (thread + 1) / threads;
  for (long i = first; i < end; ++i) work(last_first ? first + end - 1 - i : i);
}

// Sums of (x - shift) and of its square.
template <class T>
void add_moments(const T* x, long groups, long width, const float* shift, float* sum, float* square) {
  for_each_column(groups, width, [=](long first, auto count, long i, auto part) {
    const Vector at = load(shift + i);
    Vector a[count()], b[count()];
    for (long k = 0; k < count; ++k) {
      a[k] = load(x + first + k * width, part) - at;
      b[k] = a[k] * a[k];
    }
    add_to(sum + i, total(a), part);
    add_to(square + i, total(b), part);
  });
}

template <class T, Activation activation, Added added>
void write_output(const T* x, const T* residual, T* y, long groups, long width, const float* mean, const float* scale,
                  const float* bias) {
  for_each_column(groups, width, [=](long first, auto count, long i, auto part) {
    const Vector means = load(mean + i), scales = load(scale + i), biases = load(bias + i);
    for (long k = 0; k < count; ++k) {
      const long at = first + k * width;
      Vector z = affine(load(x + at, part) - means, scales, biases);
      if (added == kBefore) z += load(residual + at, part);
      if (activation == kRelu) z = z < 0.0f ? Vector{} : z;  // NaN stays NaN
      if (activation == kGelu) z = gelu(z);
      if (added == kAfter) z += load(residual + at, part);
      store(y + at, z, part);
    }
  });
}

// How g, the gradient before the activation, comes from dy, and what `other` is: nothing; ReLU's sign from x; from its
// output, in `other`; GELU's slope from x; from x and the residual, in `other`.
enum Slope { kOne, kReluOfInput, kReluOfOutput, kGeluOfInput, kGeluOfSum };

// Whether g is written: it is the residual's gradient.
constexpr bool writes_g(Slope slope) { return slope == kReluOfOutput || slope == kGeluOfSum; }

// g, where z = affine(centred, scale, bias) and `other` is given if writes_g(how).
template <Slope how>
inline Vector before_activation(Vector dy, Vector centred, Vector scale, Vector bias, Vector other) {
  if (how == kReluOfInput) return affine(centred, scale, bias) > 0.0f ? dy : Vector{};
  if (how == kReluOfOutput) return other > 0.0f ? dy : Vector{};
  if (how == kGeluOfInput) return dy * gelu_slope(affine(centred, scale, bias));
  if (how == kGeluOfSum) return dy * gelu_slope(affine(centred, scale, bias) + other);
  return dy;
}

// Sums of g and of g * (x - mean). With `split`, dy is the sum of `dy` and `dy_too`.
template <class T, Slope how, bool split>
void add_gradient_sums(const T* dy, const T* dy_too, const T* x, const T* other, T* masked, long groups, long width,
                       const float* mean, const float* scale, const float* bias, float* sum, float* product) {
  for_each_column(groups, width, [=](long first, auto count, long i, auto part) {
    const Vector means = load(mean + i), scales = load(scale + i), biases = load(bias + i);
    Vector a[count()], b[count()];
    for (long k = 0; k < count; ++k) {
      const long at = first + k * width;
      const Vector centred = load(x + at, part) - means;
      const Vector others = writes_g(how) ? load(other + at, part) : Vector{};
      Vector whole = load(dy + at, part);
      if (split) whole += load(dy_too + at, part);
      const Vector g = before_activation<how>(whole, centred, scales, biases, others);
      if (writes_g(how)) store(masked + at, g, part);
      a[k] = g;
      b[k] = g * centred;
    }
    add_to(sum + i, total(a), part);
    add_to(product + i, total(b), part);
  });
}

// dx = scale * g + slope * (x - mean) + offset
template <class T, Slope how, bool split>
void write_input_gradient(const T* dy, const T* dy_too, const T* x, T* dx, long groups, long width, const float* mean,
                          const float* scale, const float* bias, const float* slope, const float* offset) {
  for_each_column(groups, width, [=](long first, auto count, long i, auto part) {
    const Vector means = load(mean + i), scales = load(scale + i), biases = load(bias + i);
    const Vector slopes = load(slope + i), offsets = load(offset + i);
    for (long k = 0; k < count; ++k) {
      const long at = first + k * width;
      const Vector centred = load(x + at, part) - means;
      Vector whole = load(dy + at, part);
      if (split) whole += load(dy_too + at, part);
      const Vector g = before_activation<how>(whole, centred, scales, biases, Vector{});
      store(dx + at, scales * g + (slopes * centred + offsets), part);
    }
  });
}

template <class T>
void apply(const Tiling& tiling, const T* x, const T* residual, bool after, T* y, int activation,
           const std::vector<float>& mean, const std::vector<float>& scale, const std::vector<float>& bias) {
  const auto choose = [&](auto nowhere, auto before, auto behind) {
    return !residual ? nowhere : after ? behind : before;
  };
  const auto write =
      activation == kRelu
          ? choose(write_output<T, kRelu, kNowhere>, write_output<T, kRelu, kBefore>, write_output<T, kRelu, kAfter>)
      : activation == kGelu
          ? choose(write_output<T, kGelu, kNowhere>, write_output<T, kGelu, kBefore>, write_output<T, kGelu, kAfter>)
          : choose(write_output<T, kNone, kNowhere>, write_output<T, kNone, kBefore>, write_output<T, kNone, kBefore>);
  for_my_parts(tiling, true, [&](long part) {
    for_each_run(
        tiling, part,
        [&](long offset, long rows, long width) {
          write(x + offset, residual ? residual + offset : nullptr, y + offset, rows, width, mean.data(), scale.data(),
                bias.data());
        },
        [] {});
  });
}

template <class T>
void forward_training(const T* x, const T* residual, bool after, T* y, long rows, long channels,
                      int activation, const float* weight, const float* bias, float* running_mean, float* running_var,
                      double momentum, double eps, float* mean, float* scale, float* inverse_std, int threads) {
  const Tiling tiling(rows, channels);
  // The sum of squares loses what mean and shift differ by, squared; a few rows' mean is near enough.
  std::vector<float> shift(channels, 0.0f);
  const long samples = std::min(rows, kShiftSamples);
  for (long sample = 0; sample < samples; ++sample) {
    const T* row = x + rows * sample / samples * channels;
    for (long c = 0; c < channels; ++c) shift[c] += as_float(row[c]) / samples;
  }
  const std::vector<float> shifts = tiling.repeated(shift.data()), biases = tiling.repeated(bias);
  std::vector<double> sums(tiling.parts * channels, 0.0), squares(tiling.parts * channels, 0.0);
  std::vector<float> means, scales;
#pragma omp parallel num_threads(threads)
  {
    std::vector<float> sum(tiling.width, 0.0f), square(tiling.width, 0.0f);
    for_my_parts(tiling, false, [&](long part) {
      for_each_run(
          tiling, part,
          [&](long offset, long count, long width) {
            add_moments(x + offset, count, width, shifts.data(), sum.data(), square.data());
          },
          [&] {
            flush(tiling, sum, sums.data() + part * channels);
            flush(tiling, square, squares.data() + part * channels);
          });
    });
#pragma omp barrier
#pragma omp single
    {
      for (long part = 1; part < tiling.parts; ++part) {
        for (long c = 0; c < channels; ++c) sums[c] += sums[part * channels + c];
        for (long c = 0; c < channels; ++c) squares[c] += squares[part * channels + c];
      }
      for (long c = 0; c < channels; ++c) {
        const double difference = sums[c] / rows;
        const double batch_mean = shift[c] + difference;
        const double spread = squares[c] - sums[c] * difference;
        const double variance = spread < 0.0 ? 0.0 : spread / rows;  // NaN stays NaN
        const double inverse = 1.0 / std::sqrt(variance + eps);
        mean[c] = static_cast<float>(batch_mean);
        inverse_std[c] = static_cast<float>(inverse);
        scale[c] = static_cast<float>(weight[c] * inverse);
        if (running_mean) {
          const double unbiased = variance * rows / (rows - 1);
          running_mean[c] = static_cast<float>((1.0 - momentum) * running_mean[c] + momentum * batch_mean);
          running_var[c] = static_cast<float>((1.0 - momentum) * running_var[c] + momentum * unbiased);
        }
      }
      means = tiling.repeated(mean);
      scales = tiling.repeated(scale);
    }
    apply(tiling, x, residual, after, y, activation, means, scales, biases);
  }
}

template <class T>
void forward_fixed(const T* x, const T* residual, bool after, T* y, long rows, long channels,
                   int activation, const float* mean, const float* scale, const float* bias, int threads) {
  const Tiling tiling(rows, channels);
  const std::vector<float> means = tiling.repeated(mean), scales = tiling.repeated(scale);
  const std::vector<float> biases = tiling.repeated(bias);
#pragma omp parallel num_threads(threads)
  apply(tiling, x, residual, after, y, activation, means, scales, biases);
}

// `masked` receives g where it is written, which is what the second pass then reads.
template <class T, Slope how, bool split = false>
void backward(const T* dy, const T* dy_too, const T* x, const T* other, T* dx, T* masked, long rows, long channels,
              const float* mean, const float* scale, const float* inverse_std, const float* bias, float* dweight,
              float* dbias, int threads) {
  const Tiling tiling(rows, channels);
  const std::vector<float> means = tiling.repeated(mean), scales = tiling.repeated(scale);
  const std::vector<float> biases = tiling.repeated(bias);
  std::vector<double> sums(tiling.parts * channels, 0.0), products(tiling.parts * channels, 0.0);
  std::vector<float> slopes, offsets;
  constexpr bool rewritten = writes_g(how);
  const T* gradient = rewritten ? masked : dy;
#pragma omp parallel num_threads(threads)
  {
    std::vector<float> sum(tiling.width, 0.0f), product(tiling.width, 0.0f);
    for_my_parts(tiling, false, [&](long part) {
      for_each_run(
          tiling, part,
          [&](long at, long count, long width) {
            add_gradient_sums<T, how, split>(dy + at, split ? dy_too + at : nullptr, x + at,
                                             other ? other + at : nullptr, masked ? masked + at : nullptr, count, width,
                                             means.data(), scales.data(), biases.data(), sum.data(), product.data());
          },
          [&] {
            flush(tiling, sum, sums.data() + part * channels);
            flush(tiling, product, products.data() + part * channels);
          });
    });
#pragma omp barrier
#pragma omp single
    {
      for (long part = 1; part < tiling.parts; ++part) {
        for (long c = 0; c < channels; ++c) sums[c] += sums[part * channels + c];
        for (long c = 0; c < channels; ++c) products[c] += products[part * channels + c];
      }
      std::vector<float> slope(channels), offset(channels);
      for (long c = 0; c < channels; ++c) {
        const double inverse = inverse_std[c];
        dbias[c] = static_cast<float>(sums[c]);
        dweight[c] = static_cast<float>(products[c] * inverse);
        slope[c] = static_cast<float>(-scale[c] * inverse * inverse * products[c] / rows);
        offset[c] = static_cast<float>(-scale[c] * sums[c] / rows);
      }
      slopes = tiling.repeated(slope.data());
      offsets = tiling.repeated(offset.data());
    }
    if (dx)
      for_my_parts(tiling, true, [&](long part) {
        for_each_run(
            tiling, part,
            [&](long at, long count, long width) {
              write_input_gradient<T, rewritten ? kOne : how, split && !rewritten>(
                  gradient + at, split ? dy_too + at : nullptr, x + at, dx + at, count, width, means.data(),
                  scales.data(), biases.data(), slopes.data(), offsets.data());
            },
            [] {});
      });
  }
}

template <class T>
void backward_any(const void* dy, const void* dy_too, const void* x, const void* other, void* dx, void* masked,
                  long rows, long channels, int activation, const float* mean, const float* scale,
                  const float* inverse_std, const float* bias, float* dweight, float* dbias, int threads) {
  const auto choose = [&](auto whole, auto split) { return dy_too ? split : whole; };
  const auto run =
      activation == kRelu
          ? (other ? choose(backward<T, kReluOfOutput>, backward<T, kReluOfOutput, true>)
                   : choose(backward<T, kReluOfInput>, backward<T, kReluOfInput, true>))
      : activation == kGelu ? (other ? choose(backward<T, kGeluOfSum>, backward<T, kGeluOfSum, true>)
                                     : choose(backward<T, kGeluOfInput>, backward<T, kGeluOfInput, true>))
                            : choose(backward<T, kOne>, backward<T, kOne, true>);
  run(static_cast<const T*>(dy), static_cast<const T*>(dy_too), static_cast<const T*>(x), static_cast<const T*>(other),
      static_cast<T*>(dx), static_cast<T*>(masked), rows, channels, mean, scale, inverse_std, bias, dweight, dbias,
      threads);
}

// Runs `work` and returns whether memory ran out. A C++ exception may not reach the caller, nor leave a team of threads:
// what a thread allocates for itself is a few kilobytes.
template <class Work>
int out_of_memory(const Work& work) {
  try {
    work();
    return 0;
  } catch (const std::bad_alloc&) {
    return 1;
  }
}

}  // namespace

extern "C" {

// Each returns whether memory ran out.

// `mean`, `scale`, `inverse_std`: float [channels], written for the backward pass. `running_mean` and `running_var` may
// be null, as may `residual`, which is added `after` the activation or before.
int norm_act_add_training(int is_bf16, const void* x, const void* residual, int after, void* y, long rows,
                          long channels, int activation, const float* weight, const float* bias, float* running_mean,
                          float* running_var, double momentum, double eps, float* mean, float* scale,
                          float* inverse_std, int threads) {
  return out_of_memory([&] {
    if (is_bf16)
      forward_training(static_cast<const uint16_t*>(x), static_cast<const uint16_t*>(residual), after,
                       static_cast<uint16_t*>(y), rows, channels, activation, weight, bias, running_mean,
                       running_var, momentum, eps, mean, scale, inverse_std, threads);
    else
      forward_training(static_cast<const float*>(x), static_cast<const float*>(residual), after,
                       static_cast<float*>(y), rows, channels, activation, weight, bias, running_mean, running_var, momentum, eps, mean, scale,
                       inverse_std, threads);
  });
}

int norm_act_add_fixed(int is_bf16, const void* x, const void* residual, int after, void* y, long rows, long channels,
                       int activation, const float* mean, const float* scale, const float* bias, int threads) {
  return out_of_memory([&] {
    if (is_bf16)
      forward_fixed(static_cast<const uint16_t*>(x), static_cast<const uint16_t*>(residual), after,
                    static_cast<uint16_t*>(y), rows, channels, activation, mean, scale, bias, threads);
    else
      forward_fixed(static_cast<const float*>(x), static_cast<const float*>(residual), after, static_cast<float*>(y),
                    rows, channels, activation, mean, scale, bias, threads);
  });
}

// With a residual before the activation, `other` is ReLU's output or GELU's residual, and `masked` is where the
// residual's gradient is written; else these are null. The gradient may come in two parts; else `dy_too` is null. `dx`
// may be null.
int norm_act_add_backward(int is_bf16, const void* dy, const void* dy_too, const void* x, const void* other, void* dx,
                          void* masked, long rows, long channels, int activation, const float* mean, const float* scale,
                          const float* inverse_std, const float* bias, float* dweight, float* dbias, int threads) {
  const auto run = is_bf16 ? backward_any<uint16_t> : backward_any<float>;
  return out_of_memory([&] {
    run(dy, dy_too, x, other, dx, masked, rows, channels, activation, mean, scale, inverse_std, bias, dweight, dbias,
        threads);
  });
}
}
