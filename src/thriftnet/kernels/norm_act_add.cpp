// Batch normalisation, residual addition and ReLU or GELU of activations that lie as [rows, channels] (channels-last
// images: rows = N * H * W), forward and backward, each in the fewest passes over memory.
//
//   z = (x - mean) * scale + bias          scale = weight / sqrt(variance + eps), per channel
//   y = activation(z + residual)           activation and residual are optional
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
#include <vector>

namespace {

constexpr long kParts = 64;
constexpr long kFlushGroups = 64;  // after this many values a float sum goes into a double
constexpr long kGroupWidth = 256;  // rows of few channels are taken together until the inner loop is this long
constexpr long kShiftSamples = 8;

inline float load(const float* p) { return *p; }
inline void store(float* p, float value) { *p = value; }

inline float load(const uint16_t* p) {
  const uint32_t bits = static_cast<uint32_t>(*p) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// Round to nearest, ties to even; NaN stays NaN (the rounding could carry it into a number).
inline void store(uint16_t* p, float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  *p = static_cast<uint16_t>((bits & 0x7fffffffu) > 0x7f800000u ? 0x7fc0u : rounded);
}

// Forward and backward must agree on the sign of z, so that the mask of one is that of the other.
inline float affine(float centred, float scale, float bias) {
#ifdef __FP_FAST_FMAF
  return __builtin_fmaf(centred, scale, bias);
#else
  return centred * scale + bias;
#endif
}

enum Activation { kNone, kRelu, kGelu };

// exp(x) for x <= 0, to 2e-7 of its value; 0 below -87. Cephes' polynomial, in arithmetic that vectorises anywhere.
inline float exp_of_negative(float x) {
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: what is added to it loses its fraction
  const bool vanishes = x < -87.0f;
  x = vanishes ? -87.0f : x;  // NaN stays NaN
  const float shifted = x * 1.44269504f + kRound;
  const float n = shifted - kRound;
  const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  uint32_t bits, zero_bits;
  std::memcpy(&bits, &shifted, sizeof bits);
  std::memcpy(&zero_bits, &kRound, sizeof zero_bits);
  bits = (bits - zero_bits + 127u) << 23;  // 2^n
  float power;
  std::memcpy(&power, &bits, sizeof power);
  return vanishes ? 0.0f : p * power;
}

// The standard normal distribution up to z, and its density at z. The tail is Abramowitz and Stegun's 7.1.26 (1.5e-7),
// which torch's own vectorised erf is too; of a negative z the tail itself is taken, so that nothing cancels.
struct Normal {
  float below, density;
};

inline Normal normal(float z) {
  const float e = exp_of_negative(-0.5f * z * z);
  const float t = 1.0f / (1.0f + 0.3275911f * 0.70710678f * std::fabs(z));
  float p = 1.061405429f;
  p = p * t - 1.453152027f;
  p = p * t + 1.421413741f;
  p = p * t - 0.284496736f;
  p = p * t + 0.254829592f;
  const float tail = 0.5f * p * t * e;
  return {z < 0.0f ? tail : 1.0f - tail, 0.39894228f * e};
}

inline float gelu(float z) { return z * normal(z).below; }

inline float gelu_slope(float z) {
  const Normal at = normal(z);
  return at.below + z * at.density;
}

// How the rows are taken: `per_group` rows side by side are one group of `width` values; groups are dealt out in parts,
// and the rows that fill no group come last.
struct Tiling {
  long rows, channels, per_group, width, groups, parts;

  Tiling(long rows, long channels) : rows(rows), channels(channels) {
    per_group = std::min(rows, (kGroupWidth + channels - 1) / channels);
    width = per_group * channels;
    groups = rows / per_group;
    parts = std::min(kParts, groups);
  }
  long begin(long part) const { return groups * part / parts; }
  long tail_rows() const { return rows - groups * per_group; }
  long tail_offset() const { return groups * width; }

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
  if (part == tiling.parts - 1 && tiling.tail_rows() > 0) {
    visit(tiling.tail_offset(), tiling.tail_rows(), tiling.channels);
    after_run();
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
void add_moments(const T* __restrict x, long rows, long width, const float* __restrict shift, float* __restrict sum,
                 float* __restrict square) {
  long row = 0;
  for (; row + 4 <= rows; row += 4, x += 4 * width) {
#pragma omp simd
    for (long i = 0; i < width; ++i) {
      const float a = load(x + i) - shift[i], b = load(x + width + i) - shift[i];
      const float c = load(x + 2 * width + i) - shift[i], d = load(x + 3 * width + i) - shift[i];
      sum[i] += (a + b) + (c + d);
      square[i] += (a * a + b * b) + (c * c + d * d);
    }
  }
  for (; row < rows; ++row, x += width) {
#pragma omp simd
    for (long i = 0; i < width; ++i) {
      const float a = load(x + i) - shift[i];
      sum[i] += a;
      square[i] += a * a;
    }
  }
}

template <class T, Activation activation, bool with_residual>
void write_output(const T* __restrict x, const T* __restrict residual, T* __restrict y, long rows, long width,
                  const float* __restrict mean, const float* __restrict scale, const float* __restrict bias) {
  for (long row = 0; row < rows; ++row, x += width, residual += with_residual ? width : 0, y += width) {
#pragma omp simd
    for (long i = 0; i < width; ++i) {
      float z = affine(load(x + i) - mean[i], scale[i], bias[i]);
      if (with_residual) z += load(residual + i);
      if (activation == kRelu) z = z < 0.0f ? 0.0f : z;  // NaN stays NaN
      if (activation == kGelu) z = gelu(z);
      store(y + i, z);
    }
  }
}

// How g, the gradient before the activation, comes from dy, and what `other` is: nothing; ReLU's sign from x; from its
// output, in `other`; GELU's slope from x; from x and the residual, in `other`.
enum Slope { kOne, kReluOfInput, kReluOfOutput, kGeluOfInput, kGeluOfSum };

// Whether g is written: it is the residual's gradient.
constexpr bool writes_g(Slope slope) { return slope == kReluOfOutput || slope == kGeluOfSum; }

// Sums of g and of g * (x - mean).
template <class T, Slope how>
void add_gradient_sums(const T* __restrict dy, const T* __restrict x, const T* __restrict other, T* __restrict masked,
                       long rows, long width, const float* __restrict mean, const float* __restrict scale,
                       const float* __restrict bias, float* __restrict sum, float* __restrict product) {
  for (long row = 0; row < rows; ++row, dy += width, x += width) {
#pragma omp simd
    for (long i = 0; i < width; ++i) {
      const float centred = load(x + i) - mean[i];
      float g = load(dy + i);
      if (how == kReluOfInput) g = affine(centred, scale[i], bias[i]) > 0.0f ? g : 0.0f;
      if (how == kReluOfOutput) g = load(other + i) > 0.0f ? g : 0.0f;
      if (how == kGeluOfInput) g *= gelu_slope(affine(centred, scale[i], bias[i]));
      if (how == kGeluOfSum) g *= gelu_slope(affine(centred, scale[i], bias[i]) + load(other + i));
      if (writes_g(how)) store(masked + i, g);
      sum[i] += g;
      product[i] += g * centred;
    }
    if (writes_g(how)) other += width, masked += width;
  }
}

// dx = scale * g + slope * (x - mean) + offset
template <class T, Slope how>
void write_input_gradient(const T* __restrict dy, const T* __restrict x, T* __restrict dx, long rows, long width,
                          const float* __restrict mean, const float* __restrict scale, const float* __restrict bias,
                          const float* __restrict slope, const float* __restrict offset) {
  for (long row = 0; row < rows; ++row, dy += width, x += width, dx += width) {
#pragma omp simd
    for (long i = 0; i < width; ++i) {
      const float centred = load(x + i) - mean[i];
      float g = load(dy + i);
      if (how == kReluOfInput) g = affine(centred, scale[i], bias[i]) > 0.0f ? g : 0.0f;
      if (how == kGeluOfInput) g *= gelu_slope(affine(centred, scale[i], bias[i]));
      store(dx + i, scale[i] * g + (slope[i] * centred + offset[i]));
    }
  }
}

template <class T>
void apply(const Tiling& tiling, const T* x, const T* residual, T* y, int activation,
           const std::vector<float>& mean, const std::vector<float>& scale, const std::vector<float>& bias) {
  const auto choose = [&](auto plain, auto with_residual) { return residual ? with_residual : plain; };
  const auto write = activation == kRelu   ? choose(write_output<T, kRelu, false>, write_output<T, kRelu, true>)
                     : activation == kGelu ? choose(write_output<T, kGelu, false>, write_output<T, kGelu, true>)
                                           : choose(write_output<T, kNone, false>, write_output<T, kNone, true>);
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
void forward_training(const T* x, const T* residual, T* y, long rows, long channels, int activation,
                      const float* weight, const float* bias, float* running_mean, float* running_var, double momentum,
                      double eps, float* mean, float* scale, float* inverse_std, int threads) {
  const Tiling tiling(rows, channels);
  // The sum of squares loses what mean and shift differ by, squared; a few rows' mean is near enough.
  std::vector<float> shift(channels, 0.0f);
  const long samples = std::min(rows, kShiftSamples);
  for (long sample = 0; sample < samples; ++sample) {
    const T* row = x + rows * sample / samples * channels;
    for (long c = 0; c < channels; ++c) shift[c] += load(row + c) / samples;
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
    apply(tiling, x, residual, y, activation, means, scales, biases);
  }
}

template <class T>
void forward_fixed(const T* x, const T* residual, T* y, long rows, long channels, int activation,
                   const float* mean, const float* scale, const float* bias, int threads) {
  const Tiling tiling(rows, channels);
  const std::vector<float> means = tiling.repeated(mean), scales = tiling.repeated(scale);
  const std::vector<float> biases = tiling.repeated(bias);
#pragma omp parallel num_threads(threads)
  apply(tiling, x, residual, y, activation, means, scales, biases);
}

// `masked` receives g where it is written, which is what the second pass then reads.
template <class T, Slope how>
void backward(const T* dy, const T* x, const T* other, T* dx, T* masked, long rows, long channels, const float* mean,
              const float* scale, const float* inverse_std, const float* bias, float* dweight, float* dbias,
              int threads) {
  const Tiling tiling(rows, channels);
  const std::vector<float> means = tiling.repeated(mean), scales = tiling.repeated(scale);
  const std::vector<float> biases = tiling.repeated(bias);
  std::vector<double> sums(tiling.parts * channels, 0.0), products(tiling.parts * channels, 0.0);
  std::vector<float> slopes, offsets;
  const T* gradient = writes_g(how) ? masked : dy;
#pragma omp parallel num_threads(threads)
  {
    std::vector<float> sum(tiling.width, 0.0f), product(tiling.width, 0.0f);
    for_my_parts(tiling, false, [&](long part) {
      for_each_run(
          tiling, part,
          [&](long at, long count, long width) {
            add_gradient_sums<T, how>(dy + at, x + at, other ? other + at : nullptr, masked ? masked + at : nullptr,
                                      count, width, means.data(), scales.data(), biases.data(), sum.data(),
                                      product.data());
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
              write_input_gradient<T, writes_g(how) ? kOne : how>(
                  gradient + at, x + at, dx + at, count, width, means.data(), scales.data(), biases.data(),
                  slopes.data(), offsets.data());
            },
            [] {});
      });
  }
}

template <class T>
void backward_any(const void* dy, const void* x, const void* other, void* dx, void* masked, long rows, long channels,
                  int activation, const float* mean, const float* scale, const float* inverse_std, const float* bias,
                  float* dweight, float* dbias, int threads) {
  const auto run = activation == kRelu   ? (other ? backward<T, kReluOfOutput> : backward<T, kReluOfInput>)
                   : activation == kGelu ? (other ? backward<T, kGeluOfSum> : backward<T, kGeluOfInput>)
                                         : backward<T, kOne>;
  run(static_cast<const T*>(dy), static_cast<const T*>(x), static_cast<const T*>(other), static_cast<T*>(dx),
      static_cast<T*>(masked), rows, channels, mean, scale, inverse_std, bias, dweight, dbias, threads);
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
// be null, as may `residual`.
int norm_act_add_training(int is_bf16, const void* x, const void* residual, void* y, long rows, long channels,
                          int activation, const float* weight, const float* bias, float* running_mean,
                          float* running_var, double momentum, double eps, float* mean, float* scale,
                          float* inverse_std, int threads) {
  return out_of_memory([&] {
    if (is_bf16)
      forward_training(static_cast<const uint16_t*>(x), static_cast<const uint16_t*>(residual),
                       static_cast<uint16_t*>(y), rows, channels, activation, weight, bias, running_mean,
                       running_var, momentum, eps, mean, scale, inverse_std, threads);
    else
      forward_training(static_cast<const float*>(x), static_cast<const float*>(residual), static_cast<float*>(y), rows,
                       channels, activation, weight, bias, running_mean, running_var, momentum, eps, mean, scale,
                       inverse_std, threads);
  });
}

int norm_act_add_fixed(int is_bf16, const void* x, const void* residual, void* y, long rows, long channels,
                       int activation, const float* mean, const float* scale, const float* bias, int threads) {
  return out_of_memory([&] {
    if (is_bf16)
      forward_fixed(static_cast<const uint16_t*>(x), static_cast<const uint16_t*>(residual), static_cast<uint16_t*>(y),
                    rows, channels, activation, mean, scale, bias, threads);
    else
      forward_fixed(static_cast<const float*>(x), static_cast<const float*>(residual), static_cast<float*>(y), rows,
                    channels, activation, mean, scale, bias, threads);
  });
}

// With a residual and an activation, `other` is ReLU's output or GELU's residual, and `masked` is where the residual's
// gradient is written; else both are null. `dx` may be null.
int norm_act_add_backward(int is_bf16, const void* dy, const void* x, const void* other, void* dx, void* masked,
                          long rows, long channels, int activation, const float* mean, const float* scale,
                          const float* inverse_std, const float* bias, float* dweight, float* dbias, int threads) {
  const auto run = is_bf16 ? backward_any<uint16_t> : backward_any<float>;
  return out_of_memory([&] {
    run(dy, x, other, dx, masked, rows, channels, activation, mean, scale, inverse_std, bias, dweight, dbias, threads);
  });
}
}
