#include "resize.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "clock.h"
#include "processor.h"

#if defined(AVX2)
#include <immintrin.h>
#endif

namespace eighteen {
namespace {

constexpr int ROW_ONE = 1 << 15;  // weights of the vertical pass; 32767 has to do for a weight of 1
constexpr int COLUMN_ONE = 1 << 14;  // of the horizontal pass
constexpr int FRACTION = 7;  // bits below a unit between the passes: 255 << 7 still is an int16
constexpr int SHIFT = 14 + FRACTION;
constexpr int PADDING = 64;  // bytes after a row that may be read

// out[i] = sum of rows[k][i] * weights[k], in units of 1/128, each product rounded.
using BlendRows = void (*)(const uint8_t* const* rows, const int16_t* weights, int taps, int num, int16_t* out);
// A row of pixels of 4 int16 each -> `num` pixels of 3 bytes, or of 1 int16 each -> 1 byte.
using BlendColumns = void (*)(const int16_t* row, const Axis& axis, int left, int num, uint8_t* out);

void blend_rows_portable(const uint8_t* const* rows, const int16_t* weights, int taps, int num, int16_t* out) {
  for (int i = 0; i < num; ++i) out[i] = 0;
  for (int k = 0; k < taps; ++k) {
    const uint8_t* row = rows[k];
    const int weight = weights[k];
    for (int i = 0; i < num; ++i) {
      const int sum = out[i] + (((row[i] << FRACTION) * weight + (1 << 14)) >> 15);
      out[i] = static_cast<int16_t>(std::min(sum, 32767));
    }
  }
}

uint8_t rounded(int sum) { return static_cast<uint8_t>(std::clamp((sum + (1 << (SHIFT - 1))) >> SHIFT, 0, 255)); }

void blend_columns_portable(const int16_t* row, const Axis& axis, int left, int num, uint8_t* out) {
  const int16_t* weights = axis.weights.data();
  for (int x = 0; x < num; ++x, weights += axis.taps, out += 3) {
    const int16_t* pixel = row + 4 * (axis.starts[x] - left);
    int sums[4] = {0, 0, 0, 0};
    for (int k = 0; k < axis.taps; ++k, pixel += 4)
      for (int c = 0; c < 4; ++c) sums[c] += pixel[c] * weights[k];
    for (int c = 0; c < 3; ++c) out[c] = rounded(sums[c]);
  }
}

void blend_gray_columns(const int16_t* row, const Axis& axis, int left, int num, uint8_t* out) {
  const int16_t* weights = axis.weights.data();
  for (int x = 0; x < num; ++x, weights += axis.taps) {
    const int16_t* pixel = row + axis.starts[x] - left;
    int sum = 0;
    for (int k = 0; k < axis.taps; ++k) sum += pixel[k] * weights[k];
    out[x] = rounded(sum);
  }
}

#if defined(AVX2)
AVX2 void blend_rows_avx2(const uint8_t* const* rows, const int16_t* weights, int taps, int num, int16_t* out) {
  for (int i = 0; i < num; i += 32) {  // rows and `out` are padded
    __m256i low = _mm256_setzero_si256(), high = low;
    for (int k = 0; k < taps; ++k) {
      const __m128i* source = reinterpret_cast<const __m128i*>(rows[k] + i);
      const __m256i weight = _mm256_set1_epi16(weights[k]);
      const __m256i a = _mm256_slli_epi16(_mm256_cvtepu8_epi16(_mm_loadu_si128(source)), FRACTION);
      const __m256i b = _mm256_slli_epi16(_mm256_cvtepu8_epi16(_mm_loadu_si128(source + 1)), FRACTION);
      low = _mm256_adds_epi16(low, _mm256_mulhrs_epi16(a, weight));
      high = _mm256_adds_epi16(high, _mm256_mulhrs_epi16(b, weight));
    }
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + i), low);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + i + 16), high);
  }
}

// Four pixels at a time: two in each half, interleaved so that one multiply-add joins both.
AVX2 inline __m128i blend_pixel(const int16_t* pixel, const int16_t* weights, int taps) {
  const __m256i pairs = _mm256_setr_epi8(0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15,  //
                                         0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15);
  __m256i sums = _mm256_setzero_si256();
  for (int k = 0; k < taps; k += 4, pixel += 16) {
    int first, second;
    std::memcpy(&first, weights + k, 4);
    std::memcpy(&second, weights + k + 2, 4);
    const __m256i weight = _mm256_set_m128i(_mm_set1_epi32(second), _mm_set1_epi32(first));
    const __m256i four = _mm256_shuffle_epi8(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(pixel)), pairs);
    sums = _mm256_add_epi32(sums, _mm256_madd_epi16(four, weight));
  }
  const __m128i sum = _mm_add_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256(sums, 1));
  return _mm_srai_epi32(_mm_add_epi32(sum, _mm_set1_epi32(1 << (SHIFT - 1))), SHIFT);
}

AVX2 void blend_columns_avx2(const int16_t* row, const Axis& axis, int left, int num, uint8_t* out) {
  const __m128i rgb = _mm_setr_epi8(0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, -1, -1, -1, -1);
  const int* starts = axis.starts.data();
  const int16_t* weights = axis.weights.data();
  const int taps = axis.taps;
  const auto pixel = [&](int x) __attribute__((target("avx2,bmi2"), always_inline)) {
    return blend_pixel(row + 4 * (starts[x] - left), weights + x * taps, taps);
  };
  int x = 0;
  for (; x + 4 <= num; x += 4) {
    const __m128i words[2] = {_mm_packs_epi32(pixel(x), pixel(x + 1)), _mm_packs_epi32(pixel(x + 2), pixel(x + 3))};
    const __m128i bytes = _mm_shuffle_epi8(_mm_packus_epi16(words[0], words[1]), rgb);
    if (x + 6 <= num) {
      _mm_storeu_si128(reinterpret_cast<__m128i*>(out + 3 * x), bytes);  // 12 bytes, and 4 that are yet to come
    } else {
      alignas(16) uint8_t last[16];
      _mm_store_si128(reinterpret_cast<__m128i*>(last), bytes);
      std::memcpy(out + 3 * x, last, 12);
    }
  }
  for (; x < num; ++x) {
    const __m128i words = _mm_packs_epi32(pixel(x), _mm_setzero_si128());
    const int bytes = _mm_cvtsi128_si32(_mm_packus_epi16(words, words));
    std::memcpy(out + 3 * x, &bytes, 3);
  }
}
#endif

struct Kernels {
  BlendRows rows = blend_rows_portable;
  BlendColumns columns = blend_columns_portable;
};

Kernels kernels() {
#if defined(AVX2)
  if (has_avx2()) return {blend_rows_avx2, blend_columns_avx2};
#endif
  return {};
}

}  // namespace

void Axis::plan(double low, double length, int source, int target, int one, int multiple, bool mirror) {
  const double scale = length / target, width = std::max(scale, 1.0);  // of half a triangle
  const int most = static_cast<int>(std::ceil(width)) * 2 + 1;
  taps = (most + multiple - 1) / multiple * multiple;
  starts.assign(target, 0);
  weights.assign(static_cast<size_t>(target) * taps, 0);
  first = source, end = 0;
  int used = 1;
  std::vector<double> shares(most);
  for (int i = 0; i < target; ++i) {
    const double centre = low + (i + 0.5) * scale;
    const int begin = std::clamp(static_cast<int>(centre - width + 0.5), 0, source - 1);
    const int stop = std::clamp(static_cast<int>(centre + width + 0.5), begin + 1, std::min(source, begin + most));
    const int num = stop - begin;
    double total = 0;
    for (int k = 0; k < num; ++k) total += shares[k] = std::max(0.0, 1 - std::abs(begin + k - centre + 0.5) / width);
    if (total <= 0) total = shares[0] = 1;  // a sliver between two pixels
    const int place = mirror ? target - 1 - i : i;
    int16_t* mine = &weights[static_cast<size_t>(place) * taps];
    int left_over = one, largest = 0;
    for (int k = 0; k < num; ++k) {
      const int weight = static_cast<int>(std::lround(shares[k] / total * one));
      mine[k] = static_cast<int16_t>(std::min(weight, 32767));
      left_over -= mine[k];
      if (mine[k] > mine[largest]) largest = k;
    }
    mine[largest] = static_cast<int16_t>(std::min(mine[largest] + left_over, 32767));
    starts[place] = begin;
    first = std::min(first, begin), end = std::max(end, stop), used = std::max(used, num);
  }
  // fewer taps than feared: close the gaps
  const int needed = (used + multiple - 1) / multiple * multiple;
  for (int i = 1; needed < taps && i < target; ++i)
    std::copy_n(&weights[static_cast<size_t>(i) * taps], needed, &weights[static_cast<size_t>(i) * needed]);
  taps = needed;
}

void Resizer::plan(Box box, int source_width, int source_height, int width, int height, int source_bytes, bool mirror) {
  width_ = width, height_ = height, bytes_ = source_bytes;
  columns_.plan(box.left, box.width, source_width, width, COLUMN_ONE, source_bytes == 4 ? 4 : 1, mirror);
  rows_.plan(box.top, box.height, source_height, height, ROW_ONE, 1, false);
}

bool Resizer::run(Rows& source, int row_pixels, uint8_t* pixels, uint64_t& source_ns) {
  const auto [blend_rows, blend_columns] = kernels();
  const int taps = rows_.taps, from = columns_.first - source.left(), num = (columns_.end - columns_.first) * bytes_;
  const size_t stride = static_cast<size_t>(row_pixels) * bytes_ + PADDING;
  if (ring_.size() < stride * taps) ring_.resize(stride * taps);
  const size_t blended = static_cast<size_t>(num) + columns_.taps * bytes_ + PADDING;
  if (blended_.size() < blended) blended_.resize(blended);
  window_.resize(taps);
  const int channels = bytes_ == 4 ? 3 : 1;
  int next = rows_.first;  // source row
  for (int y = 0; y < height_; ++y, pixels += static_cast<size_t>(width_) * channels) {
    const int begin = rows_.starts[y], stop = std::min(begin + taps, rows_.end);
    const uint64_t began = now_ns();
    for (; next < stop; ++next)
      if (!source.read(&ring_[stride * (next % taps)])) return false;
    source_ns += now_ns() - began;
    for (int k = 0; k < stop - begin; ++k) window_[k] = &ring_[stride * ((begin + k) % taps)] + from * bytes_;
    blend_rows(window_.data(), &rows_.weights[static_cast<size_t>(y) * taps], stop - begin, num, blended_.data());
    (bytes_ == 4 ? blend_columns : blend_gray_columns)(blended_.data(), columns_, columns_.first, width_, pixels);
  }
  return true;
}

}  // namespace eighteen
