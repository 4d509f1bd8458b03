// Dropout: y = x / (1 - p) where the element's random word is at least the threshold p * 2^32, else 0 * x.
//
// The words come from Threefry-2x32 with 13 rounds (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"),
// keyed by a seed. A word is a function of the seed and of the element's place in memory alone, so a result has the same
// bits for any number of threads, and the gradient's mask is drawn again instead of being stored. Values are float or
// bfloat16 (as uint16_t). Nothing here includes torch: it is called through ctypes.

#include <algorithm>
#include <cstdint>
#include <cstring>

namespace {

constexpr long kCounters = 256;         // of a chunk; each gives two words
constexpr long kChunk = 2 * kCounters;  // elements
constexpr long kWorthThreads = 64 * kChunk;

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

inline void round(uint32_t& a, uint32_t& b, int rotation) {
  a += b;
  b = (b << rotation) | (b >> (32 - rotation));
  b ^= a;
}

// The words of elements kChunk * chunk onwards: of counter i, the first goes to element i, the second to kCounters + i.
void draw(uint64_t seed, uint64_t chunk, uint32_t* __restrict words) {
  const uint32_t key0 = static_cast<uint32_t>(seed), key1 = static_cast<uint32_t>(seed >> 32);
  const uint32_t key2 = 0x1bd11bdau ^ key0 ^ key1;
  const uint64_t first = chunk * kCounters;  // a multiple of kCounters, so the low half below does not overflow
  const uint32_t low = static_cast<uint32_t>(first), high = static_cast<uint32_t>(first >> 32);
#pragma omp simd
  for (uint32_t i = 0; i < kCounters; ++i) {
    uint32_t a = low + i + key0, b = high + key1;
    round(a, b, 13), round(a, b, 15), round(a, b, 26), round(a, b, 6);
    a += key1, b += key2 + 1;
    round(a, b, 17), round(a, b, 29), round(a, b, 16), round(a, b, 24);
    a += key2, b += key0 + 2;
    round(a, b, 13), round(a, b, 15), round(a, b, 26), round(a, b, 6);
    a += key0, b += key1 + 3;
    round(a, b, 17);
    words[i] = a;
    words[kCounters + i] = b;
  }
}

template <class T>
void drop(const T* __restrict x, T* __restrict y, long size, uint64_t seed, uint32_t threshold, float scale,
          int threads) {
#pragma omp parallel for num_threads(threads) schedule(static) if (size >= kWorthThreads)
  for (long first = 0; first < size; first += kChunk) {
    uint32_t words[kChunk];
    draw(seed, first / kChunk, words);
    const long count = std::min(kChunk, size - first);
#pragma omp simd
    for (long i = 0; i < count; ++i) {
      const float factor = words[i] >= threshold ? scale : 0.0f;
      store(y + first + i, load(x + first + i) * factor);  // NaN and infinity times 0 are NaN, as in torch
    }
  }
}

}  // namespace

extern "C" {

void dropout(int is_bf16, const void* x, void* y, long size, uint64_t seed, uint32_t threshold, float scale,
             int threads) {
  if (is_bf16)
    drop(static_cast<const uint16_t*>(x), static_cast<uint16_t*>(y), size, seed, threshold, scale, threads);
  else
    drop(static_cast<const float*>(x), static_cast<float*>(y), size, seed, threshold, scale, threads);
}
}
