// Max pooling by 2 of channels-last images, forward and backward, each in one pass over memory.
//
// x: [count, height, width, channels] -> y: [count, height / 2, width / 2, channels], rounded down: what is left over at
// an odd side belongs to no window. `winners`: which pixel of a window is its maximum, 0 to 3 in row-major order; the
// first among equal ones and the last among NaN, as torch chooses.
//
// Values are float or bfloat16 (as uint16_t). Nothing here includes torch: it is called through ctypes.

#include <algorithm>
#include <cstdint>
#include <cstring>

namespace {

inline float load(const float* p) { return *p; }

inline float load(const uint16_t* p) {
  const uint32_t bits = static_cast<uint32_t>(*p) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// A window's maximum of each channel; `right` and `below` are the steps to the window's other pixels.
template <class T>
void pool(const T* __restrict x, long right, long below, T* __restrict y, uint8_t* __restrict winner, long channels) {
#pragma omp simd
  for (long c = 0; c < channels; ++c) {
    const T values[4] = {x[c], x[right + c], x[below + c], x[below + right + c]};
    T best = values[0];
    uint8_t which = 0;
    for (uint8_t number = 1; number < 4; ++number) {
      const float value = load(&values[number]);
      const bool wins = value > load(&best) || value != value;
      best = wins ? values[number] : best;
      which = wins ? number : which;
    }
    y[c] = best;
    winner[c] = which;
  }
}

template <class T>
void forward(const T* x, T* y, uint8_t* winners, long count, long height, long width, long channels, int threads) {
  const long rows = height / 2, columns = width / 2, below = width * channels;
#pragma omp parallel for num_threads(threads) schedule(static)
  for (long row = 0; row < count * rows; ++row) {
    const T* window = x + (row / rows * height + row % rows * 2) * below;
    for (long out = row * columns * channels, end = out + columns * channels; out < end; out += channels) {
      pool(window, channels, below, y + out, winners + out, channels);
      window += 2 * channels;
    }
  }
}

// dy goes to a window's maximum and 0 to its other pixels.
template <class T>
void unpool(const T* __restrict dy, const uint8_t* __restrict winner, T* __restrict dx, long right, long below,
            long channels) {
#pragma omp simd
  for (long c = 0; c < channels; ++c) {
    const T gradient = dy[c];
    dx[c] = winner[c] == 0 ? gradient : T(0);
    dx[right + c] = winner[c] == 1 ? gradient : T(0);
    dx[below + c] = winner[c] == 2 ? gradient : T(0);
    dx[below + right + c] = winner[c] == 3 ? gradient : T(0);
  }
}

template <class T>
void backward(const T* dy, const uint8_t* winners, T* dx, long count, long height, long width, long channels,
              int threads) {
  const long rows = height / 2, columns = width / 2, below = width * channels;
#pragma omp parallel for num_threads(threads) schedule(static)
  for (long row = 0; row < count * rows; ++row) {
    T* top = dx + (row / rows * height + row % rows * 2) * below;
    T* window = top;
    for (long out = row * columns * channels, end = out + columns * channels; out < end; out += channels) {
      unpool(dy + out, winners + out, window, channels, below, channels);
      window += 2 * channels;
    }
    if (width % 2) {
      std::fill(window, top + below, T(0));
      std::fill(window + below, top + 2 * below, T(0));
    }
    if (height % 2 && row % rows == rows - 1) std::fill(top + 2 * below, top + 3 * below, T(0));
  }
}

}  // namespace

extern "C" {

void max_pool_forward(int is_bf16, const void* x, void* y, uint8_t* winners, long count, long height, long width,
                      long channels, int threads) {
  if (is_bf16)
    forward(static_cast<const uint16_t*>(x), static_cast<uint16_t*>(y), winners, count, height, width, channels,
            threads);
  else
    forward(static_cast<const float*>(x), static_cast<float*>(y), winners, count, height, width, channels, threads);
}

void max_pool_backward(int is_bf16, const void* dy, void* dx, const uint8_t* winners, long count, long height,
                       long width, long channels, int threads) {
  if (is_bf16)
    backward(static_cast<const uint16_t*>(dy), winners, static_cast<uint16_t*>(dx), count, height, width, channels,
             threads);
  else
    backward(static_cast<const float*>(dy), winners, static_cast<float*>(dx), count, height, width, channels, threads);
}
}
