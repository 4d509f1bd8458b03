// Convolutions of channels-last bfloat16 images on the matrix units of x86 processors (AMX), forward and both gradients.
//
// A tile is 16 rows of 64 bytes. One instruction adds the product of two to a third,
//
//   sum[16][16] float  +=  left[16][32] bfloat16  *  right[32][16] bfloat16       right lies as [16 pairs][16][2]
//
// Libraries take neighbouring pixels of an image as rows, so that small images leave rows empty and every tap of the
// filter needs the pixels shifted. Here a row is an image: at one place of the output, and for one tap, the same place
// of 32 images is multiplied. No shift is ever copied, and taps that lie outside of the image are not computed at all
// (of 4x4 images 31 % of a 3x3 filter's, of 8x8 ones 16 %).
//
//   y[place]  = sum over taps and inputs   x[place + tap] * w[tap]         rows: images, inside: input channels
//   dx[place] = sum over taps and outputs  dy[place - tap] * w[tap]        rows: images, inside: output channels
//   dw[tap]   = sum over places and images dy[place] * x[place + tap]      rows: output channels, inside: images
//
// Images are packed into tiles row by row, as many at a time as stay in the cache. Channels that fill no tile are
// filled up with zeros. Of a grouped convolution only the tiles that groups touch are computed.
//
// Products and sums are float; the weights are rounded to bfloat16 here and their gradient is never rounded. Sums run
// in an order that does not depend on the number of threads. Nothing here includes torch (see build.py).

#include <immintrin.h>
#include <omp.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

#if !defined(__AMX_BF16__) || !defined(__AVX512BF16__) || !defined(__AVX512BW__)
#error "this kernel needs a processor with AMX and AVX-512 for bfloat16"
#endif

namespace {

using bf16 = uint16_t;

constexpr long kRows = 16, kInside = 32, kTile = kRows * kInside;  // of a tile; kTile bfloat16 are 1 KB
constexpr long kImages = 2 * kRows;                                 // a block of images
static_assert(kImages == kInside, "the weights' gradient sums over a block of images");

// Bytes of packed rows at a time, for 2 MB of L2 a core; other sizes have not been tried.
constexpr long kBandBytes = 768 << 10, kSharedBandBytes = 4 << 20;
// The weights' gradient of few channels is summed in parts, each by one thread on its own; of many, where every part
// would need sums as large as the weights, by all threads together.
constexpr long kParts = 8, kMaxPartBytes = 640 << 10;

struct Shape {
  long images, channels[2], height[2], width[2];  // of input and output
  long kernel, stride, padding, groups;
  long taps() const { return kernel * kernel; }
};
constexpr int kIn = 0, kOut = 1;

long up(long value, long unit) { return (value + unit - 1) / unit; }

// 64-byte aligned memory; throws std::bad_alloc.
template <class T>
std::unique_ptr<T[], decltype(&std::free)> reserve(long count) {
  void* memory = std::aligned_alloc(64, up(count * sizeof(T), 64) * 64);
  if (!memory) throw std::bad_alloc();
  return {static_cast<T*>(memory), &std::free};
}

// ---- tiles ----

struct TileConfig {
  TileConfig() {
    alignas(64) uint8_t config[64] = {1};  // palette 1
    for (int tile = 0; tile < 8; ++tile) {
      config[16 + 2 * tile] = 64;  // bytes a row
      config[48 + tile] = kRows;
    }
    _tile_loadconfig(config);
  }
  ~TileConfig() { _tile_release(); }
};

// The compiler's own intrinsics take the tile's number as text, which templates cannot give.
template <int tile>
inline void load(const void* from, long stride = 64) {
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(from), "r"(stride), "i"(tile) : "memory");
}
template <int tile>
inline void store(void* to) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(to), "r"(64L), "i"(tile) : "memory");
}
template <int tile>
inline void clear() {
  asm volatile("tilezero %%tmm%c0" ::"i"(tile));
}
template <int sum, int left, int right>
inline void add_product() {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(sum), "i"(left), "i"(right));
}

// ---- packing ----

inline __mmask32 first(long count) {
  return count >= 32 ? 0xffffffffu : count <= 0 ? 0u : (1u << count) - 1;
}
inline __mmask16 first16(long count) { return static_cast<__mmask16>(first(count)); }

// [a0 b0 a1 b1 ...] of 16 values each.
inline __m512i interleave(__m256i a, __m256i b) {
  return _mm512_or_si512(_mm512_cvtepu16_epi32(a), _mm512_slli_epi32(_mm512_cvtepu16_epi32(b), 16));
}

inline __m256i rounded(__m512 values) { return (__m256i)_mm512_cvtneps_pbh(values); }

// rows[i] lane j <-> rows[j] lane i, of 32-bit lanes.
inline void transpose(__m512i rows[16]) {
  __m512i t[16];
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_epi32(rows[i], rows[i + 1]);
    t[i + 1] = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {
    rows[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
    rows[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
    rows[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
    rows[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
  for (int i = 0; i < 4; ++i) {
    t[i] = _mm512_shuffle_i32x4(rows[i], rows[i + 4], 0x88);
    t[i + 4] = _mm512_shuffle_i32x4(rows[i], rows[i + 4], 0xdd);
    t[i + 8] = _mm512_shuffle_i32x4(rows[i + 8], rows[i + 12], 0x88);
    t[i + 12] = _mm512_shuffle_i32x4(rows[i + 8], rows[i + 12], 0xdd);
  }
  for (int i = 0; i < 4; ++i) {
    rows[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
    rows[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
    rows[i + 4] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0x88);
    rows[i + 12] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0xdd);
  }
}

// Channels-last images of one side of the convolution.
struct Images {
  const bf16* values;
  long count, channels, height, width;
  const bf16* at(long image, long row, long column) const {
    return values + ((image * height + row) * width + column) * channels;
  }
};

// A row of 32 images from `image` on, as left tiles: [width][chunks of 32 channels][2][16 images][32 channels].
void pack_left(const Images& x, long image, long row, bf16* to) {
  const long chunks = up(x.channels, kInside);
  for (long i = 0; i < kImages; ++i) {
    bf16* into = to + i / kRows * kTile + i % kRows * kInside;
    if (image + i >= x.count) {
      for (long tile = 0; tile < x.width * chunks; ++tile, into += 2 * kTile)
        _mm512_store_si512(into, _mm512_setzero_si512());
      continue;
    }
    const bf16* from = x.at(image + i, row, 0);
    for (long column = 0; column < x.width; ++column, from += x.channels)
      for (long chunk = 0; chunk < chunks; ++chunk, into += 2 * kTile)
        _mm512_store_si512(into, _mm512_maskz_loadu_epi16(first(x.channels - chunk * kInside), from + chunk * kInside));
  }
}

// As right tiles, images inside: [width][`chunks` of 16 channels][16 pairs of images][16 channels][2].
void pack_right(const Images& x, long image, long row, long chunks, bf16* to) {
  for (long pair = 0; pair < kRows; ++pair) {
    const long left = std::clamp(x.count - image - 2 * pair, 0L, 2L);  // images
    const bf16* even = x.at(left > 0 ? image + 2 * pair : 0, row, 0);
    const bf16* odd = x.at(left > 1 ? image + 2 * pair + 1 : 0, row, 0);
    bf16* into = to + pair * kInside;
    for (long column = 0; column < x.width; ++column, even += x.channels, odd += x.channels)
      for (long chunk = 0; chunk < chunks; ++chunk, into += kTile) {
        const __mmask16 mask = first16(x.channels - chunk * kRows);
        const __m256i a = _mm256_maskz_loadu_epi16(left > 0 ? mask : 0, even + chunk * kRows);
        const __m256i b = _mm256_maskz_loadu_epi16(left > 1 ? mask : 0, odd + chunk * kRows);
        _mm512_store_si512(into, interleave(a, b));
      }
  }
}

// As left tiles, images inside: [width][`chunks` of 16 channels][16 channels][32 images]. `sums`: of each channel over
// the row, [`chunks` of 16 channels]. Reading the images one pair after the other and turning the tiles in place is
// faster than gathering each tile from 32 images (measured: the whole gradient 1.2 times, 64 channels at 32x32), whose
// distances fall on the same lines of the cache.
void pack_turned(const Images& x, long image, long row, long chunks, bf16* to, float* sums) {
  const __m512bh one = (__m512bh)_mm512_set1_epi16(0x3f80);
  std::fill_n(sums, chunks * kRows, 0.0f);
  pack_right(x, image, row, chunks, to);
  for (long column = 0; column < x.width; ++column)
    for (long chunk = 0; chunk < chunks; ++chunk, to += kTile) {
      __m512 sum = _mm512_loadu_ps(sums + chunk * kRows);
      __m512i pairs[16];
      for (long pair = 0; pair < 16; ++pair) {
        pairs[pair] = _mm512_load_si512(to + pair * kInside);
        sum = _mm512_dpbf16_ps(sum, (__m512bh)pairs[pair], one);
      }
      _mm512_storeu_ps(sums + chunk * kRows, sum);
      transpose(pairs);
      for (long channel = 0; channel < 16; ++channel) _mm512_store_si512(to + channel * kInside, pairs[channel]);
    }
}

// The channels of the other side that the groups of `count` channels from `begin` on touch.
struct Range {
  long begin, end;
};
Range touched(const Shape& shape, int side, long begin, long count) {
  const long own = shape.channels[side] / shape.groups, others = shape.channels[1 - side] / shape.groups;
  const long last = std::min(begin + count, shape.channels[side]) - 1;
  return {begin / own * others, (last / own + 1) * others};
}

// The weights, float [out][taps][in of a group], as right tiles for the sum over `inside` (kIn forward, kOut backward):
// a panel for each 32 channels of the other side, [taps][chunks of 32 inside][2][16 pairs][16 channels][2].
struct Panels {
  const Shape& shape;
  const int inside;
  std::vector<long> begin;     // of each panel, in tiles
  std::vector<Range> chunks;   // of 32 inside, that each panel touches

  Panels(const Shape& shape, int inside) : shape(shape), inside(inside), begin{0} {
    for (long first = 0; first < shape.channels[1 - inside]; first += 2 * kRows) {
      const Range range = touched(shape, 1 - inside, first, 2 * kRows);
      chunks.push_back({range.begin / kInside, up(range.end, kInside)});
      begin.push_back(begin.back() + shape.taps() * (chunks.back().end - chunks.back().begin) * 2);
    }
  }
  long count() const { return static_cast<long>(chunks.size()); }

  void pack(long panel, const float* weights, bf16* to) const {
    to += begin[panel] * kTile;
    for (long tap = 0; tap < shape.taps(); ++tap)
      for (long chunk = chunks[panel].begin; chunk < chunks[panel].end; ++chunk)
        for (long half = 0; half < 2; ++half, to += kTile) {
          const long outside = panel * 2 * kRows + half * kRows;
          if (inside == kIn)
            pack_forward(weights, tap, outside, chunk * kInside, to);
          else
            pack_backward(weights, tap, outside, chunk * kInside, to);
        }
  }

 private:
  // 16 values of a filter, for input channels from `in` on; 0 outside of its group.
  __m512 values(const float* weights, long out, long tap, long in) const {
    const long of_group = shape.channels[kIn] / shape.groups;
    if (out >= shape.channels[kOut]) return _mm512_setzero_ps();
    const long group = out / (shape.channels[kOut] / shape.groups);
    const long skipped = std::clamp(group * of_group - in, 0L, kRows);
    const long wanted = std::clamp((group + 1) * of_group - in, 0L, kRows);
    const __mmask16 mask = first16(wanted) & ~first16(skipped);
    return _mm512_maskz_loadu_ps(mask, weights + (out * shape.taps() + tap) * of_group + in - group * of_group);
  }
  void pack_forward(const float* weights, long tap, long out, long in, bf16* to) const {
    __m512i rows[16];
    for (long k = 0; k < 16; ++k) {
      const __m256i low = rounded(values(weights, out + k, tap, in));
      const __m256i high = rounded(values(weights, out + k, tap, in + kRows));
      rows[k] = _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
    }
    transpose(rows);
    for (long pair = 0; pair < 16; ++pair) _mm512_store_si512(to + pair * kInside, rows[pair]);
  }
  void pack_backward(const float* weights, long tap, long in, long out, bf16* to) const {
    for (long pair = 0; pair < 16; ++pair) {
      const __m256i even = rounded(values(weights, out + 2 * pair, tap, in));
      const __m256i odd = rounded(values(weights, out + 2 * pair + 1, tap, in));
      _mm512_store_si512(to + pair * kInside, interleave(even, odd));
    }
  }
};

// ---- output, and gradient of the input ----

// What an output place sums over along one axis: taps, and the place of the other side that each reads.
struct Axis {
  struct Step {
    long tap, source;
  };
  std::vector<std::vector<Step>> steps;

  Axis(const Shape& shape, int inside, const long (&lengths)[2]) : steps(lengths[1 - inside]) {
    for (long in = 0; in < lengths[kIn]; ++in)
      for (long out = 0; out < lengths[kOut]; ++out) {
        const long tap = in + shape.padding - out * shape.stride;
        if (tap < 0 || tap >= shape.kernel) continue;
        if (inside == kIn)
          steps[out].push_back({tap, in});
        else
          steps[in].push_back({tap, out});
      }
  }
  // The sources of places from `begin` to `end`; empty where there are none.
  Range sources(long begin, long end) const {
    Range range{0, 0};
    for (long place = begin; place < end; ++place)
      for (const Step& step : steps[place])
        range = range.end == 0 ? Range{step.source, step.source + 1}
                               : Range{std::min(range.begin, step.source), std::max(range.end, step.source + 1)};
    return range;
  }
};

// y[32 images][place][32 channels] from the sums in tiles 0 to 3.
inline void write_output(bf16* y, long image_stride, long images, long channels, const float* bias) {
  alignas(64) float sums[4][kRows * kRows];
  store<0>(sums[0]);
  store<1>(sums[1]);
  store<2>(sums[2]);
  store<3>(sums[3]);
  const __mmask32 mask = first(channels);
  __m512 low = _mm512_setzero_ps(), high = low;
  if (bias) {
    low = _mm512_maskz_loadu_ps(first16(channels), bias);
    high = _mm512_maskz_loadu_ps(first16(channels - kRows), bias + kRows);
  }
  for (long i = 0; i < images; ++i, y += image_stride) {
    const __m512 a = _mm512_add_ps(_mm512_load_ps(sums[i / kRows * 2] + i % kRows * kRows), low);
    const __m512 b = _mm512_add_ps(_mm512_load_ps(sums[i / kRows * 2 + 1] + i % kRows * kRows), high);
    _mm512_mask_storeu_epi16(y, mask, (__m512i)_mm512_cvtne2ps_pbh(b, a));
  }
}

// `inside` kIn: y from x; kOut: dx from dy.
void convolve(const Shape& shape, int inside, const bf16* x, const float* weights, const float* bias, bf16* y,
              int threads) {
  const int outside = 1 - inside;
  const Images from{x, shape.images, shape.channels[inside], shape.height[inside], shape.width[inside]};
  const long channels = shape.channels[outside], height = shape.height[outside], width = shape.width[outside];
  const Panels panels(shape, inside);
  const Axis rows(shape, inside, shape.height), columns(shape, inside, shape.width);
  const long chunks = up(from.channels, kInside), row_size = from.width * chunks * 2 * kTile;

  // As many output rows at a time as leave the packed rows that they read in the cache.
  const auto reach = [&](long band) {
    long longest = 1;
    for (long row = 0; row < height; row += band) {
      const Range range = rows.sources(row, std::min(height, row + band));
      longest = std::max(longest, range.end - range.begin);
    }
    return longest;
  };
  long band = 1;
  while (band < height && reach(band + 1) * row_size * static_cast<long>(sizeof(bf16)) <= kBandBytes) ++band;
  const long slots = reach(band);

  const long blocks = up(shape.images, kImages);
  // Several tasks a block of images only where there are many threads: each packs its own first rows.
  const long wanted = std::clamp(up(2L * threads, blocks), 1L, up(height, band));
  const long task_rows = threads == 1 ? height : up(up(height, wanted), band) * band;
  const long tasks_a_block = up(height, task_rows);

  const auto packed_weights = reserve<bf16>(panels.begin.back() * kTile);
  const auto packed_rows = reserve<bf16>(threads * slots * row_size);
#pragma omp parallel num_threads(threads)
  {
#pragma omp for schedule(dynamic, 1)
    for (long panel = 0; panel < panels.count(); ++panel) panels.pack(panel, weights, packed_weights.get());
    const TileConfig config;
    bf16* const own = packed_rows.get() + omp_get_thread_num() * slots * row_size;
#pragma omp for schedule(dynamic, 1)
    for (long task = 0; task < blocks * tasks_a_block; ++task) {
      const long image = task / tasks_a_block * kImages;
      const long begin = task % tasks_a_block * task_rows, end = std::min(height, begin + task_rows);
      long packed = 0;  // rows below are packed, or not needed any more
      for (long top = begin; top < end; top += band) {
        const long bottom = std::min(end, top + band);
        const Range range = rows.sources(top, bottom);
        for (long row = std::max(packed, range.begin); row < range.end; ++row)
          pack_left(from, image, row, own + row % slots * row_size);
        packed = std::max(packed, range.end);
        for (long panel = 0; panel < panels.count(); ++panel) {
          const bf16* const right = packed_weights.get() + panels.begin[panel] * kTile;
          const Range inner = panels.chunks[panel];
          const long inner_size = (inner.end - inner.begin) * 2 * kTile;
          for (long row = top; row < bottom; ++row)
            for (long column = 0; column < width; ++column) {
              clear<0>();
              clear<1>();
              clear<2>();
              clear<3>();
              for (const Axis::Step& vertical : rows.steps[row])
                for (const Axis::Step& horizontal : columns.steps[column]) {
                  const bf16* a = own + vertical.source % slots * row_size +
                                  (horizontal.source * chunks + inner.begin) * 2 * kTile;
                  const bf16* b = right + (vertical.tap * shape.kernel + horizontal.tap) * inner_size;
                  for (const bf16* const stop = b + inner_size; b < stop; a += 2 * kTile, b += 2 * kTile) {
                    load<4>(a);
                    load<6>(b);
                    load<7>(b + kTile);
                    load<5>(a + kTile);
                    add_product<0, 4, 6>();
                    add_product<1, 4, 7>();
                    add_product<2, 5, 6>();
                    add_product<3, 5, 7>();
                  }
                }
              const long channel = panel * 2 * kRows;
              write_output(y + ((image * height + row) * width + column) * channels + channel,
                           height * width * channels, std::min(kImages, shape.images - image), channels - channel,
                           bias ? bias + channel : nullptr);
            }
        }
      }
    }
  }
}

// ---- gradient of the weights ----

constexpr int kWide = 3;  // taps side by side that are summed at once

// Where the packed rows of one block of images lie.
struct Packed {
  const bf16 *x, *dy;                             // x in slots; dy from row `top` on
  long x_row, dy_row, x_column, dy_column, slots;  // distances
};

// What is summed at once: `taps` taps side by side in row `tap_row` of the filter, `lefts` x 16 output channels, 2 x 16
// input channels. Tiles 0 to 5 hold the sums.
template <int lefts, int taps>
struct Sums {
  static constexpr int kLeft = lefts * taps * 2, kRight = kLeft + lefts;
  static_assert(kRight < 8, "there are eight tiles");

  template <int tile = 0>
  static void load_all(float* const* sums, bool fresh) {
    if constexpr (tile < kLeft) {
      if (fresh)
        clear<tile>();
      else
        load<tile>(sums[tile]);
      load_all<tile + 1>(sums, fresh);
    }
  }
  template <int tile = 0>
  static void store_all(float* const* sums) {
    if constexpr (tile < kLeft) {
      store<tile>(sums[tile]);
      store_all<tile + 1>(sums);
    }
  }
  // x: the two tiles that tap 0 reads; `valid` of the taps are inside of the image.
  template <int tap = 0>
  static void add(const bf16* x, long x_column, unsigned valid) {
    if constexpr (tap < taps) {
      if (valid >> tap & 1) {
        constexpr int kSecond = kRight < 7 ? kRight + 1 : kRight;
        load<kRight>(x + tap * x_column);
        add_product<tap * 2, kLeft, kRight>();
        if constexpr (lefts == 2) add_product<(taps + tap) * 2, kLeft + 1, kRight>();
        load<kSecond>(x + tap * x_column + kTile);
        add_product<tap * 2 + 1, kLeft, kSecond>();
        if constexpr (lefts == 2) add_product<(taps + tap) * 2 + 1, kLeft + 1, kSecond>();
      }
      add<tap + 1>(x, x_column, valid);
    }
  }
  static void add_row(const Shape& shape, const bf16* x, const bf16* dy, const Packed& packed, long first_tap) {
    for (long column = 0; column < shape.width[kOut]; ++column, dy += packed.dy_column) {
      const long source = column * shape.stride - shape.padding + first_tap;
      load<kLeft>(dy);
      if constexpr (lefts == 2) load<kLeft + 1>(dy + kTile);
      if (source >= 0 && source + taps <= shape.width[kIn]) {
        add(x + source * packed.x_column, packed.x_column, (1u << taps) - 1);
      } else {
        unsigned valid = 0;
        for (int tap = 0; tap < taps; ++tap)
          valid |= static_cast<unsigned>(source + tap >= 0 && source + tap < shape.width[kIn]) << tap;
        add(x + source * packed.x_column, packed.x_column, valid);
      }
    }
  }
};

// A pair of 16 output channels (or one of them) and 2 x 16 input channels.
struct Task {
  long left, right;  // in units of 16 channels
};

struct WeightGradient {
  const Shape& shape;
  const Images x, dy;
  const long lefts;             // 16 output channels at once: 2 where the filter has one tap a row
  const long lefts_all, rights_all;  // units of 16 channels
  const long x_row, dy_row;     // sizes of packed rows
  std::vector<Task> tasks;

  WeightGradient(const Shape& shape, const bf16* x, const bf16* dy)
      : shape(shape),
        x{x, shape.images, shape.channels[kIn], shape.height[kIn], shape.width[kIn]},
        dy{dy, shape.images, shape.channels[kOut], shape.height[kOut], shape.width[kOut]},
        lefts(shape.kernel % kWide == 0 ? 1 : 2),
        lefts_all(up(up(shape.channels[kOut], kRows), lefts) * lefts),
        rights_all(up(shape.channels[kIn], 2 * kRows) * 2),
        x_row(shape.width[kIn] * rights_all * kTile),
        dy_row(shape.width[kOut] * lefts_all * kTile) {
    for (long left = 0; left < lefts_all; left += lefts) {
      const Range range = touched(shape, kOut, left * kRows, lefts * kRows);
      for (long right = range.begin / kInside * 2; right * kRows < range.end; right += 2) tasks.push_back({left, right});
    }
  }
  // Sums of a task and tap lie together: [tasks][taps][lefts][2][16][16].
  long sums_size() const { return static_cast<long>(tasks.size()) * shape.taps() * lefts * 2 * kRows * kRows; }

  template <int lefts, int taps>
  void run(long number, const Packed* blocks, long count, long top, long bottom, bool fresh, float* sums) const {
    const Task task = tasks[number];
    const long size = kRows * kRows;
    for (long tap_row = 0; tap_row < shape.kernel; ++tap_row)
      for (long first_tap = 0; first_tap < shape.kernel; first_tap += taps) {
        float* places[8];
        for (long left = 0; left < lefts; ++left)
          for (long tap = 0; tap < taps; ++tap)
            for (long right = 0; right < 2; ++right) {
              const long flat = number * shape.taps() + tap_row * shape.kernel + first_tap + tap;
              places[(left * taps + tap) * 2 + right] = sums + ((flat * lefts + left) * 2 + right) * size;
            }
        Sums<lefts, taps>::load_all(places, fresh);
        for (const Packed* packed = blocks; packed < blocks + count; ++packed)
          for (long row = top; row < bottom; ++row) {
            const long source = row * shape.stride - shape.padding + tap_row;
            if (source < 0 || source >= shape.height[kIn]) continue;
            Sums<lefts, taps>::add_row(shape, packed->x + source % packed->slots * packed->x_row + task.right * kTile,
                                       packed->dy + (row - top) * packed->dy_row + task.left * kTile, *packed,
                                       first_tap);
          }
        Sums<lefts, taps>::store_all(places);
      }
  }
  void run_any(long number, const Packed* blocks, long count, long top, long bottom, bool fresh, float* sums) const {
    if (lefts == 1)
      run<1, kWide>(number, blocks, count, top, bottom, fresh, sums);
    else
      run<2, 1>(number, blocks, count, top, bottom, fresh, sums);
  }

  // The input rows that output rows read.
  Range sources(long top, long bottom) const {
    return {std::max(0L, top * shape.stride - shape.padding),
            std::clamp((bottom - 1) * shape.stride - shape.padding + shape.kernel, 0L, shape.height[kIn])};
  }

  // dweight: float [out][taps][in of a group], the sum of `parts` sums.
  void write(long number, const float* sums, long parts, float* dweight) const {
    const Task task = tasks[number];
    const long of_group = shape.channels[kIn] / shape.groups, outs = shape.channels[kOut] / shape.groups;
    for (long tap = 0; tap < shape.taps(); ++tap)
      for (long left = 0; left < lefts; ++left)
        for (long right = 0; right < 2; ++right) {
          const float* tile = sums + (((number * shape.taps() + tap) * lefts + left) * 2 + right) * kRows * kRows;
          for (long row = 0; row < kRows; ++row, tile += kRows) {
            const long out = (task.left + left) * kRows + row, in = (task.right + right) * kRows;
            if (out >= shape.channels[kOut]) break;
            const long group = out / outs;
            const __mmask16 mask = first16(std::clamp((group + 1) * of_group - in, 0L, kRows)) &
                                   ~first16(std::clamp(group * of_group - in, 0L, kRows));
            if (!mask) continue;
            __m512 sum = _mm512_load_ps(tile);
            for (long part = 1; part < parts; ++part) sum = _mm512_add_ps(sum, _mm512_load_ps(tile + part * sums_size()));
            _mm512_mask_storeu_ps(dweight + (out * shape.taps() + tap) * of_group + in - group * of_group, mask, sum);
          }
        }
  }
};

void weight_gradient(const Shape& shape, const bf16* x, const bf16* dy, float* dweight, float* dbias, int threads) {
  const WeightGradient work(shape, x, dy);
  const long height = shape.height[kOut], blocks = up(shape.images, kImages);
  const long tasks = static_cast<long>(work.tasks.size()), part_size = work.sums_size();
  const bool in_parts = part_size * static_cast<long>(sizeof(float)) <= kMaxPartBytes && blocks > 1;
  const long parts = in_parts ? std::min(kParts, blocks) : 1;

  const auto size = [&](long band) {  // of a block's packed rows
    const long slots = std::min(shape.height[kIn], (band - 1) * shape.stride + shape.kernel);
    return slots * work.x_row + band * work.dy_row;
  };
  const long budget = (in_parts ? kBandBytes : kSharedBandBytes) / static_cast<long>(sizeof(bf16));
  long band = 1;
  while (band < height && size(band + 1) <= budget) ++band;
  const long slots = std::min(shape.height[kIn], (band - 1) * shape.stride + shape.kernel);
  // Small images: several blocks at once, so that sums are fetched and stored less often.
  const long at_once = band < height ? 1 : std::clamp(budget / size(band), 1L, blocks);

  const auto sums = reserve<float>(parts * part_size);
  const long channels = work.lefts_all * kRows;
  const auto row_sums = reserve<float>(blocks * height * channels);
  const auto memory = reserve<bf16>((in_parts ? threads : 1) * at_once * size(band));
  const auto packed_at = [&](long place, long block) {
    bf16* const begin = memory.get() + (place * at_once + block) * size(band);
    return Packed{begin, begin + slots * work.x_row, work.x_row, work.dy_row,
                  work.rights_all * kTile, work.lefts_all * kTile, slots};
  };
  const auto pack_x = [&](const Packed& packed, long block, long row) {
    pack_right(work.x, block * kImages, row, work.rights_all, const_cast<bf16*>(packed.x) + row % slots * work.x_row);
  };
  const auto pack_dy = [&](const Packed& packed, long block, long row, long top) {
    pack_turned(work.dy, block * kImages, row, work.lefts_all, const_cast<bf16*>(packed.dy) + (row - top) * work.dy_row,
                row_sums.get() + (block * height + row) * channels);
  };
#pragma omp parallel num_threads(threads)
  {
    const TileConfig config;
    std::vector<Packed> packed;
    for (long block = 0; block < at_once; ++block)
      packed.push_back(packed_at(in_parts ? omp_get_thread_num() : 0, block));
    if (in_parts) {
#pragma omp for schedule(dynamic, 1)
      for (long part = 0; part < parts; ++part) {
        const long end = blocks * (part + 1) / parts;
        bool fresh = true;
        for (long first = blocks * part / parts; first < end; first += at_once) {
          const long count = std::min(at_once, end - first);
          long done = 0;
          for (long top = 0; top < height; top += band, fresh = false) {
            const long bottom = std::min(height, top + band);
            const Range range = work.sources(top, bottom);
            for (long block = 0; block < count; ++block) {
              for (long row = std::max(done, range.begin); row < range.end; ++row) pack_x(packed[block], first + block, row);
              for (long row = top; row < bottom; ++row) pack_dy(packed[block], first + block, row, top);
            }
            done = std::max(done, range.end);
            for (long task = 0; task < tasks; ++task)
              work.run_any(task, packed.data(), count, top, bottom, fresh, sums.get() + part * part_size);
          }
        }
      }
    } else {
      for (long first = 0; first < blocks; first += at_once) {
        const long count = std::min(at_once, blocks - first);
        long done = 0;
        for (long top = 0; top < height; top += band) {
          const long bottom = std::min(height, top + band);
          const Range range = work.sources(top, bottom);
          const long begin = std::max(done, range.begin), fresh_rows = std::max(0L, range.end - begin);
#pragma omp for schedule(dynamic, 1) nowait
          for (long item = 0; item < count * fresh_rows; ++item)
            pack_x(packed[item / fresh_rows], first + item / fresh_rows, begin + item % fresh_rows);
#pragma omp for schedule(dynamic, 1)
          for (long item = 0; item < count * (bottom - top); ++item)
            pack_dy(packed[item / (bottom - top)], first + item / (bottom - top), top + item % (bottom - top), top);
          done = std::max(done, range.end);
#pragma omp for schedule(dynamic, 1)
          for (long task = 0; task < tasks; ++task)
            work.run_any(task, packed.data(), count, top, bottom, first == 0 && top == 0, sums.get());
        }
      }
    }
#pragma omp for nowait
    for (long task = 0; task < tasks; ++task) work.write(task, sums.get(), parts, dweight);
#pragma omp for
    for (long channel = 0; channel < (dbias ? shape.channels[kOut] : 0); ++channel) {
      double sum = 0;
      for (long row = 0; row < blocks * height; ++row) sum += row_sums[row * channels + channel];
      dbias[channel] = static_cast<float>(sum);
    }
  }
}

// Runs `work` and returns whether memory ran out: a C++ exception may not reach the caller.
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

// Asks the system for the tiles, once a process; returns whether it refuses.
int amx_prepare() {
  constexpr long kRequest = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, kRequest, kTileData) != 0;
}

// `sizes`: images, then channels, height and width of input and of output, kernel, stride, padding, groups. The
// functions below return whether memory ran out.
static Shape shape_of(const long* sizes) {
  return {sizes[0], {sizes[1], sizes[4]}, {sizes[2], sizes[5]}, {sizes[3], sizes[6]}, sizes[7], sizes[8], sizes[9], sizes[10]};
}

int amx_output(const long* sizes, const void* x, const float* weights, const float* bias, void* y, int threads) {
  return out_of_memory([&] {
    convolve(shape_of(sizes), kIn, static_cast<const bf16*>(x), weights, bias, static_cast<bf16*>(y), threads);
  });
}

int amx_input_gradient(const long* sizes, const void* dy, const float* weights, void* dx, int threads) {
  return out_of_memory([&] {
    convolve(shape_of(sizes), kOut, static_cast<const bf16*>(dy), weights, nullptr, static_cast<bf16*>(dx), threads);
  });
}

// `dbias` may be null.
int amx_weight_gradient(const long* sizes, const void* x, const void* dy, float* dweight, float* dbias, int threads) {
  return out_of_memory([&] {
    weight_gradient(shape_of(sizes), static_cast<const bf16*>(x), static_cast<const bf16*>(dy), dweight, dbias, threads);
  });
}
}
