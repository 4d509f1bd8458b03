// 3x3 convolution with stride 1 and padding 1 of channels-last fp32 images, forward and backward, by Winograd's minimal
// filtering F(4x4, 3x3): 36 multiplications for 16 outputs, where the sum itself takes 144 (Lavin and Gray 2015, arXiv
// 1509.09308, section 4). With x a 6x6 patch of the input, g a filter and y a 4x4 tile of the output,
//
//   y  = At [ sum over input channels of (G g Gt) * (Bt x B) ] A        * multiplies point by point, t transposes
//   dg = Gt [ sum over tiles of (A dy At) * (Bt x B) ] G                the chain rule on the same formula
//   dx = the same convolution of dy, the filters turned by 180 degrees and the channels exchanged
//
// In the code u = G g Gt, v = Bt x B, m = what At and A enclose. At each of their 36 points there is a matrix product.
// v and m lie as [36 points][chunks of kLanes channels][tiles][kLanes]: matrix products read at constant distances and
// every store fills a vector. A block of tiles goes through all stages while it is in the cache.
//
// Sums run in an order that does not depend on the number of threads. Nothing here includes torch (see build.py).

#include <immintrin.h>
#include <omp.h>

#include <algorithm>
#include <cstdlib>
#include <memory>

#if !defined(__AVX2__) || !defined(__FMA__)
#error "the Winograd kernel needs a processor with AVX2 and FMA"
#endif

namespace {

#if defined(__AVX512F__)
constexpr int kLanes = 16, kSums = 24;  // kSums vectors of a matrix product stay in registers, of which there are 32
#else
constexpr int kLanes = 8, kSums = 12;  // of 16
#endif
constexpr int kMaxWidth = 3;
constexpr int kGradientRows = kSums / kMaxWidth;  // divides kLanes
constexpr long kPoints = 36;

// Tiles in a block, measured with 1.25 MB of L2: small blocks stay there, but where the filters do not, each block
// fetches them anew. The weight gradient of a few channels is summed in parts, each by one thread on its own; of many,
// by all threads together, since every part would need sums as large as u.
constexpr long kBlock = 24, kBlockOfManyFilters = 96, kSharedBlock = 128;
constexpr long kManyFiltersBytes = 3 << 20;
constexpr long kParts = 8, kMaxPartBytes = 640 << 10;

typedef float vec __attribute__((vector_size(4 * kLanes)));

inline vec load(const float* p) {
#if defined(__AVX512F__)
  return reinterpret_cast<vec>(_mm512_loadu_ps(p));
#else
  return reinterpret_cast<vec>(_mm256_loadu_ps(p));
#endif
}

inline void store(float* p, vec value) {
#if defined(__AVX512F__)
  _mm512_storeu_ps(p, reinterpret_cast<__m512>(value));
#else
  _mm256_storeu_ps(p, reinterpret_cast<__m256>(value));
#endif
}

// The first `count` lanes; the others are 0, and neither read nor written.
#if defined(__AVX512F__)
inline vec load(const float* p, long count) {
  return reinterpret_cast<vec>(_mm512_maskz_loadu_ps((1u << count) - 1, p));
}

inline void store(float* p, vec value, long count) {
  _mm512_mask_storeu_ps(p, (1u << count) - 1, reinterpret_cast<__m512>(value));
}
#else
inline __m256i first_lanes(long count) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(count)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

inline vec load(const float* p, long count) { return reinterpret_cast<vec>(_mm256_maskload_ps(p, first_lanes(count))); }

inline void store(float* p, vec value, long count) {
  _mm256_maskstore_ps(p, first_lanes(count), reinterpret_cast<__m256>(value));
}
#endif

// The one-dimensional transforms, with the points 0, 1, -1, 2, -2 and infinity.

inline void input_line(const vec* x, vec* v) {  // Bt
  const vec even_1 = x[4] - 4.0f * x[2], odd_1 = x[3] - 4.0f * x[1];
  const vec even_2 = x[4] - x[2], odd_2 = 2.0f * (x[3] - x[1]);
  v[0] = 4.0f * x[0] + (x[4] - 5.0f * x[2]);
  v[1] = even_1 + odd_1;
  v[2] = even_1 - odd_1;
  v[3] = even_2 + odd_2;
  v[4] = even_2 - odd_2;
  v[5] = 4.0f * x[1] + (x[5] - 5.0f * x[3]);
}

inline void filter_line(const vec* g, vec* u) {  // G
  const vec even_1 = (g[0] + g[2]) * (-1.0f / 6), odd_1 = g[1] * (-1.0f / 6);
  const vec even_2 = g[0] * (1.0f / 24) + g[2] * (1.0f / 6), odd_2 = g[1] * (1.0f / 12);
  u[0] = g[0] * 0.25f;
  u[1] = even_1 + odd_1;
  u[2] = even_1 - odd_1;
  u[3] = even_2 + odd_2;
  u[4] = even_2 - odd_2;
  u[5] = g[2];
}

inline void filter_gradient_line(const vec* u, vec* g) {  // Gt
  const vec even_1 = u[1] + u[2], odd_1 = u[2] - u[1], even_2 = u[3] + u[4], odd_2 = u[3] - u[4];
  g[0] = u[0] * 0.25f - even_1 * (1.0f / 6) + even_2 * (1.0f / 24);
  g[1] = odd_1 * (1.0f / 6) + odd_2 * (1.0f / 12);
  g[2] = (even_2 - even_1) * (1.0f / 6) + u[5];
}

inline void output_line(const vec* m, vec* y) {  // At
  const vec even_1 = m[1] + m[2], odd_1 = m[1] - m[2], even_2 = m[3] + m[4], odd_2 = m[3] - m[4];
  y[0] = m[0] + even_1 + even_2;
  y[1] = odd_1 + 2.0f * odd_2;
  y[2] = even_1 + 4.0f * even_2;
  y[3] = odd_1 + (8.0f * odd_2 + m[5]);
}

inline void output_gradient_line(const vec* y, vec* m) {  // A
  const vec even_1 = y[0] + y[2], odd_1 = y[1] + y[3];
  const vec even_2 = y[0] + 4.0f * y[2], odd_2 = 2.0f * (y[1] + 4.0f * y[3]);
  m[0] = y[0];
  m[1] = even_1 + odd_1;
  m[2] = even_1 - odd_1;
  m[3] = even_2 + odd_2;
  m[4] = even_2 - odd_2;
  m[5] = y[3];
}

// `line` over the columns and then the rows of a square: from x from values become to x to.
template <int from, int to, void (*line)(const vec*, vec*), class Read, class Write>
inline void transform(Read read, Write write) {
  vec half[to][from];
#pragma GCC unroll 6
  for (int j = 0; j < from; ++j) {
    vec column[from], changed[to];
#pragma GCC unroll 6
    for (int i = 0; i < from; ++i) column[i] = read(from * i + j);
    line(column, changed);
#pragma GCC unroll 6
    for (int i = 0; i < to; ++i) half[i][j] = changed[i];
  }
#pragma GCC unroll 6
  for (int i = 0; i < to; ++i) {
    vec changed[to];
    line(half[i], changed);
#pragma GCC unroll 6
    for (int j = 0; j < to; ++j) write(to * i + j, changed[j]);
  }
}

// Memory that a thread keeps for its next call: fresh pages for every convolution would cost as much as a transform.
class Workspace {
 public:
  // Whether there is memory for `count` numbers.
  bool reserve(long count) {
    if (count > size_) {
      size_ = 0;
      memory_.reset(static_cast<float*>(std::aligned_alloc(64, (count + 15) / 16 * 64)));
      if (memory_) size_ = count;
    }
    return count <= size_;
  }

  float* get(long count) {
    if (!reserve(count)) std::abort();  // not after `reserve_all`
    return memory_.get();
  }

 private:
  struct Free {
    void operator()(float* p) const { std::free(p); }
  };
  std::unique_ptr<float[], Free> memory_;
  long size_ = 0;
};

thread_local Workspace team_space, own_space;

// Whether there is memory for the team's workspace and each thread's own. Asked before a team works: nothing that is
// thrown or returned in the middle of its work could leave it.
bool reserve_all(long team, long own, int threads) {
  bool enough = team_space.reserve(team);
#pragma omp parallel num_threads(threads) reduction(&& : enough)
  enough = own_space.reserve(own);
  return enough;
}

// Images as tiles of 4x4 pixels; those at the right and lower edges may be partly outside.
struct Images {
  long height, width, across, down, tiles;

  Images(long count, long height, long width)
      : height(height), width(width), across((width + 3) / 4), down((height + 3) / 4), tiles(count * across * down) {}

  // Where the pixels of a tile and `border` more around it lie in data: [images, height, width, channels].
  template <int border, class T>
  void locate(long tile, T* data, long channels, T* outside, T** pixels) const {
    constexpr int side = 4 + 2 * border;
    const long image = tile / (across * down), top = tile / across % down * 4 - border, left = tile % across * 4 - border;
    for (int i = 0; i < side; ++i) {
      for (int j = 0; j < side; ++j) {
        const long row = top + i, column = left + j;
        const bool inside = row >= 0 && row < height && column >= 0 && column < width;
        pixels[side * i + j] = inside ? data + ((image * height + row) * width + column) * channels : outside;
      }
    }
  }
};

// How transformed tiles lie. An odd number of cache lines between points keeps them in different sets of the cache, and
// kSums more tiles than asked for take what a matrix product writes beyond the last.
struct Layout {
  long channels, chunks, chunk_stride, point_stride, size;

  Layout(long channels, long tiles)
      : channels(channels), chunks((channels + kLanes - 1) / kLanes), chunk_stride((tiles + kSums) * kLanes) {
    point_stride = ((chunks * chunk_stride + 15) / 16 | 1) * 16;
    size = kPoints * point_stride;
  }
  long lanes(long chunk) const { return std::min<long>(kLanes, channels - chunk * kLanes); }
};

// A matrix product takes panels of 3 or 2 chunks; 1 only where there is but one.
template <class Visit>
inline void for_each_panel(long chunks, Visit visit) {
  for (long chunk = 0, width; chunk < chunks; chunk += width) {
    const long left = chunks - chunk;
    width = left == 4 ? 2 : std::min<long>(left, kMaxWidth);
    visit(chunk, width);
  }
}

// One tile of the input (Bt x B), or of the output's gradient (A dy At).
template <bool is_gradient>
void transform_tile(const Images& images, const Layout& layout, const float* data, const float* zeros, long tile,
                    float* to) {
  constexpr int border = is_gradient ? 0 : 1, side = 4 + 2 * border;
  const float* pixels[side * side];
  images.locate<border>(tile, data, layout.channels, zeros, pixels);
  for (long chunk = 0; chunk < layout.chunks; ++chunk, to += layout.chunk_stride) {
    const long at = chunk * kLanes, lanes = layout.lanes(chunk);
    const auto write = [&](int point, vec value) { store(to + point * layout.point_stride, value); };
    const auto transform_from = [&](auto read) {
      if constexpr (is_gradient)
        transform<4, 6, output_gradient_line>(read, write);
      else
        transform<6, 6, input_line>(read, write);
    };
    if (lanes == kLanes)
      transform_from([&](int i) { return load(pixels[i] + at); });
    else
      transform_from([&](int i) { return load(pixels[i] + at, lanes); });
  }
}

// One tile of the output, At m A + bias; pixels outside the image go to `outside`.
void write_tile(const Images& images, const Layout& layout, const float* m, const float* bias, float* outside, long tile,
                float* y) {
  float* pixels[16];
  images.locate<0>(tile, y, layout.channels, outside, pixels);
  for (long chunk = 0; chunk < layout.chunks; ++chunk, m += layout.chunk_stride) {
    const long at = chunk * kLanes, lanes = layout.lanes(chunk);
    const vec added = bias ? load(bias + at, lanes) : vec{};
    const auto read = [&](int point) { return load(m + point * layout.point_stride); };
    if (lanes == kLanes)
      transform<6, 4, output_line>(read, [&](int i, vec value) { store(pixels[i] + at, value + added); });
    else
      transform<6, 4, output_line>(read, [&](int i, vec value) { store(pixels[i] + at, value + added, lanes); });
  }
}

// u: [panels of outputs][chunks of inputs][36 points][kLanes inputs][width * kLanes outputs]
inline long filters_offset(const Layout& in, long out_chunk, long in_chunk, long point, long width) {
  return ((out_chunk * in.chunks + in_chunk * width) * kPoints + point * width) * kLanes * kLanes;
}

// G g Gt of a panel's filters for one chunk of inputs. weight: [out, 3, 3, in], or where `turned` [in, 3, 3, out] of
// which each filter is to be turned.
void transform_filters(const float* weight, bool turned, const Layout& in, const Layout& out, long in_chunk,
                       long out_chunk, long width, float* u) {
  float* const to = u + filters_offset(in, out_chunk, in_chunk, 0, width);
  const long inputs = in.lanes(in_chunk);
  for (long j = 0; j < width; ++j) {
    alignas(64) float taps[9][kLanes][kLanes] = {};  // [tap][input][output]
    const long in_at = in_chunk * kLanes, out_at = (out_chunk + j) * kLanes, outputs = out.lanes(out_chunk + j);
    if (turned) {
      for (long i = 0; i < inputs; ++i)
        for (int tap = 0; tap < 9; ++tap)
          store(taps[8 - tap][i], load(weight + ((in_at + i) * 9 + tap) * out.channels + out_at, outputs));
    } else {
      for (long o = 0; o < outputs; ++o)
        for (int tap = 0; tap < 9; ++tap)
          for (long i = 0; i < inputs; ++i) taps[tap][i][o] = weight[((out_at + o) * 9 + tap) * in.channels + in_at + i];
    }
    for (long i = 0; i < inputs; ++i)
      transform<3, 6, filter_line>(
          [&](int tap) { return load(taps[tap][i]); },
          [&](int point, vec value) { store(to + ((point * kLanes + i) * width + j) * kLanes, value); });
  }
}

// m[tile][out] = sum over inputs of v[tile][in] u[in][out] at one point, for `rows` tiles and `width` chunks of outputs.
template <int rows, int width>
inline void multiply(const float* __restrict v, const Layout& in, const float* __restrict u, float* __restrict m,
                     long m_stride) {
  vec sums[rows][width] = {};
  for (long chunk = 0; chunk < in.chunks; ++chunk) {
    const float* values = v + chunk * in.chunk_stride;
    const float* filters = u + filters_offset(in, 0, chunk, 0, width);
    const long lanes = in.lanes(chunk);
    for (long lane = 0; lane < lanes; ++lane, ++values, filters += width * kLanes) {
      vec outputs[width];
#pragma GCC unroll 3
      for (int j = 0; j < width; ++j) outputs[j] = load(filters + j * kLanes);
#pragma GCC unroll 12
      for (int i = 0; i < rows; ++i) {
        const float value = values[i * kLanes];
#pragma GCC unroll 3
        for (int j = 0; j < width; ++j) sums[i][j] += value * outputs[j];
      }
    }
  }
#pragma GCC unroll 12
  for (int i = 0; i < rows; ++i)
#pragma GCC unroll 3
    for (int j = 0; j < width; ++j) store(m + j * m_stride + i * kLanes, sums[i][j]);
}

template <int width>
void multiply_tiles(const float* v, const Layout& in, const float* u, float* m, long m_stride, long tiles) {
  constexpr int rows = kSums / std::max(width, 2);
  for (long tile = 0; tile < tiles; tile += rows)
    multiply<rows, width>(v + tile * kLanes, in, u, m + tile * kLanes, m_stride);
}

// du[out][in] += sum over tiles of dm[tile][out] v[tile][in] at one point, for kGradientRows outputs and `width` chunks
// of inputs.
template <int width>
void add_products(const float* __restrict dm, const float* __restrict v, long v_stride, long tiles, float* __restrict du,
                  long du_stride) {
  vec sums[kGradientRows][width];
#pragma GCC unroll 8
  for (int i = 0; i < kGradientRows; ++i)
#pragma GCC unroll 3
    for (int j = 0; j < width; ++j) sums[i][j] = load(du + i * du_stride + j * kLanes);
  for (long tile = 0; tile < tiles; ++tile, dm += kLanes, v += kLanes) {
    vec inputs[width];
#pragma GCC unroll 3
    for (int j = 0; j < width; ++j) inputs[j] = load(v + j * v_stride);
#pragma GCC unroll 8
    for (int i = 0; i < kGradientRows; ++i) {
      const float gradient = dm[i];
#pragma GCC unroll 3
      for (int j = 0; j < width; ++j) sums[i][j] += gradient * inputs[j];
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < kGradientRows; ++i)
#pragma GCC unroll 3
    for (int j = 0; j < width; ++j) store(du + i * du_stride + j * kLanes, sums[i][j]);
}

}  // namespace

extern "C" {

// Both functions return whether memory ran out; they have written nothing then.

// x: [images, height, width, in], y: [images, height, width, out], bias: [out] or null. weight: [out, 3, 3, in], or
// where `turned` [in, 3, 3, out]: the gradient of a layer's input is the turned convolution of its output's.
int winograd_convolve(const float* x, const float* weight, const float* bias, float* y, long count, long height,
                      long width, long in_channels, long out_channels, int turned, int threads) {
  const Images images(count, height, width);
  const bool many_filters = kPoints * in_channels * out_channels * 4 > kManyFiltersBytes;
  const long team_block = (many_filters ? kBlockOfManyFilters : kBlock) * threads;
  const long blocks = (images.tiles + team_block - 1) / team_block * threads;  // as many for every thread
  const long block = (images.tiles + blocks - 1) / blocks;
  const Layout in(in_channels, block), out(out_channels, block);
  const long filters = filters_offset(in, out.chunks, 0, 0, 1);
  const long own = in.size + out.size + in_channels + out_channels;
  if (!reserve_all(filters, own, threads)) return 1;
  float* const u = team_space.get(filters);
#pragma omp parallel num_threads(threads)
  {
    float* const v = own_space.get(own);
    float* const m = v + in.size;
    float* const zeros = m + out.size;
    float* const outside = zeros + in_channels;
    std::fill_n(zeros, in_channels, 0.0f);
#pragma omp for
    for (long in_chunk = 0; in_chunk < in.chunks; ++in_chunk)
      for_each_panel(out.chunks, [&](long out_chunk, long panel_width) {
        transform_filters(weight, turned, in, out, in_chunk, out_chunk, panel_width, u);
      });
#pragma omp for schedule(dynamic, 1)
    for (long first = 0; first < images.tiles; first += block) {
      const long tiles = std::min(block, images.tiles - first);
      for (long tile = 0; tile < tiles; ++tile)
        transform_tile<false>(images, in, x, zeros, first + tile, v + tile * kLanes);
      for (long point = 0; point < kPoints; ++point)
        for_each_panel(out.chunks, [&](long out_chunk, long panel_width) {
          const auto multiply_panel = panel_width == 3   ? multiply_tiles<3>
                                      : panel_width == 2 ? multiply_tiles<2>
                                                         : multiply_tiles<1>;
          multiply_panel(v + point * in.point_stride, in, u + filters_offset(in, out_chunk, 0, point, panel_width),
                         m + point * out.point_stride + out_chunk * out.chunk_stride, out.chunk_stride, tiles);
        });
      for (long tile = 0; tile < tiles; ++tile)
        write_tile(images, out, m + tile * kLanes, bias, outside, first + tile, y);
    }
  }
  return 0;
}

// dweight: [out, 3, 3, in] from x: [images, height, width, in] and dy: [images, height, width, out].
int winograd_weight_gradient(const float* x, const float* dy, float* dweight, long count, long height, long width,
                             long in_channels, long out_channels, int threads) {
  const Images images(count, height, width);
  const long du_stride = (in_channels + kLanes - 1) / kLanes * kLanes;
  const long point_size = (out_channels + kLanes - 1) / kLanes * kLanes * du_stride, part_size = kPoints * point_size;
  const bool in_parts = part_size * 4 <= kMaxPartBytes;
  const long parts = in_parts ? kParts : 1;
  const long tiles_per_part = (images.tiles + parts - 1) / parts;
  const long block = std::min(tiles_per_part, in_parts ? kBlock : kSharedBlock);
  const Layout in(in_channels, block), out(out_channels, block);
  const long widest = (std::max(in_channels, out_channels) + 15) / 16 * 16;
  const long shared = parts * part_size + in.size + out.size;
  const long own = widest + (in_parts ? in.size + out.size : 0);
  if (!reserve_all(shared, own, threads)) return 1;
  float* const du = team_space.get(shared);
#pragma omp parallel num_threads(threads)
  {
    float* const zeros = own_space.get(own);
    std::fill_n(zeros, widest, 0.0f);
    float* const v = in_parts ? zeros + widest : du + part_size;
    float* const dm = v + in.size;
    const auto transform_both = [&](long tile, long place) {
      transform_tile<false>(images, in, x, zeros, tile, v + place * kLanes);
      transform_tile<true>(images, out, dy, zeros, tile, dm + place * kLanes);
    };
    const auto add_point = [&](long point, long tiles, float* sums) {
      for_each_panel(in.chunks, [&](long in_chunk, long panel_width) {
        const auto add_panel = panel_width == 3 ? add_products<3> : panel_width == 2 ? add_products<2> : add_products<1>;
        const float* const inputs = v + point * in.point_stride + in_chunk * in.chunk_stride;
        for (long k = 0; k < out_channels; k += kGradientRows)
          add_panel(dm + point * out.point_stride + k / kLanes * out.chunk_stride + k % kLanes, inputs, in.chunk_stride,
                    tiles, sums + point * point_size + k * du_stride + in_chunk * kLanes, du_stride);
      });
    };
    if (in_parts) {
#pragma omp for schedule(dynamic, 1)
      for (long part = 0; part < parts; ++part) {
        float* const sums = du + part * part_size;
        std::fill_n(sums, part_size, 0.0f);
        const long end = std::min(images.tiles, (part + 1) * tiles_per_part);
        for (long first = part * tiles_per_part; first < end; first += block) {
          const long tiles = std::min(block, end - first);
          for (long tile = 0; tile < tiles; ++tile) transform_both(first + tile, tile);
          for (long point = 0; point < kPoints; ++point) add_point(point, tiles, sums);
        }
      }
    } else {
#pragma omp for
      for (long point = 0; point < kPoints; ++point) std::fill_n(du + point * point_size, point_size, 0.0f);
      for (long first = 0; first < images.tiles; first += block) {
        const long tiles = std::min(block, images.tiles - first);
#pragma omp for
        for (long tile = 0; tile < tiles; ++tile) transform_both(first + tile, tile);
#pragma omp for
        for (long point = 0; point < kPoints; ++point) add_point(point, tiles, du);
      }
    }
#pragma omp for
    for (long k = 0; k < out_channels; ++k) {
      for (long chunk = 0; chunk < in.chunks; ++chunk) {
        const float* const from = du + k * du_stride + chunk * kLanes;
        float* const to = dweight + k * 9 * in_channels + chunk * kLanes;
        transform<6, 3, filter_gradient_line>(
            [&](int point) {
              vec sum = load(from + point * point_size);
              for (long part = 1; part < parts; ++part) sum += load(from + part * part_size + point * point_size);
              return sum;
            },
            [&](int tap, vec value) { store(to + tap * in_channels, value, in.lanes(chunk)); });
      }
    }
  }
  return 0;
}
}
